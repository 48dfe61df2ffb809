/*
matmul.cuh - matrix products for the GPU backend: what `matmul` and `matmul_bf16` of autograd.h's table mean.

    cuda_matmul(stream, C, A, B, bias, M, N, K, ta, tb, batch, sc, sa, sb, accumulate)      0, or -1: a launch failed

C (M,N) (+)= A (M,K) B (K,N) + bias (N), row-major; ta: A is stored (K,M), tb: B is stored (N,K). Two batch dimensions
with strides in elements; where the stride of C is 0 the products of that dimension add up in order. stream: a
cudaStream_t, or a queue (queue.cuh).

The versions, in the order in which to read them:
    matmul_naive    one thread per element of C
    matmul_tiled    float32: tiles of A and B in shared memory, a square of C in the registers of each thread
    matmul_mma      bfloat16 on tensor cores: cp.async, ldmatrix, mma.sync

What the machine code of matmul_mma should hold, counted in the source: MmaLarge 32 HMMA, 12 LDSM and 4 LDGSTS,
MmaSmall 16, 8 and 4; a compiler that takes a round out of the loop may repeat them.

An element of C in float32 is one chain of fused multiply-adds in increasing k, as on the CPU: the same bits. (A product
split over k would fill a GPU better when C is small, and give other bits. It is not done.)
*/
#ifndef MATMUL_CUH
#define MATMUL_CUH
#include "tensor_core.h"
#include <stdint.h>

static inline int cuda_status(void) { return cudaGetLastError() == cudaSuccess ? 0 : -1; }    // of a launch
static inline int cuda_tiles(int n, int tile) { return n / tile + (n % tile != 0); }

// A call of cuda_matmul as its blocks see it. A batch dimension is either spread over blocks, or, where the stride of C
// is 0, walked by each block.
struct MatmulCall {
    int M, N, K, accumulate;
    int apart[2], summed[2];                        // batch[i] is in one of the two, the other is 1
    size_t sc[2], sa[2], sb[2];
    int tiles_m, tiles_n;                           // of one product
    int vector, vector_c, vector_bias;              // rows of A and of B, of C, bias start at multiples of 16 bytes
    int lda, ldb;                                   // bfloat16: from row to row as stored
    int unused;                                     // no padding: queue.cuh compares arguments byte by byte
};

// ---- one thread per element -----------------------------------------------------------------------------------------
// Three lines of loop, and 2 * K loads for 2 * K operations: a GPU can do some fifty operations in the time in which
// one number comes from memory. All versions that follow do the same chain of additions and load less.
__global__ void matmul_naive(float *C, const float *A, const float *B, const float *bias, MatmulCall p, int ta, int tb,
                             int rounded) {
    size_t elements = (size_t)p.M * p.N, i = (size_t)blockIdx.x * blockDim.x + threadIdx.x, z = i / elements;
    if (z >= (size_t)p.apart[0] * p.apart[1]) return;
    int z0 = (int)(z / p.apart[1]), z1 = (int)(z % p.apart[1]);
    int m = (int)(i % elements / p.N), n = (int)(i % elements % p.N);
    float *c = C + z0 * p.sc[0] + z1 * p.sc[1] + i % elements, s = p.accumulate ? *c : 0.0f;
    for (int j0 = 0; j0 < p.summed[0]; j0++) for (int j1 = 0; j1 < p.summed[1]; j1++) {
        const float *a = A + (z0 + j0) * p.sa[0] + (z1 + j1) * p.sa[1];
        const float *b = B + (z0 + j0) * p.sb[0] + (z1 + j1) * p.sb[1];
        for (int k = 0; k < p.K; k++) {
            float x = ta ? a[(size_t)k * p.M + m] : a[(size_t)m * p.K + k];
            float y = tb ? b[(size_t)n * p.K + k] : b[(size_t)k * p.N + n];
            if (rounded) x = __bfloat162float(__float2bfloat16(x)), y = __bfloat162float(__float2bfloat16(y));
            s = fmaf(x, y, s);
        }
        if (bias) s += bias[n];
    }
    *c = s;
}

