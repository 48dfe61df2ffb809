// Matrix products and attention of the GPU backend (cuda/matmul.cuh, cuda/attention.cuh) against plain loops in double,
// and the versions against each other. Built and run like kernels.cu, in every build and with every seed:
//     g++ -std=c++17 -g -O1 -x c++ -Icuda tests/cuda/products.cu -o build/cuda/products && build/cuda/products
#include "attention.cuh"
#include "../test.h"
#include "device.h"
#include <algorithm>
#include <vector>

typedef std::vector<float> Floats;
static uint64_t state = 1;
static float number() {                             // between -1 and 1; xorshift64, Marsaglia 2003
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return (float)((double)(state >> 40) / (1 << 23) - 1);
}
static Floats numbers(size_t n) {
    Floats x(n);
    for (float &v : x) v = number();
    return x;
}
// |got - want| / |want|, as vectors
static double distance(const Floats &got, const std::vector<double> &want) {
    double d = 0, n = 0;
    for (size_t i = 0; i < want.size(); i++) d += (got[i] - want[i]) * (got[i] - want[i]), n += want[i] * want[i];
    return n > 0 ? sqrt(d / n) : sqrt(d);
}

// ---- matrix products ------------------------------------------------------------------------------------------------
struct Product {
    int M, N, K, ta, tb, bias, accumulate, batch[2];
    size_t sc[2], sa[2], sb[2];
    int skew;                                       // A starts so many elements behind a multiple of 16 bytes
};
static Product plain(int M, int N, int K, int form, int extras) {
    return {M, N, K, form & 1, form >> 1 & 1, extras & 1, extras >> 1 & 1, {1, 1}, {0, 0}, {0, 0}, {0, 0}, 0};
}
static size_t extent(const int batch[2], const size_t stride[2], size_t one) {
    return (size_t)(batch[0] - 1) * stride[0] + (size_t)(batch[1] - 1) * stride[1] + one;
}
static std::vector<double> reference(const Product &p, const Floats &C, const Floats &A, const Floats &B,
                                     const Floats &bias) {
    std::vector<double> c(C.begin(), C.end());
    for (int b0 = 0; b0 < p.batch[0]; b0++) for (int b1 = 0; b1 < p.batch[1]; b1++) {
        const float *a = A.data() + p.skew + b0 * p.sa[0] + b1 * p.sa[1];
        const float *b = B.data() + b0 * p.sb[0] + b1 * p.sb[1];
        double *to = &c[b0 * p.sc[0] + b1 * p.sc[1]];
        bool add = p.accumulate || (b0 && !p.sc[0]) || (b1 && !p.sc[1]);
        for (int m = 0; m < p.M; m++) for (int n = 0; n < p.N; n++) {
            double s = add ? to[m * p.N + n] : 0;
            for (int k = 0; k < p.K; k++)
                s += (double)(p.ta ? a[k * p.M + m] : a[m * p.K + k]) * (p.tb ? b[n * p.K + k] : b[k * p.N + n]);
            to[m * p.N + n] = p.bias ? s + bias[n] : s;
        }
    }
    return c;
}

static const cudaStream_t stream = nullptr;

struct Buffers { float *c, *a, *b, *bias; };
typedef int (*Version)(const Product &p, const Buffers &d);
static MatmulCall call(const Product &p, const Buffers &d) {
    return matmul_call(d.c, d.a, d.b, p.M, p.N, p.K, p.ta, p.tb, p.batch, p.sc, p.sa, p.sb, p.accumulate);
}
static int naive(const Product &p, const Buffers &d) {
    return cuda_matmul_naive(stream, d.c, d.a, d.b, d.bias, call(p, d), p.ta, p.tb, 0);
}
template <class T> static int tiled(const Product &p, const Buffers &d) {
    return cuda_matmul_tiled<T>(stream, d.c, d.a, d.b, d.bias, call(p, d), p.ta, p.tb);
}
static int chosen(const Product &p, const Buffers &d) {
    return cuda_matmul(stream, d.c, d.a, d.b, d.bias, p.M, p.N, p.K, p.ta, p.tb, p.batch, p.sc, p.sa, p.sb,
                       p.accumulate);
}

