// examples/16_dpo.c: its loss against PyTorch and by hand, the reference that stays as it is, and whose log-probability
// counts.
#define main lesson_main
#include "../examples/16_dpo.c"
#undef main
#include "test.h"

static ag_ctx *ag;
static stage tiny;

// A model of two small blocks, all weights away from their start, and a tokenizer of letters.
static void begin(int scalar) {
    const char *text = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ .,:?!'\n";
    gpt_param p;
    ag = ag_new(3), tiny = stage_new(ag);
    bpe_chars(tiny.tokens, text, strlen(text));
    gpt_config c = gpt_preset("nano-llama");
    c.n_vocab = bpe_vocab_size(tiny.tokens), c.n_layer = 2, c.n_head = c.n_kv_head = 2, c.n_embd = 16, c.n_hidden = 24;
    c.n_ctx = 128, c.scalar = scalar;
    tiny.model = gpt_new(ag, &c);
    stage_chat(&tiny), gpt_train(tiny.model, 0);
    for (int i = 0; gpt_param_at(&tiny.model->config, i, &p); i++) {
        ag_tensor *t = gpt_tensor(tiny.model, p.name);
        ag_real *v = (ag_real *)malloc(t->count * sizeof *v);
        ag_get(t, v);
        for (size_t k = 0; k < t->count; k++) v[k] += (ag_real)(0.2 * ag_rng_normal(ag_stream(ag, AG_RNG_INIT)));
        ag_set(t, v), free(v);
    }
}
static void end(void) { stage_free(&tiny), ag_free(ag); }

static stage_talk talk(const char *asked, const char *reply) {
    gpt_message say = {GPT_USER, asked, 0};
    int n, *ids = stage_ids(&tiny, reply, &n);
    stage_talk t = pairs_join(&tiny, stage_render(&tiny, &say, 1, 1), ids, n);
    free(ids);
    return t;
}

static pair *some_pairs(void) {
    static const char *const asked[] = {"who?", "Speak.", "Answer: no"};
    static const char *const better[] = {"thou art", "good", "My lord,\nI go"};
    static const char *const worse[] = {"art", "dogo zz", "lord"};
    pair *set = (pair *)lesson_alloc(B, sizeof *set);
    for (int i = 0; i < B; i++)
        set[i].talk[0] = talk(asked[i % 3], better[i % 3]), set[i].talk[1] = talk(asked[i % 3], worse[i % 3]);
    return set;
}

// torch 1.13, float64: p = tensor([-10, -12, -11, -15]), r = tensor([-11, -12.5, -10, -13]); w = beta * (p - r);
// loss = -logsigmoid(w[:2] - w[2:]).mean(); loss.backward(). By hand for beta 0.1: the differences are 0.2 and 0.25,
// the loss (log(1 + e^-0.2) + log(1 + e^-0.25)) / 2.
static void loss_and_gradient_are_pytorchs(void) {
    static const ag_real p[] = {-10, -12, -11, -15}, r[] = {-11, -12.5f, -10, -13};
    static const double beta[] = {0.1, 0.5}, loss[] = {0.5870391446302177, 0.2825953844317979};
    static const double reward[2][4] = {{0.1, 0.05, -0.1, -0.2}, {0.5, 0.25, -0.5, -1.0}};
    static const double slope[2][4] = {{-0.022508300134376106, -0.021891174955710094, 0.022508300134376106,
                                        0.021891174955710094},
                                       {-0.06723535534249878, -0.05567503470632721, 0.06723535534249878,
                                        0.05567503470632721}};
    CHECK_NEAR((log1p(exp(-0.2)) + log1p(exp(-0.25))) / 2, loss[0], 1e-15);
    for (int k = 0; k < 2; k++) {
        ag_ctx *c = ag_new(1);
        ag_tensor *policy = ag_param(c, 4), *reference = ag_param(c, 4), *rewards;
        ag_real got[4];
        ag_set(policy, p), ag_set(reference, r);
        ag_tensor *l = dpo_loss(policy, reference, beta[k], NULL, &rewards);
        CHECK_NEAR(ag_item(l), loss[k], 2e-7);
        ag_get(rewards, got);
        for (int i = 0; i < 4; i++) CHECK_NEAR(got[i], reward[k][i], 1e-6);
        ag_backward(l), ag_get_grad(policy, got);
        for (int i = 0; i < 4; i++) CHECK_NEAR(got[i], slope[k][i], 2e-8);
        ag_get_grad(reference, got);
        for (int i = 0; i < 4; i++) CHECK(got[i] == 0);             // a constant: no gradient
        ag_free(c);
    }
}

