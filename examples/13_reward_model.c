// Lesson 13: how does a machine learn what is liked, from choices alone?
//
//     cc -O3 examples/13_reward_model.c -o reward -lm && ./reward
//
// Nobody can write down a formula for a good reply, but everybody can say which of two is better. Bradley and Terry
// (1952) made numbers of such choices: each thing has a strength r, and the first of two wins with the probability
// sigmoid(r1 - r2). Our strengths come from a language model with one more output, a number (Christiano et al. 2017;
// Ouyang et al. 2022). It learns from pairs of replies to one request, that of the play and a worse one. Worse is what
// is said in another scene, what the base model makes up, the same words shuffled, the answer to another request, or
// the two words that were asked for and nothing else. The loss begins at ln 2 = 0.693, which is no opinion. Only
// differences count; a small second loss keeps zero in the middle.
// A judge learns what tells his pairs apart, and no more. Hardly a reply of another scene or of the base model begins
// with the words asked for, so whoever compares these alone is right about such pairs, as the column "rule" shows: what
// the model has learned from them is to look whether it was obeyed.
// We make two of them: one of few pairs, for lesson 14 to please, and one of many other pairs, the gold standard, which
// nobody ever tries to please. It alone is shown shuffled replies that begin as asked, and one kind more: stammering, a
// few tokens over and over. What does a model think of these which has never heard them? Look for "shuffled" and
// "stammer" in the table: held-out pairs are of the gold standard's kinds. In the end two raters of different taste,
// and what comes of averaging them.
//
//     ./reward rate=10                          ten pairs for you to judge first: with whom do you agree?
//     ./reward loss=margin                      the other loss: max(0, m - (r1 - r2)), enough is enough
//
// It prints    accuracy on held-out pairs by kind, of both models (what is measured below is the gold standard's);
//              Kendall's tau on rankings of four; correlation of reward with length; how far the probabilities can be
//              trusted; what the raters' models say
// It writes    out/13/reward.png             the loss, and the probability it gave against how often it was right
//              out/13/log.csv                results.csv: the figures
//              out/13/reward.safetensors, gold.safetensors      the two models, for later lessons
//              out/13/rated.csv              your choices
// It takes     3 minutes. It wants the models of lessons 08 and 11; without them smaller ones learn first.
// Measured     seeds 1 2 3 4 5, mean (lowest to highest): pairs_wrong_scene 0.99 (0.99 to 1.00), pairs_shuffled 0.98
//              (0.96 to 0.99), pairs_base_sample 0.99 (0.96 to 1.00), pairs_off_topic 1.00, pairs_echo 0.96 (0.92 to
//              1.00), pairs_stammer 0.96 (0.92 to 0.99), tau 0.82 (0.80 to 0.84)
// Next         14_ppo.c: a model that is rewarded by this one.
//
// Exercises      (with out=out/try they leave the judges as they are, whom later lessons ask)
//   1. pairs=160, 640, 2560: which kind of worse reply is learned first, and which one needs the most pairs?
//   2. loss=margin margin=0.2, then margin=5: what happens to the calibration, and what to the accuracy?
//   3. Rate 30 pairs. With whom do you agree more often, with the play or with the model? Where do you err like it?
#define AG_DIE_ON_ERROR
#define AUTOGRAD_IMPLEMENTATION
#define GPT_IMPLEMENTATION
#define BPE_DIE_ON_ERROR
#define BPE_IMPLEMENTATION
#include "../gpt.h"
#include "../bpe.h"
#include "lesson.h"
#include "plot.h"
#include "stage.h"
#include "plays.h"
#include "pairs.h"

enum { B = 16, BINS = 10, FOUR = 4 };
static double margin;                               // 0: Bradley-Terry
static lesson_csv csv;

// loss = E max(0, m - (r_better - r_worse)): pairs that are m apart count no more. No probabilities come of it.
// (Bradley and Terry's loss, -E log sigmoid(r_better - r_worse), stands in pairs.h: lessons 14 and 16 may need it too.)
static ag_tensor *margin_ranking(ag_tensor *better, ag_tensor *worse, double m) {
    return ag_mean(ag_relu(ag_shift(ag_sub(worse, better), m)));
}

