"""One run of an experiment, from its config to its log; `run_baselines` makes the main table's."""

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from math import ceil
from pathlib import Path

from minidistill import load_pair
from minidistill.evaluation import HeldOutResponses, evaluate, make_probe
from minidistill.experiments.before_and_after import score_numbers
from minidistill.experiments.grid import report_status, run_grid
from minidistill.experiments.labels import START
from minidistill.experiments.logs import write_run
from minidistill.experiments.progress import Status
from minidistill.experiments.run_configs import ExperimentConfig, Run, RunConfig
from minidistill.experiments.run_logger import RunLogger
from minidistill.experiments.stages import TrainedRun, get_hook
from minidistill.generation import sample
from minidistill.models import Pair
from minidistill.runlog import environment_info, read_log, write_log
from minidistill.tasks import Task, load_task, write_examples
from minidistill.training import distill
from minidistill.utils import data_dir, derive_seed


def run_baselines(
    methods: Sequence[str], seeds: int, experiment: ExperimentConfig, folder: Path
) -> list[dict]:
    """Run each method with each seed, unless `folder` has its log; return all logs."""
    configs = {name: RunConfig(name) for name in methods}
    runs = [
        Run(experiment, name, config, seed)
        for seed in range(seeds)
        for name, config in configs.items()
    ]
    return run_grid(runs, folder, run_one)


def run_one(run: Run, folder: Path) -> None:
    """Make one run: the same teacher responses and probe for all runs of a seed; leave its log."""
    started, experiment, hook = time.monotonic(), run.experiment, get_hook(run.config.hook)
    settings = run.settings()
    task = load_task(experiment.task)
    task = replace(task, train=task.train[: experiment.prompts])
    prompts = len(task.train[: run.config.prompts])
    steps = settings["epochs"] * ceil(prompts / settings["batch_size"])
    report_status(Status(run.name, run.seed, 0, steps))
    pair = load_models(run)
    tgo, probe = common_responses(run, folder, pair, task)
    task, tgo = replace(task, train=task.train[:prompts]), tgo[:prompts]

    def on_eval(row: dict) -> None:
        nlls = row["nll_teacher"], row["nll_student"]
        report_status(Status(run.name, run.seed, row["step"], steps, *nlls))

    logger = RunLogger(pair, task, run, on_eval)
    if run.config.method != START:
        history = distill(
            pair, task, run.config.method, seed=run.seed, tgo=tgo, probe=probe,
            feed=run.config.source_overrides, callback=logger, progress=False,
            **settings, **run.config.method_kwargs,
        )  # fmt: skip
        logger.finish(history)
    added = {}
    if hook.after_training:
        trained = TrainedRun(
            pair, task, probe, run.seed, {"temperature": experiment.temperature},
            lambda: load_pair(experiment.task),
            lambda count, seed: write_examples(task.name, count, seed, held_out=False),
        )  # fmt: skip
        added = hook.after_training(trained, **run.config.hook_kwargs)
    draws = {"draws": experiment.draws, "seed": derive_seed(run.seed, "draw")}
    scores = evaluate(pair, task, probe, temperature=experiment.temperature, **draws)
    numbers = {**score_numbers(scores), **added.pop("scores", {})}
    log = {"run": asdict(run), "scores": numbers, "seconds": round(time.monotonic() - started, 1)}
    log |= {**environment_info(), **logger.log, **added, "grades": scores.grades}
    write_run(run.path(folder), log)


def load_models(run: Run) -> Pair:
    """Load the run's teacher and student, and do to them what its hook does before training."""
    folder, prepare = data_dir() / run.experiment.task, get_hook(run.config.hook).before_training
    models = {"teacher": folder / run.config.teacher, "student": folder / run.config.student}
    pair = load_pair(run.experiment.task, **models)
    return prepare(pair, **run.config.hook_kwargs) if prepare else pair


def common_responses(run: Run, folder: Path, pair, task: Task) -> tuple[list, HeldOutResponses]:
    """Sample or read the teacher's training responses and the probe: one set a seed, whatever the method."""
    experiment, key = run.experiment, run.config.initial_state_key
    kind = f"responses-{key}" if key else "responses"
    path = folder / f"{experiment.task}-{kind}-{run.seed}.json"
    sampling = {"temperature": experiment.temperature, "seed": derive_seed(run.seed, "common")}
    content = read_log(path)
    if content is None or content["experiment"] != asdict(experiment):
        prompts = [pair.encode(example) for example in task.train]
        tgo = sample(pair.teacher, prompts, pair, **sampling)
        probe = make_probe(pair, task, **sampling)
        content = {"experiment": asdict(experiment), "tgo": tgo, "probe": probe.to_dict()}
        write_log(path, content)
    return content["tgo"], HeldOutResponses.from_dict(content["probe"], pair, task)
