/*
3 - memory is fast for those who ask for neighbours

The 32 threads of a warp run together, and so do their loads. If they ask for 32 neighbouring floats, that is four
sectors of 32 bytes; if each asks for a row of its own, 32 sectors, of which an eighth is used. A transpose reads rows
and writes columns, so one side has to be slow, unless the columns are taken out of shared memory, which has no sectors.
It has 32 banks, and one word after the other lies in the next bank: threads that ask one bank for different words wait
for each other. A column of tile[32][32] lies in a single bank; with one float of padding per row it lies in all of them
(Ruetsch and Micikevicius, Optimizing Matrix Transpose in CUDA, 2009).

    g++ -std=c++17 -g -Icuda -x c++ cuda/exercises/3_transpose.cu -o exercise && ./exercise
    CUDA_ON_CPU_REPORT=1 sh cuda/exercises/check.sh 3           counts sectors and banks; -DBREAK=1 behind it

PRINTS
    0 of 4096 elements are wrong

BREAK=1     no padding. The result is right, and reading a column takes 32 passes in place of one.
        3_transpose.cu:41        shared        4 bytes per lane: 32.0 passes per warp access, ideal 1.0

BREAK=2     no shared memory. Right as well, and eight times as many sectors are written as there are.
        3_transpose.cu:34        global store  4 bytes per lane: 32.0 sectors per warp access, ideal 4.0

TRY     A tile of 32 x 8 threads in which each moves four elements. Two floats of padding: how many passes, and why?
*/
#include "cuda_on_cpu.h"
#ifndef BREAK
#define BREAK 0
#endif

__global__ void transpose(float *y, const float *x, int n) {
    __shared__ float tile[32][BREAK == 1 ? 32 : 33];
    int column = (int)(blockIdx.x * 32 + threadIdx.x), row = (int)(blockIdx.y * 32 + threadIdx.y);
    if (BREAK == 2) {
        y[column * n + row] = x[row * n + column];
        return;
    }
    tile[threadIdx.y][threadIdx.x] = x[row * n + column];
    __syncthreads();
    column = (int)(blockIdx.y * 32 + threadIdx.x);              // of y: the block has its place on the other side
    row = (int)(blockIdx.x * 32 + threadIdx.y);
    y[row * n + column] = tile[threadIdx.x][threadIdx.y];
}

int main(void) {
    const int n = 64;
    static float host[n * n];
    float *x, *y;
    int wrong = 0;
    for (int i = 0; i < n * n; i++) host[i] = (float)i;
    cudaMalloc(&x, sizeof host);
    cudaMalloc(&y, sizeof host);
    cudaMemcpy(x, host, sizeof host, cudaMemcpyHostToDevice);
    launch(transpose, dim3(2, 2), dim3(32, 32), 0, 0, y, x, n);
    cudaMemcpy(host, y, sizeof host, cudaMemcpyDeviceToHost);
    for (int i = 0; i < n * n; i++) wrong += host[i] != (float)(i % n * n + i / n);
    printf("%d of %d elements are wrong\n", wrong, n * n);
    cudaFree(x);
    cudaFree(y);
    return 0;
}
