"""What an exercise is, and the two responses that several of them are tried on."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from minidistill import scoring


@dataclass(frozen=True)
class Exercise:
    """`answer` is the library's; `cases` are ordinary inputs, `edges` the ones that break naive code.

    `mistakes` maps a hint to the function that makes that mistake. With `gradient`, the gradient in
    the last tensor of each case must agree too.
    """

    answer: Callable
    first_step: str
    cases: tuple
    mistakes: dict[str, Callable]
    edges: dict[str, tuple] = field(default_factory=dict)
    gradient: bool = True


def mask(*lengths: int, width: int = 4) -> torch.Tensor:
    """True for the first `lengths` tokens of each response."""
    return torch.arange(width) < torch.tensor(lengths).unsqueeze(-1)


def scored(seed: int) -> scoring.Scored:
    """Two responses of 3 and 2 tokens over 5 words, as teacher and student see them."""
    draw = torch.randn(2, 2, 3, 5, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)
    labels = torch.zeros(2, 3, dtype=torch.long)
    return scoring.Scored(labels, mask(3, 2, width=3), draw[0], lambda: draw[1])
