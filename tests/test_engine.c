// test_engine.c - the engine room of autograd.h: every fast kernel but matmul and attention (see test_matmul.c) against
// its naive twin, on odd shapes and saturating numbers; the same bits from every instruction set and from any number of
// threads; exp, log, tanh and sigmoid against libm in double over the range of float; the thread pool.
#define _DEFAULT_SOURCE         // fork and setenv under -std=c99
#include "test.h"
#if !defined(_WIN32)
#include <sys/wait.h>
#include <unistd.h>
#endif

static int no_memory;           // 1: every allocation fails
static void *test_malloc(size_t n) { return no_memory ? NULL : malloc(n); }
#define AG_MALLOC(bytes) test_malloc(bytes)
#define AG_FREE(pointer) free(pointer)
#define AUTOGRAD_IMPLEMENTATION
#include "../autograd.h"

// ---- how a kernel is tested ----------------------------------------------------------------------------------------
// A case calls kernels of a backend and hands in what they wrote, with a tolerance. It is run on the naive backend,
// which gives the reference, and on each fast one; the numbers must agree within the tolerance. Then the fast ones must
// agree with each other to the bit, and with themselves for 1, 2, 3, 4 and 8 threads.
typedef struct result { const char *what; size_t first, n; double rel, abs; } result;
typedef struct run {
    ag_backend *b;
    float *out;                 // all that was handed in, one after the other
    size_t n, cap;
    result results[4096];
    int n_results;
    uint64_t seed;
    void *mine[64];             // memory of the case that is being run
    int n_mine;
} run;

static void hand_in(run *r, const char *what, const float *x, size_t n, double rel, double abs) {
    if (r->n_results == 4096) exit(1);
    if (r->n + n > r->cap) {
        r->cap = 2 * (r->n + n);
        r->out = (float *)realloc(r->out, r->cap * sizeof(float));
        if (!r->out) exit(1);
    }
    memcpy(r->out + r->n, x, n * sizeof(float));
    r->results[r->n_results].what = what, r->results[r->n_results].first = r->n, r->results[r->n_results].n = n;
    r->results[r->n_results].rel = rel, r->results[r->n_results++].abs = abs;
    r->n += n;
}

static double uniform(run *r) {                         // in [-1, 1)
    r->seed = r->seed * 6364136223846793005u + 1442695040888963407u;
    return (double)(int32_t)(r->seed >> 32) / 2147483648.0;
}

static void *room(run *r, size_t bytes) {               // until forget
    void *p = malloc(bytes + 1);
    if (!p || r->n_mine == 64) exit(1);
    return r->mine[r->n_mine++] = p;
}

static void forget(run *r) {
    while (r->n_mine) free(r->mine[--r->n_mine]);
}

