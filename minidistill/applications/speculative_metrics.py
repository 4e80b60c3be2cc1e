r"""Acceptance rate, tokens a call, speed-up of a draft model: chances and counts in closed form.

Everything here is computed from the log-probabilities of both models on responses that the target has
written: no new sampling for another draft length, and no noise but that of the responses.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from minidistill import divergences as D
from minidistill.applications.speculative import SpeculativeOutput
from minidistill.logprobs import collate, response_log_probs
from minidistill.models import Pair


def acceptance(log_p: Tensor, log_q: Tensor) -> Tensor:
    r"""(13.3) The chance that a drafted token stays: Σ_v q(v)·min(1, p(v)/q(v)) = 1 − TV(p, q).

    That is Σ_v min(p(v), q(v)), the mass that both share.
    (..., vocab) log-probabilities of target and draft → (...).
    """
    return 1 - D.total_variation(log_p, log_q)


def tokens_per_call(rate: Tensor | float, draft_length: int) -> Tensor:
    r"""(13.4) Tokens that one pass of the target yields: 1 + a + … + a^γ = (1 − a^{γ+1}) / (1 − a).

    `rate` is a, the chance that a drafted token stays, taken as the same for all of them and
    independent; any shape. The sum, unlike the fraction, knows that a = 1 gives γ + 1.
    """
    D.check_unit_interval("rate", rate)
    rate = torch.as_tensor(rate, dtype=torch.float64)
    return torch.stack([rate**i for i in range(draft_length + 1)]).sum(0)


def speed_up(rate: Tensor | float, draft_length: int, cost: float, reading: float = 1.0) -> Tensor:
    r"""(13.7) How much faster than the target alone: (1 − a^{γ+1}) / ((1 − a)(γ c + r)).

    `cost` c: a pass of the draft in passes of the target over one token. `reading` r: a pass of the
    target over γ + 1 tokens in the same unit; Leviathan et al. take it as 1.
    """
    return tokens_per_call(rate, draft_length) / (draft_length * cost + reading)


def posterior_acceptance(log_p: Tensor, log_q: Tensor, labels: Tensor) -> Tensor:
    r"""(13.5) The chance that y_t is a draft that stayed, given that it came out: min(1, q(y_t)/p(y_t)).

    By Bayes: y is drafted and stays with chance q(y)·min(1, p(y)/q(y)), and comes out with p(y).
    (..., tokens, vocab) log-probabilities twice, (..., tokens) ids → (..., tokens).
    """
    log_p, log_q = (log.gather(-1, labels.unsqueeze(-1)).squeeze(-1) for log in (log_p, log_q))
    return (log_q - log_p).clamp(max=0).exp()


@dataclass(frozen=True)
class Counts:
    """Sums over responses. `reached`, `stayed`: of the drafted tokens at each place of a draft."""

    tokens: float
    calls: float
    drafted: float
    reached: tuple[float, ...]
    stayed: tuple[float, ...]

    @property
    def acceptance(self) -> float:
        """Accepted of drafted: what the paper's Table 10 prints beside the speed-up."""
        return sum(self.stayed) / max(self.drafted, 1e-12)

    @property
    def rate(self) -> float:
        """Accepted of tested: an estimate of a in (13.4)."""
        return sum(self.stayed) / max(sum(self.reached), 1e-12)

    @property
    def tokens_per_call(self) -> float:
        return self.tokens / self.calls


def expected_counts(
    stay: Tensor, mask: Tensor, draft_length: int, max_new_tokens: int = 48
) -> Counts:
    r"""(13.6) What `speculate` would have counted on these responses, in expectation, for one draft length.

    Let s_t be the chance that a round starts at token t: s_0 = 1. It tests the γ tokens from there on;
    the first that does not stay (13.5) the target writes itself, and the next round starts behind it,
    s_{t+i+1} += s_t · stay_t … stay_{t+i−1} · (1 − stay_{t+i}), or behind all γ and one more if all stay.
    `stay`, `mask` (responses, tokens) → sums over the responses.
    """
    rows, width = stay.shape
    starts = torch.zeros(rows, width + draft_length + 2, dtype=torch.float64)
    starts[:, 0] = 1
    stay, inside = stay.double(), mask.double()
    drafted, reached = 0.0, torch.zeros(2, draft_length, dtype=torch.float64)
    for t in range(width):
        alive = starts[:, t] * inside[:, t]
        starts[:, t] = alive
        ahead = min(draft_length, max_new_tokens - t - 1)
        drafted += float(alive.sum()) * ahead
        for i in range(min(ahead, width - t)):
            alive = alive * inside[:, t + i]  # a response that has ended tests nothing more
            kept = alive * stay[:, t + i]
            reached[:, i] += torch.stack([alive.sum(), kept.sum()])
            starts[:, t + i + 1] += alive - kept
            alive = kept
        starts[:, t + ahead + 1] += alive
    tested, stayed = reached.tolist()
    return Counts(
        float(inside.sum()), float(starts[:, :width].sum()), drafted, tuple(tested), tuple(stayed)
    )


def count_rounds(written: Sequence[SpeculativeOutput], draft_length: int) -> Counts:
    """The same sums from responses that `speculate` wrote."""
    rounds = [r for w in written for r in w.rounds]
    return Counts(
        float(sum(len(r.tokens) for r in rounds)),
        float(len(rounds)),
        float(sum(len(r.drafted) for r in rounds)),
        tuple(float(sum(r.tested > i for r in rounds)) for i in range(draft_length)),
        tuple(float(sum(r.kept > i for r in rounds)) for i in range(draft_length)),
    )


@dataclass(frozen=True)
class ScoredResponses:
    """Responses of the target as both models see them; what all numbers above are made of."""

    log_p: Tensor
    log_q: Tensor
    labels: Tensor
    mask: Tensor

    @property
    def overlap(self) -> float:
        """(13.3) in the mean over all tokens."""
        return float(acceptance(self.log_p, self.log_q)[self.mask].mean())

    @property
    def stay(self) -> Tensor:
        return posterior_acceptance(self.log_p, self.log_q, self.labels)

    def counts(self, draft_length: int, max_new_tokens: int = 48) -> Counts:
        return expected_counts(self.stay, self.mask, draft_length, max_new_tokens)


@torch.no_grad()
def score_responses(
    pair: Pair, prompts: Sequence, responses: Sequence, rows: int = 256
) -> ScoredResponses:
    """Both models' log-probabilities on responses of pair.teacher, as token ids."""
    batch = collate(prompts[:rows], responses[:rows], pair.pad_token_id, pair.device)
    log_p, log_q = (
        response_log_probs(m, batch, pair.vocab_size) for m in (pair.teacher, pair.student)
    )
    return ScoredResponses(log_p.cpu(), log_q.cpu(), batch.labels.cpu(), batch.mask.cpu())
