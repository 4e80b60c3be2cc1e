"""The vision world: questions about an image of coloured shapes, and a judge that knows the scene.

    scene:41: large red circle top left; small blue ring bottom right
    where is the blue ring ?          the blue ring is at the bottom right .

A question names little of its image, so nothing in its text gives the answer away (lesson 11 bounds how
often one can be right without looking). As in the instruct world the same patterns write
references and read responses, and wordings follow Zipf's law.
"""

import random
from collections import Counter
from collections.abc import Sequence
from statistics import mean

from minidistill.tasks import Example, Task, as_example
from minidistill.tasks.grammar import Family, World, join, split, zipf, zipf_subset
from minidistill.tasks.vision import scenes
from minidistill.tasks.vision.scenes import COLOURS, COLUMNS, ROWS, SHAPES, SIZES, Shape

NUMBERS = ["zero", "one", "two", "three", "four", "five"]
PLURALS = {shape: shape + ("es" if shape == "cross" else "s") for shape in SHAPES}


def _fits(shape: Shape, said: dict, *names: str) -> bool:
    """Tell whether all that was said of a shape is true of it; what was not said cannot be false."""
    return all(said.get(name, getattr(shape, name)) == getattr(shape, name) for name in names)


def _facts(shape: Shape) -> dict:
    return {n: getattr(shape, n) for n in ("size", "colour", "shape", "row", "column")}


def _sample(rng: random.Random) -> tuple[str, list[Shape]]:
    scene = scenes.sample_scene(rng)
    return scene, list(scenes.parse_scene(scene))


# --- colour: of a shape; where the shape comes twice, either is right --------------------------------
def _colour_ask(rng: random.Random) -> dict:
    scene, shapes = _sample(rng)
    return {"scene": scene, **_facts(rng.choice(shapes))}


def _colour_answer(rng: random.Random, asked: dict) -> dict:
    return _facts(zipf(rng, [t for t in _shapes(asked) if t.shape == asked["shape"]]))


def _colour_judge(asked: dict, said: dict) -> tuple[bool, bool]:
    said = {"shape": asked["shape"], **said}
    right = any(_fits(t, said, "size", "colour", "shape") for t in _shapes(asked))
    return right and said["shape"] == asked["shape"], True


# --- where: of a named shape ---------------------------------------------------------------------------
def _where_answer(rng: random.Random, asked: dict) -> dict:
    wanted = [t for t in _shapes(asked) if _fits(t, asked, "colour", "shape")]
    return _facts(zipf(rng, wanted))


def _where_judge(asked: dict, said: dict) -> tuple[bool, bool]:
    named = {"colour": asked["colour"], "shape": asked["shape"]}
    true = any(_fits(t, {**named, **said}, *_facts(t)) for t in _shapes(asked))
    return true and all(said.get(n, named[n]) == named[n] for n in named), True


# --- what: stands in a place ----------------------------------------------------------------------------
def _what_answer(rng: random.Random, asked: dict) -> dict:
    return _facts(next(t for t in _shapes(asked) if _fits(t, asked, "row", "column")))


def _what_judge(asked: dict, said: dict) -> tuple[bool, bool]:
    place = {"row": asked["row"], "column": asked["column"]}
    true = any(_fits(t, {**place, **said}, *_facts(t)) for t in _shapes(asked))
    return true and all(said.get(n, place[n]) == place[n] for n in place), True


# --- count: shapes of a kind or of a colour -----------------------------------------------------------
def _count(asked: dict, what: str) -> str:
    """'circles', 'red things' → how many, in words."""
    colour = what.removesuffix(" things")
    return NUMBERS[sum(colour == t.colour or PLURALS[t.shape] == what for t in _shapes(asked))]


