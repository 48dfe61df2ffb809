/*
bpe.h - tokenizers in one C file: text becomes numbers, and numbers become text again.

In one C file of your program:              #define BPE_IMPLEMENTATION
                                            #include "bpe.h"
in all others only:                         #include "bpe.h"
Compile with                                cc -O3 program.c
It needs the C library and nothing else.

EXAMPLE:
    #define BPE_DIE_ON_ERROR
    #define BPE_IMPLEMENTATION
    #include "bpe.h"

    int main(void) {                                        // learns three tokens beyond the 256 bytes
        const char *text = "aaabdaaabac";
        int ids[16];
        char back[16];
        bpe *t = bpe_new();
        bpe_train(t, text, strlen(text), 256 + 3, BPE_SPLIT_NONE);
        long n = bpe_encode(t, text, strlen(text), ids, 16);
        for (long i = 0; i < n; i++) printf("%d \"%s\"\n", ids[i], bpe_token(t, ids[i], NULL));
        bpe_decode(t, ids, (size_t)n, back, sizeof back);
        printf("%s\n", back);
        bpe_free(t);
    }

PRINTS:
    258 "aaab"
    100 "d"
    258 "aaab"
    97 "a"
    99 "c"
    aaabdaaabac

It does not: change the text (no Unicode normalisation, no lower case), train on several threads, know WordPiece or the
unigram model of SentencePiece, take a regular expression of yours, or read Hugging Face's tokenizer.json.

CONCEPTS
A language model reads numbers. A token is a short string of bytes with a number of its own, its id. The list of all
tokens is the vocabulary. To encode is to cut a text into tokens and write down their ids; to decode is to put the
tokens' bytes together again.
Which strings should be tokens? The 256 single bytes would do: nothing is ever unknown. But each letter is a token then,
texts become long, and a model's work grows with the length. Whole words make short rows, but no list of words is
complete. Byte-pair encoding, BPE, lies between (Gage 1994; Sennrich et al. 2016; on bytes: Radford et al. 2019, GPT-2).
It begins with the bytes, finds the pair of neighbouring tokens that occurs most often, makes it a new token, and
repeats. Each such step is called a merge. Frequent words end as one token, rare ones as a few.
Of pairs that occur equally often, the one that compares lowest is merged: first by the left id, then by the right one.
Training stops early when no pair occurs twice, since such a token would save nothing; bpe_vocab_size tells.
The rank of a token is its place in the order of merges. To encode, start with single bytes; then, again and again, join
the two neighbours whose joint bytes are the token of lowest rank, the leftmost if there are several, until no two
neighbours make a token.
Before that, a text is split into pieces: words with the space before them, numbers, runs of signs or of white space. No
token crosses from one piece into the next, so "dog." and "dog!" share a token. The three ways to split are those of
GPT-2 (BPE_SPLIT_GPT2), GPT-4 (BPE_SPLIT_CL100K) and GPT-4o (BPE_SPLIT_O200K), by the letters of Unicode 16.
A special token marks what text cannot say: the end of a document, or whose turn it is to speak. bpe_encode never makes
one, whatever the text contains, so a stranger's text cannot pretend to. bpe_encode_special makes those that you allow.
decode(encode(x)) == x for every byte string, if the vocabulary has all bytes: BPE and bytes have, llama2.c's files too,
characters and words after bpe_fallback. Bytes that are not valid UTF-8 are called stray here. Two rules exist for them:
BPE_STRAY_SYMBOL treats each one as a sign like '!'. BPE_STRAY_TAIL does what OpenAI's tiktoken does with bytes: from
the piece before the first stray byte on, all the rest is one piece. A vocabulary read from a file of tiktoken's or of
GPT-2's gets the second rule, all others the first.

SHAPES   ids: one int for each token, 0 <= id < bpe_vocab_size, which is V of a model. Lengths and positions are in
bytes. A text is a pointer and a length below 2 GiB; it need not end in 0.

MEMORY   What bpe_new makes bpe_free frees: about 0.5 MB, and 60 bytes for each token. Results go to your buffers; a
call that fills one returns the size needed, as snprintf does, so call it with NULL and 0 to ask. Encoding takes memory
for pieces over 64 bytes (32 bytes for each of theirs) and, in texts of 4 KB and more, up to 1 MB to remember pieces
that come again; it gives all back before it returns. Any number of threads may use one const tokenizer at the same
time: it has no cache that outlives a call, and no hidden state.

ERRORS   A call returns NULL or a negative status. One that changes a tokenizer then leaves it as it was, and keeps the
first message in it, with your file and line: bpe_error(t). Encoding and decoding take a const tokenizer, so they cannot
keep a message: bpe_status puts their status in words. With BPE_DIE_ON_ERROR the message is printed and the program
ends, which suits a lesson.

OPTIONS, before the include
    BPE_IMPLEMENTATION                  off         in one file: the code, too
    BPE_DIE_ON_ERROR                    off         print the first error and exit
    BPE_MALLOC, BPE_REALLOC, BPE_FREE   malloc...   your allocator; all three or none

SECURITY   Loaders treat every file as hostile: they check before they allocate, and never hold more than 8 times the
file and 1 MB. No text makes encoding slow: n bytes take n log n steps.

READING ORDER   2 training, 3 splitting, 4 merging inside a piece, 5 encode and decode, 6 the other kinds of tokenizer.
Then the engine room: the same with a heap, hash tables and eight bytes at a time, and the readers of files.
Licence: MIT, at the end.
*/
#ifndef BPE_H
#define BPE_H
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct bpe bpe;     // a tokenizer: a vocabulary, how text is split for it, and the first error

// Statuses. 0 or a count is success.
enum {
    BPE_OK = 0,
    BPE_ENOMEM = -1,        // out of memory
    BPE_EFILE = -2,         // a file cannot be opened, read or written
    BPE_EFORMAT = -3,       // a file is not what it should be
    BPE_EARG = -4,          // a wrong argument: NULL, an id out of range, no vocabulary yet, a text of 2 GiB
    BPE_EUNKNOWN = -5,      // a character that the vocabulary lacks (bpe_chars without bpe_fallback)
    BPE_ESPECIAL = -6       // text contains a special token that the caller did not allow
};

enum { BPE_SPLIT_NONE, BPE_SPLIT_GPT2, BPE_SPLIT_CL100K, BPE_SPLIT_O200K };
enum { BPE_STRAY_SYMBOL, BPE_STRAY_TAIL };      // what becomes of bytes that are not UTF-8: see CONCEPTS
enum { BPE_REFUSE, BPE_AS_TEXT };               // for bpe_encode_special

// Life. bpe_new returns an empty tokenizer, or NULL when out of memory. bpe_free(NULL) does nothing.
bpe *bpe_new(void);
void bpe_free(bpe *t);
const char *bpe_error(const bpe *t);            // the first error message since bpe_clear_error, or NULL: all is well
void bpe_clear_error(bpe *t);
const char *bpe_status(long status);            // a status in words, never NULL

// Making a vocabulary. Each replaces what the tokenizer held, and returns BPE_OK or a negative status.
// bpe_train: the 256 bytes get ids 0..255, then one token per join until vocab_size (at least 256) is reached.
// bpe_train_naive gives the same by counting anew for every token; it is there to be read, and to check the other.
int bpe_train(bpe *t, const void *text, size_t len, int vocab_size, int split);
int bpe_train_naive(bpe *t, const void *text, size_t len, int vocab_size, int split);
int bpe_bytes(bpe *t);                                                  // the 256 bytes, id = byte
int bpe_chars(bpe *t, const void *text, size_t len);                    // the characters of text, in Unicode's order
int bpe_words(bpe *t, const void *text, size_t len, int max_vocab);     // 0 is <unk>, then GPT-2's pieces by frequency
int bpe_fallback(bpe *t);       // adds 256 byte tokens after the others: unknown characters and words become bytes
int bpe_set_split(bpe *t, int split);
int bpe_set_stray(bpe *t, int rule);

// Reading and writing. Loading replaces what the tokenizer held; on failure it keeps it. _mem reads from memory.
// bpe_save writes a temporary file beside path, syncs it and renames it: path always holds a whole file, old or new.
// bpe_save_mem returns the size needed and fills up to cap bytes. The format is ours: text, see bpe_save below.
int bpe_save(bpe *t, const char *path);
long bpe_save_mem(const bpe *t, void *buffer, size_t cap);
int bpe_load(bpe *t, const char *path);
int bpe_load_mem(bpe *t, const void *data, size_t size);

// tiktoken's files. encoding is "gpt2", "r50k_base", "p50k_base", "cl100k_base" or "o200k_base": it chooses the split
// and the special tokens, and how many tokens the file has to hold. NULL: any count, no split, no special tokens.
int bpe_load_tiktoken(bpe *t, const char *path, const char *encoding);
int bpe_load_tiktoken_mem(bpe *t, const void *data, size_t size, const char *encoding);

// GPT-2's own two files, vocab.bpe (merges) and encoder.json (ids). The same ids as "r50k_base".
int bpe_load_gpt2(bpe *t, const char *vocab_bpe, const char *encoder_json);
int bpe_load_gpt2_mem(bpe *t, const void *merges, size_t merges_size, const void *json, size_t json_size);

// llama2.c's tokenizer.bin. vocab_size is what the model says (the file does not), or 0 for what the file holds.
// A space goes before the text, and bpe_decode takes it away again at the start of a sequence and after <s>; so
// to print tokens from the middle of a sequence use bpe_token. Special tokens: <unk> 0, <s> 1, </s> 2.
int bpe_load_llama2c(bpe *t, const char *path, int vocab_size);
int bpe_load_llama2c_mem(bpe *t, const void *data, size_t size, int vocab_size);

// Encoding and decoding. The result is the number of ids (bytes) needed, of which at most cap are written, or a status.
// bpe_decode adds a 0 after the last byte where there is room for one, not counted.
long bpe_encode(const bpe *t, const void *text, size_t len, int *ids, size_t cap);
long bpe_decode(const bpe *t, const int *ids, size_t n, char *out, size_t cap);

// As tiktoken's encode: allowed is a list that ends in NULL, {"all", NULL} allows every special token, NULL none.
// If a special token stands in text that is not allowed, it is BPE_ESPECIAL (rule BPE_REFUSE) or ordinary text
// (BPE_AS_TEXT). Where two special tokens begin at one place, the longer one counts.
long bpe_encode_special(const bpe *t, const void *text, size_t len, const char *const *allowed, int rule,
                        int *ids, size_t cap);

// Asking.
int bpe_vocab_size(const bpe *t);                                   // highest id + 1; 0 for an empty tokenizer
const char *bpe_token(const bpe *t, int id, size_t *len);           // its bytes, then a 0; or NULL. len may be NULL
int bpe_find(const bpe *t, const void *text, size_t len);           // the ordinary token with these bytes, or -1
int bpe_special(const bpe *t, const char *text);                    // the special token written so, or -1
int bpe_add_special(bpe *t, const char *text, int id);              // id -1: the next free one. Returns id or a status
// Where the piece that begins at text[at] ends, by the tokenizer's split.
size_t bpe_next_piece(const bpe *t, const void *text, size_t len, size_t at);

// The tokens in five colours in turn, for a terminal: every control byte, stray byte and backslash is written as an
// escape, so that no text can command the terminal. Returns the bytes needed; ends in 0 where there is room.
long bpe_colour(const bpe *t, const int *ids, size_t n, char *out, size_t cap);

bpe *bpei_here(bpe *t, const char *call, const char *file, int line);
long bpei_must(long status, const char *call, const char *file, int line);

#ifdef __cplusplus
}
#endif

// Each call that can leave a message notes first where it stands in the caller's program. (A macro's own name is
// not expanded again, so the functions keep their names.)
#define BPEI_HERE(t, call) bpei_here(t, call, __FILE__, __LINE__)
#define bpe_train(t, ...) bpe_train(BPEI_HERE(t, "bpe_train"), __VA_ARGS__)
#define bpe_train_naive(t, ...) bpe_train_naive(BPEI_HERE(t, "bpe_train_naive"), __VA_ARGS__)
#define bpe_bytes(t) bpe_bytes(BPEI_HERE(t, "bpe_bytes"))
#define bpe_chars(t, ...) bpe_chars(BPEI_HERE(t, "bpe_chars"), __VA_ARGS__)
#define bpe_words(t, ...) bpe_words(BPEI_HERE(t, "bpe_words"), __VA_ARGS__)
#define bpe_fallback(t) bpe_fallback(BPEI_HERE(t, "bpe_fallback"))
#define bpe_set_split(t, split) bpe_set_split(BPEI_HERE(t, "bpe_set_split"), split)
#define bpe_set_stray(t, rule) bpe_set_stray(BPEI_HERE(t, "bpe_set_stray"), rule)
#define bpe_save(t, path) bpe_save(BPEI_HERE(t, "bpe_save"), path)
#define bpe_load(t, path) bpe_load(BPEI_HERE(t, "bpe_load"), path)
#define bpe_load_mem(t, ...) bpe_load_mem(BPEI_HERE(t, "bpe_load_mem"), __VA_ARGS__)
#define bpe_load_tiktoken(t, ...) bpe_load_tiktoken(BPEI_HERE(t, "bpe_load_tiktoken"), __VA_ARGS__)
#define bpe_load_tiktoken_mem(t, ...) bpe_load_tiktoken_mem(BPEI_HERE(t, "bpe_load_tiktoken_mem"), __VA_ARGS__)
#define bpe_load_gpt2(t, ...) bpe_load_gpt2(BPEI_HERE(t, "bpe_load_gpt2"), __VA_ARGS__)
#define bpe_load_gpt2_mem(t, ...) bpe_load_gpt2_mem(BPEI_HERE(t, "bpe_load_gpt2_mem"), __VA_ARGS__)
#define bpe_load_llama2c(t, ...) bpe_load_llama2c(BPEI_HERE(t, "bpe_load_llama2c"), __VA_ARGS__)
#define bpe_load_llama2c_mem(t, ...) bpe_load_llama2c_mem(BPEI_HERE(t, "bpe_load_llama2c_mem"), __VA_ARGS__)
#define bpe_add_special(t, ...) bpe_add_special(BPEI_HERE(t, "bpe_add_special"), __VA_ARGS__)
#ifdef BPE_DIE_ON_ERROR
#define BPEI_MUST(value, call) bpei_must(value, call, __FILE__, __LINE__)
#define bpe_encode(...) BPEI_MUST(bpe_encode(__VA_ARGS__), "bpe_encode")
#define bpe_encode_special(...) BPEI_MUST(bpe_encode_special(__VA_ARGS__), "bpe_encode_special")
#define bpe_decode(...) BPEI_MUST(bpe_decode(__VA_ARGS__), "bpe_decode")
#define bpe_colour(...) BPEI_MUST(bpe_colour(__VA_ARGS__), "bpe_colour")
#define bpe_save_mem(...) BPEI_MUST(bpe_save_mem(__VA_ARGS__), "bpe_save_mem")
#endif
#endif // BPE_H

#if defined BPE_IMPLEMENTATION && !defined BPE_IMPLEMENTED
#define BPE_IMPLEMENTED
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined BPE_MALLOC && defined BPE_REALLOC && defined BPE_FREE
#elif !defined BPE_MALLOC && !defined BPE_REALLOC && !defined BPE_FREE
#define BPE_MALLOC(n) malloc(n)
#define BPE_REALLOC(p, n) realloc(p, n)
#define BPE_FREE(p) free(p)
#else
#error "bpe.h: define all of BPE_MALLOC, BPE_REALLOC and BPE_FREE, or none of them"
#endif

// Public names are defined in parentheses below, because most of them are macros too.

// ---- 1. What a vocabulary is ----------------------------------------------------------------------------------------

enum { BPEI_EMPTY, BPEI_BYTES, BPEI_CHARS, BPEI_WORDS, BPEI_BPE, BPEI_LLAMA, BPEI_KINDS };
enum { BPEI_TEXT = 't', BPEI_BYTE = 'b', BPEI_SPECIAL = 's' };  // ordinary, byte of something unknown, special
#define BPEI_NEVER UINT32_MAX       // the rank of a token that no join makes
#define BPEI_CLASSES 0x32400        // code points in the table; above it there is one block of marks and no letter
#define BPEI_MEMORY 4096            // texts of this many bytes and more are encoded with a memory of their pieces
#define BPEI_SHORT 64               // pieces up to this many bytes are merged by plain search
#define BPEI_GAP 4096               // ids that may stay unused: a bound on what a hostile file can make us allocate

typedef struct {
    uint32_t at, size;              // its bytes are text[at .. at + size), and a 0; size 0: this id is not used
    uint32_t rank;                  // joins that make a token of lower rank come first
    int type;                       // BPEI_TEXT and so on
} bpei_token;

typedef struct {
    uint64_t key;                   // up to 8 bytes: the bytes themselves; more: their hash
    uint32_t size;
    int id;                         // -1: free
} bpei_slot;

