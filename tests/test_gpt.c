// test_gpt.c - gpt.h: configurations, forward and backward against PyTorch's golden files, optimizers, schedules, data,
// evaluation, the KV cache against the full pass, sampling, beams, llama2.c's stories260K.
//
//     cc -O3 tests/test_gpt.c -o build/test_gpt -lm && build/test_gpt          (from the root of the repository)
//
// The golden files are made by tests/make_gpt_golden.py.
#define AUTOGRAD_IMPLEMENTATION
#include "../autograd.h"
#define GPT_IMPLEMENTATION
#include "../gpt.h"
#include "test.h"

#if defined(AG_NAIVE)
#define SLOW 1                              // the naive kernels: some tests take less of everything
#else
#define SLOW 0
#endif

// ---- helpers --------------------------------------------------------------------------------------------------------
static gpt_config tiny(int llama) {         // odd sizes, so that nothing is right by accident
    gpt_config c = gpt_preset(llama ? "nano-llama" : "nano");
    c.n_layer = 2, c.n_head = llama ? 4 : 3, c.n_kv_head = llama ? 2 : 3, c.n_embd = llama ? 32 : 24, c.n_ctx = 20,
        c.n_vocab = 37;
    c.n_hidden = llama ? 48 : 96;
    return c;
}

// Weights large enough that tokens differ clearly.
static gpt_model *lively(ag_ctx *ag, const gpt_config *c) {
    gpt_model *m = gpt_new(ag, c);
    for (int i = 0; m && i < ag_param_count(ag); i++) {
        ag_tensor *p = ag_param_get(ag, i);
        if (p->ndim == 2) ag_randn(p, 0.3f);
    }
    return m;
}

static int *numbers(int n, int V, uint64_t seed) {
    ag_rng r;
    int *x = (int *)malloc((size_t)n * sizeof *x);
    r.key = seed, r.counter = 0;
    for (int i = 0; i < n; i++) x[i] = (int)(ag_rng_u32(&r) % (unsigned)V);
    return x;
}

// A golden file by its own few lines: the loader of gpt.h is not asked about itself.
typedef struct golden { char *bytes; size_t size, data; } golden;
static int golden_open(golden *g, const char *path) {
    FILE *f = fopen(path, "rb");
    memset(g, 0, sizeof *g);
    if (!f) { T_FAIL("%s is missing", path); return 0; }
    fseek(f, 0, SEEK_END), g->size = (size_t)ftell(f), rewind(f);
    g->bytes = (char *)malloc(g->size + 1);
    g->size = fread(g->bytes, 1, g->size, f), g->bytes[g->size] = 0;
    fclose(f);
    uint64_t n;
    memcpy(&n, g->bytes, 8);
    g->data = 8 + (size_t)n;
    g->bytes[g->data - 1] = 0;                  // the header is searched as a string
    return 1;
}
static const float *golden_get(golden *g, const char *name, size_t *count) {
    char key[128];
    snprintf(key, sizeof key, "\"%s\":{", name);
    const char *at = strstr(g->bytes + 8, key), *off = at ? strstr(at, "\"data_offsets\":[") : NULL;
    unsigned long long b = 0, e = 0;
    if (!off || sscanf(off + 16, "%llu,%llu", &b, &e) != 2) { T_FAIL("no %s in the golden file",
                                                                     name); *count = 0; return NULL; }
    *count = (size_t)(e - b) / 4;
    return (const float *)(g->bytes + g->data + b);     // offsets are multiples of 4
}

static double relative(const ag_real *got, const float *want, size_t n) {
    double d = 0, w = 0;
    for (size_t i = 0; i < n; i++) d += (got[i] - (double)want[i]) * (got[i] - (double)want[i]),
        w += (double)want[i] * want[i];
    return sqrt(d) / (sqrt(w) + 1e-30);
}

// ---- configurations -------------------------------------------------------------------------------------------------
static void counts_parameters(void) {
    static const struct { const char *name; unsigned long count; } want[] = {
        { "nano", 809856 }, { "baby", 10770816 }, { "gpt2", 124439808 }, { "gpt2-medium", 354823168 },
        { "gpt2-large", 774030080 }, { "gpt2-xl", 1557611200 } };
    for (int i = 0; i < 6; i++) {
        gpt_config c = gpt_preset(want[i].name);
        if (i < 2) { CHECK_INT(gpt_count(&c), 0); c.n_vocab = 65; }
        CHECK_INT(gpt_count(&c), want[i].count);
        CHECK(strstr(gpt_presets(), want[i].name) != NULL);
    }
    gpt_config c = gpt_preset("nano");
    c.n_vocab = 65, c.bias = 0;                 // nanoGPT's own setting: 11 C fewer in a block, C at the end
    CHECK_INT(gpt_count(&c), 809856 - 4 * (11 * 128) - 128);
    c = gpt_preset("nano"), c.n_vocab = 65;
    ag_ctx *ag = ag_new(1);
    gpt_model *m = gpt_new(ag, &c);
    size_t sum = 0;
    for (int i = 0; i < ag_param_count(ag); i++) sum += ag_param_get(ag, i)->count;
    CHECK_INT(sum, 809856);
    gpt_free(m);
    ag_free(ag);
}

static void describes_itself(void) {
    char text[4096], part[20];
    gpt_config c = tiny(1);
    int n = gpt_describe(&c, text, sizeof text);
    CHECK_INT(n, strlen(text));
    CHECK_HAS(text, "h.0.attn.qkv.weight");
    CHECK_HAS(text, "head.weight");
    CHECK_INT(gpt_describe(&c, part, sizeof part), n);
    CHECK_INT(strlen(part), 19);
    CHECK(!strncmp(text, part, 19));
    CHECK_INT(gpt_describe(&c, NULL, 0), n);
}

// Each bad configuration is refused with words that name the field, and before memory is taken.
static void refuses_bad_configurations(void) {
    ag_ctx *ag = ag_new(1);
    size_t before = ag_memory_used(ag).mallocs;
#define BAD(change, word) do { \
        gpt_config c = tiny(0); change; CHECK(gpt_new(ag, &c) == NULL); CHECK_HAS(ag_error(ag), word); \
        CHECK_HAS(ag_error(ag), "test_gpt.c:"); CHECK_INT(gpt_count(&c), 0); ag_clear_error(ag); } while (0)
    BAD(c.n_vocab = 0, "n_vocab");
    BAD(c.n_vocab = -5, "n_vocab");
    BAD(c.n_embd = 25, "n_embd 25 is not a multiple of n_head");
    BAD(c.n_embd = 25, "would be");
    BAD(c.n_head = 0, "n_head");
    BAD(c.n_head = c.n_kv_head = 7, "n_head");
    BAD(c.n_layer = 1000000000, "n_layer");
    BAD(c.n_layer = -1, "n_layer");
    BAD(c.n_ctx = 0, "n_ctx");
    BAD(c.n_ctx = 2147483647, "n_ctx");
    BAD(c.n_hidden = 0, "n_hidden");
    BAD(c.n_embd = 2147483647, "n_embd");
    BAD(c.dropout = 1, "dropout");
    BAD(c.dropout = NAN, "dropout");
    BAD(c.norm_eps = 0, "norm_eps");
    BAD(c.n_kv_head = 1, "n_kv_head");
    BAD(c.shape = 7, "shape");
    BAD(c.norm = 3, "norm is 3");
    BAD(c.position = -1, "position is -1");
    BAD(c.mlp = 4, "mlp is 4");
    BAD(c.qk_norm = 1, "set qk_norm to 0, or position to GPT_ROTARY");
    BAD(c = tiny(1); c.position = GPT_LEARNED, "positions are learned");
    BAD(c = tiny(1); c.n_embd = 36; c.n_head = 4; c.n_kv_head = 2, "even");
    BAD(c = tiny(1); c.n_kv_head = 3, "n_kv_head");
    BAD(c = tiny(1); c.rope_theta = 0, "rope_theta");
    BAD(c = gpt_preset("nanno"), "there is no preset \"nanno\": choose one of nano|baby|gpt2");
    BAD(c = gpt_preset(NULL), "nano|baby|gpt2");
    CHECK(gpt_new(ag, NULL) == NULL);
    CHECK(gpt_new(NULL, NULL) == NULL);
    CHECK_INT(ag_memory_used(ag).mallocs, before);
    CHECK_INT(ag_memory_used(ag).params, 0);
    ag_free(ag);
}

static void initialises_as_gpt2(void) {
    ag_ctx *ag = ag_new(3);
    gpt_config c = gpt_preset("nano");
    c.n_vocab = 500;
    gpt_model *m = gpt_new(ag, &c);
    gpt_param p;
    for (int i = 0; gpt_param_at(&c, i, &p); i++) {
        ag_tensor *t = gpt_tensor(m, p.name);
        CHECK(t != NULL);
        if (!t) continue;
        CHECK_INT(t->count, p.count);
        CHECK_INT(t->decay, t->ndim == 2);
        ag_real *x = (ag_real *)malloc(t->count * sizeof *x);
        double sum = 0, squares = 0, n = (double)t->count;
        ag_get(t, x);
        for (size_t k = 0; k < t->count; k++) sum += x[k], squares += (double)x[k] * x[k];
        double want = t->ndim == 2 ? strstr(p.name, "c_proj") ? 0.02 / sqrt(8.0) : 0.02 : 0;
        if (t->ndim == 2) {
            CHECK_NEAR(sum / n, 0, 5 * want / sqrt(n));
            CHECK_NEAR(sqrt(squares / n) / want, 1, 4 / sqrt(2 * n));
        } else CHECK_NEAR(squares / n, strstr(p.name, "weight") ? 1 : 0, 0);
        free(x);
    }
    CHECK(gpt_tensor(m, "no.such.weight") == NULL);
    CHECK(gpt_tensor(m, "h.3.mlp.c_fc.bias") == m->layer[3].up_b);
    CHECK_INT(gpt_tensor(m, "h.0.attn.c_attn.weight")->group, GPT_GROUP_MATRIX);
    CHECK_INT(m->wte->group, GPT_GROUP_OTHER);
    CHECK_INT(m->wpe->group, GPT_GROUP_OTHER);
    gpt_free(m);
    ag_free(ag);
}

// ---- against PyTorch ------------------------------------------------------------------------------------------------
// The golden llama file has q, k, v and gate, up apart; here they lie side by side.
static int golden_param(golden *g, const char *kind, const char *name, int llama, ag_tensor *t, ag_real *out) {
    static const struct { const char *packed, *parts[3]; } packs[] = {
        { "attn.qkv.weight", { "attn.q", "attn.k", "attn.v" } }, { "mlp.gate_up.weight",
                                                                  { "mlp.gate", "mlp.up", NULL } } };
    char key[128], stem[64];
    size_t n;
    snprintf(stem, sizeof stem, "%s", name);
    for (int i = 0; llama && i < 2; i++) {
        char *at = strstr(stem, packs[i].packed);
        int rows = t->shape[0], width = t->shape[1], column = 0;
        if (!at) continue;
        *at = 0;
        for (int k = 0; k < 3 && packs[i].parts[k]; k++) {
            snprintf(key, sizeof key, "%s/%s%s", kind, stem, packs[i].parts[k]);
            const float *part = golden_get(g, key, &n);
            int cols = (int)n / rows;
            for (int r = 0; part && r < rows; r++)
                for (int j = 0; j < cols; j++) out[(size_t)r * width + column + j] = part[(size_t)r * cols + j];
            column += cols;
        }
        return column == width;
    }
    if (llama) {
        char *dot = strstr(stem, ".weight");
        if (dot) *dot = 0;
        if ((dot = strstr(stem, "attn.proj")) != NULL) strcpy(dot, "attn.o");
    }
    snprintf(key, sizeof key, "%s/%s", kind, stem);
    const float *x = golden_get(g, key, &n);
    for (size_t i = 0; x && i < n && i < t->count; i++) out[i] = x[i];
    return x && n == t->count;
}

