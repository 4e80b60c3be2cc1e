"""Lesson 08 (DistiLLM-2): Algorithm 1's batches, the halves' gradients, cost of fresh responses, exercise."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

from minidistill import divergences as D
from minidistill import objectives
from minidistill.lessons import ledger_plots, plots
from minidistill.lessons.checks import Exercise, checker, pull_up, push_down, random_log_probs
from minidistill.logprobs import Batch, ResponseLogProbs, collate
from minidistill.models import Pair
from minidistill.tokenization import length_buckets
from minidistill.utils import derive_seed


# --- Algorithm 1 ----------------------------------------------------------------------------------------
def sampling_seed(seed: int, epoch: int) -> int:
    """Return the seed with which `distill` samples an epoch's responses in a run of `seed`."""
    return derive_seed(seed, "sample", epoch)


def batches(
    pair: Pair, prompts: Sequence, tgo: Sequence, sgo: Sequence, size: int, seed: int, epoch: int
) -> Iterator[tuple[Batch, Batch]]:
    """Yield an epoch's mini-batches as `distill` orders them: (x, y_t) and (x, y_s) of the same prompts."""
    lengths = [len(x) + len(t) + len(s) for x, t, s in zip(prompts, tgo, sgo, strict=True)]
    for rows in length_buckets(lengths, size, derive_seed(seed, "order", epoch)):
        asked = [prompts[i] for i in rows]
        yield tuple(
            collate(asked, [responses[i] for i in rows], pair.pad_token_id, pair.device)
            for responses in (tgo, sgo)
        )


def half_gradients(
    pair: Pair, tgo: ResponseLogProbs, sgo: ResponseLogProbs, alpha: float = 0.1
) -> tuple[Tensor, Tensor]:
    """Differentiate SKL on y_t and SRKL on y_s, each without its weight, in all weights: two vectors."""
    weights = [w for w in pair.student.parameters() if w.requires_grad]
    halves = (
        tgo.mean(D.skew_kl(tgo.log_p, tgo.log_q, alpha)).mean(),
        sgo.mean(D.skew_reverse_kl(sgo.log_p, sgo.log_q, alpha)).mean(),
    )
    grads = [torch.autograd.grad(half, weights, retain_graph=True) for half in halves]
    return tuple(torch.cat([g.flatten() for g in parts]) for parts in grads)


def gradient_explorer(pull: float, push: float, cosine: float) -> Callable:
    """Make a callback `(beta) → Figure`: both halves' gradients of (8.1) as arrows, and their sum.

    Lengths of the unweighted gradients and the cosine between them, as `half_gradients` measures them; drawn
    in the plane that the two span.
    """
    ends = pull * np.array([1.0, 0.0]), push * np.array([cosine, (1 - cosine**2) ** 0.5])
    widest = max(pull, push) / 2

    def picture(beta: float = 0.5):
        ax = plots.axes(height=3.2, width=5.6, fast=True)
        halves = {"skl": (1 - beta) * ends[0] / 2, "srkl": beta * ends[1] / 2}
        halves["both"] = halves["skl"] + halves["srkl"]
        for name, style in plots.styles(list(halves)).items():
            ax.plot(*zip((0, 0), halves[name], strict=True), label=name, **style.line)
            ax.plot(*halves[name], "o", color=style.color)
        x, y = halves["both"]
        turned = np.degrees(np.arctan2(y, x))
        ax.set(
            xlim=(-0.1 * widest, 1.15 * widest), ylim=(-0.1 * widest, 0.8 * widest), aspect="equal"
        )
        ax.set_title(
            f"(8.1) β = {beta:.2f}: length {np.hypot(x, y):.3f}, {turned:.0f}° from SKL's",
            loc="left",
        )
        ax.legend(loc="upper right")
        return ax.figure

    return picture


