"""`python -m minidistill apply …`: what distillation is good for, on the tiny pair or a real model."""

import typer

from minidistill import commands_preference, commands_quantize, commands_speculate, commands_vision

app = typer.Typer(no_args_is_help=True, help="Applications, tiny or on a real model.")
app.command()(commands_preference.preference)
app.command()(commands_speculate.speculate)
app.command()(commands_quantize.quantize)
app.command()(commands_vision.vision)
