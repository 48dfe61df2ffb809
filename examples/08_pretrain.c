// 08_pretrain - how does a machine learn to write like Shakespeare?
//
//     cc -O3 examples/08_pretrain.c -o pretrain -lm
//     ./pretrain                                   nanoGPT's own recipe: 2,000 steps, two to three minutes on two cores
//     ./pretrain recipe=fast                       the same size, today's parts and Muon: a lower loss in less time
//     ./pretrain data=mine.txt                     any text file of yours
//     ./pretrain preset=small tokenizer=bpe        the base of lessons 10 and later (an hour; Ctrl-C saves, resume=1 goes on)
//
// A GPT reads a text and guesses each next character. The loss is its mean surprise in nats: ln 65 = 4.17 for somebody
// who knows only that there are 65 characters, 3.35 for one who knows how often each occurs, 2.48 for one who also looks at
// the character before (lesson 03). Two numbers are drawn: on the text it learns from and on the last tenth, which it
// never sees; where the second stops falling, learning has become memorising.
//
// It prints the sizes of everything, samples at steps 0, 20, 400 and the end, and writes out/08/: loss.png, log.csv and
// model.safetensors, which later lessons load. The default ends at a validation loss of about 1.89, recipe=fast below 1.65.
//
// Next: 09_sampling, which draws from this model in other ways.
//
// Exercises
// 1. ./pretrain steps=200 lr=0.1: what happens to the loss, and what does the library do about it? (Look at grad_norm in
//    out/08/log.csv.) Find the largest rate that still learns.
// 2. Stop a run with Ctrl-C and go on with resume=1. Compare log.csv with that of a run that was never stopped: every
//    train_loss must be the same to the last digit (only the clock's columns differ).
// 3. ./pretrain preset=nano-llama recipe=nanogpt: how much of the fast recipe's gain is the shape, how much is Muon?
#define AG_DIE_ON_ERROR
#define AUTOGRAD_IMPLEMENTATION
#define GPT_IMPLEMENTATION
#define BPE_DIE_ON_ERROR
#define BPE_IMPLEMENTATION
#include "../gpt.h"
#include "../bpe.h"
#include "lesson.h"
#include "plot.h"

static int *encode(const bpe *tokens, const unsigned char *text, size_t bytes, size_t *n) {
    long need = bpe_encode(tokens, text, bytes, NULL, 0);
    int *ids = (int *)malloc(((size_t)need + 1) * sizeof *ids);
    if (!ids) lesson_fail("out of memory for %ld tokens", need);
    *n = (size_t)bpe_encode(tokens, text, bytes, ids, (size_t)need);
    return ids;
}

static void sample(gpt_model *m, const bpe *tokens, long step, int length, int first) {
    gpt_sampling how = {0.8, 0, 0, 0, NULL, 0};         // temperature 0.8, no filter: lesson 09 tries the others
    int *ids = (int *)malloc((size_t)length * sizeof *ids);
    char *text = (char *)malloc((size_t)length * 64);
    ag_rng saved = *ag_stream(m->ctx, AG_RNG_SAMPLE);   // looking must not change what is looked at
    int n = ids && text ? gpt_generate(m, &how, &first, 1, ids, length, NULL, NULL) : 0;
    long bytes = bpe_decode(tokens, ids, (size_t)n, text, (size_t)length * 64);
    *ag_stream(m->ctx, AG_RNG_SAMPLE) = saved;
    lesson_report("--- what it writes after %ld steps", step);
    lesson_print_text(text, (size_t)(bytes < (long)length * 64 ? bytes : (long)length * 64));
    lesson_report("\n---");
    free(ids), free(text);
}

static int number(const gpt_state *state, const char *key) {
    char value[64];
    return gpt_note(state, key, value, sizeof value) ? atoi(value) : 0;
}

