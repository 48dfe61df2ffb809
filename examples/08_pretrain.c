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
//     ./pretrain recipe=fast preset=small tokenizer=bpe repeats=0.5 steps=3000       the base of lessons 10 to 22
//     ./pretrain resume=1                       goes on after Ctrl-C, which saves; steps=N goes further
//
// It prints    the sizes of everything, the validation loss every 250 steps, samples at steps 0, 20, 400 and the end;
//              the default ends at about 1.89, recipe=fast at about 1.58
// It writes    out/08/loss.png, out/08/log.csv    both losses
//              out/08/model.safetensors           what it learned, for later lessons (the one before is kept)
// It takes     75 seconds, recipe=fast 85; the base of later lessons 17 minutes.
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
    static char values[16][512];
    static int next;
    char *value = values[next++ & 15], stage[32];
    if (gpt_note(state, "stage", stage, sizeof stage))
        lesson_fail("this is no checkpoint of lesson 08, but of stage %s", stage);
    if (!gpt_note(state, key, value, 512)) lesson_fail("this is no checkpoint of lesson 08: it does not note %s", key);
    lesson_unchanged(key, value);
    return value;
}

int main(int argc, char **argv) {
    lesson_begin(argc, argv, "08", "a GPT learns Shakespeare");
    const char *recipe = lesson_choice("recipe", "nanogpt", "nanogpt|fast", "AdamW and a cosine, or Muon and a line");
    const char *preset = lesson_choice("preset", "", gpt_presets(), "default: nano, with recipe=fast nano-llama");
    const char *source = lesson_str("data", "", "a text file of yours (default: Tiny Shakespeare)");
    const char *kind = lesson_choice("tokenizer", "char", "char|bpe", "how text becomes numbers");
    int vocab = lesson_int("vocab", 1024, "tokens to train for tokenizer=bpe");
    int steps = lesson_int("steps", 0, "optimizer steps (0: the recipe's)");
    int batch = lesson_int("batch", 0, "windows a step (0: the preset's)");
    int parts = lesson_int_in("accumulate", 1, 1, 1000, "parts that a batch is computed in, to save memory");
    double lr = lesson_float("lr", 0, "peak learning rate (0: the recipe's; with Muon, that of the matrices)");
    double repeats = lesson_float_in("repeats", 0, 0, 1, "share of windows whose passages repeat (lesson 10)");
    int every = lesson_int_in("every", 250, 1, 1000000000, "steps between two evaluations, each followed by a save");
    int length = lesson_int_in("sample", 400, 1, 100000, "tokens to sample");
    int bf16 = lesson_flag("bf16", 0, "matrix products in bfloat16: faster with AMX or AVX512-BF16");
    int seed = lesson_int("seed", 1337, "of everything random");
    int resume = lesson_flag("resume", 0, "go on from model.safetensors in its folder");
    lesson_options_end();
    const char *path = lesson_path("model.safetensors");
    lesson_must_save();

    ag_ctx *ag = ag_new((unsigned long long)seed);
    bpe *tokens = bpe_new();
    gpt_state state;
    gpt_model *m = NULL;
    char notes[1200];
    memset(&state, 0, sizeof state);
    if (bf16) ag_set_matmul_precision(ag, AG_BF16);
    if (resume) {               // the checkpoint knows its text, its tokenizer, its recipe and how far it has come
        m = gpt_resume(ag, path, &state);
        bpe_load_mem(tokens, state.tokenizer, state.tokenizer_size);
        recipe = kept(&state, "recipe"), preset = kept(&state, "preset"), kind = kept(&state, "tokenizer");
        vocab = atoi(kept(&state, "vocab")), seed = atoi(kept(&state, "seed")), lr = atof(kept(&state, "lr"));
        batch = atoi(kept(&state, "batch")), parts = atoi(kept(&state, "accumulate"));
        repeats = atof(kept(&state, "repeats"));
        if (!lesson_given("data")) source = kept(&state, "data");       // it may have moved, but not changed
        if (!steps) steps = atoi(kept(&state, "steps"));
        if (!lesson_given("every")) every = atoi(kept(&state, "every"));
        if (bpe_vocab_size(tokens) != m->config.n_vocab || batch < 1 || parts < 1 || every < 1)
            lesson_fail("%s is damaged", path);
        if (state.other_path)
            printf("note: products were computed by %s, here it is %s: from here on other last bits\n", state.matmul,
                   ag_matmul_path(ag));
        printf("going on from step %lld of %d%s\n", state.step, steps, state.step < steps ? "" : " (steps=N goes on)");
    }

    // The text: nine tenths to learn from, one tenth, the validation text, to be asked about.
    size_t bytes, cut;
    unsigned char *text = *source ? lesson_file(source, &bytes) : lesson_data("tinyshakespeare.txt", &bytes);
    unsigned sum = lesson_checksum(text, bytes);
    if (resume && sum != strtoul(kept(&state, "checksum"), NULL, 10))
        lesson_fail("data=%s: not the text that %s has learned from", source, path);
    for (cut = bytes * 9 / 10; cut < bytes && (text[cut] & 0xC0) == 0x80;) cut++;       // not inside a UTF-8 character
    if (!resume) *kind == 'c' ? bpe_chars(tokens, text, bytes) : bpe_train(tokens, text, cut, vocab, BPE_SPLIT_GPT2);
    int *train = (int *)lesson_alloc(bytes, sizeof *train), *val = train + cut;     // no more tokens than bytes
    size_t n_train = (size_t)bpe_encode(tokens, text, cut, train, cut);
    size_t n_val = (size_t)bpe_encode(tokens, text + cut, bytes - cut, val, bytes - cut);

    // The model, and nanoGPT's settings (config/train_shakespeare_char.py and its CPU variant) or ours.
    int fast = !strcmp(recipe, "fast");
    gpt_config c = m ? m->config : gpt_preset(*preset ? preset : fast ? "nano-llama" : "nano");
    if (!m) c.n_vocab = bpe_vocab_size(tokens), c.dropout = !fast && !strcmp(c.name, "baby") ? 0.2 : 0;
    int big = c.n_ctx > 64, T = c.n_ctx;
    if (!steps) steps = fast ? 2000 : (big ? 5000 : 2000);
    if (!batch) batch = big ? (fast ? 8 : 64) : 12;
    gpt_optimizer optimizer = fast ? gpt_muon() : gpt_adamw();
    double *peak = fast ? &optimizer.lr_muon : &optimizer.lr;
    if (lr > 0) *peak = lr;
    if (batch % parts)
        lesson_fail("batch=%d does not divide into accumulate=%d parts; try accumulate=%d", batch, parts, batch);
    if (n_train < (size_t)T + 1 || n_val < 2)
        lesson_fail("the text has %d tokens; a context of %d needs at least %d", (int)(n_train + n_val), T,
                    (T + 1) * 10 / 9 + 2);

    gpt_memory memory = gpt_memory_needed(&c, batch / parts, T, optimizer.kind);
    printf("%s: %s parameters, %d layers, %d heads, %d channels, context %d, vocabulary %d; %s on %d threads, %s\n",
           c.name, lesson_commas(gpt_count(&c)), c.n_layer, c.n_head, c.n_embd, T, c.n_vocab, ag_backend_name(ag),
           ag_threads(ag), ag_matmul_path(ag));
    printf("memory: parameters %s, gradients %s, optimizer %s, activations %s\n", lesson_bytes(memory.params),
           lesson_bytes(memory.grads), lesson_bytes(memory.optimizer), lesson_bytes(memory.activations));
    lesson_report("text: %s tokens to learn from, %s to be asked about; %d steps of %d windows of %d, recipe %s",
                  lesson_commas(n_train), lesson_commas(n_val), steps, batch, T, recipe);
    if (!m) m = gpt_new(ag, &c);
    if (!resume) lesson_keep(path);

    gpt_loader loader = gpt_loader_new(ag, train, n_train, GPT_RANDOM);
    int *x = (int *)lesson_alloc((size_t)batch * T, sizeof *x), *y = (int *)lesson_alloc((size_t)batch * T, sizeof *y);
    size_t tokenizer_size = (size_t)bpe_save_mem(tokens, NULL, 0);
    unsigned char *tokenizer = (unsigned char *)lesson_alloc(tokenizer_size, 1);
    bpe_save_mem(tokens, tokenizer, tokenizer_size);
    snprintf(notes, sizeof notes, "recipe=%s\npreset=%s\ndata=%.500s\nchecksum=%u\ntokenizer=%s\nvocab=%d\nsteps=%d\n"
             "batch=%d\naccumulate=%d\nlr=%.15g\nrepeats=%.15g\nseed=%d\nevery=%d\n", recipe, c.name, source, sum,
             kind, vocab, steps, batch, parts, *peak, repeats, seed, every);
    loader.cursor = state.cursor, loader.repeats = repeats;
    lesson_log_open(resume ? (long long)state.step : -1);
    int newline = bpe_find(tokens, "\n", 1), first = newline >= 0 ? newline : train[0];

    double busy = 0, speed = 0, train_loss = NAN, best = state.step ? state.best_val_loss : HUGE_VAL;
    int done = (int)state.step;
    for (;; done++) {
        int last = done >= steps || lesson_interrupted();
        int measure = last || done % every == 0 || done == 20 || done == 100;
        double val_loss = measure ? gpt_eval(m, val, n_val, 32) : LESSON_NONE;
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
        double factor = fast ? gpt_lr_linear(done, 20, steps, 0.7) : gpt_lr_cosine(done, 100, steps, 0.1);
        train_loss = 0;
        for (int part = 0; part < parts; part++) {
            gpt_next(&loader, batch / parts, T, x, y);
            ag_tensor *loss = ag_cross_entropy(gpt_forward(m, x, batch / parts, T), y, NULL);
            ag_backward(ag_scale(loss, 1.0 / parts));
            train_loss += ag_item(loss) / parts;
            ag_reset(ag);
        }
        gpt_step(m, &optimizer, factor, &norm);
        busy += lesson_seconds() - start;
        speed = (double)(done + 1 - state.step) * batch * T / busy;
        lesson_log(done, train_loss, val_loss, *peak * factor, norm, speed);
        lesson_progress(done + 1, steps, train_loss, speed);
    }

    printf("%d steps, %s of training, %s tokens a second\n", done - (int)state.step, lesson_duration(busy),
           lesson_commas((long long)speed));
    if (done < steps) printf("stopped at step %d of %d; go on with %s resume=1\n", done, steps, argv[0]);
    plot *p = plot_new("Learning to write like Shakespeare", "step",
                       *kind == 'c' ? "loss (nats a character)" : "loss (nats a token)");
    char subtitle[160];
    snprintf(subtitle, sizeof subtitle, "%s, %s parameters, recipe %s", c.name, lesson_commas(gpt_count(&c)), recipe);
    plot_subtitle(p, subtitle);
    plot_csv(p, "train", lesson_path("log.csv"), "step", "train_loss");
    plot_csv(p, "validation", lesson_path("log.csv"), "step", "val_loss"), plot_dots(p);
    if (!*source && *kind == 'c') plot_hline(p, 2.482, "pairs of characters (lesson 03)");
    lesson_save(p, "loss.png"), plot_free(p);
    lesson_written("loss.png, log.csv, model.safetensors");
    gpt_free(m), ag_free(ag), bpe_free(tokens), gpt_state_free(&state);
    free(text), free(train), free(x), free(y), free(tokenizer);
    return lesson_end();
}