static int naive_bf16(const Product &p, const Buffers &d) {
    return cuda_matmul_naive(stream, d.c, d.a, d.b, d.bias, call(p, d), p.ta, p.tb, 1);
}
static int chosen_bf16(const Product &p, const Buffers &d) {
    void *scratch = nullptr;
    cudaMalloc(&scratch, cuda_matmul_bf16_scratch(p.M, p.N, p.K, p.ta, p.tb, p.batch, p.sa, p.sb));
    int failed = cuda_matmul_bf16(stream, d.c, d.a, d.b, d.bias, p.M, p.N, p.K, p.ta, p.tb, p.batch, p.sc, p.sa, p.sb,
                                  p.accumulate, scratch);
    cudaFree(scratch);
    return failed;
}
// One product of a kind that cuda_matmul_bf16 takes for larger ones.
template <class T> static int tiled_bf16(const Product &p, const Buffers &d) {
    MatmulRounded a = matmul_rounded(p.ta ? p.K : p.M, p.ta ? p.M : p.K, p.batch, p.sa);
    MatmulRounded b = matmul_rounded(p.tb ? p.N : p.K, p.tb ? p.K : p.N, p.batch, p.sb);
    bf16 *a16 = nullptr, *b16 = nullptr;
    cudaMalloc(&a16, a.total * sizeof(bf16));
    cudaMalloc(&b16, b.total * sizeof(bf16));
    int failed = matmul_round_launch(stream, a16, d.a, a) || matmul_round_launch(stream, b16, d.b, b);
    MatmulCall of = call(p, d);
    of.lda = a.stride, of.ldb = b.stride;
    for (int i = 0; i < 2; i++) of.sa[i] = a.to[i], of.sb[i] = b.to[i];
    failed = failed || matmul_mma_launch<T>(stream, d.c, a16, b16, d.bias, of, p.ta, p.tb);
    cudaFree(a16);
    cudaFree(b16);
    return failed;
}

// Runs the versions on the same numbers. In float32 the first one is compared with double, the others bit for bit with
// the first. In bfloat16 all are compared with double; products of rounded numbers are exact, and a tensor core's sums
// are nearly those of float32.
enum Precision { FLOAT32, BF16 };
static void compare(const Product &p, const std::vector<Version> &versions, Precision precision = FLOAT32) {
    Floats C = numbers(extent(p.batch, p.sc, (size_t)p.M * p.N)), bias = numbers(p.N), first;
    Floats A = numbers(p.skew + extent(p.batch, p.sa, (size_t)p.M * p.K));
    Floats B = numbers(extent(p.batch, p.sb, (size_t)p.K * p.N));
    float *a = upload(A), *b = upload(B), *added = upload(bias);
    if (precision == BF16)
        for (Floats *x : {&A, &B}) for (float &v : *x) v = __bfloat162float(__float2bfloat16(v));
    for (Version version : versions) {
        float *c = upload(C);
        CHECK_INT(version(p, {c, a + p.skew, b, p.bias ? added : nullptr}), 0);
        Floats got = download(c, C.size());
        cudaFree(c);
        if (version == versions[0] || precision == BF16) {
            first = got;
            double d = distance(got, reference(p, C, A, B, bias));
            if (!(d <= (precision == BF16 ? 1e-5 : 2e-6)))
                T_FAIL("M %d N %d K %d ta %d tb %d: off by %g", p.M, p.N, p.K, p.ta, p.tb, d);
        } else if (memcmp(got.data(), first.data(), got.size() * sizeof(float)))
            T_FAIL("M %d N %d K %d ta %d tb %d: other bits", p.M, p.N, p.K, p.ta, p.tb);
    }
    cudaFree(a);
    cudaFree(b);
    cudaFree(added);
}

