"""Drawings of lesson 12: weights on their grid, what a model loses by the bytes it keeps, two explorers."""

from collections.abc import Callable, Mapping, Sequence
from statistics import mean

import torch
from torch import Tensor

from minidistill import plots
from minidistill.applications.breaks import GROUPS, WIDTHS, find
from minidistill.applications.quantization import dequantize, quantize
from minidistill.experiments.labels import run_labels
from minidistill.experiments.run_configs import INT2_RUNS
from minidistill.page import BLACK, BLUE, GREY, ORANGE, PAPER_GREY, RED

RUN_LABELS = run_labels(["int_none", *INT2_RUNS])
WHOLE = {"color": BLACK, "linewidth": 0.9, "linestyle": (0, (1, 3))}


def draw_grid(weights: Tensor, bits: int, ax, title: str = ""):
    """One group: where its weights lie (below), the places there are, and where each goes (above)."""
    ints, steps = quantize(weights[None], bits, len(weights))
    step, after = float(steps), dequantize(ints, steps)[0]
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    places = [place * step for place in range(low, high + 1)]
    ax.vlines(places, -0.25, 1.25, color=PAPER_GREY, linewidth=1.2, zorder=0)
    gap = torch.full_like(after, torch.nan)  # lifts the pen
    ways = torch.stack([weights, after, gap], -1).flatten()
    ax.plot(ways, [0, 1, 0] * len(weights), color=GREY, linewidth=0.8, zorder=1)
    ax.plot(weights, [0] * len(weights), "o", color=BLUE, label="w")
    ax.plot(after, [1] * len(after), "s", color=RED, label="ŵ")
    ax.set(xlabel="weight", ylim=(-0.25, 1.25))
    ax.set_yticks([0, 1], ["before", "after"])
    ax.grid(visible=False)
    _title(ax, title)
    return ax


def draw_breaks(rows: Sequence[dict], ax, score: str = "drawn"):
    """A line a group size: the score (sampled accuracy) by the bytes that are kept, a marker a width."""
    names = {group: f"group {group}" for group in GROUPS}
    for group, style in zip(names, plots.styles(list(names.values())).values(), strict=True):
        found = [find(rows, bits, group) for bits in WIDTHS]
        x, y = [row["bytes"] / 1e6 for row in found], [_middle(row[score]) for row in found]
        ax.plot(x, y, marker=style.marker, label=names[group], **style.line)
        if isinstance(found[0][score], list):
            ends = ([min(row[score]) for row in found], [max(row[score]) for row in found])
            ax.vlines(x, *ends, color=style.color)
    ax.axhline(_middle(find(rows, None)[score]), **WHOLE)
    ax.set(xlabel="megabytes, read off the storage")
    return ax


def break_explorer(weight: Tensor, rows: Sequence[dict]) -> Callable:
    """A callback `(bits, doublings) → Figure`; the group is 16 · 2^doublings.

    Left: every weight of one layer, before and after; right: what the whole model then weighs and can,
    from `breaks.every_break`.
    """
    edges = torch.linspace(-0.4, 0.4, 81)

    def picture(bits: int = 4, doublings: int = 1):
        group = 16 * 2**doublings
        after = dequantize(*quantize(weight, bits, group))
        lost = float((weight - after).square().mean().sqrt() / weight.square().mean().sqrt())
        left, right = plots.axes(2, height=2.8, width=9.0, fast=True)
        for values, color in ((weight, PAPER_GREY), (after, RED)):
            counts = torch.histogram(values.flatten().clamp(-0.4, 0.4), edges).hist
            left.stairs(counts.clamp(min=0.5), edges, color=color, fill=values is weight)
        plots.log_axis(left.yaxis)
        left.set(ylim=(0.5, 2e4), xlabel="weight: before (grey), after (line)", ylabel="how many")
        left.set_xticks([-0.4, -0.2, 0, 0.2, 0.4])
        _title(left, f"(12.1) {bits} bits, group {group}: error {lost:.1%} of a weight")
        draw_breaks(rows, right)
        row = find(rows, bits, group)
        size, score = row["bytes"] / 1e6, _middle(row["drawn"])
        right.plot([size], [score], "o", markersize=13, markerfacecolor="none", color=BLACK)
        right.set(ylim=(0, 1), xlim=(0.3, 1.2), ylabel="responses right")
        right.set_xticks([0.4, 0.6, 0.8, 1.0, 1.2])
        right.legend(loc="lower right", fontsize=7.5)
        _title(right, f"{size:.2f} MB, right {score:.3f}, NLL {row['nll_teacher']:.3f}")
        return left.figure

    return picture


def outlier_explorer(size: float = 1.0, bits: int = 3):
    """(12.1) One group of 32 normal weights, one of them `size` in place of its own value."""
    weights = torch.randn(32, generator=torch.Generator().manual_seed(3)) * 0.1
    weights[7] = size
    left, right = plots.axes(2, height=2.5, width=9.0, fast=True)
    draw_grid(weights, bits, left, f"(12.1) {bits} bits, one weight of {size:.2f}")
    left.set_xlim(-1.1, 1.1)
    groups = (4, 8, 16, 32)
    rest = [i for i in range(32) if i != 7]
    lost = []
    for group in groups:
        after = dequantize(*quantize(weights[None], bits, group))[0]
        lost.append(float((weights - after)[rest].norm() / weights[rest].norm()))
    right.bar(range(4), lost, 0.6, facecolor=ORANGE, edgecolor="white", hatch="//")
    right.set_xticks(range(4), [str(g) for g in groups])
    right.grid(axis="x", visible=False)
    right.set(xlabel="group", ylabel="error of the other 31", ylim=(0, 1.05))
    _title(right, f"all 32 in one group: the rest lose {lost[-1]:.0%}")
    return left.figure


def scores(logs: Mapping[str, Sequence[dict]], name: str) -> dict[str, list[float]]:
    """A score by arm and seed, arms under the names of the lesson."""
    return {RUN_LABELS[arm]: [log["scores"][name] for log in rows] for arm, rows in logs.items()}


def draw_healing(logs: Mapping[str, Sequence[dict]], whole: Sequence[dict], title: str):
    """Two panels, a row an arm and a point a seed: accuracy and NLL; dotted, the unbroken model."""
    left, right = plots.axes(2, height=2.7, width=9.5)
    for ax, name, label in (
        (left, "accuracy", "responses right (higher is better)"),
        (right, "nll_teacher", "NLL on the whole model's responses (lower is better)"),
    ):
        plots.seed_points(scores(logs, name), ax, label, title if ax is left else "")
        ax.axvline(mean(log["scores"][name] for log in whole), **WHOLE)
        ax.locator_params(axis="x", nbins=6)
    return left


def _middle(value) -> float:
    return mean(value) if isinstance(value, list) else value


def _title(ax, text: str) -> None:
    ax.set_title(text, loc="left", fontsize=10.5)
