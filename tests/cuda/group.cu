// Data parallel training (cuda/gpt_cuda.cu, -DGPT_NCCL) on two GPUs against one that has the whole batch: the same
// losses and weights up to rounding, and the same bits on both. tests/cuda/group.sh builds it with the checker too, and
// without each of the waits that hold the two streams together: then it has to fail.
#include "../../cuda/gpt_cuda.h"
#include "../../gpt.h"
#include "../test.h"
#include <cmath>
#include <vector>

enum { GPUS = 2, BATCH = 4, STEPS = 5, T = 12, TOKENS = 200 };
static int tokens[TOKENS];
static gpt_config small(void) {
    gpt_config c = gpt_preset("nano");              // the head and the embedding are one parameter
    c.n_layer = 2, c.n_head = c.n_kv_head = 2, c.n_embd = 16, c.n_ctx = T, c.n_vocab = 33;
    return c;
}
static std::vector<float> weights_of(const ag_ctx *ctx) {
    std::vector<float> all;
    for (int i = 0; i < ag_param_count(ctx); i++) {
        const ag_tensor *p = ag_param_get(ctx, i);
        all.resize(all.size() + p->count);
        CHECK(!ag_get(p, &all[all.size() - p->count]));
    }
    return all;
}

// One step of all windows, in `parts` parts one after the other, each of them spread over the GPUs.
static double step_on(ag_ctx *const *ctx, gpt_model *const *m, int gpus, ag_cuda_group *g, const int *x, const int *y,
                      int parts) {
    int windows = BATCH / gpus / parts;
    double sum = 0, norm[GPUS];
    gpt_optimizer o = gpt_adamw();
    for (int part = 0; part < parts; part++) {
        ag_tensor *loss[GPUS];
        for (int i = 0; i < gpus; i++) {
            int at = (part * gpus + i) * windows * T;
            loss[i] = ag_scale(ag_cross_entropy(gpt_forward(m[i], x + at, windows, T), y + at, NULL), 1.0 / parts);
        }
        if (g) CHECK(!ag_cuda_group_backward(g, loss, part + 1 == parts));
        else CHECK(!ag_backward(loss[0]));
        if (ag_error(ctx[0])) T_FAIL("%s", ag_error(ctx[0]));
        for (int i = 0; i < gpus; i++) sum += ag_item(loss[i]) / gpus, ag_reset(ctx[i]);
    }
    for (int i = 0; i < gpus; i++) {
        CHECK(!gpt_step(m[i], &o, 1, &norm[i]));
        CHECK(norm[i] == norm[0] && norm[0] > 0);
    }
    return sum;
}
static void train(int parts, size_t bucket_bytes) {
    gpt_config c = small();
    ag_cuda_group *g = ag_cuda_group_new(5, GPUS, bucket_bytes);
    CHECK(g != NULL);
    if (!g) return;
    ag_ctx *one = ag_new_with(5, ag_cuda_backend(0)), *ctx[GPUS];
    gpt_model *alone = gpt_new(one, &c), *m[GPUS];
    for (int i = 0; i < GPUS; i++) ctx[i] = ag_cuda_group_context(g, i), m[i] = gpt_new(ctx[i], &c);
    CHECK(ag_cuda_group_context(g, GPUS) == NULL && ag_cuda_group_context(g, -1) == NULL);
    for (int step = 0; step < STEPS; step++) {
        int x[BATCH * T], y[BATCH * T];
        for (int i = 0; i < BATCH * T; i++) {
            int at = (step * 31 + i / T * 7) % (TOKENS - T - 1) + i % T;
            x[i] = tokens[at], y[i] = tokens[at + 1];
        }
        double want = step_on(&one, &alone, 1, NULL, x, y, parts), got = step_on(ctx, m, GPUS, g, x, y, parts);
        CHECK_NEAR(got, want, 1e-5);
    }
    double overlap = ag_cuda_group_overlap(g);      // of one bucket there is none; of many, all but the first layer's
    CHECK(bucket_bytes ? overlap > 0.5 && overlap < 1 : overlap == 0);
    std::vector<float> first = weights_of(ctx[0]), want = weights_of(one);
    CHECK(first == weights_of(ctx[1]));
    double apart = 0, size = 0;
    for (size_t i = 0; i < want.size(); i++) apart += pow(first[i] - want[i], 2), size += want[i] * want[i];
    CHECK(sqrt(apart / size) < 1e-3);
    for (int i = 0; i < GPUS; i++) gpt_free(m[i]);
    gpt_free(alone), ag_free(one), ag_cuda_group_free(g);
}
static void one_bucket(void) { train(1, 0); }
static void many_buckets(void) { train(1, 1); }
static void parts(void) { train(2, 4096); }

