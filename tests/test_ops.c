// test_ops.c - every op of autograd.h in double: its gradient against central differences, its value against the
// composition that it replaces, and what the header promises about ties, sharing, detaching and accumulation.
//
//     cc -O2 tests/test_ops.c -o build/test_ops -lm -lpthread && build/test_ops
//
// In double the kernels are the naive ones and libm, so that this program checks formulas; test_float.c then holds the
// fast kernels to these. Central differences with a step of 1e-5 agree with a right derivative to about 1e-9.
#ifndef AG_REAL
#define AG_REAL double
#endif
#define AUTOGRAD_IMPLEMENTATION
#include "../autograd.h"
#include "op_cases.h"
#include "test.h"

#define EPS 1e-5
#define TOLERANCE 1e-7

// ---- every case of the list ----------------------------------------------------------------------------------------
static ag_tensor *case_loss(ag_ctx *g, void *user) { return weighed(((const op_case *)user)->build(g)); }

static double largest_gradient(ag_ctx *g) {
    double largest = 0;
    for (int i = 0; i < ag_param_count(g); i++) {
        ag_tensor *p = ag_param_get(g, i);
        ag_real *x = (ag_real *)malloc((p->count + 1) * sizeof *x);
        ag_get_grad(p, x);
        for (size_t k = 0; k < p->count; k++) if (fabs(x[k]) > largest) largest = fabs(x[k]);
        free(x);
    }
    return largest;
}

static void every_case_agrees_with_differences(void) {
    const char *worst_name = "";
    double worst = 0;
    for (int i = 0; i < N_OP_CASES; i++) {
        const op_case *c = &op_cases[i];
        ag_ctx *g = ag_new(1);
        make_params(g, c->spec, seed_of(c->name));
        double error = ag_check_grad(g, case_loss, (void *)c, EPS);
        if (!(error <= TOLERANCE)) T_FAIL("%s: off by %.3g: %s", c->text, error, ag_error(g) ? ag_error(g) : "");
        if (error > worst) worst = error, worst_name = c->name;
        CHECK_INT(ag_backward(case_loss(g, (void *)c)), 0);
        if (!strchr(c->spec, 'o') && !(largest_gradient(g) > 1e-3))
            T_FAIL("%s: all gradients vanish, this case tests nothing", c->text);
        ag_free(g);
    }
    printf("  %d cases, worst error %.2g (%s)\n", N_OP_CASES, worst, worst_name);
}

// The list of ops is the header itself: an op that no case calls is a failure.
static void every_op_of_the_header_has_a_case(void) {
    FILE *f = fopen("autograd.h", "rb");
    char line[400];
    int inside = 0, ops = 0;
    CHECK(f != NULL);
    while (f && fgets(line, sizeof line, f)) {
        const char *name = line + strlen("ag_tensor *");
        size_t n = strcspn(name, "(");
        char call[80];
        int used = 0;
        if (strstr(line, "---- ops ----")) inside = 1;
        if (strstr(line, "---- learning ----")) inside = 0;
        if (!inside || strncmp(line, "ag_tensor *ag_", strlen("ag_tensor *ag_")) || n > 60) continue;
        if (!strncmp(name, "ag_reshape_to", n)) n = strlen("ag_reshape");
        snprintf(call, sizeof call, "%.*s(", (int)n, name);
        for (int i = 0; i < N_OP_CASES && !used; i++) {
            const char *at = strstr(op_cases[i].text, call);
            used = at != NULL;
        }
        // These are called by helpers of op_cases.h, whose names stand in the cases.
        if (!strcmp(call, "ag_concat(") || !strcmp(call, "ag_dropout(")) {
            char helper[80];
            snprintf(helper, sizeof helper, "%s", call[3] == 'c' ? "concat2(" : "dropout_of(");
            for (int i = 0; i < N_OP_CASES && !used; i++) used = strstr(op_cases[i].text, helper) != NULL;
        }
        if (!used) T_FAIL("no case calls %.*s", (int)n, name);
        ops++;
    }
    if (f) fclose(f);
    CHECK(ops >= 40);
}

// A check that always says yes proves nothing: this function has a gradient that is wrong on purpose.
static ag_tensor *half_hidden(ag_ctx *g, void *user) {
    ag_tensor *a = ag_param_get(g, 0);
    (void)user;
    return ag_sum(ag_mul(a, ag_detach(a)));
}

static void check_grad_notices_a_wrong_gradient(void) {
    ag_ctx *g = ag_new(1);
    make_params(g, "3,5u", 1);
    double error = ag_check_grad(g, half_hidden, NULL, EPS);
    CHECK(error > 0.3 && error < 0.7);
    ag_free(g);
}

// ---- broadcasting: all patterns ------------------------------------------------------------------------------------
// Both operands take each subset of the sizes (2,3,2,3), the rest being 1; then with leading ones left out.
typedef struct pattern { int op, a, b, cut; } pattern;
static ag_tensor *binary(int op, ag_tensor *a, ag_tensor *b) {
    switch (op) {
    case 0: return ag_add(a, b);
    case 1: return ag_sub(a, b);
    case 2: return ag_mul(a, b);
    case 3: return ag_div(a, b);
    case 4: return ag_minimum(a, b);
    case 5: return ag_maximum(a, b);
    default: return ag_where(ag_greater(a, b), a, ag_mul(b, b));
    }
}

static ag_tensor *pattern_loss(ag_ctx *g, void *user) {
    const pattern *p = (const pattern *)user;
    return weighed(binary(p->op, ag_param_get(g, 0), ag_param_get(g, 1)));
}

static void shape_of_pattern(char *spec, int subset, char kind, int cut) {
    static const int full[] = {2, 3, 2, 3};
    int first = 0;
    *spec = 0;
    while (cut && first < 4 && !(subset >> first & 1)) first++;
    for (int i = first; i < 4; i++)
        sprintf(spec + strlen(spec), i > first ? ",%d" : "%d", subset >> i & 1 ? full[i] : 1);
    sprintf(spec + strlen(spec), "%c", kind);
}

static void all_broadcasts(void) {
    for (int op = 0; op < 7; op++)
        for (int k = 0; k < 512; k++) {
            pattern p = {op, k & 15, k >> 4 & 15, k >> 8};
            char spec[80];
            ag_ctx *g = ag_new(1);
            shape_of_pattern(spec, p.a, op < 4 ? 'u' : 'd', p.cut);
            strcat(spec, " ");
            shape_of_pattern(spec + strlen(spec), p.b, op < 4 ? 'u' : 'D', p.cut);
            make_params(g, spec, (uint64_t)k);
            double error = ag_check_grad(g, pattern_loss, &p, EPS);
            if (!(error <= TOLERANCE)) T_FAIL("op %d on %s: off by %.3g %s", op, spec, error,
                ag_error(g) ? ag_error(g) : "");
            ag_free(g);
        }
}

// The values too: element by element, with the coordinates written out.
static void broadcast_values(void) {
    for (int k = 0; k < 256; k++) {
        static const int full[] = {2, 3, 2, 3};
        char spec[80];
        ag_real a[36], b[36], y[36];
        int sa[4], sb[4], s[4], i[4], n = 0;
        ag_ctx *g = ag_new(1);
        shape_of_pattern(spec, k & 15, 'n', 0);
        strcat(spec, " ");
        shape_of_pattern(spec + strlen(spec), k >> 4, 'n', 0);
        make_params(g, spec, (uint64_t)k);
        ag_get(ag_param_get(g, 0), a), ag_get(ag_param_get(g, 1), b);
        for (int d = 0; d < 4; d++) {
            sa[d] = k >> d & 1 ? full[d] : 1, sb[d] = k >> (4 + d) & 1 ? full[d] : 1;
            s[d] = sa[d] > sb[d] ? sa[d] : sb[d];
        }
        ag_tensor *t = ag_sub(ag_param_get(g, 0), ag_param_get(g, 1));
        CHECK(ag_shape_is(t, s[0], s[1], s[2], s[3]));
        ag_get(t, y);
        for (i[0] = 0; i[0] < s[0]; i[0]++) for (i[1] = 0; i[1] < s[1]; i[1]++)
        for (i[2] = 0; i[2] < s[2]; i[2]++) for (i[3] = 0; i[3] < s[3]; i[3]++, n++) {
            int at_a = 0, at_b = 0;
            for (int d = 0; d < 4; d++) at_a = at_a * sa[d] + i[d] % sa[d], at_b = at_b * sb[d] + i[d] % sb[d];
            if (y[n] != a[at_a] - b[at_b]) T_FAIL("%s: element %d", spec, n);
        }
        ag_free(g);
    }
}

// ---- values, by hand -----------------------------------------------------------------------------------------------
// Finite differences hold a gradient to its own forward pass, so the forward pass needs its own witness.
static ag_ctx *values;
static ag_tensor *row(double a, double b, double c) {
    ag_real x[3];
    x[0] = (ag_real)a, x[1] = (ag_real)b, x[2] = (ag_real)c;
    return ag_input(values, x, 3);
}
static void is_row(const char *what, ag_tensor *t, double a, double b, double c) {
    ag_real x[3] = {0, 0, 0};
    double want[3];
    want[0] = a, want[1] = b, want[2] = c;
    if (!t || t->count != 3) {
        T_FAIL("%s: no row of three: %s", what, ag_error(values) ? ag_error(values) : "");
        return;
    }
    ag_get(t, x);
    for (int i = 0; i < 3; i++)
        if (!(fabs(x[i] - want[i]) <= 1e-12 * (1 + fabs(want[i]))))
            T_FAIL("%s: %.15g, wanted %.15g", what, (double)x[i], want[i]);
}
#define IS_ROW(expression, a, b, c) is_row(#expression, expression, a, b, c)

