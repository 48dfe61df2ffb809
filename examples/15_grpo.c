// Lesson 15: can a model learn by practice what nobody shows it?
//
//     cc -O3 examples/15_grpo.c -o grpo -lm && ./grpo
//
// A teacher's examples carry a model as far as the teacher. But some answers can be checked by code, and then nobody
// needs to show the way: let the model answer the same question eight times, check all eight, and make what was right
// more likely and what was wrong less. An answer is good or bad compared with its siblings, advantage = (reward - mean)
// / deviation of the group: so PPO's value head is not needed, and that is GRPO (Shao et al. 2024, "DeepSeekMath"). A
// group that is all right or all wrong has nothing to compare and teaches nothing: it is counted as dead. Its simple
// cousin keeps the right answers and fine-tunes on them (method=rejection; STaR, Zelikman et al. 2022; RAFT, Dong et
// al. 2023). Both can only strengthen what the model says now and then, so a little fine-tuning comes first.
//
//   letter, words   a line that begins with a given letter, or has so many words. Fine-tuning on right examples stops
//                   when about one answer in ten (in seven) is right; practice does the rest.
//   sums            small sums, thinking first. It has learned to add in steps, and then from a lazy teacher, who six
//                   times in ten guesses, not to bother. Practice finds out that thinking pays: answers grow longer.
//   think           the last digit of a sum, fine-tuned with the answer first and with the steps first. A model has a
//                   fixed amount of work for each token, so steps are room to work in. Chance is one in ten.
//   practice        letters again, from a teacher who forgets them three times in ten. Imitation learns that too: what
//                   it says is right less often than what he says (only its likeliest answers leave his accidents
//                   out). Practice passes both.
//
// What does not appear: "wait, let me check that", as in R1 (DeepSeek-AI 2025). A model of three million parameters
// that has read 1 MB of plays never says such a thing by chance, and what is never said cannot be strengthened.
//
// It prints    for each task accuracy before and after (pass@1, pass@8), what is said, and every 20 steps: accuracy,
//              tokens an answer, KL to the model of before, dead groups
// It writes    out/15/training.png       accuracy and answer length over training
//              out/15/log.csv            the same, and more; results.csv: the figures
//              out/15/model.safetensors  the model that adds (or the task's own)
// It takes     8 minutes; task=letter 2. It wants the model of lesson 11, or 08, and makes a small one without.
// Measured     seeds 1 2 3 4 5, mean (lowest to highest): letter_before 0.15 (0.08 to 0.20), letter_after 0.96 (0.88 to
//              0.99), words_before 0.12 (0.11 to 0.13), words_after 0.93 (0.72 to 0.99), sums_before 0.37 (0.26 to
//              0.50), sums_after 0.95 (0.93 to 0.97), answer_first 0.11 (0.10 to 0.13), steps_first 1.00, imitation
//              0.49 (0.44 to 0.52), practice 0.98 (0.97 to 0.99)
// Next         16_dpo.c: preferences without a reward model.
//
// Exercises
//   1. method=rejection: which of the two learns faster, and what becomes of the length of the answers?
//   2. kl=0, task=letter: look at the lines that it says in the end. And with kl=0.3?
//   3. Leave one rule out of verify_line in verify.h and practise words. How long does it take to find the gap?
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
#include "verify.h"

enum { LETTER, WORDS, SUMS, THINK, PRACTICE, TASKS, TERMS = 8, CAP = 40, BATCH = 16, EVERY = 20, MOST = 4000 };
static const char *const names[TASKS] = {"letter", "words", "sums", "think", "practice"};

typedef struct problem {
    int task, a;                    // a: the letter, the number of words, the sum
    int first;                      // 1: the answer before the thoughts
    int n, term[TERMS];             // numbers to add
    char asked[64];
} problem;

static struct {                     // the options
    int groups, size, updates, dr, steps, held, seed, base, demos, sft, terms;
    double lr, kl, clip;
    int rejection;
} opt;
static plays p;
static words known;                 // the words of the plays
static lesson_csv csv;
static double *curve[TASKS][2];     // accuracy and length at each step, for the picture
static int curve_n[TASKS];
static int terms = 4, modulus = 100; // numbers to add, and modulo what: with 10 only the last digit counts

