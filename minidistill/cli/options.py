"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Task = Annotated[
    str | None, typer.Option(help="A tiny world: instruct, arithmetic, program or vision.")
]
Prompts = Annotated[Path | None, typer.Option(help="A JSONL file of prompts, instead of --task.")]
Model = Annotated[str | None, typer.Option(help="A folder, a hub name or a .gguf file.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="The method's own, e.g. --set alpha=0.2")
]
Feeds = Annotated[
    list[str] | None, typer.Option(help="Other responses for a slot, e.g. --feed tgo=reference")
]
LoraRank = Annotated[
    int | None, typer.Option(help="Train adapters (LoRA) of this rank, not the weights.")
]
OwnTemplates = Annotated[
    bool, typer.Option(help="Ask the teacher in its own chat template's words.")
]
TemplateOptions = Annotated[
    list[str] | None, typer.Option(help="For the templates, e.g. enable_thinking=false")
]
Tokens = Annotated[int, typer.Option(help="Longest response.")]
Limit = Annotated[int | None, typer.Option(help="Only the first so many prompts.", min=1)]
Out = Annotated[Path, typer.Option(help="The folder to write to.")]