static void golden_model(int llama) {
    golden g;
    gpt_config c = gpt_preset(llama ? "nano-llama" : "nano");
    gpt_param p;
    ag_ctx *ag = ag_new(1);
    gpt_optimizer o = gpt_adamw();
    size_t n, k;
    if (!golden_open(&g, llama ? "tests/golden/llama_tiny.bin" : "tests/golden/gpt2_tiny.bin")) { ag_free(ag); return; }
    c.n_layer = 2, c.n_ctx = 16, c.n_vocab = llama ? 41 : 37, c.n_head = llama ? 4 : 3, c.n_kv_head = llama ? 2 : 3;
    c.n_embd = llama ? 32 : 24, c.n_hidden = llama ? 48 : 96;
    gpt_model *m = gpt_new(ag, &c);
    ag_real *want = (ag_real *)malloc((size_t)1 << 16), *got = (ag_real *)malloc((size_t)1 << 16);
    float *wf = (float *)malloc((size_t)1 << 16);
    for (int i = 0; gpt_param_at(&c, i, &p); i++) {
        ag_tensor *t = gpt_tensor(m, p.name);
        CHECK(golden_param(&g, "param", p.name, llama, t, want));
        ag_set(t, want);
    }
    const int *ids = (const int *)(const void *)golden_get(&g, "ids", &n),
        *targets = (const int *)(const void *)golden_get(&g, "targets", &n);
    const float *losses = golden_get(&g, "losses", &k), *logits = golden_get(&g, "logits", &k);
    o.lr = 1e-3, o.beta2 = 0.95, o.clip = 0;
    for (int step = 0; ids && losses && step <= 10; step++) {
        ag_tensor *y = gpt_forward(m, ids, 2, 13), *loss = ag_cross_entropy(y, targets, NULL);
        CHECK_NEAR(ag_item(loss), losses[step], 2e-6 * losses[step]);
        if (step == 10) break;
        if (step == 0) {
            ag_real *all = (ag_real *)malloc(y->count * sizeof *all);
            ag_get(y, all);
            CHECK_INT(y->count, k);
            CHECK(relative(all, logits, k) <= 1e-5);
            free(all);
        }
        ag_backward(loss);
        for (int i = 0; step == 0 && gpt_param_at(&c, i, &p); i++) {
            ag_tensor *t = gpt_tensor(m, p.name);
            CHECK(golden_param(&g, "grad", p.name, llama, t, want));
            ag_get_grad(t, got);
            for (size_t j = 0; j < t->count; j++) wf[j] = (float)want[j];
            double e = relative(got, wf, t->count);
            if (e > 1e-5) T_FAIL("gradient of %s: relative L2 %.2g", p.name, e);
        }
        CHECK_INT(gpt_step(m, &o, 1, NULL), 0);
        ag_reset(ag);
    }
    for (int i = 0; gpt_param_at(&c, i, &p); i++) {
        ag_tensor *t = gpt_tensor(m, p.name);
        CHECK(golden_param(&g, "after", p.name, llama, t, want));
        ag_get(t, got);
        size_t C = (size_t)c.n_embd, count = t->count;
        if (strstr(p.name, "c_attn.bias")) {    // a bias on all keys has no gradient: AdamW makes steps of its noise
            for (size_t j = C; j < 2 * C; j++) CHECK_NEAR(got[j], want[j], 0.021);
            memmove(got + C, got + 2 * C, C * sizeof *got), memmove(want + C, want + 2 * C, C * sizeof *want),
                count = 2 * C;
        }
        for (size_t j = 0; j < count; j++) wf[j] = (float)want[j];
        double e = relative(got, wf, count);
        if (e > 1e-5) T_FAIL("%s after ten steps of AdamW: relative L2 %.2g", p.name, e);
    }
    CHECK(!ag_error(ag));
    free(want), free(got), free(wf), free(g.bytes);
    gpt_free(m);
    ag_free(ag);
}
static void golden_gpt2(void) { golden_model(0); }
static void golden_llama(void) { golden_model(1); }

static void golden_muon(void) {
    static const char *const ns[] = { "square", "wide", "tall", "row", "column" };
    static const int ns_size[][2] = { { 24, 24 }, { 17, 40 }, { 40, 17 }, { 1, 9 }, { 9, 1 } };
    static const int muon_size[][2] = { { 16, 16 }, { 13, 29 }, { 29, 13 } };
    golden g;
    size_t n;
    char key[64];
    ag_ctx *ag = ag_new(1);
    ag_real a[2048], b[2048];
    if (!golden_open(&g, "tests/golden/muon.bin")) { ag_free(ag); return; }
    for (int i = 0; i < 5; i++) {
        snprintf(key, sizeof key, "ns/%s/x", ns[i]);
        const float *x = golden_get(&g, key, &n);
        snprintf(key, sizeof key, "ns/%s/y", ns[i]);
        const float *y = golden_get(&g, key, &n);
        ag_tensor *in = ag_state(ag, ns_size[i][0], ns_size[i][1]), *out = ag_state(ag, ns_size[i][0], ns_size[i][1]);
        for (size_t j = 0; j < n; j++) a[j] = x[j];
        ag_set(in, a);
        CHECK_INT(ag_newton_schulz(ag, out->data, in->data, ns_size[i][0], ns_size[i][1], 5), 0);
        ag_get(out, b);
        double e = relative(b, y, n);
        if (e > 1e-5) T_FAIL("Newton-Schulz, %s: relative L2 %.2g", ns[i], e);
    }
    for (int i = 0; i < 3; i++) {
        ag_ctx *one = ag_new(1);
        ag_tensor *p = ag_param(one, muon_size[i][0], muon_size[i][1]);
        snprintf(key, sizeof key, "muon/%s/param", ns[i]);
        const float *x = golden_get(&g, key, &n);
        for (size_t j = 0; j < n; j++) a[j] = x[j];
        ag_set(p, a);
        for (int step = 0; step < 3; step++) {
            snprintf(key, sizeof key, "muon/%s/grad%d", ns[i], step);
            x = golden_get(&g, key, &n);
            for (size_t j = 0; j < n; j++) a[j] = x[j];
            ag_backward(ag_sum(ag_mul(p, ag_input(one, a, muon_size[i][0], muon_size[i][1]))));    // the gradient is a
            CHECK_INT(ag_muon_group(one, AG_ALL_GROUPS, 0.02, 0.95, 0), 0);
            ag_zero_grad(one), ag_reset(one);
            snprintf(key, sizeof key, "muon/%s/after%d", ns[i], step);
            x = golden_get(&g, key, &n);
            ag_get(p, b);
            double e = relative(b, x, n);
            if (e > 1e-5) T_FAIL("Muon, %s, step %d: relative L2 %.2g", ns[i], step, e);
        }
        ag_free(one);
    }
    free(g.bytes);
    ag_free(ag);
}

// ---- learning -------------------------------------------------------------------------------------------------------
static void learns(void) {
    for (int k = 0; k < 3; k++) {
        ag_ctx *ag = ag_new(5);
        gpt_config c = tiny(k > 0);
        gpt_model *m = gpt_new(ag, &c);
        gpt_optimizer o = k == 2 ? gpt_muon() : gpt_adamw();
        int x[4 * 20], y[4 * 20], text[600];
        for (int i = 0; i < 600; i++) text[i] = (i * i % 7) * 5 + i % 2;
        gpt_loader l = gpt_loader_new(ag, text, 600, GPT_RANDOM);
        double first = 0, last = 0, norm = 0;
        size_t mallocs = 0;
        o.lr = 1e-2, o.lr_muon = 0.02;
        for (int step = 0; step < 60; step++) {
            CHECK_INT(gpt_next(&l, 4, 20, x, y), 0);
            ag_tensor *loss = ag_cross_entropy(gpt_forward(m, x, 4, 20), y, NULL);
            ag_backward(loss);
            last = ag_item(loss);
            CHECK_INT(gpt_step(m, &o, gpt_lr_cosine(step, 5, 60, 0.1), &norm), 0);
            CHECK(norm > 0 && norm < 1e4);
            ag_reset(ag);
            if (step == 0) first = last;
            if (step == 2) mallocs = ag_memory_used(ag).mallocs;
        }
        CHECK_NEAR(first, log(37.0), 0.2);
        if (!(last < 1.2)) T_FAIL("model %d: loss %g after 60 steps", k, last);
        CHECK_INT(ag_memory_used(ag).mallocs, mallocs);         // from the third step on nothing is allocated
        gpt_free(m);
        ag_free(ag);
    }
}

// Two half batches, each loss divided by two, give the gradient of the whole batch.
static void accumulates(void) {
    ag_ctx *ag = ag_new(2);
    gpt_config c = tiny(1);
    gpt_model *m = lively(ag, &c);
    int *x = numbers(80, 37, 1), *y = numbers(80, 37, 2);
    ag_real *whole = (ag_real *)malloc(m->layer[0].up->count * sizeof *whole),
        *parts = (ag_real *)malloc(m->layer[0].up->count * sizeof *parts);
    ag_backward(ag_cross_entropy(gpt_forward(m, x, 4, 20), y, NULL));
    ag_get_grad(m->layer[0].up, whole);
    double norm = ag_grad_norm(ag);
    ag_zero_grad(ag), ag_reset(ag);
    for (int half = 0; half < 2; half++) {
        ag_backward(ag_scale(ag_cross_entropy(gpt_forward(m, x + 40 * half, 2, 20), y + 40 * half, NULL), 0.5));
        ag_reset(ag);
    }
    ag_get_grad(m->layer[0].up, parts);
    CHECK_NEAR(ag_grad_norm(ag), norm, 1e-5 * norm);
    for (size_t i = 0; i < m->layer[0].up->count; i++) CHECK_NEAR(parts[i], whole[i], 1e-6);
    free(x), free(y), free(whole), free(parts);
    gpt_free(m);
    ag_free(ag);
}

