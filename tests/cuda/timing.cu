// The time of each kernel of a training step, at the shapes of GPT-2 with 124 million parameters, for make gpu-check:
//     timing [batch T layers C heads vocabulary] [only=NAME] [times=20] [precision=bf16]        8 1024 12 768 12 50257
// Lines are "timing: NAME: N ms", for one call; the names are those of tests/cuda/roofline.py, which puts the least
// possible time beside them. On the CPU (small shapes) the numbers mean nothing, and show only that all of it runs.
#include "cuda_on_cpu.h"
#include "../../cuda/gpt_cuda.h"
#include <math.h>
#include <string.h>
#include <vector>

static ag_backend *gpu;
static size_t total_bytes;
static int repetitions = 20, precision = AG_BF16;
static const char *only;

static float *numbers(size_t n, float size) {
    std::vector<float> host(n);
    for (size_t i = 0; i < n; i++) host[i] = size * sinf(0.7f * (float)i + 0.1f);
    float *p = (float *)gpu->alloc(gpu, n * sizeof(float));
    total_bytes += n * sizeof(float);
    if (!p || gpu->write(gpu, p, host.data(), n * sizeof(float))) {
        fprintf(stderr, "timing: no memory for %zu more bytes after %zu\n", n * sizeof(float), total_bytes);
        exit(1);
    }
    return p;
}
static int *indices(size_t n, int below) {
    std::vector<int> host(n);
    for (size_t i = 0; i < n; i++) host[i] = (int)(i * 7919 % (size_t)below);
    int *p = (int *)gpu->alloc(gpu, n * sizeof(int));
    if (!p || gpu->write(gpu, p, host.data(), n * sizeof(int))) exit(1);
    return p;
}

// Calls wait in the backend's queue until somebody reads.
static float *some;
static void finish() {
    float number;
    if (gpu->read(gpu, &number, some, sizeof number)) exit(1);
}

// Between two events around all repetitions; of several, one more before them is not counted. Work that the host waits
// for, as sum_squares does, is in it as well.
template <class Call> static void timed(const char *name, Call call) {
    cudaEvent_t begin, end;
    float milliseconds = 0;
    if (only && strcmp(only, name)) return;
    cudaEventCreate(&begin);
    cudaEventCreate(&end);
    for (int i = repetitions > 1 ? -1 : 0; i < repetitions; i++) {
        if (i == 0) finish(), cudaEventRecord(begin, 0), cudaEventSynchronize(begin);
        if (call()) fprintf(stderr, "timing: %s failed\n", name), exit(1);
    }
    finish();
    cudaEventRecord(end, 0);
    cudaEventSynchronize(end);
    cudaEventElapsedTime(&milliseconds, begin, end);
    printf("timing: %s: %.4f ms\n", name, milliseconds / (float)repetitions);
    fflush(stdout);
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
}

static const int one[2] = {1, 1};
static const size_t zero[2] = {0, 0};
static int product(float *y, const float *x, const float *w, size_t n, size_t inputs, size_t outputs) {
    auto entry = precision == AG_BF16 ? gpu->matmul_bf16 : gpu->matmul;
    return entry(gpu, y, x, w, NULL, (int)n, (int)outputs, (int)inputs, 0, 0, one, zero, zero, zero, 0);
}

