"""What an application adds to a run of the ledger, before distillation and after it.

An arm names its stage (`Arm.stage`) and hands it settings (`Arm.options`); responses, training and
scores are those of every run. A module of an application that has a stage calls it `STAGE`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from minidistill.errors import nearest
from minidistill.evaluation import HeldOutResponses
from minidistill.models import Pair
from minidistill.tasks import Task

MODULES = {"draft": "acceptance", "dpo": "preference_runs", "quantize": "healing"}


@dataclass(frozen=True)
class Trained:
    """A run whose distillation is over: what `finish` works on. `job` is an `experiments.Job`."""

    pair: Pair
    task: Task
    probe: HeldOutResponses
    job: object


@dataclass(frozen=True)
class Stage:
    """Two functions, either may be missing.

    `prepare(pair, **options) -> Pair`: another student (or teacher) than the shipped one, before
    responses are sampled. `finish(trained, **options) -> dict`: what the log shall hold besides; its
    "scores" join the run's. It may train `trained.pair.student` further: scores come after it.
    """

    prepare: Callable[..., Pair] | None = None
    finish: Callable[..., dict] | None = None


def get_stage(name: str) -> Stage:
    """The stage of that name, '' being none; ValueError lists all of them and the nearest."""
    if not name:
        return Stage()
    if name not in MODULES:
        raise ValueError(nearest("stage", name, MODULES))
    return import_module(f"minidistill.applications.{MODULES[name]}").STAGE
