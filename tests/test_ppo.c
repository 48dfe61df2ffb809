// Lesson 14's own functions, on a tiny model: losses and advantages against numbers computed by hand or by Python, what
// belongs to what, what learns and what does not, and a run that is stopped and goes on with the same bits.
#define main lesson_main
#include "../examples/14_ppo.c"
#undef main
#include "test.h"

// ---- numbers -------------------------------------------------------------------------------------------------------

static void ratios_are_clipped_on_the_side_that_pays(void) {
    enum { N = 7 };
    //                     inside       gains no more    must still be undone     tie at 1
    const double ratio[N] = {1.1, 0.9,    1.5,  0.5,      0.5,   1.5,              1};
    const ag_real adv[N] =  {2,  -2,      1,   -1,        1,    -1,                3};
    const double part[N] =  {2.2, -1.8,   1.2, -0.8,      0.5,  -1.5,              3};     // min(r A, clip(r) A)
    const double slope[N] = {2.2, -1.8,   0,    0,        0.5,  -1.5,              3};     // r A, or nothing
    ag_ctx *ag = ag_new(1);
    ag_real logs[N], old[N], d[N];
    double sum = 0, clipped;
    for (int i = 0; i < N; i++) {
        old[i] = (ag_real)(-0.3 * i - 1), logs[i] = (ag_real)(old[i] + log(ratio[i]));
        sum += part[i];
    }
    ag_tensor *logp = ag_param(ag, N), *before = ag_param(ag, N);
    ag_set(logp, logs), ag_set(before, old);
    ag_tensor *loss = policy_loss(logp, before, ag_input(ag, adv, N), 0.2, &clipped);
    CHECK_NEAR(ag_item(loss), -sum / N, 1e-6);
    CHECK_NEAR(clipped, 4.0 / N, 1e-6);
    ag_backward(loss);
    ag_get_grad(logp, d);
    for (int i = 0; i < N; i++) CHECK_NEAR(d[i], -slope[i] / N, 1e-6);
    ag_get_grad(before, d);
    for (int i = 0; i < N; i++) CHECK(d[i] == 0);               // what was is no matter of learning
    ag_free(ag);
}

static void values_are_pulled_to_what_was_paid(void) {
    ag_ctx *ag = ag_new(1);
    ag_real v[2] = {1, 3}, r[2] = {2, 5}, d[2];
    ag_tensor *value = ag_param(ag, 2), *ret = ag_param(ag, 2);
    ag_set(value, v), ag_set(ret, r);
    ag_tensor *loss = value_loss(value, ret);                   // ((1-2)^2 + (3-5)^2) / 2 / 2
    CHECK_NEAR(ag_item(loss), 1.25, 1e-6);
    ag_backward(loss);
    ag_get_grad(value, d);
    CHECK_NEAR(d[0], -0.5, 1e-6);
    CHECK_NEAR(d[1], -1, 1e-6);
    ag_get_grad(ret, d);
    CHECK(d[0] == 0 && d[1] == 0);
    ag_free(ag);
}

static void entropy_is_that_of_the_distribution(void) {
    ag_ctx *ag = ag_new(1);
    ag_real logits[8] = {5, 5, 5, 5, 0, (ag_real)1.0986122886681098, -200, -200};      // uniform; 1/4 and 3/4
    CHECK_NEAR(ag_item(entropy_of(ag_input(ag, logits, 2, 4))), (1.3862943611 + 0.5623351446) / 2, 1e-6);
    CHECK_NEAR(ag_item(entropy_of(ag_input(ag, logits, 1, 4))), 1.3862943611, 1e-6);
    ag_free(ag);
}

