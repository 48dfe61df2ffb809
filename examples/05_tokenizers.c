// Lesson 05: what does a language model read, if not letters?
//
//     cc -O3 examples/05_tokenizers.c -o tokenizers -lm && ./tokenizers
//
// It reads numbers, and a tokenizer decides which. We cut one text in every common way (bits, bytes, characters, words,
// byte pairs) and count: few kinds of symbols make long rows, many kinds make short ones. Byte-pair encoding lets the
// reader choose: start from the bytes, join the most frequent pair of neighbours into a new token, repeat. Then
// we look through the eyes of GPT-2 (r50k), GPT-4 (cl100k) and GPT-4o (o200k), in their own vocabularies, at strings on
// which models stumble, and see why: the letters of a word, or the digits after a point, are not what they read.
//
// It prints    the smallest example, join by join: aaabdaaabac becomes 258 100 258 97 99
//              a table of all ways: Tiny Shakespeare is 8,923,152 bits, 338,025 tokens of GPT-2's, 301,829 of GPT-4's
//              a sentence in each of them, tokens in colour (in a pipe: with | between), and GPT-4's oddities
// It writes    out/05/kinds.png        the table as bars
//              out/05/size.png         what a larger vocabulary buys, on text that it was trained on and on other text
//              out/05/languages.png    the price of the same greeting in eight languages
//              out/05/log.csv          the numbers of size.png
// It takes     2 seconds. GPT's vocabularies are fetched once by examples/data/get.sh; without one its row stays out.
// Next         07_attention.c: what a model does with such a row. How training and encoding work inside is chapters 2
//              to 4 of bpe.h: counting, splitting, joining.
//
// Exercises
//   1. text="..." shows your own sentence. Find a word of fourteen letters that is one token for GPT-4, and one of six
//      that is three. Then write the first in capitals: how many tokens now? Why?
//   2. split=none lets tokens cross from word to word. Guess first: will our 1,024 tokens be better or worse at
//      Shakespeare? Compare the row "byte pairs, ours" and the longest tokens; then the two curves of size.png.
//   3. data=FILE with a text in another language, or a program: whose vocabulary has the most bytes per token now,
//      GPT-2's, GPT-4o's or ours? At which vocab= does ours pass GPT-2's?
#define BPE_DIE_ON_ERROR
#define BPE_IMPLEMENTATION
#include "../bpe.h"
#include "lesson.h"
#include "plot.h"

enum { KINDS = 7, GPT2 = 4, GPT4 = 5 };
static const char *const names[KINDS] = {"bytes", "characters", "words", "byte pairs, ours", "GPT-2's (r50k)",
                                         "GPT-4's (cl100k)", "GPT-4o's (o200k)"};
static const char *const files[KINDS] = {"", "", "", "", "r50k_base", "cl100k_base", "o200k_base"};
static const char *const splits[] = {"none", "gpt2", "cl100k", "o200k"};    // in the order of BPE_SPLIT_NONE and so on

static int *ids;                    // room for the tokens of any text that is looked at here
static size_t room;

static void save(plot *p, const char *name) { lesson_save(p, name), plot_free(p); }

static double count_tokens(const bpe *t, const char *text, size_t n) { return (double)bpe_encode(t, text, n, NULL, 0); }

// Where tokens begin and end: in colours on a terminal, with | in a pipe; or with the text `between` them.
static void print(const bpe *t, const int *tokens, long n, const char *between) {
    size_t size = (size_t)bpe_colour(t, tokens, (size_t)n, NULL, 0) + 1;
    char *cells = (char *)lesson_alloc(size, 1);
    bpe_colour(t, tokens, (size_t)n, cells, size);
    lesson_print_tokens(cells, between), free(cells);
}

// A string, its ids and what they stand for.
static void show_ids(const bpe *t, const char *text) {
    long n = bpe_encode(t, text, strlen(text), ids, room);
    printf("  %-22s", text);
    for (long i = 0; i < n; i++) printf(" %d", ids[i]);
    printf("   ("), print(t, ids, n, ", "), printf(")\n");
}

// Byte-pair encoding, join by join.
static void smallest_example(bpe *t) {
    const char *text = "aaabdaaabac";
    printf("\nthe smallest example: the bytes, then join the most frequent pair, three times\n");
    for (int vocab = 256; vocab < 260; vocab++) {
        bpe_train(t, text, strlen(text), vocab, BPE_SPLIT_NONE);
        show_ids(t, text);
    }
}

