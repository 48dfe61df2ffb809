// test_bpe.c - bpe.h against tiktoken (golden/bpe_tiktoken.txt, by make_bpe_golden.py), a regular expression engine
// (golden/bpe_pieces.txt), brute force, published numbers, hostile files and an allocator that fails.
// Compile: cc -O2 -std=gnu99 tests/test_bpe.c -o build/test_bpe -lm -pthread. Run from the root, where build/ is.
#define _GNU_SOURCE             // clock_gettime, setrlimit and access under -std=c99
#include "test.h"
#include "damage.h"
#include <pthread.h>
#include <stdint.h>
#include <sys/resource.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

// The allocator: counts what lives and how high it got, and fails the n-th call (once, or from then on).
static long a_live, a_calls, a_fail_at, a_sticky;
static size_t a_bytes, a_peak;
static int a_counting = 1;

static int a_refuses(void) {
    long call = ++a_calls;
    return a_fail_at && (call == a_fail_at || (a_sticky && call > a_fail_at));
}

static void *a_malloc(size_t n) {
    if (!a_counting) return malloc(n);      // several threads: no bookkeeping
    if (a_refuses()) return NULL;
    size_t *p = (size_t *)malloc(n + 16);
    if (!p) return NULL;
    p[0] = n, a_live++, a_bytes += n;
    if (a_bytes > a_peak) a_peak = a_bytes;
    return p + 2;
}

static void a_free(void *p) {
    if (!a_counting) { free(p); return; }
    if (!p) return;
    a_live--, a_bytes -= ((size_t *)p)[-2];
    free((size_t *)p - 2);
}

static void *a_realloc(void *p, size_t n) {
    void *q = a_malloc(n);
    if (!q) return NULL;
    if (p) {
        size_t old = ((size_t *)p)[-2];
        memcpy(q, p, old < n ? old : n);
        a_free(p);
    }
    return q;
}

#define BPE_MALLOC(n) a_malloc(n)
#define BPE_REALLOC(p, n) a_realloc(p, n)
#define BPE_FREE(p) a_free(p)
#define BPE_IMPLEMENTATION
#include "../bpe.h"

// ---- help ----

static uint64_t r_state = 1;
static uint64_t r_next(void) {      // SplitMix64, as in make_bpe_golden.py
    uint64_t z = r_state += UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
    return z ^ z >> 31;
}
static size_t r_below(size_t n) { return (size_t)(r_next() % n); }

static char *read_all(const char *path, size_t *size) {
    FILE *f = fopen(path, "rb");
    *size = 0;
    if (!f) return NULL;
    fseek(f, 0, SEEK_END);
    *size = (size_t)ftell(f);
    rewind(f);
    char *p = (char *)malloc(*size + 1);
    *size = fread(p, 1, *size, f);
    p[*size] = 0;
    fclose(f);
    return p;
}

static const char *data_path(const char *name) {
    static char path[4][1024];
    static int turn;
    const char *mirror = getenv("DATA_MIRROR");
    const char *folder[3] = {mirror ? mirror : "examples/data", "examples/data", "../shared/data"};
    char *p = path[turn++ % 4];
    for (int i = 0; i < 3; i++) {
        snprintf(p, sizeof path[0], "%s/%s", folder[i], name);
        FILE *f = fopen(p, "rb");
        if (f) return fclose(f), p;
    }
    printf("skipped: %s: there is no %s\n", t_name, name);
    return NULL;
}

static char *shakespeare(size_t *size) {
    const char *path = data_path("tinyshakespeare.txt");
    return path ? read_all(path, size) : NULL;
}

// The tokenizer of a named encoding, made once; NULL if its file is missing.
static bpe *encoding(const char *name) {
    static struct {
        const char *name;
        bpe *t;
    } made[3] = {{"r50k_base", NULL}, {"cl100k_base", NULL}, {"o200k_base", NULL}};
    for (int i = 0; i < 3; i++) {
        if (strcmp(made[i].name, name)) continue;
        if (!made[i].t) {
            char file[64];
            snprintf(file, sizeof file, "%s.tiktoken", name);
            const char *path = data_path(file);
            if (!path) return NULL;
            made[i].t = bpe_new();
            CHECK_INT(bpe_load_tiktoken(made[i].t, path, name), 0);
            CHECK(bpe_error(made[i].t) == NULL);
        }
        return made[i].t;
    }
    return NULL;
}

#define MANY (1 << 21)
static int ids_a[MANY], ids_b[MANY];
static char text_a[1 << 23];

static int same_ids(const int *a, long n, const int *b, long m) {
    return n == m && !memcmp(a, b, (size_t)n * sizeof *a);
}

// Encodes, decodes and compares; returns the number of ids.
static long round_trip(const bpe *t, const void *text, size_t len) {
    long n = bpe_encode(t, text, len, ids_a, MANY);
    if (n < 0 || n > MANY) return T_FAIL("encode gives %ld", n), n;
    long bytes = bpe_decode(t, ids_a, (size_t)n, text_a, sizeof text_a);
    if (bytes != (long)len || memcmp(text_a, text, len))
        T_FAIL("decode(encode(x)) is not x: %ld bytes of %ld", bytes, (long)len);
    return n;
}

// Compares the ids of a text with numbers written as text: "15339 1917".
static void check_ids(const bpe *t, const char *text, const char *want) {
    char got[4096];
    size_t at = 0;
    long n = bpe_encode(t, text, strlen(text), ids_a, 500);
    got[0] = 0;
    for (long i = 0; i < n && at < 4000; i++) at += (size_t)sprintf(got + at, "%s%d", i ? " " : "", ids_a[i]);
    CHECK_STR(got, want);
}

// ---- training ----

static void minbpe_example(void) {
    // karpathy/minbpe, README: three merges on Wikipedia's example of byte-pair encoding.
    bpe *t = bpe_new();
    CHECK_INT(bpe_train(t, "aaabdaaabac", 11, 259, BPE_SPLIT_NONE), 0);
    check_ids(t, "aaabdaaabac", "258 100 258 97 99");
    CHECK_INT(bpe_vocab_size(t), 259);
    CHECK_STR(bpe_token(t, 256, NULL), "aa");
    CHECK_STR(bpe_token(t, 257, NULL), "ab");       // (97, 98) and (256, 97) both occur twice: the lower pair wins
    CHECK_STR(bpe_token(t, 258, NULL), "aaab");
    bpe_free(t);
}

static void byte_01100010_is_98(void) {
    bpe *t = bpe_new();
    CHECK_INT(bpe_bytes(t), 0);
    CHECK_INT(bpe_encode(t, "b", 1, ids_a, 1), 1);
    CHECK_INT(ids_a[0], 98);
    CHECK_INT(bpe_vocab_size(t), 256);
    bpe_free(t);
}

// Training by the book, with nothing of the header's: a list of ids per piece, all pairs counted each time.
typedef struct { int ids[20000], n, left[2000], right[2000], tokens; } brute;
static void brute_train(brute *b, const bpe *splitter, const unsigned char *p, size_t n, int vocab) {
    size_t end = 0;
    b->n = 0, b->tokens = 256;
    for (size_t i = 0; i < n; i++) {
        if (i == end) b->ids[b->n++] = -1, end = bpe_next_piece(splitter, p, n, i);
        b->ids[b->n++] = p[i];
    }
    while (b->tokens < vocab) {
        int best = 1, left = -1, right = -1;
        for (int i = 0; i + 1 < b->n; i++) {
            int l = b->ids[i], r = b->ids[i + 1], count = 0;
            if (l < 0 || r < 0) continue;
            for (int k = 0; k + 1 < b->n; k++) count += b->ids[k] == l && b->ids[k + 1] == r;
            if (count > best || (count == best && best > 1 && (l < left || (l == left && r < right))))
                best = count, left = l, right = r;
        }
        if (left < 0) break;
        int m = 0;
        for (int i = 0; i < b->n; i++) {
            if (i + 1 < b->n && b->ids[i] == left && b->ids[i + 1] == right) b->ids[m++] = b->tokens, i++;
            else b->ids[m++] = b->ids[i];
        }
        b->n = m, b->left[b->tokens] = left, b->right[b->tokens] = right, b->tokens++;
    }
}

static size_t brute_text(const brute *b, int id, char *to) {
    if (id < 256) return *to = (char)id, 1;
    size_t n = brute_text(b, b->left[id], to);
    return n + brute_text(b, b->right[id], to + n);
}

static void training_by_the_book(void) {
    static brute b;
    static char text[4096];
    r_state = 11;
    for (int round = 0; round < 250; round++) {
        size_t n = r_below(round < 200 ? 60 : 600) + 1, letters = 1 + r_below(4);
        int split = (int)r_below(4), vocab = 256 + (int)r_below(40);
        for (size_t i = 0; i < n; i++)
            text[i] = r_below(8) ? "ab1 \xe9'c"[r_below(letters)] : " \n's.A9\x80"[r_below(8)];
        bpe *fast = bpe_new(), *naive = bpe_new();
        CHECK_INT(bpe_train(fast, text, n, vocab, split), 0);
        CHECK_INT(bpe_train_naive(naive, text, n, vocab, split), 0);
        brute_train(&b, fast, (const unsigned char *)text, n, vocab);
        CHECK_INT(bpe_vocab_size(fast), b.tokens);
        CHECK_INT(bpe_vocab_size(naive), b.tokens);
        for (int id = 0; id < b.tokens; id++) {
            size_t want = brute_text(&b, id, text_a), got = 0, other = 0;
            const char *p = bpe_token(fast, id, &got), *q = bpe_token(naive, id, &other);
            if (got != want || memcmp(p, text_a, want))
                T_FAIL("round %d: token %d differs from the brute force's", round, id);
            if (other != want || memcmp(q, text_a, want))
                T_FAIL("round %d: token %d of the naive one differs", round, id);
        }
        // Encoding the training text gives the very ids that training ended with: ranks are enough.
        long m = round_trip(fast, text, n), k = 0;
        for (int i = 0; i < b.n; i++) {
            if (b.ids[i] < 0) continue;
            if (k >= m || ids_a[k] != b.ids[i]) { T_FAIL("round %d: id %ld differs", round, k); break; }
            k++;
        }
        CHECK_INT(k, m);
        bpe_free(fast);
        bpe_free(naive);
    }
}

// The two ways of joining a piece are twins: plain search and the heap.
static void heap_and_search_join_alike(void) {
    static char text[5000];
    bpe *t = bpe_new();
    r_state = 31;
    for (size_t i = 0; i < sizeof text; i++) text[i] = "aaab bc\xe9"[r_below(8)];
    CHECK_INT(bpe_train(t, text, sizeof text, 400, BPE_SPLIT_NONE), 0);
    CHECK_INT(bpe_vocab_size(t), 400);
    for (int round = 0; round < 20000; round++) {
        unsigned char piece[BPEI_SHORT];
        int n = 1 + (int)r_below(BPEI_SHORT);
        bpei_ids a = {ids_a, MANY, 0}, b = {ids_b, MANY, 0};
        for (int i = 0; i < n; i++) piece[i] = (unsigned char)"aaab bc\xe9"[r_below(8)];
        bpei_merge_short(&t->v, piece, n, &a);
        CHECK_INT(bpei_merge_long(&t->v, piece, (size_t)n, 0, &b), 0);
        if (!same_ids(ids_a, (long)a.n, ids_b, (long)b.n)) { T_FAIL("round %d: other ids", round); break; }
    }
    bpe_free(t);
}

static void naive_agrees_on_shakespeare(void) {
    size_t n;
    char *text = shakespeare(&n);
    if (!text) return;
    for (int split = BPE_SPLIT_NONE; split <= BPE_SPLIT_O200K; split++) {
        bpe *fast = bpe_new(), *naive = bpe_new();
        CHECK_INT(bpe_train(fast, text, 200000, 400, split), 0);
        CHECK_INT(bpe_train_naive(naive, text, 200000, 400, split), 0);
        CHECK_INT(bpe_vocab_size(fast), 400);
        long size = bpe_save_mem(fast, NULL, 0);
        char *a = (char *)malloc((size_t)size), *b = (char *)malloc((size_t)size);
        CHECK_INT(bpe_save_mem(fast, a, (size_t)size), size);
        CHECK_INT(bpe_save_mem(naive, b, (size_t)size), size);
        CHECK(!memcmp(a, b, (size_t)size));
        free(a);
        free(b);
        bpe_free(fast);
        bpe_free(naive);
    }
    free(text);
}

static void training_limits(void) {
    bpe *t = bpe_new();
    CHECK_INT(bpe_train(t, "", 0, 300, BPE_SPLIT_GPT2), 0);         // nothing to learn: the bytes remain
    CHECK_INT(bpe_vocab_size(t), 256);
    CHECK_INT(bpe_train(t, "abcdefg", 7, 300, BPE_SPLIT_NONE), 0);  // no pair occurs twice
    CHECK_INT(bpe_vocab_size(t), 256);
    CHECK_INT(bpe_train(t, "abab", 4, 300, BPE_SPLIT_NONE), 0);
    CHECK_INT(bpe_vocab_size(t), 257);
    CHECK_INT(bpe_train(t, "abab", 4, 255, BPE_SPLIT_NONE), BPE_EARG);
    CHECK_HAS(bpe_error(t), "vocab_size is 255");
    CHECK_HAS(bpe_error(t), "test_bpe.c:");
    CHECK_HAS(bpe_error(t), "bpe_train: ");
    CHECK_INT(bpe_vocab_size(t), 257);                              // and the old vocabulary stays
    CHECK_INT(bpe_train(t, "abab", 4, 300, 9), BPE_EARG);
    CHECK_HAS(bpe_error(t), "255");                                 // the first message is kept
    bpe_clear_error(t);
    CHECK_INT(bpe_train(t, "abab", 4, 300, 9), BPE_EARG);
    CHECK_HAS(bpe_error(t), "split is 9");
    bpe_clear_error(t);
    CHECK_INT(bpe_train(t, NULL, 4, 300, 0), BPE_EARG);
    CHECK_INT(bpe_train(NULL, "abab", 4, 300, 0), BPE_EARG);
    bpe_clear_error(t);
    CHECK_INT(bpe_train_naive(t, "abab", 4, 9000, 0), BPE_EARG);
    CHECK_HAS(bpe_error(t), "bpe_train_naive: ");
    bpe_free(t);
}

