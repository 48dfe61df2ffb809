// gpt_cuda.cu against the CPU's naive kernels: every entry of the table on odd shapes, every op of op_cases.h with its
// gradients, whole models, training. Both tables are held to it, the naive one and the one that is used. Built plain,
// with sanitizers and with the checker (tests/test_cuda.sh), it has to be silent in each, whatever the seed.
//     gcc -O2 -c tests/cuda/implementation.c -o build/cuda/implementation.o
//     g++ -std=c++17 -g -O1 -Icuda -x c++ -c cuda/gpt_cuda.cu -o build/cuda/gpt_cuda.o
//     g++ -std=c++17 -g -O1 -x c++ tests/cuda/backend.cu -x none build/cuda/*.o -o build/cuda/backend
//     build/cuda/backend
// BACKEND_QUICK=1 in the environment leaves out large shapes and long training, BACKEND_NO_MODELS=1 steps of models.
#include "../../cuda/gpt_cuda.h"
#include "../../gpt.h"
#include "../test.h"
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

extern "C" int case_count(int with_big_ones);
extern "C" const char *case_name(int i);
extern "C" ag_tensor *case_result(ag_ctx *g, int i);

static bool quick(void) { return getenv("BACKEND_QUICK") != NULL; }

// ---- how entries are tested -----------------------------------------------------------------------------------------
// A case calls entries of a backend and hands in what they wrote. It is run on the CPU's naive backend, which gives the
// reference, and on both of ours: the relative L2 distance of each result has to be within its tolerance.
struct Result { std::string what; std::vector<float> x; double tolerance, least; };
struct Run {
    ag_backend *b;
    uint64_t seed = 1;
    std::vector<Result> results;
    std::vector<void *> mine;

    double uniform() {                              // in [-1, 1)
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        return (double)(int32_t)(seed >> 32) / 2147483648.0;
    }
    void *put(const void *host, size_t bytes, size_t offset = 0) {
        char *p = (char *)b->alloc(b, bytes + offset + 1);
        CHECK(p && !b->write(b, p + offset, host, bytes));
        mine.push_back(p);
        return p + offset;
    }
    float *numbers(size_t n, double size, size_t offset = 0) {      // offset: elements by which it is misaligned
        std::vector<float> x(n);
        for (float &v : x) v = (float)(size * uniform());
        return (float *)put(x.data(), n * sizeof(float), offset * sizeof(float));
    }
    int *ids(size_t n, size_t limit, int ignored = 0) {             // every ignored-th is AG_IGNORE
        std::vector<int> x(n);
        for (size_t i = 0; i < n; i++) {
            x[i] = (int)((uniform() + 1) / 2 * (double)limit);
            if (ignored && i % (size_t)ignored == 1) x[i] = AG_IGNORE;
        }
        return (int *)put(x.data(), n * sizeof(int));
    }
    // least: ours have to be so far away at least, which shows that they did something else
    void hand_in(std::string what, const float *x, size_t n, double tolerance = 2e-6, double least = 0) {
        Result r = {what, std::vector<float>(n), tolerance, least};
        CHECK(!b->read(b, r.x.data(), x, n * sizeof(float)));
        results.push_back(r);
    }
    void forget() {
        for (void *p : mine) b->release(b, p);
        mine.clear();
    }
    ~Run() {
        forget();
        b->destroy(b);
    }
};

static double norm_of(const float *x, size_t n) {
    double s = 0;
    for (size_t i = 0; i < n; i++) s += (double)x[i] * x[i];
    return sqrt(s);
}
static double distance(const float *a, const float *b, size_t n) {     // NaN against NaN is none
    double s = 0;
    for (size_t i = 0; i < n; i++)
        if (a[i] != b[i] && (a[i] == a[i] || b[i] == b[i])) s += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
    return sqrt(s);
}

static void hold_together(void (*body)(Run *r)) {
    Run cpu;
    cpu.b = ag_cpu_backend("naive", 1);
    body(&cpu);
    CHECK(!cpu.results.empty());
    for (int naive = 0; naive < 2; naive++) {
        Run gpu;
        gpu.b = naive ? ag_cuda_naive_backend(0) : ag_cuda_backend(0);
        body(&gpu);
        CHECK_INT(gpu.results.size(), cpu.results.size());
        for (size_t k = 0; k < cpu.results.size() && k < gpu.results.size(); k++) {
            const Result &want = cpu.results[k], &got = gpu.results[k];
            double d = distance(got.x.data(), want.x.data(), want.x.size());
            double size = norm_of(want.x.data(), want.x.size()), limit = want.tolerance * (naive ? 4 : 1);
            if (!(d <= limit * size + 1e-30))
                T_FAIL("%s of %s, result %zu: distance %.2g, allowed %.2g (%zu numbers)", want.what.c_str(),
                       gpu.b->name, k, d / size, limit, want.x.size());
            if (!naive && d < want.least * size) T_FAIL("%s is too near: %.2g", want.what.c_str(), d / size);
        }
    }
}

// ---- memory ---------------------------------------------------------------------------------------------------------
static void memory_case(Run *r) {
    for (size_t n : {1, 3, 33, 65, 127, 1000, 70000}) {
        float *x = r->numbers(n, 1);
        r->hand_in("write and read", x, n, 0);
        r->b->fill(r->b, x, 0, n);
        r->hand_in("fill with 0", x, n, 0);
        r->b->fill(r->b, x + n / 2, 2.5f, n - n / 2);
        r->hand_in("fill", x, n, 0);
        r->forget();
    }
    float *x = r->numbers(4, 1);
    CHECK(!r->b->fill(r->b, x, 1, 0) && !r->b->write(r->b, x, NULL, 0) && !r->b->read(r->b, NULL, x, 0));
    r->hand_in("nothing", x, 4, 0);
}
static void memory(void) { hold_together(memory_case); }

// ---- elementwise ----------------------------------------------------------------------------------------------------
static void plain_strides(const int shape[4], size_t stride[4]) {
    stride[3] = 1;
    for (int d = 2; d >= 0; d--) stride[d] = stride[d + 1] * (size_t)shape[d + 1];
}

