// cuBLAS and NCCL as cublas_on_cpu.h and nccl_on_cpu.h make them on the CPU, compared with plain C; and wrong uses,
// each of which has to be reported. Right uses may not say a word: tests/cuda/libraries.sh runs them in each build and
// with five seeds.
//     build/cuda/libraries                    the right uses
//     build/cuda/libraries count              how many wrong uses there are
//     build/cuda/libraries show N             the name of one, the words of its report, and without or with the checker
//     build/cuda/libraries N                  runs it; ends with 0 if nobody noticed
// "WRONG" is this program's own word for a result that is not what it should be.
#include "cublas_on_cpu.h"
#include "nccl_on_cpu.h"
#include "../test.h"
#include "device.h"

typedef __nv_bfloat16 bf16;
static const float one = 1, zero = 0;

static std::vector<bf16> rounded(std::vector<float> &x) {           // also what is given
    std::vector<bf16> y(x.size());
    for (size_t i = 0; i < x.size(); i++) y[i] = __float2bfloat16(x[i]), x[i] = __bfloat162float(y[i]);
    return y;
}
__global__ void scale(float *x, float by, int n) {
    for (int i = (int)threadIdx.x; i < n; i += (int)blockDim.x) x[i] *= by;
}

// ---- right uses of cuBLAS -------------------------------------------------------------------------------------------
// One (m,n) = 0.5 op(a) op(b) + beta c with spare rows in each matrix, for both types and all four transpositions.
static void product(bool ta, bool tb, bool half, float beta) {
    const int m = 9, n = 7, k = 12, lda = 16, ldb = 24, ldc = 16;
    const float alpha = 0.5f;
    std::vector<float> a = numbers((size_t)lda * 16, 1), b = numbers((size_t)ldb * 16, 2), c = numbers(ldc * n, 3);
    std::vector<bf16> a16 = rounded(a), b16 = rounded(b);
    float *fa = upload(a), *fb = upload(b), *dc = upload(c);
    bf16 *ha = upload(a16), *hb = upload(b16);
    cublasHandle_t handle;
    cublasCreate(&handle);
    cudaDataType_t type = half ? CUDA_R_16BF : CUDA_R_32F;
    const void *pa = half ? (const void *)ha : fa, *pb = half ? (const void *)hb : fb;
    cublasGemmEx(handle, ta ? CUBLAS_OP_T : CUBLAS_OP_N, tb ? CUBLAS_OP_T : CUBLAS_OP_N, m, n, k, &alpha, pa, type, lda,
                 pb, type, ldb, &beta, dc, CUDA_R_32F, ldc, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    std::vector<float> got = download(dc, c.size());
    for (int j = 0; j < n; j++)
        for (int i = 0; i < ldc; i++) {
            double s = 0;
            for (int l = 0; l < k; l++)
                s += (double)a[ta ? i * lda + l : l * lda + i] * b[tb ? l * ldb + j : j * ldb + l];
            double old = c[j * ldc + i];
            CHECK_NEAR(got[j * ldc + i], i < m ? alpha * s + beta * old : old, 1e-5);
        }
    cublasDestroy(handle);
    for (float *p : {fa, fb, dc}) cudaFree(p);
    for (bf16 *p : {ha, hb}) cudaFree(p);
}
static void products(void) {
    for (int i = 0; i < 16; i++) product(i & 1, i & 2, i & 4, i & 8 ? -2.0f : 0.0f);
}

// Heads of attention: the matrices of a batch lie side by side in the rows of one, and C is fresh memory.
static void batch_of_heads(void) {
    const int T = 8, H = 3, D = 8, C = H * D;
    std::vector<float> q = numbers(T * C, 1), k = numbers(T * C, 2);
    std::vector<bf16> q16 = rounded(q), k16 = rounded(k);
    bf16 *dq = upload(q16), *dk = upload(k16), *scores = nullptr, *sums = nullptr;
    cudaMalloc(&scores, H * T * T * sizeof(bf16));
    cudaMalloc(&sums, T * C * sizeof(bf16));
    cublasHandle_t handle;
    cublasCreate(&handle);
    // row-major scores (H,T,T) = q (T,D) k (T,D)^T of each head
    cublasGemmStridedBatchedEx(handle, CUBLAS_OP_T, CUBLAS_OP_N, T, T, D, &one, dk, CUDA_R_16BF, C, D, dq, CUDA_R_16BF,
                               C, D, &zero, scores, CUDA_R_16BF, T, T * T, H, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    // row-major sums (T,H,D) = scores (T,T) k (T,D): here the products of the batch interleave in C
    cublasGemmStridedBatchedEx(handle, CUBLAS_OP_N, CUBLAS_OP_N, D, T, T, &one, dk, CUDA_R_16BF, C, D, scores,
                               CUDA_R_16BF, T, T * T, &zero, sums, CUDA_R_16BF, C, D, H, CUBLAS_COMPUTE_32F,
                               CUBLAS_GEMM_DEFAULT);
    std::vector<bf16> got = download(scores, H * T * T), total = download(sums, T * C);
    for (int h = 0; h < H; h++)
        for (int t = 0; t < T; t++) {
            std::vector<double> sum(D, 0.0);
            for (int u = 0; u < T; u++) {
                double s = 0;
                for (int d = 0; d < D; d++) s += (double)q[t * C + h * D + d] * k[u * C + h * D + d];
                CHECK_NEAR((float)got[(h * T + t) * T + u], s, 0.005 * (1 + fabs(s)));
                for (int d = 0; d < D; d++)
                    sum[(size_t)d] += (double)(float)got[(h * T + t) * T + u] * k[u * C + h * D + d];
            }
            for (int d = 0; d < D; d++) CHECK_NEAR((float)total[t * C + h * D + d], sum[(size_t)d], 0.3);
        }
    cublasDestroy(handle);
    for (bf16 *p : {dq, dk, scores, sums}) cudaFree(p);
}

// 1 + 2^-12 is a float32 and no TF32.
static void reduced_precision(void) {
    float fine = 1 + 1 / 4096.0f;
    float *a = upload(std::vector<float>(1, fine)), *b = upload(std::vector<float>(1, 1.0f)), *c = nullptr;
    cudaMalloc(&c, sizeof(float));
    cublasHandle_t handle;
    cublasCreate(&handle);
    for (int round = 0; round < 3; round++) {
        cublasComputeType_t compute = round == 1 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
        cublasSetMathMode(handle, round == 2 ? CUBLAS_TF32_TENSOR_OP_MATH : CUBLAS_DEFAULT_MATH);
        cublasGemmEx(handle, CUBLAS_OP_N, CUBLAS_OP_N, 1, 1, 1, &one, a, CUDA_R_32F, 1, b, CUDA_R_32F, 1, &zero, c,
                     CUDA_R_32F, 1, compute, CUBLAS_GEMM_DEFAULT);
        CHECK(download(c, 1)[0] == (round ? 1.0f : fine));
    }
    cublasDestroy(handle);
    for (float *p : {a, b, c}) cudaFree(p);
}

// Kernels and products in one stream follow each other; a graph replays them. alpha is read when the call is made.
static void in_a_stream(void) {
    const int n = 8;
    std::vector<float> x = numbers(n * n, 1);
    float *a = upload(x), *b = upload(x), *c = upload(x), *workspace = nullptr, *pinned = nullptr;
    cudaMalloc(&workspace, 4096);
    cudaMallocHost(&pinned, n * n * sizeof(float));
    cudaStream_t stream;
    cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    cudaDeviceSynchronize();
    cublasHandle_t handle;
    cublasCreate(&handle);
    cublasSetStream(handle, stream);
    cublasSetWorkspace(handle, workspace, 4096);
    cudaGraph_t graph;
    cudaGraphExec_t runnable;
    for (int captured = 0; captured < 2; captured++) {
        if (captured) cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal);
        float alpha = 1;
        launch(scale, 1, 32, 0, stream, a, 2.0f, n * n);
        cublasGemmEx(handle, CUBLAS_OP_N, CUBLAS_OP_N, n, n, n, &alpha, a, CUDA_R_32F, n, b, CUDA_R_32F, n, &zero, c,
                     CUDA_R_32F, n, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
        alpha = 0;
        launch(scale, 1, 32, 0, stream, c, 0.5f, n * n);
    }
    cudaStreamEndCapture(stream, &graph);
    cudaGraphInstantiate(&runnable, graph, 0);
    cudaGraphLaunch(runnable, stream);              // a is 4 x by now
    cudaMemcpyAsync(pinned, c, n * n * sizeof(float), cudaMemcpyDeviceToHost, stream);
    cudaStreamSynchronize(stream);
    for (int j = 0; j < n; j++)
        for (int i = 0; i < n; i++) {
            double s = 0;
            for (int l = 0; l < n; l++) s += 2.0 * x[l * n + i] * x[j * n + l];
            CHECK_NEAR(pinned[j * n + i], s, 1e-4);
        }
    cudaGraphExecDestroy(runnable);
    cudaGraphDestroy(graph);
    cublasDestroy(handle);
    cudaStreamDestroy(stream);
    for (float *p : {a, b, c, workspace}) cudaFree(p);
    cudaFreeHost(pinned);
}

// ---- right uses of NCCL ---------------------------------------------------------------------------------------------
enum { RANKS = 2, COUNT = 12 };
static ncclComm_t comm[RANKS];
static cudaStream_t stream[RANKS];
static float *x[RANKS], *y[RANKS];                  // RANKS * COUNT numbers each; y is fresh

static float start_value(int rank, int i) { return (float)(100 * rank + i); }
static bool begin_ranks(void) {
    int devices = 0;
    cudaGetDeviceCount(&devices);
    if (devices < RANKS || ncclCommInitAll(comm, RANKS, NULL) != ncclSuccess) return false;
    for (int r = 0; r < RANKS; r++) {
        cudaSetDevice(r);
        std::vector<float> host(RANKS * COUNT);
        for (int i = 0; i < RANKS * COUNT; i++) host[(size_t)i] = start_value(r, i);
        x[r] = upload(host);
        cudaMalloc(&y[r], host.size() * sizeof(float));
        cudaStreamCreateWithFlags(&stream[r], cudaStreamNonBlocking);
        cudaDeviceSynchronize();
    }
    return true;
}
static void end_ranks(void) {
    for (int r = 0; r < RANKS; r++) {
        cudaSetDevice(r);
        ncclCommDestroy(comm[r]);
        cudaStreamDestroy(stream[r]);
        cudaFree(x[r]);
        cudaFree(y[r]);
    }
    cudaSetDevice(0);
}
static std::vector<float> of_rank(int r, const float *p, int n) {
    cudaSetDevice(r);
    cudaStreamSynchronize(stream[r]);
    std::vector<float> host = download(p, (size_t)n);
    cudaSetDevice(0);
    return host;
}

// A step of training on several devices: gradients, their mean, an update; the host waits only at the end.
static void all_reduce(void) {
    if (!begin_ranks()) return;
    for (int r = 0; r < RANKS; r++) {
        cudaSetDevice(r);
        launch(scale, 1, 32, 0, stream[r], x[r], 2.0f, COUNT);
    }
    ncclGroupStart();
    for (int r = 0; r < RANKS; r++) ncclAllReduce(x[r], x[r], COUNT, ncclFloat, ncclAvg, comm[r], stream[r]);
    ncclGroupEnd();
    for (int r = 0; r < RANKS; r++) {
        cudaSetDevice(r);
        launch(scale, 1, 32, 0, stream[r], x[r], 0.5f, COUNT);
    }
    for (int r = 0; r < RANKS; r++) {
        std::vector<float> got = of_rank(r, x[r], COUNT);
        for (int i = 0; i < COUNT; i++) CHECK(got[(size_t)i] == (start_value(0, i) + start_value(1, i)) / 2);
    }
    end_ranks();
}
// ZeRO (Rajbhandari et al. 2020): each rank sums its part of the gradients; later all get all parts. In place and not;
// two calls in a group, made by one rank after the other.
static void scatter_and_gather(void) {
    if (!begin_ranks()) return;
    ncclGroupStart();
    for (int r = 0; r < RANKS; r++) {
        ncclReduceScatter(x[r], y[r] + r * COUNT, COUNT, ncclFloat, ncclSum, comm[r], stream[r]);
        ncclAllGather(y[r] + r * COUNT, y[r], COUNT, ncclFloat, comm[r], stream[r]);
    }
    ncclGroupEnd();
    for (int r = 0; r < RANKS; r++) {
        std::vector<float> got = of_rank(r, y[r], RANKS * COUNT);
        for (int i = 0; i < RANKS * COUNT; i++) CHECK(got[(size_t)i] == start_value(0, i) + start_value(1, i));
    }
    ncclGroupStart();
    for (int r = 0; r < RANKS; r++)
        ncclReduceScatter(y[r], y[r] + r * COUNT, COUNT, ncclFloat, ncclAvg, comm[r], stream[r]);
    ncclGroupEnd();
    for (int r = 0; r < RANKS; r++) {
        std::vector<float> got = of_rank(r, y[r] + r * COUNT, COUNT);
        for (int i = 0; i < COUNT; i++)
            CHECK(got[(size_t)i] == start_value(0, r * COUNT + i) + start_value(1, r * COUNT + i));
    }
    end_ranks();
}
// The parameters of rank 1 for all, in bfloat16, then a sum of them: 100.5 + 100.5 needs its last bit.
static void broadcast(void) {
    if (!begin_ranks()) return;
    bf16 *half[RANKS];
    for (int r = 0; r < RANKS; r++) {
        cudaSetDevice(r);
        std::vector<float> value(COUNT, r ? 100.5f : 0.0f);
        half[r] = upload(rounded(value));
        cudaDeviceSynchronize();
    }
    cudaSetDevice(0);
    ncclGroupStart();
    ncclGroupStart();                               // groups nest; the outermost end counts
    for (int r = 0; r < RANKS; r++)                 // where rank 0 would send from is nobody's business
        ncclBroadcast(r ? half[r] : half[r] + 1, half[r], COUNT, ncclBfloat16, 1, comm[r], stream[r]);
    ncclGroupEnd();
    for (int r = 0; r < RANKS; r++) ncclAllReduce(half[r], half[r], COUNT, ncclBfloat16, ncclSum, comm[r], stream[r]);
    ncclGroupEnd();
    for (int r = 0; r < RANKS; r++) {
        cudaSetDevice(r);
        cudaStreamSynchronize(stream[r]);
        for (bf16 h : download(half[r], COUNT)) CHECK((float)h == 201);
        cudaFree(half[r]);
    }
    end_ranks();
}
static void one_rank_alone(void) {
    ncclComm_t alone;
    int two[2] = {0, 0}, device = 0;
    ncclComm_t none[2];
    CHECK(ncclCommInitAll(none, 2, two) != ncclSuccess);            // two ranks on one device
    CHECK(ncclCommInitAll(&alone, 1, &device) == ncclSuccess);
    float *p = upload(numbers(COUNT, 1));
    ncclAllReduce(p, p, COUNT, ncclFloat, ncclAvg, alone, 0);       // without a group
    std::vector<float> got = download(p, COUNT), want = numbers(COUNT, 1);
    for (size_t i = 0; i < COUNT; i++) CHECK(got[i] == want[i]);
    cudaFree(p);
    ncclCommDestroy(alone);
}

// ---- wrong uses of cuBLAS: a and b hold 8 * 8 numbers, c as many that nobody has written ----------------------------
static cublasHandle_t blas;
static float *a, *b, *c;
static bool wrong;
static void multiply(const void *pa, int lda, void *pc, int k = 8) {
    cublasGemmEx(blas, CUBLAS_OP_N, CUBLAS_OP_N, 8, 8, k, &one, pa, CUDA_R_32F, lda, b, CUDA_R_32F, 8, &zero, pc,
                 CUDA_R_32F, 8, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
}
static void control(void) { multiply(a, 8, c); }
static void leading_too_small(void) { multiply(a, 7, c); }
static void operand_too_short(void) { multiply(a, 9, c); }
static void result_too_long(void) { multiply(a, 8, c + 1); }
static void host_operand(void) { float host[64] = {0}; multiply(host, 8, c); }
static void result_in_place(void) { multiply(a, 8, a); }
static void freed_operand(void) {
    float *gone = upload(numbers(64, 1));
    cudaFree(gone);
    multiply(gone, 8, c);
}
static void operand_elsewhere(void) {
    cudaSetDevice(1);
    float *other = upload(numbers(64, 1));
    cudaSetDevice(0);
    multiply(other, 8, c);
}
static void handle_elsewhere(void) { cudaSetDevice(1); multiply(a, 8, c); }
static void handle_destroyed(void) {
    cublasHandle_t gone = blas;
    cublasDestroy(gone);
    multiply(a, 8, c);
}
static void batch_overlaps(void) {                  // each product has 4 * 4 numbers, 15 apart
    cublasGemmStridedBatchedEx(blas, CUBLAS_OP_N, CUBLAS_OP_N, 4, 4, 4, &one, a, CUDA_R_32F, 4, 16, b, CUDA_R_32F, 4,
                               16, &zero, c, CUDA_R_32F, 4, 15, 4, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
}
static void mixed_types(void) {
    cublasGemmEx(blas, CUBLAS_OP_N, CUBLAS_OP_N, 8, 8, 8, &one, a, CUDA_R_16BF, 8, b, CUDA_R_32F, 8, &zero, c,
                 CUDA_R_32F, 8, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
}
static void scalar_on_device(void) {
    cublasGemmEx(blas, CUBLAS_OP_N, CUBLAS_OP_N, 8, 8, 8, a, a, CUDA_R_32F, 8, b, CUDA_R_32F, 8, &zero, c,
                 CUDA_R_32F, 8, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
}
static void odd_address(void) { multiply((char *)a + 2, 8, c, 4); }
static void workspace_unaligned(void) { cublasSetWorkspace(blas, a + 1, 128); }
static void compare(const float *got, float want) {
    for (int i = 0; i < COUNT && !wrong; i++) {
        wrong = !(got[i] == want);
        if (wrong) printf("WRONG: element %d is %g, not %g\n", i, got[i], want);
    }
}
static void unwritten_operand(void) {               // c is fresh, and beta is not zero
    cublasGemmEx(blas, CUBLAS_OP_N, CUBLAS_OP_N, 8, 8, 8, &zero, a, CUDA_R_32F, 8, b, CUDA_R_32F, 8, &one, c,
                 CUDA_R_32F, 8, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    compare(download(c, 64).data(), 0);
}
static void slow_rows(void) {                       // says so, if it is asked, and is right
    bf16 *half = nullptr;
    cudaMalloc(&half, 3 * 64 * sizeof(bf16));
    cudaMemset(half, 0, 3 * 64 * sizeof(bf16));
    cublasGemmEx(blas, CUBLAS_OP_N, CUBLAS_OP_N, 7, 8, 8, &one, half, CUDA_R_16BF, 7, half + 64, CUDA_R_16BF, 8, &zero,
                 half + 128, CUDA_R_16BF, 8, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    cudaFree(half);
    wrong = getenv("CUDA_ON_CPU_REPORT") != NULL;
}
static void no_stream_set(void) {                   // the product is in the null stream; this one waits for no other
    float *pinned = nullptr;
    cudaStream_t own;
    cudaMallocHost(&pinned, 64 * sizeof(float));
    cudaStreamCreateWithFlags(&own, cudaStreamNonBlocking);
    cudaMemset(a, 0, 64 * sizeof(float));
    cudaMemset(c, 0xff, 64 * sizeof(float));
    cudaDeviceSynchronize();
    multiply(a, 8, c);
    cudaMemcpyAsync(pinned, c, 64 * sizeof(float), cudaMemcpyDeviceToHost, own);
    cudaStreamSynchronize(own);
    compare(pinned, 0);
    cudaFreeHost(pinned);
    cudaStreamDestroy(own);
}

// ---- wrong uses of NCCL ---------------------------------------------------------------------------------------------
static void reduce(int rank, size_t count) {
    ncclAllReduce(x[rank], x[rank], count, ncclFloat, ncclSum, comm[rank], stream[rank]);
}
static void no_group(void) { for (int r = 0; r < RANKS; r++) reduce(r, COUNT); }
static void rank_forgotten(void) { ncclGroupStart(); reduce(1, COUNT); ncclGroupEnd(); }
static void group_not_closed(void) { ncclGroupStart(); for (int r = 0; r < RANKS; r++) reduce(r, COUNT); }
static void end_without_start(void) { ncclGroupEnd(); }
static void counts_differ(void) { ncclGroupStart(); reduce(0, COUNT); reduce(1, COUNT - 1); ncclGroupEnd(); }
static void gather(int r) { ncclAllGather(x[r], y[r], COUNT, ncclFloat, comm[r], stream[r]); }
static void order_differs(void) {
    ncclGroupStart();
    reduce(0, COUNT), gather(0);
    gather(1), reduce(1, COUNT);
    ncclGroupEnd();
}
static void operators_differ(void) {
    ncclGroupStart();
    reduce(0, COUNT);
    ncclAllReduce(x[1], x[1], COUNT, ncclFloat, ncclAvg, comm[1], stream[1]);
    ncclGroupEnd();
}
static void roots_differ(void) {
    ncclGroupStart();
    for (int r = 0; r < RANKS; r++) ncclBroadcast(x[r], x[r], COUNT, ncclFloat, r, comm[r], stream[r]);
    ncclGroupEnd();
}
static void receive_too_short(void) {               // the receive buffer has to hold the parts of all ranks
    ncclGroupStart();
    for (int r = 0; r < RANKS; r++) ncclAllGather(x[r], y[r] + 1, COUNT, ncclFloat, comm[r], stream[r]);
    ncclGroupEnd();
}
static void partly_in_place(void) {
    ncclGroupStart();
    for (int r = 0; r < RANKS; r++) ncclAllGather(x[r], x[r], COUNT, ncclFloat, comm[r], stream[r]);
    ncclGroupEnd();
}
static void buffers_swapped(void) {
    ncclGroupStart();
    for (int r = 0; r < RANKS; r++) ncclAllReduce(x[1 - r], x[1 - r], COUNT, ncclFloat, ncclSum, comm[r], stream[r]);
    ncclGroupEnd();
}
static void streams_swapped(void) {
    ncclGroupStart();
    for (int r = 0; r < RANKS; r++) ncclAllReduce(x[r], x[r], COUNT, ncclFloat, ncclSum, comm[r], stream[1 - r]);
    ncclGroupEnd();
}
static void rank_destroyed(void) {
    ncclComm_t gone = comm[1];
    ncclCommDestroy(gone);
    ncclGroupStart();
    reduce(0, COUNT);
    ncclGroupEnd();
}
static void unwritten_gradient(void) {
    ncclGroupStart();
    for (int r = 0; r < RANKS; r++) ncclAllReduce(y[r], y[r], COUNT, ncclFloat, ncclSum, comm[r], stream[r]);
    ncclGroupEnd();
    compare(of_rank(0, y[0], COUNT).data(), 0);
}
static void reduce_in_another_stream(void) {        // no event: the mean may be taken before the gradients are there
    cudaMemsetAsync(x[0], 0, COUNT * sizeof(float), 0);
    ncclGroupStart();
    for (int r = 0; r < RANKS; r++) ncclAllReduce(x[r], x[r], COUNT, ncclFloat, ncclSum, comm[r], stream[r]);
    ncclGroupEnd();
    std::vector<float> got = of_rank(1, x[1], COUNT);
    for (int i = 0; i < COUNT; i++) got[(size_t)i] -= start_value(1, i);
    compare(got.data(), 0);
}

struct Wrong { void (*run)(); bool nccl; const char *name, *words, *checker; };
static const Wrong uses[] = {
    {control, false, "none: the control", "-", "-"},
    {leading_too_small, false, "leading dimension too small", "leading dimension of A is 7", ""},
    {operand_too_short, false, "operand too short for its leading dimension", "A leaves its allocation", ""},
    {result_too_long, false, "result behind its allocation", "C leaves its allocation", ""},
    {host_operand, false, "operand on the host", "is host memory", ""},
    {result_in_place, false, "result in the place of an operand", "C overlaps A", ""},
    {freed_operand, false, "operand that was freed", "A was freed at tests/cuda/libraries.cu", ""},
    {operand_elsewhere, false, "operand on another device", "A is memory of device 1", ""},
    {handle_elsewhere, false, "handle of another device", "handle belongs to device 0", ""},
    {handle_destroyed, false, "handle that was destroyed", "no such handle", ""},
    {batch_overlaps, false, "overlapping results in a batch", "C overlaps itself", ""},
    {mixed_types, false, "types that are not multiplied", "no product of these types", ""},
    {scalar_on_device, false, "alpha in device memory", "alpha or beta lies in device memory", ""},
    {odd_address, false, "address between two numbers", "is not aligned to 4 bytes", ""},
    {workspace_unaligned, false, "workspace that is not aligned", "not aligned to 256 bytes", ""},
    {unwritten_operand, false, "beta times fresh memory", "WRONG", "UNINITIALISED: it reads bytes of C"},
    {no_stream_set, false, "missing cublasSetStream", "WRONG", ""},
    {no_group, true, "one thread, and no group", "rank 1 never makes this call", ""},
    {rank_forgotten, true, "a rank is forgotten", "rank 0 never makes this call", ""},
    {group_not_closed, true, "a group that is not closed", "has no ncclGroupEnd", ""},
    {end_without_start, true, "the end of no group", "without ncclGroupStart", ""},
    {counts_differ, true, "counts differ", "with a count of 12, rank 1", ""},
    {order_differs, true, "calls in different orders", "rank 0 makes ncclAllReduce at", ""},
    {operators_differ, true, "operators differ", "another operator than", ""},
    {roots_differ, true, "roots differ", "another root than", ""},
    {receive_too_short, true, "receive buffer too short", "the receive buffer leaves its allocation", ""},
    {partly_in_place, true, "buffers that overlap", "is not in place", ""},
    {buffers_swapped, true, "buffer of another device", "the send buffer is memory of device 1", ""},
    {streams_swapped, true, "stream of another device", "belongs to device 1", ""},
    {rank_destroyed, true, "communicator that was destroyed", "no such communicator", ""},
    {unwritten_gradient, true, "fresh memory is summed", "WRONG", "UNINITIALISED"},
    {reduce_in_another_stream, true, "missing event before a collective", "WRONG", ""},
};
static int run_wrong(const Wrong &use) {
    if (use.nccl && !begin_ranks()) return printf("two devices are needed\n"), 0;
    cudaSetDevice(0);
    if (!use.nccl) {
        a = upload(numbers(64, 1)), b = upload(numbers(64, 2));
        cudaMalloc(&c, 64 * sizeof(float));
        cublasCreate(&blas);
    }
    use.run();
    if (use.nccl) end_ranks();
    else {
        cublasDestroy(blas);
        for (float *p : {a, b, c}) cudaFree(p);
    }
    return wrong ? 3 : 0;
}

int main(int argc, char **argv) {
    const int count = (int)(sizeof uses / sizeof *uses);
    if (argc > 1 && !strcmp(argv[1], "count")) return printf("%d\n", count), 0;
    if (argc > 1 && !strcmp(argv[1], "slow")) return run_wrong({slow_rows, false, "", "", ""});
    bool show = argc > 2 && !strcmp(argv[1], "show");
    if (show || (argc > 1 && argv[1][0] >= '0' && argv[1][0] <= '9')) {
        int n = atoi(argv[show ? 2 : 1]);
        if (n >= count) return printf("there is no wrong use %d\n", n), 2;
        const Wrong &use = uses[n];
        if (!show) return run_wrong(use);
        return printf("%s|%s|%s\n", use.name, use.words, *use.checker ? use.checker : use.words), 0;
    }
    T_BEGIN("libraries");
    T_RUN(products);
    T_RUN(batch_of_heads);
    T_RUN(reduced_precision);
    T_RUN(in_a_stream);
    T_RUN(all_reduce);
    T_RUN(scatter_and_gather);
    T_RUN(broadcast);
    T_RUN(one_rank_alone);
    return T_END();
}
