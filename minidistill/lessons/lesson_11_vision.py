"""Lesson 11, vision: what a guess is right about, scores of the runs, drawings, exercises.

`applications.vision` has what is not of this lesson alone: prompts about images, and what images add.
"""

import random
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from statistics import mean

# First of all imports, because it says what to install where matplotlib is missing.
from minidistill.lessons import plots

# isort: split
import torch
from torch import Tensor

from minidistill import divergences as D
from minidistill.applications.vision.image_ablation import patches
from minidistill.experiments.logs import runs_by_seed
from minidistill.experiments.verdicts import GRADED
from minidistill.lessons.checks import Exercise, checker, length_mask
from minidistill.logprobs import collate, masked_mean, response_log_probs
from minidistill.models import Pair
from minidistill.tasks import Example, Task
from minidistill.tasks.vision import NUMBERS, WORLD, accuracy_by_family, family_of, scenes
from minidistill.tasks.vision.images import load_image
from minidistill.tasks.vision.scenes import SCENE
from minidistill.tokenization import encode_response

RUNS = ("start", "kd", "gkd", "distillm", "distillm2")
# Table 7 of the paper (arXiv 2503.07067): LLaVA-1.5-7B → TinyLLaVA-1.4B, OK-VQA and TextVQA, per cent.
TABLE_7 = {
    "teacher": (54.70, 42.91), "start": (36.87, 28.34), "gkd": (41.83, 33.84), "distillm": (39.38, 31.10),
    "distillm2": (44.72, 34.98),
}  # fmt: skip
LINE_WIDTH = 36  # characters of a line below an image


# --- what a guess is right about ----------------------------------------------------------------------
def text_only_upper_bound(
    right: Mapping[str, Sequence], fresh: Mapping[str, Sequence] | None = None
) -> float:
    r"""(11.2) Bound the accuracy of answers that see no image: Σ_x P(x) max_y P(y is right | x).

    `right`: question → for each image it was asked about, all answers that are right there. A model without
    the image says one thing to a question; the best choice is right most often. On a sample of n images a
    question the estimate is too high (each maximum is fitted to its sample), at n = 1 it is 1. With `fresh`,
    of the same form, the choice is made on `right` and counted there: then it is not.
    """
    hits = asked = 0
    for question, images in right.items():
        often = Counter(answer for answers in images for answer in set(answers))
        best = max(often, key=often.get, default=None)
        counted = images if fresh is None else fresh.get(question, [])
        hits += sum(best in answers for answers in counted)
        asked += len(counted)
    return hits / asked if asked else 0.0


def gold_answers(example: Example) -> tuple[str, list[str]]:
    """Find what a question asks, whatever its wording, and every fact that answers it."""
    name, slots = WORLD.read_prompt(example)
    question = " ".join([name, *(slots[slot] for slot in sorted(slots.keys() - {"scene"}))])
    shapes = scenes.parse_scene(slots["scene"])
    asked = [s for s in shapes if all(getattr(s, n, w) == w for n, w in slots.items())]
    if name == "colour":
        return question, [s.colour for s in asked]
    if name == "where":
        return question, [" ".join(s.place) for s in asked]
    if name == "what":
        return question, [s.name for s in asked]
    if name == "name":
        names, number = sorted(s.name for s in shapes), NUMBERS.index(slots["n"])
        return question, [", ".join(some) for some in combinations(names, number)]
    facts = WORLD.families[name].answer(random.Random(0), slots)  # a count has one right fact
    return question, [" ".join(facts.values())]


def language_prior_accuracy(count: int = 40_000, seed: int = 0) -> dict[str, float]:
    """Estimate (11.2) family by family, and for 'all' (each family is asked equally often).

    On three quarters of so many fresh images the best answer to each question is chosen, on the last
    quarter it is counted.
    """
    rng = random.Random(seed)
    sides = [{name: {} for name in WORLD.families} for _ in ("chosen on", "counted on")]
    for number in range(count):
        example = WORLD.write_prompt(rng)
        question, right = gold_answers(example)
        sides[number % 4 == 3][family_of(example)].setdefault(question, []).append(right)
    found = {name: text_only_upper_bound(sides[0][name], sides[1][name]) for name in WORLD.families}
    return {**found, "all": mean(found.values())}


# --- the runs of claim C13 ----------------------------------------------------------------------------
def logged_accuracy(
    task: Task,
    folder: Path | None = None,
    runs: Sequence[str] = RUNS,
    row: int = GRADED["accuracy"],
) -> dict[str, list[dict[str, float]]]:
    """Run → one `accuracy_by_family` a seed, from the runs' logs; what has no logs is left out.

    `row` of a log's grades: those of greedy responses, or those at T = 0.8.
    """
    logs = {run: runs_by_seed(f"vision/{run}", folder) for run in runs}
    return {
        run: [accuracy_by_family(task.test, found[seed]["grades"][row]) for seed in sorted(found)]
        for run, found in logs.items()
        if found
    }


