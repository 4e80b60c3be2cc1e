"""Lesson 04 (DPKD): the pair's weight, the flow of two words, margins while it collapses, the exercises."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from minidistill import divergences as D
from minidistill import logprobs, objectives
from minidistill.config import DistillConfig
from minidistill.evaluation import nll
from minidistill.experiments import toy_kl
from minidistill.experiments.arms import PROTOCOLS
from minidistill.experiments.logs import runs_by_seed
from minidistill.experiments.tuning import searched
from minidistill.generation import decode, sample
from minidistill.lessons import plots
from minidistill.lessons.checks import Exercise, checker, padded_log_ratio, random_pairs
from minidistill.lessons.response_scores import log_ratios
from minidistill.logprobs import collate, response_log_probs
from minidistill.models import Pair
from minidistill.rollouts import Rollouts
from minidistill.tasks import Task

TEACHER = torch.tensor([0.70, 0.25, 0.05]).log()  # teacher's word, student's word, nobody's word
LAMBDAS = (0.03, 0.1, 0.3, 1.0)
STEPS, OVERLAPS = 400, 21


def pair_weight(margin: Tensor, lam: float) -> Tensor:
    r"""(4.2) λ σ(−λΔ), what DPKD's gradient weighs a pair with: ∇L = −weight (∇log q(y_t) − ∇log q(y_s)).

    Δ = log[q(y_t)/p(y_t)] − log[q(y_s)/p(y_s)] in nats, any shape. The teacher is in the weight only.
    """
    return lam * torch.sigmoid(-lam * margin)


def margin(log_q: Tensor, log_p: Tensor) -> Tensor:
    r"""(4.3) Δ = log[q(y_t)/p(y_t)] − log[q(y_s)/p(y_s)], for one-token responses y_t = 0, y_s = 1.

    λΔ is DPKD's implicit reward margin. (..., vocab) log-probabilities → (...) nats.
    """
    ratio = log_q - log_p
    return ratio[..., 0] - ratio[..., 1]


def output_embeddings(overlap: float | Tensor) -> Tensor:
    """Output embeddings of three words, (..., 3 words, 2): what word 3 shares with *not being* word 2.

    The student's only parameters are h, with logits W h. Word 1 = (1, 0), word 2 = (1, 1), word 3 =
    (0, −2 overlap): lowering word 2 along the second axis lifts word 3, the more so the larger the overlap.
    """
    overlap = torch.as_tensor(overlap)
    zero, one = torch.zeros_like(overlap), torch.ones_like(overlap)
    rows = [(one, zero), (one, one), (zero, -2 * overlap)]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def descent_path(loss: Callable, overlap: Tensor, steps: int = STEPS, lr: float = 0.5) -> Tensor:
    """Gradient descent of h from (1, 0.7): log q by step, (steps + 1, runs, 3); a run an overlap."""
    words = output_embeddings(overlap)
    start = torch.tensor([1.0, 0.7]).expand(len(overlap), 2)
    student = lambda h: (words @ h.unsqueeze(-1)).squeeze(-1).log_softmax(-1)  # noqa: E731
    return toy_kl.minimize(
        loss, TEACHER.expand(len(overlap), 3), start, steps, lr, student, torch.optim.SGD
    )


def flow_explorer() -> Callable:
    """A callback `(lam, overlap) → Figure`: log q of the pair under DPKD and under CALD, by step.

    `lam` is one of LAMBDAS.
    """
    overlap = torch.linspace(0, 1, OVERLAPS)
    lams = torch.tensor(LAMBDAS)
    both = overlap.repeat(len(lams))
    weight = lams.repeat_interleave(OVERLAPS)
    runaway = descent_path(lambda p, q: -F.logsigmoid(weight * margin(q, p)), both)
    runaway = runaway.unflatten(1, (len(lams), OVERLAPS))
    steady = descent_path(lambda p, q: (D.skew_kl(p, q) + D.skew_reverse_kl(p, q)) / 2, overlap)

    def picture(lam: float = 1.0, overlap: float = 0.5):
        row = LAMBDAS.index(lam)
        column = round(overlap * (OVERLAPS - 1))
        left, right = plots.axes(2, height=2.7, fast=True, sharey=True)
        title = f"(4.1) DPKD, lambda = {lam:g}, overlap {overlap:.2f}"
        _draw_flow(left, runaway[:, row, column], title)
        _draw_flow(right, steady[:, column], "(5.1) CALD, from the same start")
        left.legend_.remove()
        return left.figure

    return picture


def _draw_flow(ax, path: Tensor, title: str) -> None:
    names = ("y_t (teacher wrote it)", "y_s (student wrote it)", "nobody's word")
    lines = dict(zip(names, path.T, strict=True))
    plots.curves(torch.arange(len(path)), lines, ax, "step", "log q (nats)", title)
    ax.set_ylim(-9, 0.6)
    ax.legend(loc="lower right", bbox_to_anchor=(1.0, 0.08))


def rejected_responses(pair: Pair, task: Task, seed: int, **sampling) -> list[list[int]]:
    """Sample what `initial_sgo` is in a `distill` run of this seed; `sampling` is the run's."""
    config = DistillConfig("dpkd", seed=seed, **sampling)
    rollouts = Rollouts(pair, task, {"initial_sgo": "initial_sgo"}, config)
    rollouts.collect(epoch=0)
    return rollouts.responses["initial_sgo"]