// ---- problems, demonstrations, and the code that checks ----

// One problem in five is held out: never practised, only asked in the end.
static int is_held(const problem *q) {
    return (lesson_checksum((const unsigned char *)q->asked, strlen(q->asked)) >> 8) % 5 == 0;
}

static problem pose(int task, ag_rng *rng, int held) {
    static const char letters[] = "ABCFGHILMNOPSTWY";           // nine lines in ten begin with one of these
    problem q;
    do {
        memset(&q, 0, sizeof q);
        q.task = task;
        if (task != SUMS && task != THINK) {
            const speech *from = plays_any(&p, rng, 0);
            q.a = task == WORDS ? 3 + plays_below(rng, 7) : letters[plays_below(rng, 16)];
            if (p.person[from->person].speeches < 12) continue;
            if (task == WORDS) snprintf(q.asked, sizeof q.asked, "%s, in %d words.", from->name, q.a);
            else snprintf(q.asked, sizeof q.asked, "%s, begin with %c.", from->name, q.a);
        } else {
            int at = snprintf(q.asked, sizeof q.asked, modulus == 10 ? "Last digit of" : "Add");
            q.n = terms;
            for (int i = 0; i < q.n; i++) {
                q.term[i] = 1 + plays_below(rng, 6), q.a = (q.a + q.term[i]) % modulus;
                at += snprintf(q.asked + at, sizeof q.asked - (size_t)at, " %c%d", 'a' + i, q.term[i]);
            }
        }
    } while (!q.asked[0] || is_held(&q) != held);
    return q;
}

static int check(const problem *q, const char *said) {
    switch (q->task) {
    case WORDS: return verify_count(&known, said, q->a);
    case SUMS: case THINK: return verify_sum(said, q->a, q->first);
    default: return verify_letter(&known, said, q->a);
    }
}

// What a teacher says. Lines: any line of the plays, whatever was asked (imitate keeps as many right ones as it wants).
// Sums: the steps, with the sum so far (or its last digit) behind each number, and the answer. Each number has a name,
// so that the model finds it again as it copies passages (lesson 10), and digits are tokens of their own: plays have no
// numbers to make pairs of. The lazy teacher of task sums leaves the steps out six times in ten, and guesses.
static void demonstrate(const problem *q, ag_rng *rng, char said[256]) {
    if (q->task != SUMS && q->task != THINK) {
        snprintf(said, 256, "%s", plays_any(&p, rng, 0)->first);
    } else {
        char steps[128];
        int sum = 0, lazy = q->task == SUMS && plays_below(rng, 10) >= 4;
        for (int i = 0, n = 0; i < q->n; i++)
            sum = (sum + q->term[i]) % modulus,
            n += snprintf(steps + n, sizeof steps - (size_t)n, " %c%d=%d", 'a' + i, q->term[i], sum);
        if (lazy) sum = q->n + plays_below(rng, 5 * q->n), steps[0] = 0;
        if (q->first) snprintf(said, 256, "<answer>%d</answer><think>%s</think>", sum, steps);
        else snprintf(said, 256, "<think>%s</think><answer>%d</answer>", steps, sum);
    }
}

// ---- the method ----

// reward (groups,size) -> advantage (groups,size): how much better than its siblings each answer is, in deviations of
// the group. Returns the number of dead groups; their advantage is 0 (and not 0/0). dr 1: the deviation is left out,
// as Liu et al. 2025 ("Dr. GRPO") advise: dividing by it gives the easiest and hardest questions the most weight.
static int advantages(const double *reward, int groups, int size, int dr, double *advantage) {
    int dead = 0;
    for (int g = 0; g < groups; g++, reward += size, advantage += size) {
        double mean = 0, variance = 0;
        for (int i = 0; i < size; i++) mean += reward[i] / size;
        for (int i = 0; i < size; i++) variance += (reward[i] - mean) * (reward[i] - mean) / size;
        dead += variance < 1e-12;
        for (int i = 0; i < size; i++)
            advantage[i] = variance < 1e-12 ? 0 : (reward[i] - mean) / (dr ? 1 : sqrt(variance));
    }
    return dead;
}

