"""Lesson 08 (DistiLLM-2): ROUGE-L against seconds, the exercise."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from minidistill import objectives
from minidistill.lessons import plots
from minidistill.lessons.checks import Exercise, checker, pull_up, push_down, random_log_probs


def draw_cost(ax, logs: Sequence[dict], names: Mapping[str, str], title: str = ""):
    """ROUGE-L at the end against seconds of training, a point a seed; `names` are arms and labels."""
    looks = plots.styles(list(names.values()))
    for name, label in names.items():
        style = looks[label]
        runs = [log for log in logs if log["run"]["name"] == name]
        seconds = [log["train_seconds"] for log in runs]
        rouge = [log["scores"]["rouge_l"] for log in runs]
        ax.plot(seconds, rouge, style.marker, color=style.color, label=label)
        ax.plot(np.mean(seconds), np.mean(rouge), style.marker, color=style.color, markersize=11,
                markerfacecolor="none", markeredgewidth=2)  # fmt: skip
    ax.set(xlabel="seconds of training", ylabel="ROUGE-L", xlim=(0, None))
    ax.set_title(title, loc="left", fontsize=10.5)
    ax.legend(fontsize=8.5)
    return ax


def _distillm2(tgo, sgo, alpha_t, alpha_s, beta: float) -> torch.Tensor:
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
