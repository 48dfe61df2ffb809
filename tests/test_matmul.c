// test_matmul.c - matrix products and fused attention, against plain loops in double, and against their own promise:
// the same bits for any number of threads, any instruction set with fused multiply-add, any batch, any padding, any
// cache.
//
//     cc -O3 tests/test_matmul.c -o build/test_matmul -lm && build/test_matmul
//
// The kernels are called through the backend table, so that nothing else can hide an error. Every buffer stands
// between two fences that are looked at after each call; what a kernel must not read is filled with NaN.
#define _POSIX_C_SOURCE 200112L
#include "test.h"

static long fail_at = -1, mallocs;          // the n-th call of AG_MALLOC fails
static void *test_malloc(size_t bytes) { return mallocs++ == fail_at ? NULL : malloc(bytes); }
#define AG_MALLOC(bytes) test_malloc(bytes)
#define AG_FREE(pointer) free(pointer)
#define AUTOGRAD_IMPLEMENTATION
#include "../autograd.h"

#define FENCE 24            // floats on each side; not a multiple of 16, so that nothing is aligned by chance
static const uint32_t fence = 0x7fc0beefu;  // a NaN

typedef struct { float *at; size_t n; } buffer;
static buffer buffers[32];
static int n_buffers;
static ag_rng rng = { 1337, 0 };

static int below(int n) { return (int)(ag_rng_uniform(&rng) * n); }
static float small(void) { return (float)(2 * ag_rng_uniform(&rng) - 1); }

static float *get(size_t n) {
    float *raw = n >> 30 ? NULL : (float *)malloc((n + 2 * FENCE) * sizeof(float));
    if (!raw || n_buffers == 32) printf("out of memory\n"), exit(1);
    for (size_t i = 0; i < n + 2 * FENCE; i++) memcpy(raw + i, &fence, 4);
    buffers[n_buffers].at = raw + FENCE, buffers[n_buffers++].n = n;
    return raw + FENCE;
}

static float *random_floats(size_t n) {
    float *x = get(n);
    for (size_t i = 0; i < n; i++) x[i] = small();
    return x;
}

static float *copy_of(const float *from, size_t n) {
    float *x = get(n);
    for (size_t i = 0; i < n; i++) x[i] = from[i];
    return x;
}

// Checks all fences, and frees all buffers from number first on.
static void put_back(int first) {
    while (n_buffers > first) {
        const buffer *b = &buffers[--n_buffers];
        int broken = 0;
        for (int i = 0; i < FENCE; i++)
            broken |= memcmp(b->at - 1 - i, &fence, 4) || memcmp(b->at + b->n + i, &fence, 4);
        CHECK(!broken);
        free(b->at - FENCE);
    }
}

