"""The figures of the main table: the NLLs of every method by step and at the end."""

from collections.abc import Sequence
from pathlib import Path

from minidistill.experiments.labels import run_label
from minidistill.experiments.logs import by_method
from minidistill.lessons import plots
from minidistill.runlog import atomic_write


def draw_main_figures(logs: Sequence[dict], folder: Path) -> list[Path]:
    """Draw the NLL of every method by step (first seed) and at the end (all seeds); return the files."""
    groups = by_method(logs)
    histories = {name: rows[0]["evals"] for name, rows in groups.items() if rows[0]["evals"]}
    left, right = plots.axes(columns=2)
    plots.nll_curves(histories, "nll_teacher", left, log=True)
    plots.nll_curves(histories, "nll_student", right, log=True)
    ends = {
        run_label(name): {
            metric: [row["scores"][metric] for row in rows]
            for metric in ("nll_teacher", "nll_student")
        }
        for name, rows in groups.items()
    }
    figures = {"nll_by_step.png": left, "nll_at_the_end.png": plots.nll_bars(ends, log=True)}
    for name, figure in figures.items():
        atomic_write(folder / name, plots.png(figure, dpi=120))
    return [folder / name for name in figures]
