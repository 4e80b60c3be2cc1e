"""What DistiLLM's adaptive sampler served: fixed, fresh or replayed responses, step by step.

For lesson 03. The sampler is `sources.Replay` (DistiLLM, arXiv 2402.03898); here it is run on φ alone.
"""

from collections.abc import Sequence
from types import SimpleNamespace

import torch
from torch import Tensor

from minidistill import plots
from minidistill.sources import Replay
from minidistill.utils import derive_seed

SERVED = {"fixed": "fixed (the teacher's)", "replayed": "replayed", "fresh": "fresh (student)"}


def served(phi: Sequence[float], batch: int = 8, seed: int = 0, capacity: int = 1000) -> list[str]:
    """(3.9) What `sources.Replay` hands out at each step when φ moves like this, in a run of this seed."""
    replay, kinds, answers = Replay(capacity), [], [[]] * batch
    nobody = SimpleNamespace(student=None)
    for step, value in enumerate(phi):
        replay.phi, replay.served = value, {}
        ask = SimpleNamespace(seed=derive_seed(seed, "step", step), indices=range(batch), pair=nobody,
                              answers=lambda model: answers)  # fmt: skip
        replay.serve(ask, answers, step / len(phi))
        kinds += replay.served
    return kinds


def phi_by_step(log: dict) -> list[float]:
    """φ in force at each step of a `distillm` log, whose probes tell the one of the steps before them."""
    probes = log["evals"]
    gaps = zip(probes, probes[1:], strict=False)
    return [after["phi"] for before, after in gaps for _ in range(before["step"], after["step"])]


def shares(kinds: Sequence[str], window: int = 25) -> dict[str, Tensor]:
    """The share of each kind of mini-batch in every `window` steps: {kind: (windows,)}."""
    parts = [kinds[i : i + window] for i in range(0, len(kinds), window)]
    return {k: torch.tensor([part.count(k) / len(part) for part in parts]) for k in SERVED}


def stack(ax, x, parts: dict[str, Tensor], title: str = ""):
    """Shares on top of each other, fixed at the bottom; each with a hatch of its own."""
    base, looks = torch.zeros(len(x)), plots.styles(list(SERVED.values()))
    for kind, label in SERVED.items():
        top, bar = base + parts[kind], looks[label].bar
        ax.fill_between(x, base, top, label=label, **{"linewidth": 0.5, **bar})
        base = top
    ax.set(ylim=(0, 1), xlim=(float(x[0]), float(x[-1])), ylabel="share of mini-batches")
    ax.set_title(title, loc="left")
    ax.legend(loc="lower left")
    return ax


def sampler_explorer(phi: float = 0.5):
    """(3.9) The sampler at a fixed φ: what it promises at each moment, and what 625 steps get."""
    left, right = plots.axes(2, height=2.9, width=9.0, fast=True)
    t = torch.linspace(0, 1, 51)
    promised = {"fixed": torch.full_like(t, 1 - phi), "fresh": phi * (1 - t), "replayed": phi * t}
    stack(left, t, promised, f"(3.9) phi = {phi:.2f}, a full buffer")
    left.set_xlabel("share of training done")
    found = shares(served([phi] * 625))
    stack(right, torch.linspace(0, 600, 25), found, "(3.9) 625 steps, the buffer empty at first")
    right.set_xlabel("step")
    right.legend_.remove()
    return left.figure
