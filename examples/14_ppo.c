// Lesson 14: how is a model moved towards what a judge likes, and what if it moves too far?
//
//     cc -O3 examples/14_ppo.c -o ppo -lm && ./ppo
//
// The assistant answers, lesson 13's reward model gives each answer a number, and the answer's tokens become likelier
// if the number was better than expected: reinforcement learning from human feedback (Ziegler et al. 2019; Ouyang et
// al. 2022) by proximal policy optimisation (Schulman et al. 2017). Every token is an action, and the reward comes
// after the last one. A second head on the same model, the value, learns to expect it. An action's advantage is what
// came, less what was expected.
// A reward model is only a proxy of what is wanted. So the policy pays for every nat by which it leaves the assistant
// it was, the reference. And a second reward model, made of more pairs, looks on, and nothing is ever optimised against
// it: the gold standard (Gao et al. 2023, "Scaling laws for reward model overoptimization"). We train twice: with that
// price, and without it, in steps four times as long. At first both judges like what the second run does, too: it
// obeys and says little. Then it finds what the proxy has never been shown, and the proxy goes on rising while the gold
// standard falls. (The gold standard is a proxy too, and can be fooled: read what stands where it is highest.)
//
// It prints    reward, gold reward and KL while it learns, of answers to held-out prompts; then prompts with answers of
//              the assistant, of the policy, and of the policy that paid nothing
// It writes    out/14/rewards.png            both rewards against the root of KL, with the penalty and without
//              out/14/log.csv                results.csv: the figures
//              out/14/model.safetensors      the policy with the penalty, for later lessons
//              out/14/hacked.safetensors     the other one
//              out/14/previous.safetensors   the policy of the run before, where there was one
// It takes     6 minutes, and as long again for the second run. It wants lessons 11 and 13; what is missing is made
//              small, first. Ctrl-C saves, resume=1 goes on.
// Measured     seeds 1 2 3 4 5, mean (lowest to highest): ppo_gain 1.04 (0.86 to 1.17), ppo_kl 7.24 (6.99 to 7.60),
//              ppo_proxy 1.34 (1.14 to 1.66), hack_proxy 2.70 (1.88 to 3.53), hack_gold_drop 2.35 (0.02 to 4.65),
//              hack_distinct2 0.16 (0.06 to 0.49)
// Next         15_grpo.c rewards what can be checked by a program; 16_dpo.c needs no reward model.
//
// Exercises
//   1. kl=3 and kl=12 (with limit=20): what does a nat buy in gold reward, and where does it stop buying?
//   2. entropy=0.02 pays for being undecided. Does it save the second run's variety (distinct2), and its gold reward?
//   3. free_lr=2e-4 takes steps as short as those of the first run. Does it still find what the proxy does not know?
//   4. clip=10 clips nothing. Watch clip_fraction and kl in out/14/log.csv; then epochs=6 with it, and without.
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

enum { CHUNK = 16 };                // rows that a model reads at once where nothing is learned
enum { PENALTY = 1, FREE = 2 };     // the two runs
enum { SHOWN = 3 };                 // answers to print
enum { UNHEARD = 16 };              // words of the mean, in what the judge says of an answer that has just begun

typedef struct settings {
    int steps, rows, minibatch, epochs, cap, longest, every, held, seed;
    double lr, free_lr, clip, lambda, value, entropy, beta, target, limit;
} settings;

// Prompts and answers, and what PPO wants to know about every action. An action is a token that the policy chose; all
// of them stand in one list, row after row.
typedef struct batch {
    stage_rows r;
    int n, *first;                  // actions; (B+1): those of row b are first[b] to first[b+1]-1
    ag_real *old, *ref;             // (n) log-probability when it was chosen, and what the reference gives it
    ag_real *guess;                 // (n) what the judge says of the answer up to here
    ag_real *value, *reward;        // (n) what was expected from here on, that and the value head's say; what was paid
    ag_real *advantage, *ret;       // (n)
    ag_real *score;                 // (B) what the reward model says of the answer
} batch;

typedef struct update { double loss, value_loss, entropy, clip_fraction, explained, norm; int tokens; } update;
typedef struct look {               // means over held-out answers
    double reward, gold, kl, k3, distinct2, length;
    int heard;                      // 0: from the log, where stands no answer
    char said[SHOWN][320];          // a few of them, with what both reward models say
    double its_reward[SHOWN], its_gold[SHOWN];
} look;
typedef struct point { int run, step; look l; } point;
typedef struct scale { double mean, std; } scale;

typedef struct world {
    stage policy, reward, gold;
    gpt_model *reference;
    scale by_reward, by_gold;       // of the reference's answers: rewards are told in their standard deviations
    scale paid;                     // the same on training prompts: what the policy is paid
    stage_talk *held;               // prompts of the last tenth of the plays
    plays plays;
    double beta;                    // price of a nat
    point *curve;                   // what was seen on the way
    int points;
    char *old_log;                  // of the run that goes on
    lesson_csv log;
} world;

// ---- losses --------------------------------------------------------------------------------------------------------

