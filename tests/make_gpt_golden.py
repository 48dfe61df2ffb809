"""Makes tests/golden/gpt2_tiny.bin, llama_tiny.bin and muon.bin with PyTorch: what gpt.h is compared with.

    apt-get install python3-torch; /usr/bin/python3 tests/make_gpt_golden.py

Weights and inputs are float32; PyTorch computes in float64 and the results are rounded once, so that what is left of a
difference is ours. All files are safetensors. Weights are stored (in, out), as gpt.h and GPT-2's own files store them:
y = x @ W.

gpt2_tiny, llama_tiny: "param/NAME" at the start, "ids" and "targets" (B,T), "logits" (B,T,V), "grad/NAME" of the mean
loss at the start, "losses" (11): before each of ten AdamW steps and after the last; "after/NAME": parameters after ten.
AdamW: lr 1e-3, betas 0.9 and 0.95, eps 1e-8, decay 0.1 on tensors of two dimensions, decoupled, no clipping.

One part of gpt2_tiny cannot be held to a tight tolerance in float32 after AdamW: a bias added to every key shifts all
scores of a query alike, so its gradient is zero (here some 1e-18). Rounding makes it 1e-9 in float32, and AdamW turns
any direction into steps of up to lr. That part is after/h.N.attn.c_attn.bias[C:2C].

muon: "ns/CASE/x" -> "ns/CASE/y" is Newton-Schulz alone. "muon/CASE/param", "/grad0".."/grad2" -> "/after0".."/after2"
are three steps with lr 0.02, momentum 0.95, Nesterov, no decay, all stored (in, out).
"""
import math
import os
import sys

import numpy as np
import torch

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import golden_io  # noqa: E402

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "golden")
EPS = 1e-5
rng = np.random.RandomState(1337)


def normal(*shape, std=1.0, mean=0.0):
    return torch.from_numpy((mean + std * rng.standard_normal(shape)).astype(np.float32)).double()


def layernorm(x, w, b):
    mean = x.mean(-1, keepdim=True)
    var = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(var + EPS) * w + b


def rmsnorm(x, w):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + EPS) * w


def gelu(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))


def rope(x):
    """x is (B,T,heads,hs). Pair (2i, 2i+1) turns by position * 10000^(-2i/hs), as in llama2.c."""
    T, hs = x.shape[1], x.shape[3]
    turn = torch.arange(T).double()[:, None] * 10000.0 ** (-torch.arange(0, hs, 2).double() / hs)[None, :]
    cos, sin = torch.cos(turn)[None, :, None, :], torch.sin(turn)[None, :, None, :]
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).reshape(x.shape)


def attention(q, k, v):
    """q is (B,T,NH,hs), k and v are (B,T,NKV,hs): query head h reads key head h / (NH/NKV)."""
    B, T, NH, hs = q.shape
    group = NH // k.shape[2]
    q, k, v = (t.transpose(1, 2) for t in (q, k.repeat_interleave(group, 2), v.repeat_interleave(group, 2)))
    score = q @ k.transpose(-1, -2) / math.sqrt(hs)
    score = score.masked_fill(torch.ones(T, T).triu(1).bool(), -math.inf)
    return (torch.softmax(score, -1) @ v).transpose(1, 2).reshape(B, T, NH * hs)