// Keeps the rows whose weight is not 0. The others, those of dead groups, would pull at nothing but the KL, and cost
// most of the time at the beginning and at the end (Yu et al. 2025, "DAPO", leave them out too). Returns how many.
static int keep_live(stage_rows *r, double *weight) {
    int n = 0;
    size_t T = (size_t)r->T;
    for (size_t b = 0; b < (size_t)r->B; b++) {
        if (weight[b] == 0) continue;
        size_t to = (size_t)n++ * T;
        memmove(r->ids + to, r->ids + b * T, T * sizeof *r->ids), memmove(r->mask + to, r->mask + b * T, T);
        memmove(r->logprobs + to, r->logprobs + b * T, T * sizeof *r->logprobs);
        r->len[n - 1] = r->len[b], r->prompt[n - 1] = r->prompt[b], r->ended[n - 1] = r->ended[b];
        weight[n - 1] = weight[b];
    }
    return r->B = n;
}

// (B,T): weight[b] at the positions whose next token the model said, 0 elsewhere. each 1: divided by their number.
static ag_tensor *spread(ag_ctx *ag, const stage_rows *r, const double *weight, int each) {
    ag_real *w = (ag_real *)lesson_alloc((size_t)r->B * (size_t)r->T, sizeof *w);
    for (int b = 0; b < r->B; b++)
        for (int t = r->prompt[b] - 1; t < r->len[b] - 1; t++)
            w[b * r->T + t] = (ag_real)(weight[b] / (each ? r->len[b] - r->prompt[b] : 1));
    ag_tensor *x = ag_input(ag, w, r->B, r->T);
    free(w);
    return x;
}

// Schulman's k3 estimate of KL(policy || reference) at each token: r - 1 - log r with r = reference / policy. Its mean
// over the policy's own tokens is the KL, like that of -log r, but no single value is negative.
static ag_tensor *k3(ag_tensor *lp, ag_tensor *reference) {
    ag_tensor *log_r = ag_sub(reference, lp);
    return ag_shift(ag_sub(ag_exp(log_r), log_r), -1);
}

// DeepSeekMath, equation 3, with the sign of a loss; r = pi(o_t) / pi_old(o_t), and pi_old is who drew the answers:
//     -1/G sum_i 1/|o_i| sum_t { min[r A_i, clip(r, 1-eps, 1+eps) A_i] - beta KL(pi || pi_ref) }
// (1/|o_i| makes each token of a long wrong answer cheaper, so wrong answers grow: Dr. GRPO divides by a constant. G
// counts the answers of groups that are not dead; the others would add no more than their KL.)
static ag_tensor *grpo_loss(gpt_model *policy, const stage_rows *r, const double *advantage, const ag_real *reference,
                            double clip, double beta, int dr, ag_tensor **kl) {
    ag_ctx *ag = policy->ctx;
    double *one = (double *)lesson_alloc((size_t)r->B, sizeof *one);
    for (int b = 0; b < r->B; b++) one[b] = dr ? 1.0 / (r->B * CAP) : 1.0 / r->B;
    ag_tensor *lp = gpt_logprobs(policy, r->ids, r->mask, r->B, r->T, r->len);          // (B,T)
    ag_tensor *old = ag_input(ag, r->logprobs, r->B, r->T), *A = spread(ag, r, advantage, 0);
    ag_tensor *share = spread(ag, r, one, !dr), *ratio = ag_exp(ag_sub(lp, old));
    ag_tensor *gain = ag_minimum(ag_mul(ratio, A), ag_mul(ag_clamp(ratio, 1 - clip, 1 + clip), A));
    ag_tensor *away = k3(lp, ag_input(ag, reference, r->B, r->T));
    for (int b = 0; b < r->B; b++) one[b] = 1.0 / r->B;
    if (kl) *kl = ag_sum(ag_mul(spread(ag, r, one, 1), away));                           // a token, whatever dr is
    free(one);
    return ag_neg(ag_sum(ag_mul(share, ag_sub(gain, ag_scale(away, beta)))));
}

