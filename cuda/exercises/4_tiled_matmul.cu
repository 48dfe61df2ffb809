/*
4 - a matrix product that reads memory seldom

Element (m,n) of c is the product of row m of a and column n of b, so all elements of a row of c read the same row of a.
Sixteen times sixteen threads that own a square of c load a square of a and of b into shared memory, each thread one
element; then all of them use all of it, and go on to the next square. Each number is read from global memory once for
sixteen uses. Two barriers: one between filling and reading, one between reading and filling again. A thread outside of
c loads zeros and computes nothing, but it has to come to both barriers like everybody else.

    g++ -std=c++17 -g -Icuda -x c++ cuda/exercises/4_tiled_matmul.cu -o exercise && ./exercise
    sh cuda/exercises/check.sh 4                    with the checker; -DBREAK=1 behind it breaks something

PRINTS
    largest difference 0

BREAK=1     no second barrier: a fast warp overwrites squares that a slow one still reads.
    cuda_on_cpu: RACE: read by thread 1 of block (0,0,0) is not ordered with the write by thread 0 ...
      at 4_tiled_matmul.cu:39, the other access at 4_tiled_matmul.cu:36

BREAK=2     threads outside of c skip the barrier. On a GPU that may hang, or not. After what is read too early follows:
    cuda_on_cpu: divergent __syncthreads: this thread is at cuda/exercises/4_tiled_matmul.cu:40, another ...

TRY     Squares of 32. A thread that owns four elements of c. CUDA_ON_CPU_REPORT=1: bytes loaded, compared with n^3.
*/
#include "cuda_on_cpu.h"
#ifndef BREAK
#define BREAK 0
#endif

enum { TILE = 16 };
__global__ void matmul(float *c, const float *a, const float *b, int n) {
    __shared__ float as[TILE][TILE], bs[TILE][TILE];
    int tx = threadIdx.x, ty = threadIdx.y, row = (int)blockIdx.y * TILE + ty, column = (int)blockIdx.x * TILE + tx;
    float s = 0;
    for (int k0 = 0; k0 < n; k0 += TILE) {
        as[ty][tx] = row < n && k0 + tx < n ? a[row * n + k0 + tx] : 0;
        bs[ty][tx] = column < n && k0 + ty < n ? b[(k0 + ty) * n + column] : 0;
        if (BREAK != 2 || (row < n && column < n)) __syncthreads();
        for (int k = 0; k < TILE; k++) s += as[ty][k] * bs[k][tx];
        if (BREAK != 1) __syncthreads();
    }
    if (row < n && column < n) c[row * n + column] = s;
}

int main(void) {
    const int n = 40;
    static float host[3][n * n];
    float *p[3], largest = 0;
    for (int i = 0; i < n * n; i++) host[0][i] = (float)(i % 7 - 3), host[1][i] = (float)(i % 5 - 2);
    for (int i = 0; i < 3; i++) cudaMalloc(&p[i], sizeof host[i]);
    for (int i = 0; i < 2; i++) cudaMemcpy(p[i], host[i], sizeof host[i], cudaMemcpyHostToDevice);
    launch(matmul, dim3(3, 3), dim3(TILE, TILE), 0, 0, p[2], p[0], p[1], n);
    cudaMemcpy(host[2], p[2], sizeof host[2], cudaMemcpyDeviceToHost);
    for (int i = 0; i < n * n; i++) {
        float s = 0;
        for (int k = 0; k < n; k++) s += host[0][i / n * n + k] * host[1][k * n + i % n];
        largest = fmaxf(largest, fabsf(s - host[2][i]));
    }
    printf("largest difference %g\n", largest);
    for (int i = 0; i < 3; i++) cudaFree(p[i]);
    return 0;
}
