/*
5 - a softmax that sees each number once

softmax(x)_i = e^(x_i - m) / sum_j e^(x_j - m), where m is the largest x: without it e^x overflows. That seems to need
the maximum before the sum. But a sum that was made with a smaller maximum is corrected by a factor, e^(old m - new m),
so both can be found in one pass (Milakov and Gimelshein, Online normalizer calculation for softmax, 2018); and two
partial results (m, s) can be joined by the same rule. Flash attention is this, with a sum of vectors beside it. Here
one warp has one row: lane i takes the elements i, i + 32, ..., then the lanes join their results in five shuffles. A
shuffle reads another lane's register; all lanes of its mask have to come, also those that had no element.

    g++ -std=c++17 -g -Icuda -x c++ cuda/exercises/5_online_softmax.cu -o exercise && ./exercise
    sh cuda/exercises/check.sh 5                    with the checker; -DBREAK=1 behind it breaks something

PRINTS
    y[0] 3.54164e-09, y[19] 0.632121, sum 1

BREAK=1     the old sum is not corrected when a larger maximum is joined. Nothing is illegal; only the sum shows it.
    y[0] 2.8014e-10, y[19] 0.05, sum 0.0790988

BREAK=2     lanes without an element return at once, and the others wait for them.
    cuda_on_cpu: DEADLOCK in kernel softmax, block (0,0,0), launched at cuda/exercises/5_online_softmax.cu:58: ...
      threads 0..19 wait in __shfl_xor_sync at cuda/exercises/5_online_softmax.cu:42, mask ffffffff
      threads 20..31 returned

TRY     Rows of 100 elements. In gdb: break softmax if threadIdx.x == 19, and watch m and s through the shuffles.
*/
#include "cuda_on_cpu.h"
#ifndef BREAK
#define BREAK 0
#endif

__global__ void softmax(float *y, const float *x, int n) {
    int lane = (int)threadIdx.x;
    if (BREAK == 2 && lane >= n) return;
    float m = -INFINITY, s = 0;
    for (int i = lane; i < n; i += 32) {
        float larger = fmaxf(m, x[i]);
        s = s * expf(m - larger) + expf(x[i] - larger);
        m = larger;
    }
    for (int far = 16; far > 0; far /= 2) {
        float m2 = __shfl_xor_sync(0xffffffffu, m, far), s2 = __shfl_xor_sync(0xffffffffu, s, far);
        float larger = fmaxf(m, m2);
        if (larger == -INFINITY) continue;          // neither lane had an element
        if (BREAK == 1) s = s + s2;
        else s = s * expf(m - larger) + s2 * expf(m2 - larger);
        m = larger;
    }
    for (int i = lane; i < n; i += 32) y[i] = expf(x[i] - m) / s;
}

int main(void) {
    float host[20], *x, *y, sum = 0;
    for (int i = 0; i < 20; i++) host[i] = 1000 + (float)i;
    cudaMalloc(&x, sizeof host);
    cudaMalloc(&y, sizeof host);
    cudaMemcpy(x, host, sizeof host, cudaMemcpyHostToDevice);
    launch(softmax, 1, 32, 0, 0, y, x, 20);
    cudaMemcpy(host, y, sizeof host, cudaMemcpyDeviceToHost);
    for (float v : host) sum += v;
    printf("y[0] %g, y[19] %g, sum %g\n", host[0], host[19], sum);
    cudaFree(x);
    cudaFree(y);
    return 0;
}