typedef struct {
    int kind, split, stray;
    bpei_token *token;              // (n): by id
    int n, room, used;              // ids, places in token, ids that are used
    char *text;                     // the bytes of all tokens, one after the other
    uint32_t text_size, text_room;
    int one[256];                   // ordinary token of one byte, or -1
    int byte[256];                  // byte token for what is unknown, or -1
    int *two;                       // (65536): ordinary token of two bytes, or -1: most joins asked about are such
    bpei_slot *slot;                // hash table of the ordinary tokens, bytes to id
    uint64_t seed;
    int shift;                      // the table has 2^(64 - shift) slots
    uint32_t longest;               // bytes in the longest ordinary token
    int *special, n_special;        // ids of special tokens, the longest first
    int status;                     // why bpei_put failed
    unsigned char first[256];       // 1: some special token begins with this byte
} bpei_vocab;

struct bpe {
    bpei_vocab v;
    unsigned char *classes;         // (BPEI_CLASSES): what each character is, see section 3
    const char *call, *file;        // where in the caller's program we were called
    int line;
    const char *source;             // the file being read, for messages
    char error[512];
};

typedef struct { int *ids; size_t cap, n; } bpei_ids;               // where ids go; n counts on when cap is reached
typedef struct { char *out; size_t cap, n; uint32_t crc; } bpei_out;// the same for bytes

static int bpei_fail(bpe *t, int status, const char *format, ...);
static void bpei_vocab_init(bpei_vocab *v, int kind, int split);
static void bpei_vocab_free(bpei_vocab *v);
static char *bpei_put(bpe *t, bpei_vocab *v, uint32_t id, size_t size, uint32_t rank, int type);
static int bpei_put_special(bpe *t, bpei_vocab *v, const char *text, size_t size, uint32_t id);
static int bpei_put_bytes(bpe *t, bpei_vocab *v, int first, int type);
static int bpei_index(bpe *t, bpei_vocab *v);
static int bpei_take(bpe *t, bpei_vocab *v, int status);
static int bpei_find(const bpei_vocab *v, const unsigned char *p, size_t n);
static int bpei_merge_long(const bpei_vocab *v, const unsigned char *p, size_t n, int added, bpei_ids *out);
static int bpei_utf8(const unsigned char *p, size_t n, uint32_t *code);
static size_t bpei_split(const bpe *t, int split, const unsigned char *p, size_t n, size_t at);
static inline size_t bpei_plain_word(const bpe *t, int split, const unsigned char *p, size_t n, size_t at);
static int bpei_encode_pieces(const bpe *t, const unsigned char *p, size_t n, bpei_ids *out);

// ---- 2. Training, as one would write it down ------------------------------------------------------------------------

// Token number v->n with the bytes of tokens a and b.
static int bpei_join(bpe *t, bpei_vocab *v, int a, int b) {
    uint32_t size_a = v->token[a].size, size_b = v->token[b].size;
    char *p = bpei_put(t, v, (uint32_t)v->n, (size_t)size_a + size_b, (uint32_t)v->n, BPEI_TEXT);
    if (!p) return v->status;
    memcpy(p, v->text + v->token[a].at, size_a);
    memcpy(p + size_a, v->text + v->token[b].at, size_b);
    return BPE_OK;
}

static int bpei_train_check(bpe *t, const void *text, size_t len, int vocab_size, int split) {
    if (!t) return BPE_EARG;
    if (!text && len)
        return bpei_fail(t, BPE_EARG, "text is NULL and its length %.0f; pass the text, or 0", (double)len);
    if (len >= INT32_MAX)
        return bpei_fail(t, BPE_EARG, "text of %.0f bytes; the limit is 2 GiB. Train on a part of it", (double)len);
    if (vocab_size < 256 || vocab_size > 1 << 24)
        return bpei_fail(t, BPE_EARG, "vocab_size is %d; it has to be between 256 (the bytes) and 16777216",
                         vocab_size);
    if (split < BPE_SPLIT_NONE || split > BPE_SPLIT_O200K)
        return bpei_fail(t, BPE_EARG, "split is %d; use BPE_SPLIT_NONE, _GPT2, _CL100K or _O200K", split);
    return BPE_OK;
}

// Count all pairs, join the most frequent one everywhere, begin again. The counts are a square table, so the first
// maximum in reading order is the lowest pair: that is the rule for ties. A -1 between two pieces keeps pairs from
// crossing.
int (bpe_train_naive)(bpe *t, const void *text, size_t len, int vocab_size, int split) {
    int status = bpei_train_check(t, text, len, vocab_size, split);
    if (status) return status;
    if (vocab_size > 8192)
        return bpei_fail(t, BPE_EARG, "vocab_size is %d; the table of pairs allows 8192. Use bpe_train", vocab_size);
    const unsigned char *p = (const unsigned char *)text;
    size_t V = (size_t)vocab_size, n = 0, piece = 0;
    int *ids = (int *)BPE_MALLOC((2 * len + 1) * sizeof(int)), *count = (int *)BPE_MALLOC(V * V * sizeof(int));
    bpei_vocab v;
    bpei_vocab_init(&v, BPEI_BPE, split);
    if (!ids || !count)
        status = bpei_fail(t, BPE_ENOMEM, "out of memory for %d x %d counts; bpe_train needs less", vocab_size,
                           vocab_size);
    if (!status) status = bpei_put_bytes(t, &v, 0, BPEI_TEXT);
    for (size_t i = 0; i < len && !status; i++) {
        if (i == piece) ids[n++] = -1, piece = bpei_split(t, split, p, len, i);
        ids[n++] = p[i];
    }
    while (v.n < vocab_size && !status) {
        memset(count, 0, (size_t)v.n * V * sizeof(int));
        for (size_t i = 1; i < n; i++)
            if (ids[i - 1] >= 0 && ids[i] >= 0) count[(size_t)ids[i - 1] * V + (size_t)ids[i]]++;
        size_t best = 0, m = 0;
        for (size_t k = 1; k < (size_t)v.n * V; k++)
            if (count[k] > count[best]) best = k;
        if (count[best] < 2) break;
        int a = (int)(best / V), b = (int)(best % V);
        for (size_t i = 0; i < n; i++) {
            if (ids[i] == a && i + 1 < n && ids[i + 1] == b) ids[m++] = v.n, i++;
            else ids[m++] = ids[i];
        }
        n = m;
        status = bpei_join(t, &v, a, b);
    }
    BPE_FREE(ids);
    BPE_FREE(count);
    return bpei_take(t, &v, status);
}

// ---- 3. Splitting: which bytes may end up in one token --------------------------------------------------------------

// What a character is to the three patterns, one bit each. \p{L} is LOWER, UPPER (with title case) or LETTER (modifiers
// and letters without case, such as Chinese ones); \s is SPACE, which the line ends are too.
enum { BPEI_SPACE = 1, BPEI_NUMBER = 2, BPEI_LETTER = 4, BPEI_LOWER = 8, BPEI_UPPER = 16, BPEI_MARK = 32,
       BPEI_OTHER = 64, BPEI_LINE = 128,
       BPEI_L = BPEI_LETTER | BPEI_LOWER | BPEI_UPPER, BPEI_SYMBOL = BPEI_MARK | BPEI_OTHER };

// The class of the character at p[at] and, in *end, where it ends. A stray byte is a symbol.
static inline int bpei_class(const bpe *t, const unsigned char *p, size_t n, size_t at, size_t *end) {
    if (p[at] < 128) return *end = at + 1, t->classes[p[at]];
    uint32_t code;
    int size = bpei_utf8(p + at, n - at, &code);
    *end = at + (size ? (size_t)size : 1);
    if (!size) return BPEI_OTHER;
    if (code < BPEI_CLASSES) return t->classes[code];
    return code >= 0xE0100 && code <= 0xE01EF ? BPEI_MARK : BPEI_OTHER;
}

// The end of the run of characters of class `mask` that begins at p[at].
static inline size_t bpei_run(const bpe *t, const unsigned char *p, size_t n, size_t at, int mask) {
    size_t end;
    while (at < n && bpei_class(t, p, n, at, &end) & mask) at = end;
    return at;
}

