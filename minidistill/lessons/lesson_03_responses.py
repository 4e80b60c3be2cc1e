"""Lesson 03 (responses): the tokens trained on, log ratios, DistiLLM's adaptive sampler, exercises."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from matplotlib.patches import Rectangle
from torch import Tensor

from minidistill import divergences as D
from minidistill import logprobs
from minidistill.lessons import plots
from minidistill.lessons.checks import Exercise, checker, length_mask
from minidistill.lessons.plot_style import BLUE, ORANGE, PAPER_GREY
from minidistill.lessons.response_scores import log_ratios
from minidistill.logprobs import collate, response_log_probs
from minidistill.models import Pair
from minidistill.objectives import METHODS
from minidistill.sources import AdaptiveSampler
from minidistill.utils import derive_seed

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


def token_boxes(lines: Sequence[tuple[str, Sequence[Cell]]], title: str = "", widths=None):
    """Lines of cells, each under its heading (may be empty); `widths` lines up the columns."""
    rows = [(head, row) for head, cells in lines for head, row in _wrapped(head, cells, widths)]
    tall = 2.1 if any(cell.below for _, row in rows for cell in row) else 1.4
    steps = [tall + 0.8 * bool(head) for head, _ in rows]
    ax = plots.axes(height=0.24 * sum(steps) + 0.35, width=WIDTH, fast=True)
    ax.set_position((0.01, 0.01, 0.98, 1 - 0.33 / ax.figure.get_figheight()))
    ax.set(xlim=(0, sum(widths) + 0.5 if widths else LINE), ylim=(-sum(steps), 0.1))
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
    return token_boxes([_legend(), ("", [Cell(t, KINDS[kind]) for t, kind in pieces])], title)


def batch_view(pair: Pair, prompts: Sequence, responses: Sequence, title: str = ""):
    """(3.1) A collated batch: every column's token, and below it the token it is trained to predict."""
    batch = collate(prompts, responses, pair.pad_token_id, pair.device)
    width, rows = batch.input_ids.shape[1] - batch.labels.shape[1], []
    for ids, seen, kept in zip(batch.input_ids, batch.attention_mask, batch.mask, strict=True):
        words = pair.tokenizer.convert_ids_to_tokens(ids.tolist())
        trained = [False] * width + kept.tolist() + [False]
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
    picture = token_boxes([*lines, ("", [])], title, widths)
    _draw_row(picture.axes[0], _legend()[1], None, picture.axes[0].get_ylim()[0] + 1.9)
    return picture


def _kind(word: str, seen: bool, trained: bool) -> str:
    if not seen:
        return "padding"
    return "response" if trained else "template" if word.startswith("<") else "prompt"


def _legend() -> tuple[str, list[Cell]]:
    names = {"response": "response: trained on"}
    return "", [Cell(names.get(kind, kind), look) for kind, look in KINDS.items()]


def ratio_style(ratio: float, full: float = 3.0) -> dict:
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
        return token_boxes(lines, f"asked: {texts[prompt]}")

    return picture


def _ratio_cells(pair: Pair, response: list[int], ratios: Tensor) -> list[Cell]:
    words = pair.tokenizer.convert_ids_to_tokens(response)
    values = [round(r, 1) + 0.0 for r in ratios.tolist()]  # + 0.0: no −0.0
    return [Cell(w, ratio_style(r), f"{r:+.1f}") for w, r in zip(words, values, strict=True)]


def reads_view(labels: dict[str, str], title: str = ""):
    """Draw which responses each method reads, from its own signature; `labels` maps methods to headings."""
    columns = ["reference", "tgo", "sgo", "speculative", "replay"]
    bare, empty = ({"facecolor": "white", "edgecolor": edge} for edge in ("white", "#dddddd"))
    lines = [("", [Cell(head, bare) for head in ("", *columns)])]
    for method, label in labels.items():
        read = [column in METHODS[method].reads for column in columns]
        marks = [Cell("reads", TRAINED) if yes else Cell("", empty) for yes in read]
        lines.append(("", [Cell(label, bare), *marks]))
    return token_boxes(lines, title, [26.0, *[18.0] * len(columns)])


