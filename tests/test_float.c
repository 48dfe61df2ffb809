// test_float.c - the ops in float, on every instruction set of this machine, against the same ops in double (naive
// kernels and libm), against each other bit by bit, and against PyTorch's results in tests/golden/ops.bin.
//
//     cc -O3 tests/test_float.c -o build/test_float -lm && build/test_float
//
// The double twin is this very file with AG_REAL double. It is built and run when the test starts (by the compiler
// named in CC, or cc) and hands its results over in a file: values and gradients of every case of op_cases.h.
#define _POSIX_C_SOURCE 200809L
#ifdef FLOAT_TWIN
#define AG_REAL double
#endif
#define AUTOGRAD_IMPLEMENTATION
#include "../autograd.h"
#include "op_cases.h"
#include "test.h"
#include <unistd.h>

#define N_CASES (N_OP_CASES + N_BIG_CASES)
static const op_case *nth_case(int i) { return i < N_OP_CASES ? &op_cases[i] : &big_cases[i - N_OP_CASES]; }

// The result of a case, its weighed sum, and the gradients of its parameters, one after the other in *out (malloced).
// The lengths go to sizes[]. Returns how many tensors there are, 0 after an error.
static int forgetting, forgotten;          // 1: before backward all results are forgotten that can be; how many were
static int results_of(ag_ctx *g, int i, ag_real **out, size_t sizes[8]) {
    size_t total = 1, n = 0;
    int tensors = 0;
    ag_tensor *y, *l;
    *out = NULL;
    make_params(g, nth_case(i)->spec, seed_of(nth_case(i)->name));
    y = nth_case(i)->build(g), l = weighed(y);
    if (!l) return 0;
    for (int k = 0; k < ag_param_count(g); k++) total += ag_param_get(g, k)->count;
    *out = (ag_real *)malloc((total + y->count) * sizeof **out);
    ag_get(y, *out), sizes[tensors++] = n = y->count;
    (*out)[n++] = (ag_real)ag_item(l), sizes[tensors++] = 1;
    if (forgetting) forgotten += forget_all(g);
    if (ag_backward(l)) return 0;
    for (int k = 0; k < ag_param_count(g); k++) {
        ag_get_grad(ag_param_get(g, k), *out + n);
        n += sizes[tensors++] = ag_param_get(g, k)->count;
    }
    return tensors;
}

#ifdef FLOAT_TWIN
int main(int argc, char **argv) {
    FILE *f = argc > 1 ? fopen(argv[1], "wb") : NULL;
    for (int i = 0; i < N_CASES && f; i++) {
        ag_real *x;
        size_t sizes[8], n = 0;
        ag_ctx *g = ag_new(1);
        int tensors = results_of(g, i, &x, sizes);
        if (!tensors) printf("%s: %s\n", nth_case(i)->name, ag_error(g) ? ag_error(g) : "no result");
        for (int k = 0; k < tensors; k++) n += sizes[k];
        if (fwrite(&n, sizeof n, 1, f) != 1 || (n && fwrite(x, sizeof *x, n, f) != n)) return 1;
        free(x);
        ag_free(g);
    }
    return !f || fclose(f) != 0;
}
#else

static const char *const backend_names[] = { "avx512", "avx2", "neon", "portable", "naive" };
enum { N_BACKENDS = 5 };

static double *twin[N_CASES];
static size_t twin_size[N_CASES];

