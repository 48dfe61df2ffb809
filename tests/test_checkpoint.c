// test_checkpoint.c - files: round trips, resuming, hostile files, failing disks, kill -9, failing malloc.
//
//     cc -O3 tests/test_checkpoint.c -o build/test_checkpoint -lm && build/test_checkpoint
//
// Every call of malloc and every call of the file system goes through hooks that can fail the n-th one.
#define _POSIX_C_SOURCE 200809L
#include <stdlib.h>
static void *hook_malloc(size_t bytes);
static void hook_free(void *p);
#define AG_MALLOC(bytes) hook_malloc(bytes)
#define AG_FREE(p) hook_free(p)
#define AUTOGRAD_IMPLEMENTATION
#include "../gpt.h"                             // the declarations: the hook needs the type gpt_io
static const gpt_io *hook_io(void);
#define GPT_IO hook_io()
#define GPT_IMPLEMENTATION
#include "../gpt.h"                             // the rest
#include "test.h"
#include "damage.h"
#if !defined(_WIN32)
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#endif

// ---- the hooks ------------------------------------------------------------------------------------------------------
static long allocations, fail_allocation, fails_on;     // calls so far; which one fails (0: none); 1: all later too
static size_t live, peak;
static void *hook_malloc(size_t bytes) {
    size_t *p;
    allocations++;
    if (fail_allocation && (allocations == fail_allocation || (fails_on && allocations > fail_allocation))) return NULL;
    p = (size_t *)malloc(bytes + 16);                   // 16 bytes of alignment stay
    if (!p) return NULL;
    p[0] = bytes, live += bytes;
    if (live > peak) peak = live;
    return (char *)p + 16;
}
static void hook_free(void *p) {
    if (!p) return;
    live -= *(size_t *)((char *)p - 16);
    free((char *)p - 16);
}

static long io_calls, io_fail, io_kill, io_writes_new;  // the n-th call fails, or is the last that this process makes
static int io_error = EIO, io_full;
static const char *io_failed = "";                      // the name of the call that did
static int io_now(const char *call) {                   // 1: this call fails
    io_calls++;
#if !defined(_WIN32)
    if (io_kill && io_calls == io_kill) raise(SIGKILL);
#endif
    if (!io_fail || io_calls != io_fail) return 0;
    errno = io_error, io_failed = call;
    return 1;
}
static void *h_open(const char *path, int writing) {
    if (io_now("open")) return NULL;
    void *file = gpt_stdio()->open(path, writing);
#if !defined(_WIN32)
    if (file && writing && io_full) {                   // the real thing: what is written goes to a full disk
        int full = open("/dev/full", O_WRONLY);
        dup2(full, gpti_fd(file));
        close(full);
    }
#endif
    return file;
}
static long h_read(void *f, void *to, size_t n) {       // short reads
    return io_now("read") ? -1 : gpt_stdio()->read(f, to, n > 1000 ? 1000 : n);
}
static int h_write(void *f, const void *from, size_t n) {
    int bad;
    if (n > 1) gpt_stdio()->write(f, from, n / 2);      // a write that fails or dies has written a part
    bad = io_now("write");
    return bad ? -1 : n > 1 ? gpt_stdio()->write(f, (const char *)from + n / 2, n - n / 2)
        : gpt_stdio()->write(f, from, n);
}
static int h_patch(void *f, size_t at, const void *from, size_t n) { return io_now("patch") ? -1
                                                                    : gpt_stdio()->patch(f, at, from, n); }
static int h_sync(void *f) { return io_now("sync") ? -1 : gpt_stdio()->sync(f); }
static int h_close(void *f) { int bad = io_now("close"); return gpt_stdio()->close(f) || bad
                             ? (errno = bad ? io_error : errno, -1) : 0; }
static int h_rename(const char *from, const char *to) {
    if (io_now("rename")) return -1;
    io_writes_new++;
    return gpt_stdio()->rename(from, to);
}
static int h_remove(const char *path) { return io_now("remove") ? -1 : gpt_stdio()->remove(path); }
static int h_sync_dir(const char *path) { return io_now("sync_dir") ? -1 : gpt_stdio()->sync_dir(path); }
static void h_sweep(const char *path) { if (!io_now("sweep")) gpt_stdio()->sweep(path); }
static const gpt_io *hook_io(void) {
    static const gpt_io io = { h_open, h_read, h_write, h_patch, h_sync, h_close, h_rename, h_remove, h_sync_dir,
                              h_sweep };
    return &io;
}

// ---- helpers --------------------------------------------------------------------------------------------------------
static char folder[64];
static const char *in_folder(const char *name) {
    static char path[4][128];
    static int turn;
    snprintf(path[turn = (turn + 1) % 4], sizeof *path, "%s/%s", folder, name);
    return path[turn];
}

static ag_ctx *context(unsigned long long seed) { return ag_new_with(seed, ag_cpu_backend(NULL, 1)); }

static unsigned char *slurp(const char *path, size_t *size) {
    FILE *f = fopen(path, "rb");
    unsigned char *p = NULL;
    *size = 0;
    if (!f) return NULL;
    fseek(f, 0, SEEK_END), *size = (size_t)ftell(f), rewind(f);
    p = (unsigned char *)malloc(*size + 1);
    *size = fread(p, 1, *size, f), p[*size] = 0;
    fclose(f);
    return p;
}
static void spit(const char *path, const void *bytes, size_t size) {
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(bytes, 1, size, f) != size || fclose(f)) T_FAIL("cannot write %s", path);
}
static int same_file(const char *a, const char *b) {
    size_t n, k;
    unsigned char *x = slurp(a, &n), *y = slurp(b, &k);
    int same = x && y && n == k && !memcmp(x, y, n);
    free(x), free(y);
    return same;
}
static int temporaries(void) {                          // how many temporary files lie about
    int n = 0;
#if !defined(_WIN32)
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d)) != NULL;) n += strstr(e->d_name, ".tmp.") != NULL;
    if (d) closedir(d);
#endif
    return n;
}

static gpt_config tiny(int llama) {
    gpt_config c = gpt_preset(llama ? "nano-llama" : "nano");
    c.n_layer = 1, c.n_head = 2, c.n_kv_head = llama ? 1 : 2, c.n_embd = 8, c.n_ctx = 6, c.n_vocab = 11,
        c.n_hidden = 12;
    return c;
}

static int text[200];
static void train(gpt_model *m, gpt_loader *l, const gpt_optimizer *o, int steps, gpt_state *s) {
    int x[12], y[12];
    for (int i = 0; i < steps; i++) {
        CHECK_INT(gpt_next(l, 2, 6, x, y), 0);
        ag_tensor *loss = ag_cross_entropy(gpt_forward(m, x, 2, 6), y, NULL);
        ag_backward(loss);
        s->train_loss = ag_item(loss);
        CHECK_INT(gpt_step(m, o, gpt_lr_cosine((long)s->step, 3, 20, 0.1), NULL), 0);
        s->step++, s->cursor = l->cursor;
        ag_reset(m->ctx);
    }
}

// A trained checkpoint with all that one can hold, at path.
static char notes[] = "tokenizer=char\nrecipe=fast \"quoted\" \\ \xc3\xa9\nempty=\n";
static unsigned char tokenizer[] = { 0, 1, 2, 255, '"', '{', 7 };
static int bf16;                    // the next ones are trained so
static void make_checkpoint(const char *path, int llama, int steps) {
    ag_ctx *ag = context(5);
    if (bf16) ag_set_matmul_precision(ag, AG_BF16);
    gpt_config c = tiny(llama);
    gpt_model *m = gpt_new(ag, &c);
    gpt_loader l = gpt_loader_new(ag, text, 200, GPT_RANDOM);
    gpt_optimizer o = llama ? gpt_muon() : gpt_adamw();
    gpt_state s;
    memset(&s, 0, sizeof s);
    train(m, &l, &o, steps, &s);
    s.val_loss = 1.0 / 3, s.best_val_loss = NAN, s.notes = notes, s.tokenizer = tokenizer,
        s.tokenizer_size = sizeof tokenizer;
    CHECK_INT(gpt_save(m, path, &s), 0);
    if (ag_error(ag)) T_FAIL("%s", ag_error(ag));
    gpt_free(m);
    ag_free(ag);
}

