// Lesson 04: why compute with whole arrays when scalars can do it all?
//
//     cc -O3 examples/04_tensors.c -o tensors -lm && ./tensors
//
// Lesson 02 made one node for each number. Here a node is an array, an op is a loop that the processor can run sixteen
// numbers wide, and a small network that separates the two moons needs microseconds a step. The tape, the reverse walk
// and += are what they were. In this order: broadcasting (which shapes may meet, and where the gradient of a repeated
// row goes); the two moons of lesson 02, with one tanh layer, in four lines; a gradient check; and a first neural
// language model, a character MLP (Bengio et al. 2003): the last 8 characters are looked up in a table of 16 numbers
// each, joined to one row, and a hidden layer of 200 guesses the next.
//
// It prints    (3,1) + (2) and its gradient; the largest error of the gradient check; 200 of 200 points on their side;
//              the model's loss on the last tenth of Tiny Shakespeare: in the end 1.92 (pairs, in lesson 03: 2.48)
// It writes    out/04/moons.png                what the small network thinks of the plane
//              out/04/loss.png, out/04/log.csv the loss of the character MLP
// It takes     5 seconds.
// Next         05_tokenizers.c: what a "character" should be. Then 07_attention.c: how to look back further without
//              more weights.
//
// Exercises
//   1. In broadcast() below, let a be ag_param(ag, 4, 1, 3) and b be ag_param(ag, 5, 1), without ag_set, with sum[60]
//      and g[12]; print y->shape[2] and g[11] as well. Which shape does y get, and which number is all of a's gradient?
//   2. In autograd.h find "case AG_MAP_TANH: return 1 - y * y" and make the - a +. Compile with -DAG_NAIVE, so that
//      this simple form of each op is what runs, and run with steps=1. Does the gradient check notice? Undo it.
//   3. context=1 has to end near the bigram's 2.48. Why not below? Then context=2, 4, 8, 16: where does it stop paying?
#define AG_DIE_ON_ERROR
#define AUTOGRAD_IMPLEMENTATION
#include "../autograd.h"
#include "lesson.h"
#include "plot.h"

#define MOONS 200
typedef struct mlp { ag_tensor *w1, *b1, *w2, *b2; } mlp;
static float moons[MOONS][2], side[MOONS];              // points; -1 for the upper moon, +1 for the lower

static ag_tensor *mlp_forward(const mlp *m, ag_tensor *x) {             // (n,2) -> (n,1)
    ag_tensor *h = ag_tanh(ag_add(ag_matmul(x, m->w1), m->b1));         // (n,16) + (16): one row of biases for all
    return ag_add(ag_matmul(h, m->w2), m->b2);
}

static ag_tensor *mlp_loss(ag_ctx *ag, void *user) {                    // a margin of 1, as in lesson 02
    ag_tensor *score = mlp_forward((const mlp *)user, ag_input(ag, &moons[0][0], MOONS, 2));
    return ag_mean(ag_relu(ag_shift(ag_neg(ag_mul(score, ag_input(ag, side, MOONS, 1))), 1)));
}

static double mlp_score(void *user, double x, double y) {               // for the picture
    const mlp *m = (const mlp *)user;
    ag_ctx *ag = m->w1->ctx;
    ag_mark_at mark = ag_mark(ag);
    float point[2] = {(float)x, (float)y};
    double score = ag_item(mlp_forward(m, ag_input(ag, point, 1, 2)));
    ag_rewind(ag, mark);
    return score;
}

