"""The map of lesson 08: what contrast and schedules of DistiLLM-2 add, along five dials of a world."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np

from minidistill.experiments.labels import METRIC_LABELS
from minidistill.experiments.verdicts import Contrast, Result, is_run, judge
from minidistill.lessons import plots
from minidistill.lessons.plot_style import BLACK, GREY

COMPONENTS = {
    "contrast: CALD − KD": ("cald", "kd"),
    "schedules: DistiLLM-2 − CALD": ("distillm2", "cald"),
    "both: DistiLLM-2 − KD": ("distillm2", "kd"),
}
DIALS: dict[
    str, dict[str, str]
] = {  # dial → place → the arm of a method there; "{}" is the protocol
    "student's width": {"32": "{}_width_32", "48": "{}_width_48", "64": "{}", "96": "{}_width_96"},
    "prompts": {"1,000": "{}_p1000", "2,000": "{}_p2000", "4,000": "{}"},
    "teacher right": {"41 %": "{}_small_teacher", "64 %": "{}_medium_teacher", "100 %": "{}"},
    "rate": {"half": "{}_rate_0.5", "tuned": "{}", "double": "{}_rate_2"},
    "world": {"instruct": "{}", "arithmetic": "arithmetic/{}", "program": "program/{}"},
}
PLACES = [(dial, place) for dial, places in DIALS.items() for place in places]
Map = Mapping[str, Mapping[tuple[str, str], Result]]


def read_map(metric: str = "accuracy", folder: Path | None = None) -> Map:
    """Judge each component wherever its runs are: component → (dial, place) → result.

    Holm's rule holds over all places of a component, which share the runs of the protocol.
    """
    found = {}
    for component, (with_it, without) in COMPONENTS.items():
        contrasts = {}
        for dial, place in PLACES:
            arm = DIALS[dial][place]
            weights = {arm.format(with_it): 1, arm.format(without): -1}
            if is_run(contrast := Contrast(component, weights, metric), folder):
                contrasts[dial, place] = contrast
        results = judge(list(contrasts.values()), folder) if contrasts else []
        found[component] = dict(zip(contrasts, results, strict=True))
    return found


def draw_map(found: Map, ax=None, metric: str = "accuracy", dial: str = "", title: str = ""):
    """Draw a cell a component and place: the mean in points; bold and framed where it is decided.

    `dial`: its places are marked.
    """
    ax = plots.axes(height=2.6, width=9.5) if ax is None else ax
    means = np.full((len(COMPONENTS), len(PLACES)), np.nan)
    for row, component in enumerate(COMPONENTS):
        for column, at in enumerate(PLACES):
            if at in found[component]:
                result = found[component][at]
                means[row, column] = 100 * result.mean
                decided = result.verdict != "undecided"
                quiet = "white" if abs(result.mean) > 0.2 else "0.3"
                ax.text(
                    column, row, f"{100 * result.mean:+.0f}", ha="center", va="center", fontsize=8.5,
                    weight="bold" if decided else "normal", color=BLACK if decided else quiet,
                )  # fmt: skip
    ax.imshow(means, cmap="RdBu", vmin=-30, vmax=30, aspect="auto", alpha=0.7)
    dials = [name for name, _ in PLACES]
    edges = [i + 0.5 for i, (a, b) in enumerate(pairwise(dials)) if a != b]
    ax.vlines(edges, -0.5, len(COMPONENTS) - 0.5, color="white", linewidth=4)
    for name in DIALS:
        columns = [i for i, each in enumerate(dials) if each == name]
        chosen = name == dial
        ax.text(
            sum(columns) / len(columns), -0.62, name, ha="center", va="bottom", fontsize=8.5,
            weight="bold" if chosen else "normal", color=BLACK if chosen else GREY,
        )  # fmt: skip
        if chosen:
            x, y = (columns[0] - 0.48, columns[-1] + 0.48), (-0.47, len(COMPONENTS) - 0.53)
            ax.plot([x[0], x[1], x[1], x[0], x[0]], [y[0], y[0], y[1], y[1], y[0]], color=BLACK)
    ax.set_xticks(range(len(PLACES)), [place for _, place in PLACES], fontsize=7.5, rotation=30)
    ax.set_yticks(range(len(COMPONENTS)), list(COMPONENTS))
    ax.grid(visible=False)
    ax.set_xlabel(f"difference in {METRIC_LABELS[metric]}, in points")
    ax.set_title(title, loc="left", pad=22)
    return ax


def draw_dial(found: Map, dial: str, ax=None):
    """Draw along one dial each component's mean and interval; grey: too small to matter."""
    ax = plots.axes(height=2.6) if ax is None else ax
    places = list(DIALS[dial])
    looks = dict(zip(COMPONENTS, plots.styles(["a", "b", "c"]).values(), strict=True))
    ax.axhspan(-2, 2, color="0.92", linewidth=0)
    ax.axhline(0, color=BLACK, linewidth=0.8)
    for i, component in enumerate(COMPONENTS):
        cells = found[component]
        known = [(x, cells[dial, p]) for x, p in enumerate(places) if (dial, p) in cells]
        x = [place + 0.1 * (i - 1) for place, _ in known]
        ends = [[100 * e for e in result.interval] for _, result in known]
        if known:
            ax.vlines(x, *zip(*ends, strict=True), color=looks[component].color, linewidth=1)
            means = [100 * result.mean for _, result in known]
            ax.plot(
                x, means, marker=looks[component].marker, label=component, **looks[component].line
            )
    ax.set_xticks(range(len(places)), places)
    ax.set(xlabel=dial, ylabel="points", ylim=(-30, 30), xlim=(-0.5, len(places) - 0.5))
    ax.legend(fontsize=7.5, loc="upper left")
    return ax


MEASURES = {"greedy": "accuracy", "sampled": "accuracy_sampled"}


def map_explorer(folder: Path | None = None) -> Callable:
    """A callback `(dial, measure) → Figure`: the map by greedy or sampled accuracy, and one dial of it."""
    maps = {measure: read_map(metric, folder) for measure, metric in MEASURES.items()}

    def picture(dial: str = next(iter(DIALS)), measure: str = "greedy"):
        top, bottom = plots.axes(1, height=5.4, width=9.5, rows=2, fast=True)
        top.figure.subplots_adjust(left=0.235, bottom=0.1, top=0.94, hspace=0.62)
        draw_map(maps[measure], top, MEASURES[measure], dial)
        draw_dial(maps[measure], dial, bottom)
        return top.figure

    return picture
