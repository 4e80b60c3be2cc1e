"""Means over seeds and prompts with their intervals; four verdicts; Holm's rule over the parts of a claim.

A difference is measured with several seeds and, where it can be, on each test prompt. Both are samples, of
the runs that might have been made and of the prompts that might have been asked, and both cross: every seed
answers every prompt. Where the 95 % interval of the mean lies decides, against ±δ, the smallest effect that
matters:

    −δ      0      δ
     |      |      |  ├──────┤   replicated: as the paper says, and by more than δ
     |    ├───┤    |             no difference that matters
     |      |  ├───|────┤        undecided
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.05  # how often a claim may be given a false verdict
VERDICTS = ("replicated", "no difference that matters", "undecided", "opposite")


@dataclass(frozen=True)
class Estimate:
    """Hold a mean, its standard error, and the degrees of freedom of that error."""

    mean: float
    se: float
    df: float

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Return the ends of the 1 − `level` t-interval."""
        from scipy.stats import t

        half = float(t.ppf(1 - level / 2, self.df)) * self.se
        return self.mean - half, self.mean + half

    def p_value(self, smallest: float) -> float:
        """Return the least level at which the interval lies wholly on one side of each of ±`smallest`."""
        from scipy.stats import t

        distance = abs(abs(self.mean) - smallest)
        if self.se == 0:
            return float(distance == 0)
        return float(2 * t.sf(distance / self.se, self.df))


def mean_over_seeds(values: Sequence[float]) -> Estimate:
    """Estimate the mean of one value a seed. ValueError for fewer than two."""
    table = np.asarray(values, dtype=float)
    if len(table) < 2:
        raise ValueError(f"an interval needs at least two seeds, but got {len(table)}")
    return Estimate(
        float(table.mean()), float(table.std(ddof=1)) / len(table) ** 0.5, len(table) - 1
    )


def mean_over_seeds_and_prompts(table: Sequence[Sequence[float]]) -> Estimate:
    r"""Estimate the mean of a (seeds, prompts) table whose rows and columns are both drawn at random.

    d_sp = μ + a_s + b_p + e_sp; Var(mean) = (MS_seeds + MS_prompts − MS_rest) / (S · P), never less than
    either of the first two alone; Satterthwaite's degrees of freedom, but no more than the seeds have: a few
    seeds that happen to agree would seem to be many. ValueError for fewer than two rows or columns. Source:
    Searle, Casella and McCulloch, Variance Components (1992), two-way crossed model.
    """
    d = np.asarray(table, dtype=float)
    if d.ndim != 2 or min(d.shape) < 2:
        raise ValueError(f"an interval needs at least two seeds and two prompts, but got {d.shape}")
    seeds, prompts = d.shape
    rows, columns, mean = d.mean(1, keepdims=True), d.mean(0, keepdims=True), d.mean()
    rest = d - rows - columns + mean
    squares = [
        prompts * float(rows.var(ddof=1)),
        seeds * float(columns.var(ddof=1)),
        float((rest**2).sum()) / ((seeds - 1) * (prompts - 1)),
    ]
    freedom = [seeds - 1, prompts - 1, (seeds - 1) * (prompts - 1)]
    variance = max(squares[0] + squares[1] - squares[2], squares[0], squares[1])
    spread = sum(ms**2 / n for ms, n in zip(squares, freedom, strict=True))
    df = variance**2 / spread if spread else math.inf
    return Estimate(float(mean), (variance / d.size) ** 0.5, min(max(df, 1.0), seeds - 1))


@dataclass(frozen=True)
class Decision:
    """Hold a verdict and the interval that gave it, at the level that Holm's rule left for it."""

    estimate: Estimate
    smallest: float
    level: float

    @property
    def interval(self) -> tuple[float, float]:
        return self.estimate.interval(self.level)

    @property
    def verdict(self) -> str:
        low, high = self.interval
        if low > self.smallest:
            return "replicated"
        if high < -self.smallest:
            return "opposite"
        inside = -self.smallest < low and high < self.smallest
        return "no difference that matters" if inside else "undecided"


def decide(
    estimates: Sequence[Estimate], smallest: Sequence[float], level: float = LEVEL
) -> list[Decision]:
    """Decide several contrasts so that a false verdict on any of them comes at most with chance `level`.

    Holm: the clearest is decided at level / n, the next at level / (n − 1), until one stays undecided; all
    after it are held to the same level. Source: Holm, Scand. J. Statist. 6 (1979).
    """
    p_values = [e.p_value(s) for e, s in zip(estimates, smallest, strict=True)]
    levels, left, stopped = {}, len(p_values), False
    for i in sorted(range(len(p_values)), key=p_values.__getitem__):
        levels[i] = level / left
        stopped = stopped or p_values[i] >= levels[i]
        left -= not stopped
    return [
        Decision(e, s, levels[i]) for i, (e, s) in enumerate(zip(estimates, smallest, strict=True))
    ]


def combine(verdicts: Sequence[str]) -> str:
    """Give a claim's verdict: that of the contrast which speaks most against it."""
    for found in ("opposite", "no difference that matters", "undecided"):
        if found in verdicts:
            return found
    return "replicated"