// The first twenty tokens that training made, and the ten longest.
static void learned(const bpe *t) {
    int some[20], n = 0, V = bpe_vocab_size(t);
    for (int id = 256; id < V && n < 20; id++) some[n++] = id;
    printf("\nthe first tokens that ours learned: \""), print(t, some, n, "\" \"");
    n = 0;
    for (size_t length = 100, size; length; length--)
        for (int id = 256; id < V && n < 10; id++)
            if (bpe_token(t, id, &size) && size == length) some[n++] = id;
    printf("\"\nits longest ones: \""), print(t, some, n, "\" \""), printf("\"\n");
}

// How well does a vocabulary fit, by its size? Trained on nine tenths of the text, measured on both parts.
static void size_curve(bpe *const *kind, const char *text, size_t n, int split) {
    size_t head = n * 9 / 10, tail = n - head;
    const char *path = lesson_path("log.csv"), *unseen = text + head;
    bpe *t = bpe_new();
    lesson_csv csv = lesson_csv_open(path, "vocabulary,bytes_per_token_seen,bytes_per_token_unseen");
    for (int vocab = 256; vocab <= 1 << 15; vocab *= 2) {
        bpe_train(t, text, head, vocab, split);
        double row[3] = {bpe_vocab_size(t), head / count_tokens(t, text, head), tail / count_tokens(t, unseen, tail)};
        lesson_csv_row(&csv, row, 3);
        if (row[0] < vocab) break;                                  // no pair occurs twice any more
    }
    lesson_csv_close(&csv), bpe_free(t);
    plot *p = plot_new("A larger vocabulary makes shorter rows", "tokens in the vocabulary", "bytes per token");
    plot_subtitle(p, "byte pairs learned from nine tenths of the text; the GPTs are measured on the last tenth");
    plot_log_x(p), plot_csv(p, "the text it learned from", path, "vocabulary", "bytes_per_token_seen"), plot_dots(p);
    plot_csv(p, "the last tenth", path, "vocabulary", "bytes_per_token_unseen"), plot_dots(p);
    for (int i = GPT2; i < KINDS; i++)
        if (kind[i]) plot_note(p, bpe_vocab_size(kind[i]), tail / count_tokens(kind[i], unseen, tail), names[i]);
    save(p, "size.png");
}

static void languages(bpe *const *kind) {
    static const char *const name[] = {"English", "German", "Russian", "Greek", "Hindi", "Chinese", "Korean", "Arabic"};
    static const char *const text[] = {
        "Good morning, how are you?", "Guten Morgen, wie geht es dir?", "Доброе утро, как дела?",
        "Καλημέρα, τι κάνεις;", "सुप्रभात, आप कैसे हैं?",
        "早上好，你好吗？", "좋은 아침이에요, 잘 지내세요?",
        "صباح الخير، كيف حالك؟"};
    plot *p = plot_new("What \"Good morning, how are you?\" costs", "", "tokens");
    plot_subtitle(p, "vocabularies learned mostly from English make other languages pay");
    for (int i = GPT2; i < KINDS; i++) {
        double tokens[8];
        for (int k = 0; k < 8 && kind[i]; k++) tokens[k] = count_tokens(kind[i], text[k], strlen(text[k]));
        if (kind[i]) plot_bars(p, names[i], name, tokens, 8), plot_values(p, "%.0f");
    }
    save(p, "languages.png");
}

