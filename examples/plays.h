// plays.h - Tiny Shakespeare as speeches: who says what, and after whom. Lessons 11 to 16 make their data of it.
//
//     plays p = plays_read();                      // the text of lesson_data; plays_free(&p) at the end
//     p.speech[7].name, p.speech[7].text           // the speech after p.speech[6]; from n_train on: the last tenth

#ifndef PLAYS_H
#define PLAYS_H

#include <ctype.h>

enum { PLAYS_TEXT = 128, PLAYS_PERSONS = 400 };
typedef struct speech {
    char name[32];
    char text[PLAYS_TEXT + 1];                      // as many whole lines as fit
    char first[128], second[128];                   // its first two lines, the second perhaps empty
    char couplet[2][128];                           // two lines that rhyme, or empty
    int person;
} speech;
typedef struct person { char name[32]; int speeches; } person;
typedef struct plays {
    char *text;                                     // all of it, `bytes`; a model has read those before `cut`
    size_t bytes, cut;
    speech *speech;
    int n, n_train;                                 // speeches, and how many begin before `cut`
    person person[PLAYS_PERSONS];
    int n_persons;
    unsigned char (*beside)[PLAYS_PERSONS];         // [a][b]: b speaks right before or after a somewhere
} plays;

LESSON_FN void playsi_line(char *to, size_t size, const char *from) {
    snprintf(to, size, "%.*s", (int)strcspn(from, "\n"), from);
}

// Do two lines rhyme? As far as spelling tells: long enough for a verse, other words at their ends, and of these the
// last three letters the same.
LESSON_FN int playsi_rhyme(const char *a, size_t n, const char *b, size_t m) {
    const char *line[] = {a, b};
    char last[2][32] = {"", ""};
    size_t end[] = {n, m};
    for (int k = 0; k < 2; k++) {
        size_t e = end[k], size = 0;
        while (e && !isalpha((unsigned char)line[k][e - 1])) e--;
        for (; e && isalpha((unsigned char)line[k][e - 1]) && size < 31; e--)       // the word, backwards
            last[k][size++] = (char)tolower((unsigned char)line[k][e - 1]);
    }
    return n > 24 && m > 24 && strlen(last[0]) > 2 && !strncmp(last[0], last[1], 3) && strcmp(last[0], last[1]);
}

// "NAME:\nlines\n\n", one speech after the other.
LESSON_FN plays plays_read(void) {
    plays p;
    memset(&p, 0, sizeof p);
    p.text = (char *)lesson_data("tinyshakespeare.txt", &p.bytes), p.cut = p.bytes * 9 / 10;
    p.beside = (unsigned char (*)[PLAYS_PERSONS])lesson_alloc(PLAYS_PERSONS, sizeof *p.beside);
    size_t room = 1;
    for (const char *at = p.text; (at = strstr(at, ":\n")) != NULL; at++) room++;
    p.speech = (speech *)lesson_alloc(room, sizeof *p.speech);
    for (const char *at = p.text, *end; at < p.text + p.bytes && p.n < (int)room; at = end + 2) {
        while (*at == '\n') at++;
        const char *colon = strstr(at, ":\n");
        speech *s = &p.speech[p.n];
        if ((end = strstr(at, "\n\n")) == NULL) end = p.text + p.bytes;
        if (!colon || colon + 2 >= end || colon - at > 30) continue;         // some are named and say nothing
        snprintf(s->name, sizeof s->name, "%.*s", (int)(colon - at), at);
        snprintf(s->text, sizeof s->text, "%.*s", (int)(end - colon - 2), colon + 2);
        if (end - colon - 2 > PLAYS_TEXT && strrchr(s->text, '\n')) *strrchr(s->text, '\n') = 0;
        playsi_line(s->first, sizeof s->first, s->text);
        const char *rest = s->text + strcspn(s->text, "\n");
        playsi_line(s->second, sizeof s->second, rest + (*rest != 0));
        s->couplet[0][0] = 0;
        for (const char *x = colon + 2, *y; !s->couplet[0][0] && x + strcspn(x, "\n") < end; x = y) {
            y = x + strcspn(x, "\n") + 1;
            if (playsi_rhyme(x, (size_t)(y - x - 1), y, strcspn(y, "\n")))
                playsi_line(s->couplet[0], sizeof s->couplet[0], x), playsi_line(s->couplet[1], 128, y);
        }
        for (s->person = 0; s->person < p.n_persons && strcmp(p.person[s->person].name, s->name);) s->person++;
        if (s->person == PLAYS_PERSONS) continue;
        if (s->person == p.n_persons) strcpy(p.person[p.n_persons++].name, s->name);
        p.person[s->person].speeches++;
        if (p.n) p.beside[s->person][s[-1].person] = p.beside[s[-1].person][s->person] = 1;
        p.n++;
        if (at < p.text + p.cut) p.n_train = p.n;
    }
    return p;
}

