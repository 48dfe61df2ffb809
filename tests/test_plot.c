// test_plot.c - the pictures of examples/plot.h are real PNG files that show what they should, and no input, however
// odd, crashes or hangs them. The PNG is read back by an inflate decoder of our own, so neither side trusts the other.
#include "../examples/plot.h"
#include "test.h"
#if defined(_WIN32)
#include <direct.h>
#else
#include <sys/stat.h>
#endif

#define FILE_NAME "build/test_plot.png"

// ------------------------------------------------------------------------------------------------ reading a PNG

typedef struct image { int w, h, good; unsigned char *rgb; } image;
typedef struct bits { const unsigned char *s; size_t n, at; unsigned hold; int have, bad; } bits;

static unsigned take(bits *b, int count) {                     // least significant bit first, RFC 1951
    unsigned v;
    while (b->have < count) {
        if (b->at >= b->n) { b->bad = 1; return 0; }
        b->hold |= (unsigned)b->s[b->at++] << b->have, b->have += 8;
    }
    v = b->hold & ((1u << count) - 1), b->hold >>= count, b->have -= count;
    return v;
}

typedef struct huffman { int count[16], symbol[320]; } huffman;

static void huffman_make(huffman *h, const int *lengths, int n) {
    int i, offset[16];
    memset(h, 0, sizeof *h);
    for (i = 0; i < n; i++) h->count[lengths[i]]++;
    h->count[0] = 0, offset[1] = 0;
    for (i = 1; i < 15; i++) offset[i + 1] = offset[i] + h->count[i];
    for (i = 0; i < n; i++) if (lengths[i]) h->symbol[offset[lengths[i]]++] = i;
}

static int huffman_read(bits *b, const huffman *h) {
    int code = 0, first = 0, index = 0, length;
    for (length = 1; length < 16 && !b->bad; length++) {
        code |= (int)take(b, 1);
        if (code - first < h->count[length]) return h->symbol[index + code - first];
        index += h->count[length], first = (first + h->count[length]) << 1, code <<= 1;
    }
    b->bad = 1;
    return 0;
}

static size_t inflate(const unsigned char *s, size_t n, unsigned char *out, size_t room) {
    static const int base[29] = {3,  4,  5,  6,  7,  8,  9,  10, 11,  13,  15,  17,  19,  23, 27,
                                 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258};
    static const int extra[29] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2,
                                  2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
    static const int far_base[30] = {1,    2,    3,    4,    5,    7,    9,    13,    17,    25,
                                     33,   49,   65,   97,   129,  193,  257,  385,   513,   769,
                                     1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577};
    static const int order[19] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
    bits b;
    size_t at = 0;
    int last = 0, i;
    memset(&b, 0, sizeof b);
    b.s = s, b.n = n;
    while (!last && !b.bad) {
        int lengths[320], type, literals = 288, distances = 30;
        huffman text, far;
        last = (int)take(&b, 1), type = (int)take(&b, 2);
        if (type == 0 || type == 3) return 0;                  // stb writes no stored blocks
        memset(lengths, 0, sizeof lengths);
        if (type == 1) {
            for (i = 0; i < 288; i++) lengths[i] = i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8;
            for (i = 0; i < 30; i++) lengths[288 + i] = 5;
        } else {
            int codes, k;
            huffman meta;
            literals = 257 + (int)take(&b, 5), distances = 1 + (int)take(&b, 5), codes = 4 + (int)take(&b, 4);
            for (i = 0; i < codes; i++) lengths[order[i]] = (int)take(&b, 3);
            huffman_make(&meta, lengths, 19);
            for (i = 0; i < literals + distances && !b.bad;) {
                int symbol = huffman_read(&b, &meta), value = symbol, repeat = 1;
                if (symbol == 16) value = i ? lengths[i - 1] : 0, repeat = 3 + (int)take(&b, 2);
                if (symbol == 17) value = 0, repeat = 3 + (int)take(&b, 3);
                if (symbol == 18) value = 0, repeat = 11 + (int)take(&b, 7);
                for (k = 0; k < repeat && i < literals + distances; k++) lengths[i++] = value;
            }
        }
        huffman_make(&text, lengths, literals), huffman_make(&far, lengths + literals, distances);
        while (!b.bad) {
            int symbol = huffman_read(&b, &text), length, distance;
            if (symbol == 256) break;
            if (symbol < 256) { if (at == room) return 0; out[at++] = (unsigned char)symbol; continue; }
            if (symbol > 285) return 0;
            length = base[symbol - 257] + (int)take(&b, extra[symbol - 257]);
            symbol = huffman_read(&b, &far);
            if (symbol > 29) return 0;
            distance = far_base[symbol] + (int)take(&b, symbol < 4 ? 0 : symbol / 2 - 1);
            if ((size_t)distance > at || at + (size_t)length > room) return 0;
            while (length--) out[at] = out[at - (size_t)distance], at++;
        }
    }
    return b.bad ? 0 : at;
}

static unsigned big(const unsigned char *s) {
    return (unsigned)s[0] << 24 | (unsigned)s[1] << 16 | (unsigned)s[2] << 8 | (unsigned)s[3];
}

static unsigned crc32_of(const unsigned char *s, size_t n) {
    unsigned crc = 0xffffffffu;
    int k;
    while (n--) for (crc ^= *s++, k = 0; k < 8; k++) crc = crc & 1 ? crc >> 1 ^ 0xedb88320u : crc >> 1;
    return ~crc;
}

