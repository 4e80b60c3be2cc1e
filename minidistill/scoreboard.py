"""The scoreboard of lesson 09: three worlds, data sizes and teachers, the paper's figures beside ours.

Numbers come from logs (`folder`, by default the shipped ones); what the paper reports is data here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path
from statistics import mean, stdev

from minidistill import claims
from minidistill.arms import BASELINES, DOMAINS, RIVALS, SIZES, TEACHERS, world_of
from minidistill.experiments import Protocol
from minidistill.generation import decode, sample
from minidistill.models import Pair, load_pair
from minidistill.report import logs_of
from minidistill.tasks import Task, data_dir, load_task
from minidistill.watch import WATCHED

METHODS = (*BASELINES, "distillm2")
CONTENDERS = (*RIVALS, "distillm2")
ALL_SIZES = (*SIZES, Protocol().prompts)
LABELS = {
    "teacher": "teacher", "sft": "SFT (start)", "seqkd": "SeqKD", "kd": "KD", "imitkd": "ImitKD",
    "gkd": "GKD", "distillm": "DistiLLM", "speculative_kd": "Speculative KD", "distillm2": "DistiLLM-2",
}  # fmt: skip


@dataclass(frozen=True)
class Cited:
    """What the paper (arXiv 2503.07067) reports of one domain: where, what was measured, per cent."""

    where: str
    what: str
    scores: dict[str, float]


PAPER = {
    "instruct": Cited(
        "Table 2",
        "win rate, Qwen2 7B → 1.5B",
        {
            "teacher": 76.12,
            "sft": 30.33,
            "seqkd": 41.83,
            "kd": 41.19,
            "imitkd": 43.29,
            "gkd": 56.14,
            "distillm": 56.35,
            "speculative_kd": 54.43,
            "distillm2": 58.69,
        },
    ),  # fmt: skip
    "arithmetic": Cited(
        "Table 3",
        "GSM8K, Qwen2-Math",
        {"teacher": 83.93, "sft": 74.53, "gkd": 75.44, "distillm": 75.59, "distillm2": 76.27},
    ),
    "program": Cited(
        "Table 4",
        "HumanEval, DS-Coder",
        {"teacher": 85.37, "sft": 50.61, "gkd": 54.88, "distillm": 53.65, "distillm2": 59.92},
    ),
}
# Table 8: win rate of a Qwen1.5-0.5B student by the teacher's parameters in billions.
PAPER_TEACHERS = {
    "gkd": {1.8: 64.18, 7: 71.15, 14: 72.59},
    "distillm": {1.8: 65.23, 7: 72.11, 14: 72.11},
    "distillm2": {1.8: 66.31, 7: 74.86, 14: 76.78},
}


# --- answers ------------------------------------------------------------------------------------------
def answers(model, pair: Pair, prompts: Sequence[str], **how) -> list[str]:
    """One response of `model` to each prompt; `how` goes to `generation.sample`."""
    ids = [pair.encode(prompt) for prompt in prompts]
    return decode(pair, sample(model, ids, pair, **how))


def first_answers(pair: Pair, task: Task, folder: Path | None = None) -> dict[str, list[str]]:
    """Who → greedy answers to the first held-out prompts: both models now, two students from seed 0's log."""
    examples = task.test[:WATCHED]
    prompts = [e.prompt for e in examples]
    said = {"reference": [e.references[0] for e in examples]}
    for name, model in (("teacher", pair.teacher), ("sft", pair.student)):
        said[name] = answers(model, pair, prompts, temperature=0.0)
    for name in ("gkd", "distillm2"):
        arm = f"{task.name}/{name}".removeprefix("instruct/")
        said[name] = logs_of(arm, _runs(folder))[0]["answers"][-1]
    return said


def sample_table(task: Task, said: Mapping[str, Sequence[str]], number: int = 0) -> str:
    """Markdown: what each said to held-out prompt `number`, and the grader's reason and grade."""
    prompt = task.test[number].prompt
    rows = [f"**{task.name}** · {prompt}", "", "| who | response | verdict |", "|---|---|---|"]
    for name, texts in said.items():
        graded = task.explain(prompt, texts[number])
        text = f"`{texts[number]}`" if texts[number] else ""
        rows.append(f"| {LABELS.get(name, name)} | {text} | {graded.reason} ({graded.grade:.2g}) |")
    return "\n".join(rows) + "\n"


@cache
def teacher_accuracy(world: str, teacher: str = "teacher", prompts: int = 200) -> float:
    """A shipped teacher's accuracy on the first held-out prompts, sampled at T = 1 as in the logs."""
    task, pair = load_task(world), load_pair(world, teacher=data_dir() / world / teacher)
    asked = [e.prompt for e in task.test[:prompts]]
    said = answers(pair.teacher, pair, asked, temperature=Protocol().temperature)
    return mean(task.grade(x, y) >= 1 for x, y in zip(asked, said, strict=True))