def _count_ask(rng: random.Random) -> dict:
    """None to three, each as often as the others: else "one" would be a good guess."""
    wanted = NUMBERS[rng.randint(0, 3)]
    while True:
        asked = {"scene": scenes.sample_scene(rng)}
        what = rng.choice([*PLURALS.values(), *(f"{colour} things" for colour in COLOURS)])
        if _count(asked, what) == wanted:
            return {**asked, "WHAT": what}


def _count_answer(rng: random.Random, asked: dict) -> dict:
    return {"n": _count(asked, asked["WHAT"]), "WHAT": asked["WHAT"]}


def _count_judge(asked: dict, said: dict) -> tuple[bool, bool]:
    same = said.get("WHAT", asked["WHAT"]) == asked["WHAT"]
    return same and said["n"] == _count(asked, asked["WHAT"]), True


# --- compare: of which shape are there more? ------------------------------------------------------------
def _compare_ask(rng: random.Random) -> dict:
    while True:
        scene, shapes = _sample(rng)
        a, b = rng.sample(SHAPES, 2)
        counts = Counter(s.shape for s in shapes)
        if counts[a] != counts[b]:
            return {"scene": scene, "kinds": PLURALS[a], "others": PLURALS[b]}


def _compare_answer(rng: random.Random, asked: dict) -> dict:
    pair = [(NUMBERS.index(_count(asked, asked[k])), asked[k]) for k in ("kinds", "others")]
    (m, fewer), (n, more) = sorted(pair)
    return {"n": NUMBERS[n], "more": more, "m": NUMBERS[m], "fewer": fewer}


def _compare_judge(asked: dict, said: dict) -> tuple[bool, bool]:
    right = _compare_answer(random.Random(0), asked)
    return all(right[name] == word for name, word in said.items()), True


# --- name: some shapes that are there ------------------------------------------------------------------
def _name_ask(rng: random.Random) -> dict:
    scene, shapes = _sample(rng)
    return {"scene": scene, "n": NUMBERS[rng.randint(1, min(3, len(shapes)))]}


def _name_answer(rng: random.Random, asked: dict) -> dict:
    listed = [f"a {t.name}" for t in _shapes(asked)]
    return {"THINGS": join(zipf_subset(rng, listed, NUMBERS.index(asked["n"])))}


def _name_judge(asked: dict, said: dict) -> tuple[bool, bool]:
    there = Counter(f"a {t.name}" for t in _shapes(asked))
    listed = Counter(split(said["THINGS"]))
    return listed <= there, sum(listed.values()) == NUMBERS.index(asked["n"])


def _shapes(asked: dict) -> tuple[Shape, ...]:
    return scenes.parse_scene(asked["scene"])


FAMILIES = {
    "colour": Family(
        ["what colour is the {shape} ?", "which colour has the {shape} ?", "the {shape} : say its colour"],
        ["it is {colour} .", "the {shape} is {colour} .", "{colour} .", "a {colour} {shape} .",
         "i see a {size} {colour} {shape} ."],
        _colour_ask, _colour_answer, _colour_judge,
    ),
    "where": Family(
        ["where is the {colour} {shape} ?", "find the {colour} {shape}", "show me the {colour} {shape}"],
        ["it is at the {row} {column} .", "the {colour} {shape} is at the {row} {column} .",
         "at the {row} {column} .", "{row} {column} .", "look at the {row} {column} ."],
        _colour_ask, _where_answer, _where_judge,
    ),
    "what": Family(
        ["what is at the {row} {column} ?", "what do you see at the {row} {column} ?",
         "{row} {column} : what is it ?"],
        ["a {colour} {shape} .", "it is a {colour} {shape} .", "a {size} {colour} {shape} .",
         "at the {row} {column} is a {colour} {shape} .", "there i see a {size} {colour} {shape} ."],
        _colour_ask, _what_answer, _what_judge,
    ),
    "count": Family(
        ["how many {WHAT} are there ?", "how many {WHAT} do you see ?", "count the {WHAT}"],
        ["there are {n} .", "{n} .", "there are {n} {WHAT} .", "i count {n} {WHAT} .",
         "the number of {WHAT} is {n} ."],
        _count_ask, _count_answer, _count_judge,
    ),
    "compare": Family(
        ["are there more {kinds} or {others} ?", "which are more , the {kinds} or the {others} ?"],
        ["more {more} , {n} to {m} .", "i count {n} {more} and {m} {fewer} .",
         "there are {n} {more} but {m} {fewer} .", "the {more} : {n} of them , and {m} {fewer} ."],
        _compare_ask, _compare_answer, _compare_judge,
    ),
    "name": Family(
        ["name {n} of the things", "tell me {n} things that you see", "what is there ? say {n}"],
        ["i see {THINGS} .", "there is {THINGS} .", "{THINGS} .", "for example {THINGS} .",
         "the picture shows {THINGS} ."],
        _name_ask, _name_answer, _name_judge,
    ),
}  # fmt: skip