static void clips(void) {
    ag_ctx *ag = ag_new(2);
    gpt_config c = tiny(0);
    gpt_model *m = lively(ag, &c);
    int *x = numbers(40, 37, 1), *y = numbers(40, 37, 2);
    gpt_optimizer o = gpt_adamw();
    double norm, unclipped;
    ag_real w[4], clipped[4];
    o.clip = 0, o.lr = 0;
    ag_backward(ag_cross_entropy(gpt_forward(m, x, 2, 20), y, NULL));
    CHECK_INT(gpt_step(m, &o, 1, &unclipped), 0);
    ag_reset(ag);
    // AdamW's step does not depend on the scale of the gradient, its first moment does.
    o.clip = unclipped / 4;
    ag_get_part(m->wte, 0, 4, w);
    ag_backward(ag_cross_entropy(gpt_forward(m, x, 2, 20), y, NULL));
    ag_real *before = (ag_real *)malloc(m->wte->count * sizeof *before),
        *after = (ag_real *)malloc(m->wte->count * sizeof *after);
    ag_tensor view = *m->wte;
    view.data = m->wte->m;
    ag_get(&view, before);
    CHECK_INT(gpt_step(m, &o, 1, &norm), 0);
    ag_get(&view, after);
    CHECK_NEAR(norm, unclipped, 1e-6 * norm);
    for (size_t i = 0; i < m->wte->count; i++) CHECK_NEAR(after[i], 0.9 * before[i] + 0.25 * before[i],
                                                          1e-5 * fabs((double)before[i]) + 1e-9);
    ag_get_part(m->wte, 0, 4, clipped);
    CHECK(!memcmp(w, clipped, sizeof w));       // a rate of 0 changes nothing
    free(x), free(y), free(before), free(after);
    gpt_free(m);
    ag_free(ag);
}

// A bad number anywhere stops the step before any parameter changes, and its tensor is named.
static void stops_at_nan(void) {
    for (int kind = GPT_ADAMW; kind <= GPT_MUON; kind++) {
        ag_ctx *ag = ag_new(2);
        gpt_config c = tiny(1);
        gpt_model *m = lively(ag, &c);
        int *x = numbers(40, 37, 1), *y = numbers(40, 37, 2);
        gpt_optimizer o = kind == GPT_MUON ? gpt_muon() : gpt_adamw();
        ag_real before[3][64], after[3][64], bad = (ag_real)NAN, good;
        double norm = 0;
        ag_tensor *watch[3];
        watch[0] = m->wte, watch[1] = m->layer[1].up, watch[2] = m->head;
        ag_backward(ag_cross_entropy(gpt_forward(m, x, 2, 20), y, NULL));
        ag_tensor view = *m->layer[1].down;
        view.data = view.grad;
        ag_get_part(&view, 5, 1, &good);
        ag_set_part(&view, 5, 1, &bad);
        for (int i = 0; i < 3; i++) ag_get_part(watch[i], 0, 64, before[i]);
        CHECK_INT(gpt_step(m, &o, 1, &norm), -1);
        CHECK(norm != norm);
        CHECK_HAS(ag_error(ag), "h.1.mlp.down.weight");
        CHECK_HAS(ag_error(ag), "test_gpt.c:");
        ag_clear_error(ag);
        for (int i = 0; i < 3; i++) ag_get_part(watch[i], 0, 64, after[i]);
        CHECK(!memcmp(before, after, sizeof before));
        ag_zero_grad(ag), ag_reset(ag);
        ag_get_part(m->layer[0].norm_2, 3, 1, &good);           // a NaN among the weights: backward stops
        ag_set_part(m->layer[0].norm_2, 3, 1, &bad);
        CHECK_INT(ag_backward(ag_cross_entropy(gpt_forward(m, x, 2, 20), y, NULL)), -1);
        CHECK_INT(gpt_step(m, &o, 1, &norm), -1);
        CHECK(ag_error(ag) != NULL);
        ag_clear_error(ag), ag_zero_grad(ag), ag_reset(ag);
        ag_set_part(m->layer[0].norm_2, 3, 1, &good);
        CHECK_INT(ag_backward(ag_cross_entropy(gpt_forward(m, x, 2, 20), y, NULL)), 0);
        CHECK_INT(gpt_step(m, &o, 1e30, &norm) | 1, 1);         // a huge rate is a number like any other ...
        ag_clear_error(ag);
        CHECK_INT(gpt_step(m, &o, INFINITY, &norm), -1);        // ... an infinite one is not
        CHECK_HAS(ag_error(ag), "lr_factor is inf, wanted a finite number");
        free(x), free(y);
        gpt_free(m);
        ag_free(ag);
    }
}

// Frozen parameters stay; those of another group are stepped by the other optimizer.
static void steps_groups(void) {
    ag_ctx *ag = ag_new(2);
    gpt_config c = tiny(0);
    gpt_model *m = lively(ag, &c);
    int *x = numbers(40, 37, 1), *y = numbers(40, 37, 2);
    gpt_optimizer o = gpt_muon();
    ag_real before[64], after[64];
    ag_trainable(m->layer[0].qkv, 0);
    ag_get_part(m->layer[0].qkv, 0, 64, before);
    ag_backward(ag_cross_entropy(gpt_forward(m, x, 2, 20), y, NULL));
    CHECK_INT(gpt_step(m, &o, 1, NULL), 0);
    ag_get_part(m->layer[0].qkv, 0, 64, after);
    CHECK(!memcmp(before, after, sizeof before));
    CHECK(m->layer[0].qkv->m == NULL);
    CHECK(m->layer[1].qkv->m != NULL && m->layer[1].qkv->v == NULL);    // Muon has one moment
    CHECK(m->wte->v != NULL && m->wpe->v != NULL && m->layer[0].qkv_b->v != NULL && m->norm_f->v != NULL);
    CHECK_INT(m->layer[1].up->steps, 1);
    CHECK_INT(m->wte->steps, 1);
    free(x), free(y);
    gpt_free(m);
    ag_free(ag);
}

static void schedules(void) {
    CHECK_NEAR(gpt_lr_cosine(0, 9, 100, 0.1), 0.1, 1e-15);
    CHECK_NEAR(gpt_lr_cosine(8, 9, 100, 0.1), 0.9, 1e-15);
    CHECK_NEAR(gpt_lr_cosine(9, 9, 100, 0.1), 1, 1e-15);
    for (long s = 9; s <= 100; s++)
        CHECK_NEAR(gpt_lr_cosine(s, 9, 100, 0.1), 0.1 + 0.45 * (1 + cos(3.14159265358979323846 * (double)(s - 9) / 91)),
                   1e-14);
    CHECK_NEAR(gpt_lr_cosine(500, 9, 100, 0.1), 0.1, 0);
    CHECK_NEAR(gpt_lr_cosine(0, 0, 10, 0), 1, 1e-15);
    CHECK_NEAR(gpt_lr_linear(0, 20, 300, 0.7), 1.0 / 21, 1e-15);
    CHECK_NEAR(gpt_lr_linear(20, 20, 300, 0.7), 1, 0);
    CHECK_NEAR(gpt_lr_linear(90, 20, 300, 0.7), 1, 1e-12);
    CHECK_NEAR(gpt_lr_linear(195, 20, 300, 0.7), 0.5, 1e-12);
    CHECK_NEAR(gpt_lr_linear(300, 20, 300, 0.7), 0, 0);
    CHECK_NEAR(gpt_lr_linear(900, 20, 300, 0.7), 0, 0);
    CHECK_NEAR(gpt_lr_linear(299, 0, 300, 0), 1, 0);
}

// ---- parts ----------------------------------------------------------------------------------------------------------
static int go_on(void *user, int row, int id) { return *(int *)user = row + 0 * id; }

// Every mixture of the two shapes' parts (tests/torch_live.py compares their numbers): what the cache gives is what a
// forward pass gives, and the file knows the parts.
static void mixes_parts(void) {
    for (int i = 0; i < 48; i++) {
        ag_ctx *ag = ag_new(5), *other = ag_new(6);
        gpt_config c = tiny(i % 2);
        c.norm = 1 + i / 2 % 2, c.position = 1 + i / 4 % 2, c.mlp = 1 + i / 8 % 3, c.tied = i / 24;
        c.qk_norm = c.position == GPT_ROTARY && i / 16 % 2;
        gpt_model *m = lively(ag, &c), *back;
        gpt_sampling how = {0, 0, 0, 0, NULL, 0};
        gpt_state state;
        memset(&state, 0, sizeof state);
        int ids[13] = {3}, row;
        ag_real one[13 * 37], two[13 * 37];
        CHECK_INT(gpt_generate(m, &how, ids, 1, ids + 1, 12, go_on, &row), 12);
        ag_get(gpt_forward(m, ids, 1, 13), one);
        for (int t = 0; t < 12; t++) {
            int best = 0;
            for (int v = 1; v < 37; v++) if (one[37 * t + v] > one[37 * t + best]) best = v;
            CHECK_INT(ids[t + 1], best);
        }
        CHECK_INT(gpt_save(m, "build/parts.safetensors", &state), 0);
        back = gpt_resume(other, "build/parts.safetensors", &state);
        CHECK(back != NULL && !memcmp(&back->config, &m->config, sizeof c));
        if (back) ag_get(gpt_forward(back, ids, 1, 13), two);
        CHECK(back && !memcmp(one, two, sizeof one));
        CHECK((m->config.norm == 0) == (c.norm == 1 + i % 2) && (m->config.mlp == 0) == (c.mlp == 1 + i % 2));
        CHECK((m->config.position == 0) == (c.position == 1 + i % 2));
        gpt_state_free(&state);
        gpt_free(m), gpt_free(back), ag_free(ag), ag_free(other);
    }
    remove("build/parts.safetensors");
}

// ---- data -----------------------------------------------------------------------------------------------------------
static void loads_windows(void) {
    ag_ctx *ag = ag_new(8);
    int text[100], x[3 * 7], y[3 * 7], seen[93] = {0};
    for (int i = 0; i < 100; i++) text[i] = i;
    gpt_loader l = gpt_loader_new(ag, text, 100, GPT_RANDOM);
    for (int k = 0; k < 2000; k++) {
        gpt_next(&l, 3, 7, x, y);
        for (int i = 0; i < 21; i++) CHECK(y[i] == x[i] + 1 && (i % 7 == 0 || x[i] == x[i - 1] + 1));
        for (int b = 0; b < 3; b++) seen[x[7 * b]]++;
    }
    for (int i = 0; i < 93; i++) CHECK(seen[i] > 25 && seen[i] < 115);      // 64.5 each, deviation 8; the last too
    CHECK_INT(l.cursor, 6000);
    l = gpt_loader_new(ag, text, 100, GPT_SEQUENTIAL);
    for (int k = 0; k < 14; k++) {
        gpt_next(&l, 1, 7, x, y);
        CHECK_INT(x[0], 7 * k);
        CHECK_INT(y[6], 7 * k + 7);
    }
    gpt_next(&l, 1, 7, x, y);                   // 98, 99 are left: too few, so from the start
    CHECK_INT(x[0], 0);
    CHECK_INT(gpt_next(&l, 1, 99, x, NULL), -1);
    ag_clear_error(ag);
    int big[100], target[100];
    l = gpt_loader_new(ag, text, 100, GPT_RANDOM);
    CHECK_INT(gpt_next(&l, 1, 99, big, target), 0);             // exactly one window fits
    CHECK_INT(big[0], 0);
    CHECK_INT(target[98], 99);
    CHECK_INT(gpt_next(&l, 1, 100, big, target), -1);
    CHECK_HAS(ag_error(ag), "needs 101 tokens");
    ag_clear_error(ag);
    l = gpt_loader_new(ag, text, 1, GPT_RANDOM);
    CHECK_HAS(ag_error(ag), "nothing to predict");
    ag_clear_error(ag);
    CHECK_INT(gpt_next(NULL, 1, 1, x, y), -1);
    ag_free(ag);
}

