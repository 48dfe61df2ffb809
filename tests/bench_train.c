// bench_train.c - how many tokens a second does training take in? One step is a batch from memory, forward, backward
// and AdamW, as in the peers that tests/bench.py runs beside it; no evaluation and no clipping: llm.c has neither.
//
//     cc -O3 tests/bench_train.c -o build/bench_train -lm
//     build/bench_train preset=nano threads=2 [batch=12] [context=64] [seconds=10] [bf16=1] [muon=1] [clip=1]
//                       [recompute=1] [parts=8: the batch is computed in so many parts, whose gradients add up]
//     build/bench_train preset=nano mallocs=1
//     build/bench_train preset=nano bits=1
//
// The last line is "VALUE tokens/s", from the median step; with mallocs=1 it is "VALUE calls": the most calls of malloc
// that any step after the second made. bits=1 takes three steps with 1, 2, 3 and 5 threads each and prints how many
// parameters differ in any bit.
#define _POSIX_C_SOURCE 200112L
#include <stdlib.h>

// Every allocation of both headers is counted. Only the main thread allocates, so a plain counter is enough.
static long calls;

static void *counted(size_t bytes) {
    calls++;
    return malloc(bytes);
}

#define AG_MALLOC(bytes) counted(bytes)
#define AG_FREE(pointer) free(pointer)
#define AG_DIE_ON_ERROR
#define AUTOGRAD_IMPLEMENTATION
#define GPT_IMPLEMENTATION
#include "../autograd.h"
#include "../gpt.h"
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { TOKENS = 100000, WARM = 3, MOST = 10000 };
static int tokens[TOKENS];
static double times[MOST];

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// The number behind "key=" on the command line, or what is given here.
static double option(int argc, char **argv, const char *key, double otherwise) {
    const size_t n = strlen(key);
    for (int i = 1; i < argc; i++)
        if (!strncmp(argv[i], key, n) && argv[i][n] == '=') return atof(argv[i] + n + 1);
    return otherwise;
}

// A chain that a model can learn something from: the next token mostly follows from the last one.
static void make_tokens(int vocabulary) {
    ag_rng rng = { 7, 0 };
    for (int i = 1; i < TOKENS; i++) {
        const int follows = (tokens[i - 1] * 7 + 3) % vocabulary, any = (int)(ag_rng_u32(&rng) % (unsigned)vocabulary);
        tokens[i] = ag_rng_uniform(&rng) < 0.8 ? follows : any;
    }
}

// All parameters after three steps of Muon with so many threads; *n is their number.
static float *trained(const gpt_config *config, int threads, size_t *n) {
    enum { B = 3, T = 40 };
    int x[B * T], y[B * T];
    ag_ctx *ctx = ag_new_with(1337, ag_cpu_backend(NULL, threads));
    gpt_model *model = gpt_new(ctx, config);
    gpt_optimizer optimizer = gpt_muon();
    gpt_loader loader = gpt_loader_new(ctx, tokens, TOKENS, GPT_RANDOM);
    for (int step = 0; step < 3; step++) {
        if (gpt_next(&loader, B, T, x, y)) exit(1);
        ag_backward(ag_cross_entropy(gpt_forward(model, x, B, T), y, NULL));
        if (gpt_step(model, &optimizer, 1, NULL)) exit(1);
        ag_reset(ctx);
    }
    float *all = (float *)malloc(gpt_count(config) * sizeof *all), *at = all;
    if (!all) exit(1);
    for (int i = 0; i < ag_param_count(ctx); i++) {
        ag_get(ag_param_get(ctx, i), at);
        at += ag_param_get(ctx, i)->count;
    }
    *n = (size_t)(at - all);
    gpt_free(model);
    ag_free(ctx);
    return all;
}

