// test_lesson.c - examples/lesson.h and corpus.h: options, data, log, terminal, Ctrl-C. What ends the program, or is
// about a whole run, happens in a child: this program again, started with the first word "child".
#include "../examples/lesson.h"
#include "test.h"

#define LOG_FILE "out/test_lesson/log.csv"

static void remove_log(void) { remove(LOG_FILE); }

static char *slurp(const char *path) {
    size_t n;
    const char *why;
    return (char *)lessoni_read(path, &n, &why);
}

static void spill(const char *path, const char *text) {
    FILE *f = fopen(path, "wb");
    if (!f || fputs(text, f) < 0 || fclose(f)) T_FAIL("cannot write %s", path);
}

#if !defined(_WIN32)
static char program[800];                  // this program's own path, absolute
static char said[1 << 16];                 // what the last child printed, both streams

// Runs `before; program child words` in a shell and returns the exit status.
static int child(const char *before, const char *words) {
    char command[3000];
    char *text;
    int status;
    snprintf(command, sizeof command, "( %s '%s' child %s ) >build/test_lesson.txt 2>&1", before, program, words);
    status = system(command);
    text = slurp("build/test_lesson.txt");
    snprintf(said, sizeof said, "%s", text ? text : "");
    free(text);
    return status == -1 ? -1 : status & 127 ? 128 + (status & 127) : status >> 8 & 255;
}

// ------------------------------------------------------------------------------------------------ the child

static int child_options(int argc, char **argv) {
    int steps, depth, resume;
    double lr, low;
    const char *data, *kind;
    lesson_begin(argc, argv, "test_lesson", "a child");
    steps = lesson_int("steps", 2000, "optimizer steps");
    depth = lesson_int_in("depth", 4, 1, 64, "layers");
    lr = lesson_float("lr", 1e-3, "learning rate");
    low = lesson_float_in("low", -2, -5, 5, "the lowest logit");
    data = lesson_str("data", "", "a text file");
    kind = lesson_choice("tokenizer", "char", "char|bpe", "how text becomes numbers");
    resume = lesson_flag("resume", 0, "go on");
    lesson_options_end();
    printf("steps %d depth %d lr %g low %g data [%s] kind %s resume %d\n", steps, depth, lr, low, data, kind, resume);
    if (resume) lesson_unchanged("lr", "0.0003"), lesson_unchanged("tokenizer", "bpe");
    printf("given: lr %s, data %s\n", lesson_given("lr") ? lesson_given("lr") : "-",
           lesson_given("data") ? lesson_given("data") : "-");
    return lesson_end();
}

