"""Lesson 06 (data curation): speculative mixing on four words and on real responses, the exercises."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import mean

import torch
from torch import Tensor

from minidistill import generation
from minidistill.config import DistillConfig
from minidistill.divergences import total_variation
from minidistill.evaluation import nll
from minidistill.generation import decode, speculative_mixture, typical_acceptance
from minidistill.lessons import plots
from minidistill.lessons.checks import Exercise, checker
from minidistill.logprobs import collate, response_log_probs
from minidistill.rollouts import Rollouts
from minidistill.tasks import Task

WORDS = ("barn", "shed", "moon", "zebra")
TEACHER, STUDENT = (0.62, 0.30, 0.07, 0.01), (0.15, 0.25, 0.35, 0.25)


def distances(p: Tensor, q: Tensor, epsilons: Sequence[float]) -> dict[str, list[float]]:
    """TV of (6.2) to the teacher and to the student at each epsilon; `p`, `q` (vocab,)."""
    spoken = [speculative_mixture(p, q, typical_acceptance(epsilon)).log() for epsilon in epsilons]
    return {
        "teacher": [float(total_variation(p.log(), log)) for log in spoken],
        "student": [float(total_variation(q.log(), log)) for log in spoken],
    }


def epsilon_explorer(p: Sequence[float] = TEACHER, q: Sequence[float] = STUDENT) -> Callable:
    """A callback `(epsilon,) → Figure`: four words, who may stay, and what is said next (6.2)."""
    p, q = torch.tensor(p), torch.tensor(q)
    grid = torch.linspace(0, 1, 101).tolist()
    lines = distances(p, q, grid)

    def picture(epsilon: float = 0.5):
        left, right = plots.axes(2, height=2.9, width=9.0, fast=True)
        said = speculative_mixture(p, q, typical_acceptance(epsilon))
        shown = {"teacher": p, "student": q, "next word": said}
        stays = typical_acceptance(epsilon)(p).tolist()
        names = [
            f"{word}\nstays" if kept else word for word, kept in zip(WORDS, stays, strict=True)
        ]
        plots.token_bars(shown, names, left, title=f"(6.2) the next word, ε = {epsilon:.2f}")
        left.set_ylim(0, 0.8)
        plots.curves(grid, lines, right, "epsilon", "TV of the next word", "(6.2) distance to each")
        right.axvline(epsilon, color=plots.BLACK, linewidth=0.8)
        right.set_ylim(-0.02, 0.75)
        return left.figure

    return picture


class SourceSample:
    """Training responses of one source, decoded, with what each model thinks of them."""

    def __init__(self, pair, task: Task, source: str, config: DistillConfig):
        rollouts = Rollouts(pair, task, {"tgo": source}, config)
        rollouts.collect(0)
        self.prompts, self.ids = rollouts.prompts, rollouts.responses[source]
        self.texts = decode(pair, self.ids)
        grades = [task.grade(e, y) for e, y in zip(task.train, self.texts, strict=True)]
        self.right = mean(float(grade >= 1) for grade in grades)
        self.nll_teacher_model = nll(pair.teacher, pair, rollouts.prompts, self.ids)
        self.nll_student_model = nll(pair.student, pair, rollouts.prompts, self.ids)


@torch.no_grad()
def acceptance_by_epsilon(pair, drafts: SourceSample, epsilons: Sequence[float]) -> list[float]:
    """Of the student's words in `drafts`, the share that (6.1) lets stay at each epsilon (T = 1)."""
    batch = collate(drafts.prompts, drafts.ids, pair.pad_token_id, pair.device)
    p = response_log_probs(pair.teacher, batch, pair.vocab_size).exp()
    word = batch.labels.unsqueeze(-1)
    stays = [typical_acceptance(epsilon)(p).gather(-1, word).squeeze(-1) for epsilon in epsilons]
    return [float(kept[batch.mask].float().mean()) for kept in stays]


def sample_all_sources(
    pair, task: Task, epsilons: Sequence[float], seed: int = 0, **sampling
) -> dict[str, SourceSample]:
    """One response a prompt from each source: both models, both together, references, best of eight."""
    config = DistillConfig(seed=seed, **sampling)
    found = {
        name: SourceSample(pair, task, name, config)
        for name in ("tgo", "best_of_n_tgo", "reference")
    }
    for epsilon in epsilons:
        mixed = SourceSample(pair, task, "speculative_mix", replace(config, epsilon=epsilon))
        found[f"epsilon {epsilon:g}"] = mixed
    return {"sgo": SourceSample(pair, task, "sgo", config), **found}


# Teachers sure and unsure, at bars that tell ε² from ε·exp(−H) and the rule from each slip.
_ROWS = (
    ([[0.09, 0.24, 0.52, 0.15], [0.28, 0.09, 0.44, 0.19], [0.09, 0.76, 0.10, 0.05]], 0.3),
    ([[0.62, 0.30, 0.07, 0.01], [0.30, 0.27, 0.23, 0.20]], 0.5),
)


