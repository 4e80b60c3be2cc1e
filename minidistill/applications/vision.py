"""Distilling models that see: what a picture is to them, and whether they look. Lesson 11.

Nothing of the method changes: a picture is part of the prompt, so every divergence conditions on it.
What is new is what can be asked of a student: is it right because it looks?
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor

from minidistill import divergences as D
from minidistill.batching import encode_prompt, encode_response
from minidistill.experiments.logs import runs_by_seed
from minidistill.eyes import Prompt, at_once
from minidistill.generation import decode, sample
from minidistill.models import Pair
from minidistill.scoring import collate, masked_mean, response_log_probs
from minidistill.tasks import Example, Task, scenes
from minidistill.tasks.pictures import Seen
from minidistill.tasks.vision import NUMBERS, WORLD
from minidistill.utils import data_dir, unknown_name_message

ARMS = ("sft", "gkd", "distillm", "cald", "distillm2")
# Table 7 of the paper (arXiv 2503.07067): LLaVA-1.5-7B → TinyLLaVA-1.4B, OK-VQA and TextVQA, per cent.
PAPER = {
    "teacher": (54.70, 42.91), "sft": (36.87, 28.34), "gkd": (41.83, 33.84), "distillm": (39.38, 31.10),
    "distillm2": (44.72, 34.98),
}  # fmt: skip
BLINDS = ("grey", "shuffled")


def patches(pixels: Tensor, side: int) -> Tensor:
    r"""(11.1) Cut a picture into squares: v ∈ R^{C×H×W} → N = (H/P)(W/P) rows of C·P·P numbers.

    pixels (channels, height, width), `side` = P → (N, channels · P · P), row by row from the top left. A
    patch embedding is a matrix times these rows: what a vision tower calls a convolution of stride P.
    ValueError where the sides are no multiples of P. Source: ViT (arXiv 2010.11929).
    """
    channels, height, width = pixels.shape
    if height % side or width % side:
        raise ValueError(f"{height} × {width} pixels cannot be cut into squares of {side}")
    cut = pixels.reshape(channels, height // side, side, width // side, side)
    return cut.permute(1, 3, 0, 2, 4).reshape(-1, channels * side * side)


# --- blindness ----------------------------------------------------------------------------------------
def blinded(prompts: Sequence[Prompt], how: str, shift: int = 1) -> list[Prompt]:
    """The same questions about nothing ('grey': empty ground) or about another's picture ('shuffled').

    Shuffled pictures move on by `shift` places: each is a real one, only not the one that was asked about.
    """
    if how not in BLINDS:
        raise ValueError(unknown_name_message("kind of blindness", how, BLINDS))
    if how == "grey":
        return [x.showing(torch.zeros_like(x.pixels)) for x in prompts]
    shown = [x.pixels for x in prompts]
    others = shown[-shift % len(shown) :] + shown[: -shift % len(shown)] if shown else []
    return [x.showing(v) for x, v in zip(prompts, others, strict=True)]


@torch.no_grad()
def worth(model, pair: Pair, prompts: Sequence[Prompt], responses, how: str = "grey") -> Tensor:
    r"""(11.2) What the picture is worth: 1/|y| Σ_t [log π(y_t | v, x, y_<t) − log π(y_t | v°, x, y_<t)].

    v is the picture, v° what a blind model gets in its place (`blinded`), x the question, y a response as
    token ids → (prompts,) nats per token. About 0 for a model that does not look; below 0 where looking
    misleads it. Its mean over y ~ π is a mutual information of answer and picture only if v° leaves
    the model's average over pictures, which grey does not promise: compare models, not units.
    """
    rows = [_token_log_probs(model, pair, x, responses) for x in (prompts, blinded(prompts, how))]
    return rows[0] - rows[1]


def _token_log_probs(model, pair: Pair, prompts, responses) -> Tensor:
    """Mean log-probability of each response's tokens: (prompts,)."""
    found, rows = [], at_once(prompts, 128)
    for start in range(0, len(prompts), rows):
        part = slice(start, start + rows)
        batch = collate(prompts[part], responses[part], pair.pad_id, pair.device)
        log_probs = response_log_probs(model, batch, pair.vocab)
        chosen = log_probs.gather(-1, batch.labels.unsqueeze(-1)).squeeze(-1)
        found.append(masked_mean(chosen, batch.mask))
    return torch.cat(found) if found else torch.empty(0)


def best_blind(right: Mapping[str, Sequence], fresh: Mapping[str, Sequence] | None = None) -> float:
    r"""(11.3) The accuracy that no blind answer exceeds: Σ_x P(x) max_y P(y is right | x).

    `right`: question → for each picture it was asked about, all answers that are right there. A blind model
    says one thing to a question whatever the picture; the best choice is right most often. On a sample of n
    pictures a question the estimate is too high (each maximum is fitted to its sample), at n = 1 it is 1.
    With `fresh`, of the same form, the choice is made on `right` and counted there: then it is not.
    """
    hits = asked = 0
    for question, pictures in right.items():
        often = Counter(answer for answers in pictures for answer in set(answers))
        best = max(often, key=often.get, default=None)
        counted = pictures if fresh is None else fresh.get(question, [])
        hits += sum(best in answers for answers in counted)
        asked += len(counted)
    return hits / asked if asked else 0.0


