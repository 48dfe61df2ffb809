// op_cases.h - one list of op calls for two programs: test_ops.c compares their gradients with finite differences in
// double, test_float.c compares the float kernels with the double twins and with each other.
//
// A case is a name, the shapes of its parameters and an expression. A, B, C, D are the parameters in order. A shape is
// followed by a letter that says what it is filled with:
//     n normal    u uniform in [0.5, 2)    b saturating: +-100, +-30, ... and 0    e all equal    o one-hot rows, 50 up
//     k on a grid, 0.05 away from every multiple of 0.1 (kinks)    d distinct, 0.06 apart    D distinct, 0.03 from d
// All numbers are rounded to float, so that both precisions start from the same ones.
#ifndef OP_CASES_H
#define OP_CASES_H

#define A ag_param_get(g, 0)
#define B ag_param_get(g, 1)
#define C ag_param_get(g, 2)
#define D ag_param_get(g, 3)

static const int ids5[] = {2, 0, 2, 3, 1}, ids6[] = {3, 3, 0, 1, 3, 2}, starts2[] = {3, 0}, lens2[] = {5, 2},
    lens3[] = {3, 0, 5}, lens_none[] = {0, 3};
static const int targets4[] = {0, 2, 6, 2}, targets_ignore[] = {0, AG_IGNORE, 6, 2},
    targets6[] = {1, 4, AG_IGNORE, 0, 0, 2};
static const ag_real weights4[] = {(ag_real)0.5, 2, 1, (ag_real)0.25};

// Zeros and ones that are no parameter: the condition of ag_where.
static ag_tensor *mask_of(ag_ctx *g, int d0, int d1) {
    ag_real m[64];
    for (int i = 0; i < d0 * d1; i++) m[i] = (ag_real)((i * 7 + 3) % 5 < 2);
    return ag_input(g, m, d0, d1);
}

static ag_tensor *concat2(ag_tensor *a, ag_tensor *b, int dim) {
    ag_tensor *xs[2];
    xs[0] = a, xs[1] = b;
    return ag_concat(xs, 2, dim);
}

static ag_tensor *concat3(ag_tensor *a, ag_tensor *b, ag_tensor *c, int dim) {
    ag_tensor *xs[3];
    xs[0] = a, xs[1] = b, xs[2] = c;
    return ag_concat(xs, 3, dim);
}

// Every call draws the same mask, else two calls of the loss would be two functions.
static ag_tensor *dropout_from(ag_ctx *g, uint64_t counter, ag_tensor *x, double p) {
    ag_stream(g, AG_RNG_DROPOUT)->counter = counter;
    return ag_dropout(x, p);
}
static ag_tensor *dropout_of(ag_ctx *g, ag_tensor *x, double p) { return dropout_from(g, 40, x, p); }

static ag_tensor *twice_reused(ag_tensor *a) {
    ag_tensor *b = ag_add(a, a), *c = ag_add(b, b);
    return ag_mul(c, ag_add(b, a));
}

static ag_tensor *mlp(ag_tensor *x, ag_tensor *w, ag_tensor *b, ag_tensor *v) {
    return ag_matmul(ag_gelu(ag_linear(x, w, b)), v);
}

// A block with two residual paths: x feeds four places.
static ag_tensor *block(ag_tensor *x, ag_tensor *norm, ag_tensor *w_qkv, ag_tensor *w_out) {
    ag_tensor *h = ag_attention(ag_linear(ag_rmsnorm(x, norm, 1e-5), w_qkv, NULL), 2, 1, NULL, NULL, NULL);
    h = ag_add(x, ag_linear(h, w_out, NULL));
    return ag_add(h, ag_linear(ag_silu(ag_layernorm(h, norm, NULL, 1e-5)), w_out, NULL));
}