static void elementwise_values(void) {
    values = ag_new(1);
    IS_ROW(ag_add(row(1, 2, 3), row(10, 20, 30)), 11, 22, 33);
    IS_ROW(ag_sub(row(1, 2, 3), row(10, 20, 30)), -9, -18, -27);
    IS_ROW(ag_mul(row(1, 2, 3), row(10, 20, 30)), 10, 40, 90);
    IS_ROW(ag_div(row(1, 2, 3), row(10, 20, 40)), 0.1, 0.1, 0.075);
    IS_ROW(ag_minimum(row(1, 2, 3), row(3, 2, 1)), 1, 2, 1);
    IS_ROW(ag_maximum(row(1, 2, 3), row(3, 2, 1)), 3, 2, 3);
    IS_ROW(ag_greater(row(1, 2, 3), row(3, 2, 1)), 0, 0, 1);
    IS_ROW(ag_where(row(0, -1, 0.5), row(1, 2, 3), row(4, 5, 6)), 4, 2, 3);
    IS_ROW(ag_neg(row(1, -2, 0)), -1, 2, 0);
    IS_ROW(ag_scale(row(1, -2, 3), 1.5), 1.5, -3, 4.5);
    IS_ROW(ag_shift(row(1, -2, 3), 1.5), 2.5, -0.5, 4.5);
    IS_ROW(ag_pow(row(2, -3, 0), 3), 8, -27, 0);
    IS_ROW(ag_pow(row(4, 9, 0.25), -0.5), 0.5, 1.0 / 3, 2);
    IS_ROW(ag_exp(row(0, 1, -100)), 1, 2.718281828459045, 3.720075976020836e-44);
    IS_ROW(ag_log(row(1, 2.718281828459045, 1e-300)), 0, 1, -690.7755278982137);
    IS_ROW(ag_sqrt(row(0, 2, 1e20)), 0, 1.4142135623730951, 1e10);
    IS_ROW(ag_tanh(row(0, 1, -100)), 0, 0.7615941559557649, -1);
    IS_ROW(ag_sigmoid(row(0, 1, -100)), 0.5, 0.7310585786300049, 3.720075976020836e-44);
    IS_ROW(ag_sigmoid(row(1000, -1000, 100)), 1, 0, 1);
    IS_ROW(ag_log_sigmoid(row(0, 1, -1000)), -0.6931471805599453, -0.3132616875182228, -1000);
    IS_ROW(ag_relu(row(-1, 0, 2)), 0, 0, 2);
    IS_ROW(ag_gelu(row(0, 1, -1)), 0, 0.8411919906082768, -0.15880800939172324);
    IS_ROW(ag_gelu(row(3, 100, -100)), 2.99636260791823, 100, 0);
    IS_ROW(ag_silu(row(0, 1, -1)), 0, 0.7310585786300049, -0.2689414213699951);
    IS_ROW(ag_silu(row(100, -1000, 1000)), 100, 0, 1000);
    IS_ROW(ag_clamp(row(-2, 0.5, 2), -1, 1), -1, 0.5, 1);
    IS_ROW(ag_softmax(row(1, 2, 3)), 0.09003057317038046, 0.24472847105479767, 0.6652409557748219);
    IS_ROW(ag_softmax(row(1000, 1000, -1000)), 0.5, 0.5, 0);
    IS_ROW(ag_log_softmax(row(1, 2, 3)), -2.4076059644443806, -1.4076059644443804, -0.4076059644443804);
    IS_ROW(ag_log_softmax(row(1000, 0, -1000)), 0, -1000, -2000);
    IS_ROW(ag_layernorm(row(1, 2, 3), row(1, 1, 2), row(0, 0, 1), 0), -1.224744871391589, 0, 3.449489742783178);
    IS_ROW(ag_rmsnorm(row(1, 2, 2), row(1, 1, 2), 0), 0.5773502691896258, 1.1547005383792517, 2.3094010767585034);
    IS_ROW(ag_layernorm(row(5, 5, 5), row(1, 1, 1), row(7, 8, 9), 1e-5), 7, 8, 9);
    CHECK_NEAR(ag_item(ag_mean(row(1, 2, 6))), 3, 1e-15);
    CHECK_NEAR(ag_item(ag_sum(row(1, 2, 6))), 9, 1e-15);
    CHECK(ag_error(values) == NULL);
    ag_free(values);
}

static void shape_values(void) {
    ag_ctx *g = ag_new(1);
    ag_real x[24], y[48];
    int ids[] = {1, 0, 1};
    ag_tensor *t, *u, *xs[2];
    for (int i = 0; i < 24; i++) x[i] = (ag_real)i;
    t = ag_input(g, x, 2, 3, 4);
    u = ag_permute(t, 2, 0, 1, -1);                                     // u[k][i][j] = t[i][j][k]
    CHECK(ag_shape_is(u, 4, 2, 3, -1));
    ag_get(u, y);
    for (int k = 0; k < 4; k++) for (int i = 0; i < 2; i++) for (int j = 0; j < 3; j++)
        CHECK(y[(k * 2 + i) * 3 + j] == x[(i * 3 + j) * 4 + k]);
    u = ag_slice(t, 1, 1, 2);
    CHECK(ag_shape_is(u, 2, 2, 4, -1));
    ag_get(u, y);
    for (int i = 0; i < 16; i++) CHECK(y[i] == x[i / 8 * 12 + 4 + i % 8]);
    xs[0] = u, xs[1] = t;
    u = ag_concat(xs, 2, -2);
    CHECK(ag_shape_is(u, 2, 5, 4, -1));
    ag_get(u, y);
    for (int i = 0; i < 40; i++) CHECK(y[i] == x[i / 20 * 12 + (i % 20 < 8 ? 4 + i % 20 : i % 20 - 8)]);
    u = ag_reshape(t, 4, -1);
    CHECK(ag_shape_is(u, 4, 6, -1, -1));
    ag_get(u, y);
    for (int i = 0; i < 24; i++) CHECK(y[i] == x[i]);
    u = ag_max_dim(t, 1);
    CHECK(ag_shape_is(u, 2, 1, 4, -1));
    ag_get(u, y);
    for (int i = 0; i < 8; i++) CHECK(y[i] == x[i / 4 * 12 + 8 + i % 4]);
    u = ag_sum_dim(t, 0);
    CHECK(ag_shape_is(u, 1, 3, 4, -1));
    ag_get(u, y);
    for (int i = 0; i < 12; i++) CHECK(y[i] == x[i] + x[12 + i]);
    u = ag_mean_dim(t, -1);
    CHECK(ag_shape_is(u, 2, 3, 1, -1));
    ag_get(u, y);
    for (int i = 0; i < 6; i++) CHECK(y[i] == x[4 * i] + 1.5);
    CHECK(ag_shape_is(ag_sum(t), -1, -1, -1, -1));
    u = ag_embedding(ag_reshape(t, 6, 4), ids, 3, 0);
    CHECK(ag_shape_is(u, 3, 4, -1, -1));
    ag_get(u, y);
    for (int i = 0; i < 12; i++) CHECK(y[i] == x[ids[i / 4] * 4 + i % 4]);
    u = ag_gather(ag_slice(ag_reshape(t, 6, 4), 0, 0, 3), ids);
    CHECK(ag_shape_is(u, 3, -1, -1, -1));
    ag_get(u, y);
    for (int i = 0; i < 3; i++) CHECK(y[i] == x[i * 4 + ids[i]]);
    ids[0] = 3;                                                         // ids are copied by the op
    CHECK(ag_error(g) == NULL);
    ag_free(g);
}

static void matmul_values(void) {
    ag_ctx *g = ag_new(1);
    ag_real a[2 * 3 * 4], b[3 * 4 * 5], y[2 * 3 * 3 * 5], yt[90];
    for (int i = 0; i < 24; i++) a[i] = (ag_real)((i * 7) % 11 - 5);
    for (int i = 0; i < 60; i++) b[i] = (ag_real)((i * 5) % 13 - 6);
    // (2,1,3,4) x (3,4,5): row and column by hand, small integers, so equality is exact
    ag_tensor *A = ag_input(g, a, 2, 1, 3, 4), *B = ag_input(g, b, 3, 4, 5);
    ag_get(ag_matmul(A, B), y);
    ag_get(ag_matmul_t(A, ag_permute(B, 0, 2, 1, -1)), yt);
    for (int p = 0; p < 2; p++) for (int q = 0; q < 3; q++) for (int m = 0; m < 3; m++) for (int n = 0; n < 5; n++) {
        double s = 0;
        for (int k = 0; k < 4; k++) s += (double)a[(p * 3 + m) * 4 + k] * b[(q * 4 + k) * 5 + n];
        CHECK(y[((p * 3 + q) * 3 + m) * 5 + n] == s);
        CHECK(yt[((p * 3 + q) * 3 + m) * 5 + n] == s);
    }
    ag_free(g);
}

