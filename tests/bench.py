"""`make bench`: this library beside the programs it wants to beat, on this machine, in one run.

    python3 tests/bench.py [row=NAME[,NAME...]] [resume=1] [cpu=avx2] [peers=FOLDER] [runs=5] [list=1] [readme=FILE]

Ours and the peer run alternately (A B A B ...), each as a process of its own that prints "VALUE unit" on its last line;
the table holds medians. Where a peer has several settings, each is tried once and the best one is the opponent. A row
whose runs would take over five minutes is run once. A peer that is not installed is left out by name, never guessed:
`make bench-peers` installs those that Debian and PyPI have; FOLDER holds checkouts of nanoGPT, llm.c and llama2.c.

row= runs only those rows (a part of a name is enough) and keeps the others of out/bench.csv; resume=1 runs only the
rows that out/bench.csv lacks. cpu=avx2 is the same table on the processor of most laptops: neither ours nor the peers
use wider instructions then; rows in which these play no part are left out, and out/bench_avx2.csv is written. readme=
measures nothing and prints such a file as README's table; tests/measured.csv and tests/measured_avx2.csv are those that
README shows, and a test compares them. Only Python's standard library is needed here. Exits with 1 if a program of ours
fails.
"""
import csv
import os
import re
import shutil
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
os.chdir(ROOT)
OPTIONS = {"row": "", "resume": "", "cpu": "", "peers": os.environ.get("PEERS", "build/peers/src"), "runs": "5",
           "list": "", "readme": ""}
for word in sys.argv[1:]:
    key, _, value = word.partition("=")
    if key not in OPTIONS:
        sys.exit("bench: no option %s; there are: %s" % (key, " ".join(OPTIONS)))
    if value or key != "peers":
        OPTIONS[key] = value
if OPTIONS["cpu"] not in ("", "avx2"):
    sys.exit("bench: cpu=%s; there is: avx2" % OPTIONS["cpu"])
CC = os.environ.get("CC", "cc")
AVX2 = OPTIONS["cpu"] == "avx2"
PEERS, RUNS = os.path.abspath(OPTIONS["peers"]), int(OPTIONS["runs"])
CSV, TAG = ("out/bench_avx2.csv", "_avx2") if AVX2 else ("out/bench.csv", "")
MARCH = "-march=haswell" if AVX2 else "-march=native"
# Ours, PyTorch's own kernels, oneDNN's, MKL's, OpenBLAS'
NARROW = {"AG_CPU": "avx2", "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2",
          "MKL_ENABLE_INSTRUCTIONS": "AVX2", "OPENBLAS_CORETYPE": "Haswell"}
PYTHON = os.path.abspath("build/peers/venv/bin/python")
FIELDS = ["name", "ours", "unit", "peer", "peers_figure", "ratio", "wanted"]
THREADS = 2                             # all figures are for two cores
LONG = 300.0                            # seconds; a row that takes longer is run once
REFERENCE_PEAK = 420.0                  # GFLOP/s of the machine that limits in seconds were written for


class Missing(Exception):
    """Something that a row needs is not on this machine; the text says what."""


class Broken(Exception):
    """A program of ours does not build, does not run or prints no figure."""


def ours_or_broken(function):
    try:
        return function()
    except (Missing, subprocess.TimeoutExpired) as reason:
        raise Broken(str(reason))


def run(command, env=None, limit=1800, cwd=None):
    """Runs a command and returns all that it printed; the environment limits it to two threads."""
    settings = dict(os.environ, AG_THREADS=str(THREADS), OMP_NUM_THREADS=str(THREADS),
                    OPENBLAS_NUM_THREADS=str(THREADS), RAYON_NUM_THREADS=str(THREADS),
                    TORCHINDUCTOR_CACHE_DIR=os.path.abspath("build/peers/inductor" + TAG))
    settings.update(NARROW if AVX2 else {})
    settings.update(env or {})
    done = subprocess.run(command, env=settings, cwd=cwd, timeout=limit, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True, errors="replace")
    if done.returncode:
        tail = done.stdout.strip().splitlines()[-1:] or ["no output"]
        raise Missing("%s failed: %s" % (os.path.basename(command[0]), tail[0][:100]))
    return done.stdout


