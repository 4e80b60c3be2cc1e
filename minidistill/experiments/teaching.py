"""Make a world: its splits, its teachers, its starts, and the card that says how good they are."""

import random
from pathlib import Path

import torch

from minidistill import load_model
from minidistill.applications.vision.tiny_llava import (
    init_vision_tower_from,
    tiny_llava,
    tiny_processor,
)
from minidistill.evaluation import accuracy
from minidistill.experiments.worlds import (
    SPLITS,
    STARTS,
    WorldRecipe,
    add_references,
    get_recipe,
    question_of,
    write_splits,
)
from minidistill.generation import decode, sample
from minidistill.models import Pair, single_model, tiny_model, word_tokenizer
from minidistill.runlog import atomic_write
from minidistill.tasks import Example, Task, as_example, get_world, read_prompts, write_jsonl
from minidistill.tasks.instruct import rubric_table
from minidistill.tasks.vision import scenes_card
from minidistill.training import distill


def teach(name: str, out: Path) -> None:
    """Write out/name: the splits, the teachers, the starts, and a card. A model that is there stays."""
    recipe, folder = get_recipe(name), out / name
    splits = write_splits(name)
    for split, examples in splits.items():
        write_jsonl(folder / f"{split}.jsonl", examples)
    missing = [m for m in model_presets(recipe) if not (folder / m / "model.safetensors").is_file()]
    fresh = []
    if missing and not all(is_start(recipe, model) for model in missing):
        fresh = _teacher_examples(name, recipe, [*splits["validation"], *splits["test"]])
    for model in missing:
        preset = model_presets(recipe)[model]
        if is_start(recipe, model):
            seed, examples = int(model.rpartition("_")[2]), splits["sft"]
            how = {"epochs": recipe.student_epochs, "lr": recipe.student_lr, "batch_size": 32}
        else:
            seed, examples = 0, fresh[: recipe.fewer_examples.get(model)]
            lr = recipe.learning_rates.get(model, recipe.teacher_lr)
            how = {"epochs": recipe.teacher_epochs, "lr": lr, "batch_size": 64}
        network, tokenizer = make_model(name, preset, seed)
        if recipe.multimodal and is_start(recipe, model):
            init_vision_tower_from(network, load_model(folder / "teacher")[0])
        _train_sft(network, tokenizer, folder / model, seed, examples, **how)
    write_card(name, folder)


def model_presets(recipe: WorldRecipe) -> dict[str, str]:
    """Return folder → preset of all models of a world, its teachers first."""
    starts = {f"{s}_{i}": preset for s, preset in recipe.students.items() for i in range(STARTS)}
    return {**recipe.teachers, **starts}


def is_start(recipe: WorldRecipe, model: str) -> bool:
    """Tell whether a folder holds a start, and not a teacher."""
    return model not in recipe.teachers


def _teacher_examples(name: str, recipe: WorldRecipe, hidden: list[Example]) -> list[Example]:
    """Draw what the teacher is taught on: as the world asks, repetitions too, but nothing hidden."""
    world, rng = get_world(name), random.Random(3)
    question = question_of(name)
    asked, drawn = set(map(question, hidden)), []
    while len(drawn) < recipe.teacher_examples:
        example = as_example(world.write_prompt(rng))
        if question(example) not in asked:
            drawn.append(example)
    return add_references(name, drawn, 1, 3)


def make_model(name: str, preset: str, seed: int):
    """Make a network of random weights for a world, and its tokenizer (a processor if it sees)."""
    tokenizer = word_tokenizer(get_world(name).words)
    if get_recipe(name).multimodal:
        processor = tiny_processor(tokenizer)
        return tiny_llava(preset, processor, seed=seed), processor
    return tiny_model(preset, tokenizer, seed=seed), tokenizer


