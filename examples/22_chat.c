// Lesson 22: what is it like to talk to what you trained?
//
//     cc -O3 examples/22_chat.c -o chat -lm && ./chat
//
// A chat is a loop around a function that knows nothing of yesterday. Before each answer the whole conversation is laid
// out as tokens, the system's message first, and the model continues it; when it no longer fits into the context, the
// oldest turns are dropped, and the model has then forgotten them in the plainest sense. What has not changed since the
// last answer is still in the KV cache and is not computed again. Each new token is one draw from one distribution, and
// the settings of lesson 09 can be changed between two answers. A model that has learned to use tools (lesson 12) is
// given them: at <|tool_end|> drawing stops, a C function answers, and its answer is read like everything else.
//
//     ./chat                                   that of the furthest lesson: out/16, else out/15, 14, 12, 11, base, 08
//     ./chat model=out/12/model.safetensors    any checkpoint; a base model continues what you write
//     ./chat < questions.txt                   reads from a pipe or a file, one message a line, and repeats it
//
//     /temp 0.7   /top_p 0.9   /top_k 40   /min_p 0.05    how tokens are drawn, from now on
//     /system You are Romeo.       what it is told before all else; alone: nothing
//     /tokens on|off               shows each token with its probability: green above 0.5, red below 0.1
//     /clear                       all turns are forgotten: the next question is the first
//     /tools on|off   /save talk.txt   /help   /quit
//
// It prints    the model's answers, token by token
// It writes    out/22/log.csv      every token that it drew, with its probability
//              out/22/sure.png     the same as a picture: how sure it was
// It takes     as long as you like
// Next         all of it again, with a text of yours: 08_pretrain.c data=mine.txt
//
// Exercises
//   1. Ask the same question with /temp 0, 0.7 and 2. With /tokens on: where does the answer go astray, and how
//      probable was the token that led it there?
//   2. Tell it your name, talk until a turn is forgotten, and ask for it. Then tell it with /system: what is kept?
//   3. With lesson 12's model, /temp 0 and /tokens on: "How many r in strawberry?", then /clear, /tools off, and again.
//      It has only ever learned to ask, and now cannot: what does it say, and how probable was its first token?
#define AG_DIE_ON_ERROR
#define AUTOGRAD_IMPLEMENTATION
#define GPT_IMPLEMENTATION
#define BPE_DIE_ON_ERROR
#define BPE_IMPLEMENTATION
#include "../gpt.h"
#include "../bpe.h"
#include "lesson.h"
#include "plot.h"
#include "stage.h"
#include "tools.h"

enum { TURNS = 256, LINE = 4000 };
typedef struct turn { int *ids, n; } turn;      // what you said, the answer, and what tools said in between

static struct {
    stage s;
    char kind[32];                              // the stage of the model
    int base;                                   // 1: it knows no conversations, only text
    gpt_sampling how;
    int show_tokens, tools, most;               // most: tokens of one answer
    char system[LINE];
    turn turns[TURNS];                          // those that are remembered
    int n_turns;
    char *talk;                                 // all that was said, for /save
    size_t talk_size;
    gpt_cache *cache;
    int *fed, n_fed;                            // the tokens that are in the cache
    ag_real *logits, *probs;
    lesson_csv csv;
    double *sure;                               // of all tokens drawn
    int n_sure, answers;
} chat;

// What the model has never seen it cannot do, so it is said before somebody tries.
static void note(void) {
    int tools = !strcmp(chat.kind, "tools");
    if (chat.base) printf("note: a base model has never seen a conversation. It continues what you write.\n");
    else printf("note: it has only seen conversations of one question%s. A %s is foreign to it; /clear forgets those "
                "before.\n", tools ? " or two" : "", tools ? "third" : "second");
}

static void load(ag_ctx *ag, const char *path) {
    gpt_state state;
    chat.s = stage_load_state(ag, path, NULL, &state), stage_named(&state, chat.kind);
    if (!chat.s.model) lesson_fail("%s: %s", path, strerror(errno));
    if (!strcmp(chat.kind, "reward") || !strcmp(chat.kind, "gold"))
        lesson_fail("%s is a model of stage %s: it judges answers and gives none. Wanted any other stage", path,
                    chat.kind);
    gpt_state_free(&state);
    chat.base = bpe_special(chat.s.tokens, "<|im_start|>") < 0;
    const gpt_config *c = &chat.s.model->config;
    printf("%s: stage %s, %s, %s parameters, context %d\n", path, chat.kind, c->name,
           lesson_commas((long long)gpt_count(c)), c->n_ctx);
    note();
    gpt_train(chat.s.model, 0);
    chat.cache = gpt_cache_new(chat.s.model, 1);
    chat.fed = (int *)lesson_alloc((size_t)c->n_ctx, sizeof *chat.fed);
    chat.logits = (ag_real *)lesson_alloc((size_t)c->n_vocab, sizeof *chat.logits);
    chat.probs = (ag_real *)lesson_alloc((size_t)c->n_vocab, sizeof *chat.probs);
}

