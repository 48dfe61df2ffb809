/*
cublas_on_cpu.h - the matrix products of cuBLAS: under nvcc the library itself, on the CPU the same calls with the same
results, queued in their stream like kernels, and with checks.

    #include "cublas_on_cpu.h"          (instead of cublas_v2.h)
    nvcc -std=c++17 -Icuda prog.cu -lcublas                     on a GPU
    g++ -std=c++17 -g -Icuda -x c++ prog.cu                     on the CPU; the other builds of cuda_on_cpu.h too

EXAMPLE, row-major y (M,N) = x (M,K) w (N,K)^T, which to cuBLAS, whose matrices are column-major, is y^T = w x^T:
    cublasGemmEx(handle, CUBLAS_OP_T, CUBLAS_OP_N, N, M, K, &one, w, CUDA_R_32F, K, x, CUDA_R_32F, K,
                 &zero, y, CUDA_R_32F, N, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);

WHAT IT KNOWS      cublasCreate, Destroy, SetStream, SetWorkspace, SetMathMode, GetStatusString; cublasGemmEx and
cublasGemmStridedBatchedEx with A and B in float32 or both in bfloat16, C in float32 or, if they are, bfloat16. alpha
and beta are float32 in host memory. With TF32 the factors lose their last 13 bits, rounded to nearest.

WHAT IT FINDS      Leading dimensions that are too small; operands that leave their allocation, lie on another device or
on the host, were freed; C in the place of A, of B or of another product of its batch; a handle that belongs to another
device or to nobody; types that cuBLAS does not multiply; with the checker, operands that nobody has written.
With CUDA_ON_CPU_REPORT=1 it also says, once for each line of source, where columns of bfloat16 do not begin at
multiples of 16 bytes: cuBLAS then takes slower kernels (its documentation, "Tensor Core Usage"); a vocabulary of 50257
does that.

LIMITS      Sums in float32 in the order of k. Workspaces are checked and not used. No other function of cuBLAS.
*/
#ifndef CUBLAS_ON_CPU_H
#define CUBLAS_ON_CPU_H
#include "cuda_on_cpu.h"

#ifdef __CUDACC__
#include <cublas_v2.h>
#else
#include "library_on_cpu.h"

// The numbers are those of NVIDIA's headers.
enum cublasStatus_t { CUBLAS_STATUS_SUCCESS = 0, CUBLAS_STATUS_INVALID_VALUE = 7 };
enum cublasOperation_t { CUBLAS_OP_N = 0, CUBLAS_OP_T = 1 };
enum cublasMath_t { CUBLAS_DEFAULT_MATH = 0, CUBLAS_PEDANTIC_MATH = 2, CUBLAS_TF32_TENSOR_OP_MATH = 3 };
enum cublasComputeType_t {
    CUBLAS_COMPUTE_32F = 68, CUBLAS_COMPUTE_32F_PEDANTIC = 69, CUBLAS_COMPUTE_32F_FAST_TF32 = 77
};
enum cublasGemmAlgo_t { CUBLAS_GEMM_DEFAULT = -1 };
enum cudaDataType_t { CUDA_R_32F = 0, CUDA_R_16BF = 14 };
typedef cudaDataType_t cudaDataType;