def figure(text):
    """The number on the last line: "VALUE unit", or "name VALUE unit" where a program measures several things."""
    last = (text.strip().splitlines() or [""])[-1]
    found = re.match(r"(?:[a-z_]\w* )?([0-9.eE+-]+) \S", last)
    if not found:
        raise Missing("no figure on its last line: %r" % last[:80])
    return float(found.group(1))


def build(source, name, *flags, compiler=None, after=("-lm",)):
    """Compiles a program unless it is newer than its source and our headers; returns its path."""
    if not os.path.exists(source):
        raise Missing("there is no %s" % source)
    os.makedirs(os.path.dirname(name), exist_ok=True)
    inputs = [source] + [h for h in ("autograd.h", "bpe.h", "gpt.h", "examples/lesson.h", "examples/plot.h")
                         if os.path.exists(h)]
    if not os.path.exists(name) or any(os.path.getmtime(name) < os.path.getmtime(i) for i in inputs):
        command = [compiler or CC, *flags, source, "-o", name, *after]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
        if done.returncode:
            errors = [e for e in done.stdout.splitlines() if "error" in e or "undefined" in e] or ["?"]
            raise Missing("%s does not build: %s" % (source, errors[0][:120]))
    return os.path.abspath(name)


def ours(program):
    """One of our bench programs, built as a reader builds a lesson: no flags but -O3."""
    return build("tests/%s.c" % program, "build/bench/%s" % program, "-O3")


def data(name):
    for folder in ("examples/data", os.environ.get("DATA_MIRROR", ""), "../shared/data"):
        if folder and os.path.exists(os.path.join(folder, name)):
            return os.path.abspath(os.path.join(folder, name))
    raise Missing("%s is in none of examples/data, $DATA_MIRROR and ../shared/data" % name)


def need_python(module):
    if not os.path.exists(PYTHON):
        raise Missing("build/peers/venv does not exist (make bench-peers)")
    try:
        run([PYTHON, "-c", "import " + module])
    except Missing:
        raise Missing("%s is not in build/peers/venv (make bench-peers)" % module)


def has(feature):
    try:
        return not AVX2 and feature in open("/proc/cpuinfo").read()
    except OSError:
        return False


NATIVE_BF16 = ("bf16=1",) if has("avx512_bf16") or has("amx_bf16") else ()


# ---- What we measure of ours. Each returns a function that makes one measurement. ----

def our_training(preset, *words, env=None):
    program = ours("bench_train")
    return lambda: figure(run([program, "preset=" + preset, "threads=%d" % THREADS, *words], env))


def our_gflops(preset, *words, env=None):
    # 6 operations a token for each parameter (two forward, four backward) except the position table, which is only
    # added, and 12 L C T for attention: nanoGPT's estimate_mfu, after the PaLM paper, appendix B. The causal half that
    # a fused kernel does not compute is counted all the same, for us and in the figures that we compare with.
    L, C, T, V = {"nano": (4, 128, 64, 65), "baby": (6, 384, 256, 65)}[preset]
    parameters = V * C + L * (12 * C * C + 13 * C) + 2 * C
    flop = 6 * parameters + 12 * L * C * T
    measure = our_training(preset, *words, env=env)
    return lambda: measure() * flop * 1e-9


def our_program(program, *words):
    path = ours(program)
    return lambda: figure(run([path, *words]))


def step_shapes(name):
    """The products of one training step, as tests/bench_matmul.c lists them."""
    listed = re.search(r'{ "%s", ((?:"[^"]*"\s*)+)}' % name, open("tests/bench_matmul.c").read())
    return "".join(re.findall(r'"([^"]*)"', listed.group(1))).split()


# ---- The peers. Each returns a list of (name, function that makes one measurement). ----