// ---- float32: tiles ------------------------------------------------------------------------------------------------
// A block makes a tile of C, and takes A and B through shared memory in steps along k. A warp's 32 threads stand 4 by
// 8, and a thread makes QM by QN squares of 4 by 4, so that it loads 4 (QM + QN) numbers for 16 QM QN operations. The
// squares of one thread lie apart and those of neighbours beside each other: eight threads then read 128 bytes of b in
// one go, and all eight the same four numbers of a.
template <int QM_, int QN_, int WARPS_M, int WARPS_N_, int STEP_> struct MatmulTile {
    static constexpr int QM = QM_, QN = QN_, WARPS_N = WARPS_N_, STEP = STEP_, THREADS = 32 * WARPS_M * WARPS_N_;
    static constexpr int M = 16 * QM_ * WARPS_M, N = 32 * QN_ * WARPS_N_;
    static constexpr int AHEAD = QM_ * QN_ == 1 ? 2 : 1;    // k's at once: numbers loaded ahead fill the registers
};
typedef MatmulTile<2, 2, 4, 2, 8> MatmulLarge;      // 128 x 128 by 256 threads: 64 operations for 16 loads
typedef MatmulTile<1, 1, 2, 1, 16> MatmulSmall;     // 32 x 32 by 64 threads: 16 times as many blocks

// Blocks that run at the same time should share rows of A and columns of B, to find them in the L2 cache: tiles are
// taken in columns of eight. (The order of Triton's tutorial on matrix products, Tillet et al. 2019.)
__device__ inline int2 matmul_tile_of(const MatmulCall &p, int tile) {
    int group = tile / (8 * p.tiles_n), in_group = tile % (8 * p.tiles_n), rows = min(8, p.tiles_m - 8 * group);
    return make_int2(8 * group + in_group % rows, in_group / rows);
}

// How the threads of a block share the loading of a tile of ROWS by STEP, W numbers at a time. Neighbouring threads
// have to read neighbouring addresses: along k if memory runs along k (eight k's of a row are 32 bytes, one sector of
// memory), else along the rows. This is the first place of a thread; where the others are says matmul_fetch.
template <bool ALONG_K, int W, int ROWS> __device__ inline int2 matmul_place(int thread) {
    return ALONG_K ? make_int2(thread / 8, thread % 8) : make_int2(thread % (ROWS / W) * W, thread / (ROWS / W));
}
// A row of odd length begins in the middle of a sector, and eight of its k's would lie in two. So its threads are late
// by as many k's as its beginning is behind that of a sector, and load whole sectors; what is missing comes with the
// next step. The rows of one thread are a multiple of eight apart, and so all of them equally late. x points to its
// first place.
template <bool ALONG_K> __device__ inline int matmul_late(const float *x, int2 at) {
    return ALONG_K ? (int)(((uintptr_t)x / sizeof *x - (unsigned)at.y) % 8) : 0;
}
// From global to shared memory, k by k, 0 beyond the edges. x is this thread's first place, at row at.x and at.y k's
// behind k0, rows and ks how many there are from row at.x and from k0 on, k0 what lies before. A tile has room for
// three steps, in a ring: one that is multiplied, the next one, of which something may be missing, and the one that
// comes, to slot0. cp.async needs no registers for what is on its way, and 128 for each thread are few: 64 hold C. ROWS
// is a multiple of 32, so the four columns that pad a row of the tile move each k to the next four banks: a warp that
// reads along k, and writes 4 rows of 8 k's across, finds 32 different ones.
template <bool ALONG_K, int W, int ROWS, int STEP, int THREADS>
__device__ inline void matmul_fetch(float tile[3 * STEP][ROWS + 4], int slot0, const float *x, int2 at, int stride,
                                    int rows, int k0, int K) {
    const int eights = ALONG_K ? STEP / 8 : 1, more = ALONG_K ? THREADS / 8 : THREADS * W / ROWS;
    if (!ALONG_K && k0 >= K) return;                // nothing is late
    UNROLL for (int i = 0; i < ROWS * STEP / W / THREADS / eights; i++, x += (size_t)more * stride)
        UNROLL for (int j = 0; j < eights; j++) {
            int row = ALONG_K ? i * more : 0, k = ALONG_K ? 8 * j : i * more, slot = slot0 + at.y + k;
            bool in = row < rows && (unsigned)(k0 + at.y + k) < (unsigned)K;
            cp_async<4 * W>(&tile[slot < 0 ? slot + 3 * STEP : slot][at.x + row], x + 8 * j, in ? 4 * W : 0);
        }
}

__device__ inline void matmul_four(float to[4], const float *from) {
    float4 v = *reinterpret_cast<const float4 *>(from);
    to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
}
// acc += a step of A times a step of B
template <class T>
__device__ inline void matmul_multiply(float acc[4 * T::QM][4 * T::QN], const float as[T::STEP][T::M + 4],
                                       const float bs[T::STEP][T::N + 4], int m, int n) {
    UNROLL_NOT for (int k0 = 0; k0 < T::STEP; k0 += T::AHEAD) UNROLL for (int k = k0; k < k0 + T::AHEAD; k++) {
        float a[4 * T::QM], b[4 * T::QN];
        UNROLL for (int q = 0; q < T::QM; q++) matmul_four(&a[4 * q], &as[k][m + 16 * q]);
        UNROLL for (int q = 0; q < T::QN; q++) matmul_four(&b[4 * q], &bs[k][n + 32 * q]);
        UNROLL for (int i = 0; i < 4 * T::QM; i++)
            UNROLL for (int j = 0; j < 4 * T::QN; j++) acc[i][j] = fmaf(a[i], b[j], acc[i][j]);
    }
}

