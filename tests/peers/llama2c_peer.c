// llama2c_peer.c - times llama2.c's decoding. It holds none of llama2.c's code: run.c of a checkout is included with
// TESTING defined, which leaves its main out. Its own timer counts whole milliseconds, too coarse for a small model,
// and its generate prints each token; here only the forward pass and the choice of the likeliest token are timed.
//
//     gcc -Ofast -march=native -fopenmp -DTESTING -I CHECKOUT tests/peers/llama2c_peer.c -o llama2c_peer -lm
//     OMP_NUM_THREADS=2 ./llama2c_peer FILE [tokens] [seconds]
//
// The last line is "VALUE tokens/s", the median of as many texts as fit into the seconds.
#include "run.c"

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    enum { MOST = 4096, BOS = 1 };
    static double times[MOST];
    const int tokens = argc > 2 ? atoi(argv[2]) : 200;
    const double limit = argc > 3 ? atof(argv[3]) : 2, begin = now();
    Transformer t;
    Sampler sampler;
    unsigned sum = 0;
    int runs = -1;                                  // the first one touches the file's pages: it does not count
    if (argc < 2) return 1;
    build_transformer(&t, argv[1]);
    build_sampler(&sampler, t.config.vocab_size, 0, 0.9f, 1337);
    if (tokens < 1 || tokens > t.config.seq_len) return 1;
    while (runs < MOST && (runs < 3 || now() - begin < limit)) {
        const double start = now();
        int token = BOS;
        sum = 0;
        for (int pos = 0; pos < tokens; pos++) {
            token = sample(&sampler, forward(&t, token, pos));
            sum = sum * 31 + (unsigned)token;
        }
        if (runs >= 0) times[runs] = now() - start;
        runs++;
    }
    qsort(times, (size_t)runs, sizeof *times, ascending);
    printf("%d runs, text %u\n%.1f tokens/s\n", runs, sum, tokens / times[runs / 2]);
    return 0;
}
