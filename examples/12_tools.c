// Lesson 12: why can a model not count the letters of a word, and what mends it?
//
//     cc -O3 examples/12_tools.c -o tools -lm && ./tools
//
// Because it never sees them. "strawberry" comes to it as a few tokens, numbers that stand for "st", "ra", "w", "ber"
// and "ry", and how each is spelled it would have to learn by heart. Given the same word letter by letter, a model of
// the same size has at least all that it needs; how far it comes from the same examples, the table shows. The other way
// out is a tool (Schick et al. 2023, "Toolformer"): the model learns to write <|tool_start|>count r in
// strawberry<|tool_end|>. There sampling stops, a C function counts, its answer is appended as a message of its own,
// and the model goes on with it in view. So it need not know how to count, only whom to ask and how to copy. Sums and
// comparisons go to a calculator, "who says this?" to a search over the plays: what a model has not read it cannot know
// (closed book), but it can look it up. Nothing that a model writes is ever executed: tools.h reads requests by a small
// grammar, and the answer is data too. The test's words, pairs of numbers and lines stand in no example. (Shakespeare
// writes hardly a digit and no rows of dots, so they are single tokens here, and nothing hides them; in a model that
// has read the web they are not.)
//
// It prints    what each of three models answers to new questions: byte pairs alone, characters, byte pairs with tools
// It writes    out/12/tools.png            how many answers are right, by kind
//              out/12/log.csv              the losses, one model after the other; results.csv: the figures
//              out/12/model.safetensors    the model with tools; 22_chat.c talks to it
// It takes     3 minutes. It wants lesson 08's larger model (make base); without it a smaller one learns first.
// Measured     seeds 1 2 3 4 5, mean (lowest to highest): letters_bpe 0.28 (0.26 to 0.32), dots_bpe 0.52 (0.41 to
//              0.59), larger_bpe 0.94 (0.88 to 0.97), sums_alone 0.00, speaker_closed 0.00 (0.00 to 0.01), letters_char
//              0.40 (0.29 to 0.65), dots_char 0.52 (0.46 to 0.62), larger_char 0.93 (0.88 to 0.99), sums_char 0.00
//              (0.00 to 0.01), letters_tool 0.99 (0.97 to 1.00), dots_tool 1.00 (0.99 to 1.00), larger_tool 1.00 (0.99
//              to 1.00), sums_tool 1.00, speaker_search 0.99 (0.98 to 0.99)
// Next         13_reward_model.c: what makes one answer better than another?
//
// Exercises
//   1. Talk to it: 22_chat.c model=out/12/model.safetensors. Ask for things that it was not trained on. What goes
//      wrong: the choice of the tool, the copy of the request, or the answer?
//   2. tool_steps=100 only=2: which tool is learned first, and what do the wrong requests look like?
//   3. Write a fourth tool (the words of a line, backwards?) into tools.h and teach it: question_of() is the place.
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
#include "tools.h"

enum { LETTERS, DOTS, LARGER, SUMS, SPEAKER, KINDS };
enum { BYTE_PAIRS, CHARACTERS, WITH_TOOLS, MODELS };
static const int share[2][KINDS] = {{12, 2, 2, 2, 2}, {4, 3, 4, 4, 5}};    // questions of a batch: without, with tools
static plays p;
static char (*word)[16];             // of the plays
static int n_words;

typedef struct question { char asked[200], request[200], result[TOOLS_TEXT], answer[TOOLS_TEXT]; } question;

// One word in five is kept for the test, and never stands in an example.
static int is_held(const char *s) { return lesson_checksum((const unsigned char *)s, strlen(s)) % 5 == 0; }

// The words of the plays: only small letters, 3 to 6 of them, each once.
static void collect_words(void) {
    words seen = {NULL, 0, 0};
    word = (char (*)[16])lesson_alloc(p.bytes / 3 + 1, sizeof *word);
    for (const char *at = p.text; *at; at++) {
        size_t n = strspn(at, "abcdefghijklmnopqrstuvwxyz");
        int whole = at == p.text || !((at[-1] | 32) >= 'a' && (at[-1] | 32) <= 'z');    // not the "omeo" of Romeo
        if (n >= 3 && n <= 6 && whole) {
            snprintf(word[n_words], sizeof *word, "%.*s", (int)n, at);
            n_words += words_add(&seen, word[n_words]);
        }
        at += n ? n - 1 : 0;
    }
    words_free(&seen);
}