// How far has p gone from the reference q? KL = E_p[log p/q]. From samples of p (Schulman 2020, "Approximating KL
// divergence"): with d = log p - log q of a token, k1 = d is right on average, but half of the time it has the wrong
// sign. k3 = e^-d - 1 + d adds something that is zero on average (E_p[q/p] = 1) and goes up when d goes down: never
// negative, and calmer as long as p and q are close. Summed over an answer's tokens both estimate the KL of answers.
static double k1(double d) { return d; }
static double k3(double d) { return expm1(-d) + d; }

// Schulman et al. 2017, equation 7: L = E[min(r A, clip(r, 1-e, 1+e) A)], r = pi(a)/pi_old(a). An action that is
// likelier (or, with A < 0, less likely) by more than e already gains nothing by going further. We minimise, hence the
// minus.
static ag_tensor *policy_loss(ag_tensor *logp, ag_tensor *old, ag_tensor *advantage, double clip, double *clipped) {
    ag_tensor *ratio = ag_exp(ag_sub(logp, ag_detach(old)));
    ag_tensor *held = ag_clamp(ratio, 1 - clip, 1 + clip);
    if (clipped)        // the share of actions whose ratio is outside
        *clipped = ag_item(ag_mean(ag_add(ag_greater(ratio, held), ag_greater(held, ratio))));
    return ag_neg(ag_mean(ag_minimum(ag_mul(ratio, advantage), ag_mul(held, advantage))));
}

// E[(V - R)^2] / 2. Clipping this too, as OpenAI's code did, helps nobody (Andrychowicz et al. 2021). Its weight is
// small: all gradients are clipped together, and with a weight of 0.5 the value's, thirty times as long as the
// policy's, decided how much of those was left. Adam's steps do not get shorter by it.
static ag_tensor *value_loss(ag_tensor *value, ag_tensor *ret) {
    return ag_scale(ag_mean(ag_pow(ag_sub(value, ag_detach(ret)), 2)), 0.5);
}

// V of each state: a guess that is known (see guess_from), and what the value head adds to it. The head reads the trunk
// and does not bend it: the policy shall not move for the sake of the value. The 16 lets a head that begins at 0 learn
// as fast as it has to, at the learning rate of a policy.
static ag_tensor *value_of(gpt_model *m, ag_tensor *h, ag_tensor *guess) {
    return ag_add(guess, ag_scale(gpt_scalar(m, ag_detach(h)), 16));
}

// H = -sum p log p over the vocabulary: ln V for somebody who does not care, 0 for somebody who is sure.
static ag_tensor *entropy_of(ag_tensor *logits) {
    ag_tensor *logp = ag_log_softmax(logits);
    return ag_neg(ag_mean(ag_sum_dim(ag_mul(ag_exp(logp), logp), -1)));
}

// Generalised advantage estimation (Schulman et al. 2016): delta_t = r_t + gamma V_{t+1} - V_t,
// A_t = delta_t + gamma lambda A_{t+1}. lambda 0 believes the value head, lambda 1 only what was paid. After the last
// token nothing follows. ret = A + V is what V should have been.
static void gae(const ag_real *reward, const ag_real *value, int n, double gamma, double lambda, ag_real *advantage,
                ag_real *ret) {
    double later = 0;
    for (int t = n - 1; t >= 0; t--) {
        double delta = reward[t] + gamma * (t + 1 < n ? value[t + 1] : 0) - value[t];
        later = delta + gamma * lambda * later;
        advantage[t] = (ag_real)later, ret[t] = (ag_real)(later + value[t]);
    }
}

// Ziegler et al. 2019: the price goes up when KL is above its target, down when it is below; by a tenth of the error,
// and of no more than a fifth, at a time. (They had thousands of steps. Here, where there are a hundred, it is half of
// the error, and the price never falls below its start.)
static double adapt(double beta, double kl, double target) {
    double error = kl / target - 1;
    return beta * (1 + 0.5 * (error > 0.2 ? 0.2 : error < -0.2 ? -0.2 : error));
}

static scale scale_of(const ag_real *x, int n) {
    double sum = 0, squares = 0;
    for (int i = 0; i < n; i++) sum += x[i];
    for (int i = 0; i < n; i++) squares += (x[i] - sum / n) * (x[i] - sum / n);
    scale s = {sum / n, sqrt(squares / n)};
    return s;
}

// Two answers to each of n prompts: the mean over the first ones, and the standard deviation of answers to one prompt.
// (Pairs teach a reward model which of two answers to one prompt is better. From prompt to prompt its zero may move as
// it likes, so what rewards differ by between prompts says nothing of the answers.)
static scale scale_within(const ag_real *one, const ag_real *other, int n) {
    scale s = {0, 1e-12};
    for (int i = 0; i < n; i++) s.mean += one[i] / n, s.std += (one[i] - other[i]) * (one[i] - other[i]) / (2.0 * n);
    s.std = sqrt(s.std);
    return s;
}

// How much of what was paid did the value head expect? 1: all of it; 0: no more than the mean; negative: worse.
static double explained_variance(const ag_real *value, const ag_real *ret, int n) {
    ag_real *error = (ag_real *)lesson_alloc((size_t)n, sizeof *error);
    for (int i = 0; i < n; i++) error[i] = ret[i] - value[i];
    double left = scale_of(error, n).std, all = scale_of(ret, n).std;
    free(error);
    return all > 0 ? 1 - left * left / (all * all) : LESSON_NONE;
}

