"""Lesson 00 (start here): the schematic of distillation, mini-batches for one's own loop, the exercise."""

import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from matplotlib.axes import Axes
from torch import Tensor

from minidistill import divergences as D
from minidistill.experiments.labels import run_label
from minidistill.experiments.logs import runs_by_seed
from minidistill.experiments.worlds import load_world
from minidistill.lessons import plots
from minidistill.lessons.checks import Exercise, checker, length_mask
from minidistill.logprobs import Batch, collate, masked_mean
from minidistill.models import Pair
from minidistill.tasks import Example
from minidistill.tokenization import length_buckets
from minidistill.utils import derive_seed


def batches(
    pair: Pair, prompts: Sequence, responses: Sequence, epochs: int, size: int, seed: int = 0
) -> Iterator[Batch]:
    """Yield mini-batches of (prompt, response) as `distill` does: similar lengths together, in a new order.

    `size` rows a batch; `seed` is the run's.
    """
    lengths = [len(x) + len(y) for x, y in zip(prompts, responses, strict=True)]
    for epoch in range(epochs):
        for rows in length_buckets(lengths, size, derive_seed(seed, "order", epoch)):
            chosen = [prompts[i] for i in rows], [responses[i] for i in rows]
            yield collate(*chosen, pair.pad_token_id, pair.device)


# --- the schematic --------------------------------------------------------------------------------------
TEACHER, STUDENT, PAPER = plots.ROLES["teacher"].color, plots.ROLES["student"].color, "#f4f4f4"


def schematic(written_by: str = "teacher") -> Axes:
    """Draw who writes, who reads and what is compared; `written_by` is 'teacher' or 'student'."""
    ax = plots.axes(width=8.4, height=3.1)
    ax.set(xlim=(0, 84), ylim=(0, 31))
    ax.axis("off")
    writer = TEACHER if written_by == "teacher" else STUDENT
    name = "$y_t$" if written_by == "teacher" else "$y_s$"
    _box(ax, (1, 12), (13, 7), "prompt\n$x$", "#444444")
    _box(ax, (22, 12), (16, 7), f"the {written_by}\nwrites {name}", writer)
    _box(ax, (46, 21), (17, 7), "teacher reads it\n$p(\\cdot \\mid x, y_{<t})$", TEACHER)
    _box(ax, (46, 3), (17, 7), "student reads it\n$q(\\cdot \\mid x, y_{<t})$", STUDENT)
    _box(ax, (69, 12), (14, 7), "divergence\nat each token", plots.RED)
    for start, end in (
        ((14, 15.5), (22, 15.5)), ((38, 17), (46, 23.5)), ((38, 14), (46, 7.5)),
        ((63, 24), (72, 19.2)), ((63, 7), (72, 11.8)),
    ):  # fmt: skip
        _arrow(ax, start, end, "#444444")
    _arrow(ax, (76, 11.8), (63.4, 4.5), plots.RED, bend=-0.35)
    ax.text(73, 3.2, "gradient:\nto the student alone", color=plots.RED, fontsize=9, va="center")
    return ax


def _box(ax: Axes, corner: tuple, size: tuple, text: str, color: str) -> None:
    from matplotlib.patches import FancyBboxPatch

    style = "round,pad=0.2,rounding_size=1.2"
    ax.add_patch(
        FancyBboxPatch(corner, *size, boxstyle=style, facecolor=PAPER, edgecolor=color, lw=1.8)
    )
    middle = corner[0] + size[0] / 2, corner[1] + size[1] / 2
    ax.text(*middle, text, ha="center", va="center", fontsize=9.5, color="black")


def _arrow(ax: Axes, start: tuple, end: tuple, color: str, bend: float = 0.0) -> None:
    how = {"arrowstyle": "-|>", "color": color, "lw": 1.6, "connectionstyle": f"arc3,rad={bend}"}
    ax.annotate("", end, start, arrowprops=how)


# --- the replay -----------------------------------------------------------------------------------------
def first_logs(names: Sequence[str], folder: Path | None = None) -> dict[str, dict]:
    """Look up the shipped run of each name with seed 0, whose answers were kept at every measurement."""
    return {name: runs_by_seed(name, folder)[0] for name in names}


