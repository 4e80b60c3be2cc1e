"""Where responses come from: one small function a source, and how often it is asked.

    once    tgo  teacher-generated outputs          initial_sgo  the student's, before training
            best_of_n_tgo  the best graded of several of the teacher's
            chosen, rejected  the two sides of preference data
    epoch   sgo  student-generated outputs, anew ("batched on-policy")
            reference  what the data set says
            speculative  student drafts, the teacher redraws what is outside its top k
            speculative_mix  the same by typical acceptance
    step    on_policy_sgo  the student's for this mini-batch alone (on-policy)
            replay  what DistiLLM's adaptive sampler serves

A method reads some of them (the names of its parameters); `source_overrides` hands it others instead.
Sources of the sources: DistiLLM (arXiv 2402.03898) for `replay`, Speculative KD (2410.11325),
DistiLLM-2 (2503.07067, Fig 2 and T12) for the rest.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from minidistill.evaluation import nll
from minidistill.generation import (
    decode,
    sample,
    speculative_drafts,
    top_k_acceptance,
    typical_acceptance,
)
from minidistill.models import Pair
from minidistill.tasks import Preference, Task
from minidistill.tokenization import encode_references, encode_response
from minidistill.utils import derive_seed, unknown_name_message

BEST_OF = 8
SOURCES: dict[str, "Source"] = {}


@dataclass
class SamplingContext:
    """Hold what a source needs: models, prompts as token ids, their indices in `task.train`, config, seed."""

    pair: Pair
    task: Task
    prompts: Sequence[list[int]]
    indices: Sequence[int]
    config: object
    epoch: int
    seed: int

    @property
    def sampling(self) -> dict:
        """Return the run's sampling settings with this moment's seed: what `generation` is called with."""
        return {**self.config.sampling, "seed": self.seed}

    def sample_responses(self, model, seed: int | None = None) -> list[list[int]]:
        """Sample one response of `model` to each prompt."""
        sampling = self.sampling if seed is None else {**self.sampling, "seed": seed}
        return sample(model, self.prompts, self.pair, **sampling)


@dataclass(frozen=True)
class Source:
    """Hold a function from a context to one response (token ids) a prompt, and when it is called.

    `refresh` is once (before training), epoch or step.
    """

    generate: Callable[[SamplingContext], list[list[int]]]
    refresh: str


def source(refresh: str) -> Callable:
    """Register a function as the source of its own name, called once, every epoch or every step."""

    def register(generate: Callable) -> Callable:
        SOURCES[generate.__name__] = Source(generate, refresh)
        return generate

    return register


def resolve_sources(reads: Sequence[str], feed: dict[str, str] | None) -> dict[str, str]:
    """Slot → source for what a method reads; ValueError for a slot or a source that is not there."""
    for slot, name in (feed or {}).items():
        if slot not in reads:
            raise ValueError(f"the method has no slot {slot!r}; it reads: {', '.join(reads)}")
        if name not in SOURCES:
            raise ValueError(unknown_name_message("source", name, SOURCES))
    return {slot: (feed or {}).get(slot, slot) for slot in reads}


@source("once")
def tgo(ctx: SamplingContext) -> list[list[int]]:
    """y_t ~ p: teacher-generated outputs."""
    return ctx.sample_responses(ctx.pair.teacher)


@source("once")
def initial_sgo(ctx: SamplingContext) -> list[list[int]]:
    """y_s ~ q as the student was before training (off-policy)."""
    return ctx.sample_responses(ctx.pair.student)


@source("once")
def best_of_n_tgo(ctx: SamplingContext) -> list[list[int]]:
    """Of BEST_OF teacher responses a prompt the best graded, the first of equals."""
    if ctx.task.grade is None:
        raise ValueError(f"best_of_n_tgo needs a grader, and task {ctx.task.name!r} has none")
    draws = [
        ctx.sample_responses(ctx.pair.teacher, derive_seed(ctx.seed, "best", i))
        for i in range(BEST_OF)
    ]
    texts = [decode(ctx.pair, draw) for draw in draws]
    best = []
    for row, index in enumerate(ctx.indices):
        grades = [ctx.task.grade(ctx.task.train[index], text[row]) for text in texts]
        best.append(draws[grades.index(max(grades))][row])
    return best


@source("once")
def chosen(ctx: SamplingContext) -> list[list[int]]:
    """y_w: of each pair of the task's `Preference` data the response that was preferred."""
    return _preference_responses(ctx, "chosen")


@source("once")
def rejected(ctx: SamplingContext) -> list[list[int]]:
    """y_l: of each pair of the task's `Preference` data the other response."""
    return _preference_responses(ctx, "rejected")