// ---- round trips ----------------------------------------------------------------------------------------------------
static void round_trip(void) {
    for (int llama = 0; llama < 2; llama++) {
        gpt_state s;
        char value[64], small[5];
        size_t n;
        make_checkpoint(in_folder("a"), llama, 5);
        ag_ctx *ag = context(99);
        gpt_model *m = gpt_resume(ag, in_folder("a"), &s);
        CHECK(m != NULL);
        if (!m) { T_FAIL("%s", ag_error(ag)); ag_free(ag); return; }
        CHECK_INT(s.step, 5);
        CHECK_INT(s.cursor, 10);
        CHECK(s.val_loss == 1.0 / 3 && s.best_val_loss != s.best_val_loss && s.train_loss > 0);
        CHECK_INT(s.not_finite, 0);
        CHECK_STR(s.notes, notes);
        CHECK_INT(s.tokenizer_size, sizeof tokenizer);
        CHECK(!memcmp(s.tokenizer, tokenizer, sizeof tokenizer));
        CHECK_INT(gpt_note(&s, "recipe", value, sizeof value), 1);
        CHECK_STR(value, "fast \"quoted\" \\ \xc3\xa9");
        CHECK_INT(gpt_note(&s, "recipe", small, sizeof small), 1);
        CHECK_STR(small, "fast");
        CHECK_INT(gpt_note(&s, "empty", value, sizeof value), 1);
        CHECK_STR(value, "");
        CHECK_INT(gpt_note(&s, "recip", value, sizeof value), 0);
        CHECK_STR(m->config.name, llama ? "nano-llama" : "nano");
        CHECK_INT(m->training, 1);
        CHECK_INT(gpt_save(m, in_folder("b"), &s), 0);
        CHECK(same_file(in_folder("a"), in_folder("b")));
        // From memory, and without the training state: the same weights.
        unsigned char *bytes = slurp(in_folder("a"), &n);
        gpt_model *other = gpt_load_mem(ag, bytes, n, NULL);
        CHECK(other != NULL && other->training == 0);
        ag_real w[2][96];
        ag_get_part(m->layer[0].down, 0, 96, w[0]);
        if (other) ag_get_part(other->layer[0].down, 0, 96, w[1]);
        CHECK(!memcmp(w[0], w[1], sizeof w[0]));
        CHECK(other && other->wte->m == NULL && m->wte->m != NULL);
        // Weights alone: half the size or less, loads, but there is nothing to resume.
        CHECK_INT(gpt_save(m, in_folder("c"), NULL), 0);
        gpt_state none;
        CHECK(gpt_resume(ag, in_folder("c"), &none) == NULL);
        CHECK_HAS(ag_error(ag), "no training state");
        ag_clear_error(ag);
        gpt_model *third = gpt_load(ag, in_folder("c"), &none);
        CHECK(third && none.step == 0 && !none.notes && !none.tokenizer);
        CHECK_INT(gpt_load_into(other, in_folder("c")), 0);
        other->config.n_ctx = 7;
        CHECK_INT(gpt_load_into(other, in_folder("c")), -1);
        CHECK_HAS(ag_error(ag), "another configuration");
        gpt_state_free(&s);
        gpt_state_free(&none), gpt_state_free(NULL);
        free(bytes);
        gpt_free(m), gpt_free(other), gpt_free(third);
        ag_free(ag);
    }
    CHECK_INT(live, 0);
}

// The precision of products is part of the state: a run in bfloat16 goes on in it, and where that would be computed in
// another way, gpt_resume says so.
static void precision_goes_along(void) {
    gpt_state s, t;
    for (bf16 = 0; bf16 < 2; bf16++) {
        make_checkpoint(in_folder("a"), 1, 5);
        make_checkpoint(in_folder("b"), 1, 2);
        ag_ctx *ag = context(99);
        ag_set_matmul_precision(ag, bf16 ? AG_FLOAT32 : AG_BF16);       // not what the file has
        gpt_model *m = gpt_resume(ag, in_folder("b"), &s);
        CHECK_INT(ag_matmul_precision(ag), bf16 ? AG_BF16 : AG_FLOAT32);
        CHECK_STR(s.matmul, ag_matmul_path(ag));
        CHECK_INT(s.other_path, 0);
        gpt_loader l = gpt_loader_new(ag, text, 200, GPT_RANDOM);
        gpt_optimizer o = gpt_muon();
        l.cursor = s.cursor;
        train(m, &l, &o, 3, &s);
        gpt_model *whole = gpt_load(ag, in_folder("a"), &t);
        CHECK_INT(ag_matmul_precision(ag), bf16 ? AG_BF16 : AG_FLOAT32);
        ag_real w[2][96];
        ag_get_part(m->layer[0].down, 0, 96, w[0]), ag_get_part(whole->layer[0].down, 0, 96, w[1]);
        CHECK(!memcmp(w[0], w[1], sizeof w[0]));
        gpt_free(m), gpt_free(whole), gpt_state_free(&s), gpt_state_free(&t);
        // Another machine's way: the name in the file is not the one of this backend.
        ag->backend->bf16 = "bf16/other";
        m = gpt_resume(ag, in_folder("b"), &s);
        CHECK(m != NULL);
        CHECK_INT(s.other_path, bf16);
        gpt_free(m), gpt_state_free(&s);
        ag->backend->matmul_bf16 = NULL;                // and a backend that has none at all
        ag_set_matmul_precision(ag, AG_FLOAT32);
        m = gpt_resume(ag, in_folder("b"), &s);
        CHECK_INT(m == NULL, bf16);
        if (bf16) CHECK_HAS(ag_error(ag), "has no products in bfloat16");
        gpt_free(m), gpt_state_free(&s);
        ag_free(ag);
    }
    bf16 = 0;
    CHECK_INT(live, 0);
}

// The file is what other readers of safetensors expect.
static void layout(void) {
    size_t n;
    make_checkpoint(in_folder("a"), 0, 2);
    unsigned char *p = slurp(in_folder("a"), &n);
    uint64_t head;
    memcpy(&head, p, 8);
    CHECK(head % 8 == 0 && head < n);
    char *text_of = (char *)p + 8, last[128] = "";
    text_of[head - 1] = text_of[head - 1] == ' ' ? 0 : text_of[head - 1];
    CHECK(!strncmp(text_of, "{\"__metadata__\":{\"format\":\"pt\",", 31));
    CHECK_HAS(text_of, "\"h.0.attn.c_attn.weight\":{\"dtype\":\"F32\",\"shape\":[8,24],\"data_offsets\":[");
    CHECK_HAS(text_of, "\"optim.steps\":{\"dtype\":\"I64\"");
    CHECK_HAS(text_of, "\"tokenizer\":{\"dtype\":\"U8\",\"shape\":[7]");
    int tensors = 0;
    for (char *at = text_of; (at = strstr(at, "\":{\"dtype\":\"F32\"")) != NULL; at++, tensors++) {  // sorted by name
        char *begin = at, name[128];
        while (begin[-1] != '"') begin--;
        snprintf(name, sizeof name, "%.*s", (int)(at - begin), begin);
        CHECK(strcmp(last, name) < 0);
        strcpy(last, name);
    }
    CHECK_INT(tensors, 16 * 3);
    free(p);
}

// Training N steps, saving, loading, N more: the bytes of 2N steps, in all that a checkpoint holds.
static void resumes_bit_by_bit(void) {
    for (int kind = 0; kind < 4; kind++) {
        for (int at = 1; at < 12; at += 3) {
            ag_ctx *ag = context(5);
            gpt_config c = tiny(kind % 2);
            gpt_optimizer o = kind / 2 ? gpt_muon() : gpt_adamw();
            gpt_state s;
            double loss;
            c.dropout = 0.1;
            gpt_model *m = gpt_new(ag, &c);
            gpt_loader l = gpt_loader_new(ag, text, 200, at % 2 ? GPT_RANDOM : GPT_SEQUENTIAL);
            memset(&s, 0, sizeof s);
            train(m, &l, &o, at, &s);
            CHECK_INT(gpt_save(m, in_folder("half"), &s), 0);
            train(m, &l, &o, 12 - at, &s);
            loss = s.train_loss;
            CHECK_INT(gpt_save(m, in_folder("whole"), &s), 0);
            gpt_free(m);
            ag_free(ag);
            ag = context(777);                          // another seed: everything has to come from the file
            m = gpt_resume(ag, in_folder("half"), &s);
            if (!m) { T_FAIL("%s", ag_error(ag)); ag_free(ag); continue; }
            l = gpt_loader_new(ag, text, 200, at % 2 ? GPT_RANDOM : GPT_SEQUENTIAL);
            l.cursor = s.cursor;
            train(m, &l, &o, 12 - at, &s);
            CHECK(s.train_loss == loss);
            CHECK_INT(gpt_save(m, in_folder("resumed"), &s), 0);
            if (!same_file(in_folder("whole"), in_folder("resumed"))) T_FAIL("kind %d: 12 steps and %d + %d differ",
                                                                             kind, at, 12 - at);
            gpt_state_free(&s);
            gpt_free(m);
            ag_free(ag);
        }
    }
    CHECK_INT(live, 0);
}

// ---- damaged files --------------------------------------------------------------------------------------------------
static void every_prefix_is_refused(void) {
    size_t n, accepted = 0, silent = 0;
    make_checkpoint(in_folder("a"), 1, 2);
    unsigned char *bytes = slurp(in_folder("a"), &n);
    ag_ctx *ag = context(1);
    for (size_t k = 0; k < n; k++) {
        unsigned char *exact = (unsigned char *)malloc(k + 1);  // so that a sanitizer sees reads beyond the end
        memcpy(exact, bytes, k);
        accepted += gpt_load_mem(ag, exact, k, NULL) != NULL;
        silent += ag_error(ag) == NULL;
        ag_clear_error(ag);
        free(exact);
    }
    CHECK_INT(accepted, 0);
    CHECK_INT(silent, 0);
    CHECK_INT(ag_memory_used(ag).params, 0);            // refused before anything was made
    CHECK(gpt_load_mem(ag, NULL, 0, NULL) == NULL);
    ag_clear_error(ag);
    unsigned char *longer = (unsigned char *)calloc(n + 1, 1);
    memcpy(longer, bytes, n);
    CHECK(gpt_load_mem(ag, longer, n + 1, NULL) == NULL);
    CHECK_HAS(ag_error(ag), "after the last tensor");
    free(bytes), free(longer);
    ag_free(ag);
    CHECK_INT(live, 0);
}

static void every_flipped_bit_is_refused(void) {
    size_t n, accepted = 0, silent = 0;
    ag_ctx *ag = context(1);
    gpt_config c = tiny(1);
    gpt_state s;
    memset(&s, 0, sizeof s);
    s.notes = notes, s.tokenizer = tokenizer, s.tokenizer_size = sizeof tokenizer;
    c.n_embd = 4, c.n_vocab = 3, c.n_ctx = 2, c.n_hidden = 2;
    gpt_model *m = gpt_new(ag, &c);
    CHECK_INT(gpt_save(m, in_folder("a"), &s), 0);
    unsigned char *bytes = slurp(in_folder("a"), &n);
    gpt_free(m);
    m = gpt_load_mem(ag, bytes, n, NULL);
    CHECK(m != NULL);
    gpt_free(m);
    size_t params = ag_memory_used(ag).params;
    for (size_t bit = 0; bit < 8 * n; bit++) {
        bytes[bit / 8] ^= (unsigned char)(1 << bit % 8);
        m = gpt_load_mem(ag, bytes, n, &s);
        if (m) { if (!accepted++) T_FAIL("bit %zu of byte %zu: accepted", bit % 8,
                                         bit / 8); gpt_state_free(&s); gpt_free(m); }
        silent += ag_error(ag) == NULL;
        ag_clear_error(ag);
        bytes[bit / 8] ^= (unsigned char)(1 << bit % 8);
    }
    CHECK_INT(accepted, 0);
    CHECK_INT(silent, 0);
    CHECK_INT(ag_memory_used(ag).params, params);
    free(bytes);
    ag_free(ag);
    CHECK_INT(live, 0);
}