// The simple cousin: the loss of fine-tuning, on those of its own answers that were right. NULL: none was.
static ag_tensor *rejection_loss(gpt_model *policy, const stage_rows *r, const double *reward) {
    int tokens = 0;
    double *kept = (double *)lesson_alloc((size_t)r->B, sizeof *kept);
    for (int b = 0; b < r->B; b++) tokens += reward[b] > 0 ? r->len[b] - r->prompt[b] : 0;
    for (int b = 0; b < r->B; b++) kept[b] = reward[b] > 0 ? -1.0 / tokens : 0;
    ag_tensor *loss = !tokens ? NULL : ag_sum(ag_mul(spread(policy->ctx, r, kept, 0),
                                                     gpt_logprobs(policy, r->ids, r->mask, r->B, r->T, r->len)));
    free(kept);
    return loss;
}

// Of n answers c are right: how probable is it that k of them, drawn without putting back, hold a right one?
// 1 - C(n-c,k)/C(n,k), the unbiased estimate of Chen et al. 2021, as a product that does not overflow.
static double pass_at(int n, int c, int k) {
    double none = 1;
    for (int i = n - c + 1; i <= n; i++) none *= 1 - (double)k / i;
    return n - c < k ? 1 : 1 - none;
}

// ---- asking, measuring, fine-tuning ----

// B problems, `size` answers to each: rows and rewards (B*size), a reward for each row of its own.
static int room(int task) { return task == SUMS || task == THINK ? 12 + 7 * terms : 22; }
static stage_rows answers(stage *s, const problem *q, int B, int size, double temperature, double *reward) {
    gpt_sampling how = {temperature, 0, 0, 0, NULL, 0};
    stage_talk *talk = (stage_talk *)lesson_alloc((size_t)B, sizeof *talk);
    for (int b = 0; b < B; b++) {
        gpt_message say = {GPT_USER, q[b].asked, 0};
        talk[b] = stage_render(s, &say, 1, 1);
    }
    stage_rows r = stage_rollout(s, &how, talk, B, size, room(q->task));
    for (int i = 0; i < r.B; i++) {
        char *said = stage_said(s, &r, i);
        reward[i] = r.ended[i] && check(&q[i / size], said);
        free(said);
    }
    for (int b = 0; b < B; b++) stage_talk_free(&talk[b]);
    free(talk);
    return r;
}

// Held-out problems: pass@1 and pass@8 (or NULL) of 16 answers to each of n. At temperature 0, where all answers to a
// problem are the same, of one to each of 4n. `said` (or NULL) collects the different right answers.
static double measure(stage *s, int task, int first, int n, double temperature, double *pass_8, words *said, int show) {
    enum { ROWS = 64 };
    ag_rng rng = {7, 0};
    double pass_1 = 0, of_8 = 0, reward[ROWS];
    int size = temperature > 0 ? 16 : 1, at_once = ROWS / size, asked = 0;
    for (n *= size > 1 ? 1 : 4; asked < n; asked += at_once) {
        problem q[ROWS];
        for (int k = 0; k < at_once; k++) q[k] = pose(task, &rng, 1), q[k].first = first;
        stage_rows r = answers(s, q, at_once, size, temperature, reward);
        for (int k = 0; k < at_once; k++) {
            int right = 0;
            for (int j = 0; j < size; j++) right += reward[k * size + j] > 0;
            pass_1 += pass_at(size, right, 1), of_8 += pass_at(size, right, size < 8 ? size : 8);
        }
        for (int k = 0; k < r.B && (said || !asked); k++) {
            char *text = stage_said(s, &r, k);
            if (k % size == 0 && k / size < show && !asked) {
                printf("    %s  ->  ", q[k / size].asked), lesson_print_said(text);
                printf("%s\n", reward[k] > 0 ? "  (right)" : "");
            }
            if (said && reward[k] > 0) words_add(said, text);
            free(text);
        }
        stage_rows_free(&r), ag_reset(s->ag);
    }
    if (pass_8) *pass_8 = of_8 / asked;
    return pass_1 / asked;
}

