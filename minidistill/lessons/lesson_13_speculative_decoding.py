"""Lesson 13 (speculative decoding): rounds, draft lengths, costs, typical acceptance, the exercises."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median

import torch
from matplotlib.patches import Patch
from torch import Tensor

from minidistill import divergences as D
from minidistill.applications import speculative_benchmark
from minidistill.applications.speculative import (
    Rule,
    SpeculativeOutput,
    acceptance_probability,
    residual,
    typical_rule,
)
from minidistill.applications.speculative_metrics import (
    Counts,
    expected_counts,
    score_responses,
    speed_up,
    tokens_per_call,
)
from minidistill.evaluation import nll
from minidistill.experiments.arms import COMPARED
from minidistill.experiments.labels import run_label
from minidistill.experiments.stages import DRAFT_LENGTHS
from minidistill.generation import decode, sample, speculative_drafts, typical_acceptance
from minidistill.lessons import plots
from minidistill.lessons.checks import Exercise, checker
from minidistill.lessons.plot_style import BLACK, BLUE, GREEN, ORANGE, PAPER_GREY, RED
from minidistill.models import Pair
from minidistill.tasks import Task


def posterior_acceptance_of(rule: Rule, p: Tensor, q: Tensor, labels: Tensor) -> Tensor:
    """(13.5) for any rule: q(y)·keep(y) of the chance with which y comes out. (..., vocab), (...) → (...)."""
    out = rule.said(p, q)
    stayed = torch.where(out > 0, q * rule.keep(p, q) / out, 0.0)
    return stayed.gather(-1, labels.unsqueeze(-1)).squeeze(-1).clamp(max=1)


@dataclass(frozen=True)
class TypicalAcceptanceResult:
    """Hold what one ε does to responses: drafts that are accepted, and their distance from the target's own.

    `distance`: the mean TV between what is said and the target, token by token; `nll`: the target's,
    nats a token; `right`: share of the full grade.
    """

    epsilon: float | None
    counts: Counts
    distance: float
    nll: float
    right: float


def evaluate_typical_acceptance(
    pair: Pair, task: Task, epsilon: float | None, *, draft_length: int = 4, seed: int = 0
) -> TypicalAcceptanceResult:
    """One response to each held-out prompt under typical acceptance; None is the target's own, exactly.

    The responses come from `generation.speculative_drafts`, which says what `speculate` would say
    under `typical_rule(epsilon)`, many prompts at a time.
    """
    prompts = [pair.encode(example) for example in task.test]
    if epsilon is None:
        written = sample(pair.teacher, prompts, pair, seed=seed)
    else:
        written = speculative_drafts(
            prompts, pair, typical_acceptance(epsilon), draft=draft_length, seed=seed
        )
    seen = score_responses(pair, prompts, written, rows=len(prompts))
    p, q, distance = seen.log_p.exp(), seen.log_q.exp(), 0.0
    stay = seen.stay
    if epsilon is not None:
        rule = typical_rule(epsilon)
        stay = posterior_acceptance_of(rule, p, q, seen.labels)
        distance = float(D.total_variation(rule.said(p, q).log(), seen.log_p)[seen.mask].mean())
    texts = decode(pair, written)
    right = [task.grade(e, y) >= 1 for e, y in zip(task.test, texts, strict=True)]
    return TypicalAcceptanceResult(
        epsilon,
        expected_counts(stay, seen.mask, draft_length),
        distance,
        nll(pair.teacher, pair, prompts, written),
        mean(right),
    )


ARMS = tuple(f"draft_{name}" for name in ("none", "seqkd", *COMPARED))  # the start first
ROUNDS = {  # what became of a token: its colours and how it is told without colour
    "stays": {"facecolor": "#d5efe5", "edgecolor": GREEN, "linestyle": "-"},
    "rejected": {"facecolor": "white", "edgecolor": RED, "linestyle": ":"},
    "never judged": {"facecolor": "white", "edgecolor": "#A8A8A8", "linestyle": ":"},
    "target, redrawn": {"facecolor": "#fbe7c1", "edgecolor": ORANGE, "linestyle": "--"},
    "target, for free": {"facecolor": "#d3e6f3", "edgecolor": BLUE, "linestyle": "-."},
}


def draw_mass(p: Sequence[float], q: Sequence[float], tokens: Sequence[str], ax, title: str = ""):
    """Each token's shared mass min(p, q), and above it what only one of the two has."""
    for place, (a, b) in enumerate(zip(p, q, strict=True)):
        low, high = min(a, b), max(a, b)
        ax.bar(place, low, 0.6, facecolor=PAPER_GREY, edgecolor=BLACK)
        look = (ORANGE, "//") if a > b else (RED, "..")
        ax.bar(place, high - low, 0.6, low, facecolor=look[0], edgecolor="white", hatch=look[1])
    ax.set_xticks(range(len(tokens)), tokens)
    ax.grid(axis="x", visible=False)
    ax.set(xlabel="token", ylabel="probability")
    _title(ax, title)
    known = (
        ("both: stays", PAPER_GREY, ""),
        ("target only: redrawn here", ORANGE, "//"),
        ("draft only: rejected", RED, ".."),
    )
    ax.legend(
        handles=[Patch(label=n, facecolor=c, hatch=h, edgecolor="white") for n, c, h in known]
    )
    return ax


