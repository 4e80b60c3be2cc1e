"""The exercises of lesson 10: pairs from grades, the reward margin, KL on fresh samples."""

import torch
from torch import Tensor

from minidistill import divergences as D
from minidistill.applications.preference import best_and_worst, reward_margin
from minidistill.checks import Exercise, checker, scored
from minidistill.scoring import Scored


def _where(grades: Tensor, best: Tensor, worst: Tensor, kept: Tensor) -> Tensor:
    rows = torch.arange(len(grades))
    return torch.stack([rows, best, worst], -1)[kept]


def _differ(grades: Tensor) -> Tensor:
    return grades.max(-1).values > grades.min(-1).values


def _log_ratio(y: Scored, mean: bool = False) -> Tensor:
    return (y.mean if mean else y.sum)(y.token_log_q - y.token_log_p)


def _kl(y: Scored) -> Tensor:
    """(10.3) on one batch of fresh samples: (batch,)."""
    return y.sum(D.reverse_kl(y.log_p, y.log_q))


_GRADES = (
    (torch.tensor([[0.3, 1.0, 0.0, 0.7], [0.7, 0.7, 0.7, 0.7], [1.0, 0.3, 0.3, 1.0]]),),
    (torch.tensor([[0.0, 0.3], [0.7, 0.3], [1.0, 1.0], [0.3, 0.0]]),),
)
_PAIRS = tuple((scored(seed), scored(seed + 1), 0.5) for seed in (3, 5))

EXERCISES_10 = {
    "preference_pairs": Exercise(
        answer=best_and_worst,
        first_step="grades.argmax(-1) and grades.argmin(-1); which rows have a best that beats the worst?",
        cases=_GRADES,
        mistakes={
            "a prompt whose responses all tie is kept: it prefers nothing": lambda g: _where(
                g, g.argmax(-1), g.argmin(-1), torch.ones(len(g), dtype=torch.bool)
            ),
            "best and worst are swapped: the columns are prompt, chosen, rejected": lambda g: (
                _where(g, g.argmin(-1), g.argmax(-1), _differ(g))
            ),
            "the rejected one is the second best: the worst is asked for": lambda g: _where(
                g,
                g.argmax(-1),
                g.sort(dim=-1, descending=True, stable=True).indices[:, 1],
                _differ(g),
            ),
            "of equals the last is taken: the first is asked for": lambda g: _where(
                g,
                g.shape[1] - 1 - g.flip(-1).argmax(-1),
                g.shape[1] - 1 - g.flip(-1).argmin(-1),
                _differ(g),
            ),
            "only prompts with a fully right response are kept; any difference makes a pair": (
                lambda g: _where(
                    g, g.argmax(-1), g.argmin(-1), _differ(g) & (g.max(-1).values >= 1)
                )
            ),
        },
        gradient=False,
    ),
    "reward_margin": Exercise(
        answer=reward_margin,
        first_step="log π(y)/π_ref(y) is y.sum(y.token_log_q - y.token_log_p); of both sides, times beta.",
        cases=_PAIRS,
        mistakes={
            "the sign is turned round: chosen and rejected are swapped, or policy and reference": (
                lambda w, l, beta: reward_margin(l, w, beta)
            ),
            "beta multiplies one side only": lambda w, l, beta: (
                beta * _log_ratio(w) - _log_ratio(l)
            ),
            "beta is missing": lambda w, l, beta: reward_margin(w, l, 1.0),
            "the reference is missing: log π alone": lambda w, l, beta: (
                beta * (w.sum(w.token_log_q) - l.sum(l.token_log_q))
            ),
            "these are means over the tokens: the reward of a response is a sum": lambda w, l, beta: (
                beta * (_log_ratio(w, True) - _log_ratio(l, True))
            ),
            "the two rewards are added: their difference is asked for": lambda w, l, beta: (
                beta * (_log_ratio(w) + _log_ratio(l))
            ),
            "this is the loss, −log σ of the margin": lambda w, l, beta: (
                -torch.nn.functional.logsigmoid(reward_margin(w, l, beta))
            ),
        },
        gradient=False,
    ),
    "kl_to_reference": Exercise(
        answer=_kl,
        first_step="at each token Σ_v π(v) (log π(v) − log π_ref(v)); then y.sum over the response.",
        cases=tuple((scored(seed),) for seed in (3, 5)),
        mistakes={
            "the direction is turned round: this is KL(π_ref‖π), and π is the student, log_q": (
                lambda y: y.sum(D.kl(y.log_p, y.log_q))
            ),
            "this is a mean over tokens: KL of whole responses adds up over the tokens": (
                lambda y: y.mean(D.reverse_kl(y.log_p, y.log_q))
            ),
            "only the written token is looked at: unbiased, but noisier than the exact KL at each token": (
                _log_ratio
            ),
            "padding counts: sum over the mask, with y.sum": (
                lambda y: D.reverse_kl(y.log_p, y.log_q).sum(-1)
            ),
        },
        gradient=False,
    ),
}

check_10 = checker(EXERCISES_10)