#define OP_CASES(X) \
    X(add, "3,5n 3,5n", ag_add(A, B)) \
    X(add_row, "3,5n 5n", ag_add(A, B)) \
    X(add_column, "3,1n 3,5n", ag_add(A, B)) \
    X(add_outer, "3,1n 1,5n", ag_add(A, B)) \
    X(add_scalar, "3,5n n", ag_add(A, B)) \
    X(add_self, "3,5n", ag_add(A, A)) \
    X(add_five_ways, "2,1,3,1n 4,1,5n", ag_add(A, B)) \
    X(add_of_results, "3,5n 3,5n", ag_add(ag_tanh(A), ag_add(ag_tanh(B), ag_tanh(A)))) \
    X(sub, "3,5n 3,5n", ag_sub(A, B)) \
    X(sub_row, "3,5n 5n", ag_sub(A, B)) \
    X(sub_from_row, "5n 3,5n", ag_sub(A, B)) \
    X(sub_self, "3,5n", ag_sub(ag_mul(A, A), ag_sub(A, A))) \
    X(mul, "3,5n 3,5n", ag_mul(A, B)) \
    X(mul_row, "2,3,5n 3,1n", ag_mul(A, B)) \
    X(mul_self, "3,5n", ag_mul(A, A)) \
    X(div, "3,5n 3,5u", ag_div(A, B)) \
    X(div_row, "3,5n 5u", ag_div(A, B)) \
    X(div_by_big, "1,5n 3,5u", ag_div(A, B)) \
    X(div_self, "3,5u", ag_div(A, ag_mul(A, A))) \
    X(minimum, "3,7d 3,7D", ag_minimum(A, B)) \
    X(minimum_row, "3,7d 7D", ag_minimum(A, B)) \
    X(minimum_outer, "3,1d 1,7D", ag_mul(ag_minimum(A, B), B)) \
    X(maximum, "3,7d 3,7D", ag_maximum(A, B)) \
    X(maximum_row, "7D 3,7d", ag_maximum(A, B)) \
    X(greater, "3,7d 3,7D", ag_mul(ag_greater(A, B), A)) \
    X(greater_row, "3,7d 7D", ag_mul(ag_greater(A, B), B)) \
    X(where, "3,5n 3,5n", ag_where(mask_of(g, 3, 5), A, B)) \
    X(where_row, "3,5n 5n", ag_where(mask_of(g, 3, 1), B, A)) \
    X(where_condition_row, "3,5n n", ag_where(mask_of(g, 1, 5), A, B)) \
    X(where_self, "3,5k", ag_where(ag_greater(A, ag_scale(A, 0)), A, ag_mul(A, A))) \
    X(where_of_a_parameter, "3,5u 3,5n 3,5n", ag_where(A, B, C)) \
    X(neg, "3,7n", ag_neg(A)) \
    X(scale, "3,7n", ag_scale(A, -2.5)) \
    X(shift, "3,7n", ag_mul(ag_shift(A, 0.7), A)) \
    X(pow_2, "3,7n", ag_pow(A, 2)) \
    X(pow_3, "3,7n", ag_pow(A, 3)) \
    X(pow_half, "3,7u", ag_pow(A, 0.5)) \
    X(pow_negative, "3,7u", ag_pow(A, -1.5)) \
    X(pow_1, "3,7n", ag_mul(ag_pow(A, 1), A)) \
    X(pow_0, "3,7n", ag_mul(ag_pow(A, 0), A)) \
    X(exp, "3,7n", ag_exp(A)) \
    X(log, "3,7u", ag_log(A)) \
    X(sqrt, "3,7u", ag_sqrt(A)) \
    X(tanh, "3,7n", ag_tanh(A)) \
    X(tanh_large, "3,7b", ag_tanh(A)) \
    X(sigmoid, "3,7n", ag_sigmoid(A)) \
    X(sigmoid_large, "3,7b", ag_sigmoid(A)) \
    X(log_sigmoid, "3,7n", ag_log_sigmoid(A)) \
    X(log_sigmoid_large, "3,7b", ag_log_sigmoid(A)) \
    X(relu, "3,7k", ag_relu(A)) \
    X(gelu, "3,7n", ag_gelu(A)) \
    X(gelu_large, "3,7b", ag_gelu(A)) \
    X(silu, "3,7n", ag_silu(A)) \
    X(silu_large, "3,7b", ag_silu(A)) \
    X(clamp, "3,7k", ag_clamp(A, -0.6, 0.9)) \
    X(clamp_open, "3,7k", ag_clamp(A, -INFINITY, 0.3)) \
    X(detach, "3,7n", ag_add(ag_detach(ag_scale(A, 0)), A)) \
    X(sum, "2,3,5n", ag_mul(ag_sum(A), ag_sum(ag_mul(A, A)))) \
    X(sum_of_one, "n", ag_sum(ag_exp(A))) \
    X(mean, "2,3,5n", ag_mul(ag_mean(A), ag_mean(ag_exp(A)))) \
    X(sum_dim_0, "3,2,5n", ag_sum_dim(A, 0)) \
    X(sum_dim_1, "3,2,5n", ag_sum_dim(A, 1)) \
    X(sum_dim_last, "2,3,2,5n", ag_mul(ag_sum_dim(A, -1), A)) \
    X(sum_dim_4, "2,3,2,5n", ag_mul(ag_sum_dim(A, 1), A)) \
    X(mean_dim_0, "7n", ag_mean_dim(A, 0)) \
    X(mean_dim_1, "3,2,5n", ag_mean_dim(ag_exp(A), 1)) \
    X(mean_dim_last, "3,5n", ag_sub(A, ag_mean_dim(A, -1))) \
    X(max_dim_0, "5,3d", ag_max_dim(A, 0)) \
    X(max_dim_middle, "2,5,3d", ag_mul(ag_max_dim(A, -2), A)) \
    X(max_dim_last, "3,9d", ag_max_dim(A, 1)) \
    X(matmul, "3,5n 5,7n", ag_matmul(A, B)) \
    X(matmul_dot, "1,9n 9,1n", ag_matmul(A, B)) \
    X(matmul_outer, "5,1n 1,3n", ag_matmul(A, B)) \
    X(matmul_self, "4,4n", ag_matmul(A, A)) \
    X(matmul_one_b, "2,3,5n 5,4n", ag_matmul(A, B)) \
    X(matmul_one_b_4, "2,3,2,5n 5,4n", ag_matmul(A, B)) \
    X(matmul_batch, "2,3,5n 2,5,4n", ag_matmul(A, B)) \
    X(matmul_one_a, "3,5n 2,5,4n", ag_matmul(A, B)) \
    X(matmul_one_a_1, "1,3,5n 2,5,4n", ag_matmul(A, B)) \
    X(matmul_one_b_1, "2,3,5n 1,5,4n", ag_matmul(A, B)) \
    X(matmul_batch_4, "2,3,2,5n 2,3,5,3n", ag_matmul(A, B)) \
    X(matmul_crossed, "2,1,3,4n 1,3,4,2n", ag_matmul(A, B)) \
    X(matmul_inner_batch, "2,3,2,4n 3,4,2n", ag_matmul(A, B)) \
    X(matmul_outer_batch, "3,2,4n 2,1,4,2n", ag_matmul(A, B)) \
    X(matmul_twice, "3,3n 3,3n", ag_matmul(ag_matmul(A, B), ag_matmul(B, A))) \
    X(matmul_t, "3,5n 7,5n", ag_matmul_t(A, B)) \
    X(matmul_t_self, "3,5n", ag_matmul_t(A, A)) \
    X(matmul_t_one_b, "2,3,5n 4,5n", ag_matmul_t(A, B)) \
    X(matmul_t_one_b_1, "2,3,5n 1,4,5n", ag_matmul_t(A, B)) \
    X(matmul_t_batch, "2,3,5n 2,4,5n", ag_matmul_t(A, B)) \
    X(matmul_t_one_a, "3,5n 2,4,5n", ag_matmul_t(A, B)) \
    X(matmul_t_crossed, "2,1,3,4n 1,3,2,4n", ag_matmul_t(A, B)) \
    X(linear, "3,5n 5,7n 7n", ag_linear(A, B, C)) \
    X(linear_no_bias, "3,5n 5,7n", ag_linear(A, B, NULL)) \
    X(linear_1, "5n 5,7n 7n", ag_linear(A, B, C)) \
    X(linear_3, "2,3,5n 5,4n 4n", ag_linear(A, B, C)) \
    X(linear_4, "2,3,2,5n 5,1n 1n", ag_linear(A, B, C)) \
    X(linear_gelu, "3,5n 5,7n 7n", ag_linear_gelu(A, B, C)) \
    X(linear_gelu_none, "2,3,5n 5,4n", ag_linear_gelu(A, B, NULL)) \
    X(linear_gelu_tied, "3,5n 5,5n 5n", ag_linear_gelu(ag_linear_gelu(A, B, C), B, C)) \
    X(linear_tied, "3,5n 5,5n 5n", ag_linear(ag_linear(A, B, C), B, C)) \
    X(softmax, "3,7n", ag_softmax(A)) \
    X(softmax_1, "9n", ag_softmax(A)) \
    X(softmax_3, "2,3,5n", ag_mul(ag_softmax(A), A)) \
    X(softmax_one_column, "4,1n", ag_add(ag_softmax(A), A)) \
    X(softmax_large, "3,7b", ag_softmax(A)) \
    X(softmax_equal, "3,7e", ag_softmax(A)) \
    X(softmax_one_hot, "3,7o", ag_softmax(A)) \
    X(log_softmax, "3,7n", ag_log_softmax(A)) \
    X(log_softmax_large, "3,7b", ag_log_softmax(A)) \
    X(log_softmax_equal, "2,3,5e", ag_log_softmax(A)) \
    X(log_softmax_one_hot, "3,7o", ag_log_softmax(A)) \
    X(layernorm, "3,7n 7n 7n", ag_layernorm(A, B, C, 1e-5)) \
    X(layernorm_no_bias, "2,3,5n 5n", ag_layernorm(A, B, NULL, 1e-5)) \
    X(layernorm_1, "9n 9n 9n", ag_layernorm(A, B, C, 1e-5)) \
    X(layernorm_equal, "3,7e 7n 7n", ag_layernorm(A, B, C, 0.5)) \
    X(layernorm_large, "3,7b 7n 7n", ag_layernorm(A, B, C, 1e-5)) \
    X(layernorm_shared, "3,5n 5n 5n", ag_layernorm(ag_layernorm(A, B, C, 1e-5), B, C, 1e-5)) \
    X(rmsnorm, "3,7n 7n", ag_rmsnorm(A, B, 1e-5)) \
    X(rmsnorm_4, "2,1,3,5n 5n", ag_rmsnorm(A, B, 1e-5)) \
    X(rmsnorm_large, "3,7b 7n", ag_rmsnorm(A, B, 1e-5)) \
    X(rmsnorm_shared, "3,5n 5n", ag_rmsnorm(ag_rmsnorm(A, B, 1e-5), B, 1e-5)) \
    X(embedding, "4,3n", ag_embedding(A, ids5, 5, 0)) \
    X(embedding_rows, "4,5n", ag_embedding(A, ids6, 6, 3)) \
    X(embedding_tied, "4,5n", ag_matmul_t(ag_embedding(A, ids6, 6, 2), A)) \
    X(gather, "5,4n", ag_gather(A, ids5)) \
    X(gather_3, "2,3,4n", ag_gather(ag_log_softmax(A), ids6)) \
    X(gather_twice, "5,4n", ag_mul(ag_gather(A, ids5), ag_gather(A, ids5))) \
    X(reshape, "3,4n 2,6n", ag_mul(ag_reshape(A, 2, 6), B)) \
    X(reshape_open, "3,4n 6,2n", ag_mul(ag_reshape(ag_exp(A), -1, 2), B)) \
    X(reshape_twice, "3,4n", ag_mul(ag_reshape(A, 12), \
        ag_reshape(ag_add(ag_reshape(A, 4, 3), ag_reshape(A, 4, 3)), -1))) \
    X(permute_2, "3,5n 5,3n", ag_mul(ag_permute(A, 1, 0, -1, -1), B)) \
    X(permute_3, "2,3,5n", ag_permute(A, 2, 0, 1, -1)) \
    X(permute_3_reverse, "2,3,5n", ag_permute(A, 2, 1, 0, -1)) \
    X(permute_4, "2,3,1,5n", ag_permute(A, 0, 2, 1, 3)) \
    X(permute_4_turn, "2,3,4,5n", ag_permute(ag_permute(A, 3, 0, 2, 1), 1, 3, 2, 0)) \
    X(permute_self, "3,3n", ag_matmul(A, ag_permute(A, 1, 0, -1, -1))) \
    X(slice_first, "5,3n", ag_slice(A, 0, 0, 2)) \
    X(slice_middle, "2,5,3n", ag_slice(A, 1, 1, 3)) \
    X(slice_last, "2,3,5n", ag_slice(A, -1, 3, 2)) \
    X(slice_overlap, "3,5n", ag_mul(ag_slice(A, 1, 0, 3), ag_slice(A, 1, 2, 3))) \
    X(slice_of_used, "3,5n", ag_mul(ag_slice(ag_tanh(A), 0, 1, 1), ag_tanh(A))) \
    X(concat_0, "2,3n 1,3n", concat2(A, B, 0)) \
    X(concat_1, "2,3,2n 2,1,2n", concat2(A, B, 1)) \
    X(concat_last, "3,2n 3,4n 3,1n", concat3(A, B, C, -1)) \
    X(concat_self, "3,2n", concat3(A, ag_tanh(A), A, 1)) \
    X(dropout, "3,7n", dropout_of(g, A, 0.3)) \
    X(dropout_most, "5,5n", dropout_of(g, ag_mul(A, A), 0.8)) \
    X(dropout_odd_counter, "3,7n", dropout_from(g, 43, A, 0.5)) \
    X(dropout_none, "3,7n", ag_mul(dropout_of(g, A, 0), A)) \
    X(attention, "2,5,18n", ag_attention(A, 2, 2, NULL, NULL, NULL)) \
    X(attention_grouped, "2,5,24n", ag_attention(A, 4, 2, NULL, NULL, NULL)) \
    X(attention_one_key, "1,6,10n", ag_attention(A, 3, 1, NULL, NULL, NULL)) \
    X(attention_one_position, "3,1,6n", ag_attention(A, 1, 1, NULL, NULL, NULL)) \
    X(attention_ragged, "2,5,12n", ag_attention(A, 2, 1, NULL, NULL, lens2)) \
    X(attention_texts, "8,12n", ag_attention_ragged(A, 2, 1, NULL, 3, NULL, NULL, lens3)) \
    X(attention_empty_row, "2,5,9n", ag_attention(A, 1, 1, NULL, NULL, lens_none)) \
    X(attention_equal, "1,5,9e", ag_attention(A, 1, 1, NULL, NULL, NULL)) \
    X(attention_reused, "1,4,6n", ag_mul(ag_attention(ag_tanh(A), 1, 1, NULL, NULL, NULL), \
        ag_slice(ag_tanh(A), 2, 2, 2))) \
    X(rope, "2,5,12n", ag_rope(A, 4, 3, NULL, 10000)) \
    X(rope_some, "2,5,12n", ag_rope(A, 4, 2, NULL, 100)) \
    X(rope_none, "1,3,4n", ag_mul(ag_rope(A, 2, 0, NULL, 100), A)) \
    X(rope_start, "2,5,6n", ag_rope(A, 6, 1, starts2, 10000)) \
    X(qk_norm_rope, "2,3,16n 4n 4n", ag_qk_norm_rope(A, B, C, 2, 1, NULL, 10000, 1e-2)) \
    X(qk_norm_rope_start, "2,3,20n 4n 4n", ag_qk_norm_rope(A, B, C, 3, 1, starts2, 100, 1e-5)) \
    X(qk_norm_rope_tied, "2,3,16n 4n", ag_qk_norm_rope(A, B, B, 2, 1, NULL, 10000, 1e-5)) \
    X(qk_norm_rope_q, "1,3,16n 4n", ag_qk_norm_rope(A, B, NULL, 2, 1, NULL, 100, 1e-5)) \
    X(qk_norm_rope_k, "1,3,16n 4n", ag_qk_norm_rope(A, NULL, B, 2, 1, NULL, 100, 1e-5)) \
    X(qk_norm_rope_plain, "1,3,16n", ag_qk_norm_rope(A, NULL, NULL, 2, 1, NULL, 100, 1e-5)) \
    X(qk_norm_no_rope, "2,3,16n 4n 4n", ag_qk_norm_rope(A, B, C, 2, 1, NULL, 0, 1e-5)) \
    X(qk_norm_odd_head, "2,3,9n 3n 3n", ag_qk_norm_rope(A, B, C, 1, 1, NULL, 0, 1e-5)) \
    X(swiglu, "3,10n", ag_swiglu(A)) \
    X(swiglu_1, "14n", ag_swiglu(A)) \
    X(swiglu_large, "3,14b", ag_scale(ag_swiglu(A), 0.01)) \
    X(nll, "4,7n", ag_nll(A, targets4)) \
    X(nll_ignore, "2,2,7n", ag_nll(A, targets_ignore)) \
    X(nll_large, "4,7b", ag_nll(A, targets4)) \
    X(nll_one_hot, "4,7o", ag_nll(A, targets4)) \
    X(nll_reused, "4,7n", ag_mul(ag_nll(A, targets_ignore), ag_gather(A, targets4))) \
    X(cross_entropy, "4,7n", ag_cross_entropy(A, targets4, NULL)) \
    X(cross_entropy_ignore, "2,3,5n", ag_cross_entropy(A, targets6, NULL)) \
    X(cross_entropy_weights, "4,7n", ag_cross_entropy(A, targets4, weights4)) \
    X(cross_entropy_both, "4,7n", ag_cross_entropy(A, targets_ignore, weights4)) \
    X(cross_entropy_equal, "4,7e", ag_cross_entropy(A, targets4, NULL)) \
    X(cross_entropy_large, "4,7b", ag_cross_entropy(A, targets_ignore, NULL)) \
    X(reused, "3,5n", twice_reused(A)) \
    X(chain, "3,5n 5n", ag_log(ag_shift(ag_sqrt(ag_shift(ag_exp(ag_mul(ag_tanh(A), B)), 1)), 0.5))) \
    X(mlp, "4,3n 3,5n 5n 5,2n", mlp(A, B, C, D)) \
    X(block, "2,3,4n 4n 4,8n 4,4n", block(A, B, C, D))

