// bench_peak.c - what can the arithmetic units of this machine do at all? Runs chains of fused multiply-adds that touch
// no memory, on one thread per core, and prints floating-point operations per second; `make bench` divides by it.
//
//     cc -O3 tests/bench_peak.c -o bench_peak -lm -lpthread
//     ./bench_peak [avx512|avx2|neon|portable|best|bf16] [threads]
//
// The last line is "VALUE GFLOP/s", the median of fifteen runs. One multiply-add counts as two operations. best is
// the best for float; bf16 is VDPBF16PS, of AVX512-BF16, which does two multiply-adds of bfloat16 in each of 16 lanes.
#define _POSIX_C_SOURCE 200112L
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#if (defined(__x86_64__) || defined(__i386__)) && (defined(__GNUC__) || defined(__clang__)) && !defined(__TINYC__)
#define X86 1
#include <cpuid.h>
#include <immintrin.h>
#elif defined(__aarch64__) && defined(__GNUC__)
#define ARM 1
#include <arm_neon.h>
#endif

#define MAX_THREADS 64
#define RUNS 15

// A chain x = x*a + b waits for its own last result, four cycles on the processors of these years, and two can start in
// each cycle: eight chains keep the units busy, twelve leave room. AVX2 and NEON have registers enough for twelve too.
#define TWELVE(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)

typedef float (*kernel)(long loops, float a, float b);

#ifdef X86
__attribute__((target("avx512f"))) static float peak_avx512(long loops, float a, float b) {
    __m512 va = _mm512_set1_ps(a), vb = _mm512_set1_ps(b), sum = vb;
#define X(i) __m512 x##i = _mm512_set1_ps((float)i);
    TWELVE(X)
#undef X
    for (long n = 0; n < loops; n++) {
#define X(i) x##i = _mm512_fmadd_ps(x##i, va, vb);
        TWELVE(X)
#undef X
    }
#define X(i) sum = _mm512_add_ps(sum, x##i);
    TWELVE(X)
#undef X
    float out[16];
    _mm512_storeu_ps(out, sum);
    return out[0] + out[7] + out[15];
}

// The instruction by its name: an older compiler has no intrinsic for it.
__attribute__((target("avx512f"))) static float peak_bf16(long loops, float a, float b) {
    uint32_t pair = 0x3f803f80;                 // 1 and 1; the sums grow without harm
    __m512 va = _mm512_castsi512_ps(_mm512_set1_epi32((int)pair)), sum = _mm512_set1_ps(a + b);
#define X(i) __m512 x##i = _mm512_set1_ps((float)i);
    TWELVE(X)
#undef X
    for (long n = 0; n < loops; n++) {
#define X(i) __asm__ volatile("vdpbf16ps %1, %1, %0" : "+v"(x##i) : "v"(va));
        TWELVE(X)
#undef X
    }
#define X(i) sum = _mm512_add_ps(sum, x##i);
    TWELVE(X)
#undef X
    float out[16];
    _mm512_storeu_ps(out, sum);
    return out[0] + out[7] + out[15];
}

static int has_bf16(void) {
    unsigned a, b, c, d;
    return __builtin_cpu_supports("avx512f") && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 5 & 1);
}

__attribute__((target("avx2,fma"))) static float peak_avx2(long loops, float a, float b) {
    __m256 va = _mm256_set1_ps(a), vb = _mm256_set1_ps(b), sum = vb;
#define X(i) __m256 x##i = _mm256_set1_ps((float)i);
    TWELVE(X)
#undef X
    for (long n = 0; n < loops; n++) {
#define X(i) x##i = _mm256_fmadd_ps(x##i, va, vb);
        TWELVE(X)
#undef X
    }
#define X(i) sum = _mm256_add_ps(sum, x##i);
    TWELVE(X)
#undef X
    float out[8];
    _mm256_storeu_ps(out, sum);
    return out[0] + out[3] + out[7];
}
#endif

#ifdef ARM
static float peak_neon(long loops, float a, float b) {
    float32x4_t va = vdupq_n_f32(a), vb = vdupq_n_f32(b), sum = vb;
#define X(i) float32x4_t x##i = vdupq_n_f32((float)i);
    TWELVE(X)
#undef X
    for (long n = 0; n < loops; n++) {
        // NEON's instruction adds the product to its first operand, so the chain runs through that one.
#define X(i) x##i = vfmaq_f32(x##i, va, vb);
        TWELVE(X)
#undef X
    }
#define X(i) sum = vaddq_f32(sum, x##i);
    TWELVE(X)
#undef X
    return vgetq_lane_f32(sum, 0) + vgetq_lane_f32(sum, 3);
}
#endif

