/*
gpt_cuda.cu - the GPU behind autograd.h: its table of kernels (struct ag_backend), in CUDA.

    #include "cuda/gpt_cuda.h"                              // after gpt.h or autograd.h
    ag_ctx *ag = ag_new_with(1337, ag_cuda_backend(0));     // instead of ag_new(1337); everything else stays

On a GPU:       nvcc -std=c++17 -O3 -arch=sm_80 -c cuda/gpt_cuda.cu && cc -O3 -c lesson.c
                nvcc lesson.o gpt_cuda.o -o lesson
On the CPU:     g++ -std=c++17 -O2 -x c++ -c cuda/gpt_cuda.cu && cc -O3 -c lesson.c
                g++ lesson.o gpt_cuda.o -o lesson           (cuda_on_cpu.h: slow, but it is the same code)
With cuBLAS:    nvcc -std=c++17 -O3 -arch=sm_80 -DGPT_CUBLAS -c cuda/gpt_cuda.cu && cc -O3 -c lesson.c
                nvcc lesson.o gpt_cuda.o -lcublas -o lesson (NVIDIA's products; on the CPU -DGPT_CUBLAS alone)
Several GPUs:   the same with -DGPT_NCCL and -lnccl; on the CPU CUDA_ON_CPU_DEVICES=4 in the environment

MEANING   What each entry has to compute is said in autograd.h, beside the table and in the naive kernels of the CPU.
Here it is computed in float, so the two agree to about 1e-6 and not to the bit.

TWICE   Each kernel whose fast form is not obvious stands here in its shortest form first, its name ends in _naive: one
thread for each result, which does all of the work for it. Then comes the one that is used. ag_cuda_naive_backend is the
table of the first kind, and tests hold both to the CPU.

ORDER   No sum depends on which thread comes first: there are no atomics on floats, each sum has one order that follows
from the shapes alone. So the same program gives the same bits again, on every GPU of one kind. (cuBLAS has orders of
its own; NVIDIA promises the same of each version of it.)

MEMORY   Tensors lie in the arenas of autograd.h, which ask for few large pieces. What kernels need besides, partial
sums above all, is one buffer of the backend that grows.

ORDER OF WORK   Everything runs in one stream, but not at once: an entry of the table puts its launches into a queue,
and read() starts what is there and waits for it. From its fourth step or so a training loop is replayed as CUDA graphs.
queue.cuh says how, and why learning rates and the like are no arguments of kernels. A launch that fails is therefore
told of by the next read().

LIMITS   ag_real must be float. A tensor has fewer than 2^31 elements (autograd.h sees to that), so 32 bits count them.

READING ORDER   1 the machine   2 sums   3 elementwise   4 copies   5 reductions   6 softmax and cross entropy
7 normalisation   8 looking up   9 dropout   10 rotary positions   11 SwiGLU   12 products and what follows them
13 attention   14 optimizers   15 the table   16 several GPUs
*/
#include "gpt_cuda.h"
#include "queue.cuh"
#include "matmul.cuh"
#include "attention.cuh"
#ifdef GPT_CUBLAS
#include "cublas_on_cpu.h"
#endif
#ifdef GPT_NCCL
#include "nccl_on_cpu.h"
#endif
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

static_assert(std::is_same<ag_real, float>::value, "the GPU computes in float: compile without AG_REAL");

// ---- 1 the machine --------------------------------------------------------------------------------------------------
enum { WARP = 32, WARPS = 8, BLOCK = WARP * WARPS };        // threads of a warp; warps and threads of most blocks

struct Turns { double theta; int size; uint64_t *per_position; };       // see rotary positions

struct Cuda {                       // ag_backend's self
    ag_backend table;
    int device, naive, told;        // told: the first failure has been printed
    unsigned blocks;                // enough of them to fill the device
    Queue queue;
    void *scratch;
    size_t scratch_bytes;
    Turns turns[4];
    int next_turns;
#ifdef GPT_CUBLAS
    cublasHandle_t blas;
    void *blas_room;                // its workspace
#endif
};

static int failed(Cuda *c, const char *what, cudaError_t error) {
    if (error == cudaSuccess) return 0;
    if (!c->told++) fprintf(stderr, "gpt_cuda: %s: %s\n", what, cudaGetErrorString(error));
    cudaGetLastError();                             // CUDA would tell of it again at the next launch
    return -1;
}

// Failures of what is in the queue show when it is run.
static int queued(Cuda *c, cudaError_t error) { return failed(c, c->queue.failed, error); }

// A macro, so that what the emulation says of a kernel names the line where it was launched.
#define RUN(c, kernel, grid, block, ...) \
    ((c)->queue.what = #kernel, launch(kernel, grid, block, 0, &(c)->queue, __VA_ARGS__), queued(c, (c)->queue.error))

// The same for a function that launches and returns 0, or -1: what it was asked for is too large.
static int launched(Cuda *c, const char *what, int status) {
    if (status && !c->told++) fprintf(stderr, "gpt_cuda: %s: a kernel could not be launched\n", what);
    return status ? -1 : queued(c, c->queue.error);
}
#define LAUNCHED(c, name, call) ((c)->queue.what = name, launched(c, name, call))

static Cuda *cuda_of(ag_backend *b) {
    Cuda *c = (Cuda *)b->self;
    queue_failed(&c->queue, cudaSetDevice(c->device), "cudaSetDevice");
    return c;
}

static unsigned up(size_t n, size_t unit) { return (unsigned)((n + unit - 1) / unit); }
static unsigned blocks_for(const Cuda *c, size_t threads) { return min(up(threads, BLOCK), c->blocks); }
static dim3 row_blocks(size_t rows, size_t n) { return dim3(min(up(n, BLOCK), 64u), min(up(rows, 1), 65535u)); }

__device__ inline unsigned thread_index() { return blockIdx.x * blockDim.x + threadIdx.x; }
__device__ inline unsigned thread_count() { return gridDim.x * blockDim.x; }

// W neighbours, one or four. Four come in one load of 16 bytes, the widest there is: fewer instructions for the same
// memory. So a kernel<1> is the naive version of a kernel<4>, which needs addresses that are multiples of 16.
template <int W> struct alignas(4 * W) Pack { float v[W]; };
template <int W> __device__ inline Pack<W> pack_from(const float *x) { return *reinterpret_cast<const Pack<W> *>(x); }
template <int W> __device__ inline Pack<W> &pack_at(float *x) { return *reinterpret_cast<Pack<W> *>(x); }
static bool in_packs(const void *a, const void *b, const void *c = nullptr) {
    return ((uintptr_t)a | (uintptr_t)b | (uintptr_t)c) % 16 == 0;
}

static int give_back(Cuda *c, void *p) {            // when all that may use it is done: cudaFree waits
    int status = queued(c, queue_flush(&c->queue));
    return failed(c, "cudaFree", cudaFree(p)) || status ? -1 : 0;
}
// Room for partial results, until the next call.
static void *scratch(Cuda *c, size_t bytes) {
    if (bytes <= c->scratch_bytes) return c->scratch;
    if (give_back(c, c->scratch)) return nullptr;
    c->scratch = nullptr, c->scratch_bytes = 0;
    if (failed(c, "cudaMalloc", cudaMalloc(&c->scratch, bytes))) return nullptr;
    c->scratch_bytes = bytes;
    return c->scratch;
}

static void *cuda_alloc(ag_backend *b, size_t bytes) {     // aligned to 256
    Cuda *c = cuda_of(b);
    void *p = nullptr;
    return queued(c, c->queue.error) || failed(c, "cudaMalloc", cudaMalloc(&p, bytes)) ? nullptr : p;
}
static void cuda_release(ag_backend *b, void *p) {
    give_back(cuda_of(b), p);
}
static int cuda_write(ag_backend *b, void *to, const void *host, size_t bytes) {
    Cuda *c = cuda_of(b);
    c->queue.what = "write";
    return bytes ? queued(c, queue_write(&c->queue, to, host, bytes)) : 0;
}
static int cuda_read(ag_backend *b, void *host, const void *from, size_t bytes) {
    Cuda *c = cuda_of(b);
    return bytes ? queued(c, queue_read(&c->queue, host, from, bytes)) : 0;
}
static int clear(Cuda *c, float *y, size_t n) {
    c->queue.what = "clear";
    if (n) queue_clear(&c->queue, y, n * sizeof *y);
    return queued(c, c->queue.error);
}
// Numbers that differ from step to step go to kernels this way. NULL after an error.
template <class T> static const T *stage(Cuda *c, const T *from, size_t n = 1) {
    const T *to = (const T *)queue_stage(&c->queue, from, n * sizeof *from);
    queued(c, c->queue.error);
    return to;
}

// The first 4 * fours elements in fours, the others one by one; fours = 0 is the naive version.
__global__ void fill_kernel(float *y, float value, unsigned n, unsigned fours) {
    const Pack<4> four = {{value, value, value, value}};
    for (unsigned i = thread_index(); i < fours; i += thread_count()) pack_at<4>(&y[4 * i]) = four;
    for (unsigned i = 4 * fours + thread_index(); i < n; i += thread_count()) y[i] = value;
}
static int cuda_fill(ag_backend *b, float *y, float value, size_t n) {
    Cuda *c = cuda_of(b);
    if (value == 0) return clear(c, y, n);
    unsigned fours = c->naive || !in_packs(y, y) ? 0 : (unsigned)(n / 4);
    return n ? RUN(c, fill_kernel, blocks_for(c, fours ? fours : n), BLOCK, y, value, (unsigned)n, fours) : 0;
}

// ---- 2 sums ---------------------------------------------------------------------------------------------------------
// 32 lanes of a warp in five steps: each adds what the lane at distance 16, 8, 4, 2, 1 has. All end with the same sum,
// to the bit, because a + b is b + a.
__device__ inline float warp_sum(float v) {
    for (int d = WARP / 2; d; d /= 2) v += __shfl_xor_sync(0xffffffffu, v, d);
    return v;
}

// A row is the work of a team of W warps: of one where rows are short, so that a block has eight of them and needs no
// barrier, else of the whole block. Then the warps' sums meet in shared memory.
template <int W> __device__ inline float team_sum(float v) {
    v = warp_sum(v);
    if constexpr (W > 1) {
        __shared__ float part[W];
        __syncthreads();                            // the sum before this one may still be read
        if (threadIdx.x % WARP == 0) part[threadIdx.x / WARP] = v;
        __syncthreads();
        v = 0;
        for (int w = 0; w < W; w++) v += part[w];
    }
    return v;
}
template <int W> __device__ inline size_t team_row() {
    return W > 1 ? blockIdx.x : (size_t)blockIdx.x * WARPS + threadIdx.x / WARP;
}
template <int W> __device__ inline unsigned team_lane() { return W > 1 ? threadIdx.x : threadIdx.x % WARP; }

enum { WARP_ROW = 1024 };           // longer rows are the work of a block
#define RUN_ROWS(c, kernel, rows, n, ...) ((n) <= WARP_ROW \
    ? RUN(c, kernel<1>, up(rows, WARPS), BLOCK, __VA_ARGS__) : RUN(c, kernel<WARPS>, up(rows, 1), BLOCK, __VA_ARGS__))

// ---- 3 elementwise --------------------------------------------------------------------------------------------------
__device__ inline float sigmoid(float x) {          // e^-|x| does not overflow
    float e = expf(-fabsf(x));
    return (x >= 0 ? 1 : e) / (1 + e);
}
// 0.5 x (1 + tanh(u)) is x sigmoid(2 u), and its slope sigmoid(2 u) + x sigmoid(2 u) sigmoid(-2 u) 2 u'. 1 + tanh and
// 1 - tanh^2 would lose their digits where tanh is near 1.
__device__ inline float gelu(float x) { return x * sigmoid(1.59576912f * (x + 0.044715f * x * x * x)); }
__device__ inline float gelu_slope(float x) {
    float v = 1.59576912f * (x + 0.044715f * x * x * x), s = sigmoid(v);
    return s + x * s * sigmoid(-v) * 1.59576912f * (1 + 3 * 0.044715f * x * x);
}

// Which op it is decides the same way for all threads, so the switch costs little beside the memory that is moved.
__device__ inline float map_value(int op, float a, float b, float c, float p, float q) {
    switch (op) {
    case AG_MAP_ADD: return a + b;
    case AG_MAP_SUB: return a - b;
    case AG_MAP_MUL: return a * b;
    case AG_MAP_DIV: return a / b;
    case AG_MAP_MIN: return a <= b ? a : b;
    case AG_MAP_MAX: return a >= b ? a : b;
    case AG_MAP_GREATER: return a > b;
    case AG_MAP_WHERE: return a != 0 ? b : c;
    case AG_MAP_SCALE: return a * p;
    case AG_MAP_SHIFT: return a + p;
    case AG_MAP_POW: return powf(a, p);
    case AG_MAP_EXP: return expf(a);
    case AG_MAP_LOG: return logf(a);
    case AG_MAP_SQRT: return sqrtf(a);
    case AG_MAP_TANH: return tanhf(a);
    case AG_MAP_SIGMOID: return sigmoid(a);
    case AG_MAP_LOG_SIGMOID: return (a < 0 ? a : 0) - log1pf(expf(-fabsf(a)));
    case AG_MAP_RELU: return a > 0 ? a : 0;
    case AG_MAP_GELU: return gelu(a);
    case AG_MAP_SILU: return a * sigmoid(a);
    case AG_MAP_CLAMP: return a < p ? p : a > q ? q : a;
    case AG_MAP_AXPBY: return p * a + q * b;
    }
    return 0;
}

