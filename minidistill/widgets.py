"""Sliders over figures. A callback is a plain function, values in and a Figure out.

The picture travels as a PNG in an ipywidgets.Image, which works in JupyterLab, classic notebooks and
VS Code alike. Where no widget can show (GitHub, print), `stills` draws the same callback at both ends
of its slider and at the default.
"""

import math
from collections.abc import Callable
from html import escape

import torch

from minidistill import divergences as D
from minidistill import plots
from minidistill.lessons.lesson_01_02_divergences import LINE, bimodal, gaussian, logit_gradient
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
    """What `explore` shows, as one picture: the first slider at its low end, default and high end."""
    (moved, (low, high, default, *_)), *others = sliders.items()
    rest = {name: bounds[2] for name, bounds in others}
    pages = [callback(**{moved: value, **rest}) for value in (low, default, high)]
    plots.show(plots.stacked(pages), caption, alt)


TEACHER = torch.tensor([0.60, 0.30, 0.09, 0.01]).log()
STUDENT = torch.tensor([0.20, 0.30, 0.10, 0.40]).log()
TOKENS = ("the", "a", "one", "zebra")


def hill_explorer(mean: float = 50.0, width: float = 20.0):
    """A Gaussian student laid over two hills by hand, and what each divergence says of it."""
    log_p, log_q = bimodal(), gaussian(torch.tensor([mean / 10, math.log(width)]))
    left, right = plots.axes(2, **SMALL)
    shown = {"teacher": log_p.exp(), "student": log_q.exp()}
    plots.densities(LINE, shown, left, title=f"student: mean {mean:.0f}, width {width:.0f}")
    left.set_ylim(0, 0.2)
    values = {
        "KL": float(D.kl(log_p, log_q)),
        "RKL": float(D.reverse_kl(log_p, log_q)),
        "JSD": float(D.jsd(log_p, log_q)),
        "TV": float(D.total_variation(log_p, log_q)),
    }
    title = "(1.1) KL, (1.2) RKL, (1.3) JSD, (1.4) TV"
    plots.value_bars(values, right, (0.1, 2000), "nats (TV: a probability)", title)
    return left.figure


def beta_explorer(beta: float = 0.5):
    """(1.3) Where the mixture m lies, and JSD_β as β moves; the end points are other functions."""
    left, right = plots.axes(2, **SMALL)
    mixture = D.log_mixture(TEACHER, STUDENT, beta).exp()
    shown = {"teacher": TEACHER.exp(), "student": STUDENT.exp(), "mixture": mixture}
    plots.token_bars(shown, TOKENS, left, title=f"m = {beta:.2f} p + {1 - beta:.2f} q")
    left.set_ylim(0, 0.7)
    grid = torch.linspace(0.01, 0.99, 50)
    line = [float(D.jsd(TEACHER, STUDENT, float(b))) for b in grid]
    value = float(D.jsd(TEACHER, STUDENT, beta))
    title = f"(1.3) JSD at beta {beta:.2f} = {value:.3f} nats"
    plots.curves(grid, {"JSD": line}, right, "beta (weight of the teacher)", title=title)
    right.set(ylim=(0, 2.4), xlim=(-0.05, 1.05))
    plots.point(0, float(D.kl(TEACHER, STUDENT)), "KL", right)
    plots.point(1, float(D.reverse_kl(TEACHER, STUDENT)), "RKL", right)
    plots.point(beta, value, "", right)
    return left.figure


def skew_explorer(alpha: float = 0.1):
    """(2.2), (2.3) How hard one token's logit is pulled or pushed as its probability goes to 0."""
    left, right = plots.axes(2, **SMALL)
    small = torch.logspace(-6, -0.01, 60)
    pull = {"KL": -logit_gradient(D.kl, 0.5, small)}
    pull["SKL"] = -logit_gradient(lambda p, q: D.skew_kl(p, q, alpha), 0.5, small)
    title = f"(2.2) SKL, alpha = {alpha:.2f}, p = 0.5"
    plots.curves(small, pull, left, "student's q of the token", "pull on its logit", title)
    push = {"RKL": logit_gradient(D.reverse_kl, small, 0.5)}
    push["SRKL"] = logit_gradient(lambda p, q: D.skew_reverse_kl(p, q, alpha), small, 0.5)
    title = f"(2.3) SRKL, alpha = {alpha:.2f}, q = 0.5"
    plots.curves(small, push, right, "teacher's p of the token", "push on its logit", title)
    left.set_ylim(-0.55, 0.6)
    right.set_ylim(-1.5, 3.8)
    for ax in (left, right):
        plots.log_axis(ax.xaxis)
    return left.figure


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