static void advantages_are_those_of_the_paper(void) {
    const ag_real r[3] = {0, 0, 1}, v[3] = {(ag_real)0.5, (ag_real)0.6, (ag_real)0.7};
    ag_real a[8], ret[8];
    // delta = 0.1, 0.1, 0.3; A_2 = 0.3, A_1 = 0.1 + 0.95 * 0.3, A_0 = 0.1 + 0.95 * 0.385
    gae(r, v, 3, 1, 0.95, a, ret);
    CHECK_NEAR(a[2], 0.3, 1e-6);
    CHECK_NEAR(a[1], 0.385, 1e-6);
    CHECK_NEAR(a[0], 0.46575, 1e-6);
    CHECK_NEAR(ret[0], 0.96575, 1e-6);
    CHECK_NEAR(ret[2], 1, 1e-6);
    gae(r, v, 3, 1, 0, a, ret);                                 // the value head is believed: A = delta
    CHECK_NEAR(a[0], 0.1, 1e-6);
    gae(r, v, 3, 1, 1, a, ret);                                 // only what was paid: A = sum of rewards - V
    CHECK_NEAR(a[0], 0.5, 1e-6);
    CHECK_NEAR(ret[1], 1, 1e-6);
    // torch 1.13, float64, by the paper's equation 16, a sum over all that follows and no recursion:
    //   r = tensor([.3,-.2,.5,0,1.25,-.75,.1,2]); v = tensor([.1,.4,-.3,.9,.2,-.6,.8,.5,0]); i = arange(8)
    //   (.72 ** (i - i[:, None])).triu() @ (r + .9 * v[1:] - v[:8])                  with gamma .9, lambda .8
    const ag_real r8[8] = {(ag_real)0.3, (ag_real)-0.2, (ag_real)0.5, 0, (ag_real)1.25, (ag_real)-0.75,
                           (ag_real)0.1, 2};
    const ag_real v8[8] = {(ag_real)0.1, (ag_real)0.4, (ag_real)-0.3, (ag_real)0.9, (ag_real)0.2, (ag_real)-0.6,
                           (ag_real)0.8, (ag_real)0.5};
    const double want[8] = {0.86246309, 0.42008762, 1.79178836, 0.25248384,
                            1.35067200, 1.16760000, 0.83000000, 1.50000000};
    gae(r8, v8, 8, 0.9, 0.8, a, ret);
    for (int t = 0; t < 8; t++) CHECK_NEAR(a[t], want[t], 1e-6);
    for (int t = 0; t < 8; t++) CHECK_NEAR(ret[t], want[t] + v8[t], 1e-6);
}

static void both_estimators_estimate_kl(void) {
    const double p[4] = {0.5, 0.25, 0.2, 0.05}, q[4] = {0.1, 0.3, 0.2, 0.4};
    double kl = 0, first = 0, third = 0;
    for (int i = 0; i < 4; i++) {
        double d = log(p[i] / q[i]);
        kl += p[i] * d, first += p[i] * k1(d), third += p[i] * k3(d);
        CHECK(k3(d) >= 0);
    }
    CHECK_NEAR(first, kl, 1e-12);                               // right on average, both of them
    CHECK_NEAR(third, kl, 1e-12);
    CHECK(k1(0) == 0 && k3(0) == 0 && k1(-0.5) == -0.5);
    CHECK_NEAR(k3(log(2)), 0.5 - 1 + log(2), 1e-12);            // q/p = 1/2
    CHECK_NEAR(k3(-log(2)), 2 - 1 - log(2), 1e-12);             // q/p = 2
}

static void the_price_follows_kl(void) {
    CHECK_NEAR(adapt(0.5, 6.6, 6), 0.5 * 1.05, 1e-12);          // 10 percent too far: 5 percent more
    CHECK_NEAR(adapt(0.5, 5.4, 6), 0.5 * 0.95, 1e-12);
    CHECK_NEAR(adapt(0.5, 60, 6), 0.5 * 1.1, 1e-12);            // never more than 10 percent
    CHECK_NEAR(adapt(0.5, 0, 6), 0.5 * 0.9, 1e-12);
    CHECK(adapt(0.5, 6, 6) == 0.5 && adapt(0, 60, 6) == 0);
}

static void explained_variance_is_a_share(void) {
    const ag_real ret[4] = {1, 2, 3, 6}, half[4] = {0, 1, 2, 3}, mean[4] = {3, 3, 3, 3}, wrong[4] = {6, 3, 2, 1};
    CHECK_NEAR(explained_variance(ret, ret, 4), 1, 1e-12);
    CHECK_NEAR(explained_variance(mean, ret, 4), 0, 1e-12);
    CHECK_NEAR(explained_variance(half, ret, 4), 1 - 0.75 / 3.5, 1e-6);     // errors 1 1 1 3: variance 0.75, of 3.5
    CHECK(explained_variance(wrong, ret, 4) < -1);
    CHECK(isnan(explained_variance(ret, mean, 4)));
}