static int read_twin(void) {
    static int state;                               // 0 not tried, 1 there, -1 failed
    char command[600], base[100], file[120];
    const char *cc = getenv("CC") ? getenv("CC") : "cc";
    FILE *f;
    if (state) return state > 0;
    state = -1;
    if (getenv("FLOAT_TWIN_FILE")) {                // somebody has built and run it already: tests/planted/run.sh
        snprintf(file, sizeof file, "%.100s", getenv("FLOAT_TWIN_FILE"));
        f = fopen(file, "rb"), command[0] = 0;
    } else {
        snprintf(base, sizeof base, "build/float_twin_%ld", (long)getpid());
        snprintf(file, sizeof file, "%s.bin", base);
        snprintf(command, sizeof command, "mkdir -p build && %.100s -O2 -w -DFLOAT_TWIN tests/test_float.c "
                 "-o %s -lm -lpthread && %s %s", cc, base, base, file);
        f = system(command) ? NULL : fopen(file, "rb");
        remove(base), remove(file);                 // an open file can still be read
    }
    if (!f) { T_FAIL("cannot build or run the double twin: %s", command); return 0; }
    for (int i = 0; i < N_CASES; i++) {
        int whole = fread(&twin_size[i], sizeof twin_size[i], 1, f) == 1;
        twin[i] = (double *)malloc((twin_size[i] + 1) * sizeof(double));
        if (whole) whole = fread(twin[i], sizeof(double), twin_size[i], f) == twin_size[i];
        if (!whole) { T_FAIL("%s ends early", file); fclose(f); return 0; }
    }
    fclose(f);
    state = 1;
    return 1;
}

// |x - y| / |y|; what nearly vanishes is held to an absolute bound of 1e-7: the log of a sum that rounds to 1 has no
// more.
static double relative_l2(const float *x, const double *y, size_t n) {
    double diff = 0, norm = 0;
    for (size_t i = 0; i < n; i++) diff += (x[i] - y[i]) * (x[i] - y[i]), norm += y[i] * y[i];
    if (diff == 0) return 0;
    return sqrt(diff) / (sqrt(norm) + 1e-2 * sqrt((double)n));
}

static void float_agrees_with_double(void) {
    double worst = 0;
    const char *worst_name = "";
    int backends = 0;
    if (!read_twin()) return;
    const char *only = getenv("AG_CPU");            // one backend, if the caller is in a hurry
    for (int b = 0; b < N_BACKENDS; b++)
        for (int i = 0; i < N_CASES && (!only || !strcmp(only, backend_names[b])); i++) {
            ag_real *x;
            size_t sizes[8], at = 0, total = 0;
            ag_backend *backend = ag_cpu_backend(backend_names[b], 2);
            if (!backend) break;
            backends += i == 0;
            ag_ctx *g = ag_new_with(1, backend);
            int tensors = results_of(g, i, &x, sizes);
            for (int k = 0; k < tensors; k++) total += sizes[k];
            if (!tensors || total != twin_size[i])
                T_FAIL("%s on %s: %zu numbers, the twin has %zu: %s", nth_case(i)->name, backend_names[b], total,
                    twin_size[i], ag_error(g) ? ag_error(g) : "");
            else for (int k = 0; k < tensors; at += sizes[k++]) {
                double error = relative_l2(x + at, twin[i] + at, sizes[k]);
                // The weighed sum is one number in which terms cancel; compared with the size of its terms.
                if (k == 1) error *= 1e-2;
                if (error > worst) worst = error, worst_name = nth_case(i)->name;
                if (!(error <= 1e-5)) T_FAIL("%s on %s: tensor %d is off by %.2g", nth_case(i)->name, backend_names[b],
                    k, error);
            }
            free(x);
            ag_free(g);
        }
    CHECK(backends >= (only ? 1 : 2));
    printf("  %d cases on %d backends, worst relative error %.2g (%s)\n", N_CASES, backends, worst, worst_name);
}

// ---- the same bits -------------------------------------------------------------------------------------------------
static float *bits_of(int i, const char *name, int threads, size_t *n) {
    float *x;
    size_t sizes[8];
    ag_backend *backend = ag_cpu_backend(name, threads);
    *n = 0;
    if (!backend) return NULL;
    ag_ctx *g = ag_new_with(1, backend);
    int tensors = results_of(g, i, &x, sizes);
    for (int k = 0; k < tensors; k++) *n += sizes[k];
    ag_free(g);
    return x;
}

static void threads_do_not_change_a_bit(void) {
    static const int counts[] = {2, 3, 4, 8};
    for (int i = 0; i < N_CASES; i++) {
        size_t n, m;
        float *one = bits_of(i, NULL, 1, &n);
        for (int k = 0; k < 4; k++) {
            if (i < N_OP_CASES && k > 1) continue;
            float *many = bits_of(i, NULL, counts[k], &m);
            if (!n || n != m || memcmp(one, many, n * sizeof *one))
                T_FAIL("%s: %d threads give other bits", nth_case(i)->name, counts[k]);
            free(many);
        }
        free(one);
    }
}