__device__ inline float map_slope(int op, int which, float y, float a, float b, float p, float q) {
    float s;
    switch (op) {
    case AG_MAP_ADD: return 1;
    case AG_MAP_SUB: return which == 0 ? 1 : -1;
    case AG_MAP_MUL: return which == 0 ? b : a;
    case AG_MAP_DIV: return which == 0 ? 1 / b : -y / b;
    case AG_MAP_MIN: return (which == 0) == (a <= b);
    case AG_MAP_MAX: return (which == 0) == (a >= b);
    case AG_MAP_WHERE: return which == 1 ? a != 0 : which == 2 ? a == 0 : 0;
    case AG_MAP_SCALE: return p;
    case AG_MAP_SHIFT: return 1;
    case AG_MAP_POW: return p == 0 ? 0 : p * powf(a, p - 1);
    case AG_MAP_EXP: return y;
    case AG_MAP_LOG: return 1 / a;
    case AG_MAP_SQRT: return 0.5f / y;
    case AG_MAP_TANH: return 1 - y * y;
    case AG_MAP_SIGMOID: return y * (1 - y);
    case AG_MAP_LOG_SIGMOID: return sigmoid(-a);
    case AG_MAP_RELU: return a > 0;
    case AG_MAP_GELU: return gelu_slope(a);
    case AG_MAP_SILU: s = sigmoid(a); return s * (1 + a * (1 - s));
    case AG_MAP_CLAMP: return a >= p && a <= q;
    case AG_MAP_AXPBY: return which == 0 ? p : q;
    }
    return 0;
}

// What happens to one element: v are its operands, old what was there (0 where accumulate is not set).
struct Map {
    int op, accumulate;
    float p, q;
    const float *pq;                // if not NULL, p and q are there
    __device__ float operator()(float, const float v[4]) const {
        return map_value(op, v[0], v[1], v[2], pq ? pq[0] : p, pq ? pq[1] : q);
    }
};
struct MapBack {                    // v: the first two operands (a slope needs no third), y, dy
    int op, which, accumulate;
    float p, q;
    __device__ float operator()(float old, const float v[4]) const {
        return old + v[3] * map_slope(op, which, v[2], v[0], v[1], p, q);
    }
};
struct Copy {
    int accumulate;
    float scale;
    __device__ float operator()(float old, const float v[4]) const { return old + scale * v[0]; }
};

// How a kernel walks: the sizes, and for the result (0) and up to four operands the strides. A size is at least 1.
struct Walk { unsigned n[4], stride[5][4]; };
struct Operands { const float *x[4]; };
__device__ inline void places(const Walk &w, unsigned i, unsigned at[5]) {
    unsigned outer = i / w.n[3], coordinate[4] = {0, 0, 0, i - outer * w.n[3]};
    if (w.n[2] != 1) coordinate[2] = outer % w.n[2], outer /= w.n[2];
    if (w.n[1] != 1) coordinate[1] = outer % w.n[1], outer /= w.n[1];
    coordinate[0] = outer;
    for (int k = 0; k < 5; k++) {
        at[k] = 0;
        for (int d = 0; d < 4; d++) at[k] += coordinate[d] * w.stride[k][d];
    }
}

// The short version is also the one for whatever the next one cannot do.
template <class F> __global__ void each(F f, float *y, Operands in, Walk w, unsigned n) {
    for (unsigned i = thread_index(); i < n; i += thread_count()) {
        unsigned at[5];
        float v[4];
        places(w, i, at);
        for (int k = 0; k < 4; k++) v[k] = in.x[k] ? in.x[k][at[k + 1]] : 0;
        y[at[0]] = f(f.accumulate ? y[at[0]] : 0, v);
    }
}

// Four neighbours at a time, 16 bytes in one load, the widest there is: fewer instructions for the same memory. An
// operand whose last stride is 0 has one number for all four. Here i, n and the last size of w count fours.
template <class F> __global__ void each_four(F f, float *y, Operands in, Walk w, unsigned n) {
    for (unsigned i = thread_index(); i < n; i += thread_count()) {
        unsigned at[5];
        float v[4][4], old[4] = {0, 0, 0, 0};       // [element][operand]
        places(w, i, at);
        for (int k = 0; k < 4; k++) {
            float4 four = make_float4(0, 0, 0, 0);
            if (in.x[k] && w.stride[k + 1][3]) four = *reinterpret_cast<const float4 *>(&in.x[k][at[k + 1]]);
            else if (in.x[k]) four.x = four.y = four.z = four.w = in.x[k][at[k + 1]];
            v[0][k] = four.x, v[1][k] = four.y, v[2][k] = four.z, v[3][k] = four.w;
        }
        float4 *to = reinterpret_cast<float4 *>(&y[at[0]]);
        if (f.accumulate) old[0] = to->x, old[1] = to->y, old[2] = to->z, old[3] = to->w;
        *to = make_float4(f(old[0], v[0]), f(old[1], v[1]), f(old[2], v[2]), f(old[3], v[3]));
    }
}

// Neighbouring dimensions that every operand walks through without a jump become one. 0: there is nothing to do.
static unsigned walk_of(Walk *w, const int shape[4], const size_t *const stride[5]) {
    int at = 3;                     // the dimension that is being filled, from the innermost outwards
    unsigned n = 1;
    *w = Walk();
    for (int d = 0; d < 4; d++) w->n[d] = 1, n *= (unsigned)max(shape[d], 0);
    for (int d = 3; d >= 0 && n; d--) {
        bool joins = true;
        if (shape[d] == 1) continue;
        for (int k = 0; k < 5; k++) joins &= !stride[k] || stride[k][d] == (size_t)w->stride[k][at] * w->n[at];
        if (w->n[at] > 1 && !joins) at--;
        if (w->n[at] == 1)
            for (int k = 0; k < 5; k++) w->stride[k][at] = stride[k] ? (unsigned)stride[k][d] : 0;
        w->n[at] *= (unsigned)shape[d];
    }
    return n;
}

static bool in_fours(const Walk &w, const float *y, const Operands &in, const size_t *const stride[5]) {
    for (int k = 0; k < 5; k++) {
        if (!stride[k]) continue;
        const unsigned *s = w.stride[k];
        if (s[3] == 0 && k) continue;
        if (s[3] != 1 || (s[0] | s[1] | s[2]) % 4 || (uintptr_t)(k ? in.x[k - 1] : y) % 16) return false;
    }
    return true;
}

template <class F>
static int walk(Cuda *c, F f, float *y, Operands in, const int shape[4], const size_t *const stride[5]) {
    Walk w;
    unsigned n = walk_of(&w, shape, stride), done = 0;
    if (!n) return 0;
    bool flat = n == w.n[3];                        // one dimension is left: a rest of up to three elements is no harm
    if (!c->naive && (flat || w.n[3] % 4 == 0) && n >= 4 && in_fours(w, y, in, stride)) {
        Walk fours = w;
        fours.n[3] /= 4, done = n / 4 * 4;
        for (int k = 0; k < 5; k++) fours.stride[k][3] *= 4;
        if (RUN(c, each_four<F>, blocks_for(c, n / 4), BLOCK, f, y, in, fours, n / 4)) return -1;
    }
    if (done == n) return 0;
    w.n[3] -= flat ? done : 0;
    for (int k = 0; k < 4 && done; k++) if (in.x[k]) in.x[k] += done * w.stride[k + 1][3];
    return RUN(c, each<F>, blocks_for(c, n - done), BLOCK, f, y + done, in, w, n - done);
}

static void contiguous(const int shape[4], size_t stride[4]) {
    stride[3] = 1;
    for (int d = 2; d >= 0; d--) stride[d] = stride[d + 1] * (size_t)shape[d + 1];
}

static const size_t flat[3][4] = {{0, 0, 0, 1}, {0, 0, 0, 0}, {0, 0, 0, 0}};    // one operand, as it lies in memory

static int cuda_map(ag_backend *b, int op, float *y, const float *const x[3], const int shape[4],
                    const size_t stride[3][4], double p, double q) {
    Cuda *c = cuda_of(b);
    size_t plain[4];
    const size_t *strides[5] = {plain, nullptr, nullptr, nullptr, nullptr};
    Operands in = {{nullptr, nullptr, nullptr, nullptr}};
    contiguous(shape, plain);
    for (int k = 0; k < 3 && x[k]; k++) in.x[k] = x[k], strides[k + 1] = stride[k];
    Map f = {op, 0, (float)p, (float)q, nullptr};
    if (op == AG_MAP_AXPBY) {                       // optimizers call it, with numbers that differ from step to step
        const float pq[2] = {f.p, f.q};
        f.p = f.q = 0, f.pq = stage(c, pq, 2);
        if (!f.pq) return -1;
    }
    return walk(c, f, y, in, shape, strides);
}

static int cuda_map_back(ag_backend *b, int op, int which, float *g, const float *y, const float *const x[3],
                         const float *dy, const int shape[4], const size_t stride[3][4], double p, double q,
                         int accumulate) {
    Cuda *c = cuda_of(b);
    size_t plain[4];
    const size_t *strides[5] = {plain, stride[0], x[1] ? stride[1] : nullptr, plain, plain};
    Operands in = {{x[0], x[1], y, dy}};
    contiguous(shape, plain);
    return walk(c, MapBack{op, which, accumulate, (float)p, (float)q}, g, in, shape, strides);
}

// ---- 4 copies -------------------------------------------------------------------------------------------------------
// A copy that is a transposition: neighbours in x lie far apart in y. One of the two would be touched at 32 places by
// each warp, 32 bytes of memory moved for each 4. So 32x32 elements go through shared memory: read along x, written
// along y. Sizes and strides: [3] is the direction of x, [2] that of y. The 33rd column keeps the 32 elements of a
// column of the tile in 32 different banks.
__global__ void copy_tiles(float *y, const float *x, Walk w, int accumulate) {
    __shared__ float tile[32][33];
    unsigned tiles = (w.n[3] + 31) / 32, i0 = blockIdx.x / tiles * 32, j0 = blockIdx.x % tiles * 32;
    for (unsigned outer = blockIdx.y; outer < w.n[0] * w.n[1]; outer += gridDim.y) {
        unsigned a = outer / w.n[1], b = outer % w.n[1];
        const float *from = x + a * w.stride[1][0] + b * w.stride[1][1];
        float *to = y + a * w.stride[0][0] + b * w.stride[0][1];
        __syncthreads();                            // of the outer before: the tile has been written
        for (unsigned i = threadIdx.y; i < 32; i += blockDim.y)
            if (i0 + i < w.n[2] && j0 + threadIdx.x < w.n[3])
                tile[i][threadIdx.x] = from[(i0 + i) * w.stride[1][2] + j0 + threadIdx.x];
        __syncthreads();
        for (unsigned j = threadIdx.y; j < 32; j += blockDim.y)
            if (j0 + j < w.n[3] && i0 + threadIdx.x < w.n[2]) {
                float *one = &to[(j0 + j) * w.stride[0][3] + i0 + threadIdx.x];
                *one = (accumulate ? *one : 0) + tile[threadIdx.x][j];
            }
    }
}

// Puts the direction in which x is contiguous last and that of y before it; false if they are not two.
static bool turned(Walk *w) {
    int along[2] = {-1, -1};
    for (int k = 0; k < 2; k++)
        for (int d = 0; d < 4; d++) if (w->n[d] > 1 && w->stride[k][d] == 1) along[k] = d;
    if (along[0] < 0 || along[1] < 0 || along[0] == along[1]) return false;
    Walk old = *w;
    int rest = 0;
    for (int d = 0; d < 4; d++) {
        int to = d == along[1] ? 3 : d == along[0] ? 2 : rest++;
        w->n[to] = old.n[d];
        for (int k = 0; k < 2; k++) w->stride[k][to] = old.stride[k][d];
    }
    return true;
}

static int cuda_copy(ag_backend *b, float *y, const size_t ystride[4], const float *x, const size_t xstride[4],
                     const int shape[4], int accumulate) {
    Cuda *c = cuda_of(b);
    Walk w;
    const size_t *strides[5] = {ystride, xstride, nullptr, nullptr, nullptr};
    if (!c->naive && walk_of(&w, shape, strides) && turned(&w)) {
        unsigned tiles = up(w.n[2], 32) * up(w.n[3], 32), outer = min(w.n[0] * w.n[1], max(1u, c->blocks / tiles));
        return RUN(c, copy_tiles, dim3(tiles, outer), dim3(32, 8), y, x, w, accumulate);
    }
    return walk(c, Copy{accumulate, 1}, y, Operands{{x, nullptr, nullptr, nullptr}}, shape, strides);
}

// ---- 5 reductions ---------------------------------------------------------------------------------------------------
// n columns of `rows` values each become n results. What the values are, how two of them are joined and what is done
// with a result is a small struct:
//     T              what a value is, float or float2
//     start()        joins with v to v
//     join(a, b)     must not care which of the two came first
//     at(r, c)       the value in row r of column c
//     put(c, v)      the result of column c
struct Sum {
    typedef float T;
    __device__ static float start() { return 0; }
    __device__ static float join(float a, float b) { return a + b; }
};
struct Sum2 {
    typedef float2 T;
    __device__ static float2 start() { return make_float2(0, 0); }
    __device__ static float2 join(float2 a, float2 b) { return make_float2(a.x + b.x, a.y + b.y); }
};
struct Max {
    typedef float T;
    __device__ static float start() { return -INFINITY; }
    __device__ static float join(float a, float b) { return b > a || b != b ? b : a; }      // a NaN stays
};

template <class F> __global__ void reduce_naive(F f, unsigned rows, unsigned n) {
    unsigned c = thread_index();
    if (c >= n) return;
    typename F::T v = F::start();
    for (unsigned r = 0; r < rows; r++) v = F::join(v, f.at(r, c));
    f.put(c, v);
}

// Neighbouring columns are neighbours in memory, so a warp takes 32 columns and walks down. Eight warps share the rows
// among them, and blockIdx.y counts parts of `per` rows, where there are too few columns to fill the device. Each part
// leaves its results in `part`, n of them; if there is only one, they are the results.
template <class F> __global__ void reduce_columns(F f, typename F::T *part, unsigned rows, unsigned n, unsigned per) {
    __shared__ typename F::T shared[WARPS][WARP];
    unsigned c = blockIdx.x * WARP + threadIdx.x, first = blockIdx.y * per, last = min(rows, first + per);
    typename F::T v = F::start();
    if (c < n) for (unsigned r = first + threadIdx.y; r < last; r += WARPS) v = F::join(v, f.at(r, c));
    shared[threadIdx.y][threadIdx.x] = v;
    __syncthreads();
    if (threadIdx.y || c >= n) return;
    for (int w = 1; w < WARPS; w++) v = F::join(v, shared[w][threadIdx.x]);
    if (gridDim.y == 1) f.put(c, v);
    else part[blockIdx.y * n + c] = v;
}
template <class F> __global__ void reduce_parts(F f, const typename F::T *part, unsigned parts, unsigned n) {
    unsigned c = thread_index();
    if (c >= n) return;
    typename F::T v = part[c];
    for (unsigned p = 1; p < parts; p++) v = F::join(v, part[p * n + c]);
    f.put(c, v);
}