// Four neighbours of a row of C, or as many of them as there are.
__device__ inline void matmul_load_c(float to[4], const float *c, int left, int vector) {
    if (vector && left >= 4) matmul_four(to, c);
    else UNROLL for (int j = 0; j < 4; j++) to[j] = j < left ? c[j] : 0.0f;
}
__device__ inline void matmul_store_c(float *c, const float from[4], int left, int vector) {
    if (vector && left >= 4) *reinterpret_cast<float4 *>(c) = make_float4(from[0], from[1], from[2], from[3]);
    else UNROLL for (int j = 0; j < 4; j++) if (j < left) c[j] = from[j];
}
// Four rows of 32 Q numbers between memory and the registers of a warp, where lane l has numbers 4 (l % 8) to
// 4 (l % 8) + 3 of each 32 of row l / 8. Its row begins at C + at, and has `left` numbers; at is -1 if there is none.
// Where rows are aligned (vector) a lane moves its four in one go. Else it would move them one by one, four numbers
// apart from its neighbours', so they go by way of `stage`, 128 Q numbers of shared memory for this warp. x is aligned
// to 16 bytes.
template <int Q>
__device__ inline void matmul_load_rows(float x[4 * Q], const float *C, long long at, int left, int vector,
                                        float *stage) {
    int lane = threadIdx.x % 32, column = lane % 8 * 4;
    if (vector) {
        UNROLL for (int q = 0; q < Q; q++)
            if (at >= 0 && column + 32 * q < left) matmul_four(&x[4 * q], &C[at + column + 32 * q]);
        return;
    }
    UNROLL_NOT for (int r = 0; r < 4; r++) {
        long long from = __shfl_sync(0xffffffffu, at, 8 * r);
        UNROLL for (int i = lane; i < 32 * Q; i += 32)
            stage[r * 32 * Q + i] = from >= 0 && i < left ? C[from + i] : 0.0f;
    }
    __syncwarp();
    UNROLL for (int q = 0; q < Q; q++) matmul_four(&x[4 * q], &stage[lane / 8 * 32 * Q + column + 32 * q]);
    __syncwarp();
}
template <int Q>
__device__ inline void matmul_store_rows(float *C, long long at, const float x[4 * Q], int left, int vector,
                                         float *stage) {
    int lane = threadIdx.x % 32, column = lane % 8 * 4;
    const float4 *fours = reinterpret_cast<const float4 *>(x);
    if (vector) {                                   // past the L1 cache: nobody here reads it again
        UNROLL for (int q = 0; q < Q; q++) if (at >= 0 && column + 32 * q < left)
            __stcg(reinterpret_cast<float4 *>(&C[at + column + 32 * q]), fours[q]);
        return;
    }
    UNROLL for (int q = 0; q < Q; q++)
        *reinterpret_cast<float4 *>(&stage[lane / 8 * 32 * Q + column + 32 * q]) = fours[q];
    __syncwarp();
    UNROLL_NOT for (int r = 0; r < 4; r++) {
        long long to = __shfl_sync(0xffffffffu, at, 8 * r);
        UNROLL for (int i = lane; i < 32 * Q; i += 32) if (to >= 0 && i < left) C[to + i] = stage[r * 32 * Q + i];
    }
    __syncwarp();
}