static image read_png(const char *path) {
    image m;
    unsigned char *file = NULL, *packed = NULL, *raw = NULL;
    size_t n = 0, at = 8, packed_n = 0, stride, i;
    unsigned a = 1, b = 0;
    int y;
    FILE *f = fopen(path, "rb");
    memset(&m, 0, sizeof m);
    if (!f) return m;
    fseek(f, 0, SEEK_END), n = (size_t)ftell(f), rewind(f);
    file = (unsigned char *)malloc(n + 1), packed = (unsigned char *)malloc(n + 1);
    if (fread(file, 1, n, f) != n || n < 33 || memcmp(file, "\x89PNG\r\n\x1a\n", 8)) n = 0;
    fclose(f);
    m.good = n > 0;
    while (m.good && at + 12 <= n) {
        size_t length = big(file + at);
        if (at + 12 + length > n || crc32_of(file + at + 4, length + 4) != big(file + at + 8 + length)) {
            m.good = 0;
            break;
        }
        if (!memcmp(file + at + 4, "IHDR", 4)) {
            m.w = (int)big(file + at + 8), m.h = (int)big(file + at + 12);
            m.good = length == 13 && file[at + 16] == 8 && file[at + 17] == 2 && file[at + 20] == 0;
        } else if (!memcmp(file + at + 4, "IDAT", 4))
            memcpy(packed + packed_n, file + at + 8, length), packed_n += length;
        at += 12 + length;
    }
    stride = (size_t)m.w * 3;
    if (m.good && at == n && packed_n > 6) {
        raw = (unsigned char *)malloc((stride + 1) * (size_t)m.h),
        m.rgb = (unsigned char *)malloc(stride * (size_t)m.h);
        m.good = inflate(packed + 2, packed_n - 6, raw, (stride + 1) * (size_t)m.h) == (stride + 1) * (size_t)m.h;
    } else m.good = 0;
    if (m.good) {
        for (i = 0; i < (stride + 1) * (size_t)m.h; i++) a = (a + raw[i]) % 65521, b = (b + a) % 65521;
        m.good = (b << 16 | a) == big(packed + packed_n - 4);
    }
    for (y = 0; m.good && y < m.h; y++) {                      // undo the filters of RFC 2083
        unsigned char *row = m.rgb + stride * (size_t)y, *up = y ? row - stride : NULL,
                      *in = raw + (stride + 1) * (size_t)y;
        for (i = 0; i < stride; i++) {
            int left = i >= 3 ? row[i - 3] : 0, above = up ? up[i] : 0, corner = up && i >= 3 ? up[i - 3] : 0,
                guess = 0;
            int pa = abs(above - corner), pb = abs(left - corner), pc = abs(left + above - 2 * corner);
            if (in[0] == 1) guess = left;
            if (in[0] == 2) guess = above;
            if (in[0] == 3) guess = (left + above) / 2;
            if (in[0] == 4) guess = pa <= pb && pa <= pc ? left : pb <= pc ? above : corner;
            row[i] = (unsigned char)(in[1 + i] + guess);
        }
    }
    free(file), free(packed), free(raw);
    return m;
}

static int at(const image *m, double x, double y) {
    const unsigned char *p;
    if (!m->good || x < 0 || y < 0 || x >= m->w || y >= m->h) return -1;
    p = m->rgb + 3 * ((size_t)y * (size_t)m->w + (size_t)x);
    return p[0] << 16 | p[1] << 8 | p[2];
}

static int near_color(int a, int b, int tolerance) {
    return a >= 0 && abs((a >> 16) - (b >> 16)) <= tolerance && abs((a >> 8 & 255) - (b >> 8 & 255)) <= tolerance &&
           abs((a & 255) - (b & 255)) <= tolerance;
}

// How many pixels of a rectangle have about this colour.
static int count(const image *m, double x0, double y0, double x1, double y1, int color) {
    int x, y, n = 0;
    for (y = (int)y0; y < (int)y1; y++) for (x = (int)x0; x < (int)x1; x++) n += near_color(at(m, x, y), color, 24);
    return n;
}

static image save(plot *p) {
    image none;
    int status = plot_save(p, FILE_NAME);
    memset(&none, 0, sizeof none);
    if (status) { T_FAIL("plot_save returned %d: %s", status, plot_error(p)); return none; }
    return read_png(FILE_NAME);
}

enum { BLUE = 0x0072B2, RED = 0xD55E00, WHITE = 0xffffff };

// ------------------------------------------------------------------------------------------------ pictures

static void a_curve_is_where_its_numbers_are(void) {
    double xs[2] = {0, 10}, ys[2] = {2, 2}, up[2] = {0, 4};
    plot *p = plot_new("Title", "x", "y");
    image m;
    double x, y;
    plot_range_x(p, 0, 10), plot_range_y(p, 0, 4);
    plot_line(p, NULL, xs, ys, 2), plot_line(p, NULL, xs, up, 2);
    m = save(p);
    CHECK(m.good); CHECK_INT(m.w, 1600); CHECK_INT(m.h, 1000);
    x = p->left + (p->right - p->left) * 0.31, y = p->bottom - (p->bottom - p->top) * 0.5;
    CHECK_INT(at(&m, x, y), BLUE);                             // y = 2 of 4: half way up
    CHECK(!near_color(at(&m, x, y - 12), BLUE, 60)); CHECK(!near_color(at(&m, x, y + 12), BLUE, 60));
    CHECK_INT(at(&m, x, p->bottom - (p->bottom - p->top) * 0.31), RED);        // the diagonal
    CHECK(near_color(at(&m, x, p->bottom), 0x888888, 8));      // the axis
    CHECK_INT(at(&m, 3, 3), WHITE);
    CHECK(count(&m, p->left, 20, 1000, p->top - 6, 0x111111) > 300);           // the title
    CHECK(count(&m, 0, p->top, p->left - 6, p->bottom, 0x444444) > 100);       // numbers beside the axis
    free(m.rgb), plot_free(p);
}

static void a_gap_stays_a_gap_and_a_lone_point_is_a_dot(void) {
    double ys[7] = {1, 1, NAN, NAN, 1, NAN, NAN};
    plot *p = plot_new("", "", "");
    image m;
    double y, w;
    plot_range_x(p, 0, 6), plot_range_y(p, 0, 2);
    plot_line(p, NULL, NULL, ys, 7);
    m = save(p);
    y = (p->top + p->bottom) / 2, w = (p->right - p->left) / 6;
    CHECK_INT(at(&m, p->left + 0.5 * w, y), BLUE);
    CHECK_INT(count(&m, p->left + 1.2 * w, y - 8, p->left + 3.8 * w, y + 8, BLUE), 0);
    CHECK_INT(at(&m, p->left + 4 * w, y), BLUE);
    CHECK_INT(count(&m, p->left + 4.2 * w, y - 8, p->right, y + 8, BLUE), 0);
    free(m.rgb), plot_free(p);
}

