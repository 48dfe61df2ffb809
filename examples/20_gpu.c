// Lesson 20: does a GPU learn the same?
//
//     cc -O3 examples/20_gpu.c -o gpu -lm && ./gpu                                                      the CPU alone
//     g++ -std=c++17 -O2 -DGPT_CUDA -x c++ examples/20_gpu.c cuda/gpt_cuda.cu -o gpu && ./gpu           emulated
//     nvcc -std=c++17 -O3 -arch=native -DGPT_CUDA examples/20_gpu.c cuda/gpt_cuda.cu -o gpu && ./gpu    a GPU
//
// Every op of autograd.h calls kernels through a table of functions (struct ag_backend). A GPU is another such table,
// cuda/gpt_cuda.cu, and one line of a program chooses it: ag_new_with(seed, ag_cuda_backend(0)) instead of
// ag_new(seed). Model, loss, optimizer and training loop below do not know which one they run on.
// The two add up numbers in different orders, so they differ in the last bits, and each step makes a little more of
// that. This lesson trains the same model from the same start on both and shows by how much they part. Without a GPU,
// the second line compiles the same kernels for the CPU (cuda/README.md): hundreds of times slower, but the same code.
// These three compile them with the checker, which looks at every load and store of the kernels:
//
//     cc -O2 -DGPT_CUDA -c examples/20_gpu.c -o gpu.o
//     g++ -std=c++17 -g -O1 -fno-tree-sra -DCUDA_ON_CPU_CHECK -fsanitize=thread -x c++ -c cuda/gpt_cuda.cu -o kernels.o
//     g++ gpu.o kernels.o -o gpu -nodefaultlibs -lstdc++ -lm -lc -lgcc_s -lgcc && ./gpu steps=1
//
//     ./gpu                                     on the GPU if it was compiled in, next to the CPU
//     ./gpu backend=cpu                         the CPU alone
//     ./gpu preset=nano batch=12 steps=500      lesson 08's model; more than the emulation can do while you wait
//     ./gpu preset=nano batch=12 steps=500 bf16=1       matrix products on tensor cores
//     ./gpu gpus=2                              two GPUs share each batch; compile with -DGPT_NCCL too, and -lnccl for
//                                               real ones. In emulation: CUDA_ON_CPU_DEVICES=2 ./gpu gpus=2
//
// It prints    for some of the steps the loss of each, and how far apart they are, below 1e-4 for these 20 steps; and
//              how much of the work one GPU took from CUDA graphs (cuda/queue.cuh)
// It writes    out/20/log.csv, out/20/loss.png, and with a GPU out/20/apart.png
// It takes     a second on the CPU; with the emulation ten more, after a minute of compiling
// Next         cuda/README.md, to take the kernels apart in a debugger; cuda/gpt_cuda.cu, to read them.
//
// Exercises
//   1. Break a kernel: in cuda/gpt_cuda.cu, embedding_back, delete the last __syncthreads(), and compile with the
//      emulation. Are the losses the same? Now with CUDA_ON_CPU_SEED=1 ./gpu, and then with the checker.
//   2. Give each backend another seed. How far apart are two runs then, and what does that say about 1e-4?
//   3. naive=1 takes the shortest version of each kernel. Which of them have you understood before the other?
#define AG_DIE_ON_ERROR
#define AUTOGRAD_IMPLEMENTATION
#define GPT_IMPLEMENTATION
#define BPE_DIE_ON_ERROR
#define BPE_IMPLEMENTATION
#include "../gpt.h"
#include "../bpe.h"
#include "lesson.h"
#include "plot.h"

enum { MAX_GPUS = 64 };
#ifdef GPT_CUDA
#include "../cuda/gpt_cuda.h"
enum { WITH_CUDA = 1 };
static ag_cuda_group *group;        // where several GPUs share a batch
static ag_backend *gpu;

