"""Sliders over figures. A callback is a plain function, values in and a Figure out.

The picture travels as a PNG in an ipywidgets.Image, which works in JupyterLab, classic notebooks and
VS Code alike. Where no widget can show (GitHub, print), `stills` draws the same callback at both ends
of its slider and at the default.
"""

from collections.abc import Callable
from html import escape

from minidistill.lessons import plots
from minidistill.utils import missing_extra_message

DPI = 80
SMALL = {"height": 2.5, "fast": True}


def explore(callback: Callable, **sliders: tuple):
    """Sliders that redraw `callback(**values)`; `name=(low, high, default)` or `(…, step)` each.

    Returns a widget, to be the last line of a cell. A callback that raises says so under the picture.
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

    for control in controls.values():
        control.observe(redraw, names="value")
    redraw()
    return w.VBox([*controls.values(), picture, message])


def stills(callback: Callable, caption: str, alt: str, **sliders: tuple) -> None:
    """Show `explore` as one picture: the first slider at its low end, default and high end."""
    (moved, (low, high, default, *_)), *others = sliders.items()
    rest = {name: bounds[2] for name, bounds in others}
    pages = [callback(**{moved: value, **rest}) for value in (low, default, high)]
    plots.show(plots.stacked(pages), caption, alt)


def labelled_slider(w, name: str, low, high, default, step=None):
    """An ipywidgets slider with its name on it: whole numbers if all ends are, else a hundred steps."""
    kind = w.IntSlider if all(isinstance(v, int) for v in (low, high, default)) else w.FloatSlider
    step = step or (1 if kind is w.IntSlider else (high - low) / 100)
    return kind(
        value=default,
        min=low,
        max=high,
        step=step,
        description=name,
        continuous_update=False,
        readout_format="d" if kind is w.IntSlider else ".2f",
    )
