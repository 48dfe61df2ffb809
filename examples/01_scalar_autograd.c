// Lesson 01: how does a program find the derivative of a formula it has only just computed?
//
//     cc -O3 examples/01_scalar_autograd.c -o scalar_autograd -lm && ./scalar_autograd
//
// Every number here remembers how it was made. We take the expression of micrograd's README, two inputs and thirty
// operations, and ask how the result moves when a or b moves: first by walking the graph backwards (exact, all inputs
// at once), then by nudging one input at a time (approximate, one whole computation for each nudge). Then a formula of
// two lines shows why a gradient is added up and never overwritten.
//
// It prints    y = 24.7041, dy/da = 138.8338, dy/db = 645.5773
//              the same two derivatives by nudging, with nudges from 0.1 down to 1e-12
//              b = a + a, c = b + b: dc/da is 1 with =, and 4 with +=. Four is right.
// It writes    out/01/graph.png, out/01/neuron.png    the graph of the expression, and that of one neuron
//              out/01/graph.dot                       the first for Graphviz (dot -Tsvg out/01/graph.dot > graph.svg)
//              out/01/log.csv, out/01/nudge.png       how wrong the nudges are
// It takes     less than a second.
// Next         02_mlp_moons.c puts 337 such numbers together into a network that learns. What happens inside is
//              chapter 1 of autograd.h, three screens of code.
//
// Exercises
//   1. Run it with a=-2 b=2. Now nudging and walking disagree, however small the nudge. Which operation is to blame?
//      (Run a=-2.001 b=2 and a=-1.999 b=2 as well: on either side of that place they agree again. On which of the two
//      sides does dy/da look like what the walk said at a=-2?)
//   2. In autograd.h, agi_value_backward, make the += of AG_V_MUL into =. Which of the three numbers above survive?
//      Say it before you run, then undo it.
//   3. Below, at the end of expression(), return y = 1 / (1 + exp(-b)) instead:
//      ag_vpow(ag_vshift(ag_vexp(ag_vneg(b)), 1), -1). By hand, dy/db = y * (1 - y). Does the program agree? And why is
//      dy/da now 0, although a still has a part in thirty values of the graph?
#define AG_DIE_ON_ERROR
#define AUTOGRAD_IMPLEMENTATION
#include "../autograd.h"
#include "lesson.h"
#include "plot.h"

// The expression, as micrograd has it. Where Python says c += ..., here c becomes the name of a new, younger value.
static ag_value *expression(ag_graph *g, ag_value *a, ag_value *b) {
    ag_value *c = ag_vadd(a, b), *d = ag_vadd(ag_vmul(a, b), ag_vpow(b, 3)), *e, *f;    // c = a + b, d = a * b + b**3
    c = ag_vadd(c, ag_vshift(c, 1));                                                    // c += c + 1
    c = ag_vadd(c, ag_vadd(ag_vshift(c, 1), ag_vneg(a)));                               // c += 1 + c + (-a)
    d = ag_vadd(d, ag_vadd(ag_vscale(d, 2), ag_vrelu(ag_vadd(b, a))));                  // d += d * 2 + relu(b + a)
    d = ag_vadd(d, ag_vadd(ag_vscale(d, 3), ag_vrelu(ag_vsub(b, a))));                  // d += 3 * d + relu(b - a)
    ag_vlabel(c, "c"), ag_vlabel(d, "d");
    e = ag_vlabel(ag_vsub(c, d), "e");                                                  // e = c - d
    f = ag_vlabel(ag_vpow(e, 2), "f");                                                  // f = e**2
    return ag_vadd(ag_vscale(f, 0.5), ag_vdiv(ag_var(g, 10), f));                       // y = f / 2 + 10 / f
}

// What an impatient reader would do: change x a little, compute again, see how far y has moved.
static double nudge(ag_value *y, ag_value *x, double eps) {
    const double at = x->data;
    double up, down;
    x->data = at + eps, ag_vforward(y), up = y->data;
    x->data = at - eps, ag_vforward(y), down = y->data;
    x->data = at, ag_vforward(y);
    return (up - down) / (2 * eps);
}

// Draws all values of a graph: one box each, with an arrow from every operand. Values come in the order in which they
// were made, and so do the boxes, so the number of a value is the number of its box.
static void draw(ag_graph *g, const char *title, const char *name) {
    plot *p = plot_new(title, NULL, NULL);
    for (ag_value *v = ag_graph_first(g); v; v = ag_vnext(v)) {
        char text[96];
        snprintf(text, sizeof text, "%s%sdata %.4g | grad %.4g", v->label ? v->label : "", v->label ? " | " : "",
                 v->data, v->grad);
        plot_node(p, text, *ag_vop(v) ? ag_vop(v) : NULL);
        if (v->a) plot_edge(p, (int)ag_vindex(v->a), (int)ag_vindex(v));
        if (v->b && v->b != v->a) plot_edge(p, (int)ag_vindex(v->b), (int)ag_vindex(v));
    }
    lesson_save(p, name), plot_free(p);
}

