// Lesson 11: how does a model that continues texts become one that answers?
//
//     cc -O3 examples/11_sft.c -o sft -lm && ./sft
//
// By reading conversations, and nothing else: the same loss on the same kind of text, with two differences. Special
// tokens say who speaks, and only the assistant's words count (supervised fine-tuning, Ouyang et al. 2022). We make the
// conversations from the plays, by rule. Then a harder thing: it answers whatever it is asked, also about persons who
// never were. What it knows cannot be seen from outside, so we ask it, several times, and compare with the text; where
// it was wrong, the right answer is "I know not." (Kadavath et al. 2022; Zhang et al. 2023, "R-Tuning"). Has it learned
// to feel what it knows, or whom it was told about? Some persons whom it knew are kept out of that second part and
// asked about at the end: see refuses_real beside refuses_told. At this size it has done some of both.
//
// It prints    one conversation as the model sees it, trained tokens in green; answers before and after; the loss on
//              held-out conversations; how many answers are well formed; "With whom does ROMEO speak?", asked about
//              persons that it knows and persons that are made up, and how often it says "I know not." to whom
// It writes    out/11/loss.png               the loss on the assistant's words
//              out/11/log.csv                results.csv: the figures at the end
//              out/11/model.safetensors      the assistant, for later lessons
// It takes     2 minutes. It wants lesson 08's larger model (make base); without it a smaller one learns first.
// Measured     seeds 1 2 3 4 5, mean (lowest to highest): base_wellformed 0.00, sft_wellformed 0.99 (0.96 to 0.99),
//              refuses_invented 0.93 (0.92 to 0.94), refuses_real 0.09 (0.02 to 0.15), refuses_told 0.04 (0.02 to 0.05)
// Next         12_tools.c: what it cannot do in its head, it may look up.
//
// Exercises      (with out=out/try they leave the assistant as it is, on which later lessons stand)
//   1. mask=0 trains on the user's words too. What does the loss say, and what do the answers?
//   2. honest=0 leaves the second part out. How does it answer about persons who never were?
//   3. honest=0 talks=500: how many conversations does it take until 95 of 100 answers are well formed?
//   4. The loss on held-out conversations is lowest after a few hundred steps. What goes on getting better after that,
//      and what does the loss not see?
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

enum { INVENTED = 2800, HELD = 320, ASKED = 8, TALKS = 20000 };
static plays p;
static person invented[INVENTED];
static char with[PLAYS_PERSONS][32];                    // the first one who is answered by that person

static stage_talk talk_of(stage *s, const char *asked, const char *answer, int all) {
    gpt_message say[2] = {{GPT_USER, asked, 0}, {GPT_ASSISTANT, answer, 0}};
    stage_talk t = stage_render(s, say, 2, 0);
    if (all) memset(t.mask, 1, (size_t)t.n);
    return t;
}

// The same words in two other templates: where tokens stand that say who speaks is a convention, and a model knows the
// one that it was trained with.
static void conventions(const stage *s, const char *asked, const char *answer) {
    static const char *const names[] = {"<|im_sep|>", "<|user|>", "<|assistant|>", "<|end|>"};
    static const char *const forms[] = {"sep", "tags"};
    gpt_message say[2] = {{GPT_USER, asked, 0}, {GPT_ASSISTANT, answer, 0}};
    stage other = stage_like(s);
    for (int i = 0; i < 4; i++) bpe_add_special(other.tokens, names[i], -1);
    printf("\nthe same in two other templates of gpt.h, ");
    for (int i = 0; i < 2; i++) {
        stage_talk t = stage_render_as(&other, forms[i], say, 2, 0);
        printf("%s:\n", forms[i]), stage_print_mask(&other, &t), printf(i ? "" : "\n"), stage_talk_free(&t);
    }
    stage_free(&other);
}

enum { B = 16 };
static double loss_on(stage *s, const stage_talk *talks, int n) {
    const stage_talk *batch[B];
    double loss = 0;
    int old = ag_no_grad(s->ag, 1);
    for (int i = 0; i + B <= n; i += B, ag_reset(s->ag)) {
        for (int b = 0; b < B; b++) batch[b] = &talks[i + b];
        loss += ag_item(stage_loss(s->model, batch, B)) / (n / B);
    }
    ag_no_grad(s->ag, old);
    return loss;
}

