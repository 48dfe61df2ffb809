// openblas_peer.c - OpenBLAS's sgemm at the shapes of `make bench`, row-major, as they lie. COUNT*MxNxK is C (M,N) = A B;
// _nt has B stored transposed, _tn has A so and adds to C.
//
//     cc -O3 tests/peers/openblas_peer.c -o openblas_peer -lopenblas
//     OPENBLAS_NUM_THREADS=2 [OPENBLAS_CORETYPE=SkylakeX] ./openblas_peer 6*2048x1152x384 ...
//
// The last line is "VALUE GFLOP/s" of all of them together.
#define _POSIX_C_SOURCE 199309L
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

// The three functions we need, declared here because distributions put cblas.h in different places.
void cblas_sgemm(int order, int transa, int transb, int m, int n, int k, float alpha, const float *a, int lda,
                 const float *b, int ldb, float beta, float *c, int ldc);
char *openblas_get_corename(void);
char *openblas_get_config(void);

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// Seconds for one C (M,N) = A B: the median of the calls within half a second, of two at least.
static double seconds(int M, int N, int K, int ta, int tb) {
    const size_t na = (size_t)M * (size_t)K, nb = (size_t)K * (size_t)N, nc = (size_t)M * (size_t)N;
    float *a = (float *)malloc((na + nb + nc) * sizeof *a), *b = a + na, *c = b + nb;
    static double times[10000];
    int n = 0;
    if (!a) exit(1);
    for (size_t i = 0; i < na + nb + nc; i++) a[i] = (float)((i * 2654435761u) >> 8 & 0xffff) / 65536.0f - 0.5f;
    for (double start = 0; n < 10000 && (n < 4 || now() - start < 0.5); n++) {
        double t0 = now();
        if (n < 2) start = t0;                  // the first two calls are for warming up
        cblas_sgemm(101, ta ? 112 : 111, tb ? 112 : 111, M, N, K, 1.0f, a, ta ? M : K, b, tb ? K : N,
                    ta ? 1.0f : 0.0f, c, N);
        times[n] = now() - t0;
    }
    qsort(times + 2, (size_t)n - 2, sizeof *times, ascending);
    free(a);
    return times[2 + (n - 2) / 2];
}

int main(int argc, char **argv) {
    double flop = 0, time = 0;
    for (int i = 1; i < argc; i++) {
        int count, M, N, K, used = 0;
        if (sscanf(argv[i], "%d*%dx%dx%d%n", &count, &M, &N, &K, &used) < 4) return 1;
        flop += 2e-9 * count * M * N * K;
        time += count * seconds(M, N, K, !strncmp(argv[i] + used, "_tn", 3), !strncmp(argv[i] + used, "_nt", 3));
    }
    printf("%s, %s kernels\n", openblas_get_config(), openblas_get_corename());
    printf("%.1f GFLOP/s\n", flop / time);
    return 0;
}