// Larger ones, past one block, one vector and one tile of the fast kernels. Only compared, not differenced.
static const int lens_big[] = {83, 41};
static int *many_ids(int limit, int step) {
    static int ids[2][512];
    static int turn;
    int *p = ids[turn ^= 1];
    for (int i = 0; i < 512; i++) p[i] = (int)((unsigned)(i * step + i / 3) % (unsigned)limit);
    return p;
}

#define BIG_CASES(X) \
    X(big_add, "7,1033n 1033n", ag_add(A, B)) \
    X(big_mul_column, "67,1n 67,129n", ag_mul(A, B)) \
    X(big_div, "5,3,331n 3,1u", ag_div(A, B)) \
    X(big_where, "9,1025n 9,1025n", ag_where(ag_greater(A, B), A, ag_mul(A, B))) \
    X(big_minimum, "3,777n 3,777n", ag_minimum(A, ag_maximum(B, ag_clamp(A, -1, 1)))) \
    X(big_exp, "7,333n", ag_exp(A)) \
    X(big_log, "7,333u", ag_log(A)) \
    X(big_sqrt, "7,333u", ag_sqrt(A)) \
    X(big_pow, "7,333u", ag_pow(A, 1.7)) \
    X(big_tanh, "7,333n", ag_tanh(ag_scale(A, 2))) \
    X(big_sigmoid, "7,333n", ag_sigmoid(ag_scale(A, 3))) \
    X(big_log_sigmoid, "7,333n", ag_log_sigmoid(ag_scale(A, 3))) \
    X(big_gelu, "7,333n", ag_gelu(ag_scale(A, 2))) \
    X(big_silu, "7,333n", ag_silu(ag_scale(A, 2))) \
    X(big_relu, "7,333n", ag_relu(ag_neg(ag_shift(A, 0.1)))) \
    X(big_sum, "77,333u", ag_sum(A)) \
    X(big_sum_0, "77,333n", ag_sum_dim(A, 0)) \
    X(big_sum_1, "5,77,33n", ag_mean_dim(A, 1)) \
    X(big_sum_last, "33,1025n", ag_sum_dim(A, -1)) \
    X(big_max_0, "77,133n", ag_max_dim(A, 0)) \
    X(big_max_last, "33,525n", ag_max_dim(A, -1)) \
    X(big_matmul, "65,130n 130,97n", ag_matmul(A, B)) \
    X(big_matmul_row, "1,300n 300,257n", ag_matmul(A, B)) \
    X(big_matmul_column, "257,300n 300,1n", ag_matmul(A, B)) \
    X(big_matmul_wide, "128,64n 64,513n", ag_matmul(A, B)) \
    X(big_matmul_deep, "13,1031n 1031,17n", ag_matmul(A, B)) \
    X(big_matmul_tall, "517,31n 31,29n", ag_matmul(A, B)) \
    X(big_matmul_batch, "3,33,65n 3,65,47n", ag_matmul(A, B)) \
    X(big_matmul_crossed, "2,1,33,35n 1,3,35,47n", ag_matmul(A, B)) \
    X(big_matmul_t, "65,130n 97,130n", ag_matmul_t(A, B)) \
    X(big_matmul_t_row, "1,130n 597,130n", ag_matmul_t(A, B)) \
    X(big_matmul_t_batch, "3,33,65n 3,47,65n", ag_matmul_t(A, B)) \
    X(big_linear, "4,33,70n 70,129n 129n", ag_linear(A, B, C)) \
    X(big_linear_gelu, "4,33,70n 70,129n 129n", ag_linear_gelu(A, B, C)) \
    X(big_linear_none, "3,128n 128,384n", ag_linear(A, B, NULL)) \
    X(big_softmax, "7,1000n", ag_softmax(ag_scale(A, 3))) \
    X(big_softmax_odd, "3,4099n", ag_softmax(A)) \
    X(big_log_softmax, "7,1001n", ag_log_softmax(A)) \
    X(big_layernorm, "35,768n 768n 768n", ag_layernorm(A, B, C, 1e-5)) \
    X(big_layernorm_odd, "70,131n 131n", ag_layernorm(A, B, NULL, 1e-5)) \
    X(big_rmsnorm, "35,1025n 1025n", ag_rmsnorm(A, B, 1e-5)) \
    X(big_embedding, "100,48n", ag_embedding(A, many_ids(100, 7), 300, 0)) \
    X(big_embedding_few, "3,129n", ag_embedding(A, many_ids(3, 1), 512, 64)) \
    X(big_gather, "300,65n", ag_gather(A, many_ids(65, 11))) \
    X(big_permute, "5,33,7,19n", ag_permute(A, 0, 2, 1, 3)) \
    X(big_permute_2, "133,77n", ag_permute(A, 1, 0, -1, -1)) \
    X(big_slice, "33,5,77n", ag_slice(A, 2, 3, 65)) \
    X(big_concat, "33,65n 33,17n 33,1n", concat3(A, B, C, 1)) \
    X(big_dropout, "71,73n", dropout_of(g, A, 0.1)) \
    X(big_dropout_odd, "71,73n", dropout_from(g, 0xffffffff2u, A, 0.4)) \
    X(big_attention, "2,83,192n", ag_attention(A, 4, 4, NULL, NULL, NULL)) \
    X(big_attention_grouped, "1,130,264n", ag_attention(A, 4, 2, NULL, NULL, NULL)) \
    X(big_attention_64, "1,257,192n", ag_attention(A, 1, 1, NULL, NULL, NULL)) \
    X(big_attention_80, "1,67,240n", ag_attention(A, 1, 1, NULL, NULL, NULL)) \
    X(big_attention_ragged, "2,83,96n", ag_attention(A, 2, 2, NULL, NULL, lens_big)) \
    X(big_rope, "2,37,128n", ag_rope(A, 32, 3, starts2, 10000)) \
    X(big_qk_norm_rope, "2,37,256n 32n 32n", ag_qk_norm_rope(A, B, C, 4, 2, starts2, 10000, 1e-5)) \
    X(big_swiglu, "5,666n", ag_swiglu(A)) \
    X(big_nll, "67,503n", ag_nll(A, many_ids(503, 13))) \
    X(big_cross_entropy, "300,65n", ag_cross_entropy(A, many_ids(65, 11), NULL)) \
    X(big_block, "2,37,64n 64n 64,128n 64,64n", block(A, B, ag_scale(C, 0.2), ag_scale(D, 0.2)))

