// plot.h - line charts, bars, scatter plots, heat maps, decision regions and graphs, written as PNG files.
//
// Use: include it. Every function is static, so nothing else is to be compiled or linked (cc -O3 lesson.c -lm).
//
//     plot *p = plot_new("Learning Shakespeare", "step", "loss in nats");
//     plot_line(p, "train", steps, train, n);             // double arrays; steps may be NULL: then 0, 1, 2, ...
//     plot_line(p, "validation", steps, val, n);
//     plot_hline(p, 3.347, "unigrams");
//     plot_save(p, "out/08/loss.png");
//     plot_free(p);
//
// What it draws (arrays and strings are copied; a call may be repeated for more series):
//
//     plot_line(p, name, xs, ys, n)                 a curve; NaN makes a gap; name NULL keeps it out of the legend
//     plot_smooth(p, name, xs, ys, n, weight)       the same, pale, with its moving average in front (weight: 0.9)
//     plot_csv(p, name, path, x_column, y_column)   a curve from a csv file with a header row, empty cells skipped;
//                                                   one of more than 500 points as plot_smooth draws it
//     plot_scatter(p, name, xs, ys, n)              points
//     plot_band(p, xs, low, high, n)                a shaded band in the colour of the series before it
//     plot_bars(p, name, labels, values, n)         bars; a second call stands beside the first (grouped)
//     plot_heat(p, values, rows, columns, row_labels, column_labels)     float values, row-major; labels may be NULL
//     plot_region(p, score, user)                   two classes: sign of double score(void *user, double x, double y)
//     plot_classes(p, class_of, user, k)            k classes, by int class_of(void *user, double x, double y), 0..k-1
//     plot_hline(p, y, text), plot_vline(p, x, text)     a dashed line of reference with its text
//     plot_note(p, x, y, text)                      a dot at (x, y) and a text beside it
//     plot_node(p, label, op), plot_edge(p, from, to)     a graph: boxes ("a | data 2.00 | grad 138.83", a cell a row),
//                                                   the operation in a circle before it; plot_node returns its number
//
// How (each is about the plot or, where it says so, about the series drawn last):
//
//     plot_size(p, width, height)       pixels; 1600 x 1000 unless told, a graph takes what it needs
//     plot_subtitle(p, text)            a second, grey line under the title
//     plot_log_x(p), plot_log_y(p)      logarithmic axes; values <= 0 are left out
//     plot_range_x(p, lo, hi), plot_range_y(p, lo, hi)     axes are fitted to the data unless told
//     plot_equal(p)                     one unit is as long upwards as sideways
//     plot_color(p, i)                  colour i of the palette (0..7) for the last series
//     plot_dashed(p), plot_dots(p)      the last line dashed; the last line with a dot on every point
//     plot_values(p, "%.2f")            numbers on bars or in the cells of a heat map
//     plot_heat_range(p, lo, hi)        colours from lo to hi instead of from the least to the greatest value
//     plot_heat_label(p, text)          what the colours of a heat map mean, beside its colour bar
//     plot_down(p)                      a graph from top to bottom instead of from left to right
//
// plot_save returns 0 when the file is written, a negative number when not, and 1 when the program was compiled without
// stb_image_write.h (Debian: libstb-dev), in which case the first call says on stdout that there will be no pictures.
// plot_save_grid(ps, n, columns, path) puts several plots into one picture.
// Errors: all calls return a negative number on failure, 0 otherwise (plot_node: the node's number), and never print;
// the plot keeps the first message, which plot_error(p) returns, and plot_save then fails with it. NULL plots are
// accepted everywhere and do nothing.

#ifndef PLOT_H
#define PLOT_H

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Drawing is fast enough as it is, and -O3 would spend two seconds of every lesson's compile time on this file.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC push_options
#pragma GCC optimize("O1")
#endif

// The picture is drawn here; stb_image_write only packs it.
#define PLOTI_PNG 0
#if defined(__has_include) && !defined(PLOT_NO_PNG)
#if __has_include(<stb/stb_image_write.h>) || __has_include(<stb_image_write.h>) || \
    __has_include("stb_image_write.h") || __has_include("../build/stb_image_write.h")
#undef PLOTI_PNG
#define PLOTI_PNG 1
#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wall"
#pragma GCC diagnostic ignored "-Wextra"
#pragma GCC diagnostic ignored "-Wpedantic"
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
#define STBIWDEF static __attribute__((unused))
#endif
#define STB_IMAGE_WRITE_STATIC
#define STB_IMAGE_WRITE_IMPLEMENTATION
#if __has_include(<stb/stb_image_write.h>)
#include <stb/stb_image_write.h>
#elif __has_include(<stb_image_write.h>)
#include <stb_image_write.h>
#elif __has_include("stb_image_write.h")
#include "stb_image_write.h"
#else
#include "../build/stb_image_write.h"       // where the Makefile puts it
#endif
#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif
#endif
#endif

#if defined(__GNUC__) || defined(__clang__) || defined(__TINYC__)
#define PLOT_FN static __attribute__((unused))
#else
#define PLOT_FN static
#endif

enum { PLOT_SERIES = 64, PLOT_SIDE = 32768, PLOTI_PIXELS = 1 << 26, PLOTI_TEXT = 240 };

typedef struct plot plot;
typedef double (*plot_score)(void *user, double x, double y);
typedef int (*plot_class)(void *user, double x, double y);

// ------------------------------------------------------------------------------------------------ canvas
//
// A shape is first drawn into a mask, one byte of coverage a pixel, and the mask is then painted in one colour.
// Coverage comes from the distance between the pixel's centre and the shape's edge: 1 inside, 0 outside, a ramp of one
// pixel between them, which is what smooth edges are. Pieces of one shape join by the larger coverage, so a bent line
// is not darker at its bends, and half-transparent colours stay even. Coordinates are pixels, y downwards.

typedef struct ploti_canvas {
    int w, h;
    unsigned char *rgb, *mask;             // (h, w, 3) and (h, w)
    int x0, y0, x1, y1;                    // the part of the mask in use
    int cx0, cy0, cx1, cy1;                // nothing is drawn outside this rectangle
} ploti_canvas;

typedef struct ploti_color { unsigned char r, g, b; } ploti_color;

static ploti_color ploti_rgb(int hex) {
    ploti_color c;
    c.r = (unsigned char)(hex >> 16 & 255), c.g = (unsigned char)(hex >> 8 & 255), c.b = (unsigned char)(hex & 255);
    return c;
}

static ploti_color ploti_mix(ploti_color a, ploti_color b, double t) {
    a.r = (unsigned char)(a.r + (b.r - a.r) * t + 0.5);
    a.g = (unsigned char)(a.g + (b.g - a.g) * t + 0.5);
    a.b = (unsigned char)(a.b + (b.b - a.b) * t + 0.5);
    return a;
}

// Eight colours that readers with any kind of colour blindness tell apart (Okabe and Ito, 2008), those that are
// strong on white first.
static ploti_color ploti_palette(int i) {
    static const int colors[8] = {0x0072B2, 0xD55E00, 0x009E73, 0xCC79A7, 0xE69F00, 0x56B4E9, 0x444444, 0xD9CB1C};
    return ploti_rgb(colors[i & 7]);
}

static int ploti_canvas_new(ploti_canvas *c, int w, int h) {
    memset(c, 0, sizeof *c);
    c->w = c->cx1 = w, c->h = c->cy1 = h;
    c->x0 = w, c->y0 = h;
    c->rgb = (unsigned char *)malloc((size_t)w * (size_t)h * 3);
    c->mask = (unsigned char *)calloc((size_t)w * (size_t)h, 1);
    if (c->rgb && c->mask) { memset(c->rgb, 255, (size_t)w * (size_t)h * 3); return 0; }
    free(c->rgb), free(c->mask);
    c->rgb = c->mask = NULL;
    return -1;
}

static void ploti_canvas_free(ploti_canvas *c) {
    free(c->rgb), free(c->mask);
    c->rgb = c->mask = NULL;
}

static void ploti_clip(ploti_canvas *c, double x0, double y0, double x1, double y1) {
    c->cx0 = x0 > 0 ? (int)x0 : 0, c->cy0 = y0 > 0 ? (int)y0 : 0;
    c->cx1 = x1 < c->w ? (int)x1 : c->w, c->cy1 = y1 < c->h ? (int)y1 : c->h;
}

static void ploti_unclip(ploti_canvas *c) { c->cx0 = c->cy0 = 0, c->cx1 = c->w, c->cy1 = c->h; }

// Pixels that a shape between these edges can touch, inside the clip; 0 if there are none.
static int ploti_window(ploti_canvas *c, double xlo, double ylo, double xhi, double yhi, int *box) {
    if (!(xhi > c->cx0 && yhi > c->cy0 && xlo < c->cx1 && ylo < c->cy1)) return 0;
    box[0] = xlo > c->cx0 ? (int)xlo : c->cx0, box[1] = ylo > c->cy0 ? (int)ylo : c->cy0;
    box[2] = xhi + 1 < c->cx1 ? (int)xhi + 1 : c->cx1, box[3] = yhi + 1 < c->cy1 ? (int)yhi + 1 : c->cy1;
    if (box[0] < c->x0) c->x0 = box[0];
    if (box[1] < c->y0) c->y0 = box[1];
    if (box[2] > c->x1) c->x1 = box[2];
    if (box[3] > c->y1) c->y1 = box[3];
    return 1;
}

static void ploti_cover(unsigned char *m, double coverage) {
    int v = coverage >= 1 ? 255 : coverage <= 0 ? 0 : (int)(coverage * 255 + 0.5);
    if (v > *m) *m = (unsigned char)v;
}

// Keeps the part of a segment that can be seen (Liang and Barsky's clipping); 0 if there is none. Far points, which a
// fixed axis range allows, would otherwise cost time and overflow integers.
static int ploti_clip_segment(const ploti_canvas *c, double margin, double *ax, double *ay, double *bx, double *by) {
    double dx = *bx - *ax, dy = *by - *ay, t0 = 0, t1 = 1, p[4], q[4];
    int i;
    p[0] = -dx, p[1] = dx, p[2] = -dy, p[3] = dy;
    q[0] = *ax - (c->cx0 - margin), q[1] = (c->cx1 + margin) - *ax;
    q[2] = *ay - (c->cy0 - margin), q[3] = (c->cy1 + margin) - *ay;
    for (i = 0; i < 4; i++) {
        if (p[i] == 0) { if (q[i] < 0) return 0; }
        else if (p[i] < 0) { if (q[i] / p[i] > t0) t0 = q[i] / p[i]; }
        else if (q[i] / p[i] < t1) t1 = q[i] / p[i];
    }
    if (!(t0 <= t1)) return 0;
    *bx = *ax + t1 * dx, *by = *ay + t1 * dy;
    *ax += t0 * dx, *ay += t0 * dy;
    return 1;
}

// A segment with round ends; a dot if both ends are one point.
static void ploti_stroke(ploti_canvas *c, double ax, double ay, double bx, double by, double radius) {
    int box[4], x, y;
    double dx, dy, length2, reach = radius + 0.5, thin = radius < 0.5 ? 2 * radius : 1;
    if (!(fabs(ax) < 1e15 && fabs(ay) < 1e15 && fabs(bx) < 1e15 && fabs(by) < 1e15)) return;
    if (!ploti_clip_segment(c, reach + 1, &ax, &ay, &bx, &by)) return;
    if (!ploti_window(c, fmin(ax, bx) - reach, fmin(ay, by) - reach, fmax(ax, bx) + reach, fmax(ay, by) + reach, box))
        return;
    dx = bx - ax, dy = by - ay, length2 = dx * dx + dy * dy;
    for (y = box[1]; y < box[3]; y++) {
        double py = y + 0.5 - ay;
        int from = box[0], to = box[2];
        if (fabs(dy) > 1) {                // a long slanted line: only the pixels near it, not its whole bounding box
            double middle = ax + py * dx / dy, half = reach * sqrt(length2) / fabs(dy) + 1;
            if (middle - half > from) from = (int)fmin(middle - half, to);
            if (middle + half + 1 < to) to = (int)fmax(middle + half + 1, from);
        }
        for (x = from; x < to; x++) {
            double px = x + 0.5 - ax, t = length2 > 0 ? (px * dx + py * dy) / length2 : 0, ex, ey;
            t = t < 0 ? 0 : t > 1 ? 1 : t;
            ex = px - t * dx, ey = py - t * dy;
            ploti_cover(&c->mask[(size_t)y * (size_t)c->w + (size_t)x], fmin(reach - sqrt(ex * ex + ey * ey), thin));
        }
    }
}

// A rectangle with rounded corners.
static void ploti_box(ploti_canvas *c, double x0, double y0, double x1, double y1, double corner) {
    int box[4], x, y;
    double mx = (x0 + x1) / 2, my = (y0 + y1) / 2, hx, hy;
    hx = (x1 - x0) / 2 - corner, hy = (y1 - y0) / 2 - corner;
    if (!ploti_window(c, x0 - 1, y0 - 1, x1 + 1, y1 + 1, box)) return;
    for (y = box[1]; y < box[3]; y++) for (x = box[0]; x < box[2]; x++) {
        double ex = fabs(x + 0.5 - mx) - hx, ey = fabs(y + 0.5 - my) - hy, cover;
        if (corner > 0) {
            double ox = ex > 0 ? ex : 0, oy = ey > 0 ? ey : 0;
            cover = 0.5 + corner - sqrt(ox * ox + oy * oy);
        } else cover = fmin(1, fmax(0, 0.5 - ex)) * fmin(1, fmax(0, 0.5 - ey));
        ploti_cover(&c->mask[(size_t)y * (size_t)c->w + (size_t)x], cover);
    }
}

static void ploti_triangle(ploti_canvas *c, const double *p) {
    int box[4], x, y, i;
    double turn = (p[2] - p[0]) * (p[5] - p[1]) - (p[3] - p[1]) * (p[4] - p[0]), side = turn < 0 ? -1 : 1;
    if (!ploti_window(c, fmin(p[0], fmin(p[2], p[4])) - 1, fmin(p[1], fmin(p[3], p[5])) - 1,
                      fmax(p[0], fmax(p[2], p[4])) + 1, fmax(p[1], fmax(p[3], p[5])) + 1, box)) return;
    for (y = box[1]; y < box[3]; y++) for (x = box[0]; x < box[2]; x++) {
        double inside = 1;
        for (i = 0; i < 6; i += 2) {       // the distance to each edge, positive inside
            double ax = p[i], ay = p[i + 1], ex = p[(i + 2) % 6] - ax, ey = p[(i + 3) % 6] - ay,
                   length = sqrt(ex * ex + ey * ey);
            if (length > 0) inside = fmin(inside, 0.5 + side * (ex * (y + 0.5 - ay) - ey * (x + 0.5 - ax)) / length);
        }
        ploti_cover(&c->mask[(size_t)y * (size_t)c->w + (size_t)x], inside);
    }
}

static void ploti_blend(unsigned char *pixel, ploti_color color, double alpha) {
    pixel[0] = (unsigned char)(pixel[0] + (color.r - pixel[0]) * alpha + 0.5);
    pixel[1] = (unsigned char)(pixel[1] + (color.g - pixel[1]) * alpha + 0.5);
    pixel[2] = (unsigned char)(pixel[2] + (color.b - pixel[2]) * alpha + 0.5);
}

// Paints what is in the mask, and empties it.
static void ploti_paint(ploti_canvas *c, ploti_color color, double alpha) {
    int x, y;
    for (y = c->y0; y < c->y1; y++) for (x = c->x0; x < c->x1; x++) {
        size_t i = (size_t)y * (size_t)c->w + (size_t)x;
        if (c->mask[i]) ploti_blend(c->rgb + 3 * i, color, c->mask[i] / 255.0 * alpha), c->mask[i] = 0;
    }
    c->x0 = c->w, c->y0 = c->h, c->x1 = c->y1 = 0;
}

static void ploti_rule(ploti_canvas *c, double ax, double ay, double bx, double by, double width, int hex) {
    ploti_stroke(c, ax, ay, bx, by, width / 2);
    ploti_paint(c, ploti_rgb(hex), 1);
}

// ------------------------------------------------------------------------------------------------ letters
//
// A font of our own, drawn by a pen: strokes with round ends, so one design serves every size, weight and angle.
// The grid: baseline at 0, small letters 50 high, capitals and digits 70, descenders to -21; 100 units are the size
// asked for.
//
//     M x y   lift the pen and go to (x, y)            L x y   a straight line
//     H x y   a quarter of an ellipse that leaves horizontally and arrives vertically;  V x y  the other way round
//     C a b c d x y   a cubic Bezier curve             D x y   a dot
//
// The first two characters are the space to the left and to the right: s beside a stem, r beside a round, d beside a
// diagonal, o where the side is open, w wide, j for the overhang of a j; tt gives every digit the same width, so that
// columns of numbers stand straight.