def pair_margins(pair: Pair, prompts, winners, losers) -> Tensor:
    """(4.3) Δ of each pair as the student stands: sequence sums, as in the paper; (pairs,) nats."""
    better, worse = (log_ratios(pair, prompts, ys) for ys in (winners, losers))
    return torch.stack([w.sum() - b.sum() for b, w in zip(better, worse, strict=True)])


class MarginTracker:
    """`distill`'s callback for lesson 04: at each probe the margin of some trained pairs, and answers.

    rows: step, margin (mean Δ over the pairs), NLL on their two sides (nats per token), answers.
    """

    def __init__(
        self, pair: Pair, task: Task, tgo, initial_sgo, asked: Sequence[str], size: int = 64
    ):
        self.pair, self.winners, self.losers = pair, tgo[:size], initial_sgo[:size]
        self.prompts = [pair.encode(example) for example in task.train[:size]]
        self.asked = [pair.encode(text) for text in asked]
        self.rows: list[dict] = []
        self.write(0)

    def __call__(self, history) -> None:
        self.write(history.evals[-1]["step"])

    def write(self, step: int) -> None:
        deltas = pair_margins(self.pair, self.prompts, self.winners, self.losers)
        answers = decode(self.pair, sample(self.pair.student, self.asked, self.pair, temperature=0))
        sides = {"nll_teacher": self.winners, "nll_student": self.losers}
        nlls = {k: nll(self.pair.student, self.pair, self.prompts, ys) for k, ys in sides.items()}
        row = {"step": step, "margin": float(deltas.mean()), "answers": answers}
        self.rows.append({**row, **nlls})


def collapse_step(probes: Sequence[dict], nats: float = 1.0) -> int | None:
    """The first probed step whose NLL on teacher responses exceeds the start by `nats`; None if none."""
    limit = probes[0]["nll_teacher"] + nats
    return next((p["step"] for p in probes if p["nll_teacher"] > limit), None)


def search_by_rate(method: str, folder: Path | None = None) -> dict[float, dict]:
    """Look up the logs of a method's search at its default settings: learning rate → log, lowest first."""
    found = {}
    for run, _ in searched(PROTOCOLS["instruct"], method, folder):
        if not run.arm.method_kwargs:
            found[run.arm.settings["lr"]] = runs_by_seed(run.name, folder)[run.seed]
    return dict(sorted(found.items()))


def gradient_cosines(pair: Pair, prompts, winners, losers) -> Tensor:
    """Cosine of ∇log q(y_t) and ∇log q(y_s) in all of the student's weights, a number a pair: (pairs,)."""
    found = []
    for x, winner, loser in zip(prompts, winners, losers, strict=True):
        one, other = (_flat_gradient(pair, x, y) for y in (winner, loser))
        found.append(F.cosine_similarity(one, other, dim=0))
    return torch.stack(found)