static void shuffles_windows(void) {
    ag_ctx *ag = ag_new(8);
    int text[100], x[7], y[7], first[40], same = 0, in_order = 0;
    for (int i = 0; i < 100; i++) text[i] = i;
    gpt_loader l = gpt_loader_new(ag, text, 100, GPT_SHUFFLED), again = l;
    for (int epoch = 0; epoch < 40; epoch++) {              // 13 windows of 7, wherever the first one begins
        int seen[100] = {0}, before = -1;
        for (int k = 0; k < 13; k++) {
            gpt_next(&l, 1, 7, x, y);
            for (int i = 0; i < 7; i++) CHECK(y[i] == x[i] + 1 && !seen[x[i]]++ && x[i] == x[0] + i);
            in_order += x[0] == before + 7, before = x[0];
            if (k == 0) same += epoch && x[0] == first[epoch - 1], first[epoch] = x[0];
        }
    }
    CHECK(same < 10);                                       // an order of its own in each epoch, 1 of 93 by chance
    CHECK(in_order < 120);                                  // 1 of 13 by chance
    CHECK_INT(l.cursor, 40 * 13);
    again.cursor = 39 * 13;                                 // the cursor is the whole state
    gpt_next(&again, 1, 7, x, y);
    CHECK_INT(x[0], first[39]);
    ag_ctx *next = ag_new(9);                               // the next seed's order is not the next epoch's
    int other = 0, z[7];
    gpt_loader mine = gpt_loader_new(ag, text, 100, GPT_SHUFFLED), its = gpt_loader_new(next, text, 100, GPT_SHUFFLED);
    for (mine.cursor = 13; its.cursor < 13; other += x[0] != z[0])
        gpt_next(&mine, 1, 7, x, y), gpt_next(&its, 1, 7, z, y);
    CHECK(other > 6);
    ag_free(next);
    l = gpt_loader_new(ag, text, 10, GPT_SHUFFLED);         // shorter than two windows
    for (int k = 0; k < 20; k++) {
        CHECK_INT(gpt_next(&l, 1, 7, x, y), 0);
        CHECK(x[0] >= 0 && x[0] < 3);
    }
    ag_free(ag);
}

// Tokens that count upwards show where a passage begins again, and how long it is.
static void data_repeats(void) {
    enum { T = 64, WINDOWS = 2000 };
    ag_ctx *ag = ag_new(9);
    int text[1000], x[T], y[T], with = 0, lengths[T + 1] = {0}, copies = 0, last = 0;
    for (int i = 0; i < 1000; i++) text[i] = i;
    gpt_loader l = gpt_loader_new(ag, text, 1000, GPT_RANDOM);
    l.repeats = 0.3;
    for (int k = 0; k < WINDOWS; k++) {
        int n = 0;
        gpt_next(&l, 1, T, x, y);
        for (int i = 0; i <= T; i++) {
            int token = i < T ? x[i] : y[T - 1], back = x[0] + i - token;       // so far before its place in the text
            if (i > 0 && i < T) CHECK_INT(y[i - 1], x[i]);
            if (back && !n) n = back, lengths[n < T ? n : T]++;                 // the first passage, a second time
            CHECK(back >= 0 && back < T);
            if (n && i < 2 * n) CHECK_INT(back, i < n ? 0 : n);
            copies += back > 0, last += i == T && back > 0;
        }
        with += n > 0;
    }
    CHECK(with > 500 && with < 700);                        // 600, deviation 20
    CHECK(copies > with * T * 4 / 10 && copies < with * T * 8 / 10 && last > with / 3);
    for (int i = 0; i <= T; i++) CHECK(i >= 4 && i <= T / 2 ? 1 : !lengths[i]);
    CHECK(lengths[4] > 4 * lengths[20]);                    // short ones more often
    int one[1], next[1];
    l.repeats = 1;
    for (int k = 0; k < 100; k++) {                         // a window of one token has no room for it
        CHECK_INT(gpt_next(&l, 1, 1, one, next), 0);
        CHECK_INT(next[0], one[0] + 1);
    }
    ag_free(ag);
}

// The mean over all windows, in any batch size, is what one gets by hand, and nothing is left behind.
static void evaluates(void) {
    for (int llama = 0; llama < 2; llama++) {
        ag_ctx *ag = ag_new(2);
        gpt_config c = tiny(llama);
        c.dropout = 0.5;
        gpt_model *m = lively(ag, &c);
        int n = 20 * 7 + 6, *text = numbers(n, 37, 4);
        double sum = 0, one = gpt_eval(m, text, (size_t)n, 1);
        size_t tape = ag_memory_used(ag).tape;
        uint64_t drawn = ag_stream(ag, AG_RNG_DROPOUT)->counter;
        for (int B = 2; B < 12; B++) {
            double b = gpt_eval(m, text, (size_t)n, B);
            CHECK(!memcmp(&b, &one, sizeof b));
        }
        CHECK_INT(ag_memory_used(ag).tape, tape);
        CHECK_INT(ag_stream(ag, AG_RNG_DROPOUT)->counter, drawn);
        CHECK_INT(gpt_train(m, 0), 1);
        for (int at = 0; at + 1 < n; at += 20) {
            int T = at + 20 < n ? 20 : n - 1 - at;
            sum += ag_item(ag_cross_entropy(gpt_forward(m, text + at, 1, T), text + at + 1, NULL)) * T;
            ag_reset(ag);
        }
        CHECK_NEAR(one, sum / (n - 1), 1e-6 * one);
        CHECK_NEAR(gpt_eval(m, text, 2, 4), ag_item(ag_cross_entropy(gpt_forward(m, text, 1, 1), text + 1, NULL)),
                   1e-6);
        CHECK(gpt_eval(m, text, 1, 4) != gpt_eval(m, text, 1, 4));
        CHECK_HAS(ag_error(ag), "at least two tokens");
        free(text);
        gpt_free(m);
        ag_free(ag);
    }
}

static void drops_only_while_training(void) {
    ag_ctx *ag = ag_new(2);
    gpt_config c = tiny(0);
    c.dropout = 0.3;
    gpt_model *m = lively(ag, &c);
    int *x = numbers(20, 37, 4);
    ag_real a[20 * 37], b[20 * 37], d[20 * 37];
    ag_get(gpt_forward(m, x, 1, 20), a);
    ag_get(gpt_forward(m, x, 1, 20), b);
    CHECK(memcmp(a, b, sizeof a) != 0);
    CHECK_INT(gpt_train(m, 0), 1);
    ag_get(gpt_forward(m, x, 1, 20), a);
    ag_get(gpt_forward(m, x, 1, 20), b);
    CHECK(!memcmp(a, b, sizeof a));
    m->config.dropout = 0, gpt_train(m, 1);
    ag_get(gpt_forward(m, x, 1, 20), d);
    CHECK(!memcmp(a, d, sizeof a));
    free(x);
    gpt_free(m);
    ag_free(ag);
}

// Same seed, same bits, for any number of threads.
static void threads_do_not_matter(void) {
    static const int threads[] = { 1, 2, 3, 4, 8 };
    ag_real *first = NULL;
    int steps = SLOW ? 1 : 3;
    for (int k = 0; k < 5; k++) {
        ag_ctx *ag = ag_new_with(7, ag_cpu_backend(NULL, threads[k]));
        gpt_config c = gpt_preset("nano-llama");
        c.n_vocab = 65, c.n_layer = 2;
        gpt_model *m = gpt_new(ag, &c);
        gpt_optimizer o = gpt_muon();
        int *x = numbers(6 * 64, 65, 1), *y = numbers(6 * 64, 65, 2);
        for (int step = 0; step < steps; step++) {
            ag_backward(ag_cross_entropy(gpt_forward(m, x, 6, 64), y, NULL));
            CHECK_INT(gpt_step(m, &o, 1, NULL), 0);
            ag_reset(ag);
        }
        size_t n = m->layer[1].up->count, head = m->head->count;
        ag_real *w = (ag_real *)malloc((n + head) * sizeof *w);
        ag_get(m->layer[1].up, w), ag_get(m->head, w + n);
        if (!first) first = w;
        else { CHECK(!memcmp(w, first, (n + head) * sizeof *w)); free(w); }
        free(x), free(y);
        gpt_free(m);
        ag_free(ag);
    }
    free(first);
}

static void predicts_memory(void) {
    static const struct { const char *preset; int B, T, layers, kind; double dropout; } cases[] = {
        { "nano", 4, 64, 2, GPT_ADAMW, 0 }, { "nano", 3, 64, 2, GPT_ADAMW, 0.2 },
            { "nano-llama", 2, 64, 1, GPT_MUON, 0 },
        { "nano-llama", 8, 48, 2, GPT_ADAMW, 0 }, { "nano", 12, 64, 4, GPT_ADAMW, 0 },
            { "nano-llama", 12, 64, 4, GPT_MUON, 0 }, { "small", 2, 256, 2, GPT_MUON, 0 },
                { "baby", 2, 256, 2, GPT_ADAMW, 0 } };
    for (int i = 0; i < (SLOW ? 3 : 8); i++) {
        ag_ctx *ag = ag_new(1);
        gpt_config c = gpt_preset(cases[i].preset);
        c.n_vocab = 65, c.n_layer = cases[i].layers, c.dropout = cases[i].dropout, c.recompute = i % 3 == 1;
        gpt_model *m = gpt_new(ag, &c);
        int n = cases[i].B * cases[i].T, *x = numbers(n, 65, 1);
        gpt_optimizer o = cases[i].kind == GPT_MUON ? gpt_muon() : gpt_adamw();
        ag_backward(ag_cross_entropy(gpt_forward(m, x, cases[i].B, cases[i].T), x, NULL));
        gpt_step(m, &o, 1, NULL);
        gpt_memory want = gpt_memory_needed(&c, cases[i].B, cases[i].T, cases[i].kind);
        ag_memory got = ag_memory_used(ag);
        CHECK_INT(want.params + want.grads, got.params);                    // to the byte
        CHECK_INT(want.optimizer, got.state);
        CHECK_INT(want.activations, got.tape_peak);
        CHECK_INT(want.total, want.params + want.grads + want.optimizer + want.activations);
        gpt_cache *k = gpt_cache_new(m, cases[i].B);
        CHECK_INT(want.kv_cache, ag_memory_used(ag).state - got.state);
        gpt_cache_free(k);
        free(x);
        gpt_free(m);
        ag_free(ag);
    }
}

