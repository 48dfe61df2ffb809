// bench_matmul.c - how fast are matrix products and attention? Prints GFLOP/s, the median of seven runs for each shape,
// where a multiply-add counts as two operations; compare with tests/bench_peak.c.
//
//     cc -O3 tests/bench_matmul.c -o build/bench_matmul -lm
//     AG_THREADS=1 AG_CPU=avx2 build/bench_matmul [bf16] [word ...]   # only the lines whose name contains a word
//     build/bench_matmul [bf16] set=baby          # the shapes of one training step; the last line is for all of them
//
// matmul_MxNxK: C (M,N) = A (M,K) B (K,N). _nt: B is stored transposed (dX = dY W'). _tn: A is, and the product adds
// to C (dW += X' dY). _row: one row, as in decoding; its speed is that of memory, so GB/s are printed besides.
// Attention counts the products of the causal half only: 2 forward, 5 backward, of B*NH*T*(T+1)/2*hs multiply-adds
// each.
#define _POSIX_C_SOURCE 200112L
#define AUTOGRAD_IMPLEMENTATION
#include "../autograd.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define RUNS 7

typedef struct { const char *name; int M, N, K, ta, tb, accumulate; } shape;
static const shape shapes[] = {
    { "matmul_1024x3072x768", 1024, 3072, 768, 0, 0, 0 },
    { "matmul_1024x1024x1024", 1024, 1024, 1024, 0, 0, 0 },
    // nano: 12 x 64 rows
    { "matmul_768x384x128", 768, 384, 128, 0, 0, 0 },
    { "matmul_768x128x128", 768, 128, 128, 0, 0, 0 },
    { "matmul_768x512x128", 768, 512, 128, 0, 0, 0 },
    { "matmul_768x128x512", 768, 128, 512, 0, 0, 0 },
    { "matmul_768x65x128", 768, 65, 128, 0, 0, 0 },
    { "matmul_768x128x384_nt", 768, 128, 384, 0, 1, 0 },
    { "matmul_768x128x512_nt", 768, 128, 512, 0, 1, 0 },
    { "matmul_768x512x128_nt", 768, 512, 128, 0, 1, 0 },
    { "matmul_768x128x65_nt", 768, 128, 65, 0, 1, 0 },
    { "matmul_128x384x768_tn", 128, 384, 768, 1, 0, 1 },
    { "matmul_128x128x768_tn", 128, 128, 768, 1, 0, 1 },
    { "matmul_128x512x768_tn", 128, 512, 768, 1, 0, 1 },
    { "matmul_512x128x768_tn", 512, 128, 768, 1, 0, 1 },
    { "matmul_128x65x768_tn", 128, 65, 768, 1, 0, 1 },
    // baby: 8 x 256 rows
    { "matmul_2048x1152x384", 2048, 1152, 384, 0, 0, 0 },
    { "matmul_2048x384x384", 2048, 384, 384, 0, 0, 0 },
    { "matmul_2048x1536x384", 2048, 1536, 384, 0, 0, 0 },
    { "matmul_2048x384x1536", 2048, 384, 1536, 0, 0, 0 },
    { "matmul_2048x65x384", 2048, 65, 384, 0, 0, 0 },
    { "matmul_2048x384x1152_nt", 2048, 384, 1152, 0, 1, 0 },
    { "matmul_2048x384x1536_nt", 2048, 384, 1536, 0, 1, 0 },
    { "matmul_2048x1536x384_nt", 2048, 1536, 384, 0, 1, 0 },
    { "matmul_384x1152x2048_tn", 384, 1152, 2048, 1, 0, 1 },
    { "matmul_384x384x2048_tn", 384, 384, 2048, 1, 0, 1 },
    { "matmul_384x1536x2048_tn", 384, 1536, 2048, 1, 0, 1 },
    { "matmul_1536x384x2048_tn", 1536, 384, 2048, 1, 0, 1 },
    // Newton-Schulz: X X', then a square one, then square times X
    { "matmul_128x128x384_nt", 128, 128, 384, 0, 1, 0 },
    { "matmul_128x128x128", 128, 128, 128, 0, 0, 0 },
    { "matmul_128x384x128", 128, 384, 128, 0, 0, 0 },
    { "matmul_384x384x1536_nt", 384, 384, 1536, 0, 1, 0 },
    { "matmul_384x384x384", 384, 384, 384, 0, 0, 0 },
    { "matmul_384x1536x384", 384, 1536, 384, 0, 0, 0 },
    // gpt2: 1 x 1024 rows (the first shape of all is one of them)
    { "matmul_1024x2304x768", 1024, 2304, 768, 0, 0, 0 },
    { "matmul_1024x768x768", 1024, 768, 768, 0, 0, 0 },
    { "matmul_1024x768x3072", 1024, 768, 3072, 0, 0, 0 },
    { "matmul_1024x50257x768_nt", 1024, 50257, 768, 0, 1, 0 },
    { "matmul_1024x768x2304_nt", 1024, 768, 2304, 0, 1, 0 },
    { "matmul_1024x768x768_nt", 1024, 768, 768, 0, 1, 0 },
    { "matmul_1024x768x3072_nt", 1024, 768, 3072, 0, 1, 0 },
    { "matmul_1024x3072x768_nt", 1024, 3072, 768, 0, 1, 0 },
    { "matmul_1024x768x50257", 1024, 768, 50257, 0, 0, 0 },
    { "matmul_768x2304x1024_tn", 768, 2304, 1024, 1, 0, 1 },
    { "matmul_768x768x1024_tn", 768, 768, 1024, 1, 0, 1 },
    { "matmul_768x3072x1024_tn", 768, 3072, 1024, 1, 0, 1 },
    { "matmul_3072x768x1024_tn", 3072, 768, 1024, 1, 0, 1 },
    { "matmul_50257x768x1024_tn", 50257, 768, 1024, 1, 0, 1 },
    // decoding
    { "matmul_1x384x128_row", 1, 384, 128, 0, 0, 0 },
    { "matmul_1x3072x768_row", 1, 3072, 768, 0, 0, 0 },
    { "matmul_1x50257x768_row_nt", 1, 50257, 768, 0, 1, 0 },
    { "matmul_4x3072x768_row", 4, 3072, 768, 0, 0, 0 },
    { "matmul_8x3072x768_row", 8, 3072, 768, 0, 0, 0 },
    { "matmul_32x3072x768", 32, 3072, 768, 0, 0, 0 },
};

