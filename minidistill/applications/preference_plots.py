"""Drawings of lesson 10: rewards as policies, four starts before and after DPO, and what beta buys."""

from collections.abc import Callable, Mapping, Sequence
from statistics import mean

import torch
from torch import Tensor

from minidistill import plots
from minidistill.applications.preference import tilted
from minidistill.experiments.labels import run_labels
from minidistill.experiments.run_configs import DPO_BETAS, DPO_METHODS
from minidistill.page import BLACK, GREY

RUN_LABELS = run_labels(f"dpo_{method}" for method in DPO_METHODS)
RESPONSES = ("right, rare", "right, dull", "vague", "wrong")
REFERENCE = torch.tensor([0.05, 0.25, 0.40, 0.30]).log()
REWARD = torch.tensor([1.0, 0.8, 0.3, 0.0])
TILTS = (0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0)


def frontier(log_ref: Tensor, reward: Tensor, betas: Tensor) -> tuple[Tensor, Tensor]:
    """KL(π*‖π_ref) in nats and E_π*[r] of the optimum (10.4) at each beta: (betas,) twice."""
    best = torch.stack([tilted(log_ref, reward, float(beta)) for beta in betas])
    return (best.exp() * (best - log_ref)).sum(-1), best.exp() @ reward


def draw_estimates(estimates: Mapping[str, Tensor], truth: float, ax, title: str = ""):
    """Histograms of estimates of one number, each name's its own outline, and a line at the truth."""
    low, high = (
        float(getattr(torch.cat(list(estimates.values())), end)()) for end in ("min", "max")
    )
    bins = torch.linspace(low, high, 60).tolist()
    for (name, values), role in zip(estimates.items(), ("student", "mixture"), strict=True):
        style = plots.ROLES[role]
        look = {"histtype": "step", "linewidth": 1.8, **style.line}
        ax.hist(values.tolist(), bins, label=name, **look)
    ax.axvline(truth, color=BLACK, linewidth=1)
    ax.set(xlabel="estimate (nats)", ylabel="how many")
    ax.set_title(title, loc="left", fontsize=10.5)
    ax.legend(loc="upper left")
    return ax


def tilt_explorer(title: str = "") -> Callable:
    """A callback `(beta) → Figure`, places in TILTS: the best policy, and where it lies between the goals."""
    line = frontier(REFERENCE, REWARD, torch.logspace(2, -2.3, 120))

    def picture(beta: int = 3):
        left, right = plots.axes(2, height=2.7, width=9.0, fast=True)
        value = TILTS[beta]
        shown = {"reference": REFERENCE.exp(), "best": tilted(REFERENCE, REWARD, value).exp()}
        plots.token_bars(shown, RESPONSES, left, title=f"{title} beta = {value:g}".strip())
        left.set(ylim=(0, 1.05), xlabel="response")
        right.plot(*line, color=BLACK)
        kl, reward = (float(v[0]) for v in frontier(REFERENCE, REWARD, torch.tensor([value])))
        look = plots.ROLES["student"]
        right.plot(kl, reward, look.marker, color=look.color, markersize=9)
        right.annotate(
            f"beta {value:g}", (kl, reward), (6, -14), textcoords="offset points", fontsize=8.5
        )
        right.set(xlim=(-0.1, 3.4), ylim=(0.3, 1.05))
        right.set(xlabel="KL to the reference (nats)", ylabel="mean reward")
        right.set_title("what a nat of KL buys", loc="left", fontsize=10.5)
        return left.figure

    return picture


def by_step(logs: Sequence[dict], side: str, name: str) -> tuple[list[int], list[list[float]]]:
    """Steps, and a measure of the diary's pairs ('held_out', 'trained') by step for each log."""
    steps = [row["step"] for row in logs[0]["preference_curve"]]
    return steps, [[row["pairs"][side][name] for row in log["preference_curve"]] for log in logs]


