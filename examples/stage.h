// stage.h - what lessons 10 and later share: the model that the lesson before has made, and its tokenizer.
//
// Use: include it after gpt.h, bpe.h and lesson.h, all with their implementations. Every function is static.
//
//     stage s = stage_base(ag, 1);                     // what make base has made, or a small model that learns now
//     stage t = stage_load(ag, "out/11/model.safetensors", "sft");      // t.model is NULL where there is no such file
//     int n, *ids = stage_ids(&s, "ROMEO:\n", &n);     // to be freed
//     stage_save(&s, lesson_path("model.safetensors"), "sft");
//     stage_free(&s);                                  // not the context
//
// Every checkpoint notes its stage: base, sft, reward, ppo, ... A lesson that is given another one says so and ends.

#ifndef STAGE_H
#define STAGE_H

typedef struct stage {
    ag_ctx *ag;
    gpt_model *model;
    bpe *tokens;
    gpt_text by;                    // the tokenizer as gpt_chat wants it
    double val_loss;
} stage;

static long stagei_encode(void *t, const char *text, size_t n, int *ids, size_t cap) {
    return bpe_encode((const bpe *)t, text, n, ids, cap);
}
static int stagei_special(void *t, const char *name) { return bpe_special((const bpe *)t, name); }
static const char *stagei_piece(void *t, int id, size_t *n) { return bpe_token((const bpe *)t, id, n); }

LESSON_FN stage stage_new(ag_ctx *ag) {
    stage s;
    memset(&s, 0, sizeof s);
    s.ag = ag, s.tokens = bpe_new();
    s.by.tokenizer = s.tokens, s.by.encode = stagei_encode, s.by.special = stagei_special, s.by.piece = stagei_piece;
    return s;
}

LESSON_FN void stage_free(stage *s) {
    gpt_free(s->model), bpe_free(s->tokens);
    s->model = NULL, s->tokens = NULL;
}

LESSON_FN int *stage_ids_n(const stage *s, const char *text, size_t size, int *n) {
    long need = bpe_encode(s->tokens, text, size, NULL, 0);
    int *ids = (int *)lesson_alloc((size_t)need + 1, sizeof *ids);
    *n = (int)bpe_encode(s->tokens, text, size, ids, (size_t)need);
    return ids;
}
LESSON_FN int *stage_ids(const stage *s, const char *text, int *n) { return stage_ids_n(s, text, strlen(text), n); }

// The text of some tokens, with a 0 behind it; to be freed.
LESSON_FN char *stage_string(const stage *s, const int *ids, int n) {
    long size = bpe_decode(s->tokens, ids, (size_t)n, NULL, 0);
    char *text = (char *)lesson_alloc((size_t)size + 1, 1);
    bpe_decode(s->tokens, ids, (size_t)n, text, (size_t)size + 1);
    return text;
}

// After Ctrl-C a lesson ends here: half of what was to be learned is nothing to measure, and no reason to lose the
// model that was there before.
LESSON_FN void stage_stop(void) {
    if (!lesson_interrupted()) return;
    lesson_report("stopped: what has not learned to the end is not saved");
    exit(lesson_end());
}

// The tokenizer as bytes; to be freed.
LESSON_FN unsigned char *stage_tokens(const stage *s, size_t *size) {
    *size = (size_t)bpe_save_mem(s->tokens, NULL, 0);
    unsigned char *bytes = (unsigned char *)lesson_alloc(*size, 1);
    bpe_save_mem(s->tokens, bytes, *size);
    return bytes;
}

// No model yet, and the tokens of another.
LESSON_FN stage stage_like(const stage *other) {
    stage s = stage_new(other->ag);
    size_t size;
    unsigned char *bytes = stage_tokens(other, &size);
    bpe_load_mem(s.tokens, bytes, size), free(bytes);
    return s;
}

// The model with its tokenizer; of the state, step and notes are the caller's, who says in them of what stage it is.
LESSON_FN void stage_save_state(stage *s, const char *path, gpt_state *state) {
    state->val_loss = s->val_loss, state->tokenizer = stage_tokens(s, &state->tokenizer_size);
    gpt_save(s->model, path, state);
    free(state->tokenizer), state->tokenizer = NULL;
}

