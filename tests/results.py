"""`make results`: what lessons 10 to 16 are about, as numbers, for five seeds. It takes hours; Ctrl-C stops it, and the
next call goes on with the first lesson that has not ended.

    python3 tests/results.py [seeds=1,2,3,4,5] [only=10,13] [again=1] [quick=1] [write=1] [check=1]

Each seed has its own folder build/results/SEED, in which lesson 08 makes the base model and the others follow, each
with what the one before has saved. A lesson writes its numbers to out/NN/results.csv there; in the end all of them
together are tests/results.csv (lesson,measure,seed,value). only= runs these lessons (their models must be there, or
they make small ones); again=1 runs them although they have ended. quick=1 is one seed with few steps, in a folder of
its own, of which no table is made: that every lesson runs to its end and reports each measure. write=1 measures nothing
and puts mean and range of tests/results.csv into each lesson's first comment; check=1 compares them, and ends with 1 if
one differs.
"""
import csv
import os
import shutil
import subprocess
import sys
import textwrap
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
os.chdir(ROOT)
OPTIONS = {"seeds": "", "only": "", "again": "", "quick": "", "write": "", "check": ""}
for word in sys.argv[1:]:
    key, _, value = word.partition("=")
    if key not in OPTIONS:
        sys.exit("results: no option %s; there are: %s" % (key, " ".join(OPTIONS)))
    OPTIONS[key] = value
TABLE = "tests/results.csv"
FIELDS = ["lesson", "measure", "seed", "value"]
# lesson, options, options of the quick form, measures
LESSONS = [
    ("08_pretrain", "recipe=base",
     "every=1 sample=8 batch=2 steps=2", ""),
    ("10_base_model", "", "", "repeat_first repeat_second copy_train copy_val invents cut_off"),
    ("11_sft", "", "talks=100 steps=4",
     "base_wellformed sft_wellformed refuses_invented refuses_real refuses_told"),
    ("12_tools", "", "steps=2 tool_steps=2 held=4",
     "letters_bpe letters_char letters_tool sums_alone sums_tool speaker_closed speaker_search"),
    ("13_reward_model", "", "pairs=32 gold=32 held=16 raters=16",
     "pairs_shuffled pairs_wrong_scene pairs_base_sample tau"),
    ("14_ppo", "", "steps=2 free_steps=2 rows=4 minibatch=4 held=4 every=1",
     "ppo_gain ppo_kl ppo_proxy hack_proxy hack_gold_drop hack_distinct2"),
    ("15_grpo", "", "steps=1 demos=32 sft=2 groups=2 size=2 held=4",
     "letter_before letter_after words_before words_after sums_before sums_after answer_first steps_first imitation "
     "practice"),
    ("16_dpo", "", "pairs=32 held=8", "dpo_winrate"),
]


def program(lesson):
    return os.path.join(ROOT, "build", lesson)


def rows_of(folder, lesson, seed):
    path = os.path.join(folder, "out", lesson[:2], "results.csv")
    with open(path, newline="") as f:
        return [{"lesson": lesson[:2], "measure": r["measure"], "seed": seed, "value": r["value"]}
                for r in csv.DictReader(f)]


def read_table():
    if not os.path.exists(TABLE):
        return []
    with open(TABLE, newline="") as f:
        return list(csv.DictReader(f))


def write_table(rows):
    with open(TABLE + ".part", "w", newline="") as f:
        out = csv.DictWriter(f, FIELDS, lineterminator="\n")
        out.writeheader()
        out.writerows(rows)
    os.replace(TABLE + ".part", TABLE)