// One fused operation or one IEEE operation at a time: AVX2 and AVX-512 agree, and so does any path with a fused fmaf.
static void instruction_sets_do_not_change_a_bit(void) {
    int compared = 0;
#if defined(__x86_64__)
    static const char *const other[] = { "avx2", "portable" };
#else
    static const char *const other[] = { "neon", "portable" };
#endif
    for (int k = 0; k < 2; k++) {
        ag_backend *best = ag_cpu_backend(NULL, 1), *b = ag_cpu_backend(other[k], 1);
        int same = !best || !b || !strcmp(best->name, b->name);
        if (best) best->destroy(best);
        if (b) b->destroy(b);
#if !defined(FP_FAST_FMAF) && !defined(__FMA__) && !defined(__ARM_FEATURE_FMA)
        if (k == 1) break;                          // the portable path of this build has no fused multiply-add
#endif
        for (int i = 0; i < N_CASES && !same; i++) {
            size_t n, m;
            float *x = bits_of(i, NULL, 1, &n), *y = bits_of(i, other[k], 1, &m);
            if (!n || n != m || memcmp(x, y, n * sizeof *x))
                T_FAIL("%s: %s gives other bits", nth_case(i)->name, other[k]);
            free(x), free(y), compared++;
        }
    }
    if (!compared) puts("skipped: bits of two instruction sets: this machine and build have one only");
}

static void forgetting_does_not_change_a_bit(void) {
    forgotten = 0;
    for (int b = 0; b < N_BACKENDS; b++)
        for (int i = 0; i < N_CASES; i++) {
            size_t n, m;
            float *x = bits_of(i, backend_names[b], 2, &n), *y;
            forgetting = 1, y = bits_of(i, backend_names[b], 2, &m), forgetting = 0;
            if (n != m || (n && memcmp(x, y, n * sizeof *x)))
                T_FAIL("%s on %s: other bits after ag_forget", nth_case(i)->name, backend_names[b]);
            free(x), free(y);
        }
    CHECK(forgotten > 2 * N_CASES);
}

// A row of a product, of a norm, of a softmax has the same bits alone as among 64 others.
static void a_row_does_not_depend_on_its_neighbours(void) {
    enum { M = 65, K = 77, N = 83 };
    static float x[M * K], many[M * N], one[N];
    for (int op = 0; op < 10; op++) {
        ag_ctx *g = ag_new(1);
        make_params(g, "65,77n 77,83n 83n 83,77n 77n", 5);
        ag_tensor *w = ag_param_get(g, 1), *bias = ag_param_get(g, 2), *wt = ag_param_get(g, 3),
            *v = ag_param_get(g, 4);
        ag_get(ag_param_get(g, 0), x);
        for (int r = -1; r < M; r += r < 0 ? 1 : 13) {
            ag_tensor *a = r < 0 ? ag_param_get(g, 0) : ag_input(g, x + r * K, 1, K), *y = NULL;
            switch (op) {
            case 0: y = ag_matmul(a, w); break;
            case 1: y = ag_matmul_t(a, wt); break;
            case 2: y = ag_linear(a, w, bias); break;
            case 3: y = ag_softmax(a); break;
            case 4: y = ag_log_softmax(a); break;
            case 5: y = ag_layernorm(a, v, v, 1e-5); break;
            case 6: y = ag_rmsnorm(a, v, 1e-5); break;
            case 7: y = ag_gelu(a); break;
            case 8: y = ag_sum_dim(a, 1); break;
            case 9: y = ag_nll(a, many_ids(K, 0)); break;
            }
            if (!y) { T_FAIL("op %d: %s", op, ag_error(g)); break; }
            size_t n = y->count / (r < 0 ? M : 1);
            ag_get(y, r < 0 ? many : one);
            if (op == 9 && r > 0) continue;         // another target
            if (r >= 0 && memcmp(one, many + (size_t)r * n, n * sizeof *one))
                T_FAIL("op %d: row %d alone has other bits", op, r);
        }
        ag_free(g);
    }
}

