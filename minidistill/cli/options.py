"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Task = Annotated[
    str | None, typer.Option(help="A tiny world: instruct, arithmetic, program or vision.")
]
Prompts = Annotated[Path | None, typer.Option(help="A JSONL file of prompts, instead of --task.")]
Model = Annotated[str | None, typer.Option(help="A folder, a hub name or a .gguf file.")]
Tokens = Annotated[int, typer.Option(help="Longest response.")]
Limit = Annotated[int | None, typer.Option(help="Only the first so many prompts.", min=1)]
Out = Annotated[Path, typer.Option(help="The folder to write to.")]