static int child_main(int argc, char **argv) {
    const char *what = argc > 2 ? argv[2] : "";
    char *only[2];
    size_t n;
    int i;
    only[0] = argv[0], only[1] = NULL;
    if (!strcmp(what, "options")) {
        argv[2] = argv[0];
        return child_options(argc - 2, argv + 2);
    }
    if (!strcmp(what, "save")) {                               // "save out=FOLDER"
        argv[2] = argv[0], lesson_begin(argc - 2, argv + 2, "test_lesson", "a child");
        lesson_options_end(), lesson_must_save();
        lesson_written("a.png, b.csv");
        lesson_csv csv = lesson_csv_open(lesson_path("none/c.csv"), "x");
        lesson_csv_close(&csv), lesson_written("a.png, c.csv");
        return lesson_end();
    }
    lesson_begin(1, only, "test_lesson", "a child");
    lesson_options_end();
    if (!strcmp(what, "data")) {
        unsigned char *data = lesson_data(argv[3], &n);
        printf("got %lu embedded %d\n", (unsigned long)n, lesson_embedded());
        free(data);
    } else if (!strcmp(what, "file")) {
        unsigned char *data = lesson_file(argv[3], &n);
        printf("got %lu [%s]\n", (unsigned long)n, (char *)data);
        free(data);
    } else if (!strcmp(what, "interrupt")) {                   // Ctrl-C between two steps, and maybe once more
        for (i = 0; i < 10 && !lesson_interrupted(); i++) if (i == 3) raise(SIGINT);
        printf("stopped after %d steps\n", i);
        fflush(stdout);
        if (argc > 3) raise(SIGINT), puts("still here");
    } else if (!strcmp(what, "deaf")) {                        // a lesson that never asks is ended as usual
        signal(SIGINT, SIG_DFL);                               // a shell's background jobs begin with it ignored
        raise(SIGINT);
        puts("still here");
    } else if (!strcmp(what, "print")) {
        unsigned char all[256];
        for (i = 0; i < 256; i++) all[i] = (unsigned char)i;
        lesson_print_text(all, 256);
        lesson_print_text("\xc3", 1), lesson_print_text("\xa9 \xe2\x82", 4),
            lesson_print_text("\xac \xc2\x9b"
                              "31m \xf0\x9f\x98",
                              11);
        lesson_print_text(NULL, 0);
    } else if (!strcmp(what, "tokens")) {
        const char *two = "\033[30;48;5;189mto\\n\033[0m\n\033[30;48;5;194m be\033[0m";
        lesson_print_tokens(two, NULL), puts(".");
        lesson_print_tokens(two, ", "), puts(".");
        lesson_print_tokens("", NULL), lesson_print_tokens("\033[30", ", "), puts(".");
    } else if (!strcmp(what, "report")) {
        for (i = 0; i < 1000; i++) {
            lesson_progress(i, 1000, 1.5, 1e5);
            if (i % 500 == 0) lesson_report("step %d", i);
        }
    } else if (!strcmp(what, "full")) {                        // the log on a full disk: the lesson goes on
        lesson_log_open(-1);
        for (i = 0; i < 3; i++) lesson_log(i, 1, 2, 3, 4, 5);
        puts("went on");
    } else if (!strcmp(what, "fail")) lesson_fail("%s is %d", "x", 7);
    else if (!strcmp(what, "alloc")) {
        volatile size_t most = (size_t)-1;                     // volatile: no compiler should see through this
        lesson_alloc(most / 4, 8), puts("still here");
    }
    return lesson_end();
}

// ------------------------------------------------------------------------------------------------ options

static void options_are_read(void) {
    CHECK_INT(child("", "options"), 0);
    CHECK_STR(said, "steps 2000 depth 4 lr 0.001 low -2 data [] kind char resume 0\ngiven: lr -, data -\n");
    CHECK_INT(child("", "options steps=7 lr=3e-4 depth=64 low=-5 data=a=b.txt tokenizer=bpe resume=1 steps=8"), 0);
    CHECK_STR(said, "steps 8 depth 64 lr 0.0003 low -5 data [a=b.txt] kind bpe resume 1\n"
                    "given: lr 3e-4, data a=b.txt\n");
    CHECK_INT(child("", "options resume=1"), 0);               // a run that goes on: not given, or given as it was
    CHECK_INT(child("", "options resume=1 lr=0.0003"), 0);
    CHECK_INT(child("", "options resume=1 lr=3e-3"), 1);
    CHECK_HAS(said, "lesson test_lesson: lr=3e-3: this run was begun with lr=0.0003;");
    CHECK_INT(child("", "options resume=1 tokenizer=char"), 1);
    CHECK_HAS(said, "tokenizer=char: this run was begun with tokenizer=bpe");
    CHECK_INT(child("", "options data="), 0);                  // given, and empty
    CHECK_HAS(said, "given: lr -, data \n");
}

static void options_are_listed(void) {
    static const char *const words[3] = {"options help", "options --help", "options steps=3 -h"};
    int i;
    for (i = 0; i < 3; i++) {
        CHECK_INT(child("", words[i]), 0);
        CHECK_HAS(said, "a child");
        CHECK_HAS(said, "steps=2000");
        CHECK_HAS(said, "optimizer steps");
        CHECK_HAS(said, "(char|bpe)");
    }
}

