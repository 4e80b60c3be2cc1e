"""Lesson 09 (benchmarks): accuracies by method, data and teacher; win rates, pass@k, the exercises."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import combinations
from math import comb
from pathlib import Path
from statistics import mean

import torch

from minidistill import load_pair
from minidistill.evaluation import bootstrap_interval, pass_at_k
from minidistill.experiments import tables
from minidistill.experiments.claims import get_claim
from minidistill.experiments.contrasts import Result, judge
from minidistill.experiments.labels import run_label
from minidistill.experiments.logs import runs_by_seed
from minidistill.experiments.run_configs import (
    BASELINES,
    COMPARED,
    DOMAINS,
    FEWER_PROMPTS,
    STRONG_BASELINES,
    TEACHERS,
    ExperimentConfig,
    in_world,
    world_of,
)
from minidistill.experiments.run_logger import NUM_SAMPLES
from minidistill.experiments.tables import accuracies
from minidistill.generation import decode, sample
from minidistill.lessons import plots
from minidistill.lessons.checks import Exercise, checker
from minidistill.lessons.run_plots import differences
from minidistill.models import Pair
from minidistill.tasks import Task, load_task
from minidistill.utils import data_dir

PROMPT_COUNTS = (*FEWER_PROMPTS, ExperimentConfig().prompts)


# --- answers ------------------------------------------------------------------------------------------
def sample_texts(model, pair: Pair, prompts: Sequence[str], **how) -> list[str]:
    """Generate one response of `model` to each prompt; `how` goes to `generation.sample`."""
    ids = [pair.encode(prompt) for prompt in prompts]
    return decode(pair, sample(model, ids, pair, **how))


def first_answers(pair: Pair, task: Task, folder: Path | None = None) -> dict[str, list[str]]:
    """Collect greedy responses to the first held-out prompts: both models now, two students of seed 0."""
    examples = task.test[:NUM_SAMPLES]
    prompts = [e.prompt for e in examples]
    said = {"reference": [e.references[0] for e in examples]}
    for name, model in (("teacher", pair.teacher), ("sft", pair.student)):
        said[name] = sample_texts(model, pair, prompts, temperature=0.0)
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
    said = sample_texts(pair.teacher, pair, asked, temperature=ExperimentConfig().temperature)
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


def false_positive_counts(
    rivals: int = len(BASELINES), worlds: int = len(DOMAINS), seeds: int = 5, tables: int = 100
) -> list[int]:
    """Count the contrasts of a table that get a verdict where none should: no method differs from another.

    Every run is a normal draw; in each world one method's seeds are compared with each rival's, and
    `bootstrap_interval` decides as in the ledger. One number a table.
    """
    generator = torch.Generator().manual_seed(0)
    runs = torch.randn(tables, worlds, rivals + 1, seeds, generator=generator, dtype=torch.float64)
    found = []
    for table in (runs[:, :, :1] - runs[:, :, 1:]).flatten(1, 2):
        ends = [bootstrap_interval(contrast) for contrast in table]
        found.append(sum(low > 0 or high < 0 for low, high in ends))
    return found


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


Lines = Mapping[str, Mapping[float, Sequence[float]]]  # name → x → one number a seed
SIDE_BY_SIDE = 1.04  # factor between the lines of two names, else one hides the other's bars


def draw_ranges(
    lines: Lines, ax=None, xlabel: str = "", ylabel: str = "accuracy", title: str = "", form="g"
):
    """A line a name through its means over x (log scale), with a bar from lowest to highest seed.

    `form` is how the values of x are written.
    """
    ax, looks = plots.axes() if ax is None else ax, plots.styles(list(lines))
    middle = (len(lines) - 1) / 2
    moved = {
        name: {x * SIDE_BY_SIDE ** (i - middle): values for x, values in points.items()}
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


def size_explorer(folder: Path | None = None) -> Callable:
    """A callback `(size,) → Figure`: every world at 250, 500 or 1,000 prompts (places 0, 1, 2).

    Left the accuracies, whiskers from lowest to highest seed; right DistiLLM-2's differences.
    """
    sizes = {world: by_size(world, folder) for world in DOMAINS}
    starts = [mean(tables.accuracies(f"{world}/sft", folder)) for world in DOMAINS]
    results = claim_results("C10", folder)
    highest = max(v for w in sizes.values() for m in w.values() for s in m.values() for v in s)
    widest = max(abs(v) for rows in results.values() for r in rows.values() for v in r.values)

    def picture(size: int = 1):
        left, right = plots.axes(2, height=3.0, width=9.5, fast=True)
        prompts = PROMPT_COUNTS[size]
        bars = {n: [mean(sizes[w][n][prompts]) for w in DOMAINS] for n in COMPARED}
        plots.token_bars(bars, DOMAINS, left, title=f"{prompts} prompts")
        for place, (world, start) in enumerate(zip(DOMAINS, starts, strict=True)):
            left.hlines(start, place - 0.45, place + 0.45, color=plots.BLACK, linewidth=1.5)
            _whiskers(left, place, [sizes[world][n][prompts] for n in COMPARED])
        left.set(xlabel="world (black: SFT, the start)", ylabel="accuracy", ylim=(0, 1.3 * highest))
        rows = {
            f"{w}: {r}": results[w][run_name_at_size(r, prompts)]
            for w in DOMAINS
            for r in STRONG_BASELINES
        }
        differences(rows, right, "distillm2 minus …", "difference in accuracy")
        right.set_xlim(-1.1 * widest, 1.1 * widest)
        right.tick_params(axis="y", labelsize=7.5, pad=1)
        right.set_position([0.67, 0.2, 0.31, 0.7])  # room for its names
        return left.figure

    return picture


def _whiskers(ax, place: int, groups: Sequence[Sequence[float]]) -> None:
    """From the lowest to the highest seed, on the bars that `token_bars` puts around `place`."""
    width = 0.8 / len(groups)
    for i, values in enumerate(groups):
        x = place + (i - (len(groups) - 1) / 2) * width
        ax.vlines(x, min(values), max(values), color=plots.BLACK, linewidth=1.2)


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
