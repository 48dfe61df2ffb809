// torch.c - what gpt.h computes for a model of any size, for tests/torch_live.py to compare with PyTorch.
//
//     torch list SHAPE L NH NKV C H V T          parameters in order, one in a line: NAME ROWS COLS
//     torch run SHAPE L NH NKV C H V T FROM TO   reads B, time, ids, targets (int) and all parameters (float) from
//                                                FROM; writes logits, all gradients, eleven losses, and all parameters
//                                                after ten steps of AdamW, as float, to TO
//
// SHAPE is gpt2 or llama, or one of them with six digits for its parts: norm, position, mlp, tied, qk_norm, bias, as in
// llama+121010.
#define AG_DIE_ON_ERROR
#define AUTOGRAD_IMPLEMENTATION
#define GPT_IMPLEMENTATION
#include "../gpt.h"

static FILE *in, *out;
static void take(void *to, size_t size, size_t n) {
    if (fread(to, size, n, in) != n) { fprintf(stderr, "torch: the input ends early\n"); exit(1); }
}
static void put(const float *x, size_t n) {
    if (fwrite(x, sizeof *x, n, out) != n) { fprintf(stderr, "torch: cannot write\n"); exit(1); }
}

int main(int argc, char **argv) {
    gpt_param p;
    if (argc < 10) return 2;
    gpt_config c = gpt_preset(!strncmp(argv[2], "llama", 5) ? "nano-llama" : "nano");
    const char *parts = strchr(argv[2], '+');
    if (parts && sscanf(parts, "+%1d%1d%1d%1d%1d%1d", &c.norm, &c.position, &c.mlp, &c.tied, &c.qk_norm, &c.bias) != 6)
        return 2;
    c.n_layer = atoi(argv[3]), c.n_head = atoi(argv[4]), c.n_kv_head = atoi(argv[5]), c.n_embd = atoi(argv[6]);
    c.n_hidden = atoi(argv[7]), c.n_vocab = atoi(argv[8]), c.n_ctx = atoi(argv[9]);
    if (!strcmp(argv[1], "list")) {
        for (int i = 0; gpt_param_at(&c, i, &p); i++) printf("%s %d %d\n", p.name, p.rows, p.cols);
        return 0;
    }
    if (argc != 12 || !(in = fopen(argv[10], "rb")) || !(out = fopen(argv[11], "wb"))) return 2;
    ag_ctx *ag = ag_new(1);
    gpt_model *m = gpt_new(ag, &c);
    gpt_optimizer o = gpt_adamw();
    int size[2];
    take(size, sizeof *size, 2);
    size_t n = (size_t)size[0] * (size_t)size[1], most = n * (size_t)c.n_vocab;
    for (int i = 0; gpt_param_at(&c, i, &p); i++) if (p.count > most) most = p.count;
    float *x = (float *)malloc(most * sizeof *x), losses[11];
    int *ids = (int *)malloc(2 * n * sizeof *ids);
    if (!x || !ids) return 1;
    take(ids, sizeof *ids, 2 * n);
    for (int i = 0; gpt_param_at(&c, i, &p); i++) take(x, sizeof *x, p.count), ag_set(gpt_tensor(m, p.name), x);
    o.lr = 1e-3, o.beta2 = 0.95, o.clip = 0;
    for (int step = 0; step <= 10; step++) {
        ag_tensor *y = gpt_forward(m, ids, size[0], size[1]), *loss = ag_cross_entropy(y, ids + n, NULL);
        losses[step] = (float)ag_item(loss);
        if (step == 10) break;
        if (step == 0) ag_get(y, x), put(x, y->count);
        ag_backward(loss);
        for (int i = 0; step == 0 && gpt_param_at(&c, i, &p); i++)
            ag_get_grad(gpt_tensor(m, p.name), x), put(x, p.count);
        gpt_step(m, &o, 1, NULL);
        ag_reset(ag);
    }
    put(losses, 11);
    for (int i = 0; gpt_param_at(&c, i, &p); i++) ag_get(gpt_tensor(m, p.name), x), put(x, p.count);
    free(x), free(ids), fclose(in);
    gpt_free(m), ag_free(ag);
    return fclose(out) != 0;
}
