/*
autograd.h - reverse-mode automatic differentiation in one C file: scalars to understand it, tensors to use it.

In one C file of your program:              #define AUTOGRAD_IMPLEMENTATION
                                            #include "autograd.h"
in all others only:                         #include "autograd.h"
Compile with                                cc -O3 program.c -lm
It uses all cores and the widest vector instructions of the machine that it runs on; no flags are needed. (A C library
older than glibc 2.34 also wants -pthread.)

EXAMPLE:
    #define AG_DIE_ON_ERROR
    #define AUTOGRAD_IMPLEMENTATION
    #include "autograd.h"

    int main(void) {                                        // two inputs, eight tanh units, one answer: XOR
        float xs[] = {0,0, 0,1, 1,0, 1,1}, ys[] = {0, 1, 1, 0};
        ag_ctx *ag = ag_new(1337);
        ag_tensor *w1 = ag_param(ag, 2, 8), *b1 = ag_param(ag, 8), *w2 = ag_param(ag, 8, 1), *b2 = ag_param(ag, 1);
        ag_randn(w1, 0.7f), ag_randn(w2, 0.4f);
        for (int step = 0; step <= 100; step++) {
            ag_tensor *x = ag_input(ag, xs, 4, 2), *y = ag_input(ag, ys, 4, 1);
            ag_tensor *h = ag_tanh(ag_add(ag_matmul(x, w1), b1));                   // (4, 8)
            ag_tensor *loss = ag_mean(ag_pow(ag_sub(ag_add(ag_matmul(h, w2), b2), y), 2));
            ag_backward(loss);
            ag_adamw(ag, 0.05, 0.9, 0.999, 0);              // steps, then zeroes the gradients
            if (step % 20 == 0) printf("%3d %.4f\n", step, ag_item(loss));
            ag_reset(ag);                                   // the tape is empty, parameters stay
        }
        ag_free(ag);
    }

PRINTS:
      0 0.3058
     20 0.0232
     40 0.0012
     60 0.0001
     80 0.0001
    100 0.0000

It does not: run on a GPU by itself (cuda/gpt_cuda.cu is a backend that does), differentiate twice, learn in anything
but floats (bfloat16 inside matrix products, and int8 copies for generation, are asked for), have more than four
dimensions, take views of parts of a tensor, or do anything behind your back: no graph compiler, no lazy evaluation.

CONCEPTS
An op computes at once and writes down what it did, on the tape: which op, which operands. ag_backward walks the tape
from the newest entry to the oldest. When it comes to y = f(a, b) it knows how the loss changes with y, dy, and f's
rule turns that into how it changes with a and with b, da += dy * df/da. That is the chain rule, and all of it: each op
knows only its own derivative. += because a value that was used twice has two ways to act on the loss. The order works
because an operand is always older than what was made of it: when the walk meets a tensor, all that was made from it has
already handed its part down.
Parameters are the leaves that you want to change. Their gradients add up over calls of ag_backward until an optimizer
(ag_adamw, ag_sgd, ag_muon_group) has used them, so a large batch can be computed in parts.
Shapes broadcast as in NumPy: (4,8) + (8) adds the same row to each row, and the row's gradient is the sum of all rows'.
Same seed, same bits: for any number of threads, any batch size, and on every instruction set whose multiply-adds are
fused. Every sum is made in an order that is written down beside it.

SHAPES   B batch   T time   C channels   V vocabulary   NH heads   NKV key heads   hs head size   M, N, K of a product
Row-major, the last index runs fastest: element (i,j) of (M,N) lies at i*N + j. x_bt is what belongs to row b, time t.

MEMORY   A context owns every tensor; nobody frees one. What an op or ag_input returns dies at ag_reset, so inputs are
made anew in each step; parameters and ag_state live until ag_free. From the second training step on nothing calls
malloc. ag_new_dry tells beforehand how much it will be, and ag_forget makes it less. Not counted: scratch memory of the
kernels, and up to 256 MB of packed copies where several products meet the same numbers of a parameter.

ERRORS   A call that fails returns NULL (ops), a negative number or NaN, and the context keeps the first message, with
your file and line: ag_error(ctx). Ops pass NULL on, so checking once a step is enough; backward and optimizers do
nothing while there is an error. With AG_DIE_ON_ERROR the message is printed and the program ends: what lessons want.

OPTIONS, before the include
    AG_REAL             float       double for tests: naive kernels, libm
    AG_MALLOC, AG_FREE  malloc...   your allocator; both or neither
    AG_DIE_ON_ERROR     off         print the first error and exit
    AG_NAIVE            off         only the naive kernels
    AG_SELF             "autograd.h"    this file's name, if you renamed it
Environment: AG_THREADS=2 (default: all cores that the process may use), AG_CPU=avx512|avx2|neon|portable|naive.

SECURITY   Reads no files. Shapes and ids are checked; what you pass as data is trusted to have the length of the shape.

READING ORDER   1 scalars: the whole idea in 150 lines   2 tensors and the tape   3 the ops, each on a screen
4 learning. Then the engine room, where the same kernels are made fast; each has its naive twin in chapter 3 or 4.
Licence: MIT, at the end.
*/
#ifndef AUTOGRAD_H
#define AUTOGRAD_H

#include <stddef.h>
#include <stdint.h>

// The options. Each is defined before the header is included, all of them alike in every file that includes it.
#ifndef AG_REAL
#define AG_REAL float               // tests build with double: naive kernels and libm, gradients exact to 1e-7
#endif
#if defined(AG_MALLOC) != defined(AG_FREE)
#error "autograd.h: define both of AG_MALLOC(bytes) and AG_FREE(pointer), or neither"
#endif
#ifndef AG_MALLOC
#define AG_MALLOC(bytes) malloc(bytes)
#define AG_FREE(pointer) free(pointer)
#endif
#ifndef AG_SELF
#define AG_SELF "autograd.h"        // the name under which this file can include itself: once for each instruction set
#endif
// AG_DIE_ON_ERROR                  // print the first error and exit(1): what lessons want; a library wants ag_error()
// AG_NAIVE                         // only the naive kernels: slow, tiny, and what the fast ones are tested against

#ifdef __FAST_MATH__
#error "autograd.h: -ffast-math and -Ofast break NaN checks and the promise of equal bits; use -O3"
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef AG_REAL ag_real;

// ---- random numbers ------------------------------------------------------------------------------------------------
// Counter-based (Philox 4x32-10; Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2, 3"): number i of a
// stream is a pure function of (key, i). So the whole state is these two words, it can be saved, and any number of
// threads can draw the same numbers.
typedef struct ag_rng { uint64_t key, counter; } ag_rng;
uint32_t ag_rng_u32(ag_rng *rng);               // 32 random bits
double   ag_rng_uniform(ag_rng *rng);           // in [0, 1), 53 bits
double   ag_rng_normal(ag_rng *rng);            // mean 0, standard deviation 1 (Box-Muller)

// ---- the scalar engine ----------------------------------------------------------------------------------------------
// Numbers that remember how they were computed. One call then tells, for each of them, how the result moves with it.
//
//     ag_graph *g = ag_graph_new(1337);                    // 1337 seeds the weights of neurons
//     ag_value *x = ag_var(g, 3), *y = ag_vmul(x, x);
//     ag_vbackward(y);
//     printf("%g %g\n", y->data, x->grad);                 // 9 6
//     ag_graph_free(g);
//
// The graph owns its values: none is freed alone, and their addresses never change. NULL operands are passed on, so it
// is enough to look at the last result, or at ag_graph_error.
typedef struct ag_graph ag_graph;
typedef struct ag_value ag_value;

// Every operation, once: its name in the enum, and the sign under which pictures show it.
#define AG_VALUE_OPS(X) \
    X(LEAF, "") X(ADD, "+") X(SUB, "-") X(MUL, "*") X(DIV, "/") X(POW, "pow") X(NEG, "neg") X(RELU, "relu") \
    X(TANH, "tanh") X(EXP, "exp") X(LOG, "log")
#define AG_VALUE_ENUM(name, sign) AG_V_##name,
enum { AG_VALUE_OPS(AG_VALUE_ENUM) AG_V_COUNT };

struct ag_value {
    double data, grad;          // the number; d result / d number, once ag_vbackward(result) has run
    ag_value *a, *b;            // what it was computed from; b is NULL for one operand, both are NULL for a leaf
    const char *label;          // its name in pictures, or NULL
    short op, seen;             // AG_V_ADD, ...; a mark that ag_graph_dot uses
    int slot;                   // where it lies on its page of the graph
};

ag_graph   *ag_graph_new(unsigned long long seed);          // NULL: out of memory
void        ag_graph_free(ag_graph *g);                     // the graph and all its values; NULL is fine
const char *ag_graph_error(const ag_graph *g);              // the first error, or NULL. Until it is cleared ops return
void        ag_graph_clear_error(ag_graph *g);              // NULL and backward does nothing

// A training loop: make the parameters, mark, then in each step compute, backward, update, rewind. What was made after
// the mark dies and its memory is used again, so that from the second step on malloc is not called.
size_t      ag_graph_mark(const ag_graph *g);               // how many values there are
void        ag_graph_rewind(ag_graph *g, size_t mark);
void        ag_graph_zero_grad(ag_graph *g);                // the gradients of all values, leaves too

ag_value   *ag_var(ag_graph *g, double data);               // a leaf: an input, a parameter or a constant
ag_value   *ag_vadd(ag_value *a, ag_value *b);              // a + b
ag_value   *ag_vsub(ag_value *a, ag_value *b);              // a - b
ag_value   *ag_vmul(ag_value *a, ag_value *b);              // a * b
ag_value   *ag_vdiv(ag_value *a, ag_value *b);              // a / b
ag_value   *ag_vpow(ag_value *a, double k);                 // a to the power of a number
ag_value   *ag_vscale(ag_value *a, double k);               // a * k
ag_value   *ag_vshift(ag_value *a, double k);               // a + k
ag_value   *ag_vneg(ag_value *a);                           // -a
ag_value   *ag_vrelu(ag_value *a);                          // max(a, 0)
ag_value   *ag_vtanh(ag_value *a);
ag_value   *ag_vexp(ag_value *a);
ag_value   *ag_vlog(ag_value *a);                           // natural logarithm

void        ag_vbackward(ag_value *result);                 // adds d result / d leaf to the grad of each leaf
void        ag_vforward(ag_value *result);                  // computes it again, after somebody changed leaf->data

ag_value   *ag_vlabel(ag_value *v, const char *label);      // names v for pictures (not copied); returns v
const char *ag_vop(const ag_value *v);                      // "+", "tanh", ...; "" for a leaf
ag_value   *ag_graph_first(const ag_graph *g);              // the oldest value; NULL if there is none
ag_value   *ag_vnext(const ag_value *v);                    // the next younger one; NULL after the last
size_t      ag_vindex(const ag_value *v);                   // how many values are older: 0, 1, 2, ... in that order

// The picture of how result came about, in the language of Graphviz (dot -Tsvg). As snprintf: writes at most cap bytes
// with the final zero, returns how many bytes the whole text has without it.
size_t      ag_graph_dot(const ag_value *result, char *out, size_t cap);

// A multi-layer perceptron of such values. Weights start uniform in [-1, 1), biases at 0; the hidden layers end in
// relu, the last one is linear. It belongs to the graph as far as its values go; free it before or after the graph, as
// you like.
typedef struct ag_neuron { int n_in, relu; ag_value **w; } ag_neuron;                   // w: (n_in + 1), the bias last
typedef struct ag_layer  { int n_in, n_out; ag_neuron *neurons; } ag_layer;             // neurons: (n_out)
typedef struct ag_mlp    { int n_layers, n_params, width; ag_layer *layers; ag_value **params, **hidden; } ag_mlp;

ag_mlp     *ag_mlp_new(ag_graph *g, int n_in, const int *sizes, int n_layers);          // sizes: (n_layers) outputs
void        ag_mlp_free(ag_mlp *mlp);                                                   // NULL is fine
ag_value   *ag_neuron_call(const ag_neuron *neuron, ag_value *const *x);                // x: (n_in)
int         ag_layer_call(const ag_layer *layer, ag_value *const *x, ag_value **y);     // y: (n_out); 0, or -1 on error
int         ag_mlp_call(const ag_mlp *mlp, ag_value *const *x, ag_value **y);           // y: (last of sizes)
ag_value  **ag_mlp_params(const ag_mlp *mlp, int *n);       // (n), neuron after neuron: weights, then the bias

// ---- the tensor engine: contexts -----------------------------------------------------------------------------------
typedef struct ag_ctx ag_ctx;                   // owns every tensor, the tape, the threads and the error
typedef struct ag_tensor ag_tensor;
typedef struct ag_backend ag_backend;

#define AG_NDIM 4
#define AG_IGNORE (-1)                          // a target that counts for nothing (PyTorch's ignore_index)

ag_ctx *ag_new(unsigned long long seed);        // NULL: out of memory. AG_THREADS and AG_CPU (avx512, avx2, neon,
                                                // portable, naive) in the environment override what is found
ag_ctx *ag_new_with(unsigned long long seed, ag_backend *backend);      // takes the backend over, frees it at the end
ag_ctx *ag_new_dry(void);                       // computes nothing and holds no numbers (all that is read is 0): shapes
                                                // are checked, and ag_memory_used tells what the same calls would take
void    ag_free(ag_ctx *ctx);                   // the context and all its tensors; NULL is fine
void    ag_reset(ag_ctx *ctx);                  // empties the tape: results of ops die, parameters and state stay
int     ag_no_grad(ag_ctx *ctx, int on);        // 1: ops record nothing. Returns the old setting, to be put back

// ag_mark and ag_rewind bracket evaluation or generation in the middle of a step: what came after the mark dies.
typedef struct ag_mark_at { void *chunk[2]; size_t used[2]; ag_tensor *last; } ag_mark_at;
ag_mark_at ag_mark(ag_ctx *ctx);
void       ag_rewind(ag_ctx *ctx, ag_mark_at mark);

// The first error stays until it is cleared; until then ops return NULL, backward and optimizers do nothing.
const char *ag_error(const ag_ctx *ctx);        // NULL: none. "lesson.c:42: ag_matmul: a is (4,64,32), ..."
void        ag_clear_error(ag_ctx *ctx);
int         ag_fail(ag_ctx *ctx, const char *format, ...);              // for libraries on top; returns -1

enum { AG_RNG_INIT, AG_RNG_DATA, AG_RNG_DROPOUT, AG_RNG_SAMPLE, AG_RNG_COUNT };
ag_rng *ag_stream(ag_ctx *ctx, int which);      // one stream for each use: more samples never change the data order

typedef struct ag_memory { size_t params, state, tape, tape_peak, reserved, mallocs; } ag_memory;
ag_memory   ag_memory_used(const ag_ctx *ctx);  // bytes; mallocs counts calls of AG_MALLOC since ag_new
int         ag_threads(const ag_ctx *ctx);
const char *ag_backend_name(const ag_ctx *ctx); // "cpu/avx512"; ag_threads tells how many

// With AG_BF16, matrix products (ag_matmul, ag_matmul_t, ag_linear, and their backward passes) round their operands to
// bfloat16, which keeps 8 of 24 bits, and add up in float32: PyTorch's set_float32_matmul_precision("medium"). Where
// the processor has instructions for it, it is faster (twice with AVX512-BF16, more with AMX); elsewhere it is slower,
// with the same rounding. Parameters and activations stay float32, and on the CPU attention's products do, too; a GPU
// makes those from rounded factors as well where heads have 64 or 128 channels. 0, or -1: the backend cannot.
enum { AG_FLOAT32, AG_BF16 };
int         ag_set_matmul_precision(ag_ctx *ctx, int precision);
int         ag_matmul_precision(const ag_ctx *ctx);
const char *ag_matmul_path(const ag_ctx *ctx);  // "float32", or how bfloat16 is done here: "bf16/amx",
                                                // "bf16/avx512", "bf16/emulated", "bf16/naive". Its bits depend on it.

// ---- tensors -------------------------------------------------------------------------------------------------------
// At most four dimensions, contiguous, row-major. data and grad lie where the backend keeps them: read and write them
// with ag_get and ag_set, never directly.
struct ag_tensor {
    ag_ctx *ctx;
    int ndim, shape[AG_NDIM];       // unused dimensions are 1
    size_t count;                   // number of elements
    ag_real *data, *grad;           // grad is NULL until the first contribution
    int needs_grad, has_grad, keep_grad;
    int computed, viewed, forgotten;    // by an op; another tensor shares the data; ag_forget was called
    int lasting;                    // a parameter: its memory goes to nobody else until ag_free
    unsigned version;               // grows with every write from outside the tape
    const struct agi_op *op;        // NULL for a leaf
    ag_tensor **in;                 // (n_in) operands
    int n_in, iarg[8];              // scalar arguments of the op
    double arg[4];
    void *saved[4];                 // what backward needs besides operands and result
    ag_tensor *older;               // the tape: a list from the newest node to the oldest. Of a parameter, during
                                    // ag_backward for ag_on_gradient: the oldest node that was made from it
    const char *file, *name;        // where it was made, and its name if it has one
    int line;
    // parameters only
    int trainable, decay, group;    // optimizers step the trainable ones of a group; weight decay only where decay
    long steps;                     // steps taken by the optimizer
    ag_real *m, *v;                 // optimizer state, (count) each, NULL until first used
    ag_tensor *int8, *int8_scale;   // see ag_quantize
    unsigned int8_version;          // what version they were made of
    int int8_on;                    // 0: products use data; 1: ag_linear uses them; 2: ag_matmul_t does
};

// Shapes are plain numbers: ag_param(ctx, 2, 8) is a 2x8 matrix. They live until ag_free.
#define AG_DIMS(...) AG_DIMS_(__VA_ARGS__, AG_END, AG_END, AG_END, AG_END, AG_END)
#define AG_DIMS_(a, b, c, d, e, ...) (int)(a), (int)(b), (int)(c), (int)(d), (int)(e)
#define AG_END (-2147483647)
#define ag_param(ctx, ...) ag_param_at(AG_CTX_AT(ctx), AG_DIMS(__VA_ARGS__))            // trainable, zero at first
#define ag_state(ctx, ...) ag_state_at(AG_CTX_AT(ctx), AG_DIMS(__VA_ARGS__))            // survives ag_reset
#define ag_input(ctx, data, ...) ag_input_at(AG_CTX_AT(ctx), data, AG_DIMS(__VA_ARGS__))  // a copy on the tape
#define ag_zeros(ctx, ...) ag_full_at(AG_CTX_AT(ctx), 0, AG_DIMS(__VA_ARGS__))          // on the tape
#define ag_full(ctx, value, ...) ag_full_at(AG_CTX_AT(ctx), value, AG_DIMS(__VA_ARGS__))
ag_tensor *ag_param_at(ag_ctx *ctx, int d0, int d1, int d2, int d3, int end);
ag_tensor *ag_state_at(ag_ctx *ctx, int d0, int d1, int d2, int d3, int end);
ag_tensor *ag_input_at(ag_ctx *ctx, const ag_real *data, int d0, int d1, int d2, int d3, int end);
ag_tensor *ag_full_at(ag_ctx *ctx, ag_real value, int d0, int d1, int d2, int d3, int end);

int  ag_set(ag_tensor *t, const ag_real *from); // (count) values in; 0, or -1 on error
int  ag_get(const ag_tensor *t, ag_real *to);   // (count) values out
int  ag_get_grad(const ag_tensor *t, ag_real *to);                      // zeros where nothing has arrived
int  ag_set_part(ag_tensor *t, size_t first, size_t n, const ag_real *from);
int  ag_get_part(const ag_tensor *t, size_t first, size_t n, ag_real *to);
double ag_item(const ag_tensor *t);             // the value of a tensor of one element; NaN for NULL
void ag_fill(ag_tensor *t, ag_real value);
void ag_randn(ag_tensor *t, ag_real std);       // normal, from the stream AG_RNG_INIT
void ag_rand(ag_tensor *t, ag_real low, ag_real high);                  // uniform in [low, high)
void ag_name(ag_tensor *t, const char *name);   // for error messages; the string is not copied
void ag_keep_grad(ag_tensor *t);                // keep the gradient of a result of an op: that of the latest backward
// After the last op that reads y: its memory serves results of the same size, and backward computes y again when it
// needs it (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost"). The same bits, less memory, a little
// more time. For results of elementwise ops, norms, ag_linear_gelu, ag_swiglu, ag_rope, ag_qk_norm_rope, unless they
// share their memory with a view; for others it is an error. A result that has no gradient goes for good. Inputs stay.
// What y was made from must not be written between forward and backward. 0, or -1.
int  ag_forget(ag_tensor *y);
int  ag_shape_is(const ag_tensor *t, int d0, int d1, int d2, int d3);   // -1 stands for a dimension that is not there

// ---- ops -----------------------------------------------------------------------------------------------------------
// Each returns a new tensor on the tape, or NULL after an error; NULL operands are passed on. a and b broadcast by
// NumPy's rule: shapes are aligned at the right, and a dimension of 1 is repeated.
ag_tensor *ag_add(ag_tensor *a, ag_tensor *b);              // a + b
ag_tensor *ag_sub(ag_tensor *a, ag_tensor *b);              // a - b
ag_tensor *ag_mul(ag_tensor *a, ag_tensor *b);              // a * b
ag_tensor *ag_div(ag_tensor *a, ag_tensor *b);              // a / b
ag_tensor *ag_minimum(ag_tensor *a, ag_tensor *b);          // the gradient goes to the smaller, to a at a tie
ag_tensor *ag_maximum(ag_tensor *a, ag_tensor *b);
ag_tensor *ag_greater(ag_tensor *a, ag_tensor *b);          // 1 where a > b, else 0; no gradient
ag_tensor *ag_where(ag_tensor *condition, ag_tensor *a, ag_tensor *b);  // a where the condition is not 0, else b
ag_tensor *ag_neg(ag_tensor *x);
ag_tensor *ag_scale(ag_tensor *x, double factor);           // x * factor
ag_tensor *ag_shift(ag_tensor *x, double offset);           // x + offset
ag_tensor *ag_pow(ag_tensor *x, double exponent);
ag_tensor *ag_exp(ag_tensor *x);
ag_tensor *ag_log(ag_tensor *x);
ag_tensor *ag_sqrt(ag_tensor *x);
ag_tensor *ag_tanh(ag_tensor *x);
ag_tensor *ag_sigmoid(ag_tensor *x);
ag_tensor *ag_log_sigmoid(ag_tensor *x);                    // -log(1 + e^-x) without overflow
ag_tensor *ag_relu(ag_tensor *x);
ag_tensor *ag_gelu(ag_tensor *x);                           // the tanh form, as in GPT-2
ag_tensor *ag_silu(ag_tensor *x);                           // x * sigmoid(x)
ag_tensor *ag_clamp(ag_tensor *x, double low, double high); // no gradient outside
ag_tensor *ag_detach(ag_tensor *x);                         // the same values, no gradient

ag_tensor *ag_sum(ag_tensor *x);                            // all of it -> ()
ag_tensor *ag_mean(ag_tensor *x);                           // all of it -> ()
ag_tensor *ag_sum_dim(ag_tensor *x, int dim);               // the dimension stays, with size 1, so that the result
ag_tensor *ag_mean_dim(ag_tensor *x, int dim);              // broadcasts against x; negative counts from the end
ag_tensor *ag_max_dim(ag_tensor *x, int dim);               // the gradient goes to the first of equal maxima

ag_tensor *ag_matmul(ag_tensor *a, ag_tensor *b);           // (...,M,K) x (...,K,N) -> (...,M,N), batch broadcasts
ag_tensor *ag_matmul_t(ag_tensor *a, ag_tensor *b);         // (...,M,K) x (...,N,K) -> (...,M,N): b transposed
ag_tensor *ag_linear(ag_tensor *x, ag_tensor *w, ag_tensor *bias);      // x (...,I) w (I,O) bias (O) or NULL -> (...,O)

ag_tensor *ag_linear_gelu(ag_tensor *x, ag_tensor *w, ag_tensor *bias);     // ag_gelu(ag_linear(x, w, bias)), the same
                                                            // bits with fewer passes over memory

// Weights in one byte, for generation and evaluation: from now on ag_linear and ag_matmul (turned 0: w (I,O)) or
// ag_matmul_t (turned 1: w (O,I)) use a copy of w in int8 with a float scale for each output; x stays float. Nothing is
// recorded with it, so where a gradient would be needed that is an error. on 0: the floats again. Writing to w makes
// the copy too old, which is an error until the next call. 0, or -1.
int        ag_quantize(ag_tensor *w, int turned, int on);

ag_tensor *ag_softmax(ag_tensor *x);                        // over the last dimension
ag_tensor *ag_log_softmax(ag_tensor *x);
ag_tensor *ag_layernorm(ag_tensor *x, ag_tensor *w, ag_tensor *bias, double eps);       // x (...,C),
                                                            // w (C), bias (C) or NULL
ag_tensor *ag_rmsnorm(ag_tensor *x, ag_tensor *w, double eps);                      // x (...,C), w (C)

ag_tensor *ag_embedding(ag_tensor *table, const int *ids, int n, int per_row);
                                    // table (V,C), n ids copied to the tape -> (n/per_row, per_row, C); (n, C) if
                                    // per_row is 0
ag_tensor *ag_gather(ag_tensor *x, const int *ids);         // x (...,V), one id for each row -> (...): x[row, id]
#define ag_reshape(x, ...) ag_reshape_to(AG_AT(x), AG_DIMS(__VA_ARGS__))    // one dimension may be -1
ag_tensor *ag_reshape_to(ag_tensor *x, int d0, int d1, int d2, int d3, int end);
ag_tensor *ag_permute(ag_tensor *x, int p0, int p1, int p2, int p3);    // dimension i of the result is dimension p_i of
                                                            // x; -1 for those that x does not have
ag_tensor *ag_slice(ag_tensor *x, int dim, int first, int n);           // n entries from first on
ag_tensor *ag_concat(ag_tensor *const *xs, int n, int dim);
ag_tensor *ag_dropout(ag_tensor *x, double p);              // zero with probability p, else x / (1 - p); p == 0 is x

// A KV cache holds keys and values of B rows of up to T_max positions; make it with ag_state.
typedef struct ag_kv { ag_tensor *k, *v; } ag_kv;           // (B, T_max, NKV*hs) each
// Causal attention, fused: no (T,T) matrix in memory (Dao et al. 2022, "FlashAttention"; Milakov & Gimelshein 2018).
// qkv (B,T,(NH+2*NKV)*hs) -> (B,T,NH*hs). Query i of row b sees positions 0..start[b]+i. Grouped queries: head h reads
// key head h / (NH/NKV). With a cache, keys and values are first written to it at start[b]+i, and positions before
// start[b] are read from it; no backward then. start NULL is zeros; len NULL is all T (rows are right-padded: queries
// at i >= len[b] give zeros and get no gradient).
ag_tensor *ag_attention(ag_tensor *qkv, int n_head, int n_kv_head, ag_kv *cache, const int *start, const int *len);
// The same without padding, for B texts that stand one after the other: qkv (N,W) or (N,1,W), N the sum of len (B), and
// the result as wide as NH*hs. Text b has row `row[b]` of the cache (ascending; NULL: b).
ag_tensor *ag_attention_ragged(ag_tensor *qkv, int n_head, int n_kv_head, ag_kv *cache, int B, const int *row,
                               const int *start, const int *len);
// Rotary positions (Su et al. 2021): x (B,T,H*hs); pairs (2i,2i+1) of the first n_rotate heads turn by
// (start[b]+t) * theta^(-2i/hs); the other heads are copied.
ag_tensor *ag_rope(ag_tensor *x, int head_size, int n_rotate, const int *start, double theta);
// The fusion of ag_rmsnorm over each q head (weight q_norm (hs)) and each k head (k_norm (hs)) with ag_rope. Weights
// may be NULL, theta 0 turns nothing. x (B,T,(NH+2*NKV)*hs) -> the same shape; v is copied.
ag_tensor *ag_qk_norm_rope(ag_tensor *x, ag_tensor *q_norm, ag_tensor *k_norm, int n_head, int n_kv_head,
                           const int *start, double theta, double eps);
ag_tensor *ag_swiglu(ag_tensor *x);                         // x (...,2H) -> silu(x[:H]) * x[H:] (...,H) (Shazeer 2020)
ag_tensor *ag_nll(ag_tensor *logits, const int *targets);   // (...,V) -> (...): -log softmax[target], or 0
ag_tensor *ag_cross_entropy(ag_tensor *logits, const int *targets, const ag_real *weights);
                                    // () = sum w_i nll_i / sum w_i; weights (rows) or NULL; AG_IGNORE has weight 0

// ---- learning ------------------------------------------------------------------------------------------------------
int    ag_backward(ag_tensor *loss);            // d loss / d everything that needs it; gradients of parameters add up
// From now on ag_backward calls ready(user, param) as soon as the gradient of a parameter is complete, before the rest
// of its walk: work on it can begin, such as sums over several GPUs. ready must not call ops. NULL: nobody is told.
void   ag_on_gradient(ag_ctx *ctx, void (*ready)(void *user, ag_tensor *param), void *user);
void   ag_zero_grad(ag_ctx *ctx);
double ag_grad_norm(ag_ctx *ctx);               // over all trainable parameters, of all groups
double ag_clip_grad(ag_ctx *ctx, double max_norm);      // max_norm > 0; returns the norm before; NaN after an error
// Optimizers step the trainable parameters that have a gradient, then zero all gradients. -1 and nothing changed when
// a gradient is not finite.
int    ag_sgd(ag_ctx *ctx, double lr, double momentum, double weight_decay);
int    ag_adamw(ag_ctx *ctx, double lr, double beta1, double beta2, double weight_decay);
#define AG_ALL_GROUPS (-1)
// One group at a time, and no zeroing: call ag_zero_grad after the last. (Loshchilov & Hutter 2019)
int    ag_adamw_group(ag_ctx *ctx, int group, double lr, double beta1, double beta2, double eps, double weight_decay);
int    ag_sgd_group(ag_ctx *ctx, int group, double lr, double momentum, double weight_decay);
// Muon (Jordan et al. 2024): momentum, then the nearest semi-orthogonal matrix by five Newton-Schulz steps. 2-D only.
int    ag_muon_group(ag_ctx *ctx, int group, double lr, double momentum, double weight_decay);
// y and x lie in backend memory; y is not the data of a parameter, whose version would not grow.
int    ag_newton_schulz(ag_ctx *ctx, ag_real *y, const ag_real *x, int rows, int cols, int steps);
void   ag_trainable(ag_tensor *param, int trainable);
int    ag_param_count(const ag_ctx *ctx);
ag_tensor *ag_param_get(const ag_ctx *ctx, int i);      // in order of creation
// Largest |analytic - numeric| / max(1, |analytic|, |numeric|) over all elements of the parameters; f builds a loss ().
double ag_check_grad(ag_ctx *ctx, ag_tensor *(*f)(ag_ctx *ctx, void *user), void *user, double eps);

// ---- the backend table ---------------------------------------------------------------------------------------------
// What an op needs done to memory, one entry for each kernel. An entry returns 0, or -1 when the device failed.
// "accumulate" 1 adds to what is there, 0 overwrites it. Row-major and contiguous unless strides are given (in
// elements; stride 0 repeats). n, rows, c ... are counts of elements.
enum ag_map_op {                    // y = f(x0, x1, x2; p, q)
    AG_MAP_ADD, AG_MAP_SUB, AG_MAP_MUL, AG_MAP_DIV, AG_MAP_MIN, AG_MAP_MAX, AG_MAP_GREATER, AG_MAP_WHERE, AG_MAP_SCALE,
    AG_MAP_SHIFT, AG_MAP_POW, AG_MAP_EXP, AG_MAP_LOG, AG_MAP_SQRT, AG_MAP_TANH, AG_MAP_SIGMOID, AG_MAP_LOG_SIGMOID,
    AG_MAP_RELU, AG_MAP_GELU, AG_MAP_SILU, AG_MAP_CLAMP, AG_MAP_AXPBY /* p*x0 + q*x1 */, AG_MAP_COUNT
};
enum ag_reduce_op { AG_REDUCE_SUM, AG_REDUCE_MAX };

typedef struct ag_attention_args {
    int B, T, NH, NKV, HS;
    const ag_real *qkv;             // (B, T, (NH+2*NKV)*HS); or N for B, T: see first
    ag_real *y, *lse;               // (B, T, NH*HS), (B, NH, T): log of the sum of exponentials, for backward
    ag_real *k_cache, *v_cache;     // (B, T_max, NKV*HS) or NULL
    int T_max;
    const int *start, *len;         // (B) each, or NULL
    const int *first;               // (B): row b begins at this one of the N positions, and has len[b] of them; T is
                                    // the largest of these. NULL: at b*T, and N is B*T
    const int *row;                 // (B): its row in the cache; NULL: b
    const ag_real *dy;              // backward: (B, T, NH*HS)
    ag_real *dqkv;                  // backward: as qkv
    int accumulate;                 // backward: into dqkv
    int precision;                  // AG_FLOAT32, or AG_BF16: the factors of products may be rounded to bfloat16. The
                                    // CPU ignores it, since rounding would take it longer than it saves
} ag_attention_args;

struct ag_backend {
    const char *name, *bf16;        // bf16: what ag_matmul_path says of matmul_bf16
    void *self;
    int threads;
    unsigned steady;                // set around a product whose B is a parameter: 1 + its version. While address and
                                    // version are the same, so are the numbers: a packed copy may be kept. 0: B may be
                                    // anything
    void  (*destroy)(ag_backend *b);
    void *(*alloc)(ag_backend *b, size_t bytes);                        // aligned to 64; not cleared
    void  (*release)(ag_backend *b, void *p);
    int (*write)(ag_backend *b, void *to, const void *host, size_t bytes);
    int (*read)(ag_backend *b, void *host, const void *from, size_t bytes);
    int (*fill)(ag_backend *b, ag_real *y, ag_real value, size_t n);
    // Elementwise over shape[4]; each of up to three operands has its strides. y is contiguous.
    int (*map)(ag_backend *b, int op, ag_real *y, const ag_real *const x[3], const int shape[4],
               const size_t stride[3][4], double p, double q);
    // g (contiguous, the full shape) (+)= dy * d f / d x[which]
    int (*map_back)(ag_backend *b, int op, int which, ag_real *g, const ag_real *y, const ag_real *const x[3],
                    const ag_real *dy, const int shape[4], const size_t stride[3][4], double p, double q,
                    int accumulate);
    // y[i*ystride] (+)= x[i*xstride]: permute, slice, concat and their gradients
    int (*copy)(ag_backend *b, ag_real *y, const size_t ystride[4], const ag_real *x, const size_t xstride[4],
                const int shape[4], int accumulate);
    // (outer, r, inner) -> (outer, inner), times scale
    int (*reduce)(ag_backend *b, int op, ag_real *y, const ag_real *x, size_t outer, size_t r, size_t inner,
                  double scale, int accumulate);
    int (*reduce_back)(ag_backend *b, int op, ag_real *dx, const ag_real *x, const ag_real *y, const ag_real *dy,
                       size_t outer, size_t r, size_t inner, double scale, int accumulate);
    // C (+)= A B (+ bias): M x K times K x N. ta: A is stored (K,M); tb: B is stored (N,K). Two batch dimensions with
    // strides in elements for each operand; where the stride of C is 0 the products of that dimension add up in order.
    // Every element of C is one chain of fused multiply-adds in increasing k, starting from C if accumulate, else from
    // 0; the bias (N) or NULL is added at the end.
    int (*matmul)(ag_backend *b, ag_real *C, const ag_real *A, const ag_real *B, const ag_real *bias, int M, int N,
                  int K, int ta, int tb, const int batch[2], const size_t sc[2], const size_t sa[2], const size_t sb[2],
                  int accumulate);
    // The same with A and B rounded to bfloat16; within a pair of k's (0 and 1, 2 and 3, ...) the odd one may come
    // first. May be NULL.
    int (*matmul_bf16)(ag_backend *b, ag_real *C, const ag_real *A, const ag_real *B, const ag_real *bias, int M, int N,
                       int K, int ta, int tb, const int batch[2], const size_t sc[2], const size_t sa[2],
                       const size_t sb[2], int accumulate);
    // z (rows,O) = x (rows,I) w (I,O) + bias, y = gelu(z); y may be z. precision: AG_FLOAT32 or AG_BF16, of the product
    int (*linear_gelu)(ag_backend *b, ag_real *y, ag_real *z, const ag_real *x, const ag_real *w, const ag_real *bias,
                       int rows, int I, int O, int precision);
    // dz = dy * gelu'(z), which may be dy; dbias (n), or NULL, (+)= the column sums of dz
    int (*gelu_bias_back)(ag_backend *b, ag_real *dz, ag_real *dbias, const ag_real *z, const ag_real *dy, size_t rows,
                          size_t n, int accumulate);
    // y (M,N) = x (M,K) q (K,N) * scale (N) + bias (N) or NULL; a row of q has N up to the next multiple of 16 bytes.
    // One chain of fused multiply-adds in increasing k from 0, then the product with scale, then the sum with bias.
    int (*linear_int8)(ag_backend *b, ag_real *y, const ag_real *x, const signed char *q, const ag_real *scale,
                       const ag_real *bias, int M, int N, int K);
    // rows x n; is_log: log_softmax
    int (*softmax)(ag_backend *b, ag_real *y, const ag_real *x, size_t rows, size_t n, int is_log);
    int (*softmax_back)(ag_backend *b, ag_real *dx, const ag_real *y, const ag_real *dy, size_t rows, size_t n,
                        int is_log, int accumulate);
    // LayerNorm, or RMSNorm if rms. stats (rows, 2): mean (0 for RMS) and 1/deviation. w, bias (n) or NULL.
    int (*norm)(ag_backend *b, ag_real *y, ag_real *stats, const ag_real *x, const ag_real *w, const ag_real *bias,
                size_t rows, size_t n, double eps, int rms);
    // dx, dw, dbias may be NULL (not wanted); each has its own accumulate flag: bit 0, 1, 2
    int (*norm_back)(ag_backend *b, ag_real *dx, ag_real *dw, ag_real *dbias, const ag_real *x, const ag_real *w,
                     const ag_real *stats, const ag_real *dy, size_t rows, size_t n, int rms, int accumulate);
    int (*embedding)(ag_backend *b, ag_real *y, const ag_real *table, const int *ids, size_t n, size_t c);
    int (*embedding_back)(ag_backend *b, ag_real *dtable, const int *ids, const ag_real *dy, size_t n, size_t vocab,
                          size_t c, int accumulate);
    int (*gather)(ag_backend *b, ag_real *y, const ag_real *x, const int *ids, size_t rows, size_t n);
    int (*gather_back)(ag_backend *b, ag_real *dx, const int *ids, const ag_real *dy, size_t rows, size_t n,
                       int accumulate);
    // y (+)= x * mask / (1 - p): element i is kept if 32-bit word i of the stream (from rng.counter on) is at least
    // p*2^32
    int (*dropout)(ag_backend *b, ag_real *y, const ag_real *x, size_t n, double p, ag_rng rng, int accumulate);
    int (*attention)(ag_backend *b, const ag_attention_args *a);
    int (*attention_back)(ag_backend *b, const ag_attention_args *a);
    // x (B,T,H*hs) -> y. RMSNorm with weights q_norm (hs) on heads 0..nq-1 and k_norm on the next nk (NULL: none; rrms
    // (B*T, nq+nk) keeps 1/rms), then the first nq+nk heads turn by (start[b]+t) * theta^(-2i/hs); not for theta 0.
    int (*qk_rope)(ag_backend *b, ag_real *y, ag_real *rrms, const ag_real *x, const ag_real *q_norm,
                   const ag_real *k_norm, int B, int T, int H, int hs, int nq, int nk, const int *start, double theta,
                   double eps);
    int (*qk_rope_back)(ag_backend *b, ag_real *dx, ag_real *dq_norm, ag_real *dk_norm, const ag_real *x,
                        const ag_real *q_norm, const ag_real *k_norm, const ag_real *rrms, const ag_real *dy,
                        int B, int T, int H, int hs, int nq, int nk, const int *start, double theta, int accumulate);
                                                                        // accumulate: bits 0 dx, 1 dq_norm, 2 dk_norm
    int (*swiglu)(ag_backend *b, ag_real *y, const ag_real *x, size_t rows, size_t h);
    int (*swiglu_back)(ag_backend *b, ag_real *dx, const ag_real *x, const ag_real *dy, size_t rows, size_t h,
                       int accumulate);
    // nll (rows), lse (rows): log of the sum of exponentials; a target of AG_IGNORE gives 0
    int (*nll)(ag_backend *b, ag_real *nll, ag_real *lse, const ag_real *logits, const int *targets, size_t rows,
               size_t n);
    int (*nll_back)(ag_backend *b, ag_real *dlogits, const ag_real *logits, const ag_real *lse, const int *targets,
                    const ag_real *dnll, size_t rows, size_t n, int accumulate);
    // out[i], in host memory, = the sum of the squares of x[i] (n[i]): all tensors in one call, since a device that is
    // asked for a number has to finish what it was given
    int (*sum_squares)(ag_backend *b, double *out, const ag_real *const *x, const size_t *n, int count);
    // y = x / (root of the sum of x's squares + eps), for a device that would have to hand over the sum. May be NULL
    int (*unit)(ag_backend *b, ag_real *y, const ag_real *x, size_t n, double eps);
    int (*sgd)(ag_backend *b, ag_real *w, const ag_real *g, ag_real *m, size_t n, double lr, double momentum,
               double weight_decay, double grad_scale);                 // m NULL: no momentum
    int (*adamw)(ag_backend *b, ag_real *w, const ag_real *g, ag_real *m, ag_real *v, size_t n, double lr, double beta1,
                 double beta2, double eps, double weight_decay, long step, double grad_scale);
};
ag_backend *ag_cpu_backend(const char *which, int threads);     // which: as AG_CPU, NULL is the best; threads 0: all

// An op's error names the place where the reader called it: every op passes through AG_AT, which notes it.
ag_tensor *ag_at(const ag_tensor *t, const char *file, int line);
ag_ctx    *ag_ctx_at(ag_ctx *ctx, const char *file, int line);
ag_tensor *const *ag_at_all(ag_tensor *const *xs, int n, const char *file, int line);
#define AG_AT(tensor) ag_at(tensor, __FILE__, __LINE__)
#define AG_CTX_AT(ctx) ag_ctx_at(ctx, __FILE__, __LINE__)
#define AG_AT_ALL(xs, n) ag_at_all(xs, n, __FILE__, __LINE__)
#define ag_add(a, b) ag_add(AG_AT(a), b)
#define ag_sub(a, b) ag_sub(AG_AT(a), b)
#define ag_mul(a, b) ag_mul(AG_AT(a), b)
#define ag_div(a, b) ag_div(AG_AT(a), b)
#define ag_minimum(a, b) ag_minimum(AG_AT(a), b)
#define ag_maximum(a, b) ag_maximum(AG_AT(a), b)
#define ag_greater(a, b) ag_greater(AG_AT(a), b)
#define ag_matmul(a, b) ag_matmul(AG_AT(a), b)
#define ag_matmul_t(a, b) ag_matmul_t(AG_AT(a), b)
#define ag_where(condition, a, b) ag_where(AG_AT(condition), a, b)
#define ag_neg(x) ag_neg(AG_AT(x))
#define ag_exp(x) ag_exp(AG_AT(x))
#define ag_log(x) ag_log(AG_AT(x))
#define ag_sqrt(x) ag_sqrt(AG_AT(x))
#define ag_tanh(x) ag_tanh(AG_AT(x))
#define ag_sigmoid(x) ag_sigmoid(AG_AT(x))
#define ag_log_sigmoid(x) ag_log_sigmoid(AG_AT(x))
#define ag_relu(x) ag_relu(AG_AT(x))
#define ag_gelu(x) ag_gelu(AG_AT(x))
#define ag_silu(x) ag_silu(AG_AT(x))
#define ag_detach(x) ag_detach(AG_AT(x))
#define ag_sum(x) ag_sum(AG_AT(x))
#define ag_mean(x) ag_mean(AG_AT(x))
#define ag_softmax(x) ag_softmax(AG_AT(x))
#define ag_log_softmax(x) ag_log_softmax(AG_AT(x))
#define ag_swiglu(x) ag_swiglu(AG_AT(x))
#define ag_scale(x, factor) ag_scale(AG_AT(x), factor)
#define ag_shift(x, offset) ag_shift(AG_AT(x), offset)
#define ag_pow(x, exponent) ag_pow(AG_AT(x), exponent)
#define ag_clamp(x, low, high) ag_clamp(AG_AT(x), low, high)
#define ag_sum_dim(x, dim) ag_sum_dim(AG_AT(x), dim)
#define ag_mean_dim(x, dim) ag_mean_dim(AG_AT(x), dim)
#define ag_max_dim(x, dim) ag_max_dim(AG_AT(x), dim)
#define ag_linear(x, w, bias) ag_linear(AG_AT(x), w, bias)
#define ag_linear_gelu(x, w, bias) ag_linear_gelu(AG_AT(x), w, bias)
#define ag_layernorm(x, w, bias, eps) ag_layernorm(AG_AT(x), w, bias, eps)
#define ag_rmsnorm(x, w, eps) ag_rmsnorm(AG_AT(x), w, eps)
#define ag_embedding(table, ids, n, per_row) ag_embedding(AG_AT(table), ids, n, per_row)
#define ag_gather(x, ids) ag_gather(AG_AT(x), ids)
#define ag_permute(x, p0, p1, p2, p3) ag_permute(AG_AT(x), p0, p1, p2, p3)
#define ag_slice(x, dim, first, n) ag_slice(AG_AT(x), dim, first, n)
#define ag_concat(xs, n, dim) ag_concat(AG_AT_ALL(xs, n), n, dim)
#define ag_dropout(x, p) ag_dropout(AG_AT(x), p)
#define ag_attention(qkv, n_head, n_kv_head, cache, start, len) \
    ag_attention(AG_AT(qkv), n_head, n_kv_head, cache, start, len)
#define ag_attention_ragged(qkv, n_head, n_kv_head, cache, B, row, start, len) \
    ag_attention_ragged(AG_AT(qkv), n_head, n_kv_head, cache, B, row, start, len)
#define ag_rope(x, head_size, n_rotate, start, theta) ag_rope(AG_AT(x), head_size, n_rotate, start, theta)
#define ag_qk_norm_rope(x, q_norm, k_norm, n_head, n_kv_head, start, theta, eps) \
    ag_qk_norm_rope(AG_AT(x), q_norm, k_norm, n_head, n_kv_head, start, theta, eps)
#define ag_nll(logits, targets) ag_nll(AG_AT(logits), targets)
#define ag_cross_entropy(logits, targets, weights) ag_cross_entropy(AG_AT(logits), targets, weights)
#define ag_set(t, from) ag_set(AG_AT(t), from)
#define ag_get(t, to) ag_get(AG_AT(t), to)
#define ag_get_grad(t, to) ag_get_grad(AG_AT(t), to)
#define ag_set_part(t, first, n, from) ag_set_part(AG_AT(t), first, n, from)
#define ag_get_part(t, first, n, to) ag_get_part(AG_AT(t), first, n, to)
#define ag_item(t) ag_item(AG_AT(t))
#define ag_forget(y) ag_forget(AG_AT(y))
#define ag_backward(loss) ag_backward(AG_AT(loss))
#define ag_grad_norm(ctx) ag_grad_norm(AG_CTX_AT(ctx))
#define ag_clip_grad(ctx, max_norm) ag_clip_grad(AG_CTX_AT(ctx), max_norm)
#define ag_set_matmul_precision(ctx, precision) ag_set_matmul_precision(AG_CTX_AT(ctx), precision)
#define ag_newton_schulz(ctx, y, x, rows, cols, steps) ag_newton_schulz(AG_CTX_AT(ctx), y, x, rows, cols, steps)
#define ag_check_grad(ctx, f, user, eps) ag_check_grad(AG_CTX_AT(ctx), f, user, eps)
#define ag_sgd(ctx, lr, momentum, weight_decay) ag_sgd(AG_CTX_AT(ctx), lr, momentum, weight_decay)
#define ag_adamw(ctx, lr, beta1, beta2, weight_decay) ag_adamw(AG_CTX_AT(ctx), lr, beta1, beta2, weight_decay)
#define ag_sgd_group(ctx, group, lr, momentum, weight_decay) \
    ag_sgd_group(AG_CTX_AT(ctx), group, lr, momentum, weight_decay)
#define ag_adamw_group(ctx, group, lr, beta1, beta2, eps, weight_decay) \
    ag_adamw_group(AG_CTX_AT(ctx), group, lr, beta1, beta2, eps, weight_decay)
#define ag_muon_group(ctx, group, lr, momentum, weight_decay) \
    ag_muon_group(AG_CTX_AT(ctx), group, lr, momentum, weight_decay)

#ifdef __cplusplus
}
#endif
#endif // AUTOGRAD_H

#if defined(AUTOGRAD_IMPLEMENTATION) && !defined(AGI_PASS) && !defined(AUTOGRAD_IMPLEMENTED)
#define AUTOGRAD_IMPLEMENTED

#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// A multiply and an add become one fused operation only where the code says so; left to itself gcc fuses them depending
// on flags, and the same seed would give other bits. (gcc ignores the standard pragma, clang honours it.)
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC push_options
#pragma GCC optimize("O1", "fp-contract=off")
#endif

// Inside this file an op that calls an op leaves the reader's place as it is.
#undef AG_AT
#undef AG_CTX_AT
#undef AG_AT_ALL
#define AG_AT(tensor) tensor
#define AG_CTX_AT(ctx) ctx
#define AG_AT_ALL(xs, n) xs

#define AGI_MAX(a, b) ((a) > (b) ? (a) : (b))
#define AGI_MIN(a, b) ((a) < (b) ? (a) : (b))

// ====================================================================================================================
// Chapter 1: numbers that know where they come from
// ====================================================================================================================
// Write y = x*x + x, and C forgets at once how y came about. Here every operation leaves a small record behind: the
// result, which operation it was, and which values went in. The records of a computation form its graph. To learn how y
// moves when x moves a little, we walk that graph from y backwards and apply the chain rule once per record:
//
//     if y = f(a, b) and we know dL/dy, then a receives dL/dy * dy/da, and b receives dL/dy * dy/db.
//
// That is all there is to it. One walk gives the derivative of one result by every number behind it, a million weights
// if need be, for about the price of computing the result once more. Asking each weight separately, "what happens if I
// nudge you?", would cost one computation per weight. This difference is why neural networks can be trained at all.
// (The method is Linnainmaa's, 1970; the form with small objects and operators follows Andrej Karpathy's micrograd.)

// ---- forward and backward -------------------------------------------------------------------------------------------
// The whole calculus of this chapter is these two switches. Each line of the second takes up the line of the first with
// the same name; dy is dL/dy for the final result L, and what an operand receives is dy times the local derivative.
static void agi_value_forward(ag_value *y) {
    const ag_value *a = y->a, *b = y->b;
    switch (y->op) {
    case AG_V_ADD:  y->data = a->data + b->data; break;
    case AG_V_SUB:  y->data = a->data - b->data; break;
    case AG_V_MUL:  y->data = a->data * b->data; break;
    case AG_V_DIV:  y->data = a->data / b->data; break;
    case AG_V_POW:  y->data = pow(a->data, b->data); break;
    case AG_V_NEG:  y->data = -a->data; break;
    case AG_V_RELU: y->data = a->data < 0 ? 0 : a->data; break;
    case AG_V_TANH: y->data = tanh(a->data); break;
    case AG_V_EXP:  y->data = exp(a->data); break;
    case AG_V_LOG:  y->data = log(a->data); break;
    default: break;
    }
}

// Why += and not =? Because a value may be used twice. Take b = a + a; c = b + b: c is 4a, so dc/da must be 4. Walking
// back, c hands 1 to b twice, so b needs 1 + 1 = 2; b hands its 2 to a twice, so a needs 2 + 2 = 4. With = the second
// contribution would overwrite the first, and a would end up with 1. Paths add up: that is the chain rule in several
// variables, and the commonest bug of those who write their own backward.
static void agi_value_backward(const ag_value *y) {
    ag_value *a = y->a, *b = y->b;
    const double dy = y->grad;
    switch (y->op) {
    case AG_V_ADD:  a->grad += dy;           b->grad += dy; break;
    case AG_V_SUB:  a->grad += dy;           b->grad -= dy; break;
    case AG_V_MUL:  a->grad += dy * b->data; b->grad += dy * a->data; break;
    case AG_V_DIV:  a->grad += dy / b->data; b->grad -= dy * y->data / b->data; break;      // d(a/b)/db = -(a/b)/b
    case AG_V_POW:  if (b->data != 0) a->grad += dy * b->data * pow(a->data, b->data - 1); break;
    case AG_V_NEG:  a->grad -= dy; break;
    case AG_V_RELU: a->grad += y->data > 0 ? dy : 0; break;                                 // at the kink itself: 0
    case AG_V_TANH: a->grad += dy * (1 - y->data * y->data); break;
    case AG_V_EXP:  a->grad += dy * y->data; break;                                         // its own derivative
    case AG_V_LOG:  a->grad += dy / a->data; break;
    default: break;
    }
}

// ---- where values live ----------------------------------------------------------------------------------------------
// Values lie on pages of 1,024, in the order in which they are made, and pages are never moved or given back before the
// end, so that a pointer to a value stays good. A value finds its page, and so its graph, by its slot number.
enum { AGI_SLOTS = 1024 };
typedef struct agi_page {
    ag_graph *graph;
    struct agi_page *older, *newer;
    size_t number;              // pages that lie before it, all of them full
    ag_value values[AGI_SLOTS];
} agi_page;

struct ag_graph {
    agi_page *first, *last;     // the oldest page; the one that is being filled. Pages beyond it wait to be used again
    int filled;                 // slots taken on the last page
    ag_rng rng;                 // for the weights of neurons
    char error[160];
};

static agi_page *agi_page_of(const ag_value *v) {
    return (agi_page *)(void *)((char *)(v - v->slot) - offsetof(agi_page, values));
}
static ag_graph *agi_graph_of(const ag_value *v) { return agi_page_of(v)->graph; }

// The first error is the cause, later ones are its echo.
static ag_value *agi_graph_fail(ag_graph *g, const char *message) {
    if (!g->error[0]) snprintf(g->error, sizeof g->error, "%s", message);
#ifdef AG_DIE_ON_ERROR
    fprintf(stderr, "%s\n", g->error);
    exit(1);
#endif
    return NULL;
}

// Room for one more value, as it comes from the allocator or from an earlier use.
static ag_value *agi_value_new(ag_graph *g) {
    if (g->error[0]) return NULL;
    if (!g->last || g->filled == AGI_SLOTS) {
        agi_page *next = g->last ? g->last->newer : g->first;
        if (!next) {
            next = (agi_page *)AG_MALLOC(sizeof *next);
            if (!next) return agi_graph_fail(g, "out of memory for a value. In a training loop, ag_graph_rewind frees "
                                                "the values of the last step");
            next->graph = g, next->older = g->last, next->newer = NULL;
            next->number = g->last ? g->last->number + 1 : 0;
            if (g->last) g->last->newer = next; else g->first = next;
        }
        g->last = next, g->filled = 0;
    }
    ag_value *v = &g->last->values[g->filled];
    v->slot = g->filled++;
    return v;
}

static ag_value *agi_value_older(const ag_value *v) {
    agi_page *page = agi_page_of(v);
    return v->slot ? (ag_value *)v - 1 : page->older ? &page->older->values[AGI_SLOTS - 1] : NULL;
}

// ---- the walk -------------------------------------------------------------------------------------------------------
// An operand is always older than what is computed from it. So the order in which values were made, read backwards,
// visits every result before its operands: no sorting, no recursion, and a chain of a million values needs no more
// stack than a chain of two. Values that lie between but have no part in the result keep a gradient of 0 and are passed
// over.
void ag_vbackward(ag_value *result) {
    if (!result || agi_graph_of(result)->error[0]) return;
    for (ag_value *v = result; v; v = agi_value_older(v)) if (v->op != AG_V_LEAF) v->grad = 0;  // from an earlier call
    result->grad += 1;                                                                      // dL/dL
    for (ag_value *v = result; v; v = agi_value_older(v)) if (v->grad != 0) agi_value_backward(v);
}

void ag_vforward(ag_value *result) {
    if (!result || agi_graph_of(result)->error[0]) return;
    for (ag_value *v = ag_graph_first(agi_graph_of(result)); v != result; v = ag_vnext(v)) agi_value_forward(v);
    agi_value_forward(result);
}

// ---- operations -----------------------------------------------------------------------------------------------------
static ag_value *agi_value_op(int op, ag_value *a, ag_value *b) {
    if (!a || !b) return NULL;
    ag_graph *g = agi_graph_of(a);
    if (agi_graph_of(b) != g) return agi_graph_fail(g, "the operands belong to two graphs; make them both with one");
    ag_value *y = agi_value_new(g);
    if (!y) return NULL;
    y->grad = 0, y->a = a, y->b = b, y->label = NULL, y->op = (short)op, y->seen = 0;
    agi_value_forward(y);
    return y;
}

static ag_value *agi_value_op1(int op, ag_value *a) {
    ag_value *y = agi_value_op(op, a, a);
    if (y) y->b = NULL;
    return y;
}

ag_value *ag_var(ag_graph *g, double data) {
    ag_value *v = g ? agi_value_new(g) : NULL;
    if (!v) return NULL;
    v->data = data, v->grad = 0, v->a = v->b = NULL, v->label = NULL, v->op = AG_V_LEAF, v->seen = 0;
    return v;
}

ag_value *ag_vadd(ag_value *a, ag_value *b) { return agi_value_op(AG_V_ADD, a, b); }
ag_value *ag_vsub(ag_value *a, ag_value *b) { return agi_value_op(AG_V_SUB, a, b); }
ag_value *ag_vmul(ag_value *a, ag_value *b) { return agi_value_op(AG_V_MUL, a, b); }
ag_value *ag_vdiv(ag_value *a, ag_value *b) { return agi_value_op(AG_V_DIV, a, b); }
ag_value *ag_vneg(ag_value *a)  { return agi_value_op1(AG_V_NEG, a); }
ag_value *ag_vrelu(ag_value *a) { return agi_value_op1(AG_V_RELU, a); }
ag_value *ag_vtanh(ag_value *a) { return agi_value_op1(AG_V_TANH, a); }
ag_value *ag_vexp(ag_value *a)  { return agi_value_op1(AG_V_EXP, a); }
ag_value *ag_vlog(ag_value *a)  { return agi_value_op1(AG_V_LOG, a); }

// Constants are leaves like any other; nobody looks at their gradients. (The exponent of a power does not even get
// one.)
static ag_value *agi_value_const(const ag_value *a, double k) { return a ? ag_var(agi_graph_of(a), k) : NULL; }
ag_value *ag_vpow(ag_value *a, double k)   { return agi_value_op(AG_V_POW, a, agi_value_const(a, k)); }
ag_value *ag_vscale(ag_value *a, double k) { return agi_value_op(AG_V_MUL, a, agi_value_const(a, k)); }
ag_value *ag_vshift(ag_value *a, double k) { return agi_value_op(AG_V_ADD, a, agi_value_const(a, k)); }

// ---- graphs ---------------------------------------------------------------------------------------------------------
ag_graph *ag_graph_new(unsigned long long seed) {
    ag_graph *g = (ag_graph *)AG_MALLOC(sizeof *g);
    if (!g) {
#ifdef AG_DIE_ON_ERROR
        fprintf(stderr, "ag_graph_new: out of memory\n");
        exit(1);
#endif
        return NULL;
    }
    memset(g, 0, sizeof *g);
    g->rng.key = seed;
    return g;
}

void ag_graph_free(ag_graph *g) {
    if (!g) return;
    for (agi_page *page = g->first, *newer; page; page = newer) newer = page->newer, AG_FREE(page);
    AG_FREE(g);
}

const char *ag_graph_error(const ag_graph *g) {
    return !g ? "ag_graph_new: out of memory" : g->error[0] ? g->error : NULL;
}
void ag_graph_clear_error(ag_graph *g) { if (g) g->error[0] = 0; }

size_t ag_graph_mark(const ag_graph *g) { return g && g->last ? g->last->number * AGI_SLOTS + (size_t)g->filled : 0; }

void ag_graph_rewind(ag_graph *g, size_t mark) {
    if (mark >= ag_graph_mark(g)) return;
    while (g->last->older && mark <= g->last->number * AGI_SLOTS) g->last = g->last->older;
    g->filled = (int)(mark - g->last->number * AGI_SLOTS);
}

size_t ag_vindex(const ag_value *v) { return v ? agi_page_of(v)->number * AGI_SLOTS + (size_t)v->slot : 0; }
ag_value *ag_graph_first(const ag_graph *g) { return ag_graph_mark(g) ? g->first->values : NULL; }

ag_value *ag_vnext(const ag_value *v) {
    if (!v) return NULL;
    agi_page *page = agi_page_of(v);
    if (page == page->graph->last) return v->slot + 1 < page->graph->filled ? (ag_value *)v + 1 : NULL;
    return v->slot + 1 < AGI_SLOTS ? (ag_value *)v + 1 : page->newer->values;
}

void ag_graph_zero_grad(ag_graph *g) {
    for (ag_value *v = ag_graph_first(g); v; v = ag_vnext(v)) v->grad = 0;
}

ag_value *ag_vlabel(ag_value *v, const char *label) {
    if (v) v->label = label;
    return v;
}

const char *ag_vop(const ag_value *v) {
#define AGI_VALUE_SIGN(name, sign) sign,
    static const char *const signs[] = { AG_VALUE_OPS(AGI_VALUE_SIGN) "" };
    return v ? signs[v->op] : "";
}

// ---- the picture ----------------------------------------------------------------------------------------------------
static void agi_dot(char *out, size_t cap, size_t *n, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int more = vsnprintf(*n < cap ? out + *n : NULL, *n < cap ? cap - *n : 0, format, args);
    va_end(args);
    if (more > 0) *n += (size_t)more;
}

// What took part in the result is found as backward finds it: from the newest to the oldest, each marks its operands.
size_t ag_graph_dot(const ag_value *result, char *out, size_t cap) {
    size_t n = 0;
    agi_dot(out, cap, &n, "digraph {\n    rankdir=LR; node [fontname=Helvetica];\n");
    if (result) ((ag_value *)result)->seen = 1;
    for (ag_value *v = (ag_value *)result; v; v = agi_value_older(v)) {
        unsigned long i = (unsigned long)ag_vindex(v);
        if (!v->seen) continue;
        v->seen = 0;
        agi_dot(out, cap, &n, "    v%lu [shape=record, label=\"", i);
        for (const char *c = v->label; c && *c; c++)        // these characters mean something to Graphviz
            agi_dot(out, cap, &n, strchr("\"\\{}|<>", *c) ? "\\%c" : "%c", *c);
        agi_dot(out, cap, &n, "%sdata %.4f | grad %.4f\"];\n", v->label ? " | " : "", v->data, v->grad);
        if (v->op == AG_V_LEAF) continue;
        agi_dot(out, cap, &n, "    op%lu [label=\"%s\"]; op%lu -> v%lu;\n", i, ag_vop(v), i, i);
        for (int side = 0; side < 2; side++) {
            ag_value *operand = side ? v->b : v->a;
            if (!operand) continue;
            operand->seen = 1;
            agi_dot(out, cap, &n, "    v%lu -> op%lu;\n", (unsigned long)ag_vindex(operand), i);
        }
    }
    agi_dot(out, cap, &n, "}\n");
    return n;
}

// ---- neurons, layers, networks --------------------------------------------------------------------------------------
// A neuron is a weighted sum with a bend at the end: relu(w[0]*x[0] + ... + w[n-1]*x[n-1] + bias). Without the bend,
// layers upon layers of sums would still be one sum, and no line separates two moons.
ag_value *ag_neuron_call(const ag_neuron *neuron, ag_value *const *x) {
    ag_value *y = neuron->w[neuron->n_in];
    for (int i = 0; i < neuron->n_in; i++) y = ag_vadd(y, ag_vmul(neuron->w[i], x[i]));
    return neuron->relu ? ag_vrelu(y) : y;
}

int ag_layer_call(const ag_layer *layer, ag_value *const *x, ag_value **y) {
    for (int i = 0; i < layer->n_out; i++) y[i] = ag_neuron_call(&layer->neurons[i], x);
    return y[layer->n_out - 1] ? 0 : -1;
}

// Two rows of `hidden` take turns: what one layer writes, the next one reads.
int ag_mlp_call(const ag_mlp *mlp, ag_value *const *x, ag_value **y) {
    int status = -1;
    for (int i = 0; mlp && i < mlp->n_layers; i++) {
        ag_value **out = i == mlp->n_layers - 1 ? y : mlp->hidden + i % 2 * mlp->width;
        status = ag_layer_call(&mlp->layers[i], x, out);
        x = out;
    }
    return status;
}

// One block of memory holds the network: the struct, its layers, neurons, and the pointers to parameters and hidden
// values.
ag_mlp *ag_mlp_new(ag_graph *g, int n_in, const int *sizes, int n_layers) {
    size_t neurons = 0, params = 0, width = 0, most = (size_t)1 << 26;
    if (!g || g->error[0]) return NULL;
    for (int i = 0, n = n_in; i < n_layers && sizes; n = sizes[i++]) {
        if (n < 1 || sizes[i] < 1 || (size_t)sizes[i] > (most - params) / ((size_t)n + 1)) { params = 0; break; }
        neurons += (size_t)sizes[i], params += (size_t)sizes[i] * ((size_t)n + 1);
        if ((size_t)sizes[i] > width) width = (size_t)sizes[i];
    }
    if (!params) {
        agi_graph_fail(g, "ag_mlp_new: there must be at least one layer, every size at least 1, and no more than "
                          "67,108,864 parameters");
        return NULL;
    }
    ag_mlp *mlp = (ag_mlp *)AG_MALLOC(sizeof *mlp + (size_t)n_layers * sizeof(ag_layer) + neurons * sizeof(ag_neuron) +
                                      (params + 2 * width) * sizeof(ag_value *));
    if (!mlp) { agi_graph_fail(g, "ag_mlp_new: out of memory"); return NULL; }
    mlp->n_layers = n_layers, mlp->n_params = 0, mlp->width = (int)width;
    mlp->layers = (ag_layer *)(mlp + 1);
    ag_neuron *neuron = (ag_neuron *)(mlp->layers + n_layers);
    mlp->params = (ag_value **)(neuron + neurons), mlp->hidden = mlp->params + params;
    for (int i = 0; i < n_layers; i++) {
        ag_layer *layer = &mlp->layers[i];
        layer->n_in = i ? sizes[i - 1] : n_in, layer->n_out = sizes[i], layer->neurons = neuron;
        for (int j = 0; j < layer->n_out; j++, neuron++) {
            neuron->n_in = layer->n_in, neuron->relu = i < n_layers - 1, neuron->w = mlp->params + mlp->n_params;
            for (int k = 0; k < layer->n_in; k++) neuron->w[k] = ag_var(g, 2 * ag_rng_uniform(&g->rng) - 1);
            neuron->w[layer->n_in] = ag_var(g, 0);
            mlp->n_params += layer->n_in + 1;
        }
    }
    if (!g->error[0]) return mlp;
    AG_FREE(mlp);
    return NULL;
}

void ag_mlp_free(ag_mlp *mlp) { if (mlp) AG_FREE(mlp); }

ag_value **ag_mlp_params(const ag_mlp *mlp, int *n) {
    *n = mlp ? mlp->n_params : 0;
    return mlp ? mlp->params : NULL;
}

// ====================================================================================================================
// Chapter 2: tensors, and where they live
// ====================================================================================================================
// A training step makes hundreds of tensors and needs none of them a moment later. So nobody frees a tensor: memory
// comes from arenas, lists of large chunks that are filled from the front. Emptying an arena is setting one number to
// zero, pointers never move, and from the second step on malloc is not called at all.
// There are three lives: parameters (until ag_free), state (KV caches, optimizer moments: survives ag_reset), tape.

typedef struct agi_chunk { struct agi_chunk *next; char *base; void *block; size_t size; } agi_chunk;
typedef struct agi_arena { agi_chunk *first, *current; size_t used, total, peak; int on_device; } agi_arena;

enum { AGI_PARAMS, AGI_STATE, AGI_TAPE, AGI_LIVES, AGI_SPARES = 64 };

struct ag_ctx {
    ag_backend *backend;
    agi_arena host[AGI_LIVES], device[AGI_LIVES];   // tensor structs; their numbers
    ag_tensor **params, *last;                      // (n_params); the newest node of the tape
    int n_params, cap_params, no_grad, precision, dry;
    struct { ag_real *data; size_t count; } spare[AGI_SPARES];          // buffers on the tape that may be used again
    int n_spare;
    double grad_scale, grad_norm;                   // set by clipping; grad_norm < 0: not computed for these gradients
    void (*ready)(void *user, ag_tensor *param);    // see ag_on_gradient
    void *ready_user;
    ag_rng rng[AG_RNG_COUNT];
    const char *file;                               // where the reader called
    int line;
    size_t mallocs, reserved;
    char error[512];
};

// ---- errors --------------------------------------------------------------------------------------------------------
static void agi_vfail(ag_ctx *ctx, const char *op, const char *format, va_list args) {
    size_t n = 0;
    if (ctx->error[0]) return;                      // the first error is the cause, later ones are its echo
    if (ctx->file) n += (size_t)snprintf(ctx->error, sizeof ctx->error, "%.200s:%d: ", ctx->file, ctx->line);
    if (op) n += (size_t)snprintf(ctx->error + n, sizeof ctx->error - n, "%.60s: ", op);
#ifdef __MINGW32__                                  // Windows' own does not know %zu
    __mingw_vsnprintf(ctx->error + n, sizeof ctx->error - n, format, args);
#else
    vsnprintf(ctx->error + n, sizeof ctx->error - n, format, args);
#endif
#ifdef AG_DIE_ON_ERROR
    if (ctx->dry) return;                           // a dry run asks whether something would go well
    fprintf(stderr, "%s\n", ctx->error);
    exit(1);
#endif
}

#if defined(__MINGW32__)
__attribute__((format(gnu_printf, 3, 4)))
#elif defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
static void agi_fail(ag_ctx *ctx, const char *op, const char *format, ...) {
    va_list args;
    va_start(args, format);
    agi_vfail(ctx, op, format, args);
    va_end(args);
}

int ag_fail(ag_ctx *ctx, const char *format, ...) {
    va_list args;
    va_start(args, format);
    if (ctx) agi_vfail(ctx, NULL, format, args);
    va_end(args);
    return -1;
}

const char *ag_error(const ag_ctx *ctx) { return !ctx ? "ag_new: out of memory" : ctx->error[0] ? ctx->error : NULL; }
void ag_clear_error(ag_ctx *ctx) { if (ctx) ctx->error[0] = 0; }

ag_tensor *ag_at(const ag_tensor *t, const char *file, int line) {
    if (t) t->ctx->file = file, t->ctx->line = line;
    return (ag_tensor *)t;
}

ag_tensor *const *ag_at_all(ag_tensor *const *xs, int n, const char *file, int line) {
    if (xs && n > 0) ag_at(xs[0], file, line);
    return xs;
}

ag_ctx *ag_ctx_at(ag_ctx *ctx, const char *file, int line) {
    if (ctx) ctx->file = file, ctx->line = line;
    return ctx;
}

// "(4,64,32)" into a caller's buffer; an array of text for each operand of a message.
typedef struct agi_text { char s[64]; } agi_text;
static agi_text agi_shape(const ag_tensor *t) {
    agi_text text;
    size_t n = 1;
    strcpy(text.s, "(");
    for (int i = 0; i < t->ndim; i++) n += (size_t)snprintf(text.s + n, sizeof text.s - n, i ? ",%d" : "%d",
                                                            t->shape[i]);
    snprintf(text.s + n, sizeof text.s - n, ")");
    return text;
}

// Every kernel reports through here, so that a full device memory is an error like any other.
static int agi_status(ag_ctx *ctx, const char *kernel, int status) {
    if (status) agi_fail(ctx, kernel, "the backend %s failed (out of memory?)", ctx->backend->name);
    return status;
}
#define AGI_RUN(ctx, kernel, ...) \
    ((ctx)->dry ? 0 : agi_status(ctx, #kernel, (ctx)->backend->kernel((ctx)->backend, __VA_ARGS__)))

// ---- arenas --------------------------------------------------------------------------------------------------------
static void *agi_alloc(ag_ctx *ctx, agi_arena *a, size_t bytes) {
    if (bytes > SIZE_MAX / 4) {
        agi_fail(ctx, NULL, "%zu bytes are more than this machine can address", bytes);
        return NULL;
    }
    bytes = (bytes + 63) / 64 * 64 + (bytes == 0) * 64;
    while (!a->current || a->used + bytes > a->current->size) {
        agi_chunk *next = a->current ? a->current->next : a->first;
        if (!next || next->size < bytes) {          // chunks double up to 64 MB: few of them, and little left over
            size_t size = a->on_device ? (size_t)1 << 20 : (size_t)1 << 14, have = 0;
            agi_chunk *c = (agi_chunk *)AG_MALLOC(sizeof *c);
            for (agi_chunk *i = a->first; i; i = i->next) have += i->size;
            while (size < bytes || (size < have && size < (size_t)64 << 20)) size *= 2;
            if (bytes > (size_t)64 << 20) size = bytes;
            ctx->mallocs += 2;
            if (c) {
                c->block = a->on_device && ctx->dry ? (void *)(uintptr_t)64 // nobody goes there
                         : a->on_device ? ctx->backend->alloc(ctx->backend, size) : AG_MALLOC(size + 64);
                if (!c->block) { AG_FREE(c); c = NULL; }
            }
            if (!c) {
                agi_fail(ctx, NULL, "out of memory: %zu bytes wanted, %zu held", size, ctx->reserved);
                return NULL;
            }
            c->base = a->on_device ? (char *)c->block : (char *)c->block + 64 - (uintptr_t)c->block % 64;
            c->size = size, c->next = next, ctx->reserved += size;
            if (a->current) a->current->next = c; else a->first = c;
            next = c;
        }
        a->current = next, a->used = 0;
    }
    char *p = a->current->base + a->used;
    a->used += bytes, a->total += bytes;
    if (a->total > a->peak) a->peak = a->total;
    return p;
}

static void agi_arena_free(ag_ctx *ctx, agi_arena *a) {
    for (agi_chunk *c = a->first, *next; c; c = next) {
        next = c->next;
        if (!a->on_device) AG_FREE(c->block);
        else if (!ctx->dry) ctx->backend->release(ctx->backend, c->block);
        AG_FREE(c);
    }
}

// ---- contexts ------------------------------------------------------------------------------------------------------
ag_ctx *ag_new_with(unsigned long long seed, ag_backend *backend) {
    ag_ctx *ctx = backend ? (ag_ctx *)AG_MALLOC(sizeof *ctx) : NULL;
    if (!ctx) {
        if (backend) backend->destroy(backend);
#ifdef AG_DIE_ON_ERROR
        fprintf(stderr, "ag_new: out of memory\n");
        exit(1);
#endif
        return NULL;
    }
    memset(ctx, 0, sizeof *ctx);
    ctx->backend = backend, ctx->grad_scale = 1, ctx->grad_norm = -1;
    for (int i = 0; i < AGI_LIVES; i++) ctx->device[i].on_device = 1;
    for (int i = 0; i < AG_RNG_COUNT; i++) ctx->rng[i].key = seed ^ ((uint64_t)(i + 1) << 56), ctx->rng[i].counter = 0;
    return ctx;
}

ag_ctx *ag_new_dry(void) {
    ag_ctx *ctx = ag_new_with(0, ag_cpu_backend(NULL, 1));
    if (ctx) ctx->dry = 1;
    return ctx;
}

// A word in the environment that nobody understands is an error: a reader who asked for one path would measure another.
ag_ctx *ag_new(unsigned long long seed) {
    static const char known[] = " avx512 avx2 neon portable naive ";
    ag_ctx *ctx = ag_new_with(seed, ag_cpu_backend(NULL, 0));
    const char *cpu = getenv("AG_CPU"), *threads = getenv("AG_THREADS");
    char word[16];
    snprintf(word, sizeof word, " %.12s ", cpu ? cpu : "");
    if (ctx && cpu && *cpu && (strchr(cpu, ' ') || !strstr(known, word)))
        agi_fail(ctx, "ag_new", "AG_CPU=%.40s in the environment: wanted one of%s", cpu, known);
    if (ctx && threads && *threads && (strspn(threads, "0123456789") != strlen(threads) || atoi(threads) < 1))
        agi_fail(ctx, "ag_new", "AG_THREADS=%.40s in the environment: wanted a number of threads, 1 or more", threads);
    return ctx;
}

void ag_free(ag_ctx *ctx) {
    if (!ctx) return;
    for (int i = 0; i < AGI_LIVES; i++) agi_arena_free(ctx, &ctx->host[i]), agi_arena_free(ctx, &ctx->device[i]);
    if (ctx->params) AG_FREE(ctx->params);
    ctx->backend->destroy(ctx->backend);
    AG_FREE(ctx);
}

static void agi_give_back(ag_ctx *ctx, agi_arena *a, void *chunk, size_t used) {
    (void)ctx;
    a->current = (agi_chunk *)chunk, a->used = used, a->total = 0;
    for (agi_chunk *c = a->first; c && chunk && c != chunk; c = c->next) a->total += c->size;
    a->total += used;
}

ag_mark_at ag_mark(ag_ctx *ctx) {
    ag_mark_at mark;
    memset(&mark, 0, sizeof mark);
    if (!ctx) return mark;
    mark.chunk[0] = ctx->host[AGI_TAPE].current, mark.used[0] = ctx->host[AGI_TAPE].used;
    mark.chunk[1] = ctx->device[AGI_TAPE].current, mark.used[1] = ctx->device[AGI_TAPE].used;
    mark.last = ctx->last;
    return mark;
}

void ag_rewind(ag_ctx *ctx, ag_mark_at mark) {
    if (!ctx) return;
    agi_give_back(ctx, &ctx->host[AGI_TAPE], mark.chunk[0], mark.used[0]);
    agi_give_back(ctx, &ctx->device[AGI_TAPE], mark.chunk[1], mark.used[1]);
    ctx->last = mark.last, ctx->n_spare = 0;        // a spare buffer may lie behind the mark
}

void ag_reset(ag_ctx *ctx) {
    ag_mark_at start;
    memset(&start, 0, sizeof start);
    ag_rewind(ctx, start);
}

int ag_no_grad(ag_ctx *ctx, int on) {
    int old = ctx ? ctx->no_grad : 0;
    if (ctx) ctx->no_grad = on;
    return old;
}

ag_rng *ag_stream(ag_ctx *ctx, int which) {
    return ctx && which >= 0 && which < AG_RNG_COUNT ? &ctx->rng[which] : NULL;
}
int ag_threads(const ag_ctx *ctx) { return ctx ? ctx->backend->threads : 0; }
const char *ag_backend_name(const ag_ctx *ctx) { return ctx ? ctx->backend->name : "none"; }

int ag_matmul_precision(const ag_ctx *ctx) { return ctx ? ctx->precision : AG_FLOAT32; }
const char *ag_matmul_path(const ag_ctx *ctx) {
    return ctx && ctx->precision == AG_BF16 ? ctx->backend->bf16 : "float32";
}

int (ag_set_matmul_precision)(ag_ctx *ctx, int precision) {
    if (!ctx || ctx->error[0]) return -1;
    if (precision != AG_FLOAT32 && precision != AG_BF16)
        return agi_fail(ctx, "ag_set_matmul_precision", "%d is neither AG_FLOAT32 nor AG_BF16", precision), -1;
    if (precision == AG_BF16 && !ctx->backend->matmul_bf16)
        return agi_fail(ctx, "ag_set_matmul_precision", "the backend %s has no products in bfloat16",
                        ctx->backend->name), -1;
    ctx->precision = precision;
    return 0;
}

ag_memory ag_memory_used(const ag_ctx *ctx) {
    ag_memory m;
    memset(&m, 0, sizeof m);
    if (!ctx) return m;
    m.params = ctx->device[AGI_PARAMS].total, m.state = ctx->device[AGI_STATE].total;
    m.tape = ctx->device[AGI_TAPE].total, m.tape_peak = ctx->device[AGI_TAPE].peak;
    m.reserved = ctx->reserved, m.mallocs = ctx->mallocs;
    return m;
}

// ---- making tensors ------------------------------------------------------------------------------------------------
static ag_tensor *agi_tensor(ag_ctx *ctx, int life, const char *op, int ndim, const int *shape) {
    size_t count = 1;
    ag_tensor *t;
    if (!ctx || ctx->error[0]) return NULL;
    for (int i = 0; i < ndim; i++) {
        if (shape[i] < 0) {
            agi_fail(ctx, op, "dimension %d is %d, a size cannot be negative", i, shape[i]);
            return NULL;
        }
        if (shape[i] && count > (size_t)INT_MAX / (size_t)shape[i]) {
            agi_fail(ctx, op, "the shape has more than %d elements: make the batch smaller", INT_MAX);
            return NULL;
        }
        count *= (size_t)shape[i];
    }
    t = (ag_tensor *)agi_alloc(ctx, &ctx->host[life], sizeof *t);
    if (!t) return NULL;
    memset(t, 0, sizeof *t);
    t->ctx = ctx, t->ndim = ndim, t->count = count, t->file = ctx->file, t->line = ctx->line;
    for (int i = 0; i < AG_NDIM; i++) t->shape[i] = i < ndim ? shape[i] : 1;
    return t;
}

// Buffers on the tape that are not needed any more (gradients, forgotten results) serve others of the same size while
// they are still in the cache. One more than AGI_SPARES is lost until ag_reset.
static void agi_spare(ag_ctx *ctx, ag_real *data, size_t count) {
    if (ctx->n_spare < AGI_SPARES) ctx->spare[ctx->n_spare].data = data, ctx->spare[ctx->n_spare++].count = count;
}
static ag_real *agi_take(ag_ctx *ctx, int life, size_t count) {
    for (int i = life == AGI_TAPE ? ctx->n_spare - 1 : -1; i >= 0; i--)             // the last one used is the warmest
        if (ctx->spare[i].count == count) {
            ag_real *data = ctx->spare[i].data;
            ctx->spare[i] = ctx->spare[--ctx->n_spare];
            return data;
        }
    return (ag_real *)agi_alloc(ctx, &ctx->device[life], count * sizeof(ag_real));
}

static ag_tensor *agi_new(ag_ctx *ctx, int life, const char *op, int ndim, const int *shape) {
    ag_tensor *t = agi_tensor(ctx, life, op, ndim, shape);
    if (t) t->data = agi_take(ctx, life, t->count);
    return t && t->data ? t : NULL;
}

static int agi_dims(ag_ctx *ctx, const char *op, int *shape, int d0, int d1, int d2, int d3, int end) {
    int n = 0;
    shape[0] = d0, shape[1] = d1, shape[2] = d2, shape[3] = d3;
    while (n < AG_NDIM && shape[n] != AG_END) n++;
    if (end != AG_END && ctx) { agi_fail(ctx, op, "a tensor has at most %d dimensions", AG_NDIM); return -1; }
    return n;
}

ag_tensor *ag_param_at(ag_ctx *ctx, int d0, int d1, int d2, int d3, int end) {
    int shape[AG_NDIM], n = agi_dims(ctx, "ag_param", shape, d0, d1, d2, d3, end);
    ag_tensor *t = n < 0 ? NULL : agi_new(ctx, AGI_PARAMS, "ag_param", n, shape);
    if (!t) return NULL;
    if (ctx->n_params == ctx->cap_params) {
        int cap = ctx->cap_params ? 2 * ctx->cap_params : 64;
        ag_tensor **more = (ag_tensor **)AG_MALLOC((size_t)cap * sizeof *more);
        ctx->mallocs++;
        if (!more) { agi_fail(ctx, "ag_param", "out of memory for parameter %d", ctx->n_params); return NULL; }
        if (ctx->params) { memcpy(more, ctx->params, (size_t)ctx->n_params * sizeof *more); AG_FREE(ctx->params); }
        ctx->params = more, ctx->cap_params = cap;
    }
    ctx->params[ctx->n_params++] = t;
    t->trainable = t->needs_grad = t->lasting = 1, t->decay = n >= 2;
    return AGI_RUN(ctx, fill, t->data, 0, t->count) ? NULL : t;
}

ag_tensor *ag_state_at(ag_ctx *ctx, int d0, int d1, int d2, int d3, int end) {
    int shape[AG_NDIM], n = agi_dims(ctx, "ag_state", shape, d0, d1, d2, d3, end);
    ag_tensor *t = n < 0 ? NULL : agi_new(ctx, AGI_STATE, "ag_state", n, shape);
    return !t || AGI_RUN(ctx, fill, t->data, 0, t->count) ? NULL : t;
}

ag_tensor *ag_input_at(ag_ctx *ctx, const ag_real *data, int d0, int d1, int d2, int d3, int end) {
    int shape[AG_NDIM], n = agi_dims(ctx, "ag_input", shape, d0, d1, d2, d3, end);
    ag_tensor *t = n < 0 ? NULL : agi_new(ctx, AGI_TAPE, "ag_input", n, shape);
    if (t && !data) { agi_fail(ctx, "ag_input", "the data is NULL"); return NULL; }
    return !t || AGI_RUN(ctx, write, t->data, data, t->count * sizeof(ag_real)) ? NULL : t;
}

ag_tensor *ag_full_at(ag_ctx *ctx, ag_real value, int d0, int d1, int d2, int d3, int end) {
    int shape[AG_NDIM], n = agi_dims(ctx, "ag_full", shape, d0, d1, d2, d3, end);
    ag_tensor *t = n < 0 ? NULL : agi_new(ctx, AGI_TAPE, "ag_full", n, shape);
    return !t || AGI_RUN(ctx, fill, t->data, value, t->count) ? NULL : t;
}

// ---- reading and writing them --------------------------------------------------------------------------------------
static int agi_part_ok(const ag_tensor *t, const char *op, size_t first, size_t n, const void *host) {
    if (!t || t->ctx->error[0]) return 0;
    if (!host && n) { agi_fail(t->ctx, op, "the pointer is NULL"); return 0; }
    if (first > t->count || n > t->count - first) {
        agi_fail(t->ctx, op, "elements %zu to %zu of a tensor that has %zu", first, first + n, t->count);
        return 0;
    }
    return 1;
}

static int agi_there(const ag_tensor *t, const char *op) {
    if (!t->data) agi_fail(t->ctx, op, "the tensor %s was forgotten (ag_forget): use it before", agi_shape(t).s);
    return t->data != NULL;
}

int ag_set_part(ag_tensor *t, size_t first, size_t n, const ag_real *from) {
    if (!agi_part_ok(t, "ag_set", first, n, from) || !agi_there(t, "ag_set")) return -1;
    t->version++;
    return AGI_RUN(t->ctx, write, t->data + first, from, n * sizeof(ag_real));
}

int ag_get_part(const ag_tensor *t, size_t first, size_t n, ag_real *to) {
    if (!agi_part_ok(t, "ag_get", first, n, to) || !agi_there(t, "ag_get")) return -1;
    if (t->ctx->dry) memset(to, 0, n * sizeof *to);
    return AGI_RUN(t->ctx, read, to, t->data + first, n * sizeof(ag_real));
}

int ag_set(ag_tensor *t, const ag_real *from) { return ag_set_part(t, 0, t ? t->count : 0, from); }
int ag_get(const ag_tensor *t, ag_real *to) { return ag_get_part(t, 0, t ? t->count : 0, to); }

int ag_get_grad(const ag_tensor *t, ag_real *to) {
    if (!agi_part_ok(t, "ag_get_grad", 0, t ? t->count : 0, to)) return -1;
    if (!t->has_grad || t->ctx->dry) { memset(to, 0, t->count * sizeof *to); return 0; }
    if (AGI_RUN(t->ctx, read, to, t->grad, t->count * sizeof *to)) return -1;
    if (t->trainable && t->ctx->grad_scale != 1)    // clipped: the optimizer multiplies as it reads
        for (size_t i = 0; i < t->count; i++) to[i] *= (ag_real)t->ctx->grad_scale;
    return 0;
}

double ag_item(const ag_tensor *t) {
    ag_real value = 0;
    if (!t || t->ctx->error[0]) return NAN;
    if (t->count != 1) {
        agi_fail(t->ctx, "ag_item", "the tensor is %s, it has %zu values", agi_shape(t).s, t->count);
        return NAN;
    }
    return ag_get_part(t, 0, 1, &value) ? NAN : (double)value;
}

void ag_fill(ag_tensor *t, ag_real value) {
    if (!t || t->ctx->error[0] || !agi_there(t, "ag_fill")) return;
    t->version++;
    AGI_RUN(t->ctx, fill, t->data, value, t->count);
}

// Random numbers are drawn on the host, a block at a time, so that every backend starts from the same parameters.
static void agi_random(ag_tensor *t, int normal, double a, double b) {
    ag_real block[256];
    if (!t || t->ctx->error[0]) return;
    for (size_t i = 0; i < t->count; i += 256) {
        size_t n = AGI_MIN((size_t)256, t->count - i);
        for (size_t j = 0; j < n; j++)
            block[j] = (ag_real)(normal ? a + b * ag_rng_normal(&t->ctx->rng[AG_RNG_INIT])
                                        : a + (b - a) * ag_rng_uniform(&t->ctx->rng[AG_RNG_INIT]));
        if (ag_set_part(t, i, n, block)) return;
    }
}

void ag_randn(ag_tensor *t, ag_real std) { agi_random(t, 1, 0, std); }
void ag_rand(ag_tensor *t, ag_real low, ag_real high) { agi_random(t, 0, low, high); }
void ag_name(ag_tensor *t, const char *name) { if (t) t->name = name; }
void ag_keep_grad(ag_tensor *t) { if (t) t->keep_grad = 1; }
void ag_trainable(ag_tensor *param, int on) { if (param) param->trainable = param->needs_grad = on != 0; }
int ag_param_count(const ag_ctx *ctx) { return ctx ? ctx->n_params : 0; }
ag_tensor *ag_param_get(const ag_ctx *ctx, int i) { return ctx && i >= 0 && i < ctx->n_params ? ctx->params[i] : NULL; }

int ag_shape_is(const ag_tensor *t, int d0, int d1, int d2, int d3) {
    int d[AG_NDIM];
    d[0] = d0, d[1] = d1, d[2] = d2, d[3] = d3;
    if (!t) return 0;
    for (int i = 0; i < AG_NDIM; i++) if (i < t->ndim ? t->shape[i] != d[i] : d[i] != -1) return 0;
    return 1;
}

// ---- the tape ------------------------------------------------------------------------------------------------------
// An op is recorded as it runs: its result remembers the op and the operands. The list of results, newest first, is
// the tape, and it is a topological order by construction: an operand is always older than what is made from it.
// again: computes the numbers of a result once more, for ag_forget; NULL where that would be dear.
typedef struct agi_op { const char *name; void (*backward)(ag_tensor *y); int (*again)(ag_tensor *y); } agi_op;

// The operands are there, belong to one context, and there is no error yet?
static ag_ctx *agi_ready(const agi_op *op, int n, ag_tensor *const *in) {
    if (!in[0] || in[0]->ctx->error[0]) return NULL;
    for (int i = 0; i < n; i++) {
        if (!in[i]) return NULL;
        if (in[i]->ctx != in[0]->ctx) {
            agi_fail(in[0]->ctx, op->name,
                     "operand %d died at ag_reset (make inputs anew in each step), or belongs to another context (copy "
                     "it over with ag_get and ag_input)", i);
            return NULL;
        }
        if (!in[i]->data) {
            agi_fail(in[0]->ctx, op->name, "operand %d, %s, was forgotten (ag_forget): use it before", i,
                     agi_shape(in[i]).s);
            return NULL;
        }
    }
    return in[0]->ctx;
}

// A result of an op: with memory of its own, or on the memory of in[0] (reshape, detach).
static ag_tensor *agi_node(const agi_op *op, int n_in, ag_tensor *const *in, int ndim, const int *shape, int view) {
    ag_ctx *ctx = in[0]->ctx;
    ag_tensor *(*make)(ag_ctx *, int, const char *, int, const int *) = view ? agi_tensor : agi_new;
    ag_tensor *y = make(ctx, AGI_TAPE, op->name, ndim, shape);
    int needs = 0;
    if (!y) return NULL;
    if (view) y->data = in[0]->data, in[0]->viewed = 1;
    y->computed = !view;
    for (int i = 0; i < n_in; i++) needs |= in[i]->needs_grad;
    if (!needs || ctx->no_grad || !op->backward) return y;
    y->in = (ag_tensor **)agi_alloc(ctx, &ctx->host[AGI_TAPE], (size_t)n_in * sizeof *y->in);
    if (!y->in) return NULL;
    memcpy(y->in, in, (size_t)n_in * sizeof *in);
    y->op = op, y->n_in = n_in, y->needs_grad = 1, y->older = ctx->last, ctx->last = y;
    return y;
}

// Memory for what backward needs besides the result, and ids that the reader may overwrite after the call.
static void *agi_save(ag_ctx *ctx, size_t bytes) { return agi_alloc(ctx, &ctx->device[AGI_TAPE], bytes); }
static int *agi_save_ints(ag_ctx *ctx, const int *ids, size_t n) {
    int *copy = (int *)agi_save(ctx, n * sizeof *ids);
    return !copy || AGI_RUN(ctx, write, copy, ids, n * sizeof *ids) ? NULL : copy;
}

// Where a gradient goes. The first contribution overwrites (*accumulate = 0), later ones add (*accumulate = 1), so no
// gradient is ever cleared. The gradient of a result is needed only until its own backward has run; then its buffer
// serves another result of the same size, while it is still in the cache. NULL: not wanted.
static ag_real *agi_grad(ag_tensor *x, int *accumulate) {
    ag_ctx *ctx = x->ctx;
    if (!x->needs_grad || ctx->error[0]) return NULL;
    *accumulate = x->has_grad;
    if (!x->grad && !(x->grad = agi_take(ctx, x->op ? AGI_TAPE : AGI_PARAMS, x->count))) return NULL;
    x->has_grad = 1;
    return x->grad;
}

// The gradient of a result whose backward has run, or that nobody needs: its buffer is free.
static void agi_drop_grad(ag_tensor *y) {
    ag_ctx *ctx = y->ctx;
    if (!y->op || y->keep_grad || !y->grad) return;
    agi_spare(ctx, y->grad, y->count);
    y->grad = NULL, y->has_grad = 0;
}

// dx = dy, as the first contribution: x takes the buffer over, since y is done with it. 0: it cannot, copy instead.
static int agi_move_grad(ag_tensor *x, ag_tensor *y) {
    if (!x->needs_grad || !x->op || x->has_grad || x->grad || y->keep_grad || x->count != y->count) return 0;
    x->grad = y->grad, x->has_grad = 1, y->grad = NULL, y->has_grad = 0;
    return 1;
}

static size_t agi_rows(const ag_tensor *x) {
    size_t rows = 1;
    for (int i = 0; i + 1 < x->ndim; i++) rows *= (size_t)x->shape[i];
    return rows;
}
static int agi_last(const ag_tensor *x) { return x->ndim ? x->shape[x->ndim - 1] : 1; }

// y is forgotten, and all that reads it is done: its buffer is free.
static void agi_drop_data(ag_tensor *y) {
    if (y->data) agi_spare(y->ctx, y->data, y->count);
    y->data = NULL;
}

int ag_forget(ag_tensor *y) {
    if (!y || y->ctx->error[0]) return -1;
    if (!y->needs_grad && (!y->computed || y->viewed)) return 0;
    if (y->needs_grad && (!y->op || !y->op->again || y->viewed)) {
        agi_fail(y->ctx, "ag_forget", "%s %s %s", y->op ? y->op->name : "a parameter", agi_shape(y).s, y->viewed ?
                 "shares its memory with another tensor (ag_reshape, ag_detach)" : "cannot be computed again");
        return -1;
    }
    if (y->ctx->n_spare < AGI_SPARES) y->forgotten = 1, agi_drop_data(y);
    return 0;
}

// Computes a forgotten tensor again, and before it the forgotten ones that it is made from. No recursion: a chain of
// them may be long.
static int agi_remember(ag_tensor *t) {
    while (!t->data) {
        ag_tensor *u = t;
        for (int i = 0; i < u->n_in; i++) if (!u->in[i]->data) u = u->in[i], i = -1;
        if (!u->op) {
            agi_fail(u->ctx, "ag_backward", "%s, made at %.200s:%d, was forgotten (ag_forget), and having no gradient "
                     "it cannot be computed again", agi_shape(u).s, u->file ? u->file : "?", u->line);
            return -1;
        }
        if (!(u->data = agi_take(u->ctx, AGI_TAPE, u->count))) return -1;
        if (u->op->again(u)) { u->data = NULL; return -1; }
    }
    return 0;
}

// ====================================================================================================================
// Chapter 3: the ops
// ====================================================================================================================
// Each op: its shapes, its formula, what it records, and its backward, which says what the forward line was. Beside it
// stand the naive kernels that the op calls through the backend table: short, obviously right, and what the fast ones
// in the engine room are held to. They compute in double and round once.

// ---- elementwise: y = f(a, b, c) -----------------------------------------------------------------------------------
static double agi_sigmoid(double x) { return x >= 0 ? 1 / (1 + exp(-x)) : exp(x) / (1 + exp(x)); }

#define AGI_GELU_C 0.79788456080286535588       // sqrt(2/pi)
static double agi_gelu_inner(double x) { return AGI_GELU_C * (x + 0.044715 * x * x * x); }

static double agi_map_value(int op, double a, double b, double c, double p, double q) {
    switch (op) {
    case AG_MAP_ADD: return a + b;
    case AG_MAP_SUB: return a - b;
    case AG_MAP_MUL: return a * b;
    case AG_MAP_DIV: return a / b;
    case AG_MAP_MIN: return a <= b ? a : b;
    case AG_MAP_MAX: return a >= b ? a : b;
    case AG_MAP_GREATER: return a > b;
    case AG_MAP_WHERE: return a != 0 ? b : c;
    case AG_MAP_SCALE: return a * p;
    case AG_MAP_SHIFT: return a + p;
    case AG_MAP_POW: return pow(a, p);
    case AG_MAP_EXP: return exp(a);
    case AG_MAP_LOG: return log(a);
    case AG_MAP_SQRT: return sqrt(a);
    case AG_MAP_TANH: return tanh(a);
    case AG_MAP_SIGMOID: return agi_sigmoid(a);
    case AG_MAP_LOG_SIGMOID: return (a < 0 ? a : 0) - log1p(exp(-fabs(a)));
    case AG_MAP_RELU: return a > 0 ? a : 0;
    case AG_MAP_GELU: return 0.5 * a * (1 + tanh(agi_gelu_inner(a)));
    case AG_MAP_SILU: return a * agi_sigmoid(a);
    case AG_MAP_CLAMP: return a < p ? p : a > q ? q : a;
    case AG_MAP_AXPBY: return p * a + q * b;
    }
    return NAN;
}

// d y / d x[which], given y as well: the derivative of exp is y itself.
static double agi_map_slope(int op, int which, double y, double a, double b, double p, double q) {
    double s, t;
    switch (op) {
    case AG_MAP_ADD: return 1;
    case AG_MAP_SUB: return which == 0 ? 1 : -1;
    case AG_MAP_MUL: return which == 0 ? b : a;
    case AG_MAP_DIV: return which == 0 ? 1 / b : -y / b;
    case AG_MAP_MIN: return (which == 0) == (a <= b);
    case AG_MAP_MAX: return (which == 0) == (a >= b);
    case AG_MAP_WHERE: return which == 1 ? a != 0 : which == 2 ? a == 0 : 0;
    case AG_MAP_SCALE: return p;
    case AG_MAP_SHIFT: return 1;
    case AG_MAP_POW: return p == 0 ? 0 : p * pow(a, p - 1);
    case AG_MAP_EXP: return y;
    case AG_MAP_LOG: return 1 / a;
    case AG_MAP_SQRT: return 0.5 / y;
    case AG_MAP_TANH: return 1 - y * y;
    case AG_MAP_SIGMOID: return y * (1 - y);
    case AG_MAP_LOG_SIGMOID: return agi_sigmoid(-a);
    case AG_MAP_RELU: return a > 0;
    case AG_MAP_GELU:
        t = tanh(agi_gelu_inner(a));
        return 0.5 * (1 + t) + 0.5 * a * (1 - t * t) * AGI_GELU_C * (1 + 3 * 0.044715 * a * a);
    case AG_MAP_SILU: s = agi_sigmoid(a); return s * (1 + a * (1 - s));
    case AG_MAP_CLAMP: return a >= p && a <= q;
    case AG_MAP_AXPBY: return which == 0 ? p : q;
    }
    return 0;
}

// The four nested loops over a shape that every strided kernel needs; i[] are the coordinates.
#define AGI_FOR4(i, shape) \
    for (i[0] = 0; i[0] < (size_t)(shape)[0]; i[0]++) for (i[1] = 0; i[1] < (size_t)(shape)[1]; i[1]++) \
    for (i[2] = 0; i[2] < (size_t)(shape)[2]; i[2]++) for (i[3] = 0; i[3] < (size_t)(shape)[3]; i[3]++)
static size_t agi_at4(const size_t i[4], const size_t s[4]) { return i[0]*s[0] + i[1]*s[1] + i[2]*s[2] + i[3]*s[3]; }

static int agi_naive_map(ag_backend *be, int op, ag_real *y, const ag_real *const x[3], const int shape[4],
                         const size_t stride[3][4], double p, double q) {
    size_t i[4], n = 0;
    double v[3] = {0, 0, 0};
    (void)be;
    AGI_FOR4(i, shape) {
        for (int k = 0; k < 3 && x[k]; k++) v[k] = x[k][agi_at4(i, stride[k])];
        y[n++] = (ag_real)agi_map_value(op, v[0], v[1], v[2], p, q);
    }
    return 0;
}

static int agi_naive_map_back(ag_backend *be, int op, int which, ag_real *g, const ag_real *y,
                              const ag_real *const x[3], const ag_real *dy, const int shape[4],
                              const size_t stride[3][4], double p, double q, int accumulate) {
    size_t i[4], n = 0;
    double v[3] = {0, 0, 0};
    (void)be;
    AGI_FOR4(i, shape) {
        for (int k = 0; k < 3 && x[k]; k++) v[k] = x[k][agi_at4(i, stride[k])];
        double d = dy[n] * agi_map_slope(op, which, y[n], v[0], v[1], p, q);
        g[n] = (ag_real)(accumulate ? g[n] + d : d);
        n++;
    }
    return 0;
}

// Strides of t in a shape of four dimensions, aligned at the right: 0 where t has size 1 (NumPy's broadcasting rule).
static void agi_strides(const ag_tensor *t, size_t stride[4]) {
    size_t s = 1;
    for (int i = 0; i < 4; i++) stride[i] = 0;
    for (int i = t->ndim - 1; i >= 0; i--) {
        stride[4 - t->ndim + i] = t->shape[i] == 1 ? 0 : s;
        s *= (size_t)t->shape[i];
    }
}

// A shape of ndim dimensions, aligned at the right in four.
static void agi_shape4(const ag_tensor *t, int shape[4]) {
    for (int i = 0; i < 4; i++) shape[i] = i < 4 - t->ndim ? 1 : t->shape[i - (4 - t->ndim)];
}

// g (the shape of y) is summed over the dimensions along which x was repeated, into the gradient of x: what was copied
// in the forward pass collects the gradients of all copies.
static int agi_sum_to(ag_tensor *x, ag_real *dx, const ag_real *g, const int shape[4], int accumulate) {
    ag_ctx *ctx = x->ctx;
    int xs[4], left = 0;
    size_t size[4];
    agi_shape4(x, xs);
    for (int i = 0; i < 4; i++) size[i] = (size_t)shape[i], left += xs[i] != shape[i];
    if (!left) {
        const size_t flat[4] = {0, 0, 0, 1};
        int n[4] = {1, 1, 1, (int)x->count};
        return AGI_RUN(ctx, copy, dx, flat, g, flat, n, accumulate);
    }
    for (int i = 0; i < 4 && left; i++) {
        size_t outer = 1, r = 1, inner = 1, j = (size_t)i;
        if (xs[i] == shape[i]) continue;
        for (; j < 4 && (xs[j] != shape[j] || size[j] == 1); j++) r *= size[j], left -= xs[j] != shape[j];  // a run
        for (int k = 0; k < i; k++) outer *= size[k];
        for (size_t k = j; k < 4; k++) inner *= size[k];
        for (size_t k = (size_t)i; k < j; k++) size[k] = 1;
        ag_real *to = left ? (ag_real *)agi_save(ctx, outer * inner * sizeof *to) : dx;
        if (!to || AGI_RUN(ctx, reduce, AG_REDUCE_SUM, to, g, outer, r, inner, 1.0, left ? 0 : accumulate)) return -1;
        g = to, i = (int)j - 1;
    }
    return 0;
}

// In the forward pass this was y = f(a, b, c): so now dx += dy * df/dx for each operand, summed where x was repeated.
static void agi_map_backward(ag_tensor *y) {
    ag_ctx *ctx = y->ctx;
    int op = y->iarg[0], shape[4];
    size_t stride[3][4];
    const ag_real *x[3] = {NULL, NULL, NULL};
    agi_shape4(y, shape);
    for (int i = 0; i < y->n_in; i++) x[i] = y->in[i]->data, agi_strides(y->in[i], stride[i]);
    for (int i = 0; i < y->n_in; i++) {
        int accumulate, same = y->in[i]->count == y->count;
        if (op == AG_MAP_ADD && i == 1 && agi_move_grad(y->in[i], y)) return;
        ag_real *dx = agi_grad(y->in[i], &accumulate), *g = dx;
        ag_mark_at mark = ag_mark(ctx);             // after agi_grad: the gradient stays, what helps to find it goes
        if (!dx) continue;
        if (!same && (op == AG_MAP_ADD || (op == AG_MAP_SUB && i == 0))) g = y->grad;   // the slope is 1
        else {
            if (!same && !(g = (ag_real *)agi_save(ctx, y->count * sizeof *g))) return;
            if (AGI_RUN(ctx, map_back, op, i, g, y->data, x, y->grad, shape, (const size_t (*)[4])stride, y->arg[0],
                        y->arg[1], same && accumulate)) return;
        }
        if (!same && agi_sum_to(y->in[i], dx, g, shape, accumulate)) return;
        agi_give_back(ctx, &ctx->device[AGI_TAPE], mark.chunk[1], mark.used[1]);
    }
}

static int agi_map_values(ag_tensor *y, int n, ag_tensor *const *in) {
    int shape[4];
    size_t stride[3][4];
    const ag_real *x[3] = {NULL, NULL, NULL};
    agi_shape4(y, shape);
    for (int i = 0; i < n; i++) x[i] = in[i]->data, agi_strides(in[i], stride[i]);
    return AGI_RUN(y->ctx, map, y->iarg[0], y->data, x, shape, (const size_t (*)[4])stride, y->arg[0], y->arg[1]);
}
static int agi_map_again(ag_tensor *y) { return agi_map_values(y, y->n_in, y->in); }

#define AGI_MAP_OP(id, text) { text, id == AG_MAP_GREATER ? NULL : agi_map_backward, agi_map_again }
static const agi_op agi_map_ops[AG_MAP_COUNT] = {       // in the order of ag_map_op
    AGI_MAP_OP(AG_MAP_ADD, "ag_add"), AGI_MAP_OP(AG_MAP_SUB, "ag_sub"), AGI_MAP_OP(AG_MAP_MUL, "ag_mul"),
    AGI_MAP_OP(AG_MAP_DIV, "ag_div"), AGI_MAP_OP(AG_MAP_MIN, "ag_minimum"), AGI_MAP_OP(AG_MAP_MAX, "ag_maximum"),
    AGI_MAP_OP(AG_MAP_GREATER, "ag_greater"), AGI_MAP_OP(AG_MAP_WHERE, "ag_where"),
    AGI_MAP_OP(AG_MAP_SCALE, "ag_scale"), AGI_MAP_OP(AG_MAP_SHIFT, "ag_shift"), AGI_MAP_OP(AG_MAP_POW, "ag_pow"),
    AGI_MAP_OP(AG_MAP_EXP, "ag_exp"), AGI_MAP_OP(AG_MAP_LOG, "ag_log"), AGI_MAP_OP(AG_MAP_SQRT, "ag_sqrt"),
    AGI_MAP_OP(AG_MAP_TANH, "ag_tanh"),
    AGI_MAP_OP(AG_MAP_SIGMOID, "ag_sigmoid"), AGI_MAP_OP(AG_MAP_LOG_SIGMOID, "ag_log_sigmoid"),
    AGI_MAP_OP(AG_MAP_RELU, "ag_relu"), AGI_MAP_OP(AG_MAP_GELU, "ag_gelu"), AGI_MAP_OP(AG_MAP_SILU, "ag_silu"),
    AGI_MAP_OP(AG_MAP_CLAMP, "ag_clamp"), AGI_MAP_OP(AG_MAP_AXPBY, "ag_axpby")
};

static ag_tensor *agi_map(int op, int n, ag_tensor *a, ag_tensor *b, ag_tensor *c, double p, double q) {
    ag_tensor *in[3], *y;
    const agi_op *info = &agi_map_ops[op];
    int ndim = 0, shape[4] = {1, 1, 1, 1};
    in[0] = a, in[1] = b, in[2] = c;
    ag_ctx *ctx = agi_ready(info, n, in);
    if (!ctx) return NULL;
    for (int i = 0; i < n; i++) ndim = AGI_MAX(ndim, in[i]->ndim);
    for (int i = 0; i < n; i++)
        for (int d = 0; d < in[i]->ndim; d++) {
            int *s = &shape[ndim - in[i]->ndim + d], xs = in[i]->shape[d];
            if (*s != xs && *s != 1 && xs != 1) {
                agi_fail(ctx, info->name,
                         "shapes %s and %s do not broadcast: sizes %d and %d are neither equal nor 1. Shapes "
                         "are aligned at the right; ag_reshape adds a dimension of 1", agi_shape(in[0]).s,
                         agi_shape(in[i]).s, *s, xs);
                return NULL;
            }
            if (*s == 1) *s = xs;
        }
    y = agi_node(info, n, in, ndim, shape, 0);
    if (!y) return NULL;
    y->iarg[0] = op, y->arg[0] = p, y->arg[1] = q;
    return agi_map_values(y, n, in) ? NULL : y;
}

ag_tensor *ag_add(ag_tensor *a, ag_tensor *b) { return agi_map(AG_MAP_ADD, 2, a, b, NULL, 0, 0); }
ag_tensor *ag_sub(ag_tensor *a, ag_tensor *b) { return agi_map(AG_MAP_SUB, 2, a, b, NULL, 0, 0); }
ag_tensor *ag_mul(ag_tensor *a, ag_tensor *b) { return agi_map(AG_MAP_MUL, 2, a, b, NULL, 0, 0); }
ag_tensor *ag_div(ag_tensor *a, ag_tensor *b) { return agi_map(AG_MAP_DIV, 2, a, b, NULL, 0, 0); }
ag_tensor *ag_minimum(ag_tensor *a, ag_tensor *b) { return agi_map(AG_MAP_MIN, 2, a, b, NULL, 0, 0); }
ag_tensor *ag_maximum(ag_tensor *a, ag_tensor *b) { return agi_map(AG_MAP_MAX, 2, a, b, NULL, 0, 0); }
ag_tensor *ag_greater(ag_tensor *a, ag_tensor *b) { return agi_map(AG_MAP_GREATER, 2, a, b, NULL, 0, 0); }
ag_tensor *ag_where(ag_tensor *condition, ag_tensor *a, ag_tensor *b) {
    return agi_map(AG_MAP_WHERE, 3, condition, a, b, 0, 0);
}
ag_tensor *ag_neg(ag_tensor *x) { return agi_map(AG_MAP_SCALE, 1, x, NULL, NULL, -1, 0); }
ag_tensor *ag_scale(ag_tensor *x, double factor) { return agi_map(AG_MAP_SCALE, 1, x, NULL, NULL, factor, 0); }
ag_tensor *ag_shift(ag_tensor *x, double offset) { return agi_map(AG_MAP_SHIFT, 1, x, NULL, NULL, offset, 0); }
ag_tensor *ag_pow(ag_tensor *x, double exponent) { return agi_map(AG_MAP_POW, 1, x, NULL, NULL, exponent, 0); }
ag_tensor *ag_exp(ag_tensor *x) { return agi_map(AG_MAP_EXP, 1, x, NULL, NULL, 0, 0); }
ag_tensor *ag_log(ag_tensor *x) { return agi_map(AG_MAP_LOG, 1, x, NULL, NULL, 0, 0); }
ag_tensor *ag_sqrt(ag_tensor *x) { return agi_map(AG_MAP_SQRT, 1, x, NULL, NULL, 0, 0); }
ag_tensor *ag_tanh(ag_tensor *x) { return agi_map(AG_MAP_TANH, 1, x, NULL, NULL, 0, 0); }
ag_tensor *ag_sigmoid(ag_tensor *x) { return agi_map(AG_MAP_SIGMOID, 1, x, NULL, NULL, 0, 0); }
ag_tensor *ag_log_sigmoid(ag_tensor *x) { return agi_map(AG_MAP_LOG_SIGMOID, 1, x, NULL, NULL, 0, 0); }
ag_tensor *ag_relu(ag_tensor *x) { return agi_map(AG_MAP_RELU, 1, x, NULL, NULL, 0, 0); }
ag_tensor *ag_gelu(ag_tensor *x) { return agi_map(AG_MAP_GELU, 1, x, NULL, NULL, 0, 0); }
ag_tensor *ag_silu(ag_tensor *x) { return agi_map(AG_MAP_SILU, 1, x, NULL, NULL, 0, 0); }
ag_tensor *ag_clamp(ag_tensor *x, double low, double high) {
    return agi_map(AG_MAP_CLAMP, 1, x, NULL, NULL, low, high);
}

// ---- shapes: the same numbers in another order ---------------------------------------------------------------------
static int agi_naive_fill(ag_backend *be, ag_real *y, ag_real value, size_t n) {
    (void)be;
    for (size_t i = 0; i < n; i++) y[i] = value;
    return 0;
}

static int agi_naive_copy(ag_backend *be, ag_real *y, const size_t ystride[4], const ag_real *x,
                          const size_t xstride[4], const int shape[4], int accumulate) {
    size_t i[4];
    (void)be;
    AGI_FOR4(i, shape) {
        ag_real *to = y + agi_at4(i, ystride), from = x[agi_at4(i, xstride)];
        *to = accumulate ? *to + from : from;
    }
    return 0;
}

static void agi_contiguous(const int shape[4], size_t stride[4]) {
    stride[3] = 1;
    for (int i = 2; i >= 0; i--) stride[i] = stride[i + 1] * (size_t)shape[i + 1];
}

static int agi_dim_ok(const agi_op *op, const ag_tensor *x, int *dim) {
    if (*dim < 0) *dim += x->ndim;
    if (*dim >= 0 && *dim < x->ndim) return 1;
    agi_fail(x->ctx, op->name, "dimension %d of %s: it has %d", *dim < 0 ? *dim - x->ndim : *dim, agi_shape(x).s,
             x->ndim);
    return 0;
}

// y has the numbers of x in the same order: so now dx += dy
static void agi_reshape_backward(ag_tensor *y) {
    int accumulate, n[4] = {1, 1, 1, 1};
    const size_t flat[4] = {0, 0, 0, 1};
    ag_real *dx = agi_move_grad(y->in[0], y) ? NULL : agi_grad(y->in[0], &accumulate);
    n[3] = (int)y->count;
    if (dx) AGI_RUN(y->ctx, copy, dx, flat, y->grad, flat, n, accumulate);
}
static const agi_op agi_op_reshape = { "ag_reshape", agi_reshape_backward, NULL };
static const agi_op agi_op_detach = { "ag_detach", NULL, NULL };

ag_tensor *ag_reshape_to(ag_tensor *x, int d0, int d1, int d2, int d3, int end) {
    int shape[AG_NDIM], n, open = -1;
    size_t count = 1;
    ag_ctx *ctx = agi_ready(&agi_op_reshape, 1, &x);
    if (!ctx || (n = agi_dims(ctx, "ag_reshape", shape, d0, d1, d2, d3, end)) < 0) return NULL;
    for (int i = 0; i < n; i++)
        if (shape[i] == -1 && open < 0) open = i; else count *= (size_t)AGI_MAX(shape[i], 0);
    if (open >= 0) shape[open] = count ? (int)(x->count / count) : 0, count *= (size_t)shape[open];
    if (count != x->count) {
        agi_fail(ctx, "ag_reshape", "x is %s with %zu elements, the new shape has %zu", agi_shape(x).s, x->count,
                 count);
        return NULL;
    }
    return agi_node(&agi_op_reshape, 1, &x, n, shape, 1);
}

ag_tensor *ag_detach(ag_tensor *x) {
    return agi_ready(&agi_op_detach, 1, &x) ? agi_node(&agi_op_detach, 1, &x, x->ndim, x->shape, 1) : NULL;
}

// Permute, slice and concat are one strided copy each; iarg holds what is needed to find the strides again.
// In the forward pass this was y[i] = x[permuted i]: so now dx[permuted i] += dy[i].
static void agi_permute_strides(const ag_tensor *y, const ag_tensor *x, size_t xs[4], size_t ys[4]) {
    size_t s[4];
    int shape[4];
    agi_shape4(x, shape);
    agi_contiguous(shape, s);
    for (int i = 0; i < 4; i++) xs[i] = i < 4 - y->ndim ? 0 : s[4 - x->ndim + y->iarg[i - (4 - y->ndim)]];
    agi_shape4(y, shape);
    agi_contiguous(shape, ys);
}

static void agi_permute_backward(ag_tensor *y) {
    int accumulate, shape[4];
    size_t xs[4], ys[4];
    ag_real *dx = agi_grad(y->in[0], &accumulate);
    agi_shape4(y, shape);
    agi_permute_strides(y, y->in[0], xs, ys);
    if (dx) AGI_RUN(y->ctx, copy, dx, xs, y->grad, ys, shape, accumulate);
}
static const agi_op agi_op_permute = { "ag_permute", agi_permute_backward, NULL };

ag_tensor *ag_permute(ag_tensor *x, int p0, int p1, int p2, int p3) {
    int p[AG_NDIM], shape[AG_NDIM], shape4[4], seen = 0;
    size_t xs[4], ys[4];
    ag_ctx *ctx = agi_ready(&agi_op_permute, 1, &x);
    if (!ctx) return NULL;
    p[0] = p0, p[1] = p1, p[2] = p2, p[3] = p3;
    for (int i = 0; i < x->ndim; i++) {
        if (p[i] >= 0 && p[i] < x->ndim) seen |= 1 << p[i], shape[i] = x->shape[p[i]];
    }
    if (seen != (1 << x->ndim) - 1) {
        agi_fail(ctx, "ag_permute", "(%d,%d,%d,%d) does not name each of the %d dimensions of %s once (-1 for none)",
                 p0, p1, p2, p3, x->ndim, agi_shape(x).s);
        return NULL;
    }
    ag_tensor *y = agi_node(&agi_op_permute, 1, &x, x->ndim, shape, 0);
    if (!y) return NULL;
    for (int i = 0; i < x->ndim; i++) y->iarg[i] = p[i];
    agi_shape4(y, shape4);
    agi_permute_strides(y, x, xs, ys);
    return AGI_RUN(ctx, copy, y->data, ys, x->data, xs, shape4, 0) ? NULL : y;
}

// A run of `n` entries of dimension `dim` from `first` on: (outer, n, inner) of a tensor (outer, all, inner).
static int agi_copy_run(ag_tensor *part, ag_real *to, const ag_real *from, const ag_tensor *whole, int dim, int first,
                        int into_whole, int accumulate) {
    size_t inner = 1, outer = 1, n = (size_t)part->shape[dim], all = (size_t)whole->shape[dim], sp[4] = {0, 0, 0, 1},
        sw[4] = {0, 0, 0, 1};
    int shape[4] = {1, 1, 1, 1};
    for (int i = 0; i < dim; i++) outer *= (size_t)part->shape[i];
    for (int i = dim + 1; i < part->ndim; i++) inner *= (size_t)part->shape[i];
    shape[2] = (int)outer, shape[3] = (int)(n * inner);
    sp[2] = n * inner, sw[2] = all * inner;
    if (into_whole) return AGI_RUN(part->ctx, copy, to + (size_t)first * inner, sw, from, sp, shape, accumulate);
    return AGI_RUN(part->ctx, copy, to, sp, from + (size_t)first * inner, sw, shape, accumulate);
}

// y = x[first:first+n]: so now dx[first:first+n] += dy, and the first contribution has to clear the rest.
static void agi_slice_backward(ag_tensor *y) {
    int accumulate;
    ag_tensor *x = y->in[0];
    ag_real *dx = agi_grad(x, &accumulate);
    if (!dx || (!accumulate && AGI_RUN(y->ctx, fill, dx, 0, x->count))) return;
    agi_copy_run(y, dx, y->grad, x, y->iarg[0], y->iarg[1], 1, 1);
}
static const agi_op agi_op_slice = { "ag_slice", agi_slice_backward, NULL };

ag_tensor *ag_slice(ag_tensor *x, int dim, int first, int n) {
    int shape[AG_NDIM];
    ag_ctx *ctx = agi_ready(&agi_op_slice, 1, &x);
    if (!ctx || !agi_dim_ok(&agi_op_slice, x, &dim)) return NULL;
    if (first < 0 || n < 0 || first > x->shape[dim] || n > x->shape[dim] - first) {
        agi_fail(ctx, "ag_slice", "%d entries from %d on of dimension %d of %s", n, first, dim, agi_shape(x).s);
        return NULL;
    }
    for (int i = 0; i < x->ndim; i++) shape[i] = i == dim ? n : x->shape[i];
    ag_tensor *y = agi_node(&agi_op_slice, 1, &x, x->ndim, shape, 0);
    if (!y) return NULL;
    y->iarg[0] = dim, y->iarg[1] = first;
    return agi_copy_run(y, y->data, x->data, x, dim, first, 0, 0) ? NULL : y;
}

// y = the xs side by side: so now each dx += its run of dy.
static void agi_concat_backward(ag_tensor *y) {
    for (int i = 0, first = 0; i < y->n_in; first += y->in[i]->shape[y->iarg[0]], i++) {
        int accumulate;
        ag_real *dx = agi_grad(y->in[i], &accumulate);
        if (dx && agi_copy_run(y->in[i], dx, y->grad, y, y->iarg[0], first, 0, accumulate)) return;
    }
}
static const agi_op agi_op_concat = { "ag_concat", agi_concat_backward, NULL };

ag_tensor *ag_concat(ag_tensor *const *xs, int n, int dim) {
    int shape[AG_NDIM], first = 0;
    ag_ctx *ctx = n > 0 && xs ? agi_ready(&agi_op_concat, n, xs) : NULL;
    if (!ctx || !agi_dim_ok(&agi_op_concat, xs[0], &dim)) return NULL;
    memcpy(shape, xs[0]->shape, sizeof shape);
    for (int i = 1; i < n; i++) {
        int bad = xs[i]->ndim != xs[0]->ndim;
        for (int d = 0; d < xs[0]->ndim && !bad; d++)
            bad = d == dim ? xs[i]->shape[d] > INT_MAX - shape[d] : xs[i]->shape[d] != shape[d];
        if (bad) {
            agi_fail(ctx, "ag_concat", "tensor %d is %s, the first is %s: they may differ in dimension %d only", i,
                     agi_shape(xs[i]).s, agi_shape(xs[0]).s, dim);
            return NULL;
        }
        shape[dim] += xs[i]->shape[dim];
    }
    ag_tensor *y = agi_node(&agi_op_concat, n, xs, xs[0]->ndim, shape, 0);
    if (!y) return NULL;
    y->iarg[0] = dim;
    for (int i = 0; i < n; first += xs[i]->shape[dim], i++)
        if (agi_copy_run(xs[i], y->data, xs[i]->data, y, dim, first, 1, 0)) return NULL;
    return y;
}

// ---- sums, means, maxima -------------------------------------------------------------------------------------------
// Any reduction over one dimension is (outer, r, inner) -> (outer, inner).
static int agi_naive_reduce(ag_backend *be, int op, ag_real *y, const ag_real *x, size_t outer, size_t r, size_t inner,
                            double scale, int accumulate) {
    (void)be;
    for (size_t o = 0; o < outer; o++)
        for (size_t i = 0; i < inner; i++) {
            const ag_real *x_oi = x + o * r * inner + i;
            double s = op == AG_REDUCE_MAX && r ? x_oi[0] : 0;
            for (size_t k = 0; k < r; k++) {
                double v = x_oi[k * inner];
                s = op == AG_REDUCE_SUM ? s + v : v > s || v != v ? v : s;
            }
            y[o * inner + i] = (ag_real)(accumulate ? y[o * inner + i] + s * scale : s * scale);
        }
    return 0;
}

// Sum: every x in a column gets the column's dy. Max: the first x that equals y gets it.
static int agi_naive_reduce_back(ag_backend *be, int op, ag_real *dx, const ag_real *x, const ag_real *y,
                                 const ag_real *dy, size_t outer, size_t r, size_t inner, double scale,
                                 int accumulate) {
    (void)be;
    for (size_t o = 0; o < outer; o++)
        for (size_t i = 0; i < inner; i++) {
            int found = 0;
            for (size_t k = 0; k < r; k++) {
                size_t at = (o * r + k) * inner + i;
                int takes = op == AG_REDUCE_SUM || (!found && x[at] == y[o * inner + i]);
                double d = takes ? dy[o * inner + i] * scale : 0;
                found |= takes;
                dx[at] = (ag_real)(accumulate ? dx[at] + d : d);
            }
        }
    return 0;
}

static void agi_reduce_sizes(const ag_tensor *x, int dim, size_t *outer, size_t *r, size_t *inner) {
    *outer = *inner = 1;
    *r = dim < 0 ? x->count : (size_t)x->shape[dim];
    for (int i = 0; i < dim; i++) *outer *= (size_t)x->shape[i];
    for (int i = dim + 1; dim >= 0 && i < x->ndim; i++) *inner *= (size_t)x->shape[i];
}

// y = scale * sum of x: so now dx += scale * dy
static void agi_reduce_backward(ag_tensor *y) {
    int accumulate;
    size_t outer, r, inner;
    ag_tensor *x = y->in[0];
    ag_real *dx = agi_grad(x, &accumulate);
    agi_reduce_sizes(x, y->iarg[1], &outer, &r, &inner);
    if (dx) AGI_RUN(y->ctx, reduce_back, y->iarg[0], dx, x->data, y->data, y->grad, outer, r, inner, y->arg[0],
                    accumulate);
}
static const agi_op agi_op_sum = { "ag_sum", agi_reduce_backward, NULL };
static const agi_op agi_op_mean = { "ag_mean", agi_reduce_backward, NULL };
static const agi_op agi_op_max = { "ag_max_dim", agi_reduce_backward, NULL };

static ag_tensor *agi_reduce(const agi_op *op, ag_tensor *x, int all, int dim) {
    int shape[AG_NDIM] = {1, 1, 1, 1};
    size_t outer, r, inner;
    ag_ctx *ctx = agi_ready(op, 1, &x);
    if (!ctx || (!all && !agi_dim_ok(op, x, &dim))) return NULL;
    for (int i = 0; i < x->ndim && !all; i++) shape[i] = i == dim ? 1 : x->shape[i];
    agi_reduce_sizes(x, all ? -1 : dim, &outer, &r, &inner);
    if (!r && op != &agi_op_sum) {
        agi_fail(ctx, op->name, "x is %s: there is nothing to take it of", agi_shape(x).s);
        return NULL;
    }
    ag_tensor *y = agi_node(op, 1, &x, all ? 0 : x->ndim, shape, 0);
    if (!y) return NULL;
    y->iarg[0] = op == &agi_op_max ? AG_REDUCE_MAX : AG_REDUCE_SUM, y->iarg[1] = all ? -1 : dim;
    y->arg[0] = op == &agi_op_mean ? 1.0 / (double)r : 1;
    return AGI_RUN(ctx, reduce, y->iarg[0], y->data, x->data, outer, r, inner, y->arg[0], 0) ? NULL : y;
}

ag_tensor *ag_sum(ag_tensor *x) { return agi_reduce(&agi_op_sum, x, 1, 0); }
ag_tensor *ag_mean(ag_tensor *x) { return agi_reduce(&agi_op_mean, x, 1, 0); }
ag_tensor *ag_sum_dim(ag_tensor *x, int dim) { return agi_reduce(&agi_op_sum, x, 0, dim); }
ag_tensor *ag_mean_dim(ag_tensor *x, int dim) { return agi_reduce(&agi_op_mean, x, 0, dim); }
ag_tensor *ag_max_dim(ag_tensor *x, int dim) { return agi_reduce(&agi_op_max, x, 0, dim); }

// ---- matrix products -----------------------------------------------------------------------------------------------
// C = A B: three loops. Nearly all time of a language model is spent here, and nearly all of the engine room is about
// doing these same multiplications in an order that the caches like.
static int agi_naive_product(ag_real (*round)(ag_real), ag_real *C, const ag_real *A, const ag_real *B,
                             const ag_real *bias, int M, int N, int K, int ta, int tb, const int batch[2],
                             const size_t sc[2], const size_t sa[2], const size_t sb[2], int accumulate) {
    for (int b0 = 0; b0 < batch[0]; b0++) for (int b1 = 0; b1 < batch[1]; b1++) {
        const ag_real *a = A + (size_t)b0 * sa[0] + (size_t)b1 * sa[1],
            *b = B + (size_t)b0 * sb[0] + (size_t)b1 * sb[1];
        ag_real *c = C + (size_t)b0 * sc[0] + (size_t)b1 * sc[1];
        int add = accumulate || (b0 && !sc[0]) || (b1 && !sc[1]);
        for (int m = 0; m < M; m++) for (int n = 0; n < N; n++) {
            double s = add ? c[(size_t)m * N + n] : 0;
            for (int k = 0; k < K; k++)
                s += (double)round(ta ? a[(size_t)k * M + m] : a[(size_t)m * K + k]) *
                     round(tb ? b[(size_t)n * K + k] : b[(size_t)k * N + n]);
            c[(size_t)m * N + n] = (ag_real)(bias ? s + bias[n] : s);
        }
    }
    return 0;
}

static ag_real agi_unrounded(ag_real x) { return x; }

static int agi_naive_matmul(ag_backend *be, ag_real *C, const ag_real *A, const ag_real *B, const ag_real *bias, int M,
                            int N, int K, int ta, int tb, const int batch[2], const size_t sc[2], const size_t sa[2],
                            const size_t sb[2], int accumulate) {
    (void)be;
    return agi_naive_product(agi_unrounded, C, A, B, bias, M, N, K, ta, tb, batch, sc, sa, sb, accumulate);
}

// bfloat16 is the upper half of a float: sign, all 8 bits of the exponent, 7 of the 23 bits behind the point. Rounded
// to the nearest, to even at a tie; what is too small for a normal float becomes 0, as in processors' instructions.
static uint32_t agi_bf16_bits(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    const uint32_t size = u & 0x7fffffff;
    if (size < 0x00800000) return u >> 31 << 15;
    if (size > 0x7f800000) return u >> 16 | 0x40;               // stays a NaN
    return (u + 0x7fff + (u >> 16 & 1)) >> 16;
}

static ag_real agi_bf16(ag_real x) {
    const uint32_t u = agi_bf16_bits((float)x) << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}

static int agi_naive_matmul_bf16(ag_backend *be, ag_real *C, const ag_real *A, const ag_real *B, const ag_real *bias,
                                 int M, int N, int K, int ta, int tb, const int batch[2], const size_t sc[2],
                                 const size_t sa[2], const size_t sb[2], int accumulate) {
    (void)be;
    return agi_naive_product(agi_bf16, C, A, B, bias, M, N, K, ta, tb, batch, sc, sa, sb, accumulate);
}

// iarg of a product: M, N, K of one, two batch sizes, is there one b for all, is b transposed.
static void agi_batch_strides(const ag_tensor *t, int flat, size_t s[2]) {
    size_t stride[4];
    agi_strides(t, stride);
    s[0] = flat ? 0 : stride[0], s[1] = flat ? 0 : stride[1];
}

static int agi_product(ag_ctx *ctx, ag_real *C, const ag_real *A, const ag_real *B, const ag_real *bias, int M, int N,
                       int K, int ta, int tb, const int *batch, const size_t *sc, const size_t *sa, const size_t *sb,
                       int accumulate) {
    static const int one[2] = {1, 1};
    static const size_t zero[2] = {0, 0};
    if (!batch) batch = one;
    if (!sc) sc = sa = sb = zero;
    if (ctx->precision == AG_BF16)
        return AGI_RUN(ctx, matmul_bf16, C, A, B, bias, M, N, K, ta, tb, batch, sc, sa, sb, accumulate);
    return AGI_RUN(ctx, matmul, C, A, B, bias, M, N, K, ta, tb, batch, sc, sa, sb, accumulate);
}

// Tells the backend how long the numbers of b stay what they are; NULL: B may be anything. Who makes a view of a
// parameter may write through it, so from then on nothing is known.
static void agi_steady(ag_ctx *ctx, const ag_tensor *b) {
    ctx->backend->steady = b && b->lasting && !b->viewed ? b->version + 1 : 0;
}
// agi_product whose B is a tensor.
static int agi_product_by(ag_ctx *ctx, ag_real *C, const ag_real *A, const ag_tensor *b, const ag_real *bias, int M,
                          int N, int K, int ta, int tb, const int *batch, const size_t *sc, const size_t *sa,
                          const size_t *sb, int accumulate) {
    agi_steady(ctx, b);
    int failed = agi_product(ctx, C, A, b->data, bias, M, N, K, ta, tb, batch, sc, sa, sb, accumulate);
    agi_steady(ctx, NULL);
    return failed;
}

// In the forward pass this was Y = A B. With C += A B as the only tool:
//     dA += dY B^T        dB += A^T dY              (Y = A B^T:  dA += dY B,  dB += dY^T A)
static void agi_matmul_backward(ag_tensor *y) {
    ag_ctx *ctx = y->ctx;
    ag_tensor *a = y->in[0], *b = y->in[1];
    int M = y->iarg[0], N = y->iarg[1], K = y->iarg[2], flat = y->iarg[5], tb = y->iarg[6], accumulate;
    const int *batch = y->iarg + 3;
    size_t sy[2], sa[2], sb[2];
    ag_real *da, *db;
    agi_batch_strides(y, flat, sy), agi_batch_strides(a, flat, sa), agi_batch_strides(b, flat, sb);
    if ((da = agi_grad(a, &accumulate)) != NULL) {
        if (!accumulate && !y->count && AGI_RUN(ctx, fill, da, 0, a->count)) return;  // an empty batch
        if (agi_product_by(ctx, da, y->grad, b, NULL, M, K, N, 0, !tb, batch, sa, sy, sb, accumulate)) return;
    }
    if ((db = agi_grad(b, &accumulate)) == NULL) return;
    if (!accumulate && !y->count && AGI_RUN(ctx, fill, db, 0, b->count)) return;
    if (tb) agi_product(ctx, db, y->grad, a->data, NULL, N, K, M, 1, 0, batch, sb, sy, sa, accumulate);
    else agi_product(ctx, db, a->data, y->grad, NULL, K, N, M, 1, 0, batch, sb, sa, sy, accumulate);
}
static const agi_op agi_op_matmul = { "ag_matmul", agi_matmul_backward, NULL };
static const agi_op agi_op_matmul_t = { "ag_matmul_t", agi_matmul_backward, NULL };

static ag_tensor *agi_linear_int8(const agi_op *op, ag_tensor *x, ag_tensor *w, ag_tensor *bias, int O, int turned);
static ag_tensor *agi_matmul(const agi_op *op, ag_tensor *a, ag_tensor *b, int tb) {
    ag_tensor *in[2];
    int shape[AG_NDIM], M, N, K, bK, batch[2] = {1, 1}, flat, ndim;
    size_t sy[2], sa[2], sb[2];
    in[0] = a, in[1] = b;
    ag_ctx *ctx = agi_ready(op, 2, in);
    if (!ctx) return NULL;
    if (a->ndim < 2 || b->ndim < 2) {
        agi_fail(ctx, op->name,
                 "a is %s, b is %s: both need at least two dimensions (ag_reshape makes a row or a column)",
                 agi_shape(a).s, agi_shape(b).s);
        return NULL;
    }
    M = a->shape[a->ndim - 2], K = a->shape[a->ndim - 1];
    N = b->shape[b->ndim - (tb ? 2 : 1)], bK = b->shape[b->ndim - (tb ? 1 : 2)];
    if (K != bK) {
        agi_fail(ctx, op->name, "a is %s, b is %s: inner sizes %d and %d differ%s", agi_shape(a).s, agi_shape(b).s, K,
                 bK, K != N ? "" : tb ? ". Did you mean ag_matmul?" : ". Did you mean to transpose b? (ag_matmul_t)");
        return NULL;
    }
    if (b->int8_on) return agi_linear_int8(op, a, b, NULL, N, tb);
    ndim = AGI_MAX(a->ndim, b->ndim);
    for (int i = 0; i < ndim - 2; i++) {            // the batch dimensions broadcast
        int ia = i - (ndim - a->ndim), ib = i - (ndim - b->ndim);
        int da = ia < 0 ? 1 : a->shape[ia], db = ib < 0 ? 1 : b->shape[ib];
        if (da != db && da != 1 && db != 1) {
            agi_fail(ctx, op->name, "a is %s, b is %s: batch sizes %d and %d do not broadcast", agi_shape(a).s,
                     agi_shape(b).s, da, db);
            return NULL;
        }
        shape[i] = da == 1 ? db : da;
    }
    shape[ndim - 2] = M, shape[ndim - 1] = N;
    ag_tensor *y = agi_node(op, 2, in, ndim, shape, 0);
    if (!y) return NULL;
    flat = b->ndim == 2;                            // one b for all: the batch of a is just more rows
    if (flat) M = K ? (int)(a->count / (size_t)K) : (int)(N ? y->count / (size_t)N : 0);
    else { batch[1] = shape[ndim - 3]; if (ndim == 4) batch[0] = shape[0]; }
    y->iarg[0] = M, y->iarg[1] = N, y->iarg[2] = K, y->iarg[3] = batch[0], y->iarg[4] = batch[1], y->iarg[5] = flat,
        y->iarg[6] = tb;
    agi_batch_strides(y, flat, sy), agi_batch_strides(a, flat, sa), agi_batch_strides(b, flat, sb);
    return agi_product_by(ctx, y->data, a->data, b, NULL, M, N, K, 0, tb, batch, sy, sa, sb, 0) ? NULL : y;
}

ag_tensor *ag_matmul(ag_tensor *a, ag_tensor *b) { return agi_matmul(&agi_op_matmul, a, b, 0); }
ag_tensor *ag_matmul_t(ag_tensor *a, ag_tensor *b) { return agi_matmul(&agi_op_matmul_t, a, b, 1); }

// ---- weights in one byte -------------------------------------------------------------------------------------------
// A model that speaks one token at a time reads every weight for each of them, so it is as fast as memory: a fourth of
// the bytes is up to four times the speed. q = round(w / scale), scale = (largest |w| of the output's column) / 127,
// is off by at most half a scale. The errors of many weights have both signs and mostly cancel in a sum.
static int agi_naive_linear_int8(ag_backend *be, ag_real *y, const ag_real *x, const signed char *q,
                                 const ag_real *scale, const ag_real *bias, int M, int N, int K) {
    size_t stride = ((size_t)N + 15) / 16 * 16;
    (void)be;
    for (int m = 0; m < M; m++) for (int n = 0; n < N; n++) {
        double s = 0;
        for (int k = 0; k < K; k++) s += (double)x[(size_t)m * K + k] * q[k * stride + n];
        s *= scale[n];
        y[(size_t)m * N + n] = (ag_real)(bias ? s + bias[n] : s);
    }
    return 0;
}

int ag_quantize(ag_tensor *w, int turned, int on) {
    if (!w || w->ctx->error[0]) return -1;
    ag_ctx *ctx = w->ctx;
    if (!on) { w->int8_on = 0; return 0; }              // the memory stays, for the next time
    if (w->ndim != 2 || w->in || !w->count) {
        agi_fail(ctx, "ag_quantize", "w is %s: wanted a matrix that is a parameter", agi_shape(w).s);
        return -1;
    }
    const int I = w->shape[turned ? 1 : 0], O = w->shape[turned ? 0 : 1];
    const size_t stride = ((size_t)O + 15) / 16 * 16, bytes = (size_t)I * stride;
    const size_t room = w->count + 16 * (size_t)AGI_MAX(I, O), scales = (size_t)AGI_MAX(I, O) + 16;     // either way
    int bad = -1;
    if (room / sizeof(ag_real) > (size_t)INT_MAX - 16 || w->count > (size_t)-1 / 16) {
        agi_fail(ctx, "ag_quantize", "w is %s: more bytes than this machine can address at once", agi_shape(w).s);
        return -1;
    }
    if (!w->int8) w->int8 = ag_state_at(ctx, (int)(room / sizeof(ag_real)) + 1, AG_END, AG_END, AG_END, AG_END);
    if (w->int8 && !w->int8_scale) w->int8_scale = ag_state_at(ctx, (int)scales, AG_END, AG_END, AG_END, AG_END);
    ag_real *from = w->int8_scale ? (ag_real *)AG_MALLOC((w->count + scales) * sizeof *from) : NULL, *scale;
    signed char *q = from ? (signed char *)AG_MALLOC(bytes) : NULL;
    if (q && !ag_get(w, from)) {
        memset(q, 0, bytes);
        scale = from + w->count;
        for (size_t o = 0; o < scales; o++) scale[o] = 0;
        for (int o = 0; o < O; o++) {
            const size_t first = turned ? (size_t)o * I : (size_t)o, step = turned ? 1 : (size_t)O;
            double most = 0;
            for (int i = 0; i < I; i++) most = AGI_MAX(most, fabs((double)from[first + i * step]));
            scale[o] = (ag_real)(most / 127);
            for (int i = 0; i < I && scale[o] > 0; i++) {
                const double x = floor((double)from[first + i * step] / (double)scale[o] + 0.5);
                q[i * stride + o] = (signed char)AGI_MAX(-127, AGI_MIN(x, 127));
            }
        }
        bad = AGI_RUN(ctx, write, w->int8->data, q, bytes) || ag_set(w->int8_scale, scale);
        w->int8_on = bad ? 0 : turned ? 2 : 1, w->int8_version = w->version;
    } else if (!ctx->error[0]) agi_fail(ctx, "ag_quantize", "out of memory");
    if (q) AG_FREE(q);
    if (from) AG_FREE(from);
    return bad ? -1 : 0;
}

// The product with such a copy, for ag_linear and ag_matmul_t once they have checked the shapes.
static ag_tensor *agi_linear_int8(const agi_op *op, ag_tensor *x, ag_tensor *w, ag_tensor *bias, int O, int turned) {
    static const agi_op without_backward = { "ag_linear", NULL, NULL };
    ag_ctx *ctx = x->ctx;
    int shape[AG_NDIM];
    if (!ctx->no_grad && (x->needs_grad || w->needs_grad || (bias && bias->needs_grad))) {
        agi_fail(ctx, op->name, "the weights are int8, which speak but cannot learn: turn gradients off with "
                 "ag_no_grad, or take the floats again (ag_quantize with on = 0, gpt_quantize with 0)");
        return NULL;
    }
    if (w->int8_on != 1 + turned) {
        agi_fail(ctx, op->name, "the weights are int8 for %s: ag_quantize with turned = %d, or 0 for on",
                 turned ? "ag_linear and ag_matmul" : "ag_matmul_t", turned);
        return NULL;
    }
    if (w->int8_version != w->version) {
        agi_fail(ctx, op->name, "the weights have changed since they were made int8: quantize them again");
        return NULL;
    }
    if (!ctx->backend->linear_int8) { agi_fail(ctx, op->name, "this backend has no int8 weights"); return NULL; }
    memcpy(shape, x->shape, sizeof shape);
    shape[x->ndim - 1] = O;
    ag_tensor *y = agi_node(&without_backward, 1, &x, x->ndim, shape, 0);
    if (!y) return NULL;
    return AGI_RUN(ctx, linear_int8, y->data, x->data, (const signed char *)(const void *)w->int8->data,
                   w->int8_scale->data, bias ? bias->data : NULL, (int)agi_rows(y), O, agi_last(x)) ? NULL : y;
}

// x (rows,I) w (I,O) bias (O): y = x w + bias. So now dx += dy w^T, dw += x^T dy, dbias += the column sums of dy.
static int agi_linear_back(ag_tensor *y, const ag_real *dy) {
    ag_ctx *ctx = y->ctx;
    ag_tensor *x = y->in[0], *w = y->in[1];
    int rows = y->iarg[0], I = w->shape[0], O = w->shape[1], accumulate;
    ag_real *g;
    if ((g = agi_grad(x, &accumulate)) != NULL &&
        agi_product_by(ctx, g, dy, w, NULL, rows, I, O, 0, 1, NULL, NULL, NULL, NULL, accumulate)) return -1;
    if ((g = agi_grad(w, &accumulate)) != NULL &&
        agi_product(ctx, g, x->data, dy, NULL, I, O, rows, 1, 0, NULL, NULL, NULL, NULL, accumulate)) return -1;
    return 0;
}

static void agi_linear_backward(ag_tensor *y) {
    ag_ctx *ctx = y->ctx;
    int rows = y->iarg[0], O = y->in[1]->shape[1], accumulate;
    ag_real *g;
    if (agi_linear_back(y, y->grad)) return;
    if (y->n_in == 3 && (g = agi_grad(y->in[2], &accumulate)) != NULL)
        AGI_RUN(ctx, reduce, AG_REDUCE_SUM, g, y->grad, (size_t)1, (size_t)rows, (size_t)O, 1.0, accumulate);
}
static const agi_op agi_op_linear = { "ag_linear", agi_linear_backward, NULL };

// The node of ag_linear or ag_linear_gelu, with its shapes checked; with weights in int8 it is computed already.
static ag_tensor *agi_linear(const agi_op *op, ag_tensor *x, ag_tensor *w, ag_tensor *bias, int *int8) {
    ag_tensor *in[3];
    int shape[AG_NDIM];
    in[0] = x, in[1] = w, in[2] = bias;
    ag_ctx *ctx = agi_ready(op, bias ? 3 : 2, in);
    if (!ctx) return NULL;
    if (x->ndim < 1 || w->ndim != 2 || agi_last(x) != w->shape[0] ||
        (bias && (bias->ndim != 1 || bias->shape[0] != w->shape[1]))) {
        agi_fail(ctx, op->name, "x is %s, w is %s, bias is %s: wanted x (...,I), w (I,O), bias (O)", agi_shape(x).s,
                 agi_shape(w).s, bias ? agi_shape(bias).s : "NULL");
        return NULL;
    }
    if ((*int8 = w->int8_on) != 0) return agi_linear_int8(op, x, w, bias, w->shape[1], 0);
    memcpy(shape, x->shape, sizeof shape);
    shape[x->ndim - 1] = w->shape[1];
    ag_tensor *y = agi_node(op, bias ? 3 : 2, in, x->ndim, shape, 0);
    if (y) y->iarg[0] = (int)agi_rows(y);
    return y;
}

ag_tensor *ag_linear(ag_tensor *x, ag_tensor *w, ag_tensor *bias) {
    int int8 = 0;
    ag_tensor *y = agi_linear(&agi_op_linear, x, w, bias, &int8);
    if (int8) return y;
    return !y || agi_product_by(y->ctx, y->data, x->data, w, bias ? bias->data : NULL, y->iarg[0], w->shape[1],
                                w->shape[0], 0, 0, NULL, NULL, NULL, NULL, 0) ? NULL : y;
}

// z = x w + bias, y = gelu(z). Twice the memory moves of the product itself would go into reading z for gelu, and later
// z and dy for the gradients. So gelu follows while a piece of z still lies in the cache, and in backward dz and the
// gradient of the bias come out of one pass; dz takes the place of dy, which nobody reads again.
static void agi_linear_gelu_backward(ag_tensor *y) {
    ag_ctx *ctx = y->ctx;
    ag_real *dz = y->keep_grad ? (ag_real *)agi_save(ctx, y->count * sizeof *dz) : y->grad, *dbias = NULL;
    int accumulate = 0;
    if (!dz) return;
    if (y->n_in == 3) dbias = agi_grad(y->in[2], &accumulate);
    if (!AGI_RUN(ctx, gelu_bias_back, dz, dbias, (const ag_real *)y->saved[0], y->grad, (size_t)y->iarg[0],
                 (size_t)y->in[1]->shape[1], accumulate))
        agi_linear_back(y, dz);
}
static int agi_linear_gelu_again(ag_tensor *y) {            // z is still there
    const ag_real *x[3] = {NULL, NULL, NULL};
    const size_t flat[3][4] = {{0, 0, 0, 1}, {0, 0, 0, 0}, {0, 0, 0, 0}};
    int shape[4] = {1, 1, 1, 1};
    x[0] = (const ag_real *)y->saved[0], shape[3] = (int)y->count;
    return AGI_RUN(y->ctx, map, AG_MAP_GELU, y->data, x, shape, flat, 0.0, 0.0);
}
static const agi_op agi_op_linear_gelu = { "ag_linear_gelu", agi_linear_gelu_backward, agi_linear_gelu_again };

static int agi_naive_linear_gelu(ag_backend *b, ag_real *y, ag_real *z, const ag_real *x, const ag_real *w,
                                 const ag_real *bias, int rows, int I, int O, int precision) {
    static const int one[2] = {1, 1};
    static const size_t zero[2] = {0, 0};
    int failed = precision == AG_BF16 ? b->matmul_bf16(b, z, x, w, bias, rows, O, I, 0, 0, one, zero, zero, zero, 0)
                                      : b->matmul(b, z, x, w, bias, rows, O, I, 0, 0, one, zero, zero, zero, 0);
    if (failed) return -1;
    for (size_t i = 0; i < (size_t)rows * O; i++) y[i] = (ag_real)agi_map_value(AG_MAP_GELU, z[i], 0, 0, 0, 0);
    return 0;
}

static int agi_naive_gelu_bias_back(ag_backend *b, ag_real *dz, ag_real *dbias, const ag_real *z, const ag_real *dy,
                                    size_t rows, size_t n, int accumulate) {
    (void)b;
    for (size_t i = 0; i < rows * n; i++)
        dz[i] = (ag_real)(dy[i] * agi_map_slope(AG_MAP_GELU, 0, 0, z[i], 0, 0, 0));
    for (size_t j = 0; j < n && dbias; j++) {
        double sum = accumulate ? dbias[j] : 0;
        for (size_t r = 0; r < rows; r++) sum += dz[r * n + j];
        dbias[j] = (ag_real)sum;
    }
    return 0;
}

ag_tensor *ag_linear_gelu(ag_tensor *x, ag_tensor *w, ag_tensor *bias) {
    int int8 = 0;
    ag_tensor *y = agi_linear(&agi_op_linear_gelu, x, w, bias, &int8);
    if (!y || int8) return agi_map(AG_MAP_GELU, 1, y, NULL, NULL, 0, 0);
    if (y->op && !(y->saved[0] = agi_save(y->ctx, y->count * sizeof(ag_real)))) return NULL;
    agi_steady(y->ctx, w);
    int failed = AGI_RUN(y->ctx, linear_gelu, y->data, y->op ? (ag_real *)y->saved[0] : y->data, x->data, w->data,
                         bias ? bias->data : NULL, y->iarg[0], w->shape[0], w->shape[1], y->ctx->precision);
    agi_steady(y->ctx, NULL);
    return failed ? NULL : y;
}

// ---- softmax -------------------------------------------------------------------------------------------------------
// y_i = e^(x_i - max) / sum_j e^(x_j - max). Subtracting the maximum changes nothing and keeps e^x in range.
static int agi_naive_softmax(ag_backend *be, ag_real *y, const ag_real *x, size_t rows, size_t n, int is_log) {
    (void)be;
    for (size_t r = 0; r < rows; r++, x += n, y += n) {
        double max = -INFINITY, sum = 0;
        for (size_t i = 0; i < n; i++) if (x[i] > max) max = x[i];
        for (size_t i = 0; i < n; i++) sum += exp(x[i] - max);
        for (size_t i = 0; i < n; i++) y[i] = (ag_real)(is_log ? x[i] - max - log(sum) : exp(x[i] - max) / sum);
    }
    return 0;
}

// softmax: dx_i = y_i (dy_i - sum_j dy_j y_j).   log_softmax: dx_i = dy_i - e^(y_i) sum_j dy_j
static int agi_naive_softmax_back(ag_backend *be, ag_real *dx, const ag_real *y, const ag_real *dy, size_t rows,
                                  size_t n, int is_log, int accumulate) {
    (void)be;
    for (size_t r = 0; r < rows; r++, y += n, dy += n, dx += n) {
        double dot = 0;
        for (size_t i = 0; i < n; i++) dot += is_log ? dy[i] : dy[i] * (double)y[i];
        for (size_t i = 0; i < n; i++) {
            double d = is_log ? dy[i] - exp(y[i]) * dot : y[i] * (dy[i] - dot);
            dx[i] = (ag_real)(accumulate ? dx[i] + d : d);
        }
    }
    return 0;
}

static void agi_softmax_backward(ag_tensor *y) {
    int accumulate;
    ag_real *dx = agi_grad(y->in[0], &accumulate);
    if (dx) AGI_RUN(y->ctx, softmax_back, dx, y->data, y->grad, agi_rows(y), (size_t)agi_last(y), y->iarg[0],
                    accumulate);
}
static const agi_op agi_op_softmax = { "ag_softmax", agi_softmax_backward, NULL };
static const agi_op agi_op_log_softmax = { "ag_log_softmax", agi_softmax_backward, NULL };

static ag_tensor *agi_softmax(const agi_op *op, ag_tensor *x, int is_log) {
    ag_ctx *ctx = agi_ready(op, 1, &x);
    if (ctx && x->ndim < 1) { agi_fail(ctx, op->name, "x has no dimension to sum over"); return NULL; }
    ag_tensor *y = ctx ? agi_node(op, 1, &x, x->ndim, x->shape, 0) : NULL;
    if (!y) return NULL;
    y->iarg[0] = is_log;
    return AGI_RUN(ctx, softmax, y->data, x->data, agi_rows(x), (size_t)agi_last(x), is_log) ? NULL : y;
}
ag_tensor *ag_softmax(ag_tensor *x) { return agi_softmax(&agi_op_softmax, x, 0); }
ag_tensor *ag_log_softmax(ag_tensor *x) { return agi_softmax(&agi_op_log_softmax, x, 1); }

// ---- normalisation -------------------------------------------------------------------------------------------------
// LayerNorm (Ba et al. 2016): h = (x - mean) / sqrt(variance + eps), y = h w + bias, over the last dimension.
// RMSNorm (Zhang & Sennrich 2019): h = x / sqrt(mean of squares + eps), y = h w.
static int agi_naive_norm(ag_backend *be, ag_real *y, ag_real *stats, const ag_real *x, const ag_real *w,
                          const ag_real *bias, size_t rows, size_t n, double eps, int rms) {
    (void)be;
    for (size_t r = 0; r < rows; r++, x += n, y += n) {
        double mean = 0, var = 0, rstd;
        for (size_t i = 0; i < n && !rms; i++) mean += x[i];
        mean /= (double)n;
        for (size_t i = 0; i < n; i++) var += (x[i] - mean) * (x[i] - mean);
        rstd = 1 / sqrt(var / (double)n + eps);
        for (size_t i = 0; i < n; i++) y[i] = (ag_real)((x[i] - mean) * rstd * (w ? w[i] : 1) + (bias ? bias[i] : 0));
        stats[2 * r] = (ag_real)mean, stats[2 * r + 1] = (ag_real)rstd;
    }
    return 0;
}

// With g = dy w:  dx = rstd (g - mean(g) - h mean(g h)), without the term mean(g) for RMSNorm;
// dw += dy h;  dbias += dy.
static int agi_naive_norm_back(ag_backend *be, ag_real *dx, ag_real *dw, ag_real *dbias, const ag_real *x,
                               const ag_real *w, const ag_real *stats, const ag_real *dy, size_t rows, size_t n,
                               int rms, int accumulate) {
    (void)be;
    if (dw && !(accumulate & 2)) for (size_t i = 0; i < n; i++) dw[i] = 0;
    if (dbias && !(accumulate & 4)) for (size_t i = 0; i < n; i++) dbias[i] = 0;
    for (size_t r = 0; r < rows; r++, x += n, dy += n) {
        double mean = stats[2 * r], rstd = stats[2 * r + 1], g_mean = 0, gh_mean = 0;
        for (size_t i = 0; i < n; i++) {
            double g = dy[i] * (double)(w ? w[i] : 1), h = (x[i] - mean) * rstd;
            g_mean += rms ? 0 : g / (double)n, gh_mean += g * h / (double)n;
            if (dw) dw[i] = (ag_real)(dw[i] + dy[i] * h);
            if (dbias) dbias[i] += dy[i];
        }
        for (size_t i = 0; i < n && dx; i++) {
            double h = (x[i] - mean) * rstd, d = rstd * (dy[i] * (double)(w ? w[i] : 1) - g_mean - h * gh_mean);
            dx[r * n + i] = (ag_real)(accumulate & 1 ? dx[r * n + i] + d : d);
        }
    }
    return 0;
}

static void agi_norm_backward(ag_tensor *y) {
    ag_tensor *x = y->in[0], *w = y->in[1], *bias = y->n_in == 3 ? y->in[2] : NULL;
    int ax = 0, aw = 0, ab = 0;
    ag_real *dx = agi_grad(x, &ax), *dw = agi_grad(w, &aw), *db = bias ? agi_grad(bias, &ab) : NULL;
    AGI_RUN(y->ctx, norm_back, dx, dw, db, x->data, w->data, (const ag_real *)y->saved[0], y->grad, agi_rows(x),
            (size_t)agi_last(x), y->iarg[0], ax | aw << 1 | ab << 2);
}
static int agi_norm_values(ag_tensor *y, const ag_tensor *x, const ag_tensor *w, const ag_tensor *bias) {
    return AGI_RUN(y->ctx, norm, y->data, (ag_real *)y->saved[0], x->data, w->data, bias ? bias->data : NULL,
                   agi_rows(x), (size_t)agi_last(x), y->arg[0], y->iarg[0]);
}
static int agi_norm_again(ag_tensor *y) {
    return agi_norm_values(y, y->in[0], y->in[1], y->n_in == 3 ? y->in[2] : NULL);
}
static const agi_op agi_op_layernorm = { "ag_layernorm", agi_norm_backward, agi_norm_again };
static const agi_op agi_op_rmsnorm = { "ag_rmsnorm", agi_norm_backward, agi_norm_again };

static ag_tensor *agi_norm(const agi_op *op, ag_tensor *x, ag_tensor *w, ag_tensor *bias, double eps, int rms) {
    ag_tensor *in[3];
    in[0] = x, in[1] = w, in[2] = bias;
    ag_ctx *ctx = agi_ready(op, bias ? 3 : 2, in);
    if (!ctx) return NULL;
    if (x->ndim < 1 || w->ndim != 1 || w->shape[0] != agi_last(x) ||
        (bias && (bias->ndim != 1 || bias->shape[0] != agi_last(x)))) {
        agi_fail(ctx, op->name, "x is %s, w is %s, bias is %s: wanted x (...,C), w (C), bias (C)", agi_shape(x).s,
                 agi_shape(w).s, bias ? agi_shape(bias).s : "NULL");
        return NULL;
    }
    ag_tensor *y = agi_node(op, bias ? 3 : 2, in, x->ndim, x->shape, 0);
    if (!y || !(y->saved[0] = agi_save(ctx, agi_rows(x) * 2 * sizeof(ag_real)))) return NULL;
    y->iarg[0] = rms, y->arg[0] = eps;
    return agi_norm_values(y, x, w, bias) ? NULL : y;
}
ag_tensor *ag_layernorm(ag_tensor *x, ag_tensor *w, ag_tensor *bias, double eps) {
    return agi_norm(&agi_op_layernorm, x, w, bias, eps, 0);
}
ag_tensor *ag_rmsnorm(ag_tensor *x, ag_tensor *w, double eps) { return agi_norm(&agi_op_rmsnorm, x, w, NULL, eps, 1); }

// ---- looking up ----------------------------------------------------------------------------------------------------
// Embedding: row ids[i] of the table. It is a product with one-hot rows that never multiplies by 0.
static int agi_naive_embedding(ag_backend *be, ag_real *y, const ag_real *table, const int *ids, size_t n, size_t c) {
    (void)be;
    for (size_t i = 0; i < n; i++) memcpy(y + i * c, table + (size_t)ids[i] * c, c * sizeof *y);
    return 0;
}

// y_i = table[ids[i]]: so now dtable[ids[i]] += dy_i. A row that was looked up twice collects twice.
static int agi_naive_embedding_back(ag_backend *be, ag_real *dtable, const int *ids, const ag_real *dy, size_t n,
                                    size_t vocab, size_t c, int accumulate) {
    (void)be;
    for (size_t i = 0; i < vocab * c && !accumulate; i++) dtable[i] = 0;
    for (size_t i = 0; i < n; i++) for (size_t k = 0; k < c; k++) dtable[(size_t)ids[i] * c + k] += dy[i * c + k];
    return 0;
}

static void agi_embedding_backward(ag_tensor *y) {
    int accumulate;
    ag_tensor *table = y->in[0];
    size_t c = (size_t)table->shape[1];
    ag_real *dt = agi_grad(table, &accumulate);
    if (dt) AGI_RUN(y->ctx, embedding_back, dt, (const int *)y->saved[0], y->grad, c ? y->count / c : 0,
                    (size_t)table->shape[0], c, accumulate);
}
static const agi_op agi_op_embedding = { "ag_embedding", agi_embedding_backward, NULL };

static int agi_ids_ok(ag_ctx *ctx, const char *op, const int *ids, size_t n, int limit, int ignore) {
    if (!ids && n) { agi_fail(ctx, op, "the ids are NULL"); return 0; }
    for (size_t i = 0; i < n; i++)
        if ((ids[i] < 0 || ids[i] >= limit) && !(ignore && ids[i] == AG_IGNORE)) {
            agi_fail(ctx, op, "id %d at position %zu; there are %d, from 0 to %d", ids[i], i, limit, limit - 1);
            return 0;
        }
    return 1;
}

ag_tensor *ag_embedding(ag_tensor *table, const int *ids, int n, int per_row) {
    int shape[AG_NDIM];
    ag_ctx *ctx = agi_ready(&agi_op_embedding, 1, &table);
    if (!ctx) return NULL;
    if (table->ndim != 2 || n < 0 || per_row < 0 || (per_row && n % per_row)) {
        agi_fail(ctx, "ag_embedding", "table is %s, %d ids in rows of %d: wanted a table (V,C) and full rows",
                 agi_shape(table).s, n, per_row);
        return NULL;
    }
    if (!agi_ids_ok(ctx, "ag_embedding", ids, (size_t)n, table->shape[0], 0)) return NULL;
    shape[0] = per_row ? n / per_row : n, shape[1] = per_row ? per_row : table->shape[1], shape[2] = table->shape[1];
    ag_tensor *y = agi_node(&agi_op_embedding, 1, &table, per_row ? 3 : 2, shape, 0);
    if (!y || !(y->saved[0] = agi_save_ints(ctx, ids, (size_t)n))) return NULL;
    return AGI_RUN(ctx, embedding, y->data, table->data, (const int *)y->saved[0], (size_t)n, (size_t)table->shape[1])
        ? NULL : y;
}

// Gather: one number of each row, y_r = x[r, ids[r]]. So now dx[r, ids[r]] += dy_r.
static int agi_naive_gather(ag_backend *be, ag_real *y, const ag_real *x, const int *ids, size_t rows, size_t n) {
    (void)be;
    for (size_t r = 0; r < rows; r++) y[r] = x[r * n + (size_t)ids[r]];
    return 0;
}
static int agi_naive_gather_back(ag_backend *be, ag_real *dx, const int *ids, const ag_real *dy, size_t rows, size_t n,
                                 int accumulate) {
    (void)be;
    for (size_t i = 0; i < rows * n && !accumulate; i++) dx[i] = 0;
    for (size_t r = 0; r < rows; r++) dx[r * n + (size_t)ids[r]] += dy[r];
    return 0;
}
static void agi_gather_backward(ag_tensor *y) {
    int accumulate;
    ag_tensor *x = y->in[0];
    ag_real *dx = agi_grad(x, &accumulate);
    if (dx) AGI_RUN(y->ctx, gather_back, dx, (const int *)y->saved[0], y->grad, agi_rows(x), (size_t)agi_last(x),
                    accumulate);
}
static const agi_op agi_op_gather = { "ag_gather", agi_gather_backward, NULL };

ag_tensor *ag_gather(ag_tensor *x, const int *ids) {
    ag_ctx *ctx = agi_ready(&agi_op_gather, 1, &x);
    if (ctx && x->ndim < 1) { agi_fail(ctx, "ag_gather", "x has no dimension to look up in"); return NULL; }
    if (!ctx || !agi_ids_ok(ctx, "ag_gather", ids, agi_rows(x), agi_last(x), 0)) return NULL;
    ag_tensor *y = agi_node(&agi_op_gather, 1, &x, x->ndim - 1, x->shape, 0);
    if (!y || !(y->saved[0] = agi_save_ints(ctx, ids, agi_rows(x)))) return NULL;
    return AGI_RUN(ctx, gather, y->data, x->data, (const int *)y->saved[0], agi_rows(x), (size_t)agi_last(x)) ? NULL
        : y;
}

// ---- dropout -------------------------------------------------------------------------------------------------------
// y = x * mask / (1 - p) (Srivastava et al. 2014). The mask is not stored: it is drawn again from the same counters.
static int agi_naive_dropout(ag_backend *be, ag_real *y, const ag_real *x, size_t n, double p, ag_rng rng,
                             int accumulate) {
    (void)be;
    for (size_t i = 0; i < n; i++) {
        double v = ag_rng_u32(&rng) >= p * 4294967296.0 ? x[i] / (1 - p) : 0;
        y[i] = (ag_real)(accumulate ? y[i] + v : v);
    }
    return 0;
}
static void agi_dropout_backward(ag_tensor *y) {        // dx += dy * mask / (1 - p)
    int accumulate;
    ag_real *dx = agi_grad(y->in[0], &accumulate);
    if (dx) AGI_RUN(y->ctx, dropout, dx, y->grad, y->count, y->arg[0], *(ag_rng *)y->saved[0], accumulate);
}
static const agi_op agi_op_dropout = { "ag_dropout", agi_dropout_backward, NULL };

ag_tensor *ag_dropout(ag_tensor *x, double p) {
    ag_ctx *ctx = agi_ready(&agi_op_dropout, 1, &x);
    if (!ctx || p == 0) return ctx ? x : NULL;
    if (!(p > 0 && p < 1)) { agi_fail(ctx, "ag_dropout", "p is %g, wanted 0 <= p < 1", p); return NULL; }
    ag_tensor *y = agi_node(&agi_op_dropout, 1, &x, x->ndim, x->shape, 0);
    ag_rng *saved = y ? (ag_rng *)agi_alloc(ctx, &ctx->host[AGI_TAPE], sizeof *saved) : NULL;
    if (!saved) return NULL;
    *saved = ctx->rng[AG_RNG_DROPOUT], y->saved[0] = saved, y->arg[0] = p;
    ctx->rng[AG_RNG_DROPOUT].counter += (x->count + 3) / 4 * 4;         // four words a block: start at a whole one
    return AGI_RUN(ctx, dropout, y->data, x->data, x->count, p, *saved, 0) ? NULL : y;
}

// ---- attention -----------------------------------------------------------------------------------------------------
// For each head, with q_t, k_u, v_u the slices of qkv at positions t and u (Vaswani et al. 2017):
//     s_tu = q_t . k_u / sqrt(hs)   for u <= t          p_t = softmax(s_t)          y_t = sum_u p_tu v_u
// The naive kernel makes p one row at a time; the fast one never has more than a block of it.

// Row b, head h: where query t, key u and value u lie. Keys come from the cache if there is one.
static size_t agi_first(const ag_attention_args *a, int b) { return a->first ? (size_t)a->first[b] : (size_t)b * a->T; }
static size_t agi_cached(const ag_attention_args *a, int b) { return (size_t)(a->row ? a->row[b] : b) * a->T_max; }
static int agi_rows_of(const ag_attention_args *a, int b) { return a->first ? a->len[b] : a->T; }
static const ag_real *agi_query(const ag_attention_args *a, int b, int h, int t) {
    return a->qkv + (agi_first(a, b) + t) * ((size_t)(a->NH + 2 * a->NKV) * a->HS) + (size_t)h * a->HS;
}
static const ag_real *agi_key(const ag_attention_args *a, int b, int h, int u, int is_value) {
    int kv = h / (a->NH / a->NKV);
    const ag_real *cache = is_value ? a->v_cache : a->k_cache;
    if (cache) return cache + (agi_cached(a, b) + u) * ((size_t)a->NKV * a->HS) + (size_t)kv * a->HS;
    return agi_query(a, b, a->NH + kv + (is_value ? a->NKV : 0), u);
}

static int agi_naive_attention(ag_backend *be, const ag_attention_args *a) {
    int hs = a->HS;
    double scale = 1 / sqrt((double)hs);
    (void)be;
    for (int b = 0; b < a->B && a->k_cache; b++)        // the new keys and values join the cache first
        for (int t = 0; t < (a->len ? a->len[b] : a->T); t++) {
            size_t n = (size_t)a->NKV * hs, at = (agi_cached(a, b) + (a->start ? a->start[b] : 0) + t) * n;
            memcpy(a->k_cache + at, agi_query(a, b, a->NH, t), n * sizeof(ag_real));
            memcpy(a->v_cache + at, agi_query(a, b, a->NH + a->NKV, t), n * sizeof(ag_real));
        }
    for (int b = 0; b < a->B; b++) for (int h = 0; h < a->NH; h++) for (int t = 0; t < agi_rows_of(a, b); t++) {
        ag_real *y_bth = a->y + ((agi_first(a, b) + t) * a->NH + h) * hs;
        const ag_real *q = agi_query(a, b, h, t);
        int keys = a->len && t >= a->len[b] ? 0 : (a->start ? a->start[b] : 0) + t + 1;
        double max = -INFINITY, sum = 0;
        for (int i = 0; i < hs; i++) y_bth[i] = 0;
        for (int pass = 0; pass < 3; pass++)            // the maximum; the sum; the weighted values
            for (int u = 0; u < keys; u++) {
                const ag_real *k = agi_key(a, b, h, u, 0), *v = agi_key(a, b, h, u, 1);
                double s = 0;
                for (int i = 0; i < hs; i++) s += (double)q[i] * k[i];
                s *= scale;
                if (pass == 0 && s > max) max = s;
                if (pass == 1) sum += exp(s - max);
                for (int i = 0; i < hs && pass == 2; i++) y_bth[i] = (ag_real)(y_bth[i] + exp(s - max) / sum * v[i]);
            }
        if (a->lse) a->lse[((size_t)b * a->NH + h) * a->T + t] = (ag_real)(keys ? max + log(sum) : 0);
    }
    return 0;
}

// With dp_tu = dy_t . v_u and D_t = dy_t . y_t (which equals sum_u p_tu dp_tu):
//     dv_u += p_tu dy_t      ds_tu = p_tu (dp_tu - D_t) / sqrt(hs)      dq_t += ds_tu k_u      dk_u += ds_tu q_t
static int agi_naive_attention_back(ag_backend *be, const ag_attention_args *a) {
    int hs = a->HS;
    size_t n = 0;
    double scale = 1 / sqrt((double)hs);
    (void)be;
    for (int b = 0; b < a->B; b++) n += (size_t)agi_rows_of(a, b) * (a->NH + 2 * a->NKV) * hs;
    for (size_t i = 0; i < n && !a->accumulate; i++) a->dqkv[i] = 0;
    for (int b = 0; b < a->B; b++) for (int h = 0; h < a->NH; h++) for (int t = 0; t < agi_rows_of(a, b); t++) {
        size_t at = ((agi_first(a, b) + t) * a->NH + h) * hs;
        const ag_real *q = agi_query(a, b, h, t), *dy = a->dy + at;
        ag_real *dq = a->dqkv + (q - a->qkv);
        int keys = a->len && t >= a->len[b] ? 0 : t + 1;
        double D = 0;
        for (int i = 0; i < hs; i++) D += (double)dy[i] * a->y[at + i];
        for (int u = 0; u < keys; u++) {
            const ag_real *k = agi_key(a, b, h, u, 0), *v = agi_key(a, b, h, u, 1);
            ag_real *dk = a->dqkv + (k - a->qkv), *dv = a->dqkv + (v - a->qkv);
            double s = 0, dp = 0;
            for (int i = 0; i < hs; i++) s += (double)q[i] * k[i], dp += (double)dy[i] * v[i];
            double p = exp(s * scale - a->lse[((size_t)b * a->NH + h) * a->T + t]), ds = p * (dp - D) * scale;
            for (int i = 0; i < hs; i++) {
                dv[i] = (ag_real)(dv[i] + p * dy[i]);
                dq[i] = (ag_real)(dq[i] + ds * k[i]);
                dk[i] = (ag_real)(dk[i] + ds * q[i]);
            }
        }
    }
    return 0;
}

static ag_attention_args agi_attention_args(const ag_tensor *y, const ag_tensor *qkv) {
    ag_attention_args a;
    memset(&a, 0, sizeof a);
    a.B = y->iarg[2], a.T = y->iarg[3], a.NH = y->iarg[0], a.NKV = y->iarg[1];
    a.HS = agi_last(qkv) / (a.NH + 2 * a.NKV), a.qkv = qkv->data, a.y = y->data, a.lse = (ag_real *)y->saved[0];
    a.start = (const int *)y->saved[1], a.len = (const int *)y->saved[2], a.first = (const int *)y->saved[3];
    a.precision = y->ctx->precision;
    return a;
}

static void agi_attention_backward(ag_tensor *y) {
    ag_attention_args a = agi_attention_args(y, y->in[0]);
    a.dy = y->grad;
    a.dqkv = agi_grad(y->in[0], &a.accumulate);
    if (a.dqkv) AGI_RUN(y->ctx, attention_back, &a);
}
static const agi_op agi_op_attention = { "ag_attention", agi_attention_backward, NULL };
static const agi_op agi_op_attention_ragged = { "ag_attention_ragged", agi_attention_backward, NULL };

// Heads of queries, keys and values side by side; 0 for numbers of them that cannot be.
static int agi_head_count(int n_head, int n_kv_head) {
    return n_head < 1 || n_kv_head < 1 || n_head > 1 << 20 || n_kv_head > 1 << 20 ? 0 : n_head + 2 * n_kv_head;
}
// Is qkv so many heads wide, and are there as many query heads for each key head?
static int agi_heads_fit(const ag_tensor *qkv, int n_head, int n_kv_head) {
    int heads = agi_head_count(n_head, n_kv_head);
    return heads && n_head % n_kv_head == 0 && agi_last(qkv) && agi_last(qkv) % heads == 0;
}

// B rows of T positions, padded; or ragged: B rows of up to T positions. 1, or 0: an error.
static int agi_attention_ok(const agi_op *op, const ag_tensor *qkv, int heads, int n_kv_head, const ag_kv *cache, int B,
                            int T, const int *row, const int *start, const int *len) {
    ag_ctx *ctx = qkv->ctx;
    int room = cache ? cache->k && cache->v && cache->k->ndim == 3 ? cache->k->shape[1] : -1 : T;
    if (cache && room >= 0 && (cache->k->ctx != ctx || cache->v->ctx != ctx)) {
        agi_fail(ctx, op->name, "the cache belongs to another context; make it with ag_state in this one");
        return 0;
    }
    if (cache && (room < 0 || (!row && cache->k->shape[0] < B) ||
                  cache->k->shape[2] != agi_last(qkv) / heads * n_kv_head || cache->v->count != cache->k->count)) {
        agi_fail(ctx, op->name, "the cache does not fit: wanted k and v (B,T_max,NKV*hs) for B = %d and qkv %s", B,
                 agi_shape(qkv).s);
        return 0;
    }
    if ((start || row) && !cache) {
        agi_fail(ctx, op->name, "%s needs a cache: without one every row starts at 0", start ? "start" : "row");
        return 0;
    }
    for (int b = 0; b < B; b++) {
        int s = start ? start[b] : 0, n = len ? len[b] : T;
        if (s < 0 || n < 0 || n > T || s > room - n) {
            agi_fail(ctx, op->name, "row %d: %d positions from %d on, there is room for %d", b, n, s, room);
            return 0;
        }
        if (row && (row[b] <= (b ? row[b - 1] : -1) || row[b] >= cache->k->shape[0])) {
            agi_fail(ctx, op->name, "row[%d] is %d: wanted rows of the cache, 0 to %d, in ascending order", b, row[b],
                     cache->k->shape[0] - 1);
            return 0;
        }
    }
    return 1;
}

static ag_tensor *agi_attention(const agi_op *op, ag_tensor *qkv, int n_head, int n_kv_head, ag_kv *cache, int B, int T,
                                const int *row, const int *start, const int *len) {
    const int heads = agi_head_count(n_head, n_kv_head), ragged = op == &agi_op_attention_ragged;
    ag_ctx *ctx = qkv->ctx;
    ag_attention_args a;
    int shape[AG_NDIM], old, *first = NULL;
    if (!agi_attention_ok(op, qkv, heads, n_kv_head, cache, B, T, row, start, len)) return NULL;
    memcpy(shape, qkv->shape, sizeof shape);
    shape[qkv->ndim - 1] = agi_last(qkv) / heads * n_head;
    old = ag_no_grad(ctx, ctx->no_grad || cache);
    ag_tensor *y = agi_node(op, 1, &qkv, qkv->ndim, shape, 0);
    ag_no_grad(ctx, old);
    if (!y) return NULL;
    y->iarg[0] = n_head, y->iarg[1] = n_kv_head, y->iarg[2] = B, y->iarg[3] = T;
    if (y->op && !(y->saved[0] = agi_save(ctx, (size_t)B * T * n_head * sizeof(ag_real)))) return NULL;
    if (start && !(y->saved[1] = agi_save_ints(ctx, start, (size_t)B))) return NULL;
    if (len && !(y->saved[2] = agi_save_ints(ctx, len, (size_t)B))) return NULL;
    if (ragged) {
        if (!(first = (int *)agi_alloc(ctx, &ctx->host[AGI_TAPE], (size_t)B * sizeof *first))) return NULL;
        for (int b = 0, at = 0; b < B; b++) first[b] = at, at += len[b];
        if (!(y->saved[3] = agi_save_ints(ctx, first, (size_t)B))) return NULL;
    }
    a = agi_attention_args(y, qkv);
    if (cache) {
        a.k_cache = cache->k->data, a.v_cache = cache->v->data, a.T_max = cache->k->shape[1];
        cache->k->version++, cache->v->version++;
    }
    if (row && !(a.row = agi_save_ints(ctx, row, (size_t)B))) return NULL;
    return AGI_RUN(ctx, attention, &a) ? NULL : y;
}

ag_tensor *ag_attention(ag_tensor *qkv, int n_head, int n_kv_head, ag_kv *cache, const int *start, const int *len) {
    ag_ctx *ctx = agi_ready(&agi_op_attention, 1, &qkv);
    if (!ctx) return NULL;
    if (qkv->ndim != 3 || !agi_heads_fit(qkv, n_head, n_kv_head)) {
        agi_fail(ctx, "ag_attention",
                 "qkv is %s with %d heads and %d key heads: wanted (B,T,(NH+2*NKV)*hs), NKV a divisor of NH",
                 agi_shape(qkv).s, n_head, n_kv_head);
        return NULL;
    }
    return agi_attention(&agi_op_attention, qkv, n_head, n_kv_head, cache, qkv->shape[0], qkv->shape[1], NULL, start,
                         len);
}

ag_tensor *ag_attention_ragged(ag_tensor *qkv, int n_head, int n_kv_head, ag_kv *cache, int B, const int *row,
                               const int *start, const int *len) {
    int T = 0;
    size_t N = 0;
    ag_ctx *ctx = agi_ready(&agi_op_attention_ragged, 1, &qkv);
    if (!ctx) return NULL;
    for (int b = 0; len && b < B; b++) if (len[b] > 0) N += (size_t)len[b], T = len[b] > T ? len[b] : T;
    if (qkv->ndim < 2 || qkv->ndim > 3 || (qkv->ndim == 3 && qkv->shape[1] != 1) ||
        !agi_heads_fit(qkv, n_head, n_kv_head) || !len || B < 0 || N != agi_rows(qkv)) {
        agi_fail(ctx, "ag_attention_ragged", "qkv is %s with %d heads and %d key heads, and len of %d texts has %zu "
                 "positions in all: wanted (N,(NH+2*NKV)*hs), N the sum of len, NKV a divisor of NH", agi_shape(qkv).s,
                 n_head, n_kv_head, B, N);
        return NULL;
    }
    return agi_attention(&agi_op_attention_ragged, qkv, n_head, n_kv_head, cache, B, T, row, start, len);
}

// ---- rotary positions, with or without a norm on queries and keys ---------------------------------------------------
// A pair (x0, x1) at position pos turns by the angle pos * theta^(-2i/hs): the product of a query and a key then
// depends on how far apart they are. The norm in front (Henry et al. 2020) keeps that product in range: h = x / rms(x)
// * w.
static int agi_naive_qk_rope(ag_backend *be, ag_real *y, ag_real *rrms, const ag_real *x, const ag_real *q_norm,
                             const ag_real *k_norm, int B, int T, int H, int hs, int nq, int nk, const int *start,
                             double theta, double eps) {
    (void)be;
    for (int b = 0; b < B; b++) for (int t = 0; t < T; t++) for (int h = 0; h < H; h++, x += hs, y += hs) {
        const ag_real *w = h < nq ? q_norm : k_norm;
        double r = 0;
        if (h >= nq + nk) { memcpy(y, x, (size_t)hs * sizeof *y); continue; }
        for (int i = 0; i < hs; i++) r += (double)x[i] * x[i];
        r = w ? 1 / sqrt(r / hs + eps) : 1;
        if (rrms) rrms[((size_t)b * T + t) * (nq + nk) + h] = (ag_real)r;
        if (hs % 2) y[hs - 1] = (ag_real)(x[hs - 1] * r * (w ? w[hs - 1] : 1));     // theta is 0: nothing turns
        for (int i = 0; i + 1 < hs; i += 2) {
            double angle = theta > 0 ? ((start ? start[b] : 0) + t) * pow(theta, -(double)i / hs) : 0;
            double c = cos(angle), s = sin(angle);
            double x0 = x[i] * r * (w ? w[i] : 1), x1 = x[i + 1] * r * (w ? w[i + 1] : 1);
            y[i] = (ag_real)(x0 * c - x1 * s), y[i + 1] = (ag_real)(x0 * s + x1 * c);
        }
    }
    return 0;
}

// First the rotation backwards, g = R(-angle) dy; then RMSNorm's backward over each head.
static int agi_naive_qk_rope_back(ag_backend *be, ag_real *dx, ag_real *dq_norm, ag_real *dk_norm, const ag_real *x,
                                  const ag_real *q_norm, const ag_real *k_norm, const ag_real *rrms, const ag_real *dy,
                                  int B, int T, int H, int hs, int nq, int nk, const int *start, double theta,
                                  int accumulate) {
    (void)be;
    if (dq_norm && !(accumulate & 2)) for (int i = 0; i < hs; i++) dq_norm[i] = 0;
    if (dk_norm && !(accumulate & 4)) for (int i = 0; i < hs; i++) dk_norm[i] = 0;
    for (int b = 0; b < B; b++) for (int t = 0; t < T; t++) for (int h = 0; h < H; h++, x += hs, dy += hs) {
        const ag_real *w = h < nq ? q_norm : k_norm;
        ag_real *dw = h < nq ? dq_norm : dk_norm, *dx_bth = dx ? dx + (((size_t)b * T + t) * H + h) * hs : NULL;
        double r = 1, dot = 0;
        int plain = h >= nq + nk;
        if (!plain && w) r = rrms[((size_t)b * T + t) * (nq + nk) + h];
        for (int pass = 0; pass < 2; pass++)            // dot = mean(g w h); then dx and dw
            for (int i = 0; i < hs; i++) {
                double angle = ((start ? start[b] : 0) + t) * pow(theta, -(double)(i / 2 * 2) / hs);
                if (!(theta > 0) || plain) angle = 0;
                double other = angle == 0 ? 0 : i % 2 ? -dy[i - 1] : dy[i + 1];
                double g = dy[i] * cos(angle) + other * sin(angle), hat = x[i] * r;
                if (plain || !w) {
                    if (pass && dx_bth) dx_bth[i] = (ag_real)((accumulate & 1 ? dx_bth[i] : 0) + g);
                } else if (!pass) dot += g * w[i] * hat / hs;
                else {
                    if (dw) dw[i] = (ag_real)(dw[i] + g * hat);
                    if (dx_bth) dx_bth[i] = (ag_real)((accumulate & 1 ? dx_bth[i] : 0) + r * (g * w[i] - hat * dot));
                }
            }
    }
    return 0;
}

// iarg: heads in all, head size, q heads, k heads; in: x, then q_norm and k_norm where there are any (flags in iarg[4])
static void agi_qk_rope_backward(ag_tensor *y) {
    ag_tensor *x = y->in[0], *wq = y->iarg[4] & 1 ? y->in[1] : NULL, *wk = y->iarg[4] & 2 ? y->in[y->n_in - 1] : NULL;
    int ax = 0, aq = 0, ak = 0;
    ag_real *dx = agi_grad(x, &ax), *dq = wq ? agi_grad(wq, &aq) : NULL, *dk = wk ? agi_grad(wk, &ak) : NULL;
    AGI_RUN(y->ctx, qk_rope_back, dx, dq, dk, x->data, wq ? wq->data : NULL, wk ? wk->data : NULL,
            (const ag_real *)y->saved[0], y->grad, x->shape[0], x->shape[1], y->iarg[0], y->iarg[1], y->iarg[2],
            y->iarg[3], (const int *)y->saved[1], y->arg[0], ax | aq << 1 | ak << 2);
}
static int agi_qk_rope_values(ag_tensor *y, const ag_tensor *x, const ag_tensor *wq, const ag_tensor *wk) {
    return AGI_RUN(y->ctx, qk_rope, y->data, (ag_real *)y->saved[0], x->data, wq ? wq->data : NULL,
                   wk ? wk->data : NULL, x->shape[0], x->shape[1], y->iarg[0], y->iarg[1], y->iarg[2], y->iarg[3],
                   (const int *)y->saved[1], y->arg[0], y->arg[1]);
}
static int agi_qk_rope_again(ag_tensor *y) {
    return agi_qk_rope_values(y, y->in[0], y->iarg[4] & 1 ? y->in[1] : NULL,
                              y->iarg[4] & 2 ? y->in[y->n_in - 1] : NULL);
}
static const agi_op agi_op_rope = { "ag_rope", agi_qk_rope_backward, agi_qk_rope_again };
static const agi_op agi_op_qk_rope = { "ag_qk_norm_rope", agi_qk_rope_backward, agi_qk_rope_again };

static ag_tensor *agi_qk_rope(const agi_op *op, ag_tensor *x, ag_tensor *wq, ag_tensor *wk, int H, int hs, int nq,
                              int nk, const int *start, double theta, double eps) {
    ag_tensor *in[3], *y;
    int n = 0;
    in[n++] = x;
    if (wq) in[n++] = wq;
    if (wk) in[n++] = wk;
    ag_ctx *ctx = agi_ready(op, n, in);
    if (!ctx) return NULL;
    if ((wq && (wq->ndim != 1 || wq->shape[0] != hs)) || (wk && (wk->ndim != 1 || wk->shape[0] != hs)) ||
        (theta > 0 && hs % 2)) {
        agi_fail(ctx, op->name,
                 "x is %s, head size %d: the norms' weights must be (%d), and rotation needs an even head size",
                 agi_shape(x).s, hs, hs);
        return NULL;
    }
    for (int b = 0; start && b < x->shape[0]; b++)
        if (start[b] < 0 || start[b] > INT_MAX - x->shape[1]) {
            agi_fail(ctx, op->name, "start[%d] is %d", b, start[b]);
            return NULL;
        }
    if ((y = agi_node(op, n, in, 3, x->shape, 0)) == NULL) return NULL;
    y->iarg[0] = H, y->iarg[1] = hs, y->iarg[2] = nq, y->iarg[3] = nk, y->iarg[4] = (wq != NULL) | (wk != NULL) << 1,
        y->arg[0] = theta, y->arg[1] = eps;
    size_t norms = (size_t)x->shape[0] * x->shape[1] * (nq + nk);
    if (n > 1 && !(y->saved[0] = agi_save(ctx, norms * sizeof(ag_real)))) return NULL;
    if (start && !(y->saved[1] = agi_save_ints(ctx, start, (size_t)x->shape[0]))) return NULL;
    return agi_qk_rope_values(y, x, wq, wk) ? NULL : y;
}

ag_tensor *ag_rope(ag_tensor *x, int head_size, int n_rotate, const int *start, double theta) {
    if (!agi_ready(&agi_op_rope, 1, &x)) return NULL;
    if (x->ndim != 3 || head_size < 1 || x->shape[2] % head_size || n_rotate < 0 ||
        n_rotate > x->shape[2] / head_size || !(theta > 0)) {
        agi_fail(x->ctx, "ag_rope", "x is %s, %d heads of %d, theta %g: wanted (B,T,H*hs)", agi_shape(x).s, n_rotate,
                 head_size, theta);
        return NULL;
    }
    return agi_qk_rope(&agi_op_rope, x, NULL, NULL, x->shape[2] / head_size, head_size, n_rotate, 0, start, theta, 0);
}

ag_tensor *ag_qk_norm_rope(ag_tensor *x, ag_tensor *q_norm, ag_tensor *k_norm, int n_head, int n_kv_head,
                           const int *start, double theta, double eps) {
    int H = agi_head_count(n_head, n_kv_head);
    if (!agi_ready(&agi_op_qk_rope, 1, &x)) return NULL;
    if (x->ndim != 3 || !H || x->shape[2] % H || !x->shape[2]) {
        agi_fail(x->ctx, "ag_qk_norm_rope", "x is %s with %d heads and %d key heads: wanted (B,T,(NH+2*NKV)*hs)",
                 agi_shape(x).s, n_head, n_kv_head);
        return NULL;
    }
    return agi_qk_rope(&agi_op_qk_rope, x, q_norm, k_norm, H, x->shape[2] / H, n_head, n_kv_head, start, theta, eps);
}

// ---- SwiGLU --------------------------------------------------------------------------------------------------------
// x (rows, 2H) = gate and up side by side: y = silu(gate) * up (rows, H).
static int agi_naive_swiglu(ag_backend *be, ag_real *y, const ag_real *x, size_t rows, size_t h) {
    (void)be;
    for (size_t r = 0; r < rows; r++, x += 2 * h, y += h)
        for (size_t i = 0; i < h; i++) y[i] = (ag_real)(x[i] * agi_sigmoid(x[i]) * x[h + i]);
    return 0;
}
// With s = sigmoid(gate):  dgate += dy up s (1 + gate (1 - s)),  dup += dy gate s
static int agi_naive_swiglu_back(ag_backend *be, ag_real *dx, const ag_real *x, const ag_real *dy, size_t rows,
                                 size_t h, int accumulate) {
    (void)be;
    for (size_t r = 0; r < rows; r++, x += 2 * h, dx += 2 * h, dy += h)
        for (size_t i = 0; i < h; i++) {
            double s = agi_sigmoid(x[i]), dgate = dy[i] * (double)x[h + i] * s * (1 + x[i] * (1 - s)),
                dup = dy[i] * x[i] * s;
            dx[i] = (ag_real)(accumulate ? dx[i] + dgate : dgate);
            dx[h + i] = (ag_real)(accumulate ? dx[h + i] + dup : dup);
        }
    return 0;
}
static void agi_swiglu_backward(ag_tensor *y) {
    int accumulate;
    ag_real *dx = agi_grad(y->in[0], &accumulate);
    if (dx) AGI_RUN(y->ctx, swiglu_back, dx, y->in[0]->data, y->grad, agi_rows(y), (size_t)agi_last(y), accumulate);
}
static int agi_swiglu_values(ag_tensor *y, const ag_tensor *x) {
    return AGI_RUN(y->ctx, swiglu, y->data, x->data, agi_rows(y), (size_t)agi_last(y));
}
static int agi_swiglu_again(ag_tensor *y) { return agi_swiglu_values(y, y->in[0]); }
static const agi_op agi_op_swiglu = { "ag_swiglu", agi_swiglu_backward, agi_swiglu_again };

ag_tensor *ag_swiglu(ag_tensor *x) {
    int shape[AG_NDIM];
    ag_ctx *ctx = agi_ready(&agi_op_swiglu, 1, &x);
    if (!ctx) return NULL;
    if (x->ndim < 1 || agi_last(x) % 2) {
        agi_fail(ctx, "ag_swiglu", "x is %s: the last dimension must be even", agi_shape(x).s);
        return NULL;
    }
    memcpy(shape, x->shape, sizeof shape);
    shape[x->ndim - 1] /= 2;
    ag_tensor *y = agi_node(&agi_op_swiglu, 1, &x, x->ndim, shape, 0);
    return !y || agi_swiglu_values(y, x) ? NULL : y;
}

// ---- cross entropy -------------------------------------------------------------------------------------------------
// nll_r = log(sum_i e^(x_ri)) - x_r,target: the surprise at the true next token, in nats. The softmax is not stored.
static int agi_naive_nll(ag_backend *be, ag_real *nll, ag_real *lse, const ag_real *logits, const int *targets,
                         size_t rows, size_t n) {
    (void)be;
    for (size_t r = 0; r < rows; r++, logits += n) {
        double max = -INFINITY, sum = 0;
        for (size_t i = 0; i < n; i++) if (logits[i] > max) max = logits[i];
        for (size_t i = 0; i < n; i++) sum += exp(logits[i] - max);
        lse[r] = (ag_real)(max + log(sum));
        nll[r] = (ag_real)(targets[r] == AG_IGNORE ? 0 : max + log(sum) - logits[targets[r]]);
    }
    return 0;
}
// dx_i = dnll (softmax_i - [i is the target])
static int agi_naive_nll_back(ag_backend *be, ag_real *dlogits, const ag_real *logits, const ag_real *lse,
                              const int *targets, const ag_real *dnll, size_t rows, size_t n, int accumulate) {
    (void)be;
    for (size_t r = 0; r < rows; r++, logits += n, dlogits += n)
        for (size_t i = 0; i < n; i++) {
            double d = targets[r] == AG_IGNORE ? 0 : dnll[r] *
                       (exp(logits[i] - (double)lse[r]) - ((int)i == targets[r]));
            dlogits[i] = (ag_real)(accumulate ? dlogits[i] + d : d);
        }
    return 0;
}
static void agi_nll_backward(ag_tensor *y) {
    int accumulate;
    ag_tensor *x = y->in[0];
    ag_real *dx = agi_grad(x, &accumulate);
    if (dx) AGI_RUN(y->ctx, nll_back, dx, x->data, (const ag_real *)y->saved[0], (const int *)y->saved[1], y->grad,
                    agi_rows(x), (size_t)agi_last(x), accumulate);
}
static const agi_op agi_op_nll = { "ag_nll", agi_nll_backward, NULL };

ag_tensor *ag_nll(ag_tensor *logits, const int *targets) {
    ag_ctx *ctx = agi_ready(&agi_op_nll, 1, &logits);
    if (ctx && logits->ndim < 1) { agi_fail(ctx, "ag_nll", "logits have no dimension"); return NULL; }
    if (!ctx || !agi_ids_ok(ctx, "ag_nll", targets, agi_rows(logits), agi_last(logits), 1)) return NULL;
    ag_tensor *y = agi_node(&agi_op_nll, 1, &logits, logits->ndim - 1, logits->shape, 0);
    if (!y || !(y->saved[0] = agi_save(ctx, agi_rows(logits) * sizeof(ag_real))) ||
        !(y->saved[1] = agi_save_ints(ctx, targets, agi_rows(logits)))) return NULL;
    return AGI_RUN(ctx, nll, y->data, (ag_real *)y->saved[0], logits->data, (const int *)y->saved[1], agi_rows(logits),
                   (size_t)agi_last(logits)) ? NULL : y;
}

// The weighted mean of nll: a composition, since all its work is in ag_nll.
ag_tensor *ag_cross_entropy(ag_tensor *logits, const int *targets, const ag_real *weights) {
    ag_tensor *nll = ag_nll(logits, targets), *w;
    double sum = 0;
    if (!nll) return NULL;
    w = agi_new(nll->ctx, AGI_TAPE, "ag_cross_entropy", nll->ndim, nll->shape);
    for (size_t r = 0; r < nll->count; r++) sum += targets[r] == AG_IGNORE ? 0 : weights ? weights[r] : 1;
    if (!(sum > 0)) {
        agi_fail(nll->ctx, "ag_cross_entropy",
                 "all %zu targets are ignored or have weight 0: there is nothing to learn from", nll->count);
        return NULL;
    }
    for (size_t r = 0; r < nll->count; r += 256) {
        ag_real block[256];
        size_t n = AGI_MIN((size_t)256, nll->count - r);
        for (size_t i = 0; i < n; i++)
            block[i] = (ag_real)(targets[r + i] == AG_IGNORE ? 0 : (weights ? weights[r + i] : 1) / sum);
        if (ag_set_part(w, r, n, block)) return NULL;
    }
    return ag_sum(ag_mul(nll, w));
}

// ====================================================================================================================
// Chapter 4: learning
// ====================================================================================================================

// ---- random numbers ------------------------------------------------------------------------------------------------
// Philox 4x32-10: ten rounds of two multiplications turn a counter into four words that look random.
static void agi_philox(uint64_t key, uint64_t counter, uint32_t out[4]) {
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32), c0 = (uint32_t)counter, c1 = (uint32_t)(counter >> 32),
        c2 = 0, c3 = 0;
    for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1, c1 = (uint32_t)p1, c3 = (uint32_t)p0;
    }
    out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

uint32_t ag_rng_u32(ag_rng *rng) {                  // word i of the stream is word i % 4 of block i / 4
    uint32_t block[4];
    agi_philox(rng->key, rng->counter / 4, block);
    return block[rng->counter++ % 4];
}

double ag_rng_uniform(ag_rng *rng) {
    uint64_t high = ag_rng_u32(rng), low = ag_rng_u32(rng);
    return (double)((high << 32 | low) >> 11) / 9007199254740992.0;
}

double ag_rng_normal(ag_rng *rng) {
    double u = 1 - ag_rng_uniform(rng), v = ag_rng_uniform(rng);        // u in (0, 1]: its logarithm is finite
    return sqrt(-2 * log(u)) * cos(6.283185307179586476925 * v);
}

// ---- backward ------------------------------------------------------------------------------------------------------
static int agi_naive_sum_squares(ag_backend *be, double *out, const ag_real *const *x, const size_t *n, int count) {
    (void)be;
    for (int t = 0; t < count; t++) {
        out[t] = 0;
        for (size_t i = 0; i < n[t]; i++) out[t] += (double)x[t][i] * x[t][i];
    }
    return 0;
}

static int agi_finite(ag_ctx *ctx, const ag_real *x, size_t n) {
    double sum = 0;                                 // the squares of floats do not overflow a double
    return AGI_RUN(ctx, sum_squares, &sum, &x, &n, 1) ? 1 : isfinite(sum) != 0;
}

// The loss is not finite: the first tensor that is not, in order of making, is the one to look at.
static void agi_blame(ag_ctx *ctx, ag_tensor *loss, double value) {
    enum { ANCESTOR = 2 };                          // a mark in keep_grad while we walk: the loss was made from it
    ag_tensor *bad = loss;
    loss->keep_grad |= ANCESTOR;
    for (ag_tensor *t = loss; t; t = t->older) {
        if (!(t->keep_grad & ANCESTOR)) continue;
        t->keep_grad &= ~ANCESTOR;
        if (!agi_remember(t) && !agi_finite(ctx, t->data, t->count)) bad = t;
        for (int i = 0; i < t->n_in; i++) {
            if (t->in[i]->op) t->in[i]->keep_grad |= ANCESTOR;
            else if (t->in[i]->data && !agi_finite(ctx, t->in[i]->data, t->in[i]->count)) bad = t->in[i];
        }
        if (t->forgotten) agi_drop_data(t);
    }
    agi_fail(ctx, "ag_backward", "the loss is %g. The first tensor that is not finite is %s %s, made at %.200s:%d",
             value, bad->name ? bad->name : bad->op ? bad->op->name : bad->trainable ? "a parameter" : "an input",
             agi_shape(bad).s, bad->file ? bad->file : "?", bad->line);
}

static int agi_apply_clip(ag_ctx *ctx);

void ag_on_gradient(ag_ctx *ctx, void (*ready)(void *user, ag_tensor *param), void *user) {
    if (ctx) ctx->ready = ready, ctx->ready_user = user;
}
// The walk goes from new to old, so a gradient is complete when it has passed the oldest node made from the parameter.
static void agi_note_oldest(ag_tensor *loss, int on) {
    for (ag_tensor *y = loss; y && y->op; y = y->older)
        for (int i = 0; i < y->n_in; i++) if (!y->in[i]->op) y->in[i]->older = on ? y : NULL;
}
static void agi_tell_ready(ag_tensor *y) {
    for (int i = 0; i < y->n_in; i++) {
        ag_tensor *p = y->in[i];
        if (p->op || p->older != y) continue;
        p->older = NULL;
        if (p->trainable && p->has_grad) y->ctx->ready(y->ctx->ready_user, p);
    }
}

int ag_backward(ag_tensor *loss) {
    int accumulate;
    ag_real *d_loss, one = 1;
    ag_ctx *ctx = loss ? loss->ctx : NULL;
    if (!ctx || ctx->error[0]) return -1;
    if (loss->count != 1) {
        agi_fail(ctx, "ag_backward", "the loss is %s: it must be one number (ag_mean or ag_sum makes it one)",
                 agi_shape(loss).s);
        return -1;
    }
    if (!loss->needs_grad) {
        agi_fail(ctx, "ag_backward", "nothing that the loss depends on is trainable (or it was made under ag_no_grad)");
        return -1;
    }
    if (!isfinite(ag_item(loss))) { agi_blame(ctx, loss, ag_item(loss)); return -1; }
    for (ag_tensor *y = loss; y && y->op; y = y->older) y->has_grad = 0, y->grad = NULL;    // kept by an earlier one
    if (agi_apply_clip(ctx)) return -1;             // gradients of an earlier backward that were clipped meanwhile
    if ((d_loss = agi_grad(loss, &accumulate)) == NULL) return -1;
    if (accumulate && AGI_RUN(ctx, read, &one, d_loss, sizeof one)) return -1;  // the loss itself is a parameter
    one = accumulate ? one + 1 : 1;
    if (AGI_RUN(ctx, fill, d_loss, one, (size_t)1)) return -1;
    if (ctx->ready) agi_note_oldest(loss, 1);
    for (ag_tensor *y = loss; y && y->op && !ctx->error[0]; y = y->older) {
        int there = y->has_grad;
        for (int i = 0; there && i < y->n_in; i++) there = !agi_remember(y->in[i]);
        if (there) y->op->backward(y);
        agi_drop_grad(y);
        if (y->forgotten) agi_drop_data(y);
        if (ctx->ready) agi_tell_ready(y);
    }
    if (!ctx->error[0]) return 0;
    if (ctx->ready) agi_note_oldest(loss, 0);
    for (ag_tensor *y = loss; y && y->op; y = y->older) if (y->forgotten) y->data = NULL;       // whatever came back
    return -1;
}

void ag_zero_grad(ag_ctx *ctx) {
    if (!ctx) return;
    for (int i = 0; i < ctx->n_params; i++) ctx->params[i]->has_grad = 0;       // the next contribution overwrites
    ctx->grad_scale = 1, ctx->grad_norm = -1;
}

// ---- the norm of the gradient, and clipping ------------------------------------------------------------------------
enum { AGI_ASK = 256 };             // gradients whose squares are asked for at a time
double ag_grad_norm(ag_ctx *ctx) {
    double sum = 0, part[AGI_ASK] = {0};
    const ag_real *x[AGI_ASK];
    size_t n[AGI_ASK];
    int which[AGI_ASK], count = 0;
    if (!ctx || ctx->error[0]) return NAN;
    if (ctx->grad_norm >= 0) return ctx->grad_norm * ctx->grad_scale;
    for (int i = 0; i < ctx->n_params; i++) {
        ag_tensor *p = ctx->params[i];
        if (p->trainable && p->has_grad) x[count] = p->grad, n[count] = p->count, which[count++] = i;
        if (!count || (count < AGI_ASK && i + 1 < ctx->n_params)) continue;
        if (AGI_RUN(ctx, sum_squares, part, x, n, count)) return NAN;
        for (int k = 0; k < count; sum += part[k++]) {
            if (isfinite(part[k])) continue;
            p = ctx->params[which[k]];
            agi_fail(ctx, "ag_grad_norm",
                     "the gradient of parameter %d, %s %s, is not finite. Nothing was changed; a smaller learning "
                     "rate or ag_clip_grad may help", which[k], p->name ? p->name : "of shape", agi_shape(p).s);
            return NAN;
        }
        count = 0;
    }
    return (ctx->grad_norm = sqrt(sum)) * ctx->grad_scale;
}

// The gradients stay as they are; the optimizer multiplies by grad_scale as it reads them: a pass over memory less.
double ag_clip_grad(ag_ctx *ctx, double max_norm) {
    double norm = ag_grad_norm(ctx);
    if (norm == norm && !(max_norm > 0)) {
        agi_fail(ctx, "ag_clip_grad", "max_norm is %g, wanted more than 0 (leave the call out for no clipping)",
                 max_norm);
        return NAN;
    }
    if (norm > max_norm) ctx->grad_scale *= max_norm / (norm + 1e-6);
    return norm;
}

static int agi_scale_in_place(ag_ctx *ctx, ag_real *x, size_t n, double by) {
    const ag_real *in[3] = {NULL, NULL, NULL};
    const size_t flat[3][4] = {{0, 0, 0, 1}, {0, 0, 0, 0}, {0, 0, 0, 0}};
    int shape[4] = {1, 1, 1, 1};
    in[0] = x, shape[3] = (int)n;
    return AGI_RUN(ctx, map, AG_MAP_SCALE, x, in, shape, flat, by, 0.0);
}

static int agi_apply_clip(ag_ctx *ctx) {
    for (int i = 0; i < ctx->n_params && ctx->grad_scale != 1; i++) {
        ag_tensor *p = ctx->params[i];
        if (p->trainable && p->has_grad && agi_scale_in_place(ctx, p->grad, p->count, ctx->grad_scale)) return -1;
    }
    ctx->grad_scale = 1, ctx->grad_norm = -1;
    return 0;
}

// ---- optimizers ----------------------------------------------------------------------------------------------------
// SGD with momentum: m = momentum m + g, w -= lr (m + weight_decay w)
static int agi_naive_sgd(ag_backend *be, ag_real *w, const ag_real *g, ag_real *m, size_t n, double lr, double momentum,
                         double weight_decay, double grad_scale) {
    (void)be;
    for (size_t i = 0; i < n; i++) {
        double d = g[i] * grad_scale;
        if (m) d = m[i] = (ag_real)(momentum * m[i] + d);
        w[i] = (ag_real)(w[i] - lr * (d + weight_decay * w[i]));
    }
    return 0;
}

// AdamW: m and v are running means of g and g^2, corrected for having started at zero; the decay is apart from them.
//     m = b1 m + (1-b1) g    v = b2 v + (1-b2) g^2    w -= lr (weight_decay w + m/(1-b1^t) / (sqrt(v/(1-b2^t)) + eps))
static int agi_naive_adamw(ag_backend *be, ag_real *w, const ag_real *g, ag_real *m, ag_real *v, size_t n, double lr,
                           double beta1, double beta2, double eps, double weight_decay, long step, double grad_scale) {
    double c1 = 1 - pow(beta1, (double)step), c2 = 1 - pow(beta2, (double)step);
    (void)be;
    for (size_t i = 0; i < n; i++) {
        double d = g[i] * grad_scale, mi = beta1 * m[i] + (1 - beta1) * d;
        m[i] = (ag_real)(fabs(mi) < FLT_MIN ? 0 : mi);  // a first moment that decays forever ends in slow denormals
        v[i] = (ag_real)(beta2 * v[i] + (1 - beta2) * d * d);
        w[i] = (ag_real)(w[i] * (1 - lr * weight_decay) - lr * (m[i] / c1) / (sqrt(v[i] / c2) + eps));
    }
    return 0;
}

static ag_real *agi_moment(ag_tensor *p, ag_real **moment) {
    ag_ctx *ctx = p->ctx;
    if (*moment) return *moment;
    *moment = (ag_real *)agi_alloc(ctx, &ctx->device[AGI_STATE], p->count * sizeof(ag_real));
    if (*moment && AGI_RUN(ctx, fill, *moment, 0, p->count)) *moment = NULL;
    return *moment;
}

// Walks the parameters that a step of this group changes; the checks come before the first change.
static ag_tensor *agi_next_param(ag_ctx *ctx, int group, int *i) {
    while (*i < ctx->n_params) {
        ag_tensor *p = ctx->params[(*i)++];
        if (p->trainable && p->has_grad && (group == AG_ALL_GROUPS || p->group == group)) return p;
    }
    return NULL;
}

static int agi_step_ready(ag_ctx *ctx, const char *op, double lr, double b1, double b2, double weight_decay) {
    if (!ctx || ctx->error[0]) return 0;
    if (!isfinite(lr) || lr < 0 || !isfinite(weight_decay) || weight_decay < 0 || !(b1 >= 0 && b1 < 1) ||
        !(b2 >= 0 && b2 < 1)) {
        agi_fail(ctx, op, "lr %g, weight decay %g, betas or momentum %g and %g: wanted 0 or more, and "
                 "0 <= beta < 1", lr, weight_decay, b1, b2);
        return 0;
    }
    return ag_grad_norm(ctx) >= 0;                  // not finite: an error, and no parameter has changed
}

int ag_sgd_group(ag_ctx *ctx, int group, double lr, double momentum, double weight_decay) {
    int i = 0;
    if (!agi_step_ready(ctx, "ag_sgd", lr, momentum, 0, weight_decay)) return -1;
    for (ag_tensor *p; (p = agi_next_param(ctx, group, &i)) != NULL; p->steps++, p->version++) {
        ag_real *m = momentum > 0 ? agi_moment(p, &p->m) : NULL;
        if ((momentum > 0 && !m) || AGI_RUN(ctx, sgd, p->data, p->grad, m, p->count, lr, momentum,
                                            p->decay ? weight_decay : 0.0, ctx->grad_scale)) return -1;
    }
    return 0;
}

int ag_adamw_group(ag_ctx *ctx, int group, double lr, double beta1, double beta2, double eps, double weight_decay) {
    int i = 0;
    if (!agi_step_ready(ctx, "ag_adamw", lr, beta1, beta2, weight_decay)) return -1;
    if (!(eps > 0 && isfinite(eps))) {
        agi_fail(ctx, "ag_adamw", "eps is %g, wanted more than 0 (1e-8 is usual)", eps);
        return -1;
    }
    for (ag_tensor *p; (p = agi_next_param(ctx, group, &i)) != NULL;)
        if (!agi_moment(p, &p->m) || !agi_moment(p, &p->v)) return -1;
    for (i = 0;;) {
        ag_tensor *p = agi_next_param(ctx, group, &i);
        if (!p) return 0;
        p->version++;
        if (AGI_RUN(ctx, adamw, p->data, p->grad, p->m, p->v, p->count, lr, beta1, beta2, eps,
                    p->decay ? weight_decay : 0.0, ++p->steps, ctx->grad_scale)) return -1;
    }
}

int ag_sgd(ag_ctx *ctx, double lr, double momentum, double weight_decay) {
    int status = ag_sgd_group(ctx, AG_ALL_GROUPS, lr, momentum, weight_decay);
    if (!status) ag_zero_grad(ctx);
    return status;
}

int ag_adamw(ag_ctx *ctx, double lr, double beta1, double beta2, double weight_decay) {
    int status = ag_adamw_group(ctx, AG_ALL_GROUPS, lr, beta1, beta2, 1e-8, weight_decay);
    if (!status) ag_zero_grad(ctx);
    return status;
}

// ---- Muon ----------------------------------------------------------------------------------------------------------
// A matrix G = U S V^T becomes about U V^T: all directions that the gradient points in get the same length. An odd
// polynomial of G acts on S alone, and x -> 3.4445 x - 4.7750 x^3 + 2.0315 x^5, five times over, moves every singular
// value that is not tiny to between 0.7 and 1.2 (Jordan et al. 2024; the coefficients are theirs).
static int agi_axpby(ag_ctx *ctx, ag_real *y, const ag_real *a, const ag_real *b, size_t n, double p, double q) {
    const ag_real *in[3] = {NULL, NULL, NULL};
    const size_t flat[3][4] = {{0, 0, 0, 1}, {0, 0, 0, 1}, {0, 0, 0, 0}};
    int shape[4] = {1, 1, 1, 1};
    in[0] = a, in[1] = b, shape[3] = (int)n;
    return AGI_RUN(ctx, map, AG_MAP_AXPBY, y, in, shape, flat, p, q);
}

static int agi_unit(ag_ctx *ctx, ag_real *y, const ag_real *x, size_t n, double eps) {
    double sum = 0;
    if (ctx->backend->unit) return AGI_RUN(ctx, unit, y, x, n, eps);
    return AGI_RUN(ctx, sum_squares, &sum, &x, &n, 1) || agi_axpby(ctx, y, x, x, n, 1 / (sqrt(sum) + eps), 0) ? -1 : 0;
}

int ag_newton_schulz(ag_ctx *ctx, ag_real *y, const ag_real *x, int rows, int cols, int steps) {
    const double a = 3.4445, b = -4.7750, c = 2.0315;
    int tall = rows > cols, r = AGI_MIN(rows, cols);
    size_t n = (size_t)rows * cols, rr = (size_t)r * r;
    if (!ctx || ctx->error[0]) return -1;
    if (!y || !x || rows < 1 || cols < 1 || steps < 0) {
        agi_fail(ctx, "ag_newton_schulz", "%s, %d x %d, %d steps: wanted two matrices of at least 1 x 1",
                 y && x ? "x and y" : "a pointer is NULL", rows, cols, steps);
        return -1;
    }
    ag_mark_at mark = ag_mark(ctx);
    ag_real *A = (ag_real *)agi_save(ctx, rr * sizeof *A), *B = (ag_real *)agi_save(ctx, rr * sizeof *B),
        *Z = (ag_real *)agi_save(ctx, n * sizeof *Z);
    if (!Z || !A || !B || agi_unit(ctx, y, x, n, 1e-7)) return -1;
    for (int i = 0; i < steps; i++) {
        // wide: A = Y Y^T, Y' = a Y + (b A + c A A) Y;   tall: A = Y^T Y, Y' = a Y + Y (b A + c A A). A is symmetric.
        if (agi_product(ctx, A, y, y, NULL, r, r, tall ? rows : cols, tall, !tall, NULL, NULL, NULL, NULL, 0) ||
            agi_product(ctx, B, A, A, NULL, r, r, r, 0, 0, NULL, NULL, NULL, NULL, 0) ||
            agi_axpby(ctx, B, A, B, rr, b, c)) return -1;
        if (tall ? agi_product(ctx, Z, y, B, NULL, rows, r, r, 0, 0, NULL, NULL, NULL, NULL, 0)
                 : agi_product(ctx, Z, B, y, NULL, r, cols, r, 0, 0, NULL, NULL, NULL, NULL, 0)) return -1;
        if (agi_axpby(ctx, y, y, Z, n, a, 1)) return -1;
    }
    ag_rewind(ctx, mark);
    return 0;
}

// m = momentum m + g;  the step is along the orthogonalised g + momentum m (Nesterov), longer for matrices with more
// outputs than inputs by sqrt(outputs / inputs).
int ag_muon_group(ag_ctx *ctx, int group, double lr, double momentum, double weight_decay) {
    int i = 0;
    if (!agi_step_ready(ctx, "ag_muon", lr, momentum, 0, weight_decay)) return -1;
    for (ag_tensor *p; (p = agi_next_param(ctx, group, &i)) != NULL;) {
        if (p->ndim != 2) {
            agi_fail(ctx, "ag_muon", "parameter %s is %s: Muon steps matrices; put it in another group (t->group)",
                     p->name ? p->name : "", agi_shape(p).s);
            return -1;
        }
        if (!agi_moment(p, &p->m)) return -1;
    }
    for (i = 0;;) {
        ag_tensor *p = agi_next_param(ctx, group, &i);
        if (!p) return 0;
        ag_mark_at mark = ag_mark(ctx);
        double out_in = (double)p->shape[1] / p->shape[0], length = lr * sqrt(AGI_MAX(1.0, out_in));
        ag_real *u = (ag_real *)agi_save(ctx, p->count * sizeof *u);
        ag_real *o = (ag_real *)agi_save(ctx, p->count * sizeof *o);
        if (!u || !o || agi_axpby(ctx, p->m, p->m, p->grad, p->count, momentum, ctx->grad_scale) ||
            agi_axpby(ctx, u, p->grad, p->m, p->count, ctx->grad_scale, momentum) ||
            ag_newton_schulz(ctx, o, u, p->shape[0], p->shape[1], 5) ||
            agi_axpby(ctx, p->data, p->data, o, p->count, p->decay ? 1 - lr * weight_decay : 1, -length)) return -1;
        p->steps++, p->version++;
        ag_rewind(ctx, mark);
    }
}

// ---- is the gradient right? ----------------------------------------------------------------------------------------
// Central differences: (f(w + eps) - f(w - eps)) / 2 eps agrees with the derivative to eps^2. In double that tells
// right from slightly wrong; in float only right from very wrong.
double ag_check_grad(ag_ctx *ctx, ag_tensor *(*f)(ag_ctx *ctx, void *user), void *user, double eps) {
    double worst = 0;
    if (!ctx || ctx->error[0]) return NAN;
    if (!f || !(eps > 0)) {
        agi_fail(ctx, "ag_check_grad", "f is %s and eps is %g: wanted a function that builds a loss, and more than 0",
                 f ? "there" : "NULL", eps);
        return NAN;
    }
    ag_mark_at mark = ag_mark(ctx);
    ag_zero_grad(ctx);
    if (ag_backward(f(ctx, user))) return NAN;
    ag_rewind(ctx, mark);
    int old = ag_no_grad(ctx, 1);
    for (int i = 0; i < ctx->n_params; i++) {
        ag_tensor *p = ctx->params[i];
        for (size_t k = 0; k < p->count && p->trainable; k++) {
            ag_real w = 0, g = 0, moved;
            double loss[2];
            if (p->has_grad) AGI_RUN(ctx, read, &g, p->grad + k, sizeof g);
            ag_get_part(p, k, 1, &w);
            for (int side = 0; side < 2; side++) {
                moved = (ag_real)(w + (side ? -eps : eps));
                ag_set_part(p, k, 1, &moved);
                loss[side] = ag_item(f(ctx, user));
                ag_rewind(ctx, mark);
            }
            ag_set_part(p, k, 1, &w);
            double numeric = (loss[0] - loss[1]) / (2 * eps), size = AGI_MAX(fabs(g), fabs(numeric));
            double error = fabs(g - numeric) / AGI_MAX(1.0, size);
            if (!(error <= worst)) worst = error;
        }
    }
    ag_no_grad(ctx, old);
    ag_zero_grad(ctx);
    return ctx->error[0] ? NAN : worst;
}

static void agi_naive_install(ag_backend *b) {
    b->fill = agi_naive_fill, b->map = agi_naive_map, b->map_back = agi_naive_map_back, b->copy = agi_naive_copy;
    b->reduce = agi_naive_reduce, b->reduce_back = agi_naive_reduce_back, b->matmul = agi_naive_matmul;
    b->matmul_bf16 = agi_naive_matmul_bf16, b->bf16 = "bf16/naive";
    b->linear_gelu = agi_naive_linear_gelu, b->gelu_bias_back = agi_naive_gelu_bias_back;
    b->linear_int8 = agi_naive_linear_int8;
    b->softmax = agi_naive_softmax, b->softmax_back = agi_naive_softmax_back, b->norm = agi_naive_norm;
    b->norm_back = agi_naive_norm_back, b->embedding = agi_naive_embedding,
        b->embedding_back = agi_naive_embedding_back;
    b->gather = agi_naive_gather, b->gather_back = agi_naive_gather_back, b->dropout = agi_naive_dropout;
    b->attention = agi_naive_attention, b->attention_back = agi_naive_attention_back, b->qk_rope = agi_naive_qk_rope;
    b->qk_rope_back = agi_naive_qk_rope_back, b->swiglu = agi_naive_swiglu, b->swiglu_back = agi_naive_swiglu_back;
    b->nll = agi_naive_nll, b->nll_back = agi_naive_nll_back, b->sum_squares = agi_naive_sum_squares;
    b->sgd = agi_naive_sgd, b->adamw = agi_naive_adamw;
}

// ==== you can stop reading here =====================================================================================
// What follows makes it fast and changes no meaning: threads, the choice of an instruction set, and the kernels above
// once more, in vectors. Each of them is tested against its naive twin.

// Where AG_REAL is not float, or with AG_NAIVE, the naive kernels are all there is.
#define AGI_REAL_float 1
#define AGI_REAL_IS_(type) AGI_REAL_##type
#define AGI_REAL_IS(type) AGI_REAL_IS_(type)
#if AGI_REAL_IS(AG_REAL) && !defined(AG_NAIVE)
#define AGI_FAST 1
#else
#define AGI_FAST 0
#endif

#define AGI_ALIGN 64                // one cache line, one AVX-512 register
#define AGI_MAX_THREADS 256
typedef struct agi_buffer { void *raw; char *at; size_t size; } agi_buffer;

// AG_MALLOC promises an alignment of 16, so take more and remember, in front of the block, where it began.
static void *agi_cpu_alloc(ag_backend *b, size_t bytes) {
    (void)b;
    if (bytes > (size_t)-1 - 2 * AGI_ALIGN) return NULL;
    char *raw = (char *)AG_MALLOC(bytes + 2 * AGI_ALIGN);
    if (!raw) return NULL;
    char *at = raw + 2 * AGI_ALIGN - (size_t)((uintptr_t)raw % AGI_ALIGN);
    memcpy(at - sizeof raw, &raw, sizeof raw);
    return at;
}

static void agi_cpu_release(ag_backend *b, void *p) {
    (void)b;
    if (!p) return;
    void *raw;
    memcpy(&raw, (char *)p - sizeof raw, sizeof raw);
    AG_FREE(raw);
}

static int agi_cpu_write(ag_backend *b, void *to, const void *host, size_t bytes) {
    (void)b;
    if (bytes) memmove(to, host, bytes);
    return 0;
}

static int agi_cpu_read(ag_backend *b, void *host, const void *from, size_t bytes) {
    (void)b;
    if (bytes) memmove(host, from, bytes);
    return 0;
}

#if AGI_FAST
#if (defined(__GNUC__) || defined(__clang__)) && !defined(__TINYC__)
#define AGI_GNU 1                   // attributes, atomics, pragmas and inline assembly of gcc and clang
#else
#define AGI_GNU 0
#endif
#if AGI_GNU && defined(__x86_64__)
#define AGI_X86 1
#include <cpuid.h>
#include <immintrin.h>
#else
#define AGI_X86 0
#endif
#if AGI_GNU && defined(__aarch64__) && defined(__ARM_NEON)
#define AGI_ARM 1
#include <arm_neon.h>
#else
#define AGI_ARM 0
#endif
#define AGI_GNU_VECTORS (AGI_GNU && (AGI_X86 || AGI_ARM))
#if defined(FP_FAST_FMAF) || defined(__FMA__) || defined(__ARM_FEATURE_FMA)
#define AGI_FUSED 1                 // fmaf is one instruction: the portable pass joins in the promise of equal bits
#else
#define AGI_FUSED 0
#endif
#if AGI_GNU && defined(_WIN32)
#define AGI_POOL 1
#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN
#endif
#ifndef NOMINMAX
#define NOMINMAX
#endif
#include <windows.h>
#elif AGI_GNU && (defined(__unix__) || defined(__APPLE__))
#define AGI_POOL 1
#include <pthread.h>
#include <sched.h>
#include <unistd.h>
#else
#define AGI_POOL 0                  // any other compiler: the same results with one thread
#endif

// gcc and clang keep an array of accumulators in registers only when the loops over it are unrolled completely.
#if defined(__clang__)
#define AGI_UNROLL _Pragma("clang loop unroll(full)")
#elif AGI_GNU
#define AGI_UNROLL _Pragma("GCC unroll 16")
#else
#define AGI_UNROLL
#endif

// ---- threads -------------------------------------------------------------------------------------------------------
// A job is n independent items. The caller works too; workers that are awake join, take item after item from a counter,
// and leave; a worker that is still asleep when the caller runs out of items is simply not waited for. One word says
// it all: the number of the job, whether it can still be joined, and how many workers are in it.
#define AGI_OPEN 0x8000u
#define AGI_INSIDE 0x7fffu

#if AGI_POOL
#if defined(_WIN32)
typedef HANDLE agi_thread;
typedef CRITICAL_SECTION agi_mutex;
typedef CONDITION_VARIABLE agi_condition;
#define agi_lock(m) EnterCriticalSection(m)
#define agi_unlock(m) LeaveCriticalSection(m)
#define agi_sleep(c, m) SleepConditionVariableCS(c, m, INFINITE)
#define agi_wake(c) WakeAllConditionVariable(c)
#define agi_yield() SwitchToThread()
#define agi_pid() 1L
#else
typedef pthread_t agi_thread;
typedef pthread_mutex_t agi_mutex;
typedef pthread_cond_t agi_condition;
#define agi_lock(m) pthread_mutex_lock(m)
#define agi_unlock(m) pthread_mutex_unlock(m)
#define agi_sleep(c, m) pthread_cond_wait(c, m)
#define agi_wake(c) pthread_cond_broadcast(c)
#define agi_yield() sched_yield()
#define agi_pid() ((long)getpid())
#endif

static void agi_pause(void) {
#if AGI_X86
    __builtin_ia32_pause();
#elif AGI_ARM
    __asm__ volatile("yield");
#endif
}
#endif

typedef struct agi_turns { double theta; int size, count; float *table; } agi_turns;    // see agi_turns_for

#if AGI_POOL
typedef struct agi_worker { struct agi_cpu *cpu; int index; agi_thread thread; } agi_worker;
#endif

// The packed copy of a parameter, for products with the same version of it: those of the micro-batches of a step, or of
// many forward passes. It gets its memory when the second such product comes, so a plain training step keeps nothing.
typedef struct agi_packing {
    const void *B;
    int N, K, tb, kind;
    unsigned version;
    size_t bytes;
    agi_buffer data;
} agi_packing;
#define AGI_PACKINGS 1024                   // so many, ...
#define AGI_PACKED_MOST ((size_t)256 << 20) // ... and so many bytes in all

typedef struct agi_cpu {
    agi_buffer scratch[AGI_MAX_THREADS], shared[4];
    agi_packing *packings;
    int n_packings;
    size_t packed_bytes;
    agi_turns turns[4];
    int next_turn, amx;
#if AGI_POOL
    void (*fn)(void *arg, size_t i, int thread);
    void *arg;
    size_t n;
    int busy, started, spin;
    long pid;
    char gap1[AGI_ALIGN];
    size_t next;                    // the counter of items; each of these on a cache line of its own
    char gap2[AGI_ALIGN];
    unsigned state;
    char gap3[AGI_ALIGN];
    int sleepers, quit;
    agi_mutex mutex;
    agi_condition condition;
    agi_worker worker[AGI_MAX_THREADS];
#endif
} agi_cpu;

// At least so many bytes, and when it is given new memory, `more` beyond them, so that it seldom grows.
static int agi_grow_by(agi_buffer *buffer, size_t bytes, size_t more) {
    if (bytes <= buffer->size) return 0;
    size_t size = bytes + more;
    if (size < bytes || size > (size_t)-1 - AGI_ALIGN) return -1;
    AG_FREE(buffer->raw);
    buffer->size = 0, buffer->at = NULL;
    buffer->raw = AG_MALLOC(size + AGI_ALIGN);
    if (!buffer->raw) return -1;
    buffer->at = (char *)buffer->raw + (AGI_ALIGN - (size_t)((uintptr_t)buffer->raw % AGI_ALIGN));
    buffer->size = size;
    return 0;
}
static int agi_grow(agi_buffer *buffer, size_t bytes) { return agi_grow_by(buffer, bytes, bytes / 4 + 4096); }

// Working memory, aligned to 64 bytes, kept from call to call; what it held is lost when it grows. NULL: out of memory.
static inline void *agi_scratch(ag_backend *b, int thread, size_t bytes) {
    agi_buffer *buffer = &((agi_cpu *)b->self)->scratch[thread];
    return agi_grow(buffer, bytes) ? NULL : buffer->at;
}

static inline void *agi_shared_scratch(ag_backend *b, int slot, size_t bytes) {
    agi_buffer *buffer = &((agi_cpu *)b->self)->shared[slot];
    return agi_grow(buffer, bytes) ? NULL : buffer->at;
}

// Where the packed copy of B lies. full 1: as it should be; 0: the caller has to fill it, all of it. NULL: none is
// kept, for want of a version, of room in the list or of memory; the caller packs for itself.
static float *agi_kept(ag_backend *b, const void *B, int N, int K, int tb, int kind, size_t bytes, int *full) {
    agi_cpu *cpu = (agi_cpu *)b->self;
    const unsigned version = b->steady;
    agi_packing *p = cpu->packings, *end = p ? p + cpu->n_packings : p;
    *full = 0;
    if (!version) return NULL;
    if (!p && !(p = end = cpu->packings = (agi_packing *)AG_MALLOC(AGI_PACKINGS * sizeof *p))) return NULL;
    while (p < end && (p->B != B || p->N != N || p->K != K || p->tb != tb || p->kind != kind || p->bytes != bytes)) p++;
    if (p == end) {
        if (cpu->n_packings == AGI_PACKINGS) return NULL;
        memset(p, 0, sizeof *p);
        p->B = B, p->N = N, p->K = K, p->tb = tb, p->kind = kind, p->bytes = bytes, p->version = version;
        cpu->n_packings++;
        return NULL;
    }
    if (p->version == version && p->data.at) *full = 1;
    else if (p->version == version && bytes <= AGI_PACKED_MOST - cpu->packed_bytes) {
        if (agi_grow_by(&p->data, bytes, 0)) return NULL;
        cpu->packed_bytes += bytes;
    }
    p->version = version;
    return (float *)p->data.at;
}

#if AGI_POOL
static void agi_take_items(agi_cpu *cpu, int index) {
    size_t n = cpu->n, i;
    while ((i = __atomic_fetch_add(&cpu->next, 1, __ATOMIC_RELAXED)) < n) cpu->fn(cpu->arg, i, index);
}

static void agi_work(agi_worker *me) {
    agi_cpu *cpu = me->cpu;
    unsigned seen = 0, s = 0;
    for (int spins = 0;; spins++) {
        s = __atomic_load_n(&cpu->state, __ATOMIC_ACQUIRE);
        if (!(s & AGI_OPEN) || s >> 16 == seen) {
            if (spins < cpu->spin) {
                agi_pause();
                continue;
            }
            // Say that we sleep and then look again; the caller opens the job and then looks for sleepers. So one of
            // the two sees the other.
            int quit;
            agi_lock(&cpu->mutex);
            __atomic_fetch_add(&cpu->sleepers, 1, __ATOMIC_SEQ_CST);
            for (;;) {
                quit = cpu->quit, s = __atomic_load_n(&cpu->state, __ATOMIC_SEQ_CST);
                if (quit || ((s & AGI_OPEN) && s >> 16 != seen)) break;
                agi_sleep(&cpu->condition, &cpu->mutex);
            }
            __atomic_fetch_sub(&cpu->sleepers, 1, __ATOMIC_SEQ_CST);
            agi_unlock(&cpu->mutex);
            if (quit) return;
        }
        spins = 0;
        if (!__atomic_compare_exchange_n(&cpu->state, &s, s + 1, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) continue;
        seen = s >> 16;
        agi_take_items(cpu, me->index);
        __atomic_fetch_sub(&cpu->state, 1, __ATOMIC_RELEASE);
    }
}

#if defined(_WIN32)
static DWORD WINAPI agi_thread_main(LPVOID worker) {
    agi_work((agi_worker *)worker);
    return 0;
}
#else
static void *agi_thread_main(void *worker) {
    agi_work((agi_worker *)worker);
    return NULL;
}
#endif

// The first job starts the workers; so does the first job in a fork's child, which has inherited the memory of the pool
// but none of its threads. Where the system grants fewer threads the rest do the work.
static void agi_start_pool(ag_backend *b, agi_cpu *cpu) {
    cpu->pid = agi_pid(), cpu->started = 0;
    cpu->state = 0, cpu->sleepers = cpu->quit = cpu->busy = 0;
#if defined(_WIN32)
    InitializeCriticalSection(&cpu->mutex);
    InitializeConditionVariable(&cpu->condition);
    cpu->worker[0].thread = NULL;
#else
    pthread_mutex_init(&cpu->mutex, NULL);
    pthread_cond_init(&cpu->condition, NULL);
#endif
    for (int i = 1; i < b->threads; i++) {
        agi_worker *w = &cpu->worker[i];
        w->cpu = cpu, w->index = i;
#if defined(_WIN32)
        if (!(w->thread = CreateThread(NULL, 0, agi_thread_main, w, 0, NULL))) break;
#else
        if (pthread_create(&w->thread, NULL, agi_thread_main, w)) break;
#endif
        cpu->started = i;
    }
}

static void agi_stop_pool(agi_cpu *cpu) {
    if (!cpu->pid || cpu->pid != agi_pid()) return;     // never started, or a fork's child: there is nobody to join
    agi_lock(&cpu->mutex);
    cpu->quit = 1;
    agi_wake(&cpu->condition);
    agi_unlock(&cpu->mutex);
    for (int i = 1; i <= cpu->started; i++) {
#if defined(_WIN32)
        WaitForSingleObject(cpu->worker[i].thread, INFINITE);
        CloseHandle(cpu->worker[i].thread);
#else
        pthread_join(cpu->worker[i].thread, NULL);
#endif
    }
#if defined(_WIN32)
    DeleteCriticalSection(&cpu->mutex);
#else
    pthread_cond_destroy(&cpu->condition);
    pthread_mutex_destroy(&cpu->mutex);
#endif
}

static int agi_my_index(const agi_cpu *cpu) {
    for (int i = 1; i <= cpu->started; i++) {
#if defined(_WIN32)
        if (GetThreadId(cpu->worker[i].thread) == GetCurrentThreadId()) return i;
#else
        if (pthread_equal(cpu->worker[i].thread, pthread_self())) return i;
#endif
    }
    return 0;
}
#endif

// Runs fn for each i below n, in any order, thread being below b->threads; returns when all are done. A call from
// inside a job runs on the thread that makes it.
static void agi_parallel(ag_backend *b, size_t n, void (*fn)(void *arg, size_t i, int thread), void *arg) {
    int thread = 0;
#if AGI_POOL
    agi_cpu *cpu = (agi_cpu *)b->self;
    if (n > 1 && b->threads > 1) {
        if (cpu->pid != agi_pid()) agi_start_pool(b, cpu);
        if (!cpu->busy) {
            cpu->busy = 1, cpu->fn = fn, cpu->arg = arg, cpu->n = n;
            __atomic_store_n(&cpu->next, 0, __ATOMIC_RELAXED);
            unsigned job = (__atomic_load_n(&cpu->state, __ATOMIC_RELAXED) >> 16) + 1;
            __atomic_store_n(&cpu->state, job << 16 | AGI_OPEN, __ATOMIC_SEQ_CST);
            if (__atomic_load_n(&cpu->sleepers, __ATOMIC_SEQ_CST)) {
                agi_lock(&cpu->mutex);
                agi_wake(&cpu->condition);
                agi_unlock(&cpu->mutex);
            }
            agi_take_items(cpu, 0);
            __atomic_and_fetch(&cpu->state, ~AGI_OPEN, __ATOMIC_ACQ_REL);
            for (int spins = 0; __atomic_load_n(&cpu->state, __ATOMIC_ACQUIRE) & AGI_INSIDE; spins++) {
                if (spins < cpu->spin) agi_pause();
                else agi_yield();
            }
            cpu->busy = 0;
            return;
        }
    }
    if (cpu->busy) thread = agi_my_index(cpu);
#else
    (void)b;
#endif
    for (size_t i = 0; i < n; i++) fn(arg, i, thread);
}

// How many threads can run at once: the affinity mask and the quota of a container count, not the machine's sockets.
static int agi_cpu_count(void) {
    int count = 1;
#if AGI_POOL && defined(_WIN32)
    DWORD_PTR mine, all;
    if (GetProcessAffinityMask(GetCurrentProcess(), &mine, &all))
        for (count = 0; mine; mine &= mine - 1) count++;
#elif AGI_POOL
    count = (int)sysconf(_SC_NPROCESSORS_ONLN);
    char line[1024];
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f)) {
        if (strncmp(line, "Cpus_allowed:", 13)) continue;
        int bits = 0;
        for (const char *s = line + 13; *s; s++) {
            int digit = *s >= '0' && *s <= '9' ? *s - '0' : *s >= 'a' && *s <= 'f' ? *s - 'a' + 10 : 0;
            for (; digit; digit &= digit - 1) bits++;
        }
        if (bits) count = bits;
        break;
    }
    if (f) fclose(f);
    f = fopen("/sys/fs/cgroup/cpu.max", "r");           // "max 100000" or "quota period", in microseconds
    double quota, period;
    if (f && fscanf(f, "%lf %lf", &quota, &period) == 2 && quota > 0 && period > 0)
        count = AGI_MIN(count, (int)AGI_MIN(ceil(quota / period), AGI_MAX_THREADS));
    if (f) fclose(f);
#endif
    return AGI_MAX(1, AGI_MIN(count, AGI_MAX_THREADS));
}

static void agi_cpu_destroy(ag_backend *b) {
    agi_cpu *cpu = (agi_cpu *)b->self;
#if AGI_POOL
    agi_stop_pool(cpu);
#endif
    for (int i = 0; i < AGI_MAX_THREADS; i++) AG_FREE(cpu->scratch[i].raw);
    for (int i = 0; i < 4; i++) AG_FREE(cpu->shared[i].raw);
    for (int i = 0; i < 4; i++) AG_FREE(cpu->turns[i].table);
    for (int i = 0; i < cpu->n_packings; i++) AG_FREE(cpu->packings[i].data.raw);
    AG_FREE(cpu->packings);
    AG_FREE(b);
}

// ---- what the kernels of all instruction sets share ----------------------------------------------------------------
#define AGI_CHUNK ((size_t)1024)    // elementwise work is shared out in chunks of this many numbers
#define AGI_PIECE 256               // a row that is neither contiguous nor constant is first copied, in such pieces
#define AGI_BLOCK ((size_t)16384)   // long sums are summed in blocks
#define AGI_ROWS ((size_t)32)       // gradients that are sums over rows are summed in blocks of rows
#define AGI_TINY 1.40129846e-45f    // the smallest float above 0

typedef struct agi_part {           // arguments of most kernels; each entry says what it puts where
    const float *x[4];
    float *y[3], f[9];
    const int *ids;
    size_t rows, n;
    int flag, accumulate;
    double d;
    void *other;
    uint64_t key, counter, least;
} agi_part;

typedef struct agi_rope_args {          // arguments of rotary positions
    const float *x, *dy, *q_norm, *k_norm, *turns;
    float *y, *rrms, *sums, eps;
    int T, H, hs, nq, nk, accumulate;
    const int *start;
    size_t rows;
} agi_rope_args;

typedef struct agi_grid {           // arguments of elementwise kernels: four dimensions, collapsed where memory allows
    size_t shape[4], stride[3][4], rows, piece, pieces;
    const float *x[3], *dy, *result;
    float *y;
    int op, accumulate, tiled;
    double p, q;
} agi_grid;

static const uint64_t agi_count[8] = { 0, 1, 2, 3, 4, 5, 6, 7 };

static inline size_t agi_chunks(size_t n) {
    return n / AGI_CHUNK + (n % AGI_CHUNK != 0);
}

// b^n by repeated squaring: pow may differ in the last bit from one libm to the next.
static inline double agi_power(double b, long n) {
    double r = 1;
    for (; n > 0; n /= 2, b *= b) if (n % 2) r *= b;
    return r;
}

// Runs fn over units 0..n-1, a range at a time, on all threads where there is enough to do; cost is that of a unit in
// simple operations. No result may depend on the ranges.
typedef struct agi_ranges {
    void (*fn)(void *arg, size_t first, size_t last, int thread);
    void *arg;
    size_t n, per;
} agi_ranges;

static void agi_one_range(void *p, size_t i, int thread) {
    const agi_ranges *r = (const agi_ranges *)p;
    r->fn(r->arg, i * r->per, AGI_MIN(r->n, (i + 1) * r->per), thread);
}

static void agi_spread(ag_backend *b, size_t n, size_t cost,
                       void (*fn)(void *arg, size_t first, size_t last, int thread), void *arg) {
    agi_ranges r;
    size_t parts = AGI_MIN(n * cost / 8192, 4 * (size_t)b->threads);
    if (!n) return;
    if (b->threads == 1 || parts < 2) {
        fn(arg, 0, n, 0);
        return;
    }
    r.fn = fn, r.arg = arg, r.n = n, r.per = (n + parts - 1) / parts;
    agi_parallel(b, (n + r.per - 1) / r.per, agi_one_range, &r);
}

static int agi_costly(int op) {
    return op == AG_MAP_POW || (op >= AG_MAP_EXP && op <= AG_MAP_LOG_SIGMOID) || op == AG_MAP_GELU || op == AG_MAP_SILU;
}

// Neighbouring dimensions that every operand walks through without a jump become one. 0: there is nothing to do.
static int agi_grid_of(agi_grid *g, const int shape[4], const size_t stride[3][4], const float *const x[3]) {
    int at = 3;                     // the dimension that is being filled, from the innermost outwards
    for (int d = 0; d < 4; d++) g->shape[d] = 1;
    memset(g->stride, 0, sizeof g->stride);
    for (int j = 0; j < 3; j++) g->x[j] = x[j];
    for (int d = 3; d >= 0; d--) {
        int joins = 1;
        if (shape[d] <= 0) return 0;
        if (shape[d] == 1) continue;
        for (int j = 0; j < 3; j++) joins &= !x[j] || stride[j][d] == g->stride[j][at] * g->shape[at];
        if (g->shape[at] > 1 && !joins) at--;
        if (g->shape[at] == 1) for (int j = 0; j < 3; j++) g->stride[j][at] = x[j] ? stride[j][d] : 0;
        g->shape[at] *= (size_t)shape[d];
    }
    g->rows = g->shape[0] * g->shape[1] * g->shape[2];
    g->piece = 16 * AGI_CHUNK, g->tiled = 0;
    for (int j = 0; j < 3; j++) if (g->stride[j][3] > 1) g->piece = AGI_PIECE;
    g->pieces = (g->shape[3] + g->piece - 1) / g->piece;
    return 1;
}

static void agi_grid_swap(agi_grid *g, int c, int d) {
    size_t n = g->shape[c];
    g->shape[c] = g->shape[d], g->shape[d] = n;
    for (int j = 0; j < 2; j++) n = g->stride[j][c], g->stride[j][c] = g->stride[j][d], g->stride[j][d] = n;
}

// A copy where y (stride[0]) is contiguous along one dimension and x (stride[1]) along another goes in tiles: x's
// becomes dimension 3, y's dimension 2.
static void agi_grid_tile(agi_grid *g) {
    int along_y = -1, along_x = -1;
    for (int d = 0; d < 4; d++) {
        if (g->shape[d] == 1) continue;
        if (g->stride[0][d] == 1) along_y = d;
        if (g->stride[1][d] == 1) along_x = d;
    }
    g->piece = 16 * AGI_CHUNK;
    if (along_x >= 0 && along_y >= 0 && along_x != along_y) {
        agi_grid_swap(g, along_x, 3);
        if (along_y == 3) along_y = along_x;
        agi_grid_swap(g, along_y, 2);
        g->tiled = 1, g->piece = 256;
    }
    g->rows = g->shape[0] * g->shape[1] * (g->tiled ? (g->shape[2] + 15) / 16 : g->shape[2]);
    g->pieces = (g->shape[3] + g->piece - 1) / g->piece;
    g->piece = AGI_MIN(g->piece, g->shape[3]);
}

// The cosines and sines of rotary positions, kept for the next call: for each position hs cosines, each twice, then hs
// sines, each twice, the first of a pair negated. Computed by libm in double and rounded once, so that the values are
// the same on every machine but for a tie in a billion; besides general powers this is the one place that calls libm.
static const float *agi_turns_for(ag_backend *b, double theta, int size, int B, int T, const int *start) {
    agi_cpu *cpu = (agi_cpu *)b->self;
    agi_turns *t = NULL;
    int last = 0;
    for (int i = 0; i < B && start; i++) last = AGI_MAX(last, start[i]);
    if (last > INT_MAX / 2 - T) return NULL;
    last += T;
    for (int i = 0; i < 4; i++) if (cpu->turns[i].size == size && cpu->turns[i].theta == theta) t = &cpu->turns[i];
    if (!t) {
        t = &cpu->turns[cpu->next_turn++ % 4];
        AG_FREE(t->table);
        memset(t, 0, sizeof *t);
        t->theta = theta, t->size = size;
    }
    if (last > t->count || !t->table) {
        size_t n = 2 * (size_t)size;
        int count = AGI_MAX(last, t->count + t->count / 2);
        if ((size_t)count > (size_t)-1 / sizeof(float) / n) return NULL;
        float *table = (float *)AG_MALLOC((size_t)count * n * sizeof *table);
        if (!table) return NULL;
        if (t->table) memcpy(table, t->table, (size_t)t->count * n * sizeof *table);
        for (int i = 0; i + 1 < size; i += 2) {
            double turn = pow(theta, -(double)i / size);
            for (int at = t->count; at < count; at++) {
                float *cosines = table + (size_t)at * n + i, *sines = cosines + size;
                cosines[0] = cosines[1] = (float)cos(at * turn);
                sines[1] = (float)sin(at * turn), sines[0] = -sines[1];
            }
        }
        AG_FREE(t->table);
        t->table = table, t->count = count;
    }
    return t->table;
}

// ---- instruction sets ----------------------------------------------------------------------------------------------
// Below the end of this region stand the fast kernels, once, in words of 16 lanes. The file includes itself for each
// instruction set that the compiler knows, and the words become its instructions by function-level target attributes;
// no -m flag is needed, and the program runs on the oldest machine, because the choice is made when it starts.
#define AGI_PORTABLE 1
#define AGI_AVX2 2
#define AGI_AVX512 3
#define AGI_NEON 4
#define AGI_BF16 5          // AVX-512 with products of bfloat16: no pass of its own, but asked for by agi_has
#define AGI_SQRT_HALF 0x3f3504f3    // the bits of sqrt(1/2)

// In kernels written in vectors -O3 finds nothing more than -O2 does, except ways to spend the reader's time.
#if AGI_GNU && !defined(__clang__)
#pragma GCC push_options
#pragma GCC optimize("O1", "tree-vectorize")
#endif

#if AGI_X86
// The first n of 16 lanes are agi_lane_mask + 16 - n.
static const int agi_lane_mask[32] = { -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1 };

// The processor must have the instructions, and the operating system must save the registers (XCR0, read by xgetbv).
static int agi_has(int pass) {
    unsigned a, b, c, d, xcr0, high;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
    if (!(c >> 27 & 1) || !(c >> 28 & 1) || !(c >> 12 & 1)) return 0;                               // osxsave avx fma
    __asm__ volatile(".byte 0x0f, 0x01, 0xd0" : "=a"(xcr0), "=d"(high) : "c"(0));
    if ((xcr0 & 6) != 6 || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b >> 5 & 1)) return 0;         // avx2
    if (pass == AGI_AVX2) return 1;
    if ((xcr0 & 0xe6) != 0xe6 || !(b >> 16 & 1) || !(b >> 17 & 1) || !(b >> 30 & 1) || !(b >> 31 & 1)) return 0;
    if (pass == AGI_AVX512) return 1;                                                                   // f dq bw vl
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 5 & 1);                                     // avx512_bf16
}

// AMX, of Intel's servers since 2023: eight registers of 16 rows of 64 bytes, and one instruction that multiplies two
// of them. t is the number of a register; base and stride (in bytes) say where the 16 rows lie. The instructions are
// spoken to by name, so that no compiler flag is needed; tests put plain C in their place (AGI_AMX_EMULATED).
#ifndef AGI_AMX_EMULATED
#define AGI_AMX_CONFIGURE(sixty_four_bytes) __asm__ volatile("ldtilecfg %0" : : "m"(*(sixty_four_bytes)))
#define AGI_AMX_RELEASE() __asm__ volatile("tilerelease")
#define AGI_AMX_ZERO(t) __asm__ volatile("tilezero %%tmm" #t : : )
#define AGI_AMX_LOAD(t, base, stride) __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #t : : \
    "r"((const void *)(base)), "r"((size_t)(stride)) : "memory")
#define AGI_AMX_STORE(t, base, stride) __asm__ volatile("tilestored %%tmm" #t ", (%0,%1,1)" : : \
    "r"((void *)(base)), "r"((size_t)(stride)) : "memory")
#define AGI_AMX_DOT(c, a, b) __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c : : )

// Besides processor and operating system, the process must have asked for the registers' eight kilobytes.
static int agi_has_amx(void) {
    unsigned a, b, c, d, xcr0, high;
    if (!agi_has(AGI_BF16) || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    if (!(d >> 22 & 1) || !(d >> 24 & 1)) return 0;                                                     // bf16 tile
    __asm__ volatile(".byte 0x0f, 0x01, 0xd0" : "=a"(xcr0), "=d"(high) : "c"(0));
    if ((xcr0 >> 17 & 3) != 3) return 0;
#ifdef __linux__
    long failed;                        // arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA): libc has no name for it
    __asm__ volatile("syscall" : "=a"(failed) : "a"(158L), "D"(0x1023L), "S"(18L) : "rcx", "r11", "memory");
    if (failed) return 0;
#endif
    return 1;
}
#endif

#define AGI_PASS AGI_AVX512
#include AG_SELF
#undef AGI_PASS
#define AGI_PASS AGI_AVX2
#include AG_SELF
#undef AGI_PASS
#elif AGI_ARM
#define AGI_PASS AGI_NEON
#include AG_SELF
#undef AGI_PASS
#endif
#define AGI_PASS AGI_PORTABLE
#include AG_SELF
#undef AGI_PASS
#if AGI_GNU && !defined(__clang__)
#pragma GCC pop_options
#endif
#endif // AGI_FAST

// ---- the CPU backend -----------------------------------------------------------------------------------------------
#if AGI_FAST
typedef int (*agi_bf16_product)(ag_backend *, ag_real *, const ag_real *, const ag_real *, const ag_real *, int, int,
                                int, int, int, const int *, const size_t *, const size_t *, const size_t *, int);
static const char *const agi_cpu_names[] = { "cpu/avx512", "cpu/avx2", "cpu/neon", "cpu/portable", "cpu/naive" };

// Puts the kernels of set i into the table; 0 if this machine, or this build, does not have it.
static int agi_cpu_install(ag_backend *b, int i) {
#if AGI_X86
    if (i == 0 && agi_has(AGI_AVX512)) {
        agi_install_avx2(b);
        const agi_bf16_product emulated = b->matmul_bf16;
        agi_install_avx512(b);
        ((agi_cpu *)b->self)->amx = agi_has_amx();
        if (((agi_cpu *)b->self)->amx) b->bf16 = "bf16/amx";
        else if (agi_has(AGI_BF16)) b->bf16 = "bf16/avx512";
        else b->matmul_bf16 = emulated;             // the AVX-512 pass says it with the instruction alone
        return 1;
    }
    if (i == 1 && agi_has(AGI_AVX2)) return agi_install_avx2(b), 1;
#elif AGI_ARM
    if (i == 2) return agi_install_neon(b), 1;
#endif
    if (i == 3) return agi_install_portable(b), 1;
    return i == 4;
}

ag_backend *ag_cpu_backend(const char *which, int threads) {
    const char *env = which ? NULL : getenv("AG_CPU");
    int first = 0, last = 4, cpus = agi_cpu_count();
    for (int i = 0; i < 5; i++) {
        if (which && !strcmp(which, agi_cpu_names[i] + 4)) first = last = i;
        if (env && !strcmp(env, agi_cpu_names[i] + 4)) first = i;       // what comes next if the machine lacks it
    }
    if (which && first != last) return NULL;                            // no such name
    if (threads <= 0) threads = getenv("AG_THREADS") ? atoi(getenv("AG_THREADS")) : 0;
    if (threads <= 0) threads = cpus;

    ag_backend *b = (ag_backend *)AG_MALLOC(sizeof *b + sizeof(agi_cpu));
    if (!b) return NULL;
    memset(b, 0, sizeof *b + sizeof(agi_cpu));
    b->self = b + 1;
    b->threads = AGI_MIN(threads, AGI_MAX_THREADS);
#if AGI_POOL
    ((agi_cpu *)b->self)->spin = b->threads <= cpus ? 1000 : 1;         // to spin on a core that others need is no gain
#else
    b->threads = 1;
#endif
    agi_naive_install(b);
    int i = first;
    while (i <= last && !agi_cpu_install(b, i)) i++;
    if (i > last) {
        AG_FREE(b);
        return NULL;
    }
    if (i == 4) b->threads = 1;
    b->name = agi_cpu_names[i];
    b->destroy = agi_cpu_destroy;
    b->alloc = agi_cpu_alloc, b->release = agi_cpu_release, b->write = agi_cpu_write, b->read = agi_cpu_read;
    return b;
}
#else
static void agi_cpu_destroy(ag_backend *b) {
    AG_FREE(b);
}

ag_backend *ag_cpu_backend(const char *which, int threads) {
    (void)threads;
    if (which && strcmp(which, "naive")) return NULL;
    ag_backend *b = (ag_backend *)AG_MALLOC(sizeof *b);
    if (!b) return NULL;
    memset(b, 0, sizeof *b);
    agi_naive_install(b);
    b->name = "cpu/naive", b->threads = 1, b->destroy = agi_cpu_destroy;
    b->alloc = agi_cpu_alloc, b->release = agi_cpu_release, b->write = agi_cpu_write, b->read = agi_cpu_read;
    return b;
}
#endif

#undef AG_AT
#undef AG_CTX_AT
#undef AG_AT_ALL
#define AG_AT(tensor) ag_at(tensor, __FILE__, __LINE__)
#define AG_CTX_AT(ctx) ag_ctx_at(ctx, __FILE__, __LINE__)
#define AG_AT_ALL(xs, n) ag_at_all(xs, n, __FILE__, __LINE__)
#if defined(__clang__)
#pragma STDC FP_CONTRACT DEFAULT
#elif defined(__GNUC__)
#pragma GCC pop_options
#endif
#endif // AUTOGRAD_IMPLEMENTATION

#ifdef AGI_PASS

// ==== one instruction set ===========================================================================================
// From here to the end the file is read once for each instruction set. First its vocabulary: a pack is 16 floats, held
// in as many registers as the machine needs for them, and each word is one IEEE operation, or one fused multiply-add,
// on each of the 16 lanes. Kernels say only words, so they are written once, and they give the same bits everywhere.
// (The portable pass of a machine without fused multiply-add is the one exception: it rounds the product.)
#if AGI_PASS == AGI_AVX512
#define AGI_SUFFIX avx512
#define AGI_TARGET __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")))
#elif AGI_PASS == AGI_AVX2
#define AGI_SUFFIX avx2
#define AGI_TARGET __attribute__((target("avx2,fma")))
#elif AGI_PASS == AGI_NEON
#define AGI_SUFFIX neon
#define AGI_TARGET
#else
#define AGI_SUFFIX portable
#define AGI_TARGET
#endif
#define AGI_PASTE2(a, b) a##_##b
#define AGI_PASTE(a, b) AGI_PASTE2(a, b)
#define AGI_(name) AGI_PASTE(agi_##name, AGI_SUFFIX)       // AGI_(map) is agi_map_avx512 in that pass
#define AGI_KERNEL AGI_TARGET static
// Rare long words are called and not inlined; so are the others in the portable pass, where each register would be
// spelt out. This is about compile time. What is called gets its pack through memory: where the target is an attribute
// and not a flag, gcc 12 passes the first four lanes of a pack of AVX-512 by value, and drops the rest.
#if AGI_GNU
#define AGI_WORD AGI_TARGET static inline __attribute__((always_inline))
#else
#define AGI_WORD static inline
#endif
#if AGI_GNU
#define AGI_CALLED AGI_TARGET static __attribute__((noinline, unused))
#else
#define AGI_CALLED static inline
#endif
#if AGI_GNU && AGI_PASS == AGI_PORTABLE
#define AGI_LONG_WORD AGI_CALLED
#else
#define AGI_LONG_WORD AGI_WORD
#endif

#define agi_r AGI_(r)
#define agi_p AGI_(p)
#define p_load AGI_(p_load)
#define p_store AGI_(p_store)
#define p_load_n AGI_(p_load_n)
#define p_store_n AGI_(p_store_n)
#define p_set AGI_(p_set)
#define p_zero AGI_(p_zero)
#define p_add AGI_(p_add)
#define p_sub AGI_(p_sub)
#define p_mul AGI_(p_mul)
#define p_div AGI_(p_div)
#define p_sqrt AGI_(p_sqrt)
#define p_min AGI_(p_min)
#define p_max AGI_(p_max)
#define p_fma AGI_(p_fma)
#define p_fnma AGI_(p_fnma)
#define p_neg AGI_(p_neg)
#define p_abs AGI_(p_abs)
#define p_signed AGI_(p_signed)
#define p_select_gt AGI_(p_select_gt)
#define p_round AGI_(p_round)
#define p_pow2 AGI_(p_pow2)
#define p_scale AGI_(p_scale)
#define p_exponent AGI_(p_exponent)
#define p_mantissa AGI_(p_mantissa)
#define p_swap AGI_(p_swap)
#define p_sum AGI_(p_sum)
#define p_hmax AGI_(p_hmax)
#define p_exp AGI_(p_exp)
#define p_log AGI_(p_log)
#define p_tanh AGI_(p_tanh)
#define p_sigmoid AGI_(p_sigmoid)
#define p_gate AGI_(p_gate)
#define p_dot AGI_(p_dot)

#define AGI_LANES (16 / AGI_REGISTERS)
// One register: agi_r of AGI_LANES floats, and the words on it. AGI_EACH says a statement for each register of a pack,
// with i its number: spelt out, because gcc keeps an array in registers only when every index is a constant.
#if AGI_PASS == AGI_AVX512
typedef __m512 agi_r;
#define AGI_REGISTERS 1
#define AGI_EACH(s) { enum { i = 0 }; s }
#define r_load _mm512_loadu_ps
#define r_store _mm512_storeu_ps
#define r_set _mm512_set1_ps
#define r_add _mm512_add_ps
#define r_sub _mm512_sub_ps
#define r_mul _mm512_mul_ps
#define r_div _mm512_div_ps
#define r_sqrt(a) _mm512_maskz_sqrt_ps(0xffff, a)
#define r_min(a, b) _mm512_maskz_min_ps(0xffff, a, b)
#define r_max(a, b) _mm512_maskz_max_ps(0xffff, a, b)
#define r_fma _mm512_fmadd_ps
#define r_fnma _mm512_fnmadd_ps
#define r_neg(a) _mm512_xor_ps(a, _mm512_set1_ps(-0.0f))
#define r_abs(a) _mm512_andnot_ps(_mm512_set1_ps(-0.0f), a)
#define r_signed(a, b) _mm512_or_ps(a, _mm512_and_ps(b, _mm512_set1_ps(-0.0f)))
#define r_select_gt(a, b, x, y) _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_GT_OQ), y, x)
#define r_round(a) _mm512_maskz_roundscale_ps(0xffff, a, 8)
#define r_int(a) _mm512_maskz_cvtps_epi32(0xffff, a)
#define r_pow2(n) _mm512_castsi512_ps( \
    _mm512_maskz_slli_epi32(0xffff, _mm512_add_epi32(r_int(n), _mm512_set1_epi32(127)), 23))
#define r_scale(a, n) _mm512_maskz_scalef_ps(0xffff, a, n)
#define r_moved(a) _mm512_sub_epi32(_mm512_castps_si512(a), _mm512_set1_epi32(AGI_SQRT_HALF))
#define r_exponent(a) _mm512_maskz_cvtepi32_ps(0xffff, _mm512_maskz_srai_epi32(0xffff, r_moved(a), 23))
#define r_mantissa(a) _mm512_castsi512_ps(_mm512_add_epi32( \
    _mm512_and_si512(r_moved(a), _mm512_set1_epi32(0x7fffff)), _mm512_set1_epi32(AGI_SQRT_HALF)))

#elif AGI_PASS == AGI_AVX2
typedef __m256 agi_r;
#define AGI_REGISTERS 2
#define AGI_EACH(s) { enum { i = 0 }; s } { enum { i = 1 }; s }
#define r_load _mm256_loadu_ps
#define r_store _mm256_storeu_ps
#define r_set _mm256_set1_ps
#define r_add _mm256_add_ps
#define r_sub _mm256_sub_ps
#define r_mul _mm256_mul_ps
#define r_div _mm256_div_ps
#define r_sqrt _mm256_sqrt_ps
#define r_min _mm256_min_ps
#define r_max _mm256_max_ps
#define r_fma _mm256_fmadd_ps
#define r_fnma _mm256_fnmadd_ps
#define r_neg(a) _mm256_xor_ps(a, _mm256_set1_ps(-0.0f))
#define r_abs(a) _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a)
#define r_signed(a, b) _mm256_or_ps(a, _mm256_and_ps(b, _mm256_set1_ps(-0.0f)))
#define r_select_gt(a, b, x, y) _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_GT_OQ))
#define r_round(a) _mm256_round_ps(a, 8)
#define r_int(a) _mm256_cvtps_epi32(a)
#define r_pow2_int(n) _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23))
#define r_pow2(n) r_pow2_int(r_int(n))
#define r_half(n) _mm256_srai_epi32(r_int(n), 1)
#define r_scale(a, n) _mm256_mul_ps(_mm256_mul_ps(a, r_pow2_int(r_half(n))), \
    r_pow2_int(_mm256_sub_epi32(r_int(n), r_half(n))))
#define r_moved(a) _mm256_sub_epi32(_mm256_castps_si256(a), _mm256_set1_epi32(AGI_SQRT_HALF))
#define r_exponent(a) _mm256_cvtepi32_ps(_mm256_srai_epi32(r_moved(a), 23))
#define r_mantissa(a) _mm256_castsi256_ps(_mm256_add_epi32( \
    _mm256_and_si256(r_moved(a), _mm256_set1_epi32(0x7fffff)), _mm256_set1_epi32(AGI_SQRT_HALF)))

#else
// NEON, and the portable pass: the four-wide vectors that gcc and clang have on every machine, or single floats for any
// other C compiler. NEON needs intrinsics only where C has no operator.
#if AGI_GNU_VECTORS
typedef float agi_r __attribute__((vector_size(16)));
typedef uint32_t AGI_(bits) __attribute__((vector_size(16)));
#define AGI_REGISTERS 4
#define AGI_EACH(s) { enum { i = 0 }; s } { enum { i = 1 }; s } { enum { i = 2 }; s } { enum { i = 3 }; s }
#define AGI_SPLAT(type, x) const type r = { x, x, x, x }; return r;
#define r_bits(a) ((AGI_(bits))(a))
#define r_float(u) ((agi_r)(u))
#define r_select_gt(a, b, x, y) r_float(((AGI_(bits))((a) > (b)) & r_bits(x)) | (~(AGI_(bits))((a) > (b)) & r_bits(y)))
#define AGI_LANE(a) (a)[l]
#else
typedef float agi_r;
typedef uint32_t AGI_(bits);
#define AGI_REGISTERS 16
#define AGI_EACH(s) for (int i = 0; i < 16; i++) { s }
#define AGI_SPLAT(type, x) return (type)(x);
AGI_WORD uint32_t AGI_(r_bits)(float f) { uint32_t u; memcpy(&u, &f, 4); return u; }
AGI_WORD float AGI_(r_float)(uint32_t u) { float f; memcpy(&f, &u, 4); return f; }
#define r_bits AGI_(r_bits)
#define r_float AGI_(r_float)
#define r_select_gt(a, b, x, y) ((a) > (b) ? (x) : (y))
#define AGI_LANE(a) (a)
#endif
AGI_WORD agi_r AGI_(r_load)(const float *from) { agi_r r; memcpy(&r, from, sizeof r); return r; }
AGI_WORD void AGI_(r_store)(float *to, agi_r a) { memcpy(to, &a, sizeof a); }
AGI_WORD agi_r AGI_(r_set)(float x) { AGI_SPLAT(agi_r, x) }
AGI_WORD AGI_(bits) AGI_(r_word)(uint32_t x) { AGI_SPLAT(AGI_(bits), x) }
#define r_load AGI_(r_load)
#define r_store AGI_(r_store)
#define r_set AGI_(r_set)
#define r_word AGI_(r_word)
#define r_add(a, b) ((a) + (b))
#define r_sub(a, b) ((a) - (b))
#define r_mul(a, b) ((a) * (b))
#define r_div(a, b) ((a) / (b))
#define r_min(a, b) r_select_gt(b, a, a, b)     // not vminq: x86 and C return b where one of the two is NaN
#define r_max(a, b) r_select_gt(a, b, a, b)
#define r_neg(a) r_float(r_bits(a) ^ r_word(0x80000000u))
#define r_abs(a) r_float(r_bits(a) & r_word(0x7fffffffu))
#define r_sign(a) (r_bits(a) & r_word(0x80000000u))
#define r_signed(a, b) r_float(r_bits(a) | r_sign(b))
// Integers in floats: 1.5 * 2^23 has no room for a fraction, so that a small n added to it lies in the lowest bits.
#define AGI_ROUNDER 12582912.0f
#define r_pow2(n) r_float(r_bits((n) + r_set(AGI_ROUNDER + 127)) << 23)
#define r_moved(a) (r_bits(a) - r_word(AGI_SQRT_HALF))
#define r_exponent(a) \
    (r_float(((r_moved(a) + r_word(0x40000000u)) >> 23) + r_word(0x4b400000u)) - r_set(AGI_ROUNDER + 128))
#define r_mantissa(a) r_float((r_moved(a) & r_word(0x7fffff)) + r_word(AGI_SQRT_HALF))
#if AGI_PASS == AGI_NEON
#define r_sqrt vsqrtq_f32
#define r_fma(a, b, c) vfmaq_f32(c, a, b)
#define r_fnma(a, b, c) vfmsq_f32(c, a, b)
#define r_round vrndnq_f32
#else
AGI_WORD agi_r AGI_(r_sqrt)(agi_r a) {
    for (int l = 0; l < AGI_LANES; l++) AGI_LANE(a) = sqrtf(AGI_LANE(a));
    return a;
}
#define r_sqrt AGI_(r_sqrt)
#if AGI_FUSED
AGI_WORD agi_r AGI_(r_fma)(agi_r a, agi_r b, agi_r c) {
    for (int l = 0; l < AGI_LANES; l++) AGI_LANE(c) = fmaf(AGI_LANE(a), AGI_LANE(b), AGI_LANE(c));
    return c;
}
#define r_fma AGI_(r_fma)
#else
#define r_fma(a, b, c) ((a) * (b) + (c))
#endif
#define r_fnma(a, b, c) r_fma(r_neg(a), b, c)
AGI_WORD agi_r AGI_(r_round)(agi_r a) {
    agi_r x = r_abs(a), y = (x + r_set(AGI_ROUNDER)) - r_set(AGI_ROUNDER);
    return r_signed(r_select_gt(r_set(4194304), x, y, x), a);
}
#define r_round AGI_(r_round)
#endif
AGI_WORD agi_r AGI_(r_scale)(agi_r a, agi_r n) {
    agi_r half = r_round(n * r_set(0.5f));
    return (a * r_pow2(half)) * r_pow2(n - half);
}
#define r_scale AGI_(r_scale)
#endif

// ---- packs ----
typedef struct agi_p { agi_r r[AGI_REGISTERS]; } agi_p;
AGI_WORD agi_p p_load(const float *from) { agi_p p; AGI_EACH(p.r[i] = r_load(from + AGI_LANES * i);) return p; }
AGI_WORD void p_store(float *to, agi_p p) { AGI_EACH(r_store(to + AGI_LANES * i, p.r[i]);) }
AGI_WORD agi_p p_set(float x) { agi_p p; AGI_EACH(p.r[i] = r_set(x);) return p; }
AGI_WORD agi_p p_zero(void) { return p_set(0); }
#define AGI_WORD1(name, f) AGI_WORD agi_p name(agi_p a) { AGI_EACH(a.r[i] = f(a.r[i]);) return a; }
#define AGI_WORD2(name, f) AGI_WORD agi_p name(agi_p a, agi_p b) { AGI_EACH(a.r[i] = f(a.r[i], b.r[i]);) return a; }
#define AGI_WORD3(name, f) \
    AGI_WORD agi_p name(agi_p a, agi_p b, agi_p c) { AGI_EACH(a.r[i] = f(a.r[i], b.r[i], c.r[i]);) return a; }
AGI_WORD2(p_add, r_add)
AGI_WORD2(p_sub, r_sub)
AGI_WORD2(p_mul, r_mul)
AGI_WORD2(p_div, r_div)
AGI_WORD1(p_sqrt, r_sqrt)
AGI_WORD2(p_min, r_min)             // a < b ? a : b
AGI_WORD2(p_max, r_max)             // a > b ? a : b, so b if one of them is NaN
AGI_WORD3(p_fma, r_fma)             // a * b + c, rounded once
AGI_WORD3(p_fnma, r_fnma)           // c - a * b, rounded once
AGI_WORD1(p_neg, r_neg)
AGI_WORD1(p_abs, r_abs)
AGI_WORD2(p_signed, r_signed)       // a with the sign of b; the sign bit of a must be 0
AGI_WORD1(p_round, r_round)         // to the nearest integer, to even at a tie
AGI_WORD1(p_pow2, r_pow2)           // 2^n for an integral n from -126 to 127
AGI_WORD2(p_scale, r_scale)         // a * 2^n, rounded once; |a| near 1, n integral, |n| at most 150
AGI_WORD1(p_exponent, r_exponent)   // a normal a > 0 is m * 2^e with m in [sqrt(1/2), sqrt(2)): e ...
AGI_WORD1(p_mantissa, r_mantissa)   // ... and m
AGI_WORD agi_p p_select_gt(agi_p a, agi_p b, agi_p x, agi_p y) {        // a > b ? x : y
    AGI_EACH(x.r[i] = r_select_gt(a.r[i], b.r[i], x.r[i], y.r[i]);)
    return x;
}

// The first n of 16 lanes, 0 <= n <= 16; memory beyond is not touched.
#if AGI_PASS == AGI_AVX512
AGI_WORD agi_p p_load_n(const float *from, int n, float fill) {
    agi_p p;
    p.r[0] = _mm512_mask_loadu_ps(_mm512_set1_ps(fill), (__mmask16)((1u << n) - 1), from);
    return p;
}
AGI_WORD void p_store_n(float *to, agi_p p, int n) { _mm512_mask_storeu_ps(to, (__mmask16)((1u << n) - 1), p.r[0]); }
#elif AGI_PASS == AGI_AVX2
AGI_WORD agi_p p_load_n(const float *from, int n, float fill) {
    agi_p p;
    __m256i mask[2];
    AGI_EACH(mask[i] = _mm256_loadu_si256((const __m256i *)(const void *)(agi_lane_mask + 16 - n + 8 * i));)
    AGI_EACH(p.r[i] = _mm256_maskload_ps(from + 8 * i, mask[i]);)
    AGI_EACH(p.r[i] = _mm256_blendv_ps(_mm256_set1_ps(fill), p.r[i], _mm256_castsi256_ps(mask[i]));)
    return p;
}
AGI_WORD void p_store_n(float *to, agi_p p, int n) {
    AGI_EACH(_mm256_maskstore_ps(to + 8 * i,
        _mm256_loadu_si256((const __m256i *)(const void *)(agi_lane_mask + 16 - n + 8 * i)), p.r[i]);)
}
#else
AGI_LONG_WORD agi_p p_load_n(const float *from, int n, float fill) {
    float f[16];
    for (int l = 0; l < 16; l++) f[l] = l < n ? from[l] : fill;
    return p_load(f);
}
AGI_LONG_WORD void p_store_n(float *to, agi_p p, int n) {
    float f[16];
    p_store(f, p);
    for (int l = 0; l < n; l++) to[l] = f[l];
}
#endif

// The fixed tree: lanes i and i + 8, then i and i + 4, i + 2, i + 1. p_swap exchanges the lanes of each pair.
#if AGI_PASS == AGI_AVX512 || AGI_PASS == AGI_AVX2
#if AGI_PASS == AGI_AVX512
AGI_WORD __m256 AGI_(low)(agi_p p) { return _mm512_maskz_extractf32x8_ps(0xff, p.r[0], 0); }
AGI_WORD __m256 AGI_(high)(agi_p p) { return _mm512_maskz_extractf32x8_ps(0xff, p.r[0], 1); }
AGI_WORD agi_p p_swap(agi_p p) { p.r[0] = _mm512_maskz_permute_ps(0xffff, p.r[0], 0xb1); return p; }
#else
AGI_WORD __m256 AGI_(low)(agi_p p) { return p.r[0]; }
AGI_WORD __m256 AGI_(high)(agi_p p) { return p.r[1]; }
AGI_WORD agi_p p_swap(agi_p p) { AGI_EACH(p.r[i] = _mm256_permute_ps(p.r[i], 0xb1);) return p; }
#endif
#define AGI_TREE(op) \
    __m256 w = _mm256_##op##_ps(AGI_(low)(p), AGI_(high)(p)); \
    __m128 q = _mm_##op##_ps(_mm256_castps256_ps128(w), _mm256_extractf128_ps(w, 1)); \
    q = _mm_##op##_ps(q, _mm_movehl_ps(q, q)); \
    return _mm_cvtss_f32(_mm_##op##_ss(q, _mm_movehdup_ps(q)));
AGI_WORD float p_sum(agi_p p) { AGI_TREE(add) }
AGI_WORD float p_hmax(agi_p p) { AGI_TREE(max) }
#undef AGI_TREE
#else
AGI_LONG_WORD float p_sum(agi_p p) {
    float f[16];
    p_store(f, p);
    for (int half = 8; half; half /= 2)
        for (int l = 0; l < half; l++) f[l] = f[l] + f[l + half];
    return f[0];
}
AGI_LONG_WORD float p_hmax(agi_p p) {
    float f[16];
    p_store(f, p);
    for (int half = 8; half; half /= 2)
        for (int l = 0; l < half; l++) f[l] = f[l] > f[l + half] ? f[l] : f[l + half];
    return f[0];
}
AGI_LONG_WORD agi_p p_swap(agi_p p) {
    float f[16], g[16];
    p_store(f, p);
    for (int l = 0; l < 16; l++) g[l] = f[l ^ 1];
    return p_load(g);
}
#endif

// ---- exp, log, tanh, sigmoid: at most 2 units in the last place, the same bits everywhere ----
// The polynomials are minimax (Remez), computed for this file. ln 2 is split into 355/512, which times an exponent is
// exact even without a fused multiply-add, and the rest.
#define AGI_LN2_HIGH 0.693359375f
#define AGI_LN2_LOW -2.12194440e-4f

// x = n ln 2 + r with |r| <= ln(2)/2, and e^r = 1 + r + r^2 q(r).
AGI_WORD agi_p AGI_(exp_r)(agi_p x, agi_p n) {
    return p_fnma(n, p_set(AGI_LN2_LOW), p_fnma(n, p_set(AGI_LN2_HIGH), x));
}
AGI_WORD agi_p AGI_(exp_q)(agi_p r) {
    agi_p q = p_fma(p_set(0.00138145487f), r, p_set(0.00836874545f));
    q = p_fma(q, r, p_set(0.0416683890f));
    q = p_fma(q, r, p_set(0.166665211f));
    return p_fma(q, r, p_set(0.499999940f));
}

// 1 + r is rounded, and the error of that put back.
AGI_LONG_WORD agi_p p_exp(agi_p x) {
    x = p_min(p_set(89), p_max(p_set(-104), x));        // infinity and 0 lie beyond; NaN passes
    agi_p n = p_round(p_mul(x, p_set(1.44269504f))), r = AGI_(exp_r)(x, n);
    agi_p high = p_add(r, p_set(1)), low = p_sub(r, p_sub(high, p_set(1)));
    return p_scale(p_add(high, p_fma(AGI_(exp_q)(r), p_mul(r, r), low)), n);
}

// x = 2^e m, f = m - 1: log x = e ln 2 + f - f^2/2 + f^3 P(f).
AGI_CALLED void AGI_(log_16)(float *to) {
    agi_p x = p_load(to);
    agi_p least = p_set(FLT_MIN), y = p_select_gt(least, x, p_mul(x, p_set(8388608)), x);
    agi_p e = p_sub(p_exponent(y), p_select_gt(least, x, p_set(23), p_zero()));
    agi_p f = p_sub(p_mantissa(y), p_set(1)), f2 = p_mul(f, f);
    agi_p q = p_fma(p_set(-0.0763466433f), f, p_set(0.127616435f));
    q = p_fma(q, f, p_set(-0.131601453f));
    q = p_fma(q, f, p_set(0.142017439f));
    q = p_fma(q, f, p_set(-0.166233599f));
    q = p_fma(q, f, p_set(0.200012282f));
    q = p_fma(q, f, p_set(-0.250008196f));
    q = p_fma(q, f, p_set(0.333333313f));
    q = p_fma(p_mul(q, f), f2, p_mul(e, p_set(AGI_LN2_LOW)));
    y = p_fma(e, p_set(AGI_LN2_HIGH), p_add(f, p_fnma(p_set(0.5f), f2, q)));
    y = p_select_gt(x, p_set(FLT_MAX), x, y);
    agi_p none = p_sub(x, p_set(INFINITY));                     // -infinity at 0, NaN at NaN
    none = p_select_gt(p_zero(), x, p_set(NAN), none);
    p_store(to, p_select_gt(x, p_zero(), y, none));
}

// Near 0 an odd polynomial; from 0.55 on 1 - 2 / (e^(2|x|) + 1), which loses nothing there.
AGI_CALLED void AGI_(tanh_16)(float *to) {
    agi_p x = p_load(to);
    agi_p a = p_abs(x), x2 = p_mul(x, x);
    agi_p q = p_fma(p_set(-0.00627402915f), x2, p_set(0.0210715383f));
    q = p_fma(q, x2, p_set(-0.0538522787f));
    q = p_fma(q, x2, p_set(0.13332586f));
    q = p_fma(q, x2, p_set(-0.333333164f));
    agi_p y = p_sub(p_set(1), p_div(p_set(2), p_add(p_exp(p_add(a, a)), p_set(1))));
    p_store(to, p_select_gt(a, p_set(0.55f), p_signed(p_abs(y), x), p_fma(q, p_mul(x, x2), x)));
}

#define AGI_BY_CALL(f) float to[16]; p_store(to, x); f(to); return p_load(to);
AGI_WORD agi_p p_log(agi_p x) { AGI_BY_CALL(AGI_(log_16)) }
AGI_WORD agi_p p_tanh(agi_p x) { AGI_BY_CALL(AGI_(tanh_16)) }

// e^-|x| never overflows, and the numerator chooses the side, so that both tails keep their digits. What was lost in
// rounding 1 + z to d is known, and taken off at the end; 1 / d is the larger of y and 1 - y.
AGI_LONG_WORD agi_p p_sigmoid(agi_p x) {
    agi_p one = p_set(1), z = p_exp(p_neg(p_abs(x))), d = p_add(z, one);
    agi_p y = p_div(p_select_gt(p_zero(), x, z, one), d);
    agi_p lost = p_mul(p_sub(z, p_sub(d, one)), p_max(y, p_sub(one, y)));
    return p_fnma(y, lost, y);
}

// The same without the last care, 3 units in the last place, for activations: who looks at them sees only the time.
AGI_LONG_WORD agi_p p_gate(agi_p x) {
    agi_p one = p_set(1), a = p_max(p_set(-104), p_neg(p_abs(x))), n = p_round(p_mul(a, p_set(1.44269504f)));
    agi_p r = AGI_(exp_r)(a, n), z = p_scale(p_add(p_fma(AGI_(exp_q)(r), p_mul(r, r), r), one), n);
    return p_div(p_select_gt(p_zero(), x, z, one), p_add(z, one));
}

// Wide multiplications, for random numbers: lanes of 64 bits, of which a product reads the lower halves.
#if AGI_PASS == AGI_AVX512
#define AGI_WIDE 8
#define agi_w __m512i
#define w_load _mm512_loadu_si512
#define w_store _mm512_storeu_si512
#define w_set(x) _mm512_set1_epi64((long long)(x))
#define w_add _mm512_add_epi64
#define w_mul(a, b) _mm512_maskz_mul_epu32(0xff, a, b)
#define w_xor _mm512_xor_si512
#define w_high(a) _mm512_maskz_srli_epi64(0xff, a, 32)
#elif AGI_PASS == AGI_AVX2
#define AGI_WIDE 4
#define agi_w __m256i
#define w_load(from) _mm256_loadu_si256((const __m256i *)(const void *)(from))
#define w_store(to, a) _mm256_storeu_si256((__m256i *)(void *)(to), a)
#define w_set(x) _mm256_set1_epi64x((long long)(x))
#define w_add _mm256_add_epi64
#define w_mul _mm256_mul_epu32
#define w_xor _mm256_xor_si256
#define w_high(a) _mm256_srli_epi64(a, 32)
#else
#define AGI_WIDE 1
#define agi_w uint64_t
#define w_load(from) (*(from))
#define w_store(to, a) (*(to) = (a))
#define w_set(x) ((uint64_t)(x))
#define w_add(a, b) ((a) + (b))
#define w_mul(a, b) ((uint64_t)(uint32_t)(a) * (uint32_t)(b))
#define w_xor(a, b) ((a) ^ (b))
#define w_high(a) ((a) >> 32)
#endif


// ---- kernels over rows ---------------------------------------------------------------------------------------------
// Every kernel but matmul and attention. Sums over a row run in 16 lanes, lane = index mod 16, and end in the fixed
// tree; sums over rows run down each column in order. So no result depends on the number of threads.

// One pack of a row after the other; k is 16, and less in the last one.
#define AGI_ROW(n) for (size_t i = 0, k; i < (n) && (k = AGI_MIN((n) - i, (size_t)16)) > 0; i += 16)
#define p_get(from, fill) AGI_(p_get)((from) + i, (int)k, fill)
#define p_put(to, p) AGI_(p_put)((to) + i, p, (int)k)
AGI_WORD agi_p AGI_(p_get)(const float *from, int k, float fill) {
    return k == 16 ? p_load(from) : p_load_n(from, k, fill);
}
AGI_WORD void AGI_(p_put)(float *to, agi_p p, int k) {
    if (k == 16) p_store(to, p);
    else p_store_n(to, p, k);
}
#define p_add_to(to, p, accumulate) p_put(to, (accumulate) ? p_add(p_get(to, 0), p) : (p))

AGI_CALLED float AGI_(log_of)(float x) {
    float y[16];
    p_store(y, p_log(p_set(x)));
    return y[0];
}

AGI_CALLED float AGI_(row_sum)(const float *x, size_t n) {
    agi_p sum = p_zero();
    AGI_ROW(n) sum = p_add(sum, p_get(x, 0));
    return p_sum(sum);
}

AGI_CALLED float AGI_(row_max)(const float *x, size_t n) {
    agi_p max = p_set(-INFINITY);
    AGI_ROW(n) max = p_max(p_get(x, -INFINITY), max);
    return p_hmax(max);
}

AGI_KERNEL void AGI_(fill_part)(void *arg, size_t first, size_t last, int thread) {
    const agi_part *a = (const agi_part *)arg;
    size_t n = AGI_MIN(last * AGI_CHUNK, a->n) - first * AGI_CHUNK;
    float *y = a->y[0] + first * AGI_CHUNK;
    (void)thread;
    AGI_ROW(n) p_put(y, p_set(a->f[0]));
}

AGI_KERNEL int AGI_(fill)(ag_backend *b, float *y, float value, size_t n) {
    agi_part a;
    a.y[0] = y, a.n = n, a.f[0] = value;
    agi_spread(b, agi_chunks(n), AGI_CHUNK, AGI_(fill_part), &a);
    return 0;
}

// ---- elementwise ----
// x to an arbitrary power goes through libm in double, which after rounding to float is the same everywhere.
AGI_CALLED void AGI_(pow_16)(float *to, double e) {
    agi_p x = p_load(to);
    if (e == 2) p_store(to, p_mul(x, x));
    else if (e == 3) p_store(to, p_mul(p_mul(x, x), x));
    else if (e == -1) p_store(to, p_div(p_set(1), x));
    else if (e == 0) p_store(to, p_set(1));
    else if (e == 0.5) p_store(to, p_sqrt(x));
    else if (e != 1) for (int l = 0; l < 16; l++) to[l] = (float)pow(to[l], e);
}
AGI_WORD agi_p AGI_(p_pow)(agi_p x, double e) {
    float to[16];
    p_store(to, x), AGI_(pow_16)(to, e);
    return p_load(to);
}

// gelu(x) = x sigmoid(2u) with u = sqrt(2/pi) (x + 0.044715 x^3), because 1 + tanh u = 2 sigmoid(2u)
#define AGI_GELU_2C 1.59576912f
AGI_WORD agi_p AGI_(p_gelu_gate)(agi_p x) {
    agi_p x2 = p_mul(x, x);
    return p_gate(p_mul(p_mul(p_set(AGI_GELU_2C), x), p_fma(p_set(0.044715f), x2, p_set(1))));
}
AGI_WORD agi_p AGI_(p_gelu_slope)(agi_p x) {
    agi_p z = p_min(p_set(20), p_max(p_set(-20), x));                // beyond, the slope is 0 or 1 to the last bit
    agi_p s = AGI_(p_gelu_gate)(z), u = p_mul(p_set(AGI_GELU_2C), p_fma(p_set(0.134145f), p_mul(z, z), p_set(1)));
    return p_fma(p_mul(p_mul(z, s), p_sub(p_set(1), s)), u, s);
}
AGI_WORD agi_p AGI_(p_silu_slope)(agi_p x) {
    agi_p s = p_gate(x);
    return p_mul(s, p_fma(x, p_sub(p_set(1), s), p_set(1)));
}
AGI_WORD agi_p AGI_(p_log_sigmoid)(agi_p x) {           // log(1 + z) with the digits that 1 + z loses put back
    agi_p z = p_exp(p_neg(p_abs(x))), u = p_add(z, p_set(1));
    agi_p l = p_add(p_log(u), p_div(p_sub(z, p_sub(u, p_set(1))), u));
    return p_sub(p_min(x, p_zero()), l);
}

// One row of n numbers. An operand whose step is 0 is a single number, 16 times in memory, read again and again. The
// loop over whole packs stands once for each op; a rest shorter than a pack is moved to where there is room, and the
// same loop runs again.
#define AGI_A p_load(x[0] + (i & step[0]))
#define AGI_B p_load(x[1] + (i & step[1]))
#define AGI_C p_load(x[2] + (i & step[2]))
#define AGI_CASE(id, expression) case id: for (size_t i = 0; i < whole; i += 16) { p_store(y + i, expression); } break;
AGI_KERNEL void AGI_(map_row)(int op, float *y, const float *const xs[3], const size_t step[3], size_t n, double p,
                              double q) {
    float rest[4][16], *to = y;
    const float *x[3];
    size_t whole = n & ~(size_t)15, left = n - whole;
    agi_p P = p_set((float)p), Q = p_set((float)q), one = p_set(1), zero = p_zero();
    for (int j = 0; j < 3; j++) x[j] = xs[j];
    for (;;) {
        switch (op) {
        AGI_CASE(AG_MAP_ADD, p_add(AGI_A, AGI_B))
        AGI_CASE(AG_MAP_SUB, p_sub(AGI_A, AGI_B))
        AGI_CASE(AG_MAP_MUL, p_mul(AGI_A, AGI_B))
        AGI_CASE(AG_MAP_DIV, p_div(AGI_A, AGI_B))
        AGI_CASE(AG_MAP_MIN, p_min(AGI_A, AGI_B))
        AGI_CASE(AG_MAP_MAX, p_max(AGI_A, AGI_B))
        AGI_CASE(AG_MAP_GREATER, p_select_gt(AGI_A, AGI_B, one, zero))
        AGI_CASE(AG_MAP_WHERE, p_select_gt(p_set(AGI_TINY), p_abs(AGI_A), AGI_C, AGI_B))
        AGI_CASE(AG_MAP_SCALE, p_mul(AGI_A, P))
        AGI_CASE(AG_MAP_SHIFT, p_add(AGI_A, P))
        AGI_CASE(AG_MAP_POW, AGI_(p_pow)(AGI_A, p))
        AGI_CASE(AG_MAP_EXP, p_exp(AGI_A))
        AGI_CASE(AG_MAP_LOG, p_log(AGI_A))
        AGI_CASE(AG_MAP_SQRT, p_sqrt(AGI_A))
        AGI_CASE(AG_MAP_TANH, p_tanh(AGI_A))
        AGI_CASE(AG_MAP_SIGMOID, p_sigmoid(AGI_A))
        AGI_CASE(AG_MAP_LOG_SIGMOID, AGI_(p_log_sigmoid)(AGI_A))
        AGI_CASE(AG_MAP_RELU, p_max(AGI_A, zero))
        AGI_CASE(AG_MAP_GELU, p_mul(AGI_A, AGI_(p_gelu_gate)(AGI_A)))
        AGI_CASE(AG_MAP_SILU, p_mul(AGI_A, p_gate(AGI_A)))
        AGI_CASE(AG_MAP_CLAMP, p_min(Q, p_max(P, AGI_A)))
        AGI_CASE(AG_MAP_AXPBY, p_fma(P, AGI_A, p_mul(Q, AGI_B)))
        }
        if (to != y) p_store_n(to, p_load(y), (int)left);
        if (to != y || !left) return;
        for (int j = 0; j < 3; j++) p_store(rest[j], step[j] ? p_load_n(x[j] + whole, (int)left, 1) : p_load(x[j]));
        for (int j = 0; j < 3; j++) x[j] = rest[j];
        to = y + whole, y = rest[3], whole = 16;
    }
}

// The slopes: g (+)= d * df/dx[which].
#define AGI_D p_load(d + i)
#define AGI_Y p_load(y + i)
#define AGI_SLOPE(id, w, expression) case 3 * id + w: \
    for (size_t i = 0; i < whole; i += 16) { p_store(g + i, p_add(p_load(old + (i & keep)), expression)); } break;
AGI_KERNEL void AGI_(map_back_row)(int op, float *g, const float *y, const float *d, const float *const xs[3],
                                   const size_t step[3], size_t n, double p, double q, int accumulate) {
    float rest[6][16], nothing[16], *to = g;
    const float *x[3], *old = accumulate ? g : nothing;
    size_t whole = n & ~(size_t)15, left = n - whole, keep = accumulate ? ~(size_t)0 : 0;
    agi_p P = p_set((float)p), Q = p_set((float)q), one = p_set(1), zero = p_zero();
    p_store(nothing, zero);
    for (int j = 0; j < 3; j++) x[j] = xs[j];
    for (;;) {
        switch (op) {
        AGI_SLOPE(AG_MAP_ADD, 0, AGI_D)
        AGI_SLOPE(AG_MAP_SUB, 1, p_neg(AGI_D))
        AGI_SLOPE(AG_MAP_MUL, 0, p_mul(AGI_D, AGI_B))
        AGI_SLOPE(AG_MAP_MUL, 1, p_mul(AGI_D, AGI_A))
        AGI_SLOPE(AG_MAP_DIV, 0, p_div(AGI_D, AGI_B))
        AGI_SLOPE(AG_MAP_DIV, 1, p_neg(p_mul(AGI_D, p_div(AGI_Y, AGI_B))))
        AGI_SLOPE(AG_MAP_MIN, 0, p_select_gt(AGI_A, AGI_B, zero, AGI_D))
        AGI_SLOPE(AG_MAP_MIN, 1, p_select_gt(AGI_A, AGI_B, AGI_D, zero))
        AGI_SLOPE(AG_MAP_MAX, 0, p_select_gt(AGI_B, AGI_A, zero, AGI_D))
        AGI_SLOPE(AG_MAP_MAX, 1, p_select_gt(AGI_B, AGI_A, AGI_D, zero))
        AGI_SLOPE(AG_MAP_WHERE, 1, p_select_gt(p_set(AGI_TINY), p_abs(AGI_A), zero, AGI_D))
        AGI_SLOPE(AG_MAP_WHERE, 2, p_select_gt(p_set(AGI_TINY), p_abs(AGI_A), AGI_D, zero))
        AGI_SLOPE(AG_MAP_SCALE, 0, p_mul(AGI_D, P))
        AGI_SLOPE(AG_MAP_POW, 0, p_mul(AGI_D, p_mul(P, AGI_(p_pow)(AGI_A, p - 1))))
        AGI_SLOPE(AG_MAP_EXP, 0, p_mul(AGI_D, AGI_Y))
        AGI_SLOPE(AG_MAP_LOG, 0, p_div(AGI_D, AGI_A))
        AGI_SLOPE(AG_MAP_SQRT, 0, p_mul(AGI_D, p_div(p_set(0.5f), AGI_Y)))
        AGI_SLOPE(AG_MAP_TANH, 0, p_mul(AGI_D, p_fnma(AGI_Y, AGI_Y, one)))
        AGI_SLOPE(AG_MAP_SIGMOID, 0, p_mul(AGI_D, p_mul(AGI_Y, p_sub(one, AGI_Y))))
        AGI_SLOPE(AG_MAP_LOG_SIGMOID, 0, p_mul(AGI_D, p_sigmoid(p_neg(AGI_A))))
        AGI_SLOPE(AG_MAP_RELU, 0, p_select_gt(AGI_A, zero, AGI_D, zero))
        AGI_SLOPE(AG_MAP_GELU, 0, p_mul(AGI_D, AGI_(p_gelu_slope)(AGI_A)))
        AGI_SLOPE(AG_MAP_SILU, 0, p_mul(AGI_D, AGI_(p_silu_slope)(AGI_A)))
        AGI_SLOPE(AG_MAP_CLAMP, 0, p_select_gt(P, AGI_A, zero, p_select_gt(AGI_A, Q, zero, AGI_D)))
        AGI_SLOPE(AG_MAP_GREATER, 0, zero)
        }
        if (to != g) p_store_n(to, p_load(g), (int)left);
        if (to != g || !left) return;
        for (int j = 0; j < 3; j++) p_store(rest[j], step[j] ? p_load_n(x[j] + whole, (int)left, 1) : p_load(x[j]));
        for (int j = 0; j < 3; j++) x[j] = rest[j];
        p_store(rest[3], p_load_n(y + whole, (int)left, 1)), p_store(rest[4], p_load_n(d + whole, (int)left, 0));
        if (accumulate) p_store(rest[5], p_load_n(g + whole, (int)left, 0)), old = rest[5];
        y = rest[3], d = rest[4];
        to = g + whole, g = rest[5], whole = 16;
    }
}

// Rows of an elementwise op over up to four dimensions. A unit is a piece of a row.
AGI_KERNEL void AGI_(map_part)(void *arg, size_t first, size_t last, int thread) {
    const agi_grid *a = (const agi_grid *)arg;
    const size_t *shape = a->shape;
    size_t n = shape[3];
    float strided[3][AGI_PIECE];
    (void)thread;
    for (size_t unit = first; unit < last; unit++) {
        size_t row = unit / a->pieces, at = unit % a->pieces * a->piece, m = AGI_MIN(a->piece, n - at), step[3];
        size_t i2 = row % shape[2], i1 = row / shape[2] % shape[1], i0 = row / shape[2] / shape[1];
        const float *x[3];
        for (int j = 0; j < 3; j++) {
            const size_t *s = a->stride[j];
            x[j] = strided[j], step[j] = 0;
            if (!a->x[j]) continue;                                 // not read
            const float *from = a->x[j] + i0 * s[0] + i1 * s[1] + i2 * s[2] + at * s[3];
            if (s[3] == 0) p_store(strided[j], p_set(*from));
            else if (s[3] == 1) x[j] = from, step[j] = ~(size_t)0;
            else {
                for (size_t i = 0; i < m; i++) strided[j][i] = from[i * s[3]];
                step[j] = ~(size_t)0;
            }
        }
        size_t to = row * n + at;
        if (!a->dy) AGI_(map_row)(a->op, a->y + to, x, step, m, a->p, a->q);
        else AGI_(map_back_row)(a->op, a->y + to, a->result + to, a->dy + to, x, step, m, a->p, a->q, a->accumulate);
    }
}

AGI_KERNEL int AGI_(map)(ag_backend *b, int op, float *y, const float *const x[3], const int shape[4],
                         const size_t stride[3][4], double p, double q) {
    agi_grid a;
    if (!agi_grid_of(&a, shape, stride, x)) return 0;
    a.op = op, a.y = y, a.dy = a.result = NULL, a.p = p, a.q = q, a.accumulate = 0;
    agi_spread(b, a.rows * a.pieces, AGI_MIN(a.piece, a.shape[3]) * (agi_costly(op) ? 4 : 1), AGI_(map_part), &a);
    return 0;
}

AGI_KERNEL int AGI_(map_back)(ag_backend *b, int op, int which, float *g, const float *y, const float *const x[3],
                              const float *dy, const int shape[4], const size_t stride[3][4], double p, double q,
                              int accumulate) {
    agi_grid a;
    if (!agi_grid_of(&a, shape, stride, x)) return 0;
    if (op == AG_MAP_AXPBY) op = AG_MAP_SCALE, p = which ? q : p;   // ops that have the same slope
    else if (op == AG_MAP_SHIFT || op == AG_MAP_ADD || (op == AG_MAP_SUB && !which)) op = AG_MAP_ADD, which = 0;
    else if ((op == AG_MAP_WHERE && !which) || (op == AG_MAP_POW && p == 0)) op = AG_MAP_GREATER;
    if (op == AG_MAP_GREATER) which = 0;
    if (op == AG_MAP_SCALE) which = 0;
    a.op = 3 * op + which, a.y = g, a.dy = dy, a.result = y, a.p = p, a.q = q, a.accumulate = accumulate;
    agi_spread(b, a.rows * a.pieces, AGI_MIN(a.piece, a.shape[3]) * (agi_costly(op) ? 4 : 1), AGI_(map_part), &a);
    return 0;
}

// ---- copies: permute, slice, concat ----
// y[i] (+)= x[i] for a row; 16 x 16 tiles where the rows of one are the columns of the other.
AGI_KERNEL void AGI_(copy_part)(void *arg, size_t first, size_t last, int thread) {
    const agi_grid *a = (const agi_grid *)arg;
    const size_t *shape = a->shape, *ys = a->stride[0], *xs = a->stride[1];
    (void)thread;
    for (size_t unit = first; unit < last; unit++) {
        size_t row = unit / a->pieces, at = unit % a->pieces * a->piece, n = AGI_MIN(a->piece, shape[3] - at);
        size_t rows = a->tiled ? (shape[2] + 15) / 16 : shape[2], i2 = row % rows * (a->tiled ? 16 : 1);
        size_t i1 = row / rows % shape[1], i0 = row / rows / shape[1];
        float *y = a->y + i0 * ys[0] + i1 * ys[1] + i2 * ys[2] + at * ys[3];
        const float *x = a->x[0] + i0 * xs[0] + i1 * xs[1] + i2 * xs[2] + at * xs[3];
        if (!a->tiled && ys[3] == 1 && xs[3] == 1) {
            if (!a->accumulate) memcpy(y, x, n * sizeof *y);
            else AGI_ROW(n) p_put(y, p_add(p_get(y, 0), p_get(x, 0)));
        } else if (!a->tiled) {
            if (!a->accumulate) for (size_t i = 0; i < n; i++) y[i * ys[3]] = x[i * xs[3]];
            else for (size_t i = 0; i < n; i++) y[i * ys[3]] += x[i * xs[3]];
        } else {                                                    // x runs along dimension 3, y along dimension 2
            float tile[16][16], column[16];
            int tall = (int)AGI_MIN(shape[2] - i2, 16), wide;
            for (size_t j = 0; j < n; j += 16) {
                wide = (int)AGI_MIN(n - j, 16);
                for (int r = 0; r < tall; r++) p_store(tile[r], AGI_(p_get)(x + (size_t)r * xs[2] + j, wide, 0));
                for (int c = 0; c < wide; c++) {
                    float *to = y + (j + (size_t)c) * ys[3];
                    for (int r = 0; r < 16; r++) column[r] = tile[r][c];
                    agi_p p = p_load(column);
                    AGI_(p_put)(to, a->accumulate ? p_add(AGI_(p_get)(to, tall, 0), p) : p, tall);
                }
            }
        }
    }
}

AGI_KERNEL int AGI_(copy)(ag_backend *b, float *y, const size_t ystride[4], const float *x, const size_t xstride[4],
                          const int shape[4], int accumulate) {
    agi_grid a;
    size_t stride[3][4];
    const float *operands[3];
    memcpy(stride[0], ystride, sizeof stride[0]), memcpy(stride[1], xstride, sizeof stride[1]);
    memset(stride[2], 0, sizeof stride[2]);
    operands[0] = y, operands[1] = x, operands[2] = NULL;
    if (!agi_grid_of(&a, shape, (const size_t (*)[4])stride, operands)) return 0;
    a.y = y, a.x[0] = x, a.accumulate = accumulate;
    agi_grid_tile(&a);
    agi_spread(b, a.rows * a.pieces, a.piece * (a.tiled ? 16 : 1), AGI_(copy_part), &a);
    return 0;
}

// ---- reductions ----
// NaN counts as a maximum: max ignores it where it is the first operand, so that it is collected beside.
AGI_WORD agi_p AGI_(p_nan)(agi_p found, agi_p x) {
    return p_fma(p_min(p_set(1), p_max(p_set(-1), x)), p_zero(), found);
}

AGI_KERNEL void AGI_(reduce_part)(void *arg, size_t first, size_t last, int thread) {
    const agi_part *a = (const agi_part *)arg;
    size_t r = a->rows, inner = a->n, packs = (inner + 15) / 16;
    agi_p scale = p_set(a->f[0]);
    (void)thread;
    for (size_t unit = first; unit < last; unit++) {                // a row, or 16 columns
        size_t o = inner == 1 ? unit : unit / packs, c = inner == 1 ? 0 : unit % packs * 16, at = 0, left;
        const float *x = a->x[0] + o * r * inner + c;
        float *y = a->y[0] + o * inner + c;
        if (inner == 1) {
            double sum = 0;
            float s = -INFINITY;
            agi_p found = p_zero();
            for (; a->flag == AG_REDUCE_SUM && at < r; at += AGI_BLOCK) {   // long rows in blocks, at fixed places
                s = AGI_(row_sum)(x + at, AGI_MIN(r - at, AGI_BLOCK));
                sum += s;
            }
            if (a->flag == AG_REDUCE_SUM) s = (float)(sum * a->d);
            else {
                AGI_ROW(r) found = AGI_(p_nan)(found, p_get(x, 0));
                s = r ? (AGI_(row_max)(x, r) + p_sum(found)) * a->f[0] : 0;
            }
            *y = a->accumulate ? *y + s : s;
            continue;
        }
        left = AGI_MIN(inner - c, (size_t)16);
        agi_p sum = p_zero(), found = p_zero();
        if (a->flag == AG_REDUCE_SUM) {
            for (size_t j = 0; j < r; j++) sum = p_add(sum, AGI_(p_get)(x + j * inner, (int)left, 0));
        } else if (r) {
            sum = p_set(-INFINITY);
            for (size_t j = 0; j < r; j++) {
                agi_p v = AGI_(p_get)(x + j * inner, (int)left, 0);
                sum = p_max(v, sum), found = AGI_(p_nan)(found, v);
            }
            sum = p_add(sum, found);
        }
        sum = p_mul(sum, scale);
        AGI_(p_put)(y, a->accumulate ? p_add(AGI_(p_get)(y, (int)left, 0), sum) : sum, (int)left);
    }
}

AGI_KERNEL void AGI_(block_sums)(void *arg, size_t first, size_t last, int thread) {
    const agi_part *a = (const agi_part *)arg;
    (void)thread;
    for (size_t block = first; block < last; block++) {
        size_t at = block * AGI_BLOCK;
        ((double *)a->other)[block] = AGI_(row_sum)(a->x[0] + at, AGI_MIN(a->rows - at, AGI_BLOCK));
    }
}

AGI_KERNEL int AGI_(reduce)(ag_backend *b, int op, float *y, const float *x, size_t outer, size_t r, size_t inner,
                            double scale, int accumulate) {
    agi_part a;
    if (!outer || !inner) return 0;
    a.x[0] = x, a.y[0] = y, a.rows = r, a.n = inner, a.flag = op, a.accumulate = accumulate;
    a.d = scale, a.f[0] = (float)scale;
    if (outer * inner == 1 && op == AG_REDUCE_SUM && r > 2 * AGI_BLOCK) {
        size_t blocks = (r + AGI_BLOCK - 1) / AGI_BLOCK;
        double sum = 0, *sums = (double *)agi_shared_scratch(b, 3, blocks * sizeof *sums);
        if (!sums) return -1;
        a.other = sums;
        agi_spread(b, blocks, AGI_BLOCK, AGI_(block_sums), &a);
        for (size_t i = 0; i < blocks; i++) sum += sums[i];
        *y = accumulate ? *y + (float)(sum * scale) : (float)(sum * scale);
    } else {
        agi_spread(b, outer * (inner == 1 ? 1 : (inner + 15) / 16), r * (inner == 1 ? 1 : 16), AGI_(reduce_part), &a);
    }
    return 0;
}

AGI_KERNEL void AGI_(reduce_back_part)(void *arg, size_t first, size_t last, int thread) {
    const agi_part *a = (const agi_part *)arg;
    size_t r = a->rows, inner = a->n;
    agi_p scale = p_set(a->f[0]);
    (void)thread;
    for (size_t o = first; o < last; o++) {
        float *dx = a->y[0] + o * r * inner;
        const float *dy = a->x[2] + o * inner, *x = a->x[0] + o * r * inner, *y = a->x[1] + o * inner;
        if (a->flag == AG_REDUCE_MAX) {                             // the first of equal maxima gets it
            for (size_t c = 0; c < inner; c++)
                for (size_t j = 0, found = 0; j < r; j++) {
                    size_t takes = !found && x[j * inner + c] == y[c];
                    float d = takes ? dy[c] * a->f[0] : 0;
                    found |= takes;
                    dx[j * inner + c] = a->accumulate ? dx[j * inner + c] + d : d;
                }
        } else if (inner == 1) {
            agi_p d = p_mul(p_set(*dy), scale);
            AGI_ROW(r) p_add_to(dx, d, a->accumulate);
        } else {
            for (size_t j = 0; j < r; j++, dx += inner)
                AGI_ROW(inner) p_add_to(dx, p_mul(p_get(dy, 0), scale), a->accumulate);
        }
    }
}

AGI_KERNEL int AGI_(reduce_back)(ag_backend *b, int op, float *dx, const float *x, const float *y, const float *dy,
                                 size_t outer, size_t r, size_t inner, double scale, int accumulate) {
    agi_part a;
    a.x[0] = x, a.x[1] = y, a.x[2] = dy, a.y[0] = dx, a.rows = r, a.n = inner, a.flag = op, a.accumulate = accumulate;
    a.f[0] = (float)scale;
    if (op == AG_REDUCE_SUM && outer == 1 && inner == 1 && !accumulate) return AGI_(fill)(b, dx, *dy * a.f[0], r);
    agi_spread(b, outer, r * inner, AGI_(reduce_back_part), &a);
    return 0;
}

// ---- softmax ----
AGI_KERNEL void AGI_(softmax_part)(void *arg, size_t first, size_t last, int thread) {
    const agi_part *a = (const agi_part *)arg;
    size_t n = a->n;
    (void)thread;
    for (size_t row = first; row < last; row++) {
        const float *x = a->x[0] + row * n;
        float *y = a->y[0] + row * n;
        agi_p max = p_set(AGI_(row_max)(x, n)), sum = p_zero();
        AGI_ROW(n) {
            agi_p e = p_exp(p_sub(p_get(x, -INFINITY), max));
            sum = p_add(sum, e);
            if (!a->flag) p_put(y, e);
        }
        float total = p_sum(sum);
        agi_p last_step = p_set(a->flag ? AGI_(log_of)(total) : 1 / total);
        if (a->flag) AGI_ROW(n) p_put(y, p_sub(p_sub(p_get(x, 0), max), last_step));
        else AGI_ROW(n) p_put(y, p_mul(p_get(y, 0), last_step));
    }
}

AGI_KERNEL int AGI_(softmax)(ag_backend *b, float *y, const float *x, size_t rows, size_t n, int is_log) {
    agi_part a;
    a.x[0] = x, a.y[0] = y, a.n = n, a.flag = is_log;
    agi_spread(b, rows, 4 * n, AGI_(softmax_part), &a);
    return 0;
}

AGI_KERNEL void AGI_(softmax_back_part)(void *arg, size_t first, size_t last, int thread) {
    const agi_part *a = (const agi_part *)arg;
    size_t n = a->n;
    (void)thread;
    for (size_t row = first; row < last; row++) {
        const float *y = a->x[0] + row * n, *dy = a->x[1] + row * n;
        float *dx = a->y[0] + row * n;
        agi_p dot = p_zero();
        if (a->flag) dot = p_set(AGI_(row_sum)(dy, n));
        else {
            AGI_ROW(n) dot = p_fma(p_get(dy, 0), p_get(y, 0), dot);
            dot = p_set(p_sum(dot));
        }
        AGI_ROW(n) {
            agi_p d = p_get(dy, 0), v = p_get(y, 0);
            d = a->flag ? p_fnma(p_exp(v), dot, d) : p_mul(v, p_sub(d, dot));
            p_add_to(dx, d, a->accumulate);
        }
    }
}

AGI_KERNEL int AGI_(softmax_back)(ag_backend *b, float *dx, const float *y, const float *dy, size_t rows, size_t n,
                                  int is_log, int accumulate) {
    agi_part a;
    a.x[0] = y, a.x[1] = dy, a.y[0] = dx, a.n = n, a.flag = is_log, a.accumulate = accumulate;
    agi_spread(b, rows, (is_log ? 4 : 2) * n, AGI_(softmax_back_part), &a);
    return 0;
}

// ---- normalisation ----
AGI_KERNEL void AGI_(norm_part)(void *arg, size_t first, size_t last, int thread) {
    const agi_part *a = (const agi_part *)arg;
    const float *w = a->x[1], *bias = a->x[2];
    size_t n = a->n;
    (void)thread;
    for (size_t row = first; row < last; row++) {
        const float *x = a->x[0] + row * n;
        float *y = a->y[0] + row * n, mean = a->flag ? 0 : AGI_(row_sum)(x, n) / (float)n;
        agi_p m = p_set(mean), var = p_zero();
        AGI_ROW(n) {
            agi_p c = p_sub(p_get(x, mean), m);                     // what lies beyond the row is the mean: it adds 0
            var = p_fma(c, c, var);
        }
        float rstd = 1 / sqrtf(p_sum(var) / (float)n + a->f[0]);
        agi_p s = p_set(rstd);
        AGI_ROW(n) {
            agi_p h = p_mul(p_sub(p_get(x, 0), m), s);
            if (bias) h = p_fma(h, w ? p_get(w, 0) : p_set(1), p_get(bias, 0));
            else if (w) h = p_mul(h, p_get(w, 0));
            p_put(y, h);
        }
        a->y[1][2 * row] = mean, a->y[1][2 * row + 1] = rstd;
    }
}

AGI_KERNEL int AGI_(norm)(ag_backend *b, float *y, float *stats, const float *x, const float *w, const float *bias,
                          size_t rows, size_t n, double eps, int rms) {
    agi_part a;
    a.x[0] = x, a.x[1] = w, a.x[2] = bias, a.y[0] = y, a.y[1] = stats, a.n = n, a.flag = rms, a.f[0] = (float)eps;
    agi_spread(b, rows, 2 * n, AGI_(norm_part), &a);
    return 0;
}

// dw and dbias of a block of rows are summed beside, at a place that depends on the block alone, and the blocks are
// added in order afterwards.
AGI_KERNEL void AGI_(norm_back_part)(void *arg, size_t first, size_t last, int thread) {
    const agi_part *a = (const agi_part *)arg;
    const float *w = a->x[1];
    size_t n = a->n;
    (void)thread;
    for (size_t block = first; block < last; block++) {
        float *dw = a->y[1] ? a->y[1] + block * n : NULL, *db = a->y[2] ? a->y[2] + block * n : NULL;
        if (dw) memset(dw, 0, n * sizeof *dw);
        if (db) memset(db, 0, n * sizeof *db);
        for (size_t row = block * AGI_ROWS; row < AGI_MIN(a->rows, (block + 1) * AGI_ROWS); row++) {
            const float *x = a->x[0] + row * n, *dy = a->x[3] + row * n;
            agi_p mean = p_set(a->x[2][2 * row]), rstd = p_set(a->x[2][2 * row + 1]), sg = p_zero(), sgh = p_zero();
            AGI_ROW(n) {
                agi_p d = p_get(dy, 0), h = p_mul(p_sub(p_get(x, 0), mean), rstd), g = w ? p_mul(d, p_get(w, 0)) : d;
                sg = p_add(sg, g), sgh = p_fma(g, h, sgh);
                if (dw) p_put(dw, p_fma(d, h, p_get(dw, 0)));
                if (db) p_put(db, p_add(d, p_get(db, 0)));
            }
            if (!a->y[0]) continue;
            float *dx = a->y[0] + row * n;
            agi_p mg = p_set(a->flag ? 0 : p_sum(sg) / (float)n), mgh = p_set(p_sum(sgh) / (float)n);
            AGI_ROW(n) {
                agi_p d = p_get(dy, 0), h = p_mul(p_sub(p_get(x, 0), mean), rstd), g = w ? p_mul(d, p_get(w, 0)) : d;
                p_add_to(dx, p_mul(rstd, p_sub(p_sub(g, mg), p_mul(h, mgh))), a->accumulate & 1);
            }
        }
    }
}

AGI_KERNEL void AGI_(add_blocks)(float *y, const float *blocks, size_t n_blocks, size_t n, int accumulate) {
    for (size_t j = 0; j < n_blocks; j++) {
        const float *x = blocks + j * n;
        AGI_ROW(n) p_add_to(y, p_get(x, 0), accumulate || j);
    }
    if (!n_blocks && !accumulate) memset(y, 0, n * sizeof *y);
}

AGI_KERNEL int AGI_(norm_back)(ag_backend *b, float *dx, float *dw, float *dbias, const float *x, const float *w,
                               const float *stats, const float *dy, size_t rows, size_t n, int rms, int accumulate) {
    agi_part a;
    size_t blocks = (rows + AGI_ROWS - 1) / AGI_ROWS;
    float *sums = (float *)agi_shared_scratch(b, 3, 2 * blocks * n * sizeof *sums);
    if (!sums) return -1;
    a.x[0] = x, a.x[1] = w, a.x[2] = stats, a.x[3] = dy, a.rows = rows, a.n = n;
    a.flag = rms, a.accumulate = accumulate;
    a.y[0] = dx, a.y[1] = dw ? sums : NULL, a.y[2] = dbias ? sums + blocks * n : NULL;
    agi_spread(b, blocks, AGI_ROWS * 4 * n, AGI_(norm_back_part), &a);
    if (dw) AGI_(add_blocks)(dw, a.y[1], blocks, n, accumulate & 2);
    if (dbias) AGI_(add_blocks)(dbias, a.y[2], blocks, n, accumulate & 4);
    return 0;
}

// ---- looking up ----
AGI_KERNEL void AGI_(embedding_part)(void *arg, size_t first, size_t last, int thread) {
    const agi_part *a = (const agi_part *)arg;
    (void)thread;
    for (size_t i = first; i < last; i++)
        memcpy(a->y[0] + i * a->n, a->x[0] + (size_t)a->ids[i] * a->n, a->n * sizeof(float));
}

AGI_KERNEL int AGI_(embedding)(ag_backend *b, float *y, const float *table, const int *ids, size_t n, size_t c) {
    agi_part a;
    a.x[0] = table, a.y[0] = y, a.ids = ids, a.n = c;
    agi_spread(b, n, c, AGI_(embedding_part), &a);
    return 0;
}

// Threads share the columns, so that each sum runs over the positions in order.
AGI_KERNEL void AGI_(embedding_back_part)(void *arg, size_t first, size_t last, int thread) {
    const agi_part *a = (const agi_part *)arg;
    size_t c = a->n, from = first * 16, n = AGI_MIN(last * 16, c) - from;
    (void)thread;
    for (size_t j = 0; j < a->rows; j++) {
        float *to = a->y[0] + (size_t)a->ids[j] * c + from;
        const float *dy = a->x[0] + j * c + from;
        AGI_ROW(n) p_put(to, p_add(p_get(to, 0), p_get(dy, 0)));
    }
}

AGI_KERNEL int AGI_(embedding_back)(ag_backend *b, float *dtable, const int *ids, const float *dy, size_t n,
                                    size_t vocab, size_t c, int accumulate) {
    agi_part a;
    if (!accumulate) AGI_(fill)(b, dtable, 0, vocab * c);
    a.x[0] = dy, a.y[0] = dtable, a.ids = ids, a.rows = n, a.n = c;
    agi_spread(b, (c + 15) / 16, 16 * n, AGI_(embedding_back_part), &a);
    return 0;
}

AGI_KERNEL int AGI_(gather)(ag_backend *b, float *y, const float *x, const int *ids, size_t rows, size_t n) {
    (void)b;
    for (size_t row = 0; row < rows; row++) y[row] = x[row * n + (size_t)ids[row]];
    return 0;
}

AGI_KERNEL int AGI_(gather_back)(ag_backend *b, float *dx, const int *ids, const float *dy, size_t rows, size_t n,
                                 int accumulate) {
    if (!accumulate) AGI_(fill)(b, dx, 0, rows * n);
    for (size_t row = 0; row < rows; row++) dx[row * n + (size_t)ids[row]] += dy[row];
    return 0;
}

// ---- dropout ----
// 64 blocks of Philox (see agi_philox for the plain form), AGI_WIDE of them side by side. The upper half of a lane may
// hold anything until the end.
AGI_KERNEL void AGI_(philox)(uint64_t key, uint64_t counter, uint32_t out[256]) {
    for (int first = 0; first < 64; first += AGI_WIDE) {
        uint64_t c[4][AGI_WIDE];
        agi_w c0 = w_add(w_load(agi_count), w_set(counter + (unsigned)first)), c1 = w_high(c0), c2 = w_set(0), c3 = c2;
        agi_w m0 = w_set(0xD2511F53u), m1 = w_set(0xCD9E8D57u);
        uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
        for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
            agi_w p0 = w_mul(m0, c0), p1 = w_mul(m1, c2);
            c0 = w_xor(w_xor(w_high(p1), c1), w_set(k0)), c1 = p1;
            c2 = w_xor(w_xor(w_high(p0), c3), w_set(k1)), c3 = p0;
        }
        w_store(c[0], c0), w_store(c[1], c1), w_store(c[2], c2), w_store(c[3], c3);
        for (int l = 0; l < AGI_WIDE; l++) {
            uint32_t *to = out + 4 * (first + l);
            to[0] = (uint32_t)c[0][l], to[1] = (uint32_t)c[1][l], to[2] = (uint32_t)c[2][l], to[3] = (uint32_t)c[3][l];
        }
    }
}

AGI_KERNEL void AGI_(dropout_part)(void *arg, size_t first, size_t last, int thread) {
    const agi_part *a = (const agi_part *)arg;
    uint32_t least = (uint32_t)a->least, word[256], keep, mask[240];
    (void)thread;
    memcpy(&keep, &a->f[0], sizeof keep);
    for (size_t unit = first; unit < last; unit++) {
        size_t at = unit * 240, n = AGI_MIN(a->n - at, (size_t)240), skip = (size_t)(a->counter % 4);
        const float *x = a->x[0] + at;
        float *y = a->y[0] + at;
        AGI_(philox)(a->key, a->counter / 4 + at / 4, word);        // 240 of them, after up to 3 that belong to others
        for (int i = 0; i < 240; i++) mask[i] = (0u - (uint32_t)(word[skip + (size_t)i] >= least)) & keep;
        AGI_ROW(n) {
            agi_p m = p_load((const float *)(const void *)(mask + i));
            agi_p v = p_select_gt(m, p_zero(), p_mul(p_get(x, 0), m), p_zero());
            p_add_to(y, v, a->accumulate);
        }
    }
}

AGI_KERNEL int AGI_(dropout)(ag_backend *b, float *y, const float *x, size_t n, double p, ag_rng rng, int accumulate) {
    agi_part a;
    a.x[0] = x, a.y[0] = y, a.n = n, a.key = rng.key, a.counter = rng.counter, a.accumulate = accumulate;
    a.least = (uint64_t)ceil(p * 4294967296.0), a.f[0] = (float)(1 / (1 - p));
    if (a.least >> 32) a.least = 0, a.f[0] = 0;                     // p so close to 1 that no word is large enough
    agi_spread(b, (n + 239) / 240, 240 * 4, AGI_(dropout_part), &a);
    return 0;
}

// ---- rotary positions, with the norm of queries and keys ----
// turn is hs cosines, each twice, then hs sines, each twice, the first of a pair negated: (x0, x1) becomes
// (x0 cos - x1 sin, x1 cos + x0 sin).
AGI_KERNEL void AGI_(qk_rope_part)(void *arg, size_t first, size_t last, int thread) {
    const agi_rope_args *a = (const agi_rope_args *)arg;
    size_t hs = (size_t)a->hs, width = (size_t)a->H * hs;
    int turned = a->nq + a->nk;
    (void)thread;
    for (size_t row = first; row < last; row++) {
        size_t t = row % (size_t)a->T, bt = row / (size_t)a->T;
        const float *x = a->x + row * width, *turn = a->turns;
        float *y = a->y + row * width;
        if (turn) turn += ((a->start ? (size_t)a->start[bt] : 0) + t) * 2 * hs;
        for (int h = 0; h < turned; h++, x += hs, y += hs) {
            const float *w = h < a->nq ? a->q_norm : a->k_norm;
            float r = 1;
            if (w) {
                agi_p sum = p_zero();
                AGI_ROW(hs) sum = p_fma(p_get(x, 0), p_get(x, 0), sum);
                r = 1 / sqrtf(p_sum(sum) / (float)a->hs + a->eps);
            }
            if (a->rrms) a->rrms[row * (size_t)turned + (size_t)h] = r;
            AGI_ROW(hs) {
                agi_p v = p_get(x, 0);
                if (w) v = p_mul(p_mul(v, p_set(r)), p_get(w, 0));
                if (turn) v = p_fma(p_swap(v), p_get(turn + hs, 0), p_mul(v, p_get(turn, 0)));
                p_put(y, v);
            }
        }
        memcpy(y, x, (width - (size_t)turned * hs) * sizeof *y);
    }
}

AGI_KERNEL int AGI_(qk_rope)(ag_backend *b, float *y, float *rrms, const float *x, const float *q_norm,
                             const float *k_norm, int B, int T, int H, int hs, int nq, int nk, const int *start,
                             double theta, double eps) {
    agi_rope_args a;
    memset(&a, 0, sizeof a);
    a.x = x, a.y = y, a.rrms = rrms, a.q_norm = q_norm, a.k_norm = k_norm, a.start = start, a.eps = (float)eps;
    a.T = T, a.H = H, a.hs = hs, a.nq = nq, a.nk = nk;
    if (theta > 0 && !(a.turns = agi_turns_for(b, theta, hs, B, T, start))) return -1;
    agi_spread(b, (size_t)B * (size_t)T, 2 * (size_t)H * (size_t)hs, AGI_(qk_rope_part), &a);
    return 0;
}

// The rotation turned back, then RMSNorm's backward over each head. dq_norm and dk_norm in blocks of rows, as above.
AGI_KERNEL void AGI_(qk_rope_back_part)(void *arg, size_t first, size_t last, int thread) {
    const agi_rope_args *a = (const agi_rope_args *)arg;
    size_t hs = (size_t)a->hs, width = (size_t)a->H * hs;
    int turned = a->nq + a->nk;
    (void)thread;
    for (size_t block = first; block < last; block++) {
        float *sums = a->sums + block * 2 * hs;
        memset(sums, 0, 2 * hs * sizeof *sums);
        for (size_t row = block * AGI_ROWS; row < AGI_MIN(a->rows, (block + 1) * AGI_ROWS); row++) {
            size_t t = row % (size_t)a->T, bt = row / (size_t)a->T;
            const float *x = a->x + row * width, *dy = a->dy + row * width, *turn = a->turns;
            float *dx = a->y ? a->y + row * width : NULL;
            if (turn) turn += ((a->start ? (size_t)a->start[bt] : 0) + t) * 2 * hs;
            for (int h = 0; h < turned; h++, x += hs, dy += hs, dx = dx ? dx + hs : NULL) {
                const float *w = h < a->nq ? a->q_norm : a->k_norm;
                float *dw = h < a->nq ? sums : sums + hs, r = w ? a->rrms[row * (size_t)turned + (size_t)h] : 1;
                agi_p dot = p_zero(), pr = p_set(r);
                for (int pass = w ? 0 : 1; pass < 2; pass++) {      // dot = mean(g w h), then dx
                    AGI_ROW(hs) {
                        agi_p g = p_get(dy, 0);
                        if (turn) g = p_fnma(p_swap(g), p_get(turn + hs, 0), p_mul(g, p_get(turn, 0)));
                        if (w) {
                            agi_p hat = p_mul(p_get(x, 0), pr), gw = p_mul(g, p_get(w, 0));
                            if (!pass) {
                                dot = p_fma(gw, hat, dot);
                                p_put(dw, p_fma(g, hat, p_get(dw, 0)));
                            }
                            g = p_mul(pr, p_fnma(hat, dot, gw));
                        }
                        if (pass && dx) p_add_to(dx, g, a->accumulate & 1);
                    }
                    if (!pass) dot = p_set(p_sum(dot) / (float)a->hs);
                }
            }
            size_t n = width - (size_t)turned * hs;
            if (dx) AGI_ROW(n) p_add_to(dx, p_get(dy, 0), a->accumulate & 1);
        }
    }
}

AGI_KERNEL int AGI_(qk_rope_back)(ag_backend *b, float *dx, float *dq_norm, float *dk_norm, const float *x,
                                  const float *q_norm, const float *k_norm, const float *rrms, const float *dy, int B,
                                  int T, int H, int hs, int nq, int nk, const int *start, double theta,
                                  int accumulate) {
    agi_rope_args a;
    memset(&a, 0, sizeof a);
    a.x = x, a.dy = dy, a.y = dx, a.q_norm = q_norm, a.k_norm = k_norm;
    a.T = T, a.H = H, a.hs = hs, a.nq = nq, a.nk = nk;
    a.start = start, a.rrms = (float *)rrms, a.accumulate = accumulate, a.rows = (size_t)B * (size_t)T;
    if (theta > 0 && !(a.turns = agi_turns_for(b, theta, hs, B, T, start))) return -1;
    size_t blocks = (a.rows + AGI_ROWS - 1) / AGI_ROWS, n = 2 * (size_t)hs;
    if (!(a.sums = (float *)agi_shared_scratch(b, 3, (blocks + 1) * n * sizeof *a.sums))) return -1;
    agi_spread(b, blocks, AGI_ROWS * 4 * (size_t)H * (size_t)hs, AGI_(qk_rope_back_part), &a);
    float *total = a.sums + blocks * n;
    AGI_(add_blocks)(total, a.sums, blocks, n, 0);
    if (dq_norm) AGI_(add_blocks)(dq_norm, total, 1, (size_t)hs, accumulate & 2);
    if (dk_norm) AGI_(add_blocks)(dk_norm, total + hs, 1, (size_t)hs, accumulate & 4);
    return 0;
}

// ---- SwiGLU ----
AGI_KERNEL void AGI_(swiglu_part)(void *arg, size_t first, size_t last, int thread) {
    const agi_part *a = (const agi_part *)arg;
    size_t n = a->n;
    (void)thread;
    for (size_t row = first; row < last; row++) {
        const float *gate = a->x[0] + row * 2 * n, *up = gate + n;
        if (a->y[0]) {
            float *y = a->y[0] + row * n;
            AGI_ROW(n) p_put(y, p_mul(p_mul(p_get(gate, 0), p_gate(p_get(gate, 0))), p_get(up, 0)));
        } else {
            const float *dy = a->x[1] + row * n;
            float *dgate = a->y[1] + row * 2 * n, *dup = dgate + n;
            AGI_ROW(n) {
                agi_p g = p_get(gate, 0), d = p_get(dy, 0), s = p_gate(g);
                agi_p slope = p_mul(s, p_fma(g, p_sub(p_set(1), s), p_set(1)));
                p_add_to(dgate, p_mul(p_mul(d, p_get(up, 0)), slope), a->accumulate);
                p_add_to(dup, p_mul(d, p_mul(g, s)), a->accumulate);
            }
        }
    }
}

AGI_KERNEL int AGI_(swiglu)(ag_backend *b, float *y, const float *x, size_t rows, size_t h) {
    agi_part a;
    a.x[0] = x, a.y[0] = y, a.n = h;
    agi_spread(b, rows, 4 * h, AGI_(swiglu_part), &a);
    return 0;
}

AGI_KERNEL int AGI_(swiglu_back)(ag_backend *b, float *dx, const float *x, const float *dy, size_t rows, size_t h,
                                 int accumulate) {
    agi_part a;
    a.x[0] = x, a.x[1] = dy, a.y[0] = NULL, a.y[1] = dx, a.n = h, a.accumulate = accumulate;
    agi_spread(b, rows, 8 * h, AGI_(swiglu_part), &a);
    return 0;
}

// ---- cross entropy ----
AGI_KERNEL void AGI_(nll_part)(void *arg, size_t first, size_t last, int thread) {
    const agi_part *a = (const agi_part *)arg;
    size_t n = a->n;
    (void)thread;
    for (size_t row = first; row < last; row++) {
        const float *x = a->x[0] + row * n;
        float max = AGI_(row_max)(x, n);
        agi_p m = p_set(max), sum = p_zero();
        AGI_ROW(n) sum = p_add(sum, p_exp(p_sub(p_get(x, -INFINITY), m)));
        float log_sum = AGI_(log_of)(p_sum(sum));
        a->y[1][row] = max + log_sum;
        a->y[0][row] = a->ids[row] == AG_IGNORE ? 0 : (max - x[a->ids[row]]) + log_sum;
    }
}

AGI_KERNEL int AGI_(nll)(ag_backend *b, float *nll, float *lse, const float *logits, const int *targets, size_t rows,
                         size_t n) {
    agi_part a;
    a.x[0] = logits, a.y[0] = nll, a.y[1] = lse, a.ids = targets, a.n = n;
    agi_spread(b, rows, 4 * n, AGI_(nll_part), &a);
    return 0;
}

AGI_KERNEL void AGI_(nll_back_part)(void *arg, size_t first, size_t last, int thread) {
    const agi_part *a = (const agi_part *)arg;
    size_t n = a->n;
    (void)thread;
    for (size_t row = first; row < last; row++) {
        const float *x = a->x[0] + row * n;
        float *dx = a->y[0] + row * n, d = a->x[2][row];
        int target = a->ids[row];
        if (target == AG_IGNORE) {
            if (!a->accumulate) memset(dx, 0, n * sizeof *dx);
            continue;
        }
        float here = a->accumulate ? dx[target] : 0;
        agi_p lse = p_set(a->x[1][row]), pd = p_set(d);
        AGI_ROW(n) p_add_to(dx, p_mul(pd, p_exp(p_sub(p_get(x, 0), lse))), a->accumulate);
        float one[16];
        p_store(one, p_mul(pd, p_sub(p_exp(p_sub(p_set(x[target]), lse)), p_set(1))));
        dx[target] = here + one[0];
    }
}

AGI_KERNEL int AGI_(nll_back)(ag_backend *b, float *dlogits, const float *logits, const float *lse, const int *targets,
                              const float *dnll, size_t rows, size_t n, int accumulate) {
    agi_part a;
    a.x[0] = logits, a.x[1] = lse, a.x[2] = dnll, a.y[0] = dlogits, a.ids = targets, a.n = n, a.accumulate = accumulate;
    agi_spread(b, rows, 4 * n, AGI_(nll_back_part), &a);
    return 0;
}

// ---- optimizers ----
// Squares in float within a block, in double across blocks; a block whose squares leave the range of float is summed
// again in double, so that a large gradient is not taken for an infinite one.
AGI_KERNEL void AGI_(squares_part)(void *arg, size_t first, size_t last, int thread) {
    const agi_part *a = (const agi_part *)arg;
    (void)thread;
    for (size_t block = first; block < last; block++) {
        size_t at = block * AGI_CHUNK, n = AGI_MIN(a->n - at, AGI_CHUNK);
        const float *x = a->x[0] + at;
        agi_p sum = p_zero();
        AGI_ROW(n) sum = p_fma(p_get(x, 0), p_get(x, 0), sum);
        double s = p_sum(sum);
        if (!(s > 1e-25 && s <= FLT_MAX)) {
            s = 0;
            for (size_t i = 0; i < n; i++) s += (double)x[i] * x[i];
        }
        ((double *)a->other)[block] = s;
    }
}

AGI_KERNEL int AGI_(sum_squares)(ag_backend *b, double *out, const float *const *x, const size_t *n, int count) {
    for (int t = 0; t < count; t++) {
        agi_part a;
        size_t blocks = agi_chunks(n[t]);
        double *sums = (double *)agi_shared_scratch(b, 3, blocks * sizeof *sums);
        if (!sums) return -1;
        a.x[0] = x[t], a.n = n[t], a.other = sums, out[t] = 0;
        agi_spread(b, blocks, AGI_CHUNK, AGI_(squares_part), &a);
        for (size_t i = 0; i < blocks; i++) out[t] += sums[i];
    }
    return 0;
}

// w -= lr (d + decay w), where d = g, or the momentum m = momentum m + g
AGI_KERNEL void AGI_(sgd_part)(void *arg, size_t first, size_t last, int thread) {
    const agi_part *a = (const agi_part *)arg;
    size_t at = first * AGI_CHUNK, n = AGI_MIN(last * AGI_CHUNK, a->n) - at;
    const float *g = a->x[0] + at;
    float *w = a->y[0] + at, *m = a->y[1] ? a->y[1] + at : NULL;
    agi_p lr = p_set(a->f[0]), momentum = p_set(a->f[1]), decay = p_set(a->f[2]), scale = p_set(a->f[3]);
    (void)thread;
    AGI_ROW(n) {
        agi_p d = p_mul(p_get(g, 0), scale), v = p_get(w, 0);
        if (m) {
            d = p_fma(momentum, p_get(m, 0), d);
            p_put(m, d);
        }
        p_put(w, p_fnma(lr, p_fma(decay, v, d), v));
    }
}

AGI_KERNEL int AGI_(sgd)(ag_backend *b, float *w, const float *g, float *m, size_t n, double lr, double momentum,
                         double weight_decay, double grad_scale) {
    agi_part a;
    a.x[0] = g, a.y[0] = w, a.y[1] = m, a.n = n;
    a.f[0] = (float)lr, a.f[1] = (float)momentum, a.f[2] = (float)weight_decay, a.f[3] = (float)grad_scale;
    agi_spread(b, agi_chunks(n), AGI_CHUNK, AGI_(sgd_part), &a);
    return 0;
}

// In this order, each line rounded as written (fma: once):
//     d = g scale;  m = fma(b1, m, (1-b1) d), 0 where |m| < FLT_MIN;  v = fma(b2, v, ((1-b2) d) d)
//     w = fma(-lr decay, w, w);  w = fma(-lr/(1-b1^t), m / (sqrt(v (1/(1-b2^t))) + eps), w)
AGI_KERNEL void AGI_(adamw_part)(void *arg, size_t first, size_t last, int thread) {
    const agi_part *a = (const agi_part *)arg;
    size_t at = first * AGI_CHUNK, n = AGI_MIN(last * AGI_CHUNK, a->n) - at;
    const float *g = a->x[0] + at;
    float *w = a->y[0] + at, *pm = a->y[1] + at, *pv = a->y[2] + at;
    agi_p scale = p_set(a->f[0]), b1 = p_set(a->f[1]), r1 = p_set(a->f[2]), b2 = p_set(a->f[3]), r2 = p_set(a->f[4]);
    agi_p lr = p_set(a->f[5]), grow = p_set(a->f[6]), eps = p_set(a->f[7]), decay = p_set(a->f[8]);
    agi_p least = p_set(FLT_MIN);
    (void)thread;
    AGI_ROW(n) {
        agi_p d = p_mul(p_get(g, 0), scale), m = p_fma(b1, p_get(pm, 0), p_mul(r1, d)), x = p_get(w, 0);
        m = p_select_gt(least, p_abs(m), p_zero(), m);
        agi_p v = p_fma(b2, p_get(pv, 0), p_mul(p_mul(r2, d), d));
        p_put(pm, m), p_put(pv, v);
        agi_p step = p_div(m, p_add(p_sqrt(p_mul(v, grow)), eps));
        p_put(w, p_fnma(lr, step, p_fnma(decay, x, x)));
    }
}

AGI_KERNEL int AGI_(adamw)(ag_backend *b, float *w, const float *g, float *m, float *v, size_t n, double lr,
                           double beta1, double beta2, double eps, double weight_decay, long step, double grad_scale) {
    agi_part a;
    a.x[0] = g, a.y[0] = w, a.y[1] = m, a.y[2] = v, a.n = n;
    a.f[0] = (float)grad_scale, a.f[1] = (float)beta1, a.f[2] = (float)(1 - beta1), a.f[3] = (float)beta2;
    a.f[4] = (float)(1 - beta2), a.f[5] = (float)(lr / (1 - agi_power(beta1, step)));
    a.f[6] = (float)(1 / (1 - agi_power(beta2, step))), a.f[7] = (float)eps, a.f[8] = (float)(lr * weight_decay);
    agi_spread(b, agi_chunks(n), AGI_CHUNK * 2, AGI_(adamw_part), &a);
    return 0;
}
// ---- matrix products -----------------------------------------------------------------------------------------------
// Nearly all the time of a language model goes into C = A B. The naive triple loop reaches one or two percent of what a
// core can do; what follows reaches most of it. Four ideas do the work (Goto & van de Geijn 2008, "Anatomy of
// High-Performance Matrix Multiplication"; Van Zee & van de Geijn 2015, "BLIS"):
//
// 1. Registers. A core starts one or two fused multiply-adds a cycle, each on a whole register, and each takes four
//    cycles to finish. So eight or more sums have to be under way at once, and they have to stay in registers. We
//    compute a tile of C, AGI_MR rows times AGI_NR columns: for each k, one row of NR values of B, and MR single values
//    of A, each repeated over a register. MR + NR/16 loads feed MR*NR/16 multiply-adds: arithmetic is the limit, not
//    memory. 12 x 32 fills 24 of AVX-512's 32 registers with sums; AVX2 has 16 smaller registers, 6 x 16 fills 12.
// 2. Packing. The tile kernel walks down a panel of B, NR columns wide. In memory those rows are far apart: each is a
//    new cache line, often a new page. So B is copied once into panels in which the next row comes right after. A copy
//    costs O(KN), the product O(MNK): it pays as soon as there are many rows. Where B is stored transposed, the copy
//    turns it round, so that the kernel never knows. A is read in place: a tile uses every byte of the lines it reads.
//    So is B while it is small enough to lie in the second-level cache, or read too rarely to be worth a copy. The copy
//    of a parameter is kept for the next product with the same numbers, see agi_kept.
// 3. Blocking. AGI_KC values of k at a time, so that a tile's rows of A stay in the first-level cache and a block of
//    panels of B in the second, where all the row tiles of a task find it.
// 4. Threads. C is cut into rectangles; nobody shares an element.
//
// The chain. Floating-point addition is not associative, so a sum's bits depend on its order, and a library that picks
// its order by shape gives a row other bits in a batch than alone. Here each element of C is one chain, c = fma(a_k,
// b_k, c) for k = 0, 1, 2 ..., whatever the tile, the block, the thread or the width of the registers: lanes are
// different columns, never different k. Blocks of k continue the chain through C in memory, which loses nothing, since
// C is a float anyway. So a token's logits come out of the cache equal to those of the full pass, to the last bit, and
// PPO's first ratio is 1. The price: no tree of partial sums, so the error may grow like K times 6e-8 instead of log K
// times that, as in any plain loop.

#if AGI_PASS == AGI_AVX512
#define AGI_MR 12
#define AGI_NP 2            // packs side by side in a panel
#elif AGI_PASS == AGI_PORTABLE
#define AGI_MR 3            // sixteen registers of four floats: no room for more
#define AGI_NP 1
#else
#define AGI_MR 6
#define AGI_NP 1
#endif
#define AGI_NR (16 * AGI_NP)
#if AGI_PASS == AGI_AVX512
#define AGI_KC 384          // values of k in a block
#define AGI_NC 384          // columns of B in a block: KC * NC floats are about half of a second-level cache
#else
#define AGI_KC 256
#define AGI_NC 512
#endif
#define AGI_SKINNY 4        // products of at most so many rows are not blocked
#define AGI_SKINNY_CUT 1    // their tasks for each thread
#define AGI_SLIM_B 32768    // floats of a task's B that a second-level cache holds from one token to the next
#define AGI_SMALL_JOB 65536      // multiply-adds that are over before another thread could start
#if AGI_PASS == AGI_AVX512
#define AGI_AMX 1
#define AGI_EDGE (32 * 32)                                      // a tile that sticks out over the edge of C
#define AGI_WORK ((size_t)AGI_EDGE + AGI_NR + 64 * (AGI_KC + 16))   // floats that AGI_(block) needs as working space
#else
#define AGI_AMX 0
#define AGI_EDGE (AGI_MR * AGI_NR)
#define AGI_WORK ((size_t)AGI_EDGE + AGI_NR + 16 * (AGI_KC + 16))
#endif
#define AGI_ALONE 128       // a thread packs so many columns of bfloat16 for itself
#define AGI_PRIVATE (AGI_WORK + (AGI_ALONE + 32) * AGI_KC)     // the same, these columns, and what packing needs

// A row tile has MR rows, or two thirds, or one third of that, so that the last rows of C waste little.
#if AGI_MR == 12
#define AGI_TILE_ROWS(X) X(0, 0, 0) X(1, 0, 1) X(2, 0, 2) X(3, 0, 3) X(4, 1, 0) X(5, 1, 1) X(6, 1, 2) X(7, 1, 3) \
    X(8, 2, 0) X(9, 2, 1) X(10, 2, 2) X(11, 2, 3)
#elif AGI_MR == 6
#define AGI_TILE_ROWS(X) X(0, 0, 0) X(1, 0, 1) X(2, 0, 2) X(3, 0, 3) X(4, 1, 0) X(5, 1, 1)
#else
#define AGI_TILE_ROWS(X) X(0, 0, 0) X(1, 0, 1) X(2, 0, 2)
#endif

// The compiler would like to keep one pointer for each row of A, and then runs out of registers. It shall not know that
// these three pointers belong together: from each it reaches four rows by adding 0, 1, 2 or 3 strides.
#if AGI_GNU
#define AGI_HIDE(pointer) __asm__("" : "+r"(pointer))
#define AGI_FETCH(pointer) __builtin_prefetch(pointer, 0, 2)
#else
#define AGI_HIDE(pointer) ((void)0)
#define AGI_FETCH(pointer) ((void)(pointer))
#endif

// gcc for ARM loads the values of all rows first, which takes six more registers than there are: one row at a time.
#if AGI_PASS == AGI_NEON
#define AGI_ROW_DONE __asm__ volatile("" : : : "memory")
#else
#define AGI_ROW_DONE ((void)0)
#endif

// bfloat16. Two of them, of neighbouring k, the even one in the lower half, are 32 bits: a pair takes the place of a
// float, and all that is said above about loading, packing and blocking stays as it is; K just counts pairs. Only the
// multiply-add is another one: c + a.odd * b.odd, rounded, + a.even * b.even, rounded (each product of two bfloat16 is
// exact in a float). VDPBF16PS does that in one instruction, twice the work of a multiply-add; other processors take
// two multiply-adds and some shifting. The same chain, hence the same bits, but for numbers below 1e-38, which
// VDPBF16PS takes for 0. (An instruction by name and not an intrinsic: that would ask for a target of its own.)
#if AGI_PASS == AGI_AVX512
AGI_WORD agi_p p_dot(agi_p a, agi_p b, agi_p c) {
    __asm__("vdpbf16ps %2, %1, %0" : "+v"(c.r[0]) : "v"(a.r[0]), "v"(b.r[0]));
    return c;
}
#else
#if AGI_PASS == AGI_AVX2
#define r_odd(a) _mm256_and_ps(a, _mm256_castsi256_ps(_mm256_set1_epi32(-0x10000)))
#define r_even(a) _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(a), 16))
#else
#define r_odd(a) r_float(r_bits(a) & r_word(0xffff0000))
#define r_even(a) r_float(r_bits(a) << 16)
#endif
AGI_WORD agi_p p_dot(agi_p a, agi_p b, agi_p c) {
    AGI_EACH(c.r[i] = r_fma(r_odd(a.r[i]), r_odd(b.r[i]), c.r[i]);)
    AGI_EACH(c.r[i] = r_fma(r_even(a.r[i]), r_even(b.r[i]), c.r[i]);)
    return c;
}
#undef r_odd
#undef r_even
#endif

// One tile. a: element (row, k) at a[row*rs + k*ks], so A may be transposed; b: row k at b + k*bs; c: row r at c +
// r*cs. The sums start from c or from 0. R rows, P packs and whether these are pairs are constants wherever this is
// called: tests on them cost nothing, and x0, y0, x1 ... become registers. (Of an array gcc would make memory.)
AGI_WORD void AGI_(tile)(const int R, const int P, const int pairs, int K, const float *a, size_t rs, size_t ks,
                         const float *b, size_t bs, float *c, size_t cs, int from_c, const float *bias) {
    const float *a0 = a, *a1 = R > 4 ? a + 4 * rs : a, *a2 = R > 8 ? a + 8 * rs : a;
    float *c0 = c, *c1 = R > 4 ? c + 4 * cs : c, *c2 = R > 8 ? c + 8 * cs : c;
    AGI_HIDE(a1);
    AGI_HIDE(a2);
    AGI_HIDE(c1);
    AGI_HIDE(c2);
#define X(r, g, o) agi_p x##r = p_zero(), y##r = x##r; (void)y##r;
    AGI_TILE_ROWS(X)
#undef X
    if (from_c) {
#define X(r, g, o) if (r < R) { x##r = p_load(c##g + o * cs); if (P > 1) y##r = p_load(c##g + o * cs + 16); }
        AGI_TILE_ROWS(X)
#undef X
    }
    for (int k = 0; k < K; k++) {
        const agi_p b0 = p_load(b), b1 = P > 1 ? p_load(b + 16) : b0;
        (void)b1;
#define X(r, g, o) if (r < R) { \
        const agi_p s = p_set(a##g[o * rs]); \
        x##r = pairs ? p_dot(s, b0, x##r) : p_fma(s, b0, x##r); \
        if (P > 1) y##r = pairs ? p_dot(s, b1, y##r) : p_fma(s, b1, y##r); \
        AGI_ROW_DONE; \
    }
        AGI_TILE_ROWS(X)
#undef X
        a0 += ks, b += bs;
        if (R > 4) a1 += ks;
        if (R > 8) a2 += ks;
    }
    if (bias) {
        const agi_p b0 = p_load(bias), b1 = P > 1 ? p_load(bias + 16) : b0;
        (void)b1;
#define X(r, g, o) if (r < R) { x##r = p_add(x##r, b0); if (P > 1) y##r = p_add(y##r, b1); }
        AGI_TILE_ROWS(X)
#undef X
    }
#define X(r, g, o) if (r < R) { p_store(c##g + o * cs, x##r); if (P > 1) p_store(c##g + o * cs + 16, y##r); }
    AGI_TILE_ROWS(X)
#undef X
    (void)a1, (void)a2, (void)c1, (void)c2;
}

#define AGI_TILE(name, R, P, pairs) \
AGI_KERNEL void AGI_(name)(int K, const float *a, size_t rs, size_t ks, const float *b, size_t bs, float *c, \
                           size_t cs, int from_c, const float *bias) { \
    AGI_(tile)(R, P, pairs, K, a, rs, ks, b, bs, c, cs, from_c, bias); \
}
#define AGI_TILES(kind, P, pairs) \
    AGI_TILE(large##kind, AGI_MR, P, pairs) \
    AGI_TILE(medium##kind, AGI_MR / 3 * 2, P, pairs) \
    AGI_TILE(small##kind, AGI_MR / 3, P, pairs)
AGI_TILES(_wide, AGI_NP, 0)
AGI_TILES(_wide_bf16, AGI_NP, 1)
#if AGI_NP == 2
AGI_TILES(_narrow, 1, 0)
AGI_TILES(_narrow_bf16, 1, 1)
#endif
typedef void (*AGI_(tile_function))(int, const float *, size_t, size_t, const float *, size_t, float *, size_t, int,
                                    const float *);
#if AGI_AMX
// AMX multiplies 16 rows of 16 pairs of A with 16 rows, pairs of k, of 16 columns of B: the panels as they are packed.
// Here two row tiles times two column tiles: of the eight registers, four are sums. Each instruction adds to c what a
// sum over its 32 k's gives, even and odd ones apart and added at the end: another chain, hence other bits, but again
// the same ones for any M, N, batch and number of threads. a is row-major, and K a multiple of 16: filled up with
// zeros.
AGI_WORD void AGI_(amx_tile)(const int R, const int P, int K, const float *a, size_t rs, const float *b, size_t bs,
                             float *c, size_t cs, int from_c, const float *bias) {
    const size_t a_stride = 4 * rs, b_stride = 4 * bs, c_stride = 4 * cs;
    AGI_AMX_ZERO(0);
    if (P > 1) AGI_AMX_ZERO(1);
    if (R > 16) AGI_AMX_ZERO(2);
    if (R > 16 && P > 1) AGI_AMX_ZERO(3);
    if (from_c) {
        AGI_AMX_LOAD(0, c, c_stride);
        if (P > 1) AGI_AMX_LOAD(1, c + 16, c_stride);
        if (R > 16) AGI_AMX_LOAD(2, c + 16 * cs, c_stride);
        if (R > 16 && P > 1) AGI_AMX_LOAD(3, c + 16 * cs + 16, c_stride);
    }
    for (int k = 0; k < K; k += 16, a += 16, b += 16 * bs) {
        AGI_AMX_LOAD(4, a, a_stride);
        AGI_AMX_LOAD(6, b, b_stride);
        AGI_AMX_DOT(0, 4, 6);
        if (P > 1) {
            AGI_AMX_LOAD(7, b + 16, b_stride);
            AGI_AMX_DOT(1, 4, 7);
        }
        if (R > 16) {
            AGI_AMX_LOAD(5, a + 16 * rs, a_stride);
            AGI_AMX_DOT(2, 5, 6);
        }
        if (R > 16 && P > 1) AGI_AMX_DOT(3, 5, 7);
    }
    AGI_AMX_STORE(0, c, c_stride);
    if (P > 1) AGI_AMX_STORE(1, c + 16, c_stride);
    if (R > 16) AGI_AMX_STORE(2, c + 16 * cs, c_stride);
    if (R > 16 && P > 1) AGI_AMX_STORE(3, c + 16 * cs + 16, c_stride);
    for (int r = 0; r < R && bias; r++) for (int j = 0; j < 16 * P; j += 16)
        p_store(c + r * cs + j, p_add(p_load(c + r * cs + j), p_load(bias + j)));
}

#define AGI_AMX_TILE(name, R, P) \
AGI_KERNEL void AGI_(name)(int K, const float *a, size_t rs, size_t ks, const float *b, size_t bs, float *c, \
                           size_t cs, int from_c, const float *bias) { \
    AGI_(amx_tile)(R, P, K, a, rs, b, bs, c, cs, from_c, bias); \
    (void)ks; \
}
AGI_AMX_TILE(amx_small_narrow, 16, 1)
AGI_AMX_TILE(amx_large_narrow, 32, 1)
AGI_AMX_TILE(amx_small_wide, 16, 2)
AGI_AMX_TILE(amx_large_wide, 32, 2)
#endif

#define AGI_THREE(kind) { AGI_(small##kind), AGI_(medium##kind), AGI_(large##kind) }
// What the numbers are: floats; pairs of bfloat16; such pairs for AMX.
enum { AGI_(floats), AGI_(pairs), AGI_(amx) };
// by what they are, packs (1 and, if there is room, 2), thirds of AGI_MR (AMX: halves of 32 rows)
static const AGI_(tile_function) AGI_(tiles)[2 + AGI_AMX][AGI_NP][3] = {
#if AGI_NP == 2
    { AGI_THREE(_narrow), AGI_THREE(_wide) }, { AGI_THREE(_narrow_bf16), AGI_THREE(_wide_bf16) },
    { { AGI_(amx_small_narrow), AGI_(amx_large_narrow), NULL }, { AGI_(amx_small_wide), AGI_(amx_large_wide), NULL } }
#else
    { AGI_THREE(_wide) }, { AGI_THREE(_wide_bf16) }
#endif
};

// A tile's rows of A, copied into working space: fewer than R valid rows are filled up with zeros. Returns the new a.
AGI_KERNEL const float *AGI_(copy_rows)(int R, int m, int K, const float *a, size_t *rs, size_t *ks, float *work) {
    if (*ks == 1) {
        for (int r = 0; r < R; r++) {
            float *to = work + r * (AGI_KC + 16);
            if (r < m) memcpy(to, a + r * *rs, (size_t)K * sizeof(float));
            else memset(to, 0, (size_t)K * sizeof(float));
        }
        *rs = AGI_KC + 16;
    } else {
        for (int k = 0; k < K; k++) p_store(work + 16 * k, p_load_n(a + (size_t)k * *ks, m, 0));
        *rs = 1, *ks = 16;
    }
    return work;
}

#if AGI_PASS == AGI_AVX512
AGI_WORD agi_p AGI_(to_bf16)(agi_p low, agi_p high) {       // 32 of them: first those of low, then those of high
    __asm__("vcvtne2ps2bf16 %2, %1, %0" : "=v"(low.r[0]) : "v"(high.r[0]), "v"(low.r[0]));
    return low;
}
#else
static inline float AGI_(pair)(float even, float odd) {
    const uint32_t u = agi_bf16_bits(odd) << 16 | agi_bf16_bits(even);
    float f;
    memcpy(&f, &u, 4);
    return f;
}
#endif

// to[i] = the pair of from[2i] and from[2i+1], for K floats; an odd last one goes with 0.
AGI_KERNEL void AGI_(pairs_along)(float *to, const float *from, int K) {
    int i = 0;
#if AGI_PASS == AGI_AVX512
    for (; 2 * i + 32 <= K; i += 16) p_store(to + i, AGI_(to_bf16)(p_load(from + 2 * i), p_load(from + 2 * i + 16)));
    if (2 * i < K) {
        const int n = K - 2 * i;
        const agi_p low = p_load_n(from + 2 * i, AGI_MIN(n, 16), 0);
        p_store_n(to + i, AGI_(to_bf16)(low, n > 16 ? p_load_n(from + 2 * i + 16, n - 16, 0) : p_zero()), (n + 1) / 2);
    }
#else
    for (; 2 * i + 1 < K; i++) to[i] = AGI_(pair)(from[2 * i], from[2 * i + 1]);
    if (2 * i < K) to[i] = AGI_(pair)(from[2 * i], 0);
#endif
}

// to[j] = the pair of even[j] and odd[j] for n of 16 columns, and zeros; odd is NULL behind an odd last row.
AGI_WORD void AGI_(pairs_across)(float *to, const float *even, const float *odd, int n) {
#if AGI_PASS == AGI_AVX512
    static const uint16_t mixed[32] = { 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23,
                                        8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31 };
    agi_p pairs = AGI_(to_bf16)(p_load_n(even, n, 0), odd ? p_load_n(odd, n, 0) : p_zero());
    pairs.r[0] = _mm512_castsi512_ps(_mm512_permutexvar_epi16(_mm512_loadu_si512((const void *)mixed),
                                                              _mm512_castps_si512(pairs.r[0])));
    p_store(to, pairs);
#else
    for (int j = 0; j < 16; j++) to[j] = j < n ? AGI_(pair)(even[j], odd ? odd[j] : 0) : 0;
#endif
}

// copy_rows for pairs: K counts floats.
AGI_KERNEL const float *AGI_(pair_rows)(int R, int m, int K, const float *a, size_t *rs, size_t *ks, float *work) {
    if (*ks == 1) {
        for (int r = 0; r < R; r++) {
            float *to = work + r * (AGI_KC + 16);
            if (r < m) AGI_(pairs_along)(to, a + r * *rs, K);
            else memset(to, 0, (size_t)((K + 1) / 2) * sizeof(float));
        }
        *rs = AGI_KC + 16;
    } else {
        for (int k = 0; k < K; k += 2)
            AGI_(pairs_across)(work + 8 * k, a + (size_t)k * *ks, k + 1 < K ? a + (size_t)(k + 1) * *ks : NULL, m);
        *rs = 1, *ks = 16;
    }
    return work;
}

// to[j*ts + i] = from[i*fs + j], 8 x 8: through registers, where a plain loop would touch eight lines for each store.
AGI_WORD void AGI_(transpose8)(float *to, size_t ts, const float *from, size_t fs) {
#if AGI_PASS == AGI_AVX512 || AGI_PASS == AGI_AVX2
    for (int half = 0; half < 8; half += 4, from += 4, to += 4 * ts) {
#define X(i) const __m256 r##i = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(from + i * fs)), \
                                                      _mm_loadu_ps(from + (i + 4) * fs), 1);
        X(0) X(1) X(2) X(3)
#undef X
        const __m256 t0 = _mm256_unpacklo_ps(r0, r1), t1 = _mm256_unpackhi_ps(r0, r1);
        const __m256 t2 = _mm256_unpacklo_ps(r2, r3), t3 = _mm256_unpackhi_ps(r2, r3);
        _mm256_storeu_ps(to, _mm256_shuffle_ps(t0, t2, 0x44));
        _mm256_storeu_ps(to + ts, _mm256_shuffle_ps(t0, t2, 0xee));
        _mm256_storeu_ps(to + 2 * ts, _mm256_shuffle_ps(t1, t3, 0x44));
        _mm256_storeu_ps(to + 3 * ts, _mm256_shuffle_ps(t1, t3, 0xee));
    }
#elif AGI_PASS == AGI_NEON
    for (int i = 0; i < 8; i += 4) for (int j = 0; j < 8; j += 4) {
        const float *f = from + i * fs + j;
        float *t = to + j * ts + i;
        const float32x4x2_t p = vtrnq_f32(vld1q_f32(f), vld1q_f32(f + fs));
        const float32x4x2_t q = vtrnq_f32(vld1q_f32(f + 2 * fs), vld1q_f32(f + 3 * fs));
        vst1q_f32(t, vcombine_f32(vget_low_f32(p.val[0]), vget_low_f32(q.val[0])));
        vst1q_f32(t + ts, vcombine_f32(vget_low_f32(p.val[1]), vget_low_f32(q.val[1])));
        vst1q_f32(t + 2 * ts, vcombine_f32(vget_high_f32(p.val[0]), vget_high_f32(q.val[0])));
        vst1q_f32(t + 3 * ts, vcombine_f32(vget_high_f32(p.val[1]), vget_high_f32(q.val[1])));
    }
#else
    for (int j = 0; j < 8; j++) for (int i = 0; i < 8; i++) to[j * ts + i] = from[i * fs + j];
#endif
}

// to (K, width) = from (n, K) transposed, both row-major, columns n.. of to filled with zeros. width is a multiple of
// 8. With more, the next K columns of from will be wanted soon, and are fetched meanwhile: the rows are far apart, and
// no hardware guesses sixty-four of them at once.
AGI_KERNEL void AGI_(pack_transposed)(float *to, int width, const float *from, size_t fs, int n, int K, int more) {
    for (int j = 0; j < width; j += 8) {
        int k = 0;
        if (j + 8 <= n) for (; k + 8 <= K; k += 8) {
            if (more && !(k & 8)) for (int i = j; i < j + 8; i++) AGI_FETCH(from + i * fs + k + K);
            AGI_(transpose8)(to + (size_t)k * width + j, (size_t)width, from + j * fs + k, fs);
        }
        for (; k < K; k++)
            for (int i = j; i < j + 8; i++) to[(size_t)k * width + i] = i < n ? from[i * fs + k] : 0;
    }
}

#define AGI_UP16(n) (((n) + 15) & ~15)
#if AGI_AMX
// The same for AMX: always by rows, and K filled up to a multiple of 16 pairs. A transposed A is turned round.
AGI_KERNEL const float *AGI_(amx_rows)(int R, int m, int K, const float *a, size_t *rs, size_t *ks, float *work) {
    const int pairs = (K + 1) / 2, width = AGI_UP16(pairs);
    if (*ks == 1) {
        for (int r = 0; r < R; r++) {
            const int n = r < m ? pairs : 0;
            if (n) AGI_(pairs_along)(work + r * width, a + r * *rs, K);
            memset(work + r * width + n, 0, (size_t)(width - n) * sizeof(float));
        }
    } else {
        float *turned = work + 32 * (AGI_KC + 16);
        for (int k = 0; k < K; k += 2) for (int r = 0; r < R; r += 16)
            AGI_(pairs_across)(turned + k / 2 * 32 + r, a + (size_t)k * *ks + r,
                               k + 1 < K ? a + (size_t)(k + 1) * *ks + r : NULL, AGI_MIN(AGI_MAX(m - r, 0), 16));
        AGI_(pack_transposed)(work, width, turned, 32, pairs, R, 0);
    }
    *rs = (size_t)width, *ks = 1;
    return work;
}
#endif

// Part i of n of the next row tile, m rows of K floats, is asked for while this one is computed: the rows are too far
// apart for the hardware to guess.
AGI_WORD void AGI_(fetch_rows)(const float *a, int m, int K, size_t rs, int i, int n) {
    const int from = AGI_UP16((int)((long long)K * i / n)), to = (int)((long long)K * (i + 1) / n);
    for (int k = from; k < to; k += 16) for (int r = 0; r < m; r++) AGI_FETCH(a + r * rs + k);
}

// C (M x N) = A B, or += with from_c, tile after tile on one thread; K is at most AGI_KC. Panel p of B begins at
// B + p*panel, its row k at k*bs after that, and the last one is readable up to the next multiple of 16 columns.
// One of rs and ks is 1. With pairs B is packed as such, A is not, and K is at most twice as much.
AGI_KERNEL void AGI_(block)(int kind, int M, int N, int K, const float *A, size_t rs, size_t ks, const float *B,
                            size_t bs, size_t panel, float *C, size_t cs, int from_c, const float *bias, float *work) {
    float *edge = work, *edge_bias = work + AGI_EDGE;
    const int amx = kind == AGI_(amx), mr = amx ? 32 : AGI_MR, part = amx ? 16 : AGI_MR / 3;
    const int steps = amx ? AGI_UP16((K + 1) / 2) : kind ? (K + 1) / 2 : K;
#if AGI_AMX
    // palette 1; eight tiles of 64 bytes a row, 16 rows
    static const uint8_t config[64] = { 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                                        64, 0, 64, 0, 64, 0, 64, 0, 64, 0, 64, 0, 64, 0, 64, 0,
                                        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                                        16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0 };
    if (amx) AGI_AMX_CONFIGURE(&config);
#endif
    for (int i = 0, m; i < M; i += m) {
        m = AGI_MIN(M - i, mr);
        const int parts = (m + part - 1) / part, R = parts * part;
        // A is copied when rows are missing, when a transposed one is read often, and when its rows are a multiple of
        // 4096 bytes apart: then all of them fall into the same few lines of the first-level cache and evict each
        // other.
        const float *a = A + i * rs;
        size_t ars = rs, aks = ks;
#if AGI_AMX
        if (amx) a = AGI_(amx_rows)(R, m, K, a, &ars, &aks, work + AGI_EDGE + AGI_NR);
        else
#endif
        if (kind) a = AGI_(pair_rows)(R, m, K, a, &ars, &aks, work + AGI_EDGE + AGI_NR);
        else if (m < R || (ks != 1 && N > 2 * AGI_NR) || (ks == 1 && rs % 1024 == 0 && N > AGI_NR))
            a = AGI_(copy_rows)(R, m, K, a, &ars, &aks, work + AGI_EDGE + AGI_NR);
        const float *b = B;
        for (int j = 0; j < N; j += AGI_NR, b += panel) {
            const int n = N - j < AGI_NR ? N - j : AGI_NR, P = (n + 15) / 16;
            float *c = C + i * cs + j;
            if (ks == 1 && i + m < M)
                AGI_(fetch_rows)(A + (i + m) * rs, AGI_MIN(M - i - m, mr), K, rs, j / AGI_NR,
                                 (N + AGI_NR - 1) / AGI_NR);
            const AGI_(tile_function) tile = AGI_(tiles)[kind][P - 1][parts - 1];
            if (m == R && n == 16 * P) {
                tile(steps, a, ars, aks, b, bs, c, cs, from_c, bias ? bias + j : NULL);
                continue;
            }
            // The tile sticks out over the edge of C: it is computed on the side, and its valid part copied.
            for (int r = 0; r < m && from_c; r++)
                for (int p = 0; p < P; p++)
                    p_store(edge + r * AGI_NR + 16 * p, p_load_n(c + r * cs + 16 * p, AGI_MIN(n - 16 * p, 16), 0));
            for (int p = 0; p < P && bias; p++)
                p_store(edge_bias + 16 * p, p_load_n(bias + j + 16 * p, AGI_MIN(n - 16 * p, 16), 0));
            tile(steps, a, ars, aks, b, bs, edge, AGI_NR, from_c, bias ? edge_bias : NULL);
            for (int r = 0; r < m; r++)
                for (int p = 0; p < P; p++)
                    p_store_n(c + r * cs + 16 * p, p_load(edge + r * AGI_NR + 16 * p), AGI_MIN(n - 16 * p, 16));
        }
    }
#if AGI_AMX
    if (amx) AGI_AMX_RELEASE();
#endif
}

// to (K, width) = the first n columns of from (K, ...), the rest filled with zeros. width is a multiple of 16.
AGI_KERNEL void AGI_(pack_plain)(float *to, int width, const float *from, size_t fs, int n, int K) {
    for (int k = 0; k < K; k++, to += width, from += fs)
        for (int j = 0; j < width; j += 16)
            p_store(to + j, n - j >= 16 ? p_load(from + j) : p_load_n(from + j, AGI_MAX(n - j, 0), 0));
}

// The same two for pairs: K counts floats, to is ((K + 1) / 2, width). In the first, rows become pairs and these are
// then turned round; work holds 32 rows of AGI_KC pairs.
AGI_KERNEL void AGI_(pack_pairs_transposed)(float *to, int width, const float *from, size_t fs, int n, int K,
                                            float *work) {
    for (int j = 0; j < n; j++) AGI_(pairs_along)(work + j * AGI_KC, from + j * fs, K);
    AGI_(pack_transposed)(to, width, work, AGI_KC, n, (K + 1) / 2, 0);
}

AGI_KERNEL void AGI_(pack_pairs)(float *to, int width, const float *from, size_t fs, int n, int K) {
    for (int k = 0; k < K; k += 2, to += width, from += 2 * fs)
        for (int j = 0; j < width; j += 16)
            AGI_(pairs_across)(to + j, from + j, k + 1 < K ? from + fs + j : NULL, AGI_MAX(AGI_MIN(n - j, 16), 0));
}

// M rows of A times P packs of columns of B (both constants, M * P at most 8), the last pack with only `last` columns
// (whole: with all 16, as a constant). C stays in registers from the first k to the last. Eight chains hide the latency
// of a multiply-add; the smaller tiles are for what is left over.
AGI_WORD void AGI_(slim_tile)(const int M, const int P, const int whole, int K, const float *a, size_t rs, size_t ks,
                              const float *b, size_t bs, float *c, size_t cs, int last, int from_c,
                              const float *bias) {
    agi_p s[8], x[8];
#define AGI_EIGHT X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#define AGI_LAST(i) (!whole && i % P == P - 1)
#define AGI_READ(i, from) (AGI_LAST(i) ? p_load_n((from) + 16 * (i % P), last, 0) : p_load((from) + 16 * (i % P)))
#define X(i) if (i < M * P) s[i] = from_c ? AGI_READ(i, c + i / P * cs) : p_zero();
    AGI_EIGHT
#undef X
    for (int k = 0; k < K; k++, a += ks, b += bs) {
#define X(i) if (i < P) x[i] = AGI_READ(i, b);
        AGI_EIGHT
#undef X
#define X(i) if (i < M * P) s[i] = p_fma(p_set(a[i / P * rs]), x[i % P], s[i]);
        AGI_EIGHT
#undef X
    }
#define X(i) if (i < M * P && bias) s[i] = p_add(s[i], AGI_READ(i, bias));
    AGI_EIGHT
#undef X
#define X(i) if (i < M * P && !AGI_LAST(i)) p_store(c + i / P * cs + 16 * (i % P), s[i]); \
    else if (i < M * P) p_store_n(c + i / P * cs + 16 * (i % P), s[i], last);
    AGI_EIGHT
#undef X
#undef AGI_READ
#undef AGI_LAST
#undef AGI_EIGHT
}

#define AGI_SLIM(name, M, P) \
AGI_KERNEL void AGI_(name)(int K, const float *a, size_t rs, size_t ks, const float *b, size_t bs, float *c, \
                           size_t cs, int last, int from_c, const float *bias) { \
    if (last == 16) AGI_(slim_tile)(M, P, 1, K, a, rs, ks, b, bs, c, cs, last, from_c, bias); \
    else AGI_(slim_tile)(M, P, 0, K, a, rs, ks, b, bs, c, cs, last, from_c, bias); \
}
AGI_SLIM(slim_1x1, 1, 1)
AGI_SLIM(slim_1x2, 1, 2)
AGI_SLIM(slim_1x4, 1, 4)
AGI_SLIM(slim_1x8, 1, 8)
AGI_SLIM(slim_2x1, 2, 1)
AGI_SLIM(slim_2x2, 2, 2)
AGI_SLIM(slim_2x4, 2, 4)
typedef void (*AGI_(slim_function))(int, const float *, size_t, size_t, const float *, size_t, float *, size_t, int,
                                    int, const float *);

// The same for B that a cache holds: two rows of A at a time, as many packs as the tiles have room for.
AGI_KERNEL void AGI_(slim)(int M, int N, int K, const float *A, size_t rs, size_t ks, const float *B, size_t bs,
                           float *C, size_t cs, int from_c, const float *bias) {
    static const AGI_(slim_function) tiles[2][4] = {
        { AGI_(slim_1x1), AGI_(slim_1x2), AGI_(slim_1x4), AGI_(slim_1x8) },
        { AGI_(slim_2x1), AGI_(slim_2x2), AGI_(slim_2x4), NULL },
    };
    for (int m = 0; m < M; m += 2) {
        const int two = m + 2 <= M;
        for (int j = 0; j < N; ) {
            int p = two ? 2 : 3;                    // the tile has 2^p packs
            while (p && 16 << p >= N - j + 16) p--;
            tiles[two][p](K, A + m * rs, rs, ks, B + j, bs, C + m * cs + j, cs, AGI_MIN(N - j - (16 << p) + 16, 16),
                          from_c, bias ? bias + j : NULL);
            j += 16 << p;
        }
    }
}

// A few rows of A, as when a model speaks one token at a time: B is read once and not used again, so the product runs
// at the speed of memory, and packing would only add to the traffic. So B is read in its own order, eight rows side by
// side, and as long as possible, because memory is fastest where it can guess what comes next; meanwhile C lies in the
// first-level cache. The chain is the same: eight steps of it at a time.
AGI_KERNEL void AGI_(skinny)(int M, int N, int K, const float *A, size_t rs, size_t ks, const float *B, size_t bs,
                             float *C, size_t cs, int from_c, const float *bias) {
    if ((double)N * K <= AGI_SLIM_B) {
        AGI_(slim)(M, N, K, A, rs, ks, B, bs, C, cs, from_c, bias);
        return;
    }
    const int chunk = M > 1 ? AGI_NC : 8 * AGI_NC;      // with several rows of A, those of B have to stay in a cache
    for (int j0 = 0; j0 < N; j0 += chunk) {
        const int n = AGI_MIN(N - j0, chunk), whole = n & ~15, rest = n & 15;
        for (int m = 0; m < M && !from_c; m++) memset(C + m * cs + j0, 0, (size_t)n * sizeof(float));
        int k = 0;
        for (; k + 8 <= K; k += 8) for (int m = 0; m < M; m++) {
            const float *a = A + m * rs + k * ks, *b = B + k * bs + j0;
            float *c = C + m * cs + j0;
#define X(i) const agi_p x##i = p_set(a[i * ks]); const float *const b##i = b + i * bs;
            X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#undef X
            for (int j = 0; j < whole; j += 16) {
                agi_p s = p_load(c + j);
#define X(i) s = p_fma(x##i, p_load(b##i + j), s);
                X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#undef X
                p_store(c + j, s);
            }
            if (rest) {
                agi_p s = p_load_n(c + whole, rest, 0);
#define X(i) s = p_fma(x##i, p_load_n(b##i + whole, rest, 0), s);
                X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#undef X
                p_store_n(c + whole, s, rest);
            }
        }
        for (; k < K; k++) for (int m = 0; m < M; m++) {
            const agi_p x = p_set(A[m * rs + k * ks]);
            const float *b = B + k * bs + j0;
            float *c = C + m * cs + j0;
            for (int j = 0; j < whole; j += 16) p_store(c + j, p_fma(x, p_load(b + j), p_load(c + j)));
            if (rest) p_store_n(c + whole, p_fma(x, p_load_n(b + whole, rest, 0), p_load_n(c + whole, rest, 0)), rest);
        }
        for (int m = 0; m < M && bias; m++) {
            float *c = C + m * cs + j0;
            for (int j = 0; j < whole; j += 16) p_store(c + j, p_add(p_load(c + j), p_load(bias + j0 + j)));
            const float *add = bias + j0 + whole;
            if (rest) p_store_n(c + whole, p_add(p_load_n(c + whole, rest, 0), p_load_n(add, rest, 0)), rest);
        }
    }
}

// 16 rows of B, four columns of them -> four packs, one for each column, row r in lane r: a matrix is turned round in
// registers, by blocks of 4 x 4.
typedef struct AGI_(four) { agi_p k0, k1, k2, k3; } AGI_(four);
AGI_WORD void AGI_(turn16)(const float *b0, const float *b1, const float *b2, const float *b3, size_t bs,
                           AGI_(four) *y) {
#if AGI_PASS == AGI_AVX512
#define X(i) const __m512 r##i = _mm512_insertf32x4(_mm512_insertf32x4(_mm512_insertf32x4( \
        _mm512_castps128_ps512(_mm_loadu_ps(b0 + i * bs)), _mm_loadu_ps(b1 + i * bs), 1), \
        _mm_loadu_ps(b2 + i * bs), 2), _mm_loadu_ps(b3 + i * bs), 3);
    X(0) X(1) X(2) X(3)
#undef X
    const __m512 t0 = _mm512_maskz_unpacklo_ps(0xffff, r0, r1), t1 = _mm512_maskz_unpackhi_ps(0xffff, r0, r1);
    const __m512 t2 = _mm512_maskz_unpacklo_ps(0xffff, r2, r3), t3 = _mm512_maskz_unpackhi_ps(0xffff, r2, r3);
    y->k0.r[0] = _mm512_maskz_shuffle_ps(0xffff, t0, t2, 0x44);
    y->k1.r[0] = _mm512_maskz_shuffle_ps(0xffff, t0, t2, 0xee);
    y->k2.r[0] = _mm512_maskz_shuffle_ps(0xffff, t1, t3, 0x44);
    y->k3.r[0] = _mm512_maskz_shuffle_ps(0xffff, t1, t3, 0xee);
#elif AGI_PASS == AGI_AVX2
#define X(h, low, high) { \
        const __m256 r0 = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(low)), _mm_loadu_ps(high), 1); \
        const __m256 r1 = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(low + bs)), \
                                               _mm_loadu_ps(high + bs), 1); \
        const __m256 r2 = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(low + 2 * bs)), \
                                               _mm_loadu_ps(high + 2 * bs), 1); \
        const __m256 r3 = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(low + 3 * bs)), \
                                               _mm_loadu_ps(high + 3 * bs), 1); \
        const __m256 t0 = _mm256_unpacklo_ps(r0, r1), t1 = _mm256_unpackhi_ps(r0, r1); \
        const __m256 t2 = _mm256_unpacklo_ps(r2, r3), t3 = _mm256_unpackhi_ps(r2, r3); \
        y->k0.r[h] = _mm256_shuffle_ps(t0, t2, 0x44), y->k1.r[h] = _mm256_shuffle_ps(t0, t2, 0xee); \
        y->k2.r[h] = _mm256_shuffle_ps(t1, t3, 0x44), y->k3.r[h] = _mm256_shuffle_ps(t1, t3, 0xee); \
    }
    X(0, b0, b1) X(1, b2, b3)
#undef X
#elif AGI_PASS == AGI_NEON
#define X(q, b) { \
        const float32x4x2_t u = vtrnq_f32(vld1q_f32(b), vld1q_f32(b + bs)); \
        const float32x4x2_t v = vtrnq_f32(vld1q_f32(b + 2 * bs), vld1q_f32(b + 3 * bs)); \
        y->k0.r[q] = vcombine_f32(vget_low_f32(u.val[0]), vget_low_f32(v.val[0])); \
        y->k1.r[q] = vcombine_f32(vget_low_f32(u.val[1]), vget_low_f32(v.val[1])); \
        y->k2.r[q] = vcombine_f32(vget_high_f32(u.val[0]), vget_high_f32(v.val[0])); \
        y->k3.r[q] = vcombine_f32(vget_high_f32(u.val[1]), vget_high_f32(v.val[1])); \
    }
    X(0, b0) X(1, b1) X(2, b2) X(3, b3)
#undef X
#else
    float to[64];
    for (int i = 0; i < 4; i++) for (int k = 0; k < 4; k++) {
        to[16 * k + i] = b0[i * bs + k], to[16 * k + 4 + i] = b1[i * bs + k];
        to[16 * k + 8 + i] = b2[i * bs + k], to[16 * k + 12 + i] = b3[i * bs + k];
    }
    y->k0 = p_load(to), y->k1 = p_load(to + 16), y->k2 = p_load(to + 32), y->k3 = p_load(to + 48);
#endif
}

// M rows of A (a constant, 1 to 4) times 16 rows of B transposed, or 32 with P == 2: two chains for one row of A.
// fetch: the next rows will be wanted, and follow in memory without a gap. They are asked for in the order of
// addresses, as memory likes it, because no hardware guesses 16 rows at once.
AGI_WORD void AGI_(turned_tile)(const int M, const int P, int K, const float *a, size_t rs, size_t ks, const float *b,
                                size_t bs, float *c, size_t cs, int from_c, const float *bias, int fetch) {
    const float *b0 = b, *b1 = b + 4 * bs, *b2 = b + 8 * bs, *b3 = b + 12 * bs;
    agi_p s0 = p_zero(), s1 = s0, s2 = s0, s3 = s0;
    AGI_(four) t;
    if (from_c) {
        s0 = p_load(c);
        if (P > 1) s1 = p_load(c + 16);
        if (M > 1) s1 = p_load(c + cs);
        if (M > 2) s2 = p_load(c + 2 * cs);
        if (M > 3) s3 = p_load(c + 3 * cs);
    }
    AGI_HIDE(b1);
    AGI_HIDE(b2);
    AGI_HIDE(b3);
    int k = 0;
    for (; k + 4 <= K; k += 4, a += 4 * ks) {
        if (fetch && !(k & 15))
            for (int i = 0; i < 16 * P; i++) AGI_FETCH(b + 16 * P * (bs + (size_t)k) + 16 * i);
        AGI_(turn16)(b0 + k, b1 + k, b2 + k, b3 + k, bs, &t);
#define X(i) { \
        s0 = p_fma(p_set(a[i * ks]), t.k##i, s0); \
        if (M > 1) s1 = p_fma(p_set(a[rs + i * ks]), t.k##i, s1); \
        if (M > 2) s2 = p_fma(p_set(a[2 * rs + i * ks]), t.k##i, s2); \
        if (M > 3) s3 = p_fma(p_set(a[3 * rs + i * ks]), t.k##i, s3); \
    }
        X(0) X(1) X(2) X(3)
#undef X
        if (P == 1) continue;
        AGI_(turn16)(b0 + 16 * bs + k, b1 + 16 * bs + k, b2 + 16 * bs + k, b3 + 16 * bs + k, bs, &t);
#define X(i) s1 = p_fma(p_set(a[i * ks]), t.k##i, s1);
        X(0) X(1) X(2) X(3)
#undef X
    }
    for (; k < K; k++, a += ks) {
        float column[32];
        for (int i = 0; i < 16 * P; i++) column[i] = b[i * bs + k];
        const agi_p x = p_load(column);
        s0 = p_fma(p_set(a[0]), x, s0);
        if (P > 1) s1 = p_fma(p_set(a[0]), p_load(column + 16 * (P - 1)), s1);
        if (M > 1) s1 = p_fma(p_set(a[rs]), x, s1);
        if (M > 2) s2 = p_fma(p_set(a[2 * rs]), x, s2);
        if (M > 3) s3 = p_fma(p_set(a[3 * rs]), x, s3);
    }
    if (bias) {
        const agi_p x = p_load(bias), y = P > 1 ? p_load(bias + 16) : x;
        s0 = p_add(s0, x), s1 = p_add(s1, y), s2 = p_add(s2, x), s3 = p_add(s3, x);
    }
    p_store(c, s0);
    if (P > 1) p_store(c + 16, s1);
    if (M > 1) p_store(c + cs, s1);
    if (M > 2) p_store(c + 2 * cs, s2);
    if (M > 3) p_store(c + 3 * cs, s3);
}

#define AGI_TURNED(name, M, P) \
AGI_KERNEL void AGI_(name)(int K, const float *a, size_t rs, size_t ks, const float *b, size_t bs, float *c, \
                           size_t cs, int from_c, const float *bias, int fetch) { \
    AGI_(turned_tile)(M, P, K, a, rs, ks, b, bs, c, cs, from_c, bias, fetch); \
}
AGI_TURNED(turned_1x32, 1, 2)
AGI_TURNED(turned_1, 1, 1)
AGI_TURNED(turned_2, 2, 1)
AGI_TURNED(turned_3, 3, 1)
AGI_TURNED(turned_4, 4, 1)
typedef void (*AGI_(turned_function))(int, const float *, size_t, size_t, const float *, size_t, float *, size_t, int,
                                      const float *, int);

// The same for B stored transposed (N,K), as a tied head is, and as keys are: an output's row is contiguous, but a lane
// is an output, so 16 rows are turned round on their way through the registers. Up to four rows of A.
AGI_KERNEL void AGI_(skinny_turned)(int M, int N, int K, const float *A, size_t rs, size_t ks, const float *B,
                                    size_t bs, float *C, size_t cs, int from_c, const float *bias) {
    const AGI_(turned_function) one = M == 1 ? AGI_(turned_1) : M == 2 ? AGI_(turned_2)
                                    : M == 3 ? AGI_(turned_3) : AGI_(turned_4);
    const int fetch = bs == (size_t)K && (double)N * K > 1e5;       // larger than what a cache still holds
    int j = 0;
    for (; j + 32 <= N && M == 1 && !fetch; j += 32)                // memory likes 16 rows at a time better than 32
        AGI_(turned_1x32)(K, A, rs, ks, B + j * bs, bs, C + j, cs, from_c, bias ? bias + j : NULL, 0);
    for (; j + 16 <= N; j += 16)
        one(K, A, rs, ks, B + j * bs, bs, C + j, cs, from_c, bias ? bias + j : NULL, fetch && j + 32 <= N);
    if (j == N) return;
    // The last few rows: sixteen columns of k at a time are copied, zeros for the rows that are not there.
    float rows[16 * 16], side[4 * 16], add[16];
    const int n = N - j;
    memset(rows, 0, sizeof rows);
    for (int m = 0; m < M && from_c; m++) p_store(side + 16 * m, p_load_n(C + m * cs + j, n, 0));
    if (bias) p_store(add, p_load_n(bias + j, n, 0));
    for (int k = 0; k == 0 || k < K; k += 16) {
        const int some = AGI_MIN(K - k, 16);
        for (int i = 0; i < n; i++) p_store(rows + 16 * i, p_load_n(B + (j + i) * bs + k, some, 0));
        one(some, A + k * ks, rs, ks, rows, 16, side, 16, from_c || k, bias && k + some == K ? add : NULL, 0);
    }
    for (int m = 0; m < M; m++) p_store_n(C + m * cs + j, p_load(side + 16 * m), n);
}

// ---- int8 weights ----
// The same eight rows side by side, of bytes. A byte becomes a float, exactly, on its way into the multiply-add; the
// scale of a column is taken in at the end, once.
AGI_WORD agi_p AGI_(p_load_int8)(const signed char *from) {
    agi_p p;
#if AGI_PASS == AGI_AVX512
    const __m128i q = _mm_loadu_si128((const __m128i *)(const void *)from);
    p.r[0] = _mm512_maskz_cvtepi32_ps(0xffff, _mm512_maskz_cvtepi8_epi32(0xffff, q));
#elif AGI_PASS == AGI_AVX2
    AGI_EACH(p.r[i] = _mm256_cvtepi32_ps(
        _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(from + 8 * i))));)
#else
    float f[16];
    for (int l = 0; l < 16; l++) f[l] = (float)from[l];
    p = p_load(f);
#endif
    return p;
}

typedef struct AGI_(int8) {
    float *y;
    const float *x, *scale, *bias;
    const signed char *q;
    int M, N, K;
} AGI_(int8);

AGI_KERNEL void AGI_(int8_columns)(void *arg, size_t first, size_t last, int thread) {
    const AGI_(int8) *p = (const AGI_(int8) *)arg;
    const size_t stride = ((size_t)p->N + 15) / 16 * 16, N = (size_t)p->N;
    const size_t chunk = p->M > 1 ? 2048 : 4096;            // of columns: eight rows of them stay in a cache
    for (size_t from = first * 16; from < last * 16; from += chunk) {
        const size_t to = AGI_MIN(AGI_MIN(last * 16, N), from + chunk);
        for (int k = 0; k == 0 || k < p->K; k += 8) for (int m = 0; m < p->M; m++) {
            const float *x = p->x + (size_t)m * p->K + k;
            const signed char *q = p->q + (size_t)k * stride;
            const int n = AGI_MIN(p->K - k, 8), done = k + 8 >= p->K;
#define X(i) const agi_p x##i = p_set(i < n ? x[i] : 0); const signed char *const q##i = i < n ? q + i * stride : q;
            X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#undef X
            for (size_t j = from; j < to; j += 16) {
                float *y = p->y + m * N + j;
                const int some = (int)AGI_MIN(to - j, 16);
                agi_p s = k == 0 ? p_zero() : some == 16 ? p_load(y) : p_load_n(y, some, 0);
                if (n == 8) {
#define X(i) s = p_fma(x##i, AGI_(p_load_int8)(q##i + j), s);
                    X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#undef X
                } else {
#define X(i) if (i < n) s = p_fma(x##i, AGI_(p_load_int8)(q##i + j), s);
                    X(0) X(1) X(2) X(3) X(4) X(5) X(6)
#undef X
                }
                if (done) s = p_mul(s, p_load_n(p->scale + j, some, 0));
                if (done && p->bias) s = p_add(s, p_load_n(p->bias + j, some, 0));
                if (some == 16) p_store(y, s);
                else p_store_n(y, s, some);
            }
        }
    }
    (void)thread;
}

AGI_KERNEL int AGI_(linear_int8)(ag_backend *b, float *y, const float *x, const signed char *q, const float *scale,
                                 const float *bias, int M, int N, int K) {
    AGI_(int8) p;
    p.y = y, p.x = x, p.scale = scale, p.bias = bias, p.q = q, p.M = M, p.N = N, p.K = K;
    const size_t packs = ((size_t)N + 15) / 16, threads = (size_t)b->threads;
    agi_ranges r;                   // one range for each thread: long pieces of rows, as memory likes them
    r.fn = AGI_(int8_columns), r.arg = &p, r.n = packs, r.per = (packs + threads - 1) / threads;
    if (M < 1 || N < 1) return 0;
    if ((double)M * N * K < AGI_SMALL_JOB) AGI_(int8_columns)(&p, 0, packs, 0);
    else agi_parallel(b, (packs + r.per - 1) / r.per, agi_one_range, &r);
    return 0;
}

// What the tasks of one product, or of one batch of products, have to know.
typedef struct AGI_(product) {
    ag_backend *b;
    float *C, *gelu;                // gelu (M,N) = gelu(C), or NULL
    const float *A, *B, *bias;
    int M, N, K, tb, from_c;
    int kind, pairs, mr;            // what the numbers are; 1: pairs; rows of a tile
    size_t rs, ks, bs;              // strides of A; between the stored rows of B
    size_t sc[2], sa[2], sb[2];     // from product to product, in the outer and in the inner dimension of the batch ...
    size_t inner;                   // ... which has so many
    int k0, kb, n0, nb;             // the part of B that is dealt with at the moment
    float *packed;                  // (panels, rows, NR), or NULL: read in place
    int rows;                       // kb, or its pairs, for AMX a multiple of 16
    int row_tasks, column_tasks;
} AGI_(product);

AGI_KERNEL void AGI_(gelu_row)(float *y, const float *z, size_t n) {
    size_t j = 0;
    for (; j + 16 <= n; j += 16) {
        const agi_p x = p_load(z + j);
        p_store(y + j, p_mul(x, AGI_(p_gelu_gate)(x)));
    }
    if (j < n) {
        const agi_p x = p_load_n(z + j, (int)(n - j), 0);
        p_store_n(y + j, p_mul(x, AGI_(p_gelu_gate)(x)), (int)(n - j));
    }
}

// Rows of a panel of K values of k.
static inline int AGI_(panel_rows)(const AGI_(product) *p, int K) {
    return p->kind == AGI_(amx) ? AGI_UP16((K + 1) / 2) : p->pairs ? (K + 1) / 2 : K;
}

// Rows of the panels of all blocks of k_step.
static inline size_t AGI_(all_rows)(const AGI_(product) *p, int k_step) {
    const int blocks = p->K / k_step, rest = p->K - blocks * k_step;
    return (size_t)blocks * (size_t)AGI_(panel_rows)(p, k_step) + (size_t)AGI_(panel_rows)(p, rest);
}

// n columns (at most NR) and K values of k (at most AGI_KC, or as many pairs) of B, which begin at `from`, as a panel.
AGI_KERNEL void AGI_(pack)(const AGI_(product) *p, float *to, const float *from, int n, int K, int more, float *work) {
    const int pairs = (K + 1) / 2, filling = AGI_UP16(pairs) - pairs;
    if (p->kind == AGI_(amx)) memset(to + pairs * AGI_NR, 0, (size_t)(filling * AGI_NR) * sizeof(float));
    if (p->pairs && p->tb) AGI_(pack_pairs_transposed)(to, AGI_NR, from, p->bs, n, K, work);
    else if (p->pairs) AGI_(pack_pairs)(to, AGI_NR, from, p->bs, n, K);
    else if (p->tb) AGI_(pack_transposed)(to, AGI_NR, from, p->bs, n, K, more);
    else AGI_(pack_plain)(to, AGI_NR, from, p->bs, n, K);
}

// One panel, one block of k of it, into shared memory.
AGI_KERNEL void AGI_(matmul_pack)(void *arg, size_t task, int thread) {
    const AGI_(product) *p = (const AGI_(product) *)arg;
    const int step = AGI_KC << p->pairs, chunks = (p->kb + step - 1) / step, panel = (int)(task / (size_t)chunks);
    const int c = (int)(task % (size_t)chunks) * step, k = p->k0 + c, j = p->n0 + panel * AGI_NR;
    float *to = p->packed + ((size_t)panel * p->rows + (c >> p->pairs)) * AGI_NR;
    float *work = (float *)agi_scratch(p->b, thread, AGI_PRIVATE * sizeof(float));
    AGI_(pack)(p, to, p->B + (p->tb ? j * p->bs + k : k * p->bs + j), AGI_MIN(p->n0 + p->nb - j, AGI_NR),
               AGI_MIN(p->kb - c, step), 0, work);
}

// One rectangle of C: some row tiles times some panels.
AGI_KERNEL void AGI_(matmul_rectangle)(void *arg, size_t task, int thread) {
    const AGI_(product) *p = (const AGI_(product) *)arg;
    const int tiles = (p->M + p->mr - 1) / p->mr, panels = (p->nb + AGI_NR - 1) / AGI_NR;
    const int row = (int)(task / (size_t)p->column_tasks), column = (int)(task % (size_t)p->column_tasks);
    const int i0 = (int)((long long)tiles * row / p->row_tasks) * p->mr;
    const int i1 = AGI_MIN((int)((long long)tiles * (row + 1) / p->row_tasks) * p->mr, p->M);
    const int j0 = (int)((long long)panels * column / p->column_tasks) * AGI_NR;
    const int j1 = AGI_MIN((int)((long long)panels * (column + 1) / p->column_tasks) * AGI_NR, p->nb);
    float *work = (float *)agi_scratch(p->b, thread, AGI_WORK * sizeof(float));
    const int step = AGI_KC << p->pairs;
    for (int j = j0; j < j1; j += AGI_NC) for (int k = 0; k == 0 || k < p->kb; k += step) {
        const int K = AGI_MIN(p->kb - k, step), last = p->k0 + k + K == p->K;
        const float *B = p->packed ? p->packed + (size_t)j * p->rows + (size_t)(k >> p->pairs) * AGI_NR
                                   : p->B + (p->k0 + k) * p->bs + p->n0 + j;
        AGI_(block)(p->kind, i1 - i0, AGI_MIN(j1 - j, AGI_NC), K, p->A + i0 * p->rs + (p->k0 + k) * p->ks, p->rs,
                    p->ks, B, p->packed ? AGI_NR : p->bs, p->packed ? (size_t)p->rows * AGI_NR : AGI_NR,
                    p->C + (size_t)i0 * p->N + p->n0 + j, (size_t)p->N, p->from_c || p->k0 + k > 0,
                    last && p->bias ? p->bias + p->n0 + j : NULL, work);
        for (int i = i0; i < i1 && last && p->gelu; i++) {
            const size_t at = (size_t)i * p->N + p->n0 + j;
            AGI_(gelu_row)(p->gelu + at, p->C + at, (size_t)AGI_MIN(j1 - j, AGI_NC));
        }
    }
}

// All rows and some columns of one product of a batch; a panel is packed by whoever needs it.
AGI_KERNEL void AGI_(matmul_columns)(void *arg, size_t task, int thread) {
    const AGI_(product) *p = (const AGI_(product) *)arg;
    const size_t item = task / (size_t)p->column_tasks, column = task % (size_t)p->column_tasks;
    const size_t outer = item / p->inner, inner = item % p->inner;
    const float *A = p->A + outer * p->sa[0] + inner * p->sa[1], *B = p->B + outer * p->sb[0] + inner * p->sb[1];
    float *C = p->C + outer * p->sc[0] + inner * p->sc[1];
    const size_t panels = ((size_t)p->N + AGI_NR - 1) / AGI_NR;
    const int j0 = (int)(panels * column / (size_t)p->column_tasks) * AGI_NR;
    const int j1 = AGI_MIN((int)(panels * (column + 1) / (size_t)p->column_tasks) * AGI_NR, p->N);
    float *work = (float *)agi_scratch(p->b, thread, AGI_PRIVATE * sizeof(float)), *packed = work + AGI_WORK;
    const int in_place = !p->tb && p->N % 16 == 0 && !p->pairs, k_step = AGI_KC << p->pairs;
    const int step = in_place ? AGI_NC : p->pairs ? AGI_ALONE : AGI_NR;
    for (int j = j0; j < j1; j += step) for (int k = 0; k == 0 || k < p->K; k += k_step) {
        const int K = AGI_MIN(p->K - k, k_step), n = AGI_MIN(j1 - j, step), rows = AGI_(panel_rows)(p, K);
        const float *from = B + (p->tb ? j * p->bs + k : k * p->bs + j);
        for (int at = 0; at < n && !in_place; at += AGI_NR)
            AGI_(pack)(p, packed + (size_t)at * rows, from + at * (p->tb ? p->bs : 1), AGI_MIN(n - at, AGI_NR), K,
                       k + 2 * K <= p->K, packed + AGI_ALONE * AGI_KC);
        AGI_(block)(p->kind, p->M, n, K, A + k * p->ks, p->rs, p->ks, in_place ? from : packed,
                    in_place ? p->bs : AGI_NR, in_place ? AGI_NR : (size_t)rows * AGI_NR, C + j, (size_t)p->N,
                    p->from_c || k > 0, k + K == p->K && p->bias ? p->bias + j : NULL, work);
    }
}

// A few rows, and some columns, of one product of a batch.
AGI_KERNEL void AGI_(matmul_skinny)(void *arg, size_t task, int thread) {
    const AGI_(product) *p = (const AGI_(product) *)arg;
    const size_t item = task / (size_t)p->column_tasks, column = task % (size_t)p->column_tasks;
    const size_t outer = item / p->inner, inner = item % p->inner, packs = ((size_t)p->N + 15) / 16;
    const float *A = p->A + outer * p->sa[0] + inner * p->sa[1], *B = p->B + outer * p->sb[0] + inner * p->sb[1];
    float *C = p->C + outer * p->sc[0] + inner * p->sc[1];
    const int j0 = (int)(packs * column / (size_t)p->column_tasks) * 16;
    const int j1 = AGI_MIN((int)(packs * (column + 1) / (size_t)p->column_tasks) * 16, p->N);
    if (p->tb) AGI_(skinny_turned)(p->M, j1 - j0, p->K, A, p->rs, p->ks, B + j0 * p->bs, p->bs, C + j0, (size_t)p->N,
                                   p->from_c, p->bias ? p->bias + j0 : NULL);
    else AGI_(skinny)(p->M, j1 - j0, p->K, A, p->rs, p->ks, B + j0, p->bs, C + j0, (size_t)p->N, p->from_c,
                      p->bias ? p->bias + j0 : NULL);
    (void)thread;
}

// One product, all threads on it.
AGI_KERNEL int AGI_(matmul_one)(AGI_(product) *p) {
    const int threads = p->b->threads, tiles = (p->M + p->mr - 1) / p->mr;
    // Row-major B is read in place unless very many row tiles share it. They are too many sooner where its rows are a
    // multiple of 4096 bytes apart, or where a narrow panel takes one line from each of many pages.
    const int few = p->N % 1024 == 0 ? 96 : AGI_NP == 1 && p->N > 512 ? 200 : 1024;
    const int in_place = !p->tb && p->N % 16 == 0 && p->M < few && !p->pairs;
    // At most two million floats of B are packed at once.
    const int k_step = in_place ? AGI_MAX(p->K, 1) : AGI_MIN(AGI_MAX(p->K, 1), 16 * AGI_KC);
    const int n_step = in_place ? p->N : AGI_MAX((1 << 21) / k_step / AGI_NR, 1) * AGI_NR;
    // Packed panels of all of B, if they are kept: block after block as the loops below come to them.
    const size_t columns = ((size_t)p->N + AGI_NR - 1) / AGI_NR * AGI_NR, rows = AGI_(all_rows)(p, k_step);
    int full = 0;
    float *kept = NULL;
    if (!in_place && (double)rows * (double)columns < (double)(AGI_PACKED_MOST / sizeof(float)))
        kept = agi_kept(p->b, p->B, p->N, p->K, p->tb, p->kind, (rows * columns + AGI_NR) * sizeof(float), &full);
    p->packed = NULL;
    for (p->n0 = 0; p->n0 < p->N; p->n0 += n_step) for (p->k0 = 0; p->k0 == 0 || p->k0 < p->K; p->k0 += k_step) {
        p->nb = AGI_MIN(p->N - p->n0, n_step), p->kb = AGI_MIN(p->K - p->k0, k_step);
        const int panels = (p->nb + AGI_NR - 1) / AGI_NR, step = AGI_KC << p->pairs, chunks = (p->kb + step - 1) / step;
        p->rows = AGI_(panel_rows)(p, p->kb);
        if (!in_place) {
            const size_t packed = (size_t)panels * p->rows * AGI_NR;
            p->packed = kept ? kept : (float *)agi_shared_scratch(p->b, 0, (packed + AGI_NR) * sizeof(float));
            if (!p->packed) return -1;
            if (kept) kept += packed;
            if (!full) agi_parallel(p->b, (size_t)panels * chunks, AGI_(matmul_pack), p);
        }
        // Eight tasks for each thread, so that at the end nobody waits long for the last one: rows first, since a task
        // reads its rows of A once for all its columns, then columns where there are too few rows.
        const int wanted = threads > 1 ? 8 * threads : 1;
        p->row_tasks = AGI_MIN(tiles, AGI_MAX(wanted, tiles / 16));
        p->column_tasks = AGI_MIN(panels, (wanted + p->row_tasks - 1) / p->row_tasks);
        if ((double)p->M * p->nb * p->kb < AGI_SMALL_JOB) p->row_tasks = p->column_tasks = 1;
        agi_parallel(p->b, (size_t)p->row_tasks * p->column_tasks, AGI_(matmul_rectangle), p);
    }
    return 0;
}

AGI_KERNEL int AGI_(products)(ag_backend *b, int kind, float *gelu, float *C, const float *A, const float *B,
                              const float *bias, int M, int N, int K, int ta, int tb, const int batch[2],
                              const size_t sc[2], const size_t sa[2], const size_t sb[2], int accumulate) {
    if (M < 1 || N < 1 || batch[0] < 1 || batch[1] < 1) return 0;
    // n: the products of the batch that stand side by side; turns: those that add up in C, one after the other. A
    // dimension that lies in memory as if it were part of M or of K is made part of it, the inner one first.
    size_t n[2] = { (size_t)batch[0], (size_t)batch[1] }, turns[2] = { 1, 1 };
    for (int d = 1; d >= 0; d--) {
        const int merge = n[d] > 1 && (d == 1 || n[1] * turns[1] == 1) && sa[d] == (size_t)M * K;
        if (merge && !ta && !sb[d] && sc[d] == (size_t)M * N && M <= INT_MAX / 2 / batch[d])
            M *= batch[d], n[d] = 1;                // one B for all: the products are one product with more rows
        else if (merge && ta && !tb && !sc[d] && sb[d] == (size_t)K * N && K <= INT_MAX / 2 / batch[d] &&
                 !(kind && K % (kind == AGI_(amx) ? 32 : 2)))       // (a pair does not reach into the next product)
            K *= batch[d], n[d] = 1;                // a sum over the batch: one product with a longer chain
        else if (!sc[d]) turns[d] = n[d], n[d] = 1;
    }
    AGI_(product) p;
    memset(&p, 0, sizeof p);
    p.b = b, p.M = M, p.N = N, p.K = K, p.tb = tb, p.gelu = gelu, p.kind = kind, p.pairs = kind > 0;
    p.mr = kind == AGI_(amx) ? 32 : AGI_MR;
    p.rs = ta ? 1 : (size_t)K, p.ks = ta ? (size_t)M : 1, p.bs = tb ? (size_t)K : (size_t)N;
    for (int d = 0; d < 2; d++) p.sc[d] = sc[d], p.sa[d] = sa[d], p.sb[d] = sb[d];
    for (int t = 0; t < b->threads; t++)
        if (!agi_scratch(b, t, AGI_PRIVATE * sizeof(float))) return -1;
    const double work = (double)M * N * K;
    const size_t items = n[0] * n[1];
    const int panels = (N + AGI_NR - 1) / AGI_NR;
    // Alone on an item: when there are many of them, or so few rows that packing for others does not pay.
    const int skinny = M <= AGI_SKINNY && !kind;
    const int alone = (items >= 2 * (size_t)b->threads && work < 4e6) || ((tb || kind) && M <= 4 * AGI_MR);
    for (size_t t0 = 0; t0 < turns[0]; t0++) for (size_t t1 = 0; t1 < turns[1]; t1++) {
        const float *At = A + t0 * sa[0] + t1 * sa[1], *Bt = B + t0 * sb[0] + t1 * sb[1];
        p.from_c = accumulate || t0 || t1;
        p.bias = t0 + 1 == turns[0] && t1 + 1 == turns[1] ? bias : NULL;
        if (skinny) {
            // Few tasks where the rows of B are cut, so that the pieces are long; many where whole rows are dealt out.
            const size_t each = (size_t)b->threads * (tb ? 4 : AGI_SKINNY_CUT);
            const size_t wanted = b->threads == 1 || work < AGI_SMALL_JOB ? 1 : (each + items - 1) / items;
            p.C = C, p.A = At, p.B = Bt, p.inner = n[1];
            p.column_tasks = (int)AGI_MIN(wanted, ((size_t)N + 15) / 16);
            if (items * work < AGI_SMALL_JOB)
                for (size_t i = 0; i < items * (size_t)p.column_tasks; i++) AGI_(matmul_skinny)(&p, i, 0);
            else agi_parallel(b, items * (size_t)p.column_tasks, AGI_(matmul_skinny), &p);
        } else if (alone) {
            p.C = C, p.A = At, p.B = Bt, p.inner = n[1];
            const size_t wanted = b->threads == 1 ? 1 : (4 * (size_t)b->threads + items - 1) / items;
            p.column_tasks = (int)AGI_MIN(wanted, (size_t)panels);
            if (work < AGI_SMALL_JOB) p.column_tasks = 1;
            agi_parallel(b, items * (size_t)p.column_tasks, AGI_(matmul_columns), &p);
        }
        if (skinny || alone) {
            if (gelu) AGI_(gelu_row)(gelu, C, (size_t)M * N);
            continue;
        }
        for (size_t i0 = 0; i0 < n[0]; i0++) for (size_t i1 = 0; i1 < n[1]; i1++) {
            p.C = C + i0 * sc[0] + i1 * sc[1], p.A = At + i0 * sa[0] + i1 * sa[1], p.B = Bt + i0 * sb[0] + i1 * sb[1];
            if (AGI_(matmul_one)(&p)) return -1;
        }
    }
    return 0;
}

AGI_KERNEL int AGI_(matmul)(ag_backend *b, ag_real *C, const ag_real *A, const ag_real *B, const ag_real *bias, int M,
                            int N, int K, int ta, int tb, const int batch[2], const size_t sc[2], const size_t sa[2],
                            const size_t sb[2], int accumulate) {
    return AGI_(products)(b, AGI_(floats), NULL, C, A, B, bias, M, N, K, ta, tb, batch, sc, sa, sb, accumulate);
}

AGI_KERNEL int AGI_(matmul_bf16)(ag_backend *b, ag_real *C, const ag_real *A, const ag_real *B, const ag_real *bias,
                                 int M, int N, int K, int ta, int tb, const int batch[2], const size_t sc[2],
                                 const size_t sa[2], const size_t sb[2], int accumulate) {
    const int kind = AGI_AMX && ((agi_cpu *)b->self)->amx ? AGI_(amx) : AGI_(pairs);
    return AGI_(products)(b, kind, NULL, C, A, B, bias, M, N, K, ta, tb, batch, sc, sa, sb, accumulate);
}

// ---- a product and what follows it ----
AGI_KERNEL int AGI_(linear_gelu)(ag_backend *b, float *y, float *z, const float *x, const float *w, const float *bias,
                                 int rows, int I, int O, int precision) {
    static const int one[2] = { 1, 1 };
    static const size_t zero[2] = { 0, 0 };
    if (precision == AG_BF16 && b->matmul_bf16 != AGI_(matmul_bf16)) {      // emulated by another pass
        if (b->matmul_bf16(b, z, x, w, bias, rows, O, I, 0, 0, one, zero, zero, zero, 0)) return -1;
        for (int r = 0; r < rows; r++) AGI_(gelu_row)(y + (size_t)r * O, z + (size_t)r * O, (size_t)O);
        return 0;
    }
    const int kind = precision != AG_BF16 ? AGI_(floats)
                   : AGI_AMX && ((agi_cpu *)b->self)->amx ? AGI_(amx) : AGI_(pairs);
    return AGI_(products)(b, kind, y, z, x, w, bias, rows, O, I, 0, 0, one, zero, zero, zero, 0);
}

// A unit is 64 columns, from the first row to the last: the order of the sum over rows that this replaces. Up to 16 of
// them go side by side, since memory likes long pieces of rows.
AGI_KERNEL void AGI_(gelu_bias_back_part)(void *arg, size_t first, size_t last, int thread) {
    const agi_part *a = (const agi_part *)arg;
    float sum[16 * 64];
    (void)thread;
    for (size_t unit = first; unit < last; unit += 16) {
        const size_t c = unit * 64, n = AGI_MIN(a->n - c, AGI_MIN(last - unit, (size_t)16) * 64);
        memset(sum, 0, sizeof sum);
        for (size_t r = 0; r < a->rows; r++) for (size_t j = 0; j < n; j += 16) {
            const size_t at = r * a->n + c + j;
            const int left = (int)AGI_MIN(n - j, (size_t)16);
            const agi_p dz = p_mul(AGI_(p_get)(a->x[1] + at, left, 0),
                                   AGI_(p_gelu_slope)(AGI_(p_get)(a->x[0] + at, left, 0)));
            AGI_(p_put)(a->y[0] + at, dz, left);
            p_store(sum + j, p_add(p_load(sum + j), dz));
        }
        for (size_t j = 0; j < n && a->y[1]; j++) a->y[1][c + j] = a->accumulate ? a->y[1][c + j] + sum[j] : sum[j];
    }
}

AGI_KERNEL int AGI_(gelu_bias_back)(ag_backend *b, float *dz, float *dbias, const float *z, const float *dy,
                                    size_t rows, size_t n, int accumulate) {
    agi_part a;
    a.x[0] = z, a.x[1] = dy, a.y[0] = dz, a.y[1] = dbias, a.rows = rows, a.n = n, a.accumulate = accumulate;
    agi_spread(b, (n + 63) / 64, rows * 256, AGI_(gelu_bias_back_part), &a);
    return 0;
}
// ---- attention -----------------------------------------------------------------------------------------------------
// softmax(Q K' / sqrt(hs)) V for each head, where a query sees the keys up to its own position. Written with ops it
// needs a (T, T) matrix for each head: at T = 1024 a megabyte goes out to memory and comes back several times. Here
// the keys come in blocks of 64, and the matrix exists only for one block, some rows at a time, in the first-level
// cache.
//
// Forward: the online softmax (Milakov & Gimelshein 2018; Dao et al. 2022, "FlashAttention"). A row keeps the largest
// score so far, m, and, relative to it, l = sum exp(s - m) and O = sum exp(s - m) v. When a block brings a larger m,
// what is there shrinks by exp(m_old - m_new). At the end the row is O / l, and m + log l is kept: it is all that
// backward needs to compute any block of probabilities again, p = exp(s - lse).
//
// Backward, of y_i = sum_j p_ij v_j with s_ij = scale q_i.k_j:
//     dv_j = sum_i p_ij dy_i                         dp_ij = dy_i.v_j
//     ds_ij = p_ij (dp_ij - D_i) scale               D_i = sum_j p_ij dp_ij = dy_i.y_i, which saves a pass over the row
//     dq_i = sum_j ds_ij k_j                         dk_j = sum_i ds_ij q_i
//
// Each of these seven products is a call of AGI_(block) on a few rows, so attention runs at the speed of matrix
// products.
//
// The promise: blocks of keys begin at positions 0, 64, 128 ..., whatever the query; a score is one chain over hs,
// then one multiplication by the scale; l has 16 lanes, key j in lane j mod 16, folded at the end; O is one chain over
// keys. Nothing of that depends on which other queries are computed at the same time, so a query alone, its keys in a
// cache, gives the bits of the full pass. Keys that a query does not see have p = 0 and add nothing; keys that no
// query of the tile sees are not even read.

#define AGI_KEYS 64                 // in a block
#define AGI_QUERIES 64              // in a task
#define AGI_FORWARD_FLOATS(hs) (AGI_WORK + 3 * 64 * (size_t)AGI_UP16(hs) + 64 * AGI_MR + 17 * 64)     // working space
#define AGI_BACK_FLOATS(hs, group, T) (AGI_WORK + 5 * 64 * (size_t)AGI_UP16(hs) + 2 * 64 * 64 + (size_t)(group) * (T))

// One call, for its tasks. Forward: rows of queries in each of so many heads, cut into tiles.
typedef struct AGI_(attend) {
    ag_backend *b;
    const ag_attention_args *a;
    int rows, heads, tiles;
    float scale;
} AGI_(attend);

AGI_KERNEL void AGI_(attention_cache)(void *arg, size_t task, int thread) {
    const ag_attention_args *a = (const ag_attention_args *)arg;
    const size_t width = (size_t)(a->NH + 2 * a->NKV) * a->HS, kv = (size_t)a->NKV * a->HS;
    const int start = a->start ? a->start[task] : 0, n = a->len ? AGI_MIN(a->len[task], a->T) : a->T;
    for (int t = 0; t < n; t++) {
        const float *k = a->qkv + (agi_first(a, (int)task) + t) * width + (size_t)a->NH * a->HS;
        const size_t at = (agi_cached(a, (int)task) + start + t) * kv;
        memcpy(a->k_cache + at, k, kv * sizeof(float));
        memcpy(a->v_cache + at, k + kv, kv * sizeof(float));
    }
    (void)thread;
}

// s (m, to) = rows of q times the keys (or of dy times the values) of one block, transposed: kt (hs, KEYS).
AGI_KERNEL void AGI_(scores)(int m, int to, int hs, const float *q, size_t qs, const float *kt, float *s, float *work) {
    for (int d = 0; d < hs; d += AGI_KC)
        AGI_(block)(0, m, to, AGI_MIN(hs - d, AGI_KC), q + d, qs, 1, kt + d * AGI_KEYS, AGI_KEYS, AGI_NR, s, AGI_KEYS,
                    d > 0, NULL, work);
}

// One row of one block: scores (nk valid ones of width) to probabilities. Updates m and the 16 lanes of l, and returns
// the factor by which O shrinks.
AGI_WORD float AGI_(softmax_block)(float *s, int nk, int width, float scale, int first, float *m, float *l) {
    const agi_p factor = p_set(scale);
    agi_p top = p_set(-INFINITY);
    for (int j = 0; j < nk; j += 16) {
        const agi_p x = p_mul(nk - j >= 16 ? p_load(s + j) : p_load_n(s + j, nk - j, -INFINITY), factor);
        top = p_max(x, top);
        p_store(s + j, x);
    }
    const float high = p_hmax(top), m_new = high > *m ? high : *m;
    const agi_p base = p_set(m_new);
    agi_p sum = p_zero();
    float shrink = 1;
    if (!first) {
        sum = p_load(l);
        if (m_new != *m) {
            float lanes[16];
            const agi_p c = p_exp(p_sub(p_set(*m), base));
            p_store(lanes, c);
            shrink = lanes[0];
            sum = p_mul(sum, c);
        }
    }
    int j = 0;
    for (; j < nk; j += 16) {
        const agi_p x = p_exp(p_sub(p_load(s + j), base));
        sum = p_add(sum, x);
        p_store(s + j, x);
    }
    for (; j < width; j += 16) p_store(s + j, p_zero());
    p_store(l, sum);
    *m = m_new;
    return shrink;
}

// One tile of queries of one head.
AGI_KERNEL void AGI_(attention_tile)(void *arg, size_t task, int thread) {
    const AGI_(attend) *p = (const AGI_(attend) *)arg;
    const ag_attention_args *a = p->a;
    const int hs = a->HS, wide = AGI_UP16(hs), group = a->NH / a->NKV;
    // The last tiles see the most keys: they go first, so that no thread is left with a large one at the end.
    const size_t all = (size_t)a->B * p->heads;
    const int tile = p->tiles - 1 - (int)(task / all), b = (int)(task % all / p->heads), h = (int)(task % p->heads);
    const int kvh = h / group;
    const size_t width = (size_t)(a->NH + 2 * a->NKV) * hs, qs = width, ys = (size_t)a->NH * hs;
    const int start = a->k_cache && a->start ? a->start[b] : 0, len = a->len ? AGI_MIN(a->len[b], a->T) : a->T;
    const int i0 = tile * AGI_QUERIES, most = AGI_MIN(p->rows - i0, AGI_QUERIES);
    const int n = AGI_MAX(AGI_MIN(len - i0, most), 0);
    const int rows = a->first ? n : most;               // padding gets zeros, where there is any
    const float *q = a->qkv + agi_first(a, b) * width + (size_t)h * hs + i0 * qs;
    const float *k = a->qkv + agi_first(a, b) * width + (size_t)(a->NH + kvh) * hs, *v = k + (size_t)a->NKV * hs;
    size_t ks = width;
    if (a->k_cache) {
        ks = (size_t)a->NKV * hs;
        k = a->k_cache + agi_cached(a, b) * ks + (size_t)kvh * hs;
        v = a->v_cache + agi_cached(a, b) * ks + (size_t)kvh * hs;
    }
    float *y = a->y + agi_first(a, b) * a->NH * hs + (size_t)h * hs + i0 * ys;
    float *lse = a->lse ? a->lse + ((size_t)b * a->NH + h) * a->T + i0 : NULL;

    float *work = (float *)agi_scratch(p->b, thread, AGI_FORWARD_FLOATS(hs) * sizeof(float));
    float *kt = work + AGI_WORK, *vp = kt + AGI_KEYS * wide, *o = vp + AGI_KEYS * wide, *s = o + AGI_QUERIES * wide;
    float *m = s + AGI_MR * AGI_KEYS, *l = m + AGI_QUERIES;
    const int first_at = start + i0, end = first_at + n;        // row r is at position first_at + r
    for (int r = 0; r < AGI_QUERIES; r++) m[r] = -INFINITY;
    for (int j0 = 0; n > 0 && j0 < end; j0 += AGI_KEYS) {
        const int keys = AGI_MIN(end - j0, AGI_KEYS);
        const float *vb = v + j0 * ks;
        size_t vs = ks;
        AGI_(pack_transposed)(kt, AGI_KEYS, k + j0 * ks, ks, keys, hs, 0);
        if (hs % 16) AGI_(pack_plain)(vp, wide, vb, vs, hs, keys), vb = vp, vs = (size_t)wide;
        for (int r0 = 0; r0 < n; r0 += AGI_MR) {
            const int mr = AGI_MIN(n - r0, AGI_MR);
            const int seen = AGI_MIN(first_at + r0 + mr - j0, keys);   // by the last of these rows
            if (seen <= 0) continue;
            AGI_(scores)(mr, AGI_UP16(seen), hs, q + r0 * qs, qs, kt, s, work);
            for (int r = 0; r < mr; r++) {
                const int nk = AGI_MIN(first_at + r0 + r + 1 - j0, keys);
                float *o_r = o + (r0 + r) * wide;
                const float shrink = AGI_(softmax_block)(s + r * AGI_KEYS, AGI_MAX(nk, 0), AGI_UP16(seen), p->scale,
                                                         j0 == 0, m + r0 + r, l + 16 * (r0 + r));
                for (int d = 0; d < wide && shrink != 1; d += 16)
                    p_store(o_r + d, p_mul(p_load(o_r + d), p_set(shrink)));
            }
            AGI_(block)(0, mr, wide, seen, s, AGI_KEYS, 1, vb, vs, AGI_NR, o + r0 * wide, (size_t)wide, j0 > 0, NULL,
                        work);
        }
    }
    float sum[AGI_QUERIES], inverse[AGI_QUERIES];
    for (int r = 0; r < AGI_QUERIES; r++) sum[r] = r < n ? p_sum(p_load(l + 16 * r)) : 1;
    for (int r = 0; r < rows; r += 16) p_store(inverse + r, p_div(p_set(1), p_load(sum + r)));
    for (int r = 0; r < rows; r++) for (int d = 0; d < hs; d += 16) {
        const agi_p x = r < n ? p_mul(p_load(o + r * wide + d), p_set(inverse[r])) : p_zero();
        if (hs - d >= 16) p_store(y + r * ys + d, x);
        else p_store_n(y + r * ys + d, x, hs - d);
    }
    for (int r = 0; r < rows && lse; r += 16) {
        const agi_p x = p_add(p_load(m + r), p_log(p_load(sum + r)));
        const int c = AGI_MIN(rows - r, 16), valid = AGI_MAX(AGI_MIN(n - r, c), 0);
        p_store_n(lse + r, p_zero(), c);
        p_store_n(lse + r, x, valid);
    }
}

// Decoding: the one new query of each head of one group, which share their keys. The same chains as in a tile, by the
// kernels for a few rows, which neither copy nor turn round anything in memory.
AGI_KERNEL void AGI_(attention_one)(void *arg, size_t task, int thread) {
    const AGI_(attend) *p = (const AGI_(attend) *)arg;
    const ag_attention_args *a = p->a;
    const int hs = a->HS, wide = AGI_UP16(hs), group = a->NH / a->NKV;
    const int b = (int)(task / (size_t)a->NKV), kvh = (int)(task % (size_t)a->NKV);
    const size_t width = (size_t)(a->NH + 2 * a->NKV) * hs, kv = (size_t)a->NKV * hs, at = agi_first(a, b);
    const float *new_k = a->qkv + at * width + (size_t)(a->NH + kvh) * hs, *k = new_k, *v = new_k + kv;
    const int start = a->k_cache && a->start ? a->start[b] : 0, len = a->len ? a->len[b] : 1;
    float *y = a->y + at * a->NH * hs + (size_t)kvh * group * hs;
    if (len < 1) {
        if (!a->first) memset(y, 0, (size_t)group * hs * sizeof(float));
        for (int r = 0; r < group && a->lse; r++) a->lse[(size_t)b * a->NH + kvh * group + r] = 0;
        return;
    }
    if (a->k_cache) {
        float *to_k = a->k_cache + agi_cached(a, b) * kv + (size_t)kvh * hs;
        float *to_v = a->v_cache + agi_cached(a, b) * kv + (size_t)kvh * hs;
        memcpy(to_k + (size_t)start * kv, k, (size_t)hs * sizeof(float));
        memcpy(to_v + (size_t)start * kv, v, (size_t)hs * sizeof(float));
        k = to_k, v = to_v;
    }
    float *s = (float *)agi_scratch(p->b, thread, AGI_FORWARD_FLOATS(hs) * sizeof(float)), *o = s + 4 * AGI_KEYS;
    for (int r0 = 0; r0 < group; r0 += 4) {
        const int rows = AGI_MIN(group - r0, 4);
        const float *q = a->qkv + at * width + (size_t)(kvh * group + r0) * hs;
        float m[4] = { -INFINITY, -INFINITY, -INFINITY, -INFINITY }, l[4 * 16], sum[16], inverse[16], lse[16];
        for (int j0 = 0; j0 <= start; j0 += AGI_KEYS) {
            const int keys = AGI_MIN(start + 1 - j0, AGI_KEYS);
            AGI_(skinny_turned)(rows, keys, hs, q, (size_t)hs, 1, k + j0 * kv, kv, s, AGI_KEYS, 0, NULL);
            for (int r = 0; r < rows; r++) {
                const float shrink = AGI_(softmax_block)(s + r * AGI_KEYS, keys, AGI_UP16(keys), p->scale, j0 == 0,
                                                         m + r, l + 16 * r);
                for (int d = 0; d < wide && shrink != 1; d += 16)
                    p_store(o + r * wide + d, p_mul(p_load(o + r * wide + d), p_set(shrink)));
            }
            AGI_(skinny)(rows, hs, keys, s, AGI_KEYS, 1, v + j0 * kv, kv, o, (size_t)wide, j0 > 0, NULL);
        }
        for (int r = 0; r < 16; r++) sum[r] = r < rows ? p_sum(p_load(l + 16 * r)) : 1;
        p_store(inverse, p_div(p_set(1), p_load(sum)));
        for (int r = 0; r < rows; r++) for (int d = 0; d < hs; d += 16)
            p_store_n(y + (r0 + r) * hs + d, p_mul(p_load(o + r * wide + d), p_set(inverse[r])), AGI_MIN(hs - d, 16));
        if (!a->lse) continue;
        p_store(lse, p_log(p_load(sum)));
        for (int r = 0; r < rows; r++) a->lse[(size_t)b * a->NH + kvh * group + r0 + r] = m[r] + lse[r];
    }
}

AGI_KERNEL int AGI_(attention)(ag_backend *b, const ag_attention_args *a) {
    if (a->B < 1 || a->T < 1) return 0;
    for (int t = 0; t < b->threads; t++)
        if (!agi_scratch(b, t, AGI_FORWARD_FLOATS(a->HS) * sizeof(float))) return -1;
    AGI_(attend) p;
    p.b = b, p.a = a, p.heads = a->NH, p.rows = a->T;
    p.tiles = (p.rows + AGI_QUERIES - 1) / AGI_QUERIES;
    p.scale = 1 / sqrtf((float)a->HS);
    if (a->T == 1) {
        double keys = 0;
        for (int i = 0; i < a->B; i++) keys += a->k_cache && a->start ? a->start[i] + 1 : 1;
        const size_t tasks = (size_t)a->B * a->NKV;
        if (2 * keys * a->NH * a->HS < AGI_SMALL_JOB)
            for (size_t i = 0; i < tasks; i++) AGI_(attention_one)(&p, i, 0);
        else agi_parallel(b, tasks, AGI_(attention_one), &p);
        return 0;
    }
    ag_attention_args copy = *a;
    if (a->k_cache) agi_parallel(b, (size_t)a->B, AGI_(attention_cache), &copy);
    agi_parallel(b, (size_t)a->B * p.heads * p.tiles, AGI_(attention_tile), &p);
    return 0;
}

// y and lse are those of the forward pass. One chain for each number: dq over keys; dk and dv over the queries of the
// first head of the group, then those of the second, and so on.
//
// All of one key head: its keys, its values and the queries of its group. Only this task writes their gradients.
AGI_KERNEL void AGI_(attention_back_head)(void *arg, size_t task, int thread) {
    const AGI_(attend) *p = (const AGI_(attend) *)arg;
    const ag_attention_args *a = p->a;
    const int b = (int)(task / a->NKV), kvh = (int)(task % a->NKV);
    const int hs = a->HS, wide = AGI_UP16(hs), group = a->NH / a->NKV;
    const size_t qs = (size_t)(a->NH + 2 * a->NKV) * hs, ys = (size_t)a->NH * hs;
    const int n = a->len ? AGI_MAX(AGI_MIN(a->len[b], a->T), 0) : a->T;
    const size_t q_at = agi_first(a, b) * qs + (size_t)kvh * group * hs;
    const size_t y_at = agi_first(a, b) * ys + (size_t)kvh * group * hs;
    const size_t k_at = agi_first(a, b) * qs + (size_t)(a->NH + kvh) * hs, v_at = k_at + (size_t)a->NKV * hs;

    float *work = (float *)agi_scratch(p->b, thread, AGI_BACK_FLOATS(hs, group, a->T) * sizeof(float));
    float *kt = work + AGI_WORK, *vt = kt + AGI_KEYS * wide, *kp = vt + AGI_KEYS * wide, *qp = kp + AGI_KEYS * wide;
    float *yp = qp + AGI_QUERIES * wide, *s = yp + AGI_QUERIES * wide, *ds = s + AGI_QUERIES * AGI_KEYS;
    float *D = ds + AGI_QUERIES * AGI_KEYS;
    for (int g = 0; g < group; g++) for (int i = 0; i < n; i++) {
        const float *y = a->y + y_at + i * ys + (size_t)g * hs, *dy = a->dy + y_at + i * ys + (size_t)g * hs;
        agi_p sum = p_zero();
        for (int d = 0; d < hs; d += 16)
            sum = p_fma(p_load_n(y + d, AGI_MIN(hs - d, 16), 0), p_load_n(dy + d, AGI_MIN(hs - d, 16), 0), sum);
        D[(size_t)g * a->T + i] = p_sum(sum);
    }
    for (int j0 = 0; j0 < n; j0 += AGI_KEYS) {
        const int keys = AGI_MIN(n - j0, AGI_KEYS);
        const float *k = a->qkv + k_at + j0 * qs;
        float *dk = a->dqkv + k_at + j0 * qs, *dv = a->dqkv + v_at + j0 * qs;
        size_t ks = qs;
        AGI_(pack_transposed)(kt, AGI_KEYS, k, qs, keys, hs, 0);
        AGI_(pack_transposed)(vt, AGI_KEYS, a->qkv + v_at + j0 * qs, qs, keys, hs, 0);
        if (hs % 16) AGI_(pack_plain)(kp, wide, k, qs, hs, keys), k = kp, ks = (size_t)wide;
        for (int g = 0; g < group; g++) for (int i0 = j0; i0 < n; i0 += AGI_QUERIES) {
            const int rows = AGI_MIN(n - i0, AGI_QUERIES), first = !a->accumulate && g == 0 && i0 == j0;
            const float *q = a->qkv + q_at + (size_t)g * hs + i0 * qs, *dy = a->dy + y_at + (size_t)g * hs + i0 * ys;
            const float *lse = a->lse + ((size_t)b * a->NH + kvh * group + g) * a->T + i0;
            const float *Di = D + (size_t)g * a->T + i0;
            float *dq = a->dqkv + q_at + (size_t)g * hs + i0 * qs;
            const agi_p scale = p_set(p->scale);
            for (int r0 = 0; r0 < rows; r0 += AGI_MR) {
                const int mr = AGI_MIN(rows - r0, AGI_MR), seen = AGI_MIN(i0 + r0 + mr - j0, keys), to = AGI_UP16(seen);
                float *sr = s + r0 * AGI_KEYS, *dsr = ds + r0 * AGI_KEYS;
                AGI_(scores)(mr, to, hs, q + r0 * qs, qs, kt, sr, work);
                AGI_(scores)(mr, to, hs, dy + r0 * ys, ys, vt, dsr, work);
                for (int r = r0; r < r0 + mr; r++, sr += AGI_KEYS, dsr += AGI_KEYS) {
                    const int nk = AGI_MIN(i0 + r + 1 - j0, keys);
                    const agi_p base = p_set(lse[r]), Dr = p_set(Di[r]);
                    int j = 0;
                    for (; j < nk; j += 16) {
                        const int c = AGI_MIN(nk - j, 16);
                        const agi_p x = p_exp(p_sub(p_mul(p_load_n(sr + j, c, -INFINITY), scale), base));
                        p_store(sr + j, x);
                        p_store(dsr + j, p_mul(p_mul(x, p_sub(p_load_n(dsr + j, c, 0), Dr)), scale));
                    }
                    for (; j < AGI_KEYS; j += 16) p_store(sr + j, p_zero()), p_store(dsr + j, p_zero());
                }
                AGI_(block)(0, mr, hs, seen, ds + r0 * AGI_KEYS, AGI_KEYS, 1, k, ks, AGI_NR, dq + r0 * qs, qs,
                            j0 > 0 || a->accumulate, NULL, work);
            }
            size_t qps = qs, yps = ys;
            if (hs % 16) {
                AGI_(pack_plain)(qp, wide, q, qs, hs, rows), q = qp, qps = (size_t)wide;
                AGI_(pack_plain)(yp, wide, dy, ys, hs, rows), dy = yp, yps = (size_t)wide;
            }
            // In the block on the diagonal, key c is seen from query c on: the zeros before that are left out.
            for (int c = 0; c < keys; c += AGI_MR) {
                const int mr = AGI_MIN(keys - c, AGI_MR), from = i0 == j0 ? c : 0;
                AGI_(block)(0, mr, hs, rows - from, s + from * AGI_KEYS + c, 1, AGI_KEYS, dy + from * yps, yps, AGI_NR,
                            dv + c * qs, qs, !first, NULL, work);
                AGI_(block)(0, mr, hs, rows - from, ds + from * AGI_KEYS + c, 1, AGI_KEYS, q + from * qps, qps, AGI_NR,
                            dk + c * qs, qs, !first, NULL, work);
            }
        }
    }
    for (int i = n; i < a->T && !a->accumulate && !a->first; i++) {
        memset(a->dqkv + q_at + i * qs, 0, (size_t)group * hs * sizeof(float));
        memset(a->dqkv + k_at + i * qs, 0, (size_t)hs * sizeof(float));
        memset(a->dqkv + v_at + i * qs, 0, (size_t)hs * sizeof(float));
    }
}

AGI_KERNEL int AGI_(attention_back)(ag_backend *b, const ag_attention_args *a) {
    if (a->B < 1 || a->T < 1) return 0;
    for (int t = 0; t < b->threads; t++)
        if (!agi_scratch(b, t, AGI_BACK_FLOATS(a->HS, a->NH / a->NKV, a->T) * sizeof(float))) return -1;
    AGI_(attend) p;
    memset(&p, 0, sizeof p);
    p.b = b, p.a = a, p.scale = 1 / sqrtf((float)a->HS);
    agi_parallel(b, (size_t)a->B * a->NKV, AGI_(attention_back_head), &p);
    return 0;
}

#undef AGI_SMALL_JOB
#undef AGI_FETCH
#undef AGI_ROW_DONE
#undef AGI_PRIVATE
#undef AGI_ALONE
#undef AGI_TILES
#undef AGI_THREE
#undef AGI_AMX
#undef AGI_AMX_TILE

#undef AGI_MR
#undef AGI_NP
#undef AGI_NR
#undef AGI_KC
#undef AGI_NC
#undef AGI_SKINNY
#undef AGI_SKINNY_CUT
#undef AGI_SLIM_B
#undef AGI_SLIM
#undef AGI_TURNED
#undef AGI_EDGE
#undef AGI_WORK
#undef AGI_TILE_ROWS
#undef AGI_HIDE
#undef AGI_TILE
#undef AGI_KEYS
#undef AGI_QUERIES
#undef AGI_UP16
#undef AGI_FORWARD_FLOATS
#undef AGI_BACK_FLOATS


// ---- the table of this instruction set ----
static void AGI_(install)(ag_backend *b) {
    b->fill = AGI_(fill);
    b->map = AGI_(map);
    b->map_back = AGI_(map_back);
    b->copy = AGI_(copy);
    b->reduce = AGI_(reduce);
    b->reduce_back = AGI_(reduce_back);
    b->matmul = AGI_(matmul);
    b->matmul_bf16 = AGI_(matmul_bf16), b->bf16 = "bf16/emulated";
    b->linear_gelu = AGI_(linear_gelu);
    b->gelu_bias_back = AGI_(gelu_bias_back);
    b->linear_int8 = AGI_(linear_int8);
    b->softmax = AGI_(softmax);
    b->softmax_back = AGI_(softmax_back);
    b->norm = AGI_(norm);
    b->norm_back = AGI_(norm_back);
    b->embedding = AGI_(embedding);
    b->embedding_back = AGI_(embedding_back);
    b->gather = AGI_(gather);
    b->gather_back = AGI_(gather_back);
    b->dropout = AGI_(dropout);
    b->attention = AGI_(attention);
    b->attention_back = AGI_(attention_back);
    b->qk_rope = AGI_(qk_rope);
    b->qk_rope_back = AGI_(qk_rope_back);
    b->swiglu = AGI_(swiglu);
    b->swiglu_back = AGI_(swiglu_back);
    b->nll = AGI_(nll);
    b->nll_back = AGI_(nll_back);
    b->sum_squares = AGI_(sum_squares);
    b->sgd = AGI_(sgd);
    b->adamw = AGI_(adamw);
}

#undef AGI_SUFFIX
#undef AGI_TARGET
#undef AGI_PASTE2
#undef AGI_PASTE
#undef AGI_
#undef AGI_KERNEL
#undef AGI_WORD
#undef AGI_CALLED
#undef AGI_LONG_WORD
#undef agi_r
#undef agi_p
#undef p_load
#undef p_store
#undef p_load_n
#undef p_store_n
#undef p_set
#undef p_zero
#undef p_add
#undef p_sub
#undef p_mul
#undef p_div
#undef p_sqrt
#undef p_min
#undef p_max
#undef p_fma
#undef p_fnma
#undef p_neg
#undef p_abs
#undef p_signed
#undef p_select_gt
#undef p_round
#undef p_pow2
#undef p_scale
#undef p_exponent
#undef p_mantissa
#undef p_swap
#undef p_sum
#undef p_hmax
#undef p_exp
#undef p_log
#undef p_tanh
#undef p_sigmoid
#undef p_gate
#undef p_dot
#undef AGI_LANES
#undef AGI_REGISTERS
#undef AGI_EACH
#undef r_load
#undef r_store
#undef r_set
#undef r_add
#undef r_sub
#undef r_mul
#undef r_div
#undef r_sqrt
#undef r_min
#undef r_max
#undef r_fma
#undef r_fnma
#undef r_neg
#undef r_abs
#undef r_signed
#undef r_select_gt
#undef r_round
#undef r_int
#undef r_pow2
#undef r_scale
#undef r_moved
#undef r_exponent
#undef r_mantissa
#undef r_pow2_int
#undef r_half
#undef AGI_SPLAT
#undef r_bits
#undef r_float
#undef AGI_LANE
#undef r_word
#undef r_sign
#undef AGI_ROUNDER
#undef AGI_WORD1
#undef AGI_WORD2
#undef AGI_WORD3
#undef AGI_LN2_HIGH
#undef AGI_LN2_LOW
#undef AGI_BY_CALL
#undef AGI_WIDE
#undef agi_w
#undef w_load
#undef w_store
#undef w_set
#undef w_add
#undef w_mul
#undef w_xor
#undef w_high
#undef AGI_ROW
#undef p_get
#undef p_put
#undef p_add_to
#undef AGI_GELU_2C
#undef AGI_A
#undef AGI_B
#undef AGI_C
#undef AGI_CASE
#undef AGI_D
#undef AGI_Y
#undef AGI_SLOPE
#endif // AGI_PASS
/*
MIT License

Copyright (c) 2026 the authors of autograd.h

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
*/