def sum_over_prefixes(divergence: Callable, p, q, writer: Tensor) -> Tensor:
    r"""(3.10) E_{y₁∼writer} [D(p₁, q₁) + D(p₂(·|y₁), q₂(·|y₁))]: per-token divergences of two steps.

    p, q: (first, then) log-probabilities, (vocab,) and (vocab, vocab) with a row for each y₁. With KL
    and the teacher as writer this is the KL of whole sequences (the chain rule); with RKL and the
    student as writer it is their RKL. No other pairing of the four is a divergence of sequences.
    """
    return divergence(p[0], q[0]) + (writer.exp() * divergence(p[1], q[1])).sum()


@torch.no_grad()
def kl_by_position(pair: Pair, prompts: Sequence, responses: Sequence, least: int = 30) -> Tensor:
    """Mean KL(p‖q) over responses at their t-th token, while `least` of them are that long: (tokens,).

    The prefixes are those of whoever wrote the responses.
    """
    batch = collate(prompts, responses, pair.pad_token_id, pair.device)
    log_p, log_q = (
        response_log_probs(model, batch, pair.vocab_size) for model in (pair.teacher, pair.student)
    )
    counts = batch.mask.sum(0)
    kl = torch.where(batch.mask, D.kl(log_p, log_q), 0.0).sum(0) / counts.clamp(min=1)
    return kl[counts >= least].cpu()


STEPS, BATCH = 375, 32  # of the ledger's runs
BATCH_KINDS = {"fixed": "fixed (the teacher's)", "replayed": "replayed", "fresh": "fresh (student)"}


def batch_kinds(
    phi: Sequence[float], batch: int = BATCH, seed: int = 0, capacity: int = 1000
) -> list[str]:
    """(3.9) What `sources.Replay` hands out at each step when φ moves like this, in a run of this seed."""
    replay, kinds, answers = AdaptiveSampler(capacity), [], [[]] * batch
    nobody = SimpleNamespace(student=None)
    for step, value in enumerate(phi):
        replay.phi, replay.counts = value, {}
        ask = SimpleNamespace(seed=derive_seed(seed, "step", step), indices=range(batch), pair=nobody,
                              sample_responses=lambda model: answers)  # fmt: skip
        replay.sample_batch(ask, answers, step / len(phi))
        kinds += replay.counts
    return kinds


def phi_by_step(log: dict) -> list[float]:
    """φ in force at each step of a `distillm` log, whose probes tell the one of the steps before them."""
    probes = log["evals"]
    gaps = zip(probes, probes[1:], strict=False)
    return [after["phi"] for before, after in gaps for _ in range(before["step"], after["step"])]


def kind_shares(kinds: Sequence[str], window: int = 25) -> dict[str, Tensor]:
    """The share of each kind of mini-batch in every `window` steps: {kind: (windows,)}."""
    parts = [kinds[i : i + window] for i in range(0, len(kinds), window)]
    return {k: torch.tensor([part.count(k) / len(part) for part in parts]) for k in BATCH_KINDS}


def stackplot(ax, x, parts: dict[str, Tensor], title: str = ""):
    """Shares on top of each other, fixed at the bottom; each with a hatch of its own."""
    base, looks = torch.zeros(len(x)), plots.styles(list(BATCH_KINDS.values()))
    for kind, label in BATCH_KINDS.items():
        top, bar = base + parts[kind], looks[label].bar
        ax.fill_between(x, base, top, label=label, **{"linewidth": 0.5, **bar})
        base = top
    ax.set(ylim=(0, 1), xlim=(float(x[0]), float(x[-1])), ylabel="share of mini-batches")
    ax.set_title(title, loc="left")
    ax.legend(loc="lower left")
    return ax


def sampler_explorer(phi: float = 0.5):
    """(3.9) The sampler at a fixed φ: what it promises at each moment, and what STEPS steps get."""
    left, right = plots.axes(2, height=2.9, width=9.0, fast=True)
    t = torch.linspace(0, 1, 51)
    promised = {"fixed": torch.full_like(t, 1 - phi), "fresh": phi * (1 - t), "replayed": phi * t}
    stackplot(left, t, promised, f"(3.9) phi = {phi:.2f}, a full buffer")
    left.set_xlabel("share of training done")
    found = kind_shares(batch_kinds([phi] * STEPS))
    title = f"(3.9) {STEPS} steps, the buffer empty at first"
    stackplot(right, torch.arange(0, STEPS, 25), found, title)
    right.set_xlabel("step")
    right.legend_.remove()
    return left.figure


