// test_amx.c - products in bfloat16 through AMX, on machines without it: the instructions are played by plain C, after
// Intel's description of them (Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, TDPBF16PS), so
// what is tested is all around them: packing, filling up, edges, blocks, tasks. Needs AVX512-BF16.
//
//     cc -O3 tests/test_amx.c -o build/test_amx -lm && build/test_amx
#define _POSIX_C_SOURCE 200112L
#include "test.h"

// A file of tiles for each thread; a thread may use it between configure and release only, and one that is not
// configured, or asked for another shape than 16 x 64 bytes, counts as an error.
static __thread float amx_tiles[8][16][16];
static __thread int configured;
static int misuse;

static void amx_configure(const unsigned char *c) {
    misuse += configured || c[0] != 1 || c[1] != 0;
    for (int t = 0; t < 8; t++) misuse += c[16 + 2 * t] != 64 || c[17 + 2 * t] != 0 || c[48 + t] != 16;
    configured = 1;
}
static void amx_release(void) {
    misuse += !configured;
    configured = 0;
}
static void amx_move(int t, char *base, size_t stride, int store) {
    misuse += !configured;
    for (int r = 0; r < 16; r++)
        if (store) memcpy(base + r * stride, amx_tiles[t][r], 64);
        else memcpy(amx_tiles[t][r], base + r * stride, 64);
}
static float half(float pair, int odd) {
    unsigned u;
    memcpy(&u, &pair, 4);
    u = odd ? u & 0xffff0000u : u << 16;
    memcpy(&pair, &u, 4);
    return pair;
}
static void amx_dot(int c, int a, int b) {
    misuse += !configured;
    for (int m = 0; m < 16; m++) for (int n = 0; n < 16; n++) {
        float even = 0, odd = 0;
        for (int k = 0; k < 16; k++) {
            even += half(amx_tiles[a][m][k], 0) * half(amx_tiles[b][k][n], 0);  // exact: fused or not is the same
            odd += half(amx_tiles[a][m][k], 1) * half(amx_tiles[b][k][n], 1);
        }
        amx_tiles[c][m][n] += even + odd;
    }
}
#define AGI_AMX_EMULATED
#define AGI_AMX_CONFIGURE(c) amx_configure(*(c))
#define AGI_AMX_RELEASE() amx_release()
#define AGI_AMX_ZERO(t) memset(amx_tiles[t], 0, sizeof amx_tiles[t])
#define AGI_AMX_LOAD(t, base, stride) amx_move(t, (char *)(base), stride, 0)
#define AGI_AMX_STORE(t, base, stride) amx_move(t, (char *)(base), stride, 1)
#define AGI_AMX_DOT(c, a, b) amx_dot(c, a, b)
#define agi_has_amx() agi_has(AGI_BF16)
#define AUTOGRAD_IMPLEMENTATION
#include "../autograd.h"

static ag_rng rng = { 1337, 0 };
static int below(int n) { return (int)(ag_rng_uniform(&rng) * n); }

static float *numbers(size_t n) {
    float *x = (float *)malloc((n + 1) * sizeof *x);
    if (!x) exit(1);
    for (size_t i = 0; i < n; i++) x[i] = (float)(2 * ag_rng_uniform(&rng) - 1);
    return x;
}

static float rounded(float x) {
    int e;
    const double m = frexp(x, &e) * 256;
    return (float)ldexp(nearbyint(m), e - 8);
}

// One element as AMX computes it: c += (sum over even k) + (sum over odd k), for each 32 of them.
static float element(float c, const float *a, size_t a_step, const float *b, size_t b_step, int K) {
    for (int k0 = 0; k0 < K; k0 += 32) {
        float sum[2] = { 0, 0 };
        for (int k = k0; k < K && k < k0 + 32; k++) sum[k & 1] += rounded(a[k * a_step]) * rounded(b[k * b_step]);
        c += sum[0] + sum[1];
    }
    return c;
}

static void check(ag_backend *b, int M, int N, int K, int flags, int batch) {
    const int ta = flags & 1, tb = flags >> 1 & 1, accumulate = flags >> 2 & 1, total = flags >> 4;     // C is a sum
    const size_t one[3] = { (size_t)M * N, (size_t)M * K, (size_t)K * N };
    float *A = numbers(one[1] * batch), *B = numbers(one[2] * batch);
    float *bias = flags >> 3 & 1 ? numbers((size_t)N) : NULL;
    float *C = numbers(one[0] * batch + 16), *want = (float *)malloc((one[0] * batch + 16) * sizeof *want);
    const int size[2] = { 1, batch };
    const size_t sc[2] = { 0, total ? 0 : one[0] }, sa[2] = { 0, one[1] }, sb[2] = { 0, one[2] };
    if (!want) exit(1);
    memcpy(want, C, (one[0] * batch + 16) * sizeof *want);
    for (int i = 0; i < batch; i++) for (int m = 0; m < M; m++) for (int n = 0; n < N; n++) {
        float *c = want + (total ? 0 : i * one[0]) + (size_t)m * N + n;
        const float *a = A + i * one[1] + (ta ? (size_t)m : (size_t)m * K);
        const float *row = B + i * one[2] + (tb ? (size_t)n * K : (size_t)n);
        *c = element(accumulate || (total && i) ? *c : 0, a, ta ? (size_t)M : 1, row, tb ? 1 : (size_t)N, K);
        if (bias && (!total || i + 1 == batch)) *c += bias[n];
    }
    static unsigned version;
    b->steady = ++version;                      // a product that can be repeated also meets its packed copy
    for (int turn = accumulate ? 2 : 0; turn < 3; turn++)
        CHECK_INT(b->matmul_bf16(b, C, A, B, bias, M, N, K, ta, tb, size, sc, sa, sb, accumulate), 0);
    size_t wrong = 0;
    for (size_t i = 0; i < one[0] * batch + 16; i++) wrong += memcmp(C + i, want + i, 4) != 0;
    if (wrong) T_FAIL("%dx%dx%d, flags %d, batch %d, %d threads: %ld wrong", M, N, K, flags, batch, b->threads,
                      (long)wrong);
    free(A), free(B), free(C), free(want), free(bias);
}

static void products(void) {
    static const int some_k[] = { 0, 1, 2, 15, 31, 32, 33, 64, 300, 511, 512, 513, 1100 };
    ag_backend *b[2] = { ag_cpu_backend("avx512", 1), ag_cpu_backend("avx512", 3) };
    CHECK_STR(b[0]->bf16, "bf16/amx");
    for (int turn = 0; turn < 300; turn++)
        check(b[turn & 1], 1 + below(turn % 3 ? 40 : 150), 1 + below(turn % 4 ? 40 : 300), some_k[below(13)],
              below(16), 1);
    for (int turn = 0; turn < 200; turn++)
        check(b[turn & 1], 1 + below(40), 1 + below(70), turn % 2 ? 32 : 1 + below(40), below(32), 1 + below(12));
    check(b[1], 40, 1100, 6300, 0, 1), check(b[1], 100, 70, 6501, 2, 1), check(b[0], 70, 600, 700, 5, 1);
    CHECK_INT(misuse, 0);
    CHECK_INT(configured, 0);
    b[0]->destroy(b[0]), b[1]->destroy(b[1]);
}

int main(int argc, char **argv) {
    T_BEGIN("amx");
    if (!agi_has(AGI_BF16)) printf("skipped: AMX needs AVX512-BF16 around it, which this machine does not have\n");
    else T_RUN(products);
    return T_END();
}
