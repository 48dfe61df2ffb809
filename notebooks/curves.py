"""curves.py - what the lessons and cells have logged, as curves. Notebooks call these as cc.log, cc.plot and cc.zoom.

    frame = cc.log("out/08/log.csv")                            a csv file as a pandas frame; empty cells are NaN
    cc.plot("out/08/log.csv", y=["train_loss", "val_loss"])     one run, two columns
    cc.plot({"lr 1": a, "lr 0.1": b}, smooth=0.9, yscale="log", ylabel="loss (nats a character)")
                                                                two runs together: frames or paths
    cc.zoom()                                                   figures that can be moved and zoomed, from here on

Paths start in the root of the repository. Any setting of a matplotlib axis may be added by its name (title, xlabel,
xscale, ylim, ...). The axis is returned, for what is missing: ax.axhline, ax.annotate. The looks are in cc.mplstyle.
"""
import importlib.util
from pathlib import Path

import matplotlib.pyplot as plt
import pandas
from IPython import get_ipython

ROOT = Path(__file__).resolve().parent.parent
plt.style.use(ROOT / "notebooks" / "cc.mplstyle")


def log(path):
    return pandas.read_csv(ROOT / path)


def plot(runs, y="train_loss", x="step", smooth=0, ax=None, **settings):
    """A line for each run and each column of y. With smooth=0.9 each point of it is nine tenths of the one before and
    one tenth of the new value, and the curve itself is drawn pale behind it."""
    runs, columns = runs if isinstance(runs, dict) else {"": runs}, [y] if isinstance(y, str) else y
    ax = ax or plt.subplots()[1]
    for name, frame in runs.items():
        frame = frame if isinstance(frame, pandas.DataFrame) else log(frame)
        for column in columns:
            points = frame[[x, column]].dropna()
            label = f"{name} {words(column) if len(columns) > 1 or not name else ''}".strip()
            line, = ax.plot(points[x], points[column].ewm(alpha=1 - smooth).mean(), label=label, zorder=3)
            if smooth:
                ax.plot(points[x], points[column], color=line.get_color(), alpha=0.25, linewidth=0.8)
    ax.set(**{"xlabel": words(x), "ylabel": words(columns[0]), **settings})
    if len(runs) * len(columns) > 1:
        ax.legend()
    return ax


def words(column):
    return column.replace("_", " ")


def zoom():
    if importlib.util.find_spec("ipympl"):
        get_ipython().run_line_magic("matplotlib", "widget")
    else:
        print("Figures stay still: ipympl is not installed here. `make notebooks` installs it.")