namespace cuda_on_cpu {

struct BlasHandle {
    int device = 0;
    Stream *stream = nullptr;
    cublasMath_t math = CUBLAS_DEFAULT_MATH;
};

// A batch of column-major matrices as they are stored: columns of `rows` numbers, `leading` numbers apart.
struct Matrices {
    const char *name;
    void *data;
    cudaDataType_t type;
    int rows, columns;
    long long leading, stride;                      // stride: from one matrix of the batch to the next
    size_t item() const { return type == CUDA_R_16BF ? 2 : 4; }
    size_t at(int q, int column) const { return (size_t)(q * stride + column * leading); }
    size_t bytes(int batch) const {                 // from the first number to behind the last one
        return rows && columns && batch ? (at(batch - 1, columns - 1) + (size_t)rows) * item() : 0;
    }
    char *column(int q, int c) const { return (char *)data + at(q, c) * item(); }
};
struct Product {
    Call call;
    Matrices a, b, c;
    bool transpose_a, transpose_b, tf32;
    int m, n, k, batch;
    float alpha, beta;
};

CUDA_ON_CPU_RAW inline void check_matrices(const Product &p, const Matrices &x, int device) {
    const Call &call = p.call;
    if (x.leading < x.rows || x.leading < 1)
        fail("%s at %s:%d: the leading dimension of %s is %lld, but its columns have %d rows (m %d, n %d, k %d)",
             call.name, call.file, call.line, x.name, x.leading, x.rows, p.m, p.n, p.k);
    if (x.stride < 0)
        fail("%s at %s:%d: the stride of %s is %lld", call.name, call.file, call.line, x.name, x.stride);
    check_operand(call, x.name, x.data, x.bytes(p.batch), x.item(), device);

    static std::set<std::pair<std::string, int>> said;
    if (x.item() != 2 || !is_on("CUDA_ON_CPU_REPORT")) return;
    bool aligned = (uintptr_t)x.data % 16 == 0 && x.leading % 8 == 0 && (p.batch == 1 || x.stride % 8 == 0);
    if (!aligned && said.insert({call.file + std::string(x.name), call.line}).second)
        fprintf(stderr, "cuda_on_cpu: SLOW: %s at %s:%d: columns of %s do not begin at multiples of 16 bytes (leading "
                "dimension %lld); pad to a multiple of 8\n", call.name, call.file, call.line, x.name, x.leading);
}

// Each byte of C is marked; one that was marked already, or that A or B reads, is in two places at once.
CUDA_ON_CPU_RAW inline void check_overlap(const Product &p) {
    std::vector<bool> mark(p.c.bytes(p.batch));
    auto each_column = [&](const Matrices &x, auto visit) {
        for (int q = 0; q < p.batch; q++)
            for (int j = 0; j < x.columns; j++) visit(x.column(q, j) - (char *)p.c.data, (long)(x.rows * x.item()));
    };
    auto overlaps = [&](const char *what) {
        fail("%s at %s:%d: C overlaps %s, so the result depends on the order of the work", p.call.name, p.call.file,
             p.call.line, what);
    };
    each_column(p.c, [&](long from, long bytes) {
        for (long i = from; i < from + bytes; i++) {
            if (mark[(size_t)i]) overlaps("itself, in another product of the batch");
            mark[(size_t)i] = true;
        }
    });
    for (const Matrices *x : {&p.a, &p.b})
        each_column(*x, [&](long from, long bytes) {
            for (long i = std::max(from, 0L); i < std::min(from + bytes, (long)mark.size()); i++)
                if (mark[(size_t)i]) overlaps(x->name);
        });
}

// One matrix as `outer` rows of k neighbouring numbers, so that the product is made of dot products.
CUDA_ON_CPU_RAW inline std::vector<float> gathered(const Product &p, const Matrices &x, int q, bool column_is_k) {
    size_t outer = (size_t)(column_is_k ? x.rows : x.columns), k = (size_t)(column_is_k ? x.columns : x.rows);
    std::vector<float> result(outer * k);
    for (int j = 0; j < x.columns; j++) {
        check_library_read(p.call, x.name, x.column(q, j), (size_t)x.rows * x.item());
        for (int i = 0; i < x.rows; i++) {
            float value = load_number(x.column(q, j), (size_t)i, x.item());
            unsigned bits = __float_as_uint(value);
            if (p.tf32 && value - value == 0) value = __uint_as_float((bits + 0xfff + (bits >> 13 & 1)) & ~0x1fffu);
            result[column_is_k ? (size_t)i * k + (size_t)j : (size_t)j * k + (size_t)i] = value;
        }
    }
    return result;
}
CUDA_ON_CPU_RAW inline void run_product(const Product &p) {
    size_t k = (size_t)p.k;
    for (int q = 0; q < p.batch; q++) {
        std::vector<float> a = gathered(p, p.a, q, !p.transpose_a), b = gathered(p, p.b, q, p.transpose_b);
        for (int j = 0; j < p.n; j++) {
            char *c = p.c.column(q, j);
            if (p.beta != 0) check_library_read(p.call, "C", c, (size_t)p.m * p.c.item());
            for (int i = 0; i < p.m; i++) {
                float sum = 0;
                for (size_t l = 0; l < k; l++) sum += a[(size_t)i * k + l] * b[(size_t)j * k + l];
                sum *= p.alpha;                     // with beta 0, C is not read: it may be NaN
                if (p.beta != 0) sum += p.beta * load_number(c, (size_t)i, p.c.item());
                store_number(c, (size_t)i, p.c.item(), sum);
            }
            note_library_write(c, (size_t)p.m * p.c.item());
        }
    }
}

CUDA_ON_CPU_RAW inline void check_handle(const Call &call, const BlasHandle *handle) {
    check_object(call, handle, "handle");
    if (handle->device != machine.device)
        fail("%s at %s:%d: the handle belongs to device %d, the current device is %d", call.name, call.file, call.line,
             handle->device, machine.device);
}
CUDA_ON_CPU_RAW inline cublasStatus_t multiply_matrices(const BlasHandle *handle, Product p, const void *alpha,
                                                        const void *beta, cublasComputeType_t compute) {
    Inside guard;
    const Call &call = p.call;
    check_handle(call, handle);
    if (p.m < 0 || p.n < 0 || p.k < 0 || p.batch < 0)
        fail("%s at %s:%d: m %d, n %d, k %d, batch %d", call.name, call.file, call.line, p.m, p.n, p.k, p.batch);
    if (!p.m || !p.n || !p.batch) return CUBLAS_STATUS_SUCCESS;
    if (p.a.type != p.b.type || (p.a.type == CUDA_R_32F && p.c.type != CUDA_R_32F))
        fail("%s at %s:%d: cuBLAS has no product of these types: A and B both float32 and C too, or A and B both "
             "bfloat16 and C either", call.name, call.file, call.line);
    for (const void *scalar : {alpha, beta})
        if (device_of(scalar, 4) != HOST)
            fail("%s at %s:%d: alpha or beta lies in device memory; it is read on the host", call.name, call.file,
                 call.line);
    for (const Matrices *x : {&p.a, &p.b, &p.c}) check_matrices(p, *x, handle->device);
    check_overlap(p);
    memcpy(&p.alpha, alpha, 4);
    memcpy(&p.beta, beta, 4);
    p.tf32 = p.a.type == CUDA_R_32F && compute != CUBLAS_COMPUTE_32F_PEDANTIC &&
             (compute == CUBLAS_COMPUTE_32F_FAST_TF32 || handle->math == CUBLAS_TF32_TENSOR_OP_MATH);
    issue(stream_of(handle->stream, call.name), [p] { run_product(p); });
    return CUBLAS_STATUS_SUCCESS;
}
} // namespace cuda_on_cpu

