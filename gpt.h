/*
gpt.h - a GPT to train, to talk to, and to read: GPT-2 itself, or the shape of Llama, on top of autograd.h.

In one C file of your program:              #define AUTOGRAD_IMPLEMENTATION
                                            #define GPT_IMPLEMENTATION
                                            #include "gpt.h"
in all others only:                         #include "gpt.h"
Compile with                                cc -O3 program.c -lm
It needs autograd.h beside it. (A C library older than glibc 2.34 also wants -pthread.)

EXAMPLE:
    #define AG_DIE_ON_ERROR
    #define AUTOGRAD_IMPLEMENTATION
    #define GPT_IMPLEMENTATION
    #include "gpt.h"

    int main(void) {                                        // two blocks learn a sentence by heart, letter by letter
        const char *text = "how much wood would a woodchuck chuck if a woodchuck could chuck wood? ";
        int tokens[284], x[4 * 64], y[4 * 64], out[56];
        for (int i = 0; i < 284; i++) tokens[i] = text[i % 71];
        ag_ctx *ag = ag_new(1337);
        gpt_config c = gpt_preset("nano-llama");
        c.n_vocab = 128, c.n_layer = 2;
        gpt_model *gpt = gpt_new(ag, &c);
        gpt_loader data = gpt_loader_new(ag, tokens, 284, GPT_RANDOM);
        gpt_optimizer muon = gpt_muon();
        for (int step = 0; step < 100; step++, ag_reset(ag)) {
            gpt_next(&data, 4, 64, x, y);                   // (4,64) tokens, and for each the one that follows
            ag_backward(ag_cross_entropy(gpt_forward(gpt, x, 4, 64), y, NULL));
            gpt_step(gpt, &muon, gpt_lr_linear(step, 5, 100, 0.7), NULL);       // moves the weights a little
        }
        gpt_sampling greedy = { 0, 0, 0, 0, NULL, 0 };
        int n = gpt_generate(gpt, &greedy, tokens, 9, out, 56, NULL, NULL);
        for (int i = 0; i < n; i++) putchar(i == n - 1 ? '\n' : out[i]);
    }

PRINTS:
    wood would a woodchuck chuck if a woodchuck could chuck

It does not: know text (tokens are numbers here; bpe.h makes them, or your own code does), offer layers to plug
together, keep weights in files as anything but float, or use more than one machine.

CONCEPTS
A text is a row of tokens: small numbers that stand for letters or parts of words. A GPT is a function from the tokens
so far to a score for each token that could follow, a logit; softmax makes probabilities of scores. Training compares
them with the token that did follow: the loss is -log of its probability, averaged (cross entropy), and about ln V
before anything is learned. Every position of a text is one exercise, so a batch of B rows of T tokens is B*T of them at
once.
Inside, each position carries a vector of C numbers, its channels; all of them together are the residual stream. It
begins as the token's row in a table, the embedding. Then L blocks add to it, each one twice: first attention, which
fetches what is useful from earlier positions (causal: never from later ones, or the answer would be known), then an
MLP, two matrices with a bend between them, which works on each position alone. In the end the head, one more matrix,
compares the vector with each token of the vocabulary. If it is the embedding's table again, it is called tied.
Generation asks for one token, appends it, asks again. Attention looks at two vectors of each older position, its key
and its value. They never change, so a KV cache keeps them: a further token costs one position of work and not T.
The training loop is yours: see the example. A new loss is an expression over gpt_forward or gpt_trunk; its backward
pass comes from autograd.h.

SHAPES   B batch, T time, C channels, V vocabulary, L layers, NH heads, NKV key heads, hs head size, H hidden size of
the MLP. Row-major, the last index is the fastest. Matrices are stored (in, out): y = x W.

MEMORY   Tensors belong to the context and live until ag_free. What you _new or _load you _free, in any order with
ag_free. Buffers for tokens and scores are yours. gpt_memory_needed tells what training will take, to the byte;
config.recompute takes a quarter less.

ERRORS   Functions return NULL or -1 (gpt_eval: NaN), and ag_error(ctx) tells what happened and where you called. Until
ag_clear_error everything else does nothing. With AG_DIE_ON_ERROR the first error is printed and ends the program.

OPTIONS, before the include
    GPT_MALLOC, GPT_FREE    AG_MALLOC...    your allocator; both or neither
    GPT_IO                  gpt_stdio()     a const gpt_io * expression: how files are reached
    AG_REAL, AG_DIE_ON_ERROR, AG_NAIVE      see autograd.h

SECURITY   Loaders treat every file as hostile: lengths, overlaps, checksums and shapes are checked before memory is
taken for them, and nothing in a file is ever executed. A valid file may still hold a model larger than your machine.

READING ORDER   GPT_PARAMS_TOP below is the whole model on one page; then chapter 2, the forward pass; chapter 3,
learning; chapter 4, generation; chapter 5, conversations and what reinforcement learning needs; chapters 1 and 6 when
you want to know how models are made, saved and loaded.
Licence: MIT, at the end.
*/
#ifndef GPT_H
#define GPT_H

#include "autograd.h"

#if defined(GPT_MALLOC) != defined(GPT_FREE)
#error "gpt.h: define both of GPT_MALLOC(bytes) and GPT_FREE(pointer), or neither"
#endif
#ifndef GPT_MALLOC
#define GPT_MALLOC(bytes) AG_MALLOC(bytes)
#define GPT_FREE(pointer) AG_FREE(pointer)
#endif

#ifdef __cplusplus
extern "C" {
#endif

// ---- configuration --------------------------------------------------------------------------------------------------
enum { GPT_SHAPE_GPT2, GPT_SHAPE_LLAMA };
enum { GPT_LAYERNORM = 1, GPT_RMSNORM };                    // norm
enum { GPT_LEARNED = 1, GPT_ROTARY };                       // position
enum { GPT_GELU = 1, GPT_SWIGLU, GPT_RELU2 };               // mlp; GPT_RELU2: max(0, x)^2 (So et al. 2021, "Primer")
typedef struct gpt_config {
    char name[24];                  // the preset's name, or whatever you like
    int shape;                      // GPT_SHAPE_GPT2: LayerNorm, learned positions, GELU; or
                                    // GPT_SHAPE_LLAMA: RMSNorm, rotary positions, SwiGLU
    int norm, position, mlp;        // 0: the shape's own; or a part of the other shape, to see what it is worth
    int n_layer, n_head, n_kv_head; // L, NH, NKV: key and value heads; NKV divides NH, in the gpt2 shape NKV == NH
    int n_embd;                     // C; the head size is hs = C / NH
    int n_ctx, n_vocab;             // T at most, V
    int n_hidden;                   // H, inside the MLP: 4*C, with SwiGLU, which has a matrix more, about 8/3*C
    int tied;                       // 1: the head is the embedding table; 0: it has a matrix of its own
    int bias;                       // 1 is GPT-2 itself, 0 leaves out the biases of linear layers and of LayerNorm; in
                                    // the llama shape linear layers have none
    int qk_norm;                    // RMSNorm on each query and key head; wants rotary positions
    int scalar;                     // 1: a scalar head as well, for rewards or values: gpt_scalar
    int recompute;                  // 1: backward computes norms, activations and rotations again, so that none is
                                    // kept: a quarter less memory, the same bits. Not in files
    int lora_rank;                  // rank of the adapters beside the blocks' matrices; 0: there are none. Then only
                                    // they and the scalar head are trained (Hu et al. 2021, "LoRA")
    double rope_theta, norm_eps;
    double dropout;                 // after the embedding and each residual projection, while training
    double lora_alpha;              // adapters count lora_alpha / lora_rank times
} gpt_config;

// "nano", "baby", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl" (gpt2 shape), "nano-llama", "small" (llama shape). The
// small ones leave n_vocab at 0, because it is your tokenizer's size. An unknown name is reported by gpt_new, with the
// known ones. All have dropout 0; nanoGPT's recipe for baby sets 0.2.
gpt_config  gpt_preset(const char *name);
const char *gpt_presets(void);                              // "nano|baby|gpt2|...", for options and messages

// Every parameter is written down once, in the lists GPT_PARAMS_TOP, _LAYER and _END below; this reads the list.
typedef struct gpt_param {
    char name[48];                  // as in files: "h.0.attn.c_attn.weight"
    int rows, cols;                 // (rows, cols), or (rows) when cols is 0; matrices are stored (in, out): y = x W
    size_t count;
    double std;                     // initial values: normal with this deviation; 0: all zeros; negative: all ones
    int decay, group;               // weight decay on two dimensions and more, as nanoGPT; GPT_GROUP_...
    const char *label;              // the name without the layer: a constant
} gpt_param;
enum { GPT_GROUP_OTHER, GPT_GROUP_MATRIX };                 // Muon steps the matrices of the blocks, AdamW the others
int    gpt_param_at(const gpt_config *c, int i, gpt_param *p);      // 1, or 0 past the last; c must be valid
size_t gpt_count(const gpt_config *c);                      // all parameters, nothing is allocated; 0: c is not valid
int    gpt_describe(const gpt_config *c, char *out, size_t size);   // a table, as text; returns the length, as snprintf

typedef struct gpt_memory {         // bytes
    size_t params, grads, optimizer;
    size_t activations;             // the tape of one step: results, and the gradients that are alive at once
    size_t total;
    size_t kv_cache;                                        // for B rows of n_ctx positions (not part of the total)
} gpt_memory;
enum { GPT_ADAMW, GPT_MUON };
// Exactly what ag_memory_used will say of a training step of B texts of T tokens, found by a step that computes nothing
// (ag_new_dry). Not counted: what the kernels pack, a few MB a thread. All 0: c is not valid, or the batch too large.
gpt_memory gpt_memory_needed(const gpt_config *c, int B, int T, int optimizer_kind);

// ---- the model ------------------------------------------------------------------------------------------------------
// One line for each parameter: field, where it exists, name in the gpt2 shape (Hugging Face's names, so that the files
// can be exchanged), name in the llama shape, rows, columns (0: a vector), standard deviation at the start (GPT-2's:
// 0.02, and 0.02/sqrt(2L) for what adds to the residual stream; ONES; 0), group. Q = (NH+2*NKV)*hs: queries, keys and
// values side by side; U: columns of the up projection, H, or gate and up side by side, 2H, with SwiGLU; rms, rotary: 1
// with that norm and those positions.
// Adapters stand at the end of a block: R is their rank, lora_a (in,R) starts random, lora_b (R,out) at 0.
#define GPT_PARAMS_TOP(X) \
    X(wte,      1,                "wte.weight",  "wte.weight",  V, C, 0.02, GPT_GROUP_OTHER) \
    X(wpe,      !rotary,          "wpe.weight",  "wpe.weight",  T, C, 0.02, GPT_GROUP_OTHER)
#define GPT_PARAMS_LAYER(X) \
    X(norm_1,   1,                "ln_1.weight",        "norm_1.weight",      C,  0, ONES, GPT_GROUP_OTHER) \
    X(norm_1_b, !rms && c->bias,  "ln_1.bias",          "norm_1.bias",        C,  0, 0,    GPT_GROUP_OTHER) \
    X(qkv,      1,                "attn.c_attn.weight", "attn.qkv.weight",    C,  Q, 0.02, GPT_GROUP_MATRIX) \
    X(qkv_b,    !llama && c->bias, "attn.c_attn.bias",  "",                   Q,  0, 0,    GPT_GROUP_OTHER) \
    X(q_norm,   c->qk_norm,       "attn.q_norm.weight", "attn.q_norm.weight", hs, 0, ONES, GPT_GROUP_OTHER) \
    X(k_norm,   c->qk_norm,       "attn.k_norm.weight", "attn.k_norm.weight", hs, 0, ONES, GPT_GROUP_OTHER) \
    X(proj,     1,                "attn.c_proj.weight", "attn.proj.weight",   C,  C, RESIDUAL, GPT_GROUP_MATRIX) \
    X(proj_b,   !llama && c->bias, "attn.c_proj.bias",  "",                   C,  0, 0,    GPT_GROUP_OTHER) \
    X(norm_2,   1,                "ln_2.weight",        "norm_2.weight",      C,  0, ONES, GPT_GROUP_OTHER) \
    X(norm_2_b, !rms && c->bias,  "ln_2.bias",          "norm_2.bias",        C,  0, 0,    GPT_GROUP_OTHER) \
    X(up,       1,                "mlp.c_fc.weight",    "mlp.gate_up.weight", C,  U, 0.02, GPT_GROUP_MATRIX) \
    X(up_b,     !llama && c->bias, "mlp.c_fc.bias",     "",                   U,  0, 0,    GPT_GROUP_OTHER) \
    X(down,     1,                "mlp.c_proj.weight",  "mlp.down.weight",    H,  C, RESIDUAL, GPT_GROUP_MATRIX) \
    X(down_b,   !llama && c->bias, "mlp.c_proj.bias",   "",                   C,  0, 0,    GPT_GROUP_OTHER) \
    X(qkv_a,    R, "attn.c_attn.lora_a", "attn.qkv.lora_a",    C, R, 1 / sqrt(1.0 * C), GPT_GROUP_OTHER) \
    X(qkv_z,    R, "attn.c_attn.lora_b", "attn.qkv.lora_b",    R, Q, 0, GPT_GROUP_OTHER) \
    X(proj_a,   R, "attn.c_proj.lora_a", "attn.proj.lora_a",   C, R, 1 / sqrt(1.0 * C), GPT_GROUP_OTHER) \
    X(proj_z,   R, "attn.c_proj.lora_b", "attn.proj.lora_b",   R, C, 0, GPT_GROUP_OTHER) \
    X(up_a,     R, "mlp.c_fc.lora_a",    "mlp.gate_up.lora_a", C, R, 1 / sqrt(1.0 * C), GPT_GROUP_OTHER) \
    X(up_z,     R, "mlp.c_fc.lora_b",    "mlp.gate_up.lora_b", R, U, 0, GPT_GROUP_OTHER) \
    X(down_a,   R, "mlp.c_proj.lora_a",  "mlp.down.lora_a",    H, R, 1 / sqrt(1.0 * H), GPT_GROUP_OTHER) \
    X(down_z,   R, "mlp.c_proj.lora_b",  "mlp.down.lora_b",    R, C, 0, GPT_GROUP_OTHER)
#define GPT_PARAMS_END(X) \
    X(norm_f,   1,                "ln_f.weight", "norm_f.weight", C, 0, ONES, GPT_GROUP_OTHER) \
    X(norm_f_b, !rms && c->bias,  "ln_f.bias",   "norm_f.bias",   C, 0, 0,    GPT_GROUP_OTHER) \
    X(head,     !c->tied,         "head.weight", "head.weight",   C, V, 0.02, GPT_GROUP_OTHER) \
    X(score,    c->scalar,        "scalar.weight", "scalar.weight", C, 1, 0,  GPT_GROUP_OTHER) \
    X(score_b,  c->scalar,        "scalar.bias", "scalar.bias",   1, 0, 0,    GPT_GROUP_OTHER)

#define GPT_FIELD(field, exists, gpt2_name, llama_name, rows, cols, std, group) ag_tensor *field;
typedef struct gpt_layer { GPT_PARAMS_LAYER(GPT_FIELD) } gpt_layer;      // NULL where a parameter does not exist
typedef struct gpt_model {
    ag_ctx *ctx;
    gpt_config config;
    GPT_PARAMS_TOP(GPT_FIELD)
    gpt_layer *layer;               // (L)
    GPT_PARAMS_END(GPT_FIELD)
    int training;                   // dropout is active: see gpt_train
    struct gpti_private *own;       // KV caches and scratch
} gpt_model;
#undef GPT_FIELD

// The tensors belong to ctx and live until ag_free; gpt_free frees the rest, before or after ag_free. NULL: an error.
gpt_model *gpt_new(ag_ctx *ctx, const gpt_config *c);
void       gpt_free(gpt_model *m);
ag_tensor *gpt_tensor(const gpt_model *m, const char *name);        // a parameter by its name in files, or NULL

// ids (B,T) -> logits (B,T,V): row b, position t holds the scores of the token that follows ids[b,0..t].
ag_tensor *gpt_forward(gpt_model *m, const int *ids, int B, int T);
// The two halves of it. x (B,T,C) is what the last norm returns: heads for rewards and values go there. len (B) or
// NULL: row b is right-padded after len[b] positions. Padding costs nothing, may hold anything, and becomes zeros; all
// other positions have the same bits with or without it.
ag_tensor *gpt_trunk(gpt_model *m, const int *ids, int B, int T, const int *len);
ag_tensor *gpt_head(gpt_model *m, ag_tensor *x);                    // (...,C) -> (...,V)
ag_tensor *gpt_scalar(gpt_model *m, ag_tensor *x);                  // (B,T,C) -> (B,T), (n,C) -> (n): config.scalar
// Dropout on (1) or off (0); returns the old setting. New and resumed models train, loaded ones do not; gpt_eval and
// generation never drop. Attention weights have no dropout: there is no (T,T) matrix that it could be applied to.
int        gpt_train(gpt_model *m, int on);

// ---- learning -------------------------------------------------------------------------------------------------------
typedef struct gpt_optimizer {
    int kind;                       // GPT_ADAMW, or GPT_MUON: Muon on the blocks' matrices, AdamW on the rest
    double lr, lr_muon;             // peak rates of AdamW and of Muon
    double beta1, beta2, eps, weight_decay;                 // AdamW's; Muon decays by the same weight_decay
    double momentum;                // Muon's
    double clip;                    // the gradient is scaled down to this norm; 0: never
} gpt_optimizer;
gpt_optimizer gpt_adamw(void);      // nanoGPT's for characters: lr 1e-3, betas 0.9 and 0.99, decay 0.1, clip 1
gpt_optimizer gpt_muon(void);       // lr_muon 0.03, lr 3e-3, betas 0.9 and 0.95, no decay, clip 1
// Clips, steps and zeroes the gradients. Returns 0; or -1, and no parameter has changed, when a gradient is not finite
// (the error names the first bad one). lr_factor comes from a schedule. grad_norm (before clipping) may be NULL.
int gpt_step(gpt_model *m, const gpt_optimizer *o, double lr_factor, double *grad_norm);

// Schedules give a factor of the peak rate for step 0, 1, ... total-1. Both rise linearly over the warm-up.
double gpt_lr_cosine(long step, long warmup, long total, double min_factor);    // half a cosine down to min_factor
// Constant, then linear to zero over the last part of the steps (0.7: the last 70 percent).
double gpt_lr_linear(long step, long warmup, long total, double last_part);

// ---- data -----------------------------------------------------------------------------------------------------------
// Windows of T+1 tokens: x is the first T, y (targets) is the last T. GPT_RANDOM: any offset with the same probability,
// as nanoGPT does. GPT_SEQUENTIAL: one window after the other, and from the start again when too little is left.
// GPT_SHUFFLED: disjoint windows in random order, each once in an epoch; every epoch cuts the text at other places and
// has another order. Of four epochs' worth of random windows a token is in about four, but in none with 2 %, in eight
// and more with 5 %: the same number of steps learns more from windows that treat all tokens alike.
enum { GPT_RANDOM, GPT_SEQUENTIAL, GPT_SHUFFLED };
typedef struct gpt_loader {
    ag_ctx *ctx;                    // its stream AG_RNG_DATA decides; errors go there
    const int *tokens;              // (n), borrowed
    size_t n;
    int order;
    uint64_t cursor;                // windows given so far; GPT_SEQUENTIAL: where the next one begins
    double repeats;                 // not GPT_SEQUENTIAL: share of windows whose passages come again; 0 at first
} gpt_loader;                       // the cursor and the stream are the whole state, and gpt_save keeps both
gpt_loader gpt_loader_new(ag_ctx *ctx, const int *tokens, size_t n, int order);
int        gpt_next(gpt_loader *l, int B, int T, int *x, int *y);   // x, y (B,T); -1: n < T+1 or a bad argument

// Mean loss in nats over every disjoint window of n_ctx tokens (the last one may be shorter), so over all n-1 targets.
// B windows at a time, the same bits for any B. No gradient, no dropout, nothing stays on the tape. NaN after an error.
double gpt_eval(gpt_model *m, const int *tokens, size_t n, int B);

// ---- generation -----------------------------------------------------------------------------------------------------
// Filters apply in the order of the fields, each to what the one before has left (renormalised). All zero is greedy.
typedef struct gpt_sampling {
    double temperature;             // 0: greedy; 1: the model's own distribution
    int top_k;                      // only the k likeliest; 0: all
    double top_p;                   // only the likeliest until their sum reaches p (Holtzman et al. 2019); 0 or 1: all
    double min_p;                   // only those with at least p times the probability of the likeliest; 0: all
    const int *stop;                // (n_stop) tokens that end a row, or NULL; they become part of the output
    int n_stop;
} gpt_sampling;

// One distribution: logits (V) -> probs (V), sum 1. Ties go to the lower id. 0, or -1.
int gpt_probs(gpt_model *m, const gpt_sampling *s, const ag_real *logits, ag_real *probs);
// A token from that distribution, or -1. rng NULL: the context's stream AG_RNG_SAMPLE.
int gpt_sample(gpt_model *m, const gpt_sampling *s, const ag_real *logits, ag_rng *rng);

// A KV cache: what attention has to remember of the tokens so far, for a fixed number of rows. Its tensors belong to
// the context, and gpt_cache_free keeps them for the next gpt_cache_new. Free it before the model.
typedef struct gpt_cache gpt_cache;
gpt_cache *gpt_cache_new(gpt_model *m, int rows);
void       gpt_cache_free(gpt_cache *k);
int        gpt_cache_length(const gpt_cache *k, int row);           // tokens so far; at most n_ctx
void       gpt_cache_truncate(gpt_cache *k, int row, int length);   // forgets all tokens after the first `length`
int        gpt_cache_copy(gpt_cache *k, int to, int from);          // row `to` becomes a copy of row `from`
// Feeds ids (rows,T) behind what is there, and writes logits (rows,V) of each row's last token: the same bits as
// gpt_forward over the whole text. len (rows) or NULL: row b gets the first len[b] of its T ids; a row with 0 stays as
// it is, and its logits are not written. A prompt and a single token are fed alike. 0, or -1: nothing was fed.
int        gpt_feed(gpt_cache *k, const int *ids, int T, const int *len, ag_real *logits);

// Generation in a fraction of the time, and a little less exact: on 1, all matrices of the blocks and the head have
// copies in int8, and every product uses them (see ag_quantize); embeddings, norms, adapters and activations stay
// float. Such a model does not learn: a forward pass that records gradients is an error. on 0: the floats again. 0, -1.
int        gpt_quantize(gpt_model *m, int on);

// Continues prompt (n tokens, at least one) by up to cap tokens into out. each (or NULL) is called for each new token
// and ends the row by returning non-zero. Returns the number of new tokens, or -1. When the context is full, the last
// half of it is fed again and the rest is forgotten (a prompt longer than n_ctx keeps its last n_ctx tokens).
typedef int (*gpt_each)(void *user, int row, int id);
int gpt_generate(gpt_model *m, const gpt_sampling *s, const int *prompt, int n, int *out, int cap, gpt_each each,
                 void *user);
// B prompts at a time: prompts[b] has n[b] tokens, out is (B,cap), n_out (B). Every row draws from a stream of its own,
// so the rows are what B calls of gpt_generate would give. 0, or -1. Many continuations of one prompt: give it several
// times in succession. It is read once, and the further rows get a copy of its keys and values, which costs far less
// than one token does.
int gpt_generate_batch(gpt_model *m, const gpt_sampling *s, int B, const int *const *prompts, const int *n, int *out,
                       int cap, int *n_out, gpt_each each, void *user);
// Beam search: the continuations with the highest score = log p(tokens) / length^length_power, best first; only the
// stop tokens of s (or NULL) are used. out (beams,cap), n_out (beams), scores (beams). n + cap <= n_ctx + 1, because
// the last token need not be fed. Returns how many there are, or -1.
int gpt_beam(gpt_model *m, const gpt_sampling *s, const int *prompt, int n, int beams, double length_power, int *out,
             int cap, int *n_out, double *scores);

// ---- after pretraining ----------------------------------------------------------------------------------------------
// m again, as a new model in ctx (m's own, or another) with configuration c, which may differ from m's in these fields:
//   n_vocab     larger: each new token begins as the mean of the old ones (a tied row of zeros would give it the score
//               0, above most others)
//   scalar      1: a scalar head, all zeros at first; 0: without
//   lora_rank   a new rank: adapters that change nothing yet; 0: what adapters have learned goes into the matrices
//   dropout, lora_alpha (together with a new rank), name
// NULL for c is a plain copy. The optimizer starts fresh. NULL: an error, which names what c must not change.
gpt_model *gpt_adapt(ag_ctx *ctx, gpt_model *m, const gpt_config *c);
gpt_model *gpt_grow(ag_ctx *ctx, gpt_model *m, int n_vocab);        // gpt_adapt to so many tokens
void       gpt_freeze(gpt_model *m);                                // no parameter of m learns: a reference

// Texts of different lengths stand in one array: ids (B,T), row b right-padded after len[b] tokens. mask (B,T) says
// which tokens count (NULL: all). targets (B,T): at position t what the model should say next, ids[b,t+1]; AG_IGNORE
// where that token does not count or is padding. The loss of fine-tuning is ag_cross_entropy with these, or minus the
// mean of gpt_logprobs, where only what counts goes through the head.
void       gpt_targets(const int *ids, const unsigned char *mask, int B, int T, const int *len, int *targets);
// At position t the log-probability of token t+1, with gradient, and 0 where that token does not count: (B,T).
ag_tensor *gpt_logprobs(gpt_model *m, const int *ids, const unsigned char *mask, int B, int T, const int *len);
// gpt_generate_batch, and the log-probability of each new token: logprobs (B,cap). The model's own, before temperature
// and filters, and to the last bit what gpt_logprobs says of the finished text: so PPO's first ratio is exactly 1.
int        gpt_rollout(gpt_model *m, const gpt_sampling *s, int B, const int *const *prompts, const int *n, int *out,
                       int cap, int *n_out, ag_real *logprobs);

// ---- conversations --------------------------------------------------------------------------------------------------
// A language model only continues a text. It becomes a partner in conversation when the text says who speaks, by
// special tokens in an order that is a mere convention, a template. The one that it was trained with is the one to use.
enum { GPT_SYSTEM, GPT_USER, GPT_ASSISTANT, GPT_TOOL, GPT_ROLES };
typedef struct gpt_message {
    int role;                       // GPT_USER, ...
    const char *text;               // what is said; ends in 0
    int trusted;                    // 1: "<|...|>" in text are special tokens. Only for text that your program wrote:
} gpt_message;                      // never for what a user, a file or a tool said, or they could speak for others
typedef struct gpt_template {
    const char *name;
    const char *begin, *between, *end, *after;  // <begin>role<between>text<end><after>; "%s" in begin is the role
} gpt_template;
// "im": <|im_start|>user\nHello<|im_end|>\n     "sep": <|im_start|>user<|im_sep|>Hello<|im_end|>
// "tags": <|user|>\nHello<|end|>\n               NULL: no such template
const gpt_template *gpt_template_find(const char *name);
// The reader's tokenizer. encode: text to at most cap ids, returns the number wanted, as snprintf; never a special
// token, whatever the text. special: the id of a special token, or negative. piece: the bytes of an id.
typedef struct gpt_text {
    void *tokenizer;
    long (*encode)(void *tokenizer, const char *text, size_t n, int *ids, size_t cap);
    int (*special)(void *tokenizer, const char *name);
    const char *(*piece)(void *tokenizer, int id, size_t *n);
} gpt_text;
// n messages -> ids and mask (cap each), which is 1 for what the assistant said and for the <end> after it, which it
// has to learn to say, and 0 for all else. reply 1: ends with the beginning of the assistant's next message. Returns
// the number of tokens, which may be more than cap, or -1.
long   gpt_chat(ag_ctx *ctx, const gpt_template *t, const gpt_text *by, const gpt_message *messages, int n, int reply,
                int *ids, unsigned char *mask, size_t cap);
// The tokens as text for a terminal, those with mask 1 in green, the others in grey. Writes at most cap bytes with the
// final 0, returns how many the whole text has.
size_t gpt_show_mask(const gpt_text *by, const int *ids, const unsigned char *mask, size_t n, char *out, size_t cap);

// ---- files ----------------------------------------------------------------------------------------------------------
// A checkpoint is one safetensors file: weights under their names, the optimizer's moments as "optim.m/NAME" and
// "optim.v/NAME", its step counts as "optim.steps", the tokenizer's bytes as "tokenizer"; the rest in __metadata__.
typedef struct gpt_state {
    long long step;                 // training steps done
    uint64_t cursor;                // gpt_loader's
    double train_loss, val_loss, best_val_loss;
    char *notes;                    // lines "key=value\n" of yours, or NULL
    unsigned char *tokenizer;       // opaque bytes (bpe_save_mem), or NULL
    size_t tokenizer_size;
    size_t not_finite;              // set by loading: how many weights are NaN or infinite
    char matmul[24];                // set by loading: how the products were computed (ag_matmul_path) ...
    int other_path;                 // ... and by gpt_resume, 1: it was in bfloat16 in another way than on this machine,
                                    // so that training goes on, but not with the bits that it would have had there
} gpt_state;                        // zero it first; for saving it borrows; what loading puts in, gpt_state_free frees
void gpt_state_free(gpt_state *s);
int  gpt_note(const gpt_state *s, const char *key, char *value, size_t size);   // copies the value. 1; 0: no such key

// Atomic: a temporary file in the same directory, checked writes, fsync, rename. After an error the old file is still
// there. state NULL writes weights alone, for others to read; else optimizer state and random streams go along.
int        gpt_save(gpt_model *m, const char *path, const gpt_state *state);
// Reads our own checkpoints, and GPT-2's safetensors from Hugging Face (F32, F16, BF16) whose heads have 64 channels,
// as GPT-2's have. state (or NULL) receives the rest. NULL: an error; tensors made until then stay in ctx, unused.
gpt_model *gpt_load(ag_ctx *ctx, const char *path, gpt_state *state);
gpt_model *gpt_load_mem(ag_ctx *ctx, const void *bytes, size_t size, gpt_state *state);
// The same, and the optimizer's moments, the context's random streams and its precision of products too: training goes
// on with the same bits.
gpt_model *gpt_resume(ag_ctx *ctx, const char *path, gpt_state *state);
// Weights into a model that exists; its config has to match. For files that do not tell their number of heads.
int        gpt_load_into(gpt_model *m, const char *path);
gpt_model *gpt_load_llama2c(ag_ctx *ctx, const char *path);         // llama2.c's legacy .bin

// How files are reached. Define GPT_IO as an expression of type const gpt_io * to replace it (tests let every call fail
// once). Each function returns 0 or more, or -1 (open: NULL) with errno set.
typedef struct gpt_io {
    void *(*open)(const char *path, int writing);           // writing: the file must not exist yet
    long  (*read)(void *file, void *to, size_t n);          // bytes read, 0 at the end
    int   (*write)(void *file, const void *from, size_t n); // all of it
    int   (*patch)(void *file, size_t offset, const void *from, size_t n);
    int   (*sync)(void *file);
    int   (*close)(void *file);
    int   (*rename)(const char *from, const char *to);      // replaces `to`
    int   (*remove)(const char *path);
    int   (*sync_dir)(const char *path);                    // of the directory that holds path
    void  (*sweep)(const char *path);                       // removes temporary files that dead processes left for path
} gpt_io;
const gpt_io *gpt_stdio(void);

// An error names the place where the reader called: these functions note it on the way, as the ops of autograd.h do.
gpt_model *gpt_at(gpt_model *m, const char *file, int line);
gpt_loader *gpt_loader_at(gpt_loader *l, const char *file, int line);
gpt_cache *gpt_cache_at(gpt_cache *k, const char *file, int line);
#define GPT_AT(m) gpt_at(m, __FILE__, __LINE__)
#define GPT_LOADER_AT(l) gpt_loader_at(l, __FILE__, __LINE__)
#define GPT_CACHE_AT(k) gpt_cache_at(k, __FILE__, __LINE__)
#define gpt_new(ctx, c) gpt_new(AG_CTX_AT(ctx), c)
#define gpt_load(ctx, path, state) gpt_load(AG_CTX_AT(ctx), path, state)
#define gpt_load_mem(ctx, bytes, size, state) gpt_load_mem(AG_CTX_AT(ctx), bytes, size, state)
#define gpt_resume(ctx, path, state) gpt_resume(AG_CTX_AT(ctx), path, state)
#define gpt_load_llama2c(ctx, path) gpt_load_llama2c(AG_CTX_AT(ctx), path)
#define gpt_loader_new(ctx, tokens, n, order) gpt_loader_new(AG_CTX_AT(ctx), tokens, n, order)
#define gpt_next(l, B, T, x, y) gpt_next(GPT_LOADER_AT(l), B, T, x, y)
#define gpt_load_into(m, path) gpt_load_into(GPT_AT(m), path)
#define gpt_save(m, path, state) gpt_save(GPT_AT(m), path, state)
#define gpt_forward(m, ids, B, T) gpt_forward(GPT_AT(m), ids, B, T)
#define gpt_trunk(m, ids, B, T, len) gpt_trunk(GPT_AT(m), ids, B, T, len)
#define gpt_step(m, o, lr_factor, grad_norm) gpt_step(GPT_AT(m), o, lr_factor, grad_norm)
#define gpt_eval(m, tokens, n, B) gpt_eval(GPT_AT(m), tokens, n, B)
#define gpt_probs(m, s, logits, probs) gpt_probs(GPT_AT(m), s, logits, probs)
#define gpt_sample(m, s, logits, rng) gpt_sample(GPT_AT(m), s, logits, rng)
#define gpt_cache_new(m, rows) gpt_cache_new(GPT_AT(m), rows)
#define gpt_cache_copy(k, to, from) gpt_cache_copy(GPT_CACHE_AT(k), to, from)
#define gpt_quantize(m, on) gpt_quantize(GPT_AT(m), on)
#define gpt_feed(k, ids, T, len, logits) gpt_feed(GPT_CACHE_AT(k), ids, T, len, logits)
#define gpt_generate(m, s, prompt, n, out, cap, each, user) gpt_generate(GPT_AT(m), s, prompt, n, out, cap, each, user)
#define gpt_adapt(ctx, m, c) gpt_adapt(AG_CTX_AT(ctx), m, c)
#define gpt_grow(ctx, m, n_vocab) gpt_grow(AG_CTX_AT(ctx), m, n_vocab)
#define gpt_scalar(m, x) gpt_scalar(GPT_AT(m), x)
#define gpt_logprobs(m, ids, mask, B, T, len) gpt_logprobs(GPT_AT(m), ids, mask, B, T, len)
#define gpt_rollout(m, s, B, prompts, n, out, cap, n_out, logprobs) \
    gpt_rollout(GPT_AT(m), s, B, prompts, n, out, cap, n_out, logprobs)
#define gpt_chat(ctx, t, by, messages, n, reply, ids, mask, cap) \
    gpt_chat(AG_CTX_AT(ctx), t, by, messages, n, reply, ids, mask, cap)
#define gpt_generate_batch(m, s, B, prompts, n, out, cap, n_out, each, user) \
    gpt_generate_batch(GPT_AT(m), s, B, prompts, n, out, cap, n_out, each, user)
#define gpt_beam(m, s, prompt, n, beams, length_power, out, cap, n_out, scores) \
    gpt_beam(GPT_AT(m), s, prompt, n, beams, length_power, out, cap, n_out, scores)

#ifdef __cplusplus
}
#endif
#endif // GPT_H