// Edges everywhere: one element, less than a tile, one more than a tile; every form, with and without bias and sum.
static void matmul_shapes(void) {
    const int shapes[][3] = {{1, 1, 1}, {3, 17, 1}, {1, 33, 65}, {33, 3, 17}, {17, 65, 3}, {65, 33, 40}, {32, 64, 32}};
    for (auto &s : shapes)
        for (int form = 0; form < 4; form++) {
            compare(plain(s[0], s[1], s[2], form, form ^ s[0]), {naive, tiled<MatmulSmall>});
            if (s[2] < 20) compare(plain(s[0], s[1], s[2], form, form ^ s[1]), {naive, tiled<MatmulLarge>});
        }
    for (int form = 0; form < 4; form++) {
        compare(plain(130, 127, 17, form, form), {naive, tiled<MatmulLarge>});
        compare(plain(128, 132, 36, form, ~form), {naive, tiled<MatmulLarge>});
    }
}
static void matmul_shapes_bf16(void) {
    const int shapes[][3] = {{1, 1, 1}, {3, 17, 1}, {1, 33, 65}, {33, 3, 17}, {17, 65, 127}, {65, 33, 40}};
    for (auto &s : shapes)
        for (int form = 0; form < 4; form++)
            compare(plain(s[0], s[1], s[2], form, form ^ s[0]), {naive_bf16, chosen_bf16}, BF16);
    for (int form = 0; form < 4; form++) {
        compare(plain(130, 127, 40, form, form), {naive_bf16, tiled_bf16<MmaLarge>}, BF16);
        compare(plain(64, 128, 64, form, ~form), {tiled_bf16<MmaSmall>, tiled_bf16<MmaLarge>}, BF16);
        compare(plain(5, 6, 0, form, form), {naive_bf16, chosen_bf16}, BF16);
    }
}
// Products side by side, one operand for all, and products that add up in one dimension or both.
static void matmul_batches(void) {
    for (int form = 0; form < 4; form++) {
        Product p = plain(5, 36, 12, form, form);
        p.batch[0] = 3, p.batch[1] = 2;
        size_t c = 5 * 36, a = 5 * 12, b = 12 * 36;
        const size_t strides[][6] = {{2 * c, c, 2 * a, a, 2 * b, b}, {2 * c, c, a, 0, 0, 0},
                                     {0, c, 2 * a, a, 2 * b, b}, {c, 0, 2 * a, a, b, 0},
                                     {0, 0, 2 * a, a, 2 * b, b}, {c, 3 * c, a, 3 * a, b, 3 * b}};
        for (auto &s : strides) {
            for (int i = 0; i < 2; i++) p.sc[i] = s[i], p.sa[i] = s[2 + i], p.sb[i] = s[4 + i];
            compare(p, {naive, chosen});            // that is the small one
            if (form % 3 == 0) compare(p, {naive, tiled<MatmulLarge>});
            compare(p, {naive_bf16, chosen_bf16}, BF16);
        }
    }
}
// Nothing to add up, nothing to write, and an operand that is not aligned to 16 bytes though its rows would be.
static void matmul_corners(void) {
    for (int extras = 0; extras < 4; extras++)
        compare(plain(3, 5, 0, 0, extras), {naive, tiled<MatmulSmall>, tiled<MatmulLarge>});
    Product p = plain(36, 40, 16, 1, 0);
    p.skew = 1;
    compare(p, {naive, tiled<MatmulSmall>, tiled<MatmulLarge>, chosen});
    float *x = upload(Floats(1, 7));
    CHECK_INT(chosen(plain(0, 4, 4, 0, 0), {x, x, x, nullptr}), 0);
    CHECK_INT(chosen(plain(4, 0, 4, 0, 0), {x, x, x, nullptr}), 0);
    CHECK(download(x, 1)[0] == 7);
    cudaFree(x);
}

