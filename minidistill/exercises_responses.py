"""The exercises of lessons 03 to 05: masks, shifts, DPKD and CALD."""

import torch

from minidistill import objectives, scoring
from minidistill.checks import Exercise, checker, mask, scored


def _pick(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    return logits.log_softmax(-1).gather(-1, ids.unsqueeze(-1)).squeeze(-1)


def _logsigmoid(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.logsigmoid(x)


def _dpkd_margin(tgo: scoring.Scored, sgo: scoring.Scored) -> torch.Tensor:
    winner, loser = (y.sum(y.token_log_q - y.token_log_p) for y in (tgo, sgo))
    return winner - loser


EXERCISES_03 = {
    "masked_mean": Exercise(
        answer=scoring.masked_mean,
        first_step="padding counts 0 in the sum, and only real tokens count in the denominator.",
        cases=(
            (torch.tensor([[1.0, 2.0, 6.0, 9.0], [4.0, 7.0, 5.0, 3.0]]), mask(3, 1)),
            (torch.tensor([[2.0, 5.0, 8.0], [3.0, 1.0, 7.0]]), mask(2, 1, width=3)),
        ),
        mistakes={
            "the mask is dropped: padding tokens are averaged too": lambda x, m: x.mean(-1),
            "you divide by the padded width: divide by each response's own length": lambda x, m: (
                x * m
            ).mean(-1),
            "this is the sum: divide by the number of response tokens": scoring.masked_sum,
            "one mean over the whole batch: each response gets a mean of its own": lambda x, m: (
                (x * m).sum(-1) / m.sum() * len(m)
            ),
        },
        edges={"a response with no tokens": (torch.ones(1, 2), mask(0, width=2))},
    ),
    "token_log_probs": Exercise(
        answer=lambda logits, ids: _pick(logits[:, :-1], ids[:, 1:]),
        first_step="the logits in column t speak about the token in column t + 1.",
        cases=tuple(
            (draw, torch.tensor([[0, 1, 2, 3], [3, 0, 4, 1]]))
            for draw in torch.randn(2, 2, 4, 5, generator=torch.Generator().manual_seed(2))
        ),
        mistakes={
            "shifted by one: each logit is compared with the token it has already read": (
                lambda logits, ids: _pick(logits[:, 1:], ids[:, 1:])
            ),
            "shifted the wrong way: logits must look forward, not back": (
                lambda logits, ids: _pick(logits[:, 1:], ids[:, :-1])
            ),
            "these are logits: normalise with log_softmax first": lambda logits, ids: (
                logits[:, :-1].gather(-1, ids[:, 1:, None]).squeeze(-1)
            ),
            "these are probabilities: their logarithms are asked for": lambda logits, ids: _pick(
                logits[:, :-1], ids[:, 1:]
            ).exp(),
        },
    ),
    "first_stop": Exercise(
        answer=lambda ids, stop: ((ids == stop).cumsum(-1) - (ids == stop).long() == 0).sum(-1),
        first_step="a token counts if no stop token stands before it: think of a running count.",
        cases=(
            (torch.tensor([[5, 6, 1, 1, 1], [5, 1, 6, 7, 1], [4, 5, 6, 7, 8]]), 1),
            (torch.tensor([[3, 9, 4, 9, 2, 9], [9, 9, 9, 9, 9, 9]]), 9),
        ),
        mistakes={
            "the stop token itself is left out: it belongs to the response, or nobody learns to stop": (
                lambda ids, stop: ((ids == stop).cumsum(-1) == 0).sum(-1)
            ),
            "you count every token that is not the stop token: cut by position, not by value": (
                lambda ids, stop: (ids != stop).sum(-1)
            ),
            "you cut at the last stop token: what follows the first one is padding or chatter": (
                lambda ids, stop: torch.where(
                    (ids == stop).any(-1),
                    ids.shape[-1] - (ids == stop).flip(-1).int().argmax(-1),
                    ids.shape[-1],
                )
            ),
            "a response without a stop token keeps all its tokens; in yours argmax says 0 there": (
                lambda ids, stop: (ids == stop).int().argmax(-1) + 1
            ),
        },
        gradient=False,
    ),
}

EXERCISES_04 = {
    "dpkd": Exercise(
        answer=lambda tgo, sgo, lam: objectives.dpkd(tgo, sgo, lam=lam),
        first_step="sum log q − log p over each response; λ times the difference; −logsigmoid.",
        cases=tuple((scored(seed), scored(seed + 1), 0.5) for seed in (3, 5)),
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
            "lambda is missing": lambda tgo, sgo, lam: objectives.dpkd(tgo, sgo, lam=1.0),
            "the teacher is missing: log q alone, with no log p beside it": lambda tgo, sgo, lam: (
                -_logsigmoid(lam * (tgo.sum(tgo.token_log_q) - sgo.sum(sgo.token_log_q)))
            ),
            "the sigmoid is missing: this is −λΔ, without even a floor for the loss": (
                lambda tgo, sgo, lam: -lam * _dpkd_margin(tgo, sgo)
            ),
        },
        gradient=False,
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

EXERCISES_05 = {
    "cald": Exercise(
        answer=lambda tgo, sgo, a: objectives.cald(tgo, sgo, alpha=a),
        first_step="½ [mean of SKL on the teacher's responses + mean of SRKL on the student's].",
        cases=tuple((scored(seed), scored(seed + 1), 0.1) for seed in (3, 5)),
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
        answer=objectives.written_margin,
        first_step="D.log_mixture gives q̃ and p̃; gather picks the written word (labels) out of each.",
        cases=tuple((scored(seed), scored(seed + 1), 0.3) for seed in (3, 5)),
        mistakes={
            "the responses are swapped: q̃/p is taken on the teacher's, q/p̃ on the student's": (
                lambda tgo, sgo, alpha: objectives.written_margin(sgo, tgo, alpha)
            ),
            "the sign is flipped: the teacher's ratio counts plus, the student's minus": (
                lambda tgo, sgo, alpha: -objectives.written_margin(tgo, sgo, alpha)
            ),
            "there is no mixture in it: this is DPKD's margin, with q for q̃ and p for p̃": (
                lambda tgo, sgo, alpha: objectives.written_margin(tgo, sgo, 0.0)
            ),
            "both mixtures are the wrong way round: q̃ is mostly student, p̃ mostly teacher": (
                lambda tgo, sgo, alpha: objectives.written_margin(tgo, sgo, 1 - alpha)
            ),
            "this sums over the whole vocabulary, −2 · CALD: only the written word is asked for": (
                lambda tgo, sgo, alpha: -2 * objectives.cald(tgo, sgo, alpha=alpha)
            ),
        },
        gradient=False,
    ),
}

check_03 = checker(EXERCISES_03)
check_04 = checker(EXERCISES_04)
check_05 = checker(EXERCISES_05)
