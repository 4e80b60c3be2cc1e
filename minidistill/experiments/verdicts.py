"""What a claim compares, and its verdict by one rule.

{"cald": 1, "skl": -1} is CALD minus SKL, written so that the paper expects it above zero. It is taken seed by
seed, and prompt by prompt where each prompt has a grade; `statistics` gives interval and verdict, with
Holm's rule over the contrasts of a claim and one smallest effect that matters a metric, fixed for all claims.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from minidistill.experiments.labels import METRIC_LABELS
from minidistill.experiments.logs import runs_by_seed
from minidistill.experiments.statistics import (
    Decision,
    Estimate,
    combine,
    decide,
    mean_over_seeds,
    mean_over_seeds_and_prompts,
)
from minidistill.experiments.worlds import STARTS

# The smallest effect that matters, in the units of the metric: fixed before any run.
SMALLEST = {
    "accuracy": 0.02, "accuracy_sampled": 0.02, "accuracy_on_the_way": 0.02, "rouge_l": 0.01,
    "acceptance": 0.01, "win_rate": 0.02, "nll_teacher": 0.02, "separation": 0.02, "head": 0.02,
    "tail": 0.02, "log_seconds": 0.05,
}  # fmt: skip
GRADED = {"accuracy": 0, "accuracy_sampled": 1}  # metric → row of a log's grades


@dataclass(frozen=True)
class Contrast:
    """Hold Σ weight · metric over runs: above `smallest` if the paper is right.

    `smallest`: of the metric unless given. `alike`: the paper says that there is no difference that matters.
    """

    label: str
    weights: dict[str, float]
    metric: str = "accuracy"
    smallest: float = 0.0
    alike: bool = False

    def __post_init__(self):
        object.__setattr__(self, "smallest", self.smallest or SMALLEST[self.metric])


@dataclass(frozen=True)
class Claim:
    """Hold what the paper says, where, with which numbers; the contrasts that test it here.

    `explanation`: contrasts that would refute the reason in `discussion`, judged apart from the claim.
    """

    statement: str
    section: str
    paper_numbers: str
    contrasts: tuple[Contrast, ...]
    discussion: str = ""
    explanation: tuple[Contrast, ...] = ()
    runs: tuple[str, ...] = field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "runs", runs_of(self.contrasts))

    @property
    def every_run(self) -> tuple[str, ...]:
        """List the runs of the claim and of its explanation."""
        return runs_of((*self.contrasts, *self.explanation))


def runs_of(contrasts: Sequence[Contrast]) -> tuple[str, ...]:
    """List the runs that contrasts compare, each once."""
    return tuple(dict.fromkeys(name for c in contrasts for name in c.weights))


@dataclass(frozen=True)
class Result:
    """Hold one contrast's answer: its value at each of the seeds, and the decision over them."""

    contrast: Contrast
    values: tuple[float, ...]
    decision: Decision
    seeds: tuple[int, ...]

    @property
    def mean(self) -> float:
        return self.decision.estimate.mean

    @property
    def interval(self) -> tuple[float, float]:
        return self.decision.interval

    @property
    def by_start(self) -> tuple[float, ...]:
        """Average over the seeds that share a start, which are nearer to each other than to others."""
        groups = {}
        for seed, value in zip(self.seeds, self.values, strict=True):
            groups.setdefault(seed % STARTS, []).append(value)
        return tuple(float(np.mean(groups[start])) for start in sorted(groups))

    @cached_property
    def verdict(self) -> str:
        """Say 'replicated', 'opposite', 'no difference that matters' or 'undecided'."""
        found = self.decision.verdict
        if not self.contrast.alike or found == "undecided":
            return found
        return "replicated" if found == "no difference that matters" else "opposite"


METRICS: dict[str, Callable[[dict], float]] = {
    **{
        name: lambda log, name=name: log["scores"][name]
        for name in ("accuracy", "accuracy_sampled", "rouge_l", "nll_teacher", "acceptance", "win_rate")
    },
    "head": lambda log: log["scores"]["head"],
    "tail": lambda log: log["scores"]["tail"],
    "separation": lambda log: log["scores"]["nll_student"] - log["scores"]["nll_teacher"],
    "accuracy_on_the_way": lambda log: float(
        np.mean([row["accuracy"] for row in log["evals"] if "accuracy" in row])
    ),
    "log_seconds": lambda log: float(np.log(log["train_seconds"])),
}  # fmt: skip


def pairwise(winner: str, rivals: Sequence[str], metric: str = "accuracy") -> tuple[Contrast, ...]:
    """Set `winner` above each of `rivals`: one contrast a rival."""
    label = "{} over {}" + ("" if metric == "accuracy" else f", {METRIC_LABELS[metric]}")
    return tuple(
        Contrast(label.format(winner, rival), {winner: 1, rival: -1}, metric) for rival in rivals
    )


def estimate(contrast: Contrast, folder: Path | None = None) -> tuple[tuple[float, ...], Estimate]:
    """Measure a contrast over the seeds that all its runs have: its values, and their mean with its error.

    ValueError where these are fewer than two.
    """
    logs = {name: runs_by_seed(name, folder) for name in contrast.weights}
    seeds = shared_seeds(contrast, folder)
    if len(seeds) < 2:
        short = ", ".join(name for name, found in logs.items() if len(found) < 2)
        raise ValueError(f"fewer than two seeds of {short or contrast.label}: run the claim first")
    measure = METRICS[contrast.metric]
    values = tuple(
        sum(weight * measure(logs[name][seed]) for name, weight in contrast.weights.items())
        for seed in seeds
    )
    if contrast.metric not in GRADED:
        return values, mean_over_seeds(values)
    row = GRADED[contrast.metric]

    def right(name: str) -> np.ndarray:
        return np.array([logs[name][seed]["grades"][row] for seed in seeds]) >= 1

    table = sum(weight * right(name) for name, weight in contrast.weights.items())
    return values, mean_over_seeds_and_prompts(table)


def shared_seeds(contrast: Contrast, folder: Path | None = None) -> tuple[int, ...]:
    """List the seeds that all runs of a contrast have."""
    return tuple(
        sorted(set.intersection(*(set(runs_by_seed(n, folder)) for n in contrast.weights)))
    )


def is_run(contrast: Contrast, folder: Path | None = None) -> bool:
    """Tell whether all runs of a contrast share the two seeds that an interval needs."""
    return len(shared_seeds(contrast, folder)) > 1


def judge(contrasts: Sequence[Contrast], folder: Path | None = None) -> list[Result]:
    """Judge the contrasts of one claim together."""
    measured = [estimate(contrast, folder) for contrast in contrasts]
    decisions = decide([e for _, e in measured], [c.smallest for c in contrasts])
    return [
        Result(contrast, values, decision, shared_seeds(contrast, folder))
        for contrast, (values, _), decision in zip(contrasts, measured, decisions, strict=True)
    ]


def verdict(results: Sequence[Result]) -> str:
    """Give a claim's verdict: that of the contrast which speaks most against it."""
    return combine([result.verdict for result in results])
