/*
attention.cuh - causal attention for the GPU backend: what `attention` and `attention_back` of autograd.h's table mean.

    cuda_attention(stream, &args)                   y and lse; 0, or -1: a launch failed
    cuda_attention_back(stream, &args, scratch)     dqkv; scratch: cuda_attention_scratch(&args) bytes of the device
    cuda_attention_bf16(stream, &args, scratch)     the same with products in bfloat16, where args.precision asks for
    cuda_attention_back_bf16(stream, &args, scratch)    it; scratch: cuda_attention_scratch_bf16(&args) bytes

stream: a cudaStream_t, or a queue (queue.cuh). All pointers in the arguments are device memory, also start, len, first
and row, which only kernels read: a launch has blocks for rows of T positions, and those behind the end of a shorter row
return at once.

For each head, with q_t, k_u, v_u the slices of qkv at positions t and u (Vaswani et al. 2017):
    s_tu = q_t . k_u / sqrt(HS)   for u <= t          p_t = softmax(s_t)          y_t = sum_u p_tu v_u
The versions, in the order in which to read them:
    attention_naive, attention_back_naive       as the formulas stand
    attention_flash, attention_back_flash       float32: tiles in shared memory, no T x T matrix anywhere
    attention_mma, attention_back_mma           the products in bfloat16 on tensor cores, HS 64 and 128

FlashAttention (Dao et al. 2022) takes keys tile by tile and keeps for each query the largest score so far, the sum of
exponentials against it, and the sum of values; a larger score corrects what there is (online softmax, Milakov and
Gimelshein 2018). FlashAttention-2 (Dao 2023) gives each warp rows of its own, so that warps need not wait for each
other. The backward pass computes the scores again, from the queries, keys and the lse that was kept. Dao's adds to dq
from many blocks by atomics, in an order that varies; here dq has a pass of its own, query by query, and dk and dv
another, key by key, that walks the query heads of a key head in order: no atomics, the same bits each time, for seven
products instead of five.
*/
#ifndef ATTENTION_CUH
#define ATTENTION_CUH
#include "../autograd.h"
#include "matmul.cuh"

// ---- where things lie -----------------------------------------------------------------------------------------------
// Rows of one head: row i of n has HS numbers from x + i * stride on. Behind n there are none.
struct HeadRows { const float *x; size_t stride; int n; };

__device__ inline size_t attention_first(const ag_attention_args &a, int b) {
    return a.first ? (size_t)a.first[b] : (size_t)b * a.T;
}
__device__ inline int attention_rows(const ag_attention_args &a, int b) { return a.first ? a.len[b] : a.T; }
__device__ inline int attention_queries(const ag_attention_args &a, int b) {    // the others are padding: y is 0
    return a.len ? a.len[b] : a.T;
}
__device__ inline int attention_start(const ag_attention_args &a, int b) { return a.start ? a.start[b] : 0; }
__device__ inline size_t attention_cached(const ag_attention_args &a, int b) {
    return (size_t)(a.row ? a.row[b] : b) * a.T_max;
}
// head: 0 to NH - 1 are queries, the next NKV keys, the last NKV values. An offset into qkv and dqkv.
__device__ inline size_t attention_at(const ag_attention_args &a, int b, int head) {
    return (attention_first(a, b) * (a.NH + 2 * a.NKV) + head) * a.HS;
}
__device__ inline HeadRows attention_packed(const ag_attention_args &a, int b, int head) {
    return {a.qkv + attention_at(a, b, head), (size_t)(a.NH + 2 * a.NKV) * a.HS, attention_queries(a, b)};
}
__device__ inline HeadRows attention_keys(const ag_attention_args &a, int b, int kv, bool values) {
    const float *cache = values ? a.v_cache : a.k_cache;
    if (!cache) return attention_packed(a, b, a.NH + (values ? a.NKV : 0) + kv);
    size_t stride = (size_t)a.NKV * a.HS;
    return {cache + attention_cached(a, b) * stride + (size_t)kv * a.HS, stride,
            attention_start(a, b) + attention_queries(a, b)};
}
__device__ inline HeadRows attention_outputs(const ag_attention_args &a, const float *y, int b, int h) {
    return {y + (attention_first(a, b) * a.NH + h) * a.HS, (size_t)a.NH * a.HS, attention_queries(a, b)};
}

// How many keys the queries row0 to row0 + rows - 1 have, of n: none if all of them are padding.
__device__ inline int attention_end(int row0, int rows, int n) { return row0 < n ? min(row0 + rows, n) : 0; }

// The new keys and values join the cache, a block for each position.
__global__ void attention_fill_cache(ag_attention_args a) {
    int b = (int)blockIdx.x / a.T, t = (int)blockIdx.x % a.T, n = a.NKV * a.HS;
    if (t >= attention_queries(a, b)) return;
    const float *k = a.qkv + attention_at(a, b, a.NH) + (size_t)t * (a.NH + 2 * a.NKV) * a.HS;
    size_t at = (attention_cached(a, b) + attention_start(a, b) + t) * n;
    for (int i = threadIdx.x; i < n; i += blockDim.x) a.k_cache[at + i] = k[i], a.v_cache[at + i] = k[n + i];
}

