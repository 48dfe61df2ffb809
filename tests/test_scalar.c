// test_scalar.c - the scalar engine of autograd.h: published numbers of micrograd, every operation against central
// differences, random graphs, deep and wide graphs on a small stack, memory that runs out, pictures, networks.
#define _DEFAULT_SOURCE         // fork and setrlimit under -std=c99
#include "test.h"
#if !defined(_WIN32)
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#endif

// An allocator that counts, and that fails at its fail_at-th call: once, or from then on.
static long calls, live, fail_at = -1, fail_on;
static void *counting_malloc(size_t n) {
    long call = calls++;
    void *p = fail_at >= 0 && (call == fail_at || (fail_on && call > fail_at)) ? NULL : malloc(n);
    live += p != NULL;
    return p;
}
static void counting_free(void *p) {
    live -= p != NULL;
    free(p);
}
#define AG_MALLOC(bytes) counting_malloc(bytes)
#define AG_FREE(pointer) counting_free(pointer)
#define AUTOGRAD_IMPLEMENTATION
#include "../autograd.h"

// The numbers that micrograd's README prints.
static void micrograd_readme(void) {
    ag_graph *g = ag_graph_new(1);
    ag_value *a = ag_var(g, -4), *b = ag_var(g, 2);
    ag_value *c = ag_vadd(a, b), *d = ag_vadd(ag_vmul(a, b), ag_vpow(b, 3)), *e, *f, *y;
    c = ag_vadd(c, ag_vshift(c, 1));
    c = ag_vadd(c, ag_vadd(ag_vshift(c, 1), ag_vneg(a)));
    d = ag_vadd(d, ag_vadd(ag_vscale(d, 2), ag_vrelu(ag_vadd(b, a))));
    d = ag_vadd(d, ag_vadd(ag_vscale(d, 3), ag_vrelu(ag_vsub(b, a))));
    e = ag_vsub(c, d);
    f = ag_vpow(e, 2);
    y = ag_vscale(f, 0.5);
    y = ag_vadd(y, ag_vdiv(ag_var(g, 10), f));
    ag_vbackward(y);
    CHECK_NEAR(y->data, 24.7041, 5e-5);
    CHECK_NEAR(a->grad, 138.8338, 5e-5);
    CHECK_NEAR(b->grad, 645.5773, 5e-5);
    ag_graph_free(g);
}

// z = 2x + 2 + x, q = relu(z) + z*x, y = relu(z*z) + q + q*x at x = -4: by hand y = -20 and dy/dx = 46.
static void by_hand(void) {
    ag_graph *g = ag_graph_new(1);
    ag_value *x = ag_var(g, -4), *z = ag_vadd(ag_vshift(ag_vscale(x, 2), 2), x);
    ag_value *q = ag_vadd(ag_vrelu(z), ag_vmul(z, x));
    ag_value *y = ag_vadd(ag_vadd(ag_vrelu(ag_vmul(z, z)), q), ag_vmul(q, x));
    ag_vbackward(y);
    CHECK(y->data == -20 && x->grad == 46);
    ag_graph_free(g);
}

// |analytic - numeric| over max(1, |analytic|, |numeric|), by central differences; ag_vforward computes y again.
static double gradient_error(ag_value *y, ag_value *x) {
    const double eps = 1e-5, at = x->data;
    double up, down, numeric;
    x->data = at + eps, ag_vforward(y), up = y->data;
    x->data = at - eps, ag_vforward(y), down = y->data;
    x->data = at, ag_vforward(y);
    numeric = (up - down) / (2 * eps);
    return fabs(x->grad - numeric) / fmax(1, fmax(fabs(x->grad), fabs(numeric)));
}

static int op_tested[AG_V_COUNT];
static void check_op(const char *name, ag_value *y, double want, ag_value *a, ag_value *b) {
    ag_value *p = ag_vscale(y, 1.7);                        // so that dy is not 1
    ag_vbackward(p);
    op_tested[y->op] = 1;
    if (y->data != want) T_FAIL("%s of %g, %g is %.17g, wanted %.17g", name, a->data, b->data, y->data, want);
    for (int i = 0; i < 2; i++) {
        ag_value *x = i ? b : a;
        double error = gradient_error(p, x);
        if (error <= 1e-7) continue;
        T_FAIL("d %s of %g, %g by operand %d is %.9g: error %.2g", name, a->data, b->data, i, x->grad, error);
    }
}

