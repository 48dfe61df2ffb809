// Lesson 16: can a model learn from preferences without a reward model, without sampling, without reinforcement?
//
//     cc -O3 examples/16_dpo.c -o dpo -lm && ./dpo
//
// PPO wants the policy that gets most reward and pays beta for every nat by which it leaves the reference. That problem
// has a solution in closed form: pi(y|x) is proportional to ref(y|x) exp(r(x,y) / beta). Turned round, every policy is
// the best one for some reward: r(x,y) = beta log(pi(y|x) / ref(y|x)), and a term of x alone, which cancels where two
// replies to one prompt are compared. Put into lesson 13's Bradley-Terry loss, this is direct preference optimisation
// (Rafailov et al. 2023, "Your language model is secretly a reward model"): one loss on pairs, over the policy itself.
// We train on pairs as in lesson 13, from lesson 11's assistant, and then ask a judge that had no part in it, lesson
// 13's gold standard: of two answers to a held-out prompt, the assistant's and ours, which one is better?
//
// It learns from as many pairs as cost what lesson 14's run has cost, where that is there.
//
//     ./dpo pairs=2000     learns from so many
//     ./dpo lora=8         only adapters learn, a twentieth of the numbers (Hu et al. 2022), and are merged in the end
//
// It prints    loss, accuracy and margin of the implicit rewards; the share of answers that win over the assistant's;
//              the same for lesson 14's policy, with what each has cost to compute; answers of all, side by side
// It writes    out/16/dpo.png                implicit rewards of the better and the worse replies
//              out/16/log.csv                results.csv: the figures
//              out/16/model.safetensors      the policy, for later lessons
// It takes     3 minutes. It wants lessons 11 and 13, and 14 to compare with; what it needs is made small, first.
// Measured     seeds 1 2 3 4 5, mean (lowest to highest): dpo_over_ppo 0.33 (0.26 to 0.45), dpo_winrate 0.67 (0.63 to
//              0.71)
// Next         22_chat.c: talk to any of them.
//
// Exercises
//   1. beta=0.01 and beta=1: how do margins, win rate and the length of answers change? What does beta pay for?
//   2. sft=0: what happens to the rewards of the better replies, and to the answers? Then length=0: which of the five
//      kinds of worse replies may teach a policy to talk?
//   3. The judge likes what it was taught to like. Read twenty pairs of answers (show=20): do you agree with it?
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

enum { B = 8, CHUNK = 64 };

// log pi(y|x) of each row: the sum over what the assistant says, its end token included. -> (rows)
static ag_tensor *log_likelihood(gpt_model *m, const stage_rows *r) {
    return ag_reshape(ag_sum_dim(gpt_logprobs(m, r->ids, r->mask, r->B, r->T, r->len), 1), r->B);
}

// The implicit reward: beta log(pi(y|x) / ref(y|x)). The reference is a constant.
static ag_tensor *implicit_reward(ag_tensor *policy, ag_tensor *reference, double beta) {
    return ag_scale(ag_sub(policy, ag_detach(reference)), beta);
}

// Rafailov et al. 2023, equation 7, over pairs of a better reply w and a worse one l:
// loss = -E log sigmoid(beta log(pi(w|x) / ref(w|x)) - beta log(pi(l|x) / ref(l|x))).
// policy, reference (2n): log-likelihoods of the n better ones, then of the n worse ones. reward (or NULL) gets (2n).
// given (2n) or NULL: what a reply is worth for its length alone. A policy that sees better replies which are longer by
// chance learns to talk; where their length already explains that they are better, it need not (Park et al. 2024,
// "Disentangling length from quality in direct preference optimization").
static ag_tensor *dpo_loss(ag_tensor *policy, ag_tensor *reference, double beta, ag_tensor *given, ag_tensor **reward) {
    ag_tensor *r = implicit_reward(policy, reference, beta);
    int n = r->shape[0] / 2;
    if (reward) *reward = r;
    if (given) r = ag_add(r, given);
    return ag_neg(ag_mean(ag_log_sigmoid(ag_sub(ag_slice(r, 0, 0, n), ag_slice(r, 0, n, n)))));
}

// What a step tells of itself: implicit rewards of better and worse replies, and how many pairs are right.
typedef struct told { double loss, better, worse, right; } told;

