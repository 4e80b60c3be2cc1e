"""The paper's claims, run and looked up by name. What each one says stands in `paper_claims.py`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from minidistill.experiments.contrasts import Claim
from minidistill.experiments.grid import run_grid
from minidistill.experiments.logs import find_run, pack_runs, runs_by_seed, runs_dir
from minidistill.experiments.paper_claims import CLAIMS
from minidistill.experiments.run_configs import (
    EVERY_CONFIG,
    TOY_RUNS,
    ExperimentConfig,
    Run,
    world_of,
)
from minidistill.experiments.runner import run_one
from minidistill.experiments.toy_kl import SEEDS as TOY_SEEDS
from minidistill.experiments.toy_kl import run_toy
from minidistill.utils import unknown_name_message

SEEDS = 5
IN_FLIGHT = Path("out/claims")  # not out/runs, which `run` keeps for its own table


def get_claim(name: str) -> Claim:
    """Return the claim of that name; ValueError lists all of them and the nearest."""
    if name.upper() not in CLAIMS:
        raise ValueError(unknown_name_message("claim", name, CLAIMS))
    return CLAIMS[name.upper()]


def run_claims(names: Sequence[str], seeds: int = SEEDS, **where) -> None:
    """Run what these claims need and has no log yet; `where` is that of `run_by_name`."""
    run_by_name([name for claim in map(get_claim, names) for name in claim.runs], seeds, **where)


def run_by_name(
    names: Sequence[str],
    seeds: int,
    folder: Path | None = None,
    in_flight: Path = IN_FLIGHT,
    base: ExperimentConfig | None = None,
) -> None:
    """Run what neither `folder` (the shipped runs) nor `in_flight` has of these, then pack it into `folder`.

    Seeds are outermost, so that all names grow together; a stopped command resumes from `in_flight`.
    """
    folder, base = folder or runs_dir(), base or ExperimentConfig()
    runs = [
        Run(replace(base, task=world_of(name)), name, EVERY_CONFIG[name], seed)
        for seed in range(seeds)
        for name in dict.fromkeys(names)
        if name not in TOY_RUNS
    ]
    if any(len(runs_by_seed(name, folder)) < TOY_SEEDS for name in TOY_RUNS.keys() & set(names)):
        run_toy(in_flight)
    missing = [run for run in runs if find_run(run, folder) is None]
    if missing:
        run_grid(missing, in_flight, run_one)
    pack_runs(in_flight, folder)
