"""Lesson 12 (quantization): the grid, outliers, bits against accuracy, LoRA recovery, the exercises."""

from collections.abc import Callable, Mapping, Sequence
from statistics import mean

import torch
from torch import Tensor

from minidistill.applications.quantization import SCALES, dequantize, quantize
from minidistill.applications.quantization_sweep import GROUPS, WIDTHS, select
from minidistill.experiments.arms import COMPARED
from minidistill.experiments.labels import run_label
from minidistill.lessons import plots
from minidistill.lessons.checks import Exercise, checker
from minidistill.lessons.plot_style import BLACK, BLUE, GREY, ORANGE, PAPER_GREY, RED

ARMS = tuple(f"{broken}_{name}" for broken in ("int", "int_grid") for name in ("none", *COMPARED))
FULL_PRECISION = {"color": BLACK, "linewidth": 0.9, "linestyle": (0, (1, 3))}


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
        found = [select(rows, bits, group) for bits in WIDTHS]
        x, y = [row["bytes"] / 1e6 for row in found], [_middle(row[score]) for row in found]
        ax.plot(x, y, marker=style.marker, label=names[group], **style.line)
        if isinstance(found[0][score], list):
            ends = ([min(row[score]) for row in found], [max(row[score]) for row in found])
            ax.vlines(x, *ends, color=style.color)
    ax.axhline(_middle(select(rows, None)[score]), **FULL_PRECISION)
    ax.set(xlabel="megabytes, read off the storage")
    return ax


def break_explorer(weight: Tensor, rows: Sequence[dict]) -> Callable:
    """A callback `(bits, group, steps) → Figure`; `steps` of SCALES: (12.1)'s, or of the least squared error.

    Left: every weight of one layer, before and after; right: what the whole model then weighs and can,
    from `quantization_sweep.sweep`.
    """
    edges, weight = torch.linspace(-0.4, 0.4, 81), weight.cpu()  # no histogram on a GPU

    def picture(bits: int = 4, group: int = 32, steps: str = SCALES[0]):
        after = dequantize(*quantize(weight, bits, group, steps))
        lost = float((weight - after).square().mean().sqrt() / weight.square().mean().sqrt())
        left, right = plots.axes(2, height=2.8, width=9.0, fast=True)
        for values, color in ((weight, PAPER_GREY), (after, RED)):
            counts = torch.histogram(values.flatten().clamp(-0.4, 0.4), edges).hist
            left.stairs(counts.clamp(min=0.5), edges, color=color, fill=values is weight)
        plots.log_axis(left.yaxis)
        left.set(ylim=(0.5, 2e4), xlabel="weight: before (grey), after (line)", ylabel="how many")
        left.set_xticks([-0.4, -0.2, 0, 0.2, 0.4])
        _title(left, f"(12.1) {bits} bits, group {group}, {steps}: error {lost:.1%}")
        draw_breaks(rows, right)
        row = select(rows, bits, group, scale=steps)
        size, score = row["bytes"] / 1e6, _middle(row["drawn"])
        right.plot([size], [score], "o", markersize=13, markerfacecolor="none", color=BLACK)
        right.set(ylim=(0, 1.06), xlim=(0.3, 1.2), ylabel="responses right")
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


def recovery_scores(logs: Mapping[str, Sequence[dict]], name: str) -> dict[str, list[float]]:
    """A score by arm and seed, arms under the names of the lesson."""
    return {run_label(arm): [log["scores"][name] for log in rows] for arm, rows in logs.items()}


def draw_healing(logs: Mapping[str, Sequence[dict]], whole: Sequence[dict], title: str):
    """Two panels, a row an arm and a point a seed: accuracy and NLL; dotted, the unbroken model."""
    left, right = plots.axes(2, height=3.2, width=9.5)
    for ax, name, label in (
        (left, "accuracy", "responses right (higher is better)"),
        (right, "nll_teacher", "NLL, whole model's responses (lower: better)"),
    ):
        plots.seed_points(recovery_scores(logs, name), ax, label, title if ax is left else "")
        ax.axvline(mean(log["scores"][name] for log in whole), **FULL_PRECISION)
        ax.locator_params(axis="x", nbins=6)
    return left


def _middle(value) -> float:
    return mean(value) if isinstance(value, list) else value


def _title(ax, text: str) -> None:
    ax.set_title(text, loc="left", fontsize=10.5)


_DRAW = torch.Generator().manual_seed(12)
_WEIGHT = torch.randn(4, 16, generator=_DRAW)
_CASES = ((_WEIGHT, 3, 8), (_WEIGHT[:2], 2, 4))


def _upright(weight, group):
    """Each group's largest weight made positive: a negative one lies half-way, and either place is right."""
    groups = weight.reshape(len(weight), -1, group)
    largest = groups.gather(-1, groups.abs().argmax(-1, keepdim=True))
    return (groups * largest.sign()).reshape(weight.shape)


_UNTIED = ((_upright(_WEIGHT, 8), 3, 8), (_upright(_WEIGHT[:2], 4), 2, 4))
_EDGES = {
    "a group of zeros (0/0)": (torch.zeros(1, 4), 2, 4),
    "a group whose largest weight is negative (−max|w| lies half-way; round takes the even place, the "
    "lowest of all)": (torch.tensor([[-3.5, 1.0, 2.2, 0.0]]), 3, 4),
}
_LAYER = (torch.randn(3, 8, generator=_DRAW), torch.randn(5, 8, generator=_DRAW))
_ADAPTERS = (torch.randn(2, 8, generator=_DRAW), torch.randn(5, 2, generator=_DRAW))


