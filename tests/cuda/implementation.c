// autograd.h and gpt.h as a C compiler makes them, for backend.cu, and the op cases of test_ops.c, which need to see
// inside. Only the naive kernels of the CPU: those are what the GPU is held to.
//     gcc -O2 -c tests/cuda/implementation.c -o build/cuda/implementation.o
#define AG_NAIVE
#define AUTOGRAD_IMPLEMENTATION
#define GPT_IMPLEMENTATION
#include "../../gpt.h"
#include "../op_cases.h"

int case_count(int with_big_ones) { return N_OP_CASES + (with_big_ones ? N_BIG_CASES : 0); }
static const op_case *case_at(int i) { return i < N_OP_CASES ? &op_cases[i] : &big_cases[i - N_OP_CASES]; }
const char *case_name(int i) { return case_at(i)->name; }

// A context is used for one case after the other: the parameters of the last one die, as they never do otherwise.
ag_tensor *case_result(ag_ctx *g, int i) {
    ag_tensor *y;
    (void)forget_all;
    ag_reset(g);
    ag_zero_grad(g);
    agi_give_back(g, &g->host[AGI_PARAMS], NULL, 0), agi_give_back(g, &g->device[AGI_PARAMS], NULL, 0);
    g->n_params = 0;
    make_params(g, case_at(i)->spec, seed_of(case_name(i)));
    y = case_at(i)->build(g);
    ag_backward(weighed(y));
    return y;
}
