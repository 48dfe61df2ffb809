// pairs.h - what lessons 13, 14 and 16 share: two replies to one prompt, of which one is better, and reward models.
//
// Use: include it after stage.h and plays.h. Every function is static.
//
//     plays p = plays_read();
//     stage s = pairs_sft(ag, &p, 100);                // lesson 11's assistant, or one that learns in 100 steps now
//     stage_talk t = pairs_prompt(&s, pairs_speech(&p, rng, 0));        // a request, and the assistant's turn begun
//     pair *set = pairs_make(&s, &p, 1000, 0, 0, rng); // held 1: from the last tenth of the text; wary 1: harder
//     stage r = pairs_reward(&s, &p, "reward", 1500, 1);    // lesson 13's out/13/reward.safetensors, or one made now
//     ag_tensor *y = stage_score(r.model, rows.ids, rows.mask, rows.B, rows.T, rows.len, NULL);
//
// A request: "Answer this: I have a daughter, sir.\nSpeak as TRANIO, and begin:\nNay, then" tells what was said before,
// who is to reply, and how. Without its first words nobody could tell the reply of a play that he has never read from
// one of another scene; with them it is enough to compare these. The better reply is the one of the play. The worse one
// is of six kinds. The last of these, stammering, one to three tokens over and over, is worse even than what is said in
// another scene, and it is for the gold standard alone. And when the gold standard is shown shuffled words, the first
// two stand where they should, so that it has to read on. The model that is to be pleased need not, and never hears
// anybody stammer; lesson 14 tells what comes of that.

#ifndef PAIRS_H
#define PAIRS_H

enum { PAIR_WRONG_SCENE, PAIR_SHUFFLED, PAIR_BASE_SAMPLE, PAIR_OFF_TOPIC, PAIR_ECHO,
       PAIR_STAMMER, PAIR_KINDS };
enum { PAIRS_CAP = 60 };                            // tokens of a reply at most
static const char *const pairs_kinds[] = {"wrong_scene", "shuffled", "base_sample", "off_topic", "echo", "stammer"};

typedef struct pair {
    stage_talk talk[2];                             // the better reply, the worse one; each ends in <|im_end|>, and its
    int kind;                                       // mask is 1 for what the assistant says
    const speech *at;                               // what both reply to is the speech before it
} pair;

// A speech of three words or more in its first line; from the last tenth of the text where held is 1.
enum { PAIRS_TRIES = 100000 };
LESSON_FN const speech *pairs_speech(const plays *p, ag_rng *rng, int held) {
    char begin[32];
    for (int tries = 0; tries < PAIRS_TRIES; tries++) {
        const speech *s = plays_any(p, rng, held);
        if (plays_begin(s->first, begin)) return s;
    }
    lesson_fail("of %d speeches none has three words in its first line", p->n);
    return NULL;
}

// One that is not near `at`: the plays say little of each other.
LESSON_FN const speech *pairs_elsewhere(const plays *p, const speech *at, ag_rng *rng, int held) {
    for (int tries = 0; tries < PAIRS_TRIES; tries++) {
        const speech *other = pairs_speech(p, rng, held);
        if (labs((long)(other - at)) >= 100) return other;
    }
    lesson_fail("%d speeches are too few: none is far from the others", p->n);
    return NULL;
}

LESSON_FN void pairs_ask(const speech *at, char asked[256]) {
    char reply[256];
    plays_ask(at, ASK_BEGIN, asked, reply);
}

LESSON_FN stage_talk pairs_prompt(stage *s, const speech *at) {
    char asked[256];
    gpt_message say = {GPT_USER, asked, 0};
    pairs_ask(at, asked);
    return stage_render(s, &say, 1, 1);
}

// The prompt, `reply` (n tokens, as many as there is room for) and <|im_end|>. Takes the prompt's memory.
LESSON_FN stage_talk pairs_join(stage *s, stage_talk prompt, const int *reply, int n) {
    stage_talk t = prompt;
    int room = s->model->config.n_ctx - prompt.n, cap = (room < PAIRS_CAP ? room : PAIRS_CAP) - 1;
    if (cap > n) cap = n;
    t.n = prompt.n + cap + 1;
    t.ids = (int *)lesson_alloc((size_t)t.n, sizeof *t.ids), t.mask = (unsigned char *)lesson_alloc((size_t)t.n, 1);
    memcpy(t.ids, prompt.ids, (size_t)prompt.n * sizeof *t.ids);
    memcpy(t.ids + prompt.n, reply, (size_t)cap * sizeof *t.ids);
    t.ids[t.n - 1] = bpe_special(s->tokens, "<|im_end|>");
    memset(t.mask + prompt.n, 1, (size_t)cap + 1);
    stage_talk_free(&prompt);
    return t;
}

