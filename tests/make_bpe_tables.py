#!/usr/bin/env python3
"""Writes the Unicode table of bpe.h, between its two marker lines.

    python3 -m venv v && v/bin/pip install tiktoken && v/bin/python tests/make_bpe_tables.py [--check]

The splitters of bpe.h have to agree with tiktoken on every character, so tiktoken itself is asked: an encoding whose
pattern is one character class yields ids for exactly the characters in that class. (Python's own unicodedata is of
another Unicode version.) --check compares instead of writing and exits 1 where the table differs.

A run of equal characters is one digit in base 88 (class * 11 + length - 1), or, for 11 and more, class * 11 + 10 and
then length - 11 in base 44, low digits first, 44 added to all but the last. Digits are the printable characters from
'#' on, without '?' (trigraphs) and the backslash. Class 7 stands for an upper-case and a lower-case letter in turn.
"""
import os
import sys

import tiktoken

LIMIT = 0x32400          # no class but MARK for E0100..E01EF lies above: asserted below
HEADER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "bpe.h")
BEGIN, END = "// Unicode table begins", "// Unicode table ends"
CLASSES = [None, r"\s", r"\p{N}", r"[\p{Lm}\p{Lo}]", r"\p{Ll}", r"[\p{Lu}\p{Lt}]", r"\p{M}"]
BOTH_CASES = 7


def members(pattern):
    core = tiktoken._tiktoken.CoreBPE({bytes([i]): i for i in range(256)}, {}, pattern)
    return [cp for cp in range(0x110000) if not 0xD800 <= cp < 0xE000 and core.encode_ordinary(chr(cp))]


def digit(value):
    code = 35 + value
    code += code >= ord("?")
    return chr(code + (code >= ord("\\")))


def main():
    kind = [0] * 0x110000
    for number, pattern in enumerate(CLASSES):
        for cp in members(pattern) if pattern else []:
            assert kind[cp] == 0, hex(cp)
            kind[cp] = number
    for cp in range(LIMIT, 0x110000):
        assert kind[cp] == (6 if 0xE0100 <= cp <= 0xE01EF else 0), hex(cp)

    pairs = lambda i: kind[i:i + 4] == [5, 4, 5, 4]
    runs, i = [], 0
    while i < LIMIT:
        j = i
        if pairs(i):
            while kind[j:j + 2] == [5, 4]:
                j += 2
            runs.append((BOTH_CASES, j - i))
        else:
            while j < LIMIT and kind[j] == kind[i] and not (j > i and pairs(j)):
                j += 1
            runs.append((kind[i], j - i))
        i = j
    text = ""
    for number, length in runs:
        if length <= 10:
            text += digit(number * 11 + length - 1)
            continue
        text, length = text + digit(number * 11 + 10), length - 11
        while length >= 44:
            text, length = text + digit(44 + length % 44), length // 44
        text += digit(length)
    lines = ['    "%s"' % text[k:k + 112] for k in range(0, len(text), 112)]
    body = "static const char bpei_unicode[] =\n" + "\n".join(lines) + ";\n"
    print(len(runs), "runs,", len(text), "bytes")

    source = open(HEADER, encoding="utf-8").read()
    head, rest = source.split(BEGIN, 1)
    first, rest = rest.split("\n", 1)
    old, tail = rest.split(END, 1)
    if "--check" in sys.argv:
        sys.exit(old != body)
    open(HEADER, "w", encoding="utf-8").write(head + BEGIN + first + "\n" + body + END + tail)


main()
