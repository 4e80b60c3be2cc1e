"""`python -m minidistill apply vision`: distil a model that answers questions about images."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from minidistill.cli.evaluate import print_scores
from minidistill.cli.options import Tokens
from minidistill.config import DistillConfig

VisionModel = Annotated[
    str | None, typer.Option(help="A folder or hub name of a LLaVA-type model.")
]
OutputImage = Annotated[
    Path | None, typer.Option(help="A PNG file: held-out pictures, and what was said about them.")
]
TINY = "vision"
SHOWN = 8  # images in the file of --show


def vision(
    teacher: VisionModel = None,
    student: VisionModel = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help='A JSONL file, a line as {"prompt": "…", "image": "a/b.png", "references": ["…"]}; '
            "paths are relative to that file. Without it: the tiny world."
        ),
    ] = None,
    method: Annotated[str, typer.Option(help="A wrong name lists them all.")] = "distillm2",
    epochs: Annotated[int, typer.Option(min=1)] = 3,
    limit: Annotated[int, typer.Option(help="Training prompts at most.", min=1)] = 6000,
    lr: Annotated[float, typer.Option(help="A real model wants less.")] = 1e-3,
    batch_size: Annotated[int, typer.Option(min=1)] = 16,
    max_new_tokens: Tokens = DistillConfig.max_new_tokens,
    seed: int = DistillConfig.seed,
    show: OutputImage = None,
    out: Annotated[Path, typer.Option(help="The folder to write to.")] = Path("out/vision"),
) -> None:
    """Distil a vision-language pair, tiny or real: scores before and after; the same command resumes.

    Without --teacher and --student: the tiny pair, whose answers are also counted by kind of question,
    and once more without the picture.
    """
    from minidistill import load_pair
    from minidistill.applications.vision.inputs import VisionPair
    from minidistill.experiments.before_and_after import distill_and_evaluate
    from minidistill.runlog import claim_folder

    config = DistillConfig(
        method, epochs, seed, batch_size, lr=lr, max_new_tokens=max_new_tokens
    )  # mistakes first
    if prompts is None and (teacher or student):
        raise ValueError("--teacher and --student go with --prompts FILE.jsonl")
    work = _load_task(prompts)
    pair = load_pair(None if teacher and student else TINY, teacher=teacher, student=student)
    if not isinstance(pair, VisionPair):
        raise ValueError(
            "these models read text alone: give LLaVA-type ones, or use `minidistill distill`"
        )
    work = replace(work, train=work.train[:limit])
    before = _answers(pair.student, pair, work, show)
    with claim_folder(out, teacher, student):
        print_scores(distill_and_evaluate(pair, work, config, {}, out))
    after = _answers(pair.student, pair, work, show)
    if work.grade:
        _by_family(pair, work, before, after)
    if show:
        _draw(pair, work, {"before": before, "after": after}, show)
    typer.echo(f"student: {out / 'student'}")


def _load_task(prompts: Path | None):
    """Load the tiny world, or a file each line of which has an image."""
    from minidistill import load_task
    from minidistill.tasks.vision.images import check_images

    if prompts is None:
        return load_task(TINY)
    work = load_task(prompts)
    check_images(prompts, wanted=True)
    return work


def _answers(model, pair, work, show) -> list[str]:
    """Answer greedily the held-out prompts where there is a grader, else those of --show."""
    from minidistill.applications.vision.image_ablation import generate_responses

    if not (work.grade or show):
        return []
    return generate_responses(model, pair, work.test if work.grade else work.test[:SHOWN])


def _by_family(pair, work, before, after) -> None:
    from minidistill.applications.vision.image_ablation import generate_responses
    from minidistill.tasks.vision import grade_by_family

    responses = {
        "teacher": generate_responses(pair.teacher, pair, work.test),
        "before": before,
        "after": after,
        "blind": generate_responses(pair.student, pair, work.test, "grey"),
    }
    rows = {name: grade_by_family(work, texts) for name, texts in responses.items()}
    typer.echo("\ngreedy accuracy by kind of question; blind: after, without the picture")
    print_scores(rows)


def _draw(pair, work, said, show: Path) -> None:
    from minidistill.applications.vision.image_ablation import generate_responses
    from minidistill.lessons import plots
    from minidistill.lessons.lesson_11_vision import gallery
    from minidistill.runlog import atomic_write

    examples = work.test[:SHOWN]
    said = {"teacher": generate_responses(pair.teacher, pair, examples), **said}
    atomic_write(show, plots.png(gallery(examples, said, work.grade), dpi=120))
    typer.echo(f"picture: {show}")
