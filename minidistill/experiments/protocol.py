"""The protocol of all runs: what is trained on, how models are sampled, what is measured, what a log holds.

One protocol for all methods of a world. Prompts, teacher's responses, start and probe are functions of the
seed alone, so two runs of a seed differ in the method and nothing else. No gradient is clipped and AdamW
does not see a loss's scale, so neither decides. Rates and a method's own settings come from `tuning`.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import torch

from minidistill.evaluation import (
    HeldOutResponses,
    accuracy,
    grade_responses,
    make_probe,
    nll,
    rouge_l,
)
from minidistill.experiments import variants  # noqa: F401  its methods register themselves
from minidistill.experiments.stages import TrainedRun, get_hook
from minidistill.experiments.worlds import load_start, load_world, more_prompts, world_dir
from minidistill.generation import decode, sample
from minidistill.logprobs import collate, masked_mean, response_log_probs
from minidistill.models import Pair, load_pair
from minidistill.objectives import get_method
from minidistill.runlog import environment_info, read_log, write_log
from minidistill.tasks import Task
from minidistill.training import History, distill
from minidistill.utils import derive_seed

START, TEACHER = "start", "teacher"  # rows of every table that are measured and not trained
SAMPLES = 8  # held-out prompts whose greedy responses a log keeps
TRACKED = 200  # held-out prompts that are answered on the way
MEASUREMENTS = 12  # on the way


@dataclass(frozen=True)
class Protocol:
    """Hold what all runs of a world have in common: DistillConfig's names and meanings.

    `held_out`: the split that is measured on, "validation" while settings are chosen.
    """

    world: str = "instruct"
    held_out: str = "test"
    prompts: int = 4000
    epochs: int = 3
    batch_size: int = 32
    temperature: float = 0.8
    top_p: float = 0.95

    @property
    def sampling(self) -> dict[str, float]:
        return {"temperature": self.temperature, "top_p": self.top_p}


@dataclass(frozen=True)
class Arm:
    """Hold one kind of run: a method, its responses and settings, where it leaves the protocol.

    `method`: '' for what is measured and not trained. `feed`: other sources for its slots. `method_kwargs`,
    `settings`: its own settings and `distill`'s, on top of the tuned ones. `tuned_as`: whose tuned ones it
    takes, by default its method's. `prompts`: another number than the protocol's, more than are shipped
    too. `teacher`, `student`: others of the world's models. `hook`: what an application does before or
    after training (`stages`), with its own `hook_kwargs`.
    """

    method: str
    feed: dict = field(default_factory=dict)
    method_kwargs: dict = field(default_factory=dict)
    settings: dict = field(default_factory=dict)
    tuned_as: str = ""
    prompts: int | None = None
    teacher: str = "teacher"
    student: str = "student"
    hook: str = ""
    hook_kwargs: dict = field(default_factory=dict)

    def __post_init__(self):
        if self.method:
            get_method(self.method).check_settings(self.method_kwargs)
        get_hook(self.hook)


@dataclass(frozen=True)
class Run:
    """Hold one run: the protocol, the arm with all its settings filled in, its name, a seed."""

    protocol: Protocol
    name: str
    arm: Arm
    seed: int

    def path(self, folder: Path) -> Path:
        """Name the file of the run while it is in flight."""
        return folder / f"{self.protocol.world}-{self.name.rpartition('/')[2]}-{self.seed}.json"

    def made(self, log: dict | None) -> bool:
        """Tell whether a log is this run's, and not of other settings under the same name."""
        return log is not None and log["run"] == asdict(self)

    @property
    def settings(self) -> dict:
        """Collect what `distill` is told besides the method's own settings."""
        shared = {name: getattr(self.protocol, name) for name in ("epochs", "batch_size")}
        return {
            **shared,
            **self.protocol.sampling,
            "max_grad_norm": float("inf"),
            **self.arm.settings,
        }


