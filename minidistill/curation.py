"""Whose words to train on: drafts that two models write together, over epsilon. Lesson 06."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import mean

import torch
from torch import Tensor

from minidistill import plots
from minidistill.config import DistillConfig
from minidistill.divergences import total_variation
from minidistill.evaluation import nll
from minidistill.generation import corrected, decode, typical
from minidistill.rollouts import Rollouts
from minidistill.scoring import collate, response_log_probs
from minidistill.tasks import Task

WORDS = ("barn", "shed", "moon", "zebra")
TEACHER, STUDENT = (0.62, 0.30, 0.07, 0.01), (0.15, 0.25, 0.35, 0.25)


def distances(p: Tensor, q: Tensor, epsilons: Sequence[float]) -> dict[str, list[float]]:
    """TV of (6.2) to the teacher and to the student at each epsilon; `p`, `q` (vocab,)."""
    spoken = [corrected(p, q, typical(epsilon)).log() for epsilon in epsilons]
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
        said = corrected(p, q, typical(epsilon))
        shown = {"teacher": p, "student": q, "mixture": said}
        stays = typical(epsilon)(p).tolist()
        names = [
            f"{word}\nstays" if kept else word for word, kept in zip(WORDS, stays, strict=True)
        ]
        plots.token_bars(shown, names, left, title=f"(6.2) epsilon = {epsilon:.2f}")
        left.set_ylim(0, 0.8)
        plots.curves(grid, lines, right, "epsilon", "TV of what is said", "(6.2) distance to each")
        right.axvline(epsilon, color=plots.BLACK, linewidth=0.8)
        right.set_ylim(-0.02, 0.75)
        return left.figure

    return picture


class Written:
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
def kept_share(pair, drafts: Written, epsilons: Sequence[float]) -> list[float]:
    """Of the student's words in `drafts`, the share that (6.1) lets stay at each epsilon (T = 1)."""
    batch = collate(drafts.prompts, drafts.ids, pair.pad_id, pair.device)
    p = response_log_probs(pair.teacher, batch, pair.vocab).exp()
    word = batch.labels.unsqueeze(-1)
    stays = [typical(epsilon)(p).gather(-1, word).squeeze(-1) for epsilon in epsilons]
    return [float(kept[batch.mask].float().mean()) for kept in stays]


def write_all(pair, task: Task, epsilons: Sequence[float], seed: int = 0) -> dict[str, Written]:
    """One response a prompt from each source: both models, both together, references, best of eight."""
    config = DistillConfig(seed=seed)
    found = {name: Written(pair, task, name, config) for name in ("tgo", "best_tgo", "reference")}
    for epsilon in epsilons:
        mixed = Written(pair, task, "mixed", replace(config, epsilon=epsilon))
        found[f"epsilon {epsilon:g}"] = mixed
    return {"sgo": Written(pair, task, "sgo", config), **found}


def differences(results: dict, ax=None, title: str = "", xlabel: str = "ROUGE-L minus CALD's"):
    """A row a contrast: one point a seed, the interval of the mean as a line. `results` by name."""
    ax = plots.axes() if ax is None else ax
    ax.axvline(0, color=plots.BLACK, linewidth=0.8)
    plots.seed_points({name: result.values for name, result in results.items()}, ax, xlabel, title)
    ax.locator_params(axis="x", nbins=5)
    for row, result in enumerate(results.values()):
        ax.plot([result.low, result.high], [row + 0.22] * 2, color=plots.BLACK, linewidth=2.5)
    return ax
