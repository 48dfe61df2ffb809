"""notebooks/cc.py, curves.py and run.py in a kernel, as a reader meets them: what a cell shows, and when.

    build/notebooks/venv/bin/python tests/notebooks.py          test_notebooks.sh runs this, and then the notebooks
"""
import io
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import nbformat
from jupyter_client.manager import KernelManager

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "notebooks"))
import run                                  # noqa: E402: it lies in that folder
from run import check                       # noqa: E402

signal.signal(signal.SIGHUP, signal.SIG_IGN)          # as under nohup, which must not matter
kernel = KernelManager(kernel_name="python3")
kernel.start_kernel(cwd=str(ROOT / "notebooks"), extra_arguments=["--log-level=ERROR"])
client = kernel.client()
client.start_channels()
client.wait_for_ready(timeout=60)


def cell(source, interrupt_after=None):
    """Runs a cell; all its text, the pictures' sizes, the error's sentence, and the seconds at which each text came."""
    text, pictures, error, times, began = "", [], None, [], time.time()

    def show(message):
        nonlocal text, error
        content = message["content"]
        if message["msg_type"] == "stream":
            text += content["text"]
            times.append((time.time() - began, content["text"]))
        elif message["msg_type"] == "display_data" and "image/png" in content["data"]:
            pictures.append(len(content["data"]["image/png"]))
        elif message["msg_type"] == "error":
            error = "\n".join(content["traceback"])
    if interrupt_after:
        threading.Timer(interrupt_after, kernel.interrupt_kernel).start()
    client.execute_interactive(source, output_hook=show, timeout=120)
    return text, pictures, error, times


def holds(condition, what, seen):
    check(condition, f"cc.py: {what}: {seen}")


def compiling():
    seen = cell("import cc\n%load_ext cc")
    holds(seen[2] is None, "the extension loads", seen)
    cell("%%c\n;")                          # the headers' library is there from here on
    began = time.time()
    seen = cell("%%c\nint x = 40;\nprintf(\"%d é\\n\", x + 2);")
    holds(seen[0] == "42 é\n" and not seen[2], "statements run", seen)
    holds(time.time() - began < 3, "a cell does not compile the headers again", time.time() - began)
    seen = cell("%%c\n#include <ctype.h>\n// why\nint main(void) {\n    printf(\"%d\\n\", isdigit('7') != 0);\n}")
    holds(seen[0] == "1\n" and not seen[2], "a program with a main runs", seen)
    seen = cell("%%c\n#include <ctype.h>\nint x = 1;\nint y = x +;\n")
    holds(":4:12: error" in seen[0] and "int y = x +;" in seen[0], "an error names the line of the cell", seen)
    holds(seen[2] == "The cell does not compile.", "and is said in a sentence", seen)
    seen = cell("%%c\n\nunsigned u = 1;\nint i = -1;\nif (i < u) puts(\"less\");")
    holds(":5:7: warning" in seen[0] and not seen[2], "a warning names its line, and the cell runs", seen)
    seen = cell("%%c\nag_ctx *ag = ag_new(1);\nag_matmul(ag_zeros(ag, 2, 3), ag_zeros(ag, 2, 3));")
    holds("]:3: ag_matmul: a is (2,3)" in seen[0] and "status 1;" in str(seen[2]), "so does an error of an op", seen)
    seen = cell("%%c -DAG_NAIVE\n#define AG_REAL double\n#define AUTOGRAD_IMPLEMENTATION\n#include \"autograd.h\"\n"
                "#include <stdio.h>\nprintf(\"%d %s\\n\", (int)sizeof(ag_real), ag_backend_name(ag_new(1)));")
    holds(seen[0] == "8 cpu/naive\n", "a cell may have an implementation of its own", seen)
    seen = cell("%%c\ngpt_config c = gpt_preset(\"nano\");\nbpe *b = bpe_new();\nprintf(\"%d %d\\n\", c.n_layer, !b);\n"
                "bpe_free(b);")
    holds(seen[0] == "4 0\n", "all three headers are linked", seen)