// ---- as the formulas stand ------------------------------------------------------------------------------------------
__device__ inline float attention_dot(const float *x, const float *y, int n) {
    float s = 0;
    for (int i = 0; i < n; i++) s += x[i] * y[i];
    return s;
}
// One thread per query: the maximum, the sum, the weighted values.
__global__ void attention_naive(ag_attention_args a, float scale) {
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x), t = i % a.T, h = i / a.T % a.NH, b = i / a.T / a.NH;
    if (b >= a.B || t >= attention_rows(a, b)) return;
    HeadRows k = attention_keys(a, b, h / (a.NH / a.NKV), false), v = attention_keys(a, b, h / (a.NH / a.NKV), true);
    const float *q = attention_packed(a, b, h).x + t * (size_t)(a.NH + 2 * a.NKV) * a.HS;
    float *y = a.y + ((attention_first(a, b) + t) * a.NH + h) * a.HS, largest = -INFINITY, sum = 0;
    int keys = t < attention_queries(a, b) ? attention_start(a, b) + t + 1 : 0;
    for (int d = 0; d < a.HS; d++) y[d] = 0;
    for (int u = 0; u < keys; u++) largest = fmaxf(largest, scale * attention_dot(q, k.x + u * k.stride, a.HS));
    for (int u = 0; u < keys; u++) sum += expf(scale * attention_dot(q, k.x + u * k.stride, a.HS) - largest);
    for (int u = 0; u < keys; u++) {
        float p = expf(scale * attention_dot(q, k.x + u * k.stride, a.HS) - largest) / sum;
        for (int d = 0; d < a.HS; d++) y[d] += p * v.x[u * v.stride + d];
    }
    if (a.lse) a.lse[((size_t)b * a.NH + h) * a.T + t] = keys ? largest + logf(sum) : 0.0f;
}
// With dp_tu = dy_t . v_u and D_t = dy_t . y_t (which equals sum_u p_tu dp_tu):
//     dv_u += p_tu dy_t      ds_tu = p_tu (dp_tu - D_t) / sqrt(HS)      dq_t += ds_tu k_u      dk_u += ds_tu q_t
// One thread per key head, so that nobody else adds to its keys.
__global__ void attention_back_naive(ag_attention_args a, float scale) {
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x), kv = i % a.NKV, b = i / a.NKV, group = a.NH / a.NKV;
    if (b >= a.B) return;
    HeadRows q = attention_packed(a, b, 0);
    size_t k0 = (size_t)(a.NH + kv) * a.HS, v0 = k0 + (size_t)a.NKV * a.HS;
    float *to = a.dqkv + attention_at(a, b, 0);
    for (int t = 0; t < attention_rows(a, b) && !a.accumulate; t++, to += q.stride) {
        for (int d = 0; d < group * a.HS; d++) to[(size_t)kv * group * a.HS + d] = 0;
        for (int d = 0; d < a.HS; d++) to[k0 + d] = to[v0 + d] = 0;
    }
    to = a.dqkv + attention_at(a, b, 0);
    for (int h = kv * group; h < (kv + 1) * group; h++) for (int t = 0; t < q.n; t++) {
        size_t q0 = t * q.stride + (size_t)h * a.HS;
        const float *y = attention_outputs(a, a.y, b, h).x + t * (size_t)a.NH * a.HS, *dy = a.dy + (y - a.y);
        float D = attention_dot(dy, y, a.HS), lse = a.lse[((size_t)b * a.NH + h) * a.T + t];
        for (int u = 0; u <= t; u++) {
            const float *k = q.x + u * q.stride + k0, *v = q.x + u * q.stride + v0;
            float *dk = to + u * q.stride + k0, *dv = to + u * q.stride + v0;
            float p = expf(scale * attention_dot(q.x + q0, k, a.HS) - lse);
            float ds = p * (attention_dot(dy, v, a.HS) - D) * scale;
            for (int d = 0; d < a.HS; d++) dv[d] += p * dy[d], to[q0 + d] += ds * k[d], dk[d] += ds * q.x[q0 + d];
        }
    }
}

// ---- float32: pieces of a tile --------------------------------------------------------------------------------------
// A block has ROWS rows (queries, say) and walks over columns (keys), COLS at a time. Eight threads beside each other
// share four rows: thread x of the eight has columns x, x + 8, ... of a product of rows and columns, and numbers 4x to
// 4x + 3, 4x + 32 to ... of a row of HS. So what belongs to a row stays within eight lanes of a warp. HS is the head
// size rounded up to 32, 64, 128 or 256; the numbers behind the true one are 0. Rows of a tile are padded by four
// numbers, and the same number of eight rows then lies in eight different groups of banks.
template <int HS> struct AttentionRow { float x[HS + 4]; };

// To shared memory, behind the thread's back. Rows that do not exist, and numbers from hs on, become 0.
template <int HS, int N, int THREADS>
__device__ inline void attention_load(AttentionRow<HS> *to, const HeadRows &from, int row0, int hs, int vector) {
    if (vector) UNROLL_TWICE for (int i = (int)threadIdx.x; i < N * HS / 4; i += THREADS) {
        int row = i / (HS / 4), d = i % (HS / 4) * 4;
        bool in = row0 + row < from.n && d < hs;
        cp_async<16>(&to[row].x[d], in ? &from.x[(row0 + row) * from.stride + d] : from.x, in ? 16 : 0);
    }
    else UNROLL_TWICE for (int i = (int)threadIdx.x; i < N * HS; i += THREADS) {
        int row = i / HS, d = i % HS;
        bool in = row0 + row < from.n && d < hs;
        cp_async<4>(&to[row].x[d], in ? &from.x[(row0 + row) * from.stride + d] : from.x, in ? 4 : 0);
    }
    cp_async_commit();
}
// s[r][c] = row r of this thread times its column c
template <int HS, int C>
__device__ inline void attention_scores(float s[4][C], const AttentionRow<HS> *rows, const AttentionRow<HS> *columns) {
    UNROLL for (int r = 0; r < 4; r++) UNROLL for (int c = 0; c < C; c++) s[r][c] = 0;
    UNROLL_NOT for (int d = 0; d < HS; d += 4) {
        float x[4][4], y[C][4];
        UNROLL for (int r = 0; r < 4; r++) matmul_four(x[r], &rows[threadIdx.x / 8 * 4 + r].x[d]);
        UNROLL for (int c = 0; c < C; c++) matmul_four(y[c], &columns[threadIdx.x % 8 + 8 * c].x[d]);
        UNROLL for (int r = 0; r < 4; r++) UNROLL for (int c = 0; c < C; c++)
            UNROLL for (int i = 0; i < 4; i++) s[r][c] = fmaf(x[r][i], y[c][i], s[r][c]);
    }
}
// Scores lie transposed, a column's rows beside each other: a thread writes its four rows, and reads the four rows of
// any column, in one go. Those who read them are the eight lanes that wrote them.
template <int ROWS> struct AttentionColumn { float x[ROWS + 4]; };
template <int ROWS, int C>
__device__ inline void attention_put(AttentionColumn<ROWS> *to, const float s[4][C]) {
    UNROLL for (int c = 0; c < C; c++)
        *reinterpret_cast<float4 *>(&to[threadIdx.x % 8 + 8 * c].x[threadIdx.x / 8 * 4]) =
            make_float4(s[0][c], s[1][c], s[2][c], s[3][c]);
}
// acc (4 rows, OUT / 8 numbers of each) += weights (rows, columns) times columns' numbers from d0 on
template <int HS, int OUT, int ROWS, int COLS>
__device__ inline void attention_add(float acc[4][OUT / 8], const AttentionColumn<ROWS> *weights,
                                     const AttentionRow<HS> *columns, int d0) {
    UNROLL_TWICE for (int c = 0; c < COLS; c++) {
        float w[4], x[4];
        matmul_four(w, &weights[c].x[threadIdx.x / 8 * 4]);
        UNROLL for (int j = 0; j < OUT / 32; j++) {
            matmul_four(x, &columns[c].x[d0 + 32 * j + threadIdx.x % 8 * 4]);
            UNROLL for (int r = 0; r < 4; r++)
                UNROLL for (int i = 0; i < 4; i++) acc[r][4 * j + i] = fmaf(w[r], x[i], acc[r][4 * j + i]);
        }
    }
}
// One row of acc to x + at; at: -1 if there is none; hs: how many of its numbers exist. All lanes have to come, and
// bring 4 OUT numbers of shared memory for their warp.
template <int OUT>
__device__ inline void attention_store(float *x, long long at, float acc[OUT / 8], int hs, int vector, int accumulate,
                                       float *stage) {
    if (accumulate) UNROLL for (int j = 0; j < OUT / 32; j++) {
        float old[4] = {};
        matmul_load_rows<1>(old, x + 32 * j, at, hs - 32 * j, vector, stage);
        UNROLL for (int i = 0; i < 4; i++) acc[4 * j + i] += old[i];
    }
    matmul_store_rows<OUT / 32>(x, at, acc, hs, vector, stage);
}
template <class Operation> __device__ inline float attention_of_eight(float v, Operation of_two) {
    UNROLL for (int o = 4; o; o >>= 1) v = of_two(v, __shfl_xor_sync(0xffffffffu, v, o));
    return v;
}
// Of eight lanes the first four take one of four values each: what is written then lies side by side.
__device__ inline float attention_mine(const float v[4]) {
    int x = threadIdx.x % 8;
    return x == 0 ? v[0] : x == 1 ? v[1] : x == 2 ? v[2] : v[3];
}