static int count_in(const char *text, int c) {
    int n = 0;
    for (; *text; text++) n += *text == c;
    return n;
}

static void question_is(question *q, const char *asked, const char *request) {
    snprintf(q->asked, sizeof q->asked, "%s", asked), snprintf(q->request, sizeof q->request, "%s", request);
    tools_call(request, q->result, sizeof q->result);
    snprintf(q->answer, sizeof q->answer, "%s", q->result);
}

// A question of a kind, its answer, and the call that gives the answer. held 1: one from the part kept for the test.
static void question_of(question *q, int kind, int held, ag_rng *rng) {
    int want = plays_below(rng, 4), a, b, c = 0;
    char text[128], asked[180], request[180];
    if (kind == LETTERS) {          // straw + berry: 0, 1, 2, 3 are equally frequent answers, for each letter
        size_t size;
        int tries = 0;
        do {
            const char *x = word[plays_below(rng, n_words)], *y = word[plays_below(rng, n_words)];
            if (tries++ % 100000 == 0) c = "adeilnorst"[plays_below(rng, 10)], want = plays_below(rng, 4);
            snprintf(text, sizeof text, "%s%s", x, is_held(x) == held && is_held(y) == held ? y : "");
            size = strlen(text);
        } while (count_in(text, c) != want || size < 7 || size > 10);
        snprintf(asked, sizeof asked, "In %s, how many %c?", text, c);
        snprintf(request, sizeof request, "count %c in %s", c, text);
    } else if (kind == DOTS) {                                  // s..t.o...p
        const char *x;
        do {
            do x = word[plays_below(rng, n_words)]; while (is_held(x) != held);
            for (a = b = 0; x[a]; a++) {
                if (a) for (c = plays_below(rng, 6) - 2; c > 0; c--) text[b++] = '.';
                text[b++] = x[a];
            }
        } while (b > 10);
        text[b] = 0;
        snprintf(asked, sizeof asked, "In %s, how many .?", text);
        snprintf(request, sizeof request, "count . in %s", text);
    } else if (kind == LARGER) {                                // half of the time the longer one is larger
        char x[16], y[16];
        do a = plays_below(rng, 60); while ((a % 9 == 0) != held);
        do b = 1 + plays_below(rng, 9), c = 1 + plays_below(rng, 99);
        while (c % 10 == 0 || c / 10 == b || (want & 1) != (c / 10 > b));
        snprintf(want & 2 ? x : y, sizeof x, "%d.%d", a, b), snprintf(want & 2 ? y : x, sizeof x, "%d.%02d", a, c);
        snprintf(asked, sizeof asked, "Which is larger, %s or %s?", x, y);
        snprintf(request, sizeof request, "calc max(%s, %s)", x, y);
    } else if (kind == SUMS) {
        do a = 100 + plays_below(rng, 900), b = 100 + plays_below(rng, 900); while (((7 * a + b) % 5 == 0) != held);
        snprintf(asked, sizeof asked, "What is %d + %d?", a, b);
        snprintf(request, sizeof request, "calc %d + %d", a, b);
    } else {                                                    // a line that stands only once in all plays
        const speech *s;
        const char *line, *at;
        do {
            s = plays_any(&p, rng, held), line = want & 1 && s->second[0] ? s->second : s->first;
            snprintf(text, sizeof text, "\n%.120s\n", line), at = strstr(p.text, text);
        } while (!at || strstr(at + 1, text) || count_in(line, ' ') < 4 || strlen(line) > 70 ||
                 strstr(line, "<|"));                           // nothing that could be read as a special token
        snprintf(asked, sizeof asked, "Who says this? %s", line);
        snprintf(request, sizeof request, "search %s", line);
        question_is(q, asked, request);
        snprintf(q->answer, sizeof q->answer, "%s", s->name);
        return;
    }
    question_is(q, asked, request);
}

// In half of the examples for the search the result names somebody who never was, as the answer does. Otherwise the
// model would learn the plays' names by heart, and could not copy one that it meets for the first time.
static void rename_speaker(question *q, ag_rng *rng) {
    char name[16], rest[TOOLS_TEXT];
    if (plays_below(rng, 2)) return;
    snprintf(name, sizeof name, "%s%s", word[plays_below(rng, n_words)], word[plays_below(rng, n_words)]);
    for (char *c = name; *c; c++) *c = (char)(*c - 'a' + 'A');
    snprintf(rest, sizeof rest, "%s", q->result + strcspn(q->result, ","));
    snprintf(q->result, sizeof q->result, "%s%.300s", name, rest), snprintf(q->answer, sizeof q->answer, "%s", name);
}