// For lessons that need more than the built-in text has.
LESSON_FN void plays_enough(const plays *p) {
    if (p->n < 1000)
        lesson_fail("%d speeches are too few: this lesson wants Tiny Shakespeare (sh examples/data/get.sh fetches it)",
                    p->n);
}

LESSON_FN void plays_free(plays *p) { free(p->text), free(p->speech), free(p->beside); }

LESSON_FN int plays_below(ag_rng *rng, int n) { return (int)(ag_rng_uniform(rng) * n); }

// Some speech that has one before it, from the first nine tenths, or (held 1) from the last one.
LESSON_FN const speech *plays_any(const plays *p, ag_rng *rng, int held) {
    int from = held ? p->n_train + 1 : 1, to = held ? p->n : p->n_train;
    return &p->speech[from + plays_below(rng, to - from)];
}

// How a line of three words or more begins: its first two, without a comma behind them. 0: it has fewer.
LESSON_FN int plays_begin(const char *line, char to[32]) {
    size_t one = strcspn(line, " "), two = line[one] ? one + 1 + strcspn(line + one + 1, " ") : 0;
    if (!two || two > 31 || !line[two]) return 0;
    snprintf(to, 32, "%.*s", (int)two, line);
    while (strchr(",.;:!?", to[two - 1])) to[--two] = 0;
    return two > one + 1;
}

// ---- a set of strings: open addressing, at most half full ----
typedef struct words { char **at; size_t slots, n; } words;

LESSON_FN size_t wordsi_slot(const words *w, const char *s) {
    size_t h = 5381;
    for (const char *c = s; *c; c++) h = h * 33 + (unsigned char)*c;
    for (h ^= h >> 15;; h++)
        if (!w->at[h & (w->slots - 1)] || !strcmp(w->at[h & (w->slots - 1)], s)) return h & (w->slots - 1);
}
LESSON_FN int words_has(const words *w, const char *s) { return w->n && w->at[wordsi_slot(w, s)] != NULL; }
// 1: it is new
LESSON_FN int words_add(words *w, const char *s) {
    if (2 * (w->n + 1) > w->slots) {
        words old = *w;
        w->slots = old.slots ? 2 * old.slots : 1024, w->at = (char **)lesson_alloc(w->slots, sizeof *w->at);
        for (size_t i = 0; i < old.slots; i++)
            if (old.at[i]) w->at[wordsi_slot(w, old.at[i])] = old.at[i];
        free(old.at);
    }
    size_t slot = wordsi_slot(w, s);
    if (w->at[slot]) return 0;
    w->at[slot] = (char *)lesson_alloc(strlen(s) + 1, 1), strcpy(w->at[slot], s), w->n++;
    return 1;
}
LESSON_FN void words_free(words *w) {
    for (size_t i = 0; i < w->slots; i++) free(w->at[i]);
    free(w->at), memset(w, 0, sizeof *w);
}

// ---- what a user may ask an assistant that knows the plays, and the answer ----
// The words to begin with stand on a line of their own, as an answer does: a model that copies looks for what came
// after the same token before. Who asks a poet to go on asks for a couplet.
enum { ASK_SPEAK_AS, ASK_ANSWER, ASK_GO_ON, ASK_WHO, ASK_WORDS, ASK_BEGIN, ASK_KINDS, ASK_COUPLET = ASK_KINDS };
LESSON_FN void plays_ask(const speech *s, int kind, char asked[256], char answer[256]) {
    static const char *const counts[] = {"none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine",
                                         "ten", "eleven", "twelve", "more than twelve"};
    static const char *const forms[] = {"Speak as %s.", "Answer this: %s", "Go on: %s", "Who says this? %s",
                                        "How many words? %s", "Answer this: %s\nSpeak as %s, and begin:\n%s",
                                        "Finish this couplet: %s"};
    char begin[32];
    int n = 1;
    for (const char *c = s->first; *c; c++) n += *c == ' ';
    if (kind == ASK_GO_ON) kind = s->couplet[0][0] ? ASK_COUPLET : s->second[0] ? ASK_GO_ON : ASK_WHO;
    if (kind == ASK_BEGIN && !plays_begin(s->first, begin)) kind = ASK_ANSWER;
    const char *about[] = {s->name, s[-1].first, s->first, s->first, s->first, s[-1].first, s->couplet[0]};
    const char *reply[] = {s->text, s->first, s->second, s->name, counts[n > 12 ? 13 : n], s->text, s->couplet[1]};
    snprintf(asked, 256, forms[kind], about[kind], s->name, begin), snprintf(answer, 256, "%s", reply[kind]);
}

#endif // PLAYS_H