// config.recompute: less memory, and parameters that have the same bits after three steps.
static void recomputes(void) {
    for (int i = 0; i < 8; i++) {
        ag_real *after[2];
        size_t peak[2], n = 0;
        for (int on = 0; on < 2; on++) {
            ag_ctx *ag = ag_new(5);
            gpt_config c = tiny(i % 2);
            c.dropout = i / 2 % 2 * 0.1, c.lora_rank = i / 4 * 3, c.lora_alpha = 6, c.recompute = on;
            c.mlp = i == 2 ? GPT_RELU2 : 0;
            gpt_model *m = lively(ag, &c);
            gpt_optimizer o = gpt_adamw();
            int *x = numbers(80, 37, 1), *y = numbers(80, 37, 2);
            for (int step = 0; step < 3; step++) {
                CHECK(ag_backward(ag_cross_entropy(gpt_forward(m, x, 4, 20), y, NULL)) == 0);
                gpt_step(m, &o, 1, NULL), ag_reset(ag);
            }
            peak[on] = ag_memory_used(ag).tape_peak, n = 0;
            after[on] = (ag_real *)calloc(gpt_count(&c), sizeof **after);
            for (int k = 0; k < ag_param_count(ag); n += ag_param_get(ag, k++)->count)
                ag_get(ag_param_get(ag, k), after[on] + n);
            free(x), free(y), gpt_free(m), ag_free(ag);
        }
        CHECK(!memcmp(after[0], after[1], n * sizeof **after));
        if (!(peak[1] < (i < 4 ? 0.9 : 0.95) * (double)peak[0]))
            T_FAIL("model %d: %zu bytes, %zu without", i, peak[1], peak[0]);
        free(after[0]), free(after[1]);
    }
}

// ---- generation -----------------------------------------------------------------------------------------------------
// Whatever way a text is fed, in pieces, beside other rows, padded: the scores have the bits of the full forward pass.
static void cache_equals_full_pass(void) {
    for (int llama = 0; llama < 3; llama++) {
        ag_ctx *ag = ag_new(4);
        gpt_config c = llama == 2 ? gpt_preset("nano-llama") : tiny(llama);
        if (llama == 2) c.n_vocab = 37, c.n_layer = 2, c.n_kv_head = 1;
        int T = c.n_ctx, V = c.n_vocab, rows = 3, *text = numbers(rows * T, V, 9);
        gpt_model *m = lively(ag, &c);
        ag_real *full = (ag_real *)malloc((size_t)rows * T * V * sizeof *full),
            *got = (ag_real *)malloc((size_t)rows * V * sizeof *got);
        ag_get(gpt_forward(m, text, rows, T), full);
        ag_reset(ag);
        for (int way = 0; way < 6; way++) {
            gpt_cache *k = gpt_cache_new(m, rows);
            int at[3] = {0, 0, 0}, len[3], *ids = (int *)malloc((size_t)rows * T * sizeof *ids), more = 1;
            uint64_t turn = (uint64_t)way * 77;
            for (int step = 0; more; step++) {
                int widest = 0;
                more = 0;
                for (int b = 0; b < rows; b++) {
                    int left = T - at[b], want;
                    ag_rng r;
                    r.key = turn, r.counter = (uint64_t)(4 * (step * rows + b));
                    want = way == 0 ? 1 : way == 1 ? T : way == 2 ? (step ? 1 : 3 + 5 * b)
                        : (int)(ag_rng_u32(&r) % (way == 3 ? 3u : 8u));
                    len[b] = want < left ? want : left;
                    if (len[b] > widest) widest = len[b];
                    more |= left > 0;
                }
                if (!more) break;
                if (!widest) continue;
                for (int b = 0; b < rows; b++)
                    for (int t = 0; t < widest; t++) ids[b * widest + t] = t < len[b] ? text[b * T + at[b] + t]
                        : -12345;
                for (int i = 0; i < rows * V; i++) got[i] = -7;
                CHECK_INT(gpt_feed(k, ids, widest, len, got), 0);
                for (int b = 0; b < rows; b++) {
                    at[b] += len[b];
                    CHECK_INT(gpt_cache_length(k, b), at[b]);
                    if (len[b]) {
                        if (memcmp(got + b * V, full + ((size_t)b * T + at[b] - 1) * V, (size_t)V * sizeof *got))
                            T_FAIL("shape %d, way %d, row %d, position %d differs", llama, way, b, at[b] - 1);
                    } else CHECK(got[b * V] == -7);
                }
            }
            for (int b = 0; b < rows; b++) CHECK_INT(at[b], T);
            CHECK_INT(gpt_feed(k, text, 1, NULL, got), -1);     // full
            CHECK_HAS(ag_error(ag), "context has");
            ag_clear_error(ag);
            if (way == 0) {                     // another row's copy, shortened, goes on as the original did
                gpt_cache_copy(k, 0, 2);
                gpt_cache_truncate(k, 0, 5);
                CHECK_INT(gpt_cache_length(k, 0), 5);
                len[0] = 2, len[1] = len[2] = 0;
                ids[0] = text[2 * T + 5], ids[1] = text[2 * T + 6], ids[2] = ids[3] = ids[4] = ids[5] = 0;
                CHECK_INT(gpt_feed(k, ids, 2, len, got), 0);
                CHECK(!memcmp(got, full + ((size_t)2 * T + 6) * V, (size_t)V * sizeof *got));
            }
            gpt_cache_free(k);
            free(ids);
        }
        CHECK_INT(ag_memory_used(ag).state,
                  2 * (size_t)c.n_layer * rows * T * (c.n_embd / c.n_head * c.n_kv_head) * sizeof(ag_real));
        CHECK(!ag_error(ag));
        free(text), free(full), free(got);
        gpt_free(m);
        ag_free(ag);
    }
}

// The same trunk with padding: positions before len have the bits of the unpadded pass, those behind it are zeros, and
// the gradients of a batch are the sum of its texts'. A text may be empty, and so may all of them.
static void padding_does_not_matter(void) {
    for (int llama = 0; llama < 2; llama++) {
        ag_ctx *ag = ag_new(4);
        gpt_config c = tiny(llama);
        gpt_model *m = lively(ag, &c);
        int *text = numbers(60, 37, 9), len[3] = { 20, 0, 5 }, none[3] = { 0, 0, 0 };
        const size_t C = (size_t)c.n_embd, V = 37, W = V * C;
        ag_real *alone = (ag_real *)malloc(20 * V * sizeof *alone), *both = (ag_real *)malloc(60 * V * sizeof *both);
        ag_real *x = (ag_real *)malloc(60 * C * sizeof *x), *dx = (ag_real *)malloc(2 * W * sizeof *dx);
        text[45] = text[59] = -7;                               // padding may hold anything
        ag_get(gpt_forward(m, text + 40, 1, 5), alone);
        ag_tensor *h = gpt_trunk(m, text, 3, 20, len), *one, *two;
        ag_get(gpt_head(m, h), both), ag_get(h, x);
        CHECK(!memcmp(alone, both + 40 * V, 5 * V * sizeof *alone));
        for (size_t i = 20 * C; i < 60 * C; i++) CHECK((i < 40 * C || i >= 45 * C) == (x[i] == 0));
        one = gpt_trunk(m, text, 1, 20, NULL), two = gpt_trunk(m, text + 40, 1, 5, NULL);
        ag_backward(ag_add(ag_sum(ag_mul(one, one)), ag_sum(ag_mul(two, two))));
        CHECK(ag_get_grad(gpt_tensor(m, "wte.weight"), dx) == 0);
        ag_reset(ag), ag_zero_grad(ag);
        h = gpt_trunk(m, text, 3, 20, len);
        ag_backward(ag_sum(ag_mul(h, h)));
        CHECK(ag_get_grad(gpt_tensor(m, "wte.weight"), dx + W) == 0);
        double most = 0, worst = 0;
        for (size_t i = 0; i < W; i++)
            most = fmax(most, fabs((double)dx[i])), worst = fmax(worst, fabs((double)dx[i] - (double)dx[W + i]));
        CHECK(most > 0 && worst <= 1e-5 * most);
        h = gpt_trunk(m, text, 3, 20, none);
        CHECK(ag_get(h, x) == 0);
        for (size_t i = 0; i < 60 * C; i++) CHECK(x[i] == 0);
        unsigned char mask[60] = { 0 };
        text[45] = text[59] = 0;
        one = gpt_logprobs(m, text, mask, 3, 20, NULL);         // nothing counts
        CHECK(one && ag_backward(ag_sum(one)) == 0 && ag_get(one, both) == 0);
        for (int i = 0; i < 60; i++) CHECK(both[i] == 0);
        CHECK(!ag_error(ag));
        free(text), free(alone), free(both), free(x), free(dx);
        gpt_free(m);
        ag_free(ag);
    }
}

static int count_calls(void *user, int row, int id) { (void)row, (void)id; return ++*(int *)user == 5; }

static void generates(void) {
    for (int llama = 0; llama < 2; llama++) {
        ag_ctx *ag = ag_new(4);
        gpt_config c = tiny(llama);
        gpt_model *m = lively(ag, &c);
        int *text = numbers(64, 37, 9), out[64], all[3 * 40], n_out[3], calls = 0, stop[2], n[3] = { 4, 1, 11 };
        const int *prompts[3];
        gpt_sampling s;
        ag_real row[37];
        memset(&s, 0, sizeof s);
        CHECK_INT(gpt_generate(m, &s, text, 4, out, 10, NULL, NULL), 10);
        for (int i = 0; i < 10; i++) {                          // greedy is the best of the full pass, step by step
            int best = 0;
            ag_tensor *y = gpt_forward(m, text, 1, 4 + i);
            ag_get_part(y, (size_t)(3 + i) * 37, 37, row);
            for (int k = 1; k < 37; k++) if (row[k] > row[best]) best = k;
            CHECK_INT(out[i], best);
            text[4 + i] = best;
            ag_reset(ag);
        }
        stop[0] = 99, stop[1] = out[6];
        int first = 0;
        while (out[first] != stop[1]) first++;
        s.stop = stop, s.n_stop = 2;
        CHECK_INT(gpt_generate(m, &s, text, 4, all, 10, NULL, NULL), first + 1);        // the stop token is the last
        CHECK_INT(all[first], stop[1]);
        s.n_stop = 0, s.temperature = 1;
        CHECK_INT(gpt_generate(m, &s, text, 4, all, 40, count_calls, &calls), 5);
        CHECK_INT(calls, 5);
        CHECK_INT(gpt_generate(m, &s, text, 4, all, 0, NULL, NULL), 0);
        // Rows of a batch are what single calls give in the same order; 40 tokens slide over a context of 20.
        ag_rng start = *ag_stream(ag, AG_RNG_SAMPLE);
        for (int b = 0; b < 3; b++) prompts[b] = text + 10 * b;
        CHECK_INT(gpt_generate_batch(m, &s, 3, prompts, n, all, 40, n_out, NULL, NULL), 0);
        *ag_stream(ag, AG_RNG_SAMPLE) = start;
        for (int b = 0; b < 3; b++) {
            CHECK_INT(n_out[b], 40);
            CHECK_INT(gpt_generate(m, &s, prompts[b], n[b], out, 40, NULL, NULL), 40);
            CHECK(!memcmp(out, all + 40 * b, sizeof(int) * 40));
        }
        // After a slide the model sees the last half of the context: the 21st token of all follows from 10 to 20.
        memset(&s, 0, sizeof s);
        CHECK_INT(gpt_generate(m, &s, text, 20, out, 3, NULL, NULL), 3);
        int tail[10];
        for (int i = 0; i < 10; i++) tail[i] = i < 9 ? text[11 + i] : out[0];
        CHECK_INT(gpt_generate(m, &s, tail, 10, all, 2, NULL, NULL), 2);
        CHECK_INT(all[0], out[1]);
        CHECK_INT(all[1], out[2]);
        CHECK_INT(gpt_generate(m, &s, text, 50, out, 2, NULL, NULL), 2);        // a long prompt keeps its end
        CHECK_INT(gpt_generate(m, &s, text + 30, 20, all, 2, NULL, NULL), 2);
        CHECK_INT(all[0], out[0]);
        CHECK_INT(all[1], out[1]);
        CHECK(!ag_error(ag));
        CHECK_INT(ag_memory_used(ag).tape, 0);
        free(text);
        gpt_free(m);
        ag_free(ag);
    }
}

