// lesson.h - what every lesson needs beside the model: options, data, a log, a progress bar, Ctrl-C.
//
// Use: include it, before or after the other headers. Every function is static; libc is all it needs.
//
//     int main(int argc, char **argv) {
//         lesson_begin(argc, argv, "08", "a GPT learns Shakespeare");
//         int steps        = lesson_int("steps", 2000, "optimizer steps");
//         double lr        = lesson_float("lr", 1e-3, "peak learning rate");
//         const char *text = lesson_str("data", "", "a text file of yours instead of Tiny Shakespeare");
//         const char *tok  = lesson_choice("tokenizer", "char", "char|bpe", "how text becomes numbers");
//         int resume       = lesson_flag("resume", 0, "go on from the last checkpoint");
//         lesson_options_end();                    // refuses what is unknown or malformed: exit 2; prints help: exit 0
//         if (resume) lesson_unchanged("lr", then);    // and lesson_given("lr") is what the reader typed, or NULL
//
//         size_t n;
//         unsigned char *data = *text ? lesson_file(text, &n) : lesson_data("tinyshakespeare.txt", &n);
//         lesson_log_open(resume ? done : -1);     // out/08/log.csv
//         for (int step = done; step < steps && !lesson_interrupted(); step++) {
//             ...
//             lesson_log(step, train_loss, LESSON_NONE, lr, grad_norm, tokens_per_second);
//             lesson_progress(step + 1, steps, train_loss, tokens_per_second);
//             if (step % 100 == 0) lesson_report("step %d, validation loss %.4f", step, val_loss);
//         }
//         free(data);
//         return lesson_end();                     // 0, or 130 after Ctrl-C, or 1 if the log could not be written
//     }
//
// Options are key=value words: steps=500 seed=7; of two equal keys the last counts. `help` lists them with their
// defaults. Numbers are counts and sizes here, so a negative one is refused, unless the default is negative or the
// option was declared by lesson_int_in(key, default, lowest, highest, help) or lesson_float_in, which state their own
// limits. Files of a lesson go to out/NN/ under the current directory, or to the folder that out= names, which every
// lesson knows: lesson_path("loss.png") is "out/08/loss.png", and lesson_written("loss.png, log.csv") says at the end
// what is there. lesson_must_save() ends a lesson at its start that could not save what it is about to learn;
// lesson_keep(path) makes room for a model: the one that is there becomes previous.safetensors.
//
// Data: lesson_data looks into examples/data, $DATA_MIRROR and ../shared/data (started in a folder of the repository:
// ../examples/data, ../../shared/data), then runs examples/data/get.sh (not if LESSON_OFFLINE=1 is set), and for
// tinyshakespeare.txt falls back to the small corpus of corpus.h, so that a lesson runs everywhere. For any other name
// it says in one line what is missing and returns NULL. lesson_file reads the reader's own file, and ends the program
// with a sentence when it cannot. Both add a zero byte that is not counted.
//
// Log: a header row once, then the columns step, train_loss, val_loss, lr, grad_norm, tokens_per_second, seconds;
// LESSON_NONE leaves a cell empty. lesson_log_open(-1) starts a new file; lesson_log_open(step) continues one after a
// resume: rows of a later step are dropped, and so are rows that the first new row would repeat. Other tables:
// lesson_csv_open; lesson_csv_text and lesson_csv_number for the cells of a row and lesson_csv_end after them, or
// lesson_csv_row; lesson_csv_close. When a row cannot be written (a full disk), one line says so, the lesson goes on
// without that file, and lesson_end returns 1: hours of training are worth more than their log.
//
// Terminal: lesson_progress draws a bar, at most ten times a second, and only on a terminal; lesson_report prints a
// line above it, and is all that a pipe sees. lesson_print_text prints what a model wrote, with control bytes escaped;
// lesson_print_said prints all of it at once; lesson_print_tokens shows where tokens begin and end, by colours or bars.
// lesson_commas(809856) is "809,856", lesson_bytes(3.24e6) is "3.2 MB", lesson_duration(75) is "1 min 15 s".
//
// lesson_alloc(n, size) is a calloc that never returns NULL: it ends the program with a sentence instead.
// lesson_seconds() is a clock that never goes back. lesson_interrupted() is true after the first Ctrl-C (or SIGTERM);
// its first call installs the handler, so a lesson that never asks is ended by Ctrl-C as usual. A second Ctrl-C ends at
// once, 130.

#ifndef LESSON_H
#define LESSON_H

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#if defined(_WIN32)
#include <direct.h>
#include <io.h>
#else
#include <sys/stat.h>
#include <unistd.h>
#endif
#include "corpus.h"

// A lesson uses a part of this file; the rest must not be warned about.
#if defined(__GNUC__) || defined(__clang__) || defined(__TINYC__)
#define LESSON_FN static __attribute__((unused))
#else
#define LESSON_FN static
#endif
#if defined(__MINGW_PRINTF_FORMAT)
#define LESSON_PRINTF(f, a) __attribute__((format(__MINGW_PRINTF_FORMAT, f, a)))
#elif defined(__GNUC__) || defined(__clang__)
#define LESSON_PRINTF(f, a) __attribute__((format(printf, f, a)))
#else
#define LESSON_PRINTF(f, a)
#endif

#define LESSON_NONE ((double)NAN)      // an empty cell of a csv file

// ------------------------------------------------------------------------------------------------ the clock and words

// The POSIX clock is not declared under -std=c99, and the feature macro that would declare it comes too late in a
// header that is not included first. So the symbol is named here under a name of our own, which no other declaration
// can contradict.
#if defined(__linux__) && !defined(CLOCK_MONOTONIC)
struct lessoni_timespec { long seconds, nanoseconds; };
extern int lessoni_clock_gettime(int clock, struct lessoni_timespec *now) __asm__("clock_gettime");
#endif