// ---- a batch of answers --------------------------------------------------------------------------------------------

static void batch_free(batch *x) {
    free(x->first), free(x->old), free(x->score), stage_rows_free(&x->r);
}

// The actions of all rows: at position t the next token is chosen, so it counts where token t+1 is the policy's.
static batch batch_of(stage_rows r) {
    batch x;
    memset(&x, 0, sizeof x);
    x.r = r, x.first = (int *)lesson_alloc((size_t)r.B + 1, sizeof *x.first);
    for (int b = 0; b < r.B; b++, x.first[b] = x.n)
        for (int t = 0; t + 1 < r.len[b]; t++) x.n += r.mask[b * r.T + t + 1];
    size_t n = (size_t)x.n;
    x.old = (ag_real *)lesson_alloc(7 * n, sizeof *x.old), x.ref = x.old + n, x.value = x.ref + n;
    x.reward = x.value + n, x.advantage = x.reward + n, x.ret = x.advantage + n, x.guess = x.ret + n;
    x.score = (ag_real *)lesson_alloc((size_t)r.B, sizeof *x.score);
    for (int b = 0, i = 0; b < r.B; b++)
        for (int t = 0; t + 1 < r.len[b]; t++) if (r.mask[b * r.T + t + 1]) x.old[i++] = r.logprobs[b * r.T + t];
    return x;
}

// What a model thinks at the moment of each action of some rows: (k, C), for its heads. token (k): what was chosen;
// which (k): the action's place in the batch.
static ag_tensor *states(gpt_model *m, const batch *x, const int *rows, int R, int *token, int *which, int *k) {
    const stage_rows *r = &x->r;
    int T = 0, *len = (int *)lesson_alloc((size_t)R, sizeof *len);
    for (int i = 0; i < R; i++) if (r->len[rows[i]] > T) T = r->len[rows[i]];
    int *ids = (int *)lesson_alloc((size_t)(2 * R * T), sizeof *ids), *at = ids + R * T;
    *k = 0;
    for (int i = 0; i < R; i++) {
        int b = rows[i], a = x->first[b];
        const int *row = r->ids + b * r->T;
        len[i] = r->len[b], memcpy(ids + i * T, row, (size_t)len[i] * sizeof *ids);
        for (int t = 0; t + 1 < len[i]; t++) {
            if (!r->mask[b * r->T + t + 1]) continue;
            at[*k] = i * T + t, token[*k] = row[t + 1], which[*k] = a++;
            ++*k;
        }
    }
    ag_tensor *h = gpt_trunk(m, ids, R, T, len);
    h = ag_embedding(ag_reshape(h, R * T, m->config.n_embd), at, *k, 0);       // of all positions, these
    free(len), free(ids);
    return h;
}

static ag_tensor *picked(ag_ctx *ag, const ag_real *from, const int *which, int k) {
    ag_real *x = (ag_real *)lesson_alloc((size_t)k, sizeof *x);
    for (int i = 0; i < k; i++) x[i] = from[which[i]];
    ag_tensor *y = ag_input(ag, x, k);
    free(x);
    return y;
}

// Log-probabilities (or NULL) and values (or NULL) that m has for all actions; nothing is learned from this.
static void assess(gpt_model *m, const batch *x, ag_real *logp, ag_real *value) {
    int rows[CHUNK], k, done = 0;
    int *token = (int *)lesson_alloc((size_t)(2 * x->n), sizeof *token), *which = token + x->n;
    int old = ag_no_grad(m->ctx, 1);
    for (int b = 0; b < x->r.B; b += CHUNK, done += k) {
        ag_mark_at mark = ag_mark(m->ctx);
        int R = x->r.B - b < CHUNK ? x->r.B - b : CHUNK;
        for (int i = 0; i < R; i++) rows[i] = b + i;
        ag_tensor *h = states(m, x, rows, R, token, which, &k);
        if (logp) ag_get(ag_neg(ag_nll(gpt_head(m, h), token)), logp + done);
        if (value) ag_get(value_of(m, h, picked(m->ctx, x->guess, which, k)), value + done);
        ag_rewind(m->ctx, mark);
    }
    ag_no_grad(m->ctx, old), free(token);
}

// The judge reads word by word, so what it has said so far, (B,T), tells much of the score: two thirds of the variance
// where UNHEARD words of the mean `paid` are counted in, because the first few exaggerate. Ouyang et al. 2022 begin
// with a value model that is a copy of the reward model, for the same reason: who knows the judge need not begin at 0.
static void guess_from(batch *x, const ag_real *said, scale paid) {
    for (int b = 0; b < x->r.B; b++) {
        const ag_real *at = said + b * x->r.T + x->r.prompt[b];
        double sum = 0;
        for (int i = x->first[b], n = 0; i < x->first[b + 1]; i++, n++) {
            x->guess[i] = (ag_real)(sum / (n + UNHEARD));
            sum += (STAGE_SILENT * at[n] - paid.mean) / paid.std;
        }
    }
}