// How an operand lies in memory: 0 as it is, 1 one row, 2 one column, 3 one number, 4 transposed
static void strides_of(const int shape[4], int pattern, size_t stride[4]) {
    size_t s[4], t[4];
    plain_strides(shape, s);
    t[0] = 1;
    for (int d = 0; d < 3; d++) t[d + 1] = t[d] * (size_t)shape[d];
    for (int d = 0; d < 4; d++) {
        stride[d] = pattern == 4 ? t[d] : s[d];
        if (pattern == 1 && d < 3) stride[d] = 0;
        if (pattern == 2) stride[d] = d == 3 ? 0 : s[d] / (size_t)shape[3];
        if (pattern == 3 || shape[d] == 1) stride[d] = 0;
    }
}
static size_t count_of(const int shape[4]) { return (size_t)shape[0] * shape[1] * shape[2] * shape[3]; }

static void map_one(Run *r, int op, const int shape[4], const int pattern[3], size_t offset) {
    static const double ps[] = {2, 3, 0.5, -1, 1, 0, 2.5};
    int operands = op == AG_MAP_WHERE ? 3 : op <= AG_MAP_GREATER || op == AG_MAP_AXPBY ? 2 : 1;
    size_t n = count_of(shape), stride[3][4];
    double p = op == AG_MAP_CLAMP ? -0.5 : op == AG_MAP_POW ? ps[n % 7] : -1.5, q = 0.75;
    bool positive = op == AG_MAP_LOG || op == AG_MAP_SQRT || op == AG_MAP_POW;
    const float *x[3] = {NULL, NULL, NULL};
    std::vector<float> host(n);
    for (int k = 0; k < operands; k++) {
        for (float &v : host) {
            v = (float)(3 * r->uniform());
            if (positive || (op == AG_MAP_DIV && k)) v = fabsf(v) + 0.1f;
            if (op == AG_MAP_WHERE && k == 0 && v < 0) v = 0;
        }
        x[k] = (float *)r->put(host.data(), n * sizeof(float), offset * sizeof(float));
        strides_of(shape, pattern[k], stride[k]);
    }
    float *y = r->numbers(n, 1, offset), *dy = r->numbers(n, 1, offset), *g = r->numbers(n, 1, offset);
    CHECK(!r->b->map(r->b, op, y, x, shape, stride, p, q));
    r->hand_in("map " + std::to_string(op), y, n);
    for (int which = 0; which < operands && op != AG_MAP_GREATER; which++)
        for (int accumulate = 0; accumulate < 2; accumulate++) {
            CHECK(!r->b->map_back(r->b, op, which, g, y, x, dy, shape, stride, p, q, accumulate));
            r->hand_in("map_back " + std::to_string(op) + " " + std::to_string(which), g, n);
        }
    r->forget();
}
static void map_case(Run *r) {
    static const int shapes[][4] = {{1, 1, 1, 1}, {1, 1, 1, 3}, {1, 1, 1, 127}, {1, 1, 1, 1000}, {2, 3, 5, 33},
                                    {3, 1, 4, 1}, {1, 2, 3, 64}, {1, 5, 2, 16}, {1, 0, 2, 16}};
    for (int op = 0; op < AG_MAP_COUNT; op++)
        for (int s = 0; s < 9; s++)
            for (int t = 0; t < 5; t++) {
                int pattern[3] = {t, (t * 2 + s) % 5, (t + op) % 5};
                if ((t + op + s) % 3 == 0 || t == 0) map_one(r, op, shapes[s], pattern, op % 4 == 3 ? 1 : 0);
            }
}
static void elementwise(void) { hold_together(map_case); }

// y or x permuted; cut out of something larger; added
static void copy_case(Run *r) {
    // The last one has more outer indices than the emulated device takes blocks: then a block does several in turn.
    static const int shapes[][4] = {{2, 3, 5, 7}, {1, 1, 33, 70}, {4, 1, 16, 48}, {1, 3, 64, 40}, {3, 17, 1, 19},
                                    {2, 33, 2, 9}};
    static const int order[][4] = {{0, 1, 2, 3}, {0, 2, 1, 3}, {0, 1, 3, 2}, {3, 2, 1, 0}, {1, 0, 3, 2}, {0, 3, 1, 2}};
    for (const int *shape : shapes)
        for (const int *o : order)
            for (int form = 0; form < 8; form++) {
                size_t n = count_of(shape), room = 1, permuted[4], plain[4];
                int wide = form & 2 ? (o[0] ? 3 : 4) : 0;
                for (int d = 3; d >= 0; d--) permuted[o[d]] = room, room *= (size_t)(shape[o[d]] + wide);
                plain_strides(shape, plain);
                float *x = r->numbers(std::max(room, n), 1), *y = r->numbers(std::max(room, n), 1);
                CHECK(!(form & 1 ? r->b->copy(r->b, y, permuted, x, plain, shape, form >> 2)
                                 : r->b->copy(r->b, y, plain, x, permuted, shape, form >> 2)));
                r->hand_in("copy", y, std::max(room, n), 1e-7);
                r->forget();
            }
}
static void copies(void) { hold_together(copy_case); }

// ---- reductions, softmax, cross entropy -----------------------------------------------------------------------------
static void reduce_case(Run *r) {
    static const size_t sizes[][3] = {{1, 1, 1}, {1, 3, 1}, {33, 65, 1}, {3, 1025, 1}, {2, 20000, 1}, {1, 33, 2},
                                      {3, 127, 65}, {1, 700, 33}, {5, 1, 3}, {2, 3, 0}, {0, 3, 2}};
    for (auto &z : sizes)
        for (int form = 0; form < 4; form++) {      // maximum, accumulate
            size_t n = z[0] * z[1] * z[2], m = z[0] * z[2];
            int op = form & 1 ? AG_REDUCE_MAX : AG_REDUCE_SUM;
            std::vector<float> host(n);
            for (float &v : host) v = (float)(form & 1 ? floor(8 * r->uniform()) / 4 : r->uniform() + 0.5);
            float *x = (float *)r->put(host.data(), n * sizeof(float)), *y = r->numbers(m, 1), *dy = r->numbers(m, 1);
            float *dx = r->numbers(n, 1);
            CHECK(!r->b->reduce(r->b, op, y, x, z[0], z[1], z[2], 0.5, form >> 1));
            r->hand_in("reduce", y, m);
            CHECK(!r->b->reduce(r->b, op, y, x, z[0], z[1], z[2], 1, 0));
            CHECK(!r->b->reduce_back(r->b, op, dx, x, y, dy, z[0], z[1], z[2], 0.5, form >> 1));
            r->hand_in("reduce_back", dx, n);
            r->forget();
        }
}
static void reductions(void) { hold_together(reduce_case); }