static void bars_have_their_heights(void) {
    static const char *const labels[3] = {"one", " two",
                                          "a label that is far too long to stand level under a bar of this width"};
    double a[3] = {1, 2, -1}, b[3] = {0.5, 0, NAN};
    plot *p = plot_new("Bars", "", "height");
    image m;
    double room, unit, zero;
    plot_bars(p, "a", labels, a, 3), plot_bars(p, "b", NULL, b, 3), plot_range_y(p, -2, 3), plot_values(p, "%.1f");
    m = save(p);
    room = (p->right - p->left) / 3, unit = (p->bottom - p->top) / 5, zero = p->bottom - 2 * unit;
    CHECK(near_color(at(&m, p->left + room * 0.3, zero - unit * 0.9), BLUE, 20));
    CHECK(!near_color(at(&m, p->left + room * 0.3, zero - unit * 1.05), BLUE, 20));
    CHECK(near_color(at(&m, p->left + room * 1.3, zero - unit * 1.9), BLUE, 20));
    CHECK(near_color(at(&m, p->left + room * 2.3, zero + unit * 0.9), BLUE, 20));      // below zero
    CHECK(!near_color(at(&m, p->left + room * 2.3, zero + unit * 1.1), BLUE, 20));
    CHECK(!near_color(at(&m, p->left + room * 0.3, zero + unit * 0.3), BLUE, 20));     // bars stand on zero
    CHECK(near_color(at(&m, p->left + room * 0.7, zero - unit * 0.4), RED, 20));
    CHECK(!near_color(at(&m, p->left + room * 0.7, zero - unit * 0.6), RED, 20));
    CHECK_INT(plot_bars(p, "c", NULL, a, 2), -1);              // another number of bars
    CHECK_HAS(plot_error(p), "2 bars after 3");
    free(m.rgb), plot_free(p);
}

static void a_heat_map_has_row_0_on_top(void) {
    float v[6] = {0, 1, 2, 3, NAN, 5}, signs[2] = {-1, 4};
    plot *p = plot_new("Heat", "column", "row");
    image m;
    double w, h;
    plot_heat(p, v, 2, 3, NULL, NULL);
    m = save(p);
    w = (p->right - p->left) / 3, h = (p->bottom - p->top) / 2;
    CHECK(near_color(at(&m, p->left + w * 0.5, p->top + h * 0.5), 0xf7fafd, 6));       // the least value
    CHECK(near_color(at(&m, p->left + w * 2.5, p->top + h * 1.5), 0x082a56, 6));       // the greatest
    CHECK(near_color(at(&m, p->left + w * 1.5, p->top + h * 1.5), 0xe4e4e4, 6));       // NaN
    CHECK(near_color(at(&m, p->left + w * 1.5, p->top + h * 0.5), 0xc9def0, 6)); // 1 of 5: the second of six stops
    CHECK_INT(plot_heat(p, v, 2, 3, NULL, NULL), -1);
    free(m.rgb), plot_free(p);
    p = plot_new("", "", "");                                  // two signs: zero is in the middle of the colours
    plot_heat(p, signs, 1, 2, NULL, NULL);
    m = save(p);
    CHECK(near_color(at(&m, p->right - 9, p->bottom - 9), 0x08305c, 6));
    CHECK(near_color(at(&m, p->left + 9, p->bottom - 9), 0xf9c9a8, 20));               // -1 of 4: a light orange
    free(m.rgb), plot_free(p);
}

// A large map of short labels: as many as there are rows, none on its side; and a name beside the colour bar.
static void a_heat_map_of_letters_is_labelled(void) {
    static float v[40 * 40];
    static char names[40][3];
    const char *labels[40];
    double size, plain;
    plot *p = plot_new("Letters", "next", "letter");
    image m;
    int i;
    for (i = 0; i < 40; i++) names[i][0] = (char)('A' + i % 26), names[i][1] = i ? 0 : 'W', labels[i] = names[i];
    for (i = 0; i < 1600; i++) v[i] = (float)(i % 7);
    plot_heat(p, v, 40, 40, labels, labels);
    m = save(p), plain = p->right;
    size = (p->right - p->left) / 40;
    CHECK(size >= 24);
    CHECK(ploti_categories(NULL, p, 0, size, 0) < 1.2 * 26 * p->scale);        // one line of upright letters
    for (i = 0; i < 40; i++) {                                 // each column has its letter
        int x = (int)(p->left + i * size), y = (int)p->bottom + 6;
        CHECK(count(&m, x, y, x + 24, y + 24, 0xffffff) < 24 * 24 - 10);
    }
    free(m.rgb);
    CHECK_INT(plot_heat_label(p, "old"), 0); CHECK_INT(plot_heat_label(p, "probability"), 0);
    m = save(p);
    CHECK(p->right <= plain);                                  // the map makes room for the text
    CHECK(count(&m, m.w - 60, m.h * 0.3, m.w - 4, m.h * 0.7, 0x222222) > 50);
    free(m.rgb), plot_free(p);
    CHECK_INT(plot_heat_label(NULL, "x"), -1);
}

static double right_half(void *user, double x, double y) { return (void)y, (*(int *)user)++, x - 0.25; }
static int quadrant(void *user, double x, double y) { return (void)user, (x > 0) + 2 * (y > 0); }

static void regions_have_their_border(void) {
    int calls = 0;
    plot *p = plot_new("", "x", "y");
    image m;
    double x, y;
    plot_region(p, right_half, &calls);
    m = save(p);
    CHECK(calls > 1000); CHECK(calls < 100000);
    x = ploti_pixel(&p->x, 0), y = (p->top + p->bottom) / 2;
    // The axes are put back after drawing, so the range is read from the picture: the border is the only dark line.
    CHECK(near_color(at(&m, p->left + 5, y), 0xa0c8df, 60)); CHECK(near_color(at(&m, p->right - 5, y), 0xf0c09f, 60));
    x = p->left + (0.25 + 1 + 0.24) / 2.48 * (p->right - p->left);             // -1 to 1 with 12 % on both sides
    CHECK(count(&m, x - 6, y, x + 6, y + 1, 0x333333) >= 2);
    free(m.rgb), plot_free(p);
    p = plot_new("", "x", "y");
    plot_classes(p, quadrant, NULL, 4), plot_range_x(p, -1, 1), plot_range_y(p, -1, 1);
    m = save(p);
    x = (p->left + p->right) / 2, y = (p->top + p->bottom) / 2;
    CHECK(near_color(at(&m, x - 99, y + 99), 0xb7d7e9, 6)); CHECK(near_color(at(&m, x + 99, y + 99), 0xf3d2b7, 6));
    CHECK(near_color(at(&m, x - 99, y - 99), 0xb7e3d7, 8)); CHECK(near_color(at(&m, x, y - 99), WHITE, 40));
    free(m.rgb), plot_free(p);
}