// 's 't 're 've 'm 'll 'd: where it ends, or `at`. With fold capitals count too, and, as in any case-insensitive
// regular expression on Unicode, the long s (U+017F), which is a lower-case s.
static size_t bpei_contraction(const unsigned char *p, size_t n, size_t at, int fold) {
    if (n - at < 2 || p[at] != '\'') return at;
    int a = p[at + 1], b = n - at > 2 ? p[at + 2] : 0;
    if (fold && a == 0xC5 && b == 0xBF) return at + 3;
    if (fold && a >= 'A' && a <= 'Z') a += 32;
    if (fold && b >= 'A' && b <= 'Z') b += 32;
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return at + 2;
    return (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l') ? at + 3 : at;
}

// A run of white space that begins at p[at]. All three patterns leave its last character to the word behind it, where
// there is one: "a   b" is "a", "  ", " b". The newer two end a piece after the last line end in the run; and
// cl100k takes the whole run at the end of the text before it looks for line ends, o200k after.
static size_t bpei_space(const bpe *t, const unsigned char *p, size_t n, size_t at, int split) {
    size_t end = at, last = at, line = at, next;
    while (end < n) {
        int c = bpei_class(t, p, n, end, &next);
        if (!(c & BPEI_SPACE)) break;
        last = end, end = next;
        if (c & BPEI_LINE) line = end;
    }
    if (split == BPE_SPLIT_O200K && line > at) return line;
    if (end == n) return end;
    if (split == BPE_SPLIT_CL100K && line > at) return line;
    return last > at ? last : end;
}

// 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
// (github.com/openai/gpt-2, src/encoder.py)
static size_t bpei_split_gpt2(const bpe *t, const unsigned char *p, size_t n, size_t at) {
    size_t end = bpei_contraction(p, n, at, 0), start = at;
    if (end > at) return end;
    int c = bpei_class(t, p, n, at, &end);
    if (p[at] == ' ' && end < n) start = end, c = bpei_class(t, p, n, start, &end);
    if (c & BPEI_L) return bpei_run(t, p, n, end, BPEI_L);
    if (c & BPEI_NUMBER) return bpei_run(t, p, n, end, BPEI_NUMBER);
    if (c & BPEI_SYMBOL) return bpei_run(t, p, n, end, BPEI_SYMBOL);
    return bpei_space(t, p, n, at, BPE_SPLIT_GPT2);
}

// Up to three digits, or a run of symbols with one space before it and, after it, line ends (o200k: and slashes):
// what the newer two patterns have in common. Returns `at` if neither is there.
static size_t bpei_digits_or_symbols(const bpe *t, const unsigned char *p, size_t n, size_t at, int slash) {
    size_t end, next;
    int c = bpei_class(t, p, n, at, &end);
    if (c & BPEI_NUMBER) {
        for (int i = 1; i < 3 && end < n && bpei_class(t, p, n, end, &next) & BPEI_NUMBER; i++) end = next;
        return end;
    }
    if (p[at] == ' ' && end < n) c = bpei_class(t, p, n, end, &end);
    if (!(c & BPEI_SYMBOL)) return at;
    end = bpei_run(t, p, n, end, BPEI_SYMBOL);
    while (end < n && (p[end] == '\r' || p[end] == '\n' || (slash && p[end] == '/'))) end++;
    return end;
}

// '(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s
// (PyPI's tiktoken 0.14, tiktoken_ext/openai_public.py)
static size_t bpei_split_cl100k(const bpe *t, const unsigned char *p, size_t n, size_t at) {
    size_t end = bpei_contraction(p, n, at, 1), next;
    if (end > at) return end;
    int c = bpei_class(t, p, n, at, &end);
    if (c & BPEI_L) return bpei_run(t, p, n, end, BPEI_L);
    if (!(c & (BPEI_NUMBER | BPEI_LINE)) && end < n && bpei_class(t, p, n, end, &next) & BPEI_L)
        return bpei_run(t, p, n, next, BPEI_L);
    end = bpei_digits_or_symbols(t, p, n, at, 0);
    return end > at ? end : bpei_space(t, p, n, at, BPE_SPLIT_CL100K);
}

// o200k's words, its first two alternatives. With U = [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}] and W =
// [\p{Ll}\p{Lm}\p{Lo}\p{M}]:
//     [^\r\n\p{L}\p{N}]?U*W+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?U+W*(?i:'s|'t|'re|'ve|'m|'ll|'d)?
// A regular expression engine would try U* at full length and give characters back. What it ends with can be said
// outright: if W follows the longest run of U, the word is both runs; else W+ is the last character of the run that is
// in both U and W, and the word ends there; else the first alternative fails and the second one takes the run. A mark
// may be the prefix or a part of the word: alone, it is a word of its own.
static size_t bpei_word_o200k(const bpe *t, const unsigned char *p, size_t n, size_t at) {
    const int both = BPEI_LETTER | BPEI_MARK, U = BPEI_UPPER | both, W = BPEI_LOWER | both;
    size_t start = at, end, last = 0, next, stop;
    int c = bpei_class(t, p, n, at, &next), follow = 0;
    if (c & (BPEI_NUMBER | BPEI_LINE)) return at;
    if (!(c & BPEI_L)) start = next;
    for (end = start; end < n && (follow = bpei_class(t, p, n, end, &next)) & U; end = next)
        if (follow & both) last = next;
    if (end < n && follow & W) stop = bpei_run(t, p, n, end, W);
    else if (last) stop = last;
    else if (c & BPEI_MARK) stop = start;
    else if (end > start) stop = end;
    else return at;
    return bpei_contraction(p, n, stop, 1);
}

// The words above|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+ (the same file of tiktoken's)
static size_t bpei_split_o200k(const bpe *t, const unsigned char *p, size_t n, size_t at) {
    size_t end = bpei_word_o200k(t, p, n, at);
    if (end == at) end = bpei_digits_or_symbols(t, p, n, at, 1);
    return end > at ? end : bpei_space(t, p, n, at, BPE_SPLIT_O200K);
}

// By the pattern alone.
static size_t bpei_split_fully(const bpe *t, int split, const unsigned char *p, size_t n, size_t at) {
    if (split == BPE_SPLIT_GPT2) return bpei_split_gpt2(t, p, n, at);
    if (split == BPE_SPLIT_CL100K) return bpei_split_cl100k(t, p, n, at);
    return bpei_split_o200k(t, p, n, at);
}

// The end of the piece that begins at p[at], at < n: always beyond `at`. Every scanner looks at a character a few times
// at most, however long the text is. Most pieces are plain English words, which bpei_plain_word finds by a short cut.
static size_t bpei_split(const bpe *t, int split, const unsigned char *p, size_t n, size_t at) {
    if (split == BPE_SPLIT_NONE) return n;
    size_t end = bpei_plain_word(t, split, p, n, at);
    if (end) return end;
    return bpei_split_fully(t, split, p, n, at);
}

size_t (bpe_next_piece)(const bpe *t, const void *text, size_t len, size_t at) {
    if (!t || !text || at >= len) return len;
    return bpei_split(t, t->v.split, (const unsigned char *)text, len, at);
}

// ---- 4. Encoding a piece --------------------------------------------------------------------------------------------

static inline void bpei_push(bpei_ids *out, int id) {
    if (out->n < out->cap) out->ids[out->n] = id;
    out->n++;
}

// What joining the n bytes at p gives: the rank of the token that they are, or BPEI_NEVER.
static inline uint32_t bpei_rank(const bpei_vocab *v, const unsigned char *p, size_t n, int *made) {
    int id = n == 2 ? v->two[p[0] << 8 | p[1]] : bpei_find(v, p, n);
    *made = id;
    return id < 0 ? BPEI_NEVER : v->token[id].rank;
}

// A piece of n <= BPEI_SHORT bytes. Part i begins at byte at[i]; made[i] is the token that it would form with part i +
// 1, and rank[i] that token's rank. Looking tokens up by their bytes, not by the pair that once made them, is
// tiktoken's rule. It is the same: training makes a text s into one token everywhere it stands between two boundaries,
// because what happens inside does not depend on the neighbours, so from then on no other pair with the text s can
// exist.
static void bpei_merge_short(const bpei_vocab *v, const unsigned char *p, int n, bpei_ids *out) {
    int at[BPEI_SHORT + 2], id[BPEI_SHORT], made[BPEI_SHORT];
    uint32_t rank[BPEI_SHORT];
    for (int i = 0; i < n; i++) {
        at[i] = i, id[i] = v->one[p[i]];
        if (i + 1 < n) rank[i] = bpei_rank(v, p + i, 2, &made[i]);
    }
    at[n] = at[n + 1] = n;
    for (;;) {
        int best = 0;
        uint32_t low = BPEI_NEVER;
        for (int i = 0; i < n - 1; i++)
            if (rank[i] < low) low = rank[i], best = i;
        if (low == BPEI_NEVER) break;
        id[best] = made[best];
        n--;
        for (int i = best + 1; i < n; i++)
            at[i] = at[i + 1], id[i] = id[i + 1], rank[i] = rank[i + 1], made[i] = made[i + 1];
        at[n] = at[n + 1];
        if (best < n - 1) rank[best] = bpei_rank(v, p + at[best], (size_t)(at[best + 2] - at[best]), &made[best]);
        if (best > 0)
            rank[best - 1] = bpei_rank(v, p + at[best - 1], (size_t)(at[best + 1] - at[best - 1]), &made[best - 1]);
    }
    for (int i = 0; i < n; i++) bpei_push(out, id[i]);
}

// A piece that is a token is that token: no need to join it together. Most pieces of ordinary text are.
static int bpei_encode_piece(const bpei_vocab *v, const unsigned char *p, size_t n, bpei_ids *out) {
    int id = bpei_find(v, p, n);
    if (id >= 0) return bpei_push(out, id), BPE_OK;
    if (n > BPEI_SHORT) return bpei_merge_long(v, p, n, 0, out);
    return bpei_merge_short(v, p, (int)n, out), BPE_OK;
}

// ---- 5. Whole texts -------------------------------------------------------------------------------------------------

// The first stray byte of p, or n.
static size_t bpei_valid(const unsigned char *p, size_t n) {
    size_t i = 0;
    uint64_t word;
    uint32_t code;
    while (i < n) {
        if (p[i] < 128) {
            for (i++; i + 8 <= n; i += 8) {
                memcpy(&word, p + i, 8);
                if (word & UINT64_C(0x8080808080808080)) break;
            }
            while (i < n && p[i] < 128) i++;
        } else {
            int size = bpei_utf8(p + i, n - i, &code);
            if (!size) return i;
            i += (size_t)size;
        }
    }
    return n;
}

static int bpei_is_blank(const bpei_vocab *v, int id) {
    const char *p = v->text + v->token[id].at;
    for (uint32_t i = 0; i < v->token[id].size; i++)
        if (p[i] != ' ' && p[i] != '\n' && p[i] != '\t') return 0;
    return 1;
}

// Ids as tiktoken's _encode_bytes gives them when p[good] is the first stray byte: the last piece before it, with the
// blank tokens that lead up to it if it begins with one, and all the rest are merged as one piece.
static int bpei_encode_tail(const bpe *t, const unsigned char *p, size_t n, size_t good, bpei_ids *out) {
    const bpei_vocab *v = &t->v;
    bpei_ids head = {NULL, good, 0};
    size_t from = 0, bytes = 0;
    int status = BPE_OK;
    head.ids = (int *)BPE_MALLOC((good + 1) * sizeof(int));
    if (!head.ids) return BPE_ENOMEM;
    for (size_t i = 0, end; i < good && !status; i = end) {
        end = bpei_split(t, v->split, p, good, i);
        from = head.n;
        status = bpei_encode_piece(v, p + i, end - i, &head);
    }
    if (from < head.n && !status && bpei_is_blank(v, head.ids[from]))
        while (from > 0 && bpei_is_blank(v, head.ids[from - 1])) from--;
    for (size_t i = 0; i < from && !status; i++) {
        bytes += v->token[head.ids[i]].size;
        bpei_push(out, head.ids[i]);
    }
    BPE_FREE(head.ids);
    return status ? status : bpei_encode_piece(v, p + bytes, n - bytes, out);
}

// llama2.c (run.c, encode): one space before the text, no splitting, characters joined by score.
static int bpei_encode_llama(const bpei_vocab *v, const unsigned char *p, size_t n, int fresh, bpei_ids *out) {
    if (!n) return BPE_OK;
    if (!fresh) return bpei_merge_long(v, p, n, 0, out);
    unsigned char *copy = (unsigned char *)BPE_MALLOC(n + 1);
    if (!copy) return BPE_ENOMEM;
    copy[0] = ' ';
    memcpy(copy + 1, p, n);
    int status = bpei_merge_long(v, copy, n + 1, 1, out);
    BPE_FREE(copy);
    return status;
}

// Words and characters: what is not in the vocabulary becomes its bytes, if there are byte tokens; else an unknown word
// is token 0, <unk>, and an unknown character is an error, since nothing sensible can stand for it.
static int bpei_encode_units(const bpe *t, const unsigned char *p, size_t n, bpei_ids *out) {
    const bpei_vocab *v = &t->v;
    for (size_t i = 0, end; i < n; i = end) {
        if (v->kind == BPEI_WORDS) end = bpei_split(t, v->split, p, n, i);
        else bpei_class(t, p, n, i, &end);
        int id = bpei_find(v, p + i, end - i);
        if (id >= 0) bpei_push(out, id);
        else if (v->byte[0] >= 0)
            for (; i < end; i++) bpei_push(out, v->byte[p[i]]);
        else if (v->kind == BPEI_WORDS) bpei_push(out, 0);
        else return BPE_EUNKNOWN;
    }
    return BPE_OK;
}

// Text without special tokens. `fresh`: it stands at the start of a sequence.
static int bpei_encode_text(const bpe *t, const unsigned char *p, size_t n, int fresh, bpei_ids *out) {
    const bpei_vocab *v = &t->v;
    if (v->kind == BPEI_LLAMA) return bpei_encode_llama(v, p, n, fresh, out);
    if (v->kind == BPEI_CHARS || v->kind == BPEI_WORDS) return bpei_encode_units(t, p, n, out);
    if (v->kind == BPEI_BYTES) {
        for (size_t i = 0; i < n; i++) bpei_push(out, v->one[p[i]]);
        return BPE_OK;
    }
    if (v->stray == BPE_STRAY_TAIL) {
        size_t good = bpei_valid(p, n);
        if (good < n) return bpei_encode_tail(t, p, n, good, out);
    }
    if (n >= BPEI_MEMORY) return bpei_encode_pieces(t, p, n, out);
    int status = BPE_OK;
    for (size_t i = 0, end; i < n && !status; i = end) {
        end = bpei_split(t, v->split, p, n, i);
        status = bpei_encode_piece(v, p + i, end - i, out);
    }
    return status;
}

// Checks that all encoders share. Half of 2 GiB is the most that a long of 32 bits can count in bytes out of ids.
static int bpei_encode_check(const bpe *t, const void *text, size_t len, const int *ids, size_t cap) {
    return !t || t->v.kind == BPEI_EMPTY || (!text && len) || (!ids && cap) || len >= INT32_MAX - 1 ? BPE_EARG : BPE_OK;
}

long (bpe_encode)(const bpe *t, const void *text, size_t len, int *ids, size_t cap) {
    bpei_ids out = {ids, cap, 0};
    int status = bpei_encode_check(t, text, len, ids, cap);
    if (!status) status = bpei_encode_text(t, (const unsigned char *)text, len, 1, &out);
    return status ? status : (long)out.n;
}

// 1 if `allowed` names the special token `id`.
static int bpei_allowed(const bpei_vocab *v, const char *const *allowed, int id) {
    if (!allowed || !allowed[0]) return 0;
    if (!strcmp(allowed[0], "all")) return 1;
    for (int i = 0; allowed[i]; i++)
        if (!strcmp(allowed[i], v->text + v->token[id].at)) return 1;
    return 0;
}

// The longest special token at p that is allowed (or, with want 0, is not); -1 if there is none.
static int bpei_special_at(const bpei_vocab *v, const unsigned char *p, size_t n, const char *const *allowed,
                           int want) {
    if (!v->first[p[0]]) return -1;
    for (int i = 0; i < v->n_special; i++) {
        const bpei_token *token = &v->token[v->special[i]];
        if (token->size <= n && !memcmp(p, v->text + token->at, token->size)
            && bpei_allowed(v, allowed, v->special[i]) == want) return v->special[i];
    }
    return -1;
}

// A special token cuts the text, and each part is encoded as a text of its own.
long (bpe_encode_special)(const bpe *t, const void *text, size_t len, const char *const *allowed, int rule,
                          int *ids, size_t cap) {
    bpei_ids out = {ids, cap, 0};
    const unsigned char *p = (const unsigned char *)text;
    int status = bpei_encode_check(t, text, len, ids, cap), fresh = 1;
    if (status) return status;
    const bpei_vocab *v = &t->v;
    if (!p) p = (const unsigned char *)"";
    if (rule == BPE_REFUSE)
        for (size_t i = 0; i < len; i++)
            if (bpei_special_at(v, p + i, len - i, allowed, 0) >= 0) return BPE_ESPECIAL;
    for (size_t i = 0, start = 0; i <= len && !status; i++) {
        int id = i < len ? bpei_special_at(v, p + i, len - i, allowed, 1) : -1;
        if (id < 0 && i < len) continue;
        status = bpei_encode_text(t, p + start, i - start, fresh, &out);
        if (id < 0) break;
        bpei_push(&out, id);
        fresh = v->kind == BPEI_LLAMA && id == 1;
        i += v->token[id].size - 1, start = i + 1;
    }
    return status ? status : (long)out.n;
}

static const bpei_token *bpei_used(const bpe *t, int id) {
    return t && id >= 0 && id < t->v.n && t->v.token[id].size ? &t->v.token[id] : NULL;
}

static void bpei_write(bpei_out *o, const char *p, size_t n) {
    if (o->n < o->cap) memcpy(o->out + o->n, p, n < o->cap - o->n ? n : o->cap - o->n);
    o->n += n;
}

static long bpei_written(const bpei_out *o) {
    if (o->n < o->cap) o->out[o->n] = 0;
    return o->n > INT32_MAX ? (long)BPE_EARG : (long)o->n;
}

long (bpe_decode)(const bpe *t, const int *ids, size_t n, char *out, size_t cap) {
    bpei_out o = {out, cap, 0, 0};
    int fresh = 1;
    if (!t || (!ids && n) || (!out && cap)) return BPE_EARG;
    for (size_t i = 0; i < n; i++) {
        const bpei_token *token = bpei_used(t, ids[i]);
        if (!token) return BPE_EARG;
        const char *p = t->v.text + token->at;
        int drop = t->v.kind == BPEI_LLAMA && fresh && token->type != BPEI_SPECIAL && p[0] == ' ';
        bpei_write(&o, p + drop, token->size - (size_t)drop);
        fresh = token->type == BPEI_SPECIAL && ids[i] == 1;
    }
    return bpei_written(&o);
}

// Each colour is a pale background under black text (ECMA-48's SGR with xterm's 256 colours). After a line end the line
// really ends, outside of the colour, so that a long text keeps its form.
long (bpe_colour)(const bpe *t, const int *ids, size_t n, char *out, size_t cap) {
    static const unsigned char colour[5] = {189, 194, 223, 217, 159};
    bpei_out o = {out, cap, 0, 0};
    char text[32];
    if (!t || (!ids && n) || (!out && cap)) return BPE_EARG;
    for (size_t i = 0; i < n; i++) {
        const bpei_token *token = bpei_used(t, ids[i]);
        if (!token) return BPE_EARG;
        const unsigned char *p = (const unsigned char *)t->v.text + token->at;
        size_t size = token->size, lines = 0, end;
        bpei_write(&o, text, (size_t)snprintf(text, sizeof text, "\033[30;48;5;%dm", colour[i % 5]));
        for (size_t k = 0; k < size; k = end) {
            uint32_t code;
            int valid = bpei_utf8(p + k, size - k, &code);
            end = k + (size_t)(valid ? valid : 1);
            if (p[k] == '\n') bpei_write(&o, "\\n", 2), lines++;
            else if (p[k] == '\\') bpei_write(&o, "\\\\", 2);
            else if (valid && code >= 0xA0 && !(code >= 0x202A && code <= 0x202E)
                     && !(code >= 0x2066 && code <= 0x2069))
                bpei_write(&o, (const char *)p + k, (size_t)valid);
            else if (p[k] >= 32 && p[k] < 127) bpei_write(&o, (const char *)p + k, 1);
            else for (; k < end; k++) bpei_write(&o, text, (size_t)snprintf(text, sizeof text, "\\x%02x", p[k]));
        }
        bpei_write(&o, "\033[0m", 4);
        while (lines--) bpei_write(&o, "\n", 1);
    }
    return bpei_written(&o);
}

// ---- 6. Vocabularies of bytes, characters and words -----------------------------------------------------------------

int (bpe_bytes)(bpe *t) {
    bpei_vocab v;
    if (!t) return BPE_EARG;
    bpei_vocab_init(&v, BPEI_BYTES, BPE_SPLIT_NONE);
    return bpei_take(t, &v, bpei_put_bytes(t, &v, 0, BPEI_TEXT));
}

// Sorted like Python's sorted(set(text)), so Tiny Shakespeare gets nanoGPT's 65 ids. Stray bytes in the text come last.
int (bpe_chars)(bpe *t, const void *text, size_t len) {
    const unsigned char *p = (const unsigned char *)text;
    int status = bpei_train_check(t, text, len, 256, BPE_SPLIT_NONE);
    bpei_vocab v;
    if (status) return status;
    bpei_vocab_init(&v, BPEI_CHARS, BPE_SPLIT_NONE);
    size_t room = 0x110000 + 256;
    unsigned char *seen = (unsigned char *)BPE_MALLOC(room);
    if (!seen)
        return bpei_fail(t, BPE_ENOMEM, "out of memory for a table of all characters (%.0f bytes); free some first",
                         (double)room);
    memset(seen, 0, room);
    for (size_t i = 0; i < len;) {
        uint32_t code;
        int size = bpei_utf8(p + i, len - i, &code);
        seen[size ? code : 0x110000u + p[i]] = 1;
        i += (size_t)(size ? size : 1);
    }
    for (uint32_t code = 0; code < room && !status; code++) {
        if (!seen[code]) continue;
        char c[4];
        size_t size = 1;
        if (code < 0x80) c[0] = (char)code;
        else if (code >= 0x110000) c[0] = (char)(code - 0x110000);
        else {
            size = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
            for (size_t k = size - 1; k > 0; k--) c[k] = (char)(0x80 | (code >> (6 * (size - 1 - k)) & 63));
            c[0] = (char)((0xF00u >> size & 0xF0) | code >> (6 * (size - 1)));
        }
        char *to = bpei_put(t, &v, (uint32_t)v.n, size, 0, BPEI_TEXT);
        if (to) memcpy(to, c, size);
        else status = v.status;
    }
    BPE_FREE(seen);
    return bpei_take(t, &v, status);
}

typedef struct { const unsigned char *at; uint32_t size, count; } bpei_chunk;   // a piece and how often it occurs
static int bpei_count_pieces(bpe *t, const unsigned char *p, size_t n, int split, bpei_chunk **chunk, size_t *chunks);

// Frequent first; equally frequent ones in the order of their bytes.
static int bpei_by_count(const void *a, const void *b) {
    const bpei_chunk *x = (const bpei_chunk *)a, *y = (const bpei_chunk *)b;
    if (x->count != y->count) return x->count > y->count ? -1 : 1;
    int order = memcmp(x->at, y->at, x->size < y->size ? x->size : y->size);
    return order ? order : x->size < y->size ? -1 : x->size > y->size;
}

int (bpe_words)(bpe *t, const void *text, size_t len, int max_vocab) {
    int status = bpei_train_check(t, text, len, 256, BPE_SPLIT_GPT2);
    if (!status && max_vocab < 1)
        status = bpei_fail(t, BPE_EARG, "max_vocab is %d; pass 1 for <unk>, and 1 more for each word", max_vocab);
    if (status) return status;
    bpei_chunk *chunk = NULL;
    size_t chunks = 0;
    bpei_vocab v;
    bpei_vocab_init(&v, BPEI_WORDS, BPE_SPLIT_GPT2);
    status = bpei_count_pieces(t, (const unsigned char *)text, len, BPE_SPLIT_GPT2, &chunk, &chunks);
    if (!status && chunks) qsort(chunk, chunks, sizeof *chunk, bpei_by_count);
    if (!status) status = bpei_put_special(t, &v, "<unk>", 5, 0);
    for (size_t i = 0; i < chunks && !status && v.n < max_vocab; i++) {
        char *to = bpei_put(t, &v, (uint32_t)v.n, chunk[i].size, 0, BPEI_TEXT);
        if (to) memcpy(to, chunk[i].at, chunk[i].size);
        else status = v.status;
    }
    BPE_FREE(chunk);
    return bpei_take(t, &v, status);
}

// Byte tokens are not ordinary ones: bpei_find does not find them, so a known character never turns into one.
int (bpe_fallback)(bpe *t) {
    if (!t) return BPE_EARG;
    if (t->v.kind == BPEI_EMPTY) return bpei_fail(t, BPE_EARG, "no vocabulary yet; call bpe_chars or bpe_words first");
    if (t->v.kind != BPEI_CHARS && t->v.kind != BPEI_WORDS) return BPE_OK;
    if (t->v.byte[0] >= 0) return BPE_OK;
    int n = t->v.n, used = t->v.used;
    int status = bpei_put_bytes(t, &t->v, n, BPEI_BYTE);
    if (status) t->v.n = n, t->v.used = used;
    else for (int c = 0; c < 256; c++) t->v.byte[c] = n + c;
    return status;
}

// =====================================================================================================================
// You can stop reading here. Below is the engine room: errors and tables, the heap, fast training, files.
// =====================================================================================================================

// ---- 7. Errors and memory -------------------------------------------------------------------------------------------

bpe *bpei_here(bpe *t, const char *call, const char *file, int line) {
    if (t) t->call = call, t->file = file, t->line = line;
    return t;
}

static int bpei_fail(bpe *t, int status, const char *format, ...) {
    if (!t->error[0]) {
        size_t n = 0, room = sizeof t->error;
        if (t->call) n = (size_t)snprintf(t->error, room, "%.150s:%d: %s: ", t->file, t->line, t->call);
        if (n < room && t->source) n += (size_t)snprintf(t->error + n, room - n, "%.150s: ", t->source);
        va_list args;
        va_start(args, format);
        if (n < room) vsnprintf(t->error + n, room - n, format, args);
        va_end(args);
        // A message may quote a file, and a file may hold commands for the terminal (C1 controls are U+0080 to U+009F).
        for (unsigned char *c = (unsigned char *)t->error; *c; c++)
            if (*c < 32 || *c == 127 || (*c == 0xC2 && c[1] >= 0x80 && c[1] < 0xA0)) *c = '?';
    }
#ifdef BPE_DIE_ON_ERROR
    fprintf(stderr, "%s\n", t->error);
    exit(1);
#endif
    return status;
}

#ifdef BPE_DIE_ON_ERROR
long bpei_must(long status, const char *call, const char *file, int line) {
    if (status >= 0) return status;
    fprintf(stderr, "%s:%d: %s: %s\n", file, line, call, (bpe_status)(status));
    exit(1);
    return status;      // for compilers that do not know exit
}
#endif

const char *(bpe_status)(long status) {
    switch (status) {
    case BPE_ENOMEM: return "out of memory";
    case BPE_EFILE: return "a file cannot be opened, read or written; bpe_error says which";
    case BPE_EFORMAT: return "a file is not what it should be; bpe_error says where";
    case BPE_EARG:
        return "a wrong argument: NULL, an id that the vocabulary lacks, an empty tokenizer, or 2 GiB and more";
    case BPE_EUNKNOWN: return "a character that is not in the vocabulary; call bpe_fallback to write it in bytes";
    case BPE_ESPECIAL: return "the text contains a special token; allow it, or pass BPE_AS_TEXT";
    default: return status < 0 ? "an unknown status" : "no error";
    }
}

const char *(bpe_error)(const bpe *t) { return !t ? "bpe_new: out of memory" : t->error[0] ? t->error : NULL; }
void (bpe_clear_error)(bpe *t) { if (t) t->error[0] = 0; }
int (bpe_vocab_size)(const bpe *t) { return t ? t->v.n : 0; }

const char *(bpe_token)(const bpe *t, int id, size_t *len) {
    const bpei_token *token = bpei_used(t, id);
    if (len) *len = token ? token->size : 0;
    return token ? t->v.text + token->at : NULL;
}

int (bpe_find)(const bpe *t, const void *text, size_t len) {
    return t && text && len && t->v.kind != BPEI_EMPTY ? bpei_find(&t->v, (const unsigned char *)text, len) : -1;
}

static int bpei_special_id(const bpei_vocab *v, const char *text) {
    for (int i = 0; i < v->n_special; i++)
        if (!strcmp(v->text + v->token[v->special[i]].at, text)) return v->special[i];
    return -1;
}

int (bpe_special)(const bpe *t, const char *text) { return t && text ? bpei_special_id(&t->v, text) : -1; }

int (bpe_set_split)(bpe *t, int split) {
    if (!t) return BPE_EARG;
    if (split < BPE_SPLIT_NONE || split > BPE_SPLIT_O200K)
        return bpei_fail(t, BPE_EARG, "split is %d; use BPE_SPLIT_NONE, _GPT2, _CL100K or _O200K", split);
    return t->v.split = split, BPE_OK;
}

int (bpe_set_stray)(bpe *t, int rule) {
    if (!t) return BPE_EARG;
    if (rule != BPE_STRAY_SYMBOL && rule != BPE_STRAY_TAIL)
        return bpei_fail(t, BPE_EARG, "rule is %d; use BPE_STRAY_SYMBOL or BPE_STRAY_TAIL", rule);
    return t->v.stray = rule, BPE_OK;
}

// ---- 8. Unicode -----------------------------------------------------------------------------------------------------

// The size of the character at p, or 0 if p holds none. By RFC 3629: no overlong form, no surrogate, at most 10FFFF.
static int bpei_utf8(const unsigned char *p, size_t n, uint32_t *code) {
    uint32_t c = p[0];
    if (c < 0x80) return *code = c, 1;
    int size = c >= 0xC2 && c < 0xE0 ? 2 : c >= 0xE0 && c < 0xF0 ? 3 : c >= 0xF0 && c < 0xF5 ? 4 : 0;
    if (!size || n < (size_t)size) return 0;
    c &= 0x7Fu >> size;
    for (int i = 1; i < size; i++) {
        if ((p[i] & 0xC0) != 0x80) return 0;
        c = c << 6 | (p[i] & 0x3F);
    }
    if ((size == 3 && (c < 0x800 || (c >= 0xD800 && c < 0xE000))) || (size == 4 && (c < 0x10000 || c > 0x10FFFF)))
        return 0;
    return *code = c, size;
}

// Runs of characters of one class, written and explained by tests/make_bpe_tables.py.
// Unicode table begins
static const char bpei_unicode[] =
    "+2-*.-'C)f2(Z2,.-2.+E):#P%9E#;#f/#bZ0#W|Q$P|(P|G[wQ[u]P^Q_P]P^R]P[w[uP[P]P]u]QE[RH]P]P[|*P|*P[u]|U$U]P]Q[P^{Z^$E"
    "Z3O*&O$-&I)E#E-)q^%uE#[P$ER#[([#^#[#]Pf)#dZ;[Q^R|0S[P#[P]QfLZI|:#m|O[|&P|z$#f>$E(ZB*qF#g#h#h#g*O3&H-5q#'ODq-C&Fg"
    "OP%#Em$lFh#jFCG$E-(EgO6q3$Os$q#E-&CO9oF&E$g$O.jEoEiEk-*O1i&O#'O0#J*oOCq0#q9OOiEq*EmNh$C#O(i#L$F$O.#K#E%H$gEm$h$i"
    "E*g&F#Gh$CF$>$E#g$i#J&F$O.#K#F#F#F$g#k&h$i%g)H#E)ChGg-#i#M#G#O.#K#F#I$gEn#i#i$E-'Fh$C+El#i#L$F$O.#K#F#I$gEm$h$i)"
    "i&F#Gh$C#E>,gE#J%G#H%F#E#F%F%G%O$&k%i#j$E(g-&D%-%kL#G#O/#O($gEm#i#j)h#G$E$Fh$C*@#Ei#L#G#O/#N#I$gEm#i#j)h(F#Fh$C#"
    "Fg-$jM#G#OBhEm#i#jE'Gg@Gh$D+#J#i#O*%O0#M#E$K%g&l#g#n(C$h-%OIgFm'Kn#C-@F#E#I#O0#E#NgFoE$I#E#m#C$H-8E-/h(D,#g#g#g&"
    "hL#O<&q,#hIq##q<+g-R$ODq,EC(JjHiEiFmGjO%q$EgCj$f>#['[$ZD#EROZ*#H$K#E#H$OB#H$O9#H$K#E#H$O'#OR$#H$O]$$i+D,%O(-(fp$"
    "$U%Ov0$O).O2'Oe$%;L)O*j+O+i-#O*h-$O%#G#h-$OMq8%E&Eg$C(C-)i#gC(Os$)IhO:gE'O`$,O7#q$&q$,CO6$I-#OE&O2(D#-=O/k&ONp#q"
    "5$gC(C-%E*q7-JkOHq)L%C-)o-$iO6q%FCOEq&-$O<q,*C%GCO<$X[P'fD$^-(i#q-HgJgFiE'ZEOX$Z%EZ:O=qY$|W&W||$WcU$a$WcWcU$a$W#"
    "[#[#[#[WcZ&$WcWcWcT#Q`#P%R#Q`%S$Q_&W`'R#Q`%8#-5/'.-H.-(9E$>'EC(O%-Lq9-)[&[$P^Q^P#[%`([#[#[#_#P_PHP$Q]'[S&P#DL[P="
    "-[3DU$-h$D.-S1D6-f<fIZI[P^Qw^uP[UF]|Q%P(ui[P+9$Z>#P'P$OQ$)E-'gO/+K#K#K#K#K#K#K#K#q8-HE-^-.&F9-1Bl#I$;F&Op$$h$G#O"
    "t$#H'OD#Ox$%<,O8-IO(-8C-6A#D'-8C-@D'-Q*Ojb&-Y$O_d.-]$OG$Ow(%O(CF-,|GEj#p#E|4FhO`$Ch-=M$|&Q|W$EWu[{E$uEuQ|,`P_|(^"
    "u]P$[P#P#Pw[--G[PGPKgGgHgO/k&g%>,OM-$hOKq*,C(q*J%E#FgCO4n$O/q%-$O5%jOHq&-&EC(IgNCI#OBq&+GgLh$C(O/%EiOKgEiFhIhEgE"
    "-0G$O#k$Gh,J$J$J+K#K#ZD#HXE(Zj$O;n#h$C(Onr(-$O/&OJ-v`'OS+$OW%->V-$T'EgN#O%#I#E#F#F#OY%-9OP+-*OY$$OO-AO$&q(-(q(-Y"
    "$I#Ou%-+C)f2(Z2-#Os$%J$J$J$G-;O$#O2#O+#F#O'$O&-:Oi%-$DF-$DR$-):-_%g-p%O5%OJ-'gD3&O8<+O,9L9'O>k'O6$O<&L#=-CfAZAOh"
    "$$C(f<&Z<&OA*OM-$f##f'#b#]#Z##Z'#V#Q%OM-$Ou)+O.,L-0J#OC#M-_$J$E#OE#F%E$O/$AO/$@O7*B-IO+#F'=O.>&O2-`$OQ$&:FD($DGE"
    "i#h'jH#G#O5$i&gB-/O5:#O5;-8L#O4h&=-(OO,O.$AO+'AO*-/@-j$Oc$-P$fL-%ZL)>O<j*C(CJf.%k#EZ.-p'D7#OC#h%F-(G-P$jO5CE*O.q"
    "#<-3O*j-CO-@-,O/+iONq'-#D6gFhE+jOFq#)g-%O1)C(iO<q&#C&EhE*O;g$E+iOIq&H&j#hCE#E&D,-#O*#O1q$(gFg-W$K#E#H#O'#N)OHq$'"
    "C(j#L$F$O.#K#F#I#hEm$h$i$E(g'Ih$m%k-#N#E$E#O>#Eo#g$g#j#kEgE-%h-5ONq*H'C&gG-6OIq,F#E*C-h&OHm$o-/Hh-:OIq)%E-#C->OD"
    "q%E)C(D,-4O3$q'&D$&K-{&OEq'-R%f8Z8D+-$L$E$L#F#O0l#h$jEgEh-$C-`$L$O@m$mE#Eg-3EpOAmEj*g*Eq#OGq(%E-*Oc$-]'O9-'C(M#O"
    "=n#nE-'D5'O6$q.#q&-c$K#F#O>l%g#h#mEg*C(J#F#O8k#h#kE)C-t)O+j+hEgO%#O:m%k-%Cg-o$E-'D--DOp7-S%D]%-)OY'-n`$O{$-'OU;-"
    "(gJq',OiR%'OP0-Zh&O6q*C-WKOo/)O7#C(Oi$#C(O6$k-#OIm+H-$C#@#O-'O+-j,OF%C-['f8Z8D/-V%Oe$&gEqP$)jO%-Y$F#Eg-#h-&OYW&*"
    "Ox>-BN-uk'H#K#F#Oa)-'E-5G$E-&H*Or+-YX$OX%'O%%M)N%h-oV%C-h.qG$q/-S/k%l*n$m-6j-U&i-i%D,-$D,-Y%D1-u%f2Z2f2V#Z*f2Z2["
    "#]$[$]$_#cS#P#V#Z#f2Z2]#_$c#b#Z2]#_#`#[%b#Z2f2Z2f2Z2f2Z2f2Z2f2Z2f2Z4$f1#Z1#Uf1#Z1#Uf1#Z1#Uf1#Z1#Uf1#Z1#U[P$DK-b."
    "qP$&qK*g-&g-.k#q'-v;YEZ,(U-k'm#q)$m#h#k'OW$-9g-^%OF%mK$C&E-R*O6g-)OEjC-d-O4jC-l'O6hEC-s-K#H#F#O'#OZ'$Bm-Bf:Z:mE&"
    "C-q4DT$#;#<-f$DF#D'-W'H#O3#F#E$E#N#H#E#E(E&E#E#E#G#F#E$E#E#E#E#E#F#E$H#K#H#H#E#N#O)'G#I#O)-z/D%-Td$C-W:OnR9-8OWV"
    "%(Ot'$Op{%-&Okv&-'Ox0-t[$OS/-|EOPi%'OQW%-j$";
// Unicode table ends

static void bpei_unpack_classes(unsigned char *classes) {
    static const unsigned char class_of[8] =
        {BPEI_OTHER, BPEI_SPACE, BPEI_NUMBER, BPEI_LETTER, BPEI_LOWER, BPEI_UPPER, BPEI_MARK, 0};
    uint32_t code = 0;
    memset(classes, BPEI_OTHER, BPEI_CLASSES);
    for (const char *p = bpei_unicode; *p;) {
#define BPEI_DIGIT(c) ((uint32_t)((c) - 35 - ((c) > '?') - ((c) > '\\')))
        uint32_t first = BPEI_DIGIT(*p), length = first % 11 + 1, unit = 1;
        p++;
        if (length == 11)
            for (uint32_t more = 1; more; unit *= 44) {
                uint32_t digit = BPEI_DIGIT(*p);
                more = digit >= 44, length += digit % 44 * unit, p++;
            }
#undef BPEI_DIGIT
        for (uint32_t i = 0; i < length && code < BPEI_CLASSES; i++, code++)
            classes[code] = first / 11 == 7 ? class_of[i & 1 ? 4 : 5] : class_of[first / 11];
    }
    classes[10] |= BPEI_LINE, classes[13] |= BPEI_LINE;
}

// ---- 9. Building a vocabulary ---------------------------------------------------------------------------------------

bpe *(bpe_new)(void) {
    bpe *t = (bpe *)BPE_MALLOC(sizeof *t);
    unsigned char *classes = (unsigned char *)BPE_MALLOC(BPEI_CLASSES);
    if (!t || !classes) {
        BPE_FREE(t);
        BPE_FREE(classes);
#ifdef BPE_DIE_ON_ERROR
        fprintf(stderr, "bpe_new: out of memory\n");
        exit(1);
#endif
        return NULL;
    }
    memset(t, 0, sizeof *t);
    t->classes = classes;
    bpei_unpack_classes(classes);
    bpei_vocab_init(&t->v, BPEI_EMPTY, BPE_SPLIT_NONE);
    return t;
}

void (bpe_free)(bpe *t) {
    if (!t) return;
    bpei_vocab_free(&t->v);
    BPE_FREE(t->classes);
    BPE_FREE(t);
}

static void bpei_vocab_init(bpei_vocab *v, int kind, int split) {
    memset(v, 0, sizeof *v);
    v->kind = kind, v->split = split, v->stray = BPE_STRAY_SYMBOL;
    for (int i = 0; i < 256; i++) v->one[i] = v->byte[i] = -1;
}

static void bpei_vocab_free(bpei_vocab *v) {
    BPE_FREE(v->token);
    BPE_FREE(v->text);
    BPE_FREE(v->two);
    BPE_FREE(v->slot);
    BPE_FREE(v->special);
}

// The vocabulary `v` is finished: index it and make it t's own. If that fails, or `status` says that something before
// it has failed, free v and leave t as it was.
static int bpei_take(bpe *t, bpei_vocab *v, int status) {
    if (!status) status = bpei_index(t, v);
    if (status) {
        bpei_vocab_free(v);
        return status;
    }
    bpei_vocab_free(&t->v);
    t->v = *v;
    return BPE_OK;
}

// A place for the `size` bytes of token `id`, followed by a 0; or NULL, with the message and v->status set.
static char *bpei_put(bpe *t, bpei_vocab *v, uint32_t id, size_t size, uint32_t rank, int type) {
    v->status = BPE_OK;
    if (id >= (uint32_t)v->used + BPEI_GAP)
        v->status =
            bpei_fail(t, BPE_EFORMAT, "id %u after %d tokens leaves more than %d ids unused. Is the file damaged?",
                      (unsigned)id, v->used, BPEI_GAP);
    else if (id < (uint32_t)v->n && v->token[id].size)
        v->status = bpei_fail(t, BPE_EFORMAT, "id %u is given twice; every token needs an id of its own", (unsigned)id);
    else if (size == 0 || size > (size_t)(UINT32_MAX - 1) - v->text_size)
        v->status = bpei_fail(t, BPE_EFORMAT,
                              "token %u has %.0f bytes; wanted at least 1, and less than 4 GiB in all tokens. Is the "
                              "file damaged?",
                              (unsigned)id, (double)size);
    if (v->status) return NULL;
    if (id >= (uint32_t)v->room) {
        uint32_t room = id < 10 ? 16 : id + 1 + id / 2;
        bpei_token *token = (bpei_token *)BPE_REALLOC(v->token, room * sizeof *token);
        if (!token)
            return v->status = bpei_fail(t, BPE_ENOMEM, "out of memory for %u tokens; use a smaller vocabulary",
                                         (unsigned)room), (char *)NULL;
        v->token = token, v->room = (int)room;
    }
    size_t need = (size_t)v->text_size + size + 1;
    if (need > v->text_room) {
        size_t room = need + need / 2 < UINT32_MAX ? need + need / 2 : UINT32_MAX;
        char *text = (char *)BPE_REALLOC(v->text, room);
        if (!text)
            return v->status = bpei_fail(t, BPE_ENOMEM, "out of memory for %.0f bytes of tokens; use a smaller "
                                         "vocabulary", (double)room), (char *)NULL;
        v->text = text, v->text_room = (uint32_t)room;
    }
    while ((uint32_t)v->n <= id) v->token[v->n++].size = 0;
    bpei_token *token = &v->token[id];
    token->at = v->text_size, token->size = (uint32_t)size, token->rank = rank, token->type = type;
    v->text_size = (uint32_t)need;
    v->text[need - 1] = 0;
    v->used++;
    return v->text + token->at;
}

static int bpei_put_bytes(bpe *t, bpei_vocab *v, int first, int type) {
    for (int c = 0; c < 256; c++) {
        char *p = bpei_put(t, v, (uint32_t)(first + c), 1, BPEI_NEVER, type);
        if (!p) return v->status;
        *p = (char)c;
    }
    return BPE_OK;
}

// Special tokens are kept in a list of their own, the longest first, and out of the hash table: text never finds them.
static int bpei_put_special(bpe *t, bpei_vocab *v, const char *text, size_t size, uint32_t id) {
    int *list = (int *)BPE_REALLOC(v->special, ((size_t)v->n_special + 1) * sizeof(int)), i = v->n_special;
    if (!list)
        return bpei_fail(t, BPE_ENOMEM, "out of memory for %d special tokens; use fewer", v->n_special + 1);
    v->special = list;
    char *p = bpei_put(t, v, id, size, BPEI_NEVER, BPEI_SPECIAL);
    if (!p) return v->status;
    memcpy(p, text, size);
    for (; i > 0 && v->token[list[i - 1]].size < size; i--) list[i] = list[i - 1];
    list[i] = (int)id;
    v->n_special++;
    v->first[(unsigned char)text[0]] = 1;
    return BPE_OK;
}

// Up to 8 bytes are their own key (two loads that may overlap hold them all, once the size is known); more are hashed.
static inline uint64_t bpei_key(const unsigned char *p, size_t n) {
    uint64_t key, word;
    uint32_t low, high;
    if (n < 4) return n ? p[0] | (uint64_t)p[n / 2] << 8 | (uint64_t)p[n - 1] << 16 : 0;
    if (n <= 8) {
        memcpy(&low, p, 4);
        memcpy(&high, p + n - 4, 4);
        return (uint64_t)high << 32 | low;
    }
    memcpy(&key, p + n - 8, 8);
    for (; n > 8; n -= 8, p += 8) {
        memcpy(&word, p, 8);
        key = (key ^ word) * UINT64_C(0x9E3779B97F4A7C15);
        key ^= key >> 29;
    }
    return key;
}

static inline size_t bpei_home(const bpei_vocab *v, uint64_t key, size_t size) {
    key = (key ^ v->seed ^ (uint64_t)size << 56) * UINT64_C(0xFF51AFD7ED558CCD);
    return (size_t)((key ^ key >> 32) * UINT64_C(0xC4CEB9FE1A85EC53) >> v->shift);
}

// The ordinary token whose bytes are p[0..n), or -1.
static int bpei_find(const bpei_vocab *v, const unsigned char *p, size_t n) {
    if (n == 1) return v->one[p[0]];
    if (n > v->longest) return -1;
    uint64_t key = bpei_key(p, n);
    size_t mask = ((size_t)1 << (64 - v->shift)) - 1;
    for (size_t i = bpei_home(v, key, n);; i = (i + 1) & mask) {
        const bpei_slot *slot = &v->slot[i];
        if (slot->id < 0) return -1;
        if (slot->key == key && slot->size == n
            && (n <= 8 || !memcmp(v->text + v->token[slot->id].at, p, n))) return slot->id;
    }
}

// Puts every ordinary token into the hash table. A file could be made so that all its tokens meet in one slot; so when
// a search takes too long, the table is filled again with another seed, and after a few seeds the file is refused.
static int bpei_index(bpe *t, bpei_vocab *v) {
    size_t tokens = 0, slots = 16, limit = 256;
    const int joins = v->kind == BPEI_BPE || v->kind == BPEI_LLAMA;
    v->longest = 1, v->shift = 60;
    for (int i = 0; i < 256; i++) v->one[i] = v->byte[i] = -1;
    for (int id = 0; id < v->n; id++)
        if (v->token[id].size && v->token[id].type == BPEI_TEXT) tokens++;
    while (slots < 2 * tokens) slots *= 2, v->shift--;
    BPE_FREE(v->slot);
    BPE_FREE(v->two);
    v->slot = (bpei_slot *)BPE_MALLOC(slots * sizeof *v->slot);
    v->two = joins ? (int *)BPE_MALLOC(65536 * sizeof *v->two) : NULL;
    if (!v->slot || (joins && !v->two))
        return bpei_fail(t, BPE_ENOMEM, "out of memory for a table of %.0f tokens; use a smaller vocabulary",
                         (double)slots);
    for (int attempt = 0; attempt < 4; attempt++) {
        int id = 0;
        v->seed = (uint64_t)attempt * UINT64_C(0xD6E8FEB86659FD93);
        for (int i = 0; joins && i < 65536; i++) v->two[i] = -1;
        for (size_t i = 0; i < slots; i++) v->slot[i].id = -1;
        for (; id < v->n; id++) {
            const bpei_token *token = &v->token[id];
            const unsigned char *p = (const unsigned char *)v->text + token->at;
            if (!token->size) continue;
            if (token->type == BPEI_BYTE) v->byte[p[0]] = id;
            if (token->type != BPEI_TEXT) continue;
            uint64_t key = bpei_key(p, token->size);
            size_t i = bpei_home(v, key, token->size), steps = 0;
            int twin = -1;
            for (; v->slot[i].id >= 0 && steps < limit; i = (i + 1) & (slots - 1), steps++)
                if (v->slot[i].key == key && v->slot[i].size == token->size
                    && !memcmp(v->text + v->token[v->slot[i].id].at, p, token->size)) { twin = v->slot[i].id; break; }
            if (steps == limit) break;
            // llama2.c's files may hold a text twice; run.c then finds either, we the first.
            if (twin >= 0 && v->kind == BPEI_LLAMA) continue;
            if (twin >= 0)
                return bpei_fail(t, BPE_EFORMAT, "tokens %d and %d have the same %u bytes; one of them is wrong. Is "
                                 "the file damaged?", twin, id, (unsigned)token->size);
            v->slot[i].key = key, v->slot[i].size = token->size, v->slot[i].id = id;
            if (token->size == 1) v->one[p[0]] = id;
            if (joins && token->size == 2) v->two[p[0] << 8 | p[1]] = id;
            if (token->size > v->longest) v->longest = token->size;
        }
        if (id == v->n) return BPE_OK;
    }
    return bpei_fail(t, BPE_EFORMAT, "the %.0f tokens collide as if made for it; get the vocabulary from another "
                     "place", (double)tokens);
}

// BPE needs a token for each byte, llama2.c's kind a byte token: without it some text could not be written.
static int bpei_check_bytes(bpe *t, const bpei_vocab *v) {
    for (int c = 0; c < 256; c++)
        if ((v->kind == BPEI_LLAMA ? v->byte[c] : v->one[c]) < 0)
            return bpei_fail(t, BPE_EFORMAT, "no token for byte %d (0x%02x); all 256 are needed. Is the file whole?", c,
                             c);
    return BPE_OK;
}

int (bpe_add_special)(bpe *t, const char *text, int id) {
    if (!t) return BPE_EARG;
    if (!text || !text[0])
        return bpei_fail(t, BPE_EARG, "the text of a special token is %s; pass one, such as \"<|end|>\"",
                         text ? "empty" : "NULL");
    if (t->v.kind == BPEI_EMPTY) return bpei_fail(t, BPE_EARG, "no vocabulary yet; train or load one first");
    int old = bpei_special_id(&t->v, text);
    if (old >= 0) return bpei_fail(t, BPE_EARG, "\"%.99s\" is special token %d already; use that id", text, old);
    if (id < -1) return bpei_fail(t, BPE_EARG, "id is %d; pass -1 for the next free one", id);
    if (id == -1) id = t->v.n;
    if (bpei_used(t, id))
        return bpei_fail(t, BPE_EARG, "id %d is in use; the next free one is %d (pass -1)", id, t->v.n);
    if (id >= t->v.used + BPEI_GAP)
        return bpei_fail(t, BPE_EARG, "id %d leaves more than %d ids unused; the next free one is %d", id, BPEI_GAP,
                         t->v.n);
    int status = bpei_put_special(t, &t->v, text, strlen(text), (uint32_t)id);
    return status ? status : id;
}

// ---- 10. Long pieces: a heap of joins -------------------------------------------------------------------------------

// A binary heap of rank << 32 | position, smallest on top: of equal ranks the leftmost comes first, as it must.
static void bpei_sift(uint64_t *heap, size_t n, size_t i) {
    uint64_t value = heap[i];
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && heap[child + 1] < heap[child]) child++;
        if (value <= heap[child]) break;
        heap[i] = heap[child];
    }
    heap[i] = value;
}

