// test_core.c - what stands around the ops: contexts, arenas, errors, random numbers, optimizers, threads, and the
// header as a file that others include.
//
//     cc -O3 tests/test_core.c -o build/test_core -lm && build/test_core
//
// Some tests compile small programs into build/ (with CC and CXX, or cc and c++).
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

// Every allocation of the library passes here: counted, and failed where a test says so.
static long malloc_calls, malloc_live, fail_from = -1, fail_until = -1;
static void *counting_malloc(size_t bytes) {
    long n = __atomic_fetch_add(&malloc_calls, 1, __ATOMIC_RELAXED);
    void *p = fail_from >= 0 && n >= fail_from && n < fail_until ? NULL : malloc(bytes);
    if (p) __atomic_fetch_add(&malloc_live, 1, __ATOMIC_RELAXED);
    return p;
}
static void counting_free(void *p) {
    if (p) __atomic_fetch_sub(&malloc_live, 1, __ATOMIC_RELAXED);
    free(p);
}
#define AG_MALLOC(bytes) counting_malloc(bytes)
#define AG_FREE(pointer) counting_free(pointer)
#define AUTOGRAD_IMPLEMENTATION
#include "../autograd.h"
#include "../autograd.h"            // a second time: nothing may happen
#include "test.h"

// ---- a small model to train ----------------------------------------------------------------------------------------
// One block of a transformer with everything in it. Parameters: table, positions, qkv, out, up, its bias, down, two
// pairs of norm weights; tied head.
typedef struct model { int B, T, C, V; ag_tensor *table, *pos, *qkv, *out, *up, *up_bias, *down, *w1, *b1, *w2; } model;

static model model_new(ag_ctx *g, int B, int T, int C, int V) {
    model m;
    m.B = B, m.T = T, m.C = C, m.V = V;
    m.table = ag_param(g, V, C), m.pos = ag_param(g, T, C), m.qkv = ag_param(g, C, 2 * C), m.out = ag_param(g, C, C);
    m.up = ag_param(g, C, 4 * C), m.up_bias = ag_param(g, 4 * C), m.down = ag_param(g, 4 * C, C);
    m.w1 = ag_param(g, C), m.b1 = ag_param(g, C), m.w2 = ag_param(g, C);
    ag_randn(m.table, 0.1f), ag_randn(m.pos, 0.1f), ag_randn(m.qkv, 0.1f), ag_randn(m.out, 0.1f), ag_randn(m.up, 0.1f),
        ag_randn(m.down, 0.1f);
    ag_fill(m.w1, 1), ag_fill(m.w2, 1);
    return m;
}

static ag_tensor *model_logits(const model *m, const int *ids) {        // 4 query heads, 2 key heads
    ag_tensor *x = ag_add(ag_embedding(m->table, ids, m->B * m->T, m->T), m->pos), *h;
    h = ag_attention(ag_linear(ag_layernorm(x, m->w1, m->b1, 1e-5), m->qkv, NULL), 4, 2, NULL, NULL, NULL);
    x = ag_add(x, ag_dropout(ag_linear(h, m->out, NULL), 0.1));
    h = ag_linear(ag_gelu(ag_linear(ag_rmsnorm(x, m->w2, 1e-5), m->up, m->up_bias)), m->down, NULL);
    return ag_matmul_t(ag_reshape(ag_add(x, h), m->B * m->T, m->C), m->table);
}

static ag_tensor *model_loss(const model *m, int step) {
    int ids[512], targets[512];
    for (int i = 0; i < m->B * m->T; i++) {
        ids[i] = (i * 7 + step * 3) % m->V;
        targets[i] = i % 11 == 3 ? AG_IGNORE : (i * 7 + step * 3 + 7) % m->V;
    }
    return ag_cross_entropy(model_logits(m, ids), targets, NULL);
}

static int model_step(ag_ctx *g, const model *m, int step) {
    ag_tensor *loss = model_loss(m, step);
    if (ag_backward(loss)) return -1;
    ag_clip_grad(g, 0.5);
    return ag_adamw(g, 1e-2, 0.9, 0.99, 0.1);
}

static uint64_t hash_params(ag_ctx *g) {            // FNV-1a over the bits of all parameters
    uint64_t h = 1469598103934665603u;
    for (int i = 0; i < ag_param_count(g); i++) {
        ag_tensor *p = ag_param_get(g, i);
        float *x = (float *)malloc((p->count + 1) * sizeof *x);
        if (ag_get(p, x)) h = 0;
        for (size_t k = 0; k < p->count * sizeof *x; k++) h = (h ^ ((unsigned char *)x)[k]) * 1099511628211u;
        free(x);
    }
    return h;
}

// ---- random numbers ------------------------------------------------------------------------------------------------
// Philox 4x32-10 once more, from the paper's description with its full counter, so that the published vectors can be
// checked; then the stream is compared with it.
static void philox(const uint32_t key[2], const uint32_t counter[4], uint32_t out[4]) {
    uint32_t k[2], c[4], n[4];
    memcpy(k, key, sizeof k), memcpy(c, counter, sizeof c);
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)c[0] * 0xD2511F53u, b = (uint64_t)c[2] * 0xCD9E8D57u;
        n[0] = (uint32_t)(b >> 32) ^ c[1] ^ k[0], n[1] = (uint32_t)b;
        n[2] = (uint32_t)(a >> 32) ^ c[3] ^ k[1], n[3] = (uint32_t)a;
        memcpy(c, n, sizeof c);
        k[0] += 0x9E3779B9u, k[1] += 0xBB67AE85u;
    }
    memcpy(out, c, sizeof c);
}

