"""Drawings of lesson 11: pictures with what was said of them, patches, and who looks."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from statistics import mean

# First of all imports, because it says what to install where matplotlib is missing.
from minidistill import plots

# isort: split
from torch import Tensor

from minidistill.applications.vision import changed, next_word
from minidistill.models import Pair
from minidistill.tasks import Example, scenes
from minidistill.tasks.pictures import SCENE, Seen, picture

WIDE = 36  # characters of a line below a picture


def gallery(
    examples: Sequence[Example],
    said: Mapping[str, Sequence[str]],
    grade: Callable | None = None,
    columns: int = 4,
):
    """Each picture with its question below, and what each said; with a judge, + right and – wrong."""
    rows = -(-len(examples) // columns)
    lines = 2 + 2 * len(said)
    axes = plots.axes(
        columns, 1.9 * rows + 0.17 * lines * rows, 2.45 * columns, rows, squeeze=False
    )
    for number, ax in enumerate(axes.flat):
        ax.set_axis_off()
        if number >= len(examples):
            continue
        prompt = examples[number].prompt
        show_picture(ax, prompt.image)
        text = _wrapped(f"asked: {prompt}")
        for who, answers in said.items():
            mark = ("+ " if grade(prompt, answers[number]) >= 1 else "– ") if grade else ""
            text += _wrapped(f"{mark}{who}: {answers[number]}")
        ax.text(0, -0.05, "\n".join(text), va="top", fontsize=7.5, transform=ax.transAxes)
        ax.text(0, -0.05, "\n" * lines, va="top", fontsize=7.5, transform=ax.transAxes)  # room
    return axes.flat[0].figure


def _wrapped(text: str) -> list[str]:
    """Two lines at most; a stop or a comma stays beside its word."""
    for sign in ".,?":
        text = text.replace(f" {sign}", f"\N{NO-BREAK SPACE}{sign}")
    return textwrap.wrap(text, WIDE)[:2]


def show_picture(ax, image: str) -> None:
    """The picture as the model gets it: a scene in its few pixels, with no smoothing."""
    ax.imshow(picture(image), interpolation="nearest" if image.startswith(SCENE) else "auto")
    ax.set(xticks=[], yticks=[])
    ax.grid(visible=False)


def draw_patches(axes, image: str, side: int, title: str = "") -> None:
    """Left the picture with the cuts, right the patches in the order in which a model reads them."""
    left, right = axes
    show_picture(left, image)
    drawn = picture(image)
    for cut in range(0, drawn.width + 1, side):
        left.axvline(cut - 0.5, color=plots.BLACK, linewidth=0.8)
        left.axhline(cut - 0.5, color=plots.BLACK, linewidth=0.8)
    left.set_title(title, loc="left", fontsize=10.5)
    across = drawn.width // side
    for n in range(across * (drawn.height // side)):
        x, y = n % across * side, n // across * side
        spot = (n, n + 0.92, 0.0, 0.92)
        right.imshow(drawn.crop((x, y, x + side, y + side)), extent=spot, interpolation="nearest")
        right.text(n + 0.46, -0.12, str(n + 1), ha="center", va="top", fontsize=8)
    right.set(xlim=(-0.1, n + 1.1), ylim=(-0.5, 1.1))
    right.set_axis_off()


def draw_families(
    ax,
    rows: Mapping[str, Sequence[Mapping[str, float]]],
    ylabel: str,
    title: str = "",
    guess: Mapping[str, float] | None = None,
):
    """Bars by family, a bar a name: the mean over seeds, with a whisker from lowest to highest.

    `guess`: (11.3) of each family, a line across its bars.
    """
    names = list(next(iter(rows.values()))[0])
    bars = {who: [mean(seed[n] for seed in seeds) for n in names] for who, seeds in rows.items()}
    plots.token_bars(bars, names, ax, title=title)
    width = 0.8 / len(rows)
    for i, seeds in enumerate(rows.values()):
        for place, name in enumerate(names):
            x = place + (i - (len(rows) - 1) / 2) * width
            values = [seed[name] for seed in seeds]
            if len(values) > 1:
                ax.vlines(x, min(values), max(values), color=plots.BLACK, linewidth=1)
    if guess:
        places, heights = range(len(names)), [guess[name] for name in names]
        ends = [[place + side for place in places] for side in (-0.46, 0.46)]
        ax.hlines(heights, *ends, color=plots.BLACK, linestyle=":", label="best guess")
        ax.legend()
    ax.set(xlabel="kind of question", ylabel=ylabel)
    return ax


def draw_worth(ax, worths: Mapping[str, Tensor], title: str = ""):
    """(11.2) Every response's worth of its picture, smallest first, one line a model."""
    for name, style in plots.styles(list(worths)).items():
        values = worths[name].sort().values
        share = [(i + 0.5) / len(values) for i in range(len(values))]
        ax.plot(values, share, label=name, **style.line)
    ax.axvline(0, color=plots.BLACK, linewidth=0.8)
    ax.set(
        xlabel="nats a token that the picture is worth", ylabel="share of responses", ylim=(0, 1)
    )
    ax.set_title(title, loc="left", fontsize=10.5)
    ax.legend()
    return ax


QUESTION, BEGUN = "what colour is the circle ?", "it is"
TWO = "scene:7: large red circle top left; small blue square middle right; large green circle bottom left"
PLACES = [(row, column) for row in scenes.ROWS for column in scenes.COLUMNS]


def colour_explorer(pair: Pair) -> Callable:
    """A callback `(colour, place, alpha) → Figure`: two circles, the second recoloured and moved.

    Left the picture, right what teacher, student and their mixture would call the circle's colour.
    """
    colours = list(scenes.COLOURS)
    ids = pair.tokenizer.convert_tokens_to_ids(colours)
    free = [p for p in PLACES if p not in (("top", "left"), ("middle", "right"))]

    def draw(colour: int = 2, place: int = 4, alpha: float = 0.1):
        row, column = free[place]
        scene = changed(TWO, 2, colour=colours[colour], row=row, column=column)
        found = next_word(pair, Seen(QUESTION, scene), BEGUN, alpha)
        left, right = plots.axes(2, height=2.7, width=8.2, fast=True, width_ratios=(1, 2.6))
        show_picture(left, scene)
        left.set_title(f"a {colours[colour]} circle, {row} {column}", loc="left", fontsize=9.5)
        words = {who: p[ids] for who, p in found.items()}
        plots.token_bars(words, colours, right, title=f"{QUESTION} {BEGUN} …   alpha = {alpha:.2f}")
        right.set(ylim=(0, 1), xlabel="")
        return left.figure

    return draw