// ====================================================================================================================
// Implementation
// ====================================================================================================================
#if defined(GPT_IMPLEMENTATION) && !defined(GPT_IMPLEMENTED)
#define GPT_IMPLEMENTED

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__clang__)                          // no multiply-add where none is written: see autograd.h
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC push_options
#pragma GCC optimize("fp-contract=off")
#endif

// Inside this file a call leaves the reader's place as it is.
#undef AG_AT
#undef AG_CTX_AT
#undef GPT_AT
#undef GPT_LOADER_AT
#undef GPT_CACHE_AT
#define AG_AT(tensor) tensor
#define AG_CTX_AT(ctx) ctx
#define GPT_AT(m) m
#define GPT_LOADER_AT(l) l
#define GPT_CACHE_AT(k) k

gpt_model *gpt_at(gpt_model *m, const char *file, int line) {
    if (m) ag_ctx_at(m->ctx, file, line);
    return m;
}
gpt_loader *gpt_loader_at(gpt_loader *l, const char *file, int line) {
    if (l) ag_ctx_at(l->ctx, file, line);
    return l;
}

// ====================================================================================================================
// Chapter 1: what a model is made of
// ====================================================================================================================
// A configuration is a dozen numbers; from them follows a list of parameters, each with a name, a shape and a way to
// start; and from the list follows everything else: the model's memory, its file, its description.
// ---- presets --------------------------------------------------------------------------------------------------------
// name, shape, L, NH, C, T, V, H, tied, QK norm. nano and baby are nanoGPT's recipes for a CPU and for one GPU; the
// four of OpenAI are Radford et al. 2019. H of the llama shape is 8/3*C, rounded up to a multiple of 32: three matrices
// of that size weigh as much as two of 4*C.
#define GPTI_PRESETS(X) \
    X("nano",        GPT_SHAPE_GPT2,  4,  4,  128,   64,     0,  512, 1, 0) \
    X("baby",        GPT_SHAPE_GPT2,  6,  6,  384,  256,     0, 1536, 1, 0) \
    X("gpt2",        GPT_SHAPE_GPT2,  12, 12, 768,  1024, 50257, 3072, 1, 0) \
    X("gpt2-medium", GPT_SHAPE_GPT2,  24, 16, 1024, 1024, 50257, 4096, 1, 0) \
    X("gpt2-large",  GPT_SHAPE_GPT2,  36, 20, 1280, 1024, 50257, 5120, 1, 0) \
    X("gpt2-xl",     GPT_SHAPE_GPT2,  48, 25, 1600, 1024, 50257, 6400, 1, 0) \
    X("nano-llama",  GPT_SHAPE_LLAMA, 4,  4,  128,   64,     0,  352, 0, 1) \
    X("small",       GPT_SHAPE_LLAMA, 6,  6,  192,  256,     0,  512, 0, 1)

const char *gpt_presets(void) {
#define GPTI_NAME(name, shape, L, NH, C, T, V, H, tied, qk) "|" name
    static const char names[] = GPTI_PRESETS(GPTI_NAME);
#undef GPTI_NAME
    return names + 1;
}

gpt_config gpt_preset(const char *name) {
    gpt_config c;
    memset(&c, 0, sizeof c);
    snprintf(c.name, sizeof c.name, "%s", name ? name : "(NULL)");      // if nothing below knows it, gpt_new says so
#define GPTI_FILL(preset, s, L, NH, C, T, V, H, is_tied, qk) \
    if (!strcmp(c.name, preset)) \
        c.shape = s, c.n_layer = L, c.n_head = c.n_kv_head = NH, c.n_embd = C, c.n_ctx = T, c.n_vocab = V, \
        c.n_hidden = H, c.tied = is_tied, c.qk_norm = qk, c.bias = s == GPT_SHAPE_GPT2, c.rope_theta = 10000, \
        c.norm_eps = 1e-5;
    GPTI_PRESETS(GPTI_FILL)
#undef GPTI_FILL
    return c;
}

// Every whole number of a configuration, with its limits: checking, saving and loading expand from here.
#define GPTI_CONFIG_INTS(X) \
    X(shape, 0, 1) X(n_layer, 1, 4096) X(n_head, 1, 65536) X(n_kv_head, 1, 65536) X(n_embd, 1, 1 << 20) \
    X(n_ctx, 1, 1 << 24) X(n_vocab, 1, 1 << 24) X(n_hidden, 1, 1 << 24) X(tied, 0, 1) X(bias, 0, 1) X(qk_norm, 0, 1) \
    X(scalar, 0, 1) X(lora_rank, 0, 1 << 16)
// Parts that differ from the shape's own: 0 is not written, so files of the plain shapes are what they were before.
#define GPTI_CONFIG_PARTS(X) X(norm, 0, 2) X(position, 0, 2) X(mlp, 0, 3)
#define GPTI_CONFIG_REALS(X) X(rope_theta) X(norm_eps) X(dropout) X(lora_alpha)

static int gpti_rms(const gpt_config *c) { return c->norm ? c->norm == GPT_RMSNORM : c->shape == GPT_SHAPE_LLAMA; }
static int gpti_rotary(const gpt_config *c) {
    return c->position ? c->position == GPT_ROTARY : c->shape == GPT_SHAPE_LLAMA;
}
static int gpti_mlp(const gpt_config *c) {
    return c->mlp ? c->mlp : c->shape == GPT_SHAPE_LLAMA ? GPT_SWIGLU : GPT_GELU;
}

// A part that is the shape's own anyway becomes 0: so one model has one description, and one file.
static void gpti_plain(gpt_config *c) {
    const gpt_config was = *c;
    c->norm = c->position = c->mlp = 0;
    if (gpti_rms(&was) != gpti_rms(c)) c->norm = was.norm;
    if (gpti_rotary(&was) != gpti_rotary(c)) c->position = was.position;
    if (gpti_mlp(&was) != gpti_mlp(c)) c->mlp = was.mlp;
}