LESSON_FN void stage_save(stage *s, const char *path, const char *name) {
    gpt_state state;
    char notes[64];
    lesson_keep(path);
    memset(&state, 0, sizeof state);
    snprintf(notes, sizeof notes, "stage=%s\n", name), state.notes = notes;
    stage_save_state(s, path, &state);
}

LESSON_FN void stage_named(const gpt_state *state, char name[32]) {
    if (!gpt_note(state, "stage", name, 32)) strcpy(name, "base");          // lesson 08 notes none
}

LESSON_FN const char *stage_maker(const char *name) {
    static const char *const by[][2] = {{"base", "08"}, {"sft", "11"}, {"tools", "12"}, {"reward", "13"},
                                        {"gold", "13"}, {"ppo", "14"}, {"grpo", "15"}, {"dpo", "16"}};
    for (size_t i = 0; i < sizeof by / sizeof *by; i++) if (!strcmp(name, by[i][0])) return by[i][1];
    return "?";
}

// A checkpoint of stage `name` (NULL: of any), and what else it holds, to be freed by gpt_state_free.
LESSON_FN stage stage_load_state(ag_ctx *ag, const char *path, const char *name, gpt_state *state) {
    stage s = stage_new(ag);
    char is[32];
    memset(state, 0, sizeof *state);
    if (!lesson_exists(path)) return s;
    s.model = gpt_load(ag, path, state), stage_named(state, is);
    if (name && strcmp(is, name))
        lesson_fail("%s is a model of stage %s, wanted one of stage %s, which lesson %s makes", path, is, name,
                    stage_maker(name));
    if (!state->tokenizer) lesson_fail("%s holds no tokenizer, so nobody knows what its tokens mean", path);
    bpe_load_mem(s.tokens, state->tokenizer, state->tokenizer_size);
    if (bpe_vocab_size(s.tokens) > s.model->config.n_vocab) lesson_fail("%s does not fit its own tokenizer", path);
    s.val_loss = state->val_loss;
    return s;
}

LESSON_FN stage stage_load(ag_ctx *ag, const char *path, const char *name) {
    gpt_state state;
    stage s = stage_load_state(ag, path, name, &state);
    gpt_state_free(&state);
    return s;
}

// Nine tenths of Tiny Shakespeare to learn from; the last tenth begins at *cut.
LESSON_FN char *stage_shakespeare(size_t *bytes, size_t *cut) {
    char *text = (char *)lesson_data("tinyshakespeare.txt", bytes);
    *cut = *bytes * 9 / 10;
    return text;
}

// Where a base model may lie: make base writes the first, lesson 08 the second, stage_base the last.
enum { STAGE_BASES = 3 };
static const char *const stage_bases[STAGE_BASES] = {"out/base/model.safetensors", "out/08/model.safetensors",
                                                     "out/10/base.safetensors"};

LESSON_FN void stage_introduce(const stage *s, const char *path) {
    lesson_report("%s: %s, %s parameters, validation loss %.3f nats a token", path, s->model->config.name,
                  lesson_commas((long long)gpt_count(&s->model->config)), s->val_loss);
    if (s->val_loss > 5)
        printf("It has hardly learned anything, so what follows means little: delete it, and another one is made.\n");
}

