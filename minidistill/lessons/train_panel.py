"""Train from a notebook with a Stop button, in a thread, the curves growing as it goes."""

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from html import escape

from minidistill.lessons import plots
from minidistill.lessons.widgets import DPI, labelled_slider
from minidistill.models import Pair
from minidistill.objectives import get_method
from minidistill.tasks import Task
from minidistill.training import History, distill
from minidistill.utils import missing_extra_message

KEPT = 4  # runs in the picture


class TrainPanel:
    """Sliders, a method, Train, Stop, a bar and the NLL curves of the last runs; `box` is the widget.

    `pair()` gives a fresh pair for each run. `sliders` are the methods' own settings,
    `alpha=(0.0, 0.5, 0.1)`; a method is told only those that it has. `shipped` are probes of finished
    runs, drawn underneath as far as a run here goes. `how` goes to `distill`.
    """

    def __init__(
        self,
        pair: Callable[[], Pair],
        task: Task,
        methods: Sequence[str],
        sliders: Mapping[str, tuple],
        shipped: Mapping[str, Sequence[dict]] | None = None,
        **how,
    ):
        try:
            import ipywidgets as w
        except ModuleNotFoundError:
            raise ModuleNotFoundError(missing_extra_message("ipywidgets", "course")) from None
        self.pair, self.task, self.shipped = pair, task, dict(shipped or {})
        self.how = {"epochs": 1, "batch_size": 8, "lr": 1.5e-3, "probe_every": 4, **how}
        self.total = self.how["epochs"] * math.ceil(len(task.train) / self.how["batch_size"])
        self.method = w.Dropdown(options=list(methods), description="method")
        self.sliders = {name: labelled_slider(w, name, *ends) for name, ends in sliders.items()}
        self.train = w.Button(description="Train with these", button_style="primary")
        self.stop = w.Button(description="Stop", disabled=True)
        self.bar = w.IntProgress(max=self.total)
        self.message, self.picture = w.HTML(), w.Image(format="png")
        self.runs: dict[str, list[dict]] = {}
        self.thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self.train.on_click(lambda _: self._start())
        self.stop.on_click(lambda _: self._stopping.set())
        buttons = w.HBox([self.train, self.stop, self.bar])
        self.box = w.VBox(
            [self.method, *self.sliders.values(), buttons, self.message, self.picture]
        )

    def settings(self) -> dict:
        """The sliders' values that the chosen method knows."""
        known = get_method(self.method.value).settings
        return {name: s.value for name, s in self.sliders.items() if name in known}

    def _start(self) -> None:
        if self.thread is not None and self.thread.is_alive():
            return
        self._stopping.clear()
        self.train.disabled, self.stop.disabled, self.bar.value = True, False, 0
        self.message.value = "sampling …"
        chosen = (self.method.value, self.settings())
        self.thread = threading.Thread(target=self._work, args=chosen, daemon=True)
        self.thread.start()

    def _work(self, method: str, method_kwargs: dict) -> None:
        try:
            how = {**self.how, **method_kwargs, "callback": self._tell, "progress": False}
            self._show(method, method_kwargs, distill(self.pair(), self.task, method, **how))
        except Exception as error:  # a thread's traceback would be seen by nobody
            self.message.value = f"<b>{type(error).__name__}</b>: {escape(str(error))}"
        finally:
            self.train.disabled, self.stop.disabled = False, True

    def _tell(self, history: History) -> bool:
        probe = history.evals[-1]
        self.bar.value = probe["step"]
        self.message.value = (
            f"step {probe['step']} of {self.total}: NLL on teacher responses "
            f"{probe['nll_teacher']:.3f}, on student responses {probe['nll_student']:.3f}"
        )
        return self._stopping.is_set()

    def _show(self, method: str, method_kwargs: dict, history: History) -> None:
        name = " ".join([method, *(f"{k}={v:g}" for k, v in method_kwargs.items())])
        self.runs.pop(name, None)
        self.runs[name] = history.evals
        self.runs = dict(list(self.runs.items())[-KEPT:])
        left, right = plots.axes(columns=2, width=9.5, fast=True)
        for ax, which in ((left, "nll_teacher"), (right, "nll_student")):
            self._draw(ax, which)
        self.picture.value = plots.png(left, DPI)
        if len(history.steps) < self.total:
            self.message.value += " (stopped)"

    def _draw(self, ax, which: str) -> None:
        """A style a run, not a method: two settings of one method must not look alike."""
        numbered = {f"run {i}": probes for i, probes in enumerate(self.runs.values(), 1)}
        plots.nll_curves({**self.shipped, **numbered}, which, ax)
        for line, name in zip(ax.lines, [*self.shipped, *self.runs], strict=True):
            line.set_label(name)
        ax.set_xlim(right=1.05 * self.total)
        ax.legend(fontsize=7.5)
