"""Grids of runs: an arm (what is done) times a seed, each leaving a log. The main job is one of them.

Runs go on all cores (one thread each: these models are too small to share one), or one after the
other on a GPU. A finished run leaves a log; the same command takes up where it was stopped.
"""

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, field, replace
from multiprocessing import get_context, parent_process
from pathlib import Path

import torch
from tqdm.auto import tqdm

from minidistill.applications.stages import Trained, get_stage
from minidistill.batching import seeded
from minidistill.checkpoint import atomic_write, read_log, write_log
from minidistill.evaluation import Probe, Scores, evaluate, make_probe, stored_probe
from minidistill.generation import sample
from minidistill.machine import machine
from minidistill.models import Pair, load_pair
from minidistill.objectives import get_method
from minidistill.report import METRICS, START, draw, table
from minidistill.settings import Settings, check_same_run, fingerprint
from minidistill.tasks import Task, data_dir, load_task
from minidistill.training import distill
from minidistill.watch import Watch


@dataclass(frozen=True)
class Protocol:
    """What all runs of a table have in common."""

    task: str = "instruct"
    prompts: int = 1000
    epochs: int = 5
    lr: float = 1.5e-3
    batch_size: int = 8
    temperature: float = 1.0
    draws: int = 2


@dataclass(frozen=True)
class Arm:
    """One kind of run: a method, what feeds its slots, its own settings, where it leaves the protocol.

    `prompts`: fewer than the protocol's, its first ones. `teacher`, `student`: others of the world's
    models. `stage`: what an application adds (`applications.stages`), with its own `options`.
    """

    method: str
    feed: dict = field(default_factory=dict)
    hyper: dict = field(default_factory=dict)
    settings: dict = field(default_factory=dict)
    prompts: int | None = None
    teacher: str = "teacher"
    student: str = "student"
    stage: str = ""
    options: dict = field(default_factory=dict)

    def __post_init__(self):
        get_method(self.method).check_settings(self.hyper)
        Settings(self.method, feed=self.feed, **self.settings)

    @property
    def start(self) -> str:
        """What responses before training depend on, besides the seed: '' for the world's own pair."""
        models = [self.teacher] * (self.teacher != "teacher")
        models += [self.student] * (self.student != "student")
        if get_stage(self.stage).prepare:
            models += [self.stage, *(f"{name}{value}" for name, value in self.options.items())]
        return "-".join(models)


@dataclass(frozen=True)
class Job:
    """One run: a protocol, an arm and its name ('kd', 'arithmetic/kd'), a seed."""

    protocol: Protocol
    name: str
    arm: Arm
    seed: int

    def path(self, folder: Path) -> Path:
        return folder / f"{self.protocol.task}-{self.name.rpartition('/')[2]}-{self.seed}.json"

    def settings(self) -> dict:
        """What `distill` is told: the protocol, and what the arm changes in it."""
        same = ("epochs", "lr", "batch_size", "temperature")
        return {name: getattr(self.protocol, name) for name in same} | self.arm.settings


def main_job(out: Path, methods: Sequence[str], seeds: int, protocol: Protocol) -> None:
    """Run what is not there yet, then write out/table.md and out/figures, and print both places."""
    rows = {name: Arm(name) for name in [START, *methods]}
    jobs = [Job(protocol, name, arm, seed) for seed in range(seeds) for name, arm in rows.items()]
    started = time.monotonic()
    logs = run_grid(jobs, out / "runs")
    text = table(logs)
    atomic_write(out / "table.md", text.encode())
    print(text)
    print(f"{len(jobs)} runs in {time.monotonic() - started:.0f} s. Table: {out / 'table.md'}")
    try:
        figures = draw(logs, out / "figures")
        print("Figures: " + ", ".join(map(str, figures)))
    except ModuleNotFoundError as error:
        print(f"No figures: {error}")


def run_grid(jobs: Sequence[Job], folder: Path) -> list[dict]:
    """The log of each job, in order; runs those that have none, `folder` keeps them."""
    missing = [job for job in jobs if _finished(job, folder) is None]
    cores = 1 if torch.cuda.is_available() else os.cpu_count() or 1
    workers = max(1, min(cores, len(missing)))
    context = get_context("spawn")
    news = context.Queue()
    with (
        tqdm(total=len(missing), unit="run") as bar,
        ProcessPoolExecutor(workers, context, _begin, (news,)) as pool,
    ):
        futures = {pool.submit(_run, job, folder) for job in missing}
        while futures:
            done, futures = wait(futures, timeout=0.5)
            for future in done:
                future.result()  # a run that failed says so here
            bar.update(len(done))
            while not news.empty():
                bar.set_postfix_str(news.get())
    return [_finished(job, folder) for job in jobs]


_say: Callable[[str], None] = print  # where a worker's headlines go


def _begin(news) -> None:
    """A worker's first act: one thread, headlines to the parent, and no life after the parent's."""
    global _say
    torch.set_num_threads(1)
    _say = news.put
    threading.Thread(target=_leave_with, args=(parent_process(),), daemon=True).start()


