"""The exercises that `checks.check` knows: the right function, inputs, and the usual wrong ones.

An exercise is data. To add one, write an entry in EXERCISES; a test then asks that every mistake
differs from the answer and from the other mistakes, and gets its own hint.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from minidistill import divergences as D
from minidistill import generation, objectives, scoring

NEG_INF = float("-inf")


@dataclass(frozen=True)
class Exercise:
    """`answer` is the library's; `cases` are ordinary inputs, `edges` the ones that break naive code.

    `mistakes` maps a hint to the function that makes that mistake. With `gradient`, the gradient in
    the last tensor of each case must agree too.
    """

    answer: Callable
    first_step: str
    cases: tuple
    mistakes: dict[str, Callable]
    edges: dict[str, tuple] = field(default_factory=dict)
    gradient: bool = True


def _distributions(*settings, vocab: int = 5) -> tuple:
    """Two ordinary cases (log_p, log_q, *settings) of three tokens each."""
    generator = torch.Generator().manual_seed(1)
    draw = torch.randn(2, 2, 3, vocab, generator=generator).log_softmax(-1)
    return tuple((*pair, *settings) for pair in draw)


def _log(*probabilities: float) -> torch.Tensor:
    return torch.tensor(probabilities).log()


def _gap(size: float) -> torch.Tensor:
    """Three tokens, the last two `size` below the first on the logit scale."""
    return torch.tensor([0.0, -size, -size]).log_softmax(-1)


CASES = _distributions()
ZERO = {
    "a token that the teacher never says (log p = −inf)": (_log(0.5, 0.5, 0), _log(0.2, 0.3, 0.5))
}
FAR = {"a token 120 nats below the others": (_gap(120), _gap(120), 0.1)}
IMPOSSIBLE = {"a token that the teacher never says": (_log(0.5, 0.5, 0), _log(0.2, 0.3, 0.5), 0.1)}


def _mask(*lengths: int, width: int = 4) -> torch.Tensor:
    return torch.arange(width) < torch.tensor(lengths).unsqueeze(-1)


def _pick(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    return logits.log_softmax(-1).gather(-1, ids.unsqueeze(-1)).squeeze(-1)


def _scored(seed: int) -> scoring.Scored:
    """Two responses of 3 and 2 tokens over 5 words, as teacher and student see them."""
    draw = torch.randn(2, 2, 3, 5, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)
    labels = torch.zeros(2, 3, dtype=torch.long)
    return scoring.Scored(labels, _mask(3, 2, width=3), draw[0], lambda: draw[1])


def _logsigmoid(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.logsigmoid(x)


def _dpkd_margin(tgo: scoring.Scored, sgo: scoring.Scored) -> torch.Tensor:
    winner, loser = (y.sum(y.token_log_q - y.token_log_p) for y in (tgo, sgo))
    return winner - loser


def _written_margin(tgo: scoring.Scored, sgo: scoring.Scored, alpha: float) -> torch.Tensor:
    from minidistill.pairing import written_margin  # not on top: it needs matplotlib

    return written_margin(tgo, sgo, alpha)


def _prob_mixture(log_a, log_b, alpha):
    return alpha * log_a.exp() + (1 - alpha) * log_b.exp()


# Teachers sure and unsure, at bars that tell ε² from ε·exp(−H) and the rule from each slip.
_ROWS = (
    ([[0.09, 0.24, 0.52, 0.15], [0.28, 0.09, 0.44, 0.19], [0.09, 0.76, 0.10, 0.05]], 0.3),
    ([[0.62, 0.30, 0.07, 0.01], [0.30, 0.27, 0.23, 0.20]], 0.5),
)


def _words(probabilities) -> torch.Tensor:
    return torch.tensor(probabilities)


def _typical_bar(p: torch.Tensor, epsilon: float) -> torch.Tensor:
    return epsilon * (-torch.special.entr(p).sum(-1, keepdim=True)).exp()


EXERCISES = {
    "kl": Exercise(
        answer=D.kl,
        first_step="p is log_p.exp(); weigh log_p − log_q by it and sum over the last axis.",
        cases=CASES,
        mistakes={
            "this is KL(q‖p): you swapped teacher and student": D.reverse_kl,
            "the sign is flipped: it is log p − log q, not log q − log p": lambda p, q: -D.kl(p, q),
            "you averaged over the vocabulary (nn.KLDivLoss does so by default): sum": lambda p, q: (
                (p.exp() * (p - q)).mean(-1)
            ),
            "the weight must be p = log_p.exp(), not log_p": lambda p, q: (p * (p - q)).sum(-1),
            "the logarithm is missing: you compared probabilities, not their logs": lambda p, q: (
                p.exp() * (p.exp() - q.exp())
            ).sum(-1),
            "this is the cross-entropy −Σ p log q: the teacher's entropy is missing": lambda p, q: (
                -(p.exp() * q).sum(-1)
            ),
        },
        edges=ZERO,
    ),
    "jsd": Exercise(
        answer=D.jsd,
        first_step="m = β p + (1−β) q as probabilities; then two KLs, each against log m.",
        cases=_distributions(0.3),
        mistakes={
            "beta is the wrong way round: it weighs the teacher": lambda p, q, b: D.jsd(
                p, q, 1 - b
            ),
            "both KLs are turned: each asks for KL(· ‖ m), with m on the right": lambda p, q, b: (
                b * D.kl(D.log_mixture(p, q, b), p) + (1 - b) * D.kl(D.log_mixture(p, q, b), q)
            ),
            "m always mixes half and half in yours: it needs beta too": lambda p, q, b: (
                b * D.kl(p, D.log_mixture(p, q, 0.5)) + (1 - b) * D.kl(q, D.log_mixture(p, q, 0.5))
            ),
            "the two KLs need the weights beta and 1 − beta": lambda p, q, b: (
                D.kl(p, D.log_mixture(p, q, b)) + D.kl(q, D.log_mixture(p, q, b))
            ),
            "the weights on the two KLs are swapped: beta belongs to KL(p‖m)": lambda p, q, b: (
                (1 - b) * D.kl(p, D.log_mixture(p, q, b)) + b * D.kl(q, D.log_mixture(p, q, b))
            ),
            "m is mixed from log-probabilities: mix p and q, then take the log": lambda p, q, b: (
                b * D.kl(p, b * p + (1 - b) * q) + (1 - b) * D.kl(q, b * p + (1 - b) * q)
            ),
        },
    ),
    "kl_gradient": Exercise(
        answer=lambda log_p, log_q: log_q.exp() - log_p.exp(),
        first_step="log q = z − logsumexp(z): differentiate −Σ p log q by one logit z_v.",
        cases=CASES,
        mistakes={
            "the sign is flipped: that is the direction of descent, −∇": lambda p, q: (
                p.exp() - q.exp()
            ),
            "this is the gradient in q itself: go on through the softmax": lambda p, q: (
                -(p - q).exp()
            ),
            "you left out what the normaliser logsumexp(z) contributes": lambda p, q: -p.exp(),
            "probabilities are wanted, not log-probabilities": lambda p, q: q - p,
        },
        gradient=False,
    ),
    "log_mixture": Exercise(
        answer=D.log_mixture,
        first_step="log(α a) = log α + log a; torch.logaddexp adds two numbers given by their logs.",
        cases=_distributions(0.3),
        mistakes={
            "alpha and 1 − alpha are swapped: alpha belongs to the first": lambda a, b, alpha: (
                D.log_mixture(a, b, 1 - alpha)
            ),
            "you mixed the logs: that is a geometric mean, and it does not sum to 1": lambda a, b, alpha: (
                alpha * a + (1 - alpha) * b
            ),
            "the mixture is right; its logarithm is asked for": _prob_mixture,
        },
        edges=FAR,
    ),
    "skew_reverse_kl": Exercise(
        answer=D.skew_reverse_kl,
        first_step="the mixture is (1−α) p + α q: mostly teacher. Then KL(q ‖ mixture).",
        cases=_distributions(0.2),
        mistakes={
            "this is SKL: in SRKL the student stands on the left": lambda p, q, a: D.skew_kl(
                p, q, a
            ),
            "alpha and 1 − alpha are swapped: alpha belongs to the student": lambda p, q, a: (
                D.skew_reverse_kl(p, q, 1 - a)
            ),
            "the mixture is on the wrong side: it belongs on the right of ‖": lambda p, q, a: D.kl(
                D.log_mixture(q, p, a), q
            ),
            "the left side must be the student, not the teacher": lambda p, q, a: D.kl(
                p, D.log_mixture(q, p, a)
            ),
            "the student inside your mixture is detached: right value, wrong gradient": lambda p, q, a: (
                D.skew_reverse_kl(p, q, a, detach_mixture=True)
            ),
        },
        edges=IMPOSSIBLE,
    ),
    "skew_kl_gradient": Exercise(
        answer=lambda log_p, log_q, alpha: (
            -(1 - alpha) * (log_p - D.log_mixture(log_p, log_q, alpha)).exp()
        ),
        first_step="q stands once, inside log(α p + (1−α) q): use the chain rule there.",
        cases=_distributions(0.2),
        mistakes={
            "the inner derivative 1 − alpha is missing": lambda p, q, a: (
                -(p - D.log_mixture(p, q, a)).exp()
            ),
            "the sign is flipped: more q makes SKL smaller": lambda p, q, a: (
                (1 - a) * (p - D.log_mixture(p, q, a)).exp()
            ),
            "this is KL's gradient −p/q: divide by the mixture": lambda p, q, a: -(p - q).exp(),
            "the inner derivative is 1 − alpha, not alpha": lambda p, q, a: (
                -a * (p - D.log_mixture(p, q, a)).exp()
            ),
        },
        gradient=False,
    ),
    "masked_mean": Exercise(
        answer=scoring.masked_mean,
        first_step="padding counts 0 in the sum, and only real tokens count in the denominator.",
        cases=(
            (torch.tensor([[1.0, 2.0, 6.0, 9.0], [4.0, 7.0, 5.0, 3.0]]), _mask(3, 1)),
            (torch.tensor([[2.0, 5.0, 8.0], [3.0, 1.0, 7.0]]), _mask(2, 1, width=3)),
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
        edges={"a response with no tokens": (torch.ones(1, 2), _mask(0, width=2))},
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
    "cald": Exercise(
        answer=lambda tgo, sgo, a: objectives.cald(tgo, sgo, alpha=a),
        first_step="½ [mean of SKL on the teacher's responses + mean of SRKL on the student's].",
        cases=tuple((_scored(seed), _scored(seed + 1), 0.1) for seed in (3, 5)),
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
    "dpkd": Exercise(
        answer=lambda tgo, sgo, lam: objectives.dpkd(tgo, sgo, lam=lam),
        first_step="sum log q − log p over each response; λ times the difference; −logsigmoid.",
        cases=tuple((_scored(seed), _scored(seed + 1), 0.5) for seed in (3, 5)),
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
    "typical": Exercise(
        answer=lambda p, epsilon: generation.typical(epsilon)(p),
        first_step="the bar is min(ε², ε·exp(−H)), one for each row; torch.special.entr gives −p log p.",
        cases=tuple((_words(row), epsilon) for row, epsilon in _ROWS),
        mistakes={
            "the larger of the two bars is taken: the smaller one decides": lambda p, e: (
                p > torch.clamp(_typical_bar(p, e), min=e**2)
            ),
            "the first bar is ε², not ε": lambda p, e: p > torch.clamp(_typical_bar(p, e), max=e),
            "the bar ε² alone decides: the entropy is missing, or its sign is flipped": lambda p, e: (
                p > e**2
            ),
            "the test is turned round: what is *likelier* than the bar stays": lambda p, e: (
                ~(generation.typical(e)(p))
            ),
        },
        gradient=False,
    ),
    "corrected": Exercise(
        answer=lambda p, q, stays: generation.corrected(p, q, lambda _: stays),
        first_step="kept drafts are q where a word stays; the rest of the mass, 1 − q(A), is the teacher's.",
        cases=tuple(
            (
                _words((0.62, 0.30, 0.07, 0.01)),
                _words((0.15, 0.25, 0.35, 0.25)),
                torch.tensor(stays),
            )
            for stays in ([True, True, False, False], [True, False, True, False])
        ),
        mistakes={
            "teacher and student are swapped: the student drafts, the teacher redoes": (
                lambda p, q, stays: generation.corrected(q, p, lambda _: stays)
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
            "the weight of the teacher is q(A): it should be what is left, 1 − q(A)": (
                lambda p, q, stays: (
                    torch.where(stays, q, 0.0) + torch.where(stays, q, 0.0).sum() * p
                )
            ),
        },
        gradient=False,
    ),
    "written_margin": Exercise(
        answer=_written_margin,
        first_step="D.log_mixture gives q̃ and p̃; gather picks the written word (labels) out of each.",
        cases=tuple((_scored(seed), _scored(seed + 1), 0.3) for seed in (3, 5)),
        mistakes={
            "the responses are swapped: q̃/p is taken on the teacher's, q/p̃ on the student's": (
                lambda tgo, sgo, alpha: _written_margin(sgo, tgo, alpha)
            ),
            "the sign is flipped: the teacher's ratio counts plus, the student's minus": (
                lambda tgo, sgo, alpha: -_written_margin(tgo, sgo, alpha)
            ),
            "there is no mixture in it: this is DPKD's margin, with q for q̃ and p for p̃": (
                lambda tgo, sgo, alpha: _written_margin(tgo, sgo, 0.0)
            ),
            "both mixtures are the wrong way round: q̃ is mostly student, p̃ mostly teacher": (
                lambda tgo, sgo, alpha: _written_margin(tgo, sgo, 1 - alpha)
            ),
            "this sums over the whole vocabulary, −2 · CALD: only the written word is asked for": (
                lambda tgo, sgo, alpha: -2 * objectives.cald(tgo, sgo, alpha=alpha)
            ),
        },
        gradient=False,
    ),
}
