"""Sliders over figures. A callback is a plain function, values in and a Figure out.

The picture travels as a PNG in an ipywidgets.Image, which works in JupyterLab, classic notebooks and
VS Code alike. Where no widget can show (GitHub, print), `stills` draws the same callback at both ends
of its slider and at the default.
"""

import asyncio
from collections.abc import Callable
from html import escape

from minidistill.lessons import plots
from minidistill.utils import missing_extra_message

DPI = 80
PAUSE = 0.1  # seconds between two pictures while a slider is dragged
SMALL = {"height": 2.5, "fast": True}


def explore(callback: Callable, **sliders: tuple):
    """Sliders that redraw `callback(**values)` while they are dragged.

    `name=(low, high, default)` or `(…, step)` each, or `(values, place)` for a list of values, of which the
    one at `place` comes first. Returns a widget, to be the last line of a cell. A callback that raises says
    so under the picture.
    """
    try:
        import ipywidgets as w
    except ModuleNotFoundError:
        raise ModuleNotFoundError(missing_extra_message("ipywidgets", "course")) from None
    controls = {name: labelled_slider(w, name, *bounds) for name, bounds in sliders.items()}
    picture, message = w.Image(format="png"), w.HTML()

    def redraw(_=None) -> None:
        try:
            figure = callback(**{name: control.value for name, control in controls.items()})
            picture.value = plots.png(figure, DPI)
            titles = (ax.get_title(loc="left") for ax in figure.axes)
            message.value = escape(" · ".join(filter(None, titles)))
        except Exception as error:  # a traceback in a callback would vanish without a trace
            message.value = f"<b>No picture for these values:</b> {escape(str(error))}"

    soon = Coalesced(redraw)
    for control in controls.values():
        control.observe(soon, names="value")
    redraw()
    return w.VBox([*controls.values(), picture, message])


class Coalesced:
    """Call a function at most once in `seconds`, with whatever is newest then; at once where no loop runs."""

    def __init__(self, function: Callable[[], None], seconds: float = PAUSE):
        self.function, self.seconds, self.waiting = function, seconds, False

    def __call__(self, _=None) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.function()
            return
        if not self.waiting:
            self.waiting = True
            loop.call_later(self.seconds, self._call)

    def _call(self) -> None:
        self.waiting = False
        self.function()


def stills(callback: Callable, caption: str, alt: str, **sliders: tuple) -> None:
    """Show `explore` as one picture: the first slider at its low end, default and high end."""
    (moved, bounds), *others = sliders.items()
    rest = {name: ends_and_default(*other)[2] for name, other in others}
    low, high, default = ends_and_default(*bounds)
    pages = [callback(**{moved: value, **rest}) for value in (low, default, high)]
    plots.show(plots.stacked(pages), caption, alt)


def ends_and_default(low, high, default=None, *_) -> tuple:
    """Return the two ends of a slider and its default; of `(values, place)` first, last and the one there."""
    return (low[0], low[-1], low[high]) if isinstance(low, list | tuple) else (low, high, default)


def labelled_slider(w, name: str, low, high, default=None, step=None):
    """An ipywidgets slider with its name on it: whole numbers if all ends are, else a hundred steps.

    `low` may be a list of values and `high` the place of the first one.
    """
    if isinstance(low, list | tuple):
        options = [(f"{v:g}" if isinstance(v, float) else str(v), v) for v in low]
        return w.SelectionSlider(options=options, value=low[high], description=name)
    kind = w.IntSlider if all(isinstance(v, int) for v in (low, high, default)) else w.FloatSlider
    step = step or (1 if kind is w.IntSlider else (high - low) / 100)
    return kind(
        value=default,
        min=low,
        max=high,
        step=step,
        description=name,
        readout_format="d" if kind is w.IntSlider else ".2f",
    )