static void train(gpt_model *m, const char *name, const pair *set, int n, double lr, double *losses) {
    gpt_optimizer o = gpt_adamw();
    o.lr = lr, o.weight_decay = 0, o.beta2 = 0.95;
    double began = lesson_seconds();
    for (int i = 0; i + B <= n; i += B) {           // every pair once: fresh ones teach more
        stage_stop();
        double start = lesson_seconds(), factor = gpt_lr_linear(i / B, 10, n / B, 0.5), norm;
        int tokens = 0;
        for (int b = i; b < i + B; b++) tokens += set[b].talk[0].n + set[b].talk[1].n;
        ag_tensor *better, *worse;
        pairs_scores(m, set + i, B, &better, &worse);
        ag_tensor *loss = margin > 0 ? margin_ranking(better, worse, margin) : pairs_bradley_terry(better, worse);
        ag_backward(ag_add(loss, pairs_drift(better, worse)));
        double value = ag_item(loss), right = 0.5;                                  // a tie is half right
        right += (ag_item(ag_mean(ag_greater(better, worse))) - ag_item(ag_mean(ag_greater(worse, better)))) / 2;
        if (losses) losses[i / B] = value;
        gpt_step(m, &o, factor, &norm), ag_reset(m->ctx);
        double now = lesson_seconds(), speed = tokens / (now - start);
        double row[] = {i / B, value, LESSON_NONE, lr * factor, norm, floor(speed), now - began, right};
        lesson_csv_text(&csv, name), lesson_csv_row(&csv, row, 8);
        if (losses && (i % (20 * B) == 0 || i + 2 * B > n))
            lesson_report("%-8s step %4d: loss %.3f, %.2f of the pairs right", name, i / B, value, right);
        lesson_progress(i + B, n, value, speed);
    }
}

// Rewards of n conversations.
static void rewards(gpt_model *m, const stage_talk *const *talks, int n, ag_real *y) {
    int old = ag_no_grad(m->ctx, 1);
    for (int i = 0; i < n; i += B) {
        stage_rows r = stage_rows_of(talks + i, n - i < B ? n - i : B, 0);
        ag_get(stage_score(m, r.ids, r.mask, r.B, r.T, r.len, NULL), y + i);
        stage_rows_free(&r), ag_reset(m->ctx);
    }
    ag_no_grad(m->ctx, old);
}

// y[i] and y[n+i]: rewards of the better and the worse reply of pair i.
static ag_real *judge(gpt_model *m, const pair *set, int n) {
    const stage_talk **talks = (const stage_talk **)lesson_alloc((size_t)(2 * n), sizeof *talks);
    ag_real *y = (ag_real *)lesson_alloc((size_t)(2 * n), sizeof *y);
    for (int i = 0; i < n; i++) talks[i] = &set[i].talk[0], talks[n + i] = &set[i].talk[1];
    rewards(m, talks, 2 * n, y);
    free(talks);
    return y;
}

// The share of pairs of a kind (-1: all) whose better reply has more reward.
static double accuracy(const ag_real *y, const pair *set, int n, int kind) {
    int right = 0, all = 0;
    for (int i = 0; i < n; i++) if (kind < 0 || set[i].kind == kind) all++, right += y[i] > y[n + i];
    return all ? (double)right / all : LESSON_NONE;
}

// The same for a rule that needs no model: the reply that begins with the words asked for is better; 1/2 where both do,
// or neither.
static double rule(const stage *s, const pair *set, int n, int kind) {
    double right = 0;
    int all = 0;
    for (int i = 0; i < n; i++) {
        char begin[32] = "";
        int as_asked[2];
        if (set[i].kind != kind) continue;
        plays_begin(set[i].at->first, begin);
        for (int k = 0; k < 2; k++) {
            const stage_talk *t = &set[i].talk[k];
            int from = 0;
            while (!t->mask[from]) from++;
            char *text = stage_string(s, t->ids + from, t->n - from);
            as_asked[k] = !strncmp(text, begin, strlen(begin)), free(text);
        }
        all++, right += 0.5 + 0.5 * (as_asked[0] - as_asked[1]);
    }
    return all ? right / all : LESSON_NONE;
}

