"""The claims ledger: run what a claim needs, and judge it by one rule.

Each contrast is taken seed by seed; a bootstrap 95 % interval of its mean over the seeds decides:
above zero it holds, below it is reversed, else this scale does not resolve it. A claim holds if all
its contrasts hold; one reversed contrast reverses it. What is claimed stands in `paper.py`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

import torch

from minidistill import divergences as D
from minidistill import toy
from minidistill.arms import ARMS, GRID, MAP, world_of
from minidistill.contrasts import Claim, Contrast
from minidistill.experiments import Job, Protocol, run_grid
from minidistill.paper import CLAIMS
from minidistill.report import logs_of
from minidistill.runlog import environment_info, write_log
from minidistill.stats import bootstrap_interval
from minidistill.utils import unknown_name_message

SEEDS = 5
TOY_SEEDS = 20


@dataclass(frozen=True)
class Result:
    """One contrast's answer: the mean over seeds, its interval, and the verdict."""

    contrast: Contrast
    values: tuple[float, ...]
    low: float
    high: float

    @property
    def mean(self) -> float:
        return mean(self.values)

    @property
    def verdict(self) -> str:
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


def get_claim(name: str) -> Claim:
    """The claim of that name; ValueError lists all of them and the nearest."""
    if name.upper() not in CLAIMS:
        raise ValueError(unknown_name_message("claim", name, CLAIMS))
    return CLAIMS[name.upper()]


def run(names: Sequence[str], folder: Path, seeds: int = SEEDS, protocol: Protocol | None = None):
    """Run what these claims need and `folder` lacks; seeds outermost, so that all grow together."""
    arms = [name for claim in map(get_claim, names) for name in claim.arms]
    run_arms(arms, folder, seeds, protocol)


def run_arms(names: Sequence[str], folder: Path, seeds: int, protocol: Protocol | None = None):
    """Run what `folder` lacks of these arms, which may be of any table in `paper.py`."""
    known = ARMS | GRID | MAP
    real = [name for name in dict.fromkeys(names) if name in known]
    toys = {"toy_kl", "toy_rkl"} & set(names)
    if any(len(logs_of(name, folder)) < TOY_SEEDS for name in toys):
        run_toy(folder)
    base = protocol or Protocol()
    jobs = [
        Job(replace(base, task=world_of(name)), name, known[name], seed)
        for seed in range(seeds)
        for name in real
    ]
    if jobs:
        run_grid(jobs, folder)


def run_toy(folder: Path, seeds: int = TOY_SEEDS) -> None:
    """C1: mass in the head (first 10 of 80 tokens) and in the tail (from 46) after five steps."""
    log_p, start = toy.half_gaussian(seeds), toy.random_logits(seeds)
    for name, loss in (("toy_kl", D.kl), ("toy_rkl", D.reverse_kl)):
        after = toy.descend(loss, log_p, start, steps=5)[-1].exp()
        for seed in range(seeds):
            head, tail = after[seed, :10].sum().item(), after[seed, 46:].sum().item()
            job = {"name": name, "seed": seed, "protocol": {"task": "toy", "steps": 5}}
            content = {"job": job, "scores": {"head": head, "tail": tail}, "seconds": 0.0}
            write_log(folder / f"toy-{name}-{seed}.json", {**content, **environment_info()})


def judge(contrast: Contrast, folder: Path) -> Result:
    """The contrast over the seeds that all its arms have; ValueError where there are fewer than two."""
    logs = {name: logs_of(name, folder) for name in contrast.weights}
    seeds = sorted(set.intersection(*(set(found) for found in logs.values())))
    if len(seeds) < 2:
        short = [name for name, found in logs.items() if len(found) < 2]
        raise ValueError(
            f"fewer than two seeds of {', '.join(short)} in {folder}: run the claim first"
        )
    measure = METRICS[contrast.metric]
    values = [
        sum(weight * measure(logs[name][seed]) for name, weight in contrast.weights.items())
        for seed in seeds
    ]
    return Result(
        contrast, tuple(values), *bootstrap_interval(torch.tensor(values, dtype=torch.float64))
    )


def verdict(results: Sequence[Result]) -> str:
    """holds: every contrast does. reversed: one is. Else not resolved."""
    found = {result.verdict for result in results}
    return "holds" if found == {"holds"} else "reversed" if "reversed" in found else "not resolved"


def weakest(results: Sequence[Result]) -> Result:
    """The contrast that decides: the one whose interval, in units of its width, lies lowest."""
    return min(
        results,
        key=lambda r: (r.mean - r.contrast.margin) / max(r.high - r.low, 1e-12),
    )
