"""`python -m minidistill claims …`: run, judge and show the paper's claims."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="The paper's claims, tested in miniature.")
Logs = Annotated[Path | None, typer.Option(help="Where the logs stand; the shipped ones if empty.")]


@app.command("run")
def claims_run(
    names: Annotated[list[str] | None, typer.Argument(help="C1, C2 …; all if none.")] = None,
    seeds: Annotated[int, typer.Option(min=2)] = 5,
    out: Logs = None,
) -> None:
    """Run what these claims need and what has no log yet; the same command resumes."""
    from minidistill import claims
    from minidistill.ledger import claim_report
    from minidistill.utils import data_dir

    chosen = names or list(claims.CLAIMS)
    folder = out or data_dir() / "runs"
    claims.run(chosen, folder, seeds)
    for name in chosen:
        typer.echo(claim_report(name, folder))


@app.command("grid")
def claims_grid(out: Logs = None) -> None:
    """What lessons show beside the claims: the grid of alpha and beta, DPKD's map, CALD in other worlds."""
    from minidistill import claims
    from minidistill.arms import CONTROLS
    from minidistill.utils import data_dir

    folder = out or data_dir() / "runs"
    claims.run_arms(list(claims.GRID), folder, seeds=2)
    claims.run_arms(list(claims.MAP), folder, seeds=1)
    claims.run_arms(list(CONTROLS), folder, seeds=claims.SEEDS)


@app.command("table")
def claims_table(out: Logs = None) -> None:
    """All verdicts with their deciding contrast, interval, seeds, device and seconds."""
    from minidistill import ledger

    typer.echo(ledger.claims_table(out))


@app.command("show")
def claims_show(name: str, out: Logs = None) -> None:
    """One claim: the paper's figures and every contrast."""
    from minidistill import ledger

    typer.echo(ledger.claim_report(name, out))
