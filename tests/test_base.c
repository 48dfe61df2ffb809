// test_base.c - examples/10_base_model.c: what is known by heart is what goes on as the text does, and nothing else.
#define main lesson_main
#include "../examples/10_base_model.c"
#undef main
#include "test.h"

// A model that has read "abcdefghij" over and over, and nothing backwards.
static stage reader(ag_ctx *ag, char text[1201], char back[1201]) {
    stage s = stage_new(ag);
    for (int i = 0; i < 1200; i++) text[i] = (char)('a' + i % 10), back[i] = (char)('a' + 9 - i % 10);
    text[1200] = back[1200] = 0;
    bpe_chars(s.tokens, text, 1200);
    gpt_config c = gpt_preset("nano-llama");
    c.n_vocab = bpe_vocab_size(s.tokens), c.n_layer = 1, c.n_head = c.n_kv_head = 2, c.n_embd = 16, c.n_hidden = 32;
    c.n_ctx = 96;
    s.model = gpt_new(ag, &c);
    int n, x[4 * 96], y[4 * 96], *ids = stage_ids(&s, text, &n);
    gpt_optimizer o = gpt_adamw();
    gpt_loader loader = gpt_loader_new(ag, ids, (size_t)n, GPT_RANDOM);
    o.lr = 1e-2;
    for (int step = 0; step < 60; step++) {
        gpt_next(&loader, 4, 96, x, y);
        ag_backward(ag_cross_entropy(gpt_forward(s.model, x, 4, 96), y, NULL));
        gpt_step(s.model, &o, 1, NULL), ag_reset(ag);
    }
    free(ids);
    return s;
}

// Forwards it knows all that it is asked for, 40 characters. Backwards it goes on as it has learned to, and though all
// of that stands in the prompts or in the text that it has read, it is not how the text goes on.
static void by_heart_is_what_goes_on(void) {
    static char text[1201], back[1201];
    ag_ctx *ag = ag_new(1);
    stage s = reader(ag, text, back);
    char *piece;
    double average;
    int n, *ids = stage_ids(&s, text, &n);
    CHECK_INT(verbatim(&s, ids, n, &average, &piece), 40);
    CHECK_NEAR(average, 40, 1e-9);
    CHECK_INT(strlen(piece), 40);
    CHECK(strstr(text, piece) != NULL);
    free(ids), free(piece), ids = stage_ids(&s, back, &n);
    CHECK_INT(verbatim(&s, ids, n, &average, &piece), 0);
    CHECK(average == 0 && !*piece);
    free(ids), free(piece);
    memcpy(text + 1180, "jjjjjjjjjj", 10);          // a text that it knows but for its end
    ids = stage_ids(&s, text, &n);
    CHECK_INT(verbatim(&s, ids, n, &average, &piece), 40);
    CHECK(average < 40 && average > 30);
    free(ids), free(piece), stage_free(&s), ag_free(ag);
}

int main(int argc, char **argv) {
    T_BEGIN("base");
    T_RUN(by_heart_is_what_goes_on);
    return T_END();
}