// Kendall 1938: of all pairs of n things, those that x and y put in the same order less those that they do not, over
// all of them. 1: the same ranking, -1: the reverse; ties count for neither.
static double kendall(const ag_real *x, const ag_real *y, int n) {
    int sum = 0;
    for (int i = 0; i < n; i++)
        for (int j = 0; j < i; j++) sum += ((x[i] > x[j]) - (x[i] < x[j])) * ((y[i] > y[j]) - (y[i] < y[j]));
    return 2.0 * sum / (n * (n - 1.0));
}

static double correlation(const ag_real *x, const double *y, int n) {
    double mx = 0, my = 0, xx = 0, yy = 0, xy = 0;
    for (int i = 0; i < n; i++) mx += x[i] / n, my += y[i] / n;
    for (int i = 0; i < n; i++) {
        xx += (x[i] - mx) * (x[i] - mx), yy += (y[i] - my) * (y[i] - my), xy += (x[i] - mx) * (y[i] - my);
    }
    return xx * yy > 0 ? xy / sqrt(xx * yy) : 0;
}

// Four replies to each of n prompts: the play's, one of another scene, the base model's, another scene's words
// shuffled. Who made them ranks them in this order; the judge never saw two of the last three side by side.
static double rankings(stage *s, const plays *p, gpt_model *m, int n, ag_rng *rng) {
    static const ag_real order[FOUR] = {3, 2, 1, 0};
    stage_talk *t = (stage_talk *)lesson_alloc((size_t)(FOUR * n), sizeof *t), *said = t;
    const stage_talk **all = (const stage_talk **)lesson_alloc((size_t)(FOUR * n), sizeof *all);
    const speech **at = (const speech **)lesson_alloc((size_t)n, sizeof *at);
    ag_real *y = (ag_real *)lesson_alloc((size_t)(FOUR * n), sizeof *y);
    char worse[256];
    double tau = 0;
    for (int i = 0; i < n; i++) at[i] = pairs_speech(p, rng, 1);
    pairs_samples(s, at, n, said);
    for (int i = 0; i < n; i++) {
        const speech *other = pairs_elsewhere(p, at[i], rng, 1);
        pairs_worse(other, other, PAIR_SHUFFLED, 1, rng, worse);
        t[n + i] = pairs_talk(s, at[i], at[i]->text), t[2 * n + i] = pairs_talk(s, at[i], other->text);
        t[3 * n + i] = pairs_talk(s, at[i], worse);
        all[FOUR * i] = &t[n + i], all[FOUR * i + 1] = &t[2 * n + i], all[FOUR * i + 2] = &said[i];
        all[FOUR * i + 3] = &t[3 * n + i];
    }
    rewards(m, all, FOUR * n, y);
    for (int i = 0; i < n; i++) tau += kendall(order, y + FOUR * i, FOUR) / n;
    for (int i = 0; i < FOUR * n; i++) stage_talk_free(&t[i]);
    free(t), free(all), free(at), free(y);
    return tau;
}

// Each pair in an order drawn at random: the probability that the model gives to the first, and how often it is the
// better one. Returns the mean distance of the two, weighted by how many pairs a bin has.
static double calibration(const ag_real *y, int n, ag_rng *rng, double *said, double *was, int *bins) {
    double sum[BINS] = {0}, better[BINS] = {0}, error = 0;
    int count[BINS] = {0};
    for (int i = 0; i < n; i++) {
        int first = plays_below(rng, 2);
        double d = first ? y[i] - y[n + i] : y[n + i] - y[i], q = 1 / (1 + exp(-d));
        int k = q < 1 ? (int)(q * BINS) : BINS - 1;
        sum[k] += q, better[k] += first, count[k]++;
    }
    for (int k = *bins = 0; k < BINS; k++) {
        if (!count[k]) continue;
        said[*bins] = sum[k] / count[k], was[*bins] = better[k] / count[k];
        error += fabs(said[*bins] - was[*bins]) * count[k] / n;
        *bins += 30 * count[k] >= n;                        // a handful of pairs makes no point of the picture
    }
    return error;
}