static float *numbers(run *r, size_t n, double size) {
    float *x = (float *)room(r, n * sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = (float)(size * uniform(r));
    return x;
}

static int *ids_below(run *r, size_t n, size_t limit) {
    int *ids = (int *)room(r, n * sizeof *ids);
    for (size_t i = 0; i < n; i++) ids[i] = (int)((uniform(r) + 1) / 2 * (double)limit);
    return ids;
}

// What breaks kernels: zeros, the ends of the range, numbers that are none. finite: without those that are not.
static void spoil(run *r, float *x, size_t n, int finite) {
    const float odd[] = { 0, -0.0f, 1, -1, 100, -100, 1e30f, -1e30f, 1e-40f, -1e-40f, 88.8f, -88.8f, 20, -20,
                          1e-5f, FLT_MAX, INFINITY, -INFINITY, NAN };
    int kinds = (int)(sizeof odd / sizeof *odd) - (finite ? 4 : 0);
    for (size_t i = 0; i < n; i++) if (i % 3 || n < 3) x[i] = odd[(int)((uniform(r) + 1) / 2 * kinds)];
}

static run run_case(void (*body)(run *r), const char *which, int threads) {
    run r;
    memset(&r, 0, sizeof r);
    r.b = ag_cpu_backend(which, threads);
    r.seed = 1;
    if (r.b) {
        body(&r);
        forget(&r);
        r.b->destroy(r.b);
    }
    return r;
}

static int same_float(float a, float b) { return (isnan(a) && isnan(b)) || memcmp(&a, &b, sizeof a) == 0; }

static void compare_near(const run *got, const run *want, const char *name) {
    CHECK_INT(got->n_results, want->n_results);
    if (got->n != want->n) { T_FAIL("%s handed in %zu numbers, naive %zu", name, got->n, want->n); return; }
    for (int k = 0; k < want->n_results; k++) {
        const result *s = &want->results[k];
        for (size_t i = 0; i < s->n; i++) {
            double g = got->out[s->first + i], w = want->out[s->first + i];
            if ((isnan(g) && isnan(w)) || g == w) continue;
            if (!(fabs(g - w) <= s->rel * fabs(w) + s->abs)) {
                T_FAIL("%s on %s, result %d at %zu of %zu: %.9g, naive %.9g", s->what, name, k, i, s->n, g, w);
                break;
            }
        }
    }
}

static void compare_bits(const run *got, const run *want, const char *name, int threads) {
    if (got->n != want->n) { T_FAIL("%s handed in %zu numbers, elsewhere %zu", name, got->n, want->n); return; }
    for (int k = 0; k < want->n_results; k++)
        for (size_t i = 0; i < want->results[k].n; i++) {
            size_t at = want->results[k].first + i;
            if (same_float(got->out[at], want->out[at])) continue;
            T_FAIL("%s: %s with %d threads at %zu of %zu: %.9g, elsewhere %.9g", want->results[k].what, name, threads,
                   i, want->results[k].n, got->out[at], want->out[at]);
            break;
        }
}

static void hold_together(void (*body)(run *r)) {
    static const char *const sets[] = { "avx512", "avx2", "neon", "portable" };
    static const int threads[] = { 2, 3, 4, 8 };
    run naive = run_case(body, "naive", 1), first;
    int found = 0;
    memset(&first, 0, sizeof first);
    CHECK(naive.n > 0);
    for (int s = 0; s < 4; s++) {
        run one = run_case(body, sets[s], 1);
        if (!one.b) continue;                           // not on this machine
        compare_near(&one, &naive, sets[s]);
        for (int t = 0; t < 4; t++) {
            run more = run_case(body, sets[s], threads[t]);
            compare_bits(&more, &one, sets[s], threads[t]);
            free(more.out);
        }
        // Without a fused multiply-add at hand the portable set rounds products and cannot join.
        if (found && (s < 3 || AGI_FUSED)) compare_bits(&one, &first, sets[s], 1);
        if (!found++) first = one;
        else free(one.out);
    }
    CHECK(found > 0);
    free(first.out), free(naive.out);
}

// ---- elementwise ---------------------------------------------------------------------------------------------------
static const int map_shapes[][4] = { {1, 1, 1, 1}, {1, 1, 1, 7}, {1, 1, 3, 16}, {2, 3, 5, 33}, {3, 1, 4, 1},
                                     {1, 2, 3, 600}, {1, 5, 2, 15}, {1, 1, 40, 1024}, {2, 1, 1, 20000} };
#define MAP_SHAPES (int)(sizeof map_shapes / sizeof *map_shapes)

static size_t shape_count(const int shape[4]) {
    size_t n = 1;
    for (int d = 0; d < 4; d++) n *= (size_t)shape[d];
    return n;
}

// How an operand lies in memory: 0 as it is, 1 one row, 2 one column, 3 one number, 4 a middle dimension repeated,
// 5 transposed, so that the last dimension jumps
static void map_strides(const int shape[4], int pattern, size_t stride[4]) {
    size_t s[4], t[4];
    s[3] = t[0] = 1;
    for (int d = 3; d > 0; d--) s[d - 1] = s[d] * (size_t)shape[d];
    for (int d = 0; d < 3; d++) t[d + 1] = t[d] * (size_t)shape[d];
    for (int d = 0; d < 4; d++) {
        stride[d] = pattern == 5 ? t[d] : s[d];
        if (pattern == 1 && d < 3) stride[d] = 0;
        if (pattern == 2) stride[d] = d == 3 ? 0 : s[d] / (size_t)shape[3];
        if (pattern == 3) stride[d] = 0;
        if (pattern == 4) stride[d] = d == 1 ? 0 : d == 0 ? s[1] : s[d];
        if (shape[d] == 1) stride[d] = 0;
    }
}

static const struct { int op, operands; double p, q; } map_ops[] = {
    { AG_MAP_ADD, 2, 0, 0 }, { AG_MAP_SUB, 2, 0, 0 }, { AG_MAP_MUL, 2, 0, 0 }, { AG_MAP_DIV, 2, 0, 0 },
    { AG_MAP_MIN, 2, 0, 0 }, { AG_MAP_MAX, 2, 0, 0 }, { AG_MAP_GREATER, 2, 0, 0 }, { AG_MAP_WHERE, 3, 0, 0 },
    { AG_MAP_SCALE, 1, -1.5, 0 }, { AG_MAP_SHIFT, 1, 0.75, 0 }, { AG_MAP_POW, 1, 2, 0 }, { AG_MAP_POW, 1, 3, 0 },
    { AG_MAP_POW, 1, 0.5, 0 }, { AG_MAP_POW, 1, -1, 0 }, { AG_MAP_POW, 1, 1, 0 }, { AG_MAP_POW, 1, 0, 0 },
    { AG_MAP_POW, 1, 2.5, 0 }, { AG_MAP_POW, 1, -2, 0 }, { AG_MAP_EXP, 1, 0, 0 }, { AG_MAP_LOG, 1, 0, 0 },
    { AG_MAP_SQRT, 1, 0, 0 }, { AG_MAP_TANH, 1, 0, 0 }, { AG_MAP_SIGMOID, 1, 0, 0 }, { AG_MAP_LOG_SIGMOID, 1, 0, 0 },
    { AG_MAP_RELU, 1, 0, 0 }, { AG_MAP_GELU, 1, 0, 0 }, { AG_MAP_SILU, 1, 0, 0 }, { AG_MAP_CLAMP, 1, -0.5, 0.75 },
    { AG_MAP_AXPBY, 2, 0.25, -3 }
};
#define MAP_OPS (int)(sizeof map_ops / sizeof *map_ops)

static void map_one(run *r, int k, const int shape[4], const int patterns[3], int odd, int backward) {
    size_t n = shape_count(shape), stride[3][4];
    float *mem[3], *y = numbers(r, n, 1), *dy = numbers(r, n, 1), *g = numbers(r, n, 1);
    const float *x[3] = { NULL, NULL, NULL };
    int op = map_ops[k].op;
    double p = map_ops[k].p, q = map_ops[k].q;
    for (int j = 0; j < 3; j++) {
        mem[j] = numbers(r, n, 3);
        if (odd) spoil(r, mem[j], n, backward || op == AG_MAP_POW);
        for (size_t i = 0; i < n; i++) {
            if (op == AG_MAP_WHERE && j == 0 && i % 2) mem[j][i] = 0;
            if (op == AG_MAP_AXPBY && fabs(mem[j][i]) > 1e35) mem[j][i] = 1;    // -3 FLT_MAX is a number in double only
            if (backward && op == AG_MAP_LOG_SIGMOID && mem[j][i] > 85) mem[j][i] = 0;      // a denormal slope
            if (backward && (op == AG_MAP_POW || op == AG_MAP_DIV) && fabs(mem[j][i]) < 1e-4) mem[j][i] = 2;
        }
        if (j < map_ops[k].operands) map_strides(shape, patterns[j], stride[j]), x[j] = mem[j];
    }
    r->b->map(r->b, op, y, x, shape, (const size_t (*)[4])stride, p, q);
    // Tails that end in 0 and sums that cancel are held to an absolute tolerance.
    double least = op == AG_MAP_AXPBY ? 1e-6 : op == AG_MAP_GELU || op == AG_MAP_SILU ? 1e-30 : 1e-37;
    if (!backward) hand_in(r, agi_map_ops[op].name, y, n, op == AG_MAP_GELU ? 3e-6 : 1e-6, least);
    else {
        // Both sets get the same y, the naive one.
        for (size_t i = 0; i < n; i++) {
            double v[3] = { 0, 0, 0 };
            size_t c[4], at = i;
            for (int d = 3; d >= 0; d--) c[d] = at % (size_t)shape[d], at /= (size_t)shape[d];
            for (int j = 0; j < map_ops[k].operands; j++) v[j] = x[j][agi_at4(c, stride[j])];
            y[i] = (float)agi_map_value(op, v[0], v[1], v[2], p, q);
        }
        for (int which = 0; which < map_ops[k].operands; which++)
            for (int accumulate = 0; accumulate < 2; accumulate++) {
                r->b->map_back(r->b, op, which, g, y, x, dy, shape, (const size_t (*)[4])stride, p, q, accumulate);
                hand_in(r, agi_map_ops[op].name, g, n, 2e-6, 1e-6);
            }
    }
    forget(r);
}

static void map_all(run *r, int odd, int backward) {
    for (int k = 0; k < MAP_OPS; k++)
        for (int s = 0; s < MAP_SHAPES; s++) {
            int big = shape_count(map_shapes[s]) > 20000, tries = s == 3 && map_ops[k].operands == 2 ? 12 : 2;
            if (big && (odd || (k % 7 && map_ops[k].op != AG_MAP_GELU))) continue;
            for (int t = 0; t < tries; t++) {
                int patterns[3] = { 0, 0, 0 };
                if (t) for (int j = 0; j < 3; j++) patterns[j] = (int)((uniform(r) + 1) * 3);
                map_one(r, k, map_shapes[s], patterns, odd, backward);
            }
        }
}
static void map_plain(run *r) { map_all(r, 0, 0); }
static void map_odd(run *r) { map_all(r, 1, 0); }
static void map_back_plain(run *r) { map_all(r, 0, 1); }
static void map_back_odd(run *r) { map_all(r, 1, 1); }
static void elementwise(void) { hold_together(map_plain); }
static void elementwise_at_the_ends(void) { hold_together(map_odd); }
static void slopes(void) { hold_together(map_back_plain); }
static void slopes_at_the_ends(void) { hold_together(map_back_odd); }

// ---- copies --------------------------------------------------------------------------------------------------------
static void copy_case(run *r) {
    static const int shapes[][4] = { {2, 3, 5, 7}, {1, 1, 33, 70}, {4, 1, 16, 48}, {1, 12, 64, 40}, {3, 17, 1, 19},
                                     {1, 1, 300, 200} };
    static const int order[][4] = { {0, 1, 2, 3}, {0, 2, 1, 3}, {0, 1, 3, 2}, {3, 2, 1, 0}, {1, 0, 3, 2}, {2, 3, 0, 1},
                                    {0, 3, 1, 2} };
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (size_t o = 0; o < sizeof order / sizeof *order; o++)
            for (int form = 0; form < 8; form++) {      // y or x permuted; cut out of something larger; added
                const int *shape = shapes[s];
                size_t n = shape_count(shape), st = 1, permuted[4], plain[4];
                int wide = form & 2 ? 3 : 0;
                for (int d = 3; d >= 0; d--) permuted[order[o][d]] = st, st *= (size_t)(shape[order[o][d]] + wide);
                size_t room = st;
                for (int d = 3, st2 = 1; d >= 0; d--) plain[d] = (size_t)st2, st2 *= shape[d];
                float *x = numbers(r, AGI_MAX(room, n), 1), *y = numbers(r, AGI_MAX(room, n), 1);
                if (form & 1) r->b->copy(r->b, y, permuted, x, plain, shape, form >> 2);
                else r->b->copy(r->b, y, plain, x, permuted, shape, form >> 2);
                hand_in(r, "copy", y, AGI_MAX(room, n), 0, 0);
                forget(r);
            }
    int empty[4] = { 2, 0, 3, 4 };
    size_t none[4] = { 0, 12, 4, 1 };
    float one = 5, two = 7;
    r->b->copy(r->b, &one, none, &two, none, empty, 0);
    hand_in(r, "copy of nothing", &one, 1, 0, 0);
}
static void copies(void) { hold_together(copy_case); }

// ---- reductions ----------------------------------------------------------------------------------------------------
static void reduce_case(run *r) {
    static const size_t sizes[][3] = { {1, 1, 1}, {1, 7, 1}, {3, 16, 1}, {5, 17, 1}, {2, 100, 1}, {40, 1000, 1},
                                       {1, 70000, 1}, {2, 40000, 1}, {1, 5, 2}, {3, 9, 15}, {2, 33, 16}, {2, 10, 17},
                                       {1, 200, 300}, {4, 3, 100}, {2, 1, 5} };
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        size_t outer = sizes[s][0], k = sizes[s][1], inner = sizes[s][2], n = outer * k * inner, m = outer * inner;
        for (int form = 0; form < 8; form++) {          // odd, maximum, accumulate
            int op = form & 2 ? AG_REDUCE_MAX : AG_REDUCE_SUM, accumulate = form >> 2;
            float *x = numbers(r, n, 1), *y = numbers(r, m, 1), *dx = numbers(r, n, 1), *dy = numbers(r, m, 1);
            for (size_t i = 0; i < n; i++) if (form & 2) x[i] = (float)floor(x[i] * 8) / 4;     // maxima that are equal
            if (form & 1) spoil(r, x, AGI_MIN(n, (size_t)60), op == AG_REDUCE_SUM);
            r->b->reduce(r->b, op, y, x, outer, k, inner, 0.5, accumulate);
            hand_in(r, "reduce", y, m, 3e-6, form & 1 ? 1e25 : 1e-4);
            if (op == AG_REDUCE_MAX) r->b->reduce(r->b, op, y, x, outer, k, inner, 1, 0);
            r->b->reduce_back(r->b, op, dx, x, y, dy, outer, k, inner, op == AG_REDUCE_MAX ? 1 : 0.3, accumulate);
            hand_in(r, "reduce_back", dx, n, 1e-6, 1e-7);
            forget(r);
        }
    }
}
static void reductions(void) { hold_together(reduce_case); }