// ---- splitting ----

static int hex_digit(int c) { return c >= 'a' ? c - 'a' + 10 : c - '0'; }
static size_t from_hex(const char *hex, char *to) {
    size_t n = 0;
    if (*hex == '-') return 0;
    for (; hex[0] > ' ' && hex[1] > ' '; hex += 2) to[n++] = (char)(hex_digit(hex[0]) << 4 | hex_digit(hex[1]));
    return n;
}

static void pieces_like_a_regular_expression_engine(void) {
    size_t size;
    char *file = read_all("tests/golden/bpe_pieces.txt", &size), *line = file;
    static const char *const names[] = {"none", "gpt2", "cl100k", "o200k"};
    int lines = 0;
    bpe *t = bpe_new();
    CHECK(file != NULL);
    for (char *next; line && *line; line = next) {
        next = strchr(line, '\n'), *next++ = 0;
        if (*line == '#') continue;
        char *space = strchr(line, ' '), *numbers;
        *space = 0;
        for (int split = 1; split < 4; split++)
            if (!strcmp(line, names[split])) bpe_set_split(t, split);
        numbers = strchr(space + 1, ' ');
        size_t n = from_hex(space + 1, text_a), at = 0;
        while (at < n) {
            size_t end = bpe_next_piece(t, text_a, n, at), want = strtoul(numbers, &numbers, 10);
            if (end - at != want) {
                T_FAIL("%s, line \"%.60s\": piece at %d has %d bytes, wanted %d", line, space + 1, (int)at,
                       (int)(end - at), (int)want);
                break;
            }
            at = end;
        }
        lines++;
    }
    CHECK(lines > 500);
    CHECK_INT(bpe_next_piece(t, "a b", 3, 0), 1);
    bpe_set_split(t, BPE_SPLIT_NONE);
    CHECK_INT(bpe_next_piece(t, "a b", 3, 0), 3);
    free(file);
    bpe_free(t);
}

static void every_splitter_moves_on_and_ends(void) {
    bpe *t = bpe_new();
    char text[64];
    r_state = 3;
    for (int round = 0; round < 30000; round++) {
        size_t n = r_below(sizeof text) + 1;
        for (size_t i = 0; i < n; i++)
            text[i] = (char)(r_below(2) ? r_below(256) : (size_t) " \n'sA1\xcc\x81"[r_below(8)]);
        for (int split = 1; split < 4; split++) {
            bpe_set_split(t, split);
            size_t at = 0, steps = 0;
            while (at < n && steps++ < 100) {
                size_t end = bpe_next_piece(t, text, n, at);
                if (end <= at || end > n) { T_FAIL("piece from %d to %d of %d", (int)at, (int)end, (int)n); break; }
                at = end;
            }
            CHECK_INT(at, n);
        }
    }
    bpe_free(t);
}

// The short cut for plain words is a twin of the whole pattern.
static void plain_words_like_the_whole_pattern(void) {
    static const char *const part[] = {
        "a", "z", "A", "Z", "`", "{", "@", "[", " ", "'", "'s", "'LL", "'re", "1", "9", "\r", "\n", "\t", ".", "\x7f",
        "word", "WORD", "Word", "wordswithoutend", "Ii", "\xc3\xa9", "\xc5\xbf", "\xcc\x81", "\xe4\xb8\xad", "\xff"};
    bpe *t = bpe_new();
    long found[4] = {0}, none[4] = {0};
    r_state = 41;
    for (int round = 0; round < 60000; round++) {
        unsigned char text[256];
        size_t n = 0, count = sizeof part / sizeof *part;
        for (size_t parts = 1 + r_below(12); parts; parts--) {
            const char *p = part[r_below(r_below(4) ? count : 8)];
            memcpy(text + n, p, strlen(p)), n += strlen(p);
        }
        unsigned char *exact = (unsigned char *)malloc(n);      // so that a sanitizer sees reads beyond the end
        memcpy(exact, text, n);
        for (int split = 1; split < 4; split++)
            for (size_t at = 0; at < n; at++) {
                size_t word = bpei_plain_word(t, split, exact, n, at), want = bpei_split_fully(t, split, exact, n, at);
                (*(word ? &found[split] : &none[split]))++;
                if (word && word != want)
                    T_FAIL("split %d, round %d: piece from %d to %d, wanted %d", split, round, (int)at, (int)word,
                           (int)want);
            }
        free(exact);
    }
    for (int split = 1; split < 4; split++) CHECK(found[split] > 100000 && none[split] > 100000);
    // All single bytes before, in and after a word, where eight are looked at together.
    for (int split = 1; split < 4; split++)
        for (int c = 0; c < 256; c++)
            for (size_t at = 0; at < 12; at++) {
                unsigned char text[13] = "abcdefghijkl";
                text[at] = (unsigned char)c;
                size_t word = bpei_plain_word(t, split, text, 12, 0);
                if (word && word != bpei_split_fully(t, split, text, 12, 0)) T_FAIL("byte %d at %d", c, (int)at);
            }
    bpe_free(t);
}

// ---- tiktoken ----

static uint32_t add_ids(uint32_t crc, const int *ids, long n) {     // as in make_bpe_golden.py
    for (long i = -1; i < n; i++) {
        uint32_t x = i < 0 ? (uint32_t)n : (uint32_t)ids[i];
        char b[4] = {(char)x, (char)(x >> 8), (char)(x >> 16), (char)(x >> 24)};
        crc = bpei_crc32(crc, b, 4);
    }
    return crc;
}

static char *g_file;                                // lines of bpe_tiktoken.txt, each ended by 0
static char *g_line[4000];
static int g_lines;
static struct { char bytes[32]; size_t n; } g_fragment[200], g_stray[40];
static size_t g_fragments, g_strays;

static int golden(void) {
    size_t size;
    if (g_file) return 1;
    g_file = read_all("tests/golden/bpe_tiktoken.txt", &size);
    CHECK(g_file != NULL);
    if (!g_file) return 0;
    for (char *p = strtok(g_file, "\n"); p; p = strtok(NULL, "\n")) {
        if (!strncmp(p, "fragment ", 9))
            g_fragment[g_fragments].n = from_hex(p + 9, g_fragment[g_fragments].bytes), g_fragments++;
        else if (!strncmp(p, "stray ", 6)) g_stray[g_strays].n = from_hex(p + 6, g_stray[g_strays].bytes), g_strays++;
        else g_line[g_lines++] = p;
    }
    CHECK(g_lines > 900 && g_fragments > 100 && g_strays > 10);
    return 1;
}

static size_t put_utf8(char *p, uint32_t c) {
    if (c < 0x80) return p[0] = (char)c, 1;
    if (c < 0x800) return p[0] = (char)(0xC0 | c >> 6), p[1] = (char)(0x80 | (c & 63)), 2;
    if (c < 0x10000)
        return p[0] = (char)(0xE0 | c >> 12), p[1] = (char)(0x80 | (c >> 6 & 63)), p[2] = (char)(0x80 | (c & 63)), 3;
    return p[0] = (char)(0xF0 | c >> 18), p[1] = (char)(0x80 | (c >> 12 & 63)), p[2] = (char)(0x80 | (c >> 6 & 63)),
           p[3] = (char)(0x80 | (c & 63)), 4;
}

static size_t random_string(char *p) {
    size_t n = 0;
    for (size_t parts = 1 + r_below(12); parts; parts--) {
        size_t kind = r_below(16);
        if (kind < 12) {
            size_t f = r_below(g_fragments);
            memcpy(p + n, g_fragment[f].bytes, g_fragment[f].n), n += g_fragment[f].n;
        } else if (kind < 14) p[n++] = (char)(1 + r_below(127));
        else {
            uint32_t code = (uint32_t)r_below(0x20000 - 0x800);
            n += put_utf8(p + n, code >= 0xD800 ? code + 0x800 : code);
        }
    }
    return n;
}

static size_t spoil(char *p, size_t n) {
    for (size_t times = 1 + r_below(3); times; times--) {
        size_t at = r_below(n + 1);
        if (r_below(4) == 0) { n = at; continue; }
        size_t s = r_below(g_strays);
        memmove(p + at + g_stray[s].n, p + at, n - at);
        memcpy(p + at, g_stray[s].bytes, g_stray[s].n), n += g_stray[s].n;
    }
    return n;
}

// The next lines of this kind: "kind encoding rest".
static const char *golden_line(const char *kind, int *i, bpe **t) {
    for (; *i < g_lines; ++*i) {
        size_t n = strlen(kind);
        char name[32];
        if (strncmp(g_line[*i], kind, n) || g_line[*i][n] != ' ') continue;
        int used = 0;
        sscanf(g_line[*i] + n, "%31s%n", name, &used);
        *t = encoding(name);
        if (!*t) { *i = g_lines; return NULL; }
        const char *rest = g_line[*i] + n + used + 1;
        ++*i;
        return rest;
    }
    return NULL;
}

static void hard_strings_like_tiktoken(void) {
    int i = 0, lines = 0;
    bpe *t;
    if (!golden()) return;
    for (const char *rest; (rest = golden_line("hard", &i, &t)) != NULL; lines++) {
        static char text[2048];
        size_t n = from_hex(rest, text);
        long got = round_trip(t, text, n), want = 0;
        char *p = strchr((char *)rest, ' '), *end;
        for (long id; id = strtol(p, &end, 10), end > p; p = end) ids_b[want++] = (int)id;
        if (!same_ids(ids_a, got, ids_b, want)) T_FAIL("line %d: other ids for %.80s", i, rest);
    }
    CHECK(lines == 0 || lines > 450);
}

static void random_strings_like_tiktoken(void) {        // 100,000 for each of three encodings
    int i = 0;
    bpe *t;
    if (!golden()) return;
    for (const char *rest; (rest = golden_line("random", &i, &t)) != NULL;) {
        unsigned block, want;
        uint32_t crc = 0;
        sscanf(rest, "%u %x", &block, &want);
        r_state = block;
        for (int k = 0; k < 1000; k++) {
            static char text[2048];
            size_t n = random_string(text);
            crc = add_ids(crc, ids_a, round_trip(t, text, n));
        }
        if (crc != want) T_FAIL("block %u of random strings: %08x, wanted %08x", block, crc, want);
    }
}

static void stray_bytes_like_tiktoken(void) {
    int i = 0;
    bpe *t;
    if (!golden()) return;
    for (const char *rest; (rest = golden_line("spoiled", &i, &t)) != NULL;) {
        unsigned block, want;
        uint32_t crc = 0;
        sscanf(rest, "%u %x", &block, &want);
        r_state = 1000 + block;
        for (int k = 0; k < 1000; k++) {
            static char text[2048];
            size_t n = spoil(text, random_string(text));
            crc = add_ids(crc, ids_a, round_trip(t, text, n));
        }
        if (crc != want) T_FAIL("block %u of spoiled strings: %08x, wanted %08x", block, crc, want);
    }
}

static void all_code_points_like_tiktoken(void) {
    int i = 0;
    bpe *t;
    if (!golden()) return;
    for (const char *rest; (rest = golden_line("points", &i, &t)) != NULL;) {
        unsigned start, want;
        uint32_t crc = 0;
        sscanf(rest, "%u %x", &start, &want);
        for (uint32_t code = start; code < start + 0x4000; code++) {
            if (code >= 0xD800 && code < 0xE000) continue;
            char text[64];
            size_t n = 0;
            for (const char *form = ".a.B.'. ..1."; *form; form++) {
                if (*form == '.') n += put_utf8(text + n, code);
                else text[n++] = *form;
            }
            crc = add_ids(crc, ids_a, bpe_encode(t, text, n, ids_a, MANY));
        }
        if (crc != want) T_FAIL("code points from %x: %08x, wanted %08x", start, crc, want);
    }
}

static void special_tokens_like_tiktoken(void) {
    int i = 0, lines = 0;
    bpe *t;
    if (!golden()) return;
    for (const char *rest; (rest = golden_line("special", &i, &t)) != NULL; lines++) {
        char text[256], name[64];
        size_t n = from_hex(rest, text);
        int used = 0;
        sscanf(rest, "%*s %63s%n", name, &used);
        const char *allowed[2] = {name, NULL};
        long got = bpe_encode_special(t, text, n, allowed, BPE_REFUSE, ids_a, MANY), want = 0;
        char *p = (char *)rest + used, *end;
        for (long id; id = strtol(p, &end, 10), end > p; p = end) ids_b[want++] = (int)id;
        if (!same_ids(ids_a, got, ids_b, want)) T_FAIL("other ids for %s", rest);
        CHECK_INT(bpe_decode(t, ids_b, (size_t)want, text_a, sizeof text_a), n);
        CHECK(!memcmp(text_a, text, n));
    }
    CHECK(lines == 0 || lines == 27);
}

// Encodes a text whole, with the memory of its pieces, and piece by piece, without; and whole when there is no memory.
static void memory_changes_nothing(const bpe *t, const char *text, size_t n) {
    long whole = bpe_encode(t, text, n, ids_a, MANY), m = 0;
    for (size_t at = 0, end; at < n; at = end) {
        end = bpe_next_piece(t, text, n, at);
        m += bpe_encode(t, text + at, end - at, ids_b + m, (size_t)(MANY - m));
    }
    if (!same_ids(ids_a, whole, ids_b, m)) T_FAIL("%d bytes: other ids with a memory of pieces", (int)n);
    long live = a_live;
    a_calls = 0, a_fail_at = BPEI_LITTLE && n >= 4096, a_sticky = 0;        // the first is the memory's
    whole = bpe_encode(t, text, n, ids_a, MANY);
    CHECK(a_live == live && a_calls >= a_fail_at);
    a_fail_at = 0;
    if (!same_ids(ids_a, whole, ids_b, m)) T_FAIL("%d bytes: other ids without memory", (int)n);
    CHECK(bpe_encode(t, text, n, ids_a, 7) == m && same_ids(ids_a, 7, ids_b, 7));       // a buffer that is too small
}