// ---- float32: forward -----------------------------------------------------------------------------------------------
// What a thread knows of its four rows so far: the largest score, the sum of exponentials, the sum of values.
template <int HS> struct AttentionState { float largest[4], sum[4]; __align__(16) float acc[4][HS / 8]; };

// Scores become weights, and what is there is corrected if a larger score has come.
template <int HS, int C> __device__ inline void attention_online(AttentionState<HS> &state, float s[4][C]) {
    UNROLL for (int r = 0; r < 4; r++) {
        float largest = state.largest[r], sum = 0;
        UNROLL for (int c = 0; c < C; c++) largest = fmaxf(largest, s[r][c]);
        largest = attention_of_eight(largest, [](float x, float y) { return fmaxf(x, y); });
        float against = largest == -INFINITY ? 0.0f : largest, correct = expf(state.largest[r] - against);
        UNROLL for (int c = 0; c < C; c++) sum += s[r][c] = expf(s[r][c] - against);
        state.sum[r] = state.sum[r] * correct + attention_of_eight(sum, [](float x, float y) { return x + y; });
        state.largest[r] = largest;
        UNROLL for (int i = 0; i < HS / 8; i++) state.acc[r][i] *= correct;
    }
}
// Blocks with most keys come first, so that the last ones to run are short. K comes while the values are added up, V
// while the scores are made.
template <int HS, int ROWS, int COLS>
__global__ void __launch_bounds__(2 * ROWS) attention_flash(ag_attention_args a, float scale, int vector) {
    DYNAMIC_SHARED(AttentionRow<HS>, q);
    AttentionRow<HS> *k = q + ROWS, *v = k + COLS;
    AttentionColumn<ROWS> *p = reinterpret_cast<AttentionColumn<ROWS> *>(v + COLS);
    int heads = a.B * a.NH, b = (int)blockIdx.x % heads / a.NH, h = (int)blockIdx.x % a.NH, x = threadIdx.x % 8;
    int row0 = ((int)gridDim.x - 1 - (int)blockIdx.x) / heads * ROWS, mine = row0 + (int)threadIdx.x / 8 * 4;
    int start = attention_start(a, b), n = attention_queries(a, b), rows = attention_rows(a, b);
    if (row0 >= rows) return;
    HeadRows keys = attention_keys(a, b, h / (a.NH / a.NKV), false);
    HeadRows values = attention_keys(a, b, h / (a.NH / a.NKV), true);
    int end = row0 < n ? start + attention_end(row0, ROWS, n) : 0;
    AttentionState<HS> state = {{-INFINITY, -INFINITY, -INFINITY, -INFINITY}, {}, {}};
    attention_load<HS, ROWS, 2 * ROWS>(q, attention_packed(a, b, h), row0, a.HS, vector);
    attention_load<HS, COLS, 2 * ROWS>(k, keys, 0, a.HS, vector);
    for (int u0 = 0; u0 < end; u0 += COLS) {
        float s[4][COLS / 8];
        attention_load<HS, COLS, 2 * ROWS>(v, values, u0, a.HS, vector);
        cp_async_wait<1>();                         // all but the values
        __syncthreads();
        attention_scores<HS, COLS / 8>(s, q, k);
        UNROLL for (int r = 0; r < 4; r++) UNROLL for (int c = 0; c < COLS / 8; c++) {
            int u = u0 + x + 8 * c;
            s[r][c] = mine + r < n && u <= start + mine + r ? s[r][c] * scale : -INFINITY;
        }
        attention_online(state, s);
        attention_put<ROWS>(p, s);
        cp_async_wait<0>();
        __syncthreads();
        attention_load<HS, COLS, 2 * ROWS>(k, keys, u0 + COLS, a.HS, vector);
        attention_add<HS, HS, ROWS, COLS>(state.acc, p, v, 0);
        __syncthreads();
    }
    cp_async_wait<0>();                             // spare: the keys behind the last ones, which nobody reads
    float *stage = v->x + threadIdx.x / 32 * 4 * HS;
    UNROLL for (int r = 0; r < 4; r++) {
        float share = state.sum[r] > 0 ? 1 / state.sum[r] : state.sum[r];       // 0 of padding, and NaN stays NaN
        UNROLL for (int i = 0; i < HS / 8; i++) state.acc[r][i] *= share;
        state.sum[r] = mine + r < n ? state.largest[r] + logf(state.sum[r]) : 0.0f;
        long long at = (long long)((attention_first(a, b) + mine + r) * a.NH + h) * a.HS;
        attention_store<HS>(a.y, mine + r < rows ? at : -1, state.acc[r], a.HS, vector, 0, stage);
    }
    if (a.lse && x < 4 && mine + x < rows)
        a.lse[((size_t)b * a.NH + h) * a.T + mine + x] = attention_mine(state.sum);
}