static void what_is_written_goes_where_out_says(void) {
    CHECK_INT(system("rm -rf build/test_lesson/o"), 0);
    CHECK_INT(child("", "save out=build/test_lesson/o/p"), 1);              // one file cannot be written
    CHECK_HAS(said, "\nwritten: build/test_lesson/o/p/a.png, b.csv\n");
    CHECK_HAS(said, "cannot write build/test_lesson/o/p/none/c.csv");
    CHECK_HAS(said, "\nnot all of build/test_lesson/o/p/a.png, c.csv could be written\n");
    CHECK(!lesson_exists("build/test_lesson/o/p/try.tmp"));
    CHECK_INT(child("", "save out=/proc/none"), 1);
    CHECK_HAS(said, "cannot write into /proc/none: ");
    CHECK(!strstr(said, "written"));
}

static void wrong_options_are_refused(void) {
    static const struct { const char *words, *why;
    } bad[] = {{"stepz=5", "lesson test_lesson: stepz=5: no such option; did you mean steps=?\n"},
               {"ly=5", "ly=5: no such option; did you mean lr=?"},
               {"lo=5", "did you mean lr= or low=?"},
               {"tok=bpe", "did you mean tokenizer=?"},
               {"banana=1", "banana=1: no such option"},
               {"steps", "steps: write it as steps=2000"},
               {"--steps=5", "write it as steps=5"},
               {"steps=", "steps=: a whole number is needed, for example steps=2000"},
               {"steps=12x", "steps=12x: a whole number"},
               {"steps=1.5", "a whole number"},
               {"steps=-1", "must be at least 0"},
               {"steps=99999999999999999999", "a whole number"},
               {"steps=3000000000", "steps=3000000000"},
               {"depth=0", "must be from 1 to 64"},
               {"depth=65", "must be from 1 to 64"},
               {"lr=fast", "lr=fast: a number is needed, for example lr=0.001"},
               {"lr=nan", "a number"},
               {"lr=inf", "a number"},
               {"lr=-1", "must be at least 0"},
               {"low=-5.1", "must be from -5 to 5"},
               {"tokenizer=word", "one of char|bpe"},
               {"tokenizer=ch", "one of char|bpe"},
               {"tokenizer=", "one of char|bpe"},
               {"tokenizer='char|bpe'", "one of char|bpe"},
               {"resume=yes", "must be 0 or 1"},
               {"'steps= 5'", "a whole"},
               {"out=", "the name of a folder is needed, for example out=out/test_lesson"}};
    char words[200];
    int lines;
    size_t i, k;
    for (i = 0; i < sizeof bad / sizeof *bad; i++) {
        snprintf(words, sizeof words, "options %s", bad[i].words);
        if (child("", words) != 2) T_FAIL("%s was not refused with status 2", bad[i].words);
        CHECK_HAS(said, bad[i].why);
        CHECK_HAS(said, "options are steps= depth= lr= low= data= tokenizer= resume= out=;");
        CHECK(!strstr(said, "optimizer steps"));               // in one line, without help's texts
        CHECK(!strstr(said, "kind char"));
        for (k = 0, lines = 0; said[k]; k++) lines += said[k] == '\n';
        CHECK_INT(lines, 2);
    }
    child("", "options steps=x lr=y");                         // all that is wrong is told at once
    CHECK_HAS(said, "steps=x"); CHECK_HAS(said, "lr=y");
}

// ------------------------------------------------------------------------------------------------ data

static void data_comes_from_the_first_place_that_has_it(void) {
    CHECK_INT(system("rm -rf build/test_lesson && mkdir -p build/test_lesson/r/examples/data build/test_lesson/r/build "
                     "build/test_lesson/shared/data build/test_lesson/mirror"), 0);
    spill("build/test_lesson/mirror/some.txt", "mirror"), spill("build/test_lesson/shared/data/some.txt", "shared!");
    CHECK_INT(child("cd build/test_lesson/r; LESSON_OFFLINE=1", "data some.txt"), 0);
    CHECK_HAS(said, "data: ../shared/data/some.txt, 7 bytes"); CHECK_HAS(said, "got 7");
    CHECK_INT(child("cd build/test_lesson/r/examples; LESSON_OFFLINE=1", "data some.txt"), 0);
    CHECK_HAS(said, "got 7");
    CHECK_INT(child("cd build/test_lesson/r; DATA_MIRROR=../mirror LESSON_OFFLINE=1", "data some.txt"), 0);
    CHECK_HAS(said, "data: ../mirror/some.txt, 6 bytes");
    spill("build/test_lesson/r/examples/data/some.txt", "own");
    CHECK_INT(child("cd build/test_lesson/r; DATA_MIRROR=../mirror LESSON_OFFLINE=1", "data some.txt"), 0);
    CHECK_HAS(said, "data: examples/data/some.txt, 3 bytes");
}

