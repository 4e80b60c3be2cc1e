"""An epoch over the shipped tiny pair, ours and TRL's: `python -m tests.benchmarks.epochs`.

Off-policy: the teacher's responses are given to all, as a data set. On-policy: the student answers before
each step (ours also once before the epoch, as the paper does). Same prompts, batches, lengths, temperature;
no evaluation, no checkpoint. In turns, the median of the rounds with its range, in sequences a second.
"""

import argparse
import importlib.util
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version

import torch
from datasets import Dataset
from transformers.utils import logging

from minidistill import distill, load_pair, load_task
from minidistill.evaluation import make_probe
from minidistill.generation import decode, sample
from minidistill.scale.trainer import DistillTrainer, DistillTrainingArguments

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
SAMPLING = {"temperature": 0.8, "top_p": 0.95, "max_new_tokens": 48}
BATCH = 32


def contestants(prompts: int) -> dict[str, Callable[[], float]]:
    """Name → a function that makes an epoch with a fresh student, and returns its seconds."""
    task, pair = load_task("instruct"), load_pair("instruct")
    task = replace(task, train=task.train[:prompts], test=task.test[:2])
    tgo = sample(pair.teacher, [pair.encode(e) for e in task.train], pair, seed=0, **SAMPLING)
    rows = [
        {"prompt": e.prompt, "completion": text}
        for e, text in zip(task.train, decode(pair, tgo), strict=True)
    ]
    probe = make_probe(pair, task)
    found = {
        "off-policy, distill": lambda: _timed(
            distill, load_pair("instruct"), task, "kd", tgo=tgo, **_how(probe)
        ),
        "off-policy, DistillTrainer": lambda: _ours(rows, "kd", {"tgo": "reference"}),
        "on-policy a step, distill": lambda: _timed(
            distill,
            load_pair("instruct"),
            task,
            "imitkd",
            feed={"sgo": "on_policy_sgo"},
            **_how(probe),
        ),
        "on-policy an epoch, distill": lambda: _timed(
            distill, load_pair("instruct"), task, "imitkd", **_how(probe)
        ),
        "on-policy an epoch, DistillTrainer": lambda: _ours(rows, "imitkd", {}),
    }
    if importlib.util.find_spec("trl"):
        for name, share in (("off-policy", 0.0), ("on-policy a step", 1.0)):
            found[f"{name}, TRL {version('trl')}"] = lambda share=share: _trl(rows, share)
    return found


def _how(probe) -> dict:
    return {
        "epochs": 1, "batch_size": BATCH, "progress": False, "probe": probe, "probe_every": 10**6, **SAMPLING,
    }  # fmt: skip


def _common() -> dict:
    return {
        "per_device_train_batch_size": BATCH, "num_train_epochs": 1, "report_to": [], "save_strategy": "no",
        "logging_strategy": "no", "disable_tqdm": True, "use_cpu": not torch.cuda.is_available(),
    }  # fmt: skip


def _ours(rows: list[dict], method: str, feed: dict) -> float:
    pair = load_pair("instruct")
    with tempfile.TemporaryDirectory() as folder:
        args = DistillTrainingArguments(folder, method=method, feed=feed, **SAMPLING, **_common())
        trainer = DistillTrainer(
            pair.student, pair.teacher, args, rows, processing_class=pair.tokenizer
        )
        return _timed(trainer.train)


def _trl(rows: list[dict], share: float) -> float:
    """GKD with lambda 0 (the data's responses) or 1 (the student's), beta 0: forward KL."""
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    pair = load_pair("instruct")
    turn = lambda role, text: {"role": role, "content": text}  # noqa: E731
    talks = [
        {"messages": [turn("user", r["prompt"]), turn("assistant", r["completion"])]} for r in rows
    ]
    with tempfile.TemporaryDirectory() as folder:
        args = GKDConfig(
            folder, lmbda=share, beta=0.0, temperature=SAMPLING["temperature"], max_length=128,
            max_new_tokens=SAMPLING["max_new_tokens"], **_common(),
        )  # fmt: skip
        trainer = GKDTrainer(
            model=pair.student, teacher_model=pair.teacher, args=args,
            processing_class=pair.tokenizer, train_dataset=Dataset.from_list(talks),
        )  # fmt: skip
        return _timed(trainer.train)


def _timed(function: Callable, *args, **kwargs) -> float:
    started = time.perf_counter()
    function(*args, **kwargs)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    epochs = contestants(given.prompts)
    seconds = {name: [] for name in epochs}
    for number in range(given.rounds + 1):
        for name, epoch in epochs.items():
            took = epoch()
            if number:  # the first warms up
                seconds[name].append(took)
    print(f"\n{given.prompts} prompts, batches of {BATCH}, one thread\n")
    print("| epoch | sequences a second |\n|---|---|")
    for name in sorted(seconds):
        speeds = [given.prompts / took for took in seconds[name]]
        print(
            f"| {name} | {statistics.median(speeds):.0f} ({min(speeds):.0f} to {max(speeds):.0f}) |"
        )


if __name__ == "__main__":
    main()
