// Lesson 08: how does a machine learn to write like Shakespeare?
//
//     cc -O3 examples/08_pretrain.c -o pretrain -lm && ./pretrain
//
// A GPT reads a text and guesses each next character. The loss is its mean surprise in nats: ln 65 = 4.17 for somebody
// who knows only that there are 65 characters, 3.35 for one who knows how often each occurs, 2.48 for one who also
// looks at the character before (lesson 03). Two numbers are drawn: on the text it learns from and on the last tenth,
// which it never sees; where the second stops falling, learning has become memorising.
//
//     ./pretrain                                nanoGPT's own recipe: 2,000 steps
//     ./pretrain recipe=fast                    the same size, today's parts and Muon: a lower loss in the same time
//     ./pretrain recipe=fast bf16=1             its matrix products in bfloat16: faster with AVX512-BF16 or AMX
//     ./pretrain data=mine.txt                  any text file of yours
//     ./pretrain recipe=fast preset=small       2.7 million parameters, contexts of 256: below 1.47, nanoGPT's on a GPU
//     ./pretrain recipe=fast qk_norm=0          each part of a recipe can be exchanged: tests/bench/ABLATION.md
//     ./pretrain recipe=base                    the base of lessons 10 to 16
//     ./pretrain resume=1                       goes on after Ctrl-C, which saves; steps=N goes further
//
// It prints    the sizes of everything, the validation loss every 250 steps, samples at steps 0, 20, 400 and the end;
//              the default ends at about 1.89, recipe=fast at about 1.55
// It writes    out/08/loss.png, out/08/log.csv    both losses
//              out/08/model.safetensors           what it learned, for later lessons (the one before is kept)
// It takes     30 seconds, recipe=fast 45, where nobody else uses the two cores; the base of later lessons 17 minutes.
// Next         09_sampling.c draws from this model in other ways.
//
// Exercises
//   1. steps=200 lr=0.1: where does the loss get stuck, and what could a model that far have said without looking back?
//      Where was the gradient clipped (grad_norm above 1 in out/08/log.csv)? Which lr= is best after 200 steps?
//   2. Stop a run with Ctrl-C and go on with resume=1. Compare log.csv with that of a run that was never stopped: every
//      train_loss must be the same to the last digit (only the clock's columns differ).
//   3. preset=nano-llama (with recipe=nanogpt): how much of the fast recipe's gain is the shape, how much is Muon?
#define AG_DIE_ON_ERROR
#define AUTOGRAD_IMPLEMENTATION
#define GPT_IMPLEMENTATION
#define BPE_DIE_ON_ERROR
#define BPE_IMPLEMENTATION
#include "../gpt.h"
#include "../bpe.h"
#include "lesson.h"
#include "plot.h"

// A recipe has a preset and a word or a number for all that can be chosen; an option takes the place of one of them.
// "" and -1 stand for what the preset has.
enum { TOKENIZER, NORM, POSITION, ACTIVATION, OPTIMIZER, SCHEDULE, ORDER, WORDS };
static const char *const words[WORDS][3] = {
    {"tokenizer", "char|bpe", "how text becomes numbers"},
    {"norm", "layernorm|rmsnorm", "instead of the preset's"},
    {"position", "learned|rotary", "instead of the preset's"},
    {"activation", "gelu|swiglu|relu2", "instead of the preset's, between the MLP's matrices"},
    {"optimizer", "adamw|muon", "instead of the recipe's"},
    {"schedule", "cosine|linear|constant", "of the learning rate, after the warm-up"},
    {"order", "random|shuffled", "windows at random places, or the whole text cut up and shuffled, again and again"}};