static void learn_moons(void) {
    ag_ctx *ag = ag_new(7);
    ag_rng *rng = ag_stream(ag, AG_RNG_DATA);
    mlp m = {ag_param(ag, 2, 16), ag_param(ag, 16), ag_param(ag, 16, 1), ag_param(ag, 1)};
    double px[2][MOONS / 2], py[2][MOONS / 2], start = lesson_seconds();
    for (int i = 0; i < MOONS; i++) {
        double t = 3.14159265 * ag_rng_uniform(rng), lower = i % 2;
        moons[i][0] = (float)(px[i % 2][i / 2] = (lower ? 1 - cos(t) : cos(t)) + 0.1 * ag_rng_normal(rng));
        moons[i][1] = (float)(py[i % 2][i / 2] = (lower ? 0.5 - sin(t) : sin(t)) + 0.1 * ag_rng_normal(rng));
        side[i] = lower ? 1.0f : -1.0f;
    }
    ag_randn(m.w1, 0.7f), ag_randn(m.w2, 0.25f);
    printf("gradient check: largest error %.1e (float: a thousandth is right, the tests do it in double to 1e-7)\n",
           ag_check_grad(ag, mlp_loss, &m, 1e-2));
    double loss = 0;
    for (int step = 0; step < 400; step++) {
        ag_tensor *l = mlp_loss(ag, &m);
        loss = ag_item(l);
        ag_backward(l);
        ag_adamw(ag, 0.02 * (1 - step / 400.0), 0.9, 0.99, 0);
        ag_reset(ag);
    }
    double seconds = lesson_seconds() - start;
    int right = 0;
    for (int i = 0; i < MOONS; i++) right += (mlp_score(&m, moons[i][0], moons[i][1]) > 0) == (side[i] > 0);
    printf("two moons: loss %.4f, %d of %d points on their side, %.0f microseconds a step\n", loss, right, MOONS,
           seconds / 400 * 1e6);
    plot *p = plot_new("Two moons, in tensors", "x", "y");
    plot_region(p, mlp_score, &m);
    plot_scatter(p, "upper moon", px[0], py[0], MOONS / 2), plot_scatter(p, "lower moon", px[1], py[1], MOONS / 2);
    plot_equal(p);
    lesson_save(p, "moons.png");
    plot_free(p), ag_free(ag);
}

static void broadcast(void) {
    float column[3] = {1, 2, 3}, row[2] = {10, 20}, sum[6], g[3];
    ag_ctx *ag = ag_new(1);
    ag_tensor *a = ag_param(ag, 3, 1), *b = ag_input(ag, row, 2);
    ag_set(a, column);
    ag_tensor *y = ag_add(a, b);                        // (3,1) + (2) -> (3,2)
    ag_backward(ag_sum(y));
    ag_get(y, sum), ag_get_grad(a, g);
    printf("(3,1) + (2) -> (%d,%d): ", y->shape[0], y->shape[1]);
    for (int i = 0; i < 6; i++) printf("%g ", sum[i]);
    printf("\neach entry of (3,1) was used twice, so its gradient collects two ones: %g %g %g\n", g[0], g[1], g[2]);
    ag_free(ag);
}