static void bpei_rise(uint64_t *heap, size_t i) {
    uint64_t value = heap[i];
    for (; i && value < heap[(i - 1) / 2]; i = (i - 1) / 2) heap[i] = heap[(i - 1) / 2];
    heap[i] = value;
}

// One character of llama2.c's, at most four bytes: a first byte and the continuation bytes after it (run.c, encode).
static size_t bpei_llama_char(const unsigned char *p, size_t n) {
    size_t size = 1;
    while (size < n && size < 4 && (p[size] & 0xC0) == 0x80) size++;
    return size;
}

// A part is named by its first byte; what joining it with the next would make is in the heap, and entries that no
// longer fit their part are skipped when they come up.
typedef struct {
    const bpei_vocab *v;
    const unsigned char *p;
    int *next, *prev, *id, *made;   // (n): by first byte; made -1: no join, or the part is gone
    int end;
    uint64_t *heap;                 // (2 n): n joins at the start, and each join takes one out and puts at most two in
    size_t items;
} bpei_merger;

static void bpei_offer_join(bpei_merger *m, int i) {
    int next = m->next[i];
    m->made[i] = -1;
    if (next >= m->end || m->id[i] < 0 || m->id[next] < 0) return;
    uint32_t rank = bpei_rank(m->v, m->p + i, (size_t)(m->next[next] - i), &m->made[i]);
    if (rank == BPEI_NEVER) m->made[i] = -1;
    else m->heap[m->items] = (uint64_t)rank << 32 | (uint32_t)i, bpei_rise(m->heap, m->items++);
}

