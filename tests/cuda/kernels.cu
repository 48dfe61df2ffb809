// Small kernels that are right, compared with plain C. The same file is built for a GPU by nvcc, and for the CPU plain,
// with sanitizers and with the checker (tests/test_cuda.sh): none of them may complain, whatever the seed.
//     g++ -std=c++17 -g -O1 -x c++ -Icuda tests/cuda/kernels.cu -o build/cuda/kernels && build/cuda/kernels
#include "tensor_core.h"
#include "../test.h"
#include "device.h"

// ---- one thread per element -----------------------------------------------------------------------------------------
__global__ void add(float *y, const float *a, const float *b, int n) {
    for (int i = (int)(blockIdx.x * blockDim.x + threadIdx.x); i < n; i += (int)(gridDim.x * blockDim.x))
        y[i] = a[i] + b[i];
}
static void vector_add(void) {
    const int n = 1000;
    std::vector<float> a = numbers(n, 1), b = numbers(n, 3);
    float *da = upload(a), *db = upload(b), *dy = nullptr;
    cudaMalloc(&dy, n * sizeof(float));
    launch(add, 3, 128, 0, 0, dy, da, db, n);
    std::vector<float> y = download_and_free(dy, n);
    for (int i = 0; i < n; i++) CHECK(y[i] == a[i] + b[i]);
    cudaFree(da);
    cudaFree(db);
}

// ---- a sum: lanes, then warps, then blocks --------------------------------------------------------------------------
__device__ inline float warp_sum(float v) {
    for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
    return v;
}
__global__ void sum(float *total, const float *x, int n) {
    __shared__ float part[32];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float v = 0;
    for (int i = (int)(blockIdx.x * blockDim.x + threadIdx.x); i < n; i += (int)(gridDim.x * blockDim.x)) v += x[i];
    v = warp_sum(v);
    if (lane == 0) part[warp] = v;
    __syncthreads();
    if (warp == 0) {
        v = warp_sum(lane < (int)blockDim.x / 32 ? part[lane] : 0.0f);
        if (lane == 0) atomicAdd(total, v);
    }
}
static void reduction(void) {
    const int n = 5000;
    std::vector<float> x = numbers(n, 1);
    double want = 0;
    for (float v : x) want += v;
    float *dx = upload(x), *total = nullptr;
    cudaMalloc(&total, sizeof(float));
    cudaMemset(total, 0, sizeof(float));
    launch(sum, 4, 256, 0, 0, total, dx, n);
    CHECK_NEAR(download_and_free(total, 1)[0], want, 1e-3);
    cudaFree(dx);
}

// ---- through a padded tile: both sides of the copy touch neighbouring addresses -------------------------------------
__global__ void transpose(float *y, const float *x, int rows, int columns) {
    __shared__ float tile[32][33];
    int r = (int)(blockIdx.y * 32 + threadIdx.y), c = (int)(blockIdx.x * 32 + threadIdx.x);
    for (int i = 0; i < 32; i += 8)
        if (r + i < rows && c < columns) tile[threadIdx.y + i][threadIdx.x] = x[(size_t)(r + i) * columns + c];
    __syncthreads();
    r = (int)(blockIdx.x * 32 + threadIdx.y), c = (int)(blockIdx.y * 32 + threadIdx.x);
    for (int i = 0; i < 32; i += 8)
        if (r + i < columns && c < rows) y[(size_t)(r + i) * rows + c] = tile[threadIdx.x][threadIdx.y + i];
}
static void transposition(void) {
    const int rows = 45, columns = 70;
    std::vector<float> x = numbers(rows * columns, 1);
    float *dx = upload(x), *dy = nullptr;
    cudaMalloc(&dy, x.size() * sizeof(float));
    launch(transpose, dim3(3, 2), dim3(32, 8), 0, 0, dy, dx, rows, columns);
    std::vector<float> y = download_and_free(dy, x.size());
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c++) CHECK(y[c * rows + r] == x[r * columns + c]);
    cudaFree(dx);
}