static void pieces_that_come_again(void) {
    static char text[300000];
    static const char *const names[] = {"r50k_base", "cl100k_base", "o200k_base"};
    static const size_t wanted[] = {4095, 4096, 4097, 9000, 70000, 290000};
    if (!golden()) return;
    for (int k = 0; k < 3; k++) {
        bpe *t = encoding(names[k]);
        for (int round = 0; t && round < 6; round++) {
            size_t n = 0, want = wanted[round];
            r_state = (uint64_t)(51 + round);
            while (n < want) {
                if (r_below(3) && n > 100) {                    // something that was there before, or only nearly so
                    size_t from = r_below(n - 20), size = 1 + r_below(18);
                    memmove(text + n, text + from, size), n += size;
                    if (r_below(4) == 0) text[n - 1] = (char)(r_below(2) ? 0 : 'a' + r_below(26));
                } else n += random_string(text + n);
            }
            n = bpei_valid((unsigned char *)text, want);
            while (n < want) text[n++] = "x.\0 "[r_below(4)];   // copies may have cut a character: the rest is ASCII
            memory_changes_nothing(t, text, want);
        }
    }
    // Hardly a join: pieces of 11 to 16 bytes are that many tokens, more than are kept. Stray bytes are symbols here.
    bpe *t = bpe_new();
    for (int split = BPE_SPLIT_GPT2; split <= BPE_SPLIT_O200K; split++) {
        CHECK_INT(bpe_train(t, "in the end in the end", 21, 260, split), 0);
        for (int round = 0; round < 4; round++) {
            r_state = (uint64_t)(61 + round);
            for (size_t n = 0; n < sizeof text; n++)
                text[n] = round < 2 ? "theind \0\0!"[r_below(10)] : r_below(12) ? (char)('a' + r_below(2))
                                                                : "! \0\xff"[r_below(4)];
            memory_changes_nothing(t, text, round & 1 ? sizeof text : 5000);
        }
    }
    // No more than a megabyte for it, however long the text.
    size_t before = a_bytes;
    a_peak = a_bytes;
    CHECK(bpe_encode(t, text, sizeof text, ids_a, MANY) > 0);
    CHECK(a_peak - before <= 1 << 20);
    bpe_free(t);
}