// O(n log n) in the piece. Kind llama differs in its first parts: characters, and for an unknown one its bytes, which
// no join may use; they are marked by ~id. The first `added` bytes are no part of the text's characters.
static int bpei_merge_long(const bpei_vocab *v, const unsigned char *p, size_t n, int added, bpei_ids *out) {
    if (n > (size_t)-1 / 40) return BPE_ENOMEM;
    int *block = (int *)BPE_MALLOC(4 * n * sizeof(int)), last = -1;
    uint64_t *heap = (uint64_t *)BPE_MALLOC(2 * n * sizeof(uint64_t));
    if (!block || !heap) {
        BPE_FREE(block);
        BPE_FREE(heap);
        return BPE_ENOMEM;
    }
    bpei_merger m = {v, p, block, block + n, block + 2 * n, block + 3 * n, (int)n, heap, 0};
    for (int i = 0; i < m.end;) {
        size_t size = v->kind == BPEI_LLAMA && i >= added ? bpei_llama_char(p + i, n - (size_t)i) : 1;
        int whole = v->kind == BPEI_LLAMA ? bpei_find(v, p + i, size) : v->one[p[i]], stop = i + (int)size;
        for (int step = whole >= 0 ? (int)size : 1; i < stop; i += step) {
            m.id[i] = whole >= 0 ? whole : ~v->byte[p[i]];
            m.next[i] = i + step, m.prev[i] = last, last = i;
        }
    }
    for (int i = 0; i < m.end; i = m.next[i]) bpei_offer_join(&m, i);
    while (m.items) {
        int i = (int)(uint32_t)heap[0];
        uint32_t rank = (uint32_t)(heap[0] >> 32);
        heap[0] = heap[--m.items];
        if (m.items) bpei_sift(heap, m.items, 0);
        if (m.made[i] < 0 || v->token[m.made[i]].rank != rank) continue;
        int gone = m.next[i];
        m.id[i] = m.made[i], m.next[i] = m.next[gone], m.made[gone] = -1;
        if (m.next[i] < m.end) m.prev[m.next[i]] = i;
        bpei_offer_join(&m, i);
        if (m.prev[i] >= 0) bpei_offer_join(&m, m.prev[i]);
    }
    for (int i = 0; i < m.end; i = m.next[i]) bpei_push(out, m.id[i] >= 0 ? m.id[i] : ~m.id[i]);
    BPE_FREE(block);
    BPE_FREE(heap);
    return BPE_OK;
}

// ---- 11. Plain words, eight bytes at a time, and pieces that come again ---------------------------------------------

// Whether the first byte in memory is the lowest of a number, so that bytes can be looked at eight at once.
#if (defined __BYTE_ORDER__ && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__) || defined _WIN32
#define BPEI_LITTLE 1
#else
#define BPEI_LITTLE 0
#endif

static inline uint64_t bpei_load(const unsigned char *p) {
    uint64_t word;
    memcpy(&word, p, 8);
    return word;
}

static inline int bpei_is_letter(int c) { return (unsigned)((c | 32) - 'a') < 26; }

// The end of the run of bytes from a to a + 25 that begins at p[at]; with fold 32 and a = 'a' capitals count too. In
// each byte, whose top bit is off, adding 128 - a turns that bit on from a upwards, and adding 102 - a from a + 26
// upwards; no sum reaches the next byte. What is left of the top bits marks the bytes that end the run.
static inline size_t bpei_letters(const unsigned char *p, size_t n, size_t at, int fold, int a) {
    const uint64_t each = UINT64_C(0x0101010101010101);
    while (BPEI_LITTLE && n - at >= 8) {
        uint64_t word = bpei_load(p + at), low = (word | each * (unsigned)fold) & each * 127;
        uint64_t below = ~(low + each * (unsigned)(128 - a)), above = low + each * (unsigned)(102 - a);
        uint64_t stop = (below | above | word) & each * 128;
        if (!stop) at += 8;
        else {
#if defined __GNUC__ && !defined __TINYC__
            return at + (size_t)__builtin_ctzll(stop) / 8;
#else
            for (; !(stop & 128); stop >>= 8) at++;
            return at;
#endif
        }
    }
    while (at < n && (unsigned)((p[at] | fold) - a) < 26) at++;
    return at;
}

// Where the piece at p[at] ends if it is a word of English letters, with the one character before it that the pattern
// takes along, and with no other letter, mark or contraction in reach; else 0.
static inline size_t bpei_plain_word(const bpe *t, int split, const unsigned char *p, size_t n, size_t at) {
    size_t end = at;
    if (!bpei_is_letter(p[at])) {
        if (++end == n || !bpei_is_letter(p[end])) return 0;
        if (p[at] != ' ' && (split == BPE_SPLIT_GPT2 || p[at] == '\'' || p[at] >= 128
                             || t->classes[p[at]] & (BPEI_NUMBER | BPEI_LINE))) return 0;
    }
    if (split == BPE_SPLIT_O200K) {         // capitals, then small letters
        end = bpei_letters(p, n, end, 0, 'A');
        end = bpei_letters(p, n, end, 0, 'a');
    } else end = bpei_letters(p, n, end, 32, 'a');
    return end < n && (p[end] >= 128 || (split == BPE_SPLIT_O200K && p[end] == '\'')) ? 0 : end;
}