def _leave_with(parent) -> None:
    """A killed parent cannot stop its workers, and they would wait for jobs for ever."""
    parent.join()
    os._exit(1)


def _finished(job: Job, folder: Path) -> dict | None:
    """The job's log, unless it has none, a damaged one, or one of another protocol."""
    log = read_log(job.path(folder))
    if log is None:
        return None
    arm = asdict(Arm(**log["job"]["arm"]))  # a log may be older than a field of Arm
    return log if {**log["job"], "arm": arm} == asdict(job) else None


def _run(job: Job, folder: Path) -> None:
    """One job in a process of its own: same teacher responses and probe for all arms of a seed."""
    started, protocol, stage = time.monotonic(), job.protocol, get_stage(job.arm.stage)
    pair, task = _models(job), load_task(protocol.task)
    task = replace(task, train=task.train[: protocol.prompts])
    tgo, probe = _common_responses(job, folder, pair, task)
    task, tgo = replace(task, train=task.train[: job.arm.prompts]), tgo[: job.arm.prompts]
    watch = Watch(pair, task, job, lambda probe: _say(_headline(job, probe)))
    if job.arm.method != START:
        history = distill(
            pair, task, job.arm.method, seed=job.seed, tgo=tgo, probe=probe, feed=job.arm.feed,
            callback=watch, progress=False, **job.settings(), **job.arm.hyper,
        )  # fmt: skip
        watch.trained(history)
    more = stage.finish(Trained(pair, task, probe, job), **job.arm.options) if stage.finish else {}
    drawn = {"draws": protocol.draws, "seed": seeded(job.seed, "draw")}
    scores = evaluate(pair, task, probe, temperature=protocol.temperature, **drawn)
    content = {"job": asdict(job), **watch.log, **more}
    content["scores"] = {**_numbers(scores), **more.get("scores", {})}
    content["grades"] = [[round(grade, 2) for grade in row] for row in scores.grades]
    content["seconds"] = round(time.monotonic() - started, 1)
    write_log(job.path(folder), {**content, **machine()})


def _models(job: Job) -> Pair:
    """The arm's teacher and student, after what its stage does to them."""
    folder, prepare = data_dir() / job.protocol.task, get_stage(job.arm.stage).prepare
    models = {"teacher": folder / job.arm.teacher, "student": folder / job.arm.student}
    pair = load_pair(job.protocol.task, **models)
    return prepare(pair, **job.arm.options) if prepare else pair


def _common_responses(job: Job, folder: Path, pair, task: Task) -> tuple[list, Probe]:
    """The teacher's training responses and the probe: one set a seed, whatever the method."""
    protocol = job.protocol
    kind = f"responses-{job.arm.start}" if job.arm.start else "responses"
    path = folder / f"{protocol.task}-{kind}-{job.seed}.json"
    sampling = {"temperature": protocol.temperature, "seed": seeded(job.seed, "common")}
    content = read_log(path)
    if content is None or content["protocol"] != asdict(protocol):
        prompts = [pair.encode(example) for example in task.train]
        tgo = sample(pair.teacher, prompts, pair, **sampling)
        probe = make_probe(pair, task, **sampling)
        content = {"protocol": asdict(protocol), "tgo": tgo, "probe": probe.stored()}
        write_log(path, content)
    return content["tgo"], stored_probe(content["probe"], pair, task)


def distil_and_score(pair, task: Task, settings: Settings, hyper: dict, out: Path) -> dict:
    """Scores before, training, scores after; leaves out/student and out/result.json, and resumes.

    What was measured before training is kept with the responses it was measured on, so a run that
    was stopped at any moment ends with the comparison of an unbroken one.
    """
    ours, about = fingerprint(pair, task, settings, hyper), {**asdict(settings), **hyper}
    how = {"max_new_tokens": settings.max_new_tokens}
    start = read_log(out / "start.json")
    if start is None:
        probe = make_probe(pair, task, seed=settings.seed, **settings.sampling)
        scores = _numbers(evaluate(pair, task, probe, **how))
        start = {"fingerprint": ours, "settings": about, "scores": scores, "probe": probe.stored()}
        write_log(out / "start.json", start)
    check_same_run(out, start, ours)
    probe = stored_probe(start["probe"], pair, task)
    history = distill(pair, task, out=out, probe=probe, **asdict(settings), **hyper)
    result = {"before": start["scores"], "after": _numbers(evaluate(pair, task, probe, **how))}
    pair.save_student(out / "student")
    sizes = {"train_prompts": len(task.train), "test_prompts": len(task.test)}
    cost = {"seconds": round(history.seconds), **machine(), "probes": history.probes}
    write_log(out / "result.json", {**result, **about, **sizes, **cost})
    return result


def _numbers(scores: Scores) -> dict:
    return {name: getattr(scores, name) for name in (*METRICS, "no_answer")}


def _headline(job: Job, probe: dict) -> str:
    nlls = f"NLL on teacher {probe['nll_teacher']:.2f}, on student {probe['nll_student']:.2f}"
    return f"{job.name} seed {job.seed} step {probe['step']}: {nlls}"