class Vision(World):
    """A world whose prompts are examples with an image: the scene is one more slot."""

    def write_prompt(self, rng: random.Random) -> Example:
        return self.write_prompt_of(rng, self.families[rng.choice(list(self.families))])

    def write_prompt_of(self, rng: random.Random, family: Family) -> Example:
        asked = family.ask(rng)
        return Example(zipf(rng, family.prompts).format(**asked), image=asked["scene"])

    def read_prompt(self, prompt: Example | str) -> tuple[str, dict]:
        """(family, slots and scene); ValueError if no family asks that, or there is no image."""
        prompt = as_example(prompt)
        if prompt.image is None:
            raise ValueError(
                f"nothing is shown to {prompt.prompt!r}: a prompt of this world has a scene"
            )
        name, slots = super().read_prompt(prompt)
        return name, {**slots, "scene": prompt.image}


def family_of(example: Example) -> str:
    """Name the family of questions that a prompt of this world belongs to."""
    return WORLD.read_prompt(example)[0]


def accuracy_by_family(examples: Sequence[Example], grades: Sequence[float]) -> dict[str, float]:
    """Family → share of full grades, and 'all' of them."""
    rows: dict[str, list[bool]] = {name: [] for name in WORLD.families}
    for example, grade in zip(examples, grades, strict=True):
        rows[family_of(example)].append(grade >= 1)
    found = {name: mean(right) for name, right in rows.items() if right}
    return {**found, "all": mean(grade >= 1 for grade in grades)}


def grade_by_family(task: Task, responses: Sequence[str]) -> dict[str, float]:
    """`accuracy_by_family` of one response to each held-out prompt."""
    grades = [task.grade(e, y) for e, y in zip(task.test, responses, strict=True)]
    return accuracy_by_family(task.test, grades)


def scenes_card() -> str:
    """Write for the data's card what a line shows and what is asked, a row a family."""
    rows, rng = [], random.Random(1)
    for name, family in FAMILIES.items():
        example = WORLD.write_prompt_of(rng, family)
        answer = WORLD.write_reference(rng, example)
        rows.append(f"| {name} | {example.image} | {example.prompt} | {answer} |\n")
    return (
        "\n## Pictures\n\nNo picture is shipped: `image` is a scene, and "
        f"`minidistill/tasks/vision/scenes.py` draws it on {scenes.SIDE} × {scenes.SIDE} pixels. "
        "A response is right if it can be read and all that it says of the scene holds.\n\n"
        "| family | scene | question | a right answer |\n|---|---|---|---|\n"
    ) + "".join(rows)


WORLD = Vision(
    FAMILIES,
    {*COLOURS, *SHAPES, *PLURALS.values(), *SIZES, *ROWS, *COLUMNS, *NUMBERS, "things", "a", "no"},
    openings=("", "well , ", "i think ", "sure , ", "let me look . "),
    closings=("", " that is all .", " i am sure .", " look again ."),
)