// ---- what belongs to what ------------------------------------------------------------------------------------------

// Two rows by hand: a prompt of 2 and an answer of 3 that ends in 9; a prompt of 3 and an answer of 2 without an end.
static stage_rows by_hand(void) {
    static const int ids[2][5] = {{4, 5, 6, 7, 9}, {4, 8, 5, 6, 7}};
    stage_rows r;
    r.B = 2, r.T = 5;
    r.ids = (int *)lesson_alloc(2 * 5 + 6, sizeof *r.ids), r.len = r.ids + 10, r.prompt = r.len + 2;
    r.ended = r.prompt + 2, r.mask = (unsigned char *)lesson_alloc(10, 1);
    r.logprobs = (ag_real *)lesson_alloc(10, sizeof *r.logprobs);
    memcpy(r.ids, ids, sizeof ids);
    r.len[0] = r.len[1] = 5, r.prompt[0] = 2, r.prompt[1] = 3, r.ended[0] = 1;
    for (int b = 0; b < 2; b++)
        for (int t = r.prompt[b]; t < 5; t++)
            r.mask[b * 5 + t] = 1, r.logprobs[b * 5 + t - 1] = (ag_real)(-1 - t - 10 * b);
    return r;
}

static void actions_are_what_the_policy_said(void) {
    batch x = batch_of(by_hand());
    CHECK_INT(x.n, 5);
    CHECK(x.first[0] == 0 && x.first[1] == 3 && x.first[2] == 5);
    const double old[5] = {-3, -4, -5, -14, -15};
    for (int i = 0; i < 5; i++) CHECK(x.old[i] == (ag_real)old[i]);
    ag_ctx *ag = ag_new(1);
    gpt_config c = gpt_preset("nano-llama");
    c.n_vocab = 10, c.n_layer = 1, c.n_head = c.n_kv_head = 1, c.n_embd = 8, c.n_ctx = 8, c.n_hidden = 8;
    gpt_model *m = gpt_new(ag, &c);
    int rows[2] = {1, 0}, token[5], which[5], k;
    const int said[5] = {6, 7, 6, 7, 9}, place[5] = {3, 4, 0, 1, 2};
    ag_real some[5 * 8], all[10 * 8];
    ag_get(states(m, &x, rows, 2, token, which, &k), some);
    ag_get(gpt_trunk(m, x.r.ids, 2, x.r.T, x.r.len), all);
    CHECK_INT(k, 5);
    for (int i = 0; i < 5; i++) {                               // the stop token is among them, no prompt is
        const int from[5] = {5 + 2, 5 + 3, 1, 2, 3};            // where token t+1 is chosen: t
        CHECK(token[i] == said[i] && which[i] == place[i]);
        CHECK(!memcmp(some + i * 8, all + from[i] * 8, 8 * sizeof *some));
    }
    ag_real pick[5], values[5] = {10, 11, 12, 13, 14};
    ag_get(picked(ag, values, which, k), pick);
    for (int i = 0; i < 5; i++) CHECK(pick[i] == 10 + place[i]);
    CHECK_NEAR(distinct2(&x), 2.0 / 3, 1e-12);                  // 6 7 twice, and 7 9
    c.scalar = 1;
    gpt_model *reward = gpt_adapt(ag, m, &c);
    int closed[6] = {4, 8, 5, 6, 7, 9};
    ag_real score[2], want, first;
    ag_randn(reward->score, 1);
    stage judge = stage_new(ag);
    judge.model = reward, bpe_chars(judge.tokens, "abcdefghi", 9), bpe_add_special(judge.tokens, "<|im_end|>", -1);
    pairs_judge(&judge, &x.r, score, NULL);                         // the second answer is read with the end it lacks
    const int six = 6, five = 5;
    const unsigned char second[6] = {0, 0, 0, 1, 1, 1};
    ag_get(stage_score(reward, closed, second, 1, 6, &six, NULL), &want);
    ag_get(stage_score(reward, x.r.ids, x.r.mask, 1, 5, &five, NULL), &first);
    CHECK_NEAR(score[1], want, 1e-6);
    CHECK_NEAR(score[0], first, 1e-6);                          // the first one as it is
    CHECK(fabs((double)(score[0] - score[1])) > 1e-3);
    stage_free(&judge), gpt_free(m), ag_free(ag), batch_free(&x);
}