// ---- c (M,N) = a (M,K) b (K,N), TILE x TILE at a time through shared memory -----------------------------------------
template <int TILE>
__global__ void matmul(float *c, const float *a, const float *b, int M, int N, int K) {
    __shared__ float as[TILE][TILE], bs[TILE][TILE];
    int tx = threadIdx.x, ty = threadIdx.y, m = (int)blockIdx.y * TILE + ty, n = (int)blockIdx.x * TILE + tx;
    float s = 0;
    for (int k0 = 0; k0 < K; k0 += TILE) {
        as[ty][tx] = m < M && k0 + tx < K ? a[(size_t)m * K + k0 + tx] : 0.0f;
        bs[ty][tx] = n < N && k0 + ty < K ? b[(size_t)(k0 + ty) * N + n] : 0.0f;
        __syncthreads();
        for (int k = 0; k < TILE; k++) s += as[ty][k] * bs[k][tx];
        __syncthreads();
    }
    if (m < M && n < N) c[(size_t)m * N + n] = s;
}
static void tiled_matmul(void) {
    const int M = 40, N = 35, K = 50;
    std::vector<float> a = numbers(M * K, 1), b = numbers(K * N, 2);
    float *da = upload(a), *db = upload(b), *dc = nullptr;
    cudaMalloc(&dc, M * N * sizeof(float));
    launch(matmul<16>, dim3(3, 3), dim3(16, 16), 0, 0, dc, da, db, M, N, K);
    std::vector<float> c = download_and_free(dc, M * N);
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++) {
            double s = 0;
            for (int k = 0; k < K; k++) s += (double)a[m * K + k] * b[k * N + n];
            CHECK_NEAR(c[m * N + n], s, 1e-4);
        }
    cudaFree(da);
    cudaFree(db);
}

// ---- softmax in one pass over the row: maximum and sum are corrected as larger values come --------------------------
__global__ void softmax(float *y, const float *x, int rows, int columns) {
    int row = (int)(blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32), lane = threadIdx.x % 32;
    if (row >= rows) return;                        // whole warps return, and no barrier follows
    float m = -INFINITY, s = 0;
    for (int i = lane; i < columns; i += 32) {
        float v = x[(size_t)row * columns + i], larger = fmaxf(m, v);
        s = s * __expf(m - larger) + __expf(v - larger);
        m = larger;
    }
    for (int o = 16; o; o >>= 1) {
        float m2 = __shfl_xor_sync(0xffffffffu, m, o), s2 = __shfl_xor_sync(0xffffffffu, s, o), larger = fmaxf(m, m2);
        if (larger == -INFINITY) continue;          // two lanes without an element
        s = s * __expf(m - larger) + s2 * __expf(m2 - larger);
        m = larger;
    }
    for (int i = lane; i < columns; i += 32)
        y[(size_t)row * columns + i] = __expf(x[(size_t)row * columns + i] - m) / s;
}
static void online_softmax(void) {
    const int rows = 7, columns = 75;
    std::vector<float> x = numbers(rows * columns, 20);
    float *dx = upload(x), *dy = nullptr;
    cudaMalloc(&dy, x.size() * sizeof(float));
    launch(softmax, 2, 128, 0, 0, dy, dx, rows, columns);
    std::vector<float> y = download_and_free(dy, x.size());
    for (int r = 0; r < rows; r++) {
        double s = 0;
        for (int i = 0; i < columns; i++) s += exp((double)x[r * columns + i]);
        for (int i = 0; i < columns; i++) CHECK_NEAR(y[r * columns + i], exp((double)x[r * columns + i]) / s, 1e-5);
    }
    cudaFree(dx);
}

