"""The toy experiment of claim C1: KL and RKL on one context of 80 tokens.

The setting of Fig 1(a) of DistiLLM-2 (arXiv 2503.07067), which follows *Rethinking KL in Knowledge
Distillation for LLMs* (arXiv 2404.02657). A token is a point on a line, so that a distribution over
the vocabulary is a curve one can look at.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from minidistill import divergences as D
from minidistill.experiments.logs import write_run
from minidistill.runlog import environment_info

POINTS = torch.arange(80) * 1.25  # 0, 1.25, …, 98.75
RUNS = {"toy_kl": "kl", "toy_rkl": "reverse_kl"}  # each with its divergence
SEEDS = 20
STEPS = 5


def half_gaussian(seeds: int) -> Tensor:
    """Draw the teacher of Fig 1(a), log p: half of N(0, 16²), each point with noise of 1 %: (seeds, 80)."""
    noise = torch.stack([_uniform(seed) for seed in range(seeds)])
    return (-((POINTS / 16) ** 2) / 2 + (1 + 0.01 * noise).log()).log_softmax(-1)


def random_logits(seeds: int) -> Tensor:
    """Draw where the student starts, U[0, 1] logits: (seeds, 80). The same for every divergence."""
    return torch.stack([_uniform(1000 + seed) for seed in range(seeds)])


def minimize(
    divergence: Callable[[Tensor, Tensor], Tensor],
    log_p: Tensor,
    start: Tensor,
    steps: int = 300,
    lr: float = 0.2,
    student: Callable[[Tensor], Tensor] = lambda logits: logits.log_softmax(-1),
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
) -> Tensor:
    """Minimize divergence(log_p, student(parameters)); log q before each step and after the last.

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


def run_toy(folder: Path) -> None:
    """Log the mass in the head (first 10 of 80 tokens) and in the tail (from 46) after five steps."""
    log_p, start = half_gaussian(SEEDS), random_logits(SEEDS)
    for name, divergence in RUNS.items():
        after = minimize(getattr(D, divergence), log_p, start, STEPS)[-1].exp()
        for seed in range(SEEDS):
            head, tail = after[seed, :10].sum().item(), after[seed, 46:].sum().item()
            run = {"name": name, "seed": seed, "steps": STEPS}
            content = {"run": run, "scores": {"head": head, "tail": tail}, "seconds": 0.0}
            write_run(folder / f"toy-{name}-{seed}.json", {**content, **environment_info()})


def _uniform(seed: int) -> Tensor:
    return torch.rand(len(POINTS), generator=torch.Generator().manual_seed(seed))
