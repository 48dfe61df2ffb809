#!/usr/bin/env python3
"""Writes golden/bpe_tiktoken.txt and golden/bpe_pieces.txt: what tiktoken and a regular expression engine say.

    python3 -m venv v && v/bin/pip install tiktoken==0.14.0 regex
    v/bin/python tests/make_bpe_golden.py FOLDER_WITH_THE_TIKTOKEN_FILES

Debian's python3-regex will do for the second file; the first needs tiktoken. Nothing is fetched: ranks are read from
the folder. Where ids would fill megabytes the file holds a CRC-32 over them (each list: its length, then its ids, as
little-endian 32-bit numbers), and tests/test_bpe.c makes the same strings with the same generator (SplitMix64).
"""
import os
import struct
import sys
import zlib

import regex
import tiktoken
import tiktoken_ext.openai_public as public
from tiktoken.load import load_tiktoken_bpe

FOLDER = sys.argv[1]
GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "golden")
ENCODINGS = ["r50k_base", "cl100k_base", "o200k_base"]
SPLITS = {"gpt2": "r50k_base", "cl100k": "cl100k_base", "o200k": "o200k_base"}

# From these the random strings are put together: each a place where splitters go wrong.
FRAGMENTS = [
    "'s", "'S", "'t", "'T", "'re", "'RE", "'Re", "'rE", "'ve", "'VE", "'m", "'M", "'ll", "'LL", "'lL", "'d", "'D",
    "'\u017f", "'", "''", "'l", "'v", "'r", " ", "  ", "   ", "\n", "\r\n", "\n\n", "\r", "\t", " \n", "\n ",
    "\u00a0", "\u3000", "\u2028", "\u0085", "\u200b", "\x0b", "a", "A", "aB", "Ab", "hello", "World", "HELLO", " the",
    "1", "12", "123", "1234", "12345", "\u0663", "\u00bd", "\u2167", "\u00b2", "\u00e9", "e\u0301", "\u0301",
    "\u0300\u0301", "\u200d", "\u200c", "\U0001f469\u200d\U0001f469\u200d\U0001f467", "\U0001f44d\U0001f3fd",
    "\U0001f1e9\U0001f1ea", "\U0001f600", "\u4e2d", "\u4e2d\u6587\u5b57", "\u65e5\u672c\u8a9e\u30c6\u30b9\u30c8",
    "\ud55c\uad6d\uc5b4", "\uff8a\uff9d", "\u041f\u0440\u0438\u0432\u0435\u0442", "\u041f\u0420\u0418", "\u01c5",
    "\u01f2", "\u02b0", "\u00aa", "\u00df", "\u1e9e", "\u0130", "\u0131", "\u017f", "\u212a",
    "\u0939\u093f\u0928\u094d\u0926\u0940", "\u0e44\u0e17\u0e22", "\u0627\u0644\u0639\u0631\u0628\u064a\u0629",
    "\u05e9\u05b8\u05c1\u05dc\u05d5\u05b9\u05dd", "\u0395\u03bb\u03bb", "\u03c2", "!", "!!", "...", "/", "//", "/\n",
    "\\", "_", "-", "--", "(", ")", "<|endoftext|>", "<|", "\x00", "\x01", "\x7f", "\ufeff", "\ufffd", "\U000e0100",
    "\U000e0001", "\U0010ffff", "\ud7ff", "\ue000", "@", "#", "$", "\u20ac", "\u201c", "\u2019s", "\u2014", "\u2026",
    "\uff07", "\uff21", "\uff11", "\u24b6", "\u2173", "\u1fb3", "\u1fbc", "\ufb01", "\U0001d400", "\U0001d7d9",
    "\ua66e", "\u0903", "\u20dd", "\u0488"]