// ---- files of others ------------------------------------------------------------------------------------------------
typedef struct maker { char head[8192]; unsigned char data[131072]; size_t n; int tensors; } maker;
static maker made;                                      // the file under construction
static void add(const char *name, const char *type, int rows, int cols, const ag_real *values) {
    size_t count = (size_t)rows * (cols ? cols : 1), size = strcmp(type, "F32") ? 2 : 4, at = strlen(made.head);
    snprintf(made.head + at, sizeof made.head - at, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%d", made.tensors++ ? ","
             : "", name, type, rows);
    at = strlen(made.head);
    if (cols) snprintf(made.head + at, sizeof made.head - at, ",%d", cols);
    at = strlen(made.head);
    snprintf(made.head + at, sizeof made.head - at, "],\"data_offsets\":[%zu,%zu]}", made.n, made.n + count * size);
    for (size_t i = 0; i < count; i++, made.n += size) {
        float x = (float)values[i];
        uint32_t bits;
        memcpy(&bits, &x, 4);
        if (!strcmp(type, "F32")) memcpy(made.data + made.n, &bits, 4);
        else if (!strcmp(type, "BF16")) made.data[made.n] = (unsigned char)(bits >> 16),
            made.data[made.n + 1] = (unsigned char)(bits >> 24);
        else {                                          // the values used are exact in half precision, or special
            uint32_t e = bits >> 23 & 255, half = bits >> 16 & 0x8000;
            if (x != x) half |= 0x7E00;
            else if (e > 142) half |= 0x7C00;
            else if (e > 112) half |= (e - 112) << 10 | (bits >> 13 & 1023);
            else if (x != 0) half |= (uint32_t)lround(fabs((double)x) * 16777216);
            made.data[made.n] = (unsigned char)half, made.data[made.n + 1] = (unsigned char)(half >> 8);
        }
    }
}
static unsigned char *bytes_of(const char *head, size_t pad, size_t data, size_t *n) {
    size_t length = strlen(head);
    uint64_t k = length + pad;
    unsigned char *p = (unsigned char *)malloc(8 + length + pad + data + 1);
    for (int i = 0; i < 8; i++) p[i] = (unsigned char)(k >> 8 * i);
    memcpy(p + 8, head, length);
    memset(p + 8 + length, ' ', pad);
    memcpy(p + 8 + length + pad, made.data, data);
    *n = 8 + length + pad + data;
    return p;
}

// A GPT-2 of Hugging Face with one layer, one head of 64 channels; `without` leaves one tensor out, `turned` transposes
// it.
static ag_real hf_values[64 * 192 + 16];
static void make_hf(const char *prefix, const char *type, const char *without, const char *turned, int masks,
                    int head) {
    static const struct { const char *name; int rows, cols; } list[] = {
        { "wte.weight", 5, 64 }, { "wpe.weight", 3, 64 }, { "h.0.ln_1.weight", 64, 0 }, { "h.0.ln_1.bias", 64, 0 },
        { "h.0.attn.c_attn.weight", 64, 192 }, { "h.0.attn.c_attn.bias", 192, 0 }, { "h.0.attn.c_proj.weight", 64, 64 },
        { "h.0.attn.c_proj.bias", 64, 0 }, { "h.0.ln_2.weight", 64, 0 }, { "h.0.ln_2.bias", 64, 0 },
            { "h.0.mlp.c_fc.weight", 64, 8 },
        { "h.0.mlp.c_fc.bias", 8, 0 }, { "h.0.mlp.c_proj.weight", 8, 64 }, { "h.0.mlp.c_proj.bias", 64, 0 },
            { "ln_f.weight", 64, 0 },
        { "ln_f.bias", 64, 0 } };
    char name[96];
    memset(&made, 0, sizeof made);
    strcpy(made.head, "{\"__metadata__\":{\"format\":\"pt\"},");
    for (int i = 0; i < 64 * 192 + 16; i++) hf_values[i] = (ag_real)((i % 61 - 30) / 16.0);
    if (head) { snprintf(name, sizeof name, "lm_head.weight"); hf_values[7] += head == 2; add(name, type, 5, 64,
            hf_values); hf_values[7] -= head == 2; }
    for (int i = 0; i < 16; i++) {
        int turn = turned && !strcmp(turned, list[i].name);
        if (without && !strcmp(without, list[i].name)) continue;
        snprintf(name, sizeof name, "%s%s", prefix, list[i].name);
        add(name, type, turn ? list[i].cols : list[i].rows, turn ? list[i].rows : list[i].cols, hf_values + i);
        if (masks && i == 5) {
            snprintf(name, sizeof name, "%sh.0.attn.bias", prefix), add(name, type, 3, 3, hf_values);
            snprintf(name, sizeof name, "%sh.0.attn.masked_bias", prefix), add(name, type, 1, 0, hf_values);
        }
    }
    strcat(made.head, "}");
}

static gpt_model *load_made(ag_ctx *ag, gpt_state *s) {
    size_t n;
    unsigned char *p = bytes_of(made.head, (8 - strlen(made.head) % 8) % 8, made.n, &n);
    gpt_model *m = gpt_load_mem(ag, p, n, s);
    free(p);
    return m;
}

static void reads_gpt2_files(void) {
    static const char *const types[] = { "F32", "F16", "BF16" }, *const prefixes[] = { "", "transformer." };
    ag_ctx *ag = context(1);
    for (int t = 0; t < 3; t++)
        for (int p = 0; p < 2; p++) {
            gpt_state s;
            ag_real x[192];
            make_hf(prefixes[p], types[t], NULL, NULL, p == 0, t == 1);
            gpt_model *m = load_made(ag, &s);
            if (!m) { T_FAIL("%s, \"%s\": %s", types[t], prefixes[p], ag_error(ag)); ag_clear_error(ag); continue; }
            CHECK(m->config.n_vocab == 5 && m->config.n_ctx == 3 && m->config.n_layer == 1 && m->config.n_head == 1 &&
                  m->config.n_hidden == 8);
            ag_get_part(m->layer[0].qkv, 192, 192, x);          // the second row
            CHECK(!memcmp(x, hf_values + 4 + 192, sizeof x));
            ag_get(m->layer[0].qkv_b, x);
            CHECK(!memcmp(x, hf_values + 5, sizeof x));
            CHECK_INT(s.not_finite, 0);
            gpt_free(m);
        }
    for (int t = 0; t < 3; t++) {                       // special numbers come through, and are counted
        gpt_state s;
        make_hf("", types[t], NULL, NULL, 0, 0);
        size_t size = t ? 2 : 4, at = made.n - 64 * size;       // ln_f.bias
        static const unsigned char nan4[3][4] = { { 0, 0, 0xC0, 0x7F }, { 0, 0x7E, 0, 0 }, { 0xC0, 0x7F, 0, 0 } },
                                   inf4[3][4] = { { 0, 0, 0x80, 0xFF }, { 0, 0xFC, 0, 0 }, { 0x80, 0xFF, 0, 0 } };
        memcpy(made.data + at, nan4[t], size), memcpy(made.data + at + 3 * size, inf4[t], size);
        if (t == 1) made.data[at + 8] = 1, made.data[at + 9] = 0;       // the smallest half: 2^-24
        gpt_model *m = load_made(ag, &s);
        ag_real x[5];
        CHECK(m != NULL);
        if (!m) { ag_clear_error(ag); continue; }
        ag_get_part(m->norm_f_b, 0, 5, x);
        CHECK(x[0] != x[0] && x[3] == -INFINITY);
        if (t == 1) CHECK(x[4] == (ag_real)ldexp(1, -24));
        CHECK_INT(s.not_finite, 2);
        gpt_free(m);
    }
#define REFUSED(word) do { \
        CHECK(load_made(ag, NULL) == NULL); CHECK_HAS(ag_error(ag), word); ag_clear_error(ag); } while (0)
    make_hf("", "F32", "h.0.mlp.c_proj.weight", NULL, 0, 0);
    REFUSED("1 of 16 tensors are missing: h.0.mlp.c_proj.weight");
    make_hf("", "F32", "wpe.weight", NULL, 0, 0);
    REFUSED("neither a checkpoint of gpt.h nor a GPT-2");
    make_hf("", "F32", "h.0.ln_1.bias", NULL, 0, 0);
    REFUSED("h.0.ln_1.bias");
    make_hf("", "F32", NULL, "h.0.attn.c_attn.weight", 0, 0);
    REFUSED("transposed");
    make_hf("", "F32", NULL, NULL, 0, 2);               // a head that is not the embedding
    REFUSED("lm_head.weight is not a copy");
    make_hf("", "F32", NULL, NULL, 0, 0);
    made.head[strlen(made.head) - 1] = 0;
    add("h.0.attn.rotary", "F32", 4, 0, hf_values), strcat(made.head, "}");
    REFUSED("what is the tensor h.0.attn.rotary for");
    // Other head sizes: with a model made beforehand.
    make_hf("", "F32", NULL, NULL, 1, 1);
    size_t n;
    unsigned char *p = bytes_of(made.head, 0, made.n, &n);
    spit(in_folder("hf"), p, n);
    gpt_config c = gpt_preset("gpt2");
    c.n_layer = 1, c.n_head = c.n_kv_head = 4, c.n_embd = 64, c.n_ctx = 3, c.n_vocab = 5, c.n_hidden = 8;
    gpt_model *m = gpt_new(ag, &c);
    CHECK_INT(gpt_load_into(m, in_folder("hf")), 0);
    ag_real x[1];
    ag_get_part(m->layer[0].qkv, 5, 1, x);
    CHECK(x[0] == hf_values[4 + 5]);
    gpt_free(m);
    free(p);
    ag_free(ag);
    CHECK_INT(live, 0);
}

