// Lesson 03: can a machine learn what could also be counted?
//
//     cc -O3 examples/03_bigram.c -o bigram -lm && ./bigram
//
// The smallest language model is a table: row x holds the probability of each character after x. It can be counted, or
// it can be learned: start from a table of zeros and follow the gradient of the surprise. Both end in the same table,
// because the counted frequencies are what minimises the loss; learning is the way that still works when the table
// would have more entries than there are atoms. (The counts get one added, "add-one": no pair is impossible.)
//
// It prints    the mean surprise on the last tenth of the text, in nats: ln 65 = 4.174 for a blind guess, 3.347 for
//              single characters, 2.482 for pairs, counted and learned; how far the two tables are apart; and what the
//              learned one writes
// It writes    out/03/loss.png, out/03/log.csv    learning falls onto counting, both on the nine tenths they know
//              out/03/table.png                   the learned table
//              out/03/table.csv                   both tables, a pair of characters a row
// It takes     1 second.
// Next         04_tensors.c: the table becomes a network that looks further back.
//
// Exercises
//   1. steps=10, 30, 100: predict first how far the tables are apart. Which rows converge last, and why? Compare the
//      last two columns for a rare letter and a frequent one: grep ^q, out/03/table.csv and grep ^e, out/03/table.csv
//   2. add=100 adds a hundred to each count instead of one. Is the surprise on the last tenth better or worse than
//      2.482? Which add= is best, and why not the smallest?
//   3. What follows a q? grep ^q, out/03/table.csv | sort -t, -g -r -k 3 | head -n 5 shows the five likeliest. Why are
//      four of them equally likely, and where does that number come from? (Run again with add=0.001.)
#define AG_DIE_ON_ERROR
#define AUTOGRAD_IMPLEMENTATION
#include "../autograd.h"
#include "lesson.h"
#include "plot.h"

#define V_MAX 256

// Mean surprise of ids, each given the one before, by the table p (V,V).
static double surprise(const float *p, int V, const int *ids, size_t n) {
    double sum = 0;
    for (size_t i = 1; i < n; i++) sum -= log(p[ids[i - 1] * V + ids[i]]);
    return sum / (double)(n - 1);
}

