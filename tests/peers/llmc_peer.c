// llmc_peer.c - times llm.c's CPU trainer on our presets. It holds none of llm.c's code: train_gpt2.c of a checkout is
// included with TESTING defined, which leaves its main out, exactly as llm.c's own test_gpt2.c does.
//
//     gcc -Ofast -march=native -fopenmp -DOMP -DTESTING -I CHECKOUT tests/peers/llmc_peer.c -o llmc_peer -lm
//     OMP_NUM_THREADS=2 ./llmc_peer nano|baby|gpt2 SCRATCH.bin [B T]
//
// The last line is "VALUE tokens/s", the median step: forward, zero the gradients, backward, AdamW.
#include "train_gpt2.c"

static uint32_t seed = 1337;

static uint32_t rnd(void) {
    seed = seed * 1664525u + 1013904223u;
    return seed >> 8;
}

// llm.c builds a model from a checkpoint file only, so one with small random weights is written for it (256 int32 of
// header, then the tensors). The vocabulary is not padded to 128 here: llm.c runs faster so, and we want its best.
static void write_checkpoint(const char *path, int T, int V, int L, int NH, int C) {
    int header[256] = { 20240326, 3, T, V, L, NH, C, V };
    GPT2Config config = { T, V, V, L, NH, C };
    size_t sizes[NUM_PARAMETER_TENSORS], total = 0;
    fill_in_parameter_sizes(sizes, config);
    for (int i = 0; i < NUM_PARAMETER_TENSORS; i++) total += sizes[i];
    float *w = (float *)malloc(total * sizeof *w);
    FILE *f = fopen(path, "wb");
    if (!w || !f) { fprintf(stderr, "llmc_peer: cannot write %s\n", path); exit(1); }
    for (size_t i = 0; i < total; i++) w[i] = ((float)rnd() / (1 << 24) - 0.5f) * 0.07f;
    // The gains of the three layer norms (tensors 2, 8 and 14) start at one, as in training.
    size_t at = 0;
    for (int i = 0; i < NUM_PARAMETER_TENSORS; at += sizes[i++])
        if (i == 2 || i == 8 || i == 14)
            for (size_t j = 0; j < sizes[i]; j++) w[at + j] = 1.0f;
    if (fwrite(header, sizeof header, 1, f) != 1 || fwrite(w, sizeof *w, total, f) != total || fclose(f)) {
        fprintf(stderr, "llmc_peer: cannot write %s\n", path);
        exit(1);
    }
    free(w);
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int main(int argc, char **argv) {
    // batch, context, vocabulary, layers, heads, channels
    static const struct { const char *name; int B, T, V, L, NH, C; } presets[] = {
        { "nano", 12, 64, 65, 4, 4, 128 }, { "baby", 8, 256, 65, 6, 6, 384 }, { "gpt2", 1, 1024, 50257, 12, 12, 768 },
    };
    int which = 0;
    while (which < 3 && argc > 2 && strcmp(argv[1], presets[which].name)) which++;
    if (argc < 3 || which == 3) {
        fprintf(stderr, "usage: llmc_peer nano|baby|gpt2 SCRATCH.bin [B T]\n");
        return 2;
    }
    const double limit = 10;
    const int V = presets[which].V;
    int B = argc > 4 ? atoi(argv[3]) : presets[which].B, T = argc > 4 ? atoi(argv[4]) : presets[which].T;
    write_checkpoint(argv[2], presets[which].T, V, presets[which].L, presets[which].NH, presets[which].C);
    GPT2 model;
    gpt2_build_from_checkpoint(&model, argv[2]);
    int *x = (int *)malloc(2 * (size_t)(B * T) * sizeof *x), *y = x + B * T;
    double times[1000], start = now();
    int n = 0;
    for (int step = 1; n < 1000 && (n < 3 || now() - start < limit); step++) {
        for (int i = 0; i < B * T; i++) x[i] = (int)(rnd() % (unsigned)V), y[i] = (int)(rnd() % (unsigned)V);
        double t0 = now();
        gpt2_forward(&model, x, y, (size_t)B, (size_t)T);
        gpt2_zero_grad(&model);
        gpt2_backward(&model);
        gpt2_update(&model, 1e-3f, 0.9f, 0.95f, 1e-8f, 0.1f, step);
        if (step > 2) times[n++] = now() - t0;      // the first two pay for page faults
    }
    qsort(times, (size_t)n, sizeof *times, ascending);
    printf("%d steps, loss %.4f\n%.1f tokens/s\n", n, model.mean_loss, B * T / times[n / 2]);
    free(x);
    gpt2_free(&model);
    return 0;
}