// Seconds since some fixed moment; never goes back when somebody sets the clock of the machine.
LESSON_FN double lesson_seconds(void) {
#if defined(_WIN32)
    return (double)clock() / CLOCKS_PER_SEC;           // on Windows, unlike elsewhere, this is time on the wall
#elif defined(CLOCK_MONOTONIC)
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
#elif defined(__linux__)
    struct lessoni_timespec now;
    lessoni_clock_gettime(1, &now);                    // 1 is CLOCK_MONOTONIC on Linux
    return (double)now.seconds + 1e-9 * (double)now.nanoseconds;
#else
    return (double)time(NULL);                         // whole seconds are better than none
#endif
}

// Small texts are returned in one of eight buffers, so that one printf can show several of them.
LESSON_FN char *lessoni_buffer(void) {
    static char buffers[8][64];
    static int next;
    return buffers[next++ & 7];
}

// 809856 becomes "809,856".
LESSON_FN const char *lesson_commas(long long n) {
    char digits[32], *out = lessoni_buffer(), *o = out;
    unsigned long long u = n < 0 ? 0ULL - (unsigned long long)n : (unsigned long long)n;
    int count = 0;
    do digits[count++] = (char)('0' + u % 10); while (u /= 10);
    if (n < 0) *o++ = '-';
    while (count) {
        *o++ = digits[--count];
        if (count && count % 3 == 0) *o++ = ',';
    }
    *o = 0;
    return out;
}

// 3240000 becomes "3.2 MB"; a thousand bytes are a kB, as disk makers and model cards count.
LESSON_FN const char *lesson_bytes(double n) {
    static const char *const units[] = {"bytes", "kB", "MB", "GB", "TB", "PB"};
    char *out = lessoni_buffer();
    int unit = 0;
    while (fabs(n) >= 999.95 && unit < 5) n /= 1000, unit++;
    snprintf(out, 64, unit == 0 ? "%.0f %s" : fabs(n) < 99.95 ? "%.1f %s" : "%.0f %s", n, units[unit]);
    return out;
}

// 75 becomes "1 min 15 s".
LESSON_FN const char *lesson_duration(double seconds) {
    char *out = lessoni_buffer();
    if (!(seconds >= 0 && seconds < 1e9)) snprintf(out, 64, "a long time");
    else if (seconds < 9.95) snprintf(out, 64, "%.1f s", seconds);
    else if (seconds < 59.5) snprintf(out, 64, "%.0f s", seconds);
    else if (seconds < 3599.5) snprintf(out, 64, "%d min %d s", (int)(seconds + 0.5) / 60, (int)(seconds + 0.5) % 60);
    else snprintf(out, 64, "%d h %d min", (int)(seconds / 60 + 0.5) / 60, (int)(seconds / 60 + 0.5) % 60);
    return out;
}

// ------------------------------------------------------------------------------------------------ state, failing

enum { LESSONI_OPTIONS = 48, LESSONI_PATH = 600 };

typedef struct lessoni_option {
    const char *key, *help, *choices;      // choices: "char|bpe" or NULL
    const char *given;                     // what the command line says, or NULL
    char value[80];                        // the default, as the reader would type it
} lessoni_option;

typedef struct lesson_csv {
    FILE *file;                            // NULL once writing failed
    int columns, column;
    char path[LESSONI_PATH];
} lesson_csv;

// One lesson is one program, so its state may be global; the headers that it teaches have none.
static struct {
    int argc, options, wants_help, problems_used, write_failed;
    char **argv;
    const char *number, *title;
    char folder[400];                      // out/NN, or what out= says
    lessoni_option option[LESSONI_OPTIONS];
    char problems[4096];                   // what was wrong with the options, one line each
    int terminal, bar_width;               // terminal: 0 not yet asked, 1 no, 2 yes; columns that the bar covers now
    double bar_drawn, bar_started;         // when
    long long bar_first;                   // the step at bar_started
    int embedded;
    lesson_csv log;
    char *kept;                            // the rows of the log before a resume, until the first new row
    size_t kept_size;
    double log_started, log_before;        // seconds of training before this run
    unsigned char tail[4];                 // the beginning of a UTF-8 character whose end has not come yet
    int tail_size;
} lessoni;

static volatile sig_atomic_t lessoni_stop;

LESSON_FN void lesson_clear(void);

// Ends the program with one sentence on stderr. For what the reader has to mend; exit status 1.
LESSON_FN LESSON_PRINTF(1, 2) void lesson_fail(const char *format, ...) {
    va_list args;
    lesson_clear();
    fflush(stdout);
    fprintf(stderr, "lesson %s: ", lessoni.number ? lessoni.number : "?");
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(1);
}

// Room for n things of `size` bytes, all zero. Where there is none it says so and ends, so the result is never NULL.
LESSON_FN void *lesson_alloc(size_t n, size_t size) {
    void *room = calloc(n ? n : 1, size);
    if (!room) lesson_fail("out of memory: no room for %.0f bytes", (double)n * (double)size);
    return room;
}

// ------------------------------------------------------------------------------------------------ options

// number: "08", the name of the folder under out/. title: what `help` says first.
LESSON_FN void lesson_begin(int argc, char **argv, const char *number, const char *title) {
    int i;
    lessoni.argc = argc, lessoni.argv = argv, lessoni.number = number, lessoni.title = title;
    snprintf(lessoni.folder, sizeof lessoni.folder, "out/%s", number);
    for (i = 1; i < argc; i++)
        if (!strcmp(argv[i], "help") || !strcmp(argv[i], "--help") || !strcmp(argv[i], "-h") ||
            !strcmp(argv[i], "help=1"))
            lessoni.wants_help = 1;
}

