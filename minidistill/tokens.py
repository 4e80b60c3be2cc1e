"""Responses as one looks at them: tokens in boxes, what is trained on, and who would have said it.

For lesson 03. A box carries its meaning twice, as a colour and as a number, a frame or a hatch, so that
it can be read without colour.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

# First of all imports, because it says what to install where matplotlib is missing.
from minidistill import plots

# isort: split
import torch
from matplotlib.patches import Rectangle
from torch import Tensor

from minidistill.models import Pair
from minidistill.objectives import METHODS
from minidistill.page import BLUE, ORANGE, PAPER_GREY
from minidistill.scoring import collate, response_log_probs

LINE = 122  # characters a line holds
WIDTH, FONT = 9.5, 8.0
TRAINED = {"facecolor": "#f8dfa8", "edgecolor": "black", "linewidth": 1.3}
KINDS = {
    "padding": {"facecolor": "#f4f4f4", "edgecolor": "#bbbbbb", "hatch": "xxx"},
    "template": {"facecolor": PAPER_GREY, "edgecolor": "#888888", "hatch": "//"},
    "prompt": {"facecolor": PAPER_GREY, "edgecolor": "#888888"},
    "response": TRAINED,
}


@dataclass(frozen=True)
class Cell:
    """One token in its box, with a remark below; `look` is how its rectangle is drawn."""

    text: str
    look: dict
    below: str = ""

    @property
    def width(self) -> float:
        return max(len(self.text), 0.85 * len(self.below)) + 1.2


def boxes(lines: Sequence[tuple[str, Sequence[Cell]]], title: str = "", widths=None):
    """Lines of cells, each under its heading (may be empty); `widths` lines up the columns."""
    rows = [(head, row) for head, cells in lines for head, row in _wrapped(head, cells, widths)]
    tall = 2.1 if any(cell.below for _, row in rows for cell in row) else 1.4
    steps = [tall + 0.8 * bool(head) for head, _ in rows]
    ax = plots.axes(height=0.24 * sum(steps) + 0.35, width=WIDTH, fast=True)
    ax.set_position((0.01, 0.01, 0.98, 1 - 0.33 / ax.figure.get_figheight()))
    ax.set(xlim=(0, max(LINE, sum(widths or []))), ylim=(-sum(steps), 0.1))
    ax.set_axis_off()
    ax.set_title(title, loc="left", fontsize=10.5)
    top = 0.0
    for (head, row), step in zip(rows, steps, strict=True):
        if head:
            ax.text(0.2, top - 0.4, head, va="center", fontsize=FONT + 0.5, fontweight="bold")
        _draw_row(ax, row, widths, top - step + tall)
        top -= step
    return ax.figure


def _draw_row(ax, row: Sequence[Cell], widths, top: float) -> None:
    mono, left = {"family": "monospace", "ha": "center", "va": "center"}, 0.2
    font = FONT * LINE / ax.get_xlim()[1]
    for i, cell in enumerate(row):
        width = widths[i] if widths else cell.width
        ax.add_patch(Rectangle((left, top - 1.05), width - 0.3, 1.0, **cell.look))
        middle = left + (width - 0.3) / 2
        ax.text(middle, top - 0.57, cell.text, fontsize=font, **mono)
        if cell.below:
            ax.text(middle, top - 1.5, cell.below, fontsize=0.85 * font, **mono)
        left += width


def _wrapped(head: str, cells: Sequence[Cell], widths) -> list[tuple[str, list[Cell]]]:
    """Cells broken into lines of LINE characters; the heading stands over the first."""
    rows, used = [[]], 0.0
    for i, cell in enumerate(cells):
        width = widths[i] if widths else cell.width
        if used + width > LINE - 0.2 and rows[-1] and not widths:
            rows.append([])
            used = 0.0
        rows[-1].append(cell)
        used += width
    return [(head if number == 0 else "", row) for number, row in enumerate(rows)]


def kinds_view(pieces: Sequence[tuple[str, str]], title: str = ""):
    """A text whose pieces (token, kind) are coloured by kind: padding, template, prompt, response."""
    return boxes([_legend(), ("", [Cell(t, KINDS[kind]) for t, kind in pieces])], title)


def batch_view(pair: Pair, prompts: Sequence, responses: Sequence, title: str = ""):
    """(3.1) A collated batch: every column's token, and below it the token it is trained to predict."""
    batch = collate(prompts, responses, pair.pad_id)
    width, rows = batch.input_ids.shape[1] - batch.labels.shape[1], []
    for ids, seen, mask in zip(batch.input_ids, batch.attention_mask, batch.mask, strict=True):
        words = pair.tokenizer.convert_ids_to_tokens(ids.tolist())
        trained = [False] * width + mask.tolist() + [False]
        rows.append(
            [
                Cell(
                    word,
                    KINDS[_kind(word, bool(seen[c]), trained[c])],
                    f"→{words[c + 1]}" if trained[c + 1] else "",
                )
                for c, word in enumerate(words)
            ]
        )
    widths = [max(cell.width for cell in column) for column in zip(*rows, strict=True)]
    lines = [("", row) for row in rows]
    picture = boxes([*lines, ("", [])], title, widths)
    _draw_row(picture.axes[0], _legend()[1], None, picture.axes[0].get_ylim()[0] + 1.9)
    return picture


