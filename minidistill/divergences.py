"""Divergences between a teacher p and a student q, one number per token.

Every function takes log-probabilities over the vocabulary, `log_p` of the teacher and `log_q` of
the student, both (..., vocab), and returns nats, (...). Nothing here knows about responses, masks
or batches: `logprobs.py` does. All mixing happens in log space, so that a probability of 1e-50 or of
exactly 0 (a logit of -inf) gives the value and the gradient that the formula has.

Sources: DistiLLM-2 (arXiv 2503.07067, section 2) for the skewed forms, GKD (arXiv 2306.13649) for
the generalised Jensen-Shannon divergence.
"""

from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor

NEG_INF = float("-inf")


def of_tokens(function: Callable) -> Callable:
    """Ask `log_q` itself where it is no table but knows how to compute it (`scale.responses`)."""

    @wraps(function)
    def divergence(log_p, log_q, *settings, **named):
        if own := getattr(log_q, "divergence", None):
            return own(function.__name__, log_p, *settings, **named)
        return function(log_p, log_q, *settings, **named)

    return divergence


@of_tokens
def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    r"""(1.1) KL(p‖q) = Σ_v p(v) log[p(v) / q(v)].

    Asks the student for mass wherever the teacher has some ("pull up", mode averaging).
    (..., vocab) twice → (...) nats; +inf where q forbids a token that p allows.
    Raises ValueError if the shapes differ.
    """
    _check_shapes(log_p, log_q)
    return _relative_entropy(log_p, log_q)


@of_tokens
def reverse_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    r"""(1.2) RKL(p, q) = KL(q‖p) = Σ_v q(v) log[q(v) / p(v)].

    Punishes student mass where the teacher has little ("push down", mode seeking).
    (..., vocab) twice → (...) nats. Raises ValueError if the shapes differ.
    """
    _check_shapes(log_p, log_q)
    return _relative_entropy(log_q, log_p)


@of_tokens
def jsd(log_p: Tensor, log_q: Tensor, beta: float = 0.5) -> Tensor:
    r"""(1.3) JSD_β = β KL(p‖m) + (1−β) KL(q‖m) with m = β p + (1−β) q.

    β weighs the teacher. By the field's convention the end points, where the formula itself is 0,
    stand for its limits after division by β(1−β): β = 0 is KL(p‖q), β = 1 is KL(q‖p).
    (..., vocab) twice → (...) nats. Raises ValueError for β outside [0, 1]. Source: GKD, eq. 1.
    """
    _check_shapes(log_p, log_q)
    check_unit_interval("beta", beta)
    if beta == 0:
        return kl(log_p, log_q)
    if beta == 1:
        return reverse_kl(log_p, log_q)
    log_m = log_mixture(log_p, log_q, beta)
    return beta * _relative_entropy(log_p, log_m) + (1 - beta) * _relative_entropy(log_q, log_m)


@of_tokens
def total_variation(log_p: Tensor, log_q: Tensor) -> Tensor:
    r"""(1.4) TV(p, q) = ½ Σ_v |p(v) − q(v)|, between 0 and 1 (a probability, not nats).

    1 − TV is the chance that speculative decoding accepts a drafted token.
    """
    _check_shapes(log_p, log_q)
    return (log_p.exp() - log_q.exp()).abs().sum(-1) / 2


def log_mixture(log_a: Tensor, log_b: Tensor, alpha: float | Tensor) -> Tensor:
    r"""(2.1) log[α a + (1−α) b], never leaving log space.

    `alpha` is a float or a tensor that broadcasts over (...); 0 gives log b, 1 gives log a, exactly.
    Where a token has no mass in either the result is −inf and its gradient 0.
    """
    alpha = torch.as_tensor(alpha, dtype=log_a.dtype, device=log_a.device).unsqueeze(-1)
    left, right = alpha.log() + log_a, (-alpha).log1p() + log_b
    # logaddexp(-inf, -inf) is -inf forward but NaN backward, hence a `where` on both sides of it.
    empty = (left == NEG_INF) & (right == NEG_INF)
    mixed = torch.logaddexp(left.masked_fill(empty, 0.0), right.masked_fill(empty, 0.0))
    return mixed.masked_fill(empty, NEG_INF)


@of_tokens
def skew_kl(log_p: Tensor, log_q: Tensor, alpha: float | Tensor = 0.1) -> Tensor:
    r"""(2.2) SKL_α(p, q) = KL(p ‖ α p + (1−α) q).

    With a little of the teacher mixed into the student the ratio never exceeds 1/α, so neither the
    value nor the gradient explodes where q is tiny. α = 0 is KL, α = 1 is 0.
    `alpha`: float, or a tensor broadcast over (...), e.g. (batch, 1) for one α a sample.
    (..., vocab) twice → (...) nats, at most −log α. Raises ValueError for α outside [0, 1].
    """
    _check_shapes(log_p, log_q)
    check_unit_interval("alpha", alpha)
    return _relative_entropy(log_p, log_mixture(log_p, log_q, alpha))


@of_tokens
def skew_reverse_kl(
    log_p: Tensor, log_q: Tensor, alpha: float | Tensor = 0.1, detach_mixture: bool = False
) -> Tensor:
    r"""(2.3) SRKL_α(p, q) = KL(q ‖ (1−α) p + α q), (2.4) bounded: SRKL_α ≤ −log α.

    The push down is gentle: a token that the teacher calls impossible costs at most −log α nats.
    `detach_mixture=True` treats the student inside the mixture as a constant, as the released
    DistiLLM-2 code does (DistiLLM v1 does not): the same value, another gradient.
    (..., vocab) twice → (...) nats. Raises ValueError for α outside [0, 1].
    """
    _check_shapes(log_p, log_q)
    check_unit_interval("alpha", alpha)
    inner = log_q.detach() if detach_mixture else log_q
    return _relative_entropy(log_q, log_mixture(inner, log_p, alpha))


def _relative_entropy(log_a: Tensor, log_b: Tensor) -> Tensor:
    """Σ_v a log(a/b) with 0·log 0 = 0; +inf only where b is exactly 0 on a's support."""
    absent, forbidden = log_a == NEG_INF, log_b == NEG_INF
    skip = absent | forbidden
    # A difference that is filled passes no gradient on, so neither ±inf nor inf − inf gets into it.
    ratio = (log_a - log_b).masked_fill(skip, 0.0)
    value = (log_a.exp() * ratio).sum(-1)
    return value.masked_fill((forbidden & ~absent).any(-1), float("inf"))


def _check_shapes(log_p: Tensor, log_q: Tensor) -> None:
    if log_p.shape != log_q.shape:
        raise ValueError(
            "log_p and log_q must have the same shape (..., vocab), "
            f"but log_p is {tuple(log_p.shape)} and log_q is {tuple(log_q.shape)}"
        )


def check_unit_interval(name: str, value: float | Tensor) -> None:
    """Raise ValueError naming the argument, its value and [0, 1]; NaN is out of range too."""
    value = torch.as_tensor(value)
    bad = ~((value >= 0) & (value <= 1))
    if bad.any():
        raise ValueError(f"{name} must lie in [0, 1], but got {value[bad].flatten()[0].item()}")