// While a step is multiplied the one after the next is on its way, so that one barrier per step is enough.
template <bool TA, bool TB, bool VECTOR, class T>
__global__ void __launch_bounds__(T::THREADS, 512 / T::THREADS)
matmul_tiled(float *C, const float *A, const float *B, const float *bias, MatmulCall p) {
    const int STEP = T::STEP, WA = VECTOR && TA ? 4 : 1, WB = VECTOR && !TB ? 4 : 1;
    __shared__ __align__(16) float as[3 * T::STEP][T::M + 4], bs[3 * T::STEP][T::N + 4];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, tiles = p.tiles_m * p.tiles_n;
    int m = warp / T::WARPS_N * 16 * T::QM + lane / 8 * 4, n = warp % T::WARPS_N * 32 * T::QN;
    int z0 = (int)blockIdx.x / tiles / p.apart[1], z1 = (int)blockIdx.x / tiles % p.apart[1];
    int2 tile = matmul_tile_of(p, (int)blockIdx.x % tiles);
    int m0 = tile.x * T::M, n0 = tile.y * T::N;
    __align__(16) float acc[4 * T::QM][4 * T::QN] = {};
    float *stage = &as[0][0] + warp * 128 * T::QN;
    C += z0 * p.sc[0] + z1 * p.sc[1];
    auto row_of = [&](int i) {                      // where row i of this thread's begins, in this warp's columns
        int row = m0 + m + i / 4 * 16 + i % 4;
        return row < p.M ? (long long)row * p.N + n0 + n : -1;
    };
    if (p.accumulate) {
        UNROLL for (int i = 0; i < 4 * T::QM; i++)
            matmul_load_rows<T::QN>(acc[i], C, row_of(i), p.N - n0 - n, p.vector_c, stage);
        __syncthreads();                            // the stages lie where A comes
    }
    const int stride_a = TA ? p.M : p.K, stride_b = TB ? p.K : p.N;
    int2 pa = matmul_place<!TA, WA, T::M>((int)threadIdx.x), pb = matmul_place<TB, WB, T::N>((int)threadIdx.x);
    A += z0 * p.sa[0] + z1 * p.sa[1] + (TA ? (size_t)pa.y * p.M + m0 + pa.x : (size_t)(m0 + pa.x) * p.K + pa.y);
    B += z0 * p.sb[0] + z1 * p.sb[1] + (TB ? (size_t)(n0 + pb.x) * p.K + pb.y : (size_t)pb.y * p.N + n0 + pb.x);
    for (int j = 0; j < p.summed[0] * p.summed[1]; j++) {
        const float *a = A + j / p.summed[1] * p.sa[0] + j % p.summed[1] * p.sa[1];
        const float *b = B + j / p.summed[1] * p.sb[0] + j % p.summed[1] * p.sb[1];
        int late_a = matmul_late<!TA>(a, pa), late_b = matmul_late<TB>(b, pb);
        a -= late_a, b -= late_b;
        for (int k0 = -2 * STEP, s = STEP; k0 < p.K; k0 += STEP, s = s == 2 * STEP ? 0 : s + STEP) {
            int next = s ? s - STEP : 2 * STEP;     // k0 is multiplied, from slot s on; two rounds only load
            if (k0 + STEP < p.K) {                  // also one step behind the last: what is late
                matmul_fetch<!TA, WA, T::M, STEP, T::THREADS>(as, next, a, make_int2(pa.x, pa.y - late_a), stride_a,
                                                              p.M - m0 - pa.x, k0 + 2 * STEP, p.K);
                matmul_fetch<TB, WB, T::N, STEP, T::THREADS>(bs, next, b, make_int2(pb.x, pb.y - late_b), stride_b,
                                                             p.N - n0 - pb.x, k0 + 2 * STEP, p.K);
                a += TA ? (size_t)STEP * p.M : (size_t)STEP, b += TB ? (size_t)STEP : (size_t)STEP * p.N;
            }
            cp_async_commit();
            if (k0 >= 0) matmul_multiply<T>(acc, as + s, bs + s, m, n + lane % 8 * 4);
            cp_async_wait<0>();
            __syncthreads();
        }
        if (bias) UNROLL for (int q = 0; q < T::QN; q++) {
            float add[4];
            int column = n0 + n + lane % 8 * 4 + 32 * q;
            matmul_load_c(add, bias + column, p.N - column, p.vector_bias);
            UNROLL for (int row = 0; row < 4 * T::QM; row++)
                UNROLL for (int i = 0; i < 4; i++) acc[row][4 * q + i] += add[i];
        }
    }
    UNROLL for (int i = 0; i < 4 * T::QM; i++)
        matmul_store_rows<T::QN>(C, row_of(i), acc[i], p.N - n0 - n, p.vector_c, stage);
}

// ---- bfloat16: tensor cores -----------------------------------------------------------------------------------------
// The same tiles, but a warp multiplies 16 x 16 by 16 x 8 in one instruction (mma.sync) whose operands it collects from
// shared memory with ldmatrix. Operands in float32 are rounded to bfloat16 in a pass of their own, into scratch memory,
// and not on the way to shared memory: each number is read by as many blocks as there are tiles beside each other, so
// it had better have two bytes by then; cp.async cannot convert; and rows of scratch memory can be padded to 16 bytes,
// so that no odd size needs a slow path.
typedef __nv_bfloat16 bf16;