def draw_sides(logs: Sequence[dict], ax, side: str = "held_out", title: str = ""):
    """How log π of chosen and rejected responses has changed since the start: median, range of seeds."""
    lines = {}
    for name in ("chosen", "rejected"):
        steps, rows = by_step(logs, side, name)
        shorter = min(map(len, rows))  # runs with fewer pairs end a probe earlier
        lines[name] = [[v - row[0] for v in row[:shorter]] for row in rows]
    plots.curves(steps[:shorter], lines, ax, "step", "change of log π (nats)", title, band=(0, 100))
    ax.axhline(0, color=BLACK, linewidth=0.8)
    return ax


def draw_starts(logs: Mapping[str, Sequence[dict]], ax, title: str = ""):
    """A row a start: win rate before DPO (open) and after it (filled), a pair a seed."""
    looks = plots.styles([name.removeprefix("dpo_") for name in logs])
    for i, (found, look) in enumerate(zip(logs.values(), looks.values(), strict=True)):
        for j, log in enumerate(found):
            y = i + 0.11 * (j - (len(found) - 1) / 2)
            ends = [log["scores"]["win_rate_before"], log["scores"]["win_rate"]]
            ax.plot(ends, [y, y], color=GREY, linewidth=1)
            ax.plot(
                ends[0], y, look.marker, color=look.color, markerfacecolor="white", markersize=5
            )
            ax.plot(ends[1], y, look.marker, color=look.color, markersize=5)
    ax.axvline(0.5, color=BLACK, linewidth=0.8)
    ax.set_yticks(range(len(logs)), [RUN_LABELS[name] for name in logs])
    ax.grid(axis="y", visible=False)
    ax.set(xlabel="win rate over the SFT student", ylim=(len(logs) - 0.4, -0.6))
    ax.set_title(title, loc="left", fontsize=10.5)
    return ax


def beta_explorer(logs: Mapping[float, Sequence[dict]], title: str = "") -> Callable:
    """A callback `(beta) → Figure`, places in DPO_BETAS: all runs' KL and win rate; the sides by step."""
    points = {
        beta: [(log["scores"]["kl"], log["scores"]["win_rate"]) for log in found]
        for beta, found in logs.items()
    }
    every = [point for found in points.values() for point in found]
    ends = {
        n: [v for found in logs.values() for v in _changes(found, n)]
        for n in ("chosen", "rejected")
    }
    low, high = min(map(min, ends.values())), max(map(max, ends.values()))

    def picture(beta: int = 2):
        left, right = plots.axes(2, height=2.9, width=9.0, fast=True)
        here = DPO_BETAS[beta]
        for value, found in points.items():
            look = (
                {"color": plots.METHODS["distillm2"].color}
                if value == here
                else {"color": "#bbbbbb"}
            )
            left.plot(*zip(*found, strict=True), "o" if value == here else ".", **look)
        left.axhline(0.5, color=BLACK, linewidth=0.8)
        plots.log_axis(left.xaxis, subs=(1, 2, 5))
        left.set(xlabel="KL to the start (nats a response)", ylabel="win rate over the start")
        left.set_ylim(min(w for _, w in every) - 0.02, max(w for _, w in every) + 0.02)
        kl, won = (mean(v) for v in zip(*points[here], strict=True))
        left.set_title(f"beta {here:g}: KL {kl:.2f}, win rate {won:.3f}", loc="left", fontsize=10.5)
        margin = mean(
            log["preference_curve"][-1]["pairs"]["held_out"]["margin"] for log in logs[here]
        )
        draw_sides(logs[here], right, title=f"{title} margin at the end {margin:.2f}".strip())
        right.set_ylim(low - 1, high + 1)
        return left.figure

    return picture


def _changes(logs: Sequence[dict], name: str) -> list[float]:
    """Every change of log π since the start, over steps and logs."""
    return [v - row[0] for row in by_step(logs, "held_out", name)[1] for v in row]