typedef cuda_on_cpu::BlasHandle *cublasHandle_t;

static inline const char *cublasGetStatusString(cublasStatus_t status) {
    return status == CUBLAS_STATUS_SUCCESS ? "success" : "an invalid value was passed";
}
static inline cublasStatus_t cublasCreate(cublasHandle_t *handle) {
    *handle = new cuda_on_cpu::BlasHandle;
    (*handle)->device = cuda_on_cpu::machine.device;
    cuda_on_cpu::library_objects.insert(*handle);
    return CUBLAS_STATUS_SUCCESS;
}
static inline cublasStatus_t cublasDestroy(cublasHandle_t handle, CUDA_ON_CPU_SITE) {
    cuda_on_cpu::check_object({"cublasDestroy", file, line}, handle, "handle");
    cuda_on_cpu::library_objects.erase(handle);
    cuda_on_cpu::finish_device(handle->device);     // it waits, as cudaFree does
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}
static inline cublasStatus_t cublasSetStream(cublasHandle_t handle, cudaStream_t stream, CUDA_ON_CPU_SITE) {
    cuda_on_cpu::check_handle({"cublasSetStream", file, line}, handle);
    cuda_on_cpu::stream_of(stream, "cublasSetStream");
    handle->stream = stream;
    return CUBLAS_STATUS_SUCCESS;
}
static inline cublasStatus_t cublasSetWorkspace(cublasHandle_t handle, void *p, size_t bytes, CUDA_ON_CPU_SITE) {
    cuda_on_cpu::Call call = {"cublasSetWorkspace", file, line};
    cuda_on_cpu::check_handle(call, handle);
    cuda_on_cpu::check_operand(call, "the workspace", p, bytes, 256, handle->device);
    return CUBLAS_STATUS_SUCCESS;
}
static inline cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t mode, CUDA_ON_CPU_SITE) {
    cuda_on_cpu::check_handle({"cublasSetMathMode", file, line}, handle);
    handle->math = mode;
    return CUBLAS_STATUS_SUCCESS;
}

// C (m,n) = alpha op(A) (m,k) op(B) (k,n) + beta C, for each matrix of the batch
static inline cublasStatus_t cublasGemmStridedBatchedEx(
        cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n, int k, const void *alpha,
        const void *a, cudaDataType_t type_a, int lda, long long stride_a,
        const void *b, cudaDataType_t type_b, int ldb, long long stride_b, const void *beta,
        void *c, cudaDataType_t type_c, int ldc, long long stride_c, int batch, cublasComputeType_t compute,
        cublasGemmAlgo_t, CUDA_ON_CPU_SITE) {
    bool ta = op_a == CUBLAS_OP_T, tb = op_b == CUBLAS_OP_T;
    cuda_on_cpu::Product p = {
        {"cublasGemm", file, line},                // both have this name in messages; the line says which
        {"A", (void *)a, type_a, ta ? k : m, ta ? m : k, lda, stride_a},
        {"B", (void *)b, type_b, tb ? n : k, tb ? k : n, ldb, stride_b},
        {"C", c, type_c, m, n, ldc, stride_c}, ta, tb, false, m, n, k, batch, 0, 0};
    return cuda_on_cpu::multiply_matrices(handle, p, alpha, beta, compute);
}
static inline cublasStatus_t cublasGemmEx(
        cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n, int k, const void *alpha,
        const void *a, cudaDataType_t type_a, int lda, const void *b, cudaDataType_t type_b, int ldb, const void *beta,
        void *c, cudaDataType_t type_c, int ldc, cublasComputeType_t compute, cublasGemmAlgo_t algorithm,
        CUDA_ON_CPU_SITE) {
    return cublasGemmStridedBatchedEx(handle, op_a, op_b, m, n, k, alpha, a, type_a, lda, 0, b, type_b, ldb, 0, beta,
                                      c, type_c, ldc, 0, 1, compute, algorithm, file, line);
}
#endif // not nvcc
#endif
