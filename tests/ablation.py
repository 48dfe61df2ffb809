"""What each part of lesson 08's recipe is worth: makes tests/ablation.csv and tests/bench/ABLATION.md.

    make build/08_pretrain && python3 tests/ablation.py       runs what tests/ablation.csv lacks (25 minutes in all)
    python3 tests/ablation.py print=1                         the text of tests/bench/ABLATION.md, from the csv

One run after the other on each core, with one thread each; a run that was stopped is begun again, those that ended are
not: after a change of the recipe or the engine that changes bits, their rows have to be deleted from the csv.
"""
import csv
import os
import subprocess
import sys
import threading

CSV, PAGE, SEEDS = "tests/ablation.csv", "tests/bench/ABLATION.md", (1, 2)
NANO, SMALL = "recipe=fast steps=977", "recipe=fast preset=small steps=1000 bf16=1"
# (what is changed, the options; those that stand behind NANO)
ROWS = [
    ("nothing", ""),
    ("LayerNorm instead of RMSNorm", "norm=layernorm"),
    ("no QK norm", "qk_norm=0"),
    ("learned positions, no QK norm", "position=learned qk_norm=0"),
    ("GELU instead of SwiGLU", "activation=gelu"),
    ("ReLU squared instead of SwiGLU", "activation=relu2"),
    ("tied head", "tied=1"),
    ("AdamW, 5e-4", "optimizer=adamw lr=5e-4 decay=0.1"),
    ("AdamW, 1e-3", "optimizer=adamw lr=1e-3 decay=0.1"),
    ("AdamW, 2e-3", "optimizer=adamw lr=2e-3 decay=0.1"),
    ("AdamW, 3e-3", "optimizer=adamw lr=3e-3 decay=0.1"),
    ("AdamW, 6e-3", "optimizer=adamw lr=6e-3 decay=0.1"),
    ("Muon's rate 0.013", "lr=0.013"),
    ("Muon's rate 0.03", "lr=0.03"),
    ("momentum 0.8", "momentum=0.8"),
    ("momentum 0.95", "momentum=0.95"),
    ("AdamW's part at 3e-3", "adam=3e-3"),
    ("AdamW's part at 0.02", "adam=0.02"),
    ("Muon's rate 0.013, AdamW's part at 0.02", "lr=0.013 adam=0.02"),
    ("half a cosine, to a tenth", "schedule=cosine"),
    ("constant rate", "schedule=constant"),
    ("weight decay 0.1", "decay=0.1"),
    ("dropout 0.1", "dropout=0.1"),
    ("windows at random places", "order=random"),
    ("batch grows over half of the steps", "grow=0.5"),
    ("batch of 18 that grows over 70 percent of the steps", "grow=0.7 batch=18"),
    ("half the batch, twice the steps", "batch=6 steps=1954"),
    ("twice the batch, half the steps", "batch=24 steps=488"),
]
WHOLE = [
    ("nanoGPT's recipe", "recipe=nanogpt steps=977"),
    ("nanoGPT's recipe, parts of nano-llama", "recipe=nanogpt preset=nano-llama steps=977"),
    ("nanoGPT's model, the fast recipe", "recipe=fast preset=nano steps=977"),
]
LONG = [
    ("nothing", ""),
    ("windows at random places", "order=random"),
    ("ReLU squared instead of SwiGLU", "activation=relu2"),
    ("weight decay 0.1", "decay=0.1"),
    ("dropout 0.1", "dropout=0.1"),
]


def jobs():
    for prefix, rows, seeds in ((NANO, ROWS, SEEDS), ("", WHOLE, SEEDS), (SMALL, LONG, SEEDS[:1])):
        for _, options in rows:
            for seed in seeds:
                yield " ".join((prefix + " " + options).split()), seed


def read():
    if not os.path.exists(CSV):
        return {}
    with open(CSV, newline="") as f:
        return {(r["options"], int(r["seed"])): (float(r["val_loss"]), float(r["seconds"])) for r in csv.DictReader(f)}