def winner_falls(pair: Pair, prompts, winners, losers) -> Tensor:
    """Whether a small step up log q(y_t) − log q(y_s) would lower log q(y_t), g_t·g_s > ‖g_t‖²: (pairs,)."""
    found = []
    for x, winner, loser in zip(prompts, winners, losers, strict=True):
        one, other = (_flat_gradient(pair, x, y) for y in (winner, loser))
        found.append(one @ other > one @ one)
    return torch.stack(found)


def _flat_gradient(pair: Pair, prompt, response) -> Tensor:
    """∇ Σ_t log q(y_t | x, y_<t) in the student's weights, as one vector."""
    batch = collate([prompt], [response], pair.pad_token_id, pair.device)
    log_q = response_log_probs(pair.student, batch, pair.vocab_size)
    total = log_q.gather(-1, batch.labels.unsqueeze(-1)).sum()
    weights = [w for w in pair.student.parameters() if w.requires_grad]
    return torch.cat([g.flatten() for g in torch.autograd.grad(total, weights)])


def _logsigmoid(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.logsigmoid(x)


def _dpkd_margin(tgo: logprobs.ResponseLogProbs, sgo: logprobs.ResponseLogProbs) -> torch.Tensor:
    winner, loser = (y.sum(y.token_log_q - y.token_log_p) for y in (tgo, sgo))
    return winner - loser


EXERCISES = {
    "dpkd": Exercise(
        answer=lambda tgo, sgo, lam: objectives.dpkd(tgo, sgo, lam=lam),
        first_step="sum log q − log p over each response; λ times the difference; −logsigmoid.",
        cases=random_pairs(0.5, 0.2),
        mistakes={
            "Δ has the wrong sign: the responses are swapped (the teacher's wins), or log p − log q": (
                lambda tgo, sgo, lam: objectives.dpkd(sgo, tgo, lam=lam)
            ),
            "the minus in front is missing: a loss is minimised": lambda tgo, sgo, lam: (
                -objectives.dpkd(tgo, sgo, lam=lam)
            ),
            "these are means over the tokens, as in the released code; sums are asked for": (
                lambda tgo, sgo, lam: objectives.dpkd(tgo, sgo, lam=lam, per_token=True)
            ),
            "padding counts: sum over the response's own tokens, with tgo.sum": lambda tgo, sgo, lam: (
                -_logsigmoid(lam * (padded_log_ratio(tgo) - padded_log_ratio(sgo)))
            ),
            "λ stands outside the sigmoid: it multiplies Δ, inside": lambda tgo, sgo, lam: (
                lam * objectives.dpkd(tgo, sgo, lam=1.0)
            ),
            "lambda is missing": lambda tgo, sgo, lam: objectives.dpkd(tgo, sgo, lam=1.0),
            "the teacher is missing: log q alone, with no log p beside it": lambda tgo, sgo, lam: (
                -_logsigmoid(lam * (tgo.sum(tgo.token_log_q) - sgo.sum(sgo.token_log_q)))
            ),
            "the sigmoid is missing: this is −λΔ, without even a floor for the loss": (
                lambda tgo, sgo, lam: -lam * _dpkd_margin(tgo, sgo)
            ),
        },
    ),
    "pair_weight": Exercise(
        answer=lambda margin, lam: lam * torch.sigmoid(-lam * margin),
        first_step="differentiate −log σ(λΔ) by Δ; the derivative of log σ(x) is σ(−x).",
        cases=((torch.tensor([-4.0, -0.5, 0.3, 2.0]), 0.5), (torch.tensor([1.0, -3.0]), 0.1)),
        mistakes={
            "the sign inside the sigmoid is flipped: pairs already won must weigh less": (
                lambda margin, lam: lam * torch.sigmoid(lam * margin)
            ),
            "the inner derivative λ in front is missing": lambda margin, lam: torch.sigmoid(
                -lam * margin
            ),
            "λ inside the sigmoid is missing": lambda margin, lam: lam * torch.sigmoid(-margin),
            "this is the loss itself; its slope is asked for": lambda margin, lam: (
                -_logsigmoid(lam * margin)
            ),
        },
        gradient=False,
    ),
}
check = checker(EXERCISES)