// Each operation at ordinary values and where it saturates, with two operands and with one operand used twice.
static void every_op(void) {
    static const double xs[] = {0.3, -0.7, 1, -1, 2.5, -3, 9, -25, 100, -100, 0.5, -0.4};
    static const int n = sizeof xs / sizeof *xs;
    ag_graph *g = ag_graph_new(1);
#define OP2(call, want) do { \
        ag_value *a = ag_var(g, x), *b = ag_var(g, xs[j]); \
        check_op(#call, call(a, b), want, a, b); \
    } while (0)
#define OP1(call, want) do { ag_value *a = ag_var(g, x); check_op(#call, call(a), want, a, a); } while (0)
#define NUMBER(call, k, want) do { ag_value *a = ag_var(g, x); check_op(#call, call(a, k), want, a, a); } while (0)
#define TWICE(call, want, slope) do { \
        ag_value *a = ag_var(g, x); \
        check_op(#call " a a", call(a, a), want, a, a); \
        CHECK_NEAR(a->grad, 1.7 * (slope), 1e-12 * fmax(fabs(x), 1 / fabs(x))); \
    } while (0)
    for (int i = 0; i < n; i++) {
        const double x = xs[i];
        for (int j = 0; j < n; j++) {
            OP2(ag_vadd, x + xs[j]);
            OP2(ag_vsub, x - xs[j]);
            OP2(ag_vmul, x * xs[j]);
            if (fabs(x) < 10 || fabs(xs[j]) > 1) OP2(ag_vdiv, x / xs[j]);
            ag_graph_rewind(g, 0);
        }
        OP1(ag_vneg, -x);
        OP1(ag_vrelu, x > 0 ? x : 0);
        OP1(ag_vtanh, tanh(x));
        OP1(ag_vexp, exp(x));
        if (x > 0) OP1(ag_vlog, log(x));
        for (int k = -2; k <= 3; k++) if (fabs(x) <= 9) NUMBER(ag_vpow, k, pow(x, k));
        if (x > 0) NUMBER(ag_vpow, 1.5, pow(x, 1.5));
        NUMBER(ag_vscale, -3, x * -3);
        NUMBER(ag_vshift, -3, x - 3);
        TWICE(ag_vadd, x + x, 2);
        TWICE(ag_vsub, 0, 0);
        TWICE(ag_vmul, x * x, 2 * x);
        TWICE(ag_vdiv, 1, 0);
        ag_graph_rewind(g, 0);
    }
    for (int op = 1; op < AG_V_COUNT; op++) if (!op_tested[op]) T_FAIL("operation %d was not tested", op);
    CHECK(!ag_graph_error(g));
    ag_graph_free(g);
}

// Where the derivative is a matter of convention, or 0 times infinity lies near.
static void edges(void) {
    ag_graph *g = ag_graph_new(1);
    ag_value *x = ag_var(g, 0);
#define AT(expression, want, slope) do { \
        ag_value *y = expression; \
        x->grad = 0, ag_vbackward(y); \
        CHECK(y->data == (want) && x->grad == (slope)); \
    } while (0)
    AT(ag_vrelu(x), 0, 0);
    AT(ag_vpow(x, 2), 0, 0);
    AT(ag_vpow(x, 1), 0, 1);
    AT(ag_vpow(x, 0), 1, 0);
    AT(x, 0, 1);                                            // a leaf is its own result
    x->data = 1000;
    AT(ag_vtanh(x), 1, 0);
    AT(ag_vexp(ag_vneg(x)), 0, 0);
    CHECK(isnan(ag_vrelu(ag_var(g, NAN))->data));           // a NaN is not swept under the rug
    ag_graph_free(g);
}

