// Lesson 15's own functions: the code that checks answers, group advantages, the losses against numbers worked out by
// hand, pass@k against counting, and who gets which reward.
#define main lesson_main
#include "../examples/15_grpo.c"
#undef main
#include "test.h"

// ---- the code that checks -------------------------------------------------------------------------------------------
static const char plays_text[] = "What light through yonder window breaks?\nIt is the east, and Juliet is the sun.\n"
                                 "'Tis the king's man; O, to-day I am the king.";

static void lines(void) {
    static const struct { const char *said; int words; } cases[] = {
        {"What light through yonder window breaks?", 6}, {"what LIGHT is the sun", 5}, {"'Tis the king's!", 3},
        {"O, to-day I am -- the king.", 0},                                     // -- is no word
        {"the king is", 3}, {"the king", 0}, {"", 0}, {"W", 0}, {"the  king is", 0}, {" the king is", 0},
        {"the king is ", 0}, {"the king\nis", 0}, {"the king is\n", 0}, {"the the king is the sun", 0},
        {"the king the sun is", 5},                                             // twice is no crime, three times is
        {"the king is a", 4}, {"the king a b", 0}, {"a b c", 0}, {"the king is a b c", 0},      // strange words
        {"the is sun king east and man light what o am window", 12},
        {"the is sun king east and man light what o am window i", 0},
        {"the king is...", 0}, {"the king is?!", 3}, {"the; king: is,", 3}, {"the king is\"", 0},
        {"the k1ng is sun", 0},
        {"the king is <sun>", 0}, {"the king is <|im_end|>", 0}, {"the king \xc3\xa9 is", 0}, {"the king is\t", 0}};
    known = words_of(plays_text);
    CHECK(words_has(&known, "tis") && words_has(&known, "king's") && words_has(&known, "to-day"));
    CHECK(!words_has(&known, "Tis") && !words_has(&known, "") && !words_has(&known, "breaks?"));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int got = verify_line(&known, cases[i].said);
        if (got != cases[i].words) T_FAIL("\"%s\": %d words, wanted %d", cases[i].said, got, cases[i].words);
        for (int n = 0; n < 14; n++) CHECK_INT(verify_count(&known, cases[i].said, n), n && n == cases[i].words);
    }
    CHECK(verify_letter(&known, "What is the king", 'W') && !verify_letter(&known, "what is the king", 'W'));
    CHECK(!verify_letter(&known, "What", 'W') && !verify_letter(&known, "W", 'W') && !verify_letter(&known, "", 0));
    CHECK(!verify_letter(&known, "What is the king", 'T') && !verify_letter(&known, "'What is the king", 'W'));
    words nothing = {NULL, 0, 0};
    CHECK(!verify_line(&nothing, "the king is"));
    words_free(&known);
}

