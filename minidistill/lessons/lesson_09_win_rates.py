"""Lesson 09 (win rates): duels from logged grades, luck, judges that err or like a place, an exercise."""

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from torch import Tensor

from minidistill.evaluation import Z, normal_interval
from minidistill.experiments import statistics
from minidistill.experiments.logs import ledger_dir, runs_by_seed
from minidistill.judging import LLMJudge, WinRate, averaged_verdicts, noisy_win_rate
from minidistill.lessons import plots
from minidistill.lessons.checks import Exercise, checker
from minidistill.tasks import Task

SIZES = (25, 50, 100, 150, 200, 300, 400, 600, 800, 1000)  # prompts judged


# --- duels --------------------------------------------------------------------------------------------
def verdict_scores(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """The verdict on each prompt by two rows of grades: 1 ours is higher, ½ they are equal, 0 lower."""
    return [(a > b) + 0.5 * (a == b) for a, b in zip(ours, theirs, strict=True)]


def paired_verdicts(
    ours: str, theirs: str, folder: Path | None = None, draw: int = 0
) -> dict[int, list[float]]:
    """Seed → `points` of two arms' students on the held-out prompts, for the seeds that both have.

    ValueError where a log is older than its grades.
    """
    folder = folder or ledger_dir()
    rows = {name: runs_by_seed(name, folder) for name in (ours, theirs)}
    for name, logs in rows.items():
        if not logs or not all(log.get("grades") for log in logs.values()):
            raise ValueError(f"the logs of {name} in {folder} keep no grades: run the arm again")
    seeds = sorted(set(rows[ours]) & set(rows[theirs]))
    return {
        seed: verdict_scores(*(rows[name][seed]["grades"][draw] for name in (ours, theirs)))
        for seed in seeds
    }


def with_interval(ours: Tensor, theirs: Tensor) -> Tensor:
    """Win rate (9.2) of two rows of grades (prompts,), and the ends of its `normal_interval`: (3,)."""
    return torch.tensor(normal_interval(verdict_scores(ours.tolist(), theirs.tolist())))


def running_win_rate(
    scored: Sequence[float], sizes: Sequence[int] | None = None
) -> dict[str, list]:
    """Win rate and interval on the first 25, 50, … prompts: 'sizes', 'rate', 'low', 'high'."""
    sizes = sizes or [size for size in SIZES if size <= len(scored)]
    rows = [normal_interval(scored[:size]) for size in sizes]
    columns = zip(("rate", "low", "high"), map(list, zip(*rows, strict=True)), strict=True)
    return {"sizes": list(sizes), **dict(columns)}


# --- luck -----------------------------------------------------------------------------------------------
def lucky_verdicts(
    rivals: int = 7, seeds: int = 10, ledgers: int = 200, smallest: float = 0.0
) -> dict:
    """Count contrasts that are decided where nothing is true: no method differs from another.

    Each run is one normal draw, and one method is compared with each rival. Three rules: the bootstrap
    interval of each contrast, its t-interval, and the ledger's (t, Holm over all, `smallest` in standard
    deviations of a run). Rule → one count a ledger.
    """
    rng = np.random.default_rng(0)
    found = {"bootstrap": [], "t": [], "Holm": []}
    for _ in range(ledgers):
        runs = rng.normal(size=(rivals + 1, seeds))
        table = runs[:1] - runs[1:]
        picks = rng.integers(seeds, size=(2000, seeds))
        ends = np.quantile(table[:, picks].mean(-1), (0.025, 0.975), axis=1)
        found["bootstrap"].append(int(((ends[0] > 0) | (ends[1] < 0)).sum()))
        estimates = [statistics.mean_over_seeds(row) for row in table]
        alone = [statistics.decide([e], [0.0])[0].verdict for e in estimates]
        ruled = [d.verdict for d in statistics.decide(estimates, [smallest] * rivals)]
        for rule, verdicts in (("t", alone), ("Holm", ruled)):
            found[rule].append(sum(v in ("replicated", "opposite") for v in verdicts))
    return found


# --- judges that err ----------------------------------------------------------------------------------
def flip_verdicts(scored: Sequence[float], error: float, seed: int = 0) -> list[float]:
    """The same verdicts from a judge that turns each one round with probability `error`."""
    rng = random.Random(seed)
    return [1 - point if rng.random() < error else point for point in scored]


class PositionBiasedJudge(LLMJudge):
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
        return verdict_scores([self.task.grade(prompt, a)], [self.task.grade(prompt, b)])[0]


def single_order_win_rate(
    judge: LLMJudge, prompts: Sequence[str], ours: Sequence[str], theirs: Sequence[str]
) -> WinRate:
    """The win rate of `ours` if the judge is asked in one order alone, with ours as response A."""
    probs = judge.choice_probs(list(zip(prompts, ours, theirs, strict=True)))
    return WinRate.of(averaged_verdicts(probs, probs))


# --- figures --------------------------------------------------------------------------------------------
def draw_growth(ax, scored: Sequence[float], title: str = "", sizes: Sequence[int] | None = None):
    """The win rate with its interval as more prompts are judged; the line at ½ is no difference."""
    found = running_win_rate(scored, sizes)
    ax.fill_between(
        found["sizes"], found["low"], found["high"], color=plots.PAPER_GREY, linewidth=0
    )
    ax.plot(found["sizes"], found["rate"], **plots.ROLES["student"].line)
    ax.axhline(0.5, color=plots.BLACK, linewidth=0.8)
    ax.set(xlabel="prompts judged", ylabel="win rate", ylim=(0.25, 0.75))
    ax.set_title(title, loc="left", fontsize=10.5)
    return ax


def draw_intervals(ax, rows: Mapping[str, tuple[float, float, float]], title: str = ""):
    """A row a name: a win rate with its interval (rate, low, high); the line at ½ is no difference."""
    for i, (rate, low, high) in enumerate(rows.values()):
        ax.plot([low, high], [i, i], color=plots.BLACK, linewidth=1.5)
        ax.plot(rate, i, plots.ROLES["student"].marker, color=plots.ROLES["student"].color)
    ax.axvline(0.5, color=plots.BLACK, linewidth=0.8)
    ax.set_yticks(range(len(rows)), list(rows))
    ax.grid(axis="y", visible=False)
    ax.set(xlabel="win rate", ylim=(len(rows) - 0.4, -0.6))
    ax.set_title(title, loc="left", fontsize=10.5)
    return ax


def judge_explorer(scored: Sequence[float]) -> Callable:
    """A callback `(prompts, error) → Figure`: the first of real verdicts, as a judge gives them that errs."""
    line, true = [i / 20 for i in range(21)], mean(scored)

    def picture(prompts: int = len(scored), error: float = 0.0):
        left, right = plots.axes(2, height=2.6, width=8.4, fast=True)
        seen = flip_verdicts(scored, error)[:prompts]
        rate, low, high = normal_interval(seen)
        title = f"(9.2) W = {rate:.3f}, from {low:.3f} to {high:.3f}"
        draw_growth(left, seen, title, [*(n for n in SIZES if n < prompts), prompts])
        left.set(xlim=(0, len(scored)), ylim=(0.4, 1))
        lines = {"no error": line, "judged": [noisy_win_rate(w, error) for w in line]}
        title = f"(9.3) error {error:.2f}"
        plots.curves(line, lines, right, "true win rate", "judged win rate", title)
        plots.point(true, rate, "this duel", right)
        return left.figure

    return picture


# --- the exercise ---------------------------------------------------------------------------------------
def _summed(scored, half=None) -> Tensor:
    """Rate, low, high from points; `half` (std, n) → half the interval's width, if not the usual one."""
    scored = torch.as_tensor(scored, dtype=torch.float64)
    half = half or (lambda std, n: Z * std / n**0.5)
    width = half(scored.std(), len(scored))
    return torch.stack([scored.mean(), scored.mean() - width, scored.mean() + width])


def _scored(ours, theirs) -> Tensor:
    return torch.tensor(verdict_scores(ours.tolist(), theirs.tolist()), dtype=torch.float64)


def _coin(rate: float) -> float:
    """The standard deviation of a coin that shows 1 with this chance, else 0."""
    return (rate * (1 - rate)) ** 0.5


_GRADES = (
    (
        torch.tensor([1, 0.67, 0.33, 1, 1, 0.33, 1, 1, 0.67, 0.0]),
        torch.tensor([1, 0.33, 0.33, 0.0, 0.67, 0.67, 1, 0.33, 0.0, 1.0]),
    ),
    (
        torch.tensor([0.33, 0.33, 1, 0.67, 1, 0.0, 0.33, 0.95]),
        torch.tensor([0.67, 0.33, 1, 0.33, 0.33, 0.67, 1.0, 1]),
    ),
)

EXERCISES = {
    "win_rate": Exercise(
        answer=with_interval,
        first_step="one point a prompt: (ours > theirs) + 0.5 · (ours == theirs); then its mean and .std().",
        cases=_GRADES,
        mistakes={
            "a tie counts nothing: it is worth ½": lambda a, b: _summed((a > b).double()),
            "a tie counts as a win: it is worth ½": lambda a, b: _summed((a >= b).double()),
            "ties are left out, and n with them: they count ½, among all prompts": (
                lambda a, b: _summed((a > b)[a != b].double())
            ),
            "grades that are close count as a tie: only equal ones do": lambda a, b: _summed(
                torch.where((a - b).abs() < 0.1, 0.5, (a > b).double())
            ),
            "ours and theirs are swapped: this is 1 − W": lambda a, b: with_interval(b, a),
            "grades are subtracted: a duel asks only which is higher": (
                lambda a, b: _summed((a - b).double())
            ),
            "s is not divided by √n: that is the spread of single prompts, not of their mean": (
                lambda a, b: _summed(_scored(a, b), lambda s, n: Z * s)
            ),
            "s is divided by n, not by its root": (
                lambda a, b: _summed(_scored(a, b), lambda s, n: Z * s / n)
            ),
            "the interval is one standard error to each side: 1.96 of them make 95 %": (
                lambda a, b: _summed(_scored(a, b), lambda s, n: s / n**0.5)
            ),
            "s is √(W (1 − W)), as if there were no ties: take the points' own .std()": (
                lambda a, b: _summed(
                    _scored(a, b), lambda s, n: Z * _coin(float(_scored(a, b).mean())) / n**0.5
                )
            ),
            "the variance is divided by n: .std() divides by n − 1 unless told otherwise": (
                lambda a, b: _summed(
                    _scored(a, b), lambda s, n: Z * s * ((n - 1) / n) ** 0.5 / n**0.5
                )
            ),
        },
        gradient=False,
    ),
}
check = checker(EXERCISES)