static const char *const ploti_ascii[95] = {
    /*   */ "ww",
    /* ! */ "ss M0 70 L0 21 D0 0",
    /* " */ "ss M0 72 L0 52 M17 72 L17 52",
    /* # */ "oo M17 68 L9 2 M39 68 L31 2 M2 47 L48 47 M0 23 L46 23",
    /* $ */ "oo M40 54 C37 60 31 64 22 64 C11 64 3 58 3 49 C3 39 12 37 22 34.5 C34 32 43 29 43 19"
            " C43 9 34 4 22 4 C12 4 4 8 1 16 M22 76 L22 -8",
    /* % */ "oo M49 70 L13 0 M13 70 H0 54 V13 38 H26 54 V13 70 M49 32 H36 16 V49 0 H62 16 V49 32",
    /* & */ "rd M54 0 L14 46 C5 57 11 70 24 70 C36 70 40 57 31 48 C26 43 0 37 0 18 V20 0 C35 0 45 13 50 33",
    /* ' */ "ss M0 72 L0 52",
    /* ( */ "so M13 80 C4 66 0 49 0 32 C0 15 4 -2 13 -16",
    /* ) */ "os M0 80 C9 66 13 49 13 32 C13 15 9 -2 0 -16",
    /* * */ "oo M15 72 L15 42 M2 64.5 L28 49.5 M28 64.5 L2 49.5",
    /* + */ "oo M20 54 L20 14 M0 34 L40 34",
    /* , */ "oo D6 0 M6 0 L1 -13",
    /* - */ "oo M0 27 L22 27",
    /* . */ "oo D0 0",
    /* / */ "dd M0 -8 L29 78",
    /* 0 */ "tt M21 70 H0 35 V21 0 H42 35 V21 70",
    /* 1 */ "tt M0 55 L19 70 L19 0 M24 0",
    /* 2 */ "tt M2 53 C4 63 11 70 21 70 C32 70 40 62 40 52 C40 43 35 36 27 28 L0 0 L42 0",
    /* 3 */ "tt M1 57 C5 65 12 70 20 70 C31 70 39 63 39 54 C39 45 31 38 20 38 L15 38 M20 38 C33 38 42 30 42 19"
            " C42 8 33 0 21 0 C11 0 3 5 0 14",
    /* 4 */ "tt M33 0 L33 70 L0 19 L45 19",
    /* 5 */ "tt M38 70 L7 70 L4 37 C9 42 15 44 21 44 C33 44 42 35 42 22 C42 9 33 0 20 0 C11 0 4 4 0 12",
    /* 6 */ "tt M37 62 C34 67 29 70 23 70 C8 70 0 54 0 30 L0 22 V21 0 H42 22 V21 44 C12 44 3 38 0 28",
    /* 7 */ "tt M0 70 L42 70 L16 0",
    /* 8 */ "tt M21 70 H3 54 V21 38 H39 54 V21 70 M21 38 H0 19 V21 0 H42 19 V21 38",
    /* 9 */ "tt M5 8 C8 3 13 0 19 0 C34 0 42 16 42 40 L42 48 V21 70 H0 48 V21 26 C30 26 39 32 42 42",
    /* : */ "oo D0 0 D0 42",
    /* ; */ "oo D6 42 D6 0 M6 0 L1 -13",
    /* < */ "oo M38 55 L0 34 L38 13",
    /* = */ "oo M0 44 L40 44 M0 24 L40 24",
    /* > */ "oo M0 55 L38 34 L0 13",
    /* ? */ "oo M0 55 C2 64 9 70 18 70 C29 70 36 63 36 54 C36 46 31 41 26 37 C21 33 18 29 18 21 D18 0",
    /* @ */ "rr M53 45 L53 22 C53 14 57 10 62 10 C69 10 74 19 74 32 V38 69 H0 28 V37 -13 C46 -13 54 -11 60 -7"
            " M38 45 H22 28 V37 10 H53 28 V38 45",
    /* A */ "dd M0 0 L26 70 L52 0 M8.5 23 L43.5 23",
    /* B */ "sr M0 0 L0 70 L22 70 H39 54 V22 38 L0 38 M22 38 L24 38 H43 19 V24 0 L0 0",
    /* C */ "ro M50 56 C45 65 37 70 28 70 H0 35 V28 0 C37 0 45 5 50 14",
    /* D */ "sr M0 0 L0 70 L20 70 H50 35 V20 0 L0 0",
    /* E */ "so M39 70 L0 70 L0 0 L39 0 M0 37 L34 37",
    /* F */ "so M38 70 L0 70 L0 0 M0 36 L33 36",
    /* G */ "rs M49 58 C44 65 37 70 28 70 H0 35 V28 0 C38 0 46 4 51 11 L51 33 L31 33",
    /* H */ "ss M0 0 L0 70 M48 0 L48 70 M0 37 L48 37",
    /* I */ "ss M0 0 L0 70",
    /* J */ "os M0 12 C3 4 9 0 16 0 H32 17 L32 70",
    /* K */ "sd M0 0 L0 70 M43 70 L0 26 M15 41.3 L45 0",
    /* L */ "so M0 70 L0 0 L37 0",
    /* M */ "ss M0 0 L0 70 L29 22 L58 70 L58 0",
    /* N */ "ss M0 0 L0 70 L48 0 L48 70",
    /* O */ "rr M28.5 70 H0 35 V28.5 0 H57 35 V28.5 70",
    /* P */ "sr M0 0 L0 70 L23 70 H43 50 V23 30 L0 30",
    /* Q */ "rr M28.5 70 H0 35 V28.5 0 H57 35 V28.5 70 M37 17 L56 -5",
    /* R */ "sd M0 0 L0 70 L23 70 H43 51 V23 32 L0 32 M23 32 L45 0",
    /* S */ "rr M42 57 C39 65 32 70 23 70 C11 70 3 63 3 53 C3 42 12 39 23 36 C36 33 45 29 45 18 C45 7 36 0 23 0"
            " C12 0 4 5 0 14",
    /* T */ "dd M0 70 L48 70 M24 70 L24 0",
    /* U */ "ss M0 70 L0 24 V24 0 H48 24 L48 70",
    /* V */ "dd M0 70 L25.5 0 L51 70",
    /* W */ "dd M0 70 L19 0 L38 66 L57 0 L76 70",
    /* X */ "dd M0 0 L45 70 M0 70 L45 0",
    /* Y */ "dd M0 70 L24 32 L48 70 M24 32 L24 0",
    /* Z */ "oo M1 70 L43 70 L0 0 L44 0",
    /* [ */ "so M14 79 L0 79 L0 -15 L14 -15",
    /* \ */ "dd M0 78 L29 -8",
    /* ] */ "os M0 79 L14 79 L14 -15 L0 -15",
    /* ^ */ "oo M0 42 L17 70 L34 42",
    /* _ */ "dd M0 -12 L46 -12",
    /* ` */ "oo M0 73 L11 59",
    /* a */ "rs M3 41 C6 47 13 50 20 50 H37 33 L37 0 M37 29 L18 29 H0 14 V16 0 C26 0 34 5 37 14",
    /* b */ "sr M0 74 L0 0 M0 35 C4 45 12 50 21 50 H42 25 V21 0 C12 0 4 5 0 15",
    /* c */ "ro M37 41 C34 47 28 50 22 50 H0 25 V22 0 C29 0 34 3 38 9",
    /* d */ "rs M42 74 L42 0 M42 35 C38 45 30 50 21 50 H0 25 V21 0 C30 0 38 5 42 15",
    /* e */ "ro M0 27 L42 27 V21.5 50 H0 25 V22 0 C29 0 36 3 40 10",
    /* f */ "oo M28 73.5 C26 74 25 74 23 74 H10 60 L10 0 M0 49 L24 49",
    /* g */ "rs M42 50 L42 -2 V21 -21 C13 -21 7 -18 3 -14 M42 35 C38 45 30 50 21 50 H0 25 V21 0 C30 0 38 5 42 15",
    /* h */ "ss M0 74 L0 0 M0 33 C4 44 11 50 20 50 H37 31 L37 0",
    /* i */ "ss M0 50 L0 0 D0 68",
    /* j */ "js M10 50 L10 -8 V-3 -21 D10 68",
    /* k */ "sd M0 74 L0 0 M34 50 L0 17 M12.5 29 L36 0",
    /* l */ "so M0 74 L0 12 V11 0 L13 0",
    /* m */ "ss M0 50 L0 0 M0 33 C3 44 9 50 17 50 H32 32 L32 0 M32 33 C35 44 41 50 49 50 H64 32 L64 0",
    /* n */ "ss M0 50 L0 0 M0 33 C4 44 11 50 20 50 H37 31 L37 0",
    /* o */ "rr M22 50 H0 25 V22 0 H44 25 V22 50",
    /* p */ "sr M0 50 L0 -21 M0 35 C4 45 12 50 21 50 H42 25 V21 0 C12 0 4 5 0 15",
    /* q */ "rs M42 50 L42 -21 M42 35 C38 45 30 50 21 50 H0 25 V21 0 C30 0 38 5 42 15",
    /* r */ "so M0 50 L0 0 M0 31 C4 43 11 49.5 22 49",
    /* s */ "rr M33 40.5 C30 46.5 25 50 18 50 C8 50 2 45 2 38 C2 30 9 28 18 25.5 C28 23 35 21 35 13"
            " C35 5 28 0 18 0 C10 0 3 3 0 10",
    /* t */ "oo M11 65 L11 13 V23 0 C25 0 27 0.3 29 1 M0 49 L27 49",
    /* u */ "ss M0 50 L0 19 V17 0 C26 0 33 6 37 17 M37 50 L37 0",
    /* v */ "dd M0 50 L19.5 0 L39 50",
    /* w */ "dd M0 50 L15 0 L30 47 L45 0 L60 50",
    /* x */ "dd M0 0 L35 50 M0 50 L36 0",
    /* y */ "dd M0 50 L20.5 1 M40 50 L16.5 -9 C13.5 -17 10 -21 2 -21",
    /* z */ "oo M1 50 L34 50 L0 0 L35 0",
    /* { */ "oo M18 79 C10 79 8 74 8 66 L8 46 C8 38 6 33 0 32 C6 31 8 26 8 18 L8 -2 C8 -10 10 -15 18 -15",
    /* | */ "ss M0 82 L0 -18",
    /* } */ "oo M0 79 C8 79 10 74 10 66 L10 46 C10 38 12 33 18 32 C12 31 10 26 10 18 L10 -2 C10 -10 8 -15 0 -15",
    /* ~ */ "oo M0 28 C3 36 8 39 13 38 C20 36.5 23 29 30 28 C36 27 40 31 43 38",
};

static const struct { int code; const char *path;
} ploti_extra[] = {
    {0x00b0, "oo M10 72 H0 61.5 V10 51 H20 61.5 V10 72"}, // degree
    {0x00b1, "oo M20 60 L20 24 M0 42 L40 42 M0 8 L40 8"}, // plus or minus
    {0x00b2, "oo M1 60 C3 68 8 72 13 72 C20 72 24 68 24 62 C24 56 20 52 15 47 L0 35 L25 35"}, // squared
    {0x00b5, "ss M0 50 L0 -20 M0 19 V17 0 C26 0 33 6 37 17 M37 50 L37 0"}, // micro
    {0x00b7, "oo D0 28"}, // middle dot
    {0x00d7, "oo M0 17 L34 51 M0 51 L34 17"}, // times
    {0x0394, "dd M26 70 L0 0 L52 0 L26 70"}, // Delta
    {0x03a3, "oo M41 70 L0 70 L24 36 L0 0 L42 0"}, // Sigma
    {0x03b1, "rd M42 50 C38 22 32 0 20 0 H0 25 V20 50 C32 50 36 20 46 0"}, // alpha
    {0x03b2, "sr M0 -21 L0 54 V19 74 C29 74 36 68 36 59 C36 49 29 43 16 42 C32 42 42 35 42 22"
             " C42 8 33 0 21 0 C12 0 4 4 0 12"},
    {0x03b3, "dd M0 50 C10 50 13 30 19 8 M40 50 L19 8 C16 0 14 -12 16 -21"}, // gamma
    {0x03b5, "ro M34 42 C30 47 25 50 18 50 C9 50 2 45 2 38 C2 30 9 27 20 27 C8 27 0 21 0 13 C0 5 8 0 18 0"
             " C26 0 32 3 36 9"},
    {0x03b8, "rr M20 74 H0 37 V20 0 H40 37 V20 74 M0 38 L40 38"}, // theta
    {0x03bb, "dd M2 74 C12 74 14 66 17 58 L40 0 M20 49 L0 0"}, // lambda
    {0x03bc, "ss M0 50 L0 -20 M0 19 V17 0 C26 0 33 6 37 17 M37 50 L37 0"}, // mu
    {0x03c0, "dd M0 49 L46 49 M12 49 C12 28 11 14 6 0 M34 49 L34 14 C34 4 37 0 44 1"}, // pi
    {0x03c3, "ro M48 50 L21 50 H0 25 V21 0 H42 25 C42 36 37 45 27 50"}, // sigma
    {0x2013, "oo M0 27 L36 27"},
    {0x2014, "oo M0 27 L64 27"}, // dashes
    {0x2018, "oo M7 74 L1 58 D1 58"},
    {0x2019, "oo D6 70 M6 70 L0 55"}, // single quotes
    {0x201c, "oo M7 74 L1 58 D1 58 M24 74 L18 58 D18 58"},
    {0x201d, "oo D6 70 M6 70 L0 55 D23 70 M23 70 L17 55"},
    {0x2026, "oo D0 0 D22 0 D44 0"}, // ellipsis
    {0x2190, "oo M54 30 L0 30 M18 48 L0 30 L18 12"},
    {0x2192, "oo M0 30 L54 30 M36 48 L54 30 L36 12"}, // arrows
    {0x21b5, "oo M46 60 L46 24 L0 24 M17 41 L0 24 L17 7"}, // new line
    {0x21e5, "oo M0 30 L44 30 M27 47 L44 30 L27 13 M53 50 L53 10"}, // tab
    {0x2207, "dd M26 0 L0 70 L52 70 L26 0"}, // nabla
    {0x2212, "oo M0 34 L36 34"}, // minus
    {0x2248, "oo M0 38 C3 46 8 49 13 48 C20 46.5 23 39 30 38 C36 37 40 41 43 48 M0 17 C3 25 8 28 13 27"
             " C20 25.5 23 18 30 17 C36 16 40 20 43 27"},
    {0x2264, "oo M38 62 L0 42 L38 22 M0 6 L38 6"},
    {0x2265, "oo M0 62 L38 42 L0 22 M0 6 L38 6"}, // at most, at least
    {0x2423, "oo M0 4 L0 -12 L40 -12 L40 4"}, // a space that shows
};

typedef struct ploti_pen { double x, y; int up; } ploti_pen;    // up: 0 draw to here, 1 go here, 2 a dot here

// Reads the next character and moves on; what is not UTF-8 counts as U+FFFD.
static int ploti_decode(const char **text) {
    const unsigned char *s = (const unsigned char *)*text;
    int size = s[0] < 0x80 ? 1 : s[0] < 0xc2 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : s[0] < 0xf5 ? 4 : 0, i, code;
    code = size < 2 ? s[0] : s[0] & (0x7f >> size);
    for (i = 1; i < size; i++) {
        if ((s[i] & 0xc0) != 0x80) { size = 0; break; }
        code = code << 6 | (s[i] & 0x3f);
    }
    *text += size ? size : 1;
    return size ? code : 0xfffd;
}

static const char *ploti_path(int code) {
    size_t i;
    if (code >= 32 && code < 127) return ploti_ascii[code - 32];
    for (i = 0; i < sizeof ploti_extra / sizeof *ploti_extra; i++)
        if (ploti_extra[i].code == code) return ploti_extra[i].path;
    return "oo M0 0 L0 70 L36 70 L36 0 L0 0";                   // a letter that the font lacks
}

// A hyphen before a digit is a minus, and gets the longer sign, unless a letter or digit stands before it.
static int ploti_is_minus(const char *text, const char *at) {
    int before = at > text ? at[-1] : ' ';
    return *at == '-' && at[1] >= '0' && at[1] <= '9' && !(before >= '0' && before <= '9') &&
           !((before | 32) >= 'a' && (before | 32) <= 'z');
}

enum { PLOTI_PENS = 400 };

static int ploti_curve(ploti_pen *pens, int n, double x1, double y1, double x2, double y2, double x3, double y3,
                       int pieces) {
    double x0 = n ? pens[n - 1].x : 0, y0 = n ? pens[n - 1].y : 0;
    int i;
    for (i = 1; i <= pieces && n < PLOTI_PENS; i++) {
        double t = (double)i / pieces, s = 1 - t, a = s * s * s, b = 3 * s * s * t, c = 3 * s * t * t, d = t * t * t;
        pens[n].x = a * x0 + b * x1 + c * x2 + d * x3, pens[n].y = a * y0 + b * y1 + c * y2 + d * y3, pens[n++].up = 0;
    }
    return n;
}

// Turns a path into points of the pen, shifted so that it begins at its left side bearing. *advance: where the next
// letter starts.
static int ploti_letter(const char *path, ploti_pen *pens, double *advance) {
    // 0.552 would be an ellipse; a little more is squarer, and reads better when small.
    static const double round = 0.60;
    double left = 0, right = 0, space[2];
    int n = 0, i;
    const char *p = path + 2;
    while (*p) {
        double v[6];
        char kind = *p++, *end;
        double x = n ? pens[n - 1].x : 0, y = n ? pens[n - 1].y : 0;
        int count = kind == 'C' ? 6 : 2;
        if (kind == ' ') continue;
        for (i = 0; i < count; i++) v[i] = strtod(p, &end), p = end;
        if (kind == 'C') n = ploti_curve(pens, n, v[0], v[1], v[2], v[3], v[4], v[5], 12);
        else if (kind == 'H')
            n = ploti_curve(pens, n, x + round * (v[0] - x), y, v[0], v[1] - round * (v[1] - y), v[0], v[1], 9);
        else if (kind == 'V')
            n = ploti_curve(pens, n, x, y + round * (v[1] - y), v[0] - round * (v[0] - x), v[1], v[0], v[1], 9);
        else if (n < PLOTI_PENS)
            pens[n].x = v[0], pens[n].y = v[1], pens[n++].up = kind == 'M' ? 1 : kind == 'D' ? 2 : 0;
    }
    for (i = 0; i < n; i++) {
        if (i == 0 || pens[i].x < left) left = pens[i].x;
        if (i == 0 || pens[i].x > right) right = pens[i].x;
    }
    for (i = 0; i < 2; i++) switch (path[i]) {
        case 's': space[i] = 10; break;
        case 'r': space[i] = 8; break;
        case 'o': space[i] = 7; break;
        case 'd': space[i] = 5; break;
        case 'w': space[i] = 14; break;
        case 'j': space[i] = -2; break;
        default: space[i] = (57 - (right - left)) / 2;
    }
    for (i = 0; i < n; i++) pens[i].x += space[0] - left;
    *advance = space[0] + right - left + space[1];
    return n;
}

// Measures a text, and draws it into the mask if there is a canvas. (x, y) is the left end of the baseline; angle in
// radians, against the clock. Between \1 and \2 letters are small and raised, as exponents are.
static double ploti_letters(ploti_canvas *c, const char *text, double x, double y, double size, double angle,
                            double radius) {
    ploti_pen pens[PLOTI_PENS];
    double at = 0, ca = cos(angle), sa = sin(angle), k = size / 100, lift = 0, thick = radius, px = 0, py = 0;
    const char *start = text;
    while (*text) {
        int minus = ploti_is_minus(start, text), code = minus ? (text++, 0x2212) : ploti_decode(&text), n, i;
        double advance;
        if (code == 1) { k = size / 100 * 0.7, lift = 0.36 * size, thick = radius * 0.85; continue; }
        if (code == 2) { k = size / 100, lift = 0, thick = radius; continue; }
        n = ploti_letter(ploti_path(code), pens, &advance);
        for (i = 0; c && i < n; i++) {
            double gx = at + k * pens[i].x, gy = lift + k * pens[i].y;
            double qx = x + gx * ca - gy * sa, qy = y - gx * sa - gy * ca;
            if (pens[i].up == 2) ploti_stroke(c, qx, qy, qx, qy, thick * 1.3);
            else if (!pens[i].up) ploti_stroke(c, px, py, qx, qy, thick);
            px = qx, py = qy;
        }
        at += k * (advance + 1) + 0.3 * radius;                 // heavier letters stand wider apart
    }
    return at;
}