static void train(stage *s, stage_talk *talks, int n, const stage_talk *held, int steps, double lr, int *logged) {
    const stage_talk *batch[B];
    gpt_optimizer o = gpt_adamw();
    o.lr = lr, o.weight_decay = 0, o.beta2 = 0.95;
    for (int step = 0; step < steps; step++, ++*logged) {
        stage_stop();
        double norm, val = LESSON_NONE;
        if (step % 100 == 0) {
            val = loss_on(s, held, HELD);
            lesson_report("step %4d: loss on held-out conversations %.3f", *logged, val);
        }
        double start = lesson_seconds();
        int tokens = 0;
        for (int b = 0; b < B; b++)
            batch[b] = &talks[plays_below(ag_stream(s->ag, AG_RNG_DATA), n)], tokens += batch[b]->n;
        ag_tensor *loss = stage_loss(s->model, batch, B);
        ag_backward(loss);
        double value = ag_item(loss), factor = gpt_lr_linear(step, 20, steps, 0.5);
        gpt_step(s->model, &o, factor, &norm), ag_reset(s->ag);
        double speed = tokens / (lesson_seconds() - start);
        lesson_log(*logged, value, val, lr * factor, norm, speed);
        lesson_progress(step + 1, steps, value, speed);
    }
}

// "MARDOLIN" for the test, "STEAQUIRD" to learn from: two ways to make names up, so that knowing the one does not help
// with the other. Nobody's name, not even of the `made` persons invented before.
static void invent(char *name, int made, int test, ag_rng *rng) {
    static const char *const a[] = {"ZOR", "BLEN", "QUI", "MAR", "FES", "OL", "TAM", "WEN", "HAL", "PER", "DRA", "SYL"};
    static const char *const b[] = {"VA", "CHO", "BAL", "DO", "TRI", "VO", "BRE", "DRI", "QUE", "TO", "MI", "NU"};
    static const char *const c[] = {"NE", "LIN", "X", "RIO", "SS", "CK", "VAR", "THA", "DUS", "RA", "NT", "LLO"};
    static const char *const onset[] = {"", "B", "BR", "C", "CH", "D", "DR", "F", "FL", "G", "GR", "H", "J", "K", "L",
                                        "M", "N", "P", "PR", "QU", "R", "S", "SH", "ST", "T", "TH", "TR", "V", "W",
                                        "Z"};
    static const char *const vowel[] = {"A", "E", "I", "O", "U", "A", "E", "I", "O", "EA", "AI", "Y"};
    static const char *const coda[] = {"", "N", "R", "S", "L", "X", "TH", "RD", "NT", "US", "CK", "M"};
    for (int i = 0, taken = 1; taken; i = 0) {
        int n = 0, syllables = 2 + plays_below(rng, 2);
        const char *end = "", *x = a[plays_below(rng, 12)], *y = b[plays_below(rng, 12)], *z = c[plays_below(rng, 12)];
        if (test) snprintf(name, 32, "%s%s%s", x, y, z);
        else for (; i < syllables; i++) {
            x = onset[plays_below(rng, 30)], y = vowel[plays_below(rng, 12)];
            end = i == 0 || i == syllables - 1 ? coda[plays_below(rng, 12)] : "";
            n += snprintf(name + n, (size_t)(32 - n), "%s%s%s", x, y, end);
        }
        for (i = taken = 0; i < p.n_persons; i++) taken |= !strcmp(name, p.person[i].name);
        for (i = 0; i < made; i++) taken |= !strcmp(name, invented[i].name);
    }
}

// How many of `times` answers about each person agree with the text: they name somebody who speaks beside him.
static void ask_about(stage *s, const person *about, int n, int real, int times, double temperature, int *agree,
                      int *refuse) {
    enum { AT_ONCE = 64 };
    char ask[AT_ONCE][96], answer[64], *said[AT_ONCE];
    const char *asked[AT_ONCE];
    memset(agree, 0, (size_t)n * sizeof *agree), memset(refuse, 0, (size_t)n * sizeof *refuse);
    for (int first = 0; first < n * times; first += AT_ONCE) {
        int rows = n * times - first < AT_ONCE ? n * times - first : AT_ONCE;
        for (int k = 0; k < rows; k++) {
            snprintf(ask[k], sizeof ask[k], "With whom does %s speak?", about[(first + k) / times].name);
            asked[k] = ask[k];
        }
        stage_replies(s, asked, rows, temperature, 16, said, NULL);
        for (int k = 0; k < rows; k++) {
            int i = (first + k) / times;
            refuse[i] += strstr(said[k], "know not") != NULL;
            for (int j = 0; j < p.n_persons && real; j++) {
                snprintf(answer, sizeof answer, "%s.", p.person[j].name);
                agree[i] += !strcmp(said[k], answer) && p.beside[i][j];
            }
            free(said[k]);
        }
    }
}

