// tools.h - what a model may ask for: a calculator, a letter counter, a search over the plays; and the loop that asks.
//
// Use: include it after gpt.h, bpe.h, lesson.h and stage.h. Every function is static.
//
//     char answer[TOOLS_TEXT];
//     tools_call("calc 9.11 > 9.9", answer, sizeof answer);            // "false"
//     tools_call("count r in strawberry", answer, sizeof answer);      // "3"
//     tools_open(text, bytes);                                         // the plays: borrowed until tools_close()
//     tools_call("search wherefore art thou", answer, sizeof answer);  // "JULIET, line 16909: O Romeo, Romeo! ..."
//
// A tool is a C function of a text that writes a text. It reads what it is given as data, by a grammar that is written
// down below; nothing that a model says is ever run, and the worst it can do is to get "error: ..." for an answer.
// Each returns 0, or -1 after an error, and always ends its answer in 0 within cap bytes (at least 1).

#ifndef TOOLS_H
#define TOOLS_H

enum { TOOLS_DEPTH = 50, TOOLS_TEXT = 400, TOOLS_CALLS = 4 };

LESSON_FN LESSON_PRINTF(3, 4) int toolsi_error(char *answer, size_t cap, const char *format, ...) {
    char why[160];
    va_list args;
    va_start(args, format);
    vsnprintf(why, sizeof why, format, args);
    va_end(args);
    snprintf(answer, cap, "error: %s", why);
    return -1;
}

// ---- the calculator ----
// compare := sum [ ("<" | ">" | "<=" | ">=" | "=") sum ]
// sum     := product { ("+" | "-") product }
// product := sign { ("*" | "/") sign }
// sign    := "-" sign | power                      -2^2 is -4, as in mathematics
// power   := value [ "^" sign ]                    2^3^2 is 2^9
// value   := number | "(" sum ")" | ("max" | "min") "(" sum { "," sum } ")"
// number  := digits [ "." digits ]                 at most 15 digits, so that each is what it says in a double
// One function for each line. After an error all of them return at once, and the first reason is kept.
typedef struct toolsi_parser {
    const char *from, *at;
    const char *why;                                // NULL: all is well so far
    int depth;
} toolsi_parser;

static double toolsi_sum(toolsi_parser *p);

static double toolsi_wrong(toolsi_parser *p, const char *why) {
    if (!p->why) p->why = why;
    return 0;
}

// Every number on the way stays below 10^15: whole ones are exact then, and nothing becomes infinite.
static double toolsi_checked(toolsi_parser *p, double x) {
    return fabs(x) < 1e15 ? x : toolsi_wrong(p, "too large");
}

static int toolsi_next(toolsi_parser *p, const char *sign) {
    while (*p->at == ' ') p->at++;
    if (p->why || strncmp(p->at, sign, strlen(sign))) return 0;
    p->at += strlen(sign);
    return 1;
}

static double toolsi_number(toolsi_parser *p) {
    double x = 0, parts = 1;
    int digits = 0, point = 0;
    for (;; p->at++) {
        if (*p->at >= '0' && *p->at <= '9') x = 10 * x + (*p->at - '0'), parts *= point ? 10 : 1, digits++;
        else if (*p->at == '.' && !point && p->at[1] >= '0' && p->at[1] <= '9') point = 1;
        else break;
        if (digits > 15) return toolsi_wrong(p, "a number of more than 15 digits");
    }
    return x / parts;                               // both are exact, so this is the double nearest to the number
}

static double toolsi_value(toolsi_parser *p) {
    int max = toolsi_next(p, "max"), min = !max && toolsi_next(p, "min");
    if (max || min) {
        if (!toolsi_next(p, "(")) return toolsi_wrong(p, "max and min want (");
    } else if (!toolsi_next(p, "(")) {
        if (*p->at >= '0' && *p->at <= '9') return toolsi_number(p);
        return toolsi_wrong(p, *p->at ? "wanted a number" : "it ends where a number should be");
    }
    double x = toolsi_sum(p);
    while ((max || min) && toolsi_next(p, ",")) {
        double y = toolsi_sum(p);
        if (max ? y > x : y < x) x = y;
    }
    return toolsi_next(p, ")") ? x : toolsi_wrong(p, "wanted )");
}