def _kind(word: str, seen: bool, trained: bool) -> str:
    if not seen:
        return "padding"
    return "response" if trained else "template" if word.startswith("<") else "prompt"


def _legend() -> tuple[str, list[Cell]]:
    names = {"response": "response: trained on"}
    return "", [Cell(names.get(kind, kind), look) for kind, look in KINDS.items()]


@torch.no_grad()
def log_ratios(pair: Pair, prompts: Sequence, responses: Sequence) -> list[Tensor]:
    """log p(y_t | x, y_<t) − log q(y_t | x, y_<t) of each written token: a tensor a response, nats."""
    batch = collate(prompts, responses, pair.pad_id, pair.device)
    chosen = [
        response_log_probs(model, batch, pair.vocab).gather(-1, batch.labels[..., None])[..., 0]
        for model in (pair.teacher, pair.student)
    ]
    ratios = (chosen[0] - chosen[1]).cpu()
    return [row[: len(y)] for row, y in zip(ratios, responses, strict=True)]


def ratio_look(ratio: float, full: float = 3.0) -> dict:
    """Orange where the teacher gives more (log p/q above 0), blue where the student does; both framed."""
    strength = 0.75 * min(1.0, abs(ratio) / full)
    strong = abs(ratio) >= 1
    return {
        "facecolor": (ORANGE if ratio > 0 else BLUE, strength),
        "edgecolor": "black" if strong else "#bbbbbb",
        "linewidth": 1.4 if strong else 0.7,
    }


def ratio_explorer(pair: Pair, texts: Sequence[str], prompts, tgo, sgo) -> Callable:
    """A callback `(prompt) → Figure`: both responses to a prompt, token by token with log p/q."""
    named = {"teacher wrote": tgo, "student wrote": sgo}
    ratios = {name: log_ratios(pair, prompts, ys) for name, ys in named.items()}
    sums = {name: [float(r.sum()) for r in rows] for name, rows in ratios.items()}
    rows = {
        name: [_ratio_cells(pair, y, r) for y, r in zip(ys, ratios[name], strict=True)]
        for name, ys in named.items()
    }

    def picture(prompt: int = 0):
        lines = []
        for name, cells in rows.items():
            total = sums[name][prompt]
            lines.append((f"{name}:  sum of log p/q {total:+.1f} nats", cells[prompt]))
        return boxes(lines, f"asked: {texts[prompt]}")

    return picture


def _ratio_cells(pair: Pair, response: list[int], ratios: Tensor) -> list[Cell]:
    words = pair.tokenizer.convert_ids_to_tokens(response)
    values = [round(r, 1) + 0.0 for r in ratios.tolist()]  # + 0.0: no −0.0
    return [Cell(w, ratio_look(r), f"{r:+.1f}") for w, r in zip(words, values, strict=True)]


def reads_view(labels: dict[str, str], title: str = ""):
    """Which responses each method reads, from its own signature; `labels` maps methods to headings."""
    columns = ["reference", "tgo", "sgo", "speculative", "replay"]
    bare, empty = ({"facecolor": "white", "edgecolor": edge} for edge in ("white", "#dddddd"))
    lines = [("", [Cell(head, bare) for head in ("", *columns)])]
    for method, label in labels.items():
        read = [column in METHODS[method].reads for column in columns]
        marks = [Cell("reads", TRAINED) if yes else Cell("", empty) for yes in read]
        lines.append(("", [Cell(label, bare), *marks]))
    return boxes(lines, title, [26.0, *[18.0] * len(columns)])


def sum_over_prefixes(divergence: Callable, p, q, writer: Tensor) -> Tensor:
    r"""(3.10) E_{y₁∼writer} [D(p₁, q₁) + D(p₂(·|y₁), q₂(·|y₁))]: per-token divergences of two steps.

    p, q: (first, then) log-probabilities, (vocab,) and (vocab, vocab) with a row for each y₁. With KL
    and the teacher as writer this is the KL of whole sequences (the chain rule); with RKL and the
    student as writer it is their RKL. No other pairing of the four is a divergence of sequences.
    """
    return divergence(p[0], q[0]) + (writer.exp() * divergence(p[1], q[1])).sum()