// Many continuations of one prompt, between others: what each would be alone, with the same random stream, to the last
// bit of the probabilities. They read it once: the rows that share it are fed nothing, which the error of a full cache
// would show, so a count of what reaches the kernel of embeddings does.
static size_t embedded;
static int (*embedding)(ag_backend *b, ag_real *y, const ag_real *table, const int *ids, size_t n, size_t c);
static int counting(ag_backend *b, ag_real *y, const ag_real *table, const int *ids, size_t n, size_t c) {
    embedded += n;
    return embedding(b, y, table, ids, n, c);
}

static void continuations_share_a_prompt(void) {
    enum { B = 7, CAP = 6, LONG = 12 };
    for (int llama = 0; llama < 2; llama++) {
        ag_backend *backend = ag_cpu_backend(NULL, 2);
        embedding = backend->embedding, backend->embedding = counting;
        ag_ctx *ag = ag_new_with(4, backend);
        gpt_config c = tiny(llama);
        gpt_model *m = lively(ag, &c);
        int *text = numbers(64, 37, 9), all[B * CAP], out[CAP], n_out[B];
        const int n[B] = { LONG, LONG, LONG, LONG, 5, LONG, LONG };
        const int *prompts[B] = { text, text, text, text, text + 20, text + 30, text + 30 };
        ag_real logprobs[B * CAP], one[CAP];
        gpt_sampling s;
        memset(&s, 0, sizeof s);
        s.temperature = 1;
        ag_rng start = *ag_stream(ag, AG_RNG_SAMPLE);
        embedded = 0;
        CHECK_INT(gpt_rollout(m, &s, B, prompts, n, all, CAP, n_out, logprobs), 0);
        const size_t together = embedded;
        *ag_stream(ag, AG_RNG_SAMPLE) = start;
        embedded = 0;
        int different = 0;
        for (int b = 0; b < B; b++) {
            int count = 0;
            CHECK_INT(gpt_rollout(m, &s, 1, &prompts[b], &n[b], out, CAP, &count, one), 0);
            CHECK_INT(count, CAP);
            CHECK(!memcmp(out, all + b * CAP, sizeof out));
            CHECK(!memcmp(one, logprobs + b * CAP, sizeof one));
            if (b && b < 4 && memcmp(all, all + b * CAP, sizeof out)) different = 1;
        }
        CHECK(different);                           // each row draws for itself
        // Of seven prompts three are read, 29 tokens and not 77; all else costs the same, but each feeding picks the
        // last token of each row by an embedding, too: one for each row that was fed.
        CHECK_INT(embedded - together, (size_t)(4 * LONG * (llama ? 1 : 2) + 4));
        CHECK(!ag_error(ag));
        free(text);
        gpt_free(m);
        ag_free(ag);
    }
}

// int8 weights: what a column's scale allows, and no more; the KV cache agrees with the full pass here, too; and
// nothing learns by mistake.
static void int8_weights(void) {
    for (int llama = 0; llama < 2; llama++) {
        ag_ctx *ag = ag_new(4);
        gpt_config c = tiny(llama);
        gpt_model *m = lively(ag, &c);
        int *text = numbers(20, 37, 9);
        static ag_real exact[20 * 37], rough[20 * 37], fed[37], back[20 * 37];
        ag_get(gpt_forward(m, text, 1, 20), exact);
        ag_reset(ag);
        CHECK_INT(gpt_quantize(m, 1), 0);
        int old = ag_no_grad(ag, 1);
        ag_get(gpt_forward(m, text, 1, 20), rough);
        double worst = 0, size = 0;
        for (int i = 0; i < 20 * 37; i++)
            worst = fmax(worst, fabs(rough[i] - exact[i])), size = fmax(size, fabs(exact[i]));
        CHECK(worst > 1e-6 * size && worst < 0.1 * size);
        gpt_cache *k = gpt_cache_new(m, 1);
        CHECK_INT(gpt_feed(k, text, 13, NULL, NULL), 0);
        for (int i = 13; i < 20; i++) CHECK_INT(gpt_feed(k, text + i, 1, NULL, fed), 0);
        CHECK(!memcmp(fed, rough + 19 * 37, sizeof fed));
        gpt_cache_free(k);
        // One product against its definition, from the weights: q = round(w / scale), scale = largest / 127.
        enum { I = 13, O = 21 };
        ag_tensor *w = ag_param(ag, I, O), *bias = ag_param(ag, O), *x = ag_param(ag, 3, I);
        ag_real ws[I * O], bs[O], xs[3 * I], ys[3 * O];
        ag_randn(w, 1), ag_randn(bias, 1), ag_randn(x, 1);
        ag_get(w, ws), ag_get(bias, bs), ag_get(x, xs);
        CHECK_INT(ag_quantize(w, 0, 1), 0);
        ag_get(ag_linear(x, w, bias), ys);
        for (int r = 0; r < 3; r++) for (int o = 0; o < O; o++) {
            double most = 0, sum = 0;
            for (int i = 0; i < I; i++) most = fmax(most, fabs(ws[i * O + o]));
            for (int i = 0; i < I; i++) sum += xs[r * I + i] * floor(ws[i * O + o] * 127 / most + 0.5) * most / 127;
            CHECK_NEAR(ys[r * O + o], sum + bs[o], 1e-5);
        }
        // Turned: (O,I) takes other room in memory. What was made for one product is refused by the other.
        CHECK(!ag_matmul_t(ag_full(ag, 1, 3, O), w));
        CHECK(strstr(ag_error(ag), "int8 for ag_linear") != NULL);
        ag_clear_error(ag);
        CHECK_INT(ag_quantize(w, 1, 1), 0);
        ag_get(ag_matmul_t(ag_full(ag, 1, 1, O), w), ys);
        for (int i = 0; i < I; i++) {
            double sum = 0;
            for (int o = 0; o < O; o++) sum += ws[i * O + o];
            CHECK_NEAR(ys[i], sum, 0.1);
        }
        CHECK(!ag_linear(x, w, bias));
        CHECK(strstr(ag_error(ag), "int8 for ag_matmul_t") != NULL);
        ag_clear_error(ag);
        CHECK_INT(ag_quantize(w, 0, 1), 0);
        ag_set(w, ws);                                          // a copy of what w was
        CHECK(!ag_linear(x, w, bias));
        CHECK(strstr(ag_error(ag), "changed since") != NULL);
        ag_clear_error(ag), ag_no_grad(ag, old);
        CHECK(!gpt_forward(m, text, 1, 20));
        CHECK(strstr(ag_error(ag), "cannot learn") != NULL);
        ag_clear_error(ag), ag_reset(ag);
        CHECK_INT(gpt_quantize(m, 0), 0);
        ag_get(gpt_forward(m, text, 1, 20), back);
        CHECK(!memcmp(back, exact, sizeof back));
        CHECK(!ag_error(ag));
        free(text);
        gpt_free(m);
        ag_free(ag);
    }
}

// Filters against their definition, by sorting.
static void filters(void) {
    ag_ctx *ag = ag_new(4);
    gpt_config c = tiny(1);
    gpt_model *m = lively(ag, &c);
    ag_real logits[37], probs[37];
    ag_rng r;
    r.key = 5, r.counter = 0;
    for (int round = 0; round < 300; round++) {
        gpt_sampling s;
        double p[37], sum = 0, want[37];
        int order[37], left = 37;
        memset(&s, 0, sizeof s);
        s.temperature = 0.3 + 2 * ag_rng_uniform(&r);
        if (round % 2) s.top_k = 1 + (int)(ag_rng_u32(&r) % 37);
        if (round / 2 % 2) s.top_p = ag_rng_uniform(&r);
        if (round / 4 % 2) s.min_p = ag_rng_uniform(&r) * 0.5;
        for (int i = 0; i < 37; i++)            // every fifth round has ties
            logits[i] = (ag_real)(round % 5 ? 3 * ag_rng_normal(&r) : (double)(ag_rng_u32(&r) % 4));
        for (int i = 0; i < 37; i++) sum += p[i] = exp((double)logits[i] / s.temperature), order[i] = i;
        for (int i = 0; i < 37; i++) p[i] /= sum;
        for (int i = 0; i < 37; i++)                            // likelier first, lower id first
            for (int k = i + 1; k < 37; k++)
                if (logits[order[k]] > logits[order[i]] || (logits[order[k]] == logits[order[i]] &&
                                                            order[k] < order[i])) {
                    int t = order[i];
                    order[i] = order[k], order[k] = t;
                }
        if (s.top_k) left = s.top_k;
        if (s.top_p > 0) {
            double all = 0, run = 0;
            int keep = 0, close = 0;
            for (int i = 0; i < left; i++) all += p[order[i]];
            while (keep < left && run < s.top_p * all) run += p[order[keep++]], close |= fabs(run - s.top_p * all)
                < 1e-5;
            if (close) continue;                                // rounding decides: either is right
            left = keep;
        }
        while (left > 1 && p[order[left - 1]] < s.min_p * p[order[0]]) left--;
        if (left < 37 && fabs(p[order[left]] - s.min_p * p[order[0]]) < 1e-5 * p[order[0]]) continue;
        for (int i = 0; i < 37; i++) want[i] = 0;
        sum = 0;
        for (int i = 0; i < left; i++) sum += p[order[i]];
        for (int i = 0; i < left; i++) want[order[i]] = p[order[i]] / sum;
        CHECK_INT(gpt_probs(m, &s, logits, probs), 0);
        for (int i = 0; i < 37; i++)
            if (!(fabs(probs[i] - want[i]) <= 2e-5) || (probs[i] == 0) != (want[i] == 0))
                T_FAIL("round %d (k %d, p %g, min %g): token %d has %g, wanted %g", round, s.top_k, s.top_p, s.min_p, i,
                       (double)probs[i], want[i]);
    }
    gpt_sampling s;
    memset(&s, 0, sizeof s);
    for (int i = 0; i < 37; i++) logits[i] = i == 11 || i == 12 ? 5 : -1;
    CHECK_INT(gpt_sample(m, &s, logits, NULL), 11);             // greedy takes the first of equals
    CHECK_INT(gpt_probs(m, &s, logits, probs), 0);
    CHECK(probs[11] == 1 && probs[12] == 0);
    s.temperature = 1e-30;                                      // nearly greedy: half each, and no overflow
    CHECK_INT(gpt_probs(m, &s, logits, probs), 0);
    CHECK(probs[11] == 0.5f && probs[12] == 0.5f && probs[0] == 0);
    for (int i = 0; i < 37; i++) logits[i] = i % 2 ? -INFINITY : 100000;
    s.temperature = 1;
    CHECK_INT(gpt_probs(m, &s, logits, probs), 0);
    CHECK_NEAR(probs[2], 1.0 / 19, 1e-6);
    CHECK(probs[1] == 0);
    gpt_free(m);
    ag_free(ag);
}