// What lies between the operands and the result without taking part in it stays out of it, even where it is infinite.
static void bystanders(void) {
    ag_graph *g = ag_graph_new(1);
    ag_value *x = ag_var(g, 0), *wild = ag_vlog(x), *worse = ag_vsub(wild, wild), *y = ag_vshift(x, 3);
    ag_value *late = ag_vmul(y, y);
    ag_vbackward(y);
    CHECK(x->grad == 1 && wild->grad == 0 && worse->grad == 0 && late->grad == 0);
    ag_graph_free(g);
}

// Leaves add up over calls, as a loss in two parts needs it; what lies between them starts anew in each call.
static void accumulation(void) {
    ag_graph *g = ag_graph_new(1);
    ag_value *a = ag_var(g, 3), *b = ag_vadd(a, a), *c = ag_vadd(b, b), *d = ag_vmul(b, a);
    ag_vbackward(c);
    CHECK(a->grad == 4 && b->grad == 2 && c->grad == 1);
    ag_vbackward(c);
    CHECK(a->grad == 8 && b->grad == 2 && c->grad == 1);
    ag_vbackward(d);                                        // 2 a * a: 4a = 12
    CHECK(a->grad == 20 && b->grad == 3);
    ag_vbackward(a);                                        // and a itself is one more loss
    CHECK(a->grad == 21);
    ag_graph_zero_grad(g);
    CHECK(a->grad == 0 && b->grad == 0 && c->grad == 0 && d->grad == 0);
    a->data = 5, ag_vforward(c);
    CHECK(c->data == 20 && d->data == 18);                  // d is younger than c: it is not computed again
    ag_graph_free(g);
}

static void diamond(void) {                                 // 2 to the 60 paths lead from x to y
    ag_graph *g = ag_graph_new(1);
    ag_value *x = ag_var(g, 1), *y = x;
    for (int i = 0; i < 60; i++) y = ag_vadd(y, y);
    ag_vbackward(y);
    CHECK(y->data == 1152921504606846976.0 && x->grad == 1152921504606846976.0);
    ag_graph_free(g);
}

#if !defined(_WIN32)
static int million(void) {
    ag_graph *g = ag_graph_new(1);
    ag_value *a = ag_var(g, 1), *y = a;
    int good;
    for (int i = 0; i < 1000000; i++) y = ag_vadd(y, a);
    ag_vbackward(y);
    good = y && y->data == 1000001 && a->grad == 1000001;
    a->data = 2, ag_vforward(y);
    good = good && y->data == 2000002;
    ag_graph_free(g);
    return good;
}

static int recurse(volatile char *above, int depth) {       // what the engine must not do: a kilobyte for each level
    volatile char here[1024];
    here[0] = (char)(depth + above[0]);
    return depth ? recurse(here, depth - 1) + here[0] % 2 : 0;
}