static double toolsi_sign(toolsi_parser *p) {
    double x = 0;
    if (++p->depth > TOOLS_DEPTH) return toolsi_wrong(p, "too deep");       // the only way to call itself again
    if (toolsi_next(p, "-")) x = -toolsi_sign(p);
    else {
        x = toolsi_value(p);
        if (toolsi_next(p, "^")) {
            double y = toolsi_sign(p);
            if (x == 0 && y < 0) return toolsi_wrong(p, "division by zero");
            if (x < 0 && y != floor(y)) return toolsi_wrong(p, "a root of a negative number");
            x = toolsi_checked(p, pow(x, y));
        }
    }
    p->depth--;
    return x;
}

static double toolsi_product(toolsi_parser *p) {
    double x = toolsi_sign(p);
    while (!p->why)
        if (toolsi_next(p, "*")) x = toolsi_checked(p, x * toolsi_sign(p));
        else if (toolsi_next(p, "/")) {
            double y = toolsi_sign(p);
            x = y == 0 ? toolsi_wrong(p, "division by zero") : toolsi_checked(p, x / y);
        } else break;
    return x;
}

static double toolsi_sum(toolsi_parser *p) {
    double x = toolsi_product(p);
    while (!p->why)
        if (toolsi_next(p, "+")) x = toolsi_checked(p, x + toolsi_product(p));
        else if (toolsi_next(p, "-")) x = toolsi_checked(p, x - toolsi_product(p));
        else break;
    return x;
}

// Twelve digits, at most ten of them after the point, and no zeros at the end.
static void toolsi_write(double x, char *answer, size_t cap) {
    char text[64];
    int decimals = 11 - (x == 0 ? 0 : (int)floor(log10(fabs(x))));
    snprintf(text, sizeof text, "%.*f", decimals < 0 ? 0 : decimals > 10 ? 10 : decimals, x);
    char *end = text + strlen(text);
    if (strchr(text, '.')) {
        while (end[-1] == '0') *--end = 0;
        if (end[-1] == '.') *--end = 0;
    }
    snprintf(answer, cap, "%s", strcmp(text, "-0") ? text : "0");
}

// "123 + 456" -> "579"; "9.11 > 9.9" -> "false". Numbers that agree in 12 digits are equal: 0.1 + 0.2 = 0.3.
LESSON_FN int tools_calc(const char *request, char *answer, size_t cap) {
    toolsi_parser p = {request, request, NULL, 0};
    double a = toolsi_sum(&p), b = 0;
    int less = toolsi_next(&p, "<"), more = !less && toolsi_next(&p, ">"), same = toolsi_next(&p, "=");
    if (less || more || same) b = toolsi_sum(&p);
    while (*p.at == ' ') p.at++;
    if (!p.why && *p.at) p.why = "wanted an operator or the end";
    if (p.why) return toolsi_error(answer, cap, "%s at %d", p.why, (int)(p.at - p.from) + 1);
    if (!less && !more && !same) return toolsi_write(a, answer, cap), 0;
    double off = a == 0 || b == 0 ? 5e-11 : 1e-12 * fmax(fabs(a), fabs(b));          // what is written 0 is 0
    int equal = fabs(a - b) <= off;
    snprintf(answer, cap, "%s", (equal ? same : (less && a < b) || (more && a > b)) ? "true" : "false");
    return 0;
}

// ---- the letter counter ----
// "r in strawberry" -> "3". One character of UTF-8, of letters a-z either case, then " in ", then any text.
LESSON_FN int tools_count(const char *request, char *answer, size_t cap) {
    while (*request == ' ') request++;
    const char *sign = request;
    int size = *sign != 0, n = 0;
    while ((sign[size] & 0xc0) == 0x80) size++;
    const char *in = sign + size;
    if (!size || strncmp(in, " in ", 4)) return toolsi_error(answer, cap, "wanted as in: count r in strawberry");
    for (const char *c = in + 4; *c; c++) {
        int a = *c, b = *sign;
        if (size == 1 && a >= 'A' && a <= 'Z') a += 'a' - 'A';
        if (size == 1 && b >= 'A' && b <= 'Z') b += 'a' - 'A';
        n += a == b && (size == 1 || !strncmp(c, sign, (size_t)size));
    }
    snprintf(answer, cap, "%d", n);
    return 0;
}