// r_t = -beta (log pi - log pi_ref), and the answer's score at its last action (Ouyang et al. 2022, equation 2).
static void pay(batch *x, double beta) {
    for (int b = 0; b < x->r.B; b++) {
        for (int i = x->first[b]; i < x->first[b + 1]; i++) x->reward[i] = (ag_real)(-beta * (x->old[i] - x->ref[i]));
        x->reward[x->first[b + 1] - 1] += x->score[b];
    }
}

// Advantages of every answer, then of mean 0 and deviation 1 over the batch, so that the step size means the same
// whatever the rewards.
static void advantages(batch *x, double lambda) {
    for (int b = 0; b < x->r.B; b++) {
        int i = x->first[b];
        gae(x->reward + i, x->value + i, x->first[b + 1] - i, 1, lambda, x->advantage + i, x->ret + i);
    }
    scale s = scale_of(x->advantage, x->n);
    for (int i = 0; i < x->n; i++) x->advantage[i] = (ag_real)((x->advantage[i] - s.mean) / (s.std + 1e-8));
}

static double kl_of(const batch *x, double (*k)(double)) {      // nats per answer
    double sum = 0;
    for (int i = 0; i < x->n; i++) sum += k(x->old[i] - x->ref[i]);
    return sum / x->r.B;
}

static stage_talk *requests(stage *s, const plays *p, ag_rng *rng, int held, int n, int longest) {
    stage_talk *t = (stage_talk *)lesson_alloc((size_t)n, sizeof *t);
    for (int i = 0, tries = 0; i < n; tries++) {
        if (tries == PAIRS_TRIES + n) lesson_fail("prompt=%d is too short: all requests have more tokens", longest);
        t[i] = pairs_prompt(s, pairs_speech(p, rng, held));
        if (t[i].n <= longest) i++;
        else stage_talk_free(&t[i]);
    }
    return t;
}

// Answers to n prompts, drawn from the policy itself: temperature 1, no filter, or the ratios below would be wrong.
static batch answers(stage *s, const stage_talk *asked, int n, int cap) {
    gpt_sampling how = {1, 0, 0, 0, NULL, 0};
    return batch_of(stage_rollout(s, &how, asked, n, 1, cap));
}

// ---- learning ------------------------------------------------------------------------------------------------------

// A batch, ready to be learned from: answers, what the reference would have said, what was expected and what is paid.
static batch collect(world *w, const settings *o) {
    stage_talk *asked = requests(&w->policy, &w->plays, ag_stream(w->policy.ag, AG_RNG_DATA), 0, o->rows, o->longest);
    batch x = answers(&w->policy, asked, o->rows, o->cap);
    ag_real *said = (ag_real *)lesson_alloc((size_t)(x.r.B * x.r.T), sizeof *said);
    pairs_judge(&w->reward, &x.r, x.score, said), guess_from(&x, said, w->paid), free(said);
    for (int b = 0; b < o->rows; b++) x.score[b] = (ag_real)((x.score[b] - w->paid.mean) / w->paid.std);
    assess(w->reference, &x, x.ref, NULL), assess(w->policy.model, &x, NULL, x.value);
    pay(&x, w->beta), advantages(&x, o->lambda);
    for (int b = 0; b < o->rows; b++) stage_talk_free(&asked[b]);
    free(asked);
    return x;
}

// Several epochs over the same answers: this is what the ratio and its clipping are for. The value head sits on the
// policy's own trunk (one model to train, to save and to resume).
static update improve(world *w, const settings *o, const batch *x, double lr) {
    gpt_model *m = w->policy.model;
    ag_ctx *ag = m->ctx;
    gpt_optimizer adamw = gpt_adamw();
    update u = {0, 0, 0, 0, 0, 0, 0};
    int B = x->r.B, steps = 0, k, *order = (int *)lesson_alloc((size_t)(B + 2 * x->n), sizeof *order);
    int *token = order + B, *which = token + x->n;
    adamw.lr = lr, adamw.beta2 = 0.95, adamw.weight_decay = 0;
    u.explained = explained_variance(x->value, x->ret, x->n);
    for (int b = 0; b < B; b++) order[b] = b;
    for (int epoch = 0; epoch < o->epochs; epoch++) {
        for (int b = B - 1; b > 0; b--) {
            int j = plays_below(ag_stream(ag, AG_RNG_DATA), b + 1), row = order[b];
            order[b] = order[j], order[j] = row;
        }
        for (int b = 0; b < B; b += o->minibatch, steps++) {
            int R = B - b < o->minibatch ? B - b : o->minibatch, read = 0;
            for (int i = 0; i < R; i++) read += x->r.len[order[b + i]];
            double norm, clipped;
            ag_tensor *h = states(m, x, order + b, R, token, which, &k), *logits = gpt_head(m, h);
            ag_tensor *logp = ag_neg(ag_nll(logits, token)), *old = picked(ag, x->old, which, k);
            ag_tensor *lp = policy_loss(logp, old, picked(ag, x->advantage, which, k), o->clip, &clipped);
            ag_tensor *lv = value_loss(value_of(m, h, picked(ag, x->guess, which, k)), picked(ag, x->ret, which, k));
            ag_tensor *entropy = entropy_of(logits);
            ag_tensor *loss = ag_add(lp, ag_scale(lv, o->value));
            if (o->entropy > 0) loss = ag_sub(loss, ag_scale(entropy, o->entropy));
            u.loss += ag_item(loss), u.value_loss += ag_item(lv), u.entropy += ag_item(entropy);
            u.clip_fraction += clipped;
            ag_backward(loss), gpt_step(m, &adamw, 1, &norm), ag_reset(ag);
            u.norm += norm, u.tokens += read;
        }
    }
    u.loss /= steps, u.value_loss /= steps, u.entropy /= steps, u.clip_fraction /= steps, u.norm /= steps;
    free(order);
    return u;
}