static const size_t row_sizes[][2] = {{1, 1}, {3, 3}, {33, 65}, {9, 127}, {2, 1500}};
static void softmax_case(Run *r) {
    for (auto &z : row_sizes)
        for (int form = 0; form < 4; form++) {      // log, accumulate
            size_t n = z[0] * z[1];
            float *x = r->numbers(n, form & 2 ? 30 : 2), *y = r->numbers(n, 1), *dy = r->numbers(n, 1);
            float *dx = r->numbers(n, 1);
            CHECK(!r->b->softmax(r->b, y, x, z[0], z[1], form & 1));
            r->hand_in("softmax", y, n);
            CHECK(!r->b->softmax_back(r->b, dx, y, dy, z[0], z[1], form & 1, form >> 1));
            r->hand_in("softmax_back", dx, n);
            r->forget();
        }
}
static void softmaxes(void) { hold_together(softmax_case); }

static void nll_case(Run *r) {
    for (auto &z : row_sizes)
        for (int accumulate = 0; accumulate < 2; accumulate++) {
            size_t n = z[0] * z[1];
            float *x = r->numbers(n, 5), *nll = r->numbers(z[0], 1), *lse = r->numbers(z[0], 1), *dx = r->numbers(n, 1);
            float *d = r->numbers(z[0], 1);
            int *targets = r->ids(z[0], z[1], 5);
            CHECK(!r->b->nll(r->b, nll, lse, x, targets, z[0], z[1]));
            if (z[1] > 1) r->hand_in("nll", nll, z[0]);
            r->hand_in("nll lse", lse, z[0]);
            CHECK(!r->b->nll_back(r->b, dx, x, lse, targets, d, z[0], z[1], accumulate));
            if (z[1] > 1) r->hand_in("nll_back", dx, n);
            r->forget();
        }
}
static void cross_entropies(void) { hold_together(nll_case); }

// ---- rows of a network ----------------------------------------------------------------------------------------------
static void norm_case(Run *r) {
    static const size_t sizes[][2] = {{1, 3}, {3, 7}, {33, 65}, {130, 127}, {2, 1500}, {700, 33}};
    for (auto &z : sizes)
        for (int form = 0; form < 16; form++) {     // rms, without weights, accumulate, something unwanted
            size_t rows = z[0], n = z[1];
            int rms = form & 1, accumulate = form & 4 ? 7 : 2, rest = form & 8;
            float *x = r->numbers(rows * n, 2), *weights = r->numbers(n, 1), *bias = r->numbers(n, 1);
            float *y = r->numbers(rows * n, 1), *stats = r->numbers(2 * rows, 1), *dy = r->numbers(rows * n, 1);
            float *dx = r->numbers(rows * n, 1), *dw = r->numbers(n, 1), *db = r->numbers(n, 1);
            const float *w = form & 2 ? NULL : weights;
            if (rows > 100 && form % 4) { r->forget(); continue; }
            CHECK(!r->b->norm(r->b, y, stats, x, w, rms || rest ? NULL : bias, rows, n, 1e-5, rms));
            r->hand_in("norm", y, rows * n);
            r->hand_in("norm stats", stats, 2 * rows);
            CHECK(!r->b->norm_back(r->b, rest ? NULL : dx, w ? dw : NULL, rms || rest ? NULL : db, x, w, stats, dy,
                                   rows, n, rms, accumulate));
            r->hand_in("norm_back dx", dx, rows * n);
            r->hand_in("norm_back dw", dw, n);
            r->hand_in("norm_back dbias", db, n);
            r->forget();
        }
}
static void norms(void) { hold_together(norm_case); }

static void look_up_case(Run *r) {
    static const size_t sizes[][3] = {{1, 1, 1}, {3, 5, 3}, {65, 11, 16}, {33, 65, 33}, {600, 7, 65}, {0, 3, 4}};
    for (auto &z : sizes)
        for (int accumulate = 0; accumulate < 2; accumulate++) {
            size_t n = z[0], vocab = z[1], c = z[2];
            float *table = r->numbers(vocab * c, 1), *y = r->numbers(n * c, 1), *dt = r->numbers(vocab * c, 1);
            float *dy = r->numbers(n * c, 1), *g = r->numbers(n, 1);
            int *ids = r->ids(n, vocab), *columns = r->ids(n, c);
            CHECK(!r->b->embedding(r->b, y, table, ids, n, c));
            r->hand_in("embedding", y, n * c, 0);
            CHECK(!r->b->embedding_back(r->b, dt, ids, dy, n, vocab, c, accumulate));
            r->hand_in("embedding_back", dt, vocab * c);
            CHECK(!r->b->gather(r->b, g, y, columns, n, c));
            r->hand_in("gather", g, n, 0);
            CHECK(!r->b->gather_back(r->b, y, columns, g, n, c, accumulate));
            r->hand_in("gather_back", y, n * c, 1e-7);
            r->forget();
        }
}
static void look_ups(void) { hold_together(look_up_case); }

static void dropout_case(Run *r) {
    static const double ps[] = {0.1, 0.5, 0.999, 1e-12, 0.9999999999};
    for (size_t n : {1, 3, 33, 127, 5000})
        for (int k = 0; k < 5; k++) {
            ag_rng rng = {0x123456789abcdef0u, (uint64_t)k};        // also from the middle of a block of four
            if (k == 4) rng.counter = (uint64_t)-1 / 4 - 20;        // the counter's upper half moves
            float *x = r->numbers(n, 1), *y = r->numbers(n, 1);
            CHECK(!r->b->dropout(r->b, y, x, n, ps[(k + (int)n) % 5], rng, k & 1));
            r->hand_in("dropout", y, n);
            r->forget();
        }
}
static void dropouts(void) { hold_together(dropout_case); }

