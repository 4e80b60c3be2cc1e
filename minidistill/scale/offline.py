"""Offline teachers: distillation from what `teacher_cache` wrote, the teacher itself not loaded.

    cache = write_teacher_cache(teacher, tokenizer, task, "cache", top_k=64, temperature=0.8)
    pair = offline_pair(student, tokenizer, "cache")
    distill(pair, task, "kd", temperature=0.8)

The student's table is put into the teacher's buckets, and every divergence reads the two as it reads any
other. What is lost is how the tail is shared out: by the data processing inequality the divergence is at most
that of the whole tables, and equal where k is the vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from minidistill.logprobs import ResponseLogProbs, response_logits
from minidistill.models import Pair, single_model
from minidistill.models.checks import check_whole_weights, widen_trained_weights
from minidistill.models.making import stop_as_trained
from minidistill.objectives import Method, TrainState, get_method
from minidistill.rollouts import Rollouts
from minidistill.scale import fused, responses
from minidistill.scale.teacher_cache import (
    TeacherCache,
    TopK,
    digest_of_vocabulary,
    into_buckets,
    load_teacher_cache,
)
from minidistill.tasks import Example, Task

CHUNK = fused.CHUNK


@dataclass
class OfflinePair(Pair):
    """A student and the cache of a teacher that is not loaded."""

    cache: TeacherCache = field(kw_only=True)

    @classmethod
    def handles(cls, config) -> bool:
        return False

    @property
    def eos_token_ids(self) -> set[int]:
        return super().eos_token_ids | set(self.cache.about["stops"])

    def held_out_responses(self, prompts: Sequence, examples: Sequence[Example]) -> list[list[int]]:
        return self.cache.responses(self.cache.find(prompts, held_out=True))

    def content(self) -> list:
        return [self.cache.about[name] for name in ("teacher", "prompts", "top_k", "seed")]


def offline_pair(
    student, tokenizer, cache: TeacherCache | str | Path, own_templates: bool = False,
    template_options: dict | None = None,
) -> OfflinePair:  # fmt: skip
    """Pair a student with the cache of a teacher, whose template options hold for both.

    ValueError where the tokenizer, the options or the width of the vocabulary are others.
    """
    if not isinstance(cache, TeacherCache):
        cache = load_teacher_cache(cache)
    written = cache.about["template_options"]
    if own_templates or (template_options or {}) not in ({}, written):
        raise ValueError(
            f"{cache.folder} was written with template options {written}: leave others out"
        )
    pair = single_model(student, tokenizer)
    check_whole_weights(student)
    widen_trained_weights(student)
    if digest_of_vocabulary(tokenizer) != cache.about["vocabulary"]:
        raise ValueError(f"{cache.folder} holds a cache made with another tokenizer")
    if pair.vocab_size < cache.about["vocab_size"]:
        raise ValueError(
            f"{cache.folder} has log-probabilities of {cache.about['vocab_size']} tokens, and the student "
            f"knows {pair.vocab_size}: call resize_token_embeddings"
        )
    width = cache.about["vocab_size"]
    return stop_as_trained(OfflinePair(None, student, tokenizer, width, written, cache=cache))


def buckets_of_states(hidden: Tensor, head: Tensor, ids: Tensor, chunk: int = CHUNK) -> Tensor:
    """Put what a head (vocab, width) makes of hidden states (tokens, width) into buckets: (tokens, k + 1).

    The tables of `chunk` tokens exist at a time, and are made again for the gradient.
    """

    def make(states: Tensor, kept: Tensor) -> Tensor:
        return into_buckets((states @ head.T).float().log_softmax(-1), kept)

    parts = zip(hidden.split(chunk), ids.split(chunk), strict=True)
    return torch.cat([checkpoint(make, *part, use_reentrant=False) for part in parts])


class OfflineResponse(ResponseLogProbs):
    """A `ResponseLogProbs` whose `log_p` and `log_q` are over the teacher's k likeliest and the rest.

    `read` (batch, tokens, …): the student's log-probabilities, or its hidden states if there is a `head`.
    """

    def __init__(self, labels: Tensor, mask: Tensor, read: Tensor, teacher, head: Tensor | None):
        self.labels, self.mask, self._teacher = labels, mask, teacher
        self.read, self.head = read, head

    @cached_property
    def teacher(self) -> TopK:
        return self._teacher()

    @property
    def log_p(self) -> Tensor:
        return self.teacher.log_p

    @cached_property
    def log_q(self) -> Tensor:
        ids = self.teacher.ids
        if self.head is None:
            return into_buckets(self.read, ids)
        states, ids = self.read[self.mask], ids[self.mask]
        return responses.spread(buckets_of_states(states, self.head, ids), self.mask)

    @cached_property
    def token_log_q(self) -> Tensor:
        if self.head is None:
            return self.read.gather(-1, self.labels.unsqueeze(-1)).squeeze(-1)
        states, labels = self.read[self.mask], self.labels[self.mask]
        return responses.spread(fused.token_log_probs(states, self.head, labels), self.mask)

    @property
    def token_log_p(self) -> Tensor:
        return self.teacher.written


class OfflineRollouts(Rollouts):
    """The responses of a cache, and what it says of them; the student as tables or as hidden states."""

    @classmethod
    def handles(cls, pair: Pair, method: Method) -> bool:
        return isinstance(pair, OfflinePair)

    def __init__(self, pair: OfflinePair, task: Task, slots: dict[str, str], config, tgo=None):
        sampled = {name: pair.cache.about[name] for name in config.sampling}
        if sampled != config.sampling:
            raise ValueError(
                f"{pair.cache.folder} was sampled with {sampled}, and this run says {config.sampling}: give "
                "the same settings"
            )
        super().__init__(pair, task, slots, config, tgo)
        self.reads_states = pair.vocab_size >= responses.LARGE
        self.reads_states &= responses.ends_in_a_matrix(pair.student, pair)
        _check_reads(get_method(config.method), slots)
        if "tgo" in self.names:
            self.places = pair.cache.find(self.prompts)
            own = pair.cache.responses(self.places)
            if self.responses.setdefault("tgo", own) != own:
                raise ValueError(
                    "an offline teacher has read its own responses alone: leave tgo out"
                )

    def read(self, model, batch) -> Tensor:
        if not self.reads_states:
            return super().read(model, batch)
        with responses.without_head(model):
            return response_logits(model, batch)

    def as_response(self, labels, mask, student: Tensor, teacher) -> OfflineResponse:
        head = None
        if self.reads_states:
            head = responses.output_head(self.pair.student).weight[: self.pair.vocab_size]
        return OfflineResponse(labels, mask, student, teacher, head)

    def _read_by_teacher(self, name: str, indices: list[int]):
        def teacher() -> TopK:
            found = self.pair.cache.top_k([self.places[i] for i in indices])
            return TopK(*(t.to(self.pair.device) for t in vars(found).values()))

        return teacher


def _check_reads(method: Method, slots: dict[str, str]) -> None:
    """Try the method on one token: ValueError where it asks the teacher about what it has not written."""
    label, mask = torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1, dtype=torch.bool)
    table = torch.zeros(1, 1, 1)

    def absent(source: str):
        def teacher() -> Tensor:
            if source == "tgo":
                return table
            raise ValueError(
                f"{method.name} asks the teacher about {source}, and an offline one knows its own responses "
                "alone: take a method that reads tgo (kd, skl, seqkd) or give the teacher itself"
            )

        return teacher

    both = {
        slot: ResponseLogProbs(label, mask, table, absent(source)) for slot, source in slots.items()
    }
    with torch.random.fork_rng():
        method(both, TrainState())
