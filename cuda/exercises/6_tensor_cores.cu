/*
6 - one instruction, 2048 multiplications

mma.sync m16n8k16 multiplies a (16,16) by b (16,8) and adds to d (16,8): a warp's 32 threads hold the matrices in their
registers together, each a few elements of each (PTX ISA, "Matrix fragments for mma.m16n8k16"; the layout stands in
cuda/tensor_core.h). ldmatrix fills such registers from rows in shared memory, and cp.async fills shared memory from
global memory without passing through registers, while the thread goes on: nothing is there before cp.async.wait_group.

    g++ -std=c++17 -g -Icuda -x c++ cuda/exercises/6_tensor_cores.cu -o exercise && ./exercise
    sh cuda/exercises/check.sh 6                    with the checker; -DBREAK=1 behind it breaks something

PRINTS
    0 of 128 elements are wrong

BREAK=1     nobody waits for cp.async. A GPU multiplies what happens to lie there.
    cuda_on_cpu: TOO EARLY: read of what cp.async has not delivered; wait for its group first

BREAK=2     two registers of a are exchanged: upper right and lower left quarter. Legal, and wrong.
    122 of 128 elements are wrong

TRY     In gdb, break at the store and print d of a few lanes: which element of c does each hold?
*/
#include "tensor_core.h"
#ifndef BREAK
#define BREAK 0
#endif
typedef __nv_bfloat16 bf16;

// c (16,8) = a (16,16) b (8,16)^T by one warp
__global__ void product(float *c, const bf16 *a, const bf16 *b) {
    __shared__ __align__(128) bf16 as[16 * 16], bs[8 * 16];
    int lane = (int)threadIdx.x;
    cp_async16(&as[lane * 8], &a[lane * 8]);        // 32 lanes, 16 bytes each
    if (lane < 16) cp_async16(&bs[lane * 8], &b[lane * 8]);
    cp_async_commit();
    if (BREAK != 1) cp_async_wait<0>();
    __syncwarp();
    unsigned ra[4], rb[4];
    ldmatrix_x4(ra, &as[lane % 16 * 16 + lane / 16 * 8]);       // four 8x8: rows 0-7, 8-15, then the right half
    ldmatrix_x4(rb, &bs[lane % 8 * 16 + lane / 8 % 2 * 8]);     // two are needed, and the other two the same again
    if (BREAK == 2) { unsigned r = ra[1]; ra[1] = ra[2], ra[2] = r; }
    float d[4] = {0, 0, 0, 0};
    mma_bf16(d, ra, rb);
    for (int i = 0; i < 4; i++) c[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = d[i];
}

int main(void) {
    bf16 a[256], b[128], *da, *db;
    float c[128], *dc;
    int wrong = 0;
    for (int i = 0; i < 256; i++) a[i] = __float2bfloat16((float)(i % 11 - 5));
    for (int i = 0; i < 128; i++) b[i] = __float2bfloat16((float)(i % 7 - 3));
    cudaMalloc(&da, sizeof a);
    cudaMalloc(&db, sizeof b);
    cudaMalloc(&dc, sizeof c);
    cudaMemcpy(da, a, sizeof a, cudaMemcpyHostToDevice);
    cudaMemcpy(db, b, sizeof b, cudaMemcpyHostToDevice);
    launch(product, 1, 32, 0, 0, dc, da, db);
    cudaMemcpy(c, dc, sizeof c, cudaMemcpyDeviceToHost);
    for (int i = 0; i < 128; i++) {
        float s = 0;
        for (int k = 0; k < 16; k++) s += __bfloat162float(a[i / 8 * 16 + k]) * __bfloat162float(b[i % 8 * 16 + k]);
        wrong += c[i] != s;
    }
    printf("%d of 128 elements are wrong\n", wrong);
    cudaFree(da);
    cudaFree(db);
    cudaFree(dc);
    return 0;
}