def run(lesson, options, folder, seed):
    """Runs a lesson to its end in a folder; its output is kept beside. Returns the seconds."""
    log = os.path.join(folder, lesson + ".txt")
    started = time.time()
    with open(log, "w") as out:
        status = subprocess.call([program(lesson)] + options.split() + ["seed=%s" % seed], cwd=folder, stdout=out,
                                 stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    if status:
        with open(log, errors="replace") as out:
            tail = "".join(out.readlines()[-5:])
        sys.exit("results: %s seed=%s ended with %d:\n%s" % (lesson, seed, status, tail))
    return time.time() - started


def measure(quick):
    seeds = ["1"] if quick else (OPTIONS["seeds"] or "1,2,3,4,5").split(",")
    only = OPTIONS["only"].split(",") if OPTIONS["only"] else []
    for seed in seeds:
        folder = os.path.join(ROOT, "build", "results", "quick" if quick else seed)
        if quick:
            shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(os.path.join(folder, "done"), exist_ok=True)
        if not os.path.exists(os.path.join(folder, "examples")):
            os.symlink(os.path.join(ROOT, "examples"), os.path.join(folder, "examples"))
        for lesson, options, few, measures in LESSONS:
            done = os.path.join(folder, "done", lesson)
            if (only and lesson[:2] not in only) or (os.path.exists(done) and not OPTIONS["again"]):
                continue
            if quick:                               # a key may come once
                given = {word.split("=")[0] for word in few.split()}
                options = " ".join([w for w in options.split() if w.split("=")[0] not in given] + [few])
            seconds = run(lesson, options, folder, seed)
            if measures:
                rows = rows_of(folder, lesson, seed)
                missing = set(measures.split()) - {r["measure"] for r in rows}
                if missing:
                    sys.exit("results: %s seed=%s does not report %s" % (lesson, seed, " ".join(sorted(missing))))
            open(done, "w").close()
            print("%s seed=%s: %.0f seconds" % (lesson, seed, seconds), flush=True)
    if not quick:
        collect()


def collect():
    """The table anew: what has been measured here, and of the old one the rows of what has not."""
    rows = {}
    for r in read_table():
        rows.setdefault((r["lesson"], r["seed"]), []).append(r)
    for seed in sorted(os.listdir("build/results")):
        folder = os.path.join("build", "results", seed)
        for lesson, _, _, measures in LESSONS:
            if seed.isdigit() and measures and os.path.exists(os.path.join(folder, "done", lesson)):
                rows[lesson[:2], seed] = rows_of(folder, lesson, seed)
    write_table([r for key in sorted(rows) for r in rows[key]])


def number(x):
    return "%.0f" % x if x == int(x) and abs(x) >= 2 else "%.2f" % x


def summary(lesson):
    """The lines that stand in a lesson's first comment."""
    rows = [r for r in read_table() if r["lesson"] == lesson[:2]]
    seeds = sorted({r["seed"] for r in rows}, key=int)
    if not rows:
        return []
    values = {}
    for r in rows:                                  # an empty value: there was nothing to measure
        if r["value"]:
            values.setdefault(r["measure"], []).append(float(r["value"]))
    parts = []
    for name, v in values.items():
        spread = " (%s to %s)" % (number(min(v)), number(max(v))) if number(min(v)) != number(max(v)) else ""
        parts.append("%s %s%s" % (name, number(sum(v) / len(v)), spread))
    head = "seeds %s, mean (lowest to highest): " % " ".join(seeds) if len(seeds) > 1 else "seed %s: " % seeds[0]
    return textwrap.wrap(head + ", ".join(parts), 120, initial_indent="// Measured     ",
                         subsequent_indent="//              ", break_long_words=False, break_on_hyphens=False)


def comments(write):
    differ = 0
    for lesson, _, _, measures in LESSONS:
        have = {r["measure"] for r in read_table() if r["lesson"] == lesson[:2]}
        for name in sorted(set(measures.split()) - have) if read_table() else []:
            print("%s has no %s of lesson %s" % (TABLE, name, lesson[:2]))
            differ += 1
    for lesson, _, _, measures in LESSONS:
        if not measures:
            continue
        want, path = summary(lesson), "examples/%s.c" % lesson
        with open(path) as f:
            lines = f.read().split("\n")
        first = next((i for i, line in enumerate(lines) if line.startswith("// Measured ")), None)
        if first is None:
            first = last = next(i for i, line in enumerate(lines) if line.startswith("// Next "))
        else:
            last = first + 1
            while lines[last].startswith("//              "):
                last += 1
        if lines[first:last] != want:
            differ += 1
            if write:
                with open(path, "w") as f:
                    f.write("\n".join(lines[:first] + want + lines[last:]))
            print("%s: %s" % (path, "written" if write else "its comment differs from " + TABLE))
    return differ


if OPTIONS["write"] or OPTIONS["check"]:
    bad = comments(OPTIONS["write"])
    sys.exit(1 if bad and not OPTIONS["write"] else 0)
try:
    measure(OPTIONS["quick"])
except KeyboardInterrupt:
    if not OPTIONS["quick"]:
        collect()
    sys.exit("results: stopped; the next call goes on")
