"""Lesson 07 (curriculum): explorers of alpha and of beta, gradients, the exercises."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from minidistill import curriculum as C
from minidistill.lessons import plots
from minidistill.lessons.checks import Exercise, checker
from minidistill.lessons.lesson_05_cald import draw_interaction
from minidistill.lessons.response_scores import clip_shares
from minidistill.logprobs import ResponseLogProbs

SLOTS = {"tgo": "teacher's responses", "sgo": "student's responses"}
SMALL = {"height": 2.4, "width": 7.6, "fast": True}


def draw_confidences(ax, found: Mapping[str, tuple[Tensor, Tensor]], title: str = ""):
    """A point a response: how sure the one who wrote it is, and how sure the other."""
    for slot, (writer, reader) in found.items():
        style = plots.styles([SLOTS[slot]])[SLOTS[slot]]
        ax.plot(reader, writer, style.marker, color=style.color, markersize=3, 
                label=SLOTS[slot])  # fmt: skip
    ax.plot([0, 1], [0, 1], color=plots.METHODS["tv"].color, linewidth=1)
    ax.set(xlabel="confidence of the other model", ylabel="confidence of the writer", xlim=(0, 1),
           ylim=(0, 1))  # fmt: skip
    ax.set_title(title, loc="left", fontsize=10.5)
    ax.legend(loc="lower right", fontsize=8.5)
    return ax


def alpha_explorer(gaps: Mapping[str, Tensor]) -> Callable:
    """A callback `(alpha0, low, high, m) → Figure` over real gaps; m in units of their own mean."""
    means, line = (
        {slot: float(gap.mean()) for slot, gap in gaps.items()},
        torch.linspace(0.4, 3, 200),
    )

    def picture(alpha0: float = 0.1, low: float = 0.01, high: float = 0.1, m: float = 1.0):
        left, right = plots.axes(2, **SMALL)
        found = {"alpha": C.adaptive_alpha(line, m, alpha0, low, high)}
        title = f"(7.1) alpha0 = {alpha0:.2f}, m = {m:.2f} × mean"
        plots.curves(line, found, left, "gap / mean gap", "alpha", title)
        left.set_ylim(-0.02, 0.52)
        bars = {}
        for slot, gap in gaps.items():
            alpha = C.adaptive_alpha(gap, m * means[slot], alpha0, low, high)
            bars[SLOTS[slot]] = list(clip_shares(alpha, low, high).values())
        plots.token_bars(bars, [f"at {low:.2f}", "between", f"at {high:.2f}"], right)
        right.set(ylim=(0, 1), xlabel="alpha", ylabel="share of responses")
        return left.figure

    return picture


def beta_schedules(epochs: int, start: float, end: float, ramp: float, points: int = 60) -> dict:
    """β by progress, the ramp (7.3) and the paper's formula (7.4): progress in [0, 1] → two lists."""
    steps = [(epoch, i / points) for epoch in range(epochs) for i in range(points)]
    progress = [(epoch + within) / epochs for epoch, within in steps]
    return {
        "progress": progress,
        "ramp (7.3)": [C.linear_beta(t, start, end, ramp) for t in progress],
        "paper's formula (7.4)": [
            C.paper_beta(e + 1, epochs, w + 1 / points, 1, start) for e, w in steps
        ],
    }


def beta_explorer(start: float = 0.5, end: float = 0.75, ramp: float = 0.5, epochs: int = 3):
    """(7.3), (7.4) β by progress; the title says what weight 1 − β the pull-up gets on average."""
    lines = beta_schedules(epochs, start, end, ramp)
    ax, progress = plots.axes(height=2.4, width=5.5, fast=True), lines.pop("progress")
    plots.curves(progress, lines, ax, "share of training", "beta")
    left_over = [1 - sum(beta) / len(beta) for beta in lines.values()]
    title = "(7.3), (7.4): the pull-up keeps {:.2f} and {:.2f} on average".format(*left_over)
    ax.set_title(title, loc="left", fontsize=10.5)
    ax.set_ylim(-0.05, 1.05)
    for epoch in range(1, epochs):
        ax.axvline(epoch / epochs, color=plots.BLACK, linewidth=0.5)
    return ax.figure


def gradient_lengths(y: ResponseLogProbs, divergence: Callable, alpha: Tensor) -> Tensor:
    """Length of each sample's gradient in the student's logits, values being means over tokens: (batch,)."""
    logits = y.log_q.detach().clone().requires_grad_()
    values = y.mean(divergence(y.log_p, logits.log_softmax(-1), alpha))
    (gradient,) = torch.autograd.grad(values.sum(), logits)
    return gradient.flatten(1).norm(dim=-1)


def draw_hard_shares(ax, hard: Mapping[str, Tensor], title: str):
    """Draw the share of hard samples by epoch, from the second on: slot → (seeds, epochs)."""
    for slot, seeds in hard.items():
        style = plots.styles([SLOTS[slot]])[SLOTS[slot]]
        epochs = range(2, 2 + seeds.shape[-1])
        ax.plot(epochs, seeds.T, style.marker, color=style.color, alpha=0.4, markersize=4)
        ax.plot(epochs, seeds.mean(0), label=SLOTS[slot], marker=style.marker, **style.line)
    ax.set_xticks(list(epochs))
    ax.set(
        xlabel="epoch", ylabel="share at the upper bound", ylim=(0, 1), xlim=(1.7, epochs[-1] + 0.3)
    )
    ax.set_title(title, loc="left")
    ax.legend()
    return ax