typedef struct op_case {
    const char *name, *spec, *text;
    ag_tensor *(*build)(ag_ctx *g);
} op_case;

#define CASE_FUNCTION(name, spec, expression) static ag_tensor *case_##name(ag_ctx *g) { return expression; }
#define CASE_ENTRY(name, spec, expression) { #name, spec, #expression, case_##name },
OP_CASES(CASE_FUNCTION)
BIG_CASES(CASE_FUNCTION)
static const op_case op_cases[] = { OP_CASES(CASE_ENTRY) };
static const op_case big_cases[] = { BIG_CASES(CASE_ENTRY) };
#define N_OP_CASES ((int)(sizeof op_cases / sizeof *op_cases))
#define N_BIG_CASES ((int)(sizeof big_cases / sizeof *big_cases))
#undef A
#undef B
#undef C
#undef D

// ---- filling and weighing ------------------------------------------------------------------------------------------
static ag_real rounded(double x) { return (ag_real)(float)x; }

static double value_of(char kind, ag_rng *rng, size_t i, size_t n, size_t last) {
    static const double hard[] = {100, -100, 30, 0, -30, 90, -7, 1, -1, 5};
    double jitter = 0.02 * (ag_rng_uniform(rng) - 0.5);
    size_t turned = n > 1 ? (i * 7 + 3) % n : 0;
    if (n % 7 == 0) turned = (i * 11 + 3) % n;
    switch (kind) {
    case 'n': return ag_rng_normal(rng);
    case 'u': return 0.5 + 1.5 * ag_rng_uniform(rng);
    case 'b': return i < 10 ? hard[(i * 3) % 10] : hard[ag_rng_u32(rng) % 10];
    case 'e': return 1.5;
    case 'o': return i % last == (i / last * 2) % last ? 50 : 0;
    case 'k': return (int)(ag_rng_u32(rng) % 40) * 0.1 - 1.95;
    case 'd': return ((double)turned - (double)n / 2) * 0.1 + jitter;
    case 'D': return ((double)((n - 1 - turned) * 2 % (2 * n)) - (double)n / 2) * 0.1 + 0.05 + jitter;
    }
    return NAN;
}