static double seconds(void) {       // of this thread's work, so that other programs do not count
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void a_megabyte_of_one_letter(void) {
    int i = 0;
    bpe *t;
    char *text = (char *)malloc(1 << 21);
    if (!golden()) return;
    for (const char *rest; (rest = golden_line("long", &i, &t)) != NULL;) {
        char piece[16];
        unsigned times, count, crc;
        size_t n = from_hex(rest, piece), len = 0;
        sscanf(rest, "%*s %u %u %x", &times, &count, &crc);
        for (unsigned k = 0; k < times; k++) memcpy(text + len, piece, n), len += n;
        double begin = seconds();
        long got = bpe_encode(t, text, len, ids_a, MANY);
        double took = seconds() - begin;
        CHECK_INT(got, count);
        CHECK_INT(add_ids(0, ids_a, got), crc);
#if !defined __SANITIZE_ADDRESS__
        if (took > 1.0) T_FAIL("%.40s: %.2f s", rest, took);
#else
        (void)took;
#endif
    }
    free(text);
}

// Twice the length takes about twice the time (n log n), never four times; the best of five, with room for the cache.
static void long_pieces_take_no_square(void) {
    bpe *t = encoding("cl100k_base");
    if (!t) return;
    size_t n = 1 << 17;
    char *text = (char *)malloc(2 * n);
    static const char *const kinds[] = {"a", " ", "!", "ab", "\xff"};
    for (int k = 0; k < 5; k++) {
        double best[2] = {1e9, 1e9};
        for (size_t i = 0; i < 2 * n; i++) text[i] = kinds[k][i % strlen(kinds[k])];
        for (int run = 0; run < 10; run++) {
            double begin = seconds();
            CHECK(bpe_encode(t, text, n << (run & 1), ids_a, MANY) > 0);
            double took = seconds() - begin;
            if (took < best[run & 1]) best[run & 1] = took;
        }
        if (best[1] > 3.0 * best[0]) T_FAIL("\"%s\": %.4f s, twice as much of it %.4f s", kinds[k], best[0], best[1]);
    }
    free(text);
}

static void the_numbers_of_lesson_05(void) {
    size_t n;
    char *text = shakespeare(&n);
    bpe *r50k = encoding("r50k_base"), *cl100k = encoding("cl100k_base"), *o200k = encoding("o200k_base");
    if (!text || !r50k || !cl100k || !o200k) { free(text); return; }
    CHECK_INT(n, 1115394);
    CHECK_INT(n * 8, 8923152);
    CHECK_INT(round_trip(r50k, text, n), 338025);
    CHECK_INT(round_trip(cl100k, text, n), 301829);
    CHECK_INT(round_trip(o200k, text, n), 297606);
    CHECK_INT(bpe_vocab_size(r50k), 50257);
    CHECK_INT(bpe_vocab_size(cl100k), 100277);
    CHECK_INT(bpe_vocab_size(o200k), 200019);
    check_ids(cl100k, "hello world", "15339 1917");
    check_ids(cl100k, "Hello World", "9906 4435");
    check_ids(cl100k, "hello  world", "15339 220 1917");
    check_ids(cl100k, "|Viewing Single Post", "91 860 287 11579 3962");
    check_ids(cl100k, " Direction", "19438");
    check_ids(cl100k, "ubiquitous", "392 5118 50855");
    CHECK_STR(bpe_token(cl100k, 392, NULL), "ub");
    CHECK_STR(bpe_token(cl100k, 5118, NULL), "iqu");
    CHECK_STR(bpe_token(cl100k, 50855, NULL), "itous");
    check_ids(cl100k, "...............", "4095 49711");
    check_ids(cl100k, "9.11", "24 13 806");
    check_ids(cl100k, "9.9", "24 13 24");
    CHECK_INT(bpe_special(cl100k, "<|endofprompt|>"), 100276);
    CHECK_INT(bpe_special(o200k, "<|endofprompt|>"), 200018);
    CHECK_INT(bpe_special(r50k, "<|endoftext|>"), 50256);
    CHECK(bpe_token(cl100k, 100256, NULL) == NULL);      // a hole: no token has this id
    ids_a[0] = 100256;
    CHECK_INT(bpe_decode(cl100k, ids_a, 1, text_a, 100), BPE_EARG);
    free(text);
}

static void gpt2_files_are_r50k(void) {
    const char *merges = data_path("gpt2_vocab.bpe"), *json = data_path("gpt2_encoder.json");
    bpe *r50k = encoding("r50k_base"), *t = bpe_new();
    size_t n;
    char *text = shakespeare(&n);
    if (merges && json && r50k && text && golden()) {
        CHECK_INT(bpe_load_gpt2(t, merges, json), 0);
        CHECK(bpe_error(t) == NULL);
        CHECK_INT(bpe_vocab_size(t), 50257);
        CHECK_INT(bpe_special(t, "<|endoftext|>"), 50256);
        for (int id = 0; id < 50257; id++) {
            size_t a, b;
            const char *p = bpe_token(t, id, &a), *q = bpe_token(r50k, id, &b);
            if (a != b || memcmp(p, q, a)) { T_FAIL("token %d differs", id); break; }
        }
        long m = bpe_encode(r50k, text, n, ids_b, MANY);
        CHECK(same_ids(ids_a, bpe_encode(t, text, n, ids_a, MANY), ids_b, m));
        r_state = 77;
        for (int k = 0; k < 5000; k++) {
            static char s[2048];
            size_t len = random_string(s);
            if (k & 1) len = spoil(s, len);
            m = bpe_encode(r50k, s, len, ids_b, MANY);
            if (!same_ids(ids_a, round_trip(t, s, len), ids_b, m)) { T_FAIL("string %d differs", k); break; }
        }
        // A file cut at a line end loses merges, and their tokens are made by nothing then.
        size_t merges_size = 0, json_size = 0;
        char *a = read_all(merges, &merges_size), *b = read_all(json, &json_size);
        for (int cut = 0; cut < 20; cut++) {
            size_t keep = 100 + (size_t)cut * (merges_size - 2000) / 20;
            while (a[keep - 1] != '\n') keep++;
            CHECK_INT(bpe_load_gpt2_mem(t, a, keep, b, json_size), BPE_EFORMAT);
            CHECK_INT(bpe_load_gpt2_mem(t, a, merges_size, b, json_size * (size_t)cut / 20), BPE_EFORMAT);
        }
        free(a);
        free(b);
    }
    free(text);
    bpe_free(t);
}

// ---- special tokens ----

static void special_rules(void) {
    bpe *t = bpe_new();
    const char *const all[] = {"all", NULL}, *const one[] = {"<|b|>", NULL}, *const none[] = {NULL};
    CHECK_INT(bpe_add_special(t, "<|a|>", -1), BPE_EARG);       // no vocabulary yet
    bpe_clear_error(t);
    CHECK_INT(bpe_bytes(t), 0);
    CHECK_INT(bpe_add_special(t, "<|a|>", -1), 256);
    CHECK_INT(bpe_add_special(t, "<|b|>", 300), 300);
    CHECK_INT(bpe_add_special(t, "<|a|>>", -1), 301);           // longer, same beginning
    CHECK_INT(bpe_vocab_size(t), 302);
    CHECK_INT(bpe_special(t, "<|b|>"), 300);
    CHECK_INT(bpe_special(t, "<|c|>"), -1);
    CHECK_INT(bpe_add_special(t, "<|a|>", -1), BPE_EARG);
    CHECK_HAS(bpe_error(t), "special token 256 already");
    bpe_clear_error(t);
    CHECK_INT(bpe_add_special(t, "<|d|>", 97), BPE_EARG);
    CHECK_HAS(bpe_error(t), "id 97 is in use");
    bpe_clear_error(t);
    CHECK_INT(bpe_add_special(t, "<|d|>", 100000000), BPE_EARG);
    CHECK_INT(bpe_add_special(t, "<|d|>", -2), BPE_EARG);
    CHECK_INT(bpe_add_special(t, "", -1), BPE_EARG);
    CHECK_INT(bpe_add_special(t, NULL, -1), BPE_EARG);
    CHECK_INT(bpe_vocab_size(t), 302);
    const char *text = "x<|a|>><|b|>";
    long n = bpe_encode(t, text, strlen(text), ids_a, 100);     // ordinary text never becomes a special token
    CHECK_INT(n, 12);
    for (long i = 0; i < n; i++) CHECK(ids_a[i] < 256);
    CHECK_INT(bpe_encode_special(t, text, 12, all, BPE_REFUSE, ids_a, 100), 3);
    CHECK(ids_a[0] == 'x' && ids_a[1] == 301 && ids_a[2] == 300);
    CHECK_INT(bpe_decode(t, ids_a, 3, text_a, 100), 12);
    CHECK_STR(text_a, text);
    CHECK_INT(bpe_encode_special(t, text, 12, one, BPE_REFUSE, ids_a, 100), BPE_ESPECIAL);
    CHECK_INT(bpe_encode_special(t, text, 12, one, BPE_AS_TEXT, ids_a, 100), 8);
    CHECK_INT(ids_a[7], 300);
    CHECK_INT(bpe_encode_special(t, text, 12, none, BPE_AS_TEXT, ids_a, 100), 12);
    CHECK_INT(bpe_encode_special(t, text, 12, NULL, BPE_REFUSE, ids_a, 100), BPE_ESPECIAL);
    CHECK_INT(bpe_encode_special(t, "plain", 5, NULL, BPE_REFUSE, ids_a, 100), 5);
    CHECK_INT(bpe_encode_special(t, NULL, 0, all, BPE_REFUSE, ids_a, 100), 0);
    CHECK_INT(bpe_encode_special(t, "<|b|>", 5, all, BPE_REFUSE, NULL, 0), 1);
    bpe_free(t);
}

// ---- the other kinds ----

static void characters(void) {
    bpe *t = bpe_new();
    size_t n;
    char *text = shakespeare(&n);
    if (text) {
        CHECK_INT(bpe_chars(t, text, n), 0);
        CHECK_INT(bpe_vocab_size(t), 65);
        // karpathy/nanoGPT, data/shakespeare_char: stoi of sorted(set(data)); "hii there" is a known row of numbers.
        check_ids(t, "hii there", "46 47 47 1 58 46 43 56 43");
        CHECK_INT(round_trip(t, text, n), (long)n);
        free(text);
    }
    const char *mixed = "b\xc3\xa9\xf0\x9f\x98\x80\xe4\xb8\xad\xff" "a";
    CHECK_INT(bpe_chars(t, mixed, strlen(mixed)), 0);
    CHECK_INT(bpe_vocab_size(t), 6);
    CHECK_STR(bpe_token(t, 0, NULL), "a");
    CHECK_STR(bpe_token(t, 2, NULL), "\xc3\xa9");
    CHECK_STR(bpe_token(t, 3, NULL), "\xe4\xb8\xad");
    CHECK_STR(bpe_token(t, 4, NULL), "\xf0\x9f\x98\x80");
    CHECK_STR(bpe_token(t, 5, NULL), "\xff");
    CHECK_INT(round_trip(t, mixed, strlen(mixed)), 6);
    CHECK_INT(bpe_encode(t, "abc", 3, ids_a, 10), BPE_EUNKNOWN);
    CHECK_HAS(bpe_status(BPE_EUNKNOWN), "bpe_fallback");
    CHECK_INT(bpe_fallback(t), 0);
    CHECK_INT(bpe_fallback(t), 0);                              // a second time changes nothing
    CHECK_INT(bpe_vocab_size(t), 6 + 256);
    CHECK_INT(bpe_encode(t, "abc\xc3\xa8", 5, ids_a, 10), 5);
    CHECK(ids_a[0] == 0 && ids_a[1] == 1 && ids_a[2] == 6 + 'c' && ids_a[3] == 6 + 0xC3 && ids_a[4] == 6 + 0xA8);
    CHECK_INT(bpe_chars(t, "", 0), 0);
    CHECK_INT(bpe_vocab_size(t), 0);
    CHECK_INT(bpe_encode(t, "", 0, ids_a, 10), 0);
    bpe_free(t);
}

static void words(void) {
    bpe *t = bpe_new();
    const char *text = "to be or not to be, to be";
    CHECK_INT(bpe_words(t, text, strlen(text), 5), 0);
    CHECK_INT(bpe_vocab_size(t), 5);
    CHECK_STR(bpe_token(t, 0, NULL), "<unk>");
    CHECK_STR(bpe_token(t, 1, NULL), " be");
    CHECK_STR(bpe_token(t, 2, NULL), " to");
    CHECK_STR(bpe_token(t, 3, NULL), " not");       // of "to", " or", " not" and ",", once each, the lowest
    CHECK_STR(bpe_token(t, 4, NULL), " or");
    check_ids(t, "to be or not to be", "0 1 4 3 2 1");
    CHECK_INT(bpe_fallback(t), 0);
    CHECK_INT(round_trip(t, "to be or nothing", 16), 2 + 1 + 1 + 8);
    CHECK_INT(bpe_words(t, text, strlen(text), 100), 0);
    CHECK_INT(round_trip(t, text, strlen(text)), 9);
    CHECK_INT(bpe_words(t, text, strlen(text), 0), BPE_EARG);
    const char *const all[] = {"all", NULL};
    CHECK_INT(bpe_encode_special(t, "<unk>", 5, all, BPE_REFUSE, ids_a, 9), 1);
    bpe_free(t);
}

static void any_bytes_come_back(void) {
    static bpe *t[9];
    static char text[600];
    const char *sample = "The quick brown fox jumps over the lazy dog; the dog sleeps. Tous les \xc3\xa9l\xc3\xa8ves.";
    size_t len = strlen(sample);
    for (int i = 0; i < 8; i++) t[i] = bpe_new();
    for (int split = 0; split < 4; split++) CHECK_INT(bpe_train(t[split], sample, len, 290, split), 0);
    CHECK_INT(bpe_train(t[7], sample, len, 290, BPE_SPLIT_O200K), 0);
    CHECK_INT(bpe_set_stray(t[7], BPE_STRAY_TAIL), 0);
    CHECK_INT(bpe_bytes(t[4]), 0);
    CHECK_INT(bpe_chars(t[5], sample, len), 0);
    CHECK_INT(bpe_words(t[6], sample, len, 20), 0);
    CHECK_INT(bpe_fallback(t[5]), 0);
    CHECK_INT(bpe_fallback(t[6]), 0);
    r_state = 5;
    for (int round = 0; round < 40000; round++) {
        size_t n = r_below(round % 100 ? 40 : sizeof text);
        for (size_t i = 0; i < n; i++) text[i] = (char)(r_below(3) ? (size_t)sample[r_below(len)] : r_below(256));
        round_trip(t[round & 7], text, n);
    }
    for (int i = 0; i < 8; i++) bpe_free(t[i]);
    const char *path = data_path("tok512.bin");
    if (!path) return;
    t[0] = bpe_new();
    CHECK_INT(bpe_load_llama2c(t[0], path, 512), 0);
    for (int round = 0; round < 20000; round++) {
        size_t n = r_below(60);
        for (size_t i = 0; i < n; i++) text[i] = (char)(r_below(3) ? (size_t)sample[r_below(len)] : r_below(256));
        round_trip(t[0], text, n);
    }
    bpe_free(t[0]);
}

// llama2.c's encode by the book: of all neighbours whose joint text is a token the pair of the highest score, the
// leftmost of equals, until there is none. Tokens are read here from the file itself.
static struct { float score; int len; const char *text; } l_token[512];
static int l_find(const char *p, size_t n) {
    for (int i = 259; i < 512; i++)
        if ((size_t)l_token[i].len == n && !memcmp(l_token[i].text, p, n)) return i;
    return -1;
}

static long l_encode(const char *text, size_t len, int *ids) {
    static int id[2000], at[2001], raw[2000];
    static char p[2000];
    int n = 0;
    if (!len) return 0;
    p[0] = ' ', memcpy(p + 1, text, len++);
    for (size_t i = 0; i < len;) {
        size_t size = 1;
        while (i && i + size < len && size < 4 && (p[i + size] & 0xC0) == 0x80) size++;
        int whole = l_find(p + i, size);
        if (whole >= 0) id[n] = whole, raw[n] = 0, at[n++] = (int)i;
        else for (size_t k = 0; k < size; k++) id[n] = 3 + (unsigned char)p[i + k], raw[n] = 1, at[n++] = (int)(i + k);
        i += size;
    }
    at[n] = (int)len;
    for (;;) {
        int best = -1, token = 0;
        float score = -1e10f;
        for (int i = 0; i + 1 < n; i++) {
            int joint = raw[i] || raw[i + 1] ? -1 : l_find(p + at[i], (size_t)(at[i + 2] - at[i]));
            if (joint >= 0 && l_token[joint].score > score) score = l_token[joint].score, best = i, token = joint;
        }
        if (best < 0) break;
        id[best] = token, n--;
        for (int i = best + 1; i < n; i++) id[i] = id[i + 1], raw[i] = raw[i + 1], at[i] = at[i + 1];
        at[n] = (int)len;
    }
    memcpy(ids, id, (size_t)n * sizeof *id);
    return n;
}

static void llama2c_by_the_book(void) {
    const char *path = data_path("tok512.bin");
    size_t size = 0, n = 0, at = 4;
    char *file = path ? read_all(path, &size) : NULL, *text = shakespeare(&n);
    const char *const all[] = {"all", NULL};
    bpe *t = bpe_new();
    if (file && text) {
        for (int i = 0; i < 512; i++) {
            memcpy(&l_token[i].score, file + at, 4);
            memcpy(&l_token[i].len, file + at + 4, 4);
            l_token[i].text = file + at + 8, at += 8 + (size_t)l_token[i].len;
        }
        CHECK_INT(bpe_load_llama2c(t, path, 512), 0);
        CHECK_INT(bpe_vocab_size(t), 512);
        // What llama2.c's run.c makes of this prompt, behind its <s>.
        check_ids(t, "Once upon a time", "403 407 261 378");
        CHECK_INT(bpe_encode_special(t, "<s>Once upon a time", 19, all, BPE_REFUSE, ids_a, 9), 5);
        CHECK(ids_a[0] == 1 && ids_a[1] == 403 && ids_a[4] == 378);
        CHECK_INT(bpe_decode(t, ids_a, 5, text_a, 100), 19);
        CHECK_STR(text_a, "<s>Once upon a time");
        CHECK_INT(bpe_special(t, "</s>"), 2);
        CHECK_INT(bpe_encode(t, "<s>", 3, ids_a, 9) > 1, 1);
        r_state = 8;
        for (int round = 0; round < 3000; round++) {
            static char s[300];
            size_t len = r_below(round < 2500 ? 40 : 200);
            memcpy(s, text + r_below(n - 300), len);
            if (round % 2) for (size_t i = 0; i < len; i++) if (r_below(6) == 0) s[i] = (char)r_below(256);
            long want = l_encode(s, len, ids_b);
            if (!same_ids(ids_a, round_trip(t, s, len), ids_b, want)) { T_FAIL("round %d: other ids", round); break; }
        }
        for (size_t cut = 0; cut < size; cut++)             // every prefix is refused: the model says how many tokens
            if (bpe_load_llama2c_mem(t, file, cut, 512) != BPE_EFORMAT) T_FAIL("%d bytes are accepted", (int)cut);
        CHECK_INT(bpe_load_llama2c_mem(t, file, size, 511), BPE_EFORMAT);
        CHECK_INT(bpe_load_llama2c_mem(t, file, size, 0), 0);
        bpe_clear_error(t);
        CHECK_INT(bpe_load_llama2c_mem(t, file, size, 513), BPE_EFORMAT);
        CHECK_HAS(bpe_error(t), "512 tokens; the model wants 513");
    }
    free(file);
    free(text);
    bpe_free(t);
}

// ---- the C interface ----

static void counts_like_snprintf(void) {
    bpe *t = bpe_new();
    int ids[8] = {-7, -7, -7, -7, -7, -7, -7, -7};
    char out[8] = "#######";
    CHECK_INT(bpe_train(t, "aaabdaaabac", 11, 259, BPE_SPLIT_NONE), 0);
    CHECK_INT(bpe_encode(t, "aaabdaaabac", 11, NULL, 0), 5);
    CHECK_INT(bpe_encode(t, "aaabdaaabac", 11, ids, 2), 5);
    CHECK(ids[0] == 258 && ids[1] == 100 && ids[2] == -7);
    CHECK_INT(bpe_decode(t, ids, 2, NULL, 0), 5);
    CHECK_INT(bpe_decode(t, ids, 2, out, 3), 5);
    CHECK_STR(out, "aaa####");
    CHECK_INT(bpe_decode(t, ids, 2, out, 5), 5);
    CHECK_STR(out, "aaabd##");
    CHECK_INT(bpe_decode(t, ids, 2, out, 6), 5);
    CHECK_STR(out, "aaabd");
    CHECK_INT(bpe_encode(t, NULL, 0, ids, 8), 0);
    CHECK_INT(bpe_encode(t, NULL, 1, ids, 8), BPE_EARG);
    CHECK_INT(bpe_encode(NULL, "a", 1, ids, 8), BPE_EARG);
    CHECK_INT(bpe_encode(t, "a", 1, NULL, 8), BPE_EARG);
    CHECK_INT(bpe_decode(t, NULL, 1, out, 8), BPE_EARG);
    CHECK_INT(bpe_decode(t, ids, 1, NULL, 8), BPE_EARG);
    ids[0] = 259;
    CHECK_INT(bpe_decode(t, ids, 1, out, 8), BPE_EARG);
    ids[0] = -1;
    CHECK_INT(bpe_decode(t, ids, 1, out, 8), BPE_EARG);
    CHECK(bpe_token(t, 259, NULL) == NULL && bpe_token(t, -1, NULL) == NULL && bpe_token(NULL, 0, NULL) == NULL);
    CHECK_INT(bpe_find(t, "aaab", 4), 258);
    CHECK_INT(bpe_find(t, "aaaa", 4), -1);
    CHECK_INT(bpe_find(t, "", 0), -1);
    bpe *empty = bpe_new();
    CHECK_INT(bpe_encode(empty, "a", 1, ids, 8), BPE_EARG);
    CHECK_INT(bpe_save_mem(empty, NULL, 0), BPE_EARG);
    CHECK_INT(bpe_vocab_size(empty), 0);
    CHECK_INT(bpe_find(empty, "ab", 2), -1);
    CHECK_HAS(bpe_error(NULL), "out of memory");
    for (long status = BPE_ESPECIAL - 2; status < 2; status++) CHECK(strlen(bpe_status(status)) > 5);
    bpe_free(empty);
    bpe_free(t);
    bpe_free(NULL);
}

static void colours_cannot_command_a_terminal(void) {
    bpe *t = bpe_new();
    CHECK_INT(bpe_chars(t, "ab\n\x1b\xc2\x9b\xe2\x80\xae\\\xc3\xa9\xff", 14), 0);
    long n = bpe_encode(t, "a\n\x1b[", 3, ids_a, 10);
    CHECK_INT(bpe_colour(t, ids_a, (size_t)n, text_a, sizeof text_a), (long)strlen(text_a));
    CHECK_STR(text_a, "\033[30;48;5;189ma\033[0m\033[30;48;5;194m\\n\033[0m\n\033[30;48;5;223m\\x1b\033[0m");
    n = bpe_encode(t, "\xc2\x9b\xe2\x80\xae\\\xc3\xa9\xff", 9, ids_a, 10);
    bpe_colour(t, ids_a, (size_t)n, text_a, sizeof text_a);
    CHECK_STR(text_a,
              "\033[30;48;5;189m\\xc2\\x9b\033[0m\033[30;48;5;194m\\xe2\\x80\\xae\033[0m\033[30;48;5;223m\\\\\033[0m"
              "\033[30;48;5;217m\xc3\xa9\033[0m\033[30;48;5;159m\\xff\033[0m");
    CHECK_INT(bpe_bytes(t), 0);
    for (int c = 0; c < 256; c++) ids_a[c] = c;
    long size = bpe_colour(t, ids_a, 256, text_a, sizeof text_a), escapes = 0;
    for (long i = 0; i < size; i++) {
        escapes += text_a[i] == 27;
        CHECK((unsigned char)text_a[i] < 128);
    }
    CHECK_INT(escapes, 512);                                    // two for each token, none from their text
    CHECK_INT(bpe_colour(t, ids_a, 256, NULL, 0), size);
    ids_a[0] = 256;
    CHECK_INT(bpe_colour(t, ids_a, 1, text_a, 100), BPE_EARG);
    bpe_free(t);
}

static void *encode_many(void *argument) {
    const bpe *t = (const bpe *)argument;
    static const char text[] =
        "Threads share one tokenizer; aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.";
    int ids[200];
    long bad = 0, first = 0;
    for (int i = 0; i < 3000; i++) {
        long n = bpe_encode(t, text, sizeof text - 1, ids, 200);
        if (!i) first = n;
        bad += n != first || n <= 0;
    }
    return bad ? NULL : (void *)(size_t)first;
}

static void many_threads_share_one(void) {
    bpe *t = bpe_new();
    const char *text = "Threads share one tokenizer; threads share one tokenizer; aaaa aaaa aaaa";
    CHECK_INT(bpe_train(t, text, strlen(text), 300, BPE_SPLIT_CL100K), 0);
    pthread_t thread[4];
    void *result[4], *want = encode_many(t);
    a_counting = 0;
    for (int i = 0; i < 4; i++) CHECK_INT(pthread_create(&thread[i], NULL, encode_many, t), 0);
    for (int i = 0; i < 4; i++) pthread_join(thread[i], &result[i]);
    a_counting = 1;
    for (int i = 0; i < 4; i++) CHECK(result[i] == want && want);
    bpe_free(t);
}

// ---- files ----

// One tokenizer of each kind, small enough to try every bit.
static bpe *small_one(int kind) {
    const char *text = "the cat sat on the mat; the rat sat on the cat. \xc3\xa9\xc3\xa9";
    bpe *t = bpe_new();
    if (!t) return NULL;
    int status = kind == 0   ? bpe_bytes(t)
                 : kind == 1 ? bpe_chars(t, text, strlen(text))
                 : kind == 2 ? bpe_words(t, text, strlen(text), 9)
                             : bpe_train(t, text, strlen(text), 265, kind % 4);
    if (!status && kind == 1) status = bpe_fallback(t);
    if (!status && kind >= 3) status = bpe_add_special(t, "<|end|>", 280) < 0;
    if (!status && kind >= 3) status = bpe_add_special(t, "<|longer|>", -1) < 0;
    if (!status && kind == 4) status = bpe_set_stray(t, BPE_STRAY_TAIL);
    if (status) return bpe_free(t), (bpe *)NULL;
    return t;
}

static void saved_and_loaded_is_the_same(void) {
    static char text[200];
    r_state = 21;
    for (int kind = 0; kind < 7; kind++) {
        bpe *t = small_one(kind), *u = bpe_new();
        long size = bpe_save_mem(t, NULL, 0), again;
        char *a = (char *)malloc((size_t)size), *b = (char *)malloc((size_t)size + 1);
        CHECK_INT(bpe_save_mem(t, a, (size_t)size), size);
        CHECK_INT(bpe_load_mem(u, a, (size_t)size), 0);
        CHECK(bpe_error(u) == NULL);
        again = bpe_save_mem(u, b, (size_t)size + 1);
        CHECK(again == size && !memcmp(a, b, (size_t)size));
        CHECK_INT(bpe_vocab_size(u), bpe_vocab_size(t));
        if (kind >= 3) CHECK_INT(bpe_special(u, "<|end|>"), 280);
        for (int round = 0; round < 2000; round++) {
            size_t n = r_below(sizeof text);
            for (size_t i = 0; i < n; i++)
                text[i] = (char)(r_below(9) ? (size_t) "the cat\xc3\xa9 so.'"[r_below(13)] : r_below(256));
            long m = bpe_encode(t, text, n, ids_a, MANY), k = bpe_encode(u, text, n, ids_b, MANY);
            if (m != k || (m > 0 && memcmp(ids_a, ids_b, (size_t)m * sizeof(int)))) {
                T_FAIL("kind %d: other ids", kind);
                break;
            }
        }
        // No prefix and no flipped bit gets through, and the tokenizer stays what it was.
        for (long cut = 0; cut < size; cut++)
            if (bpe_load_mem(u, a, (size_t)cut) != BPE_EFORMAT)
                T_FAIL("kind %d: %ld bytes of %ld are accepted", kind, cut, size);
        for (long bit = 0; bit < size * 8; bit += kind == 1 || kind == 3 ? 1 : 1 + (long)r_below(15)) {
            a[bit / 8] ^= (char)(1 << bit % 8);
            if (bpe_load_mem(u, a, (size_t)size) != BPE_EFORMAT)
                T_FAIL("kind %d: flipped bit %ld is accepted", kind, bit);
            a[bit / 8] ^= (char)(1 << bit % 8);
        }
        memcpy(b, a, (size_t)size), b[size] = '\n';
        CHECK_INT(bpe_load_mem(u, b, (size_t)size + 1), BPE_EFORMAT);
        CHECK_INT(bpe_save_mem(u, b, (size_t)size), size);
        CHECK(!memcmp(a, b, (size_t)size));
        free(a);
        free(b);
        bpe_free(t);
        bpe_free(u);
    }
}

static void big_ones_too(void) {
    static const char *const names[] = {"r50k_base", "cl100k_base", "o200k_base"};
    const char *text = "It's the year 2024; na\xc3\xafve \xe4\xbd\xa0\xe5\xa5\xbd \xff tail\n\n  x";
    for (int i = 0; i < 3; i++) {
        bpe *t = encoding(names[i]), *u = bpe_new();
        if (t) {
            long size = bpe_save_mem(t, NULL, 0);
            char *a = (char *)malloc((size_t)size);
            CHECK_INT(bpe_save_mem(t, a, (size_t)size), size);
            a_peak = a_bytes;
            size_t before = a_bytes;
            CHECK_INT(bpe_load_mem(u, a, (size_t)size), 0);
            CHECK(a_peak - before <= 8 * (size_t)size + (1 << 20));
            long n = bpe_encode(t, text, strlen(text), ids_a, 99);
            CHECK(same_ids(ids_a, n, ids_b, bpe_encode(u, text, strlen(text), ids_b, 99)));
            CHECK_INT(bpe_vocab_size(u), bpe_vocab_size(t));
            CHECK_INT(bpe_special(u, "<|endoftext|>"), bpe_special(t, "<|endoftext|>"));
            free(a);
        }
        bpe_free(u);
    }
}

static void saving_replaces_whole_files(void) {
    char path[256], left[300];
    snprintf(path, sizeof path, "build/test_bpe_%d.bpe", (int)getpid());
    snprintf(left, sizeof left, "%s.tmp.%d", path, (int)getpid());
    bpe *t = small_one(3), *u = bpe_new();
    CHECK_INT(bpe_save(t, path), 0);
    CHECK(bpe_error(t) == NULL);
    CHECK_INT(bpe_load(u, path), 0);
    CHECK_INT(bpe_vocab_size(u), bpe_vocab_size(t));
    CHECK_INT(bpe_bytes(t), 0);
    CHECK_INT(bpe_save(t, path), 0);
    CHECK_INT(bpe_load(u, path), 0);
    CHECK_INT(bpe_vocab_size(u), 256);
    // A disk that is full after 100 bytes: the old file stays, and nothing is left over.
    struct rlimit old, tight;
    getrlimit(RLIMIT_FSIZE, &old);
    signal(SIGXFSZ, SIG_IGN);
    tight = old, tight.rlim_cur = 100;
    setrlimit(RLIMIT_FSIZE, &tight);
    bpe *v = small_one(4);
    CHECK_INT(bpe_save(v, path), BPE_EFILE);
    setrlimit(RLIMIT_FSIZE, &old);
    CHECK_HAS(bpe_error(v), "cannot write it");
    CHECK_HAS(bpe_error(v), path);
    CHECK_INT(bpe_load(u, path), 0);
    CHECK_INT(bpe_vocab_size(u), 256);
    CHECK(access(left, F_OK) != 0);
    bpe_clear_error(v);
    remove(path);                                       // a pipe, or /dev/null: root could replace it by a file
    CHECK_INT(mkfifo(path, 0600), 0);
    CHECK_INT(bpe_save(v, path), BPE_EFILE);
    CHECK(access(left, F_OK) != 0);
    CHECK_INT(remove(path), 0);
    bpe_clear_error(v);
    CHECK_INT(bpe_save(v, path), 0);
    CHECK_INT(bpe_save(v, "/nonexistent folder/x.bpe"), BPE_EFILE);
    CHECK_HAS(bpe_error(v), "/nonexistent folder/x.bpe");
    CHECK_HAS(bpe_error(v), "No such file");
    bpe_clear_error(v);
    CHECK_INT(bpe_save(v, NULL), BPE_EARG);
    CHECK_INT(bpe_load(u, "/nonexistent folder/x.bpe"), BPE_EFILE);
    CHECK_HAS(bpe_error(u), "test_bpe.c:");
    CHECK_HAS(bpe_error(u), "bpe_load: /nonexistent folder/x.bpe: cannot open it: No such file");
    CHECK_INT(bpe_load(u, NULL), BPE_EARG);
    CHECK_INT(bpe_load(u, "/"), BPE_EFILE);
    CHECK_INT(bpe_load_tiktoken(u, "/nonexistent", NULL), BPE_EFILE);
    CHECK_INT(bpe_load_llama2c(u, "/nonexistent", 0), BPE_EFILE);
    CHECK_INT(bpe_load_gpt2(u, "/nonexistent", "/nonexistent"), BPE_EFILE);
    CHECK_INT(bpe_load_gpt2(u, path, "/nonexistent"), BPE_EFILE);
    CHECK_INT(bpe_vocab_size(u), 256);
    remove(path);
    bpe_free(t);
    bpe_free(u);
    bpe_free(v);
}

// A .tiktoken file of the 256 bytes and a few merges; returns its size.
static size_t small_tiktoken(char *p) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t n = 0;
    for (int c = 0; c < 256; c++) n += (size_t)sprintf(p + n, "%c%c== %d\n", digits[c >> 2], digits[c << 4 & 63], c);
    n += (size_t)sprintf(p + n, "YWE= 256\nYWI= 257\nYWFhYg== 258\n");      // aa, ab, aaab
    return n;
}