// ---- float32: backward ----------------------------------------------------------------------------------------------
// D (B,NH,T): dy . y, one warp for each query of each head. rounded: with dy as the tensor cores have it. Then D is the
// sum of p_tu dp_tu here too, but for the rounding of p, and the ds of a query add up to 0. Else what all keys have in
// common, which may be much more than what they differ in, would not cancel in dq.
__global__ void attention_dots(float *D, ag_attention_args a, int rounded) {
    size_t i = (size_t)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    int t = (int)(i % a.T), h = (int)(i / a.T % a.NH), b = (int)(i / a.T / a.NH);
    if (b >= a.B || t >= attention_queries(a, b)) return;
    HeadRows y = attention_outputs(a, a.y, b, h), dy = attention_outputs(a, a.dy, b, h);
    float s = 0;
    for (int d = threadIdx.x % 32; d < a.HS; d += 32) {
        float g = dy.x[t * dy.stride + d];
        if (rounded) g = __bfloat162float(__float2bfloat16(g));
        s = fmaf(y.x[t * y.stride + d], g, s);
    }
    for (int o = 16; o; o >>= 1) s += __shfl_xor_sync(0xffffffffu, s, o);
    if (threadIdx.x % 32 == 0) D[i] = s;
}

// Of an array with a number for each query those of this thread's four rows: a warp reads its sixteen in one go.
__device__ inline void attention_rows_of_warp(float to[4], const float *x, int row0, int n) {
    int lane = threadIdx.x % 32, t = row0 + (int)threadIdx.x / 32 * 16 + lane;
    float one = lane < 16 && t < n ? x[t] : 0.0f;
    UNROLL for (int r = 0; r < 4; r++) to[r] = __shfl_sync(0xffffffffu, one, lane / 8 * 4 + r);
}

// Both passes of the backward are one kernel, since the formulas are the same with rows and columns exchanged:
//     rows are queries:    s = q k^T   dp = dy v^T    ds = p (dp - D) scale      dq += ds k
//     rows are keys:       s = k q^T   dp = v dy^T    ds = p (dp - D) scale      dk += ds q     dv += p dy
// x1 x2 are a block's rows (q dy, or k v), y1 y2 the columns it walks over (k v, or q dy). OUT of HS numbers of the
// gradients' rows are a block's task: 256 of dk and dv would not fit the registers.
template <int HS, int OUT, int ROWS, int COLS, bool KEYS>
__global__ void __launch_bounds__(2 * ROWS)
attention_back_flash(ag_attention_args a, const float *D, float scale, int vector) {
    DYNAMIC_SHARED(AttentionRow<HS>, x1);
    AttentionRow<HS> *x2 = x1 + ROWS, *y1 = x2 + ROWS, *y2 = y1 + COLS;
    AttentionColumn<ROWS> *weights = reinterpret_cast<AttentionColumn<ROWS> *>(y2 + COLS);
    const int C = COLS / 8, group = a.NH / a.NKV, own = KEYS ? a.NKV : a.NH, blocks = a.B * own * (HS / OUT);
    int id = (int)blockIdx.x % blocks, d0 = id / (a.B * own) * OUT, head = id % own, b = id / own % a.B;
    int tile = KEYS ? (int)blockIdx.x / blocks : ((int)gridDim.x - 1 - (int)blockIdx.x) / blocks;   // long ones first
    int row0 = tile * ROWS, mine = row0 + (int)threadIdx.x / 8 * 4, n = attention_queries(a, b);
    int rows = attention_rows(a, b), kv = KEYS ? head : head / group;
    if (row0 >= rows) return;
    HeadRows k = attention_packed(a, b, a.NH + kv), v = attention_packed(a, b, a.NH + a.NKV + kv);
    __align__(16) float acc1[4][OUT / 8] = {}, acc2[KEYS ? 4 : 1][OUT / 8] = {};
    for (int h = KEYS ? kv * group : head; h < (KEYS ? (kv + 1) * group : head + 1); h++) {
        HeadRows q = attention_packed(a, b, h), dy = attention_outputs(a, a.dy, b, h);
        const float *lse = a.lse + ((size_t)b * a.NH + h) * a.T, *d = D + ((size_t)b * a.NH + h) * a.T;
        float lses[KEYS ? C : 4], ds[KEYS ? C : 4]; // of the queries: of this thread's columns, or of its rows
        if (!KEYS || h == kv * group) {             // rows stay for all the heads
            attention_load<HS, ROWS, 2 * ROWS>(x1, KEYS ? k : q, row0, a.HS, vector);
            attention_load<HS, ROWS, 2 * ROWS>(x2, KEYS ? v : dy, row0, a.HS, vector);
        }
        if constexpr (!KEYS) attention_rows_of_warp(lses, lse, row0, n), attention_rows_of_warp(ds, d, row0, n);
        for (int c0 = KEYS ? row0 : 0, end = KEYS ? n : attention_end(row0, ROWS, n); c0 < end; c0 += COLS) {
            float p[4][C], dp[4][C];
            attention_load<HS, COLS, 2 * ROWS>(y1, KEYS ? q : k, c0, a.HS, vector);
            attention_load<HS, COLS, 2 * ROWS>(y2, KEYS ? dy : v, c0, a.HS, vector);
            if constexpr (KEYS) UNROLL for (int c = 0; c < C; c++) {
                int t = c0 + (int)threadIdx.x % 8 + 8 * c;
                lses[c] = t < n ? lse[t] : 0.0f, ds[c] = t < n ? d[t] : 0.0f;
            }
            cp_async_wait<0>();
            __syncthreads();
            attention_scores<HS, C>(p, x1, y1);
            attention_scores<HS, C>(dp, x2, y2);
            UNROLL for (int c = 0; c < C; c++) UNROLL for (int r = 0; r < 4; r++) {
                int row = mine + r, column = c0 + (int)threadIdx.x % 8 + 8 * c, t = KEYS ? column : row;
                bool in = t < n && (KEYS ? row : column) <= t;
                p[r][c] = in ? expf(p[r][c] * scale - lses[KEYS ? c : r]) : 0.0f;
                dp[r][c] = in ? p[r][c] * (dp[r][c] - ds[KEYS ? c : r]) * scale : 0.0f;
            }
            attention_put<ROWS>(weights, dp);
            __syncwarp();
            attention_add<HS, OUT, ROWS, COLS>(acc1, weights, y1, d0);
            if constexpr (KEYS) {
                __syncwarp();
                attention_put<ROWS>(weights, p);
                __syncwarp();
                attention_add<HS, OUT, ROWS, COLS>(acc2, weights, y2, d0);
            }
            __syncthreads();
        }
    }
    cp_async_wait<0>();                             // spare: of a block of padding, whose rows nobody reads
    float *stage = y2->x + threadIdx.x / 32 * 4 * OUT;
    UNROLL for (int r = 0; r < 4; r++) {
        long long at = (long long)(attention_at(a, b, KEYS ? a.NH + kv : head) + (mine + r) * k.stride) + d0;
        if (mine + r >= rows) at = -1;
        attention_store<OUT>(a.dqkv, at, acc1[r], a.HS - d0, vector, a.accumulate, stage);
        if constexpr (KEYS)
            attention_store<OUT>(a.dqkv + (size_t)a.NKV * a.HS, at, acc2[r], a.HS - d0, vector, a.accumulate, stage);
    }
}

