"""Pretraining: the prompts, teachers and SFT students that the project ships, with their cards."""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from minidistill import load_model
from minidistill.applications.vision.tiny_llava import (
    init_vision_tower_from,
    tiny_llava,
    tiny_processor,
)
from minidistill.evaluation import accuracy
from minidistill.experiments.teaching import layers_and_width, scoring_text
from minidistill.generation import decode, sample
from minidistill.models import single_model, tiny_model, word_tokenizer
from minidistill.runlog import atomic_write
from minidistill.tasks import Example, Task, get_world, write_examples, write_jsonl
from minidistill.training import distill


@dataclass(frozen=True)
class Recipe:
    """Hold sizes and seeds of one world. Teachers see fresh examples, the student the shipped ones.

    `models`: folder → preset of `models.TINY` (`tiny_llava.TINY_LLAVA` where the recipe is `multimodal`). In
    `students` is where distillation starts, all others teach. `fewer_examples`: teacher → how many, in place
    of `teacher_examples`. A tiny world is learnt by the smallest of them, given enough examples, so strength
    is a matter of size and of teaching. `learning_rates`: teacher → another than `lr`: a deep one wants a
    gentler. Where the recipe is `multimodal`, the student's vision tower begins as the first layers of the
    teacher's, which therefore stands before it in `models`.
    """

    models: dict[str, str]
    train: int = 2000
    test: int = 400
    references: int = 4
    teacher_examples: int = 80_000
    teacher_epochs: int = 3
    student_epochs: int = 14
    lr: float = 3e-3
    fewer_examples: dict[str, int] = field(default_factory=dict)
    learning_rates: dict[str, float] = field(default_factory=dict)
    students: tuple[str, ...] = ("student",)
    multimodal: bool = False


BLOCKS = {False: "Llama blocks", True: "LLaVA of a CLIP vision tower and Llama blocks"}
RECIPES = {
    "instruct": Recipe(
        {
            "student": "student",
            "teacher": "teacher",
            "teacher_medium": "medium",
            "teacher_small": "thin",
            "target": "deep",
            "draft": "flat",
        },
        fewer_examples={"teacher_medium": 20_000, "teacher_small": 12_000, "target": 40_000},
        learning_rates={"target": 1.5e-3},
        students=("student", "draft"),
    ),
    "arithmetic": Recipe({"student": "small", "teacher": "medium"}, teacher_examples=60_000),
    "program": Recipe(
        {"student": "small", "teacher": "medium"}, teacher_examples=60_000, student_epochs=8
    ),
    "vision": Recipe(
        {"teacher": "teacher", "student": "student"},
        teacher_examples=100_000,
        teacher_epochs=4,
        lr=2e-3,
        multimodal=True,
    ),
}


def pretrain(name: str, out: Path) -> None:
    """Write out/name: train and test prompts, the recipe's models in 16 bits, and a card.

    A model that is there stays; one that was stopped resumes (checkpoints stand under out/name/.work).
    """
    world, recipe, folder = get_world(name), RECIPES[name], out / name
    train = write_examples(name, recipe.train, seed=1, held_out=False, references=recipe.references)
    test = write_examples(name, recipe.test, seed=2, held_out=True, references=recipe.references)
    fresh = write_examples(name, recipe.teacher_examples, seed=3, held_out=False)
    write_jsonl(folder / "train.jsonl", train)
    write_jsonl(folder / "test.jsonl", test)
    tokenizer = word_tokenizer(world.words)
    tokenizer = tiny_processor(tokenizer) if recipe.multimodal else tokenizer
    for model in recipe.models:
        if not (folder / model / "model.safetensors").is_file():
            seen = fresh[: recipe.fewer_examples.get(model)]
            examples = train if model in recipe.students else seen
            train_sft(model, tokenizer, examples, test, recipe, folder)
    _write_card(name, recipe, folder, test)


def train_sft(model: str, tokenizer, examples, test, recipe: Recipe, folder: Path) -> None:
    """Train by SFT from random weights on `examples`, saved in 16 bits."""
    make = tiny_llava if recipe.multimodal else tiny_model
    network = make(recipe.models[model], tokenizer, seed=0)
    pair, student = single_model(network, tokenizer), model in recipe.students
    if recipe.multimodal and student:
        init_vision_tower_from(network, load_model(folder / "teacher")[0])
    distill(
        pair, Task("student" if student else "teacher", examples, test), "sft",
        lr=recipe.learning_rates.get(model, recipe.lr),
        epochs=recipe.student_epochs if student else recipe.teacher_epochs,
        batch_size=32 if student else 64, out=folder / ".work" / model,
    )  # fmt: skip
    network.to(torch.float16)
    pair.save_student(folder / model)


def _write_card(name: str, recipe: Recipe, folder: Path, test: list[Example]) -> None:
    """The card's numbers are measured on what was saved, not on what was trained."""
    world, rows = get_world(name), []
    teachers = ", ".join(
        f"`{model}/` ({recipe.fewer_examples.get(model, recipe.teacher_examples):,})"
        for model in recipe.models
        if model not in recipe.students
    )
    starts = ", ".join(f"`{model}/`" for model in recipe.students)
    eyes = (
        ". Its vision tower began as the first layers of the teacher's" if recipe.multimodal else ""
    )
    task = Task(name, [], test, lambda example, response: world.judge(example, response).grade)
    for preset in recipe.models:
        model, tokenizer = load_model(folder / preset)
        pair = single_model(model, tokenizer)
        prompts = [pair.encode(example) for example in test]
        greedy = accuracy(task, decode(pair, sample(model, prompts, pair, temperature=0)))
        drawn = accuracy(task, decode(pair, sample(model, prompts, pair, seed=0)))
        size = sum(p.numel() for p in model.parameters())
        shape = layers_and_width(model.config)
        rows.append(f"| {preset} | {size:,} | {shape} | {greedy:.1%} | {drawn:.1%} |\n")
    atomic_write(
        folder / "README.md",
        (
            f"# {name}: prompts, references, teacher, student\n\n"
            f"Remake: `python -m minidistill teach {name}`. Nothing here comes from another data set: a "
            f"seeded grammar (`minidistill/tasks/{name}`) writes prompts and references.\n\n"
            f"- `train.jsonl`: {recipe.train} prompts (seed 1), up to {recipe.references} references each; "
            f"`test.jsonl`: {recipe.test} held-out prompts (seed 2). No prompt stands in both.\n"
            f"- {teachers}: SFT on so many fresh examples (seed 3), {recipe.teacher_epochs} epochs.\n"
            f"- {starts}: SFT on `train.jsonl`, {recipe.student_epochs} epochs: the start{eyes}.\n"
            f"- All: {BLOCKS[recipe.multimodal]}, a word-level tokenizer of {len(pair.tokenizer)} tokens, "
            "weights in 16 bits (safetensors).\n\n"
            "| model | parameters | layers × width | accuracy, greedy | accuracy, sampled at T = 1 |\n"
            "|---|---|---|---|---|\n" + "".join(rows) + scoring_text(name)
        ).encode(),
    )