// ---- fused ops and the compositions that they replace --------------------------------------------------------------
static ag_tensor *P(ag_ctx *g, int i) { return ag_param_get(g, i); }

static ag_tensor *softmax_by_hand(ag_tensor *x) {
    ag_tensor *e = ag_exp(ag_sub(x, ag_max_dim(ag_detach(x), -1)));
    return ag_div(e, ag_sum_dim(e, -1));
}

static ag_tensor *layernorm_by_hand(ag_tensor *x, ag_tensor *w, ag_tensor *bias, double eps) {
    ag_tensor *c = ag_sub(x, ag_mean_dim(x, -1)), *var = ag_mean_dim(ag_mul(c, c), -1);
    ag_tensor *y = ag_mul(ag_div(c, ag_sqrt(ag_shift(var, eps))), w);
    return bias ? ag_add(y, bias) : y;
}

static ag_tensor *rmsnorm_by_hand(ag_tensor *x, ag_tensor *w, double eps) {
    return ag_mul(ag_mul(x, ag_pow(ag_shift(ag_mean_dim(ag_mul(x, x), -1), eps), -0.5)), w);
}

// One head at a time: scores, a mask of -1e30 above the diagonal, softmax, values.
static ag_tensor *attention_by_hand(ag_tensor *qkv, int NH, int NKV, const int *len) {
    int T = qkv->shape[1], Bn = qkv->shape[0], hs = qkv->shape[2] / (NH + 2 * NKV);
    ag_real mask[32 * 32], alive[64];
    ag_tensor *heads[8];
    for (int t = 0; t < T; t++) for (int u = 0; u < T; u++) mask[t * T + u] = u <= t ? 0 : (ag_real)-1e30;
    for (int b = 0; b < Bn; b++) for (int t = 0; t < T; t++) alive[b * T + t] = !len || t < len[b];
    for (int h = 0; h < NH; h++) {
        int kv = h / (NH / NKV);
        ag_tensor *q = ag_slice(qkv, 2, h * hs, hs), *k = ag_slice(qkv, 2, (NH + kv) * hs, hs);
        ag_tensor *v = ag_slice(qkv, 2, (NH + NKV + kv) * hs, hs);
        ag_tensor *s = ag_add(ag_scale(ag_matmul_t(q, k), 1 / sqrt((double)hs)), ag_input(qkv->ctx, mask, T, T));
        heads[h] = ag_mul(ag_matmul(softmax_by_hand(s), v), ag_input(qkv->ctx, alive, Bn, T, 1));
    }
    return ag_concat(heads, NH, 2);
}

// Texts one after the other: each on its own.
static ag_tensor *texts_by_hand(ag_tensor *qkv, int NH, int NKV, int B, const int *len) {
    ag_tensor *y[8];
    int n = 0, W = qkv->shape[qkv->ndim - 1];
    ag_tensor *flat = ag_reshape(qkv, 1, -1, W);
    for (int b = 0, at = 0; b < B; at += len[b++])
        if (len[b]) y[n++] = attention_by_hand(ag_slice(flat, 1, at, len[b]), NH, NKV, NULL);
    ag_tensor *all = ag_concat(y, n, 1);
    return qkv->ndim == 3 ? ag_permute(all, 1, 0, 2, -1) : ag_reshape(all, all->shape[1], all->shape[2]);
}

// (x0, x1) -> (x0 c - x1 s, x0 s + x1 c) as x * C + (x P) * S, where P swaps the pair and flips a sign.
static ag_tensor *rope_by_hand(ag_tensor *x, int hs, int n_rotate, const int *start, double theta) {
    int Bn = x->shape[0], T = x->shape[1], H = x->shape[2] / hs;
    ag_real *c = (ag_real *)calloc(x->count, sizeof *c), *s = (ag_real *)calloc(x->count, sizeof *s), swap[64] = {0};
    size_t n = 0;
    for (int b = 0; b < Bn; b++) for (int t = 0; t < T; t++) for (int h = 0; h < H; h++) 
    for (int i = 0; i < hs; i++, n++) {
        double angle = h < n_rotate ? ((start ? start[b] : 0) + t) * pow(theta, -2.0 * (i / 2) / hs) : 0;
        c[n] = (ag_real)cos(angle), s[n] = (ag_real)sin(angle);
    }
    for (int i = 0; i < hs; i += 2) swap[(i + 1) * hs + i] = -1, swap[i * hs + i + 1] = 1;
    ag_tensor *swapped = ag_reshape(ag_matmul(ag_reshape(x, -1, hs), ag_input(x->ctx, swap, hs, hs)), Bn, T, H * hs);
    ag_tensor *y = ag_add(ag_mul(x, ag_input(x->ctx, c, Bn, T, H * hs)),
        ag_mul(swapped, ag_input(x->ctx, s, Bn, T, H * hs)));
    free(c), free(s);
    return y;
}

static ag_tensor *qk_norm_rope_by_hand(ag_tensor *x, ag_tensor *wq, ag_tensor *wk, int NH, int NKV, const int *start,
    double theta, double eps) {
    int Bn = x->shape[0], T = x->shape[1], hs = x->shape[2] / (NH + 2 * NKV);
    ag_tensor *q = ag_slice(x, 2, 0, NH * hs), *k = ag_slice(x, 2, NH * hs, NKV * hs),
        *v = ag_slice(x, 2, (NH + NKV) * hs, NKV * hs);
    if (wq) q = ag_reshape(rmsnorm_by_hand(ag_reshape(q, Bn, T, NH, hs), wq, eps), Bn, T, NH * hs);
    if (wk) k = ag_reshape(rmsnorm_by_hand(ag_reshape(k, Bn, T, NKV, hs), wk, eps), Bn, T, NKV * hs);
    if (theta > 0) q = rope_by_hand(q, hs, NH, start, theta), k = rope_by_hand(k, hs, NKV, start, theta);
    return concat3(q, k, v, 2);
}

static ag_tensor *swiglu_by_hand(ag_tensor *x) {
    int h = x->shape[x->ndim - 1] / 2;
    return ag_mul(ag_silu(ag_slice(x, -1, 0, h)), ag_slice(x, -1, h, h));
}

static ag_tensor *nll_by_hand(ag_tensor *x, const int *targets) {
    int rows = (int)(x->count) / x->shape[x->ndim - 1], ids[16];
    ag_real counts[16];
    for (int r = 0; r < rows; r++)
        ids[r] = targets[r] == AG_IGNORE ? 0 : targets[r], counts[r] = targets[r] != AG_IGNORE;
    ag_tensor *nll = ag_mul(ag_neg(ag_gather(ag_reshape(ag_log_softmax(x), rows, -1), ids)),
        ag_input(x->ctx, counts, rows));
    return x->ndim == 3 ? ag_reshape(nll, x->shape[0], x->shape[1]) : nll;
}

static ag_tensor *cross_entropy_by_hand(ag_tensor *x, const int *targets, const ag_real *weights) {
    int rows = (int)x->count / x->shape[x->ndim - 1];
    ag_real w[16], sum = 0;
    for (int r = 0; r < rows; r++) w[r] = targets[r] == AG_IGNORE ? 0 : weights ? weights[r] : 1, sum += w[r];
    return ag_scale(ag_sum(ag_mul(ag_reshape(nll_by_hand(x, targets), -1), ag_input(x->ctx, w, rows))),
        1 / (double)sum);
}

static ag_tensor *tanh_gelu(ag_tensor *x) {
    ag_tensor *inner = ag_scale(ag_add(x, ag_scale(ag_pow(x, 3), 0.044715)), sqrt(2 / 3.14159265358979323846));
    return ag_mul(ag_scale(x, 0.5), ag_shift(ag_tanh(inner), 1));
}