// ---- bfloat16 on tensor cores ---------------------------------------------------------------------------------------
// The same two kernels with mma.sync, in FlashAttention-2's layout: four warps of 16 rows. What a warp's instruction
// leaves in registers as scores (d[i] of tensor_core.h) is, rounded, just what the next one takes as its left operand
// (a[i]), so weights never go through shared memory. HS is 64 or 128, and queries, keys, values and dy are rounded to
// bfloat16 by a pass of their own, for the reasons given in matmul.cuh. Machine code, counted in the source (the loop
// over a head's numbers is unrolled twice): attention_mma of HS 64 48 HMMA and 26 LDSM, of 128 80 and 42;
// attention_back_mma for queries 64 and 36, 48 and 28, for keys 96 and 52, 80 and 44.
enum { ATTENTION_MMA_ROWS = 64, ATTENTION_MMA_THREADS = 128 };
struct HalfRows { const bf16 *x; size_t stride; int n; };      // as HeadRows

// y = x rounded, width numbers for each position; a block for one
__global__ void attention_round(bf16 *y, const float *x, int width, ag_attention_args a) {
    int b = (int)blockIdx.x / a.T, t = (int)blockIdx.x % a.T;
    if (t >= attention_rows(a, b)) return;
    size_t at = (attention_first(a, b) + t) * width;
    for (int i = (int)threadIdx.x * 4; i < width; i += (int)blockDim.x * 4) {
        float v[4];
        matmul_four(v, &x[at + i]);
        *reinterpret_cast<uint2 *>(&y[at + i]) = make_uint2(bf16_word(__floats2bfloat162_rn(v[0], v[1])),
                                                            bf16_word(__floats2bfloat162_rn(v[2], v[3])));
    }
}
template <int HS, int N> __device__ inline void attention_load_half(bf16 *tile, const HalfRows &from, int row0) {
    UNROLL_TWICE for (int i = (int)threadIdx.x; i < N * HS / 8; i += ATTENTION_MMA_THREADS) {
        int row = i / (HS / 8), chunk = i % (HS / 8);
        bool in = row0 + row < from.n;
        const bf16 *x = in ? &from.x[(row0 + row) * from.stride + chunk * 8] : from.x;
        cp_async<16>(&tile[mma_place<HS>(row, chunk)], x, in ? 16 : 0);
    }
}
// s (16 rows of this warp, COLS) = rows times columns, which lie as (row, number)
template <int HS, int COLS>
__device__ inline void attention_scores_mma(float s[COLS / 8][4], const bf16 *rows, const bf16 *columns) {
    UNROLL for (int j = 0; j < COLS / 8; j++) UNROLL for (int i = 0; i < 4; i++) s[j][i] = 0;
    UNROLL_TWICE for (int d = 0; d < HS; d += 16) {
        unsigned x[4], y[4];
        mma_fragment<HS, false, true>(x, rows, (int)threadIdx.x / 32 * 16, d);
        UNROLL for (int j = 0; j < COLS / 8; j += 2) {
            mma_fragment<HS, false, false>(y, columns, 8 * j, d);
            mma_bf16(s[j], x, y);
            mma_bf16(s[j + 1], x, y + 2);
        }
    }
}
// acc (16 rows of this warp, HS) += weights (rows, COLS) times columns
template <int HS, int COLS>
__device__ inline void attention_add_mma(float acc[HS / 8][4], const float w[COLS / 8][4], const bf16 *columns) {
    UNROLL for (int j = 0; j < COLS / 8; j += 2) {
        unsigned x[4], y[4];
        UNROLL for (int i = 0; i < 4; i++) {
            const float *two = &w[j + i / 2][i % 2 * 2];
            x[i] = bf16_word(__floats2bfloat162_rn(two[0], two[1]));
        }
        UNROLL for (int d = 0; d < HS / 8; d += 2) {
            mma_fragment<HS, true, false>(y, columns, 8 * d, 8 * j);
            mma_bf16(acc[d], x, y);
            mma_bf16(acc[d + 1], x, y + 2);
        }
    }
}
// The half of acc[][4] that belongs to row lane / 4 + 8 * half: four lanes write 32 bytes, a sector of memory.
template <int HS>
__device__ inline void attention_store_mma(float *to, const float acc[HS / 8][4], int half, float factor,
                                           int accumulate) {
    UNROLL for (int j = 0; j < HS / 8; j++) {
        float2 *p = reinterpret_cast<float2 *>(&to[8 * j + threadIdx.x % 4 * 2]), old = make_float2(0, 0);
        if (accumulate) old = *p;
        *p = make_float2(old.x + acc[j][2 * half] * factor, old.y + acc[j][2 * half + 1] * factor);
    }
}
template <class Operation> __device__ inline float attention_of_four(float v, Operation of_two) {
    UNROLL for (int o = 2; o; o >>= 1) v = of_two(v, __shfl_xor_sync(0xffffffffu, v, o));
    return v;
}
__device__ inline HalfRows attention_half(const ag_attention_args &a, const bf16 *qkv, int b, int head) {
    return {qkv + attention_at(a, b, head), (size_t)(a.NH + 2 * a.NKV) * a.HS, attention_queries(a, b)};
}

