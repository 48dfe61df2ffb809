// Lesson 10: what has a model learned that has only ever read?
//
//     cc -O3 examples/10_base_model.c -o base_model -lm && ./base_model
//
// A base model continues texts, and that is all. It does not answer, and it does not know that it does not know.
// Out of continuing comes more than one would think: to continue a repeated passage it has to find it again and copy,
// so it learns that, and learns from its context while its weights stand still. Here each such thing is a number.
//
// It prints    the loss of a passage and of the same passage once more; a pattern continued from examples; how far it
//              knows its training text by heart; one prompt, three continuations; speeches of persons who never were;
//              what words cost for things that came after its text
// It writes    out/10/position.png     the loss against the position in the context
//              out/10/window.png       what reading one window again and again does to the next token's probability
//              out/10/log.csv          the numbers of both; results.csv: the figures
// It takes     30 seconds after pretraining. It wants lesson 08's larger model (make base); without it a smaller one
//              learns first, for a minute or two.
// Measured     seeds 1 2 3 4 5, mean (lowest to highest): repeat_first 3.67 (3.64 to 3.70), repeat_second 0.69 (0.64 to
//              0.78), copy_train 31.20 (25 to 44), copy_val 15.40 (12 to 18), invents 0.92 (0.71 to 1.00), cut_off 1.00
// Next         11_sft.c makes an assistant of it.
//
// Exercises
//   1. copies= and tokens= change the repeated passage. With copies=3, is the third copy cheaper than the second?
//   2. Give a prompt=: a line that every reader of Shakespeare knows, then the same line with one word changed. Does it
//      return to the original? (temperature=0 is the likeliest continuation.)
//   3. ask="Who is the king of France?": what does a base model take a question for? Try to write a prompt after which
//      the answer is the natural continuation.
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

// -log p of tokens 1..n-1, each given all before it, in nats: nll[t] belongs to ids[t].
static void surprises(stage *s, const int *ids, int n, ag_real *nll) {
    ag_mark_at mark = ag_mark(s->ag);
    int old = ag_no_grad(s->ag, 1);
    ag_get(ag_neg(gpt_logprobs(s->model, ids, NULL, 1, n, NULL)), nll + 1);
    ag_no_grad(s->ag, old), ag_rewind(s->ag, mark);
}

static double mean(const ag_real *x, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += x[i];
    return sum / n;
}

// What follows a prompt, in one call; to be freed. The mean probability of the tokens goes to *sure.
static char *goes_on(stage *s, const char *prompt, double temperature, int tokens, double *sure) {
    gpt_sampling how = {temperature, 0, 0, 0, NULL, 0};
    int n, n_out, *ids = stage_ids(s, prompt, &n), *out = (int *)lesson_alloc((size_t)tokens, sizeof *out);
    const int *const prompts[1] = {ids};
    ag_real *lp = (ag_real *)lesson_alloc((size_t)tokens, sizeof *lp);
    gpt_rollout(s->model, &how, 1, prompts, &n, out, tokens, &n_out, lp);
    double sum = 0;
    for (int i = 0; i < n_out; i++) sum += exp(lp[i]);
    if (sure) *sure = sum / n_out;
    char *text = stage_string(s, out, n_out);
    free(ids), free(out), free(lp);
    return text;
}

// Does a passage cost less when it has been read before? The weights do not change: what changes is the context.
static void learning_in_context(stage *s, const int *val, int n_val, int length, int copies) {
    enum { PASSAGES = 30 };
    double loss[8] = {0};
    int *ids = (int *)lesson_alloc((size_t)(length * copies), sizeof *ids);
    ag_real *nll = (ag_real *)lesson_alloc((size_t)(length * copies) + 1, sizeof *nll);
    for (int p = 0; p < PASSAGES; p++) {
        for (int i = 0; i < length * copies; i++) ids[i] = val[(long)p * (n_val - length) / PASSAGES + i % length];
        surprises(s, ids, length * copies, nll);
        for (int c = 0; c < copies; c++) loss[c] += mean(nll + c * length + 1, length - 1) / PASSAGES;
    }
    printf("\na passage that it has never seen, %d times in a row (nats a token):", copies);
    for (int c = 0; c < copies; c++) printf(" %.3f", loss[c]);
    printf("\n"), stage_result("repeat_first", loss[0]), stage_result("repeat_second", loss[1]);
    free(ids), free(nll);
}

