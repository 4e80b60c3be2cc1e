"""Draw what the ledger holds: contrasts with their intervals, and arms on their way."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from minidistill.experiments.labels import METRIC_LABELS
from minidistill.experiments.logs import runs_by_seed
from minidistill.experiments.verdicts import Result
from minidistill.lessons import plots


def arm_logs(names: Sequence[str], folder: Path | None = None) -> dict[str, list[dict]]:
    """Look up the logs of arms: name → a log a seed, the lowest seed first."""
    found = {name: runs_by_seed(name, folder) for name in names}
    return {name: [logs[seed] for seed in sorted(logs)] for name, logs in found.items()}


def paired_logs(names: Sequence[str], folder: Path | None = None) -> dict[str, list[dict]]:
    """Look up the logs of the seeds that all these arms have: means of them can be compared."""
    logs = arm_logs(names, folder)
    shared = set.intersection(*({log["run"]["seed"] for log in rows} for rows in logs.values()))
    return {n: [log for log in rows if log["run"]["seed"] in shared] for n, rows in logs.items()}


def scores(logs: Sequence[dict], metric: str = "accuracy") -> list[float]:
    """List one score of each log."""
    return [log["scores"][metric] for log in logs]


def on_the_way(logs: Sequence[dict], what: str = "accuracy") -> tuple[list[int], np.ndarray]:
    """Steps, and what an arm's runs measured or logged there: (steps), (seeds, steps)."""
    runs = [[row for row in log["evals"] if what in row] for log in logs]
    return [row["step"] for row in runs[0]], np.array([[row[what] for row in run] for run in runs])


def draw_curves(
    logs: Mapping[str, Sequence[dict]], names: Mapping[str, str], ax=None, what: str = "accuracy",
    title: str = "", band: tuple[float, float] = (0, 100),
):  # fmt: skip
    """Draw median and range over seeds, step by step; `names` are arms and what to call them."""
    steps, lines = [], {}
    for name, called in names.items():
        steps, lines[called] = on_the_way(logs[name], what)
    label = METRIC_LABELS.get(what, what)
    return plots.curves(steps, lines, ax, "step", label, title, band=band)


def draw_forest(
    results: Sequence[Result], ax=None, title: str = "", labels: Sequence[str] | None = None
):
    """Draw a row a contrast: a point a seed, its interval as a line, in grey what is too small to matter.

    The frame is at most three times as wide as the points: an interval that goes on ends in an arrow.
    """
    ax = plots.axes(height=0.9 + 0.42 * len(results)) if ax is None else ax
    smallest = results[0].contrast.smallest
    ax.axvspan(-smallest, smallest, color="0.9", linewidth=0)
    ax.axvline(0, color=plots.BLACK, linewidth=0.8)
    points = max(smallest, *(abs(value) for result in results for value in result.values))
    reach = max(abs(end) for result in results for end in result.interval)
    frame = 1.08 * max(points, min(reach, 3 * points))
    for row, result in enumerate(results):
        ax.plot(result.values, [row] * len(result.values), "o", color="0.55", markersize=3.5)
        ends = [min(max(end, -frame), frame) for end in result.interval]
        ax.plot(ends, [row + 0.24] * 2, color=plots.BLACK, linewidth=2.5)
        for end, shown, arrow in zip(result.interval, ends, "<>", strict=True):
            if end != shown:
                ax.plot(shown, row + 0.24, arrow, color=plots.BLACK, markersize=7, clip_on=False)
        ax.plot(result.mean, row + 0.24, "o", color=plots.BLACK, markersize=5)
    ax.set_xlim(-frame, frame)
    ax.set_yticks(range(len(results)), labels or [r.contrast.label for r in results])
    ax.set(ylim=(len(results) - 0.4, -0.6))
    ax.set_xlabel(f"difference in {METRIC_LABELS[results[0].contrast.metric]}")
    ax.set_title(title, loc="left")
    return ax
