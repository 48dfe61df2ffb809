"""cc.py - C cells for Jupyter: %%c compiles a cell with the three headers at hand, runs it, and shows what it does.

    %load_ext cc                                in the first cell of a notebook, after import cc
    %%c                                         statements, which become the body of main; or a program that has a main
    %%c --keep moons                            functions and includes for later cells; run again, it replaces itself
    %%c -DSTEPS=500 --args "seed=7"             macros and other flags for the compiler; arguments of the program
    %lesson 08 steps=200 out=out/try            makes a lesson of examples/ and runs it
    cc.log(path), cc.plot(runs), cc.zoom()      csv files and their curves, see curves.py
    %%c -DSTEPS={50 if cc.QUICK else 2000}      short where a run only looks for errors (NOTEBOOKS_QUICK=1)

Programs run in the root of the repository and may write to out/notebooks. Output appears while it is written, with the
progress bar; Interrupt stops a program and all that it has started; PNG files that it wrote under out/ are shown. The
compiler names lines as Jupyter numbers them; CC chooses it. Headers are compiled once, with AG_DIE_ON_ERROR and
BPE_DIE_ON_ERROR, to a library in build/, and cells link to that unless they define an IMPLEMENTATION of their own.
"""
import argparse
import codecs
import hashlib
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import tty
from contextlib import suppress
from pathlib import Path

from IPython import get_ipython
from IPython.display import Image, display

from curves import log, plot, zoom          # noqa: F401: notebooks call them as cc.log and so on

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "notebooks"
CC = shlex.split(os.environ.get("CC", "cc")) + ["-O3", *(f"-I{ROOT / part}" for part in ("", "examples", "build"))]
WARN = "-Wall -Wextra -Wpedantic -Wno-unused-function -Wno-unused-variable".split()     # a kept piece may lie idle
HEADERS = {"autograd": "AUTOGRAD", "bpe": "BPE", "gpt": "GPT"}
PRELUDE = "".join(f"#include <{name}.h>\n" for name in ["math", "stdio", "stdlib", "string", *HEADERS])
OPTIONS = argparse.ArgumentParser(prog="%%c", add_help=False, allow_abbrev=False)
OPTIONS.add_argument("--keep"), OPTIONS.add_argument("--args", default="")
QUICK = "NOTEBOOKS_QUICK" in os.environ
kept = {}                                   # name -> source, in the order in which they were first kept


class Failed(Exception):
    """A cell that does not compile, or a program that failed: a sentence instead of a Python traceback."""
    def _render_traceback_(self):
        return [str(self)]


def library():
    """The compiled headers; of other headers, or by another compiler, they have another name."""
    key = repr(CC).encode() + b"".join((ROOT / f"{name}.h").read_bytes() for name in HEADERS)
    archive = BUILD / f"headers-{hashlib.sha256(key).hexdigest()[:16]}.a"
    if not archive.exists():
        print("compiling the headers, this once ...", end="", flush=True)
        with tempfile.TemporaryDirectory(dir=BUILD) as work:
            for name, macro in HEADERS.items():
                subprocess.run([*CC, "-w", f"-D{macro}_IMPLEMENTATION", "-DAG_DIE_ON_ERROR", "-DBPE_DIE_ON_ERROR",
                                "-xc", "-c", ROOT / f"{name}.h", "-o", f"{name}.o"], cwd=work, check=True)
            subprocess.run(["ar", "rcs", "all.a", *(f"{name}.o" for name in HEADERS)], cwd=work, check=True)
            os.replace(f"{work}/all.a", archive)            # at once: another kernel may be doing the same
        print("\r" + " " * 40 + "\r", end="", flush=True)
    return archive


