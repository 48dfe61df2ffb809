// bench_bpe.c - times bpe.h; tests/bench.py runs it beside tiktoken and Hugging Face's tokenizers.
// Compile: cc -O3 tests/bench_bpe.c -o build/bench_bpe -lm
//
//     build/bench_bpe train TEXT [vocabulary] [runs] [split]   last line "VALUE s"; split: gpt2 (default) or cl100k
//     build/bench_bpe encode TEXT cl100k_base.tiktoken [runs]  last line "VALUE MB/s" (of 10^6 bytes)
//     build/bench_bpe TEXT cl100k_base.tiktoken                both, as lines of "name value unit"
//     build/bench_bpe corpus TEXT MEGABYTES FILE               writes a large text made from TEXT, see below
//
// Values are medians; one thread. Files are read before the clock starts, as the peers' scripts do.
#include <time.h>           // before all else: clock_gettime
#include <math.h>
#define BPE_DIE_ON_ERROR
#define BPE_IMPLEMENTATION
#include "../bpe.h"

static double seconds(void) {
#ifdef CLOCK_MONOTONIC
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
#else
    return (double)clock() / CLOCKS_PER_SEC;
#endif
}

static char *read_all(const char *path, size_t *size) {
    FILE *f = fopen(path, "rb");
    if (!f) fprintf(stderr, "bench_bpe: cannot open %s\n", path), exit(1);
    fseek(f, 0, SEEK_END);
    *size = (size_t)ftell(f);
    rewind(f);
    char *p = (char *)malloc(*size + 1);
    if (!p || fread(p, 1, *size, f) != *size) fprintf(stderr, "bench_bpe: cannot read %s\n", path), exit(1);
    fclose(f);
    return p;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v, int n) {
    qsort(v, (size_t)n, sizeof *v, ascending);
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

// Seconds of one training run, the median. The peer decides on the split: tokenizers has GPT-2's, rustbpe cl100k's.
static double train(const char *text, size_t n, int vocabulary, int runs, int split) {
    double took[1000];
    for (int i = 0; i < runs; i++) {
        bpe *t = bpe_new();
        double begin = seconds();
        bpe_train(t, text, n, vocabulary, split);
        took[i] = seconds() - begin;
        if (!i) fprintf(stderr, "vocabulary %d, %d runs\n", bpe_vocab_size(t), runs);
        bpe_free(t);
    }
    return median(took, runs);
}

static double encode(const char *text, size_t n, const char *ranks, int runs) {
    double took[1000];
    int *ids = (int *)malloc(n * sizeof *ids);
    bpe *t = bpe_new();
    bpe_load_tiktoken(t, ranks, "cl100k_base");
    for (int i = 0; i < runs && ids; i++) {
        double begin = seconds();
        long count = bpe_encode(t, text, n, ids, n);
        took[i] = seconds() - begin;
        if (!i) fprintf(stderr, "%ld tokens, %d runs\n", count, runs);
    }
    bpe_free(t);
    free(ids);
    return median(took, runs);
}

// ---- A large text ----

// Where there is no large corpus, one is made: the lines, signs and spaces of TEXT again and again, but every second
// word (at random) becomes word number r of an endless dictionary, and every fiftieth one a number. Ranks r follow the
// law of Zipf and Mandelbrot, P(r > x) = (1 + x / 100)^-0.4, so new words keep turning up as in real text:
// 90,000 different ones in 22 MB of Tiny Shakespeare's kind, 199,000 in 100 MB. Word r is spelled by an order-2 Markov
// chain over the letters of TEXT's words, seeded with r.
// Only integers, division and sqrt are used, which IEEE rounds alike everywhere: the file is the same on any machine.
static uint64_t corpus_state;
static uint64_t corpus_next(void) {     // SplitMix64
    uint64_t z = corpus_state += UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
    return z ^ z >> 31;
}

static int is_letter(int c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

// follow[a][b][c]: how many times letter c (0: the end of the word) comes after a and b (0: before the word), summed.
static uint32_t follow[27][27][28];
static void corpus_learn(const char *text, size_t n) {
    int a = 0, b = 0;
    for (size_t i = 0; i < n; i++) {
        int c = is_letter(text[i]) ? (text[i] | 32) - 'a' + 1 : 0;
        if (c || b) follow[a][b][c + 1]++;
        a = c ? b : 0, b = c;
    }
    for (a = 0; a < 27; a++)
        for (b = 0; b < 27; b++)
            for (int c = 0; c < 27; c++) follow[a][b][c + 1] += follow[a][b][c];
}

static int corpus_word(uint64_t r, char *to) {
    uint64_t keep = corpus_state;
    int a = 0, b = 0, c, n = 0;
    corpus_state = r * UINT64_C(0xD1342543DE82EF95) + 1;
    for (; n < 24; n++, a = b, b = c) {
        const uint32_t *sum = follow[a][b];
        uint32_t at = sum[27] ? (uint32_t)(corpus_next() % sum[27]) : 0;
        for (c = 0; c < 26 && sum[c + 1] <= at; c++) {}
        if (!c) break;
        to[n] = (char)('a' + c - 1);
    }
    corpus_state = keep;
    return n;
}

static void corpus(const char *text, size_t n, size_t size, FILE *out) {
    char word[64];
    corpus_state = 1337;
    corpus_learn(text, n);
    for (size_t at = 0, written = 0, end; written < size; at = end < n ? end : 0) {
        size_t length = 1;
        const char *put = text + at;
        end = at + 1;
        if (is_letter(text[at])) {
            while (end < n && is_letter(text[end])) end++;
            length = end - at;
            uint64_t dice = corpus_next() % 100;
            if (dice < 50) {
                double u = ((double)(corpus_next() >> 11) + 0.5) / 9007199254740992.0;
                double x = 100.0 * (1.0 / (u * u * sqrt(u)) - 1.0);         // (1 + x / 100)^-0.4 = u
                length = (size_t)corpus_word(x < 1e15 ? (uint64_t)x : UINT64_C(1000000000000000), word), put = word;
                if (text[at] < 'a') word[0] = (char)(word[0] & ~32);
            } else if (dice < 52) {
                length = (size_t)snprintf(word, sizeof word, "%u", (unsigned)(corpus_next() % 10000)), put = word;
            }
        }
        if (length > size - written) length = size - written;
        fwrite(put, 1, length, out);
        written += length;
    }
}

int main(int argc, char **argv) {
    size_t n;
    int training = argc > 2 && !strcmp(argv[1], "train"), encoding = argc > 3 && !strcmp(argv[1], "encode");
    int making = argc > 4 && !strcmp(argv[1], "corpus");
    if (argc < 3) {
        fprintf(stderr, "usage: bench_bpe train TEXT [vocabulary] [runs] [split] | encode TEXT RANKS [runs] | "
                        "corpus TEXT MEGABYTES FILE | TEXT RANKS\n");
        return 2;
    }
    char *text = read_all(argv[training || encoding || making ? 2 : 1], &n);
    int split = argc > 5 && !strcmp(argv[5], "cl100k") ? BPE_SPLIT_CL100K : BPE_SPLIT_GPT2;
    if (making) {
        FILE *out = fopen(argv[4], "wb");
        if (!out) fprintf(stderr, "bench_bpe: cannot write %s\n", argv[4]), exit(1);
        corpus(text, n, (size_t)atoi(argv[3]) * 1000000, out);
        free(text);
        return fclose(out) ? 1 : 0;
    }
    int runs = argc > 4 ? atoi(argv[4]) : 5;
    if (runs < 1 || runs > 1000) runs = 5;
    if (training) printf("%.5f s\n", train(text, n, argc > 3 ? atoi(argv[3]) : 1024, runs, split));
    else if (encoding) printf("%.2f MB/s\n", (double)n / encode(text, n, argv[3], runs) / 1e6);
    else {
        printf("bpe_train_1024 %.5f s\n", train(text, n, 1024, 5, BPE_SPLIT_GPT2));
        printf("bpe_encode_cl100k %.5f s\n", encode(text, n, argv[2], 5));
    }
    free(text);
    return 0;
}