// Headers that somebody has written by hand, to do harm.
#define F32_AT(name, shape, from, to) \
    "\"" name "\":{\"dtype\":\"F32\",\"shape\":[" shape "],\"data_offsets\":[" from "," to "]}"
static void hostile_headers(void) {
    static const struct { const char *head; int data; const char *word; } cases[] = {
        { "", 0, "header" }, { "{", 0, "header" }, { "[]", 0, "'{'" }, { " {}", 0, "'{'" },
            { "{}x", 0, "nothing but spaces" },
        { "{}", 0, "neither" }, { "{}\n", 0, "nothing but spaces" }, { "{,}", 0, "'\"'" }, { "{\"a\"}", 0, "':'" },
        { "{\"a\":1}", 0, "'{'" }, { "{\"a\":[]}", 0, "'{'" }, { "{\"a\":{}}", 0, "'\"'" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},}", 4, "'\"'" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "dtype, shape and data_offsets" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":1}}", 4, "dtype, shape" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "each of them once" },
        { "{\"a\":{\"dtype\":\"F99\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "F99" },
        { "{\"a\":{\"dtype\":\"\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "not known" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", 4, "whole number" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]}}", 4, "']'" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[01],\"data_offsets\":[0,4]}}", 4, "whole number" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1e0],\"data_offsets\":[0,4]}}", 4, "']'" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,8]}}", 8, "lies at 0 to 8" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4, "lies at 0 to 4" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", 4, "lies at 4 to 0" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8, "begins at 4" },
        { "{" F32_AT("a", "1", "0", "4") "," F32_AT("b", "1", "0", "4") "}", 4, "begins at 0" },
        { "{" F32_AT("a", "1", "0", "4") "," F32_AT("b", "1", "8", "12") "}", 12, "begins at 8" },
        { "{" F32_AT("a", "2", "0", "8") "," F32_AT("b", "1", "4", "8") "}", 8, "begins at 4" },
        { "{" F32_AT("a", "1", "0", "4") "," F32_AT("a", "1", "4", "8") "}", 8, "twice" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 0, "ends at byte" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 8, "after the last" },
        { "{" F32_AT("a", "1073741824,4", "0", "0") "}", 0, "lies at 0 to 0" },        // 2^34 bytes: 0 in 32 bits
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[2147483647,2147483647,5],\"data_offsets\":[0,4]}}", 4, "too large" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296],\"data_offsets\":[0,4]}}", 4, "too large" },
        { "{\"a\":{\"dtype\":\"F64\",\"shape\":[2147483647,2147483647],\"data_offsets\":[0,8]}}", 8, "lies at" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[0,9223372036854775807],\"data_offsets\":[0,0]}}", 0, "too large" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,18446744073709551615]}}", 4, "whole number" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[9223372036854775807,9223372036854775807]}}", 4,
         "lies at" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,99999999999999999999999999]}}", 4,
         "whole number" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]}}", 4, "eight dimensions" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[[[[[[[[[[[[[[[1", 4, "whole number" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,4]}}", 4, "']'" },
        { "{\"a\":{\"dtype\":{\"dtype\":{\"dtype\":{\"dtype\":\"F32\"", 4, "'\"'" },
        { "{\"\\u0000\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "a character" },
        { "{\"\\ud800\":{}}", 0, "surrogate" }, { "{\"\\udc00\":{}}", 0, "a character" },
            { "{\"\\ud800\\u0041\":{}}", 0, "surrogate" },
        { "{\"\\x\":{}}", 0, "escape" }, { "{\"\\u12g4\":{}}", 0, "hexadecimal" },
            { "{\"a\n\":{}}", 0, "control character" },
        { "{\"\xff\":{}}", 0, "UTF-8" }, { "{\"\xc0\x80\":{}}", 0, "UTF-8" }, { "{\"\xed\xa0\x80\":{}}", 0, "UTF-8" },
            { "{\"\xe2\x82", 0, "UTF-8" },
        { "{\"a\\", 0, "escape" }, { "{\"abc", 0, "end of a string" },
        { "{\"__metadata__\":{\"a\":1}}", 0, "'\"'" }, { "{\"__metadata__\":{\"a\":{}}}", 0, "'\"'" },
            { "{\"__metadata__\":[]}", 0, "'{'" },
        { "{\"__metadata__\":{},\"__metadata__\":{}}", 0, "twice" },
        { "{\"__metadata__\":{\"gpt.n_layer\":\"1\"}}", 0, "checksum is missing" },
        { "{\"__metadata__\":{\"gpt.crc32\":\"0000000A\"}}", 0, "eight digits" },
        { "{\"__metadata__\":{\"gpt.crc32\":\"00000000\"}}", 0, "not in its place" },
        { "{\"__metadata__\":{\"gpt.version\":\"2\"}}", 0, "version 2" },
        { "{\"__metadata__\":{\"gpt.n_embd\":\"99999999999\"}}", 0, "n_embd" },
        { "{\"__metadata__\":{\"gpt.n_embd\":\"-1\"}}", 0, "n_embd" },
        { "{\"__metadata__\":{\"gpt.norm_eps\":\"0x1p3\"}}", 0, "norm_eps" },
        { "{\"__metadata__\":{\"gpt.rng.0\":\"1\"}}", 0, "rng.0" },
        { "{\"wte.weight\":{\"dtype\":\"F32\",\"shape\":[1,64],\"data_offsets\":[0,256]}}", 256, "neither" },
        { "{\"\\u001b[31mred\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8, "?[31mred" },
    };
    ag_ctx *ag = context(1);
    memset(&made, 0, sizeof made);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t n;
        unsigned char *p = bytes_of(cases[i].head, 0, (size_t)cases[i].data, &n);
        if (gpt_load_mem(ag, p, n, NULL)) T_FAIL("accepted: %s", cases[i].head);
        else if (!ag_error(ag) || !strstr(ag_error(ag), cases[i].word))
            T_FAIL("%s: \"%s\" lacks \"%s\"", cases[i].head, ag_error(ag), cases[i].word);
        CHECK(!ag_error(ag) || !strchr(ag_error(ag), 27));
        ag_clear_error(ag);
        free(p);
    }
    static const uint64_t lengths[] = { 0, 1, 2147483647u, 2147483648u, 4294967295u, 4294967296u, 1ull << 62,
                                       (1ull << 63) - 1, 1ull << 63,
                                        ~0ull, ~0ull - 3, 100000001, 100000000, 99999999 };
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        unsigned char p[64];
        for (int k = 0; k < 8; k++) p[k] = (unsigned char)(lengths[i] >> 8 * k);
        memset(p + 8, '{', 56);
        size_t before = live;
        peak = live;
        CHECK(gpt_load_mem(ag, p, 64, NULL) == NULL);
        CHECK(ag_error(ag) != NULL);
        CHECK(peak - before < 1048576);                 // the length that it claims costs nothing
        ag_clear_error(ag);
    }
    ag_free(ag);
    CHECK_INT(live, 0);
}

// The heap never holds more than twice the file and a megabyte, whatever the file says.
static void memory_is_bounded(void) {
    ag_ctx *ag = context(1);
    size_t cap = 3000000, at = 1, n;
    char *head = (char *)malloc(cap + 200);
    strcpy(head, "{");
    for (int i = 0; at < cap - 100 && i < 60000; i++)   // many tensors of nothing
        at += (size_t)snprintf(head + at, cap - at, "%s\"%x\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}",
                               i ? "," : "", (unsigned)i * 2654435761u);
    strcpy(head + at, "}");
    unsigned char *p = bytes_of(head, 0, 0, &n);
    size_t before = live;
    peak = live;
    CHECK(gpt_load_mem(ag, p, n, NULL) == NULL);
    CHECK_HAS(ag_error(ag), "neither");
    ag_clear_error(ag);
    if (peak - before > 2 * n + 1048576) T_FAIL("%zu bytes of header, %zu of heap", n, peak - before);
    free(p);
    for (int i = 0; i < 4; i++) head[1 + i] = ' ';      // long notes
    at = (size_t)sprintf(head, "{\"__metadata__\":{\"note.a\":\"");
    memset(head + at, 'x', cap - at), strcpy(head + cap, "\"}}");
    p = bytes_of(head, 0, 0, &n);
    peak = live;
    CHECK(gpt_load_mem(ag, p, n, NULL) == NULL);
    ag_clear_error(ag);
    if (peak - before > 2 * n + 1048576) T_FAIL("%zu bytes of notes, %zu of heap", n, peak - before);
    free(p);
    at = 1;
    strcpy(head, "{");
    for (int i = 0; i < 65537; i++) at += (size_t)snprintf(head + at, cap + 200 - at, "%s\"%x\":{}", i ? "," : "", i);
    free(head);
    CHECK_INT(live, before);
    // A half-precision file doubles; the arenas of the context come on top once, here.
    make_hf("", "F16", NULL, NULL, 0, 0);
    ag_free(ag);
    ag = context(1);
    ag_tensor *first = ag_param(ag, 4);
    CHECK(first != NULL);
    before = peak = live;
    gpt_model *m = load_made(ag, NULL);
    CHECK(m != NULL);
    CHECK(peak - before < 2 * made.n + 1048576);
    gpt_free(m);
    ag_free(ag);
    CHECK_INT(live, 0);
}

