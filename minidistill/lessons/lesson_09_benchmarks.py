"""Lesson 09: what models answer in three worlds, how far methods close the gap, data sizes and teachers.

Numbers come from logs (`folder`, by default the shipped ones).
"""

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import combinations
from pathlib import Path
from statistics import mean

from minidistill.experiments.claims import get_claim
from minidistill.experiments.contrasts import Result, judge
from minidistill.experiments.labels import run_label
from minidistill.experiments.logs import runs_by_seed
from minidistill.experiments.run_configs import (
    COMPARED,
    FEWER_PROMPTS,
    TEACHERS,
    ExperimentConfig,
    in_world,
    world_of,
)
from minidistill.experiments.run_logger import NUM_SAMPLES
from minidistill.experiments.tables import accuracies
from minidistill.generation import decode, sample
from minidistill.models import Pair, load_pair
from minidistill.tasks import Task, load_task
from minidistill.utils import data_dir

PROMPT_COUNTS = (*FEWER_PROMPTS, ExperimentConfig().prompts)


# --- answers ------------------------------------------------------------------------------------------
def answers(model, pair: Pair, prompts: Sequence[str], **how) -> list[str]:
    """Generate one response of `model` to each prompt; `how` goes to `generation.sample`."""
    ids = [pair.encode(prompt) for prompt in prompts]
    return decode(pair, sample(model, ids, pair, **how))


def first_answers(pair: Pair, task: Task, folder: Path | None = None) -> dict[str, list[str]]:
    """Collect greedy responses to the first held-out prompts: both models now, two students of seed 0."""
    examples = task.test[:NUM_SAMPLES]
    prompts = [e.prompt for e in examples]
    said = {"reference": [e.references[0] for e in examples]}
    for name, model in (("teacher", pair.teacher), ("sft", pair.student)):
        said[name] = answers(model, pair, prompts, temperature=0.0)
    for name in ("gkd", "distillm2"):
        said[name] = runs_by_seed(in_world(task.name, name), folder)[0]["samples"][-1]
    return said


def sample_table(task: Task, said: Mapping[str, Sequence[str]], number: int = 0) -> str:
    """Compose what each said to held-out prompt `number`, and the grader's reason and grade."""
    prompt = task.test[number].prompt
    rows = [f"**{task.name}** · {prompt}", "", "| who | response | verdict |", "|---|---|---|"]
    for name, texts in said.items():
        graded = task.explain(prompt, texts[number])
        text = f"`{texts[number]}`" if texts[number] else ""
        rows.append(f"| {run_label(name)} | {text} | {graded.reason} ({graded.grade:.2g}) |")
    return "\n".join(rows) + "\n"


@cache
def teacher_accuracy(world: str, teacher: str = "teacher", prompts: int = 200) -> float:
    """Measure a shipped teacher's accuracy on the first held-out prompts, sampled at T = 1 as in the logs."""
    task, pair = load_task(world), load_pair(world, teacher=data_dir() / world / teacher)
    asked = [e.prompt for e in task.test[:prompts]]
    said = answers(pair.teacher, pair, asked, temperature=ExperimentConfig().temperature)
    return mean(task.grade(x, y) >= 1 for x, y in zip(asked, said, strict=True))


def parameter_count_m(model) -> float:
    """Count the parameters of a model, in millions."""
    return sum(weight.numel() for weight in model.parameters()) / 1e6


# --- the scores ----------------------------------------------------------------------------------------
def gap_closed(scores: Mapping[str, float]) -> dict[str, float]:
    """Compute the share of the way from the SFT student to the teacher: (score − sft) / (teacher − sft)."""
    start, way = scores["sft"], scores["teacher"] - scores["sft"]
    return {n: (s - start) / way for n, s in scores.items() if n not in ("sft", "teacher")}


def seed_means(rows: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Average over seeds what has any."""
    return {name: mean(values) for name, values in rows.items() if values}


def rank_agreement(a: Mapping[str, float], b: Mapping[str, float]) -> float:
    """Compute the share of pairs of methods that both put in the same order; ½ is chance.

    Kendall's τ is 2 · share − 1.
    """
    pairs = list(combinations([name for name in a if name in b], 2))
    return mean(float((a[x] - a[y]) * (b[x] - b[y]) > 0) for x, y in pairs)


def claim_results(claim: str, folder: Path | None = None) -> dict[str, dict[str, Result]]:
    """Judge a claim: world → rival ('gkd', 'gkd_p250') → result, where all contrasts are winner − rival."""
    found: dict[str, dict[str, Result]] = {}
    for contrast in get_claim(claim).contrasts:
        _, rival = contrast.weights
        rows = found.setdefault(world_of(rival), {})
        rows[rival.rpartition("/")[2]] = judge(contrast, folder)
    return found


# --- data and teachers --------------------------------------------------------------------------------
def run_name_at_size(method: str, prompts: int) -> str:
    """Name the run of a method that trains on so many prompts: 'gkd_p250', or 'gkd' for all of them."""
    return method if prompts == PROMPT_COUNTS[-1] else f"{method}_p{prompts}"


def by_size(world: str, folder: Path | None = None) -> dict[str, dict[int, list[float]]]:
    """Look up accuracies by seed (Fig 3): method → training prompts → accuracies of what has logs."""
    return {
        name: _found(world, {n: run_name_at_size(name, n) for n in PROMPT_COUNTS}, folder)
        for name in COMPARED
    }


def by_teacher(
    parameters: Mapping[str, float], folder: Path | None = None
) -> dict[str, dict[float, list[float]]]:
    """Look up accuracies by seed (Table 8): method → the teacher's parameters → accuracies in instruct.

    `parameters` by the teacher's folder: 'teacher_small', 'teacher_medium', 'teacher'.
    """
    sizes = {size: f"_{size}_teacher" for size in TEACHERS}
    ends = {parameters[f"teacher_{size}"]: end for size, end in sizes.items()}
    ends[parameters["teacher"]] = ""
    return {
        name: _found("instruct", {x: f"{name}{end}" for x, end in sorted(ends.items())}, folder)
        for name in COMPARED
    }


def _found(world: str, labels: Mapping, folder: Path | None) -> dict:
    """x → accuracies, for the runs that have logs."""
    found = {x: accuracies(f"{world}/{label}", folder) for x, label in labels.items()}
    return {x: values for x, values in found.items() if values}
