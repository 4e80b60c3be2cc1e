"""Scenes of the vision world: coloured shapes in the nine places of a small canvas, and their picture.

    scene:41: large red circle top left; small blue ring bottom right

The text is all that is shipped; `render` draws it. The number decides what no question asks about:
where in its place a thing stands, its exact size and tint, how light the ground is. So things of one name
look alike to a reader and differ in every pixel.
"""

import random
import re
from dataclasses import dataclass
from functools import lru_cache

from minidistill.tasks.pictures import SCENE

COLOURS = {
    "red": (214, 39, 40), "blue": (31, 90, 200), "green": (30, 150, 60), "yellow": (240, 205, 40),
    "purple": (140, 60, 180), "pink": (250, 150, 190),
}  # fmt: skip
SHAPES = ("circle", "square", "triangle", "cross", "ring")
SIZES = {"large": 5.0, "small": 3.2}  # half the width, in pixels
ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "centre", "right")
CELL = 12
GROUND = (225, 250)  # how light: from, to
SIDE = 3 * CELL  # pixels
MOST = 5  # things in a picture
FINE = 4  # drawn so many times larger, then reduced: smooth edges


@dataclass(frozen=True)
class Thing:
    """One shape: 'large red circle top left'."""

    size: str
    colour: str
    shape: str
    row: str
    column: str

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"

    @property
    def place(self) -> tuple[str, str]:
        return self.row, self.column


def draw(rng: random.Random) -> str:
    """A scene: one to five things of at most three shapes, so that some shapes come twice."""
    places = rng.sample([(row, column) for row in ROWS for column in COLUMNS], rng.randint(1, MOST))
    shapes = rng.sample(SHAPES, 3)
    things = [
        Thing(rng.choice(list(SIZES)), rng.choice(list(COLOURS)), rng.choice(shapes), *place)
        for place in sorted(places, key=lambda p: (ROWS.index(p[0]), COLUMNS.index(p[1])))
    ]
    return write(things, rng.randrange(1000))


def write(things: list[Thing], number: int = 0) -> str:
    """The scene as text; the inverse of `read`."""
    listed = "; ".join(f"{t.size} {t.name} {t.row} {t.column}" for t in things)
    return f"{SCENE}{number}: {listed}"


@lru_cache(maxsize=4096)
def read(scene: str) -> tuple[Thing, ...]:
    """The things of a scene; ValueError says what cannot be read."""
    found = re.fullmatch(rf"{SCENE}\d+: (.+)", scene)
    if not found:
        raise ValueError(f"a scene reads 'scene:NUMBER: THING; THING', but this is {scene!r:.80}")
    things = tuple(_thing(text) for text in found[1].split("; "))
    if len({t.place for t in things}) < len(things):
        raise ValueError(f"two things in one place of {scene!r:.120}")
    return things


def _thing(text: str) -> Thing:
    words, allowed = text.split(" "), (SIZES, COLOURS, SHAPES, ROWS, COLUMNS)
    if len(words) != 5 or not all(w in known for w, known in zip(words, allowed, strict=True)):
        raise ValueError(f"a thing reads 'large red circle top left', but this is {text!r:.80}")
    return Thing(*words)


def render(scene: str, scale: int = 1):
    """The picture, a PIL image of SIDE · `scale` pixels a side; the same for the same text."""
    from PIL import Image, ImageDraw

    rng, fine = random.Random(scene.partition(": ")[0]), FINE * scale
    ground = tuple(rng.randint(*GROUND) for _ in range(3))
    image = Image.new("RGB", (SIDE * fine, SIDE * fine), ground)
    pencil = ImageDraw.Draw(image)
    for thing in read(scene):
        x, y = CELL * (COLUMNS.index(thing.column) + 0.5), CELL * (ROWS.index(thing.row) + 0.5)
        x, y, r = x + rng.uniform(-1, 1), y + rng.uniform(-1, 1), rng.uniform(-0.4, 0.4)
        tint = tuple(max(0, min(255, c + rng.randint(-20, 20))) for c in COLOURS[thing.colour])
        _shape(
            pencil, thing.shape, x * fine, y * fine, (SIZES[thing.size] + r) * fine, tint, ground
        )
    return image.resize((SIDE * scale, SIDE * scale), Image.Resampling.BOX)


def _shape(pencil, shape: str, x: float, y: float, r: float, tint, ground) -> None:
    box = (x - r, y - r, x + r, y + r)
    if shape == "square":
        pencil.rectangle(box, fill=tint)
    elif shape == "triangle":
        pencil.polygon([(x, y - r), (x + r, y + r), (x - r, y + r)], fill=tint)
    elif shape == "cross":
        pencil.rectangle((x - r / 3, y - r, x + r / 3, y + r), fill=tint)
        pencil.rectangle((x - r, y - r / 3, x + r, y + r / 3), fill=tint)
    else:
        pencil.ellipse(box, fill=tint)
        if shape == "ring":
            pencil.ellipse((x - r / 2, y - r / 2, x + r / 2, y + r / 2), fill=ground)