LESSON_FN stage_talk pairs_talk(stage *s, const speech *at, const char *reply) {
    int n, *ids = stage_ids(s, reply, &n);
    stage_talk t = pairs_join(s, pairs_prompt(s, at), ids, n);
    free(ids);
    return t;
}

// The same words in another order; line ends stay where they are.
LESSON_FN void pairs_shuffle(const char *text, char *to, ag_rng *rng) {
    const char *word[PAIRS_CAP * 4];
    int size[PAIRS_CAP * 4], n = 0, k = 0;
    for (const char *at = text; *at && n < PAIRS_CAP * 4; at += strspn(at, " \n"))
        size[n] = (int)strcspn(at, " \n"), word[n++] = at, at += size[n - 1];
    for (int i = n - 1; i > 0; i--) {
        int j = plays_below(rng, i + 1), length = size[i];
        const char *w = word[i];
        word[i] = word[j], size[i] = size[j], word[j] = w, size[j] = length;
    }
    for (; *text && k < n; k++) {
        memcpy(to, word[k], (size_t)size[k]), to += size[k];
        text += strcspn(text, " \n");
        while (*text == ' ' || *text == '\n') *to++ = *text++;
    }
    *to = 0;
}

// Where the words that were asked for end in a reply, with what stands between them and the next one.
LESSON_FN size_t pairs_begun(const char *text) {
    char line[PLAYS_TEXT + 1], begin[32];
    playsi_line(line, sizeof line, text);
    size_t n = plays_begin(line, begin) ? strlen(begin) : 0;
    return n + strspn(text + n, ",.;:!?") + strspn(text + n + strspn(text + n, ",.;:!?"), " \n");
}

LESSON_FN int pairs_same_tokens(const stage *a, const stage *b) {
    int n = bpe_vocab_size(a->tokens), same = n == bpe_vocab_size(b->tokens);
    for (int i = 0; i < n && same; i++) {
        size_t x, y;
        const char *p = bpe_token(a->tokens, i, &x), *q = bpe_token(b->tokens, i, &y);
        same = x == y && !memcmp(p, q, x);
    }
    return same;
}

// Two models talk to each other in token ids: they have to mean the same.
LESSON_FN void pairs_fit(const stage *s, const stage *other, const char *path) {
    if (!pairs_same_tokens(s, other))
        lesson_fail("%s has learned with other tokens than the assistant: it is of an earlier one. Run lesson %.2s "
                    "again", path, path + strlen("out/"));
}

// The model that the assistant s was once, where that is there; else s itself, and then *mine is 0.
LESSON_FN stage pairs_base(stage *s, int *mine) {
    for (int i = 0; i < STAGE_BASES; i++) {
        stage base = stage_load(s->ag, stage_bases[i], "base");
        if (base.model) {
            stage_chat(&base), gpt_freeze(base.model), gpt_train(base.model, 0);
            if (pairs_same_tokens(&base, s) && base.model->config.n_ctx >= s->model->config.n_ctx)
                return *mine = 1, base;
        }
        stage_free(&base);
    }
    return *mine = 0, *s;
}

// No more lines than `like` has: how long a reply is shall not tell which one is better.
LESSON_FN void pairs_cut(char *text, const char *like) {
    while ((text = strchr(text, '\n')) != NULL) {
        like = strchr(like, '\n');
        if (!like) { *text = 0; return; }
        text++, like++;
    }
}

// How the base model goes on with the play, 64 scenes at a time: "NAME:\nlines\n\nNAME:\n", up to the next empty line.
// It knows no requests, so it begins with words of its own.
LESSON_FN void pairs_samples(stage *s, const speech *const *at, int n, stage_talk *said) {
    enum { B = 64 };
    gpt_sampling how = {1, 0, 0, 0, NULL, 0};
    int mine, special = bpe_special(s->tokens, "<|im_start|>");
    stage base = pairs_base(s, &mine);
    for (int i = 0; i < n; i += B) {
        stage_talk scene[B];
        int rows = n - i < B ? n - i : B;
        for (int b = 0; b < rows; b++) {
            const speech *now = at[i + b];
            char text[256];
            snprintf(text, sizeof text, "%s:\n%s\n\n%s:\n", now[-1].name, now[-1].first, now->name);
            memset(&scene[b], 0, sizeof scene[b]), scene[b].ids = stage_ids(s, text, &scene[b].n);
        }
        stage_rows r = stage_rollout(&base, &how, scene, rows, 1, PAIRS_CAP);
        for (int b = 0; b < rows; b++) {
            const int *ids = r.ids + b * r.T + r.prompt[b];
            int n_said = 0;
            while (n_said < r.len[b] - r.prompt[b] && ids[n_said] < special) n_said++;
            char *text = stage_string(&base, ids, n_said), *end = strstr(text, "\n\n");
            if (!end) end = strrchr(text, '\n');         // whole lines, like those of the plays
            if (end) *end = 0;
            pairs_cut(text, at[i + b]->text);
            said[i + b] = pairs_talk(s, at[i + b], text);
            free(text), stage_talk_free(&scene[b]);
        }
        stage_rows_free(&r);
    }
    if (mine) stage_free(&base);
}