// How many parts, says the shape alone: another GPU must not give other sums.
template <class F> static int reduce_down(Cuda *c, F f, unsigned rows, unsigned n) {
    typedef typename F::T T;
    if (!n) return 0;
    if (c->naive) return RUN(c, reduce_naive<F>, up(n, BLOCK), BLOCK, f, rows, n);
    unsigned strips = up(n, WARP), parts = max(1u, min(up(rows, 64), 512 / strips)), per = up(rows, parts);
    T *part = parts == 1 ? nullptr : (T *)scratch(c, (size_t)parts * n * sizeof(T));
    if (parts > 1 && !part) return -1;
    if (RUN(c, reduce_columns<F>, dim3(strips, parts), dim3(WARP, WARPS), f, part, rows, n, per)) return -1;
    return parts == 1 ? 0 : RUN(c, reduce_parts<F>, up(n, BLOCK), BLOCK, f, part, parts, n);
}

// Where the values of one column are neighbours in memory, a block walks along it; long columns in parts of LONG, and
// in larger ones where there would be more than LONG of them: one more block then joins those of a column.
enum { LONG = 8192 };
template <class F> __global__ void reduce_along(F f, float *part, unsigned rows, unsigned n, unsigned per) {
    __shared__ float shared[BLOCK];
    unsigned c = blockIdx.x, first = blockIdx.y * per, last = min(rows, first + per);
    float v = F::start();
    for (unsigned r = first + threadIdx.x; r < last; r += BLOCK) v = F::join(v, f.at(r, c));
    shared[threadIdx.x] = v;
    for (unsigned half = BLOCK / 2; half; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) shared[threadIdx.x] = F::join(shared[threadIdx.x], shared[threadIdx.x + half]);
    }
    if (threadIdx.x) return;
    if (gridDim.y == 1) f.put(c, shared[0]);
    else part[blockIdx.y * n + c] = shared[0];
}
template <class F> __global__ void reduce_short(F f, unsigned rows, unsigned n) {      // a warp for each
    unsigned c = (unsigned)team_row<1>();
    if (c >= n) return;
    float v = F::start();
    for (unsigned r = team_lane<1>(); r < rows; r += WARP) v = F::join(v, f.at(r, c));
    for (int d = WARP / 2; d; d /= 2) v = F::join(v, __shfl_xor_sync(0xffffffffu, v, d));
    if (team_lane<1>() == 0) f.put(c, v);
}

template <class Op> struct Values : Op {            // (outer, rows, inner) -> (outer, inner), times scale
    float *y;
    const float *x;
    unsigned rows, inner;
    float scale;
    int accumulate;
    __device__ float at(unsigned r, unsigned c) const {
        unsigned o = c / inner;
        return x[(o * rows + r) * inner + c - o * inner];
    }
    __device__ void put(unsigned c, float v) const { y[c] = (accumulate ? y[c] : 0) + v * scale; }
};

template <class Op> static int reduce_values(Cuda *c, float *y, const float *x, unsigned outer, unsigned rows,
                                             unsigned inner, float scale, int accumulate) {
    Values<Op> f;
    f.y = y, f.x = x, f.rows = rows, f.inner = inner, f.scale = scale, f.accumulate = accumulate;
    if (c->naive || inner > 1 || !outer) return reduce_down(c, f, rows, outer * inner);
    if (rows <= WARP_ROW) return RUN(c, reduce_short<Values<Op>>, up(outer, WARPS), BLOCK, f, rows, outer);
    unsigned per = max((unsigned)LONG, up(rows, LONG)), parts = up(rows, per);
    float *part = parts == 1 ? nullptr : (float *)scratch(c, (size_t)parts * outer * sizeof(float));
    if (parts > 1 && !part) return -1;
    if (RUN(c, reduce_along<Values<Op>>, dim3(outer, parts), BLOCK, f, part, rows, outer, per)) return -1;
    if (parts == 1) return 0;
    f.x = part, f.rows = parts, f.inner = outer;    // the parts: (1, parts, outer)
    return RUN(c, reduce_along<Values<Op>>, outer, BLOCK, f, nullptr, parts, outer, parts);
}

static int cuda_reduce(ag_backend *b, int op, float *y, const float *x, size_t outer, size_t r, size_t inner,
                       double scale, int accumulate) {
    Cuda *c = cuda_of(b);
    int (*reduce)(Cuda *, float *, const float *, unsigned, unsigned, unsigned, float, int) =
        op == AG_REDUCE_SUM ? reduce_values<Sum> : reduce_values<Max>;
    return inner ? reduce(c, y, x, (unsigned)outer, (unsigned)r, (unsigned)inner, (float)scale, accumulate) : 0;
}

// The gradient of a maximum goes to the first x that equals it. A thread walks down a column.
__global__ void max_back_naive(float *dx, const float *x, const float *y, const float *dy, unsigned rows,
                               unsigned inner, unsigned n, float scale, int accumulate) {
    unsigned c = thread_index(), o = c / inner;
    if (c >= n) return;
    bool found = false;
    for (unsigned r = 0; r < rows; r++) {
        unsigned at = (o * rows + r) * inner + c - o * inner;
        bool first = !found && x[at] == y[c];
        found |= first;
        dx[at] = (accumulate ? dx[at] : 0) + (first ? dy[c] * scale : 0);
    }
}
// A warp walks along a column, 32 values at a time, and asks all lanes who sees it.
__global__ void max_back_along(float *dx, const float *x, const float *y, const float *dy, unsigned rows, unsigned n,
                               float scale, int accumulate) {
    unsigned c = (unsigned)team_row<1>(), lane = team_lane<1>();
    if (c >= n) return;
    bool found = false;
    for (unsigned r0 = 0; r0 < rows; r0 += WARP) {
        unsigned r = r0 + lane, at = c * rows + r;
        unsigned equal = __ballot_sync(0xffffffffu, r < rows && x[at] == y[c]);
        bool first = !found && equal && lane == (unsigned)__ffs((int)equal) - 1;
        found |= equal != 0;
        if (r < rows) dx[at] = (accumulate ? dx[at] : 0) + (first ? dy[c] * scale : 0);
    }
}

static int cuda_reduce_back(ag_backend *b, int op, float *dx, const float *x, const float *y, const float *dy,
                            size_t outer, size_t r, size_t inner, double scale, int accumulate) {
    Cuda *c = cuda_of(b);
    unsigned n = (unsigned)(outer * inner), rows = (unsigned)r;
    const int shape[4] = {1, (int)outer, (int)r, (int)inner};
    const size_t plain[4] = {0, r * inner, inner, 1}, repeated[4] = {0, inner, 0, 1};
    const size_t *strides[5] = {plain, repeated, nullptr, nullptr, nullptr};
    if (!n || !rows) return 0;
    if (op == AG_REDUCE_SUM)                        // every x of a column gets the column's dy
        return walk(c, Copy{accumulate, (float)scale}, dx, Operands{{dy, nullptr, nullptr, nullptr}}, shape, strides);
    if (!c->naive && inner == 1)
        return RUN(c, max_back_along, up(n, WARPS), BLOCK, dx, x, y, dy, rows, n, (float)scale, accumulate);
    return RUN(c, max_back_naive, up(n, BLOCK), BLOCK, dx, x, y, dy, rows, (unsigned)inner, n, (float)scale,
               accumulate);
}

// ---- 6 softmax and cross entropy ------------------------------------------------------------------------------------
__global__ void softmax_naive(float *y, const float *x, unsigned rows, unsigned n, int is_log) {
    unsigned r = thread_index();
    if (r >= rows) return;
    float max = -INFINITY, sum = 0;
    x += (size_t)r * n, y += (size_t)r * n;
    for (unsigned i = 0; i < n; i++) if (x[i] > max) max = x[i];
    for (unsigned i = 0; i < n; i++) sum += expf(x[i] - max);
    for (unsigned i = 0; i < n; i++) y[i] = is_log ? x[i] - max - logf(sum) : expf(x[i] - max) / sum;
}

// The maximum and the sum of e^(x - max) in one pass over x: when a larger x comes, the sum so far is corrected
// (Milakov & Gimelshein 2018, "Online normalizer calculation for softmax").
struct Online { float max, sum; };
__device__ inline void online_add(Online *o, float x) {
    if (x > o->max) o->sum = o->sum * expf(o->max - x) + 1, o->max = x;
    else o->sum += x == o->max ? 1 : expf(x - o->max);
}
__device__ inline Online online_join(Online a, Online b) {
    if (a.max == b.max) return {a.max, a.sum + b.sum};
    if (a.max > b.max) return {a.max, a.sum + b.sum * expf(b.max - a.max)};
    return {b.max, b.sum + a.sum * expf(a.max - b.max)};
}
template <int W> __device__ inline Online team_online(const float *x, unsigned n) {
    Online o = {-INFINITY, 0};
    for (unsigned i = team_lane<W>(); i < n; i += W * WARP) online_add(&o, x[i]);
    for (int d = WARP / 2; d; d /= 2)
        o = online_join(o, {__shfl_xor_sync(0xffffffffu, o.max, d), __shfl_xor_sync(0xffffffffu, o.sum, d)});
    if constexpr (W > 1) {
        __shared__ Online part[W];
        if (threadIdx.x % WARP == 0) part[threadIdx.x / WARP] = o;
        __syncthreads();
        o = part[0];
        for (int w = 1; w < W; w++) o = online_join(o, part[w]);
    }
    return o;
}

template <int W> __global__ void softmax(float *y, const float *x, unsigned rows, unsigned n, int is_log) {
    size_t r = team_row<W>();
    if (r >= rows) return;
    x += r * n, y += r * n;
    Online o = team_online<W>(x, n);
    float scale = 1 / o.sum, log_sum = logf(o.sum);
    for (unsigned i = team_lane<W>(); i < n; i += W * WARP)
        y[i] = is_log ? x[i] - o.max - log_sum : expf(x[i] - o.max) * scale;
}

__global__ void softmax_back_naive(float *dx, const float *y, const float *dy, unsigned rows, unsigned n, int is_log,
                                   int accumulate) {
    unsigned r = thread_index();
    if (r >= rows) return;
    float dot = 0;
    dx += (size_t)r * n, y += (size_t)r * n, dy += (size_t)r * n;
    for (unsigned i = 0; i < n; i++) dot += is_log ? dy[i] : dy[i] * y[i];
    for (unsigned i = 0; i < n; i++)
        dx[i] = (accumulate ? dx[i] : 0) + (is_log ? dy[i] - expf(y[i]) * dot : y[i] * (dy[i] - dot));
}
template <int W> __global__ void softmax_back(float *dx, const float *y, const float *dy, unsigned rows, unsigned n,
                                              int is_log, int accumulate) {
    size_t r = team_row<W>();
    if (r >= rows) return;
    float dot = 0;
    dx += r * n, y += r * n, dy += r * n;
    for (unsigned i = team_lane<W>(); i < n; i += W * WARP) dot += is_log ? dy[i] : dy[i] * y[i];
    dot = team_sum<W>(dot);
    for (unsigned i = team_lane<W>(); i < n; i += W * WARP)
        dx[i] = (accumulate ? dx[i] : 0) + (is_log ? dy[i] - expf(y[i]) * dot : y[i] * (dy[i] - dot));
}

static int cuda_softmax(ag_backend *b, float *y, const float *x, size_t rows, size_t n, int is_log) {
    Cuda *c = cuda_of(b);
    if (!rows || !n) return 0;
    if (c->naive)
        return RUN(c, softmax_naive, up(rows, BLOCK), BLOCK, y, x, (unsigned)rows, (unsigned)n, is_log);
    return RUN_ROWS(c, softmax, rows, n, y, x, (unsigned)rows, (unsigned)n, is_log);
}
static int cuda_softmax_back(ag_backend *b, float *dx, const float *y, const float *dy, size_t rows, size_t n,
                             int is_log, int accumulate) {
    Cuda *c = cuda_of(b);
    if (!rows || !n) return 0;
    if (c->naive)
        return RUN(c, softmax_back_naive, up(rows, BLOCK), BLOCK, dx, y, dy, (unsigned)rows, (unsigned)n, is_log,
                   accumulate);
    return RUN_ROWS(c, softmax_back, rows, n, dx, y, dy, (unsigned)rows, (unsigned)n, is_log, accumulate);
}

__global__ void nll_naive(float *nll, float *lse, const float *x, const int *targets, unsigned rows, unsigned n) {
    unsigned r = thread_index();
    if (r >= rows) return;
    float max = -INFINITY, sum = 0;
    x += (size_t)r * n;
    for (unsigned i = 0; i < n; i++) if (x[i] > max) max = x[i];
    for (unsigned i = 0; i < n; i++) sum += expf(x[i] - max);
    lse[r] = max + logf(sum);
    nll[r] = targets[r] == AG_IGNORE ? 0 : max - x[targets[r]] + logf(sum);
}
template <int W>
__global__ void nll_rows(float *nll, float *lse, const float *x, const int *targets, unsigned rows, unsigned n) {
    size_t r = team_row<W>();
    if (r >= rows) return;
    x += r * n;
    Online o = team_online<W>(x, n);
    if (team_lane<W>()) return;
    lse[r] = o.max + logf(o.sum);
    nll[r] = targets[r] == AG_IGNORE ? 0 : o.max - x[targets[r]] + logf(o.sum);
}