// The products of one training step, each with the number of times that it stands in it (per layer, heads last): what
// is written here is also what tests/bench.py gives to OpenBLAS.
typedef struct { const char *set, *shapes; } step;
static const step steps[] = {
    { "baby", "6*2048x1152x384 6*2048x384x384 6*2048x1536x384 6*2048x384x1536 1*2048x65x384 "
              "6*2048x384x1152_nt 6*2048x384x384 6*2048x384x1536_nt 6*2048x1536x384_nt "
              "6*384x1152x2048_tn 6*384x384x2048_tn 6*384x1536x2048_tn 6*1536x384x2048_tn" },
    { "gpt2", "12*1024x2304x768 12*1024x768x768 12*1024x3072x768 12*1024x768x3072 1*1024x50257x768_nt "
              "12*1024x768x2304_nt 12*1024x768x768_nt 12*1024x768x3072_nt 12*1024x3072x768_nt 1*1024x768x50257 "
              "12*768x2304x1024_tn 12*768x768x1024_tn 12*768x3072x1024_tn 12*3072x768x1024_tn "
              "1*50257x768x1024_tn" },
};

typedef struct { const char *name; int B, T, NH, NKV, HS; } heads;
static const heads attentions[] = {
    { "attention_nano", 12, 64, 4, 4, 32 },
    { "attention_baby", 8, 256, 6, 6, 64 },
    { "attention_gpt2", 1, 1024, 12, 12, 64 },
    { "attention_gqa_128", 1, 1024, 8, 2, 128 },
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// Seconds for one call: the median of RUNS runs of about 20 ms each.
static double seconds(void (*f)(void *), void *arg) {
    double times[RUNS], t0 = now();
    f(arg);
    f(arg);
    t0 = now();
    f(arg);
    const int loops = 1 + (int)(0.02 / (now() - t0 + 1e-9));
    for (int run = 0; run < RUNS; run++) {
        t0 = now();
        for (int i = 0; i < loops; i++) f(arg);
        times[run] = (now() - t0) / loops;
    }
    qsort(times, RUNS, sizeof times[0], ascending);
    return times[RUNS / 2];
}

static ag_backend *backend;
static int bf16;
static ag_rng rng = { 1, 0 };

static float *numbers(size_t n) {
    float *x = (float *)backend->alloc(backend, (n + 1) * sizeof(float));
    if (!x) printf("out of memory\n"), exit(1);
    for (size_t i = 0; i < n; i++) x[i] = (float)ag_rng_uniform(&rng) - 0.5f;
    return x;
}

typedef struct { const shape *s; float *A, *B, *C; } product;
static void run_product(void *arg) {
    static const int one[2] = { 1, 1 };
    static const size_t zero[2] = { 0, 0 };
    const product *p = (const product *)arg;
    const shape *s = p->s;
    (bf16 ? backend->matmul_bf16 : backend->matmul)(backend, p->C, p->A, p->B, NULL, s->M, s->N, s->K, s->ta, s->tb,
                                                    one, zero, zero, zero, s->accumulate);
}
static void run_attention(void *arg) { backend->attention(backend, (const ag_attention_args *)arg); }
static void run_attention_back(void *arg) { backend->attention_back(backend, (const ag_attention_args *)arg); }

static int wanted(const char *name, int argc, char **argv) {
    for (int i = 1; i < argc; i++) if (strstr(name, argv[i])) return 1;
    return argc < 2;
}

static double product_seconds(const shape *s) {
    const size_t M = (size_t)s->M, N = (size_t)s->N, K = (size_t)s->K;
    product p = { s, numbers(M * K), numbers(K * N), numbers(M * N) };
    const double t = seconds(run_product, &p);
    backend->release(backend, p.A), backend->release(backend, p.B), backend->release(backend, p.C);
    return t;
}

// All products of one training step.
static int run_step(const char *name) {
    double flop = 0, time = 0;
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        if (strcmp(steps[i].set, name)) continue;
        for (const char *w = steps[i].shapes; w; w = strchr(w, ' ') ? strchr(w, ' ') + 1 : NULL) {
            shape s = { w, 0, 0, 0, 0, 0, 0 };
            int times, used = 0;
            if (sscanf(w, "%d*%dx%dx%d%n", &times, &s.M, &s.N, &s.K, &used) < 4) return 1;
            s.tb = !strncmp(w + used, "_nt", 3), s.ta = s.accumulate = !strncmp(w + used, "_tn", 3);
            flop += 2e-9 * times * s.M * s.N * s.K, time += times * product_seconds(&s);
        }
    }
    if (time > 0) printf("%.1f GFLOP/s\n", flop / time);
    return !(time > 0);
}