// What was asked for, once or up to sixteen times, and nothing else.
LESSON_FN void pairs_echo(const char *line, char to[256], ag_rng *rng) {
    static const char *const between[] = {" ", ", ", ".\n", "! ", "\n"};
    char begin[32] = "nothing";
    plays_begin(line, begin);
    int n = 0, times = 1 << plays_below(rng, 5);
    for (int i = 0; i < times && n + (int)strlen(begin) + 4 < 256; i++)
        n += snprintf(to + n, (size_t)(256 - n), "%s%s", i ? between[plays_below(rng, 5)] : "", begin);
    snprintf(to + n, (size_t)(256 - n), "%s", plays_below(rng, 2) ? "." : "");
}

// One to three tokens of a text over and over, in any order: 4 tokens, 8, 16 or as many as there may be.
LESSON_FN stage_talk pairs_stammer(stage *s, const speech *at, const char *text, ag_rng *rng) {
    int n, *ids = stage_ids(s, text, &n), few[3], said[PAIRS_CAP], k = 1 + plays_below(rng, 3);
    int length = 4 << plays_below(rng, 4);
    for (int i = 0; i < k; i++) few[i] = ids[plays_below(rng, n)];
    for (int i = 0; i < PAIRS_CAP; i++) said[i] = few[plays_below(rng, k)];
    free(ids);
    return pairs_join(s, pairs_prompt(s, at), said, length < PAIRS_CAP / 2 ? length : PAIRS_CAP);
}

// A worse reply than that of `at`, of a kind that needs no model. PAIR_WRONG_SCENE: what `other` says, elsewhere;
// PAIR_OFF_TOPIC: the answer to another request. PAIR_SHUFFLED: its words in another order; wary 1: all but those asked
// for, which would give it away.
LESSON_FN void pairs_worse(const speech *at, const speech *other, int kind, int wary, ag_rng *rng, char worse[256]) {
    char asked[256];
    if (kind == PAIR_WRONG_SCENE) snprintf(worse, 256, "%s", other->text);
    else if (kind == PAIR_ECHO) pairs_echo(at->first, worse, rng);
    else if (kind == PAIR_OFF_TOPIC) plays_ask(other, plays_below(rng, 2) ? ASK_WHO : ASK_WORDS, asked, worse);
    else {
        size_t kept = wary ? pairs_begun(at->text) : 0;
        snprintf(worse, 256, "%s", at->text);
        for (int tries = 0; tries < 9 && !strcmp(worse, at->text); tries++)        // with one word left, all of it
            pairs_shuffle(at->text + (tries < 6 ? kept : 0), worse + (tries < 6 ? kept : 0), rng);
    }
}