// dx_i = dnll (softmax_i - [i is the target]): the softmax is made again from lse, and never stored. blockIdx.y counts
// rows, so that nothing has to be divided.
__device__ inline float nll_slope(float d, float x, float log_sum, bool is_target) {
    return d != 0 ? d * (expf(x - log_sum) - is_target) : 0;
}
__global__ void nll_back_naive(float *dx, const float *x, const float *lse, const int *targets, const float *dnll,
                               unsigned rows, unsigned n, int accumulate) {
    for (unsigned r = blockIdx.y; r < rows; r += gridDim.y) {
        float d = targets[r] == AG_IGNORE ? 0 : dnll[r], log_sum = lse[r];
        for (unsigned i = thread_index(); i < n; i += thread_count()) {
            size_t at = (size_t)r * n + i;
            dx[at] = (accumulate ? dx[at] : 0) + nll_slope(d, x[at], log_sum, i == (unsigned)targets[r]);
        }
    }
}
// The same in fours. The 50,257 tokens of GPT-2 are no multiple of four, so a row begins `late` elements behind a
// multiple of 16 bytes: the fours are those of memory, and what a row has of its first and last one goes one by one.
__global__ void nll_back(float *dx, const float *x, const float *lse, const int *targets, const float *dnll,
                         unsigned rows, unsigned n, int accumulate) {
    for (unsigned r = blockIdx.y; r < rows; r += gridDim.y) {
        size_t row = (size_t)r * n;
        unsigned target = (unsigned)targets[r], late = row % 4;
        float d = targets[r] == AG_IGNORE ? 0 : dnll[r], log_sum = lse[r];
        for (unsigned four = thread_index(); four * 4 < n + late; four += thread_count()) {
            unsigned i = four * 4 - late;           // of element -1 and before it: a very large number
            if (four * 4 >= late && i + 4 <= n) {
                Pack<4> in = pack_from<4>(&x[row + i]), out = {};
                if (accumulate) out = pack_at<4>(&dx[row + i]);
                UNROLL for (unsigned k = 0; k < 4; k++) out.v[k] += nll_slope(d, in.v[k], log_sum, i + k == target);
                pack_at<4>(&dx[row + i]) = out;
                continue;
            }
            for (unsigned end = i + 4; i != end; i++)
                if (i < n)
                    dx[row + i] = (accumulate ? dx[row + i] : 0) + nll_slope(d, x[row + i], log_sum, i == target);
        }
    }
}

static int cuda_nll(ag_backend *b, float *nll, float *lse, const float *logits, const int *targets, size_t rows,
                    size_t n) {
    Cuda *c = cuda_of(b);
    if (!rows) return 0;
    if (c->naive)
        return RUN(c, nll_naive, up(rows, BLOCK), BLOCK, nll, lse, logits, targets, (unsigned)rows, (unsigned)n);
    return RUN_ROWS(c, nll_rows, rows, n, nll, lse, logits, targets, (unsigned)rows, (unsigned)n);
}
static int cuda_nll_back(ag_backend *b, float *dlogits, const float *logits, const float *lse, const int *targets,
                         const float *dnll, size_t rows, size_t n, int accumulate) {
    Cuda *c = cuda_of(b);
    if (!rows || !n) return 0;
    if (c->naive || !in_packs(dlogits, logits))
        return RUN(c, nll_back_naive, row_blocks(rows, n), BLOCK, dlogits, logits, lse, targets, dnll, (unsigned)rows,
                   (unsigned)n, accumulate);
    return RUN(c, nll_back, row_blocks(rows, n / 4 + 2), BLOCK, dlogits, logits, lse, targets, dnll, (unsigned)rows,
               (unsigned)n, accumulate);
}

// ---- 7 normalisation ------------------------------------------------------------------------------------------------
__global__ void norm_naive(float *y, float *stats, const float *x, const float *w, const float *bias, unsigned rows,
                           unsigned n, float eps, int rms) {
    unsigned r = thread_index();
    if (r >= rows) return;
    float mean = 0, var = 0;
    x += (size_t)r * n, y += (size_t)r * n;
    for (unsigned i = 0; i < n && !rms; i++) mean += x[i];
    mean /= (float)n;
    for (unsigned i = 0; i < n; i++) var += (x[i] - mean) * (x[i] - mean);
    float rstd = 1 / sqrtf(var / (float)n + eps);
    for (unsigned i = 0; i < n; i++) y[i] = (x[i] - mean) * rstd * (w ? w[i] : 1) + (bias ? bias[i] : 0);
    stats[2 * r] = mean, stats[2 * r + 1] = rstd;
}
// The row is read three times, but only the first time from memory.
template <int W> __global__ void norm(float *y, float *stats, const float *x, const float *w, const float *bias,
                                      unsigned rows, unsigned n, float eps, int rms) {
    size_t r = team_row<W>();
    unsigned lane = team_lane<W>(), step = W * WARP;
    if (r >= rows) return;
    float mean = 0, var = 0;
    x += r * n, y += r * n;
    for (unsigned i = lane; i < n && !rms; i += step) mean += x[i];
    mean = rms ? 0 : team_sum<W>(mean) / (float)n;
    for (unsigned i = lane; i < n; i += step) var += (x[i] - mean) * (x[i] - mean);
    float rstd = 1 / sqrtf(team_sum<W>(var) / (float)n + eps);
    for (unsigned i = lane; i < n; i += step) y[i] = (x[i] - mean) * rstd * (w ? w[i] : 1) + (bias ? bias[i] : 0);
    if (lane == 0) stats[2 * r] = mean, stats[2 * r + 1] = rstd;
}

// With h = (x - mean) rstd and g = dy w: dx = rstd (g - mean(g) - h mean(g h)), without mean(g) for RMSNorm.
__global__ void norm_back_naive(float *dx, const float *x, const float *w, const float *stats, const float *dy,
                                unsigned rows, unsigned n, int rms, int accumulate) {
    unsigned r = thread_index();
    if (r >= rows) return;
    float mean = stats[2 * r], rstd = stats[2 * r + 1], g_mean = 0, gh_mean = 0;
    x += (size_t)r * n, dy += (size_t)r * n, dx += (size_t)r * n;
    for (unsigned i = 0; i < n; i++) {
        float g = dy[i] * (w ? w[i] : 1);
        g_mean += rms ? 0 : g, gh_mean += g * (x[i] - mean) * rstd;
    }
    g_mean /= (float)n, gh_mean /= (float)n;
    for (unsigned i = 0; i < n; i++)
        dx[i] = (accumulate ? dx[i] : 0) + rstd * (dy[i] * (w ? w[i] : 1) - g_mean - (x[i] - mean) * rstd * gh_mean);
}
template <int W> __global__ void norm_back(float *dx, const float *x, const float *w, const float *stats,
                                           const float *dy, unsigned rows, unsigned n, int rms, int accumulate) {
    size_t r = team_row<W>();
    unsigned lane = team_lane<W>(), step = W * WARP;
    if (r >= rows) return;
    float mean = stats[2 * r], rstd = stats[2 * r + 1], g_mean = 0, gh_mean = 0;
    x += r * n, dy += r * n, dx += r * n;
    for (unsigned i = lane; i < n; i += step) {
        float g = dy[i] * (w ? w[i] : 1);
        g_mean += g, gh_mean += g * (x[i] - mean) * rstd;
    }
    g_mean = rms ? 0 : team_sum<W>(g_mean) / (float)n;
    gh_mean = team_sum<W>(gh_mean) / (float)n;
    for (unsigned i = lane; i < n; i += step)
        dx[i] = (accumulate ? dx[i] : 0) + rstd * (dy[i] * (w ? w[i] : 1) - g_mean - (x[i] - mean) * rstd * gh_mean);
}

struct NormWeights : Sum2 {         // dw += dy h, dbias += dy, over all rows
    float *dw, *dbias;
    const float *x, *stats, *dy;
    unsigned n;
    int accumulate;
    __device__ float2 at(unsigned r, unsigned c) const {
        float d = dy[r * n + c];
        return make_float2(d * (x[r * n + c] - stats[2 * r]) * stats[2 * r + 1], d);
    }
    __device__ void put(unsigned c, float2 v) const {
        if (dw) dw[c] = (accumulate & 2 ? dw[c] : 0) + v.x;
        if (dbias) dbias[c] = (accumulate & 4 ? dbias[c] : 0) + v.y;
    }
};

static int cuda_norm(ag_backend *b, float *y, float *stats, const float *x, const float *w, const float *bias,
                     size_t rows, size_t n, double eps, int rms) {
    Cuda *c = cuda_of(b);
    if (!rows) return 0;
    if (c->naive)
        return RUN(c, norm_naive, up(rows, BLOCK), BLOCK, y, stats, x, w, bias, (unsigned)rows, (unsigned)n, (float)eps,
                   rms);
    return RUN_ROWS(c, norm, rows, n, y, stats, x, w, bias, (unsigned)rows, (unsigned)n, (float)eps, rms);
}
static int cuda_norm_back(ag_backend *b, float *dx, float *dw, float *dbias, const float *x, const float *w,
                          const float *stats, const float *dy, size_t rows, size_t n, int rms, int accumulate) {
    Cuda *c = cuda_of(b);
    NormWeights f;
    f.dw = dw, f.dbias = dbias, f.x = x, f.stats = stats, f.dy = dy, f.n = (unsigned)n, f.accumulate = accumulate;
    if ((dw || dbias) && reduce_down(c, f, (unsigned)rows, (unsigned)n)) return -1;
    if (!dx || !rows || !n) return 0;
    if (c->naive)
        return RUN(c, norm_back_naive, up(rows, BLOCK), BLOCK, dx, x, w, stats, dy, (unsigned)rows, (unsigned)n, rms,
                   accumulate & 1);
    return RUN_ROWS(c, norm_back, rows, n, dx, x, w, stats, dy, (unsigned)rows, (unsigned)n, rms, accumulate & 1);
}

// ---- 8 looking up ---------------------------------------------------------------------------------------------------
// Tables have rows of c numbers, float or, which is the fast version, float4. Ids were checked by the op.
template <class T> __global__ void embedding(T *y, const T *table, const int *ids, unsigned n, unsigned c) {
    for (unsigned i = thread_index(); i < n * c; i += thread_count()) y[i] = table[(size_t)ids[i / c] * c + i % c];
}

// One thread for each number of the table looks at all ids.
__global__ void embedding_back_naive(float *dtable, const int *ids, const float *dy, unsigned n, unsigned vocab,
                                     unsigned c, int accumulate) {
    unsigned i = thread_index();
    if (i >= vocab * c) return;
    float sum = accumulate ? dtable[i] : 0;
    for (unsigned k = 0; k < n; k++) if ((unsigned)ids[k] == i / c) sum += dy[k * c + i % c];
    dtable[i] = sum;
}

// Many rows of dy may belong to one row of the table. To add them without atomics, whose order is anybody's guess, a
// row of the table is the work of one block, that of the oldest row of dy with its id. The block looks at all ids, n^2
// comparisons of integers altogether, which is little beside a training step, and adds what it finds in that order.
__global__ void embedding_back(float *dtable, const int *ids, const float *dy, unsigned n, unsigned c) {
    __shared__ unsigned found[BLOCK], counts[WARPS];
    unsigned mine = blockIdx.x, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    int id = ids[mine];
    dtable += (size_t)id * c;
    for (unsigned first = 0; first < n; first += BLOCK) {
        unsigned k = first + threadIdx.x, place = 0, count = 0;
        bool same = k < n && ids[k] == id;
        if (__syncthreads_or(same && k < mine)) return;         // an older row does it
        unsigned lanes = __ballot_sync(0xffffffffu, same);
        if (lane == 0) counts[warp] = (unsigned)__popc(lanes);
        __syncthreads();
        for (unsigned w = 0; w < WARPS; w++) place += w < warp ? counts[w] : 0, count += counts[w];
        if (same) found[place + (unsigned)__popc(lanes & ((1u << lane) - 1))] = k;
        __syncthreads();
        for (unsigned column = threadIdx.x; column < c && count; column += BLOCK) {
            float sum = dtable[column];
            for (unsigned i = 0; i < count; i++) sum += dy[(size_t)found[i] * c + column];
            dtable[column] = sum;
        }
    }
}

static int cuda_embedding(ag_backend *b, float *y, const float *table, const int *ids, size_t n, size_t columns) {
    Cuda *c = cuda_of(b);
    if (!n || !columns) return 0;
    if (!c->naive && columns % 4 == 0 && in_packs(y, table))
        return RUN(c, embedding<float4>, blocks_for(c, n * columns / 4), BLOCK, (float4 *)y, (const float4 *)table, ids,
                   (unsigned)n, (unsigned)columns / 4);
    return RUN(c, embedding<float>, blocks_for(c, n * columns), BLOCK, y, table, ids, (unsigned)n, (unsigned)columns);
}
static int cuda_embedding_back(ag_backend *b, float *dtable, const int *ids, const float *dy, size_t n, size_t vocab,
                               size_t columns, int accumulate) {
    Cuda *c = cuda_of(b);
    if (!vocab || !columns) return 0;
    if (c->naive)
        return RUN(c, embedding_back_naive, up(vocab * columns, BLOCK), BLOCK, dtable, ids, dy, (unsigned)n,
                   (unsigned)vocab, (unsigned)columns, accumulate);
    if (!accumulate && clear(c, dtable, vocab * columns)) return -1;
    if (!n) return 0;
    return RUN(c, embedding_back, up(n, 1), BLOCK, dtable, ids, dy, (unsigned)n, (unsigned)columns);
}

__global__ void gather_kernel(float *y, const float *x, const int *ids, unsigned rows, unsigned n) {
    unsigned r = thread_index();
    if (r < rows) y[r] = x[(size_t)r * n + (unsigned)ids[r]];
}
__global__ void gather_back_kernel(float *dx, const int *ids, const float *dy, unsigned rows, unsigned n) {
    unsigned r = thread_index();
    if (r < rows) dx[(size_t)r * n + (unsigned)ids[r]] += dy[r];
}
static int cuda_gather(ag_backend *b, float *y, const float *x, const int *ids, size_t rows, size_t n) {
    Cuda *c = cuda_of(b);
    return rows ? RUN(c, gather_kernel, up(rows, BLOCK), BLOCK, y, x, ids, (unsigned)rows, (unsigned)n) : 0;
}
static int cuda_gather_back(ag_backend *b, float *dx, const int *ids, const float *dy, size_t rows, size_t n,
                            int accumulate) {
    Cuda *c = cuda_of(b);
    if (!accumulate && clear(c, dx, rows * n)) return -1;
    return rows ? RUN(c, gather_back_kernel, up(rows, BLOCK), BLOCK, dx, ids, dy, (unsigned)rows, (unsigned)n) : 0;
}

