"""An epoch's responses and how teacher and student score them.

"Batched on-policy": before an epoch the student answers all prompts at once; within the epoch those
answers stay. The teacher's answers are sampled once, and so are its log-probs on them.
"""

from collections.abc import Callable, Sequence

import torch
from torch.nn.utils.rnn import pad_sequence

from minidistill.batching import buckets, encode_prompt, encode_references, seeded
from minidistill.generation import sample, speculative_drafts
from minidistill.models import Pair
from minidistill.scoring import Batch, Scored, collate, response_log_probs
from minidistill.tasks import Example

TEACHER_CACHE_BYTES = 512 * 2**20


class Rollouts:
    """The responses of the sources in `reads`, one a prompt, as token ids; and their scores."""

    def __init__(self, pair: Pair, examples: Sequence[Example], reads, settings, tgo=None):
        self.pair, self.examples, self.reads, self.settings = pair, examples, reads, settings
        self.prompts = [encode_prompt(pair.tokenizer, e.prompt) for e in examples]
        self.responses: dict[str, list[list[int]]] = {} if tgo is None else {"tgo": tgo}
        self._teacher_cache: list[torch.Tensor] | None = None

    def collect(self, epoch: int) -> None:
        """The teacher's responses once, the student's and the corrected drafts anew."""
        how = {**self.settings.sampling, "seed": seeded(self.settings.seed, "sample", epoch)}
        pair = self.pair
        for source in self.reads:
            if source == "reference":
                self.responses[source] = encode_references(pair.tokenizer, self.examples, epoch)
            elif source == "sgo":
                self.responses[source] = sample(pair.student, self.prompts, pair, **how)
            elif source == "speculative":
                self.responses[source] = speculative_drafts(self.prompts, pair, **how)
            elif source not in self.responses:
                self.responses[source] = sample(pair.teacher, self.prompts, pair, **how)

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
        """Fresh on fresh responses; on the teacher's own remembered, if all of them fit."""
        tokens = sum(map(len, self.responses[source]))
        if source != "tgo" or 4 * tokens * self.pair.vocab > TEACHER_CACHE_BYTES:
            return lambda: response_log_probs(self.pair.teacher, batch, self.pair.vocab)

        def remembered() -> torch.Tensor:
            self._teacher_cache = self._teacher_cache or self._remember_teacher()
            return pad_sequence([self._teacher_cache[i] for i in indices], batch_first=True)

        return remembered

    def _remember_teacher(self) -> list[torch.Tensor]:
        tgo = self.responses["tgo"]
        order = sorted(range(len(tgo)), key=lambda i: len(tgo[i]))
        cache: list[torch.Tensor] = [torch.empty(0)] * len(tgo)
        for start in range(0, len(order), 128):
            part = order[start : start + 128]
            batch = self._collate("tgo", part)
            log_p = response_log_probs(self.pair.teacher, batch, self.pair.vocab)
            for i, row in zip(part, log_p, strict=True):
                cache[i] = row[: len(tgo[i])].clone()
        return cache
