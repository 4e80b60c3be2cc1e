"""The curriculum at work: gaps, the alphas and betas made of them, what runs did. Lessons 07, 08."""

import inspect
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from minidistill import curriculum as C
from minidistill import objectives, pairing, plots, sources
from minidistill.arms import ALPHAS, BETAS
from minidistill.rollouts import Rollouts
from minidistill.scoring import Scored
from minidistill.training import Trainer

SLOTS = {"tgo": "teacher's responses", "sgo": "student's responses"}
SMALL = {"height": 2.4, "width": 7.6, "fast": True}
Point = tuple[str, Callable, tuple[str, ...]]

# DistiLLM-2's Algorithm 1 in our words, and where each of its lines is done.
ALGORITHM: tuple[Point, ...] = (
    ("for each epoch: sample for all prompts first", Trainer._remaining_batches, ("rollouts.coll",)),
    ("y_t ~ teacher, written once", sources.tgo, ("return ask",)),
    ("y_s ~ student as it is now, anew each epoch", sources.sgo, ("return ask",)),
    ("for each mini-batch", Trainer._remaining_batches, ("for indices in",)),
    ("student and teacher read both responses", Rollouts.score, ("log_q = ", "_teacher_on")),
    ("α_t from y_t, α_s from y_s, one a sample", objectives.distillm2, ("alpha_t =", "alpha_s =")),
    ("no update of α in epoch 1, which measures m", C.AlphaTracker.update, ("if epoch > 0",)),
    ("β for this step", objectives.distillm2, ("linear_beta",)),
    ("the loss (8.1)", objectives._contrast, ("pull_up =", "push_down =", "return")),
    ("gradient step on the student", Trainer._train_step, ("self._backward(", "self.optimizer.step()")),
)  # fmt: skip


def algorithm_page(points: Sequence[Point] = ALGORITHM) -> str:
    """Markdown: each line of Algorithm 1 beside the source lines that do it; ValueError if one is gone."""
    rows = ["| Algorithm 1 | where | the line |", "|---|---|---|"]
    for says, function, fragments in points:
        code = "<br>".join(f"`{line}`" for line in lines_with(function, *fragments))
        module = inspect.getmodule(function).__name__.removeprefix("minidistill.")
        place = f"{module}.{function.__qualname__}"
        rows.append(f"| {says} | `{place}` | {code.replace('|', chr(92) + '|')} |")
    return "\n".join(rows) + "\n"


def lines_with(function: Callable, *fragments: str) -> list[str]:
    """The first source line of `function` with each fragment, as it stands now."""
    lines, found = [line.strip() for line in inspect.getsource(function).splitlines()], []
    for fragment in fragments:
        match = next((line for line in lines if fragment in line), None)
        if match is None:
            raise ValueError(f"no line of {function.__qualname__} holds {fragment!r} any more")
        found.append(match)
    return found


def confidences(both: Mapping[str, Scored]) -> dict[str, tuple[Tensor, Tensor]]:
    """Slot → (the writer's confidence, the reader's), each exp(mean token log-prob): (batch,) twice.

    The teacher wrote "tgo", the student "sgo"; writer minus reader is the gap that (7.1) reads.
    """
    found = {}
    for slot, y in both.items():
        p, q = (y.mean(x).exp().detach() for x in (y.token_log_p, y.token_log_q))
        found[slot] = (p, q) if slot == "tgo" else (q, p)
    return found


def shares(alpha: Tensor, low: float = 0.01, high: float = 0.1) -> dict[str, float]:
    """Which part of the samples has its alpha at `low`, strictly between, at `high`."""
    at_low, at_high = (torch.isclose(alpha, alpha.new_tensor(end)) for end in (low, high))
    parts = {"low": at_low, "between": ~(at_low | at_high), "high": at_high}
    return {name: part.float().mean().item() for name, part in parts.items()}


def draw_confidences(ax, found: Mapping[str, tuple[Tensor, Tensor]], title: str = ""):
    """A point a response: how sure the one who wrote it is, and how sure the other."""
    for slot, (writer, reader) in found.items():
        style = plots.styles([SLOTS[slot]])[SLOTS[slot]]
        ax.plot(reader, writer, style.marker, color=style.color, markersize=3, 
                label=SLOTS[slot])  # fmt: skip
    ax.plot([0, 1], [0, 1], color=plots.METHODS["tv"].color, linewidth=1)
    ax.set(xlabel="confidence of the other model", ylabel="confidence of the writer", xlim=(0, 1),
           ylim=(0, 1))  # fmt: skip
    ax.set_title(title, loc="left", fontsize=10.5)
    ax.legend(loc="lower right", fontsize=8.5)
    return ax


def alpha_explorer(gaps: Mapping[str, Tensor]) -> Callable:
    """A callback `(alpha0, low, high, m) → Figure` over real gaps; m in units of their own mean."""
    means, line = (
        {slot: float(gap.mean()) for slot, gap in gaps.items()},
        torch.linspace(0.4, 3, 200),
    )

    def picture(alpha0: float = 0.1, low: float = 0.01, high: float = 0.1, m: float = 1.0):
        left, right = plots.axes(2, **SMALL)
        found = {"alpha": C.adaptive_alpha(line, m, alpha0, low, high)}
        title = f"(7.1) alpha0 = {alpha0:.2f}, m = {m:.2f} × mean"
        plots.curves(line, found, left, "gap / mean gap", "alpha", title)
        left.set_ylim(-0.02, 0.52)
        bars = {}
        for slot, gap in gaps.items():
            alpha = C.adaptive_alpha(gap, m * means[slot], alpha0, low, high)
            bars[SLOTS[slot]] = list(shares(alpha, low, high).values())
        plots.token_bars(bars, [f"at {low:.2f}", "between", f"at {high:.2f}"], right)
        right.set(ylim=(0, 1), xlabel="alpha", ylabel="share of responses")
        return left.figure

    return picture


