// Lesson 02: how do derivatives become learning?
//
//     cc -O3 examples/02_mlp_moons.c -o mlp_moons -lm && ./mlp_moons
//
// Two half moons, interlocked so that no straight line keeps them apart. A network of 337 numbers gives every point a
// score, and its sign says which moon. A loss measures how wrong the scores are; one walk backwards tells for each of
// the 337 how the loss moves with it; and each takes a step the other way. That, a hundred times, is all of training.
// The loss asks for more than the right sign, for a margin of 1: mean of max(0, 1 - label * score), plus a small
// price on large weights, 1e-4 times the sum of their squares (exactly the demo of Karpathy's micrograd).
//
// It prints    the loss, and the share of points on the right side: of those it learns from, and of as many others.
//              Both are 50 % at first; after 100 steps, 100 % and 99 %.
// It writes    out/02/boundary.png    what the network thinks of the whole plane, at four moments of its training
//              out/02/loss.png, out/02/log.csv    the loss for each step (val_loss: on the points it never sees)
// It takes     2 seconds, most of it for the pictures; a step computes 66,000 values and their gradients in 0.6 ms.
// Next         03_bigram.c predicts letters instead of moons. 04_tensors.c separates moons in ten lines.
//
// Exercises
//   1. steps=500 with hidden=1, 2, 3, 4, 5: what is the narrowest network that gets all points right that it learns
//      from? Look at its boundary.png: how many bends has the line, and where do they come from? Is wider always
//      better? (hidden=4, then hidden=4 seed=3.)
//   2. lr=0.01, lr=1, lr=10: guess the three curves, then look at loss.png. In the third all points end up with the
//      same score, because every neuron of a layer is at 0: why can no step undo that, and what is still falling?
//   3. noise=0.4 points=30 steps=1000: how far apart do the two curves of loss.png end? And with alpha=0.03 besides?
//      The gap is called overfitting; the price on large weights is the oldest means against it.
#define AG_DIE_ON_ERROR
#define AUTOGRAD_IMPLEMENTATION
#include "../autograd.h"
#include "lesson.h"
#include "plot.h"

typedef struct moons { int n; double x[1000][2], label[1000]; } moons;     // label: -1 upper moon, +1 lower moon
enum { MOMENTS = 4, MOST = 20000 };
typedef struct moment { ag_graph *g; ag_mlp *mlp; int step; double accuracy, weights[MOST]; } moment;
static moons train, unseen;
static moment moments[MOMENTS];

// Points along two half circles, with noise: what scikit-learn calls make_moons.
static void make_moons(moons *m, int n, double noise, ag_rng *rng) {
    m->n = n;
    for (int i = 0; i < n; i++) {
        double angle = 3.14159265358979 * (i / 2) / (n / 2 - 1);
        m->label[i] = i % 2 ? 1 : -1;
        m->x[i][0] = (i % 2 ? 1 - cos(angle) : cos(angle)) + noise * ag_rng_normal(rng);
        m->x[i][1] = (i % 2 ? 0.5 - sin(angle) : sin(angle)) + noise * ag_rng_normal(rng);
    }
}

static ag_value *score(ag_graph *g, const ag_mlp *mlp, double x0, double x1) {
    ag_value *x[2], *y;
    x[0] = ag_var(g, x0), x[1] = ag_var(g, x1);
    ag_mlp_call(mlp, x, &y);
    return y;
}

// mean of max(0, 1 - label * score) + alpha * sum of weight**2, and the share of points on the right side.
static ag_value *make_loss(ag_graph *g, const ag_mlp *mlp, const moons *m, double alpha, double *accuracy) {
    int n_params, right = 0;
    ag_value **params = ag_mlp_params(mlp, &n_params), *margins = ag_var(g, 0), *squares = ag_var(g, 0);
    for (int i = 0; i < m->n; i++) {
        ag_value *agreement = ag_vscale(score(g, mlp, m->x[i][0], m->x[i][1]), m->label[i]);
        right += agreement->data > 0;
        margins = ag_vadd(margins, ag_vrelu(ag_vshift(ag_vneg(agreement), 1)));
    }
    for (int i = 0; i < n_params; i++) squares = ag_vadd(squares, ag_vmul(params[i], params[i]));
    *accuracy = 100.0 * right / m->n;
    return ag_vadd(ag_vscale(margins, 1.0 / m->n), ag_vscale(squares, alpha));
}

// The plot asks for the score of 16,000 places, as the network was at that moment.
static double score_then(void *user, double x0, double x1) {
    moment *then = (moment *)user;
    size_t mark = ag_graph_mark(then->g);
    int n;
    ag_value **params = ag_mlp_params(then->mlp, &n);
    for (int i = 0; i < n; i++) params[i]->data = then->weights[i];
    double result = score(then->g, then->mlp, x0, x1)->data;
    ag_graph_rewind(then->g, mark);
    return result;
}

