// examples/13_reward_model.c and pairs.h: the losses against PyTorch, rank correlation by hand, what pairs are made of,
// and that each reward belongs to its own reply.
#define main lesson_main
#include "../examples/13_reward_model.c"
#undef main
#include "test.h"

enum { SPEECHES = 600 };
static ag_ctx *ag;
static stage tiny;
static plays book;

// Speeches that tell their own number, and a model small enough for them.
static void begin(void) {
    const char *text = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,:?!'\n";
    ag = ag_new(3), tiny = stage_new(ag);
    bpe_chars(tiny.tokens, text, strlen(text));
    gpt_config c = gpt_preset("nano-llama");
    c.n_vocab = bpe_vocab_size(tiny.tokens), c.n_layer = 1, c.n_head = c.n_kv_head = 2, c.n_embd = 16, c.n_hidden = 24;
    c.n_ctx = 256;
    tiny.model = gpt_new(ag, &c);
    stage_chat(&tiny), gpt_train(tiny.model, 0);
    memset(&book, 0, sizeof book);
    book.speech = (speech *)lesson_alloc(SPEECHES, sizeof *book.speech);
    book.n = SPEECHES, book.n_train = 400, book.n_persons = 2;
    strcpy(book.person[0].name, "ROMEO"), strcpy(book.person[1].name, "JULIET");
    for (int i = 0; i < SPEECHES; i++) {
        speech *s = &book.speech[i];
        s->person = i % 2, strcpy(s->name, book.person[i % 2].name);
        snprintf(s->text, sizeof s->text, i % 7 ? "I am number %d,\nsay this again" : "short %d", i);
        playsi_line(s->first, sizeof s->first, s->text), strcpy(s->second, "say this again");
    }
}
static void end(void) { free(book.speech), stage_free(&tiny), ag_free(ag); }
static int number(const speech *s) { return (int)(s - book.speech); }

// torch 1.13, float64: b = tensor([1.5, -0.25, 3]), w = tensor([0.5, 0.75, -2]); -logsigmoid(b - w).mean(), and
// margin_ranking_loss(b, w, ones(3), margin=2).
static void losses_are_pytorchs(void) {
    static const ag_real b[] = {1.5f, -0.25f, 3}, w[] = {0.5f, 0.75f, -2};
    static const double slope[] = {-0.08964714045666503, -0.2436861928766683, -0.002230950308094952};
    for (int k = 0; k < 2; k++) {
        ag_ctx *c = ag_new(1);
        ag_tensor *better = ag_param(c, 3), *worse = ag_param(c, 3);
        ag_real got[3];
        ag_set(better, b), ag_set(worse, w);
        ag_tensor *l = k == 0 ? pairs_bradley_terry(better, worse) : margin_ranking(better, worse, 2);
        CHECK_NEAR(ag_item(l), k == 0 ? 0.5444129078418546 : 4.0 / 3, 2e-7);
        ag_backward(l), ag_get_grad(better, got);
        for (int i = 0; i < 3; i++) CHECK_NEAR(got[i], k == 0 ? slope[i] : i < 2 ? -1.0 / 3 : 0, 5e-8);
        ag_get_grad(worse, got);
        for (int i = 0; i < 3; i++) CHECK_NEAR(got[i], k == 0 ? -slope[i] : i < 2 ? 1.0 / 3 : 0, 5e-8);
        ag_free(c);
    }
}

static void far_apart_is_finite(void) {
    static const ag_real b[] = {200, -200}, w[] = {-200, 200};
    ag_ctx *c = ag_new(1);
    ag_tensor *better = ag_param(c, 2), *worse = ag_param(c, 2);
    ag_real got[2];
    ag_set(better, b), ag_set(worse, w);
    ag_tensor *l = pairs_bradley_terry(better, worse);
    CHECK_NEAR(ag_item(l), 200, 1e-4);
    ag_backward(l), ag_get_grad(better, got);
    CHECK_NEAR(got[0], 0, 1e-7); CHECK_NEAR(got[1], -0.5, 1e-7);
    ag_free(c);
}

static void knows_nothing_at_first(void) {
    begin();
    ag_rng rng = {1, 0};
    pair *set = pairs_make(&tiny, &book, 8, 0, 0, &rng);
    gpt_model *m = pairs_new_reward(&tiny);
    ag_tensor *better, *worse;
    pairs_scores(m, set, 8, &better, &worse);
    CHECK(ag_item(ag_sum(ag_mul(better, better))) == 0 && ag_item(ag_sum(ag_mul(worse, worse))) == 0);
    CHECK_NEAR(ag_item(pairs_bradley_terry(better, worse)), log(2), 6e-8);
    gpt_free(m), pairs_free(set, 8), end();
}

