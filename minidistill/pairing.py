"""Which direction for whose responses: forces, Remark 1, a grid of runs, convergence. Lesson 05."""

from collections.abc import Callable, Sequence
from statistics import mean

import torch
from torch import Tensor

from minidistill import divergences as D
from minidistill import plots
from minidistill.experiments.run_configs import ALPHAS, BETAS
from minidistill.rollouts import Rollouts
from minidistill.scoring import Scored

METRICS = ("rouge_l", "accuracy")
TITLE, LIMITS = "(5.1) CALD: ROUGE-L, mean of two seeds", (0.635, 0.675)


def read_both(pair, task, config) -> dict[str, Scored]:
    """One teacher and one student response to each training prompt, as both models see them."""
    rollouts = Rollouts(pair, task, {"tgo": "tgo", "sgo": "sgo"}, config)
    rollouts.collect(0)
    with torch.no_grad():
        return rollouts.score(list(range(len(task.train))))


def written_gaps(responses: Scored) -> Tensor:
    """log p − log q of every token that was written, smallest first: (tokens,)."""
    return (responses.token_log_p - responses.token_log_q)[responses.mask].sort().values


def force(responses: Scored, divergence: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """−∂/∂z of a divergence at the token that was written, z the student's logits: (tokens,).

    Positive: the token is pulled up. One number a written token, in the order of the mask.
    """
    logits = responses.log_q.detach().clone().requires_grad_()
    value = divergence(responses.log_p, logits.log_softmax(-1))
    (gradient,) = torch.autograd.grad(value[responses.mask].sum(), logits)
    return -gradient.gather(-1, responses.labels.unsqueeze(-1)).squeeze(-1)[responses.mask]


def skl_force(responses: Scored, alpha: float = 0.1) -> Tensor:
    """`force` of SKL_α (2.2): what CALD's first half does to a written token."""
    return force(responses, lambda log_p, log_q: D.skew_kl(log_p, log_q, alpha))


def srkl_force(responses: Scored, alpha: float = 0.1) -> Tensor:
    """`force` of SRKL_α (2.3): what CALD's second half does to a written token."""
    return force(responses, lambda log_p, log_q: D.skew_reverse_kl(log_p, log_q, alpha))


def by_seed(logs: Sequence[dict], name: str) -> tuple[list[int], list[list[float]]]:
    """Steps, and ROUGE-L on the way for each seed of an arm: (steps), (seeds, steps)."""
    curves = [log["curve"] for log in logs if log["run"]["name"] == name]
    return [p["step"] for p in curves[0]], [[p["rouge_l"] for p in curve] for curve in curves]


def draw_convergence(ax, logs: Sequence[dict], names: dict[str, str], title: str = ""):
    """ROUGE-L by step, median and range over seeds; `names` are arms and what to call them."""
    steps, lines = [], {}
    for name, called in names.items():
        steps, lines[called] = by_seed(logs, name)
    return plots.curves(steps, lines, ax, "step", "ROUGE-L", title, band=(0, 100))


def grid_means(logs: Sequence[dict], metric: str = "rouge_l") -> dict[tuple[float, float], float]:
    """(α, β) → mean over seeds, for the runs of `CALD_SWEEP` that are there."""
    found: dict[tuple[float, float], list[float]] = {}
    for log in logs:
        hyper = log["run"]["config"]["method_kwargs"]
        place = hyper["alpha"], hyper["beta"]
        found.setdefault(place, []).append(log["scores"][metric])
    return {place: mean(values) for place, values in found.items()}


def grid_explorer(logs: Sequence[dict]) -> Callable:
    """A callback `(alpha, beta) → Figure` over the grid of real runs: places counted from 0."""
    means = {metric: grid_means(logs, metric) for metric in METRICS}
    runs = {}
    for log in logs:
        hyper = log["run"]["config"]["method_kwargs"]
        runs.setdefault((hyper["alpha"], hyper["beta"]), log["evals"])

    def picture(alpha: int = 2, beta: int = 2):
        left, right = plots.axes(2, height=2.9, width=9.0, fast=True)
        here = ALPHAS[alpha], BETAS[beta]
        table = [[means["rouge_l"][a, b] for b in BETAS] for a in ALPHAS]
        names = {"xlabel": "beta: weight of the push-down", "ylabel": "alpha", "title": TITLE}
        plots.number_grid(table, ALPHAS, BETAS, left, LIMITS, frame=(alpha, beta), **names)
        shown = {"cald": runs[0.1, 0.5], "this place": runs[here]}
        plots.nll_curves(shown, "nll_teacher", right)
        right.set_ylim(0.4, 1.2)
        graded = means["accuracy"][here]
        right.set_title(f"alpha {here[0]:g}, beta {here[1]:g}: accuracy {graded:.3f}", loc="left")
        return left.figure

    return picture