enum { LR, ADAM, MOMENTUM, WARMUP, DECAY, DROPOUT, GROW, REPEATS, TIED, QK_NORM, NUMBERS };
static const struct { const char *key; double most; const char *help; } numbers[NUMBERS] = {
    {"lr", 1e3, "peak learning rate; with Muon, that of the matrices (-1, here and below: the recipe's)"},
    {"adam", 1e3, "with Muon: AdamW's peak rate, for the embedding, the head and the norms"},
    {"momentum", 0.999, "Muon's"},
    {"warmup", 1e6, "steps in which the learning rate rises"},
    {"decay", 10, "weight decay of matrices"},
    {"dropout", 0.9, "after the embedding and each residual projection"},
    {"grow", 1, "share of the steps in which the batch grows, from a quarter to all of its windows"},
    {"repeats", 1, "share of windows whose passages repeat (lesson 10)"},
    {"tied", 1, "1: the head is the embedding table"},
    {"qk_norm", 1, "1: RMSNorm on queries and keys"}};
typedef struct {
    const char *name, *preset;
    int big, steps, batch, parts;           // big: for contexts above 64; parts: small enough for the caches
    const char *word[WORDS];
    double number[NUMBERS];
} recipe;
static const recipe recipes[] = {
    // nanoGPT's, config/train_shakespeare_char.py: its settings for a CPU, and those for a GPU
    {"nanogpt", "nano", 0, 2000, 12, 1, {"char", "", "", "", "adamw", "cosine", "random"},
     {1e-3, 0.01, 0.85, 100, 0.1, 0, 0, 0, -1, -1}},
    {"nanogpt", "baby", 1, 5000, 64, 32, {"char", "", "", "", "adamw", "cosine", "random"},
     {1e-3, 0.01, 0.85, 100, 0.1, 0.2, 0, 0, -1, -1}},
    // ours: what tests/bench/ABLATION.md has at the same cost is better by 0.011 at most
    {"fast", "nano-llama", 0, 2000, 12, 1, {"char", "", "", "", "muon", "linear", "shuffled"},
     {0.02, 0.01, 0.85, 10, 0, 0, 0, 0, -1, -1}},
    {"fast", "small", 1, 1500, 8, 1, {"char", "", "", "", "muon", "linear", "shuffled"},
     {0.02, 0.01, 0.85, 10, 0, 0, 0, 0, -1, -1}},
    // the model that lessons 10 to 16 stand on
    {"base", "small", 1, 3000, 8, 1, {"bpe", "", "", "", "muon", "linear", "random"},
     {0.03, 3e-3, 0.95, 20, 0, 0, 0, 0.5, -1, -1}}};

static const recipe *find_recipe(const char *name, int big) {
    const recipe *found = NULL;
    for (size_t i = 0; i < sizeof recipes / sizeof *recipes; i++)
        if (!strcmp(recipes[i].name, name) && (!found || recipes[i].big == big)) found = &recipes[i];
    if (!found) lesson_fail("there is no recipe %s", name);
    return found;
}

// What was not chosen is the recipe's; but an optimizer that is not the recipe's own brings its usual rates.
static void fill(const recipe *r, const char **word, double *number) {
    for (int i = 0; i < WORDS; i++) if (!*word[i]) word[i] = r->word[i];
    if (strcmp(word[OPTIMIZER], r->word[OPTIMIZER])) {
        const int muon = !strcmp(word[OPTIMIZER], "muon");
        const gpt_optimizer o = muon ? gpt_muon() : gpt_adamw();
        if (number[LR] < 0) number[LR] = muon ? o.lr_muon : o.lr;
        if (number[ADAM] < 0) number[ADAM] = o.lr;
        if (number[MOMENTUM] < 0) number[MOMENTUM] = o.momentum;
        if (number[DECAY] < 0) number[DECAY] = o.weight_decay;
    }
    for (int i = 0; i < NUMBERS; i++) if (number[i] < 0) number[i] = r->number[i];
}

static int print_token(void *user, int row, int id) {
    size_t size;
    const char *text = bpe_token((const bpe *)user, id, &size);
    lesson_print_text(text, size);
    return row;                                         // row 0 is the only one; 1 would end it
}

static void sample(gpt_model *m, bpe *tokens, long step, int length, int first) {
    gpt_sampling how = {0.8, 0, 0, 0, NULL, 0};         // temperature 0.8, no filter: lesson 09 tries the others
    int *ids = (int *)lesson_alloc((size_t)length, sizeof *ids);
    ag_rng saved = *ag_stream(m->ctx, AG_RNG_SAMPLE);   // looking must not change what is looked at
    lesson_report("--- what it writes after %ld steps", step);
    gpt_generate(m, &how, &first, 1, ids, length, print_token, tokens);
    lesson_print_text(NULL, 0), lesson_report("\n---");
    *ag_stream(m->ctx, AG_RNG_SAMPLE) = saved;
    free(ids);
}