// 0, or -1 and the reason: what a model cannot have, and what would overflow further down. Nothing is allocated before.
static int gpti_check(const gpt_config *c, char *why, size_t size) {
    gpt_param p;
    double total = 0;
    if (!c) { snprintf(why, size, "the configuration is NULL"); return -1; }
    if (!c->n_layer && !c->n_embd) {
        snprintf(why, size, "there is no preset \"%.24s\": choose one of %s", c->name, gpt_presets());
        return -1;
    }
    if (c->n_vocab == 0) {
        snprintf(why, size, "n_vocab is 0: set it to the size of your tokenizer's vocabulary");
        return -1;
    }
#define GPTI_RANGE(field, low, high) if (c->field < (low) || c->field > (high)) { \
        snprintf(why, size, #field " is %d, wanted %d to %d", c->field, low, high); return -1; }
    GPTI_CONFIG_INTS(GPTI_RANGE)
    GPTI_CONFIG_PARTS(GPTI_RANGE)
#undef GPTI_RANGE
    if (c->n_embd % c->n_head) {
        snprintf(why, size, "n_embd %d is not a multiple of n_head %d: %d would be", c->n_embd, c->n_head,
                 (c->n_embd / c->n_head + 1) * c->n_head);
    } else if (c->n_head % c->n_kv_head) {
        snprintf(why, size, "n_head %d is not a multiple of n_kv_head %d: choose one that divides it", c->n_head,
                 c->n_kv_head);
    } else if (c->shape == GPT_SHAPE_GPT2 && c->n_kv_head != c->n_head) {
        snprintf(why, size, "n_kv_head is %d, but in the gpt2 shape it equals n_head, %d: set both, or take the "
                 "llama shape", c->n_kv_head, c->n_head);
    } else if (gpti_rotary(c) && c->n_embd / c->n_head % 2) {
        snprintf(why, size, "the head size n_embd/n_head is %d: rotary positions need an even one, so choose n_embd %d",
                 c->n_embd / c->n_head, c->n_embd + c->n_head);
    } else if (!(c->norm_eps > 0 && c->norm_eps < 1)) {
        snprintf(why, size, "norm_eps is %g, wanted more than 0 and less than 1", c->norm_eps);
    } else if (!(c->dropout >= 0 && c->dropout < 1)) {
        snprintf(why, size, "dropout is %g, wanted 0 <= dropout < 1", c->dropout);
    } else if (c->qk_norm && !gpti_rotary(c)) {
        snprintf(why, size, "qk_norm is 1, but positions are learned: set qk_norm to 0, or position to GPT_ROTARY");
    } else if (gpti_rotary(c) && !(c->rope_theta >= 1 && c->rope_theta <= 1e12)) {
        snprintf(why, size, "rope_theta is %g, wanted 1 to 1e12", c->rope_theta);
    } else if (c->lora_rank && !(c->lora_alpha > 0 && c->lora_alpha <= 1e6)) {
        snprintf(why, size, "lora_alpha is %g, wanted more than 0 and at most 1e6: twice lora_rank is common",
                 c->lora_alpha);
    } else {
        for (int i = 0; gpt_param_at(c, i, &p); i++) total += (double)p.count;
        if (total < (double)(SIZE_MAX / 16 / sizeof(ag_real))) return 0;
        snprintf(why, size, "%.3g parameters are more than this machine can address: fewer layers, channels or tokens",
                 total);
    }
    return -1;
}

static int gpti_same(const gpt_config *a, const gpt_config *b) {       // all that decides the meaning of the weights
#define GPTI_SAME(field, low, high) if (a->field != b->field) return 0;
    GPTI_CONFIG_INTS(GPTI_SAME)
#undef GPTI_SAME
    return gpti_rms(a) == gpti_rms(b) && gpti_rotary(a) == gpti_rotary(b) && gpti_mlp(a) == gpti_mlp(b) &&
           a->norm_eps == b->norm_eps && (!gpti_rotary(a) || a->rope_theta == b->rope_theta);
}

// ---- the list of parameters, read in order --------------------------------------------------------------------------
// Parameter i: what it is, and (if m is given) where the model keeps it. 0 past the last.
static int gpti_param(const gpt_config *c, gpt_model *m, int i, gpt_param *p, ag_tensor ***field) {
    const int llama = c->shape == GPT_SHAPE_LLAMA, V = c->n_vocab, T = c->n_ctx, C = c->n_embd, H = c->n_hidden;
    const int hs = C / c->n_head, Q = (c->n_head + 2 * c->n_kv_head) * hs, R = c->lora_rank;
    const int rms = gpti_rms(c), rotary = gpti_rotary(c), U = gpti_mlp(c) == GPT_SWIGLU ? 2 * H : H;
    // 2L matrices add to the residual stream; if each adds 1/sqrt(2L) of a usual amount, the sum keeps its size.
    const double ONES = -1, RESIDUAL = 0.02 / sqrt(2.0 * c->n_layer);
    int at = 0, per_layer = 0, layer = -1;
    gpt_layer *l = NULL;
    const char *name;
    if (i < 0) return 0;
#define GPTI_ONE(place, exists, gpt2_name, llama_name, n_rows, n_cols, deviation, its_group) \
    if ((exists) && at++ == i) { \
        name = llama ? llama_name : gpt2_name; \
        p->rows = n_rows, p->cols = n_cols, p->std = deviation, p->group = its_group; \
        if (field) *field = place; \
        goto found; \
    }
#define GPTI_TOP(f, exists, g, n, r, c, std, group) GPTI_ONE(m ? &m->f : NULL, exists, g, n, r, c, std, group)
#define GPTI_LAYER(f, exists, g, n, r, c, std, group) GPTI_ONE(l ? &l->f : NULL, exists, g, n, r, c, std, group)
#define GPTI_COUNT(f, exists, g, n, r, c, std, group) per_layer += (exists) != 0;
    GPT_PARAMS_TOP(GPTI_TOP)
    GPT_PARAMS_LAYER(GPTI_COUNT)
    if (i - at < per_layer * c->n_layer) {
        layer = (i - at) / per_layer, i = (i - at) % per_layer, at = 0;
        l = m ? &m->layer[layer] : NULL;
        GPT_PARAMS_LAYER(GPTI_LAYER)
    }
    at += per_layer * c->n_layer;
    GPT_PARAMS_END(GPTI_TOP)
    return 0;
#undef GPTI_ONE
#undef GPTI_TOP
#undef GPTI_LAYER
#undef GPTI_COUNT
found:
    if (layer < 0) snprintf(p->name, sizeof p->name, "%s", name);
    else snprintf(p->name, sizeof p->name, "h.%d.%s", layer, name);
    p->count = (size_t)p->rows * (size_t)(p->cols ? p->cols : 1), p->decay = p->cols > 0;
    p->label = name;
    return 1;
}

int gpt_param_at(const gpt_config *c, int i, gpt_param *p) { return gpti_param(c, NULL, i, p, NULL); }

size_t gpt_count(const gpt_config *c) {
    char why[256];
    gpt_param p;
    size_t total = 0;
    if (gpti_check(c, why, sizeof why)) return 0;
    for (int i = 0; gpt_param_at(c, i, &p); i++) total += p.count;
    return total;
}

// Text that grows in a caller's buffer as snprintf does: what does not fit is counted.
typedef struct gpti_page { char *out; size_t size, used; } gpti_page;
#if defined(__GNUC__) && !defined(_WIN32)
__attribute__((format(printf, 2, 3)))
#endif
static void gpti_print(gpti_page *t, const char *format, ...) {
    va_list args;
    va_start(args, format);
    size_t left = t->used < t->size ? t->size - t->used : 0;
    int n = vsnprintf(left ? t->out + t->used : NULL, left, format, args);
    va_end(args);
    if (n > 0) t->used += (size_t)n;
}

int gpt_describe(const gpt_config *c, char *out, size_t size) {
    gpti_page t;
    gpt_param p;
    char why[256];
    t.out = out, t.size = size, t.used = 0;
    if (gpti_check(c, why, sizeof why)) { gpti_print(&t, "%s\n", why); return (int)t.used; }
    gpti_print(&t, "%s: %s shape, %d layers, %d heads", c->name[0] ? c->name : "model",
               c->shape == GPT_SHAPE_LLAMA ? "llama" : "gpt2", c->n_layer, c->n_head);
    if (c->n_kv_head != c->n_head) gpti_print(&t, " (%d for keys)", c->n_kv_head);
    gpti_print(&t, ", %d channels, context %d, vocabulary %d\n", c->n_embd, c->n_ctx, c->n_vocab);
    for (int i = 0; gpt_param_at(c, i, &p); i++) {
        int layered = p.name[0] == 'h' && p.name[1] == '.';
        if (layered && p.name[2] != '0') continue;                  // one line stands for all layers
        gpti_print(&t, "    %-24s", p.name);
        if (p.cols) gpti_print(&t, "%8d x %-6d", p.rows, p.cols); else gpti_print(&t, "%8d %8s", p.rows, "");
        gpti_print(&t, "%12.0f", (double)p.count);
        if (layered && c->n_layer > 1) gpti_print(&t, "  in each of %d layers", c->n_layer);
        gpti_print(&t, "\n");
    }
    gpti_print(&t, "    %-24s%17s%12.0f\n", "all parameters", "", (double)gpt_count(c));
    return (int)t.used;
}

// ---- making and freeing ---------------------------------------------------------------------------------------------
// KV tensors that no cache uses at the moment are kept in a list.
typedef struct gpti_store { struct gpti_store *next; int rows, busy; ag_kv *kv; } gpti_store;      // kv (L)
struct gpti_private {
    int *position;                  // (T) 0, 1, 2 ...; learned positions only
    ag_real *probs;                 // (V)
    int *heap;                      // (V)
    gpti_store *stores;
};

static void *gpti_alloc(ag_ctx *ctx, size_t n, size_t size) {
    void *p = size && n > SIZE_MAX / 4 / size ? NULL : GPT_MALLOC(n * size + (n * size == 0));
    if (p) memset(p, 0, n * size);
    else ag_fail(ctx, "gpt.h: out of memory: %zu times %zu bytes wanted. Use a smaller model, batch or context",
                 n, size);
    return p;
}

void gpt_free(gpt_model *m) {
    if (!m) return;
    if (m->own) {
        for (gpti_store *s = m->own->stores, *next; s; s = next) {
            next = s->next;
            GPT_FREE(s->kv);
            GPT_FREE(s);
        }
        if (m->own->position) GPT_FREE(m->own->position);
        if (m->own->probs) GPT_FREE(m->own->probs);
        if (m->own->heap) GPT_FREE(m->own->heap);
        GPT_FREE(m->own);
    }
    if (m->layer) GPT_FREE(m->layer);
    GPT_FREE(m);
}

// With adapters the model itself stands still: they learn, and a scalar head, which nobody has trained before.
static int gpti_trained(const gpt_config *c, const gpt_param *p) {
    return !c->lora_rank || strstr(p->label, "lora_") || !strncmp(p->label, "scalar.", 7);
}

// random 0: the weights will come from a file, and drawing millions of numbers before that would take its time.
static gpt_model *gpti_new(ag_ctx *ctx, const gpt_config *c, int random) {
    gpt_model *m = (gpt_model *)gpti_alloc(ctx, 1, sizeof *m);
    gpt_param p;
    ag_tensor **field;
    if (!m) return NULL;
    m->ctx = ctx, m->config = *c, m->training = 1;
    gpti_plain(&m->config);
    m->own = (struct gpti_private *)gpti_alloc(ctx, 1, sizeof *m->own);
    m->layer = (gpt_layer *)gpti_alloc(ctx, (size_t)c->n_layer, sizeof *m->layer);
    // Only learned positions are looked up. (A file with rotary ones can claim any n_ctx: it must cost nothing.)
    if (m->own && m->layer && !gpti_rotary(c))
        m->own->position = (int *)gpti_alloc(ctx, (size_t)c->n_ctx, sizeof(int));
    if (ag_error(ctx)) { gpt_free(m); return NULL; }
    for (int t = 0; m->own->position && t < c->n_ctx; t++) m->own->position[t] = t;
    for (int i = 0; gpti_param(c, m, i, &p, &field); i++) {
        ag_tensor *t = *field = ag_param_at(ctx, p.rows, p.cols ? p.cols : AG_END, AG_END, AG_END, AG_END);
        if (!t) { gpt_free(m); return NULL; }
        t->decay = p.decay, t->group = p.group;
        ag_trainable(t, gpti_trained(c, &p));
        ag_name(t, p.label);
        if (p.std < 0) ag_fill(t, 1);
        else if (p.std > 0 && random) ag_randn(t, (ag_real)p.std);
    }
    if (ag_error(ctx)) { gpt_free(m); return NULL; }
    return m;
}

gpt_model *gpt_new(ag_ctx *ctx, const gpt_config *c) {
    char why[256];
    if (!ctx || ag_error(ctx)) return NULL;
    if (gpti_check(c, why, sizeof why)) { ag_fail(ctx, "gpt_new: %s", why); return NULL; }
    return gpti_new(ctx, c, 1);
}

ag_tensor *gpt_tensor(const gpt_model *m, const char *name) {
    gpt_param p;
    ag_tensor **field;
    for (int i = 0; m && name && gpti_param(&m->config, (gpt_model *)m, i, &p, &field); i++)
        if (!strcmp(p.name, name)) return *field;
    return NULL;
}

// ---- memory ---------------------------------------------------------------------------------------------------------
// The tape holds every result of the forward pass and, while backward runs, a few gradients: their buffers are used
// again as soon as a result's own backward is done. What that comes to is not added up here but found by doing it.
gpt_memory gpt_memory_needed(const gpt_config *c, int B, int T, int optimizer_kind) {
    gpt_memory m;
    char why[256];
    memset(&m, 0, sizeof m);
    if (gpti_check(c, why, sizeof why) || B < 1 || T < 1 || T > c->n_ctx || B > INT_MAX / T) return m;
    gpt_optimizer optimizer = optimizer_kind == GPT_MUON ? gpt_muon() : gpt_adamw();
    ag_ctx *dry = ag_new_dry();
    int *ids = dry ? (int *)gpti_alloc(dry, (size_t)B * T, sizeof *ids) : NULL;
    gpt_model *model = ids ? gpti_new(dry, c, 0) : NULL;
    m.params = ag_memory_used(dry).params;
    if (model && !ag_backward(ag_cross_entropy(gpt_forward(model, ids, B, T), ids, NULL)) &&
        gpt_step(model, &optimizer, 1, NULL) >= 0) {
        ag_memory used = ag_memory_used(dry);
        m.grads = used.params - m.params, m.optimizer = used.state, m.activations = used.tape_peak;
        m.total = used.params + used.state + used.tape_peak;
        double each = (double)B * c->n_ctx * c->n_kv_head * (c->n_embd / c->n_head) * sizeof(ag_real);
        double kv = 2.0 * c->n_layer * ceil(each / 64) * 64;
        m.kv_cache = kv < (double)(SIZE_MAX / 2) ? (size_t)kv : SIZE_MAX / 2;
    } else m.params = 0;
    gpt_free(model);
    if (ids) GPT_FREE(ids);
    ag_free(dry);
    return m;
}

// ====================================================================================================================
// Chapter 2: the forward pass
// ====================================================================================================================
// The residual stream x (B,T,C) runs through the model; each block reads a normalised copy of it and adds to it, twice:
// attention moves information between positions, the MLP works on each position alone. Norms stand before what they
// feed ("pre-norm"), as in GPT-2. There is no backward pass here: the ops know theirs.

// y = x W + bias, and with an adapter + alpha/R (x A) Z: what fine-tuning adds to a matrix has a low rank, so that two
// narrow matrices can say it (Hu et al. 2021). At first Z is 0 and nothing has changed.
static ag_tensor *gpti_linear(const gpt_config *c, ag_tensor *x, ag_tensor *w, ag_tensor *bias, ag_tensor *a,
                              ag_tensor *z) {
    ag_tensor *y = ag_linear(x, w, bias);
    if (!a) return y;
    return ag_add(y, ag_scale(ag_linear(ag_linear(x, a, NULL), z, NULL), c->lora_alpha / c->lora_rank));
}

// Half a block is done, and x its result: nobody will read what it used but backward. Where nothing was recorded, all n
// of that go, and the next half takes their memory (but for a few tokens that costs more than it saves); else, if asked
// to, the first few, which can be computed again.
static void gpti_forget(const gpt_config *c, const ag_tensor *x, ag_tensor *const *used, int n, int again) {
    for (int i = 0; i < n && x; i++)
        if (x->needs_grad ? c->recompute && i < again && used[i]->needs_grad : x->count > 4096) ag_forget(used[i]);
}

// Texts of different lengths without padding: all but attention treats every token alone, so they stand one after the
// other, N tokens in all, and each knows its position. Text b has len[b] of them, which begin at start[b], read older
// keys from kv (L), and add theirs, in row `row[b]`. kv NULL: there is nothing older, and start and row are NULL.
typedef struct gpti_ragged {
    int N;
    const int *position, *len, *start, *row;        // (N); (B) each
    ag_kv *kv;
} gpti_ragged;

// ids (B,T) -> (B,T,C); or, ragged: ids (N) -> (N,1,C).
static ag_tensor *gpti_trunk(gpt_model *m, const int *ids, int B, int T, const gpti_ragged *r) {
    const gpt_config *c = &m->config;
    const int rms = gpti_rms(c), rotary = gpti_rotary(c), mlp = gpti_mlp(c), *at = r ? r->position : NULL;
    const double eps = c->norm_eps, drop = m->training && !(r && r->kv) ? c->dropout : 0;
    ag_tensor *x = ag_embedding(m->wte, ids, r ? r->N : B * T, r ? 1 : T);
    if (!rotary)                                    // the same positions for all rows, (T,C), broadcast
        x = ag_add(x, r ? ag_embedding(m->wpe, at, r->N, 1) : ag_embedding(m->wpe, m->own->position, T, 0));
    x = ag_dropout(x, drop);
    for (int i = 0; i < c->n_layer; i++) {
        const gpt_layer *l = &m->layer[i];
        ag_tensor *n = rms ? ag_rmsnorm(x, l->norm_1, eps) : ag_layernorm(x, l->norm_1, l->norm_1_b, eps);  // (B,T,C)
        ag_tensor *qkv = gpti_linear(c, n, l->qkv, l->qkv_b, l->qkv_a, l->qkv_z), *h = qkv;     // (B,T,(NH+2*NKV)*hs)
        if (c->qk_norm)
            h = ag_qk_norm_rope(qkv, l->q_norm, l->k_norm, c->n_head, c->n_kv_head, at, c->rope_theta, eps);
        else if (rotary) h = ag_rope(qkv, c->n_embd / c->n_head, c->n_head + c->n_kv_head, at, c->rope_theta);
        ag_tensor *a = !r ? ag_attention(h, c->n_head, c->n_kv_head, NULL, NULL, NULL)          // (B,T,C)
            : ag_attention_ragged(h, c->n_head, c->n_kv_head, r->kv ? &r->kv[i] : NULL, B, r->row, r->start, r->len);
        ag_tensor *y = gpti_linear(c, a, l->proj, l->proj_b, l->proj_a, l->proj_z);             // (B,T,C)
        ag_tensor *attention[] = {n, h, qkv, a, y, x};
        x = ag_add(x, ag_dropout(y, drop));
        gpti_forget(c, x, attention, 6, rotary ? 2 : 1);

        n = rms ? ag_rmsnorm(x, l->norm_2, eps) : ag_layernorm(x, l->norm_2, l->norm_2_b, eps);
        ag_tensor *up = mlp == GPT_GELU && !l->up_a ? ag_linear_gelu(n, l->up, l->up_b)         // SwiGLU: (B,T,2H)
                                                    : gpti_linear(c, n, l->up, l->up_b, l->up_a, l->up_z);
        ag_tensor *bent = mlp == GPT_SWIGLU ? ag_swiglu(up)
                        : mlp == GPT_RELU2 ? ag_relu(up) : l->up_a ? ag_gelu(up) : up;
        h = mlp == GPT_RELU2 ? ag_mul(bent, bent) : bent;                                       // (B,T,H)
        y = gpti_linear(c, h, l->down, l->down_b, l->down_a, l->down_z);                        // (B,T,C)
        ag_tensor *the_mlp[] = {n, h, bent, up, y, x};
        x = ag_add(x, ag_dropout(y, drop));
        gpti_forget(c, x, the_mlp, 6, 3);
    }
    return rms ? ag_rmsnorm(x, m->norm_f, eps) : ag_layernorm(x, m->norm_f, m->norm_f_b, eps);
}

// What a caller can get wrong, found before the first op: then the message speaks of the caller's arguments.
static int gpti_ids_ok(const gpt_model *m, const char *who, const int *ids, int B, int T, const int *len) {
    const gpt_config *c = &m->config;
    if (!ids) return ag_fail(m->ctx, "%s: the ids are NULL: pass an array of %d rows of %d tokens", who, B, T);
    if (B < 1 || T < 1 || B > INT_MAX / T)
        return ag_fail(m->ctx, "%s: %d rows of %d tokens: wanted at least 1 of each, and less than 2^31 tokens in all",
                       who, B, T);
    if (T > c->n_ctx)
        return ag_fail(m->ctx, "%s: rows of %d tokens, but the context has %d: pass shorter rows, or make the model "
                       "with a larger n_ctx", who, T, c->n_ctx);
    for (int b = 0; b < B; b++)
        if (len && (len[b] < 0 || len[b] > T))
            return ag_fail(m->ctx, "%s: len[%d] is %d, wanted 0 to %d, the length of a row", who, b, len[b], T);
    for (int i = 0; i < B * T; i++)
        if ((ids[i] < 0 || ids[i] >= c->n_vocab) && !(len && i % T >= len[i / T]))
            return ag_fail(m->ctx, "%s: ids[%d] is %d (row %d, position %d), but n_vocab is %d: wanted 0 to %d. Was "
                           "the text encoded with this model's tokenizer?", who, i, ids[i], i / T, i % T, c->n_vocab,
                           c->n_vocab - 1);
    return 0;
}

ag_tensor *gpt_trunk(gpt_model *m, const int *ids, int B, int T, const int *len) {
    if (!m || ag_error(m->ctx) || gpti_ids_ok(m, "gpt_trunk", ids, B, T, len)) return NULL;
    if (!len) return gpti_trunk(m, ids, B, T, NULL);
    // Padding costs nothing: it is left out, and comes back as a row of zeros, the last of N+1.
    ag_tensor *x[2];
    int *kept = (int *)gpti_alloc(m->ctx, 3 * (size_t)B * (size_t)T, sizeof *kept), *position, *at;
    if (!kept) return NULL;
    position = kept + B * T, at = position + B * T;
    gpti_ragged r = {0, position, len, NULL, NULL, NULL};
    for (int b = 0; b < B; b++)
        for (int t = 0; t < len[b]; t++) kept[r.N] = ids[b * T + t], position[r.N] = t, at[b * T + t] = r.N++;
    for (int b = 0; b < B; b++) for (int t = len[b]; t < T; t++) at[b * T + t] = r.N;
    x[0] = ag_reshape_to(gpti_trunk(m, kept, B, T, &r), r.N, m->config.n_embd, AG_END, AG_END, AG_END);
    x[1] = ag_full_at(m->ctx, 0, 1, m->config.n_embd, AG_END, AG_END, AG_END);
    ag_tensor *y = ag_embedding(r.N < B * T ? ag_concat(x, 2, 0) : x[0], at, B * T, T);
    GPT_FREE(kept);
    return y;
}

// A tied head asks how well x agrees with each token's own embedding (Press & Wolf 2017): it saves V*C parameters, and
// what is learned about a token as input serves it as output.
ag_tensor *gpt_head(gpt_model *m, ag_tensor *x) {
    if (!m || !x) return NULL;
    return m->head ? ag_linear(x, m->head, NULL) : ag_matmul_t(x, m->wte);
}

ag_tensor *gpt_scalar(gpt_model *m, ag_tensor *x) {
    if (!m || !x) return NULL;
    if (!m->score) {
        ag_fail(m->ctx, "gpt_scalar: the model has no scalar head: gpt_adapt it to a configuration with scalar = 1");
        return NULL;
    }
    ag_tensor *y = ag_linear(x, m->score, m->score_b);                                  // (B,T,1)
    return y ? ag_reshape_to(y, x->shape[0], x->ndim > 2 ? x->shape[1] : AG_END, AG_END, AG_END, AG_END) : NULL;
}

ag_tensor *gpt_forward(gpt_model *m, const int *ids, int B, int T) {
    if (!m || ag_error(m->ctx) || gpti_ids_ok(m, "gpt_forward", ids, B, T, NULL)) return NULL;
    return gpt_head(m, gpti_trunk(m, ids, B, T, NULL));
}

int gpt_train(gpt_model *m, int on) {
    int old = m ? m->training : 0;
    if (m) m->training = on != 0;
    return old;
}

// ====================================================================================================================
// Chapter 3: learning
// ====================================================================================================================
// ---- the optimizer --------------------------------------------------------------------------------------------------
// AdamW for everything, or Muon for the matrices inside the blocks, as its authors advise: embeddings and the head are
// tables of vectors, one for each token, and norms are vectors; nothing is to be made orthogonal there.
gpt_optimizer gpt_adamw(void) {
    gpt_optimizer o;
    memset(&o, 0, sizeof o);
    o.kind = GPT_ADAMW, o.lr = 1e-3, o.beta1 = 0.9, o.beta2 = 0.99, o.eps = 1e-8, o.weight_decay = 0.1, o.clip = 1;
    return o;
}

gpt_optimizer gpt_muon(void) {
    gpt_optimizer o = gpt_adamw();
    o.kind = GPT_MUON, o.lr = 3e-3, o.lr_muon = 0.03, o.momentum = 0.95, o.beta2 = 0.95, o.weight_decay = 0;
    return o;
}

// The norm of all gradients is not finite: which tensor is to blame?
static int gpti_blame(gpt_model *m, double norm) {
    for (int i = 0; i < ag_param_count(m->ctx); i++) {
        ag_tensor *t = ag_param_get(m->ctx, i);
        ag_real *g = t->has_grad ? (ag_real *)GPT_MALLOC(t->count * sizeof *g) : NULL;
        size_t bad = t->count;
        if (g && !ag_get_grad(t, g))
            for (bad = 0; bad < t->count && g[bad] - g[bad] == 0; bad++) {}
        if (g) GPT_FREE(g);
        if (bad < t->count) {
            gpt_param p;
            ag_tensor **field;
            const char *name = t->name ? t->name : "a parameter";
            for (int k = 0; gpti_param(&m->config, m, k, &p, &field); k++)
                if (*field == t) { name = p.name; break; }
            return ag_fail(m->ctx, "gpt_step: the gradient of %s is not finite (element %zu of %zu), so nothing was "
                           "changed. A learning rate that is too high does this, or a NaN in the weights", name, bad,
                           t->count);
        }
    }
    return ag_fail(m->ctx, "gpt_step: the norm of the gradients is %g, though each of them is finite, so nothing "
                   "was changed. Lower the learning rate", norm);
}

static int gpti_between(double x, double low, double high) { return x >= low && x <= high; }     // not if x is NaN

static int gpti_setting(gpt_model *m, const char *name, double x, double low, double high) {   // 0, or -1: out of range
    if (gpti_between(x, low, high)) return 0;
    return ag_fail(m->ctx, "gpt_step: the optimizer's %s is %g, wanted %g to %g: start from gpt_adamw() or gpt_muon()",
                   name, x, low, high);
}

static int gpti_optimizer_ok(gpt_model *m, const gpt_optimizer *o) {
    const double most = 1e30, below_1 = 0.9999999;
    if (!o) return ag_fail(m->ctx, "gpt_step: the optimizer is NULL: pass the address of a gpt_optimizer");
    if (o->kind != GPT_ADAMW && o->kind != GPT_MUON)
        return ag_fail(m->ctx, "gpt_step: the optimizer's kind is %d, wanted GPT_ADAMW or GPT_MUON", o->kind);
    if (gpti_setting(m, "lr", o->lr, 0, most) || gpti_setting(m, "weight_decay", o->weight_decay, 0, most) ||
        gpti_setting(m, "clip", o->clip, 0, HUGE_VAL) || gpti_setting(m, "eps", o->eps, 1e-300, HUGE_VAL) ||
        gpti_setting(m, "beta1", o->beta1, 0, below_1) || gpti_setting(m, "beta2", o->beta2, 0, below_1)) return -1;
    if (o->kind == GPT_ADAMW) return 0;
    return gpti_setting(m, "lr_muon", o->lr_muon, 0, most) || gpti_setting(m, "momentum", o->momentum, 0, below_1);
}

int gpt_step(gpt_model *m, const gpt_optimizer *o, double lr_factor, double *grad_norm) {
    double norm;
    int bad;
    if (grad_norm) *grad_norm = NAN;
    if (!m || ag_error(m->ctx)) return -1;
    if (gpti_optimizer_ok(m, o)) return -1;
    if (!gpti_between(lr_factor, 0, 1e30))
        return ag_fail(m->ctx, "gpt_step: lr_factor is %g, wanted a finite number from 0 on: 1, or what "
                       "gpt_lr_cosine or gpt_lr_linear return", lr_factor);
    norm = o->clip > 0 ? ag_clip_grad(m->ctx, o->clip) : ag_grad_norm(m->ctx);
    if (grad_norm) *grad_norm = norm;
    if (!(norm - norm == 0)) {
        ag_clear_error(m->ctx);                     // ours says more
        return gpti_blame(m, norm);
    }
    if (o->kind == GPT_ADAMW)
        bad = ag_adamw_group(m->ctx, AG_ALL_GROUPS, o->lr * lr_factor, o->beta1, o->beta2, o->eps, o->weight_decay);
    else
        bad = ag_muon_group(m->ctx, GPT_GROUP_MATRIX, o->lr_muon * lr_factor, o->momentum, o->weight_decay) ||
              ag_adamw_group(m->ctx, GPT_GROUP_OTHER, o->lr * lr_factor, o->beta1, o->beta2, o->eps, o->weight_decay);
    ag_zero_grad(m->ctx);
    return bad ? -1 : 0;
}

// ---- schedules ------------------------------------------------------------------------------------------------------
// cos(pi r) for 0 <= r <= 1 as sin(pi (1/2 - r)), by Taylor's series: libm's cosine differs from machine to machine in
// its last bit, and so would the weights.
static double gpti_cos_pi(double r) {
    double x = 3.14159265358979323846 * (0.5 - r), term = x, sum = x;
    for (int k = 2; k < 24; k += 2) term *= -x * x / (k * (k + 1)), sum += term;
    return sum;
}

// Warm-up: Adam's second moment is an average over few gradients at first, so the first steps should be short. Then
// half a cosine (Loshchilov & Hutter 2017). Step 0 is not wasted on a rate of 0.
double gpt_lr_cosine(long step, long warmup, long total, double min_factor) {
    if (step < warmup) return (double)(step + 1) / (double)(warmup + 1);
    if (step >= total) return min_factor;
    return min_factor + 0.5 * (1 + gpti_cos_pi((double)(step - warmup) / (double)(total - warmup))) * (1 - min_factor);
}

double gpt_lr_linear(long step, long warmup, long total, double last_part) {
    double rise = step < warmup ? (double)(step + 1) / (double)(warmup + 1) : 1;
    double fall = last_part > 0 ? (double)(total - step) / ((double)total * last_part) : 1;
    fall = fall < 0 ? 0 : fall > 1 ? 1 : fall;
    return rise < fall ? rise : fall;
}

// ---- data -----------------------------------------------------------------------------------------------------------
gpt_loader gpt_loader_new(ag_ctx *ctx, const int *tokens, size_t n, int order) {
    gpt_loader l;
    l.ctx = ctx, l.tokens = tokens, l.n = n, l.order = order, l.cursor = 0, l.repeats = 0;
    if (!tokens) l.n = 0;
    if (ctx && l.n < 2) ag_fail(ctx, "gpt_loader_new: %zu tokens: there is nothing to predict. Give at least 2; is "
                              "the text empty?", l.n);
    return l;
}

// In a window (T+1 tokens, in x and y) each passage comes two to four times. Texts of the web quote and repeat
// themselves, and from that models learn to look back and copy (Chan et al. 2022, "Data distributional properties
// drive emergent in-context learning"; Olsson et al. 2022). A play hardly ever does. Passages have 4 to T/2 tokens,
// short ones more often: there the right place to look at is found by chance, and what is learned helps with the long
// ones.
static void gpti_repeat(ag_rng *rng, int T, int *x, int *y) {
    for (int at = 0; at < T;) {
        int n = (int)(4 * exp(ag_rng_uniform(rng) * log(T > 8 ? T / 8.0 : 1)));
        int end = at + n * (2 + (int)(ag_rng_uniform(rng) * 3));
        for (int i = at + n; i < end && i <= T; i++) *(i < T ? &x[i] : &y[T - 1]) = x[i - n];
        at = end;
    }
    memcpy(y, x + 1, (size_t)(T - 1) * sizeof *y);
}

static uint64_t gpti_mix(uint64_t z) {                  // the finaliser of splitmix64 (Steele et al. 2014)
    z += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

// Number i of a random order of 0..n-1, without a table, so that the cursor is all there is to save. Four rounds of a
// Feistel network: one half of the bits is changed by a function of the other half, which can be undone, so each number
// below 4^half comes once. Those from n on are sent round again until they land below it (cycle walking).
static uint64_t gpti_shuffled(uint64_t i, uint64_t n, uint64_t key) {
    int half = 1;
    while (half < 32 && ((uint64_t)1 << 2 * half) < n) half++;
    const uint64_t mask = ((uint64_t)1 << half) - 1;
    do {
        uint64_t left = i >> half, right = i & mask;
        for (uint64_t round = 0; round < 4; round++) {
            uint64_t next = left ^ (gpti_mix(key + gpti_mix(right * 4 + round)) & mask);
            left = right, right = next;
        }
        i = left << half | right;
    } while (i >= n);
    return i;
}

int gpt_next(gpt_loader *l, int B, int T, int *x, int *y) {
    if (!l || !l->ctx || ag_error(l->ctx)) return -1;
    if (!l->tokens || !x || !y)
        return ag_fail(l->ctx, "gpt_next: %s is NULL: pass an array", !x ? "x" : !y ? "y" : "the loader's tokens");
    if (B < 1 || T < 1) return ag_fail(l->ctx, "gpt_next: %d rows of %d tokens: wanted at least 1 of each", B, T);
    if (l->n < (size_t)T + 1)
        return ag_fail(l->ctx, "gpt_next: a window needs %d tokens and the data has %zu: use a shorter context, or "
                       "a longer text", T + 1, l->n);
    for (int b = 0; b < B; b++) {
        size_t places = l->n - (size_t)T, at;
        if (l->order == GPT_SEQUENTIAL) {
            at = l->cursor < places ? (size_t)l->cursor : 0;
            l->cursor = at + (size_t)T;
        } else if (l->order == GPT_SHUFFLED) {          // a text shorter than two windows has one, at any place
            const uint64_t each = (uint64_t)T < places ? (uint64_t)T : places, n = (places - each) / (uint64_t)T + 1;
            const uint64_t epoch = l->cursor / n, key = gpti_mix(ag_stream(l->ctx, AG_RNG_DATA)->key + (epoch << 32));
            at = (size_t)(gpti_mix(key) % each + (uint64_t)T * gpti_shuffled(l->cursor % n, n, key));
            l->cursor++;
        } else {
            at = (size_t)(ag_rng_uniform(ag_stream(l->ctx, AG_RNG_DATA)) * (double)places);
            l->cursor++;
        }
        memcpy(x + (size_t)b * T, l->tokens + at, (size_t)T * sizeof *x);
        memcpy(y + (size_t)b * T, l->tokens + at + 1, (size_t)T * sizeof *y);
        if (l->order != GPT_SEQUENTIAL && l->repeats > 0 && ag_rng_uniform(ag_stream(l->ctx, AG_RNG_DATA)) < l->repeats)
            gpti_repeat(ag_stream(l->ctx, AG_RNG_DATA), T, x + (size_t)b * T, y + (size_t)b * T);
    }
    return 0;
}

// ---- evaluation -----------------------------------------------------------------------------------------------------
// Random windows would give a number that moves by chance; all disjoint ones give the same number each time. A token at
// the beginning of a window is predicted from little, so the mean is a little higher than with a sliding window.
// Losses are added up one by one, in double: B changes nothing.
double gpt_eval(gpt_model *m, const int *tokens, size_t n, int B) {
    size_t T, windows, row;
    double sum = 0;
    int *x, *y, recorded, trained;
    ag_real *nll;
    if (!m || ag_error(m->ctx)) return NAN;
    if (!tokens || n < 2 || B < 1) {
        ag_fail(m->ctx, "gpt_eval: %zu tokens, %d rows: wanted at least two tokens and one row. Is the validation "
                "split empty?", tokens ? n : 0, B);
        return NAN;
    }
    T = (size_t)m->config.n_ctx;
    if (T > n - 1) T = n - 1;
    windows = (n - 1 + T - 1) / T;
    if ((size_t)B > windows) B = (int)windows;
    x = (int *)gpti_alloc(m->ctx, (size_t)B * T * 2, sizeof *x), y = x ? x + (size_t)B * T : NULL;
    nll = x ? (ag_real *)gpti_alloc(m->ctx, (size_t)B * T, sizeof *nll) : NULL;
    recorded = ag_no_grad(m->ctx, 1), trained = gpt_train(m, 0);
    for (row = 0; nll && row < windows; row += (size_t)B) {
        int rows = row + (size_t)B > windows ? (int)(windows - row) : B;
        ag_mark_at mark = ag_mark(m->ctx);
        for (size_t i = 0; i < (size_t)rows * T; i++) {             // past the end: padding that counts for nothing
            size_t at = row * T + i;
            x[i] = at + 1 < n ? tokens[at] : 0, y[i] = at + 1 < n ? tokens[at + 1] : AG_IGNORE;
        }
        ag_get(ag_nll(gpt_forward(m, x, rows, (int)T), y), nll);
        for (size_t i = 0; i < (size_t)rows * T; i++) sum += nll[i];
        ag_rewind(m->ctx, mark);
        if (ag_error(m->ctx)) break;
    }
    ag_no_grad(m->ctx, recorded), gpt_train(m, trained);
    if (x) GPT_FREE(x);
    if (nll) GPT_FREE(nll);
    return ag_error(m->ctx) ? NAN : sum / (double)(n - 1);
}

// ====================================================================================================================
// Chapter 4: generation
// ====================================================================================================================
// ---- from scores to one token ---------------------------------------------------------------------------------------
// Temperature divides the scores: below 1 it favours the likely tokens, above 1 it levels them. The filters cut off the
// tail of the distribution: each token in it is unlikely, but there are many, and one of them spoils a text.
static int gpti_sampling_ok(gpt_model *m, const gpt_sampling *s) {
    int V = m->config.n_vocab;
    if (!s) return ag_fail(m->ctx, "sampling: the settings are NULL: pass a gpt_sampling; all zeros is greedy");
    if (!(s->temperature >= 0 && s->temperature <= 1e6))
        return ag_fail(m->ctx, "sampling: temperature is %g, wanted 0 (greedy) to 1e6", s->temperature);
    if (s->top_k < 0 || s->top_k > V)
        return ag_fail(m->ctx, "sampling: top_k is %d, wanted 0 (all) to %d", s->top_k, V);
    if (!(s->top_p >= 0 && s->top_p <= 1))
        return ag_fail(m->ctx, "sampling: top_p is %g, wanted 0 (all) to 1", s->top_p);
    if (!(s->min_p >= 0 && s->min_p <= 1))
        return ag_fail(m->ctx, "sampling: min_p is %g, wanted 0 (all) to 1", s->min_p);
    if (s->n_stop < 0 || (s->n_stop && !s->stop))
        return ag_fail(m->ctx, "sampling: n_stop is %d and stop is %s: set stop to a list of n_stop tokens, or "
                       "n_stop to 0", s->n_stop, s->stop ? "a list" : "NULL");
    return 0;
}

// Does token a come before token b? The likelier first, and the lower id where they are equal.
static int gpti_before(const ag_real *p, int a, int b) { return p[a] > p[b] || (p[a] == p[b] && a < b); }

static void gpti_sift(const ag_real *p, int *heap, int n, int i) {
    for (int child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && gpti_before(p, heap[child + 1], heap[child])) child++;
        if (!gpti_before(p, heap[child], heap[i])) return;
        int t = heap[i];
        heap[i] = heap[child], heap[child] = t;
    }
}

// Sets to 0 what top_k, top_p and min_p leave out, and makes the sum 1 again. A heap gives the likeliest tokens one by
// one, so that the usual few cost less than sorting all V. heap (V) is scratch.
static void gpti_filter(const gpt_sampling *s, ag_real *p, int V, int *heap) {
    double kept = 0, sum = 0, floor_p;
    int left = V, n = 0, limit = s->top_k ? s->top_k : V;
    ag_real max = 0;
    for (int i = 0; i < V; i++) if (p[i] > max) max = p[i];
    if (s->top_k || (s->top_p > 0 && s->top_p < 1)) {
        for (int i = 0; i < V; i++) heap[i] = i;
        for (int i = V / 2 - 1; i >= 0; i--) gpti_sift(p, heap, V, i);
        double goal = s->top_p > 0 && s->top_p < 1 && !s->top_k ? s->top_p : 2;
        while (n < limit && kept < goal) {                          // the best one moves to the end of the array
            int best = heap[0];
            heap[0] = heap[--left], heap[left] = best;
            gpti_sift(p, heap, left, 0);
            kept += p[best], n++;
        }
        if (s->top_k && s->top_p > 0 && s->top_p < 1)               // p counts within the k that are left
            for (int i = n = 0; n < limit && sum < s->top_p * kept; i++) sum += p[heap[V - 1 - i]], n++;
        for (int i = 0; i < V - n; i++) p[heap[i]] = 0;             // the chosen n are the last n
    }
    sum = 0, floor_p = s->min_p * max;                              // min_p compares with the likeliest: no sum needed
    for (int i = 0; i < V; i++) if (p[i] < floor_p) p[i] = 0; else sum += p[i];
    for (int i = 0; i < V; i++) p[i] = (ag_real)(p[i] / sum);
}

// The token with the highest score, the first of them if several have it; -1 after an error.
static int gpti_best(gpt_model *m, const ag_real *logits) {
    const int V = m->config.n_vocab;
    int best = 0;
    ag_real max = -INFINITY;
    for (int i = 0; i < V; i++) {
        if (logits[i] <= max) continue;             // which is false for NaN too
        if (logits[i] != logits[i])
            return ag_fail(m->ctx, "gpt_probs: the score of token %d is NaN: look for a NaN in the weights", i);
        max = logits[best = i];
    }
    if (max - max != 0)
        return ag_fail(m->ctx, "gpt_probs: the highest score is %g: there is nothing to choose from. Leave one "
                       "token a finite score", (double)max);
    return best;
}

int gpt_probs(gpt_model *m, const gpt_sampling *s, const ag_real *logits, ag_real *probs) {
    int V, best, recorded;
    if (!m || ag_error(m->ctx) || gpti_sampling_ok(m, s)) return -1;
    V = m->config.n_vocab;
    if (!logits || !probs)
        return ag_fail(m->ctx, "gpt_probs: %s is NULL: pass an array of %d numbers", logits ? "probs" : "logits", V);
    if ((best = gpti_best(m, logits)) < 0) return -1;
    if (s->temperature == 0) {
        for (int i = 0; i < V; i++) probs[i] = i == best;
        return 0;
    }
    if (!m->own->heap && !(m->own->heap = (int *)gpti_alloc(m->ctx, (size_t)V, sizeof(int)))) return -1;
    // softmax(logits / temperature), by the engine's own exp; the maximum is taken off before a small temperature makes
    // everything infinite.
    ag_real max = logits[best];
    for (int i = 0; i < V; i++) probs[i] = (ag_real)(((double)logits[i] - max) / s->temperature);
    ag_mark_at mark = ag_mark(m->ctx);
    recorded = ag_no_grad(m->ctx, 1);
    ag_get(ag_softmax(ag_input_at(m->ctx, probs, V, AG_END, AG_END, AG_END, AG_END)), probs);
    ag_no_grad(m->ctx, recorded);
    ag_rewind(m->ctx, mark);
    if (ag_error(m->ctx)) return -1;
    gpti_filter(s, probs, V, m->own->heap);
    return 0;
}

int gpt_sample(gpt_model *m, const gpt_sampling *s, const ag_real *logits, ag_rng *rng) {
    double u, sum = 0;
    int V, last = -1;
    ag_real *p;
    if (!m) return -1;
    if (logits && s && s->temperature == 0)         // greedy: no probabilities are needed
        return ag_error(m->ctx) || gpti_sampling_ok(m, s) ? -1 : gpti_best(m, logits);
    V = m->config.n_vocab;
    if (!m->own->probs && !(m->own->probs = (ag_real *)gpti_alloc(m->ctx, (size_t)V, sizeof *m->own->probs))) return -1;
    p = m->own->probs;
    if (gpt_probs(m, s, logits, p)) return -1;
    u = ag_rng_uniform(rng ? rng : ag_stream(m->ctx, AG_RNG_SAMPLE));
    for (int i = 0; i < V; i++) {                   // walk until u of the probability lies behind
        if (p[i] > 0) last = i, sum += p[i];
        if (last == i && u < sum) return i;
    }
    return last;                                    // rounding: the sum ended a little below u
}

// ---- KV caches ------------------------------------------------------------------------------------------------------
// Attention at position t needs the keys and values of positions 0..t, and those never change once they are computed,
// because no position looks ahead. So they are kept: (rows, T, NKV*hs) of each for every layer, filled from the front.
struct gpt_cache {
    gpt_model *m;
    gpti_store *store;
    int rows, *length, *start, *len, *row, *last, *position, *ids;      // (rows) each; (rows*T) each
};

gpt_cache *gpt_cache_at(gpt_cache *k, const char *file, int line) {
    if (k) ag_ctx_at(k->m->ctx, file, line);
    return k;
}

gpt_cache *gpt_cache_new(gpt_model *m, int rows) {
    gpti_store *s = NULL;
    gpt_cache *k;
    int L, T, width;
    if (!m || ag_error(m->ctx)) return NULL;
    L = m->config.n_layer, T = m->config.n_ctx, width = m->config.n_embd / m->config.n_head * m->config.n_kv_head;
    if (rows < 1 || rows > INT_MAX / T / 4) {
        ag_fail(m->ctx, "gpt_cache_new: %d rows: wanted 1 to %d", rows, INT_MAX / T / 4);
        return NULL;
    }
    k = (gpt_cache *)gpti_alloc(m->ctx, 1, sizeof *k);
    if (!k) return NULL;
    k->m = m, k->rows = rows;
    k->length = (int *)gpti_alloc(m->ctx, (size_t)rows * (5 + 2 * (size_t)T), sizeof(int));
    if (!k->length) { GPT_FREE(k); return NULL; }
    k->start = k->length + rows, k->len = k->start + rows, k->row = k->len + rows, k->last = k->row + rows;
    k->position = k->last + rows, k->ids = k->position + rows * T;
    for (s = m->own->stores; s && (s->busy || s->rows < rows); s = s->next) {}
    if (!s) {
        s = (gpti_store *)gpti_alloc(m->ctx, 1, sizeof *s);
        if (s && !(s->kv = (ag_kv *)gpti_alloc(m->ctx, (size_t)L, sizeof *s->kv))) { GPT_FREE(s); s = NULL; }
        if (s) s->rows = rows, s->busy = 1, s->next = m->own->stores, m->own->stores = s;
        for (int i = 0; s && i < L; i++) {
            s->kv[i].k = ag_state_at(m->ctx, rows, T, width, AG_END, AG_END);
            s->kv[i].v = ag_state_at(m->ctx, rows, T, width, AG_END, AG_END);
        }
        if (ag_error(m->ctx)) {                     // one that is not complete stays busy: it is never used
            GPT_FREE(k->length);
            GPT_FREE(k);
            return NULL;
        }
    }
    s->busy = 1, k->store = s;
    return k;
}

void gpt_cache_free(gpt_cache *k) {
    if (!k) return;
    k->store->busy = 0;
    GPT_FREE(k->length);
    GPT_FREE(k);
}

int gpt_cache_length(const gpt_cache *k, int row) { return k && row >= 0 && row < k->rows ? k->length[row] : 0; }
void gpt_cache_truncate(gpt_cache *k, int row, int length) {
    if (k && row >= 0 && row < k->rows && length >= 0 && length < k->length[row]) k->length[row] = length;
}

// New row i is old row from[i], for the first n rows: what beam search does with the winners of a step.
static int gpti_cache_pick(gpt_cache *k, const int *from, int first, int n) {
    const gpt_config *c = &k->m->config;
    size_t width = (size_t)(c->n_embd / c->n_head) * (size_t)c->n_kv_head, row = (size_t)c->n_ctx * width, most = 1;
    for (int b = 0; b < n; b++) if ((size_t)k->length[from[b]] > most) most = (size_t)k->length[from[b]];
    ag_real *buffer = (ag_real *)gpti_alloc(k->m->ctx, (size_t)n * most * width, sizeof *buffer);
    int *length = k->start;                         // scratch
    if (!buffer) return -1;
    for (int i = 0; i < 2 * c->n_layer; i++) {
        ag_tensor *t = i % 2 ? k->store->kv[i / 2].v : k->store->kv[i / 2].k;
        for (int b = 0; b < n; b++)
            ag_get_part(t, (size_t)from[b] * row, (size_t)k->length[from[b]] * width, buffer + b * most * width);
        for (int b = 0; b < n; b++)
            ag_set_part(t, (size_t)(first + b) * row, (size_t)k->length[from[b]] * width, buffer + b * most * width);
    }
    for (int b = 0; b < n; b++) length[b] = k->length[from[b]];
    for (int b = 0; b < n; b++) k->length[first + b] = length[b];
    GPT_FREE(buffer);
    return ag_error(k->m->ctx) ? -1 : 0;
}

int gpt_cache_copy(gpt_cache *k, int to, int from) {
    if (!k || ag_error(k->m->ctx)) return -1;
    if (to < 0 || to >= k->rows || from < 0 || from >= k->rows)
        return ag_fail(k->m->ctx, "gpt_cache_copy: row %d to row %d of %d: wanted 0 to %d", from, to, k->rows,
                       k->rows - 1);
    return to == from ? 0 : gpti_cache_pick(k, &from, to, 1);
}

// Rows that get nothing are left out. Of each other text the last token goes through the head, too; the head of all
// others would be wasted work.
static int gpti_feed(gpt_cache *k, int rows, const int *ids, int T, const int *len, ag_real *logits) {
    gpt_model *m = k->m;
    ag_ctx *ctx = m->ctx;
    int V = m->config.n_vocab, C = m->config.n_embd, n_ctx = m->config.n_ctx, recorded, n = 0;
    gpti_ragged r = {0, k->position, k->len, k->start, k->row, k->store->kv};
    for (int b = 0; b < rows; b++) {
        int more = len ? len[b] : T;
        if (k->length[b] + more > n_ctx)
            return ag_fail(ctx, "gpt_feed: row %d holds %d tokens and gets %d, but the context has %d: forget some "
                           "with gpt_cache_truncate", b, k->length[b], more, n_ctx);
        if (!more) continue;
        k->row[n] = b, k->start[n] = k->length[b], k->len[n] = more;
        for (int t = 0; t < more; t++) k->position[r.N] = k->length[b] + t, k->ids[r.N++] = ids[b * T + t];
        k->last[n++] = r.N - 1;
    }
    if (!n) return 0;
    ag_mark_at mark = ag_mark(ctx);
    recorded = ag_no_grad(ctx, 1);
    ag_tensor *x = gpti_trunk(m, k->ids, n, T, &r);
    x = ag_embedding(ag_reshape_to(x, r.N, C, AG_END, AG_END, AG_END), k->last, n, 0);          // (n,C)
    x = gpt_head(m, x);
    for (int i = 0; logits && i < n; i++) ag_get_part(x, (size_t)i * V, (size_t)V, logits + (size_t)k->row[i] * V);
    ag_no_grad(ctx, recorded);
    ag_rewind(ctx, mark);
    if (ag_error(ctx)) return -1;
    for (int i = 0; i < n; i++) k->length[k->row[i]] += k->len[i];
    return 0;
}

int gpt_feed(gpt_cache *k, const int *ids, int T, const int *len, ag_real *logits) {
    if (!k || ag_error(k->m->ctx) || gpti_ids_ok(k->m, "gpt_feed", ids, k->rows, T, len)) return -1;
    return gpti_feed(k, k->rows, ids, T, len, logits);
}

int gpt_quantize(gpt_model *m, int on) {
    if (!m || ag_error(m->ctx)) return -1;
    for (int i = 0; i < m->config.n_layer; i++) {
        const gpt_layer *l = &m->layer[i];
        if (ag_quantize(l->qkv, 0, on) || ag_quantize(l->proj, 0, on) || ag_quantize(l->up, 0, on) ||
            ag_quantize(l->down, 0, on)) return -1;
    }
    return ag_quantize(m->head ? m->head : m->wte, !m->head, on);
}

// ---- texts ----------------------------------------------------------------------------------------------------------
// Rows of a batch have prompts of different lengths and end at different times. Each has a length of its own in the
// cache, so the shorter ones just begin to generate earlier; rows that have ended are fed nothing.
// When the context is full, positions have to move, and with them all keys that were rotated or that carry a learned
// position: what is kept is computed again. Keeping half makes that rare: T/2 tokens are generated for T/2 fed again.
typedef struct gpti_batch {
    ag_rng *rng;
    ag_real *logits, *logprobs;     // (B,V); (B,cap) or NULL
    int *ids, *len, *done;
    gpt_cache *cache;
} gpti_batch;

// Token i of row b's text: prompt, then output.
static int gpti_token(const int *prompt, int n, const int *out, int i) { return i < n ? prompt[i] : out[i - n]; }

// Many continuations of one prompt stand side by side, and it is read once.
static int gpti_again(const int *const *prompts, const int *n, int b) {
    return b && n[b] == n[b - 1] && !memcmp(prompts[b], prompts[b - 1], (size_t)n[b] * sizeof(int));
}

static int gpti_is_stop(const gpt_sampling *s, int id) {
    for (int i = 0; s && i < s->n_stop; i++) if (s->stop[i] == id) return 1;
    return 0;
}

// log softmax(logits)[id], by the op that training uses: the same bits.
static int gpti_logprob(gpt_model *m, const ag_real *logits, int id, ag_real *logprob) {
    ag_mark_at mark = ag_mark(m->ctx);
    int recorded = ag_no_grad(m->ctx, 1);
    ag_get(ag_neg(ag_nll(ag_input_at(m->ctx, logits, 1, m->config.n_vocab, AG_END, AG_END, AG_END), &id)), logprob);
    ag_no_grad(m->ctx, recorded);
    ag_rewind(m->ctx, mark);
    return ag_error(m->ctx) ? -1 : 0;
}

static int gpti_generate(gpt_model *m, const gpt_sampling *s, int B, const int *const *prompts, const int *n, int *out,
                         int cap, int *n_out, gpt_each each, void *user, gpti_batch *w) {
    int T = m->config.n_ctx, V = m->config.n_vocab, left = B, widest = 1;
    // A stream for each row: what one row draws does not depend on how many others there are, or on when they end.
    for (int b = 0; b < B; b++) {
        w->rng[b].key = (uint64_t)ag_rng_u32(ag_stream(m->ctx, AG_RNG_SAMPLE)) << 32;
        w->rng[b].key |= ag_rng_u32(ag_stream(m->ctx, AG_RNG_SAMPLE)), w->rng[b].counter = 0;
        w->len[b] = n[b] < T ? n[b] : T, n_out[b] = 0;              // a longer prompt loses its beginning
        if (w->len[b] > widest) widest = w->len[b];
        if (gpti_again(prompts, n, b)) w->len[b] = 0;
    }
    while (left > 0) {
        // At first the prompts, right-padded; later one token for each row, or half a context for a row that was full:
        // always the last len[b] of all its tokens.
        for (int b = 0; b < B; b++) {
            const int *row = out + (size_t)b * (size_t)cap;
            int first = n[b] + n_out[b] - w->len[b];
            for (int t = 0; t < w->len[b]; t++) w->ids[b * widest + t] = gpti_token(prompts[b], n[b], row, first + t);
        }
        if (gpti_feed(w->cache, B, w->ids, widest, w->len, w->logits)) return -1;
        for (int b = 1; b < B; b++) {                               // what the row above has read of the same prompt
            if (gpt_cache_length(w->cache, b) || !gpti_again(prompts, n, b)) continue;
            if (gpt_cache_copy(w->cache, b, b - 1)) return -1;
            ag_real *logits = w->logits + (size_t)b * (size_t)V;
            memcpy(logits, logits - V, (size_t)V * sizeof *logits);
        }
        widest = 1;
        for (int b = 0; b < B; b++) {
            if (w->done[b]) continue;
            int id = gpt_sample(m, s, w->logits + (size_t)b * (size_t)V, &w->rng[b]);
            if (id < 0) return -1;
            size_t at = (size_t)b * (size_t)cap + (size_t)n_out[b]++;
            out[at] = id;
            if (w->logprobs && gpti_logprob(m, w->logits + (size_t)b * (size_t)V, id, &w->logprobs[at])) return -1;
            if (each && each(user, b, id)) w->done[b] = 1;
            w->len[b] = 1;
            if (w->done[b] || n_out[b] >= cap || gpti_is_stop(s, id)) w->done[b] = 1, w->len[b] = 0, left--;
            if (w->done[b]) continue;
            if (gpt_cache_length(w->cache, b) == T) {               // full: keep the last half
                gpt_cache_truncate(w->cache, b, 0);
                w->len[b] = T / 2 + (T < 2);
            }
            if (w->len[b] > widest) widest = w->len[b];
        }
    }
    return 0;
}

static int gpti_generate_all(gpt_model *m, const gpt_sampling *s, int B, const int *const *prompts, const int *n,
                             int *out, int cap, int *n_out, gpt_each each, void *user, ag_real *logprobs) {
    gpti_batch w;
    int bad, T;
    if (!m || ag_error(m->ctx) || gpti_sampling_ok(m, s)) return -1;
    T = m->config.n_ctx;
    if (!prompts || !n || !n_out || (cap && !out))
        return ag_fail(m->ctx, "gpt_generate: %s is NULL: pass an array", !prompts ? "prompts" : !n ? "n"
                       : !n_out ? "n_out" : "out");
    for (int b = 0; logprobs && b < B; b++)
        if (n[b] > T || cap > T + 1 - n[b])
            return ag_fail(m->ctx, "gpt_rollout: a prompt of %d tokens and %d new ones exceed the context of %d: "
                           "shorten one of them", n[b], cap, T);
    if (B < 1 || cap < 0)
        return ag_fail(m->ctx, "gpt_generate: %d rows of up to %d tokens: wanted at least 1 row and no less than 0 "
                       "tokens", B, cap);
    for (int b = 0; b < B; b++) {
        if (!prompts[b] || n[b] < 1)
            return ag_fail(m->ctx, "gpt_generate: prompt %d is empty: give at least one token (a newline, say)", b);
        for (int i = 0; i < n[b]; i++)
            if (prompts[b][i] < 0 || prompts[b][i] >= m->config.n_vocab)
                return ag_fail(m->ctx, "gpt_generate: token %d of prompt %d is %d, but n_vocab is %d: wanted 0 to %d. "
                               "Was the prompt encoded with this model's tokenizer?", i, b, prompts[b][i],
                               m->config.n_vocab, m->config.n_vocab - 1);
    }
    memset(&w, 0, sizeof w);
    w.logprobs = logprobs;
    for (int b = 0; b < B; b++) n_out[b] = 0;
    if (cap == 0) return 0;
    w.cache = gpt_cache_new(m, B);
    if (w.cache) w.rng = (ag_rng *)gpti_alloc(m->ctx, (size_t)B, sizeof *w.rng);
    if (w.rng) w.logits = (ag_real *)gpti_alloc(m->ctx, (size_t)B * (size_t)m->config.n_vocab, sizeof *w.logits);
    if (w.logits) w.ids = (int *)gpti_alloc(m->ctx, (size_t)B * ((size_t)T + 2), sizeof *w.ids);
    if (w.ids) w.len = w.ids + (size_t)B * T, w.done = w.len + B;
    bad = !w.ids || gpti_generate(m, s, B, prompts, n, out, cap, n_out, each, user, &w);
    if (w.rng) GPT_FREE(w.rng);
    if (w.logits) GPT_FREE(w.logits);
    if (w.ids) GPT_FREE(w.ids);
    gpt_cache_free(w.cache);
    return bad ? -1 : 0;
}

int gpt_generate_batch(gpt_model *m, const gpt_sampling *s, int B, const int *const *prompts, const int *n, int *out,
                       int cap, int *n_out, gpt_each each, void *user) {
    return gpti_generate_all(m, s, B, prompts, n, out, cap, n_out, each, user, NULL);
}

int gpt_rollout(gpt_model *m, const gpt_sampling *s, int B, const int *const *prompts, const int *n, int *out, int cap,
                int *n_out, ag_real *logprobs) {
    return gpti_generate_all(m, s, B, prompts, n, out, cap, n_out, NULL, NULL, logprobs);
}

int gpt_generate(gpt_model *m, const gpt_sampling *s, const int *prompt, int n, int *out, int cap, gpt_each each,
                 void *user) {
    int n_out = 0;
    return gpt_generate_batch(m, s, 1, &prompt, &n, out, cap, &n_out, each, user) ? -1 : n_out;
}

// ---- beam search ----------------------------------------------------------------------------------------------------
// At each step every living beam proposes its likeliest tokens; the best `beams` of all proposals live on. One that
// ends in a stop token moves to the results, and its score is divided by a power of its length, because every further
// token makes a sum of logarithms smaller.
typedef struct gpti_proposal { double logp; int parent, id; } gpti_proposal;
typedef struct gpti_beams {
    gpt_cache *cache;
    ag_real *logits;                // (beams, V): scores, then log probabilities
    int *alive, *next;              // (beams, cap): tokens of the living beams, and of those after this step
    int *parent, *ids;              // (beams); (the longer of prompt and beams)
    double *logp;                   // (beams)
    gpti_proposal *best;            // (2 * beams)
} gpti_beams;

// Keeps the results sorted, best first; the last one falls off when there are enough.
static void gpti_beam_result(int beams, double score, const int *tokens, int n, int *out, int cap, int *n_out,
                             double *scores, int *count) {
    int at = *count;
    while (at > 0 && scores[at - 1] < score) at--;
    if (at >= beams) return;
    if (*count < beams) ++*count;
    for (int i = *count - 1; i > at; i--) {
        memcpy(out + (size_t)i * cap, out + (size_t)(i - 1) * cap, (size_t)cap * sizeof *out);
        n_out[i] = n_out[i - 1], scores[i] = scores[i - 1];
    }
    memcpy(out + (size_t)at * cap, tokens, (size_t)n * sizeof *out);
    n_out[at] = n, scores[at] = score;
}

static int gpti_beam(gpt_model *m, const gpt_sampling *s, const int *prompt, int n, int beams, double power, int *out,
                     int cap, int *n_out, double *scores, gpti_beams *w) {
    int V = m->config.n_vocab, living = 1, count = 0, T = n;
    memcpy(w->ids, prompt, (size_t)n * sizeof *prompt);
    for (int step = 0; step < cap && living; step++, T = 1) {
        int proposals = 0, left = 0;
        if (gpti_feed(w->cache, step ? living : 1, w->ids, T, NULL, w->logits)) return -1;
        ag_mark_at mark = ag_mark(m->ctx);
        int recorded = ag_no_grad(m->ctx, 1);
        ag_get(ag_log_softmax(ag_input_at(m->ctx, w->logits, living, V, AG_END, AG_END, AG_END)), w->logits);
        ag_no_grad(m->ctx, recorded);
        ag_rewind(m->ctx, mark);
        if (ag_error(m->ctx)) return -1;
        // 2 * beams proposals are enough: at most one token in V ends a beam for each stop token, and with several stop
        // tokens the search merely narrows.
        for (int b = 0; b < living; b++)
            for (int id = 0; id < V; id++) {
                double logp = w->logp[b] + w->logits[(size_t)b * V + id];
                int at = proposals < 2 * beams ? proposals++ : proposals;
                if (at == proposals && !(logp > w->best[at - 1].logp)) continue;
                if (at == proposals) at--;
                while (at > 0 && logp > w->best[at - 1].logp) w->best[at] = w->best[at - 1], at--;
                w->best[at].logp = logp, w->best[at].parent = b, w->best[at].id = id;
            }
        for (int i = 0; i < proposals && left < beams; i++) {
            gpti_proposal *p = &w->best[i];
            int *row = w->next + (size_t)left * cap;
            memcpy(row, w->alive + (size_t)p->parent * cap, (size_t)step * sizeof *row);
            row[step] = p->id;
            if (gpti_is_stop(s, p->id) || step + 1 == cap)
                gpti_beam_result(beams, p->logp / pow(step + 1, power), row, step + 1, out, cap, n_out, scores, &count);
            else w->parent[left] = p->parent, w->ids[left] = p->id, w->logp[left++] = p->logp;
        }
        living = left;
        memcpy(w->alive, w->next, (size_t)living * cap * sizeof *w->alive);
        // Done when no living beam can still overtake: its sum only falls, and at best the longest length divides it.
        if (count == beams && living && w->logp[0] / pow(cap, power) < scores[beams - 1]) living = 0;
        if (living && gpti_cache_pick(w->cache, w->parent, 0, living)) return -1;
    }
    return count;
}

int gpt_beam(gpt_model *m, const gpt_sampling *s, const int *prompt, int n, int beams, double length_power, int *out,
             int cap, int *n_out, double *scores) {
    gpti_beams w;
    int count = -1, V, T;
    size_t row;
    if (!m || ag_error(m->ctx) || (s && gpti_sampling_ok(m, s))) return -1;
    if (gpti_ids_ok(m, "gpt_beam", prompt, 1, n, NULL)) return -1;
    V = m->config.n_vocab, T = m->config.n_ctx;
    if (!out || !n_out || !scores)
        return ag_fail(m->ctx, "gpt_beam: %s is NULL: pass an array", !out ? "out" : !n_out ? "n_out" : "scores");
    if (beams < 1 || beams > INT_MAX / 8 / V)
        return ag_fail(m->ctx, "gpt_beam: %d beams: wanted 1 to %d", beams, INT_MAX / 8 / V);
    if (cap < 1 || cap > T + 1 - n)
        return ag_fail(m->ctx, "gpt_beam: up to %d tokens after a prompt of %d, but the context has %d: wanted 1 to "
                       "%d, or a shorter prompt", cap, n, T, T + 1 - n);
    if (!gpti_between(length_power, 0, 10))
        return ag_fail(m->ctx, "gpt_beam: length_power is %g, wanted 0 (sums) to 10; 1 is the mean", length_power);
    memset(&w, 0, sizeof w);
    row = (size_t)beams * (size_t)cap;
    w.cache = gpt_cache_new(m, beams);
    if (w.cache) w.logits = (ag_real *)gpti_alloc(m->ctx, (size_t)beams * (size_t)V, sizeof *w.logits);
    if (w.logits) w.alive = (int *)gpti_alloc(m->ctx, 2 * row + 2 * (size_t)beams + (size_t)n, sizeof *w.alive);
    if (w.alive) w.logp = (double *)gpti_alloc(m->ctx, (size_t)beams, sizeof *w.logp);
    if (w.logp) w.next = w.alive + row, w.parent = w.next + row, w.ids = w.parent + beams;
    if (w.logp) w.best = (gpti_proposal *)gpti_alloc(m->ctx, 2 * (size_t)beams, sizeof *w.best);
    if (w.best) count = gpti_beam(m, s, prompt, n, beams, length_power, out, cap, n_out, scores, &w);
    if (w.best) GPT_FREE(w.best);
    if (w.logp) GPT_FREE(w.logp);
    if (w.alive) GPT_FREE(w.alive);
    if (w.logits) GPT_FREE(w.logits);
    gpt_cache_free(w.cache);
    return count;
}

// ====================================================================================================================
// Chapter 5: after pretraining
// ====================================================================================================================
// What fine-tuning, reward models and reinforcement learning need besides: models made from models, the probability of
// a given text, and conversations. The losses themselves are formulas, and stand in the lessons.

// ---- models from models ---------------------------------------------------------------------------------------------
// Values of the old tensor into the new one. Tokens are rows of the embedding (V,C) and columns of the head (C,V);
// those that are new get the mean of the old ones: equally near to all, as befits something never seen.
static int gpti_adapt_values(ag_tensor *to, const ag_tensor *from, ag_real *old, ag_real *values) {
    const size_t rows = (size_t)from->shape[0], cols = from->count / (rows ? rows : 1), more = (size_t)to->shape[1];
    if (ag_get(from, old)) return -1;
    if (to->count == from->count) return ag_set(to, old);
    if (more == cols || to->ndim == 1) {
        memcpy(values, old, from->count * sizeof *old);
        for (size_t j = 0; j < cols; j++) {
            double sum = 0;
            for (size_t i = 0; i < rows; i++) sum += old[i * cols + j];
            for (size_t i = rows; i < (size_t)to->shape[0]; i++) values[i * cols + j] = (ag_real)(sum / (double)rows);
        }
        return ag_set(to, values);
    }
    for (size_t i = 0; i < rows; i++) {
        double sum = 0;
        for (size_t j = 0; j < cols; j++) values[i * more + j] = old[i * cols + j], sum += old[i * cols + j];
        for (size_t j = cols; j < more; j++) values[i * more + j] = (ag_real)(sum / (double)cols);
    }
    return ag_set(to, values);
}

// w += scale a z: what the adapters of m have learned becomes part of the matrix w of another model.
static int gpti_merge(ag_tensor *w, ag_tensor *a, ag_tensor *z, double scale, ag_real *sum, ag_real *part) {
    ag_mark_at mark = ag_mark(a->ctx);
    int recorded = ag_no_grad(a->ctx, 1);
    int bad = ag_get(ag_scale(ag_linear(a, z, NULL), scale), part) || ag_get(w, sum);
    ag_no_grad(a->ctx, recorded);
    ag_rewind(a->ctx, mark);
    for (size_t i = 0; !bad && i < w->count; i++) sum[i] += part[i];
    return bad || ag_set(w, sum);
}

static int gpti_adapt_all(gpt_model *y, gpt_model *m, ag_real *old, ag_real *values) {
    const int merge = m->config.lora_rank && y->config.lora_rank != m->config.lora_rank;
    const double scale = merge ? m->config.lora_alpha / m->config.lora_rank : 0;
    gpt_param p;
    ag_tensor **field;
    for (int i = 0; gpti_param(&y->config, y, i, &p, &field); i++) {
        const ag_tensor *from = merge && strstr(p.label, "lora_") ? NULL : gpt_tensor(m, p.name);
        if (from ? gpti_adapt_values(*field, from, old, values) : 0) return -1;
        if (!from && p.std > 0) ag_randn(*field, (ag_real)p.std);
    }
    for (int i = 0; merge && i < y->config.n_layer; i++) {
        const gpt_layer *to = &y->layer[i], *l = &m->layer[i];
        if (gpti_merge(to->qkv, l->qkv_a, l->qkv_z, scale, old, values) ||
            gpti_merge(to->proj, l->proj_a, l->proj_z, scale, old, values) ||
            gpti_merge(to->up, l->up_a, l->up_z, scale, old, values) ||
            gpti_merge(to->down, l->down_a, l->down_z, scale, old, values)) return -1;
    }
    return ag_error(y->ctx) || ag_error(m->ctx) ? -1 : 0;
}

gpt_model *gpt_adapt(ag_ctx *ctx, gpt_model *m, const gpt_config *want) {
    gpt_config c, known;
    gpt_param p;
    gpt_model *y = NULL;
    size_t most = 0;
    char why[256];
    if (!ctx || ag_error(ctx) || !m) return NULL;
    c = known = want ? *want : m->config;
    if (gpti_check(&c, why, sizeof why)) { ag_fail(ctx, "gpt_adapt: %s", why); return NULL; }
    known.n_vocab = m->config.n_vocab, known.scalar = m->config.scalar, known.lora_rank = m->config.lora_rank;
    if (!gpti_same(&known, &m->config) || c.n_vocab < m->config.n_vocab) {
        ag_fail(ctx, "gpt_adapt: only a larger n_vocab (it is %d, wanted %d or more), scalar, lora_rank and dropout "
                "can change: copy the rest of the model's own config", c.n_vocab, m->config.n_vocab);
        return NULL;
    }
    if (c.lora_rank && c.lora_rank == m->config.lora_rank && c.lora_alpha != m->config.lora_alpha) {
        ag_fail(ctx, "gpt_adapt: lora_alpha is %g, but these adapters have learned with %g: keep it", c.lora_alpha,
                m->config.lora_alpha);
        return NULL;
    }
    for (int i = 0; gpt_param_at(&c, i, &p); i++) if (p.count > most) most = p.count;
    ag_real *old = (ag_real *)gpti_alloc(ctx, 2 * most, sizeof *old);
    if (old) y = gpti_new(ctx, &c, 0);
    if (y && gpti_adapt_all(y, m, old, old + most)) gpt_free(y), y = NULL;
    if (y) y->training = m->training;
    if (old) GPT_FREE(old);
    return y;
}

gpt_model *gpt_grow(ag_ctx *ctx, gpt_model *m, int n_vocab) {
    gpt_config c;
    if (!m) return NULL;
    c = m->config, c.n_vocab = n_vocab;
    return gpt_adapt(ctx, m, &c);
}

void gpt_freeze(gpt_model *m) {
    gpt_param p;
    ag_tensor **field;
    for (int i = 0; m && gpti_param(&m->config, m, i, &p, &field); i++) ag_trainable(*field, 0);
}

// ---- the probability of a given text --------------------------------------------------------------------------------
void gpt_targets(const int *ids, const unsigned char *mask, int B, int T, const int *len, int *targets) {
    for (int b = 0; b < B; b++)
        for (int t = 0; t < T; t++) {
            int at = b * T + t, counts = t + 1 < (len ? len[b] : T) && (!mask || mask[at + 1]);
            targets[at] = counts ? ids[at + 1] : AG_IGNORE;
        }
}

// The head is a large matrix: only the positions that count go through it. n of them, and a zero for all others.
ag_tensor *gpt_logprobs(gpt_model *m, const int *ids, const unsigned char *mask, int B, int T, const int *len) {
    ag_tensor *h = gpt_trunk(m, ids, B, T, len), *y[2];
    int *to = h ? (int *)gpti_alloc(m->ctx, 3 * (size_t)B * (size_t)T, sizeof *to) : NULL, *at, *from, n = 0;
    if (!to) return NULL;
    at = to + B * T, from = at + B * T;
    gpt_targets(ids, mask, B, T, len, from);
    for (int i = 0; i < B * T; i++) if (from[i] != AG_IGNORE) at[n] = i, to[n++] = from[i];
    for (int i = 0, k = 0; i < B * T; i++) from[i] = from[i] == AG_IGNORE ? n : k++;
    h = ag_embedding(ag_reshape_to(h, B * T, m->config.n_embd, AG_END, AG_END, AG_END), at, n, 0);      // (n,C)
    y[0] = ag_reshape_to(ag_neg(ag_nll(gpt_head(m, h), to)), n, 1, AG_END, AG_END, AG_END);
    y[1] = ag_full_at(m->ctx, 0, 1, 1, AG_END, AG_END, AG_END);
    h = ag_reshape_to(ag_embedding(ag_concat(y, 2, 0), from, B * T, T), B, T, AG_END, AG_END, AG_END);
    GPT_FREE(to);
    return h;
}

// ---- conversations --------------------------------------------------------------------------------------------------
const gpt_template *gpt_template_find(const char *name) {
    static const gpt_template known[] = {
        { "im", "<|im_start|>%s", "\n", "<|im_end|>", "\n" },
        { "sep", "<|im_start|>%s", "<|im_sep|>", "<|im_end|>", "" },
        { "tags", "<|%s|>", "\n", "<|end|>", "\n" } };
    for (int i = 0; name && i < 3; i++) if (!strcmp(name, known[i].name)) return &known[i];
    return NULL;
}

typedef struct gpti_chat {
    ag_ctx *ctx;
    const gpt_text *by;
    int *ids;
    unsigned char *mask;
    size_t cap, n;
} gpti_chat;

// Plain text: its tokens cannot be special, whatever it says.
static int gpti_chat_plain(gpti_chat *w, const char *text, size_t n, int trained) {
    size_t room = w->n < w->cap ? w->cap - w->n : 0;
    long more = n ? w->by->encode(w->by->tokenizer, text, n, room ? w->ids + w->n : NULL, room) : 0;
    if (more < 0) return ag_fail(w->ctx, "gpt_chat: the tokenizer fails with status %ld on \"%.*s\"", more,
                                 (int)(n < 40 ? n : 40), text);
    if (w->mask) memset(w->mask + w->cap - room, trained, (size_t)more < room ? (size_t)more : room);
    w->n += (size_t)more;
    return 0;
}

// Text in which <|...|> is a special token, and must be one: a template's, or a message's that is trusted.
static int gpti_chat_special(gpti_chat *w, const char *text, int trained) {
    char name[64];
    for (const char *from = strstr(text, "<|"), *to; from; text = to, from = strstr(text, "<|")) {
        if (!(to = strstr(from + 2, "|>"))) break;
        to += 2;
        snprintf(name, sizeof name, "%.*s", (int)(to - from < 60 ? to - from : 60), from);
        int id = w->by->special(w->by->tokenizer, name);
        if (id < 0) return ag_fail(w->ctx, "gpt_chat: the tokenizer has no special token %s: add it, and gpt_grow the "
                                   "model", name);
        if (gpti_chat_plain(w, text, (size_t)(from - text), trained)) return -1;
        if (w->n < w->cap) {
            w->ids[w->n] = id;
            if (w->mask) w->mask[w->n] = (unsigned char)trained;
        }
        w->n++;
    }
    return gpti_chat_plain(w, text, strlen(text), trained);
}

static int gpti_chat_begin(gpti_chat *w, const gpt_template *t, int role) {
    static const char *const names[GPT_ROLES] = { "system", "user", "assistant", "tool" };
    const char *hole = strstr(t->begin, "%s");
    char begin[96];
    snprintf(begin, sizeof begin, "%.*s%s%.40s", hole ? (int)(hole - t->begin) : 40, t->begin, hole ? names[role] : "",
             hole ? hole + 2 : "");
    return gpti_chat_special(w, begin, 0) || gpti_chat_special(w, t->between, 0) ? -1 : 0;
}

long gpt_chat(ag_ctx *ctx, const gpt_template *t, const gpt_text *by, const gpt_message *messages, int n, int reply,
              int *ids, unsigned char *mask, size_t cap) {
    gpti_chat w;
    if (!ctx || ag_error(ctx)) return -1;
    if (!t || !by || !by->encode || !by->special || (n > 0 && !messages) || (cap && !ids))
        return ag_fail(ctx, "gpt_chat: %s is NULL", !t ? "the template (gpt_template_find: im, sep, tags)" :  !by ||
                       !by->encode || !by->special ? "the tokenizer, or its encode or special" : cap && !ids ? "ids"
                       : "messages");
    w.ctx = ctx, w.by = by, w.ids = ids, w.mask = mask, w.cap = cap, w.n = 0;
    for (int i = 0; i < n; i++) {
        const gpt_message *say = &messages[i];
        const int trained = say->role == GPT_ASSISTANT;
        if (say->role < 0 || say->role >= GPT_ROLES || !say->text)
            return ag_fail(ctx, "gpt_chat: message %d has role %d and %s text: wanted GPT_SYSTEM, GPT_USER, "
                           "GPT_ASSISTANT or GPT_TOOL, and a text", i, say->role, say->text ? "a" : "no");
        if (gpti_chat_begin(&w, t, say->role) ||
            (say->trusted ? gpti_chat_special(&w, say->text, trained)
                          : gpti_chat_plain(&w, say->text, strlen(say->text), trained)) ||
            gpti_chat_special(&w, t->end, trained) || gpti_chat_special(&w, t->after, 0)) return -1;
    }
    if (reply && gpti_chat_begin(&w, t, GPT_ASSISTANT)) return -1;
    return (long)w.n;
}

size_t gpt_show_mask(const gpt_text *by, const int *ids, const unsigned char *mask, size_t n, char *out, size_t cap) {
    gpti_page t;
    t.out = out, t.size = cap, t.used = 0;
    for (size_t i = 0; i < n; i++) {
        size_t size = 0;
        const char *piece = by->piece(by->tokenizer, ids[i], &size);
        if (i == 0 || mask[i] != mask[i - 1]) gpti_print(&t, mask[i] ? "\033[32m" : "\033[90m");
        for (size_t k = 0; piece && k < size; k++)      // control characters would move the cursor, or worse
            gpti_print(&t, "%c", (unsigned char)piece[k] < 32 && piece[k] != '\n' ? '?' : piece[k]);
    }
    gpti_print(&t, "\033[0m");
    return t.used;
}

// ====================================================================================================================
// Chapter 6: files
// ====================================================================================================================
// A safetensors file is eight bytes (the length of the header, little endian), the header (JSON: name, type, shape and
// place of each tensor) and the tensors, one behind the other. Nothing in it can be executed, and everything in it is
// believed only after it has been checked: a file may come from anywhere.

// ---- CRC-32 ---------------------------------------------------------------------------------------------------------
// The polynomial of zlib and PNG, eight bytes at a time with eight tables (Kounavis & Berry 2005). Starts from 0.
typedef struct gpti_crc { uint32_t value, table[8][256]; } gpti_crc;

static void gpti_crc_begin(gpti_crc *c) {
    c->value = 0;
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t r = i;
        for (int k = 0; k < 8; k++) r = (r >> 1) ^ (r & 1 ? 0xEDB88320u : 0);
        c->table[0][i] = r;
    }
    for (int t = 1; t < 8; t++)
        for (int i = 0; i < 256; i++) {
            uint32_t r = c->table[t - 1][i];
            c->table[t][i] = (r >> 8) ^ c->table[0][r & 255];
        }
}