static double ploti_width(const char *text, double size) {
    return ploti_letters(NULL, text, 0, 0, size, 0, size * 0.042);
}

enum { PLOTI_LEFT = 0, PLOTI_MIDDLE = 1, PLOTI_RIGHT = 2, PLOTI_BOLD = 4, PLOTI_HALO = 8 };

// anchor: which part of the baseline (x, y) is; PLOTI_HALO puts a white rim around the letters, for text over curves.
static void ploti_text(ploti_canvas *c, const char *text, double x, double y, double size, double angle, int how,
                       int hex) {
    double radius = fmax(0.55, size * (how & PLOTI_BOLD ? 0.062 : 0.042)),
           width = ploti_letters(NULL, text, 0, 0, size, 0, radius);
    double back = (how & 3) == PLOTI_MIDDLE ? width / 2 : (how & 3) == PLOTI_RIGHT ? width : 0;
    x -= back * cos(angle), y += back * sin(angle);
    if (how & PLOTI_HALO)
        ploti_letters(c, text, x, y, size, angle, radius + size * 0.11), ploti_paint(c, ploti_rgb(0xffffff), 0.85);
    ploti_letters(c, text, x, y, size, angle, radius);
    ploti_paint(c, ploti_rgb(hex), 1);
}

// Copies a text, shortened with an ellipsis if it is wider than room. visible: spaces at the ends and line ends are
// shown by signs, so that the tokens " a" and "a" differ on an axis.
static const char *ploti_fit(const char *text, double size, double room, int visible, char *out) {
    const char *s = text, *last = text + strlen(text);
    char *o = out;
    while (last > text && last[-1] == ' ') last--;
    while (*s && o < out + PLOTI_TEXT - 8) {
        const char *start = s, *sign = NULL;
        int code = ploti_decode(&s);
        if (code == '\n') sign = "\xe2\x86\xb5";
        else if (code == '\t') sign = "\xe2\x87\xa5";
        else if (visible && code == ' ' && (start >= last || strspn(text, " ") > (size_t)(start - text)))
            sign = "\xe2\x90\xa3";
        if (sign) strcpy(o, sign), o += 3;
        else if (code >= 32 || code == 1 || code == 2) while (start < s) *o++ = *start++;
        *o = 0;
        if (ploti_width(out, size) > room) {
            while (o > out && ploti_width(out, size) + size * 0.6 > room) {
                do o--; while (o > out && ((unsigned char)*o & 0xc0) == 0x80);
                *o = 0;
            }
            strcpy(o, "\xe2\x80\xa6");
            return out;
        }
    }
    *o = 0;
    return out;
}

// ------------------------------------------------------------------------------------------------ what a plot holds

enum { PLOTI_LINE, PLOTI_SMOOTH, PLOTI_SCATTER, PLOTI_BAND, PLOTI_BARS, PLOTI_HLINE, PLOTI_VLINE, PLOTI_NOTE };

typedef struct ploti_series {
    int kind, color, dashed, dots;
    char *name;                            // NULL: not in the legend
    double *x, *y, *z;                     // (n); z is the upper edge of a band, the smoothed y, or NULL
    size_t n;
} ploti_series;

typedef struct ploti_axis {
    double lo, hi;                         // in data units; in logarithms to base 10 if log is set
    int log, fixed, whole;                 // whole: all data are whole numbers (steps), and so are the ticks
    double from, to;                       // in pixels: where lo and hi are
} ploti_axis;

typedef struct ploti_node {
    char *label, *op;
    int rank, order, bend;                 // bend: it only guides a long edge past a layer
    double at, along, across; // across the layers: its middle and its size; along: its size from layer to layer
    double wanted, box, circle;            // the length of the box and the diameter of the circle, 0 if it has none
} ploti_node;

typedef struct ploti_edge { int from, to; } ploti_edge;

enum { PLOTI_BUSY_X = 128, PLOTI_BUSY_Y = 80 };

struct plot {
    char *title, *subtitle, *xlabel, *ylabel, *heat_label;     // heat_label: NULL if there is none
    int w, h, sized, series_used, colors_used, equal, down, failed;
    ploti_series series[PLOT_SERIES];
    ploti_axis x, y;
    char **labels, **row_labels;           // of bars and of the columns of a heat map; of its rows
    size_t label_count, rows;              // label_count is the number of groups of bars or of columns
    double *cells, heat_lo, heat_hi;
    int heat_fixed, has_bars;
    char values[24];                       // the format of numbers on bars and cells, empty for none
    plot_score score;
    plot_class class_of;
    void *user;
    int classes;
    ploti_node *nodes;
    ploti_edge *edges;
    int node_count, edge_count, node_room, edge_room;
    double scale;                          // all sizes of letters and lines are for 1600 x 1000 and grow with it
    double left, top, right, bottom;       // the rectangle of the data
    unsigned char busy[PLOTI_BUSY_Y][PLOTI_BUSY_X];             // where in that rectangle data are, coarsely
    char error[200];
};

PLOT_FN const char *plot_error(const plot *p) { return p ? p->error : "out of memory"; }

#if defined(__MINGW_PRINTF_FORMAT)
__attribute__((format(__MINGW_PRINTF_FORMAT, 2, 3)))
#elif defined(__GNUC__) || defined(__clang__)
__attribute__((format(printf, 2, 3)))
#endif
PLOT_FN int ploti_fail(plot *p, const char *format, ...) {
    va_list args;
    if (!p || p->failed) return -1;
    p->failed = 1;
    va_start(args, format);
    vsnprintf(p->error, sizeof p->error, format, args);
    va_end(args);
    return -1;
}

// No label needs more than PLOTI_TEXT bytes; what is longer is cut at a whole character.
static char *ploti_copy(plot *p, const char *text) {
    size_t n = strlen(text);
    char *copy;
    if (n > PLOTI_TEXT) {
        n = PLOTI_TEXT;
        while (n && ((unsigned char)text[n] & 0xc0) == 0x80) n--;
    }
    copy = (char *)malloc(n + 1);
    if (!copy) { ploti_fail(p, "out of memory"); return NULL; }
    memcpy(copy, text, n), copy[n] = 0;
    return copy;
}

static double *ploti_copy_doubles(plot *p, const double *v, size_t n) {
    double *copy = n <= ((size_t)-1) / sizeof(double) - 1 ? (double *)malloc((n + 1) * sizeof(double)) : NULL;
    size_t i;
    if (!copy) { ploti_fail(p, "out of memory"); return NULL; }
    for (i = 0; i < n; i++) copy[i] = v ? v[i] : (double)i;
    return copy;
}

// Title and labels of the axes; any may be NULL or "". NULL only when there is no memory, and all calls accept that.
PLOT_FN plot *plot_new(const char *title, const char *xlabel, const char *ylabel) {
    plot *p = (plot *)calloc(1, sizeof *p);
    if (!p) return NULL;
    p->w = 1600, p->h = 1000;
    p->title = ploti_copy(p, title ? title : "");
    p->xlabel = ploti_copy(p, xlabel ? xlabel : "");
    p->ylabel = ploti_copy(p, ylabel ? ylabel : "");
    p->subtitle = ploti_copy(p, "");
    if (p->title && p->xlabel && p->ylabel && p->subtitle) return p;
    free(p->title), free(p->xlabel), free(p->ylabel), free(p->subtitle), free(p);
    return NULL;
}

static void ploti_free_labels(char **labels, size_t n) {
    size_t i;
    for (i = 0; labels && i < n; i++) free(labels[i]);
    free(labels);
}

PLOT_FN void plot_free(plot *p) {
    int i;
    if (!p) return;
    for (i = 0; i < p->series_used; i++)
        free(p->series[i].name), free(p->series[i].x), free(p->series[i].y), free(p->series[i].z);
    for (i = 0; i < p->node_count; i++) free(p->nodes[i].label), free(p->nodes[i].op);
    ploti_free_labels(p->labels, p->label_count), ploti_free_labels(p->row_labels, p->rows);
    free(p->nodes), free(p->edges), free(p->cells);
    free(p->title), free(p->subtitle), free(p->xlabel), free(p->ylabel), free(p->heat_label), free(p);
}

// ------------------------------------------------------------------------------------------------ what it is about

static ploti_series *ploti_add(plot *p, int kind, const char *name, const double *x, const double *y, size_t n) {
    ploti_series *s;
    if (!p || p->failed) return NULL;
    if (p->series_used == PLOT_SERIES) {
        ploti_fail(p, "a plot holds %d series, this is one more", (int)PLOT_SERIES);
        return NULL;
    }
    if (n && !y) { ploti_fail(p, "series %s: the values are NULL", name ? name : "without a name"); return NULL; }
    s = &p->series[p->series_used];
    memset(s, 0, sizeof *s);
    s->kind = kind, s->n = n;
    s->x = ploti_copy_doubles(p, x, n), s->y = ploti_copy_doubles(p, y, n);
    if (name && *name) s->name = ploti_copy(p, name);
    p->series_used++;                      // from here plot_free takes care of it
    if (kind == PLOTI_LINE || kind == PLOTI_SMOOTH || kind == PLOTI_SCATTER || kind == PLOTI_BARS)
        s->color = p->colors_used++;
    return p->failed ? NULL : s;
}

PLOT_FN int plot_line(plot *p, const char *name, const double *xs, const double *ys, size_t n) {
    return ploti_add(p, PLOTI_LINE, name, xs, ys, n) ? 0 : -1;
}

PLOT_FN int plot_scatter(plot *p, const char *name, const double *xs, const double *ys, size_t n) {
    return ploti_add(p, PLOTI_SCATTER, name, xs, ys, n) ? 0 : -1;
}

// weight, from 0 to below 1: a point d places away counts weight^d, so 0.9 averages over about ten points on either
// side. From the left alone the average would lag behind a falling loss. Where points are missing on the left, as many
// are left out on the right: a loss falls fastest at its beginning, and with more points from there the line would
// start far below the first value; so it starts at it. At the end the left stays whole: what is read there is how far
// training has come, and the last point alone is too noisy for that.
PLOT_FN int plot_smooth(plot *p, const char *name, const double *xs, const double *ys, size_t n, double weight) {
    ploti_series *s;
    size_t i, first = 0, most;
    if (p && !(weight >= 0 && weight < 1))
        return ploti_fail(p, "plot_smooth: the weight is %g; it must be at least 0 and below 1", weight);
    s = ploti_add(p, PLOTI_SMOOTH, name, xs, ys, n);
    if (!s || !(s->z = ploti_copy_doubles(p, ys, n))) return -1;
    while (first < n && !(fabs(ys[first]) <= 1e300)) first++;
    most = (size_t)fmin((double)n, ceil(log(1e-3) / log(weight)));      // beyond it points count less than a thousandth
    for (i = first; i < n; i++) {
        size_t reach = i - first < most ? i - first : most, d;
        double w = 1, sum = ys[i], mass = 1;
        if (!(fabs(ys[i]) <= 1e300)) continue;                 // gaps stay gaps, and do not spoil the average
        for (d = 1; d <= reach; d++) {
            w *= weight;
            if (fabs(ys[i - d]) <= 1e300) sum += w * ys[i - d], mass += w;
            if (d < n - i && fabs(ys[i + d]) <= 1e300) sum += w * ys[i + d], mass += w;
        }
        s->z[i] = sum / mass;
    }
    return 0;
}

// The band takes the colour of the series before it (the first colour if there is none), and lies behind all lines.
PLOT_FN int plot_band(plot *p, const double *xs, const double *low, const double *high, size_t n) {
    ploti_series *s;
    if (p && n && !high) return ploti_fail(p, "plot_band: the upper edge is NULL");
    s = ploti_add(p, PLOTI_BAND, NULL, xs, low, n);
    if (!s || !(s->z = ploti_copy_doubles(p, high, n))) return -1;
    s->color = p->colors_used ? p->colors_used - 1 : 0;
    return 0;
}

static int ploti_reference(plot *p, int kind, double x, double y, const char *text) {
    return ploti_add(p, kind, text, &x, &y, 1) ? 0 : -1;
}

PLOT_FN int plot_hline(plot *p, double y, const char *text) { return ploti_reference(p, PLOTI_HLINE, 0, y, text); }
PLOT_FN int plot_vline(plot *p, double x, const char *text) { return ploti_reference(p, PLOTI_VLINE, x, 0, text); }
PLOT_FN int plot_note(plot *p, double x, double y, const char *text) {
    return ploti_reference(p, PLOTI_NOTE, x, y, text);
}

static char **ploti_copy_labels(plot *p, const char *const *labels, size_t n) {
    char **copy = (char **)calloc(n + 1, sizeof *copy);
    size_t i;
    if (!copy) { ploti_fail(p, "out of memory"); return NULL; }
    for (i = 0; i < n; i++) {
        copy[i] = ploti_copy(p, labels[i] ? labels[i] : "");
        if (!copy[i]) { ploti_free_labels(copy, i); return NULL; }
    }
    return copy;
}

// The labels of the first call count; later calls need the same n, and may pass NULL.
PLOT_FN int plot_bars(plot *p, const char *name, const char *const *labels, const double *values, size_t n) {
    if (!p) return -1;
    if (p->has_bars && n != p->label_count)
        return ploti_fail(p, "plot_bars: %d bars after %d", (int)n, (int)p->label_count);
    if (p->cells) return ploti_fail(p, "plot_bars: this plot is a heat map already");
    if (!ploti_add(p, PLOTI_BARS, name, NULL, values, n)) return -1;
    if (!p->labels && labels && !(p->labels = ploti_copy_labels(p, labels, n))) return -1;
    p->has_bars = 1, p->label_count = n;
    return 0;
}

// values: (rows, columns), row 0 on top. NaN and infinities are drawn grey, as the masked part of attention.
PLOT_FN int plot_heat(plot *p, const float *values, int rows, int columns, const char *const *row_labels,
                      const char *const *column_labels) {
    size_t i, n;
    if (!p) return -1;
    if (rows < 1 || columns < 1 || rows > PLOT_SIDE || columns > PLOT_SIDE || !values)
        return ploti_fail(p, "plot_heat: %d rows and %d columns; both must be from 1 to %d", rows, columns,
                          (int)PLOT_SIDE);
    if (p->cells || p->has_bars) return ploti_fail(p, "plot_heat: this plot has a heat map or bars already");
    n = (size_t)rows * (size_t)columns;
    p->cells = (double *)malloc(n * sizeof(double));
    if (!p->cells) return ploti_fail(p, "out of memory");
    for (i = 0; i < n; i++) p->cells[i] = values[i];
    p->rows = (size_t)rows, p->label_count = (size_t)columns;
    if (row_labels && !(p->row_labels = ploti_copy_labels(p, row_labels, p->rows))) return -1;
    if (column_labels && !(p->labels = ploti_copy_labels(p, column_labels, p->label_count))) return -1;
    return 0;
}

// The functions are called by plot_save: a score 16,000 times, a class some 50,000 times.
PLOT_FN int plot_region(plot *p, plot_score score, void *user) {
    if (!p) return -1;
    p->score = score, p->user = user;
    return 0;
}

PLOT_FN int plot_classes(plot *p, plot_class class_of, void *user, int k) {
    if (!p) return -1;
    if (k < 1 || k > 8) return ploti_fail(p, "plot_classes: %d classes; there are colours for 1 to 8", k);
    p->class_of = class_of, p->user = user, p->classes = k;
    return 0;
}

// label: cells separated by bars, or NULL for a node that is only its op; op: a short text in a circle, or NULL.
PLOT_FN int plot_node(plot *p, const char *label, const char *op) {
    ploti_node *node;
    if (!p || p->failed) return -1;
    if (p->node_count == p->node_room) {
        int room = p->node_room ? 2 * p->node_room : 32;
        ploti_node *larger = room <= 2048 ? (ploti_node *)realloc(p->nodes, (size_t)room * sizeof *larger) : NULL;
        if (!larger) return ploti_fail(p, room > 2048 ? "a graph holds 2,048 nodes" : "out of memory");
        p->nodes = larger, p->node_room = room;
    }
    node = &p->nodes[p->node_count];
    memset(node, 0, sizeof *node);
    if (label && !(node->label = ploti_copy(p, label))) return -1;
    if (op && !(node->op = ploti_copy(p, op))) { free(node->label); return -1; }
    return p->node_count++;
}

PLOT_FN int plot_edge(plot *p, int from, int to) {
    if (!p || p->failed) return -1;
    if (from < 0 || to < 0 || from >= p->node_count || to >= p->node_count || from == to)
        return ploti_fail(p, "plot_edge: from %d to %d, but nodes are numbered 0 to %d", from, to, p->node_count - 1);
    if (p->edge_count == p->edge_room) {
        int room = p->edge_room ? 2 * p->edge_room : 64;
        ploti_edge *larger = room <= 8192 ? (ploti_edge *)realloc(p->edges, (size_t)room * sizeof *larger) : NULL;
        if (!larger) return ploti_fail(p, room > 8192 ? "a graph holds 8,192 edges" : "out of memory");
        p->edges = larger, p->edge_room = room;
    }
    p->edges[p->edge_count].from = from, p->edges[p->edge_count++].to = to;
    return 0;
}

// ------------------------------------------------------------------------------------------------ and how

PLOT_FN int plot_size(plot *p, int width, int height) {
    if (!p) return -1;
    if (width < 100 || height < 100 || width > PLOT_SIDE || height > PLOT_SIDE ||
        (long long)width * height > PLOTI_PIXELS)
        return ploti_fail(p, "plot_size: %d x %d pixels; a side has 100 to %d, the picture at most %d", width, height,
                          (int)PLOT_SIDE, (int)PLOTI_PIXELS);
    p->w = width, p->h = height, p->sized = 1;
    return 0;
}

PLOT_FN int plot_subtitle(plot *p, const char *text) {
    char *copy = p ? ploti_copy(p, text ? text : "") : NULL;
    if (!copy) return -1;
    free(p->subtitle);
    p->subtitle = copy;
    return 0;
}

PLOT_FN int plot_log_x(plot *p) { return p ? p->x.log = 1, 0 : -1; }
PLOT_FN int plot_log_y(plot *p) { return p ? p->y.log = 1, 0 : -1; }
PLOT_FN int plot_equal(plot *p) { return p ? p->equal = 1, 0 : -1; }
PLOT_FN int plot_down(plot *p) { return p ? p->down = 1, 0 : -1; }

static int ploti_range(plot *p, ploti_axis *axis, double lo, double hi) {
    if (!(lo < hi && fabs(lo) <= 1e300 && fabs(hi) <= 1e300))
        return ploti_fail(p, "an axis cannot go from %g to %g", lo, hi);
    axis->lo = lo, axis->hi = hi, axis->fixed = 1;
    return 0;
}