// Decoding: what comes out of a KV cache, one position at a time or in pieces, equals the full pass bit by bit.
static void cached_attention_has_the_bits_of_the_full_pass(void) {
    static const int shapes[][4] = {{9, 4, 2, 3}, {70, 2, 2, 16}, {150, 2, 1, 33}, {67, 4, 4, 64}};
    for (int k = 0; k < 4; k++) {
        int T = shapes[k][0], NH = shapes[k][1], NKV = shapes[k][2], hs = shapes[k][3];
        int W = (NH + 2 * NKV) * hs, O = NH * hs;
        char spec[40];
        ag_ctx *g = ag_new(1);
        snprintf(spec, sizeof spec, "1,%d,%dn", T, W);
        make_params(g, spec, (uint64_t)k);
        float *x = (float *)malloc((size_t)T * W * sizeof *x), *full = (float *)malloc((size_t)T * O * sizeof *full);
        float *y = (float *)malloc((size_t)T * O * sizeof *y);
        ag_get(ag_param_get(g, 0), x);
        ag_get(ag_attention(ag_param_get(g, 0), NH, NKV, NULL, NULL, NULL), full);
        ag_kv cache;
        cache.k = ag_state(g, 1, T + 5, NKV * hs), cache.v = ag_state(g, 1, T + 5, NKV * hs);
        for (int from = 0, step = T / 2 + 1; from < T; from += step, step = from % 3 ? 1 : 2) {
            if (step > T - from) step = T - from;
            int start[1];
            start[0] = from;
            if (ag_get(ag_attention(ag_input(g, x + (size_t)from * W, 1, step, W), NH, NKV, &cache, start, NULL), y))
                T_FAIL("position %d: %s", from, ag_error(g));
            if (memcmp(y, full + (size_t)from * O, (size_t)step * O * sizeof *y))
                T_FAIL("T=%d hs=%d: %d positions from %d on have other bits", T, hs, step, from);
            ag_reset(g);
        }
        free(x), free(full), free(y);
        ag_free(g);
    }
}

// Texts one after the other have the bits that each has in a padded batch, forward and backward, and with a cache.
static void ragged_attention_has_the_bits_of_the_padded_one(void) {
    static const int shapes[][3] = {{4, 2, 3}, {2, 2, 16}, {6, 1, 33}, {2, 1, 64}}, len[5] = {70, 0, 1, 130, 64};
    static const int row[5] = {0, 2, 3, 5, 6};
    enum { B = 5, T = 130, N = 265 };
    for (int k = 0; k < 4; k++) {
        int NH = shapes[k][0], NKV = shapes[k][1], hs = shapes[k][2], W = (NH + 2 * NKV) * hs, O = NH * hs;
        char spec[40];
        ag_ctx *g = ag_new(1);
        snprintf(spec, sizeof spec, "%d,%dn %d,%d,%dn", N, W, B, T, W);
        make_params(g, spec, (uint64_t)k);
        float *x = (float *)malloc((size_t)B * T * W * 4 * sizeof *x), *padded = x + B * T * W, *y = padded + B * T * W;
        ag_get(ag_param_get(g, 0), x), ag_get(ag_param_get(g, 1), padded);
        for (int b = 0, at = 0; b < B; at += len[b++])
            memcpy(padded + b * T * W, x + at * W, (size_t)(len[b] * W) * sizeof *x);
        ag_set(ag_param_get(g, 1), padded);
        ag_tensor *one = ag_attention_ragged(ag_param_get(g, 0), NH, NKV, NULL, B, NULL, NULL, len);
        ag_tensor *two = ag_attention(ag_param_get(g, 1), NH, NKV, NULL, NULL, len);
        ag_backward(ag_add(ag_sum(ag_mul(one, one)), ag_sum(ag_mul(two, two))));
        float *y2 = y + N * O;
        ag_get(one, y), ag_get(two, y2);
        for (int b = 0, at = 0; b < B; at += len[b++])
            if (memcmp(y + at * O, y2 + b * T * O, (size_t)(len[b] * O) * sizeof *y))
                T_FAIL("hs=%d: text %d has other bits", hs, b);
        ag_get_grad(ag_param_get(g, 0), x), ag_get_grad(ag_param_get(g, 1), padded);
        for (int b = 0, at = 0; b < B; at += len[b++])
            if (memcmp(x + at * W, padded + b * T * W, (size_t)(len[b] * W) * sizeof *x))
                T_FAIL("hs=%d: the gradient of text %d has other bits", hs, b);
        ag_kv cache;
        cache.k = ag_state(g, 7, T, NKV * hs), cache.v = ag_state(g, 7, T, NKV * hs);
        ag_tensor *three = ag_attention_ragged(ag_detach(ag_param_get(g, 0)), NH, NKV, &cache, B, row, NULL, len);
        CHECK(three && !ag_get(three, y2) && !memcmp(y, y2, (size_t)(N * O) * sizeof *y));
        CHECK(!ag_error(g));
        free(x), ag_free(g);
    }
}