def _pick(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    return logits.log_softmax(-1).gather(-1, ids.unsqueeze(-1)).squeeze(-1)


EXERCISES = {
    "masked_mean": Exercise(
        answer=logprobs.masked_mean,
        first_step="padding counts 0 in the sum, and only real tokens count in the denominator.",
        cases=(
            (torch.tensor([[1.0, 2.0, 6.0, 9.0], [4.0, 7.0, 5.0, 3.0]]), length_mask(3, 1)),
            (torch.tensor([[2.0, 5.0, 8.0], [3.0, 1.0, 7.0]]), length_mask(2, 1, width=3)),
        ),
        mistakes={
            "the mask is dropped: padding tokens are averaged too": lambda x, m: x.mean(-1),
            "you divide by the padded width: divide by each response's own length": lambda x, m: (
                x * m
            ).mean(-1),
            "this is the sum: divide by the number of response tokens": logprobs.masked_sum,
            "one mean over the whole batch: each response gets a mean of its own": lambda x, m: (
                (x * m).sum(-1) / m.sum() * len(m)
            ),
        },
        edges={
            "a response with no tokens": (torch.ones(1, 2), length_mask(0, width=2)),
            "padding that holds NaN (0 · NaN is NaN: choose with torch.where)": (
                torch.tensor([[2.0, 4.0, float("nan")]]),
                length_mask(2, width=3),
            ),
        },
    ),
    "token_log_probs": Exercise(
        answer=lambda logits, ids: _pick(logits[:, :-1], ids[:, 1:]),
        first_step="the logits in column t speak about the token in column t + 1.",
        cases=tuple(
            (draw, torch.tensor([[0, 1, 2, 3], [3, 0, 4, 1]]))
            for draw in torch.randn(2, 2, 4, 5, generator=torch.Generator().manual_seed(2))
        ),
        mistakes={
            "shifted by one: each logit is compared with the token it has already read": (
                lambda logits, ids: _pick(logits[:, 1:], ids[:, 1:])
            ),
            "not shifted at all: the logits in column t speak about the token in column t + 1": (
                lambda logits, ids: _pick(logits[:, :-1], ids[:, :-1])
            ),
            "shifted the wrong way: logits must look forward, not back": (
                lambda logits, ids: _pick(logits[:, 1:], ids[:, :-1])
            ),
            "these are logits: normalise with log_softmax first": lambda logits, ids: (
                logits[:, :-1].gather(-1, ids[:, 1:, None]).squeeze(-1)
            ),
            "softmax runs over the tokens here: normalise over the vocabulary, the last axis": (
                lambda logits, ids: (
                    logits[:, :-1].log_softmax(1).gather(-1, ids[:, 1:, None]).squeeze(-1)
                )
            ),
            "these are probabilities: their logarithms are asked for": lambda logits, ids: _pick(
                logits[:, :-1], ids[:, 1:]
            ).exp(),
        },
    ),
    "first_stop": Exercise(
        answer=lambda ids, stop: ((ids == stop).cumsum(-1) - (ids == stop).long() == 0).sum(-1),
        first_step="a token counts if no stop token stands before it: think of a running count.",
        cases=(
            (torch.tensor([[5, 6, 1, 1, 1], [5, 1, 6, 7, 1], [4, 5, 6, 7, 8]]), 1),
            (torch.tensor([[3, 9, 4, 9, 2, 9], [9, 9, 9, 9, 9, 9]]), 9),
        ),
        mistakes={
            "the stop token itself is left out: it belongs to the response, or nobody learns to stop": (
                lambda ids, stop: ((ids == stop).cumsum(-1) == 0).sum(-1)
            ),
            "everything up to the second stop token counts: a token counts if *no* stop stands before it": (
                lambda ids, stop: ((ids == stop).cumsum(-1) <= 1).sum(-1)
            ),
            "a response without a stop token gets one token too many": lambda ids, stop: (
                ((ids == stop).cumsum(-1) == 0).sum(-1) + 1
            ),
            "you count every token that is not the stop token: cut by position, not by value": (
                lambda ids, stop: (ids != stop).sum(-1)
            ),
            "you cut at the last stop token: what follows the first one is padding or chatter": (
                lambda ids, stop: torch.where(
                    (ids == stop).any(-1),
                    ids.shape[-1] - (ids == stop).flip(-1).int().argmax(-1),
                    ids.shape[-1],
                )
            ),
            "a response without a stop token keeps all its tokens; in yours argmax says 0 there": (
                lambda ids, stop: (ids == stop).int().argmax(-1) + 1
            ),
        },
        gradient=False,
    ),
}

check = checker(EXERCISES)
