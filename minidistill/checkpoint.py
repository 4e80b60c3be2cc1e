"""Save and resume training: checkpoints that are whole or not there.

A checkpoint is one file, `step-00000120-<sha256>.pt`, written beside its final name and renamed,
so a crash leaves the older ones untouched. The hash in the name exposes a damaged file; the loader
names it and takes the one before. Only tensors and plain values are stored (weights_only=True).
A run is resumed only where its fingerprint, a hash of all that decides its result, is that of the checkpoint.
"""

import hashlib
import io
import json
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from minidistill.config import DistillConfig
from minidistill.evaluation import HeldOutResponses
from minidistill.models import Pair
from minidistill.runlog import atomic_write
from minidistill.tasks import Task


def plain_tensors(model: nn.Module) -> Iterator[Tensor]:
    """Every tensor that belongs to the model's state, a library's quantized ones in their parts."""
    for tensor in model.state_dict(keep_vars=True).values():
        if isinstance(tensor, Tensor):
            yield from parts(tensor)


def parts(tensor: Tensor) -> list[Tensor]:
    """The plain tensors that a library's quantized one consists of; a plain one is its own only part."""
    if hasattr(tensor, "__tensor_flatten__"):  # torchao
        return [part for n in tensor.__tensor_flatten__()[0] for part in parts(getattr(tensor, n))]
    state = getattr(tensor, "quant_state", None)  # bitsandbytes
    return [tensor.detach(), *([] if state is None else [state.absmax, state.code])]


KEEP_LAST = 2
SAVE_EVERY_SECONDS = 300


def save(folder: Path, step: int, state: dict) -> None:
    """Save `state` as the newest checkpoint and drop all but the last two up to this step."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    digest = hashlib.sha256(buffer.getbuffer()).hexdigest()[:16]
    path = folder / f"step-{step:08d}-{digest}.pt"
    atomic_write(path, buffer.getvalue())
    # Only older steps: damaged files of later ones must not push out what a resumed run writes.
    for old in [p for p in _all(folder) if p.name < path.name][: 1 - KEEP_LAST]:
        old.unlink()


def load_latest(folder: Path) -> dict | None:
    """The newest checkpoint that is whole, or None; each damaged one is named in a warning."""
    for path in reversed(_all(folder)):
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest()[:16] == path.stem.rsplit("-", 1)[1]:
            return torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
        warnings.warn(f"{path} is damaged (checksum differs); using the one before", stacklevel=2)
    return None


def fingerprint(
    pair: Pair, task: Task, config: DistillConfig, method_kwargs: dict, tgo=None
) -> str:
    """A hash of what decides a run's result: settings, examples and their words, both models' weights."""
    examples = [example.content() for example in (*task.train, *task.test)]
    tokenizers = [t for t in (pair.tokenizer, pair.teacher_tokenizer) if t is not None]
    words = [[t.chat_template, sorted(t.get_vocab().items())] for t in tokenizers]
    words += [pair.template_options, sorted(pair.eos_token_ids)]
    words += [
        [*pair.encode(example)] for example in task.train[:8]
    ]  # whatever else a tokenizer does
    words += pair.content()
    digest = hashlib.sha256(
        json.dumps([asdict(config), method_kwargs, examples, words, tgo], default=str).encode()
    )
    for model in filter(None, (pair.teacher, pair.student)):
        for tensor in plain_tensors(model):
            digest.update(tensor.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()


def check_same_run(out: Path, saved: dict, ours: str) -> None:
    """ValueError where `saved`, which `out` holds, is not the run with the fingerprint `ours`."""
    if saved["fingerprint"] != ours:
        raise ValueError(
            f"{out} holds a run of another student, other prompts, templates or settings "
            f"({saved['settings']}); give another folder, or the same ones to resume it"
        )


class Checkpointer:
    """Callback: save the run under out/checkpoints at every epoch's end, at its own end and by the clock.

    `resume` comes before training: it takes up the newest whole checkpoint, if there is one and its
    `fingerprint` is the run's.
    """

    def __init__(self, out: str | Path, fingerprint: str):
        self.out, self.fingerprint = Path(out), fingerprint

    def resume(self, trainer) -> None:
        """Give `trainer` the state of the newest checkpoint; ValueError where it is another run's."""
        saved = load_latest(self.out / "checkpoints")
        if saved is None:
            return
        check_same_run(self.out, saved, self.fingerprint)
        with torch.no_grad():
            for name, weight in trainer.trained.items():
                weight.copy_(saved["student"][name])
        trainer.optimizer.load_state_dict(saved["optimizer"])
        trainer.state.load_state_dict(saved["state"])
        trainer.rollouts.restore(saved["rollouts"])
        trainer.step = saved["step"]
        vars(trainer.history).update(saved["history"])
        trainer.history.probe = HeldOutResponses.from_dict(
            saved["probe"], trainer.pair, trainer.task
        )
        trainer.started -= trainer.history.seconds

    def on_train_begin(self, trainer) -> None:
        self.saved_at = time.monotonic()

    def on_step_end(self, trainer) -> None:
        late = time.monotonic() - self.saved_at > SAVE_EVERY_SECONDS
        if late or trainer.should_stop or trainer.step % trainer.batches_per_epoch == 0:
            self.save(trainer)

    def save(self, trainer) -> None:
        """Save what `resume` reads; FloatingPointError, and no file, for weights that are not finite."""
        if not all(w.isfinite().all() for w in trainer.trained.values()):
            raise trainer.not_finite("a weight of the student is not finite")
        config, history = trainer.config, trainer.history
        own = {name: str(value) for name, value in trainer.method_kwargs.items()}
        content = {
            "fingerprint": self.fingerprint,
            "settings": {**asdict(config), **own},
            "student": {n: w.detach() for n, w in trainer.trained.items()},  # the rest is frozen
            "optimizer": trainer.optimizer.state_dict(),
            "state": trainer.state.state_dict(),
            "history": {name: getattr(history, name) for name in ("steps", "evals", "seconds")},
            "probe": history.probe.to_dict(),
            "rollouts": trainer.rollouts.state(),
            "step": trainer.step,
        }
        save(self.out / "checkpoints", trainer.step, content)
        self.saved_at = time.monotonic()


def _all(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*-*.pt"))
