"""Draw what run logs hold: the path of a run, grids of alpha and beta, differences with intervals."""

import textwrap
from collections.abc import Callable, Sequence
from statistics import mean

import numpy as np

from minidistill.experiments.labels import START, run_label
from minidistill.experiments.logs import by_method
from minidistill.experiments.run_configs import ALPHAS, BETAS
from minidistill.lessons import plots
from minidistill.tasks import load_task

METRICS = ("rouge_l", "accuracy")
TITLE, LIMITS = "(5.1) CALD: ROUGE-L, mean of two seeds", (0.635, 0.675)


def by_seed(logs: Sequence[dict], name: str) -> tuple[list[int], list[list[float]]]:
    """Steps, and ROUGE-L on the way for each seed of an arm: (steps), (seeds, steps)."""
    curves = [log["curve"] for log in logs if log["run"]["name"] == name]
    return [p["step"] for p in curves[0]], [[p["rouge_l"] for p in curve] for curve in curves]


def draw_convergence(ax, logs: Sequence[dict], names: dict[str, str], title: str = ""):
    """ROUGE-L by step, median and range over seeds; `names` are arms and what to call them."""
    steps, lines = [], {}
    for name, called in names.items():
        steps, lines[called] = by_seed(logs, name)
    return plots.curves(steps, lines, ax, "step", "ROUGE-L", title, band=(0, 100))


def grid_means(logs: Sequence[dict], metric: str = "rouge_l") -> dict[tuple[float, float], float]:
    """(α, β) → mean over seeds, for the runs of `CALD_SWEEP` that are there."""
    found: dict[tuple[float, float], list[float]] = {}
    for log in logs:
        hyper = log["run"]["config"]["method_kwargs"]
        place = hyper["alpha"], hyper["beta"]
        found.setdefault(place, []).append(log["scores"][metric])
    return {place: mean(values) for place, values in found.items()}


def grid_explorer(logs: Sequence[dict]) -> Callable:
    """A callback `(alpha, beta) → Figure` over the grid of real runs: places counted from 0."""
    means = {metric: grid_means(logs, metric) for metric in METRICS}
    runs = {}
    for log in logs:
        hyper = log["run"]["config"]["method_kwargs"]
        runs.setdefault((hyper["alpha"], hyper["beta"]), log["evals"])

    def picture(alpha: int = 2, beta: int = 2):
        left, right = plots.axes(2, height=2.9, width=9.0, fast=True)
        here = ALPHAS[alpha], BETAS[beta]
        table = [[means["rouge_l"][a, b] for b in BETAS] for a in ALPHAS]
        names = {"xlabel": "beta: weight of the push-down", "ylabel": "alpha", "title": TITLE}
        plots.number_grid(table, ALPHAS, BETAS, left, LIMITS, frame=(alpha, beta), **names)
        shown = {"cald": runs[0.1, 0.5], "this place": runs[here]}
        plots.nll_curves(shown, "nll_teacher", right)
        right.set_ylim(0.4, 1.2)
        graded = means["accuracy"][here]
        right.set_title(f"alpha {here[0]:g}, beta {here[1]:g}: accuracy {graded:.3f}", loc="left")
        return left.figure

    return picture


def differences(results: dict, ax=None, title: str = "", xlabel: str = "ROUGE-L minus CALD's"):
    """A row a contrast: one point a seed, the interval of the mean as a line. `results` by name."""
    ax = plots.axes() if ax is None else ax
    ax.axvline(0, color=plots.BLACK, linewidth=0.8)
    plots.seed_points({name: result.values for name, result in results.items()}, ax, xlabel, title)
    ax.locator_params(axis="x", nbins=5)
    for row, result in enumerate(results.values()):
        ax.plot([result.low, result.high], [row + 0.22] * 2, color=plots.BLACK, linewidth=2.5)
    return ax


def logged_metric(logs: Sequence[dict], name: str, what: str) -> tuple[list[int], np.ndarray]:
    """Steps, and what an arm's runs logged there: (steps), (seeds, steps). The first probe has none."""
    runs = [log["evals"][1:] for log in logs if log["run"]["name"] == name]
    return [probe["step"] for probe in runs[0]], np.array([[p[what] for p in run] for run in runs])


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
    """Write what was asked and what each student answered, as text in the place of a plot."""
    ax.set_axis_off()
    lines = [f"asked:  {prompt}", ""]
    for name, answer in answers.items():
        lines += textwrap.wrap(f"{name}:  {answer or '(still the SFT student)'}", 58)[:3]
    ax.text(0, 1, "\n".join(lines), va="top", fontsize=8.5, transform=ax.transAxes)