// ---- attention ------------------------------------------------------------------------------------------------------
enum { PADDED = 1, RAGGED = 2, CACHE = 4, ROWS = 8, ADD = 16 };     // ADD: the gradient is added to what is there
enum { ALIKE = 32 };                                // all keys and values have a 3 in them, and differ by less
struct Case { int B, T, NH, NKV, HS, kind; };
typedef std::vector<int> Ints;
struct Texts {                                      // a case, on the host
    Case c;
    size_t N;                                       // positions
    int room;                                       // T_max
    Ints start, len, first, row;
    Floats qkv, k_cache, v_cache, dy, dqkv;
    Texts(const Case &which) : c(which), N(0), room(c.T + 11) {
        for (int b = 0; b < c.B; b++) {
            len.push_back(c.kind & (PADDED | RAGGED) ? b == 1 ? 0 : c.T - 2 * b : c.T);
            start.push_back(c.kind & CACHE ? (7 * b + 5) % 11 : 0), row.push_back(c.kind & ROWS ? 2 * b + 1 : b);
            first.push_back((int)N), N += (size_t)(c.kind & RAGGED ? len[b] : c.T);
        }
        qkv = numbers(N * (c.NH + 2 * c.NKV) * c.HS), dqkv = numbers(qkv.size()), dy = numbers(N * c.NH * c.HS);
        for (size_t i = 0; i < qkv.size() && c.kind & ALIKE; i++)
            qkv[i] += i / c.HS % (c.NH + 2 * c.NKV) < (size_t)c.NH ? 0 : i % c.HS % 3 ? 3.0f : -3.0f;
        size_t cached = (size_t)(2 * c.B) * room * c.NKV * c.HS;
        k_cache = numbers(cached), v_cache = numbers(cached);
    }
    int keys(int b, int t) const { return t < len[b] ? start[b] + t + 1 : 0; }
    size_t at(int b, int t, int head) const { return ((size_t)(first[b] + t) * (c.NH + 2 * c.NKV) + head) * c.HS; }
    // Key u of row b and head h, or its value: what is in the cache before start, what is new behind it.
    const float *key(int b, int h, int u, bool value) const {
        int kv = h / (c.NH / c.NKV);
        if (u >= start[b]) return &qkv[at(b, u - start[b], c.NH + (value ? c.NKV : 0) + kv)];
        return &(value ? v_cache : k_cache)[(((size_t)row[b] * room + u) * c.NKV + kv) * c.HS];
    }
};
struct Answers { std::vector<double> y, lse, dqkv; };
static double dot(const float *x, const float *y, int n) {
    double s = 0;
    for (int i = 0; i < n; i++) s += (double)x[i] * y[i];
    return s;
}
static Answers answers(const Texts &x) {
    const Case &c = x.c;
    const int HS = c.HS;
    const double scale = 1 / sqrt((double)HS);
    Answers to = {std::vector<double>(x.N * c.NH * HS), std::vector<double>((size_t)c.B * c.NH * c.T), {}};
    to.dqkv.assign(x.dqkv.begin(), x.dqkv.end());
    if (!(c.kind & ADD)) to.dqkv.assign(to.dqkv.size(), 0);
    for (int b = 0; b < c.B; b++) for (int h = 0; h < c.NH; h++) for (int t = 0; t < c.T; t++) {
        int keys = x.keys(b, t);
        if (!keys) continue;
        const float *q = &x.qkv[x.at(b, t, h)], *dy = &x.dy[((size_t)(x.first[b] + t) * c.NH + h) * HS];
        double *y = &to.y[((size_t)(x.first[b] + t) * c.NH + h) * HS], largest = -INFINITY, sum = 0, D = 0;
        std::vector<double> p(keys);
        for (int u = 0; u < keys; u++) p[u] = scale * dot(q, x.key(b, h, u, false), HS);
        for (double s : p) largest = std::max(largest, s);
        for (double &s : p) sum += s = exp(s - largest);
        for (int u = 0; u < keys; u++)
            for (int d = 0; d < HS; d++) y[d] += (p[u] /= d ? 1 : sum) * x.key(b, h, u, true)[d];
        to.lse[((size_t)b * c.NH + h) * c.T + t] = largest + log(sum);
        for (int d = 0; d < HS; d++) D += dy[d] * y[d];
        for (int u = 0; u < keys && !(c.kind & CACHE); u++) {
            const float *k = x.key(b, h, u, false), *v = x.key(b, h, u, true);
            double ds = p[u] * (dot(dy, v, HS) - D) * scale, *dk = &to.dqkv[k - x.qkv.data()];
            double *dv = &to.dqkv[v - x.qkv.data()], *dq = &to.dqkv[q - x.qkv.data()];
            for (int d = 0; d < HS; d++) dv[d] += p[u] * dy[d], dq[d] += ds * k[d], dk[d] += ds * q[d];
        }
    }
    return to;
}

typedef int (*Forward)(cudaStream_t, const ag_attention_args *);
typedef int (*Backward)(cudaStream_t, const ag_attention_args *, float *scratch);
static int naive_back(cudaStream_t s, const ag_attention_args *a, float *) { return cuda_attention_back_naive(s, a); }