// Two pairs, the first with the longer reply on the better side: what length is given comes to the margin, by hand.
static void length_may_be_the_reason(void) {
    static const ag_real p[] = {-10, -12, -11, -15}, r[] = {-11, -12.5f, -10, -13}, given[] = {2, 0.5f, 0.5f, 1};
    ag_ctx *c = ag_new(1);
    ag_tensor *policy = ag_param(c, 4), *reference = ag_param(c, 4), *rewards;
    ag_real got[4];
    ag_set(policy, p), ag_set(reference, r);
    ag_tensor *l = dpo_loss(policy, reference, 0.1, ag_input(c, given, 4), &rewards);
    CHECK_NEAR(ag_item(l), (log1p(exp(-(0.2 + 1.5))) + log1p(exp(-(0.25 - 0.5)))) / 2, 2e-7);
    ag_get(rewards, got);
    CHECK_NEAR(got[0], 0.1, 1e-6); CHECK_NEAR(got[3], -0.2, 1e-6);      // told without it
    ag_backward(l), ag_get_grad(policy, got);
    CHECK_NEAR(got[0], -0.05 / (1 + exp(1.7)), 1e-7); CHECK_NEAR(got[1], -0.05 / (1 + exp(-0.25)), 1e-7);
    ag_free(c);
}

static void far_apart_is_finite(void) {
    static const ag_real far[] = {-900, -1, -1, -900}, zero[4] = {0};
    ag_ctx *c = ag_new(1);
    ag_tensor *policy = ag_param(c, 4), *reference = ag_param(c, 4);
    ag_real got[4];
    ag_set(policy, far), ag_set(reference, zero);
    ag_tensor *l = dpo_loss(policy, reference, 1, NULL, NULL);
    CHECK_NEAR(ag_item(l), 899.0 / 2, 1e-3);                        // one pair wrong by 899, one right by as much
    ag_backward(l), ag_get_grad(policy, got);
    CHECK_NEAR(got[0], -0.5, 1e-6); CHECK_NEAR(got[2], 0.5, 1e-6); CHECK_NEAR(got[1], 0, 1e-6);
    ag_free(c);
}

// The policy begins as the reference: no implicit reward, and ln 2.
static void begins_at_ln_2(void) {
    begin(0);
    pair *set = some_pairs();
    gpt_model *policy = gpt_adapt(ag, tiny.model, NULL);
    stage_rows r = pairs_batch(set, B);
    ag_tensor *rewards, *l = dpo_loss(log_likelihood(policy, &r), log_likelihood(tiny.model, &r), 0.1, NULL, &rewards);
    ag_real got[2 * B];
    ag_get(rewards, got);
    for (int i = 0; i < 2 * B; i++) CHECK(got[i] == 0);
    CHECK_NEAR(ag_item(l), log(2), 6e-8);
    stage_rows_free(&r), pairs_free(set, B), gpt_free(policy), end();
}

// Not even where the reference could learn.
static void the_reference_gets_no_gradient(void) {
    begin(0);
    pair *set = some_pairs();
    gpt_model *policy = gpt_adapt(ag, tiny.model, NULL);
    stage_rows r = pairs_batch(set, B);
    gpt_param p;
    ag_backward(dpo_loss(log_likelihood(policy, &r), log_likelihood(tiny.model, &r), 0.1, NULL, NULL));
    double of_policy = 0;
    for (int i = 0; gpt_param_at(&tiny.model->config, i, &p); i++) {
        ag_tensor *t[2] = {gpt_tensor(tiny.model, p.name), gpt_tensor(policy, p.name)};
        ag_real *v = (ag_real *)malloc(t[0]->count * sizeof *v);
        ag_get_grad(t[0], v);
        for (size_t k = 0; k < t[0]->count; k++) if (v[k] != 0) { T_FAIL("%s has a gradient", p.name); break; }
        ag_get_grad(t[1], v);
        for (size_t k = 0; k < t[1]->count; k++) of_policy += fabs((double)v[k]);
        free(v);
    }
    CHECK(of_policy > 1e-3);
    stage_rows_free(&r), pairs_free(set, B), gpt_free(policy), end();
}

// log pi(y|x): one token after the other, each row alone and unpadded, from the softmax of the full forward pass.
static void likelihood_counts_the_reply_only(void) {
    begin(0);
    pair *set = some_pairs();
    stage_rows r = pairs_batch(set, B);
    ag_real got[2 * B];
    ag_get(log_likelihood(tiny.model, &r), got);
    int V = tiny.model->config.n_vocab;
    for (int i = 0; i < 2 * B; i++) {
        const stage_talk *t = &set[i % B].talk[i / B];
        ag_real *logits = (ag_real *)malloc((size_t)(t->n * V) * sizeof *logits);
        ag_get(gpt_forward(tiny.model, t->ids, 1, t->n), logits);
        double want = 0;
        int counted = 0;
        for (int k = 1; k < t->n; k++) {
            double sum = 0;
            const ag_real *x = logits + (k - 1) * V;
            if (!t->mask[k]) continue;
            for (int v = 0; v < V; v++) sum += exp((double)x[v]);
            want += (double)x[t->ids[k]] - log(sum), counted++;
        }
        CHECK(counted >= 2 && counted < t->n - 5);
        CHECK(t->ids[t->n - 1] == bpe_special(tiny.tokens, "<|im_end|>") && t->mask[t->n - 1]);
        CHECK_NEAR(got[i], want, 1e-3);
        free(logits);
    }
    stage_rows_free(&r), pairs_free(set, B), end();
}