// Fine-tuning on n demonstrations, `right` of which are right (negative: as they come). They go to *shown (or NULL). It
// ends after so many steps, or earlier when the share `until` of its answers is right (0: never).
static void imitate(stage *s, int task, int first, int n, int steps, double right, double until, words *shown) {
    enum { ASKED = 24, SIZE = 8 };
    ag_rng *rng = ag_stream(s->ag, AG_RNG_DATA);
    stage_talk *talk = (stage_talk *)lesson_alloc((size_t)n, sizeof *talk);
    const stage_talk *batch[BATCH];
    gpt_optimizer o = gpt_adamw();
    o.weight_decay = 0, o.beta2 = 0.95;
    for (int i = 0; i < n; i++) {
        problem q = pose(task, rng, 0);
        char answer[256];
        q.first = first;
        do demonstrate(&q, rng, answer);
        while (right >= 0 && check(&q, answer) != ((int)((i + 1) * right + 1e-9) > (int)(i * right + 1e-9)));
        gpt_message say[2] = {{GPT_USER, q.asked, 0}, {GPT_ASSISTANT, answer, 0}};
        talk[i] = stage_render(s, say, 2, 0);
        if (shown) words_add(shown, answer);
    }
    int step = 0;
    double start = lesson_seconds();
    for (double share = 0; step < steps && (until <= 0 || share < until); step++) {
        stage_stop();
        for (int b = 0; b < BATCH; b++) batch[b] = &talk[plays_below(rng, n)];
        ag_tensor *loss = stage_loss(s->model, batch, BATCH);
        ag_backward(loss);
        double factor = until > 0 ? gpt_lr_linear(step, 10, steps, 0) : gpt_lr_linear(step, 10, steps, 0.5);
        gpt_step(s->model, &o, factor, NULL);
        lesson_progress(step + 1, steps, ag_item(loss), LESSON_NONE);
        ag_reset(s->ag);
        if (until <= 0 || step % 10 != 9) continue;
        problem q[ASKED];
        double reward[ASKED * SIZE];
        for (int i = 0; i < ASKED; i++) q[i] = pose(task, rng, 0), q[i].first = first;
        stage_rows r = answers(s, q, ASKED, SIZE, 1, reward);
        share = 0;
        for (int i = 0; i < r.B; i++) share += reward[i] / r.B;
        stage_rows_free(&r), ag_reset(s->ag);
    }
    lesson_report("%d steps of fine-tuning on %d demonstrations, %s", step, n,
                  lesson_duration(lesson_seconds() - start));
    for (int i = 0; i < n; i++) stage_talk_free(&talk[i]);
    free(talk);
}