// A checkpoint that a lesson has left, the furthest first, however old it is.
static const char *furthest(void) {
    static const char *const folders[] = {"16", "15", "14", "12", "11", "base", "08"};
    static char path[40];
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        snprintf(path, sizeof path, "out/%s/model.safetensors", folders[i]);
        if (lesson_exists(path)) return path;
    }
    lesson_fail("no model yet: none in out/16, 15, 14, 12, 11, base, 08. Run lesson 08 first, or say model=FILE");
    return NULL;
}

static void keep(const char *who, const char *text) {
    size_t more = strlen(who) + strlen(text) + 4;
    char *talk = (char *)lesson_alloc(chat.talk_size + more, 1);
    if (chat.talk) memcpy(talk, chat.talk, chat.talk_size);
    chat.talk_size += (size_t)snprintf(talk + chat.talk_size, more, "%s%s%s\n", who, *who ? ": " : "", text);
    free(chat.talk), chat.talk = talk;
}

static void forget(int n) {
    for (int i = 0; i < n; i++) free(chat.turns[i].ids);
    chat.n_turns -= n;
    memmove(chat.turns, chat.turns + n, (size_t)chat.n_turns * sizeof *chat.turns);
}

// Feeds what is not in the cache yet; the logits of the last token come back.
static void feed(const int *ids, int n) {
    int same = 0;
    while (same < n - 1 && same < chat.n_fed && ids[same] == chat.fed[same]) same++;
    gpt_cache_truncate(chat.cache, 0, same);
    gpt_feed(chat.cache, ids + same, n - same, NULL, chat.logits);
    memcpy(chat.fed, ids, (size_t)n * sizeof *ids), chat.n_fed = n;
}

static void show_token(const char *piece, size_t size, double p) {
    int colours = lessoni_terminal();
    if (colours) printf(p > 0.5 ? "\033[32m" : p < 0.1 ? "\033[31m" : "\033[33m");
    else putchar('|');
    for (size_t i = 0; i < size; i++)
        if (piece[i] >= 32 && piece[i] < 127) putchar(piece[i]);
        else printf(piece[i] == '\n' ? "\\n" : "\\x%02x", (unsigned)(unsigned char)piece[i]);
    printf(colours ? "\033[90m %.2f\033[0m " : " %.2f", p);
    fflush(stdout);
}

// The conversation so far, and what is said now: tokens, of which the first *own belong to earlier turns.
static tools_row lay_out(const char *text, int *own) {
    gpt_message say[2] = {{GPT_SYSTEM, chat.system, 0}, {GPT_USER, text, 0}};
    stage_talk first = {NULL, 0, NULL}, now = {NULL, 0, NULL};
    tools_row r;
    memset(&r, 0, sizeof r);
    r.cap = chat.s.model->config.n_ctx, r.ids = (int *)lesson_alloc((size_t)r.cap, sizeof *r.ids);
    if (chat.base) {
        char *line = (char *)lesson_alloc(strlen(text) + 2, 1);
        sprintf(line, "%s%s", text, bpe_find(chat.s.tokens, "\n", 1) < 0 ? "" : "\n");    // a vocabulary may lack it
        now.ids = stage_ids(&chat.s, line, &now.n), free(line);
    } else {
        now = stage_render(&chat.s, say + 1, 1, 1);
        if (*chat.system) first = stage_render(&chat.s, say, 1, 0);
    }
    int room = chat.most < r.cap / 4 ? chat.most : r.cap / 4, n = first.n + now.n + room, dropped = 0;
    if (n > r.cap) {
        printf("(too long: %d tokens, and the context has %d, of which %d are for the answer)\n", first.n + now.n,
               r.cap, room);
        r.ended = 1;
    } else {
        for (int i = 0; i < chat.n_turns; i++) n += chat.turns[i].n;
        int full = n > r.cap;
        while (n > r.cap || chat.n_turns == TURNS) n -= chat.turns[0].n, forget(1), dropped++;
        if (dropped) printf("(forgotten: the oldest turn%s; ", dropped > 1 ? "s" : "");
        if (dropped && full) printf("the context of %d tokens is full, %d of them for the answer)\n", r.cap, room);
        else if (dropped) printf("no more than %d are kept)\n", TURNS);
        memcpy(r.ids, first.ids ? first.ids : now.ids, (size_t)first.n * sizeof *r.ids), r.n = first.n;
        for (int i = 0; i < chat.n_turns; i++)
            memcpy(r.ids + r.n, chat.turns[i].ids, (size_t)chat.turns[i].n * sizeof *r.ids), r.n += chat.turns[i].n;
        *own = r.n;
        memcpy(r.ids + r.n, now.ids, (size_t)now.n * sizeof *r.ids), r.said = r.n += now.n;
    }
    stage_talk_free(&first), stage_talk_free(&now);
    return r;
}