def _train_sft(network, tokenizer, folder: Path, seed: int, examples, **settings) -> None:
    """Train by SFT, resumable, and save in 16 bits."""
    pair = single_model(network, tokenizer)
    task = Task(folder.name, examples, examples[:64])
    distill(pair, task, "sft", seed=seed, out=folder.parent / ".work" / folder.name, **settings)
    network.to(torch.float16)
    pair.save_student(folder)


# --- the card -------------------------------------------------------------------------------------------
def write_card(name: str, folder: Path) -> None:
    """Write README.md: what is here, how it is remade, and how good the models are, as saved."""
    recipe, world = get_recipe(name), get_world(name)
    own = read_prompts(folder / "sft.jsonl")[:1000]
    test = read_prompts(folder / "test.jsonl")
    rows = []
    for model in model_presets(recipe):
        network, tokenizer = load_model(folder / model)
        pair = single_model(network, tokenizer)
        cells = [
            f"{greedy_accuracy(world, pair, test):.1%}",
            f"{greedy_accuracy(world, pair, test, temperature=0.8, top_p=0.95):.1%}",
            f"{greedy_accuracy(world, pair, own):.1%}" if is_start(recipe, model) else "–",
        ]
        size = sum(p.numel() for p in network.parameters())
        rows.append(
            f"| {model} | {size:,} | {layers_and_width(network.config)} | "
            + " | ".join(cells)
            + " |\n"
        )
    sizes = ", ".join(f"`{s}.jsonl` {n:,}" for s, n in zip(SPLITS, recipe.sizes, strict=True))
    teachers = ", ".join(
        f"`{t}/` on {recipe.fewer_examples.get(t, recipe.teacher_examples):,}"
        for t in recipe.teachers
    )
    eyes = (
        ". Its vision tower began as the first layers of the teacher's" if recipe.multimodal else ""
    )
    text = (
        f"# {name}: prompts, teacher, starts\n\n"
        f"Remake: `python -m minidistill claims teach {name}`. A seeded grammar (`minidistill/tasks/{name}`) "
        "writes prompts and references; nothing comes from another data set.\n\n"
        f"- Prompts: {sizes}. None stands in two files, or twice in one; families of requests have the same "
        "shares in each.\n"
        f"- Teachers: SFT on fresh examples, none of validation and test, {recipe.teacher_epochs} epochs: "
        f"{teachers}.\n"
        f"- Starts ({', '.join(f'`{s}_0/` to `{s}_{STARTS - 1}/`' for s in recipe.students)}): SFT on "
        f"`sft.jsonl`, {recipe.student_epochs} epochs, each from other random weights in another order"
        f"{eyes}.\n"
        "- Weights in 16 bits (safetensors), a word-level tokenizer.\n\n"
        "| model | parameters | layers × width | greedy | T = 0.8, top-p 0.95 | greedy, own prompts |\n"
        "|---|---|---|---|---|---|\n" + "".join(rows) + scoring_text(name)
    )
    atomic_write(folder / "README.md", text.encode())


def greedy_accuracy(world, pair: Pair, examples: list[Example], temperature: float = 0, **sampling):
    """Share of right responses, in [0, 1]; greedy unless a temperature is given."""
    task = Task("card", [], examples, lambda e, response: world.judge(e, response).grade)
    prompts = [pair.encode(example) for example in examples]
    responses = sample(pair.student, prompts, pair, temperature=temperature, **sampling)
    return accuracy(task, decode(pair, responses))


def layers_and_width(config) -> str:
    """Layers × width; of a multimodal model, of its language model and of its vision tower."""
    parts = [config.get_text_config(), *filter(None, [getattr(config, "vision_config", None)])]
    return " + ".join(f"{part.num_hidden_layers} × {part.hidden_size}" for part in parts)


def scoring_text(name: str) -> str:
    """For the card: how the rule judge grades, where a grade has parts."""
    if name == "vision":
        return scenes_card()
    if name != "instruct":
        return ""
    return (
        "\n## How a response is graded\n\nForm (it can be read), correct (nothing false) and complete "
        "(nothing missing) count a third each; accuracy counts the grade of 1.\n\n"
    ) + rubric_table()