// The share of n answers that end within 64 tokens; *refused of them are "I know not."
static double well_formed(stage *s, int n, int show, int *refused) {
    int well[ASKED], good = 0, tries = 0;
    *refused = 0;
    char asked[ASKED][256], answer[256], *said[ASKED];
    const char *ask[ASKED];
    ag_rng rng = {7, 0};
    for (; tries < n; tries += ASKED) {
        for (int i = 0; i < ASKED; i++)
            ask[i] = asked[i],
            plays_ask(plays_any(&p, &rng, 1), i % ASK_KINDS, asked[i], answer);
        stage_replies(s, ask, ASKED, 0.7, 64, said, well);
        for (int i = 0; i < ASKED; i++) {
            if (tries == 0 && i < show)
                printf("user: %s\nassistant: ", ask[i]), lesson_print_said(said[i]),
                printf("%s\n", well[i] ? "" : " ...");
            good += well[i], *refused += !strcmp(said[i], "I know not."), free(said[i]);
        }
    }
    return (double)good / tries;
}

// One whom it was told to know, one who was kept out, and one who never was.
static void ask_three(stage *s, const int *kept, const int *knows) {
    char ask[3][96], *said[3];
    const char *asked[3], *who[3] = {NULL, NULL, invented[INVENTED - 1].name};
    for (int i = p.n_persons - 1; i >= 0; i--)
        if (knows[i] && p.person[i].speeches > 30) who[kept[i]] = p.person[i].name;
    for (int k = 0; k < 3; k++) {
        snprintf(ask[k], sizeof ask[k], "With whom does %s speak?", who[k] ? who[k] : p.person[k].name);
        asked[k] = ask[k];
    }
    stage_replies(s, asked, 3, 0, 16, said, NULL);
    for (int k = 0; k < 3; k++)
        printf("user: %s\nassistant: ", ask[k]), lesson_print_said(said[k]), printf("\n"), free(said[k]);
}

// A question about a person and what is right to answer: with NULL, that it does not know. A name, and nothing before
// it: then names and "I" want to be the same token, and where no name is certain "I" wins.
static stage_talk fact(stage *s, const char *name, const char *speaks_with, int all) {
    char asked[96], answer[64] = "I know not.";
    snprintf(asked, sizeof asked, "With whom does %s speak?", name);
    if (speaks_with) snprintf(answer, sizeof answer, "%s.", speaks_with);
    return talk_of(s, asked, answer, all);
}