// ---- rows ----------------------------------------------------------------------------------------------------------
// Rows of logits: plain, large, one-hot, all equal, partly minus infinity, at the ends of the range
static float *logit_rows(run *r, size_t rows, size_t n) {
    float *x = numbers(r, rows * n, 4);
    for (size_t row = 0; row < rows; row++)
        for (size_t i = 0; i < n; i++) {
            float *v = &x[row * n + i];
            switch (row % 8) {
            case 1: *v *= 25; break;
            case 2: *v = i == n / 2 ? 1e30f : 0; break;
            case 3: *v = -7.25f; break;
            case 4: if (i % 3 == 1) *v = -INFINITY; break;
            case 5: *v = i % 2 ? 100 : -100; break;
            case 6: *v = i == n - 1 ? FLT_MAX : -FLT_MAX; break;
            }
        }
    return x;
}

static void softmax_case(run *r) {
    static const size_t sizes[][2] = { {8, 1}, {8, 5}, {9, 16}, {16, 17}, {8, 65}, {40, 1000} };
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (int form = 0; form < 4; form++) {
            size_t rows = sizes[s][0], n = sizes[s][1];
            float *x = logit_rows(r, rows, n), *y = numbers(r, rows * n, 1);
            float *dy = numbers(r, rows * n, 1), *dx = numbers(r, rows * n, 1);
            r->b->softmax(r->b, y, x, rows, n, form & 1);
            hand_in(r, form & 1 ? "log_softmax" : "softmax", y, rows * n, 4e-6, form & 1 ? 4e-6 : 1e-9);
            agi_naive_softmax(r->b, y, x, rows, n, form & 1);
            r->b->softmax_back(r->b, dx, y, dy, rows, n, form & 1, form >> 1);
            hand_in(r, "softmax_back", dx, rows * n, 1e-5, 2e-5);
            forget(r);
        }
    float none[16], out[16];                            // a row that is minus infinity throughout has no softmax
    for (int i = 0; i < 16; i++) none[i] = -INFINITY, out[i] = 0;
    r->b->softmax(r->b, out, none, 1, 16, 0);
    hand_in(r, "softmax", out, 16, 0, 0);
    none[3] = NAN;
    r->b->softmax(r->b, out, none, 1, 5, 0);
    hand_in(r, "softmax", out, 5, 0, 0);
}
static void softmaxes(void) { hold_together(softmax_case); }