static void data_that_is_missing_is_said_and_survived(void) {
    CHECK_INT(child("cd build/test_lesson/r; LESSON_OFFLINE=1", "data none.bin"), 0);
    CHECK_STR(said, "data: no none.bin (LESSON_OFFLINE=1 forbids to fetch it)\ngot 0 embedded 0\n");
    CHECK_INT(child("cd build/test_lesson/r; LESSON_OFFLINE=1", "data tinyshakespeare.txt"), 0);
    CHECK_HAS(said, "the embedded corpus of 23,"); CHECK_HAS(said, "embedded 1");
    spill("build/test_lesson/r/examples/data/tinyshakespeare.txt", "half a download");
    CHECK_INT(child("cd build/test_lesson/r; LESSON_OFFLINE=1", "data tinyshakespeare.txt"), 0);
    CHECK_HAS(said, "has 15 bytes instead of 1,115,394 and is not used"); CHECK_HAS(said, "embedded 1");
    CHECK_INT(child("", "data 'a;b'"), 1);                     // what goes to a shell is a plain name
    CHECK_HAS(said, "no data set is called a;b");
}

static void get_sh_is_asked(void) {
    spill("build/test_lesson/r/examples/data/get.sh", "echo noise; printf %s $1 >examples/data/$1\n");
    CHECK_INT(child("cd build/test_lesson/r;", "data wanted.txt"), 0);
    CHECK_STR(said, "fetching wanted.txt ... data: examples/data/wanted.txt, 10 bytes\ngot 10 embedded 0\n");
    spill("build/test_lesson/r/examples/data/get.sh", "exit 1\n");
    CHECK_INT(child("cd build/test_lesson/r;", "data other.txt"), 0);
    CHECK_STR(said, "fetching other.txt ... it cannot be had here (sh examples/data/get.sh other.txt says why)\n"
                    "got 0 embedded 0\n");
}

static void own_files_are_read_or_refused(void) {
    spill("build/test_lesson/mine.txt", "to be"), spill("build/test_lesson/empty.txt", "");
    CHECK_INT(child("", "file build/test_lesson/mine.txt"), 0); CHECK_HAS(said, "got 5 [to be]");
    CHECK_INT(child("", "file build/test_lesson/empty.txt"), 1); CHECK_HAS(said, "empty.txt: it is empty");
    CHECK_INT(child("", "file build/test_lesson"), 1); CHECK_HAS(said, "it is a folder");
    CHECK_INT(child("", "file build/none.txt"), 1); CHECK_HAS(said, "cannot use build/none.txt");
    CHECK_INT(child("", "fail"), 1); CHECK_STR(said, "lesson test_lesson: x is 7\n");
    CHECK_INT(child("ASAN_OPTIONS=allocator_may_return_null=1", "alloc"), 1);
    CHECK_HAS(said, "out of memory"); CHECK(!strstr(said, "still here"));
}

// ------------------------------------------------------------------------------------------------ terminal, Ctrl-C

static void interrupts_are_counted(void) {
    CHECK_INT(child("", "interrupt"), 130); CHECK_STR(said, "stopped after 4 steps\n");
    CHECK_INT(child("", "interrupt twice"), 130); CHECK_STR(said, "stopped after 4 steps\n");
    CHECK(child("", "deaf") >= 128); CHECK(!strstr(said, "still here"));
}

static void printed_text_cannot_steer_a_terminal(void) {
    const unsigned char *s;
    CHECK_INT(child("", "print"), 0);
    for (s = (const unsigned char *)said; *s; s++) {
        if ((*s < 32 && *s != '\n' && *s != '\t') || *s == 127) T_FAIL("byte %d came through", *s);
        if (*s == 0xc2 && s[1] < 0xa0) T_FAIL("control character U+%04X came through", s[1]);
    }
    CHECK_HAS(said, "\\x00\\x01");
    CHECK_HAS(said, "\\x1b");
    CHECK_HAS(said, "\\x7f\\x80");
    CHECK_HAS(said, "\\xfe\\xff");
    CHECK_HAS(said, "\xc3\xa9 \xe2\x82\xac \\xc2\\x9b31m \\xf0\\x9f\\x98"); // characters that came in pieces are whole
}