// ---- our own exp, log, tanh ----------------------------------------------------------------------------------------
static double ulps(float got, double want) {
    int e;
    if (isnan(want)) return isnan(got) ? 0 : 1e9;
    if ((float)want == got) return 0;
    if (isinf(want) || isinf(got)) return fabs(want) > 3.4028235e38 && isinf(got) ? 0 : 1e9;
    frexp(want, &e);
    return fabs(got - want) / ldexp(1, (e < -125 ? -125 : e) - 24);
}

static double log_sigmoid_of(double x) { return (x < 0 ? x : 0) - log1p(exp(-fabs(x))); }
static double sigmoid_of(double x) { return x >= 0 ? 1 / (1 + exp(-x)) : exp(x) / (1 + exp(x)); }

static void elementary_functions(void) {
    enum { N = 400000 };
    static float x[N], y[N];
    static const float special[] = {0, -0.0f, 1, -1, 88.72283f, 88.72284f, -87.33655f, -103.97f, -104.5f, 1e-45f,
                                    -1e-45f, 1e-38f, 3e38f, -3e38f, 1e-7f, 0.5f, 20, -20, 100, -100,
                                    9.01f, 1e-4f, 0.625f};
    static const struct { const char *name; double low, high, bound; } f[] = {
        {"exp", -105, 89, 2}, {"log", 0, 0, 2}, {"tanh", -12, 12, 2}, {"sigmoid", -100, 30, 3},
            {"log_sigmoid", -100, 30, 4}, {"sqrt", 0, 0, 0.5001}
    };
    for (int b = 0; b < 4; b++)
        for (int k = 0; k < 6; k++) {
            ag_backend *backend = ag_cpu_backend(backend_names[b], 1);
            ag_rng r = {99, 0};
            double worst = 0;
            float at = 0;
            if (!backend) continue;
            ag_ctx *g = ag_new_with(1, backend);
            for (int i = 0; i < N; i++) {
                double u = ag_rng_uniform(&r);
                x[i] = f[k].low < f[k].high ? (float)(f[k].low + u * (f[k].high - f[k].low))
                    : (float)ldexp(1 + u, (int)(ag_rng_u32(&r) % 270) - 145);
                if (i % 8 == 0 && k >= 2 && k < 5) x[i] = (float)ldexp(i % 16 ? 1 + u : -1 - u,
                    -(int)(ag_rng_u32(&r) % 120));
                if (i % 4 == 1 && k == 1) x[i] = (float)(1 + (u - 0.5) * 0.1);
            }
            memcpy(x, special, sizeof special);
            x[100] = INFINITY, x[101] = -INFINITY, x[102] = NAN;
            if (k == 1 || k == 5) for (int i = 0; i < 101; i++) x[i] = fabsf(x[i]);
            ag_tensor *t = ag_input(g, x, N);
            t = k == 0 ? ag_exp(t) : k == 1 ? ag_log(t) : k == 2 ? ag_tanh(t) : k == 3 ? ag_sigmoid(t)
                : k == 4 ? ag_log_sigmoid(t) : ag_sqrt(t);
            ag_get(t, y);
            for (int i = 0; i < N; i++) {
                double v = x[i], want = k == 0 ? exp(v) : k == 1 ? log(v) : k == 2 ? tanh(v) : k == 3 ? sigmoid_of(v)
                    : k == 4 ? log_sigmoid_of(v) : sqrt(v);
                double u = ulps(y[i], want);
                if (u > worst) worst = u, at = x[i];
            }
            if (!(worst <= f[k].bound)) T_FAIL("%s on %s: %.2f ulp at %.9g, wanted at most %g", f[k].name,
                backend_names[b], worst, (double)at, f[k].bound);
            else if (b == 0 || b == 2) printf("  %s on %s: %.2f ulp\n", f[k].name, backend_names[b], worst);
            ag_free(g);
        }
}