static void rankings_agree_by_kendalls_tau(void) {
    static const ag_real up[] = {1, 2, 3, 4}, down[] = {9, 7, 5, 3}, one[] = {1, 3, 2, 4}, ties[] = {1, 1, 2, 3};
    static const ag_real two[] = {2, 1, 4, 3}, five[] = {1, 2, 3, 4, 5}, other[] = {3, 1, 2, 5, 4};
    static const ag_real flat[] = {6, 6, 6, 6};
    CHECK_NEAR(kendall(up, up, 4), 1, 1e-12); CHECK_NEAR(kendall(up, down, 4), -1, 1e-12);
    CHECK_NEAR(kendall(up, one, 4), 4.0 / 6, 1e-12);            // one pair of six the other way round: 5 - 1
    CHECK_NEAR(kendall(up, two, 4), 2.0 / 6, 1e-12);            // two: 4 - 2
    CHECK_NEAR(kendall(up, ties, 4), 5.0 / 6, 1e-12);           // one pair that is no order: 5 - 0
    CHECK_NEAR(kendall(five, other, 5), 4.0 / 10, 1e-12);       // 3>1, 3>2, 5>4: 7 - 3
    CHECK_NEAR(kendall(up, flat, 4), 0, 1e-12);
}

static void numbers_about_rewards(void) {
    static const ag_real y[] = {2, 0, 1, 5, /* worse */ 1, 1, 1, 0};
    static const double rising[] = {1, 2, 3, 4}, falling[] = {4, 3, 2, 1};
    static const ag_real line[] = {10, 20, 30, 40}, bend[] = {1, 4, 9, 16}, even[4] = {5, 5, 5, 5};
    pair set[4];
    memset(set, 0, sizeof set);
    set[0].kind = set[1].kind = PAIR_SHUFFLED, set[2].kind = set[3].kind = PAIR_OFF_TOPIC;
    CHECK_NEAR(accuracy(y, set, 4, PAIR_SHUFFLED), 0.5, 1e-12);
    CHECK_NEAR(accuracy(y, set, 4, PAIR_OFF_TOPIC), 0.5, 1e-12);        // a tie is not right
    CHECK_NEAR(accuracy(y, set, 4, -1), 0.5, 1e-12);
    CHECK(isnan(accuracy(y, set, 4, PAIR_WRONG_SCENE)));
    CHECK_NEAR(correlation(line, rising, 4), 1, 1e-12); CHECK_NEAR(correlation(line, falling, 4), -1, 1e-12);
    CHECK_NEAR(correlation(bend, rising, 4), 25 / sqrt(129.0 * 5), 1e-12);      // 129, 5: sums of squares
    CHECK(correlation(even, rising, 4) == 0);
}

// A judge who says 0.9 and is right nine times in ten is off by nothing; one who is right five times in ten, by 0.4.
static void calibration_is_measured(void) {
    ag_real y[2000];
    double said[BINS], was[BINS];
    int bins;
    for (int good = 9; good >= 5; good -= 4) {
        ag_rng rng = {3, 0};
        for (int i = 0; i < 1000; i++) {
            int right = i % 10 < good;
            y[i] = (ag_real)(right ? log(9) : 0), y[1000 + i] = (ag_real)(right ? 0 : log(9));
        }
        double error = calibration(y, 1000, &rng, said, was, &bins);
        CHECK_INT(bins, 2);
        CHECK_NEAR(error, good == 9 ? 0 : 0.4, 0.03);
        CHECK_NEAR(said[0], 0.1, 0.001); CHECK_NEAR(was[0], 1 - good / 10.0, 0.05);
    }
}