# --- one run --------------------------------------------------------------------------------------------
def run_one(run: Run, folder: Path, report: Callable[[int, int, dict], None]) -> dict:
    """Make one run and return its log; `report(step, steps, evals)` is told how far it is."""
    started, arm, hook = time.monotonic(), run.arm, get_hook(run.arm.hook)
    task, pair = load_prompts(run), load_models(run)
    tgo, probe = common_responses(run, folder, pair, task)
    log = {"run": asdict(run)}
    if arm.method:
        steps = run.settings["epochs"] * -(-len(task.train) // run.settings["batch_size"])
        tracker = Tracker(pair, task, run.seed, lambda row: report(row["step"], steps, row))
        history = distill(
            pair, task, arm.method, seed=run.seed, tgo=tgo, probe=probe, feed=arm.feed,
            probe_every=max(1, steps // MEASUREMENTS), callback=tracker, progress=False,
            **run.settings, **arm.method_kwargs,
        )  # fmt: skip
        log |= tracker.finish(history)
    added = {}
    if hook.after_training:
        world = run.protocol.world
        trained = TrainedRun(
            pair, task, probe, run.seed, run.protocol.sampling,
            lambda: load_start(world, run.seed, arm.teacher), partial(more_prompts, world),
        )  # fmt: skip
        added = hook.after_training(trained, **arm.hook_kwargs)
    scores, grades, said = measure(pair, task, probe, run.protocol, run.seed)
    log |= {"scores": {**scores, **added.pop("scores", {})}, "grades": grades, **added}
    log.setdefault("samples", [said[:SAMPLES]])
    return {**log, "seconds": round(time.monotonic() - started, 1), **environment_info()}


def load_prompts(run: Run) -> Task:
    """Load the run's training prompts and what it is measured on."""
    task = load_world(run.protocol.world, run.protocol.held_out)
    count = run.arm.prompts or run.protocol.prompts
    train = task.train[:count]
    if count > len(train):
        train = train + more_prompts(run.protocol.world, count - len(train))
    return replace(task, train=train)


def load_models(run: Run) -> Pair:
    """Load the run's teacher and start, and do to them what its hook does before training."""
    arm, world, prepare = run.arm, run.protocol.world, get_hook(run.arm.hook).before_training
    if arm.student == TEACHER:
        folder = world_dir(world)
        pair = load_pair(teacher=folder / arm.teacher, student=folder / TEACHER)
    else:
        pair = load_start(world, run.seed, arm.teacher, arm.student)
    return prepare(pair, **arm.hook_kwargs) if prepare else pair


def common_responses(
    run: Run, folder: Path, pair: Pair, task: Task
) -> tuple[list, HeldOutResponses]:
    """Sample or read the teacher's responses and the probe: one set for all runs that could share them."""
    arm, protocol = run.arm, run.protocol
    shared = [protocol.world, protocol.held_out, str(len(task.train)), arm.teacher, arm.student]
    if get_hook(arm.hook).before_training:
        shared += [arm.hook, *(f"{name}{value}" for name, value in arm.hook_kwargs.items())]
    path = folder / ("-".join(["responses", *shared]) + f"-{run.seed}.json")
    sampling = {**protocol.sampling, "seed": derive_seed(run.seed, "common")}
    content = read_log(path)
    if content is None or content["sampling"] != sampling:
        prompts = [pair.encode(example) for example in task.train] if arm.method else []
        tgo = sample(pair.teacher, prompts, pair, **sampling) if prompts else []
        content = {
            "sampling": sampling,
            "tgo": tgo,
            "probe": make_probe(pair, task, **sampling).to_dict(),
        }
        if arm.method:
            write_log(path, content)
    return content["tgo"], HeldOutResponses.from_dict(content["probe"], pair, task)


# --- what is measured -----------------------------------------------------------------------------------
def measure(
    pair: Pair, task: Task, probe: HeldOutResponses, protocol: Protocol, seed: int
) -> tuple[dict, list[list[float]], list[str]]:
    """Measure a student: scores, the grade of each greedy and of each sampled response, the greedy ones.

    accuracy: greedy, the headline; accuracy_sampled: one response a prompt, sampled as in training; rouge_l:
    of greedy ones; accuracy_t1 and entropy (nats per token, on the teacher's responses): how sharp it is.
    """
    prompts = [pair.encode(example) for example in task.test]

    def answer(**sampling) -> list[str]:
        drawn = sample(pair.student, prompts, pair, seed=derive_seed(seed, "measure"), **sampling)
        return decode(pair, drawn)

    greedy = answer(temperature=0.0)
    grades = [
        [grade.grade for grade in grade_responses(task, texts)]
        for texts in (greedy, answer(**protocol.sampling))
    ]
    right = [sum(grade >= 1 for grade in row) / len(row) for row in grades]
    scores = {
        "accuracy": right[0],
        "accuracy_sampled": right[1],
        "rouge_l": rouge_l(task.test, greedy),
        "nll_teacher": nll(pair.student, pair, probe.prompts, probe.tgo),
        "nll_student": nll(pair.student, pair, probe.prompts, probe.sgo),
        "accuracy_t1": accuracy(task, answer(temperature=1.0)),
        "entropy": entropy(pair, probe),
    }
    return scores, grades, greedy


@torch.no_grad()
def entropy(pair: Pair, probe: HeldOutResponses, rows: int = 64) -> float:
    """Mean over the teacher's held-out responses of (1/|y|) Σ_t H(q(· | x, y_<t)), in nats per token."""
    kept = [i for i, response in enumerate(probe.tgo) if response]
    total = 0.0
    pair.student.eval()
    for start in range(0, len(kept), rows):
        part = kept[start : start + rows]
        texts = [probe.prompts[i] for i in part], [probe.tgo[i] for i in part]
        batch = collate(*texts, pair.pad_token_id, pair.device)
        log_q = response_log_probs(pair.student, batch, pair.vocab_size)
        total += float(masked_mean(torch.special.entr(log_q.exp()).sum(-1), batch.mask).sum())
    return total / max(1, len(kept))


class Tracker:
    """Record a run while it trains: `distill`'s callback.

    evals: both NLLs, what the method logged there (loss, beta, phi …) and greedy accuracy on TRACKED held-out
    prompts; samples: of seed 0 the greedy responses to the first SAMPLES of them. Seconds are those of a
    core, which other work on the machine does not lengthen, or of the clock where a GPU works.
    """

    def __init__(self, pair: Pair, task: Task, seed: int, on_eval: Callable[[dict], None]):
        self.pair, self.seed, self.on_eval = pair, seed, on_eval
        self.task = replace(task, test=task.test[:TRACKED])
        self.prompts = [pair.encode(example) for example in self.task.test]
        self.clock = time.monotonic if pair.device.type == "cuda" else time.process_time
        self.samples, self.seconds, self.started = [], 0.0, self.clock()

    def __call__(self, history: History) -> None:
        started = self.clock()
        said = decode(
            self.pair, sample(self.pair.student, self.prompts, self.pair, temperature=0.0)
        )
        logged = {k: v for k, v in history.steps[-1].items() if k not in ("step", "epoch", "lr")}
        history.evals[-1].update(logged, accuracy=accuracy(self.task, said))
        self.samples.append(said[:SAMPLES])
        self.on_eval(history.evals[-1])
        self.seconds += self.clock() - started

    def finish(self, history: History) -> dict:
        """Return what the log keeps: curves, samples, gradient norms, seconds without these measurements."""
        norms = torch.tensor([row["grad_norm"] for row in history.steps])
        return {
            "evals": history.evals,
            "samples": self.samples if self.seed == 0 else self.samples[-1:],
            "grad_norm": {
                "median": float(norms.median()),
                "largest": float(norms.max()),
                "share_above_1": float((norms > 1).float().mean()),
            },
            "train_seconds": round(self.clock() - self.started - self.seconds, 1),
        }
