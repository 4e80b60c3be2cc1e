"""The exercises of lessons 06 to 08: whose words to train on, alpha, beta, DistiLLM-2."""

import torch

from minidistill import curriculum as C
from minidistill import generation, objectives
from minidistill.checks import Exercise, checker, scored

# Teachers sure and unsure, at bars that tell ε² from ε·exp(−H) and the rule from each slip.
_ROWS = (
    ([[0.09, 0.24, 0.52, 0.15], [0.28, 0.09, 0.44, 0.19], [0.09, 0.76, 0.10, 0.05]], 0.3),
    ([[0.62, 0.30, 0.07, 0.01], [0.30, 0.27, 0.23, 0.20]], 0.5),
)


def _words(probabilities) -> torch.Tensor:
    return torch.tensor(probabilities)


def _typical_bar(p: torch.Tensor, epsilon: float) -> torch.Tensor:
    return epsilon * (-torch.special.entr(p).sum(-1, keepdim=True)).exp()


def _betas(progress: torch.Tensor, *ends: float) -> torch.Tensor:
    return torch.tensor([C.linear_beta(float(t), *ends) for t in progress])


def _distillm2(tgo, sgo, alpha_t, alpha_s, beta: float) -> torch.Tensor:
    return objectives._contrast(tgo, sgo, objectives.TrainState(), alpha_t, alpha_s, beta)


_GAPS = (  # easy, in the narrow window below m, hard
    (torch.tensor([0.02, 0.187, 0.195, 0.60]), 0.2, 0.1, 0.01, 0.1),
    (torch.tensor([0.30, 0.05, 0.41]), 0.3, 0.05, 0.02, 0.4),
)
_ALPHAS = (torch.tensor([[0.1], [0.01]]), torch.tensor([[0.02], [0.3]]))


EXERCISES_06 = {
    "typical": Exercise(
        answer=lambda p, epsilon: generation.typical(epsilon)(p),
        first_step="the bar is min(ε², ε·exp(−H)), one for each row; torch.special.entr gives −p log p.",
        cases=tuple((_words(row), epsilon) for row, epsilon in _ROWS),
        mistakes={
            "the larger of the two bars is taken: the smaller one decides": lambda p, e: (
                p > torch.clamp(_typical_bar(p, e), min=e**2)
            ),
            "the first bar is ε², not ε": lambda p, e: p > torch.clamp(_typical_bar(p, e), max=e),
            "the bar ε² alone decides: the entropy is missing, or its sign is flipped": lambda p, e: (
                p > e**2
            ),
            "the test is turned round: what is *likelier* than the bar stays": lambda p, e: (
                ~(generation.typical(e)(p))
            ),
        },
        gradient=False,
    ),
    "corrected": Exercise(
        answer=lambda p, q, stays: generation.corrected(p, q, lambda _: stays),
        first_step="kept drafts are q where a word stays; the rest of the mass, 1 − q(A), is the teacher's.",
        cases=tuple(
            (
                _words((0.62, 0.30, 0.07, 0.01)),
                _words((0.15, 0.25, 0.35, 0.25)),
                torch.tensor(stays),
            )
            for stays in ([True, True, False, False], [True, False, True, False])
        ),
        mistakes={
            "teacher and student are swapped: the student drafts, the teacher redoes": (
                lambda p, q, stays: generation.corrected(q, p, lambda _: stays)
            ),
            "the teacher redoes with all its mass: weigh it with the chance of a rejection": (
                lambda p, q, stays: torch.where(stays, q, 0.0) + p
            ),
            "what is rejected goes only to words that may not stay: the teacher may say any word": (
                lambda p, q, stays: torch.where(stays, q, p)
            ),
            "kept drafts are renormalised: a rejected draft is redone by the teacher, not forgotten": (
                lambda p, q, stays: torch.where(stays, q, 0.0) / torch.where(stays, q, 0.0).sum()
            ),
            "the weight of the teacher is q(A): it should be what is left, 1 − q(A)": (
                lambda p, q, stays: (
                    torch.where(stays, q, 0.0) + torch.where(stays, q, 0.0).sum() * p
                )
            ),
        },
        gradient=False,
    ),
}