// Parameters that the loss does not need, and some that are frozen and thawed again.
static void unused(void) {
    ag_cuda_group *g = ag_cuda_group_new(1, GPUS, 1);
    CHECK(g != NULL);
    if (!g) return;
    ag_tensor *used[GPUS], *idle[GPUS], *loss[GPUS];
    float grad[5];
    for (int i = 0; i < GPUS; i++) {
        ag_ctx *c = ag_cuda_group_context(g, i);
        used[i] = ag_param(c, 3), idle[i] = ag_param(c, 5);
        ag_fill(used[i], 2), ag_fill(idle[i], 1);
    }
    for (int round = 0; round < 4; round++) {       // 2: all need it, 3: the second GPU alone
        for (int i = 0; i < GPUS; i++) {
            ag_trainable(idle[i], round != 1);
            ag_tensor *y = ag_sum(ag_scale(used[i], i + 1));
            loss[i] = round == 2 || (round == 3 && i) ? ag_add(y, ag_sum(idle[i])) : y;
        }
        CHECK(!ag_cuda_group_backward(g, loss, 1));
        for (int i = 0; i < GPUS; i++) {
            CHECK(!ag_get_grad(used[i], grad));
            for (int k = 0; k < 3; k++) CHECK_NEAR(grad[k], 1.5, 1e-6);
            CHECK_INT(idle[i]->has_grad, round >= 2);
            if (round < 2) continue;
            CHECK(!ag_get_grad(idle[i], grad));
            for (float v : grad) CHECK_NEAR(v, round == 2 ? 1 : 0.5, 1e-6);
        }
        for (int i = 0; i < GPUS; i++)
            ag_zero_grad(ag_cuda_group_context(g, i)), ag_reset(ag_cuda_group_context(g, i));
    }
    ag_cuda_group_free(g);
}

// A parameter comes while there are gradients: refused, and nothing is lost. After what the message says all is well.
static void refused(void) {
    ag_cuda_group *g = ag_cuda_group_new(1, GPUS, 1);
    CHECK(g != NULL);
    if (!g) return;
    ag_tensor *first[GPUS], *later[GPUS], *loss[GPUS];
    float grad[500] = {0};
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < GPUS; i++) {
            ag_ctx *c = ag_cuda_group_context(g, i);
            if (!round) first[i] = ag_param(c, 3), ag_fill(first[i], 2);
            if (round == 1) later[i] = ag_param(c, 500), ag_fill(later[i], 1);
            if (round == 2) ag_zero_grad(c), ag_reset(c);
            loss[i] = ag_sum(ag_scale(first[i], i + 1));
            if (round) loss[i] = ag_add(loss[i], ag_sum(later[i]));
        }
        CHECK_INT(ag_cuda_group_backward(g, loss, 1), round == 1 ? -1 : 0);
        for (int i = 0; i < GPUS; i++) {
            const char *error = ag_error(ag_cuda_group_context(g, i));
            if (round == 1) CHECK_HAS(error ? error : "", "ag_zero_grad");
            ag_clear_error(ag_cuda_group_context(g, i));
            CHECK(!ag_get_grad(first[i], grad));
            for (int k = 0; k < 3; k++) CHECK_NEAR(grad[k], 1.5, 1e-6);
            if (round) CHECK(!ag_get_grad(later[i], grad));
            for (int k = 0; k < 500 && round; k++) CHECK_NEAR(grad[k], round - 1, 1e-6);
        }
    }
    ag_cuda_group_free(g);
}

static void errors(void) {
    ag_cuda_group_free(NULL);                       // of a program that did not look
    CHECK(ag_cuda_group_context(NULL, 0) == NULL && ag_cuda_group_overlap(NULL) == 0);
    CHECK(ag_cuda_group_backward(NULL, NULL, 1) == -1);
    fflush(stderr);
    FILE *kept = stderr;
    stderr = tmpfile();                             // what is said is looked at, and not shown
    CHECK(ag_cuda_group_new(1, 0, 0) == NULL && ag_cuda_group_new(1, 99, 0) == NULL);
    char text[400] = "";
    rewind(stderr);
    CHECK(fread(text, 1, sizeof text - 1, stderr) > 0);
    CHECK_HAS(text, "wanted at least 1");
    CHECK_HAS(text, "device");
    for (int fault = 0; fault < 4; fault++) {
        ag_cuda_group *g = ag_cuda_group_new(1, GPUS, 0);
        ag_tensor *loss[GPUS];
        for (int i = 0; i < GPUS; i++) {
            ag_ctx *c = ag_cuda_group_context(g, i);
            ag_tensor *p = ag_param(c, 4);
            ag_fill(p, fault == 0 && i ? 2 : 1);
            if (fault == 1 && i) ag_fill(ag_param(c, 1), 0);
            if (fault == 2) ag_backward(ag_sum(p));
            loss[i] = ag_sum(fault == 3 && i ? ag_log(ag_scale(p, -1)) : p);
        }
        CHECK(ag_cuda_group_backward(g, loss, 1) == -1);
        static const char *const said[] = {"weights of GPU 1", "more or fewer", "ag_zero_grad", "not finite"};
        const char *error = ag_error(ag_cuda_group_context(g, 1));
        CHECK_HAS(error ? error : "", said[fault]);
        ag_cuda_group_free(g);
    }
    fclose(stderr);
    stderr = kept;
}

int main(int argc, char **argv) {
    for (int i = 0; i < TOKENS; i++) tokens[i] = (i * i / 7 + i * 5) % 33;
    T_BEGIN("group");
    T_RUN(one_bucket);
    T_RUN(many_buckets);
    T_RUN(parts);
    T_RUN(unused);
    T_RUN(refused);
    T_RUN(errors);
    return T_END();
}