// Both replies of a pair follow the same prompt; the mask is 1 from the first token of the reply to the last, which is
// <|im_end|>.
static void pairs_are_masked(void) {
    begin();
    ag_rng rng = {1, 0};
    pair *set = pairs_make(&tiny, &book, 48, 0, 1, &rng);
    int end_id = bpe_special(tiny.tokens, "<|im_end|>"), kinds[PAIR_KINDS] = {0};
    for (int i = 0; i < 48; i++) {
        stage_talk prompt = pairs_prompt(&tiny, set[i].at);
        kinds[set[i].kind]++;
        for (int k = 0; k < 2; k++) {
            const stage_talk *t = &set[i].talk[k];
            CHECK(t->n > prompt.n && !memcmp(t->ids, prompt.ids, (size_t)prompt.n * sizeof *t->ids));
            for (int j = 0, bad = 0; j < t->n && !bad; j++)
                if (t->mask[j] != (j >= prompt.n)) bad = 1, T_FAIL("mask of pair %d at %d", i, j);
            CHECK_INT(t->ids[t->n - 1], end_id);
            for (int j = prompt.n; j < t->n - 1; j++) CHECK(t->ids[j] != end_id);
        }
        char *better = stage_string(&tiny, set[i].talk[0].ids + prompt.n, set[i].talk[0].n - prompt.n - 1);
        char *worse = stage_string(&tiny, set[i].talk[1].ids + prompt.n, set[i].talk[1].n - prompt.n - 1);
        if (set[i].kind < PAIR_STAMMER) CHECK_STR(better, set[i].at->text);
        if (set[i].kind != PAIR_BASE_SAMPLE) CHECK(strcmp(better, worse));
        if (set[i].kind == PAIR_WRONG_SCENE && i % 2)                   // each is better once and worse once
            CHECK_STR(worse, set[i - 1].at->text);
        free(better), free(worse), stage_talk_free(&prompt);
    }
    for (int k = 0; k < PAIR_KINDS; k++) CHECK(kinds[k] >= 3);
    CHECK_INT(kinds[PAIR_WRONG_SCENE], 18);
    pairs_free(set, 48), end();
}

// Stammering is for the gold standard alone: at most three different tokens, all of the other reply.
static void only_the_wary_hear_stammering(void) {
    begin();
    for (int wary = 0; wary < 2; wary++) {
        ag_rng rng = {1, 0};
        pair *set = pairs_make(&tiny, &book, 48, 0, wary, &rng);
        int stammer = 0;
        for (int i = 0; i < 48; i++) {
            const stage_talk *t = &set[i].talk[1], *other = &set[i].talk[0];
            int first = 0, few[3], k = 0;
            if (set[i].kind != PAIR_STAMMER) continue;
            while (!t->mask[first]) first++;
            for (int j = first; j < t->n - 1; j++) {
                int seen = 0, known = 0;
                for (int m = 0; m < k; m++) seen |= few[m] == t->ids[j];
                for (int m = first; m < other->n; m++) known |= other->ids[m] == t->ids[j];
                CHECK(known && (seen || k < 3));
                if (!seen && k < 3) few[k++] = t->ids[j];
            }
            CHECK(t->n - 1 - first >= 4 && t->n - first <= PAIRS_CAP);
            stammer++;
        }
        CHECK_INT(stammer, wary ? 6 : 0);
        pairs_free(set, 48);
    }
    end();
}

static void held_out_is_held_out(void) {
    begin();
    ag_rng rng = {5, 0};
    for (int i = 0; i < 3000; i++) {
        int a = number(pairs_speech(&book, &rng, 0)), b = number(pairs_speech(&book, &rng, 1));
        CHECK(a > 0 && a < book.n_train && b > book.n_train);           // and so is what its prompt shows
        CHECK(a % 7 && b % 7);
    }
    end();
}

// A request tells how the reply begins: the first two words of a line that has three.
static void requests_tell_how_to_begin(void) {
    static const char *const lines[][2] = {
        {"Nay, then, thou lovest it not.", "Nay, then"}, {"O! what? is this", "O! what"},
        {"'Tis so-- indeed", "'Tis so--"},
        {"honorificabilitudinitatibus you are", "honorificabilitudinitatibus you"},             // 31 bytes
        {"To Padua.", ""}, {"Padua!", ""}, {"", ""}, {"a ... b", ""},                           // two words, one, none
        {"honorificabilitudinitatibus thou art", ""}};                                          // 32 bytes
    char to[32] = "", asked[256];
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        CHECK_INT(plays_begin(lines[i][0], to), lines[i][1][0] != 0);
        if (lines[i][1][0]) CHECK_STR(to, lines[i][1]);
    }
    begin();
    pairs_ask(&book.speech[8], asked);
    CHECK_STR(asked, "Answer this: short 7\nSpeak as ROMEO, and begin:\nI am");
    end();
}