static void sums(void) {
    static const struct { const char *said; int sum, first, right; } cases[] = {
        {"<think>4+7=11</think><answer>11</answer>", 11, 0, 1}, {"<think></think><answer>11</answer>", 11, 0, 1},
        {"<think>so what</think><answer>11</answer>", 11, 0, 1}, {"<think>4+7=11</think><answer>11</answer>", 12, 0, 0},
        {"<answer>11</answer><think>4+7=11</think>", 11, 1, 1}, {"<answer>11</answer><think>4+7=11</think>", 11, 0, 0},
        {"<think>4+7=11</think><answer>11</answer>", 11, 1, 0}, {"<answer>11</answer>", 11, 0, 0},
        {"<answer>11</answer>", 11, 1, 0}, {"<think>4+7=11</think><answer>11", 11, 0, 0},
        {"<think>4+7=11<answer>11</answer>", 11, 0, 0}, {"4+7=11</think><answer>11</answer>", 11, 0, 0},
        {"<think>4+7=11</think><answer>011</answer>", 11, 0, 0},
        {"<think>4+7=11</think><answer> 11</answer>", 11, 0, 0},
        {"<think>4+7=11</think><answer>11 </answer>", 11, 0, 0},
        {"<think>4+7=11</think><answer>11</answer> ", 11, 0, 0},
        {"<think>4+7=11</think><answer>12</answer><answer>11</answer>", 11, 0, 0},      // no second chance
        {"<think>4+7=11</think><answer>12</answer><think></think><answer>11</answer>", 11, 0, 0},
        {"<think><answer>11</answer></think>", 11, 0, 0}, {"<answer>11</answer><think>", 11, 1, 0},
        {"<answer>11</answer><think>4</think>.", 11, 1, 0}, {"", 11, 0, 0}, {"", 11, 1, 0},
        {"</think><answer>11</answer>", 11, 0, 0}, {"<think></think><answer>4294967307</answer>", 11, 0, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (verify_sum(cases[i].said, cases[i].sum, cases[i].first) != cases[i].right)
            T_FAIL("\"%s\" for %d, first %d: wanted %d", cases[i].said, cases[i].sum, cases[i].first, cases[i].right);
}

// Whatever is one letter away from a right answer is right only where thoughts may stand.
static void sums_nearly_right(void) {
    static const char *const right[2] = {"<think>4+7=11</think><answer>11</answer>",
                                         "<answer>11</answer><think>4+7=11</think>"};
    char said[64];
    for (int first = 0; first < 2; first++) {
        size_t n = strlen(right[first]), from = (size_t)(strstr(right[first], "<think>") - right[first]) + 7;
        size_t after = n - from - 6;                    // what stands before and after the six letters of the thought
        for (size_t at = 0; at <= n; at++)
            for (const char *c = "0123456789<>/tha \n"; *c; c++)
                for (int how = 0; how < 3; how++) {     // another letter, one more, one less
                    if (how != 1 && at == n) continue;
                    memcpy(said, right[first], n + 1);
                    if (how == 0) said[at] = *c;
                    else if (how == 1) memmove(said + at + 1, said + at, n - at + 1), said[at] = *c;
                    else memmove(said + at, said + at + 1, n - at);
                    int whole = !strncmp(said, right[first], from) &&
                                !strcmp(said + strlen(said) - after, right[first] + n - after);
                    CHECK_INT(verify_sum(said, 11, first), whole);
                }
    }
}

static void hostile_answers(void) {
    static const char *const parts[] = {"<think>", "</think>", "<answer>", "</answer>", "11", " a6=6", " b5=11",
                                        "the", " ", "king", "is", "\n", "\xff", "<|im_end|>", "'", "<", ">", ",", ":",
                                        "%s%n"};
    ag_rng r = {12, 0};
    char *big = (char *)lesson_alloc(200001, 1), text[600];
    known = words_of(plays_text);
    memset(big, 'a', 200000);
    CHECK(!verify_line(&known, big) && !verify_sum(big, 11, 0) && !verify_sum(big, 11, 1));
    memset(big, ' ', 200000); CHECK(!verify_line(&known, big));
    for (int i = 0; i < 20000; i++) {                   // what passes is what the definition says, and nothing crashes
        text[0] = 0;
        for (int k = plays_below(&r, 9); k >= 0; k--) strcat(text, parts[plays_below(&r, 20)]);
        if (verify_sum(text, 11, 0)) CHECK(!strncmp(text, "<think>", 7) && strstr(text, "</think><answer>11</answer>"));
        if (verify_line(&known, text)) CHECK(!strpbrk(text, "<>\n%1="));
    }
    free(big), words_free(&known);
}

static void every_speech_is_somebodys(void) {
    plays all = plays_read();
    CHECK(all.n > 7000);
    for (int i = 0; i < all.n; i++) {
        const speech *s = &all.speech[i];
        if (!s->name[0] || strchr(s->name, '\n') || !s->first[0] || s->text[0] == '\n' || strstr(s->text, "\n\n"))
            T_FAIL("speech %d, of \"%s\": \"%s\"", i, s->name, s->text);
    }
    plays_free(&all);
}

static void problems_and_teachers(void) {
    ag_rng rng = {3, 0};
    char said[256];
    int wrong = 0;
    p = plays_read(), known = words_of(p.text), terms = 4, modulus = 100;
    for (int task = 0; task < TASKS; task++)
        for (int i = 0; i < 300; i++) {
            problem q = pose(task, &rng, i % 2);
            CHECK_INT(is_held(&q), i % 2);              // what is asked in the end is never practised
            q.first = task == THINK && i % 4 < 2;
            demonstrate(&q, &rng, said);
            if (task == SUMS || task == THINK) CHECK(strlen(said) > 0);
            if (task == THINK) CHECK(check(&q, said));
            if (task == SUMS) wrong += !check(&q, said);
        }
    CHECK(wrong > 130 && wrong < 210);      // six in ten guess
    problem q = {THINK, 21, 0, 4, {7, 1, 9, 4}, "Add a7 b1 c9 d4"};
    demonstrate(&q, &rng, said);
    CHECK_STR(said, "<think> a7=7 b1=8 c9=17 d4=21</think><answer>21</answer>");
    q.first = 1, demonstrate(&q, &rng, said);
    CHECK_STR(said, "<answer>21</answer><think> a7=7 b1=8 c9=17 d4=21</think>");
    modulus = 10, q.first = 0, q.a = 1, demonstrate(&q, &rng, said);
    CHECK_STR(said, "<think> a7=7 b1=8 c9=7 d4=1</think><answer>1</answer>");
    for (int i = 0; i < 100; i++) {
        terms = 1 + i % TERMS, q = pose(THINK, &rng, 0), demonstrate(&q, &rng, said);
        CHECK(check(&q, said) && q.a < 10 && q.n == terms && !strncmp(q.asked, "Last digit of a", 15));
        CHECK_INT(strlen(q.asked), 13 + 3 * terms);
    }
    plays_free(&p), words_free(&known);
}

// ---- the numbers ----------------------------------------------------------------------------------------------------
static void advantages_by_hand(void) {
    double reward[16] = {1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1}, a[16];
    double want[8] = {1.7320508, -0.5773503, -0.5773503, -0.5773503, 1, 1, -1, -1};
    CHECK_INT(advantages(reward, 4, 4, 0, a), 2);
    for (int i = 0; i < 8; i++) CHECK_NEAR(a[i], want[i], 1e-6);
    for (int i = 8; i < 16; i++) CHECK(a[i] == 0);      // no variance: 0 and not NaN
    CHECK_INT(advantages(reward, 4, 4, 1, a), 2);
    CHECK_NEAR(a[0], 0.75, 1e-12); CHECK_NEAR(a[1], -0.25, 1e-12); CHECK_NEAR(a[4], 0.5, 1e-12);
    double third[3] = {0.1, 0.1, 0.1};                  // whose mean need not be 0.1 in floating point
    CHECK_INT(advantages(third, 1, 3, 0, a), 1);
    CHECK(a[0] == 0 && a[1] == 0 && a[2] == 0);
    for (int i = 0; i < 16; i++) reward[i] = i * 0.37 - (i % 3);
    advantages(reward, 2, 8, 0, a);
    for (int g = 0; g < 2; g++) {
        double sum = 0, squares = 0;
        for (int i = 0; i < 8; i++) sum += a[g * 8 + i], squares += a[g * 8 + i] * a[g * 8 + i];
        CHECK_NEAR(sum, 0, 1e-9); CHECK_NEAR(squares, 8, 1e-9);
    }
}

static void k3_is_a_distance(void) {
    ag_ctx *ag = ag_new(1);
    ag_real lp[200], ref[200], d[200];
    ag_rng r = {5, 0};
    for (int i = 0; i < 200; i++)
        lp[i] = (ag_real)(-5 * ag_rng_uniform(&r)), ref[i] = i < 100 ? lp[i] : (ag_real)(-5 * ag_rng_uniform(&r));
    lp[199] = -1, ref[199] = -2, lp[198] = -2, ref[198] = -1;
    ag_get(k3(ag_input(ag, lp, 200), ag_input(ag, ref, 200)), d);
    for (int i = 0; i < 100; i++) CHECK(d[i] == 0);
    for (int i = 100; i < 200; i++) {
        double x = (double)ref[i] - (double)lp[i];
        CHECK(d[i] >= 0); CHECK_NEAR(d[i], exp(x) - x - 1, 1e-4 * exp(fabs(x)));
    }
    CHECK_NEAR(d[199], 0.3678794, 1e-6); CHECK_NEAR(d[198], 0.7182818, 1e-6);
    ag_free(ag);
}

static void pass_at_k_by_counting(void) {
    for (int n = 1; n <= 9; n++)
        for (int c = 0; c <= n; c++)
            for (int k = 1; k <= n; k++) {
                int draws = 0, good = 0;                // all sets of k of n answers, of which the first c are right
                for (int set = 0; set < 1 << n; set++) {
                    int size = 0;
                    for (int i = 0; i < n; i++) size += set >> i & 1;
                    draws += size == k, good += size == k && (set & ((1 << c) - 1));
                }
                CHECK_NEAR(pass_at(n, c, k), (double)good / draws, 1e-12);
            }
    CHECK_NEAR(pass_at(1000, 3, 100), 0.2713, 1e-3);    // numbers at which C(n,k) would overflow
}

// ---- the losses -----------------------------------------------------------------------------------------------------
// A model of bytes and our special tokens, small enough to train in a test.
static stage tiny(ag_ctx *ag) {
    static const char *const special[] = {"<|im_start|>", "<|im_end|>", "<think>", "</think>", "<answer>", "</answer>"};
    stage s = stage_new(ag);
    bpe_train(s.tokens, "user assistant user assistant", 29, 262, BPE_SPLIT_GPT2);
    for (int i = 0; i < 6; i++) bpe_add_special(s.tokens, special[i], -1);
    gpt_config c = gpt_preset("nano-llama");
    c.n_vocab = bpe_vocab_size(s.tokens), c.n_layer = 1, c.n_head = c.n_kv_head = 2, c.n_embd = 32, c.n_hidden = 48;
    c.n_ctx = 96;
    s.model = gpt_new(ag, &c), gpt_train(s.model, 0);
    return s;
}

enum { ROWS = 3, TIME = 9 };
static int row_ids[ROWS * TIME], row_len[ROWS] = {9, 6, 8}, row_prompt[ROWS] = {3, 2, 4}, row_ended[ROWS];
static unsigned char row_mask[ROWS * TIME];
static ag_real row_lp[ROWS * TIME];

static stage_rows some_rows(void) {
    ag_rng r = {6, 0};
    stage_rows rows;
    memset(&rows, 0, sizeof rows);
    for (int i = 0; i < ROWS * TIME; i++) {
        int b = i / TIME, t = i % TIME;
        row_ids[i] = plays_below(&r, 200), row_lp[i] = 0, row_mask[i] = t >= row_prompt[b] && t < row_len[b];
    }
    rows.B = ROWS, rows.T = TIME, rows.ids = row_ids, rows.len = row_len, rows.prompt = row_prompt;
    rows.ended = row_ended, rows.mask = row_mask, rows.logprobs = row_lp;
    return rows;
}

// All gradients of the model, one after the other; to be freed.
static ag_real *gradients(gpt_model *m, size_t *n) {
    ag_real *g = (ag_real *)lesson_alloc(gpt_count(&m->config), sizeof *g);
    gpt_param q;
    *n = 0;
    for (int i = 0; gpt_param_at(&m->config, i, &q); i++) ag_get_grad(gpt_tensor(m, q.name), g + *n), *n += q.count;
    return g;
}

// Loss and gradient against the formula, worked out here for each token: a log-probability l has the gradient
// -share * (A r [unless clipped] - beta * (1 - e^(ref - l))), and the rest is that of sum(coefficient * l).
static void grpo_by_hand(void) {
    ag_ctx *ag = ag_new(1);
    stage s = tiny(ag);
    stage_rows r = some_rows();
    double advantage[ROWS] = {1.5, -0.5, -1}, want, want_kl;
    const double clip = 0.2, beta = 0.3;
    ag_real now[ROWS * TIME], ref[ROWS * TIME], coefficient[ROWS * TIME];
    ag_get(gpt_logprobs(s.model, r.ids, r.mask, ROWS, TIME, r.len), now);
    for (int dr = 0; dr < 2; dr++) {
        int clipped = 0, unclipped = 0;
        want = want_kl = 0;
        for (int i = 0; i < ROWS * TIME; i++) {
            int b = i / TIME, t = i % TIME, counts = t + 1 >= row_prompt[b] && t + 1 < row_len[b];
            static const double factor[] = {0.7, 1, 1.1, 1.5, 0.9};         // of old against new: the ratio
            double ratio = factor[(i + b) % 5], A = advantage[b], d = 0.4 * ((i * 7) % 5) - 0.8;
            double share = !counts ? 0 : dr ? 1.0 / (ROWS * CAP) : 1.0 / (ROWS * (row_len[b] - row_prompt[b]));
            row_lp[i] = counts ? now[i] - (ag_real)log(ratio) : 0, ref[i] = counts ? now[i] + (ag_real)d : 0;
            double bounded = ratio < 1 - clip ? 1 - clip : ratio > 1 + clip ? 1 + clip : ratio;
            int free_ = ratio * A <= bounded * A;                           // the smaller one is not the clipped one
            want -= share * ((free_ ? ratio : bounded) * A - beta * (exp(d) - d - 1));
            if (counts) want_kl += (exp(d) - d - 1) / (ROWS * (row_len[b] - row_prompt[b]));  // not by dr
            coefficient[i] = (ag_real)(-share * ((free_ ? ratio * A : 0) - beta * (1 - exp(d))));
            if (counts) clipped += !free_, unclipped += free_;
        }
        CHECK(clipped > 1 && unclipped > 1);
        size_t n, n_again;
        ag_tensor *kl = NULL, *loss = grpo_loss(s.model, &r, advantage, ref, clip, beta, dr, &kl);
        CHECK_NEAR(ag_item(loss), want, 1e-5); CHECK_NEAR(ag_item(kl), want_kl, 1e-5);
        ag_backward(loss);
        ag_real *got = gradients(s.model, &n);
        ag_zero_grad(ag);
        ag_backward(ag_sum(ag_mul(ag_input(ag, coefficient, ROWS, TIME),
                                  gpt_logprobs(s.model, r.ids, r.mask, ROWS, TIME, r.len))));
        ag_real *hand = gradients(s.model, &n_again);
        double size = 0, off = 0;
        for (size_t i = 0; i < n; i++) size += hand[i] * hand[i], off += (got[i] - hand[i]) * (got[i] - hand[i]);
        CHECK(size > 1e-6); CHECK_NEAR(sqrt(off / size), 0, 1e-4);
        ag_zero_grad(ag), free(got), free(hand);
    }
    stage_free(&s), ag_free(ag);
}

static void rejection_by_hand(void) {
    ag_ctx *ag = ag_new(1);
    stage s = tiny(ag);
    stage_rows r = some_rows();
    ag_real now[ROWS * TIME];
    double reward[ROWS] = {1, 0, 1}, none[ROWS] = {0, 0, 0}, sum = 0;
    ag_get(gpt_logprobs(s.model, r.ids, r.mask, ROWS, TIME, r.len), now);
    for (int t = 0; t < TIME; t++) sum += now[t] + now[2 * TIME + t];
    CHECK_NEAR(ag_item(rejection_loss(s.model, &r, reward)), -sum / (6 + 4), 1e-5);
    CHECK(rejection_loss(s.model, &r, none) == NULL);
    stage_free(&s), ag_free(ag);
}

static void dead_rows_are_left_out(void) {
    stage_rows r = some_rows();
    double weight[ROWS] = {0, -0.5, 2};
    int ids[ROWS * TIME];
    unsigned char mask[ROWS * TIME];
    int len[ROWS], prompt[ROWS];
    for (int i = 0; i < ROWS * TIME; i++) row_lp[i] = (ag_real)(-0.01 * i);
    memcpy(ids, row_ids, sizeof ids), memcpy(mask, row_mask, sizeof mask);
    memcpy(len, row_len, sizeof len), memcpy(prompt, row_prompt, sizeof prompt);
    row_ended[0] = 0, row_ended[1] = 1, row_ended[2] = 0;
    CHECK_INT(keep_live(&r, weight), 2);
    CHECK_INT(r.B, 2);
    CHECK(weight[0] == -0.5 && weight[1] == 2);
    for (int b = 0; b < 2; b++) {
        CHECK_INT(r.len[b], len[b + 1]); CHECK_INT(r.prompt[b], prompt[b + 1]); CHECK_INT(r.ended[b], b == 0);
        for (int t = 0; t < TIME; t++) {
            CHECK_INT(r.ids[b * TIME + t], ids[(b + 1) * TIME + t]);
            CHECK_INT(r.mask[b * TIME + t], mask[(b + 1) * TIME + t]);
            CHECK_NEAR(r.logprobs[b * TIME + t], -0.01 * ((b + 1) * TIME + t), 1e-6);
        }
    }
    memcpy(row_len, len, sizeof len), memcpy(row_prompt, prompt, sizeof prompt), memset(row_ended, 0, sizeof row_ended);
    double nothing[ROWS] = {0, 0, 0};
    r = some_rows();
    CHECK_INT(keep_live(&r, nothing), 0);
}

// ---- practice -------------------------------------------------------------------------------------------------------
// A model that knows three problems by heart, one of them wrong: the middle row gets nothing, the others their reward.
static void everybody_gets_his_own_reward(void) {
    static const char *const answer[] = {"<think></think><answer>7</answer>", "<think></think><answer>8</answer>",
                                         "<think></think><answer>9</answer>",
                                         "a b c d e f g h i j klm n"};
    problem q[4];
    gpt_message say[2] = {{GPT_USER, NULL, 0}, {GPT_ASSISTANT, NULL, 0}};
    stage_talk talk[4];
    const stage_talk *batch[4];
    double reward[6], exact = 0;
    ag_ctx *ag = ag_new(2);
    stage s = tiny(ag);
    gpt_optimizer o = gpt_adamw();
    memset(q, 0, sizeof q);
    for (int i = 0; i < 4; i++) {
        q[i].task = i < 3 ? SUMS : WORDS, q[i].a = i == 3 ? 11 : i == 2 ? 9 : 7;
        snprintf(q[i].asked, sizeof q[i].asked, "%c", 'a' + i);
        say[0].text = q[i].asked, say[1].text = answer[i];
        talk[i] = stage_render(&s, say, 2, 0), batch[i] = &talk[i];
    }
    o.lr = 0.02, o.weight_decay = 0;
    for (int step = 0; step < 100; step++, ag_reset(ag))
        ag_backward(stage_loss(s.model, batch, 4)), gpt_step(s.model, &o, gpt_lr_linear(step, 5, 100, 0.5), NULL);
    stage_rows r = answers(&s, q, 3, 2, 0, reward);
    CHECK_INT(r.B, 6);
    for (int i = 0; i < 6; i++) {
        char *said = stage_said(&s, &r, i);
        CHECK_STR(said, answer[i / 2]);
        CHECK(reward[i] == (i / 2 != 1));
        free(said);
    }
    stage_rows_free(&r);

    // drawn at temperature 1, the ratio of the first update is exactly 1 at every token, also with rows left out
    r = answers(&s, q, 3, 2, 1, reward);
    double weight[6] = {0, 1, 1, 0, 1, 1};
    keep_live(&r, weight);
    ag_real *lp = (ag_real *)lesson_alloc((size_t)(r.B * r.T), sizeof *lp);
    ag_get(gpt_logprobs(s.model, r.ids, r.mask, r.B, r.T, r.len), lp);
    int counted = 0;
    for (int i = 0; i < r.B * r.T; i++) exact += lp[i] == r.logprobs[i], counted += lp[i] != 0;
    CHECK_INT(exact, r.B * r.T); CHECK(counted >= 16);
    // and with the policy as its own reference the loss is minus the mean advantage, its KL 0
    ag_tensor *kl = NULL, *loss = grpo_loss(s.model, &r, weight, lp, 0.2, 0.1, 0, &kl);
    CHECK_NEAR(ag_item(loss), -1, 1e-6); CHECK(ag_item(kl) == 0);
    free(lp), stage_rows_free(&r);

    // eleven words as they were asked for; but they are the first 22 tokens of an answer that has not ended
    known = words_of(answer[3]);
    r = answers(&s, q + 3, 1, 2, 0, reward);
    char *said = stage_said(&s, &r, 0);
    CHECK_STR(said, "a b c d e f g h i j kl");
    CHECK(check(&q[3], said) && reward[0] == 0 && reward[1] == 0);
    free(said), stage_rows_free(&r), words_free(&known);
    for (int i = 0; i < 4; i++) stage_talk_free(&talk[i]);
    CHECK(!ag_error(ag));
    stage_free(&s), ag_free(ag);
}

static void fill(gpt_model *m, ag_real *to) {
    gpt_param q;
    for (int i = 0; gpt_param_at(&m->config, i, &q); i++) ag_get(gpt_tensor(m, q.name), to), to += q.count;
}

// What practise does to the policy and to its reference: one learns, the other stands still.
static void the_reference_does_not_learn(void) {
    ag_ctx *ag = ag_new(3);
    stage s = tiny(ag);
    size_t n = gpt_count(&s.model->config), at = 0, same = 0, moved = 0;
    ag_real *before = (ag_real *)lesson_alloc(3 * n, sizeof *before), *after = before + n, *reference = after + n;
    memset(&opt, 0, sizeof opt);
    opt.groups = 8, opt.size = 4, opt.updates = 1, opt.lr = 1e-2, opt.kl = 0.1, opt.clip = 0.2;
    p = plays_read(), known = words_of("a b c d");
    gpt_optimizer o = gpt_adamw();
    o.lr = 0.02, o.weight_decay = 0;
    for (int step = 0; step < 40; step++, ag_reset(ag)) {       // it says three words, or four: right now and then
        stage_talk talk[2];
        const stage_talk *batch[2] = {&talk[0], &talk[1]};
        for (int i = 0; i < 2; i++) {
            gpt_message say[2] = {{GPT_USER, "x", 0}, {GPT_ASSISTANT, i ? "a b c" : "a b c d", 0}};
            talk[i] = stage_render(&s, say, 2, 0);
        }
        ag_backward(stage_loss(s.model, batch, 2)), gpt_step(s.model, &o, 1, NULL);
        stage_talk_free(&talk[0]), stage_talk_free(&talk[1]);
    }
    int first = ag_param_count(ag);
    fill(s.model, before);
    practise(&s, WORDS, 4, NULL);
    fill(s.model, after);
    CHECK_INT(ag_param_count(ag), 2 * first);
    for (int i = first; i < 2 * first; i++) {
        ag_tensor *t = ag_param_get(ag, i);
        CHECK(!t->trainable && !t->has_grad && !t->m && !t->v && t->steps == 0);
        ag_get(t, reference + at), at += t->count;
    }
    for (size_t i = 0; i < n; i++) same += reference[i] == before[i], moved += after[i] != before[i];
    CHECK_INT(same, n);
    CHECK(moved > n / 2);
    CHECK_INT(curve_n[WORDS], 4);
    for (int i = 0; i < 2; i++) free(curve[WORDS][i]);
    plays_free(&p), words_free(&known), free(before), stage_free(&s), ag_free(ag);
}

int main(int argc, char **argv) {
    T_BEGIN("grpo");
    T_RUN(lines);
    T_RUN(sums);
    T_RUN(sums_nearly_right);
    T_RUN(hostile_answers);
    T_RUN(every_speech_is_somebodys), T_RUN(problems_and_teachers);
    T_RUN(advantages_by_hand);
    T_RUN(k3_is_a_distance);
    T_RUN(pass_at_k_by_counting);
    T_RUN(grpo_by_hand);
    T_RUN(rejection_by_hand);
    T_RUN(dead_rows_are_left_out);
    T_RUN(everybody_gets_his_own_reward);
    T_RUN(the_reference_does_not_learn);
    return T_END();
}