def write(done):
    order = {job: i for i, job in enumerate(jobs())}
    with open(CSV + ".new", "w", newline="") as f:
        out = csv.writer(f, lineterminator="\n")
        out.writerow(("options", "seed", "val_loss", "seconds"))
        for job in sorted((j for j in done if j in order), key=order.get):
            out.writerow((*job, "%.4f" % done[job][0], "%.0f" % done[job][1]))
    os.replace(CSV + ".new", CSV)


def measure():
    done, lock, cores, failed = read(), threading.Lock(), os.cpu_count() or 1, []
    left = [job for job in jobs() if job not in done]

    def work(k):
        while True:
            with lock:
                if not left or failed:
                    return
                options, seed = left.pop(0)
            folder = "build/ablation/%d" % k
            os.makedirs(folder, exist_ok=True)
            with open(folder + "/said.txt", "w+b") as said:
                run = subprocess.Popen(["build/08_pretrain", *options.split(), "seed=%d" % seed, "every=1000000",
                                        "sample=1", "out=" + folder], env=dict(os.environ, AG_THREADS="1"),
                                       stdout=said, stderr=subprocess.STDOUT)
                _, status, used = os.wait4(run.pid, 0)
                if status:
                    said.seek(0)
                    failed.append("ablation: %s: %s" % (options, said.read().decode()[-400:]))
                    return
            with open(folder + "/log.csv", newline="") as f:
                loss = [float(r["val_loss"]) for r in csv.DictReader(f) if r["val_loss"]][-1]
            with lock:
                done[(options, seed)] = (loss, used.ru_utime + used.ru_stime)
                write(done)
                print("%s seed=%d: %.4f" % (options, seed, loss), flush=True)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(cores)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if failed:
        sys.exit(failed[0])


def table(rows, prefix, seeds, done):
    base = None
    yield "| what is changed | `./pretrain` ... | validation loss | by | seconds |"
    yield "|---|---|---|---|---|"
    for what, options in rows:
        options = " ".join((prefix + " " + options).split())
        got = [done[(options, s)] for s in seeds if (options, s) in done]
        if len(got) < len(seeds):
            continue
        losses = [g[0] for g in got]
        mean = sum(losses) / len(losses)
        base = mean if base is None else base
        spread = " (%.3f to %.3f)" % (min(losses), max(losses)) if len(losses) > 1 else ""
        yield "| %s | `%s` | %.3f%s | %+.3f | %.0f |" % (what, options, mean, spread, round(mean - base, 3) + 0.0,
                                                        sum(g[1] for g in got) / len(got))


def page():
    done = read()
    lines = [
        "# What each part of the fast recipe is worth", "",
        "Written by `python3 tests/ablation.py`. Each row is one command of lesson 08 (`examples/08_pretrain.c`): mean",
        "and range, with `seed=1` and `seed=2`, of the loss on the last tenth of Tiny Shakespeare, in disjoint",
        "windows, after",
        "977 steps of 12 windows of 64 characters (0.75 million). `by`: the difference to the first row; below about",
        "0.01 it is chance. The settings of the first row were chosen by such losses, on the same validation text.",
        "Seconds are the processor time of one thread, to about a tenth, for the whole command.", "",
        *table(ROWS, NANO, SEEDS, done), "", "Whole recipes:", "", *table(WHOLE, "", SEEDS, done), "",
        "## Contexts of 256, 2.7 million parameters", "",
        "1,000 steps of 8 windows of 256 characters (2 million), seed 1. nanoGPT's recipe for a GPU ends at 1.4697, by",
        "10.7 million parameters and 82 million characters.", "", *table(LONG, SMALL, SEEDS[:1], done)]
    return "\n".join(lines) + "\n"


def main():
    if sys.argv[1:] == ["print=1"]:
        sys.stdout.write(page())
        return
    measure()
    with open(PAGE, "w") as f:
        f.write(page())


main()