// Runs the function in a child whose stack is 256 KB; returns 1 if it came back with a true value.
static int on_a_small_stack(int which) {
    int status = -1;
    pid_t child;
    fflush(stdout);
    child = fork();
    if (child == 0) {
        struct rlimit limit;
        char top = 0;
        limit.rlim_cur = 256 * 1024, limit.rlim_max = 256 * 1024;
        if (setrlimit(RLIMIT_STACK, &limit)) _exit(2);
        if (which) { fclose(stderr); _exit(recurse(&top, 4096) >= 0 ? 0 : 1); }
        _exit(million() ? 0 : 1);
    }
    return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void million_values_on_a_small_stack(void) {
    CHECK(on_a_small_stack(0));
    CHECK(!on_a_small_stack(1));                            // and the limit is one: 4 MB of frames do not fit
}
#endif

// 20,000 graphs of 4 leaves and 12 random operations. A graph is drawn again if it comes close to a place without a
// derivative (the kink of relu) or with a wild one, because central differences mean nothing there.
static void random_graphs(void) {
    ag_graph *g = ag_graph_new(1);
    ag_rng rng = {7, 0};
    int good = 0, drawn = 0, used[AG_V_COUNT] = {0};
    double worst = 0;
    while (good < 20000 && drawn++ < 200000) {
        ag_value *v[16], *y;
        int n = 0, wild = 0;
        ag_graph_rewind(g, 0);
        while (n < 4) v[n++] = ag_var(g, 4 * ag_rng_uniform(&rng) - 2);
        while (n < 16) {
            int op = 1 + (int)(ag_rng_u32(&rng) % (AG_V_COUNT - 1));
            ag_value *a = v[ag_rng_u32(&rng) % (unsigned)n], *b = v[ag_rng_u32(&rng) % (unsigned)n];
            if (n == 15) a = v[14];                         // so that the last one hangs on more than a leaf
            wild |= op == AG_V_RELU && fabs(a->data) < 1e-3;
            wild |= op == AG_V_DIV && fabs(b->data) < 0.3;
            wild |= (op == AG_V_LOG || op == AG_V_POW) && a->data < 0.3;
            v[n] = op == AG_V_ADD ? ag_vadd(a, b) : op == AG_V_SUB ? ag_vsub(a, b) : op == AG_V_MUL ? ag_vmul(a, b)
                 : op == AG_V_DIV ? ag_vdiv(a, b) : op == AG_V_NEG ? ag_vneg(a) : op == AG_V_RELU ? ag_vrelu(a)
                 : op == AG_V_TANH ? ag_vtanh(a) : op == AG_V_EXP ? ag_vexp(a) : op == AG_V_LOG ? ag_vlog(a)
                 : ag_vpow(a, (double)(ag_rng_u32(&rng) % 4) - 0.5);
            used[op] |= !wild;
            wild |= !(fabs(v[n]->data) < 30);
            if (fabs(v[n]->data) > 2) v[n] = ag_vscale(v[n], 2 / fabs(v[n]->data));
            n++;
        }
        if (wild) continue;
        y = v[15], good++;
        ag_vbackward(y);
        for (int i = 0; i < 4; i++) {
            double error = gradient_error(y, v[i]);
            if (!(error <= worst)) worst = error;
            if (!(error <= 1e-7)) T_FAIL("graph %d, leaf %d: gradient %.9g, error %.2g", drawn, i, v[i]->grad, error);
        }
    }
    CHECK_INT(good, 20000);
    CHECK(worst > 0);                                       // the two sides were not computed the same way
    for (int op = 1; op < AG_V_COUNT; op++) if (!used[op]) T_FAIL("operation %d does not occur", op);
    CHECK(!ag_graph_error(g));
    ag_graph_free(g);
}

// Addresses do not change while the graph grows; order, numbers and rewinding at and around the edges of pages.
static void pages(void) {
    static ag_value *v[5000];
    static const size_t marks[] = {4999, 4097, 4096, 4095, 2049, 2048, 2047, 1025, 1024, 1023, 1, 0};
    ag_graph *g = ag_graph_new(1);
    long before;
    CHECK(ag_graph_mark(g) == 0 && !ag_graph_first(g));
    for (int i = 0; i < 5000; i++) v[i] = ag_var(g, i + 2);
    for (int i = 0; i < 5000; i++) CHECK(v[i]->data == i + 2 && ag_vindex(v[i]) == (size_t)i);
    for (int i = 0; i < 5000; i++) CHECK(ag_vnext(v[i]) == (i < 4999 ? v[i + 1] : NULL));
    before = calls;
    for (size_t m = 0; m < sizeof marks / sizeof *marks; m++) {
        size_t n = 0;
        ag_value *again;
        ag_graph_rewind(g, marks[m] + 10000);               // beyond the end: nothing happens
        ag_graph_rewind(g, marks[m]);
        CHECK_INT(ag_graph_mark(g), marks[m]);
        for (ag_value *i = ag_graph_first(g); i; i = ag_vnext(i)) n++;
        CHECK_INT(n, marks[m]);
        again = ag_var(g, -1);
        CHECK(again == v[marks[m]] && ag_vindex(again) == marks[m] && !ag_vnext(again));
        if (marks[m]) {
            ag_value *y = ag_vmul(v[0], ag_vadd(again, v[marks[m] - 1]));
            ag_graph_zero_grad(g);
            ag_vbackward(y);
            CHECK(again->grad == v[0]->data && v[marks[m] - 1]->grad == v[0]->data + (marks[m] == 1 ? y->b->data : 0));
        }
        ag_graph_rewind(g, marks[m]);
    }
    CHECK_INT(calls - before, 0);                           // pages are used again
    ag_value *x = ag_var(g, 3), *y = x;         // a chain: every link counts, those at the ends of pages too
    for (int i = 0; i < 4990; i++) y = ag_vneg(y);
    ag_vbackward(y);
    CHECK(y->data == 3 && x->grad == 1);
    ag_graph_free(g);
}

// ---- networks -------------------------------------------------------------------------------------------------------
static const int sizes[] = {16, 16, 1};

static void network(void) {
    ag_graph *g = ag_graph_new(42), *h = ag_graph_new(42), *other = ag_graph_new(43);
    ag_mlp *mlp = ag_mlp_new(g, 2, sizes, 3), *twin = ag_mlp_new(h, 2, sizes, 3);
    ag_mlp *third = ag_mlp_new(other, 2, sizes, 3);
    double row[17] = {0.4, -1.3}, next[17], low = 1, high = -1;
    int n, n2, n3, zeros = 0, differ = 0, at = 0, n_in = 2;
    ag_value **p = ag_mlp_params(mlp, &n), **q = ag_mlp_params(twin, &n2), **r = ag_mlp_params(third, &n3), *x[2], *y;
    CHECK_INT(n, 337);
    CHECK(n2 == n && n3 == n && (size_t)n == ag_graph_mark(g));
    for (int i = 0; i < n; i++) {
        CHECK(p[i]->data == q[i]->data);                    // the seed decides
        differ += p[i]->data != r[i]->data;
        zeros += p[i]->data == 0;
        low = fmin(low, p[i]->data), high = fmax(high, p[i]->data);
    }
    CHECK_INT(zeros, 33);                                   // the biases, and nothing else
    CHECK_INT(differ, 304);
    CHECK(low >= -1 && low < -0.95 && high < 1 && high > 0.95);

    for (int i = 0; i < n; i++) p[i]->data += 0.01 * (i % 7);    // biases other than 0
    x[0] = ag_var(g, row[0]), x[1] = ag_var(g, row[1]);
    CHECK(ag_mlp_call(mlp, x, &y) == 0);
    for (int layer = 0; layer < 3; layer++) {               // the same in loops: the weights of a neuron, then its bias
        for (int i = 0; i < sizes[layer]; i++) {
            next[i] = p[at + n_in]->data;
            for (int j = 0; j < n_in; j++) next[i] += p[at + j]->data * row[j];
            if (layer < 2 && next[i] < 0) next[i] = 0;
            at += n_in + 1;
        }
        memcpy(row, next, sizeof row);
        n_in = sizes[layer];
    }
    CHECK_NEAR(y->data, row[0], 1e-12);
    ag_vbackward(y);
    for (int i = 0; i < n; i++) {
        double error = gradient_error(y, p[i]);
        if (!(error <= 1e-7)) T_FAIL("parameter %d: gradient %.9g, error %.2g", i, p[i]->grad, error);
    }
    for (int i = 0; i < n; i++) p[i]->data = -1;            // the last layer is linear: it can be negative
    CHECK(ag_mlp_call(mlp, x, &y) == 0 && y->data < 0);
    ag_mlp_free(mlp), ag_mlp_free(twin), ag_mlp_free(third);
    ag_graph_free(g), ag_graph_free(h), ag_graph_free(other);
}

static double moons_step(ag_graph *g, ag_mlp *mlp, double rate) {
    double result;
    int n;
    ag_value **params = ag_mlp_params(mlp, &n), *loss = ag_var(g, 0);
    for (int i = 0; i < 40; i++) {
        double angle = 3.14159265358979 * (i / 2) / 19;
        ag_value *x[2], *score = NULL;
        x[0] = ag_var(g, i % 2 ? 1 - cos(angle) : cos(angle)), x[1] = ag_var(g, i % 2 ? 0.5 - sin(angle) : sin(angle));
        if (mlp) ag_mlp_call(mlp, x, &score);
        loss = ag_vadd(loss, ag_vrelu(ag_vshift(ag_vscale(score, i % 2 ? -1 : 1), 1)));
    }
    loss = ag_vscale(loss, 1.0 / 40);
    ag_vbackward(loss);
    result = loss ? loss->data : NAN;
    for (int i = 0; loss && i < n; i++) params[i]->data -= rate * params[i]->grad, params[i]->grad = 0;
    return result;
}

static void training(void) {
    ag_graph *g = ag_graph_new(1337);
    ag_mlp *mlp = ag_mlp_new(g, 2, sizes, 3);
    size_t mark = ag_graph_mark(g);
    double first = moons_step(g, mlp, 0.5), last = first;
    long before = calls;
    for (int step = 0; step < 100; step++) ag_graph_rewind(g, mark), last = moons_step(g, mlp, 0.5 - 0.004 * step);
    CHECK_INT(calls - before, 0);                           // no allocation after the first step
    CHECK(first > 0.3 && last < 0.05);
    ag_mlp_free(mlp);
    ag_graph_free(g);
}

// ---- errors ---------------------------------------------------------------------------------------------------------
static void null_is_passed_on(void) {
    ag_graph *g = ag_graph_new(1), *h = ag_graph_new(1);
    ag_value *x = ag_var(g, 1), *stranger = ag_var(h, 1), *y;
    ag_value *(*two[])(ag_value *, ag_value *) = {ag_vadd, ag_vsub, ag_vmul, ag_vdiv};
    ag_value *(*one[])(ag_value *) = {ag_vneg, ag_vrelu, ag_vtanh, ag_vexp, ag_vlog};
    ag_value *(*number[])(ag_value *, double) = {ag_vpow, ag_vscale, ag_vshift};
    static const int bad[] = {3, 0, 1}, negative[] = {-5}, huge[] = {2147483647, 2147483647};
    char text[8] = "?";
    int n = 7;
    for (int i = 0; i < 4; i++) CHECK(!two[i](x, NULL) && !two[i](NULL, x) && !two[i](NULL, NULL));
    for (int i = 0; i < 5; i++) CHECK(!one[i](NULL));
    for (int i = 0; i < 3; i++) CHECK(!number[i](NULL, 2));
    CHECK(!ag_var(NULL, 1) && !ag_vnext(NULL) && !ag_graph_first(NULL) && !ag_vlabel(NULL, "x"));
    CHECK(!ag_mlp_new(NULL, 2, sizes, 3));
    CHECK(!ag_mlp_params(NULL, &n) && n == 0);
    CHECK(ag_mlp_call(NULL, &x, &y) == -1);
    CHECK(ag_graph_mark(NULL) == 0 && ag_vindex(NULL) == 0);
    CHECK_STR(ag_vop(NULL), "");
    CHECK(ag_graph_dot(NULL, text, sizeof text) > 8);
    CHECK_STR(text, "digraph");
    CHECK(ag_graph_error(NULL) != NULL);
    ag_vbackward(NULL), ag_vforward(NULL), ag_graph_zero_grad(NULL), ag_graph_rewind(NULL, 0);
    ag_graph_clear_error(NULL);
    ag_mlp_free(NULL), ag_graph_free(NULL);
    CHECK(!ag_graph_error(g));                              // passing NULL on is no error of its own

    y = ag_vmul(x, x);
    CHECK(!ag_vadd(x, stranger));
    CHECK_HAS(ag_graph_error(g), "two graphs");
    CHECK(!ag_var(g, 1) && !ag_vadd(x, x));                 // until it is cleared, nothing works
    ag_vbackward(y);
    CHECK(x->grad == 0);
    CHECK(!ag_mlp_new(g, 2, sizes, 3));
    ag_graph_clear_error(g);
    ag_vbackward(y);
    CHECK(x->grad == 2);

#define BAD(n_in, sizes, n_layers) do { \
        CHECK(!ag_mlp_new(g, n_in, sizes, n_layers)); \
        CHECK_HAS(ag_graph_error(g), "ag_mlp_new"); \
        ag_graph_clear_error(g); \
    } while (0)
    BAD(2, bad, 3);
    BAD(2, negative, 1);
    BAD(2, huge, 2);
    BAD(0, sizes, 3);
    BAD(2, sizes, 0);
    BAD(2, NULL, 3);
    ag_graph_free(g), ag_graph_free(h);
}

