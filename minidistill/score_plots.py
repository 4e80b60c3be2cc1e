"""Drawings of lesson 09: scores over data and teachers, a duel as it goes on, and two explorers."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean

from minidistill import duels, plots
from minidistill.curation import differences
from minidistill.experiments import tables
from minidistill.experiments.run_configs import COMPARED, DOMAINS, STRONG_BASELINES
from minidistill.judging import noisy_win_rate
from minidistill.lessons import lesson_09_benchmarks as benchmarks
from minidistill.lessons.lesson_09_benchmarks import PROMPT_COUNTS, run_name_at_size
from minidistill.stats import normal_interval

Lines = Mapping[str, Mapping[float, Sequence[float]]]  # name → x → one number a seed
SIDE_BY_SIDE = 1.04  # factor between the lines of two names, else one hides the other's bars


def draw_ranges(
    lines: Lines, ax=None, xlabel: str = "", ylabel: str = "accuracy", title: str = "", form="g"
):
    """A line a name through its means over x (log scale), with a bar from lowest to highest seed.

    `form` is how the values of x are written.
    """
    ax, looks = plots.axes() if ax is None else ax, plots.styles(list(lines))
    middle = (len(lines) - 1) / 2
    moved = {
        name: {x * SIDE_BY_SIDE ** (i - middle): values for x, values in points.items()}
        for i, (name, points) in enumerate(lines.items())
    }
    paths = {n: (list(points), [mean(v) for v in points.values()]) for n, points in moved.items()}
    plots.paths(paths, ax, xlabel, ylabel, title)
    for name, points in moved.items():
        ends = [(min(values), max(values)) for values in points.values()]
        ax.vlines(list(points), *zip(*ends, strict=True), color=looks[name].color, linewidth=1)
    places = sorted({x for points in lines.values() for x in points})
    ax.set_xscale("log")
    ax.set_xticks(places, [f"{x:{form}}" for x in places])
    ax.set_xticks([], minor=True)
    return ax


def size_explorer(folder: Path | None = None) -> Callable:
    """A callback `(size,) → Figure`: every world at 250, 500 or 1,000 prompts (places 0, 1, 2).

    Left the accuracies, whiskers from lowest to highest seed; right DistiLLM-2's differences.
    """
    sizes = {world: benchmarks.by_size(world, folder) for world in DOMAINS}
    starts = [mean(tables.accuracies(f"{world}/sft", folder)) for world in DOMAINS]
    results = benchmarks.claim_results("C10", folder)
    highest = max(v for w in sizes.values() for m in w.values() for s in m.values() for v in s)
    widest = max(abs(v) for rows in results.values() for r in rows.values() for v in r.values)

    def picture(size: int = 1):
        left, right = plots.axes(2, height=3.0, width=9.5, fast=True)
        prompts = PROMPT_COUNTS[size]
        bars = {n: [mean(sizes[w][n][prompts]) for w in DOMAINS] for n in COMPARED}
        plots.token_bars(bars, DOMAINS, left, title=f"{prompts} prompts")
        for place, (world, start) in enumerate(zip(DOMAINS, starts, strict=True)):
            left.hlines(start, place - 0.45, place + 0.45, color=plots.BLACK, linewidth=1.5)
            _whiskers(left, place, [sizes[world][n][prompts] for n in COMPARED])
        left.set(xlabel="world (black: SFT, the start)", ylabel="accuracy", ylim=(0, 1.3 * highest))
        rows = {
            f"{w}: {r}": results[w][run_name_at_size(r, prompts)]
            for w in DOMAINS
            for r in STRONG_BASELINES
        }
        differences(rows, right, "distillm2 minus …", "difference in accuracy")
        right.set_xlim(-1.1 * widest, 1.1 * widest)
        right.tick_params(axis="y", labelsize=7.5, pad=1)
        right.set_position([0.67, 0.2, 0.31, 0.7])  # room for its names
        return left.figure

    return picture


def _whiskers(ax, place: int, groups: Sequence[Sequence[float]]) -> None:
    """From the lowest to the highest seed, on the bars that `token_bars` puts around `place`."""
    width = 0.8 / len(groups)
    for i, values in enumerate(groups):
        x = place + (i - (len(groups) - 1) / 2) * width
        ax.vlines(x, min(values), max(values), color=plots.BLACK, linewidth=1.2)


def draw_growth(ax, scored: Sequence[float], title: str = "", sizes: Sequence[int] = duels.SIZES):
    """The win rate with its interval as more prompts are judged; the line at ½ is no difference."""
    found = duels.growth(scored, sizes)
    ax.fill_between(sizes, found["low"], found["high"], color=plots.PAPER_GREY, linewidth=0)
    ax.plot(sizes, found["rate"], **plots.ROLES["student"].line)
    ax.axhline(0.5, color=plots.BLACK, linewidth=0.8)
    ax.set(xlabel="prompts judged", ylabel="win rate", ylim=(0.25, 0.75))
    ax.set_title(title, loc="left", fontsize=10.5)
    return ax


def draw_intervals(ax, rows: Mapping[str, tuple[float, float, float]], title: str = ""):
    """A row a name: a win rate with its interval (rate, low, high); the line at ½ is no difference."""
    for i, (rate, low, high) in enumerate(rows.values()):
        ax.plot([low, high], [i, i], color=plots.BLACK, linewidth=1.5)
        ax.plot(rate, i, plots.ROLES["student"].marker, color=plots.ROLES["student"].color)
    ax.axvline(0.5, color=plots.BLACK, linewidth=0.8)
    ax.set_yticks(range(len(rows)), list(rows))
    ax.grid(axis="y", visible=False)
    ax.set(xlabel="win rate", ylim=(len(rows) - 0.4, -0.6))
    ax.set_title(title, loc="left", fontsize=10.5)
    return ax


def judge_explorer(scored: Sequence[float]) -> Callable:
    """A callback `(prompts, error) → Figure`: the first of real verdicts, as a judge gives them that errs."""
    line, true = [i / 20 for i in range(21)], mean(scored)

    def picture(prompts: int = 400, error: float = 0.0):
        left, right = plots.axes(2, height=2.6, width=8.4, fast=True)
        seen = duels.flipped(scored, error)[:prompts]
        rate, low, high = normal_interval(seen)
        title = f"(9.2) W = {rate:.3f}, from {low:.3f} to {high:.3f}"
        draw_growth(left, seen, title, [*(n for n in duels.SIZES if n < prompts), prompts])
        left.set(xlim=(0, duels.SIZES[-1]), ylim=(0.4, 1))
        lines = {"no error": line, "judged": [noisy_win_rate(w, error) for w in line]}
        title = f"(9.3) error {error:.2f}"
        plots.curves(line, lines, right, "true win rate", "judged win rate", title)
        plots.point(true, rate, "this duel", right)
        return left.figure

    return picture
