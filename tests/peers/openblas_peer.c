// openblas_peer.c - OpenBLAS's sgemm at the shape of `make bench`: C (M,N) = A (M,K) * B (K,N), row-major, as they lie.
//
//     cc -O3 tests/peers/openblas_peer.c -o openblas_peer -lopenblas
//     OPENBLAS_NUM_THREADS=2 [OPENBLAS_CORETYPE=SkylakeX] ./openblas_peer [M N K]
//
// The last line is "VALUE GFLOP/s", the median of all calls within two seconds.
#define _POSIX_C_SOURCE 199309L
#include <stdio.h>
#include <stdlib.h>
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

int main(int argc, char **argv) {
    int M = argc > 3 ? atoi(argv[1]) : 1024, N = argc > 3 ? atoi(argv[2]) : 3072, K = argc > 3 ? atoi(argv[3]) : 768;
    size_t na = (size_t)M * (size_t)K, nb = (size_t)K * (size_t)N, nc = (size_t)M * (size_t)N;
    float *a = (float *)malloc((na + nb + nc) * sizeof *a), *b = a + na, *c = b + nb;
    static double times[10000];
    int n = 0;
    if (!a) return 1;
    for (size_t i = 0; i < na + nb; i++) a[i] = (float)((i * 2654435761u) >> 8 & 0xffff) / 65536.0f - 0.5f;
    for (int warm = 0; warm < 3; warm++)
        cblas_sgemm(101, 111, 111, M, N, K, 1.0f, a, K, b, N, 0.0f, c, N);      // row-major, no transpose
    for (double start = now(); n < 10000 && (n < 5 || now() - start < 2.0);) {
        double t0 = now();
        cblas_sgemm(101, 111, 111, M, N, K, 1.0f, a, K, b, N, 0.0f, c, N);
        times[n++] = now() - t0;
    }
    qsort(times, (size_t)n, sizeof *times, ascending);
    printf("%s, %s kernels, %d calls\n", openblas_get_config(), openblas_get_corename(), n);
    printf("%.1f GFLOP/s\n", 2.0 * M * N * K / times[n / 2] * 1e-9);
    free(a);
    return 0;
}