// The numbers of a case depend on its name, so that a new case leaves the others as they are.
static uint64_t seed_of(const char *name) {
    uint64_t h = 1469598103934665603u;
    for (; *name; name++) h = (h ^ (unsigned char)*name) * 1099511628211u;
    return h & 0xffffff;
}

// Makes the parameters of a case; seed decides the numbers.
static void make_params(ag_ctx *g, const char *spec, uint64_t seed) {
    ag_rng rng;
    rng.key = 0x5eed0000u + seed, rng.counter = 0;
    for (const char *s = spec; *s; s++) {
        int d[4] = {AG_END, AG_END, AG_END, AG_END}, n = 0;
        char *end;
        while (*s == ' ') s++;
        while (*s >= '0' && *s <= '9') {
            d[n++] = (int)strtol(s, &end, 10);
            s = end + (*end == ',');
        }
        ag_tensor *t = ag_param_at(g, d[0], d[1], d[2], d[3], AG_END);
        ag_real *x = t ? (ag_real *)malloc((t->count + 1) * sizeof *x) : NULL;
        for (size_t i = 0; x && i < t->count; i++)
            x[i] = rounded(value_of(*s, &rng, i, t->count, (size_t)(t->ndim ? t->shape[t->ndim - 1] : 1)));
        if (x) (ag_set)(t, x);
        free(x);
        if (!*s) break;
    }
}

// sum(y * r): r is random, so that no error hides behind a gradient of ones.
static ag_tensor *weighed(ag_tensor *y) {
    ag_rng rng;
    ag_real *r;
    ag_tensor *weights;
    if (!y) return NULL;
    rng.key = 0x0dd5 + y->count, rng.counter = 0;
    r = (ag_real *)malloc((y->count + 1) * sizeof *r);
    for (size_t i = 0; i < y->count; i++) r[i] = rounded(ag_rng_normal(&rng));
    weights = ag_input_at(y->ctx, r, y->ndim > 0 ? y->shape[0] : AG_END, y->ndim > 1 ? y->shape[1] : AG_END,
                          y->ndim > 2 ? y->shape[2] : AG_END, y->ndim > 3 ? y->shape[3] : AG_END, AG_END);
    free(r);
    return ag_sum(ag_mul(y, weights));
}

// Forgets every result on the tape that can be computed again, chains of them too; returns how many.
static int forget_all(ag_ctx *g) {
    int n = 0;
    for (ag_tensor *t = g->last; t; t = t->older) if (t->op->again && !t->viewed) n += ag_forget(t) == 0;
    return n;
}

#endif
