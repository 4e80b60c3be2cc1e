"""How the shipped pairs are made: prompts, a teacher, and a student after SFT."""

from dataclasses import dataclass
from pathlib import Path

import torch

from minidistill.batching import encode_prompt
from minidistill.checkpoint import atomic_write
from minidistill.evaluation import accuracy
from minidistill.generation import decode, sample
from minidistill.models import Pair, load_model, tiny_model, word_tokenizer
from minidistill.tasks import Example, Task, get_world, write_examples, write_jsonl
from minidistill.training import distill


@dataclass(frozen=True)
class Recipe:
    """Sizes and seeds of one world. The teacher sees fresh examples, the student the shipped ones."""

    train: int = 2000
    test: int = 400
    references: int = 4
    teacher_examples: int = 80_000
    teacher_epochs: int = 3
    student_epochs: int = 14
    lr: float = 3e-3


RECIPES = {"instruct": Recipe()}


def teach(name: str, out: Path) -> None:
    """Write out/name: train and test prompts, teacher/, student/ in 16 bits, and a card.

    Resumes where it was stopped (checkpoints stand under out/name/.work).
    """
    world, recipe, folder = get_world(name), RECIPES[name], out / name
    train = write_examples(name, recipe.train, seed=1, held_out=False, references=recipe.references)
    test = write_examples(name, recipe.test, seed=2, held_out=True, references=recipe.references)
    fresh = write_examples(name, recipe.teacher_examples, seed=3, held_out=False)
    write_jsonl(folder / "train.jsonl", train)
    write_jsonl(folder / "test.jsonl", test)
    tokenizer = word_tokenizer(world.words)
    _supervise("student", tokenizer, train, test, recipe.student_epochs, recipe, folder)
    _supervise("teacher", tokenizer, fresh, test, recipe.teacher_epochs, recipe, folder)
    _write_card(name, recipe, folder, test)


def _supervise(preset: str, tokenizer, examples, test, epochs, recipe: Recipe, folder: Path):
    """SFT from random weights on `examples`, saved in 16 bits."""
    pair = Pair(None, tiny_model(preset, tokenizer, seed=0), tokenizer, len(tokenizer))
    batch = 64 if preset == "teacher" else 32
    distill(
        pair, Task(preset, examples, test), "sft", epochs=epochs, lr=recipe.lr, batch_size=batch,
        out=folder / ".work" / preset,
    )  # fmt: skip
    pair.student.to(torch.float16).save_pretrained(folder / preset)
    tokenizer.save_pretrained(folder / preset)


def _write_card(name: str, recipe: Recipe, folder: Path, test: list[Example]) -> None:
    """The card's numbers are measured on what was saved, not on what was trained."""
    world, rows = get_world(name), []
    task = Task(name, [], test, lambda prompt, response: world.judge(prompt, response).grade)
    for preset in ("teacher", "student"):
        model, tokenizer = load_model(folder / preset)
        pair = Pair(None, model, tokenizer, len(tokenizer))
        prompts = [encode_prompt(tokenizer, e.prompt) for e in test]
        greedy = accuracy(task, decode(pair, sample(model, prompts, pair, temperature=0)))
        drawn = accuracy(task, decode(pair, sample(model, prompts, pair, seed=0)))
        size = sum(p.numel() for p in model.parameters())
        layers, width = model.config.num_hidden_layers, model.config.hidden_size
        rows.append(f"| {preset} | {size:,} | {layers} × {width} | {greedy:.1%} | {drawn:.1%} |\n")
    atomic_write(
        folder / "README.md",
        (
            f"# {name}: prompts, references, teacher, student\n\n"
            f"Remake: `python -m minidistill teach {name}`. Nothing here comes from another data set: a "
            f"seeded grammar (`minidistill/tasks/{name}`) writes prompts and references.\n\n"
            f"- `train.jsonl`: {recipe.train} prompts (seed 1), up to {recipe.references} references each; "
            f"`test.jsonl`: {recipe.test} held-out prompts (seed 2). No prompt stands in both.\n"
            f"- `teacher/`: SFT on {recipe.teacher_examples:,} fresh examples (seed 3), "
            f"{recipe.teacher_epochs} epochs.\n"
            f"- `student/`: SFT on `train.jsonl`, {recipe.student_epochs} epochs: the start.\n"
            f"- Both: Llama blocks, a word-level tokenizer of {len(tokenizer)} tokens, weights in 16 bits "
            "(safetensors).\n\n"
            "| model | parameters | layers × width | accuracy, greedy | accuracy, sampled at T = 1 |\n"
            "|---|---|---|---|---|\n" + "".join(rows)
        ).encode(),
    )