static void a_pipe_sees_tokens_without_colour(void) {
    CHECK_INT(child("", "tokens"), 0); CHECK_STR(said, "to\\n| be.\nto\\n,  be.\n.\n");
}

static void a_pipe_sees_reports_only(void) {
    CHECK_INT(child("", "report"), 0); CHECK_STR(said, "step 0\nstep 500\n");
}
#endif

// ------------------------------------------------------------------------------------------------ csv, log

// The log without its last column, the time, which no two runs share.
static char *without_time(const char *path) {
    char *text = slurp(path), *in = text, *out = text;
    while (in && *in) {
        char *end = strchr(in, '\n'), *comma = end;
        if (!end) break;
        while (comma > in && *comma != ',') comma--;
        memmove(out, in, (size_t)(comma - in)), out += comma - in, *out++ = '\n', in = end + 1;
    }
    if (text) *out = 0;
    return text;
}

static void log_steps(int from, int to) {
    for (; from < to; from++) lesson_log(from, 1.0 / (from + 1), from % 2 ? LESSON_NONE : 0.25, 1e-3, 1.5, 1000.4);
}

static void close_log(void) { CHECK_INT(lesson_end(), 0); }

static void a_log_has_a_header_and_empty_cells(void) {
    char *text;
    remove_log(), lesson_log_open(-1), log_steps(0, 2), close_log();
    text = slurp(LOG_FILE);
    CHECK_HAS(text, "step,train_loss,val_loss,lr,grad_norm,tokens_per_second,seconds\n0,1,0.25,0.001,1.5,1000,");
    CHECK_HAS(text, "\n1,0.5,,0.001,1.5,1000,");
    free(text);
}

static void a_resumed_log_is_the_unbroken_one(void) {
    static const struct {
        int end, resumed, first;
    } cases[] = {{10, 5, 5}, {10, 5, 6}, {10, 10, 10}, {5, 5, 5}, {7, 0, 0}, {7, 3, 3}};
    char *whole, *parts;
    size_t i;
    remove_log(), lesson_log_open(-1), log_steps(0, 20), close_log();
    whole = without_time(LOG_FILE);
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        remove_log(), lesson_log_open(-1), log_steps(0, cases[i].end), close_log();
        lesson_log_open(cases[i].resumed), log_steps(cases[i].first, 20), close_log();
        parts = without_time(LOG_FILE);
        if (!whole || !parts || strcmp(whole, parts)) T_FAIL("case %d gives %s", (int)i, parts);
        free(parts);
    }
    free(whole);
}

static void a_resumed_log_goes_on_in_time_and_drops_half_rows(void) {
    char *text, *row;
    double before, after;
    FILE *f;
    spill(LOG_FILE, "step,train_loss,val_loss,lr,grad_norm,tokens_per_second,seconds\n0,1,,,,,7\n1,1,,,,,50.5\n2,1,,");
    lesson_log_open(100), lesson_log(3, 3, LESSON_NONE, LESSON_NONE, LESSON_NONE, LESSON_NONE), close_log();
    text = slurp(LOG_FILE), row = text ? strstr(text, "\n3,3,,,,,") : NULL;
    CHECK(row != NULL); CHECK(text && !strstr(text, "2,1,,")); CHECK(text && strstr(text, "\n1,1,,,,,50.5\n"));
    before = 50.5, after = row ? atof(row + 9) : 0;
    CHECK(after >= before); CHECK(after < before + 5);
    free(text);
    spill(LOG_FILE, "another,header\n1,2\n");                  // not our file: a new one is begun
    lesson_log_open(5), log_steps(5, 6), close_log();
    text = slurp(LOG_FILE);
    CHECK_HAS(text, "seconds\n5,"); CHECK(text && !strstr(text, "another"));
    free(text), remove_log();
    lesson_log_open(5), log_steps(5, 6), close_log();          // nothing to continue
    text = slurp(LOG_FILE);
    CHECK_HAS(text, "seconds\n5,");
    free(text);
    lesson_log_open(3), close_log(); // resumed, then interrupted before the first row: nothing lost
    f = fopen(LOG_FILE, "rb");
    CHECK(f != NULL);
    if (f) fclose(f);
}

