"""How the shipped pairs are made: prompts, a teacher, and a student after SFT."""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from minidistill.batching import encode_prompt
from minidistill.checkpoint import atomic_write
from minidistill.evaluation import accuracy
from minidistill.generation import decode, sample
from minidistill.judging import scoring_table
from minidistill.models import Pair, load_model, tiny_model, word_tokenizer
from minidistill.tasks import Example, Task, get_world, write_examples, write_jsonl
from minidistill.training import distill


@dataclass(frozen=True)
class Recipe:
    """Sizes and seeds of one world. Teachers see fresh examples, the student the shipped ones.

    `models`: folder → preset of `models.TINY`. What is in `starts` is where distillation starts, all
    others teach. `weaker`: teacher → fewer examples than `teacher_examples`. A tiny world is learnt by
    the smallest of them, given enough examples, so strength is a matter of size and of teaching.
    `rates`: teacher → another learning rate than `lr`: a deep one wants a gentler.
    """

    models: dict[str, str]
    train: int = 2000
    test: int = 400
    references: int = 4
    teacher_examples: int = 80_000
    teacher_epochs: int = 3
    student_epochs: int = 14
    lr: float = 3e-3
    weaker: dict[str, int] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    starts: tuple[str, ...] = ("student",)


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
        weaker={"teacher_medium": 20_000, "teacher_small": 12_000, "target": 40_000},
        rates={"target": 1.5e-3},
        starts=("student", "draft"),
    ),
    "arithmetic": Recipe({"student": "small", "teacher": "medium"}, teacher_examples=60_000),
    "program": Recipe(
        {"student": "small", "teacher": "medium"}, teacher_examples=60_000, student_epochs=8
    ),
}


def teach(name: str, out: Path) -> None:
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
    for model in recipe.models:
        if not (folder / model / "model.safetensors").is_file():
            seen = fresh[: recipe.weaker.get(model)]
            examples = train if model in recipe.starts else seen
            _supervise(model, tokenizer, examples, test, recipe, folder)
    _write_card(name, recipe, folder, test)


def _supervise(model: str, tokenizer, examples, test, recipe: Recipe, folder: Path) -> None:
    """SFT from random weights on `examples`, saved in 16 bits."""
    network = tiny_model(recipe.models[model], tokenizer, seed=0)
    pair = Pair(None, network, tokenizer, len(tokenizer))
    student = model in recipe.starts
    distill(
        pair, Task("student" if student else "teacher", examples, test), "sft",
        lr=recipe.rates.get(model, recipe.lr),
        epochs=recipe.student_epochs if student else recipe.teacher_epochs,
        batch_size=32 if student else 64, out=folder / ".work" / model,
    )  # fmt: skip
    network.to(torch.float16).save_pretrained(folder / model)
    tokenizer.save_pretrained(folder / model)


def _write_card(name: str, recipe: Recipe, folder: Path, test: list[Example]) -> None:
    """The card's numbers are measured on what was saved, not on what was trained."""
    world, rows = get_world(name), []
    teachers = ", ".join(
        f"`{model}/` ({recipe.weaker.get(model, recipe.teacher_examples):,})"
        for model in recipe.models
        if model not in recipe.starts
    )
    starts = ", ".join(f"`{model}/`" for model in recipe.starts)
    task = Task(name, [], test, lambda prompt, response: world.judge(prompt, response).grade)
    for preset in recipe.models:
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
            f"- {teachers}: SFT on so many fresh examples (seed 3), {recipe.teacher_epochs} epochs.\n"
            f"- {starts}: SFT on `train.jsonl`, {recipe.student_epochs} epochs: the start.\n"
            f"- All: Llama blocks, a word-level tokenizer of {len(tokenizer)} tokens, weights in 16 bits "
            "(safetensors).\n\n"
            "| model | parameters | layers × width | accuracy, greedy | accuracy, sampled at T = 1 |\n"
            "|---|---|---|---|---|\n" + "".join(rows) + _scoring(name)
        ).encode(),
    )


def _scoring(name: str) -> str:
    """For the card: how the rule judge grades, where a grade has parts."""
    if name != "instruct":
        return ""
    return (
        "\n## How a response is graded\n\nForm (it can be read), correct (nothing false) and complete "
        "(nothing missing) count a third each; accuracy counts the grade of 1.\n\n"
    ) + scoring_table()