# --- one image, edited --------------------------------------------------------------------------------
def edit_scene(scene: str, shape: int, **facts: str) -> str:
    """Write the scene with other facts about its `shape`-th shape: colour, shape, size, row, column.

    ValueError for a fact there is not, or a place that is taken.
    """
    shapes = list(scenes.parse_scene(scene))
    shapes[shape] = replace(shapes[shape], **facts)
    text = scenes.format_scene(shapes, int(scene.partition(": ")[0].removeprefix("scene:")))
    scenes.parse_scene(text)
    return text


@torch.no_grad()
def next_token_distributions(
    pair: Pair, example: Example, begun: str, alpha: float = 0.1
) -> dict[str, Tensor]:
    """Give what comes after `begun`: by teacher, by student and by αp + (1−α)q, (vocab,) each."""
    start = encode_response(pair.tokenizer, begun)[:-1]
    batch = collate([pair.encode(example)], [[*start, 0]], pair.pad_token_id, pair.device)
    models = (pair.teacher, pair.student)
    log_p, log_q = (response_log_probs(m, batch, pair.vocab_size)[0, -1] for m in models)
    mixture = D.log_mixture(log_p, log_q, alpha)
    return {"teacher": log_p.exp(), "student": log_q.exp(), "mixture": mixture.exp()}