def options():
    cell("steps = 7")
    seen = cell('%%c -DSTEPS={steps} --args "lr=1 name=\'a b\'"\n'
                'printf("%d %d %s %s\\n", STEPS, argc, argv[1], argv[2]);')
    holds(seen[0] == "7 3 lr=1 name=a b\n", "variables and arguments are passed on", seen)
    seen = cell("%%c --keep two\n#define TWO 2\nstatic int two(void) { return TWO; }")
    holds(seen[:3] == ("", [], None), "keeping a piece says nothing", seen)
    cell("%%c --keep four\nstatic int four(void) { return two() + two(); }")
    seen = cell("%%c\nprintf(\"%d\\n\", four());")
    holds(seen[0] == "4\n", "kept pieces see each other", seen)
    cell("%%c --keep two\nstatic int two(void) { return 20; }")
    seen = cell("%%c\nprintf(\"%d\\n\", four());")
    holds(seen[0] == "40\n", "a piece that is run again replaces itself, where it was", seen)
    seen = cell("%%c --keep two\nstatic int two(void) { return 20 }")
    holds("two:2:" in seen[0] and seen[2], "an error in a piece names it", seen)
    seen = cell("%%c\nprintf(\"%d\\n\", four());\nint z = ;")
    holds("]:3:9: error" in seen[0], "kept pieces do not shift the lines", seen)
    seen = cell("%%c\nprintf(\"%d\\n\", four());")
    holds(seen[0] == "40\n", "a piece that does not compile is not kept", seen)


def failing():
    seen = cell("%%c\nprintf(\"before\");\nvolatile int *p = NULL;\n*p = 1;")
    holds(seen[2] == "The program was ended by SIGSEGV: Segmentation fault.", "a signal is named", seen)
    seen = cell("%%c\nprintf(\"before\");\nreturn 3;")
    holds(seen[0] == "before" and "ended with status 3;" in str(seen[2]), "so is a status", seen)
    seen = cell("%%c\nint n;\nprintf(\"%d\\n\", scanf(\"%d\", &n));")
    holds(seen[0] == "-1\n", "there is nobody to read from", seen)


def streaming():
    seen = cell("%%c\n#include <unistd.h>\nprintf(\"first\\n\");\nsleep(2);\nprintf(\"second\\n\");")
    at = {word: when for when, text in seen[3] for word in ("first", "second") if word in text}
    holds(at["second"] - at["first"] > 1, "output comes while the program runs", seen)
    seen = cell("%%c\n#include <unistd.h>\n#include \"lesson.h\"\nfor (int i = 0; i <= 4; i++) {\n"
                "    lesson_progress(i, 4, 0.5, 10);\n    usleep(150000);\n}\nlesson_clear();\nputs(\"done\");")
    holds("\r2/4 [##########" in seen[0] and seen[0].endswith("done\n"), "a progress bar is drawn", seen)
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(outputs=[
        nbformat.v4.new_output("stream", name="stdout", text=text) for _, text in seen[3]])])
    run.clean(book)
    holds(book.cells[0].outputs == [{"output_type": "stream", "name": "stdout", "text": "done\n"}],
          "and not saved", book.cells[0].outputs)


def interrupting():
    with tempfile.TemporaryDirectory() as folder:
        alive = Path(folder, "alive")
        source = f"""%%c
#include <signal.h>
#include <unistd.h>
if (!fork()) {{
    signal(SIGINT, SIG_IGN);
    for (int i = 0; i < 100; i++) {{
        FILE *f = fopen("{alive}", "w");
        fclose(f), usleep(100000);
    }}
}}
puts("running");
sleep(60);
"""
        began = time.time()
        seen = cell(source, interrupt_after=1.5)
        holds("running" in seen[0] and "Interrupted" in seen[0] and not seen[2], "a cell is interrupted cleanly", seen)
        holds(time.time() - began < 20, "and soon", time.time() - began)
        alive.unlink(missing_ok=True)
        time.sleep(0.5)
        holds(not alive.exists(), "nothing that it started is left", alive)
    seen = cell("%%c\n#include <unistd.h>\n#include \"lesson.h\"\nwhile (!lesson_interrupted()) usleep(1000);\n"
                "puts(\"saved\");", interrupt_after=1.5)
    holds("saved\nInterrupted" in seen[0] and not seen[2], "a lesson has time to save", seen)
    seen = cell("%%c\nputs(\"again\");")
    holds(seen[0] == "again\n", "the next cell runs", seen)


def dying():
    """Last: the kernel is killed while a cell runs, as by Restart."""
    with tempfile.TemporaryDirectory() as folder:
        alive = Path(folder, "alive")
        client.execute(f"""%%c
#include <unistd.h>
for (int i = 0; i < 300; i++) {{
    FILE *f = fopen("{alive}", "w");
    if (f) fclose(f);
    usleep(100000);
}}""")
        for _ in range(100):
            time.sleep(0 if alive.exists() else 0.1)
        began = alive.exists()
        kernel.shutdown_kernel(now=True)
        for _ in range(20):                 # within 20 seconds it writes no more; by itself it would in 30
            alive.unlink(missing_ok=True)
            time.sleep(1)
            if not alive.exists():
                break
        holds(began and not alive.exists(), "a program ends with its kernel", (began, alive.exists()))


