"""minidistill on the command line. Each command says what it does with --help."""

import json
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from minidistill.cli import apply, claims, evaluate
from minidistill.cli.evaluate import Model, Prompts, Tokens, print_scores
from minidistill.config import DistillConfig

app = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True, help=__doc__
)
app.add_typer(claims.app, name="claims")
app.add_typer(apply.app, name="apply")
app.command()(evaluate.evaluate)
app.command()(evaluate.grade)
Task = Annotated[
    str | None, typer.Option(help="A tiny world: instruct, arithmetic, program or vision.")
]
Out = Annotated[Path, typer.Option(help="The folder to write to.")]


@app.command()
def run(
    out: Out = Path("out"),
    seeds: Annotated[int, typer.Option(help="How many seeds each method gets.", min=1)] = 2,
    methods: Annotated[str, typer.Option(help="Comma-separated; the main ones if empty.")] = "",
    prompts: Annotated[int, typer.Option(help="Training prompts.", min=1)] = 1000,
    epochs: Annotated[int, typer.Option(min=1)] = 5,
) -> None:
    """The main job: distil the tiny pair with each method; prints a table, draws figures."""
    from minidistill.experiments.labels import MAIN_METHODS, START
    from minidistill.experiments.progress import first_line

    names = [m.strip() for m in methods.split(",")] if methods else MAIN_METHODS
    rows = list(dict.fromkeys([START, *names]))
    typer.echo(first_line(rows, seeds, out / "runs"))  # before torch, which takes its time
    from minidistill.experiments.run_configs import ExperimentConfig
    from minidistill.experiments.runner import run_baselines
    from minidistill.experiments.tables import main_table
    from minidistill.runlog import atomic_write

    started = time.monotonic()
    logs = run_baselines(
        rows, seeds, ExperimentConfig(prompts=prompts, epochs=epochs), out / "runs"
    )
    table = main_table(logs)
    atomic_write(out / "table.md", table.encode())
    typer.echo(table)
    minutes = (time.monotonic() - started) / 60
    typer.echo(f"{len(logs)} runs in {minutes:.1f} minutes. Table: {out / 'table.md'}")
    _draw_figures(logs, out / "figures")


def _draw_figures(logs, folder: Path) -> None:
    try:
        from minidistill.lessons.main_figures import draw_main_figures

        typer.echo("Figures: " + ", ".join(map(str, draw_main_figures(logs, folder))))
    except ModuleNotFoundError as error:
        typer.echo(f"No figures: {error}")


@app.command()
def distill(
    method: Annotated[
        str, typer.Option(help="A wrong name lists them all.")
    ] = DistillConfig.method,
    task: Task = None,
    prompts: Prompts = None,
    teacher: Model = None,
    student: Model = None,
    out: Out = Path("out/distill"),
    epochs: int = DistillConfig.epochs,
    seed: int = DistillConfig.seed,
    batch_size: int = DistillConfig.batch_size,
    gradient_accumulation_steps: Annotated[
        int, typer.Option(help="Parts a batch is split into.")
    ] = DistillConfig.gradient_accumulation_steps,
    lr: float = DistillConfig.lr,
    temperature: Annotated[
        float, typer.Option(help="Sampling, both models.")
    ] = DistillConfig.temperature,
    top_p: float = DistillConfig.top_p,
    max_new_tokens: Tokens = DistillConfig.max_new_tokens,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="The method's own, e.g. --set alpha=0.2")
    ] = None,
    feed: Annotated[
        list[str] | None,
        typer.Option(help="Other responses for a slot, e.g. --feed tgo=reference"),
    ] = None,
    epsilon: Annotated[float, typer.Option(help="Of the source 'mixed'.")] = DistillConfig.epsilon,
) -> None:
    """Distil a pair, tiny or real; scores before and after. The same command resumes a stopped run."""
    from minidistill.experiments.runner import distill_and_evaluate
    from minidistill.objectives import get_method

    method_kwargs = dict(_setting(text) for text in setting or [])
    # Whatever is wrong with the settings, say so before loading anything.
    get_method(method).check_settings(method_kwargs)
    sampling = {"temperature": temperature, "top_p": top_p, "max_new_tokens": max_new_tokens}
    overrides = dict(_pair(text, "--feed slot=source") for text in feed or [])
    config = DistillConfig(
        method, epochs, seed, batch_size, gradient_accumulation_steps, lr, epsilon=epsilon,
        source_overrides=overrides, **sampling,
    )  # fmt: skip
    pair, work = _load(task, prompts, teacher, student)
    print_scores(distill_and_evaluate(pair, work, config, method_kwargs, out))
    typer.echo(f"student: {out / 'student'}")


@app.command()
def teach(
    task: Annotated[str, typer.Argument(help="The tiny world whose pair to remake.")] = "instruct",
    out: Out = Path("data"),
) -> None:
    """Remake a shipped pair: prompts, teacher and SFT student, with their cards."""
    from minidistill.experiments.pretrain import pretrain

    pretrain(task, out)


@app.command()
def prune(
    teacher: Annotated[str, typer.Option(help="A folder, a hub name or a .gguf file.")],
    keep: Annotated[int, typer.Option(help="How many layers the student keeps.")],
    out: Out = Path("out/student"),
) -> None:
    """Make a student from a teacher by keeping some of its layers, evenly spaced."""
    from minidistill.models import load_model, prune_layers

    model, tokenizer = load_model(teacher)
    student = prune_layers(model, keep)
    student.save_pretrained(out)
    tokenizer.save_pretrained(out)
    millions = [sum(p.numel() for p in m.parameters()) / 1e6 for m in (model, student)]
    typer.echo(f"{out}: {millions[1]:.1f} M parameters, the teacher has {millions[0]:.1f} M")


@app.command()
def table(
    readme: Annotated[Path, typer.Option(help="The file whose tables to make anew.")] = Path(
        "README.md"
    ),
) -> None:
    """Make the README's tables and figures anew from the logs under data/."""
    from minidistill.experiments.logs import shipped_runs
    from minidistill.experiments.tables import update_readme
    from minidistill.lessons.main_figures import draw_main_figures
    from minidistill.runlog import atomic_write
    from minidistill.utils import data_dir

    draw_main_figures(shipped_runs(), data_dir() / "figures")
    atomic_write(readme, update_readme(readme.read_text(encoding="utf-8")).encode())


def _load(task, prompts, teacher, student):
    from minidistill import load_pair, load_task
    from minidistill.applications.vision.inputs import VisionPair
    from minidistill.tasks.vision.images import check_images

    if (task is None) == (prompts is None):
        raise ValueError("give either --task NAME or --prompts FILE.jsonl")
    work = load_task(task or prompts)  # first: a mistake here costs no model loading
    pair = load_pair(task, teacher=teacher, student=student)
    if prompts:
        check_images(prompts, wanted=isinstance(pair, VisionPair))
    return pair, work


def _setting(text: str) -> tuple[str, object]:
    """'alpha=0.2' → ('alpha', 0.2)."""
    name, value = _pair(text, "--set name=number")
    try:
        return name, json.loads(value.lower() if value in ("True", "False") else value)
    except json.JSONDecodeError:
        raise ValueError(f"--set wants name=number, but got {text!r}") from None


def _pair(text: str, wanted: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        option, form = wanted.split()
        raise ValueError(f"{option} wants {form}, but got {text!r}")
    return name, value


def main() -> None:
    """Run the command; a mistake in its input ends in one sentence and exit status 2."""
    try:
        app()
    except (ValueError, TypeError, OSError, FloatingPointError, ModuleNotFoundError) as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
