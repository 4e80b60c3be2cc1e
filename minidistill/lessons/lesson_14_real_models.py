"""Lesson 14 (real models): what a step holds in memory, what k words keep, what a run costs, exercises."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from minidistill import divergences as D
from minidistill.lessons import plots
from minidistill.lessons.checks import Exercise, checker
from minidistill.lessons.plot_style import BLACK, BLUE, GREEN, GREY, ORANGE, PAPER_GREY, RED
from minidistill.scale.teacher_cache import into_buckets

FLOAT = 4  # bytes
TABLES, HIDDEN = "tables", "hidden states"
CHUNK = 128
FUSED = "skew KL, fused.divergence"  # what `distill` runs
NAMES = {
    "cross-entropy": "cross-entropy", "skew KL, dense": TABLES, FUSED: HIDDEN,
    "skew KL, fused.weighted_sum": "weights known", "JSD, TRL": "TRL", "JSD, Liger": "Liger",
}  # fmt: skip
PARTS = {
    "teacher": GREY, "student": BLUE, "gradients": GREEN, "AdamW": ORANGE, "log-probabilities": RED,
}  # fmt: skip


def step_memory(
    teacher: float, student: float, tokens: float, vocab: float, copies: float = 8.0,
    trained: float = 1.0,
) -> dict[str, float]:  # fmt: skip
    r"""(14.3) Bytes that a step holds in float32, part by part, without activations: at most their sum.

    4 N_t + 4 N_s + 4 f N_s + 8 f N_s + 4 · copies · T · V, for N weights, T response tokens, a vocabulary of
    V and a share f of weights that are trained: as many gradients, and AdamW keeps two numbers for each.
    """
    sizes = (teacher, student, trained * student, 2 * trained * student, copies * tokens * vocab)
    return {name: FLOAT * size for name, size in zip(PARTS, sizes, strict=True)}


def copies_of_a_table(rows: Sequence[dict], vocab: int, loss: str = "skew KL, dense") -> float:
    """How many tables (tokens, vocab) a loss holds at its peak, by the longest batch of a benchmark's log."""
    row = max((r for r in rows if r["loss"] == loss), key=lambda r: r["tokens"])
    return row["peak"] / (FLOAT * row["tokens"] * vocab)


def memory_explorer(copies: float) -> Callable:
    """A callback `(tokens, millions, vocab) → Figure`: a step's bytes by tables and by hidden states.

    `millions` of weights the student has, the teacher five times as many. `copies`: of a table, measured.
    """

    def picture(tokens: float = 1024, millions: float = 135, vocab: float = 49_152):
        ax = plots.axes(height=2.4, width=8.4, fast=True)
        shares, kinds = [], {TABLES: (tokens, copies), HIDDEN: (min(tokens, CHUNK), copies)}
        for row, (held, count) in enumerate(kinds.values()):
            left = 0.0
            parts = step_memory(5e6 * millions, 1e6 * millions, held, vocab, count)
            for name, size in parts.items():
                ax.barh(row, size / 1e9, left=left / 1e9, color=PARTS[name], label=name)
                left += size
            shares.append(parts["log-probabilities"] / left)
            ax.annotate(
                f" {left / 1e9:.1f} GB, {shares[-1]:.0%} red", (left / 1e9, row), va="center"
            )
            ax.margins(x=0.45)
        ax.set_yticks([0, 1], list(kinds))
        ax.figure.subplots_adjust(left=0.12)
        ax.invert_yaxis()
        ax.grid(axis="y", visible=False)
        ax.legend(*_first(ax, len(PARTS)), loc="lower right", fontsize=7)
        ax.set(xlabel="gigabytes, without activations")
        shape = f"{millions:g} M weights, {tokens:,} tokens, {vocab:,} words"
        _title(ax, f"(14.3) tables are {shares[0]:.0%} of a step: {shape}")
        return ax.figure

    return picture