LESSON_FN LESSON_PRINTF(1, 2) void lessoni_add_problem(const char *format, ...) {
    va_list args;
    int room = (int)sizeof lessoni.problems - lessoni.problems_used, n;
    va_start(args, format);
    n = vsnprintf(lessoni.problems + lessoni.problems_used, (size_t)room, format, args);
    va_end(args);
    lessoni.problems_used += n < 0 ? 0 : n < room ? n : room - 1;
}
#define lessoni_problem(...) (lessoni_add_problem("lesson %s: ", lessoni.number), lessoni_add_problem(__VA_ARGS__))

// Notes the option and returns what the command line says for it, or NULL.
LESSON_FN const char *lessoni_declare(const char *key, const char *value, const char *choices, const char *help) {
    size_t length = strlen(key);
    lessoni_option *o;
    int i, n;
    if (lessoni.options == LESSONI_OPTIONS) lesson_fail("more than %d options", (int)LESSONI_OPTIONS);
    o = &lessoni.option[lessoni.options++];
    o->key = key, o->help = help, o->choices = choices, o->given = NULL;
    for (i = n = 0; value[i] && n + 2 < (int)sizeof o->value; i++)      // a row of `help` is a line
        if (value[i] == '\n') o->value[n++] = '\\', o->value[n++] = 'n';
        else o->value[n++] = value[i];
    o->value[n] = 0;
    for (i = 1; i < lessoni.argc; i++)
        if (!strncmp(lessoni.argv[i], key, length) && lessoni.argv[i][length] == '=')
            o->given = lessoni.argv[i] + length + 1;
    return o->given;
}

// What the reader gave for an option that was declared before, as it was typed, or NULL: then it has its default.
LESSON_FN const char *lesson_given(const char *key) {
    int i;
    for (i = 0; i < lessoni.options; i++)
        if (!strcmp(lessoni.option[i].key, key)) return lessoni.option[i].given;
    return NULL;
}

// A whole number from lo to hi.
LESSON_FN int lesson_int_in(const char *key, int value, int lo, int hi, const char *help) {
    char text[32], *end;
    const char *given;
    long n;
    snprintf(text, sizeof text, "%d", value);
    given = lessoni_declare(key, text, NULL, help);
    if (!given) return value;
    errno = 0;
    n = strtol(given, &end, 10);
    if (end == given || *end || errno || (*given != '-' && *given != '+' && (*given < '0' || *given > '9')))
        lessoni_problem("%s=%s: a whole number is needed, for example %s=%s\n", key, given, key, text);
    else if (n < lo || n > hi) {
        if (hi == 2147483647)
            lessoni_problem("%s=%s: must be at least %d, for example %s=%s\n", key, given, lo, key, text);
        else lessoni_problem("%s=%s: must be from %d to %d, for example %s=%s\n", key, given, lo, hi, key, text);
    } else return (int)n;
    return value;
}

LESSON_FN int lesson_int(const char *key, int value, const char *help) {
    return lesson_int_in(key, value, value < 0 ? -2147483647 : 0, 2147483647, help);
}

// A real number from lo to hi.
LESSON_FN double lesson_float_in(const char *key, double value, double lo, double hi, const char *help) {
    char text[32], *end;
    const char *given;
    double x;
    snprintf(text, sizeof text, "%g", value);
    given = lessoni_declare(key, text, NULL, help);
    if (!given) return value;
    x = strtod(given, &end);
    if (end == given || *end || *given == ' ' || !(fabs(x) < 1e300))
        lessoni_problem("%s=%s: a number is needed, for example %s=%s\n", key, given, key, text);
    else if (x < lo || x > hi) {
        if (hi >= 1e300) lessoni_problem("%s=%s: must be at least %g, for example %s=%s\n", key, given, lo, key, text);
        else lessoni_problem("%s=%s: must be from %g to %g, for example %s=%s\n", key, given, lo, hi, key, text);
    } else return x;
    return value;
}

LESSON_FN double lesson_float(const char *key, double value, const char *help) {
    return lesson_float_in(key, value, value < 0 ? -1e300 : 0, 1e300, help);
}

// Any text. The result lives as long as the program.
LESSON_FN const char *lesson_str(const char *key, const char *value, const char *help) {
    const char *given = lessoni_declare(key, value, NULL, help);
    return given ? given : value;
}

// One of the words in choices, which are separated by bars.
LESSON_FN const char *lesson_choice(const char *key, const char *value, const char *choices, const char *help) {
    const char *given = lessoni_declare(key, value, choices, help), *c = choices;
    size_t length = given && !strchr(given, '|') ? strlen(given) : 0;
    if (!given) return value;
    while (length) {
        if (!strncmp(c, given, length) && (c[length] == '|' || c[length] == 0)) return given;
        c = strchr(c, '|');
        if (!c++) break;
    }
    lessoni_problem("%s=%s: must be one of %s, for example %s=%.*s\n", key, given, choices, key,
                    *value ? (int)strlen(value) : (int)strcspn(choices, "|"), *value ? value : choices);
    return value;
}

// Off or on: 0 or 1.
LESSON_FN int lesson_flag(const char *key, int value, const char *help) {
    const char *given = lessoni_declare(key, value ? "1" : "0", "0|1", help);
    if (!given) return value;
    if (!strcmp(given, "0") || !strcmp(given, "1")) return *given == '1';
    lessoni_problem("%s=%s: must be 0 or 1, for example %s=1\n", key, given, key);
    return value;
}

