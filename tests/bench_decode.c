// bench_decode.c - how many tokens a second does a model speak? Greedy decoding of one text from position 0, the
// weights from a file of llama2.c, so that llama2.c can read the same file (tests/peers/llama2c_peer.c).
//
//     cc -O3 tests/bench_decode.c -o build/bench_decode -lm
//     build/bench_decode make FILE dim=768 hidden=2048 layers=12 heads=12 vocab=50257 seq=1024
//     build/bench_decode run FILE [tokens=200] [seconds=2] [threads=2] [int8=1]
//     build/bench_decode rows FILE [prompt=200] [tokens=20] [rows=16]      many continuations of one prompt
//     build/bench_decode bandwidth [threads=2]                             what the memory gives
//
// make writes random weights, the same ones each time. The last line is "VALUE tokens/s" (bandwidth: "VALUE GB/s"), the
// median of as many texts as fit into the seconds.
#define _POSIX_C_SOURCE 200112L
#define AG_DIE_ON_ERROR
#define AUTOGRAD_IMPLEMENTATION
#define GPT_IMPLEMENTATION
#include "../autograd.h"
#include "../gpt.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MOST = 4096, BOS = 1 };
static double times[MOST];

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(int n) {
    qsort(times, (size_t)n, sizeof *times, ascending);
    return times[n / 2];
}

// The number behind "key=" on the command line, or what is given here.
static double option(int argc, char **argv, const char *key, double otherwise) {
    const size_t n = strlen(key);
    for (int i = 2; i < argc; i++)
        if (!strncmp(argv[i], key, n) && argv[i][n] == '=') return atof(argv[i] + n + 1);
    return otherwise;
}

static void fail(const char *what) {
    fprintf(stderr, "bench_decode: %s\n", what);
    exit(1);
}

// ---- a model of any size ----
static uint64_t seed = 1337;

static float noise(float scale) {                   // uniform in [-scale, scale)
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return ((float)(seed >> 40) / (1 << 23) - 1) * scale;
}

static void put(FILE *f, size_t n, float mean, float scale) {
    static float buffer[1 << 16];
    while (n) {
        const size_t some = n < 1 << 16 ? n : 1 << 16;
        for (size_t i = 0; i < some; i++) buffer[i] = mean + noise(scale);
        if (fwrite(buffer, sizeof *buffer, some, f) != some) fail("cannot write the model");
        n -= some;
    }
}

// llama2.c's legacy format: seven int32, the embedding (the head is tied to it), then each kind of matrix for all
// layers: norm, wq, wk, wv, wo, norm, w1, w2, w3; the last norm, and two tables of rotations, which nobody reads.
static int make(int argc, char **argv) {
    const int dim = (int)option(argc, argv, "dim", 768), hidden = (int)option(argc, argv, "hidden", 2048);
    const int layers = (int)option(argc, argv, "layers", 12), heads = (int)option(argc, argv, "heads", 12);
    const int vocab = (int)option(argc, argv, "vocab", 50257), seq = (int)option(argc, argv, "seq", 1024);
    const int header[7] = { dim, hidden, layers, heads, heads, vocab, seq };
    const size_t L = (size_t)layers, C = (size_t)dim, H = (size_t)hidden;
    const float in = 1.7f / sqrtf((float)dim), out = 1.7f / sqrtf((float)hidden);
    FILE *f = fopen(argv[2], "wb");
    if (!f || fwrite(header, sizeof header, 1, f) != 1) fail("cannot write the model");
    put(f, (size_t)vocab * C, 0, 0.04f);
    put(f, L * C, 1, 0.1f);
    for (int i = 0; i < 4; i++) put(f, L * C * C, 0, in);
    put(f, L * C, 1, 0.1f);
    put(f, L * C * H, 0, in), put(f, L * H * C, 0, out), put(f, L * C * H, 0, in);
    put(f, C, 1, 0.1f);
    put(f, (size_t)seq * (C / (size_t)heads), 0, 0);
    return fclose(f) ? 1 : 0;
}

// ---- one text, and many continuations of one ----
static ag_ctx *ctx;
static gpt_model *m;

static void load(int argc, char **argv) {
    ctx = ag_new_with(1337, ag_cpu_backend(NULL, (int)option(argc, argv, "threads", 0)));
    m = gpt_load_llama2c(ctx, argv[2]);
    if (option(argc, argv, "int8", 0) > 0) gpt_quantize(m, 1);
}

static int run(int argc, char **argv) {
    const int tokens = (int)option(argc, argv, "tokens", 200);
    const double limit = option(argc, argv, "seconds", 2), begin = now();
    const gpt_sampling greedy = { 0, 0, 0, 0, NULL, 0 };
    const int prompt[1] = { BOS };
    int *out, runs = 0;
    load(argc, argv);
    out = (int *)malloc((size_t)tokens * sizeof *out);
    if (!out || tokens < 1 || tokens > m->config.n_ctx) fail("tokens: wanted 1 to the model's context");
    gpt_generate(m, &greedy, prompt, 1, out, tokens < 4 ? tokens : 4, NULL, NULL);       // memory, threads
    while (runs < MOST && (runs < 3 || now() - begin < limit)) {
        const double start = now();
        if (gpt_generate(m, &greedy, prompt, 1, out, tokens, NULL, NULL) != tokens) fail("a token is missing");
        times[runs++] = now() - start;
    }
    unsigned sum = 0;                               // of the text, to be compared with the peer's
    for (int i = 0; i < tokens; i++) sum = sum * 31 + (unsigned)out[i];
    const double seconds = median(runs), bytes = (double)gpt_count(&m->config) * sizeof(ag_real);
    printf("%d runs, %d threads, text %u, weights read at %.1f GB/s\n", runs, ag_threads(ctx), sum,
           bytes * tokens / seconds * 1e-9);
    printf("%.1f tokens/s\n", tokens / seconds);
    return 0;
}

