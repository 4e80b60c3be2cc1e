"""The page a figure stands on: one style for each role, a light background, a way to the reader.

Colours are Okabe and Ito's, and each comes with a dash, a marker and a hatch of its own, so that a
figure can be read without colour. `show` is the one way into a notebook: it adds the caption and the
alternative text. What is drawn on the page is in `plots.py`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO
from itertools import cycle

from minidistill.experiments.labels import METHOD_LABELS
from minidistill.utils import missing_extra_message

try:
    import numpy as np
    from matplotlib import rc_context
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator
    from PIL import Image
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(missing_extra_message(error.name, "course")) from None


@dataclass(frozen=True)
class Style:
    """Hold how one thing looks in every figure, as a line and as a bar."""

    color: str
    dash: str | tuple
    marker: str
    hatch: str = ""

    @property
    def line(self) -> dict:
        return {"color": self.color, "linestyle": self.dash}

    @property
    def bar(self) -> dict:
        if not self.hatch:  # the teacher: the grey of its filled curve, outlined in its own black
            return {"facecolor": PAPER_GREY, "edgecolor": self.color}
        return {"facecolor": self.color, "edgecolor": "white", "hatch": self.hatch}


BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, RED, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#6E6E6E"
PAPER_GREY = "#dddddd"
DOTS, DASHES, DASH_DOT, LONG = (0, (1, 1.2)), (0, (5, 2)), (0, (5, 2, 1, 2)), (0, (9, 3))

ROLES = {
    "teacher": Style(BLACK, "-", "o"),
    "student": Style(BLUE, DASHES, "s", "//"),
    "mixture": Style(PURPLE, DASH_DOT, "D", ".."),
}
METHODS = {
    "kl": Style(ORANGE, DASHES, "^", "\\\\"),
    "rkl": Style(GREEN, DASH_DOT, "v", "xx"),
    "jsd": Style(SKY, LONG, "P", "++"),
    "tv": Style(GREY, DOTS, "X", ".."),
    "skl": Style(RED, "-", "<", "||"),
    "srkl": Style(BLUE, DOTS, ">", "--"),
    "sft": Style(GREY, "-", "o", "//"),
    "cald": Style(PURPLE, LONG, "D", "oo"),
    "distillm": Style(RED, DASH_DOT, "p", "**"),
    "distillm2": Style(BLUE, "-", "*", "//"),
    "dpkd": Style(BLACK, DOTS, "x", "xx"),
}
ALIASES = {label.lower(): name for name, label in METHOD_LABELS.items()} | {
    "kd": "kl", "gkd": "jsd", "p": "teacher", "q": "student", "reverse_kl": "rkl",
}  # fmt: skip
FALLBACK_STYLES = [
    Style(color, dash, marker, hatch)
    for color, dash, marker, hatch in zip(
        (GREY, PURPLE, SKY, RED, BLACK, GREEN, ORANGE, BLUE),
        (LONG, DASH_DOT, "-", DOTS, DASHES, "-", DOTS, DASH_DOT),
        "hHd8Xp*P",
        ("--", "//", "\\\\", "xx", "..", "++", "||", "oo"),
        strict=True,
    )
]

# A light page whatever the notebook's theme: a transparent figure is unreadable in dark mode.
RC_PARAMS = {
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "axes.facecolor": "white",
    "axes.edgecolor": "#444444",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 9.5,
    "grid.color": "#e6e6e6",
    "legend.fontsize": 8.5,
    "legend.framealpha": 0.85,
    "legend.edgecolor": "white",
    "lines.linewidth": 2.0,
    "lines.markersize": 5.0,
    "text.color": "black",
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "hatch.color": "white",
    "hatch.linewidth": 0.8,
}


def styles(names: Sequence[str]) -> dict[str, Style]:
    """The style of each name: fixed where the name holds a method or a role, else the next spare one.

    A method is more telling than a role, so "student after RKL" looks like RKL.
    """
    spare, found = cycle(FALLBACK_STYLES), {}
    for name in names:
        words = [ALIASES.get(w, w) for w in re.findall(r"[a-z0-9_]+(?:-\d)?", name.lower())]
        known = [table[w] for table in (METHODS, ROLES) for w in words if w in table]
        found[name] = known[0] if known else next(spare)
    return found


@rc_context(RC_PARAMS)
def axes(
    columns: int = 1,
    height: float = 2.9,
    width: float = 7.2,
    rows: int = 1,
    fast: bool = False,
    **subplots,
):
    """One Axes, or an array of them (columns side by side), on a figure that no backend owns.

    `fast` gives margins that fit two panels instead of measuring all text, which halves the time.
    """
    figure = Figure(figsize=(width, height), layout=None if fast else "constrained")
    if fast:
        figure.subplots_adjust(left=0.09, right=0.985, bottom=0.2, top=0.9, wspace=0.24)
    return figure.subplots(rows, columns, **subplots)


def log_axis(axis: Axis, subs: Sequence[int] = (1,)) -> None:
    """Log scale in plain numbers: 0.001 rather than a power of ten, and no minor ticks (slow to draw)."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_major_locator(LogLocator(subs=subs, numticks=6))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())