// n pairs. Half are wrong scenes (of sixteen six where wary is 1, and two stammer): two speeches, each the better reply
// once and the worse one once, so that a reply alone tells nothing. To be freed by pairs_free.
LESSON_FN pair *pairs_make(stage *s, const plays *p, int n, int held, int wary, ag_rng *rng) {
    enum { W = PAIR_WRONG_SCENE, S = PAIR_SHUFFLED, M = PAIR_BASE_SAMPLE, O = PAIR_OFF_TOPIC, E = PAIR_ECHO,
           T = PAIR_STAMMER };
    static const int kinds[2][16] = {{W, W, S, M, W, W, E, M, W, W, S, M, W, W, O, M},
                                     {W, W, S, M, W, W, E, M, W, W, S, T, S, T, M, O}};
    pair *set = (pair *)lesson_alloc((size_t)n, sizeof *set);
    const speech **at = (const speech **)lesson_alloc((size_t)n, sizeof *at), *one = NULL, *other = NULL;
    stage_talk *said = (stage_talk *)lesson_alloc((size_t)n, sizeof *said);
    int samples = 0;
    char worse[256];
    for (int i = 0; i < n; i++) {
        const speech *was = one;
        set[i].kind = kinds[wary][i % 16];
        if (i % 4 == 1) one = other, other = was;
        else one = pairs_speech(p, rng, held), other = pairs_elsewhere(p, one, rng, held);
        set[i].at = one, set[i].talk[0] = pairs_talk(s, one, set[i].kind == T ? other->text : one->text);
        if (set[i].kind == M) at[samples++] = one;
        else if (set[i].kind == T) set[i].talk[1] = pairs_stammer(s, one, other->text, rng);
        else pairs_worse(one, other, set[i].kind, wary, rng, worse), set[i].talk[1] = pairs_talk(s, one, worse);
    }
    pairs_samples(s, at, samples, said);
    for (int i = 0, k = 0; i < n; i++) if (set[i].kind == M) set[i].talk[1] = said[k++];
    free(at), free(said);
    return set;
}

LESSON_FN void pairs_free(pair *set, int n) {
    for (int i = 0; i < n; i++) stage_talk_free(&set[i].talk[0]), stage_talk_free(&set[i].talk[1]);
    free(set);
}

// The better replies of n pairs, then the worse ones: 2n rows.
LESSON_FN stage_rows pairs_batch(const pair *set, int n) {
    const stage_talk **talks = (const stage_talk **)lesson_alloc((size_t)(2 * n), sizeof *talks);
    for (int b = 0; b < n; b++) talks[b] = &set[b].talk[0], talks[n + b] = &set[b].talk[1];
    stage_rows r = stage_rows_of(talks, 2 * n, 0);
    free(talks);
    return r;
}

// What a reward model gives to the better (n) and the worse (n).
LESSON_FN void pairs_scores(gpt_model *reward, const pair *set, int n, ag_tensor **better, ag_tensor **worse) {
    stage_rows r = pairs_batch(set, n);
    ag_tensor *y = stage_score(reward, r.ids, r.mask, r.B, r.T, r.len, NULL);
    *better = ag_slice(y, 0, 0, n), *worse = ag_slice(y, 0, n, n);
    stage_rows_free(&r);
}

// What a reward model says of answers, score (r->B), and at each of their tokens, said (r->B,r->T) or NULL. It has
// learned from replies that end, so one without an end gets one.
LESSON_FN void pairs_judge(const stage *reward, const stage_rows *r, ag_real *score, ag_real *said) {
    enum { B = 16 };                                // rows at once
    ag_tensor *said_at;
    int T = r->T + 1, len[B], *ids = (int *)lesson_alloc((size_t)(B * T), sizeof *ids);
    unsigned char *mask = (unsigned char *)lesson_alloc((size_t)(B * T), 1);
    int end = bpe_special(reward->tokens, "<|im_end|>"), old = ag_no_grad(reward->ag, 1);
    for (int b = 0; b < r->B; b += B) {
        ag_mark_at mark = ag_mark(reward->ag);
        int rows = r->B - b < B ? r->B - b : B;
        for (int i = 0; i < rows; i++) {
            memcpy(ids + i * T, r->ids + (b + i) * r->T, (size_t)r->T * sizeof *ids);
            memcpy(mask + i * T, r->mask + (b + i) * r->T, (size_t)r->T);
            len[i] = r->len[b + i] + !r->ended[b + i];
            ids[i * T + len[i] - 1] = end, mask[i * T + len[i] - 1] = 1;
        }
        ag_get(stage_score(reward->model, ids, mask, rows, T, len, &said_at), score + b);
        if (said) ag_get(ag_slice(said_at, 1, 0, r->T), said + b * r->T);
        ag_rewind(reward->ag, mark);
    }
    ag_no_grad(reward->ag, old), free(ids), free(mask);
}

// Bradley & Terry 1952: the better one wins with probability sigmoid(difference). -log of it is the loss of Ouyang et
// al. 2022: loss = -E log sigmoid(r(x, y_w) - r(x, y_l)); ln 2 where nothing is known.
LESSON_FN ag_tensor *pairs_bradley_terry(ag_tensor *better, ag_tensor *worse) {
    return ag_neg(ag_mean(ag_log_sigmoid(ag_sub(better, worse))));
}

// Choices tell differences, and all rewards may drift up or down. Eisenstein et al. 2023: 0.01 E (r_w + r_l)^2 keeps
// zero in the middle of a pair, and so "no opinion" is neither praise nor blame.
LESSON_FN ag_tensor *pairs_drift(ag_tensor *better, ag_tensor *worse) {
    return ag_scale(ag_mean(ag_pow(ag_add(better, worse), 2)), 0.01);
}