// A line of its own about a tool: on the screen, and in what /save writes. *open: words stand on the line before it.
LESSON_PRINTF(2, 3) static void remark(int *open, const char *format, ...) {
    char line[2 * TOOLS_TEXT + 100];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    lesson_print_text(NULL, 0), printf(*open ? "\n" : ""), lesson_print_said(line), printf("\n");
    keep("tool", line), *open = 0;
}

// The template's tokens and those around a call are nothing to read; <think> and <answer> of lesson 15 are.
static int hidden(const char *piece, int id) {
    return piece && !strncmp(piece, "<|", 2) && bpe_special(chat.s.tokens, piece) == id;
}

// What is to be read of some tokens, to be freed.
static char *readable(const int *ids, int n) {
    int *plain = (int *)lesson_alloc((size_t)n + 1, sizeof *plain), k = 0;
    for (int i = 0; i < n; i++) {
        const char *piece = bpe_token(chat.s.tokens, ids[i], NULL);
        if (piece && !hidden(piece, ids[i])) plain[k++] = ids[i];
    }
    char *text = stage_string(&chat.s, plain, k);
    free(plain);
    return text;
}

static void keep_said(const int *ids, int n) {
    char *said = readable(ids, n);
    if (*said) keep("assistant", said);
    free(said);
}

// The model has said <|tool_end|>: its call is answered, or it is said why not.
static void answer_call(tools_row *r, int begun, int *open) {
    char request[TOOLS_TEXT] = "", answer[TOOLS_TEXT] = "";
    int calls = r->calls, on = tools_turn(&chat.s, r, TOOLS_CALLS, request, answer);
    if (!begun) remark(open, "[it ends a call that it has not begun]");
    else if (calls == TOOLS_CALLS) remark(open, "[it asks once more: %d calls are the most of one answer]", calls);
    else if (strncmp(answer, "error: ", 7)) remark(open, "[%s: %s]", request, answer);
    else remark(open, "[%s: the tool does not understand this call and says \"%s\"]", request, answer);
    if (begun && calls < TOOLS_CALLS && !on) remark(open, "[its context has no room for that]");
}

