"""The exercises of lesson 09: pass@k from few draws, a win rate with ties and its interval."""

from collections.abc import Callable
from math import comb

import torch
from torch import Tensor

from minidistill.checks import Exercise, checker
from minidistill.duels import points, with_interval
from minidistill.evaluation import pass_at_k
from minidistill.stats import Z


def _each(rule: Callable[[int, int, int], float]) -> Callable:
    """A rule for one prompt (right, samples, k) as a function of all prompts' counts."""
    return lambda right, samples, k: torch.tensor([rule(int(c), samples, k) for c in right])


def _summed(scored, half=None) -> Tensor:
    """Rate, low, high from points; `half` (std, n) → half the interval's width, if not the usual one."""
    scored = torch.as_tensor(scored, dtype=torch.float64)
    half = half or (lambda std, n: Z * std / n**0.5)
    width = half(scored.std(), len(scored))
    return torch.stack([scored.mean(), scored.mean() - width, scored.mean() + width])


def _scored(ours, theirs) -> Tensor:
    return torch.tensor(points(ours.tolist(), theirs.tolist()), dtype=torch.float64)


_GRADES = (
    (
        torch.tensor([1, 0.67, 0.33, 1, 1, 0.33, 1, 1, 0.67, 0.0]),
        torch.tensor([1, 0.33, 0.33, 0.0, 0.67, 0.67, 1, 0.33, 0.0, 1.0]),
    ),
    (
        torch.tensor([0.33, 0.33, 1, 0.67, 1, 0.0, 0.33, 1]),
        torch.tensor([0.67, 0.33, 1, 0.33, 0.33, 0.67, 1.0, 1]),
    ),
)

EXERCISES_09 = {
    "pass_at_k": Exercise(
        answer=_each(lambda c, n, k: pass_at_k(n, c, k)),
        first_step="math.comb(n, k) counts the ways to choose k draws; how many of them hold no right one?",
        cases=((torch.tensor([0, 1, 2, 5]), 8, 3), (torch.tensor([0, 1, 3]), 6, 2)),
        mistakes={
            "this is 1 − (1 − c/n)^k, which puts each draw back before the next and is biased down": (
                _each(lambda c, n, k: 1 - (1 - c / n) ** k)
            ),
            "the leading 1 − is missing: you have the chance that none of k is right": (
                _each(lambda c, n, k: comb(n - c, k) / comb(n, k))
            ),
            "k is not used: c/n is pass@1": _each(lambda c, n, k: c / n),
            "c stands where n − c belongs: count the choices among the *wrong* draws": (
                _each(lambda c, n, k: 1 - comb(c, k) / comb(n, k))
            ),
            "you have the chance that *all* k are right": (
                _each(lambda c, n, k: comb(c, k) / comb(n, k))
            ),
            "k · c/n counts a choice with two right draws twice": (
                _each(lambda c, n, k: min(1, k * c / n))
            ),
        },
        edges={
            "fewer wrong draws than k (then some draw among any k is right)": (
                torch.tensor([6, 8]),
                8,
                3,
            )
        },
        gradient=False,
    ),
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


def _coin(rate: float) -> float:
    """The standard deviation of a coin that shows 1 with this chance, else 0."""
    return (rate * (1 - rate)) ** 0.5


check_09 = checker(EXERCISES_09)
