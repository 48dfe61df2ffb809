"""`make notebooks`: runs the notebooks from the first cell to the last, and holds them to what they say.

    build/notebooks/venv/bin/python notebooks/run.py [only=01,05] [save=1]      save=1 writes the outputs back
    build/notebooks/venv/bin/python notebooks/run.py text=notebooks/01_derivative.ipynb > 01.txt    to edit it ...
    build/notebooks/venv/bin/python notebooks/run.py from=01.txt to=notebooks/01_derivative.ipynb   ... and back

A cell that only draws has the tag hide-input: Jupyter and VS Code fold it, and show its figure.

It prints what failed, and last "notebooks: N passed, N failed". Of each notebook it demands that no cell fails (unless
it has the tag raises-exception), that it is saved with all its outputs, under 1 MB and without a path of this machine,
and the following. With NOTEBOOKS_QUICK=1 notebooks that know the word train and measure for a moment only, so their
figures are compared with the saved outputs and not with those of this run; `make test` does that with the one on speed.

FIGURES IN THE PROSE. A figure that a cell has printed is followed by a comment, which no reader sees, with the words
that stand before the figure where the cell prints it:

    After ten steps the loss is 0.31<!-- step 10: loss -->, a third of what it was<!-- no figure: this is an error -->.
    It writes 5,600<!-- speed ± 50 % --> tokens a second and ends at 1.55<!-- step 2000 ... val ± 0.02 -->.

The figure and its comment touch. The cell is the last one above the prose that has printed these words; three dots
stand for anything within a line. Without a tolerance, the printed figure has to round to that of the prose.

EXERCISES are four cells that follow each other: the task; a cell with the reader's answer, which as it is saved is
unfinished but runs; a check, which prints a line that begins with Right, Wrong or Not yet; and the solution, a Markdown
cell with <details> and, inside, one fenced block, the answer cell as it should be (without its line %%c). What
readers get wrong may follow, after an empty line, in comments, each a whole answer too:

    <!-- wrong
    static double slope(double x) { return 2 * x; }
    -->

The check has to say Not yet to what is saved, Right to the solution, and Wrong to each of these.
"""
import base64
import io
import os
import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "notebooks"
NUMBER = r"[-+−]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?"
FIGURE = re.compile(rf"({NUMBER})<!-- (.+?)(?: ± (\S+?)( %)?)? -->")
counts = {True: 0, False: 0}


def check(right, sentence):
    counts[bool(right)] += 1
    if not right:
        print("FAILED", sentence)


def number(text):
    return float(text.replace(",", "").replace("−", "-"))


def printed(cell):
    """All that a cell printed, without the escape sequences of colours."""
    parts = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.get("outputs", [])]
    return re.sub(r"\x1b\[[\d;]*m", "", "".join(parts))


def check_figures(name, cells, when):
    """The figures of the prose against the outputs that these cells have at the moment."""
    for index, cell in enumerate(cells):
        if cell.cell_type != "markdown":
            continue
        figures = list(FIGURE.finditer(cell.source))
        comments = [text for text in re.findall(r"<!--(.*?)-->", cell.source, re.S) if text.split()[:1] != ["wrong"]]
        check(len(figures) == len(comments), f"{name}: a comment that touches no figure: {comments}")
        for figure in figures:
            said, words, tolerance, percent = figure.groups()
            pattern = ".*?".join(r"\s+".join(map(re.escape, part.split())) for part in words.split("..."))
            for above in reversed(cells[:index]):
                found = re.search(rf"{pattern}[\s:=]*({NUMBER})", printed(above)) if above.cell_type == "code" else None
                if found:
                    break
            else:
                check(False, f"{name}: no cell above has printed '{words}' before a figure (the prose says {said})")
                continue
            decimals = len(said.partition(".")[2]) if "e" not in said else 0
            allowed = 0.5000001 * 10.0 ** -decimals
            if tolerance:
                allowed = number(tolerance) * (abs(number(said)) / 100 if percent else 1)
            check(abs(number(found[1]) - number(said)) <= allowed,
                  f"{name}: the prose says {said}, the cell {when} '{found[0].strip()}'")


def exercises(name, cells):
    """[(index of the answer, the solution, [wrong answers])]; the check is the cell after the answer."""
    found = []
    for index, cell in enumerate(cells):
        if cell.cell_type == "markdown" and "<details" in cell.source and "```" in cell.source:
            kinds = [before.cell_type for before in cells[max(index - 3, 0):index]]
            check(kinds == ["markdown", "code", "code"], f"{name}: a solution that does not follow task, answer, check")
            check("</details>\n<!--" not in cell.source, f"{name}: an empty line is missing after </details>")
            solution = re.search(r"^```\w*\n(.*?)^```", cell.source, re.S | re.M)[1]
            found.append((index - 2, solution, re.findall(r"<!-- wrong\n(.*?)-->", cell.source, re.S)))
    return found


def verdict(client, cells, at, answer):
    """What the check says to an answer: the first of the words Right, Wrong, Not yet that begins a line."""
    texts, saved = "", cells[at]
    for source in answer, cells[at + 1].source:
        cell = nbformat.v4.new_code_cell(source)
        client.execute_cell(cell, at, store_history=False)
        texts += printed(cell)
    cells[at] = saved                       # nbclient has put the other one there
    words = re.search(r"^(Right|Wrong|Not yet)\b", texts, re.M)
    return words[1] if words else f"neither, but: {texts!r}"


