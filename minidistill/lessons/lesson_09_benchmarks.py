"""Lesson 09 (benchmarks): answers in three worlds, scores by data, teacher and width, pass@k, an exercise."""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from math import comb
from pathlib import Path
from statistics import mean

import torch

from minidistill.evaluation import pass_at_k
from minidistill.experiments.arms import (
    COMPARED,
    DIAL,
    FEWER_PROMPTS,
    PROTOCOLS,
    TEACHERS,
    in_world,
)
from minidistill.experiments.labels import METRIC_LABELS, run_label
from minidistill.experiments.logs import runs_by_seed
from minidistill.experiments.protocol import SAMPLES, START
from minidistill.experiments.worlds import STARTS, WIDTHS
from minidistill.generation import decode, sample
from minidistill.lessons import plots
from minidistill.lessons.checks import Exercise, checker
from minidistill.models import Pair
from minidistill.tasks import Task

PROMPT_COUNTS = (*FEWER_PROMPTS, PROTOCOLS["instruct"].prompts)
WIDTH = 64  # of instruct's student; the other widths are `WIDTHS`


# --- answers ------------------------------------------------------------------------------------------
def sample_texts(model, pair: Pair, prompts: Sequence[str], **how) -> list[str]:
    """Generate one response of `model` to each prompt; `how` goes to `generation.sample`."""
    ids = [pair.encode(prompt) for prompt in prompts]
    return decode(pair, sample(model, ids, pair, **how))


def first_answers(pair: Pair, task: Task, folder: Path | None = None) -> dict[str, list[str]]:
    """Collect greedy responses to the first test prompts: both models now, two students of seed 0."""
    examples = task.test[:SAMPLES]
    prompts = [e.prompt for e in examples]
    said = {"reference": [e.references[0] for e in examples]}
    for name, model in (("teacher", pair.teacher), (START, pair.student)):
        said[name] = sample_texts(model, pair, prompts, temperature=0.0)
    for name in ("gkd", "distillm2"):
        logs = runs_by_seed(in_world(task.name, name), folder)
        said[name] = logs[0]["samples"][-1]
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


def parameter_count_m(model) -> float:
    """Count the parameters of a model, in millions."""
    return sum(weight.numel() for weight in model.parameters()) / 1e6


# --- the scores ----------------------------------------------------------------------------------------
def gap_closed(scores: Mapping[str, float]) -> dict[str, float]:
    """Compute the share of the way from the start to the teacher: (score − start) / (teacher − start)."""
    start, way = scores[START], scores["teacher"] - scores[START]
    return {n: (s - start) / way for n, s in scores.items() if n not in (START, "teacher")}