static void points_and_notes(void) {
    double xs[3] = {1, 2, 3}, ys[3] = {1, 3, 2};
    plot *p = plot_new("Points", "x", "y");
    image m;
    int i;
    plot_range_x(p, 0, 4), plot_range_y(p, 0, 4), plot_scatter(p, "points", xs, ys, 3);
    plot_note(p, 3, 2, "here"), plot_hline(p, 1.5, "line"), plot_vline(p, 2.5, "step");
    m = save(p);
    for (i = 0; i < 2; i++)
        CHECK(
            near_color(at(&m, p->left + (p->right - p->left) * xs[i] / 4, p->bottom - (p->bottom - p->top) * ys[i] / 4),
                       BLUE, 24));
    CHECK(near_color(at(&m, p->left + (p->right - p->left) * 0.75, p->bottom - (p->bottom - p->top) * 0.5), 0x222222,
                     30));
    CHECK(count(&m, p->left, p->bottom - (p->bottom - p->top) * 1.5 / 4 - 3, p->right,
                p->bottom - (p->bottom - p->top) * 1.5 / 4 + 3, 0x666666) > 300);
    free(m.rgb), plot_free(p);
}

static void a_legend_avoids_the_data(void) {
    double xs[2000], falls[2000], noise[2000], x = 0, y = 0;
    int i;
    plot *p = plot_new("", "", "");
    for (i = 0; i < 2000; i++) xs[i] = i, falls[i] = exp(-i / 200.0), noise[i] = (i * 7919) % 1000 / 1000.0;
    plot_line(p, NULL, xs, falls, 2000); // without a legend of its own, which would take the place
    CHECK_INT(plot_save(p, FILE_NAME), PLOTI_PNG ? 0 : 1);
    CHECK(ploti_find_room(p, 200, 80, &x, &y));
    CHECK(x > (p->left + p->right) / 2); CHECK(y < (p->top + p->bottom) / 2);  // a falling curve leaves the upper right
    CHECK_INT(ploti_busy(p, x, y, x + 200, y + 80, 0), 0);
    plot_line(p, "noise", xs, noise, 2000);
    CHECK_INT(plot_save(p, FILE_NAME), PLOTI_PNG ? 0 : 1);
    CHECK(!ploti_find_room(p, 600, 400, &x, &y));
    CHECK(p->top > 70);                                        // the legend went above the data
    plot_free(p);
}

static void a_band_lies_between_its_edges(void) {
    double xs[2] = {0, 4}, low[2] = {0, 2}, high[2] = {1, 4};
    plot *p = plot_new("", "", "");
    image m;
    double x, unit;
    plot_range_x(p, 0, 4), plot_range_y(p, 0, 5), plot_band(p, xs, low, high, 2);
    m = save(p);
    x = p->left + (p->right - p->left) * 0.51, unit = (p->bottom - p->top) / 5;        // there it spans 1.02 to 2.53
    CHECK(near_color(at(&m, x, p->bottom - 1.1 * unit), 0xcce3f0, 10));
    CHECK(near_color(at(&m, x, p->bottom - 2.4 * unit), 0xcce3f0, 10));
    CHECK_INT(at(&m, x, p->bottom - 0.9 * unit), WHITE);
    CHECK_INT(at(&m, x, p->bottom - 2.7 * unit), WHITE);
    free(m.rgb), plot_free(p);
}

static void a_second_save_is_the_same(void) {
    double ys[50];
    unsigned char *first;
    plot *p = plot_new("Twice", "step", "loss");
    image m;
    int i;
    for (i = 0; i < 50; i++) ys[i] = 1 + i;
    plot_log_x(p), plot_log_y(p), plot_range_y(p, 0.5, 100), plot_smooth(p, "a", NULL, ys, 50, 0.9);
    m = save(p), first = m.rgb;
    m = save(p);
    CHECK(first && m.rgb && !memcmp(first, m.rgb, (size_t)m.w * (size_t)m.h * 3));
    free(first), free(m.rgb), plot_free(p);
}

static void several_plots_in_one_picture(void) {
    plot *ps[3];
    image m;
    int i;
    double ys[2] = {1, 2};
    for (i = 0; i < 3; i++)
        ps[i] = plot_new("part", "", ""), plot_size(ps[i], 300 + 10 * i, 200), plot_line(ps[i], NULL, NULL, ys, 2);
    CHECK_INT(plot_save_grid(ps, 3, 2, FILE_NAME), 0);
    m = read_png(FILE_NAME);
    CHECK(m.good); CHECK_INT(m.w, 320 + 310); CHECK_INT(m.h, 400);
    CHECK_INT(plot_save_grid(ps, 3, 0, FILE_NAME), -1);
    for (i = 0; i < 3; i++) plot_free(ps[i]);
    free(m.rgb);
}

static void smoothing_is_an_average_without_lag(void) {
    double ys[300];
    plot *p = plot_new("", "", "");
    int i;
    for (i = 0; i < 300; i++) ys[i] = i == 150 ? NAN : 5 + (i & 1 ? 1 : -1);
    plot_smooth(p, "flat", NULL, ys, 300, 0.95);
    for (i = 20; i < 280; i++) if (i != 150) CHECK_NEAR(p->series[0].z[i], 5, 0.1);
    CHECK(p->series[0].z[150] != p->series[0].z[150]);
    CHECK_NEAR(p->series[0].z[299], 5, 0.15);                  // nor does the end follow its last point
    for (i = 0; i < 300; i++) ys[i] = i;
    plot_smooth(p, "ramp", NULL, ys, 300, 0.9);
    for (i = 90; i < 210; i++) CHECK_NEAR(p->series[1].z[i], i, 0.05);         // from one side alone it would be 9 late
    plot_smooth(p, "none", NULL, ys, 300, 0);
    for (i = 0; i < 300; i++) CHECK_NEAR(p->series[2].z[i], i, 0);
    plot_smooth(p, "bad", NULL, ys, 300, 1.0);
    CHECK_HAS(plot_error(p), "below 1");
    plot_free(p);
}