// ---- llama2.c's files -----------------------------------------------------------------------------------------------
static void llama2c_files(void) {
    static const int good[7] = { 8, 12, 1, 2, 1, 5, 6 };
    static const long long edges[] = { 0, 1, 2, 3, -1, -2, 65536, 65537, 1048576, 1048577, 16777216, 16777217,
                                       1073741824, 2147483647, -2147483647, -2147483647 - 1 };
    // embedding 5*8, norm 8, q 64, k and v 32 each, o 64, norm 8, three of 96, norm 8, tables 6*4
    size_t floats = 40 + 8 + 64 + 32 + 32 + 64 + 8 + 96 * 3 + 8 + 24, n = 28 + 4 * (floats + 40);
    unsigned char *file = (unsigned char *)calloc(n, 1);
    memcpy(file, good, 28);
    for (size_t i = 0; i < floats + 40; i++) { float x = (float)i; memcpy(file + 28 + 4 * i, &x, 4); }
    ag_ctx *ag = context(1);
    const char *path = in_folder("llama.bin");
    for (int untied = 0; untied < 2; untied++) {
        int V = untied ? -5 : 5;
        ag_real x[96], q[128];
        memcpy(file + 20, &V, 4);
        spit(path, file, 28 + 4 * (floats + (untied ? 40 : 0)));
        gpt_model *m = gpt_load_llama2c(ag, path);
        if (!m) { T_FAIL("%s", ag_error(ag)); ag_clear_error(ag); continue; }
        CHECK_INT(m->config.tied, !untied);
        ag_get(m->layer[0].qkv, q);                     // (8,16): q has 8 columns, k 4, v 4; the file has (out, in)
        CHECK(q[1 * 16 + 3] == 48 + 3 * 8 + 1);
        CHECK(q[2 * 16 + 8 + 1] == 48 + 64 + 1 * 8 + 2);
        CHECK(q[5 * 16 + 12 + 3] == 48 + 64 + 32 + 3 * 8 + 5);
        ag_get(m->layer[0].down, x);                    // (12,8): w2 is the second of three
        CHECK(x[11 * 8 + 2] == 48 + 64 + 64 + 64 + 8 + 96 + 2 * 12 + 11);
        ag_get_part(m->layer[0].up, 3 * 24, 24, x);     // row 3: gate, then up
        CHECK(x[4] == 248 + 4 * 8 + 3 && x[12 + 4] == 248 + 192 + 4 * 8 + 3);
        if (untied) { ag_get(m->head, x); CHECK(x[2 * 5 + 4] == (ag_real)(floats + 4 * 8 + 2)); }
        gpt_free(m);
        for (size_t cut = 0; cut < 28 + 4 * (floats + (untied ? 40 : 0)); cut += untied || cut < 64 ? 1 : 37) {
            spit(path, file, cut);
            if (gpt_load_llama2c(ag, path)) T_FAIL("%zu bytes of a file are accepted", cut);
            CHECK(ag_error(ag) != NULL);
            ag_clear_error(ag);
        }
    }
    size_t params = ag_memory_used(ag).params;
    memcpy(file, good, 28);
    for (int field = 0; field < 7; field++)
        for (size_t e = 0; e < sizeof edges / sizeof *edges; e++) {
            int old, value = (int)edges[e];
            memcpy(&old, file + 4 * field, 4);
            if (value == old) continue;
            memcpy(file + 4 * field, &value, 4);
            spit(path, file, 28 + 4 * floats);
            peak = live;
            size_t before = live;
            gpt_model *m = gpt_load_llama2c(ag, path);
            if (m) T_FAIL("field %d = %d is accepted", field, value);
            CHECK(ag_error(ag) != NULL);
            CHECK(peak - before < 1048576);
            ag_clear_error(ag);
            memcpy(file + 4 * field, &old, 4);
        }
    CHECK_INT(ag_memory_used(ag).params, params);
    CHECK(gpt_load_llama2c(ag, in_folder("no-such-file")) == NULL);
    CHECK_HAS(ag_error(ag), "no-such-file: cannot open it: No such file or directory. Check the path");
    free(file);
    ag_free(ag);
    CHECK_INT(live, 0);
}

// Every number of a header, in turn, is each of the numbers at which something overflows.
static void edge_numbers_in_headers(void) {
    ag_ctx *ag = context(1);
    memset(&made, 0, sizeof made);
    for (int field = 0; field < 4; field++)
        for (int e = 0; e < EDGE_NUMBERS; e++) {
            const char *good[4] = { "1", "1", "0", "4" };
            char head[256];
            size_t n, before = live;
            int same = !strcmp(good[field], edge_numbers[e]);
            good[field] = edge_numbers[e];
            snprintf(head, sizeof head, "{\"a\":{\"dtype\":\"F32\",\"shape\":[%s,%s],\"data_offsets\":[%s,%s]}}",
                     good[0], good[1], good[2], good[3]);
            unsigned char *p = bytes_of(head, 0, 4, &n);
            peak = live;
            CHECK(gpt_load_mem(ag, p, n, NULL) == NULL);
            if (peak - before > 8 * n + 1048576) T_FAIL("%s: %zu bytes of heap", head, peak - before);
            CHECK_HAS(ag_error(ag), same ? "neither" : "");     // the header is right, but this is no model
            if (!same && ag_error(ag) && strstr(ag_error(ag), "neither")) T_FAIL("%s is accepted", head);
            CHECK_HAS(ag_error(ag), "test_checkpoint.c:");
            ag_clear_error(ag);
            free(p);
        }
    ag_free(ag);
    CHECK_INT(live, 0);
}

// Puts the right length of the header and the right checksum into a checkpoint whose bytes were changed.
static void repair(unsigned char *p, size_t n, size_t header) {
    char digits[12];
    if (n < 8) return;
    for (int i = 0; i < 8; i++) p[i] = (unsigned char)((uint64_t)header >> 8 * i);
    if (n < GPTI_CRC_AT + 8) return;
    gpti_crc *crc = (gpti_crc *)malloc(sizeof *crc);
    memset(p + GPTI_CRC_AT, '0', 8);
    gpti_crc_begin(crc), gpti_crc_add(crc, p, n);
    snprintf(digits, sizeof digits, "%08lx", (unsigned long)crc->value);
    memcpy(p + GPTI_CRC_AT, digits, 8);
    free(crc);
}

static gpt_model *load_bytes(ag_ctx *ctx, const unsigned char *bytes, size_t n, gpt_state *state, int resume) {
    gpti_file f;
    if (gpti_begin(&f, ctx, "load_bytes", "(memory)")) return NULL;
    f.mem = bytes, f.mem_size = n;
    return gpti_load(&f, NULL, state, resume);
}