def token_outcomes(written: SpeculativeOutput) -> list[list[tuple[int, str]]]:
    """Round by round: every token that was drafted or drawn, and what became of it."""
    rows = []
    for r in written.rounds:
        row = [(token, "stays") for token in r.drafted[: r.kept]]
        if r.own is None:
            row += [(token, "never judged") for token in r.drafted[r.kept :]]
        elif r.kept < len(r.drafted):
            row += [(r.drafted[r.kept], "rejected"), (r.own, "target, redrawn")]
            row += [(token, "never judged") for token in r.drafted[r.kept + 1 :]]
        else:
            row.append((r.own, "target, for free"))
        rows.append(row)
    return rows


def draw_rounds(written: SpeculativeOutput, read: Callable[[int], str], ax, title: str = ""):
    """A row a pass of the target. `read` turns a token id into text; what is written is bold."""
    rows = token_outcomes(written)
    for y, row in enumerate(rows):
        x = 0.0
        for token, fate in row:
            word, look = read(token).strip() or "␣", ROUNDS[fate]
            width = 0.105 * max(len(word), 2) + 0.27
            said = fate not in ("rejected", "never judged")
            box = {"boxstyle": "round,pad=0.25", "linewidth": 1.3, **look}
            weight = "bold" if said else "normal"
            ink = BLACK if said else "#6E6E6E"
            ax.text(x, y, word, bbox=box, weight=weight, color=ink, fontsize=8.5, va="center")
            x += width
    seen = {fate for row in rows for _, fate in row}
    ax.set(xlim=(-0.15, 6.6), ylim=(len(rows) - 0.4, -0.6), xticks=[])
    _title(ax, title)
    ax.set_yticks(range(len(rows)), [str(i) for i in range(1, len(rows) + 1)])
    ax.set_ylabel("pass of the target")
    ax.grid(visible=False)
    known = [Patch(label=f, linewidth=1.3, **look) for f, look in ROUNDS.items() if f in seen]
    ax.legend(
        handles=known, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=len(seen), frameon=False
    )
    return ax


def quickest(tries: Sequence[dict]) -> dict:
    """Keep of several `pass_costs` the least time of each pass: a busy machine only ever adds."""
    target = {n: min(found["target"][n] for found in tries) for n in tries[0]["target"]}
    return {"draft": min(found["draft"] for found in tries), "target": target}


def by_length(logs: Mapping[str, Sequence[dict]]) -> dict[str, dict[int, list[Counts]]]:
    """Arm → draft length → counts by seed, from logs of the ledger."""
    return {
        name: {
            n: [Counts(**log["draft"]["by_length"][str(n)]) for log in rows] for n in DRAFT_LENGTHS
        }
        for name, rows in logs.items()
    }