// ---- c (M,N) = a (M,K) b (N,K)^T on tensor cores --------------------------------------------------------------------
// 64x64 outputs per block, four warps of 32x32, K in steps of 32 through two buffers that cp.async fills ahead. A row
// of a buffer is four chunks of 16 bytes; chunk c of row r lies at c ^ (r / 2 % 4), so that the eight rows which
// ldmatrix reads at a time lie in eight different groups of banks.
enum { BLOCK = 64, STEP = 32 };
__device__ inline int place(int row, int chunk) { return row * STEP + (chunk ^ (row >> 1 & 3)) * 8; }
typedef __nv_bfloat16 bf16;
__device__ inline void fetch(bf16 *as, bf16 *bs, const bf16 *a, const bf16 *b, int K) {
    for (int i = threadIdx.x; i < BLOCK * 4; i += blockDim.x) {
        int row = i / 4, chunk = i % 4;
        cp_async16(&as[place(row, chunk)], &a[(size_t)row * K + chunk * 8]);
        cp_async16(&bs[place(row, chunk)], &b[(size_t)row * K + chunk * 8]);
    }
    cp_async_commit();
}
__global__ void __launch_bounds__(128) matmul_bf16(float *c, const bf16 *a, const bf16 *b, int N, int K) {
    __shared__ __align__(128) bf16 as[2][BLOCK * STEP], bs[2][BLOCK * STEP];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, m0 = warp % 2 * 32, n0 = warp / 2 * 32;
    a += (size_t)blockIdx.y * BLOCK * K, b += (size_t)blockIdx.x * BLOCK * K;
    c += (size_t)blockIdx.y * BLOCK * N + blockIdx.x * BLOCK;
    float acc[2][4][4] = {};
    fetch(as[0], bs[0], a, b, K);
    for (int k0 = 0, s = 0; k0 < K; k0 += STEP, s ^= 1) {
        if (k0 + STEP < K) {
            fetch(as[s ^ 1], bs[s ^ 1], a + k0 + STEP, b + k0 + STEP, K);
            cp_async_wait<1>();
        } else cp_async_wait<0>();
        __syncthreads();
        for (int k = 0; k < 2; k++) {
            unsigned ra[2][4], rb[2][4];
            for (int i = 0; i < 2; i++) {
                ldmatrix_x4(ra[i], &as[s][place(m0 + i * 16 + lane % 16, k * 2 + lane / 16)]);
                ldmatrix_x4(rb[i], &bs[s][place(n0 + i * 16 + lane % 8 + lane / 16 * 8, k * 2 + lane / 8 % 2)]);
            }
            for (int i = 0; i < 2; i++)
                for (int j = 0; j < 4; j++) mma_bf16(acc[i][j], ra[i], &rb[j / 2][j % 2 * 2]);
        }
        __syncthreads();
    }
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 4; j++)
            for (int h = 0; h < 2; h++) {
                int m = m0 + i * 16 + lane / 4 + h * 8, n = n0 + j * 8 + lane % 4 * 2;
                float2 two = make_float2(acc[i][j][2 * h], acc[i][j][2 * h + 1]);
                *reinterpret_cast<float2 *>(&c[(size_t)m * N + n]) = two;
            }
}
static void tensor_core_matmul(void) {
    const int M = 64, N = 128, K = 96;
    std::vector<float> a = numbers(M * K, 1), b = numbers(N * K, 2);
    std::vector<bf16> a16(a.size()), b16(b.size());
    for (size_t i = 0; i < a.size(); i++) a16[i] = __float2bfloat16(a[i]), a[i] = __bfloat162float(a16[i]);
    for (size_t i = 0; i < b.size(); i++) b16[i] = __float2bfloat16(b[i]), b[i] = __bfloat162float(b16[i]);
    bf16 *da = upload(a16), *db = upload(b16);
    float *dc = nullptr;
    cudaMalloc(&dc, M * N * sizeof(float));
    launch(matmul_bf16, dim3(N / BLOCK, M / BLOCK), 128, 0, 0, dc, da, db, N, K);
    std::vector<float> c = download_and_free(dc, M * N);
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++) {
            double s = 0;
            for (int k = 0; k < K; k++) s += (double)a[m * K + k] * b[n * K + k];
            CHECK_NEAR(c[m * N + n], s, 1e-3);
        }
    cudaFree(da);
    cudaFree(db);
}

