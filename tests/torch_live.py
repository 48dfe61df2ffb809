"""Compares gpt.h with PyTorch on models of random sizes: logits, losses, all gradients, ten AdamW steps.

    /usr/bin/python3 tests/torch_live.py PROGRAM SEED COUNT     (tests/test_torch.sh builds the program, torch.c)

The PyTorch side is that of make_gpt_golden.py, in float64. Bounds: a relative L2 of 1e-5 for each tensor, and of 3e-5
after ten steps, which divide by the square root of small gradients (a thousand models came to 1.4e-5).
"""
import os
import subprocess
import sys

import numpy as np

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import make_gpt_golden as torch_side  # noqa: E402

FOLDER = os.path.join("build", "torch")
PACKED = {"attn.qkv.weight": ("attn.q", "attn.k", "attn.v"), "mlp.gate_up.weight": ("mlp.gate", "mlp.up")}


def by_our_name(tensors, kind, name, llama):
    """Our llama keeps q, k, v, and gate, up, side by side in one matrix, and has other names for the rest."""
    if llama:
        for packed, parts in PACKED.items():
            if name.endswith(packed):
                return np.concatenate([tensors[kind + name[:-len(packed)] + part] for part in parts], axis=1)
        name = name.replace(".weight", "").replace("attn.proj", "attn.o")
    return tensors[kind + name]


FIELDS = {"gpt2": ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj", "ln_f"),
          "llama": ("norm_1", "attn.qkv", "attn.proj", "norm_2", "mlp.gate_up", "mlp.down", "norm_f")}


def mixed(p, ids, shape, L, NH, NKV, parts):
    """A model whose parts are chosen one by one: norm, position, mlp, tied, qk_norm, bias, as in gpt_config."""
    norm_kind, position, mlp, tied, qk_norm, _ = parts
    norm_1, qkv, proj, norm_2, up, down, norm_f = FIELDS[shape]
    (B, T), hs = ids.shape, p["wte.weight"].shape[1] // NH

    def linear(x, name):
        return x @ p[name + ".weight"] + p.get(name + ".bias", 0.0)

    def norm(x, name):
        if norm_kind == 2:
            return torch_side.rmsnorm(x, p[name + ".weight"])
        return torch_side.layernorm(x, p[name + ".weight"], p.get(name + ".bias", 0.0))

    x = p["wte.weight"][ids]
    if position == 1:
        x = x + p["wpe.weight"][:T]
    for i in range(L):
        h = "h.%d." % i
        q, k, v = (t.reshape(B, T, -1, hs) for t in linear(norm(x, h + norm_1), h + qkv).split(
            (NH * hs, NKV * hs, NKV * hs), -1))
        if qk_norm:
            q = torch_side.rmsnorm(q, p[h + "attn.q_norm.weight"])
            k = torch_side.rmsnorm(k, p[h + "attn.k_norm.weight"])
        if position == 2:
            q, k = torch_side.rope(q), torch_side.rope(k)
        x = x + linear(torch_side.attention(q, k, v), h + proj)
        y = linear(norm(x, h + norm_2), h + up)
        if mlp == 2:
            gate, y = y.chunk(2, -1)
            y = gate * gate.sigmoid() * y
        else:
            y = torch_side.gelu(y) if mlp == 1 else y.relu() ** 2
        x = x + linear(y, h + down)
    return norm(x, norm_f) @ (p["wte.weight"].T if tied else p["head.weight"])


def mixed_parameter(name, rows, cols):
    if cols == 0:
        return torch_side.normal(rows, std=0.1, mean=float(name.endswith("weight")))
    return torch_side.normal(rows, cols, std=0.3 if name.startswith("w") else rows ** -0.5)


def relative(got, want):
    return np.sqrt(((got - want) ** 2).sum()) / (np.sqrt((want ** 2).sum()) + 1e-12)


