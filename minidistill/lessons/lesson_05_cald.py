"""Lesson 05 (CALD): log ratios of the written tokens, the exercises."""

from torch import Tensor

from minidistill import divergences as D
from minidistill import objectives
from minidistill.lessons.checks import Exercise, checker, pull_up, push_down, random_pairs
from minidistill.logprobs import ResponseLogProbs


def token_log_ratios(responses: ResponseLogProbs) -> Tensor:
    """log p − log q of every token that was written, smallest first: (tokens,)."""
    return (responses.token_log_p - responses.token_log_q)[responses.mask].sort().values


def _pull_ratio(y: ResponseLogProbs, alpha: float, labels: Tensor | None = None) -> Tensor:
    ratio = D.log_mixture(y.log_p, y.log_q, alpha) - y.log_p
    return _written(ratio, y.labels if labels is None else labels)


def _push_ratio(y: ResponseLogProbs, alpha: float, labels: Tensor | None = None) -> Tensor:
    ratio = y.log_q - D.log_mixture(y.log_q, y.log_p, alpha)
    return _written(ratio, y.labels if labels is None else labels)


def _written(log_probs: Tensor, labels: Tensor) -> Tensor:
    return log_probs.gather(-1, labels.unsqueeze(-1)).squeeze(-1)


EXERCISES = {
    "cald": Exercise(
        answer=lambda tgo, sgo, a: objectives.cald(tgo, sgo, alpha=a),
        first_step="½ [mean of SKL on the teacher's responses + mean of SRKL on the student's].",
        cases=random_pairs(0.1, 0.3),
        mistakes={
            "tgo and sgo are swapped, or teacher and student inside both divergences (the same function): "
            "SKL(p, q) reads tgo, SRKL(p, q) reads sgo": (
                lambda tgo, sgo, a: objectives.cald(sgo, tgo, alpha=a)
            ),
            "both terms use SKL: the student's responses take SRKL": lambda tgo, sgo, a: (
                (objectives.skl(tgo, alpha=a) + objectives.skl(sgo, alpha=a)) / 2
            ),
            "both terms use SRKL (that is DistiLLM v1): the teacher's responses take SKL": (
                lambda tgo, sgo, a: objectives.distillm(tgo, sgo, alpha=a)
            ),
            "alpha is not used: this is CALD with plain KL and RKL": lambda tgo, sgo, a: (
                objectives.cald_kl(tgo, sgo)
            ),
            "the factor ½ is missing": lambda tgo, sgo, a: 2 * objectives.cald(tgo, sgo, alpha=a),
            "the push-down is subtracted: SRKL pushes down by being *minimised*, so both terms are added": (
                lambda tgo, sgo, a: (
                    (objectives.skl(tgo, alpha=a) - objectives.srkl(sgo, alpha=a)) / 2
                )
            ),
            "padding counts: a response's mean is over its own tokens, tgo.mean and sgo.mean": (
                lambda tgo, sgo, a: (pull_up(tgo, a).mean(-1) + push_down(sgo, a).mean(-1)) / 2
            ),
            "these are sums over the tokens: each response gives a mean": lambda tgo, sgo, a: (
                (tgo.sum(pull_up(tgo, a)) + sgo.sum(push_down(sgo, a))) / 2
            ),
        },
    ),
    "written_margin": Exercise(
        answer=objectives.implicit_reward_margin,
        first_step="D.log_mixture gives q̃ and p̃; gather picks the written word (labels) out of each.",
        cases=random_pairs(0.3, 0.1),
        mistakes={
            "the responses are swapped: q̃/p is taken on the teacher's, q/p̃ on the student's": (
                lambda tgo, sgo, alpha: objectives.implicit_reward_margin(sgo, tgo, alpha)
            ),
            "the sign is flipped: the teacher's ratio counts plus, the student's minus": (
                lambda tgo, sgo, alpha: -objectives.implicit_reward_margin(tgo, sgo, alpha)
            ),
            "there is no mixture in it: this is DPKD's margin, with q for q̃ and p for p̃": (
                lambda tgo, sgo, alpha: objectives.implicit_reward_margin(tgo, sgo, 0.0)
            ),
            "both mixtures are the wrong way round: q̃ is mostly student, p̃ mostly teacher": (
                lambda tgo, sgo, alpha: objectives.implicit_reward_margin(tgo, sgo, 1 - alpha)
            ),
            "this sums over the whole vocabulary, −2 · CALD: only the written word is asked for": (
                lambda tgo, sgo, alpha: -2 * objectives.cald(tgo, sgo, alpha=alpha)
            ),
            "the two log-ratios are added: this is a margin, one minus the other": (
                lambda tgo, sgo, alpha: (
                    tgo.mean(_pull_ratio(tgo, alpha)) + sgo.mean(_push_ratio(sgo, alpha))
                )
            ),
            "these are sums over the tokens: each response gives a mean": lambda tgo, sgo, alpha: (
                tgo.sum(_pull_ratio(tgo, alpha)) - sgo.sum(_push_ratio(sgo, alpha))
            ),
            "each response is read with the other's labels: gather with its own": (
                lambda tgo, sgo, alpha: (
                    tgo.mean(_pull_ratio(tgo, alpha, sgo.labels))
                    - sgo.mean(_push_ratio(sgo, alpha, tgo.labels))
                )
            ),
        },
    ),
}
check = checker(EXERCISES)
