"""The worlds' prompts, teachers and starts: what is drawn, how it is split, and how the models are taught.

    data/worlds/<world>/  sft.jsonl           what the starts were taught on
                          distill.jsonl       what a student is distilled on
                          validation.jsonl    what settings are chosen on
                          test.jsonl          what runs are measured on
                          teacher/  student_0/  student_1/  student_2/

No prompt stands in two splits, or twice in one, and the teacher saw none of validation and test; of programs
that holds for the request behind the wordings. Each split has the families in the same shares. A start is
stopped early, before it knows its own prompts better than others, and there are several, so that a run's seed
draws its start too.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from minidistill import load_model, load_pair
from minidistill.evaluation import accuracy
from minidistill.generation import decode, sample
from minidistill.models import Pair, single_model, tiny_model, word_tokenizer
from minidistill.runlog import atomic_write
from minidistill.tasks import (
    SECOND_EDITION,
    Example,
    Task,
    as_example,
    get_world,
    load_task,
    read_jsonl,
    write_jsonl,
)
from minidistill.training import distill
from minidistill.utils import data_dir, derive_seed, unknown_name_message

STARTS = 3
SPLITS = ("sft", "distill", "validation", "test")
SPARE = 50  # drawn besides, as wordings of one question are not parted
DRAWS_WITHOUT_NEWS = 200_000  # after so many repetitions a grammar has no more prompts to give


@dataclass(frozen=True)
class WorldRecipe:
    """Hold how a world's splits and models are made.

    `sizes`: prompts a split, in the order of `SPLITS`. `references`: right answers a prompt, by split.
    `teachers`, `students`: folder → preset of `models.TINY`. A student has STARTS folders, numbered.
    `teacher_examples`: how many fresh ones a teacher sees, `teacher_epochs` times.
    """

    sizes: tuple[int, int, int, int] = (3000, 6000, 500, 1000)
    references: tuple[int, int, int, int] = (1, 1, 1, 4)
    teachers: dict[str, str] = field(default_factory=lambda: {"teacher": "teacher"})
    students: dict[str, str] = field(default_factory=lambda: {"student": "student"})
    teacher_examples: int = 120_000
    teacher_epochs: int = 3
    teacher_lr: float = 2e-3
    student_epochs: int = 4
    student_lr: float = 3e-3


WORLD_RECIPES = {
    "instruct": WorldRecipe(),
    "arithmetic": WorldRecipe(
        teachers={"teacher": "medium"}, students={"student": "width_48"}, teacher_examples=60_000,
        teacher_lr=3e-3,
    ),
    "program": WorldRecipe(
        teachers={"teacher": "medium"}, students={"student": "width_40"}, teacher_examples=60_000,
        teacher_lr=3e-3,
    ),
}  # fmt: skip


def get_recipe(name: str) -> WorldRecipe:
    """Return the recipe of a world; ValueError lists those that have one and the nearest."""
    if name not in WORLD_RECIPES:
        raise ValueError(unknown_name_message("world", name, WORLD_RECIPES))
    return WORLD_RECIPES[name]


def world_dir(name: str) -> Path:
    """Return the folder of a world's splits and models."""
    return data_dir() / SECOND_EDITION / name


# --- reading --------------------------------------------------------------------------------------------
def load_split(name: str, split: str) -> list[Example]:
    """Read the examples of one of `SPLITS`; ValueError for another."""
    if split not in SPLITS:
        raise ValueError(unknown_name_message("split", split, SPLITS))
    return read_jsonl(world_dir(get_recipe(name) and name) / f"{split}.jsonl")


def load_world(name: str, held_out: str = "test") -> Task:
    """Load a world as a task: `train` is what is distilled on, `test` is `held_out`, test or validation."""
    task = load_task(SECOND_EDITION + name)
    return task if held_out == "test" else replace(task, test=load_split(name, held_out))


def load_start(name: str, seed: int, teacher: str = "teacher", student: str = "student") -> Pair:
    """Load a world's teacher and the start that `seed` draws: number seed modulo STARTS."""
    folder = world_dir(name)
    return load_pair(teacher=folder / teacher, student=folder / f"{student}_{seed % STARTS}")


# --- prompts --------------------------------------------------------------------------------------------
def unique_prompts(name: str, seed: int, exclude: Iterable[Example] = ()) -> Iterator[Example]:
    """Yield prompts without end, none twice, none of `exclude`; RuntimeError if a world has no more."""
    world, rng = get_world(name), random.Random(seed)
    seen, misses = {_asked(example) for example in exclude}, 0
    while True:
        example = as_example(world.write_prompt(rng))
        if _asked(example) in seen:
            misses += 1
            if misses == DRAWS_WITHOUT_NEWS:
                raise RuntimeError(f"world {name!r} has no more than {len(seen)} different prompts")
            continue
        misses = 0
        seen.add(_asked(example))
        yield example


def _asked(example: Example) -> tuple[str, str | None]:
    return example.prompt, example.image


def write_splits(name: str, seed: int = 1) -> dict[str, list[Example]]:
    """Draw all prompts of a world, deal each family out to the splits by their sizes, and add references."""
    recipe, world = get_recipe(name), get_world(name)
    fresh = unique_prompts(name, seed)
    spare = SPARE if hasattr(world, "question") else 0
    drawn = [next(fresh) for _ in range(sum(recipe.sizes) + spare)]
    rng = random.Random(derive_seed(seed, "deal"))
    dealt = deal_by_family(drawn, world.family, question_of(name), recipe.sizes, rng)
    return {
        split: add_references(name, part, count, derive_seed(seed, split))
        for split, part, count in zip(SPLITS, dealt, recipe.references, strict=True)
    }