// Levenshtein's distance between two short words: how many letters to change, add or take away.
LESSON_FN int lessoni_distance(const char *a, const char *b) {
    int row[33], na = (int)strlen(a), nb = (int)strlen(b), i, j;
    if (na > 32 || nb > 32) return 99;
    for (j = 0; j <= nb; j++) row[j] = j;
    for (i = 1; i <= na; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (j = 1; j <= nb; j++) {
            int best = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            if (row[j] + 1 < best) best = row[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            row[j] = best;
        }
    }
    return row[nb];
}

LESSON_FN void lessoni_list_options(void) {
    int i, width = 4;
    for (i = 0; i < lessoni.options; i++) {
        int w = (int)(strlen(lessoni.option[i].key) + strlen(lessoni.option[i].value)) + 1;
        if (w > width && w <= 30) width = w;
    }
    for (i = 0; i < lessoni.options; i++) {
        const lessoni_option *o = &lessoni.option[i];
        int pad = width - (int)(strlen(o->key) + strlen(o->value)) - 1;
        printf("  %s=%s%*s  %s", o->key, o->value, pad > 0 ? pad : 0, "", o->help);
        printf(o->choices ? " (%s)\n" : "\n", o->choices);
    }
}

// How unlike a known key is to what was typed. The beginning of a key is nearly that key: temp for temperature.
LESSON_FN int lessoni_unlike(const char *typed, const char *key) {
    size_t n = strlen(typed);
    return n >= 3 && n < strlen(key) && !strncmp(typed, key, n) ? 1 : lessoni_distance(typed, key);
}

// A word of the command line that is no option as it should be: says so, with the known keys that are nearest to it.
LESSON_FN void lessoni_check_word(const char *word) {
    const char *equals = strchr(word, '='), *start = word, *before = "; did you mean ";
    char key[33];
    int k, best = 99, nearest = 0;
    while (*start == '-') start++;
    snprintf(key, sizeof key, "%.*s", equals && equals >= start ? (int)(equals - start) : 32, start);
    for (k = 0; k < lessoni.options; k++) {
        int d = lessoni_unlike(key, lessoni.option[k].key);
        if (d < best) best = d, nearest = k;
    }
    if (best == 0) {
        if (equals && start == word) return;
        lessoni_problem("%s: write it as %s=%s\n", word, key, equals ? equals + 1 : lessoni.option[nearest].value);
        return;
    }
    lessoni_problem("%s: no such option", word);
    for (k = 0; k < lessoni.options && best <= 1 + (int)strlen(key) / 3; k++)
        if (lessoni_unlike(key, lessoni.option[k].key) == best)
            lessoni_add_problem("%s%s=", before, lessoni.option[k].key), before = " or ";
    lessoni_add_problem("%s\n", *before == ' ' ? "?" : "");
}

// Call it after the last option: only now is it known which keys exist. Every lesson has out=.
LESSON_FN void lesson_options_end(void) {
    int i;
    const char *folder = lessoni_declare("out", lessoni.folder, NULL, "the folder for all that it writes");
    const char *program = lessoni.argc > 0 && lessoni.argv[0] ? lessoni.argv[0] : "lesson";
    if (lessoni.wants_help) {
        printf("lesson %s: %s\nusage: %s [key=value ...]\n", lessoni.number, lessoni.title, program);
        lessoni_list_options();
        exit(0);
    }
    if (folder && (!*folder || strlen(folder) >= sizeof lessoni.folder))
        lessoni_problem("out=%.40s: the name of a folder is needed, for example out=%s\n", folder, lessoni.folder);
    else if (folder) snprintf(lessoni.folder, sizeof lessoni.folder, "%s", folder);
    for (i = 1; i < lessoni.argc; i++) lessoni_check_word(lessoni.argv[i]);
    if (!lessoni.problems_used) return;
    fflush(stdout);
    fprintf(stderr, "%soptions are", lessoni.problems);
    for (i = 0; i < lessoni.options; i++) fprintf(stderr, " %s=", lessoni.option[i].key);
    fprintf(stderr, "; to read about them: %s help\n", program);
    exit(2);
}

// For a run that goes on: refuses an option that the reader gave otherwise than the run was begun (1e-3 is 0.001).
LESSON_FN void lesson_unchanged(const char *key, const char *then) {
    const char *now = lesson_given(key);
    if (!now || !strcmp(now, then) || (atof(now) != 0 && atof(now) == atof(then))) return;
    lesson_fail("%s=%s: this run was begun with %s=%s; leave it out, or begin anew without resume=1", key, now, key,
                then);
}

// After Ctrl-C: the command that goes on, in the folder that this run has.
LESSON_FN void lesson_stopped(const char *where) {
    const char *out = lesson_given("out");
    printf("stopped%s; go on with %s resume=1%s%s\n", where, lessoni.argv[0], out ? " out=" : "", out ? out : "");
}

// ------------------------------------------------------------------------------------------------ files

LESSON_FN void lessoni_mkdir(const char *path) {
    static int told;
#if defined(_WIN32)
    int bad = _mkdir(path);
#else
    int bad = mkdir(path, 0777);
#endif
    if (bad && errno != EEXIST && !told++)
        fprintf(stderr, "lesson %s: cannot make the folder %s: %s\n", lessoni.number, path, strerror(errno));
}

// "loss.png" becomes "out/08/loss.png"; the folder is made if it is not there. Good for the next seven calls.
LESSON_FN const char *lesson_path(const char *name) {
    static char paths[8][LESSONI_PATH];
    static int next;
    char *path = paths[next++ & 7], *slash;
    snprintf(path, LESSONI_PATH, "%s", lessoni.folder);
    for (slash = path; (slash = strchr(slash + 1, '/')) != NULL; *slash = '/') *slash = 0, lessoni_mkdir(path);
    lessoni_mkdir(path);
    if (snprintf(path, LESSONI_PATH, "%s/%s", lessoni.folder, name) >= LESSONI_PATH)
        lesson_fail("a name is too long: %s", name);
    return path;
}

// For lessons that work for what they save: better to know before than after that it cannot be written.
LESSON_FN void lesson_must_save(void) {
    const char *path = lesson_path("try.tmp");
    FILE *f;
    errno = 0;
    f = fopen(path, "wb");
    if (!f) lesson_fail("cannot write into %s: %s; out= names another folder", lessoni.folder, strerror(errno));
    fclose(f), remove(path);
}

// "written: out/08/loss.png, log.csv": unless something could not be, which was told when it happened.
LESSON_FN void lesson_written(const char *names) {
    lesson_clear();
    printf(lessoni.write_failed ? "not all of %s/%s could be written\n" : "written: %s/%s\n", lessoni.folder, names);
}

// Reads a whole file without asking for its size first, so that pipes and /proc work too. NULL with *why on failure.
LESSON_FN unsigned char *lessoni_read(const char *path, size_t *length, const char **why) {
    size_t room = 1 << 16, n = 0, got;
    unsigned char *data = NULL;
    FILE *f = fopen(path, "rb");
    *length = 0, *why = NULL;
    if (!f) { *why = strerror(errno); return NULL; }
    for (;;) {
        unsigned char *larger = (unsigned char *)realloc(data, room + 1);
        if (!larger) { *why = "it does not fit into memory"; break; }
        data = larger;
        errno = 0;
        got = fread(data + n, 1, room - n, f);
        n += got;
        if (ferror(f)) {
            *why = errno == EISDIR ? "it is a folder" : errno ? strerror(errno) : "it cannot be read";
            break;
        }
        if (n < room) break;
        if (room > ((size_t)-1) / 4) { *why = "it does not fit into memory"; break; }
        room *= 2;
    }
    fclose(f);
    if (!*why && n == 0) *why = "it is empty";
    if (*why) { free(data); return NULL; }
    data[n] = 0;
    *length = n;
    return data;
}

// Tells whether a text is the one it was before (FNV-1a, 32 bits: no protection from malice).
LESSON_FN unsigned lesson_checksum(const unsigned char *text, size_t length) {
    unsigned sum = 2166136261u;
    size_t i;
    for (i = 0; i < length; i++) sum = (sum ^ text[i]) * 16777619u & 0xffffffffu;
    return sum;
}

LESSON_FN int lesson_exists(const char *path) {
    FILE *f = fopen(path, "rb");
    if (f) fclose(f);
    return f != NULL;
}

// The reader's own file; a sentence and the end when it cannot be read or is empty. The caller frees it.
LESSON_FN unsigned char *lesson_file(const char *path, size_t *length) {
    const char *why;
    unsigned char *data = lessoni_read(path, length, &why);
    if (!data) lesson_fail("cannot use %s: %s", path, why);
    printf("data: %s, %s bytes\n", path, lesson_commas((long long)*length));
    return data;
}

LESSON_FN unsigned char *lessoni_try(const char *folder, const char *name, size_t *length) {
    static const struct { const char *name; long long size; } sizes[] = {
        {"tinyshakespeare.txt", 1115394}, {"r50k_base.tiktoken", 835554}, {"cl100k_base.tiktoken", 1681126},
        {"o200k_base.tiktoken", 3613922}};
    char path[LESSONI_PATH];
    const char *why;
    unsigned char *data;
    long long wanted = 0;
    for (int i = 0; i < 4; i++) if (!strcmp(name, sizes[i].name)) wanted = sizes[i].size;
    if (snprintf(path, sizeof path, "%s/%s", folder, name) >= (int)sizeof path) return NULL;
    data = lessoni_read(path, length, &why);
    if (data && wanted && (long long)*length != wanted) {      // half a download, or something else of that name
        printf("data: %s has %s bytes instead of %s and is not used\n", path, lesson_commas((long long)*length),
               lesson_commas(wanted));
        free(data);
        return NULL;
    }
    if (data && !strcmp(name, "tinyshakespeare.txt") && lesson_checksum(data, *length) != 1939077656u) {
        printf("data: %s has the right length but other bytes, and is not used\n", path);
        free(data);
        return NULL;
    }
    if (data) printf("data: %s, %s bytes\n", path, lesson_commas((long long)*length));
    return data;
}

#if defined(_WIN32)
#define LESSONI_NOWHERE "NUL"
#else
#define LESSONI_NOWHERE "/dev/null"
#endif

// A data set of examples/data, by name. The caller frees it. See the top of the file for where it looks.
LESSON_FN unsigned char *lesson_data(const char *name, size_t *length) {
    static const char *const folders[] = {"examples/data",    "data", "../examples/data", "", "../shared/data",
                                          "../../shared/data"};
    static const char *const scripts[] = {"examples/data/get.sh", "data/get.sh", "../examples/data/get.sh"};
    const char *mirror = getenv("DATA_MIRROR"), *set = getenv("LESSON_OFFLINE");
    int offline = set && !strcmp(set, "1");
    const char *why = offline ? "LESSON_OFFLINE=1 forbids to fetch it"
                              : "a lesson started in the repository fetches it, by examples/data/get.sh";
    unsigned char *data;
    size_t i;
    lessoni.embedded = 0, *length = 0;
    for (i = 0; i < sizeof folders / sizeof *folders; i++) {
        const char *folder = *folders[i] ? folders[i] : mirror && *mirror ? mirror : NULL;
        data = folder ? lessoni_try(folder, name, length) : NULL;
        if (data) return data;
    }
    // The name goes to a shell, so it has to be a plain one. Names are constants of the lessons, never what a model
    // wrote.
    if (strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._") != strlen(name))
        lesson_fail("no data set is called %s", name);
    for (i = 0; !offline && i < 3; i++) {
        char command[LESSONI_PATH];
        FILE *f = fopen(scripts[i], "rb");
        if (!f) continue;
        fclose(f);
        printf("fetching %s ... ", name);              // what was found, or not, ends the line
        fflush(stdout);
        snprintf(command, sizeof command, "sh %s %s >%s 2>&1", scripts[i], name, LESSONI_NOWHERE);
        data = NULL;
        if (system(command) == 0) {
            snprintf(command, sizeof command, "%.*s", (int)(strlen(scripts[i]) - strlen("/get.sh")), scripts[i]);
            data = lessoni_try(command, name, length);
        }
        if (data) return data;
        printf("it cannot be had here (sh %s %s says why)\n", scripts[i], name);
        why = "";
        break;
    }
    if (strcmp(name, "tinyshakespeare.txt")) {
        if (*why) printf("data: no %s (%s)\n", name, why);
        return NULL;
    }
    data = (unsigned char *)corpus_copy(length);
    if (!data) lesson_fail("out of memory");
    lessoni.embedded = 1;
    printf("data: no Tiny Shakespeare%s%s%s, so this is the embedded corpus of %s bytes: figures will differ\n",
           *why ? " (" : "", why, *why ? ")" : "", lesson_commas((long long)*length));
    return data;
}

// True after lesson_data had to fall back to the embedded corpus.
LESSON_FN int lesson_embedded(void) { return lessoni.embedded; }

// ------------------------------------------------------------------------------------------------ csv files

LESSON_FN void lessoni_csv_failed(lesson_csv *csv) {
    lesson_clear();
    fprintf(stderr, "lesson %s: cannot write %s: %s; going on without it\n", lessoni.number, csv->path,
            errno ? strerror(errno) : "unknown error");
    if (csv->file) fclose(csv->file);
    csv->file = NULL, lessoni.write_failed = 1;
}

// header: the names of the columns with commas between them.
LESSON_FN lesson_csv lesson_csv_open(const char *path, const char *header) {
    lesson_csv csv;
    const char *c;
    memset(&csv, 0, sizeof csv);
    csv.columns = 1;
    for (c = header; *c; c++) csv.columns += *c == ',';
    snprintf(csv.path, sizeof csv.path, "%s", path);
    errno = 0;
    csv.file = fopen(path, "wb");
    if (!csv.file || fprintf(csv.file, "%s\n", header) < 0 || fflush(csv.file)) lessoni_csv_failed(&csv);
    return csv;
}

LESSON_FN void lessoni_csv_comma(lesson_csv *csv) {
    if (csv->column++) fputc(',', csv->file);
}

// A cell of text, quoted where a comma, a quote or a line end asks for it (RFC 4180).
LESSON_FN void lesson_csv_text(lesson_csv *csv, const char *text) {
    if (!csv->file) return;
    lessoni_csv_comma(csv);
    if (!strpbrk(text, ",\"\r\n")) { fputs(text, csv->file); return; }
    fputc('"', csv->file);
    for (; *text; text++) {
        if (*text == '"') fputc('"', csv->file);
        fputc(*text, csv->file);
    }
    fputc('"', csv->file);
}

// A cell with a number: nine digits bring a float back exactly, whole numbers are written whole, LESSON_NONE is empty.
LESSON_FN void lesson_csv_number(lesson_csv *csv, double x) {
    if (!csv->file) return;
    lessoni_csv_comma(csv);
    if (x != x) return;
    if (fabs(x) < 1e15 && x == floor(x)) fprintf(csv->file, "%.0f", x);
    else fprintf(csv->file, "%.9g", x);
}

// Ends the row, and puts it on the disk at once: whoever looks while training runs sees all of it.
LESSON_FN void lesson_csv_end(lesson_csv *csv) {
    if (!csv->file) return;
    while (csv->column < csv->columns) lessoni_csv_comma(csv);
    csv->column = 0;
    errno = 0;
    if (fputc('\n', csv->file) == EOF || fflush(csv->file) || ferror(csv->file)) lessoni_csv_failed(csv);
}

// A whole row of numbers.
LESSON_FN void lesson_csv_row(lesson_csv *csv, const double *x, int n) {
    int i;
    for (i = 0; i < n; i++) lesson_csv_number(csv, x[i]);
    lesson_csv_end(csv);
}

LESSON_FN void lesson_csv_close(lesson_csv *csv) {
    FILE *f = csv->file;
    csv->file = NULL;
    errno = 0;
    if (f && fclose(f)) lessoni_csv_failed(csv);
}

// ------------------------------------------------------------------------------------------------ the training log

#define LESSON_COLUMNS "step,train_loss,val_loss,lr,grad_norm,tokens_per_second,seconds"   // of every training
static const char *const lessoni_log_header = LESSON_COLUMNS;

// Keeps the first rows whose step is below `before`; returns their size. A half-written last row goes too.
LESSON_FN size_t lessoni_rows_before(const char *text, size_t size, double before, double *seconds) {
    size_t at = strlen(lessoni_log_header) + 1;
    while (at < size) {
        const char *row = text + at, *end = (const char *)memchr(row, '\n', size - at), *comma;
        if (!end || !(strtod(row, NULL) < before)) break;
        for (comma = end; comma > row && comma[-1] != ','; comma--) {}
        if (comma < end) *seconds = strtod(comma, NULL);
        at = (size_t)(end - text) + 1;
    }
    return at;
}

// Opens out/NN/log.csv. resumed: -1 for a new log, or the number of steps already done when training goes on.
LESSON_FN void lesson_log_open(long long resumed) {
    const char *path = lesson_path("log.csv"), *why;
    size_t size = 0, header = strlen(lessoni_log_header);
    free(lessoni.kept);
    lessoni.kept = NULL, lessoni.log_before = 0, lessoni.log_started = lesson_seconds();
    if (resumed >= 0) {
        char *old = (char *)lessoni_read(path, &size, &why);
        if (old && size > header && !strncmp(old, lessoni_log_header, header) && old[header] == '\n') {
            lessoni.kept = old;
            lessoni.kept_size = lessoni_rows_before(old, size, (double)resumed + 0.5, &lessoni.log_before);
            snprintf(lessoni.log.path, sizeof lessoni.log.path, "%s", path);
            return;                        // the file stays as it is until there is a new row to put into it
        }
        free(old);
    }
    lessoni.log = lesson_csv_open(path, lessoni_log_header);
}

// The rows before the first new one go to a second file that then takes the place of the log: no moment without a log.
LESSON_FN void lessoni_log_resume(long long step) {
    char path[LESSONI_PATH + 8];
    double seconds = 0;
    size_t size = lessoni_rows_before(lessoni.kept, lessoni.kept_size, (double)step - 0.5, &seconds);
    FILE *f;
    lessoni.log.columns = 7, lessoni.log.column = 0;
    snprintf(path, sizeof path, "%s.new", lessoni.log.path);
    errno = 0;
    f = fopen(path, "wb");
    if (!f || fwrite(lessoni.kept, 1, size, f) != size || fclose(f)) lessoni_csv_failed(&lessoni.log);
    else {
#if defined(_WIN32)
        remove(lessoni.log.path);          // rename does not replace a file there
#endif
        if (rename(path, lessoni.log.path) || !(lessoni.log.file = fopen(lessoni.log.path, "ab")))
            lessoni_csv_failed(&lessoni.log);
    }
    free(lessoni.kept);
    lessoni.kept = NULL;
}

// One row; LESSON_NONE for what was not measured at this step. The last column, seconds of training, fills itself in.
LESSON_FN void lesson_log(long long step, double train_loss, double val_loss, double lr, double grad_norm,
                          double tokens_per_second) {
    double cells[5], seconds = lessoni.log_before + lesson_seconds() - lessoni.log_started;
    int i;
    cells[0] = train_loss, cells[1] = val_loss, cells[2] = lr, cells[3] = grad_norm;
    cells[4] = tokens_per_second == tokens_per_second ? floor(tokens_per_second + 0.5) : tokens_per_second;
    if (lessoni.kept) lessoni_log_resume(step);
    lesson_csv_number(&lessoni.log, (double)step);
    for (i = 0; i < 5; i++) lesson_csv_number(&lessoni.log, cells[i]);
    lesson_csv_number(&lessoni.log, floor(seconds * 100 + 0.5) / 100);
    lesson_csv_end(&lessoni.log);
}

// ------------------------------------------------------------------------------------------------ the terminal

LESSON_FN int lessoni_terminal(void) {
    if (!lessoni.terminal) {
#if defined(_WIN32)
        lessoni.terminal = 1 + (_isatty(1) != 0);
#else
        lessoni.terminal = 1 + (isatty(1) != 0);
#endif
    }
    return lessoni.terminal == 2;
}

// Takes the bar off the screen. Call it before a printf of your own.
LESSON_FN void lesson_clear(void) {
    if (lessoni.bar_width) printf("\r%*s\r", lessoni.bar_width, "");
    lessoni.bar_width = 0;
}

// Draws the bar, unless it was drawn less than a tenth of a second ago. loss and tokens_per_second may be LESSON_NONE.
LESSON_FN void lesson_progress(long long done, long long total, double loss, double tokens_per_second) {
    char line[160], bar[21];
    double now, left;
    int i, n, width;
    if (!lessoni_terminal() || total <= 0) return;
    now = lesson_seconds();
    if (lessoni.bar_started <= 0 || done < lessoni.bar_first) lessoni.bar_started = now, lessoni.bar_first = done;
    if (lessoni.bar_width && now - lessoni.bar_drawn < 0.1 && done < total) return;
    lessoni.bar_drawn = now;
    left = done > lessoni.bar_first
               ? (now - lessoni.bar_started) * (double)(total - done) / (double)(done - lessoni.bar_first)
               : LESSON_NONE;
    for (i = 0; i < 20; i++) bar[i] = (double)i < 20.0 * (double)done / (double)total ? '#' : '.';
    bar[20] = 0;
    n = snprintf(line, sizeof line, "%s/%s [%s]", lesson_commas(done), lesson_commas(total), bar);
    if (loss == loss) n += snprintf(line + n, sizeof line - (size_t)n, "  loss %.4f", loss);
    if (tokens_per_second > 0)
        n += snprintf(line + n, sizeof line - (size_t)n, "  %s tok/s",
                      lesson_commas((long long)fmin(tokens_per_second, 1e12)));
    if (left == left) n += snprintf(line + n, sizeof line - (size_t)n, "  %s left", lesson_duration(left));
    width = n < 79 ? n : 79; // a longer line would wrap on a usual terminal, and \r would not get back to its start
    printf("\r%.*s%*s", width, line, lessoni.bar_width > width ? lessoni.bar_width - width : 0, "");
    lessoni.bar_width = width;
    fflush(stdout);
}

// A line above the bar. The end of the line is added.
LESSON_FN LESSON_PRINTF(1, 2) void lesson_report(const char *format, ...) {
    va_list args;
    lesson_clear();
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    putchar('\n');
    fflush(stdout);
}

// How many bytes the UTF-8 character at s has: 0 if there is none, -1 if its end is beyond n. Overlong forms,
// surrogates and the control characters from U+0080 to U+009F (U+009B starts an escape sequence) count as none.
LESSON_FN int lessoni_utf8(const unsigned char *s, int n) {
    int size = s[0] < 0x80 ? 1 : s[0] < 0xc2 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : s[0] < 0xf5 ? 4 : 0, i;
    for (i = 1; i < size; i++) {
        if (i >= n) return -1;
        if ((s[i] & 0xc0) != 0x80) return 0;
        if (i == 1 && ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) ||
                       (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f) || (s[0] == 0xc2 && s[1] < 0xa0)))
            return 0;
    }
    return size;
}

