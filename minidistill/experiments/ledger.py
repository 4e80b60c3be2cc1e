"""The ledger: which runs there are, and making those that lack. `data/ledger/<world>.jsonl`, a run a line."""

from collections.abc import Sequence
from pathlib import Path

from minidistill.experiments import toy_kl
from minidistill.experiments.arms import APPLICATIONS, TUNED, get_protocol, make_run, searched_arm
from minidistill.experiments.grid import report_status, run_grid
from minidistill.experiments.logs import ledger_dir, pack_runs, runs_by_seed, write_run
from minidistill.experiments.progress import Status
from minidistill.experiments.protocol import Run, run_one
from minidistill.experiments.tuning import next_runs
from minidistill.runlog import claim_folder
from minidistill.utils import unknown_name_message

IN_FLIGHT = Path("out/ledger")


def log_run(run: Run, folder: Path) -> None:
    """Make a run and leave its log in `folder`."""

    def report(step: int, steps: int, row: dict) -> None:
        nlls = row["nll_teacher"], row["nll_student"]
        report_status(Status(run.name, run.seed, step, steps, *nlls))

    write_run(run.path(folder), run_one(run, folder, report))


def tune(
    world: str, names: Sequence[str] = (), folder: Path | None = None, in_flight: Path = IN_FLIGHT,
    workers: int | None = None,
) -> None:  # fmt: skip
    """Search settings of a world's methods, or of the methods and application arms named; resumes."""
    folder, protocol = folder or ledger_dir(), get_protocol(world)
    known = (*TUNED[world], *(APPLICATIONS if world == "instruct" else ()))
    for name in names:
        if name not in known:
            raise ValueError(unknown_name_message("search", name, known))
    names = names or TUNED[world]
    while True:
        arms = {name: searched_arm(world, name, folder) for name in names}
        wanted = [r for n, arm in arms.items() for r in next_runs(protocol, n, folder, arm)]
        if not wanted:
            return
        make_runs(wanted, folder, in_flight, workers)


def run_arms(
    names: Sequence[str], seeds: Sequence[int], folder: Path | None = None, in_flight: Path = IN_FLIGHT,
    workers: int | None = None,
) -> None:  # fmt: skip
    """Run these arms with these seeds where the ledger lacks them, seed after seed: all grow together.

    The toy runs of C1 take no time: they are made all at once if any lacks.
    """
    folder = folder or ledger_dir()
    toys, names = set(names) & set(toy_kl.RUNS), [n for n in names if n not in toy_kl.RUNS]
    if any(len(runs_by_seed(name, folder)) < toy_kl.SEEDS for name in toys):
        toy_kl.run_toy(in_flight)
    runs = [make_run(name, seed, folder) for seed in seeds for name in dict.fromkeys(names)]
    make_runs([run for run in runs if find(run, folder) is None], folder, in_flight, workers)


def make_runs(
    runs: Sequence[Run], folder: Path, in_flight: Path, workers: int | None = None
) -> None:
    """Make runs and pack them into `folder`; ValueError where others are being made in `in_flight`."""
    with claim_folder(in_flight):
        if runs:
            run_grid(runs, in_flight, log_run, workers)
        pack_runs(in_flight, folder)


def find(run: Run, folder: Path) -> dict | None:
    """Look up the log of exactly this run; None where there is none, or one of other settings."""
    log = runs_by_seed(run.name, folder).get(run.seed)
    return log if run.made(log) else None