int main(int argc, char **argv) {
    lesson_begin(argc, argv, "05", "words, characters, bytes and byte pairs side by side");
    int vocab = lesson_int_in("vocab", 1024, 256, 1 << 20, "tokens in the vocabulary that we train"), split = 0;
    const char *file = lesson_str("data", "", "a text file of yours instead of Tiny Shakespeare");
    const char *text = lesson_str("text", "Now is the winter of our discontent; unfathomably so, in 1593.", "to show");
    const char *where = lesson_choice("split", "gpt2", "none|gpt2|cl100k|o200k", "where tokens must end");
    lesson_options_end();
    while (strcmp(where, splits[split])) split++;

    size_t n, size;
    char *data = (char *)(*file ? lesson_file(file, &n) : lesson_data("tinyshakespeare.txt", &n)), path[64];
    bpe *kind[KINDS], *spare = bpe_new();
    room = n + strlen(text) + 100, ids = (int *)lesson_alloc(room, sizeof *ids);     // never more tokens than bytes
    for (int i = 0; i < KINDS; i++) {
        snprintf(path, sizeof path, "%s.tiktoken", files[i]);
        unsigned char *ranks = i < GPT2 ? NULL : lesson_data(path, &size);
        kind[i] = i < GPT2 || ranks ? bpe_new() : NULL;
        if (ranks) bpe_load_tiktoken_mem(kind[i], ranks, size, files[i]);
        free(ranks);
    }
    smallest_example(spare);
    bpe_bytes(kind[0]), bpe_chars(kind[1], data, n), bpe_words(kind[2], data, n, 1 << 24);
    bpe_train(kind[3], data, n, vocab, split);

    printf("\nthe letter b is the byte ");
    for (int bit = 7; bit >= 0; bit--) putchar('0' + ('b' >> bit & 1));
    printf(", which is the number %d\nthe text: %s bytes of %d kinds\n", bpe_find(kind[0], "b", 1),
           lesson_commas((long long)n), bpe_vocab_size(kind[1]));
    printf("  %-22s %9s %11s %10s\n", "symbols", "kinds", "in the text", "bytes each");
    printf("  %-22s %9d %11s %10.2f\n", "bits", 2, lesson_commas(8 * (long long)n), 1 / 8.0);
    const char *labels[KINDS];
    double thousands[KINDS];
    size_t rows = 0;
    for (int i = 0; i < KINDS; i++) {
        if (!kind[i]) continue;
        double tokens = count_tokens(kind[i], data, n);
        printf("  %-22s %9s %11s %10.2f\n", names[i], lesson_commas(bpe_vocab_size(kind[i])),
               lesson_commas((long long)tokens), (double)n / tokens);
        labels[rows] = names[i], thousands[rows++] = tokens / 1000;
    }

    // No list of words is complete: of a list from nine tenths, how many words of the last tenth are missing?
    bpe_words(spare, data, n * 9 / 10, 1 << 24);
    long unknown = 0, tokens = bpe_encode(spare, data + n * 9 / 10, n - n * 9 / 10, ids, room);
    for (long i = 0; i < tokens; i++) unknown += ids[i] == 0;       // <unk>
    printf("a list of the words in nine tenths lacks %.1f %% of those in the last tenth\n",
           100.0 * (double)unknown / (double)tokens);

    learned(kind[3]);
    printf("\nthe same line, and how many tokens it is:\n");
    bpe_fallback(kind[1]), bpe_fallback(kind[2]);                   // what they do not know they write in bytes
    for (int i = 0; i < KINDS; i++)
        if (kind[i]) {
            tokens = bpe_encode(kind[i], text, strlen(text), ids, room);
            printf("  %-20s %4ld  ", names[i], tokens), print(kind[i], ids, tokens, NULL), printf("\n");
        }
    if (kind[GPT4]) {
        static const char *const odd[] = {"hello world", "Hello World", "hello  world", "|Viewing Single Post",
                                          " Direction", "ubiquitous", "...............", "9.11", "9.9"};
        printf("\nhow GPT-4 reads (ids, and what they stand for):\n");
        for (int i = 0; i < 9; i++) show_ids(kind[GPT4], odd[i]);
        printf("Case and spaces make other tokens of the same words. How many letters has token 19438? The number\n"
               "does not say. And 9.11 ends in the token 11, 9.9 in 9: 11 is more than 9, but 9.11 is less than 9.9.\n");
        languages(kind);
    }
    size_curve(kind, data, n, split);
    plot *p = plot_new("One text, cut in every common way", "", "thousands of symbols");
    plot_bars(p, NULL, labels, thousands, rows), plot_values(p, "%.0f");
    save(p, "kinds.png");
    printf("\n");
    lesson_written(kind[GPT4] ? "kinds.png, size.png, languages.png, log.csv" : "kinds.png, size.png, log.csv");
    for (int i = 0; i < KINDS; i++) bpe_free(kind[i]);
    bpe_free(spare), free(data), free(ids);
    return lesson_end();
}