// What each loader must refuse, with words that the message has to contain.
static void hostile_tiktoken_files(void) {
    static char file[1 << 14], bad[1 << 14];
    size_t n = small_tiktoken(file);
    bpe *t = bpe_new();
    CHECK_INT(bpe_load_tiktoken_mem(t, file, n, NULL), 0);
    check_ids(t, "aaabdaaabac", "258 100 258 97 99");
    static const struct { const char *tail, *message;
    } cases[] = {{"YWE 259\n", "base64"},
                 {"YWE=259\n", "base64"},
                 {"YW=E 259\n", "base64"},
                 {"Y=== 259\n", "base64"},
                 {"==== 259\n", "base64"},
                 {" 259\n", "base64"},
                 {"YWJj\n", "base64"},
                 {"YW*j 259\n", "base64"},
                 {"YWJj  259\n", "rank"},
                 {"YWJj 259 \n", "rank"},
                 {"YWJj -1\n", "rank"},
                 {"YWJj +259\n", "rank"},
                 {"YWJj 0259\n", "rank"},
                 {"YWJj 2e2\n", "rank"},
                 {"YWJj \n", "rank"},
                 {"YWJj 99999999999\n", "rank"},
                 {"YWJj 4294967555\n", "rank"},
                 {"YWJj 2147483647\n", "unused"},
                 {"YWJj 260\n", "missing"},
                 {"YWJj 5000\n", "unused"},
                 {"YWJj 258\n", "second time"},
                 {"YWJj 0\n", "second time"},
                 {"YWE= 259\n", "same 2 bytes"},
                 {"YQ== 259\n", "same 1 bytes"},
                 {"YWF= 259\n", "base64"},
                 {"YR== 259\n", "base64"},
                 {"\xef\xbb\xbfYWJj 259\n", "base64"},
                 {"YWJj\t259\n", "base64"},
                 {"YWJj 259\r\r\n", "rank"},
                 {"YWJj 0x103\n", "rank"},
                 {"YWJjZ 259\n", "base64"},
                 {"hello\n", "base64"},
                 {"{\"a\": 1}\n", "base64"},
                 {"<html>\n", "base64"},
                 {"YWJj 259\nYWJj 260\n", "same 3 bytes"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        memcpy(bad, file, n), strcpy(bad + n, cases[i].tail);
        bpe_clear_error(t);
        if (bpe_load_tiktoken_mem(t, bad, n + strlen(cases[i].tail), NULL) != BPE_EFORMAT)
            T_FAIL("\"%s\" is accepted", cases[i].tail);
        CHECK_HAS(bpe_error(t), cases[i].message);
        CHECK_HAS(bpe_error(t), "test_bpe.c:");
        CHECK_INT(bpe_vocab_size(t), 259);
    }
    bpe_clear_error(t);
    strcpy(bad, file), strcpy(bad + n, "YWJj 259\nbad line\n");
    CHECK_INT(bpe_load_tiktoken_mem(t, bad, strlen(bad), NULL), BPE_EFORMAT);
    CHECK_HAS(bpe_error(t), "line 261");
    memcpy(bad, file, n), bad[n] = 0, bad[n + 1] = '\n';
    CHECK_INT(bpe_load_tiktoken_mem(t, bad, n + 2, NULL), BPE_EFORMAT);
    // What is harmless: other line ends, empty lines, no line end at the end.
    strcpy(bad + n, "\n\r\nYWJj 259\r\nYWJjZA== 260");
    CHECK_INT(bpe_load_tiktoken_mem(t, bad, n + strlen(bad + n), NULL), 0);
    CHECK_INT(bpe_vocab_size(t), 261);
    // Without one of the bytes there would be text that cannot be written.
    memcpy(bad, file, n);
    bpe_clear_error(t);
    memcpy(strstr(bad, "YQ== 97"), "YWNj 97", 7);
    CHECK_INT(bpe_load_tiktoken_mem(t, bad, n, NULL), BPE_EFORMAT);
    CHECK_HAS(bpe_error(t), "no token for byte 97");
    bpe_clear_error(t);
    CHECK_INT(bpe_load_tiktoken_mem(t, file, n, "cl100k_base"), BPE_EFORMAT);
    CHECK_HAS(bpe_error(t), "259 tokens; cl100k_base has 100256");
    bpe_clear_error(t);
    CHECK_INT(bpe_load_tiktoken_mem(t, file, n, "cl100k"), BPE_EARG);
    CHECK_HAS(bpe_error(t), "cl100k_base");
    CHECK_INT(bpe_load_tiktoken_mem(t, "", 0, NULL), BPE_EFORMAT);
    CHECK_INT(bpe_load_tiktoken_mem(t, NULL, 0, NULL), BPE_EFORMAT);
    CHECK_INT(bpe_load_tiktoken_mem(t, NULL, 5, NULL), BPE_EARG);
    // Ranks at which something overflows, in the first line and behind the last.
    for (int e = 0; e < EDGE_NUMBERS; e++) {
        int behind = sprintf(bad, "%.*sYWJj %s\n", (int)n, file, edge_numbers[e]);
        bpe_clear_error(t);
        CHECK_INT(bpe_load_tiktoken_mem(t, bad, (size_t)behind, NULL),
                  strcmp(edge_numbers[e], "259") ? BPE_EFORMAT : 0);
        int before = sprintf(bad, "AA== %s\n%.*s", edge_numbers[e], (int)(n - 7), file + 7);
        CHECK_INT(bpe_load_tiktoken_mem(t, bad, (size_t)before, NULL), strcmp(edge_numbers[e], "0") ? BPE_EFORMAT : 0);
    }
    // A cut file is whole only if it ends behind a rank and still has all bytes: a file tells no count.
    for (size_t cut = 0, lines = 0; cut <= n; cut++) {
        char *exact = (char *)malloc(cut + !cut);
        memcpy(exact, file, cut);
        lines += cut && file[cut - 1] == '\n';
        int whole = cut && (file[cut - 1] == '\n' ? lines >= 256 : file[cut] == '\n' && lines >= 255);
        int status = bpe_load_tiktoken_mem(t, exact, cut, NULL);
        if (status != (whole ? 0 : BPE_EFORMAT)) T_FAIL("%d bytes of %d: status %d", (int)cut, (int)n, status);
        if (!whole && bpe_load_tiktoken_mem(t, exact, cut, "r50k_base") != BPE_EFORMAT) T_FAIL("%d bytes", (int)cut);
        free(exact);
    }
    // A line of a megabyte: one token, or a number, or nothing that is base64.
    char *line = (char *)malloc(1 << 21);
    for (int kind = 0; kind < 4; kind++) {
        memcpy(line, file, n);
        size_t at = n, before = a_bytes;
        memset(line + at, kind == 1 ? ' ' : kind == 2 ? '*' : 'A', 1 << 20), at += 1 << 20;
        if (kind == 3) line[n + 4] = ' ', memset(line + n + 5, '9', (1 << 20) - 5);
        at += (size_t)sprintf(line + at, kind == 3 ? "\n" : " 259\n");
        a_peak = a_bytes;
        CHECK_INT(bpe_load_tiktoken_mem(t, line, at, NULL), kind ? BPE_EFORMAT : 0);
        CHECK(a_peak - before <= 8 * at + (1 << 20));
        if (!kind) CHECK_INT(bpe_vocab_size(t), 260);
    }
    free(line);
    // A file cannot command the terminal that its message is printed on.
    strcpy(bad + sprintf(bad, "%.*s", (int)n, file), "\x1b[31m\xc2\x9b\n");
    bpe_clear_error(t);
    CHECK_INT(bpe_load_tiktoken_mem(t, bad, strlen(bad), NULL), BPE_EFORMAT);
    CHECK_HAS(bpe_error(t), "?[31m?");
    CHECK(!strchr(bpe_error(t), 27));
    bpe_free(t);
}

static void real_vocabularies_cut_short(void) {
    static const char *const names[] = {"r50k_base", "cl100k_base", "o200k_base"};
    for (int i = 0; i < 3; i++) {
        char file[64];
        snprintf(file, sizeof file, "%s.tiktoken", names[i]);
        const char *path = data_path(file);
        size_t size;
        char *p = path ? read_all(path, &size) : NULL;
        if (!p) continue;
        bpe *t = bpe_new();
        size_t before = a_bytes;
        a_peak = a_bytes;
        CHECK_INT(bpe_load_tiktoken_mem(t, p, size, names[i]), 0);
        CHECK(a_peak - before <= 8 * size + (1 << 20));
        for (int cut = 0; cut < 20; cut++) {
            size_t keep = cut == 19 ? size - 1 : (size_t)cut * size / 20;
            while (keep && p[keep - 1] != '\n') keep--;
            if (bpe_load_tiktoken_mem(t, p, keep, names[i]) != BPE_EFORMAT)
                T_FAIL("%s cut at %d is accepted", names[i], (int)keep);
        }
        CHECK_INT(bpe_load_tiktoken_mem(t, p, size, names[(i + 1) % 3]), BPE_EFORMAT);
        free(p);
        bpe_free(t);
    }
}

// p50k_base has its special token inside of the ranks, at 50256. A file of that form with made-up tokens.
static void a_hole_for_a_special_token(void) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char *file = (char *)malloc(1 << 20);
    for (int hole = 50256; hole <= 50257; hole++) {
        size_t n = small_tiktoken(file);
        for (int id = 259; id <= 50280; id++) {
            if (id == hole) continue;
            n += (size_t)sprintf(file + n, "%c%c%c/ %d\n", digits[id >> 12], digits[id >> 6 & 63], digits[id & 63], id);
        }
        bpe *t = bpe_new();
        CHECK_INT(bpe_load_tiktoken_mem(t, file, n, "p50k_base"), hole == 50256 ? 0 : BPE_EFORMAT);
        if (hole == 50256) {
            CHECK(bpe_error(t) == NULL);
            CHECK_INT(bpe_vocab_size(t), 50281);
            CHECK_INT(bpe_special(t, "<|endoftext|>"), 50256);
            check_ids(t, "aaab", "258");
        } else CHECK_HAS(bpe_error(t), "id 50256 is given twice");
        bpe_free(t);
    }
    free(file);
}