def gpt2(p, ids, L, NH):
    B, T = ids.shape
    C = p["wte.weight"].shape[1]
    x = p["wte.weight"][ids] + p["wpe.weight"][:T]
    for i in range(L):
        h = "h.%d." % i
        y = layernorm(x, p[h + "ln_1.weight"], p[h + "ln_1.bias"])
        y = y @ p[h + "attn.c_attn.weight"] + p[h + "attn.c_attn.bias"]
        q, k, v = (t.reshape(B, T, NH, C // NH) for t in y.split(C, -1))
        x = x + attention(q, k, v) @ p[h + "attn.c_proj.weight"] + p[h + "attn.c_proj.bias"]
        y = layernorm(x, p[h + "ln_2.weight"], p[h + "ln_2.bias"])
        y = gelu(y @ p[h + "mlp.c_fc.weight"] + p[h + "mlp.c_fc.bias"])
        x = x + y @ p[h + "mlp.c_proj.weight"] + p[h + "mlp.c_proj.bias"]
    return layernorm(x, p["ln_f.weight"], p["ln_f.bias"]) @ p["wte.weight"].T


def llama(p, ids, L, NH, NKV):
    B, T = ids.shape
    hs = p["wte"].shape[1] // NH
    x = p["wte"][ids]
    for i in range(L):
        h = "h.%d." % i
        y = rmsnorm(x, p[h + "norm_1"])
        q = rope(rmsnorm((y @ p[h + "attn.q"]).reshape(B, T, NH, hs), p[h + "attn.q_norm"]))
        k = rope(rmsnorm((y @ p[h + "attn.k"]).reshape(B, T, NKV, hs), p[h + "attn.k_norm"]))
        v = (y @ p[h + "attn.v"]).reshape(B, T, NKV, hs)
        x = x + attention(q, k, v) @ p[h + "attn.o"]
        y = rmsnorm(x, p[h + "norm_2"])
        gate = y @ p[h + "mlp.gate"]
        x = x + (gate * torch.sigmoid(gate) * (y @ p[h + "mlp.up"])) @ p[h + "mlp.down"]
    return rmsnorm(x, p["norm_f"]) @ p["head"]


def gpt2_parameters(V, T, L, C):
    p = {"wte.weight": normal(V, C, std=0.3), "wpe.weight": normal(T, C, std=0.2)}
    for i in range(L):
        h = "h.%d." % i
        for ln in ("ln_1", "ln_2"):
            p[h + ln + ".weight"], p[h + ln + ".bias"] = normal(C, std=0.1, mean=1), normal(C, std=0.1)
        for name, rows, cols in (("attn.c_attn", C, 3 * C), ("attn.c_proj", C, C), ("mlp.c_fc", C, 4 * C),
                                 ("mlp.c_proj", 4 * C, C)):
            p[h + name + ".weight"] = normal(rows, cols, std=rows ** -0.5)
            p[h + name + ".bias"] = normal(cols, std=0.1)
    p["ln_f.weight"], p["ln_f.bias"] = normal(C, std=0.1, mean=1), normal(C, std=0.1)
    return p


def llama_parameters(V, L, C, NH, NKV, hidden):
    hs = C // NH
    p = {"wte": normal(V, C, std=0.5)}
    for i in range(L):
        h = "h.%d." % i
        p[h + "norm_1"], p[h + "norm_2"] = normal(C, std=0.1, mean=1), normal(C, std=0.1, mean=1)
        p[h + "attn.q_norm"], p[h + "attn.k_norm"] = normal(hs, std=0.1, mean=1), normal(hs, std=0.1, mean=1)
        for name, rows, cols in (("attn.q", C, NH * hs), ("attn.k", C, NKV * hs), ("attn.v", C, NKV * hs),
                                 ("attn.o", C, C), ("mlp.gate", C, hidden), ("mlp.up", C, hidden),
                                 ("mlp.down", hidden, C)):
            p[h + name] = normal(rows, cols, std=rows ** -0.5)
    p["norm_f"], p["head"] = normal(C, std=0.1, mean=1), normal(C, V, std=C ** -0.5)
    return p


def train(p, forward, V, B, T):
    """What the files hold of one model, by name. tests/torch_live.py uses this, too."""
    out = {"param/" + name: t.numpy().copy() for name, t in p.items()}
    ids, targets = rng.randint(V, size=(B, T)), rng.randint(V, size=(B, T))
    out["ids"], out["targets"] = ids.astype(np.int32), targets.astype(np.int32)
    ids, targets = torch.from_numpy(ids), torch.from_numpy(targets)
    for t in p.values():
        t.requires_grad_(True)
    optimizer = torch.optim.AdamW([{"params": [t for t in p.values() if t.dim() >= 2], "weight_decay": 0.1},
                                   {"params": [t for t in p.values() if t.dim() < 2], "weight_decay": 0.0}],
                                  lr=1e-3, betas=(0.9, 0.95), eps=1e-8)
    losses = []
    for step in range(11):
        logits = forward(p, ids)
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, V), targets.reshape(-1))
        losses.append(loss.item())
        if step == 10:
            break
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            out["logits"] = logits.detach().numpy()
            out.update(("grad/" + name, t.grad.numpy().copy()) for name, t in p.items())
        optimizer.step()
    out["losses"] = np.array(losses)
    out.update(("after/" + name, t.detach().numpy()) for name, t in p.items())
    return out


