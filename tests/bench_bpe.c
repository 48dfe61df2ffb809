// bench_bpe.c - times bpe.h; tests/bench.py runs it beside tiktoken and Hugging Face's tokenizers.
// Compile: cc -O3 tests/bench_bpe.c -o build/bench_bpe -lm
//
//     build/bench_bpe train TEXT [vocabulary] [runs]           last line "VALUE s"
//     build/bench_bpe encode TEXT cl100k_base.tiktoken [runs]  last line "VALUE MB/s" (of 10^6 bytes)
//     build/bench_bpe TEXT cl100k_base.tiktoken                both, as lines of "name value unit"
//
// Values are medians; one thread. Files are read before the clock starts, as the peers' scripts do.
#include <time.h>           // before all else: clock_gettime
#define BPE_DIE_ON_ERROR
#define BPE_IMPLEMENTATION
#include "../bpe.h"

static double seconds(void) {
#ifdef CLOCK_MONOTONIC
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
#else
    return (double)clock() / CLOCKS_PER_SEC;
#endif
}

static char *read_all(const char *path, size_t *size) {
    FILE *f = fopen(path, "rb");
    if (!f) fprintf(stderr, "bench_bpe: cannot open %s\n", path), exit(1);
    fseek(f, 0, SEEK_END);
    *size = (size_t)ftell(f);
    rewind(f);
    char *p = (char *)malloc(*size + 1);
    if (!p || fread(p, 1, *size, f) != *size) fprintf(stderr, "bench_bpe: cannot read %s\n", path), exit(1);
    fclose(f);
    return p;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v, int n) {
    qsort(v, (size_t)n, sizeof *v, ascending);
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

// Seconds of one training run, the median. GPT-2's split, as the peer.
static double train(const char *text, size_t n, int vocabulary, int runs) {
    double took[1000];
    for (int i = 0; i < runs; i++) {
        bpe *t = bpe_new();
        double begin = seconds();
        bpe_train(t, text, n, vocabulary, BPE_SPLIT_GPT2);
        took[i] = seconds() - begin;
        if (!i) fprintf(stderr, "vocabulary %d, %d runs\n", bpe_vocab_size(t), runs);
        bpe_free(t);
    }
    return median(took, runs);
}

static double encode(const char *text, size_t n, const char *ranks, int runs) {
    double took[1000];
    int *ids = (int *)malloc(n * sizeof *ids);
    bpe *t = bpe_new();
    bpe_load_tiktoken(t, ranks, "cl100k_base");
    for (int i = 0; i < runs && ids; i++) {
        double begin = seconds();
        long count = bpe_encode(t, text, n, ids, n);
        took[i] = seconds() - begin;
        if (!i) fprintf(stderr, "%ld tokens, %d runs\n", count, runs);
    }
    bpe_free(t);
    free(ids);
    return median(took, runs);
}

int main(int argc, char **argv) {
    size_t n;
    int training = argc > 2 && !strcmp(argv[1], "train"), encoding = argc > 3 && !strcmp(argv[1], "encode");
    if (argc < 3) {
        fprintf(stderr, "usage: bench_bpe train TEXT [vocabulary] [runs] | encode TEXT RANKS [runs] | TEXT RANKS\n");
        return 2;
    }
    char *text = read_all(argv[training || encoding ? 2 : 1], &n);
    int runs = argc > 4 ? atoi(argv[4]) : 5;
    if (runs < 1 || runs > 1000) runs = 5;
    if (training) printf("%.5f s\n", train(text, n, argc > 3 ? atoi(argv[3]) : 1024, runs));
    else if (encoding) printf("%.2f MB/s\n", (double)n / encode(text, n, argv[3], runs) / 1e6);
    else {
        printf("bpe_train_1024 %.5f s\n", train(text, n, 1024, 5));
        printf("bpe_encode_cl100k %.5f s\n", encode(text, n, argv[2], 5));
    }
    free(text);
    return 0;
}