static void gpti_crc_add(gpti_crc *c, const void *bytes, size_t n) {
    const unsigned char *p = (const unsigned char *)bytes;
    uint32_t r = ~c->value;
    for (; n >= 8; n -= 8, p += 8) {
        uint32_t low = r ^ (p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24);
        r = c->table[7][low & 255] ^ c->table[6][low >> 8 & 255] ^ c->table[5][low >> 16 & 255];
        r ^= c->table[4][low >> 24] ^ c->table[3][p[4]] ^ c->table[2][p[5]] ^ c->table[1][p[6]] ^ c->table[0][p[7]];
    }
    for (; n; n--, p++) r = (r >> 8) ^ c->table[0][(r ^ *p) & 255];
    c->value = ~r;
}

// ---- state ----------------------------------------------------------------------------------------------------------
void gpt_state_free(gpt_state *s) {
    if (!s) return;
    if (s->notes) GPT_FREE(s->notes);
    if (s->tokenizer) GPT_FREE(s->tokenizer);
    s->notes = NULL, s->tokenizer = NULL, s->tokenizer_size = 0;
}

static const char *gpti_next_line(const char *line) {
    line += strcspn(line, "\n");
    return line + (*line == '\n');
}

int gpt_note(const gpt_state *s, const char *key, char *value, size_t size) {
    size_t k = key ? strlen(key) : 0;
    if (size) value[0] = 0;
    for (const char *line = s ? s->notes : NULL; line && *line && k; line = gpti_next_line(line)) {
        if (strncmp(line, key, k) || line[k] != '=') continue;
        if (size) snprintf(value, size, "%.*s", (int)strcspn(line + k + 1, "\n"), line + k + 1);
        return 1;
    }
    return 0;
}