// ---- PyTorch's results ---------------------------------------------------------------------------------------------
// A safetensors file: eight bytes of length, a JSON header that names each tensor's dtype, shape and place, the data.
static char *golden;
static size_t golden_size;

static void *golden_tensor(const char *name, const char *key, size_t *count, int *ndim, int shape[4]) {
    char text[200];
    unsigned long long header = 0, from, to;
    for (int i = 7; i >= 0; i--) header = header << 8 | (unsigned char)golden[i];
    snprintf(text, sizeof text, "\"%s/%s\":{", name, key);
    const char *at = strstr(golden + 8, text), *s;
    if (!at || (size_t)(at - golden) > 8 + header) return NULL;
    if (!(s = strstr(at, "\"shape\":["))) return NULL;
    for (s += 9, *ndim = 0; *s != ']' && *ndim < 4; s += *s == ',') shape[(*ndim)++] = (int)strtol(s, (char **)&s, 10);
    if (!(s = strstr(at, "\"data_offsets\":[")) || sscanf(s + 16, "%llu,%llu", &from, &to) != 2) return NULL;
    if (to < from || to > golden_size - 8 - header) return NULL;
    *count = (size_t)(to - from) / 4;
    return golden + 8 + header + from;
}

static ag_tensor *golden_param(ag_ctx *g, const char *name, const char *key) {
    int d[4] = {AG_END, AG_END, AG_END, AG_END}, ndim, s[4];
    size_t n;
    float *x = (float *)golden_tensor(name, key, &n, &ndim, s);
    if (!x) return NULL;
    for (int i = 0; i < ndim; i++) d[i] = s[i];
    ag_tensor *t = ag_param_at(g, d[0], d[1], d[2], d[3], AG_END);
    float *copy = (float *)malloc((n + 1) * sizeof *copy);
    memcpy(copy, x, n * sizeof *copy);
    (ag_set)(t, copy);
    free(copy);
    return t;
}

static void compare_golden(const char *name, const char *key, ag_tensor *t, int gradient) {
    int ndim, s[4];
    size_t n;
    const char *raw = (const char *)golden_tensor(name, key, &n, &ndim, s);
    if (!raw || !t || n != t->count) { T_FAIL("%s/%s: not there, or of another size", name, key); return; }
    float *x = (float *)malloc((n + 1) * sizeof *x);
    double *want = (double *)malloc((n + 1) * sizeof *want);
    for (size_t i = 0; i < n; i++) { float v; memcpy(&v, raw + 4 * i, 4); want[i] = v; }
    CHECK((gradient ? ag_get_grad(t, x) : ag_get(t, x)) == 0);
    double error = relative_l2(x, want, n);
    if (!(error <= 1e-5)) T_FAIL("%s/%s is off by %.2g", name, key, error);
    free(x), free(want);
}

