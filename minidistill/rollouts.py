"""An epoch's responses and how teacher and student score them.

"Batched on-policy": before an epoch the student answers all prompts at once; within the epoch those
answers stay. The teacher's answers, and the student's first, are sampled once; on those the teacher's
log-probs are computed once too.
"""

from collections.abc import Callable, Sequence

import torch
from torch.nn.utils.rnn import pad_sequence

from minidistill.batching import buckets, encode_prompt, encode_references, seeded
from minidistill.generation import sample, speculative_drafts
from minidistill.models import Pair
from minidistill.scoring import Batch, Scored, collate, response_log_probs
from minidistill.tasks import Example

FIXED = ("tgo", "first_sgo")
TEACHER_CACHE_BYTES = 512 * 2**20


class Rollouts:
    """The responses of the sources in `reads`, one a prompt, as token ids; and their scores."""

    def __init__(self, pair: Pair, examples: Sequence[Example], reads, settings, tgo=None):
        self.pair, self.examples, self.reads, self.settings = pair, examples, reads, settings
        self.prompts = [encode_prompt(pair.tokenizer, e.prompt) for e in examples]
        self.responses: dict[str, list[list[int]]] = {} if tgo is None else {"tgo": tgo}
        self._teacher_cache: dict[str, list[torch.Tensor]] = {}

    def collect(self, epoch: int) -> None:
        """Those in FIXED once, the student's and the corrected drafts anew."""
        how = {**self.settings.sampling, "seed": seeded(self.settings.seed, "sample", epoch)}
        pair = self.pair
        for source in self.reads:
            if source in FIXED and source in self.responses:
                continue
            if source == "reference":
                new = encode_references(pair.tokenizer, self.examples, epoch)
            elif source == "speculative":
                new = speculative_drafts(self.prompts, pair, **how)
            else:
                writer = pair.teacher if source == "tgo" else pair.student
                new = sample(writer, self.prompts, pair, **how)
            self.responses[source] = new

    def batches(self, epoch: int) -> list[list[int]]:
        """This epoch's mini-batches of prompt indices, similar lengths together."""
        lengths = [
            len(prompt) + sum(len(self.responses[source][i]) for source in self.reads)
            for i, prompt in enumerate(self.prompts)
        ]
        return buckets(
            lengths, self.settings.batch_size, seeded(self.settings.seed, "order", epoch)
        )

    def score(self, indices: list[int]) -> dict[str, Scored]:
        """Student (with gradient) and, once a method asks, teacher on each source."""
        scored = {}
        for source in self.reads:
            batch = self._collate(source, indices)
            log_q = response_log_probs(self.pair.student, batch, self.pair.vocab)
            teacher = self._teacher_on(source, indices, batch)
            scored[source] = Scored(batch.labels, batch.mask, log_q, teacher)
        return scored

    def _collate(self, source: str, indices: list[int]) -> Batch:
        prompts = [self.prompts[i] for i in indices]
        responses = [self.responses[source][i] for i in indices]
        return collate(prompts, responses, self.pair.pad_id, self.pair.device)

    def _teacher_on(self, source: str, indices, batch: Batch) -> Callable[[], torch.Tensor]:
        """Fresh on fresh responses; on fixed ones remembered, if all of them fit."""
        tokens = sum(map(len, self.responses[source]))
        if source not in FIXED or 4 * tokens * self.pair.vocab > TEACHER_CACHE_BYTES:
            return lambda: response_log_probs(self.pair.teacher, batch, self.pair.vocab)

        def remembered() -> torch.Tensor:
            if source not in self._teacher_cache:
                self._teacher_cache[source] = self._remember_teacher(source)
            rows = [self._teacher_cache[source][i] for i in indices]
            return pad_sequence(rows, batch_first=True)

        return remembered

    def _remember_teacher(self, source: str) -> list[torch.Tensor]:
        """The teacher's log-probs on each response of `source`, in big batches: [(tokens, vocab)]."""
        responses = self.responses[source]
        order = sorted(range(len(responses)), key=lambda i: len(responses[i]))
        cache: list[torch.Tensor] = [torch.empty(0)] * len(responses)
        for start in range(0, len(order), 128):
            part = order[start : start + 128]
            batch = self._collate(source, part)
            log_p = response_log_probs(self.pair.teacher, batch, self.pair.vocab)
            for i, row in zip(part, log_p, strict=True):
                cache[i] = row[: len(responses[i])].clone()
        return cache