// ---- the header: writing --------------------------------------------------------------------------------------------
typedef struct gpti_text { ag_ctx *ctx; char *s; size_t n, size; } gpti_text;      // grows; s is NULL after a failure

static void gpti_put(gpti_text *t, const char *s, size_t n) {      // does nothing after a failure: one check is enough
    if (t->size - t->n < n + 1) {
        size_t size = 2 * t->size + n + 256;
        char *more = t->s || !t->size ? (char *)gpti_alloc(t->ctx, size, 1) : NULL;
        if (more && t->s) memcpy(more, t->s, t->n);
        if (t->s) GPT_FREE(t->s);
        t->s = more, t->size = size;
    }
    if (t->s) memcpy(t->s + t->n, s, n), t->n += n, t->s[t->n] = 0;
}

static void gpti_put_escaped(gpti_text *t, const char *s, size_t n) {
    for (size_t i = 0; i < n; i++) {
        char escaped[8];
        unsigned char byte = (unsigned char)s[i];
        if (byte == '"' || byte == '\\') snprintf(escaped, sizeof escaped, "\\%c", byte);
        else if (byte < 32 || byte == 127) snprintf(escaped, sizeof escaped, "\\u%04x", byte);
        else snprintf(escaped, sizeof escaped, "%c", byte);
        gpti_put(t, escaped, strlen(escaped));
    }
}