// A small pair of GPT-2 files: the bytes, "aa", "ab", "aaab" and one special token.
static void small_gpt2(char *merges, char *json) {
    static const unsigned char low[] = "\xc4\x80";
    size_t n = (size_t)sprintf(json, "{");
    int id = 0;
    for (int pass = 0; pass < 2; pass++)
        for (int c = 0, extra = 0; c < 256; c++) {
            int printable = (c >= 33 && c <= 126) || (c >= 161 && c <= 172) || c >= 174;
            if (printable != !pass) { extra += !printable && pass; continue; }
            char text[4] = {0};
            put_utf8(text, pass ? (uint32_t)(256 + extra++) : (uint32_t)c);
            n += (size_t)sprintf(json + n, "%s\"%s%s\": %d", id ? ", " : "", c == '"' || c == '\\' ? "\\" : "", text,
                                 id);
            id++;
        }
    (void)low;
    sprintf(json + n, ", \"aa\": 256, \"ab\": 257, \"aaab\": 258, \"\\u0120a\": 259, \"<|end|>\": 260}");
    strcpy(merges, "#version: 0.2\na a\na b\naa ab\n\xc4\xa0 a\n");
}

static void hostile_gpt2_files(void) {
    static char merges[4096], json[16384], bad[16384];
    small_gpt2(merges, json);
    bpe *t = bpe_new();
    CHECK_INT(bpe_load_gpt2_mem(t, merges, strlen(merges), json, strlen(json)), 0);
    CHECK(bpe_error(t) == NULL);
    CHECK_INT(bpe_vocab_size(t), 261);
    CHECK_INT(bpe_special(t, "<|end|>"), 260);
    CHECK_INT(bpe_find(t, " a", 2), 259);
    CHECK_INT(bpe_encode(t, "aaab aaab", 9, ids_a, 9), 3);      // the second piece is " ", "aaab": aa comes before " a"
    CHECK(ids_a[0] == 258 && ids_a[1] == 220 && ids_a[2] == 258);
    round_trip(t, "aaab a\n\xff", 8);
    static const struct { const char *from, *to, *message;
    } in_json[] = {{"{", "[", "wanted {"},
                   {"}", "", "a comma or }"},
                   {"}", "}}", "nothing after"},
                   {"\": 256", "\" 256", "a colon"},
                   {"\": 256", "\": -256", "an id"},
                   {"\": 256", "\": 256.0", "a comma"},
                   {"\": 256", "\": 256e0", "a comma"},
                   {"\": 256", "\": \"x\"", "an id"},
                   {"\": 256", "\": 255", "given twice"},
                   {"\": 256", "\": 2147483648", "an id"},
                   {"\": 260", "\": 2147483647", "unused"},
                   {"\": 260", "\": 261", "no token has id 260"},
                   {"\"aa\"", "\"ab\"", "same 2 bytes"},
                   {"\"aa\"", "\"\"", "at least 1"},
                   {"\"aa\"", "\"a\\n\"", "alphabet"},
                   {"\"aa\"", "\"a\\u00zz\"", "alphabet"},
                   {"\"aa\"", "\"a\\ud800\"", "alphabet"},
                   {"\"aa\"", "\"a a\"", "alphabet"},
                   {"\"aa\"", "\"a\xff\"", "alphabet"},
                   {"\"aa\"", "\"xyz\"", "belong"},
                   {", \"aa\"", ",, \"aa\"", "in quotes"},
                   {"\"aa\": 256", "null", "in quotes"},
                   {"{", "\xef\xbb\xbf{", "wanted {"},
                   {"{", "", "wanted {"},
                   {"{", "{{", "in quotes"},
                   {"{", "{,", "in quotes"},
                   {"{", "{'a': 1, ", "in quotes"},
                   {"\": 256", "\": 0256", "an id"},
                   {"\": 256", "\": +256", "an id"},
                   {"\": 256", "\": 0x100", "given twice"},
                   {"\": 256", "\": true", "an id"},
                   {"\": 256", "\": null", "an id"},
                   {"\": 256", "\": {\"b\": 256}", "an id"},
                   {"\": 256", "\": [[[[[[256]]]]]]", "an id"},
                   {"\": 256", "\":: 256", "an id"},
                   {"\": 256", "\": 256, ", "in quotes"},
                   {"\": 256", "\": 256 257", "a comma"},
                   {"\"aa\"", "\"a\\\"", "alphabet"},
                   {"\"aa\"", "\"a\\x\"", "alphabet"},
                   {"\"aa\"", "\"a\\u0000\"", "alphabet"},
                   {"\"aa\"", "\"a\\u12\"", "alphabet"},
                   {"\"aa\"", "\"a\\ud83d\\ude00\"", "alphabet"},
                   {"\"aa\"", "\"\xc0\x80\"", "alphabet"},
                   {"\"aa\"", "'aa'", "in quotes"},
                   {"\"aa\"", "aa", "in quotes"},
                   {"\"!\": 0", "\"!!\": 0", "belong"}};
    for (size_t i = 0; i < sizeof in_json / sizeof *in_json; i++) {
        char *at = strstr(json, in_json[i].from);
        if (in_json[i].from[0] == '}') at = strrchr(json, '}');
        size_t head = (size_t)(at - json);
        memcpy(bad, json, head), strcpy(bad + head, in_json[i].to), strcat(bad, at + strlen(in_json[i].from));
        bpe_clear_error(t);
        int status = bpe_load_gpt2_mem(t, merges, strlen(merges), bad, strlen(bad));
        if (!strcmp(in_json[i].to, "\"!!\": 0")) CHECK_INT(status, BPE_EFORMAT);
        else if (status != BPE_EFORMAT) T_FAIL("%s for %s is accepted", in_json[i].to, in_json[i].from);
        else CHECK_HAS(bpe_error(t), in_json[i].message);
        CHECK_INT(bpe_vocab_size(t), 261);
    }
    static const struct { const char *merges, *message;
    } in_merges[] = {
        {"a a a\n", "two tokens"},     {"aa\n", "two tokens"},      {" a\n", "two tokens"},
        {"a \n", "two tokens"},        {"a x\n", "belong"},         {"aab a\n", "belong"},
        {"a a\na a\n", "second time"}, {"a  a\n", "two tokens"},
        {"a\ta\n", "two tokens"},       {"a a \n", "two tokens"},   {"\x1b[31m\n", "two tokens"},
        {"#version: 0.2\n#version: 0.2\n", "belong"}, {"\xc2\xa0 a\n", "two tokens"},
        {"a a\n\xf0\x9f\x98\x80 a\n", "line 2"}, {"a\xff a\n", "two tokens"}, {"\xef\xbb\xbf#version\n", "two tokens"}};
    for (size_t i = 0; i < sizeof in_merges / sizeof *in_merges; i++) {
        bpe_clear_error(t);
        if (bpe_load_gpt2_mem(t, in_merges[i].merges, strlen(in_merges[i].merges), json, strlen(json)) != BPE_EFORMAT)
            T_FAIL("merges %s are accepted", in_merges[i].merges);
        CHECK_HAS(bpe_error(t), in_merges[i].message);
        CHECK_HAS(bpe_error(t), "vocab.bpe");
    }
    CHECK_INT(bpe_load_gpt2_mem(t, NULL, 0, json, 5), BPE_EARG);
    CHECK_INT(bpe_load_gpt2_mem(t, merges, 5, NULL, 0), BPE_EARG);
    r_state = 6;
    size_t n = strlen(json);
    for (size_t cut = 0; cut < n; cut++)
        if (bpe_load_gpt2_mem(t, merges, strlen(merges), json, cut) != BPE_EFORMAT)
            T_FAIL("%d bytes are accepted", (int)cut);
    // A list of merges that is cut: what no merge makes is a special token then, and all others still work.
    for (size_t cut = 0; cut <= strlen(merges); cut++) {
        int status = bpe_load_gpt2_mem(t, merges, cut, json, n);
        if (status && status != BPE_EFORMAT) T_FAIL("%d bytes of merges: %d", (int)cut, status);
        if (!status) round_trip(t, "aaabdaaabac \xff", 13);
    }
    for (int e = 0; e < EDGE_NUMBERS; e++) {            // ids at which something overflows
        char *at = strstr(json, ": 260");
        int size = sprintf(bad, "%.*s: %s}", (int)(at - json), json, edge_numbers[e]);
        CHECK_INT(bpe_load_gpt2_mem(t, merges, strlen(merges), bad, (size_t)size), BPE_EFORMAT);
    }
    char *line = (char *)malloc(1 << 21);               // a line, and a token, of a megabyte
    for (int kind = 0; kind < 3; kind++) {
        size_t at = 0, before = a_bytes;
        if (kind < 2) {
            memset(line, 'a', 1 << 20), line[kind ? 1 << 19 : 0] = ' ', line[1 << 20] = '\n', at = (1 << 20) + 1;
            a_peak = a_bytes;
            CHECK_INT(bpe_load_gpt2_mem(t, line, at, json, n), BPE_EFORMAT);
        } else {
            at = (size_t)sprintf(line, "{\"");
            memset(line + at, 'a', 1 << 20), at += 1 << 20;
            at += (size_t)sprintf(line + at, "\": 261, %s", json + 1);
            a_peak = a_bytes;
            CHECK_INT(bpe_load_gpt2_mem(t, merges, strlen(merges), line, at), BPE_EFORMAT);
        }
        CHECK(a_peak - before <= 8 * at + (1 << 20));
    }
    free(line);
    bpe_free(t);
}

