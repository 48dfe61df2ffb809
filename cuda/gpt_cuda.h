// gpt_cuda.h - the backend of gpt_cuda.cu, for programs in C or C++ that use autograd.h:
//
//     ag_ctx *ag = ag_new_with(1337, ag_cuda_backend(0));         // instead of ag_new(1337); everything else stays
//
// The first comment of gpt_cuda.cu says how the two are compiled, for a GPU or for the CPU.
#ifndef GPT_CUDA_H
#define GPT_CUDA_H
#include "../autograd.h"

#ifdef __cplusplus
extern "C" {
#endif

ag_backend *ag_cuda_backend(int device);        // NULL, with the reason on stderr: there is no such device
ag_backend *ag_cuda_naive_backend(int device);  // the same from the shortest version of each kernel: slow, to compare
// How much of the work came from a CUDA graph, and how much was launched one by one: kernels and copies so far. (A
// training step is replayed from its third time on. AG_CUDA_GRAPHS=0 in the environment replays nothing.)
void ag_cuda_launches(const ag_backend *b, long *replayed, long *launched);

#ifdef __cplusplus
}
#endif
#endif
