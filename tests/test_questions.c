// test_questions.c - examples/12_tools.c and plays.h: that questions for the test stand in no example, that answers are
// right by another way to count, that only the assistant's words are learned; and speeches, couplets and requests.
#define main lesson_main
#include "../examples/12_tools.c"
#undef main
#include "test.h"

static void begin(void) { p = plays_read(), tools_open(p.text, p.bytes), collect_words(); }
static void end(void) { tools_close(), plays_free(&p), free(word), word = NULL, n_words = 0; }

static void questions_are_held_apart(void) {
    begin();
    for (int kind = 0; kind < KINDS; kind++) {
        enum { N = 1500 };
        words learned = {NULL, 0, 0};
        question q;
        ag_rng rng = {5, 0}, test = {99, 0};
        int met = 0;
        for (int i = 0; i < N; i++) question_of(&q, kind, 0, &rng), words_add(&learned, q.asked);
        for (int i = 0; i < N; i++) question_of(&q, kind, 1, &test), met += words_has(&learned, q.asked);
        CHECK(learned.n > 100);
        if (met) T_FAIL("of %d test questions of kind %d, %d stand among the examples", N, kind, met);
        words_free(&learned);
    }
    end();
}

// Both words that were put together are of the right part: as far as can be told, in one of the ways to part them.
static void words_are_held_apart(void) {
    begin();
    words known = {NULL, 0, 0};
    question q;
    ag_rng rng = {7, 0};
    char text[16], one[16];
    for (int i = 0; i < n_words; i++) words_add(&known, word[i]);
    for (int i = 0; i < 600; i++) {
        int held = i & 1, ok = 0;
        question_of(&q, LETTERS, held, &rng);
        CHECK(sscanf(q.asked, "In %15[^,],", text) == 1);
        for (int k = 3; k + 3 <= (int)strlen(text); k++) {
            snprintf(one, sizeof one, "%.*s", k, text);
            ok |= words_has(&known, one) && words_has(&known, text + k) && is_held(one) == held &&
                  is_held(text + k) == held;
        }
        CHECK(ok);
    }
    words_free(&known), end();
}

// By sscanf and strtod, which neither the lesson nor its tools use.
static void answers_are_right(void) {
    begin();
    ag_rng rng = {6, 0};
    question q;
    int seen[4] = {0};
    for (int i = 0; i < 400; i++) {
        char text[128], x[16], y[16], c, name[64];
        int a, b, n = 0;
        question_of(&q, LETTERS, i & 1, &rng);
        CHECK(sscanf(q.asked, "In %127[^,], how many %c?", text, &c) == 2);
        for (char *at = text; (at = strchr(at, c)) != NULL; at++) n++;
        CHECK(atoi(q.answer) == n && n < 4);
        seen[n & 3]++;
        question_of(&q, DOTS, i & 1, &rng), n = 0;
        CHECK(sscanf(q.asked, "In %127[^,], how many .?", text) == 1);
        for (char *at = text; (at = strchr(at, '.')) != NULL; at++) n++;
        CHECK(atoi(q.answer) == n);
        question_of(&q, LARGER, i & 1, &rng);
        CHECK(sscanf(q.asked, "Which is larger, %15s or %15[^?]?", x, y) == 2);
        CHECK_NEAR(strtod(q.answer, NULL), fmax(strtod(x, NULL), strtod(y, NULL)), 1e-12);
        question_of(&q, SUMS, i & 1, &rng);
        CHECK(sscanf(q.asked, "What is %d + %d?", &a, &b) == 2 && atoi(q.answer) == a + b);
        question_of(&q, SPEAKER, i & 1, &rng);
        CHECK(sscanf(q.result, "%63[^,]", name) == 1);
        if (strcmp(name, q.answer)) T_FAIL("%s %s says it, and not %s", q.asked, q.answer, q.result);
        CHECK(strstr(p.text, q.asked + strlen("Who says this? ")) != NULL);
    }
    for (int k = 0; k < 4; k++) CHECK(seen[k] > 60);                    // 0 to 3 come equally often
    end();
}

