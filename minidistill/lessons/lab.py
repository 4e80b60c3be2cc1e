"""The lab: choose models, method, settings; train in the page; watch, stop, go on, save, see the code."""

import json
import math
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path

from minidistill import load_pair, load_task
from minidistill.evaluation import accuracy
from minidistill.experiments.arms import PROTOCOLS, TUNED, in_world
from minidistill.experiments.logs import runs_by_seed
from minidistill.experiments.tuning import next_runs, tuned
from minidistill.generation import decode, sample
from minidistill.lessons import plots
from minidistill.lessons.widgets import DPI, labelled_slider
from minidistill.models import Pair
from minidistill.objectives import get_method
from minidistill.tasks import Task
from minidistill.training import History, distill
from minidistill.utils import missing_extra_message

KEPT = 4  # runs in the picture
CURVES = {
    "nll_teacher": "NLL on teacher's responses", "nll_student": "NLL on the start's responses",
    "accuracy": "share of right answers (greedy)",
}  # fmt: skip
SLOTS = {"tgo": "teacher's responses", "sgo": "student's responses"}
ANSWERS = 3  # test prompts whose answers are shown
HOW = {"batch_size": 16, "temperature": 0.8, "top_p": 0.95, "max_grad_norm": math.inf}
SETTINGS: dict[str, tuple] = {  # of the methods: lowest, highest, first
    "alpha": (0.0, 0.9, 0.1), "beta": (0.0, 1.0, 0.5), "alpha0": (0.0, 1.0, 0.1), "low": (0.0, 1.0, 0.01),
    "high": (0.0, 1.0, 0.1), "beta0": (0.0, 1.0, 0.5), "beta_end": (0.0, 1.0, 0.75), "lam": (0.01, 1.0, 0.1),
}  # fmt: skip


@dataclass(frozen=True)
class Setup:
    """Hold what a lab trains: a fresh pair a run, a task, code that makes both, its world in the ledger."""

    pair: Callable[[], Pair]
    task: Task
    code: str = "pair, task = …  # as in the cells above"
    world: str | None = None
    start: int = 0


def world(name: str = "instruct", start: int = 0, prompts: int = 960, test: int = 100) -> Setup:
    """Set up a tiny world: one of its starts, its first `prompts` prompts, `test` of its test prompts."""
    task = load_task(name)
    code = (
        f'task, pair = load_task("{name}"), load_pair("{name}", start={start})\n'
        f"task = replace(task, train=task.train[:{prompts}], test=task.test[:{test}])"
    )
    task = replace(task, train=task.train[:prompts], test=task.test[:test])
    return Setup(lambda: load_pair(name, start=start), task, code, name, start)


@dataclass
class LabRun:
    """Hold one run of a lab: what it was told, where its checkpoints are, what it has shown so far."""

    setup: str
    method: str
    how: dict
    folder: str = field(default_factory=lambda: tempfile.mkdtemp(prefix="lab-"))
    evals: list[dict] = field(default_factory=list)
    alphas: dict[str, list[float]] = field(default_factory=dict)
    answers: list[dict] = field(default_factory=list)
    right_before: float | None = None
    finished: bool = False

    @property
    def label(self) -> str:
        """The method, its rate, and those of its settings that are not its defaults."""
        defaults = get_method(self.method).settings
        own = {k: v for k, v in self.how.items() if k in defaults and v != defaults[k]}
        return " ".join(
            [f"{self.method} lr={self.how['lr']:.1g}", *(f"{k}={v:g}" for k, v in own.items())]
        )