def png(picture: Figure | Axes, dpi: int = 96) -> bytes:
    """The picture as PNG bytes, on white."""
    return _encode(_pixels(picture, dpi))


def stacked(pictures: Sequence[Figure | Axes], dpi: int = 96) -> bytes:
    """Pictures of one width, one under the other, as PNG bytes."""
    return _encode(np.concatenate([_pixels(picture, dpi) for picture in pictures]))


def show(picture: Figure | Axes | np.ndarray | bytes, caption: str, alt: str) -> None:
    """Display the picture with its alternative text, the caption under it, and let go of it.

    `picture` is a Figure, one of its Axes, an array of them, or PNG bytes.
    """
    try:
        from IPython.display import Image as Picture
        from IPython.display import Markdown, display
    except ModuleNotFoundError:
        raise ModuleNotFoundError(missing_extra_message("IPython", "course")) from None
    if isinstance(picture, np.ndarray):
        picture = picture.flat[0]
    data = picture if isinstance(picture, bytes) else png(picture)
    display(Picture(data=data, format="png", alt=alt), Markdown(f"*{caption}*"))
    if not isinstance(picture, bytes):
        (picture.figure if isinstance(picture, Axes) else picture).clear()


def svg(picture: Figure | Axes, alt: str) -> str:
    """The picture as SVG text with `alt` as its title: equal figures give equal text, no time stamp."""
    figure, buffer = picture.figure if isinstance(picture, Axes) else picture, BytesIO()
    with rc_context({**RC_PARAMS, "svg.hashsalt": "minidistill", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    head, tag, body = buffer.getvalue().decode().partition("<svg ")
    opening, bracket, rest = body.partition(">")
    return f"{tag}{opening}{bracket}\n <title>{escape(alt)}</title>{rest}"


def show_vector(picture: Figure | Axes, caption: str, alt: str) -> None:
    """Display a drawing as SVG, sharp at any size, with its alternative text and the caption under it."""
    from IPython.display import SVG, Markdown, display

    display(SVG(svg(picture, alt)), Markdown(f"*{caption}*"))


def _pixels(picture: Figure | Axes, dpi: int) -> np.ndarray:
    """Drawn once on a canvas of its own (savefig draws twice): (height, width, 3) bytes."""
    figure = picture.figure if isinstance(picture, Axes) else picture
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    with rc_context(RC_PARAMS):
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def _encode(pixels: np.ndarray, colors: int = 64) -> bytes:
    """PNG with a palette: a line drawing needs few colours, and a notebook holds many drawings."""
    buffer = BytesIO()
    image = Image.fromarray(pixels).quantize(colors, method=Image.Quantize.FASTOCTREE)
    image.save(buffer, format="png")
    return buffer.getvalue()