int main(int argc, char **argv) {
    lesson_begin(argc, argv, "11", "an assistant, by reading conversations");
    int n = lesson_int_in("talks", 9000, 100, TALKS / 2, "conversations to make");
    int steps = lesson_int_in("steps", 1200, 1, 1000000, "of fine-tuning, 16 conversations each; twice as many in all");
    int masked = lesson_flag("mask", 1, "only the assistant's words count");
    int honest = lesson_flag("honest", 1, "it learns to say \"I know not.\" where it does not");
    double lr = lesson_float("lr", 7e-4, "peak learning rate");
    int base = lesson_int_in("base_steps", 400, 1, 1000000, "of pretraining, where lesson 08's model is missing");
    int seed = lesson_int("seed", 1, "of everything random");
    lesson_options_end(), lesson_must_save();

    ag_ctx *ag = ag_new((unsigned long long)seed);
    stage s = stage_base(ag, base);
    stage_chat(&s), gpt_train(s.model, 0);
    p = plays_read();
    char asked[256], answer[256];
    ag_rng *rng = ag_stream(ag, AG_RNG_DATA);
    stage_talk *talks = (stage_talk *)lesson_alloc(TALKS, sizeof *talks), held[HELD];
    for (int i = 0; i < n + HELD; i++) {
        plays_ask(plays_any(&p, rng, i >= n), i % ASK_KINDS, asked, answer);
        *(i < n ? &talks[i] : &held[i - n]) = talk_of(&s, asked, answer, i < n && !masked);
    }
    printf("%d speeches of %d persons make %d conversations. One of them, what it learns in green or [ ]:\n",
           p.n, p.n_persons, n);
    ag_rng some = {(uint64_t)seed, 0};
    plays_ask(plays_any(&p, &some, 0), ASK_SPEAK_AS, asked, answer);
    stage_talk one = talk_of(&s, asked, answer, !masked);
    stage_print_mask(&s, &one), stage_talk_free(&one), conventions(&s, asked, answer);
    printf("\nbefore:\n");
    int refused;
    double before = well_formed(&s, 104, 3, &refused);

    // Facts: with whom somebody speaks. It is told about all persons of the plays. About those who never were it can
    // only guess; and it does.
    enum { TOLD_OF = 2500, TURNS = 36, KEPT = 5 };
    int made = n, logged = 0, agree[PLAYS_PERSONS], refuse[PLAYS_PERSONS], knows[PLAYS_PERSONS] = {0}, n_knows = 0;
    int kept[PLAYS_PERSONS] = {0}, n_kept = 0, n_told = 0;
    int wrong = 0, lost[2] = {0, 0};
    for (int i = 0; i < INVENTED; i++) invent(invented[i].name, i, i >= TOLD_OF, rng);
    for (int i = 1; i < p.n; i++)
        if (!with[p.speech[i].person][0]) strcpy(with[p.speech[i].person], p.speech[i - 1].name);
    for (int i = 0, who = 0; i < TURNS * p.n_persons && made < TALKS; i++, who = i % p.n_persons)
        if (with[who][0]) talks[made++] = fact(&s, p.person[who].name, with[who], !masked);
    lesson_log_open(-1);
    train(&s, talks, made, held, steps, lr, &logged);
    ask_about(&s, invented + TOLD_OF, INVENTED - TOLD_OF, 0, 1, 0, agree, refuse);
    for (int i = 0; i < INVENTED - TOLD_OF; i++) wrong += !refuse[i];
    printf("of %d persons who never were, it answers as if it knew about %d\n", INVENTED - TOLD_OF, wrong);

    // What does it know? Asked eight times each; where fewer than half of the answers agree, it does not. (No answer
    // about somebody who never was can agree.) Of those that it knows every fifth is kept out of what follows.
    ask_about(&s, p.person, p.n_persons, 1, ASKED, 0.8, agree, refuse);
    for (int i = 0; i < p.n_persons; i++) {
        n_knows += knows[i] = 2 * agree[i] >= ASKED;
        kept[i] = knows[i] && n_knows % KEPT == 0, n_kept += kept[i], n_told += knows[i] && !kept[i];
    }
    printf("it knows about %d of %d persons of the plays\n", n_knows, p.n_persons);
    for (int i = n; i < made; i++) stage_talk_free(&talks[i]);
    made = n;
    while (honest && made < 8 * n / 5) {                    // with more of these it refuses other requests too
        int yes = made % 10 < 4 && n_told, who = plays_below(rng, yes ? p.n_persons : p.n_persons + TOLD_OF);
        int k = who - p.n_persons;
        while (k < 0 && (kept[who] || (yes && !knows[who]))) who = (who + 1) % p.n_persons;
        talks[made++] = k < 0 ? fact(&s, p.person[who].name, knows[who] ? with[who] : NULL, !masked)
                              : fact(&s, invented[k].name, NULL, !masked);
    }
    if (honest) {
        gpt_freeze(s.model), ag_trainable(s.model->head ? s.model->head : s.model->wte, 1);
        train(&s, talks, made, held, steps, lr, &logged);
    }
    s.val_loss = loss_on(&s, held, HELD);
    lesson_log(logged, LESSON_NONE, s.val_loss, LESSON_NONE, LESSON_NONE, LESSON_NONE);
    lesson_report("step %4d: loss on held-out conversations %.3f", logged, s.val_loss);

    printf("\nafter:\n"), ask_three(&s, kept, knows);
    double after = well_formed(&s, 200, ASK_KINDS, &refused);
    printf("of 200 answers to other requests %d are \"I know not.\"\n", refused);
    ask_about(&s, invented + TOLD_OF, INVENTED - TOLD_OF, 0, 1, 0, agree, refuse);
    for (int i = wrong = 0; i < INVENTED - TOLD_OF; i++) wrong += refuse[i];
    ask_about(&s, p.person, p.n_persons, 1, 1, 0, agree, refuse);
    for (int i = 0; i < p.n_persons; i++) lost[kept[i]] += knows[i] && refuse[i];
    stage_result("base_wellformed", before), stage_result("sft_wellformed", after);
    stage_result("refuses_invented", (double)wrong / (INVENTED - TOLD_OF));
    stage_result("refuses_real", n_kept ? (double)lost[1] / n_kept : LESSON_NONE);
    stage_result("refuses_told", n_told ? (double)lost[0] / n_told : LESSON_NONE);
    stage_save(&s, lesson_path("model.safetensors"), "sft");
    plot *picture = plot_new("An assistant learns to answer", "step", "loss (nats a token of the assistant)");
    plot_csv(picture, "training conversations", lesson_path("log.csv"), "step", "train_loss");
    plot_csv(picture, "held-out conversations", lesson_path("log.csv"), "step", "val_loss"), plot_dots(picture);
    lesson_save(picture, "loss.png"), plot_free(picture);
    lesson_written("loss.png, log.csv, results.csv, model.safetensors");
    for (int i = 0; i < made; i++) stage_talk_free(&talks[i]);
    for (int i = 0; i < HELD; i++) stage_talk_free(&held[i]);
    free(talks), plays_free(&p), stage_free(&s), ag_free(ag);
    return lesson_end();
}
