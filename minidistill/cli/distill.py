"""`distill` and `prune`: distil a pair, tiny or real, and make a student where there is none."""

import json
from pathlib import Path
from typing import Annotated

import typer

from minidistill.cli.evaluate import print_scores
from minidistill.cli.options import (
    Feeds,
    LoraRank,
    Model,
    Out,
    OwnTemplates,
    Prompts,
    Settings,
    Task,
    TemplateOptions,
    Tokens,
)
from minidistill.config import DistillConfig

TEMPLATE = "--template-option name=value"
PRUNING_PROMPTS = 64  # the influence of a layer is a mean over thousands of tokens by then


def distill(
    method: Annotated[
        str, typer.Option(help="A wrong name lists them all.")
    ] = DistillConfig.method,
    task: Task = None,
    prompts: Prompts = None,
    teacher: Model = None,
    student: Model = None,
    out: Out = Path("out/distill"),
    epochs: int = DistillConfig.epochs,
    seed: int = DistillConfig.seed,
    batch_size: int = DistillConfig.batch_size,
    gradient_accumulation_steps: Annotated[
        int, typer.Option(help="Parts a batch is split into.")
    ] = DistillConfig.gradient_accumulation_steps,
    lr: float = DistillConfig.lr,
    temperature: Annotated[
        float, typer.Option(help="Sampling, both models.")
    ] = DistillConfig.temperature,
    top_p: float = DistillConfig.top_p,
    max_new_tokens: Tokens = DistillConfig.max_new_tokens,
    max_grad_norm: Annotated[
        float, typer.Option(help="Longer gradients are scaled to it.")
    ] = DistillConfig.max_grad_norm,
    adam_beta2: float = DistillConfig.adam_beta2,
    lora_rank: LoraRank = None,
    setting: Settings = None,
    own_templates: OwnTemplates = False,
    template_option: TemplateOptions = None,
    feed: Feeds = None,
    epsilon: Annotated[
        float, typer.Option(help="Of the source 'speculative_mix'.")
    ] = DistillConfig.epsilon,
) -> None:
    """Distil a pair, tiny or real; scores before and after. The same command resumes a stopped run."""
    from minidistill.applications.lora import lora_pair, save_merged
    from minidistill.experiments.before_and_after import distill_and_evaluate
    from minidistill.objectives import get_method
    from minidistill.runlog import claim_folder

    method_kwargs = dict(_setting(text) for text in setting or [])
    # Whatever is wrong with the settings, say so before loading anything.
    get_method(method).check_settings(method_kwargs)
    sampling = {"temperature": temperature, "top_p": top_p, "max_new_tokens": max_new_tokens}
    overrides = dict(_pair(text, "--feed slot=source") for text in feed or [])
    config = DistillConfig(
        method, epochs, seed, batch_size, gradient_accumulation_steps, lr, epsilon=epsilon,
        source_overrides=overrides,
        max_grad_norm=max_grad_norm, adam_beta2=adam_beta2, **sampling,
    )  # fmt: skip
    options = dict(_setting(text, TEMPLATE) for text in template_option or [])
    how = {"own_templates": own_templates, "template_options": options}
    pair, work = _load(task, prompts, teacher, student, **how)
    saving = {}
    if lora_rank is not None:
        pair, saving = lora_pair(pair, lora_rank), {"save": save_merged}
    with claim_folder(out, teacher, student):
        print_scores(distill_and_evaluate(pair, work, config, method_kwargs, out, **saving))
    typer.echo(f"student: {out / 'student'}")


def prune(
    teacher: Annotated[str, typer.Option(help="A folder, a hub name or a .gguf file.")],
    keep: Annotated[int, typer.Option(help="How many layers the student keeps.")],
    prompts: Annotated[
        Path | None, typer.Option(help="A JSONL file: keep the layers that change most on it.")
    ] = None,
    out: Out = Path("out/student"),
) -> None:
    """Make a student from a teacher by keeping some of its layers: evenly spaced, or measured ones."""
    from minidistill import load_model, load_task
    from minidistill.applications.pruning import block_influence, most_influential, prune_layers
    from minidistill.runlog import claim_folder, save_folder

    work = load_task(prompts) if prompts else None
    with claim_folder(out, teacher):
        model, tokenizer = load_model(teacher)
        kept = keep
        if work:
            influence = block_influence(model, tokenizer, work.train[:PRUNING_PROMPTS])
            kept = most_influential(influence, keep)
            typer.echo("kept layers: " + " ".join(map(str, kept)))
        student = prune_layers(model, kept)
        save_folder(out, student, tokenizer)
    millions = [sum(p.numel() for p in m.parameters()) / 1e6 for m in (model, student)]
    typer.echo(f"{out}: {millions[1]:.1f} M parameters, the teacher has {millions[0]:.1f} M")


def _load(task, prompts, teacher, student, **how):
    from minidistill import load_model, load_pair, load_task
    from minidistill.applications.vision.inputs import VisionPair
    from minidistill.scale.offline import offline_pair
    from minidistill.scale.teacher_cache import is_cache
    from minidistill.tasks.vision.images import check_images
    from minidistill.utils import data_dir

    if (task is None) == (prompts is None):
        raise ValueError("give either --task NAME or --prompts FILE.jsonl")
    work = load_task(task or prompts)  # first: a mistake here costs no model loading
    if teacher and is_cache(teacher):
        if task is None and student is None:
            raise ValueError("give --student MODEL beside the cache of a teacher")
        model = load_model(student or data_dir() / task / "student_0")
        return offline_pair(*model, teacher, **how), work
    pair = load_pair(task, teacher=teacher, student=student, **how)
    if prompts:
        check_images(prompts, wanted=isinstance(pair, VisionPair))
    return pair, work


def _setting(text: str, wanted: str = "--set name=number") -> tuple[str, object]:
    """'alpha=0.2' → ('alpha', 0.2)."""
    name, value = _pair(text, wanted)
    try:
        return name, json.loads(value.lower() if value in ("True", "False") else value)
    except json.JSONDecodeError:
        if wanted == TEMPLATE:
            return name, value  # a text, such as reasoning_effort=low
        option, form = wanted.split()
        raise ValueError(f"{option} wants {form}, but got {text!r}") from None


def _pair(text: str, wanted: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        option, form = wanted.split()
        raise ValueError(f"{option} wants {form}, but got {text!r}")
    return name, value