// ---- the search ----
// An index as at the end of a book: for each word the lines that it stands in. The line that is most like the request
// is found by what words they share, rare ones counting more (Spaerck Jones 1972): twice the weight of the shared words
// over the weight of both (Dice), so a line itself has 1.
typedef struct toolsi_line { const char *name, *text; int name_size, size, number; double weight; } toolsi_line;
typedef struct toolsi_word { const char *text; int size, lines, last, first; long asked; } toolsi_word;
typedef struct toolsi_place { int line, next; } toolsi_place;

static struct {
    toolsi_line *line;
    toolsi_word *word;                              // (size), a hash table with gaps; size is a power of two
    toolsi_place *place;                            // for each word a list of its lines, from its `first` on
    double *shared;                                 // (n_lines)
    int n_lines, n_places;
    size_t size;
    long asked;                                     // requests so far
} toolsi_book;

static int toolsi_letter(int c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '\'' ? c | 32 : 0; }

// The next word at or after *at, before end: its size, and *at behind it. 0: there is none.
static int toolsi_find_word(const char **at, const char *end, const char **word) {
    while (*at < end && !toolsi_letter(**at)) ++*at;
    for (*word = *at; *at < end && toolsi_letter(**at) && *at - *word < 1000;) ++*at;
    return (int)(*at - *word);
}

// Where a word is in the table, or the gap where it would be.
static toolsi_word *toolsi_entry(const char *text, int size) {
    size_t hash = 2166136261u;
    for (int i = 0; i < size; i++) hash = (hash ^ (size_t)toolsi_letter(text[i])) * 16777619u & 0xffffffffu;
    for (;; hash++) {
        toolsi_word *w = &toolsi_book.word[hash & (toolsi_book.size - 1)];
        int i = 0;
        if (!w->text) return w;
        while (w->size == size && i < size && toolsi_letter(w->text[i]) == toolsi_letter(text[i])) i++;
        if (w->size == size && i == size) return w;
    }
}

static double toolsi_rare(const toolsi_word *w) { return log(1 + toolsi_book.n_lines / (w->text ? w->lines : 1.0)); }

LESSON_FN void tools_close(void) {
    free(toolsi_book.line), free(toolsi_book.word), free(toolsi_book.place), free(toolsi_book.shared);
    memset(&toolsi_book, 0, sizeof toolsi_book);
}

// Speeches as in Tiny Shakespeare: "NAME:", lines, an empty line. The text is borrowed.
LESSON_FN void tools_open(const char *text, size_t bytes) {
    const char *end = text + bytes, *next, *name = NULL, *at = text, *word;
    int size, name_size = 0, first = 1, number = 1;
    size_t n_words = 1, lines = 1;
    tools_close();
    for (const char *c = text; c < end; c++) lines += *c == '\n';
    while (toolsi_find_word(&at, end, &word)) n_words++;
    for (toolsi_book.size = 64; toolsi_book.size < 2 * n_words;) toolsi_book.size *= 2;
    toolsi_book.line = (toolsi_line *)lesson_alloc(lines, sizeof *toolsi_book.line);
    toolsi_book.word = (toolsi_word *)lesson_alloc(toolsi_book.size, sizeof *toolsi_book.word);
    toolsi_book.place = (toolsi_place *)lesson_alloc(n_words, sizeof *toolsi_book.place);
    toolsi_book.shared = (double *)lesson_alloc(lines, sizeof *toolsi_book.shared);
    for (at = text; at < end; at = next + (next < end), number++) {
        if ((next = (const char *)memchr(at, '\n', (size_t)(end - at))) == NULL) next = end;
        int empty = next == at, names = first && !empty && next[-1] == ':';
        first = empty;
        if (names) name = at, name_size = (int)(next - at) - 1;
        if (empty) name = NULL;
        if (empty || names || !name) continue;
        int i = toolsi_book.n_lines++;
        toolsi_line *line = &toolsi_book.line[i];
        line->name = name, line->name_size = name_size, line->text = at, line->size = (int)(next - at);
        line->number = number;
        while ((size = toolsi_find_word(&at, next, &word)) > 0) {
            toolsi_word *w = toolsi_entry(word, size);
            if (!w->text) w->text = word, w->size = size, w->first = w->last = -1;
            if (w->last == i) continue;             // twice in one line counts once
            toolsi_place *p = &toolsi_book.place[toolsi_book.n_places];
            p->line = w->last = i, p->next = w->first, w->first = toolsi_book.n_places++, w->lines++;
        }
    }
    for (size_t k = 0; k < toolsi_book.size; k++)
        for (int p = toolsi_book.word[k].text ? toolsi_book.word[k].first : -1; p >= 0; p = toolsi_book.place[p].next)
            toolsi_book.line[toolsi_book.place[p].line].weight += toolsi_rare(&toolsi_book.word[k]);
}