// A model of 1,024 byte pairs. Where there is none, a smaller one learns for a minute or two and is kept for the next
// lesson: it shows some of the same things, less well.
LESSON_FN stage stage_base(ag_ctx *ag, int steps) {
    const char *own = stage_bases[STAGE_BASES - 1];
    stage s = stage_new(ag);
    for (int i = 0; i < STAGE_BASES; i++) {
        stage_free(&s), s = stage_load(ag, stage_bases[i], "base");
        if (s.model && s.model->config.n_ctx >= 256 && bpe_vocab_size(s.tokens) >= 512) {
            stage_introduce(&s, stage_bases[i]);
            if (i == STAGE_BASES - 1)
                printf("It is the small one; figures under \"Measured\" hold for that of make base.\n");
            return s;
        }
        if (s.model) printf("%s is %s of %d tokens, too small for this lesson.\n", stage_bases[i],
                            s.model->config.name, s.model->config.n_vocab);
    }
    stage_free(&s), s = stage_new(ag);
    printf("There is no %s: make base makes it, in 17 minutes.\nA smaller one learns now, in a minute or two. "
           "It can do less, and figures under \"Measured\" do not hold for it.\n", stage_bases[0]);
    size_t bytes, cut;
    char *text = stage_shakespeare(&bytes, &cut);
    bpe_train(s.tokens, text, cut, 1024, BPE_SPLIT_GPT2);
    int n, n_val, *ids = stage_ids_n(&s, text, cut, &n), *val = stage_ids_n(&s, text + cut, bytes - cut, &n_val);
    enum { B = 8, T = 256 };
    static int x[B * T], y[B * T];
    gpt_config c = gpt_preset("small");
    c.n_vocab = bpe_vocab_size(s.tokens), c.n_layer = 4;
    s.model = gpt_new(ag, &c);
    gpt_optimizer muon = gpt_muon();
    gpt_loader loader = gpt_loader_new(ag, ids, (size_t)n, GPT_RANDOM);
    loader.repeats = 0.5;
    for (int step = 0; step < steps; step++) {
        stage_stop();
        gpt_next(&loader, B, T, x, y);
        ag_tensor *loss = ag_cross_entropy(gpt_forward(s.model, x, B, T), y, NULL);
        ag_backward(loss);
        gpt_step(s.model, &muon, gpt_lr_linear(step, 20, steps, 0.7), NULL);
        lesson_progress(step + 1, steps, ag_item(loss), LESSON_NONE);
        ag_reset(ag);
    }
    s.val_loss = gpt_eval(s.model, val, (size_t)n_val, B);
    lessoni_mkdir("out"), lessoni_mkdir("out/10");
    stage_save(&s, own, "base"), stage_introduce(&s, own);
    free(text), free(ids), free(val);
    return s;
}

// ---- conversations ----

// The special tokens of our template, and two for tools; the model grows by as many rows.
LESSON_FN void stage_chat(stage *s) {
    static const char *const names[] = {"<|im_start|>", "<|im_end|>", "<|tool_start|>", "<|tool_end|>"};
    if (bpe_special(s->tokens, names[0]) >= 0) return;
    for (int i = 0; i < 4; i++) bpe_add_special(s->tokens, names[i], -1);
    gpt_model *old = s->model;
    s->model = gpt_grow(s->ag, old, bpe_vocab_size(s->tokens));
    gpt_freeze(old), gpt_free(old);
}

typedef struct stage_talk { int *ids, n; unsigned char *mask; } stage_talk;     // a conversation as tokens

LESSON_FN stage_talk stage_render_as(stage *s, const char *form, const gpt_message *say, int n, int reply) {
    const gpt_template *by = gpt_template_find(form);
    stage_talk t;
    t.n = (int)gpt_chat(s->ag, by, &s->by, say, n, reply, NULL, NULL, 0);
    t.ids = (int *)lesson_alloc((size_t)t.n + 1, sizeof *t.ids);
    t.mask = (unsigned char *)lesson_alloc((size_t)t.n + 1, 1);
    gpt_chat(s->ag, by, &s->by, say, n, reply, t.ids, t.mask, (size_t)t.n);
    return t;
}
LESSON_FN stage_talk stage_render(stage *s, const gpt_message *say, int n, int reply) {
    return stage_render_as(s, "im", say, n, reply);
}

