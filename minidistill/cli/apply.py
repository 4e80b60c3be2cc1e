"""`python -m minidistill apply …`: what distillation is good for, on the tiny pair or a real model."""

import typer

from minidistill.cli import preference, quantize, speculate, vision

app = typer.Typer(no_args_is_help=True, help="Applications, tiny or on a real model.")
app.command()(preference.preference)
app.command()(speculate.speculate)
app.command()(quantize.quantize)
app.command()(vision.vision)
