"""What a score is worth: duels of two students from their logs, judges that err, pass@k from few draws.

Lesson 09 reads numbers with this; the judges and the formulas themselves are in `judging.py`.
"""

import random
import re
from collections.abc import Sequence
from math import comb
from pathlib import Path

import torch
from torch import Tensor

from minidistill.arms import BASELINES, DOMAINS
from minidistill.evaluation import pass_at_k
from minidistill.judging import QUESTION, LLMJudge, WinRate
from minidistill.replies import parse_reply
from minidistill.report import logs_of
from minidistill.tasks import Task
from minidistill.toy import interval

Z = 1.96  # half the width of a 95 % interval in standard errors
SIZES = (25, 50, 100, 150, 200, 250, 300, 350, 400)


# --- duels --------------------------------------------------------------------------------------------
def points(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """The verdict on each prompt by two rows of grades: 1 ours is higher, ½ they are equal, 0 lower."""
    return [(a > b) + 0.5 * (a == b) for a, b in zip(ours, theirs, strict=True)]


def duel(ours: str, theirs: str, folder: Path, draw: int = 0) -> dict[int, list[float]]:
    """Seed → `points` of two arms' students on the held-out prompts, for the seeds that both have.

    ValueError where a log is older than its grades.
    """
    rows = {name: logs_of(name, folder) for name in (ours, theirs)}
    for name, logs in rows.items():
        if not logs or not all(log.get("grades") for log in logs.values()):
            raise ValueError(f"the logs of {name} in {folder} keep no grades: run the arm again")
    seeds = sorted(set(rows[ours]) & set(rows[theirs]))
    return {
        seed: points(*(rows[name][seed]["grades"][draw] for name in (ours, theirs)))
        for seed in seeds
    }


def normal_interval(scored: Sequence[float]) -> tuple[float, float, float]:
    """Mean of the points, and the ends of its 95 % interval, mean ± 1.96 · s / √n (s with n − 1)."""
    values = torch.as_tensor(scored, dtype=torch.float64)
    half = Z * float(values.std()) / len(values) ** 0.5
    return float(values.mean()), float(values.mean()) - half, float(values.mean()) + half


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
    `interval` decides as in the ledger. One number a table.
    """
    generator = torch.Generator().manual_seed(0)
    runs = torch.randn(tables, worlds, rivals + 1, seeds, generator=generator, dtype=torch.float64)
    found = []
    for table in (runs[:, :, :1] - runs[:, :, 1:]).flatten(1, 2):
        ends = [interval(contrast) for contrast in table]
        found.append(sum(low > 0 or high < 0 for low, high in ends))
    return found


# --- judges that err ----------------------------------------------------------------------------------
def flipped(scored: Sequence[float], error: float, seed: int = 0) -> list[float]:
    """The same verdicts from a judge that turns each one round with probability `error`."""
    rng = random.Random(seed)
    return [1 - point if rng.random() < error else point for point in scored]


READ = re.compile(
    re.escape(QUESTION).replace(r"\{prompt\}", "(.*)").replace(r"\{a\}", "(.*)").replace(r"\{b\}", "(.*)"),
    re.DOTALL,
)  # fmt: skip


class PlacedJudge(LLMJudge):
    """A pretended model: says "A" unread with probability `bias`, else what the task's grader finds."""

    def __init__(self, task: Task, bias: float, seed: int = 0):
        self.task, self.bias, self.rng = task, bias, random.Random(seed)

    def ask(self, questions: Sequence[str]) -> list[str]:
        """A reply to each question, as a chat model would give it."""
        return [self._reply(*READ.fullmatch(question).groups()) for question in questions]

    def _reply(self, prompt: str, a: str, b: str) -> str:
        if self.rng.random() < self.bias:
            return "A"
        return {1.0: "A", 0.5: "tie", 0.0: "B"}[
            points([self.task.grade(prompt, a)], [self.task.grade(prompt, b)])[0]
        ]


def asked_once(
    judge: LLMJudge, prompts: Sequence[str], ours: Sequence[str], theirs: Sequence[str]
) -> WinRate:
    """The win rate of `ours` if the judge is asked in one order alone, with ours as response A."""
    rows = zip(prompts, ours, theirs, strict=True)
    questions = [QUESTION.format(prompt=x, a=us, b=them) for x, us, them in rows]
    worth = {"A": 1.0, "B": 0.0}
    return WinRate.of([worth.get(parse_reply(reply), 0.5) for reply in judge.ask(questions)])


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