// loss is told without what length is given: ln 2 as long as the policy is the reference.
static told step_on(gpt_model *policy, gpt_model *reference, const pair *set, double beta, double length, double sft,
                    const gpt_optimizer *o, double factor, double *norm, double *tokens) {
    told t = {0, 0, 0, 0};
    ag_real r[2 * B], n[2 * B] = {0}, said = 0;
    stage_rows rows = pairs_batch(set, B);
    for (int b = 0; b < 2 * B; b++) for (int k = 0; k < rows.len[b]; k++) n[b] += (ag_real)rows.mask[b * rows.T + k];
    for (int b = 0; b < B; b++) said += n[b];
    int old = ag_no_grad(policy->ctx, 1);
    ag_tensor *before = log_likelihood(reference, &rows);
    ag_no_grad(policy->ctx, old);
    ag_tensor *now = log_likelihood(policy, &rows), *reward;
    t.loss = ag_item(dpo_loss(now, before, beta, NULL, NULL));
    ag_tensor *loss = dpo_loss(now, before, beta, ag_scale(ag_input(policy->ctx, n, 2 * B), length), &reward);
    // Pang et al. 2024: -log pi(w|x) a token, so that the better replies do not become less likely too
    ag_backward(ag_sub(loss, ag_scale(ag_sum(ag_slice(now, 0, 0, B)), sft / said)));
    ag_get(reward, r);
    for (int i = 0; i < B; i++) t.better += r[i] / B, t.worse += r[B + i] / B, t.right += (r[i] > r[B + i]) / (double)B;
    gpt_step(policy, o, factor, norm), ag_reset(policy->ctx);
    for (int b = 0; b < rows.B; b++) *tokens += rows.len[b];
    stage_rows_free(&rows);
    return t;
}

typedef struct answers { int n; char **said; ag_real *score; double length, prompt; } answers;

// One answer of `by` to each prompt, and what the judge says of it.
static answers answer(stage *by, const stage *judge, const stage_talk *prompts, int n, double temperature) {
    gpt_sampling how = {temperature, 0, 0, 0, NULL, 0};
    answers a = {n, NULL, NULL, 0, 0};
    a.said = (char **)lesson_alloc((size_t)n, sizeof *a.said);
    a.score = (ag_real *)lesson_alloc((size_t)n, sizeof *a.score);
    for (int i = 0; i < n; i += CHUNK) {
        int rows = n - i < CHUNK ? n - i : CHUNK;
        stage_rows r = stage_rollout(by, &how, prompts + i, rows, 1, PAIRS_CAP);
        pairs_judge(judge, &r, a.score + i, NULL);
        for (int b = 0; b < rows; b++) {
            a.said[i + b] = stage_said(by, &r, b);
            a.length += (double)(r.len[b] - r.prompt[b]) / n, a.prompt += (double)r.prompt[b] / n;
        }
        stage_rows_free(&r);
    }
    return a;
}

// The share of prompts where x has the better score; a tie is half a win.
static double win_rate(const answers *x, const answers *y) {
    double wins = 0;
    for (int i = 0; i < x->n; i++) wins += x->score[i] > y->score[i] ? 1 : x->score[i] == y->score[i] ? 0.5 : 0;
    return wins / x->n;
}

static void quote(const char *who, const answers *a, int i) {
    printf("%s (gold %+.2f): ", who, (double)a->score[i]), lesson_print_said(a->said[i]), printf("\n");
}

static void answers_free(answers *a) {
    for (int i = 0; i < a->n; i++) free(a->said[i]);
    free(a->said), free(a->score);
}

// Compute is counted in tokens that pass once through a model; learning counts three times, since the backward pass
// costs two. Here the policy learns from each token of a pair, and the reference reads it.
static double dpo_cost(const pair *set, int n) {
    double tokens = 0, drawn = 0;
    for (int i = 0; i < n; i++) {
        tokens += set[i].talk[0].n + set[i].talk[1].n;
        if (set[i].kind == PAIR_BASE_SAMPLE) drawn += set[i].talk[1].n;
    }
    return 4 * tokens + drawn;
}