// ---- two raters ----

static int names_somebody(const plays *p, const char *text) {
    for (const char *at = text; *at; at += strspn(at, " \n,.;:!?'-")) {
        size_t n = strcspn(at, " \n,.;:!?'-");
        for (int i = 0; i < p->n_persons && n > 3; i++) {
            size_t k = 0;
            while (k < n && (at[k] == p->person[i].name[k] || (k && at[k] == p->person[i].name[k] + 'a' - 'A'))) k++;
            if (k == n && !p->person[i].name[n]) return 1;
        }
        at += n;
    }
    return 0;
}

enum { SHORTER, NAMES };
// Two lines to "Speak as ...", one of which names somebody. The first rater takes the shorter one, the second one that.
static void taste(stage *s, const plays *p, ag_rng *rng, int held, int rater, pair *to, int *differ) {
    const speech *a = NULL, *b = NULL;
    char asked[64];
    while (!a || !names_somebody(p, a->text)) a = pairs_speech(p, rng, held);
    while (!b || names_somebody(p, b->text) || strlen(b->text) == strlen(a->text)) b = pairs_speech(p, rng, held);
    *differ = strlen(a->text) > strlen(b->text);
    snprintf(asked, sizeof asked, "Speak as %s.", plays_any(p, rng, held)->name);
    for (int k = 0; k < 2; k++) {
        int n, *ids = stage_ids(s, (rater == SHORTER && *differ) == k ? a->text : b->text, &n);
        gpt_message say = {GPT_USER, asked, 0};
        to->talk[k] = pairs_join(s, stage_render(s, &say, 1, 1), ids, n), free(ids);
    }
    to->kind = rater, to->at = a;
}

static void raters(stage *s, const plays *p, int n, double lr, int seed) {
    static const char *const who[] = {"rater 1", "rater 2", "averaged"};
    enum { HELD = 128 };
    pair *held = (pair *)lesson_alloc(HELD, sizeof *held), *set = (pair *)lesson_alloc((size_t)n, sizeof *set);
    int differ[HELD], ignored, disagree = 0;
    ag_rng rng = {(uint64_t)seed + 300, 0};
    for (int i = 0; i < HELD; i++) taste(s, p, &rng, 1, NAMES, &held[i], &differ[i]), disagree += differ[i];
    printf("\ntwo raters: 1 likes the shorter reply, 2 the one that names a person; they disagree on %d of %d pairs\n"
           "%-10s %-19s %-19s %s\n", disagree, HELD, "model of", "right for rater 1", "right for rater 2",
           "where they disagree: probability of 2's choice");
    for (int k = 0; k < 3; k++) {
        double right[2] = {0}, sure = 0, off = 0;
        for (int i = 0; i < n; i++) taste(s, p, &rng, 0, k < 2 ? k : i % 2, &set[i], &ignored);
        gpt_model *m = pairs_new_reward(s);
        train(m, who[k], set, n, lr, NULL);
        ag_real *y = judge(m, held, HELD);
        for (int i = 0; i < HELD; i++) {
            int says = y[i] > y[HELD + i];
            double q = 1 / (1 + exp(y[HELD + i] - y[i]));
            right[0] += says != differ[i], right[1] += says;
            if (differ[i]) sure += q / disagree, off += fabs(q - 0.5) / disagree;
        }
        printf("%-10s %-19.2f %-19.2f %.2f, at %.2f from 0.5 on average\n", who[k], right[0] / HELD, right[1] / HELD,
               sure, off);
        for (int i = 0; i < n; i++) stage_talk_free(&set[i].talk[0]), stage_talk_free(&set[i].talk[1]);
        gpt_freeze(m), gpt_free(m), free(y);
    }
    pairs_free(held, HELD), free(set);
}

// ---- the reader as a rater ----

typedef struct rating { int pair, swap, choice; } rating;