static void near_to(const char *what, const Case &c, const Floats &got, const std::vector<double> &want, double limit) {
    double d = distance(got, want);
    if (!(d <= limit)) T_FAIL("%s of B %d T %d NH %d NKV %d HS %d kind %d is off by %g", what, c.B, c.T, c.NH, c.NKV,
                              c.HS, c.kind, d);
}
// The entries in bfloat16 need scratch memory forward too.
static int forward_bf16(cudaStream_t s, const ag_attention_args *a) {
    void *scratch = nullptr;
    cudaMalloc(&scratch, cuda_attention_scratch_bf16(a));
    int failed = cuda_attention_bf16(s, a, scratch);
    cudaFree(scratch);
    return failed;
}
static int back_bf16(cudaStream_t s, const ag_attention_args *a, float *) {
    void *scratch = nullptr;
    cudaMalloc(&scratch, cuda_attention_scratch_bf16(a));
    int failed = cuda_attention_back_bf16(s, a, scratch);
    cudaFree(scratch);
    return failed;
}
static void attend(const Case &c, Forward forward, Backward backward, double limit) {
    Texts x(c);
    Answers want = answers(x);
    ag_attention_args a = {};
    a.B = c.B, a.T = c.T, a.NH = c.NH, a.NKV = c.NKV, a.HS = c.HS, a.T_max = x.room, a.accumulate = !!(c.kind & ADD);
    float *qkv = upload(x.qkv), *dy = upload(x.dy), *scratch = nullptr;
    int *start = upload(x.start), *len = upload(x.len), *first = upload(x.first), *row = upload(x.row);
    a.qkv = qkv, a.y = upload(Floats(want.y.size(), NAN)), a.lse = upload(Floats(want.lse.size()));
    if (c.kind & CACHE) a.k_cache = upload(x.k_cache), a.v_cache = upload(x.v_cache), a.start = start;
    if (c.kind & (PADDED | RAGGED)) a.len = len;
    if (c.kind & RAGGED) a.first = first;
    if (c.kind & ROWS) a.row = row;
    CHECK_INT(forward(0, &a), 0);
    near_to("y", c, download(a.y, want.y.size()), want.y, limit);
    near_to("lse", c, download(a.lse, want.lse.size()), want.lse, limit);
    if (!(c.kind & CACHE)) {
        a.dy = dy, a.dqkv = upload(x.dqkv);
        cudaMalloc(&scratch, cuda_attention_scratch(&a));
        CHECK_INT(backward(0, &a, scratch), 0);
        near_to("dqkv", c, download(a.dqkv, want.dqkv.size()), want.dqkv, limit);
    }
    for (float *p : {qkv, dy, scratch, a.y, a.lse, a.k_cache, a.v_cache, a.dqkv}) cudaFree(p);
    for (int *p : {start, len, first, row}) cudaFree(p);
}
static const Case texts[] = {
    {1, 1, 1, 1, 4, 0}, {2, 17, 2, 2, 24, ADD}, {1, 70, 2, 1, 32, 0}, {2, 33, 3, 1, 25, 0}, {1, 65, 2, 1, 64, ADD},
    {1, 34, 2, 1, 100, 0}, {1, 19, 1, 1, 130, 0}, {1, 17, 1, 1, 256, ADD}, {3, 9, 2, 1, 16, PADDED},
    {3, 67, 2, 1, 8, PADDED | ADD}, {3, 9, 2, 1, 16, RAGGED}, {3, 67, 2, 1, 8, RAGGED | ADD}, {2, 1, 4, 2, 24, CACHE},
    {2, 1, 2, 2, 9, CACHE | ROWS}, {3, 5, 2, 1, 64, CACHE | PADDED}, {3, 66, 2, 1, 16, CACHE | RAGGED | ROWS}};

static void attention_as_formulas(void) {
    for (const Case &c : texts) attend(c, cuda_attention_naive, naive_back, 2e-6);
}
static void attention_float32(void) {
    for (const Case &c : texts) attend(c, cuda_attention, cuda_attention_back, 2e-6);
}

static void attention_bf16(void) {
    for (const Case &c : {Case{1, 3, 1, 1, 64, 0}, Case{2, 17, 4, 2, 64, ADD}, Case{1, 130, 1, 1, 64, 0},
                          Case{1, 66, 2, 1, 128, ADD}, Case{3, 67, 2, 1, 64, PADDED}, Case{3, 20, 2, 2, 128, RAGGED},
                          Case{2, 5, 2, 1, 24, 0}, Case{2, 1, 2, 1, 64, CACHE}})
        attend(c, forward_bf16, back_bf16, 1e-2);
    ag_attention_args odd = {};                     // no tensor cores, so nothing is rounded
    odd.B = odd.T = odd.NH = odd.NKV = 1, odd.HS = 24;
    CHECK_INT(cuda_attention_scratch_bf16(&odd), cuda_attention_scratch(&odd));
    attend({1, 66, 2, 1, 64, ALIKE}, forward_bf16, back_bf16, 2e-2);    // 5e-2 where ds do not add up to 0
}

int main(int argc, char **argv) {
    T_BEGIN("products");
    T_RUN(matmul_shapes);
    T_RUN(matmul_shapes_bf16);
    T_RUN(matmul_batches);
    T_RUN(matmul_corners);
    T_RUN(attention_as_formulas);
    T_RUN(attention_float32);
    T_RUN(attention_bf16);
    return T_END();
}
