"""Settings chosen on the validation split, with the same budget for each method of a world.

First every rate of RATES at the method's defaults; where the best is an outermost one, the next beyond it, at
most BEYOND times; then, at the best rate, the method's other settings in KNOBS. The best validation score,
the mean of greedy and sampled accuracy, wins. These runs have a seed of their own, and are logs too.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from minidistill.experiments.logs import ledger_dir, load_runs, runs_by_seed
from minidistill.experiments.protocol import Arm, Protocol, Run

SEED = 100  # of the search: none that a claim is judged on
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


def search_name(world: str, method: str, lr: float, kwargs: dict) -> str:
    """Name a run of the search: 'arithmetic/tune_gkd_lr0.001_beta0.5'."""
    settings = "".join(f"_{name}{value:g}" for name, value in kwargs.items())
    label = f"tune_{method}_lr{lr:g}{settings}"
    return label if world == "instruct" else f"{world}/{label}"


def search_run(protocol: Protocol, method: str, lr: float, kwargs: dict) -> Run:
    """Make one run of the search, measured on the validation split."""
    arm = Arm(method, method_kwargs=kwargs, settings={"lr": lr})
    name = search_name(protocol.world, method, lr, kwargs)
    return Run(replace(protocol, held_out="validation"), name, arm, SEED)


def validation_score(run: Run, folder: Path | None) -> float | None:
    """Mean of greedy and sampled accuracy of a run of the search, in [0, 1]; None where it was not made."""
    log = runs_by_seed(run.name, folder or ledger_dir()).get(run.seed)
    if not run.made(log):
        return None
    return (log["scores"]["accuracy"] + log["scores"]["accuracy_sampled"]) / 2


def next_runs(protocol: Protocol, method: str, folder: Path | None = None) -> list[Run]:
    """List what the search wants next; empty when it is over."""
    rates = [search_run(protocol, method, lr, {}) for lr in RATES]
    if missing := _missing(rates, folder):
        return missing
    for _ in range(BEYOND):
        best = _best(rates, folder)
        if best is rates[-1]:
            rates.append(search_run(protocol, method, 2 * best.arm.settings["lr"], {}))
        elif best is rates[0]:
            rates.insert(0, search_run(protocol, method, best.arm.settings["lr"] / 2, {}))
        else:
            break
        if missing := _missing(rates, folder):
            return missing
    lr = _best(rates, folder).arm.settings["lr"]
    return _missing([search_run(protocol, method, lr, kw) for kw in KNOBS.get(method, ())], folder)


def searched(
    protocol: Protocol, method: str, folder: Path | None = None
) -> list[tuple[Run, float]]:
    """List the runs of a method's search with their validation scores, the best first."""
    prefix = search_name(protocol.world, method, 1, {}).removesuffix("1")
    names = _names(protocol.world, folder)
    found = []
    for name in (n for n in names if n.startswith(prefix)):
        if log := runs_by_seed(name, folder or ledger_dir()).get(SEED):
            arm = log["run"]["arm"]
            run = search_run(protocol, method, arm["settings"]["lr"], arm["method_kwargs"])
            if (score := validation_score(run, folder)) is not None:
                found.append((run, score))
    return sorted(found, key=lambda pair: -pair[1])


def tuned(protocol: Protocol, method: str, folder: Path | None = None) -> Arm:
    """Return the method with the settings that won its search; ValueError where it is not over."""
    if next_runs(protocol, method, folder):
        raise ValueError(
            f"the search for {method} in {protocol.world} is not over: `ledger tune {protocol.world}`"
        )
    return searched(protocol, method, folder)[0][0].arm


def _names(world: str, folder: Path | None) -> list[str]:
    logs = load_runs(world, folder or ledger_dir())
    return list(dict.fromkeys(log["run"]["name"] for log in logs))


def _missing(runs: Sequence[Run], folder: Path | None) -> list[Run]:
    return [run for run in runs if validation_score(run, folder) is None]


def _best(runs: Sequence[Run], folder: Path | None) -> Run:
    return max(runs, key=lambda run: validation_score(run, folder))