// One context, or one for each GPU.
static void open_gpus(ag_ctx **ag, int gpus, int device, int naive, int seed) {
    if (gpus > 1) {                 // in emulation there are as many as CUDA_ON_CPU_DEVICES says
        group = ag_cuda_group_new((unsigned long long)seed, gpus, 0);
        if (!group) lesson_fail("gpus=%d: see above", gpus);
        for (int i = 0; i < gpus; i++) ag[i] = ag_cuda_group_context(group, i);
        return;
    }
    gpu = naive ? ag_cuda_naive_backend(device) : ag_cuda_backend(device);
    if (!gpu) lesson_fail("device=%d: there is no such device", device);
    ag[0] = ag_new_with((unsigned long long)seed, gpu);
}
static void close_gpus(ag_ctx *ag) {
    long replayed, launched;
    if (group) { ag_cuda_group_free(group); return; }
    ag_cuda_launches(gpu, &replayed, &launched);
    lesson_report("of %s kernels and copies %.0f %% were replayed from CUDA graphs",
                  lesson_commas(replayed + launched), 100.0 * (double)replayed / (double)(replayed + launched));
    ag_free(ag);
}
// Of one loss for each context. Of several GPUs the gradients are averaged.
static void backward(ag_tensor **loss, int n) {
    n > 1 ? ag_cuda_group_backward(group, loss, 1) : ag_backward(loss[0]);
}
#else
enum { WITH_CUDA = 0 };
static void open_gpus(ag_ctx **ag, int n, int device, int naive, int seed) {
    (void)ag, (void)n, (void)device, (void)naive, (void)seed;
}
static void close_gpus(ag_ctx *ag) { (void)ag; }
static void backward(ag_tensor **loss, int n) { (void)n, ag_backward(loss[0]); }
#endif

static const int *tokens;           // the text
static size_t n_tokens;

// The training loop of every other lesson, with the windows of a batch shared by n contexts. losses, norms: (steps).
static void train(ag_ctx *const *ag, int n, const gpt_config *c, int steps, int batch, double *losses, double *norms) {
    const int T = c->n_ctx, mine = batch / n;       // windows of one context
    gpt_model *m[MAX_GPUS];
    gpt_optimizer optimizer = gpt_adamw();
    gpt_loader loader = gpt_loader_new(ag[0], tokens, n_tokens, GPT_RANDOM);
    int *x = (int *)lesson_alloc((size_t)batch * T, sizeof *x), *y = (int *)lesson_alloc((size_t)batch * T, sizeof *y);
    double start = lesson_seconds(), speed = 0;
    for (int i = 0; i < n; i++) m[i] = gpt_new(ag[i], c);
    for (int step = 0; step < steps; step++) {
        ag_tensor *loss[MAX_GPUS];
        gpt_next(&loader, batch, T, x, y);
        for (int i = 0; i < n; i++)
            loss[i] = ag_cross_entropy(gpt_forward(m[i], x + i * mine * T, mine, T), y + i * mine * T, NULL);
        backward(loss, n);
        losses[step] = 0;
        for (int i = 0; i < n; i++) losses[step] += ag_item(loss[i]) / n;
        for (int i = 0; i < n; i++) gpt_step(m[i], &optimizer, 1, &norms[step]), ag_reset(ag[i]);
        speed = (step + 1.0) * batch * T / (lesson_seconds() - start);
        lesson_progress(step + 1, steps, losses[step], speed);
    }
    ag_memory memory = ag_memory_used(ag[0]);
    lesson_report("%s: %d steps in %s, %s tokens a second, %s of memory%s", ag_backend_name(ag[0]), steps,
                  lesson_duration(lesson_seconds() - start), lesson_commas((long long)speed),
                  lesson_bytes((double)memory.reserved), n > 1 ? " on each" : "");
    for (int i = 0; i < n; i++) gpt_free(m[i]);
    free(x), free(y);
}