// Scores to weights, online, for the two rows of a thread. Powers of two: one multiplication less, c is scale / ln 2.
template <int HS, int COLS>
__device__ inline void attention_online_mma(float largest[2], float sum[2], float acc[HS / 8][4], float s[COLS / 8][4],
                                            float c) {
    UNROLL for (int half = 0; half < 2; half++) {
        float top = largest[half], more = 0;
        UNROLL for (int j = 0; j < COLS / 8; j++) top = fmaxf(top, fmaxf(s[j][2 * half], s[j][2 * half + 1]));
        top = attention_of_four(top, [](float x, float y) { return fmaxf(x, y); });
        float against = top == -INFINITY ? 0.0f : top * c, correct = exp2f(largest[half] * c - against);
        UNROLL for (int j = 0; j < COLS / 8; j++) UNROLL for (int i = 2 * half; i < 2 * half + 2; i++)
            more += s[j][i] = exp2f(s[j][i] * c - against);
        sum[half] = sum[half] * correct + attention_of_four(more, [](float x, float y) { return x + y; });
        largest[half] = top;
        UNROLL for (int d = 0; d < HS / 8; d++) UNROLL for (int i = 2 * half; i < 2 * half + 2; i++)
            acc[d][i] *= correct;
    }
}
template <int HS, int COLS>
__global__ void __launch_bounds__(ATTENTION_MMA_THREADS)
attention_mma(const bf16 *qkv, ag_attention_args a, float scale) {
    DYNAMIC_SHARED(bf16, q);
    const int ROWS = ATTENTION_MMA_ROWS;
    bf16 *k = q + ROWS * HS, *v = k + COLS * HS;
    int heads = a.B * a.NH, b = (int)blockIdx.x % heads / a.NH, h = (int)blockIdx.x % a.NH, lane = threadIdx.x % 32;
    int row0 = ((int)gridDim.x - 1 - (int)blockIdx.x) / heads * ROWS;
    int mine = row0 + (int)threadIdx.x / 32 * 16 + lane / 4, n = attention_queries(a, b), rows = attention_rows(a, b);
    int kv = h / (a.NH / a.NKV);
    if (row0 >= rows) return;
    HalfRows keys = attention_half(a, qkv, b, a.NH + kv), values = attention_half(a, qkv, b, a.NH + a.NKV + kv);
    float largest[2] = {-INFINITY, -INFINITY}, sum[2] = {}, acc[HS / 8][4] = {};
    attention_load_half<HS, ROWS>(q, attention_half(a, qkv, b, h), row0);
    attention_load_half<HS, COLS>(k, keys, 0);
    cp_async_commit();
    for (int u0 = 0, end = attention_end(row0, ROWS, n); u0 < end; u0 += COLS) {
        float s[COLS / 8][4];
        attention_load_half<HS, COLS>(v, values, u0);
        cp_async_commit();
        cp_async_wait<1>();                         // all but the values
        __syncthreads();
        attention_scores_mma<HS, COLS>(s, q, k);
        if (u0 + COLS > row0 || row0 + ROWS > n) UNROLL for (int j = 0; j < COLS / 8; j++)
            UNROLL for (int i = 0; i < 4; i++) {
                int t = mine + i / 2 * 8, u = u0 + 8 * j + lane % 4 * 2 + i % 2;
                if (u > t || t >= n) s[j][i] = -INFINITY;
            }
        attention_online_mma<HS, COLS>(largest, sum, acc, s, scale * 1.44269504f);
        cp_async_wait<0>();
        __syncthreads();
        attention_load_half<HS, COLS>(k, keys, u0 + COLS);
        cp_async_commit();
        attention_add_mma<HS, COLS>(acc, s, v);
        __syncthreads();
    }
    cp_async_wait<0>();                             // spare: as above
    UNROLL for (int half = 0; half < 2; half++) {
        int t = mine + 8 * half;
        if (t >= rows) continue;
        float share = sum[half] > 0 ? 1 / sum[half] : sum[half];                // 0 of padding, and NaN stays NaN
        attention_store_mma<HS>(a.y + ((attention_first(a, b) + t) * a.NH + h) * HS, acc, half, share, 0);
        if (a.lse && lane % 4 == 0)
            a.lse[((size_t)b * a.NH + h) * a.T + t] = t < n ? largest[half] * scale + logf(sum[half]) : 0.0f;
    }
}