// Held-out pairs, in an order drawn at random. It asks before anything is learned: nobody waits for a question.
static int ask(stage *s, const pair *set, int n_set, ag_rng *rng, rating *to, int n) {
    for (int i = 0; i < n; i++) {
        int k = plays_below(rng, n_set), swap = plays_below(rng, 2), prompt = 0, choice = 0, c;
        char asked_for[256];
        while (!set[k].talk[0].mask[prompt]) prompt++;
        pairs_ask(set[k].at, asked_for), printf("\n%s", asked_for);
        for (int j = 0; j < 2; j++) {
            const stage_talk *talk = &set[k].talk[j ^ swap];
            char *text = stage_string(s, talk->ids + prompt, talk->n - prompt - 1);
            printf("\n[%d] ", j + 1), lesson_print_said(text), free(text);
        }
        printf("\nWhich one is better, 1 or 2 (q: enough)? "), fflush(stdout);
        while (!choice && (c = getchar()) != EOF && c != 'q') choice = c == '1' || c == '2' ? c - '0' : 0;
        if (!choice || lesson_interrupted()) return i;
        to[i].pair = k, to[i].swap = swap, to[i].choice = choice;
    }
    return n;
}

static void rated(const pair *set, int n_set, const ag_real *y, const rating *by, int n) {
    lesson_csv to = lesson_csv_open(lesson_path("rated.csv"), "kind,reader,play,model");
    int play = 0, model = 0;
    for (int i = 0; i < n; i++) {
        int k = by[i].pair, right = 1 + by[i].swap, says = y[k] > y[n_set + k] ? right : 3 - right;
        play += by[i].choice == right, model += by[i].choice == says;
        lesson_csv_text(&to, pairs_kinds[set[k].kind]), lesson_csv_number(&to, by[i].choice);
        lesson_csv_number(&to, right), lesson_csv_number(&to, says), lesson_csv_end(&to);
    }
    lesson_csv_close(&to);
    printf("\nof %d pairs you agree with their maker in %d, with gold in %d (rated.csv)\n", n, play, model);
}

