"""`train`: `distill` in transformers' Trainer, in as many processes as accelerate or torchrun starts."""

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from minidistill.cli.distill import TEMPLATE, _pair, _setting
from minidistill.cli.options import (
    Feeds,
    LoraRank,
    Out,
    OwnTemplates,
    Prompts,
    Settings,
    Task,
    TemplateOptions,
    Tokens,
)
from minidistill.config import DistillConfig

Model = Annotated[str, typer.Option(help="A folder, a hub name or a .gguf file.")]


def train(
    teacher: Model,
    student: Model,
    prompts: Prompts = None,
    task: Task = None,
    method: Annotated[str, typer.Option(help="A wrong name lists them all.")] = "distillm2",
    out: Out = Path("out/train"),
    epochs: int = DistillConfig.epochs,
    seed: int = DistillConfig.seed,
    batch_size: Annotated[int, typer.Option(help="Of one process and one part.")] = 8,
    gradient_accumulation_steps: int = 1,
    lr: float = 1e-4,
    temperature: float = 0.8,
    top_p: float = 0.95,
    max_new_tokens: Tokens = 128,
    bf16: Annotated[bool, typer.Option(help="Mixed precision; the weights stay float32.")] = False,
    lora_rank: LoraRank = None,
    setting: Settings = None,
    own_templates: OwnTemplates = False,
    template_option: TemplateOptions = None,
    feed: Feeds = None,
    report_to: Annotated[str, typer.Option(help="A logger that transformers knows.")] = "none",
) -> None:
    """Distil in transformers' Trainer; in several processes by `torchrun -m minidistill train …`.

    Scores before and after; a checkpoint after each epoch, and the same command resumes from the last one.
    """
    from minidistill import load_task
    from minidistill.scale.trainer import DistillTrainingArguments

    if (task is None) == (prompts is None):
        raise ValueError("give either --task NAME or --prompts FILE.jsonl")
    settings = {
        "method": method, "method_kwargs": dict(_setting(text) for text in setting or []),
        "feed": dict(_pair(text, "--feed slot=source") for text in feed or []),
        "own_templates": own_templates,
        "template_options": dict(_setting(text, TEMPLATE) for text in template_option or []),
        "temperature": temperature, "top_p": top_p, "max_new_tokens": max_new_tokens,
        "num_train_epochs": epochs, "seed": seed, "per_device_train_batch_size": batch_size,
        "gradient_accumulation_steps": gradient_accumulation_steps, "learning_rate": lr, "bf16": bf16,
    }  # fmt: skip
    how = {"save_strategy": "epoch", "logging_steps": 1, "report_to": report_to}
    args = DistillTrainingArguments(str(out), weight_decay=0.0, **how, **settings)
    _run(args, settings, load_task(task or prompts), teacher, student, out, lora_rank)


def _run(
    args, settings: dict, work, teacher: str, student: str, out: Path, rank: int | None
) -> None:
    """Train between two evaluations; the first process writes the student and what was found."""
    from minidistill import load_model
    from minidistill.applications.lora import add_lora, save_merged
    from minidistill.runlog import claim_folder, environment_info, write_log
    from minidistill.scale.trainer import DistillTrainer

    first = int(os.environ.get("RANK", "0")) == 0
    with claim_folder(out, teacher, student) if first else nullcontext():
        (reader, theirs), (writer, ours) = load_model(teacher), load_model(student)
        writer = writer if rank is None else add_lora(writer, rank)
        more = {"processing_class": ours, "teacher_processing_class": theirs}
        trainer = DistillTrainer(writer, reader, args, work.train, work.test, **more)
        before = trainer.evaluate()
        trainer.train(resume_from_checkpoint=True)
        after = trainer.evaluate()
        if not first:
            return
        if rank is None:
            trainer.pair.save_student(out / "student")
        else:
            save_merged(trainer.pair, out / "student")
        losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
        found = {"before": before, "after": after, "losses": losses}
        write_log(out / "result.json", {**found, **settings, **environment_info()})
        for name in (name for name in sorted(before) if name.startswith("eval_")):
            typer.echo(f"{name.removeprefix('eval_'):12} {before[name]:.3f} → {after[name]:.3f}")
        typer.echo(f"student: {out / 'student'}")