def training_explorer(logs: dict[str, dict]) -> Callable:
    """Make a callback `(probe, prompt) → Figure` over one seed's runs, for `widgets.explore`.

    `probe` counts the moments of measurement from 0, the start; `prompt` the held-out prompts.
    """
    start, examples = logs["start"], load_world("instruct").test
    runs = {name: log for name, log in logs.items() if "evals" in log}
    curves = {
        name: [start["scores"]["accuracy"], *(row["accuracy"] for row in log["evals"][1:])]
        for name, log in runs.items()
    }

    def picture(probe: int = 0, prompt: int = 0):
        left, words = plots.axes(columns=2, height=3.6, width=9.5, fast=True)
        steps = [row["step"] for row in next(iter(runs.values()))["evals"]]
        plots.curves(steps, curves, left, "step", "accuracy (greedy)", f"step {steps[probe]}")
        left.axvline(steps[probe], color=plots.BLACK, linewidth=0.8)
        said = {name: [start["samples"][-1], *log["samples"]][probe] for name, log in runs.items()}
        _write(
            words,
            examples[prompt],
            {run_label(name): texts[prompt] for name, texts in said.items()},
        )
        return left.figure

    return picture


def _write(ax: Axes, example: Example, answers: dict[str, str]) -> None:
    """Write what was asked and what each student answered, as text in the place of a plot."""
    ax.set_axis_off()
    lines = [f"asked:  {example.prompt}", ""]
    for name, answer in answers.items():
        lines += textwrap.wrap(f"{name}:  {answer}", 58)[:3]
    ax.text(0, 1, "\n".join(lines), va="top", fontsize=8.5, transform=ax.transAxes)


# --- the exercise ---------------------------------------------------------------------------------------
def kd_loss(log_p: Tensor, log_q: Tensor, mask: Tensor) -> Tensor:
    """(3.4) KD: the mean over responses of the mean KL over their tokens; (batch, tokens, vocab) → ()."""
    return masked_mean(D.kl(log_p, log_q), mask).mean()


def _random_batch(seed: int, padding: float | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Two responses of 4 and 2 tokens over 5 words: log_p, log_q, mask."""
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(2, 2, 4, 5, generator=generator).log_softmax(-1)
    if padding is not None:
        draw[:, 1, 2:] = padding
    return draw[0], draw[1], length_mask(4, 2)


EXERCISES = {
    "kd_loss": Exercise(
        answer=kd_loss,
        first_step="at each position sum p · (log p − log q) over the vocabulary, where p = log_p.exp().",
        cases=(_random_batch(3), _random_batch(4)),
        edges={"NaN in a padded place": _random_batch(5, padding=float("nan"))},
        trained=(1,),
        mistakes={
            "teacher and student are swapped: KL(p‖q) weighs the log-ratio with the teacher's p": (
                lambda log_p, log_q, mask: kd_loss(log_q, log_p, mask)
            ),
            "padding counts: only positions where the mask is True belong to a response": (
                lambda log_p, log_q, mask: D.kl(log_p, log_q).mean(-1).mean()
            ),
            "padding adds nothing but still divides: divide by each response's own number of tokens": (
                lambda log_p, log_q, mask: (D.kl(log_p, log_q) * mask).mean()
            ),
            "all tokens are thrown together, so long responses count more: first each response's mean": (
                lambda log_p, log_q, mask: (D.kl(log_p, log_q) * mask).sum() / mask.sum()
            ),
            "these are sums over the tokens: divide each by the response's number of tokens": (
                lambda log_p, log_q, mask: (D.kl(log_p, log_q) * mask).sum(-1).mean()
            ),
            'this is F.kl_div(…, reduction="batchmean"): it adds up all positions, padding too, and divides '
            "by the number of responses alone": (
                lambda log_p, log_q, mask: D.kl(log_p, log_q).sum() / len(mask)
            ),
            "this is the cross-entropy −Σ p log q: KL has Σ p log p besides": (
                lambda log_p, log_q, mask: masked_mean(
                    -(log_p.exp() * log_q).sum(-1), mask
                ).mean()
            ),
            "the mean over the vocabulary is taken: an expectation is a sum with weights p": (
                lambda log_p, log_q, mask: masked_mean(
                    (log_p.exp() * (log_p - log_q)).mean(-1), mask
                ).mean()
            ),
        },
    ),
}  # fmt: skip
check = checker(EXERCISES)