static size_t small_llama(char *p, float first_score) {
    size_t n = 4;
    int longest = 8;
    memcpy(p, &longest, 4);
    for (int i = 0; i < 263; i++) {
        char text[16];
        float score = i < 259 ? 0 : first_score - (float)i;
        if (i < 3) strcpy(text, i == 0 ? "<unk>" : i == 1 ? "\n<s>\n" : "\n</s>\n");
        else if (i < 259) sprintf(text, "<0x%02X>", i - 3);
        else strcpy(text, i == 259 ? " " : i == 260 ? "a" : i == 261 ? "aa" : " a");
        int len = (int)strlen(text);
        memcpy(p + n, &score, 4), memcpy(p + n + 4, &len, 4), memcpy(p + n + 8, text, (size_t)len);
        n += 8 + (size_t)len;
    }
    return n;
}

static void hostile_llama_files(void) {
    static char file[1 << 14], bad[1 << 14];
    size_t n = small_llama(file, 300);
    bpe *t = bpe_new();
    CHECK_INT(bpe_load_llama2c_mem(t, file, n, 263), 0);
    check_ids(t, "aaa", "259 261 260");                     // aa scores more than " a"
    CHECK_INT(round_trip(t, "", 0), 0);
    CHECK_INT(round_trip(t, " ", 1), 2);
    CHECK_INT(round_trip(t, "b\0b", 3), 4);
    static const uint32_t edges[] = {0,          1,          0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x7F800000,
                                     0xFF800000, 0x7FC00000, 0xFFFFFFFE, 9,          0xFFFFFFF8};
    for (size_t at = 0, field = 0; at < n; field++) {       // every field of four bytes, every edge value
        for (size_t e = 0; e < sizeof edges / sizeof *edges; e++) {
            memcpy(bad, file, n), memcpy(bad + at, &edges[e], 4);
            if (bpe_load_llama2c_mem(t, bad, n, 263) == 0) round_trip(t, "aaa b", 5);
        }
        if (field == 0) at = 4;
        else if (field % 2) at += 4;
        else {
            int len;
            memcpy(&len, file + at, 4);
            at += 4 + (size_t)len;
        }
    }
    CHECK_INT(bpe_load_llama2c_mem(t, file, n, 263), 0);
    static const struct { size_t at; uint32_t value; const char *message;
    } cases[] = {{0, 0, "length 5; the longest has 0"},
                 {0, 4, "length 5; the longest has 4"},
                 {8, 1, "length 1"},
                 {8, 4, "length"},
                 {8, 6, ""},
                 {8, 0x7FFFFFFF, "length 2147483647"},
                 {8, 0x80000000, "length 2147483648"},
                 {8, 0xFFFFFFF8, "length 4294967288"},
                 {4, 0xFF800000, "not a number"},
                 {4, 0xFFFFFFFF, "not a number"},
                 {4, 0x7F800001, "not a number"},
                 {8, 0, "length 0"},
                 {8, 9, "length 9"},
                 {8, 0xFFFFFFFF, "length 4294967295"},
                 {4, 0x7F800000, "not a number"},
                 {4, 0x7FC00000, "not a number"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        memcpy(bad, file, n), memcpy(bad + cases[i].at, &cases[i].value, 4);
        bpe_clear_error(t);
        CHECK_INT(bpe_load_llama2c_mem(t, bad, n, 263), BPE_EFORMAT);
        CHECK_HAS(bpe_error(t), *cases[i].message == 'l' && cases[i].value == 1 ? "byte " : cases[i].message);
    }
    // Tokens that are not what their ids say: another number of digits, small letters, a sign (the "<0x-1>" bug).
    static const char byte_tokens[][8] = {
        "<0x-1>", "<0x+1>", "<0x 1>", "<0x4a>", "<0X41>", "<0x41)", "(0x41>", "<0x42>", "<0x40>", "<0x00>", "<0xFF>",
        "<0xGG>", "<x041>", "aaaaaa", "      ", "\0\0\0\0\0\0", "<0x1\0>", "%s%s%n", "\x1b[31m ", "<unk> "};
    for (size_t i = 0; i < sizeof byte_tokens / sizeof *byte_tokens; i++) {
        memcpy(bad, file, n);
        size_t k = 0;
        while (memcmp(bad + k, "<0x41>", 6)) k++;
        memcpy(bad + k, byte_tokens[i], 6);
        bpe_clear_error(t);
        CHECK_INT(bpe_load_llama2c_mem(t, bad, n, 263), BPE_EFORMAT);
        CHECK_HAS(bpe_error(t), "wanted <0x41>: ids 3 to 258 have to be the bytes. Is it the right file?");
        CHECK(!strchr(bpe_error(t), 27));
    }
    static const int counts[] = {1, 2, 3, 258, 259, 262, 264, 300, 65536, 16777216, 1073741824, 2147483647};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {       // the model says another number of tokens
        a_peak = a_bytes;
        size_t before = a_bytes;
        CHECK_INT(bpe_load_llama2c_mem(t, file, n, counts[i]), BPE_EFORMAT);
        CHECK(a_peak - before <= 8 * n + (1 << 20));
    }
    memcpy(bad, file, n);
    bpe_clear_error(t);
    for (size_t i = 0; i + 6 < n; i++) if (!memcmp(bad + i, "<0x41>", 6)) bad[i + 4] = '2';
    CHECK_INT(bpe_load_llama2c_mem(t, bad, n, 263), BPE_EFORMAT);
    CHECK_HAS(bpe_error(t), "wanted <0x41>");
    CHECK_INT(bpe_load_llama2c_mem(t, file, n, -1), BPE_EARG);
    CHECK_INT(bpe_load_llama2c_mem(t, NULL, 0, 0), BPE_EARG);
    CHECK_INT(bpe_load_llama2c_mem(t, "", 0, 0), BPE_EFORMAT);
    CHECK_INT(bpe_load_llama2c_mem(t, file, 12 + 5 + 14, 0), BPE_EFORMAT);  // three tokens: where are the bytes?
    CHECK_INT(bpe_vocab_size(t), 263);
    // Without the model's count a file that ends behind a token is whole; one that ends inside of one never is.
    for (size_t cut = 0, end = 4, tokens = 0; cut < n; cut++) {
        int len = 0;
        if (cut > end) memcpy(&len, file + end + 4, 4), end += 8 + (size_t)len, tokens++;
        memcpy(bad, file, cut);     // and what lies behind the cut is of no concern
        memset(bad + cut, 1, 64);
        int want = cut == end && tokens >= 259 ? 0 : BPE_EFORMAT;
        if (bpe_load_llama2c_mem(t, bad, cut, 0) != want) T_FAIL("%d bytes of %d", (int)cut, (int)n);
    }
    // A score that never joins, and equal scores: the leftmost pair comes first.
    n = small_llama(file, -2e10f);
    CHECK_INT(bpe_load_llama2c_mem(t, file, n, 263), 0);
    check_ids(t, "aaa", "259 260 260 260");
    bpe_free(t);
}

// Our own format behind a correct checksum: what the checks after it have to catch.
static void hostile_own_files(void) {
    static const struct { const char *body, *message; int tokens;
    } cases[] = {{"kind bpe split none stray symbol\n", "no token for byte 0", 0},
                 {"kind bytes split none stray symbol\n", "no token for byte 0", 0},
                 {"kind chars split none stray symbol\n0 0 t 1 a\n0 0 t 1 b\n", "wanted a token", 2},
                 {"kind chars split none stray symbol\n1 0 t 1 a\n0 0 t 1 b\n", "wanted a token", 2},
                 {"kind chars split none stray symbol\n0 0 t 1 a\n1 0 t 1 a\n", "same 1 bytes", 2},
                 {"kind chars split none stray symbol\n0 0 t 2 a\n", "wanted a token", 1},
                 {"kind chars split none stray symbol\n0 0 t 0 \n", "wanted a token", 1},
                 {"kind chars split none stray symbol\n0 0 t 4294967295 a\n", "wanted a token", 1},
                 {"kind chars split none stray symbol\n0 0 t 2147483647 a\n", "wanted a token", 1},
                 {"kind chars split none stray symbol\n0 0 q 1 a\n", "wanted a token", 1},
                 {"kind chars split none stray symbol\n0 0 b 2 ab\n", "wanted a token", 1},
                 {"kind chars split none stray symbol\n00 0 t 1 a\n", "wanted a token", 1},
                 {"kind chars split none stray symbol\n-1 0 t 1 a\n", "wanted a token", 1},
                 {"kind chars split none stray symbol\n0 4294967296 t 1 a\n", "wanted a token", 1},
                 {"kind chars split none stray symbol\n2147483647 0 t 1 a\n", "unused", 1},
                 {"kind chars split none stray symbol\n5000 0 t 1 a\n", "unused", 1},
                 {"kind chars split none stray symbol\n0 0 t 1 a", "wanted a token", 1},
                 {"kind chars split none stray symbol\n0 0 t 1 a\n", "1 tokens, wanted 2", 2},
                 {"kind empty split none stray symbol\n", "kind", 0},
                 {"kind x split none stray symbol\n", "kind", 0},
                 {"kind chars split gpt stray symbol\n", "kind", 0},
                 {"kind chars split none stray no\n", "kind", 0},
                 {"", "kind", 0},
                 {"kind llama split none stray symbol\n0 0 t 1 a\n", "no token for byte", 1},
                 {"kind words split gpt2 stray symbol\n", "<unk>", 0},
                 {"kind words split gpt2 stray symbol\n1 0 t 1 a\n", "<unk>", 1}};
    bpe *t = bpe_new();
    char file[512];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t n = strlen(cases[i].body);
        size_t size = (size_t)sprintf(file, "bpe 1 tokens %d bytes %d crc32 %08x\n%s", cases[i].tokens, (int)n,
                                      bpei_crc32(0, cases[i].body, n), cases[i].body);
        bpe_clear_error(t);
        if (bpe_load_mem(t, file, size) != BPE_EFORMAT) T_FAIL("%s is accepted", cases[i].body);
        CHECK_HAS(bpe_error(t), cases[i].message);
        CHECK_INT(bpe_vocab_size(t), 0);
    }
    // The first line, whose numbers nothing protects.
    static const char *const firsts[] = {
        "", "\n", "bpe", "bpe 1", "bpe 2 tokens 0 bytes 0 crc32 00000000\n", "bpe 1 tokens", "bpe 1 tokens ",
        "bpe 1 tokens x bytes 0 crc32 00000000\n", "bpe 1 tokens -1 bytes 0 crc32 00000000\n",
        "bpe 1 tokens 0 bytes -1 crc32 00000000\n", "bpe 1 tokens 0 bytes 1 crc32 00000000\n",
        "bpe 1 tokens 00 bytes 0 crc32 00000000\n", "bpe 1 tokens 0 bytes 00 crc32 00000000\n",
        "bpe 1 tokens 0 bytes 0 crc32 0000000\n", "bpe 1 tokens 0 bytes 0 crc32 000000000\n",
        "bpe 1 tokens 0 bytes 0 crc32 0000000A\n", "bpe 1 tokens 0 bytes 0 crc32 00000000",
        "bpe 1 tokens 0 bytes 0 crc32 00000001\n", "bpe 1 tokens 0  bytes 0 crc32 00000000\n",
        "bpe 1 tokens 0 bytes 0 crc32 00000000\r\n", "BPE 1 tokens 0 bytes 0 crc32 00000000\n",
        "\xef\xbb\xbf\142pe 1 tokens 0 bytes 0 crc32 00000000\n", "bpe 1 tokens 0 bytes 0 crc32 0x000000\n",
        "bpe 1 tokens 0 bytes 0 crc32 00000000\n"};
    for (size_t i = 0; i < sizeof firsts / sizeof *firsts; i++) {
        bpe_clear_error(t);
        if (bpe_load_mem(t, firsts[i], strlen(firsts[i])) != BPE_EFORMAT) T_FAIL("%s is accepted", firsts[i]);
        CHECK_HAS(bpe_error(t), "test_bpe.c:");
    }
    for (int field = 0; field < 5; field++)             // and each number of it, and of a token's line, at the edges
        for (int e = 0; e < EDGE_NUMBERS; e++) {
            const char *good[5] = {"1", NULL, "0", "0", "1"};
            char body[256], bytes[32];
            int same = field != 1 && !strcmp(edge_numbers[e], good[field]);
            good[field] = edge_numbers[e];
            int n = sprintf(body, "kind chars split none stray symbol\n%s %s t %s a\n", good[2], good[3], good[4]);
            sprintf(bytes, "%d", n);
            if (field == 1 && !strcmp(edge_numbers[e], bytes)) continue;
            int size = sprintf(file, "bpe 1 tokens %s bytes %s crc32 %08x\n%s", good[0], field == 1 ? good[1] : bytes,
                               bpei_crc32(0, body, (size_t)n), body);
            a_peak = a_bytes;
            size_t before = a_bytes;
            int status = bpe_load_mem(t, file, (size_t)size);
            CHECK(a_peak - before <= 8 * (size_t)size + (1 << 20));
            // A rank may be anything below 2^32, an id leave a few unused before it; all else has one right value.
            int digits = edge_numbers[e][0] && strspn(edge_numbers[e], "0123456789") == strlen(edge_numbers[e])
                         && strcmp(edge_numbers[e], "00");
            int right = same || (field == 2 && digits && strtod(edge_numbers[e], NULL) < 4096)
                        || (field == 3 && digits && strtod(edge_numbers[e], NULL) < 4294967296.0);
            if (status != (right ? 0 : BPE_EFORMAT))
                T_FAIL("field %d is %s: status %d", field, edge_numbers[e], status);
        }
    bpe_free(t);
    t = bpe_new();
    CHECK_INT(bpe_load_mem(t, "YWE= 256\n", 9), BPE_EFORMAT);
    CHECK_HAS(bpe_error(t), "bpe_load_tiktoken");
    CHECK_INT(bpe_load_mem(t, NULL, 0), BPE_EFORMAT);
    CHECK_INT(bpe_load_mem(t, NULL, 1), BPE_EARG);
    // A header of promises: nothing is allocated for them.
    a_peak = a_bytes;
    size_t before = a_bytes;
    CHECK_INT(bpe_load_mem(t, "bpe 1 tokens 2147483647 bytes 2147483647 crc32 00000000\n", 56), BPE_EFORMAT);
    CHECK_INT(a_peak - before, 0);
    CHECK_INT(bpei_crc32(0, "123456789", 9), 0xCBF43926);      // the published check value of CRC-32
    bpe_free(t);
}