// ,"PREFIXkey":"value"
static void gpti_put_pair_n(gpti_text *t, const char *prefix, const char *key, size_t k, const char *value, size_t v) {
    gpti_put(t, ",\"", 2);
    gpti_put(t, prefix, strlen(prefix));
    gpti_put_escaped(t, key, k);
    gpti_put(t, "\":\"", 3);
    gpti_put_escaped(t, value, v);
    gpti_put(t, "\"", 1);
}
static void gpti_put_pair(gpti_text *t, const char *key, const char *value) {
    gpti_put_pair_n(t, "gpt.", key, strlen(key), value, strlen(value));
}

// 17 digits bring a double back exactly. A program that has called setlocale may print a comma; files have points.
static void gpti_put_real(gpti_text *t, const char *key, double value) {
    char digits[40];
    if (value - value != 0) snprintf(digits, sizeof digits, "%s", value != value ? "nan" : value > 0 ? "inf" : "-inf");
    else snprintf(digits, sizeof digits, "%.17g", value);
    for (char *p = digits; *p; p++) if (*p == ',') *p = '.';
    gpti_put_pair(t, key, digits);
}

static int gpti_get_real(const char *text, double *value) {
    char digits[40], point[8], *end;
    if (!strcmp(text, "nan")) { *value = NAN; return 1; }
    if (!strcmp(text, "inf") || !strcmp(text, "-inf")) { *value = *text == '-' ? -INFINITY : INFINITY; return 1; }
    if (!*text || strlen(text) >= sizeof digits || strspn(text, "0123456789+-.e") != strlen(text)) return 0;
    snprintf(point, sizeof point, "%.1f", 0.5);
    snprintf(digits, sizeof digits, "%s", text);
    for (char *p = digits; *p; p++) if (*p == '.') *p = point[1];
    *value = strtod(digits, &end);
    return !*end;
}

static int gpti_get_int(const char *text, uint64_t limit, uint64_t *value) {
    uint64_t n = 0;
    if (!*text || (*text == '0' && text[1])) return 0;
    for (; *text; text++) {
        if (*text < '0' || *text > '9' || n > (limit - (uint64_t)(*text - '0')) / 10) return 0;
        n = 10 * n + (uint64_t)(*text - '0');
    }
    *value = n;
    return 1;
}

// The length of the UTF-8 character at s, or 0: JSON has to be UTF-8, or other readers refuse the file.
static size_t gpti_utf8(const unsigned char *s, size_t n) {
    size_t k = s[0] < 0x80 ? 1 : s[0] < 0xC2 ? 0 : s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3 : s[0] < 0xF5 ? 4 : 0;
    if (k > n) return 0;
    for (size_t i = 1; i < k; i++) if ((s[i] & 0xC0) != 0x80) return 0;
    if (k == 3 && ((s[0] == 0xE0 && s[1] < 0xA0) || (s[0] == 0xED && s[1] > 0x9F))) return 0;   // too long; a surrogate
    if (k == 4 && ((s[0] == 0xF0 && s[1] < 0x90) || (s[0] == 0xF4 && s[1] > 0x8F))) return 0;   // too long; too large
    return k;
}

// ---- saving ---------------------------------------------------------------------------------------------------------
enum { GPTI_WEIGHT, GPTI_M, GPTI_V, GPTI_STEPS, GPTI_TOKENIZER, GPTI_KINDS };
static const char *const gpti_kind_name[GPTI_KINDS] = { "", "optim.m/", "optim.v/", "optim.steps", "tokenizer" };
typedef struct gpti_out {           // one tensor of a file to be written
    char name[64];
    int kind, item, rows, cols;     // item: bytes of one number
    ag_tensor *t;
    size_t bytes;
} gpti_out;

static int gpti_out_order(const void *a, const void *b) {      // the writers' custom: by size of the type, then by name
    const gpti_out *x = (const gpti_out *)a, *y = (const gpti_out *)b;
    return x->item != y->item ? (x->item < y->item) - (x->item > y->item) : strcmp(x->name, y->name);
}

static const gpt_io *gpti_io(void) {
#ifdef GPT_IO
    return GPT_IO;
#else
    return gpt_stdio();
#endif
}

static int gpti_little_endian(void) {
    const uint16_t one = 1;
    return *(const unsigned char *)&one;
}

// Numbers are little endian in files: on other machines each one is turned around.
static void gpti_swap(void *bytes, size_t n, size_t size) {
    unsigned char *p = (unsigned char *)bytes;
    if (gpti_little_endian()) return;
    for (; n; n--, p += size)
        for (size_t i = 0; i < size / 2; i++) { unsigned char t = p[i]; p[i] = p[size - 1 - i], p[size - 1 - i] = t; }
}

// The digits of the checksum stand at this place of the file: behind the length and this text.
#define GPTI_HEADER_START "{\"__metadata__\":{\"format\":\"pt\",\"gpt.crc32\":\""
#define GPTI_CRC_AT (8 + sizeof GPTI_HEADER_START - 1)

