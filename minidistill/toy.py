"""One-context worlds of 80 or 50 tokens: the smallest place where the direction of KL shows.

The setting of Fig 1(a) of DistiLLM-2 (arXiv 2503.07067), which follows *Rethinking KL in Knowledge
Distillation for LLMs* (arXiv 2404.02657). A token is a point on a line, so that a distribution over
the vocabulary is a curve one can look at.
"""

from collections.abc import Callable

import torch
from torch import Tensor

POINTS = torch.arange(80) * 1.25  # 0, 1.25, …, 98.75
LINE = torch.arange(50) * 2.0  # 0, 2, …, 98


def half_gaussian(seeds: int) -> Tensor:
    """The teacher of Fig 1(a), log p: half of N(0, 16²), each point shaken by up to 1 %: (seeds, 80)."""
    shake = torch.stack([_uniform(seed) for seed in range(seeds)])
    return (-((POINTS / 16) ** 2) / 2 + (1 + 0.01 * shake).log()).log_softmax(-1)


def random_logits(seeds: int) -> Tensor:
    """Where the student starts, U[0, 1] logits: (seeds, 80). The same for every divergence."""
    return torch.stack([_uniform(1000 + seed) for seed in range(seeds)])


def two_hills(width: float = 4.0) -> Tensor:
    """log p of 3/8 N(25, width²) + 5/8 N(75, width²) on LINE: (50,)."""
    heights = torch.tensor([[0.375], [0.625]])
    hills = -(((LINE - torch.tensor([[25.0], [75.0]])) / width) ** 2) / 2
    return (heights.log() + hills).logsumexp(0).log_softmax(-1)


def gaussian(shape: Tensor) -> Tensor:
    """log q of one Gaussian on LINE; `shape` (..., 2) holds the mean in tens and the log of the width.

    Tens, because then one learning rate suits both numbers.
    """
    mean, width = 10 * shape[..., :1], shape[..., 1:].exp()
    return (-(((LINE - mean) / width) ** 2) / 2).log_softmax(-1)


def descend(
    divergence: Callable[[Tensor, Tensor], Tensor],
    log_p: Tensor,
    start: Tensor,
    steps: int = 300,
    lr: float = 0.2,
    student: Callable[[Tensor], Tensor] = lambda logits: logits.log_softmax(-1),
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
) -> Tensor:
    """Minimise divergence(log_p, student(parameters)); log q before each step and after the last.

    Rows are runs of their own: `start` (seeds, parameters) → (steps + 1, seeds, vocab).
    """
    parameters = start.clone().requires_grad_()
    descent = optimizer([parameters], lr=lr)
    path = []
    for _ in range(steps):
        log_q = student(parameters)
        path.append(log_q.detach())
        descent.zero_grad()
        divergence(log_p, log_q).sum().backward()
        descent.step()
    return torch.stack([*path, student(parameters).detach()])


def logit_gradient(divergence: Callable, p, q) -> Tensor:
    """d/dz of a divergence on two tokens (this one, all else), where q = sigmoid(z)."""
    p, q = torch.broadcast_tensors(torch.as_tensor(p), torch.as_tensor(q))
    logit = torch.logit(q).requires_grad_()
    log_q = torch.stack([logit, torch.zeros_like(logit)], -1).log_softmax(-1)
    log_p = torch.stack([p, 1 - p], -1).log()
    return torch.autograd.grad(divergence(log_p, log_q).sum(), logit)[0]


def gradient_noise(q: Tensor, drawn_from: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Variance of a one-sample gradient, and the squared length of its mean, exactly: (...) each.

    A token y, drawn with probability `drawn_from`, contributes weight_y (e_y − q) in the logits.
    """
    mean = drawn_from * weight - q * (drawn_from * weight).sum(-1, keepdim=True)
    signal = (mean**2).sum(-1)
    length = 1 - 2 * q + (q**2).sum(-1, keepdim=True)  # |e_y − q|²
    return (drawn_from * weight**2 * length).sum(-1) - signal, signal


def _uniform(seed: int) -> Tensor:
    return torch.rand(len(POINTS), generator=torch.Generator().manual_seed(seed))