// A loss falls fastest at its beginning, where its average has to start with it and not below.
static void a_smoothed_line_starts_at_the_first_value(void) {
    double ys[2000];
    const double *z;
    plot *p = plot_new("", "", "");
    int i;
    for (i = 0; i < 2000; i++) ys[i] = 1.4 + 2.78 * exp(-i / 15.0);
    plot_smooth(p, "loss", NULL, ys, 2000, 0.95), z = p->series[0].z;
    CHECK_NEAR(z[0], 4.18, 0);
    CHECK_NEAR(z[1], (0.95 * ys[0] + ys[1] + 0.95 * ys[2]) / 2.9, 1e-12);      // as many on the right as on the left
    for (i = 1; i < 2000; i++) CHECK(z[i] < z[i - 1] + 1e-9 && z[i] > ys[i] - 1e-9);
    ys[0] = ys[1] = NAN;
    plot_smooth(p, "late", NULL, ys, 2000, 0.95), z = p->series[1].z;
    CHECK(z[0] != z[0]); CHECK_NEAR(z[2], ys[2], 0); CHECK(z[3] < z[2]);
    plot_smooth(p, "lone", NULL, ys + 5, 1, 0.95);
    CHECK_NEAR(p->series[2].z[0], ys[5], 0);
    plot_free(p);
}

// Behind a smoothed line are its values, pale, and the legend says so, once for all.
static void a_legend_names_the_pale_lines(void) {
    double ys[300], w, one, h;
    plot *p = plot_new("", "", "");
    image m;
    int i;
    for (i = 0; i < 300; i++) ys[i] = 0.1 + 0.02 * (i & 1);
    plot_range_y(p, 0, 1), plot_line(p, "line", NULL, ys, 300);
    CHECK_INT(plot_save(p, FILE_NAME), 0);
    ploti_legend(NULL, p, 0, 0, 0, &w, &one);
    plot_smooth(p, "smooth", NULL, ys, 300, 0.9);
    ploti_legend(NULL, p, 0, 0, 0, &w, &h); CHECK_NEAR(h, 3 * one, 1e-9);
    m = save(p);
    i = (int)((p->top + p->bottom) / 2);
    CHECK(count(&m, p->left, p->top, p->right, i, RED) > 50);
    CHECK(count(&m, p->left, p->top, p->right, i, 0xf5d7bf) > 50);
    free(m.rgb);
    plot_smooth(p, "another", NULL, ys, 300, 0.9);
    ploti_legend(NULL, p, 0, 0, 0, &w, &h); CHECK_NEAR(h, 4 * one, 1e-9);
    plot_free(p);
}

static void numbers_have_their_thousands_apart(void) {
    static const char *const texts[][2] = {{"1115", "1,115"}, {"999", "999"}, {"", ""}, {"100000", "100,000"},
        {"-1234567.1234 %", "-1,234,567.1234 %"}, {"0.12345", "0.12345"}, {"1e+06", "1e+06"}};
    char text[32], full[8] = "1234567", value[PLOTI_TEXT];
    plot *p = plot_new("", "", "");
    int i;
    for (i = 0; i < (int)(sizeof texts / sizeof texts[0]); i++) {
        strcpy(text, texts[i][0]), ploti_thousands(text, sizeof text);
        CHECK_STR(text, texts[i][1]);
    }
    ploti_thousands(full, sizeof full); CHECK_STR(full, "1234567");    // no room: as it was
    plot_values(p, "%.0f"), ploti_value_text(p, 1115.4, value);
    CHECK_STR(value, "1,115");
    ploti_value_text(p, 1e300, value); CHECK_INT(strlen(value), PLOTI_TEXT - 1);
    plot_free(p);
}

// ------------------------------------------------------------------------------------------------ axes and letters

static unsigned long long random_state = 1;
static double uniform(void) {
    random_state = random_state * 6364136223846793005ULL + 1442695040888963407ULL;
    return (double)(random_state >> 33) / 2147483648.0;
}

static void ticks_are_few_round_and_distinct(void) {
    int trial, i, k;
    for (trial = 0; trial < 20000 && t_bad < 5; trial++) {
        ploti_axis a;
        ploti_ticks t;
        double middle = (uniform() - 0.5) * pow(10, uniform() * 40 - 20),
               span = fabs(middle) * pow(10, uniform() * 9 - 7);
        int most = 2 + (int)(uniform() * 14);
        memset(&a, 0, sizeof a);
        a.lo = middle - span, a.hi = middle + span;
        ploti_make_ticks(&a, most, &t);
        if (t.n < 1 || t.n > most + 1) T_FAIL("%d ticks of %d from %g to %g", t.n, most, a.lo, a.hi);
        for (i = 0; i < t.n; i++) {
            if (t.at[i] < a.lo - span * 1e-6 || t.at[i] > a.hi + span * 1e-6)
                T_FAIL("tick %g outside %g to %g", t.at[i], a.lo, a.hi);
            for (k = 0; k < i && span > fabs(middle) * 1e-5; k++)
                if (!strcmp(t.text[i], t.text[k])) T_FAIL("two ticks say %s, from %g to %g", t.text[i], a.lo, a.hi);
        }
    }
}