static void gpti_put_metadata(gpti_text *t, gpt_model *m, const gpt_state *s) {
    char text[64], key[16];
    gpti_put(t, GPTI_HEADER_START "00000000\"", sizeof GPTI_HEADER_START - 1 + 9);
    gpti_put_pair(t, "version", "1");
    gpti_put_pair(t, "name", m->config.name);
#define GPTI_PUT_INT(field, low, high) \
    snprintf(text, sizeof text, "%d", m->config.field), gpti_put_pair(t, #field, text);
    GPTI_CONFIG_INTS(GPTI_PUT_INT)
#define GPTI_PUT_PART(field, low, high) if (m->config.field) { GPTI_PUT_INT(field, low, high) }
    GPTI_CONFIG_PARTS(GPTI_PUT_PART)
#undef GPTI_PUT_PART
#undef GPTI_PUT_INT
#define GPTI_PUT_REAL(field) gpti_put_real(t, #field, m->config.field);
    GPTI_CONFIG_REALS(GPTI_PUT_REAL)
#undef GPTI_PUT_REAL
    if (s) {
        snprintf(text, sizeof text, "%lld", s->step), gpti_put_pair(t, "step", text);
        snprintf(text, sizeof text, "%llu", (unsigned long long)s->cursor), gpti_put_pair(t, "cursor", text);
        gpti_put_real(t, "train_loss", s->train_loss);
        gpti_put_real(t, "val_loss", s->val_loss);
        gpti_put_real(t, "best_val_loss", s->best_val_loss);
        gpti_put_pair(t, "matmul", ag_matmul_path(m->ctx));
        for (int i = 0; i < AG_RNG_COUNT; i++) {
            const ag_rng *r = ag_stream(m->ctx, i);
            snprintf(key, sizeof key, "rng.%d", i);
            snprintf(text, sizeof text, "%llu %llu", (unsigned long long)r->key, (unsigned long long)r->counter);
            gpti_put_pair(t, key, text);
        }
        for (const char *line = s->notes; line && *line; line = gpti_next_line(line)) {
            size_t n = strcspn(line, "\n"), k = strcspn(line, "=\n");
            if (k < n) gpti_put_pair_n(t, "note.", line, k, line + k + 1, n - k - 1);
        }
    }
    gpti_put(t, "}", 1);
}

// Values of one tensor or of one moment, a piece at a time.
static int gpti_read_values(const gpti_out *o, size_t first, size_t n, ag_real *to) {
    ag_tensor view = *o->t;
    view.data = o->kind == GPTI_M ? o->t->m : o->kind == GPTI_V ? o->t->v : o->t->data;
    return ag_get_part(&view, first, n, to);
}

typedef struct gpti_save {
    const gpt_io *io;
    gpti_out *out;                  // (n_out)
    int n_out;
    gpti_text header;
    char *temporary;
    ag_real *piece;                 // (GPTI_PIECE)
    gpti_crc *crc;
    const char *failed;             // what went wrong, or NULL; and errno then
    int error;
} gpti_save;
#define GPTI_PIECE 16384

static void gpti_add(gpti_save *w, const char *name, int kind, int item, int rows, int cols, ag_tensor *t) {
    gpti_out *o = &w->out[w->n_out++];
    snprintf(o->name, sizeof o->name, "%s%s", gpti_kind_name[kind], name);
    o->kind = kind, o->item = item, o->rows = rows, o->cols = cols, o->t = t;
    o->bytes = (size_t)item * (size_t)rows * (size_t)(cols ? cols : 1);
}

// All tensors of the file in their order, and the header that lists them.
static int gpti_plan(gpti_save *w, gpt_model *m, const gpt_state *s) {
    gpt_param p;
    ag_tensor **field;
    char text[160];
    size_t at = 0;
    int n = 0, real = (int)sizeof(ag_real);
    while (gpt_param_at(&m->config, n, &p)) n++;
    if (!(w->out = (gpti_out *)gpti_alloc(m->ctx, 3 * (size_t)n + 2, sizeof *w->out))) return -1;
    for (int i = 0; gpti_param(&m->config, m, i, &p, &field); i++) {
        gpti_add(w, p.name, GPTI_WEIGHT, real, p.rows, p.cols, *field);
        if (s && (*field)->m) gpti_add(w, p.name, GPTI_M, real, p.rows, p.cols, *field);
        if (s && (*field)->v) gpti_add(w, p.name, GPTI_V, real, p.rows, p.cols, *field);
    }
    if (s) gpti_add(w, "", GPTI_STEPS, 8, n, 0, NULL);
    if (s && s->tokenizer && s->tokenizer_size > INT_MAX)
        return ag_fail(m->ctx, "gpt_save: a tokenizer of %zu bytes is too large: wanted at most %d", s->tokenizer_size,
                       INT_MAX);
    if (s && s->tokenizer) gpti_add(w, "", GPTI_TOKENIZER, 1, (int)s->tokenizer_size, 0, NULL);
    qsort(w->out, (size_t)w->n_out, sizeof *w->out, gpti_out_order);
    w->header.ctx = m->ctx;
    gpti_put_metadata(&w->header, m, s);
    for (int i = 0; i < w->n_out; i++) {
        const gpti_out *o = &w->out[i];
        int k = snprintf(text, sizeof text, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[%d", o->name,
                         o->item == 1 ? "U8" : o->kind == GPTI_STEPS ? "I64" : o->item == 8 ? "F64" : "F32", o->rows);
        if (o->cols) k += snprintf(text + k, sizeof text - (size_t)k, ",%d", o->cols);
        k += snprintf(text + k, sizeof text - (size_t)k, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)at,
                      (unsigned long long)(at + o->bytes));
        gpti_put(&w->header, text, (size_t)k), at += o->bytes;
    }
    gpti_put(&w->header, "}", 1);
    while (w->header.s && w->header.n % 8) gpti_put(&w->header, " ", 1);
    return w->header.s ? 0 : -1;
}

static int gpti_write(gpti_save *w, void *file, const void *bytes, size_t n) {
    gpti_crc_add(w->crc, bytes, n);
    if (n && w->io->write(file, bytes, n)) return w->failed = "writing", w->error = errno, -1;
    return 0;
}

static int gpti_write_tensor(gpti_save *w, void *file, gpt_model *m, const gpt_state *s, const gpti_out *o) {
    if (o->kind == GPTI_TOKENIZER) return gpti_write(w, file, s->tokenizer, s->tokenizer_size);
    if (o->kind == GPTI_STEPS) {
        gpt_param p;
        ag_tensor **field;
        for (int i = 0; gpti_param(&m->config, m, i, &p, &field); i++) {
            int64_t steps = (*field)->steps;
            gpti_swap(&steps, 1, sizeof steps);
            if (gpti_write(w, file, &steps, sizeof steps)) return -1;
        }
        return 0;
    }
    for (size_t at = 0; at < o->t->count; at += GPTI_PIECE) {
        size_t n = o->t->count - at < GPTI_PIECE ? o->t->count - at : GPTI_PIECE;
        if (gpti_read_values(o, at, n, w->piece)) return -1;
        gpti_swap(w->piece, n, sizeof(ag_real));
        if (gpti_write(w, file, w->piece, n * sizeof(ag_real))) return -1;
    }
    return 0;
}

static int gpti_write_file(gpti_save *w, void *file, gpt_model *m, const gpt_state *s) {
    unsigned char length[8];
    char digits[12];
    for (int i = 0; i < 8; i++) length[i] = (unsigned char)((uint64_t)w->header.n >> (8 * i));
    if (gpti_write(w, file, length, 8) || gpti_write(w, file, w->header.s, w->header.n)) return -1;
    for (int i = 0; i < w->n_out; i++) if (gpti_write_tensor(w, file, m, s, &w->out[i])) return -1;
    snprintf(digits, sizeof digits, "%08lx", (unsigned long)w->crc->value);
    if (w->io->patch(file, GPTI_CRC_AT, digits, 8)) return w->failed = "writing", w->error = errno, -1;
    if (w->io->sync(file)) return w->failed = "flushing", w->error = errno, -1;
    return 0;
}

static long gpti_process(void);

// The order of things is what makes it safe (Pillai et al. 2014, "All File Systems Are Not Created Equal"): first the
// whole file under another name, then on the disk (sync), then the rename, which replaces the old file in one step,
// then that on the disk, too. A crash at any moment leaves the old file or the new one, never a part of one. A sync
// that has failed once is not tried again: the kernel may have dropped the data, and the second try would succeed
// (Rebello 2020).
int gpt_save(gpt_model *m, const char *path, const gpt_state *s) {
    gpti_save w;
    void *file = NULL;
    int bad = 1, renamed = 0;
    if (!m || ag_error(m->ctx)) return -1;
    if (!path || !*path) return ag_fail(m->ctx, "gpt_save: the path is %s: pass a file's name", path ? "empty"
                                         : "NULL");
    if (s && s->step < 0)
        return ag_fail(m->ctx, "gpt_save: step is %lld, wanted the steps done so far, 0 or more. Was the gpt_state "
                       "zeroed first?", s->step);
    for (size_t i = 0, n = s && s->notes ? strlen(s->notes) : 0, k; i < n; i += k)
        if ((k = gpti_utf8((const unsigned char *)s->notes + i, n - i)) == 0)
            return ag_fail(m->ctx, "gpt_save: byte %zu of the notes, 0x%02x, is not UTF-8: leave it out, or encode it",
                           i, (unsigned char)s->notes[i]);
    for (const char *line = s ? s->notes : NULL; line && *line; line = gpti_next_line(line))
        if (strcspn(line, "=\n") > 48)
            return ag_fail(m->ctx, "gpt_save: a key in the notes is longer than 48 bytes: shorten it: %.60s", line);
    memset(&w, 0, sizeof w);
    w.io = gpti_io();
    w.temporary = (char *)gpti_alloc(m->ctx, strlen(path) + 64, 1);
    if (w.temporary) w.piece = (ag_real *)gpti_alloc(m->ctx, GPTI_PIECE, sizeof *w.piece);
    if (w.piece) w.crc = (gpti_crc *)gpti_alloc(m->ctx, 1, sizeof *w.crc);
    if (w.crc && !gpti_plan(&w, m, s)) {
        // One process may save two models to one place: so the model's address is in the name, too.
        sprintf(w.temporary, "%s.tmp.%ld.%lx", path, gpti_process(), (unsigned long)(uintptr_t)m);
        gpti_crc_begin(w.crc);
        w.io->sweep(path), w.io->remove(w.temporary);
        errno = 0;
        if ((file = w.io->open(w.temporary, 1)) == NULL) w.failed = "creating", w.error = errno;
        else bad = gpti_write_file(&w, file, m, s);
        if (file && w.io->close(file) && !bad) bad = -1, w.failed = "closing", w.error = errno;
        if (!bad && w.io->rename(w.temporary, path)) bad = -1, w.failed = "renaming", w.error = errno;
        renamed = !bad;
        if (!bad && w.io->sync_dir(path)) bad = -1, w.failed = "flushing the directory of", w.error = errno;
        if (file && bad && !renamed) w.io->remove(w.temporary);
    }
    if (w.failed)
        ag_fail(m->ctx, "gpt_save: %s %.150s: %s. %.150s is %s", w.failed, renamed ? path : w.temporary,
                w.error ? strerror(w.error) : "failed", path,
                renamed ? "written, but may not survive a power cut: save again"
                        : "as it was before. Check the folder, its permissions and the free space");
    if (w.out) GPT_FREE(w.out);
    if (w.header.s) GPT_FREE(w.header.s);
    if (w.temporary) GPT_FREE(w.temporary);
    if (w.piece) GPT_FREE(w.piece);
    if (w.crc) GPT_FREE(w.crc);
    return bad ? -1 : 0;
}

// ====================================================================================================================
// You can stop reading here: what follows reads a file that may have been made to do harm
// ====================================================================================================================
// ---- the header: reading --------------------------------------------------------------------------------------------
// JSON of one known form: no nesting beyond it, so no recursion that a file could exhaust.
enum { GPTI_F64, GPTI_F32, GPTI_F16, GPTI_BF16, GPTI_I64, GPTI_U8, GPTI_OTHER };
static const struct { const char *name; int kind, size; } gpti_types[] = {
    { "F64", GPTI_F64, 8 }, { "F32", GPTI_F32, 4 }, { "F16", GPTI_F16, 2 }, { "BF16", GPTI_BF16, 2 },
    { "I64", GPTI_I64, 8 }, { "U8", GPTI_U8, 1 },
    { "I32", GPTI_OTHER, 4 }, { "I16", GPTI_OTHER, 2 }, { "I8", GPTI_OTHER, 1 }, { "BOOL", GPTI_OTHER, 1 },
    { "U64", GPTI_OTHER, 8 }, { "U32", GPTI_OTHER, 4 }, { "U16", GPTI_OTHER, 2 }
};
#define GPTI_TENSORS_MAX 65536
#define GPTI_HEADER_MAX 100000000u

typedef struct gpti_entry {         // one tensor of a file; small, because a file pays for each with 50 bytes at least
    const char *name;
    uint64_t begin, end;
    int dim[2];                     // (of the first two)
    int target;                     // parameter * GPTI_KINDS + kind, or -1: nobody wants it
    signed char type, size, ndim;
} gpti_entry;

typedef struct gpti_file {
    ag_ctx *ctx;
    const char *who, *path;         // for messages
    const gpt_io *io;
    const unsigned char *mem;       // instead of a file: (mem_size) bytes
    size_t mem_size, mem_at;
    void *handle;
    char *header;                   // (size), decoded in place
    size_t size, at;
    int fill;                       // 0: count and check, change nothing; 1: decode names, store entries
    gpti_entry *entry;              // (n) by name
    int n, *by_name, *by_place;     // (n) each
    uint64_t data;                  // bytes of all tensors
    gpti_crc *crc;
    unsigned char *piece;           // (GPTI_PIECE * 8)
    ag_real *values;                // (GPTI_PIECE * 2)
    int resume;
    int ours, has_crc;              // a checkpoint of this library; the digits of its checksum
    char crc_digits[9];
    gpt_config config;
    int config_seen;
    gpt_state state;
    ag_rng rng[AG_RNG_COUNT];
    int rng_seen;
    size_t notes, notes_used;       // bytes
} gpti_file;

// What a file calls itself may hold anything, escape sequences for the terminal too.
static const char *gpti_shown(const char *name, char *buffer, size_t size) {
    size_t i = 0;
    for (; name && name[i] && i + 1 < size; i++) buffer[i] = name[i] < 32 || name[i] > 126 ? '?' : name[i];
    buffer[i] = 0;
    return buffer;
}

#if defined(__GNUC__) && !defined(_WIN32)
__attribute__((format(printf, 2, 3)))
#endif
static int gpti_bad(gpti_file *f, const char *format, ...) {
    char why[300];
    va_list args;
    va_start(args, format);
    vsnprintf(why, sizeof why, format, args);
    va_end(args);
    return ag_fail(f->ctx, "%s: %.150s: %s", f->who, f->path, why);
}

static int gpti_bad_json(gpti_file *f, const char *wanted) {
    return gpti_bad(f, "the header is not valid at byte %zu of %zu: wanted %s. Damaged, or not a safetensors file?",
                    8 + f->at, 8 + f->size, wanted);
}
#define GPTI_DAMAGED ". The file is damaged: use another copy"

static int gpti_peek(const gpti_file *f) { return f->at < f->size ? (unsigned char)f->header[f->at] : -1; }
static void gpti_blank(gpti_file *f) {
    while (f->at < f->size && memchr(" \t\r\n", f->header[f->at], 4)) f->at++;
}
static int gpti_want(gpti_file *f, char c) {            // the character c, with blanks before it
    char text[24];
    gpti_blank(f);
    if (gpti_peek(f) == (unsigned char)c) { f->at++; return 0; }
    snprintf(text, sizeof text, "'%c'", c);
    return gpti_bad_json(f, text);
}
static int gpti_next_is(gpti_file *f, char c) {         // the same, if it is there
    gpti_blank(f);
    if (gpti_peek(f) != (unsigned char)c) return 0;
    f->at++;
    return 1;
}

static int gpti_hex4(gpti_file *f, unsigned *value) {
    static const char digits[] = "0123456789abcdef0123456789ABCDEF";
    *value = 0;
    for (int i = 0; i < 4; i++, f->at++) {
        int c = gpti_peek(f);
        const char *d = c > 0 ? strchr(digits, c) : NULL;
        if (!d) return gpti_bad_json(f, "four hexadecimal digits");
        *value = *value * 16 + (unsigned)((d - digits) % 16);
    }
    return 0;
}

// What follows \u: one character of the basic plane, or a pair of surrogates that are one beyond it. Returns its UTF-8
// bytes, or 0 after an error.
static size_t gpti_escaped_character(gpti_file *f, unsigned char utf8[4]) {
    unsigned u, low;
    size_t k;
    if (gpti_hex4(f, &u)) return 0;
    if ((u >= 0xDC00 && u < 0xE000) || u == 0) return gpti_bad_json(f, "a character"), 0;
    if (u >= 0xD800 && u < 0xDC00) {
        if (f->size - f->at < 6 || f->header[f->at] != '\\' || f->header[f->at + 1] != 'u')
            return gpti_bad_json(f, "a low surrogate"), 0;
        f->at += 2;
        if (gpti_hex4(f, &low)) return 0;
        if (low < 0xDC00 || low > 0xDFFF) return gpti_bad_json(f, "a low surrogate"), 0;
        u = 0x10000 + ((u - 0xD800) << 10) + (low - 0xDC00);
    }
    k = u < 0x80 ? 1 : u < 0x800 ? 2 : u < 0x10000 ? 3 : 4;
    for (size_t i = k; i-- > 1; u >>= 6) utf8[i] = (unsigned char)(0x80 | (u & 0x3F));
    utf8[0] = (unsigned char)(k == 1 ? u : k == 2 ? 0xC0 | u : k == 3 ? 0xE0 | u : 0xF0 | u);
    return k;
}

// A string: into `to` (cut off at size - 1 bytes), or decoded in place when to is NULL and f->fill. The decoded text is
// never longer than its quoted form. Sets *text, *n (bytes). The character 0 is refused, so that names are C strings.
static int gpti_string(gpti_file *f, char *to, size_t size, const char **text, size_t *n) {
    char *place;
    *n = 0;
    if (gpti_want(f, '"')) return -1;
    place = f->header + f->at;
    for (;;) {
        unsigned char utf8[4];
        size_t k;
        int c = gpti_peek(f);
        if (c < 32) return gpti_bad_json(f, c < 0 ? "the end of a string" : "no control character in a string");
        if (c == '"') break;
        if (c == '\\') {
            static const char from[] = "\"\\/bfnrt", into[] = "\"\\/\b\f\n\r\t";
            const char *short_form;
            f->at++, c = gpti_peek(f);
            short_form = c > 0 ? strchr(from, c) : NULL;
            if (!short_form && c != 'u') return gpti_bad_json(f, "an escape sequence");
            f->at++;
            if (short_form) utf8[0] = (unsigned char)into[short_form - from], k = 1;
            else if ((k = gpti_escaped_character(f, utf8)) == 0) return -1;
        } else {
            k = gpti_utf8((const unsigned char *)f->header + f->at, f->size - f->at);
            if (!k) return gpti_bad_json(f, "UTF-8");
            memcpy(utf8, f->header + f->at, k);
            f->at += k;
        }
        for (size_t i = 0; i < k; i++, ++*n) {
            if (to && *n + 1 < size) to[*n] = (char)utf8[i];
            if (!to && f->fill) place[*n] = (char)utf8[i];
        }
    }
    if (to) to[*n < size ? *n : size - 1] = 0;
    else if (f->fill) place[*n] = 0;                    // at the latest over the closing quote
    f->at++;
    if (text) *text = to ? to : place;
    return 0;
}

static int gpti_number(gpti_file *f, uint64_t *value) {
    char digits[24];
    size_t n = 0;
    gpti_blank(f);
    for (int c; (c = gpti_peek(f)) >= '0' && c <= '9' && n < sizeof digits - 1; f->at++) digits[n++] = (char)c;
    digits[n] = 0;
    return gpti_get_int(digits, INT64_MAX, value) ? 0 : gpti_bad_json(f, "a whole number from 0 to 2^63-1");
}

// One pair of __metadata__. Keys "gpt.*" are ours, "note.*" the reader's; all others belong to somebody else.
static int gpti_metadata(gpti_file *f, const char *key, const char *value, size_t n) {
    gpti_page page;
    uint64_t whole = 0;
    char name[24];
    if (!strncmp(key, "note.", 5)) {
        if (!f->fill) { f->notes += strlen(key + 5) + n + 2; return 0; }
        if (!f->state.notes) return 0;
        page.out = f->state.notes, page.size = f->notes + 1, page.used = f->notes_used;
        gpti_print(&page, "%s=%s\n", key + 5, value);
        for (size_t i = page.used - 1; i-- > f->notes_used;) if (page.out[i] == '\n') page.out[i] = ' ';
        f->notes_used = page.used < f->notes ? page.used : f->notes;
        return 0;
    }
    if (strncmp(key, "gpt.", 4)) return 0;
    f->ours = 1, key += 4;
    if (f->fill) return 0;                              // the first pass has read the numbers
    if (!strcmp(key, "crc32")) {
        if (f->has_crc++ || n != 8 || strspn(value, "0123456789abcdef") != 8)
            return gpti_bad(f, "the checksum is not eight digits" GPTI_DAMAGED);
        memcpy(f->crc_digits, value, 9);
        return 0;
    }
    if (!strcmp(key, "version"))
        return strcmp(value, "1") ? gpti_bad(f, "version %s of the format is not known here, only 1: read it "
                                             "with the gpt.h that wrote it", gpti_shown(value, name, sizeof name)) : 0;
    if (!strcmp(key, "name")) {
        snprintf(f->config.name, sizeof f->config.name, "%s", value);
        for (char *c = f->config.name; *c; c++) if ((unsigned char)*c < 32 || *c == 127) *c = '?';  // may be printed
        return 0;
    }
#define GPTI_SEE_INT(field, low, high) f->config_seen += !strcmp(key, #field);
    GPTI_CONFIG_INTS(GPTI_SEE_INT)
#undef GPTI_SEE_INT
#define GPTI_READ_INT(field, low, high) if (!strcmp(key, #field)) { \
        if (!gpti_get_int(value, INT_MAX, &whole)) return gpti_bad(f, #field " is not a whole number" GPTI_DAMAGED); \
        f->config.field = (int)whole; return 0; }
    GPTI_CONFIG_INTS(GPTI_READ_INT)
    GPTI_CONFIG_PARTS(GPTI_READ_INT)
#undef GPTI_READ_INT
#define GPTI_READ_REAL(where, field) if (!strcmp(key, #field)) { \
        if (!gpti_get_real(value, &f->where.field)) return gpti_bad(f, #field " is not a number" GPTI_DAMAGED); \
        return 0; }
#define GPTI_READ_CONFIG_REAL(field) GPTI_READ_REAL(config, field)
    GPTI_CONFIG_REALS(GPTI_READ_CONFIG_REAL)
    GPTI_READ_REAL(state, train_loss) GPTI_READ_REAL(state, val_loss) GPTI_READ_REAL(state, best_val_loss)
#undef GPTI_READ_REAL
#undef GPTI_READ_CONFIG_REAL
    if (!strcmp(key, "step")) {
        if (!gpti_get_int(value, INT64_MAX, &whole)) return gpti_bad(f, "step is not a whole number" GPTI_DAMAGED);
        f->state.step = (long long)whole;
    } else if (!strcmp(key, "cursor")) {
        if (!gpti_get_int(value, UINT64_MAX, &whole)) return gpti_bad(f, "cursor is not a whole number" GPTI_DAMAGED);
        f->state.cursor = whole;
    } else if (!strcmp(key, "matmul")) {
        if (strcmp(value, "float32") && strncmp(value, "bf16/", 5))
            return gpti_bad(f, "matmul is neither float32 nor bf16/..., but %s" GPTI_DAMAGED,
                            gpti_shown(value, name, sizeof name));
        snprintf(f->state.matmul, sizeof f->state.matmul, "%s", value);
    }
    for (int i = 0; i < AG_RNG_COUNT; i++) {
        snprintf(name, sizeof name, "rng.%d", i);
        if (strcmp(key, name)) continue;
        char two[48], *second;
        snprintf(two, sizeof two, "%s", value);
        second = strchr(two, ' ');
        if (!second) return gpti_bad(f, "%s is not two numbers" GPTI_DAMAGED, name);
        *second++ = 0;
        if (!gpti_get_int(two, UINT64_MAX, &f->rng[i].key) || !gpti_get_int(second, UINT64_MAX, &f->rng[i].counter))
            return gpti_bad(f, "%s is not two numbers" GPTI_DAMAGED, name);
        f->rng_seen |= 1 << i;
    }
    return 0;
}

static int gpti_read_metadata(gpti_file *f) {
    if (gpti_want(f, '{')) return -1;
    if (gpti_next_is(f, '}')) return 0;
    do {
        char key[64], value[64];
        const char *text = value;
        size_t n;
        if (gpti_string(f, key, sizeof key, NULL, &n) || gpti_want(f, ':')) return -1;
        int note = !strncmp(key, "note.", 5);           // notes have any length: decoded in place
        if (gpti_string(f, note ? NULL : value, note ? 0 : sizeof value, note ? &text : NULL, &n) ||
            gpti_metadata(f, key, text, n)) return -1;
    } while (gpti_next_is(f, ','));
    return gpti_want(f, '}');
}

static int gpti_read_entry(gpti_file *f, gpti_entry *e) {
    unsigned seen = 0;
    uint64_t count = 1, number;
    char key[16], type[8], shown[64];
    size_t n;
    if (gpti_want(f, '{')) return -1;
    do {
        if (gpti_string(f, key, sizeof key, NULL, &n) || gpti_want(f, ':')) return -1;
        unsigned bit = !strcmp(key, "dtype") ? 1 : !strcmp(key, "shape") ? 2 : !strcmp(key, "data_offsets") ? 4 : 0;
        if (!bit || seen & bit) return gpti_bad_json(f, "dtype, shape and data_offsets, each of them once");
        seen |= bit;
        if (bit == 1) {
            if (gpti_string(f, type, sizeof type, NULL, &n)) return -1;
            e->size = 0;
            for (size_t i = 0; i < sizeof gpti_types / sizeof *gpti_types; i++)
                if (!strcmp(type, gpti_types[i].name))
                    e->type = (signed char)gpti_types[i].kind, e->size = (signed char)gpti_types[i].size;
            if (!e->size)
                return gpti_bad(f, "a tensor has the type %s, which is not known here: convert it to F32, F16 or BF16",
                                gpti_shown(type, shown, sizeof shown));
        } else if (bit == 2) {
            if (gpti_want(f, '[')) return -1;
            e->ndim = 0, e->dim[0] = e->dim[1] = 1;
            if (gpti_next_is(f, ']')) continue;
            do {
                if (gpti_number(f, &number)) return -1;
                if (number > INT_MAX || e->ndim == 8 || (number && count > INT64_MAX / number))
                    return gpti_bad(f, "a tensor is too large, or has more than eight dimensions" GPTI_DAMAGED);
                if (e->ndim < 2) e->dim[e->ndim] = (int)number;
                count *= number, e->ndim++;
            } while (gpti_next_is(f, ','));
            if (gpti_want(f, ']')) return -1;
        } else if (gpti_want(f, '[') || gpti_number(f, &e->begin) || gpti_want(f, ',') || gpti_number(f, &e->end) ||
                   gpti_want(f, ']')) return -1;
    } while (gpti_next_is(f, ','));
    if (gpti_want(f, '}')) return -1;
    if (seen != 7) return gpti_bad_json(f, "dtype, shape and data_offsets");
    if (e->begin > e->end || count > INT64_MAX / (uint64_t)e->size || e->end - e->begin != count * (uint64_t)e->size)
        return gpti_bad(f, "a tensor of %llu numbers of %d bytes lies at %llu to %llu" GPTI_DAMAGED,
                        (unsigned long long)count, e->size, (unsigned long long)e->begin, (unsigned long long)e->end);
    return 0;
}

static int gpti_parse(gpti_file *f, int fill) {
    int n = 0, metadata = 0;
    f->at = 0, f->fill = fill;
    if (gpti_peek(f) != '{') return gpti_bad_json(f, "'{'");
    f->at++;
    if (!gpti_next_is(f, '}')) {
        do {
            gpti_entry e;
            const char *name = "";
            char copy[513];
            size_t length, start;
            memset(&e, 0, sizeof e);
            gpti_blank(f), start = f->at;
            // Is it "__metadata__"? It is looked at without decoding in place, which would spoil a second look.
            int was = f->fill;
            f->fill = 0;
            if (gpti_string(f, copy, sizeof copy, NULL, &length)) return -1;
            f->fill = was;
            if (length > 512) return gpti_bad(f, "a name has %zu bytes, wanted at most 512" GPTI_DAMAGED,
                                               length);
            if (!strcmp(copy, "__metadata__")) {
                if (metadata++ || gpti_want(f, ':') || gpti_read_metadata(f))
                    return ag_error(f->ctx) ? -1 : gpti_bad(f, "__metadata__ is there twice" GPTI_DAMAGED);
                continue;
            }
            f->at = start;
            if (gpti_string(f, NULL, 0, &name, &length) || gpti_want(f, ':') || gpti_read_entry(f, &e)) return -1;
            if (n == GPTI_TENSORS_MAX)
                return gpti_bad(f, "more than %d tensors: no model of gpt.h has so many", GPTI_TENSORS_MAX);
            if (fill) e.name = name, e.target = -1, f->entry[n] = e;
            n++;
        } while (gpti_next_is(f, ','));
        if (gpti_want(f, '}')) return -1;
    }
    while (f->at < f->size && f->header[f->at] == ' ') f->at++;
    if (f->at != f->size) return gpti_bad_json(f, "nothing but spaces after the last '}'");
    f->n = n;
    return 0;
}

// Heapsort, of indices: the library's qsort may allocate, or be quadratic where a file wants it to be.
static int gpti_less(const gpti_file *f, int by_place, int a, int b) {
    const gpti_entry *x = &f->entry[a], *y = &f->entry[b];
    if (!by_place) return strcmp(x->name, y->name) < 0;
    return x->begin != y->begin ? x->begin < y->begin : x->end < y->end;
}
static void gpti_sort(const gpti_file *f, int *index, int by_place) {
    for (int i = 0; i < f->n; i++) index[i] = i;
    for (int start = f->n / 2, end = f->n, t; end > 1;) {
        if (start > 0) start--;
        else t = index[--end], index[end] = index[0], index[0] = t;
        for (int i = start, child; (child = 2 * i + 1) < end; i = child) {
            if (child + 1 < end && gpti_less(f, by_place, index[child], index[child + 1])) child++;
            if (!gpti_less(f, by_place, index[i], index[child])) break;
            t = index[i], index[i] = index[child], index[child] = t;
        }
    }
}

// ---- the bytes of a file --------------------------------------------------------------------------------------------
// From the beginning (again), and then in order: no seeking, so a length of more than 2 GB needs no special call.
static int gpti_rewind(gpti_file *f) {
    f->mem_at = 0;
    if (f->mem) return 0;
    if (f->handle) f->io->close(f->handle);
    errno = 0;
    f->handle = f->io->open(f->path, 0);
    if (f->handle) return 0;
    return gpti_bad(f, "cannot open it: %s. %s", errno ? strerror(errno) : "failed", errno == ENOENT
                    ? "Check the path; if no model was saved there yet, train one first" : "Check the path and its "
                    "permissions");
}

static int gpti_take(gpti_file *f, void *to, size_t n, size_t *got) {      // fewer than n only at the end
    *got = 0;
    if (f->mem) {
        *got = f->mem_size - f->mem_at < n ? f->mem_size - f->mem_at : n;
        memcpy(to, f->mem + f->mem_at, *got);
        f->mem_at += *got;
        return 0;
    }
    while (*got < n) {
        errno = 0;
        long k = f->io->read(f->handle, (char *)to + *got, n - *got);
        if (k < 0) return gpti_bad(f, "cannot read it: %s. Is it a file, and the disk in order?",
                                   errno ? strerror(errno) : "failed");
        if (k == 0) break;
        *got += (size_t)k;
    }
    return 0;
}

static int gpti_take_all(gpti_file *f, void *to, size_t n, const char *what, uint64_t at) {
    size_t got;
    if (gpti_take(f, to, n, &got)) return -1;
    return got == n ? 0 : gpti_bad(f, "the file ends at byte %llu, inside %s: %llu bytes or more are missing. Get it "
                                   "again", (unsigned long long)(at + got), what, (unsigned long long)(n - got));
}

static int gpti_goto(gpti_file *f, uint64_t place) {    // from the beginning again to byte `place`
    if (gpti_rewind(f)) return -1;
    for (size_t n; place; place -= n) {
        n = place < GPTI_PIECE * 8 ? (size_t)place : GPTI_PIECE * 8;
        if (gpti_take_all(f, f->piece, n, "what was there a moment ago", 0)) return -1;
    }
    return 0;
}

// The header into memory. It grows with what is read: a length that is a lie costs nothing.
static int gpti_read_header(gpti_file *f) {
    unsigned char length[8];
    uint64_t n = 0;
    size_t have = 0, size = 0;
    if (gpti_rewind(f) || gpti_take_all(f, length, 8, "the length of the header", 0)) return -1;
    for (int i = 8; i-- > 0;) n = n << 8 | length[i];
    if (n < 2 || n > GPTI_HEADER_MAX)
        return gpti_bad(f, "this is no safetensors file: its header would have %llu bytes, wanted 2 to %u. "
                        "(llama2.c's files: gpt_load_llama2c)", (unsigned long long)n, GPTI_HEADER_MAX);
    gpti_crc_add(f->crc, length, 8);
    while (have < n) {
        size_t want = size ? 2 * size : 65536;
        char *more;
        if (want > n) want = (size_t)n;
        if (!(more = (char *)gpti_alloc(f->ctx, want, 1))) return -1;
        if (f->header) { memcpy(more, f->header, have); GPT_FREE(f->header); }
        f->header = more, size = want;
        if (gpti_take_all(f, f->header + have, size - have, "the header", 8 + have)) return -1;
        have = size;
    }
    f->size = (size_t)n;
    return 0;
}

// Header and data, checked: after this every entry lies where it says, no two overlap, there is no gap, the file has
// exactly the length that follows, and the checksum (if there has to be one) is right.
static int gpti_check_file(gpti_file *f) {
    uint64_t at = 0;
    size_t got;
    char digits[12];
    if (gpti_read_header(f) || gpti_parse(f, 0)) return -1;
    if (f->ours && !f->has_crc) return gpti_bad(f, "the checksum is missing" GPTI_DAMAGED);
    if (f->ours) {
        // Its digits lie where gpt_save has put them, or it was not gpt_save that wrote this.
        size_t digit = GPTI_CRC_AT - 8;
        if (f->size < digit + 8 || memcmp(f->header + digit, f->crc_digits, 8))
            return gpti_bad(f, "the checksum is not in its place" GPTI_DAMAGED);
        memset(f->header + digit, '0', 8);
        gpti_crc_add(f->crc, f->header, f->size);
        memcpy(f->header + digit, f->crc_digits, 8);
    }
    f->entry = (gpti_entry *)gpti_alloc(f->ctx, (size_t)f->n, sizeof *f->entry);
    if (f->entry) f->by_name = (int *)gpti_alloc(f->ctx, (size_t)f->n, 2 * sizeof(int));
    if (f->by_name && f->notes) f->state.notes = (char *)gpti_alloc(f->ctx, f->notes + 1, 1);
    if (!f->by_name || (f->notes && !f->state.notes) || gpti_parse(f, 1)) return -1;
    f->by_place = f->by_name + f->n;
    gpti_sort(f, f->by_name, 0), gpti_sort(f, f->by_place, 1);
    for (int i = 0; i < f->n; i++) {
        const gpti_entry *e = &f->entry[f->by_place[i]];
        char shown[64];
        if (i && !strcmp(f->entry[f->by_name[i - 1]].name, f->entry[f->by_name[i]].name))
            return gpti_bad(f, "the tensor %s is there twice" GPTI_DAMAGED,
                            gpti_shown(f->entry[f->by_name[i]].name, shown, sizeof shown));
        if (e->begin != at)
            return gpti_bad(f, "the tensor %s begins at %llu, but the one before it ends at %llu" GPTI_DAMAGED,
                            gpti_shown(e->name, shown, sizeof shown), (unsigned long long)e->begin,
                            (unsigned long long)at);
        at = e->end;
    }
    f->data = at;
    for (at = 0; at < f->data; at += got) {
        size_t n = f->data - at < GPTI_PIECE * 8 ? (size_t)(f->data - at) : GPTI_PIECE * 8;
        if (gpti_take_all(f, f->piece, got = n, "the tensors", 8 + f->size + at)) return -1;
        if (f->ours) gpti_crc_add(f->crc, f->piece, n);
    }
    if (gpti_take(f, f->piece, 1, &got)) return -1;
    if (got)
        return gpti_bad(f, "there are bytes after the last tensor, at %llu" GPTI_DAMAGED,
                        (unsigned long long)(8 + f->size + f->data));
    snprintf(digits, sizeof digits, "%08lx", (unsigned long)f->crc->value);
    if (f->ours && memcmp(digits, f->crc_digits, 8))
        return gpti_bad(f, "the checksum is %s, the file says %s: it is damaged. Use an older copy", digits,
                        f->crc_digits);
    return 0;
}

// ---- which tensor goes where ----------------------------------------------------------------------------------------
static gpti_entry *gpti_find(gpti_file *f, const char *prefix, const char *name) {
    char whole[96];
    snprintf(whole, sizeof whole, "%s%s", prefix, name);
    for (int low = 0, high = f->n; low < high;) {
        int mid = low + (high - low) / 2, order = strcmp(whole, f->entry[f->by_name[mid]].name);
        if (!order) return &f->entry[f->by_name[mid]];
        if (order < 0) high = mid; else low = mid + 1;
    }
    return NULL;
}

// Somebody else's GPT-2: sizes from the shapes. The number of heads is not in the file; GPT-2's heads have 64 channels.
static int gpti_guess(gpti_file *f, const char **prefix) {
    const gpti_entry *wte, *wpe, *up;
    gpt_config *c = &f->config;
    char name[32];
    *prefix = gpti_find(f, "transformer.", "wte.weight") ? "transformer." : "";
    wte = gpti_find(f, *prefix, "wte.weight"), wpe = gpti_find(f, *prefix, "wpe.weight");
    up = gpti_find(f, *prefix, "h.0.mlp.c_fc.weight");
    if (!wte || !wpe || !up || wte->ndim != 2 || wpe->ndim != 2 || up->ndim != 2)
        return gpti_bad(f, "neither a checkpoint of gpt.h nor a GPT-2 of Hugging Face: wte.weight, wpe.weight or "
                        "h.0.mlp.c_fc.weight is missing. Is it the right file?");
    *c = gpt_preset("gpt2");
    snprintf(c->name, sizeof c->name, "gpt2-file");
    c->n_vocab = wte->dim[0], c->n_embd = wte->dim[1], c->n_ctx = wpe->dim[0], c->n_hidden = up->dim[1];
    c->n_head = c->n_kv_head = wte->dim[1] / 64;
    for (c->n_layer = 1; c->n_layer < 4096; c->n_layer++) {
        snprintf(name, sizeof name, "h.%d.ln_1.weight", c->n_layer);
        if (!gpti_find(f, *prefix, name)) break;
    }
    c->bias = gpti_find(f, *prefix, "ln_f.bias") != NULL;
    if (wte->dim[1] % 64)
        return gpti_bad(f, "%d channels are not heads of 64, so the number of heads is not known: make the model with "
                        "gpt_new, then call gpt_load_into", wte->dim[1]);
    return 0;
}

static int gpti_ends(const char *name, const char *end) {
    size_t n = strlen(name), k = strlen(end);
    return n >= k && !strcmp(name + n - k, end);
}

// Every parameter finds its tensor, and every tensor its purpose, before anything is allocated for them.
static int gpti_match(gpti_file *f, const char *prefix, int resume) {
    gpt_param p;
    char missing[160] = "", shown[64];
    int n_missing = 0, n = 0;
    for (; gpt_param_at(&f->config, n, &p); n++)
        for (int kind = GPTI_WEIGHT; kind <= GPTI_V; kind++) {
            char name[64];
            snprintf(name, sizeof name, "%s%s", gpti_kind_name[kind], p.name);
            gpti_entry *e = gpti_find(f, kind ? "" : prefix, name);
            if (!e && kind == GPTI_WEIGHT) {
                size_t used = strlen(missing);
                if (n_missing++ < 3) snprintf(missing + used, sizeof missing - used, "%s%s", used ? ", " : "", name);
            }
            if (!e) continue;
            if (e->type > GPTI_BF16) return gpti_bad(f, "%s has whole numbers: convert it to F32, F16, BF16 or F64",
                                                      name);
            if (e->ndim != (p.cols ? 2 : 1) || e->dim[0] != p.rows || (p.cols && e->dim[1] != p.cols))
                return gpti_bad(f, "%s has %d dimensions, %d x %d: wanted %d x %d%s", name, e->ndim, e->dim[0],
                                e->dim[1], p.rows, p.cols ? p.cols : 1, p.cols && e->dim[0] == p.cols &&
                                e->dim[1] == p.rows ? " (transposed: matrices are stored (in, out) here)"
                                : ". Is it another model's file?");
            if (kind == GPTI_WEIGHT || resume) e->target = n * GPTI_KINDS + kind; else e->target = -2;
        }
    if (n_missing)
        return gpti_bad(f, "%d of %d tensors are missing: %s%s. Another model's file, or one part of several?",
                        n_missing, n, missing, n_missing > 3 ? ", ..." : "");
    for (int i = 0; i < f->n; i++) {
        gpti_entry *e = &f->entry[i];
        if (e->target != -1) continue;
        if (f->ours && !strcmp(e->name, gpti_kind_name[GPTI_STEPS])) {
            if (e->type != GPTI_I64 || e->ndim != 1 || e->dim[0] != n)
                return gpti_bad(f, "optim.steps is not %d numbers of type I64" GPTI_DAMAGED, n);
            e->target = GPTI_STEPS;
        } else if (f->ours && !strcmp(e->name, gpti_kind_name[GPTI_TOKENIZER])) {
            if (e->type != GPTI_U8) return gpti_bad(f, "the tokenizer is not of type U8" GPTI_DAMAGED);
            e->target = GPTI_TOKENIZER;
        } else if (!f->ours && (gpti_ends(e->name, ".attn.bias") || gpti_ends(e->name, ".attn.masked_bias"))) {
            continue;                                   // the causal mask, stored as a tensor
        } else if (!f->ours && gpti_ends(e->name, "lm_head.weight")) {
            continue;                                   // gpti_check_head looks at it
        } else return gpti_bad(f, "what is the tensor %s for? A model of this shape has none. Is it another model's "
                               "file?", gpti_shown(e->name, shown, sizeof shown));
    }
    return 0;
}

// ---- numbers --------------------------------------------------------------------------------------------------------
static float gpti_from_bits(uint32_t bits) { float x; memcpy(&x, &bits, 4); return x; }

static double gpti_half(unsigned h) {       // one sign, five bits of exponent, ten of fraction
    unsigned exponent = h >> 10 & 31, fraction = h & 1023;
    double x = exponent ? ldexp(1024 + fraction, (int)exponent - 25) : ldexp(fraction, -24);
    if (exponent == 31) x = fraction ? NAN : INFINITY;
    return h & 0x8000 ? -x : x;
}

static void gpti_convert(ag_real *to, const unsigned char *from, size_t n, int type, size_t *not_finite) {
    for (size_t i = 0; i < n; i++) {
        uint64_t bits = 0;
        double d;
        int size = type == GPTI_F64 ? 8 : type == GPTI_F32 ? 4 : 2;
        for (int k = size; k-- > 0;) bits = bits << 8 | from[i * (size_t)size + (size_t)k];
        if (type == GPTI_F64) memcpy(&d, &bits, 8), to[i] = (ag_real)d;
        else if (type == GPTI_F16) to[i] = (ag_real)gpti_half((unsigned)bits);
        else to[i] = gpti_from_bits(type == GPTI_BF16 ? (uint32_t)bits << 16 : (uint32_t)bits);
        *not_finite += to[i] - to[i] != 0;
    }
}

// The memory of a moment, or NULL: it lives as long as the context, like those that the optimizers make.
static ag_real *gpti_moment(ag_tensor *t, ag_real **moment) {
    if (!*moment) {
        ag_tensor *state = ag_state_at(t->ctx, t->shape[0], t->ndim > 1 ? t->shape[1] : AG_END, AG_END, AG_END, AG_END);
        *moment = state ? state->data : NULL;
    }
    return *moment;
}

static int gpti_read_tensor(gpti_file *f, gpt_model *m, gpti_entry *e, gpt_state *state) {
    uint64_t left = e->end - e->begin, at = 8 + f->size + e->begin;
    int kind = e->target < 0 ? -1 : e->target % GPTI_KINDS;
    ag_tensor **field = NULL, view;
    gpt_param p;
    ag_real *values = f->values;
    memset(&view, 0, sizeof view);
    if (kind == GPTI_TOKENIZER && state) {
        state->tokenizer_size = (size_t)left;
        if (!(state->tokenizer = (unsigned char *)gpti_alloc(f->ctx, (size_t)left, 1))) return -1;
        return gpti_take_all(f, state->tokenizer, (size_t)left, "the tokenizer", at);
    }
    if (kind == GPTI_WEIGHT || kind == GPTI_M || kind == GPTI_V) {
        gpti_param(&m->config, m, e->target / GPTI_KINDS, &p, &field);
        view = **field;
        if (kind == GPTI_M) view.data = gpti_moment(*field, &(*field)->m);
        if (kind == GPTI_V) view.data = gpti_moment(*field, &(*field)->v);
        if (!view.data) return -1;
        if (kind == GPTI_WEIGHT) (*field)->version++;       // a read that fails half-way has changed it, too
    }
    for (size_t first = 0, n; left; left -= n, first += n / (size_t)e->size) {
        n = left < GPTI_PIECE * (uint64_t)e->size ? (size_t)left : GPTI_PIECE * (size_t)e->size;
        if (gpti_take_all(f, f->piece, n, "a tensor", at + first * (size_t)e->size)) return -1;
        if (field) {
            gpti_convert(values, f->piece, n / (size_t)e->size, e->type, &f->state.not_finite);
            if (ag_set_part(&view, first, n / (size_t)e->size, values)) return -1;
        } else if (kind == GPTI_STEPS && f->resume) {
            for (size_t i = 0; i < n / 8; i++) {
                uint64_t steps = 0;
                for (int k = 8; k-- > 0;) steps = steps << 8 | f->piece[8 * i + (size_t)k];
                if (steps > LONG_MAX) return gpti_bad(f, "a parameter has taken %llu steps" GPTI_DAMAGED,
                                                      (unsigned long long)steps);
                if (gpti_param(&m->config, m, (int)(first + i), &p, &field)) (*field)->steps = (long)steps;
                field = NULL;
            }
        }
    }
    return 0;
}

// GPT-2's head is its embedding. Some files hold a copy of it under a name of its own: is it one?
static int gpti_check_head(gpti_file *f, gpt_model *m, const char *prefix) {
    const gpti_entry *e = f->ours ? NULL : gpti_find(f, "", "lm_head.weight");
    size_t unused = 0;
    if (!f->ours && !e) e = gpti_find(f, prefix, "lm_head.weight");
    if (!e) return 0;
    int same = e->type <= GPTI_BF16 && e->ndim == 2 && e->dim[0] == m->wte->shape[0] && e->dim[1] == m->wte->shape[1];
    if (gpti_goto(f, 8 + f->size + e->begin)) return -1;
    for (size_t first = 0, n; same && first < m->wte->count; first += n) {
        n = m->wte->count - first < GPTI_PIECE ? m->wte->count - first : GPTI_PIECE;
        if (gpti_take_all(f, f->piece, n * (size_t)e->size, "lm_head.weight", 8 + f->size + e->begin) ||
            ag_get_part(m->wte, first, n, f->values + GPTI_PIECE)) return -1;
        gpti_convert(f->values, f->piece, n, e->type, &unused);
        same = !memcmp(f->values, f->values + GPTI_PIECE, n * sizeof *f->values);
    }
    return same ? 0 : gpti_bad(f, "lm_head.weight is not a copy of wte.weight: a head of its own is not GPT-2's. Is "
                                "it the right file?");
}

// ---- loading --------------------------------------------------------------------------------------------------------
static void gpti_close(gpti_file *f) {
    if (f->handle) f->io->close(f->handle);
    if (f->header) GPT_FREE(f->header);
    if (f->entry) GPT_FREE(f->entry);
    if (f->by_name) GPT_FREE(f->by_name);
    if (f->crc) GPT_FREE(f->crc);
    if (f->piece) GPT_FREE(f->piece);
    if (f->values) GPT_FREE(f->values);
    gpt_state_free(&f->state);
}

// Everything that loads goes through here. into: a model to fill, or NULL to make one.
// The file is read twice: once to check it all, once to use it; so weights are never in memory twice.
static gpt_model *gpti_load(gpti_file *f, gpt_model *into, gpt_state *state, int resume) {
    const char *prefix = "";
    char why[256];
    gpt_model *m = NULL;
    int bad = 1, config_ints = 0;
#define GPTI_COUNT_INT(field, low, high) config_ints++;
    GPTI_CONFIG_INTS(GPTI_COUNT_INT)
#undef GPTI_COUNT_INT
    f->io = gpti_io(), f->resume = resume;
    f->crc = (gpti_crc *)gpti_alloc(f->ctx, 1, sizeof *f->crc);
    if (f->crc) f->piece = (unsigned char *)gpti_alloc(f->ctx, GPTI_PIECE, 8);
    if (f->piece) f->values = (ag_real *)gpti_alloc(f->ctx, 2 * GPTI_PIECE, sizeof *f->values);
    if (!f->values) goto done;
    gpti_crc_begin(f->crc);
    if (gpti_check_file(f)) goto done;
    if (f->ours && f->config_seen != config_ints) {
        gpti_bad(f, "the configuration has %d of %d numbers" GPTI_DAMAGED, f->config_seen, config_ints);
        goto done;
    }
    if (!f->ours && into) {
        if (gpti_find(f, "transformer.", "wte.weight")) prefix = "transformer.";
        f->config = into->config;
    } else if (!f->ours && gpti_guess(f, &prefix)) goto done;
    if (gpti_check(&f->config, why, sizeof why)) { gpti_bad(f, "%s. Is it the right file?", why); goto done; }
    if (into && !gpti_same(&into->config, &f->config)) {
        gpti_bad(f, "the file holds another configuration than the model: %d layers, %d heads, %d channels, context "
                 "%d, vocabulary %d. Make the model with these, or gpt_load the file", f->config.n_layer,
                 f->config.n_head, f->config.n_embd, f->config.n_ctx,
                 f->config.n_vocab);
        goto done;
    }
    if (gpti_match(f, prefix, resume)) goto done;
    if (resume && (!f->ours || f->rng_seen != (1 << AG_RNG_COUNT) - 1 || !gpti_find(f, "", "optim.steps"))) {
        gpti_bad(f, "there are weights, but no training state to resume: gpt_load reads them");
        goto done;
    }
    if (!(m = into ? into : gpti_new(f->ctx, &f->config, 0))) goto done;
    m->training = resume;
    if (gpti_goto(f, 8 + (uint64_t)f->size)) goto done;
    for (int i = 0; i < f->n; i++)
        if (gpti_read_tensor(f, m, &f->entry[f->by_place[i]], state ? &f->state : NULL)) goto done;
    if (gpti_check_head(f, m, prefix)) goto done;
    if (resume) {
        const int bf16 = !strncmp(f->state.matmul, "bf16/", 5);
        if (ag_set_matmul_precision(f->ctx, bf16 ? AG_BF16 : AG_FLOAT32)) goto done;
        f->state.other_path = bf16 && strcmp(f->state.matmul, ag_matmul_path(f->ctx)) != 0;
    }
    bad = 0;
done:
    if (bad && m && !into) gpt_free(m);
    if (bad && state) memset(state, 0, sizeof *state);
    if (!bad && state) {
        *state = f->state;                              // notes and tokenizer go along
        f->state.notes = NULL, f->state.tokenizer = NULL;
    }
    if (!bad && resume) for (int i = 0; i < AG_RNG_COUNT; i++) *ag_stream(f->ctx, i) = f->rng[i];
    gpti_close(f);
    return bad ? NULL : m;
}

static int gpti_begin(gpti_file *f, ag_ctx *ctx, const char *who, const char *path) {
    memset(f, 0, sizeof *f);
    f->ctx = ctx, f->who = who, f->path = path;
    if (!ctx || ag_error(ctx)) return -1;
    return path && *path ? 0 : ag_fail(ctx, "%s: the path is %s: pass a file's name", who, path ? "empty" : "NULL");
}

gpt_model *gpt_load(ag_ctx *ctx, const char *path, gpt_state *state) {
    gpti_file f;
    return gpti_begin(&f, ctx, "gpt_load", path) ? NULL : gpti_load(&f, NULL, state, 0);
}

gpt_model *gpt_resume(ag_ctx *ctx, const char *path, gpt_state *state) {
    gpti_file f;
    return gpti_begin(&f, ctx, "gpt_resume", path) ? NULL : gpti_load(&f, NULL, state, 1);
}

gpt_model *gpt_load_mem(ag_ctx *ctx, const void *bytes, size_t size, gpt_state *state) {
    static const unsigned char nothing[1] = { 0 };
    gpti_file f;
    if (gpti_begin(&f, ctx, "gpt_load_mem", "(memory)")) return NULL;
    f.mem = bytes ? (const unsigned char *)bytes : nothing, f.mem_size = bytes ? size : 0;
    return gpti_load(&f, NULL, state, 0);
}

int gpt_load_into(gpt_model *m, const char *path) {
    gpti_file f;
    if (!m || gpti_begin(&f, m->ctx, "gpt_load_into", path)) return -1;
    int training = m->training, bad = gpti_load(&f, m, NULL, 0) == NULL;
    m->training = training;
    return bad ? -1 : 0;
}

// ---- llama2.c -------------------------------------------------------------------------------------------------------
// Karpathy's legacy format: seven int32 (C, H, L, NH, NKV, V, T; a negative V says that the head is not tied), then
// float32: the embedding, and for each kind of weight all layers, matrices as (out, in). Two tables of rotations
// follow, which we compute, and the head if it is not tied. The file has no checksum; its length is all that can be
// checked.
typedef struct gpti_llama2c { gpti_file *f; gpt_model *m; ag_real *matrix, *turned; uint64_t at; } gpti_llama2c;

// n numbers in f->values (up to GPTI_PIECE at a time) or, if to is given, there.
static int gpti_take_floats(gpti_llama2c *l, size_t n, ag_real *to) {
    for (size_t at = 0; at < n; at += GPTI_PIECE) {
        size_t k = n - at < GPTI_PIECE ? n - at : GPTI_PIECE;
        if (gpti_take_all(l->f, l->f->piece, 4 * k, "the weights", l->at)) return -1;
        if (to) gpti_convert(to + at, l->f->piece, k, GPTI_F32, &l->f->state.not_finite);
        l->at += 4 * k;
    }
    return 0;
}

// A matrix (out, in) of the file becomes columns first..first+out of t (in, columns).
static int gpti_take_matrix(gpti_llama2c *l, ag_tensor *t, int out, int in, int first) {
    if (gpti_take_floats(l, (size_t)out * (size_t)in, l->matrix)) return -1;
    for (int o = 0; o < out; o++)
        for (int i = 0; i < in; i++) l->turned[(size_t)i * out + o] = l->matrix[(size_t)o * in + i];
    for (int i = 0; i < in; i++)
        if (ag_set_part(t, (size_t)i * (size_t)t->shape[1] + (size_t)first, (size_t)out, l->turned + (size_t)i * out))
            return -1;
    return 0;
}
static int gpti_take_vector(gpti_llama2c *l, ag_tensor *t) {
    return gpti_take_floats(l, t->count, l->matrix) || ag_set_part(t, 0, t->count, l->matrix) ? -1 : 0;
}

static int gpti_take_llama2c(gpti_llama2c *l) {
    gpt_model *m = l->m;
    const gpt_config *c = &m->config;
    int C = c->n_embd, H = c->n_hidden, L = c->n_layer, hs = C / c->n_head, KV = c->n_kv_head * hs;
    if (gpti_take_vector(l, m->wte)) return -1;
    for (int i = 0; i < L; i++) if (gpti_take_vector(l, m->layer[i].norm_1)) return -1;
    for (int i = 0; i < L; i++) if (gpti_take_matrix(l, m->layer[i].qkv, C, C, 0)) return -1;
    for (int i = 0; i < L; i++) if (gpti_take_matrix(l, m->layer[i].qkv, KV, C, C)) return -1;
    for (int i = 0; i < L; i++) if (gpti_take_matrix(l, m->layer[i].qkv, KV, C, C + KV)) return -1;
    for (int i = 0; i < L; i++) if (gpti_take_matrix(l, m->layer[i].proj, C, C, 0)) return -1;
    for (int i = 0; i < L; i++) if (gpti_take_vector(l, m->layer[i].norm_2)) return -1;
    for (int i = 0; i < L; i++) if (gpti_take_matrix(l, m->layer[i].up, H, C, 0)) return -1;        // w1: the gate
    for (int i = 0; i < L; i++) if (gpti_take_matrix(l, m->layer[i].down, C, H, 0)) return -1;      // w2
    for (int i = 0; i < L; i++) if (gpti_take_matrix(l, m->layer[i].up, H, C, H)) return -1;        // w3
    if (gpti_take_vector(l, m->norm_f) || gpti_take_floats(l, (size_t)c->n_ctx * (size_t)hs, NULL)) return -1;
    return m->head && gpti_take_matrix(l, m->head, c->n_vocab, C, 0) ? -1 : 0;
}

static int gpti_llama2c_config(gpti_file *f, uint64_t *floats) {
    unsigned char head[28];
    int32_t n[7];
    char why[256];
    gpt_param p;
    gpt_config *c = &f->config;
    if (gpti_rewind(f) || gpti_take_all(f, head, 28, "the header", 0)) return -1;
    for (int i = 0; i < 7; i++) {
        uint32_t u = 0;
        for (int k = 4; k-- > 0;) u = u << 8 | head[4 * i + k];
        memcpy(&n[i], &u, 4);
    }
    *c = gpt_preset("small");
    snprintf(c->name, sizeof c->name, "llama2.c");
    c->n_embd = n[0], c->n_hidden = n[1], c->n_layer = n[2], c->n_head = n[3], c->n_kv_head = n[4], c->n_ctx = n[6];
    c->n_vocab = n[5] < 0 && n[5] > -INT_MAX ? -n[5] : n[5], c->tied = n[5] > 0, c->qk_norm = 0;
    if (gpti_check(c, why, sizeof why))
        return gpti_bad(f, "no legacy file of llama2.c: %s. Is it the right file?", why);
    *floats = (uint64_t)c->n_ctx * (uint64_t)(c->n_embd / c->n_head);
    for (int i = 0; gpt_param_at(c, i, &p); i++) *floats += p.count;
    return 0;
}

gpt_model *gpt_load_llama2c(ag_ctx *ctx, const char *path) {
    gpti_file f;
    gpti_llama2c l;
    uint64_t floats = 0, have = 0;
    size_t got, most;
    int bad = 1;
    memset(&l, 0, sizeof l);
    if (gpti_begin(&f, ctx, "gpt_load_llama2c", path)) return NULL;
    f.io = gpti_io(), l.f = &f;
    f.piece = (unsigned char *)gpti_alloc(ctx, GPTI_PIECE, 8);
    if (!f.piece || gpti_llama2c_config(&f, &floats)) goto done;
    do {                                                // is the file as long as its header says?
        if (gpti_take(&f, f.piece, GPTI_PIECE * 8, &got)) goto done;
        have += got;
    } while (got == GPTI_PIECE * 8 && have <= 4 * floats);
    if (have != 4 * floats) {
        gpti_bad(&f, "%llu bytes follow the header, wanted %llu: the file is damaged, or no legacy file of llama2.c",
                 (unsigned long long)have, (unsigned long long)(4 * floats));
        goto done;
    }
    most = f.config.n_vocab > f.config.n_hidden ? (size_t)f.config.n_vocab : (size_t)f.config.n_hidden;
    most = (most > (size_t)f.config.n_embd ? most : (size_t)f.config.n_embd) * (size_t)f.config.n_embd;
    l.matrix = (ag_real *)gpti_alloc(ctx, most, sizeof *l.matrix);
    if (l.matrix) l.turned = (ag_real *)gpti_alloc(ctx, most, sizeof *l.turned);
    if (l.turned) l.m = gpti_new(ctx, &f.config, 0);
    if (!l.m || gpti_rewind(&f) || gpti_take_all(&f, f.piece, 28, "the header", 0)) goto done;
    l.at = 28, l.m->training = 0;
    bad = gpti_take_llama2c(&l);
done:
    if (l.matrix) GPT_FREE(l.matrix);
    if (l.turned) GPT_FREE(l.turned);
    if (bad && l.m) gpt_free(l.m);
    gpti_close(&f);
    return bad ? NULL : l.m;
}

// ====================================================================================================================
// The operating system's part of saving a file
// ====================================================================================================================
#if defined(_WIN32)
#include <fcntl.h>
#include <io.h>
#include <process.h>
#include <sys/stat.h>
// As windows.h declares them; that header is large, and full of names.
#ifdef __cplusplus
extern "C" {
#endif
__declspec(dllimport) int __stdcall MoveFileExA(const char *from, const char *to, unsigned long flags);
__declspec(dllimport) void __stdcall Sleep(unsigned long milliseconds);
#ifdef __cplusplus
}
#endif
#define GPTI_OPEN(path, writing) \
    ((writing) ? _open(path, _O_WRONLY | _O_CREAT | _O_EXCL | _O_BINARY, _S_IREAD | _S_IWRITE) \
               : _open(path, _O_RDONLY | _O_BINARY))
#define GPTI_READ(file, to, n) _read(file, to, (unsigned)(n))
#define GPTI_WRITE(file, from, n) _write(file, from, (unsigned)(n))
#define GPTI_CLOSE(file) _close(file)
#define GPTI_SYNC(file) _commit(file)
#define GPTI_SEEK(file, offset) _lseek(file, (long)(offset), 0)
static long gpti_process(void) { return _getpid(); }
#else
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>
#if defined(__GNUC__) && !defined(__cplusplus)  // -std=c99 hides them, and a macro that shows them would come too late
extern int fsync(int file);
extern int kill(pid_t process, int signal_number);
#endif
#define GPTI_OPEN(path, writing) ((writing) ? open(path, O_WRONLY | O_CREAT | O_EXCL, 0666) : open(path, O_RDONLY))
#define GPTI_READ(file, to, n) read(file, to, n)
#define GPTI_WRITE(file, from, n) write(file, from, n)
#define GPTI_CLOSE(file) close(file)
#define GPTI_SYNC(file) fsync(file)
#define GPTI_SEEK(file, offset) lseek(file, (off_t)(offset), SEEK_SET)
static long gpti_process(void) { return (long)getpid(); }
#endif
#define GPTI_AT_ONCE ((size_t)1 << 30)          // bytes that one call of the system takes

static int gpti_fd(void *file) { return (int)((intptr_t)file - 1); }

static void *gpti_open(const char *path, int writing) {
    int fd = GPTI_OPEN(path, writing);
    return fd < 0 ? NULL : (void *)((intptr_t)fd + 1);      // file 0 is a file, too
}

static long gpti_read(void *file, void *to, size_t n) {
    long got;
    do got = (long)GPTI_READ(gpti_fd(file), to, n < GPTI_AT_ONCE ? n : GPTI_AT_ONCE); while (got < 0 && errno == EINTR);
    return got;
}

static int gpti_write_bytes(void *file, const void *from, size_t n) {
    const char *p = (const char *)from;
    while (n) {
        long done = (long)GPTI_WRITE(gpti_fd(file), p, n < GPTI_AT_ONCE ? n : GPTI_AT_ONCE);
        if (done < 0 && errno == EINTR) continue;
        if (done == 0) errno = ENOSPC;
        if (done <= 0) return -1;
        p += done, n -= (size_t)done;
    }
    return 0;
}

static int gpti_patch(void *file, size_t offset, const void *from, size_t n) {
    return GPTI_SEEK(gpti_fd(file), offset) < 0 ? -1 : gpti_write_bytes(file, from, n);
}

static int gpti_sync(void *file) { return GPTI_SYNC(gpti_fd(file)) ? -1 : 0; }
static int gpti_close_file(void *file) { return GPTI_CLOSE(gpti_fd(file)) ? -1 : 0; }
static int gpti_remove(const char *path) { return remove(path) ? -1 : 0; }

static int gpti_rename(const char *from, const char *to) {
#if defined(_WIN32)
    // A virus scanner or a reader may hold the old file for a moment. 1: replace; 8: return when it is on the disk.
    for (unsigned long wait = 1; wait <= 512; wait *= 2) {
        if (MoveFileExA(from, to, 1 | 8)) return 0;
        Sleep(wait);
    }
    errno = EACCES;
    return -1;
#else
    struct stat old;                // a file shall not take the place of /dev/null or of a pipe, as it could for root
    if (!stat(to, &old) && !S_ISREG(old.st_mode) && !S_ISDIR(old.st_mode)) return errno = EINVAL, -1;
    return rename(from, to) ? -1 : 0;
#endif
}

#if !defined(_WIN32)
// The part of a path before its last component, at most size - 1 bytes of it; "." if there is none.
static const char *gpti_directory(const char *path, char *directory, size_t size) {
    const char *slash = strrchr(path, '/');
    size_t n = slash ? (size_t)(slash - path) : 0;
    if (slash && n == 0) n = 1;
    if (!slash || n >= size) return ".";
    memcpy(directory, path, n);
    directory[n] = 0;
    return directory;
}
#endif

// A rename is on the disk when the directory is.
static int gpti_sync_dir(const char *path) {
#if defined(_WIN32)
    (void)path;                                     // MoveFileExA has waited for it
    return 0;
#else
    char directory[1024];
    int fd = open(gpti_directory(path, directory, sizeof directory), O_RDONLY), bad, error;
    if (fd < 0) return -1;
    bad = fsync(fd), error = errno;
    close(fd);
    errno = error;
    return bad && error != EINVAL && error != ENOTSUP ? -1 : 0;     // some file systems cannot do it
#endif
}

// A process that was killed while it saved leaves PATH.tmp.PROCESS.MODEL behind.
static void gpti_sweep(const char *path) {
#if defined(_WIN32)
    (void)path;
#else
    char directory[1024], file[1400];
    const char *where = gpti_directory(path, directory, sizeof directory), *slash = strrchr(path, '/');
    const char *base = slash ? slash + 1 : path;
    size_t n = strlen(base);
    DIR *d = opendir(where);
    for (struct dirent *e; d && (e = readdir(d)) != NULL;) {
        char *end;
        long process;
        if (strncmp(e->d_name, base, n) || strncmp(e->d_name + n, ".tmp.", 5)) continue;
        process = strtol(e->d_name + n + 5, &end, 10);
        if (process <= 0 || *end != '.' || kill((pid_t)process, 0) == 0 || errno != ESRCH) continue;
        if ((size_t)snprintf(file, sizeof file, "%s/%s", where, e->d_name) < sizeof file) remove(file);
    }
    if (d) closedir(d);
#endif
}

const gpt_io *gpt_stdio(void) {
    static const gpt_io io = { gpti_open, gpti_read, gpti_write_bytes, gpti_patch, gpti_sync, gpti_close_file,
                               gpti_rename, gpti_remove, gpti_sync_dir, gpti_sweep };
    return &io;
}

#undef AG_AT
#undef AG_CTX_AT
#undef GPT_AT
#undef GPT_LOADER_AT
#undef GPT_CACHE_AT
#define AG_AT(tensor) ag_at(tensor, __FILE__, __LINE__)
#define AG_CTX_AT(ctx) ag_ctx_at(ctx, __FILE__, __LINE__)
#define GPT_AT(m) gpt_at(m, __FILE__, __LINE__)
#define GPT_LOADER_AT(l) gpt_loader_at(l, __FILE__, __LINE__)
#define GPT_CACHE_AT(k) gpt_cache_at(k, __FILE__, __LINE__)
#if defined(__clang__)
#pragma STDC FP_CONTRACT DEFAULT
#elif defined(__GNUC__)
#pragma GCC pop_options
#endif
#endif // GPT_IMPLEMENTATION

/*
MIT License

Copyright (c) 2026 the authors of gpt.h

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