def length_explorer(logs: Mapping[str, Sequence[dict]], races: Mapping[str, dict]) -> Callable:
    """A callback `(draft_length,) → Figure`: tokens a pass beyond the first arm's, and the clock.

    `logs`: the ledger's by arm, the start first, seeds in one order. `races`: logs of `speed.race` by
    the name to draw them under.
    """
    found = by_length(logs)
    start, *others = found
    looks = plots.styles([name.removeprefix("draft_") for name in others])

    def picture(draft_length: int = 4):
        left, right = plots.axes(2, height=2.6, width=8.6, fast=True)
        near = min(DRAFT_LENGTHS, key=lambda n: abs(n - draft_length))
        level = [counts.tokens_per_call for counts in found[start][near]]
        for i, (name, style) in enumerate(zip(others, looks.values(), strict=True)):
            values = [c.tokens_per_call - s for c, s in zip(found[name][near], level, strict=True)]
            left.plot(values, [i] * len(values), style.marker, color=style.color)
            left.plot([mean(values)] * 2, [i - 0.3, i + 0.3], color=BLACK, linewidth=1.5)
        left.axvline(0, color=BLACK, linewidth=0.8)
        left.set_yticks(range(len(others)), [run_label(name) for name in others])
        left.set(xlabel="tokens a pass beyond the start's", xlim=(-0.05, 0.75))
        left.set_ylim(len(others) - 0.5, -0.5)
        _title(left, f"(13.6) {near} drafted: the start has {mean(level):.2f} a pass")
        left.set_position([0.11, 0.2, 0.37, 0.7])
        draw_races(races, right)
        right.axvline(draft_length, color=BLACK, linewidth=0.8, linestyle=":")
        right.set(ylim=(0.4, 2.4), xlim=(0.5, 8.5))
        _title(right, "(13.7) measured (points) and expected (lines)")
        right.legend(loc="lower right", fontsize=7.5, ncols=2)
        return left.figure

    return picture


def draw_races(races: Mapping[str, dict], ax, library: str = "ours"):
    """Measured speed-up by draft length: medians, with the range over turns; the lines are (13.7)."""
    for name, style in plots.styles(list(races)).items():
        log = races[name]
        lengths = [int(n) for n in log["counts"]]
        ratios = [speculative_benchmark.speedups(log, library, n) for n in lengths]
        ax.vlines(lengths, [min(r) for r in ratios], [max(r) for r in ratios], color=style.color)
        middle = [median(r) for r in ratios]
        ax.plot(lengths, middle, style.marker, color=style.color, label=f"{name}, measured")
        promised = [speculative_benchmark.predicted_speedup(log, n) for n in lengths]
        ax.plot(lengths, promised, **style.line, label=f"{name}, (13.7)")
    ax.axhline(1, color=BLACK, linewidth=0.8)
    ax.set(xlabel="drafted tokens a pass", ylabel="times as fast")
    return ax


def cost_explorer(rate: float = 0.9, cost: float = 0.2):
    """(13.4), (13.7) by draft length for a chance to stay and a cost; the best length is marked."""
    lengths, line = list(range(13)), {"color": BLUE, "marker": "s", "markersize": 4}
    left, right = plots.axes(2, height=2.4, width=8.4, fast=True)
    left.plot(lengths, [float(tokens_per_call(rate, n)) for n in lengths], **line)
    left.set(ylim=(0, 13.5), xlabel="draft length", ylabel="tokens a pass")
    _title(left, f"(13.4) a = {rate:.2f}")
    gains = [float(speed_up(rate, n, cost)) for n in lengths]
    right.plot(lengths, gains, **line)
    best = max(lengths, key=gains.__getitem__)
    right.plot(best, gains[best], "o", color=RED, markersize=9)
    right.axhline(1, color=BLACK, linewidth=0.8)
    right.set(ylim=(0, 6), xlabel="draft length", ylabel="times as fast")
    _title(right, f"(13.7) c = {cost:.2f}: best {best} drafted, {gains[best]:.2f} times")
    return left.figure


def leniency_explorer(
    exact: TypicalAcceptanceResult, found: Sequence[TypicalAcceptanceResult], p, q, words
) -> Callable:
    """A callback `(epsilon,) → Figure`, epsilon one of `found`: one choice of words, then whole responses."""
    epsilons = [one.epsilon for one in found]
    lines = {
        "drafts that stay": [one.counts.acceptance for one in found],
        "responses right": [one.right for one in found],
        "distance to the target": [one.distance for one in found],
    }

    def picture(epsilon: float = epsilons[0]):
        left, right = plots.axes(2, height=2.6, width=8.6, fast=True)
        said = typical_rule(epsilon).said(p, q)
        plots.token_bars({"target": p, "draft": q, "said": said}, words, left)
        left.set(ylim=(0, 1))
        _title(left, f"(6.1) one word at epsilon = {epsilon:g}")
        plots.curves(range(len(found)), lines, right, "epsilon", "share")
        right.axvline(epsilons.index(epsilon), color=BLACK, linewidth=0.8, linestyle=":")
        looks = plots.styles(list(lines))
        for name, level in zip(lines, (exact.counts.acceptance, exact.right), strict=False):
            right.axhline(level, color=looks[name].color, linewidth=0.9, linestyle=(0, (1, 3)))
        right.set_xticks(range(len(found)), [f"{e:g}" for e in epsilons])
        right.set(ylim=(0, 1.02))
        _title(right, "whole responses; dotted: the exact rule")
        right.legend(loc="center right", bbox_to_anchor=(1.0, 0.33), fontsize=7.5)
        return left.figure

    return picture