static void rope_case(Run *r) {
    // B T H hs nq nk start
    static const int sizes[][7] = {{1, 1, 1, 2, 1, 0, 0}, {2, 5, 3, 6, 1, 1, 0}, {2, 7, 4, 8, 2, 1, 3},
                                   {1, 9, 3, 16, 1, 1, 100000}, {2, 33, 6, 66, 4, 1, 0}};
    for (auto &z : sizes)
        for (int form = 0; form < 16; form++) {     // q norm, k norm, rotation, accumulate
            int T = z[1], H = z[2], hs = z[3], nq = z[4], nk = z[5], starts[2] = {z[6], z[6] / 2};
            size_t n = (size_t)(z[0] * T * H * hs), m = (size_t)(z[0] * T * (nq + nk));
            int *start = z[6] ? (int *)r->put(starts, sizeof starts) : NULL, accumulate = form & 8 ? 7 : 0;
            double theta = form & 4 ? 0 : hs == 8 ? 500 : 10000;
            float *x = r->numbers(n, 2), *y = r->numbers(n, 1), *rrms = r->numbers(m, 1), *dy = r->numbers(n, 1);
            float *qw = r->numbers((size_t)hs, 1), *kw = r->numbers((size_t)hs, 1), *dx = r->numbers(n, 1);
            float *dq = r->numbers((size_t)hs, 1), *dk = r->numbers((size_t)hs, 1);
            const float *q = form & 1 ? qw : NULL, *k = form & 2 ? kw : NULL;
            CHECK(!r->b->qk_rope(r->b, y, q || k ? rrms : NULL, x, q, k, z[0], T, H, hs, nq, nk, start, theta, 1e-6));
            r->hand_in("qk_rope", y, n);
            if (q || k) r->hand_in("qk_rope rrms", rrms, m);
            CHECK(!r->b->qk_rope_back(r->b, dx, q ? dq : NULL, k ? dk : NULL, x, q, k, rrms, dy, z[0], T, H, hs, nq, nk,
                                      start, theta, accumulate));
            r->hand_in("qk_rope_back dx", dx, n);
            r->hand_in("qk_rope_back dq_norm", dq, (size_t)hs);
            r->hand_in("qk_rope_back dk_norm", dk, (size_t)hs);
            r->forget();
        }
    for (int i = 0; i < 12; i++) {                  // more thetas than tables are kept
        float *x = r->numbers(32, 1), *y = r->numbers(32, 1);
        CHECK(!r->b->qk_rope(r->b, y, NULL, x, NULL, NULL, 1, 2, 1, 16, 1, 0, NULL, 100 + i % 6, 1e-6));
        r->hand_in("qk_rope", y, 32);
    }
}
static void rotary_positions(void) { hold_together(rope_case); }

static void swiglu_case(Run *r) {
    for (auto &z : row_sizes)
        for (int accumulate = 0; accumulate < 2; accumulate++) {
            size_t n = z[0] * z[1];
            float *x = r->numbers(2 * n, accumulate ? 30 : 3), *y = r->numbers(n, 1), *dy = r->numbers(n, 1);
            float *dx = r->numbers(2 * n, 1);
            CHECK(!r->b->swiglu(r->b, y, x, z[0], z[1]));
            r->hand_in("swiglu", y, n);
            CHECK(!r->b->swiglu_back(r->b, dx, x, dy, z[0], z[1], accumulate));
            r->hand_in("swiglu_back", dx, 2 * n);
            r->forget();
        }
}
static void swiglus(void) { hold_together(swiglu_case); }

static void gelu_case(Run *r) {
    static const int sizes[][3] = {{1, 5, 7}, {3, 16, 64}, {33, 33, 65}, {127, 3, 129}};
    for (auto &z : sizes)
        for (int form = 0; form < 8; form++) {      // in place, with a bias and accumulated, in bfloat16
            size_t rows = (size_t)z[0], O = (size_t)z[2], n = rows * O;
            int bf16 = form >> 2;
            float *x = r->numbers(rows * z[1], 1), *w = r->numbers(z[1] * O, 1), *bias = r->numbers(O, 1);
            float *out = r->numbers(n, 1), *y = form & 1 ? out : r->numbers(n, 1), *dy = r->numbers(n, 1);
            float *dz = form & 1 ? dy : r->numbers(n, 1), *dbias = r->numbers(O, 1), *z2 = r->numbers(n, 2);
            CHECK(!r->b->linear_gelu(r->b, y, out, x, w, form & 2 ? bias : NULL, z[0], z[1], z[2],
                                     bf16 ? AG_BF16 : AG_FLOAT32));
            r->hand_in("linear_gelu", y, n, bf16 ? 1e-5 : 2e-6);
            CHECK(!r->b->gelu_bias_back(r->b, dz, form & 2 ? dbias : NULL, z2, dy, rows, O, form >> 1 & 1));
            r->hand_in("gelu_bias_back", dz, n);
            r->hand_in("gelu_bias_back sum", dbias, O);
            r->forget();
        }
}
static void gelus(void) { hold_together(gelu_case); }

static void int8_case(Run *r) {
    static const int sizes[][3] = {{1, 1, 1}, {1, 33, 65}, {5, 127, 300}, {9, 16, 3}};         // M, K, N
    for (auto &z : sizes) {
        size_t stride = ((size_t)z[2] + 15) / 16 * 16;
        std::vector<signed char> q(stride * z[1]);
        for (signed char &v : q) v = (signed char)(127 * r->uniform());
        float *x = r->numbers((size_t)z[0] * z[1], 1), *y = r->numbers((size_t)z[0] * z[2], 1);
        float *scale = r->numbers((size_t)z[2], 1), *bias = z[0] & 4 ? r->numbers((size_t)z[2], 1) : NULL;
        signed char *weights = (signed char *)r->put(q.data(), q.size());
        CHECK(!r->b->linear_int8(r->b, y, x, weights, scale, bias, z[0], z[2], z[1]));
        r->hand_in("linear_int8", y, (size_t)z[0] * z[2]);
        r->forget();
    }
}
static void int8s(void) { hold_together(int8_case); }