// As attention_back_flash: rows are queries or keys. Columns come through two stages.
template <int HS, int COLS, bool KEYS>
__global__ void __launch_bounds__(ATTENTION_MMA_THREADS)
attention_back_mma(const bf16 *qkv, const bf16 *dy, ag_attention_args a, const float *D, float scale) {
    DYNAMIC_SHARED(bf16, x1);
    const int ROWS = ATTENTION_MMA_ROWS;
    bf16 *x2 = x1 + ROWS * HS, *stages = x2 + ROWS * HS;
    float *queries = reinterpret_cast<float *>(stages + 4 * COLS * HS);     // of each stage COLS lse's, then COLS D's
    int group = a.NH / a.NKV, own = KEYS ? a.NKV : a.NH, blocks = a.B * own, lane = threadIdx.x % 32;
    int head = (int)blockIdx.x % own, b = (int)blockIdx.x / own % a.B, kv = KEYS ? head : head / group;
    int tile = KEYS ? (int)blockIdx.x / blocks : ((int)gridDim.x - 1 - (int)blockIdx.x) / blocks;   // long ones first
    int row0 = tile * ROWS, mine = row0 + (int)threadIdx.x / 32 * 16 + lane / 4, n = attention_queries(a, b);
    int rows = attention_rows(a, b), h0 = KEYS ? kv * group : head, from = KEYS ? row0 : 0;
    int end = KEYS ? n : attention_end(row0, ROWS, n), tiles = max(0, (end - from + COLS - 1) / COLS);
    if (row0 >= rows) return;
    HalfRows k = attention_half(a, qkv, b, a.NH + kv), v = attention_half(a, qkv, b, a.NH + a.NKV + kv);
    HalfRows q = attention_half(a, qkv, b, h0);     // of the first query head
    HalfRows g = {dy + (attention_first(a, b) * a.NH + h0) * HS, (size_t)a.NH * HS, n};
    float acc1[HS / 8][4] = {}, acc2[KEYS ? HS / 8 : 1][4] = {}, lse[2] = {}, d[2] = {};
    if (!KEYS) UNROLL for (int half = 0; half < 2; half++) {
        size_t t = ((size_t)b * a.NH + head) * a.T + mine + 8 * half;
        if (mine + 8 * half < n) lse[half] = a.lse[t], d[half] = D[t];
    }
    attention_load_half<HS, ROWS>(x1, KEYS ? k : q, row0);
    attention_load_half<HS, ROWS>(x2, KEYS ? v : g, row0);
    for (int i = -1, total = tiles * (KEYS ? group : 1); i < total; i++) {
        if (i + 1 < total) {                        // head by head, and of each head tile by tile
            int offset = (i + 1) / tiles * HS, c0 = from + (i + 1) % tiles * COLS;
            bf16 *to = stages + (i + 1) % 2 * 2 * COLS * HS;
            attention_load_half<HS, COLS>(to, KEYS ? HalfRows{q.x + offset, q.stride, n} : k, c0);
            attention_load_half<HS, COLS>(to + COLS * HS, KEYS ? HalfRows{g.x + offset, g.stride, n} : v, c0);
            size_t base = ((size_t)b * a.NH + h0 + (i + 1) / tiles) * a.T;
            if (KEYS) for (int c = (int)threadIdx.x; c < 2 * COLS; c += ATTENTION_MMA_THREADS) {
                int t = c0 + c % COLS;
                const float *x = (c < COLS ? a.lse : D) + base;
                cp_async<4>(&queries[(i + 1) % 2 * 2 * COLS + c], t < n ? x + t : x, t < n ? 4 : 0);
            }
        }
        cp_async_commit();
        if (i < 0) continue;
        const bf16 *y1 = stages + i % 2 * 2 * COLS * HS, *y2 = y1 + COLS * HS;
        int c0 = from + i % tiles * COLS;
        const float *lses = queries + i % 2 * 2 * COLS;
        float p[COLS / 8][4], dp[COLS / 8][4];
        cp_async_wait<1>();
        __syncthreads();
        attention_scores_mma<HS, COLS>(p, x1, y1);
        attention_scores_mma<HS, COLS>(dp, x2, y2);
        UNROLL for (int j = 0; j < COLS / 8; j++) UNROLL for (int e = 0; e < 4; e++) {
            int row = mine + e / 2 * 8, c = 8 * j + lane % 4 * 2 + e % 2, t = KEYS ? c0 + c : row;
            bool in = t < n && (KEYS ? row : c0 + c) <= t;
            float log_sum = KEYS ? lses[c] : lse[e / 2], D_t = KEYS ? lses[COLS + c] : d[e / 2];
            p[j][e] = in ? __expf(p[j][e] * scale - log_sum) : 0.0f;
            dp[j][e] = in ? p[j][e] * (dp[j][e] - D_t) * scale : 0.0f;
        }
        attention_add_mma<HS, COLS>(acc1, dp, y1);
        if constexpr (KEYS) attention_add_mma<HS, COLS>(acc2, p, y2);
        __syncthreads();
    }
    cp_async_wait<0>();                             // spare: as above
    UNROLL for (int half = 0; half < 2; half++) if (mine + 8 * half < rows) {
        float *to = a.dqkv + attention_at(a, b, KEYS ? a.NH + kv : head) + (mine + 8 * half) * k.stride;
        attention_store_mma<HS>(to, acc1, half, 1, a.accumulate);
        if constexpr (KEYS) attention_store_mma<HS>(to + (size_t)a.NKV * HS, acc2, half, 1, a.accumulate);
    }
}

// ---- the host's side ------------------------------------------------------------------------------------------------
static inline float attention_scale(const ag_attention_args *a) { return (float)(1 / sqrt((double)a->HS)); }
static inline int attention_vector(const ag_attention_args *a) {
    uintptr_t all = (uintptr_t)a->qkv | (uintptr_t)a->y | (uintptr_t)a->k_cache | (uintptr_t)a->v_cache |
                    (uintptr_t)a->dy | (uintptr_t)a->dqkv;
    return all % 16 == 0 && a->HS % 4 == 0;
}
static inline int attention_nothing(const ag_attention_args *a) { return a->B < 1 || a->T < 1; }

// As many blocks as tiles times heads, and more than 48 KB of shared memory only for who asks.
template <class Stream, class... Parameters, class... Arguments>
static inline int attention_launch(Stream s, void (*kernel)(Parameters...), size_t tiles, size_t heads,
                                   int threads, size_t shared_bytes, Arguments... arguments) {
    if (tiles * heads > INT32_MAX) return -1;
    if (cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared_bytes) != cudaSuccess)
        return -1;
    launch(kernel, dim3((unsigned)(tiles * heads)), (unsigned)threads, shared_bytes, s, arguments...);
    return cuda_status();
}
template <class Stream>
static inline int attention_cache(Stream s, const ag_attention_args *a) {
    if (!a->k_cache) return 0;
    return attention_launch(s, attention_fill_cache, (size_t)a->B, (size_t)a->T, 128, 0, *a);
}
template <class Stream>
static inline int cuda_attention_naive(Stream s, const ag_attention_args *a) {
    if (attention_nothing(a)) return 0;
    if (attention_cache(s, a)) return -1;
    return attention_launch(s, attention_naive, ((size_t)a->B * a->NH * a->T + 127) / 128, 1, 128, 0, *a,
                            attention_scale(a));
}
template <class Stream>
static inline int cuda_attention_back_naive(Stream s, const ag_attention_args *a) {
    if (attention_nothing(a)) return 0;
    return attention_launch(s, attention_back_naive, ((size_t)a->B * a->NKV + 31) / 32, 1, 32, 0, *a,
                            attention_scale(a));
}

template <int HS, int ROWS, int COLS, class Stream>
static inline int attention_forward(Stream s, const ag_attention_args *a) {
    size_t bytes = (ROWS + 2 * COLS) * sizeof(AttentionRow<HS>) + COLS * sizeof(AttentionColumn<ROWS>);
    return attention_launch(s, attention_flash<HS, ROWS, COLS>, (size_t)cuda_tiles(a->T, ROWS), (size_t)a->B * a->NH,
                            2 * ROWS, bytes, *a, attention_scale(a), attention_vector(a));
}
// Shared memory, 99 KB of it on most chips, decides how many rows a block can have.
template <class Stream>
static inline int cuda_attention(Stream s, const ag_attention_args *a) {
    if (attention_nothing(a)) return 0;
    if (attention_cache(s, a)) return -1;
    if (a->HS <= 32) return attention_forward<32, 64, 32>(s, a);
    if (a->HS <= 64) return attention_forward<64, 64, 32>(s, a);
    if (a->HS <= 128) return attention_forward<128, 64, 32>(s, a);
    return a->HS <= 256 ? attention_forward<256, 32, 16>(s, a) : -1;
}