// Whatever the compiler makes of plain multiplies and adds without flags: a floor, not a peak.
static float peak_portable(long loops, float a, float b) {
    float x[32], sum = 0;
    for (int i = 0; i < 32; i++) x[i] = (float)i;
    for (long n = 0; n < loops; n++)
        for (int i = 0; i < 32; i++) x[i] = x[i] * a + b;
    for (int i = 0; i < 32; i++) sum += x[i];
    return sum;
}

// lanes: floats per turn of the loop, all chains together. has: this machine can run it.
typedef struct { const char *name; kernel run; int lanes, has; } path;

static int paths(path *p) {
    int n = 0;
#ifdef X86
    __builtin_cpu_init();
    p[n].name = "avx512", p[n].run = peak_avx512, p[n].lanes = 12 * 16;
    p[n++].has = __builtin_cpu_supports("avx512f") != 0;
    p[n].name = "bf16", p[n].run = peak_bf16, p[n].lanes = 12 * 32, p[n++].has = has_bf16();
    p[n].name = "avx2", p[n].run = peak_avx2, p[n].lanes = 12 * 8;
    p[n++].has = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
#ifdef ARM
    p[n].name = "neon", p[n].run = peak_neon, p[n].lanes = 12 * 4, p[n++].has = 1;
#endif
    p[n].name = "portable", p[n].run = peak_portable, p[n].lanes = 32, p[n++].has = 1;
    return n;
}

typedef struct { const path *p; long loops; pthread_barrier_t *start, *stop; float sink; } job;

static void *work(void *arg) {
    job *j = (job *)arg;
    j->sink = 0;
    for (int run = 0; run < RUNS; run++) {
        pthread_barrier_wait(j->start);
        j->sink += j->p->run(j->loops, 0.9999f, 1e-4f);        // converges to one: neither overflow nor denormals
        pthread_barrier_wait(j->stop);
    }
    return NULL;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double gflops(const path *p, int threads) {
    pthread_barrier_t start, stop;
    pthread_t id[MAX_THREADS];
    job jobs[MAX_THREADS];
    double times[RUNS], t0 = now();
    volatile float sink = p->run(1000000, 0.9999f, 1e-4f);
    long loops = (long)(1000000 * 0.04 / (now() - t0)) + 1;                     // about 40 ms a run
    pthread_barrier_init(&start, NULL, (unsigned)threads + 1);
    pthread_barrier_init(&stop, NULL, (unsigned)threads + 1);
    for (int i = 0; i < threads; i++) {
        jobs[i].p = p, jobs[i].loops = loops, jobs[i].start = &start, jobs[i].stop = &stop;
        if (pthread_create(&id[i], NULL, work, &jobs[i])) { fprintf(stderr, "bench_peak: no thread\n"); exit(1); }
    }
    for (int run = 0; run < RUNS; run++) {
        pthread_barrier_wait(&start);
        t0 = now();
        pthread_barrier_wait(&stop);
        times[run] = now() - t0;
    }
    for (int i = 0; i < threads; i++) {
        pthread_join(id[i], NULL);
        sink = jobs[i].sink;
    }
    (void)sink;
    qsort(times, RUNS, sizeof *times, ascending);
    return 2.0 * p->lanes * (double)loops * threads / times[RUNS / 2] * 1e-9;
}

int main(int argc, char **argv) {
    const char *want = argc > 1 ? argv[1] : "best";
    int threads = argc > 2 ? atoi(argv[2]) : 2, n, found = 0;
    double best = 0;
    path p[5];
    if (threads < 1 || threads > MAX_THREADS) {
        fprintf(stderr, "bench_peak: threads is 1 to %d\n", MAX_THREADS);
        return 2;
    }
    n = paths(p);
    for (int i = 0; i < n; i++) {
        const int wanted = strcmp(want, "best") ? !strcmp(want, p[i].name) : !!strcmp("bf16", p[i].name);
        if (!p[i].has || !wanted) continue;
        double g = gflops(&p[i], threads);
        printf("%-8s %d threads: %.1f GFLOP/s\n", p[i].name, threads, g);
        if (g > best) best = g;
        found = 1;
    }
    if (!found) { fprintf(stderr, "bench_peak: this machine has no %s\n", want); return 1; }
    printf("%.1f GFLOP/s\n", best);
    return 0;
}