class Lab:
    """Setup, method, settings, rate, epochs; Train, Stop, Go on, Save, Code; `box` is the widget.

    `setups` by name; `methods` to choose from, the first one first. `settings` changes ends or defaults of
    SETTINGS. `how` goes to `distill`, on top of HOW. In a world of the ledger a method begins with the rate
    and the settings that won its search.
    """

    def __init__(
        self, setups: Mapping[str, Setup] | Setup | None = None, methods: Sequence[str] = ("distillm2",),
        settings: Mapping[str, tuple] | None = None, lr: float = 1e-3, epochs: int = 2, **how,
    ):  # fmt: skip
        try:
            import ipywidgets as w
        except ModuleNotFoundError:
            raise ModuleNotFoundError(missing_extra_message("ipywidgets", "course")) from None
        if isinstance(setups, Setup) or setups is None:
            setups = {"here": setups or world()}
        self.setups, self.given, self.runs = dict(setups), {**HOW, **how}, []
        self.setup = w.Dropdown(options=list(self.setups), description="models")
        self.method = w.Dropdown(options=list(methods), description="method")
        ends = {**SETTINGS, **(settings or {})}
        known = {name for m in methods for name in get_method(m).settings}
        self.sliders = {n: labelled_slider(w, n, *ends[n]) for n in ends if n in known}
        self.lr = w.FloatLogSlider(
            value=lr, min=-4, max=-2, step=0.05, description="lr", readout_format=".1e"
        )
        self.epochs = w.IntSlider(value=epochs, min=2, max=6, description="epochs")
        names = ("Train", "Stop", "Go on", "Save", "Code")
        self.buttons = {name: w.Button(description=name) for name in names}
        actions = (self._train, self._stop, self._go_on, self._save, self._code)
        for button, action in zip(self.buttons.values(), actions, strict=True):
            button.on_click(lambda _, action=action: action())
        self.bar, self.message = w.IntProgress(max=1), w.HTML()
        self.picture, self.answers, self.code = w.Image(format="png"), w.HTML(), w.HTML()
        self.thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._shown = w.VBox()
        for control in (self.setup, self.method):
            control.observe(lambda _: self._choose(), names="value")
        self._choose()
        self._set_buttons()
        chosen = [w.HBox([self.setup, self.method])] if len(self.setups) > 1 else [self.method]
        self.box = w.VBox([
            *chosen, self._shown, w.HBox([*self.buttons.values(), self.bar]), self.message, self.picture,
            self.answers, self.code,
        ])  # fmt: skip

    # --- what is chosen ---------------------------------------------------------------------------------
    def told(self) -> dict:
        """Collect what `distill` is told: the method's own settings, and the rest."""
        own = {n: s.value for n, s in self.sliders.items() if n in self._settings()}
        return {**self.given, "lr": self.lr.value, "epochs": self.epochs.value, **own}

    def call(self) -> str:
        """Compose the code of the run that Train would make."""
        told = {k: "math.inf" if v == math.inf else repr(v) for k, v in self.told().items()}
        settings = ", ".join(f"{k}={v}" for k, v in told.items())
        return (
            "import math\nfrom dataclasses import replace\n\n"
            "from minidistill import distill, load_pair, load_task\n\n"
            f"{self.setups[self.setup.value].code}\n"
            f'history = distill(pair, task, "{self.method.value}", {settings})'
        )

    def _settings(self) -> dict:
        return get_method(self.method.value).settings

    def _choose(self) -> None:
        """Show the sliders of the chosen method, and no others, where the search put them."""
        name = self.setups[self.setup.value].world
        method = self.method.value
        if name and method in TUNED.get(name, ()) and not next_runs(PROTOCOLS[name], method):
            arm = tuned(PROTOCOLS[name], method)
            self.lr.value = arm.settings["lr"]
            for setting, value in arm.method_kwargs.items():
                self.sliders[setting].value = value
        shown = [slider for name, slider in self.sliders.items() if name in self._settings()]
        self._shown.children = (*shown, self.lr, self.epochs)

    # --- buttons ----------------------------------------------------------------------------------------
    def _train(self) -> None:
        if self._busy():
            return
        self.runs = [
            *self.runs[-KEPT + 1 :],
            LabRun(self.setup.value, self.method.value, self.told()),
        ]
        self._start()

    def _go_on(self) -> None:
        if not self._busy() and self.runs and not self.runs[-1].finished:
            self._start()

    def _stop(self) -> None:
        self._stopping.set()

    def _save(self) -> None:
        if not self.runs:
            return
        run = self.runs[-1]
        path = Path(f"lab-{run.method}-{len(list(Path().glob('lab-*.json'))) + 1}.json")
        kept = ("setup", "method", "how", "evals", "answers", "finished")
        path.write_text(json.dumps({name: getattr(run, name) for name in kept}, indent=1) + "\n")
        self.message.value = f"saved: {path}"

    def _code(self) -> None:
        self.code.value = "" if self.code.value else f"<pre>{escape(self.call())}</pre>"

    def _busy(self) -> bool:
        return self.thread is not None and self.thread.is_alive()

    def _set_buttons(self, busy: bool = False) -> None:
        ready = bool(self.runs) and not busy
        state = (busy, not busy, not ready or self.runs[-1].finished, not ready, False)
        for button, disabled in zip(self.buttons.values(), state, strict=True):
            button.disabled = disabled

    # --- the run ----------------------------------------------------------------------------------------
    def _start(self) -> None:
        self._stopping.clear()
        self._set_buttons(busy=True)
        self.message.value = "sampling …"
        self.thread = threading.Thread(target=self._work, args=(self.runs[-1],), daemon=True)
        self.thread.start()

    def _work(self, run: LabRun) -> None:
        try:
            setup = self.setups[run.setup]
            pair, task = setup.pair(), setup.task
            total = run.how["epochs"] * math.ceil(len(task.train) / run.how["batch_size"])
            self.bar.max, every = total, max(1, total // 12)
            if not run.answers:
                self._begin(run, pair, task)
            distill(
                pair, task, run.method, out=run.folder, progress=False, probe_every=every,
                callback=lambda history: self._tell(run, pair, task, total, history), **run.how,
            )  # fmt: skip
        except Exception as error:  # a thread's traceback would be seen by nobody
            self.message.value = f"<b>{type(error).__name__}</b>: {escape(str(error))}"
            if not run.evals:
                self.runs.remove(run)
        finally:
            self._set_buttons()

    def _begin(self, run: LabRun, pair: Pair, task: Task) -> None:
        """Let the start answer, so that there is something to compare with."""
        said = self._answer(pair, task)
        run.right_before = accuracy(task, said) if task.grade else None
        run.answers = [
            {"asked": e.prompt, "before": text}
            for e, text in zip(task.test[:ANSWERS], said, strict=False)
        ]

    @staticmethod
    def _answer(pair: Pair, task: Task) -> list[str]:
        prompts = [pair.encode(example) for example in task.test]
        return decode(pair, sample(pair.student, prompts, pair, temperature=0.0))

    def _tell(self, run: LabRun, pair: Pair, task: Task, total: int, history: History) -> bool:
        """Show where the run stands; `distill`'s callback."""
        said, row = self._answer(pair, task), history.evals[-1]
        if task.grade:
            history.evals[0]["accuracy"], row["accuracy"] = run.right_before, accuracy(task, said)
        run.evals, run.finished = history.evals, row["step"] >= total
        run.alphas = {slot: [*alphas] for slot, alphas in history.state.alphas.items()}
        for answer, text in zip(run.answers, said, strict=False):
            answer["now"] = text
        self.bar.value = row["step"]
        stopped = self._stopping.is_set() and not run.finished
        right = f", right {row['accuracy']:.0%}" if "accuracy" in row else ""
        self.message.value = (
            f"step {row['step']} of {total}: NLL on teacher's responses {row['nll_teacher']:.3f}{right}"
            + " (stopped)" * stopped
        )
        self.picture.value = plots.png(self.draw()[0], DPI)
        self.answers.value = _table(run.answers)
        return stopped

    # --- the picture ------------------------------------------------------------------------------------
    def draw(self) -> list:
        """Draw the runs: both NLLs, accuracy, and of the newest the alphas of its last mini-batch."""
        grid = plots.axes(2, height=4.9, width=9.5, rows=2, fast=True)
        grid[0, 0].figure.subplots_adjust(left=0.07, bottom=0.1, hspace=0.42, top=0.88)
        panels = [grid[0, 0], grid[0, 1], grid[1, 0], grid[1, 1]]
        looks = list(plots.styles([f"run {i}" for i in range(len(self.runs))]).values())
        for ax, (what, title) in zip(panels, CURVES.items(), strict=False):
            for run, style in zip(self.runs, looks, strict=True):
                rows = [row for row in run.evals if what in row]
                seen = [run.how["batch_size"] * row["step"] for row in rows]
                ax.plot(seen, [row[what] for row in rows], label=run.label, **style.line)
            limit = ax.get_xlim()
            for seen, values in self._shipped(what):
                ax.plot(seen, values, color="0.6", linewidth=1, label="ledger, 4,000 prompts")
            ax.set(xlabel="responses seen", xlim=limit)
            ax.set_title(title, loc="left")
        lines, names = panels[2].get_legend_handles_labels()
        panels[0].figure.legend(lines, names, loc="upper center", ncols=3, fontsize=8)
        self._draw_alphas(panels[3])
        return panels

    def _draw_alphas(self, ax) -> None:
        found = self.runs[-1].alphas
        if found:
            colors = [plots.ROLES[role].color for role in ("teacher", "student")]
            names = [SLOTS[slot] for slot in found]
            ax.hist(list(found.values()), bins=20, label=names, color=colors[: len(found)])
            ax.legend(fontsize=8)
        ax.set(xlabel="alpha", ylabel="responses")
        ax.set_title(
            "alphas of the last mini-batch" if found else "this method has no adaptive alpha",
            loc="left",
        )

    def _shipped(self, what: str) -> list[tuple[list, list]]:
        """The ledger's run of the newest run's method, from the same start, if there is one."""
        run, setup = self.runs[-1], self.setups[self.runs[-1].setup]
        name = in_world(setup.world, run.method) if setup.world else ""
        log = runs_by_seed(name).get(setup.start) if name else None
        rows = [row for row in (log or {"evals": []})["evals"] if what in row]
        return [([32 * row["step"] for row in rows], [row[what] for row in rows])] if rows else []


def _table(answers: Sequence[Mapping[str, str]]) -> str:
    """Compose the answers before and now as an HTML table."""
    cells = "".join(
        "<tr>"
        + "".join(f"<td>{escape(row.get(k, ''))}</td>" for k in ("asked", "before", "now"))
        + "</tr>"
        for row in answers
    )
    return f"<table><tr><th>asked</th><th>before</th><th>now</th></tr>{cells}</table>"
