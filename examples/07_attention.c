// Lesson 07: how does a token find the one that it needs?
//
//     cc -O3 examples/07_attention.c -o attention -lm && ./attention
//
// Attention is a soft look-up: each position asks a question (its query), every earlier position shows a label (its
// key) and hands over a content (its value) in proportion to how well question and label match. First one head by hand,
// in six ops with a (T,T) table in plain sight; then ag_attention, which never makes that table, and the difference
// between the two. Then a task that nothing but looking can solve: a list of pairs such as "b7 e2 a9", then a letter;
// the answer is the digit that stood beside it. The heat map shows where the trained query looks. Last, where the
// numbers of a model sit: the parameters of each preset, and of Llama 3.1 405B, counted by hand.
//
// It prints    the largest difference between the two ways, how many look-ups come out right (a guess: one in ten), and
//              the counts, from nano's 809,856 parameters to Llama's 405,853,388,800
// It writes    out/07/causal.png                 one untrained head by hand: nobody looks ahead
//              out/07/attention.png              where the trained query looks
//              out/07/loss.png, out/07/log.csv   learning to look
// It takes     1 second.
// Next         08_pretrain.c: four layers of this on Shakespeare.
//
// Exercises
//   1. Leave the mask out of by_hand (p = ag_softmax(scores)). How large is the difference now? Which row of causal.png
//      is as it was?
//   2. Leave out the factor 1/sqrt(hs) as well and look at causal.png with HS = 8 and HS = 128: what becomes of the
//      rows, and what would that mean for their gradients?
//   3. dim=4, 6, 8, 12: how small may the vectors be before look-ups go wrong, and where does attention.png look then?
//      Is it the size or the time to learn: does dim=8 search even pairs=26, with steps=3000?
#define AG_DIE_ON_ERROR
#define AUTOGRAD_IMPLEMENTATION
#define GPT_IMPLEMENTATION
#include "../gpt.h"
#include "lesson.h"
#include "plot.h"

// One head: q, k, v (T,hs) -> (T,hs); weights (T,T) are what the picture shows.
static ag_tensor *by_hand(ag_ctx *ag, ag_tensor *q, ag_tensor *k, ag_tensor *v, float *weights) {
    int T = q->shape[0], hs = q->shape[1];
    float *mask = (float *)lesson_alloc((size_t)T * T, sizeof *mask);
    for (int t = 0; t < T; t++) for (int u = 0; u < T; u++) mask[t * T + u] = u <= t ? 0.0f : -INFINITY;
    ag_tensor *scores = ag_scale(ag_matmul_t(q, k), 1 / sqrt(hs));          // (T,T): query t times key u
    ag_tensor *p = ag_softmax(ag_add(scores, ag_input(ag, mask, T, T)));    // nobody looks ahead; each row sums to 1
    ag_get(p, weights);
    free(mask);
    return ag_matmul(p, v);
}

// The same for packed rows qkv (T,3*hs).
static ag_tensor *split_by_hand(ag_ctx *ag, ag_tensor *qkv, float *weights) {
    int hs = qkv->shape[1] / 3;
    return by_hand(ag, ag_slice(qkv, 1, 0, hs), ag_slice(qkv, 1, hs, hs), ag_slice(qkv, 1, 2 * hs, hs), weights);
}

static void two_ways(void) {
    enum { T = 12, HS = 8 };
    float hand[T * HS], fused[T * HS], weights[T * T];
    ag_ctx *ag = ag_new(3);
    ag_tensor *qkv = ag_param(ag, 1, T, 3 * HS);        // query, key and value of each position side by side
    ag_randn(qkv, 1);
    ag_get(split_by_hand(ag, ag_reshape(qkv, T, 3 * HS), weights), hand);
    ag_get(ag_attention(qkv, 1, 1, NULL, NULL, NULL), fused);
    double apart = 0;
    for (int i = 0; i < T * HS; i++) apart = fmax(apart, fabs(hand[i] - fused[i]));
    printf("one head of %d positions, by hand and by ag_attention: largest difference %.1e\n", T, apart);
    plot *p = plot_new("One untrained head, by hand", "position looked at", "position that looks");
    plot_heat(p, weights, T, T, NULL, NULL), plot_values(p, "%.2f"), plot_heat_label(p, "weight");
    lesson_save(p, "causal.png");
    plot_free(p), ag_free(ag);
}

