// kill.c - a process that saves dies at any moment, and what is on the disk is the old checkpoint or the new one.
// tests/test_kill.sh builds and runs it; "kill save FILE STEP" saves once, for those who kill from outside.
#define _POSIX_C_SOURCE 200809L
#define AUTOGRAD_IMPLEMENTATION
#include "../gpt.h"                             // the declarations: the hook needs the type gpt_io
static const gpt_io *traced_io(void);
#define GPT_IO traced_io()
#define GPT_IMPLEMENTATION
#include "../gpt.h"                             // the rest
#include "test.h"
#include <dirent.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char folder[100], program[300];
static int kills_wanted = 1000;
static const char *in_folder(const char *name) {
    static char path[2][200];
    static int turn;
    turn = !turn;
    snprintf(path[turn], sizeof path[turn], "%s/%s", folder, name);
    return path[turn];
}

// Every weight of the model says at which step it was saved: a mixture of two saves would show.
static gpt_model *model_at(ag_ctx *ag, long long step) {
    gpt_config c = gpt_preset("nano-llama");
    c.n_layer = 1, c.n_head = c.n_kv_head = 2, c.n_embd = 32, c.n_hidden = 64, c.n_vocab = 65, c.n_ctx = 16;
    gpt_model *m = gpt_new(ag, &c);
    for (int i = 0; m && i < ag_param_count(ag); i++) ag_fill(ag_param_get(ag, i), (ag_real)step);
    return m;
}

static int save_step(gpt_model *m, const char *path, long long step) {
    gpt_state s;
    memset(&s, 0, sizeof s);
    s.step = step;
    for (int i = 0; i < ag_param_count(m->ctx); i++) ag_fill(ag_param_get(m->ctx, i), (ag_real)step);
    return gpt_save(m, path, &s);
}

// The step of a checkpoint; -1: it cannot be read, -2: it holds weights of another step.
static long long step_of(const char *path, char *why, size_t size) {
    ag_ctx *ag = ag_new(1);
    gpt_state s;
    gpt_model *m = gpt_load(ag, path, &s);
    long long step = m ? s.step : -1;
    for (int i = 0; m && i < ag_param_count(ag); i++) {
        ag_tensor *t = ag_param_get(ag, i);
        for (size_t k = 0; k < t->count; k++) if (t->data[k] != (ag_real)step) step = -2;
    }
    snprintf(why, size, "%s", ag_error(ag) ? ag_error(ag) : "");
    if (m) gpt_state_free(&s);
    gpt_free(m), ag_free(ag);
    return step;
}

static int temporaries(void) {
    DIR *d = opendir(folder);
    int n = 0;
    for (struct dirent *e; d && (e = readdir(d)) != NULL;) n += strstr(e->d_name, ".tmp.") != NULL;
    if (d) closedir(d);
    return n;
}

// ---- the order of things --------------------------------------------------------------------------------------------
// No kill can show that a flush is missing, because the kernel outlives the process; a power cut would. So the calls of
// one save are written down, and before the rename both files are looked at.
static int tracing;
static char trace[4000], written_to[300];
static long long old_step, new_step;
static void note(const char *call) {
    size_t n = strlen(trace), k = strlen(call);
    if (!tracing) return;
    if (n >= k + 1 && !strcmp(call, "write") && !strcmp(trace + n - k - 1, "write ")) return;     // many are as one
    snprintf(trace + n, sizeof trace - n, "%s ", call);
}
static void *t_open(const char *path, int writing) {
    note("open");
    if (tracing) snprintf(written_to, sizeof written_to, "%s", path);
    return gpt_stdio()->open(path, writing);
}
static long t_read(void *file, void *to, size_t n) { return gpt_stdio()->read(file, to, n); }
static int t_write(void *file, const void *from, size_t n) { note("write"); return gpt_stdio()->write(file, from, n); }
static int t_patch(void *file, size_t offset, const void *from, size_t n) {
    note("write");
    return gpt_stdio()->patch(file, offset, from, n);
}
static int t_sync(void *file) { note("sync"); return gpt_stdio()->sync(file); }
static int t_close(void *file) { note("close"); return gpt_stdio()->close(file); }
static int t_remove(const char *path) { return gpt_stdio()->remove(path); }
static int t_sync_dir(const char *path) { note("sync_dir"); return gpt_stdio()->sync_dir(path); }
static void t_sweep(const char *path) { gpt_stdio()->sweep(path); }
static int t_rename(const char *from, const char *to) {
    char why[300];
    note("rename");
    if (tracing) {
        tracing = 0;                            // what is read now is not part of the save
        old_step = step_of(to, why, sizeof why), new_step = step_of(from, why, sizeof why);
        tracing = 1;
        CHECK_STR(from, written_to);
    }
    return gpt_stdio()->rename(from, to);
}
static const gpt_io *traced_io(void) {
    static const gpt_io io = { t_open, t_read, t_write, t_patch, t_sync, t_close, t_rename, t_remove, t_sync_dir,
                               t_sweep };
    return &io;
}