int main(int argc, char **argv) {
    size_t shape[6] = {8, 1024, 12, 768, 12, 50257};
    for (int i = 1, numbers = 0; i < argc; i++) {
        if (!strncmp(argv[i], "only=", 5)) only = argv[i] + 5;
        else if (!strncmp(argv[i], "times=", 6)) repetitions = atoi(argv[i] + 6);
        else if (!strcmp(argv[i], "precision=float32")) precision = AG_FLOAT32;
        else if (strcmp(argv[i], "precision=bf16") && numbers < 6) shape[numbers++] = (size_t)atoi(argv[i]);
    }
    size_t B = shape[0], T = shape[1], layers = shape[2], C = shape[3], heads = shape[4], V = shape[5], n = B * T;
    size_t parameters = V * C + T * C + layers * (12 * C * C + 13 * C) + 2 * C;
    gpu = ag_cuda_backend(0);
    if (!gpu) return 1;
    some = numbers(1, 1);
    printf("timing: %s, products and attention in %s, batch %zu x %zu\n", gpu->name,
           precision == AG_BF16 ? "bf16" : "float32", B, T);

    // the largest first: what follows uses parts of them
    float *logits = numbers(n * V, 1), *dlogits = numbers(n * V, 1), *wide = numbers(n * 4 * C, 1);
    float *wide2 = numbers(n * 4 * C, 1), *wide3 = numbers(n * 4 * C, 1);
    float *x = numbers(n * C, 1), *y = numbers(n * C, 1), *dx = numbers(n * C, 1);
    float *w = numbers((V > 4 * C ? V : 4 * C) * C, 0.02f), *bias = numbers(4 * C, 1), *column = numbers(4 * C, 1);
    float *stats = numbers(2 * n, 1), *lse = numbers(B * heads * T, 1), *rows = numbers(n, 1), *more = numbers(n, 1);
    int *tokens = indices(n, (int)V);

    timed("embedding", [&] { return gpu->embedding(gpu, y, w, tokens, n, C); });
    const float *operands[3] = {x, dx, NULL};
    const int flat[4] = {1, 1, (int)n, (int)C};
    const size_t strides[3][4] = {{0, 0, C, 1}, {0, 0, C, 1}, {0, 0, 0, 0}};
    timed("add", [&] { return gpu->map(gpu, AG_MAP_ADD, y, operands, flat, strides, 0, 0); });
    timed("norm", [&] { return gpu->norm(gpu, y, stats, x, bias, column, n, C, 1e-5, 0); });
    timed("product qkv", [&] { return product(wide, x, w, n, C, 3 * C); });
    timed("product out", [&] { return product(y, x, w, n, C, C); });
    timed("product up", [&] { return product(wide, x, w, n, C, 4 * C); });
    timed("product up, GELU", [&] {
        return gpu->linear_gelu(gpu, wide, wide2, x, w, bias, (int)n, (int)C, (int)(4 * C), precision);
    });
    timed("product down", [&] { return product(y, wide2, w, n, 4 * C, C); });
    timed("product logits", [&] { return product(logits, x, w, n, C, V); });
    ag_attention_args a;
    memset(&a, 0, sizeof a);
    a.B = (int)B, a.T = (int)T, a.NH = a.NKV = (int)heads, a.HS = (int)(C / heads);
    a.qkv = wide, a.y = y, a.lse = lse, a.dy = dx, a.dqkv = wide3, a.precision = precision;
    timed("attention", [&] { return gpu->attention(gpu, &a); });
    timed("nll", [&] { return gpu->nll(gpu, rows, more, logits, tokens, n, V); });
    timed("nll_back", [&] { return gpu->nll_back(gpu, dlogits, logits, more, tokens, rows, n, V, 0); });
    timed("attention_back", [&] { return gpu->attention_back(gpu, &a); });
    timed("gelu_bias_back", [&] { return gpu->gelu_bias_back(gpu, wide2, column, wide3, wide, n, 4 * C, 0); });
    timed("bias gradient", [&] { return gpu->reduce(gpu, AG_REDUCE_SUM, column, x, 1, n, C, 1, 0); });
    timed("bias gradient qkv", [&] { return gpu->reduce(gpu, AG_REDUCE_SUM, column, wide, 1, n, 3 * C, 1, 0); });
    timed("norm_back", [&] { return gpu->norm_back(gpu, dx, column, column + C, x, bias, stats, y, n, C, 0, 0); });
    timed("embedding_back", [&] { return gpu->embedding_back(gpu, w, tokens, x, n, V, C, 1); });

    // the optimizer's slabs in the place of the logits, which are no longer needed
    float *slab[4];
    gpu->release(gpu, logits);
    gpu->release(gpu, dlogits);
    for (float *&s : slab) s = numbers(parameters, 1e-3f);
    double sum = 0;
    const float *const gradients = slab[0];
    timed("sum_squares", [&] { return gpu->sum_squares(gpu, &sum, &gradients, &parameters, 1); });
    timed("adamw", [&] {
        return gpu->adamw(gpu, slab[0], slab[1], slab[2], slab[3], parameters, 1e-4, 0.9, 0.95, 1e-8, 0.1, 1, 1);
    });
    void *all[] = {wide, wide2, wide3, x, y, dx, w, bias, stats, lse, column, rows, more, tokens, some, slab[0],
                   slab[1], slab[2], slab[3]};
    for (void *p : all) gpu->release(gpu, p);
    gpu->destroy(gpu);
    return 0;
}
