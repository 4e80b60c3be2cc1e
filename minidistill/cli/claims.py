"""`python -m minidistill claims …`: run, judge and show the paper's claims."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="The paper's claims, tested in miniature.")
Logs = Annotated[
    Path | None,
    typer.Option(help="The folder of <world>.jsonl and scores.csv; the shipped one if empty."),
]
InFlight = Annotated[
    Path, typer.Option(help="Where runs that are not packed yet leave a file each.")
]


@app.command("run")
def claims_run(
    names: Annotated[list[str] | None, typer.Argument(help="C1, C2 …; all if none.")] = None,
    seeds: Annotated[int, typer.Option(min=2)] = 5,
    out: Logs = None,
    in_flight: InFlight = Path("out/claims"),
) -> None:
    """Run what these claims need and what has no log yet; the same command resumes."""
    from minidistill.experiments.claims import run_claims
    from minidistill.experiments.paper_claims import CLAIMS
    from minidistill.experiments.tables import claim_report

    chosen = names or list(CLAIMS)
    run_claims(chosen, seeds, folder=out, in_flight=in_flight)
    for name in chosen:
        typer.echo(claim_report(name, out))


@app.command("grid")
def claims_grid(out: Logs = None, in_flight: InFlight = Path("out/claims")) -> None:
    """Run what lessons show beside the claims: the grid of alpha and beta, DPKD's map and others."""
    from minidistill.experiments.claims import SEEDS, run_by_name
    from minidistill.experiments.run_configs import CALD_SWEEP, CONTROLS, DPKD_SWEEP

    for configs, seeds in ((CALD_SWEEP, 2), (DPKD_SWEEP, 1), (CONTROLS, SEEDS)):
        run_by_name(list(configs), seeds, folder=out, in_flight=in_flight)


@app.command("pack")
def claims_pack(out: Logs = None, in_flight: InFlight = Path("out/claims")) -> None:
    """Fold finished runs into the JSONL and the scores, as `run` does at its end."""
    from minidistill.experiments.logs import pack_runs, runs_dir

    folder = out or runs_dir()
    typer.echo(f"{pack_runs(in_flight, folder)} runs packed into {folder}")


@app.command("table")
def claims_table(out: Logs = None) -> None:
    """All verdicts with their deciding contrast, interval, seeds, device and seconds."""
    from minidistill.experiments import tables

    typer.echo(tables.claims_table(out))


@app.command("show")
def claims_show(name: str, out: Logs = None) -> None:
    """One claim: the paper's figures and every contrast."""
    from minidistill.experiments import tables

    typer.echo(tables.claim_report(name, out))
