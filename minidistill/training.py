"""The one training loop: sample responses, score them twice, minimise a method's loss.

    for each epoch:            sample y_t (once) and y_s (anew) for all prompts, in big batches
        for each mini-batch:   loss = method(teacher and student on those responses), step

What happens beside it is done by callbacks: `evaluation.NLLProbe` measures, `sources.UpdatePhi` steers
DistiLLM's sampler, `checkpoint.Checkpointer` saves. Every random draw is a function of (seed, epoch,
step), never of what ran before: a run killed and resumed ends in the bits of an unbroken one.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from tqdm.auto import tqdm

from minidistill.checkpoint import Checkpointer, fingerprint
from minidistill.config import DistillConfig
from minidistill.evaluation import HeldOutResponses, NLLProbe
from minidistill.models import Pair
from minidistill.objectives import TrainState, get_method
from minidistill.rollouts import rollouts_class
from minidistill.runlog import claim_folder
from minidistill.sources import UpdatePhi, resolve_sources
from minidistill.tasks import Task
from minidistill.utils import derive_seed


@dataclass
class History:
    """Of which run, and what happened: a dict each step (loss, lr, beta …) and each measurement.

    `config` and `method_kwargs` are the run's settings, its seed among them, and the method's own.
    `evals` hold step and the two NLLs, measured on the responses `probe`. `seconds` is the time spent,
    over all resumptions. `state` is where training stands, while it runs.
    """

    config: DistillConfig
    method_kwargs: dict = field(default_factory=dict)
    steps: list[dict] = field(default_factory=list)
    evals: list[dict] = field(default_factory=list)
    probe: HeldOutResponses | None = field(default=None, repr=False)
    seconds: float = 0.0
    state: TrainState | None = field(default=None, repr=False)


def distill(
    pair: Pair,
    task: Task,
    method: str = DistillConfig.method,
    *,
    epochs: int = DistillConfig.epochs,
    seed: int = DistillConfig.seed,
    batch_size: int = DistillConfig.batch_size,
    gradient_accumulation_steps: int = DistillConfig.gradient_accumulation_steps,
    lr: float = DistillConfig.lr,
    temperature: float = DistillConfig.temperature,
    top_p: float = DistillConfig.top_p,
    max_new_tokens: int = DistillConfig.max_new_tokens,
    max_grad_norm: float = DistillConfig.max_grad_norm,
    adam_beta2: float = DistillConfig.adam_beta2,
    epsilon: float = DistillConfig.epsilon,
    source_overrides: dict[str, str] | None = None,
    feed: dict[str, str] | None = None,
    out: str | Path | None = None,
    tgo: list[list[int]] | None = None,
    probe: HeldOutResponses | None = None,
    probe_every: int | None = None,
    callback: Callable[[History], bool | None] | None = None,
    progress: bool = True,
    **method_kwargs,
) -> History:
    """Train `pair.student` in place with a method of `objectives.METHODS`.

    `source_overrides`, or `feed` for short, hands a method other responses than its slots are named
    after, {"tgo": "reference"} or {"sgo": "initial_sgo"}: any of `sources.SOURCES`. `epsilon` is for the
    source `speculative_mix`. `out`: a folder for checkpoints; the same call resumes from there. `tgo`: the
    teacher's responses to task.train as token ids, `probe`: the held-out responses; sampled here if
    None. `callback(history)` runs after every measurement (each `probe_every` steps, by default four
    times an epoch); returning True stops. `method_kwargs`: the method's own settings (alpha, beta …).
    Raises ValueError or TypeError for settings that cannot be and for an `out` that another run writes
    to, FloatingPointError when a loss or a gradient stops being a number.
    """
    config = DistillConfig(
        method, epochs, seed, batch_size, gradient_accumulation_steps, lr, temperature, top_p,
        max_new_tokens, max_grad_norm, adam_beta2, epsilon, {**(source_overrides or {}), **(feed or {})},
    )  # fmt: skip
    trainer = Trainer(pair, task, config, method_kwargs, tgo, probe)
    trainer.callbacks.append(NLLProbe(probe_every, callback))
    if "replay" in trainer.rollouts.names:
        trainer.callbacks.append(UpdatePhi())
    if not out:
        return trainer.train(progress)
    with claim_folder(out):
        checkpointer = Checkpointer(out, fingerprint(pair, task, config, method_kwargs, tgo))
        checkpointer.resume(trainer)
        trainer.callbacks.append(checkpointer)  # the last: it saves what the others have done
        return trainer.train(progress)


class Callback(Protocol):
    """Events that `Trainer` calls, in the order of its list; `trainer.should_stop = True` ends the run."""

    def on_train_begin(self, trainer: "Trainer") -> None:
        """Before the first step, or the first one after a resumption."""

    def on_step_end(self, trainer: "Trainer") -> None:
        """After each step; `trainer.step` have been made."""


class Trainer:
    """The loop, and the state that it changes: the student's weights, optimizer, responses, history."""

    def __init__(
        self, pair: Pair, task: Task, config: DistillConfig, method_kwargs: dict | None = None,
        tgo: list[list[int]] | None = None, probe: HeldOutResponses | None = None,
    ):  # fmt: skip
        self.pair, self.task, self.config = pair, task, config
        self.method, self.method_kwargs = get_method(config.method), method_kwargs or {}
        self.method.check_settings(self.method_kwargs)
        slots = resolve_sources(self.method.reads, config.source_overrides)
        self.rollouts = rollouts_class(pair, self.method)(pair, task, slots, config, tgo)
        self.trained = {n: w for n, w in pair.student.named_parameters() if w.requires_grad}
        if not self.trained:
            raise ValueError("the student has no weight to train: all of them are frozen")
        how = {"lr": config.lr, "betas": (0.9, config.adam_beta2), "weight_decay": 0.0}
        self.optimizer = torch.optim.AdamW(self.trained.values(), **how)
        self.state, self.step, self.should_stop = TrainState(epochs=config.epochs), 0, False
        self.batches_per_epoch = math.ceil(len(task.train) / config.batch_size)
        self.total_steps = config.epochs * self.batches_per_epoch
        self.history = History(config, self.method_kwargs, probe=probe, state=self.state)
        self.callbacks: list[Callback] = []
        self.started = time.monotonic()

    def train(self, progress: bool = True) -> History:
        """Make all steps that are left; the global random state stays as it is."""
        bar = tqdm(total=self.total_steps, initial=self.step, disable=not progress)
        with torch.random.fork_rng(), bar as self.bar:
            for callback in self.callbacks:
                callback.on_train_begin(self)
            for epoch, indices in self._remaining_batches():
                self._train_step(epoch, indices)
                self.bar.update()
                for callback in self.callbacks:
                    callback.on_step_end(self)
                if self.should_stop:
                    break
        self.pair.student.eval()
        return self.history

    def _remaining_batches(self) -> Iterator[tuple[int, list[int]]]:
        """The mini-batches still to do, an epoch's responses sampled before its first."""
        while self.step < self.total_steps:
            epoch, position = divmod(self.step, self.batches_per_epoch)
            if position == 0:
                self.bar.set_description(f"{self.method.name}: sampling")
                try:
                    self.rollouts.collect(epoch)
                except FloatingPointError as error:
                    raise self.not_finite(error) from None
            self.bar.set_description(f"{self.method.name}: epoch {epoch + 1}")
            for indices in self.rollouts.batches(epoch)[position:]:
                yield epoch, indices

    def _train_step(self, epoch: int, indices: list[int]) -> None:
        """One step on one mini-batch: gradient, learning rate, clip, AdamW."""
        torch.manual_seed(derive_seed(self.config.seed, "step", self.step))  # for dropout
        self.pair.student.train()
        self.state.epoch, self.state.progress = epoch, self.step / self.total_steps
        self.rollouts.collect_step(epoch, self.step, indices, self.state.progress)
        self.optimizer.zero_grad()
        loss = self._backward(indices)
        lr = self.config.lr * lr_schedule(self.state.progress)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        norm = torch.nn.utils.clip_grad_norm_(self.trained.values(), self.config.max_grad_norm)
        if not torch.isfinite(norm):
            raise self.not_finite(f"the gradient is {float(norm)} (prompts {indices[:4]} …)")
        self.optimizer.step()
        row = {"step": self.step, "epoch": epoch, "loss": loss, "lr": lr, "grad_norm": float(norm)}
        self.history.steps.append({**row, **self.state.log})
        self.step += 1

    def _backward(self, indices: list[int]) -> float:
        """The mean loss and its gradient, in parts that add up to those of the whole mini-batch."""
        size, total = math.ceil(len(indices) / self.config.gradient_accumulation_steps), 0.0
        for start in range(0, len(indices), size):
            part = indices[start : start + size]
            losses = self.method(self.rollouts.score(part), self.state, **self.method_kwargs)
            self._check_finite(losses, part)
            (losses.sum() / len(indices)).backward()
            total += float(losses.detach().sum()) / len(indices)
        return total

    def _check_finite(self, losses: torch.Tensor, indices: list[int]) -> None:
        bad = (~torch.isfinite(losses)).nonzero().flatten().tolist()
        if bad:
            index, value = indices[bad[0]], losses[bad[0]].item()
            prompt = self.task.train[index].prompt[:80]
            raise self.not_finite(f"the loss of training prompt {index} is {value} ({prompt!r})")

    def not_finite(self, what: object) -> FloatingPointError:
        return FloatingPointError(f"step {self.step}: {what}; the last checkpoint stays")


def lr_schedule(progress: float, warmup: float = 0.05, decay: float = 0.3) -> float:
    """The learning rate's factor: up over the first 5 %, flat, down to 0 over the last 30 %."""
    return min(1.0, (progress + 1e-3) / warmup, (1 - progress) / decay)
