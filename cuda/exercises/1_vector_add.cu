/*
1 - one thread for each element

A kernel is a function that many threads run at once. Each works out from its place which element is its own: threads
come in blocks, and blockIdx * blockDim + threadIdx counts through all of them. A launch starts whole blocks, so there
are usually more threads than elements: 1000 elements in blocks of 256 make 1024 threads, and the last 24 have to know
that they have nothing to do. A GPU has a memory of its own; what a kernel touches has to be copied there.

    g++ -std=c++17 -g -Icuda -x c++ cuda/exercises/1_vector_add.cu -o exercise && ./exercise
    sh cuda/exercises/check.sh 1                    with the checker; -DBREAK=1 behind it breaks something

PRINTS
    y[0] 0, y[999] 2997

BREAK=1     no thread asks whether it has an element. 24 of them work behind the end; a GPU often says nothing.
    cuda_on_cpu: read of 4 bytes at 0x..., OUT OF BOUNDS of every allocation
      at 1_vector_add.cu:34
      0 bytes behind the 4000 allocated at cuda/exercises/1_vector_add.cu:44
      in kernel add, block (3,0,0), thread (232,0,0), launched at cuda/exercises/1_vector_add.cu:49

BREAK=2     the kernel gets the address of the host's array, which means nothing to a GPU.
    cuda_on_cpu: launch of add at cuda/exercises/1_vector_add.cu:49: argument 3 is 0x..., a host pointer. ...

TRY     64 threads per block. A kernel with 4 blocks in which each thread has several elements: for (; i < n; i += ...).
*/
#include "cuda_on_cpu.h"
#ifndef BREAK
#define BREAK 0
#endif

__global__ void add(float *y, const float *a, const float *b, int n) {
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n || BREAK == 1)
        y[i] = a[i] + b[i];
}

int main(void) {
    const int n = 1000;
    static float host[n];
    float *a, *b, *y;
    for (int i = 0; i < n; i++) host[i] = (float)i;
    cudaMalloc(&y, sizeof host);
    cudaMalloc(&b, sizeof host);
    cudaMalloc(&a, sizeof host);
    cudaMemcpy(a, host, sizeof host, cudaMemcpyHostToDevice);
    for (int i = 0; i < n; i++) host[i] = (float)(2 * i);
    cudaMemcpy(b, host, sizeof host, cudaMemcpyHostToDevice);
    const float *second = BREAK == 2 ? host : b;
    launch(add, (n + 255) / 256, 256, 0, 0, y, a, second, n);
    cudaMemcpy(host, y, sizeof host, cudaMemcpyDeviceToHost);
    printf("y[0] %g, y[999] %g\n", host[0], host[n - 1]);
    for (float *p : {a, b, y}) cudaFree(p);
    return 0;
}