def golden(path, p, forward, V, B, T, notes):
    out = train(p, forward, V, B, T)
    golden_io.save(os.path.join(OUT, path), out, dict(notes, layout="weights are (in, out): y = x @ W"))
    print("  losses", " ".join("%.6f" % v for v in out["losses"]))


def newton_schulz(g):
    """Keller Jordan's quintic iteration (kellerjordan.github.io/posts/muon), five steps, not rounded to bfloat16."""
    x = g / (g.norm() + 1e-7)
    flip = x.shape[0] > x.shape[1]
    x = x.T if flip else x
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.T if flip else x


def muon():
    # Newton-Schulz commutes with transposition, so the storage order matters to the scale alone: it is
    # sqrt(max(1, out/in)), which is sqrt(max(1, cols/rows)) for a matrix stored (in, out) = (rows, cols).
    out, worst = {}, 0.0
    for case, rows, cols in (("square", 24, 24), ("wide", 17, 40), ("tall", 40, 17), ("row", 1, 9), ("column", 9, 1)):
        x = normal(rows, cols)
        y = newton_schulz(x)
        worst = max(worst, ((newton_schulz(x.float()).double() - y).norm() / y.norm()).item())
        out["ns/%s/x" % case], out["ns/%s/y" % case] = x.numpy(), y.numpy()
    print("  Newton-Schulz in float32 is %.1e from float64 (relative L2)" % worst)
    for case, rows, cols in (("square", 16, 16), ("wide", 13, 29), ("tall", 29, 13)):     # rows = in, cols = out
        p, momentum = normal(rows, cols, std=0.2), torch.zeros(rows, cols).double()
        out["muon/%s/param" % case] = p.numpy().copy()
        for step in range(3):
            g = normal(rows, cols, std=0.05)
            out["muon/%s/grad%d" % (case, step)] = g.numpy()
            momentum = 0.95 * momentum + 0.05 * g
            update = newton_schulz(0.05 * g + 0.95 * momentum)
            p = p - 0.02 * math.sqrt(max(1, cols / rows)) * update
            out["muon/%s/after%d" % (case, step)] = p.numpy().copy()
    golden_io.save(os.path.join(OUT, "muon.bin"), out, {
        "layout": "matrices are (in, out)", "scale": "sqrt(max(1, out/in)); Keller Jordan's rows are out, his cols in",
        "newton_schulz": "3.4445 -4.7750 2.0315, five steps, input / (Frobenius norm + 1e-7), transposed if rows > "
                         "cols",
        "muon": "lr 0.02, momentum 0.95: m = 0.95 m + 0.05 g, Nesterov: update of 0.05 g + 0.95 m, no decay"})


def main():
    os.makedirs(OUT, exist_ok=True)
    V, T, L, NH, C = 37, 16, 2, 3, 24
    golden("gpt2_tiny.bin", gpt2_parameters(V, T, L, C), lambda p, ids: gpt2(p, ids, L, NH), V, 2, 13,
           {"config": "V=37 T=16 L=2 NH=3 C=24",
            "shape": "gpt2: LayerNorm eps 1e-5, tanh GELU, tied head, learned positions"})
    V, NH, NKV, C = 41, 4, 2, 32
    golden("llama_tiny.bin", llama_parameters(V, L, C, NH, NKV, 48), lambda p, ids: llama(p, ids, L, NH, NKV), V, 2, 13,
           {"config": "V=41 T=16 L=2 NH=4 NKV=2 C=32 hidden=48",
            "shape": "llama: RMSNorm eps 1e-5, QK norm with a weight per head dimension and then RoPE (theta 10000, "
                     "pairs 2i and 2i+1), query head h reads key head h/2, SwiGLU, untied head, no biases"})
    muon()


if __name__ == "__main__":
    main()