def seed_means(rows: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Average over seeds what has any."""
    return {name: mean(values) for name, values in rows.items() if values}


def rank_agreement(a: Mapping[str, float], b: Mapping[str, float]) -> float:
    """Compute the share of pairs of methods that both put in the same order; ½ is chance.

    Kendall's τ is 2 · share − 1.
    """
    pairs = list(combinations([name for name in a if name in b], 2))
    return mean(float((a[x] - a[y]) * (b[x] - b[y]) > 0) for x, y in pairs)


# --- data, teachers, widths -----------------------------------------------------------------------------
Lines = Mapping[str, Mapping[float, Sequence[float]]]  # name → x → one number a seed


def by_size(folder: Path | None = None) -> Lines:
    """Look up accuracies (Fig 3): method → training prompts → one a seed."""
    ends = {count: f"_p{count}" for count in FEWER_PROMPTS} | {PROMPT_COUNTS[-1]: ""}
    return {
        name: _found({x: f"{name}{end}" for x, end in ends.items()}, folder) for name in COMPARED
    }


def by_teacher(parameters: Mapping[str, float], folder: Path | None = None) -> Lines:
    """Look up accuracies (Table 8): method → the teacher's parameters → one a seed.

    `parameters` by the teacher's folder: 'teacher_small', 'teacher_medium', 'teacher'.
    """
    ends = {parameters[f"teacher_{size}"]: f"_{size}_teacher" for size in TEACHERS}
    ends[parameters["teacher"]] = ""
    return {
        name: _found({x: f"{name}{end}" for x, end in sorted(ends.items())}, folder)
        for name in COMPARED
    }


def by_width(folder: Path | None = None) -> Lines:
    """Look up accuracies by the student's width: method → width → one a seed, the start among them."""
    ends = {int(w.removeprefix("width_")): f"_{w}" for w in WIDTHS} | {WIDTH: ""}
    return {
        name: _found({x: f"{name}{ends[x]}" for x in sorted(ends)}, folder)
        for name in (START, *DIAL)
    }


def _found(labels: Mapping, folder: Path | None) -> dict:
    """x → accuracies, for the runs that have logs."""
    logs = {x: runs_by_seed(label, folder) for x, label in labels.items()}
    return {
        x: [found[seed]["scores"]["accuracy"] for seed in sorted(found)]
        for x, found in logs.items()
        if found
    }


def draw_by_start(
    world: str, names: Sequence[str], ax=None, metric: str = "accuracy", title: str = "",
    folder: Path | None = None,
):  # fmt: skip
    """Draw a point a run, placed at the start that its seed drew, side by side for the methods."""
    ax = plots.axes() if ax is None else ax
    for i, (name, look) in enumerate(plots.styles(names).items()):
        logs = runs_by_seed(in_world(world, name), folder)
        for seed, log in logs.items():
            x = seed % STARTS + 0.1 * (i - (len(names) - 1) / 2)
            label = run_label(name) if seed == min(logs) else None
            ax.plot([x], [log["scores"][metric]], look.marker, color=look.color, label=label)
    ax.set_xticks(range(STARTS), [f"start {number}" for number in range(STARTS)])
    ax.set(ylabel=METRIC_LABELS[metric], ylim=(0, 1.05))
    ax.set_title(title, loc="left")
    ax.legend()
    return ax


SIDE_BY_SIDE = 1.08  # factor between the outermost of the lines, else one hides the other's bars


def draw_ranges(
    lines: Lines, ax=None, xlabel: str = "", ylabel: str = "accuracy", title: str = "", form="g"
):
    """A line a name through its means over x (log scale), with a bar from lowest to highest seed.

    `form` is how the values of x are written.
    """
    ax, looks = plots.axes() if ax is None else ax, plots.styles(list(lines))
    between = max(1, len(lines) - 1)
    moved = {
        name: {x * SIDE_BY_SIDE ** (i / between - 0.5): values for x, values in points.items()}
        for i, (name, points) in enumerate(lines.items())
    }
    paths = {n: (list(points), [mean(v) for v in points.values()]) for n, points in moved.items()}
    plots.paths(paths, ax, xlabel, ylabel, title)
    for name, points in moved.items():
        ends = [(min(values), max(values)) for values in points.values()]
        ax.vlines(list(points), *zip(*ends, strict=True), color=looks[name].color, linewidth=1)
    places = sorted({x for points in lines.values() for x in points})
    ax.set_xscale("log")
    ax.set_xticks(places, [f"{x:{form}}" for x in places])
    ax.set_xticks([], minor=True)
    return ax


# --- pass@k -------------------------------------------------------------------------------------------
def estimates(p: float, samples: int, ks: Sequence[int]) -> dict[str, list[float]]:
    """Compute pass@k and what two estimates of it are on average over `samples` draws right with chance p.

    'true' 1 − (1 − p)^k; 'unbiased' the mean of (9.1); 'plug-in' that of 1 − (1 − c/n)^k. Exact.
    """
    counts = range(samples + 1)
    chance = [comb(samples, c) * p**c * (1 - p) ** (samples - c) for c in counts]
    rules = {
        "unbiased": lambda c, k: pass_at_k(samples, c, k),
        "plug-in": lambda c, k: 1 - (1 - c / samples) ** k,
    }
    found = {"true": [1 - (1 - p) ** k for k in ks]}
    for name, rule in rules.items():
        found[name] = [sum(w * rule(c, k) for c, w in zip(counts, chance, strict=True)) for k in ks]
    return found


def correct_counts(task: Task, draws: Sequence[Sequence[str]]) -> list[int]:
    """Count the draws of each prompt that get the full grade; a draw answers each of the first prompts."""
    rows = zip(*draws, strict=True)
    return [
        sum(task.grade(e, text) >= 1 for text in texts)
        for e, texts in zip(task.test, rows, strict=False)
    ]


def pass_curve(right: Sequence[int], samples: int) -> list[float]:
    """pass@1 … pass@n, each a mean over prompts of (9.1)."""
    return [
        sum(pass_at_k(samples, c, k) for c in right) / len(right) for k in range(1, samples + 1)
    ]


def _each(rule: Callable[[int, int, int], float]) -> Callable:
    """A rule for one prompt (right, samples, k) as a function of all prompts' counts."""
    return lambda right, samples, k: torch.tensor([rule(int(c), samples, k) for c in right])


EXERCISES = {
    "pass_at_k": Exercise(
        answer=_each(lambda c, n, k: pass_at_k(n, c, k)),
        first_step="math.comb(n, k) counts the ways to choose k draws; how many of them hold no right one?",
        cases=((torch.tensor([0, 1, 2, 5]), 8, 3), (torch.tensor([0, 1, 3]), 6, 2)),
        mistakes={
            "this is 1 − (1 − c/n)^k, which puts each draw back before the next and is biased down": (
                _each(lambda c, n, k: 1 - (1 - c / n) ** k)
            ),
            "the leading 1 − is missing: you have the chance that none of k is right": (
                _each(lambda c, n, k: comb(n - c, k) / comb(n, k))
            ),
            "k is not used: c/n is pass@1": _each(lambda c, n, k: c / n),
            "c stands where n − c belongs: count the choices among the *wrong* draws": (
                _each(lambda c, n, k: 1 - comb(c, k) / comb(n, k))
            ),
            "you have the chance that *all* k are right": (
                _each(lambda c, n, k: comb(c, k) / comb(n, k))
            ),
            "k · c/n counts a choice with two right draws twice": (
                _each(lambda c, n, k: min(1, k * c / n))
            ),
        },
        edges={
            "fewer wrong draws than k (then some draw among any k is right)": (
                torch.tensor([6, 8]),
                8,
                3,
            )
        },
        gradient=False,
    ),
}
check = checker(EXERCISES)