// ---- votes, dynamic shared memory, partial warps --------------------------------------------------------------------
__global__ void count_positive(int *out, const float *x, int n) {
    DYNAMIC_SHARED(int, flags);
    int i = threadIdx.x;
    unsigned lanes = i / 32 * 32 + 32 <= n ? 0xffffffffu : (1u << n % 32) - 1;
    flags[i] = x[i] > 0;
    unsigned ballot = __ballot_sync(lanes, flags[i]);
    int all = __all_sync(lanes, 1), any = __any_sync(lanes, 0), total = __syncthreads_count(flags[i]);
    if (i % 32 == 0) out[i / 32] = __popc(ballot) + 1000 * !all + 2000 * any;
    if (i == 0) {
        out[n / 32 + 1] = total;
        out[n / 32 + 2] = 0;
        for (int j = 0; j < n; j++) out[n / 32 + 2] += flags[j];
    }
}
static void votes(void) {
    const int n = 77;
    std::vector<float> x = numbers(n, 1);
    float *dx = upload(x);
    int *out = nullptr, want[3] = {0, 0, 0};
    cudaMalloc(&out, 5 * sizeof(int));
    cudaFuncSetAttribute(count_positive, cudaFuncAttributeMaxDynamicSharedMemorySize, 60000);
    launch(count_positive, 1, n, 60000, 0, out, dx, n);
    std::vector<int> got = download_and_free(out, 5);
    for (int i = 0; i < n; i++) want[i / 32] += x[i] > 0;
    for (int i = 0; i < 3; i++) CHECK_INT(got[i], want[i]);
    CHECK_INT(got[3], want[0] + want[1] + want[2]);
    CHECK_INT(got[4], got[3]);
    cudaFree(dx);
}

// ---- neighbours in a warp through shared memory, ordered by __syncwarp ----------------------------------------------
__global__ void neighbours(float *x) {
    __shared__ float s[64];
    int i = threadIdx.x;
    for (int step = 0; step < 3; step++) {
        s[i] = x[i];
        __syncwarp();
        x[i] = s[i] + s[i / 32 * 32 + (i + 1) % 32];
        __syncwarp();
    }
}
__global__ void uneven(float *x) {                  // one half of the warp has passed one barrier more
    __shared__ float s[32];
    int i = threadIdx.x;
    if (i < 16) __syncwarp(0x0000ffffu);            // spare
    s[i] = x[i];
    __syncwarp();
    x[i] = s[31 - i];
}
static void warp_barrier(void) {
    std::vector<float> x = numbers(64, 1), want = x;
    float *dx = upload(x);
    launch(neighbours, 1, 64, 0, 0, dx);
    for (int step = 0; step < 3; step++) {
        std::vector<float> old = want;
        for (int i = 0; i < 64; i++) want[i] = old[i] + old[i / 32 * 32 + (i + 1) % 32];
    }
    launch(uneven, 1, 32, 0, 0, dx);
    x = download_and_free(dx, 64);
    for (int i = 0; i < 64; i++) CHECK(x[i] == want[i < 32 ? 31 - i : i]);
}

// ---- constants and several devices ----------------------------------------------------------------------------------
__constant__ float factors[4];
__global__ void scale(float *x, int which) { x[threadIdx.x] *= factors[which]; }
static void constants(void) {
    float host[4] = {1, 2, 4, 8};
    std::vector<float> x = numbers(32, 1);
    float *dx = upload(x);
    cudaMemcpyToSymbol(factors, host, sizeof host);
    launch(scale, 1, 32, 0, 0, dx, 2);
    std::vector<float> y = download_and_free(dx, 32);
    for (int i = 0; i < 32; i++) CHECK(y[i] == 4 * x[i]);
    float back[2] = {0, 0};
    cudaMemcpyFromSymbol(back, factors, sizeof back, 2 * sizeof(float));
    CHECK(back[0] == 4 && back[1] == 8);
}
static void devices(void) {
    int count = 0;
    cudaGetDeviceCount(&count);
    if (count < 2) return;
    float *first = upload(numbers(32, 1)), *second = nullptr;
    cudaSetDevice(1);
    cudaMalloc(&second, 32 * sizeof(float));
    cudaMemcpyPeer(second, 1, first, 0, 32 * sizeof(float));
    launch(add, 1, 32, 0, 0, second, second, second, 32);
    std::vector<float> y = download_and_free(second, 32);
    cudaSetDevice(0);
    std::vector<float> x = download_and_free(first, 32);
    for (int i = 0; i < 32; i++) CHECK(y[i] == x[i] + x[i]);
}

