// Lesson 09: the model gives probabilities; who decides what it says?
//
//     cc -O3 examples/09_sampling.c -o sampling -lm && ./sampling
//
// A language model never says a word. It turns a text into a probability for every possible next token, and then
// somebody has to choose. Always the likeliest (greedy) is dull and goes in circles; drawing by the probabilities
// themselves is lively and trips over the long tail of unlikely tokens, each rare, together common. The filters between
// the two cut the tail: top-k keeps k tokens, top-p the likeliest that make up p, min-p those not much less likely than
// the best; temperature sharpens or flattens before that. Beam search looks for the likeliest whole text instead.
//
//     ./sampling prompt="JULIET:" tokens=300
//     ./sampling temperature=1.5 top_k=3 seed=3
//
// It prints    the ten likeliest next tokens under each rule, a text by each, and two numbers that tell them apart: the
//              mean surprise of what was written (nats a token, to the model itself, over the last window) and how much
//              of it repeats. Greedy repeats most, beam search surprises least, hot most; people are in between
// It writes    out/09/next.png                  the distributions of the rules that draw (greedy's would be one bar)
//              out/09/rules.png, out/09/log.csv the two numbers
// It takes     2 seconds after lesson 08; without its model a small one is trained first, half a minute more.
// Next         10_base_model.c: what such a model is, and what it is not.
//
// Exercises
//   1. temperature=0.01: which other rule does "hot" become? And at temperature=100? Look at the table it prints.
//   2. Give the same prompt three times, with seed=1, 2, 3. Which rules give the same text each time, and why?
//   3. Beam search looks for texts that are likelier than greedy's: compare their surprise for tokens=50 with beams=1,
//      4 and 16. Which rule is beams=1? Are the likelier texts better?
#define AG_DIE_ON_ERROR
#define AUTOGRAD_IMPLEMENTATION
#define GPT_IMPLEMENTATION
#define BPE_DIE_ON_ERROR
#define BPE_IMPLEMENTATION
#include "../gpt.h"
#include "../bpe.h"
#include "lesson.h"
#include "plot.h"

// The model of lesson 08, or a small one of our own that learns for half a minute.
static gpt_model *load_or_train(ag_ctx *ag, bpe *tokens, const char *path) {
    gpt_state state;
    size_t bytes;
    memset(&state, 0, sizeof state);
    if (lesson_exists(path)) {
        char stage[32];
        gpt_model *m = gpt_load(ag, path, &state);
        if (gpt_note(&state, "stage", stage, sizeof stage) && strcmp(stage, "base"))
            lesson_fail("%s is a model of stage %s, wanted one of lesson 08 (lesson 22 talks to any)", path, stage);
        bpe_load_mem(tokens, state.tokenizer, state.tokenizer_size);
        if (bpe_vocab_size(tokens) != m->config.n_vocab) lesson_fail("%s is not a checkpoint of lesson 08", path);
        printf("%s: %s, %s parameters, validation loss %.3f\n", path, m->config.name,
               lesson_commas(gpt_count(&m->config)), state.val_loss);
        gpt_state_free(&state);
        return m;
    }
    if (lesson_given("model")) lesson_fail("model=%s: %s", path, strerror(errno));
    printf("%s is not there (lesson 08 makes it): a small model learns now\n", path);
    unsigned char *text = lesson_data("tinyshakespeare.txt", &bytes);
    bpe_chars(tokens, text, bytes);
    int *ids = (int *)lesson_alloc(bytes, sizeof *ids), x[12 * 64], y[12 * 64];
    size_t n = (size_t)bpe_encode(tokens, text, bytes, ids, bytes);
    gpt_config c = gpt_preset("nano-llama");
    c.n_vocab = bpe_vocab_size(tokens);
    gpt_model *m = gpt_new(ag, &c);
    gpt_optimizer muon = gpt_muon();
    gpt_loader loader = gpt_loader_new(ag, ids, n, GPT_RANDOM);
    for (int step = 0; step < 500; step++) {
        gpt_next(&loader, 12, 64, x, y);
        ag_tensor *loss = ag_cross_entropy(gpt_forward(m, x, 12, 64), y, NULL);
        ag_backward(loss);
        gpt_step(m, &muon, gpt_lr_linear(step, 20, 500, 0.7), NULL);
        lesson_progress(step + 1, 500, ag_item(loss), LESSON_NONE);
        ag_reset(ag);
    }
    free(text), free(ids);
    return m;
}