// Our own checkpoints, changed by somebody who can compute a checksum: what stands behind it is checked as well.
static void hostile_checkpoints(void) {
    static const struct { const char *from, *to, *word; } cases[] = {
        { "gpt.version\":\"1", "gpt.version\":\"2", "version 2 of the format is not known here, only 1: read it with" },
        { "gpt.version\":\"1", "gpt.version\":\"", "version" },
        { "gpt.version\":\"1\"", "gpt.version\":\"1\",\"gpt.crc32\":\"00000000\"", "eight digits" },
        { "gpt.shape\":\"1", "gpt.shape\":\"2", "shape is 2" }, { "gpt.shape\":\"1", "gpt.shape\":\"0", "n_kv_head" },
        { "gpt.shape\":\"1", "gpt.shape\":\"-1", "shape is not a whole number" },
        { "gpt.n_layer\":\"1", "gpt.n_layer\":\"0", "n_layer is 0" },
        { "gpt.n_layer\":\"1", "gpt.n_layer\":\"2", "missing" },
        { "gpt.n_layer\":\"1", "gpt.n_layer\":\"4096", "missing" },
        { "gpt.n_layer\":\"1", "gpt.n_layer\":\"4097", "n_layer is 4097" },
        { "gpt.n_layer\":\"1", "gpt.n_layer\":\"1000000000", "n_layer is 1000000000" },
        { "gpt.n_layer\":\"1", "gpt.n_layer\":\"2147483648", "n_layer is not a whole number" },
        { "gpt.n_layer\":\"1", "gpt.n_layer\":\"-1", "n_layer is not a whole number" },
        { "gpt.n_layer\":\"1", "gpt.n_layer\":\"01", "n_layer is not a whole number" },
        { "gpt.n_layer\":\"1", "gpt.n_layer\":\" 1", "n_layer is not a whole number" },
        { "gpt.n_layer\":\"1", "gpt.n_layer\":\"", "n_layer is not a whole number" },
        { "gpt.n_layer", "gpt.n_layers", "the configuration has 12 of 13 numbers" },
        { "\"gpt.n_layer\"", "\"gpt.n_layer\":\"1\",\"gpt.n_layer\"", "14 of 13 numbers" },
        { "gpt.n_head\":\"2", "gpt.n_head\":\"0", "n_head is 0" },
        { "gpt.n_head\":\"2", "gpt.n_head\":\"3", "not a multiple of n_head" },
        { "gpt.n_head\":\"2", "gpt.n_head\":\"65537", "n_head is 65537" },
        { "gpt.n_head\":\"2", "gpt.n_head\":\"8", "even" }, { "gpt.n_head\":\"2", "gpt.n_head\":\"4", "wanted" },
        { "gpt.n_kv_head\":\"1", "gpt.n_kv_head\":\"0", "n_kv_head is 0" },
        { "gpt.n_kv_head\":\"1", "gpt.n_kv_head\":\"3", "not a multiple of n_kv_head" },
        { "gpt.n_kv_head\":\"1", "gpt.n_kv_head\":\"2", "attn.qkv.weight has 2 dimensions, 8 x 16: wanted 8 x 24" },
        { "gpt.n_embd\":\"8", "gpt.n_embd\":\"0", "n_embd is 0" },
        { "gpt.n_embd\":\"8", "gpt.n_embd\":\"9", "n_embd 9 is not a multiple" },
        { "gpt.n_embd\":\"8", "gpt.n_embd\":\"1048576", "wanted 11 x 1048576" },
        { "gpt.n_embd\":\"8", "gpt.n_embd\":\"1048577", "n_embd is 1048577" },
        { "gpt.n_ctx\":\"6", "gpt.n_ctx\":\"0", "n_ctx is 0" },
        { "gpt.n_ctx\":\"6", "gpt.n_ctx\":\"16777217", "n_ctx is 16777217" },
        { "gpt.n_vocab\":\"11", "gpt.n_vocab\":\"0", "n_vocab is 0" },
        { "gpt.n_vocab\":\"11", "gpt.n_vocab\":\"12", "wte.weight has 2 dimensions, 11 x 8: wanted 12 x 8" },
        { "gpt.n_vocab\":\"11", "gpt.n_vocab\":\"16777217", "n_vocab is 16777217" },
        { "gpt.n_hidden\":\"12", "gpt.n_hidden\":\"0", "n_hidden is 0" },
        { "gpt.n_hidden\":\"12", "gpt.n_hidden\":\"24", "mlp.gate_up.weight has" },
        { "gpt.tied\":\"0", "gpt.tied\":\"1", "optim.steps is not 10 numbers" },
        { "gpt.tied\":\"0", "gpt.tied\":\"2", "tied is 2" }, { "gpt.bias\":\"0", "gpt.bias\":\"2", "bias is 2" },
        { "gpt.qk_norm\":\"1", "gpt.qk_norm\":\"0", "optim.steps is not 9 numbers" },
        { "gpt.qk_norm\":\"1", "gpt.qk_norm\":\"2", "qk_norm is 2" },
        { "gpt.norm_eps\":\"", "gpt.norm_eps\":\"-", "norm_eps is -1e-05" },
        { "gpt.norm_eps\":\"", "gpt.norm_eps\":\"2\",\"x\":\"", "norm_eps is 2" },
        { "gpt.norm_eps\":\"", "gpt.norm_eps\":\"x", "norm_eps is not a number" },
        { "gpt.rope_theta\":\"", "gpt.rope_theta\":\"nan\",\"x\":\"", "nan, wanted 1 to 1e12" },
        { "gpt.rope_theta\":\"", "gpt.rope_theta\":\"inf\",\"x\":\"", "rope_theta is inf" },
        { "gpt.rope_theta\":\"", "gpt.rope_theta\":\"0.", "rope_theta is 0.1" },
        { "gpt.dropout\":\"0", "gpt.dropout\":\"1", "dropout is 1" },
        { "gpt.dropout\":\"0", "gpt.dropout\":\"nan", "nan, wanted 0 <= dropout < 1" },
        { "gpt.step\":\"2", "gpt.step\":\"-2", "step is not a whole number. The file is damaged: use another copy" },
        { "gpt.step\":\"2", "gpt.step\":\"9223372036854775808", "step is not a whole number" },
        { "gpt.step\":\"2", "gpt.step\":\"2e3", "step is not a whole number" },
        { "gpt.cursor\":\"", "gpt.cursor\":\"-", "cursor is not a whole number" },
        { "gpt.cursor\":\"", "gpt.cursor\":\"18446744073709551616\",\"x\":\"", "cursor is not a whole number" },
        { "gpt.rng.0\":\"", "gpt.rng.0\":\"x", "rng.0 is not two numbers" },
        { "gpt.rng.1\":\"", "gpt.rng.1\":\"18446744073709551616 1\",\"x\":\"", "rng.1 is not two numbers" },
        { "gpt.rng.2\":\"", "gpt.rng.2\":\"1\",\"x\":\"", "rng.2 is not two numbers" },
        { "gpt.rng.3", "gpt.rng.9", "no training state" },
        { "gpt.val_loss\":\"", "gpt.val_loss\":\"x", "val_loss is not a number" },
        { "\"optim.steps\"", "\"optim.stepz\"", "what is the tensor optim.stepz for?" },
        { "\"optim.steps\":{\"dtype\":\"I64\"", "\"optim.steps\":{\"dtype\":\"U64\"", "optim.steps is not" },
        { "\"optim.m/wte.weight\"", "\"optim.n/wte.weight\"", "what is the tensor optim.n/wte.weight for?" },
        { "\"tokenizer\":{\"dtype\":\"U8\"", "\"tokenizer\":{\"dtype\":\"I8\"", "the tokenizer is not of type U8" },
        { "\"wte.weight\":{\"dtype\":\"F32\"", "\"wte.weight\":{\"dtype\":\"I32\"", "wte.weight has whole numbers" },
        { "\"wte.weight\":{\"dtype\":\"F32\",\"shape\":[11,8]", "\"wte.weight\":{\"dtype\":\"F32\",\"shape\":[8,11]",
          "transposed" },
        { "\"wte.weight\":{\"dtype\":\"F32\",\"shape\":[11,8]", "\"wte.weight\":{\"dtype\":\"F32\",\"shape\":[88]",
          "wte.weight has 1 dimensions" },
        { "\"wte.weight\"", "\"wtf.weight\"", "tensors are missing: wte.weight. Another model's file" },
        { "\"wte.weight\"", "\"../../../etc/passwd\"", "wte.weight" },
        { "\"wte.weight\"", "\"%s%s%n%n\"", "wte.weight" },
    };
    size_t n;
    make_checkpoint(in_folder("a"), 1, 2);
    unsigned char *bytes = slurp(in_folder("a"), &n), *p = (unsigned char *)malloc(n + 1000);
    uint64_t head;
    memcpy(&head, bytes, 8);
    ag_ctx *ag = context(1);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t old = strlen(cases[i].from), len = strlen(cases[i].to), at = 8;
        while (at < 8 + head && memcmp(bytes + at, cases[i].from, old)) at++;
        if (at >= 8 + head) { T_FAIL("no %s in the header", cases[i].from); continue; }
        memcpy(p, bytes, at), memcpy(p + at, cases[i].to, len);
        memcpy(p + at + len, bytes + at + old, n - at - old);
        repair(p, n - old + len, (size_t)head - old + len);
        size_t before = live;
        gpt_state s;
        peak = live;
        gpt_model *m = load_bytes(ag, p, n - old + len, &s, 1);
        if (m) { T_FAIL("%s is accepted", cases[i].to); gpt_state_free(&s); gpt_free(m); continue; }
        CHECK_HAS(ag_error(ag), cases[i].word);
        if (peak - before > 2 * n + 1048576) T_FAIL("%s: %zu bytes of heap", cases[i].to, peak - before);
        ag_clear_error(ag);
    }
    CHECK_INT(ag_memory_used(ag).params, 0);
    // The last number of optim.steps lies somewhere in the data: all eight bytes of it are counted.
    const char *steps = strstr((char *)bytes + 8, "\"optim.steps\""), *offsets = strstr(steps, "\"data_offsets\":[");
    size_t at = 8 + (size_t)head + (size_t)strtoul(offsets + 16, NULL, 10);
    memcpy(p, bytes, n), memset(p + at, 0xFF, 8), repair(p, n, (size_t)head);
    CHECK(load_bytes(ag, p, n, NULL, 1) == NULL);
    CHECK_HAS(ag_error(ag), "a parameter has taken 18446744073709551615 steps");
    ag_clear_error(ag);
    memcpy(p, bytes, n), repair(p, n, (size_t)head);            // what repair does is right
    CHECK(!memcmp(p, bytes, n));
    // Rotary positions are in no table, so a context can be as long as the file says: that costs nothing.
    static const char six[] = "gpt.n_ctx\":\"6\"", long_one[] = "gpt.n_ctx\":\"16777216\"";
    at = (size_t)(strstr((char *)bytes + 8, six) - (char *)bytes);
    memcpy(p, bytes, at), memcpy(p + at, long_one, sizeof long_one - 1);
    memcpy(p + at + sizeof long_one - 1, bytes + at + sizeof six - 1, n - at - sizeof six + 1);
    repair(p, n + sizeof long_one - sizeof six, (size_t)head + sizeof long_one - sizeof six);
    CHECK(ag_param(ag, 4) != NULL);                             // the arena's first chunk
    size_t before = peak = live;
    gpt_model *m = load_bytes(ag, p, n + sizeof long_one - sizeof six, NULL, 0);
    CHECK(m && m->config.n_ctx == 16777216);
    if (peak - before > 2 * n + 1048576) T_FAIL("%zu bytes of heap for a long context", peak - before);
    gpt_free(m);
    free(bytes), free(p);
    ag_free(ag);
    CHECK_INT(live, 0);
}

// ---- random damage --------------------------------------------------------------------------------------------------
static ag_rng damage;                                   // counter-based: round i of a seed is always the same
static size_t below(size_t n) { return n ? (size_t)(ag_rng_u32(&damage) % n) : 0; }

static ag_ctx *fuzz_context(void) {                     // the arenas' first chunks are not what a file takes
    ag_ctx *ag = context(1);
    CHECK(ag_param(ag, 4) != NULL && ag_state_at(ag, 4, AG_END, AG_END, AG_END, AG_END) != NULL);
    return ag;
}