PLOT_FN int plot_range_x(plot *p, double lo, double hi) { return p ? ploti_range(p, &p->x, lo, hi) : -1; }
PLOT_FN int plot_range_y(plot *p, double lo, double hi) { return p ? ploti_range(p, &p->y, lo, hi) : -1; }

PLOT_FN int plot_heat_label(plot *p, const char *text) {
    char *copy = p ? ploti_copy(p, text ? text : "") : NULL;
    if (!copy) return -1;
    free(p->heat_label);
    p->heat_label = copy;
    return 0;
}

PLOT_FN int plot_heat_range(plot *p, double lo, double hi) {
    if (!p) return -1;
    if (!(lo < hi && fabs(lo) <= 1e300 && fabs(hi) <= 1e300))
        return ploti_fail(p, "plot_heat_range: from %g to %g", lo, hi);
    p->heat_lo = lo, p->heat_hi = hi, p->heat_fixed = 1;
    return 0;
}

// format: printf's, for one double, such as "%.2f" or "%.0f %%". Anything else would read arguments that are not there.
PLOT_FN int plot_values(plot *p, const char *format) {
    const char *f = format;
    int numbers = 0;
    if (!p) return -1;
    for (; f && *f; f++) if (*f == '%') {
        if (*++f == '%') continue;
        f += strspn(f, "-+ #0123456789.");
        if (!*f || !strchr("feEgG", *f) || numbers++) break;
    }
    if (!f || *f || numbers != 1 || strlen(format) >= sizeof p->values)
        return ploti_fail(p, "plot_values: \"%s\" is not a format for one double, such as \"%%.2f\"",
                          format ? format : "NULL");
    strcpy(p->values, format);
    return 0;
}

static ploti_series *ploti_last(plot *p) { return p && p->series_used ? &p->series[p->series_used - 1] : NULL; }

PLOT_FN int plot_color(plot *p, int color) {
    if (!ploti_last(p)) return -1;
    ploti_last(p)->color = color & 7;
    return 0;
}

PLOT_FN int plot_dashed(plot *p) { return ploti_last(p) ? ploti_last(p)->dashed = 1, 0 : -1; }
PLOT_FN int plot_dots(plot *p) { return ploti_last(p) ? ploti_last(p)->dots = 1, 0 : -1; }

// One cell of a csv row, without its quotes; returns where the next cell begins, or NULL at the end of the row.
static const char *ploti_cell(const char *s, char *out, size_t room) {
    size_t n = 0;
    int quoted = *s == '"';
    if (quoted) s++;
    while (*s && (quoted ? *s != '"' || s[1] == '"' : *s != ',' && *s != '\n' && *s != '\r')) {
        if (quoted && *s == '"') s++;
        if (n + 1 < room) out[n++] = *s;
        s++;
    }
    out[n] = 0;
    if (quoted && *s == '"') s++;
    return *s == ',' ? s + 1 : NULL;
}

// Draws two columns of a csv file with a header row, such as the log of a training run, against each other.
PLOT_FN int plot_csv(plot *p, const char *name, const char *path, const char *x_column, const char *y_column) {
    char row[4096], cell[256];
    double *xs = NULL, *ys = NULL;
    size_t n = 0, room = 0;
    int line = 0, xc = -1, yc = -1, c, status;
    FILE *f;
    if (!p) return -1;
    f = fopen(path, "rb");
    if (!f) return ploti_fail(p, "plot_csv: cannot open %s: %s", path, strerror(errno));
    while (!p->failed && fgets(row, sizeof row, f)) {
        const char *s = row;
        double x = NAN, y = NAN;
        for (c = 0; s; c++) {
            char *end;
            s = ploti_cell(s, cell, sizeof cell);
            if (!line) {
                if (!strcmp(cell, x_column)) xc = c;
                if (!strcmp(cell, y_column)) yc = c;
            } else if (c == xc || c == yc) {
                double v = strtod(cell, &end);
                if (end == cell) v = NAN;
                if (c == xc) x = v;
                if (c == yc) y = v;
            }
        }
        if (!line++ && (xc < 0 || yc < 0))
            ploti_fail(p, "plot_csv: %s has no column %s", path, xc < 0 ? x_column : y_column);
        if (x != x || y != y) continue;
        if (n == room) {
            double *larger;
            room = room ? 2 * room : 256;
            if (!(larger = (double *)realloc(xs, room * sizeof *xs))) { ploti_fail(p, "out of memory"); break; }
            xs = larger;
            if (!(larger = (double *)realloc(ys, room * sizeof *ys))) { ploti_fail(p, "out of memory"); break; }
            ys = larger;
        }
        xs[n] = x, ys[n++] = y;
    }
    fclose(f);
    if (!line) ploti_fail(p, "plot_csv: %s is empty", path);
    if (!n) status = p->failed || plot_line(p, name, &p->scale, &p->scale, 0) ? -1 : 0;
    else status = p->failed ? -1 : n > 500 ? plot_smooth(p, name, xs, ys, n, 0.95) : plot_line(p, name, xs, ys, n);
    free(xs), free(ys);
    return status;
}

// ------------------------------------------------------------------------------------------------ axes

static int ploti_usable(double v) { return fabs(v) <= 1e300; }          // false for NaN too

// A value as the axis counts, NaN where it cannot be shown.
static double ploti_value(const ploti_axis *a, double v) {
    if (!ploti_usable(v) || (a->log && v <= 0)) return NAN;
    return a->log ? log10(v) : v;
}

// Far points are pulled to a billion pixels, where no difference can be seen and no integer overflows.
static double ploti_pixel(const ploti_axis *a, double v) {
    double t = (ploti_value(a, v) - a->lo) / (a->hi - a->lo), at = a->from + t * (a->to - a->from);
    return at > 1e9 ? 1e9 : at < -1e9 ? -1e9 : at;
}

static void ploti_extend(const ploti_axis *a, double v, double *lo, double *hi) {
    v = ploti_value(a, v);
    if (v < *lo) *lo = v;
    if (v > *hi) *hi = v;
}

// A range with some room around it; a range of one value, or of none, gets a width.
static void ploti_fit_axis(ploti_axis *a, double lo, double hi, double below, double above) {
    double size, span;
    if (lo > hi) lo = 0, hi = 1;
    size = fmax(fabs(lo), fabs(hi)), span = hi - lo;
    if (!(span > 1e-9 * size && span > 1e-290)) {
        span = a->log ? 1 : size > 1e-290 ? size * 0.2 : 1;
        lo -= span / 2, hi += span / 2;
    } else lo -= span * below, hi += span * above;
    a->lo = lo, a->hi = hi;
}

static int ploti_fit_axes(plot *p) {
    double xlo = 1e308, xhi = -1e308, ylo = 1e308, yhi = -1e308, side = 0.02;
    int i, bars = 0, spots = 0;
    size_t k;
    p->x.whole = 1;
    for (i = 0; i < p->series_used; i++) {
        const ploti_series *s = &p->series[i];
        for (k = 0; k < s->n; k++) {
            double x = ploti_value(&p->x, s->x[k]);
            if (s->kind != PLOTI_HLINE && s->kind != PLOTI_BARS && s->x[k] != floor(s->x[k])) p->x.whole = 0;
            if (s->kind == PLOTI_HLINE) { ploti_extend(&p->y, s->y[k], &ylo, &yhi); continue; }
            if (s->kind == PLOTI_VLINE) { ploti_extend(&p->x, s->x[k], &xlo, &xhi); continue; }
            if (s->kind != PLOTI_BARS) {
                if (x != x || (p->x.fixed && !(s->x[k] >= p->x.lo && s->x[k] <= p->x.hi)))
                    continue; // what is not shown does not count
                if (ploti_value(&p->y, s->y[k]) == ploti_value(&p->y, s->y[k]))
                    ploti_extend(&p->x, s->x[k], &xlo, &xhi);
            } else bars = 1;
            ploti_extend(&p->y, s->y[k], &ylo, &yhi);
            if (s->z) ploti_extend(&p->y, s->z[k], &ylo, &yhi);
        }
        if (s->kind == PLOTI_SCATTER) side = 0.05;
        spots += s->kind == PLOTI_NOTE;
    }
    if (spots && spots == p->series_used) side = 0.05;       // notes alone are points, too
    if (p->score || p->class_of) {
        if (xlo > xhi) xlo = ylo = -1, xhi = yhi = 1;
        side = 0.12;
    }
    if (bars && !p->y.log) ylo = fmin(ylo, 0), yhi = fmax(yhi, 0);
    if (!p->x.fixed) {
        if (bars) p->x.log = 0, p->x.lo = -0.5, p->x.hi = (double)p->label_count - 0.5;
        else ploti_fit_axis(&p->x, xlo, xhi, side > 0.02 ? side : 0, side);
        if (bars && p->label_count == 0) p->x.hi = 0.5;
    }
    if (!p->y.fixed)
        ploti_fit_axis(&p->y, ylo, yhi, bars && ylo >= 0 ? 0 : fmax(side, 0.04),
                       bars && yhi <= 0 ? 0 : fmax(side, 0.06));
    for (i = 0; i < 2; i++) {
        ploti_axis *a = i ? &p->y : &p->x;
        if (!a->fixed || !a->log) continue;
        if (a->lo <= 0) return ploti_fail(p, "a logarithmic axis cannot start at %g", a->lo);
        a->lo = log10(a->lo), a->hi = log10(a->hi);
    }
    return 0;
}

// ---- ticks: round numbers, at most as many as there is room for

enum { PLOTI_TICKS = 40 };

typedef struct ploti_ticks {
    int n, small_n;
    double at[PLOTI_TICKS], small_at[120];                     // in the axis' own units; the small ones have no text
    char text[PLOTI_TICKS][32];
} ploti_ticks;

static double ploti_step(double span, int most) {
    static const double nice[4] = {1, 2, 2.5, 5};
    double power = pow(10, floor(log10(span / most)) - 1);
    int i;
    for (;; power *= 10)
        for (i = 0; i < 4; i++) if (span / (nice[i] * power) <= most) return nice[i] * power;
}

static void ploti_raise(int exponent, char *out, size_t room) {
    if (exponent < 0) snprintf(out, room, "10\1\xe2\x88\x92%d\2", -exponent);
    else snprintf(out, room, "10\1%d\2", exponent);
}

// Puts commas between the thousands of the first number in a text.
static void ploti_thousands(char *text, size_t room) {
    char *digits = text + strcspn(text, "0123456789");
    size_t whole = strspn(digits, "0123456789"), length = strlen(text);
    for (; whole > 3 && length + 1 < room; whole -= 3, length++) {
        char *at = digits + whole - 3;
        memmove(at + 1, at, strlen(at) + 1), *at = ',';
    }
}

// What stands on a bar or in a cell.
static void ploti_value_text(const plot *p, double value, char *text) {        // PLOTI_TEXT bytes
    snprintf(text, PLOTI_TEXT, p->values, value), ploti_thousands(text, PLOTI_TEXT);
}

// Writes x for an axis whose ticks are step apart: as many decimals as the step has, thousands apart, a real minus
// sign.
static void ploti_number(double x, double step, double largest, char *out, size_t room) {
    char digits[48], *o = out;
    int decimals, power = 0;
    double scaled;
    if (fabs(x) < step * 1e-6) x = 0;
    if (largest >= 1e7 || largest < 1e-4) power = (int)floor(log10(largest) + 1e-9);
    scaled = step / pow(10, power);
    decimals = scaled >= 1 - 1e-9 ? 0 : (int)ceil(-log10(scaled) - 1e-9);
    if (decimals > 12) decimals = 12;
    if (fabs(scaled * pow(10, decimals) - floor(scaled * pow(10, decimals) + 0.5)) > 1e-3) decimals++; // steps of 2.5
    snprintf(digits, sizeof digits, "%.*f", decimals, fabs(x) / pow(10, power));
    ploti_thousands(digits, sizeof digits);
    if (x < 0) memcpy(o, "\xe2\x88\x92", 3), o += 3;
    o += sprintf(o, "%.*s", (int)(room - 12) - (int)(o - out), digits);         // the rest is for the power of ten
    if (!power || x == 0) return;
    memcpy(o, "\xc3\x97", 2), o += 2;
    ploti_raise(power, o, room - (size_t)(o - out));
}

static void ploti_make_ticks(const ploti_axis *a, int most, ploti_ticks *t) {
    double span = a->hi - a->lo;
    int i, k;
    memset(t, 0, sizeof *t);
    if (most < 2) most = 2;
    if (most > 20) most = 20;
    if (a->log && span >= 0.6 && span < 1e4) {
        static const int all[1] = {1}, some[3] = {1, 2, 5};
        const int *mantissa = span < 1.8 && most >= 4 ? some : all;
        int mantissas = mantissa == some ? 3 : 1, first = (int)ceil(a->lo - 1e-9), last = (int)floor(a->hi + 1e-9);
        int stride = 1 + (last - first) / most, plain = a->lo > -3.5 && a->hi < 5.5;
        for (i = first - 1; i <= last; i++) {
            for (k = 0; k < mantissas; k++) {
                double at = i + log10(mantissa[k]);
                if (at < a->lo - 1e-9 || at > a->hi + 1e-9 || ((i % stride) + stride) % stride || t->n == PLOTI_TICKS)
                    continue;
                t->at[t->n] = at;
                if (plain || mantissas > 1)
                    ploti_number(pow(10, at), pow(10, i), pow(10, at), t->text[t->n++], sizeof t->text[0]);
                else ploti_raise(i, t->text[t->n++], sizeof t->text[0]);
            }
            for (k = 2; k < 10 && stride == 1 && span < 8; k++)
                if (i + log10(k) > a->lo && i + log10(k) < a->hi && t->small_n < 120)
                    t->small_at[t->small_n++] = i + log10(k);
        }
        if (t->n >= 2) return;
        t->n = 0;
    }
    {   // equal steps; a logarithmic axis that spans less than a decade gets equal steps of the numbers themselves
        double lo = a->log ? pow(10, a->lo) : a->lo, hi = a->log ? pow(10, a->hi) : a->hi, step, first, largest;
        if (!ploti_usable(lo) || !ploti_usable(hi) || !(hi - lo > 0)) return;
        step = ploti_step(hi - lo, most);
        while (a->whole && step != floor(step) && most > 1) step = ploti_step(hi - lo, --most);
        if (a->whole && step < 1) step = 1;
        first = ceil(lo / step - 1e-9), largest = fmax(fabs(lo), fabs(hi));
        for (i = 0; i < PLOTI_TICKS && (first + i) * step <= hi + 1e-9 * step; i++) {
            double v = (first + i) * step;
            if (a->log && v <= 0) continue;
            t->at[t->n] = a->log ? log10(v) : v;
            ploti_number(v, step, largest, t->text[t->n++], sizeof t->text[0]);
        }
    }
}

static double ploti_tick_pixel(const ploti_axis *a, double at) {
    return a->from + (at - a->lo) / (a->hi - a->lo) * (a->to - a->from);
}

static double ploti_widest(const ploti_ticks *t, double size) {
    double widest = 0;
    int i;
    for (i = 0; i < t->n; i++) widest = fmax(widest, ploti_width(t->text[i], size));
    return widest;
}

// ------------------------------------------------------------------------------------------------ drawing data

// Which cells of the coarse grid a point or a rectangle of pixels touches.
static void ploti_occupy(plot *p, double x, double y) {
    double gx = (x - p->left) / (p->right - p->left) * PLOTI_BUSY_X,
           gy = (y - p->top) / (p->bottom - p->top) * PLOTI_BUSY_Y;
    if (gx >= 0 && gy >= 0 && gx < PLOTI_BUSY_X && gy < PLOTI_BUSY_Y) p->busy[(int)gy][(int)gx] = 1;
}

static int ploti_busy(const plot *p, double x0, double y0, double x1, double y1, int fill) {
    double sx = PLOTI_BUSY_X / (p->right - p->left), sy = PLOTI_BUSY_Y / (p->bottom - p->top);
    int gx0 = (int)fmax(0, (x0 - p->left) * sx), gy0 = (int)fmax(0, (y0 - p->top) * sy), count = 0, x, y;
    int gx1 = (int)fmin(PLOTI_BUSY_X - 1, (x1 - p->left) * sx), gy1 = (int)fmin(PLOTI_BUSY_Y - 1, (y1 - p->top) * sy);
    for (y = gy0; y <= gy1; y++) for (x = gx0; x <= gx1; x++) {
        count += p->busy[y][x];
        if (fill) ((plot *)p)->busy[y][x] = 1;
    }
    return count;
}

static void ploti_occupy_line(plot *p, double ax, double ay, double bx, double by) {
    ploti_canvas window;
    double length;
    int i, n;
    memset(&window, 0, sizeof window);
    window.cx0 = (int)p->left, window.cy0 = (int)p->top, window.cx1 = (int)p->right, window.cy1 = (int)p->bottom;
    if (!ploti_clip_segment(&window, 0, &ax, &ay, &bx, &by)) return;
    length =
        fmax(fabs(bx - ax) / (p->right - p->left) * PLOTI_BUSY_X, fabs(by - ay) / (p->bottom - p->top) * PLOTI_BUSY_Y);
    n = (int)(length * 2) + 1;
    for (i = 0; i <= n; i++) ploti_occupy(p, ax + (bx - ax) * i / n, ay + (by - ay) * i / n);
}

// A curve into the mask. dash: the length of a dash, 0 for an unbroken line. Points without neighbours become dots.
// canvas NULL: only notes where the curve is.
static void ploti_polyline(ploti_canvas *c, plot *p, const double *xs, const double *ys, size_t n, double radius,
                           double dash) {
    double px = NAN, py = NAN, walked = 0;
    int alone = 0;
    size_t i;
    for (i = 0; i <= n; i++) {
        double x = i < n ? ploti_pixel(&p->x, xs[i]) : NAN, y = i < n ? ploti_pixel(&p->y, ys[i]) : NAN;
        int here = x == x && y == y, before = px == px && py == py;
        if (!here && alone && c) ploti_stroke(c, px, py, px, py, radius * 2);
        if (here && !before) walked = 0;
        if (here && !c) ploti_occupy_line(p, before ? px : x, before ? py : y, x, y);
        else if (here && before) {
            double ax = px, ay = py, bx = x, by = y;
            if (dash <= 0) ploti_stroke(c, ax, ay, bx, by, radius);
            else if (ploti_clip_segment(c, radius, &ax, &ay, &bx, &by)) {
                double length = hypot(bx - ax, by - ay), at = 0;
                while (at < length) {      // a dash and a gap of 0.8 dashes
                    double phase = fmod(walked + at, dash * 1.8),
                           rest = phase < dash ? dash - phase : dash * 1.8 - phase, to;
                    to = fmin(length, at + fmax(rest, 0.01));
                    if (phase < dash) ploti_stroke(c, ax + (bx - ax) * at / length, ay + (by - ay) * at / length,
                                                   ax + (bx - ax) * to / length, ay + (by - ay) * to / length, radius);
                    at = to;
                }
                walked = fmod(walked + length, dash * 1.8);
            }
        }
        alone = here && !before;
        px = here ? x : NAN, py = y;
    }
}