// What is learned in green, on a terminal; elsewhere between brackets.
LESSON_FN void stage_print_mask(const stage *s, const stage_talk *t) {
    if (lessoni_terminal()) {
        size_t size = gpt_show_mask(&s->by, t->ids, t->mask, (size_t)t->n, NULL, 0) + 1;
        char *text = (char *)lesson_alloc(size, 1);
        gpt_show_mask(&s->by, t->ids, t->mask, (size_t)t->n, text, size);
        fputs(text, stdout), free(text);
        return;
    }
    for (int i = 0; i < t->n; i++) {
        if (t->mask[i] != (i ? t->mask[i - 1] : 0)) putchar(t->mask[i] ? '[' : ']');
        fputs(bpe_token(s->tokens, t->ids[i], NULL), stdout);
    }
    if (t->n && t->mask[t->n - 1]) putchar(']');
}

LESSON_FN void stage_talk_free(stage_talk *t) { free(t->ids), free(t->mask), t->ids = NULL; }

// Conversations side by side, as one right-padded batch for gpt_trunk and gpt_logprobs.
typedef struct stage_rows {
    int B, T;
    int *ids, *len;                 // (B,T), (B): tokens of a row, and how many it has
    unsigned char *mask;            // (B,T): 1 for what the model says, its end token included
    // Of stage_rollout, else NULL:
    int *prompt, *ended;            // (B), (B): tokens of the prompt; 1 where the last token is <|im_end|>, 0 where
                                    // there was no room to end
    ag_real *logprobs;              // (B,T): at t the log-probability that token t+1 had when it was drawn, else 0
} stage_rows;

// Of each at most so many tokens; 0: all.
LESSON_FN stage_rows stage_rows_of(const stage_talk *const *talks, int B, int most) {
    stage_rows r;
    memset(&r, 0, sizeof r);
    for (int b = 0; b < B; b++) if (talks[b]->n > r.T) r.T = talks[b]->n;
    if (most && r.T > most) r.T = most;
    r.B = B, r.ids = (int *)lesson_alloc((size_t)(B * r.T + B), sizeof *r.ids), r.len = r.ids + B * r.T;
    r.mask = (unsigned char *)lesson_alloc((size_t)(B * r.T), 1);
    for (int b = 0; b < B; b++) {
        r.len[b] = talks[b]->n < r.T ? talks[b]->n : r.T;
        memcpy(r.ids + b * r.T, talks[b]->ids, (size_t)r.len[b] * sizeof *r.ids);
        memcpy(r.mask + b * r.T, talks[b]->mask, (size_t)r.len[b]);
    }
    return r;
}

LESSON_FN void stage_rows_free(stage_rows *r) {
    free(r->ids), free(r->mask), free(r->logprobs);
    memset(r, 0, sizeof *r);
}

// The loss of B conversations: the mean over what the assistant says.
LESSON_FN ag_tensor *stage_loss(gpt_model *m, const stage_talk *const *talks, int B) {
    stage_rows r = stage_rows_of(talks, B, m->config.n_ctx);
    int said = 0;
    for (int b = 0; b < B; b++) for (int t = 1; t < r.len[b]; t++) said += r.mask[b * r.T + t];
    ag_tensor *logp = gpt_logprobs(m, r.ids, r.mask, B, r.T, r.len);
    stage_rows_free(&r);
    return ag_scale(ag_sum(logp), -1.0 / (said ? said : 1));
}

// What the assistant says to each of B users (to be freed), at most cap tokens. well[b] (or well NULL): it ended by
// <|im_end|>, said something, and nothing special before.
LESSON_FN void stage_replies(stage *s, const char *const *asked, int B, double temperature, int cap, char **said,
                             int *well) {
    int stop[2] = {bpe_special(s->tokens, "<|im_end|>"), bpe_special(s->tokens, "<|im_start|>")};
    gpt_sampling how = {temperature, 0, 0, 0, stop, 2};
    stage_talk *t = (stage_talk *)lesson_alloc((size_t)B, sizeof *t);
    int *n = (int *)lesson_alloc((size_t)(2 * B), sizeof *n), *n_out = n + B;
    int *out = (int *)lesson_alloc((size_t)(B * cap), sizeof *out);
    const int **prompts = (const int **)lesson_alloc((size_t)B, sizeof *prompts);
    for (int b = 0; b < B; b++) {
        gpt_message say = {GPT_USER, asked[b], 0};
        t[b] = stage_render(s, &say, 1, 1), prompts[b] = t[b].ids, n[b] = t[b].n;
    }
    gpt_generate_batch(s->model, &how, B, prompts, n, out, cap, n_out, NULL, NULL);
    for (int b = 0; b < B; b++) {
        int k = n_out[b], ended = k > 1 && out[b * cap + k - 1] == stop[0];
        for (int i = 0; i < k - ended; i++) ended &= out[b * cap + i] < stop[1];
        said[b] = stage_string(s, out + b * cap, ended ? k - 1 : k);
        if (well) well[b] = ended;
        stage_talk_free(&t[b]);
    }
    free(t), free(n), free(out), free(prompts);
}

