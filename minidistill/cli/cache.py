"""`cache-teacher`: a teacher's responses and top-k log-probabilities on disk, to distil without it."""

from pathlib import Path
from typing import Annotated

import typer

from minidistill.cli.distill import TEMPLATE, _setting
from minidistill.cli.options import Out, Prompts, Task, TemplateOptions, Tokens
from minidistill.config import DistillConfig


def cache_teacher(
    teacher: Annotated[str, typer.Option(help="A folder, a hub name or a .gguf file.")],
    prompts: Prompts = None,
    task: Task = None,
    out: Out = Path("out/cache"),
    top_k: Annotated[int, typer.Option(help="Log-probabilities kept a token; 0: responses.")] = 64,
    seed: int = 0,
    temperature: float = DistillConfig.temperature,
    top_p: float = DistillConfig.top_p,
    max_new_tokens: Tokens = DistillConfig.max_new_tokens,
    template_option: TemplateOptions = None,
) -> None:
    """Write what a teacher says to a folder that `distill --teacher` takes in its place; resumable."""
    from minidistill import load_model, load_task
    from minidistill.scale.teacher_cache import write_teacher_cache

    if (task is None) == (prompts is None):
        raise ValueError("give either --task NAME or --prompts FILE.jsonl")
    options = dict(_setting(text, TEMPLATE) for text in template_option or [])
    about = write_teacher_cache(
        *load_model(teacher), load_task(task or prompts), out, top_k=top_k, seed=seed,
        temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens, template_options=options,
    ).about  # fmt: skip
    whole = 4 * about["tokens"] * about["vocab_size"]
    typer.echo(
        f"{out}: {about['tokens']:,} tokens, {about['bytes'] / 2**20:.1f} MiB (whole tables: "
        f"{whole / 2**20:,.1f} MiB), {about['seconds']:.0f} s"
    )