// A tile in shared memory has rows of W numbers, in chunks of eight, 16 bytes. ldmatrix reads the same chunk of eight
// rows at a time: they have to lie in eight different groups of banks, so a chunk's place is mixed with its row.
template <int W> __device__ inline int mma_place(int row, int chunk) {
    return row * W + (chunk ^ (W == 32 ? row >> 1 & 3 : row & 7)) * 8;
}
// The 16 x 16 numbers of the left operand from row `at` and from k on, or 16 rows of the right one, which are columns
// of two instructions. The tile lies as (rows, k), or across as (k, rows): then ldmatrix has to transpose.
template <int W, bool ACROSS, bool LEFT>
__device__ inline void mma_fragment(unsigned r[4], const bf16 *tile, int at, int k) {
    int lane = threadIdx.x % 32, half = lane / 8 % 2, other = lane / 16;
    int row_half = LEFT ? half : other, k_half = LEFT ? other : half;
    if (ACROSS) ldmatrix_x4_trans(r, &tile[mma_place<W>(k + k_half * 8 + lane % 8, at / 8 + row_half)]);
    else ldmatrix_x4(r, &tile[mma_place<W>(at + row_half * 8 + lane % 8, k / 8 + k_half)]);
}

// MI by NI instructions' results are a warp's: 16 MI rows, 8 NI columns. Three stages: while one is multiplied, two
// more are on their way.
template <int MI_, int NI_, int WARPS_M_, int WARPS_N> struct MmaTile {
    static constexpr int MI = MI_, NI = NI_, WARPS_M = WARPS_M_, THREADS = 32 * WARPS_M_ * WARPS_N;
    static constexpr int M = 16 * MI_ * WARPS_M_, N = 8 * NI_ * WARPS_N, STEP = 32, STAGES = 3;
    static constexpr int BYTES = STAGES * (M + N) * STEP * 2;
};
typedef MmaTile<4, 4, 2, 4> MmaLarge;               // 128 x 128 by 256 threads
typedef MmaTile<2, 4, 2, 2> MmaSmall;               // 64 x 64 by 128 threads

// A tile of ROWS by STEP from where x points; rows and ks are how many are left there. What is not there becomes 0.
template <bool ALONG_K, int ROWS, int STEP, int THREADS>
__device__ inline void mma_fetch(bf16 *tile, const bf16 *x, int stride, int rows, int ks) {
    const int width = ALONG_K ? STEP : ROWS;
    UNROLL for (int i = 0; i < ROWS * STEP / 8 / THREADS; i++) {
        int n = (int)threadIdx.x + i * THREADS, line = n / (width / 8), chunk = n % (width / 8);
        int left = line < (ALONG_K ? rows : ks) ? (ALONG_K ? ks : rows) - chunk * 8 : 0;
        const bf16 *from = left > 0 ? x + (size_t)line * stride + chunk * 8 : x;
        cp_async<16>(&tile[mma_place<width>(line, chunk)], from, 2 * max(0, min(left, 8)));
    }
}

// A warp's results of 16 rows and 8 NI columns to memory. The registers hold two neighbours of a row, 8 bytes; by way
// of shared memory four of them become one access, and eight threads write 128 bytes of a row.
template <int NI>
__device__ inline void mma_store(float *C, const float acc[NI][4], float *stage, const float *bias,
                                 const MatmulCall &p, int m, int n) {
    const int W = 8 * NI + 8, lane = threadIdx.x % 32, each = p.vector_c ? 4 : 1, across = 8 * NI / each;
    __syncwarp();
    UNROLL for (int j = 0; j < NI; j++) UNROLL for (int h = 0; h < 2; h++)
        *reinterpret_cast<float2 *>(&stage[(lane / 4 + 8 * h) * W + 8 * j + lane % 4 * 2]) =
            make_float2(acc[j][2 * h], acc[j][2 * h + 1]);
    __syncwarp();
    for (int i = lane; i < 16 * across; i += 32) {
        int row = i / across, column = i % across * each, left = min(each, p.N - n - column);
        if (m + row >= p.M || left <= 0) continue;
        float *c = &C[(size_t)(m + row) * p.N + n + column], x[4], add[4] = {}, old[4] = {};
        matmul_load_c(x, &stage[row * W + column], left, 1);
        if (bias) matmul_load_c(add, bias + n + column, left, p.vector_bias);
        if (p.accumulate) matmul_load_c(old, c, left, 1);
        UNROLL for (int j = 0; j < 4; j++) x[j] += old[j] + add[j] * p.summed[0] * p.summed[1];
        matmul_store_c(c, x, left, 1);
    }
}

