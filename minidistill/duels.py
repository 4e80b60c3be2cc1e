"""What a score is worth: duels of two students from their logs, judges that err, pass@k from few draws.

Lesson 09 reads numbers with this; the judges and the formulas themselves are in `judging.py`.
"""

import random
from collections.abc import Sequence
from math import comb
from pathlib import Path

import torch
from torch import Tensor

from minidistill.evaluation import pass_at_k
from minidistill.experiments.logs import runs_by_seed
from minidistill.experiments.run_configs import BASELINES, DOMAINS
from minidistill.judging import LLMJudge, WinRate, averaged_verdicts
from minidistill.stats import bootstrap_interval, normal_interval
from minidistill.tasks import Task

SIZES = (25, 50, 100, 150, 200, 250, 300, 350, 400)


# --- duels --------------------------------------------------------------------------------------------
def points(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """The verdict on each prompt by two rows of grades: 1 ours is higher, ½ they are equal, 0 lower."""
    return [(a > b) + 0.5 * (a == b) for a, b in zip(ours, theirs, strict=True)]


def duel(ours: str, theirs: str, folder: Path, draw: int = 0) -> dict[int, list[float]]:
    """Seed → `points` of two arms' students on the held-out prompts, for the seeds that both have.

    ValueError where a log is older than its grades.
    """
    rows = {name: runs_by_seed(name, folder) for name in (ours, theirs)}
    for name, logs in rows.items():
        if not logs or not all(log.get("grades") for log in logs.values()):
            raise ValueError(f"the logs of {name} in {folder} keep no grades: run the arm again")
    seeds = sorted(set(rows[ours]) & set(rows[theirs]))
    return {
        seed: points(*(rows[name][seed]["grades"][draw] for name in (ours, theirs)))
        for seed in seeds
    }


def with_interval(ours: Tensor, theirs: Tensor) -> Tensor:
    """Win rate (9.2) of two rows of grades (prompts,), and the ends of its `normal_interval`: (3,)."""
    return torch.tensor(normal_interval(points(ours.tolist(), theirs.tolist())))


def growth(scored: Sequence[float], sizes: Sequence[int] = SIZES) -> dict[str, list[float]]:
    """Win rate and interval on the first 25, 50, … prompts: 'rate', 'low', 'high'."""
    rows = [normal_interval(scored[:size]) for size in sizes]
    return dict(zip(("rate", "low", "high"), map(list, zip(*rows, strict=True)), strict=True))


def decided_by_luck(
    rivals: int = len(BASELINES), worlds: int = len(DOMAINS), seeds: int = 5, tables: int = 100
) -> list[int]:
    """How many contrasts of a table get a verdict where none should: no method differs from another.

    Every run is a normal draw; in each world one method's seeds are compared with each rival's, and
    `bootstrap_interval` decides as in the ledger. One number a table.
    """
    generator = torch.Generator().manual_seed(0)
    runs = torch.randn(tables, worlds, rivals + 1, seeds, generator=generator, dtype=torch.float64)
    found = []
    for table in (runs[:, :, :1] - runs[:, :, 1:]).flatten(1, 2):
        ends = [bootstrap_interval(contrast) for contrast in table]
        found.append(sum(low > 0 or high < 0 for low, high in ends))
    return found


# --- judges that err ----------------------------------------------------------------------------------
def flipped(scored: Sequence[float], error: float, seed: int = 0) -> list[float]:
    """The same verdicts from a judge that turns each one round with probability `error`."""
    rng = random.Random(seed)
    return [1 - point if rng.random() < error else point for point in scored]


class PlacedJudge(LLMJudge):
    """A pretended model: takes response A unread with probability `bias`, else what the grader prefers."""

    def __init__(self, task: Task, bias: float, seed: int = 0):
        self.task, self.bias, self.rng = task, bias, random.Random(seed)

    def choice_probs(self, rows: Sequence[tuple[str, str, str]]) -> Tensor:
        """All of the probability on the verdict, as a model has it that is sure: (rows, 3)."""
        columns = {1.0: 0, 0.0: 1, 0.5: 2}  # A, B, tie
        found = [columns[self._points(*row)] for row in rows]
        return torch.eye(3, dtype=torch.float64)[found]

    def _points(self, prompt: str, a: str, b: str) -> float:
        if self.rng.random() < self.bias:
            return 1.0
        return points([self.task.grade(prompt, a)], [self.task.grade(prompt, b)])[0]


def asked_once(
    judge: LLMJudge, prompts: Sequence[str], ours: Sequence[str], theirs: Sequence[str]
) -> WinRate:
    """The win rate of `ours` if the judge is asked in one order alone, with ours as response A."""
    probs = judge.choice_probs(list(zip(prompts, ours, theirs, strict=True)))
    return WinRate.of(averaged_verdicts(probs, probs))


# --- pass@k -------------------------------------------------------------------------------------------
def estimates(p: float, samples: int, ks: Sequence[int]) -> dict[str, list[float]]:
    """What pass@k is, and what two estimates of it are on average over `samples` draws right with chance p.

    'true' 1 − (1 − p)^k; 'unbiased' the mean of (9.1); 'plug-in' that of 1 − (1 − c/n)^k. Exact.
    """
    counts = range(samples + 1)
    chance = [comb(samples, c) * p**c * (1 - p) ** (samples - c) for c in counts]
    rules = {
        "unbiased": lambda c, k: pass_at_k(samples, c, k),
        "plug-in": lambda c, k: 1 - (1 - c / samples) ** k,
    }
    found = {"true": [1 - (1 - p) ** k for k in ks]}
    for name, rule in rules.items():
        found[name] = [sum(w * rule(c, k) for c, w in zip(counts, chance, strict=True)) for k in ks]
    return found


def right_counts(task: Task, draws: Sequence[Sequence[str]]) -> list[int]:
    """How many draws of each prompt get the full grade; a draw is a response to each of the first prompts."""
    rows = zip(*draws, strict=True)
    return [
        sum(task.grade(e, text) >= 1 for text in texts)
        for e, texts in zip(task.test, rows, strict=False)
    ]


def pass_curve(right: Sequence[int], samples: int) -> list[float]:
    """pass@1 … pass@n, each a mean over prompts of (9.1)."""
    return [
        sum(pass_at_k(samples, c, k) for c in right) / len(right) for k in range(1, samples + 1)
    ]
