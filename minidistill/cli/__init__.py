"""minidistill on the command line. Each command says what it does with --help."""

import sys

import typer

from minidistill.cli import apply, cache, claims, distill, evaluate, experiments, train

app = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True, help=__doc__
)
app.add_typer(claims.app, name="claims")
app.add_typer(apply.app, name="apply")
for command in (
    experiments.run, distill.distill, evaluate.evaluate, evaluate.grade, distill.prune,
    experiments.table, train.train, cache.cache_teacher,
):  # fmt: skip
    app.command()(command)


def main() -> None:
    """Run the command; a mistake in its input ends in one sentence and exit status 2."""
    try:
        app()
    except (ValueError, TypeError, OSError, FloatingPointError, ModuleNotFoundError) as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
