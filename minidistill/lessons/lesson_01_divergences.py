"""Lesson 01 (divergences): two hills, the explorers of Fig 1(a) and of JSD's beta, the exercises."""

import math

import torch
from torch import Tensor

from minidistill import divergences as D
from minidistill.lessons import plots
from minidistill.lessons.checks import Exercise, checker, log_probs_of, random_distributions
from minidistill.lessons.widgets import SMALL

LINE = torch.arange(50) * 2.0  # 0, 2, …, 98


def bimodal(width: float = 4.0) -> Tensor:
    """Return log p of 3/8 N(25, width²) + 5/8 N(75, width²) on LINE: (50,)."""
    heights = torch.tensor([[0.375], [0.625]])
    hills = -(((LINE - torch.tensor([[25.0], [75.0]])) / width) ** 2) / 2
    return (heights.log() + hills).logsumexp(0).log_softmax(-1)


def gaussian(shape: Tensor) -> Tensor:
    """Return log q of one Gaussian on LINE; `shape` (..., 2) holds the mean in tens and the log of the width.

    Tens, because then one learning rate suits both numbers.
    """
    mean, width = 10 * shape[..., :1], shape[..., 1:].exp()
    return (-(((LINE - mean) / width) ** 2) / 2).log_softmax(-1)


TEACHER = torch.tensor([0.60, 0.30, 0.09, 0.01]).log()
STUDENT = torch.tensor([0.20, 0.30, 0.10, 0.40]).log()
TOKENS = ("the", "a", "one", "zebra")


def bimodal_explorer(mean: float = 50.0, width: float = 20.0):
    """A Gaussian student laid over two hills by hand, and what each divergence says of it."""
    log_p, log_q = bimodal(), gaussian(torch.tensor([mean / 10, math.log(width)]))
    left, right = plots.axes(2, **SMALL)
    shown = {"teacher": log_p.exp(), "student": log_q.exp()}
    plots.densities(LINE, shown, left, title=f"student: mean {mean:.0f}, width {width:.0f}")
    left.set_ylim(0, 0.2)
    values = {
        "KL": float(D.kl(log_p, log_q)),
        "RKL": float(D.reverse_kl(log_p, log_q)),
        "JSD": float(D.jsd(log_p, log_q)),
        "TV": float(D.total_variation(log_p, log_q)),
    }
    title = "(1.1) KL, (1.2) RKL, (1.3) JSD, (1.4) TV"
    plots.value_bars(values, right, (0.1, 2000), "nats (TV: a probability)", title)
    return left.figure


def draw_forces(
    ax, q: Tensor, force: Tensor, scale: float = 0.45, longest: float | None = None
) -> None:
    """Draw the force on each logit as an arrow from the top of the student's bar.

    A force of `longest`, or the longest of these, has the length `scale`: give it to compare panels.
    """
    longest = longest or float(force.abs().max())
    for place, (height, push) in enumerate(zip(q.tolist(), force.tolist(), strict=True)):
        x, tip = place + 0.38, height + scale * push / longest
        if abs(tip - height) > 0.01:
            how = {"arrowstyle": "-|>", "color": plots.RED, "lw": 2.2, "mutation_scale": 12}
            ax.annotate("", (x, tip), (x, height), arrowprops=how)
    ax.set_ylim(min(0.0, *(q + scale * force / longest).tolist()) - 0.05, 1.1)


def beta_explorer(beta: float = 0.5):
    """(1.3) Where the mixture m lies, and JSD_β as β moves; the end points are other functions."""
    left, right = plots.axes(2, **SMALL)
    mixture = D.log_mixture(TEACHER, STUDENT, beta).exp()
    shown = {"teacher": TEACHER.exp(), "student": STUDENT.exp(), "mixture": mixture}
    plots.token_bars(shown, TOKENS, left, title=f"m = {beta:.2f} p + {1 - beta:.2f} q")
    left.set_ylim(0, 0.7)
    grid = torch.linspace(0.01, 0.99, 50)
    line = [float(D.jsd(TEACHER, STUDENT, float(b))) for b in grid]
    value = float(D.jsd(TEACHER, STUDENT, beta))
    title = f"(1.3) JSD at beta {beta:.2f} = {value:.3f} nats"
    plots.curves(grid, {"JSD": line}, right, "beta (weight of the teacher)", title=title)
    right.set(ylim=(0, 2.4), xlim=(-0.05, 1.05))
    plots.point(0, float(D.kl(TEACHER, STUDENT)), "KL", right)
    plots.point(1, float(D.reverse_kl(TEACHER, STUDENT)), "RKL", right)
    plots.point(beta, value, "", right)
    return left.figure


NEG_INF = float("-inf")


CASES = random_distributions()
ZERO = {
    "a token that the teacher never says (log p = −inf)": (
        log_probs_of(0.5, 0.5, 0),
        log_probs_of(0.2, 0.3, 0.5),
    )
}


EXERCISES = {
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
        cases=random_distributions(0.3, 0.8),
        mistakes={
            "beta is the wrong way round: it weighs the teacher": lambda p, q, b: D.jsd(
                p, q, 1 - b
            ),
            "both KLs are turned: each asks for KL(· ‖ m), with m on the right": lambda p, q, b: (
                b * D.kl(D.log_mixture(p, q, b), p) + (1 - b) * D.kl(D.log_mixture(p, q, b), q)
            ),
            "beta is not used: this is the JSD of one half, whatever beta is": lambda p, q, b: (
                D.jsd(p, q, 0.5)
            ),
            "m always mixes half and half in yours: it needs beta too": lambda p, q, b: (
                b * D.kl(p, D.log_mixture(p, q, 0.5)) + (1 - b) * D.kl(q, D.log_mixture(p, q, 0.5))
            ),
            "beta is swapped in m alone: m = β p + (1−β) q, with the weights that the KLs have": (
                lambda p, q, b: (
                    b * D.kl(p, D.log_mixture(q, p, b)) + (1 - b) * D.kl(q, D.log_mixture(q, p, b))
                )
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
            "this is RKL's gradient: KL's has no logarithm in it": lambda p, q: (
                q.exp() * (q - p - D.reverse_kl(p, q).unsqueeze(-1))
            ),
            "you left out what the normaliser logsumexp(z) contributes": lambda p, q: -p.exp(),
            "probabilities are wanted, not log-probabilities": lambda p, q: q - p,
        },
        gradient=False,
    ),
}

check = checker(EXERCISES)