def group_steps(weight, bits, group):
    """The steps of (12.1): (rows, groups)."""
    return quantize(weight, bits, group)[1]


def rounded(weight, bits, group):
    """ŵ of (12.1)."""
    return dequantize(*quantize(weight, bits, group))


def adapted_layer(x, weight, a, b):
    """ŷ of (12.3)."""
    return x @ (weight + b @ a).T


def _groups(weight, group):
    return weight.reshape(len(weight), -1, group)


def _on(weight, bits, group, low=None, high=None, way=torch.round, stretch=1.0):
    """Rounded with another mistake each."""
    high = 2 ** (bits - 1) - 1 if high is None else high
    low = -(2 ** (bits - 1)) if low is None else low
    step = stretch * group_steps(weight, bits, group).unsqueeze(-1)
    ints = way(_groups(weight, group) / step).clamp(low, high)
    return (ints * step).reshape(weight.shape)


EXERCISES = {
    "group_steps": Exercise(
        answer=group_steps,
        first_step="reshape to (rows, groups, group), then the largest |w| of each; how many steps lie "
        "between −max|w| and max|w|?",
        cases=_CASES,
        mistakes={
            "a negative weight may be the largest: take max|w|": lambda w, b, g: (
                _groups(w, g).amax(-1) / (2 ** (b - 1) - 0.5)
            ),
            "2^b places have 2^b − 1 steps between them, not 2^b": lambda w, b, g: (
                _groups(w, g).abs().amax(-1) / 2 ** (b - 1)
            ),
            "max|w| lies on a place here, and one place of the 2^b is never used: the range from "
            "−max|w| to max|w| is cut into 2^b − 1 steps": lambda w, b, g: (
                _groups(w, g).abs().amax(-1) / (2 ** (b - 1) - 1)
            ),
            "it is twice too large: the range from −max|w| to max|w| is 2 max|w|, but only one of "
            "its halves is max|w|": lambda w, b, g: 2 * group_steps(w, b, g),
            "this is the range from the smallest to the largest weight; (12.1) takes that from −max|w| "
            "to max|w|": lambda w, b, g: (
                (_groups(w, g).amax(-1) - _groups(w, g).amin(-1)) / (2**b - 1)
            ),
            "a group is made of neighbours: reshape to (rows, groups, group), in this order": (
                lambda w, b, g: w.reshape(len(w), g, -1).abs().amax(1) / (2 ** (b - 1) - 0.5)
            ),
            "this is one step a row: each group has its own": lambda w, b, g: group_steps(
                w, b, w.shape[1]
            ).expand(-1, w.shape[1] // g),
            "this is one step for all: each group has its own": lambda w, b, g: group_steps(
                w.reshape(1, -1), b, w.numel()
            ).expand(len(w), w.shape[1] // g),
        },
        gradient=False,
    ),
    "rounded": Exercise(
        answer=rounded,
        first_step="weight / step, round, clamp to the places there are, times step; then back to the "
        "weight's own shape.",
        cases=_UNTIED,
        mistakes={
            "these are the whole numbers; the weight is n times its step": lambda w, b, g: quantize(
                w, b, g
            )[0].float(),
            "nothing is clipped: the largest weights lie on a place that b bits do not have": (
                lambda w, b, g: _on(w, b, g, low=-(2**b), high=2**b)
            ),
            "it is cut off towards zero, not rounded to the nearest": lambda w, b, g: _on(
                w, b, g, way=torch.trunc
            ),
            "it is rounded down, not to the nearest": lambda w, b, g: _on(w, b, g, way=torch.floor),
            "it is rounded up, not to the nearest": lambda w, b, g: _on(w, b, g, way=torch.ceil),
            "max|w| lies on a place here: the step is max|w| / (2^(b−1) − ½)": lambda w, b, g: _on(
                w, b, g, stretch=(2 ** (b - 1) - 0.5) / (2 ** (b - 1) - 1)
            ),
            "the row has one step; each group has its own": lambda w, b, g: rounded(
                w, b, w.shape[1]
            ),
        },
        edges=_EDGES,
        gradient=False,
    ),
    "adapted_layer": Exercise(
        answer=adapted_layer,
        first_step="what the broken layer says of x, (batch, out), plus what A and then B make of x.",
        cases=((*_LAYER, *_ADAPTERS),),
        mistakes={
            "the broken layer is missing: adapters are beside it, not in its place": (
                lambda x, w, a, b: x @ a.T @ b.T
            ),
            "the adapters are missing": lambda x, w, a, b: x @ w.T,
            "the adapters' answer is taken off, not added": lambda x, w, a, b: (
                x @ w.T - x @ a.T @ b.T
            ),
            "no gradient reaches B: build the product from the tensors themselves": (
                lambda x, w, a, b: x @ w.T + x @ a.T @ b.T.detach()
            ),
            "no gradient reaches A: build the product from the tensors themselves": (
                lambda x, w, a, b: x @ w.T + x @ a.T.detach() @ b.T
            ),
        },
        trained=(2, 3),
    ),
}

check = checker(EXERCISES)