static void write_dot(const ag_value *y, const char *path) {
    size_t size = ag_graph_dot(y, NULL, 0) + 1;             // as snprintf: first ask how long, then do it
    char *text = (char *)lesson_alloc(size, 1), failed[400];
    FILE *f = fopen(path, "w");
    ag_graph_dot(y, text, size);
    int bad = !f || fputs(text, f) < 0;
    if (f && fclose(f)) bad = 1;
    snprintf(failed, sizeof failed, "cannot write %.300s: %s", path, strerror(errno));
    lessoni_saved(-bad, failed);                            // told and remembered; the lesson has more to say
    free(text);
}

// The walk back over a graph of sums, done wrongly (keep = 0: gradients overwrite) and rightly (keep = 1: they add up).
static void walk(ag_value *const *v, int n, int keep) {
    for (int i = 0; i < n; i++) v[i]->grad = i == n - 1;    // dc/dc = 1
    for (int i = n - 1; i >= 0; i--) {
        if (v[i]->op != AG_V_ADD) continue;
        v[i]->a->grad = keep * v[i]->a->grad + v[i]->grad;
        v[i]->b->grad = keep * v[i]->b->grad + v[i]->grad;
    }
}

int main(int argc, char **argv) {
    enum { NUDGES = 12 };
    double eps[NUDGES], error_a[NUDGES], error_b[NUDGES];
    lesson_begin(argc, argv, "01", "scalar autograd");
    double a0 = lesson_float_in("a", -4, -100, 100, "where to take the derivative: the first input");
    double b0 = lesson_float_in("b", 2, -100, 100, "and the second one");
    lesson_options_end();

    ag_graph *g = ag_graph_new(1337);
    ag_value *a = ag_vlabel(ag_var(g, a0), "a"), *b = ag_vlabel(ag_var(g, b0), "b");
    ag_value *y = ag_vlabel(expression(g, a, b), "y");
    ag_vbackward(y);
    printf("y = %.4f, dy/da = %.4f, dy/db = %.4f: one walk over %d values\n\n", y->data, a->grad, b->grad,
           (int)ag_graph_mark(g));

    printf("the same by nudging      dy/da        error        dy/db        error\n");
    lesson_csv csv = lesson_csv_open(lesson_path("log.csv"), "nudge,dy_da,error_a,dy_db,error_b");
    for (int i = 0; i < NUDGES; i++) {
        double da = nudge(y, a, eps[i] = pow(10, -1 - i)), db = nudge(y, b, eps[i]);
        error_a[i] = fabs(da - a->grad), error_b[i] = fabs(db - b->grad);
        printf("  by %-7.0e %18.6f %12.1e %12.6f %12.1e\n", eps[i], da, error_a[i], db, error_b[i]);
        lesson_csv_number(&csv, eps[i]);
        lesson_csv_number(&csv, da), lesson_csv_number(&csv, error_a[i]);
        lesson_csv_number(&csv, db), lesson_csv_number(&csv, error_b[i]);
        lesson_csv_end(&csv);
    }
    lesson_csv_close(&csv);
    printf("A large nudge sees the curve bend, a tiny one sees rounding. The walk has neither.\n\n");

    plot *p = plot_new("Nudging: how far off the derivative is", "size of the nudge", "error against the walk");
    plot_line(p, "dy/da", eps, error_a, NUDGES), plot_dots(p);
    plot_line(p, "dy/db", eps, error_b, NUDGES), plot_dots(p);
    plot_log_x(p), plot_log_y(p);
    lesson_save(p, "nudge.png"), plot_free(p);
    draw(g, "micrograd's expression: each value, and how y moves with it", "graph.png");
    write_dot(y, lesson_path("graph.dot"));
    ag_graph_rewind(g, 0);

    ag_value *w[3], *x[2], *sums[3];                        // the smallest neuron that is one: two inputs, a bend
    w[0] = ag_vlabel(ag_var(g, -3), "w0"), w[1] = ag_vlabel(ag_var(g, 1), "w1");
    x[0] = ag_vlabel(ag_var(g, 2), "x0"), x[1] = ag_vlabel(ag_var(g, 0.25), "x1");
    w[2] = ag_vlabel(ag_var(g, 6.88), "bias");
    y = ag_vtanh(ag_vadd(ag_vadd(ag_vmul(w[0], x[0]), ag_vmul(w[1], x[1])), w[2]));
    ag_vbackward(ag_vlabel(y, "out"));
    draw(g, "One neuron: tanh(w0 * x0 + w1 * x1 + bias)", "neuron.png");
    ag_graph_rewind(g, 0);

    sums[0] = a = ag_var(g, 3), sums[1] = b = ag_vadd(a, a), sums[2] = ag_vadd(b, b);
    walk(sums, 3, 0);
    printf("b = a + a, c = b + b, so c is 4a.\n");
    printf("    with  =   dc/db = %g, dc/da = %g    wrong: the second path wiped out the first\n", b->grad, a->grad);
    walk(sums, 3, 1);
    printf("    with +=   dc/db = %g, dc/da = %g    right\n", b->grad, a->grad);
    ag_graph_zero_grad(g), ag_vbackward(sums[2]);
    printf("    library   dc/db = %g, dc/da = %g\n\n", b->grad, a->grad);
    lesson_written("nudge.png, log.csv, graph.png, graph.dot, neuron.png");
    ag_graph_free(g);
    return lesson_end();
}
