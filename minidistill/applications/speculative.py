r"""Speculative sampling: a draft model writes ahead, the target reads it all in one pass and judges it.

    draft q     the   dog   ran   fast        four passes of a small model
    target p    ok    ok    no                one pass of a large one; it draws another word for 'ran'

What comes out has the target's own distribution, exactly, whatever the draft is: only the time
depends on it. Source: Leviathan, Kalman and Matias (arXiv 2211.17192). Both models keep the keys and
values of what they have read; a rejection crops them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from weakref import WeakSet

import torch
from torch import Tensor

from minidistill.generation import (
    check_logits,
    check_sampling,
    top_p_filter,
    truncate_at_eos,
    typical_acceptance,
)
from minidistill.models import Pair
from minidistill.utils import derive_seed


def acceptance_probability(p: Tensor, q: Tensor) -> Tensor:
    r"""(13.1) The chance that a drafted token v stays: min(1, p(v)/q(v)).

    (..., vocab) probabilities of target and draft → (..., vocab). 1 where the draft says nothing:
    such a token is never drafted.
    """
    return torch.where(q > p, p / q, 1.0)


def residual(p: Tensor, q: Tensor) -> Tensor:
    r"""(13.2) Where a rejected token is drawn anew: max(0, p(v) − q(v)) / Σ_w max(0, p(w) − q(w)).

    The target's mass that the draft has not delivered. (..., vocab) probabilities twice → (..., vocab);
    p itself where p = q, from where nothing is ever rejected.
    """
    missing = (p - q).clamp(min=0)
    total = missing.sum(-1, keepdim=True)
    return torch.where(total > 0, missing / total, p)


@dataclass(frozen=True)
class Rule:
    """`keep(p, q)`: each drafted token's chance to stay. `redo(p, q)`: what a rejected one is drawn from."""

    keep: Callable[[Tensor, Tensor], Tensor]
    redo: Callable[[Tensor, Tensor], Tensor]

    def said(self, p: Tensor, q: Tensor) -> Tensor:
        """The distribution of what is said: q·keep + (1 − Σ q·keep)·redo; p, if the rule is exact."""
        kept = q * self.keep(p, q)
        rest = (1 - kept.sum(-1, keepdim=True)).clamp(min=0)  # rounding must not make it negative
        return kept + rest * self.redo(p, q)


EXACT = Rule(acceptance_probability, residual)


def typical_rule(epsilon: float) -> Rule:
    """Typical acceptance (6.1): what the target finds likely enough stays, else it draws. Not exact."""
    accept = typical_acceptance(epsilon)
    return Rule(lambda p, q: accept(p).to(p.dtype), lambda p, q: p)


@dataclass(frozen=True)
class Round:
    """One pass of the target. `own`: the token it drew itself, or None where a kept one ends the response."""

    drafted: tuple[int, ...]
    kept: int
    own: int | None

    @property
    def tokens(self) -> tuple[int, ...]:
        return self.drafted[: self.kept] + (() if self.own is None else (self.own,))

    @property
    def tested(self) -> int:
        """Drafted tokens that were judged at all: up to the first rejected one."""
        return self.kept + (self.own is not None and self.kept < len(self.drafted))


@dataclass(frozen=True)
class SpeculativeOutput:
    """A response, round by round."""

    rounds: tuple[Round, ...]

    @property
    def tokens(self) -> list[int]:
        return [token for r in self.rounds for token in r.tokens]

    @property
    def drafted(self) -> int:
        return sum(len(r.drafted) for r in self.rounds)

    @property
    def accepted(self) -> int:
        return sum(r.kept for r in self.rounds)

    @property
    def tested(self) -> int:
        return sum(r.tested for r in self.rounds)


class CachedModel:
    """A model with the keys and values of the text it has read so far."""

    def __init__(self, model, vocab_size: int, temperature: float, top_p: float):
        from transformers import (
            DynamicCache,  # here, for the models have to import transformers first
        )

        self.model, self.vocab_size, self.how = model, vocab_size, (temperature, top_p)
        self.cache = (
            DynamicCache()
        )  # without the config: all tokens, also where the model looks at a window
        known = signature(model.forward).parameters
        self.name = "cache" if "cache" in known else "past_key_values"  # before transformers 5.24

    def ahead(self, text: Sequence[int], last: int = 1) -> Tensor:
        """Compute the next-token distribution after each of the last `last` tokens: (last, vocab)."""
        new = torch.tensor([text[self.cache.get_seq_length() :]], device=self.model.device)
        cached = {self.name: self.cache, "use_cache": True}
        logits = self.model(input_ids=new, logits_to_keep=last, **cached).logits
        finite = check_logits(logits[0, -last:, : self.vocab_size].float(), [0] * last)
        return next_token(finite, *self.how)

    def forget(self, length: int) -> None:
        """All but the first `length` tokens."""
        beyond = self.cache.get_seq_length() - length
        if beyond > 0:
            self.cache.crop(-beyond)


_ROLLED_BACK: WeakSet = WeakSet()  # models that have been seen to do it