def _preference_responses(ctx: SamplingContext, side: str) -> list[list[int]]:
    examples = [ctx.task.train[i] for i in ctx.indices]
    for number, example in enumerate(examples, start=1):
        if not isinstance(example, Preference):
            raise ValueError(
                f"prompt {number} has no {side} response ({example.prompt[:80]!r}): this needs "
                "preference data, see applications.preference.sample_pairs and read_preferences"
            )
    return [encode_response(ctx.pair.tokenizer, getattr(e, side)) for e in examples]


@source("epoch")
def sgo(ctx: SamplingContext) -> list[list[int]]:
    """y_s ~ q as the student is when the epoch begins (batched on-policy)."""
    return ctx.sample_responses(ctx.pair.student)


@source("epoch")
def reference(ctx: SamplingContext) -> list[list[int]]:
    """Read the data set's reference, another one each epoch where there are several."""
    examples = [ctx.task.train[i] for i in ctx.indices]
    return encode_references(ctx.pair.tokenizer, examples, ctx.epoch, ctx.pair.embedding_rows)


@source("epoch")
def speculative(ctx: SamplingContext) -> list[list[int]]:
    """Speculative KD: each drafted token outside the teacher's five likeliest is redrawn from the teacher."""
    return speculative_drafts(ctx.prompts, ctx.pair, top_k_acceptance(5), **ctx.sampling)


@source("epoch")
def speculative_mix(ctx: SamplingContext) -> list[list[int]]:
    """Speculative mixing at the config's epsilon: the student's own at 0, nearly the teacher's at 1."""
    rule = typical_acceptance(ctx.config.epsilon)
    return speculative_drafts(ctx.prompts, ctx.pair, rule, **ctx.sampling)


@source("step")
def on_policy_sgo(ctx: SamplingContext) -> list[list[int]]:
    """y_s ~ q as the student is at this very step (on-policy)."""
    return ctx.sample_responses(ctx.pair.student)


@source("step")
def replay(ctx: SamplingContext) -> list[list[int]]:
    """See `AdaptiveSampler`, which holds the buffer that this source needs."""
    raise NotImplementedError("replay is served by sources.AdaptiveSampler")


@dataclass
class AdaptiveSampler:
    r"""(3.9) DistiLLM's adaptive off-policy sampling: fresh with φ(1−t), replayed with φt, else fixed data.

    t is the share of training done, the fixed data are the teacher's responses. A fresh mini-batch is
    stored; the buffer holds `capacity` responses, and until it is full nothing is replayed. φ starts at 0
    and rises by 0.1 whenever the validation loss does: the worse the student gets on fixed data, the more
    of its own it sees. (The released code waits for a rise of 0.1 nats.)
    """

    capacity: int = 1000
    phi: float = 0.0
    loss: float = float("inf")
    buffer: list[tuple[int, list[int]]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def update_phi(self, loss: float) -> None:
        """Tell the validation loss; the first call only remembers it."""
        if loss > self.loss:
            self.phi = min(1.0, self.phi + 0.1)
        self.loss = loss

    def sample_batch(self, ctx: SamplingContext, fixed: list[list[int]], progress: float) -> list:
        """One (prompt index, response) for each prompt asked, of one kind for the whole mini-batch."""
        rng = random.Random(derive_seed(ctx.seed, "replay"))
        draw = rng.random()
        if draw >= self.phi:
            return self._count("fixed", [(i, fixed[i]) for i in ctx.indices])
        if draw < self.phi * (1 - progress) or len(self.buffer) < self.capacity:
            fresh = list(zip(ctx.indices, ctx.sample_responses(ctx.pair.student), strict=True))
            self.buffer = (self.buffer + fresh)[-self.capacity :]
            return self._count("fresh", fresh)
        return self._count("replayed", rng.choices(self.buffer, k=len(ctx.indices)))

    def _count(self, kind: str, rows: list) -> list:
        self.counts[kind] = self.counts.get(kind, 0) + 1
        return rows


class UpdatePhi:
    """Callback: tell `AdaptiveSampler` the student's NLL on held-out responses, twenty times a run."""

    def on_train_begin(self, trainer) -> None:
        if trainer.step == 0:
            self.on_step_end(trainer)

    def on_step_end(self, trainer) -> None:
        if trainer.step % max(1, trainer.total_steps // 20) == 0:
            held_out, replay = trainer.history.probe, trainer.rollouts.replay
            replay.update_phi(
                nll(trainer.pair.student, trainer.pair, held_out.prompts, held_out.tgo)
            )
            trainer.state.log["phi"] = replay.phi