def _words(probabilities) -> torch.Tensor:
    return torch.tensor(probabilities)


def _typical_bar(p: torch.Tensor, epsilon: float) -> torch.Tensor:
    return epsilon * (-torch.special.entr(p).sum(-1, keepdim=True)).exp()


_P = ((0.62, 0.30, 0.07, 0.01), (0.20, 0.35, 0.05, 0.40))
_Q = ((0.15, 0.25, 0.35, 0.25), (0.45, 0.15, 0.30, 0.10))


def _rejected(q: torch.Tensor, stays: torch.Tensor) -> torch.Tensor:
    return 1 - torch.where(stays, q, 0.0).sum(-1, keepdim=True)


def _normalised(mass: torch.Tensor) -> torch.Tensor:
    return mass / mass.sum(-1, keepdim=True)


EXERCISES = {
    "typical": Exercise(
        answer=lambda p, epsilon: generation.typical_acceptance(epsilon)(p),
        first_step="the bar is min(ε², ε·exp(−H)), one for each row; torch.special.entr gives −p log p.",
        cases=tuple((_words(row), epsilon) for row, epsilon in _ROWS),
        mistakes={
            "the larger of the two bars is taken: the smaller one decides": lambda p, e: (
                p > torch.clamp(_typical_bar(p, e), min=e**2)
            ),
            "ε² is not in your bar, or stands there as ε: the smaller of ε² and ε·exp(−H) decides": (
                lambda p, e: p > _typical_bar(p, e)
            ),
            "a word that lies on the bar stays in yours: it must be above it, > and not ≥": (
                lambda p, e: p >= _typical_bar(p, e).clamp(max=e**2)
            ),
            "the entropy is summed over all rows: each row has its own": lambda p, e: (
                p > (e * (-torch.special.entr(p).sum()).exp()).clamp(max=e**2)
            ),
            "the bar ε² alone decides: the entropy is missing, or its sign is flipped": lambda p, e: (
                p > e**2
            ),
            "the test is turned round: what is *likelier* than the bar stays": lambda p, e: (
                ~(generation.typical_acceptance(e)(p))
            ),
        },
        edges={
            "a word of probability 0 (p·log p is NaN there; torch.special.entr says 0)": (
                _words([[0.5, 0.5, 0.0]]),
                0.5,
            ),
        },
        gradient=False,
    ),
    "corrected": Exercise(
        answer=lambda p, q, stays: generation.speculative_mixture(p, q, lambda _: stays),
        first_step="kept drafts are q where a word stays; the rest of the mass, 1 − q(A), is the teacher's.",
        cases=tuple(
            (_words(p), _words(q), torch.tensor(stays))
            for p, q, stays in (
                (_P[0], _Q[0], [True, True, False, False]),
                (_P, _Q, [[True, False, True, False], [False, True, True, False]]),
            )
        ),
        mistakes={
            "teacher and student are swapped: the student drafts, the teacher redoes": (
                lambda p, q, stays: generation.speculative_mixture(q, p, lambda _: stays)
            ),
            "the teacher redoes with all its mass: weigh it with the chance of a rejection": (
                lambda p, q, stays: torch.where(stays, q, 0.0) + p
            ),
            "what is rejected goes only to words that may not stay: the teacher may say any word": (
                lambda p, q, stays: torch.where(stays, q, p)
            ),
            "kept drafts are renormalised: a rejected draft is redone by the teacher, not forgotten": (
                lambda p, q, stays: torch.where(stays, q, 0.0) / torch.where(stays, q, 0.0).sum()
            ),
            "this is the residual of speculative *sampling*, max(0, p − q), which restores p: here the "
            "teacher redoes with all of p": lambda p, q, stays: (
                torch.where(stays, q, 0.0) + _rejected(q, stays) * _normalised((p - q).clamp(min=0))
            ),
            "the teacher redoes only with words that may not stay: it may say any word": (
                lambda p, q, stays: (
                    torch.where(stays, q, 0.0)
                    + _rejected(q, stays) * _normalised(torch.where(stays, 0.0, p))
                )
            ),
            "1 − q(A) is taken over all rows at once: each row has its own (keepdim=True)": (
                lambda p, q, stays: torch.where(stays, q, 0.0) + (1 - q[stays].sum()) * p
            ),
            "the weight of the teacher is q(A): it should be what is left, 1 − q(A)": (
                lambda p, q, stays: (
                    torch.where(stays, q, 0.0) + torch.where(stays, q, 0.0).sum() * p
                )
            ),
        },
        gradient=False,
    ),
}

check = checker(EXERCISES)
