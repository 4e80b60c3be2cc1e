"""Contrasts of runs, the one rule of their verdict, and what a claim is made of.

{"cald": 1, "skl": -1} is CALD minus SKL, written so that the paper expects it above zero. Each contrast is
taken seed by seed; a bootstrap 95 % interval of its mean over the seeds decides: above zero it holds, below
it is reversed, else this scale does not resolve it. A claim holds if all its contrasts hold; one reversed
contrast reverses it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

import torch

from minidistill.evaluation import bootstrap_interval
from minidistill.experiments.labels import METRIC_LABELS
from minidistill.experiments.logs import runs_by_seed, runs_dir


@dataclass(frozen=True)
class Contrast:
    """Hold Σ weight · metric over runs, above `margin` if the paper is right (nats, or shares of 1)."""

    label: str
    weights: dict[str, float]
    metric: str = "rouge_l"
    margin: float = 0.0


@dataclass(frozen=True)
class Claim:
    """Hold what the paper says, where, with which numbers; the contrasts that test it here."""

    statement: str
    section: str
    paper_numbers: str
    contrasts: tuple[Contrast, ...]
    discussion: str = ""
    runs: tuple[str, ...] = field(init=False)

    def __post_init__(self):
        names = [name for c in self.contrasts for name in c.weights]
        object.__setattr__(self, "runs", tuple(dict.fromkeys(names)))


@dataclass(frozen=True)
class Result:
    """Hold one contrast's answer: its value at each seed, the interval of their mean, the verdict."""

    contrast: Contrast
    values: tuple[float, ...]
    low: float
    high: float

    @property
    def mean(self) -> float:
        return mean(self.values)

    @property
    def verdict(self) -> str:
        """Say where the interval lies: 'holds', 'reversed' or 'not resolved'."""
        margin = self.contrast.margin
        return (
            "holds" if self.low > margin else "reversed" if self.high < margin else "not resolved"
        )


# What is measured on one log: one of its scores, or something made from them. "early" is the mean
# ROUGE-L over the measurements before the end.
SCORES = ("rouge_l", "accuracy", "nll_teacher", "win_rate", "acceptance", "head", "tail")
METRICS: dict[str, Callable[[dict], float]] = {
    **{name: lambda log, name=name: log["scores"][name] for name in SCORES},
    "separation": lambda log: log["scores"]["nll_student"] - log["scores"]["nll_teacher"],
    "early": lambda log: mean(point["rouge_l"] for point in log["curve"]),
    "log_seconds": lambda log: math.log(log["train_seconds"]),
}


def pairwise(
    winner: str, rivals: Sequence[str], metric="rouge_l", **kwargs
) -> tuple[Contrast, ...]:
    """Set `winner` above each of `rivals`: one contrast a rival."""
    label = "{} over {}" + ("" if metric == "rouge_l" else f", {METRIC_LABELS[metric]}")
    return tuple(
        Contrast(label.format(winner, rival), {winner: 1, rival: -1}, metric, **kwargs)
        for rival in rivals
    )


def judge(contrast: Contrast, folder: Path | None = None) -> Result:
    """Judge a contrast over the seeds that all its runs have; ValueError where these are fewer than two."""
    logs = {name: runs_by_seed(name, folder) for name in contrast.weights}
    seeds = sorted(set.intersection(*(set(found) for found in logs.values())))
    if len(seeds) < 2:
        short = ", ".join(name for name, found in logs.items() if len(found) < 2)
        raise ValueError(
            f"fewer than two seeds of {short} in {folder or runs_dir()}: run the claim first"
        )
    measure = METRICS[contrast.metric]
    values = [
        sum(weight * measure(logs[name][seed]) for name, weight in contrast.weights.items())
        for seed in seeds
    ]
    ends = bootstrap_interval(torch.tensor(values, dtype=torch.float64))
    return Result(contrast, tuple(values), *ends)


def verdict(results: Sequence[Result]) -> str:
    """Give a claim's verdict: 'holds' if every contrast does, 'reversed' if one is, else 'not resolved'."""
    found = {result.verdict for result in results}
    return "holds" if found == {"holds"} else "reversed" if "reversed" in found else "not resolved"


def weakest(results: Sequence[Result]) -> Result:
    """Pick the contrast that decides: the one whose interval, in units of its width, lies lowest."""
    return min(
        results,
        key=lambda r: (r.mean - r.contrast.margin) / max(r.high - r.low, 1e-12),
    )