static void ticks_read_well(void) {
    ploti_axis a;
    ploti_ticks t;
    memset(&a, 0, sizeof a);
    a.lo = 0, a.hi = 2000, ploti_make_ticks(&a, 5, &t);
    CHECK_INT(t.n, 5); CHECK_STR(t.text[0], "0"); CHECK_STR(t.text[4], "2,000");
    a.lo = -0.3, a.hi = 0.3, ploti_make_ticks(&a, 7, &t);
    CHECK_STR(t.text[0], "\xe2\x88\x92" "0.3"); CHECK_STR(t.text[3], "0.0");
    a.whole = 1, a.lo = 0, a.hi = 3.1, ploti_make_ticks(&a, 8, &t);         // four steps
    CHECK_INT(t.n, 4); CHECK_STR(t.text[3], "3");
    a.lo = 0, a.hi = 10.2, ploti_make_ticks(&a, 4, &t);        // no steps of 2.5
    CHECK_INT(t.n, 3); CHECK_STR(t.text[1], "5");
    a.whole = 0;
    a.lo = 0, a.hi = 3e9, ploti_make_ticks(&a, 4, &t);
    CHECK_STR(t.text[0], "0"); CHECK_STR(t.text[1], "1\xc3\x97" "10\1" "9\2");
    a.log = 1, a.lo = -7, a.hi = -3, ploti_make_ticks(&a, 8, &t);
    CHECK_INT(t.n, 5); CHECK_STR(t.text[0], "10\1\xe2\x88\x92" "7\2");
    a.lo = 0, a.hi = 3, ploti_make_ticks(&a, 8, &t);
    CHECK_STR(t.text[0], "1"); CHECK_STR(t.text[3], "1,000");
    CHECK_NEAR(t.at[3], ploti_value(&a, 1000), 1e-12);         // and stands where 1,000 is drawn
    a.lo = 0, a.hi = log10(2), ploti_make_ticks(&a, 8, &t);    // less than a decade
    CHECK(t.n >= 4);
}

static void every_letter_has_a_shape(void) {
    ploti_pen pens[PLOTI_PENS];
    double advance, digit = 0;
    int code, i, n, k;
    for (code = 33; code < 127; code++) {
        n = ploti_letter(ploti_path(code), pens, &advance);
        if (n < 1 || n >= PLOTI_PENS || advance < 10 || advance > 100)
            T_FAIL("letter %c: %d points, %g wide", code, n, advance);
        for (i = 0; i < n; i++)
            if (pens[i].x < -15 || pens[i].x > advance + 15 || pens[i].y < -25 || pens[i].y > 90)
                T_FAIL("letter %c leaves its box", code);
        for (k = 33; k < code; k++) if (!strcmp(ploti_path(k), ploti_path(code))) T_FAIL("%c looks like %c", k, code);
        if (code == '0') digit = advance;
        if (code >= '0' && code <= '9') CHECK_NEAR(advance, digit, 1e-9);
    }
    CHECK_NEAR(ploti_width("ab", 20), ploti_width("a", 20) + ploti_width("b", 20), 1e-9);
    CHECK_NEAR(ploti_width("abc", 40), 2 * ploti_width("abc", 20), 1e-9);
}

static void texts_are_cut_and_made_visible(void) {
    char out[PLOTI_TEXT], big_text[4000];
    CHECK_STR(ploti_fit(" the cat", 20, 1e9, 1, out), "\xe2\x90\xa3" "the cat");
    CHECK_STR(ploti_fit("a ", 20, 1e9, 1, out), "a\xe2\x90\xa3");
    CHECK_STR(ploti_fit("\n", 20, 1e9, 1, out), "\xe2\x86\xb5");
    CHECK_STR(ploti_fit("a b", 20, 1e9, 1, out), "a b");
    memset(big_text, 'x', sizeof big_text), big_text[sizeof big_text - 1] = 0;
    CHECK(ploti_width(ploti_fit(big_text, 20, 200, 0, out), 20) <= 200);
    CHECK_HAS(ploti_fit(big_text, 20, 200, 0, out), "x\xe2\x80\xa6");
    strcpy(out, "tensor engine, naive twins");
    CHECK_INT(ploti_wrap(out, 20, ploti_width("tensor engine,", 20) + 1), 2);
    CHECK_STR(out, "tensor engine,\nnaive twins");
    strcpy(out, "one two three four five");
    CHECK_INT(ploti_wrap(out, 20, ploti_width("three", 20) + 1), 0);           // would take more than three lines
    CHECK_NEAR(ploti_width("-1", 20), ploti_width("\xe2\x88\x92" "1", 20), 1e-9);
    CHECK(ploti_width("x-1", 20) < ploti_width("x\xe2\x88\x92" "1", 20));     // a hyphen stays one
    CHECK_INT(ploti_next_stride(1), 2);
    CHECK_INT(ploti_next_stride(2), 5);
    CHECK_INT(ploti_next_stride(50), 100);
    ploti_fit("\xff\xfe\x80\xc3", 20, 5, 1, out), ploti_fit("", 20, 5, 1, out);
    CHECK_STR(out, "");
}

// ------------------------------------------------------------------------------------------------ graphs

static void a_graph_is_laid_out_in_layers(void) {
    // Two rows of six, joined crosswise: in the order given there are 15 crossings, in the best order none.
    ploti_graph g;
    plot *p = plot_new("", "", "");
    image m;
    int i, k, a[6], b[6];
    char name[16];
    for (i = 0; i < 6; i++) sprintf(name, "a%d", i), a[i] = plot_node(p, name, NULL);
    for (i = 0; i < 6; i++) sprintf(name, "b%d", i), b[i] = plot_node(p, name, "+");
    for (i = 0; i < 6; i++) plot_edge(p, a[i], b[5 - i]);
    plot_edge(p, b[0], plot_node(p, "end", "relu")), plot_edge(p, a[3], 12);   // the second passes a layer
    CHECK_INT(p->node_count, 13); CHECK_INT(p->edge_count, 8);
    memset(&g, 0, sizeof g);
    g.v = (ploti_node *)calloc(14, sizeof *g.v);
    memcpy(g.v, p->nodes, 13 * sizeof *g.v);
    for (i = 0; i < 13; i++) ploti_graph_measure(p, &g.v[i]);
    CHECK_INT(ploti_graph_rank(p, &g), 0); CHECK_INT(ploti_graph_bends(p, &g), 0);
    CHECK_INT(g.layers, 3); CHECK_INT(g.bends, 1); CHECK_INT(g.v[12].rank, 2);
    CHECK(ploti_crossings(&g) >= 15);
    ploti_graph_order(&g);
    CHECK_INT(ploti_crossings(&g), 0);
    ploti_graph_place(&g);
    for (i = 0; i < g.layers; i++) for (k = g.start[i]; k + 1 < g.start[i + 1]; k++) {         // nothing overlaps
        const ploti_node *u = &g.v[g.layer[k]], *v = &g.v[g.layer[k + 1]];
        CHECK(v->at - u->at >= (u->across + v->across) / 2 + 9.999);
    }
    ploti_graph_free(&g);
    m = save(p);
    CHECK(m.good); CHECK(count(&m, 0, 0, m.w, m.h, RED) > 500); CHECK(count(&m, 0, 0, m.w, m.h, 0x777777) > 500);
    free(m.rgb);
    plot_down(p), plot_size(p, 900, 900);
    m = save(p);
    CHECK_INT(m.w, 900); CHECK_INT(m.h, 900);
    free(m.rgb), plot_free(p);
}

