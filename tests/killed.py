"""Run a command to its end although it is killed at random moments.

`python -m tests.killed KILLS LONGEST OUT ARGUMENTS…`: KILLS tries are killed, and the next one goes on in the
same working directory OUT. Every other try is killed within LONGEST seconds of its start, the others within a
tenth of that after the first change among the files in OUT: where it has just saved something. Where a try is
over before its kill, OUT becomes OUT-1 (then OUT-2, …) and the run starts anew from what OUT held at first:
each kill hits a command at work. Printed is how many different sets of files the kills have left. The disk is
made slow, so that kills hit half-written files too.

What is imported is imported once; each try is a fork of this process, which itself never trains.
"""

import os
import random
import shutil
import signal
import sys
import time
from itertools import count
from pathlib import Path

import torch
from typer.testing import CliRunner

import minidistill.applications.lora
import minidistill.applications.preference_tuning
import minidistill.applications.vision.inputs
import minidistill.experiments.before_and_after
import minidistill.experiments.main_job
import minidistill.scale.trainer  # noqa: F401
from minidistill.cli import app
from minidistill.experiments.arms import ARMS
from minidistill.experiments.protocol import Arm

SYNC_SECONDS, fsync = 0.1, os.fsync


def slow_fsync(file: int) -> None:
    fsync(file)
    time.sleep(SYNC_SECONDS)


os.fsync = slow_fsync
ARMS["kd_p64"] = Arm("kd", prompts=64)  # for `claims run`: over in seconds


def start(arguments: list[str], out: Path) -> int:
    child = os.fork()
    if child == 0:
        os.chdir(out)
        # A fork renews torch's pool of threads at the first such call; two loaders at once may both make it.
        torch.set_num_threads(1)
        done = CliRunner().invoke(app, arguments)
        print(done.output, repr(done.exception), file=sys.stderr)
        os._exit(0 if done.exit_code == 0 else 1)
    return child


def files(folder: Path) -> frozenset[str]:
    return frozenset(
        os.path.join(at, name)
        for at, _, names in os.walk(folder)
        for name in names
        if not name.startswith(".")  # locks
    )


def ended(child: int, out: Path, seconds: float, after_change: bool) -> int | None:
    """The status of a child that is over within these seconds; one that is not is killed."""
    before, until = files(out), float("inf") if after_change else time.monotonic() + seconds
    while time.monotonic() < until:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status
        if after_change and files(out) != before:
            until, after_change = time.monotonic() + seconds / 10, False
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    return None if os.WIFSIGNALED(status) else status


def main(kills: int, longest: float, out: Path, arguments: list[str]) -> None:
    rng, names, initial = random.Random(0), count(1), out.with_name(f"{out.name}-0")
    shutil.copytree(out, initial)
    left = set()
    while True:
        seconds = rng.uniform(0, longest) if kills else float("inf")
        status = ended(start(arguments, out), out, seconds, bool(kills % 2))
        if status is None:
            kills -= 1
            left.add(files(out))
        elif status:
            sys.exit(1)
        elif not kills:
            print(len(left))
            return
        else:
            out.rename(out.with_name(f"{out.name}-{next(names)}"))
            shutil.copytree(initial, out)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
