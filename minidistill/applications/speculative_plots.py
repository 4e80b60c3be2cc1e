"""Drawings of lesson 13: what stays and what is redrawn, a response round by round, three explorers."""

from collections.abc import Callable, Mapping, Sequence
from statistics import mean, median

from matplotlib.patches import Patch

from minidistill import plots
from minidistill.applications import speed
from minidistill.applications.acceptance import Counts, speed_up, tokens_per_call
from minidistill.applications.leniency import Lenient
from minidistill.applications.speculative import Written, typical_rule
from minidistill.experiments.labels import run_labels
from minidistill.experiments.run_configs import DRAFT_METHODS
from minidistill.experiments.stages import DRAFT_LENGTHS
from minidistill.page import BLACK, BLUE, GREEN, ORANGE, PAPER_GREY, RED

RUN_LABELS = run_labels(f"draft_{method}" for method in DRAFT_METHODS)
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


def fates(written: Written) -> list[list[tuple[int, str]]]:
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


def draw_rounds(written: Written, read: Callable[[int], str], ax, title: str = ""):
    """A row a pass of the target. `read` turns a token id into text; what is written is bold."""
    rows = fates(written)
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
        left, right = plots.axes(2, height=2.8, width=9.0, fast=True)
        near = min(DRAFT_LENGTHS, key=lambda n: abs(n - draft_length))
        level = [counts.tokens_per_call for counts in found[start][near]]
        for i, (name, style) in enumerate(zip(others, looks.values(), strict=True)):
            values = [c.tokens_per_call - s for c, s in zip(found[name][near], level, strict=True)]
            left.plot(values, [i] * len(values), style.marker, color=style.color)
            left.plot([mean(values)] * 2, [i - 0.3, i + 0.3], color=BLACK, linewidth=1.5)
        left.axvline(0, color=BLACK, linewidth=0.8)
        left.set_yticks(range(len(others)), [RUN_LABELS[name] for name in others])
        left.set(xlabel=f"tokens a pass beyond {RUN_LABELS[start]}'s", xlim=(-0.03, 0.42))
        left.set_ylim(len(others) - 0.5, -0.5)
        _title(
            left, f"(13.7) {near} drafted: {RUN_LABELS[start]} has {mean(level):.2f} tokens a pass"
        )
        left.set_position([0.11, 0.2, 0.37, 0.7])
        draw_races(races, right)
        right.axvline(draft_length, color=BLACK, linewidth=0.8, linestyle=":")
        right.set(ylim=(0.4, 2.4), xlim=(0.5, 8.5))
        _title(right, "(13.5) measured (points) and expected (lines)")
        right.legend(loc="lower right", fontsize=7.5, ncols=2)
        return left.figure

    return picture


def draw_races(races: Mapping[str, dict], ax, library: str = "ours"):
    """Measured speed-up by draft length: medians, with the range over turns; the lines are (13.5)."""
    for name, style in plots.styles(list(races)).items():
        log = races[name]
        lengths = [int(n) for n in log["counts"]]
        ratios = [speed.faster(log, library, n) for n in lengths]
        ax.vlines(lengths, [min(r) for r in ratios], [max(r) for r in ratios], color=style.color)
        middle = [median(r) for r in ratios]
        ax.plot(lengths, middle, style.marker, color=style.color, label=f"{name}, measured")
        promised = [speed.expected(log, n) for n in lengths]
        ax.plot(lengths, promised, **style.line, label=f"{name}, (13.5)")
    ax.axhline(1, color=BLACK, linewidth=0.8)
    ax.set(xlabel="drafted tokens a pass", ylabel="times as fast")
    return ax


def cost_explorer(rate: float = 0.9, cost: float = 0.2):
    """(13.4), (13.5) by draft length for a chance to stay and a cost; the best length is marked."""
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
    _title(right, f"(13.5) c = {cost:.2f}: best {best} drafted, {gains[best]:.2f} times")
    return left.figure


def leniency_explorer(exact: Lenient, found: Sequence[Lenient], p, q, words) -> Callable:
    """A callback `(place,) → Figure`: the ε of `found[place]`; one choice of words, then whole responses."""
    epsilons = [one.epsilon for one in found]
    lines = {
        "drafts that stay": [one.counts.acceptance for one in found],
        "responses right": [one.right for one in found],
        "distance to the target": [one.distance for one in found],
    }

    def picture(place: int = 0):
        left, right = plots.axes(2, height=2.8, width=9.0, fast=True)
        said = typical_rule(epsilons[place]).said(p, q)
        plots.token_bars({"target": p, "draft": q, "said": said}, words, left)
        left.set(ylim=(0, 1))
        _title(left, f"(6.1) one word at epsilon = {epsilons[place]:g}")
        plots.curves(range(len(found)), lines, right, "epsilon", "share")
        right.axvline(place, color=BLACK, linewidth=0.8, linestyle=":")
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
