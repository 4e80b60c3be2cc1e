"""`run` and `table`: the commands that make what data/ and the README show."""

import time
from pathlib import Path
from typing import Annotated

import typer

from minidistill.cli.options import Out


def run(
    out: Out = Path("out"),
    seeds: Annotated[int, typer.Option(help="How many seeds each method gets.", min=1)] = 1,
    methods: Annotated[str, typer.Option(help="Comma-separated; the main ones if empty.")] = "",
    prompts: Annotated[int | None, typer.Option(help="Fewer training prompts.", min=1)] = None,
    epochs: Annotated[int | None, typer.Option(help="Fewer epochs.", min=1)] = None,
) -> None:
    """The main job: distil the tiny pair with each method; prints a table and answers, draws figures."""
    from minidistill.experiments.labels import MAIN_METHODS
    from minidistill.experiments.progress import first_line

    names = [m.strip() for m in methods.split(",")] if methods else MAIN_METHODS
    rows = list(dict.fromkeys(["start", *names, "teacher"]))
    typer.echo(first_line(rows, seeds, out / "runs"))  # before torch, which takes its time
    from minidistill.experiments import main_job
    from minidistill.runlog import atomic_write, claim_folder

    started = time.monotonic()
    with claim_folder(out):
        logs = main_job.run_main(main_job.main_runs(names, seeds, prompts, epochs), out / "runs")
    table = main_job.main_table(logs)
    atomic_write(out / "table.md", table.encode())
    typer.echo(f"\n{main_job.answers(logs)}\n{table}")
    minutes = (time.monotonic() - started) / 60
    typer.echo(f"{len(logs)} runs in {minutes:.1f} minutes. Table: {out / 'table.md'}")
    _draw_figures(logs, out / "figures")


def _draw_figures(logs, folder: Path) -> None:
    try:
        from minidistill.lessons.main_figures import draw_main_figures

        typer.echo("Figures: " + ", ".join(map(str, draw_main_figures(logs, folder))))
    except ModuleNotFoundError as error:
        typer.echo(f"No figures: {error}")


def table(
    root: Annotated[
        Path, typer.Option(help="The checkout whose README.md and data/RESULTS.md to make anew.")
    ] = Path("."),
) -> None:
    """Make the generated tables and figures anew from the logs under data/."""
    from minidistill.experiments import tables
    from minidistill.experiments.main_job import shipped_logs
    from minidistill.lessons.main_figures import draw_main_figures
    from minidistill.runlog import atomic_write
    from minidistill.utils import data_dir

    draw_main_figures(shipped_logs(), data_dir() / "figures")
    for path, made in (
        (root / "README.md", tables.readme_tables()),
        (root / "data" / "RESULTS.md", tables.results_tables()),
    ):
        text = tables.update_tables(path.read_text(encoding="utf-8"), made)
        atomic_write(path, text.encode())