// A text says the same words again and again. What a piece of up to 16 bytes became is kept in a table, at the one
// place that its bytes name; another piece with that place takes it over. So a text made to collide costs what it would
// without the table, and the table never grows.
typedef struct { uint64_t low, high; uint32_t size, n; int id[10]; } bpei_seen;     // 64 bytes: piece, size, ids

static int bpei_encode_pieces(const bpe *t, const unsigned char *p, size_t n, bpei_ids *out) {
    const bpei_vocab *v = &t->v;
    int status = BPE_OK, bits = 6;
    while (bits < 14 && n >> bits > 128) bits++;
    const size_t bytes = sizeof(bpei_seen) << bits;
    bpei_seen *seen = BPEI_LITTLE ? (bpei_seen *)BPE_MALLOC(bytes) : NULL;      // none: slower, nothing else
    if (seen) memset(seen, 0, bytes);
    for (size_t i = 0, end; i < n && !status; i = end) {
        end = bpei_split(t, v->split, p, n, i);
        size_t size = end - i;
        if (!seen || size > 16 || n - i < 16) {
            status = bpei_encode_piece(v, p + i, size, out);
            continue;
        }
        uint64_t low = bpei_load(p + i), high = bpei_load(p + i + 8);
        if (size <= 8) low = low << (64 - 8 * size) >> (64 - 8 * size), high = 0;
        else high = high << (128 - 8 * size) >> (128 - 8 * size);
        uint64_t hash = (low ^ high * UINT64_C(0xFF51AFD7ED558CCD)) * UINT64_C(0x9E3779B97F4A7C15);
        bpei_seen *s = &seen[hash >> (64 - bits)];
        if (s->low != low || s->high != high || s->size != size) {
            bpei_ids made = {s->id, 10, 0};
            s->size = 0;                        // the ids are overwritten, whatever comes of it
            status = bpei_encode_piece(v, p + i, size, &made);
            if (status) break;
            if (made.n > 10) {                  // rare: too many to keep
                status = bpei_encode_piece(v, p + i, size, out);
                continue;
            }
            s->low = low, s->high = high, s->size = (uint32_t)size, s->n = (uint32_t)made.n;
        }
        bpei_push(out, s->id[0]);
        for (uint32_t k = 1; k < s->n; k++) bpei_push(out, s->id[k]);
    }
    BPE_FREE(seen);
    return status;
}

// ---- 12. Fast training ----------------------------------------------------------------------------------------------

// The different pieces of a text and how often each occurs. A text made to collide makes pieces appear twice in the
// list, which changes no count, instead of making the search slow.
static int bpei_count_pieces(bpe *t, const unsigned char *p, size_t n, int split, bpei_chunk **chunk, size_t *chunks) {
    size_t slots = 1024, room = 512;
    uint32_t *slot = (uint32_t *)BPE_MALLOC(slots * sizeof *slot);      // index into chunk plus 1, 0: free
    bpei_vocab hash;
    hash.seed = 0, hash.shift = 54;
    *chunk = (bpei_chunk *)BPE_MALLOC(room * sizeof **chunk);
    *chunks = 0;
    int failed = !slot || !*chunk;
    if (slot) memset(slot, 0, slots * sizeof *slot);
    for (size_t i = 0, end; i < n && !failed; i = end) {
        end = bpei_split(t, split, p, n, i);
        size_t size = end - i, steps = 0, k = bpei_home(&hash, bpei_key(p + i, size), size);
        bpei_chunk *c = *chunk;
        for (; slot[k] && steps < 4096; k = (k + 1) & (slots - 1), steps++)
            if (c[slot[k] - 1].size == size && !memcmp(c[slot[k] - 1].at, p + i, size)) break;
        if (slot[k] && steps < 4096) {
            c[slot[k] - 1].count++;
            continue;
        }
        if (*chunks == room) {
            bpei_chunk *more = (bpei_chunk *)BPE_REALLOC(*chunk, 2 * room * sizeof *more);
            if (!more) { failed = 1; break; }
            *chunk = c = more, room *= 2;
        }
        c[*chunks].at = p + i, c[*chunks].size = (uint32_t)size, c[*chunks].count = 1;
        ++*chunks;
        if (steps < 4096) slot[k] = (uint32_t)*chunks;
        if (*chunks < slots / 2) continue;
        BPE_FREE(slot);
        slots *= 2, hash.shift--;
        slot = (uint32_t *)BPE_MALLOC(slots * sizeof *slot);
        if (!slot) { failed = 1; break; }
        memset(slot, 0, slots * sizeof *slot);
        for (size_t j = 0; j < *chunks; j++) {
            for (k = bpei_home(&hash, bpei_key(c[j].at, c[j].size), c[j].size), steps = 0; slot[k] && steps < 4096;
                 steps++)
                k = (k + 1) & (slots - 1);
            if (!slot[k]) slot[k] = (uint32_t)(j + 1);
        }
    }
    BPE_FREE(slot);
    if (failed) {
        BPE_FREE(*chunk);
        *chunk = NULL, *chunks = 0;
        return bpei_fail(t, BPE_ENOMEM, "out of memory while counting the pieces of %.0f bytes of text; train on a "
                         "part of it", (double)n);
    }
    return BPE_OK;
}

// All different pieces lie one after the other; node i is a token in one of them. The places where a pair stands form a
// list through `after` and `before`, in ascending order: that is the left-to-right order in which overlapping pairs are
// joined.
typedef struct { uint64_t key, count; int head, tail; } bpei_pair;      // key: left id << 32 | right id
typedef struct { uint64_t count, key; int pair; } bpei_best;            // an entry of the heap
typedef struct {
    int *id, *next, *prev;          // (nodes): token, neighbours in the piece or -1
    int *pair, *after, *before;     // (nodes): the pair that this node and the next are, its places to either side
    uint32_t *weight;               // (nodes): how often the piece occurs
    bpei_pair *pairs;
    int n_pairs, pair_room;
    int *slot;                      // hash table: index into pairs, or -1
    size_t slots;
    bpei_best *heap;
    size_t items, heap_room;
    int failed;                     // out of memory
} bpei_trainer;

static size_t bpei_pair_slot(const bpei_trainer *r, uint64_t key) {
    uint64_t h = key * UINT64_C(0x9E3779B97F4A7C15);
    size_t i = (size_t)(h ^ h >> 32) & (r->slots - 1);
    while (r->slot[i] >= 0 && r->pairs[r->slot[i]].key != key) i = (i + 1) & (r->slots - 1);
    return i;
}

// Node i and the one after it are a pair from now on.
static void bpei_link(bpei_trainer *r, int i) {
    uint64_t key = (uint64_t)(uint32_t)r->id[i] << 32 | (uint32_t)r->id[r->next[i]];
    size_t s = bpei_pair_slot(r, key);
    if (r->slot[s] < 0) {
        if (r->n_pairs == r->pair_room) {
            int room = r->pair_room * 2;
            bpei_pair *pairs = (bpei_pair *)BPE_REALLOC(r->pairs, (size_t)room * sizeof *pairs);
            int *slot = pairs ? (int *)BPE_MALLOC(4 * (size_t)room * sizeof *slot) : NULL;
            if (pairs) r->pairs = pairs;
            if (!slot) { r->failed = 1, r->pair[i] = -1; return; }
            BPE_FREE(r->slot);
            r->slot = slot, r->slots = 4 * (size_t)room, r->pair_room = room;
            memset(slot, 0xFF, r->slots * sizeof *slot);
            for (int k = 0; k < r->n_pairs; k++) slot[bpei_pair_slot(r, pairs[k].key)] = k;
            s = bpei_pair_slot(r, key);
        }
        bpei_pair fresh = {0, 0, -1, -1};
        fresh.key = key;
        r->pairs[r->slot[s] = r->n_pairs++] = fresh;
    }
    int k = r->slot[s];
    bpei_pair *pair = &r->pairs[k];
    pair->count += r->weight[i];
    r->pair[i] = k, r->after[i] = -1, r->before[i] = pair->tail;
    if (pair->tail >= 0) r->after[pair->tail] = i;
    else pair->head = i;
    pair->tail = i;
}

static void bpei_unlink(bpei_trainer *r, int i) {
    if (r->pair[i] < 0) return;
    bpei_pair *pair = &r->pairs[r->pair[i]];
    pair->count -= r->weight[i];
    if (r->before[i] >= 0) r->after[r->before[i]] = r->after[i];
    else pair->head = r->after[i];
    if (r->after[i] >= 0) r->before[r->after[i]] = r->before[i];
    else pair->tail = r->before[i];
    r->pair[i] = -1;
}

// More frequent first, of equals the lower pair.
static int bpei_better(const bpei_best *a, const bpei_best *b) {
    return a->count != b->count ? a->count > b->count : a->key < b->key;
}

static void bpei_offer(bpei_trainer *r, int pair) {
    bpei_best best = {r->pairs[pair].count, r->pairs[pair].key, pair};
    if (best.count < 2 || r->failed) return;
    if (r->items == r->heap_room) {
        size_t room = r->heap_room ? 2 * r->heap_room : 1024;
        bpei_best *heap = (bpei_best *)BPE_REALLOC(r->heap, room * sizeof *heap);
        if (!heap) { r->failed = 1; return; }
        r->heap = heap, r->heap_room = room;
    }
    size_t i = r->items++;
    for (; i && bpei_better(&best, &r->heap[(i - 1) / 2]); i = (i - 1) / 2) r->heap[i] = r->heap[(i - 1) / 2];
    r->heap[i] = best;
}

static bpei_best bpei_pop(bpei_trainer *r) {
    bpei_best top = r->heap[0], value = r->heap[--r->items];
    size_t i = 0, n = r->items;
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && bpei_better(&r->heap[child + 1], &r->heap[child])) child++;
        if (!bpei_better(&r->heap[child], &value)) break;
        r->heap[i] = r->heap[child];
    }
    r->heap[i] = value;
    return top;
}

static void bpei_trainer_start(bpei_trainer *r, const bpei_chunk *chunk, size_t chunks) {
    size_t n = 0;
    for (size_t c = 0; c < chunks; c++) n += chunk[c].size;
    int *block = n <= (size_t)-1 / 32 ? (int *)BPE_MALLOC((6 * n + 1) * sizeof(int)) : NULL;
    memset(r, 0, sizeof *r);
    r->weight = (uint32_t *)BPE_MALLOC((n + 1) * sizeof *r->weight);
    r->pair_room = 1024, r->slots = 4096;
    r->pairs = (bpei_pair *)BPE_MALLOC((size_t)r->pair_room * sizeof *r->pairs);
    r->slot = (int *)BPE_MALLOC(r->slots * sizeof *r->slot);
    r->id = block;
    r->failed = !block || !r->weight || !r->pairs || !r->slot;
    if (r->failed) return;
    r->next = block + n, r->prev = block + 2 * n, r->pair = block + 3 * n, r->after = block + 4 * n,
    r->before = block + 5 * n;
    memset(r->slot, 0xFF, r->slots * sizeof *r->slot);
    for (size_t c = 0, at = 0; c < chunks; at += chunk[c++].size)
        for (size_t k = 0; k < chunk[c].size; k++) {
            size_t i = at + k;
            r->id[i] = chunk[c].at[k], r->weight[i] = chunk[c].count, r->pair[i] = -1;
            r->prev[i] = k ? (int)i - 1 : -1, r->next[i] = k + 1 < chunk[c].size ? (int)i + 1 : -1;
        }
    for (size_t i = 0; i < n && !r->failed; i++)
        if (r->next[i] >= 0) bpei_link(r, (int)i);
    for (int k = 0; k < r->n_pairs; k++) bpei_offer(r, k);
}

// Joins pair k everywhere into token `id`. Only pairs with the new token come about; all others can only become rarer.
static void bpei_trainer_join(bpei_trainer *r, int k, int id) {
    int old = r->n_pairs;
    for (int i; (i = r->pairs[k].head) >= 0 && !r->failed;) {
        int gone = r->next[i], before = r->prev[i], behind = r->next[gone];
        if (before >= 0) bpei_unlink(r, before);
        bpei_unlink(r, i);
        bpei_unlink(r, gone);
        r->id[i] = id, r->next[i] = behind;
        if (behind >= 0) r->prev[behind] = i;
        if (before >= 0) bpei_link(r, before);
        if (behind >= 0) bpei_link(r, i);
    }
    while (old < r->n_pairs) bpei_offer(r, old++);
}

// The same vocabulary as bpe_train_naive's: counts are kept up to date instead of counted anew. An entry of the heap
// may be out of date, but a pair's count only falls after its entry was made, so an entry that is still true is the
// best one.
int (bpe_train)(bpe *t, const void *text, size_t len, int vocab_size, int split) {
    int status = bpei_train_check(t, text, len, vocab_size, split);
    if (status) return status;
    bpei_chunk *chunk = NULL;
    size_t chunks = 0;
    bpei_trainer r;
    bpei_vocab v;
    status = bpei_count_pieces(t, (const unsigned char *)text, len, split, &chunk, &chunks);
    if (status) return status;
    bpei_vocab_init(&v, BPEI_BPE, split);
    status = bpei_put_bytes(t, &v, 0, BPEI_TEXT);
    bpei_trainer_start(&r, chunk, chunks);
    while (v.n < vocab_size && r.items && !status && !r.failed) {
        bpei_best best = bpei_pop(&r);
        if (best.count != r.pairs[best.pair].count) {
            bpei_offer(&r, best.pair);
            continue;
        }
        status = bpei_join(t, &v, (int)(best.key >> 32), (int)(uint32_t)best.key);
        if (!status) bpei_trainer_join(&r, best.pair, v.n - 1);
    }
    if (r.failed && !status)
        status = bpei_fail(t, BPE_ENOMEM, "out of memory for the pairs of %.0f pieces; train on a part of the text",
                           (double)chunks);
    BPE_FREE(chunk);
    BPE_FREE(r.id);
    BPE_FREE(r.weight);
    BPE_FREE(r.pairs);
    BPE_FREE(r.slot);
    BPE_FREE(r.heap);
    return bpei_take(t, &v, status);
}

// ---- 13. Reading what others wrote ----------------------------------------------------------------------------------

// A whole file. The loaders below take memory, so that they can be tested, and fuzzed, without files.
static int bpei_read_file(bpe *t, const char *path, char **data, size_t *size) {
    const size_t most = (size_t)1 << 28;
    size_t room = 0, got = 1;
    *data = NULL, *size = 0;
    if (!path) return bpei_fail(t, BPE_EARG, "the path is NULL; pass the name of a file");
    t->source = path;
    FILE *f = fopen(path, "rb");
    if (!f)
        return bpei_fail(t, BPE_EFILE, "cannot open it: %s. Check the path; was the file downloaded, or saved, yet?",
                         strerror(errno));
    while (got) {
        if (*size == room) {
            room = room ? room + room / 2 : 65536;
            char *more = room <= most ? (char *)BPE_REALLOC(*data, room) : NULL;
            if (!more) break;
            *data = more;
        }
        got = fread(*data + *size, 1, room - *size, f);
        *size += got;
    }
    int bad = ferror(f), why = errno, status = BPE_OK;
    fclose(f);
    if (bad) status = bpei_fail(t, BPE_EFILE, "cannot read it: %s. Is it a file?", strerror(why));
    else if (got && room > most)
        status = bpei_fail(t, BPE_EFORMAT, "over 256 MB; no vocabulary is that large. Is it the right file?");
    else if (got) status = bpei_fail(t, BPE_ENOMEM, "out of memory after %.0f bytes. Is it the right file?",
                                    (double)*size);
    if (status) {
        BPE_FREE(*data);
        *data = NULL, t->source = NULL;
    }
    return status;
}

// Reads a file and gives its bytes to `parse`, a call of one of the functions below that uses data, size and status.
#define BPEI_WITH_FILE(path, parse) do {                        \
        char *data;                                             \
        size_t size;                                            \
        if (!t) return BPE_EARG;                                \
        int status = bpei_read_file(t, path, &data, &size);     \
        if (status) return t->source = NULL, status;            \
        status = parse;                                         \
        BPE_FREE(data);                                         \
        t->source = NULL;                                       \
        return status;                                          \
    } while (0)