#define TWINS(X) \
    X(softmax, "3,7n", ag_softmax(P(g, 0)), softmax_by_hand(P(g, 0))) \
    X(softmax_large, "3,7b", ag_softmax(P(g, 0)), softmax_by_hand(P(g, 0))) \
    X(log_softmax, "3,7n", ag_log_softmax(P(g, 0)), ag_log(softmax_by_hand(P(g, 0)))) \
    X(layernorm, "3,7n 7n 7n", ag_layernorm(P(g, 0), P(g, 1), P(g, 2), 1e-5), \
        layernorm_by_hand(P(g, 0), P(g, 1), P(g, 2), 1e-5)) \
    X(layernorm_eps, "3,7n 7n", ag_layernorm(P(g, 0), P(g, 1), NULL, 0.3), \
        layernorm_by_hand(P(g, 0), P(g, 1), NULL, 0.3)) \
    X(rmsnorm, "2,3,7n 7n", ag_rmsnorm(P(g, 0), P(g, 1), 0.2), rmsnorm_by_hand(P(g, 0), P(g, 1), 0.2)) \
    X(linear, "2,3,5n 5,7n 7n", ag_linear(P(g, 0), P(g, 1), P(g, 2)), ag_add(ag_matmul(P(g, 0), P(g, 1)), P(g, 2))) \
    X(matmul_t, "2,3,5n 2,7,5n", ag_matmul_t(P(g, 0), P(g, 1)), ag_matmul(P(g, 0), ag_permute(P(g, 1), 0, 2, 1, -1))) \
    X(attention, "2,5,18n", ag_attention(P(g, 0), 2, 2, NULL, NULL, NULL), attention_by_hand(P(g, 0), 2, 2, NULL)) \
    X(attention_grouped, "2,5,24n", ag_attention(P(g, 0), 4, 2, NULL, NULL, NULL), \
        attention_by_hand(P(g, 0), 4, 2, NULL)) \
    X(attention_one_key, "1,7,15n", ag_attention(P(g, 0), 3, 1, NULL, NULL, NULL), \
        attention_by_hand(P(g, 0), 3, 1, NULL)) \
    X(attention_ragged, "2,5,24n", ag_attention(P(g, 0), 4, 2, NULL, NULL, lens2), \
        attention_by_hand(P(g, 0), 4, 2, lens2)) \
    X(attention_texts, "8,24n", ag_attention_ragged(P(g, 0), 4, 2, NULL, 3, NULL, NULL, lens3), \
        texts_by_hand(P(g, 0), 4, 2, 3, lens3)) \
    X(attention_texts_3d, "8,1,18n", ag_attention_ragged(P(g, 0), 2, 2, NULL, 3, NULL, NULL, lens3), \
        texts_by_hand(P(g, 0), 2, 2, 3, lens3)) \
    X(attention_large, "1,5,9b", ag_attention(P(g, 0), 1, 1, NULL, NULL, NULL), \
        attention_by_hand(P(g, 0), 1, 1, NULL)) \
    X(rope, "2,5,12n", ag_rope(P(g, 0), 4, 3, NULL, 10000), rope_by_hand(P(g, 0), 4, 3, NULL, 10000)) \
    X(rope_some, "2,5,24n", ag_rope(P(g, 0), 6, 2, starts2, 100), rope_by_hand(P(g, 0), 6, 2, starts2, 100)) \
    X(qk_norm_rope, "2,3,20n 4n 4n", ag_qk_norm_rope(P(g, 0), P(g, 1), P(g, 2), 3, 1, starts2, 100, 0.1), \
        qk_norm_rope_by_hand(P(g, 0), P(g, 1), P(g, 2), 3, 1, starts2, 100, 0.1)) \
    X(qk_rope, "2,3,32n", ag_qk_norm_rope(P(g, 0), NULL, NULL, 4, 2, NULL, 10000, 0.1), \
        qk_norm_rope_by_hand(P(g, 0), NULL, NULL, 4, 2, NULL, 10000, 0.1)) \
    X(qk_norm, "2,3,15n 3n 3n", ag_qk_norm_rope(P(g, 0), P(g, 1), P(g, 2), 3, 1, NULL, 0, 0.1), \
        qk_norm_rope_by_hand(P(g, 0), P(g, 1), P(g, 2), 3, 1, NULL, 0, 0.1)) \
    X(swiglu, "3,10n", ag_swiglu(P(g, 0)), swiglu_by_hand(P(g, 0))) \
    X(nll, "4,7n", ag_nll(P(g, 0), targets_ignore), nll_by_hand(P(g, 0), targets_ignore)) \
    X(nll_large, "4,7b", ag_nll(P(g, 0), targets4), nll_by_hand(P(g, 0), targets4)) \
    X(cross_entropy, "2,3,5n", ag_cross_entropy(P(g, 0), targets6, NULL), \
        cross_entropy_by_hand(P(g, 0), targets6, NULL)) \
    X(cross_entropy_weights, "4,7n", ag_cross_entropy(P(g, 0), targets_ignore, weights4), \
        cross_entropy_by_hand(P(g, 0), targets_ignore, weights4)) \
    X(log_sigmoid, "3,7n", ag_log_sigmoid(P(g, 0)), ag_log(ag_sigmoid(P(g, 0)))) \
    X(gelu, "3,7n", ag_gelu(P(g, 0)), tanh_gelu(P(g, 0))) \
    X(silu, "3,7n", ag_silu(P(g, 0)), ag_mul(P(g, 0), ag_sigmoid(P(g, 0)))) \
    X(tanh, "3,7n", ag_tanh(P(g, 0)), ag_shift(ag_scale(ag_sigmoid(ag_scale(P(g, 0), 2)), 2), -1)) \
    X(mean, "3,7n", ag_mean(P(g, 0)), ag_scale(ag_sum(P(g, 0)), 1.0 / 21)) \
    X(mean_dim, "3,7n", ag_mean_dim(P(g, 0), 0), ag_scale(ag_sum_dim(P(g, 0), 0), 1.0 / 3)) \
    X(sqrt, "3,7u", ag_sqrt(P(g, 0)), ag_exp(ag_scale(ag_log(P(g, 0)), 0.5))) \
    X(clamp, "3,7k", ag_clamp(P(g, 0), -0.4, 0.6), \
        ag_minimum(ag_maximum(P(g, 0), ag_full(g, (ag_real)-0.4, 1)), ag_full(g, (ag_real)0.6, 1)))

typedef struct twin { const char *name, *spec; ag_tensor *(*fused)(ag_ctx *g), *(*composed)(ag_ctx *g); } twin;
#define TWIN_FUNCTIONS(name, spec, fused, composed) \
    static ag_tensor *fused_##name(ag_ctx *g) { return fused; } \
    static ag_tensor *composed_##name(ag_ctx *g) { return composed; }
#define TWIN_ENTRY(name, spec, fused, composed) { #name, spec, fused_##name, composed_##name },
TWINS(TWIN_FUNCTIONS)
static const twin twins[] = { TWINS(TWIN_ENTRY) };

static size_t value_and_gradients(ag_ctx *g, ag_tensor *(*f)(ag_ctx *g), ag_real *out) {
    ag_tensor *y = f(g);
    size_t n = 0;
    if (!y || ag_backward(weighed(y))) return 0;
    ag_get(y, out), n = y->count;
    for (int i = 0; i < ag_param_count(g); i++) ag_get_grad(P(g, i), out + n), n += P(g, i)->count;
    ag_zero_grad(g);
    return n;
}

static void fused_ops_equal_their_compositions(void) {
    double worst = 0;
    for (size_t k = 0; k < sizeof twins / sizeof *twins; k++) {
        static ag_real a[2000], b[2000];
        ag_ctx *g = ag_new(1);
        make_params(g, twins[k].spec, seed_of(twins[k].name));
        size_t n = value_and_gradients(g, twins[k].fused, a), m = value_and_gradients(g, twins[k].composed, b);
        if (!n || n != m) T_FAIL("%s: %zu and %zu numbers: %s", twins[k].name, n, m,
            ag_error(g) ? ag_error(g) : "shapes differ");
        for (size_t i = 0; i < n && i < m; i++) {
            double error = fabs(a[i] - b[i]) / (1 + fabs(b[i]));
            if (error > worst) worst = error;
            if (!(error <= 1e-11)) T_FAIL("%s: number %zu of %zu is %.12g, by hand %.12g", twins[k].name, i, n,
                (double)a[i], (double)b[i]);
        }
        ag_free(g);
    }
    printf("  %d compositions, worst difference %.2g\n", (int)(sizeof twins / sizeof *twins), worst);
}