// "to be or not" -> "NAME, line 1234: the line". Of equally good lines the first.
LESSON_FN int tools_search(const char *request, char *answer, size_t cap) {
    const char *at = request, *end = request + strlen(request), *word;
    double weight = 0, best_score = 0;
    int size, best = -1;
    if (!toolsi_book.line) return toolsi_error(answer, cap, "the plays are not open");
    memset(toolsi_book.shared, 0, (size_t)toolsi_book.n_lines * sizeof *toolsi_book.shared);
    toolsi_book.asked++;
    while ((size = toolsi_find_word(&at, end, &word)) > 0) {
        toolsi_word *w = toolsi_entry(word, size);
        if (w->text && w->asked == toolsi_book.asked) continue;
        weight += toolsi_rare(w);
        if (!w->text) continue;
        w->asked = toolsi_book.asked;
        for (int p = w->first; p >= 0; p = toolsi_book.place[p].next)
            toolsi_book.shared[toolsi_book.place[p].line] += toolsi_rare(w);
    }
    for (int i = 0; i < toolsi_book.n_lines; i++) {
        const toolsi_line *line = &toolsi_book.line[i];
        double score = 2 * toolsi_book.shared[i] / (weight + line->weight + 1e-9);
        if (line->size == end - request && !memcmp(line->text, request, (size_t)line->size)) score++;   // word for word
        if (score > best_score + 1e-9) best_score = score, best = i;
    }
    if (best < 0) return toolsi_error(answer, cap, "no line has a word of it");
    const toolsi_line *line = &toolsi_book.line[best];
    snprintf(answer, cap, "%.*s, line %d: %.*s", line->name_size, line->name, line->number, line->size, line->text);
    return 0;
}

// ---- the dispatcher ----
static const struct { const char *name; int (*call)(const char *request, char *answer, size_t cap); } tools_known[] = {
    {"calc", tools_calc}, {"count", tools_count}, {"search", tools_search}};

// "calc 1 + 1": the tool's name, a space, and what it is asked.
LESSON_FN int tools_call(const char *request, char *answer, size_t cap) {
    while (*request == ' ') request++;
    size_t size = strcspn(request, " ");
    for (size_t i = 0; i < sizeof tools_known / sizeof *tools_known; i++)
        if (size == strlen(tools_known[i].name) && !strncmp(request, tools_known[i].name, size))
            return tools_known[i].call(request + size + (request[size] != 0), answer, cap);
    return toolsi_error(answer, cap, "no tool %.*s; there are calc, count, search", (int)(size < 20 ? size : 20),
                        request);
}

// ---- the loop ----
// A conversation in the making, as tokens. The model's own tokens are kept as it said them: text that looks like a
// special token, whether a user's, a tool's or the model's, stays text.
typedef struct tools_row {
    int *ids, n, cap;               // cap: room for so many, at most the model's context
    int said;                       // where the assistant's latest words begin
    int calls, ended;               // tools called so far; 1: the answer is complete, or there was no room for it
} tools_row;

// Begins with these messages and ends where the assistant is to speak. Free row.ids.
LESSON_FN tools_row tools_begin(stage *s, const gpt_message *say, int n) {
    tools_row r;
    stage_talk t = stage_render(s, say, n, 1);
    memset(&r, 0, sizeof r);
    r.cap = s->model->config.n_ctx, r.ids = (int *)lesson_alloc((size_t)r.cap, sizeof *r.ids);
    r.n = r.said = t.n < r.cap ? t.n : r.cap, r.ended = t.n >= r.cap;
    memcpy(r.ids, t.ids, (size_t)r.n * sizeof *r.ids);
    stage_talk_free(&t);
    return r;
}

