"""Times rustbpe training a byte-level BPE with its default pattern, which is cl100k's.

    build/peers/venv/bin/python tests/peers/rustbpe_peer.py TEXT [vocabulary] [repeats] [way] [ranks]

It splits and counts with as many threads as RAYON_NUM_THREADS says, each an item of its iterator at a time: so `way`
says whether it gets the text as "one" item, as "blocks" of lines, 64 KB each, or as "lines". The text is handed over from memory, so that no disk is timed.
With the name of a file as the last argument its tokens are written there, in tiktoken's format. The last line is
"VALUE s", the median.
"""
import base64
import importlib.metadata
import statistics
import sys
import time

import rustbpe

text = open(sys.argv[1], encoding="utf-8", newline="").read()
size = int(sys.argv[2]) if len(sys.argv) > 2 else 1024
way = sys.argv[4] if len(sys.argv) > 4 else "lines"
lines = text.splitlines(keepends=True)
if way == "lines":
    pieces = lines
elif way == "blocks":
    pieces, block, length = [], [], 0
    for line in lines:
        block.append(line)
        length += len(line)
        if length >= 65536:
            pieces.append("".join(block))
            block, length = [], 0
    pieces.append("".join(block))
else:
    pieces = [text]
times = []
for _ in range(int(sys.argv[3]) if len(sys.argv) > 3 else 5):
    tokenizer = rustbpe.Tokenizer()
    start = time.perf_counter()
    tokenizer.train_from_iterator(iter(pieces), size)
    times.append(time.perf_counter() - start)
if len(sys.argv) > 5:
    with open(sys.argv[5], "wb") as f:
        for token, rank in tokenizer.get_mergeable_ranks():
            f.write(b"%s %d\n" % (base64.b64encode(bytes(token)), rank))
print("rustbpe %s, %s, vocabulary %d" % (importlib.metadata.version("rustbpe"), way, tokenizer.vocab_size))
print("%.4f s" % statistics.median(times))
