"""Times a training step of nanoGPT's own model.py in PyTorch on the CPU.

    build/peers/venv/bin/python tests/peers/torch_train.py CHECKOUT preset=nano compile=1 dtype=bfloat16 [batch=12] [parts=1]

dtype is float32, bfloat16 (autocast) or medium (float32, whose matrix products may round to bfloat16). parts: the batch
is computed in so many parts, whose gradients add up.

CHECKOUT is a folder that holds nanoGPT's model.py. A step is what nanoGPT's train.py does in one: batch from memory,
forward, backward, AdamW, gradients to None; no evaluation. Gradient clipping is off by default (clip=1.0 turns it on),
so that every trainer in `make bench` does the same work. The last line is "VALUE tokens/s", from the median step.
"""
import contextlib
import os
import statistics
import sys
import time

options = {"preset": "nano", "compile": "0", "dtype": "float32", "threads": "2", "seconds": "10", "bias": "1",
           "fused": "1", "clip": "0", "batch": "", "context": "", "parts": "1"}
for word in sys.argv[2:]:
    key, _, value = word.partition("=")
    if key not in options:
        sys.exit("torch_train: no option %s; there are: %s" % (key, " ".join(options)))
    options[key] = value
os.environ["OMP_NUM_THREADS"] = options["threads"]
sys.dont_write_bytecode = True                # nothing is written into the checkout
sys.path.insert(0, sys.argv[1])

import torch                                  # noqa: E402  (the thread count has to be set first)
from model import GPT, GPTConfig              # noqa: E402

torch.set_num_threads(int(options["threads"]))
torch.manual_seed(1337)
L, NH, C, CONTEXT, B, V = {"nano": (4, 4, 128, 64, 12, 65), "baby": (6, 6, 384, 256, 8, 65),
                           "gpt2": (12, 12, 768, 1024, 1, 50257)}[options["preset"]]
B, T = int(options["batch"] or B), int(options["context"] or CONTEXT)
if options["dtype"] == "medium":
    torch.set_float32_matmul_precision("medium")
model = GPT(GPTConfig(block_size=CONTEXT, vocab_size=V, n_layer=L, n_head=NH, n_embd=C, dropout=0.0,
                      bias=options["bias"] == "1"))
model.train()

# nanoGPT asks for the fused AdamW on GPUs only; newer PyTorch has one for the CPU, it is faster, so it is tried here.
groups = [{"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": 0.1},
          {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0}]
settings = dict(lr=1e-3, betas=(0.9, 0.99))
try:
    if options["fused"] != "1":
        raise RuntimeError
    optimizer = torch.optim.AdamW(groups, fused=True, **settings)
    fused = True
except RuntimeError:
    optimizer = torch.optim.AdamW(groups, **settings)
    fused = False

run = torch.compile(model) if options["compile"] == "1" else model
bf16 = options["dtype"] == "bfloat16"
data = torch.randint(V, (100000,))


def step():
    at = torch.randint(len(data) - T, (B,)).tolist()
    x = torch.stack([data[i:i + T] for i in at])
    y = torch.stack([data[i + 1:i + 1 + T] for i in at])
    parts = int(options["parts"])
    for x_part, y_part in zip(x.chunk(parts), y.chunk(parts)):
        with torch.autocast("cpu", dtype=torch.bfloat16) if bf16 else contextlib.nullcontext():
            _, loss = run(x_part, y_part)
        (loss / parts).backward()
    if float(options["clip"]) > 0:
        torch.nn.utils.clip_grad_norm_(model.parameters(), float(options["clip"]))
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss


for _ in range(5):
    step()
times = []
begin = time.perf_counter()
while len(times) < 5 or time.perf_counter() - begin < float(options["seconds"]):
    start = time.perf_counter()
    loss = step()
    times.append(time.perf_counter() - start)
print("torch %s, %s" % (torch.__version__, " ".join("%s=%s" % pair for pair in options.items())))
print("fused AdamW %s, %d steps, loss %.4f" % (fused, len(times), loss.item()))
print("%.1f tokens/s" % (B * T / statistics.median(times)))
