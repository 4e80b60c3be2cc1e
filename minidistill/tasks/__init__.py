"""Tasks: prompts with references, and a grader where there is one.

`load_task("instruct")` reads a tiny world's shipped prompts; `load_task("prompts.jsonl")` reads
anybody's (`prompt_files` says in which formats).
"""

import random
from dataclasses import replace
from pathlib import Path

from minidistill.tasks.examples import NO_ANSWER, Example, Grade, Preference, Task, as_example
from minidistill.tasks.prompt_files import SUFFIXES, read_prompts, read_records, write_jsonl
from minidistill.utils import data_dir, unknown_name_message

__all__ = [
    "NO_ANSWER", "WORLDS", "Example", "Grade", "Preference", "Task", "as_example", "get_world", "load_task",
    "read_prompts", "read_records", "write_examples", "write_jsonl",
]  # fmt: skip
WORLDS = ("instruct", "arithmetic", "program", "vision")


def load_task(name: str | Path, held_out: float = 0.2) -> Task:
    """A tiny world by name, or prompts by path or `datasets` name (the last `held_out` share is for tests).

    A world's `train` is what is there to distil on; no start, and no teacher, has seen its `test`.
    """
    if str(name) in WORLDS:
        folder, world = data_dir() / str(name), get_world(str(name))
        return Task(
            str(name),
            read_prompts(folder / "distill.jsonl"),
            read_prompts(folder / "test.jsonl"),
            lambda example, response: world.judge(example, response).grade,
            world.judge,
        )
    if not Path(name).suffix and len(Path(name).parts) == 1 and not Path(name).is_dir():
        files = f", the path of a {', '.join(SUFFIXES)} file, or a data set's owner/name"
        raise ValueError(unknown_name_message("task", str(name), WORLDS) + files)
    examples = read_prompts(name)
    cut = len(examples) - max(1, round(held_out * len(examples)))
    if cut < 1:
        raise ValueError(
            f"{name}: {len(examples)} prompts are too few to train on and hold some out"
        )
    return Task(Path(name).stem, examples[:cut], examples[cut:])


def get_world(name: str):
    """The `World` of that name: writes prompts and references, judges responses."""
    if name not in WORLDS:
        raise ValueError(unknown_name_message("task", name, WORLDS))
    if name == "instruct":
        from minidistill.tasks.instruct import WORLD
    elif name == "arithmetic":
        from minidistill.tasks.arithmetic import WORLD
    elif name == "program":
        from minidistill.tasks.program import WORLD
    else:
        from minidistill.tasks.vision import WORLD
    return WORLD


def write_examples(name: str, count: int, seed: int, held_out: bool, references: int = 1):
    """Write `count` fresh examples; a prompt (or its image, if it has one) stays on one side of the split."""
    world, rng, examples = get_world(name), random.Random(seed), []
    while len(examples) < count:
        prompt = world.write_prompt(rng)
        example = as_example(prompt)
        if (random.Random(example.image or example.prompt).random() < 0.1) == held_out:
            answers = {world.write_reference(rng, prompt): None for _ in range(references)}
            examples.append(replace(example, references=tuple(answers)))
    return examples