# --- runs -----------------------------------------------------------------------------------------------
def draw_cost(ax, logs: Mapping[str, Sequence[dict]], names: Mapping[str, str], title: str = ""):
    """Draw accuracy against seconds of training, a point a seed; `names` are arms and labels."""
    for name, style in plots.styles(list(names.values())).items():
        arm = next(arm for arm, called in names.items() if called == name)
        seconds = [log["train_seconds"] for log in logs[arm]]
        right = ledger_plots.scores(logs[arm])
        ax.plot(seconds, right, style.marker, color=style.color, alpha=0.6, label=name)
        ax.plot(np.mean(seconds), np.mean(right), style.marker, color=style.color, markersize=11,
                markerfacecolor="none", markeredgewidth=2)  # fmt: skip
    ax.set(xlabel="seconds of training", ylabel="accuracy (greedy)", xlim=(0, None))
    ax.set_title(title, loc="left")
    ax.legend()
    return ax


def seeds_for(effect: float, deviation: float, level: float = 0.05, power: float = 0.8) -> int:
    """Count the seeds that find a true `effect` in a share `power` of ledgers.

    ((z_{1−a/2} + z_power) · sd / effect)², a the level. `deviation`: standard deviation of the paired
    differences over seeds.
    """
    z = NormalDist().inv_cdf
    return int(np.ceil(((z(1 - level / 2) + z(power)) * deviation / effect) ** 2))


# --- the exercise ---------------------------------------------------------------------------------------
def _distillm2(tgo, sgo, alpha_t, alpha_s, beta: float) -> Tensor:
    return objectives.weighted_cald(tgo, sgo, objectives.TrainState(), alpha_t, alpha_s, beta)


_ALPHAS = (torch.tensor([[0.1], [0.01]]), torch.tensor([[0.02], [0.3]]))

EXERCISES = {
    "distillm2": Exercise(
        answer=_distillm2,
        first_step="½ [(1−β)·mean SKL(y_t, alpha_t) + β·mean SRKL(y_s, alpha_s)].",
        cases=tuple(
            (random_log_probs(seed), random_log_probs(seed + 1), *_ALPHAS, beta)
            for seed, beta in ((3, 0.7), (5, 0.6))
        ),
        mistakes={
            "the responses are in each other's slot: SKL reads the teacher's (tgo), SRKL the student's": (
                lambda tgo, sgo, a, b, beta: _distillm2(sgo, tgo, a, b, beta)
            ),
            "the alphas are swapped: alpha_t belongs to SKL, alpha_s to SRKL": (
                lambda tgo, sgo, a, b, beta: _distillm2(tgo, sgo, b, a, beta)
            ),
            "responses and alphas are both swapped: SKL reads tgo with alpha_t": (
                lambda tgo, sgo, a, b, beta: _distillm2(sgo, tgo, b, a, beta)
            ),
            "the directions are swapped: SKL is for the teacher's responses, SRKL for the student's": (
                lambda tgo, sgo, a, b, beta: _distillm2(sgo, tgo, b, a, 1 - beta)
            ),
            "SRKL reads both sources (that is DistiLLM): the teacher's responses take SKL": (
                lambda tgo, sgo, a, b, beta: (
                    ((1 - beta) * tgo.mean(push_down(tgo, a)) + beta * sgo.mean(push_down(sgo, b)))
                    / 2
                )
            ),
            "these are sums over the tokens: each response gives a mean": (
                lambda tgo, sgo, a, b, beta: (
                    ((1 - beta) * tgo.sum(pull_up(tgo, a)) + beta * sgo.sum(push_down(sgo, b))) / 2
                )
            ),
            "padding counts: a response's mean is over its own tokens, tgo.mean and sgo.mean": (
                lambda tgo, sgo, a, b, beta: (
                    ((1 - beta) * pull_up(tgo, a).mean(-1) + beta * push_down(sgo, b).mean(-1)) / 2
                )
            ),
            "one alpha serves both halves: SKL takes alpha_t, SRKL alpha_s": (
                lambda tgo, sgo, a, b, beta: _distillm2(tgo, sgo, a, a, beta)
            ),
            "the weights are swapped: the push-down gets β, the pull-up 1−β": (
                lambda tgo, sgo, a, b, beta: _distillm2(tgo, sgo, a, b, 1 - beta)
            ),
            "the factor ½ is missing": lambda tgo, sgo, a, b, beta: (
                2 * _distillm2(tgo, sgo, a, b, beta)
            ),
            "beta is not used: both halves weigh the same": lambda tgo, sgo, a, b, beta: _distillm2(
                tgo, sgo, a, b, 0.5
            ),
        },
    ),
}
check = checker(EXERCISES)