def draw_losses(rows: Sequence[dict], tokens: int, left, right):
    """Left: time of loss and gradient at `tokens`, times cross-entropy's; right: peaks by tokens."""
    found = {name: [r for r in rows if r["loss"].startswith(key)] for key, name in NAMES.items()}
    base = next(r for r in found["cross-entropy"] if r["tokens"] == tokens)["seconds"]
    middle = {}
    for place, (name, style) in enumerate(plots.styles(list(found)).items()):
        times = [r["seconds"] for r in found[name] if r["tokens"] == tokens]
        best = min(times, key=median)  # of Liger's sizes of a chunk
        ratios = [a / b for a, b in zip(best, base, strict=True)]
        middle[name] = median(best)
        left.barh(place, median(ratios), **style.bar)
        left.hlines(place, min(ratios), max(ratios), color=BLACK)
        left.annotate(f" {median(ratios):.1f}", (max(ratios), place), va="center")
    left.set_yticks(range(len(found)), list(found))
    left.invert_yaxis()
    left.grid(axis="y", visible=False)
    left.margins(x=0.15)
    left.set(xlabel="times cross-entropy")
    share = middle[HIDDEN] / middle[TABLES]
    _title(left, f"(14.2) hidden states, {tokens:,} tokens: {share:.2f} of the tables' time")
    lengths = sorted({r["tokens"] for r in rows})
    peaks = {
        name: [min(r["peak"] for r in own if r["tokens"] == n) / 1e6 for n in lengths]
        for name, own in found.items()
    }
    plots.curves(lengths, peaks, right, "response tokens in a batch", "megabytes")
    right.set_ylim(0)
    _title(right, "(14.2) a peak that does not grow")


def renormalised(log_probs: Tensor, ids: Tensor) -> Tensor:
    """What many caches do: the k likeliest made to sum to 1, as if the others did not exist."""
    return log_probs.gather(-1, ids).log_softmax(-1)


def kept_divergence(log_p: Tensor, log_q: Tensor, sizes: Sequence[int], put=into_buckets):
    """The share of KL(p‖q), mean over tokens, that is left of tables cut to the teacher's k likeliest."""
    whole, order = D.kl(log_p, log_q).mean(), log_p.argsort(-1, descending=True)
    cut = ([put(table, order[..., :k]) for table in (log_p, log_q)] for k in sizes)
    return [float(D.kl(p, q).mean() / whole) for p, q in cut]


def draw_kept(sizes: Sequence[int], kept: Mapping[str, Sequence[float]], ax, title: str = ""):
    """Lines over k, in doublings."""
    plots.curves(range(len(sizes)), kept, ax, "k, words kept", "share of KL(p‖q)", title)
    ax.set_xticks(range(len(sizes)), [str(k) for k in sizes])
    ax.set_ylim(-0.03, 1.06)
    return ax


@dataclass(frozen=True)
class Cluster:
    """GPUs and what they give: by default four H100 SXM, dense bf16, by NVIDIA's data sheet.

    `used`: the share of the arithmetic that training reaches; `rows`: responses sampled at a time on one.
    """

    gpus: int = 4
    flops: float = 989e12
    bandwidth: float = 3.35e12
    used: float = 0.35
    rows: int = 64


def run_cost(
    teacher: float = 7e9, student: float = 1.5e9, prompts: int = 50_000, prompt_tokens: int = 200,
    response_tokens: int = 256, epochs: int = 3, on_policy: bool = True, on_disk: bool = False,
    cluster: Cluster = Cluster(),
) -> dict[str, float]:  # fmt: skip
    r"""(14.4) Hours of a run, part by part: sampling waits for memory, training for arithmetic.

    A sampled token reads all weights (2 N bytes in bf16) once for the whole batch of rows; a token that is
    read takes 2 N operations, one that is learnt from 6 N. The teacher writes once, and reads at every step,
    or once where what it says is kept `on_disk`; an on-policy student writes every epoch, and what it wrote
    is read by both and learnt from too.
    """
    if on_policy and on_disk:
        raise ValueError("a teacher on disk cannot read what an on-policy student writes")
    spoken = prompts * response_tokens
    read = prompts * (prompt_tokens + response_tokens)
    sides = 2 if on_policy else 1
    write = lambda n, times: times * spoken * 2 * n / cluster.bandwidth / cluster.rows  # noqa: E731
    work = lambda operations: operations / cluster.flops / cluster.used  # noqa: E731
    seconds = {
        "teacher writes": write(teacher, 1),
        "student writes": write(student, epochs if on_policy else 0),
        "teacher reads": work(2 * teacher * read * (1 if on_disk else epochs * sides)),
        "student learns": work(6 * student * read * epochs * sides),
    }
    return {name: value / cluster.gpus / 3600 for name, value in seconds.items()}