static void each_answer_is_paid_its_own(void) {
    batch x = batch_of(by_hand());
    for (int i = 0; i < x.n; i++) x.ref[i] = x.old[i] - (ag_real)0.25 * (ag_real)(i + 1);     // likelier than it was
    x.score[0] = 100, x.score[1] = -200;
    pay(&x, 0.5);
    const double want[5] = {-0.125, -0.25, 100 - 0.375, -0.5, -200 - 0.625};
    for (int i = 0; i < x.n; i++) CHECK_NEAR(x.reward[i], want[i], 1e-4);
    CHECK_NEAR(kl_of(&x, k1), 0.25 * (1 + 2 + 3 + 4 + 5) / 2, 1e-5);
    for (int i = 0; i < x.n; i++) x.value[i] = (ag_real)i;
    advantages(&x, 0.95);
    ag_real a[3], ret[3];
    gae(x.reward, x.value, 3, 1, 0.95, a, ret);                 // the first row ends where the second begins
    for (int i = 0; i < 3; i++) CHECK(x.ret[i] == ret[i]);
    CHECK_NEAR(x.ret[4], x.reward[4], 1e-4);
    scale s = scale_of(x.advantage, x.n);
    CHECK_NEAR(s.mean, 0, 1e-6);
    CHECK_NEAR(s.std, 1, 1e-6);
    CHECK(x.advantage[0] > 0 && x.advantage[4] < 0);
    batch_free(&x);
}

// ---- a world that is small enough to learn in a second -------------------------------------------------------------

static gpt_model *judge_of(ag_ctx *ag, gpt_model *from) {
    gpt_config c = from->config;
    c.scalar = 1;
    gpt_model *m = gpt_adapt(ag, from, &c);
    ag_randn(m->score, (ag_real)0.5), gpt_freeze(m), gpt_train(m, 0);
    return m;
}

// Speeches of our own: reading the real ones takes longer than all these tests.
static plays some_plays(char *text, size_t size) {
    static const char *const names[] = {"ANNE", "BRUNO", "CLARA"};
    static const char *const spoken[] = {"the",  "sea",  "is",  "cold", "and", "ships",
                                         "will", "sail", "for", "thee", "my",  "love"};
    plays p;
    memset(&p, 0, sizeof p);
    p.speech = (speech *)lesson_alloc(90, sizeof *p.speech), p.n = 90, p.n_train = 60;
    ag_rng rng = {11, 0};
    size_t used = 0;
    for (int i = 0; i < p.n; i++) {
        snprintf(p.speech[i].name, sizeof p.speech[i].name, "%s", names[plays_below(&rng, 3)]);
        for (int k = 6 + plays_below(&rng, 4); k; k--)
            strcat(strcat(p.speech[i].text, spoken[plays_below(&rng, 12)]), k > 1 ? " " : ".");
        playsi_line(p.speech[i].first, sizeof p.speech[i].first, p.speech[i].text);
        if (used + 260 < size)
            used += (size_t)snprintf(text + used, 260, "%s:\n%s\n\n", p.speech[i].name, p.speech[i].text);
    }
    return p;
}

static world small(const settings *o) {
    world w;
    char text[8000] = "";
    memset(&w, 0, sizeof w);
    ag_ctx *ag = ag_new(1);
    w.plays = some_plays(text, sizeof text);
    w.policy = stage_new(ag);
    bpe_train(w.policy.tokens, text, strlen(text), 320, BPE_SPLIT_GPT2);
    gpt_config c = gpt_preset("nano-llama");
    c.n_vocab = bpe_vocab_size(w.policy.tokens), c.n_layer = 1, c.n_head = c.n_kv_head = 2, c.n_embd = 16;
    c.n_ctx = 160, c.n_hidden = 24;
    w.policy.model = gpt_new(ag, &c), stage_chat(&w.policy), gpt_train(w.policy.model, 0);
    gpt_param p;
    for (int i = 0; gpt_param_at(&w.policy.model->config, i, &p); i++) {    // no model of zeros and ones
        ag_tensor *t = gpt_tensor(w.policy.model, p.name);
        if (t->ndim == 2) ag_randn(t, (ag_real)0.3);
    }
    w.reference = w.policy.model;
    w.reward = w.gold = w.policy, w.reward.model = judge_of(ag, w.reference), w.gold.model = judge_of(ag, w.reference);
    w.by_reward.std = w.by_gold.std = w.paid.std = 1;
    ag_rng some = {7, 0};
    w.held = requests(&w.policy, &w.plays, &some, 1, o->held, o->longest);
    return w;
}

