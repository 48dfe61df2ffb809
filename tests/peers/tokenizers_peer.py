"""Times Hugging Face's tokenizers training a byte-level BPE of 1,024 tokens with GPT-2's pre-tokenizer.

    build/peers/venv/bin/python tests/peers/tokenizers_peer.py TEXT [vocabulary] [repeats]

Its trainer uses as many threads as RAYON_NUM_THREADS says. The text is handed over from memory, so that no disk is
timed. The last line is "VALUE s", the median.
"""
import statistics
import sys
import time

import tokenizers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

text = open(sys.argv[1], encoding="utf-8", newline="").read()
size = int(sys.argv[2]) if len(sys.argv) > 2 else 1024
lines = text.splitlines(keepends=True)
# Whole text in one piece, or line by line: the second lets it use its threads. The better of the two counts.
results = {}
for name, pieces in (("one piece", [text]), ("lines", lines)):
    times = []
    for _ in range(int(sys.argv[3]) if len(sys.argv) > 3 else 5):
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        trainer = trainers.BpeTrainer(vocab_size=size, show_progress=False, special_tokens=[],
                                      initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
        start = time.perf_counter()
        tokenizer.train_from_iterator(pieces, trainer)
        times.append(time.perf_counter() - start)
    results[name] = statistics.median(times)
    print("%s: %.4f s, vocabulary %d" % (name, results[name], tokenizer.get_vocab_size()))
best = min(results, key=results.get)
print("tokenizers %s, %s" % (tokenizers.__version__, best))
print("%.4f s" % results[best])