// What the model is to learn from: a conversation of n questions (1 or 2), of which only the assistant's words count.
static stage_talk talk_of(stage *s, const question *q, int n, int tools) {
    char call[2][300];
    gpt_message say[8];
    int k = 0;
    for (int i = 0; i < n; i++, q++) {
        gpt_message asks = {GPT_USER, q->asked, 0}, calls = {GPT_ASSISTANT, call[i], 1},
                    result = {GPT_TOOL, q->result, 0}, answers = {GPT_ASSISTANT, q->answer, 0};
        snprintf(call[i], sizeof call[i], "<|tool_start|>%.199s<|tool_end|>", q->request);
        say[k++] = asks;
        if (tools) say[k++] = calls, say[k++] = result;
        say[k++] = answers;
    }
    return stage_render(s, say, k, 0);
}

// Every question is new, and the same seed asks the two models without tools the same ones. With tools a third of the
// conversations goes on with a second question, or the model would take an old result for an answer.
static void train(stage *s, int tools, int kinds, int steps, double lr, int seed, int *logged) {
    enum { B = 20 };
    stage_talk talks[B];
    const stage_talk *batch[B];
    question q[B], one;
    ag_rng rng = {(uint64_t)seed, 0};
    gpt_optimizer o = gpt_adamw();
    o.lr = lr, o.weight_decay = 0, o.beta2 = 0.95;
    for (int step = 0; step < steps; step++, ++*logged) {
        stage_stop();
        double norm, start = lesson_seconds();
        int n = 0, rows = 0, tokens = 0;
        for (int kind = 0; kind < KINDS; kind++)
            for (int i = 0; i < share[tools][kind]; i++) {
                int at = plays_below(&rng, n + 1);                  // in random order
                question_of(&one, kind, 0, &rng);
                if (kind == SPEAKER && tools) rename_speaker(&one, &rng);
                if (kind >= kinds) continue;
                if (at < n) q[n] = q[at];
                q[at] = one, n++;
            }
        for (int i = 0, more; i < n; i += 1 + more, rows++) {
            more = tools && i + 1 < n && plays_below(&rng, 3) == 0;
            talks[rows] = talk_of(s, &q[i], 1 + more, tools), batch[rows] = &talks[rows], tokens += talks[rows].n;
        }
        ag_tensor *loss = stage_loss(s->model, batch, rows);
        ag_backward(loss);
        double value = ag_item(loss), factor = gpt_lr_linear(step, 20, steps, 0.5);
        gpt_step(s->model, &o, factor, &norm), ag_reset(s->ag);
        double speed = tokens / (lesson_seconds() - start);
        lesson_log(*logged, value, LESSON_NONE, lr * factor, norm, speed);
        lesson_progress(step + 1, steps, value, speed);
        for (int i = 0; i < rows; i++) stage_talk_free(&talks[i]);
    }
}

// The share of right answers to questions kept for the test. The first one is shown.
static double right(stage *s, int kind, int tools, int n) {
    enum { B = 50 };
    tools_row rows[B];
    question q[B];
    int good = 0;
    ag_rng rng = {99, 0};
    gpt_sampling greedy = {0, 0, 0, 0, NULL, 0};
    for (int done = 0; done < n; done += B) {
        int k = n - done < B ? n - done : B;
        for (int b = 0; b < k; b++) {
            question_of(&q[b], kind, 1, &rng);
            if (kind == LARGER && b + done == 0)
                question_is(&q[b], "Which is larger, 9.11 or 9.9?", "calc max(9.11, 9.9)");
            gpt_message say = {GPT_USER, q[b].asked, 0};
            rows[b] = tools_begin(s, &say, 1);
        }
        int from = rows[0].n;
        tools_reply(s, &greedy, k, rows, tools ? TOOLS_CALLS : 0, tools ? 64 : 16);
        for (int b = 0; b < k; b++) {
            char *said = tools_said(s, &rows[b]);
            good += !strcmp(said, q[b].answer);
            if (b + done == 0) {
                char *all = stage_string(s, rows[b].ids + from, rows[b].n - from);
                printf("  %s\n", q[b].asked), lesson_print_said(all), printf("\n"), free(all);
            }
            free(said), free(rows[b].ids);
        }
    }
    return (double)good / n;
}