int main(int argc, char **argv) {
    lesson_begin(argc, argv, "04", "tensors, and a first neural language model");
    int steps = lesson_int_in("steps", 4000, 1, 10000000, "optimizer steps of the character MLP");
    int context = lesson_int_in("context", 8, 1, 64, "characters that it sees");
    int hidden = lesson_int_in("hidden", 200, 1, 10000, "units of the hidden layer");
    int batch = lesson_int_in("batch", 128, 1, 100000, "examples a step");
    double lr = lesson_float("lr", 0.004, "peak learning rate, falling linearly to zero");
    const char *source = lesson_str("data", "", "a text file of yours (default: Tiny Shakespeare)");
    int seed = lesson_int("seed", 1337, "of everything random");
    lesson_options_end();
    broadcast();
    learn_moons();

    size_t bytes;
    unsigned char *text = *source ? lesson_file(source, &bytes) : lesson_data("tinyshakespeare.txt", &bytes);
    int V = 0, id_of[256], E = 16, K = context, *ids = (int *)lesson_alloc(bytes, sizeof *ids);
    size_t n = bytes * 9 / 10;
    if (bytes < 20 * (size_t)(K + 1)) lesson_fail("the text is too short");
    for (int c = 0; c < 256; c++) { id_of[c] = V; V += memchr(text, c, bytes) != NULL; }
    for (size_t i = 0; i < bytes; i++) ids[i] = id_of[text[i]];

    ag_ctx *ag = ag_new((unsigned long long)seed);
    ag_tensor *table = ag_param(ag, V, E), *w1 = ag_param(ag, K * E, hidden), *b1 = ag_param(ag, hidden);
    ag_tensor *w2 = ag_param(ag, hidden, V), *b2 = ag_param(ag, V);
    ag_randn(table, 1), ag_randn(w1, (float)(1 / sqrt((double)K * E))), ag_randn(w2, 0.01f);
    int rows = 4096 > batch ? 4096 : batch, *y = (int *)lesson_alloc((size_t)rows, sizeof *y);
    int *x = (int *)lesson_alloc((size_t)rows * K, sizeof *x);
    lesson_log_open(-1);
    double busy = 0, val_loss = NAN;
    for (int step = 0; step <= steps; step++) {
        double train_loss = LESSON_NONE, norm = LESSON_NONE, rate = lr * (1 - (double)step / steps);
        int measure = step % 500 == 0 || step == 100 || step == steps;
        if (measure) {                                  // the whole last tenth, in order, nothing recorded
            double sum = 0;
            int old = ag_no_grad(ag, 1);
            for (size_t at = n; at + (size_t)K < bytes;) {
                int m = 0;
                for (; m < rows && at + (size_t)K < bytes; m++, at++)
                    memcpy(x + m * K, ids + at, (size_t)K * sizeof *x), y[m] = ids[at + (size_t)K];
                ag_tensor *h = ag_reshape(ag_embedding(table, x, m * K, 0), m, K * E);
                sum += m * ag_item(ag_cross_entropy(ag_linear(ag_tanh(ag_linear(h, w1, b1)), w2, b2), y, NULL));
                ag_reset(ag);
            }
            ag_no_grad(ag, old);
            val_loss = sum / (double)(bytes - n - (size_t)K);
            lesson_report("step %5d: validation loss %.4f", step, val_loss);
        }
        if (step < steps) {
            double start = lesson_seconds();
            for (int b = 0; b < batch; b++) {
                size_t at = ag_rng_u32(ag_stream(ag, AG_RNG_DATA)) % (n - (size_t)K);
                memcpy(x + b * K, ids + at, (size_t)K * sizeof *x), y[b] = ids[at + (size_t)K];
            }
            ag_tensor *h = ag_reshape(ag_embedding(table, x, batch * K, 0), batch, K * E);      // (B, K*E)
            ag_tensor *logits = ag_linear(ag_tanh(ag_linear(h, w1, b1)), w2, b2);               // (B, V)
            ag_tensor *loss = ag_cross_entropy(logits, y, NULL);
            train_loss = ag_item(loss);
            ag_backward(loss);
            norm = ag_grad_norm(ag);
            ag_adamw(ag, rate, 0.9, 0.99, 0.01);
            ag_reset(ag);
            busy += lesson_seconds() - start;
        }
        double speed = (step + 1.0) * batch / (busy + 1e-9);
        lesson_log(step, train_loss, measure ? val_loss : LESSON_NONE, rate, norm, speed);
        lesson_progress(step, steps, train_loss, speed);
    }
    printf("character MLP: %s parameters, %d character%s of context: %.4f (pairs: 2.482)\n",
           lesson_commas(V * E + K * E * hidden + hidden + hidden * V + V), K, K == 1 ? "" : "s", val_loss);
    plot *p = plot_new("A first neural language model", "step", "loss (nats a character)");
    plot_csv(p, "train", lesson_path("log.csv"), "step", "train_loss");
    plot_csv(p, "validation", lesson_path("log.csv"), "step", "val_loss");
    plot_dots(p);
    plot_hline(p, 2.482, "pairs, counted (lesson 03)");
    lesson_save(p, "loss.png");
    plot_free(p), ag_free(ag);
    free(text), free(ids), free(x), free(y);
    lesson_written("moons.png, loss.png, log.csv");
    return lesson_end();
}