def compare(program, seed):
    """Returns (what was compared, a list of what differs, the worst relative error)."""
    rng = torch_side.rng = np.random.RandomState(seed)
    llama, mix = seed % 2 == 1, seed % 4 > 1
    # Not too small: at T = 1 attention has no gradient, and LayerNorm over two channels has next to none, so that there
    # is nothing but rounding to compare.
    L, NKV, group, hs = rng.randint(1, 4), rng.randint(1, 4), rng.randint(1, 4), 2 * rng.randint(4, 13)
    NKV = NKV if llama else NKV + 1
    NH = NKV * group if llama else NKV
    C, V, T_max = NH * hs, rng.randint(20, 90), rng.randint(6, 40)
    B, T, H = rng.randint(1, 4), rng.randint(6, T_max + 1), rng.randint(8, 150) if llama else 4 * C
    shape = "llama" if llama else "gpt2"
    parts = [1 + rng.randint(2), 1 + rng.randint(2), 1 + rng.randint(3), rng.randint(2), rng.randint(2), rng.randint(2)]
    parts[4] *= parts[1] - 1                            # QK norm wants rotary positions
    config = [shape + ("+" + "".join(map(str, parts)) if mix else "")]
    config += [str(v) for v in (L, NH, NKV, C, H, V, T_max)]
    lines = subprocess.run([program, "list"] + config, check=True, stdout=subprocess.PIPE).stdout.decode().split("\n")
    names = [line.split()[0] for line in lines if line]
    if mix:
        sizes = [line.split() for line in lines if line]
        p = {name: mixed_parameter(name, int(rows), int(cols)) for name, rows, cols in sizes}
        want = torch_side.train(p, lambda p, ids: mixed(p, ids, shape, L, NH, NKV, parts), V, B, T)
    elif llama:
        p = torch_side.llama_parameters(V, L, C, NH, NKV, H)
        want = torch_side.train(p, lambda p, ids: torch_side.llama(p, ids, L, NH, NKV), V, B, T)
    else:
        p = torch_side.gpt2_parameters(V, T_max, L, C)
        want = torch_side.train(p, lambda p, ids: torch_side.gpt2(p, ids, L, NH), V, B, T)
    paths = [os.path.join(FOLDER, "in.bin"), os.path.join(FOLDER, "out.bin")]
    with open(paths[0], "wb") as f:
        f.write(np.array([B, T], dtype=np.int32).tobytes() + want["ids"].tobytes() + want["targets"].tobytes())
        for name in names:
            tensor = by_our_name(want, "param/", name, llama and not mix)
            f.write(np.ascontiguousarray(tensor, dtype=np.float32).tobytes())
    subprocess.run([program, "run"] + config + paths, check=True)
    got, at, bad, worst = np.fromfile(paths[1], dtype=np.float32).astype(np.float64), 0, [], 0.0

    def check(what, tensor, gradient=None):
        nonlocal at, worst
        x, y = got[at:at + tensor.size], np.asarray(tensor, dtype=np.float64).reshape(-1)
        at += tensor.size
        if gradient is not None:
            # AdamW's first step is lr times the sign of the gradient, so where the gradient all but vanishes (as that
            # of the keys' bias does, see make_gpt_golden.py) ten steps of lr may go either way, and no further.
            g = np.abs(np.asarray(gradient, dtype=np.float64).reshape(-1))
            noise = (g < 1e-3 * np.sqrt((g * g).mean())) & ((g > 0) | (tensor.ndim == 1))
            if noise.any() and np.abs(x - y)[noise].max() > 0.021:
                bad.append("%s: ten steps go too far" % what)
            x, y = x[~noise], y[~noise]
        error = relative(x, y)
        worst = max(worst, error)
        if not error <= (1e-5 if gradient is None else 3e-5):
            bad.append("%s is off by %.2g" % (what, error))

    check("logits", want["logits"])
    for name in names:
        check("the gradient of " + name, by_our_name(want, "grad/", name, llama and not mix))
    check("the losses", want["losses"])
    for name in names:
        check(name + " after ten steps", by_our_name(want, "after/", name, llama and not mix),
              by_our_name(want, "grad/", name, llama and not mix))
    if at != got.size:
        bad.append("%d numbers instead of %d" % (got.size, at))
    return "%s B=%d T=%d" % (" ".join(config), B, T), bad, worst


def main():
    program, seed, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    failed, worst = 0, 0.0
    os.makedirs(FOLDER, exist_ok=True)
    for k in range(count):
        what, bad, error = compare(program, seed + k)
        failed, worst = failed + (len(bad) > 0), max(worst, error)
        for line in bad[:5]:
            print("FAILED torch: seed %d (%s): %s" % (seed + k, what, line))
    print("note: %d random models, worst relative L2 %.1e (PyTorch %s, seed %d)"
          % (count, worst, torch_side.torch.__version__, seed))
    print("torch: %d passed, %d failed" % (count - failed, failed))
    sys.exit(failed > 0)


main()