static void graphs_that_cannot_be(void) {
    plot *p = plot_new("", "", "");
    int a = plot_node(p, "a|1", NULL), b = plot_node(p, NULL, "*"), i;
    CHECK_INT(a, 0); CHECK_INT(b, 1);
    CHECK_INT(plot_edge(p, a, b), 0); CHECK_INT(plot_edge(p, b, a), 0);
    CHECK(plot_save(p, FILE_NAME) < 0); CHECK_HAS(plot_error(p), "cycle");
    plot_free(p);
    p = plot_new("", "", ""), plot_node(p, "a", NULL);
    CHECK_INT(plot_edge(p, 0, 7), -1); CHECK_HAS(plot_error(p), "from 0 to 7");
    plot_free(p);
    p = plot_new("A long chain", "", ""); // twenty thousand pixels are brought down to what a picture may have
    for (i = 0; i < 400; i++) { plot_node(p, "x | 1.0", "+"); if (i) plot_edge(p, i - 1, i); }
    plot_edge(p, 0, 399);
    CHECK_INT(plot_save(p, FILE_NAME), PLOTI_PNG ? 0 : 1);
    plot_free(p);
}

// ------------------------------------------------------------------------------------------------ odd input

static void odd_numbers_neither_crash_nor_hang(void) {
    static const double odd[] = {0, -0.0, 1, -1, 1e30, -1e30, 1e308, -1e308, 1e-320, 1e-30, 123456789, 3};
    double some[3], xs[3];
    ploti_canvas c;
    int i, j, variant;
    for (i = 0; i < 15; i++) for (j = 0; j < 15; j++) for (variant = 0; variant < 4; variant++) {
        plot *p = plot_new("odd", "x", "y");
        double a = i < 12 ? odd[i] : i == 12 ? NAN : i == 13 ? HUGE_VAL : -HUGE_VAL;
        double b = j < 12 ? odd[j] : j == 12 ? NAN : j == 13 ? HUGE_VAL : -HUGE_VAL;
        some[0] = a, some[1] = b, some[2] = a, xs[0] = b, xs[1] = a, xs[2] = 1;
        plot_size(p, 300, 200);
        if (variant & 1) plot_log_x(p);
        if (variant & 2) plot_log_y(p);
        plot_line(p, "line", xs, some, 3), plot_dashed(p), plot_scatter(p, "points", some, xs, 3);
        plot_band(p, xs, some, xs, 3), plot_hline(p, a, "h"), plot_vline(p, b, "v"), plot_note(p, a, b, "n");
        if (j == 3) plot_bars(p, "bars", NULL, some, 3);
        if (j == 4) plot_equal(p);
        if (j == 5 && a < b) plot_range_y(p, a, b), plot_range_x(p, a, b);
        if (ploti_render(p, &c)) { if (!*plot_error(p)) T_FAIL("no message for %g, %g", a, b); }
        else ploti_canvas_free(&c);
        plot_free(p);
    }
}

static void odd_shapes_neither_crash_nor_hang(void) {
    static double many[100000];
    char long_name[3000];
    const char *labels[200];
    float heat[400], none[4] = {NAN, NAN, NAN, NAN}, same[4] = {7, 7, 7, 7};
    int i, size;
    plot *p = plot_new(NULL, NULL, NULL);
    image m;
    CHECK_INT(plot_line(p, "empty", NULL, NULL, 0), 0); CHECK_INT(plot_bars(p, "empty", NULL, NULL, 0), 0);
    m = save(p); CHECK(m.good); free(m.rgb), plot_free(p);
    p = plot_new("nothing at all", "", ""), m = save(p); CHECK(m.good); free(m.rgb), plot_free(p);
    memset(long_name, 'W', sizeof long_name), long_name[sizeof long_name - 1] = 0;
    for (i = 0; i < 100000; i++) many[i] = uniform() * 1e6;
    p = plot_new(long_name, long_name, long_name), plot_subtitle(p, long_name),
    plot_line(p, long_name, NULL, many, 100000);
    plot_hline(p, 3, long_name), plot_note(p, 50, 50, "\xff\xc3");
    m = save(p); CHECK(m.good); free(m.rgb), plot_free(p);
    for (i = 0; i < 200; i++) labels[i] = i % 3 ? long_name : i % 2 ? "" : "\n";
    p = plot_new("bars", "x", "y"), plot_bars(p, "b", labels, many, 200), plot_values(p, "%g");
    m = save(p); CHECK(m.good); free(m.rgb), plot_free(p);
    for (i = 0; i < 400; i++) heat[i] = (float)uniform();
    p = plot_new("heat", "x", "y"), plot_heat(p, heat, 200, 2, labels, labels), plot_values(p, "%.3f");
    m = save(p); CHECK(m.good); free(m.rgb), plot_free(p);
    p = plot_new("", "", ""), plot_heat(p, none, 2, 2, NULL, NULL), m = save(p);
    CHECK(m.good);
    free(m.rgb), plot_free(p);
    p = plot_new("", "", ""), plot_heat(p, same, 1, 4, NULL, NULL), m = save(p);
    CHECK(m.good);
    free(m.rgb), plot_free(p);
    for (size = 100; size < 400; size += 30) { // a sheet too small for its labels is an error, not a crash
        p = plot_new("small", "x label", "y label"), plot_size(p, size, 500 - size),
        plot_line(p, "curve", NULL, many, 9);
        if (plot_save(p, FILE_NAME)) CHECK_HAS(plot_error(p), "no room");
        plot_free(p);
    }
    p = plot_new("many", "x", "y");
    for (i = 0; i < PLOT_SERIES; i++) CHECK_INT(plot_line(p, "series", NULL, many + i, 5), 0);
    m = save(p); CHECK(m.good); free(m.rgb);
    CHECK_INT(plot_line(p, "one more", NULL, many, 5), -1);
    CHECK(plot_save(p, FILE_NAME) < 0);
    plot_free(p);
}