static void pytorch_agrees(void) {
    static const char *const names[] = {
        "softmax", "softmax_large", "log_softmax", "log_softmax_large", "layernorm", "layernorm_wide", "rmsnorm",
        "rmsnorm_wide", "gelu", "gelu_large", "silu", "silu_large", "sigmoid_large", "tanh_large", "linear",
        "attention", "attention_grouped", "attention_one_key", "attention_long", "attention_large",
        "rope", "rope_start", "cross_entropy", "cross_entropy_large", "cross_entropy_weighted"
    };
    static const int heads[][2] = {{3, 3}, {6, 2}, {4, 1}, {1, 1}, {2, 2}}, start5[] = {5, 5};
    FILE *f = fopen("tests/golden/ops.bin", "rb");
    if (!f) { T_FAIL("tests/golden/ops.bin is not there, and belongs to the repository"); return; }
    golden = (char *)calloc(1, 8 << 20);
    golden_size = fread(golden, 1, (8 << 20) - 1, f);
    fclose(f);
    for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
        const char *name = names[k];
        int nd, s[4];
        size_t n;
        ag_ctx *g = ag_new(1);
        ag_tensor *x = golden_param(g, name, "x"), *w = golden_param(g, name, "weight"),
            *bias = golden_param(g, name, "bias"), *y = NULL;
        if (!strncmp(name, "cross_entropy", 13)) {
            int targets[16];
            float weights[16], *wp = (float *)golden_tensor(name, "weights", &n, &nd, s), sum = 0;
            void *tp = golden_tensor(name, "targets", &n, &nd, s);
            if (!tp || n > 16) { T_FAIL("%s: no targets", name); ag_free(g); continue; }
            memcpy(targets, tp, n * 4);
            if (wp) memcpy(weights, wp, n * 4);
            compare_golden(name, "y", ag_nll(x, targets), 0);
            for (size_t i = 0; i < n && wp; i++) sum += targets[i] == AG_IGNORE ? 0 : weights[i];
            y = ag_cross_entropy(x, targets, wp ? weights : NULL);
            if (wp) y = ag_scale(y, sum);           // the file holds the sum, the op is the mean
            compare_golden(name, "loss", y, 0);
            CHECK(ag_backward(y) == 0);
        } else {
            if (!strncmp(name, "softmax", 7)) y = ag_softmax(x);
            else if (!strncmp(name, "log_softmax", 11)) y = ag_log_softmax(x);
            else if (!strncmp(name, "layernorm", 9)) y = ag_layernorm(x, w, bias, 1e-5);
            else if (!strncmp(name, "rmsnorm", 7)) y = ag_rmsnorm(x, w, 1e-5);
            else if (!strncmp(name, "gelu", 4)) y = ag_gelu(x);
            else if (!strncmp(name, "silu", 4)) y = ag_silu(x);
            else if (!strncmp(name, "sigmoid", 7)) y = ag_sigmoid(x);
            else if (!strncmp(name, "tanh", 4)) y = ag_tanh(x);
            else if (!strncmp(name, "linear", 6)) y = ag_linear(x, w, bias);
            else if (!strncmp(name, "attention", 9))
                y = ag_attention(x, heads[k - 15][0], heads[k - 15][1], NULL, NULL, NULL);
            else if (!strncmp(name, "rope", 4))
                y = ag_reshape(ag_rope(ag_reshape(x, 2, 7, 30), 10, 3, strcmp(name, "rope") ? start5 : NULL, 10000),
                               2, 7, 3, 10);
            compare_golden(name, "y", y, 0);
            ag_tensor *dy = golden_param(g, name, "dy");
            CHECK(ag_backward(ag_sum(ag_mul(y, ag_detach(dy)))) == 0);
        }
        compare_golden(name, "dx", x, 1);
        if (w) compare_golden(name, "dweight", w, 1);
        if (bias) compare_golden(name, "dbias", bias, 1);
        if (ag_error(g)) T_FAIL("%s: %s", name, ag_error(g));
        ag_free(g);
    }
    free(golden);
}

int main(int argc, char **argv) {
    T_BEGIN("float");
    T_RUN(float_agrees_with_double);
    T_RUN(threads_do_not_change_a_bit);
    T_RUN(instruction_sets_do_not_change_a_bit);
    T_RUN(forgetting_does_not_change_a_bit);
    T_RUN(a_row_does_not_depend_on_its_neighbours);
    T_RUN(cached_attention_has_the_bits_of_the_full_pass);
    T_RUN(ragged_attention_has_the_bits_of_the_padded_one);
    T_RUN(elementary_functions);
    T_RUN(pytorch_agrees);
    for (int i = 0; i < N_CASES; i++) free(twin[i]);
    return T_END();
}
#endif
