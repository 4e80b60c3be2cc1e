"""`python -m minidistill apply vision`: distil a model that answers questions about pictures."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from minidistill.commands_scores import Tokens, print_scores
from minidistill.config import DistillConfig

Seeing = Annotated[str | None, typer.Option(help="A folder or hub name of a LLaVA-type model.")]
Shown = Annotated[
    Path | None, typer.Option(help="A PNG file: held-out pictures, and what was said about them.")
]
PICTURES = 8  # in the file of --show


def vision(
    teacher: Seeing = None,
    student: Seeing = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help='A JSONL file, a line as {"prompt": "…", "image": "a/b.png", "references": ["…"]}; '
            "paths are relative to that file. Without it: the tiny world."
        ),
    ] = None,
    method: Annotated[str, typer.Option(help="A wrong name lists them all.")] = "distillm2",
    epochs: Annotated[int, typer.Option(min=1)] = 5,
    limit: Annotated[int, typer.Option(help="Training prompts at most.", min=1)] = 1000,
    lr: Annotated[float, typer.Option(help="A real model wants less.")] = 1.5e-3,
    batch_size: Annotated[int, typer.Option(min=1)] = 8,
    max_new_tokens: Tokens = DistillConfig.max_new_tokens,
    seed: int = DistillConfig.seed,
    show: Shown = None,
    out: Annotated[Path, typer.Option(help="The folder to write to.")] = Path("out/vision"),
) -> None:
    """Distil a vision-language pair, tiny or real: scores before and after; the same command resumes.

    Without --teacher and --student: the tiny pair, whose answers are also counted by kind of question,
    and once more without the picture.
    """
    from minidistill import load_pair
    from minidistill.experiments.runner import distill_and_evaluate

    config = DistillConfig(
        method, epochs, seed, batch_size, lr=lr, max_new_tokens=max_new_tokens
    )  # mistakes first
    if prompts is None and (teacher or student):
        raise ValueError("--teacher and --student go with --prompts FILE.jsonl")
    work = _pictures(prompts)
    pair = load_pair(None if teacher and student else "vision", teacher=teacher, student=student)
    if pair.processor is None:
        raise ValueError(
            "these models read text alone: give LLaVA-type ones, or use `minidistill distill`"
        )
    work = replace(work, train=work.train[:limit])
    before = _answers(pair.student, pair, work, show)
    print_scores(distill_and_evaluate(pair, work, config, {}, out))
    after = _answers(pair.student, pair, work, show)
    if work.grade:
        _by_family(pair, work, before, after)
    if show:
        _draw(pair, work, {"before": before, "after": after}, show)
    typer.echo(f"student: {out / 'student'}")


def _pictures(prompts: Path | None):
    """The tiny world, or a file each line of which has a picture."""
    from minidistill import load_task
    from minidistill.tasks import check_shown

    if prompts is None:
        return load_task("vision")
    work = load_task(prompts)
    check_shown(prompts, sees=True)
    return work


def _answers(model, pair, work, show) -> list[str]:
    """Greedy answers to the held-out prompts where there is a judge, else to those of the picture."""
    from minidistill.applications.vision import answers

    if not (work.grade or show):
        return []
    return answers(model, pair, work.test if work.grade else work.test[:PICTURES])


def _by_family(pair, work, before, after) -> None:
    from minidistill.applications.vision import answers, graded

    rows = {
        "teacher": graded(work, answers(pair.teacher, pair, work.test)),
        "before": graded(work, before),
        "after": graded(work, after),
        "blind": graded(work, answers(pair.student, pair, work.test, blind="grey")),
    }
    typer.echo("\ngreedy accuracy by kind of question; blind: after, without the picture")
    print_scores(rows)


def _draw(pair, work, said, show: Path) -> None:
    from minidistill import plots
    from minidistill.applications.vision import answers
    from minidistill.applications.vision_plots import gallery
    from minidistill.runlog import atomic_write

    examples = work.test[:PICTURES]
    said = {"teacher": answers(pair.teacher, pair, examples), **said}
    picture = gallery(examples, said, work.grade)
    atomic_write(show, plots.png(picture, dpi=120))
    typer.echo(f"picture: {show}")