// Prefill in pieces into a cache, then one position at a time; two rows that start at different positions.
static void attention_cache_equals_the_full_pass(void) {
    enum { T = 9, NH = 4, NKV = 2, HS = 3, W = (NH + 2 * NKV) * HS };
    ag_ctx *g = ag_new(1);
    make_params(g, "2,9,24n", 3);
    ag_real full[2 * T * NH * HS], x[2 * T * W], part[2 * T * W], y[2 * T * NH * HS];
    int start[2] = {0, 0};
    ag_get(P(g, 0), x);
    ag_get(ag_attention(P(g, 0), NH, NKV, NULL, NULL, NULL), full);
    ag_kv cache;
    cache.k = ag_state(g, 3, T + 2, NKV * HS), cache.v = ag_state(g, 3, T + 2, NKV * HS);
    for (int from = 0, step = 4; from < T; from += step, step = from < 6 ? 2 : 1) {
        for (int b = 0; b < 2; b++) memcpy(part + b * step * W, x + (b * T + from) * W, (size_t)step * W * sizeof *x);
        start[0] = start[1] = from;
        ag_tensor *t = ag_attention(ag_input(g, part, 2, step, W), NH, NKV, &cache, start, NULL);
        CHECK(t && !t->needs_grad);
        CHECK(ag_get(t, y) == 0);
        for (int b = 0; b < 2; b++) for (int i = 0; i < step * NH * HS; i++)
            CHECK_NEAR(y[b * step * NH * HS + i], full[(b * T + from) * NH * HS + i], 1e-14);
    }
    // Ragged: row 0 brings three new positions from 4 on, row 1 one from 7 on.
    int ragged_start[2] = {4, 7}, ragged_len[2] = {3, 1};
    memcpy(part, x + 4 * W, 3 * W * sizeof *x), memcpy(part + 3 * W, x + (T + 7) * W, W * sizeof *x);
    CHECK(ag_get(ag_attention(ag_input(g, part, 2, 3, W), NH, NKV, &cache, ragged_start, ragged_len), y) == 0);
    for (int i = 0; i < 3 * NH * HS; i++) CHECK_NEAR(y[i], full[4 * NH * HS + i], 1e-14);
    for (int i = 0; i < NH * HS; i++) CHECK_NEAR(y[3 * NH * HS + i], full[(T + 7) * NH * HS + i], 1e-14);
    for (int i = NH * HS; i < 3 * NH * HS; i++) CHECK(y[3 * NH * HS + i] == 0);
    // The same without padding, and the second text in row 2 of the cache, in two pieces; row 1 stays as it is.
    int row[2] = {0, 2}, some[2] = {3, 5}, some_start[2] = {4, 0}, rest = T - 5, rest_start = 5;
    memcpy(part + 3 * W, x + T * W, 5 * W * sizeof *x);
    ag_tensor *t = ag_attention_ragged(ag_input(g, part, 8, 1, W), NH, NKV, &cache, 2, row, some_start, some);
    CHECK(ag_get(t, y) == 0);
    for (int i = 0; i < 3 * NH * HS; i++) CHECK_NEAR(y[i], full[4 * NH * HS + i], 1e-14);
    for (int i = 0; i < 5 * NH * HS; i++) CHECK_NEAR(y[3 * NH * HS + i], full[T * NH * HS + i], 1e-14);
    memset(part, 0, sizeof part), ag_set_part(cache.k, 0, (T + 2) * NKV * HS, part);
    t = ag_attention_ragged(ag_input(g, x + (T + 5) * W, T - 5, W), NH, NKV, &cache, 1, row + 1, &rest_start, &rest);
    CHECK(ag_get(t, y) == 0);
    for (int i = 0; i < (T - 5) * NH * HS; i++) CHECK_NEAR(y[i], full[(T + 5) * NH * HS + i], 1e-14);
    ag_get_part(cache.k, (T + 2) * NKV * HS, T * NKV * HS, part);
    for (int t1 = 0; t1 < T; t1++)
        CHECK(!memcmp(part + t1 * NKV * HS, x + (T + t1) * W + NH * HS, NKV * HS * sizeof *x));
    CHECK(ag_error(g) == NULL);
    ag_free(g);
}

// A query never sees a later position, and padding beyond len never changes what stands before it.
static void attention_is_causal(void) {
    ag_real x[2 * 6 * 12], y[2 * 6 * 4], z[2 * 6 * 4], d[2 * 6 * 12];
    int lens[2] = {6, 3};
    ag_ctx *g = ag_new(1);
    make_params(g, "2,6,12n", 4);
    ag_get(P(g, 0), x);
    ag_get(ag_attention(P(g, 0), 1, 1, NULL, NULL, lens), y);
    for (int i = 0; i < 12; i++) x[4 * 12 + i] += 3, x[(6 + 3) * 12 + i] = (ag_real)1e6;
    ag_set(P(g, 0), x);
    ag_tensor *t = ag_attention(P(g, 0), 1, 1, NULL, NULL, lens);
    ag_get(t, z);
    for (int i = 0; i < 4 * 4; i++) CHECK(y[i] == z[i]);
    for (int i = 0; i < 6 * 4; i++) CHECK(y[6 * 4 + i] == z[6 * 4 + i]);
    CHECK(y[4 * 4] != z[4 * 4]);
    ag_backward(weighed(t));
    ag_get_grad(P(g, 0), d);
    for (int i = 3 * 12; i < 6 * 12; i++) CHECK(d[6 * 12 + i] == 0);    // the padding of row 1 learns nothing
    for (int i = 0; i < 3 * 12; i++) CHECK(d[6 * 12 + i] != 0 || i / 4 == 0 || i < 8);
    ag_free(g);
}

// ---- ties, kinks ---------------------------------------------------------------------------------------------------
static void ties_go_where_the_header_says(void) {
    ag_ctx *g = ag_new(1);
    ag_real x[] = {2, 5, 5, 1, 5, 5}, d[6], e[6];
    ag_tensor *a = ag_param(g, 2, 3), *b = ag_param(g, 2, 3);
    ag_set(a, x), ag_set(b, x);
    ag_backward(ag_sum(ag_max_dim(a, 1)));
    ag_get_grad(a, d);
    for (int i = 0; i < 6; i++) CHECK(d[i] == (i == 1 || i == 4));
    ag_zero_grad(g);
    ag_backward(ag_sum(ag_max_dim(a, 0)));
    ag_get_grad(a, d);
    for (int i = 0; i < 6; i++) CHECK(d[i] == (i == 0 || i == 1 || i == 2));
    ag_zero_grad(g);
    ag_backward(ag_sum(ag_minimum(a, b)));
    ag_get_grad(a, d), ag_get_grad(b, e);
    for (int i = 0; i < 6; i++) CHECK(d[i] == 1 && e[i] == 0);
    ag_zero_grad(g);
    ag_backward(ag_sum(ag_maximum(a, b)));
    ag_get_grad(a, d), ag_get_grad(b, e);
    for (int i = 0; i < 6; i++) CHECK(d[i] == 1 && e[i] == 0);
    ag_zero_grad(g);
    ag_backward(ag_sum(ag_clamp(a, 2, 4)));
    ag_get_grad(a, d);
    for (int i = 0; i < 6; i++) CHECK(d[i] == (i == 0));                // 2 is inside, 5 and 1 are not
    ag_free(g);
}

// ---- sharing, detaching, accumulating ------------------------------------------------------------------------------
static double one_gradient(ag_tensor *t) {
    ag_real d[64];
    CHECK(t->count <= 64 && ag_get_grad(t, d) == 0);
    return (double)d[0];
}

static void b_is_a_plus_a(void) {                   // b = a + a; c = b + b: dc/da = 4
    ag_ctx *g = ag_new(1);
    ag_tensor *a = ag_param(g, 1);
    ag_fill(a, 3);
    ag_tensor *b = ag_add(a, a), *c = ag_add(b, b);
    ag_backward(c);
    CHECK(ag_item(c) == 12 && one_gradient(a) == 4);
    ag_free(g);
}

static void detached_tensors_pass_nothing_on(void) {
    ag_ctx *g = ag_new(1);
    ag_real x[5], d[5];
    make_params(g, "5n", 1);
    ag_get(P(g, 0), x);
    ag_tensor *cut = ag_detach(ag_exp(P(g, 0)));
    CHECK(!cut->needs_grad);
    ag_backward(ag_sum(ag_mul(cut, P(g, 0))));
    ag_get_grad(P(g, 0), d);
    for (int i = 0; i < 5; i++) CHECK_NEAR(d[i], exp((double)x[i]), 1e-12);
    ag_free(g);
}

static void frozen_parameters_get_nothing(void) {
    ag_ctx *g = ag_new(1);
    ag_real before[15], after[15];
    make_params(g, "4,3n 3,5n 5n", 1);
    ag_trainable(P(g, 1), 0);
    ag_get(P(g, 1), before);
    CHECK(ag_backward(weighed(ag_linear(P(g, 0), P(g, 1), P(g, 2)))) == 0);
    CHECK(one_gradient(P(g, 1)) == 0 && one_gradient(P(g, 0)) != 0 && one_gradient(P(g, 2)) != 0);
    CHECK(ag_adamw(g, 0.1, 0.9, 0.999, 0.1) == 0);
    ag_get(P(g, 1), after);
    CHECK(!memcmp(before, after, sizeof before));
    ag_trainable(P(g, 1), 1);
    ag_backward(weighed(ag_linear(P(g, 0), P(g, 1), P(g, 2))));
    CHECK(one_gradient(P(g, 1)) != 0);
    ag_free(g);
}

static void kept_gradients_are_right(void) {
    ag_ctx *g = ag_new(1);
    ag_real x[6], h[6], dh[6], dx[6];
    make_params(g, "2,3n", 1);
    ag_get(P(g, 0), x);
    ag_tensor *t = ag_tanh(P(g, 0)), *u = ag_exp(t);
    ag_keep_grad(t);
    ag_backward(ag_sum(ag_mul(u, t)));              // d/dt (e^t t) = e^t (t + 1)
    ag_get(t, h), ag_get_grad(t, dh), ag_get_grad(P(g, 0), dx);
    for (int i = 0; i < 6; i++) {
        CHECK_NEAR(dh[i], exp((double)h[i]) * (h[i] + 1), 1e-12);
        CHECK_NEAR(dx[i], dh[i] * (1 - h[i] * h[i]), 1e-12);
    }
    CHECK(one_gradient(u) == 0);                    // it was not asked for
    ag_free(g);
}

