"""Which of two responses is better: a rule judge, a model as the judge, and what a win rate is worth.

Open instructions have no answer key, so the paper compares: a judge prefers one of two responses.
"""

import inspect
import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from minidistill.divergences import check_unit_interval
from minidistill.generation import decode, sample
from minidistill.models import single_model
from minidistill.replies import parse_reply
from minidistill.tasks import Task
from minidistill.tasks.grammar import zipf
from minidistill.tasks.instruct import WORLD
from minidistill.toy import interval

Judge = Callable[[str, str, str], float]  # (prompt, ours, theirs) → 1 ours is better, ½ tie, 0
OUTCOMES = {"wins": 1.0, "ties": 0.5, "losses": 0.0}


@dataclass(frozen=True)
class WinRate:
    """`rate` with its bootstrap 95 % interval over prompts; shares of wins, ties and losses; n prompts.

    Where all verdicts agree the interval has no width: too few prompts, not certainty.
    """

    rate: float
    low: float
    high: float
    wins: float
    ties: float
    losses: float
    n: int

    @classmethod
    def of(cls, points: Sequence[float], **more):
        """From the verdict on each prompt; `more` are the fields that a subclass adds."""
        values = torch.tensor(points, dtype=torch.float64)
        low, high = interval(values)
        shares = {k: float((values == v).double().mean()) for k, v in OUTCOMES.items()}
        return cls(float(values.mean()), low, high, n=len(points), **shares, **more)


@dataclass(frozen=True)
class JudgeReport(WinRate):
    """A win rate, and how far its judge is to be trusted.

    `disagreement`: of the pairs whose two replies could be read, the share judged differently when
    the responses changed places; None where there is no such pair. `unparsed`: share of all replies
    that could not be read.
    """

    disagreement: float | None
    unparsed: float


def win_rate(
    prompts: Sequence[str], ours: Sequence[str], theirs: Sequence[str], judge: Judge
) -> WinRate:
    """(9.2) W = (#wins + ½ #ties) / n: how often the judge prefers `ours`, ties counting ½.

    Swapping `ours` and `theirs` gives 1 − W. Raises TypeError for what is not a text, ValueError for
    unequal numbers, for no prompts, and for a verdict outside {0, ½, 1}. Sec 4 of arXiv 2503.07067.
    """
    return WinRate.of(verdicts(prompts, ours, theirs, judge))


def verdicts(
    prompts: Sequence[str], ours: Sequence[str], theirs: Sequence[str], judge: Judge
) -> list[float]:
    """The points of `ours` on each prompt; a judge that has `points` is asked for all at once."""
    rows = _rows(prompts, ours, theirs)
    many = getattr(judge, "points", None)
    points = many(prompts, ours, theirs) if many else [judge(*row) for row in rows]
    for number, value in enumerate(points, start=1):
        if value not in OUTCOMES.values():
            raise ValueError(
                f"the judge's verdict on prompt {number} must be 0, 0.5 or 1, but is {value!r}"
            )
    return points


def _rows(prompts, ours, theirs) -> list[tuple[str, str, str]]:
    """(prompt, ours, theirs) of each prompt."""
    columns = {"prompts": prompts, "ours": ours, "theirs": theirs}
    sizes = {name: len(texts) for name, texts in columns.items()}
    if len(set(sizes.values())) > 1 or not sizes["prompts"]:
        raise ValueError(f"a win rate needs one response of each a prompt, but got {sizes}")
    for name, texts in columns.items():
        for number, text in enumerate(texts, start=1):
            if not isinstance(text, str):
                raise TypeError(f"{name}, number {number}: must be a text, but is {text!r}")
    return list(zip(prompts, ours, theirs, strict=True))


# --- the rule judge ---------------------------------------------------------------------------------
class RuleJudge:
    """Prefers the response with the higher grade of the task's own grader; equal grades tie.

    `scoring_table()` shows what the instruct world's grader asks for.
    """

    def __init__(self, task: Task):
        if task.grade is None:
            raise ValueError(
                f"task {task.name!r} has no grader, so nothing can say which response wins"
            )
        self.grade = task.grade

    def __call__(self, prompt: str, ours: str, theirs: str) -> float:
        a, b = self.grade(prompt, ours), self.grade(prompt, theirs)
        return (a > b) + 0.5 * (a == b)


def scoring_table() -> str:
    """Markdown: what is correct and complete in each family of the instruct world, with an example.

    Each gives a third of the grade; the last third is form, a response that reads as one of the family's
    sentences. Both meanings come from the docstring beside the rule (ValueError if it has none), the
    example from the family itself (seed 0).
    """
    rows = [
        "| family | correct | complete | prompt | response of grade 1 |",
        "|---|---|---|---|---|",
    ]
    for name, family in WORLD.families.items():
        said = " ".join((inspect.getdoc(family.judge) or "").split())
        meaning = re.fullmatch(r"Correct: (.+)\. Complete: (.+)\.", said)
        if not meaning:
            raise ValueError(f"family {name!r}: its judge must say 'Correct: …. Complete: ….'")
        rng = random.Random(0)
        prompt = zipf(rng, family.prompts).format(**family.ask(rng))
        response = WORLD.write_reference(rng, prompt)
        rows.append("| " + " | ".join([name, *meaning.groups(), prompt, response]) + " |")
    return "\n".join(rows) + "\n"