// A number without sign, space or leading zeros, at most `most`. Moves *p behind it.
static int bpei_number(const char **p, const char *end, uint32_t most, uint32_t *value) {
    uint64_t x = 0;
    const char *start = *p, *q = start;
    while (q < end && q - start < 10 && *q >= '0' && *q <= '9') x = x * 10 + (uint64_t)(*q++ - '0');
    if (q == start || x > most || (*start == '0' && q - start > 1)) return 0;
    if (q < end && *q >= '0' && *q <= '9') return 0;
    *p = q, *value = (uint32_t)x;
    return 1;
}

// The vocabularies that tiktoken knows by name: github.com/openai/tiktoken, tiktoken_ext/openai_public.py.
typedef struct { char name[12]; int split, tokens; struct { char text[16]; int id; } special[5]; } bpei_encoding;
static const bpei_encoding *bpei_encoding_named(const char *name) {
    static const bpei_encoding known[] = {
        {"gpt2", BPE_SPLIT_GPT2, 50256, {{"<|endoftext|>", 50256}, {"", 0}, {"", 0}, {"", 0}, {"", 0}}},
        {"r50k_base", BPE_SPLIT_GPT2, 50256, {{"<|endoftext|>", 50256}, {"", 0}, {"", 0}, {"", 0}, {"", 0}}},
        {"p50k_base", BPE_SPLIT_GPT2, 50280, {{"<|endoftext|>", 50256}, {"", 0}, {"", 0}, {"", 0}, {"", 0}}},
        {"cl100k_base", BPE_SPLIT_CL100K, 100256, {{"<|endoftext|>", 100257}, {"<|fim_prefix|>", 100258},
            {"<|fim_middle|>", 100259}, {"<|fim_suffix|>", 100260}, {"<|endofprompt|>", 100276}}},
        {"o200k_base", BPE_SPLIT_O200K, 199998, {{"<|endoftext|>", 199999}, {"<|endofprompt|>", 200018},
            {"", 0}, {"", 0}, {"", 0}}}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(known[i].name, name)) return &known[i];
    return NULL;
}

// Base64 by RFC 4648, padded and strict. Returns the number of bytes (written if to is not NULL), or -1.
static long bpei_base64(const char *p, size_t n, char *to) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t pad = 0, bytes = 0;
    uint32_t bits = 0;
    if (n == 0 || n % 4 || n > 1 << 24) return -1;
    while (pad < 2 && p[n - 1 - pad] == '=') pad++;
    for (size_t i = 0; i < n; i++) {
        const char *digit = i < n - pad ? (p[i] ? strchr(digits, p[i]) : NULL) : digits;
        if (!digit) return -1;
        bits = bits << 6 | (uint32_t)(digit - digits);
        if (i % 4 != 3) continue;
        size_t keep = i + 1 < n ? 3 : 3 - pad;
        if (keep < 3 && bits & (0xFFFFu >> (keep == 2 ? 8 : 0))) return -1;
        for (size_t k = 0; k < keep; k++, bytes++)
            if (to) to[bytes] = (char)(bits >> (16 - 8 * k));
        bits = 0;
    }
    return (long)bytes;
}

// A .tiktoken file: lines of a token in base64, a space and its rank, which is its id.
static int bpei_parse_tiktoken(bpe *t, const char *p, size_t size, const char *name, bpei_vocab *v) {
    const bpei_encoding *known = name ? bpei_encoding_named(name) : NULL;
    const char *end = p + size;
    int line = 1;
    if (name && !known)
        return bpei_fail(t, BPE_EARG,
                         "encoding \"%.99s\" is not known; known are gpt2, r50k_base, p50k_base, "
                         "cl100k_base, o200k_base, and NULL for any other",
                         name);
    if (known) v->split = known->split;
    v->stray = BPE_STRAY_TAIL;
    for (; p < end; line++) {
        const char *stop = (const char *)memchr(p, '\n', (size_t)(end - p)), *next = stop ? stop + 1 : end;
        if (!stop) stop = end;
        if (stop > p && stop[-1] == '\r') stop--;
        const char *space = stop > p ? (const char *)memchr(p, ' ', (size_t)(stop - p)) : NULL;
        uint32_t rank = 0;
        if (stop > p) {
            const char *q = space ? space + 1 : stop;
            long bytes = space ? bpei_base64(p, (size_t)(space - p), NULL) : -1;
            if (bytes < 0)
                return bpei_fail(t, BPE_EFORMAT,
                                 "line %d: wanted a token in base64, a space and a rank; got \"%.*s\". "
                                 "Is this a .tiktoken file?",
                                 line, (int)(stop - p < 40 ? stop - p : 40), p);
            if (!bpei_number(&q, stop, INT32_MAX, &rank) || q != stop)
                return bpei_fail(t, BPE_EFORMAT, "line %d: wanted a rank; got \"%.*s\". Is the file damaged?", line,
                                 (int)(stop - space < 40 ? stop - space : 40), space);
            if (rank < (uint32_t)v->n && v->token[rank].size)
                return bpei_fail(t, BPE_EFORMAT, "line %d: rank %u comes a second time. Is the file damaged?", line,
                                 (unsigned)rank);
            char *to = bpei_put(t, v, rank, (size_t)bytes, rank, BPEI_TEXT);
            if (!to) return v->status;
            bpei_base64(p, (size_t)(space - p), to);
        }
        p = next;
    }
    if (known && v->used != known->tokens)
        return bpei_fail(t, BPE_EFORMAT, "%d tokens; %s has %d. Is the file cut short, or another one?", v->used, name,
                         known->tokens);
    for (int i = 0; known && i < 5 && known->special[i].id; i++) {
        int status = bpei_put_special(t, v, known->special[i].text, strlen(known->special[i].text),
                                      (uint32_t)known->special[i].id);
        if (status) return status;
    }
    for (int id = 0; id < (known ? known->tokens : v->n); id++)
        if (!v->token[id].size) return bpei_fail(t, BPE_EFORMAT, "rank %d is missing. Is the file damaged?", id);
    int status = bpei_index(t, v);
    return status ? status : bpei_check_bytes(t, v);
}

static int bpei_load_tiktoken(bpe *t, const void *data, size_t size, const char *encoding) {
    bpei_vocab v;
    if (!data && size)
        return bpei_fail(t, BPE_EARG, "data is NULL and its size %.0f; pass the bytes of a file", (double)size);
    bpei_vocab_init(&v, BPEI_BPE, BPE_SPLIT_NONE);
    return bpei_take(t, &v, bpei_parse_tiktoken(t, data ? (const char *)data : "", size, encoding, &v));
}

int (bpe_load_tiktoken_mem)(bpe *t, const void *data, size_t size, const char *encoding) {
    return t ? bpei_load_tiktoken(t, data, size, encoding) : BPE_EARG;
}

int (bpe_load_tiktoken)(bpe *t, const char *path, const char *encoding) {
    BPEI_WITH_FILE(path, bpei_load_tiktoken(t, data, size, encoding));
}

// GPT-2 writes bytes as printable characters: those that print in Latin-1 as themselves, the other 68 in order from
// U+0100 on (src/encoder.py, bytes_to_unicode). The byte that a character stands for, or -1.
static int bpei_gpt2_byte(uint32_t code) {
    if ((code >= 33 && code <= 126) || (code >= 161 && code <= 172) || (code >= 174 && code <= 255)) return (int)code;
    code -= 256;
    return code < 33 ? (int)code : code < 67 ? (int)code - 33 + 127 : code == 67 ? 173 : -1;
}

// The characters p[0..n) as bytes. Returns their number, or -1.
static long bpei_gpt2_bytes(const char *p, size_t n, char *to, size_t cap) {
    long bytes = 0;
    for (size_t i = 0; i < n; bytes++) {
        uint32_t code;
        int size = bpei_utf8((const unsigned char *)p + i, n - i, &code), byte = size ? bpei_gpt2_byte(code) : -1;
        if (byte < 0 || (size_t)bytes >= cap) return -1;
        to[bytes] = (char)byte;
        i += (size_t)size;
    }
    return bytes;
}

// A string of encoder.json from behind its first quote on: its bytes go to `to` if that is not NULL. Returns their
// number and moves *p behind the last quote, or -1.
static long bpei_json_string(const char **p, const char *end, char *to) {
    const char *q = *p;
    long bytes = 0;
    while (q < end && *q != '"') {
        uint32_t code = 0;
        if (*q == '\\') {
            if (++q == end) return -1;
            if (*q == 'u') {
                if (end - q < 5) return -1;
                for (int i = 1; i < 5; i++) {
                    int c = q[i], digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                        : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
                    if (digit < 0) return -1;
                    code = code << 4 | (uint32_t)digit;
                }
                q += 5;
            } else if (*q == '"' || *q == '\\' || *q == '/') code = (unsigned char)*q++;
            else return -1;
        } else {
            int size = bpei_utf8((const unsigned char *)q, (size_t)(end - q), &code);
            if (!size) return -1;
            q += size;
        }
        int byte = bpei_gpt2_byte(code);
        if (byte < 0) return -1;
        if (to) to[bytes] = (char)byte;
        bytes++;
    }
    if (q == end) return -1;
    *p = q + 1;
    return bytes;
}

// {"token": id, ...}: no nesting, no other values. All tokens get the rank "never" until a merge names them.
static int bpei_parse_encoder(bpe *t, const char *p, size_t size, bpei_vocab *v) {
    const char *start = p, *end = p + size;
    int first = 1;
#define BPEI_BLANK() while (p < end && (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t')) p++
#define BPEI_WANT(what) return bpei_fail(t, BPE_EFORMAT, "byte %.0f: wanted %s, got \"%.*s\". Is the file whole?", \
                                         (double)(p - start), what, (int)(end - p < 30 ? end - p : 30), p)
    BPEI_BLANK();
    if (p == end || *p != '{') BPEI_WANT("{");
    for (p++;; first = 0) {
        BPEI_BLANK();
        if (p < end && *p == '}') break;
        if (!first) {
            if (p == end || *p != ',') BPEI_WANT("a comma or }");
            p++;
            BPEI_BLANK();
        }
        if (p == end || *p != '"') BPEI_WANT("a token in quotes");
        const char *text = p + 1, *q = text;
        uint32_t id;
        long bytes = bpei_json_string(&q, end, NULL);
        if (bytes < 0) BPEI_WANT("a token in GPT-2's alphabet");
        p = q;
        BPEI_BLANK();
        if (p == end || *p != ':') BPEI_WANT("a colon");
        p++;
        BPEI_BLANK();
        if (!bpei_number(&p, end, INT32_MAX, &id)) BPEI_WANT("an id");
        char *to = bpei_put(t, v, id, (size_t)bytes, BPEI_NEVER, BPEI_TEXT);
        if (!to) return v->status;
        bpei_json_string(&text, end, to);
    }
    p++;
    BPEI_BLANK();
    if (p != end) BPEI_WANT("nothing after the }");
#undef BPEI_WANT
#undef BPEI_BLANK
    for (int id = 0; id < v->n; id++)
        if (!v->token[id].size) return bpei_fail(t, BPE_EFORMAT, "no token has id %d. Is the file whole?", id);
    return bpei_index(t, v);
}

// vocab.bpe: a line of version, then lines of two tokens whose join, in this order, is the next to try.
static int bpei_parse_merges(bpe *t, const char *p, size_t size, bpei_vocab *v) {
    const char *end = p + size;
    uint32_t rank = 0;
    char bytes[1024];
    for (int line = 1; p < end; line++) {
        const char *stop = (const char *)memchr(p, '\n', (size_t)(end - p)), *next = stop ? stop + 1 : end;
        if (!stop) stop = end;
        if (stop > p && stop[-1] == '\r') stop--;
        const char *space = stop > p ? (const char *)memchr(p, ' ', (size_t)(stop - p)) : NULL;
        if ((line > 1 || stop - p < 8 || memcmp(p, "#version", 8)) && stop > p) {
            long left = space ? bpei_gpt2_bytes(p, (size_t)(space - p), bytes, sizeof bytes) : -1;
            long right = left > 0 ? bpei_gpt2_bytes(space + 1, (size_t)(stop - space - 1), bytes + left,
                                                    sizeof bytes - (size_t)left)
                                  : -1;
            if (right < 1)
                return bpei_fail(t, BPE_EFORMAT, "line %d: wanted two tokens with a space between; got \"%.*s\". Is "
                                 "the file damaged?", line, (int)(stop - p < 40 ? stop - p : 40), p);
            const unsigned char *b = (const unsigned char *)bytes;
            int id = bpei_find(v, b, (size_t)(left + right));
            if (id < 0 || bpei_find(v, b, (size_t)left) < 0 || bpei_find(v, b + left, (size_t)right) < 0)
                return bpei_fail(t, BPE_EFORMAT,
                                 "line %d: encoder.json lacks \"%.*s\" or its parts; do the two files belong "
                                 "together?",
                                 line, (int)(stop - p < 40 ? stop - p : 40), p);
            if (v->token[id].rank != BPEI_NEVER)
                return bpei_fail(t, BPE_EFORMAT, "line %d: token %d is made a second time. Is the file damaged?", line,
                                 id);
            v->token[id].rank = rank++;
        }
        p = next;
    }
    return BPE_OK;
}

typedef struct { const char *data; size_t size; const char *name; } bpei_file;

static int bpei_parse_gpt2(bpe *t, bpei_file merges, bpei_file json, bpei_vocab *v) {
    t->source = json.name;
    int status = bpei_parse_encoder(t, json.data, json.size, v), n = v->n;
    t->source = merges.name;
    if (!status) status = bpei_parse_merges(t, merges.data, merges.size, v);
    // What is neither a byte nor made by a merge is special: <|endoftext|>. GPT-2's file has one; a file that was cut
    // has many.
    for (int id = 0, specials = 0; id < n && !status; id++) {
        bpei_token *token = &v->token[id];
        if (token->size == 1 || token->rank != BPEI_NEVER) continue;
        if (++specials > 64)
            return bpei_fail(t, BPE_EFORMAT, "over 64 tokens that no merge makes, such as %d; is the file whole?", id);
        char text[256];
        size_t size = token->size;
        if (size >= sizeof text || memchr(v->text + token->at, 0, size))
            return bpei_fail(t, BPE_EFORMAT,
                             "token %d, made by no merge, is no special token either; is the file whole?", id);
        memcpy(text, v->text + token->at, size + 1);
        token->size = 0, v->used--;
        status = bpei_put_special(t, v, text, size, (uint32_t)id);
    }
    if (!status) status = bpei_index(t, v);
    return status ? status : bpei_check_bytes(t, v);
}

static int bpei_load_gpt2(bpe *t, bpei_file merges, bpei_file json) {
    bpei_vocab v;
    if (!merges.data || !json.data)
        return bpei_fail(t, BPE_EARG, "%s is NULL; pass the bytes of that file",
                         merges.data ? "encoder.json" : "vocab.bpe");
    bpei_vocab_init(&v, BPEI_BPE, BPE_SPLIT_GPT2);
    v.stray = BPE_STRAY_TAIL;
    int status = bpei_take(t, &v, bpei_parse_gpt2(t, merges, json, &v));
    t->source = NULL;
    return status;
}

int (bpe_load_gpt2_mem)(bpe *t, const void *merges, size_t merges_size, const void *json, size_t json_size) {
    bpei_file a = {(const char *)merges, merges_size, "vocab.bpe"}, b = {(const char *)json, json_size, "encoder.json"};
    return t ? bpei_load_gpt2(t, a, b) : BPE_EARG;
}

int (bpe_load_gpt2)(bpe *t, const char *vocab_bpe, const char *encoder_json) {
    if (!t) return BPE_EARG;
    char *merges = NULL, *json = NULL;
    bpei_file a = {NULL, 0, vocab_bpe}, b = {NULL, 0, encoder_json};
    int status = bpei_read_file(t, vocab_bpe, &merges, &a.size);
    if (!status) status = bpei_read_file(t, encoder_json, &json, &b.size);
    a.data = merges, b.data = json;
    if (!status) status = bpei_load_gpt2(t, a, b);
    BPE_FREE(merges);
    BPE_FREE(json);
    t->source = NULL;
    return status;
}