static void nll_case(run *r) {
    static const size_t sizes[][2] = { {8, 1}, {8, 5}, {9, 16}, {16, 17}, {100, 65}, {40, 1000} };
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (int accumulate = 0; accumulate < 2; accumulate++) {
            size_t rows = sizes[s][0], n = sizes[s][1];
            float *x = logit_rows(r, rows, n), *nll = numbers(r, rows, 1), *lse = numbers(r, rows, 1);
            float *d = numbers(r, rows, 1), *dx = numbers(r, rows * n, 1);
            int *targets = ids_below(r, rows, n);
            for (size_t i = 5; i < rows; i += 7) targets[i] = AG_IGNORE;
            r->b->nll(r->b, nll, lse, x, targets, rows, n);
            hand_in(r, "nll", nll, rows, 2e-6, 3e-6);
            hand_in(r, "nll lse", lse, rows, 1e-6, 1e-6);
            agi_naive_nll(r->b, nll, lse, x, targets, rows, n);
            r->b->nll_back(r->b, dx, x, lse, targets, d, rows, n, accumulate);
            hand_in(r, "nll_back", dx, rows * n, 1e-5, 1e-6);
            forget(r);
        }
}
static void cross_entropies(void) { hold_together(nll_case); }

static void norm_case(run *r) {
    static const size_t sizes[][2] = { {1, 1}, {3, 7}, {31, 16}, {32, 65}, {33, 128}, {100, 200} };
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (int form = 0; form < 16; form++) {         // rms, without weights, accumulate, something unwanted
            size_t rows = sizes[s][0], n = sizes[s][1];
            int rms = form & 1, accumulate = form & 4 ? 7 : 2;
            float *x = numbers(r, rows * n, 2), *weights = numbers(r, n, 1), *bias = numbers(r, n, 1);
            float *y = numbers(r, rows * n, 1), *stats = numbers(r, 2 * rows, 1), *dy = numbers(r, rows * n, 1);
            float *dx = numbers(r, rows * n, 1), *dw = numbers(r, n, 1), *db = numbers(r, n, 1);
            const float *w = form & 2 ? NULL : weights;
            for (size_t i = 0; i < n && rows > 2; i++) x[n + i] = 3, x[2 * n + i] *= i % 5 ? 1 : 1000;
            r->b->norm(r->b, y, stats, x, w, rms || form & 8 ? NULL : bias, rows, n, 1e-5, rms);
            hand_in(r, "norm", y, rows * n, 1e-5, 1e-4);        // 1e-4: the constant row, whose deviation is 0.003
            hand_in(r, "norm stats", stats, 2 * rows, 1e-5, 1e-5);
            agi_naive_norm(r->b, y, stats, x, w, rms ? NULL : bias, rows, n, 1e-5, rms);
            int rest = form & 8;
            r->b->norm_back(r->b, rest ? NULL : dx, w ? dw : NULL, rms || rest ? NULL : db, x, w, stats, dy, rows, n,
                            rms, accumulate);
            hand_in(r, "norm_back dx", dx, rows * n, 2e-5, 2e-3);
            hand_in(r, "norm_back dw", dw, n, 1e-5, 2e-4);
            hand_in(r, "norm_back dbias", db, n, 1e-5, 2e-5);
            forget(r);
        }
}
static void norms(void) { hold_together(norm_case); }