// A few steps: the better replies get more, the worse ones less, and the reference is still what it was.
static void steps_prefer_the_better_ones(void) {
    begin(0);
    pair *set = some_pairs();
    gpt_model *policy = gpt_adapt(ag, tiny.model, NULL);
    gpt_freeze(tiny.model), gpt_train(policy, 0);
    gpt_optimizer o = gpt_adamw();
    o.lr = 1e-2, o.weight_decay = 0;
    stage_rows r = pairs_batch(set, B);
    ag_real was[2 * B], is[2 * B], ref[2 * B];
    double norm, tokens = 0, each = 0;
    ag_get(log_likelihood(tiny.model, &r), was), ag_reset(ag);
    told first = step_on(policy, tiny.model, set, 0.1, 0, 0, &o, 1, &norm, &tokens), last = first;
    for (int i = 0; i < 15; i++) last = step_on(policy, tiny.model, set, 0.1, 0, 0, &o, 1, &norm, &tokens);
    CHECK_NEAR(first.loss, log(2), 1e-6); CHECK(first.better == 0 && first.worse == 0);
    CHECK(last.loss < 0.5 && last.right == 1 && last.better > last.worse + 0.3);
    ag_get(log_likelihood(policy, &r), is), ag_get(log_likelihood(tiny.model, &r), ref);
    CHECK(!memcmp(was, ref, sizeof was));
    for (int i = 0; i < B; i++) CHECK(is[i] - was[i] > is[B + i] - was[B + i]);
    for (int i = 0; i < 2 * B; i++) each += set[i % B].talk[i / B].n;
    CHECK(tokens == 16 * each);
    stage_rows_free(&r), pairs_free(set, B), gpt_free(policy), end();
}

static void wins_are_counted(void) {
    ag_real x[] = {1, 2, 3, 4}, y[] = {0, 2, 5, 3};
    answers a = {4, NULL, x, 0, 0}, b = {4, NULL, y, 0, 0};
    CHECK_NEAR(win_rate(&a, &b), 2.5 / 4, 1e-12);
    CHECK_NEAR(win_rate(&b, &a), 1.5 / 4, 1e-12);
    CHECK_NEAR(win_rate(&a, &a), 0.5, 1e-12);
}

// Each answer's score is the judge's of that prompt and that answer, whatever stands beside it.
static void the_judge_reads_the_right_answer(void) {
    begin(1);
    static const char *const asked[] = {"who?", "Speak, good man.", "a", "Answer: no"};
    stage_talk prompt[4];
    for (int i = 0; i < 4; i++) {
        gpt_message say = {GPT_USER, asked[i], 0};
        prompt[i] = stage_render(&tiny, &say, 1, 1);
    }
    ag_rng *rng = ag_stream(ag, AG_RNG_SAMPLE), saved = *rng;
    answers a = answer(&tiny, &tiny, prompt, 4, 0);                        // greedy: the same again, one at a time
    for (int i = 0; i < 4; i++) {
        *rng = saved;
        answers one = answer(&tiny, &tiny, prompt + i, 1, 0);
        CHECK_STR(one.said[0], a.said[i]);
        CHECK_NEAR(one.score[0], a.score[i], 1e-5);
        for (int k = 0; k < i; k++) CHECK(a.score[k] != a.score[i]);
        answers_free(&one);
    }
    for (int i = 0; i < 4; i++) stage_talk_free(&prompt[i]);
    answers_free(&a), end();
}

// Two pairs of 10 + 12 and 10 + 7 tokens, the second with a sample: four passes each, and 7 drawn.
static void compute_is_counted(void) {
    pair set[2];
    memset(set, 0, sizeof set);
    set[0].kind = PAIR_SHUFFLED, set[0].talk[0].n = 10, set[0].talk[1].n = 12;
    set[1].kind = PAIR_BASE_SAMPLE, set[1].talk[0].n = 10, set[1].talk[1].n = 7;
    CHECK_NEAR(dpo_cost(set, 2), 4 * 39 + 7, 1e-9);
    char none[] = "stage=ppo\n";
    char notes[] = "stage=ppo\nterms=run=1 steps=90 rows=8 minibatch=4 epochs=3 lr=1; 0 0\nbeta=0.1\n";
    gpt_state state;
    memset(&state, 0, sizeof state);
    state.step = 5, state.notes = notes;
    CHECK_NEAR(ppo_cost(&state, 100), 5 * 8 * 100 * (1 + 1 + 1 + 1 + 3 * 3), 1e-9);
    state.notes = none;
    CHECK_NEAR(ppo_cost(&state, 100), 0, 0);
}

int main(int argc, char **argv) {
    T_BEGIN("dpo");
    T_RUN(loss_and_gradient_are_pytorchs), T_RUN(length_may_be_the_reason);
    T_RUN(far_apart_is_finite), T_RUN(begins_at_ln_2);
    T_RUN(the_reference_gets_no_gradient), T_RUN(likelihood_counts_the_reply_only), T_RUN(steps_prefer_the_better_ones);
    T_RUN(wins_are_counted), T_RUN(compute_is_counted), T_RUN(the_judge_reads_the_right_answer);
    return T_END();
}
