/*
8 - a barrier to lose

This kernel has four barriers. Three are needed, one costs time for nothing. -DBREAK=1 to -DBREAK=4 leave out one of
them each. Decide which one can go before you ask: between which two lines does each barrier stand guard, and which
threads touch the same element there? A barrier orders a write with a read of the same place by another thread, in
either order; if no two threads touch the same place, there is nothing to order.

    sh cuda/exercises/check.sh 8 -DBREAK=1

PRINTS
    y[0] 57, y[63] 56

BREAK=1     written by one thread and read by its neighbour
    cuda_on_cpu: UNINITIALISED: read of 4 bytes of shared memory that nobody has written
      at 8_barrier_to_lose.cu:37
BREAK=2     read by a neighbour and then written: the neighbour of a slow thread gets the new value
    cuda_on_cpu: RACE: write by thread 0 of block (0,0,0) is not ordered with the read by thread 63 ...
      at 8_barrier_to_lose.cu:39, the other access at 8_barrier_to_lose.cu:37
BREAK=3     written by one thread and read by another one
    cuda_on_cpu: RACE: read by thread 6 of block (0,0,0) is not ordered with the write by thread 62 ...
BREAK=4     silent: each thread reads the element of r that it has written itself
    y[0] 57, y[63] 56

TRY     python3 tests/cuda/barriers.py asks this of every barrier in a file.
*/
#include "cuda_on_cpu.h"
#ifndef BREAK
#define BREAK 0
#endif

__global__ void rotate(float *y, const float *x) {
    __shared__ float s[64], r[64];
    int t = (int)threadIdx.x;
    s[t] = x[t];
    if (BREAK != 1) __syncthreads();
    float next = s[(t + 1) % 64];
    if (BREAK != 2) __syncthreads();
    s[t] = next;
    if (BREAK != 3) __syncthreads();
    r[t] = s[(t + 56) % 64];
    if (BREAK != 4) __syncthreads();
    y[t] = r[t];
}

int main(void) {
    float host[64], *x, *y;
    for (int i = 0; i < 64; i++) host[i] = (float)i;
    cudaMalloc(&x, sizeof host);
    cudaMalloc(&y, sizeof host);
    cudaMemcpy(x, host, sizeof host, cudaMemcpyHostToDevice);
    launch(rotate, 1, 64, 0, 0, y, x);
    cudaMemcpy(host, y, sizeof host, cudaMemcpyDeviceToHost);
    printf("y[0] %g, y[63] %g\n", host[0], host[63]);
    cudaFree(x);
    cudaFree(y);
    return 0;
}
