"""Times tiktoken encoding a text with cl100k on one thread.

    build/peers/venv/bin/python tests/peers/tiktoken_peer.py TEXT cl100k_base.tiktoken [seconds]

The ranks are read from the file given, so that nothing is fetched. The last line is "VALUE MB/s" (of 10^6 bytes), the
median.
"""
import base64
import importlib.metadata
import statistics
import sys
import time

import tiktoken

# cl100k's pattern, as tiktoken's openai_public.py states it: the public definition of the vocabulary.
PATTERN = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]"
           r"|\s+(?!\S)|\s")
ranks = {}
for line in open(sys.argv[2], "rb"):
    token, rank = line.split()
    ranks[base64.b64decode(token)] = int(rank)
encoding = tiktoken.Encoding("cl100k", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 100257})
text = open(sys.argv[1], encoding="utf-8", newline="").read()
times, begin, ids = [], time.perf_counter(), encoding.encode_ordinary(text)
while len(times) < 5 or time.perf_counter() - begin < float(sys.argv[3] if len(sys.argv) > 3 else 5):
    start = time.perf_counter()
    ids = encoding.encode_ordinary(text)
    times.append(time.perf_counter() - start)
print("tiktoken %s, %d tokens, %d runs" % (importlib.metadata.version("tiktoken"), len(ids), len(times)))
print("%.2f MB/s" % (len(text.encode()) / statistics.median(times) / 1e6))