static int compare_bits(const gpt_config *config) {
    static const int threads[] = { 2, 3, 5 };
    size_t n, m, differ = 0;
    float *one = trained(config, 1, &n);
    for (int t = 0; t < 3; t++) {
        float *many = trained(config, threads[t], &m);
        for (size_t i = 0; i < n; i++) differ += memcmp(one + i, many + i, sizeof *one) != 0;
        free(many);
    }
    free(one);
    printf("%lu parameters\n%lu differ\n", (unsigned long)n, (unsigned long)differ);
    return 0;
}

int main(int argc, char **argv) {
    const char *preset = "nano";
    for (int i = 1; i < argc; i++)
        if (!strncmp(argv[i], "preset=", 7)) preset = argv[i] + 7;
    gpt_config config = gpt_preset(preset);
    const int gpt2 = config.n_vocab > 65;               // else characters
    if (!gpt2) config.n_vocab = 65;
    make_tokens(65);                                    // of 50,257 few would come twice, and the loss would not fall
    if (option(argc, argv, "bits", 0) > 0) return compare_bits(&config);
    ag_ctx *ctx = ag_new_with(1337, ag_cpu_backend(NULL, (int)option(argc, argv, "threads", 0)));
    if (option(argc, argv, "bf16", 0) > 0) ag_set_matmul_precision(ctx, AG_BF16);
    config.recompute = option(argc, argv, "recompute", 0) > 0;
    gpt_model *model = gpt_new(ctx, &config);
    gpt_optimizer optimizer = option(argc, argv, "muon", 0) > 0 ? gpt_muon() : gpt_adamw();
    optimizer.clip = option(argc, argv, "clip", 0);
    if (!model) return 1;
    const int T = (int)option(argc, argv, "context", config.n_ctx);
    const int B = (int)option(argc, argv, "batch", gpt2 ? 1 : config.n_layer > 4 ? 8 : 12);
    const int parts = (int)option(argc, argv, "parts", 1), P = B / parts;
    const double limit = option(argc, argv, "seconds", 10);
    const int counting = option(argc, argv, "mallocs", 0) > 0;

    gpt_loader loader = gpt_loader_new(ctx, tokens, TOKENS, GPT_RANDOM);
    int *x = (int *)malloc(2 * (size_t)(B * T) * sizeof *x), *y = x + B * T, n = 0;
    if (!x || parts < 1 || P * parts != B) return 1;

    double first = 0, last = 0, start = now();
    long most = 0;
    for (int step = 0; n < MOST && (n < 5 || now() - start < limit); step++) {
        const long before = calls;
        const double t0 = now();
        if (gpt_next(&loader, B, T, x, y)) return 1;
        last = 0;
        for (int part = 0; part < parts; part++) {
            ag_tensor *loss = ag_cross_entropy(gpt_forward(model, x + part * P * T, P, T), y + part * P * T, NULL);
            ag_backward(parts > 1 ? ag_scale(loss, 1.0 / parts) : loss);
            last += ag_item(loss) / parts;
            ag_reset(ctx);
        }
        if (gpt_step(model, &optimizer, 1, NULL)) return 1;
        if (step == 0) first = last;
        if (step >= WARM) times[n++] = now() - t0;          // the first steps pay for memory that is new to them
        if (step >= 2 && calls - before > most) most = calls - before;
    }
    if (!(last < first)) {
        printf("the loss went from %g to %g, so this measured nothing\n", first, last);
        return 1;
    }
    qsort(times, (size_t)n, sizeof *times, ascending);
    printf("%s, %s, %s, batch %d x %d, %d steps, loss %.3f to %.3f, tape %.1f MB\n", preset, ag_backend_name(ctx),
           ag_matmul_path(ctx), B, T, n, first, last, 1e-6 * (double)ag_memory_used(ctx).tape_peak);
    if (counting) printf("%ld calls\n", most);
    else printf("%.1f tokens/s\n", B * T / times[n / 2]);
    free(x);
    gpt_free(model);
    ag_free(ctx);
    return 0;
}