// llama2.c's tokenizer.bin: the longest token's length; then for each token its score (float), its length and its
// bytes. Ids 0..2 are control tokens, 3..258 the bytes as "<0x00>" to "<0xFF>". A join of higher score comes first:
// float order is turned round into ranks. Scores of -1e10 and below never join, as in run.c.
static int bpei_parse_llama2c(bpe *t, const unsigned char *p, size_t size, int vocab_size, bpei_vocab *v) {
    static const char control[3][8] = {"<unk>", "<s>", "</s>"};
    size_t at = 4;
    uint32_t id = 0;
    int status = BPE_OK;
#define BPEI_U32(q) ((uint32_t)(q)[0] | (uint32_t)(q)[1] << 8 | (uint32_t)(q)[2] << 16 | (uint32_t)(q)[3] << 24)
    if (size < 4)
        return bpei_fail(t, BPE_EFORMAT, "%.0f bytes; wanted a tokenizer.bin, which begins with 4 bytes. Is it the "
                         "right file?", (double)size);
    uint32_t longest = BPEI_U32(p);
    for (; at < size && (vocab_size == 0 || id < (uint32_t)vocab_size); id++) {
        if (size - at < 8)
            return bpei_fail(t, BPE_EFORMAT,
                             "byte %.0f: wanted score and length of token %u, got the end of the file. "
                             "Is it cut short?",
                             (double)at, (unsigned)id);
        uint32_t bits = BPEI_U32(p + at), length = BPEI_U32(p + at + 4);
        if (length == 0 || length > longest || length > size - at - 8)
            return bpei_fail(t, BPE_EFORMAT,
                             "byte %.0f: token %u has length %u; the longest has %u, and %.0f bytes are left. "
                             "Is it the right file?",
                             (double)at + 4, (unsigned)id, (unsigned)length, (unsigned)longest,
                             (double)(size - at - 8));
        if ((bits & 0x7F800000) == 0x7F800000)
            return bpei_fail(t, BPE_EFORMAT, "byte %.0f: the score of token %u is not a number. Is the file damaged?",
                             (double)at, (unsigned)id);
        if (bits == 0x80000000) bits = 0;
        float score;
        memcpy(&score, &bits, 4);
        uint32_t rank = score > -1e10f ? ~(bits & 0x80000000 ? ~bits : bits | 0x80000000) : BPEI_NEVER;
        const char *text = (const char *)p + at + 8;
        at += 8 + (size_t)length;
        char hex[8], *to;
        if (id < 3) {
            status = bpei_put_special(t, v, control[id], strlen(control[id]), id);
            if (status) return status;
            continue;
        }
        snprintf(hex, sizeof hex, "<0x%02X>", (unsigned)(id - 3) & 255);
        if (id < 259 && (length != 6 || memcmp(text, hex, 6)))
            return bpei_fail(t, BPE_EFORMAT, "token %u is \"%.*s\"; wanted %s: ids 3 to 258 have to be the bytes. Is "
                             "it the right file?", (unsigned)id, (int)(length < 20 ? length : 20), text, hex);
        to = bpei_put(t, v, id, id < 259 ? 1 : length, rank, id < 259 ? BPEI_BYTE : BPEI_TEXT);
        if (!to) return v->status;
        if (id < 259) *to = (char)(id - 3);
        else memcpy(to, text, length);
    }
#undef BPEI_U32
    if (vocab_size && id < (uint32_t)vocab_size)
        return bpei_fail(t, BPE_EFORMAT, "%u tokens; the model wants %d. Is the file cut short, or another one?",
                         (unsigned)id, vocab_size);
    if (at < size)
        return bpei_fail(t, BPE_EFORMAT,
                         "%.0f bytes after token %d; the model wants no more. Is it another model's file?",
                         (double)(size - at), vocab_size - 1);
    status = bpei_index(t, v);
    return status ? status : bpei_check_bytes(t, v);
}

static int bpei_load_llama2c(bpe *t, const void *data, size_t size, int vocab_size) {
    bpei_vocab v;
    if (!data) return bpei_fail(t, BPE_EARG, "data is NULL; pass the bytes of a tokenizer.bin");
    if (vocab_size < 0)
        return bpei_fail(t, BPE_EARG, "vocab_size is %d; pass the model's, or 0 for what the file holds", vocab_size);
    bpei_vocab_init(&v, BPEI_LLAMA, BPE_SPLIT_NONE);
    return bpei_take(t, &v, bpei_parse_llama2c(t, (const unsigned char *)data, size, vocab_size, &v));
}

int (bpe_load_llama2c_mem)(bpe *t, const void *data, size_t size, int vocab_size) {
    return t ? bpei_load_llama2c(t, data, size, vocab_size) : BPE_EARG;
}

int (bpe_load_llama2c)(bpe *t, const char *path, int vocab_size) {
    BPEI_WITH_FILE(path, bpei_load_llama2c(t, data, size, vocab_size));
}

// ---- 14. Our own format ---------------------------------------------------------------------------------------------

// One line that says how many tokens and bytes follow and their CRC-32; one line of kind, split and stray rule; one
// line a token: id, rank, type (t, b or s), number of bytes, and the bytes as they are. Lengths, not separators, say
// where bytes end.
static const char bpei_kind_names[BPEI_KINDS][8] = {"empty", "bytes", "chars", "words", "bpe", "llama"};
static const char bpei_split_names[4][8] = {"none", "gpt2", "cl100k", "o200k"};
static const char bpei_stray_names[2][8] = {"symbol", "tail"};

// CRC-32 as in PNG and zip (polynomial EDB88320 reversed), half a byte at a time.
static uint32_t bpei_crc32(uint32_t crc, const char *p, size_t n) {
    static const uint32_t table[16] = {
        0x00000000, 0x1DB71064, 0x3B6E20C8, 0x26D930AC, 0x76DC4190, 0x6B6B51F4, 0x4DB26158, 0x5005713C,
        0xEDB88320, 0xF00F9344, 0xD6D6A3E8, 0xCB61B38C, 0x9B64C2B0, 0x86D3D2D4, 0xA00AE278, 0xBDBDF21C};
    crc = ~crc;
    for (size_t i = 0; i < n; i++) {
        crc ^= (unsigned char)p[i];
        crc = crc >> 4 ^ table[crc & 15];
        crc = crc >> 4 ^ table[crc & 15];
    }
    return ~crc;
}

static void bpei_write_sum(bpei_out *o, const char *p, size_t n) {
    o->crc = bpei_crc32(o->crc, p, n);
    bpei_write(o, p, n);
}

static void bpei_write_body(const bpei_vocab *v, bpei_out *o) {
    char line[96];
    bpei_write_sum(o, line, (size_t)snprintf(line, sizeof line, "kind %s split %s stray %s\n", bpei_kind_names[v->kind],
                                             bpei_split_names[v->split], bpei_stray_names[v->stray]));
    for (int id = 0; id < v->n; id++) {
        const bpei_token *token = &v->token[id];
        if (!token->size) continue;
        bpei_write_sum(o, line,
                       (size_t)snprintf(line, sizeof line, "%d %u %c %u ", id, (unsigned)token->rank, token->type,
                                        (unsigned)token->size));
        bpei_write_sum(o, v->text + token->at, token->size);
        bpei_write_sum(o, "\n", 1);
    }
}

long (bpe_save_mem)(const bpe *t, void *buffer, size_t cap) {
    if (!t || t->v.kind == BPEI_EMPTY || (!buffer && cap)) return BPE_EARG;
    bpei_out count = {NULL, 0, 0, 0}, o = {(char *)buffer, cap, 0, 0};
    char line[96];
    bpei_write_body(&t->v, &count);
    bpei_write(&o, line, (size_t)snprintf(line, sizeof line, "bpe 1 tokens %d bytes %.0f crc32 %08x\n", t->v.used,
                                          (double)count.n, (unsigned)count.crc));
    bpei_write_body(&t->v, &o);
    return o.n > INT32_MAX ? (long)BPE_EARG : (long)o.n;
}

static int bpei_literal(const char **p, const char *end, const char *text) {
    size_t n = strlen(text);
    if ((size_t)(end - *p) < n || memcmp(*p, text, n)) return 0;
    *p += n;
    return 1;
}

// The number of the name that stands at *p with `after` behind it, or -1.
static int bpei_name(const char **p, const char *end, const char (*names)[8], int n, const char *after) {
    for (int i = 0; i < n; i++) {
        const char *q = *p;
        if (bpei_literal(&q, end, names[i]) && bpei_literal(&q, end, after)) return *p = q, i;
    }
    return -1;
}

static int bpei_parse_own(bpe *t, const char *p, size_t size, bpei_vocab *v) {
    const char *start = p, *end = p + size;
    uint32_t tokens = 0, bytes = 0, sum = 0;
    if (!bpei_literal(&p, end, "bpe 1 tokens "))
        return bpei_fail(t, BPE_EFORMAT,
                         "byte 0: wanted \"bpe 1 tokens\", got \"%.*s\". Not a file of bpe_save's; for others "
                         "there are bpe_load_tiktoken, bpe_load_gpt2 and bpe_load_llama2c",
                         (int)(size < 20 ? size : 20), p);
    int ok = bpei_number(&p, end, INT32_MAX, &tokens) && bpei_literal(&p, end, " bytes ")
          && bpei_number(&p, end, INT32_MAX, &bytes) && bpei_literal(&p, end, " crc32 ") && end - p > 8;
    for (int i = 0; ok && i < 8; i++, p++) {
        int digit = *p >= '0' && *p <= '9' ? *p - '0' : *p >= 'a' && *p <= 'f' ? *p - 'a' + 10 : -1;
        ok = digit >= 0, sum = sum << 4 | (uint32_t)(digit & 15);
    }
    if (!ok || !bpei_literal(&p, end, "\n"))
        return bpei_fail(t, BPE_EFORMAT, "byte %.0f: the first line is damaged; get the file again",
                         (double)(p - start));
    if ((size_t)(end - p) != bytes)
        return bpei_fail(t, BPE_EFORMAT,
                         "byte %.0f: wanted %u more bytes, got %.0f. Is the file cut short? Get it again",
                         (double)(p - start), (unsigned)bytes, (double)(end - p));
    uint32_t got = bpei_crc32(0, p, bytes);
    if (got != sum) return bpei_fail(t, BPE_EFORMAT, "checksum %08x, wanted %08x: the file is damaged; get it again",
                                     (unsigned)got, (unsigned)sum);
    v->kind = bpei_literal(&p, end, "kind ") ? bpei_name(&p, end, bpei_kind_names, BPEI_KINDS, " split ") : -1;
    v->split = v->kind > BPEI_EMPTY ? bpei_name(&p, end, bpei_split_names, 4, " stray ") : -1;
    v->stray = v->split >= 0 ? bpei_name(&p, end, bpei_stray_names, 2, "\n") : -1;
    if (v->stray < 0)
        return bpei_fail(t, BPE_EFORMAT,
                         "byte %.0f: wanted kind, split and stray rule. Was it written by a newer bpe.h?",
                         (double)(p - start));
    for (int64_t last = -1; p < end;) {
        uint32_t id, rank, length;
        const char *line = p;
        int status = BPE_OK;
        ok = bpei_number(&p, end, INT32_MAX, &id) && (int64_t)id > last && bpei_literal(&p, end, " ")
          && bpei_number(&p, end, UINT32_MAX, &rank) && bpei_literal(&p, end, " ") && p < end;
        int type = ok ? *p++ : 0;
        ok = ok && (type == BPEI_TEXT || type == BPEI_BYTE || type == BPEI_SPECIAL) && bpei_literal(&p, end, " ")
          && bpei_number(&p, end, INT32_MAX, &length) && bpei_literal(&p, end, " ") && (size_t)(end - p) > length
          && p[length] == '\n' && length > 0;
        if (ok && type == BPEI_BYTE) ok = length == 1;
        if (ok && type == BPEI_SPECIAL) ok = !memchr(p, 0, length);
        if (!ok)
            return bpei_fail(t, BPE_EFORMAT, "byte %.0f: wanted a token as \"id rank type length bytes\", got \"%.*s\""
                             ". Save the tokenizer again", (double)(line - start),
                             (int)(end - line < 30 ? end - line : 30), line);
        last = id;
        if (type == BPEI_SPECIAL) status = bpei_put_special(t, v, p, length, id);
        else {
            char *to = bpei_put(t, v, id, length, rank, type);
            if (to) memcpy(to, p, length);
            else status = v->status;
        }
        if (status) return status;
        p += length + 1;
    }
    if ((uint32_t)v->used != tokens)
        return bpei_fail(t, BPE_EFORMAT, "%d tokens, wanted %u; get the file again", v->used, (unsigned)tokens);
    int status = bpei_index(t, v);
    if (!status && (v->kind == BPEI_BYTES || v->kind == BPEI_BPE || v->kind == BPEI_LLAMA))
        status = bpei_check_bytes(t, v);
    if (!status && v->kind == BPEI_WORDS && (!v->n || !v->token[0].size))
        status = bpei_fail(t, BPE_EFORMAT, "a vocabulary of words without token 0, <unk>; save the tokenizer again");
    return status;
}

static int bpei_load_own(bpe *t, const void *data, size_t size) {
    bpei_vocab v;
    if (!data && size)
        return bpei_fail(t, BPE_EARG, "data is NULL and its size %.0f; pass the bytes of a file", (double)size);
    bpei_vocab_init(&v, BPEI_EMPTY, BPE_SPLIT_NONE);
    return bpei_take(t, &v, bpei_parse_own(t, data ? (const char *)data : "", size, &v));
}

int (bpe_load_mem)(bpe *t, const void *data, size_t size) { return t ? bpei_load_own(t, data, size) : BPE_EARG; }

int (bpe_load)(bpe *t, const char *path) {
    BPEI_WITH_FILE(path, bpei_load_own(t, data, size));
}

// A file of ours is never half written: all goes to a temporary file in the same directory, to the disk, and only
// then takes the name. Strict C99 hides some declarations of POSIX, so the one that we need is repeated.
#ifdef _WIN32
#include <io.h>
#include <process.h>
#ifdef __cplusplus
extern "C" {
#endif
__declspec(dllimport) int __stdcall MoveFileExA(const char *from, const char *to, unsigned long flags);
__declspec(dllimport) void __stdcall Sleep(unsigned long milliseconds);
#ifdef __cplusplus
}
#endif
#else
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#ifndef __cplusplus
extern int fsync(int fd);
#endif
#endif

// Writes the file and brings it to the disk. Returns 0 or errno.
static int bpei_write_file(const char *path, const char *p, size_t n) {
#ifdef _WIN32
    FILE *f = fopen(path, "wb");
    if (!f) return errno;
    int bad = fwrite(p, 1, n, f) != n || fflush(f) || _commit(_fileno(f)) ? errno : 0;
    return fclose(f) && !bad ? errno : bad;
#else
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0666), bad = 0;
    if (fd < 0) return errno;
    while (n && !bad) {
        ssize_t wrote = write(fd, p, n < 1 << 30 ? n : 1 << 30);
        if (wrote > 0) p += wrote, n -= (size_t)wrote;
        else if (wrote == 0 || errno != EINTR) bad = wrote ? errno : EIO;
    }
    if (!bad && fsync(fd)) bad = errno;
    return close(fd) && !bad ? errno : bad;
#endif
}

static int bpei_replace_file(const char *from, const char *to) {
#ifdef _WIN32
    for (int i = 0; i < 10; i++) {
        if (MoveFileExA(from, to, 1 | 8)) return 0;                     // replace the old one, write through
        Sleep(10ul << i);                                               // another program may have it open for a moment
    }
    return EACCES;
#else
    struct stat old;                                        // a file must not take the place of /dev/null or of a pipe
    if (!stat(to, &old) && !S_ISREG(old.st_mode) && !S_ISDIR(old.st_mode)) return EINVAL;
    return rename(from, to) ? errno : 0;
#endif
}

int (bpe_save)(bpe *t, const char *path) {
    if (!t) return BPE_EARG;
    if (!path) return bpei_fail(t, BPE_EARG, "the path is NULL; pass the name of a file");
    long size = (bpe_save_mem)(t, NULL, 0);
    if (size < 0) return bpei_fail(t, BPE_EARG, "nothing to save; train or load a vocabulary first");
    size_t length = strlen(path) + 32;
    char *data = (char *)BPE_MALLOC((size_t)size), *temporary = (char *)BPE_MALLOC(length);
    int status = BPE_OK, why = 0;
    if (!data || !temporary) status = bpei_fail(t, BPE_ENOMEM, "out of memory for %ld bytes; free some first", size);
    else {
        (bpe_save_mem)(t, data, (size_t)size);
#ifdef _WIN32
        snprintf(temporary, length, "%s.tmp.%d", path, (int)_getpid());
#else
        snprintf(temporary, length, "%s.tmp.%d", path, (int)getpid());
#endif
        why = bpei_write_file(temporary, data, (size_t)size);
        if (!why) why = bpei_replace_file(temporary, path);
        if (why) {
            remove(temporary);
            status = bpei_fail(t, BPE_EFILE, "%.150s: cannot write it: %s. What was there before is untouched. Check "
                               "the folder, its permissions and the free space", path, strerror(why));
        }
    }
#ifndef _WIN32
    if (!status) {      // The new name is safe once the directory is on the disk too. Where it cannot be, no harm.
        char *slash = strrchr(temporary, '/');
        if (slash) slash[slash == temporary] = 0;
        int fd = open(slash ? temporary : ".", O_RDONLY);
        if (fd >= 0) fsync(fd), close(fd);
    }
#endif
    BPE_FREE(data);
    BPE_FREE(temporary);
    return status;
}
#endif // BPE_IMPLEMENTATION

/*
MIT License

Copyright (c) 2026 the authors of bpe.h

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
*/