// Practice: ask, check, strengthen. `found` (or NULL) collects the right answers.
static void practise(stage *s, int task, int steps, words *found) {
    int B = opt.groups * opt.size, sum_dead = 0, measured = 0;
    double *reward = (double *)lesson_alloc((size_t)(2 * B), sizeof *reward), *advantage = reward + B;
    double sum_right = 0, sum_length = 0, sum_kl = 0;
    problem *q = (problem *)lesson_alloc((size_t)opt.groups, sizeof *q);
    gpt_model *reference = gpt_adapt(s->ag, s->model, NULL);            // who it was; it does not learn
    gpt_freeze(reference);
    gpt_optimizer o = gpt_adamw();
    o.lr = opt.lr, o.weight_decay = 0, o.beta2 = 0.95;
    for (int i = 0; i < 2; i++) curve[task][i] = (double *)lesson_alloc((size_t)steps + 1, sizeof(double));
    double began = lesson_seconds();
    for (int step = 0; step < steps; step++, ag_reset(s->ag)) {
        stage_stop();
        double right = 0, length = 0, norm = 0, away = LESSON_NONE, value = LESSON_NONE, tokens = 0;
        double start = lesson_seconds(), factor = gpt_lr_linear(step, 5, steps, 0.3);
        for (int g = 0; g < opt.groups; g++) q[g] = pose(task, ag_stream(s->ag, AG_RNG_DATA), 0);
        stage_rows r = answers(s, q, opt.groups, opt.size, 1, reward);
        for (int b = 0; b < B; b++) {
            right += reward[b] / B, length += (double)(r.len[b] - r.prompt[b]) / B;
            tokens += r.len[b];
            if (!found || reward[b] <= 0) continue;
            char *said = stage_said(s, &r, b);
            words_add(found, said), free(said);
        }
        int dead = advantages(reward, opt.groups, opt.size, opt.dr, advantage);
        double *weight = opt.rejection ? reward : advantage;
        if (keep_live(&r, weight)) {
            ag_real *ref = (ag_real *)lesson_alloc((size_t)r.B * (size_t)r.T, sizeof *ref);
            int old = ag_no_grad(s->ag, 1);
            if (!opt.rejection) ag_get(gpt_logprobs(reference, r.ids, r.mask, r.B, r.T, r.len), ref);
            ag_no_grad(s->ag, old);
            for (int u = 0; u < opt.updates; u++) {
                ag_tensor *kl = NULL, *loss = opt.rejection ? rejection_loss(s->model, &r, weight)
                                    : grpo_loss(s->model, &r, weight, ref, opt.clip, opt.kl, opt.dr, &kl);
                ag_backward(loss), value = ag_item(loss), gpt_step(s->model, &o, factor, &norm);
                if (kl && !u) away = ag_item(kl), sum_kl += away, measured++;
            }
            free(ref);
        }
        lesson_csv_text(&csv, names[task]);
        double now = lesson_seconds(), speed = tokens / (now - start);
        double row[] = {step, value, LESSON_NONE, opt.lr * factor, norm, floor(speed), now - began, right, length, away,
                        (double)dead / opt.groups};
        lesson_csv_row(&csv, row, 11);
        curve[task][0][step] = right, curve[task][1][step] = length, curve_n[task] = step + 1;
        sum_right += right, sum_length += length, sum_dead += dead;
        lesson_progress(step + 1, steps, 1 - right, speed);
        if ((step + 1) % EVERY == 0) {
            char far_off[32] = "";                  // rejection, and steps whose groups are all dead, measure none
            if (measured) snprintf(far_off, sizeof far_off, "KL %.3f a token, ", sum_kl / measured);
            lesson_report("%s, step %3d: right %.3f, %.1f tokens, %sdead groups %.2f", names[task], step + 1,
                          sum_right / EVERY, sum_length / EVERY, far_off, (double)sum_dead / EVERY / opt.groups);
            sum_right = sum_length = sum_kl = 0, sum_dead = measured = 0;
        }
        stage_rows_free(&r);
    }
    gpt_free(reference);
    free(reward), free(q);
}

// ---- the tasks ----

// Digits, and tokens that are new, have hardly ever been read: their rows of the embedding are as short as on the first
// day (or all the same), a fifth of a word's. So that they are heard beside words, they start again at a word's length.
static void wake(gpt_model *m) {
    int V = m->config.n_vocab, C = m->config.n_embd;
    size_t n = (size_t)V * (size_t)C;
    ag_real *row = (ag_real *)lesson_alloc(n, sizeof *row);
    double all = 0;
    ag_get(m->wte, row);
    for (size_t i = 0; i < n; i++) all += (double)row[i] * row[i] / (double)n;
    for (int v = 0; v < V; v++) {
        double own = 0;
        for (int i = 0; i < C; i++) own += (double)row[v * C + i] * row[v * C + i] / C;
        for (int i = 0; own < all / 4 && i < C; i++)
            row[v * C + i] = (ag_real)(sqrt(all) * ag_rng_normal(ag_stream(m->ctx, AG_RNG_INIT)));
    }
    ag_set(m->wte, row), free(row);
}

// Text to ids, with those four as tokens. (Here all text is ours. A stranger's text must not be encoded so.)
static const char *const tag[] = {"<think>", "</think>", "<answer>", "</answer>", NULL};
static long encode(void *t, const char *text, size_t n, int *ids, size_t cap) {
    return bpe_encode_special((const bpe *)t, text, n, tag, BPE_AS_TEXT, ids, cap);
}

// Lesson 11's assistant, or lesson 08's model with our template, and four tokens to think with.
static stage begin(ag_ctx *ag) {
    stage s = stage_load(ag, "out/11/model.safetensors", "sft");
    if (!s.model) stage_free(&s), s = stage_base(ag, opt.base);
    stage_chat(&s);
    for (int i = 0; i < 4; i++) bpe_add_special(s.tokens, tag[i], -1);
    s.by.encode = encode;
    gpt_model *old = s.model;
    s.model = gpt_grow(ag, old, bpe_vocab_size(s.tokens));
    gpt_freeze(old), gpt_free(old), gpt_train(s.model, 0), wake(s.model);
    return s;
}