static void flushed_then_renamed_then_flushed(void) {
    const char *path = in_folder("order");
    char why[300];
    ag_ctx *ag = ag_new(1);
    gpt_model *m = model_at(ag, 1);
    CHECK_INT(save_step(m, path, 1), 0);
    tracing = 1;
    CHECK_INT(save_step(m, path, 2), 0);
    tracing = 0;
    CHECK_STR(trace, "open write sync close rename sync_dir ");
    CHECK_INT(old_step, 1);                     // until the rename the old file is whole; the new one is, too, then
    CHECK_INT(new_step, 2);
    CHECK_INT(step_of(path, why, sizeof why), 2);
    CHECK(!strncmp(written_to, path, strlen(path)) && !strchr(written_to + strlen(path), '/'));    // the same directory
    gpt_free(m), ag_free(ag);
}

// What dead processes have left goes, what a living one is writing stays: here this test's own parent is "writing".
static void only_the_dead_are_swept(void) {
    const char *path = in_folder("swept");
    char alive[300], dead[300], other[300];
    ag_ctx *ag = ag_new(1);
    gpt_model *m = model_at(ag, 1);
    int status = 0;
    pid_t child = fork();
    if (!child) _exit(0);
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    snprintf(alive, sizeof alive, "%s.tmp.%ld.1", path, (long)getppid());
    snprintf(dead, sizeof dead, "%s.tmp.%ld.1", path, (long)child);
    snprintf(other, sizeof other, "%s2.tmp.%ld.1", path, (long)child);         // of another checkpoint
    fclose(fopen(alive, "wb")), fclose(fopen(dead, "wb")), fclose(fopen(other, "wb"));
    CHECK_INT(save_step(m, path, 3), 0);
    CHECK_INT(access(alive, F_OK), 0);
    CHECK_INT(access(dead, F_OK), -1);
    CHECK_INT(access(other, F_OK), 0);
    remove(alive), remove(other);
    gpt_free(m), ag_free(ag);
}

// ---- kills ----------------------------------------------------------------------------------------------------------
static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

// A child saves 1, 2, 3 ... and reports through a pipe each save that is done, until it is killed, after a random time
// of up to three saves. The checkpoint must then be readable, and no older than the last save that was reported.
static void a_thousand_kills(void) {
    const char *path = in_folder("killed");
    ag_ctx *ag = ag_new(1);
    gpt_model *m = model_at(ag, 0);
    ag_rng r = {(uint64_t)time(NULL), 0};
    double start = now(), one;
    int kills = 0, inside = 0, unreadable = 0, older = 0, mixed = 0;
    for (int i = 0; i < 10; i++) CHECK_INT(save_step(m, path, 0), 0);
    one = (now() - start) / 10;
    long long last = 0;
    for (start = now(); kills < kills_wanted && now() - start < 20; kills++) {
        int ends[2];
        char why[300];
        long long n, acknowledged = last, found;
        struct timespec wait;
        double seconds = ag_rng_uniform(&r) * 3 * one;
        if (pipe(ends)) { T_FAIL("pipe: %s", strerror(errno)); break; }
        pid_t child = fork();
        if (!child) {
            for (n = last + 1;; n++) if (save_step(m, path, n) || write(ends[1], &n, sizeof n) != sizeof n) _exit(1);
        }
        close(ends[1]);
        wait.tv_sec = (time_t)seconds, wait.tv_nsec = (long)((seconds - (double)wait.tv_sec) * 1e9);
        nanosleep(&wait, NULL);
        kill(child, SIGKILL);
        int status = 0;
        waitpid(child, &status, 0);
        if (!WIFSIGNALED(status)) T_FAIL("the child ended by itself, with status %d", status);
        while (read(ends[0], &n, sizeof n) == sizeof n) acknowledged = n;
        close(ends[0]);
        inside += temporaries() > 0;            // it died while it was writing
        found = step_of(path, why, sizeof why);
        if (found == -1) unreadable++, T_FAIL("kill %d (seed %llu): %s", kills, (unsigned long long)r.key, why);
        else if (found == -2) mixed++;
        else if (found < acknowledged || found > acknowledged + 1) older++;
        if (found < 0) break;                   // there is nothing to go on from
        last = found;
    }
    CHECK_INT(unreadable, 0);
    CHECK_INT(mixed, 0);
    CHECK_INT(older, 0);
    CHECK(kills >= kills_wanted / 10);          // a slow disk may not manage a thousand in 20 s, but a tenth of them
    CHECK(inside * 10 >= kills);                // or the kills have not met what they should
    CHECK_INT(save_step(m, path, 7), 0);        // the next save takes away what the dead have left
    CHECK_INT(temporaries(), 0);
    printf("note: %d kills in %.1f s, %d of them while a file was written: %d unreadable, %d older, %d mixed\n", kills,
           now() - start, inside, unreadable, older, mixed);
    gpt_free(m), ag_free(ag);
}

