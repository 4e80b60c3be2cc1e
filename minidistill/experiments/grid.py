"""Grids of runs on all cores, resumable: a finished run leaves a file, and is not made again.

One thread a run: these models are too small to share one. On a GPU runs go one after the other.
"""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Protocol

import torch

from minidistill.experiments.logs import read_run
from minidistill.experiments.progress import Progress, Status


class GridRun(Protocol):
    """What a grid is made of: a name, a seed, the file of its log, and whether a log is its own."""

    name: str
    seed: int

    def path(self, folder: Path) -> Path: ...

    def made(self, log: dict | None) -> bool: ...


def run_grid(
    runs: Sequence[GridRun], folder: Path, run_one: Callable, workers: int | None = None
) -> list[dict]:
    """Call `run_one(run, folder)` where `folder` has no log yet; return the log of each, in order.

    `workers`: how many at once, by default one a core, or one where there is a GPU.
    """
    missing = [run for run in runs if finished_run(run, folder) is None]
    cores = 1 if torch.cuda.is_available() else os.cpu_count() or 1
    workers = max(1, min(workers or cores, len(missing)))
    context = get_context("spawn")
    status_queue, progress = context.Queue(), Progress(len(missing))
    with ProcessPoolExecutor(workers, context, init_worker, (status_queue,)) as pool:
        futures = {pool.submit(run_one, run, folder): run for run in missing}
        waiting = set(futures)
        while waiting:
            done, waiting = wait(waiting, timeout=0.5)
            for future in done:
                future.result()  # a run that failed says so here
            news = []
            while not status_queue.empty():
                news.append(status_queue.get())
            progress.update([(futures[f].name, futures[f].seed) for f in done], news)
    progress.close()
    return [finished_run(run, folder) for run in runs]


def finished_run(run: GridRun, folder: Path) -> dict | None:
    """Read the run's log, unless it has none, a damaged one, or one of another config."""
    log = read_run(run.path(folder))
    return log if run.made(log) else None


_send: Callable[[Status], None] = print  # a worker's goes to the parent


def report_status(status: Status) -> None:
    """Tell the parent, or whoever reads stdout, where a run stands."""
    _send(status)


def init_worker(status_queue) -> None:
    """Begin a worker: one thread, its status to the parent, and no life after the parent's."""
    global _send
    torch.set_num_threads(1)
    _send = status_queue.put
    threading.Thread(target=exit_with_parent, args=(parent_process(),), daemon=True).start()


def exit_with_parent(parent) -> None:
    """Exit when the parent does: killed, it cannot stop its workers, and they would wait for ever."""
    parent.join()
    os._exit(1)