// Share of the text's runs of eight tokens that have occurred before in it.
static double repeats(const int *ids, int n) {
    int again = 0, runs = n - 8;
    for (int i = 1; i <= runs; i++)
        for (int j = 0; j < i; j++) if (!memcmp(ids + i, ids + j, 8 * sizeof *ids)) { again++; break; }
    return runs > 0 ? (double)again / runs : 0;
}

// Mean -log p of out, given prompt, in one pass of the model (the last n_ctx tokens where it is longer).
static double surprise(gpt_model *m, const int *prompt, int n_prompt, const int *out, int n) {
    int skip = n_prompt + n > m->config.n_ctx ? n_prompt + n - m->config.n_ctx : 0, T = n_prompt + n - skip;
    int *x = (int *)lesson_alloc((size_t)T + 1, sizeof *x), *y = (int *)lesson_alloc((size_t)T + 1, sizeof *y);
    for (int i = 0; i < T; i++) x[i] = i + skip < n_prompt ? prompt[i + skip] : out[i + skip - n_prompt];
    for (int i = 0; i < T; i++) y[i] = i + 1 < T && i + 1 + skip >= n_prompt ? x[i + 1] : AG_IGNORE;
    ag_mark_at mark = ag_mark(m->ctx);
    int old = ag_no_grad(m->ctx, 1);
    double loss = ag_item(ag_cross_entropy(gpt_forward(m, x, 1, T), y, NULL));
    ag_no_grad(m->ctx, old), ag_rewind(m->ctx, mark);
    free(x), free(y);
    return loss;
}

static void say(const bpe *tokens, const int *ids, int n) {
    size_t size = (size_t)bpe_decode(tokens, ids, (size_t)n, NULL, 0);
    char *text = (char *)lesson_alloc(size, 1);
    bpe_decode(tokens, ids, (size_t)n, text, size);
    lesson_print_text(text, size), free(text);
}