static int many(int argc, char **argv) {
    const int rows = (int)option(argc, argv, "rows", 16), n = (int)option(argc, argv, "prompt", 200);
    const int tokens = (int)option(argc, argv, "tokens", 20), runs = (int)option(argc, argv, "runs", 3);
    const gpt_sampling free_speech = { 1, 0, 0, 0, NULL, 0 };
    load(argc, argv);
    int *prompt = (int *)malloc((size_t)n * sizeof *prompt), *out = (int *)malloc((size_t)rows * tokens * sizeof *out);
    int *lengths = (int *)malloc((size_t)rows * 2 * sizeof *lengths);
    const int **prompts = (const int **)malloc((size_t)rows * sizeof *prompts);
    if (!prompt || !out || !lengths || !prompts) fail("out of memory");
    for (int i = 0; i < n; i++) prompt[i] = 3 + i * 37 % (m->config.n_vocab - 3);
    for (int b = 0; b < rows; b++) prompts[b] = prompt, lengths[b] = n;
    double seconds[2];
    for (int together = 0; together < 2; together++) {
        for (int r = 0; r < runs && r < MOST; r++) {
            const double start = now();
            if (together) gpt_generate_batch(m, &free_speech, rows, prompts, lengths, out, tokens, lengths + rows, NULL,
                                             NULL);
            else for (int b = 0; b < rows; b++)
                gpt_generate(m, &free_speech, prompt, n, out + (size_t)b * tokens, tokens, NULL, NULL);
            times[r] = now() - start;
        }
        seconds[together] = median(runs);
    }
    gpt_cache *cache = gpt_cache_new(m, 2);
    int both[2] = { 1, 0 };
    gpt_feed(cache, prompt, 1, both, NULL), gpt_cache_truncate(cache, 0, 0);
    for (int i = 0; i < n; i++) {                   // row 0 reads the prompt token by token, as generation does
        const int id[2] = { prompt[i], 0 };
        const double start = now();
        gpt_feed(cache, id, 1, both, NULL);
        times[i % MOST] = now() - start;
    }
    const double token = median(n < MOST ? n : MOST);
    for (int r = 0; r < 9; r++) {
        const double start = now();
        gpt_cache_copy(cache, 1, 0);
        times[r] = now() - start;
    }
    printf("a copy of the prompt's keys and values takes %.3f ms, a token %.3f ms\n", median(9) * 1e3, token * 1e3);
    gpt_cache_free(cache);
    printf("%d continuations of %d tokens after a prompt of %d: one by one %.3f s, together %.3f s, %.2f times as "
           "fast\n", rows, tokens, n, seconds[0], seconds[1], seconds[0] / seconds[1]);
    printf("%.1f tokens/s\n", rows * tokens / seconds[1]);
    return 0;
}

// ---- the limit: nobody speaks faster than the weights can be read ----
typedef struct part { const uint64_t *from; size_t n; uint64_t sum; } part;

static void *add_up(void *arg) {
    part *p = (part *)arg;
    uint64_t s[8] = { 0, 0, 0, 0, 0, 0, 0, 0 };
    for (size_t i = 0; i + 8 <= p->n; i += 8) for (int j = 0; j < 8; j++) s[j] += p->from[i + (size_t)j];
    for (int j = 0; j < 8; j++) p->sum += s[j];
    return NULL;
}

static int bandwidth(int argc, char **argv) {
    enum { RUNS = 9 };
    const size_t n = (size_t)1 << 26, threads = (size_t)option(argc, argv, "threads", 2);       // half a gigabyte
    uint64_t *data = (uint64_t *)malloc(n * sizeof *data), sum = 0;
    if (!data || threads < 1 || threads > 64) fail("out of memory, or threads is not 1 to 64");
    for (size_t i = 0; i < n; i++) data[i] = i;
    for (int r = 0; r < RUNS; r++) {
        pthread_t thread[64];
        part parts[64];
        const double start = now();
        for (size_t i = 0; i < threads; i++) {
            parts[i].from = data + n / threads * i, parts[i].n = n / threads, parts[i].sum = 0;
            if (pthread_create(&thread[i], NULL, add_up, &parts[i])) fail("no threads");
        }
        for (size_t i = 0; i < threads; i++) pthread_join(thread[i], NULL), sum += parts[i].sum;
        times[r] = now() - start;
    }
    printf("sum %llu\n%.1f GB/s\n", (unsigned long long)sum, (double)n * sizeof *data / median(RUNS) * 1e-9);
    return 0;
}

int main(int argc, char **argv) {
    if (argc > 2 && !strcmp(argv[1], "make")) return make(argc, argv);
    if (argc > 2 && !strcmp(argv[1], "run")) return run(argc, argv);
    if (argc > 2 && !strcmp(argv[1], "rows")) return many(argc, argv);
    if (argc > 1 && !strcmp(argv[1], "bandwidth")) return bandwidth(argc, argv);
    fail("make FILE, run FILE, rows FILE or bandwidth: see the first lines of tests/bench_decode.c");
    return 1;
}