// ---- 9 dropout ------------------------------------------------------------------------------------------------------
// The words of ag_rng (Philox 4x32-10), four at a time: word i of a stream is a function of its key and i, so each
// thread makes those that it needs, and backward makes them again.
__device__ inline uint4 philox(uint64_t key, uint64_t counter) {
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32), c0 = (uint32_t)counter, c1 = (uint32_t)(counter >> 32);
    uint32_t c2 = 0, c3 = 0;
    for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1, c1 = (uint32_t)p1, c3 = (uint32_t)p0;
    }
    return make_uint4(c0, c1, c2, c3);
}
// The first `fours` fours of words belong to as many fours of elements. The rest goes one by one, as does all in the
// naive version, and each element makes its word's four anew: neighbours are for neighbouring threads.
__global__ void dropout_kernel(float *y, const float *x, unsigned n, unsigned fours, uint64_t least, float scale,
                               const uint64_t *rng, int accumulate) {
    const uint64_t key = rng[0], counter = rng[1];
    const unsigned late = (unsigned)(counter % 4);  // element 0 has this word of its four
    for (unsigned four = thread_index(); four < fours; four += thread_count()) {
        uint4 block = philox(key, counter / 4 + four);
        uint32_t word[4] = {block.x, block.y, block.z, block.w};
        Pack<4> in = pack_from<4>(&x[four * 4]), out = {};
        if (accumulate) out = pack_at<4>(&y[four * 4]);
        UNROLL for (int k = 0; k < 4; k++) out.v[k] += word[k] >= least ? in.v[k] * scale : 0;
        pack_at<4>(&y[four * 4]) = out;
    }
    for (unsigned i = 4 * fours + thread_index(); i < n; i += thread_count()) {
        uint4 block = philox(key, counter / 4 + (late + i) / 4);
        unsigned at = (late + i) % 4;
        uint32_t word = at < 2 ? at ? block.y : block.x : at == 2 ? block.z : block.w;
        y[i] = (accumulate ? y[i] : 0) + (word >= least ? x[i] * scale : 0);
    }
}
static int cuda_dropout(ag_backend *b, float *y, const float *x, size_t n, double p, ag_rng rng, int accumulate) {
    Cuda *c = cuda_of(b);
    uint64_t least = (uint64_t)ceil(p * 4294967296.0);
    unsigned fours = c->naive || rng.counter % 4 || !in_packs(y, x) ? 0 : (unsigned)(n / 4);
    const uint64_t words[2] = {rng.key, rng.counter}, *staged = n ? stage(c, words, 2) : nullptr;
    if (!staged) return n ? -1 : 0;
    return RUN(c, dropout_kernel, blocks_for(c, fours ? fours : n), BLOCK, y, x, (unsigned)n, fours, least,
               (float)(1 / (1 - p)), staged, accumulate);
}

// ---- 10 rotary positions --------------------------------------------------------------------------------------------
// Position pos turns pair i by pos * theta^(-2i/hs), an angle of thousands, of which only the part within one turn
// counts; in float little of that would be left. So angles are counted in 2^-64 of a turn: a product of integers that
// overflows has lost whole turns and nothing else. The host computes what one position turns, once for each theta.
struct Rope {
    const uint64_t *per_position;                   // (hs / 2), or NULL: nothing turns
    const int *start;                               // (B), or NULL
    int T, H, hs, nq, nk, unused;                   // no padding: queue.cuh compares arguments byte by byte
};
__device__ inline float2 turn(const Rope &p, unsigned bt, int i) {      // cosine and sine for elements i and i ^ 1
    float2 cs = make_float2(1, 0);
    if (!p.per_position) return cs;
    int pos = (int)(bt % (unsigned)p.T) + (p.start ? p.start[bt / (unsigned)p.T] : 0);
    uint64_t turns = (uint64_t)pos * p.per_position[i / 2];
    sincospif((float)(int32_t)(turns >> 32) * 4.656612873e-10f, &cs.y, &cs.x);      // 2^-31: -1 to 1 half turn
    return cs;
}
// Element i of head h, after the norm (r is 1/rms, w the weights or NULL) and the rotation.
__device__ inline float rotated(const Rope &p, const float *x, const float *w, float r, unsigned bt, int i) {
    float2 cs = turn(p, bt, i);
    float own = x[i] * r * (w ? w[i] : 1);
    if (!p.per_position) return own;
    float other = x[i ^ 1] * r * (w ? w[i ^ 1] : 1);
    return own * cs.x + (i & 1 ? other : -other) * cs.y;
}
// The rotation backwards: the gradient of the normed x at i.
__device__ inline float rotated_back(const Rope &p, const float *dy, unsigned bt, int i) {
    float2 cs = turn(p, bt, i);
    float own = dy[i];
    if (!p.per_position) return own;
    float other = dy[i ^ 1];                        // by all lanes at once, whatever its sign
    return own * cs.x + (i & 1 ? -other : other) * cs.y;
}

// One thread for a head, or one warp: the same code, with lane 0 of 1 or lane l of 32.
template <int LANES> __device__ inline float head_sum(float v) { return LANES == 1 ? v : warp_sum(v); }
template <int LANES> __global__ void qk_rope_kernel(float *y, float *rrms, const float *x, const float *q_norm,
                                                    const float *k_norm, Rope p, unsigned heads, float eps) {
    unsigned n = thread_index() / LANES, bt = n / (unsigned)p.H;
    int h = (int)(n % (unsigned)p.H), lane = threadIdx.x % LANES;
    if (n >= heads) return;
    const float *w = h < p.nq ? q_norm : k_norm;
    float r = 0;
    x += (size_t)n * p.hs, y += (size_t)n * p.hs;
    if (h >= p.nq + p.nk) {                         // a value head is only copied
        for (int i = lane; i < p.hs; i += LANES) y[i] = x[i];
        return;
    }
    for (int i = lane; i < p.hs && w; i += LANES) r += x[i] * x[i];
    r = w ? 1 / sqrtf(head_sum<LANES>(r) / (float)p.hs + eps) : 1;
    if (rrms && lane == 0) rrms[(size_t)bt * (p.nq + p.nk) + h] = r;
    for (int i = lane; i < p.hs; i += LANES) y[i] = rotated(p, x, w, r, bt, i);
}

// First the rotation backwards, g; then RMSNorm's backward over the head: dx = r (g w - hat mean(g w hat)).
template <int LANES> __global__ void qk_rope_back_kernel(float *dx, const float *x, const float *q_norm,
                                                         const float *k_norm, const float *rrms, const float *dy,
                                                         Rope p, unsigned heads, int accumulate) {
    unsigned n = thread_index() / LANES, bt = n / (unsigned)p.H;
    int h = (int)(n % (unsigned)p.H), lane = threadIdx.x % LANES;
    if (n >= heads) return;
    const float *w = h >= p.nq + p.nk ? nullptr : h < p.nq ? q_norm : k_norm;
    float r = w ? rrms[(size_t)bt * (p.nq + p.nk) + h] : 1, dot = 0;
    if (h >= p.nq + p.nk) p.per_position = nullptr;
    x += (size_t)n * p.hs, dy += (size_t)n * p.hs, dx += (size_t)n * p.hs;
    for (int i = lane; i < p.hs && w; i += LANES) dot += rotated_back(p, dy, bt, i) * w[i] * x[i] * r;
    if (w) dot = head_sum<LANES>(dot) / (float)p.hs;
    for (int i = lane; i < p.hs; i += LANES) {
        float g = rotated_back(p, dy, bt, i);
        dx[i] = (accumulate ? dx[i] : 0) + (w ? r * (g * w[i] - x[i] * r * dot) : g);
    }
}

struct HeadWeights : Sum {          // dw += g hat, over all positions and the heads from first on
    float *dw;
    const float *x, *rrms, *dy;
    Rope p;
    int first, heads, accumulate, unused;           // no padding, as in Rope
    __device__ float at(unsigned row, unsigned i) const {
        unsigned bt = row / (unsigned)heads, h = (unsigned)first + row % (unsigned)heads;
        size_t head = ((size_t)bt * p.H + h) * p.hs;
        return rotated_back(p, dy + head, bt, (int)i) * x[head + i] * rrms[(size_t)bt * (p.nq + p.nk) + h];
    }
    __device__ void put(unsigned i, float v) const { dw[i] = (accumulate ? dw[i] : 0) + v; }
};

static const uint64_t *turns_for(Cuda *c, double theta, int hs) {
    for (Turns &t : c->turns) if (t.per_position && t.theta == theta && t.size == hs) return t.per_position;
    Turns *t = &c->turns[c->next_turns++ % 4];
    uint64_t host[1024], *device = nullptr;
    if (hs / 2 > 1024) {
        if (!c->told++) fprintf(stderr, "gpt_cuda: heads of %d channels are too wide to turn, wanted 2048\n", hs);
        return nullptr;
    }
    for (int i = 0; i < hs / 2; i++)                // an angle of 1 is 2^64 / (2 pi) of them
        host[i] = (uint64_t)(18446744073709551616.0 / 6.283185307179586477 * pow(theta, -2.0 * i / hs));
    if (give_back(c, t->per_position)) return nullptr;
    t->per_position = nullptr, t->theta = theta, t->size = hs;
    if (failed(c, "cudaMalloc", cudaMalloc(&device, sizeof host))) return nullptr;
    t->per_position = device;
    return cuda_write(&c->table, device, host, (size_t)(hs / 2) * sizeof *host) ? nullptr : device;
}

static int cuda_qk_rope(ag_backend *b, float *y, float *rrms, const float *x, const float *q_norm, const float *k_norm,
                        int B, int T, int H, int hs, int nq, int nk, const int *start, double theta, double eps) {
    Cuda *c = cuda_of(b);
    Rope p = {theta > 0 ? turns_for(c, theta, hs) : nullptr, start, T, H, hs, nq, nk, 0};
    unsigned heads = (unsigned)B * T * H;
    if (theta > 0 && !p.per_position) return -1;
    if (!heads || !hs) return 0;
    if (c->naive)
        return RUN(c, qk_rope_kernel<1>, up(heads, BLOCK), BLOCK, y, rrms, x, q_norm, k_norm, p, heads, (float)eps);
    return RUN(c, qk_rope_kernel<WARP>, up(heads, WARPS), BLOCK, y, rrms, x, q_norm, k_norm, p, heads, (float)eps);
}
static int cuda_qk_rope_back(ag_backend *b, float *dx, float *dq_norm, float *dk_norm, const float *x,
                             const float *q_norm, const float *k_norm, const float *rrms, const float *dy, int B, int T,
                             int H, int hs, int nq, int nk, const int *start, double theta, int accumulate) {
    Cuda *c = cuda_of(b);
    Rope p = {theta > 0 ? turns_for(c, theta, hs) : nullptr, start, T, H, hs, nq, nk, 0};
    unsigned heads = (unsigned)B * T * H;
    if (theta > 0 && !p.per_position) return -1;
    for (int k = 0; k < 2; k++) {
        HeadWeights f;
        f.dw = k ? dk_norm : dq_norm, f.x = x, f.rrms = rrms, f.dy = dy, f.p = p;
        f.first = k ? nq : 0, f.heads = k ? nk : nq, f.accumulate = accumulate >> (k + 1) & 1, f.unused = 0;
        if (f.dw && reduce_down(c, f, (unsigned)B * T * f.heads, (unsigned)hs)) return -1;
    }
    if (!dx || !heads || !hs) return 0;
    if (c->naive)
        return RUN(c, qk_rope_back_kernel<1>, up(heads, BLOCK), BLOCK, dx, x, q_norm, k_norm, rrms, dy, p, heads,
                   accumulate & 1);
    return RUN(c, qk_rope_back_kernel<WARP>, up(heads, WARPS), BLOCK, dx, x, q_norm, k_norm, rrms, dy, p, heads,
               accumulate & 1);
}

// ---- 11 SwiGLU ------------------------------------------------------------------------------------------------------
// x (rows, 2h) is gate and up side by side. Both kernels are elementwise, with blockIdx.y for the rows.
template <int W> __global__ void swiglu(float *y, const float *x, unsigned rows, unsigned h) {
    for (unsigned r = blockIdx.y; r < rows; r += gridDim.y)
        for (unsigned i = thread_index() * W; i < h; i += thread_count() * W) {
            const float *from = &x[(size_t)r * 2 * h + i];
            Pack<W> gate = pack_from<W>(from), up = pack_from<W>(from + h), out;
            UNROLL for (int k = 0; k < W; k++) out.v[k] = gate.v[k] * sigmoid(gate.v[k]) * up.v[k];
            pack_at<W>(&y[(size_t)r * h + i]) = out;
        }
}
template <int W> __global__ void swiglu_back(float *dx, const float *x, const float *dy, unsigned rows, unsigned h,
                                             int accumulate) {
    for (unsigned r = blockIdx.y; r < rows; r += gridDim.y)
        for (unsigned i = thread_index() * W; i < h; i += thread_count() * W) {
            size_t at = (size_t)r * 2 * h + i;
            Pack<W> gate = pack_from<W>(&x[at]), up = pack_from<W>(&x[at + h]), dgate = {}, dup = {};
            Pack<W> d = pack_from<W>(&dy[(size_t)r * h + i]);
            if (accumulate) dgate = pack_at<W>(&dx[at]), dup = pack_at<W>(&dx[at + h]);
            UNROLL for (int k = 0; k < W; k++) {
                float s = sigmoid(gate.v[k]);
                dgate.v[k] += d.v[k] * up.v[k] * s * (1 + gate.v[k] * (1 - s));
                dup.v[k] += d.v[k] * gate.v[k] * s;
            }
            pack_at<W>(&dx[at]) = dgate, pack_at<W>(&dx[at + h]) = dup;
        }
}
static int cuda_swiglu(ag_backend *b, float *y, const float *x, size_t rows, size_t h) {
    Cuda *c = cuda_of(b);
    if (!rows || !h) return 0;
    if (c->naive || h % 4 || !in_packs(y, x))
        return RUN(c, swiglu<1>, row_blocks(rows, h), BLOCK, y, x, (unsigned)rows, (unsigned)h);
    return RUN(c, swiglu<4>, row_blocks(rows, h / 4), BLOCK, y, x, (unsigned)rows, (unsigned)h);
}
static int cuda_swiglu_back(ag_backend *b, float *dx, const float *x, const float *dy, size_t rows, size_t h,
                            int accumulate) {
    Cuda *c = cuda_of(b);
    if (!rows || !h) return 0;
    if (c->naive || h % 4 || !in_packs(dx, x, dy))
        return RUN(c, swiglu_back<1>, row_blocks(rows, h), BLOCK, dx, x, dy, (unsigned)rows, (unsigned)h, accumulate);
    return RUN(c, swiglu_back<4>, row_blocks(rows, h / 4), BLOCK, dx, x, dy, (unsigned)rows, (unsigned)h, accumulate);
}

