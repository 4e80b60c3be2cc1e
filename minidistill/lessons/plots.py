"""Figures of the course: numbers in, axes out.

Every function is `f(values, ax=None) -> Axes` and holds no data. How things look is in `plot_style.py`,
whose names are here too, so that a notebook needs this one import.
"""

from collections.abc import Mapping, Sequence

# First of all imports, because it says what to install where matplotlib is missing.
from minidistill.lessons.plot_style import (
    BLACK,
    METHODS,
    PAPER_GREY,
    RC_PARAMS,
    RED,
    ROLES,
    axes,
    log_axis,
    png,
    show,
    show_vector,
    stacked,
    styles,
    svg,
)

# isort: split
import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes

__all__ = [
    "BLACK", "METHODS", "ROLES", "axes", "curves", "densities", "log_axis", "nll_bars", "nll_curves",
    "paths", "png", "point", "seed_points", "show", "show_vector", "stacked", "styles", "svg", "token_bars",
    "value_bars",
]  # fmt: skip


@rc_context(RC_PARAMS)
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


@rc_context(RC_PARAMS)
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


@rc_context(RC_PARAMS)
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


@rc_context(RC_PARAMS)
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


@rc_context(RC_PARAMS)
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


@rc_context(RC_PARAMS)
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


@rc_context(RC_PARAMS)
def value_bars(
    values: Mapping[str, float],
    ax: Axes | None = None,
    limits: tuple[float, float] | None = None,
    xlabel: str = "nats",
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
    ax.set(xlabel=xlabel, title=title)
    return ax


@rc_context(RC_PARAMS)
def point(x: float, y: float, name: str, ax: Axes) -> Axes:
    """One marked and named value, in the style of `name`."""
    style = styles([name])[name]
    ax.plot([x], [y], marker=style.marker, color=style.color, markersize=9, linestyle="none")
    beside = (
        {"xytext": (-8, 0), "ha": "right"} if x > 0.7 * ax.get_xlim()[1] else {"xytext": (8, 0)}
    )
    ax.annotate(name, (x, y), textcoords="offset points", va="center", fontsize=8.5, **beside)
    return ax


@rc_context(RC_PARAMS)
def seed_points(
    values: Mapping[str, Sequence[float]], ax: Axes | None = None, xlabel: str = "", title: str = ""
) -> Axes:
    """A row a name: one point a seed, and a bar at their mean."""
    ax = axes() if ax is None else ax
    for i, (name, style) in enumerate(styles(list(values)).items()):
        points = _array(values[name])
        ax.plot(points, [i] * len(points), linestyle="none", marker=style.marker, color=style.color)
        ax.plot([points.mean()] * 2, [i - 0.32, i + 0.32], color=BLACK, linewidth=1.5)
    ax.set_yticks(range(len(values)), list(values))
    ax.grid(axis="y", visible=False)
    ax.set(xlabel=xlabel, title=title, ylim=(len(values) - 0.4, -0.6))  # first name on top
    return ax


@rc_context(RC_PARAMS)
def number_grid(
    table: Sequence[Sequence[float]],
    rows: Sequence,
    columns: Sequence,
    ax: Axes | None = None,
    limits: tuple[float, float] | None = None,
    notes: Sequence[Sequence[str]] | None = None,
    frame: tuple[int, int] | None = None,
    xlabel: str = "",
    ylabel: str = "",
    title: str = "",
) -> Axes:
    """A table as grey tones, first row at the bottom, with `notes` (else the numbers) in its cells.

    `rows` and `columns` are the values along the axes; `frame` (row, column) is a place to mark.
    """
    ax = axes() if ax is None else ax
    table = _array(table)
    low, high = limits or (table.min(), table.max())
    ax.imshow(table, cmap="Greys", vmin=low, vmax=high, aspect="auto", origin="lower")
    for (row, column), value in np.ndenumerate(table):
        note = notes[row][column] if notes else f"{value:.3f}"
        ink = "white" if value > low + 0.55 * (high - low) else "black"
        ax.text(column, row, note, ha="center", va="center", fontsize=8, color=ink)
    if frame:
        y, x = frame
        box = np.array([[-0.48, -0.46], [0.48, -0.46], [0.48, 0.46], [-0.48, 0.46], [-0.48, -0.46]])
        ax.plot(*(box + (x, y)).T, color=RED, linewidth=2.5)
    ax.set_xticks(range(len(columns)), [f"{value:g}" for value in columns])
    ax.set_yticks(range(len(rows)), [f"{value:g}" for value in rows])
    ax.grid(visible=False)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.set_title(title, loc="left", fontsize=10.5)
    return ax


def _lines(x, distributions, ax: Axes) -> None:
    for name, style in styles(list(distributions)).items():
        y = _array(distributions[name])
        if "teacher" in name:
            ax.fill_between(_array(x), y, color=PAPER_GREY, linewidth=0)
        ax.plot(_array(x), y, label=name, **style.line)


def _array(values) -> np.ndarray:
    """Torch tensors (even with a gradient), lists and arrays alike."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values, dtype=float)