def torch_peers(preset, kinds, *words, parts=()):
    need_python("torch")
    checkout = os.path.join(PEERS, "nanoGPT")
    if not os.path.exists(os.path.join(checkout, "model.py")):
        raise Missing("no nanoGPT/model.py in %s (make bench PEERS=folder)" % OPTIONS["peers"])
    version = run([PYTHON, "-c", "import torch; print(torch.__version__.split('+')[0])"]).strip()

    def setting(dtype, compiled, *more):
        name = "PyTorch %s, %s, %s" % (version, dtype, ", ".join(("compiled" if compiled else "eager",) + more))
        command = [PYTHON, "tests/peers/torch_train.py", checkout, "preset=" + preset, "dtype=" + dtype,
                   "compile=%d" % compiled, "threads=%d" % THREADS, *words, *more]
        return name, lambda: figure(run(command))
    return [setting(dtype, compiled, *more) for dtype in kinds for compiled in (0, 1)
            for more in [()] + [("parts=%d" % p,) for p in parts]]


def llmc_peers(preset, *batch):
    checkout = os.path.join(PEERS, "llm.c")
    if not os.path.exists(os.path.join(checkout, "train_gpt2.c")):
        raise Missing("no llm.c/train_gpt2.c in %s (make bench PEERS=folder)" % OPTIONS["peers"])
    if not shutil.which("gcc"):
        raise Missing("llm.c is built with gcc, which is not installed")
    program = build("tests/peers/llmc_peer.c", "build/peers/llmc_peer" + TAG, "-Ofast", MARCH, "-fopenmp", "-DOMP",
                    "-DTESTING", "-I", checkout, compiler="gcc")
    scratch = os.path.abspath("build/peers/llmc_%s.bin" % preset)
    return [("llm.c", lambda: figure(run([program, preset, scratch, *batch])))]