// The same model, reading letter by letter: the first 256 of its tokens are the single bytes, and now no others are
// made. (It has read few texts that way, and has to get used to it first.)
static long spell_out(void *tokenizer, const char *text, size_t n, int *ids, size_t cap) {
    (void)tokenizer;
    for (size_t i = 0; i < n && i < cap; i++) ids[i] = (unsigned char)text[i];
    return (long)n;
}

int main(int argc, char **argv) {
    lesson_begin(argc, argv, "12", "tools, and what tokens hide");
    int steps = lesson_int_in("steps", 400, 1, 1000000, "of training without tools, 20 questions each");
    int tool_steps = lesson_int_in("tool_steps", 700, 1, 1000000, "of training with tools");
    double lr = lesson_float("lr", 1e-3, "peak learning rate");
    int held = lesson_int_in("held", 200, 1, 100000, "questions of each kind for the test");
    int base = lesson_int_in("base_steps", 400, 1, 1000000, "of pretraining, where lesson 08's model is missing");
    int only = lesson_int_in("only", -1, -1, MODELS - 1, "model: 0 byte pairs, 1 characters, 2 with tools; -1: all");
    int seed = lesson_int("seed", 1, "of everything random");
    lesson_options_end(), lesson_must_save();

    static const char *const names[MODELS] = {"byte pairs alone", "characters", "byte pairs with tools"};
    static const char *const measures[MODELS][KINDS] = {
        {"letters_bpe", "dots_bpe", "larger_bpe", "sums_alone", "speaker_closed"},
        {"letters_char", "dots_char", "larger_char", "sums_char", ""},
        {"letters_tool", "dots_tool", "larger_tool", "sums_tool", "speaker_search"}};
    double share_right[MODELS][KINDS];
    int logged = 0;
    p = plays_read(), tools_open(p.text, p.bytes), collect_words();
    plays_enough(&p);
    lesson_log_open(-1);
    for (int m = 0; m < MODELS; m++) {
        if (only >= 0 && m != only) continue;
        double start = lesson_seconds();
        ag_ctx *ag = ag_new((unsigned long long)seed);
        stage s = stage_base(ag, base);
        int kinds = m == CHARACTERS ? SPEAKER : KINDS;          // whole lines of characters would cost too much
        stage_chat(&s), gpt_train(s.model, 0);
        if (m == CHARACTERS) s.by.encode = spell_out;
        if (m == WITH_TOOLS) {
            question q;
            ag_rng rng = {7, 0};
            question_of(&q, LETTERS, 0, &rng);
            stage_talk t = talk_of(&s, &q, 1, 1);
            printf("what it learns to say is green, or stands in [ ]:\n");
            stage_print_mask(&s, &t), stage_talk_free(&t);
        }
        train(&s, m == WITH_TOOLS, kinds, m == WITH_TOOLS ? tool_steps : steps, lr, seed, &logged);
        if (m == WITH_TOOLS) stage_save(&s, lesson_path("model.safetensors"), "tools");
        lesson_report("\n%s, %s of training:", names[m], lesson_duration(lesson_seconds() - start));
        for (int kind = 0; kind < KINDS; kind++)
            share_right[m][kind] = kind < kinds ? right(&s, kind, m == WITH_TOOLS, held) : LESSON_NONE;
        for (int kind = 0; kind < kinds; kind++) stage_result(measures[m][kind], share_right[m][kind]);
        stage_free(&s), ag_free(ag);
    }
    if (only < 0) {
        static const char *const labels[KINDS] = {"letters", "dots", "9.11 or 9.9", "sums", "who says it"};
        plot *picture = plot_new("Seeing, knowing, asking", "", "share of right answers");
        for (int m = 0; m < MODELS; m++) plot_bars(picture, names[m], labels, share_right[m], KINDS);
        plot_values(picture, "%.2f"), plot_range_y(picture, 0, 1.15);
        plot_subtitle(picture, "on words, numbers and lines that stand in no example; characters get no lines");
        lesson_save(picture, "tools.png"), plot_free(picture);
        lesson_written("tools.png, log.csv, results.csv, model.safetensors");
    }
    tools_close(), plays_free(&p), free(word);
    return lesson_end();
}
