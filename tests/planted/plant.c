// plant.c - puts one bug of a list into a copy of a header, for run.sh.
//
//     plant count LIST                 how many bugs the list has
//     plant show LIST N                "FILE PROGRAM FILTER" of bug N (from 1 on), then its description
//     plant apply LIST N FROM TO       writes the file FROM with bug N in it to TO
//
// A list has one bug in four lines: what is wrong; FILE PROGRAM [FILTER], the test program (and the part of it) that
// has to notice; "- " and a piece of a line as it stands in FILE; "+ " and what stands there instead. Empty lines and
// lines that begin with # separate. The old piece must be found exactly once: a bug that cannot be planted is an error,
// never a pass.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char title[400], where[400], before[1000], after[1000];

static void chop(char *line) { line[strcspn(line, "\r\n")] = 0; }

// Reads bug n into the four lines above; returns how many bugs were read (n if it is there).
static int read_bug(const char *list, int n) {
    FILE *f = fopen(list, "r");
    int i = 0;
    char line[1000];
    if (!f) { fprintf(stderr, "plant: cannot open %s\n", list); exit(2); }
    while ((n == 0 || i < n) && fgets(line, sizeof line, f)) {
        chop(line);
        if (!line[0] || line[0] == '#') continue;
        snprintf(title, sizeof title, "%.399s", line);
        if (!fgets(where, sizeof where, f) || !fgets(before, sizeof before, f) || !fgets(after, sizeof after, f) ||
            strncmp(before, "- ", 2) || strncmp(after, "+ ", 2)) {
            fprintf(stderr, "plant: %s: bug %d, \"%s\", is not four lines: title, place, \"- old\", \"+ new\"\n", list,
                    i + 1, title);
            exit(2);
        }
        chop(where), chop(before), chop(after);
        i++;
    }
    fclose(f);
    return i;
}

static char *read_all(const char *path, size_t *size) {
    FILE *f = fopen(path, "rb");
    char *text = NULL;
    size_t n = 0, got;
    if (!f) { fprintf(stderr, "plant: cannot open %s\n", path); exit(2); }
    do {
        text = (char *)realloc(text, n + 65537);
        if (!text) exit(2);
        n += got = fread(text + n, 1, 65536, f);
    } while (got);
    fclose(f);
    text[n] = 0, *size = n;
    return text;
}

int main(int argc, char **argv) {
    int n = argc > 3 ? atoi(argv[3]) : 0;
    if (argc == 3 && !strcmp(argv[1], "count")) return printf("%d\n", read_bug(argv[2], 0)) < 0;
    if (argc < 4 || n < 1 || read_bug(argv[2], n) != n) { fprintf(stderr, "plant: no such bug\n"); return 2; }
    if (!strcmp(argv[1], "show")) return printf("%s\n%s\n", where, title) < 0;
    if (argc == 6 && !strcmp(argv[1], "apply")) {
        size_t size;
        char *text = read_all(argv[4], &size), *at = strstr(text, before + 2);
        char *second = at ? strstr(at + 1, before + 2) : NULL;
        FILE *to;
        if (!at || second || !strcmp(before + 2, after + 2)) {
            fprintf(stderr, "plant: %s: \"%s\" is %s in %s: %s\n", argv[2], title,
                    second ? "found more than once" : "not found", argv[4], before + 2);
            return 2;
        }
        if (!(to = fopen(argv[5], "wb"))) { fprintf(stderr, "plant: cannot write %s\n", argv[5]); return 2; }
        fwrite(text, 1, (size_t)(at - text), to);
        fputs(after + 2, to);
        at += strlen(before + 2);
        fwrite(at, 1, size - (size_t)(at - text), to);
        if (fclose(to)) return 2;
        free(text);
        return 0;
    }
    fprintf(stderr, "plant: count LIST | show LIST N | apply LIST N FROM TO\n");
    return 2;
}
