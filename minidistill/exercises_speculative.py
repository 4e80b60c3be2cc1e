"""The exercises of lesson 13: the chance to stay, what a rejected token becomes, tokens a call."""

import torch

from minidistill.applications.acceptance import tokens_per_call
from minidistill.applications.speculative import keep_chance, residual
from minidistill.checks import Exercise, checker

_TARGET = torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.4, 0.1]])
_DRAFT = torch.tensor([[0.2, 0.6, 0.1, 0.1], [0.4, 0.1, 0.45, 0.05], [0.3, 0.1, 0.2, 0.4]])
_PAIRS = ((_TARGET, _DRAFT), (_DRAFT[:2], _TARGET[:2]))


def _normal(x: torch.Tensor) -> torch.Tensor:
    return x / x.sum(-1, keepdim=True)


def _powers(rate: torch.Tensor, first: int, last: int) -> torch.Tensor:
    """a^first + … + a^last."""
    return torch.stack([rate**i for i in range(first, last + 1)]).sum(0)


EXERCISES_13 = {
    "keep_chance": Exercise(
        answer=keep_chance,
        first_step="where p(v) is at least q(v) the token stays for sure; how often where it is less?",
        cases=_PAIRS,
        mistakes={
            "p and q are swapped: the *target's* share of the draft's probability is wanted": (
                lambda p, q: keep_chance(q, p)
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

check_13 = checker(EXERCISES_13)