template <bool TA, bool TB, class T>
__global__ void __launch_bounds__(T::THREADS, 512 / T::THREADS)
matmul_mma(float *C, const bf16 *A, const bf16 *B, const float *bias, MatmulCall p) {
    DYNAMIC_SHARED(bf16, shared);                   // of each stage the tile of A, then that of B
    int warp = threadIdx.x / 32, m = warp % T::WARPS_M * 16 * T::MI, n = warp / T::WARPS_M * 8 * T::NI;
    int tiles = p.tiles_m * p.tiles_n, z = (int)blockIdx.x / tiles, z0 = z / p.apart[1], z1 = z % p.apart[1];
    int2 tile = matmul_tile_of(p, (int)blockIdx.x % tiles);
    int m0 = tile.x * T::M, n0 = tile.y * T::N, steps = max(1, (p.K + T::STEP - 1) / T::STEP);
    int total = steps * p.summed[0] * p.summed[1];
    A += z0 * p.sa[0] + z1 * p.sa[1] + (TA ? (size_t)m0 : (size_t)m0 * p.lda);
    B += z0 * p.sb[0] + z1 * p.sb[1] + (TB ? (size_t)n0 * p.ldb : (size_t)n0);
    float acc[T::MI][T::NI][4] = {};
    for (int i = 1 - T::STAGES; i < total; i++) {   // products that add up are one long product
        int next = i + T::STAGES - 1, j = next / steps, k0 = next % steps * T::STEP;
        if (i >= 0) {
            cp_async_wait<T::STAGES - 2>();
            __syncthreads();                        // stage i is there, and nobody reads the one before it any more
        }
        if (next < total) {
            bf16 *to = shared + next % T::STAGES * (T::M + T::N) * T::STEP;
            const bf16 *a = A + j / p.summed[1] * p.sa[0] + j % p.summed[1] * p.sa[1];
            const bf16 *b = B + j / p.summed[1] * p.sb[0] + j % p.summed[1] * p.sb[1];
            mma_fetch<!TA, T::M, T::STEP, T::THREADS>(to, a + (TA ? (size_t)k0 * p.lda : (size_t)k0), p.lda, p.M - m0,
                                                      p.K - k0);
            mma_fetch<TB, T::N, T::STEP, T::THREADS>(to + T::M * T::STEP, b + (TB ? (size_t)k0 : (size_t)k0 * p.ldb),
                                                     p.ldb, p.N - n0, p.K - k0);
        }
        cp_async_commit();
        if (i < 0) continue;
        const bf16 *as = shared + i % T::STAGES * (T::M + T::N) * T::STEP, *bs = as + T::M * T::STEP;
        UNROLL for (int k = 0; k < T::STEP; k += 16) {
            unsigned a[T::MI][4], b[T::NI / 2][4];
            UNROLL for (int q = 0; q < T::MI; q++) mma_fragment<TA ? T::M : T::STEP, TA, true>(a[q], as, m + 16 * q, k);
            UNROLL for (int q = 0; q < T::NI / 2; q++)
                mma_fragment<TB ? T::STEP : T::N, !TB, false>(b[q], bs, n + 16 * q, k);
            UNROLL for (int x = 0; x < T::MI; x++)
                UNROLL for (int y = 0; y < T::NI; y++) mma_bf16(acc[x][y], a[x], &b[y / 2][y % 2 * 2]);
        }
    }
    __syncthreads();                                // the stages become the warps' places for results
    float *stage = reinterpret_cast<float *>(shared) + warp * 16 * (8 * T::NI + 8);
    C += z0 * p.sc[0] + z1 * p.sc[1];
    UNROLL for (int i = 0; i < T::MI; i++) mma_store<T::NI>(C, acc[i], stage, bias, p, m0 + m + 16 * i, n0 + n);
}

// y: the matrices of x one after the other, rounded, their rows padded to `stride` numbers. One thread for W numbers.
template <int W>
__global__ void matmul_round(bf16 *y, const float *x, size_t rows, int columns, int stride, int matrices1, size_t s0,
                             size_t s1, size_t total) {
    size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * W, row = i / stride, z = row / rows;
    int column = (int)(i % stride);
    if (i >= total) return;
    const float *from = x + z / matrices1 * s0 + z % matrices1 * s1 + row % rows * columns + column;
    if (W == 1) {
        y[i] = __float2bfloat16(column < columns ? *from : 0.0f);
        return;
    }
    float v[4] = {};
    if (column < columns) matmul_four(v, from);
    __nv_bfloat162 low = __floats2bfloat162_rn(v[0], v[1]), high = __floats2bfloat162_rn(v[2], v[3]);
    *reinterpret_cast<uint2 *>(&y[i]) = make_uint2(bf16_word(low), bf16_word(high));
}