// "The king must weep.\nThe queen must weep.\nThe duke must": and now? With other nouns and other verbs, 16 of each.
static double patterns(stage *s, int examples) {
    static const char *const who[] = {"king", "queen", "duke", "lady", "father", "mother", "soldier", "prince", "lord",
                                      "brother", "sister", "lover", "friend", "master", "servant", "child"};
    static const char *const does[] = {" weep", " fall", " speak", " live", " die", " go", " fight", " stay", " sleep",
                                       " come", " bear", " know", " love", " hear", " stand", " answer"};
    int right = 0, n;
    for (int w = 0; w < 16; w++) {
        char prompt[400] = "\n";
        for (int i = 0; i <= examples; i++)
            strcat(prompt, "The "), strcat(prompt, who[(w + 3 * i) % 16]), strcat(prompt, " must"),
            strcat(prompt, i < examples ? does[w] : ""), strcat(prompt, i < examples ? ".\n" : "");
        int *want = stage_ids(s, does[w], &n);
        char *text = goes_on(s, prompt, 0, n, NULL);
        right += !strcmp(text, does[w]);
        free(text), free(want);
    }
    return right / 16.0;
}

// How far its likeliest continuation goes on as the text does, word for word: the most characters over PROMPTS prompts
// from all over the text (Carlini et al. 2021, "Extracting Training Data from Large Language Models": who tries often
// enough finds what is known by heart), and *average. *piece: those characters, to be freed.
static int verbatim(stage *s, const int *ids, int n, double *average, char **piece) {
    enum { PROMPTS = 768, ROWS = 64, GIVEN = 48, MADE = 40 };
    int most = -1, n_given[ROWS], n_out[ROWS], out[ROWS * MADE];
    const int *from[ROWS];
    gpt_sampling greedy = {0, 0, 0, 0, NULL, 0};
    if (n < GIVEN + MADE) lesson_fail("%d tokens are too few to ask how they go on: %d wanted", n, GIVEN + MADE);
    *average = 0, *piece = NULL;
    for (int p = 0; p < PROMPTS; p += ROWS) {
        for (int b = 0; b < ROWS; b++)
            from[b] = ids + (long long)(p + b) * (n - GIVEN - MADE) / PROMPTS, n_given[b] = GIVEN;
        gpt_generate_batch(s->model, &greedy, ROWS, from, n_given, out, MADE, n_out, NULL, NULL);
        for (int b = 0; b < ROWS; b++) {
            char *made = stage_string(s, out + b * MADE, n_out[b]), *real = stage_string(s, from[b] + GIVEN, MADE);
            int same = 0;
            while (made[same] && made[same] == real[same]) same++;
            *average += (double)same / PROMPTS, made[same] = 0, free(real);
            if (same <= most) { free(made); continue; }
            free(*piece), *piece = made, most = same;
        }
    }
    return most;
}

// Persons of the plays and persons who never were: is the model less sure of what the second say?
static void inventions(stage *s) {
    enum { N = 24 };
    static const char *const real[N] = {
        "ROMEO", "JULIET", "GLOUCESTER", "MENENIUS", "PETRUCHIO", "ISABELLA", "LEONTES", "NORTHUMBERLAND", "COMINIUS",
        "HORTENSIO", "CORIOLANUS", "ANGELO", "PAULINA", "MERCUTIO", "BENVOLIO", "CAMILLO", "POLIXENES", "BUCKINGHAM",
        "CLARENCE", "WARWICK", "LUCIO", "BRUTUS", "SICINIUS", "VOLUMNIA"};
    static const char *const invented[N] = {
        "ZORVANE", "BLENCHO", "QUIBALD", "MARDOLIN", "FESTRIX", "OLVORIO", "TAMBRESS", "WENDRICK", "HALQUIN",
        "PERTOVAR", "DRAMIRA", "SYLBECK", "VORTANIO", "GRUNDEL", "CASPIRO", "ELMARINE", "THORVINO", "JUNDRELLA",
        "NASTORIX", "KELVARIO", "FENWICKE", "ARDOSTRA", "LUMPERT", "BRISCANTO"};
    double sure[2][N], least = 1;
    int confident = 0;
    for (int i = 0; i < 2 * N; i++) {
        char prompt[64];
        snprintf(prompt, sizeof prompt, "\n\n%s:\n", i < N ? real[i] : invented[i - N]);
        char *text = goes_on(s, prompt, 0, 40, &sure[i / N][i % N]);
        if (i == N || i == N + 1) {
            const char *line = text + strspn(text, "\n");
            printf("%s:\n", invented[i - N]), lesson_print_text(line, strcspn(line, "\n")), lesson_print_text(NULL, 0);
            printf("\n");
        }
        free(text);
    }
    for (int i = 0; i < N; i++) if (sure[0][i] < least) least = sure[0][i];
    for (int i = 0; i < N; i++) confident += sure[1][i] >= least;
    printf("mean probability of its words: as %s %.2f, as %s %.2f. How many of those who never were speak as "
           "surely as\nthe least sure of two dozen whom it has read?\n", real[0], sure[0][0], invented[0], sure[1][0]);
    stage_result("invents", confident / (double)N);
}

