"""A lenient target: what typical acceptance gains in accepted drafts, and what it costs."""

from dataclasses import dataclass
from statistics import mean

import torch
from torch import Tensor

from minidistill import divergences as D
from minidistill.applications.acceptance import Counts, expected_counts, see
from minidistill.applications.speculative import Rule, typical_rule
from minidistill.evaluation import nll
from minidistill.generation import decode, sample, speculative_drafts, typical
from minidistill.models import Pair
from minidistill.tasks import Task


def stay_under(rule: Rule, p: Tensor, q: Tensor, labels: Tensor) -> Tensor:
    """(13.6) for any rule: q(y)·keep(y) of the chance with which y comes out. (..., vocab), (...) → (...)."""
    out = rule.said(p, q)
    stayed = torch.where(out > 0, q * rule.keep(p, q) / out, 0.0)
    return stayed.gather(-1, labels.unsqueeze(-1)).squeeze(-1).clamp(max=1)


@dataclass(frozen=True)
class Lenient:
    """What one ε does to responses: drafts that stay, and how far from the target's own they are.

    `distance`: the mean TV between what is said and the target, token by token; `nll`: the target's,
    nats a token; `right`: share of the full grade.
    """

    epsilon: float | None
    counts: Counts
    distance: float
    nll: float
    right: float


def lenient(
    pair: Pair, task: Task, epsilon: float | None, *, draft_length: int = 4, seed: int = 0
) -> Lenient:
    """One response to each held-out prompt under typical acceptance; None is the target's own, exactly.

    The responses come from `generation.speculative_drafts`, which says what `speculate` would say
    under `typical_rule(epsilon)`, many prompts at a time.
    """
    prompts = [pair.encode(example) for example in task.test]
    if epsilon is None:
        written = sample(pair.teacher, prompts, pair, seed=seed)
    else:
        written = speculative_drafts(prompts, pair, typical(epsilon), draft=draft_length, seed=seed)
    seen = see(pair, prompts, written, rows=len(prompts))
    p, q, distance = seen.log_p.exp(), seen.log_q.exp(), 0.0
    stay = seen.stay
    if epsilon is not None:
        rule = typical_rule(epsilon)
        stay = stay_under(rule, p, q, seen.labels)
        distance = float(D.total_variation(rule.said(p, q).log(), seen.log_p)[seen.mask].mean())
    texts = decode(pair, written)
    right = [task.grade(e, y) >= 1 for e, y in zip(task.test, texts, strict=True)]
    return Lenient(
        epsilon,
        expected_counts(stay, seen.mask, draft_length),
        distance,
        nll(pair.teacher, pair, prompts, written),
        mean(right),
    )