# What is thrown into a string to make it invalid: lone bytes, overlong forms, surrogates, beyond the last code point.
STRAY = [
    b"\x80", b"\xbf", b"\xc0", b"\xc1", b"\xe0", b"\xed", b"\xf0", b"\xf4", b"\xf5", b"\xff", b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80", b"\xe0\x80\x80", b"\xc0\x80", b"\xf0\x82\x82\xac", b"\xe4\xb8"]

HARD = [
    "", " ", "  ", "   ", "\n", "\n\n", "\r\n", " \n", "\n ", "  \n  ", "\t\t", "a", " a", "  a", "a ", "a  ",
    "a \n b", "hello world", "Hello World", "hello  world", "hello\nworld", "hello\n\n\nworld", "hello \n\n world",
    "\n  indented", "    four", "\tif (x) {\n\t\treturn;\n\t}\n", "def f(x):\n    return x + 1\n",
    "|Viewing Single Post", " Direction", "ubiquitous", "...............", "9.11", "9.9", "9.11 > 9.9", "1234567890",
    "12 345 6789", "3.14159", "1e-5", "it's we're I'll he'd they've I'm don't",
    "IT'S WE'RE I'LL HE'D THEY'VE I'M DON'T", "'s 't 're", "''s", "'\u017f", "x'", "rock 'n' roll", "O'Neill's",
    "y'all'd've", "HELLO'S", "'S'T", "!'s", " 's", "1's", "\u4e2d's", "e\u0301's", "\u0301's",
    "camelCase PascalCase snake_case SCREAMING_CASE kebab-case", "XMLHttpRequest", "iPhone", "McDonald", "aB", "AbC",
    "ABc", "\u01c5\u01c5a", "\u02b0a\u02b0A", "A\u02b0", "A\u02b0B", "A\u0301B", "\u0301", "\u0301\u0301", "\u0301A",
    "!\u0301", "!\u0301A", " \u0301", "\u0301ABC", "\u0301ABCd", "A\u4e2dB", "AB\u4e2dCD", "\u4e2dABC",
    "ABC\u0301DEF", "A1", "a1b2", "caf\u00e9 cafe\u0301", "na\u00efve \u00dcber STRASSE \u1e9e",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440!", "\u4f60\u597d\uff0c\u4e16\u754c\u3002",
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8", "\uc548\ub155\ud558\uc138\uc694",
    "\u0928\u092e\u0938\u094d\u0924\u0947", "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35", "\u0645\u0631\u062d\u0628\u0627",
    "\u05e9\u05b8\u05c1\u05dc\u05d5\u05b9\u05dd", "\U0001f44d", "\U0001f44d\U0001f3fd", "\U0001f469\u200d\U0001f4bb",
    "\U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7", "\u2764\ufe0f", "z\u0335\u0321a\u0334l\u0338g\u0337o\u0336",
    "\ufeffBOM", "zero\u200bwidth", "non\u00a0breaking", "\u3000wide\u3000", "line\u2028sep", "\u0085",
    "null\x00byte", "\x1b[31mred", "<|endoftext|>", "a<|endoftext|>b", "https://example.org/a/b?c=d&e=f#g",
    "/usr/local/bin//\n", "//\n//", "!?/\n/", "C:\\Windows\\System32", "$1,000.00 \u20ac99", "#hashtag @user",
    "\u201cquotes\u201d \u2018single\u2019 \u2014 dash", "<div class=\"x\">&amp;</div>",
    "SELECT * FROM t WHERE x = 'y';", "==== ---- ____ ****", "{\"a\": [1, 2, 3]}",
    "\u00bd \u00b2 \u2167 \u0663\u0664\u0665", "\U0001d400\U0001d401", "\uff21\uff22\uff23 \uff11\uff12\uff13",
    "a\rb\r\nc", "trailing   ", "trailing\n\n", "trailing \n", " \u00a0 mixed", "\u00a0\u00a0x", "x\u00a0\u00a0",
    "\r", "\r\r\n\n\r"]

STRAY_HARD = [
    b"\x80", b"\xff", b"hello\xff", b"hello \xff", b"hello  \xff", b"a\n \xff", b"a\n\n  \t\xff", b" \xff",
    b"\n\xff\n", b"\xffhello world, this is one piece", b"caf\xe9 latin", b"\xe4\xb8", b"\xe4\xb8\xad\xe4\xb8",
    b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\x80", b"\xf0\x9f\x91", b"ok \xf0\x9f\x91", b"!!\n\n  \xfe",
    b"x  \n\n \xfe y", b"\t \xc3(", bytes(range(256)), bytes(range(255, -1, -1))]

SPECIAL = [("a<|endoftext|>b", ["<|endoftext|>"]), ("<|endoftext|>", ["all"]), ("<|endoftext|><|endoftext|>", ["all"]),
           ("x <|endoftext|> y", ["all"]), ("x\n\n<|endoftext|>\n\ny", ["all"]), ("<|endoftext|", ["all"]),
           ("<<|endoftext|>>", ["all"]), ("no special here", ["all"]), ("  <|endoftext|>  ", ["all"])]


class Random:
    """SplitMix64 (Steele, Lea, Flood 2014)."""
    def __init__(self, seed):
        self.state = seed

    def below(self, n):
        mask = (1 << 64) - 1
        self.state = (self.state + 0x9E3779B97F4A7C15) & mask
        z = self.state
        z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ z >> 27) * 0x94D049BB133111EB) & mask
        return (z ^ z >> 31) % n

    def string(self):
        parts = []
        for _ in range(1 + self.below(12)):
            kind = self.below(16)
            if kind < 12:
                parts.append(FRAGMENTS[self.below(len(FRAGMENTS))])
            elif kind < 14:
                parts.append(chr(1 + self.below(127)))
            else:
                code = self.below(0x20000 - 0x800)
                parts.append(chr(code + 0x800 if code >= 0xD800 else code))
        return "".join(parts)

    def spoil(self, data):
        for _ in range(1 + self.below(3)):
            at = self.below(len(data) + 1)
            if self.below(4) == 0:
                data = data[:at]
            else:
                data = data[:at] + STRAY[self.below(len(STRAY))] + data[at:]
        return data


