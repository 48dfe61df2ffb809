// threads.c - work for four threads, to be built with a tool that watches memory: see test_threads.sh. It checks that
// the numbers are those of one thread; that nobody reads what another thread has not finished is the tool's part.
#define _DEFAULT_SOURCE         // usleep under -std=c99
#define AUTOGRAD_IMPLEMENTATION
#include "autograd.h"

enum { T = 70, NH = 4, NKV = 2, HS = 16, C = NH * HS, W = (NH + 2 * NKV) * HS, V = 96 };

// One step of a small network: products, attention, both norms, softmax, losses, an optimizer. The numbers to out.
static size_t step(int threads, float *out) {
    ag_ctx *ag = ag_new_with(3, ag_cpu_backend("portable", threads));
    ag_tensor *table = ag_param(ag, V, C), *w = ag_param(ag, C, W), *o = ag_param(ag, C, C), *norm = ag_param(ag, C);
    ag_tensor *bias = ag_param(ag, C), *head = ag_param(ag, C, V), *rms = ag_param(ag, C);
    int ids[4 * T], targets[4 * T];
    size_t n = 0;
    for (int i = 0; i < ag_param_count(ag); i++) ag_randn(ag_param_get(ag, i), 0.3f);
    for (int i = 0; i < 4 * T; i++) ids[i] = i * 7 % V, targets[i] = i * 11 % V;
    for (int k = 0; k < 2; k++) {
        ag_tensor *x = ag_embedding(table, ids, 4 * T, T);
        ag_tensor *h = ag_dropout(ag_layernorm(x, norm, bias, 1e-5), 0.1);
        h = ag_qk_norm_rope(ag_linear(h, w, NULL), NULL, NULL, NH, NKV, NULL, 10000, 1e-6);
        h = ag_linear(ag_attention(h, NH, NKV, NULL, NULL, NULL), o, NULL);
        x = ag_add(x, ag_mul(ag_gelu(h), ag_softmax(ag_rmsnorm(x, rms, 1e-6))));
        ag_tensor *loss = ag_cross_entropy(ag_linear(x, head, NULL), targets, NULL);
        out[n++] = (float)ag_item(loss);
        ag_backward(loss);
        ag_clip_grad(ag, 1);
        ag_adamw(ag, 1e-3, 0.9, 0.99, 0.1);
        ag_reset(ag);
    }
    ag_get(w, out + n), n += (size_t)C * W;
    if (ag_error(ag)) n = 0, printf("%s\n", ag_error(ag));
    ag_free(ag);
    return n;
}

typedef struct job { ag_backend *b; int done[1000]; } job;
static void count(void *arg, size_t i, int thread) {
    for (volatile int k = thread; k < 100; k++) {}     // long enough for the others to join in
    ((job *)arg)->done[i]++;
}
static void nested(void *arg, size_t i, int thread) {
    job *j = (job *)arg, part;
    memset(&part, 0, sizeof part), (void)thread;
    agi_parallel(j->b, 10, count, &part);       // from inside a job: on the thread that asks
    for (int k = 0; k < 10; k++) j->done[10 * i + (size_t)k] += part.done[k];
}

int main(void) {
    static float one[2 + C * W], four[2 + C * W];
    static job j;
    int wrong = 0;
    ag_backend *b = j.b = ag_cpu_backend("portable", 4);
    for (int round = 0; round < 200; round++) {
        memset(j.done, 0, sizeof j.done);       // nothing here is atomic: what workers write, the caller reads
        if (round % 2) agi_parallel(b, 100, nested, &j);
        else agi_parallel(b, 1000, count, &j);
        for (int i = 0; i < 1000; i++) wrong += j.done[i] != 1;
        if (round % 50 == 49) usleep(3000);     // so that the workers fall asleep
    }
    b->destroy(b);
    size_t n = step(1, one), m = step(4, four);
    wrong += !n || n != m || memcmp(one, four, n * sizeof *one);
    printf("%d wrong\n", wrong);
    return wrong != 0;
}
