"""Run a command to its end although it is killed at random moments.

`python -m tests.killed KILLS SEED ARGUMENTS…`; LONGEST in the environment is the seconds of the last moment.

What is imported is imported once; each try is a fork of this process, which itself never trains.
"""

import os
import random
import signal
import sys
import time

import torch
from typer.testing import CliRunner

import minidistill.applications.lora
import minidistill.applications.preference_tuning
import minidistill.applications.vision.inputs
import minidistill.experiments.before_and_after
import minidistill.experiments.main_job  # noqa: F401
from minidistill.cli import app


def start(arguments: list[str]) -> int:
    child = os.fork()
    if child == 0:
        done = CliRunner().invoke(app, arguments)
        print(done.output, repr(done.exception), file=sys.stderr)
        os._exit(0 if done.exit_code == 0 else 1)
    return child


def main(kills: int, seed: int, arguments: list[str]) -> int:
    """Time one whole run elsewhere, then kill `kills` tries; the number that were killed at work."""
    rng, landed, longest = random.Random(seed), 0, float(os.environ["LONGEST"])
    for _ in range(kills):
        child = start(arguments)
        time.sleep(rng.uniform(0, longest))
        os.kill(child, signal.SIGKILL)
        landed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
    code = os.waitstatus_to_exitcode(os.waitpid(start(arguments), 0)[1])
    print(landed)
    return code


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