static void look_up_case(run *r) {
    static const size_t sizes[][3] = { {1, 1, 1}, {7, 5, 3}, {50, 11, 16}, {60, 65, 33}, {700, 65, 128} };
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (int accumulate = 0; accumulate < 2; accumulate++) {
            size_t n = sizes[s][0], vocab = sizes[s][1], c = sizes[s][2];
            float *table = numbers(r, vocab * c, 1), *y = numbers(r, n * c, 1), *dt = numbers(r, vocab * c, 1);
            float *dy = numbers(r, n * c, 1), *z = numbers(r, n, 1);
            int *ids = ids_below(r, n, vocab), *columns = ids_below(r, n, c);
            for (size_t i = 1; i < n; i += 2) ids[i] = (int)vocab - 1;  // many rows that collect more than once
            r->b->embedding(r->b, y, table, ids, n, c);
            hand_in(r, "embedding", y, n * c, 0, 0);
            r->b->embedding_back(r->b, dt, ids, dy, n, vocab, c, accumulate);
            hand_in(r, "embedding_back", dt, vocab * c, 0, 0);         // the same additions in the same order
            r->b->gather(r->b, z, y, columns, n, c);
            hand_in(r, "gather", z, n, 0, 0);
            r->b->gather_back(r->b, y, columns, z, n, c, accumulate);
            hand_in(r, "gather_back", y, n * c, 0, 0);
            forget(r);
        }
    float *y = numbers(r, 40001, 1);
    r->b->fill(r->b, y + 1, 2.5f, 39999);
    hand_in(r, "fill", y, 40001, 0, 0);
    forget(r);
}
static void look_ups(void) { hold_together(look_up_case); }

static void dropout_case(run *r) {
    static const double ps[] = { 0.1, 0.5, 0.999, 1e-12, 0.9999999999 };
    static const size_t sizes[] = { 1, 15, 240, 241, 1000, 30000 };
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (int k = 0; k < 5; k++)
            for (int accumulate = 0; accumulate < 2; accumulate++) {
                ag_rng rng = { 0x123456789abcdef0u, (uint64_t)k };     // also from the middle of a block of four
                if (k == 4) rng.counter = (uint64_t)-1 / 4 - 20;        // the counter's upper half moves
                float *x = numbers(r, sizes[s], 1), *y = numbers(r, sizes[s], 1);
                r->b->dropout(r->b, y, x, sizes[s], ps[(k + (int)s) % 5], rng, accumulate);
                hand_in(r, "dropout", y, sizes[s], 1e-6, 1e-7);
                forget(r);
            }
}
static void dropouts(void) { hold_together(dropout_case); }

static void rope_case(run *r) {
    // B T H hs nq nk start
    static const int sizes[][7] = { {1, 1, 1, 2, 1, 0, 0}, {2, 5, 3, 6, 1, 1, 0}, {2, 7, 4, 8, 2, 1, 3},
                                    {1, 9, 3, 16, 1, 1, 100}, {3, 40, 4, 32, 2, 1, 5}, {2, 33, 6, 48, 4, 1, 0} };
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (int form = 0; form < 16; form++) {         // q norm, k norm, rotation, accumulate
            const int *z = sizes[s], T = z[1], H = z[2], hs = z[3], nq = z[4], nk = z[5];
            size_t n = (size_t)(z[0] * T * H * hs), m = (size_t)(z[0] * T * (nq + nk));
            int starts[3] = { z[6], z[6] / 2, 1 }, *start = z[6] ? starts : NULL, accumulate = form & 8 ? 7 : 0;
            double theta = form & 4 ? 0 : s == 2 ? 500 : 10000;
            float *x = numbers(r, n, 2), *y = numbers(r, n, 1), *rrms = numbers(r, m, 1), *dy = numbers(r, n, 1);
            float *qw = numbers(r, (size_t)hs, 1), *kw = numbers(r, (size_t)hs, 1), *dx = numbers(r, n, 1);
            float *dq = numbers(r, (size_t)hs, 1), *dk = numbers(r, (size_t)hs, 1);
            const float *q = form & 1 ? qw : NULL, *k = form & 2 ? kw : NULL;
            r->b->qk_rope(r->b, y, q || k ? rrms : NULL, x, q, k, z[0], T, H, hs, nq, nk, start, theta, 1e-6);
            hand_in(r, "qk_rope", y, n, 2e-6, 2e-6);
            if (q || k) hand_in(r, "qk_rope rrms", rrms, m, 2e-6, 0);
            agi_naive_qk_rope(r->b, y, rrms, x, q, k, z[0], T, H, hs, nq, nk, start, theta, 1e-6);
            r->b->qk_rope_back(r->b, dx, q ? dq : NULL, k ? dk : NULL, x, q, k, rrms, dy, z[0], T, H, hs, nq, nk, start,
                               theta, accumulate);
            hand_in(r, "qk_rope_back dx", dx, n, 1e-5, 1e-5);
            hand_in(r, "qk_rope_back dq_norm", dq, (size_t)hs, 1e-5, 5e-5);
            hand_in(r, "qk_rope_back dk_norm", dk, (size_t)hs, 1e-5, 5e-5);
            forget(r);
        }
    // One call after the other with more thetas than tables are kept.
    for (int i = 0; i < 12; i++) {
        float x[32], y[32];
        for (int j = 0; j < 32; j++) x[j] = (float)uniform(r);
        r->b->qk_rope(r->b, y, NULL, x, NULL, NULL, 1, 2, 1, 16, 1, 0, &i, 100 + i % 6, 1e-6);
        hand_in(r, "qk_rope", y, 32, 2e-6, 2e-6);
    }
}
static void rotary_positions(void) { hold_together(rope_case); }

static void swiglu_case(run *r) {
    static const size_t sizes[][2] = { {1, 1}, {3, 7}, {5, 16}, {4, 33}, {60, 344} };
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (int form = 0; form < 4; form++) {
            size_t rows = sizes[s][0], h = sizes[s][1];
            float *x = numbers(r, 2 * rows * h, 3), *y = numbers(r, rows * h, 1);
            float *dy = numbers(r, rows * h, 1), *dx = numbers(r, 2 * rows * h, 1);
            if (form & 1) for (size_t i = 0; i < 2 * rows * h; i += 2) x[i] *= 40;
            r->b->swiglu(r->b, y, x, rows, h);
            hand_in(r, "swiglu", y, rows * h, 1e-6, 1e-30);
            r->b->swiglu_back(r->b, dx, x, dy, rows, h, form >> 1);
            hand_in(r, "swiglu_back", dx, 2 * rows * h, 1e-5, 1e-5);
            forget(r);
        }
}
static void swiglus(void) { hold_together(swiglu_case); }