// What a model wrote, so that it cannot steer the terminal: control bytes other than newline and tab, and bytes that
// are not UTF-8, are shown as \x1b. A token of a byte-level tokenizer may end inside a character: its beginning waits
// for the next call, and lesson_print_text(NULL, 0) at the end of a sample prints what still waits.
LESSON_FN void lesson_print_text(const void *text, size_t length) {
    const unsigned char *s = (const unsigned char *)text;
    size_t i;
    lesson_clear();
    for (i = 0; i <= length; i++) {
        int flush = i == length;
        if (flush && text) break;
        if (!flush) lessoni.tail[lessoni.tail_size++] = s[i];
        while (lessoni.tail_size) {
            int n = lessoni_utf8(lessoni.tail, lessoni.tail_size), c = lessoni.tail[0];
            if (n < 0 && !flush) break;
            if (n > 1) fwrite(lessoni.tail, 1, (size_t)n, stdout);
            else if (n == 1 && ((c >= 32 && c < 127) || c == '\n' || c == '\t')) putchar(c);
            else n = 1, printf("\\x%02x", (unsigned)c);
            lessoni.tail_size -= n;
            memmove(lessoni.tail, lessoni.tail + n, (size_t)lessoni.tail_size);
        }
    }
    fflush(stdout);
}
LESSON_FN void lesson_print_said(const char *text) {
    lesson_print_text(text, strlen(text)), lesson_print_text(NULL, 0);
}