def pictures():
    seen = cell("%%c\n#include \"plot.h\"\ndouble y[] = {1, 2, 4};\nfor (int i = 0; i < 2; i++) {\n"
                "    plot *p = plot_new(\"t\", \"x\", \"y\");\n    plot_line(p, \"a\", NULL, y, 3);\n"
                "    plot_save(p, i ? \"out/notebooks/a.png\" : \"out/notebooks/b.png\");\n    plot_free(p);\n}")
    if "no pictures" in seen[0]:
        print("skipped: pictures of C cells (stb_image_write.h is missing)")
    else:
        holds(len(seen[1]) == 2 and seen[0].index("b.png") < seen[0].index("a.png"), "pictures come in order", seen)
    seen = cell("%%c\n;")
    holds(seen[1] == [], "and once", seen)
    with tempfile.NamedTemporaryFile("w", suffix=".csv") as file:
        file.write("step,train_loss,val_loss\n0,4,\n1,2,3\n")
        file.flush()
        seen = cell(f"print(len(cc.log('{file.name}').val_loss.dropna()))\n"
                    f"ax = cc.plot({{'one': '{file.name}', 'two': cc.log('{file.name}')}}, smooth=0.5, yscale='log')\n"
                    f"print(ax.get_xlabel(), ax.get_ylabel(), ax.get_yscale(), *ax.get_legend_handles_labels()[1])\n"
                    f"print(ax.lines[0].get_ydata())")
        holds(seen[0].split("\n")[:2] == ["1", "step train loss log one two"] and len(seen[1]) == 1, "curves", seen)
        holds("2.66" in seen[0], "the moving average", seen)


def failures(test, *arguments):
    """What a part of the harness reports, without counting it here."""
    before, stdout = dict(run.counts), sys.stdout
    sys.stdout = io.StringIO()
    try:
        test(*arguments)
        return sys.stdout.getvalue().count("FAILED")
    finally:
        sys.stdout = stdout
        run.counts.update(before)


def figures():
    output = nbformat.v4.new_output("stream", text="loss: 0.3123\nspeed = 5,612 tokens/s\nstep 3 is at 9\nbelow -2\n")
    for bad, source in [(0, "It is 0.31<!-- loss -->."), (1, "It is 0.32<!-- loss -->."), (1, "It is 3<!-- los -->."),
                        (0, "It is 0.3<!-- loss ± 0.02 -->."), (1, "It is 0.3<!-- loss ± 0.01 -->."),
                        (0, "It is 5,000<!-- speed ± 20 % -->."), (1, "It is 5,000<!-- speed ± 10 % -->."),
                        (0, "It is 9<!-- step ... at -->."), (1, "It is 0.31 <!-- loss -->."), (0, "It is 3."),
                        (0, "It is −2<!-- below -->."), (1, "It is 2<!-- below -->.")]:
        cells = [nbformat.v4.new_code_cell(outputs=[output]), nbformat.v4.new_markdown_cell(source)]
        seen = failures(run.check_figures, "", cells, "prints")
        check((seen > 0) == bad, f"run.py: {source} has {seen} failures")


def exercises():
    verdict = "print('Not yet' if x is None else 'Right' if x == 4 else 'Wrong')"
    for bad, saved, checked, solution, wrong in [
            (0, "x = None", verdict, "x = 4", "x = 5"), (1, "x = 4", verdict, "x = 4", "x = 5"),
            (1, "x = None", verdict, "x = 5", "x = 5"), (1, "x = None", verdict, "x = 4", "x = 2 + 2"),
            (2, "x = None", "print('Right')", "x = 4", "x = 5"), (1, "x = None", verdict, "x = None", "x = 5")]:
        details = f"<details>\n\n```python\n{solution}\n```\n</details>\n\n<!-- wrong\n{wrong}\n-->"
        book = nbformat.v4.new_notebook(cells=[
            nbformat.v4.new_markdown_cell("### Exercise"), nbformat.v4.new_code_cell(saved),
            nbformat.v4.new_code_cell(checked), nbformat.v4.new_markdown_cell(details)])
        seen = failures(run.execute, "", book)
        check(seen == bad, f"run.py: an exercise {saved, checked, solution, wrong} has {seen} failures, not {bad}")
        check(book.cells[1].source == saved, "run.py: the answer is not what was saved")
    text = "%%%% markdown\n# A\n%%%% code raises-exception\n%%c\nx\n%%%% markdown\n    b\n"
    check(run.to_text(run.from_text(text)) == text, "run.py: a notebook as text and back is another")


try:
    for part in compiling, options, failing, streaming, interrupting, pictures, figures, exercises, dying:
        part()
finally:
    client.stop_channels()
    kernel.shutdown_kernel(now=True)
print(f"notebooks: {run.counts[True]} passed, {run.counts[False]} failed")
sys.exit(run.counts[False] > 0)