// A run that goes on has the settings that it was begun with: the checkpoint's notes. An option must not contradict.
static const char *kept(const gpt_state *state, const char *key) {
    static char values[64][512];
    static int next;
    char *value = values[next++ & 63], stage[32];
    if (gpt_note(state, "stage", stage, sizeof stage))
        lesson_fail("this is no checkpoint of lesson 08, but of stage %s", stage);
    if (!gpt_note(state, key, value, 512))
        lesson_fail("this is no checkpoint of lesson 08, or of an older version of it: it does not note %s; begin anew",
                    key);
    lesson_unchanged(key, value);
    return value;
}

int main(int argc, char **argv) {
    lesson_begin(argc, argv, "08", "a GPT learns Shakespeare");
    const char *name = lesson_choice("recipe", "nanogpt", "nanogpt|fast|base", "nanoGPT's, ours, or lesson 10's");
    const char *preset = lesson_choice("preset", "", gpt_presets(), "default: the recipe's");
    const char *source = lesson_str("data", "", "a text file of yours (default: Tiny Shakespeare)");
    int vocab = lesson_int("vocab", 1024, "tokens to train for tokenizer=bpe");
    int steps = lesson_int("steps", 0, "optimizer steps (0: the recipe's)");
    int batch = lesson_int("batch", 0, "windows a step (0: the recipe's)");
    int parts = lesson_int_in("accumulate", 0, 0, 1000, "parts of a batch, one after the other (0: the recipe's)");
    int every = lesson_int_in("every", 250, 1, 1000000000, "steps between two evaluations, each followed by a save");
    int length = lesson_int_in("sample", 400, 1, 100000, "tokens to sample");
    int recompute = lesson_flag("recompute", 0, "norms and activations again in backward: less memory, the same bits");
    int bf16 = lesson_flag("bf16", 0, "matrix products in bfloat16: faster with AMX or AVX512-BF16");
    int seed = lesson_int("seed", 1337, "of everything random");
    const char *word[WORDS];
    double number[NUMBERS];
    for (int i = 0; i < NUMBERS; i++)
        number[i] = lesson_float_in(numbers[i].key, -1, -1, numbers[i].most, numbers[i].help);
    for (int i = 0; i < WORDS; i++) word[i] = lesson_choice(words[i][0], "", words[i][1], words[i][2]);
    int resume = lesson_flag("resume", 0, "go on from model.safetensors in its folder");
    lesson_options_end();
    for (int i = 0; i < NUMBERS; i++)
        if ((number[i] < 0 && number[i] != -1) || (i >= TIED && number[i] != floor(number[i])))
            lesson_fail("%s=%g: wanted %s", numbers[i].key, number[i], i >= TIED ? "0 or 1" : "0 or more");
    const char *path = lesson_path("model.safetensors");
    lesson_must_save();

    ag_ctx *ag = ag_new((unsigned long long)seed);
    bpe *tokens = bpe_new();
    gpt_state state;
    gpt_model *m = NULL;
    char notes[1600];
    memset(&state, 0, sizeof state);
    if (bf16) ag_set_matmul_precision(ag, AG_BF16);
    if (resume) {               // the checkpoint knows its text, its tokenizer, its recipe and how far it has come
        m = gpt_resume(ag, path, &state);
        bpe_load_mem(tokens, state.tokenizer, state.tokenizer_size);
        name = kept(&state, "recipe"), preset = kept(&state, "preset");
        vocab = atoi(kept(&state, "vocab")), seed = atoi(kept(&state, "seed"));
        batch = atoi(kept(&state, "batch")), parts = atoi(kept(&state, "accumulate"));
        for (int i = 0; i < WORDS; i++) word[i] = kept(&state, words[i][0]);
        for (int i = 0; i < NUMBERS; i++) number[i] = atof(kept(&state, numbers[i].key));
        if (!lesson_given("data")) source = kept(&state, "data");       // it may have moved, but not changed
        if (!steps) steps = atoi(kept(&state, "steps"));
        if (!lesson_given("every")) every = atoi(kept(&state, "every"));
        if (steps < state.step) lesson_fail("steps=%d: this run has done %lld; ask for more", steps, state.step);
        lesson_unchanged("bf16", ag_matmul_precision(ag) == AG_BF16 ? "1" : "0");
        if (bpe_vocab_size(tokens) != m->config.n_vocab || batch < 1 || parts < 1 || every < 1)
            lesson_fail("%s is damaged", path);
        if (state.other_path)
            printf("note: products were computed by %s, here it is %s: from here on other last bits\n", state.matmul,
                   ag_matmul_path(ag));
        printf("going on from step %lld of %d%s\n", state.step, steps, state.step < steps ? "" : " (steps=N goes on)");
    }

    const recipe *r = find_recipe(name, 0);
    gpt_config c = m ? m->config : gpt_preset(*preset ? preset : r->preset);
    r = find_recipe(name, c.n_ctx > 64);
    fill(r, word, number);
    if (!steps) steps = r->steps;
    if (!parts) parts = batch && batch != r->batch ? 1 : r->parts;
    if (!batch) batch = r->batch;
    const int muon = !strcmp(word[OPTIMIZER], "muon");
    if (!muon && (lesson_given("adam") || lesson_given("momentum")))
        lesson_fail("%s= is for Muon; add optimizer=muon, or set AdamW's rate by lr=",
                    lesson_given("adam") ? "adam" : "momentum");

    // The text: nine tenths to learn from, one tenth, the validation text, to be asked about.
    size_t bytes, cut;
    unsigned char *text = *source ? lesson_file(source, &bytes) : lesson_data("tinyshakespeare.txt", &bytes);
    unsigned sum = lesson_checksum(text, bytes);
    if (resume && sum != strtoul(kept(&state, "checksum"), NULL, 10))
        lesson_fail("data=%s: not the text that %s has learned from", source, path);
    for (cut = bytes * 9 / 10; cut < bytes && (text[cut] & 0xC0) == 0x80;) cut++;       // not inside a UTF-8 character
    if (!resume && *word[TOKENIZER] == 'c') bpe_chars(tokens, text, bytes);
    else if (!resume) bpe_train(tokens, text, cut, vocab, BPE_SPLIT_GPT2);
    int *train = (int *)lesson_alloc(bytes, sizeof *train), *val = train + cut;     // no more tokens than bytes
    size_t n_train = (size_t)bpe_encode(tokens, text, cut, train, cut);
    size_t n_val = (size_t)bpe_encode(tokens, text + cut, bytes - cut, val, bytes - cut);

    // The model: the preset's, but for the parts that were chosen one by one.
    const int llama = c.shape == GPT_SHAPE_LLAMA, T = c.n_ctx;
    if (!*word[NORM]) word[NORM] = llama ? "rmsnorm" : "layernorm";
    if (!*word[POSITION]) word[POSITION] = llama ? "rotary" : "learned";
    if (!*word[ACTIVATION]) word[ACTIVATION] = llama ? "swiglu" : "gelu";
    if (number[TIED] < 0) number[TIED] = c.tied;
    if (number[QK_NORM] < 0) number[QK_NORM] = c.qk_norm && *word[POSITION] == 'r';     // learned positions: without
    if (number[QK_NORM] > 0 && *word[POSITION] == 'l')
        lesson_fail("qk_norm=1 wants rotary positions: take position=rotary, or leave out qk_norm=1");
    if (!m) {
        const int swiglu = *word[ACTIVATION] == 's', gelu = *word[ACTIVATION] == 'g';
        c.n_vocab = bpe_vocab_size(tokens);
        c.norm = *word[NORM] == 'l' ? GPT_LAYERNORM : GPT_RMSNORM;
        c.position = *word[POSITION] == 'l' ? GPT_LEARNED : GPT_ROTARY;
        c.mlp = swiglu ? GPT_SWIGLU : gelu ? GPT_GELU : GPT_RELU2;
        if (swiglu != llama)                // SwiGLU has three matrices, the others two: equal weight in all
            c.n_hidden = swiglu ? (8 * c.n_embd / 3 + 31) / 32 * 32 : 4 * c.n_embd;
        c.tied = number[TIED] > 0, c.qk_norm = number[QK_NORM] > 0, c.dropout = number[DROPOUT];
    }
    gpt_optimizer optimizer = muon ? gpt_muon() : gpt_adamw();
    optimizer.lr = muon ? number[ADAM] : number[LR], optimizer.lr_muon = number[LR];
    optimizer.momentum = number[MOMENTUM], optimizer.weight_decay = number[DECAY];
    if (batch % parts)
        lesson_fail("batch=%d does not divide into accumulate=%d parts; try accumulate=%d", batch, parts, batch);
    if (n_train < (size_t)T + 1 || n_val < 2)
        lesson_fail("the text has %d tokens; a context of %d needs at least %d: give a longer file with data=",
                    (int)(n_train + n_val), T, (T + 1) * 10 / 9 + 2);

    c.recompute = recompute;
    if (m) m->config.recompute = recompute;
    gpt_memory memory = gpt_memory_needed(&c, batch / parts, T, optimizer.kind);
    printf("%s: %s parameters, %d layers, %d heads, %d channels, context %d, vocabulary %d; %s on %d thread%s, %s\n",
           c.name, lesson_commas(gpt_count(&c)), c.n_layer, c.n_head, c.n_embd, T, c.n_vocab, ag_backend_name(ag),
           ag_threads(ag), ag_threads(ag) == 1 ? "" : "s", ag_matmul_path(ag));
    printf("memory: parameters %s, gradients %s, optimizer %s, activations %s\n", lesson_bytes(memory.params),
           lesson_bytes(memory.grads), lesson_bytes(memory.optimizer), lesson_bytes(memory.activations));
    printf("recipe %s: %s, %s positions, %s, head %s; %s %g, %s; %s windows\n", name, word[NORM], word[POSITION],
           word[ACTIVATION], number[TIED] > 0 ? "tied" : "of its own", word[OPTIMIZER], number[LR], word[SCHEDULE],
           word[ORDER]);
    lesson_report("text: %s tokens to learn from, %s to be asked about; %d steps of %d windows of %d",
                  lesson_commas(n_train), lesson_commas(n_val), steps, batch, T);
    if (!m) m = gpt_new(ag, &c);
    if (!resume) lesson_keep(path);

    gpt_loader loader = gpt_loader_new(ag, train, n_train, *word[ORDER] == 's' ? GPT_SHUFFLED : GPT_RANDOM);
    int *x = (int *)lesson_alloc((size_t)batch * T, sizeof *x), *y = (int *)lesson_alloc((size_t)batch * T, sizeof *y);
    size_t tokenizer_size = (size_t)bpe_save_mem(tokens, NULL, 0);
    unsigned char *tokenizer = (unsigned char *)lesson_alloc(tokenizer_size, 1);
    bpe_save_mem(tokens, tokenizer, tokenizer_size);
    int used = snprintf(notes, sizeof notes, "recipe=%s\npreset=%s\ndata=%.500s\nchecksum=%u\nvocab=%d\nsteps=%d\n"
                        "batch=%d\naccumulate=%d\nseed=%d\nevery=%d\n", name, c.name, source, sum, vocab, steps, batch,
                        parts, seed, every);
    for (int i = 0; i < WORDS; i++)
        used += snprintf(notes + used, sizeof notes - (size_t)used, "%s=%s\n", words[i][0], word[i]);
    for (int i = 0; i < NUMBERS; i++)
        used += snprintf(notes + used, sizeof notes - (size_t)used, "%s=%.15g\n", numbers[i].key, number[i]);
    loader.cursor = state.cursor, loader.repeats = number[REPEATS];
    lesson_log_open(resume ? (long long)state.step : -1);
    const int eval_rows = batch / parts < 8 ? 4 * (batch / parts) : 32;     // no more memory than training takes
    int newline = bpe_find(tokens, "\n", 1), first = newline >= 0 ? newline : train[0];

    double busy = 0, speed = 0, trained = 0, train_loss = resume ? state.train_loss : NAN;
    double best = state.step ? state.best_val_loss : HUGE_VAL;
    int done = (int)state.step;
    for (;; done++) {
        int last = done >= steps || lesson_interrupted();
        int measure = last || done % every == 0 || done == 20 || done == 100;
        double val_loss = measure ? gpt_eval(m, val, n_val, eval_rows) : LESSON_NONE;
        if (measure && val_loss < best) best = val_loss;
        if (measure)
            lesson_report("step %5d: validation loss %.4f, %.3f bits a byte", done, val_loss,
                          val_loss * (double)(n_val - 1) / 0.69314718056 / (double)(bytes - cut));
        if (done == 0 || done == 20 || done == 400 || done >= steps) sample(m, tokens, done, length, first);
        if (last || (measure && done > 0)) {
            gpt_state save = state;
            save.step = done, save.cursor = loader.cursor, save.notes = notes;
            save.tokenizer = tokenizer, save.tokenizer_size = tokenizer_size;
            save.train_loss = train_loss, save.val_loss = val_loss, save.best_val_loss = best;
            gpt_save(m, path, &save);
        }
        if (last) { lesson_log(done, LESSON_NONE, val_loss, LESSON_NONE, LESSON_NONE, LESSON_NONE); break; }

        double start = lesson_seconds(), norm;
        double factor = !strcmp(word[SCHEDULE], "cosine")
                            ? gpt_lr_cosine(done, (long)number[WARMUP], steps, 0.1)
                            : gpt_lr_linear(done, (long)number[WARMUP], steps, *word[SCHEDULE] == 'l' ? 0.7 : 0);
        int windows = batch;
        if (number[GROW] > 0)           // a coarse direction is good enough at first, and costs less
            windows = parts * (int)ceil(batch / parts * fmin(1, 0.25 + 0.75 * done / (number[GROW] * steps)));
        train_loss = 0;
        for (int part = 0; part < parts; part++) {
            gpt_next(&loader, windows / parts, T, x, y);
            ag_tensor *loss = ag_cross_entropy(gpt_forward(m, x, windows / parts, T), y, NULL);
            ag_backward(parts > 1 ? ag_scale(loss, 1.0 / parts) : loss);
            train_loss += ag_item(loss) / parts;
            if (part + 1 < parts) ag_reset(ag);
        }
        gpt_step(m, &optimizer, factor, &norm);
        ag_reset(ag);
        busy += lesson_seconds() - start;
        trained += (double)windows * T, speed = trained / busy;
        lesson_log(done, train_loss, val_loss, number[LR] * factor, norm, speed);
        lesson_progress(done + 1, steps, train_loss, speed);
    }

    printf("%d steps, %s of training, %s tokens a second\n", done - (int)state.step, lesson_duration(busy),
           lesson_commas((long long)speed));
    char where[64];
    snprintf(where, sizeof where, " at step %d of %d", done, steps);
    if (done < steps) lesson_stopped(where);
    plot *p = plot_new("Learning to write like Shakespeare", "step",
                       *word[TOKENIZER] == 'c' ? "loss (nats a character)" : "loss (nats a token)");
    char subtitle[160];
    snprintf(subtitle, sizeof subtitle, "%s, %s parameters, recipe %s", c.name, lesson_commas(gpt_count(&c)), name);
    plot_subtitle(p, subtitle);
    plot_csv(p, "train", lesson_path("log.csv"), "step", "train_loss");
    plot_csv(p, "validation", lesson_path("log.csv"), "step", "val_loss"), plot_dots(p);
    if (!*source && *word[TOKENIZER] == 'c') plot_hline(p, 2.482, "pairs of characters (lesson 03)");
    lesson_save(p, "loss.png"), plot_free(p);
    lesson_written("loss.png, log.csv, model.safetensors");
    gpt_free(m), ag_free(ag), bpe_free(tokens), gpt_state_free(&state);
    free(text), free(train), free(x), free(y), free(tokenizer);
    return lesson_end();
}
