"""Intervals of a mean: by the bootstrap for a few seeds, by the normal law for many prompts."""

from collections.abc import Sequence

import torch
from torch import Tensor

Z = 1.96  # half the width of a 95 % interval in standard errors


def bootstrap_interval(values: Tensor, draws: int = 4000) -> tuple[float, float]:
    """Return the bootstrap 95 % interval of the mean of `values` (n,), one a seed."""
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randint(len(values), (draws, len(values)), generator=generator)
    low, high = values[chosen].mean(1).quantile(values.new_tensor([0.025, 0.975])).tolist()
    return low, high


def normal_interval(scores: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean and the ends of its 95 % interval, mean ± 1.96 · s / √n (s with n − 1)."""
    values = torch.as_tensor(scores, dtype=torch.float64)
    half = Z * float(values.std()) / len(values) ** 0.5
    return float(values.mean()), float(values.mean()) - half, float(values.mean()) + half