def _title(ax, text: str) -> None:
    ax.set_title(text, loc="left", fontsize=10.5)


_TARGET = torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.4, 0.1]])
_DRAFT = torch.tensor([[0.2, 0.6, 0.1, 0.1], [0.4, 0.1, 0.45, 0.05], [0.3, 0.1, 0.2, 0.4]])
_PAIRS = ((_TARGET, _DRAFT), (_DRAFT[:2], _TARGET[:2]))


def _normal(x: torch.Tensor) -> torch.Tensor:
    return x / x.sum(-1, keepdim=True)


def _powers(rate: torch.Tensor, first: int, last: int) -> torch.Tensor:
    """a^first + … + a^last."""
    return torch.stack([rate**i for i in range(first, last + 1)]).sum(0)


EXERCISES = {
    "keep_chance": Exercise(
        answer=acceptance_probability,
        first_step="where p(v) is at least q(v) the token stays for sure; how often where it is less?",
        cases=_PAIRS,
        mistakes={
            "p and q are swapped: the *target's* share of the draft's probability is wanted": (
                lambda p, q: acceptance_probability(q, p)
            ),
            "this is p/q, which exceeds 1 where the target likes the token more": lambda p, q: (
                p / q
            ),
            "this is min(p, q), the chance that v is drafted *and* stays; it has q in it already": (
                torch.minimum
            ),
            "a token less likely than in the draft never stays here; it stays with chance p/q": (
                lambda p, q: (p >= q).float()
            ),
            "this is p: without a division the draft's own luck is counted twice": lambda p, q: p,
        },
        edges={
            "a token that neither model says (0/0; it is never drafted, so call it 1)": (
                torch.tensor([[0.6, 0.4, 0.0]]),
                torch.tensor([[0.9, 0.1, 0.0]]),
            )
        },
        gradient=False,
    ),
    "residual": Exercise(
        answer=residual,
        first_step="(p - q).clamp(min=0) is the mass the draft has not delivered; make it sum to 1.",
        cases=_PAIRS,
        mistakes={
            "it does not sum to 1": lambda p, q: (p - q).clamp(min=0),
            "p and q are swapped: that is the mass of which the draft has too much": (
                lambda p, q: residual(q, p)
            ),
            "the sign is gone: |p − q| also draws what the draft says too often": (
                lambda p, q: _normal((p - q).abs())
            ),
            "this is p: tokens that the draft delivers already would come out too often": (
                lambda p, q: p
            ),
            "a softmax gives every token a chance, even those the draft says too often": (
                lambda p, q: (p - q).clamp(min=0).softmax(-1)
            ),
            "p is masked where the draft has too much, but what q delivered is not taken off it": (
                lambda p, q: _normal(torch.where(p > q, p, 0.0))
            ),
        },
        edges={
            "a draft that equals the target (0/0; nothing is ever rejected, so p will do)": (
                _TARGET[:1],
                _TARGET[:1],
            )
        },
        gradient=False,
    ),
    "tokens_per_call": Exercise(
        answer=lambda rate, length: tokens_per_call(rate, length).float(),
        first_step="the chance that at least i drafted tokens stay is a**i; sum those, and count the "
        "target's own token.",
        cases=((torch.tensor([0.2, 0.5, 0.9]), 4), (torch.tensor([0.3, 0.8]), 2)),
        mistakes={
            "the target's own token is missing: it writes one in every round": (
                lambda a, n: _powers(a, 1, n)
            ),
            "the last drafted token is missing": lambda a, n: _powers(a, 0, n - 1),
            "1 + γ a takes each token by itself; one that follows a rejected token is lost": (
                lambda a, n: 1 + n * a
            ),
            "this is an endless draft, 1/(1 − a)": lambda a, n: 1 / (1 - a),
            "the exponent is one too many: γ + 1 terms end at a^γ": lambda a, n: _powers(
                a, 0, n + 1
            ),
        },
        edges={"a = 1 (all stay)": (torch.tensor([1.0]), 4)},
        gradient=False,
    ),
}

check = checker(EXERCISES)
