"""A table's runs, replayed from their logs: where each student stood at a step, and what it said."""

import textwrap
from collections.abc import Callable, Sequence

from minidistill import plots
from minidistill.experiments.labels import START, run_label
from minidistill.experiments.logs import by_method
from minidistill.tasks import load_task


def step_explorer(logs: Sequence[dict], seed: int = 0) -> Callable:
    """A callback `(probe, prompt) → Figure` over one seed's runs, for `widgets.explore`.

    `probe` counts the moments of measurement, `prompt` the held-out prompts whose answers were kept.
    """
    runs = {m: rows[seed] for m, rows in by_method(logs).items() if m != START}
    examples = load_task(next(iter(runs.values()))["run"]["experiment"]["task"]).test
    probes = {method: run["evals"] for method, run in runs.items()}

    def picture(probe: int = 0, prompt: int = 0):
        curves, words = plots.axes(columns=2, height=3.6, width=9.5, fast=True)
        plots.nll_curves(probes, "nll_teacher", curves, log=True)
        step = next(iter(probes.values()))[probe]["step"]
        curves.axvline(step, color=plots.BLACK, linewidth=0.8)
        curves.set_title(f"step {step}", loc="left")
        curves.legend(loc=(0.6, 0.3))  # the gap between the runaway and the rest
        said = {
            run_label(m): run["samples"][probe - 1] if probe else None for m, run in runs.items()
        }
        _write(words, examples[prompt].prompt, {m: a[prompt] if a else "" for m, a in said.items()})
        return curves.figure

    return picture


def _write(ax, prompt: str, answers: dict[str, str]) -> None:
    """What was asked and what each student answered, as text in the place of a plot."""
    ax.set_axis_off()
    lines = [f"asked:  {prompt}", ""]
    for name, answer in answers.items():
        lines += textwrap.wrap(f"{name}:  {answer or '(still the SFT student)'}", 58)[:3]
    ax.text(0, 1, "\n".join(lines), va="top", fontsize=8.5, transform=ax.transAxes)