static void end(world *w, const settings *o) {
    ag_ctx *ag = w->policy.ag;
    for (int i = 0; i < o->held; i++) stage_talk_free(&w->held[i]);
    if (w->policy.model != w->reference) gpt_free(w->policy.model);
    gpt_free(w->reference), gpt_free(w->reward.model), gpt_free(w->gold.model), bpe_free(w->policy.tokens);
    free(w->held), free(w->curve), free(w->old_log), plays_free(&w->plays), ag_free(ag);
}

static settings quick(void) {
    settings o;
    memset(&o, 0, sizeof o);
    o.steps = 4, o.rows = 6, o.minibatch = 4, o.epochs = 2, o.cap = 8, o.longest = 100;
    o.every = 2, o.held = 4, o.seed = 3;
    o.lr = 3e-3, o.free_lr = 4e-3, o.clip = 0.2, o.lambda = 0.95, o.value = 0.1, o.entropy = 0.01;
    o.beta = 0.3, o.target = 1e-4, o.limit = 100;
    return o;
}

static double difference(ag_tensor *a, ag_tensor *b) {          // greatest, of two parameters
    ag_real *x = (ag_real *)lesson_alloc(2 * a->count, sizeof *x), *y = x + a->count;
    double most = a->count == b->count ? 0 : HUGE_VAL;
    ag_get(a, x), ag_get(b, y);
    for (size_t i = 0; i < a->count; i++) if (fabs((double)x[i] - y[i]) > most) most = fabs((double)x[i] - y[i]);
    free(x);
    return most;
}

static void nothing_has_changed_at_the_first_step(void) {
    settings o = quick();
    world w = small(&o);
    begin(&w, &o, PENALTY);
    batch x = collect(&w, &o);
    ag_ctx *ag = w.policy.ag;
    CHECK(x.n > o.rows);
    CHECK(!memcmp(x.old, x.ref, (size_t)x.n * sizeof *x.old));  // the policy is the reference, to the last bit
    CHECK(kl_of(&x, k1) == 0 && kl_of(&x, k3) == 0);
    for (int i = 0; i < x.n; i++) CHECK(x.value[i] == x.guess[i]);      // the head adds nothing yet
    int rows[6] = {4, 1, 5, 0, 3, 2}, k;
    int *token = (int *)lesson_alloc((size_t)(2 * x.n), sizeof *token), *which = token + x.n;
    gpt_model *m = w.policy.model;
    ag_tensor *logp = ag_neg(ag_nll(gpt_head(m, states(m, &x, rows, 6, token, which, &k)), token));
    ag_tensor *old = picked(ag, x.old, which, k), *ratio = ag_exp(ag_sub(logp, old));
    ag_real *r = (ag_real *)lesson_alloc((size_t)x.n, sizeof *r);
    ag_get(ratio, r);
    CHECK_INT(k, x.n);
    for (int i = 0; i < x.n; i++) CHECK(r[i] == 1);             // exactly, in another order and another padding
    double clipped;
    ag_tensor *loss = policy_loss(logp, old, picked(ag, x.advantage, which, k), 1e-9, &clipped);
    CHECK(clipped == 0);
    CHECK_NEAR(ag_item(loss), 0, 1e-6);                         // -mean of advantages whose mean is 0
    ag_reset(ag), free(r), free(token), batch_free(&x), end(&w, &o);
}

