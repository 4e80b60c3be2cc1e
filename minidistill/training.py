"""The one training loop: sample responses, score them twice, minimise a method's loss.

    for each epoch:            sample y_t (once) and y_s (anew) for all prompts, in big batches
        for each mini-batch:   loss = method(teacher and student on those responses), step

Every random draw is a function of (seed, epoch, step), never of what ran before, so a run that was
killed and resumed ends in the same bits as one that was not.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from tqdm.auto import tqdm

from minidistill import checkpoint
from minidistill.batching import seeded
from minidistill.config import DistillConfig, check_same_run, fingerprint
from minidistill.evaluation import Probe, make_probe, nll, stored_probe
from minidistill.models import Pair
from minidistill.objectives import Method, TrainState, get_method
from minidistill.rollouts import Rollouts
from minidistill.sources import feeds
from minidistill.tasks import Task

SAVE_EVERY_SECONDS = 300


@dataclass
class History:
    """What happened: one dict a step (loss, lr, beta …), one a probe (step and the two NLLs).

    `seconds` is the time spent, over all resumptions.
    """

    method: str
    steps: list[dict] = field(default_factory=list)
    probes: list[dict] = field(default_factory=list)
    probe: Probe | None = field(default=None, repr=False)
    seconds: float = 0.0


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
    epsilon: float = DistillConfig.epsilon,
    source_overrides: dict[str, str] | None = None,
    feed: dict[str, str] | None = None,
    out: str | Path | None = None,
    tgo: list[list[int]] | None = None,
    probe: Probe | None = None,
    probe_every: int | None = None,
    callback: Callable[[History], bool | None] | None = None,
    progress: bool = True,
    **method_kwargs,
) -> History:
    """Train `pair.student` in place with a method of `objectives.METHODS`.

    `source_overrides`, or `feed` for short, hands a method other responses than its slots are named
    after, {"tgo": "reference"} or {"sgo": "first_sgo"}: any of `sources.SOURCES`. `epsilon` is for the
    source `mixed`. `out`: a folder for checkpoints; the same call resumes from there. `tgo`: the
    teacher's responses to task.train as token ids, `probe`: the held-out responses; sampled here if
    None. `callback(history)` runs after every probe (each `probe_every` steps, by default four
    times an epoch); returning True stops. `method_kwargs`: the method's own settings (alpha, beta, lam,
    …), and no others.
    Raises ValueError or TypeError for settings that cannot be, FloatingPointError when a loss or a
    gradient stops being a number.
    """
    config = DistillConfig(
        method, epochs, seed, batch_size, gradient_accumulation_steps, lr, temperature, top_p,
        max_new_tokens, epsilon, {**(source_overrides or {}), **(feed or {})},
    )  # fmt: skip
    run = Run(pair, task, config, method_kwargs, Path(out) if out else None, tgo, probe)
    with torch.random.fork_rng():
        run.train(probe_every, callback, progress)
    return run.history


class Run:
    """One run's state: what a checkpoint holds, and the steps that change it."""

    def __init__(
        self, pair: Pair, task: Task, config: DistillConfig, method_kwargs: dict, out, tgo, probe
    ):
        self.pair, self.task, self.config, self.out = pair, task, config, out
        self.method: Method = get_method(config.method)
        self.method.check_settings(method_kwargs)
        self.method_kwargs = method_kwargs
        self.rollouts = Rollouts(
            pair, task, feeds(self.method.reads, config.source_overrides), config, tgo
        )
        self.trained = {n: w for n, w in pair.student.named_parameters() if w.requires_grad}
        if not self.trained:
            raise ValueError("the student has no weight to train: all of them are frozen")
        self.optimizer = torch.optim.AdamW(self.trained.values(), lr=config.lr, weight_decay=0.0)
        self.state, self.step = TrainState(epochs=config.epochs), 0
        self.history = History(config.method, probe=probe)
        self.batches_per_epoch = math.ceil(len(task.train) / config.batch_size)
        self.total_steps = config.epochs * self.batches_per_epoch
        self.started = self.saved_at = time.monotonic()
        self.fingerprint = fingerprint(pair, task, config, method_kwargs, tgo) if out else ""
        self._restore()
        self.started -= self.history.seconds

    def train(self, probe_every: int | None, callback, progress: bool) -> None:
        probe_every = probe_every or max(1, self.batches_per_epoch // 4)
        self._first_probe()
        with tqdm(total=self.total_steps, initial=self.step, disable=not progress) as self.bar:
            for epoch, indices in self._pending():
                loss = self._optimise(epoch, indices)
                self.bar.update()
                self._validate()
                if self.step % probe_every == 0 or self.step == self.total_steps:
                    self._probe(loss)
                    if callback is not None and callback(self.history):
                        break
                if time.monotonic() - self.saved_at > SAVE_EVERY_SECONDS:
                    self._save()
        self._save()

    def _pending(self) -> Iterator[tuple[int, list[int]]]:
        """The mini-batches still to do, an epoch's responses sampled before its first."""
        while self.step < self.total_steps:
            epoch, position = divmod(self.step, self.batches_per_epoch)
            if position == 0:
                self.bar.set_description(f"{self.method.name}: sampling")
                self._collect(epoch)
            self.bar.set_description(f"{self.method.name}: epoch {epoch + 1}")
            for indices in self.rollouts.batches(epoch)[position:]:
                yield epoch, indices
            self._save()

    def _collect(self, epoch: int) -> None:
        try:
            self.rollouts.collect(epoch)
        except FloatingPointError as error:
            raise FloatingPointError(
                f"step {self.step}: {error}; the last checkpoint stays"
            ) from None

    def _optimise(self, epoch: int, indices: list[int]) -> float:
        """One step on one mini-batch, in parts that add up to the gradient of the whole."""
        torch.manual_seed(seeded(self.config.seed, "step", self.step))  # for dropout
        self.pair.student.train()
        self.state.epoch, self.state.progress = epoch, self.step / self.total_steps
        self.optimizer.zero_grad()
        self.rollouts.prepare(epoch, self.step, indices, self.state.progress)
        size = math.ceil(len(indices) / self.config.gradient_accumulation_steps)
        total = 0.0
        for start in range(0, len(indices), size):
            part = indices[start : start + size]
            losses = self.method(self.rollouts.score(part), self.state, **self.method_kwargs)
            self._check_finite(losses, part)
            (losses.sum() / len(indices)).backward()
            total += float(losses.detach().sum()) / len(indices)
        rate = self.config.lr * schedule(self.state.progress)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        norm = torch.nn.utils.clip_grad_norm_(self.trained.values(), 1.0)
        if not torch.isfinite(norm):
            raise FloatingPointError(
                f"step {self.step}: the gradient is {float(norm)} (prompts {indices[:4]} …); the last "
                "checkpoint stays"
            )
        self.optimizer.step()
        self.history.steps.append(
            {"step": self.step, "epoch": epoch, "loss": total, "lr": rate, **self.state.log}
        )
        self.step += 1
        return total

    def _check_finite(self, losses: torch.Tensor, indices: list[int]) -> None:
        bad = (~torch.isfinite(losses)).nonzero().flatten().tolist()
        if bad:
            example = self.task.train[indices[bad[0]]]
            raise FloatingPointError(
                f"step {self.step}: the loss of training prompt {indices[bad[0]]} is "
                f"{losses[bad[0]].item()} ({example.prompt[:80]!r}); the last checkpoint stays"
            )

    def _validate(self) -> None:
        """Twenty times a run, for DistiLLM's sampler alone: the NLL on the held-out teacher responses."""
        if "replay" in self.rollouts.names and self.step % max(1, self.total_steps // 20) == 0:
            probe = self.history.probe
            loss = nll(self.pair.student, self.pair, probe.prompts, probe.tgo)
            self.rollouts.replay.validate(loss)
            self.state.log["phi"] = self.rollouts.replay.phi

    def _first_probe(self) -> None:
        if self.history.probe is None:
            seed = seeded(self.config.seed, "probe")
            sampling = {**self.config.sampling, "seed": seed}
            self.history.probe = make_probe(self.pair, self.task, **sampling)
        if not self.history.probes:
            self._validate()
            self._probe()

    def _probe(self, loss: float = math.nan) -> None:
        """Measure both NLLs on the fixed held-out responses; show them on the progress bar."""
        probe, student = self.history.probe, self.pair.student
        nlls = {
            "nll_teacher": nll(student, self.pair, probe.prompts, probe.tgo),
            "nll_student": nll(student, self.pair, probe.prompts, probe.sgo),
        }
        self.history.probes.append({"step": self.step, **nlls})
        self.history.seconds = time.monotonic() - self.started
        if self.step:
            self.bar.set_postfix(loss=f"{loss:.3f}", **{k: f"{v:.2f}" for k, v in nlls.items()})

    # --- checkpoints --------------------------------------------------------------------------------
    def _save(self) -> None:
        self.saved_at = time.monotonic()
        if self.out is None:
            return
        if not all(w.isfinite().all() for w in self.trained.values()):
            raise FloatingPointError(
                f"step {self.step}: a weight of the student is not finite; the last checkpoint stays"
            )
        state = {
            "fingerprint": self.fingerprint,
            "settings": {
                **asdict(self.config),
                **{k: str(v) for k, v in self.method_kwargs.items()},
            },
            "student": {n: w.detach() for n, w in self.trained.items()},  # the rest is frozen
            "optimizer": self.optimizer.state_dict(),
            "state": self.state.state_dict(),
            "history": {
                "steps": self.history.steps,
                "probes": self.history.probes,
                "seconds": self.history.seconds,
            },
            "probe": self.history.probe.stored(),
            "rollouts": self.rollouts.state(),
            "step": self.step,
        }
        checkpoint.save(self.out / "checkpoints", self.step, state)

    def _restore(self) -> None:
        state = checkpoint.load_latest(self.out / "checkpoints") if self.out else None
        if state is None:
            return
        check_same_run(self.out, state, self.fingerprint)
        with torch.no_grad():
            for name, weight in self.trained.items():
                weight.copy_(state["student"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.state.load_state_dict(state["state"])
        self.step = state["step"]
        self.rollouts.restore(state["rollouts"])
        probe = stored_probe(state["probe"], self.pair, self.task)
        self.history = History(self.method.name, **state["history"], probe=probe)


def schedule(progress: float, warmup: float = 0.05, decay: float = 0.3) -> float:
    """The learning rate's factor: up over the first 5 %, flat, down to 0 over the last 30 %."""
    return min(1.0, (progress + 1e-3) / warmup, (1 - progress) / decay)