def millions(model) -> float:
    """Parameters of a model, in millions."""
    return sum(weight.numel() for weight in model.parameters()) / 1e6


# --- the board ----------------------------------------------------------------------------------------
def accuracies(name: str, folder: Path | None = None) -> list[float]:
    """The accuracy of an arm ('arithmetic/kd'), one number a seed; empty where it has no logs."""
    name = name.removeprefix("instruct/")
    return [log["scores"]["accuracy"] for log in logs_of(name, _runs(folder)).values()]


def board(
    teachers: Mapping[str, float] | None = None, folder: Path | None = None
) -> dict[str, dict]:
    """World → who → accuracies by seed: every method's, after the teacher's (by world) if given."""
    found = {w: {name: accuracies(f"{w}/{name}", folder) for name in METHODS} for w in DOMAINS}
    if teachers is None:
        return found
    return {world: {"teacher": [teachers[world]], **rows} for world, rows in found.items()}


def board_table(found: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Markdown: a row a method; for each world mean ± sd over seeds in per cent, and the paper's figure."""
    heads = [
        f"{world} | {PAPER[world].where}: {PAPER[world].what}" for world in found
    ]  # two columns each
    lines = ["| | " + " | ".join(heads) + " |", "|---|" + "---:|" * (2 * len(heads))]
    shown = [name for name in LABELS if all(name in rows for rows in found.values())]
    for name in shown:
        cells = []
        for world, rows in found.items():
            cited = PAPER[world].scores.get(name)
            cells += [_cell(rows[name]), "–" if cited is None else f"{cited:.2f}"]
        lines.append(f"| {LABELS[name]} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def closed(scores: Mapping[str, float]) -> dict[str, float]:
    """Method → share of the way from the SFT student to the teacher: (score − sft) / (teacher − sft)."""
    start, way = scores["sft"], scores["teacher"] - scores["sft"]
    return {n: (s - start) / way for n, s in scores.items() if n not in ("sft", "teacher")}


def means(rows: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The mean over seeds of what has any."""
    return {name: mean(values) for name, values in rows.items() if values}


def same_order(a: Mapping[str, float], b: Mapping[str, float]) -> float:
    """Of all pairs of methods that both know, the share that both put in the same order; ½ is chance."""
    pairs = list(combinations([name for name in a if name in b], 2))
    return mean(float((a[x] - a[y]) * (b[x] - b[y]) > 0) for x, y in pairs)


def judged(claim: str, folder: Path | None = None) -> dict[str, dict[str, claims.Result]]:
    """World → rival ('gkd', 'gkd_p250') → result, for a claim whose contrasts are all winner − rival."""
    found: dict[str, dict[str, claims.Result]] = {}
    for contrast in claims.get_claim(claim).contrasts:
        _, rival = contrast.weights
        rows = found.setdefault(world_of(rival), {})
        rows[rival.rpartition("/")[2]] = claims.judge(contrast, _runs(folder))
    return found


# --- data and teachers --------------------------------------------------------------------------------
def at_size(method: str, prompts: int) -> str:
    """The arm of a method that trains on so many prompts: 'gkd_p250', or 'gkd' for all of them."""
    return method if prompts == ALL_SIZES[-1] else f"{method}_p{prompts}"


def by_size(world: str, folder: Path | None = None) -> dict[str, dict[int, list[float]]]:
    """Method → number of training prompts → accuracies by seed (Fig 3); what has no logs is left out."""
    return {
        name: _found(world, {prompts: at_size(name, prompts) for prompts in ALL_SIZES}, folder)
        for name in CONTENDERS
    }


def by_teacher(
    parameters: Mapping[str, float], folder: Path | None = None
) -> dict[str, dict[float, list[float]]]:
    """Method → the teacher's parameters → accuracies by seed in the instruct world (Table 8).

    `parameters` by the teacher's folder: 'teacher_small', 'teacher_medium', 'teacher'.
    """
    sizes = {size: f"_{size}_teacher" for size in TEACHERS}
    ends = {parameters[f"teacher_{size}"]: end for size, end in sizes.items()}
    ends[parameters["teacher"]] = ""
    return {
        name: _found("instruct", {x: f"{name}{end}" for x, end in sorted(ends.items())}, folder)
        for name in CONTENDERS
    }


def _found(world: str, labels: Mapping, folder: Path | None) -> dict:
    """x → accuracies, for the arms that have logs."""
    found = {x: accuracies(f"{world}/{label}", folder) for x, label in labels.items()}
    return {x: values for x, values in found.items() if values}


def _cell(values: Sequence[float]) -> str:
    if not values:
        return "–"
    spread = f" ± {100 * stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * mean(values):.1f}{spread}"


def _runs(folder: Path | None) -> Path:
    return folder or data_dir() / "runs"
