"""A run's responses and how teacher and student score them.

"Batched on-policy": before an epoch the student answers all prompts at once; within the epoch those
answers stay, and so do the teacher's log-probs on them, made in big batches. What is written once
stays for the whole run.
"""

from collections.abc import Callable
from dataclasses import asdict

import torch
from torch.nn.utils.rnn import pad_sequence

from minidistill.logprobs import Batch, ResponseLogProbs, collate, response_log_probs
from minidistill.models import Pair
from minidistill.sources import SOURCES, AdaptiveSampler, SamplingContext
from minidistill.tasks import Task
from minidistill.tokenization import length_buckets, max_batch_size
from minidistill.utils import derive_seed

TEACHER_CACHE_BYTES = 512 * 2**20


class Rollouts:
    """The responses to a task's training prompts as token ids, source by source; and their scores.

    `slots` says which source each slot of the method reads, e.g. {"tgo": "tgo", "sgo": "initial_sgo"}.
    A subclass may read something else off the models than tables of log-probs, where it `handles` them.
    """

    @classmethod
    def handles(cls, pair: Pair, method) -> bool:
        return cls is Rollouts

    def read(self, model, batch: Batch) -> torch.Tensor:
        """What a model makes of the responses: (batch, tokens, width)."""
        return response_log_probs(model, batch, self.pair.vocab_size)

    def as_response(
        self, labels, mask, student: torch.Tensor, teacher: Callable
    ) -> ResponseLogProbs:
        """What a method gets, from what `read` gave; the teacher's is asked for when needed."""
        return ResponseLogProbs(labels, mask, student, teacher)

    def __init__(self, pair: Pair, task: Task, slots: dict[str, str], config, tgo=None):
        self.pair, self.task, self.slots, self.config = pair, task, slots, config
        self.width = pair.vocab_size  # numbers a token that `read` gives
        self.names = sorted({*slots.values()} | ({"tgo"} if "replay" in slots.values() else set()))
        self.prompts = [pair.encode(example) for example in task.train]
        self.responses: dict[str, list[list[int]]] = {} if tgo is None else {"tgo": tgo}
        self.replay = AdaptiveSampler()
        self._step_responses: dict[str, dict[int, tuple[int, list[int]]]] = {}
        self._teacher_cache: dict[str, list[torch.Tensor]] = {}

    def collect(self, epoch: int) -> None:
        """Before an epoch: what is written once, if it is not there; what is written every epoch, anew."""
        everyone = list(range(len(self.prompts)))
        for name in self.names:
            refresh = SOURCES[name].refresh
            if refresh == "epoch" or (refresh == "once" and name not in self.responses):
                self._teacher_cache.pop(name, None)
                self.responses[name] = SOURCES[name].generate(
                    self._context(everyone, epoch, "sample", epoch)
                )

    def collect_step(self, epoch: int, step: int, indices: list[int], progress: float) -> None:
        """Before a step: what is written for one mini-batch."""
        for name in self.names:
            if SOURCES[name].refresh != "step":
                continue
            ctx = self._context(indices, epoch, "step", step)
            if name == "replay":
                rows = self.replay.sample_batch(ctx, self.responses["tgo"], progress)
            else:
                rows = list(zip(indices, SOURCES[name].generate(ctx), strict=True))
            self._step_responses[name] = dict(zip(indices, rows, strict=True))

    def _context(self, indices: list[int], epoch: int, *moment) -> SamplingContext:
        prompts = [self.prompts[i] for i in indices]
        seed = derive_seed(self.config.seed, *moment)
        return SamplingContext(self.pair, self.task, prompts, indices, self.config, epoch, seed)

    def batches(self, epoch: int) -> list[list[int]]:
        """This epoch's mini-batches of prompt indices, similar lengths together."""
        known = [self.responses[n] for n in self.slots.values() if n in self.responses]
        lengths = [len(x) + sum(len(ys[i]) for ys in known) for i, x in enumerate(self.prompts)]
        return length_buckets(
            lengths, self.config.batch_size, derive_seed(self.config.seed, "order", epoch)
        )

    def score(self, indices: list[int]) -> dict[str, ResponseLogProbs]:
        """Each slot as the student (with gradient) and, once a method asks, the teacher see it.

        The student reads all sources in one pass. Two slots fed from one source share a `ResponseLogProbs`.
        """
        names, size = list(dict.fromkeys(self.slots.values())), len(indices)
        batch = self._collate([self._response(name, i) for name in names for i in indices])
        seen = self.read(self.pair.student, batch)
        scored = {}
        for start, name in zip(range(0, size * len(names), size), names, strict=True):
            part = slice(start, start + size)
            tokens = int(batch.mask[part].sum(-1).max())
            labels, mask = batch.labels[part, :tokens], batch.mask[part, :tokens]
            teacher = self._read_by_teacher(name, indices)
            scored[name] = self.as_response(labels, mask, seen[part, :tokens], teacher)
        return {slot: scored[name] for slot, name in self.slots.items()}

    def state(self) -> dict:
        """Return what a checkpoint must keep."""
        return {"responses": self.responses, "replay": asdict(self.replay)}

    def restore(self, state: dict) -> None:
        self.responses, self.replay = state["responses"], AdaptiveSampler(**state["replay"])

    def _response(self, name: str, index: int) -> tuple[int, list[int]]:
        """Return what source `name` has for a place in the mini-batch: whose prompt, which response."""
        if SOURCES[name].refresh == "step":
            return self._step_responses[name][index]
        return index, self.responses[name][index]

    def _collate(self, rows: list[tuple[int, list[int]]], model=None) -> Batch:
        prompts = self.pair.prompts_for(model, [self.prompts[i] for i, _ in rows])
        return collate(prompts, [y for _, y in rows], self.pair.pad_token_id, self.pair.device)

    def _read_by_teacher(self, name: str, indices: list[int]) -> Callable[[], torch.Tensor]:
        """The teacher on all responses of a source at once and remembered, if they fit; else on these."""
        rows = [self._response(name, i) for i in indices]

        def teacher() -> torch.Tensor:
            tokens = sum(map(len, self.responses.get(name, ())))
            if SOURCES[name].refresh == "step" or 4 * tokens * self.width > TEACHER_CACHE_BYTES:
                return self.read(self.pair.teacher, self._collate(rows, self.pair.teacher))
            if name not in self._teacher_cache:
                self._teacher_cache[name] = self._read_all_by_teacher(name)
            return pad_sequence([self._teacher_cache[name][i] for i in indices], batch_first=True)

        return teacher

    def _read_all_by_teacher(self, name: str) -> list[torch.Tensor]:
        """What the teacher makes of each response of `name`, in big batches: [(tokens, width)]."""
        responses = self.responses[name]
        order = sorted(range(len(responses)), key=lambda i: len(responses[i]))
        cache: list[torch.Tensor] = [torch.empty(0)] * len(responses)
        rows = max_batch_size(self.prompts, 128)
        for start in range(0, len(order), rows):
            part = order[start : start + rows]
            batch = self._collate([(i, responses[i]) for i in part], self.pair.teacher)
            for i, row in zip(part, self.read(self.pair.teacher, batch), strict=True):
                cache[i] = row[: len(responses[i])].clone()
        return cache


def rollouts_class(pair: Pair, method) -> type[Rollouts]:
    """Find the class that scores this pair's responses for a method; of the imported ones the last."""
    return next((c for c in Rollouts.__subclasses__()[::-1] if c.handles(pair, method)), Rollouts)