// ---- memory ----

static char *f_tiktoken, *f_merges, *f_json, *f_llama, *f_own;
static size_t f_tiktoken_size, f_llama_size, f_own_size;
static char f_text[700];

// Makes a vocabulary in one of eleven ways.
static int make_one(int which, bpe *t) {
    int status = BPE_OK;
    switch (which) {
    case 0: status = bpe_train(t, f_text, sizeof f_text, 280, BPE_SPLIT_GPT2); break;
    case 1: status = bpe_train_naive(t, f_text, sizeof f_text, 270, BPE_SPLIT_NONE); break;
    case 2: status = bpe_chars(t, f_text, sizeof f_text); if (!status) status = bpe_fallback(t); break;
    case 3: status = bpe_words(t, f_text, sizeof f_text, 50); if (!status) status = bpe_fallback(t); break;
    case 4: status = bpe_load_tiktoken_mem(t, f_tiktoken, f_tiktoken_size, NULL); break;
    case 5: status = bpe_load_gpt2_mem(t, f_merges, strlen(f_merges), f_json, strlen(f_json)); break;
    case 6: status = bpe_load_llama2c_mem(t, f_llama, f_llama_size, 0); break;
    case 7: status = bpe_load_mem(t, f_own, f_own_size); break;
    case 8: status = bpe_bytes(t); break;
    case 9:
        status = bpe_load(t, "tests/golden/bpe_pieces.txt");
        if (status == BPE_EFORMAT) status = bpe_bytes(t);
        break;
    case 10: status = bpe_train(t, f_text, sizeof f_text, 300, BPE_SPLIT_NONE); break;
    }
    return status;
}

// One way through the library; returns a negative status if anything failed.
static long path_through(int which, bpe *t) {
    int ids[800];
    char out[4000];
    const char *const all[] = {"all", NULL};
    long status = make_one(which, t);
    if (status) return status;
    int special = bpe_add_special(t, "<|new|>", -1);
    if (special < 0) return special;
    status = bpe_encode(t, f_text, sizeof f_text, ids, 800);        // one long piece, or stray bytes, among them
    if (status >= 0) status = bpe_encode_special(t, f_text, 100, all, BPE_REFUSE, ids, 800);
    if (status < 0) return status;
    status = bpe_colour(t, ids, (size_t)status, out, sizeof out);
    if (status >= 0 && which == 0) {
        char path[256];
        snprintf(path, sizeof path, "build/test_bpe_%d.oom", (int)getpid());
        status = bpe_save(t, path);
        remove(path);
    }
    return status;
}

static void make_files(void) {
    static char tiktoken[1 << 14], merges[4096], json[16384], llama[1 << 14], own[1 << 14];
    f_tiktoken = tiktoken, f_tiktoken_size = small_tiktoken(tiktoken);
    small_gpt2(merges, json), f_merges = merges, f_json = json;
    f_llama = llama, f_llama_size = small_llama(llama, 300);
    bpe *own_one = small_one(3);
    f_own = own, f_own_size = (size_t)bpe_save_mem(own_one, own, sizeof own);
    bpe_free(own_one);
    r_state = 12;
    for (size_t i = 0; i < sizeof f_text; i++)
        f_text[i] = i < 300 ? 'a' : (char)(r_below(9) ? (size_t) "the cat sat\n"[r_below(12)] : r_below(256));
}

// Damaged files of every kind: each is refused with a message, or makes a tokenizer that works; and none makes a
// loader take more than 8 times the file and a megabyte.
static void random_damage(void) {
    enum { PARSERS = 6, ROUNDS = 2500 };
    static char text[1 << 15];
    int accepted[PARSERS] = {0};
    make_files();
    const char *seed[PARSERS] = {f_tiktoken, f_json, f_merges, f_llama, f_llama, f_own};
    size_t size[PARSERS] = {f_tiktoken_size, strlen(f_json), strlen(f_merges), f_llama_size, f_llama_size, f_own_size};
    bpe *t = bpe_new();
    for (int i = 0; i < PARSERS; i++)
        for (int round = 0; round < ROUNDS; round++) {
            int other = (i + 1 + round % (PARSERS - 1)) % PARSERS, status = 0;
            r_state = (uint64_t)i << 32 | (uint64_t)round;      // a counter: round n is the same in every run
            memcpy(text, seed[i], size[i]);
            size_t n = mutate(text, size[i], sizeof text - 200, size[i], seed[other], size[other], r_below), total = n;
            char *head = (char *)memchr(text, '\n', n);
            if (i == 5 && head && r_below(4)) {                 // behind a correct checksum
                char line[96];
                size_t body = n - (size_t)(head + 1 - text);
                int tokens = round % 2 ? 267 : (int)r_below(300);
                int k = sprintf(line, "bpe 1 tokens %d bytes %d crc32 %08x\n", tokens, (int)body,
                                (unsigned)bpei_crc32(0, head + 1, body));
                memmove(text + k, head + 1, body), memcpy(text, line, (size_t)k);
                total = n = body + (size_t)k;
            }
            char *p = (char *)malloc(n + !n);                   // so that a sanitizer sees reads beyond the end
            memcpy(p, text, n);
            size_t before = a_bytes;
            long blocks = a_live, had = bpe_vocab_size(t) > 0;
            a_peak = a_bytes;
            switch (i) {
            case 0: status = bpe_load_tiktoken_mem(t, p, n, NULL); break;
            case 1: status = bpe_load_gpt2_mem(t, f_merges, size[2], p, n), total += size[2]; break;
            case 2: status = bpe_load_gpt2_mem(t, p, n, f_json, size[1]), total += size[1]; break;
            case 3: status = bpe_load_llama2c_mem(t, p, n, 263); break;
            case 4: status = bpe_load_llama2c_mem(t, p, n, 0); break;
            default: status = bpe_load_mem(t, p, n);
            }
            free(p);
            if (a_peak - before > 8 * total + (1 << 20))
                T_FAIL("parser %d, round %d: %d bytes of file, %d of heap", i, round, (int)total,
                       (int)(a_peak - before));
            if (status == 0) {
                CHECK(bpe_error(t) == NULL);
                accepted[i]++;
                if (round % 8 == 0 && i != 5) round_trip(t, "aaabdaaabac \xff", 13);
                bpe_free(t), t = bpe_new();
                continue;
            }
            CHECK_INT(status, BPE_EFORMAT);
            CHECK(bpe_error(t) && strstr(bpe_error(t), "test_bpe.c:") && !strpbrk(bpe_error(t), "\033\n\r\x7f"));
            CHECK(a_live == blocks && a_bytes == before && had == (bpe_vocab_size(t) > 0));
            bpe_clear_error(t);
        }
    // Damage that is always seen, or never, would test little.
    for (int i = 0; i < PARSERS; i++)
        if (accepted[i] < 5 || accepted[i] > ROUNDS * 4 / 5)
            T_FAIL("parser %d: %d of %d are accepted", i, accepted[i], ROUNDS);
    bpe_free(t);
}

static void every_allocation_fails_once(void) {
    long tried = 0;
    make_files();
    for (int which = 0; which < 11; which++)
        for (int sticky = 0; sticky < 2; sticky++)
            for (long n = 1;; n++) {
                bpe *keep = NULL;
                long live = a_live, status;
                a_calls = 0, a_fail_at = n, a_sticky = sticky;
                bpe *t = bpe_new();
                if (!t) status = BPE_ENOMEM;
                else status = path_through(which, t);
                long calls = a_calls;
                a_fail_at = 0;
                if (calls < n) {                            // nothing failed any more: all is tried
                    CHECK(status >= 0);
                    bpe_free(t);
                    break;
                }
                tried++;
                if (status != BPE_ENOMEM)
                    T_FAIL("way %d, allocation %ld fails: status %ld (%s)", which, n, status,
                           t && bpe_error(t) ? bpe_error(t) : "no message");
                if (t) {                                    // and the object still works
                    bpe_clear_error(t);
                    if (path_through(which, t) < 0)
                        T_FAIL("way %d fails after allocation %ld did: %s", which, n,
                               bpe_error(t) ? bpe_error(t) : "no message");
                }
                bpe_free(t);
                bpe_free(keep);
                if (a_live != live) T_FAIL("way %d: allocation %ld fails and %ld blocks leak", which, n, a_live - live);
            }
    CHECK(tried > 200);
}

static void a_failed_call_changes_nothing(void) {
    make_files();
    bpe *t = small_one(3);
    long size = bpe_save_mem(t, NULL, 0);
    char *a = (char *)malloc((size_t)size), *b = (char *)malloc((size_t)size + 99);
    bpe_save_mem(t, a, (size_t)size);
    int failures = 0;
    for (int which = 0; which < 12; which++)
        for (long n = 1; n < 12; n++) {
            if (which == 9) continue;                       // two calls, of which the first may succeed
            if ((which == 2 || which == 3) && n > 3) continue;
            a_calls = 0, a_fail_at = n, a_sticky = 1;
            int status = which < 11 ? make_one(which, t) : bpe_add_special(t, "<|x|>", -1);
            a_fail_at = 0;
            if (status >= 0) {
                CHECK_INT(bpe_load_mem(t, a, (size_t)size), 0);
                continue;
            }
            failures++;
            CHECK_INT(status, BPE_ENOMEM);
            CHECK_INT(bpe_save_mem(t, b, (size_t)size + 99), size);
            CHECK(!memcmp(a, b, (size_t)size));
        }
    CHECK(failures > 40);
    free(a);
    free(b);
    bpe_free(t);
}

int main(int argc, char **argv) {
    T_BEGIN("test_bpe");
    T_RUN(minbpe_example);
    T_RUN(byte_01100010_is_98);
    T_RUN(training_by_the_book);
    T_RUN(heap_and_search_join_alike);
    T_RUN(naive_agrees_on_shakespeare);
    T_RUN(training_limits);
    T_RUN(pieces_like_a_regular_expression_engine);
    T_RUN(every_splitter_moves_on_and_ends);
    T_RUN(plain_words_like_the_whole_pattern);
    T_RUN(hard_strings_like_tiktoken);
    T_RUN(random_strings_like_tiktoken);
    T_RUN(stray_bytes_like_tiktoken);
    T_RUN(all_code_points_like_tiktoken);
    T_RUN(special_tokens_like_tiktoken);
    T_RUN(pieces_that_come_again);
    T_RUN(a_megabyte_of_one_letter);
    T_RUN(long_pieces_take_no_square);
    T_RUN(the_numbers_of_lesson_05);
    T_RUN(gpt2_files_are_r50k);
    T_RUN(special_rules);
    T_RUN(characters);
    T_RUN(words);
    T_RUN(any_bytes_come_back);
    T_RUN(llama2c_by_the_book);
    T_RUN(counts_like_snprintf);
    T_RUN(colours_cannot_command_a_terminal);
    T_RUN(many_threads_share_one);
    T_RUN(saved_and_loaded_is_the_same);
    T_RUN(big_ones_too);
    T_RUN(saving_replaces_whole_files);
    T_RUN(hostile_tiktoken_files);
    T_RUN(real_vocabularies_cut_short);
    T_RUN(a_hole_for_a_special_token);
    T_RUN(hostile_gpt2_files);
    T_RUN(hostile_llama_files);
    T_RUN(hostile_own_files);
    T_RUN(random_damage);
    T_RUN(every_allocation_fails_once);
    T_RUN(a_failed_call_changes_nothing);
    static const char *const names[] = {"r50k_base", "cl100k_base", "o200k_base"};
    for (int i = 0; i < 3 && g_file; i++) bpe_free(encoding(names[i]));
    return T_END();
}