// ---- the host's side ------------------------------------------------------------------------------------------------
static inline int matmul_aligned(const float *x, int row, const size_t stride[2]) {
    return (uintptr_t)x % 16 == 0 && row % 4 == 0 && stride[0] % 4 == 0 && stride[1] % 4 == 0;
}
static inline MatmulCall matmul_call(const float *C, const float *A, const float *B, int M, int N, int K, int ta,
                                     int tb, const int batch[2], const size_t sc[2], const size_t sa[2],
                                     const size_t sb[2], int accumulate) {
    MatmulCall p = {};
    p.M = M, p.N = N, p.K = K, p.accumulate = accumulate;
    for (int i = 0; i < 2; i++) {
        p.apart[i] = sc[i] ? batch[i] : 1, p.summed[i] = sc[i] ? 1 : batch[i];
        p.sc[i] = sc[i], p.sa[i] = sa[i], p.sb[i] = sb[i];
    }
    p.vector = matmul_aligned(A, ta ? M : K, sa) && matmul_aligned(B, tb ? K : N, sb);
    p.vector_c = matmul_aligned(C, N, sc);
    return p;
}
static inline size_t matmul_products(const MatmulCall &p) { return (size_t)p.apart[0] * p.apart[1]; }
static inline int matmul_nothing(const MatmulCall &p) {     // no element of C, or no product to add to it
    return !p.M || !p.N || !matmul_products(p) || !p.summed[0] || !p.summed[1];
}

template <class Stream>
static inline int cuda_matmul_naive(Stream s, float *C, const float *A, const float *B, const float *bias,
                                    const MatmulCall &p, int ta, int tb, int rounded) {
    if (matmul_nothing(p)) return 0;
    size_t blocks = ((size_t)p.M * p.N * matmul_products(p) + 255) / 256;
    if (blocks > INT32_MAX) return -1;
    launch(matmul_naive, dim3((unsigned)blocks), 256, 0, s, C, A, B, bias, p, ta, tb, rounded);
    return cuda_status();
}
// The tiles of all products, a block for each; how many those of one product are is noted in p.
template <class T> static inline size_t matmul_blocks(MatmulCall &p) {
    p.tiles_m = cuda_tiles(p.M, T::M), p.tiles_n = cuda_tiles(p.N, T::N);
    return matmul_products(p) * p.tiles_m * p.tiles_n;
}
template <bool VECTOR, class T> static inline auto matmul_form(int ta, int tb) {
    return ta ? tb ? matmul_tiled<true, true, VECTOR, T> : matmul_tiled<true, false, VECTOR, T>
              : tb ? matmul_tiled<false, true, VECTOR, T> : matmul_tiled<false, false, VECTOR, T>;
}
template <class T, class Stream>
static inline int cuda_matmul_tiled(Stream s, float *C, const float *A, const float *B, const float *bias,
                                    MatmulCall p, int ta, int tb) {
    if (matmul_nothing(p)) return 0;
    size_t blocks = matmul_blocks<T>(p);
    if (blocks > INT32_MAX) return -1;
    p.vector_bias = (uintptr_t)bias % 16 == 0;
    auto kernel = p.vector ? matmul_form<true, T>(ta, tb) : matmul_form<false, T>(ta, tb);
    launch(kernel, dim3((unsigned)blocks), T::THREADS, 0, s, C, A, B, bias, p);
    return cuda_status();
}
// A GPU has some hundred multiprocessors. With fewer large tiles than that, or tiles that are mostly edge, small ones
// keep more of them busy.
template <class Stream>
static inline int cuda_matmul(Stream s, float *C, const float *A, const float *B, const float *bias, int M, int N,
                              int K, int ta, int tb, const int batch[2], const size_t sc[2], const size_t sa[2],
                              const size_t sb[2], int accumulate) {
    MatmulCall p = matmul_call(C, A, B, M, N, K, ta, tb, batch, sc, sa, sb, accumulate);
    if (M <= 64 || N <= 64 || matmul_blocks<MatmulLarge>(p) < 100)
        return cuda_matmul_tiled<MatmulSmall>(s, C, A, B, bias, p, ta, tb);
    return cuda_matmul_tiled<MatmulLarge>(s, C, A, B, bias, p, ta, tb);
}

