"""Makes tests/golden/ops.bin with PyTorch: forward results and gradients of single ops on odd shapes.

    apt-get install python3-torch; /usr/bin/python3 tests/make_op_golden.py

Inputs are float32, PyTorch's own functions compute in float64, results are rounded once. For a case NAME the file holds
"NAME/x" (input), other inputs under their own names, "NAME/y" (output), "NAME/dy" (the gradient that arrives) and
"NAME/dx" (the gradient of the input), "NAME/dweight" and so on. Cases whose name ends in _large hold inputs up to
+-100, where a careless exp overflows. The notes in the file say what each case means.
"""
import math
import os
import sys

import numpy as np
import torch
import torch.nn.functional as F

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import golden_io  # noqa: E402

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "golden", "ops.bin")
rng = np.random.RandomState(2024)
out, notes = {}, {}


def normal(*shape, std=1.0, mean=0.0):
    return torch.from_numpy((mean + std * rng.standard_normal(shape)).astype(np.float32)).double()


def case(name, note, f, **inputs):
    """Runs f on the inputs, sends a random gradient back, and records all of it."""
    for t in inputs.values():
        t.requires_grad_(True)
    y = f(**inputs)
    dy = normal(*y.shape)
    y.backward(dy)
    out[name + "/y"], out[name + "/dy"] = y.detach().numpy(), dy.numpy()
    for key, t in inputs.items():
        out["%s/%s" % (name, key)], out["%s/d%s" % (name, key)] = t.detach().numpy(), t.grad.numpy()
    notes[name] = note


def large(*shape):
    """Saturating inputs: +-100, equal rows, one element far above the others, beside ordinary ones."""
    x = normal(*shape, std=30).clamp(-100, 100)
    x[0] = 7.0
    x[1] = -100.0
    x[1, 0] = 100.0
    return x


case("softmax", "over the last dimension", lambda x: F.softmax(x, -1), x=normal(3, 3, 37, std=2))
case("softmax_large", "over the last dimension", lambda x: F.softmax(x, -1), x=large(7, 19))
case("log_softmax", "over the last dimension", lambda x: F.log_softmax(x, -1), x=normal(3, 3, 37, std=2))
case("log_softmax_large", "over the last dimension", lambda x: F.log_softmax(x, -1), x=large(7, 19))
for name, rows, C in (("layernorm", (3, 5), 37), ("layernorm_wide", (2, 2), 131)):
    case(name, "eps 1e-5, weight and bias", lambda x, weight, bias: F.layer_norm(x, weight.shape, weight, bias, 1e-5),
         x=normal(*rows, C, mean=0.5), weight=normal(C, std=0.2, mean=1), bias=normal(C, std=0.2))
for name, rows, C in (("rmsnorm", (3, 5), 37), ("rmsnorm_wide", (2, 2), 131)):
    case(name, "x / sqrt(mean(x*x) + 1e-5) * weight",
         lambda x, weight: x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5) * weight,
         x=normal(*rows, C, mean=0.5), weight=normal(C, std=0.2, mean=1))
case("gelu", "tanh approximation", lambda x: F.gelu(x, approximate="tanh"), x=normal(7, 41, std=2))
case("gelu_large", "tanh approximation", lambda x: F.gelu(x, approximate="tanh"), x=large(7, 19))
case("silu", "x * sigmoid(x)", lambda x: F.silu(x), x=normal(7, 41, std=2))
case("silu_large", "x * sigmoid(x)", lambda x: F.silu(x), x=large(7, 19))
case("sigmoid_large", "", lambda x: torch.sigmoid(x), x=large(7, 19))
case("tanh_large", "", lambda x: torch.tanh(x), x=large(7, 19))
case("linear", "y = x @ weight + bias, weight (in, out)", lambda x, weight, bias: x @ weight + bias,
     x=normal(3, 5, 23), weight=normal(23, 39, std=0.2), bias=normal(39))


def attention(qkv, NH, NKV):
    """The packed layout (B,T,(NH+2*NKV)*hs): queries, then keys, then values, each head by head."""
    B, T, width = qkv.shape
    hs = width // (NH + 2 * NKV)
    q, k, v = (t.reshape(B, T, -1, hs).transpose(1, 2) for t in qkv.split([NH * hs, NKV * hs, NKV * hs], -1))
    k, v = k.repeat_interleave(NH // NKV, 1), v.repeat_interleave(NH // NKV, 1)
    score = (q @ k.transpose(-1, -2) / math.sqrt(hs)).masked_fill(torch.ones(T, T).triu(1).bool(), -math.inf)
    return (F.softmax(score, -1) @ v).transpose(1, 2).reshape(B, T, NH * hs)


for name, B, T, NH, NKV, hs, std in (("attention", 2, 9, 3, 3, 10, 1), ("attention_grouped", 2, 7, 6, 2, 7, 1),
                                     ("attention_one_key", 1, 17, 4, 1, 8, 1), ("attention_long", 1, 83, 1, 1, 9, 1),
                                     ("attention_large", 1, 9, 2, 2, 5, 10)):
    case(name, "causal, scale 1/sqrt(hs), x is q|k|v; B=%d T=%d NH=%d NKV=%d hs=%d" % (B, T, NH, NKV, hs),
         lambda x: attention(x, NH, NKV), x=normal(B, T, (NH + 2 * NKV) * hs, std=std))


def rope(x, start):
    hs = x.shape[-1]
    position = torch.arange(start, start + x.shape[1]).double()
    angle = position[:, None] * 10000.0 ** (-torch.arange(0, hs, 2).double() / hs)
    # A rotation is a multiplication of complex numbers: a second way to write what make_gpt_golden.py writes.
    turn = torch.polar(torch.ones_like(angle), angle)[:, None, :]
    return torch.view_as_real(torch.view_as_complex(x.reshape(*x.shape[:-1], hs // 2, 2)) * turn).reshape(x.shape)


case("rope", "x (B,T,heads,hs), pairs (2i, 2i+1), theta 10000, positions from 0", lambda x: rope(x, 0),
     x=normal(2, 7, 3, 10))
case("rope_start", "the same, positions from 5", lambda x: rope(x, 5), x=normal(2, 7, 3, 10))


def cross_entropy(name, note, x, weight=None):
    """Per-token losses y; -1 is ignored. loss and dx: of the mean over what is not ignored, or of sum(weight * y)."""
    N, V = x.shape
    targets = rng.randint(V, size=N)
    targets[[2, N - 1]] = -1
    x.requires_grad_(True)
    y = F.cross_entropy(x, torch.from_numpy(targets), ignore_index=-1, reduction="none")
    if weight is None:
        loss = F.cross_entropy(x, torch.from_numpy(targets), ignore_index=-1)
    else:
        loss = (weight * y).sum()
        out[name + "/weights"] = weight.numpy()
    loss.backward()
    out[name + "/x"], out[name + "/dx"] = x.detach().numpy(), x.grad.numpy()
    out[name + "/targets"] = targets.astype(np.int32)
    out[name + "/y"], out[name + "/loss"] = y.detach().numpy(), loss.detach().numpy()
    notes[name] = note


cross_entropy("cross_entropy", "mean over targets that are not -1", normal(9, 67, std=2))
cross_entropy("cross_entropy_large", "mean over targets that are not -1", large(9, 19))
cross_entropy("cross_entropy_weighted", "sum over tokens of weight * y, not divided; target -1 counts nothing",
              normal(9, 67, std=2), weight=normal(9, std=0.5, mean=1))

golden_io.save(OUT, out, notes)