// The n-th allocation fails, for every n there is: reported, nothing lost, and the same graph works afterwards.
static void out_of_memory(void) {
    double want = NAN;
    for (fail_on = 0; fail_on < 2; fail_on++) {
        int failed = 1;
        for (long n = 0; failed && n < 1000; n++) {
            ag_graph *g;
            ag_mlp *mlp;
            double loss;
            calls = 0, fail_at = n, live = 0;
            g = ag_graph_new(1337);
            mlp = ag_mlp_new(g, 2, sizes, 3);
            loss = moons_step(g, mlp, 0);
            failed = ag_graph_error(g) != NULL;
            CHECK(failed == (calls > n));
            if (failed) CHECK_HAS(ag_graph_error(g), "out of memory");
            CHECK(failed == (loss != loss));
            fail_at = -1;
            if (failed && g) {                              // memory is back: from the start, in the same graph
                ag_graph_clear_error(g);
                ag_mlp_free(mlp);
                ag_graph_rewind(g, 0);
                mlp = ag_mlp_new(g, 2, sizes, 3);
                loss = moons_step(g, mlp, 0);
                CHECK(loss == loss && !ag_graph_error(g));
            } else if (!failed) {
                CHECK(n > 15);                              // the graph, the network and more than a dozen pages
                CHECK(fail_on == 0 || loss == want);
                want = loss;
            }
            ag_mlp_free(mlp);
            ag_graph_free(g);
            CHECK_INT(live, 0);
        }
        CHECK(!failed);
    }
    fail_on = 0;
}