// Two backward passes over one tape, over parts of it, and over two tapes: gradients add up, never more, never less.
static void gradients_add_up(void) {
    for (int keep = 0; keep < 2; keep++) {
        ag_ctx *g = ag_new(1);
        ag_real one[12], many[12];
        make_params(g, "3,4n", 1);
        ag_tensor *t = ag_tanh(P(g, 0)), *u = ag_mul(ag_exp(t), t), *l = ag_sum(ag_mul(u, ag_sum_dim(u, 0)));
        if (keep) ag_keep_grad(t), ag_keep_grad(u);
        CHECK(ag_backward(l) == 0);
        ag_get_grad(P(g, 0), one);
        for (int k = 2; k < 5; k++) {
            CHECK(ag_backward(l) == 0);
            ag_get_grad(P(g, 0), many);
            for (int i = 0; i < 12; i++) CHECK_NEAR(many[i], k * one[i], 1e-12 * (1 + fabs(k * one[i])));
        }
        ag_reset(g);
        t = ag_tanh(P(g, 0)), u = ag_mul(ag_exp(t), t);
        CHECK(ag_backward(ag_sum(ag_mul(u, ag_sum_dim(u, 0)))) == 0);
        ag_get_grad(P(g, 0), many);
        for (int i = 0; i < 12; i++) CHECK_NEAR(many[i], 5 * one[i], 1e-12 * (1 + fabs(5 * one[i])));
        ag_free(g);
    }
}

// Losses that share a trunk, differentiated one after the other in every order: the buffers of the tape are used again
// between them, and none may end up in two hands.
static void losses_with_a_common_trunk(void) {
    ag_rng r = {77, 0};
    for (int round = 0; round < 400; round++) {
        enum { N = 14, L = 4 };
        ag_ctx *g = ag_new(1);
        ag_tensor *t[N], *loss[L];
        ag_real one[10], sum[10], got[10];
        char note[80];
        make_params(g, "4n 4n 1n", (uint64_t)round);
        for (int i = 0; i < 3; i++) t[i] = P(g, i);
        for (int i = 3; i < N; i++) {
            ag_tensor *a = t[ag_rng_u32(&r) % (unsigned)i], *b = t[ag_rng_u32(&r) % (unsigned)i];
            int op = (int)(ag_rng_u32(&r) % 4);
            t[i] = op == 0 ? ag_tanh(a) : op == 1 ? ag_mul(a, b) : op == 2 ? ag_add(a, b)
                : ag_mean_dim(ag_sub(a, b), 0);
            if (ag_rng_u32(&r) % 8 == 0) ag_keep_grad(t[i]);
        }
        for (int k = 0; k < L; k++) loss[k] = ag_sum(t[3 + ag_rng_u32(&r) % (N - 3)]);
        memset(sum, 0, sizeof sum);
        for (int k = 0; k < L; k++) {               // each alone, on a tape whose buffers nobody has used yet
            CHECK(ag_backward(loss[k]) == 0);
            ag_get_grad(P(g, 0), one), ag_get_grad(P(g, 1), one + 4), ag_get_grad(P(g, 2), one + 8);
            for (int i = 0; i < 9; i++) sum[i] += one[i];
            ag_zero_grad(g);
        }
        for (int k = L - 1; k >= 0; k--) CHECK(ag_backward(loss[k]) == 0);
        ag_get_grad(P(g, 0), got), ag_get_grad(P(g, 1), got + 4), ag_get_grad(P(g, 2), got + 8);
        snprintf(note, sizeof note, "round %d", round);
        for (int i = 0; i < 9; i++) if (!(fabs(got[i] - sum[i]) <= 1e-12 * (1 + fabs(sum[i]))))
            T_FAIL("%s: %g is not %g", note, (double)got[i], (double)sum[i]);
        ag_free(g);
    }
}

// The case that once ran in a circle: a later loss needs a gradient of a size that no spare buffer has.
static void a_new_size_after_two_losses(void) {
    ag_ctx *g = ag_new(1);
    ag_real d[5];
    make_params(g, "4n 4n 5n", 1);
    ag_tensor *a = ag_tanh(P(g, 0)), *b = ag_tanh(P(g, 1));
    ag_backward(ag_sum(ag_mul(a, b)));
    ag_backward(ag_sum(b));
    CHECK(ag_backward(ag_sum(ag_scale(ag_scale(P(g, 2), 3), 2))) == 0);
    ag_get_grad(P(g, 2), d);
    for (int i = 0; i < 5; i++) CHECK(d[i] == 6);
    ag_free(g);
}

// What is computed again is what it was: all gradients of all cases, twice over the same tape.
static void forgotten_results_come_back(void) {
    int forgotten = 0;
    for (int i = 0; i < N_OP_CASES; i++) {
        ag_ctx *g = ag_new(1), *h = ag_new(1);
        make_params(g, op_cases[i].spec, seed_of(op_cases[i].name));
        make_params(h, op_cases[i].spec, seed_of(op_cases[i].name));
        ag_tensor *l = weighed(op_cases[i].build(g)), *m = weighed(op_cases[i].build(h));
        forgotten += forget_all(h);
        for (int k = 0; k < 2; k++) CHECK(!ag_backward(l) && !ag_backward(m));
        for (int k = 0; k < ag_param_count(g); k++) {
            size_t n = P(g, k)->count;
            ag_real *x = (ag_real *)malloc((n + 1) * sizeof *x), *y = (ag_real *)malloc((n + 1) * sizeof *y);
            ag_get_grad(P(g, k), x), ag_get_grad(P(h, k), y);
            if (memcmp(x, y, n * sizeof *x)) T_FAIL("%s: other gradients after ag_forget", op_cases[i].text);
            free(x), free(y);
        }
        ag_free(g), ag_free(h);
    }
    CHECK(forgotten > N_OP_CASES);

    ag_ctx *g = ag_new(1);                          // a chain of them: no recursion, and two buffers serve them all
    make_params(g, "4n", 1);
    ag_tensor *t = ag_scale(P(g, 0), 1), *next;
    size_t before = ag_memory_used(g).tape;
    for (int i = 0; i < 20000; i++, t = next) {
        next = i % 2 ? ag_scale(t, -1) : ag_neg(t);
        ag_forget(t);
    }
    CHECK_INT(ag_memory_used(g).tape - before, 64);
    CHECK(t->data != NULL && t->in[0]->data == NULL);
    ag_free(g);
}

// Inside a mark and a rewind, backward computes again what is older than the mark; then that is forgotten as before.
static void forgotten_results_outlive_a_rewind(void) {
    ag_ctx *g = ag_new(1), *h = ag_new(1);
    ag_real x[16], y[16], junk[16 * 64];
    make_params(g, "4,4n", 1), make_params(h, "4,4n", 1);
    ag_tensor *t = ag_tanh(P(g, 0)), *u = ag_exp(t), *l = ag_sum(ag_mul(ag_tanh(P(h, 0)), ag_exp(ag_tanh(P(h, 0)))));
    ag_tensor *m = ag_mul(t, u), *loss = ag_sum(m);
    CHECK(ag_forget(t) == 0 && ag_forget(u) == 0);
    for (int i = 0; i < 80; i++) ag_keep_grad(ag_scale(P(g, 0), 1));        // nothing here is a spare buffer
    ag_mark_at mark = ag_mark(g);
    CHECK(ag_backward(loss) == 0 && ag_backward(l) == 0);
    CHECK(t->data == NULL && u->data == NULL);
    ag_rewind(g, mark);
    for (int i = 0; i < 16 * 64; i++) junk[i] = 7;
    for (int i = 0; i < 8; i++) ag_input(g, junk, 16, 16);                  // over what was behind the mark
    CHECK(ag_backward(loss) == 0 && ag_backward(l) == 0);
    ag_get_grad(P(g, 0), x), ag_get_grad(P(h, 0), y);
    for (int i = 0; i < 16; i++) CHECK_NEAR(x[i], y[i], 1e-12);
    ag_free(g), ag_free(h);
}

// A forgotten tensor is a clear error for whoever wants to read it, and so is one that cannot be forgotten.
static void forgetting_is_refused_where_it_would_lose_something(void) {
    ag_ctx *g = ag_new(1);
    ag_real x[16];
    make_params(g, "4,4n", 1);
    ag_tensor *t = ag_tanh(P(g, 0)), *u = ag_exp(t), *v = ag_scale(u, 2), *flat = ag_reshape(v, 16);
#define REFUSED(call, why) do { CHECK((call) != 0); CHECK_HAS(ag_error(g), why); ag_clear_error(g); } while (0)
    REFUSED(ag_forget(P(g, 0)), "a parameter (4,4) cannot be computed again");
    REFUSED(ag_forget(ag_matmul(t, t)), "ag_matmul (4,4) cannot be computed again");
    REFUSED(ag_forget(v), "shares its memory");
    REFUSED(ag_forget(flat), "ag_reshape (16) cannot");
    CHECK(ag_forget(NULL) == -1 && ag_forget(u) == 0 && ag_forget(u) == 0);
    REFUSED(ag_get(u, x), "ag_get: the tensor (4,4) was forgotten");
    REFUSED(ag_set(u, x), "ag_set: ");
    REFUSED(ag_add(t, u) == NULL, "ag_add: operand 1, (4,4), was forgotten");
    ag_fill(u, 0);
    REFUSED(ag_error(g) != NULL, "ag_fill: ");
    ag_tensor *input = ag_zeros(g, 4, 4);
    CHECK(ag_forget(input) == 0 && ag_get(input, x) == 0);      // nobody computed it, so it stays
    ag_tensor *mask = ag_greater(P(g, 0), input), *loss = ag_sum(ag_mul(mask, P(g, 0)));
    CHECK(ag_forget(mask) == 0 && mask->data == NULL);
    REFUSED(ag_backward(loss), "was forgotten (ag_forget), and having no gradient");
    int old = ag_no_grad(g, 1);
    ag_tensor *product = ag_matmul(P(g, 0), P(g, 0)), *again;
    const ag_real *at = product->data;
    CHECK(ag_forget(product) == 0 && product->data == NULL);
    again = ag_matmul(P(g, 0), P(g, 0));            // its memory serves the next
    CHECK(again->data == at);
    CHECK(ag_reshape(again, 16) != NULL && ag_forget(again) == 0 && again->data == at);
    ag_no_grad(g, old);
    ag_tensor *bad = ag_log(ag_scale(ag_mul(t, t), -1)), *other = ag_greater(P(g, 0), input);
    ag_tensor *sum = ag_sum(ag_add(bad, ag_mul(other, t)));
    CHECK(ag_forget(bad) == 0 && ag_forget(other) == 0);        // the blame for a loss that is no number finds it still
    REFUSED(ag_backward(sum), "is ag_log (4,4)");
    ag_keep_grad(u);
    CHECK(ag_backward(ag_sum(flat)) == 0);
    CHECK(ag_get_grad(u, x) == 0 && x[0] == 2);     // the gradient is there, whatever became of the values
    ag_free(g);
}