WAYS = {
    "KD": {"on_policy": False}, "KD, on disk": {"on_policy": False, "on_disk": True}, "DistiLLM-2": {},
}  # fmt: skip


def cost_explorer(teacher: float = 7.0, student: float = 1.5, tokens: int = 256, gpus: int = 4):
    """(14.4) for billions of weights, tokens of a response and a number of GPUs: three ways to train."""
    ax, totals = plots.axes(height=2.6, width=8.4, fast=True), {}
    for row, (way, how) in enumerate(WAYS.items()):
        shape = {"response_tokens": int(tokens), "cluster": Cluster(int(gpus))}
        hours, left = run_cost(1e9 * teacher, 1e9 * student, **shape, **how), 0.0
        for (name, value), color in zip(
            hours.items(), (GREY, BLUE, PAPER_GREY, GREEN), strict=True
        ):
            ax.barh(row, value, left=left, color=color, label=name)
            left += value
        ax.annotate(f" {left:.2f} h", (left, row), va="center")
        totals[way] = left
    ax.set_yticks(range(len(WAYS)), list(WAYS))
    ax.figure.subplots_adjust(left=0.12)
    ax.invert_yaxis()
    ax.margins(x=0.35)
    ax.grid(axis="y", visible=False)
    ax.legend(*_first(ax, 4), loc="upper right", fontsize=7)
    ax.set(xlabel="hours")
    times = totals["DistiLLM-2"] / totals["KD"]
    shape = f"{teacher:g} B → {student:g} B, {tokens} tokens a response, {gpus} GPUs"
    _title(ax, f"(14.4) DistiLLM-2 takes {times:.1f} times as long as KD: {shape}")
    return ax.figure


def _first(ax, count: int) -> tuple:
    handles, labels = ax.get_legend_handles_labels()
    return handles[:count], labels[:count]


def _title(ax, text: str) -> None:
    ax.set_title(text, loc="left", fontsize=9.5)


def hidden_gradient(hidden_p: Tensor, head_p: Tensor, hidden_q: Tensor, head_q: Tensor) -> Tensor:
    r"""(14.2) ∂KL(p‖q)/∂h_q = (q − p) W_q, for q = softmax(h_q W_qᵀ): (tokens, width of the student)."""
    return ((hidden_q @ head_q.T).softmax(-1) - (hidden_p @ head_p.T).softmax(-1)) @ head_q