// The part of one column of pixels between two heights.
static void ploti_column(ploti_canvas *c, int x, double y0, double y1) {
    int box[4], y;
    if (y0 > y1) { double t = y0; y0 = y1; y1 = t; }
    if (!ploti_window(c, x + 0.1, y0, x + 0.9, y1, box)) return;
    for (y = box[1]; y < box[3]; y++)
        ploti_cover(&c->mask[(size_t)y * (size_t)c->w + (size_t)x], fmin(y1, y + 1) - fmax(y0, y));
}

static void ploti_draw_band(ploti_canvas *c, plot *p, const ploti_series *s) {
    size_t i;
    for (i = 0; i + 1 < s->n; i++) {
        double xa = ploti_pixel(&p->x, s->x[i]), xb = ploti_pixel(&p->x, s->x[i + 1]);
        double la = ploti_pixel(&p->y, s->y[i]), lb = ploti_pixel(&p->y, s->y[i + 1]);
        double ha = ploti_pixel(&p->y, s->z[i]), hb = ploti_pixel(&p->y, s->z[i + 1]);
        int x, from, to;
        if (xa != xa || xb != xb || la != la || lb != lb || ha != ha || hb != hb || xa >= xb) continue;
        from = (int)fmax(xa, c->cx0), to = (int)fmin(xb, c->cx1 - 1);
        for (x = from; x <= to; x++) {
            double t = fmin(1, fmax(0, (x + 0.5 - xa) / (xb - xa)));
            ploti_column(c, x, la + t * (lb - la), ha + t * (hb - ha));
        }
    }
    ploti_paint(c, ploti_palette(s->color), 0.2);
}

static double ploti_dot_radius(const plot *p, const ploti_series *s) {
    return p->scale * (s->n <= 150 ? 9 : s->n <= 600 ? 7.5 : s->n <= 3000 ? 5.5 : 3.5);
}

static void ploti_draw_dots(ploti_canvas *c, plot *p, const ploti_series *s, const double *ys, double radius) {
    size_t i;
    for (i = 0; i < s->n; i++) {
        double x = ploti_pixel(&p->x, s->x[i]), y = ploti_pixel(&p->y, ys[i]);
        if (!(x >= p->left - 1 && x <= p->right + 1 && y >= p->top - 1 && y <= p->bottom + 1)) continue;
        if (radius > 3) ploti_stroke(c, x, y, x, y, radius + 1.6 * p->scale), ploti_paint(c, ploti_rgb(0xffffff), 0.9);
        ploti_stroke(c, x, y, x, y, radius), ploti_paint(c, ploti_palette(s->color), radius > 3 ? 0.92 : 0.6);
    }
}

// Bars of one label stand side by side; a group takes four fifths of its room.
static void ploti_draw_bars(ploti_canvas *c, plot *p, int occupy) {
    int i, which = 0, series = 0;
    size_t k;
    for (i = 0; i < p->series_used; i++) series += p->series[i].kind == PLOTI_BARS;
    for (i = 0; i < p->series_used; i++) {
        const ploti_series *s = &p->series[i];
        double room = (p->x.to - p->x.from) / (p->x.hi - p->x.lo), width = room * (series > 1 ? 0.82 : 0.7) / series;
        double zero = ploti_tick_pixel(&p->y, p->y.log ? p->y.lo : fmin(fmax(0, p->y.lo), p->y.hi));
        if (s->kind != PLOTI_BARS) continue;
        for (k = 0; k < s->n; k++) {
            double y = ploti_pixel(&p->y, s->y[k]),
                   x = ploti_tick_pixel(&p->x, (double)k) + (which - (series - 1) / 2.0) * width;
            double half = width * (series > 1 ? 0.46 : 0.5), size = p->scale * 24;
            char text[PLOTI_TEXT];
            if (y != y) continue;
            if (occupy) { ploti_busy(p, x - half, fmin(y, zero) - size * 1.4, x + half, fmax(y, zero), 1); continue; }
            ploti_box(c, x - half, fmin(y, zero), x + half, fmax(y, zero), 0);
            ploti_paint(c, ploti_palette(s->color), 0.95);
            if (!p->values[0]) continue;
            ploti_value_text(p, s->y[k], text);
            size = fmin(size, size * width * 1.1 / fmax(1, ploti_width(text, size)));
            if (size < 9) continue;
            ploti_unclip(c);
            ploti_text(c, text, x, y > zero ? y + size * 0.95 : y - size * 0.35, size, 0, PLOTI_MIDDLE, 0x333333);
            ploti_clip(c, p->left, p->top, p->right, p->bottom);
        }
        which++;
    }
}

enum { PLOTI_GRID_X = 160, PLOTI_GRID_Y = 100 };

// The functions are asked on a grid of 161 by 101 points. Between them scores are interpolated; classes cannot be, so
// where the corners of a cell disagree each of its pixels is asked.
static double ploti_ask(const plot *p, double u, double v) {   // u and v from 0 to 1, from the upper left corner
    double x = p->x.lo + (p->x.hi - p->x.lo) * u, y = p->y.hi - (p->y.hi - p->y.lo) * v, answer;
    if (p->x.log) x = pow(10, x);
    if (p->y.log) y = pow(10, y);
    if (p->score) answer = p->score(p->user, x, y);
    else answer = p->class_of(p->user, x, y), answer = answer < 0 ? 0 : answer >= p->classes ? p->classes - 1 : answer;
    return ploti_usable(answer) ? answer : 0;
}

static void ploti_draw_scores(ploti_canvas *c, plot *p, const double *grid, int columns, double mean) {
    int x, y;
    double wide = p->right - p->left, high = p->bottom - p->top;
    for (y = (int)p->top; y < (int)p->bottom; y++) for (x = (int)p->left; x < (int)p->right; x++) {
        double u = fmin(fmax((x + 0.5 - p->left) / wide, 0), 0.999999) * PLOTI_GRID_X, fu = u - floor(u);
        double v = fmin(fmax((y + 0.5 - p->top) / high, 0), 0.999999) * PLOTI_GRID_Y, fv = v - floor(v);
        const double *g = grid + (int)v * columns + (int)u;
        double up = g[0] + fu * (g[1] - g[0]), low = g[columns] + fu * (g[columns + 1] - g[columns]),
               s = up + fv * (low - up);
        double sx = ((g[1] - g[0]) * (1 - fv) + (g[columns + 1] - g[columns]) * fv) * PLOTI_GRID_X / wide;
        double sy = (low - up) * PLOTI_GRID_Y / high, slope = sqrt(sx * sx + sy * sy);
        unsigned char *pixel = c->rgb + 3 * ((size_t)y * (size_t)c->w + (size_t)x);
        ploti_blend(pixel, ploti_palette(s > 0), mean > 0 ? 0.08 + 0.30 * tanh(fabs(s) / mean) : 0.1);
        // The score over its slope is the distance to the border, in pixels.
        if (slope > 0)
            ploti_blend(pixel, ploti_rgb(0x333333), fmin(1, fmax(0, 0.5 + 1.5 * p->scale - fabs(s) / slope)));
    }
}

static int ploti_draw_map(ploti_canvas *c, plot *p, const double *grid, int columns) {
    int wide = (int)p->right - (int)p->left, high = (int)p->bottom - (int)p->top, x, y, i, j,
        reach = p->scale > 0.7 ? 2 : 1;
    unsigned char *map = (unsigned char *)malloc((size_t)wide * (size_t)high);
    if (!map) return ploti_fail(p, "out of memory");
    for (y = 0; y < high; y++) for (x = 0; x < wide; x++) {
        double u = (x + 0.5) / wide, v = (y + 0.5) / high;
        const double *g = grid + (int)(v * PLOTI_GRID_Y) * columns + (int)(u * PLOTI_GRID_X);
        int same = g[0] == g[1] && g[0] == g[columns] && g[0] == g[columns + 1];
        map[(size_t)y * (size_t)wide + (size_t)x] = (unsigned char)(same ? g[0] : ploti_ask(p, u, v));
    }
    for (y = 0; y < high; y++)
        for (x = 0; x < wide; x++) { // the more of a pixel's neighbours differ, the whiter it is
            int mine = map[(size_t)y * (size_t)wide + (size_t)x], other = 0, all = (2 * reach + 1) * (2 * reach + 1);
            unsigned char *pixel = c->rgb + 3 * ((size_t)(y + (int)p->top) * (size_t)c->w + (size_t)(x + (int)p->left));
            for (j = y - reach; j <= y + reach; j++)
                for (i = x - reach; i <= x + reach; i++)
                    other +=
                        i >= 0 && j >= 0 && i < wide && j < high && map[(size_t)j * (size_t)wide + (size_t)i] != mine;
            ploti_blend(pixel, ploti_palette(mine), 0.28);
            if (other) ploti_blend(pixel, ploti_rgb(0xffffff), fmin(1, 2.2 * other / all));
        }
    free(map);
    return 0;
}

static int ploti_draw_region(ploti_canvas *c, plot *p) {
    int columns = PLOTI_GRID_X + 1, rows = PLOTI_GRID_Y + 1, i, j, status = 0;
    double *grid = (double *)malloc((size_t)columns * (size_t)rows * sizeof(double)), mean = 0;
    if (!grid) return ploti_fail(p, "out of memory");
    for (j = 0; j < rows; j++) for (i = 0; i < columns; i++) {
        double answer = ploti_ask(p, (double)i / PLOTI_GRID_X, (double)j / PLOTI_GRID_Y);
        grid[j * columns + i] = answer, mean += fabs(answer) / (columns * rows);
    }
    if (p->score) ploti_draw_scores(c, p, grid, columns, mean);
    else status = ploti_draw_map(c, p, grid, columns);
    free(grid);
    return status;
}

// ------------------------------------------------------------------------------------------------ what is around them

static void ploti_titles(ploti_canvas *c, const plot *p, double left, double right) {
    char text[PLOTI_TEXT];
    double s = p->scale, y = 30 * s, size = 40 * s;
    if (*p->title) {
        double wide = ploti_letters(NULL, p->title, 0, 0, size, 0, size * 0.062);
        if (wide > right - left) size = fmax(size * 0.6, size * (right - left) / wide);
        y += 36 * s;
        ploti_text(c, ploti_fit(p->title, size * 1.03, right - left, 0, text), left, y, size, 0, PLOTI_BOLD, 0x111111);
        y += 10 * s;
    }
    if (*p->subtitle)
        ploti_text(c, ploti_fit(p->subtitle, 27 * s, right - left, 0, text), left, y + 30 * s, 27 * s, 0, 0, 0x666666);
}

static double ploti_titles_height(const plot *p) {
    return p->scale * (40 + (*p->title ? 58 : 0) + (*p->subtitle ? 40 : 0));
}

#define PLOTI_PALE 0.25                    // how much colour a line has behind its moving average

static int ploti_legend_entries(const plot *p) {
    int i, n = 0;
    for (i = 0; i < p->series_used; i++) n += p->series[i].name && p->series[i].kind <= PLOTI_BARS;
    return n;
}

// Draws the legend with its upper left corner at (x, y), entries below each other, or in rows no wider than `row`.
// After the last series comes an entry that says what the pale lines behind smoothed ones are: in the colour of the
// one that is smoothed, in grey for several. canvas NULL: only measures.
static void ploti_legend(ploti_canvas *c, const plot *p, double x, double y, double row, double *width,
                         double *height) {
    double s = p->scale, size = 27 * s, line = 40 * s, at_x = 0, at_y = 0, widest = 0;
    int i, smooth = 0;
    ploti_series pale;
    memset(&pale, 0, sizeof pale);
    for (i = 0; i <= p->series_used; i++) {
        const ploti_series *e = i < p->series_used ? &p->series[i] : &pale;
        char text[PLOTI_TEXT], before[] = "before smoothing";
        double entry, ex, ey;
        if (e == &pale && smooth) pale.name = before;
        if (!e->name || e->kind > PLOTI_BARS) continue;
        if (e->kind == PLOTI_SMOOTH) pale.color = smooth++ ? 6 : e->color;
        ploti_fit(e->name, size, fmax(p->right - p->left - 120 * s, 100 * s), 0, text);
        entry = 62 * s + ploti_width(text, size);
        if (row > 0 && at_x > 0 && at_x + entry > row) at_x = 0, at_y += line;
        ex = x + at_x, ey = y + at_y + line / 2;
        if (c) {
            ploti_color color = ploti_palette(e->color);
            if (e->kind == PLOTI_BARS) ploti_box(c, ex + 14 * s, ey - 11 * s, ex + 36 * s, ey + 11 * s, 3 * s);
            else if (e->kind == PLOTI_SCATTER) ploti_stroke(c, ex + 25 * s, ey, ex + 25 * s, ey, 9 * s);
            else if (e->dashed)
                ploti_stroke(c, ex + 3 * s, ey, ex + 16 * s, ey, 2.4 * s),
                    ploti_stroke(c, ex + 31 * s, ey, ex + 44 * s, ey, 2.4 * s);
            else ploti_stroke(c, ex + 3 * s, ey, ex + 44 * s, ey, 2.4 * s);
            if (e->dots) ploti_stroke(c, ex + 23.5 * s, ey, ex + 23.5 * s, ey, 6.5 * s);
            ploti_paint(c, color, e == &pale ? PLOTI_PALE : 1);
            ploti_text(c, text, ex + 58 * s, ey + size * 0.33, size, 0, 0, 0x333333);
        }
        widest = fmax(widest, at_x + entry);
        if (row > 0) at_x += entry + 34 * s;
        else at_y += line;
    }
    *width = widest, *height = row > 0 ? at_y + line : at_y;
}

// The free place for a rectangle that is nearest to a corner of the data's own rectangle; 0 if there is none.
static int ploti_find_room(const plot *p, double width, double height, double *x, double *y) {
    double gap = 14 * p->scale, best = 1e300, at_x, at_y, step_x = (p->right - p->left) / PLOTI_BUSY_X,
           step_y = (p->bottom - p->top) / PLOTI_BUSY_Y;
    for (at_y = p->top + gap; at_y + height + gap <= p->bottom; at_y += step_y)
        for (at_x = p->left + gap; at_x + width + gap <= p->right; at_x += step_x) {
            double dl = at_x - p->left, dr = p->right - at_x - width, dt = at_y - p->top,
                   db = p->bottom - at_y - height, cost;
            cost = fmin(dr, dl + 40 * p->scale) + fmin(dt, db + 80 * p->scale);
            if (cost < best && !ploti_busy(p, at_x - gap, at_y - gap, at_x + width + gap, at_y + height + gap, 0))
                best = cost, *x = at_x, *y = at_y;
        }
    return best < 1e300;
}

// 1, 2, 5, 10, 20, 50, ...
static size_t ploti_next_stride(size_t stride) {
    size_t power = 1;
    while (stride / power >= 10) power *= 10;
    return stride / power == 1 ? 2 * power : stride / power == 2 ? 5 * power : 10 * power;
}

// Breaks a text at spaces into lines of at most `room`; returns how many, 0 if that takes more than three. The breaks
// become line ends in `text`.
static int ploti_wrap(char *text, double size, double room) {
    char *line = text, *space = NULL, *s;
    int lines = 1;
    for (s = text;; s++) if (*s == ' ' || !*s) {
        char end = *s;
        *s = 0;
        if (ploti_width(line, size) > room) {
            if (!space || ++lines > 3) return 0;
            *space = '\n', line = space + 1;
            if (ploti_width(line, size) > room) return 0;
        }
        *s = end, space = s;
        if (!end) return lines;
    }
}

static const char *ploti_category(const plot *p, size_t i, double size, double cap, char *text) {
    char number[24];
    if (p->labels) return ploti_fit(p->labels[i], size, cap, 1, text);
    sprintf(number, "%d", (int)i);
    return ploti_fit(number, size, cap, 1, text);
}

// Labels of categories below a line at y: level if they fit, else in up to three lines, else numbers and single letters
// thinned out, else slanted, else upright and thinned out. canvas NULL: returns only how much height they need.
static double ploti_categories(ploti_canvas *c, const plot *p, double from, double room, double y) {
    enum { LEVEL, LINES, SLANTED, UPRIGHT } how = LEVEL;
    double s = p->scale, size = 26 * s, widest = 0, cap = 0.4 * p->h;
    size_t n = p->label_count, i, stride = 1;
    char text[PLOTI_TEXT];
    int numbers = 1, lines = 1;
    if (p->cells && size > room * 0.9) size = fmax(room * 0.9, 15 * s);
    for (i = 0; i < n; i++) {
        ploti_category(p, i, size, cap, text);
        widest = fmax(widest, ploti_width(text, size));
        numbers &= text[strspn(text, "0123456789.,-+")] == 0;
    }
    if (p->cells && widest > room * 0.94 && widest < size * 1.6 && size * room * 0.86 >= 13 * s * widest) {
        size *= room * 0.86 / widest;      // labels of one or two letters: rather smaller than lying on their side
        widest = room * 0.86;
    }
    if (widest > room * 0.94) {
        how = LINES;
        for (i = 0; i < n && how == LINES; i++) {
            int needed =
                room > 60 * s ? ploti_wrap((char *)ploti_category(p, i, size, 1e9, text), size, room * 0.94) : 0;
            lines = needed > lines ? needed : lines;
            if (!needed) how = SLANTED;
        }
        if (how == SLANTED && numbers) how = LEVEL;
        if (how == SLANTED && widest <= size * 1.1) how = LEVEL;
        if (how == SLANTED && room <= 30 * s) how = UPRIGHT;
        if (how == LEVEL)
            while (widest * 1.2 > room * (double)stride) stride = numbers ? ploti_next_stride(stride) : stride + 1;
        if (how == UPRIGHT) while (size * 1.02 > room * (double)stride) stride++;
    }
    for (i = 0; c && i < n; i += stride) {
        double x = from + room * ((double)i + 0.5), at = y + size * 0.85;
        ploti_category(p, i, size, how == LINES ? 1e9 : cap, text);
        if (how == LEVEL) ploti_text(c, text, x, at, size, 0, PLOTI_MIDDLE, 0x444444);
        else if (how == SLANTED) ploti_text(c, text, x + size * 0.35, y + size * 0.7, size, 0.7, PLOTI_RIGHT, 0x444444);
        else if (how == UPRIGHT)
            ploti_text(c, text, x + size * 0.34, y + size * 0.3, size, 1.5707963, PLOTI_RIGHT, 0x444444);
        else {
            char *line = text, *end;
            ploti_wrap(text, size, room * 0.94);
            for (; line; line = end ? end + 1 : NULL, at += size * 1.25) {
                if ((end = strchr(line, '\n')) != NULL) *end = 0;
                ploti_text(c, line, x, at, size, 0, PLOTI_MIDDLE, 0x444444);
            }
        }
    }
    return how == SLANTED   ? widest * 0.645 + size * 0.9
           : how == UPRIGHT ? widest + size * 0.4
                            : size * (1.25 * lines - 0.15);
}