// ---- 12 products and what follows them ------------------------------------------------------------------------------
#ifdef GPT_CUBLAS
// As it comes cuBLAS would allocate a workspace itself. 32 MB are what its documentation recommends for an H100, more
// than for most others. On the CPU it is not used, and the checker would keep notes of each of its bytes.
#ifdef __CUDACC__
enum { BLAS_ROOM = 32 << 20 };
#else
enum { BLAS_ROOM = 4096 };
#endif
static int failed(Cuda *c, const char *what, cublasStatus_t status) {
    if (status == CUBLAS_STATUS_SUCCESS) return 0;
    if (!c->told++) fprintf(stderr, "gpt_cuda: %s: %s\n", what, cublasGetStatusString(status));
    return -1;
}
static int blas_create(Cuda *c) {               // SetStream goes back to cuBLAS's own workspace, so it comes first
    if (c->naive) return 0;
    return failed(c, "cudaMalloc", cudaMalloc(&c->blas_room, BLAS_ROOM)) ||
           failed(c, "cublasCreate", cublasCreate(&c->blas)) ||
           failed(c, "cublasSetStream", cublasSetStream(c->blas, c->queue.stream)) ||
           failed(c, "cublasSetWorkspace", cublasSetWorkspace(c->blas, c->blas_room, BLAS_ROOM)) ? -1 : 0;
}
static void blas_destroy(Cuda *c) {
    if (c->blas) failed(c, "cublasDestroy", cublasDestroy(c->blas));
    failed(c, "cudaFree", cudaFree(c->blas_room));
}

// A call in the queue: z = x y + keep z, `count` products beside each other.
struct BlasItem : QueueItem {
    cublasHandle_t blas;
    cublasOperation_t op_x, op_y;
    cudaDataType_t type;
    int m, n, k, ldx, ldy, count, unused;           // no padding, here and behind keep
    const void *x, *y;
    float *z, keep, unused_too;
    size_t next_x, next_y, next_z;
};
static cudaError_t blas_run(const QueueItem *item, cudaStream_t) {
    const BlasItem *g = static_cast<const BlasItem *>(item);
    const float one = 1;
    cublasStatus_t status = g->count == 1
        ? cublasGemmEx(g->blas, g->op_x, g->op_y, g->m, g->n, g->k, &one, g->x, g->type, g->ldx, g->y, g->type, g->ldy,
                       &g->keep, g->z, CUDA_R_32F, g->m, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT)
        : cublasGemmStridedBatchedEx(g->blas, g->op_x, g->op_y, g->m, g->n, g->k, &one, g->x, g->type, g->ldx,
                                     (long long)g->next_x, g->y, g->type, g->ldy, (long long)g->next_y, &g->keep, g->z,
                                     CUDA_R_32F, g->m, (long long)g->next_z, g->count, CUBLAS_COMPUTE_32F,
                                     CUBLAS_GEMM_DEFAULT);
    if (status == CUBLAS_STATUS_SUCCESS) return cudaSuccess;
    fprintf(stderr, "gpt_cuda: cublasGemm: %s\n", cublasGetStatusString(status));
    return cudaErrorInvalidValue;
}

// To cuBLAS matrices are column-major, so what lies here as C = A B is to it C' = B' A': the factors change places and
// nothing moves. A call has at most one batch dimension, whose products have to lie apart; the other one is a loop.
static int blas_multiply(ag_backend *b, bool round, float *C, const float *A, const float *B, const float *bias, int M,
                         int N, int K, int ta, int tb, const int batch[2], const size_t sc[2], const size_t sa[2],
                         const size_t sb[2], int accumulate) {
    Cuda *c = cuda_of(b);
    MatmulCall p = matmul_call(C, A, B, M, N, K, ta, tb, batch, sc, sa, sb, accumulate);
    const char *a_bytes = (const char *)A, *b_bytes = (const char *)B;
    cudaDataType_t type = round ? CUDA_R_16BF : CUDA_R_32F;
    size_t item = round ? sizeof(bf16) : sizeof(float);
    p.lda = ta ? M : K, p.ldb = tb ? K : N;
    if (matmul_nothing(p)) return 0;
    if (round) {
        MatmulFactors f = matmul_factors(M, N, K, ta, tb, batch, sa, sb);
        bf16 *room = (bf16 *)scratch(c, item * (f.a.total + f.b.total));
        if (!room || LAUNCHED(c, "matmul_round", matmul_round_both(&c->queue, room, A, B, f))) return -1;
        a_bytes = (const char *)room, b_bytes = (const char *)(room + f.a.total);
        p.lda = f.a.stride, p.ldb = f.b.stride;
        for (int i = 0; i < 2; i++) p.sa[i] = f.a.to[i], p.sb[i] = f.b.to[i];
    }
    const int in = p.apart[0] > p.apart[1] ? 0 : 1, out = 1 - in;       // the batch of a call, and the loop around it
    const cublasOperation_t op_a = ta ? CUBLAS_OP_T : CUBLAS_OP_N, op_b = tb ? CUBLAS_OP_T : CUBLAS_OP_N;
    const int shape[4] = {1, p.apart[in], M, N};
    const size_t places[4] = {0, sc[in], (size_t)N, 1}, columns[4] = {0, 0, 0, 1};
    for (int i = 0; i < batch[out]; i++)
        for (int j = 0; j < p.summed[in]; j++) {    // 1 where there are products that lie apart
            const float keep = accumulate || j || (i && !sc[out]);
            const void *x = b_bytes + item * (i * p.sb[out] + j * p.sb[in]);
            const void *y = a_bytes + item * (i * p.sa[out] + j * p.sa[in]);
            float *z = C + i * sc[out];
            BlasItem g = {};
            g.run = blas_run, g.blas = c->blas, g.op_x = op_b, g.op_y = op_a, g.m = N, g.n = M, g.k = K;
            g.x = x, g.y = y, g.z = z, g.type = type, g.ldx = p.ldb, g.ldy = p.lda, g.keep = keep;
            g.count = p.apart[in], g.next_x = p.sb[in], g.next_y = p.sa[in], g.next_z = sc[in];
            c->queue.what = "cublasGemm";
            queue_put<BlasItem>(&c->queue, g);
            if (queued(c, c->queue.error)) return -1;
            if (bias && cuda_copy(b, z, places, bias, columns, shape, 1)) return -1;
        }
    return 0;
}
#else
static int blas_create(Cuda *) { return 0; }
static void blas_destroy(Cuda *) {}
#endif

// matmul.cuh has the products, its naive one too.
static int multiply(ag_backend *b, bool bf16, float *C, const float *A, const float *B, const float *bias, int M, int N,
                    int K, int ta, int tb, const int batch[2], const size_t sc[2], const size_t sa[2],
                    const size_t sb[2], int accumulate) {
    Cuda *c = cuda_of(b);
    if (c->naive)
        return LAUNCHED(c, "matmul", cuda_matmul_naive(&c->queue, C, A, B, bias, matmul_call(C, A, B, M, N, K, ta, tb,
                                                       batch, sc, sa, sb, accumulate), ta, tb, bf16));
#ifdef GPT_CUBLAS
    if (K)                                          // without k leading dimensions would be 0, which cuBLAS refuses
        return blas_multiply(b, bf16, C, A, B, bias, M, N, K, ta, tb, batch, sc, sa, sb, accumulate);
#endif
    if (!bf16)
        return LAUNCHED(c, "matmul", cuda_matmul(&c->queue, C, A, B, bias, M, N, K, ta, tb, batch, sc, sa, sb,
                                                 accumulate));
    size_t bytes = cuda_matmul_bf16_scratch(M, N, K, ta, tb, batch, sa, sb);
    void *room = scratch(c, bytes);
    if (bytes && !room) return -1;
    return LAUNCHED(c, "matmul_bf16", cuda_matmul_bf16(&c->queue, C, A, B, bias, M, N, K, ta, tb, batch, sc, sa, sb,
                                                       accumulate, room));
}
static int product(ag_backend *b, float *C, const float *A, const float *B, const float *bias, int M, int N, int K,
                   int ta, int tb, const int batch[2], const size_t sc[2], const size_t sa[2], const size_t sb[2],
                   int accumulate) {
    return multiply(b, false, C, A, B, bias, M, N, K, ta, tb, batch, sc, sa, sb, accumulate);
}
static int product_bf16(ag_backend *b, float *C, const float *A, const float *B, const float *bias, int M, int N, int K,
                        int ta, int tb, const int batch[2], const size_t sc[2], const size_t sa[2], const size_t sb[2],
                        int accumulate) {
    return multiply(b, true, C, A, B, bias, M, N, K, ta, tb, batch, sc, sa, sb, accumulate);
}

static int cuda_linear_gelu(ag_backend *b, float *y, float *z, const float *x, const float *w, const float *bias,
                            int rows, int I, int O, int precision) {
    static const int one[2] = {1, 1};
    static const size_t zero[2] = {0, 0};
    const int shape[4] = {1, 1, 1, rows * O};
    const float *in[3] = {z, nullptr, nullptr};
    if (multiply(b, precision == AG_BF16, z, x, w, bias, rows, O, I, 0, 0, one, zero, zero, zero, 0)) return -1;
    return b->map(b, AG_MAP_GELU, y, in, shape, flat, 0, 0);
}

// dz is written while its columns are summed: one pass over z and dy.
struct GeluBias : Sum {
    float *dz, *dbias;
    const float *z, *dy;
    unsigned n;
    int accumulate;
    __device__ float at(unsigned r, unsigned c) const {
        return dz[r * n + c] = dy[r * n + c] * gelu_slope(z[r * n + c]);
    }
    __device__ void put(unsigned c, float v) const { dbias[c] = (accumulate ? dbias[c] : 0) + v; }
};
static int cuda_gelu_bias_back(ag_backend *b, float *dz, float *dbias, const float *z, const float *dy, size_t rows,
                               size_t n, int accumulate) {
    Cuda *c = cuda_of(b);
    if (dbias) {
        GeluBias f;
        f.dz = dz, f.dbias = dbias, f.z = z, f.dy = dy, f.n = (unsigned)n, f.accumulate = accumulate;
        return reduce_down(c, f, (unsigned)rows, (unsigned)n);
    }
    const int shape[4] = {1, 1, 1, (int)(rows * n)};
    const float *in[3] = {z, nullptr, nullptr};
    return cuda_map_back(b, AG_MAP_GELU, 0, dz, z, in, dy, shape, flat, 0, 0, 0);
}

// Weights in one byte: a row of q has `stride` bytes, a multiple of 16.
__global__ void int8_naive(float *y, const float *x, const signed char *q, const float *scale, const float *bias,
                           unsigned M, unsigned N, unsigned K, unsigned stride) {
    unsigned i = thread_index(), m = i / N, n = i % N;
    if (i >= M * N) return;
    float sum = 0;
    for (unsigned k = 0; k < K; k++) sum += x[(size_t)m * K + k] * q[(size_t)k * stride + n];
    y[i] = sum * scale[n] + (bias ? bias[n] : 0);
}
// A lane takes four neighbouring columns, one load of 4 bytes, of up to ROWS rows of x, so that each weight is read
// once for all of them. Eight warps share the k's among them.
enum { ROWS = 4 };
__global__ void int8_fours(float *y, const float *x, const signed char *q, const float *scale, const float *bias,
                           unsigned M, unsigned N, unsigned K, unsigned stride) {
    __shared__ __align__(16) float part[WARPS][4 * WARP];
    unsigned n = (blockIdx.y * WARP + threadIdx.x) * 4, m0 = blockIdx.x * ROWS;     // of y only 65,535 are possible
    unsigned mine = threadIdx.y * WARP + threadIdx.x, column = blockIdx.y * 4 * WARP + mine;
    float sum[ROWS][4] = {};
    if (n < stride)
        for (unsigned k = threadIdx.y; k < K; k += WARPS) {
            char4 w = *reinterpret_cast<const char4 *>(&q[(size_t)k * stride + n]);
            for (unsigned m = 0; m < ROWS; m++) {
                float v = m0 + m < M ? x[(size_t)(m0 + m) * K + k] : 0;
                sum[m][0] += v * w.x, sum[m][1] += v * w.y, sum[m][2] += v * w.z, sum[m][3] += v * w.w;
            }
        }
    for (unsigned m = 0; m < ROWS && m0 + m < M; m++) {
        __syncthreads();
        Pack<4> four = {{sum[m][0], sum[m][1], sum[m][2], sum[m][3]}};
        pack_at<4>(&part[threadIdx.y][4 * threadIdx.x]) = four;
        __syncthreads();
        if (mine >= 4 * WARP || column >= N) continue;      // four of the warps finish neighbouring columns
        float total = 0;
        for (int w = 0; w < WARPS; w++) total += part[w][mine];
        y[(size_t)(m0 + m) * N + column] = total * scale[column] + (bias ? bias[column] : 0);
    }
}
static int cuda_linear_int8(ag_backend *b, float *y, const float *x, const signed char *q, const float *scale,
                            const float *bias, int M, int N, int K) {
    Cuda *c = cuda_of(b);
    unsigned stride = up((size_t)N, 16) * 16;
    if (M <= 0 || N <= 0) return 0;
    if (c->naive)
        return RUN(c, int8_naive, up((size_t)M * N, BLOCK), BLOCK, y, x, q, scale, bias, (unsigned)M, (unsigned)N,
                   (unsigned)K, stride);
    return RUN(c, int8_fours, dim3(up((size_t)M, ROWS), up(stride, 4 * WARP)), dim3(WARP, WARPS), y, x, q, scale, bias,
               (unsigned)M, (unsigned)N, (unsigned)K, stride);
}

