"""Lessons 01 and 02: a mixture of two Gaussians on 50 tokens, gradients on two tokens, their noise.

The 80 tokens of Fig 1(a) are `experiments.toy_kl`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

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


def logit_gradient(divergence: Callable, p, q) -> Tensor:
    """Differentiate a divergence by z on two tokens (this one, all else), where q = sigmoid(z)."""
    p, q = torch.broadcast_tensors(torch.as_tensor(p), torch.as_tensor(q))
    logit = torch.logit(q).requires_grad_()
    log_q = torch.stack([logit, torch.zeros_like(logit)], -1).log_softmax(-1)
    log_p = torch.stack([p, 1 - p], -1).log()
    return torch.autograd.grad(divergence(log_p, log_q).sum(), logit)[0]


def gradient_noise(q: Tensor, drawn_from: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the variance of a one-sample gradient, and the squared length of its mean, exactly: (...) each.

    A token y, drawn with probability `drawn_from`, contributes weight_y (e_y − q) in the logits.
    """
    mean = drawn_from * weight - q * (drawn_from * weight).sum(-1, keepdim=True)
    signal = (mean**2).sum(-1)
    length = 1 - 2 * q + (q**2).sum(-1, keepdim=True)  # |e_y − q|²
    return (drawn_from * weight**2 * length).sum(-1) - signal, signal