static void shuffling_keeps_words_and_lines(void) {
    const char *text = "O Romeo, Romeo!\nwherefore art thou\nRomeo?";
    char to[256];
    int seen[128] = {0}, differs = 0;
    ag_rng rng = {2, 0};
    for (int i = 0; i < 20; i++) {
        pairs_shuffle(text, to, &rng);
        CHECK_INT(strlen(to), strlen(text));
        int lines = 0;
        for (const char *c = to; *c; c++) seen[(unsigned char)*c & 127]++, lines += *c == '\n';
        CHECK_INT(lines, 2); CHECK_HAS(to, "wherefore"); CHECK_HAS(to, "Romeo?");
        differs += strcmp(to, text) != 0;
    }
    for (const char *c = text; *c; c++) seen[(unsigned char)*c & 127] -= 20;
    for (int i = 0; i < 128; i++) CHECK_INT(seen[i], 0);
    CHECK(differs >= 19);
}

// A shuffled reply begins as asked and goes on in another order; that of another scene does not begin so.
static void a_rule_knows_two_kinds(void) {
    static const char *const begun[][2] = {{"O Romeo, Romeo!\nwherefore", "Romeo!\nwherefore"},
                                           {"Nay, then, sir", "sir"}, {"I am\nhere now", "I am\nhere now"}};
    for (int i = 0; i < 3; i++) CHECK_STR(begun[i][0] + pairs_begun(begun[i][0]), begun[i][1]);
    begin();
    char worse[256];
    ag_rng rng = {3, 0};
    for (int i = 1; i < 60; i++) {
        const speech *s = &book.speech[i];
        pairs_worse(s, s, PAIR_SHUFFLED, 1, &rng, worse);
        CHECK(strcmp(worse, s->text) != 0 && strlen(worse) == strlen(s->text));
        if (i % 7) CHECK(!strncmp(worse, s->text, pairs_begun(s->text)));           // else two words, and no more
    }
    int begins = 0;
    for (int i = 0; i < 40; i++)
        pairs_worse(&book.speech[1], NULL, PAIR_SHUFFLED, 0, &rng, worse), begins += !strncmp(worse, "I am ", 5);
    CHECK(begins < 20);
    pair set[2];
    set[0].kind = set[1].kind = PAIR_SHUFFLED, set[0].at = set[1].at = &book.speech[1];
    set[0].talk[0] = pairs_talk(&tiny, set[0].at, "I am not");
    set[0].talk[1] = pairs_talk(&tiny, set[0].at, "Am I not");
    set[1].talk[0] = pairs_talk(&tiny, set[1].at, "I am"), set[1].talk[1] = pairs_talk(&tiny, set[1].at, "I am");
    CHECK_NEAR(rule(&tiny, set, 2, PAIR_SHUFFLED), 0.75, 1e-12);
    CHECK(isnan(rule(&tiny, set, 2, PAIR_ECHO)));
    for (int i = 0; i < 2; i++) stage_talk_free(&set[i].talk[0]), stage_talk_free(&set[i].talk[1]);
    end();
}

// An echo is what was asked for, once or many times, and no other word.
static void echoes_say_one_thing(void) {
    const char *line = "O sir, the gentle murmurer";
    int once = 0, often = 0;
    ag_rng rng = {2, 0};
    for (int i = 0; i < 200; i++) {
        char to[256];
        int times = 0;
        pairs_echo(line, to, &rng);
        for (const char *c = to; *c; times++) {
            CHECK(!strncmp(c, "O sir", 5));
            c += 5, c += strspn(c, " \n,.!");
        }
        CHECK(times >= 1 && times <= 16);
        once += times == 1, often += times >= 8;
    }
    CHECK(once > 20 && often > 40);
}

// The reward of a reply in a batch is that of the same reply alone, and better ones come before worse ones.
static void cut(const char *text, const char *like, const char *wanted) {
    char to[64];
    snprintf(to, sizeof to, "%s", text), pairs_cut(to, like);
    CHECK_STR(to, wanted);
}

static void samples_have_no_more_lines_than_the_reply(void) {
    cut("one\ntwo\nthree", "a\nb", "one\ntwo"), cut("one\ntwo", "a\nb", "one\ntwo"), cut("one", "a\nb", "one");
    cut("one\ntwo", "a", "one"), cut("\ntwo", "a", ""), cut("", "a\nb", "");
    cut("one\n\nthree", "a\n\nb", "one\n\nthree"), cut("one\ntwo\n", "a\nb", "one\ntwo");
}

