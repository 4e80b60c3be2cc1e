"""The worlds' prompts, teachers and starts: what is drawn, how it is split. `teaching` makes the models.

    data/<world>/  sft.jsonl           what the starts were taught on
                          distill.jsonl       what a student is distilled on
                          validation.jsonl    what settings are chosen on
                          test.jsonl          what runs are measured on
                          teacher/  student_0/  student_1/  student_2/

No prompt stands in two splits, or twice in one, and the teacher saw none of validation and test; of programs
that holds for the request behind the wordings, and a picture is asked about once. Each split has the families
in the same shares. A start is stopped early, before it knows its own prompts better than others, and there
are several, so that a run's seed draws its start too.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from minidistill import load_pair
from minidistill.models import Pair
from minidistill.tasks import (
    Example,
    Task,
    as_example,
    get_world,
    load_task,
    read_prompts,
)
from minidistill.utils import data_dir, derive_seed, unknown_name_message

STARTS = 3
WIDTHS = ("width_32", "width_48", "width_96")  # beside the student's 64: how much it can copy
SPLITS = ("sft", "distill", "validation", "test")
SPARE = 50  # drawn besides, as wordings of one question are not parted
DRAWS_WITHOUT_NEWS = 200_000  # after so many repetitions a grammar has no more prompts to give


@dataclass(frozen=True)
class WorldRecipe:
    """Hold how a world's splits and models are made.

    `sizes`: prompts a split, in the order of `SPLITS`. `references`: right answers a prompt, by split.
    `teachers`, `students`: folder → preset of `models.TINY`, of `tiny_llava.TINY_LLAVA` where the world is
    `multimodal`. A student has STARTS folders, numbered. `teacher_examples`: how many fresh ones a teacher
    sees, `teacher_epochs` times; `fewer_examples`: teacher → how many instead, which makes a weaker one.
    `learning_rates`: teacher → another than `teacher_lr`: a deep one wants a gentler.
    """

    sizes: tuple[int, int, int, int] = (3000, 6000, 500, 1000)
    references: tuple[int, int, int, int] = (1, 1, 1, 4)
    teachers: dict[str, str] = field(default_factory=lambda: {"teacher": "teacher"})
    students: dict[str, str] = field(default_factory=lambda: {"student": "student"})
    teacher_examples: int = 120_000
    teacher_epochs: int = 3
    teacher_lr: float = 2e-3
    fewer_examples: dict[str, int] = field(default_factory=dict)
    learning_rates: dict[str, float] = field(default_factory=dict)
    student_epochs: int = 4
    student_lr: float = 3e-3
    multimodal: bool = False


WORLD_RECIPES = {
    "instruct": WorldRecipe(
        teachers={
            "teacher": "teacher", "teacher_medium": "medium", "teacher_small": "thin", "target": "deep",
        },
        students={
            "student": "student", "draft": "flat", **{name: name for name in WIDTHS},
        },
        fewer_examples={"teacher_medium": 20_000, "teacher_small": 12_000, "target": 40_000},
        learning_rates={"teacher_medium": 3e-3, "teacher_small": 3e-3, "target": 1.5e-3},
    ),
    "arithmetic": WorldRecipe(
        teachers={"teacher": "medium"}, students={"student": "width_48"}, teacher_examples=60_000,
        teacher_lr=3e-3,
    ),
    "program": WorldRecipe(
        teachers={"teacher": "medium"}, students={"student": "width_40"}, teacher_examples=60_000,
        teacher_lr=3e-3, student_epochs=3,
    ),
    "vision": WorldRecipe(
        students={"student": "width_48"}, teacher_examples=100_000, teacher_epochs=6, student_epochs=4,
        multimodal=True,
    ),
}  # fmt: skip


def get_recipe(name: str) -> WorldRecipe:
    """Return the recipe of a world; ValueError lists those that have one and the nearest."""
    if name not in WORLD_RECIPES:
        raise ValueError(unknown_name_message("world", name, WORLD_RECIPES))
    return WORLD_RECIPES[name]


def world_dir(name: str) -> Path:
    """Return the folder of a world's splits and models."""
    return data_dir() / name


# --- reading --------------------------------------------------------------------------------------------
def load_split(name: str, split: str) -> list[Example]:
    """Read the examples of one of `SPLITS`; ValueError for another."""
    if split not in SPLITS:
        raise ValueError(unknown_name_message("split", split, SPLITS))
    return read_prompts(world_dir(get_recipe(name) and name) / f"{split}.jsonl")


def load_world(name: str, held_out: str = "test") -> Task:
    """Load a world as a task: `train` is what is distilled on, `test` is `held_out`, test or validation."""
    task = load_task(name)
    return task if held_out == "test" else replace(task, test=load_split(name, held_out))


def load_start(name: str, seed: int, teacher: str = "teacher", student: str = "student") -> Pair:
    """Load a world's teacher and the start that `seed` draws: number seed modulo STARTS."""
    folder = world_dir(name)
    return load_pair(teacher=folder / teacher, student=folder / f"{student}_{seed % STARTS}")


# --- prompts --------------------------------------------------------------------------------------------
def unique_prompts(name: str, seed: int, exclude: Iterable[Example] = ()) -> Iterator[Example]:
    """Yield prompts without end, none twice, none of `exclude`; RuntimeError if a world has no more.

    Where prompts are about pictures, no picture comes twice.
    """
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


def _asked(example: Example) -> str:
    return example.image or example.prompt


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
    """Return what may stand in one split alone.

    The request behind a program's wordings, the picture of a question about it, else the prompt.
    """
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