// ------------------------------------------------------------------------------------------------ charts

static void ploti_reference_text(ploti_canvas *c, plot *p, const ploti_series *s) {
    double k = p->scale, size = 24 * k, w, x, y;
    char text[PLOTI_TEXT];
    if (!s->name) return;
    w = ploti_width(ploti_fit(s->name, size, (p->right - p->left) * 0.8, 0, text), size);
    if (s->kind == PLOTI_HLINE) {          // at the right end, or wherever the line is not crossed
        static const double places[5] = {1, 0, 0.5, 0.75, 0.25};
        double best_x = 0;
        int i, busy, least = 1 << 30, up = 1;
        y = ploti_pixel(&p->y, s->y[0]);
        if (!(y >= p->top - 1 && y <= p->bottom + 1)) return;
        if (y - size * 1.4 < p->top) up = 0;
        y = up ? y - size * 0.42 : y + size * 1.05;
        for (i = 0; i < 5; i++) {
            x = p->left + 12 * k + (p->right - p->left - w - 24 * k) * places[i];
            busy = ploti_busy(p, x - 6 * k, y - size, x + w + 6 * k, y + size * 0.2, 0);
            if (busy < least) least = busy, best_x = x;
        }
        x = best_x;
    } else if (s->kind == PLOTI_VLINE) {
        x = ploti_pixel(&p->x, s->x[0]);
        if (!(x >= p->left - 1 && x <= p->right + 1)) return;
        y = p->top + size * 1.1;
        x = x + w + 14 * k > p->right ? x - 10 * k - w : x + 10 * k;
        if (ploti_busy(p, x, y - size, x + w, y + size * 0.2, 0) &&
            !ploti_busy(p, x, p->bottom - size * 1.5, x + w, p->bottom - size * 0.2, 0))
            y = p->bottom - size * 0.6;
    } else {                               // beside the dot, on the side with the most room
        double px = ploti_pixel(&p->x, s->x[0]), py = ploti_pixel(&p->y, s->y[0]), best_x = 0, best_y = 0;
        int i, least = 1 << 30;
        if (!(px >= p->left && px <= p->right && py >= p->top && py <= p->bottom)) return;
        for (i = 0; i < 8; i++) {
            double reach = i < 4 ? 1 : 2.6;
            int busy;
            x = i & 1 ? px - w - 14 * k * reach : px + 14 * k * reach;
            y = i & 2 ? py + size * (0.5 + 0.75 * reach) : py - size * (0.6 * reach - 0.1);
            busy = ploti_busy(p, x, y - size * 0.8, x + w, y + size * 0.25, 0);
            if (x < p->left || x + w > p->right || y - size < p->top || y > p->bottom) busy += 10000;
            if (busy < least) least = busy, best_x = x, best_y = y;
        }
        x = best_x, y = best_y;
        if (fabs(y - py) > size * 1.3) ploti_rule(c, px, py, x < px ? x + w : x, y - size * 0.3, 1.5 * k, 0x888888);
        ploti_stroke(c, px, py, px, py, 8 * k), ploti_paint(c, ploti_rgb(0xffffff), 1);
        ploti_stroke(c, px, py, px, py, 6 * k), ploti_paint(c, ploti_rgb(0x222222), 1);
    }
    ploti_text(c, text, x, y, size, 0, PLOTI_HALO, 0x333333);
    ploti_busy(p, x, y - size, x + w, y + size * 0.2, 1);
}

static int ploti_chart(plot *p, ploti_canvas *c) {
    ploti_ticks tx, ty;
    double s = p->scale, tick = 26 * s, label = 30 * s, lw = 0, lh = 0, lx = 0, ly = 0, below, margin_left,
           margin_right;
    int i, entries = ploti_legend_entries(p), outside = 0;
    if (ploti_fit_axes(p)) return -1;

    ploti_make_ticks(&p->y, (int)((p->h - 240 * s) / (88 * s)), &ty);
    margin_left = 26 * s + (*p->ylabel ? label * 1.45 : 0) + ploti_widest(&ty, tick) + 16 * s;
    memset(&tx, 0, sizeof tx);
    if (!p->has_bars) {                    // fewer ticks until their labels stand apart
        int most = (int)((p->w - margin_left) / (150 * s));
        do ploti_make_ticks(&p->x, most, &tx);
        while (--most > 1 && tx.n > 2 && ploti_widest(&tx, tick) * 1.35 * (tx.n - 1) > p->w - margin_left - 60 * s);
    }
    margin_right = fmax(40 * s, tx.n ? ploti_width(tx.text[tx.n - 1], tick) * 0.5 + 12 * s : 0);
    p->left = floor(margin_left), p->right = floor(p->w - margin_right);
    if (p->right < p->left + 40) return ploti_fail(p, "%d x %d pixels leave no room for the data", p->w, p->h);
    below = p->has_bars ? ploti_categories(NULL, p, p->left, (p->right - p->left) / fmax(1, (double)p->label_count), 0)
                        : tick * 1.1;
    for (;;) {                             // twice if the legend finds no free place among the data and goes above them
        p->top = floor(ploti_titles_height(p) + (outside ? lh + 6 * s : 0));
        p->bottom = floor(p->h - 24 * s - (*p->xlabel ? label * 1.5 : 0) - below - 10 * s);
        if (p->bottom < p->top + 40) return ploti_fail(p, "%d x %d pixels leave no room for the data", p->w, p->h);
        p->x.from = p->left, p->x.to = p->right, p->y.from = p->bottom, p->y.to = p->top;
        if (p->equal && !p->x.log && !p->y.log) {              // the axis with the coarser unit decides
            double ux = (p->x.hi - p->x.lo) / (p->right - p->left), uy = (p->y.hi - p->y.lo) / (p->bottom - p->top);
            ploti_axis *a = ux < uy ? &p->x : &p->y;
            double span = fmax(ux, uy) * fabs(a->to - a->from), middle = (a->lo + a->hi) / 2;
            a->lo = middle - span / 2, a->hi = middle + span / 2;
            ploti_make_ticks(&p->x, (int)((p->w - margin_left) / (170 * s)), &tx);
            ploti_make_ticks(&p->y, (int)((p->bottom - p->top) / (88 * s)), &ty);
        }
        memset(p->busy, 0, sizeof p->busy);
        for (i = 0; i < p->series_used; i++) {
            const ploti_series *e = &p->series[i];
            size_t k;
            if (e->kind == PLOTI_LINE || e->kind == PLOTI_SMOOTH) ploti_polyline(NULL, p, e->x, e->y, e->n, 0, 0);
            else if (e->kind == PLOTI_BAND)
                ploti_polyline(NULL, p, e->x, e->y, e->n, 0, 0), ploti_polyline(NULL, p, e->x, e->z, e->n, 0, 0);
            else if (e->kind == PLOTI_SCATTER || e->kind == PLOTI_NOTE)
                for (k = 0; k < e->n; k++) ploti_occupy(p, ploti_pixel(&p->x, e->x[k]), ploti_pixel(&p->y, e->y[k]));
            else if (e->kind == PLOTI_HLINE)
                ploti_occupy_line(p, p->left, ploti_pixel(&p->y, e->y[0]), p->right, ploti_pixel(&p->y, e->y[0]));
        }
        if (p->has_bars) ploti_draw_bars(c, p, 1);
        if (!entries || outside) break;
        ploti_legend(NULL, p, 0, 0, 0, &lw, &lh);
        lw += 24 * s, lh += 12 * s;
        if (ploti_find_room(p, lw, lh, &lx, &ly)) break;
        outside = 1;
        ploti_legend(NULL, p, 0, 0, p->right - p->left, &lw, &lh);
    }

    if ((p->score || p->class_of) && ploti_draw_region(c, p)) return -1;
    for (i = 0; i < ty.n; i++) {
        double y = floor(ploti_tick_pixel(&p->y, ty.at[i])) + 0.5;
        if (y < p->top - 1 || y > p->bottom + 1) continue;
        if (!p->score && !p->class_of) ploti_rule(c, p->left, y, p->right, y, 1.4 * s, 0xdedede);
        ploti_text(c, ty.text[i], p->left - 14 * s, y + tick * 0.33, tick, 0, PLOTI_RIGHT, 0x444444);
    }
    for (i = 0; i < tx.n; i++) {
        double x = floor(ploti_tick_pixel(&p->x, tx.at[i])) + 0.5;
        if (x < p->left - 1 || x > p->right + 1) continue;
        if (!p->score && !p->class_of) ploti_rule(c, x, p->top, x, p->bottom, 1.4 * s, 0xe8e8e8);
        ploti_rule(c, x, p->bottom, x, p->bottom + 7 * s, 2 * s, 0x888888);
        ploti_text(c, tx.text[i], x, p->bottom + 10 * s + tick * 0.85, tick, 0, PLOTI_MIDDLE, 0x444444);
    }
    for (i = 0; i < ty.small_n && !p->score; i++)
        ploti_rule(c, p->left, ploti_tick_pixel(&p->y, ty.small_at[i]), p->right,
                   ploti_tick_pixel(&p->y, ty.small_at[i]), s, 0xf0f0f0);
    for (i = 0; i < tx.small_n && !p->score; i++)
        ploti_rule(c, ploti_tick_pixel(&p->x, tx.small_at[i]), p->top, ploti_tick_pixel(&p->x, tx.small_at[i]),
                   p->bottom, s, 0xf0f0f0);
    if (p->has_bars)
        ploti_categories(c, p, p->left, (p->right - p->left) / fmax(1, (double)p->label_count), p->bottom + 8 * s);

    ploti_clip(c, p->left, p->top, p->right, p->bottom);
    for (i = 0; i < p->series_used; i++) if (p->series[i].kind == PLOTI_BAND) ploti_draw_band(c, p, &p->series[i]);
    if (p->has_bars) ploti_draw_bars(c, p, 0);
    for (i = 0; i < p->series_used; i++) {
        const ploti_series *e = &p->series[i];
        double xs[2], ys[2];
        if (e->kind != PLOTI_HLINE && e->kind != PLOTI_VLINE) continue;
        xs[0] = p->left, xs[1] = p->right, ys[0] = p->bottom, ys[1] = p->top;
        if (e->kind == PLOTI_HLINE) ys[0] = ys[1] = ploti_pixel(&p->y, e->y[0]);
        else xs[0] = xs[1] = ploti_pixel(&p->x, e->x[0]);
        {
            double length = hypot(xs[1] - xs[0], ys[1] - ys[0]), at;
            for (at = 0; at < length; at += 20 * s) {
                double to = fmin(length, at + 10 * s);
                ploti_stroke(c, xs[0] + (xs[1] - xs[0]) * at / length, ys[0] + (ys[1] - ys[0]) * at / length,
                             xs[0] + (xs[1] - xs[0]) * to / length, ys[0] + (ys[1] - ys[0]) * to / length, 1.2 * s);
            }
        }
        ploti_paint(c, ploti_rgb(0x666666), 1);
    }
    for (i = 0; i < p->series_used; i++) if (p->series[i].kind == PLOTI_SMOOTH) {
        ploti_polyline(c, p, p->series[i].x, p->series[i].y, p->series[i].n, 1.3 * s, 0);
        ploti_paint(c, ploti_palette(p->series[i].color), PLOTI_PALE);
    }
    // The clip is a little wider for curves: a line that runs along an axis would be cut in half.
    for (i = 0; i < p->series_used; i++) {
        const ploti_series *e = &p->series[i];
        if (e->kind == PLOTI_LINE || e->kind == PLOTI_SMOOTH) {
            const double *ys = e->kind == PLOTI_SMOOTH ? e->z : e->y;
            ploti_clip(c, p->left - 4 * s, p->top - 4 * s, p->right + 4 * s, p->bottom + 4 * s);
            ploti_polyline(c, p, e->x, ys, e->n, 2.3 * s, e->dashed ? 14 * s : 0);
            ploti_paint(c, ploti_palette(e->color), 1);
            ploti_unclip(c);
            if (e->dots) ploti_draw_dots(c, p, e, ys, 6.5 * s);
        } else if (e->kind == PLOTI_SCATTER) ploti_unclip(c), ploti_draw_dots(c, p, e, e->y, ploti_dot_radius(p, e));
    }
    ploti_unclip(c);
    ploti_rule(c, p->left, p->bottom, p->right, p->bottom, 2 * s, 0x888888);
    if (p->score || p->class_of) ploti_rule(c, p->left, p->top, p->left, p->bottom, 2 * s, 0x888888);
    else if (p->has_bars && p->y.lo < 0 && p->y.hi > 0 && !p->y.log)
        ploti_rule(c, p->left, ploti_tick_pixel(&p->y, 0), p->right, ploti_tick_pixel(&p->y, 0), 2 * s, 0x888888);
    if (entries && !outside) ploti_busy(p, lx, ly, lx + lw, ly + lh, 1);
    for (i = 0; i < p->series_used; i++)
        if (p->series[i].kind >= PLOTI_HLINE) ploti_reference_text(c, p, &p->series[i]);

    if (entries && outside) ploti_legend(c, p, p->left, ploti_titles_height(p) - 8 * s, p->right - p->left, &lw, &lh);
    else if (entries) {
        double w, h;
        ploti_box(c, lx - 1.4 * s, ly - 1.4 * s, lx + lw + 1.4 * s, ly + lh + 1.4 * s, 9.4 * s),
            ploti_paint(c, ploti_rgb(0xd8d8d8), 1);
        ploti_box(c, lx, ly, lx + lw, ly + lh, 8 * s), ploti_paint(c, ploti_rgb(0xffffff), 1);
        ploti_legend(c, p, lx + 12 * s, ly + 6 * s, 0, &w, &h);
    }
    if (*p->xlabel) ploti_text(c, p->xlabel, (p->left + p->right) / 2, p->h - 24 * s, label, 0, PLOTI_MIDDLE, 0x222222);
    if (*p->ylabel)
        ploti_text(c, p->ylabel, 26 * s + label * 0.75, (p->top + p->bottom) / 2, label, 1.5707963, PLOTI_MIDDLE,
                   0x222222);
    ploti_titles(c, p, p->left, p->right);
    return 0;
}

// ------------------------------------------------------------------------------------------------ heat maps

// Colours whose lightness runs one way, so that they keep their order on a grey print; two-sided where values have both
// signs.
static ploti_color ploti_heat_color(double t, int two_sided) {
    static const int one[6] = {0xf7fafd, 0xc9def0, 0x8fbfe0, 0x4a94c9, 0x1561a5, 0x082a56};
    static const int two[7] = {0x7f2704, 0xd55e00, 0xf5b183, 0xf7f7f7, 0x92c0de, 0x0072b2, 0x08305c};
    const int *stops = two_sided ? two : one;
    int n = two_sided ? 6 : 5, i;
    t = fmin(1, fmax(0, t)) * n;
    i = t >= n ? n - 1 : (int)t;
    return ploti_mix(ploti_rgb(stops[i]), ploti_rgb(stops[i + 1]), t - i);
}

