"""`python -m minidistill evaluate` and `grade`: what a student, or responses that are there, are worth."""

from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from minidistill.cli.options import Limit, Model, Prompts, Tokens

Judged = Annotated[
    str | None,
    typer.Option(
        "--task",
        help="A tiny world (instruct, arithmetic, program, vision) or a benchmark (gsm8k, math, humaneval, "
        "mbpp).",
    ),
]
Unsandboxed = Annotated[
    bool,
    typer.Option(
        "--allow-unsandboxed",
        help="Where bubblewrap is missing, run generated programs with limits of time and memory alone.",
    ),
]


def evaluate(
    task: Judged = None,
    prompts: Prompts = None,
    teacher: Model = None,
    student: Model = None,
    max_new_tokens: Tokens = 48,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    draws: Annotated[int, typer.Option(help="Responses a prompt, averaged.", min=1)] = 1,
    seed: int = 0,
    limit: Limit = None,
    allow_unsandboxed: Unsandboxed = False,
) -> None:
    """Score a student on held-out prompts: NLL on both models' responses, ROUGE-L, the grader's word.

    Without a teacher the references take its place. A benchmark reads its data from --prompts.
    """
    from minidistill.applications.vision.inputs import VisionPair
    from minidistill.evaluation import evaluate
    from minidistill.tasks.vision.images import check_images

    work = _task(task, prompts, limit, allow_unsandboxed)
    pair = _models(task, teacher, student)
    if task is None:
        check_images(prompts, wanted=isinstance(pair, VisionPair))
    sampling = {"temperature": temperature, "max_new_tokens": max_new_tokens, "draws": draws}
    scores = asdict(evaluate(pair, work, seed=seed, **sampling))
    print_scores({"student": {k: v for k, v in scores.items() if not isinstance(v, list)}})


def grade(
    task: Judged = None,
    responses: Annotated[
        str,
        typer.Option(
            help="A JSONL file with one `response` a line, in the order of the prompts; 'references': "
            "the data's own; 'emptied': those programs without their bodies."
        ),
    ] = "references",
    prompts: Prompts = None,
    limit: Limit = None,
    allow_unsandboxed: Unsandboxed = False,
) -> None:
    """Grade responses that are there already, without any model: how many are right, and why not."""
    from minidistill.evaluation import grade_responses

    work = _task(task, prompts, limit, allow_unsandboxed)
    found = grade_responses(work, _written(work, responses))
    typer.echo(f"{sum(v.grade >= 1 for v in found)} of {len(found)} right")
    reasons = Counter(v.reason.partition(":")[0] for v in found if v.grade < 1)
    for reason, count in reasons.most_common(8):
        typer.echo(f"{count:6}  {reason}")


def _task(name, prompts, limit, allow_unsandboxed):
    """A tiny world, a benchmark, or somebody's prompts; the first `limit` of what is held out."""
    from minidistill import load_task
    from minidistill.tasks import WORLDS
    from minidistill.tasks.benchmarks import BENCHMARKS, load_benchmark
    from minidistill.utils import unknown_name_message

    if name and name not in (*WORLDS, *BENCHMARKS):
        raise ValueError(unknown_name_message("task", name, (*WORLDS, *BENCHMARKS)))
    if name in BENCHMARKS:
        work = load_benchmark(name, prompts, allow_unsandboxed)
    elif name and prompts:
        raise ValueError(
            f"--prompts goes with a benchmark ({', '.join(BENCHMARKS)}) or without --task"
        )
    elif name or prompts:
        work = load_task(name or prompts)
    else:
        raise ValueError("give --task NAME, --prompts FILE.jsonl, or a benchmark and its file")
    return replace(work, test=work.test[:limit])


def _models(task, teacher, student):
    """A pair, or where no teacher is named and none is shipped, the student alone."""
    from minidistill import load_model, load_pair
    from minidistill.models import single_model
    from minidistill.tasks import WORLDS

    if student is None or teacher is not None or task in WORLDS:
        return load_pair(task if task in WORLDS else None, teacher=teacher, student=student)
    return single_model(*load_model(student))


def _written(work, source: str) -> list[str]:
    """The responses to grade: the data's own, those without their bodies, or a file's."""
    from minidistill.tasks.code_extraction import strip_body

    if source not in ("references", "emptied"):
        return _read_responses(Path(source))
    lacking = [e.prompt for e in work.test if not e.references]
    if lacking:
        raise ValueError(f"the data has no reference for {lacking[0]!r:.80}")
    references = [e.references[0] for e in work.test]
    if source == "references":
        return references
    if work.name not in ("humaneval", "program"):
        raise ValueError(f"only programs can be emptied, and {work.name!r} has none")
    if work.name == "program":
        return [strip_body(reference) for reference in references]
    return [strip_body(e.prompt) for e in work.test]


def _read_responses(path: Path) -> list[str]:
    from minidistill.tasks import read_records

    found = []
    for where, record in read_records(path):
        response = record.get("response") if isinstance(record, dict) else None
        if not isinstance(response, str):
            raise ValueError(f"{where}: field 'response' must be a text, but is {response!r:.80}")
        found.append(response)
    return found


def print_scores(rows: dict[str, dict]) -> None:
    """A row a label, a column a score; a dash where there is none."""
    names = list(next(iter(rows.values())))
    typer.echo(" " * 9 + "".join(f"{name:>14}" for name in names))
    for label, row in rows.items():
        cells = ["–" if row[name] is None else f"{row[name]:.3f}" for name in names]
        typer.echo(f"{label:9}" + "".join(f"{cell:>14}" for cell in cells))