static void each_reward_is_of_its_own_reply(void) {
    begin();
    ag_rng rng = {1, 0};
    pair *set = pairs_make(&tiny, &book, 8, 0, 0, &rng);
    gpt_model *m = pairs_new_reward(&tiny);
    ag_tensor *head = gpt_tensor(m, "scalar.weight"), *better, *worse;
    ag_real w[16], b[8], l[8], *y;
    for (int i = 0; i < 16; i++) w[i] = (ag_real)sin(i + 1.0);
    ag_set(head, w);
    pairs_scores(m, set, 8, &better, &worse);
    ag_get(better, b), ag_get(worse, l), y = judge(m, set, 8);
    for (int i = 0; i < 8; i++) {
        for (int k = 0; k < 2; k++) {
            const stage_talk *t = &set[i].talk[k];
            ag_real all[256];
            ag_get(gpt_scalar(m, gpt_trunk(m, t->ids, 1, t->n, NULL)), all);
            double want = 0, said = 16;                     // what is said at the reply's tokens, and sixteen times 0
            for (int j = 0; j < t->n; j++) said += t->mask[j], want += t->mask[j] ? 16.0 * all[j] : 0;
            want /= said;
            CHECK_NEAR((k ? l : b)[i], want, 2e-5); CHECK_NEAR(y[8 * k + i], want, 2e-5);
        }
        CHECK(fabs((double)(b[i] - l[i])) > 1e-6);
    }
    free(y), gpt_free(m), pairs_free(set, 8), end();
}

// 0.01 E (r_w + r_l)^2: pairs of 1 and -1, 3 and 1, 2 and -2.
static void drift_is_the_middle_of_a_pair(void) {
    begin();
    const ag_real w[] = {1, 3, 2}, l[] = {-1, 1, -2};
    CHECK_NEAR(ag_item(pairs_drift(ag_input(ag, w, 3), ag_input(ag, l, 3))), 0.01 * 16 / 3, 1e-7);
    end();
}

// A short reply counts less than a long one that is as good all the way: sixteen tokens of no opinion stand beside it.
static void few_words_are_not_judged_too_hard(void) {
    begin();
    gpt_config c = tiny.model->config;
    c.scalar = 1;
    gpt_model *m = gpt_adapt(ag, tiny.model, &c);
    const ag_real one = 1;
    ag_set(gpt_tensor(m, "scalar.bias"), &one);                                 // and weights of 0: 1 at each token
    const int ids[2 * 40] = {0}, len[2] = {6, 40};
    unsigned char mask[2 * 40] = {0};
    ag_real y[2], at[2 * 40];
    ag_tensor *said;
    memset(mask + 4, 1, 2), memset(mask + 40 + 16, 1, 24);
    ag_get(stage_score(m, ids, mask, 2, 40, len, &said), y), ag_get(said, at);
    CHECK_NEAR(y[0], 16 * 2 / 18.0, 1e-6);
    CHECK_NEAR(y[1], 16 * 24 / 40.0, 1e-6);
    CHECK_NEAR(at[0], 1, 1e-6); CHECK_NEAR(at[79], 1, 1e-6);
    gpt_free(m), end();
}

// Where there is no model that the assistant was once, its own samples do.
static void without_a_base_the_assistant_stands_in(void) {
    begin();
    int mine = 7;
    stage base = pairs_base(&tiny, &mine);
    CHECK(mine == 0 && base.model == tiny.model);
    CHECK(pairs_same_tokens(&tiny, &tiny));
    end();
}

static void names_are_found(void) {
    begin();
    static const char *const with[] = {"O Romeo, Romeo!", "good JULIET", "Juliet's"};
    static const char *const without[] = {"romeo", "Romeos all", "no one, sir"};
    for (int i = 0; i < 3; i++) CHECK(names_somebody(&book, with[i]) && !names_somebody(&book, without[i]));
    end();
}

int main(int argc, char **argv) {
    T_BEGIN("reward");
    T_RUN(losses_are_pytorchs), T_RUN(far_apart_is_finite), T_RUN(knows_nothing_at_first);
    T_RUN(rankings_agree_by_kendalls_tau), T_RUN(numbers_about_rewards), T_RUN(calibration_is_measured);
    T_RUN(pairs_are_masked), T_RUN(only_the_wary_hear_stammering), T_RUN(held_out_is_held_out);
    T_RUN(requests_tell_how_to_begin), T_RUN(shuffling_keeps_words_and_lines), T_RUN(a_rule_knows_two_kinds);
    T_RUN(echoes_say_one_thing), T_RUN(samples_have_no_more_lines_than_the_reply);
    T_RUN(each_reward_is_of_its_own_reply), T_RUN(drift_is_the_middle_of_a_pair);
    T_RUN(few_words_are_not_judged_too_hard), T_RUN(without_a_base_the_assistant_stands_in);
    T_RUN(names_are_found);
    return T_END();
}