static void counts(void) {
    // Two families, each from its smallest on. A preset of ours has no vocabulary before there is a text: Tiny
    // Shakespeare's 65 characters here, and for small also the 1,024 tokens of lesson 10.
    const char *names[] = {"nano", "baby", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "nano-llama", "small",
                           "small"};
    printf("\n%-14s %10s %18s %12s", "model", "vocabulary", "parameters", "in float32");
    for (int i = 0; i < 9; i++) {
        gpt_config c = gpt_preset(names[i]);
        if (!c.n_vocab) c.n_vocab = i == 8 ? 1024 : 65;
        if (i == 0) printf("\nGPT-2's family: one table for the tokens read and written\n");
        if (i == 6) printf("Llama's family: a table for each\n");
        printf("%-14s %10s %18s %12s%s\n", names[i], lesson_commas(c.n_vocab), lesson_commas((long long)gpt_count(&c)),
               lesson_bytes(4.0 * (double)gpt_count(&c)), i == 8 ? "  as lesson 10 has it" : "");
    }
    // Llama 3.1 405B: 126 layers, 16,384 channels, 128 heads, 8 key heads, 53,248 inside the MLP, 128,256 tokens
    // (Dubey et al. 2024, table 3).
    long long L = 126, C = 16384, kv = 8 * 128, H = 53248, V = 128256;
    long long layer = 2 * C * C + 2 * C * kv + 3 * C * H + 2 * C, all = L * layer + 2 * V * C + C;
    printf("%-14s %10s %18s %9.2f TB  = %lld layers of %s, two tables of %s, one norm\n", "Llama 405B",
           lesson_commas(V), lesson_commas(all), 4e-12 * (double)all, L, lesson_commas(layer), lesson_commas(V * C));
}