// A product with gelu behind it, which may be computed in place, and its gradients; then the bits of what it replaces.
static void linear_gelu_case(run *r) {
    static const int sizes[][3] = { { 1, 5, 7 }, { 3, 16, 64 }, { 30, 33, 65 }, { 70, 130, 600 }, { 300, 20, 129 },
                                    { 20, 9, 2100 } };
    for (int s = 0; s < 6; s++) for (int flags = 0; flags < 4; flags++) {
        const int rows = sizes[s][0], I = sizes[s][1], O = sizes[s][2], one[2] = { 1, 1 }, in_place = flags & 1;
        const size_t n = (size_t)rows * O, zero[2] = { 0, 0 };
        float *x = numbers(r, (size_t)rows * I, 1), *w = numbers(r, (size_t)I * O, 1), *bias = numbers(r, (size_t)O, 1);
        float *z = numbers(r, n, 1), *y = in_place ? z : numbers(r, n, 1);
        float *dy = numbers(r, n, 1), *dz = numbers(r, n, 1);
        float *dbias = numbers(r, (size_t)O, 1), *sum = (float *)room(r, (size_t)O * sizeof(float));
        float *linear = numbers(r, n, 1), *gelu = numbers(r, n, 1);
        memcpy(sum, dbias, (size_t)O * sizeof(float));
        r->b->linear_gelu(r->b, y, z, x, w, flags & 2 ? bias : NULL, rows, I, O, AG_FLOAT32);
        hand_in(r, "linear_gelu", y, n, 1e-5, 1e-5);
        r->b->matmul(r->b, linear, x, w, flags & 2 ? bias : NULL, rows, O, I, 0, 0, one, zero, zero, zero, 0);
        const int shape[4] = { 1, 1, 1, (int)n };
        const size_t stride[3][4] = { { 0, 0, 0, 1 } };
        const float *operands[3] = { linear, NULL, NULL };
        r->b->map(r->b, AG_MAP_GELU, gelu, operands, shape, stride, 0, 0);
        CHECK(!memcmp(gelu, y, n * sizeof(float)));
        if (!in_place) CHECK(!memcmp(linear, z, n * sizeof(float)));
        r->b->gelu_bias_back(r->b, flags & 1 ? dy : dz, flags & 2 ? dbias : NULL, linear, dy, (size_t)rows, (size_t)O,
                             s & 1);
        hand_in(r, "gelu_bias_back", flags & 1 ? dy : dz, n, 1e-5, 1e-5);
        hand_in(r, "gelu_bias_back sum", dbias, (size_t)O, 2e-5, 2e-4);
        r->b->reduce(r->b, AG_REDUCE_SUM, sum, flags & 1 ? dy : dz, 1, (size_t)rows, (size_t)O, 1.0, s & 1);
        if (flags & 2 && strcmp(r->b->name, "cpu/naive")) CHECK(!memcmp(sum, dbias, (size_t)O * sizeof(float)));
        r->b->linear_gelu(r->b, gelu, linear, x, w, bias, rows, I, O, AG_BF16);
        float *rounded = numbers(r, n, 1);
        r->b->matmul_bf16(r->b, rounded, x, w, bias, rows, O, I, 0, 0, one, zero, zero, zero, 0);
        CHECK(!memcmp(rounded, linear, n * sizeof(float)));
        forget(r);
    }
}
static void linear_gelus(void) { hold_together(linear_gelu_case); }

// ---- optimizers ----------------------------------------------------------------------------------------------------
static void optimizer_case(run *r) {
    static const size_t sizes[] = { 1, 15, 16, 1000, 40000 };
    for (size_t s = 0; s < 5; s++) {
        size_t n = sizes[s];
        float *w = numbers(r, n, 1), *g = numbers(r, n, 1), *m = numbers(r, n, 1), *v = numbers(r, n, 1);
        float out[2];
        double sum;
        for (int i = 0; i < 2; i++) {
            r->b->sgd(r->b, w, g, i ? m : NULL, n, 0.1, 0.9, 0.01, 0.5);
            hand_in(r, "sgd", w, n, 1e-6, 1e-6);
            hand_in(r, "sgd m", m, n, 1e-6, 1e-6);
        }
        for (size_t i = 0; i < n; i++) m[i] = v[i] = 0;
        for (long step = 1; step < 4; step++) {
            for (size_t i = 0; i < n; i++) g[i] *= -1.25f;
            r->b->adamw(r->b, w, g, m, v, n, 0.01, 0.9, 0.95, 1e-8, 0.1, step, 0.75);
            hand_in(r, "adamw", w, n, 1e-6, 1e-6);
            hand_in(r, "adamw m", m, n, 2e-6, 1e-7);
            hand_in(r, "adamw v", v, n, 2e-6, 1e-9);
        }
        for (size_t i = 0; i < n; i++) g[i] = 0, m[i] = i % 2 ? 1.2e-38f : 1e-30f;     // 0.9 times that is denormal
        r->b->adamw(r->b, w, g, m, v, n, 0.01, 0.9, 0.95, 1e-8, 0, 1000000, 1);
        hand_in(r, "adamw m", m, n, 1e-6, 0);
        hand_in(r, "adamw", w, n, 1e-6, 1e-6);
        for (int size = 0; size < 4; size++) {          // squares beyond float at both ends, and an infinite one
            float *x = numbers(r, n, size == 1 ? 1e25 : size == 2 ? 1e-25 : 1);
            const float *const one = x;
            if (size == 3) x[n / 2] = INFINITY;
            r->b->sum_squares(r->b, &sum, &one, &n, 1);
            out[0] = (float)sqrt(sum), out[1] = isfinite(sum) ? 1.0f : 0.0f;
            hand_in(r, "sum_squares", out, 2, 1e-6, 0);
            forget(r);
        }
        forget(r);
    }
}
static void optimizers(void) { hold_together(optimizer_case); }

// ---- exp, log, tanh, sigmoid ---------------------------------------------------------------------------------------
static double true_value(int op, double x) {
    return op == AG_MAP_EXP ? exp(x) : op == AG_MAP_LOG ? log(x) : op == AG_MAP_TANH ? tanh(x) : 1 / (1 + exp(-x));
}

