"""Lesson 05 (CALD): log ratios of the written tokens, the exercises."""

from torch import Tensor

from minidistill import objectives
from minidistill.lessons.checks import Exercise, checker, random_log_probs
from minidistill.logprobs import ResponseLogProbs


def token_log_ratios(responses: ResponseLogProbs) -> Tensor:
    """log p − log q of every token that was written, smallest first: (tokens,)."""
    return (responses.token_log_p - responses.token_log_q)[responses.mask].sort().values


EXERCISES = {
    "cald": Exercise(
        answer=lambda tgo, sgo, a: objectives.cald(tgo, sgo, alpha=a),
        first_step="½ [mean of SKL on the teacher's responses + mean of SRKL on the student's].",
        cases=tuple((random_log_probs(seed), random_log_probs(seed + 1), 0.1) for seed in (3, 5)),
        mistakes={
            "the responses are swapped: SKL reads the teacher's (tgo), SRKL the student's": (
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
        },
        gradient=False,
    ),
    "written_margin": Exercise(
        answer=objectives.implicit_reward_margin,
        first_step="D.log_mixture gives q̃ and p̃; gather picks the written word (labels) out of each.",
        cases=tuple((random_log_probs(seed), random_log_probs(seed + 1), 0.3) for seed in (3, 5)),
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
        },
        gradient=False,
    ),
}
check = checker(EXERCISES)