// ---- looking on ----------------------------------------------------------------------------------------------------

static int by_number(const void *a, const void *b) {
    const long long *x = (const long long *)a, *y = (const long long *)b;
    return (*x > *y) - (*x < *y);
}

// Different pairs of neighbouring tokens over all pairs, in all answers together (Li et al. 2016, "distinct-2").
static double distinct2(const batch *x) {
    long long *pairs = (long long *)lesson_alloc((size_t)x->n, sizeof *pairs);
    int n = 0, different = 0;
    for (int b = 0; b < x->r.B; b++)
        for (int t = x->r.prompt[b]; t + 1 < x->r.len[b]; t++)
            pairs[n++] = (long long)x->r.ids[b * x->r.T + t] << 32 | x->r.ids[b * x->r.T + t + 1];
    qsort(pairs, (size_t)n, sizeof *pairs, by_number);
    for (int i = 0; i < n; i++) different += !i || pairs[i] != pairs[i - 1];
    free(pairs);
    return n ? (double)different / n : 0;
}

// Answers to n prompts, judged by both. The same random numbers each time, those of `key`, and none taken from the
// training's streams: looking must not change what is looked at.
static batch judged(world *w, stage *s, const stage_talk *asked, const settings *o, int key, ag_real *reward,
                    ag_real *gold) {
    ag_rng *stream = ag_stream(s->ag, AG_RNG_SAMPLE), saved = *stream;
    stream->key = (uint64_t)key, stream->counter = 0;
    batch x = answers(s, asked, o->held, o->cap);
    *stream = saved;
    assess(w->reference, &x, x.ref, NULL);
    pairs_judge(&w->reward, &x.r, reward, NULL), pairs_judge(&w->gold, &x.r, gold, NULL);
    return x;
}

static look look_at(world *w, stage *s, const settings *o) {
    look l;
    ag_real *reward = (ag_real *)lesson_alloc((size_t)(2 * o->held), sizeof *reward), *gold = reward + o->held;
    batch x = judged(w, s, w->held, o, 5, reward, gold);
    memset(&l, 0, sizeof l), l.heard = 1;
    l.reward = (scale_of(reward, o->held).mean - w->by_reward.mean) / w->by_reward.std;
    l.gold = (scale_of(gold, o->held).mean - w->by_gold.mean) / w->by_gold.std;
    l.kl = kl_of(&x, k1), l.k3 = kl_of(&x, k3), l.distinct2 = distinct2(&x), l.length = (double)x.n / o->held;
    for (int b = 0; b < SHOWN; b++) {
        char *said = stage_said(s, &x.r, b);
        snprintf(l.said[b], sizeof l.said[b], "%s", said), free(said);
        l.its_reward[b] = (reward[b] - w->by_reward.mean) / w->by_reward.std;
        l.its_gold[b] = (gold[b] - w->by_gold.mean) / w->by_gold.std;
    }
    batch_free(&x), free(reward);
    return l;
}

// ---- stop and go on ------------------------------------------------------------------------------------------------

// What must be the same when a run goes on, in one line. The last two numbers stand for the models it began with.
static void terms(const world *w, const settings *o, int run, char *to, size_t size) {
    snprintf(to, size, "run=%d steps=%d seed=%d rows=%d minibatch=%d epochs=%d tokens=%d prompt=%d held=%d lr=%.9g "
             "clip=%.9g lambda=%.9g value=%.9g entropy=%.9g beta=%.9g kl=%.9g limit=%.9g; %.17g %.17g", run,
             run == PENALTY ? o->steps : 0, o->seed, o->rows, o->minibatch, o->epochs, o->cap, o->longest, o->held,
             run == PENALTY ? o->lr : o->free_lr, o->clip, o->lambda, o->value, o->entropy, o->beta, o->target,
             o->limit, w->by_reward.mean, w->by_gold.mean);
}

// Everything that the next step depends on: policy with its value head, the optimizer's moments, the random streams
// (gpt_save keeps these), the step and the price of a nat.
static void save(world *w, const settings *o, int run, int step, const char *path) {
    gpt_state state;
    char notes[640], line[512];
    memset(&state, 0, sizeof state);
    terms(w, o, run, line, sizeof line);
    snprintf(notes, sizeof notes, "stage=ppo\nterms=%s\nbeta=%.17g\n", line, w->beta);
    state.step = step, state.notes = notes;
    stage_save_state(&w->policy, path, &state);
}

// gpt_step steps all that is not frozen. Neither the reference nor a policy of before may learn any more.
static void make_room(world *w) {
    gpt_freeze(w->reference);
    if (w->policy.model != w->reference) gpt_freeze(w->policy.model), gpt_free(w->policy.model);
}

