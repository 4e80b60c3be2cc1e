"""Lesson 10 (preference): the tilted policy, DPO's beta, starts compared, the exercises."""

from collections.abc import Callable, Mapping, Sequence
from statistics import mean

import torch
from torch import Tensor

from minidistill import divergences as D
from minidistill.applications.preference import best_and_worst, optimal_policy, reward_margin
from minidistill.experiments.arms import COMPARED, DPO_BETAS
from minidistill.experiments.labels import run_label
from minidistill.lessons import plots
from minidistill.lessons.checks import (
    Exercise,
    checker,
    padded_log_ratio,
    random_log_probs,
    random_pairs,
)
from minidistill.lessons.plot_style import BLACK, GREY
from minidistill.logprobs import ResponseLogProbs

STARTS = ("dpo_start", *(f"dpo_{method}" for method in COMPARED))  # what DPO begins with
RESPONSES = ("right, rare", "right, dull", "vague", "wrong")
REFERENCE = torch.tensor([0.05, 0.25, 0.40, 0.30]).log()
REWARD = torch.tensor([1.0, 0.8, 0.3, 0.0])
BETAS = (0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0)


def frontier(log_ref: Tensor, reward: Tensor, betas: Tensor) -> tuple[Tensor, Tensor]:
    """KL(π*‖π_ref) in nats and E_π*[r] of the optimum (10.1) at each beta: (betas,) twice."""
    best = torch.stack([optimal_policy(log_ref, reward, float(beta)) for beta in betas])
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
    """A callback `(beta) → Figure`, beta of BETAS: the best policy, and where it lies between the goals."""
    line = frontier(REFERENCE, REWARD, torch.logspace(2, -2.3, 120))

    def picture(beta: float = BETAS[3]):
        left, right = plots.axes(2, height=2.7, width=9.0, fast=True)
        shown = {
            "reference": REFERENCE.exp(),
            "best": optimal_policy(REFERENCE, REWARD, beta).exp(),
        }
        plots.token_bars(shown, RESPONSES, left, title=f"{title} beta = {beta:g}".strip())
        left.set(ylim=(0, 1.05), xlabel="response")
        right.plot(*line, color=BLACK)
        kl, reward = (float(v[0]) for v in frontier(REFERENCE, REWARD, torch.tensor([beta])))
        look = plots.ROLES["student"]
        right.plot(kl, reward, look.marker, color=look.color, markersize=9)
        right.annotate(
            f"beta {beta:g}", (kl, reward), (6, -14), textcoords="offset points", fontsize=8.5
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
    """Draw how log π of chosen and rejected responses has changed since the start: median, range of seeds."""
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
    ax.set_yticks(range(len(logs)), [run_label(name) for name in logs])
    ax.grid(axis="y", visible=False)
    ax.set(xlabel="win rate over the start", ylim=(len(logs) - 0.4, -0.6))
    ax.set_title(title, loc="left", fontsize=10.5)
    return ax


def beta_explorer(logs: Mapping[float, Sequence[dict]], title: str = "") -> Callable:
    """A callback `(beta) → Figure`, beta of DPO_BETAS: all runs' KL and win rate; the sides by step."""
    points = {
        beta: [(log["scores"]["kl"], log["scores"]["win_rate"]) for log in found]
        for beta, found in logs.items()
    }
    every = [point for found in points.values() for point in found]
    before = mean(log["scores"]["win_rate_before"] for found in logs.values() for log in found)
    ends = {
        n: [v for found in logs.values() for v in _changes(found, n)]
        for n in ("chosen", "rejected")
    }
    low, high = min(map(min, ends.values())), max(map(max, ends.values()))

    def picture(beta: float = DPO_BETAS[2]):
        left, right = plots.axes(2, height=2.9, width=9.0, fast=True)
        for value, found in points.items():
            look = (
                {"color": plots.METHODS["distillm2"].color}
                if value == beta
                else {"color": "#bbbbbb"}
            )
            left.plot(*zip(*found, strict=True), "o" if value == beta else ".", **look)
        left.axhline(before, color=BLACK, linewidth=0.9, linestyle=(0, (1, 3)))
        plots.log_axis(left.xaxis, subs=(1, 2, 5))
        left.set(
            xlabel="KL to the reference (nats a response)", ylabel="win rate over the SFT start"
        )
        won = [before, *(w for _, w in every)]
        left.set_ylim(min(won) - 0.02, max(won) + 0.02)
        kl, won = (mean(v) for v in zip(*points[beta], strict=True))
        left.set_title(f"beta {beta:g}: KL {kl:.2f}, win rate {won:.3f}", loc="left", fontsize=10.5)
        margin = mean(
            log["preference_curve"][-1]["pairs"]["held_out"]["margin"] for log in logs[beta]
        )
        draw_sides(logs[beta], right, title=f"{title} margin at the end {margin:.2f}".strip())
        right.set_ylim(low - 1, high + 1)
        return left.figure

    return picture


def _changes(logs: Sequence[dict], name: str) -> list[float]:
    """Every change of log π since the start, over steps and logs."""
    return [v - row[0] for row in by_step(logs, "held_out", name)[1] for v in row]


def _where(grades: Tensor, best: Tensor, worst: Tensor, kept: Tensor) -> Tensor:
    rows = torch.arange(len(grades))
    return torch.stack([rows, best, worst], -1)[kept]


def _differ(grades: Tensor) -> Tensor:
    return grades.max(-1).values > grades.min(-1).values


def _log_ratio(y: ResponseLogProbs, mean: bool = False) -> Tensor:
    return (y.mean if mean else y.sum)(y.token_log_q - y.token_log_p)


def _kl(y: ResponseLogProbs) -> Tensor:
    """(10.4) on one batch of fresh samples: (batch,)."""
    return y.sum(D.reverse_kl(y.log_p, y.log_q))


_GRADES = (
    (torch.tensor([[0.3, 1.0, 0.0, 0.7], [0.7, 0.7, 0.7, 0.7], [1.0, 0.3, 0.3, 1.0]]),),
    (torch.tensor([[0.0, 0.3], [0.7, 0.3], [1.0, 1.0], [0.3, 0.0]]),),
)


EXERCISES = {
    "preference_pairs": Exercise(
        answer=best_and_worst,
        first_step="grades.argmax(-1) and grades.argmin(-1); which rows have a best that beats the worst?",
        cases=_GRADES,
        mistakes={
            "a prompt whose responses all tie is kept: it prefers nothing": lambda g: _where(
                g, g.argmax(-1), g.argmin(-1), torch.ones(len(g), dtype=torch.bool)
            ),
            "best and worst are swapped: the columns are prompt, chosen, rejected": lambda g: (
                _where(g, g.argmin(-1), g.argmax(-1), _differ(g))
            ),
            "the rejected one is the second best: the worst is asked for": lambda g: _where(
                g,
                g.argmax(-1),
                g.sort(dim=-1, descending=True, stable=True).indices[:, 1],
                _differ(g),
            ),
            "of equals the last is taken: the first is asked for": lambda g: _where(
                g,
                g.shape[1] - 1 - g.flip(-1).argmax(-1),
                g.shape[1] - 1 - g.flip(-1).argmin(-1),
                _differ(g),
            ),
            "only prompts with a fully right response are kept; any difference makes a pair": (
                lambda g: _where(
                    g, g.argmax(-1), g.argmin(-1), _differ(g) & (g.max(-1).values >= 1)
                )
            ),
        },
        gradient=False,
    ),
    "reward_margin": Exercise(
        answer=reward_margin,
        first_step="log π(y)/π_ref(y) is y.sum(y.token_log_q - y.token_log_p); of both sides, times beta.",
        cases=random_pairs(0.5, 0.2),
        mistakes={
            "the sign is turned round: chosen and rejected are swapped, or policy and reference": (
                lambda w, l, beta: reward_margin(l, w, beta)
            ),
            "beta multiplies one side only": lambda w, l, beta: (
                beta * _log_ratio(w) - _log_ratio(l)
            ),
            "beta is missing": lambda w, l, beta: reward_margin(w, l, 1.0),
            "the reference is missing: log π alone": lambda w, l, beta: (
                beta * (w.sum(w.token_log_q) - l.sum(l.token_log_q))
            ),
            "these are means over the tokens: the reward of a response is a sum": lambda w, l, beta: (
                beta * (_log_ratio(w, True) - _log_ratio(l, True))
            ),
            "the two rewards are added: their difference is asked for": lambda w, l, beta: (
                beta * (_log_ratio(w) + _log_ratio(l))
            ),
            "this is the loss, −log σ of the margin": lambda w, l, beta: (
                -torch.nn.functional.logsigmoid(reward_margin(w, l, beta))
            ),
            "padding counts: sum over each response's own tokens, with y.sum": lambda w, l, beta: (
                beta * (padded_log_ratio(w) - padded_log_ratio(l))
            ),
        },
    ),
    "kl_to_reference": Exercise(
        answer=_kl,
        first_step="at each token Σ_v π(v) (log π(v) − log π_ref(v)); then y.sum over the response.",
        cases=tuple((random_log_probs(seed),) for seed in (3, 5)),
        mistakes={
            "the direction is turned round: this is KL(π_ref‖π), and π is the student, log_q": (
                lambda y: y.sum(D.kl(y.log_p, y.log_q))
            ),
            "this is a mean over tokens: KL of whole responses adds up over the tokens": (
                lambda y: y.mean(D.reverse_kl(y.log_p, y.log_q))
            ),
            "only the written token is looked at: unbiased, but noisier than the exact KL at each token": (
                _log_ratio
            ),
            "padding counts: sum over the mask, with y.sum": (
                lambda y: D.reverse_kl(y.log_p, y.log_q).sum(-1)
            ),
        },
    ),
}

check = checker(EXERCISES)