static int ploti_heat(plot *p, ploti_canvas *c) {
    double s = p->scale, tick = 26 * s, label = 30 * s, cell_w, cell_h, rows_width = 0, below, lo = 1e308, hi = -1e308,
           row_size, bar_x, gap;
    double margin_left, margin_right, margin_bottom, top, wide, high;
    int two_sided, x, y, pass, rows = (int)p->rows, columns = (int)p->label_count, stride = 1;
    size_t i;
    ploti_axis scale;
    ploti_ticks ticks;
    char text[PLOTI_TEXT], number[16];
    if (!p->sized && rows == columns && rows > 36)
        p->w = p->h = (int)fmin(4000, 300 + 24.0 * rows); // room for all the labels
    for (i = 0; i < p->rows * p->label_count; i++)
        if (ploti_usable(p->cells[i])) lo = fmin(lo, p->cells[i]), hi = fmax(hi, p->cells[i]);
    if (p->heat_fixed) lo = p->heat_lo, hi = p->heat_hi;
    if (lo > hi) lo = 0, hi = 1;
    two_sided = lo < 0 && hi > 0;
    if (two_sided && !p->heat_fixed) hi = fmax(hi, -lo), lo = -hi;
    if (!(hi - lo > 1e-9 * fmax(fabs(lo), fabs(hi)) && hi - lo > 1e-290))
        lo -= fmax(fabs(lo) * 0.1, 1e-6), hi += fmax(fabs(hi) * 0.1, 1e-6);

    memset(&scale, 0, sizeof scale);
    scale.lo = lo, scale.hi = hi;
    ploti_make_ticks(&scale, (int)((p->h - 260 * s) / (90 * s)), &ticks);
    margin_right = 34 * s + 30 * s + 14 * s + ploti_widest(&ticks, tick) + 30 * s;
    if (p->heat_label) margin_right += label * 1.2;
    top = floor(ploti_titles_height(p));
    below = tick * 1.1, row_size = tick, cell_w = cell_h = tick;
    margin_left = margin_bottom = 0;
    for (pass = 0; pass < 2; pass++) {     // the first pass finds the size of a cell, which decides how labels stand
        rows_width = 0;
        for (y = 0; y < rows; y++) {
            const char *name = p->row_labels ? p->row_labels[y] : (sprintf(number, "%d", y), number);
            rows_width = fmax(rows_width, ploti_width(ploti_fit(name, row_size, 0.3 * p->w, 1, text), row_size));
        }
        margin_left = floor(26 * s + (*p->ylabel ? label * 1.45 : 0) + rows_width + 14 * s);
        margin_bottom = 24 * s + (*p->xlabel ? label * 1.5 : 0) + below + 12 * s;
        wide = p->w - margin_left - margin_right, high = p->h - top - margin_bottom;
        if (wide < 40 || high < 40) return ploti_fail(p, "%d x %d pixels leave no room for the data", p->w, p->h);
        cell_w = wide / columns, cell_h = high / rows;
        if (rows == columns) cell_w = cell_h = fmin(cell_w, cell_h);
        else cell_w = fmin(cell_w, cell_h * 2.5), cell_h = fmin(cell_h, cell_w * 1.6);
        if (cell_w >= 4 && cell_h >= 4) cell_w = floor(cell_w), cell_h = floor(cell_h);
        below = ploti_categories(NULL, p, 0, cell_w, 0);
        row_size = fmin(tick, fmax(cell_h * 0.9, 15 * s));
    }
    p->left = margin_left, p->top = top, p->right = p->left + cell_w * columns, p->bottom = p->top + cell_h * rows;
    if (!p->sized) {                       // a square map needs no wide sheet; but the title has to fit
        double title = ploti_letters(NULL, p->title, 0, 0, 40 * s, 0, 2.5 * s);
        p->w = (int)fmin(
            p->w, fmax(p->right + margin_right, p->left + fmax(title, ploti_width(p->subtitle, 27 * s)) + 40 * s));
        p->h = (int)fmin(p->h, p->bottom + margin_bottom);
    }
    if (ploti_canvas_new(c, p->w, p->h)) return ploti_fail(p, "out of memory");

    gap = cell_w >= 14 && cell_h >= 14 ? floor(fmax(1, 2 * s)) : 0;
    for (y = (int)p->top; y < (int)p->bottom; y++) for (x = (int)p->left; x < (int)p->right; x++) {
        int column = (int)((x + 0.5 - p->left) / cell_w), row = (int)((y + 0.5 - p->top) / cell_h);
        unsigned char *pixel = c->rgb + 3 * ((size_t)y * (size_t)c->w + (size_t)x);
        double v;
        if (column >= columns || row >= rows) continue;
        if (gap > 0 &&
            (x + 1 - p->left - column * cell_w > cell_w - gap || y + 1 - p->top - row * cell_h > cell_h - gap))
            continue;
        v = p->cells[(size_t)row * p->label_count + (size_t)column];
        ploti_blend(pixel, ploti_usable(v) ? ploti_heat_color((v - lo) / (hi - lo), two_sided) : ploti_rgb(0xe4e4e4),
                    1);
    }
    if (p->values[0]) for (y = 0; y < rows; y++) for (x = 0; x < columns; x++) {
        double v = p->cells[(size_t)y * p->label_count + (size_t)x], size = fmin(26 * s, cell_h * 0.55), fits;
        ploti_color under;
        if (!ploti_usable(v)) continue;
        ploti_value_text(p, v, text);
        fits = ploti_width(text, size);
        if (fits > (cell_w - gap) * 0.86) size *= (cell_w - gap) * 0.86 / fits;
        if (size < 9) continue;
        under = ploti_heat_color((v - lo) / (hi - lo), two_sided);
        ploti_text(c, text, p->left + (x + 0.5) * cell_w - gap / 2, p->top + (y + 0.5) * cell_h - gap / 2 + size * 0.35,
                   size, 0, PLOTI_MIDDLE, under.r * 3 + under.g * 6 + under.b < 1350 ? 0xffffff : 0x222222);
    }
    while (row_size * 1.02 > cell_h * stride)
        stride = p->row_labels ? stride + 1 : stride % 3 == 2 ? stride / 2 * 5 : stride * 2;
    for (y = 0; y < rows; y += stride) {
        const char *name = p->row_labels ? p->row_labels[y] : (sprintf(number, "%d", y), number);
        ploti_text(c, ploti_fit(name, row_size, 0.3 * p->w, 1, text), p->left - 14 * s,
                   p->top + (y + 0.5) * cell_h + row_size * 0.33, row_size, 0, PLOTI_RIGHT, 0x444444);
    }
    ploti_categories(c, p, p->left, cell_w, p->bottom + 8 * s);

    bar_x = p->right + 34 * s, scale.from = p->bottom, scale.to = p->top;
    for (y = (int)p->top; y < (int)p->bottom; y++) {
        double t = (p->bottom - y - 0.5) / (p->bottom - p->top);
        for (x = (int)bar_x; x < (int)(bar_x + 30 * s) && x < c->w; x++)
            ploti_blend(c->rgb + 3 * ((size_t)y * (size_t)c->w + (size_t)x), ploti_heat_color(t, two_sided), 1);
    }
    for (x = 0; x < ticks.n; x++) {
        double at = ploti_tick_pixel(&scale, ticks.at[x]);
        ploti_rule(c, bar_x + 30 * s, at, bar_x + 37 * s, at, 2 * s, 0x888888);
        ploti_text(c, ticks.text[x], bar_x + 44 * s, at + tick * 0.33, tick, 0, 0, 0x444444);
    }
    if (p->heat_label)
        ploti_text(c, p->heat_label, bar_x + 44 * s + ploti_widest(&ticks, tick) + label * 1.2,
                   (p->top + p->bottom) / 2, label, 1.5707963, PLOTI_MIDDLE, 0x222222);
    if (*p->xlabel)
        ploti_text(c, p->xlabel, (p->left + p->right) / 2, p->bottom + 12 * s + below + label * 1.15, label, 0,
                   PLOTI_MIDDLE, 0x222222);
    if (*p->ylabel)
        ploti_text(c, p->ylabel, 26 * s + label * 0.75, (p->top + p->bottom) / 2, label, 1.5707963, PLOTI_MIDDLE,
                   0x222222);
    ploti_titles(c, p, p->left, p->w - 20 * s);
    return 0;
}

// ------------------------------------------------------------------------------------------------ graphs
//
// Layers, after Sugiyama, Tagawa and Toda (1981): 1. every node goes one layer after the last of its operands; 2. an
// edge that passes layers gets a bend in each; 3. layers are reordered, each by the mean place of its neighbours, to
// and fro, and the order with the fewest crossings is kept; 4. nodes move towards the mean of their neighbours as far
// as the space between them allows.

typedef struct ploti_graph {
    ploti_node *v;                         // the nodes, then the bends
    int n, bends, layers, links;
    int *layer, *start; // nodes of layer r in their order: layer[start[r]] to layer[start[r + 1] - 1]
    int *up, *up_start, *down, *down_start;                    // neighbours in the layer before and after
    int *first_bend, *scratch, *best;
    ploti_edge *link;                      // edges between neighbouring layers
    double *value, *weight, *width;        // layers' places and widths, and room for step 4
} ploti_graph;

static void ploti_graph_free(ploti_graph *g) {
    free(g->v), free(g->layer), free(g->start), free(g->up), free(g->up_start), free(g->down), free(g->down_start);
    free(g->first_bend), free(g->scratch), free(g->best), free(g->link), free(g->value), free(g->weight),
        free(g->width);
}

static void *ploti_room(int n, size_t size) { return calloc((size_t)n + 2, size); }

// Step 1. Nodes are taken when all their operands are; what then remains lies on a cycle.
static int ploti_graph_rank(plot *p, ploti_graph *g) {
    int *waiting = (int *)ploti_room(p->node_count, sizeof(int)),
        *queue = (int *)ploti_room(p->node_count, sizeof(int));
    int i, head, tail = 0, status = 0;
    if (!waiting || !queue) { free(waiting), free(queue); return ploti_fail(p, "out of memory"); }
    for (i = 0; i < p->edge_count; i++) waiting[p->edges[i].to]++;
    for (i = 0; i < p->node_count; i++) if (!waiting[i]) queue[tail++] = i;
    for (head = 0; head < tail; head++)
        for (i = 0; i < p->edge_count; i++) if (p->edges[i].from == queue[head]) {
            ploti_node *to = &g->v[p->edges[i].to];
            if (to->rank <= g->v[queue[head]].rank) to->rank = g->v[queue[head]].rank + 1;
            if (!--waiting[p->edges[i].to]) queue[tail++] = p->edges[i].to;
        }
    if (tail < p->node_count) status = ploti_fail(p, "the graph has a cycle");
    memset(waiting, 0, (size_t)p->node_count * sizeof(int));
    for (i = 0; i < p->edge_count; i++) waiting[p->edges[i].to]++;
    for (head = 0; head < p->node_count; head++)
        if (!waiting[head]) { // inputs stand just before their first use
            int least = -1;
            for (i = 0; i < p->edge_count; i++)
                if (p->edges[i].from == head && (least < 0 || g->v[p->edges[i].to].rank < least))
                    least = g->v[p->edges[i].to].rank;
            if (least > 0) g->v[head].rank = least - 1;
        }
    for (i = 0; i < p->node_count; i++) if (g->v[i].rank + 1 > g->layers) g->layers = g->v[i].rank + 1;
    free(waiting), free(queue);
    return status;
}

// Step 2, and the lists of neighbours.
static int ploti_graph_bends(plot *p, ploti_graph *g) {
    int i, k, at, total = p->node_count;
    ploti_node *larger;
    for (i = 0; i < p->edge_count; i++) {
        g->links += g->v[p->edges[i].to].rank - g->v[p->edges[i].from].rank;
        if (g->links > 20000) return ploti_fail(p, "the graph is too large to draw");
    }
    g->bends = g->links - p->edge_count, g->n = total + g->bends;
    larger = (ploti_node *)realloc(g->v, ((size_t)g->n + 1) * sizeof *larger);
    if (larger) g->v = larger, memset(g->v + total, 0, (size_t)(g->bends + 1) * sizeof *larger);
    g->link = (ploti_edge *)ploti_room(g->links, sizeof(ploti_edge)),
    g->first_bend = (int *)ploti_room(p->edge_count, sizeof(int));
    g->layer = (int *)ploti_room(g->n, sizeof(int)), g->start = (int *)ploti_room(g->layers, sizeof(int));
    g->up = (int *)ploti_room(g->links, sizeof(int)), g->down = (int *)ploti_room(g->links, sizeof(int));
    g->up_start = (int *)ploti_room(g->n, sizeof(int)), g->down_start = (int *)ploti_room(g->n, sizeof(int));
    g->scratch = (int *)ploti_room(g->n, sizeof(int)), g->best = (int *)ploti_room(g->n, sizeof(int));
    g->value = (double *)ploti_room(g->n, sizeof(double)), g->weight = (double *)ploti_room(g->n, sizeof(double)),
    g->width = (double *)ploti_room(g->n, sizeof(double));
    if (!larger || !g->link || !g->first_bend || !g->layer || !g->start || !g->up || !g->down || !g->up_start ||
        !g->down_start || !g->scratch || !g->best || !g->value || !g->weight || !g->width)
        return ploti_fail(p, "out of memory");
    for (i = k = 0; i < p->edge_count; i++) {
        int from = p->edges[i].from, to = p->edges[i].to, r;
        g->first_bend[i] = total;
        for (r = g->v[from].rank + 1, at = from; r < g->v[to].rank; r++, at = total++) {
            g->v[total].rank = r, g->v[total].bend = 1, g->v[total].across = 10;
            g->link[k].from = at, g->link[k++].to = total;
        }
        g->link[k].from = at, g->link[k++].to = to;
    }
    for (i = 0; i < k; i++) g->down_start[g->link[i].from + 1]++, g->up_start[g->link[i].to + 1]++;
    for (i = 0; i < g->n; i++) g->down_start[i + 1] += g->down_start[i], g->up_start[i + 1] += g->up_start[i];
    memcpy(g->scratch, g->down_start, (size_t)g->n * sizeof(int));
    for (i = 0; i < k; i++) g->down[g->scratch[g->link[i].from]++] = g->link[i].to;
    memcpy(g->scratch, g->up_start, (size_t)g->n * sizeof(int));
    for (i = 0; i < k; i++) g->up[g->scratch[g->link[i].to]++] = g->link[i].from;
    for (i = 0; i < g->n; i++) g->start[g->v[i].rank + 1]++;
    for (i = 0; i < g->layers; i++) g->start[i + 1] += g->start[i];
    memcpy(g->scratch, g->start, (size_t)g->layers * sizeof(int));
    for (i = 0; i < g->n; i++)
        g->v[i].order = g->scratch[g->v[i].rank] - g->start[g->v[i].rank], g->layer[g->scratch[g->v[i].rank]++] = i;
    return 0;
}

// How many pairs of links of u and v, two nodes of one layer, cross when u stands before v.
static long ploti_crossings_of(const ploti_graph *g, int u, int v, const int *list, const int *start) {
    long count = 0;
    int i, k;
    for (i = start[u]; i < start[u + 1]; i++)
        for (k = start[v]; k < start[v + 1]; k++) count += g->v[list[i]].order > g->v[list[k]].order;
    return count;
}

static long ploti_crossings(const ploti_graph *g) {
    long count = 0;
    int r, i, k;
    for (r = 0; r + 1 < g->layers; r++)
        for (i = g->start[r]; i < g->start[r + 1]; i++)
            for (k = i + 1; k < g->start[r + 1]; k++)
                count += ploti_crossings_of(g, g->layer[i], g->layer[k], g->down, g->down_start);
    return count;
}

// Sorts a layer by `wanted`; equal ones keep their order.
static void ploti_sort_layer(ploti_graph *g, int r) {
    int i, k;
    for (i = g->start[r] + 1; i < g->start[r + 1]; i++) {
        int node = g->layer[i];
        for (k = i; k > g->start[r] && g->v[g->layer[k - 1]].wanted > g->v[node].wanted; k--)
            g->layer[k] = g->layer[k - 1];
        g->layer[k] = node;
    }
    for (i = g->start[r]; i < g->start[r + 1]; i++) g->v[g->layer[i]].order = i - g->start[r];
}

// Step 3.
static void ploti_graph_order(ploti_graph *g) {
    long best, now;
    int turn, r, i, k, turns = g->links < 3000 ? 40 : 8, moved;
    memcpy(g->best, g->layer, (size_t)g->n * sizeof(int));
    best = ploti_crossings(g);
    for (turn = 0; turn < turns && best; turn++) {
        for (k = 1; k < g->layers; k++) {
            const int *list = turn & 1 ? g->down : g->up, *start = turn & 1 ? g->down_start : g->up_start;
            r = turn & 1 ? g->layers - 1 - k : k;
            for (i = g->start[r]; i < g->start[r + 1]; i++) {
                ploti_node *node = &g->v[g->layer[i]];
                int u = g->layer[i], e;
                double sum = 0;
                for (e = start[u]; e < start[u + 1]; e++) sum += g->v[list[e]].order;
                node->wanted = start[u] == start[u + 1] ? node->order : sum / (start[u + 1] - start[u]);
            }
            ploti_sort_layer(g, r);
        }
        // Neighbours change places where that saves crossings: it finds what means of places cannot see.
        for (moved = 1, k = 0; moved && k < 8; k++)
            for (moved = 0, r = 0; r < g->layers; r++)
                for (i = g->start[r]; i + 1 < g->start[r + 1]; i++) {
                    int u = g->layer[i], v = g->layer[i + 1];
                    long keep = ploti_crossings_of(g, u, v, g->up, g->up_start) +
                                ploti_crossings_of(g, u, v, g->down, g->down_start);
                    long swap = ploti_crossings_of(g, v, u, g->up, g->up_start) +
                                ploti_crossings_of(g, v, u, g->down, g->down_start);
                    if (swap >= keep) continue;
                    g->layer[i] = v, g->layer[i + 1] = u, g->v[v].order--, g->v[u].order++, moved = 1;
                }
        now = ploti_crossings(g);
        if (now < best) best = now, memcpy(g->best, g->layer, (size_t)g->n * sizeof(int));
    }
    memcpy(g->layer, g->best, (size_t)g->n * sizeof(int));
    for (r = 0; r < g->layers; r++)
        for (i = g->start[r]; i < g->start[r + 1]; i++) g->v[g->layer[i]].order = i - g->start[r];
}

static double ploti_apart(const ploti_node *a, const ploti_node *b) {
    return (a->across + b->across) / 2 + (a->bend && b->bend ? 16 : a->bend || b->bend ? 22 : 30);
}

// Places a layer: the least squared distance from the wanted places that keeps neighbours apart. With the room between
// them taken out this is the regression by a rising sequence, which pooling solves exactly: who would overtake his
// neighbour joins him at their mean.
static void ploti_place_layer(ploti_graph *g, int r) {
    int i, blocks = 0, n = g->start[r + 1] - g->start[r], *ends = g->scratch;
    double offset = 0;
    for (i = 0; i < n; i++) {
        ploti_node *node = &g->v[g->layer[g->start[r] + i]];
        double weight = node->bend ? 1 : 2;
        if (i) offset += ploti_apart(&g->v[g->layer[g->start[r] + i - 1]], node);
        g->value[blocks] = node->wanted - offset, g->weight[blocks] = weight, ends[blocks++] = i + 1;
        while (blocks > 1 && g->value[blocks - 2] > g->value[blocks - 1]) {
            double a = g->weight[blocks - 2], b = g->weight[blocks - 1];
            g->value[blocks - 2] = (g->value[blocks - 2] * a + g->value[blocks - 1] * b) / (a + b),
                              g->weight[blocks - 2] = a + b;
            ends[blocks - 2] = ends[blocks - 1], blocks--;
        }
    }
    for (i = 0, offset = 0, blocks = 0; i < n; i++) {
        ploti_node *node = &g->v[g->layer[g->start[r] + i]];
        if (i) offset += ploti_apart(&g->v[g->layer[g->start[r] + i - 1]], node);
        if (i == ends[blocks]) blocks++;
        node->at = g->value[blocks] + offset;
    }
}

// Step 4. Links between bends pull eight times as hard, so that long edges run straight.
static void ploti_graph_place(ploti_graph *g) {
    int turn, r, i, k, e, turns = 60;
    for (r = 0; r < g->layers; r++) {
        for (i = g->start[r]; i < g->start[r + 1]; i++)
            g->v[g->layer[i]].wanted = 60.0 * (i - (g->start[r] + g->start[r + 1]) / 2.0);
        ploti_place_layer(g, r);
    }
    for (turn = 0; turn < turns; turn++) for (k = 0; k < g->layers; k++) {
        int both = turn >= turns - 20;     // first towards one side, then the other, at last towards both
        r = turn & 1 ? g->layers - 1 - k : k;
        for (i = g->start[r]; i < g->start[r + 1]; i++) {
            int u = g->layer[i];
            double sum = 0, mass = 0, w;
            if (both || !(turn & 1)) for (e = g->up_start[u]; e < g->up_start[u + 1]; e++)
                w = g->v[u].bend && g->v[g->up[e]].bend ? 8 : 1, sum += w * g->v[g->up[e]].at, mass += w;
            if (both || (turn & 1)) for (e = g->down_start[u]; e < g->down_start[u + 1]; e++)
                w = g->v[u].bend && g->v[g->down[e]].bend ? 8 : 1, sum += w * g->v[g->down[e]].at, mass += w;
            g->v[u].wanted = mass > 0 ? sum / mass : g->v[u].at;
        }
        ploti_place_layer(g, r);
    }
}

