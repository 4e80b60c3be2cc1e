"""The map of the field: where each method of distillation stands, and what softmax temperature does."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, Rectangle

from minidistill.lessons import plots

WRITERS = (
    "the teacher, or the data set\noff-policy",
    "both",
    "the student itself\non-policy",
)
TARGETS = (
    "hard labels:\nonly the written word",
    "soft targets,\nforward KL",
    "soft targets,\nbetween the two",
    "soft targets,\nreverse KL",
    "a contrast of\ntwo responses",
)


@dataclass(frozen=True)
class Place:
    """Hold a method's place: label, year, `writer` and `target` as indices above, its lessons."""

    label: str
    year: str
    writer: int
    target: int
    lesson: str = ""
    method: str = ""


PLACES = (
    Place("SFT on references", "", 0, 0, "03", "sft"),
    Place("SeqKD", "2016", 0, 0, "03"),
    Place("KD", "2015", 0, 1, "00, 03", "kd"),
    Place("Speculative KD", "2024", 1, 1, "03, 06"),
    Place("ImitKD", "2020", 2, 1, "03"),
    Place("GKD", "2023", 1, 2, "03", "gkd"),
    Place("RKL, SRKL: controls", "", 0, 3, "03, 05", "rkl"),
    Place("DistiLLM", "2024", 1, 3, "03", "distillm"),
    Place("MiniLLM", "2023", 2, 3),
    Place("On-policy distillation", "2025", 2, 3),
    Place("DPKD", "2024", 1, 4, "04", "dpkd"),
    Place("CALD, DistiLLM-2", "2025", 1, 4, "05–08", "distillm2"),
)
WIDTH, HEIGHT, LEFT, TOP = 25, 9, 19, 9


def draw_map(highlight: str = "") -> Axes:
    """Draw all methods by who writes (columns) and what is compared (rows); `highlight` one by its label."""
    ax = plots.axes(width=9.2, height=5.6)
    across, down = LEFT + WIDTH * len(WRITERS), TOP + HEIGHT * len(TARGETS)
    ax.set(xlim=(0, across + 0.3), ylim=(down, 0))
    ax.axis("off")
    for column, text in enumerate(WRITERS):
        x = LEFT + WIDTH * column
        _text(ax, x + WIDTH / 2, TOP / 2, text, weight="bold")
        for row in range(len(TARGETS)):
            shade = "#f7f7f7" if (row + column) % 2 else "white"
            corner = (x, TOP + HEIGHT * row)
            ax.add_patch(Rectangle(corner, WIDTH, HEIGHT, facecolor=shade, edgecolor="#cccccc"))
    for row, text in enumerate(TARGETS):
        _text(ax, LEFT / 2, TOP + HEIGHT * (row + 0.5), text, weight="bold")
    for cell in sorted({(place.writer, place.target) for place in PLACES}):
        here = [place for place in PLACES if (place.writer, place.target) == cell]
        for i, place in enumerate(here):
            _draw_place(ax, place, i, len(here), place.label == highlight)
    return ax


def _draw_place(ax: Axes, place: Place, number: int, count: int, marked: bool) -> None:
    """A box in its cell; several of one cell lie one under the other."""
    step = HEIGHT / count
    x = LEFT + WIDTH * place.writer + 1.2
    y = TOP + HEIGHT * place.target + step * number + 0.16 * step
    color = plots.METHODS[_style(place)].color if place.method else "#6E6E6E"
    face = "#fff3d6" if marked else "white"
    box = FancyBboxPatch(
        (x, y), WIDTH - 2.4, 0.68 * step, boxstyle="round,pad=0,rounding_size=0.8", facecolor=face,
        edgecolor=color, linewidth=1.8,
    )  # fmt: skip
    ax.add_patch(box)
    when = f" ({place.year})" if place.year else ""
    where = f"  · {place.lesson}" if place.lesson else ""
    _text(ax, x + (WIDTH - 2.4) / 2, y + 0.34 * step, f"{place.label}{when}{where}", size=7.8)


def _style(place: Place) -> str:
    return {"kd": "kl", "gkd": "jsd"}.get(place.method, place.method)


def _text(ax: Axes, x: float, y: float, text: str, size: float = 8.4, weight: str = "normal"):
    ax.text(x, y, text, ha="center", va="center", fontsize=size, fontweight=weight)


LOGITS = (5.0, 4.2, 2.0, 1.4, -1.0)
WORDS = ("dog", "wolf", "cat", "fox", "car")


def temperature_bars(temperature: float = 1.0, logits: Sequence[float] = LOGITS):
    """softmax(z / T): what a teacher says of five words at a temperature; 1 is its own voice."""
    scaled = (torch.tensor(logits) / temperature).softmax(-1)
    own = torch.tensor(logits).softmax(-1)
    ax = plots.axes(height=2.5, fast=True)
    shown = {"as it is (T = 1)": own, f"T = {temperature:g}": scaled}
    plots.token_bars(shown, WORDS, ax, title=f"softmax(z / T), T = {temperature:g}")
    ax.set_ylim(0, 1)
    return ax.figure