def program(cell, name, keep):
    """The source: kept pieces, then the cell, in a main if it has none. #line gives its lines their numbers back."""
    lines, top = cell.split("\n"), 0
    if not keep and not re.search(r"^\s*int\s+main\s*\(", cell, re.M):
        while top < len(lines) and re.match(r"\s*(#|//|$)", lines[top]):
            top += 1                        # includes and macros at its top stay outside
        lines[top:top] = [f"int main(int argc, char **argv) {{ (void)argc, (void)argv;\n#line {top + 2}"]
        lines.append("return 0; }")
    pieces = {**kept, name: "\n".join(lines)}
    source = "".join(f'#line 2 "{piece}"\n{text}\n' for piece, text in pieces.items())
    return source if re.search(r"#\s*define\s+\w+_IMPLEMENTATION", source) else PRELUDE + source


def run(command):
    """Runs a program on a terminal of its own, since lessons draw their bar on nothing else."""
    began = time.time() - 0.01              # clocks of files tick a hundred times a second or more often
    terminal, end = pty.openpty()
    tty.setraw(end)                         # nothing is echoed, and lines end as they were written
    command = ["sh", "-c", 'exec "$@" 9< "$0" < /dev/null', os.ttyname(end), *command]  # 9: it ends with this kernel
    child = subprocess.Popen(command, cwd=ROOT, stdout=end, stderr=end, start_new_session=True,
                             preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL))   # nohup ignores it
    os.close(end)
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    signals, patience = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], float("inf")
    while signals:
        try:
            ready = select.select([terminal], [], [], 0.1)[0]
            text = os.read(terminal, 65536) if ready else b""
            print(decode(text), end="", flush=True)
            if not text and (ready or child.poll() is not None):
                break
            if time.time() > patience:      # a lesson saves its model at the first signal, which may take a while
                os.killpg(child.pid, signals.pop())
                patience = time.time() + 5
        except OSError:                     # how Linux says that nobody has the terminal open any more
            break
        except KeyboardInterrupt:
            patience = 0
    code = child.wait()
    with suppress(OSError):
        os.close(terminal), os.killpg(child.pid, signal.SIGKILL)      # what it has started, and left
    written = {path: path.stat().st_mtime for path in ROOT.glob("out/**/*.png")}
    for path in sorted((path for path in written if written[path] > began), key=written.get):
        print(path.relative_to(ROOT))
        display(Image(filename=path, width=760))
    if patience < float("inf"):
        print("Interrupted: the program, and all that it had started, has ended.")
    elif code:
        raise Failed(f"The program ended with status {code}; 0 would mean that all went well." if code > 0 else
                     f"The program was ended by {signal.Signals(-code).name}: {signal.strsignal(-code)}.")


def c(line, cell):
    options, flags = OPTIONS.parse_known_args(shlex.split(line))
    name = options.keep or f"In[{get_ipython().execution_count}]"
    os.makedirs(BUILD, exist_ok=True), os.makedirs(ROOT / "out" / "notebooks", exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD) as work:
        for piece, text in {**kept, name: cell}.items():    # from here compilers quote a line
            Path(work, piece).write_text(f"%%c\n{text}")
        Path(work, "cell.c").write_text(program(cell, name, options.keep))
        link = ["-fsyntax-only"] if options.keep else ["-o", "cell", library(), "-lm"]
        said = subprocess.run([*CC, *WARN, *flags, "cell.c", *link], cwd=work, capture_output=True, text=True)
        print(said.stderr, end="", file=sys.stderr, flush=True)
        if said.returncode:
            raise Failed("The cell does not compile.")
        if options.keep:
            kept[name] = cell
        else:
            run([f"{work}/cell", *shlex.split(options.args)])


def lesson(line):
    run(["sh", "-c", 'p=build/$(basename examples/$0_*.c .c) && make -s $p && exec $p "$@"', *shlex.split(line)])


def load_ipython_extension(shell):
    c.__doc__ = lesson.__doc__ = __doc__    # what %%c? shows
    shell.register_magic_function(c, "cell")
    shell.register_magic_function(lesson)