// ---- the host's side, bfloat16 --------------------------------------------------------------------------------------
// Operands in bfloat16: lda and ldb are the distances from row to row as stored, multiples of 8 like all strides of
// batches, and A and B start at multiples of 16 bytes. -1 if not.
template <class T, class Stream>
static inline int matmul_mma_launch(Stream s, float *C, const bf16 *A, const bf16 *B, const float *bias,
                                    MatmulCall p, int ta, int tb) {
    if (matmul_nothing(p)) return 0;
    size_t blocks = matmul_blocks<T>(p);
    size_t strides = p.sa[0] | p.sa[1] | p.sb[0] | p.sb[1] | (size_t)p.lda | (size_t)p.ldb;
    if (blocks > INT32_MAX || strides % 8 || ((uintptr_t)A | (uintptr_t)B) % 16) return -1;
    auto kernel = ta ? tb ? matmul_mma<true, true, T> : matmul_mma<true, false, T>
                     : tb ? matmul_mma<false, true, T> : matmul_mma<false, false, T>;
    launch(kernel, dim3((unsigned)blocks), T::THREADS, T::BYTES, s, C, A, B, bias, p);
    return cuda_status();
}
template <class Stream>
static inline int cuda_matmul_mma(Stream s, float *C, const bf16 *A, int lda, const bf16 *B, int ldb,
                                  const float *bias, int M, int N, int K, int ta, int tb, const int batch[2],
                                  const size_t sc[2], const size_t sa[2], const size_t sb[2], int accumulate) {
    MatmulCall p = matmul_call(C, nullptr, nullptr, M, N, K, ta, tb, batch, sc, sa, sb, accumulate);
    p.lda = lda, p.ldb = ldb, p.vector_bias = (uintptr_t)bias % 16 == 0;
    if (M <= 64 || N <= 64 || matmul_blocks<MmaLarge>(p) < 100)
        return matmul_mma_launch<MmaSmall>(s, C, A, B, bias, p, ta, tb);
    return matmul_mma_launch<MmaLarge>(s, C, A, B, bias, p, ta, tb);
}

// An operand in float32 that is to be rounded: its matrices, of which those with stride 0 are one, and where they go.
struct MatmulRounded {
    int rows, columns, stride, matrices[2];
    size_t from[2], to[2], total;                   // strides between matrices, and numbers in all of them
};
static inline MatmulRounded matmul_rounded(int rows, int columns, const int batch[2], const size_t from[2]) {
    MatmulRounded r = {rows, columns, cuda_tiles(columns, 16) * 16, {}, {from[0], from[1]}, {}, 0};    // whole sectors
    for (int i = 0; i < 2; i++) r.matrices[i] = from[i] ? batch[i] : 1;
    size_t one = (size_t)rows * r.stride;
    r.to[0] = from[0] ? one * r.matrices[1] : 0, r.to[1] = from[1] ? one : 0;
    r.total = one * r.matrices[0] * r.matrices[1];
    return r;
}
template <class Stream>
static inline int matmul_round_launch(Stream s, bf16 *y, const float *x, const MatmulRounded &r) {
    int vector = matmul_aligned(x, r.columns, r.from);
    size_t blocks = (r.total / (vector ? 4 : 1) + 255) / 256;
    if (!blocks) return 0;
    if (blocks > INT32_MAX) return -1;
    launch(vector ? matmul_round<4> : matmul_round<1>, dim3((unsigned)blocks), 256, 0, s, y, x, (size_t)r.rows,
           r.columns, r.stride, r.matrices[1], r.from[0], r.from[1], r.total);
    return cuda_status();
}
// Both operands of a product; B goes behind A.
struct MatmulFactors { MatmulRounded a, b; };
static inline MatmulFactors matmul_factors(int M, int N, int K, int ta, int tb, const int batch[2], const size_t sa[2],
                                           const size_t sb[2]) {
    return {matmul_rounded(ta ? K : M, ta ? M : K, batch, sa), matmul_rounded(tb ? N : K, tb ? K : N, batch, sb)};
}
template <class Stream>
static inline int matmul_round_both(Stream s, bf16 *to, const float *A, const float *B, const MatmulFactors &f) {
    return matmul_round_launch(s, to, A, f.a) || matmul_round_launch(s, to + f.a.total, B, f.b) ? -1 : 0;
}
static inline size_t cuda_matmul_bf16_scratch(int M, int N, int K, int ta, int tb, const int batch[2],
                                              const size_t sa[2], const size_t sb[2]) {
    MatmulFactors f = matmul_factors(M, N, K, ta, tb, batch, sa, sb);
    return sizeof(bf16) * (f.a.total + f.b.total);
}
// As cuda_matmul; scratch: cuda_matmul_bf16_scratch() bytes, aligned to 16.
template <class Stream>
static inline int cuda_matmul_bf16(Stream s, float *C, const float *A, const float *B, const float *bias, int M,
                                   int N, int K, int ta, int tb, const int batch[2], const size_t sc[2],
                                   const size_t sa[2], const size_t sb[2], int accumulate, void *scratch) {
    MatmulFactors f = matmul_factors(M, N, K, ta, tb, batch, sa, sb);
    bf16 *a16 = (bf16 *)scratch;
    if (matmul_round_both(s, a16, A, B, f)) return -1;
    return cuda_matmul_mma(s, C, a16, f.a.stride, a16 + f.a.total, f.b.stride, bias, M, N, K, ta, tb, batch, sc,
                           f.a.to, f.b.to, accumulate);
}
#endif