def add(crc, ids):
    return zlib.crc32(struct.pack("<%dI" % (len(ids) + 1), len(ids), *ids), crc)


def load(name):
    def local(url, expected_hash=None):
        return load_tiktoken_bpe(os.path.join(FOLDER, os.path.basename(url)))
    public.load_tiktoken_bpe = local
    return tiktoken.Encoding(**public.ENCODING_CONSTRUCTORS[name]())


def numbers(ids):
    return "".join(" %d" % i for i in ids)


def main():
    encodings = {name: load(name) for name in ENCODINGS}
    with open(os.path.join(GOLDEN, "bpe_tiktoken.txt"), "w") as out:
        print("# tiktoken", tiktoken.__version__, "by make_bpe_golden.py", file=out)
        for text in FRAGMENTS:
            print("fragment", text.encode().hex(), file=out)
        for data in STRAY:
            print("stray", data.hex(), file=out)
        for name, e in encodings.items():
            for text in HARD:
                print("hard", name, text.encode().hex() or "-", numbers(e.encode_ordinary(text)), file=out)
            for data in STRAY_HARD:
                print("hard", name, data.hex(), numbers(e._encode_bytes(data)), file=out)
            for text, allowed in SPECIAL:
                ids = e.encode(text, allowed_special="all" if allowed == ["all"] else set(allowed))
                print("special", name, text.encode().hex(), allowed[0], numbers(ids), file=out)
            for block in range(100):
                random, crc = Random(block), 0
                for _ in range(1000):
                    crc = add(crc, e.encode_ordinary(random.string()))
                print("random", name, block, "%08x" % crc, file=out)
            for block in range(20):
                random, crc = Random(1000 + block), 0
                for _ in range(1000):
                    crc = add(crc, e._encode_bytes(random.spoil(random.string().encode())))
                print("spoiled", name, block, "%08x" % crc, file=out)
            # Every code point, alone, between letters, after an apostrophe, before a space and after one.
            for start in range(0, 0x110000, 0x4000):
                crc = 0
                for code in range(start, start + 0x4000):
                    if not 0xD800 <= code < 0xE000:
                        c = chr(code)
                        crc = add(crc, e.encode_ordinary(c + "a" + c + "B" + c + "'" + c + " " + c + c + "1" + c))
                print("points", name, start, "%08x" % crc, file=out)
            for text in ["a", " ", "\n", "9", "!", "'s", "\U0001f600", "\u4e2d", "\u0301", "A\u0301"]:
                times = (1 << 20) // (1 << (len(text.encode()) - 1).bit_length())
                try:
                    ids = e.encode_ordinary(text * times)
                    print("long", name, text.encode().hex(), times, len(ids), "%08x" % add(0, ids), file=out)
                except BaseException as problem:    # a panic in its regular expressions is no Exception
                    print("# too much for tiktoken:", name, repr(text), "x", times, type(problem).__name__, file=out)
            print(name, flush=True)
    with open(os.path.join(GOLDEN, "bpe_pieces.txt"), "w") as out:
        print("# regex", regex.__version__, "by make_bpe_golden.py: lengths in bytes of each string's pieces", file=out)
        random = Random(5)
        strings = HARD + ["".join(FRAGMENTS[random.below(len(FRAGMENTS))] for _ in range(10)) for _ in range(150)]
        for split, name in SPLITS.items():
            pattern = regex.compile(encodings[name]._pat_str)
            for text in strings:
                pieces = [len(p.encode()) for p in pattern.findall(text)]
                assert sum(pieces) == len(text.encode())
                print(split, text.encode().hex() or "-", numbers(pieces), file=out)


main()
