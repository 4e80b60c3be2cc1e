"""Settings chosen on the validation split, with the same budget for each method of a world.

First every rate of RATES at the method's defaults; where the best is an outermost one, the next beyond it, at
most BEYOND times; then, at the best rate, the method's other settings in KNOBS. All that on one start; the
FINALISTS best are repeated on the other starts, and the best mean over all starts wins. A score is the mean
of greedy and sampled accuracy on validation prompts, a draft's is its acceptance. These runs have seeds of
their own, and are logs too. What is searched has a name, its method's unless it is an application's arm
("int_gkd"), which has a rate of its own and else its method's settings.
"""

import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from minidistill.experiments.logs import load_runs, runs_by_seed
from minidistill.experiments.protocol import Arm, Protocol, Run

SEEDS = (100, 101, 102)  # of the search, one a start: none that a claim is judged on
FINALISTS = 3
RATE_FINALISTS = 2  # where the rate alone is searched
RATES = (5e-4, 1e-3, 2e-3, 4e-3)
BEYOND = 2
KNOBS: dict[str, tuple[dict, ...]] = {
    "gkd": ({"beta": 0.5}, {"beta": 0.1}),  # the default is the released code's 0.9
    "skl": ({"alpha": 0.01}, {"alpha": 0.3}),
    "srkl": ({"alpha": 0.01}, {"alpha": 0.3}),
    "distillm": ({"alpha": 0.01}, {"alpha": 0.3}),
    "dpkd": ({"lam": 0.03}, {"lam": 0.3}),
    "cald": ({"alpha": 0.01}, {"alpha": 0.3}),
    "distillm2": ({"alpha0": 0.01}, {"beta0": 0.3}),
    "distillm2_no_alpha": ({"alpha0": 0.01}, {"beta0": 0.3}),
    "distillm2_no_beta": ({"alpha0": 0.01}, {"beta0": 0.3}),
}


def search_name(world: str, name: str, lr: float, kwargs: dict) -> str:
    """Name a run of the search: 'arithmetic/tune_gkd_lr0.001_beta0.5'."""
    settings = "".join(f"_{key}{value:g}" for key, value in kwargs.items())
    label = f"tune_{name}_lr{lr:g}{settings}"
    return label if world == "instruct" else f"{world}/{label}"


def search_run(
    protocol: Protocol, name: str, lr: float, kwargs: dict, seed: int = SEEDS[0], arm: Arm | None = None
) -> Run:  # fmt: skip
    """Make one run of the search, measured on the validation split; `arm`: where it is not its method's."""
    arm = arm or Arm(name)
    arm = replace(arm, method_kwargs=arm.method_kwargs | kwargs, settings=arm.settings | {"lr": lr})
    run_name = search_name(protocol.world, name, lr, kwargs)
    return Run(replace(protocol, held_out="validation"), run_name, arm, seed)


def validation_score(run: Run, folder: Path | None) -> float | None:
    """The score of a run of the search, in [0, 1]; None where it was not made."""
    log = runs_by_seed(run.name, folder).get(run.seed)
    if not run.made(log):
        return None
    if run.arm.hook == "draft":
        return log["scores"]["acceptance"]
    return (log["scores"]["accuracy"] + log["scores"]["accuracy_sampled"]) / 2


def next_runs(
    protocol: Protocol, name: str, folder: Path | None = None, arm: Arm | None = None
) -> list[Run]:
    """List what the search wants next; empty when it is over."""

    def run(lr: float, kwargs: dict, seed: int = SEEDS[0]) -> Run:
        return search_run(protocol, name, lr, kwargs, seed, arm)

    rates = [run(lr, {}) for lr in RATES]
    if missing := _missing(rates, folder):
        return missing
    for _ in range(BEYOND):
        best = _best(rates, folder)
        if best is rates[-1]:
            rates.append(run(2 * best.arm.settings["lr"], {}))
        elif best is rates[0]:
            rates.insert(0, run(best.arm.settings["lr"] / 2, {}))
        else:
            break
        if missing := _missing(rates, folder):
            return missing
    lr = _best(rates, folder).arm.settings["lr"]
    if missing := _missing([run(lr, kwargs) for kwargs in KNOBS.get(name, ())], folder):
        return missing
    count = FINALISTS if arm is None else RATE_FINALISTS
    finalists = [found for found, _ in searched(protocol, name, folder, arm)[:count]]
    return _missing([replace(r, seed=seed) for seed in SEEDS[1:] for r in finalists], folder)


def searched(
    protocol: Protocol, name: str, folder: Path | None = None, arm: Arm | None = None
) -> list[tuple[Run, tuple[float, ...]]]:
    """List what a search tried with its validation score on each start, the best first.

    Finalists, by their means over all starts, come before what was tried on one start alone.
    """
    own = arm or Arm(name)
    prefix = search_name(protocol.world, name, 1, {}).removesuffix("1")
    found = []
    for run_name in (n for n in _names(protocol.world, folder) if n.startswith(prefix)):
        if log := runs_by_seed(run_name, folder).get(SEEDS[0]):
            tried = log["run"]["arm"]
            knobs = {
                k: v for k, v in tried["method_kwargs"].items() if own.method_kwargs.get(k) != v
            }
            run = search_run(protocol, name, tried["settings"]["lr"], knobs, arm=arm)
            if scores := _scores(run, folder):
                found.append((run, scores))
    first_start = sorted(found, key=lambda pair: -pair[1][0])
    return sorted(first_start, key=lambda pair: (-len(pair[1]), -statistics.mean(pair[1])))


def tuned(protocol: Protocol, name: str, folder: Path | None = None, arm: Arm | None = None) -> Arm:
    """Return the arm with the settings that won its search; ValueError where it is not over."""
    if next_runs(protocol, name, folder, arm):
        raise ValueError(
            f"the search for {name} in {protocol.world} is not over: `claims tune {protocol.world}`"
        )
    return searched(protocol, name, folder, arm)[0][0].arm


def _scores(run: Run, folder: Path | None) -> tuple[float, ...]:
    """Validation score on each start that it ran on, the first start's first; none without that."""
    scores = [validation_score(replace(run, seed=seed), folder) for seed in SEEDS]
    return () if scores[0] is None else tuple(score for score in scores if score is not None)


def _names(world: str, folder: Path | None) -> list[str]:
    logs = load_runs(world, folder)
    return list(dict.fromkeys(log["run"]["name"] for log in logs))


def _missing(runs: Sequence[Run], folder: Path | None) -> list[Run]:
    return [run for run in runs if validation_score(run, folder) is None]


def _best(runs: Sequence[Run], folder: Path | None) -> Run:
    return max(runs, key=lambda run: validation_score(run, folder))