// Prompts whose rewards lie far apart, and answers that differ by 2: deviation sqrt(2).
static void gains_are_in_deviations_within_a_prompt(void) {
    const ag_real one[3] = {100, -50, 7}, other[3] = {102, -52, 9}, same[3] = {100, -50, 7};
    scale s = scale_within(one, other, 3);
    CHECK_NEAR(s.mean, 19, 1e-5); CHECK_NEAR(s.std, sqrt(2), 1e-9);
    s = scale_within(one, same, 3);
    CHECK(s.std > 0 && s.std < 1e-5);                           // nothing is divided by zero
}

// The value learns from the trunk, and the trunk does not learn from the value.
static void values_do_not_move_the_policy(void) {
    settings o = quick();
    world w = small(&o);
    begin(&w, &o, PENALTY);
    batch x = collect(&w, &o);
    gpt_model *m = w.policy.model;
    int rows[1] = {0}, k, *token = (int *)lesson_alloc((size_t)(2 * x.n), sizeof *token), *which = token + x.n;
    ag_tensor *h = states(m, &x, rows, 1, token, which, &k);
    ag_randn(m->score, (ag_real)0.5), ag_keep_grad(h);
    ag_real got[16], up[16 * 160], sum = 0, bent = 0;
    ag_tensor *guess = picked(m->ctx, x.guess, which, k);
    ag_backward(value_loss(value_of(m, h, guess), picked(m->ctx, x.reward, which, k)));
    ag_get_grad(m->score, got), ag_get_grad(h, up);
    for (int i = 0; i < 16; i++) sum += (ag_real)fabs(got[i]);
    for (int i = 0; i < k * 16; i++) bent += (ag_real)fabs(up[i]);
    CHECK(sum > 1e-3 && bent == 0);
    free(token), batch_free(&x), ag_reset(m->ctx), end(&w, &o);
}

static void each_answer_is_judged_alone(void) {
    settings o = quick();
    world w = small(&o);
    begin(&w, &o, PENALTY);
    w.paid.mean = 0.25, w.paid.std = 2;
    batch x = collect(&w, &o);
    ag_randn(w.policy.model->score, (ag_real)0.5), assess(w.policy.model, &x, NULL, x.value);
    for (int b = 0; b < o.rows; b++) {
        int n = x.r.len[b], *ids = x.r.ids + b * x.r.T, i = x.first[b], closed[161];
        unsigned char mask[161];
        ag_real y, v[160], lp[160], at[161];
        double sum = 0;
        ag_tensor *said, *none;
        memcpy(closed, ids, (size_t)n * sizeof *ids);
        int m = n + !x.r.ended[b];
        memcpy(mask, x.r.mask + b * x.r.T, (size_t)n);
        closed[m - 1] = bpe_special(w.policy.tokens, "<|im_end|>"), mask[m - 1] = 1;
        ag_get(stage_score(w.reward.model, closed, mask, 1, m, &m, &said), &y), ag_get(said, at);
        CHECK_NEAR(x.score[b], (y - 0.25) / 2, 1e-6);
        none = ag_zeros(w.policy.ag, n);
        ag_get(value_of(w.policy.model, ag_reshape(gpt_trunk(w.policy.model, ids, 1, n, NULL), n, 16), none), v);
        ag_get(gpt_logprobs(w.reference, ids, x.r.mask + b * x.r.T, 1, n, NULL), lp);
        for (int t = 0; t + 1 < n; t++) {
            if (!x.r.mask[b * x.r.T + t + 1]) continue;
            int before = i - x.first[b];                        // words of the answer that the judge has heard
            CHECK_NEAR(x.guess[i], sum / (before + 16), 1e-5);
            sum += (16 * at[t + 1] - 0.25) / 2;
            CHECK_NEAR(x.value[i], v[t] + x.guess[i], 1e-5);
            CHECK_NEAR(x.ref[i], lp[t], 1e-6);
            i++;
        }
        CHECK_INT(i, x.first[b + 1]);
        CHECK_NEAR(x.reward[i - 1], x.score[b], 1e-6);          // KL is 0 as yet
    }
    CHECK(fabs(x.score[0] - x.score[1]) > 1e-3);
    ag_reset(w.policy.ag), batch_free(&x), end(&w, &o);
}

