// damage.h - hostile files for the tests of the loaders: numbers at which something overflows, and random damage.

#ifndef DAMAGE_H
#define DAMAGE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

// Numbers at which something overflows, and what is no number.
static const char *const edge_numbers[] = {
    "0", "1", "2", "259", "2147483647", "2147483648", "4294967295", "4294967296", "1073741824", "1073741825",
    "4611686018427387904", "9223372036854775807", "9223372036854775808", "18446744073709551612",
    "18446744073709551615", "18446744073709551616", "-1", "-0", "1.5", "1e3", "0x1", "00", "+1", "", "null", "\"1\"",
    "99999999999999999999999999999999999999"};
enum { EDGE_NUMBERS = sizeof edge_numbers / sizeof *edge_numbers };

// Changes p (n bytes, room for cap), most of the time among its first `head` bytes: flips, deletions, duplications,
// splices, boundary values, other numbers. below(k) draws one of 0..k-1. Returns the new length.
static size_t mutate(char *p, size_t n, size_t cap, size_t head, const char *other, size_t other_n,
                     size_t (*below)(size_t)) {
    static const uint64_t edges[] = {0, 1, 2, 7, 127, 255, 65535, 0x7F800000, 0x7FFFFFFF, 0x80000000u, 0xFFFFFFFFu,
                                     0x100000000ull, 1ull << 62, (1ull << 63) - 1, 1ull << 63, ~0ull, ~0ull - 3};
    static const char letters[] = "0123456789\"{}[],:\\u- \n=A";
    for (size_t times = 1 + below(3); times && n; times--) {
        size_t area = below(8) && head < n ? head : n, at = below(area), length = 1 + below(below(4) ? 12 : 200), k;
        switch (below(10)) {
        case 0: case 1: p[at] ^= (char)(1u << below(8)); break;
        case 2: p[at] = (char)below(256); break;
        case 3:                                         // delete
            if (length > n - at) length = n - at;
            memmove(p + at, p + at + length, n - at - length), n -= length;
            break;
        case 4:                                         // duplicate
            if (length > n - at) length = n - at;
            if (n + length > cap) break;
            memmove(p + at + length, p + at, n - at), n += length;
            break;
        case 5:                                         // splice: a part of another file
            k = below(other_n);
            if (length > other_n - k) length = other_n - k;
            if (n + length > cap) break;
            memmove(p + at + length, p + at, n - at), memcpy(p + at, other + k, length), n += length;
            break;
        case 6:                                         // a boundary value in four or eight bytes, mostly where one is
            k = below(2) ? 4 : 8, at -= below(4) ? at % 4 : 0;
            if (at + k > n) break;
            for (uint64_t v = edges[below(sizeof edges / sizeof *edges)], i = 0; i < k; i++, v >>= 8)
                p[at + i] = (char)v;
            break;
        case 7: if (below(4) == 0) n = at; break;       // cut off
        case 8: p[at] = letters[below(sizeof letters - 1)]; break;
        default: {                                      // a number of the text becomes another
            const char *number = edge_numbers[below(EDGE_NUMBERS)];
            size_t size = strlen(number), end;
            while (at < area && (p[at] < '0' || p[at] > '9')) at++;
            for (end = at; end < area && p[end] >= '0' && p[end] <= '9';) end++;
            if (at == area || n - (end - at) + size > cap) break;
            memmove(p + at + size, p + end, n - end), memcpy(p + at, number, size);
            n = n - (end - at) + size;
        } }
    }
    return n;
}

#endif // DAMAGE_H