static inline size_t cuda_attention_scratch(const ag_attention_args *a) {
    return (size_t)a->B * a->NH * a->T * sizeof(float);
}
template <class Stream>
static inline int attention_all_dots(Stream s, const ag_attention_args *a, float *scratch, int rounded) {
    return attention_launch(s, attention_dots, ((size_t)a->B * a->NH * a->T + 3) / 4, 1, 128, 0, scratch, *a, rounded);
}
template <int HS, int OUT, int ROWS, int COLS, class Stream>
static inline int attention_backward(Stream s, const ag_attention_args *a, const float *D) {
    size_t bytes = 2 * (ROWS + COLS) * sizeof(AttentionRow<HS>) + COLS * sizeof(AttentionColumn<ROWS>);
    size_t tiles = (size_t)cuda_tiles(a->T, ROWS), parts = (size_t)a->B * (HS / OUT);
    return attention_launch(s, attention_back_flash<HS, OUT, ROWS, COLS, false>, tiles, parts * a->NH, 2 * ROWS, bytes,
                            *a, D, attention_scale(a), attention_vector(a)) ||
           attention_launch(s, attention_back_flash<HS, OUT, ROWS, COLS, true>, tiles, parts * a->NKV, 2 * ROWS, bytes,
                            *a, D, attention_scale(a), attention_vector(a)) ? -1 : 0;
}
template <class Stream>
static inline int cuda_attention_back(Stream s, const ag_attention_args *a, float *scratch) {
    if (attention_nothing(a)) return 0;
    if (attention_all_dots(s, a, scratch, 0)) return -1;
    if (a->HS <= 32) return attention_backward<32, 32, 64, 32>(s, a, scratch);
    if (a->HS <= 64) return attention_backward<64, 64, 64, 32>(s, a, scratch);
    if (a->HS <= 128) return attention_backward<128, 128, 32, 16>(s, a, scratch);
    return a->HS <= 256 ? attention_backward<256, 128, 16, 16>(s, a, scratch) : -1;
}

// ---- the host's side, bfloat16 --------------------------------------------------------------------------------------
// Products in bfloat16 for the shapes of training: no cache, and a head size of 64 or 128. All else is done in float32.
// scratch: cuda_attention_scratch_bf16(&args) bytes, aligned to 16, for either direction.
static inline int attention_takes_mma(const ag_attention_args *a) {
    return !a->k_cache && attention_vector(a) && (a->HS == 64 || a->HS == 128);
}
static inline size_t attention_positions(const ag_attention_args *a) { return (size_t)a->B * a->T; }
static inline size_t attention_half_bytes(const ag_attention_args *a, int heads) {
    return attention_positions(a) * heads * a->HS * sizeof(bf16);
}
static inline size_t cuda_attention_scratch_bf16(const ag_attention_args *a) {     // qkv and dy where rounded; D
    return (attention_takes_mma(a) ? attention_half_bytes(a, 2 * a->NH + 2 * a->NKV) : 0) + cuda_attention_scratch(a);
}
template <int HS, int COLS, class Stream>
static inline int attention_forward_mma(Stream s, const ag_attention_args *a, const bf16 *qkv) {
    size_t tiles = (size_t)cuda_tiles(a->T, ATTENTION_MMA_ROWS);
    size_t bytes = (ATTENTION_MMA_ROWS + 2 * COLS) * HS * sizeof(bf16);
    return attention_launch(s, attention_mma<HS, COLS>, tiles, (size_t)a->B * a->NH, ATTENTION_MMA_THREADS, bytes, qkv,
                            *a, attention_scale(a));
}
template <class Stream>
static inline int cuda_attention_bf16(Stream s, const ag_attention_args *a, void *scratch) {
    if (!attention_takes_mma(a)) return cuda_attention(s, a);
    if (attention_nothing(a)) return 0;
    bf16 *qkv = (bf16 *)scratch;
    if (attention_launch(s, attention_round, attention_positions(a), 1, 128, 0, qkv, a->qkv,
                         (a->NH + 2 * a->NKV) * a->HS, *a)) return -1;
    return a->HS == 64 ? attention_forward_mma<64, 64>(s, a, qkv) : attention_forward_mma<128, 64>(s, a, qkv);
}
template <int HS, int COLS, class Stream>
static inline int attention_backward_mma(Stream s, const ag_attention_args *a, const bf16 *qkv, const bf16 *dy,
                                         const float *D) {
    size_t tiles = (size_t)cuda_tiles(a->T, ATTENTION_MMA_ROWS), B = (size_t)a->B;
    size_t bytes = (2 * ATTENTION_MMA_ROWS + 4 * COLS) * HS * sizeof(bf16) + 4 * COLS * sizeof(float);
    return attention_launch(s, attention_back_mma<HS, COLS, false>, tiles, B * a->NH, ATTENTION_MMA_THREADS, bytes, qkv,
                            dy, *a, D, attention_scale(a)) ||
           attention_launch(s, attention_back_mma<HS, COLS, true>, tiles, B * a->NKV, ATTENTION_MMA_THREADS, bytes, qkv,
                            dy, *a, D, attention_scale(a)) ? -1 : 0;
}
template <class Stream>
static inline int cuda_attention_back_bf16(Stream s, const ag_attention_args *a, void *scratch) {
    if (!attention_takes_mma(a)) return cuda_attention_back(s, a, (float *)scratch);
    if (attention_nothing(a)) return 0;
    int width = (a->NH + 2 * a->NKV) * a->HS;
    char *at = (char *)scratch;
    bf16 *qkv = (bf16 *)at, *dy = (bf16 *)(at + attention_half_bytes(a, a->NH + 2 * a->NKV));
    float *D = (float *)(at + attention_half_bytes(a, 2 * a->NH + 2 * a->NKV));
    if (attention_launch(s, attention_round, attention_positions(a), 1, 128, 0, qkv, a->qkv, width, *a) ||
        attention_launch(s, attention_round, attention_positions(a), 1, 128, 0, dy, a->dy, a->NH * a->HS, *a) ||
        attention_all_dots(s, a, D, 1)) return -1;
    return a->HS == 64 ? attention_backward_mma<64, 64>(s, a, qkv, dy, D)
                       : attention_backward_mma<128, 32>(s, a, qkv, dy, D);
}
#endif