static void only_the_policy_learns(void) {
    settings o = quick();
    world w = small(&o);
    gpt_model *then = gpt_adapt(w.policy.ag, w.reference, NULL), *reward = gpt_adapt(w.policy.ag, w.reward.model, NULL);
    gpt_freeze(then), gpt_freeze(reward);
    begin(&w, &o, PENALTY);
    gpt_param p;
    for (int step = 0; step < 2; step++) {
        batch x = collect(&w, &o);
        for (int i = 0; gpt_param_at(&w.reference->config, i, &p); i++) {
            ag_tensor *t = gpt_tensor(w.reference, p.name), *mine = gpt_tensor(w.policy.model, p.name);
            CHECK(!t->trainable && !t->has_grad && !mine->has_grad);        // collecting is not learning
        }
        if (step) CHECK(kl_of(&x, k3) > 0);
        update u = improve(&w, &o, &x, o.lr);
        CHECK(u.norm > 0 && u.entropy > 0 && u.entropy < log(w.reference->config.n_vocab));
        batch_free(&x);
    }
    for (int i = 0; gpt_param_at(&w.reference->config, i, &p); i++) {
        CHECK(difference(gpt_tensor(w.reference, p.name), gpt_tensor(then, p.name)) == 0);
        CHECK(difference(gpt_tensor(w.reward.model, p.name), gpt_tensor(reward, p.name)) == 0);
        CHECK(difference(gpt_tensor(w.policy.model, p.name), gpt_tensor(then, p.name)) > 0);
    }
    CHECK(difference(w.reward.model->score, reward->score) == 0);
    CHECK(difference(w.policy.model->score, reward->score) > 0);
    gpt_free(then), gpt_free(reward), end(&w, &o);
}

static void what_was_better_than_expected_becomes_likelier(void) {
    settings o = quick();
    world w = small(&o);
    o.epochs = 4, o.entropy = 0;
    begin(&w, &o, PENALTY);
    batch x = collect(&w, &o);
    double sum[2] = {0, 0};
    ag_real *now = (ag_real *)lesson_alloc((size_t)x.n, sizeof *now);
    for (int i = 0; i < x.n; i++) x.advantage[i] = i < x.first[3] ? 1 : -1, x.ret[i] = 2 + x.guess[i];
    improve(&w, &o, &x, o.lr);
    assess(w.policy.model, &x, now, x.value);
    for (int i = 0; i < x.n; i++) x.value[i] -= x.guess[i];
    for (int i = 0; i < x.n; i++) sum[i >= x.first[3]] += now[i] - x.old[i];
    CHECK(sum[0] > 0.1 && sum[1] < -0.1);
    CHECK(scale_of(x.value, x.n).mean > 0.01);                  // the value head has begun to expect 2
    free(now), batch_free(&x), end(&w, &o);
}

// ---- stop and go on ------------------------------------------------------------------------------------------------

static char path[4][80];

static void log_to(world *w, int i) { w->log = lesson_csv_open(path[i], COLUMNS); }

// 4 steps at once, or 2, and 2 more by a program that starts anew: the files must be the same, byte for byte.
static void a_run_that_was_stopped_goes_on_with_the_same_bits(void) {
    for (int i = 0; i < 4; i++) snprintf(path[i], sizeof path[i], "build/test_ppo_%d.%d", (int)getpid(), i);
    for (int run = PENALTY; run <= FREE; run++) {
        settings o = quick();
        world a = small(&o);
        log_to(&a, 2);
        CHECK_INT(train(&a, &o, run, 4, path[0], 0), 1);
        lesson_csv_close(&a.log);
        double price = a.beta;
        world b = small(&o);
        log_to(&b, 3), train(&b, &o, run, 2, path[1], 0), lesson_csv_close(&b.log), end(&b, &o);
        size_t n[2];
        b = small(&o), b.old_log = (char *)lesson_file(path[3], n);
        ag_stream(b.policy.ag, AG_RNG_SAMPLE)->counter = 77;    // of another program, at another place
        log_to(&b, 3), train(&b, &o, run, 4, path[1], 1), lesson_csv_close(&b.log);
        unsigned char *x = lesson_file(path[0], &n[0]), *y = lesson_file(path[1], &n[1]);
        CHECK(n[0] == n[1] && !memcmp(x, y, n[0]));
        CHECK(b.beta == price && (run == FREE ? price == 0 : price > o.beta));
        CHECK_INT(a.points, 3);                                 // after 0, 2 and 4 steps
        CHECK_INT(b.points, 3);
        for (int i = 0; i < 3 && i < b.points; i++) {
            CHECK(a.curve[i].step == 2 * i && b.curve[i].step == 2 * i && b.curve[i].run == run);
            CHECK_NEAR(b.curve[i].l.gold, a.curve[i].l.gold, 1e-7);
            CHECK_NEAR(b.curve[i].l.kl, a.curve[i].l.kl, 1e-7);
        }
        CHECK(a.curve[0].l.kl == 0 && a.curve[2].l.k3 > 0);
        free(x), free(y), x = lesson_file(path[2], n);
        char row[16];
        double rate = 0;
        snprintf(row, sizeof row, "\n%d,3,", run);
        char *last = strstr((char *)x, row);
        CHECK(last && sscanf(last + strlen(row), "%*f,,%lf", &rate) == 1);
        CHECK_NEAR(rate, run == FREE ? o.free_lr : o.lr * gpt_lr_linear(3, 0, 4, 0.7), 1e-9);
        free(x), end(&a, &o), end(&b, &o);
    }
    for (int i = 0; i < 4; i++) remove(path[i]);
}