// Tokens as bpe_colour writes them, an escape sequence before each and after it. between NULL: in colour on a terminal,
// with | between them in a pipe; otherwise with that text between them, and never in colour.
LESSON_FN void lesson_print_tokens(const char *coloured, const char *between) {
    const char *c;
    int tokens = 0;
    lesson_clear();
    if (!between && lessoni_terminal()) { fputs(coloured, stdout); return; }
    for (c = coloured; *c; c++) {
        if (*c != '\033') {
            if (*c != '\n') putchar(*c);               // a line end of its own: a token's is written as two letters
            continue;
        }
        if (strncmp(c, "\033[0m", 4) && tokens++) fputs(between ? between : "|", stdout);
        c += strcspn(c, "m");
        if (!*c) return;
    }
}

// ------------------------------------------------------------------------------------------------ Ctrl-C and the end

LESSON_FN void lessoni_on_signal(int number) {
    if (lessoni_stop) _Exit(130);
    lessoni_stop = 1;
    signal(number, lessoni_on_signal);     // some systems forget a handler once it has run
}

// True once the reader has pressed Ctrl-C (or sent SIGTERM): finish the step, save, leave by lesson_end.
LESSON_FN int lesson_interrupted(void) {
    static int installed;
    if (!installed) {
        installed = 1;
        signal(SIGINT, lessoni_on_signal);
        signal(SIGTERM, lessoni_on_signal);
    }
    return lessoni_stop != 0;
}