def schedules(epochs: int, start: float, end: float, ramp: float, points: int = 60) -> dict:
    """β by progress, the ramp (7.3) and the paper's formula (7.4): progress in [0, 1] → two lists."""
    steps = [(epoch, i / points) for epoch in range(epochs) for i in range(points)]
    progress = [(epoch + within) / epochs for epoch, within in steps]
    return {
        "progress": progress,
        "ramp (7.3)": [C.linear_beta(t, start, end, ramp) for t in progress],
        "paper's formula (7.4)": [
            C.paper_beta(e + 1, epochs, w + 1 / points, 1, start) for e, w in steps
        ],
    }


def beta_explorer(start: float = 0.5, end: float = 0.75, ramp: float = 0.5, epochs: int = 3):
    """(7.3), (7.4) β by progress; the title says what weight 1 − β the pull-up gets on average."""
    lines = schedules(epochs, start, end, ramp)
    ax, progress = plots.axes(height=2.4, width=5.5, fast=True), lines.pop("progress")
    plots.curves(progress, lines, ax, "share of training", "beta")
    left_over = [1 - sum(beta) / len(beta) for beta in lines.values()]
    title = "(7.3), (7.4): the pull-up keeps {:.2f} and {:.2f} on average".format(*left_over)
    ax.set_title(title, loc="left", fontsize=10.5)
    ax.set_ylim(-0.05, 1.05)
    for epoch in range(1, epochs):
        ax.axvline(epoch / epochs, color=plots.BLACK, linewidth=0.5)
    return ax.figure


def logged(logs: Sequence[dict], name: str, what: str) -> tuple[list[int], np.ndarray]:
    """Steps, and what an arm's runs logged there: (steps), (seeds, steps). The first probe has none."""
    runs = [log["probes"][1:] for log in logs if log["job"]["name"] == name]
    return [probe["step"] for probe in runs[0]], np.array([[p[what] for p in run] for run in runs])


def path_explorer(grid: Sequence[dict], logs: Sequence[dict]) -> Callable:
    """A callback `(moment) → Figure`: DistiLLM-2's way through the grid of constants, measurement by
    measurement, and its NLL beside CALD's (means over seeds)."""
    means = pairing.grid_means(grid)
    steps, beta = logged(logs, "distillm2", "beta")
    alpha = np.mean([logged(logs, "distillm2", f"alpha_{slot}")[1] for slot in SLOTS], 0).mean(0)
    x = np.interp(beta.mean(0), BETAS, range(len(BETAS)))
    y = np.interp(alpha, ALPHAS, range(len(ALPHAS)))
    nlls = {n: logged(logs, n, "nll_teacher")[1].mean(0) for n in ("cald", "distillm2")}

    def picture(moment: int = 21):
        left, right = plots.axes(2, **SMALL)
        _draw_constants(left, means)
        here = min(moment, len(steps))
        plots.paths({"distillm2": (x[:here], y[:here])}, left, "beta", "alpha")
        left.lines[-1].set_markersize(12)
        left.get_legend().remove()
        left.set_title("(7.1), (7.3) a path through constants", loc="left", fontsize=10.5)
        title = f"step {steps[here - 1]}: alpha {alpha[here - 1]:.3f}, beta {beta.mean(0)[here - 1]:.2f}"
        plots.curves(steps, nlls, right, "step", "NLL (teacher's)", title)
        right.axvline(steps[here - 1], color=plots.BLACK, linewidth=0.8)
        return left.figure

    return picture


def _draw_constants(ax, means: Mapping[tuple[float, float], float]) -> None:
    """ROUGE-L of the runs with constant α and β, numbers above their places; what is missing is left out."""
    for (a, b), value in means.items():
        place = BETAS.index(b), ALPHAS.index(a) + 0.25
        ax.text(*place, f"{value:.3f}", ha="right", va="center", fontsize=8)
    ax.set_xticks(range(len(BETAS)), [f"{b:g}" for b in BETAS])
    ax.set_yticks(range(len(ALPHAS)), [f"{a:g}" for a in ALPHAS])
    ax.set(xlim=(-0.7, len(BETAS) - 0.5), ylim=(-0.4, len(ALPHAS) - 0.5))


def draw_cost(ax, logs: Sequence[dict], names: Mapping[str, str], title: str = ""):
    """ROUGE-L at the end against seconds of training, a point a seed; `names` are arms and labels."""
    looks = plots.styles(list(names.values()))
    for name, label in names.items():
        style = looks[label]
        runs = [log for log in logs if log["job"]["name"] == name]
        seconds = [log["train_seconds"] for log in runs]
        rouge = [log["scores"]["rouge_l"] for log in runs]
        ax.plot(seconds, rouge, style.marker, color=style.color, label=label)
        ax.plot(np.mean(seconds), np.mean(rouge), style.marker, color=style.color, markersize=11,
                markerfacecolor="none", markeredgewidth=2)  # fmt: skip
    ax.set(xlabel="seconds of training", ylabel="ROUGE-L", xlim=(0, None))
    ax.set_title(title, loc="left", fontsize=10.5)
    ax.legend(fontsize=8.5)
    return ax