// strace lists the system calls of a process that saves once, and then kills one such process at each of them.
static void at_every_system_call(void) {
    const char *path = in_folder("traced"), *list = in_folder("calls");
    char command[1000], why[300], line[300], name[100][24];
    ag_ctx *ag = ag_new(1);
    gpt_model *m = model_at(ag, 5);
    int count[100], names = 0, before = 0, after = 0;
    CHECK_INT(save_step(m, path, 5), 0);
    snprintf(command, sizeof command, "strace -o %s %s save %s 6 > /dev/null 2>&1", list, program, path);
    if (system(command)) { puts("skipped: a kill at every system call needs strace, and may not trace here"); return; }
    CHECK_INT(step_of(path, why, sizeof why), 6);
    FILE *f = fopen(list, "r");
    while (f && fgets(line, sizeof line, f)) {
        size_t k = strspn(line, "abcdefghijklmnopqrstuvwxyz0123456789_");
        int i = 0;
        if (k == 0 || k > 23 || line[k] != '(') continue;
        line[k] = 0;
        while (i < names && strcmp(name[i], line)) i++;
        if (i == 100) break;
        if (i == names) snprintf(name[names++], sizeof name[0], "%.23s", line), count[i] = 0;
        count[i]++;
    }
    if (f) fclose(f);
    for (int i = 0; i < names; i++) for (int k = 1; k <= count[i]; k++) {
        if (!strcmp(name[i], "exit_group") || !strcmp(name[i], "execve")) continue;
        if (step_of(path, why, sizeof why) != 5) CHECK_INT(save_step(m, path, 5), 0);
        snprintf(command, sizeof command, "strace -o /dev/null -e inject=%.23s:signal=KILL:when=%d %s save %s 6 "
                 "> /dev/null 2>&1", name[i], k, program, path);
        if (system(command) == 0) T_FAIL("%s, number %d, did not kill", name[i], k);
        long long found = step_of(path, why, sizeof why);
        if (found != 5 && found != 6) T_FAIL("killed at %s, number %d: %lld, %s", name[i], k, found, why);
        before += found == 5, after += found == 6;
    }
    CHECK(before > 20 && after > 1);            // kills before the rename, and behind it
    printf("note: killed at each of %d system calls: %d times the old checkpoint is there, %d times the new one\n",
           before + after, before, after);
    gpt_free(m), ag_free(ag);
}

int main(int argc, char **argv) {
    char command[200];
    if (argc == 4 && !strcmp(argv[1], "save")) {
        ag_ctx *ag = ag_new(1);
        gpt_model *m = model_at(ag, 0);
        return !m || save_step(m, argv[2], atoll(argv[3]));
    }
    T_BEGIN("kill");
    if (argc > 2) kills_wanted = atoi(argv[2]); // for planted/run.sh, which is in a hurry
    snprintf(program, sizeof program, "%s", argv[0]);
    mkdir("build", 0777);
    snprintf(folder, sizeof folder, "build/kill_%ld", (long)getpid());
    mkdir(folder, 0777);
    T_RUN(flushed_then_renamed_then_flushed);
    T_RUN(only_the_dead_are_swept);
    T_RUN(a_thousand_kills);
    T_RUN(at_every_system_call);
    snprintf(command, sizeof command, "rm -rf %s", folder);
    if (system(command)) puts("note: the folder of the test could not be removed");
    return T_END();
}