def draw_by_alpha(ax, found: Mapping[str, Sequence[Sequence[float]]], title: str):
    """Draw accuracy at α = 0.3, 0.1, 0.01 of the last epoch: a line a number of epochs, a point a seed."""
    draw_interaction(ax, found, ["0.3", "0.1", "0.01"], "accuracy (greedy)")
    ax.set_xlabel("alpha in the last epoch")
    ax.set_title(title, loc="left")
    return ax


def _betas(progress: torch.Tensor, *ends: float) -> torch.Tensor:
    return torch.tensor([C.linear_beta(float(t), *ends) for t in progress])


_GAPS = (  # easy, in the narrow window below m, hard
    (torch.tensor([0.02, 0.187, 0.195, 0.60]), 0.2, 0.1, 0.01, 0.1),
    (torch.tensor([0.30, 0.05, 0.41]), 0.3, 0.05, 0.02, 0.4),
)

EXERCISES = {
    "adaptive_alpha": Exercise(
        answer=C.adaptive_alpha,
        first_step="1 − (1−alpha0)·m / gap.detach(), then clip to [low, high]; then gaps ≤ 0.",
        cases=tuple((gap, m, a, low, high) for gap, m, a, low, high in _GAPS),
        mistakes={
            "the leading 1 − is missing, or a plus: a *larger* gap must give a larger alpha": (
                lambda gap, m, a, low, high: ((1 - a) * m / gap.detach()).clip(low, high)
            ),
            "the factor is 1 − alpha0, not alpha0": lambda gap, m, a, low, high: (
                1 - a * m / gap.detach()
            ).clip(low, high),
            "gap and m are exchanged: the sample's gap stands below the bar": (
                lambda gap, m, a, low, high: (1 - (1 - a) * gap.detach() / m).clip(low, high)
            ),
            "it is not clipped to [low, high]": lambda gap, m, a, low, high: (
                1 - (1 - a) * m / gap.detach()
            ),
            "0.01 and 0.1 are typed in: the bounds are the arguments low and high": (
                lambda gap, m, a, low, high: (1 - (1 - a) * m / gap.detach()).clip(0.01, 0.1)
            ),
            "the two clip bounds are swapped, and torch then answers the smaller one everywhere": (
                lambda gap, m, a, low, high: (1 - (1 - a) * m / gap.detach()).clip(high, low)
            ),
            "the gap is not detached: alpha is a weight, no gradient may flow through it": (
                lambda gap, m, a, low, high: (1 - (1 - a) * m / gap).clip(low, high)
            ),
        },
        edges={
            "a negative gap (nothing left to close, so easy)": (
                torch.tensor([-0.5]),
                0.2,
                0.1,
                0.01,
                0.1,
            ),
            "a mean gap m that is not positive (no scale yet: alpha0)": (
                torch.tensor([0.3]),
                0.0,
                0.05,
                0.01,
                0.1,
            ),
            "a mean gap m below 0 (no scale either: alpha0)": (
                torch.tensor([0.3]),
                -0.2,
                0.05,
                0.01,
                0.1,
            ),
            "a negative gap while m is not positive (there is no scale: alpha0, before anything else)": (
                torch.tensor([-0.5]),
                0.0,
                0.05,
                0.01,
                0.1,
            ),
        },
    ),
    "linear_beta": Exercise(
        answer=_betas,
        first_step="progress / ramp is the share of the climb done, never more than 1 (torch.clamp).",
        cases=(
            (torch.tensor([0.0, 0.1, 0.25, 0.5, 0.8, 1.0]), 0.5, 0.75, 0.5),
            (torch.tensor([0.0, 0.3, 0.6, 0.9]), 0.2, 1.0, 0.8),
        ),
        mistakes={
            "beta goes on climbing after the ramp: progress / ramp stops at 1": (
                lambda t, start, end, ramp: start + (end - start) * t / ramp
            ),
            "the climb takes all of training: divide progress by ramp": (
                lambda t, start, end, ramp: start + (end - start) * t
            ),
            "the climb stops before end: divide by ramp first, then hold at 1": (
                lambda t, start, end, ramp: start + (end - start) * t.clamp(max=ramp)
            ),
            "the numbers of (7.3) are typed in: they are start, end − start and 1 / ramp": (
                lambda t, start, end, ramp: 0.5 + 0.25 * (2 * t).clamp(max=1)
            ),
            "end is where beta arrives, not how far it climbs: the climb is end − start": (
                lambda t, start, end, ramp: start + end * (t / ramp).clamp(max=1)
            ),
            "start and end are swapped: beta must grow": lambda t, start, end, ramp: (
                end + (start - end) * (t / ramp).clamp(max=1)
            ),
            "start is missing": lambda t, start, end, ramp: (end - start) * (t / ramp).clamp(max=1),
        },
        gradient=False,
    ),
}
check = checker(EXERCISES)