EXERCISES_07 = {
    "adaptive_alpha": Exercise(
        answer=C.adaptive_alpha,
        first_step="1 − (1−alpha0)·m / gap.detach(), then clip to [low, high]; then gaps ≤ 0.",
        cases=tuple((gap, m, a, low, high) for gap, m, a, low, high in _GAPS),
        mistakes={
            "the leading 1 − is missing, or a plus: a *larger* gap must give a larger alpha": (
                lambda gap, m, a, low, high: ((1 - a) * m / gap.detach()).clip(low, high)
            ),
            "the factor is 1 − alpha0, not alpha0": lambda gap, m, a, low, high: (
                1 - a * m / gap.detach()
            ).clip(low, high),
            "gap and m are exchanged: the sample's gap stands below the bar": (
                lambda gap, m, a, low, high: (1 - (1 - a) * gap.detach() / m).clip(low, high)
            ),
            "it is not clipped to [low, high]": lambda gap, m, a, low, high: (
                1 - (1 - a) * m / gap.detach()
            ),
            "0.01 and 0.1 are typed in: the bounds are the arguments low and high": (
                lambda gap, m, a, low, high: (1 - (1 - a) * m / gap.detach()).clip(0.01, 0.1)
            ),
            "the two clip bounds are swapped, and torch then answers the smaller one everywhere": (
                lambda gap, m, a, low, high: (1 - (1 - a) * m / gap.detach()).clip(high, low)
            ),
            "the gap is not detached: alpha is a weight, no gradient may flow through it": (
                lambda gap, m, a, low, high: (1 - (1 - a) * m / gap).clip(low, high)
            ),
        },
        edges={
            "a negative gap (nothing left to close, so easy)": (
                torch.tensor([-0.5]),
                0.2,
                0.1,
                0.01,
                0.1,
            ),
            "a mean gap m that is not positive (no scale yet: alpha0)": (
                torch.tensor([0.3]),
                0.0,
                0.05,
                0.01,
                0.1,
            ),
        },
    ),
    "linear_beta": Exercise(
        answer=_betas,
        first_step="progress / ramp is the share of the climb done, never more than 1 (torch.clamp).",
        cases=(
            (torch.tensor([0.0, 0.1, 0.25, 0.5, 0.8, 1.0]), 0.5, 0.75, 0.5),
            (torch.tensor([0.0, 0.3, 0.6, 0.9]), 0.2, 1.0, 0.8),
        ),
        mistakes={
            "beta goes on climbing after the ramp: progress / ramp stops at 1": (
                lambda t, start, end, ramp: start + (end - start) * t / ramp
            ),
            "the climb takes all of training: divide progress by ramp": (
                lambda t, start, end, ramp: start + (end - start) * t
            ),
            "the climb stops before end: divide by ramp first, then hold at 1": (
                lambda t, start, end, ramp: start + (end - start) * t.clamp(max=ramp)
            ),
            "the numbers of (7.3) are typed in: they are start, end − start and 1 / ramp": (
                lambda t, start, end, ramp: 0.5 + 0.25 * (2 * t).clamp(max=1)
            ),
            "end is where beta arrives, not how far it climbs: the climb is end − start": (
                lambda t, start, end, ramp: start + end * (t / ramp).clamp(max=1)
            ),
            "start and end are swapped: beta must grow": lambda t, start, end, ramp: (
                end + (start - end) * (t / ramp).clamp(max=1)
            ),
            "start is missing": lambda t, start, end, ramp: (end - start) * (t / ramp).clamp(max=1),
        },
        gradient=False,
    ),
}

EXERCISES_08 = {
    "distillm2": Exercise(
        answer=_distillm2,
        first_step="½ [(1−β)·mean SKL(y_t, alpha_t) + β·mean SRKL(y_s, alpha_s)].",
        cases=tuple((scored(seed), scored(seed + 1), *_ALPHAS, 0.7) for seed in (3, 5)),
        mistakes={
            "the responses are in each other's slot: SKL reads the teacher's (tgo), SRKL the student's": (
                lambda tgo, sgo, a, b, beta: _distillm2(sgo, tgo, a, b, beta)
            ),
            "the alphas are swapped: alpha_t belongs to SKL, alpha_s to SRKL": (
                lambda tgo, sgo, a, b, beta: _distillm2(tgo, sgo, b, a, beta)
            ),
            "responses and alphas are both swapped: SKL reads tgo with alpha_t": (
                lambda tgo, sgo, a, b, beta: _distillm2(sgo, tgo, b, a, beta)
            ),
            "the directions are swapped: SKL is for the teacher's responses, SRKL for the student's": (
                lambda tgo, sgo, a, b, beta: _distillm2(sgo, tgo, b, a, 1 - beta)
            ),
            "one alpha serves both halves: SKL takes alpha_t, SRKL alpha_s": (
                lambda tgo, sgo, a, b, beta: _distillm2(tgo, sgo, a, a, beta)
            ),
            "the weights are swapped: the push-down gets β, the pull-up 1−β": (
                lambda tgo, sgo, a, b, beta: _distillm2(tgo, sgo, a, b, 1 - beta)
            ),
            "the factor ½ is missing": lambda tgo, sgo, a, b, beta: (
                2 * _distillm2(tgo, sgo, a, b, beta)
            ),
            "beta is not used: both halves weigh the same": lambda tgo, sgo, a, b, beta: _distillm2(
                tgo, sgo, a, b, 0.5
            ),
        },
        gradient=False,
    ),
}

check_06 = checker(EXERCISES_06)
check_07 = checker(EXERCISES_07)
check_08 = checker(EXERCISES_08)