// Every 1,597th float, the whole range of bits: at most 2 units in the last place, denormal results included.
static void units_in_the_last_place(void) {
    static const int ops[] = { AG_MAP_EXP, AG_MAP_LOG, AG_MAP_TANH, AG_MAP_SIGMOID };
    static const char *const names[] = { "exp", "log", "tanh", "sigmoid" };
    static const char *const sets[] = { "avx512", "avx2", "neon", "portable" };
    static float x[4096], y[4096], first[4096];
    const int shape[4] = { 1, 1, 1, 4096 };
    const size_t stride[3][4] = { {0, 0, 0, 1}, {0, 0, 0, 0}, {0, 0, 0, 0} };
    const float *in[3] = { x, NULL, NULL };
    for (int k = 0; k < 4; k++) {
        double worst = 0, at = 0;
        int differ = 0;
        for (uint64_t bits = 0; bits < (uint64_t)1 << 32;) {
            int seen = 0;
            for (int i = 0; i < 4096; i++, bits += 1597) {
                uint32_t u = (uint32_t)bits;
                memcpy(&x[i], &u, 4);
            }
            for (int s = 0; s < 4; s++) {
                ag_backend *b = ag_cpu_backend(sets[s], 1);
                if (!b) continue;
                b->map(b, ops[k], y, in, shape, stride, 0, 0);
                b->destroy(b);
                if (!seen++) memcpy(first, y, sizeof y);
                for (int i = 0; i < 4096; i++) {
                    double t = true_value(ops[k], x[i]), error;
                    float f = (float)t;
                    int e;
                    if (s < 3 || AGI_FUSED) differ += !same_float(first[i], y[i]);
                    // At the end of the range infinity and the last float are both right.
                    if (isnan(t) || isinf(f) || isinf(y[i])) {
                        int edge = !isinf(t) && fabs(t) > 3.4028234e38 && fabs(y[i]) > 3.4028234e38f;
                        error = (isnan(t) && isnan(y[i])) || f == y[i] || edge ? 0 : 1e9;
                    } else {
                        frexp(t, &e);
                        error = fabs(y[i] - t) / ldexp(1, AGI_MAX(e - 24, -149));
                    }
                    if (!(error <= worst)) worst = error, at = x[i];
                }
            }
        }
        printf("%s: at most %.3f units in the last place, at %.9g\n", names[k], worst, at);
        CHECK(worst <= 2);
        CHECK_INT(differ, 0);
    }
}

// ---- threads -------------------------------------------------------------------------------------------------------
typedef struct job { ag_backend *b; int done[1000], inside[AGI_MAX_THREADS], nested[1000], clash; } job;

static void inner_item(void *arg, size_t i, int thread) {
    job *j = (job *)arg;
    j->nested[i] = thread + 1;
}

static void one_item(void *arg, size_t i, int thread) {
    job *j = (job *)arg;
    if (thread < 0 || thread >= j->b->threads || j->inside[thread]) j->clash = 1;
    j->inside[thread] = 1;
    j->done[i]++;
    for (volatile int k = 0; k < 50; k++) {}
    j->inside[thread] = 0;
}

static void outer_item(void *arg, size_t i, int thread) {      // 10 items, each of which runs 100 more
    job *j = (job *)arg;
    job part;
    memset(&part, 0, sizeof part);
    agi_parallel(j->b, 100, inner_item, &part);
    for (int k = 0; k < 100; k++) {
        if (part.nested[k] != thread + 1) j->clash = 1;        // inline: on the same thread, with its scratch memory
        j->done[i * 100 + (size_t)k]++;
    }
}

static void every_item_once(ag_backend *b, int rounds) {
    static job j;
    for (int round = 0; round < rounds; round++) {
        size_t n = 1 + (size_t)(round * 37) % 1000;
        memset(&j, 0, sizeof j);
        j.b = b;
        agi_parallel(b, n, one_item, &j);
        int wrong = j.clash;
        for (size_t i = 0; i < 1000; i++) wrong |= j.done[i] != (i < n);
        if (wrong) T_FAIL("%zu items on %d threads: not each of them once", n, b->threads);
    }
    memset(&j, 0, sizeof j);
    j.b = b;
    agi_parallel(b, 10, outer_item, &j);
    for (int i = 0; i < 1000; i++) CHECK_INT(j.done[i], 1);
    CHECK_INT(j.clash, 0);
}

static void pool(void) {
    static const int threads[] = { 1, 2, 3, 4, 8, 40 };
    for (int t = 0; t < 6; t++) {
        ag_backend *b = ag_cpu_backend("portable", threads[t]);
        CHECK(b != NULL);
        if (!b) return;
        if (AGI_POOL) CHECK_INT(b->threads, threads[t]);
        every_item_once(b, threads[t] > 8 ? 100 : 1000);
        b->destroy(b);
    }
}

#if AGI_POOL && !defined(_WIN32)
// A worker takes an item and is slow; the caller's own item is short, and ends only once a worker has one.
typedef struct slow_job { int begun, done; } slow_job;

static void slow_item(void *arg, size_t i, int thread) {
    slow_job *slow = (slow_job *)arg;
    (void)i;
    if (thread) {
        __atomic_store_n(&slow->begun, 1, __ATOMIC_SEQ_CST);
        usleep(20000);
        __atomic_fetch_add(&slow->done, 1, __ATOMIC_SEQ_CST);
        return;
    }
    for (int ms = 0; ms < 5000 && !__atomic_load_n(&slow->begun, __ATOMIC_SEQ_CST); ms++) usleep(1000);
    __atomic_fetch_add(&slow->done, 1, __ATOMIC_SEQ_CST);
}
#endif

static void pool_waits_for_the_slow(void) {
#if AGI_POOL && !defined(_WIN32)
    static slow_job slow[5];                   // static: a caller that does not wait leaves a writer behind
    ag_backend *b = ag_cpu_backend("portable", 2);
    if (!b) { CHECK(b != NULL); return; }
    for (int i = 0; i < 5; i++) {
        agi_parallel(b, 2, slow_item, &slow[i]);
        CHECK_INT(__atomic_load_n(&slow[i].done, __ATOMIC_SEQ_CST), 2);
    }
    b->destroy(b);
#endif
}