// A policy is the reference with a value head that expects 0, which is the mean reward, as long as it knows nothing.
static void begin(world *w, const settings *o, int run) {
    gpt_config c = w->reference->config;
    c.scalar = 1;
    make_room(w), w->policy.model = gpt_adapt(w->policy.ag, w->reference, &c), gpt_train(w->policy.model, 0);
    for (int i = 0; i < AG_RNG_COUNT; i++) {
        ag_rng *stream = ag_stream(w->policy.ag, i);
        stream->key = (uint64_t)(o->seed * 100 + run * 10 + i), stream->counter = 0;
    }
    w->beta = run == PENALTY ? o->beta : 0;
}

// Steps done before.
static int resume(world *w, const settings *o, int run, const char *path) {
    gpt_state state;
    char now[512], then[512], is[32], beta[32];
    memset(&state, 0, sizeof state);
    make_room(w), w->policy.model = gpt_resume(w->policy.ag, path, &state), gpt_train(w->policy.model, 0);
    stage_named(&state, is);
    if (strcmp(is, "ppo")) lesson_fail("%s is a model of stage %s, wanted one of stage ppo", path, is);
    terms(w, o, run, now, sizeof now);
    if (!gpt_note(&state, "terms", then, sizeof then) || !gpt_note(&state, "beta", beta, sizeof beta))
        lesson_fail("%s does not say how it was begun", path);
    if (strcmp(now, then)) lesson_fail("%s was begun with other options or models:\n  %s\nand now they are\n  %s", path,
                                       then, now);
    w->beta = atof(beta);
    int step = (int)state.step;
    gpt_state_free(&state);
    return step;
}

// ---- the log -------------------------------------------------------------------------------------------------------

#define COLUMNS "run," LESSON_COLUMNS ",reward,kl,kl_k3,beta,entropy,clip_fraction,value_loss,explained_variance," \
                "held_reward,gold,held_kl,held_k3,distinct2,length"
enum { C_RUN, C_STEP, C_HELD = 16, C_COUNT = 22 };

static void remember(world *w, int run, int step, const look *l) {
    w->curve = (point *)realloc(w->curve, (size_t)(w->points + 1) * sizeof *w->curve);
    if (!w->curve) lesson_fail("out of memory");
    w->curve[w->points].run = run, w->curve[w->points].step = step, w->curve[w->points++].l = *l;
}

// Rows of the log that a resumed run has behind it: into the new log, and into the curve.
static void reread(world *w, int run, int before) {
    for (char *at = w->old_log; at && (at = strchr(at, '\n')) != NULL && *++at;) {
        double x[C_COUNT];
        char *c = at;
        for (int i = 0; i < C_COUNT; i++) {
            char *end;
            x[i] = strtod(c, &end);
            if (end == c) x[i] = LESSON_NONE;
            c = end + (*end == ',');
        }
        if (x[C_RUN] != run || !(x[C_STEP] < before)) continue;
        lesson_csv_row(&w->log, x, C_COUNT);
        if (x[C_HELD] != x[C_HELD]) continue;
        look l;
        memset(&l, 0, sizeof l);                            // what was said then is not in the log
        l.reward = x[C_HELD], l.gold = x[C_HELD + 1], l.kl = x[C_HELD + 2], l.k3 = x[C_HELD + 3];
        l.distinct2 = x[C_HELD + 4], l.length = x[C_HELD + 5];
        remember(w, run, (int)x[C_STEP], &l);
    }
}

// One run. With the penalty it ends early when held-out answers are further than `limit` from the reference; what is
// kept is the policy at the last look before. The gold reward has no say in that. 1, or 0 after Ctrl-C.
static int train(world *w, const settings *o, int run, int steps, const char *path, int go_on) {
    int step = 0, first, over = 0, last = 0;
    double started = lesson_seconds();
    int there = go_on && lesson_exists(path);
    if (there) step = resume(w, o, run, path);
    else begin(w, o, run);
    if (!w->log.columns) w->log = lesson_csv_open(lesson_path("log.csv"), COLUMNS);     // not before resume was content
    if (there) reread(w, run, step);
    for (first = step; !last && !over; step++) {
        double x[C_COUNT], now = lesson_seconds();
        for (int i = 0; i < C_COUNT; i++) x[i] = LESSON_NONE;
        last = step >= steps || lesson_interrupted();
        if (last || step == first || step % o->every == 0) {
            look l = look_at(w, &w->policy, o);
            over = run == PENALTY && l.kl > o->limit;
            remember(w, run, step, &l);
            lesson_report("step %4d: reward %+.2f, gold %+.2f, KL %.2f (k3 %.2f), distinct2 %.2f, %2.0f tokens, "
                          "price %.3f", step, l.reward, l.gold, l.kl, l.k3, l.distinct2, l.length, w->beta);
            double held[] = {l.reward, l.gold, l.kl, l.k3, l.distinct2, l.length};
            memcpy(x + C_HELD, held, sizeof held);
            if (!over) save(w, o, run, step, path);
            now = lesson_seconds();
        }
        x[C_RUN] = run, x[C_STEP] = step, x[7] = lesson_seconds() - started;
        if (!last && !over) {
            batch b = collect(w, o);
            double lr = run == PENALTY ? o->lr * gpt_lr_linear(step, 0, o->steps, 0.7) : o->free_lr;
            update u = improve(w, o, &b, lr);
            double kl = kl_of(&b, k1), score = scale_of(b.score, o->rows).mean, spent = lesson_seconds() - now;
            double seen[] = {u.loss, LESSON_NONE, lr, u.norm, u.tokens / spent, x[7], score, kl, kl_of(&b, k3),
                             w->beta, u.entropy, u.clip_fraction, u.value_loss, u.explained};
            memcpy(x + 2, seen, sizeof seen);
            if (run == PENALTY) w->beta = fmax(adapt(w->beta, kl, o->target), o->beta);
            batch_free(&b);
            lesson_progress(step + 1, steps, u.loss, x[6]);
        }
        lesson_csv_row(&w->log, x, C_COUNT);
    }
    if (over)
        lesson_report("KL is above limit=%g: stopped, and the policy of the look before is kept. A smaller lr= or a "
                      "larger beta= stays nearer", o->limit);
    return !lesson_interrupted();
}