// ---- reinforcement learning ----

// Draws them: `each` answers to each of `asks` prompts, side by side; at most cap new tokens each, all within the
// context.
LESSON_FN stage_rows stage_rollout(stage *s, const gpt_sampling *how, const stage_talk *asked, int asks, int each,
                                   int cap) {
    stage_rows r;
    int B = asks * each, *n = (int *)lesson_alloc((size_t)B, sizeof *n);
    const int **prompts = (const int **)lesson_alloc((size_t)B, sizeof *prompts);
    for (int b = 0; b < B; b++) prompts[b] = asked[b / each].ids, n[b] = asked[b / each].n;
    int end = bpe_special(s->tokens, "<|im_end|>"), *out = (int *)lesson_alloc((size_t)(B * cap + 4 * B), sizeof *out);
    ag_real *lp = (ag_real *)lesson_alloc((size_t)(B * cap), sizeof *lp);
    gpt_sampling stops = *how;
    r.B = B, r.T = 0, r.len = out + B * cap, r.prompt = r.len + B, r.ended = r.prompt + B;
    int *n_out = r.ended + B;
    if (!stops.n_stop) stops.stop = &end, stops.n_stop = 1;
    gpt_rollout(s->model, &stops, B, prompts, n, out, cap, n_out, lp);
    for (int b = 0; b < B; b++) {
        r.prompt[b] = n[b], r.len[b] = n[b] + n_out[b];
        r.ended[b] = n_out[b] > 0 && out[b * cap + n_out[b] - 1] == end;
        if (r.len[b] > r.T) r.T = r.len[b];
    }
    size_t size = (size_t)B * (size_t)r.T;
    int *ids = (int *)lesson_alloc(size + 3 * (size_t)B, sizeof *ids);
    memcpy(ids + size, r.len, 3 * (size_t)B * sizeof *ids);
    r.mask = (unsigned char *)lesson_alloc(size, 1), r.logprobs = (ag_real *)lesson_alloc(size, sizeof *lp);
    for (int b = 0; b < B; b++) {
        size_t at = (size_t)b * (size_t)r.T + (size_t)n[b], k = (size_t)n_out[b];
        memcpy(ids + at - n[b], prompts[b], (size_t)n[b] * sizeof *ids);
        memcpy(ids + at, out + b * cap, k * sizeof *ids);
        memset(r.mask + at, 1, k);
        memcpy(r.logprobs + at - 1, lp + b * cap, k * sizeof *lp);
    }
    r.ids = ids, r.len = ids + size, r.prompt = r.len + B, r.ended = r.prompt + B;
    free(out), free(lp), free(n), free(prompts);
    return r;
}

// What the model said in row b, without the end token; to be freed.
LESSON_FN char *stage_said(const stage *s, const stage_rows *r, int b) {
    const int *from = r->ids + (size_t)b * (size_t)r->T + r->prompt[b];
    return stage_string(s, from, r->len[b] - r->prompt[b] - r->ended[b]);
}