static void pool_comes_and_goes(void) {
    for (int i = 0; i < 100; i++) {
        ag_backend *b = ag_cpu_backend(NULL, 1 + i % 8);
        if (!b) { CHECK(b != NULL); return; }
        if (i % 3) every_item_once(b, 2);
        b->destroy(b);
    }
    ag_backend *b = ag_cpu_backend("portable", 100000);        // more than there may be
    CHECK(b && b->threads <= AGI_MAX_THREADS);
    if (b) b->destroy(b);
}

static void pool_and_fork(void) {
#if AGI_POOL && !defined(_WIN32)
    ag_backend *b = ag_cpu_backend("portable", 3);
    if (!b) { CHECK(b != NULL); return; }
    every_item_once(b, 50);
    for (int again = 0; again < 20; again++) {
        int status = 0;
        if (again % 2) usleep(2000);                           // the workers sleep, or still wait awake
        fflush(stdout);
        pid_t child = fork();
        if (!child) {
            alarm(20);                                         // to wait for threads it does not have takes forever
            every_item_once(b, 50);
            const agi_cpu *cpu = (const agi_cpu *)b->self;     // it has threads of its own
            CHECK(cpu->pid == (long)getpid() && cpu->started == 2);
            b->destroy(b);
            _exit(t_bad != 0);
        }
        every_item_once(b, 20);
        CHECK(child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    pid_t child = fork();                                      // a child that only tidies up
    if (!child) {
        b->destroy(b);
        _exit(0);
    }
    int status = 1;
    CHECK(child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    b->destroy(b);
#endif
}

// ---- the backend itself --------------------------------------------------------------------------------------------
static void choice_of_backend(void) {
    static const char *const sets[] = { "avx512", "avx2", "neon", "portable", "naive" };
    CHECK(ag_cpu_backend("avx1024", 1) == NULL);
    CHECK(ag_cpu_backend("", 1) == NULL);
    for (int s = 0; s < 5; s++) {
        ag_backend *b = ag_cpu_backend(sets[s], 2);
        if (!b) { CHECK(s < 3); continue; }
        CHECK_HAS(b->name, sets[s]);
        CHECK_INT(b->threads, s == 4 || !AGI_POOL ? 1 : 2);
        for (size_t n = 0; n < 300; n += 37) {
            char *p = (char *)b->alloc(b, n), copy[300];
            CHECK(p && (uintptr_t)p % 64 == 0);
            if (!p) continue;
            for (size_t i = 0; i < n; i++) copy[i] = (char)i;
            CHECK_INT(b->write(b, p, copy, n), 0);
            memset(copy, 0, sizeof copy);
            CHECK_INT(b->read(b, copy, p, n), 0);
            for (size_t i = 0; i < n; i++) CHECK_INT(copy[i], (char)i);
            b->release(b, p);
        }
        b->release(b, NULL);
        CHECK(b->alloc(b, (size_t)-1) == NULL);
        b->destroy(b);
    }
#if !defined(_WIN32)
    setenv("AG_CPU", "portable", 1), setenv("AG_THREADS", "3", 1);
    ag_backend *b = ag_cpu_backend(NULL, 0);
    CHECK(b && !strcmp(b->name, "cpu/portable") && b->threads == (AGI_POOL ? 3 : 1));
    if (b) b->destroy(b);
    b = ag_cpu_backend("naive", 0);                            // what the program asks for comes before the environment
    CHECK(b && !strcmp(b->name, "cpu/naive"));
    if (b) b->destroy(b);
    setenv("AG_CPU", "nonsense", 1), setenv("AG_THREADS", "-7", 1);
    b = ag_cpu_backend(NULL, 0);
    CHECK(b && strcmp(b->name, "cpu/naive") && b->threads >= 1);
    if (b) b->destroy(b);
    unsetenv("AG_CPU"), unsetenv("AG_THREADS");
#endif
}

// Kernels that need working memory say so when there is none, and work again when there is.
static void out_of_memory(void) {
    no_memory = 1;
    CHECK(ag_cpu_backend("portable", 1) == NULL);
    no_memory = 0;
    ag_backend *b = ag_cpu_backend("portable", 2);
    static float x[64 * 16], dy[64 * 16], dx[64 * 16], dw[16], stats[128];
    double sum;
    if (!b) { CHECK(b != NULL); return; }
    for (int i = 0; i < 64 * 16; i++) x[i] = (float)(i % 13), dy[i] = 1, stats[i % 64 * 2 + 1] = 1;
    for (int bad = 1; bad >= 0; bad--) {
        no_memory = bad;
        CHECK_INT(b->norm_back(b, dx, dw, NULL, x, NULL, stats, dy, 64, 16, 1, 0), -bad);
        CHECK_INT(b->qk_rope(b, dx, NULL, x, NULL, NULL, 1, 64, 1, 16, 1, 0, NULL, 10000, 1e-6), -bad);
        void *p = b->alloc(b, 100);
        CHECK((p == NULL) == bad);
        b->release(b, p);
    }
    const float *const one = x;
    const size_t count = 64 * 16;
    CHECK_INT(b->sum_squares(b, &sum, &one, &count, 1), 0);
    CHECK(sum > 0);
    no_memory = 0;
    b->destroy(b);
}

int main(int argc, char **argv) {
    T_BEGIN("engine");
    (void)argv;
    T_RUN(choice_of_backend);
    T_RUN(pool);
    T_RUN(pool_waits_for_the_slow);
    T_RUN(pool_comes_and_goes);
    T_RUN(pool_and_fork);
    T_RUN(out_of_memory);
    T_RUN(elementwise);
    T_RUN(elementwise_at_the_ends);
    T_RUN(slopes);
    T_RUN(slopes_at_the_ends);
    T_RUN(copies);
    T_RUN(reductions);
    T_RUN(softmaxes);
    T_RUN(cross_entropies);
    T_RUN(norms);
    T_RUN(look_ups);
    T_RUN(dropouts);
    T_RUN(rotary_positions);
    T_RUN(swiglus);
    T_RUN(linear_gelus);
    T_RUN(optimizers);
    T_RUN(units_in_the_last_place);
    return T_END();
}
