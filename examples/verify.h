// verify.h - rewards that code can check: each function reads what the model said, and answers 1 (right) or 0.
//
// Use: include it after plays.h. Every function is static.
//
//     words w = words_of(text);                        // the words of the plays; words_free(&w) at the end
//     verify_letter(&w, "What ho, my lord!", 'W')      // a line of text that begins with a W
//     verify_count(&w, "What ho, my lord!", 4)         // a line of four words
//     verify_sum("<think>4+7=11</think><answer>11</answer>", 11, 0)
//
// A reward is what it checks and nothing else, and practice finds every gap: ask for a line that begins with W, and a
// "W" alone is the cheapest one. So a line has a definition, and what is not wholly right is wrong.

#ifndef VERIFY_H
#define VERIFY_H

// ---- lines ----
enum { VERIFY_WORD = 32, VERIFY_LEAST = 3, VERIFY_MOST = 12 };
LESSON_FN int verifyi_letter(int c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

// The word in `n` bytes without what stands around it, in small letters: "'Tis;" is "tis". 0: there is none, or more
// than two signs stand before or behind it.
LESSON_FN int verifyi_word(const char *from, size_t n, char word[VERIFY_WORD]) {
    size_t a = 0, b = n;
    while (a < b && !verifyi_letter((unsigned char)from[a])) a++;
    while (b > a && !verifyi_letter((unsigned char)from[b - 1])) b--;
    if (b == a || b - a >= VERIFY_WORD || a > 2 || n - b > 2) return 0;
    for (size_t i = a; i < b; i++) word[i - a] = (char)(from[i] >= 'A' && from[i] <= 'Z' ? from[i] + 32 : from[i]);
    word[b - a] = 0;
    return 1;
}

LESSON_FN words words_of(const char *text) {
    words w = {NULL, 0, 0};
    char word[VERIFY_WORD];
    for (size_t n; *text; text += n + (text[n] != 0))
        if ((n = strcspn(text, " \n\t")) && verifyi_word(text, n, word)) words_add(&w, word);
    return w;
}

// The number of words of a line: 3 to 12, one space between them, two in three from the plays (a small model spells
// like a child) and none more than twice. Else 0.
LESSON_FN int verify_line(const words *w, const char *line) {
    char word[VERIFY_MOST][VERIFY_WORD];
    int k = 0, strange = 0;
    for (size_t n;; line += n + 1, k++) {
        int same = 0;
        n = strcspn(line, " ");
        if (k == VERIFY_MOST || !verifyi_word(line, n, word[k])) return 0;
        strange += !words_has(w, word[k]);
        for (int i = 0; i < k; i++) same += !strcmp(word[i], word[k]);
        if (same > 1) return 0;
        for (size_t i = 0; i < n; i++)
            if (!verifyi_letter((unsigned char)line[i]) && (!line[i] || !strchr("'-,.;:!?", line[i]))) return 0;
        if (!line[n]) break;
    }
    return k + 1 >= VERIFY_LEAST && 3 * strange <= k + 1 ? k + 1 : 0;
}

LESSON_FN int verify_letter(const words *w, const char *said, int letter) {
    return said[0] == letter && verify_line(w, said) > 0;
}
LESSON_FN int verify_count(const words *w, const char *said, int count) {
    return count > 0 && verify_line(w, said) == count;
}

// ---- numbers ----
// <think>...</think><answer>N</answer>, or with first 1 the answer before the thoughts. What is thought is not judged.
LESSON_FN int verify_sum(const char *said, int sum, int first) {
    static const char *const tag[] = {"<think>", "</think>", "<answer>", "</answer>"};
    char want[48];
    size_t n = strlen(said), k;
    for (int i = 0; i < 4; i++) {                       // each tag once: a second answer is not a second chance
        const char *at = strstr(said, tag[i]);
        if (!at || strstr(at + 1, tag[i])) return 0;
    }
    if (first) k = (size_t)snprintf(want, sizeof want, "<answer>%d</answer><think>", sum);
    else k = (size_t)snprintf(want, sizeof want, "</think><answer>%d</answer>", sum);
    if (n < k + 7) return 0;
    if (first) return !strncmp(said, want, k) && !strcmp(said + n - 8, "</think>");
    return !strncmp(said, "<think>", 7) && !strcmp(said + n - k, want);
}

#endif // VERIFY_H