int main(int argc, char **argv) {
    lesson_begin(argc, argv, "09", "sampling");
    const char *prompt = lesson_str("prompt", "ROMEO:\n", "the text to go on from");
    const char *path = lesson_str("model", "out/08/model.safetensors", "a checkpoint of lesson 08");
    int n = lesson_int_in("tokens", 200, 9, 100000, "tokens to write");
    double temperature = lesson_float_in("temperature", 1.5, 0, 1e6, "of the rule 'hot'");
    int top_k = lesson_int("top_k", 5, "of the rule top-k"), seed = lesson_int("seed", 1, "of the draws");
    double top_p = lesson_float_in("top_p", 0.9, 0, 1, "of the rule top-p");
    double min_p = lesson_float_in("min_p", 0.1, 0, 1, "of the rule min-p");
    int beams = lesson_int_in("beams", 4, 1, 64, "texts that beam search keeps");
    lesson_options_end();

    ag_ctx *ag = ag_new((unsigned long long)seed);
    bpe *tokens = bpe_new();
    gpt_model *m = load_or_train(ag, tokens, path);
    int V = m->config.n_vocab, most = m->config.n_ctx < 256 ? m->config.n_ctx - 1 : 255, start[256];
    if (top_k > V) lesson_fail("top_k=%d: this model knows %d tokens", top_k, V);
    int n_start = (int)(bpe_encode)(tokens, prompt, strlen(prompt), start, 256);
    if (n_start < 0) lesson_fail("prompt=%s: the model of %s lacks one of its characters", prompt, path);
    if (n_start < 1 || n_start > most) lesson_fail("the prompt has %d tokens; wanted 1 to %d", n_start, most);
    float *logits = (float *)lesson_alloc((size_t)V, sizeof *logits);
    float *probs = (float *)lesson_alloc((size_t)V, sizeof *probs);
    int *out = (int *)lesson_alloc((size_t)n * (size_t)beams, sizeof *out), n_out[64];
    double scores[64], x[8], y[8];

    // The distribution after the prompt: fed once, then filtered by each rule.
    gpt_cache *cache = gpt_cache_new(m, 1);
    gpt_feed(cache, start, n_start, NULL, logits), gpt_cache_free(cache);
    static const char *const kinds[] = {"greedy", "multinomial", "cool", "hot", "top-k", "top-p", "min-p", "beam"};
    const double set[] = {0, 0, 0.5, temperature, top_k, top_p, min_p, beams};
    char names[8][16];
    for (int r = 0; r < 8; r++)
        r < 2 ? snprintf(names[r], 16, "%s", kinds[r]) : snprintf(names[r], 16, "%s %.3g", kinds[r], set[r]);
    gpt_sampling plain = {1, 0, 0, 0, NULL, 0}, rules[7];
    for (int r = 0; r < 7; r++) rules[r] = plain;
    rules[0].temperature = 0, rules[2].temperature = 0.5, rules[3].temperature = temperature;
    rules[4].top_k = top_k, rules[5].top_p = top_p, rules[6].min_p = min_p;
    int best[10], shown = V < 10 ? V : 10;
    char labels_text[10][16];
    const char *labels[10];
    for (int i = 0; i < shown; i++) {                   // the ten likeliest, by the model itself
        best[i] = -1;
        for (int v = 0; v < V; v++) {
            int taken = 0;
            for (int j = 0; j < i; j++) taken |= best[j] == v;
            if (!taken && (best[i] < 0 || logits[v] > logits[best[i]])) best[i] = v;
        }
        const char *text = bpe_token(tokens, best[i], NULL);
        text = !strcmp(text, "\n") ? "\\n" : !strcmp(text, " ") ? "space" : text;
        snprintf(labels_text[i], sizeof labels_text[i], "%.12s", text);
        labels[i] = labels_text[i];
    }
    printf("\nprobability of the next token, in percent\n%-12s", "");
    for (int i = 0; i < shown; i++) printf(" %6.6s", labels[i]);
    printf("  the rest\n");
    plot *bars = plot_new("What may come next, by each rule that draws", "next token", "probability");
    for (int r = 0; r < 7; r++) {
        double value[10], rest = 1;
        gpt_probs(m, &rules[r], logits, probs);
        printf("%-12s", names[r]);
        for (int i = 0; i < shown; i++) value[i] = probs[best[i]], rest -= value[i], printf(" %6.1f", 100 * value[i]);
        printf(" %9.1f\n", 100 * (rest > 0 ? rest : 0));
        if (r != 0) plot_bars(bars, names[r], labels, value, (size_t)shown);
    }
    lesson_save(bars, "next.png"), plot_free(bars);

    // A text by each rule, and by beam search.
    lesson_csv csv = lesson_csv_open(lesson_path("log.csv"), "rule,surprise,repeats,seconds");
    for (int r = 0; r < 8; r++) {
        double begin = lesson_seconds();
        ag_stream(ag, AG_RNG_SAMPLE)->counter = 0;      // every rule meets the same luck
        int room = m->config.n_ctx - n_start < n ? m->config.n_ctx - n_start : n, length = n;
        if (r < 7) length = gpt_generate(m, &rules[r], start, n_start, out, n, NULL, NULL);
        else { gpt_beam(m, NULL, start, n_start, beams, 1, out, room, n_out, scores); length = n_out[0]; }
        double seconds = lesson_seconds() - begin, s = surprise(m, start, n_start, out, length);
        double again = repeats(out, length), row[3] = {s, again, seconds};
        printf("\n--- %s: %d tokens%s, surprise %.2f nats a token, %.0f%% repeats, %.0f tokens a second\n", names[r],
               length, r == 7 && length < n ? " (the context is full)" : "", s, 100 * again, length / seconds);
        say(tokens, start, n_start), say(tokens, out, length);
        lesson_print_text(NULL, 0), printf("\n");
        lesson_csv_text(&csv, names[r]), lesson_csv_row(&csv, row, 3);
        x[r] = s, y[r] = 100 * again;
    }
    lesson_csv_close(&csv);
    plot *p = plot_new("Dull and wild: eight ways to choose", "mean surprise (nats a token)",
                       "repeated runs of eight tokens (percent)");
    for (int r = 0; r < 8; r++) plot_note(p, x[r], y[r], names[r]);
    lesson_save(p, "rules.png"), plot_free(p);
    printf("\n"), lesson_written("next.png, rules.png, log.csv");
    gpt_free(m), ag_free(ag), bpe_free(tokens);
    free(logits), free(probs), free(out);
    return lesson_end();
}
