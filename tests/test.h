// test.h - the smallest test frame that cannot lie: a test function passes if no CHECK in it failed, a program exits
// non-zero if any function failed, and its last line is "NAME: N passed, N failed", which tests/run.sh adds up.
//
//     static void adds(void) { CHECK(1 + 1 == 2); CHECK_NEAR(0.1 + 0.2, 0.3, 1e-12); }
//     int main(int argc, char **argv) { T_BEGIN("sums"); T_RUN(adds); return T_END(); }
//
// A word on the command line runs only the tests whose name contains it. With -DT_STOP the first failed check ends the
// program, with status 1: for planted bugs, of which that is all one wants to know.
#ifndef TEST_H
#define TEST_H
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int t_passed, t_failed, t_bad;      // tests that passed, tests that failed, checks that failed in this test
static const char *t_program = "?", *t_name = "?", *t_only;

#define T_BEGIN(program) (t_program = (program), t_only = argc > 1 ? argv[1] : NULL)
#define T_RUN(function) t_run(#function, function)
#define T_END() (printf("%s: %d passed, %d failed\n", t_program, t_passed, t_failed), t_failed || !t_passed)

// At most ten failed checks are printed for one test: a wrong kernel fails a million times.
#ifdef T_STOP
#define T_ENOUGH() exit(1)
#else
#define T_ENOUGH() ((void)0)
#endif
#define T_FAIL(...) (t_bad++ < 10 ? (printf("%s:%d: %s: ", __FILE__, __LINE__, t_name), printf(__VA_ARGS__), \
                                     putchar('\n'), T_ENOUGH(), 0) : 0)
#define CHECK(condition) do { if (!(condition)) T_FAIL("CHECK(%s)", #condition); } while (0)
#define CHECK_INT(got, want) do { long long g_ = (long long)(got), w_ = (long long)(want); \
    if (g_ != w_) T_FAIL("%s is %lld, wanted %lld", #got, g_, w_); } while (0)
#define CHECK_NEAR(got, want, tolerance) do { double g_ = (got), w_ = (want), t_ = (tolerance); \
    if (!(fabs(g_ - w_) <= t_)) T_FAIL("%s is %.9g, wanted %.9g within %.1g", #got, g_, w_, t_); } while (0)
#define CHECK_STR(got, want) do { const char *g_ = (got), *w_ = (want); \
    if (!g_ || strcmp(g_, w_)) T_FAIL("%s is \"%s\", wanted \"%s\"", #got, g_ ? g_ : "(null)", w_); } while (0)
#define CHECK_HAS(text, part) do { const char *g_ = (text), *w_ = (part); \
    if (!g_ || !strstr(g_, w_)) T_FAIL("%s is \"%s\", which lacks \"%s\"", #text, g_ ? g_ : "(null)", w_); } while (0)

static void t_run(const char *name, void (*function)(void)) {
    if (t_only && !strstr(name, t_only)) return;
    t_name = name, t_bad = 0;
    function();
    if (t_bad) { t_failed++; printf("FAILED %s: %s (%d checks)\n", t_program, name, t_bad); }
    else t_passed++;
    fflush(stdout);
}

#endif