// ---- 13 attention ---------------------------------------------------------------------------------------------------
// attention.cuh has it; there the naive kernels stand too.
static int cuda_attention_entry(ag_backend *b, const ag_attention_args *a) {
    Cuda *c = cuda_of(b);
    if (c->naive) return LAUNCHED(c, "attention", cuda_attention_naive(&c->queue, a));
    if (a->precision != AG_BF16) return LAUNCHED(c, "attention", cuda_attention(&c->queue, a));
    size_t bytes = cuda_attention_scratch_bf16(a);
    void *room = scratch(c, bytes);
    if (bytes && !room) return -1;
    return LAUNCHED(c, "attention_bf16", cuda_attention_bf16(&c->queue, a, room));
}
static int cuda_attention_back_entry(ag_backend *b, const ag_attention_args *a) {
    Cuda *c = cuda_of(b);
    if (c->naive) return LAUNCHED(c, "attention_back", cuda_attention_back_naive(&c->queue, a));
    bool bf16 = a->precision == AG_BF16;
    size_t bytes = bf16 ? cuda_attention_scratch_bf16(a) : cuda_attention_scratch(a);
    void *room = scratch(c, bytes);
    if (bytes && !room) return -1;
    if (bf16) return LAUNCHED(c, "attention_back_bf16", cuda_attention_back_bf16(&c->queue, a, room));
    return LAUNCHED(c, "attention_back", cuda_attention_back(&c->queue, a, (float *)room));
}

// ---- 14 optimizers --------------------------------------------------------------------------------------------------
// The norm of the gradient, in float; but the squares of floats can be larger and smaller than floats are. So there are
// three sums: of the squares of numbers of ordinary size, of large ones times 2^-80 and of small ones times 2^80 (Blue
// 1978, "A Portable Fortran Program to Find the Euclidean Norm of a Vector"). The host joins those of all blocks in
// double. What is not finite is large, and stays what it is.
enum { PER_BLOCK = 1 << 14, UNIT_BLOCKS = 128 };     // elements of a block; blocks of a tensor in unit()
struct Squares { float ordinary, large, small; };
__device__ inline void add_square(Squares *s, float v) {
    const float two_40 = 1.0995116e12f, two_80 = two_40 * two_40;
    float size = fabsf(v);
    if (size < 1 / two_40) v *= two_80, s->small += v * v;
    else if (size < two_40) s->ordinary += v * v;
    else v /= two_80, s->large += v * v;
}
__global__ void sum_squares_naive(Squares *part, const float *x, unsigned n) {
    if (thread_index()) return;
    Squares s = {0, 0, 0};
    for (unsigned i = 0; i < n; i++) add_square(&s, x[i]);
    *part = s;
}
__device__ inline Squares block_squares(const float *x, unsigned n) {
    Squares s = {0, 0, 0};
    for (unsigned i = threadIdx.x; i < n; i += BLOCK) add_square(&s, x[i]);
    return {team_sum<WARPS>(s.ordinary), team_sum<WARPS>(s.large), team_sum<WARPS>(s.small)};
}
// Many tensors in one launch: a block finds the one that it belongs to.
struct SquaresOf { const float *x; unsigned n, block; };            // block: its first
__global__ void sum_squares(Squares *part, const SquaresOf *all, int count) {
    int t = 0;
    for (int last = count; last - t > 1;) {
        int middle = (t + last) / 2;
        *(all[middle].block <= blockIdx.x ? &t : &last) = middle;
    }
    unsigned first = (blockIdx.x - all[t].block) * PER_BLOCK;
    Squares s = block_squares(all[t].x + first, min(all[t].n - first, (unsigned)PER_BLOCK));
    if (threadIdx.x == 0) part[blockIdx.x] = s;
}
enum { SQUARES_OF = 256 };          // tensors in one launch, at most
static int cuda_sum_squares(ag_backend *b, double *out, const float *const *x, const size_t *n, int count) {
    Cuda *c = cuda_of(b);
    SquaresOf all[SQUARES_OF];
    unsigned blocks = 0;
    if (count > SQUARES_OF)
        return cuda_sum_squares(b, out, x, n, SQUARES_OF) ||
               cuda_sum_squares(b, out + SQUARES_OF, x + SQUARES_OF, n + SQUARES_OF, count - SQUARES_OF) ? -1 : 0;
    for (int t = 0; t < count; t++) {
        all[t] = {x[t], (unsigned)n[t], blocks};
        blocks += c->naive ? 1 : up(n[t], PER_BLOCK);
    }
    for (int t = 0; t < count; t++) out[t] = 0;
    if (!blocks) return 0;
    Squares *part = (Squares *)scratch(c, blocks * sizeof *part);
    Squares *host = (Squares *)malloc(blocks * sizeof *host);
    int status = !part || !host ? -1 : 0;
    if (!status && c->naive)
        for (int t = 0; t < count && !status; t++)
            status = RUN(c, sum_squares_naive, 1, WARP, part + t, x[t], (unsigned)n[t]);
    else if (!status) {
        const SquaresOf *staged = stage(c, all, (size_t)count);
        status = staged ? RUN(c, sum_squares, blocks, BLOCK, part, staged, count) : -1;
    }
    if (!status) status = cuda_read(b, host, part, blocks * sizeof *host);
    for (int t = 0; t < count && !status; t++)
        for (unsigned i = all[t].block, end = t + 1 < count ? all[t + 1].block : blocks; i < end; i++)
            out[t] += host[i].ordinary + ldexp((double)host[i].large, 160) + ldexp((double)host[i].small, -160);
    free(host);
    return status;
}

// y = x / (norm + eps), with the norm on the device: its parts first, then each block joins them.
__global__ void unit_squares(Squares *part, const float *x, unsigned n, unsigned per) {
    unsigned first = blockIdx.x * per;
    Squares s = block_squares(x + first, min(n - first, per));
    if (threadIdx.x == 0) part[blockIdx.x] = s;
}
__device__ inline float norm_from(const Squares &s) {
    const float two_80 = 1.2089258e24f;
    if (!(s.large == 0)) return two_80 * sqrtf(s.large + s.ordinary / two_80 / two_80);
    return s.ordinary > 0 ? sqrtf(s.ordinary + s.small / two_80 / two_80) : sqrtf(s.small) / two_80;
}
__global__ void unit_kernel(float *y, const float *x, const Squares *part, unsigned parts, unsigned n, float eps) {
    Squares s = threadIdx.x < parts ? part[threadIdx.x] : Squares{0, 0, 0};
    s = {team_sum<WARPS>(s.ordinary), team_sum<WARPS>(s.large), team_sum<WARPS>(s.small)};
    float scale = 1 / (norm_from(s) + eps);
    for (unsigned i = thread_index(); i < n; i += thread_count()) y[i] = x[i] * scale;
}
static int cuda_unit(ag_backend *b, float *y, const float *x, size_t n, double eps) {
    Cuda *c = cuda_of(b);
    Squares *part = (Squares *)scratch(c, UNIT_BLOCKS * sizeof *part);
    unsigned per = max(4u * BLOCK, up(n, UNIT_BLOCKS)), parts = c->naive ? 1 : up(n, per);
    if (!n) return 0;
    if (!part || (c->naive ? RUN(c, sum_squares_naive, 1, WARP, part, x, (unsigned)n)
                           : RUN(c, unit_squares, parts, BLOCK, part, x, (unsigned)n, per))) return -1;
    return RUN(c, unit_kernel, blocks_for(c, n), BLOCK, y, x, part, parts, (unsigned)n, (float)eps);
}

// A step of an optimizer changes weight w, with the gradient g and the moments m and v, which it may not have.
struct Sgd {
    float lr, momentum, decay, scale;
    int has_m;
    __device__ void operator()(float &w, float g, float &m, float &) const {
        g *= scale;
        if (has_m) g = m = momentum * m + g;
        w -= lr * (g + decay * w);
    }
};
struct Adamw {                      // c1 and c2 correct for moments that began at 0
    float lr, beta1, beta2, eps, keep, c1, c2, scale;
    __device__ void operator()(float &w, float g, float &m, float &v) const {
        g *= scale;
        m = beta1 * m + (1 - beta1) * g;
        if (fabsf(m) < 1.17549435e-38f) m = 0;      // one that decays forever would become denormal
        v = beta2 * v + (1 - beta2) * g * g;
        w = w * keep - lr * (m * c1) / (sqrtf(v * c2) + eps);
    }
};
// The first 4 * fours elements in fours, the others one by one; fours = 0 is the naive version.
template <class Step> __global__ void optimize(float *w, const float *g, float *m, float *v, unsigned n, unsigned fours,
                                               const Step *staged) {
    const Step step = *staged;
    float none = 0;
    for (unsigned i = thread_index(); i < fours; i += thread_count()) {
        float4 w4 = ((float4 *)w)[i], g4 = ((const float4 *)g)[i], m4 = make_float4(0, 0, 0, 0), v4 = m4;
        if (m) m4 = ((float4 *)m)[i];
        if (v) v4 = ((float4 *)v)[i];
        step(w4.x, g4.x, m4.x, v4.x), step(w4.y, g4.y, m4.y, v4.y);
        step(w4.z, g4.z, m4.z, v4.z), step(w4.w, g4.w, m4.w, v4.w);
        ((float4 *)w)[i] = w4;
        if (m) ((float4 *)m)[i] = m4;
        if (v) ((float4 *)v)[i] = v4;
    }
    for (unsigned i = 4 * fours + thread_index(); i < n; i += thread_count())
        step(w[i], g[i], m ? m[i] : none, v ? v[i] : none);
}
template <class Step> static int step_with(Cuda *c, Step step, float *w, const float *g, float *m, float *v, size_t n) {
    bool aligned = ((uintptr_t)w | (uintptr_t)g | (uintptr_t)m | (uintptr_t)v) % 16 == 0;
    unsigned fours = aligned && !c->naive ? (unsigned)(n / 4) : 0;
    const Step *staged = n ? stage(c, &step) : nullptr;
    if (!staged) return n ? -1 : 0;
    return RUN(c, optimize<Step>, blocks_for(c, fours ? n / 4 : n), BLOCK, w, g, m, v, (unsigned)n, fours, staged);
}
static int cuda_sgd(ag_backend *b, float *w, const float *g, float *m, size_t n, double lr, double momentum,
                    double weight_decay, double grad_scale) {
    Sgd step = {(float)lr, (float)momentum, (float)weight_decay, (float)grad_scale, m != nullptr};
    return step_with(cuda_of(b), step, w, g, m, nullptr, n);
}
static int cuda_adamw(ag_backend *b, float *w, const float *g, float *m, float *v, size_t n, double lr, double beta1,
                      double beta2, double eps, double weight_decay, long step_number, double grad_scale) {
    Adamw step = {(float)lr, (float)beta1, (float)beta2, (float)eps, (float)(1 - lr * weight_decay),
                  (float)(1 / (1 - pow(beta1, (double)step_number))),
                  (float)(1 / (1 - pow(beta2, (double)step_number))), (float)grad_scale};
    return step_with(cuda_of(b), step, w, g, m, v, n);
}

// ---- 15 the table ---------------------------------------------------------------------------------------------------
static void cuda_destroy(ag_backend *b) {
    Cuda *c = cuda_of(b);
    queued(c, queue_destroy(&c->queue));
    for (Turns &t : c->turns) failed(c, "cudaFree", cudaFree(t.per_position));
    failed(c, "cudaFree", cudaFree(c->scratch));
    blas_destroy(c);
    failed(c, "cudaStreamDestroy", cudaStreamDestroy(c->queue.stream));
    delete c;
}

static ag_backend *backend(int device, int naive) {
    Cuda *c = new (std::nothrow) Cuda();
    cudaDeviceProp properties;
    cudaStream_t stream;
    int count = 0;
    if (!c) return nullptr;
    if (failed(c, "cudaGetDeviceCount", cudaGetDeviceCount(&count)) || device < 0 || device >= count) {
        if (!c->told) fprintf(stderr, "gpt_cuda: there is no device %d, devices here: %d (first is 0; emulated ones "
                              "are as many as CUDA_ON_CPU_DEVICES says)\n", device, count);
        delete c;
        return nullptr;
    }
    c->device = device, c->naive = naive;
    if (failed(c, "cudaSetDevice", cudaSetDevice(device)) ||
        failed(c, "cudaGetDeviceProperties", cudaGetDeviceProperties(&properties, device)) ||
        failed(c, "cudaStreamCreate", cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking))) {
        delete c;
        return nullptr;
    }
    c->blocks = 16u * (unsigned)properties.multiProcessorCount;
    ag_backend *b = &c->table;
    b->name = naive ? "cuda/naive" : "cuda", b->self = c, b->threads = 1, b->destroy = cuda_destroy;
    if (queued(c, queue_create(&c->queue, stream)) || blas_create(c)) {
        cuda_destroy(b);
        return nullptr;
    }
    b->alloc = cuda_alloc, b->release = cuda_release, b->write = cuda_write, b->read = cuda_read, b->fill = cuda_fill;
    b->map = cuda_map, b->map_back = cuda_map_back, b->copy = cuda_copy;
    b->reduce = cuda_reduce, b->reduce_back = cuda_reduce_back;
    b->matmul = product, b->matmul_bf16 = product_bf16, b->bf16 = "bf16/cuda";
#ifdef GPT_CUBLAS
    if (!naive) b->bf16 = "bf16/cublas";
#endif
    b->linear_gelu = cuda_linear_gelu, b->gelu_bias_back = cuda_gelu_bias_back, b->linear_int8 = cuda_linear_int8;
    b->softmax = cuda_softmax, b->softmax_back = cuda_softmax_back, b->norm = cuda_norm, b->norm_back = cuda_norm_back;
    b->embedding = cuda_embedding, b->embedding_back = cuda_embedding_back;
    b->gather = cuda_gather, b->gather_back = cuda_gather_back, b->dropout = cuda_dropout;
    b->attention = cuda_attention_entry, b->attention_back = cuda_attention_back_entry;
    b->qk_rope = cuda_qk_rope, b->qk_rope_back = cuda_qk_rope_back;
    b->swiglu = cuda_swiglu, b->swiglu_back = cuda_swiglu_back, b->nll = cuda_nll, b->nll_back = cuda_nll_back;
    b->sum_squares = cuda_sum_squares, b->unit = cuda_unit, b->sgd = cuda_sgd, b->adamw = cuda_adamw;
    return b;
}

