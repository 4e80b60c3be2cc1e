"""Sample, write, parse and render scenes: coloured shapes in the nine places of a small canvas.

    scene:41: large red circle top left; small blue ring bottom right

The text is all that is shipped; `render` draws it. The number decides what no question asks about:
where in its place a shape stands, its exact size and tint, how light the ground is. So shapes of one name
look alike to a reader and differ in every pixel.
"""

import random
import re
from dataclasses import dataclass
from functools import lru_cache

SCENE = "scene:"  # how an image begins that is drawn, not read from a file
COLOURS = {
    "red": (214, 39, 40), "blue": (31, 90, 200), "green": (30, 150, 60), "yellow": (240, 205, 40),
    "purple": (140, 60, 180), "pink": (250, 150, 190),
}  # fmt: skip
SHAPES = ("circle", "square", "triangle", "cross", "ring")
SIZES = {"large": 5.0, "small": 3.2}  # half the width, in pixels
ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "centre", "right")
CELL = 12
BACKGROUND = (225, 250)  # how light: from, to
SIDE = 3 * CELL  # pixels
MAX_SHAPES = 5
SUPERSAMPLING = 4  # drawn so many times larger, then reduced: smooth edges


@dataclass(frozen=True)
class Shape:
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


def sample_scene(rng: random.Random) -> str:
    """Draw a scene at random: one to five shapes of at most three kinds, so that some come twice."""
    places = rng.sample(
        [(row, column) for row in ROWS for column in COLUMNS], rng.randint(1, MAX_SHAPES)
    )
    kinds = rng.sample(SHAPES, 3)
    shapes = [
        Shape(rng.choice(list(SIZES)), rng.choice(list(COLOURS)), rng.choice(kinds), *place)
        for place in sorted(places, key=lambda p: (ROWS.index(p[0]), COLUMNS.index(p[1])))
    ]
    return format_scene(shapes, rng.randrange(1000))


def format_scene(shapes: list[Shape], number: int = 0) -> str:
    """Write a scene as text; the inverse of `parse_scene`."""
    listed = "; ".join(f"{s.size} {s.name} {s.row} {s.column}" for s in shapes)
    return f"{SCENE}{number}: {listed}"


@lru_cache(maxsize=4096)
def parse_scene(scene: str) -> tuple[Shape, ...]:
    """Read the shapes of a scene; ValueError says what cannot be read."""
    found = re.fullmatch(rf"{SCENE}\d+: (.+)", scene)
    if not found:
        raise ValueError(f"a scene reads 'scene:NUMBER: SHAPE; SHAPE', but this is {scene!r:.80}")
    shapes = tuple(_parse_shape(text) for text in found[1].split("; "))
    if len({s.place for s in shapes}) < len(shapes):
        raise ValueError(f"two shapes in one place of {scene!r:.120}")
    return shapes


def _parse_shape(text: str) -> Shape:
    words, allowed = text.split(" "), (SIZES, COLOURS, SHAPES, ROWS, COLUMNS)
    if len(words) != 5 or not all(w in known for w, known in zip(words, allowed, strict=True)):
        raise ValueError(f"a shape reads 'large red circle top left', but this is {text!r:.80}")
    return Shape(*words)


def render(scene: str, scale: int = 1):
    """Draw a scene as a PIL image of SIDE · `scale` pixels a side; the same for the same text."""
    from PIL import Image, ImageDraw

    rng, fine = random.Random(scene.partition(": ")[0]), SUPERSAMPLING * scale
    ground = tuple(rng.randint(*BACKGROUND) for _ in range(3))
    image = Image.new("RGB", (SIDE * fine, SIDE * fine), ground)
    pencil = ImageDraw.Draw(image)
    for shape in parse_scene(scene):
        x, y = CELL * (COLUMNS.index(shape.column) + 0.5), CELL * (ROWS.index(shape.row) + 0.5)
        x, y, r = x + rng.uniform(-1, 1), y + rng.uniform(-1, 1), rng.uniform(-0.4, 0.4)
        tint = tuple(max(0, min(255, c + rng.randint(-20, 20))) for c in COLOURS[shape.colour])
        r = (SIZES[shape.size] + r) * fine
        _draw_shape(pencil, shape.shape, x * fine, y * fine, r, tint, ground)
    return image.resize((SIDE * scale, SIDE * scale), Image.Resampling.BOX)


def _draw_shape(pencil, shape: str, x: float, y: float, r: float, tint, ground) -> None:
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