// A run that took half an hour is not written over without a way back: model.safetensors becomes previous.safetensors,
// and reward.safetensors previous-reward.safetensors, beside it. One before is kept, no more.
LESSON_FN void lesson_keep(const char *path) {
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    int model = !strncmp(name, "model.", 6);
    char kept[LESSONI_PATH + 16];
    snprintf(kept, sizeof kept, "%.*sprevious%s%s", (int)(name - path), path, model ? "" : "-",
             model ? name + 5 : name);
#if defined(_WIN32)
    if (lesson_exists(path)) remove(kept);             // rename does not replace a file there
#endif
    if (!rename(path, kept)) lesson_report("the model that was there is now %s, the only one kept", kept);
}

// A picture to out/NN/name: 0, or 1 where there is no stb_image_write, or -1: it could not be written, which is told,
// and lesson_end returns 1.
#define lesson_save(p, name) lessoni_saved(plot_save(p, lesson_path(name)), plot_error(p))
LESSON_FN int lessoni_saved(int status, const char *error) {
    if (status >= 0) return status;
    lesson_clear();
    fprintf(stderr, "lesson %s: %s\n", lessoni.number, error);
    return lessoni.write_failed = 1, -1;
}

// Closes the log; returns what main should return.
LESSON_FN int lesson_end(void) {
    lesson_clear();
    lesson_csv_close(&lessoni.log);
    free(lessoni.kept);
    lessoni.kept = NULL;
    if (fflush(stdout) || ferror(stdout)) lessoni.write_failed = 1;
    return lessoni_stop ? 130 : lessoni.write_failed ? 1 : 0;
}

#endif
