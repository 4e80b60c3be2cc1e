"""The curriculum of DistiLLM-2: an α for each sample, a β that grows. Everything here is detached.

A *gap* is how far one model's confidence in a response exceeds the other's, a difference of
exp(mean token log-prob). For the teacher's responses it is p − q, for the student's q − p: each
divergence then sees the gap that its own logarithm contains. An `AlphaTracker` turns each slot's gaps
into alphas as training goes; the functions have no state.
Source: DistiLLM-2 (arXiv 2503.07067), section 3.3 and Algorithm 1.
"""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from minidistill.divergences import check_unit_interval


def adaptive_alpha(
    gap: Tensor,
    reference_gap: float,
    alpha0: float = 0.1,
    low: float = 0.01,
    high: float = 0.1,
) -> Tensor:
    r"""(7.1) α = clip(1 − (1−α₀)·m / gap, low, high): harder samples get a larger α.

    From the first term of the Mercator series, log(p/q̃) ≈ (1−α)(p−q): this α keeps that product
    at (1−α₀)·m for every sample. `gap` (batch,) → (batch,); `reference_gap` is m, the mean gap.
    The paper leaves m undefined and gaps ≤ 0 aside; here a sample with no gap left to close is easy
    (α = low), and with m ≤ 0 there is no scale yet (α = α₀). Detached.
    """
    for name, value in (("alpha0", alpha0), ("low", low), ("high", high)):
        check_unit_interval(name, value)
    gap = gap.detach()
    if reference_gap <= 0:
        return torch.full_like(gap, alpha0)
    open_gap = gap > 0
    alpha = 1 - (1 - alpha0) * reference_gap / torch.where(open_gap, gap, 1.0)
    return torch.where(open_gap, alpha, low).clip(low, high)


@dataclass
class AlphaTracker:
    """Give each sample its α, and keep what that takes: sum and number of the first epoch's gaps.

    One tracker for each slot of a method (tgo, sgo). The first epoch has no scale yet: its samples get
    α₀ while their gaps are measured. From the second on m stands still and each gets (7.1).
    """

    gap_sum: float = 0.0
    count: int = 0

    @property
    def reference_gap(self) -> float:
        """m, the mean gap over the first epoch."""
        return self.gap_sum / max(self.count, 1)

    def update(self, gap: Tensor, epoch: int, alpha0: float = 0.1, *bounds: float) -> Tensor:
        """α of each sample, (batch,) → (batch,): α₀ in epoch 0, whose gaps are added up, then (7.1)."""
        if epoch > 0:
            return adaptive_alpha(gap, self.reference_gap, alpha0, *bounds)
        self.gap_sum += float(gap.sum())
        self.count += len(gap)
        return gap.new_full(gap.shape, alpha0)

    def state_dict(self) -> dict:
        return asdict(self)

    def load_state_dict(self, state: dict) -> None:
        self.gap_sum, self.count = state["gap_sum"], state["count"]


def exact_alpha(p: Tensor, q: Tensor, reference: float, low: float = 0.01, high: float = 0.1):
    r"""(7.2) The α that solves log p − log[α p + (1−α) q] = c exactly: α = (p e^{−c} − q) / (p − q).

    What (7.1) approximates. `p`, `q` (batch,) probabilities, `reference` is c in nats → (batch,).
    A sample with p ≤ q has no gap to close and takes `low`. Detached.
    """
    for name, value in (("low", low), ("high", high)):
        check_unit_interval(name, value)
    p, q = p.detach(), q.detach()
    open_gap = p > q
    alpha = (p * torch.exp(torch.tensor(-reference, dtype=p.dtype)) - q) / torch.where(
        open_gap, p - q, 1.0
    )
    return torch.where(open_gap, alpha, low).clip(low, high)


def linear_beta(progress: float, start: float = 0.5, end: float = 0.75, ramp: float = 0.5) -> float:
    r"""(7.3) β = start + (end − start)·min(1, progress / ramp): the shape of the released code.

    `progress` in [0, 1] is the share of training done. The defaults are the code's own: β rises from
    0.5 to 0.75 over the first half, then stays. Raises ValueError out of range.
    """
    for name, value in (("progress", progress), ("start", start), ("end", end), ("ramp", ramp)):
        check_unit_interval(name, value)
    return start + (end - start) * (min(1.0, progress / ramp) if ramp > 0 else 1.0)


def paper_beta(epoch: int, epochs: int, step: float, steps: float, start: float = 0.5) -> float:
    r"""(7.4) β = clip(e/E + τ/T, β₀, 1), the paper's Algorithm 1 read literally.

    e of E epochs, τ of T steps in this one, both counted from 1. It reaches 1 (no pull up at all)
    in the first epoch's last step and for the whole of the last epoch.
    """
    check_unit_interval("start", start)
    return min(1.0, max(start, epoch / epochs + step / steps))