// Tokens come up as often as they should: chi-squared over 20,000 draws.
static void samples_the_distribution(void) {
    ag_ctx *ag = ag_new(4);
    gpt_config c = tiny(1);
    gpt_model *m = lively(ag, &c);
    ag_real logits[37], probs[37];
    gpt_sampling s;
    int seen[37] = {0}, free_of = -1, n = 20000;
    double chi = 0;
    memset(&s, 0, sizeof s);
    s.temperature = 1.5, s.top_k = 20;
    for (int i = 0; i < 37; i++) logits[i] = (ag_real)((i * 7 % 37) * 0.1);
    gpt_probs(m, &s, logits, probs);
    for (int i = 0; i < n; i++) seen[gpt_sample(m, &s, logits, NULL)]++;
    for (int i = 0; i < 37; i++) {
        if (probs[i] > 0) chi += pow(seen[i] - n * (double)probs[i], 2) / (n * (double)probs[i]), free_of++;
        else CHECK_INT(seen[i], 0);
    }
    CHECK_INT(free_of, 19);
    CHECK(chi < 50 && chi > 4);                                 // 19 degrees of freedom: p is 0.0001 beyond 50
    gpt_free(m);
    ag_free(ag);
}

static double score_of(gpt_model *m, const int *text, int n, int total) {
    double sum = 0;
    ag_real *y = (ag_real *)malloc((size_t)total * m->config.n_vocab * sizeof *y);
    ag_get(ag_log_softmax(gpt_forward(m, text, 1, total)), y);
    for (int i = n; i < total; i++) sum += y[(size_t)(i - 1) * m->config.n_vocab + text[i]];
    ag_reset(m->ctx);
    free(y);
    return sum;
}

static void beam_search(void) {
    ag_ctx *ag = ag_new(6);
    gpt_config c = tiny(1);
    c.n_vocab = 5;
    gpt_model *m = lively(ag, &c);
    int prompt[8] = { 1, 2, 0 }, out[125 * 3], n_out[125], greedy[3], stop = 4;
    double scores[125], best = -1e9;
    gpt_sampling s;
    memset(&s, 0, sizeof s);
    gpt_generate(m, &s, prompt, 3, greedy, 3, NULL, NULL);
    CHECK_INT(gpt_beam(m, NULL, prompt, 3, 1, 0, out, 3, n_out, scores), 1);
    CHECK(!memcmp(out, greedy, sizeof greedy));                 // one beam is greedy
    CHECK_INT(gpt_beam(m, NULL, prompt, 3, 125, 0, out, 3, n_out, scores), 125);
    for (int i = 0; i < 125; i++) {                             // 125 beams are all texts of three tokens, sorted
        for (int k = 0; k < 3; k++) prompt[3 + k] = out[3 * i + k];
        CHECK_NEAR(scores[i], score_of(m, prompt, 3, 6), 1e-4);
        CHECK(i == 0 || scores[i] <= scores[i - 1]);
        if (scores[i] > best) best = scores[i];
    }
    CHECK_NEAR(best, scores[0], 0);
    CHECK(gpt_beam(m, NULL, prompt, 3, 4, 0, out, 3, n_out, scores) == 4 && scores[0] <= best + 1e-6);
    s.stop = &stop, s.n_stop = 1;
    int count = gpt_beam(m, &s, prompt, 3, 6, 1, out, 3, n_out, scores);
    CHECK(count >= 1 && count <= 6);
    for (int i = 0; i < count; i++) {
        for (int k = 0; k < n_out[i]; k++) {
            prompt[3 + k] = out[3 * i + k];
            CHECK((out[3 * i + k] == stop) == (k == n_out[i] - 1) || n_out[i] == 3);
        }
        CHECK_NEAR(scores[i], score_of(m, prompt, 3, 3 + n_out[i]) / n_out[i], 1e-4);
        CHECK(i == 0 || scores[i] <= scores[i - 1]);
    }
    CHECK_INT(gpt_beam(m, NULL, prompt, 3, 2, 0, out, 18, n_out, scores), 2);   // as long as the context allows
    CHECK_INT(gpt_beam(m, NULL, prompt, 3, 2, 0, out, 19, n_out, scores), -1);
    CHECK_HAS(ag_error(ag), "context");
    gpt_free(m);
    ag_free(ag);
}

// ---- misuse ---------------------------------------------------------------------------------------------------------
// Every argument is checked, the message tells which, and nothing has changed afterwards.
static void refuses_bad_arguments(void) {
    ag_ctx *ag = ag_new(2);
    gpt_config c = tiny(0);
    gpt_model *m = lively(ag, &c);
    int *x = numbers(40, 37, 1), bad[4] = { 1, 2, 37, 0 }, out[8], n_out[4], len[1] = { 21 };
    const int *prompt = x;
    gpt_sampling s;
    ag_real logits[37], probs[37];
    double scores[4];
    gpt_optimizer o = gpt_adamw();
    memset(&s, 0, sizeof s);
    memset(logits, 0, sizeof logits);
    for (int i = 0; i < 37; i++) logits[i] = (ag_real)i;
#define REFUSED(call, word) do { CHECK(call); CHECK_HAS(ag_error(ag), word); ag_clear_error(ag); } while (0)
    REFUSED(gpt_forward(m, x, 0, 5) == NULL, "gpt_forward: 0 rows of 5 tokens: wanted at least 1 of each");
    REFUSED(gpt_forward(m, x, 1, -1) == NULL, "rows of -1");
    REFUSED(gpt_forward(m, x, 1, 21) == NULL,
            "gpt_forward: rows of 21 tokens, but the context has 20: pass shorter rows, or make the model");
    REFUSED(gpt_forward(m, NULL, 1, 4) == NULL, "the ids are NULL: pass an array of 1 rows of 4 tokens");
    REFUSED(gpt_forward(m, bad, 1, 4) == NULL,
            "gpt_forward: ids[2] is 37 (row 0, position 2), but n_vocab is 37: wanted 0 to 36. Was the text encoded");
    bad[2] = -1;
    REFUSED(gpt_forward(m, bad, 2, 2) == NULL, "ids[2] is -1 (row 1, position 0)");
    REFUSED(gpt_forward(m, x, 2000000000, 2) == NULL, "less than 2^31");
    REFUSED(gpt_trunk(m, x, 1, 20, len) == NULL, "len[0] is 21, wanted 0 to 20");
    REFUSED(gpt_forward(m, bad, 2, 2) == NULL, "test_gpt.c:");
#define SAMPLING(change, word) do { \
        s.temperature = 1; change; REFUSED(gpt_sample(m, &s, logits, NULL) == -1, word); \
        memset(&s, 0, sizeof s); } while (0)
    SAMPLING(s.temperature = -1, "temperature is -1");
    SAMPLING(s.temperature = NAN, "temperature");
    SAMPLING(s.temperature = INFINITY, "temperature");
    SAMPLING(s.top_k = 38, "top_k is 38");
    SAMPLING(s.top_k = -1, "top_k is -1");
    SAMPLING(s.top_p = 1.5, "top_p is 1.5");
    SAMPLING(s.min_p = NAN, "min_p");
    SAMPLING(s.n_stop = 1, "n_stop is 1 and stop is NULL: set stop to a list");
    SAMPLING(s.n_stop = -1; s.stop = x, "n_stop is -1 and stop is a list");
    REFUSED(gpt_sample(m, NULL, logits, NULL) == -1, "the settings are NULL: pass a gpt_sampling");
    REFUSED(gpt_probs(m, &s, NULL, probs) == -1, "gpt_probs: logits is NULL: pass an array of 37");
    REFUSED(gpt_probs(m, &s, logits, NULL) == -1, "gpt_probs: probs is NULL");
    logits[3] = (ag_real)NAN;
    REFUSED(gpt_probs(m, &s, logits, probs) == -1, "token 3 is NaN: look for");
    for (int i = 0; i < 37; i++) logits[i] = -INFINITY;
    REFUSED(gpt_probs(m, &s, logits, probs) == -1, "nothing to choose from");
    REFUSED(gpt_generate(m, &s, x, 0, out, 8, NULL, NULL) == -1, "empty");
    REFUSED(gpt_generate(m, &s, NULL, 3, out, 8, NULL, NULL) == -1, "empty");
    REFUSED(gpt_generate(m, &s, bad, 4, out, 8, NULL, NULL) == -1,
            "token 2 of prompt 0 is -1, but n_vocab is 37: wanted 0 to 36. Was the prompt encoded");
    REFUSED(gpt_generate(m, &s, x, 3, out, -1, NULL, NULL) == -1, "-1 tokens: wanted");
    REFUSED(gpt_generate(m, &s, x, 3, NULL, 2, NULL, NULL) == -1, "gpt_generate: out is NULL: pass an array");
    REFUSED(gpt_generate_batch(m, &s, 0, &prompt, n_out, out, 8, n_out, NULL, NULL) == -1,
            "0 rows of up to 8 tokens: wanted");
    REFUSED(gpt_generate_batch(m, &s, 1, NULL, n_out, out, 8, n_out, NULL, NULL) == -1, "prompts is NULL");
    REFUSED(gpt_generate_batch(m, &s, 1, &prompt, NULL, out, 8, n_out, NULL, NULL) == -1, "n is NULL");
    REFUSED(gpt_generate_batch(m, &s, 1, &prompt, n_out, out, 8, NULL, NULL, NULL) == -1, "n_out is NULL");
    REFUSED(gpt_beam(m, &s, x, 3, 0, 0, out, 2, n_out, scores) == -1, "gpt_beam: 0 beams: wanted 1 to ");
    REFUSED(gpt_beam(m, &s, x, 3, 2, 0, out, 19, n_out, scores) == -1,
            "gpt_beam: up to 19 tokens after a prompt of 3, but the context has 20: wanted 1 to 18, or a shorter");
    REFUSED(gpt_beam(m, &s, x, 3, 2, 0, out, 0, n_out, scores) == -1, "up to 0 tokens");
    REFUSED(gpt_beam(m, &s, x, 3, 2, NAN, out, 2, n_out, scores) == -1, "gpt_beam: length_power is");
    REFUSED(gpt_beam(m, &s, x, 3, 2, 11, out, 2, n_out, scores) == -1, "length_power is 11, wanted 0");
    REFUSED(gpt_beam(m, &s, x, 3, 2, 0, NULL, 2, n_out, scores) == -1, "gpt_beam: out is NULL");
    REFUSED(gpt_beam(m, &s, x, 3, 2, 0, out, 2, n_out, NULL) == -1, "gpt_beam: scores is NULL");
    REFUSED(gpt_beam(m, &s, x, 21, 2, 0, out, 2, n_out, scores) == -1, "gpt_beam: rows of 21 tokens");
    REFUSED(gpt_cache_new(m, 0) == NULL, "gpt_cache_new: 0 rows: wanted 1 to ");
    gpt_loader loader = gpt_loader_new(ag, x, 40, GPT_RANDOM);
    REFUSED(gpt_next(&loader, 0, 4, out, out) == -1, "gpt_next: 0 rows of 4 tokens: wanted");
    REFUSED(gpt_next(&loader, 1, 4, NULL, out) == -1, "gpt_next: x is NULL");
    REFUSED(gpt_next(&loader, 1, 4, out, NULL) == -1, "gpt_next: y is NULL");
    REFUSED(gpt_next(&loader, 1, 40, out, out) == -1, "a longer text");
    REFUSED((loader = gpt_loader_new(ag, NULL, 9, GPT_RANDOM), 1),
            "gpt_loader_new: 0 tokens: there is nothing to predict. Give");
    // The message tells the line of the call that failed, and not of one before it.