static void errors_are_told_and_kept(void) {
    static const char *const bad[] = {"%d", "%s", "%", "%.2f %.2f", "plain", "%*f", "%n", "%lf", "%%"};
    double ys[2] = {1, 2};
    size_t i;
    plot *p;
    FILE *f;
    for (i = 0; i < sizeof bad / sizeof *bad; i++) {
        p = plot_new("", "", "");
        if (plot_values(p, bad[i]) != -1) T_FAIL("%s passed as a format", bad[i]);
        plot_free(p);
    }
    p = plot_new("", "", ""); CHECK_INT(plot_values(p, "%.1f %%"), 0); plot_free(p);
    p = plot_new("", "", "");
    CHECK_INT(plot_size(p, 40000, 100), -1); CHECK_HAS(plot_error(p), "40000 x 100");
    CHECK_INT(plot_line(p, "x", NULL, ys, 2), -1); CHECK(plot_save(p, FILE_NAME) < 0);
    CHECK_HAS(plot_error(p), "40000 x 100");                   // the first message stays
    plot_free(p);
    p = plot_new("", "", ""); CHECK_INT(plot_size(p, 32768, 32768), -1); plot_free(p);
    p = plot_new("", "", ""), plot_line(p, "x", NULL, ys, 2);
    CHECK(plot_save(p, "build/no/such/folder/x.png") < 0); CHECK_HAS(plot_error(p), "build/no/such/folder/x.png");
    plot_free(p);
    f = fopen("/dev/full", "wb");
    if (f) {                                                   // a full disk, met by fwrite, or only by fclose
        fclose(f);
        p = plot_new("", "", ""), plot_line(p, "x", NULL, ys, 2);
        CHECK(plot_save(p, "/dev/full") < 0);
        CHECK_HAS(plot_error(p), "cannot write");
        plot_free(p);
        p = plot_new("", "", ""), plot_size(p, 160, 120);
        CHECK_INT(plot_save(p, FILE_NAME), 0);
        f = fopen(FILE_NAME, "rb"), fseek(f, 0, SEEK_END);
        CHECK(ftell(f) < 4000);                                // fits into the buffer of a stream
        fclose(f);
        CHECK(plot_save(p, "/dev/full") < 0);
        plot_free(p);
    }
    p = plot_new("", "", ""), plot_log_y(p), plot_range_y(p, 0, 1);
    CHECK(plot_save(p, FILE_NAME) < 0); CHECK_HAS(plot_error(p), "logarithmic");
    plot_free(p);
    CHECK_INT(plot_line(NULL, "x", NULL, ys, 2), -1);
    CHECK(plot_save(NULL, FILE_NAME) < 0);
    CHECK_INT(plot_node(NULL, "a", NULL), -1);
    CHECK_INT(plot_log_x(NULL), -1); CHECK_INT(plot_color(NULL, 1), -1); CHECK_HAS(plot_error(NULL), "memory");
    plot_free(NULL);
}

static void csv_columns_become_curves(void) {
    plot *p = plot_new("", "", "");
    FILE *f = fopen("build/test_plot.csv", "wb");
    fputs("step,\"a \"\"quoted\"\", name\",val_loss\n0,4.5,\n1,3.5,3.25\n2,,3\n3,2,\n\n", f), fclose(f);
    CHECK_INT(plot_csv(p, "train", "build/test_plot.csv", "step", "a \"quoted\", name"), 0);
    CHECK_INT(plot_csv(p, "val", "build/test_plot.csv", "step", "val_loss"), 0);
    CHECK_INT(p->series[0].n, 3); CHECK_NEAR(p->series[0].x[2], 3, 0); CHECK_NEAR(p->series[0].y[2], 2, 0);
    CHECK_INT(p->series[1].n, 2); CHECK_NEAR(p->series[1].y[0], 3.25, 0);
    CHECK_INT(plot_csv(p, "x", "build/test_plot.csv", "step", "lr"), -1); CHECK_HAS(plot_error(p), "no column lr");
    plot_free(p);
    p = plot_new("", "", "");
    CHECK_INT(plot_csv(p, "x", "build/none.csv", "a", "b"), -1);
    CHECK_HAS(plot_error(p), "build/none.csv");
    plot_free(p);
}

int main(int argc, char **argv) {
    T_BEGIN("plot");
#if defined(_WIN32)
    _mkdir("build");
#else
    mkdir("build", 0777);
#endif
    if (PLOTI_PNG) {
        T_RUN(a_curve_is_where_its_numbers_are);
        T_RUN(a_gap_stays_a_gap_and_a_lone_point_is_a_dot);
        T_RUN(bars_have_their_heights);
        T_RUN(a_heat_map_has_row_0_on_top);
        T_RUN(a_heat_map_of_letters_is_labelled);
        T_RUN(regions_have_their_border);
        T_RUN(points_and_notes);
        T_RUN(a_legend_avoids_the_data);
        T_RUN(a_legend_names_the_pale_lines);
        T_RUN(a_band_lies_between_its_edges);
        T_RUN(a_second_save_is_the_same);
        T_RUN(several_plots_in_one_picture);
        T_RUN(a_graph_is_laid_out_in_layers);
        T_RUN(graphs_that_cannot_be);
        T_RUN(odd_numbers_neither_crash_nor_hang);
        T_RUN(odd_shapes_neither_crash_nor_hang);
        T_RUN(errors_are_told_and_kept);
    } else puts("plot: compiled without stb_image_write.h, tests of pictures skipped");
    T_RUN(smoothing_is_an_average_without_lag);
    T_RUN(a_smoothed_line_starts_at_the_first_value);
    T_RUN(numbers_have_their_thousands_apart);
    T_RUN(ticks_are_few_round_and_distinct);
    T_RUN(ticks_read_well);
    T_RUN(every_letter_has_a_shape);
    T_RUN(texts_are_cut_and_made_visible);
    T_RUN(csv_columns_become_curves);
    return T_END();
}