@torch.no_grad()
def check_rollback(model) -> None:
    """Raise ValueError for a model that cannot forget what it has read: a recurrent state keeps it.

    Three tokens, read at once and read again after a wrong third one was taken back, must say the same.
    """
    if model in _ROLLED_BACK:
        return
    readers = [CachedModel(model, 8, 1.0, 1.0) for _ in range(2)]
    try:
        plain = readers[0].ahead([1, 2, 3])
        readers[1].ahead([1, 2, 0])
        readers[1].forget(2)
        same = torch.allclose(readers[1].ahead([1, 2, 3]), plain, atol=1e-3)
    except FloatingPointError:
        raise
    except Exception:  # a cache of another kind refuses in its own way
        same = False
    if not same:
        kind = model.config.model_type
        raise ValueError(
            f"speculative decoding takes drafted tokens back, and a model of kind {kind!r} cannot forget them"
        )
    _ROLLED_BACK.add(model)


@torch.no_grad()
def speculate(
    pair: Pair, prompt: Sequence[int], *, draft_length: int = 4, rule: Rule = EXACT,
    max_new_tokens: int = 48, temperature: float = 1.0, top_p: float = 1.0, seed: int = 0,
) -> SpeculativeOutput:  # fmt: skip
    """One response of pair.teacher, drafted by pair.student; 0 drafted tokens are plain sampling.

    Temperature (0 is greedy) and nucleus are applied to both models, so that p and q of (13.1) are
    what is sampled from. Ends with the first stop token, which belongs to it, or after
    `max_new_tokens`; no draft reaches beyond that, but one may beyond a stop token, as the draft does
    not look. ValueError for numbers that cannot be.
    """
    check_sampling(temperature, top_p)
    _check(pair, prompt, draft_length, max_new_tokens)
    models, was_training = (pair.teacher, pair.student), pair.student.training
    pair.student.eval()
    for model in models:
        check_rollback(model)
    target, draft = (CachedModel(model, pair.vocab_size, temperature, top_p) for model in models)
    rng = torch.Generator(device=pair.device).manual_seed(derive_seed(seed, "speculate"))
    text, end, rounds = list(prompt), len(prompt) + max_new_tokens, []
    while len(text) < end and not (rounds and text[-1] in pair.eos_token_ids):
        drafted, q = draft_tokens(draft, text, min(draft_length, end - len(text) - 1), rng)
        p = target.ahead([*text, *drafted], len(drafted) + 1)
        kept, own = verify(p, q, drafted, rule, rng)
        new = truncate_at_eos([*drafted[:kept], own], pair.eos_token_ids)
        rounds.append(Round(tuple(drafted), min(kept, len(new)), own if len(new) > kept else None))
        text += new
        for reader in (target, draft):
            reader.forget(len(text) - 1)  # nobody has read the last one
    pair.student.train(was_training)
    return SpeculativeOutput(tuple(rounds))


def draft_tokens(
    draft: CachedModel, text: list[int], length: int, rng
) -> tuple[list[int], list[Tensor]]:
    """`length` tokens that the draft model adds to `text`, and the distributions they were drawn from."""
    drafted, q = [], []
    for _ in range(length):
        q.append(draft.ahead([*text, *drafted])[0])
        drafted.append(draw(q[-1], rng))
    return drafted, q


def verify(
    p: Tensor, q: Sequence[Tensor], drafted: Sequence[int], rule: Rule, rng
) -> tuple[int, int]:
    """Verify drafted tokens: how many are accepted, and the target's own next one (redrawn, or for free).

    `p` (drafted + 1, vocab): the target's distributions, one more than `q` has of the draft's.
    """
    for i, token in enumerate(drafted):
        if torch.rand((), generator=rng, device=p.device) >= rule.keep(p[i], q[i])[token]:
            return i, draw(rule.redo(p[i], q[i]), rng)
    return len(drafted), draw(p[-1], rng)


def next_token(logits: Tensor, temperature: float, top_p: float) -> Tensor:
    """Probabilities to sample from: (..., vocab). Temperature 0 puts all on the likeliest token."""
    if temperature == 0:
        return torch.zeros_like(logits).scatter(-1, logits.argmax(-1, keepdim=True), 1.0)
    return top_p_filter(logits / temperature, top_p)


def draw(probs: Tensor, rng) -> int:
    """One token id from (vocab,) probabilities."""
    return int(torch.multinomial(probs, 1, generator=rng))


def _check(pair: Pair, prompt: Sequence[int], draft_length: int, max_new_tokens: int) -> None:
    for name, value, least in (
        ("draft_length", draft_length, 0),
        ("max_new_tokens", max_new_tokens, 1),
    ):
        if not (isinstance(value, int) and value >= least):
            raise ValueError(f"{name} must be a whole number from {least}, but got {value}")
    if pair.teacher is None:
        raise ValueError("speculate needs a pair with a teacher: it is the target")
    if not prompt:
        raise ValueError("prompt must hold at least one token id, but is empty")
    pair.check_length([prompt], max_new_tokens)