#define HERE_IS(call) do { \
        char here[64]; int line_ = __LINE__; (void)(call); snprintf(here, sizeof here, "test_gpt.c:%d: ", line_); \
        CHECK_HAS(ag_error(ag), here); ag_clear_error(ag); } while (0)
    gpt_cache *feeding = gpt_cache_new(m, 1);
    HERE_IS(gpt_beam(m, &s, x, 3, 0, 0, out, 2, n_out, scores));
    HERE_IS(gpt_generate_batch(m, &s, 0, &prompt, n_out, out, 8, n_out, NULL, NULL));
    HERE_IS(gpt_next(&loader, 0, 4, out, out));
    HERE_IS(gpt_feed(feeding, bad, 4, NULL, logits));
    HERE_IS(gpt_cache_copy(feeding, 0, 1));
    HERE_IS(gpt_load_mem(ag, NULL, 0, NULL));
    gpt_cache_free(feeding);
    gpt_cache *k = gpt_cache_new(m, 1);
    REFUSED(gpt_feed(k, x, 21, NULL, logits) == -1, "context has 20");
    REFUSED(gpt_feed(k, bad, 4, NULL, logits) == -1, "gpt_feed: ids[2] is -1");
    REFUSED(gpt_cache_copy(k, 0, 1) == -1, "row 1 to row 0 of 1: wanted 0 to 0");
    CHECK_INT(gpt_cache_length(k, 0), 0);
    CHECK_INT(gpt_feed(k, x, 18, NULL, NULL), 0);
    REFUSED(gpt_feed(k, x, 3, NULL, NULL) == -1,
            "row 0 holds 18 tokens and gets 3, but the context has 20: forget some");
    gpt_cache_free(k);
#define OPTIMIZER(change, word) do { \
        change; REFUSED(gpt_step(m, &o, 1, NULL) == -1, "the optimizer's " word); o = gpt_adamw(); } while (0)
    OPTIMIZER(o.lr = NAN, "lr is ");
    OPTIMIZER(o.lr = -1, "lr is -1, wanted 0 to 1e+30: start from gpt_adamw() or gpt_muon()");
    OPTIMIZER(o.beta1 = 1, "beta1 is 1, wanted 0 to ");
    OPTIMIZER(o.beta2 = -0.1, "beta2 is -0.1");
    OPTIMIZER(o.eps = 0, "eps is 0");
    OPTIMIZER(o.clip = NAN, "clip is ");
    OPTIMIZER(o.clip = -1, "clip is -1, wanted 0 to inf");
    OPTIMIZER(o.weight_decay = -1, "weight_decay is -1");
    OPTIMIZER(o.kind = 9, "kind is 9, wanted GPT_ADAMW or GPT_MUON");
    OPTIMIZER(o = gpt_muon(); o.momentum = 1, "momentum is 1");
    OPTIMIZER(o = gpt_muon(); o.lr_muon = INFINITY, "lr_muon is inf");
    REFUSED(gpt_step(m, NULL, 1, NULL) == -1, "the optimizer is NULL: pass");
    REFUSED(gpt_step(m, &o, -1, NULL) == -1, "lr_factor is -1");
    CHECK(gpt_forward(NULL, x, 1, 1) == NULL && gpt_step(NULL, &o, 1, NULL) == -1 && gpt_head(m, NULL) == NULL);
    CHECK(gpt_sample(NULL, &s, logits, NULL) == -1 && gpt_feed(NULL, x, 1, NULL, logits) == -1);
    gpt_free(NULL), gpt_cache_free(NULL);
    // While there is an error everything else does nothing.
    ag_fail(ag, "an older error");
    CHECK(gpt_forward(m, x, 1, 4) == NULL && gpt_generate(m, &s, x, 3, out, 2, NULL, NULL) == -1 &&
          gpt_new(ag, &c) == NULL);
    double e = gpt_eval(m, x, 40, 1);
    CHECK(e != e);
    CHECK_HAS(ag_error(ag), "an older error");
    free(x);
    gpt_free(m);
    ag_free(ag);
}

// ---- llama2.c's model -----------------------------------------------------------------------------------------------
// Its tokenizer, in a few lines: a table of scores and texts; <0xNN> is a byte, and a space after token 1 goes away.
static unsigned char *tok512;
static size_t tok512_size;
static void say(char *out, size_t size, const int *ids, int n) {
    out[0] = 0;
    for (int i = 0; i < n; i++) {
        size_t at = 4;
        int32_t len = 0;
        for (int id = 0; at + 8 <= tok512_size; id++, at += 8 + (size_t)len) {
            memcpy(&len, tok512 + at + 4, 4);
            if (id == ids[i]) break;
        }
        char word[32];
        unsigned byte;
        snprintf(word, sizeof word, "%.*s", (int)len, (const char *)tok512 + at + 8);
        if (sscanf(word, "<0x%02X>", &byte) == 1) word[0] = (char)byte, word[1] = 0;
        size_t used = strlen(out);
        snprintf(out + used, size - used, "%s", i == 0 && word[0] == ' ' ? word + 1 : word);
    }
}

static void *slurp(const char *name, size_t *size) {
    const char *where[4];
    where[0] = getenv("DATA_MIRROR"), where[1] = "examples/data", where[2] = "../shared/data", where[3] = NULL;
    for (int i = 0; i < 3; i++) {
        char path[1024];
        snprintf(path, sizeof path, "%s/%s", where[i] ? where[i] : ".", name);
        FILE *f = fopen(path, "rb");
        if (!f) continue;
        fseek(f, 0, SEEK_END), *size = (size_t)ftell(f), rewind(f);
        void *p = malloc(*size + strlen(path) + 1);
        *size = fread(p, 1, *size, f);
        strcpy((char *)p + *size, path);        // the path goes behind the bytes
        fclose(f);
        return p;
    }
    printf("skipped: %s is not there\n", name);
    return NULL;
}

static void stories260k(void) {
    // What llama2.c's run.c prints for: run stories260K.bin -z tok512.bin -t 0 -n 200 -i "Once upon a time"
    static const char want[] =
        "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw "
        "a big, red ball. She wanted to play with it, but it was too high.\n"
        "Lily's mom said, \"Lily, let's go to the park.\" Lily was sad and didn't know what to do. She said, \"I want "
        "to play with your ball, but I can't find it.\"\n"
        "Lily was sad and didn't know what to do. She said, \"I'm sorry, Lily. I didn't know what to do.\"\n"
        "Lily didn't want to help her mom, so she said, \"I";
    size_t n_model, n_tok;
    char *model = (char *)slurp("stories260K.bin", &n_model), text[4096];
    tok512 = (unsigned char *)slurp("tok512.bin", &n_tok), tok512_size = n_tok;
    if (!model || !tok512) return;
    ag_ctx *ag = ag_new(1);
    gpt_model *m = gpt_load_llama2c(ag, model + n_model);
    CHECK(m != NULL);
    if (m) {
        int ids[260], n = 1, used = 0;
        gpt_sampling s;
        memset(&s, 0, sizeof s);
        CHECK_INT(m->config.n_kv_head, 4);
        CHECK_INT(m->config.tied, 1);
        CHECK_INT(gpt_count(&m->config), 260032);
        // "Once upon a time" in its greedy tokens: 1, then those whose texts spell it out, longest first.
        ids[0] = 1;
        for (const char *rest = " Once upon a time"; *rest;) {
            int best = -1;
            size_t length = 0, at = 4;
            int32_t len = 0;
            for (int id = 0; at + 8 <= tok512_size; id++, at += 8 + (size_t)len) {
                memcpy(&len, tok512 + at + 4, 4);
                if (id > 2 && (size_t)len > length && !strncmp((const char *)tok512 + at + 8, rest, (size_t)len))
                    best = id, length = (size_t)len;
            }
            if (best < 0) { T_FAIL("no token for \"%s\"", rest); break; }
            ids[n++] = best, rest += length;
        }
        used = gpt_generate(m, &s, ids, n, ids + n, 200, NULL, NULL);
        CHECK_INT(used, 200);
        say(text, sizeof text, ids + 1, n - 1 + used);
        CHECK(!strncmp(text, want, sizeof want - 1));
        if (strncmp(text, want, sizeof want - 1)) printf("%s\n", text);
    } else printf("%s\n", ag_error(ag));
    free(model), free(tok512);
    gpt_free(m);
    ag_free(ag);
}

int main(int argc, char **argv) {
    T_BEGIN("gpt");
    T_RUN(counts_parameters);
    T_RUN(describes_itself);
    T_RUN(refuses_bad_configurations);
    T_RUN(initialises_as_gpt2);
    T_RUN(golden_gpt2);
    T_RUN(golden_llama);
    T_RUN(golden_muon);
    T_RUN(learns);
    T_RUN(accumulates);
    T_RUN(clips);
    T_RUN(stops_at_nan);
    T_RUN(steps_groups);
    T_RUN(schedules);
    T_RUN(loads_windows);
    T_RUN(shuffles_windows);
    T_RUN(mixes_parts);
    T_RUN(data_repeats);
    T_RUN(evaluates);
    T_RUN(drops_only_while_training);
    T_RUN(threads_do_not_matter);
    T_RUN(predicts_memory);
    T_RUN(recomputes);
    T_RUN(cache_equals_full_pass);
    T_RUN(padding_does_not_matter);
    T_RUN(generates);
    T_RUN(continuations_share_a_prompt);
    T_RUN(int8_weights);
    T_RUN(filters);
    T_RUN(samples_the_distribution);
    T_RUN(beam_search);
    T_RUN(refuses_bad_arguments);
    T_RUN(stories260k);
    return T_END();
}