// Reward and gold of one run against the root of KL, as Gao et al. draw them: the first nats buy most.
static double root(double kl) { return sqrt(kl > 0 ? kl : 0); }         // an estimate of 0 may be below
static void draw(plot *p, const world *w, int run, const char *reward, const char *gold, int color) {
    double *x = (double *)lesson_alloc((size_t)(3 * w->points), sizeof *x), *y = x + w->points, *z = y + w->points;
    size_t n = 0;
    for (int i = 0; i < w->points; i++)
        if (w->curve[i].run == run)
            x[n] = root(w->curve[i].l.kl), y[n] = w->curve[i].l.reward, z[n++] = w->curve[i].l.gold;
    plot_line(p, reward, x, y, n), plot_color(p, color), plot_dashed(p);
    plot_line(p, gold, x, z, n), plot_color(p, color), plot_dots(p);
    free(x);
}

static const point *last_of(const world *w, int run, double limit) {
    const point *best = NULL;
    for (int i = 0; i < w->points; i++) if (w->curve[i].run == run && w->curve[i].l.kl <= limit) best = &w->curve[i];
    return best;
}

static void quote(const char *who, const look *l, int b) {
    if (!l->heard) { printf("  %s: answered before the stop, and not heard again\n", who); return; }
    printf("  %s (reward %+.1f, gold %+.1f): ", who, l->its_reward[b], l->its_gold[b]);
    for (const char *c = l->said[b]; *c; c++) lesson_print_text(*c == '\n' ? " / " : c, *c == '\n' ? 3 : 1);
    lesson_print_text(NULL, 0), printf("\n");
}