// ---- two streams, an event between them, and the same as a graph ----------------------------------------------------
static void streams(void) {
    const int n = 256;
    float *a = nullptr, *b = nullptr, *pinned = nullptr, milliseconds = -1;
    cudaStream_t copies, work;
    cudaEvent_t copied, worked;
    cudaStreamCreateWithFlags(&copies, cudaStreamNonBlocking);
    cudaStreamCreateWithFlags(&work, cudaStreamNonBlocking);
    cudaEventCreate(&copied);
    cudaEventCreate(&worked);
    cudaMalloc(&a, n * sizeof(float));
    cudaMalloc(&b, n * sizeof(float));
    cudaMallocHost(&pinned, 2 * n * sizeof(float));
    for (int i = 0; i < 2 * n; i++) pinned[i] = (float)i;
    for (int round = 0; round < 3; round++) {
        cudaMemcpyAsync(a, pinned, n * sizeof(float), cudaMemcpyHostToDevice, copies);
        cudaEventRecord(copied, copies);
        cudaStreamWaitEvent(work, copied, 0);
        launch(add, 2, 64, 0, work, b, a, a, n);
        cudaEventRecord(worked, work);
        cudaStreamWaitEvent(copies, worked, 0);     // the next round overwrites a
        cudaMemcpyAsync(pinned + n, b, n * sizeof(float), cudaMemcpyDeviceToHost, copies);
        cudaStreamSynchronize(copies);
        for (int i = 0; i < n; i++) CHECK(pinned[n + i] == 2 * pinned[i]);
        for (int i = 0; i < n; i++) pinned[i] += 1;
    }
    CHECK(cudaEventQuery(worked) == cudaSuccess);
    CHECK(cudaEventElapsedTime(&milliseconds, copied, worked) == cudaSuccess && milliseconds >= 0);

    cudaGraph_t graph;
    cudaGraphExec_t runnable;
    cudaStreamBeginCapture(work, cudaStreamCaptureModeGlobal);
    launch(add, 2, 64, 0, work, a, a, b, n);        // a += b, twice per replay
    launch(add, 2, 64, 0, work, a, a, b, n);
    cudaStreamEndCapture(work, &graph);
    cudaGraphInstantiate(&runnable, graph, 0);
    cudaMemcpy(pinned, b, n * sizeof(float), cudaMemcpyDeviceToHost);
    cudaMemset(a, 0, n * sizeof(float));
    cudaDeviceSynchronize();
    cudaGraphLaunch(runnable, work);
    cudaGraphLaunch(runnable, work);
    cudaMemcpyAsync(pinned + n, a, n * sizeof(float), cudaMemcpyDeviceToHost, work);
    while (cudaStreamQuery(work) == cudaErrorNotReady) {}
    for (int i = 0; i < n; i++) CHECK(pinned[n + i] == 4 * pinned[i]);
    cudaGraphExecDestroy(runnable);
    cudaGraphDestroy(graph);
    cudaEventDestroy(copied);
    cudaEventDestroy(worked);
    cudaStreamDestroy(copies);
    cudaStreamDestroy(work);
    cudaFree(a);
    cudaFree(b);
    cudaFreeHost(pinned);
}

// ---- walks through memory; tests/cuda/traffic.sh looks at the checker's report of them ------------------------------
// y[i] = x[j], 16 blocks of 64 threads. What is j? 0: i. 1: a column for each block, 64 bytes from thread to thread.
// 2: the same with pairs. 3: as far apart as in 1, but the numbers between them are nobody's.
template <int WALK> __global__ void walk(float *y, const float *x) {
    int t = threadIdx.x, b = blockIdx.x, i = b * 64 + t;
    y[i] = x[WALK == 1 ? t * 16 + b : WALK == 2 ? (t / 2 * 16 + b) * 2 + t % 2 : WALK == 3 ? 16 * i : i];
}
static void walks(void) {
    const int n = 16 * 64;
    float *x = upload(numbers(16 * n, 1)), *y = nullptr;
    cudaMalloc(&y, n * sizeof(float));
    for (auto kernel : {walk<0>, walk<1>, walk<2>, walk<3>}) launch(kernel, 16, 64, 0, 0, y, x);
    CHECK(download_and_free(y, n)[1] == download_and_free(x, 17)[16]);
}

int main(int argc, char **argv) {
    T_BEGIN("kernels");
    T_RUN(vector_add);
    T_RUN(reduction);
    T_RUN(transposition);
    T_RUN(tiled_matmul);
    T_RUN(online_softmax);
    T_RUN(tensor_core_matmul);
    T_RUN(votes);
    T_RUN(warp_barrier);
    T_RUN(constants);
    T_RUN(devices);
    T_RUN(streams);
    T_RUN(walks);
    return T_END();
}