// ---- products -------------------------------------------------------------------------------------------------------
// In every form, with products side by side, one operand for all, and products that add up in one dimension or both;
// nothing to add up (K = 0) and nothing to write. The ops call them with fewer combinations of these.
static void product_case(Run *r) {
    const int sizes[][3] = {{5, 36, 12}, {17, 9, 33}, {3, 4, 0}, {0, 4, 4}, {4, 0, 4}}, batch[2] = {3, 2};
    for (auto &z : sizes) {
        const int M = z[0], N = z[1], K = z[2];
        const size_t a = (size_t)M * K, b = (size_t)K * N, c = (size_t)M * N;
        const size_t strides[][6] = {{2 * c, c, 2 * a, a, 2 * b, b}, {c, 3 * c, a, 3 * a, 0, 0},
                                     {0, c, 2 * a, a, 2 * b, b}, {c, 0, 2 * a, a, b, 0},
                                     {0, 0, 2 * a, a, 2 * b, b}};
        for (auto &s : strides) for (int form = 0; form < 8; form++) {
            float *A = r->numbers(6 * a, 1), *B = r->numbers(6 * b, 1), *bias = r->numbers((size_t)N, 1);
            float *C = r->numbers(6 * c, 1);
            for (auto entry : {r->b->matmul, r->b->matmul_bf16}) {
                CHECK(!entry(r->b, C, A, B, form & 3 ? bias : NULL, M, N, K, form & 1, form >> 1 & 1, batch, s, s + 2,
                             s + 4, form >> 2));
                r->hand_in("matmul", C, 6 * c, entry == r->b->matmul ? 2e-6 : 1e-5);
            }
            r->forget();
        }
    }
}
static void products(void) { hold_together(product_case); }

// ---- attention ------------------------------------------------------------------------------------------------------
// tests/cuda/products.cu has the kernels in all their forms. Here it is the entries, and that precision reaches them:
// the CPU does not round, so where tensor cores work (HS 64 and 128) the two are about 3e-3 apart, and else they agree.
static void attention_case(Run *r) {
    static const int sizes[][6] = {{2, 17, 4, 2, 64, 0}, {1, 3, 1, 1, 128, 0}, {2, 66, 2, 1, 64, 1},
                                   {3, 9, 3, 3, 128, 2}, {2, 5, 6, 2, 24, 0}, {1, 35, 2, 1, 33, 1}};
                                                    // B, T, NH, NKV, HS, form
    for (auto &z : sizes) for (int precision : {AG_FLOAT32, AG_BF16}) {
        ag_attention_args a;
        memset(&a, 0, sizeof a);
        a.B = z[0], a.T = z[1], a.NH = z[2], a.NKV = z[3], a.HS = z[4], a.precision = precision;
        int len[3] = {a.T, a.T / 2, 0}, first[3] = {0, a.T, a.T + a.T / 2}, ragged = z[5] == 2;
        if (z[5]) a.len = (int *)r->put(len, sizeof len);           // rows that are padded, or behind each other
        if (ragged) a.first = (int *)r->put(first, sizeof first);
        size_t positions = ragged ? (size_t)(a.T + a.T / 2) : (size_t)a.B * a.T, heads = (size_t)(a.NH + 2 * a.NKV);
        size_t n = positions * a.HS;
        a.qkv = r->numbers(n * heads, 1), a.y = r->numbers(n * a.NH, 1), a.dy = r->numbers(n * a.NH, 1);
        a.lse = r->numbers((size_t)a.B * a.NH * a.T, 1), a.dqkv = r->numbers(n * heads, 1), a.accumulate = a.T & 1;
        bool tensor_cores = precision == AG_BF16 && (a.HS == 64 || a.HS == 128);
        double limit = tensor_cores ? 1e-2 : 2e-6;
        CHECK(!r->b->attention(r->b, &a));
        r->hand_in("attention", a.y, n * a.NH, limit, tensor_cores ? 1e-4 : 0);
        CHECK(!r->b->attention_back(r->b, &a));
        r->hand_in("attention_back", a.dqkv, n * heads, limit, tensor_cores ? 1e-4 : 0);
        r->forget();
    }
    ag_attention_args nothing;
    memset(&nothing, 0, sizeof nothing);
    nothing.NH = nothing.NKV = 1, nothing.HS = 64, nothing.precision = AG_BF16;
    CHECK(!r->b->attention(r->b, &nothing) && !r->b->attention_back(r->b, &nothing));
}
static void attentions(void) { hold_together(attention_case); }

