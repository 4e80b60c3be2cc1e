"""Figures of the course: one style for each role, numbers in, axes out.

Every function is `f(values, ax=None) -> Axes` and holds no data. Colours are Okabe and Ito's, and
each comes with a dash, a marker and a hatch of its own, so that a figure can be read without colour.
`show` is the one way into a notebook: it adds the caption and the alternative text.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import chain

from minidistill.errors import needs_extra

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
    raise ModuleNotFoundError(needs_extra(error.name, "course")) from None


@dataclass(frozen=True)
class Style:
    """How one thing looks in every figure: as a line and as a bar."""

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
    "distillm": Style(SKY, DASH_DOT, "p", "**"),
    "distillm2": Style(BLUE, "-", "*", "//"),
    "dpkd": Style(BLACK, DOTS, "x", "xx"),
}
ALIASES = {"kd": "kl", "gkd": "jsd", "p": "teacher", "q": "student", "reverse_kl": "rkl"}
SPARE = [
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
LIGHT = {
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
    spare, found = iter(chain(SPARE, SPARE)), {}
    for name in names:
        words = [ALIASES.get(w, w) for w in re.findall(r"[a-z0-9_]+", name.lower())]
        known = [table[w] for table in (METHODS, ROLES) for w in words if w in table]
        found[name] = known[0] if known else next(spare)
    return found


@rc_context(LIGHT)
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


@rc_context(LIGHT)
def token_bars(
    distributions: Mapping[str, Sequence[float]],
    tokens: Sequence[str],
    ax: Axes | None = None,
    title: str = "",
) -> Axes:
    """Bars side by side: what each distribution gives to each token of a small vocabulary."""
    ax = axes() if ax is None else ax
    place, width = np.arange(len(tokens)), 0.8 / len(distributions)
    for i, (name, style) in enumerate(styles(list(distributions)).items()):
        offset = (i - (len(distributions) - 1) / 2) * width
        ax.bar(place + offset, _array(distributions[name]), width, label=name, **style.bar)
    ax.set_xticks(place, tokens)
    ax.grid(axis="x", visible=False)
    ax.set(xlabel="token", ylabel="probability", title=title)
    ax.legend()
    return ax


@rc_context(LIGHT)
def densities(
    x: Sequence[float],
    distributions: Mapping[str, Sequence[float]],
    ax: Axes | None = None,
    tail: tuple[int, int] | None = None,
    title: str = "",
) -> Axes:
    """Distributions over many points; `tail=(first, last)` magnifies those indices in an inset."""
    ax = axes() if ax is None else ax
    _lines(x, distributions, ax)
    ax.set(xlabel="token", ylabel="probability", ylim=(0, None), title=title)
    ax.legend(loc="upper right")
    if tail:
        first, last = tail
        inset = ax.inset_axes([0.52, 0.36, 0.47, 0.27])
        _lines(x[first:last], {n: y[first:last] for n, y in distributions.items()}, inset)
        inset.text(0.97, 0.94, "tail, magnified", transform=inset.transAxes, ha="right", va="top",
                   fontsize=7.5)  # fmt: skip
        inset.tick_params(labelsize=7)
        inset.ticklabel_format(axis="y", style="plain")
        inset.locator_params(axis="y", nbins=3)
        inset.set_ylim(0, 1.45 * inset.get_ylim()[1])
    return ax


@rc_context(LIGHT)
def curves(
    x: Sequence[float],
    lines: Mapping[str, Sequence],
    ax: Axes | None = None,
    xlabel: str = "",
    ylabel: str = "nats",
    title: str = "",
    band: tuple[float, float] = (10, 90),
) -> Axes:
    """Lines over x. A y of shape (seeds, x) is drawn as its median with a band of percentiles."""
    ax = axes() if ax is None else ax
    for name, style in styles(list(lines)).items():
        y = _array(lines[name])
        if y.ndim == 2:
            low, high = np.percentile(y, band, axis=0)
            ax.fill_between(_array(x), low, high, color=style.color, alpha=0.2, linewidth=0)
            y = np.median(y, axis=0)
        every = max(1, len(y) // 8)
        ax.plot(_array(x), y, label=name, marker=style.marker, markevery=every, **style.line)
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    ax.legend()
    return ax


@rc_context(LIGHT)
def paths(
    trajectories: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    ax: Axes | None = None,
    xlabel: str = "",
    ylabel: str = "",
    title: str = "",
) -> Axes:
    """One line a name through points (x, y) that each have their own x, marked where it ends."""
    ax = axes() if ax is None else ax
    for name, style in styles(list(trajectories)).items():
        x, y = map(_array, trajectories[name])
        ax.plot(x, y, label=name, marker=style.marker, markevery=[len(x) - 1], **style.line)
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    ax.legend()
    return ax


@rc_context(LIGHT)
def nll_curves(
    histories: Mapping[str, Sequence[Mapping[str, float]]],
    which: str = "nll_teacher",
    ax: Axes | None = None,
    log: bool = False,
    title: str = "",
) -> Axes:
    """The student's NLL by step, one line a method; `histories` maps methods to their probes."""
    ax = axes() if ax is None else ax
    for name, style in styles(list(histories)).items():
        steps = [probe["step"] for probe in histories[name]]
        values = [probe[which] for probe in histories[name]]
        ax.plot(steps, values, label=name, marker=style.marker, **style.line)
    whose = "teacher" if which == "nll_teacher" else "student"
    ax.set(xlabel="step", ylabel=f"NLL on {whose} responses\n(nats per token)", title=title)
    if log:
        log_axis(ax.yaxis, subs=(1, 2, 5))
    ax.legend()
    return ax