static void csv_cells_are_quoted_and_padded(void) {
    static const double row[3] = {1, 2.5, -3};
    char *text;
    lesson_csv csv = lesson_csv_open("build/test_lesson.csv", "name,bits,note");
    lesson_csv_text(&csv, "plain"), lesson_csv_number(&csv, 8923152), lesson_csv_text(&csv, "a \"b\", c"),
        lesson_csv_end(&csv);
    lesson_csv_text(&csv, "two\nlines"), lesson_csv_number(&csv, 0.1), lesson_csv_end(&csv);
    lesson_csv_end(&csv), lesson_csv_number(&csv, 1234567890123.0), lesson_csv_number(&csv, 1e-30),
        lesson_csv_number(&csv, LESSON_NONE);
    lesson_csv_end(&csv), lesson_csv_row(&csv, row, 3), lesson_csv_close(&csv);
    text = slurp("build/test_lesson.csv");
    CHECK_STR(text,
              "name,bits,note\nplain,8923152,\"a \"\"b\"\", c\"\n\"two\nlines\",0.1,\n,,\n1234567890123,1e-30,\n"
              "1,2.5,-3\n");
    free(text);
}

#if !defined(_WIN32)
static void a_full_disk_costs_the_log_not_the_lesson(void) {
    FILE *f = fopen("/dev/full", "wb");
    if (!f) { puts("skipped: no /dev/full"); return; }
    fclose(f);
    CHECK_INT(system("rm -f " LOG_FILE " && ln -s /dev/full " LOG_FILE), 0);
    CHECK_INT(child("", "full"), 1);
    CHECK_HAS(said, "cannot write out/test_lesson/log.csv");
    CHECK_HAS(said, "going on without it");
    CHECK_HAS(said, "went on");
    CHECK(strstr(said, "cannot write") && !strstr(strstr(said, "cannot write") + 1, "cannot write")); // once, not at
                                                                                                      // each row
    remove_log();
}
#endif

// ------------------------------------------------------------------------------------------------ words, clock, corpus

static void numbers_read_well(void) {
    CHECK_STR(lesson_commas(0), "0"); CHECK_STR(lesson_commas(999), "999"); CHECK_STR(lesson_commas(1000), "1,000");
    CHECK_STR(lesson_commas(809856), "809,856"); CHECK_STR(lesson_commas(405853388800LL), "405,853,388,800");
    CHECK_STR(lesson_commas(-1234567), "-1,234,567");
    CHECK_STR(lesson_commas(-9223372036854775807LL - 1), "-9,223,372,036,854,775,808");
    CHECK_STR(lesson_bytes(0), "0 bytes");
    CHECK_STR(lesson_bytes(999), "999 bytes");
    CHECK_STR(lesson_bytes(3239424), "3.2 MB");
    CHECK_STR(lesson_bytes(1623413555200.0), "1.6 TB");
    CHECK_STR(lesson_bytes(999999), "1.0 MB");
    CHECK_STR(lesson_bytes(497759232), "498 MB");
    CHECK_STR(lesson_duration(0.05), "0.1 s");
    CHECK_STR(lesson_duration(59), "59 s");
    CHECK_STR(lesson_duration(75), "1 min 15 s");
    CHECK_STR(lesson_duration(59.9), "1 min 0 s");
    CHECK_STR(lesson_duration(3600), "1 h 0 min");
    CHECK_STR(lesson_duration(LESSON_NONE), "a long time");
}

static void the_clock_only_goes_forward(void) {
    double start = lesson_seconds(), last = start, now = start;
    long i;
    for (i = 0; i < 100000000 && now - start < 0.05; i++) {
        now = lesson_seconds();
        CHECK(now >= last);
        last = now;
    }
    CHECK(now - start >= 0.05); CHECK(now - start < 5);
}