// ---- optimizers -----------------------------------------------------------------------------------------------------
static void optimizer_case(Run *r) {
    for (size_t n : {1, 3, 33, 127, 3000}) {
        for (size_t offset : {0, 1}) {
            float *w = r->numbers(n, 1, offset), *g = r->numbers(n, 1, offset), *m = r->numbers(n, 1, offset);
            float *v = r->numbers(n, 0, offset);
            for (int i = 0; i < 2; i++) {
                CHECK(!r->b->sgd(r->b, w, g, i ? m : NULL, n, 0.1, 0.9, 0.01, 0.5));
                r->hand_in("sgd", w, n);
                r->hand_in("sgd m", m, n);
            }
            for (long step = 1; step < 4; step++) {
                CHECK(!r->b->adamw(r->b, w, g, m, v, n, 0.01, 0.9, 0.95, 1e-8, 0.1, step, 0.75));
                r->hand_in("adamw", w, n);
                r->hand_in("adamw m", m, n);
                r->hand_in("adamw v", v, n);
            }
            r->b->fill(r->b, m, 1.2e-38f, n), r->b->fill(r->b, g, 0, n);       // 0.9 times that is denormal
            CHECK(!r->b->adamw(r->b, w, g, m, v, n, 0.01, 0.9, 0.95, 1e-8, 0, 1000000, 1));
            r->hand_in("adamw m", m, n, 0);
        }
        for (double size : {1.0, 1e25, 1e-25}) {    // squares beyond float at both ends
            double sum = 0;
            float *x = r->numbers(n, size);
            const float *const one = x;
            CHECK(!r->b->sum_squares(r->b, &sum, &one, &n, 1));
            float root = (float)sqrt(sum);
            r->hand_in("sum_squares", (float *)r->put(&root, sizeof root), 1);
            float *y = r->numbers(n, 1);
            if (r->b->unit) CHECK(!r->b->unit(r->b, y, x, n, 0.1 * size));
            else {                                  // the CPU has none: as the comment on the table says it
                std::vector<float> host(n);
                CHECK(!r->b->read(r->b, host.data(), x, n * sizeof(float)));
                for (float &value : host) value = (float)(value / (sqrt(sum) + 0.1 * size));
                CHECK(!r->b->write(r->b, y, host.data(), n * sizeof(float)));
            }
            r->hand_in("unit", y, n);
            if (size != 1) continue;
            float bad = n & 1 ? NAN : INFINITY;
            CHECK(!r->b->write(r->b, x + n / 2, &bad, sizeof bad) && !r->b->sum_squares(r->b, &sum, &one, &n, 1));
            CHECK(!std::isfinite(sum));
        }
        r->forget();
    }
}
static void optimizers(void) { hold_together(optimizer_case); }

// ---- ops, with their gradients --------------------------------------------------------------------------------------
static std::vector<float> values_of(const ag_tensor *t, bool gradient) {
    std::vector<float> x(t ? t->count : 0);
    CHECK(t && !(gradient ? ag_get_grad(t, x.data()) : ag_get(t, x.data())));
    return x;
}
// floor: what rounding may do to numbers that should be 0, for each of them
static void apart(const char *what, int i, const std::vector<float> &got, const std::vector<float> &want,
                    double tolerance, double floor) {
    CHECK_INT(got.size(), want.size());
    if (got.size() != want.size()) return;
    double d = distance(got.data(), want.data(), want.size()), size = norm_of(want.data(), want.size());
    double allowed = tolerance * size + floor * sqrt((double)want.size());
    if (!(d <= allowed)) T_FAIL("%s, tensor %d: distance %.3g of %.3g", what, i, d, size);
}
static void compare_op(ag_ctx *cpu, ag_ctx *gpu, int i) {
    ag_tensor *want = case_result(cpu, i), *got = case_result(gpu, i);
    apart(case_name(i), -1, values_of(got, false), values_of(want, false), 2e-6, 1e-7);
    CHECK_INT(ag_param_count(gpu), ag_param_count(cpu));
    for (int k = 0; k < ag_param_count(cpu); k++) {
        std::vector<float> g = values_of(ag_param_get(cpu, k), true);
        apart(case_name(i), k, values_of(ag_param_get(gpu, k), true), g, 2e-6, 1e-6);
    }
    if (ag_error(gpu)) T_FAIL("%s", ag_error(gpu));
}
static void ops(void) {
    ag_ctx *cpu = ag_new_with(1, ag_cpu_backend("naive", 1)), *gpu = ag_new_with(1, ag_cuda_backend(0));
    for (int i = 0; i < case_count(!quick()); i++) compare_op(cpu, gpu, i);
    ag_free(gpu);
    gpu = ag_new_with(1, ag_cuda_naive_backend(0));
    for (int i = 0; i < case_count(0) && !quick(); i++) compare_op(cpu, gpu, i);
    ag_free(cpu), ag_free(gpu);
}

// ---- whole models ---------------------------------------------------------------------------------------------------
static gpt_config tiny(const char *preset, int head_size = 6) {
    gpt_config c = gpt_preset(preset);
    c.n_layer = 2, c.n_head = 4, c.n_embd = 4 * head_size, c.n_ctx = 24, c.n_vocab = 33, c.n_hidden = 40;
    c.n_kv_head = c.shape == GPT_SHAPE_LLAMA ? 2 : 4;
    return c;
}
static void tokens_of(int *tokens, int n, int limit) {
    for (int i = 0; i < n; i++) tokens[i] = (i * i / 7 + i * 5) % limit;
}

static std::vector<std::vector<float>> all_parameters(const ag_ctx *ctx, bool gradients) {
    std::vector<std::vector<float>> all;
    for (int i = 0; i < ag_param_count(ctx); i++) all.push_back(values_of(ag_param_get(ctx, i), gradients));
    return all;
}

// The same step on both: every gradient, and what the optimizer made of it.
static void one_step(const char *preset, ag_backend *b, double dropout, int precision) {
    gpt_config c = tiny(preset, precision == AG_BF16 ? 64 : 6);     // 64: attention on tensor cores
    int tokens[64], B = 2, T = 17;
    ag_ctx *ctx[2] = {ag_new_with(5, ag_cpu_backend("naive", 1)), ag_new_with(5, b)};
    gpt_model *m[2];
    std::vector<std::vector<float>> gradients[2], weights[2];
    double loss[2];
    tokens_of(tokens, 64, c.n_vocab);
    c.dropout = dropout;
    for (int k = 0; k < 2; k++) {
        m[k] = gpt_new(ctx[k], &c);
        ag_set_matmul_precision(ctx[k], precision);
        ag_tensor *l = ag_cross_entropy(gpt_forward(m[k], tokens, B, T), tokens + 1, NULL);
        CHECK(!ag_backward(l));
        loss[k] = ag_item(l);
        gradients[k] = all_parameters(ctx[k], true);
        gpt_optimizer o = gpt_adamw();
        CHECK(!gpt_step(m[k], &o, 1, NULL));
        weights[k] = all_parameters(ctx[k], false);
        CHECK(!ag_error(ctx[k]));
    }
    double tolerance = precision == AG_BF16 ? 1e-2 : 2e-5;
    CHECK_NEAR(loss[1], loss[0], precision == AG_BF16 ? 1e-3 : 2e-6);
    CHECK_INT(gradients[1].size(), gradients[0].size());
    for (size_t i = 0; i < gradients[0].size(); i++) {
        apart("gradient", (int)i, gradients[1][i], gradients[0][i], tolerance, 1e-9);
        if (precision == AG_FLOAT32) apart("weights", (int)i, weights[1][i], weights[0][i], 1e-3, 2e-5);
    }
    for (int k = 0; k < 2; k++) gpt_free(m[k]), ag_free(ctx[k]);
}
static void model_gpt2(void) { one_step("nano", ag_cuda_backend(0), 0, AG_FLOAT32); }
static void model_llama(void) { one_step("nano-llama", ag_cuda_backend(0), 0, AG_FLOAT32); }
static void model_gpt2_dropout(void) { one_step("nano", ag_cuda_backend(0), 0.2, AG_FLOAT32); }
static void model_llama_bf16(void) { one_step("nano-llama", ag_cuda_backend(0), 0, AG_BF16); }
static void model_gpt2_bf16(void) { one_step("nano", ag_cuda_backend(0), 0, AG_BF16); }
static void model_naive(void) {
    one_step("nano", ag_cuda_naive_backend(0), 0, AG_FLOAT32);
    one_step("nano-llama", ag_cuda_naive_backend(0), 0, AG_FLOAT32);
}

