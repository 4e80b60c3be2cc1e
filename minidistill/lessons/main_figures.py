"""The figures of the main table: accuracy and NLL of every method by step."""

from collections.abc import Sequence
from pathlib import Path

from minidistill.experiments.labels import run_label
from minidistill.experiments.logs import by_method
from minidistill.experiments.protocol import START, TEACHER
from minidistill.lessons import plots
from minidistill.runlog import atomic_write


def draw_main_figures(logs: Sequence[dict], folder: Path) -> list[Path]:
    """Draw greedy accuracy and both NLLs by step, median and range over seeds; return the files."""
    figures = {
        "accuracy_by_step.png": accuracy_by_step(logs),
        "nll_by_step.png": nlls_by_step(logs),
    }
    for name, figure in figures.items():
        atomic_write(folder / name, plots.png(figure, dpi=120))
    return [folder / name for name in figures]


def accuracy_by_step(logs: Sequence[dict], ax=None):
    """Draw greedy accuracy on held-out prompts by step, between start and teacher."""
    ax = plots.axes() if ax is None else ax
    groups = by_method(logs)
    start = [log["scores"]["accuracy"] for log in groups.get(START, [])]
    trained = {name: rows for name, rows in groups.items() if "evals" in rows[0]}
    lines = {
        run_label(name): [
            [first, *(row["accuracy"] for row in log["evals"][1:])]
            for first, log in zip(start or [float("nan")] * len(rows), rows, strict=False)
        ]
        for name, rows in trained.items()
    }
    plots.curves(_steps(trained), lines, ax, "step", "accuracy (greedy)", band=(0, 100))
    for log in groups.get(TEACHER, [])[:1]:
        style = plots.ROLES["teacher"]
        ax.axhline(log["scores"]["accuracy"], label="teacher", linewidth=1.2, **style.line)
    ax.legend(ncols=2, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return ax


def nlls_by_step(logs: Sequence[dict]):
    """Draw the NLL on the teacher's and on the start's held-out responses by step, on a log axis."""
    trained = {name: rows for name, rows in by_method(logs).items() if "evals" in rows[0]}
    axes = plots.axes(columns=2, width=9.0)
    for ax, which in zip(axes, ("nll_teacher", "nll_student"), strict=True):
        lines = {
            run_label(name): [[row[which] for row in log["evals"]] for log in rows]
            for name, rows in trained.items()
        }
        whose = "the teacher's" if which == "nll_teacher" else "the start's"
        plots.curves(_steps(trained), lines, ax, "step", f"NLL on {whose} responses", band=(0, 100))
        plots.log_axis(ax.yaxis, subs=(1, 2, 5))
    axes[0].get_legend().remove()
    return axes[0]


def _steps(trained: dict[str, list[dict]]) -> list[int]:
    return [row["step"] for row in next(iter(trained.values()))[0]["evals"]]