ag_backend *ag_cuda_backend(int device) { return backend(device, 0); }
ag_backend *ag_cuda_naive_backend(int device) { return backend(device, 1); }
void ag_cuda_launches(const ag_backend *b, long *replayed, long *launched) {
    const Queue *q = &((const Cuda *)b->self)->queue;
    *replayed = q->replayed, *launched = q->launched;
}

// ---- 16 several GPUs ------------------------------------------------------------------------------------------------
#ifdef GPT_NCCL
// One thread drives all of them, since nothing in here waits for a GPU but the question for a loss or a norm. On each
// the gradients lie in one piece of memory, in the order in which backward completes them, roughly: the last layer's
// first. That piece is cut into buckets (Li et al. 2020, "PyTorch Distributed": one sum for each tensor would be too
// many small ones, one for all would have to wait for the end). When the last gradient of a bucket is complete
// ag_on_gradient says so, and an event marks the place in the stream. The sums run in a second stream, each behind its
// event, while the first goes on with the layers below. (They are issued when backward of all GPUs has been: what that
// takes the host is short where it is replayed as graphs, and with many GPUs a limit all the same.)
struct Bucket { size_t first, count; int parameters; };     // elements from first on
struct Rank {
    ag_cuda_group *group;
    Cuda *cuda;
    ag_ctx *ctx;
    ncclComm_t comm;
    cudaStream_t stream;                            // of the sums
    cudaEvent_t summed;
    float *slab;                                    // all gradients
    int status;                                     // of what was begun while backward went on
    std::vector<ag_tensor *> parameters;            // those that have one, as they lie in the slab
    std::vector<cudaEvent_t> ready;                 // of each bucket
    std::vector<int> missing;                       // of each bucket: gradients that are not complete
    size_t incomplete, early;                       // of all; elements of buckets that others were still missing behind
};
struct ag_cuda_group {
    int n;
    size_t bucket_bytes, elements;
    Rank *rank;
    std::vector<Bucket> buckets;
};

static int failed(Cuda *c, const char *what, ncclResult_t result) {
    if (result == ncclSuccess) return 0;
    if (!c->told++) fprintf(stderr, "gpt_cuda: %s: %s\n", what, ncclGetErrorString(result));
    return -1;
}
static Cuda *on(Rank *r) { return cuda_of(&r->cuda->table); }       // what follows is for its device

// Everything before this is done before the bucket's sum, and is on its way now.
static void mark_ready(Rank *r, size_t bucket) {
    Cuda *c = on(r);
    r->missing[bucket] = -1;
    if (queued(c, queue_flush(&c->queue)) ||
        failed(c, "cudaEventRecord", cudaEventRecord(r->ready[bucket], c->queue.stream))) r->status = -1;
}
static void gradient_ready(void *user, ag_tensor *p) {
    Rank *r = (Rank *)user;
    const std::vector<Bucket> &all = r->group->buckets;
    size_t at = (size_t)(p->grad - r->slab), b = 0;
    while (at >= all[b].first + all[b].count) b++;
    r->incomplete--;
    if (--r->missing[b]) return;
    mark_ready(r, b);
    if (r->incomplete) r->early += all[b].count;
}

static size_t padded(const ag_tensor *p) { return up(p->count, 64) * (size_t)64; }  // to a multiple of 256 bytes
static std::vector<ag_tensor *> trainable(const ag_ctx *ctx) {                      // newest first
    std::vector<ag_tensor *> all;
    for (int i = ag_param_count(ctx); i-- > 0;)
        if (ag_param_get(ctx, i)->trainable) all.push_back(ag_param_get(ctx, i));
    return all;
}
static int complain(ag_cuda_group *g, const char *format, int gpu = 0) {
    for (int i = 0; i < g->n; i++) if (!ag_error(g->rank[i].ctx)) ag_fail(g->rank[i].ctx, format, gpu);
    return -1;
}
// The models have to be the same, for only their gradients are averaged.
static int compare_models(ag_cuda_group *g) {
    std::vector<double> sums[2];
    for (int i = 0; i < g->n; i++) {
        Rank *r = &g->rank[i];
        std::vector<const float *> x;
        std::vector<size_t> n;
        if (r->parameters.size() != g->rank[0].parameters.size())
            return complain(g, "ag_cuda_group: the model of GPU %d has more or fewer parameters than that of GPU 0", i);
        for (ag_tensor *p : r->parameters) x.push_back(p->data), n.push_back(p->count);
        sums[i > 0].assign(x.size(), 0);
        ag_backend *b = &r->cuda->table;
        if (b->sum_squares(b, sums[i > 0].data(), x.data(), n.data(), (int)x.size()))
            return complain(g, "ag_cuda_group: GPU %d failed; the reason is on stderr", i);
        for (size_t k = 0; i && k < n.size(); k++)
            if (n[k] != g->rank[0].parameters[k]->count || sums[1][k] != sums[0][k])
                return complain(g, "ag_cuda_group: the weights of GPU %d are not those of GPU 0. Build the models in "
                                "the same way, or load the same file into each", i);
    }
    return 0;
}
static void forget_layout(Rank *r) {
    Cuda *c = on(r);
    for (cudaEvent_t e : r->ready) failed(c, "cudaEventDestroy", cudaEventDestroy(e));
    r->ready.clear();
    give_back(c, r->slab);
    r->slab = nullptr;
}
// At the first backward, and when other parameters became trainable: where the gradients lie, and the buckets. A rank
// has a slab if all of its layout is there: what fails is begun again by the next call.
static int lay_out(ag_cuda_group *g) {
    bool same = true;
    for (int i = 0; i < g->n; i++) same = same && g->rank[i].slab && trainable(g->rank[i].ctx) == g->rank[i].parameters;
    if (same) return 0;
    for (int i = 0; i < g->n; i++)
        for (int k = 0; k < ag_param_count(g->rank[i].ctx); k++)
            if (ag_param_get(g->rank[i].ctx, k)->has_grad)
                return complain(g, "ag_cuda_group: on GPU %d a parameter has a gradient already: call ag_zero_grad "
                                "before the group's first backward, and when other parameters become trainable", i);
    for (int i = 0; i < g->n; i++) {
        Rank *r = &g->rank[i];
        if (r->slab) for (ag_tensor *p : r->parameters) p->grad = NULL;     // it lay in the old slab
        forget_layout(r);
        r->parameters = trainable(r->ctx);
    }
    if (compare_models(g)) return -1;
    g->elements = 0, g->buckets.clear();
    for (ag_tensor *p : g->rank[0].parameters) {
        if (g->buckets.empty() || g->buckets.back().count * sizeof(float) >= g->bucket_bytes)
            g->buckets.push_back({g->elements, 0, 0});
        g->buckets.back().count += padded(p), g->buckets.back().parameters++;
        g->elements += padded(p);
    }
    for (int i = 0; i < g->n; i++) {
        Rank *r = &g->rank[i];
        Cuda *c = on(r);
        for (size_t b = 0; b < g->buckets.size(); b++) {
            cudaEvent_t e;
            if (failed(c, "cudaEventCreate", cudaEventCreateWithFlags(&e, cudaEventDisableTiming)))
                return complain(g, "ag_cuda_group: GPU %d has no event for a bucket", i);
            r->ready.push_back(e);
        }
        r->slab = (float *)cuda_alloc(&c->table, std::max(g->elements, (size_t)1) * sizeof(float));
        if (!r->slab || clear(c, r->slab, g->elements))
            return complain(g, "ag_cuda_group: GPU %d has no memory for the gradients", i);
        size_t at = 0;
        for (ag_tensor *p : r->parameters) p->grad = r->slab + at, at += padded(p);
    }
    return 0;
}

static int average(ag_cuda_group *g, const Bucket &b, size_t number) {
    int status = failed(g->rank[0].cuda, "ncclGroupStart", ncclGroupStart());
    for (int i = 0; i < g->n; i++) {
        Rank *r = &g->rank[i];
        Cuda *c = on(r);
        float *at = r->slab + b.first;
        status |= queued(c, c->queue.error) |
                  failed(c, "cudaStreamWaitEvent", cudaStreamWaitEvent(r->stream, r->ready[number], 0)) |
                  failed(c, "ncclAllReduce", ncclAllReduce(at, at, b.count, ncclFloat, ncclAvg, r->comm, r->stream));
    }
    return status | failed(g->rank[0].cuda, "ncclGroupEnd", ncclGroupEnd());
}

int ag_cuda_group_backward(ag_cuda_group *g, ag_tensor *const *losses, int last) {
    int status = 0;
    if (!g || lay_out(g)) return -1;
    for (int i = 0; i < g->n; i++) {                // all of them begin with forward before one is asked for its loss
        Cuda *c = on(&g->rank[i]);
        status |= queued(c, queue_flush(&c->queue));
    }
    for (int i = 0; i < g->n && !status; i++) {
        Rank *r = &g->rank[i];
        r->missing.clear(), r->incomplete = r->parameters.size(), r->early = 0, r->status = 0;
        for (const Bucket &b : g->buckets) r->missing.push_back(b.parameters);
        ag_on_gradient(r->ctx, last ? gradient_ready : NULL, r);
        status = ag_backward(losses[i]);
        ag_on_gradient(r->ctx, NULL, NULL);
        // Parameters that this loss does not need have a gradient of 0, if another GPU's loss needs them.
        for (ag_tensor *p : r->parameters)
            if (last && !p->has_grad && !status) status |= clear(on(r), p->grad, p->count);
        for (size_t b = 0; b < g->buckets.size() && last; b++)      // those with such parameters
            if (r->missing[b] >= 0) mark_ready(r, b);
        status |= r->status;
    }
    for (size_t k = 0; k < g->rank[0].parameters.size() && last && !status; k++) {
        int any = 0;
        for (int i = 0; i < g->n; i++) any |= g->rank[i].parameters[k]->has_grad;
        for (int i = 0; i < g->n; i++) g->rank[i].parameters[k]->has_grad = any;
    }
    for (size_t b = 0; b < g->buckets.size() && last && !status; b++) status = average(g, g->buckets[b], b);
    for (int i = 0; i < g->n && last && !status; i++) {
        Rank *r = &g->rank[i];
        Cuda *c = on(r);
        status = queued(c, c->queue.error) | failed(c, "cudaEventRecord", cudaEventRecord(r->summed, r->stream)) |
                 failed(c, "cudaStreamWaitEvent", cudaStreamWaitEvent(c->queue.stream, r->summed, 0));
    }
    return status ? complain(g, "ag_cuda_group: backward failed; the context of another GPU or stderr says why") : 0;
}

double ag_cuda_group_overlap(const ag_cuda_group *g) {
    return g && g->elements ? (double)g->rank[0].early / (double)g->elements : 0;
}
ag_ctx *ag_cuda_group_context(ag_cuda_group *g, int i) { return !g || i < 0 || i >= g->n ? NULL : g->rank[i].ctx; }

void ag_cuda_group_free(ag_cuda_group *g) {
    if (!g) return;
    for (int i = 0; i < g->n; i++) {                // first what they have in common
        Rank *r = &g->rank[i];
        if (!r->comm) continue;
        Cuda *c = on(r);
        failed(c, "cudaStreamSynchronize", cudaStreamSynchronize(r->stream));
        failed(c, "ncclCommDestroy", ncclCommDestroy(r->comm));
    }
    for (int i = 0; i < g->n; i++) {
        Rank *r = &g->rank[i];
        if (!r->cuda) continue;
        Cuda *c = on(r);
        if (r->slab) forget_layout(r);
        if (r->summed) failed(c, "cudaEventDestroy", cudaEventDestroy(r->summed));
        if (r->stream) failed(c, "cudaStreamDestroy", cudaStreamDestroy(r->stream));
        ag_free(r->ctx);                            // and the backend with it
    }
    delete[] g->rank;
    delete g;
}
ag_cuda_group *ag_cuda_group_new(unsigned long long seed, int gpus, size_t bucket_bytes) {
    if (gpus < 1) return fprintf(stderr, "gpt_cuda: a group of %d GPUs, wanted at least 1\n", gpus), nullptr;
    ag_cuda_group *g = new ag_cuda_group();
    std::vector<ncclComm_t> comms((size_t)gpus);
    int status = 0;
    g->n = gpus, g->bucket_bytes = bucket_bytes ? bucket_bytes : 8 << 20, g->rank = new Rank[(size_t)gpus]();
    for (int i = 0; i < gpus && !status; i++) {
        Rank *r = &g->rank[i];
        ag_backend *b = ag_cuda_backend(i);
        r->group = g;
        if (!b) status = -1;
        else if (!(r->ctx = ag_new_with(seed, b))) fprintf(stderr, "gpt_cuda: out of memory\n"), status = -1;
        else {
            r->cuda = (Cuda *)b->self;
            status = failed(r->cuda, "cudaStreamCreate", cudaStreamCreateWithFlags(&r->stream, cudaStreamNonBlocking)) |
                     failed(r->cuda, "cudaEventCreate", cudaEventCreateWithFlags(&r->summed, cudaEventDisableTiming));
        }
    }
    if (!status) status = failed(g->rank[0].cuda, "ncclCommInitAll", ncclCommInitAll(comms.data(), gpus, nullptr));
    if (status) return ag_cuda_group_free(g), nullptr;
    for (int i = 0; i < gpus; i++) g->rank[i].comm = comms[(size_t)i];
    return g;
}
#else
ag_cuda_group *ag_cuda_group_new(unsigned long long, int, size_t) {
    fprintf(stderr, "gpt_cuda: several GPUs need NCCL: compile gpt_cuda.cu with -DGPT_NCCL, and link with -lnccl\n");
    return nullptr;
}
ag_ctx *ag_cuda_group_context(ag_cuda_group *, int) { return nullptr; }
int ag_cuda_group_backward(ag_cuda_group *, ag_tensor *const *, int) { return -1; }
double ag_cuda_group_overlap(const ag_cuda_group *) { return 0; }
void ag_cuda_group_free(ag_cuda_group *) {}
#endif
