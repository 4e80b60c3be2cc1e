"""Lesson 02 (skew): the pull and push on one logit as alpha moves, the exercises."""

import torch
from torch import Tensor

from minidistill import divergences as D
from minidistill.lessons import plots
from minidistill.lessons.checks import Exercise, checker, log_probs_of, random_distributions
from minidistill.lessons.response_scores import logit_gradient
from minidistill.lessons.widgets import SMALL


def gradient_noise(q: Tensor, drawn_from: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the variance of a one-sample gradient, and the squared length of its mean, exactly: (...) each.

    A token y, drawn with probability `drawn_from`, contributes weight_y (e_y − q) in the logits.
    """
    mean = drawn_from * weight - q * (drawn_from * weight).sum(-1, keepdim=True)
    signal = (mean**2).sum(-1)
    length = 1 - 2 * q + (q**2).sum(-1, keepdim=True)  # |e_y − q|²
    return (drawn_from * weight**2 * length).sum(-1) - signal, signal


def skew_explorer(alpha: float = 0.1):
    """(2.2), (2.3) How hard one token's logit is pulled or pushed as its probability goes to 0."""
    left, right = plots.axes(2, **SMALL)
    small = torch.logspace(-6, -0.01, 60)
    pull = {"KL": -logit_gradient(D.kl, 0.5, small)}
    pull["SKL"] = -logit_gradient(lambda p, q: D.skew_kl(p, q, alpha), 0.5, small)
    title = f"(2.2) SKL, alpha = {alpha:.2f}, p = 0.5"
    plots.curves(small, pull, left, "student's q of the token", "pull on its logit", title)
    push = {"RKL": logit_gradient(D.reverse_kl, small, 0.5)}
    push["SRKL"] = logit_gradient(lambda p, q: D.skew_reverse_kl(p, q, alpha), small, 0.5)
    title = f"(2.3) SRKL, alpha = {alpha:.2f}, q = 0.5"
    plots.curves(small, push, right, "teacher's p of the token", "push on its logit", title)
    left.set_ylim(-0.55, 0.6)
    right.set_ylim(-1.5, 3.8)
    for ax in (left, right):
        plots.log_axis(ax.xaxis)
    return left.figure


def _gap(size: float) -> torch.Tensor:
    """Three tokens, the last two `size` below the first on the logit scale."""
    return torch.tensor([0.0, -size, -size]).log_softmax(-1)


FAR = {"a token 120 nats below the others": (_gap(120), _gap(120), 0.1)}
IMPOSSIBLE = {
    "a token that the teacher never says": (
        log_probs_of(0.5, 0.5, 0),
        log_probs_of(0.2, 0.3, 0.5),
        0.1,
    )
}


def _prob_mixture(log_a, log_b, alpha):
    return alpha * log_a.exp() + (1 - alpha) * log_b.exp()


def _skew_kl_logit_gradient(log_p, log_q, alpha):
    q = log_q.exp()
    slope = -(1 - alpha) * (log_p - D.log_mixture(log_p, log_q, alpha)).exp()
    return q * (slope - (q * slope).sum(-1, keepdim=True))


EXERCISES = {
    "log_mixture": Exercise(
        answer=D.log_mixture,
        first_step="log(α a) = log α + log a; torch.logaddexp adds two numbers given by their logs.",
        cases=random_distributions(0.3, 0.6),
        mistakes={
            "alpha and 1 − alpha are swapped: alpha belongs to the first": lambda a, b, alpha: (
                D.log_mixture(a, b, 1 - alpha)
            ),
            "you mixed the logs: that is a geometric mean, and it does not sum to 1": lambda a, b, alpha: (
                alpha * a + (1 - alpha) * b
            ),
            "alpha multiplies the logs: a weight on a probability is its log *added*, log α + log a": (
                lambda a, b, alpha: torch.logaddexp(alpha * a, (1 - alpha) * b)
            ),
            "the mixture is right; its logarithm is asked for": _prob_mixture,
        },
        edges=FAR,
    ),
    "skew_reverse_kl": Exercise(
        answer=D.skew_reverse_kl,
        first_step="the mixture is (1−α) p + α q: mostly teacher. Then KL(q ‖ mixture).",
        cases=random_distributions(0.2, 0.05),
        mistakes={
            "this is SKL: in SRKL the student stands on the left": lambda p, q, a: D.skew_kl(
                p, q, a
            ),
            "alpha and 1 − alpha are swapped: alpha belongs to the student": lambda p, q, a: (
                D.skew_reverse_kl(p, q, 1 - a)
            ),
            "the mixture is on the wrong side: it belongs on the right of ‖": lambda p, q, a: D.kl(
                D.log_mixture(q, p, a), q
            ),
            "this is reverse KL without any skew: alpha is not used": lambda p, q, a: D.reverse_kl(
                p, q
            ),
            "the left side must be the student, not the teacher": lambda p, q, a: D.kl(
                p, D.log_mixture(q, p, a)
            ),
            "the student inside your mixture is detached: right value, wrong gradient": lambda p, q, a: (
                D.skew_reverse_kl(p, q, a, detach_mixture=True)
            ),
        },
        edges=IMPOSSIBLE,
    ),
    "skew_kl_gradient": Exercise(
        answer=lambda log_p, log_q, alpha: (
            -(1 - alpha) * (log_p - D.log_mixture(log_p, log_q, alpha)).exp()
        ),
        first_step="q stands once, inside log(α p + (1−α) q): use the chain rule there.",
        cases=random_distributions(0.2, 0.05),
        mistakes={
            "the inner derivative 1 − alpha is missing": lambda p, q, a: (
                -(p - D.log_mixture(p, q, a)).exp()
            ),
            "the sign is flipped: more q makes SKL smaller": lambda p, q, a: (
                (1 - a) * (p - D.log_mixture(p, q, a)).exp()
            ),
            "this is KL's gradient −p/q: divide by the mixture": lambda p, q, a: -(p - q).exp(),
            "this is the gradient in the logits: the one in q itself is asked for, before the softmax": (
                _skew_kl_logit_gradient
            ),
            "alpha and 1 − alpha are swapped throughout: the mixture is mostly student": lambda p, q, a: (
                -a * (p - D.log_mixture(p, q, 1 - a)).exp()
            ),
            "the inner derivative is 1 − alpha, not alpha": lambda p, q, a: (
                -a * (p - D.log_mixture(p, q, a)).exp()
            ),
        },
        gradient=False,
    ),
}
check = checker(EXERCISES)