int main(int argc, char **argv) {
    lesson_begin(argc, argv, "13", "a reward model, from pairs of replies");
    int few = lesson_int_in("pairs", 3200, B, 100000, "pairs for the reward model");
    int many = lesson_int_in("gold", 6000, B, 100000, "other pairs for the gold standard");
    int n_held = lesson_int_in("held", 600, 8, 10000, "held-out pairs");
    const char *kind = lesson_choice("loss", "bt", "bt|margin", "Bradley-Terry, or margin ranking");
    double m = lesson_float_in("margin", 1, 1e-6, 100, "for loss=margin");
    double lr = lesson_float("lr", 2e-3, "peak learning rate");
    int taste_of = lesson_int_in("raters", 240, 0, 100000, "pairs that a simulated rater judges (0: leave them out)");
    int reader = lesson_int_in("rate", 0, 0, 1000, "pairs for you to judge");
    int base = lesson_int_in("base_steps", 400, 1, 1000000, "of training, where lesson 11's model is missing");
    int seed = lesson_int("seed", 1, "of everything random");
    lesson_options_end(), lesson_must_save();
    margin = *kind == 'm' ? m : 0;
    if (taste_of && taste_of < B) lesson_fail("raters=%d: wanted 0 (none), or %d and more, a whole batch", taste_of, B);

    ag_ctx *ag = ag_new((unsigned long long)seed);
    plays p = plays_read();
    plays_enough(&p);
    stage s = pairs_sft(ag, &p, base);
    ag_rng rng = {(uint64_t)seed + 100, 0}, others = {(uint64_t)seed + 200, 0}, test = {(uint64_t)seed, 0};
    pair *held = pairs_make(&s, &p, n_held, 1, 1, &test);
    char *text = stage_string(&s, held[0].talk[0].ids, held[0].talk[0].n);
    printf("a pair. The better reply:\n"), lesson_print_said(text), free(text);
    text = stage_string(&s, held[0].talk[1].ids, held[0].talk[1].n);
    printf("\n\nthe worse one (%s):\n", pairs_kinds[held[0].kind]), lesson_print_said(text), printf("\n"), free(text);

    rating *by = (rating *)lesson_alloc((size_t)reader + 1, sizeof *by);
    reader = ask(&s, held, n_held, &test, by, reader), printf("\n");

    csv = lesson_csv_open(lesson_path("log.csv"), "model," LESSON_COLUMNS ",accuracy");
    static const char *const names[] = {"reward", "gold"};
    gpt_model *model[2];
    ag_real *y[2];
    double *losses[2];
    for (int k = 0; k < 2; k++) {
        int n = k ? many : few;
        pair *set = pairs_make(&s, &p, n, 0, k, k ? &others : &rng);
        model[k] = pairs_new_reward(&s);
        losses[k] = (double *)lesson_alloc((size_t)(n / B), sizeof **losses);
        train(model[k], names[k], set, n, lr, losses[k]);
        pairs_free(set, n);
        stage r = s;
        char file[32];
        r.model = model[k], snprintf(file, sizeof file, "%s.safetensors", names[k]);
        stage_save(&r, lesson_path(file), names[k]);
        gpt_freeze(model[k]), y[k] = judge(model[k], held, n_held);
    }

    printf("\n%-25s reward (%d pairs)  gold (%d pairs)  rule\n", "right on held-out pairs", few, many);
    for (int k = 0; k < PAIR_KINDS; k++)
        printf("%-25s %-20.2f %-17.2f %.2f\n", pairs_kinds[k], accuracy(y[0], held, n_held, k),
               accuracy(y[1], held, n_held, k), rule(&s, held, n_held, k));
    double *length = (double *)lesson_alloc((size_t)n_held, sizeof *length);
    for (int i = 0; i < n_held; i++) for (int t = 0; t < held[i].talk[0].n; t++) length[i] += held[i].talk[0].mask[t];
    printf("correlation of reward with the length of the better replies: reward %.2f, gold %.2f\n",
           correlation(y[0], length, n_held), correlation(y[1], length, n_held));
    int bins[2];
    double off[2], said[2][BINS], was[2][BINS], even[] = {0, 1};
    for (int k = 0; k < 2; k++) off[k] = calibration(y[k], n_held, &test, said[k], was[k], &bins[k]);
    printf("the probabilities are off by, on average: reward %.3f, gold %.3f\n", off[0], off[1]);

    plot *both[2];
    both[0] = plot_new("From choices to numbers", "step (16 pairs)", "loss");
    both[1] = plot_new("Can the probabilities be trusted?", "probability that it gave to the first of two replies",
                       "how often the first was the better one");
    plot_smooth(both[0], "reward", NULL, losses[0], (size_t)(few / B), 0.9);
    plot_smooth(both[0], "gold", NULL, losses[1], (size_t)(many / B), 0.9);
    if (margin <= 0) plot_hline(both[0], log(2), "ln 2: no opinion");
    for (int k = 0; k < 2; k++) plot_line(both[1], names[k], said[k], was[k], (size_t)bins[k]), plot_dots(both[1]);
    plot_line(both[1], "as it should be", even, even, 2), plot_dashed(both[1]);
    lessoni_saved(plot_save_grid(both, 2, 2, lesson_path("reward.png")), plot_error(both[0]));

    for (int k = 0; k < PAIR_KINDS; k++) {
        char name[32];
        snprintf(name, sizeof name, "pairs_%s", pairs_kinds[k]);
        stage_result(name, accuracy(y[1], held, n_held, k));
    }
    stage_result("tau", rankings(&s, &p, model[1], n_held / 4, &test));
    if (taste_of) raters(&s, &p, taste_of, lr, seed);
    if (reader) rated(held, n_held, y[1], by, reader);
    lesson_csv_close(&csv);
    lesson_written("reward.png, log.csv, results.csv, reward.safetensors, gold.safetensors");
    pairs_free(held, n_held), free(by), free(y[0]), free(y[1]), free(length), free(losses[0]), free(losses[1]);
    plot_free(both[0]), plot_free(both[1]), gpt_free(model[0]), gpt_free(model[1]);
    plays_free(&p), stage_free(&s), ag_free(ag);
    return lesson_end();
}