int main(int argc, char **argv) {
    settings o;
    lesson_begin(argc, argv, "14", "learning from a reward model, with a price for going far, and without");
    o.steps = lesson_int("steps", 120, "of PPO with the penalty: a batch of answers, some epochs over it");
    int free_steps = lesson_int("free_steps", 130, "of PPO without it; 0: no second run");
    o.rows = lesson_int_in("rows", 96, 1, 4096, "answers a step");
    o.minibatch = lesson_int_in("minibatch", 32, 1, 4096, "answers a gradient");
    o.epochs = lesson_int_in("epochs", 2, 1, 100, "over each batch of answers");
    o.lr = lesson_float("lr", 2e-4, "learning rate with the penalty; it falls to 0 in the end");
    o.free_lr = lesson_float("free_lr", 8e-4, "learning rate without the penalty; it does not fall");
    o.target = lesson_float_in("kl", 7, 0.01, 1000, "nats an answer, beyond which the price of a nat rises");
    o.limit = lesson_float_in("limit", 8, 0.01, 1000, "nats an answer at which the first run ends");
    o.beta = lesson_float("beta", 0.035, "price of a nat at first, and at least, in standard deviations of the reward");
    o.clip = lesson_float_in("clip", 0.2, 0.001, 1000, "how far a ratio may go");
    o.lambda = lesson_float_in("lambda", 0.95, 0, 1, "of the advantages: 0 believes the value head, 1 what was paid");
    o.value = lesson_float("value", 1e-3, "weight of the value loss");
    o.entropy = lesson_float("entropy", 0, "weight of the entropy: what being undecided is worth");
    o.cap = lesson_int_in("tokens", 60, 2, 200, "of an answer at most");
    o.longest = lesson_int_in("prompt", 96, 40, 250, "tokens of a prompt at most");
    o.held = lesson_int_in("held", 192, SHOWN, 4096, "held-out prompts to look at");
    o.every = lesson_int_in("every", 10, 1, 1000000, "steps between two looks, each followed by a save");
    int pairs = lesson_int_in("pairs", 3200, 16, 100000, "to learn from, where lesson 13's reward models are missing");
    int base = lesson_int_in("base_steps", 400, 1, 1000000, "of training, where lesson 08's or 11's model is missing");
    int go_on = lesson_flag("resume", 0, "go on from out/14");
    o.seed = lesson_int("seed", 1, "of everything random");
    lesson_options_end(), lesson_must_save();

    world w;
    memset(&w, 0, sizeof w);
    ag_ctx *ag = ag_new((unsigned long long)o.seed);
    w.plays = plays_read();
    plays_enough(&w.plays);
    w.policy = pairs_sft(ag, &w.plays, base), w.reference = w.policy.model;
    w.reward = pairs_reward(&w.policy, &w.plays, "reward", pairs, 1);
    w.gold = pairs_reward(&w.policy, &w.plays, "gold", 2 * pairs, 2);
    if (o.longest + o.cap >= w.reference->config.n_ctx)             // the judge ends what has no end
        lesson_fail("prompt=%d and tokens=%d and an end exceed the context of %d", o.longest, o.cap,
                    w.reference->config.n_ctx);

    // What the assistant gets at first, on training prompts and on held-out ones: two answers to each.
    ag_rng some = {7, 0};
    stage_talk *asked = requests(&w.policy, &w.plays, &some, 0, o.held, o.longest);
    w.held = requests(&w.policy, &w.plays, &some, 1, o.held, o.longest);
    ag_real *reward = (ag_real *)lesson_alloc((size_t)(4 * o.held), sizeof *reward), *gold = reward + 2 * o.held;
    for (int on_held = 0; on_held < 2; on_held++) {
        for (int k = 0; k < 2; k++) {
            ag_real *y = reward + k * o.held, *z = gold + k * o.held;
            batch x = judged(&w, &w.policy, on_held ? w.held : asked, &o, 5 + k, y, z);
            batch_free(&x);
        }
        w.by_reward = scale_within(reward, reward + o.held, o.held);
        w.by_gold = scale_within(gold, gold + o.held, o.held);
        if (!on_held) w.paid = w.by_reward;
    }
    look sft = look_at(&w, &w.policy, &o);
    printf("the assistant: reward %.2f (standard deviation %.2f), gold %.2f (%.2f), distinct2 %.2f, %.0f tokens each\n",
           w.by_reward.mean, w.by_reward.std, w.by_gold.mean, w.by_gold.std, sft.distinct2, sft.length);

    const char *kept = lesson_path("model.safetensors"), *hacked = lesson_path("hacked.safetensors");
    const char *log = lesson_path("log.csv");
    size_t size;
    if (go_on && lesson_exists(log)) w.old_log = (char *)lesson_file(log, &size);
    if (!go_on) remove(hacked);
    if (!go_on) lesson_keep(kept);
    printf("\nwith the penalty, at a learning rate of %g that falls to 0:\n", o.lr);
    int done = train(&w, &o, PENALTY, o.steps, kept, go_on);
    if (!done) reread(&w, FREE, free_steps);              // the log keeps what the second run has behind it
    else if (free_steps) {
        printf("\nwithout, at one of %g that does not:\n", o.free_lr);
        done = train(&w, &o, FREE, free_steps, hacked, go_on);
    }
    if (!done) lesson_stopped("");

    const point *with = last_of(&w, PENALTY, o.limit), *without = last_of(&w, FREE, HUGE_VAL), *peak = without;
    for (int i = 0; i < w.points; i++)
        if (w.curve[i].run == FREE && w.curve[i].l.gold > peak->l.gold) peak = &w.curve[i];
    for (int b = 0; b < SHOWN && with && done; b++) {
        char *text = stage_string(&w.policy, w.held[b].ids, w.held[b].n);
        printf("\n"), lesson_print_said(text), printf("\n"), free(text);
        quote("the assistant", &sft, b), quote("with the penalty", &with->l, b);
        if (peak && peak != without) quote("without, where gold was highest", &peak->l, b);
        if (without) quote("without, at the end", &without->l, b);
    }
    printf("\n");
    if (with && done) {
        stage_result("ppo_gain", with->l.gold), stage_result("ppo_kl", with->l.kl);
        stage_result("ppo_proxy", with->l.reward);
    }
    if (without && done) {
        printf("without the penalty gold was highest at step %d, KL %.1f\n", peak->step, peak->l.kl);
        stage_result("hack_proxy", without->l.reward), stage_result("hack_gold_drop", peak->l.gold - without->l.gold);
        stage_result("hack_distinct2", without->l.distinct2 / sft.distinct2);
    }
    plot *p = plot_new("A proxy of what is wanted", "root of KL from the assistant (root of nats an answer)",
                       "reward (the assistant's standard deviations)");
    draw(p, &w, PENALTY, "reward, with the penalty", "gold, with the penalty", 0);
    if (without) draw(p, &w, FREE, "reward, without", "gold, without", 1);
    if (without) plot_note(p, root(peak->l.kl), peak->l.gold, "gold is highest here");
    lesson_save(p, "rewards.png"), plot_free(p);
    char written[100];
    snprintf(written, sizeof written, "rewards.png, log.csv, %smodel.safetensors%s", done ? "results.csv, " : "",
             without ? ", hacked.safetensors" : "");
    lesson_written(written);

    lesson_csv_close(&w.log);
    for (int i = 0; i < o.held; i++) stage_talk_free(&asked[i]), stage_talk_free(&w.held[i]);
    free(asked), free(w.held), free(reward), free(w.curve), free(w.old_log), plays_free(&w.plays);
    if (w.policy.model != w.reference) gpt_free(w.reference);
    stage_free(&w.policy), stage_free(&w.reward), stage_free(&w.gold), ag_free(ag);
    return lesson_end();
}