static void it_ends_where_kl_passes_its_limit(void) {
    snprintf(path[0], sizeof path[0], "build/test_ppo_%d", (int)getpid());
    snprintf(path[1], sizeof path[1], "build/test_ppo_%d.csv", (int)getpid());
    settings o = quick();
    o.limit = 1e-6, o.every = 1, o.steps = 50;
    world w = small(&o);
    log_to(&w, 1);
    CHECK_INT(train(&w, &o, PENALTY, o.steps, path[0], 0), 1);
    lesson_csv_close(&w.log);
    CHECK(w.points < 50);
    const point *last = last_of(&w, PENALTY, o.limit);
    CHECK(last && last->l.kl <= o.limit && w.curve[w.points - 1].l.kl > o.limit);
    gpt_state state;
    memset(&state, 0, sizeof state);
    gpt_model *kept = gpt_load(w.policy.ag, path[0], &state);   // the file is the policy of the look before
    CHECK(last && state.step == last->step);
    gpt_free(kept), gpt_state_free(&state), end(&w, &o);
    remove(path[0]), remove(path[1]);
}

static void looking_changes_nothing(void) {
    settings o = quick();
    world w = small(&o);
    begin(&w, &o, PENALTY);
    ag_rng before[AG_RNG_COUNT];
    for (int i = 0; i < AG_RNG_COUNT; i++) before[i] = *ag_stream(w.policy.ag, i);
    look a = look_at(&w, &w.policy, &o), b = look_at(&w, &w.policy, &o);
    for (int i = 0; i < AG_RNG_COUNT; i++) CHECK(!memcmp(&before[i], ag_stream(w.policy.ag, i), sizeof before[i]));
    CHECK(a.reward == b.reward && a.gold == b.gold && a.gold != a.reward && a.kl == 0);
    CHECK_STR(a.said[1], b.said[1]);
    end(&w, &o);
}

int main(int argc, char **argv) {
    T_BEGIN("test_ppo");
    T_RUN(ratios_are_clipped_on_the_side_that_pays);
    T_RUN(values_are_pulled_to_what_was_paid);
    T_RUN(entropy_is_that_of_the_distribution);
    T_RUN(advantages_are_those_of_the_paper);
    T_RUN(both_estimators_estimate_kl);
    T_RUN(the_price_follows_kl);
    T_RUN(explained_variance_is_a_share);
    T_RUN(actions_are_what_the_policy_said);
    T_RUN(each_answer_is_paid_its_own);
    T_RUN(nothing_has_changed_at_the_first_step);
    T_RUN(gains_are_in_deviations_within_a_prompt), T_RUN(values_do_not_move_the_policy);
    T_RUN(each_answer_is_judged_alone);
    T_RUN(only_the_policy_learns);
    T_RUN(what_was_better_than_expected_becomes_likelier);
    T_RUN(a_run_that_was_stopped_goes_on_with_the_same_bits);
    T_RUN(it_ends_where_kl_passes_its_limit);
    T_RUN(looking_changes_nothing);
    return T_END();
}