// Twenty steps with clipping, AdamW and Muon, and what the two models then say, also with weights in int8.
static void training(void) {
    for (int llama = 0; llama < 2; llama++) {
        gpt_config c = tiny(llama ? "nano-llama" : "nano");
        int tokens[400], x[48], y[48], said[2][2][8], n[2][2], steps = quick() ? 1 : 20;
        const int more = quick() ? 2 : 8;           // tokens that they say
        std::vector<double> losses[2];
        tokens_of(tokens, 400, c.n_vocab);
        for (int k = 0; k < 2; k++) {
            ag_ctx *ag = ag_new_with(7, k ? ag_cuda_backend(0) : ag_cpu_backend("naive", 1));
            gpt_model *m = gpt_new(ag, &c);
            gpt_loader data = gpt_loader_new(ag, tokens, 400, GPT_RANDOM);
            gpt_optimizer o = llama ? gpt_muon() : gpt_adamw();
            size_t mallocs = 0;
            for (int step = 0; step < steps; step++, ag_reset(ag)) {
                gpt_next(&data, 2, 24, x, y);
                ag_tensor *loss = ag_cross_entropy(gpt_forward(m, x, 2, 24), y, NULL);
                CHECK(!ag_backward(loss));
                losses[k].push_back(ag_item(loss));
                CHECK(!gpt_step(m, &o, gpt_lr_linear(step, 3, steps, 0.5), NULL));
                if (step == 0) mallocs = ag_memory_used(ag).mallocs;      // and none later
            }
            CHECK_INT(ag_memory_used(ag).mallocs, mallocs);
            gpt_sampling greedy = {0, 0, 0, 0, NULL, 0};
            for (int int8 = 0; int8 < 2; int8++) {
                CHECK(!gpt_quantize(m, int8));
                n[k][int8] = gpt_generate(m, &greedy, tokens, 5, said[k][int8], more, NULL, NULL);
            }
            CHECK(!ag_error(ag));
            gpt_free(m), ag_free(ag);
        }
        for (int step = 0; step < steps; step++) CHECK_NEAR(losses[1][step], losses[0][step], 1e-4);
        CHECK(losses[1][steps - 1] < losses[1][0] || quick());
        for (int int8 = 0; int8 < 2; int8++) {
            CHECK(n[0][int8] == more && n[1][int8] == more);
            for (int i = 0; i < more; i++) CHECK_INT(said[1][int8][i], said[0][int8][i]);
        }
    }
}

