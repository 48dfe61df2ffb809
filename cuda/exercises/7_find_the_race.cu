/*
7 - a race to find

The largest of 512 numbers. With -DBREAK=1 the program prints the right answer, with every CUDA_ON_CPU_SEED, and on a
GPU nearly always; it is wrong all the same. Read both versions and find out what may happen, then run the checker.

    g++ -std=c++17 -g -Icuda -x c++ cuda/exercises/7_find_the_race.cu -DBREAK=1 -o exercise && ./exercise
    sh cuda/exercises/check.sh 7 -DBREAK=1

PRINTS
    largest 511

BREAK=1     between the comparison and the store another thread may store a larger number, which is then lost. The
            checker does not wait for that to happen: it asks what orders two accesses, and here nothing does.
    largest 511
    cuda_on_cpu: RACE: write by thread 2 of block (0,0,0) is not ordered with the write by thread 1 ...
      at 7_find_the_race.cu:31, the other access at 7_find_the_race.cu:31
      byte 0 of the 4 allocated at cuda/exercises/7_find_the_race.cu:40

TRY     Would a __syncthreads between comparison and store help? Would it, if there were only one block?
*/
#include "cuda_on_cpu.h"
#ifndef BREAK
#define BREAK 0
#endif

__global__ void largest(int *result, const int *x) {
    int mine = x[blockIdx.x * blockDim.x + threadIdx.x];
    if (BREAK == 1) {
        if (mine > *result)
            *result = mine;
    } else atomicMax(result, mine);
}

int main(void) {
    static int host[512];
    int *x, *result, answer;
    for (int i = 0; i < 512; i++) host[i] = i * 5 % 512;
    cudaMalloc(&x, sizeof host);
    cudaMalloc(&result, sizeof answer);
    cudaMemcpy(x, host, sizeof host, cudaMemcpyHostToDevice);
    cudaMemset(result, 0, sizeof answer);
    launch(largest, 4, 128, 0, 0, result, x);
    cudaMemcpy(&answer, result, sizeof answer, cudaMemcpyDeviceToHost);
    printf("largest %d\n", answer);
    cudaFree(x);
    cudaFree(result);
    return 0;
}