// A model with a scalar head, which is zero at first. It begins as the base model where that is there and has the
// assistant's tokens: what it has to learn is to look back for words, and short conversations have cost the assistant
// some of that skill.
LESSON_FN gpt_model *pairs_new_reward(stage *s) {
    int mine;
    stage base = pairs_base(s, &mine);
    gpt_config c = base.model->config;
    c.scalar = 1;
    gpt_model *m = gpt_adapt(s->ag, base.model, &c);
    gpt_train(m, 0);
    if (mine) stage_free(&base);
    return m;
}

// A reward model that sees n pairs once each. seed: of the pairs; wary: as in pairs_make. Lesson 13 has this loop with
// a log.
LESSON_FN gpt_model *pairs_train_reward(stage *s, const plays *p, int n, int wary, int seed, double lr) {
    enum { B = 16 };
    ag_rng rng = {(uint64_t)seed, 0};
    gpt_model *m = pairs_new_reward(s);
    gpt_optimizer o = gpt_adamw();
    o.lr = lr, o.weight_decay = 0, o.beta2 = 0.95;
    pair *set = pairs_make(s, p, n, 0, wary, &rng);
    for (int i = 0; i + B <= n; i += B) {
        stage_stop();
        ag_tensor *better, *worse;
        pairs_scores(m, set + i, B, &better, &worse);
        ag_tensor *loss = pairs_bradley_terry(better, worse);
        ag_backward(ag_add(loss, pairs_drift(better, worse)));
        gpt_step(m, &o, gpt_lr_linear(i / B, 10, n / B, 0.5), NULL);
        lesson_progress(i + B, n, ag_item(loss), LESSON_NONE), ag_reset(s->ag);
    }
    pairs_free(set, n);
    return m;
}

// Lesson 13's reward model of that stage ("reward" or "gold"); where it is missing, one of n pairs is made now.
LESSON_FN stage pairs_reward(stage *s, const plays *p, const char *name, int n, int seed) {
    char path[64];
    snprintf(path, sizeof path, "out/13/%s.safetensors", name);
    stage r = stage_load(s->ag, path, name);
    if (r.model) pairs_fit(s, &r, path);
    else {
        printf("There is no %s (lesson 13 makes it). One of %d pairs learns now.\n", path, n);
        stage_free(&r);
        r = stage_like(s);
        r.model = pairs_train_reward(s, p, n, !strcmp(name, "gold"), seed, 2e-3);
    }
    gpt_freeze(r.model), gpt_train(r.model, 0);
    return r;
}

// Lesson 11's assistant. Where there is none, the base model reads some conversations first.
LESSON_FN stage pairs_sft(ag_ctx *ag, const plays *p, int steps) {
    enum { B = 16 };
    stage s = stage_load(ag, "out/11/model.safetensors", "sft");
    if (s.model) stage_introduce(&s, "out/11/model.safetensors");
    else {
        stage_free(&s);
        s = stage_base(ag, steps), stage_chat(&s);
        printf("There is no out/11/model.safetensors (lesson 11 makes it). An assistant learns now, in a hurry.\n");
        gpt_optimizer o = gpt_adamw();
        o.weight_decay = 0, o.beta2 = 0.95;
        for (int step = 0; step < steps; step++) {
            stage_stop();
            stage_talk talks[B];
            const stage_talk *batch[B];
            for (int b = 0; b < B; b++) {
                char asked[256], answer[256];
                const speech *at = pairs_speech(p, ag_stream(ag, AG_RNG_DATA), 0);
                plays_ask(at, b % 2 ? b / 2 % ASK_KINDS : ASK_BEGIN, asked, answer);
                gpt_message say[2] = {{GPT_USER, asked, 0}, {GPT_ASSISTANT, answer, 0}};
                talks[b] = stage_render(&s, say, 2, 0), batch[b] = &talks[b];
            }
            ag_tensor *loss = stage_loss(s.model, batch, B);
            ag_backward(loss);
            gpt_step(s.model, &o, gpt_lr_linear(step, 20, steps, 0.5), NULL);
            lesson_progress(step + 1, steps, ag_item(loss), LESSON_NONE), ag_reset(ag);
            for (int b = 0; b < B; b++) stage_talk_free(&talks[b]);
        }
    }
    gpt_train(s.model, 0);
    return s;
}

#endif // PAIRS_H