int main(int argc, char **argv) {
    lesson_begin(argc, argv, "08", "a GPT learns Shakespeare");
    int fast = !strcmp(lesson_choice("recipe", "nanogpt", "nanogpt|fast", "AdamW and a cosine, or Muon and a straight line"), "fast");
    const char *preset = lesson_str("preset", "", "the model (default: nano, with recipe=fast nano-llama)");
    const char *source = lesson_str("data", "", "a text file of yours (default: Tiny Shakespeare)");
    const char *kind = lesson_choice("tokenizer", "char", "char|bpe", "how text becomes numbers");
    int vocab = lesson_int("vocab", 1024, "tokens to train for tokenizer=bpe");
    int steps = lesson_int("steps", 0, "optimizer steps (0: the recipe's)");
    int batch = lesson_int("batch", 0, "windows a step (0: the preset's)");
    int parts = lesson_int_in("accumulate", 1, 1, 1000, "parts that a batch is computed in: less memory, the same step");
    double lr = lesson_float("lr", 0, "peak learning rate (0: the recipe's; with Muon, that of the matrices)");
    int every = lesson_int_in("every", 250, 1, 1000000000, "steps between two evaluations, each followed by a save");
    int length = lesson_int_in("sample", 400, 1, 100000, "tokens to sample");
    int seed = lesson_int("seed", 1337, "of everything random");
    int resume = lesson_flag("resume", 0, "go on from out/08/model.safetensors");
    const char *path = lesson_path("model.safetensors");
    lesson_options_end();

    ag_ctx *ag = ag_new((unsigned long long)seed);
    bpe *tokens = bpe_new();
    gpt_state state;
    gpt_model *m = NULL;
    char noted[512] = "";
    memset(&state, 0, sizeof state);
    if (!resume && !rename(path, lesson_path("previous.safetensors")))
        printf("the model that was there is kept as %s\n", lesson_path("previous.safetensors"));
    if (resume) {               // the checkpoint knows its text, its tokenizer, its recipe and how far it has come
        m = gpt_resume(ag, path, &state);
        bpe_load_mem(tokens, state.tokenizer, state.tokenizer_size);
        if (!*source && gpt_note(&state, "data", noted, sizeof noted)) source = noted;
        steps = steps ? steps : number(&state, "steps"), batch = number(&state, "batch"), parts = number(&state, "accumulate");
        fast = number(&state, "fast"), lr = number(&state, "millionths") * 1e-6;
        printf("going on from step %lld of %d%s\n", state.step, steps, state.step < steps ? "" : ": done; steps=N goes further");
        if (bpe_vocab_size(tokens) != m->config.n_vocab || batch < 1 || parts < 1) lesson_fail("%s is not a checkpoint of this lesson", path);
    }

    // The text: nine tenths to learn from, one tenth, the validation text, to be asked about.
    size_t bytes, cut, n_train, n_val;
    unsigned char *text = *source ? lesson_file(source, &bytes) : lesson_data("tinyshakespeare.txt", &bytes);
    if (resume && number(&state, "bytes") != (int)bytes)
        lesson_fail("this text has %d bytes, the checkpoint learned from one of %d: give that one as data=", (int)bytes, number(&state, "bytes"));
    for (cut = bytes * 9 / 10; cut < bytes && (text[cut] & 0xC0) == 0x80;) cut++;       // not inside a UTF-8 character
    if (!resume) *kind == 'c' ? bpe_chars(tokens, text, bytes) : bpe_train(tokens, text, cut, vocab, BPE_SPLIT_GPT2);
    int *train = encode(tokens, text, cut, &n_train), *val = encode(tokens, text + cut, bytes - cut, &n_val);

    // The model, and nanoGPT's settings (config/train_shakespeare_char.py and its CPU variant) or ours.
    gpt_config c = m ? m->config : gpt_preset(*preset ? preset : fast ? "nano-llama" : "nano");
    if (!m) c.n_vocab = bpe_vocab_size(tokens), c.dropout = !fast && !strcmp(c.name, "baby") ? 0.2 : 0;
    int big = c.n_ctx > 64, T = c.n_ctx;
    if (!steps) steps = fast ? 2000 : (big ? 5000 : 2000);
    if (!batch) batch = big ? (fast ? 8 : 64) : 12;
    gpt_optimizer optimizer = fast ? gpt_muon() : gpt_adamw();
    if (lr > 0) *(fast ? &optimizer.lr_muon : &optimizer.lr) = lr;
    if (batch % parts) lesson_fail("batch=%d does not divide into accumulate=%d parts; try accumulate=%d", batch, parts, batch);
    if (T > 0 && (n_train < (size_t)T + 1 || n_val < 2))
        lesson_fail("the text has %d tokens; a context of %d needs at least %d", (int)(n_train + n_val), T, (T + 1) * 10 / 9 + 2);

    gpt_memory memory = gpt_memory_needed(&c, batch / parts, T, optimizer.kind);
    printf("%s: %s parameters, %d layers, %d heads, %d channels, context %d, vocabulary %d; %s, %d thread%s\n", c.name,
           lesson_commas((long long)gpt_count(&c)), c.n_layer, c.n_head, c.n_embd, T, c.n_vocab, ag_backend_name(ag),
           ag_threads(ag), ag_threads(ag) == 1 ? "" : "s");
    printf("memory: parameters %s, gradients %s, optimizer %s, activations %s\n", lesson_bytes((double)memory.params),
           lesson_bytes((double)memory.grads), lesson_bytes((double)memory.optimizer), lesson_bytes((double)memory.activations));
    printf("text: %s tokens to learn from, %s to be asked about; %d steps of %d windows of %d, recipe %s\n",
           lesson_commas((long long)n_train), lesson_commas((long long)n_val), steps, batch, T, fast ? "fast" : "nanogpt");
    fflush(stdout);
    if (!m) m = gpt_new(ag, &c);

    gpt_loader loader = gpt_loader_new(ag, train, n_train, GPT_RANDOM);
    char notes[1024];
    int *x = (int *)malloc((size_t)batch * T * sizeof *x), *y = (int *)malloc((size_t)batch * T * sizeof *y);
    long tokenizer_size = bpe_save_mem(tokens, NULL, 0);
    unsigned char *tokenizer = (unsigned char *)malloc((size_t)tokenizer_size);
    if (!x || !y || !tokenizer) lesson_fail("out of memory for %d windows of %d; try a smaller batch=", batch, T);
    bpe_save_mem(tokens, tokenizer, (size_t)tokenizer_size);
    snprintf(notes, sizeof notes, "data=%.500s\nbytes=%d\nfast=%d\nsteps=%d\nbatch=%d\naccumulate=%d\nmillionths=%.0f\n", source,
             (int)bytes, fast, steps, batch, parts, lr * 1e6);
    loader.cursor = state.cursor;
    lesson_log_open(resume ? (long long)state.step : -1);
    int newline = bpe_find(tokens, "\n", 1), first = newline >= 0 ? newline : train[0];

    double busy = 0, speed = 0, train_loss = NAN;
    int done = (int)state.step;
    for (;; done++) {
        int last = done >= steps || lesson_interrupted(), measure = last || done % every == 0 || done == 20 || done == 100;
        double val_loss = measure ? gpt_eval(m, val, n_val, 32) : LESSON_NONE;
        if (measure)
            lesson_report("step %5d: validation loss %.4f, %.3f bits a byte", done, val_loss,
                          val_loss * (double)(n_val - 1) / 0.69314718056 / (double)(bytes - cut));
        if (done == 0 || done == 20 || done == 400 || done >= steps) sample(m, tokens, done, length, first);
        if (last || (measure && done > 0)) {
            gpt_state save = {done, loader.cursor, train_loss, val_loss, val_loss, notes, tokenizer, (size_t)tokenizer_size, 0};
            gpt_save(m, path, &save);
        }
        if (last) { lesson_log(done, LESSON_NONE, val_loss, LESSON_NONE, LESSON_NONE, LESSON_NONE); break; }

        double start = lesson_seconds(), norm, factor = fast ? gpt_lr_linear(done, 20, steps, 0.7) : gpt_lr_cosine(done, 100, steps, 0.1);
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
        lesson_log(done, train_loss, val_loss, (fast ? optimizer.lr_muon : optimizer.lr) * factor, norm, speed);
        lesson_progress(done + 1, steps, train_loss, speed);
    }

    printf("%d steps, %s of training, %s tokens a second\n", done - (int)state.step, lesson_duration(busy), lesson_commas((long long)speed));
    if (done < steps) printf("stopped at step %d of %d; go on with %s resume=1\n", done, steps, argv[0]);
    plot *p = plot_new("Learning to write like Shakespeare", "step", "loss (nats a token)");
    char subtitle[160];
    snprintf(subtitle, sizeof subtitle, "%s, %s parameters, recipe %s", c.name, lesson_commas((long long)gpt_count(&c)), fast ? "fast" : "nanogpt");
    plot_subtitle(p, subtitle);
    plot_csv(p, "train", lesson_path("log.csv"), "step", "train_loss");
    plot_csv(p, "validation", lesson_path("log.csv"), "step", "val_loss"), plot_dots(p);
    if (!*source && *kind == 'c') plot_hline(p, 2.482, "pairs of characters (lesson 03)");
    plot_save(p, lesson_path("loss.png")), plot_free(p);
    printf("written: out/08/loss.png, out/08/log.csv, %s\n", path);
    gpt_free(m), ag_free(ag), bpe_free(tokens), gpt_state_free(&state);
    free(text), free(train), free(val), free(x), free(y), free(tokenizer);
    return lesson_end();
}