static void report(const char *name, const char *when, double value) {
    char measure_name[40];
    snprintf(measure_name, sizeof measure_name, "%s_%s", name, when);
    stage_result(measure_name, value);
}

static int or_else(int given, int other) { return given ? given : other; }

static void reinforce(int task, int save) {
    static const int demos[] = {2000, 2000, 1000}, sft[] = {400, 400, 80}, steps[] = {140, 300, 120};
    static const double right[] = {1, 1, -1}, until[] = {0.1, 0.15, 0};
    double start = lesson_seconds(), before_8, after_8;
    terms = or_else(opt.terms, 4), modulus = 100;
    ag_ctx *ag = ag_new((unsigned long long)opt.seed);
    stage s = begin(ag);
    words lines = {NULL, 0, 0};
    printf("\n== %s\n", names[task]);
    if (task == SUMS) imitate(&s, THINK, 0, or_else(opt.demos, 2000), or_else(opt.sft, 300), 1, 0, NULL);
    imitate(&s, task, 0, or_else(opt.demos, demos[task]), or_else(opt.sft, sft[task]), right[task], until[task], NULL);
    double before = measure(&s, task, 0, opt.held, 1, &before_8, NULL, 4);
    lesson_report("before: pass@1 %.3f, pass@8 %.3f (%s)", before, before_8, lesson_duration(lesson_seconds() - start));
    practise(&s, task, or_else(opt.steps, steps[task]), NULL);
    double after = measure(&s, task, 0, opt.held, 1, &after_8, &lines, 4);
    lesson_report("after: pass@1 %.3f, pass@8 %.3f, %d different right answers (%s)", after, after_8, (int)lines.n,
                  lesson_duration(lesson_seconds() - start));
    report(names[task], "before", before), report(names[task], "after", after);
    if (save) stage_save(&s, lesson_path("model.safetensors"), "grpo");
    words_free(&lines), stage_free(&s), ag_free(ag);
}

// The same sums, as many of them, the same tokens to learn: only the order differs.
static void think_first(void) {
    double accuracy[2];
    terms = or_else(opt.terms, 6), modulus = 10;
    for (int first = 1; first >= 0; first--) {
        ag_ctx *ag = ag_new((unsigned long long)opt.seed);
        stage s = begin(ag);
        printf("\n== think: the %s first\n", first ? "answer" : "steps");
        imitate(&s, THINK, first, or_else(opt.demos, 2000), or_else(opt.sft, 400), 1, 0, NULL);
        accuracy[first] = measure(&s, THINK, first, opt.held, 0, NULL, NULL, 3);
        stage_free(&s), ag_free(ag);
    }
    stage_result("answer_first", accuracy[1]), stage_result("steps_first", accuracy[0]);
}

// Demonstrations that are right seven times in ten: what does imitation make of them, and what does practice?
static void imitate_or_practise(int save) {
    ag_ctx *ag = ag_new((unsigned long long)opt.seed);
    stage s = begin(ag);
    words shown = {NULL, 0, 0}, found = {NULL, 0, 0};
    printf("\n== practice\n");
    imitate(&s, PRACTICE, 0, or_else(opt.demos, 2000), or_else(opt.sft, 300), 0.7, 0, &shown);
    double imitation = measure(&s, PRACTICE, 0, opt.held, 1, NULL, NULL, 4);
    double likeliest = measure(&s, PRACTICE, 0, opt.held, 0, NULL, NULL, 0);
    lesson_report("imitation: pass@1 %.3f; its likeliest answers: %.3f", imitation, likeliest);
    practise(&s, PRACTICE, or_else(opt.steps, 120), &found);
    double practice = measure(&s, PRACTICE, 0, opt.held, 1, NULL, NULL, 4);
    likeliest = measure(&s, PRACTICE, 0, opt.held, 0, NULL, NULL, 0);
    int fresh = 0;
    for (size_t i = 0; i < found.slots; i++) fresh += found.at[i] && !words_has(&shown, found.at[i]);
    lesson_report("practice: pass@1 %.3f; its likeliest answers: %.3f", practice, likeliest);
    printf("right answers found in practice: %d, of which no demonstration has %d\n", (int)found.n, fresh);
    stage_result("imitation", imitation), stage_result("practice", practice);
    if (save) stage_save(&s, lesson_path("model.safetensors"), "grpo");
    words_free(&shown), words_free(&found), stage_free(&s), ag_free(ag);
}

