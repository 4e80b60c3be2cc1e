"""The exercises of lessons 01 and 02: divergences, mixtures and their gradients."""

import torch

from minidistill import divergences as D
from minidistill.checks import Exercise, checker

NEG_INF = float("-inf")


def _distributions(*settings, vocab: int = 5) -> tuple:
    """Two ordinary cases (log_p, log_q, *settings) of three tokens each."""
    generator = torch.Generator().manual_seed(1)
    draw = torch.randn(2, 2, 3, vocab, generator=generator).log_softmax(-1)
    return tuple((*pair, *settings) for pair in draw)


def _log(*probabilities: float) -> torch.Tensor:
    return torch.tensor(probabilities).log()


def _gap(size: float) -> torch.Tensor:
    """Three tokens, the last two `size` below the first on the logit scale."""
    return torch.tensor([0.0, -size, -size]).log_softmax(-1)


CASES = _distributions()
ZERO = {
    "a token that the teacher never says (log p = −inf)": (_log(0.5, 0.5, 0), _log(0.2, 0.3, 0.5))
}
FAR = {"a token 120 nats below the others": (_gap(120), _gap(120), 0.1)}
IMPOSSIBLE = {"a token that the teacher never says": (_log(0.5, 0.5, 0), _log(0.2, 0.3, 0.5), 0.1)}


def _prob_mixture(log_a, log_b, alpha):
    return alpha * log_a.exp() + (1 - alpha) * log_b.exp()


EXERCISES_01 = {
    "kl": Exercise(
        answer=D.kl,
        first_step="p is log_p.exp(); weigh log_p − log_q by it and sum over the last axis.",
        cases=CASES,
        mistakes={
            "this is KL(q‖p): you swapped teacher and student": D.reverse_kl,
            "the sign is flipped: it is log p − log q, not log q − log p": lambda p, q: -D.kl(p, q),
            "you averaged over the vocabulary (nn.KLDivLoss does so by default): sum": lambda p, q: (
                (p.exp() * (p - q)).mean(-1)
            ),
            "the weight must be p = log_p.exp(), not log_p": lambda p, q: (p * (p - q)).sum(-1),
            "the logarithm is missing: you compared probabilities, not their logs": lambda p, q: (
                p.exp() * (p.exp() - q.exp())
            ).sum(-1),
            "this is the cross-entropy −Σ p log q: the teacher's entropy is missing": lambda p, q: (
                -(p.exp() * q).sum(-1)
            ),
        },
        edges=ZERO,
    ),
    "jsd": Exercise(
        answer=D.jsd,
        first_step="m = β p + (1−β) q as probabilities; then two KLs, each against log m.",
        cases=_distributions(0.3),
        mistakes={
            "beta is the wrong way round: it weighs the teacher": lambda p, q, b: D.jsd(
                p, q, 1 - b
            ),
            "both KLs are turned: each asks for KL(· ‖ m), with m on the right": lambda p, q, b: (
                b * D.kl(D.log_mixture(p, q, b), p) + (1 - b) * D.kl(D.log_mixture(p, q, b), q)
            ),
            "m always mixes half and half in yours: it needs beta too": lambda p, q, b: (
                b * D.kl(p, D.log_mixture(p, q, 0.5)) + (1 - b) * D.kl(q, D.log_mixture(p, q, 0.5))
            ),
            "the two KLs need the weights beta and 1 − beta": lambda p, q, b: (
                D.kl(p, D.log_mixture(p, q, b)) + D.kl(q, D.log_mixture(p, q, b))
            ),
            "the weights on the two KLs are swapped: beta belongs to KL(p‖m)": lambda p, q, b: (
                (1 - b) * D.kl(p, D.log_mixture(p, q, b)) + b * D.kl(q, D.log_mixture(p, q, b))
            ),
            "m is mixed from log-probabilities: mix p and q, then take the log": lambda p, q, b: (
                b * D.kl(p, b * p + (1 - b) * q) + (1 - b) * D.kl(q, b * p + (1 - b) * q)
            ),
        },
    ),
    "kl_gradient": Exercise(
        answer=lambda log_p, log_q: log_q.exp() - log_p.exp(),
        first_step="log q = z − logsumexp(z): differentiate −Σ p log q by one logit z_v.",
        cases=CASES,
        mistakes={
            "the sign is flipped: that is the direction of descent, −∇": lambda p, q: (
                p.exp() - q.exp()
            ),
            "this is the gradient in q itself: go on through the softmax": lambda p, q: (
                -(p - q).exp()
            ),
            "you left out what the normaliser logsumexp(z) contributes": lambda p, q: -p.exp(),
            "probabilities are wanted, not log-probabilities": lambda p, q: q - p,
        },
        gradient=False,
    ),
}

EXERCISES_02 = {
    "log_mixture": Exercise(
        answer=D.log_mixture,
        first_step="log(α a) = log α + log a; torch.logaddexp adds two numbers given by their logs.",
        cases=_distributions(0.3),
        mistakes={
            "alpha and 1 − alpha are swapped: alpha belongs to the first": lambda a, b, alpha: (
                D.log_mixture(a, b, 1 - alpha)
            ),
            "you mixed the logs: that is a geometric mean, and it does not sum to 1": lambda a, b, alpha: (
                alpha * a + (1 - alpha) * b
            ),
            "the mixture is right; its logarithm is asked for": _prob_mixture,
        },
        edges=FAR,
    ),
    "skew_reverse_kl": Exercise(
        answer=D.skew_reverse_kl,
        first_step="the mixture is (1−α) p + α q: mostly teacher. Then KL(q ‖ mixture).",
        cases=_distributions(0.2),
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
        cases=_distributions(0.2),
        mistakes={
            "the inner derivative 1 − alpha is missing": lambda p, q, a: (
                -(p - D.log_mixture(p, q, a)).exp()
            ),
            "the sign is flipped: more q makes SKL smaller": lambda p, q, a: (
                (1 - a) * (p - D.log_mixture(p, q, a)).exp()
            ),
            "this is KL's gradient −p/q: divide by the mixture": lambda p, q, a: -(p - q).exp(),
            "the inner derivative is 1 − alpha, not alpha": lambda p, q, a: (
                -a * (p - D.log_mixture(p, q, a)).exp()
            ),
        },
        gradient=False,
    ),
}

check_01 = checker(EXERCISES_01)
check_02 = checker(EXERCISES_02)