static void no_grad_records_nothing(void) {
    ag_ctx *g = ag_new(1);
    make_params(g, "3,4n", 1);
    CHECK(ag_no_grad(g, 1) == 0);
    ag_tensor *t = ag_sum(ag_tanh(P(g, 0)));
    CHECK(!t->needs_grad && !t->op);
    CHECK(ag_no_grad(g, 0) == 1);
    CHECK(ag_backward(t) == -1);
    CHECK_HAS(ag_error(g), "ag_no_grad");
    ag_clear_error(g);
    t = ag_sum(ag_mul(t, ag_sum(P(g, 0))));         // what was made under no_grad counts as a constant
    CHECK(ag_backward(t) == 0);
    ag_free(g);
}

// ---- dropout -------------------------------------------------------------------------------------------------------
static void dropout_scales_and_repeats(void) {
    ag_ctx *g = ag_new(9);
    ag_tensor *x = ag_param(g, 20000);
    static ag_real y[20000], z[20000], d[20000];
    ag_fill(x, 2);
    for (int k = 1; k < 4; k++) {
        double p = 0.25 * k, kept = 0;
        uint64_t at = ag_stream(g, AG_RNG_DROPOUT)->counter;
        ag_tensor *t = ag_dropout(x, p);
        CHECK(ag_stream(g, AG_RNG_DROPOUT)->counter > at);
        ag_get(t, y);
        ag_backward(ag_sum(t));
        ag_get_grad(x, d);
        ag_get(ag_dropout(x, p), z);
        CHECK(memcmp(y, z, sizeof y) != 0);         // the next call draws others
        ag_stream(g, AG_RNG_DROPOUT)->counter = at;
        ag_get(ag_dropout(x, p), z);
        CHECK(!memcmp(y, z, sizeof y));             // the same state, the same mask
        for (int i = 0; i < 20000; i++) {
            CHECK(y[i] == 0 || fabs(y[i] - 2 / (1 - p)) < 1e-12);
            CHECK_NEAR(d[i], y[i] / 2, 1e-12);      // the same mask backwards
            kept += y[i] != 0;
        }
        CHECK_NEAR(kept / 20000, 1 - p, 0.012);     // four standard deviations
        ag_zero_grad(g), ag_reset(g);
    }
    ag_free(g);
}

// ---- nothing at all ------------------------------------------------------------------------------------------------
// Sizes of 0 are shapes like others: an empty batch gives an empty result, a sum of nothing is 0, its gradient 0.
static void empty_tensors(void) {
    static const struct { const char *spec; int op; } cases[] = {
        {"0,3n 0,3n", 0}, {"0,3n 3n", 0}, {"0,3n 3,4n", 1}, {"2,0n 0,3n", 1}, {"2,3n 0,3,4n", 1}, {"0,2,3n 3,4n", 1},
        {"2,3n 3,0n", 1}, {"0,2,3n 1,3,4n", 1}, {"0,3n 4,3n", 2}, {"0,3n 3,4n 4n", 3}, {"0,5n", 4}, {"0,5n", 5},
        {"0,5n 5n 5n", 6}, {"0,5n 5n", 7}, {"0,6n", 8}, {"0,3,6n", 9}, {"0,3,6n", 10}, {"2,0,6n", 9},
        {"0,3n 2,3n", 11}, {"4,3n", 12}, {"4,3n", 13}, {"0,3n", 14}, {"3,0n", 15}, {"0,5n", 16},
        {"0,6n", 17}
    };
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        ag_ctx *g = ag_new(1);
        ag_real d[64];
        ag_tensor *y = NULL, *a, *b, *c;
        // Memory that was used before, so that a gradient that nobody writes is seen.
        for (int i = 0; i < 60; i++) d[i] = 777;
        make_params(g, cases[k].spec, k);
        a = P(g, 0), b = P(g, 1), c = P(g, 2);
        for (int i = 0; i < 8; i++) ag_input(g, d, 60);
        ag_reset(g);
        switch (cases[k].op) {
        case 0: y = ag_div(ag_add(a, b), ag_exp(b)); break;
        case 1: y = ag_matmul(a, b); break;
        case 2: y = ag_matmul_t(a, b); break;
        case 3: y = ag_linear(a, b, c); break;
        case 4: y = ag_softmax(a); break;
        case 5: y = ag_log_softmax(a); break;
        case 6: y = ag_layernorm(a, b, c, 1e-5); break;
        case 7: y = ag_rmsnorm(a, b, 1e-5); break;
        case 8: y = ag_swiglu(a); break;
        case 9: y = ag_attention(a, 1, 1, NULL, NULL, NULL); break;
        case 10: y = ag_rope(a, 2, 3, NULL, 100); break;
        case 11: y = concat2(a, b, 0); break;
        case 12: y = ag_embedding(a, ids5, 0, 0); break;
        case 13: y = ag_slice(a, 0, 2, 0); break;
        case 14: y = ag_permute(ag_reshape(a, 3, 0), 1, 0, -1, -1); break;
        case 15: y = ag_sum_dim(a, 1); break;
        case 16: y = ag_nll(a, ids5); break;
        case 17: y = ag_attention_ragged(a, 1, 1, NULL, 0, NULL, NULL, ids5); break;
        }
        if (!y) { T_FAIL("%s, %d: %s", cases[k].spec, cases[k].op, ag_error(g)); ag_free(g); continue; }
        ag_tensor *l = ag_sum(y);
        if (cases[k].op != 11) CHECK(ag_item(l) == 0);
        CHECK(ag_backward(l) == 0);
        for (int i = 0; i < ag_param_count(g); i++) {
            if (cases[k].op == 11) break;
            ag_get_grad(P(g, i), d);
            for (size_t j = 0; j < P(g, i)->count; j++) if (d[j] != 0)
                T_FAIL("%s, op %d: gradient %d is %g, not 0", cases[k].spec, cases[k].op, i, (double)d[j]);
        }
        ag_free(g);
    }
}

// ---- random graphs -------------------------------------------------------------------------------------------------
// A random program over a few parameters: each instruction takes earlier results, often the same one twice. Programs
// are drawn while looking at the values, so that no operand stands near a kink, and results stay of order 1; what was
// drawn is then a fixed list that the check runs again and again.
typedef struct instruction { int op, a, b, i0, i1; double c; } instruction;
typedef struct program { instruction line[48]; int n, inputs; } program;
enum {
    R_ADD, R_SUB, R_MUL, R_DIV, R_MIN, R_MAX, R_WHERE, R_TANH, R_SIGMOID, R_EXP, R_LOG, R_SQRT, R_GELU, R_SILU,
    R_LOGSIG, R_RELU, R_CLAMP, R_POW, R_SOFTMAX, R_LOG_SOFTMAX, R_LAYERNORM, R_RMSNORM, R_SUM, R_MEAN, R_MAX_DIM,
    R_MATMUL, R_MATMUL_T, R_LINEAR, R_PERMUTE, R_SLICE, R_CONCAT, R_RESHAPE, R_SWIGLU, R_NEG, R_SHIFT, R_SCALE,
    R_ATTENTION, R_NLL, R_OPS
};

static ag_tensor *ones_or(ag_tensor *x, int n, double value) { return ag_full(x->ctx, (ag_real)value, n); }