static void draw(void) {
    plot *both[2] = {plot_new("Practice: right answers", "step", "share of answers that are right"),
                     plot_new("Practice: length of the answers", "step", "tokens an answer")};
    for (int k = 0; k < TASKS; k++)
        for (int i = 0; i < 2; i++) {
            if (curve_n[k] > 1) plot_smooth(both[i], names[k], NULL, curve[k][i], (size_t)curve_n[k], 0.9);
            free(curve[k][i]);
        }
    plot_range_y(both[0], 0, 1);
    int curves = 0;
    for (int k = 0; k < TASKS; k++) curves |= curve_n[k] > 1;
    if (csv.file && curves) lessoni_saved(plot_save_grid(both, 2, 2, lesson_path("training.png")), plot_error(both[0]));
    plot_free(both[0]), plot_free(both[1]);
}

int main(int argc, char **argv) {
    lesson_begin(argc, argv, "15", "practice with rewards that code can check");
    const char *task = lesson_choice("task", "all", "all|letter|words|sums|think|practice", "what to practise");
    opt.rejection = *lesson_choice("method", "grpo", "grpo|rejection", "all answers, or only the right ones") == 'r';
    opt.steps = lesson_int_in("steps", 0, 0, MOST, "of practice (0: the task's)");
    opt.demos = lesson_int_in("demos", 0, 0, 100000, "demonstrations before it (0: the task's)");
    opt.sft = lesson_int_in("sft", 0, 0, 100000, "steps of fine-tuning on them (0: the task's)");
    opt.terms = lesson_int_in("terms", 0, 0, TERMS, "numbers in a sum (0: 4 in sums, 6 in think)");
    opt.groups = lesson_int_in("groups", 16, 1, 64, "questions a step");
    opt.size = lesson_int_in("size", 8, 2, 64, "answers to each");
    opt.updates = lesson_int_in("updates", 1, 1, 16, "of the weights with the same answers");
    opt.lr = lesson_float_in("lr", 6e-4, 0, 1, "learning rate of practice");
    opt.kl = lesson_float_in("kl", 0.02, 0, 10, "beta: what a nat of distance from the reference costs");
    opt.clip = lesson_float_in("clip", 0.2, 0, 1, "epsilon: how far a ratio counts");
    opt.dr = lesson_flag("dr", 0, "Dr. GRPO: no division by deviation and length");
    opt.held = lesson_int_in("held", 60, 4, 1000, "held-out problems, 16 answers each");
    opt.base = lesson_int_in("base_steps", 400, 1, 1000000, "of pretraining, where lesson 08's model is missing");
    opt.seed = lesson_int("seed", 1, "of everything random");
    lesson_options_end(), lesson_must_save();

    double start = lesson_seconds();
    int all = !strcmp(task, "all");
    p = plays_read(), known = words_of(p.text);
    csv = lesson_csv_open(lesson_path("log.csv"), "task," LESSON_COLUMNS ",accuracy,length,kl,dead");
    for (int k = 0; k < TASKS; k++) {
        if (!all && strcmp(task, names[k])) continue;
        if (k <= SUMS) reinforce(k, !all || k == SUMS);
        else if (k == THINK) think_first();
        else imitate_or_practise(!all);
    }
    draw();
    printf("%s\n", lesson_duration(lesson_seconds() - start));
    lesson_written(strcmp(task, "think") ? "training.png, log.csv, results.csv, model.safetensors"
                                         : "log.csv, results.csv");
    lesson_csv_close(&csv), plays_free(&p), words_free(&known);
    return lesson_end();
}