// Bits of a text, all but its first token.
static double bits(stage *s, const char *text) {
    int n, *ids = stage_ids(s, text, &n);
    ag_real *nll = (ag_real *)lesson_alloc((size_t)n + 1, sizeof *nll);
    surprises(s, ids, n, nll);
    double sum = mean(nll + 1, n - 1) * (n - 1) / log(2);
    free(ids), free(nll);
    return sum;
}

// What came after its text was written is not in it: its knowledge has a cut-off, 1623 at the latest.
static void cut_off(stage *s) {
    static const char *const things[10][2] = {{"candle", "camera"}, {"letter", "telegram"}, {"ship", "aeroplane"},
                                              {"horse", "bicycle"}, {"physician", "dentist"}, {"king", "president"},
                                              {"messenger", "telephone"}, {"glass", "laser"}, {"drum", "radio"},
                                              {"crown", "robot"}};
    double sum[2] = {0, 0}, before = bits(s, "\n\nROMEO:\nBring me the");
    int older = 0;
    for (int i = 0; i < 10; i++) {
        double cost[2];
        for (int late = 0; late < 2; late++) {
            char text[64];
            snprintf(text, sizeof text, "\n\nROMEO:\nBring me the %s.", things[i][late]);
            sum[late] += cost[late] = bits(s, text) - before;
        }
        older += cost[0] < cost[1];
    }
    printf("\n\"Bring me the candle.\" and nine things more that its writer knew: %.1f bits each. \"The camera\" and "
           "nine that\ncame later: %.1f.\n", sum[0] / 10, sum[1] / 10);
    stage_result("cut_off", older / 10.0);
}

static void row(lesson_csv *csv, int picture, double at, double value) {
    const double cells[] = {picture, at, value};
    lesson_csv_row(csv, cells, 3);
}

// How good is it at the end of its context, how good at the beginning? Means over positions 1, 2, 3-4, 5-8 and so on.
static void positions(stage *s, const int *val, int n_val, lesson_csv *csv) {
    double sum[16] = {0}, at[16], count[16] = {0};
    int T = s->model->config.n_ctx, k = 0;
    ag_real *nll = (ag_real *)lesson_alloc((size_t)T + 1, sizeof *nll);
    for (int first = 0; first + T <= n_val; first += T / 4) {
        surprises(s, val + first, T, nll);
        for (int t = 1; t < T; t++) {
            for (k = 0; t > 1 << k;) k++;
            sum[k] += nll[t], count[k]++;
        }
    }
    for (int i = 0; i <= k; i++) {
        sum[i] /= count[i], at[i] = i < k ? 1 << i : T - 1;
        row(csv, 1, at[i], sum[i]);
    }
    plot *p = plot_new("What a longer context is worth", "tokens read before: 1, 2, 3 to 4, 5 to 8, and so on",
                       "loss (nats a token)");
    plot_line(p, "validation text", at, sum, (size_t)k + 1), plot_dots(p), plot_log_x(p);
    lesson_save(p, "position.png"), plot_free(p);
    printf("\nloss after 1 token %.3f, after 5 to 8 %.3f, after %d and more %.3f\n", sum[0], sum[3], (1 << (k - 1)) + 1,
           sum[k]);
    free(nll);
}

