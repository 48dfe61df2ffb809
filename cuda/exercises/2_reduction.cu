/*
2 - a sum by many threads

The threads of a block share a small fast memory and can wait for each other. So they add in pairs: 128 threads add two
numbers each, then 64 threads two of those sums, and after eight rounds one number is left (Harris, Optimizing Parallel
Reduction in CUDA, 2007). __syncthreads says: nobody goes on before all are here, and what was written before it can be
read behind it. Blocks cannot wait for each other; each adds its sum to the total by itself. total += s would read, add
and write, and two blocks may read the same old value; atomicAdd does the three at once.

    g++ -std=c++17 -g -Icuda -x c++ cuda/exercises/2_reduction.cu -o exercise && ./exercise
    sh cuda/exercises/check.sh 2                    with the checker; -DBREAK=1 behind it breaks something

PRINTS
    sum 523776, wanted 523776

BREAK=1     no barrier between the rounds: some threads add what others have not written yet.
    cuda_on_cpu: UNINITIALISED: read of 4 bytes of shared memory that nobody has written
    cuda_on_cpu: RACE: write by thread 1 of block (0,0,0) is not ordered with the read by thread 0 ...
      at 2_reduction.cu:35, the other access at 2_reduction.cu:38

BREAK=2     += in place of atomicAdd. The sum is right here, since blocks run one after another, and often on a GPU.
    cuda_on_cpu: RACE: read by thread 0 of block (1,0,0) is not ordered with the write by thread 0 ...
      at 2_reduction.cu:40, the other access at 2_reduction.cu:40

TRY     Run BREAK=1 without the checker and with CUDA_ON_CPU_SEED=1, 2, 3. Add within a warp by __shfl_down_sync.
*/
#include "cuda_on_cpu.h"
#ifndef BREAK
#define BREAK 0
#endif

__global__ void sum(float *total, const float *x) {
    __shared__ float s[256];
    int t = (int)threadIdx.x;
    s[t] = x[blockIdx.x * 256 + threadIdx.x];
    for (int half = 128; half > 0; half /= 2) {
        if (BREAK != 1) __syncthreads();
        if (t < half) s[t] += s[t + half];
    }
    if (t == 0 && BREAK == 2) *total += s[0];
    if (t == 0 && BREAK != 2) atomicAdd(total, s[0]);
}

int main(void) {
    static float host[1024];
    float *x, *total, result;
    for (int i = 0; i < 1024; i++) host[i] = (float)i;
    cudaMalloc(&x, sizeof host);
    cudaMalloc(&total, sizeof result);
    cudaMemcpy(x, host, sizeof host, cudaMemcpyHostToDevice);
    cudaMemset(total, 0, sizeof result);
    launch(sum, 4, 256, 0, 0, total, x);
    cudaMemcpy(&result, total, sizeof result, cudaMemcpyDeviceToHost);
    printf("sum %g, wanted %d\n", result, 1023 * 1024 / 2);
    cudaFree(x);
    cudaFree(total);
    return 0;
}