static void only_the_assistant_is_learned(void) {
    begin();
    ag_ctx *ag = ag_new(1);
    stage s = stage_new(ag);
    bpe_train(s.tokens, p.text, p.bytes < 20000 ? p.bytes : 20000, 300, BPE_SPLIT_GPT2);
    gpt_config c = gpt_preset("nano-llama");
    c.n_vocab = bpe_vocab_size(s.tokens), c.n_layer = 1, c.n_head = c.n_kv_head = 1, c.n_embd = 8, c.n_hidden = 8;
    s.model = gpt_new(ag, &c), stage_chat(&s);
    question q[2];
    ag_rng rng = {8, 0};
    question_of(&q[0], SUMS, 0, &rng), question_of(&q[1], LETTERS, 0, &rng);
    for (int tools = 0; tools < 2; tools++) {
        char want[1000] = "", got[1000] = "", call[2][300];
        stage_talk t = talk_of(&s, q, 2, tools);
        for (int i = 0; i < 2; i++) {
            snprintf(call[i], sizeof call[i], "<|tool_start|>%.199s<|tool_end|><|im_end|>", q[i].request);
            strcat(want, tools ? call[i] : ""), strcat(want, q[i].answer), strcat(want, "<|im_end|>");
        }
        for (int i = 0; i < t.n; i++) if (t.mask[i]) strcat(got, bpe_token(s.tokens, t.ids[i], NULL));
        CHECK_STR(got, want);
        stage_talk_free(&t);
    }
    stage_free(&s), ag_free(ag), end();
}

static int rhyme(const char *a, const char *b) { return playsi_rhyme(a, strlen(a), b, strlen(b)); }
static void couplets_rhyme(void) {
    CHECK(rhyme("But woo her, gentle Paris, get her heart,", "My will to her consent is but a part;"));
    CHECK(rhyme("It boots thee not to be CompassionATE:", "After our sentence plaining comes too late."));
    CHECK(!rhyme("Come, come; let's see him out at gates; come.", "The gods preserve our noble tribunes! Come."));
    CHECK(!rhyme("and seen the spider, and the whole of it", "Camillo was his help in this, his pander:"));
    CHECK(!rhyme("a heart", "a part") && !rhyme("", "") && !rhyme("------------------------------", "          ,"));
    begin();
    int couplets = 0, held = 0;
    char asked[256], answer[256];
    for (int i = 1; i < p.n; i++) {
        const speech *s = &p.speech[i];
        plays_ask(s, ASK_GO_ON, asked, answer);
        int says = !strncmp(asked, "Finish this couplet: ", 21);
        CHECK(says == (s->couplet[0][0] != 0));
        if (!says) continue;
        couplets++, held += i >= p.n_train;
        CHECK(rhyme(asked + 21, answer) && strstr(p.text, asked + 21));
    }
    CHECK(p.n < 3000 || (couplets > 150 && held > 5));                  // the built-in text has few
    end();
}

static void speeches_say_something(void) {
    begin();
    CHECK(p.n > 10 && p.n_train > 0 && p.n_train <= p.n && p.n_persons > 1);
    for (int i = 0; i < p.n; i++) {
        const speech *s = &p.speech[i];
        CHECK(*s->name && *s->first && strlen(s->text) <= PLAYS_TEXT && !strchr(s->name, '\n'));
        CHECK(!strncmp(s->text, s->first, strlen(s->first)) && !strstr(s->text, "\n\n"));
        CHECK(!strcmp(p.person[s->person].name, s->name));
    }
    end();
}

int main(int argc, char **argv) {
    T_BEGIN("questions");
    T_RUN(questions_are_held_apart), T_RUN(words_are_held_apart), T_RUN(answers_are_right);
    T_RUN(only_the_assistant_is_learned);
    T_RUN(couplets_rhyme), T_RUN(speeches_say_something);
    return T_END();
}