def execute(name, book):
    """Runs all cells, and after each check the solution and the wrong answers; their outputs are not kept."""
    tasks = {at + 1: (at, solution, wrong) for at, solution, wrong in exercises(name, book.cells)}
    client = NotebookClient(book, timeout=900, kernel_name="python3", extra_arguments=["--log-level=ERROR"],
                            resources={"metadata": {"path": str(FOLDER)}})
    with client.setup_kernel():
        for index, cell in enumerate(book.cells):
            client.execute_cell(cell, index)
            if index not in tasks:
                continue
            at, solution, wrong = tasks[index]
            line = re.match(r"(%%c.*\n)?", book.cells[at].source)[0]
            said = re.search(r"^Not yet\b", printed(book.cells[at]) + printed(cell), re.M)
            check(said, f"{name}, cell {at}: the check does not say Not yet to the answer as it is saved")
            for expected, answer in [("Right", solution), *(("Wrong", answer) for answer in wrong)]:
                says = verdict(client, book.cells, at, line + answer)
                check(says == expected, f"{name}, cell {at}: the check says {says}, not {expected}, to:\n{answer}")
            verdict(client, book.cells, at, book.cells[at].source)


def small(png):
    """A picture in base64 with 256 colours, if that is smaller: those of curves and letters have hardly more."""
    picture, out = Image.open(io.BytesIO(base64.b64decode(png))), io.BytesIO()
    if getattr(picture, "is_animated", False):
        return png                          # or only its first frame would be left
    picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    return min(png, base64.b64encode(out.getvalue()).decode(), key=len)


def clean(book):
    """What is saved: streams in one piece, of a progress bar its last state, small pictures, nothing of the moment."""
    for index, cell in enumerate(book.cells):
        cell.id, kept = f"cell-{index}", []
        cell.metadata.pop("execution", None)
        if "hide-input" in cell.metadata.get("tags", []):
            cell.metadata["jupyter"] = {"source_hidden": True}
        for output in cell.get("outputs", []):
            if output.output_type == "stream" and kept and kept[-1].get("name") == output.name:
                kept[-1].text += output.text
            else:
                kept.append(output)
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = small(output.data["image/png"])
        for output in kept:
            if output.output_type == "stream":
                output.text = re.sub(r"[^\n]*\r(?!\n)", "", output.text)
        if cell.cell_type == "code":
            cell.outputs = [output for output in kept if output.get("text") != ""]
    book.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
                     "language_info": {"name": "python"}}


def to_text(book):
    return "".join(f"%%%% {cell.cell_type} {' '.join(cell.metadata.get('tags', []))}".rstrip() + f"\n{cell.source}\n"
                   for cell in book.cells)


def from_text(text):
    cells = []
    for part in re.split(r"^%%%% ", text, flags=re.M)[1:]:
        (kind, *tags), source = part.split("\n", 1)[0].split(), part.split("\n", 1)[1].strip("\n")
        new = nbformat.v4.new_code_cell if kind == "code" else nbformat.v4.new_markdown_cell
        cells.append(new(source, metadata={"tags": tags} if tags else {}))
    book = nbformat.v4.new_notebook(cells=cells)
    clean(book)
    return book


def test(path, save):
    name, began, book, saved = path.stem, time.time(), nbformat.read(path, 4), nbformat.read(path, 4)
    quick = "NOTEBOOKS_QUICK" in os.environ and any("cc.QUICK" in cell.source for cell in book.cells)
    try:
        execute(name, book)
        check(True, name)                   # no cell has failed
    except CellExecutionError as error:
        check(False, f"{name}: {error}")
        return
    finally:
        print(f"{name}: {time.time() - began:.0f} s")
    if not quick:
        check_figures(name, book.cells, "prints")
    if save:
        clean(book)
        nbformat.write(book, path)
        saved = book
    check_figures(name, saved.cells, "is saved with")
    text = path.read_text()
    check(all(cell.get("execution_count", 1) for cell in saved.cells), f"{name}: saved without having been run")
    check(len(text) < 1e6, f"{name}: {len(text):,} bytes; under 1 MB is wanted")
    check(str(ROOT) not in text and str(Path.home()) not in text, f"{name}: names a folder of this machine")


def main():
    options = {"only": "", "save": "", "text": "", "from": "", "to": ""}
    for word in sys.argv[1:]:
        key, _, value = word.partition("=")
        if key not in options:
            sys.exit(f"notebooks: no option {key}; there are: {' '.join(options)}")
        options[key] = value
    if options["text"]:
        print(to_text(nbformat.read(options["text"], 4)), end="")
        return
    if options["from"]:
        nbformat.write(from_text(Path(options["from"]).read_text()), options["to"])
        return
    for path in sorted(FOLDER.glob("*.ipynb")):
        if any(path.name.startswith(part) for part in options["only"].split(",")):
            test(path, options["save"] == "1")
    print(f"notebooks: {counts[True]} passed, {counts[False]} failed")
    sys.exit(counts[False] > 0 or not counts[True])


if __name__ == "__main__":
    main()