def decode_model(name):
    """A model that llama2.c reads: its own stories260K, or a random one with the size of GPT-2 (124 M), made here."""
    if name == "260k":
        return data("stories260K.bin")
    path = os.path.abspath("build/peers/llama2c_124m.bin")
    if not os.path.exists(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        run([ours("bench_decode"), "make", path + ".tmp"])
        os.replace(path + ".tmp", path)
    return path


DECODED = {"260k": "200", "124m": "64"}      # tokens of a text, from position 0


def our_decoding(name, *words):
    program, model = ours("bench_decode"), decode_model(name)
    return lambda: figure(run([program, "run", model, "tokens=" + DECODED[name], "threads=%d" % THREADS, *words]))


def our_reading(name):
    """What decoding reads: all weights for each token (the embedding table is the head as well)."""
    measure, size = our_decoding(name), os.path.getsize(decode_model(name))
    return lambda: measure() * size * 1e-9


def llama2c_peers(name):
    checkout = os.path.join(PEERS, "llama2.c")
    if not os.path.exists(os.path.join(checkout, "run.c")):
        raise Missing("no llama2.c/run.c in %s (make bench PEERS=folder)" % OPTIONS["peers"])
    if not shutil.which("gcc"):
        raise Missing("llama2.c is built with gcc, which is not installed")
    model = decode_model(name)

    def setting(march, threads):        # gcc 12's AVX-512 makes it half as fast as its AVX2 on short rows
        program = build("tests/peers/llama2c_peer.c", "build/peers/llama2c_peer_" + march, "-Ofast", "-march=" + march,
                        "-fopenmp", "-DTESTING", "-I", checkout, compiler="gcc")
        return ("llama2.c, -march=%s, threads=%d" % (march, threads),
                lambda: figure(run([program, model, DECODED[name]], {"OMP_NUM_THREADS": str(threads)})))
    # A small model on a busy machine is faster with one thread: waiting for the other costs more than it saves.
    return [setting(march, threads) for threads in sorted({1, THREADS}) for march in
            (("haswell",) if AVX2 else ("native", "haswell") if has("avx512f") else ("native",))]


def openblas_peers(name):
    program = build("tests/peers/openblas_peer.c", "build/peers/openblas_peer", "-O3", after=("-lopenblas",))
    settings = [("OpenBLAS, Haswell kernels" if AVX2 else "OpenBLAS", {})]
    if has("avx512f"):
        settings.append(("OpenBLAS, SkylakeX kernels", {"OPENBLAS_CORETYPE": "SkylakeX"}))

    def setting(label, env):
        return label, lambda: figure(run([program, *step_shapes(name)], env))
    return [setting(*s) for s in settings]


def peak_peers(which="best", name="FMA peak"):
    if AVX2:
        which, name = "avx2", "FMA peak of AVX2"
    program = build("tests/bench_peak.c", "build/bench/bench_peak", "-O3", after=("-lm", "-lpthread"))
    return [(name, lambda: figure(run([program, which, str(THREADS)])))]


def large_text(megabytes):
    """A text made from Tiny Shakespeare by bench_bpe.c, the same on every machine; see there what it is."""
    path, program = os.path.abspath("build/bench/corpus_%d.txt" % megabytes), ours("bench_bpe")
    if not os.path.exists(path) or os.path.getsize(path) != megabytes * 1000000:
        run([program, "corpus", data("tinyshakespeare.txt"), str(megabytes), path + ".tmp"])
        os.replace(path + ".tmp", path)
    return path


def our_bpe_training(text, vocabulary, runs):
    return our_program("bench_bpe", "train", text, vocabulary, runs, "cl100k")


def rustbpe_peers(text, vocabulary, runs):
    need_python("rustbpe")

    def setting(way):
        command = [PYTHON, "tests/peers/rustbpe_peer.py", text, vocabulary, runs, way]
        return "rustbpe, " + way, lambda: figure(run(command))
    return [setting(way) for way in ("one", "blocks", "lines")]


def python_peer(name, module, script, *words):
    need_python(module)
    command = [PYTHON, "tests/peers/" + script, *words]
    return [(name, lambda: figure(run(command)))]


# ---- Rows without a peer: a limit to stay within. Each returns (figure, limit). ----

def peak_scale():
    """Limits in seconds are for a machine with a peak of 420 GFLOP/s and grow as the peak of this one is lower."""
    return REFERENCE_PEAK / peak_peers()[0][1]()


def csv_column(path, column):
    if not os.path.exists(path):
        raise Missing("%s was not written" % path)
    with open(path, newline="") as f:
        values = [row[column] for row in csv.DictReader(f) if row.get(column)]
    if not values:
        raise Missing("%s has no %s" % (path, column))
    return [float(v) for v in values]


class Lesson:
    """Lesson 08 with one recipe, run once and shared by the rows that read it."""
    done = {}

    @classmethod
    def log(cls, recipe):
        if recipe not in cls.done:
            program = build("examples/08_pretrain.c", "build/bench/08_pretrain", "-O3")
            folder = "build/bench/08_%s%s" % (recipe, TAG)      # out/08 is the reader's
            run([program, "recipe=" + recipe, "out=" + folder], limit=3600)
            cls.done[recipe] = folder + "/log.csv"
        return cls.done[recipe]


def lesson_loss(recipe, limit):
    return csv_column(Lesson.log(recipe), "val_loss")[-1], limit


def lesson_seconds(recipe, limit):
    """Of training alone: the lesson's clock leaves out evaluation and samples. 2,000 steps of 12 x 64 tokens."""
    return 2000 * 12 * 64 / csv_column(Lesson.log(recipe), "tokens_per_second")[-1], limit * peak_scale()


def time_to(loss, limit, tokens_a_step, *words):
    """Seconds of training (optimizer and all, without evaluation) that lesson 08 needs to come down to a loss."""
    program = build("examples/08_pretrain.c", "build/bench/08_pretrain", "-O3")
    words = [w for w in words if not (AVX2 and w == "bf16=1")]
    folder = "build/bench/time_to_%s%s" % (loss, TAG)
    run([program, *words, "out=" + folder], limit=3600)
    log = folder + "/log.csv"
    reached_loss = csv_column(log, "val_loss")[-1]
    if reached_loss > loss:
        raise Broken("lesson 08 with %s ends at %g, not at %g" % (" ".join(words), reached_loss, loss))
    steps = csv_column(log, "step")[-1]
    print("    validation loss %g after %d steps" % (reached_loss, steps), flush=True)
    return steps * tokens_a_step / csv_column(log, "tokens_per_second")[-1], limit * peak_scale()


def compile_seconds(limit):
    lessons = sorted(f for f in os.listdir("examples") if re.match(r"\d\d_.*\.c$", f))
    if not lessons:
        raise Missing("there are no lessons in examples/")
    worst = 0.0
    for lesson in lessons:
        start = time.perf_counter()
        done = subprocess.run([CC, "-O3", "examples/" + lesson, "-o", "build/bench/lesson", "-lm"],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if done.returncode:
            raise Missing("examples/%s does not build" % lesson)
        worst = max(worst, time.perf_counter() - start)
    return worst, limit


def thread_bits(limit):
    return figure(run([ours("bench_train"), "preset=nano", "bits=1"])), limit


def mallocs(limit):
    return figure(run([ours("bench_train"), "preset=nano", "mallocs=1", "threads=%d" % THREADS])), limit


# name, unit, what is ours, what are the peers, the ratio wanted. Rates: ours / peer. Times: peer / ours.
COMPARED = [
    ("train_nano_torch", "tokens/s", lambda: our_training("nano"),
     lambda: torch_peers("nano", ("float32", "bfloat16")), 3.0),
    ("train_baby_torch", "tokens/s", lambda: our_training("baby"), lambda: torch_peers("baby", ("float32",)), 2.0),
    # A batch of 64 in parts of two windows, which stay in the caches; PyTorch whole, or in parts of eight, which it
    # likes best.
    ("train_baby64_torch", "tokens/s", lambda: our_training("baby", "batch=64", "parts=32"),
     lambda: torch_peers("baby", ("float32",), "batch=64", parts=(8,)), 2.0),
    ("train_baby64_bf16_torch", "tokens/s", lambda: our_training("baby", "batch=64", "parts=32", "bf16=1"),
     lambda: torch_peers("baby", ("bfloat16", "medium"), "batch=64", parts=(8,)), 1.5),
    # of both, the fastest precision
    ("train_gpt2_4x64_torch", "tokens/s", lambda: our_training("gpt2", "batch=4", "context=64", *NATIVE_BF16),
     lambda: torch_peers("gpt2", ("float32", "bfloat16", "medium"), "batch=4", "context=64"), 1.2),
    ("train_gpt2_1x1024_torch", "tokens/s", lambda: our_training("gpt2", "batch=1", "context=1024", *NATIVE_BF16),
     lambda: torch_peers("gpt2", ("float32", "bfloat16", "medium"), "batch=1", "context=1024"), 1.2),
    ("train_nano_llmc", "tokens/s", lambda: our_training("nano"), lambda: llmc_peers("nano"), 4.0),
    ("train_baby_llmc", "tokens/s", lambda: our_training("baby"), lambda: llmc_peers("baby"), 5.0),
    ("train_gpt2_4x64_llmc", "tokens/s", lambda: our_training("gpt2", "batch=4", "context=64"),
     lambda: llmc_peers("gpt2", "4", "64"), 10.0),
    ("train_gpt2_1x1024_llmc", "tokens/s", lambda: our_training("gpt2", "batch=1", "context=1024"),
     lambda: llmc_peers("gpt2", "1", "1024"), 10.0),
    ("train_nano_peak", "GFLOP/s", lambda: our_gflops("nano"), peak_peers, 0.65),
    ("train_baby_peak", "GFLOP/s", lambda: our_gflops("baby"), peak_peers, 0.7),
    ("train_baby64_peak", "GFLOP/s", lambda: our_gflops("baby", "batch=64", "parts=32"), peak_peers, 0.7),
    ("train_nano_avx2_peak", "GFLOP/s", lambda: our_gflops("nano", env={"AG_CPU": "avx2"}),
     lambda: peak_peers("avx2", "FMA peak of AVX2"), 0.6),
    ("train_baby_avx2_peak", "GFLOP/s", lambda: our_gflops("baby", env={"AG_CPU": "avx2"}),
     lambda: peak_peers("avx2", "FMA peak of AVX2"), 0.65),
    ("train_baby_recompute", "tokens/s", lambda: our_training("baby", "recompute=1"),
     lambda: [("all results kept", our_training("baby"))], 0.9),
    ("matmul_baby_openblas", "GFLOP/s", lambda: our_program("bench_matmul", "set=baby"),
     lambda: openblas_peers("baby"), 1.0),
    ("matmul_gpt2_openblas", "GFLOP/s", lambda: our_program("bench_matmul", "set=gpt2"),
     lambda: openblas_peers("gpt2"), 1.0),
    ("matmul_baby_bf16_peak", "GFLOP/s", lambda: our_program("bench_matmul", "bf16", "set=baby"),
     lambda: peak_peers("bf16", "VDPBF16PS peak"), 0.7),
    ("matmul_gpt2_bf16_peak", "GFLOP/s", lambda: our_program("bench_matmul", "bf16", "set=gpt2"),
     lambda: peak_peers("bf16", "VDPBF16PS peak"), 0.7),
    ("decode_260k_llama2c", "tokens/s", lambda: our_decoding("260k"), lambda: llama2c_peers("260k"), 1.5),
    ("decode_124m_llama2c", "tokens/s", lambda: our_decoding("124m"), lambda: llama2c_peers("124m"), 1.2),
    ("decode_124m_memory", "GB/s", lambda: our_reading("124m"),
     lambda: [("memory, read by two threads", our_program("bench_decode", "bandwidth"))], 0.9),
    ("decode_124m_int8", "tokens/s", lambda: our_decoding("124m", "int8=1"),
     lambda: [("weights in float32", our_decoding("124m"))], 2.0),
    ("scalar_micrograd", "s/step", lambda: our_program("bench_scalar"),
     lambda: python_peer("micrograd", "micrograd", "micrograd_peer.py"), 500.0),
    ("bpe_train_tokenizers", "s", lambda: our_program("bench_bpe", "train", data("tinyshakespeare.txt"), "1024"),
     lambda: python_peer("tokenizers", "tokenizers", "tokenizers_peer.py", data("tinyshakespeare.txt"), "1024"), 2.0),
    ("bpe_encode_tiktoken", "MB/s",
     lambda: our_program("bench_bpe", "encode", data("tinyshakespeare.txt"), data("cl100k_base.tiktoken")),
     lambda: python_peer("tiktoken", "tiktoken", "tiktoken_peer.py", data("tinyshakespeare.txt"),
                         data("cl100k_base.tiktoken")), 4.0),
    ("bpe_train_rustbpe_1k", "s", lambda: our_bpe_training(data("tinyshakespeare.txt"), "1024", "5"),
     lambda: rustbpe_peers(data("tinyshakespeare.txt"), "1024", "5"), 1.0),
    ("bpe_train_rustbpe_8k_22mb", "s", lambda: our_bpe_training(large_text(22), "8192", "1"),
     lambda: rustbpe_peers(large_text(22), "8192", "1"), 1.0),
    ("bpe_train_rustbpe_32k_100mb", "s", lambda: our_bpe_training(large_text(100), "32768", "1"),
     lambda: rustbpe_peers(large_text(100), "32768", "1"), 1.0),
]
# name, unit, a function that returns (figure, limit); the figure has to stay at the limit or below.
LIMITED = [
    ("lesson08_nanogpt", "val loss", lambda: lesson_loss("nanogpt", 1.89)),
    ("demo_loss", "val loss", lambda: lesson_loss("fast", 1.58)),
    ("demo_seconds", "s", lambda: lesson_seconds("fast", 60.0)),
    ("time_to_1_88", "s", lambda: time_to(1.88, 8.0, 24 * 64, "recipe=fast", "steps=150", "batch=24", "bf16=1")),
    ("time_to_1_4697", "s", lambda: time_to(1.4697, 360.0, 8 * 256, "recipe=fast", "preset=small", "steps=1200",
                                            "bf16=1")),
    ("compile_lesson", "s", lambda: compile_seconds(10.0)),
    ("bits_by_threads", "parameters", lambda: thread_bits(0.0)),
    ("mallocs_per_step", "calls", lambda: mallocs(0.0)),
]


# What AVX2 changes nothing about, or has no instructions for.
NOT_AVX2 = ("avx2", "bf16", "scalar", "bpe", "compile", "mallocs", "lesson08")


def number(value):
    if value == 0 or abs(value) >= 1000:
        return "%.0f" % value
    return "%.4g" % value


def compare(name, unit, make_ours, make_peers, wanted):
    """Returns the row of the table; raises Missing if ours or every setting of the peer cannot run."""
    start = time.perf_counter()
    peers = make_peers()
    mine = ours_or_broken(make_ours)
    faster = min if unit in ("s", "s/step") else max
    if len(peers) > 1:
        tried = []
        for label, measure in peers:
            try:
                tried.append((measure(), label, measure))
                print("    %s: %s %s" % (label, number(tried[-1][0]), unit), flush=True)
            except Missing as reason:
                print("    %s left out: %s" % (label, reason), flush=True)
        if not tried:
            raise Missing("no setting of the peer runs")
        _, label, measure = faster(tried, key=lambda t: t[0])
    else:
        label, measure = peers[0]
    a, b = [], []
    for i in range(RUNS):
        pair = time.perf_counter()
        a.append(ours_or_broken(mine))
        b.append(measure())
        print("    run %d: ours %s, %s %s %s" % (i + 1, number(a[-1]), label, number(b[-1]), unit), flush=True)
        if i == 0 and (time.perf_counter() - pair) * RUNS > LONG:
            print("    five runs would take over five minutes: one run", flush=True)
            break
    a, b = statistics.median(a), statistics.median(b)
    print("    %.0f s" % (time.perf_counter() - start), flush=True)
    ratio = b / a if faster is min else a / b
    short = ("%.0f" if ratio >= 1000 else "%.3g") % ratio
    return dict(zip(FIELDS, (name, number(a), unit, label, number(b), short, "%g" % wanted)))


def limited(name, unit, measure):
    value, limit = ours_or_broken(measure)
    return dict(zip(FIELDS, (name, number(value), unit, "", "", "", "<= " + number(limit))))


def reached(row):
    if row["wanted"].startswith("<="):
        return float(row["ours"]) <= float(row["wanted"][3:])
    return float(row["ratio"]) >= float(row["wanted"])


def show(rows, left_out, broken):
    names = {"peers_figure": "peer's figure"}
    table = [[names.get(f, f) for f in FIELDS] + [""]]
    table += [[row[f] for f in FIELDS] + ["reached" if reached(row) else "NOT REACHED"] for row in rows]
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    print()
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())
    for name, reason in left_out:
        print("left out: %s: %s" % (name, reason))
    for name, reason in broken:
        print("FAILED: %s: %s" % (name, reason))
    print("ratio: how many times faster than the peer. Written to %s." % CSV)


WORDS = {                               # what README calls the rows
    "train_nano_torch": "training, 0.8 M parameters (nano), batch 12",
    "train_baby_torch": "training, 10.8 M parameters (baby), batch 8",
    "train_baby64_torch": "baby, batch 64",
    "train_baby64_bf16_torch": "baby, batch 64, products in bfloat16",
    "train_gpt2_4x64_torch": "training, 124 M parameters (gpt2), batch 4 x 64",
    "train_gpt2_1x1024_torch": "gpt2, batch 1 x 1024",
    "train_nano_llmc": "nano, batch 12",
    "train_baby_llmc": "baby, batch 8",
    "train_gpt2_4x64_llmc": "gpt2, batch 4 x 64, in float32",
    "train_gpt2_1x1024_llmc": "gpt2, batch 1 x 1024, in float32",
    "train_nano_peak": "nano, of the two cores' peak in float32",
    "train_baby_peak": "baby, of that peak",
    "train_baby64_peak": "baby, batch 64, of that peak",
    "train_nano_avx2_peak": "nano with AVX2, of its peak",
    "train_baby_avx2_peak": "baby with AVX2, of its peak",
    "train_baby_recompute": "baby, norms and gelu computed again: a quarter less memory",
    "matmul_baby_openblas": "all matrix products of a step of baby, float32",
    "matmul_gpt2_openblas": "all matrix products of a step of gpt2, 1 x 1024, float32",
    "matmul_baby_bf16_peak": "the same products of baby in bfloat16, of their peak",
    "matmul_gpt2_bf16_peak": "the same products of gpt2 in bfloat16, of their peak",
    "decode_260k_llama2c": "generation, stories260K, one text",
    "decode_124m_llama2c": "generation, a random model of 124 M parameters, one text",
    "decode_124m_memory": "the same, of what the memory gives",
    "decode_124m_int8": "the same, weights in int8",
    "scalar_micrograd": "scalar engine, one step of the moons",
    "bpe_train_tokenizers": "BPE training to 1,024 tokens, Tiny Shakespeare",
    "bpe_encode_tiktoken": "cl100k encoding of Tiny Shakespeare, one thread",
    "bpe_train_rustbpe_1k": "BPE training to 1,024 tokens, Tiny Shakespeare, cl100k's split",
    "bpe_train_rustbpe_8k_22mb": "BPE training to 8,192 tokens, 22 MB of made-up words",
    "bpe_train_rustbpe_32k_100mb": "BPE training to 32,768 tokens, 100 MB of made-up words",
    "lesson08_nanogpt": "lesson 08, nanoGPT's recipe, 2,000 steps",
    "demo_loss": "`make demo`, loss after its 2,000 steps",
    "demo_seconds": "`make demo`, seconds of training",
    "time_to_1_88": "seconds of training to a validation loss of 1.88 (`recipe=fast steps=150 batch=24 bf16=1`)",
    "time_to_1_4697": "seconds of training to nanoGPT's 1.4697 (`recipe=fast preset=small steps=1200 bf16=1`)",
    "compile_lesson": "compiling lesson 08, seconds",
    "bits_by_threads": "parameters with other bits when the number of threads differs",
    "mallocs_per_step": "calls of malloc in a training step",
}


def readme(path):
    """The table of README.md, from a file that this program has written."""
    print("| what | ours | against | ratio | wanted |\n|---|---|---|---|---|")
    with open(path, newline="") as f:
        for row in csv.DictReader(f):
            peer = "%s: %s" % (row["peer"], row["peers_figure"]) if row["peer"] else ""
            words = WORDS[row["name"]].replace(" bf16=1", "") if "avx2" in path else WORDS[row["name"]]
            print("| %s | %s %s | %s | %s | %s |" % (words, row["ours"], row["unit"], peer, row["ratio"],
                                                   row["wanted"]))
    return 0


def machine():
    try:
        models = [line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
        return "%s, %d cores" % (models[0], os.cpu_count())
    except (OSError, IndexError):
        return "%d cores" % os.cpu_count()


def main():
    everything = [(r[0], lambda r=r: compare(*r)) for r in COMPARED]
    everything += [(r[0], lambda r=r: limited(*r)) for r in LIMITED]
    everything = [(name, f) for name, f in everything if not AVX2 or not any(w in name for w in NOT_AVX2)]
    order = [name for name, _ in everything]
    if OPTIONS["readme"]:
        return readme(OPTIONS["readme"])
    if OPTIONS["list"]:
        print("\n".join(order))
        return 0
    wanted = [w for w in OPTIONS["row"].split(",") if w]
    for w in wanted:
        if not any(w in name for name in order):
            sys.exit("bench: no row %s; there are: %s" % (w, " ".join(order)))
    rows, left_out, broken = {}, [], []
    if (wanted or OPTIONS["resume"]) and os.path.exists(CSV):
        with open(CSV, newline="") as f:
            rows = {row["name"]: row for row in csv.DictReader(f) if row["name"] in order}
    print("%s%s; %d threads, medians of %d alternating runs" % (machine(), ", AVX2 alone" if AVX2 else "", THREADS,
                                                                RUNS), flush=True)
    os.makedirs("out", exist_ok=True)
    for name, measure in everything:
        if (wanted and not any(w in name for w in wanted)) or (OPTIONS["resume"] and not wanted and name in rows):
            continue
        print("%s" % name, flush=True)
        rows.pop(name, None)
        try:
            rows[name] = measure()
        except (Missing, subprocess.TimeoutExpired) as reason:
            left_out.append((name, str(reason)))
            print("    left out: %s" % reason, flush=True)
        except Broken as reason:
            broken.append((name, str(reason)))
            print("    FAILED: %s" % reason, flush=True)
        # Written after each row, so that a long table survives an interruption and can be resumed.
        with open(CSV + ".tmp", "w", newline="") as f:
            writer = csv.DictWriter(f, FIELDS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows[n] for n in order if n in rows)
        os.replace(CSV + ".tmp", CSV)
    show([rows[n] for n in order if n in rows], left_out, broken)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