int main(int argc, char **argv) {
    lesson_begin(argc, argv, "07", "attention is looking up");
    int steps = lesson_int_in("steps", 500, 1, 1000000, "optimizer steps");
    int pairs = lesson_int_in("pairs", 8, 1, 26, "letters in the list");
    int dim = lesson_int_in("dim", 32, 1, 256, "size of queries, keys and values");
    int batch = lesson_int_in("batch", 64, 1, 10000, "lists a step");
    double lr = lesson_float("lr", 0.01, "peak learning rate, falling linearly to zero");
    int seed = lesson_int("seed", 1337, "of everything random");
    lesson_options_end();
    two_ways();

    // A list is (letter, digit) pairs, then a letter with digit 10, "unknown". Each position is the sum of two
    // embeddings; one head; its output at the last position is read as a digit.
    int T = pairs + 1, right = 0, asked = 0;
    int *letters = (int *)lesson_alloc((size_t)batch * T, sizeof *letters);
    int *digits = (int *)lesson_alloc((size_t)batch * T, sizeof *digits);
    int *answers = (int *)lesson_alloc((size_t)batch, sizeof *answers);
    float *z = (float *)lesson_alloc((size_t)batch, 10 * sizeof *z);
    ag_ctx *ag = ag_new((unsigned long long)seed);
    ag_tensor *letter = ag_param(ag, 26, dim), *digit = ag_param(ag, 11, dim);
    ag_tensor *wqkv = ag_param(ag, dim, 3 * dim), *head = ag_param(ag, dim, 10);
    ag_randn(letter, 1), ag_randn(digit, 1);
    ag_randn(wqkv, (float)(1 / sqrt(dim))), ag_randn(head, (float)(1 / sqrt(dim)));
    lesson_log_open(-1);
    double start = lesson_seconds();
    for (int step = 0; step <= steps; step++) {
        ag_rng *rng = ag_stream(ag, AG_RNG_DATA);
        for (int b = 0; b < batch; b++) {
            int deck[26], *l = letters + b * T, *d = digits + b * T;
            for (int i = 0; i < 26; i++) deck[i] = i;
            for (int i = 0; i < pairs; i++) {           // different letters, any digits
                int j = i + (int)(ag_rng_u32(rng) % (unsigned)(26 - i)), swap = deck[i];
                deck[i] = deck[j], deck[j] = swap, l[i] = deck[i], d[i] = (int)(ag_rng_u32(rng) % 10);
            }
            int pick = (int)(ag_rng_u32(rng) % (unsigned)pairs);
            l[pairs] = l[pick], d[pairs] = 10, answers[b] = d[pick];
        }
        ag_tensor *x = ag_add(ag_embedding(letter, letters, batch * T, T),                          // (B,T,dim)
                              ag_embedding(digit, digits, batch * T, T));
        ag_tensor *qkv = ag_linear(x, wqkv, NULL);                                                  // (B,T,3*dim)
        ag_tensor *y = ag_slice(ag_attention(qkv, 1, 1, NULL, NULL, NULL), 1, pairs, 1);            // (B,1,dim): last
        ag_tensor *logits = ag_linear(ag_reshape(y, batch, dim), head, NULL);                       // (B,10)
        ag_tensor *loss = ag_cross_entropy(logits, answers, NULL);
        double rate = lr * (1 - (double)step / steps), value = ag_item(loss);
        if (step >= steps - 20) {                       // these lists are as new as all others: count the right answers
            ag_get(logits, z);
            for (int b = 0; b < batch; b++, asked++) {
                int best = 0;
                for (int i = 1; i < 10; i++) if (z[b * 10 + i] > z[b * 10 + best]) best = i;
                right += best == answers[b];
            }
        }
        if (step == steps) break;
        ag_backward(loss);
        double norm = ag_grad_norm(ag), speed = (step + 1.0) * batch * T / (lesson_seconds() - start + 1e-9);
        ag_adamw(ag, rate, 0.9, 0.99, 0);
        ag_reset(ag);
        lesson_log(step, value, LESSON_NONE, rate, norm, speed);
        lesson_progress(step + 1, steps, value, speed);
    }
    // The first list again, asked for each of its letters in turn: where does the last position look?
    float *seen = (float *)lesson_alloc((size_t)pairs * T, sizeof *seen);
    float *weights = (float *)lesson_alloc((size_t)T * T, sizeof *weights);
    char text[2 * 27][8];
    const char *asked_for[27], *looked_at[27];
    for (int i = 0; i < pairs; i++) {
        letters[pairs] = letters[i];
        ag_tensor *x = ag_add(ag_embedding(letter, letters, T, 0), ag_embedding(digit, digits, T, 0));
        split_by_hand(ag, ag_linear(x, wqkv, NULL), weights);
        memcpy(seen + i * T, weights + pairs * T, (size_t)T * sizeof *seen);
        snprintf(text[i], 8, "%c%d", 'a' + letters[i], digits[i]);
        snprintf(text[27 + i], 8, "%c?", 'a' + letters[i]);
        looked_at[i] = text[i], asked_for[i] = text[27 + i];
    }
    looked_at[pairs] = "itself";
    plot *map = plot_new("Asked for each letter in turn, it looks at its pair", "position looked at", "asked for");
    plot_heat(map, seen, (size_t)pairs, (size_t)T, asked_for, looked_at), plot_heat_range(map, 0, 1);
    plot_values(map, "%.2f"), plot_heat_label(map, "weight");
    lesson_save(map, "attention.png");
    plot_free(map), free(seen), free(weights);
    printf("look-up in a list of %d pairs: %d of %d answers right (a guess: one in ten)\n", pairs, right, asked);
    plot *p = plot_new("Learning to look", "step", "loss (nats an answer)");
    plot_csv(p, "lists it has never seen", lesson_path("log.csv"), "step", "train_loss");
    plot_hline(p, log(10), "a guess: ln 10");
    lesson_save(p, "loss.png");
    plot_free(p);
    counts();
    printf("\n"), lesson_written("attention.png, causal.png, loss.png, log.csv");
    ag_free(ag), free(letters), free(digits), free(answers), free(z);
    return lesson_end();
}
