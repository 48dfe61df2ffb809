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
// How much of the work so far came from a CUDA graph, and how much was launched one by one: kernels and copies. (A
// training step is replayed from about its fourth time on. AG_CUDA_GRAPHS=0 in the environment replays nothing.)
void ag_cuda_launches(const ag_backend *b, long *replayed, long *launched);

// ---- several GPUs: gpt_cuda.cu has to be compiled with -DGPT_NCCL ---------------------------------------------------
// Data parallel training: each GPU has the whole model and a part of the batch, and before the optimizer steps the
// gradients are averaged over the GPUs, so that all models stay the same.
//
//     ag_cuda_group *g = ag_cuda_group_new(1337, gpus, 0);
//     for (int i = 0; i < gpus; i++) m[i] = gpt_new(ag_cuda_group_context(g, i), &config);
//     for each step {
//         for (int i = 0; i < gpus; i++) loss[i] = ...             // of its part of the batch; all parts have one size
//         ag_cuda_group_backward(g, loss, 1);
//         for (int i = 0; i < gpus; i++) gpt_step(m[i], &optimizer, 1, NULL);
//         for (int i = 0; i < gpus; i++) ag_reset(ag_cuda_group_context(g, i));
//     }
//     ag_cuda_group_free(g);                                          // and all its contexts
//
// In groups of about bucket_bytes (0: 8 MB) gradients are on their way while backward works on those of earlier layers.
// In emulation CUDA_ON_CPU_DEVICES=2 in the environment makes two devices.
typedef struct ag_cuda_group ag_cuda_group;
ag_cuda_group *ag_cuda_group_new(unsigned long long seed, int gpus, size_t bucket_bytes);
                                                // devices 0 to gpus-1. NULL, with the reason on stderr
ag_ctx *ag_cuda_group_context(ag_cuda_group *g, int i);
// Backward of losses[i] on GPU i. last 1: and then the average; 0: gradients only add up (one of several parts of a
// batch). 0, or -1 with the reason in ag_error of a context. It takes ag_on_gradient of the contexts for itself.
int  ag_cuda_group_backward(ag_cuda_group *g, ag_tensor *const *losses, int last);
// Which part of the gradients, 0 to 1, was on its way before the last one of GPU 0 was computed, in the last backward.
// Smaller buckets make it more; but each sum has to begin, and many small ones take longer than a few large ones.
double ag_cuda_group_overlap(const ag_cuda_group *g);
void ag_cuda_group_free(ag_cuda_group *g);

#ifdef __cplusplus
}
#endif
#endif