// What a tool has said, as a message of its own; then the assistant may go on. 0, or -1: no room.
LESSON_FN int tools_append(stage *s, tools_row *r, const char *result) {
    gpt_message say = {GPT_TOOL, result, 0};            // never trusted: its text may come from anywhere
    stage_talk t = stage_render(s, &say, 1, 1);
    int newline, *after = stage_ids(s, "\n", &newline), room = r->n + 1 + newline + t.n < r->cap;
    if (room) {
        r->ids[r->n++] = bpe_special(s->tokens, "<|im_end|>");
        memcpy(r->ids + r->n, after, (size_t)newline * sizeof *after), r->n += newline;
        memcpy(r->ids + r->n, t.ids, (size_t)t.n * sizeof *t.ids), r->said = r->n += t.n;
    }
    free(after), stage_talk_free(&t);
    return room ? 0 : -1;
}

// Sampling of a row has stopped. If that was at <|tool_end|>, the tool is called and its answer appended: 1, go on.
// Otherwise 0: the row has ended. request (or NULL) receives what was asked, answer what the tool said.
LESSON_FN int tools_turn(stage *s, tools_row *r, int calls, char request[TOOLS_TEXT], char answer[TOOLS_TEXT]) {
    int from = bpe_special(s->tokens, "<|tool_start|>"), to = bpe_special(s->tokens, "<|tool_end|>"), at = r->n - 1;
    char own[TOOLS_TEXT];
    r->ended = 1;
    if (r->n <= r->said || r->ids[at] != to || r->calls >= calls) return 0;
    while (--at >= r->said && r->ids[at] != from) {}
    if (at < r->said) return 0;
    char *text = stage_string(s, r->ids + at + 1, r->n - at - 2);
    if (request) snprintf(request, TOOLS_TEXT, "%s", text);
    if (!answer) answer = own;
    tools_call(text, answer, TOOLS_TEXT);
    free(text);
    r->calls++;
    r->ended = tools_append(s, r, answer) != 0;
    return !r->ended;
}

// B answers at a time. The model talks until <|tool_end|> or <|im_end|>; a tool answers, and it goes on. At most
// `calls` tools for an answer (0: none), and at most cap tokens between two stops.
LESSON_FN void tools_reply(stage *s, const gpt_sampling *how, int B, tools_row *rows, int calls, int cap) {
    int stop[3] = {bpe_special(s->tokens, "<|im_end|>"), bpe_special(s->tokens, "<|im_start|>"),
                   bpe_special(s->tokens, "<|tool_end|>")};
    gpt_sampling stops = *how;
    stops.stop = stop, stops.n_stop = 3;
    int *n = (int *)lesson_alloc((size_t)(3 * B), sizeof *n), *n_out = n + B, *who = n_out + B;
    int *out = (int *)lesson_alloc((size_t)(B * cap), sizeof *out);
    const int **prompts = (const int **)lesson_alloc((size_t)B, sizeof *prompts);
    for (int active = 1; active; ) {
        active = 0;
        for (int b = 0; b < B; b++)
            if (!rows[b].ended) prompts[active] = rows[b].ids, n[active] = rows[b].n, who[active++] = b;
        if (active) gpt_generate_batch(s->model, &stops, active, prompts, n, out, cap, n_out, NULL, NULL);
        for (int i = 0; i < active; i++) {
            tools_row *r = &rows[who[i]];
            int k = n_out[i] < r->cap - r->n ? n_out[i] : r->cap - r->n;
            memcpy(r->ids + r->n, out + i * cap, (size_t)k * sizeof *out), r->n += k;
            tools_turn(s, r, calls, NULL, NULL);
        }
    }
    free(n), free(out), free(prompts);
}

// The assistant's last words, without the end token; to be freed.
LESSON_FN char *tools_said(const stage *s, const tools_row *r) {
    int end = r->n > r->said && r->ids[r->n - 1] == bpe_special(s->tokens, "<|im_end|>");
    return stage_string(s, r->ids + r->said, r->n - r->said - end);
}

#endif // TOOLS_H