// One answer. This is the loop that a chat is made of.
static void reply(const char *text) {
    stage *s = &chat.s;
    int end = bpe_special(s->tokens, "<|im_end|>"), start = bpe_special(s->tokens, "<|im_start|>");
    int call = bpe_special(s->tokens, "<|tool_start|>"), called = bpe_special(s->tokens, "<|tool_end|>");
    int own = 0, drawn = 0, begun = 0, open = 0;        // begun: where the request of its call begins, 0: nowhere
    gpt_sampling plain = {1, 0, 0, 0, NULL, 0};
    tools_row r = lay_out(text, &own);
    if (r.ended) { free(r.ids); return; }
    keep("user", text);
    int from = r.n;                                     // words that are not kept yet
    for (chat.answers++; !r.ended && drawn < chat.most && r.n < r.cap; drawn++) {
        size_t size = 0;
        feed(r.ids, r.n);
        gpt_probs(s->model, &plain, chat.logits, chat.probs);
        if (!chat.tools && call >= 0) chat.logits[call] = chat.logits[called] = -INFINITY;  // off: it cannot ask
        int id = gpt_sample(s->model, &chat.how, chat.logits, NULL);
        double p = chat.probs[id], cells[] = {chat.answers, id, p};
        const char *piece = bpe_token(s->tokens, id, &size);
        r.ids[r.n++] = id;
        lesson_csv_row(&chat.csv, cells, 3);
        if (!(chat.n_sure & (chat.n_sure - 1))) {               // room grows with powers of two
            double *more = (double *)lesson_alloc(2 * (size_t)chat.n_sure + 1, sizeof *more);
            if (chat.sure) memcpy(more, chat.sure, (size_t)chat.n_sure * sizeof *more);
            free(chat.sure), chat.sure = more;
        }
        chat.sure[chat.n_sure++] = p;
        if (!chat.base && id == call) begun = r.n;
        if (chat.show_tokens) show_token(piece ? piece : "", size, p), open = 1;
        else if (!begun && !hidden(piece, id)) lesson_print_text(piece, size), open = 1;
        if (!chat.base && id == called) {
            keep_said(r.ids + from, (begun ? begun : r.n) - from);
            answer_call(&r, begun, &open), begun = 0, from = r.n;
        } else if (!chat.base && (id == end || id == start)) r.ended = 1;
        else if (chat.base) {                                   // an empty line ends a speech
            char *said = stage_string(s, r.ids + r.said, r.n - r.said);
            size_t n = strlen(said);
            r.ended = n > 2 && !strcmp(said + n - 2, "\n\n"), free(said);
        }
    }
    int last = r.ids[r.n - 1];
    keep_said(r.ids + from, (begun ? begun : r.n) - from);
    if (begun) {
        char *request = readable(r.ids + begun, r.n - begun);
        remark(&open, "[a call that it does not end: %s]", request), free(request);
    } else if (!open && (last == end || last == start)) printf("(it says nothing)\n");
    lesson_print_text(NULL, 0), printf(open ? "\n" : "");
    if (!r.ended && r.n >= r.cap) printf("(cut off: the context of %d tokens is full)\n", r.cap);
    else if (!r.ended) printf("(cut off after %d tokens; started with tokens=%d it may say more)\n", drawn, 2 * drawn);
    turn *t = &chat.turns[chat.n_turns++];
    int newline = 0, *after = chat.base ? NULL : stage_ids(s, "\n", &newline);
    t->ids = (int *)lesson_alloc((size_t)(r.n - own + 1 + newline), sizeof *t->ids), t->n = r.n - own;
    memcpy(t->ids, r.ids + own, (size_t)t->n * sizeof *t->ids);
    if (!chat.base && t->ids[t->n - 1] != end) t->ids[t->n++] = end;       // cut short: the turn ends all the same
    if (!chat.base) memcpy(t->ids + t->n, after, (size_t)newline * sizeof *after), t->n += newline;
    free(after), free(r.ids);
}

static void help(void) {
    printf("/temp %g   /top_p %g   /top_k %d   /min_p %g   how tokens are drawn (/temp 0: the likeliest)\n"
           "/system TEXT   what it is told before all else, now: %s\n"
           "/tokens on|off   each token with its probability, now %s\n/tools on|off   now %s (off: it cannot ask)\n"
           "/clear   forget all turns, /save FILE   write down what was said, /help, /quit\n", chat.how.temperature,
           chat.how.top_p, chat.how.top_k, chat.how.min_p, *chat.system ? chat.system : "nothing",
           chat.show_tokens ? "on" : "off", chat.tools ? "on" : "off");
}

static void number(const char *name, const char *value, double low, double high, double *to) {
    char *end;
    double x = strtod(value, &end);
    if (end == value || *end || !(x >= low && x <= high))
        printf("%s %s: wanted a number from %g to %g\n", name, value, low, high);
    else if (!strcmp(name, "/top_k") && x != floor(x)) printf("%s %s: wanted a whole number\n", name, value);
    else *to = x, printf("(%s is %g)\n", name + 1, x);
}

static void on_off(const char *name, const char *value, int *to) {
    if (!*value) *to = !*to;
    else if (!strcmp(value, "on") || !strcmp(value, "off")) *to = value[1] == 'n';
    else { printf("%s %s: wanted on or off\n", name, value); return; }
    printf("(%s: %s)\n", name + 1, *to ? "on" : "off");
}