int main(int argc, char **argv) {
    lesson_begin(argc, argv, "20", "the same training on a GPU");
    const char *backend = lesson_choice("backend", WITH_CUDA ? "cuda" : "cpu", "cpu|cuda", "where to train");
    const char *preset = lesson_choice("preset", "", gpt_presets(), "default: 2 layers of 64 channels");
    int device = lesson_int("device", 0, "which GPU");
    int gpus = lesson_int_in("gpus", 1, 1, MAX_GPUS, "GPUs that share each batch, from device 0 on");
    int steps = lesson_int_in("steps", 20, 1, 1000000, "optimizer steps");
    int batch = lesson_int_in("batch", 4, 1, 100000, "windows a step");
    int bf16 = lesson_flag("bf16", 0, "matrix products in bfloat16");
    int naive = lesson_flag("naive", 0, "the shortest version of each kernel: slow");
    int seed = lesson_int("seed", 1337, "of everything random");
    lesson_options_end();
    const int cuda = backend[1] == 'u';
    if (cuda && !WITH_CUDA)
        lesson_fail("backend=cuda: this program was compiled without it; the first comment of 20_gpu.c has two lines "
                    "that compile it with");
    if (batch % gpus) lesson_fail("batch=%d windows cannot be shared by gpus=%d: choose a multiple", batch, gpus);
    if (gpus > 1 && (!cuda || naive || device))
        lesson_fail("gpus=%d goes with backend=cuda alone: not with backend=cpu, naive=1 or device=%d", gpus, device);

    size_t bytes;
    unsigned char *text = lesson_data("tinyshakespeare.txt", &bytes);
    bpe *characters = bpe_new();
    bpe_chars(characters, text, bytes);
    int *ids = (int *)lesson_alloc(bytes, sizeof *ids);
    tokens = ids, n_tokens = (size_t)bpe_encode(characters, text, bytes, ids, bytes);
    gpt_config c = gpt_preset(*preset ? preset : "nano-llama");
    if (!*preset) c.n_layer = 2, c.n_embd = 64, c.n_hidden = 176, c.n_ctx = 32;
    if (!c.n_vocab) c.n_vocab = bpe_vocab_size(characters);
    printf("%s parameters, %d steps of %d windows of %d tokens, products in %s\n", lesson_commas(gpt_count(&c)), steps,
           batch, c.n_ctx, bf16 ? "bfloat16" : "float32");

    // The same seed: the same weights and the same windows of text, since both are drawn on the host.
    double *losses[2], *norms = (double *)lesson_alloc((size_t)steps, sizeof *norms), furthest = 0;
    double *gap = (double *)lesson_alloc((size_t)steps, sizeof *gap);
    for (int k = 0; k < 2; k++) losses[k] = (double *)lesson_alloc((size_t)steps, sizeof **losses);
    ag_ctx *both[2][MAX_GPUS];
    if (cuda) open_gpus(both[1], gpus, device, naive, seed);        // first, so that a missing one is told at once
    both[0][0] = ag_new((unsigned long long)seed);
    for (int k = 0; k <= cuda; k++) {
        ag_ctx **ag = both[k];
        int n = k ? gpus : 1;
        for (int i = 0; bf16 && i < n; i++) ag_set_matmul_precision(ag[i], AG_BF16);
        train(ag, n, &c, steps, batch, losses[k], norms);
        if (k) close_gpus(ag[0]);
        else ag_free(ag[0]);
    }

    printf("\n  step   cpu loss%s\n", cuda ? "  cuda loss    apart" : "");
    for (int step = 0; step < steps; step++) {
        double apart = cuda ? fabs(losses[1][step] - losses[0][step]) : 0;
        furthest = fmax(furthest, apart), gap[step] = fmax(apart, 1e-8);   // a logarithmic axis has no 0
        if (step % (steps < 20 ? 1 : steps / 10) && step + 1 < steps) continue;
        printf("%6d %10.6f", step, losses[0][step]);
        if (cuda) printf(" %10.6f  %.1e", losses[1][step], apart);
        printf("\n");
    }
    if (cuda) printf("furthest apart: %.1e\n", furthest);

    lesson_log_open(-1);
    for (int step = 0; step < steps; step++)
        lesson_log(step, losses[cuda][step], LESSON_NONE, gpt_adamw().lr, norms[step], LESSON_NONE);
    plot *p = plot_new("The same training, twice", "step", "loss (nats a character)");
    plot_line(p, "CPU", NULL, losses[0], (size_t)steps);
    if (cuda) plot_line(p, "GPU", NULL, losses[1], (size_t)steps), plot_dashed(p);
    lesson_save(p, "loss.png"), plot_free(p);
    if (cuda) {
        p = plot_new("How far they part", "step", "difference of the losses (nats; none: 1e-8)");
        plot_log_y(p), plot_line(p, NULL, NULL, gap, (size_t)steps);
        lesson_save(p, "apart.png"), plot_free(p);
    }
    lesson_written(cuda ? "log.csv, loss.png, apart.png" : "log.csv, loss.png");
    bpe_free(characters);
    for (int k = 0; k < 2; k++) free(losses[k]);
    free(text), free(ids), free(norms), free(gap);
    return lesson_end();
}