static void random_damage(void) {
    enum { SEEDS = 4, ROUNDS = 2000 };
    unsigned char *seed[SEEDS], *p;
    size_t size[SEEDS], accepted[SEEDS + 1] = { 0 }, most = 0;
    for (int i = 0; i < 2; i++) {
        make_checkpoint(in_folder("a"), i, 1);
        seed[i] = slurp(in_folder("a"), &size[i]);
    }
    make_hf("transformer.", "F16", NULL, NULL, 1, 1);
    seed[2] = bytes_of(made.head, 0, made.n, &size[2]);
    int header[7] = { 8, 12, 1, 2, 1, 5, 6 };
    size[3] = 28 + 4 * (40 + 8 + 64 + 32 + 32 + 64 + 8 + 96 * 3 + 8 + 24);
    seed[3] = (unsigned char *)calloc(size[3], 1);
    memcpy(seed[3], header, 28);
    for (int i = 0; i < SEEDS; i++) if (size[i] > most) most = size[i];
    p = (unsigned char *)malloc(most + 4096);
    ag_ctx *ag = fuzz_context();
    for (int i = 0; i < SEEDS; i++)
        for (int round = 0; round < ROUNDS; round++) {
            uint64_t head = 28;
            gpt_state s;
            gpt_model *m;
            int other = (i + 1 + round % (SEEDS - 1)) % SEEDS;
            damage.key = (uint64_t)i << 32 | (uint64_t)round, damage.counter = 0;
            if (i < 3) memcpy(&head, seed[i], 8), head += 8;
            memcpy(p, seed[i], size[i]);
            size_t n = mutate((char *)p, size[i], size[i] + 4096, (size_t)head, (char *)seed[other], size[other],
                              below);
            size_t grown = (size_t)head - 8 + n - size[i];      // if all of the change was in the header
            if (i < 2 && below(4)) repair(p, n, n >= size[i] || head - 8 > size[i] - n ? grown : (size_t)head - 8);
            else if (i == 2 && below(4) && n >= 8)
                for (int k = 0; k < 8; k++) p[k] = (unsigned char)((uint64_t)grown >> 8 * k);
            unsigned char *exact = (unsigned char *)malloc(n + !n);     // so that a sanitizer sees reads beyond the end
            memcpy(exact, p, n);
            memset(&s, 0, sizeof s);
            if (i == 3) spit(in_folder("llama.bin"), exact, n);
            size_t before = live;
            peak = live;
            m = i == 3 ? gpt_load_llama2c(ag, in_folder("llama.bin"))
                       : load_bytes(ag, exact, n, &s, i < 2 && round % 2);
            if (peak - before > 8 * n + 1048576)
                T_FAIL("seed %d, round %d: %zu bytes of file, %zu of heap", i, round, n, peak - before);
            if (!m != (ag_error(ag) != NULL)) T_FAIL("seed %d, round %d: %s", i, round, m ? "an error" : "no message");
            if (ag_error(ag) && strpbrk(ag_error(ag), "\033\n\r\x7f")) T_FAIL("seed %d, round %d: raw bytes", i, round);
            accepted[i] += m != NULL;
            gpt_state_free(&s);
            gpt_free(m);
            ag_clear_error(ag);
            if (m) ag_free(ag), ag = fuzz_context();
            else if (live != before) { T_FAIL("seed %d, round %d: %zu bytes leak", i, round, live - before); break; }
            free(exact);
        }
    // Damage that is always seen would test little behind the first check.
    for (int i = 0; i < SEEDS; i++) if (!accepted[i] || accepted[i] > ROUNDS / 2)
        T_FAIL("seed %d: %zu of %d are accepted", i, accepted[i], ROUNDS);
    for (int i = 0; i < SEEDS; i++) free(seed[i]);
    free(p);
    ag_free(ag);
    CHECK_INT(live, 0);
}

// ---- failing disks --------------------------------------------------------------------------------------------------
// Each call of the file system fails once: the call says so, the old file is there, no temporary file stays behind.
static void every_io_call_fails_once(void) {
    char wanted[3][32] = { "Input/output error", "No space left", "Interrupted" };
    int errors[3] = { EIO, ENOSPC, EACCES };
    snprintf(wanted[2], sizeof wanted[2], "%.31s", strerror(EACCES));
    for (int e = 0; e < 3; e++) {
        int saved = 0;
        make_checkpoint(in_folder("old"), 0, 1);
        make_checkpoint(in_folder("a"), 0, 1);
        io_error = errors[e];
        for (long n = 1; !saved; n++) {
            ag_ctx *ag = context(5);
            gpt_state s;
            gpt_model *m = gpt_resume(ag, in_folder("old"), &s);
            CHECK(m != NULL);
            s.step = 1000 + n;
            io_calls = io_writes_new = 0, io_fail = n;
            int bad = gpt_save(m, in_folder("a"), &s);
            long calls = io_calls;
            io_fail = 0;
            if (bad) {
                CHECK_HAS(ag_error(ag), strerror(errors[e]));
                CHECK_HAS(ag_error(ag), "gpt_save");
                if (io_writes_new) CHECK_HAS(ag_error(ag), "power cut");
                else { CHECK(same_file(in_folder("a"), in_folder("old"))); CHECK_HAS(ag_error(ag),
                        "as it was before"); }
            } else {
                CHECK(!same_file(in_folder("a"), in_folder("old")));
                if (calls >= n && strcmp(io_failed, "sweep") && strcmp(io_failed, "remove"))
                    T_FAIL("%s (call %ld) fails, and nobody notices", io_failed, n);
            }
            if (temporaries()) T_FAIL("call %ld fails: a temporary file stays", n);
            if (!bad && calls < n) saved = 1;           // there was no n-th call
            if (n > 1000) { T_FAIL("saving never succeeds"); saved = 1; }
            ag_clear_error(ag);
            gpt_state_free(&s);
            gpt_model *again = gpt_load(ag, in_folder("a"), NULL);
            if (!again) T_FAIL("after call %ld has failed: %s", n, ag_error(ag));
            spit(in_folder("a"), "", 0);
            size_t size;
            unsigned char *old = slurp(in_folder("old"), &size);
            spit(in_folder("a"), old, size);
            free(old);
            gpt_free(again);
            gpt_free(m);
            ag_free(ag);
        }
        for (long n = 1, done = 0; !done; n++) {        // and loading
            ag_ctx *ag = context(5);
            gpt_state s;
            io_calls = 0, io_fail = n;
            gpt_model *m = gpt_resume(ag, in_folder("old"), &s);
            done = io_calls < n || n > 1000, io_fail = 0;
            if (m) gpt_state_free(&s);                  // a failing close of a file that was read does no harm
            else CHECK_HAS(ag_error(ag), strerror(errors[e]));
            CHECK(done ? m != NULL : 1);
            gpt_free(m);
            ag_free(ag);
        }
    }
    io_error = EIO;
    CHECK_INT(live, 0);
}

static void cannot_save_there(void) {
    ag_ctx *ag = context(5);
    gpt_config c = tiny(0);
    gpt_model *m = gpt_new(ag, &c);
    gpt_state s;
    memset(&s, 0, sizeof s);
    CHECK_INT(gpt_save(m, in_folder("no/such/folder/a"), NULL), -1);
    CHECK_HAS(ag_error(ag), "No such file or directory");
    ag_clear_error(ag);
#if !defined(_WIN32)
    CHECK_INT(mkfifo(in_folder("pipe"), 0600), 0);      // or /dev/null, which root could replace by a file
    CHECK_INT(gpt_save(m, in_folder("pipe"), NULL), -1);
    CHECK_HAS(ag_error(ag), "Invalid argument");
    struct stat pipe_still;
    CHECK(!stat(in_folder("pipe"), &pipe_still) && S_ISFIFO(pipe_still.st_mode) && !remove(in_folder("pipe")));
    ag_clear_error(ag);
#endif
    CHECK_INT(gpt_save(m, "", NULL), -1);
    ag_clear_error(ag);
    CHECK_INT(gpt_save(m, NULL, NULL), -1);
    ag_clear_error(ag);
    CHECK_HAS((gpt_save(m, "", NULL), ag_error(ag)), "gpt_save: the path is empty: pass a file's name");
    ag_clear_error(ag);
    s.step = -1;                                        // loading would refuse it
    CHECK_INT(gpt_save(m, in_folder("a"), &s), -1);
    CHECK_HAS(ag_error(ag), "gpt_save: step is -1, wanted the steps done so far, 0 or more. Was the gpt_state zeroed");
    ag_clear_error(ag);
    FILE *none = fopen(in_folder("a"), "rb");
    CHECK(none == NULL || (fclose(none), remove(in_folder("a"))) == 0);
    s.step = 0;
    s.notes = (char *)"a=\xff\n";
    CHECK_INT(gpt_save(m, in_folder("a"), &s), -1);
    CHECK_HAS(ag_error(ag), "UTF-8");
    ag_clear_error(ag);
    s.notes = (char *)"a key that is very long, longer than any key should be in a file=1\n";
    CHECK_INT(gpt_save(m, in_folder("a"), &s), -1);
    CHECK_HAS(ag_error(ag), "48 bytes");
    ag_clear_error(ag);
    CHECK(gpt_load(ag, folder, NULL) == NULL);          // a folder is no file
    CHECK(ag_error(ag) != NULL);
    ag_clear_error(ag);
    CHECK(gpt_load(ag, in_folder("missing"), NULL) == NULL);
    CHECK_HAS(ag_error(ag), "gpt_load: ");
    CHECK_HAS(ag_error(ag), "missing: cannot open it: No such file or directory. Check the path; if no model was saved "
              "there yet, train one first");
    CHECK_HAS(ag_error(ag), "test_checkpoint.c:");
    ag_clear_error(ag);
    CHECK(gpt_resume(ag, in_folder("missing"), NULL) == NULL);
    CHECK_HAS(ag_error(ag), "gpt_resume: ");
    CHECK_HAS(ag_error(ag), "train one first");
    ag_clear_error(ag);
    CHECK(gpt_load(ag, NULL, NULL) == NULL);
    CHECK_HAS(ag_error(ag), "gpt_load: the path is NULL: pass a file's name");
    ag_clear_error(ag);
#if !defined(_WIN32)
    CHECK_INT(gpt_save(m, in_folder("a"), NULL), 0);
    spit(in_folder("before"), "", 0);
    size_t n;
    unsigned char *bytes = slurp(in_folder("a"), &n);
    spit(in_folder("before"), bytes, n);
    ag_real w = 5;
    ag_set_part(m->wte, 0, 1, &w);
    io_full = 1;
    CHECK_INT(gpt_save(m, in_folder("a"), NULL), -1);
    io_full = 0;
    CHECK_HAS(ag_error(ag), "No space left");
    CHECK(same_file(in_folder("a"), in_folder("before")));
    CHECK_INT(temporaries(), 0);
    ag_clear_error(ag);
    pid_t child = fork();
    if (child == 0) {                                   // a quota: files of at most 1,000 bytes
        struct rlimit limit;
        limit.rlim_cur = limit.rlim_max = 1000;
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &limit);
        int ok = gpt_save(m, in_folder("a"), NULL) == -1 && strstr(ag_error(ag), "File too large") &&
            temporaries() == 0;
        _exit(ok ? 0 : 1);
    }
    int status = 1;
    waitpid(child, &status, 0);
    CHECK_INT(status, 0);
    CHECK(same_file(in_folder("a"), in_folder("before")));
    free(bytes);
