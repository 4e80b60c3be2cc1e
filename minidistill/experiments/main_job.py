"""The main job: the main methods from one start, a table with start and teacher, answers before and after."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from minidistill.experiments.arms import PROTOCOLS, TUNED, make_run
from minidistill.experiments.grid import run_grid
from minidistill.experiments.labels import MAIN_METHODS, METRIC_LABELS, run_label
from minidistill.experiments.ledger import log_run
from minidistill.experiments.logs import by_method, runs_by_seed
from minidistill.experiments.protocol import START, TEACHER, Arm, Run
from minidistill.experiments.reports import mean_and_spread, settings_text
from minidistill.experiments.worlds import load_world

COLUMNS = ("accuracy", "accuracy_sampled", "nll_teacher", "nll_student")
ANSWERS = 3  # prompts whose answers are printed
UNTUNED_RATE = 1e-3  # for a method that no search has settings for


def main_runs(
    methods: Sequence[str] = MAIN_METHODS, seeds: int = 1, prompts: int | None = None,
    epochs: int | None = None,
) -> list[Run]:  # fmt: skip
    """List the runs of start, methods and teacher, with the settings that the ledger's search found.

    `prompts`, `epochs`: others than the protocol's, which those settings were not chosen for.
    """
    protocol = PROTOCOLS["instruct"]
    own = {"prompts": prompts or protocol.prompts, "epochs": epochs or protocol.epochs}
    runs = []
    for seed in range(seeds):
        for name in dict.fromkeys((START, *methods, TEACHER)):
            if name in TUNED["instruct"] or name not in methods:
                run = make_run(name, seed)
            else:
                run = Run(protocol, name, Arm(name, settings={"lr": UNTUNED_RATE}), seed)
            runs.append(replace(run, protocol=replace(protocol, **own)))
    return runs


def run_main(runs: Sequence[Run], folder: Path) -> list[dict]:
    """Make these runs, where `folder` has no log yet; return their logs in order."""
    return run_grid(runs, folder, log_run)


def shipped_logs(names: Sequence[str] = (START, *MAIN_METHODS, TEACHER)) -> list[dict]:
    """Load the ledger's runs of start, main methods and teacher."""
    return [log for name in names for log in runs_by_seed(name).values()]


def main_table(logs: Sequence[dict]) -> str:
    """Compose a row a method between start and teacher: mean, ± sd over seeds where there are several."""
    heads = ["method", *(METRIC_LABELS[name] for name in COLUMNS), "settings"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name, rows in by_method(logs).items():
        cells = [mean_and_spread([row["scores"][column] for row in rows]) for column in COLUMNS]
        lines.append(
            f"| {run_label(name)} | "
            + " | ".join([*cells, settings_text(rows[0]["run"]["arm"])])
            + " |"
        )
    return "\n".join(lines) + "\n"


def answers(logs: Sequence[dict], count: int = ANSWERS) -> str:
    """Write what start, methods and teacher answer to the first held-out prompts, and if it is right."""
    task, first = load_world("instruct"), {name: rows[0] for name, rows in by_method(logs).items()}
    width, lines = max(len(run_label(name)) for name in first), []
    for place, example in enumerate(task.test[:count]):
        lines += ["", f"asked: {example.prompt}"]
        for name, log in first.items():
            said = log["samples"][-1][place]
            mark = "right" if task.grade(example, said) >= 1 else "wrong"
            lines.append(f"  {run_label(name):{width}}  {mark}  {said}")
    return "\n".join(lines[1:]) + "\n"
