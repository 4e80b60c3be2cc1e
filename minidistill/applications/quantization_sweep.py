"""Quantization sweep: a model's scores at every bit width and group size, for lesson 12's slider."""

import copy
from collections.abc import Callable, Iterable
from dataclasses import replace
from statistics import mean

from minidistill.applications.quantization import SCALES, stored_bytes
from minidistill.applications.quantization_backends import quantize_with
from minidistill.evaluation import accuracy, make_probe, nll
from minidistill.generation import decode, sample
from minidistill.models import Pair
from minidistill.tasks import Task
from minidistill.tokenization import encode_references

WIDTHS, GROUPS = tuple(range(2, 9)), (16, 32, 64, 128)
PROMPTS, DRAWS = 400, 3  # held-out prompts, and sampled responses to each
SAMPLING = {"temperature": 0.8, "top_p": 0.95}


def measure(model, pair: Pair, task: Task, probe, **about) -> dict:
    """Bytes; NLL on references and on the unbroken model's responses; accuracy, greedy and drawn."""
    prompts = [pair.encode(example) for example in task.test]
    references = encode_references(pair.tokenizer, task.test, 0)

    def right(**how) -> float:
        return accuracy(task, decode(pair, sample(model, prompts, pair, **how)))

    return {
        **about,
        "bytes": stored_bytes(model),
        "nll_references": nll(model, pair, prompts, references),
        "nll_teacher": nll(model, pair, probe.prompts, probe.tgo),
        "greedy": right(temperature=0.0),
        "drawn": [right(seed=seed, **SAMPLING) for seed in range(DRAWS)],
    }


def sweep(pair: Pair, task: Task, tell: Callable[[Iterable], Iterable] = iter) -> list[dict]:
    """`measure` of the teacher, whole (bits None), at every width, group and choice of steps, and by nf4."""
    task = replace(task, test=task.test[:PROMPTS])
    probe = make_probe(pair, task, seed=0, **SAMPLING)
    cells = [(bits, group, "minidistill", s) for s in SCALES for bits in WIDTHS for group in GROUPS]
    cells += [(4, group, "bitsandbytes", "absmax") for group in (32, 64, 128)]
    names = ("bits", "group", "library", "scale")
    rows = [measure(pair.teacher, pair, task, probe, **dict.fromkeys(names))]
    for cell in tell(cells):
        broken = quantize_with(copy.deepcopy(pair.teacher), *cell)
        rows.append(measure(broken, pair, task, probe, **dict(zip(names, cell, strict=True))))
    return rows


def select(
    rows: Iterable[dict], bits: int | None, group: int | None = None, library="minidistill", scale="absmax"
):  # fmt: skip
    """The row of a width, a group and a choice of steps; bits None is the whole model."""
    wanted = (bits, group, library, scale) if bits else (None,) * 4
    return next(
        row
        for row in rows
        if tuple(row[n] for n in ("bits", "group", "library", "scale")) == wanted
    )


def sweep_table(rows: Iterable[dict], group: int = 32) -> str:
    """Markdown: a row a width at this group size."""
    lines = [
        "| bits | bytes | NLL on references | NLL on teacher responses | greedy | sampled, T = 0.8 |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for bits in (None, 8, 4, 3, 2):
        row = select(rows, bits, group)
        drawn = f"{mean(row['drawn']):.3f}, {min(row['drawn']):.3f} to {max(row['drawn']):.3f}"
        lines.append(
            f"| {bits or 'whole'} | {row['bytes']:,} | {row['nll_references']:.3f} | "
            f"{row['nll_teacher']:.3f} | {row['greedy']:.3f} | {drawn} |"
        )
    return "\n".join(lines) + "\n"