def question_of(name: str) -> Callable[[Example], object]:
    """Return what may stand in one split alone: the request behind a program's wordings, else the prompt."""
    world = get_world(name)
    return getattr(world, "question", _asked)


def deal_by_family(
    examples: Sequence[Example], family: Callable, question: Callable, sizes: Sequence[int],
    rng: random.Random,
) -> list[list[Example]]:  # fmt: skip
    """Deal examples out to parts of these sizes: all of a question to one, each family in the same shares."""
    families: dict[str, dict[object, list[Example]]] = defaultdict(lambda: defaultdict(list))
    for example in examples:
        families[family(example)][question(example)].append(example)
    bundles = {name: list(questions.values()) for name, questions in families.items()}
    for questions in bundles.values():
        rng.shuffle(questions)
    row = [bundle for name in sorted(bundles) for bundle in bundles[name]]
    parts: list[list[Example]] = [[] for _ in sizes]
    dealt = 0
    for bundle in row:  # to the part that is farthest behind its share
        dealt += len(bundle)
        owed = [dealt * n / sum(sizes) - len(part) for n, part in zip(sizes, parts, strict=True)]
        parts[owed.index(max(owed))] += bundle
    for part, size in zip(parts, sizes, strict=True):
        rng.shuffle(part)
        del part[size:]
    return parts


def add_references(name: str, examples: list[Example], count: int, seed: int) -> list[Example]:
    """Write up to `count` different right answers beside each prompt."""
    world, rng, found = get_world(name), random.Random(seed), []
    for example in examples:
        asked = example if example.image else example.prompt
        answers = {world.write_reference(rng, asked): None for _ in range(count)}
        found.append(replace(example, references=tuple(answers)))
    return found


def more_prompts(name: str, count: int, seed: int = 2) -> list[Example]:
    """Write prompts beyond the shipped ones, with a reference each: none of them stands in a split."""
    shipped = [example for split in SPLITS for example in load_split(name, split)]
    fresh = unique_prompts(name, seed, shipped)
    return add_references(name, [next(fresh) for _ in range(count)], 1, derive_seed(seed, "more"))


# --- models ---------------------------------------------------------------------------------------------
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
            seed, examples = 0, fresh
            how = {"epochs": recipe.teacher_epochs, "lr": recipe.teacher_lr, "batch_size": 64}
        _train_sft(name, folder / model, preset, seed, examples, **how)
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


def _train_sft(name: str, folder: Path, preset: str, seed: int, examples, **settings) -> None:
    """Train by SFT from random weights, resumable, and save in 16 bits."""
    tokenizer = word_tokenizer(get_world(name).words)
    network = tiny_model(preset, tokenizer, seed=seed)
    pair = single_model(network, tokenizer)
    task = Task(folder.name, examples, examples[:64])
    distill(pair, task, "sft", seed=seed, out=folder.parent / ".work" / folder.name, **settings)
    network.to(torch.float16)
    pair.save_student(folder)


# --- the card -------------------------------------------------------------------------------------------
def write_card(name: str, folder: Path) -> None:
    """Write README.md: what is here, how it is remade, and how good the models are, as saved."""
    recipe, world = get_recipe(name), get_world(name)
    own = read_jsonl(folder / "sft.jsonl")[:1000]
    test = read_jsonl(folder / "test.jsonl")
    rows = []
    for model in model_presets(recipe):
        network, tokenizer = load_model(folder / model)
        pair, config = single_model(network, tokenizer), network.config
        cells = [
            f"{greedy_accuracy(world, pair, test):.1%}",
            f"{greedy_accuracy(world, pair, test, temperature=0.8, top_p=0.95):.1%}",
            f"{greedy_accuracy(world, pair, own):.1%}" if is_start(recipe, model) else "–",
        ]
        size = sum(p.numel() for p in network.parameters())
        shape = f"{config.num_hidden_layers} × {config.hidden_size}"
        rows.append(f"| {model} | {size:,} | {shape} | " + " | ".join(cells) + " |\n")
    sizes = ", ".join(f"`{s}.jsonl` {n:,}" for s, n in zip(SPLITS, recipe.sizes, strict=True))
    text = (
        f"# {name}: prompts, teacher, starts\n\n"
        f"Remake: `python -m minidistill ledger teach {name}`. A seeded grammar (`minidistill/tasks/{name}`) "
        "writes prompts and references; nothing comes from another data set.\n\n"
        f"- Prompts: {sizes}. None stands in two files, or twice in one; families of requests have the same "
        "shares in each.\n"
        f"- Teachers ({', '.join(f'`{t}/`' for t in recipe.teachers)}): SFT on {recipe.teacher_examples:,} "
        f"fresh examples, none of validation and test, {recipe.teacher_epochs} epochs.\n"
        f"- Starts ({', '.join(f'`{s}_0/` to `{s}_{STARTS - 1}/`' for s in recipe.students)}): SFT on "
        f"`sft.jsonl`, {recipe.student_epochs} epochs, each from other random weights in another order.\n"
        "- Weights in 16 bits (safetensors), a word-level tokenizer.\n\n"
        "| model | parameters | layers × width | greedy | T = 0.8, top-p 0.95 | greedy, own prompts |\n"
        "|---|---|---|---|---|---|\n" + "".join(rows)
    )
    atomic_write(folder / "README.md", text.encode())


def greedy_accuracy(world, pair: Pair, examples: list[Example], temperature: float = 0, **sampling):
    """Share of right responses, in [0, 1]; greedy unless a temperature is given."""
    task = Task("card", [], examples, lambda e, response: world.judge(e, response).grade)
    prompts = [pair.encode(example) for example in examples]
    responses = sample(pair.student, prompts, pair, temperature=temperature, **sampling)
    return accuracy(task, decode(pair, responses))