def right_facts(prompt: Seen) -> tuple[str, list[str]]:
    """What a question of the vision world asks, whatever its wording, and every fact that answers it."""
    name, slots = WORLD.read_prompt(prompt)
    question = " ".join([name, *(slots[slot] for slot in sorted(slots.keys() - {"scene"}))])
    things = scenes.read(slots["scene"])
    asked = [t for t in things if all(getattr(t, s, w) == w for s, w in slots.items())]
    if name == "colour":
        return question, [t.colour for t in asked]
    if name == "where":
        return question, [" ".join(t.place) for t in asked]
    if name == "what":
        return question, [t.name for t in asked]
    if name == "name":
        names, number = sorted(t.name for t in things), NUMBERS.index(slots["n"])
        return question, [", ".join(some) for some in combinations(names, number)]
    facts = WORLD.families[name].answer(
        random.Random(0), slots
    )  # of a count there is one right fact
    return question, [" ".join(facts.values())]


def guesses(count: int = 40_000, seed: int = 0) -> dict[str, float]:
    """(11.3) kind by kind, and for 'all' (each kind is asked equally often).

    On three quarters of so many fresh pictures the best answer to each question is chosen, on the last
    quarter it is counted.
    """
    rng = random.Random(seed)
    sides = [{name: {} for name in WORLD.families} for _ in ("chosen on", "counted on")]
    for number in range(count):
        prompt = WORLD.write_prompt(rng)
        question, right = right_facts(prompt)
        sides[number % 4 == 3][family(prompt)].setdefault(question, []).append(right)
    found = {name: best_blind(sides[0][name], sides[1][name]) for name in WORLD.families}
    return {**found, "all": mean(found.values())}


# --- answers and scores -------------------------------------------------------------------------------
def asked(pair: Pair, examples: Sequence[Example], blind: str = "") -> list[Prompt]:
    """Held-out prompts as token ids, with their pictures or (`blind`) with what `blinded` puts there."""
    prompts = [encode_prompt(pair.reader, e.prompt) for e in examples]
    return blinded(prompts, blind) if blind else prompts


def answers(model, pair: Pair, examples: Sequence[Example], blind: str = "", **how) -> list[str]:
    """One response a prompt, greedy unless told otherwise."""
    return decode(
        pair, sample(model, asked(pair, examples, blind), pair, **{"temperature": 0.0, **how})
    )


def family(prompt: Seen) -> str:
    """Which family of questions a prompt of the vision world belongs to."""
    return WORLD.read_prompt(prompt)[0]


def by_family(prompts: Sequence[Seen], grades: Sequence[float]) -> dict[str, float]:
    """Family → share of full grades, and 'all' of them."""
    rows: dict[str, list[bool]] = {name: [] for name in WORLD.families}
    for prompt, grade in zip(prompts, grades, strict=True):
        rows[family(prompt)].append(grade >= 1)
    found = {name: mean(right) for name, right in rows.items() if right}
    return {**found, "all": mean(grade >= 1 for grade in grades)}


def graded(task: Task, responses: Sequence[str]) -> dict[str, float]:
    """`by_family` of one response to each held-out prompt."""
    grades = [task.grade(e.prompt, y) for e, y in zip(task.test, responses, strict=True)]
    return by_family([e.prompt for e in task.test], grades)


def logged(task: Task, folder: Path | None = None, arms: Sequence[str] = ARMS) -> dict:
    """Arm → one `by_family` a seed, from the runs' logs; what has no logs is left out."""
    prompts, found = [e.prompt for e in task.test], {}
    for arm in arms:
        logs = runs_by_seed(f"vision/{arm}", folder or data_dir() / "runs").values()
        rows = [[by_family(prompts, draw) for draw in log["grades"]] for log in logs]
        if rows:
            found[arm] = [
                {name: mean(d[name] for d in draws) for name in draws[0]} for draws in rows
            ]
    return found


# --- one picture, changed -----------------------------------------------------------------------------
def changed(scene: str, thing: int, **facts: str) -> str:
    """The scene with other facts about its `thing`-th thing: colour, shape, size, row, column.

    ValueError for a fact there is not, or a place that is taken.
    """
    things = list(scenes.read(scene))
    things[thing] = replace(things[thing], **facts)
    text = scenes.write(things, int(scene.partition(": ")[0].removeprefix("scene:")))
    scenes.read(text)
    return text


@torch.no_grad()
def next_word(pair: Pair, prompt: Seen, begun: str, alpha: float = 0.1) -> dict[str, Tensor]:
    """What each model would say next after `begun`: teacher, student and αp + (1−α)q, (vocab,) each."""
    start = encode_response(pair.tokenizer, begun)[:-1]
    batch = collate([encode_prompt(pair.reader, prompt)], [[*start, 0]], pair.pad_id, pair.device)
    models = (pair.teacher, pair.student)
    log_p, log_q = (response_log_probs(m, batch, pair.vocab)[0, -1] for m in models)
    mixture = D.log_mixture(log_p, log_q, alpha)
    return {"teacher": log_p.exp(), "student": log_q.exp(), "mixture": mixture.exp()}
