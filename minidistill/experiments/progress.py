"""Show the progress of a grid of runs: a bar on a terminal, elsewhere a line every ten seconds.

torch is not imported here: the first line stands before it is loaded.
"""

import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

from tqdm.auto import tqdm

from minidistill.experiments.labels import run_label

EVERY = 10.0  # seconds from line to line


class Status(NamedTuple):
    """Hold where one run stands: its latest NLLs in nats per token, None before the first."""

    name: str
    seed: int
    step: int
    steps: int
    nll_teacher: float | None = None
    nll_student: float | None = None

    def __str__(self) -> str:
        if self.nll_teacher is None:
            return f"{self.name} seed {self.seed} begins"
        nlls = f"NLL {self.nll_teacher:.2f} on teacher, {self.nll_student:.2f} on student responses"
        return f"{self.name} seed {self.seed} step {self.step}/{self.steps}: {nlls}"


def first_line(names: Sequence[str], seeds: int, where: str) -> str:
    """Compose '14 runs: SFT (start), KD, …, each with seeds 0 and 1, logged in out/runs; …'."""
    numbers = "seed 0" if seeds == 1 else f"seeds 0 to {seeds - 1}"
    labels = ", ".join(map(run_label, names))
    runs = f"{len(names) * seeds} run" + "s" * (len(names) * seeds != 1)
    return f"{runs}: {labels}; {numbers}; logs in {where}. Loading torch and transformers."


def share_done(done: int, total: int, running: Sequence[Status]) -> float:
    """Compute the share of all runs' steps that are done: in [0, 1]."""
    under_way = sum(min(status.step / max(status.steps, 1), 1) for status in running)
    return (done + under_way) / max(total, 1)


def status_line(
    done: int, total: int, seconds: float, running: Sequence[Status],
    since: tuple[float, float] = (0.0, 0.0),
) -> str:  # fmt: skip
    """Compose '3 of 14 runs done, 1:02 gone, about 4:10 left; kd seed 0 step 125/625: NLL …'.

    `since`: from which second and share on the speed is taken. Before the first step there are only
    imports and sampling, which say little of the rest.
    """
    share, left = share_done(done, total, running), "time left not known yet"
    if share > since[1]:
        rate = (share - since[1]) / (seconds - since[0])
        left = f"about {_clock((1 - share) / rate)} left"
    parts = [f"{done} of {total} runs done, {_clock(seconds)} gone, {left}", *map(str, running)]
    return "; ".join(parts)


class Progress:
    """Show a grid's progress on stdout: a tqdm bar if it is a terminal, else a line now and then."""

    def __init__(self, total: int, every: float = EVERY):
        self.total, self.every, self.started = total, every, time.monotonic()
        self.finished: set[tuple[str, int]] = set()
        self.latest: dict[tuple[str, int], Status] = {}
        self.since: tuple[float, float] | None = None
        self.shown = float("-inf")
        self.bar = tqdm(total=total, unit="run") if _on_terminal() else None

    def update(self, finished: Sequence[tuple[str, int]], news: Sequence[Status]) -> None:
        """Take in the runs (name, seed) that have finished and what running ones report, and show it."""
        self.finished |= set(finished)
        latest = self.latest | {(status.name, status.seed): status for status in news}
        self.latest = {run: s for run, s in latest.items() if run not in self.finished}
        if self.bar is not None:
            self.bar.update(len(finished))
            if news:
                self.bar.set_postfix_str(str(news[-1]))
            return
        now, done = time.monotonic(), len(self.finished)
        if now - self.shown >= self.every or done == self.total:
            self.shown, running, seconds = now, list(self.latest.values()), now - self.started
            share = share_done(done, self.total, running)
            since = self.since or (seconds, share)
            print(status_line(done, self.total, seconds, running, since), flush=True)
            self.since = since if share else None

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self.bar is not None:
            self.bar.close()


def _on_terminal() -> bool:
    return sys.stdout.isatty() and sys.stderr.isatty()


def _clock(seconds: float) -> str:
    return f"{round(seconds) // 60}:{round(seconds) % 60:02d}"