// "/name value". 1: go on; 0: the end.
static int command(char *line) {
    size_t size = strcspn(line, " ");
    char *value = line + size;
    double k = chat.how.top_k, V = chat.s.model->config.n_vocab;
    while (*value == ' ') *value++ = 0;
    if (!strcmp(line, "/temp")) number(line, value, 0, 10, &chat.how.temperature);
    else if (!strcmp(line, "/top_p")) number(line, value, 0, 1, &chat.how.top_p);
    else if (!strcmp(line, "/min_p")) number(line, value, 0, 1, &chat.how.min_p);
    else if (!strcmp(line, "/top_k")) number(line, value, 0, V, &k), chat.how.top_k = (int)k;
    else if (!strcmp(line, "/tokens")) on_off(line, value, &chat.show_tokens);
    else if (!strcmp(line, "/tools")) on_off(line, value, &chat.tools);
    else if (!strcmp(line, "/help")) help();
    else if (!strcmp(line, "/clear")) forget(chat.n_turns), printf("(all turns are forgotten)\n");
    else if (!strcmp(line, "/system")) {
        if (chat.base) printf("/system: a base model knows no system message\n");
        else strcpy(chat.system, value), printf("(system: %s)\n", *value ? value : "nothing");
    } else if (!strcmp(line, "/save")) {
        FILE *f = *value ? fopen(value, "wb") : NULL;
        if (!*value) printf("/save: wanted the name of a file\n");
        else if (!f || fwrite(chat.talk ? chat.talk : "", 1, chat.talk_size, f) != chat.talk_size || fclose(f))
            printf("/save %s: %s\n", value, strerror(errno));
        else printf("(written: %s)\n", value);
    } else if (!strcmp(line, "/quit")) return 0;
    else printf("%s: no such command; there are /temp /top_p /top_k /min_p /system /tokens /tools /clear /save /help "
                "/quit\n", line);
    return 1;
}

// A pipe does not show what is written into it, as a terminal does.
static int echoes(void) {
#if defined(_WIN32)
    return !_isatty(0);
#else
    return !isatty(0);
#endif
}

int main(int argc, char **argv) {
    lesson_begin(argc, argv, "22", "a chat");
    const char *path = lesson_str("model", "", "a checkpoint of any stage; the furthest lesson's unless told");
    const char *system = lesson_str("system", "", "what it is told before all else");
    chat.how.temperature = lesson_float_in("temperature", 0.7, 0, 10, "0 is greedy");
    chat.how.top_p = lesson_float_in("top_p", 0.95, 0, 1, "only the likeliest until their sum is this");
    chat.how.top_k = lesson_int("top_k", 0, "only so many of the likeliest; 0: all");
    chat.most = lesson_int_in("tokens", 100, 1, 100000, "of one answer, at most");
    chat.tools = lesson_flag("tools", 1, "a calculator, a letter counter, a search over the plays");
    int seed = lesson_int("seed", 1, "of what is drawn");
    lesson_options_end();

    ag_ctx *ag = ag_new((unsigned long long)seed);
    load(ag, *path ? path : furthest());
    if (chat.how.top_k > chat.s.model->config.n_vocab)
        lesson_fail("top_k=%d: this model knows %d tokens", chat.how.top_k, chat.s.model->config.n_vocab);
    size_t bytes;
    char line[LINE + 2], *plays = NULL;
    if (bpe_special(chat.s.tokens, "<|tool_start|>") >= 0)
        plays = (char *)lesson_data("tinyshakespeare.txt", &bytes), tools_open(plays, bytes);
    if (chat.base && *system) printf("note: a base model knows no system message; system= says nothing to it.\n");
    snprintf(chat.system, sizeof chat.system, "%s", chat.base ? "" : system);
    chat.csv = lesson_csv_open(lesson_path("log.csv"), "answer,token,probability");
    printf("Write, and end with a line's end. /help tells what else there is.\n");
    for (int echo = echoes();;) {
        if (lessoni_terminal()) printf("> "), fflush(stdout);
        if (!fgets(line, sizeof line, stdin)) break;
        size_t n = strcspn(line, "\r\n");
        if (!line[n] && n == LINE + 1) {
            for (int c = 0; c != '\n' && c != EOF;) c = getchar();
            printf("(too long: a line has at most %d bytes)\n", LINE);
            continue;
        }
        line[n] = 0;
        if (!*line) continue;
        if (echo) printf(lessoni_terminal() ? "" : "> "), lesson_print_said(line), printf("\n");
        if (*line == '/') { if (!command(line)) break; continue; }
        long tokens = (bpe_encode)(chat.s.tokens, line, n, NULL, 0);       // a status here need not end the program
        if (tokens < 0) printf("(its tokenizer cannot write that: %s)\n", bpe_status(tokens));
        else reply(line);
    }
    lesson_csv_close(&chat.csv);
    if (chat.n_sure) {
        plot *p = plot_new("How sure it was", "token", "probability of the token that was drawn");
        plot_scatter(p, NULL, NULL, chat.sure, (size_t)chat.n_sure), plot_range_y(p, 0, 1);
        lesson_save(p, "sure.png"), plot_free(p);
    }
    forget(chat.n_turns), tools_close(), gpt_cache_free(chat.cache), stage_free(&chat.s), ag_free(ag);
    free(plays), free(chat.talk), free(chat.fed), free(chat.logits), free(chat.probs), free(chat.sure);
    return lesson_end();
}
