"""Training with a large vocabulary: responses as hidden states, divergences by `fused`.

A method reads `tgo.log_p` and `tgo.log_q` and hands them to `divergences`. Here these are no tables but
hidden states with the head that would make tables of them; a divergence is computed chunk by chunk. What a
teacher makes of its responses can then be kept for a whole run: a width of some hundreds a token in place
of a vocabulary of some ten thousands. `distill` works so for vocabularies from LARGE on, where logits are the
last hidden states times a matrix and the method asks for nothing but divergences and written tokens.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from minidistill.logprobs import Batch, ResponseLogProbs, collate, response_logits
from minidistill.models import Pair
from minidistill.models.checks import eval_mode
from minidistill.objectives import Method, TrainState
from minidistill.rollouts import Rollouts
from minidistill.scale import fused

LARGE = 8192


@dataclass
class HiddenLogProbs:
    """Hold hidden states (batch, tokens, width) and the head (vocab, width) that makes log-probs of them.

    `mask` (batch, tokens): only these tokens are computed, the others are 0.
    """

    hidden: Tensor
    head: Tensor
    mask: Tensor

    def divergence(self, name: str, log_p: "HiddenLogProbs", *settings, **named) -> Tensor:
        """Compute `divergences.NAME` of `log_p` and this, (batch, tokens); what `divergences` calls."""
        names = list(inspect.signature(fused.RULES[name]).parameters)[2:]
        named |= dict(zip(names, settings, strict=False))
        named = {
            key: value.expand(self.mask.shape)[self.mask]
            if isinstance(value, Tensor) and value.ndim
            else value
            for key, value in named.items()
        }
        p, q = log_p.hidden[self.mask], self.hidden[self.mask]
        return spread(fused.divergence(name, p, log_p.head, q, self.head, **named), self.mask)

    def of(self, labels: Tensor) -> Tensor:
        """Compute the log-probabilities of `labels` (batch, tokens)."""
        found = fused.token_log_probs(self.hidden[self.mask], self.head, labels[self.mask])
        return spread(found, self.mask)


def spread(values: Tensor, mask: Tensor) -> Tensor:
    """Put what was computed of the tokens in `mask`, (tokens, …), in their places: (batch, tokens, …)."""
    found = values.new_zeros(*mask.shape, *values.shape[1:])
    return found.index_put(mask.nonzero(as_tuple=True), values)


class HiddenResponse(ResponseLogProbs):
    """A `ResponseLogProbs` whose `log_p` and `log_q` are `HiddenLogProbs`."""

    @cached_property
    def token_log_q(self) -> Tensor:
        return self.log_q.of(self.labels)

    @cached_property
    def token_log_p(self) -> Tensor:
        with torch.no_grad():
            return self.log_p.of(self.labels)


class HiddenRollouts(Rollouts):
    """Responses and how both models score them, as hidden states."""

    reads_states = True

    @classmethod
    def handles(cls, pair: Pair, method: Method) -> bool:
        if pair.vocab_size < LARGE or not _asks_for_divergences(method):
            return False
        return all(ends_in_a_matrix(m, pair) for m in (pair.teacher, pair.student) if m is not None)

    def __init__(self, pair: Pair, *rest, **named):
        super().__init__(pair, *rest, **named)
        self.width = output_head(pair.teacher or pair.student).weight.shape[1]

    def read(self, model, batch: Batch) -> Tensor:
        with without_head(model):
            return response_logits(model, batch)

    def as_response(self, labels, mask, student: Tensor, teacher: Callable) -> HiddenResponse:
        pair, vocab = self.pair, self.pair.vocab_size

        def log_p() -> HiddenLogProbs:
            return HiddenLogProbs(teacher(), output_head(pair.teacher).weight[:vocab], mask)

        log_q = HiddenLogProbs(student, output_head(pair.student).weight[:vocab], mask)
        return HiddenResponse(labels, mask, log_q, log_p)


def output_head(model) -> nn.Module:
    """Find what makes logits of hidden states, under the adapters of peft too."""
    return _plain(model).get_output_embeddings()


@contextmanager
def without_head(model) -> Iterator[None]:
    """Let the model's logits be the hidden states that its head is given."""
    model, head = _plain(model), output_head(model)
    model.set_output_embeddings(nn.Identity())
    try:
        yield
    finally:
        model.set_output_embeddings(head)


def _plain(model):
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@torch.no_grad()
def ends_in_a_matrix(model, pair: Pair) -> bool:
    """Tell whether logits are hidden states times the head's weight: no bias, no cap, no few bits."""
    head = output_head(model)
    if (
        type(head) is not nn.Linear
        or head.bias is not None
        or hasattr(head.weight, "__tensor_flatten__")
    ):
        return False
    ids = [token % pair.embedding_rows for token in (3, 10, 17, 24)]
    batch = collate([ids[:2]], [ids[2:]], 0, pair.device)
    with eval_mode(model):
        logits = response_logits(model, batch)
        try:
            with without_head(model):
                hidden = response_logits(model, batch)
        except (AttributeError, NotImplementedError):  # the head's own weight is asked for
            return False
    if hidden.shape[-1] != head.weight.shape[1]:
        return False
    error = (hidden @ head.weight.T - logits).abs().max()
    return bool(error <= 64 * torch.finfo(logits.dtype).eps * logits.abs().max())


def _asks_for_divergences(method: Method) -> bool:
    """Try the method on one token: what does arithmetic on log-probs itself needs tables of them."""
    label, mask = torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1, dtype=torch.bool)
    both = HiddenLogProbs(torch.ones(1, 1, 1), torch.ones(2, 1), mask)
    token = HiddenResponse(label, mask, both, lambda: both)
    try:
        with torch.random.fork_rng():
            method(dict.fromkeys(method.reads, token), TrainState())
    except (TypeError, AttributeError):
        return False
    return True
