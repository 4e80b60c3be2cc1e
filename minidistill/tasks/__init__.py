"""Tasks: prompts with references, and a grader where there is one.

`load_task("instruct")` reads a tiny world's shipped prompts; `load_task("prompts.jsonl")` reads
anybody's. A line is a JSON object with `prompt` or `instruction` (+ `input`, `instances`) and,
for references, `references`, `response`, `output` or `instances[].output`; where the prompt is about an
image, `image` is its file's path, seen from the JSONL file, or a scene of the vision world.
"""

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from minidistill.utils import data_dir, unknown_name_message

WORLDS = ("instruct", "arithmetic", "program", "vision")
NO_ANSWER = "no answer"  # the reason of a grade of 0 where there was nothing to grade


@dataclass(frozen=True)
class Example:
    """Hold a prompt, what the data set calls right (may be none), and the image it is about, if any.

    `image`: the path of a file, or a scene of the vision world.
    """

    prompt: str
    references: tuple[str, ...] = ()
    image: str | None = None

    def content(self) -> tuple:
        """List all that the example says, for a fingerprint: an image file counts by its bytes."""
        texts = tuple(value for name, value in vars(self).items() if name != "image")
        if self.image is None:
            return texts
        from minidistill.tasks.vision.images import content_hash

        return (*texts, content_hash(self.image))


def as_example(prompt: "Example | str") -> Example:
    """Make an example of a prompt that is text alone; an example stays what it is."""
    return Example(prompt) if isinstance(prompt, str) else prompt


@dataclass(frozen=True, kw_only=True)
class Preference(Example):
    """A prompt, the response that was preferred, and the one it was preferred to."""

    chosen: str
    rejected: str


@dataclass(frozen=True)
class Grade:
    """A grade in [0, 1] and its reason: "right", "wrong", NO_ANSWER or a sentence."""

    grade: float
    reason: str


@dataclass(frozen=True)
class Task:
    """Hold prompts and their grader: `grade(example, response)` in [0, 1], None where there is none.

    `explain(example, response)`, where there is one, gives that grade and its reason. The graders of this
    package also take a prompt that is text alone in the example's place.
    """

    name: str
    train: list[Example]
    test: list[Example]
    grade: Callable[[Example, str], float] | None = None
    explain: Callable[[Example, str], Grade] | None = None


def load_task(name: str | Path, held_out: float = 0.2) -> Task:
    """A tiny world by name, or any JSONL file by path (its last `held_out` share is the test set).

    A world's `train` is what is there to distil on; no start, and no teacher, has seen its `test`.
    """
    if str(name) in WORLDS:
        folder, world = data_dir() / str(name), get_world(str(name))
        return Task(
            str(name),
            read_jsonl(folder / "distill.jsonl"),
            read_jsonl(folder / "test.jsonl"),
            lambda example, response: world.judge(example, response).grade,
            world.judge,
        )
    if Path(name).suffix not in {".jsonl", ".json"}:
        raise ValueError(
            unknown_name_message("task", str(name), WORLDS) + ", or the path of a .jsonl file"
        )
    examples = read_jsonl(Path(name))
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


def read_jsonl(path: Path) -> list[Example]:
    """Read prompts; ValueError names file, line and field of the first line that is not one."""
    examples = []
    for where, record in read_records(path):
        try:
            examples.append(_example(record, path.parent))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
    if not examples:
        raise ValueError(f"{path}: no prompts in this file")
    return examples


def read_records(path: Path) -> Iterator[tuple[str, object]]:
    """(file and line, what JSON says there), empty lines left out; ValueError for what is not JSON."""
    if not path.is_file():
        siblings = [file.name for file in path.parent.glob("*.json*")]
        raise FileNotFoundError(f"{path}: {unknown_name_message('file', path.name, siblings)}")
    # Not splitlines(): it also breaks at U+2028, which JSON allows inside a text.
    for number, line in enumerate(_read_utf8(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where}: not JSON ({error.msg})") from None
        yield where, record


def _read_utf8(path: Path) -> str:
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {line}: not UTF-8 text ({error.reason})") from None


def write_jsonl(path: Path, examples: list[Example]) -> None:
    """One JSON object a line, `prompt`, `references` and `image` if any: what `read_jsonl` reads."""
    lines = []
    for e in examples:
        image = {"image": e.image} if e.image else {}
        lines.append(json.dumps({"prompt": e.prompt, **image, "references": e.references}))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _example(record: object, folder: Path) -> Example:
    if not isinstance(record, dict):
        raise ValueError(f"expected a JSON object, but got {type(record).__name__}")
    instances = record.get("instances") or [{}]
    if not isinstance(instances, list) or not all(isinstance(i, dict) for i in instances):
        raise ValueError(f"field 'instances' must be a list of objects, but is {instances!r}")
    field = "prompt" if "prompt" in record else "instruction"
    parts = [_text(record, field), _text(record, "input") or _text(instances[0], "input")]
    if not parts[0].strip():
        raise ValueError(f"field {field!r} must be a text that is not empty")
    references = record.get("references")
    if references is None:
        single = [_text(record, "response"), _text(record, "output")]
        references = [r for r in (*single, *(_text(i, "output") for i in instances)) if r]
    if not isinstance(references, list) or not all(isinstance(r, str) for r in references):
        raise ValueError(f"field 'references' must be a list of texts, but is {references!r}")
    prompt = "\n\n".join(filter(None, parts))
    return Example(prompt, tuple(references), _image(record, folder))


def _image(record: dict, folder: Path) -> str | None:
    """Find the image of a line, which must be one that can be read: what is wrong is told with its line."""
    if not (image := _text(record, "image")):
        return None
    from minidistill.tasks.vision.images import resolve_image

    return resolve_image(image, folder)


def _text(record: dict, field: str) -> str:
    """The text in `field`, '' if it is not there; ValueError if something else is."""
    value = record.get(field)
    if not isinstance(value, str | None):
        raise ValueError(f"field {field!r} must be a text, but is {value!r}")
    return value or ""