enum { PLOTI_FONT = 25, PLOTI_ROW = 38, PLOTI_ARROW = 30 };    // in a graph, before scaling

// The next cell of a label, without the spaces around it; NULL at the end.
static const char *ploti_graph_cell(const char *s, char *out) {
    size_t n = strcspn(s, "|"), from = 0, to = n;
    while (from < to && s[from] == ' ') from++;
    while (to > from && s[to - 1] == ' ') to--;
    memcpy(out, s + from, to - from), out[to - from] = 0;
    return s[n] ? s + n + 1 : NULL;
}

static void ploti_graph_measure(const plot *p, ploti_node *v) {
    double widest = 0, sum = 0, round = 0, long_side, short_side;
    int cells = 0;
    char cell[PLOTI_TEXT + 1];
    const char *s = v->label;
    while (s) {
        double w;
        s = ploti_graph_cell(s, cell);
        w = ploti_letters(NULL, cell, 0, 0, PLOTI_FONT, 0, PLOTI_FONT * (cells ? 0.042 : 0.062)) + 30;
        widest = fmax(widest, w), sum += w, cells++;
    }
    if (v->op) round = fmax(48, ploti_width(v->op, PLOTI_FONT) + 24);
    long_side = p->down ? PLOTI_ROW + 8 : fmax(widest, 56);
    short_side = p->down ? fmax(sum, 56) : cells * PLOTI_ROW + 8;
    if (!cells) long_side = short_side = 0;
    v->box = long_side, v->circle = round;
    v->along = long_side + round + (cells && round > 0 ? PLOTI_ARROW : 0), v->across = fmax(short_side, round);
}

// From (along, across) to pixels: along is to the right, or downwards with plot_down.
typedef struct ploti_view { double x, y, k; int down; } ploti_view;

static void ploti_link_draw(ploti_canvas *c, const ploti_view *v, double a0, double b0, double a1, double b1,
                            double slope0, double slope1) {
    int i;
    double px = 0, py = 0, bend = (a1 - a0) * 0.5;
    for (i = 0; i <= 28; i++) {            // a cubic that leaves and arrives with the given slopes
        double t = i / 28.0, u = 1 - t, w0 = 3 * u * u * t, w1 = 3 * u * t * t;
        double a = u * u * u * a0 + w0 * (a0 + bend) + w1 * (a1 - bend) + t * t * t * a1;
        double b = u * u * u * b0 + w0 * (b0 + slope0 * bend) + w1 * (b1 - slope1 * bend) + t * t * t * b1;
        double x = v->x + v->k * (v->down ? b : a), y = v->y + v->k * (v->down ? a : b);
        if (i) ploti_stroke(c, px, py, x, y, 1.25 * v->k);
        px = x, py = y;
    }
}

static void ploti_arrow_draw(ploti_canvas *c, const ploti_view *v, double a, double b) {
    static const double shape[6] = {0, 0, -13, -6, -13, 6};
    double q[6];
    int i;
    for (i = 0; i < 6; i += 2) {
        q[i] = v->x + v->k * (v->down ? b + shape[i + 1] : a + shape[i]);
        q[i + 1] = v->y + v->k * (v->down ? a + shape[i] : b + shape[i + 1]);
    }
    ploti_triangle(c, q);
}

// Where along the side of a node its i-th link arrives or leaves: in the order of the other ends, so that links do not
// cross there.
static double ploti_port(const ploti_graph *g, int node, int link, int arriving) {
    const int *start = arriving ? g->up_start : g->down_start;
    int i, before = 0, count = start[node + 1] - start[node];
    const ploti_edge *mine = &g->link[link];
    double other = g->v[arriving ? mine->from : mine->to].at, gap;
    for (i = 0; i < g->links; i++) {
        const ploti_edge *e = &g->link[i];
        double at;
        if ((arriving ? e->to : e->from) != node || i == link) continue;
        at = g->v[arriving ? e->from : e->to].at;
        before += at < other || (at == other && i < link);
    }
    gap = fmin(14, (arriving && g->v[node].circle > 0 ? g->v[node].circle : g->v[node].across) * 0.6 / count);
    return g->v[node].bend ? g->v[node].at : g->v[node].at + (before - (count - 1) / 2.0) * gap;
}

static void ploti_node_draw(ploti_canvas *c, const plot *p, const ploti_node *v, const ploti_view *view, double a,
                            int input, int output) {
    double k = view->k, middle = v->at, r = v->circle / 2, x, y, size = PLOTI_FONT * k;
    char cell[PLOTI_TEXT + 1];
    if (v->op) {
        double ca = a + r;
        x = view->x + k * (view->down ? middle : ca), y = view->y + k * (view->down ? ca : middle);
        ploti_stroke(c, x, y, x, y, r * k), ploti_paint(c, ploti_rgb(0xd55e00), 1);
        ploti_stroke(c, x, y, x, y, (r - 2.4) * k), ploti_paint(c, ploti_rgb(0xfdeee3), 1);
        ploti_text(c, v->op, x, y + size * 0.33, size, 0, PLOTI_MIDDLE | PLOTI_BOLD, 0x8a3c00);
        a += v->circle;
        if (v->label) {
            ploti_link_draw(c, view, a, middle, a + PLOTI_ARROW - 6, middle, 0, 0);
            ploti_arrow_draw(c, view, a + PLOTI_ARROW - 1, middle);
            ploti_paint(c, ploti_rgb(0x777777), 1);
            a += PLOTI_ARROW;
        }
    }
    if (v->label) {
        double half = v->across / 2, x0, y0, x1, y1, at;
        int cells = 0;
        const char *s = v->label;
        if (!p->down) {                    // the box may be lower than the circle is high
            int count = 1;
            for (; *s; s++) count += *s == '|';
            half = (count * PLOTI_ROW + 8) / 2.0, s = v->label;
        }
        x0 = view->x + k * (view->down ? middle - half : a), y0 = view->y + k * (view->down ? a : middle - half);
        x1 = x0 + k * (view->down ? 2 * half : v->box), y1 = y0 + k * (view->down ? v->box : 2 * half);
        ploti_box(c, x0, y0, x1, y1, 9 * k);
        ploti_paint(c, ploti_rgb(output ? 0x009e73 : input ? 0xc79a00 : 0x0072b2), 1);
        ploti_box(c, x0 + 2.4 * k, y0 + 2.4 * k, x1 - 2.4 * k, y1 - 2.4 * k, 6.8 * k);
        ploti_paint(c, ploti_rgb(output ? 0xe6f5f0 : input ? 0xfff8e1 : 0xeaf3fa), 1);
        for (at = 0; s; cells++) {
            double w, bold = cells == 0;
            s = ploti_graph_cell(s, cell);
            w = ploti_letters(NULL, cell, 0, 0, PLOTI_FONT, 0, PLOTI_FONT * (cells ? 0.042 : 0.062)) + 30;
            if (p->down) {
                if (!s && !cells) w = 2 * half;
                if (cells) ploti_rule(c, x0 + at * k, y0 + 3 * k, x0 + at * k, y1 - 3 * k, 1.4 * k, 0xb5c7d6);
                ploti_text(c, cell, x0 + (at + w / 2) * k, (y0 + y1) / 2 + size * 0.33, size, 0,
                           PLOTI_MIDDLE | (bold > 0 ? PLOTI_BOLD : 0), 0x222222);
                at += w;
            } else {
                if (cells)
                    ploti_rule(c, x0 + 3 * k, y0 + (4 + at) * k, x1 - 3 * k, y0 + (4 + at) * k, 1.4 * k, 0xb5c7d6);
                ploti_text(c, cell, (x0 + x1) / 2, y0 + (4 + at + PLOTI_ROW / 2.0) * k + size * 0.33, size, 0,
                           PLOTI_MIDDLE | (bold > 0 ? PLOTI_BOLD : 0), 0x222222);
                at += PLOTI_ROW;
            }
        }
    }
}

static int ploti_graph_draw(plot *p, ploti_canvas *c, ploti_graph *g) {
    double lo = 1e300, hi = -1e300, along = 0, head = ploti_titles_height(p) / p->scale, margin = 44, wide, high, k = 1;
    int i, r, e;
    ploti_view view;
    g->v = (ploti_node *)calloc((size_t)p->node_count + 1, sizeof *g->v);
    if (!g->v) return ploti_fail(p, "out of memory");
    memcpy(g->v, p->nodes, (size_t)p->node_count * sizeof *g->v);
    for (i = 0; i < p->node_count; i++) ploti_graph_measure(p, &g->v[i]);
    if (ploti_graph_rank(p, g) || ploti_graph_bends(p, g)) return -1;
    ploti_graph_order(g);
    ploti_graph_place(g);
    for (i = 0; i < g->n; i++)
        lo = fmin(lo, g->v[i].at - g->v[i].across / 2), hi = fmax(hi, g->v[i].at + g->v[i].across / 2);
    for (r = 0; r < g->layers; r++) {      // value: where a layer begins
        double steep = 0;
        g->width[r] = 0;
        for (i = g->start[r]; i < g->start[r + 1]; i++) {
            int u = g->layer[i];
            g->width[r] = fmax(g->width[r], g->v[u].along);
            for (e = g->down_start[u]; e < g->down_start[u + 1]; e++)
                steep = fmax(steep, fabs(g->v[u].at - g->v[g->down[e]].at));
        }
        g->value[r] = along;
        along += g->width[r] + (r + 1 < g->layers ? 60 + fmin(110, steep * 0.16) : 0);
    }
    for (i = 0; i < g->n; i++) {           // wanted: from here the slope of a bend, 0 where its edge turns back
        double before, after, most;
        g->v[i].wanted = 0;
        if (!g->v[i].bend) continue;
        before = g->v[i].at - g->v[g->up[g->up_start[i]]].at, after = g->v[g->down[g->down_start[i]]].at - g->v[i].at;
        most = fmin(0.1, 24 / fmax(1, g->width[g->v[i].rank]));                // stays clear of its neighbours
        if (before * after > 0)
            g->v[i].wanted = (before > 0 ? 1 : -1) * fmin(most, fmin(fabs(before), fabs(after)) / 200);
    }
    wide = (p->down ? hi - lo : along) + 2 * margin, high = (p->down ? along : hi - lo) + 2 * margin - 10;
    if (p->sized) k = fmin(p->w / wide, p->h / (high + head));
    else {
        if (fmax(wide, high + head) > 16000) k = 16000 / fmax(wide, high + head);
        if (wide * (high + head) * k * k > PLOTI_PIXELS / 2) k = sqrt(PLOTI_PIXELS / 2 / (wide * (high + head)));
        p->w = (int)fmax(wide * k + 1,
                         fmax(320, ploti_letters(NULL, p->title, 0, 0, 40 * k, 0, 2.5 * k) + 2 * margin * k));
        p->w = (int)fmax(p->w, ploti_width(p->subtitle, 27 * k) + 2 * margin * k);
        p->h = (int)((high + head) * k) + 1;
    }
    if (k < 0.02) return ploti_fail(p, "the graph is too large for %d x %d pixels", p->w, p->h);
    if (ploti_canvas_new(c, p->w, p->h)) return ploti_fail(p, "out of memory");
    p->scale = k;
    view.k = k, view.down = p->down;
    view.x = (p->w - wide * k) / 2 + margin * k - (p->down ? lo * k : 0);
    view.y = (p->h + head * k - high * k) / 2 + (margin - 10) * k - (p->down ? 0 : lo * k);
    for (i = 0; i < g->links; i++) {
        const ploti_node *from = &g->v[g->link[i].from], *to = &g->v[g->link[i].to];
        double a0 =
            g->value[from->rank] + (from->bend ? g->width[from->rank] : (g->width[from->rank] + from->along) / 2);
        double a1 = g->value[to->rank] + (to->bend ? 0 : (g->width[to->rank] - to->along) / 2);
        double b0 = ploti_port(g, g->link[i].from, i, 0), b1 = ploti_port(g, g->link[i].to, i, 1);
        if (!to->bend && to->circle > 0) {             // a circle curves away from its outer links
            double away = b1 - to->at, radius = to->circle / 2;
            a1 += radius - sqrt(fmax(0, radius * radius - away * away));
        }
        if (from->bend) { // through its layer on a slant, which saves the long edges from looking like stairs
            double half = from->wanted * g->width[from->rank] / 2;
            b0 = from->at + half;
            ploti_link_draw(c, &view, g->value[from->rank], from->at - half, a0, b0, from->wanted, from->wanted);
        } else if (a0 < g->value[from->rank] + g->width[from->rank]) { // straight to the end of its own layer
            ploti_link_draw(c, &view, a0, b0, g->value[from->rank] + g->width[from->rank], b0, 0, 0);
            a0 = g->value[from->rank] + g->width[from->rank];
        }
        if (to->bend) {
            b1 = to->at - to->wanted * g->width[to->rank] / 2;
            ploti_link_draw(c, &view, a0, b0, a1, b1, from->wanted, to->wanted);
        } else {
            double layer = fmin(g->value[to->rank], a1 - 8);
            ploti_link_draw(c, &view, a0, b0, layer, b1, from->wanted, 0);
            ploti_link_draw(c, &view, layer, b1, a1 - 8, b1, 0, 0), ploti_arrow_draw(c, &view, a1 - 1, b1);
        }
        ploti_paint(c, ploti_rgb(0x777777), 1);
    }
    for (i = 0; i < p->node_count; i++)
        ploti_node_draw(c, p, &g->v[i], &view, g->value[g->v[i].rank] + (g->width[g->v[i].rank] - g->v[i].along) / 2,
                        g->up_start[i] == g->up_start[i + 1], g->down_start[i] == g->down_start[i + 1]);
    ploti_titles(c, p, margin * k, p->w - margin * k);
    return 0;
}

// ------------------------------------------------------------------------------------------------ files

// Draws the plot on a new canvas. What the drawing changes in the plot is put back, so a plot can be saved twice.
static int ploti_render(plot *p, ploti_canvas *c) {
    ploti_axis x = p->x, y = p->y;
    int w = p->w, h = p->h, status;
    memset(c, 0, sizeof *c);
    if (p->failed) return -1;
    p->scale = pow(fmin(p->w / 1600.0, p->h / 1000.0), 0.75);
    if (p->node_count) {
        ploti_graph g;
        memset(&g, 0, sizeof g);
        if (!p->sized) p->scale = 1;
        status = ploti_graph_draw(p, c, &g);
        ploti_graph_free(&g);
    } else if (p->cells) status = ploti_heat(p, c);
    else status = ploti_canvas_new(c, p->w, p->h) ? ploti_fail(p, "out of memory") : ploti_chart(p, c);
    p->x = x, p->y = y, p->w = w, p->h = h;
    if (status) ploti_canvas_free(c);
    return status;
}

// Puts n plots into one picture, in rows of `columns`. Errors are kept by the first plot.
PLOT_FN int plot_save_grid(plot **plots, int n, int columns, const char *path) {
#if PLOTI_PNG
    ploti_canvas *parts, whole;
    int i, status = 0, length = 0, rows;
    long long wide = 0, high = 0;
    int *column_w, *row_h;
    unsigned char *png = NULL;
    plot *first = plots && n > 0 ? plots[0] : NULL;
    if (!first) return -1;
    if (n > 1024 || columns < 1) return ploti_fail(first, "plot_save_grid: %d plots in %d columns", n, columns);
    for (i = 0; i < n; i++) if (!plots[i]) return ploti_fail(first, "plot_save_grid: plot %d is NULL", i);
    if (columns > n) columns = n;
    rows = (n + columns - 1) / columns;
    memset(&whole, 0, sizeof whole);
    parts = (ploti_canvas *)calloc((size_t)n, sizeof *parts);
    column_w = (int *)calloc((size_t)columns, sizeof(int)), row_h = (int *)calloc((size_t)rows, sizeof(int));
    if (!parts || !column_w || !row_h) status = ploti_fail(first, "out of memory");
    for (i = 0; i < n && !status; i++) {
        status = ploti_render(plots[i], &parts[i]);
        if (status && plots[i] != first) ploti_fail(first, "plot %d: %.150s", i, plots[i]->error);
        if (parts[i].w > column_w[i % columns]) column_w[i % columns] = parts[i].w;
        if (parts[i].h > row_h[i / columns]) row_h[i / columns] = parts[i].h;
    }
    for (i = 0; i < columns && !status; i++) wide += column_w[i];
    for (i = 0; i < rows && !status; i++) high += row_h[i];
    if (!status && (wide > PLOT_SIDE || high > PLOT_SIDE || wide * high > PLOTI_PIXELS))
        status = ploti_fail(first, "a picture of %.0f x %.0f pixels is too large", (double)wide, (double)high);
    if (!status && n > 1 && ploti_canvas_new(&whole, (int)wide, (int)high)) status = ploti_fail(first, "out of memory");
    for (i = 0; i < n && !status && n > 1; i++) {
        int x0 = 0, y0 = 0, k, y;
        for (k = 0; k < i % columns; k++) x0 += column_w[k];
        for (k = 0; k < i / columns; k++) y0 += row_h[k];
        for (y = 0; y < parts[i].h; y++)
            memcpy(whole.rgb + 3 * ((size_t)(y0 + y) * (size_t)whole.w + (size_t)x0),
                   parts[i].rgb + 3 * (size_t)y * (size_t)parts[i].w, 3 * (size_t)parts[i].w);
    }
    if (!status) {
        ploti_canvas *c = n > 1 ? &whole : &parts[0];
        png = stbi_write_png_to_mem(c->rgb, c->w * 3, c->w, c->h, 3, &length);
        if (!png) status = ploti_fail(first, "out of memory");
    }
    if (!status) {                         // a full disk shows at fwrite or not before fclose
        FILE *f = fopen(path, "wb");
        int bad = !f;
        if (f) bad = fwrite(png, 1, (size_t)length, f) != (size_t)length, bad |= fclose(f) != 0;
        if (bad) status = ploti_fail(first, "cannot write %.100s: %s", path, strerror(errno));
    }
    if (png) STBIW_FREE(png);
    for (i = 0; parts && i < n; i++) ploti_canvas_free(&parts[i]);
    ploti_canvas_free(&whole);
    free(parts), free(column_w), free(row_h);
    return status;
#else
    static int told;
    (void)columns, (void)path, (void)ploti_render;
    if (!plots || n < 1 || !plots[0]) return -1;
    if (!told++)
        puts("plots: compiled without stb_image_write.h (Debian: apt-get install libstb-dev), so csv files only");
    return plots[0]->failed ? -1 : 1;
#endif
}

PLOT_FN int plot_save(plot *p, const char *path) { return plot_save_grid(&p, 1, 1, path); }

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC pop_options
#endif

#endif
