// Kernels whose machine instructions can be counted by looking: the rule before each is what tests/cuda/sass.py has to
// count in it, on every GPU. They are compiled and never run.
#include "tensor_core.h"

// sass: copy_four LDG.128=1 STG.128=1 LDG.32=0
__global__ void copy_four(float4 *y, const float4 *x) { y[threadIdx.x] = x[threadIdx.x]; }

// sass: copy_two LDG.64=1 STG.64=1
__global__ void copy_two(float2 *y, const float2 *x) { y[threadIdx.x] = x[threadIdx.x]; }

// sass: copy_half LDG.16=1 STG.16=1
__global__ void copy_half(__nv_bfloat16 *y, const __nv_bfloat16 *x) { y[threadIdx.x] = x[threadIdx.x]; }

// sass: through_shared LDG.32=2 LDG.128=1 STS.128=1 LDS.32=1 BAR=1 STG.32=1
__global__ void through_shared(float *y, const float4 *x, const int *which) {
    __shared__ __align__(16) float s[128];
    *reinterpret_cast<float4 *>(&s[4 * threadIdx.x]) = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = s[which[0]] + (float)which[1];
}

// sass: doubles DADD=1 DMUL=1 DFMA=1 LDG.64=3 STG.64=3
__global__ void doubles(double *y, const double *x) {
    double a = x[0], b = x[1], c = x[2];
    y[0] = __dadd_rn(a, b);
    y[1] = __dmul_rn(b, c);
    y[2] = __fma_rn(a, b, c);
}

// sass: singles FADD=1 FMUL=1 FFMA=1 DADD=0 DMUL=0 DFMA=0
__global__ void singles(float *y, const float *x) {
    float a = x[0], b = x[1], c = x[2];
    y[0] = __fadd_rn(a, b);
    y[1] = __fmul_rn(b, c);
    y[2] = __fmaf_rn(a, b, c);
}

// An array whose index is not known when compiling lies in local memory, which is global memory.
// sass: local_array LDL>0 STL>0
__global__ void local_array(float *y, const int *which) {
    float a[32];
    for (int i = 0; i < 32; i++) a[which[i]] = (float)which[i + 32];
    y[threadIdx.x] = a[which[threadIdx.x]];
}

// sass: atomics RED=2 ATOM=2 ATOMS=0
__global__ void atomics(float *y, int *z, const float *x) {
    atomicAdd(&y[0], x[threadIdx.x]);
    atomicAdd(&z[0], (int)x[threadIdx.x + 64]);
    y[threadIdx.x + 2] = atomicAdd(&y[threadIdx.x + 100], x[1]);
    z[threadIdx.x + 2] = atomicMax(&z[threadIdx.x + 100], (int)x[2]);
}

// sass: warps SHFL=3
__global__ void warps(float *y, const float *x) {
    float v = x[threadIdx.x];
    v += __shfl_xor_sync(0xffffffffu, v, 16);
    v += __shfl_xor_sync(0xffffffffu, v, 8);
    y[threadIdx.x] = __shfl_sync(0xffffffffu, v, 5);
}

// sass: tensor_cores HMMA=2 LDSM=2 LDGSTS=1 BAR=1 FFMA=0
__global__ void tensor_cores(float *y, const __nv_bfloat16 *x) {
    __shared__ __align__(128) __nv_bfloat16 s[32 * 8];
    cp_async16(&s[threadIdx.x * 8], &x[threadIdx.x * 8]);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    unsigned a[4], b[4];
    ldmatrix_x4(a, &s[threadIdx.x * 8]);
    ldmatrix_x4(b, &s[(threadIdx.x ^ 1) * 8]);
    float d[4] = {0, 0, 0, 0};
    mma_bf16(d, a, b);
    mma_bf16(d, a, b + 2);
    for (int i = 0; i < 4; i++) y[threadIdx.x * 4 + i] = d[i];
}

// sass: generic LD=1 ST=1
__global__ void generic(float *y, const float *x, int which) {
    __shared__ float s[64];
    s[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    const float *from = which ? &s[63 - threadIdx.x] : &x[threadIdx.x + 64];
    float *to = which ? &y[threadIdx.x] : &s[threadIdx.x];
    *to = *from;
    __syncthreads();
    y[threadIdx.x + 64] = s[threadIdx.x];
}
