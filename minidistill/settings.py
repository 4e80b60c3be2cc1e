"""What decides a run's result: its settings, and the fingerprint by which a run knows itself again."""

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

from minidistill.divergences import check_unit_interval
from minidistill.models import Pair
from minidistill.objectives import get_method
from minidistill.sources import feeds
from minidistill.storage import plain_tensors
from minidistill.tasks import Task


@dataclass(frozen=True)
class Settings:
    """All that decides a run's result, besides the models and the task."""

    method: str = "distillm2"
    epochs: int = 3
    seed: int = 0
    batch_size: int = 32
    accumulate: int = 1
    lr: float = 1e-3
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 48
    epsilon: float = 0.5
    feed: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        for name in ("epochs", "batch_size", "accumulate", "max_new_tokens"):
            if not (isinstance(getattr(self, name), int) and getattr(self, name) >= 1):
                raise ValueError(
                    f"{name} must be a whole number from 1, but got {getattr(self, name)}"
                )
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr must be positive, but got {self.lr}")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature must be positive, but got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], but got {self.top_p}")
        check_unit_interval("epsilon", self.epsilon)
        feeds(get_method(self.method).reads, self.feed)

    @property
    def sampling(self) -> dict:
        names = ("temperature", "top_p", "max_new_tokens")
        return {name: getattr(self, name) for name in names}


def fingerprint(pair: Pair, task: Task, settings: Settings, hyper: dict, tgo=None) -> str:
    """A hash of what decides a run's result: settings, prompts, references, both models' weights."""
    examples = [example.content() for example in (*task.train, *task.test)]
    digest = hashlib.sha256(
        json.dumps([asdict(settings), hyper, examples, tgo], default=str).encode()
    )
    for model in filter(None, (pair.teacher, pair.student)):
        for tensor in plain_tensors(model):
            digest.update(tensor.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()


def check_same_run(out: Path, saved: dict, ours: str) -> None:
    """ValueError where `saved`, which `out` holds, is not the run with the fingerprint `ours`."""
    if saved["fingerprint"] != ours:
        raise ValueError(
            f"{out} holds a run of another student, other prompts or other settings "
            f"({saved['settings']}); give another folder, or the same ones to resume it"
        )