int main(int argc, char **argv) {
    backend = ag_cpu_backend(NULL, 0);
    if (!backend) return printf("no such backend\n"), 1;
    if (argc > 1 && !strcmp(argv[1], "bf16")) bf16 = 1, argc--, argv++;
    printf("backend %s, %s, %d threads\n", backend->name, bf16 ? backend->bf16 : "float32", backend->threads);
    if (argc > 1 && !strncmp(argv[1], "set=", 4)) {
        const int failed = run_step(argv[1] + 4);
        backend->destroy(backend);
        return failed;
    }
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        const shape *s = &shapes[i];
        if (!wanted(s->name, argc, argv)) continue;
        const double t = product_seconds(s);
        printf("%s %.1f GFLOP/s", s->name, 2e-9 * s->M * s->N * s->K / t);
        if (strstr(s->name, "_row")) printf(" %.1f GB/s", 4e-9 * s->N * s->K / t);
        putchar('\n');
        fflush(stdout);
    }
    for (size_t i = 0; i < sizeof attentions / sizeof attentions[0]; i++) {
        const heads *h = &attentions[i];
        if (!wanted(h->name, argc, argv)) continue;
        const size_t rows = (size_t)h->B * h->T, in = (size_t)(h->NH + 2 * h->NKV) * h->HS, out = (size_t)h->NH * h->HS;
        const double flops = 1e-9 * h->B * h->NH * h->T * (h->T + 1) * h->HS;       // of one product of the causal half
        ag_attention_args a;
        float *qkv = numbers(rows * in), *dqkv = numbers(rows * in), *y = numbers(rows * out);
        float *dy = numbers(rows * out), *lse = numbers((size_t)h->B * h->NH * h->T);
        memset(&a, 0, sizeof a);
        a.B = h->B, a.T = h->T, a.NH = h->NH, a.NKV = h->NKV, a.HS = h->HS;
        a.qkv = qkv, a.y = y, a.lse = lse, a.dy = dy, a.dqkv = dqkv;
        const double forward = seconds(run_attention, &a), back = seconds(run_attention_back, &a);
        printf("%s_forward %.1f GFLOP/s\n%s_back %.1f GFLOP/s\n%s_both %.1f GFLOP/s\n", h->name, 2 * flops / forward,
               h->name, 5 * flops / back, h->name, 7 * flops / (forward + back));
        fflush(stdout);
        backend->release(backend, qkv), backend->release(backend, y), backend->release(backend, dy);
        backend->release(backend, dqkv), backend->release(backend, lse);
    }
    backend->destroy(backend);
    return 0;
}