static size_t differences(const float *a, const float *b, size_t n) {
    size_t d = 0;
    for (size_t i = 0; i < n; i++) d += memcmp(a + i, b + i, 4) != 0;
    return d;
}
#define CHECK_BITS(a, b, n) do { size_t d_ = differences(a, b, n); \
    if (d_) T_FAIL("%s and %s differ in %ld of %ld floats", #a, #b, (long)d_, (long)(n)); } while (0)

// The instruction sets of this machine, and whether a multiply-add is fused in them.
typedef struct { const char *name; int fused; } set;
static set sets[4];
static int n_sets;

static void find_sets(void) {
    static const char *const names[] = { "avx512", "avx2", "neon", "portable" };
    for (int i = 0; i < 4; i++) {
        ag_backend *b = ag_cpu_backend(names[i], 1);
        if (!b) continue;
        sets[n_sets].name = names[i], sets[n_sets++].fused = i < 3 || AGI_FUSED;
        b->destroy(b);
    }
}

// ---- products ----
typedef struct { int M, N, K, ta, tb, accumulate, bias, bf16, batch[2]; size_t sc[2], sa[2], sb[2]; } shape;

// bfloat16 by arithmetic alone: the nearest number of eight bits; at a tie the one whose last bit is 0.
static float to_bf16(float x) {
    int e;
    const double m = frexp(x, &e) * 256;
    return (float)ldexp(nearbyint(m), e - 8);
}

// The promised chain, spelt out in floats (bfloat16: of operands that are rounded already, and in each pair of k's the
// odd one comes first); and the same sum in double with a bound for the error of the chain.
static void plain_product(float *C, double *D, double *bound, const float *A, const float *B, const float *bias,
                          const shape *s, int fused) {
    for (int i = 0; i < s->batch[0]; i++) for (int j = 0; j < s->batch[1]; j++) {
        const size_t c0 = i * s->sc[0] + j * s->sc[1];
        const float *a = A + i * s->sa[0] + j * s->sa[1], *b = B + i * s->sb[0] + j * s->sb[1];
        const int later = (i && !s->sc[0]) || (j && !s->sc[1]);
        const int last = (i + 1 == s->batch[0] || s->sc[0]) && (j + 1 == s->batch[1] || s->sc[1]);
        for (int m = 0; m < s->M; m++) for (int n = 0; n < s->N; n++) {
            const size_t at = c0 + (size_t)m * s->N + n;
            volatile float c = s->accumulate || later ? C[at] : 0;
            double d = s->accumulate || later ? D[at] : 0, size = later ? bound[at] : fabs(d);
            for (int i_k = 0; i_k < s->K; i_k++) {
                const int k = !s->bf16 || (i_k ^ 1) >= s->K ? i_k : i_k ^ 1;
                const float x = s->ta ? a[(size_t)k * s->M + m] : a[(size_t)m * s->K + k];
                const float y = s->tb ? b[(size_t)n * s->K + k] : b[(size_t)k * s->N + n];
                volatile float product = x * y;
                c = fused ? fmaf(x, y, c) : product + c;
                d += (double)x * y, size += fabs((double)x * y);
            }
            if (bias && last) c = c + bias[n], d += bias[n], size += fabs(bias[n]);
            C[at] = c, D[at] = d, bound[at] = size;
        }
    }
}

static size_t extent(const shape *s, size_t one, const size_t stride[2]) {
    return one ? one + (s->batch[0] - 1) * stride[0] + (s->batch[1] - 1) * stride[1] : 0;
}

static void check_product(ag_backend *b, const shape *s, int fused) {
    const int before = n_buffers;
    const size_t nc = extent(s, (size_t)s->M * s->N, s->sc), na = extent(s, (size_t)s->M * s->K, s->sa);
    const size_t nb = extent(s, (size_t)s->K * s->N, s->sb);
    const float *A = random_floats(na), *B = random_floats(nb), *bias = s->bias ? random_floats((size_t)s->N) : NULL;
    float *C = s->accumulate ? random_floats(nc) : get(nc), *want = copy_of(C, nc);
    double *D = (double *)malloc((nc + 1) * sizeof(double)), *bound = (double *)malloc((nc + 1) * sizeof(double));
    for (size_t i = 0; i < nc; i++) D[i] = C[i];
    float *rounded_a = copy_of(A, na), *rounded_b = copy_of(B, nb);
    for (size_t i = 0; i < na && s->bf16; i++) rounded_a[i] = to_bf16(A[i]);
    for (size_t i = 0; i < nb && s->bf16; i++) rounded_b[i] = to_bf16(B[i]);
    plain_product(want, D, bound, rounded_a, rounded_b, bias, s, fused);
    CHECK_INT((s->bf16 ? b->matmul_bf16 : b->matmul)(b, C, A, B, bias, s->M, s->N, s->K, s->ta, s->tb, s->batch, s->sc,
                                                     s->sa, s->sb, s->accumulate), 0);
    size_t wrong = differences(C, want, nc);
    const double terms = (double)s->K * s->batch[0] * s->batch[1] + 2;
    for (int i = 0; i < s->batch[0]; i++) for (int j = 0; j < s->batch[1]; j++)
        for (size_t e = 0; e < (size_t)s->M * s->N; e++) {
            const size_t at = i * s->sc[0] + j * s->sc[1] + e;
            wrong += !(fabs(C[at] - D[at]) <= 1.2e-7 * terms * bound[at] + 1e-30);
        }
    if (wrong) T_FAIL("%s%s, %d threads: %dx%dx%d ta %d tb %d acc %d bias %d batch %dx%d strides %d %d, %d %d, %d %d: "
                      "%ld wrong", b->name, s->bf16 ? ", bf16" : "", b->threads, s->M, s->N, s->K, s->ta, s->tb,
                      s->accumulate, s->bias, s->batch[0], s->batch[1], (int)s->sc[0], (int)s->sc[1], (int)s->sa[0],
                      (int)s->sa[1], (int)s->sb[0], (int)s->sb[1], (long)wrong);
    free(D), free(bound);
    put_back(before);
}

static shape plain_shape(int M, int N, int K) {
    shape s;
    memset(&s, 0, sizeof s);
    s.M = M, s.N = N, s.K = K, s.batch[0] = s.batch[1] = 1;
    return s;
}

static void products(void) {
    static const int some_m[] = { 1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 24, 25, 49, 97, 101 };
    static const int some_n[] = { 1, 2, 15, 16, 17, 31, 32, 33, 48, 64, 65, 80, 100, 161 };
    static const int some_k[] = { 0, 1, 2, 7, 8, 9, 31, 65, 128, 255, 256, 257, 300, 523 };
    for (int i = 0; i < n_sets; i++) {
        ag_backend *b = ag_cpu_backend(sets[i].name, 2);
        for (int m = 0; m < 15; m++) for (int n = 0; n < 14; n++) for (int flags = below(4); flags < 16; flags += 4) {
            shape s = plain_shape(some_m[m], some_n[n], some_k[below(14)]);
            s.ta = flags & 1, s.tb = flags >> 1 & 1, s.accumulate = flags >> 2 & 1, s.bias = flags >> 3;
            s.bf16 = below(2);
            check_product(b, &s, sets[i].fused);
        }
        // Large enough for every kind of blocking: columns beyond one block, K beyond what is packed at once, strides
        // of 4096 bytes.
        static const int large[][3] = { { 130, 1100, 70 }, { 25, 40, 6500 }, { 26, 600, 6301 }, { 50, 70, 1024 },
                                        { 1, 1500, 9 }, { 97, 16, 2048 }, { 100, 1040, 300 }, { 60, 2100, 40 },
                                        { 1, 1100, 71 }, { 3, 1700, 61 }, { 2, 900, 90 } };
        for (int l = 0; l < 11; l++) for (int flags = 0; flags < 4; flags++) {
            const int more = l < 8 ? l : flags + (flags >> 1);      // few rows: with and without, whatever the form
            shape s = plain_shape(large[l][0], large[l][1], large[l][2]);
            s.ta = flags & 1, s.tb = flags >> 1, s.accumulate = more & 1, s.bias = more >> 1 & 1;
            check_product(b, &s, sets[i].fused);
            s.bf16 = (l + flags) % 2;
            check_product(b, &s, sets[i].fused);
        }
        b->destroy(b);
    }
}

// Batches: contiguous, with gaps, with one operand shared, and with results that add up, in either dimension or in
// both.
static void batches(void) {
    for (int i = 0; i < n_sets; i++) for (int turn = 0; turn < 400; turn++) {
        ag_backend *b = ag_cpu_backend(sets[i].name, 1 + turn % 3);
        shape s = plain_shape(1 + below(40), 1 + below(70), below(turn % 5 ? 40 : 300));
        s.ta = below(2), s.tb = below(2), s.accumulate = below(2), s.bias = below(2);
        s.batch[0] = 1 + below(4), s.batch[1] = 1 + below(turn % 7 ? 4 : 30);
        const int sum = turn % 8 == 0;              // the gradient of a weight: a sum over all there is
        if (sum) s.ta = 1, s.tb = 0;
        const size_t gap = below(3) || sum ? 0 : (size_t)below(5);
        const size_t one[3] = { (size_t)s.M * s.N, (size_t)s.M * s.K, (size_t)s.K * s.N };
        size_t *strides[3] = { s.sc, s.sa, s.sb };
        for (int o = 0; o < 3; o++) {
            const int shared = !sum ? below(6) : o ? 3 : 2;     // 0: the inner, 1: the outer one, 2: both; else none
            size_t next = one[o] + gap;
            strides[o][1] = shared == 0 || shared == 2 ? 0 : next;
            if (strides[o][1]) next *= (size_t)s.batch[1];
            strides[o][0] = shared == 1 || shared == 2 ? 0 : next;
        }
        s.bf16 = below(2);
        check_product(b, &s, sets[i].fused);
        b->destroy(b);
    }
}

typedef int (*product)(ag_backend *, float *, const float *, const float *, const float *, int, int, int, int, int,
                       const int *, const size_t *, const size_t *, const size_t *, int);

// Bits must not depend on threads, nor on the instruction set, nor on the rows around a row.
static void product_bits(void) {
    static const int shapes[][3] = { { 96, 128, 100 }, { 77, 65, 300 }, { 1, 700, 33 }, { 3, 129, 270 }, { 20, 20, 9 },
                                     { 200, 520, 64 } };
    for (int l = 0; l < 6; l++) for (int flags = 0; flags < 8; flags++) {
        const int M = shapes[l][0], N = shapes[l][1], K = shapes[l][2], ta = flags & 1, tb = flags >> 1 & 1;
        const int one[2] = { 1, 1 }, before = n_buffers;
        const size_t zero[2] = { 0, 0 };
        const float *A = random_floats((size_t)M * K), *B = random_floats((size_t)N * K);
        const float *bias = random_floats((size_t)N);
        float *first = NULL, *row_of_a = get((size_t)K), *row = get((size_t)N);
        for (int i = 0; i < n_sets; i++) {
            if (!sets[i].fused) continue;
            static const int threads[] = { 1, 2, 3, 4, 8 };
            for (int t = 0; t < 5; t++) {
                ag_backend *b = ag_cpu_backend(sets[i].name, threads[t]);
                CHECK_INT(b->threads, threads[t]);
                const product matmul = flags >> 2 ? b->matmul_bf16 : b->matmul;
                float *C = get((size_t)M * N);
                CHECK_INT(matmul(b, C, A, B, bias, M, N, K, ta, tb, one, zero, zero, zero, 0), 0);
                if (first) CHECK_BITS(C, first, (size_t)M * N);
                else first = C;
                for (int m = 0; m < M && t == 1; m += 1 + M / 7) {
                    for (int k = 0; k < K; k++) row_of_a[k] = ta ? A[(size_t)k * M + m] : A[(size_t)m * K + k];
                    CHECK_INT(matmul(b, row, row_of_a, B, bias, 1, N, K, 0, tb, one, zero, zero, zero, 0), 0);
                    CHECK_BITS(row, C + (size_t)m * N, (size_t)N);
                }
                b->destroy(b);
            }
        }
        put_back(before);
    }
}

// Infinity and NaN go where the sum takes them and nowhere else: no zero filling may turn up as 0 * infinity.
static void product_infinity(void) {
    for (int i = 0; i < n_sets; i++) for (int flags = 0; flags < 8; flags++) for (int M = 1; M < 40; M += 6) {
        ag_backend *b = ag_cpu_backend(sets[i].name, 2);
        const int N = 37, K = 19, one[2] = { 1, 1 }, before = n_buffers, ta = flags & 1, tb = flags >> 1 & 1;
        const product matmul = flags >> 2 ? b->matmul_bf16 : b->matmul;
        const size_t zero[2] = { 0, 0 };
        float *A = random_floats((size_t)M * K), *B = random_floats((size_t)N * K), *C = get((size_t)M * N);
        A[ta ? M - 1 : (M - 1) * K] = INFINITY;             // row M-1, k = 0
        B[tb ? (N - 1) * K + 3 : 3 * N + N - 1] = NAN;      // column N-1, k = 3
        CHECK_INT(matmul(b, C, A, B, NULL, M, N, K, ta, tb, one, zero, zero, zero, 0), 0);
        for (int m = 0; m < M; m++) for (int n = 0; n < N; n++) {
            const float c = C[m * N + n];
            if (n == N - 1) CHECK(c != c);
            else if (m == M - 1) CHECK(c == INFINITY || c == -INFINITY);
            else CHECK(fabsf(c) < 100);
        }
        put_back(before);
        b->destroy(b);
    }
}

// ---- attention ----
typedef struct { int B, T, NH, NKV, HS, start[4], len[4]; } heads;
static size_t qkv_width(const heads *h) { return (size_t)(h->NH + 2 * h->NKV) * h->HS; }

// Forward and backward in double, straight from the definition, for the first len[b] queries of row b, without a cache.
// y (B,T,NH*HS), dqkv (B,T,width). The backward is that of a whole softmax row: ds = p (dp - sum p dp).
static void plain_attention(const heads *h, const float *qkv, const float *dy, double *y, double *lse, double *dqkv) {
    const size_t width = qkv_width(h), out = (size_t)h->NH * h->HS;
    const double scale = 1 / sqrt((double)h->HS);
    double *p = (double *)malloc((size_t)h->T * sizeof(double)), *dp = (double *)malloc((size_t)h->T * sizeof(double));
    for (size_t i = 0; i < (size_t)h->B * h->T * out; i++) y[i] = 0;
    for (size_t i = 0; i < (size_t)h->B * h->NH * h->T; i++) lse[i] = 0;
    for (size_t i = 0; dqkv && i < (size_t)h->B * h->T * width; i++) dqkv[i] = 0;
    for (int b = 0; b < h->B; b++) for (int n = 0; n < h->NH; n++) for (int i = 0; i < h->len[b]; i++) {
        const int kv = n / (h->NH / h->NKV);
        const size_t q_at = ((size_t)b * h->T + i) * width + (size_t)n * h->HS;
        const size_t y_at = ((size_t)b * h->T + i) * out + (size_t)n * h->HS;
        double top = -1e300, sum = 0, mean = 0;
        for (int j = 0; j <= i; j++) {
            const size_t k_at = ((size_t)b * h->T + j) * width + (size_t)(h->NH + kv) * h->HS;
            p[j] = 0;
            for (int d = 0; d < h->HS; d++) p[j] += scale * qkv[q_at + d] * qkv[k_at + d];
            if (p[j] > top) top = p[j];
        }
        for (int j = 0; j <= i; j++) sum += p[j] = exp(p[j] - top);
        lse[((size_t)b * h->NH + n) * h->T + i] = top + log(sum);
        for (int j = 0; j <= i; j++) {
            const size_t v_at = ((size_t)b * h->T + j) * width + (size_t)(h->NH + h->NKV + kv) * h->HS;
            p[j] /= sum, dp[j] = 0;
            for (int d = 0; d < h->HS; d++) {
                y[y_at + d] += p[j] * qkv[v_at + d];
                if (dqkv) dp[j] += (double)dy[y_at + d] * qkv[v_at + d], dqkv[v_at + d] += p[j] * dy[y_at + d];
            }
            mean += p[j] * dp[j];
        }
        for (int j = 0; dqkv && j <= i; j++) for (int d = 0; d < h->HS; d++) {
            const size_t k_at = ((size_t)b * h->T + j) * width + (size_t)(h->NH + kv) * h->HS;
            const double ds = p[j] * (dp[j] - mean) * scale;
            dqkv[q_at + d] += ds * qkv[k_at + d];
            dqkv[k_at + d] += ds * qkv[q_at + d];
        }
    }
    free(p), free(dp);
}

static ag_attention_args arguments(const heads *h, const float *qkv, float *y, float *lse) {
    ag_attention_args a;
    memset(&a, 0, sizeof a);
    a.B = h->B, a.T = h->T, a.NH = h->NH, a.NKV = h->NKV, a.HS = h->HS, a.qkv = qkv, a.y = y, a.lse = lse;
    a.len = h->len;
    return a;
}

static heads some_heads(int i) {
    static const int sizes[] = { 1, 3, 8, 32, 64, 80, 128, 16, 33, 256, 300 };
    static const int lengths[] = { 1, 2, 11, 12, 13, 16, 33, 63, 64, 65, 77, 128, 130, 200 };
    heads h;
    memset(&h, 0, sizeof h);
    h.B = 1 + below(3), h.T = lengths[(i * 5 + i / 14) % 14], h.HS = sizes[i % 11];
    h.NKV = 1 + below(3), h.NH = h.NKV * (1 + below(3));
    for (int b = 0; b < 4; b++) h.len[b] = i % 3 ? h.T : below(h.T + 1);
    return h;
}

// y, lse and dqkv against double. Padding is NaN: it must not be read, and it must come out as zeros.
static void attention_plain(void) {
    for (int s = 0; s < n_sets; s++) for (int i = 0; i < 60; i++) {
        ag_backend *b = ag_cpu_backend(sets[s].name, 1 + i % 3);
        heads h = some_heads(i);
        const int before = n_buffers, accumulate = i % 2;
        const size_t rows = (size_t)h.B * h.T, width = qkv_width(&h);
        const size_t out = (size_t)h.NH * h.HS, nl = (size_t)h.B * h.NH * h.T;
        float *qkv = random_floats(rows * width), *dy = random_floats(rows * out), *y = get(rows * out), *lse = get(nl);
        float *dqkv = accumulate ? random_floats(rows * width) : get(rows * width), *old = copy_of(dqkv, rows * width);
        const float factor = i % 4 == 3 ? 8 : 2;    // with 8 most rows have one large probability
        for (size_t e = 0; e < rows * width; e++) qkv[e] *= factor;
        for (int n = 0; n < h.B; n++) for (int t = h.len[n]; t < h.T; t++) {
            for (size_t e = 0; e < width; e++) qkv[((size_t)n * h.T + t) * width + e] = NAN;
            for (size_t e = 0; e < out; e++) dy[((size_t)n * h.T + t) * out + e] = NAN;
        }
        double *want = (double *)malloc((rows * (width + out) + nl) * sizeof(double));
        double *want_d = want + rows * out, *want_l = want_d + rows * width;
        plain_attention(&h, qkv, dy, want, want_l, want_d);
        ag_attention_args a = arguments(&h, qkv, y, lse);
        a.dy = dy, a.dqkv = dqkv, a.accumulate = accumulate;
        CHECK_INT(b->attention(b, &a), 0);
        CHECK_INT(b->attention_back(b, &a), 0);
        double worst = 0, worst_d = 0, worst_l = 0;
        for (size_t e = 0; e < rows * out; e++) worst = fmax(worst, y[e] == y[e] ? fabs(y[e] - want[e]) : 1e9);
        for (size_t e = 0; e < nl; e++)
            worst_l = fmax(worst_l, lse[e] == lse[e] ? fabs(lse[e] - want_l[e]) / (1 + fabs(want_l[e])) : 1e9);
        double largest = 1;
        for (size_t e = 0; e < rows * width; e++) largest = fmax(largest, fabs(want_d[e]));
        for (size_t e = 0; e < rows * width; e++) {
            const double d = dqkv[e] - (accumulate ? old[e] : 0) - want_d[e];
            worst_d = fmax(worst_d, d == d ? fabs(d) / largest : 1e9);
        }
        // A score is a sum of up to factor^2 sqrt(hs); its rounding error is a relative one of y.
        if (worst > 1e-5 + 5e-8 * factor * factor * factor * sqrt(h.HS) || worst_l > 2e-5 || worst_d > 4e-5)
            T_FAIL("%s: B %d T %d NH %d NKV %d hs %d: y %.1e lse %.1e dqkv %.1e", b->name, h.B, h.T, h.NH, h.NKV,
                   h.HS, worst, worst_l, worst_d);
        float *again = get(rows * out);             // without lse, as in inference
        a.y = again, a.lse = NULL;
        CHECK_INT(b->attention(b, &a), 0);
        CHECK_BITS(again, y, rows * out);
        free(want);
        put_back(before);
        b->destroy(b);
    }
}

// The same bits from every fused instruction set and every number of threads, and for a row in another batch with
// other padding.
static void attention_bits(void) {
    static const int threads[] = { 1, 2, 3, 4, 8 };
    for (int i = 0; i < 20; i++) {
        heads h = some_heads(i);
        const int before = n_buffers;
        const size_t rows = (size_t)h.B * h.T, width = qkv_width(&h);
        const size_t out = (size_t)h.NH * h.HS, nl = (size_t)h.B * h.NH * h.T;
        const float *qkv = random_floats(rows * width), *dy = random_floats(rows * out);
        float *y = get(rows * out), *dqkv = get(rows * width), *lse = get(nl);
        int done = 0;
        for (int s = 0; s < n_sets; s++) for (int t = 0; t < 5; t++) {
            if (!sets[s].fused) continue;
            ag_backend *b = ag_cpu_backend(sets[s].name, threads[t]);
            const int here = n_buffers;
            ag_attention_args a = arguments(&h, qkv, done ? get(rows * out) : y, done ? get(nl) : lse);
            a.dy = dy, a.dqkv = done ? get(rows * width) : dqkv;
            CHECK_INT(b->attention(b, &a), 0);
            CHECK_INT(b->attention_back(b, &a), 0);
            if (done++) {
                CHECK_BITS(a.y, y, rows * out);
                CHECK_BITS(a.lse, lse, nl);
                CHECK_BITS(a.dqkv, dqkv, rows * width);
                put_back(here);
            }
            // Row 0 alone, with more padding.
            heads one = h;
            one.B = 1, one.T = h.T + 1 + below(70);
            const int there = n_buffers;
            float *qkv1 = get((size_t)one.T * width), *dy1 = get((size_t)one.T * out), *y1 = get((size_t)one.T * out);
            memcpy(qkv1, qkv, (size_t)h.T * width * sizeof(float)), memcpy(dy1, dy, (size_t)h.T * out * sizeof(float));
            a = arguments(&one, qkv1, y1, get((size_t)one.NH * one.T));
            a.dy = dy1, a.dqkv = get((size_t)one.T * width);
            CHECK_INT(b->attention(b, &a), 0);
            CHECK_INT(b->attention_back(b, &a), 0);
            CHECK_BITS(y1, y, (size_t)h.T * out);
            CHECK_BITS(a.dqkv, dqkv, (size_t)h.T * width);
            put_back(there);
            b->destroy(b);
        }
        put_back(before);
    }
}

// A sequence in pieces, keys and values in a cache that holds NaN where nothing was written, gives the bits of the
// full pass.
static void attention_cache(void) {
    for (int s = 0; s < n_sets; s++) for (int i = 0; i < 30; i++) {
        ag_backend *b = ag_cpu_backend(sets[s].name, 1 + i % 2);
        heads h = some_heads(i);
        for (int n = 0; n < 4; n++) h.len[n] = h.T;
        const int before = n_buffers, most = h.T + below(9);
        const size_t rows = (size_t)h.B * h.T, width = qkv_width(&h);
        const size_t out = (size_t)h.NH * h.HS, kv = (size_t)h.NKV * h.HS;
        const float *qkv = random_floats(rows * width);
        float *y = get(rows * out), *lse = get((size_t)h.B * h.NH * h.T);
        ag_attention_args a = arguments(&h, qkv, y, lse);
        CHECK_INT(b->attention(b, &a), 0);
        float *k = get((size_t)h.B * most * kv), *v = get((size_t)h.B * most * kv);
        // Each row of the batch advances by its own number of positions; every third time all of them by one.
        heads piece = h;
        for (int n = 0; n < h.B; n++) piece.start[n] = 0;
        for (int calls = 0, left = 1; left; calls++) {
            const int here = n_buffers, single = i % 3 == 0 || calls % 3 == 2;
            piece.T = single ? 1 : 1 + below(i % 3 == 1 ? 90 : 20);
            left = 0;
            for (int n = 0; n < h.B; n++) {
                const int rest = h.T - piece.start[n];
                piece.len[n] = single ? (rest > 0) : below(piece.T + 1);
                if (piece.len[n] > rest) piece.len[n] = rest;
            }
            float *part = get((size_t)h.B * piece.T * width), *got = get((size_t)h.B * piece.T * out);
            for (int n = 0; n < h.B; n++)
                memcpy(part + (size_t)n * piece.T * width, qkv + ((size_t)n * h.T + piece.start[n]) * width,
                       (size_t)piece.len[n] * width * sizeof(float));
            a = arguments(&piece, part, got, calls % 2 ? get((size_t)h.B * h.NH * piece.T) : NULL);
            a.k_cache = k, a.v_cache = v, a.T_max = most, a.start = piece.start;
            CHECK_INT(b->attention(b, &a), 0);
            for (int n = 0; n < h.B; n++) {
                const size_t n_piece = (size_t)piece.len[n], n_full = (size_t)n * h.T + piece.start[n];
                const float *y_piece = got + (size_t)n * piece.T * out;
                CHECK_BITS(y_piece, y + n_full * out, n_piece * out);
                for (size_t e = n_piece * out; e < (size_t)piece.T * out; e++) CHECK(y_piece[e] == 0);
                for (int q = 0; q < h.NH && a.lse; q++) {
                    const float *lse_full = lse + ((size_t)n * h.NH + q) * h.T + piece.start[n];
                    CHECK_BITS(a.lse + ((size_t)n * h.NH + q) * piece.T, lse_full, n_piece);
                }
            }
            for (int n = 0; n < h.B; n++) piece.start[n] += piece.len[n], left |= piece.start[n] < h.T;
            put_back(here);
        }
        for (int n = 0; n < h.B; n++) for (int t = 0; t < most; t++) for (size_t e = 0; e < kv; e++) {
            const size_t at = ((size_t)n * most + t) * kv + e;
            const size_t from = ((size_t)n * h.T + t) * width + (size_t)h.NH * h.HS + e;
            if (t < h.T) CHECK(k[at] == qkv[from] && v[at] == qkv[from + kv]);
            else CHECK(!memcmp(k + at, &fence, 4) && !memcmp(v + at, &fence, 4));
        }
        put_back(before);
        b->destroy(b);
    }
}

// A packed copy of B is kept for as long as its version is the same, and no longer. That it is kept shows when B is
// changed behind the kernel's back; the second column block and the second block of k have to find their own parts.
static void kept_copies(void) {
    static const int shapes[][3] = { { 100, 75, 70 }, { 50, 523, 6301 } };
    const int one[2] = { 1, 1 };
    const size_t zero[2] = { 0, 0 };
    for (int i = 0; i < n_sets; i++) for (int l = 0; l < 2; l++) for (int flags = 0; flags < 4; flags++) {
        const int M = shapes[l][0], N = shapes[l][1], K = shapes[l][2], tb = flags & 1, before = n_buffers;
        ag_backend *b = ag_cpu_backend(sets[i].name, 2), *fresh = ag_cpu_backend(sets[i].name, 1);
        const product matmul = flags >> 1 ? b->matmul_bf16 : b->matmul;
        const size_t nc = (size_t)M * N, nb = (size_t)K * N;
        float *A = random_floats((size_t)M * K), *B = random_floats(nb), *C = get(nc), *want = get(nc), *old = get(nc);
        for (int version = 1; version < 3; version++) {
            fresh->steady = 0, b->steady = (unsigned)version;
            (flags >> 1 ? fresh->matmul_bf16 : fresh->matmul)(fresh, want, A, B, NULL, M, N, K, 0, tb, one, zero, zero,
                                                              zero, 0);
            for (int turn = 0; turn < 3; turn++) {
                CHECK_INT(matmul(b, C, A, B, NULL, M, N, K, 0, tb, one, zero, zero, zero, 0), 0);
                CHECK_BITS(C, want, nc);
            }
            memcpy(old, want, nc * sizeof *old);
            for (size_t e = 0; e < nb; e++) B[e] = small();
            CHECK_INT(matmul(b, C, A, B, NULL, M, N, K, 0, tb, one, zero, zero, zero, 0), 0);
            CHECK_BITS(C, old, nc);
            (flags >> 1 ? fresh->matmul_bf16 : fresh->matmul)(fresh, want, A, B, NULL, M, N, K, 0, tb, one, zero, zero,
                                                              zero, 0);
            b->steady = 0;
            CHECK_INT(matmul(b, C, A, B, NULL, M, N, K, 0, tb, one, zero, zero, zero, 0), 0);
            CHECK_BITS(C, want, nc);
        }
        b->destroy(b), fresh->destroy(fresh);
        put_back(before);
    }
}

// Kernels keep a packed copy of a parameter from product to product. However it changes, the next product knows.
enum { BATCH = 100, INPUTS = 70, OUTPUTS = 41 };
static void one_product(ag_tensor *x, ag_tensor *w, int how, ag_real *y, ag_real *dx) {
    ag_tensor *out = how == 0 ? ag_linear(x, w, NULL) : how == 1 ? ag_matmul_t(x, w) : ag_linear_gelu(x, w, NULL);
    ag_get(out, y);
    ag_backward(ag_mean(ag_mul(out, out)));
    ag_get_grad(x, dx);
}

static ag_ctx *two_parameters(const char *kernels, int how, int bf16, ag_tensor **x, ag_tensor **w) {
    ag_ctx *ag = ag_new_with(3, ag_cpu_backend(kernels, 2));
    ag_set_matmul_precision(ag, bf16 ? AG_BF16 : AG_FLOAT32);
    *x = ag_param(ag, BATCH, INPUTS);
    *w = how == 1 ? ag_param(ag, OUTPUTS, INPUTS) : ag_param(ag, INPUTS, OUTPUTS);
    return ag;
}

static void packed_parameters(void) {
    enum { SET, PART, FILL, RANDOM, SGD, ADAMW, MUON, VIEW, SET_AGAIN, NOTHING, CHANGES };
    static ag_real host_x[BATCH * INPUTS], host_w[INPUTS * OUTPUTS], y[2][BATCH * OUTPUTS], dx[2][BATCH * INPUTS];
    for (int i = 0; i < n_sets; i++) for (int bf16 = 0; bf16 < 2; bf16++) for (int how = 0; how < 3; how++) {
        ag_tensor *x, *w, *x2, *w2;
        ag_ctx *ag = two_parameters(sets[i].name, how, bf16, &x, &w);
        ag_randn(x, 1), ag_randn(w, 1);
        for (int change = 0; change < CHANGES; change++) for (int turn = 0; turn < 3; turn++) {
            const ag_real one = 1;
            one_product(x, w, how, y[0], dx[0]);
            ag_ctx *fresh = two_parameters(sets[i].name, how, bf16, &x2, &w2);
            ag_get(x, host_x), ag_get(w, host_w), ag_set(x2, host_x), ag_set(w2, host_w);
            one_product(x2, w2, how, y[1], dx[1]);
            ag_free(fresh);
            CHECK_BITS(y[0], y[1], BATCH * OUTPUTS);
            CHECK_BITS(dx[0], dx[1], BATCH * INPUTS);
            if (turn == 2) switch (change) {
            case SET: case SET_AGAIN: host_w[7] += 1, ag_set(w, host_w); break;
            case PART: host_w[90] -= 2, ag_set_part(w, 90, 1, host_w + 90); break;
            case FILL: ag_fill(w, 0.5f); break;
            case RANDOM: ag_randn(w, 1); break;
            case SGD: ag_sgd(ag, 0.1, 0, 0); break;
            case ADAMW: ag_adamw(ag, 0.1, 0.9, 0.99, 0.1); break;
            case MUON: ag_muon_group(ag, AG_ALL_GROUPS, 0.1, 0.9, 0); break;
            case VIEW: ag_set_part(ag_reshape(w, -1), 5, 1, &one); break;
            }
            ag_zero_grad(ag), ag_reset(ag);
        }
        CHECK(!ag_error(ag));
        ag_free(ag);
    }
}

// Nor do the keys that attention writes into its cache look like the old ones.
static void packed_keys(void) {
    enum { HS = 16, MOST_KEYS = 128 };
    for (int i = 0; i < n_sets; i++) {
        ag_ctx *ag = ag_new_with(3, ag_cpu_backend(sets[i].name, 1));
        ag_kv cache = { ag_state(ag, 1, MOST_KEYS, HS), ag_state(ag, 1, MOST_KEYS, HS) };
        ag_no_grad(ag, 1);
        for (int turn = 0; turn < 5; turn++) {
            ag_real scores[100 * MOST_KEYS];
            ag_attention(ag_full(ag, (ag_real)turn + 1, 1, 1, 3 * HS), 1, 1, &cache, &turn, NULL);
            ag_get(ag_matmul_t(ag_full(ag, 1, 1, 100, HS), cache.k), scores);
            CHECK(scores[turn] == HS * (turn + 1));
            ag_reset(ag);
        }
        CHECK(!ag_error(ag));
        ag_free(ag);
    }
}

// When memory runs out a kernel says so and leaves the caller's buffers alone.
static void out_of_memory(void) {
    for (int s = 0; s < n_sets; s++) for (int which = 0; which < 3; which++) {
        long calls = 1;
        for (long n = 0; n < calls; n++) {
            ag_backend *b = ag_cpu_backend(sets[s].name, 2);
            const int before = n_buffers, one[2] = { 1, 1 };
            const size_t zero[2] = { 0, 0 };
            heads h;
            memset(&h, 0, sizeof h);
            h.B = 2, h.T = 40, h.NH = h.NKV = 2, h.HS = 20, h.len[0] = h.len[1] = 40;
            float *x = random_floats(80 * 120), *w = random_floats(80 * 120);
            float *y = random_floats(80 * 120), *z = random_floats(80 * 120);
            ag_attention_args a = arguments(&h, x, y, z);
            a.dy = w, a.dqkv = copy_of(x, 80 * 120);
            mallocs = 0, fail_at = n;
            const int status = which == 0 ? b->matmul(b, y, x, w, NULL, 100, 96, 96, 0, 1, one, zero, zero, zero, 0)
                                          : which == 1 ? b->attention(b, &a) : b->attention_back(b, &a);
            fail_at = -1;
            if (n == 0) calls = mallocs + 4;        // later calls of the loop may get further than the first
            CHECK_INT(status, mallocs > n ? -1 : 0);
            put_back(before);
            b->destroy(b);
        }
    }
}

int main(int argc, char **argv) {
    T_BEGIN("matmul");
    find_sets();
    T_RUN(products);
    T_RUN(batches);
    T_RUN(product_bits);
    T_RUN(product_infinity);
    T_RUN(kept_copies);
    T_RUN(packed_parameters);
    T_RUN(packed_keys);
    T_RUN(attention_plain);
    T_RUN(attention_bits);
    T_RUN(attention_cache);
    T_RUN(out_of_memory);
    return T_END();
}