#endif
    gpt_free(m);
    ag_free(ag);
    CHECK_INT(live, 0);
}

#if !defined(_WIN32)
// Saves 1, 2, 3 ... until it dies; after each one that is done, its number goes into the pipe.
static void save_forever(int pipe_end, long kill_at) {
    ag_ctx *ag = context(5);
    gpt_state s;
    gpt_model *m = gpt_resume(ag, in_folder("k"), &s);
    if (!m) _exit(7);
    for (long long n = s.step + 1;; n++) {
        s.step = n;
        io_calls = 0, io_kill = kill_at;
        if (gpt_save(m, in_folder("k"), &s)) _exit(8);
        io_kill = 0;
        if (write(pipe_end, &n, sizeof n) != sizeof n) _exit(9);
        if (kill_at) _exit(0);                          // there are fewer calls than that
    }
}

// One child dies; what is on the disk loads, and is no older than the last save that the child has reported.
static int one_kill(long kill_at, long microseconds) {
    int ends[2], status = 0, finished;
    long long acknowledged, n;
    gpt_state s;
    ag_ctx *ag = context(5);
    gpt_model *m = gpt_load(ag, in_folder("k"), &s);
    if (!m || pipe(ends)) { T_FAIL("%s", ag_error(ag) ? ag_error(ag) : "pipe"); ag_free(ag); return 1; }
    acknowledged = s.step;
    gpt_state_free(&s), gpt_free(m), ag_free(ag);
    pid_t child = fork();
    if (child == 0) { close(ends[0]); save_forever(ends[1], kill_at); }
    close(ends[1]);
    if (!kill_at) {
        struct timespec wait;
        wait.tv_sec = 0, wait.tv_nsec = microseconds * 1000;
        nanosleep(&wait, NULL);
        kill(child, SIGKILL);
    }
    waitpid(child, &status, 0);
    finished = WIFEXITED(status);
    if (finished && WEXITSTATUS(status)) T_FAIL("the child fails: %d", WEXITSTATUS(status));
    while (read(ends[0], &n, sizeof n) == sizeof n) acknowledged = n;
    close(ends[0]);
    ag = context(5);
    m = gpt_load(ag, in_folder("k"), &s);
    if (!m) T_FAIL("killed at call %ld: %s", kill_at, ag_error(ag));
    else {
        if (s.step < acknowledged ||
            s.step > acknowledged + 1) T_FAIL("killed at call %ld: step %lld, %lld was acknowledged", kill_at, s.step,
                                              acknowledged);
        gpt_state_free(&s);
    }
    gpt_free(m);
    ag_free(ag);
    return finished;
}

static void survives_kill(void) {
    ag_rng r;
    int done = 0;
    make_checkpoint(in_folder("k"), 1, 1);
    for (long n = 1; !done && n < 1000; n++) done = one_kill(n, 0);    // at every call of the file system
    r.key = 4, r.counter = 0;
    for (int i = 0; i < 60; i++) one_kill(0, 200 + (long)(ag_rng_u32(&r) % 20000));
    ag_ctx *ag = context(5);                            // what the dead have left goes with the next save
    gpt_model *m = gpt_load(ag, in_folder("k"), NULL);
    spit(in_folder("k.tmp.999999999.1"), "x", 1);
    CHECK(temporaries() >= 1);
    CHECK_INT(gpt_save(m, in_folder("k"), NULL), 0);
    CHECK_INT(temporaries(), 0);
    gpt_free(m);
    ag_free(ag);
    CHECK_INT(live, 0);
}
#endif

// ---- failing malloc -------------------------------------------------------------------------------------------------
enum { DO_NEW, DO_TRAIN, DO_EVAL, DO_GENERATE, DO_BEAM, DO_SAVE, DO_LOAD, DO_RESUME, DO_LLAMA2C, DO_COUNT };
static int scenario(int what, char *error, size_t size) {       // 0, or -1 and the message
    ag_ctx *ag = context(3);
    gpt_config c = tiny(what % 2);
    gpt_model *m = NULL;
    gpt_state s;
    gpt_sampling sampling;
    int bad = 0, out[40], n_out[4], x[12], y[12];
    double scores[4];
    const int *prompts[2];
    memset(&s, 0, sizeof s), memset(&sampling, 0, sizeof sampling);
    sampling.temperature = 1, sampling.top_k = 3;
    prompts[0] = text, prompts[1] = text + 3;
    n_out[0] = 2, n_out[1] = 3;
    if (what < DO_LOAD) m = gpt_new(ag, &c);
    if (what == DO_TRAIN && m) {
        gpt_loader l = gpt_loader_new(ag, text, 200, GPT_RANDOM);
        gpt_optimizer o = gpt_muon();
        for (int i = 0; i < 2 && !bad; i++) {
            bad = gpt_next(&l, 2, 6, x, y);
            ag_backward(ag_cross_entropy(gpt_forward(m, x, 2, 6), y, NULL));
            bad |= gpt_step(m, &o, 1, NULL);
            ag_reset(ag);
        }
    }
    if (what == DO_EVAL && m) { double e = gpt_eval(m, text, 100, 3); bad = e != e; }
    if (what == DO_GENERATE && m) bad = gpt_generate_batch(m, &sampling, 2, prompts, n_out, out, 12, n_out + 2, NULL,
                                                           NULL);
    if (what == DO_BEAM && m) bad = gpt_beam(m, NULL, text, 2, 3, 1, out, 4, n_out, scores) < 0;
    if (what == DO_SAVE && m) s.notes = notes, bad = gpt_save(m, in_folder("m"), &s), s.notes = NULL;
    if (what == DO_LOAD) m = gpt_load(ag, in_folder("a"), &s);
    if (what == DO_RESUME) m = gpt_resume(ag, in_folder("a"), &s);
    if (what == DO_LLAMA2C) m = gpt_load_llama2c(ag, in_folder("llama.bin"));
    bad |= !m;
    snprintf(error, size, "%s", ag_error(ag) ? ag_error(ag) : "");
    gpt_state_free(&s);
    gpt_free(m);
    ag_free(ag);
    return bad ? -1 : 0;
}

static void every_malloc_fails(void) {
    int header[7] = { 8, 12, 1, 2, 1, 5, 6 };
    size_t n = 28 + 4 * (40 + 8 + 64 + 32 + 32 + 64 + 8 + 96 * 3 + 8 + 24);
    unsigned char *file = (unsigned char *)calloc(n, 1);
    memcpy(file, header, 28);
    spit(in_folder("llama.bin"), file, n);
    free(file);
    make_checkpoint(in_folder("a"), 0, 1);
    for (int what = 0; what < DO_COUNT; what++)
        for (int on = 0; on < 2; on++)
            for (long k = 1, done = 0; !done; k++) {
                char error[512];
                allocations = 0, fail_allocation = k, fails_on = on;
                int bad = scenario(what, error, sizeof error);
                done = allocations < k, fail_allocation = 0;
                // Packed copies of parameters only save time: who computes can go on without.
                const int can_do_without = what == DO_TRAIN || what == DO_EVAL || what == DO_GENERATE || what == DO_BEAM;
                if (done ? bad : !bad && !can_do_without)
                    T_FAIL("scenario %d, malloc %ld%s: %s %s", what, k, on ? " and all after it" : "",
                           bad ? "fails" : "succeeds", error);
                if (!done && bad && !strstr(error, "out of memory")) T_FAIL("scenario %d, malloc %ld: \"%s\"", what, k, error);
                if (live) { T_FAIL("scenario %d, malloc %ld: %zu bytes leak", what, k, live); live = 0; }
                if (temporaries()) T_FAIL("scenario %d, malloc %ld: a temporary file stays", what, k);
                if (k > 500) { T_FAIL("scenario %d never succeeds", what); break; }
            }
}

int main(int argc, char **argv) {
    static const char *const names[] = { "a", "b", "c", "k", "m", "old", "half", "whole", "resumed", "hf", "before",
                                        "llama.bin" };
    T_BEGIN("checkpoint");
#if defined(_WIN32)
    snprintf(folder, sizeof folder, ".");
#else
    mkdir("build", 0777);
    snprintf(folder, sizeof folder, "build/checkpoint_%ld", (long)getpid());
    if (mkdir(folder, 0777)) snprintf(folder, sizeof folder, ".");
#endif
    for (int i = 0; i < 200; i++) text[i] = (i * i + i / 7) % 11;
    T_RUN(round_trip);
    T_RUN(layout);
    T_RUN(resumes_bit_by_bit);
    T_RUN(precision_goes_along);
    T_RUN(every_prefix_is_refused);
    T_RUN(every_flipped_bit_is_refused);
    T_RUN(reads_gpt2_files);
    T_RUN(hostile_headers);
    T_RUN(edge_numbers_in_headers);
    T_RUN(hostile_checkpoints);
    T_RUN(memory_is_bounded);
    T_RUN(llama2c_files);
    T_RUN(random_damage);
    T_RUN(every_io_call_fails_once);
    T_RUN(cannot_save_there);
#if !defined(_WIN32)
    T_RUN(survives_kill);
#endif
    T_RUN(every_malloc_fails);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) remove(in_folder(names[i]));
    remove(folder);
    return T_END();
}