@rc_context(LIGHT)
def nll_bars(
    table: Mapping[str, Mapping[str, Sequence[float] | float]],
    ax: Axes | None = None,
    log: bool = False,
    title: str = "",
) -> Axes:
    """Fig 1(b): the NLL on teacher and on student responses, a pair of bars a method.

    `table[method]["nll_teacher"]` and `["nll_student"]` are a number or one number a seed: the bar is
    the mean, the whisker reaches from the lowest to the highest seed.
    """
    ax = axes() if ax is None else ax
    place = np.arange(len(table))
    for side, (key, role) in enumerate((("nll_teacher", "teacher"), ("nll_student", "student"))):
        seeds = [np.atleast_1d(_array(row[key])) for row in table.values()]
        mean = np.array([values.mean() for values in seeds])
        ends = np.array([[v.min(), v.max()] for v in seeds]).T
        bars = {**ROLES[role].bar, "label": f"on {role} responses", "capsize": 3}
        ax.bar(place + (side - 0.5) * 0.4, mean, 0.38, yerr=abs(ends - mean), **bars)
    ax.set_xticks(place, list(table))
    ax.grid(axis="x", visible=False)
    ax.set(ylabel="NLL (nats per token)", title=title)
    if log:
        log_axis(ax.yaxis, subs=(1, 2, 5))
    ax.margins(y=0.2)  # room for the legend
    ax.legend(loc="upper left")
    return ax


@rc_context(LIGHT)
def value_bars(
    values: Mapping[str, float],
    ax: Axes | None = None,
    limits: tuple[float, float] | None = None,
    title: str = "",
) -> Axes:
    """One horizontal bar a name with its number beside it; log scale where `limits` are given."""
    ax = axes() if ax is None else ax
    names = list(values)
    for i, style in enumerate(styles(names).values()):
        ax.barh(i, max(values[names[i]], 1e-9), **style.bar)
        ax.annotate(f" {values[names[i]]:.2f}", (values[names[i]], i), va="center", fontsize=8.5)
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    if limits:
        log_axis(ax.xaxis)
        ax.set_xlim(limits)
    ax.set(xlabel="nats", title=title)
    return ax


@rc_context(LIGHT)
def point(x: float, y: float, name: str, ax: Axes) -> Axes:
    """One marked and named value, in the style of `name`."""
    style = styles([name])[name]
    ax.plot([x], [y], marker=style.marker, color=style.color, markersize=9, linestyle="none")
    beside = (
        {"xytext": (-8, 0), "ha": "right"} if x > 0.7 * ax.get_xlim()[1] else {"xytext": (8, 0)}
    )
    ax.annotate(name, (x, y), textcoords="offset points", va="center", fontsize=8.5, **beside)
    return ax


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
        raise ModuleNotFoundError(needs_extra("IPython", "course")) from None
    if isinstance(picture, np.ndarray):
        picture = picture.flat[0]
    data = picture if isinstance(picture, bytes) else png(picture)
    display(Picture(data=data, format="png", alt=alt), Markdown(f"*{caption}*"))
    if not isinstance(picture, bytes):
        (picture.figure if isinstance(picture, Axes) else picture).clear()


def _lines(x, distributions, ax: Axes) -> None:
    for name, style in styles(list(distributions)).items():
        y = _array(distributions[name])
        if "teacher" in name:
            ax.fill_between(_array(x), y, color=PAPER_GREY, linewidth=0)
        ax.plot(_array(x), y, label=name, **style.line)


def _pixels(picture: Figure | Axes, dpi: int) -> np.ndarray:
    """Drawn once on a canvas of its own (savefig draws twice): (height, width, 3) bytes."""
    figure = picture.figure if isinstance(picture, Axes) else picture
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    with rc_context(LIGHT):
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def _encode(pixels: np.ndarray, colors: int = 64) -> bytes:
    """PNG with a palette: a line drawing needs few colours, and a notebook holds many drawings."""
    buffer = BytesIO()
    image = Image.fromarray(pixels).quantize(colors, method=Image.Quantize.FASTOCTREE)
    image.save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def log_axis(axis: Axis, subs: Sequence[int] = (1,)) -> None:
    """Log scale in plain numbers: 0.001 rather than a power of ten, and no minor ticks (slow to draw)."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_major_locator(LogLocator(subs=subs, numticks=6))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())


def _array(values) -> np.ndarray:
    """Torch tensors (even with a gradient), lists and arrays alike."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values, dtype=float)