# --- a model as the judge ---------------------------------------------------------------------------
QUESTION = """\
Two assistants were given the same request. Here are the request and their two responses.

Request:
{prompt}

Response A:
{a}

Response B:
{b}

Which response answers the request better: more correct, more complete, more helpful? Its length \
and its place do not matter. Reply "A" if response A is better, "B" if response B is better, "tie" \
if they are equally good. One word only."""


class LLMJudge:
    """A chat model asked which response is better, twice a pair with the responses' places swapped.

    A verdict counts if both orders give it; anything else is a tie, so a judge that likes one place
    moves no win rate. What a response says *to* the judge ("choose A") is not filtered: it can sway a
    judge, but only the judge's reply is parsed. After Zheng et al., arXiv 2306.05685.
    """

    def __init__(self, model, tokenizer, max_new_tokens: int = 24):
        self.pair = single_model(model, tokenizer)
        self.max_new_tokens = max_new_tokens
        self.name = f"{type(self).__name__} {model.name_or_path}"

    def __call__(self, prompt: str, ours: str, theirs: str) -> float:
        return _agreed(*self._both_orders([prompt], [ours], [theirs])[0])

    def points(self, prompts, ours, theirs) -> list[float]:
        """The verdict on each prompt, its questions in batches."""
        return [_agreed(*order) for order in self._both_orders(prompts, ours, theirs)]

    def report(self, prompts, ours, theirs) -> JudgeReport:
        """`win_rate` with this judge, its questions in batches, and how often it can be believed."""
        orders = self._both_orders(prompts, ours, theirs)
        readable = [order for order in orders if None not in order]
        return JudgeReport.of(
            [_agreed(*order) for order in orders],
            disagreement=sum(a != b for a, b in readable) / len(readable) if readable else None,
            unparsed=sum(order.count(None) for order in orders) / (2 * len(orders)),
        )

    def ask(self, questions: Sequence[str]) -> list[str]:
        """The model's greedy replies. A subclass may put the questions to anything else.

        Raises ValueError where question and reply are longer than what the model reads.
        """
        tokenizer = self.pair.tokenizer
        ids = [self.pair.encode(_defused(tokenizer, text)) for text in questions]
        limit = getattr(self.pair.student.config, "max_position_embeddings", None) or math.inf
        longest = max(map(len, ids))
        if longest + self.max_new_tokens > limit:
            raise ValueError(
                f"a question of {longest} tokens and a reply of {self.max_new_tokens} are more than "
                f"the judge reads ({limit}): shorten the responses"
            )
        how = {"temperature": 0.0, "max_new_tokens": self.max_new_tokens}
        return decode(self.pair, sample(self.pair.student, ids, self.pair, **how))

    def _both_orders(self, prompts, ours, theirs) -> list[tuple[float | None, float | None]]:
        """Points of `ours` as response A and as response B; None where the reply cannot be read."""
        rows = _rows(prompts, ours, theirs)
        questions = [QUESTION.format(prompt=x, a=us, b=them) for x, us, them in rows]
        questions += [QUESTION.format(prompt=x, a=them, b=us) for x, us, them in rows]
        said = [parse_reply(reply) for reply in self.ask(questions)]
        as_a, as_b = {"A": 1.0, "tie": 0.5, "B": 0.0}, {"A": 0.0, "tie": 0.5, "B": 1.0}
        return [
            (as_a.get(first), as_b.get(second))
            for first, second in zip(said[: len(rows)], said[len(rows) :], strict=True)
        ]


def _agreed(first: float | None, second: float | None) -> float:
    """The points that both orders give, else ½."""
    return first if first == second and first is not None else 0.5


def _defused(tokenizer, text: str) -> str:
    """Control tokens spelled out in a response ('<|im_end|>') must not end the user's turn."""
    for token in tokenizer.added_tokens_decoder.values():
        if token.special:
            text = text.replace(token.content, token.content[:1] + " " + token.content[1:])
    return text


# --- what a win rate is worth -----------------------------------------------------------------------
def blurred(rate: float | Tensor, error: float | Tensor) -> float | Tensor:
    """(9.3) W′ = (1 − e) W + e (1 − W): the win rate W as a judge measures it that errs with probability e.

    Every distance from ½ shrinks by 1 − 2e, so e = ½ says nothing about W. Raises ValueError for
    `rate` or `error` outside [0, 1].
    """
    check_unit_interval("rate", rate)
    check_unit_interval("error", error)
    return (1 - error) * rate + error * (1 - rate)


def prompts_needed(difference: float, error: float = 0.0) -> int:
    """Prompts until a win rate's 95 % interval is ± `difference` or narrower: ⌈(z / (2 (1 − 2e) d))²⌉.

    z = 1.96; a verdict's standard deviation is at most ½, at W = ½ without ties. By (9.3) a judge that
    errs shows (1 − 2e) d of a difference d. Raises ValueError unless 0 < d ≤ 1 and 0 ≤ e < ½.
    """
    if not 0 < difference <= 1:
        raise ValueError(f"difference must lie in (0, 1], but got {difference}")
    if not 0 <= error < 0.5:
        raise ValueError(f"error must lie in [0, 0.5), but got {error}")
    z = NormalDist().inv_cdf(0.975)
    return math.ceil((z / (2 * (1 - 2 * error) * difference)) ** 2)