static void philox_known_answers(void) {
    // Random123 (Salmon et al. 2011), known-answer vectors of philox4x32, 10 rounds: counter, key, result.
    static const uint32_t known[3][10] = {
        {0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
        {0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff,
            0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
        {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0,
            0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}
    };
    uint32_t out[4];
    ag_rng zero = {0, 0};
    for (int k = 0; k < 3; k++) {
        philox(known[k] + 4, known[k], out);
        for (int i = 0; i < 4; i++) CHECK_INT(out[i], known[k][6 + i]);
    }
    for (int i = 0; i < 4; i++) CHECK_INT(ag_rng_u32(&zero), known[0][6 + i]);
    for (uint64_t k = 0; k < 200; k++) {            // word i of a stream is word i % 4 of block i / 4
        uint64_t key = k * 0x9E3779B97F4A7C15u, at = (k * k * 0x2545F4914F6CDD1Du) >> (k % 50);
        uint32_t words[2], counter[4] = {0, 0, 0, 0};
        ag_rng rng;
        words[0] = (uint32_t)key, words[1] = (uint32_t)(key >> 32);
        counter[0] = (uint32_t)(at / 4), counter[1] = (uint32_t)(at / 4 >> 32);
        philox(words, counter, out);
        rng.key = key, rng.counter = at;
        CHECK_INT(ag_rng_u32(&rng), out[at % 4]);
        CHECK(rng.counter == at + 1 && rng.key == key);
    }
}

static void uniform_and_normal(void) {
    enum { N = 200000 };
    ag_rng r = {42, 0}, saved;
    double sum = 0, squares = 0, fourth = 0, low = 1, high = 0, lag = 0, last = 0;
    for (int i = 0; i < N; i++) {
        double u = ag_rng_uniform(&r);
        sum += u, squares += u * u, low = u < low ? u : low, high = u > high ? u : high;
        lag += (u - 0.5) * (last - 0.5), last = u;
    }
    CHECK(low >= 0 && high < 1 && low < 1e-4 && high > 1 - 1e-4);
    CHECK_NEAR(sum / N, 0.5, 4 * 0.2887 / sqrt(N));
    CHECK_NEAR(squares / N, 1.0 / 3, 4 * 0.298 / sqrt(N));
    CHECK_NEAR(lag / N, 0, 4.0 / 12 / sqrt(N));
    sum = squares = 0;
    for (int i = 0; i < N; i++) { double x = ag_rng_normal(&r); sum += x, squares += x * x, fourth += x * x * x * x; }
    CHECK_NEAR(sum / N, 0, 4 / sqrt(N));
    CHECK_NEAR(squares / N, 1, 4 * 1.4142 / sqrt(N));
    CHECK_NEAR(fourth / N, 3, 4 * 9.8 / sqrt(N));
    saved = r;                                      // the state is two words: a copy goes on from there
    double a = ag_rng_normal(&r), b = ag_rng_uniform(&r);
    CHECK(ag_rng_normal(&saved) == a && ag_rng_uniform(&saved) == b);
}

static void streams_are_independent(void) {
    ag_ctx *g = ag_new(7), *h = ag_new(7), *other = ag_new(8);
    uint32_t first[AG_RNG_COUNT];
    for (int s = 0; s < AG_RNG_COUNT; s++) {
        CHECK(ag_stream(g, s) != NULL);
        for (int i = 0; i < 100 * s; i++) ag_rng_u32(ag_stream(g, AG_RNG_SAMPLE));  // changes nothing elsewhere
        ag_rng fresh = *ag_stream(h, s);
        first[s] = ag_rng_u32(&fresh);
        for (int t = 0; t < s; t++) CHECK(first[s] != first[t]);
        if (s != AG_RNG_SAMPLE) CHECK_INT(ag_rng_u32(ag_stream(g, s)), first[s]);
        ag_rng elsewhere = *ag_stream(other, s);
        CHECK(ag_rng_u32(&elsewhere) != first[s]);
    }
    CHECK(ag_stream(g, -1) == NULL && ag_stream(g, AG_RNG_COUNT) == NULL && ag_stream(NULL, 0) == NULL);
    ag_tensor *a = ag_param(g, 500), *b = ag_param(h, 500);
    float x[500], y[500];
    ag_stream(g, AG_RNG_INIT)->counter = ag_stream(h, AG_RNG_INIT)->counter = 12;
    ag_randn(a, 2), ag_randn(b, 2);
    ag_get(a, x), ag_get(b, y);
    CHECK(!memcmp(x, y, sizeof x));
    double squares = 0;
    for (int i = 0; i < 500; i++) squares += x[i] * x[i] / 500;
    CHECK_NEAR(squares, 4, 1.1);
    ag_rand(a, -3, -1);
    ag_get(a, x);
    for (int i = 0; i < 500; i++) CHECK(x[i] >= -3 && x[i] <= -1);
    ag_free(g), ag_free(h), ag_free(other);
}

// ---- memory --------------------------------------------------------------------------------------------------------
static void no_malloc_after_the_second_step(void) {
    ag_ctx *g = ag_new(1);
    model m = model_new(g, 4, 24, 32, 29);
    ag_tensor *w = ag_param(g, 32, 32);
    ag_randn(w, 1);
    w->group = 1, m.out->group = 2;
    const ag_real *data = m.qkv->data;
    long after_second = 0;
    size_t peak = 0;
    for (int step = 0; step < 60; step++) {
        ag_mark_at mark = ag_mark(g);
        int old = ag_no_grad(g, 1);
        model_loss(&m, step + 1);
        ag_no_grad(g, old);
        ag_rewind(g, mark);
        CHECK(ag_backward(ag_add(model_loss(&m, step), ag_mean(ag_tanh(w)))) == 0);
        ag_clip_grad(g, 1);
        CHECK(ag_adamw_group(g, 0, 1e-3, 0.9, 0.99, 1e-8, 0.1) == 0);
        CHECK(ag_muon_group(g, 1, 1e-3, 0.9, 0.1) == 0);
        CHECK(ag_sgd_group(g, 2, 1e-3, 0.9, 0.1) == 0);
        ag_zero_grad(g);
        ag_reset(g);
        if (step == 1) after_second = malloc_calls, peak = ag_memory_used(g).tape_peak;
        if (step > 1) CHECK_INT(malloc_calls, after_second);
        if (step > 1) CHECK_INT(ag_memory_used(g).tape_peak, peak);
        CHECK_INT(ag_memory_used(g).tape, 0);
    }
    CHECK(m.qkv->data == data);                     // and nothing that stays has moved
    ag_memory used = ag_memory_used(g);
    CHECK(used.params >= (size_t)(29 * 32 + 24 * 32 + 32 * 64 + 32 * 32 + 2 * 32 * 128) * 4 && used.state > 0 &&
        used.reserved >= used.params + used.state);
    CHECK(ag_error(g) == NULL);
    ag_free(g);
    CHECK_INT(malloc_live, 0);
}

// A context that computes nothing takes to the byte what one that computes takes, and says what is wrong as well.
static void a_dry_run_tells_the_memory(void) {
    for (int forget = 0; forget < 2; forget++) {
        ag_memory used[2];
        for (int dry = 0; dry < 2; dry++) {
            ag_ctx *g = dry ? ag_new_dry() : ag_new(1);
            model m = model_new(g, 4, 24, 32, 29);
            for (int step = 0; step < 3; step++) {
                ag_tensor *loss = model_loss(&m, step);
                for (ag_tensor *t = g->last; t && forget; t = t->older) if (t->op->again && !t->viewed) ag_forget(t);
                CHECK(ag_backward(loss) == 0);
                CHECK(!dry || ag_item(loss) == 0);
                ag_clip_grad(g, 1);
                CHECK(ag_adamw(g, 1e-3, 0.9, 0.99, 0.1) == 0);
                ag_reset(g);
            }
            used[dry] = ag_memory_used(g);
            CHECK(ag_matmul(m.qkv, ag_zeros(g, 3, 3)) == NULL);
            CHECK_HAS(ag_error(g), "ag_matmul: a is (");
            ag_free(g);
        }
        CHECK_INT(used[1].params, used[0].params);
        CHECK_INT(used[1].state, used[0].state);
        CHECK_INT(used[1].tape_peak, used[0].tape_peak);
        CHECK_INT(used[1].reserved, used[0].reserved);
    }
}

// Evaluation and generation between forward and backward, bracketed: the parameters end up with the same bits.
static void mark_and_rewind_leave_no_trace(void) {
    uint64_t hash[2];
    for (int bracket = 0; bracket < 2; bracket++) {
        ag_ctx *g = ag_new(5);
        model m = model_new(g, 3, 16, 32, 29);
        for (int step = 0; step < 6; step++) {
            ag_tensor *loss = model_loss(&m, step);
            if (bracket) {
                ag_rng dropout = *ag_stream(g, AG_RNG_DROPOUT);
                ag_mark_at mark = ag_mark(g);
                int old = ag_no_grad(g, 1);
                for (int i = 0; i < 3; i++) {
                    ag_mark_at inner = ag_mark(g);
                    CHECK(isfinite(ag_item(model_loss(&m, 100 + i))));
                    ag_rewind(g, inner);
                }
                ag_full(g, 7, 300, 300);
                ag_no_grad(g, old);
                if (step % 2) CHECK(ag_backward(model_loss(&m, 50)) == 0);  // recorded, differentiated, forgotten
                ag_zero_grad(g);
                ag_rewind(g, mark);
                *ag_stream(g, AG_RNG_DROPOUT) = dropout;
            }
            CHECK(ag_backward(loss) == 0);
            if (bracket) {
                ag_mark_at mark = ag_mark(g);
                ag_rng dropout = *ag_stream(g, AG_RNG_DROPOUT);
                ag_full(g, 7, 100, 300), model_loss(&m, 51);
                ag_rewind(g, mark);
                *ag_stream(g, AG_RNG_DROPOUT) = dropout;
            }
            CHECK(ag_adamw(g, 1e-2, 0.9, 0.99, 0.1) == 0);
            ag_reset(g);
        }
        CHECK(ag_error(g) == NULL);
        hash[bracket] = hash_params(g);
        ag_free(g);
    }
    CHECK(hash[0] == hash[1]);
}

// A backward pass inside the bracket leaves gradient buffers behind. They end with it: what is made there next is safe.
static void a_rewind_takes_gradient_buffers_along(void) {
    enum { N = 1000 };
    static float x[N], y[N], d[N];
    ag_ctx *g = ag_new(1);
    ag_tensor *w = ag_param(g, N), *inputs[16];
    ag_mark_at mark = ag_mark(g);
    ag_fill(w, 0.5f);
    CHECK(ag_backward(ag_sum(ag_tanh(ag_tanh(ag_tanh(w))))) == 0);
    ag_rewind(g, mark), ag_zero_grad(g);
    for (int i = 0; i < N; i++) x[i] = (float)i;
    for (int k = 0; k < 16; k++) inputs[k] = ag_input(g, x, N);         // over all the memory that was given back
    ag_tensor *t = ag_tanh(ag_scale(ag_scale(w, 1), 1));
    for (int k = 0; k < 16; k++) t = ag_add(t, ag_mul(w, inputs[k]));
    CHECK(ag_backward(ag_sum(t)) == 0);
    ag_get_grad(w, d);
    for (int i = 0; i < N; i++) CHECK_NEAR(d[i], 16.0 * i + 1 - tanh(0.5) * tanh(0.5), 1e-2);
    for (int k = 0; k < 16; k++) {
        ag_get(inputs[k], y);
        CHECK(!memcmp(x, y, sizeof x));
    }
    ag_free(g);
}

static void three_lives(void) {
    ag_ctx *g = ag_new(1);
    ag_tensor *p = ag_param(g, 3), *s = ag_state(g, 3), *loss;
    float x[3] = {1, 2, 3}, y[3];
    ag_get(p, y);
    CHECK(y[0] == 0 && y[1] == 0 && y[2] == 0);
    ag_get(s, y);
    CHECK(y[0] == 0 && y[1] == 0 && y[2] == 0);
    unsigned version = p->version;
    ag_set(p, x), ag_set(s, x);
    CHECK(p->version > version && p->trainable && p->needs_grad && !s->needs_grad);
    loss = ag_sum(ag_mul(p, s));
    CHECK(ag_backward(loss) == 0);
    ag_reset(g);
    ag_full(g, 9, 1000);
    ag_get(p, y);
    CHECK(!memcmp(x, y, sizeof x));
    ag_get(s, y);
    CHECK(!memcmp(x, y, sizeof x));
    ag_get_grad(p, y);
    CHECK(!memcmp(x, y, sizeof x));                 // gradients of parameters outlive the tape
    x[1] = 8;
    CHECK(ag_set_part(p, 1, 1, x + 1) == 0 && ag_get_part(p, 1, 2, y) == 0 && y[0] == 8 && y[1] == 3);
    version = p->version;
    CHECK(ag_adamw(g, 0.1, 0.9, 0.99, 0) == 0 && p->version > version && p->steps == 1);
    ag_get_grad(p, y);
    CHECK(y[0] == 0 && y[1] == 0 && y[2] == 0);     // the step has used them up
    CHECK(ag_param_count(g) == 1 && ag_param_get(g, 0) == p && ag_param_get(g, 1) == NULL &&
        ag_param_get(g, -1) == NULL);
    CHECK(ag_shape_is(p, 3, -1, -1, -1) && !ag_shape_is(p, 3, 1, -1, -1) && !ag_shape_is(p, -1, -1, -1, -1) &&
        !ag_shape_is(NULL, 3, -1, -1, -1));
    CHECK(strstr(ag_backend_name(g), "cpu/") != NULL);
    ag_free(g), ag_free(NULL);
}

// ---- errors --------------------------------------------------------------------------------------------------------
static int wrong_calls;
static void look_at_error(ag_ctx *g, int line, const char *call, const char *a, const char *b) {
    char place[300];
    wrong_calls++;
    snprintf(place, sizeof place, "%s:%d: ", __FILE__, line);
    const char *e = ag_error(g);
    if (!e) T_FAIL("no error: %s", call);
    else if (strncmp(e, place, strlen(place)) || !strstr(e, a) || !strstr(e, b))
        T_FAIL("%s\n    says: %s\n    which lacks %s \"%s\" or \"%s\"", call, e, place, a, b);
    ag_clear_error(g);
    CHECK(ag_error(g) == NULL);
}
// The message begins with this line of this file and contains both texts.
#define WRONG(call, a, b) ((void)(call), look_at_error(g, __LINE__, #call, a, b))

static void wrong_calls_are_explained(void) {
    ag_ctx *g = ag_new(1), *h = ag_new(1);
    ag_tensor *w = ag_param(g, 4, 6), *v = ag_param(g, 6), *x3 = ag_param(g, 2, 3, 12), *s = ag_sum(v),
        *alien = ag_param(h, 4, 6), *xs[2];
    int ids[] = {0, 7, -2, 3, 5, 1}, start[] = {3, 0}, len[] = {4, 2};
    float few[4] = {0}, zero_weights[4] = {0};
    ag_kv cache, alien_cache;
    cache.k = ag_state(g, 2, 5, 4), cache.v = ag_state(g, 2, 5, 4);
    alien_cache.k = ag_state(h, 2, 5, 4), alien_cache.v = ag_state(h, 2, 5, 4);
    ag_rand(w, 1, 2), ag_rand(v, 1, 2), ag_rand(x3, 1, 2);
    uint64_t before = hash_params(g);

    WRONG(ag_add(w, ag_zeros(g, 5)), "ag_add: ", "(4,6)");
    WRONG(ag_sub(w, ag_zeros(g, 3, 6)), "4 and 3", "broadcast");
    WRONG(ag_where(w, v, ag_zeros(g, 3, 1)), "ag_where: ", "(3,1)");
    WRONG(ag_mul(w, alien), "ag_mul: ", "another context");
    WRONG(ag_matmul(w, ag_zeros(g, 4, 6)), "a is (4,6), b is (4,6)", "ag_matmul_t");
    WRONG(ag_matmul(w, ag_zeros(g, 5, 7)), "6 and 5", "ag_matmul: ");
    WRONG(ag_matmul(w, v), "two dimensions", "ag_reshape");
    WRONG(ag_matmul_t(ag_zeros(g, 2, 3, 4), ag_zeros(g, 3, 5, 4)), "batch", "2 and 3");
    WRONG(ag_matmul(w, alien), "ag_matmul: ", "another context");
    WRONG(ag_linear(w, w, NULL), "x is (4,6), w is (4,6)", "(I,O)");
    WRONG(ag_linear(v, ag_zeros(g, 6, 2), v), "bias is (6)", "(O)");
    WRONG(ag_linear_gelu(w, w, NULL), "ag_linear_gelu: x is (4,6), w is (4,6)", "(I,O)");
    WRONG(ag_softmax(s), "ag_softmax: ", "dimension");
    WRONG(ag_layernorm(w, ag_zeros(g, 5), NULL, 1e-5), "w is (5)", "(C)");
    WRONG(ag_layernorm(w, v, ag_zeros(g, 6, 1), 1e-5), "bias is (6,1)", "ag_layernorm: ");
    WRONG(ag_rmsnorm(w, ag_zeros(g, 5), 1e-5), "w is (5)", "ag_rmsnorm: ");
    WRONG(ag_embedding(w, ids, 3, 0), "id 7 at position 1", "from 0 to 3");
    WRONG(ag_embedding(w, ids + 2, 1, 0), "id -2", "ag_embedding: ");
    WRONG(ag_embedding(w, ids, 6, 4), "6 ids in rows of 4", "(4,6)");
    WRONG(ag_embedding(v, ids, 1, 0), "table is (6)", "(V,C)");
    WRONG(ag_embedding(w, NULL, 3, 0), "NULL", "ag_embedding: ");
    WRONG(ag_gather(w, ids), "id 7", "from 0 to 5");
    WRONG(ag_gather(w, NULL), "NULL", "ag_gather: ");
    WRONG(ag_reshape(w, 5, 5), "24 elements", "25");
    WRONG(ag_reshape(w, 7, -1), "24", "ag_reshape: ");
    WRONG(ag_reshape(w, -1, -1), "ag_reshape: ", "(4,6)");
    WRONG(ag_permute(w, 0, 0, -1, -1), "(0,0,-1,-1)", "once");
    WRONG(ag_permute(w, 0, 2, -1, -1), "ag_permute: ", "(4,6)");
    WRONG(ag_slice(w, 1, 4, 3), "3 entries from 4", "(4,6)");
    WRONG(ag_slice(w, 2, 0, 1), "dimension 2", "(4,6)");
    WRONG(ag_slice(w, -3, 0, 1), "dimension -3", "ag_slice: ");
    WRONG(ag_slice(w, 0, -1, 1), "from -1", "ag_slice: ");
    WRONG(ag_sum_dim(w, 2), "dimension 2", "it has 2");
    WRONG(ag_max_dim(ag_zeros(g, 3, 0), 1), "(3,0)", "nothing");
    WRONG(ag_mean(ag_zeros(g, 0)), "(0)", "ag_mean: ");
    xs[0] = w, xs[1] = x3;
    WRONG(ag_concat(xs, 2, 0), "tensor 1 is (2,3,12)", "the first is (4,6)");
    xs[1] = alien;
    WRONG(ag_concat(xs, 2, 0), "another context", "ag_concat: ");
    WRONG(ag_dropout(w, 1), "p is 1", "0 <= p < 1");
    WRONG(ag_dropout(w, -0.5), "p is -0.5", "ag_dropout: ");
    WRONG(ag_dropout(w, NAN), "nan", "ag_dropout: ");
    WRONG(ag_attention(w, 2, 2, NULL, NULL, NULL), "qkv is (4,6)", "(B,T,(NH+2*NKV)*hs)");
    WRONG(ag_attention(x3, 3, 2, NULL, NULL, NULL), "3 heads and 2 key heads", "divisor");
    WRONG(ag_attention(x3, 0, 2, NULL, NULL, NULL), "0 heads", "ag_attention: ");
    WRONG(ag_attention(x3, 2147483647, 1, NULL, NULL, NULL), "2147483647", "ag_attention: ");
    WRONG(ag_attention(x3, 5, 5, NULL, NULL, NULL), "(2,3,12) with 5 heads", "ag_attention: ");
    WRONG(ag_attention(x3, 2, 2, NULL, NULL, len), "row 0: 4 positions", "ag_attention: ");
    WRONG(ag_attention(x3, 2, 2, NULL, start, NULL), "start", "cache");
    WRONG(ag_attention(x3, 2, 2, &cache, start, NULL), "row 0: 3 positions from 3", "room for 5");
    WRONG(ag_attention(x3, 4, 1, &cache, NULL, NULL), "cache", "(B,T_max,NKV*hs)");
    WRONG(ag_attention(x3, 1, 1, &alien_cache, NULL, NULL), "context", "ag_attention: ");
    int six[] = {2, 4}, short_of[] = {2, 3}, twice[] = {1, 1}, far_row[] = {0, 2};
    ag_tensor *texts = ag_reshape(x3, 6, 12);
    WRONG(ag_attention_ragged(x3, 2, 1, NULL, 2, NULL, NULL, six), "(2,3,12)", "ag_attention_ragged: ");
    WRONG(ag_attention_ragged(texts, 2, 2, NULL, 2, NULL, NULL, short_of), "5 positions in all", "sum of len");
    WRONG(ag_attention_ragged(texts, 2, 2, NULL, 2, NULL, NULL, NULL), "0 positions in all", "ag_attention_ragged: ");
    WRONG(ag_attention_ragged(texts, 2, 2, NULL, -1, NULL, NULL, six), "len of -1 texts", "ag_attention_ragged: ");
    WRONG(ag_attention_ragged(texts, 2, 2, NULL, 2, NULL, start, six), "start needs a cache", "ag_attention_ragged: ");
    WRONG(ag_attention_ragged(texts, 2, 2, NULL, 2, six, NULL, six), "row needs a cache", "ag_attention_ragged: ");
    WRONG(ag_attention_ragged(texts, 2, 2, &cache, 2, twice, NULL, six), "row[1] is 1", "ascending");
    WRONG(ag_attention_ragged(texts, 2, 2, &cache, 2, far_row, NULL, six), "row[1] is 2", "0 to 1");
    WRONG(ag_attention_ragged(texts, 2, 2, &cache, 2, NULL, start, len), "row 0: 4 positions from 3", "room for 5");
    WRONG(ag_rope(w, 2, 1, NULL, 10000), "(4,6)", "(B,T,H*hs)");
    WRONG(ag_rope(x3, 5, 1, NULL, 10000), "heads of 5", "ag_rope: ");
    WRONG(ag_rope(x3, 3, 1, NULL, 10000), "even", "3");
    WRONG(ag_rope(x3, 2, 7, NULL, 10000), "7 heads", "ag_rope: ");
    WRONG(ag_rope(x3, 2, 1, NULL, 0), "theta 0", "ag_rope: ");
    start[0] = -1;
    WRONG(ag_rope(x3, 2, 1, start, 100), "start[0] is -1", "ag_rope: ");
    WRONG(ag_qk_norm_rope(x3, v, NULL, 2, 2, NULL, 100, 1e-5), "(2)", "ag_qk_norm_rope: ");
    WRONG(ag_qk_norm_rope(w, NULL, NULL, 2, 2, NULL, 100, 1e-5), "(4,6)", "ag_qk_norm_rope: ");
    WRONG(ag_swiglu(ag_zeros(g, 3, 5)), "(3,5)", "even");
    WRONG(ag_nll(w, ids + 2), "id -2 at position 0", "from 0 to 5");
    WRONG(ag_nll(s, ids), "ag_nll: ", "dimension");
    WRONG(ag_nll(ag_zeros(g, 3, 0), ids), "id 0", "ag_nll: ");
    ids[0] = ids[1] = ids[2] = ids[3] = AG_IGNORE;
    WRONG(ag_cross_entropy(w, ids, NULL), "all 4 targets", "ag_cross_entropy: ");
    ids[0] = ids[1] = ids[2] = ids[3] = 1;
    WRONG(ag_cross_entropy(w, ids, zero_weights), "weight 0", "ag_cross_entropy: ");
    WRONG(ag_backward(w), "(4,6)", "ag_mean or ag_sum");
    WRONG(ag_backward(ag_sum(ag_zeros(g, 3))), "trainable", "ag_no_grad");
    WRONG(ag_item(w), "(4,6)", "24 values");
    WRONG(ag_set_part(w, 20, 5, few), "20 to 25", "24");
    WRONG(ag_get_part(w, 25, 0, few), "24", "ag_get: ");
    WRONG(ag_get_part(w, (size_t)-1, 2, few), "24", "ag_get: ");
    WRONG(ag_set(w, NULL), "NULL", "ag_set: ");
    WRONG(ag_input(g, NULL, 3), "NULL", "ag_input: ");
    WRONG(ag_param(g, 3, -1), "dimension 1 is -1", "ag_param: ");
    WRONG(ag_state(g, 50000, 50000), "elements", "ag_state: ");
    WRONG(ag_zeros(g, 65536, 65536, 65536, 65536), "elements", "smaller");
    WRONG(ag_full(g, 1, 1, 2, 3, 4, 5), "at most 4", "ag_full: ");
    WRONG(ag_sgd(g, NAN, 0, 0), "nan", "ag_sgd: ");
    WRONG(ag_sgd(g, 0.1, 1, 0), "0 <= beta < 1", "ag_sgd: ");
    WRONG(ag_adamw(g, 0.1, 1.5, 0.9, 0), "1.5", "ag_adamw: ");
    WRONG(ag_adamw(g, 0.1, 0.9, 1, 0), "0 <= beta < 1", "ag_adamw: ");
    WRONG(ag_adamw(g, 0.1, 0.9, 0.99, NAN), "nan", "ag_adamw: ");
    WRONG(ag_adamw_group(g, 0, INFINITY, 0.9, 0.99, 1e-8, 0), "inf", "ag_adamw: ");
    WRONG(ag_adamw_group(g, 0, -1, 0.9, 0.99, 1e-8, 0), "lr -1, weight decay 0,", "ag_adamw: ");
    WRONG(ag_adamw_group(g, 0, 0.1, 0.9, 0.99, 0, 0), "eps is 0", "ag_adamw: ");
    WRONG(ag_check_grad(g, NULL, NULL, 1e-3), "f is NULL", "ag_check_grad: ");
    WRONG(ag_newton_schulz(g, NULL, NULL, 2, 2, 5), "a pointer is NULL, 2 x 2", "ag_newton_schulz: ");
    WRONG(ag_clip_grad(g, -1), "-1", "ag_clip_grad: ");
    WRONG(ag_clip_grad(g, NAN), "nan", "ag_clip_grad: ");
    CHECK(ag_backward(ag_sum(v)) == 0);
    ag_name(v, "the vector");
    WRONG(ag_muon_group(g, AG_ALL_GROUPS, 0.1, 0.9, 0), "the vector", "(6)");

    CHECK(hash_params(g) == before);                // eighty wrong calls have changed nothing
    CHECK(wrong_calls >= 25);
    CHECK(ag_error(h) == NULL);
    ag_free(g), ag_free(h);
    printf("  %d wrong calls\n", wrong_calls);
}

static void the_first_error_stays(void) {
    ag_ctx *g = ag_new(1);
    model m = model_new(g, 2, 4, 8, 5);
    ag_tensor *ok = model_loss(&m, 0);
    float x[64], *was;
    CHECK(ag_backward(ok) == 0);
    uint64_t before = hash_params(g);
    was = (float *)malloc(m.qkv->count * sizeof *was);
    ag_get_grad(m.qkv, was);
    CHECK(ag_add(m.table, m.qkv) == NULL);
    char first[600];
    snprintf(first, sizeof first, "%s", ag_error(g) ? ag_error(g) : "");
    CHECK(first[0]);
    CHECK(ag_matmul(m.table, m.table) == NULL);
    CHECK_STR(ag_error(g), first);
    CHECK(ag_tanh(m.table) == NULL && ag_param(g, 3) == NULL && ag_input(g, x, 3) == NULL && ag_state(g, 3) == NULL &&
        ag_zeros(g, 3) == NULL);
    CHECK(ag_backward(ok) == -1 && ag_sgd(g, 0.1, 0.9, 0) == -1 && ag_adamw(g, 0.1, 0.9, 0.99, 0) == -1);
    CHECK(ag_adamw_group(g, 0, 0.1, 0.9, 0.99, 1e-8, 0) == -1 && ag_muon_group(g, 0, 0.1, 0.9, 0) == -1 &&
        ag_sgd_group(g, 0, 0.1, 0, 0) == -1);
    CHECK(isnan(ag_grad_norm(g)) && isnan(ag_clip_grad(g, 1)) && isnan(ag_item(ok)));
    CHECK(ag_set(m.w1, x) == -1 && ag_get(m.w1, x) == -1 && ag_get_grad(m.w1, x) == -1);
    ag_fill(m.w1, 7), ag_randn(m.w1, 7), ag_rand(m.w1, 7, 8);
    CHECK(ag_fail(g, "a later message %d", 5) == -1);
    CHECK_STR(ag_error(g), first);
    ag_clear_error(g);
    CHECK(ag_error(g) == NULL && hash_params(g) == before);
    float *is = (float *)malloc(m.qkv->count * sizeof *is);
    ag_get_grad(m.qkv, is);
    CHECK(!memcmp(was, is, m.qkv->count * sizeof *is));     // the gradients are still there, and the step works now
    CHECK(ag_adamw(g, 0.1, 0.9, 0.99, 0) == 0 && hash_params(g) != before);
    CHECK(ag_fail(g, "library %s, %d", "on top", 5) == -1);
    CHECK_HAS(ag_error(g), "library on top, 5");
    free(was), free(is);
    ag_free(g);
}

static void null_is_passed_on(void) {
    ag_ctx *g = ag_new(1);
    ag_tensor *x = ag_param(g, 3, 4), *none = NULL, *xs[2];
    int ids[4] = {0};
    float buffer[16];
    xs[0] = x, xs[1] = NULL;
    CHECK(!ag_add(none, x) && !ag_add(x, none) && !ag_sub(none, none) && !ag_mul(x, none) && !ag_div(none, x) &&
        !ag_minimum(x, none) && !ag_maximum(none, x));
    CHECK(!ag_greater(x, none) && !ag_where(none, x, x) && !ag_where(x, none, x) && !ag_where(x, x, none) &&
        !ag_neg(none) && !ag_scale(none, 1) && !ag_shift(none, 1));
    CHECK(!ag_pow(none, 2) && !ag_exp(none) && !ag_log(none) && !ag_sqrt(none) && !ag_tanh(none) && !ag_sigmoid(none) &&
        !ag_log_sigmoid(none) && !ag_relu(none));
    CHECK(!ag_gelu(none) && !ag_silu(none) && !ag_clamp(none, 0, 1) && !ag_detach(none) && !ag_sum(none) &&
        !ag_mean(none) && !ag_sum_dim(none, 0));
    CHECK(!ag_mean_dim(none, 0) && !ag_max_dim(none, 0) && !ag_matmul(none, x) && !ag_matmul(x, none) &&
        !ag_matmul_t(none, x) && !ag_linear(none, x, x));
    CHECK(!ag_linear_gelu(none, x, x));
    CHECK(!ag_linear(x, none, x) && !ag_softmax(none) && !ag_log_softmax(none) && !ag_layernorm(none, x, x, 1e-5) &&
        !ag_layernorm(x, none, NULL, 1e-5));
    CHECK(!ag_rmsnorm(none, x, 1e-5) && !ag_rmsnorm(x, none, 1e-5) && !ag_embedding(none, ids, 1, 0) &&
        !ag_gather(none, ids) && !ag_reshape(none, 3));
    CHECK(!ag_permute(none, 1, 0, -1, -1) && !ag_slice(none, 0, 0, 1) && !ag_concat(xs, 2, 0) &&
        !ag_concat(xs + 1, 1, 0) && !ag_dropout(none, 0.1) && !ag_dropout(none, 0));
    CHECK(!ag_attention(none, 1, 1, NULL, NULL, NULL) && !ag_rope(none, 2, 1, NULL, 100) &&
        !ag_qk_norm_rope(none, NULL, NULL, 1, 1, NULL, 100, 1e-5));
    CHECK(!ag_swiglu(none) && !ag_nll(none, ids) && !ag_cross_entropy(none, ids, NULL));
    CHECK(ag_error(g) == NULL);                     // passing NULL on is no error of its own
    CHECK(isnan(ag_item(none)) && ag_backward(none) == -1 && ag_get(none, buffer) == -1 && ag_set(none, buffer) == -1 &&
        ag_get_grad(none, buffer) == -1);
    ag_fill(none, 1), ag_randn(none, 1), ag_rand(none, 0, 1), ag_name(none, "x"), ag_keep_grad(none),
        ag_trainable(none, 1);
    ag_reset(NULL), ag_clear_error(NULL), ag_zero_grad(NULL), ag_rewind(NULL, ag_mark(NULL)), ag_no_grad(NULL, 1);
    CHECK(ag_param(NULL, 3) == NULL && ag_state(NULL, 3) == NULL && ag_input(NULL, buffer, 3) == NULL &&
        ag_zeros(NULL, 3) == NULL);
    CHECK(ag_error(NULL) != NULL && ag_param_count(NULL) == 0 && ag_param_get(NULL, 0) == NULL &&
        ag_adamw(NULL, 0.1, 0.9, 0.99, 0) == -1);
    CHECK(isnan(ag_grad_norm(NULL)) && ag_memory_used(NULL).reserved == 0 && ag_fail(NULL, "x") == -1);
    ag_free(g);
}

// The loss is not a number: the message names the tensor where it began, and where that was made.
static void a_bad_loss_is_traced_to_its_origin(void) {
    ag_ctx *g = ag_new(1);
    model m = model_new(g, 2, 4, 8, 5);
    char place[100];
    float x[6] = {1, -1, 2, 3, 4, 5};
    uint64_t before = hash_params(g);
    ag_tensor *a = ag_input(g, x, 6), *w = ag_param(g, 6), *bad, *loss;
    ag_fill(w, 1);
    before = hash_params(g);
    bad = ag_log(ag_mul(a, w)); int line = __LINE__;
    loss = ag_add(ag_sum(ag_tanh(ag_exp(bad))), model_loss(&m, 0));
    CHECK(isnan(ag_item(loss)));
    CHECK(ag_backward(loss) == -1);
    snprintf(place, sizeof place, "%s:%d", __FILE__, line);
    CHECK_HAS(ag_error(g), place);
    CHECK_HAS(ag_error(g), "ag_log (6)");
    CHECK(ag_adamw(g, 0.1, 0.9, 0.99, 0.1) == -1);
    ag_clear_error(g);
    CHECK(hash_params(g) == before);

    x[2] = INFINITY;                                // it began in an input, which has a name
    a = ag_input(g, x, 6);
    ag_name(a, "prices");
    CHECK(ag_backward(ag_mean(ag_mul(a, w))) == -1);
    CHECK_HAS(ag_error(g), "prices");
    CHECK_HAS(ag_error(g), "inf");
    ag_clear_error(g);

    x[2] = NAN;                                     // and in a parameter
    ag_set(w, x), ag_name(w, "w");
    CHECK(ag_backward(ag_sum(ag_tanh(w))) == -1);
    CHECK_HAS(ag_error(g), "w (6)");
    ag_clear_error(g);
    ag_free(g);
}

// A finite loss with a gradient that is not: no optimizer changes anything.
static void a_bad_gradient_changes_nothing(void) {
    for (int k = 0; k < 6; k++) {
        ag_ctx *g = ag_new(1);
        ag_tensor *w = ag_param(g, 3, 3), *v = ag_param(g, 3);
        ag_randn(w, 1), ag_name(v, "culprit");      // v is 0, where the slope of the square root is infinite
        CHECK(ag_backward(ag_add(ag_sum(ag_mul(w, w)), ag_sum(ag_tanh(w)))) == 0);
        CHECK(ag_adamw(g, 0.1, 0.9, 0.99, 0.1) == 0);
        uint64_t before = hash_params(g);
        ag_tensor *loss = ag_add(ag_sum(ag_mul(w, w)), ag_sum(ag_sqrt(v)));
        CHECK(isfinite(ag_item(loss)));
        CHECK(ag_backward(loss) == 0);
        switch (k) {
        case 0: CHECK(ag_sgd(g, 0.1, 0.9, 0.1) == -1); break;
        case 1: CHECK(ag_adamw(g, 0.1, 0.9, 0.99, 0.1) == -1); break;
        case 2: CHECK(isnan(ag_clip_grad(g, 1)) && ag_adamw(g, 0.1, 0.9, 0.99, 0.1) == -1); break;
        case 3: v->group = 1; CHECK(ag_muon_group(g, 0, 0.1, 0.9, 0.1) == -1); break;
        case 4: CHECK(isnan(ag_grad_norm(g)) && ag_sgd_group(g, 0, 0.1, 0, 0) == -1); break;
        case 5: v->group = 1; CHECK(ag_adamw_group(g, 0, 0.1, 0.9, 0.99, 1e-8, 0.1) == -1); break;
        }
        CHECK_HAS(ag_error(g), "culprit (3)");
        ag_clear_error(g);
        CHECK(hash_params(g) == before);
        ag_zero_grad(g), ag_reset(g);
        CHECK(ag_backward(ag_sum(ag_mul(w, w))) == 0 && ag_adamw(g, 0.1, 0.9, 0.99, 0.1) == 0 &&
            hash_params(g) != before);
        ag_free(g);
    }
}

// Their squares are asked for in groups: the norm counts all of them, and the one that is not finite has its name.
static void many_parameters_have_one_norm(void) {
    enum { MANY = 600 };
    ag_ctx *g = ag_new(1);
    ag_tensor *p[MANY], *loss;
    double want = 0;
    for (int i = 0; i < MANY; i++) {
        p[i] = ag_param(g, 1 + i % 3);
        ag_fill(p[i], (ag_real)(i % 7)), ag_trainable(p[i], i % 5 != 4);
        if (i % 5 != 4) want += (1 + i % 3) * 4.0 * (i % 7) * (i % 7);
    }
    for (int bad = -1; bad < MANY; bad += bad < 0 ? 256 : 172) {        // none, 255, 427, 599 (which is frozen)
        if (bad == MANY - 1) bad--;
        if (bad >= 0) ag_fill(p[bad], 0), ag_name(p[bad], "culprit");
        loss = ag_sum(ag_mul(p[0], p[0]));
        for (int i = 1; i < MANY; i++)
            loss = ag_add(loss, ag_sum(i == bad ? ag_sqrt(p[i]) : ag_mul(p[i], p[i])));
        CHECK_INT(ag_backward(loss), 0);
        double norm = ag_grad_norm(g);
        if (bad < 0) CHECK_NEAR(norm, sqrt(want), 1e-6 * sqrt(want));
        else {
            char text[40];
            snprintf(text, sizeof text, "parameter %d, culprit", bad);
            CHECK(isnan(norm));
            CHECK_HAS(ag_error(g), text);
            ag_clear_error(g), ag_fill(p[bad], (ag_real)(bad % 7)), ag_name(p[bad], NULL);
        }
        ag_zero_grad(g), ag_reset(g);
        if (bad == MANY - 2) break;
    }
    ag_free(g);
}

// ag_on_gradient: each parameter once, in the order in which the walk leaves them behind, with the final gradient.
typedef struct heard { int n; const ag_tensor *which[8]; ag_real value[8]; } heard;
static void hear(void *user, ag_tensor *p) {
    heard *h = (heard *)user;
    h->which[h->n] = p, h->value[h->n++] = p->grad[0];
}
static void complete_gradients_are_told(void) {
    ag_ctx *g = ag_new(1);
    ag_tensor *first = ag_param(g, 1), *tied = ag_param(g, 1), *last = ag_param(g, 1), *frozen = ag_param(g, 1);
    ag_tensor *idle = ag_param(g, 1);
    for (int i = 0; i < 5; i++) ag_fill(ag_param_get(g, i), (ag_real)(i + 2));
    ag_trainable(frozen, 0);
    for (int round = 0; round < 3; round++) {
        heard h = {0};
        ag_on_gradient(g, round < 2 ? hear : NULL, &h);
        ag_tensor *y = ag_mul(ag_mul(tied, tied), first);       // tied is used again by the newest node
        y = ag_mul(ag_mul(ag_add(y, frozen), last), tied);
        CHECK_INT(ag_backward(ag_sum(y)), 0);
        CHECK_INT(h.n, round < 2 ? 3 : 0);
        if (round < 2) CHECK(h.which[0] == last && h.which[1] == first && h.which[2] == tied);
        for (int i = 0; i < h.n; i++) CHECK_NEAR(h.value[i], h.which[i]->grad[0], 0);
        CHECK_INT(idle->has_grad, 0);
        ag_zero_grad(g), ag_reset(g);
    }
    ag_free(g);
}

static void a_parameter_can_be_the_loss(void) {
    ag_ctx *g = ag_new(1);
    ag_tensor *w = ag_param(g, 1);
    float d = 0;
    ag_fill(w, 3);
    CHECK(ag_backward(w) == 0 && ag_backward(ag_scale(w, 2)) == 0 && ag_get_grad(w, &d) == 0);
    CHECK_NEAR(d, 3, 0);
    ag_free(g);
}

// Ids, targets and lengths are copied by the op: the reader may overwrite them before backward.
static void ids_are_copied(void) {
    float first[2][200];
    for (int spoil = 0; spoil < 2; spoil++) {
        ag_ctx *g = ag_new(3);
        ag_tensor *table = ag_param(g, 5, 12), *x;
        int ids[] = {0, 3, 4, 3, 1, 2}, len[] = {3, 2}, start[] = {1, 4}, targets[] = {1, 2, AG_IGNORE, 3, 0, 1},
            picks[] = {3, 2, 1, 0, 1, 2};
        float weights[] = {1, 2, 3, 4, 5, 6};
        ag_randn(table, 1);
        x = ag_attention(ag_rope(ag_embedding(table, ids, 6, 3), 2, 4, start, 100), 2, 2, NULL, NULL, len);
        x = ag_add(ag_cross_entropy(x, targets, weights), ag_sum(ag_gather(x, picks)));
        if (spoil)
            for (int i = 0; i < 6; i++) ids[i] = 1000000, targets[i] = 99999, picks[i] = -7, weights[i] = NAN,
                len[i % 2] = 77, start[i % 2] = -9;
        CHECK(ag_backward(x) == 0);
        ag_get_grad(table, first[spoil]);
        CHECK(ag_error(g) == NULL);
        ag_free(g);
    }
    CHECK(!memcmp(first[0], first[1], 60 * sizeof(float)));
}

static int broken_matmul(ag_backend *b, ag_real *C, const ag_real *A, const ag_real *B, const ag_real *bias, int M,
                         int N, int K, int ta, int tb, const int batch[2], const size_t sc[2], const size_t sa[2],
                         const size_t sb[2], int accumulate) {
    (void)b, (void)C, (void)A, (void)B, (void)bias, (void)M, (void)N, (void)K, (void)ta, (void)tb, (void)batch,
        (void)sc, (void)sa, (void)sb, (void)accumulate;
    return -1;
}

static void a_failing_device_is_an_error_like_any_other(void) {
    ag_backend *b = ag_cpu_backend(NULL, 1);
    b->matmul = broken_matmul;
    ag_ctx *g = ag_new_with(1, b);
    ag_tensor *w = ag_param(g, 3, 3);
    CHECK(ag_matmul(w, w) == NULL);
    CHECK_HAS(ag_error(g), "matmul");
    CHECK_HAS(ag_error(g), b->name);
    ag_free(g);
    CHECK(ag_cpu_backend("no such thing", 1) == NULL && ag_new_with(1, NULL) == NULL);
    CHECK_INT(malloc_live, 0);
}

// ---- every malloc fails --------------------------------------------------------------------------------------------
// A day in the life of a context, which goes on whatever happens; what counts is that it neither crashes nor leaks.
// Returns 0 if all of it worked.
static int a_day(int retry) {
    int status = 0, ids[2] = {1, 2}, start[1] = {0};
    ag_ctx *g = ag_new(1);
    if (!g) return -1;
    model m = model_new(g, 2, 8, 16, 7);
    ag_tensor *w = ag_param(g, 8, 8), *keep = ag_state(g, 4, 4);
    ag_randn(w, 1);
    if (w) w->group = 1;
    for (int i = 0; i < 70; i++) ag_param(g, 2);    // more parameters than the first list holds
    for (int step = 0; step < 2; step++) {
        status |= ag_backward(ag_add(model_loss(&m, step), ag_mean(w)));
        ag_clip_grad(g, 1);
        status |= ag_adamw_group(g, 0, 0.01, 0.9, 0.99, 1e-8, 0.1) | ag_muon_group(g, 1, 0.01, 0.9, 0.1);
        ag_zero_grad(g);
        ag_reset(g);
        ag_kv cache;
        cache.k = ag_state(g, 1, 8, 4), cache.v = ag_state(g, 1, 8, 4);
        status |= ag_attention(ag_reshape(ag_embedding(m.qkv, ids, 1, 0), 1, 2, 16), 2, 1, &cache, start, NULL) == NULL;
        ag_full(g, 1, 200, 200);
        ag_reset(g);
    }
    status |= keep == NULL || ag_error(g) != NULL;
    if (status && ag_error(g) && !strstr(ag_error(g), "memory")) T_FAIL("the message is: %s", ag_error(g));
    if (status && !ag_error(g)) T_FAIL("it failed without a message");
    if (retry && status) {                          // memory is there again: new work succeeds in the same context
        ag_clear_error(g);
        ag_zero_grad(g), ag_reset(g);
        model n = model_new(g, 2, 8, 16, 7);
        if (ag_backward(model_loss(&n, 0)) || ag_adamw_group(g, 0, 0.01, 0.9, 0.99, 1e-8, 0.1))
            T_FAIL("no second try: %s", ag_error(g));
    }
    ag_free(g);
    return status;
}

static void every_malloc_fails_once_and_for_good(void) {
    CHECK_INT(malloc_live, 0);
    malloc_calls = 0;
    CHECK_INT(a_day(0), 0);
    long calls = malloc_calls;
    int survived = 0;
    CHECK_INT(malloc_live, 0);
    for (int forever = 0; forever < 2; forever++)
        for (long n = 0; n < calls; n++) {
            malloc_calls = 0, fail_from = n, fail_until = forever ? 1L << 40 : n + 1;
            survived += a_day(!forever) == 0;
            fail_from = -1;
            if (malloc_live) T_FAIL("failing call %ld%s leaks %ld blocks", n, forever ? " and all later ones" : "",
                malloc_live);
            malloc_live = 0;
        }
    printf("  %ld calls of malloc, each failed once and from there on (%d times it went on without)\n", calls,
        survived);
    CHECK(calls > 10 && survived < calls);
}

// ---- threads -------------------------------------------------------------------------------------------------------
static uint64_t trained(int threads, int transformer) {
    ag_ctx *g = ag_new_with(11, ag_cpu_backend(NULL, threads));
    uint64_t h;
    if (transformer) {
        model m = model_new(g, 6, 40, 64, 67);
        for (int step = 0; step < 5; step++) { CHECK(model_step(g, &m, step) == 0); ag_reset(g); }
    } else {
        ag_tensor *w = ag_param(g, 70, 130), *b = ag_param(g, 130), *v = ag_param(g, 130, 33),
            *x = ag_state(g, 257, 70), *y = ag_state(g, 257, 33);
        ag_randn(w, 0.1f), ag_randn(v, 0.1f), ag_randn(x, 1), ag_randn(y, 1);
        w->group = v->group = 1;
        for (int step = 0; step < 5; step++) {
            ag_tensor *d = ag_sub(ag_matmul(ag_relu(ag_linear(x, w, b)), v), y);
            CHECK(ag_backward(ag_mean(ag_mul(d, d))) == 0);
            CHECK(ag_muon_group(g, 1, 0.02, 0.9, 0.01) == 0 && ag_sgd_group(g, 0, 0.1, 0.9, 0) == 0);
            ag_zero_grad(g), ag_reset(g);
        }
    }
    if (ag_error(g)) T_FAIL("%d threads: %s", threads, ag_error(g));
    h = hash_params(g);
    ag_free(g);
    return h;
}

static void one_to_eight_threads_train_alike(void) {
    static const int counts[] = {2, 3, 4, 8};
    for (int transformer = 0; transformer < 2; transformer++) {
        uint64_t one = trained(1, transformer);
        for (int k = 0; k < 4; k++) CHECK(trained(counts[k], transformer) == one);
        CHECK(trained(1, transformer) == one);      // and the same twice
    }
}

static void *train_in_a_thread(void *out) {
    *(uint64_t *)out = trained(2, 1);
    return NULL;
}

static void two_contexts_in_two_threads(void) {
    pthread_t a, b;
    uint64_t alone = trained(2, 1), x = 0, y = 1;
    CHECK(pthread_create(&a, NULL, train_in_a_thread, &x) == 0);
    CHECK(pthread_create(&b, NULL, train_in_a_thread, &y) == 0);
    pthread_join(a, NULL), pthread_join(b, NULL);
    CHECK(x == alone && y == alone);
}

// The child of a fork has the memory of the pool but none of its threads.
static void a_fork_goes_on_alone(void) {
    ag_ctx *g = ag_new_with(11, ag_cpu_backend(NULL, 3));
    model m = model_new(g, 6, 40, 64, 67);
    CHECK(model_step(g, &m, 0) == 0);
    ag_reset(g);
    fflush(stdout);
    pid_t child = fork();
    int status = -1;
    int ok = model_step(g, &m, 1) == 0;
    uint64_t h = hash_params(g);
    if (child == 0) {
        ag_free(g);
        _exit(ok ? (int)(h % 100) + 1 : 0);
    }
    CHECK(ok);
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
    CHECK_INT(WEXITSTATUS(status), (int)(h % 100) + 1);
    ag_free(g);
}

static void environment_chooses_threads_and_kernels(void) {
    setenv("AG_THREADS", "3", 1), setenv("AG_CPU", "naive", 1);
    ag_ctx *g = ag_new(1);
    CHECK_HAS(ag_backend_name(g), "naive");
    ag_free(g);
#ifndef AG_NAIVE
    setenv("AG_CPU", "portable", 1);
    g = ag_new(1);
    CHECK_HAS(ag_backend_name(g), "portable");
    CHECK_INT(ag_threads(g), 3);
    ag_free(g);
#endif
    setenv("AG_CPU", "", 1), setenv("AG_THREADS", "", 1);       // as good as not there
    g = ag_new(1);
    CHECK(!ag_error(g));
    ag_free(g);
    static const char *const wrong[] = { "avx", "AVX2", "avx2 neon", "avx2 ", " " };
    for (int i = 0; i < 5; i++) {
        setenv("AG_CPU", wrong[i], 1);
        g = ag_new(1);
        CHECK_HAS(ag_error(g), wrong[i]);
        CHECK_HAS(ag_error(g), "avx512 avx2 neon portable naive");
        ag_free(g);
    }
    unsetenv("AG_CPU");
    static const char *const count[] = { "0", "-1", "two", "2x" };
    for (int i = 0; i < 4; i++) {
        setenv("AG_THREADS", count[i], 1);
        g = ag_new(1);
        CHECK_HAS(ag_error(g), "AG_THREADS=");
        CHECK_HAS(ag_error(g), count[i]);
        ag_free(g);
    }
    unsetenv("AG_THREADS");
}

// ---- optimizers, against plain formulas in double ------------------------------------------------------------------
static double loss_of(const double *w, int n, double *d) {                      // f = sum of w^3/3 + w: f' = w^2 + 1
    double f = 0;
    for (int i = 0; i < n; i++) f += w[i] * w[i] * w[i] / 3 + w[i], d[i] = w[i] * w[i] + 1;
    return f;
}
static ag_tensor *loss_on_tape(ag_tensor *w) { return ag_add(ag_scale(ag_sum(ag_pow(w, 3)), 1.0 / 3), ag_sum(w)); }

static void optimizers_follow_their_formulas(void) {
    enum { N = 35 };
    for (int which = 0; which < 4; which++) {       // SGD, SGD with momentum, AdamW, AdamW with clipping
        ag_ctx *g = ag_new(3);
        ag_tensor *w = ag_param(g, 5, 7), *v = ag_param(g, N);                  // the vector does not decay
        double x[2][N], m[2][N] = {{0}}, s[2][N] = {{0}}, d[2][N];
        float f[N];
        ag_randn(w, 1), ag_randn(v, 1);
        for (int p = 0; p < 2; p++) { ag_get(p ? v : w, f); for (int i = 0; i < N; i++) x[p][i] = f[i]; }
        for (int t = 1; t <= 10; t++) {
            double norm = 0, scale = 1;
            CHECK(ag_backward(ag_add(loss_on_tape(w), loss_on_tape(v))) == 0);
            for (int p = 0; p < 2; p++) {
                loss_of(x[p], N, d[p]);
                for (int i = 0; i < N; i++) norm += d[p][i] * d[p][i];
            }
            norm = sqrt(norm);
            if (which == 3) {
                CHECK_NEAR(ag_clip_grad(g, 5), norm, 1e-4 * norm);
                scale = norm > 5 ? 5 / norm : 1;
            } else CHECK_NEAR(ag_grad_norm(g), norm, 1e-4 * norm);
            if (which < 2) CHECK(ag_sgd(g, 0.01, which ? 0.9 : 0, 0.1) == 0);
            else CHECK(ag_adamw(g, 0.02, 0.9, 0.95, 0.1) == 0);
            for (int p = 0; p < 2; p++) for (int i = 0; i < N; i++) {
                double decay = p ? 0 : 0.1, grad = d[p][i] * scale, *wi = &x[p][i];
                if (which < 2) {
                    m[p][i] = which ? 0.9 * m[p][i] + grad : grad;
                    *wi -= 0.01 * (m[p][i] + decay * *wi);
                } else {
                    m[p][i] = 0.9 * m[p][i] + 0.1 * grad, s[p][i] = 0.95 * s[p][i] + 0.05 * grad * grad;
                    *wi = *wi * (1 - 0.02 * decay) - 0.02 * (m[p][i] / (1 - pow(0.9, t)))
                        / (sqrt(s[p][i] / (1 - pow(0.95, t))) + 1e-8);
                }
            }
            for (int p = 0; p < 2; p++) {
                ag_get(p ? v : w, f);
                for (int i = 0; i < N; i++)
                    if (!(fabs(f[i] - x[p][i]) <= 2e-5 * (1 + fabs(x[p][i]))))
                        T_FAIL("optimizer %d, step %d: %g, wanted %g", which, t, (double)f[i], x[p][i]);
            }
            ag_reset(g);
        }
        CHECK(w->steps == 10);
        ag_free(g);
    }
}

// Newton-Schulz and Muon in double, from the paper's lines (Jordan et al. 2024).
static void newton_schulz(double *y, const double *x, int r, int c) {
    double norm = 0, A[64], B[64], Z[64];
    int small = r < c ? r : c, large = r < c ? c : r, tall = r > c;
    for (int i = 0; i < r * c; i++) norm += x[i] * x[i];
    for (int i = 0; i < r * c; i++) y[i] = x[i] / (sqrt(norm) + 1e-7);
#define Y(i, k) y[tall ? (k) * c + (i) : (i) * c + (k)]             /* (small, large), whichever way it lies */
    for (int step = 0; step < 5; step++) {
        for (int i = 0; i < small; i++) for (int j = 0; j < small; j++) {
            A[i * small + j] = 0;
            for (int k = 0; k < large; k++) A[i * small + j] += Y(i, k) * Y(j, k);
        }
        for (int i = 0; i < small; i++) for (int j = 0; j < small; j++) {
            B[i * small + j] = -4.7750 * A[i * small + j];
            for (int k = 0; k < small; k++) B[i * small + j] += 2.0315 * A[i * small + k] * A[k * small + j];
        }
        for (int i = 0; i < small; i++) for (int k = 0; k < large; k++) {
            Z[i * large + k] = 3.4445 * Y(i, k);
            for (int j = 0; j < small; j++) Z[i * large + k] += B[i * small + j] * Y(j, k);
        }
        for (int i = 0; i < small; i++) for (int k = 0; k < large; k++) Y(i, k) = Z[i * large + k];
    }
#undef Y
}

static void muon_follows_its_formula(void) {
    static const int shapes[][2] = {{4, 7}, {7, 4}, {5, 5}, {1, 6}, {6, 1}};
    for (int k = 0; k < 5; k++) {
        int r = shapes[k][0], c = shapes[k][1], n = r * c;
        ag_ctx *g = ag_new(3);
        ag_tensor *w = ag_param(g, r, c), *other = ag_param(g, r, c);
        double x[49], m[49] = {0}, d[49], u[49], o[49];
        float f[49], was[49];
        ag_randn(w, 1), ag_randn(other, 1);
        other->group = 4;
        ag_get(w, f);
        for (int i = 0; i < n; i++) x[i] = f[i];
        for (int t = 0; t < 3; t++) {
            ag_get(other, was);
            CHECK(ag_backward(ag_add(loss_on_tape(w), ag_sum(ag_tanh(other)))) == 0);
            CHECK(ag_muon_group(g, 0, 0.02, 0.95, 0.1) == 0);
            ag_get(other, f);
            CHECK(!memcmp(f, was, (size_t)n * sizeof *f));      // the other group did not move
            loss_of(x, n, d);
            for (int i = 0; i < n; i++) m[i] = 0.95 * m[i] + d[i], u[i] = d[i] + 0.95 * m[i];
            newton_schulz(o, u, r, c);
            double length = 0.02 * sqrt(c > r ? (double)c / r : 1);
            for (int i = 0; i < n; i++) x[i] = x[i] * (1 - 0.02 * 0.1) - length * o[i];
            ag_get(w, f);
            for (int i = 0; i < n; i++) if (!(fabs(f[i] - x[i]) <= 3e-5 * (1 + fabs(x[i]))))
                T_FAIL("%dx%d, step %d: %g, wanted %g", r, c, t, (double)f[i], x[i]);
            ag_zero_grad(g), ag_reset(g);
        }
        ag_free(g);
    }
}

// Newton-Schulz alone: a random matrix gets singular values of about 1, whatever it was scaled by.
static void newton_schulz_makes_matrices_orthogonal(void) {
    ag_ctx *g = ag_new(3);
    ag_tensor *x = ag_state(g, 16, 40), *y = ag_state(g, 16, 40);
    static float f[640];
    for (int k = 0; k < 2; k++) {
        ag_randn(x, k ? 100.0f : 0.001f);
        CHECK(ag_newton_schulz(g, y->data, x->data, 16, 40, 5) == 0);
        ag_get(y, f);
        for (int i = 0; i < 16; i++) for (int j = 0; j < 16; j++) {
            double dot = 0;
            for (int t = 0; t < 40; t++) dot += (double)f[i * 40 + t] * f[j * 40 + t];
            if (i == j) CHECK(dot > 0.4 && dot < 1.5); else CHECK(fabs(dot) < 0.45);
        }
    }
    ag_free(g);
}

static void groups_freezing_and_missing_gradients(void) {
    ag_ctx *g = ag_new(1);
    ag_tensor *a = ag_param(g, 2, 2), *b = ag_param(g, 2, 2), *c = ag_param(g, 2, 2), *unused = ag_param(g, 2, 2);
    float x[4];
    ag_fill(a, 1), ag_fill(b, 1), ag_fill(c, 1), ag_fill(unused, 1);
    b->group = 2, c->decay = 0;
    CHECK(a->decay && a->trainable && a->group == 0);
    // Gradients of zero: only decay moves.
    CHECK(ag_backward(ag_sum(ag_mul(ag_add(ag_add(a, b), c), ag_zeros(g, 2, 2)))) == 0);
    CHECK(ag_sgd_group(g, 2, 0.5, 0, 0.5) == 0);
    ag_get(a, x);
    CHECK(x[0] == 1);
    ag_get(b, x);
    CHECK_NEAR(x[3], 0.75, 1e-6);
    CHECK(ag_sgd(g, 0.5, 0, 0.5) == 0);             // all groups, and the gradients are gone after it
    ag_get(a, x);
    CHECK_NEAR(x[0], 0.75, 1e-6);
    ag_get(c, x);
    CHECK(x[0] == 1);                               // no decay
    ag_get(unused, x);
    CHECK(x[0] == 1);                               // no gradient has come: not even decay
    CHECK(ag_sgd(g, 0.5, 0, 0.5) == 0);
    ag_get(a, x);
    CHECK_NEAR(x[0], 0.75, 1e-6);
    ag_free(g);
}

static void clipping(void) {
    ag_ctx *g = ag_new(1);
    ag_tensor *a = ag_param(g, 2), *b = ag_param(g, 1);
    float x[2], s[2] = {3, 0}, t = 4;
    // The gradients are (3, 0) and (4).
    CHECK(ag_backward(ag_add(ag_sum(ag_mul(a, ag_input(g, s, 2))), ag_mul(b, ag_input(g, &t, 1)))) == 0);
    CHECK_NEAR(ag_grad_norm(g), 5, 1e-6);
    CHECK_NEAR(ag_clip_grad(g, 10), 5, 1e-6);
    ag_get_grad(a, x);
    CHECK_NEAR(x[0], 3, 1e-6);
    CHECK_NEAR(ag_clip_grad(g, 1), 5, 1e-6);
    ag_get_grad(a, x);
    CHECK_NEAR(x[0], 0.6, 1e-5);
    ag_clip_grad(g, 4);                             // a wider clip afterwards does not bring back what was cut
    ag_get_grad(a, x);
    CHECK_NEAR(x[0], 0.6, 1e-5);
    CHECK(ag_backward(ag_sum(a)) == 0);             // what comes later adds to the clipped gradient
    ag_get_grad(a, x);
    CHECK_NEAR(x[0], 1.6, 1e-5);
    CHECK_NEAR(ag_grad_norm(g), sqrt(1.6 * 1.6 + 1 + 0.64), 1e-4);
    ag_free(g);
}

static void adam_leaves_no_denormals(void) {
    ag_ctx *g = ag_new(1);
    ag_tensor *w = ag_param(g, 37);
    float m[37];
    ag_randn(w, 1);
    for (int step = 0; step < 1001; step++) {
        CHECK(ag_backward(ag_sum(ag_scale(w, step ? 0 : 1))) == 0);
        CHECK(ag_adamw(g, 1e-3, 0.9, 0.999, 0) == 0);
        ag_reset(g);
    }
    memcpy(m, w->m, sizeof m);                      // the CPU backend's memory is our memory
    for (int i = 0; i < 37; i++) CHECK(m[i] == 0);
    ag_free(g);
}

// ---- the header as a file ------------------------------------------------------------------------------------------
static const char *compiler(const char *variable, const char *otherwise) {
    return getenv(variable) ? getenv(variable) : otherwise;
}

static void write_file(const char *name, const char *text) {
    char path[200];
    snprintf(path, sizeof path, "build/%s", name);
    FILE *f = fopen(path, "w");
    CHECK(f != NULL);
    if (f) fputs(text, f), fclose(f);
}

// Runs a shell command; what it prints goes to text.
static int shell(const char *command, char *text, size_t cap) {
    char full[1000], path[60];
    snprintf(path, sizeof path, "build/core_%ld.txt", (long)getpid());
    snprintf(full, sizeof full, "( %s ) > %s 2>&1", command, path);
    int status = system(full);
    FILE *f = fopen(path, "r");
    size_t n = f ? fread(text, 1, cap - 1, f) : 0;
    text[n] = 0;
    if (f) fclose(f);
    remove(path);
    return status;
}

static void compiles(const char *what, const char *command) {
    char text[3000];
    if (shell(command, text, sizeof text)) T_FAIL("%s: %s\n%.1500s", what, command, text);
    else if (strstr(text, "warning")) T_FAIL("%s warns: %s\n%.1500s", what, command, text);
}

static int there_is(const char *program) {
    char command[200], text[400];
    snprintf(command, sizeof command, "command -v %.80s", program);
    return shell(command, text, sizeof text) == 0;
}

static void half_an_allocator_and_fast_math_are_refused(void) {
    char command[400], text[3000];
    const char *cc = compiler("CC", "cc");
    write_file("core_empty.c", "#define AUTOGRAD_IMPLEMENTATION\n#include \"../autograd.h\"\n"
               "int main(void) { return 0; }\n");
    static const char *const flags[] = { "-DAG_MALLOC=my_malloc", "-DAG_FREE=my_free", "-ffast-math" };
    for (int k = 0; k < 3; k++) {
        snprintf(command, sizeof command, "%.100s -DAG_NAIVE -fsyntax-only %s build/core_empty.c", cc, flags[k]);
        if (!shell(command, text, sizeof text)) T_FAIL("%s compiles", flags[k]);
        CHECK_HAS(text, k == 2 ? "fast-math" : "AG_MALLOC");
    }
    snprintf(command, sizeof command, "%.100s -DAG_NAIVE -fsyntax-only build/core_empty.c", cc);
    compiles("nothing defined", command);
}

static void two_files_and_cplusplus(void) {
    char command[600];
    const char *cc = compiler("CC", "cc"), *cxx = compiler("CXX", "c++");
    write_file("core_a.c", "#define AUTOGRAD_IMPLEMENTATION\n#include \"../autograd.h\"\n#include \"../autograd.h\"\n"
               "double other(ag_ctx *g);\nint main(void) {\n    ag_ctx *g = ag_new(1);\n    double x = other(g);\n"
               "    ag_free(g);\n    return x != 42;\n}\n");
    write_file("core_b.c", "#include \"../autograd.h\"\n#include \"../autograd.h\"\ndouble other(ag_ctx *g);\n"
               "double other(ag_ctx *g) {\n    ag_real x = 6;\n    ag_tensor *t = ag_input(g, &x, 1);\n"
               "    return ag_item(ag_mul(t, ag_shift(t, 1)));\n}\n");
    snprintf(command, sizeof command, "%.100s -std=c99 -Wall -Wextra -Wpedantic -Wshadow -Wvla -DAG_NAIVE "
             "build/core_a.c build/core_b.c -o build/core_two -lm && build/core_two", cc);
    compiles("two files", command);
    snprintf(command, sizeof command, "cp build/core_a.c build/core_a.cc && cp build/core_b.c build/core_b.cc && "
             "%.100s -std=c++11 -Wall -Wextra -Wpedantic -DAG_NAIVE "
             "build/core_a.cc build/core_b.cc -o build/core_cxx -lm && build/core_cxx", cxx);
    compiles("C++", command);
    snprintf(command, sizeof command, "%.100s -std=c++11 -Wall -Wextra -Wpedantic -fsyntax-only build/core_a.cc", cxx);
    compiles("C++ with the fast kernels", command);
    // C implementation, C++ user: the names must agree.
    snprintf(command, sizeof command, 
             "sed 's/^double other/extern \"C\" double other/' build/core_b.c > build/core_c.cc && "
             "%.100s -DAG_NAIVE -c build/core_a.c -o build/core_a.o && "
             "%.100s -std=c++11 -c build/core_c.cc -o build/core_c.o && "
             "%.100s build/core_a.o build/core_c.o -o build/core_mixed -lm && build/core_mixed", cc, cxx, cxx);
    compiles("C++ calls C", command);
    static const char *const others[] = { "gcc -std=c99", "clang -std=c99", "clang++ -x c++ -std=c++11", "tcc" };
    for (int k = 0; k < 4; k++) {
        if (!there_is(k < 1 ? "gcc" : k < 2 ? "clang" : k < 3 ? "clang++" : "tcc")) {
            printf("skipped: %s is not installed\n", others[k]);
            continue;
        }
        if (k == 3) snprintf(command, sizeof command, "tcc -c build/core_a.c -o build/core_tcc.o");
        else snprintf(command, sizeof command, "%s -Wall -Wextra -Wpedantic -Wshadow -Wvla -fsyntax-only "
                      "build/core_a.c", others[k]);
        compiles(others[k], command);
    }
}

// With AG_DIE_ON_ERROR the first error ends the program: message on stderr, status 1.
static void die_on_error(void) {
    char command[400], text[2000];
    write_file("core_die.c", "#define AG_DIE_ON_ERROR\n#define AG_NAIVE\n#define AUTOGRAD_IMPLEMENTATION\n"
               "#include \"../autograd.h\"\nint main(void) {\n    ag_ctx *g = ag_new(1);\n"
               "    ag_tensor *a = ag_param(g, 2, 3);\n    ag_matmul(a, a);\n    puts(\"alive\");\n    return 0;\n}\n");
    snprintf(command, sizeof command, "%.100s -w build/core_die.c -o build/core_die -lm && build/core_die",
             compiler("CC", "cc"));
    int status = shell(command, text, sizeof text);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 1);
    CHECK_HAS(text, "core_die.c:8: ag_matmul: a is (2,3), b is (2,3)");
    CHECK(!strstr(text, "alive"));
}

// No mutable global state, and no way to print or to end the program: nm lists what the object file has and needs.
static void no_globals_no_printing_no_exit(void) {
    static const char *const banned[] = { "printf", "fprintf", "puts", "putchar", "fputs", "fwrite", "exit", "abort",
        "_exit", "__printf_chk", "__fprintf_chk", "system", "popen" };
    char command[400];
    static char text[200000];
    if (!there_is("nm")) { printf("skipped: nm is not installed\n"); return; }
    write_file("core_nm.c", "#define AUTOGRAD_IMPLEMENTATION\n#include \"../autograd.h\"\n");
    snprintf(command, sizeof command, "%.100s -w -O1 -fno-pic -fno-pie -fno-stack-protector -c build/core_nm.c "
             "-o build/core_nm.o && nm build/core_nm.o", compiler("CC", "cc"));
    if (shell(command, text, sizeof text)) { T_FAIL("%s: %.300s", command, text); return; }
    int functions = 0;
    for (char *line = text, *next; *line; line = next) {
        char kind = 0, name[200] = "";
        next = strchr(line, '\n');
        if (!next) break;
        *next++ = 0;
        if (sscanf(line, "%*x %c %199s", &kind, name) != 2 && sscanf(line, " %c %199s", &kind, name) != 2) continue;
        functions += kind == 'T';
        if (strchr("bBdDCS", kind)) T_FAIL("mutable global: %s", name);
        for (size_t k = 0; kind == 'U' && k < sizeof banned / sizeof *banned; k++)
            if (!strcmp(name, banned[k])) T_FAIL("the library calls %s", name);
        if (kind == 'T' && strncmp(name, "ag_", 3)) T_FAIL("a name without prefix: %s", name);
    }
    CHECK(functions > 80);
}

// A fused op leaves a gradient that the reader keeps alone, although it could use the place.
static void a_kept_gradient_is_left_alone(void) {
    ag_ctx *ag = ag_new(3);
    const ag_real x0[] = { 1, -2, 0.5f, 3 }, up[] = { 1, 2, 3, 4 };
    ag_real got[4];
    ag_tensor *w = ag_param(ag, 2, 2), *y;
    ag_randn(w, 1);
    y = ag_linear_gelu(ag_input(ag, x0, 2, 2), w, NULL);
    ag_keep_grad(y);
    ag_backward(ag_sum(ag_mul(y, ag_input(ag, up, 2, 2))));
    ag_get_grad(y, got);
    CHECK(!memcmp(got, up, sizeof got));
    ag_free(ag);
}

// In bfloat16, the forward and the backward pass see rounded operands, the reader's own tensors stay as they are.
static void products_in_bfloat16(void) {
    ag_ctx *ag = ag_new(3);
    const ag_real rounded[] = { 1.0078125f, -3, 0.5f, 100, 0.25f, 2 };
    const ag_real finer[] = { 1.009f, -3.004f, 0.5004f, 100.2f, 0.2501f, 2.004f };
    ag_real out[2][6], grad[2][6], first[2][4], kept[6];
    CHECK_INT(ag_matmul_precision(ag), AG_FLOAT32);
    CHECK_STR(ag_matmul_path(ag), "float32");
    for (int bf16 = 0; bf16 < 2; bf16++) {
        CHECK_INT(ag_set_matmul_precision(ag, bf16 ? AG_BF16 : AG_FLOAT32), 0);
        ag_tensor *w = ag_param(ag, 2, 3), *x = ag_param(ag, 2, 2);
        ag_set(w, bf16 ? finer : rounded);              // finer rounds to rounded
        ag_fill(x, bf16 ? 3.002f : 3);
        ag_tensor *y = ag_linear(x, w, NULL), *up = ag_input(ag, bf16 ? finer : rounded, 2, 3);
        ag_get(y, out[bf16]);
        ag_backward(ag_sum(ag_mul(y, up)));
        ag_get_grad(w, grad[bf16]), ag_get_grad(x, first[bf16]);
        ag_get(w, kept);
        CHECK(!memcmp(kept, bf16 ? finer : rounded, sizeof kept));
        ag_reset(ag);
    }
    CHECK(!memcmp(out[0], out[1], sizeof out[0]));
    CHECK(!memcmp(grad[0], grad[1], sizeof grad[0]));
    CHECK(!memcmp(first[0], first[1], sizeof first[0]));
    CHECK(!strncmp(ag_matmul_path(ag), "bf16/", 5));
    CHECK_INT(ag_set_matmul_precision(ag, 2), -1);
    CHECK_HAS(ag_error(ag), "2 is neither AG_FLOAT32 nor AG_BF16");
    CHECK_INT(ag_set_matmul_precision(ag, AG_FLOAT32), -1);             // not before the error is cleared
    ag_clear_error(ag);
    CHECK_INT(ag_matmul_precision(ag), AG_BF16);
    CHECK_INT(ag_set_matmul_precision(NULL, AG_BF16), -1);
    CHECK_STR(ag_matmul_path(NULL), "float32");
    ag_free(ag);
}

int main(int argc, char **argv) {
    T_BEGIN("core");
    if (system("mkdir -p build")) return 1;
    T_RUN(philox_known_answers);
    T_RUN(uniform_and_normal);
    T_RUN(streams_are_independent);
    T_RUN(no_malloc_after_the_second_step);
    T_RUN(a_dry_run_tells_the_memory);
    T_RUN(mark_and_rewind_leave_no_trace);
    T_RUN(a_rewind_takes_gradient_buffers_along);
    T_RUN(three_lives);
    T_RUN(wrong_calls_are_explained);
    T_RUN(the_first_error_stays);
    T_RUN(null_is_passed_on);
    T_RUN(a_bad_loss_is_traced_to_its_origin);
    T_RUN(a_bad_gradient_changes_nothing);
    T_RUN(many_parameters_have_one_norm);
    T_RUN(complete_gradients_are_told);
    T_RUN(a_parameter_can_be_the_loss);
    T_RUN(ids_are_copied);
    T_RUN(a_failing_device_is_an_error_like_any_other);
    T_RUN(every_malloc_fails_once_and_for_good);
    T_RUN(one_to_eight_threads_train_alike);
    T_RUN(two_contexts_in_two_threads);
    T_RUN(products_in_bfloat16);
    T_RUN(a_kept_gradient_is_left_alone);
    T_RUN(a_fork_goes_on_alone);
    T_RUN(environment_chooses_threads_and_kernels);
    T_RUN(optimizers_follow_their_formulas);
    T_RUN(muon_follows_its_formula);
    T_RUN(newton_schulz_makes_matrices_orthogonal);
    T_RUN(groups_freezing_and_missing_gradients);
    T_RUN(clipping);
    T_RUN(adam_leaves_no_denormals);
    T_RUN(half_an_allocator_and_fast_math_are_refused);
    T_RUN(two_files_and_cplusplus);
    T_RUN(die_on_error);
    T_RUN(no_globals_no_printing_no_exit);
    return T_END();
}