# --- drawings -----------------------------------------------------------------------------------------
def gallery(
    examples: Sequence[Example],
    said: Mapping[str, Sequence[str]],
    grade: Callable | None = None,
    columns: int = 4,
):
    """Show each image with its question and the answers below; with a grader, + right and – wrong."""
    rows = -(-len(examples) // columns)
    lines = 2 + 2 * len(said)
    axes = plots.axes(
        columns, 1.9 * rows + 0.17 * lines * rows, 2.45 * columns, rows, squeeze=False
    )
    for number, ax in enumerate(axes.flat):
        ax.set_axis_off()
        if number >= len(examples):
            continue
        example = examples[number]
        show_image(ax, example.image)
        text = _wrapped(f"asked: {example.prompt}")
        for who, answers in said.items():
            mark = ("+ " if grade(example, answers[number]) >= 1 else "– ") if grade else ""
            text += _wrapped(f"{mark}{who}: {answers[number]}")
        ax.text(0, -0.05, "\n".join(text), va="top", fontsize=7.5, transform=ax.transAxes)
        ax.text(0, -0.05, "\n" * lines, va="top", fontsize=7.5, transform=ax.transAxes)  # room
    return axes.flat[0].figure


def _wrapped(text: str) -> list[str]:
    """Two lines at most; a stop or a comma stays beside its word."""
    for sign in ".,?":
        text = text.replace(f" {sign}", f"\N{NO-BREAK SPACE}{sign}")
    return textwrap.wrap(text, LINE_WIDTH)[:2]


def show_image(ax, image: str) -> None:
    """Show the image as the model gets it: a scene in its few pixels, with no smoothing."""
    ax.imshow(load_image(image), interpolation="nearest" if image.startswith(SCENE) else "auto")
    ax.set(xticks=[], yticks=[])
    ax.grid(visible=False)


def draw_patches(axes, image: str, side: int, title: str = "") -> None:
    """Draw left the image with the cuts, right the patches in the order in which a model reads them."""
    left, right = axes
    show_image(left, image)
    drawn = load_image(image)
    for cut in range(0, drawn.width + 1, side):
        left.axvline(cut - 0.5, color=plots.BLACK, linewidth=0.8)
        left.axhline(cut - 0.5, color=plots.BLACK, linewidth=0.8)
    left.set_title(title, loc="left", fontsize=10.5)
    across = drawn.width // side
    for n in range(across * (drawn.height // side)):
        x, y = n % across * side, n // across * side
        spot = (n, n + 0.92, 0.0, 0.92)
        right.imshow(drawn.crop((x, y, x + side, y + side)), extent=spot, interpolation="nearest")
        right.text(n + 0.46, -0.12, str(n + 1), ha="center", va="top", fontsize=8)
    right.set(xlim=(-0.1, n + 1.1), ylim=(-0.5, 1.1))
    right.set_axis_off()


def draw_families(
    ax,
    rows: Mapping[str, Sequence[Mapping[str, float]]],
    ylabel: str,
    title: str = "",
    guess: Mapping[str, float] | None = None,
):
    """Draw bars by family, a bar a name: the mean over seeds, with a whisker from lowest to highest.

    `guess`: (11.2) of each family, a line across its bars.
    """
    names = list(next(iter(rows.values()))[0])
    bars = {who: [mean(seed[n] for seed in seeds) for n in names] for who, seeds in rows.items()}
    plots.token_bars(bars, names, ax, title=title)
    width = 0.8 / len(rows)
    for i, seeds in enumerate(rows.values()):
        for place, name in enumerate(names):
            x = place + (i - (len(rows) - 1) / 2) * width
            values = [seed[name] for seed in seeds]
            if len(values) > 1:
                ax.vlines(x, min(values), max(values), color=plots.BLACK, linewidth=1)
    if guess:
        places, heights = range(len(names)), [guess[name] for name in names]
        ends = [[place + side for place in places] for side in (-0.46, 0.46)]
        ax.hlines(heights, *ends, color=plots.BLACK, linestyle=":", label="best guess")
        ax.legend()
    ax.set(xlabel="kind of question", ylabel=ylabel)
    return ax


def draw_log_prob_gains(ax, gains: Mapping[str, Tensor], title: str = ""):
    """Draw (11.3) of every response, smallest first, one line a model."""
    for name, style in plots.styles(list(gains)).items():
        values = gains[name].cpu().sort().values
        share = [(i + 0.5) / len(values) for i in range(len(values))]
        ax.plot(values, share, label=name, **style.line)
    ax.axvline(0, color=plots.BLACK, linewidth=0.8)
    ax.set(
        xlabel="nats a token that the picture is worth", ylabel="share of responses", ylim=(0, 1)
    )
    ax.set_title(title, loc="left", fontsize=10.5)
    ax.legend()
    return ax


QUESTION, BEGUN = "what colour is the circle ?", "it is"
TWO = "scene:7: large red circle top left; small blue square middle right; large green circle bottom left"
PLACES = [(row, column) for row in scenes.ROWS for column in scenes.COLUMNS]


def colour_explorer(pair: Pair) -> Callable:
    """Make a callback `(colour, place, alpha) → Figure`: two circles, the second recoloured and moved.

    Left the image, right what teacher, student and their mixture would call the circle's colour.
    """
    colours = list(scenes.COLOURS)
    ids = pair.tokenizer.convert_tokens_to_ids(colours)
    free = [p for p in PLACES if p not in (("top", "left"), ("middle", "right"))]

    def draw(colour: int = 2, place: int = 4, alpha: float = 0.1):
        row, column = free[place]
        scene = edit_scene(TWO, 2, colour=colours[colour], row=row, column=column)
        example = Example(QUESTION, image=scene)
        found = next_token_distributions(pair, example, BEGUN, alpha)
        left, right = plots.axes(2, height=2.7, width=8.2, fast=True, width_ratios=(1, 2.6))
        show_image(left, scene)
        left.set_title(f"a {colours[colour]} circle, {row} {column}", loc="left", fontsize=9.5)
        words = {who: p[ids] for who, p in found.items()}
        plots.token_bars(words, colours, right, title=f"{QUESTION} {BEGUN} …   alpha = {alpha:.2f}")
        right.set(ylim=(0, 1), xlabel="")
        return left.figure

    return draw


# --- exercises ----------------------------------------------------------------------------------------
def _chosen(log_probs: Tensor, labels: Tensor) -> Tensor:
    return log_probs.gather(-1, labels.unsqueeze(-1)).squeeze(-1)


def _gain(seen: Tensor, blind: Tensor, labels: Tensor, shown: Tensor) -> Tensor:
    return masked_mean(_chosen(seen, labels) - _chosen(blind, labels), shown)


def _logs(seed: int) -> Tensor:
    draw = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(seed))
    return draw.log_softmax(-1)


def _weighed(seed: int, *lengths: int) -> tuple:
    labels = torch.randint(5, (2, 4), generator=torch.Generator().manual_seed(seed))
    return _logs(seed), _logs(seed + 1), labels, length_mask(*lengths)


def _table(right: Tensor) -> Tensor:
    """Apply `text_only_upper_bound` to a table (questions, images, answers): 1 where an answer is right."""
    rows = {
        str(x): [[str(y) for y in range(len(answers)) if answers[y]] for answers in images]
        for x, images in enumerate(right.tolist())
    }
    return torch.tensor(text_only_upper_bound(rows))


def _sized(how: Callable[[Tensor, int], Tensor]) -> Callable:
    """Cut by `how`; the rows' shape is made right, so that the order of the numbers is what is judged."""
    return lambda pixels, side: how(pixels, side).reshape(-1, pixels.shape[0] * side * side)


def _cut(pixels: Tensor, side: int) -> Tensor:
    c, h, w = pixels.shape
    return pixels.reshape(c, h // side, side, w // side, side)


_PIXELS = torch.arange(72.0).reshape(2, 6, 6).sin()
_RIGHT = torch.tensor(
    [
        [[1, 0, 0], [1, 1, 0], [0, 1, 0], [1, 0, 0]],
        [[0, 0, 1], [0, 1, 0], [0, 0, 1], [1, 0, 0]],
    ]
)

EXERCISES = {
    "patches": Exercise(
        answer=patches,
        first_step="pixels.reshape(C, H // P, P, W // P, P) names the axes: which two say *which* patch?",
        cases=((_PIXELS, 2), (_PIXELS[:, :, :3], 3)),
        mistakes={
            "the numbers were never moved: a row of the picture is not a row of patches": (
                _sized(lambda v, p: v)
            ),
            "the patches run down the columns: the second comes from below the first, not from its right": (
                _sized(lambda v, p: _cut(v, p).permute(3, 1, 0, 2, 4))
            ),
            "within a patch the channels come last: C is the first axis of a patch": (
                _sized(lambda v, p: _cut(v, p).permute(1, 3, 2, 4, 0))
            ),
            "every patch is transposed: its rows stand where its columns belong": (
                _sized(lambda v, p: _cut(v, p).permute(1, 3, 0, 4, 2))
            ),
            "rows and channels have changed places within a patch: the channels come first": (
                _sized(lambda v, p: _cut(v, p).permute(1, 3, 2, 0, 4))
            ),
            "H / P and P have changed places: a patch is made of neighbours": (
                _sized(lambda v, p: _cut(v, p).permute(2, 4, 0, 1, 3))
            ),
        },
        edges={"a picture that is not square": (_PIXELS[:, :4, :], 2)},
        gradient=False,
    ),
    "picture_worth": Exercise(
        answer=_gain,
        first_step="gather what each table gives to the labels; subtract; then a mean over the mask alone.",
        cases=(_weighed(1, 4, 2), _weighed(5, 3, 1)),
        mistakes={
            "the sign is turned: what the picture *adds* is seen minus blind": (
                lambda seen, blind, y, m: -_gain(seen, blind, y, m)
            ),
            "padding is averaged too: sum over the mask and divide by its sum": (
                lambda seen, blind, y, m: (_chosen(seen, y) - _chosen(blind, y)).mean(-1)
            ),
            "the sum over tokens is not divided by their number": (
                lambda seen, blind, y, m: (
                    masked_mean(_chosen(seen, y) - _chosen(blind, y), m) * m.sum(-1)
                )
            ),
            "this compares the likeliest tokens; the response's own are the labels": (
                lambda seen, blind, y, m: masked_mean(seen.amax(-1) - blind.amax(-1), m)
            ),
            "this is a KL of whole distributions: (11.3) looks at what was said, which `labels` holds": (
                lambda seen, blind, y, m: masked_mean((seen.exp() * (seen - blind)).sum(-1), m)
            ),
            "these are differences of probabilities: nats are differences of their logarithms": (
                lambda seen, blind, y, m: masked_mean(
                    _chosen(seen, y).exp() - _chosen(blind, y).exp(), m
                )
            ),
        },
        edges={"an empty response": _weighed(9, 0, 3)},
        gradient=False,
    ),
    "best_blind": Exercise(
        answer=_table,
        first_step="for each question: which answer is right on most pictures? Then a mean over questions.",
        cases=((_RIGHT,), (_RIGHT[[0, 1, 0]][:, [0, 2, 3, 3, 1]],)),
        mistakes={
            "this is 1 wherever some answer is right: it chooses after looking at the picture": (
                lambda right: right.amax(-1).float().mean()
            ),
            "one answer serves all questions here: a blind model still reads the question": (
                lambda right: right.float().mean((0, 1)).amax()
            ),
            "the mean is over the questions: a blind model knows the question, not the picture": (
                lambda right: right.float().mean(0).amax(-1).mean()
            ),
            "the right answers are summed over the pictures: divide by their number": (
                lambda right: right.float().sum(1).amax(-1).mean()
            ),
            "this is the worst choice, not the best": (
                lambda right: right.float().mean(1).amin(-1).mean()
            ),
            "the mean over answers is what a model gets that guesses at random": (
                lambda right: right.float().mean()
            ),
        },
        edges={"questions of one picture each (then nothing needs to be seen)": (_RIGHT[:, :1],)},
        gradient=False,
    ),
}

check = checker(EXERCISES)