def _states(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states and head of a teacher of width 3 and of a student of width 3, over 6 words."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((4, 3), (6, 3), (4, 3), (6, 3))
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


def _logits(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(2 * torch.randn(2, 3, 6, generator=generator))


def _table(seed: int, k: int) -> tuple[Tensor, Tensor]:
    """A student's table and the teacher's k likeliest words."""
    teacher, student = _logits(seed)
    return student.log_softmax(-1), teacher.topk(k).indices


_SURE = torch.tensor([[40.0, 0.0, 0.0, -1.0]]).log_softmax(-1)
EXERCISES = {
    "into_buckets": Exercise(
        answer=into_buckets,
        first_step="gather(-1, ids) are the words that are kept; one number more for all the others.",
        cases=(_table(1, 2), _table(2, 3)),
        mistakes={
            "these are the k likeliest of this table; `ids` are given, the teacher's, for both models": (
                lambda t, ids: into_buckets(t, t.topk(ids.shape[-1]).indices)
            ),
            "the tail is missing: what is kept does not sum to 1": lambda t, ids: t.gather(-1, ids),
            "the kept words are made to sum to 1: the student is then never asked about the others": (
                renormalised
            ),
            "the last bucket is the mean of the others' log-probabilities; their probabilities are added": (
                lambda t, ids: torch.cat([t.gather(-1, ids), _mean_of_others(t, ids)], -1)
            ),
            "the last bucket is a probability; its logarithm is wanted": lambda t, ids: torch.cat(
                [t.gather(-1, ids), into_buckets(t, ids)[..., -1:].exp()], -1
            ),
        },
        edges={
            "a teacher so sure that 1 − Σ rounds to 0 (add the others up instead)": (
                _SURE,
                torch.tensor([[0]]),
            ),
        },
        gradient=False,
    ),
    "hidden_gradient": Exercise(
        answer=hidden_gradient,
        first_step="∂KL/∂z is q − p (lesson 01), and z = h Wᵀ: the chain rule multiplies by W.",
        cases=(_states(3), _states(4)),
        mistakes={
            "the sign: this goes uphill": lambda *s: -hidden_gradient(*s),
            "the teacher's head is not the student's: its hidden states went through its own": (
                lambda hp, wp, hq, wq: ((hq @ wq.T).softmax(-1) - (hp @ wp.T).softmax(-1)) @ wp
            ),
            "both tables are made by the student's head; the teacher has one of its own": (
                lambda hp, wp, hq, wq: hidden_gradient(hp, wq, hq, wq)
            ),
            "−p is the gradient for log q; a logit moves all of q at once, through the softmax": (
                lambda hp, wp, hq, wq: -(hp @ wp.T).softmax(-1) @ wq
            ),
            "this is the gradient of the reverse KL(q‖p)": lambda hp, wp, hq, wq: (
                _reverse(hp @ wp.T, hq @ wq.T) @ wq
            ),
        },
        gradient=False,
    ),
    "step_memory": Exercise(
        answer=lambda *sizes: torch.tensor(sum(step_memory(*sizes).values())),
        first_step="four bytes a number: both models, gradients, AdamW's two moments, and the tables.",
        cases=((5e8, 1e8, 1024, 49_152, 8), (7e9, 1.5e9, 4096, 151_936, 6)),
        mistakes={
            "a number a weight is missing: gradients are one, AdamW keeps two": lambda *s: (
                torch.tensor(sum(step_memory(*s).values()) - FLOAT * s[1])
            ),
            "gradients and AdamW's two moments are missing: a weight that is trained costs 16 bytes": (
                lambda *s: torch.tensor(sum(step_memory(*s).values()) - 3 * FLOAT * s[1])
            ),
            "the tables are counted once; a loss holds several of them at its peak": (
                lambda t, s, tokens, vocab, copies: torch.tensor(
                    sum(step_memory(t, s, tokens, vocab, 1.0).values())
                )
            ),
            "numbers, not bytes: a float32 has four": lambda *s: torch.tensor(
                sum(step_memory(*s).values()) / FLOAT
            ),
            "the teacher learns nothing: it has no gradients and no moments": lambda *s: (
                torch.tensor(sum(step_memory(*s).values()) + 3 * FLOAT * s[0])
            ),
        },
        gradient=False,
    ),
}


def _mean_of_others(table: Tensor, ids: Tensor) -> Tensor:
    others = torch.ones_like(table, dtype=torch.bool).scatter(-1, ids, False)
    return torch.where(others, table, 0.0).sum(-1, keepdim=True) / others.sum(-1, keepdim=True)


def _reverse(logits_p: Tensor, logits_q: Tensor) -> Tensor:
    log_p, log_q = logits_p.log_softmax(-1), logits_q.log_softmax(-1)
    return log_q.exp() * (log_q - log_p - D.reverse_kl(log_p, log_q).unsqueeze(-1))


check = checker(EXERCISES)