// A step that repeats is replayed from its third time on: with AdamW and with Muon, with dropout, in bfloat16, and in
// micro-batches. And with the same bits as without graphs.
static std::vector<float> trained(const char *preset, int dropout, int precision, int steps, bool graphs,
                                  std::vector<long> *launched) {
    gpt_config c = tiny(preset);
    int tokens[200], x[24], y[24];
    long before = 0, replayed, now;
    c.n_ctx = 12, c.n_layer = 1, c.dropout = dropout ? 0.1 : 0;
    tokens_of(tokens, 200, c.n_vocab);
    graphs ? unsetenv("AG_CUDA_GRAPHS") : setenv("AG_CUDA_GRAPHS", "0", 1);
    ag_backend *b = ag_cuda_backend(0);
    unsetenv("AG_CUDA_GRAPHS");
    ag_ctx *ag = ag_new_with(3, b);
    ag_set_matmul_precision(ag, precision);
    gpt_model *m = gpt_new(ag, &c);
    gpt_loader data = gpt_loader_new(ag, tokens, 200, GPT_RANDOM);
    gpt_optimizer o = dropout ? gpt_adamw() : gpt_muon();
    for (int step = 0; step < steps; step++, ag_reset(ag)) {
        for (int part = 0; part < (quick() ? 1 : 2); part++) {
            gpt_next(&data, 2, 12, x, y);
            CHECK(!ag_backward(ag_scale(ag_cross_entropy(gpt_forward(m, x, 2, 12), y, NULL), 0.5)));
            ag_reset(ag);
        }
        CHECK(!gpt_step(m, &o, gpt_lr_linear(step, 2, steps, 0.5), NULL));
        ag_cuda_launches(b, &replayed, &now);
        if (launched) launched->push_back(now - before);
        CHECK(graphs || !replayed);
        before = now;
    }
    std::vector<float> all;
    for (const std::vector<float> &p : all_parameters(ag, false)) all.insert(all.end(), p.begin(), p.end());
    gpt_free(m), ag_free(ag);
    return all;
}
// More between two results than the page of staged numbers holds; writes and kernels keep their order.
static void many_writes(void) {
    ag_backend *b = ag_cuda_backend(0);
    const size_t piece = 300, pieces = 700;         // 820 KB
    std::vector<float> host(piece), out(piece * pieces);
    float *x = (float *)b->alloc(b, out.size() * sizeof(float)), *y = (float *)b->alloc(b, out.size() * sizeof(float));
    CHECK(x && y && !b->fill(b, y, 1, out.size()));
    const int shape[4] = {1, 1, 1, (int)piece};
    const size_t stride[3][4] = {{0, 0, 0, 1}, {0, 0, 0, 1}, {0, 0, 0, 0}};
    for (size_t i = 0; i < pieces; i++) {
        float *here = x + i % 5 * piece, *sum = y + i * piece;      // the same place again while work waits for it
        const float *in[3] = {here, sum, nullptr};
        for (size_t k = 0; k < piece; k++) host[k] = (float)(i * 1000 + k);
        CHECK(!b->write(b, here, host.data(), piece * sizeof(float)));
        CHECK(!b->map(b, AG_MAP_AXPBY, sum, in, shape, stride, (double)i, 3));
    }
    CHECK(!b->read(b, out.data(), y, out.size() * sizeof(float)));
    bool right = true;
    for (size_t i = 0; i < out.size(); i++) {
        float p = (float)(i / piece), v = p * 1000 + (float)(i % piece);
        right = right && fabsf(out[i] - (p * v + 3)) <= 1e-6f * (1 + p * v);
    }
    CHECK(right);
    b->release(b, x), b->release(b, y), b->destroy(b);
}
// More different segments than are remembered: none is found again, all are right. With fewer, all are replayed.
static void many_segments(void) {
    ag_backend *b = ag_cuda_backend(0);
    float *x = (float *)b->alloc(b, 1200);
    long replayed = 0, launched;
    for (int different : {300, 100}) for (int round = 0; round < 4; round++) for (int n = 1; n <= different; n++) {
        float host[300], want = 1;
        const int shape[4] = {1, 1, 1, n};
        const size_t stride[3][4] = {{0, 0, 0, 1}, {0, 0, 0, 0}, {0, 0, 0, 0}};
        const float *in[3] = {x, nullptr, nullptr};
        for (float &v : host) v = 1;
        CHECK(!b->write(b, x, host, sizeof host));
        for (int k = 0; k < 4; k++, want *= 2) CHECK(!b->map(b, AG_MAP_SCALE, x, in, shape, stride, 2, 0));
        CHECK(!b->read(b, host, x, sizeof host));
        CHECK(host[0] == want && host[n - 1] == want && (n == 300 || host[n] == 1));
        ag_cuda_launches(b, &replayed, &launched);
        if (different == 300) CHECK_INT(replayed, 0);
    }
    CHECK(replayed >= 2 * 100 * 5);
    b->release(b, x), b->destroy(b);
}
static void graphs(void) {
    for (int form = 0; form < (quick() ? 1 : 3); form++) {
        const char *preset = form ? "nano" : "nano-llama";
        int dropout = form == 1, precision = form == 2 ? AG_BF16 : AG_FLOAT32, steps = 6;
        std::vector<long> launched;
        std::vector<float> with = trained(preset, dropout, precision, steps, true, &launched);
        CHECK(launched[0] > 50);
        for (int step = 4; step < steps; step++) CHECK_INT(launched[step], 0);
        CHECK(with == trained(preset, dropout, precision, steps, false, NULL));
    }
}

// ---- what goes wrong ------------------------------------------------------------------------------------------------
static void errors(void) {
    fflush(stderr);
    FILE *kept = stderr;
    stderr = tmpfile();                             // what is said is looked at, and not shown
    CHECK(ag_cuda_backend(99) == NULL && ag_cuda_backend(-1) == NULL);
    ag_backend *b = ag_cuda_backend(0);
    char text[400] = "";
    rewind(stderr);
    CHECK(fread(text, 1, sizeof text - 1, stderr) > 0);
    CHECK_HAS(text, "device");
    fclose(stderr);
    stderr = kept;
    ag_ctx *g = ag_new_with(1, b);
    CHECK_STR(ag_backend_name(g), "cuda");
    CHECK_STR(ag_matmul_path(g), "float32");
    ag_set_matmul_precision(g, AG_BF16);
    CHECK_HAS(ag_matmul_path(g), "bf16/cu");        // with cuBLAS it is bf16/cublas
    ag_free(g);
}

// Two contexts on two devices, in turns.
static void devices(void) {
    const char *count = getenv("CUDA_ON_CPU_DEVICES");
    float host[3] = {1, 2, 3}, out[3] = {0, 0, 0};
    if (!count || atoi(count) < 2) return;
    ag_ctx *g[2] = {ag_new_with(1, ag_cuda_backend(0)), ag_new_with(1, ag_cuda_backend(1))};
    ag_tensor *x[2], *y[2];
    for (int k = 0; k < 2; k++) x[k] = ag_input(g[k], host, 3);
    for (int k = 0; k < 2; k++) y[k] = ag_softmax(ag_add(x[k], x[k]));
    for (int k = 0; k < 2; k++) {
        CHECK(!ag_get(y[k], out));
        CHECK_NEAR(out[0] + out[1] + out[2], 1, 1e-6);
        ag_free(g[k]);
    }
}

int main(int argc, char **argv) {
    T_BEGIN("backend");
    T_RUN(memory);
    T_RUN(elementwise);
    T_RUN(copies);
    T_RUN(reductions);
    T_RUN(softmaxes);
    T_RUN(cross_entropies);
    T_RUN(norms);
    T_RUN(look_ups);
    T_RUN(dropouts);
    T_RUN(rotary_positions);
    T_RUN(swiglus);
    T_RUN(gelus);
    T_RUN(int8s);
    T_RUN(products);
    T_RUN(attentions);
    T_RUN(optimizers);
    T_RUN(ops);
    if (!getenv("BACKEND_NO_MODELS")) {
        T_RUN(model_llama);
        T_RUN(model_gpt2_dropout);
        T_RUN(model_llama_bf16);
        T_RUN(model_gpt2_bf16);
    }
    if (!quick()) T_RUN(model_gpt2);
    if (!quick()) T_RUN(model_naive);
    T_RUN(training);
    T_RUN(many_writes);
    T_RUN(many_segments);
    T_RUN(graphs);
    T_RUN(errors);
    T_RUN(devices);
    return T_END();
}