static ag_tensor *run_line(const instruction *l, ag_tensor *const *t) {
    static const int zeros[256];
    ag_tensor *a = t[l->a], *b = t[l->b];
    int last = a->ndim ? a->shape[a->ndim - 1] : 1;
    switch (l->op) {
    case R_ADD: return ag_add(a, b);
    case R_SUB: return ag_sub(a, b);
    case R_MUL: return ag_mul(a, b);
    case R_DIV: return ag_div(a, ag_shift(ag_mul(b, b), 1));
    case R_MIN: return ag_minimum(a, b);
    case R_MAX: return ag_maximum(a, b);
    case R_WHERE: return ag_where(ag_greater(a, b), ag_mul(a, b), b);
    case R_TANH: return ag_tanh(a);
    case R_SIGMOID: return ag_sigmoid(a);
    case R_EXP: return ag_exp(ag_scale(a, 0.5));
    case R_LOG: return ag_log(ag_shift(ag_mul(a, a), 1));
    case R_SQRT: return ag_sqrt(ag_shift(ag_mul(a, a), 0.5));
    case R_GELU: return ag_gelu(a);
    case R_SILU: return ag_silu(a);
    case R_LOGSIG: return ag_log_sigmoid(a);
    case R_RELU: return ag_relu(a);
    case R_CLAMP: return ag_clamp(a, -l->c, l->c);
    case R_POW: return ag_pow(ag_shift(ag_mul(a, a), 1), l->c);
    case R_SOFTMAX: return ag_softmax(a);
    case R_LOG_SOFTMAX: return ag_log_softmax(a);
    case R_LAYERNORM: return ag_layernorm(a, ones_or(a, last, l->c), ones_or(a, last, 0.3), 0.1);
    case R_RMSNORM: return ag_rmsnorm(a, ones_or(a, last, l->c), 0.1);
    case R_SUM: return ag_sum_dim(a, l->i0);
    case R_MEAN: return ag_mean_dim(a, l->i0);
    case R_MAX_DIM: return ag_max_dim(a, l->i0);
    case R_MATMUL: return ag_matmul(a, b);
    case R_MATMUL_T: return ag_matmul_t(a, b);
    case R_LINEAR: return ag_linear(a, b, l->i0 ? ag_reshape(ag_slice(b, 0, 0, 1), b->shape[1]) : NULL);
    case R_PERMUTE: return a->ndim == 2 ? ag_permute(a, 1, 0, -1, -1)
        : a->ndim == 3 ? ag_permute(a, l->i0 ? 2 : 1, 0, l->i0 ? 1 : 2, -1) : a;
    case R_SLICE: return ag_slice(a, l->i0, l->i1, a->shape[l->i0] - l->i1);
    case R_CONCAT: return concat2(a, b, l->i0);
    case R_RESHAPE: return a->count % 2 ? ag_reshape(a, -1) : ag_reshape(a, 2, -1);
    case R_SWIGLU: return ag_swiglu(a);
    case R_NEG: return ag_neg(a);
    case R_SHIFT: return ag_shift(a, l->c);
    case R_SCALE: return ag_scale(a, l->c);
    case R_ATTENTION: return ag_attention(a, 1, 1, NULL, NULL, NULL);
    case R_NLL: return ag_nll(a, zeros);
    }
    return NULL;
}

static ag_tensor *run_program(ag_ctx *g, void *user) {
    const program *p = (const program *)user;
    ag_tensor *t[64], *loss = NULL;
    int used[64] = {0};
    for (int i = 0; i < p->inputs; i++) t[i] = P(g, i);
    for (int i = 0; i < p->n; i++) {
        t[p->inputs + i] = run_line(&p->line[i], t);
        used[p->line[i].a] = used[p->line[i].b] = 1;
    }
    for (int i = 0; i < p->inputs + p->n; i++)      // all that nobody has used
        if (!used[i]) loss = loss ? ag_add(loss, weighed(t[i])) : weighed(t[i]);
    return loss;
}

static int pick(ag_rng *r, int n) { return (int)(ag_rng_u32(r) % (unsigned)n); }

// Is the result of this instruction smooth around here, and small? Looks at the numbers.
static int acceptable(const instruction *l, ag_tensor *const *t, const ag_tensor *y) {
    ag_real a[128], b[128], v[128];
    const ag_tensor *x = t[l->a];
    if (!y || y->count > 64 || y->count < 1 || x->count > 64 || t[l->b]->count > 64 || ag_get(y, v) || ag_get(x, a))
        return 0;
    for (size_t i = 0; i < y->count; i++) if (!(fabs(v[i]) < 3)) return 0;
    for (size_t i = 0; i < x->count; i++)
        if ((l->op == R_RELU && fabs(a[i]) < 1e-3) || (l->op == R_CLAMP && fabs(fabs(a[i]) - l->c) < 1e-3)) return 0;
    if (l->op == R_MIN || l->op == R_MAX || l->op == R_WHERE) {
        ag_get(ag_sub(t[l->a], t[l->b]), b);
        for (size_t i = 0; i < y->count; i++) if (fabs(b[i]) < 1e-3) return 0;
    }
    if (l->op == R_MAX_DIM)                         // no two close together, anywhere
        for (size_t i = 0; i < x->count; i++) for (size_t j = 0; j < i; j++) if (fabs(a[i] - a[j]) < 1e-3) return 0;
    return 1;
}

static void random_graphs(void) {
    static const char *const specs[] = {"3,4n 4,3n", "2,3n 3n 1n", "2,3,2n 2,2n", "5n 5n", "4,4n 4,1n", "1,5,6n 6n",
        "2,2,3n 1,3,2n 2n", "6n 1,6n n"};
    enum { GRAPHS = 2400 };
    int seen[R_OPS] = {0}, lines = 0, shared = 0;
    double worst = 0;
    ag_rng r = {2024, 0};
    for (int graph = 0; graph < GRAPHS; graph++) {
        program p;
        ag_tensor *t[64];
        ag_ctx *g = ag_new(1);
        memset(&p, 0, sizeof p);
        make_params(g, specs[graph % 8], (uint64_t)graph);
        p.inputs = ag_param_count(g);
        for (int i = 0; i < p.inputs; i++) t[i] = P(g, i);
        int wanted = 4 + pick(&r, 12);
        for (int tries = 0; p.n < wanted && tries < 300; tries++) {
            instruction *l = &p.line[p.n];
            int m = p.inputs + p.n;
            l->op = pick(&r, R_OPS), l->a = pick(&r, m), l->b = pick(&r, 3) ? pick(&r, m) : l->a;
            l->i0 = t[l->a]->ndim ? pick(&r, t[l->a]->ndim) : 0, l->c = 0.5 + ag_rng_uniform(&r);
            l->i1 = t[l->a]->ndim && t[l->a]->shape[l->i0] > 1 ? pick(&r, t[l->a]->shape[l->i0]) : 0;
            if (l->op < R_DIV || l->op == R_CONCAT || l->op == R_MATMUL || l->op == R_LINEAR || l->op == R_MATMUL_T ||
                l->op == R_WHERE) {}
            else if (l->op > R_WHERE || l->op == R_DIV) { if (l->op != R_DIV) l->b = l->a; }
            if (l->op == R_LINEAR && t[l->b]->ndim != 2) continue;      // its bias is cut from a matrix
            ag_tensor *y = run_line(l, t);
            if (ag_error(g)) { ag_clear_error(g); continue; }           // shapes that do not fit: draw again
            if (!acceptable(l, t, y)) { if (ag_error(g)) ag_clear_error(g); continue; }
            t[m] = y, p.n++;
            seen[l->op]++, lines++, shared += l->a == l->b;
        }
        ag_reset(g);
        double error = ag_check_grad(g, run_program, &p, EPS);
        if (!(error <= TOLERANCE)) {
            T_FAIL("graph %d is off by %.3g: %s", graph, error, ag_error(g) ? ag_error(g) : "");
            for (int i = 0; i < p.n; i++) printf("    t%d = op %d of t%d, t%d (%d, %d, %g)\n", p.inputs + i,
                p.line[i].op, p.line[i].a, p.line[i].b,
                                                 p.line[i].i0, p.line[i].i1, p.line[i].c);
        }
        if (error > worst) worst = error;
        ag_free(g);
        if (t_bad > 10) break;
    }
    for (int op = 0; op < R_OPS; op++) if (seen[op] < 20)
        T_FAIL("op %d of the random graphs was drawn %d times only", op, seen[op]);
    printf("  %d random graphs of %.1f ops on average, worst error %.2g\n", GRAPHS, (double)lines / GRAPHS, worst);
}

int main(int argc, char **argv) {
    T_BEGIN("ops");
    T_RUN(elementwise_values);
    T_RUN(shape_values);
    T_RUN(matmul_values);
    T_RUN(broadcast_values);
    T_RUN(every_case_agrees_with_differences);
    T_RUN(every_op_of_the_header_has_a_case);
    T_RUN(check_grad_notices_a_wrong_gradient);
    T_RUN(all_broadcasts);
    T_RUN(fused_ops_equal_their_compositions);
    T_RUN(attention_cache_equals_the_full_pass);
    T_RUN(attention_is_causal);
    T_RUN(ties_go_where_the_header_says);
    T_RUN(b_is_a_plus_a);
    T_RUN(detached_tensors_pass_nothing_on);
    T_RUN(frozen_parameters_get_nothing);
    T_RUN(kept_gradients_are_right);
    T_RUN(gradients_add_up);
    T_RUN(losses_with_a_common_trunk);
    T_RUN(a_new_size_after_two_losses);
    T_RUN(forgotten_results_come_back);
    T_RUN(forgotten_results_outlive_a_rewind);
    T_RUN(forgetting_is_refused_where_it_would_lose_something);
    T_RUN(no_grad_records_nothing);
    T_RUN(dropout_scales_and_repeats);
    T_RUN(empty_tensors);
    T_RUN(random_graphs);
    return T_END();
}