static void checksums_are_fnv(void) {
    CHECK(lesson_checksum((const unsigned char *)"", 0) == 0x811c9dc5u);       // the published values
    CHECK(lesson_checksum((const unsigned char *)"a", 1) == 0xe40c292cu);
    CHECK(lesson_checksum((const unsigned char *)"foobar", 6) == 0xbf9cf968u);
}

static void near_words_are_found(void) {
    CHECK_INT(lessoni_distance("steps", "steps"), 0); CHECK_INT(lessoni_distance("stpes", "steps"), 2);
    CHECK_INT(lessoni_distance("", "abc"), 3); CHECK_INT(lessoni_distance("kitten", "sitting"), 3);
}

// The same layout as the real text: a name and a colon, a speech, an empty line; no character that the real one lacks.
static void the_corpus_has_the_right_form(void) {
    size_t n, i;
    char *text = corpus_copy(&n), *line, *end;
    int speeches = 0, names = 0, expect_name = 1;
    CHECK(text != NULL); CHECK(n >= 20480); CHECK_INT(strlen(text), n);
    for (i = 0; i < n; i++)
        if (!strchr("\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", text[i]))
            T_FAIL("character %d at %d", text[i], (int)i);
    for (line = text; *line; line = end + 1) {
        int length;
        end = strchr(line, '\n');
        if (!end) { T_FAIL("no line end after %.20s", line); break; }
        length = (int)(end - line);
        if (length > 75) T_FAIL("a line of %d: %.30s", length, line);
        if (length && (line[0] == ' ' || end[-1] == ' ')) T_FAIL("space at an end: %.30s", line);
        if (expect_name) {
            names += length > 1 && end[-1] == ':', expect_name = 0;
            if (end[-1] != ':') T_FAIL("no name: %.30s", line);
        } else if (length == 0) speeches++, expect_name = 1;
        else if (line[-1] == '\n' && line[-2] == ':' && length == 0) T_FAIL("no speech after %.20s", line);
    }
    CHECK_INT(names, speeches + 1); CHECK(names > 100); CHECK(text[n - 1] == '\n' && text[n - 2] != '\n');
    free(text);
}

int main(int argc, char **argv) {
    static char *fake[2];
#if !defined(_WIN32)
    char here[600];
    if (argc > 1 && !strcmp(argv[1], "child")) return child_main(argc, argv);
    if (!getcwd(here, sizeof here)) return 1;
    snprintf(program, sizeof program, "%s%s%s", *argv[0] == '/' ? "" : here, *argv[0] == '/' ? "" : "/", argv[0]);
#endif
    T_BEGIN("lesson");
    fake[0] = argv[0];
    lesson_begin(1, fake, "test_lesson", "tests");
    lessoni_mkdir("build"), lesson_path("x");
#if !defined(_WIN32)
    T_RUN(options_are_read);
    T_RUN(options_are_listed);
    T_RUN(what_is_written_goes_where_out_says);
    T_RUN(wrong_options_are_refused);
    T_RUN(data_comes_from_the_first_place_that_has_it);
    T_RUN(data_that_is_missing_is_said_and_survived);
    T_RUN(get_sh_is_asked);
    T_RUN(own_files_are_read_or_refused);
    T_RUN(interrupts_are_counted);
    T_RUN(printed_text_cannot_steer_a_terminal);
    T_RUN(a_pipe_sees_tokens_without_colour);
    T_RUN(a_pipe_sees_reports_only);
    T_RUN(a_full_disk_costs_the_log_not_the_lesson);
#endif
    T_RUN(a_log_has_a_header_and_empty_cells);
    T_RUN(a_resumed_log_is_the_unbroken_one);
    T_RUN(a_resumed_log_goes_on_in_time_and_drops_half_rows);
    T_RUN(csv_cells_are_quoted_and_padded);
    T_RUN(numbers_read_well);
    T_RUN(the_clock_only_goes_forward);
    T_RUN(checksums_are_fnv);
    T_RUN(near_words_are_found);
    T_RUN(the_corpus_has_the_right_form);
    return T_END();
}