// Lesson 14's run, from what its checkpoint notes: each of `rows` answers a step is drawn, read by the reference, the
// value head and the reward model, and learned from `epochs` times. Looking on is not counted. tokens: of a prompt and
// its answer.
static double ppo_cost(const gpt_state *state, double tokens) {
    char terms[512];
    const char *rows, *epochs;
    if (!gpt_note(state, "terms", terms, sizeof terms) || !(rows = strstr(terms, "rows=")) ||
        !(epochs = strstr(terms, "epochs="))) return 0;
    return (double)state->step * atof(rows + 5) * tokens * (4 + 3 * atof(epochs + 7));
}

int main(int argc, char **argv) {
    lesson_begin(argc, argv, "16", "direct preference optimisation");
    int n = lesson_int_in("pairs", 8000, B, 1000000, "pairs to learn from, each once, where equal=0");
    int few = lesson_int_in("gold", 6000, 16, 1000000, "pairs for the judge, where lesson 13's is missing");
    int n_held = lesson_int_in("held", 512, 8, 100000, "held-out prompts to answer");
    int show = lesson_int_in("show", 3, 0, 1000, "answers to print");
    double beta = lesson_float_in("beta", 0.1, 1e-6, 1e6, "price of a nat");
    double length = lesson_float("length", 0.1, "what each token of a reply is given");
    double sft = lesson_float("sft", 1, "weight of the better reply's own loss");
    double lr = lesson_float("lr", 6e-4, "peak learning rate");
    int equal = lesson_flag("equal", !lesson_given("pairs"),
                            "as many pairs as cost what lesson 14's run has cost, where that is there");
    int lora = lesson_int_in("lora", 0, 0, 192, "rank of adapters that learn in place of all else; 0: no adapters");
    double temperature = lesson_float("temperature", 1, "of the answers that are compared");
    int base = lesson_int_in("base_steps", 400, 1, 1000000, "of training, where lesson 11's model is missing");
    int seed = lesson_int("seed", 1, "of everything random");
    lesson_options_end(), lesson_must_save();

    ag_ctx *ag = ag_new((unsigned long long)seed);
    plays p = plays_read();
    plays_enough(&p);
    stage s = pairs_sft(ag, &p, base), policy = s;
    stage gold = pairs_reward(&s, &p, "gold", few, 202);
    gpt_model *reference = s.model;
    gpt_config small = reference->config;
    small.lora_rank = lora, small.lora_alpha = 2 * lora;
    policy.model = gpt_adapt(ag, reference, &small);
    gpt_freeze(reference), gpt_train(policy.model, 0);
    if (lora) printf("adapters of rank %d: %s numbers learn, of %s\n", lora,
                     lesson_commas((long long)(gpt_count(&small) - gpt_count(&reference->config))),
                     lesson_commas((long long)gpt_count(&small)));
    ag_rng rng = {(uint64_t)seed + 400, 0}, test = {(uint64_t)seed + 500, 0};

    // The others' answers to held-out prompts, before the training: what PPO has cost may say for how long it goes on.
    stage_talk *prompts = (stage_talk *)lesson_alloc((size_t)n_held, sizeof *prompts);
    for (int i = 0; i < n_held; i++) prompts[i] = pairs_prompt(&s, pairs_speech(&p, &test, 1));
    answers before = answer(&s, &gold, prompts, n_held, temperature), other = {0, NULL, NULL, 0, 0};
    const char *ppo = "out/14/model.safetensors";
    gpt_state ppo_state;
    stage its = stage_load_state(ag, ppo, "ppo", &ppo_state);
    double ppos = 0;
    if (its.model) {
        pairs_fit(&s, &its, ppo), gpt_freeze(its.model), gpt_train(its.model, 0);
        other = answer(&its, &gold, prompts, n_held, temperature);
        ppos = ppo_cost(&ppo_state, other.prompt + other.length);
    } else if (lesson_given("equal") && equal) lesson_fail("equal=1 wants %s, which lesson 14 makes", ppo);

    double start = lesson_seconds();
    if (equal && ppos > 0) {                                // what a pair costs, from some of them
        enum { SOME = 256 };
        pair *some = pairs_make(&s, &p, SOME, 0, 0, &rng);
        double pairs = SOME * ppos / dpo_cost(some, SOME);
        pairs_free(some, SOME);
        n = pairs < B ? B : pairs > 1e6 ? 1000000 : (int)pairs;
    }
    pair *set = pairs_make(&s, &p, n, 0, 0, &rng);

    lesson_csv csv = lesson_csv_open(lesson_path("log.csv"),
                                     LESSON_COLUMNS ",accuracy,margin,reward_better,reward_worse");
    gpt_optimizer o = gpt_adamw();
    o.lr = lr, o.weight_decay = 0, o.beta2 = 0.95;
    told mean = {0, 0, 0, 0};
    int total = n / B;
    double *better = (double *)lesson_alloc((size_t)(2 * total), sizeof *better), *worse = better + total, norm;
    for (int step = 0; step < total; step++) {
        stage_stop();
        double factor = gpt_lr_linear(step, 10, total, 0.5), was = lesson_seconds(), tokens = 0;
        told t = step_on(policy.model, reference, set + step * B, beta, length, sft, &o, factor, &norm, &tokens);
        double now = lesson_seconds(), speed = tokens / (now - was);
        double row[] = {step, t.loss, LESSON_NONE, lr * factor, norm, floor(speed), now - start,
                        t.right, t.better - t.worse, t.better, t.worse};
        lesson_csv_row(&csv, row, 11), better[step] = t.better, worse[step] = t.worse;
        mean.loss += t.loss / 20, mean.right += t.right / 20, mean.better += t.better / 20, mean.worse += t.worse / 20;
        if (step == 0) lesson_report("step    0: loss %.4f (ln 2: the policy is the reference)", t.loss);
        if (step % 20 == 19) {
            lesson_report("step %4d: loss %.3f, %.2f of the pairs right; implicit rewards %+.2f and %+.2f, margin %.2f",
                          step + 1, mean.loss, mean.right, mean.better, mean.worse, mean.better - mean.worse);
            memset(&mean, 0, sizeof mean);
        }
        lesson_progress(step + 1, total, t.loss, speed);
    }
    double seconds = lesson_seconds() - start;
    lesson_csv_close(&csv);
    if (lora) {                                             // what they have learned goes into the matrices
        gpt_model *adapted = policy.model;
        policy.model = gpt_adapt(ag, adapted, &reference->config), gpt_train(policy.model, 0), gpt_free(adapted);
    }
    stage_save(&policy, lesson_path("model.safetensors"), "dpo");

    answers after = answer(&policy, &gold, prompts, n_held, temperature);
    for (int i = 0; i < show && i < n_held; i++) {
        char *text = stage_string(&s, prompts[i].ids, prompts[i].n);
        printf("\n"), lesson_print_said(text), free(text);
        quote("the assistant", &before, i), quote("DPO", &after, i);
        if (its.model) quote("PPO", &other, i);
    }
    printf("\ntokens an answer: the assistant %.0f, DPO %.0f\n", before.length, after.length);
    printf("DPO: %d pairs, %.1f million tokens through a model, %s\n", n, dpo_cost(set, n) / 1e6,
           lesson_duration(seconds));
    if (its.model) {
        printf("PPO: %.1f million, and a reward model. Gold likes its answer better than the assistant's in %.2f of "
               "the prompts; it has %.0f tokens\n", ppos / 1e6, win_rate(&other, &before), other.length);
        if (equal) stage_result("dpo_over_ppo", win_rate(&after, &other));
        else printf("Gold likes DPO's answer better than PPO's in %.2f of the prompts\n", win_rate(&after, &other));
    } else printf("There is no %s to compare with (lesson 14 makes it).\n", ppo);
    stage_result("dpo_winrate", win_rate(&after, &before));

    plot *picture = plot_new("Implicit rewards", "step", "beta log(policy / reference)");
    plot_smooth(picture, "better replies", NULL, better, (size_t)total, 0.9);
    plot_smooth(picture, "worse replies", NULL, worse, (size_t)total, 0.9), plot_hline(picture, 0, "the reference");
    lesson_save(picture, "dpo.png"), plot_free(picture);
    lesson_written("dpo.png, log.csv, results.csv, model.safetensors");
    answers_free(&before), answers_free(&after), answers_free(&other), stage_free(&its), gpt_state_free(&ppo_state);
    for (int i = 0; i < n_held; i++) stage_talk_free(&prompts[i]);
    pairs_free(set, n), free(prompts), gpt_free(policy.model), stage_free(&gold), plays_free(&p), stage_free(&s);
    free(better), ag_free(ag);
    return lesson_end();
}