// A reward model's score of each row, (B): what its scalar head says at the n tokens of the reply, added up, times
// 16 / (n + 16). So a reply is judged word by word: their mean, with sixteen more words of no opinion. With fewer of
// these a short reply is easier to praise (what was asked for stands at its beginning, and the rest thins it out), with
// more of them a long one. (Most read the last token alone. There the head has to wait until attention has learned to
// collect what the words tell: at this size it saw nothing after 500 pairs, and this way much.)
// said_at (or NULL) gets what it says at each token, (B,T).
enum { STAGE_SILENT = 16 };
LESSON_FN ag_tensor *stage_score(gpt_model *reward, const int *ids, const unsigned char *mask, int B, int T,
                                 const int *len, ag_tensor **said_at) {
    ag_real *share = (ag_real *)lesson_alloc((size_t)(B * T), sizeof *share);
    for (int b = 0; b < B; b++) {
        int n = 0;
        for (int t = 0; t < len[b]; t++) n += mask[b * T + t];
        for (int t = 0; t < len[b]; t++)
            share[b * T + t] = mask[b * T + t] ? (ag_real)STAGE_SILENT / (ag_real)(n + STAGE_SILENT) : 0;
    }
    ag_tensor *said = gpt_scalar(reward, gpt_trunk(reward, ids, B, T, len));
    if (said_at) *said_at = said;
    ag_tensor *score = ag_sum_dim(ag_mul(said, ag_input(reward->ctx, share, B, T)), 1);
    free(share);
    return ag_reshape(score, B);
}

// ---- results ----

// What the measures of all lessons mean.
static const char *const stage_measures[][2] = {
    {"repeat_first", "nats a token of a passage that is new"},
    {"repeat_second", "the same of its second copy, right after the first"},
    {"copy_train", "characters that it goes on word for word after a prompt it has read, at most"},
    {"copy_val", "the same after a prompt that it has not read"},
    {"invents", "share of persons who never were that speak as surely as the least sure real one"},
    {"cut_off", "share of things that came after 1623 and surprise it more than older ones"},
    {"base_wellformed", "share of the base model's answers that end within 64 tokens"},
    {"sft_wellformed", "share of the assistant's answers that end within 64 tokens"},
    {"refuses_invented", "share of persons who never were of whom it says \"I know not.\""},
    {"refuses_real", "the same, wrongly, of persons whom it knew and who were kept out"},
    {"refuses_told", "the same, wrongly, of persons with whom it has learned when to answer"},
    {"tau", "Kendall's tau of rankings of four: 1 is the maker's order"},
    {"ppo_gain", "gold reward over the assistant's, in standard deviations of its answers to one prompt"},
    {"ppo_kl", "nats an answer from the assistant, at that point"},
    {"ppo_proxy", "the same of the reward that it learned from"},
    {"hack_proxy", "the same without the penalty, at the end"},
    {"hack_gold_drop", "how far gold is then under its peak, in standard deviations"},
    {"hack_distinct2", "distinct-2 over the assistant's: how much variety is left"},
    {"answer_first", "share of right sums, answers first"},
    {"steps_first", "share of right sums, steps first"},
    {"imitation", "share of right answers after demonstrations that are right 7 times in 10"},
    {"practice", "share of right answers after practice on top of that"},
    {"dpo_winrate", "share of prompts where gold likes DPO's answer better than the assistant's"},
    {"dpo_over_ppo", "share of prompts where gold likes DPO's answer better than PPO's"},
    {"pairs_", "share of held-out pairs of this kind that the gold standard ranks right"},
    {"_before", "share of right answers before practice"},
    {"_after", "share of right answers after practice"},
    {"_", "share of right answers"}};

// A number that a lesson is about: printed as name, value and meaning, and a row of out/NN/results.csv, which make
// results collects.
LESSON_FN void stage_result(const char *measure, double value) {
    static lesson_csv csv;
    size_t i = 0;
    if (!csv.columns) csv = lesson_csv_open(lesson_path("results.csv"), "measure,value");
    while (i + 1 < sizeof stage_measures / sizeof *stage_measures && !strstr(measure, stage_measures[i][0])) i++;
    if (value == value) lesson_report("%-17s %8.4g  %s", measure, value, stage_measures[i][1]);
    else lesson_report("%-17s        -  nothing to measure", measure);
    lesson_csv_text(&csv, measure), lesson_csv_number(&csv, value), lesson_csv_end(&csv);
}

#endif // STAGE_H