// A fresh model reads one window again and again: from 1/V, which is knowing nothing, to knowing it by heart.
static void one_window(ag_ctx *ag, const int *window, int V, lesson_csv *csv) {
    enum { T = 64, BARS = 6 };
    static const int steps[BARS] = {0, 5, 10, 20, 40, 80};
    static const char *const labels[BARS] = {"0", "5", "10", "20", "40", "80"};
    double known[BARS];
    ag_real lp[T];
    gpt_config c = gpt_preset("nano-llama");
    c.n_vocab = V;
    gpt_model *m = gpt_new(ag, &c);
    gpt_optimizer o = gpt_adamw();
    int y[T], bar = 0;
    gpt_targets(window, NULL, 1, T, NULL, y);
    for (int step = 0; bar < BARS; step++) {
        ag_tensor *nll = ag_nll(gpt_forward(m, window, 1, T), y);
        if (step == steps[bar]) {
            ag_get(nll, lp);
            known[bar] = 0;
            for (int t = 0; t < T - 1; t++) known[bar] += exp(-lp[t]) / (T - 1);
            row(csv, 2, step, known[bar++]);
        }
        ag_backward(ag_mean(nll));
        gpt_step(m, &o, 1, NULL), ag_reset(ag);
    }
    printf("\na fresh model reads one window again and again: the next token's probability rises from %.4f (1/%d is "
           "%.4f) to %.2f\n", known[0], V, 1.0 / V, known[BARS - 1]);
    plot *p = plot_new("One window, learned by heart", "steps", "mean probability of the next token");
    plot_bars(p, "a fresh model, always the same 64 tokens", labels, known, BARS), plot_values(p, "%.3f");
    lesson_save(p, "window.png"), plot_free(p);
    gpt_free(m);
}

int main(int argc, char **argv) {
    lesson_begin(argc, argv, "10", "what a base model is");
    const char *prompt = lesson_str("prompt", "\n\nROMEO:\n", "a text to continue, three times");
    const char *ask = lesson_str("ask", "Who is Juliet?", "a question, to see what becomes of it");
    double temperature = lesson_float("temperature", 0.8, "of the continuations");
    int length = lesson_int_in("tokens", 64, 8, 128, "of the passage that is repeated");
    int copies = lesson_int_in("copies", 2, 2, 8, "of that passage");
    int steps = lesson_int_in("steps", 400, 1, 1000000, "of training, where lesson 08's model is missing");
    int seed = lesson_int("seed", 1, "of everything random");
    lesson_options_end(), lesson_must_save();

    ag_ctx *ag = ag_new((unsigned long long)seed);
    stage s = stage_base(ag, steps);
    size_t bytes, cut;
    char *text = stage_shakespeare(&bytes, &cut);
    int n, n_val, *train = stage_ids_n(&s, text, cut, &n), *val = stage_ids_n(&s, text + cut, bytes - cut, &n_val);
    if (length * copies > s.model->config.n_ctx)
        lesson_fail("%d copies of %d tokens do not fit into a context of %d", copies, length, s.model->config.n_ctx);
    gpt_train(s.model, 0);
    lesson_csv csv = lesson_csv_open(lesson_path("log.csv"), "picture,at,value");

    learning_in_context(&s, val, n_val, length, copies);
    printf("\"The king must weep. The queen must weep. The duke must\" and 15 more such: how many go on as the lines "
           "before\ndo? Without such a line %.2f, after one %.2f, after three %.2f.\n",
           patterns(&s, 0), patterns(&s, 1), patterns(&s, 3));

    char *seen, *unseen;
    double mean_seen, mean_unseen;
    int copy_train = verbatim(&s, train, n, &mean_seen, &seen);
    int copy_val = verbatim(&s, val, n_val, &mean_unseen, &unseen);
    printf("\n"), stage_result("copy_train", copy_train), stage_result("copy_val", copy_val);
    printf("on average %.1f and %.1f characters. The longest from the training text:\n", mean_seen, mean_unseen);
    lesson_print_said(seen), printf("\nand from the text that it has not read:\n"), lesson_print_said(unseen);
    printf("\n"), free(seen), free(unseen);

    printf("\none prompt, three continuations:\n");
    for (int i = 0; i < 3; i++) {
        char *said = goes_on(&s, prompt, temperature, 40, NULL);
        printf("%d. ", i + 1), lesson_print_said(said), printf("\n");
        free(said);
    }
    char *said = goes_on(&s, ask, temperature, 40, NULL);
    printf("\nit is asked: %s\nand goes on: ", ask);
    lesson_print_said(said), printf("\n\npersons who never were:\n");
    inventions(&s), cut_off(&s);
    positions(&s, val, n_val, &csv);
    one_window(ag, train, s.model->config.n_vocab, &csv);
    if (s.model->config.n_layer < gpt_preset("small").n_layer)
        printf("\nA model as small as this one copies next to nothing, neither from its context nor from its text:\n"
               "make base makes one that does.\n");
    lesson_csv_close(&csv);
    lesson_written("position.png, window.png, log.csv, results.csv");
    free(said), free(text), free(train), free(val);
    stage_free(&s), ag_free(ag);
    return lesson_end();
}