// ---- pictures -------------------------------------------------------------------------------------------------------
static void dot(void) {
    static const char want[] =
        "digraph {\n"
        "    rankdir=LR; node [fontname=Helvetica];\n"
        "    v3 [shape=record, label=\"data -6.0000 | grad 1.0000\"];\n"
        "    op3 [label=\"*\"]; op3 -> v3;\n"
        "    v0 -> op3;\n"
        "    v1 -> op3;\n"
        "    v1 [shape=record, label=\"b\\|\\\"\\<\\{ | data -3.0000 | grad 2.0000\"];\n"
        "    v0 [shape=record, label=\"a | data 2.0000 | grad -3.0000\"];\n"
        "}\n";
    ag_graph *g = ag_graph_new(1);
    ag_value *a = ag_vlabel(ag_var(g, 2), "a"), *b = ag_vlabel(ag_var(g, -3), "b|\"<{");
    ag_value *aside = ag_vtanh(a), *y = ag_vmul(a, b);
    char text[1024], part[1024];
    size_t size;
    ag_vbackward(y);
    size = ag_graph_dot(y, text, sizeof text);
    CHECK_STR(text, want);
    CHECK_INT(size, strlen(want));
    CHECK_INT(ag_graph_dot(y, NULL, 0), size);              // as snprintf: how much room it takes
    for (size_t cap = 1; cap <= size + 1; cap++) {
        memset(part, '#', sizeof part);
        CHECK(ag_graph_dot(y, part, cap) == size);
        CHECK(strlen(part) == cap - 1 && !strncmp(part, want, cap - 1) && part[cap] == '#');
    }
    ag_graph_dot(ag_vadd(aside, aside), text, sizeof text); // used twice: two edges, drawn once
    CHECK_HAS(text, "v2 -> op4;\n    v2 -> op4;\n    v2 [");
    CHECK_HAS(text, "op2 [label=\"tanh\"]; op2 -> v2;\n    v0 -> op2;\n    v0 [");
    CHECK_STR(ag_vop(aside), "tanh");
    CHECK_STR(ag_vop(a), "");
    ag_graph_free(g);
}

int main(int argc, char **argv) {
    T_BEGIN("scalar");
    T_RUN(micrograd_readme);
    T_RUN(by_hand);
    T_RUN(every_op);
    T_RUN(edges);
    T_RUN(bystanders);
    T_RUN(accumulation);
    T_RUN(diamond);
#if !defined(_WIN32)
    T_RUN(million_values_on_a_small_stack);
#endif
    T_RUN(random_graphs);
    T_RUN(pages);
    T_RUN(network);
    T_RUN(training);
    T_RUN(null_is_passed_on);
    T_RUN(out_of_memory);
    T_RUN(dot);
    return T_END();
}