static plot *draw_moment(moment *m) {
    char title[64];
    double xs[2][500], ys[2][500];
    for (int i = 0; i < train.n; i++) xs[i % 2][i / 2] = train.x[i][0], ys[i % 2][i / 2] = train.x[i][1];
    snprintf(title, sizeof title, "After %d steps: %.0f %% on the right side", m->step, m->accuracy);
    plot *p = plot_new(title, "x", "y");
    plot_size(p, 1000, 700);
    plot_region(p, score_then, m);
    plot_scatter(p, "upper moon", xs[0], ys[0], (size_t)(train.n / 2));
    plot_scatter(p, "lower moon", xs[1], ys[1], (size_t)(train.n / 2));
    plot_equal(p);
    return p;
}

int main(int argc, char **argv) {
    lesson_begin(argc, argv, "02", "an MLP of scalars separates two moons");
    int steps       = lesson_int_in("steps", 100, 4, 100000, "gradient steps");
    int points      = lesson_int_in("points", 100, 4, 1000, "points to learn from, half of them on each moon");
    int hidden      = lesson_int_in("hidden", 16, 1, 128, "neurons in each of the two hidden layers");
    double noise    = lesson_float("noise", 0.1, "how far the points stray from their moons");
    double rate     = lesson_float("lr", 1, "step size at the start; it sinks to a tenth of that");
    double alpha    = lesson_float("alpha", 1e-4, "the price of large weights");
    int seed        = lesson_int("seed", 1, "another seed: other points, other weights");
    lesson_options_end();

    ag_rng rng = {(uint64_t)seed, 0};
    make_moons(&train, points / 2 * 2, noise, &rng);
    make_moons(&unseen, points / 2 * 2, noise, &rng);
    ag_graph *g = ag_graph_new((unsigned long long)seed);
    int sizes[] = {0, 0, 1}, n_params;
    sizes[0] = sizes[1] = hidden;
    ag_mlp *mlp = ag_mlp_new(g, 2, sizes, 3);
    ag_value **params = ag_mlp_params(mlp, &n_params);
    size_t mark = ag_graph_mark(g);                         // parameters live before the mark, everything else after it
    printf("an MLP 2-%d-%d-1 with %d parameters, %d points\n", hidden, hidden, n_params, train.n);

    lesson_log_open(-1);
    for (int step = 0; step <= steps && !lesson_interrupted(); step++) {
        double accuracy, unseen_accuracy, norm = 0, lr = rate * (1 - 0.9 * step / steps);
        double unseen_loss = make_loss(g, mlp, &unseen, alpha, &unseen_accuracy)->data;
        ag_graph_rewind(g, mark);

        ag_value *loss = make_loss(g, mlp, &train, alpha, &accuracy);                   // forward
        double train_loss = loss->data;
        ag_vbackward(loss);                                                             // backward
        for (int i = 0; i < n_params; i++) norm += params[i]->grad * params[i]->grad;

        for (int i = 0; i < MOMENTS; i++) {                 // for the picture: keep the network as it is now
            static const int when[MOMENTS] = {0, 10, 30, 100};
            if (step != steps * when[i] / 100) continue;
            moments[i].g = g, moments[i].mlp = mlp, moments[i].step = step, moments[i].accuracy = accuracy;
            for (int k = 0; k < n_params; k++) moments[i].weights[k] = params[k]->data;
        }
        for (int i = 0; i < n_params; i++) {                                            // update: downhill
            params[i]->data -= lr * params[i]->grad;
            params[i]->grad = 0;
        }
        ag_graph_rewind(g, mark);

        lesson_log(step, train_loss, unseen_loss, lr, sqrt(norm), LESSON_NONE);
        lesson_progress(step, steps, train_loss, LESSON_NONE);
        if (step % (steps >= 10 ? steps / 10 : 1) == 0)
            lesson_report("step %4d   loss %.4f   right: %5.1f %%   of points never seen: %5.1f %%", step, train_loss,
                          accuracy, unseen_accuracy);
    }
    if (!lesson_interrupted()) {
        char title[64];
        snprintf(title, sizeof title, "%d scalars learn two moons", n_params);
        plot *p = plot_new(title, "step", "loss"), *four[MOMENTS];
        plot_csv(p, "points it learns from", lesson_path("log.csv"), "step", "train_loss");
        plot_csv(p, "points it never sees", lesson_path("log.csv"), "step", "val_loss");
        for (int i = 0; i < MOMENTS; i++) four[i] = draw_moment(&moments[i]);
        lesson_save(p, "loss.png");
        lessoni_saved(plot_save_grid(four, MOMENTS, 2, lesson_path("boundary.png")), plot_error(four[0]));
        lesson_written("boundary.png, loss.png, log.csv");
        for (int i = 0; i < MOMENTS; i++) plot_free(four[i]);
        plot_free(p);
    }
    ag_mlp_free(mlp);
    ag_graph_free(g);
    return lesson_end();
}