int main(int argc, char **argv) {
    lesson_begin(argc, argv, "03", "counting and learning find the same table");
    int steps = lesson_int_in("steps", 400, 1, 100000, "steps of gradient descent");
    double lr = lesson_float("lr", 0.3, "learning rate, falling to zero along a cosine");
    const char *source = lesson_str("data", "", "a text file of yours (default: Tiny Shakespeare)");
    double add = lesson_float_in("add", 1, 1e-6, 1e6, "added to the count of each pair");
    int seed = lesson_int("seed", 1337, "of the sample");
    lesson_options_end();

    // Characters become numbers: the kinds that occur, in order.
    size_t bytes;
    unsigned char *text = *source ? lesson_file(source, &bytes) : lesson_data("tinyshakespeare.txt", &bytes);
    unsigned char kinds[V_MAX];
    int V = 0, id_of[256], *ids = (int *)lesson_alloc(bytes, sizeof *ids);
    if (bytes < 20) lesson_fail("the text is too short");
    for (int c = 0; c < 256; c++) {
        id_of[c] = V;
        if (memchr(text, c, bytes)) kinds[V++] = (unsigned char)c;
    }
    for (size_t i = 0; i < bytes; i++) ids[i] = id_of[text[i]];
    size_t n = bytes * 9 / 10;
    const int *val = ids + n;

    // Counting.
    size_t cells = (size_t)V * V;
    float *count = (float *)lesson_alloc(cells, sizeof *count), *p = (float *)lesson_alloc(cells, sizeof *p);
    float *single = (float *)lesson_alloc(cells, sizeof *single);
    for (int i = 0; i < V * V; i++) count[i] = (float)add;
    for (size_t i = 1; i < n; i++) count[ids[i - 1] * V + ids[i]]++;
    for (int x = 0; x < V; x++) {
        double row = 0;
        for (int y = 0; y < V; y++) row += count[x * V + y];
        for (int y = 0; y < V; y++) p[x * V + y] = (float)(count[x * V + y] / row);
    }
    for (size_t i = 0; i < n; i++) single[ids[i]] += 1.0f / (float)n;   // the same row for every x
    for (int i = V; i < V * V; i++) single[i] = single[i % V];
    for (int i = 0; i < V * V; i++) single[i] = single[i] > 0 ? single[i] : 1e-9f;
    double blind = log(V), unigram = surprise(single, V, val, bytes - n), counted = surprise(p, V, val, bytes - n);
    printf("%d kinds of characters, %s to count, the last %s to be asked about\n", V, lesson_commas((long long)n),
           lesson_commas((long long)(bytes - n)));
    printf("blind guess    ln %d = %.3f\n", V, blind);
    printf("unigram             %.3f\nbigram, counted     %.3f\n", unigram, counted);

    // Learning: logits W (V,V), row x for what follows x. Each step takes every pair of the text, at its weight.
    ag_ctx *ag = ag_new((unsigned long long)seed);
    ag_tensor *W = ag_param(ag, V, V);
    double total = 0, start = lesson_seconds();
    for (int i = 0; i < V * V; i++) total += count[i];
    for (int i = 0; i < V * V; i++) count[i] = (float)(count[i] / total);
    double unigram_here = 0, counted_here = 0;          // surprise on the text of the loss; no table has less than p
    for (int i = 0; i < V * V; i++) unigram_here -= count[i] * log(single[i]), counted_here -= count[i] * log(p[i]);
    float *learned = (float *)lesson_alloc(cells, sizeof *learned);
    double *loss_at = (double *)lesson_alloc((size_t)steps, sizeof *loss_at);
    lesson_log_open(-1);
    for (int step = 0; step < steps; step++) {
        double rate = lr * 0.5 * (1 + cos(3.14159265358979 * step / steps));
        ag_tensor *loss = ag_neg(ag_sum(ag_mul(ag_input(ag, count, V, V), ag_log_softmax(W))));
        loss_at[step] = ag_item(loss);
        ag_backward(loss);
        double norm = ag_grad_norm(ag);
        ag_adamw(ag, rate, 0.9, 0.99, 0);
        ag_reset(ag);
        double speed = (step + 1) * (double)n / (lesson_seconds() - start + 1e-9);
        lesson_log(step, loss_at[step], LESSON_NONE, rate, norm, speed);
        lesson_progress(step + 1, steps, loss_at[step], LESSON_NONE);
    }
    ag_get(ag_softmax(W), learned);
    double apart = 0;
    for (int i = 0; i < V * V; i++) apart = fmax(apart, fabs(learned[i] - p[i]));
    printf("bigram, learned     %.3f\n", surprise(learned, V, val, bytes - n));
    printf("largest difference between the two tables: %.5f\n", apart);

    // Writing: the next character from the row of the last one.
    char out[301];
    for (int i = 0, x = id_of['\n'] < V ? id_of['\n'] : 0; i < 300; i++) {
        double u = ag_rng_uniform(ag_stream(ag, AG_RNG_SAMPLE));
        int y = 0;
        while (y < V - 1 && (u -= learned[x * V + y]) >= 0) y++;
        out[i] = (char)kinds[y], x = y;
    }
    printf("--- what the table writes\n");
    lesson_print_text(out, 300);
    printf("\n---\n");

    plot *curve = plot_new("Learning falls onto counting", "step", "loss (nats a character)");
    plot_subtitle(curve, "all on the nine tenths of the text that are counted and learned from");
    plot_line(curve, "learned pairs", NULL, loss_at, (size_t)steps);
    plot_hline(curve, blind, "blind guess"), plot_hline(curve, unigram_here, "single characters");
    plot_hline(curve, counted_here, "counted pairs");
    lesson_save(curve, "loss.png");
    plot_free(curve);

    char names[V_MAX][8];
    const char *labels[V_MAX];
    for (int i = 0; i < V; i++) {
        int c = kinds[i];
        snprintf(names[i], sizeof names[i], c < 33 || c > 126 ? "x%02x" : "%c", c);
        labels[i] = c == '\n' ? "\\n" : c == ' ' ? "sp" : names[i];
    }
    plot *table = plot_new("What follows what: the learned table", "next character", "character");
    plot_heat(table, learned, V, V, labels, labels), plot_heat_label(table, "probability");
    lesson_save(table, "table.png");
    plot_free(table);
    lesson_csv csv = lesson_csv_open(lesson_path("table.csv"), "character,next,counted,learned");
    for (int i = 0; i < V * V; i++) {
        lesson_csv_text(&csv, labels[i / V]), lesson_csv_text(&csv, labels[i % V]);
        lesson_csv_number(&csv, p[i]), lesson_csv_number(&csv, learned[i]), lesson_csv_end(&csv);
    }
    lesson_csv_close(&csv);
    lesson_written("loss.png, log.csv, table.png, table.csv");
    ag_free(ag);
    free(text), free(ids), free(count), free(p), free(single), free(learned), free(loss_at);
    return lesson_end();
}
