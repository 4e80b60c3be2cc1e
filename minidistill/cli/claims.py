"""`python -m minidistill claims …`: make the worlds, tune the methods, run, judge and show the claims."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="The paper's claims, tested in miniature.")
Folder = Annotated[Path | None, typer.Option(help="The folder of logs; the shipped one if empty.")]
World = Annotated[
    str, typer.Argument(help="A tiny world: instruct, arithmetic, program or vision.")
]
Workers = Annotated[int | None, typer.Option(help="Runs at once; one a core if empty.", min=1)]


@app.command("teach")
def claims_teach(
    world: World = "instruct", out: Annotated[Path, typer.Option()] = Path("data")
) -> None:
    """Remake a world's prompts, teacher and starts."""
    from minidistill.experiments.teaching import teach

    teach(world, out)


@app.command("tune")
def claims_tune(
    world: World = "instruct",
    names: Annotated[
        list[str] | None, typer.Argument(help="Methods or application arms; all methods if empty.")
    ] = None,
    out: Folder = None,
    workers: Workers = None,
) -> None:
    """Search the settings of a world's methods on validation prompts; resumes."""
    from minidistill.experiments.ledger import tune

    tune(world, names or (), out, workers=workers)


@app.command("run")
def claims_run(
    names: Annotated[list[str], typer.Argument(help="Claims (C4 …) or arms (cald …).")],
    seeds: Annotated[int, typer.Option(min=1)] = 10,
    first_seed: Annotated[int, typer.Option(min=0)] = 0,
    explanation: Annotated[bool, typer.Option(help="What would refute the reason too.")] = False,
    out: Folder = None,
    workers: Workers = None,
) -> None:
    """Make the runs that claims need and that have no log yet; resumes."""
    from minidistill.experiments.hypotheses import HYPOTHESES
    from minidistill.experiments.ledger import run_arms

    wanted = []
    for name in names:
        claim = HYPOTHESES.get(name.upper())
        wanted += (claim.every_run if explanation else claim.runs) if claim else [name]
    run_arms(wanted, range(first_seed, seeds), out, workers=workers)


@app.command("table")
def claims_table(world: World = "instruct", out: Folder = None) -> None:
    """A world's methods, and the verdicts."""
    from minidistill.experiments import reports

    typer.echo(reports.methods_table(world, folder=out))
    typer.echo(reports.claims_table(out))


@app.command("show")
def claims_show(name: str, out: Folder = None) -> None:
    """One claim: every contrast, what would refute its explanation, and how settings were chosen."""
    from minidistill.experiments import reports

    typer.echo(reports.claim_report(name, out))
