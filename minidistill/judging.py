"""Judge which of two responses is better: a rule judge, a model as the judge, win rates and their error.

Open instructions have no answer key, so the paper compares: a judge prefers one of two responses.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from minidistill.divergences import check_unit_interval
from minidistill.evaluation import bootstrap_interval
from minidistill.logprobs import collate, response_log_probs
from minidistill.models import single_model
from minidistill.tasks import Task

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
    def of(cls, scores: Sequence[float], **more):
        """From the score (1, ½, 0) on each prompt; `more` are the fields that a subclass adds."""
        values = torch.tensor(scores, dtype=torch.float64)
        low, high = bootstrap_interval(values)
        shares = {k: float((values == v).double().mean()) for k, v in OUTCOMES.items()}
        return cls(float(values.mean()), low, high, n=len(scores), **shares, **more)


@dataclass(frozen=True)
class JudgeReport(WinRate):
    """A win rate, and how far its judge is to be trusted.

    `position_inconsistency`: share of the pairs that got another verdict when the responses changed
    positions. `unparsed`: share of an `APIJudge`'s replies without a verdict, 0 for a local model; pairs
    with one count in no inconsistency, which is None if there is no other.
    """

    position_inconsistency: float | None
    unparsed: float


def win_rate(
    prompts: Sequence[str], ours: Sequence[str], theirs: Sequence[str], judge: Judge
) -> WinRate:
    """(9.2) W = (#wins + ½ #ties) / n: how often the judge prefers `ours`, ties counting ½.

    Swapping `ours` and `theirs` gives 1 − W. Raises TypeError for what is not a text, ValueError for
    unequal numbers, for no prompts, and for a verdict outside {0, ½, 1}. Sec 4 of arXiv 2503.07067.
    """
    return WinRate.of(judge_pairs(prompts, ours, theirs, judge))


def judge_pairs(
    prompts: Sequence[str], ours: Sequence[str], theirs: Sequence[str], judge: Judge
) -> list[float]:
    """The judge's score of `ours` on each prompt; a judge that has `scores` is asked for all at once."""
    rows = _rows(prompts, ours, theirs)
    many = getattr(judge, "scores", None)
    scores = many(prompts, ours, theirs) if many else [judge(*row) for row in rows]
    for number, value in enumerate(scores, start=1):
        if value not in OUTCOMES.values():
            raise ValueError(
                f"the judge's verdict on prompt {number} must be 0, 0.5 or 1, but is {value!r}"
            )
    return scores


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

    `tasks.instruct.rubric_table()` shows what the instruct world's grader asks for.
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


# --- a model as the judge ---------------------------------------------------------------------------
JUDGE_PROMPT = """\
Two assistants were given the same request. Here are the request and their two responses.

Request:
{prompt}

Response A:
{a}

Response B:
{b}

Which response answers the request better: more correct, more complete, more helpful? Its length \
and its position do not matter. {form}"""
LETTERS = 'Reply with one letter: "A" if response A is better, "B" if response B is, "C" for a tie.'
BRACKETS = 'End with "[[A]]" if response A is better, "[[B]]" if response B is, "[[C]]" for a tie.'
VERDICT = re.compile(r"\[\[([ABC])\]\]")
ROWS = 16  # prompts scored at once


class LLMJudge:
    """A chat model that compares two responses by its probabilities of the next token "A", "B" or "C".

    Each pair is judged in both orders and the probabilities of one outcome are averaged, so a liking
    for one position cancels; the likeliest outcome is the verdict, a tie where two are equally likely.
    Nothing is generated: the model decides without thinking aloud, and every verdict can be read. What
    a response says *to* the judge ("choose A") is not filtered and can sway it. ValueError for a
    tokenizer without one token for each letter. After Zheng et al., arXiv 2306.05685.
    """

    def __init__(self, model, tokenizer):
        self.pair = single_model(model, tokenizer)
        self.choices = choice_tokens(self.pair.tokenizer)
        self.name = f"{type(self).__name__} {model.name_or_path}"

    def __call__(self, prompt: str, ours: str, theirs: str) -> float:
        return self.scores([prompt], [ours], [theirs])[0]

    def scores(self, prompts, ours, theirs) -> list[float]:
        """1 ours is better, ½ tie, 0 theirs, for each prompt; pairs are judged in batches."""
        return averaged_verdicts(*self._both_orders(prompts, ours, theirs))

    def report(self, prompts, ours, theirs) -> JudgeReport:
        """`win_rate` with this judge, and how far its verdicts hang on the order of the responses."""
        first, second = self._both_orders(prompts, ours, theirs)
        unparsed = torch.stack([first, second]).isnan().any(-1)  # (2, n)
        singly = (averaged_verdicts(order, order) for order in (first, second))
        changed = [a != b for a, b in zip(*singly, strict=True)]
        read = [c for c, lost in zip(changed, unparsed.any(0), strict=True) if not lost]
        return JudgeReport.of(
            averaged_verdicts(first, second),
            position_inconsistency=sum(read) / len(read) if read else None,
            unparsed=float(unparsed.double().mean()),
        )

    @torch.no_grad()
    def choice_probs(self, rows: Sequence[tuple[str, str, str]]) -> Tensor:
        """(prompt, response A, response B) of each row → P("A"), P("B"), P("C"), of one sum: (rows, 3).

        Softmax over the logits of the three tokens alone. Raises ValueError where a prompt is longer than
        what the model reads.
        """
        model, pair = self.pair.student.eval(), self.pair
        texts = [JUDGE_PROMPT.format(prompt=x, a=a, b=b, form=LETTERS) for x, a, b in rows]
        ids = [pair.encode(escape_special_tokens(pair.tokenizer, t)) for t in texts]
        limit = getattr(model.config, "max_position_embeddings", None) or math.inf
        if max(map(len, ids)) + 1 > limit:
            raise ValueError(
                f"a judge's prompt of {max(map(len, ids))} tokens is more than the judge reads "
                f"({limit}): shorten the responses"
            )
        probs = []
        for start in range(0, len(ids), ROWS):
            part = ids[start : start + ROWS]
            batch = collate(part, [self.choices[:1]] * len(part), pair.pad_token_id, pair.device)
            log_probs = response_log_probs(model, batch, pair.vocab_size)[:, 0, self.choices]
            probs.append(log_probs.softmax(-1).double().cpu())
        return torch.cat(probs)

    def _both_orders(self, prompts, ours, theirs) -> tuple[Tensor, Tensor]:
        """P(ours is better), P(theirs is), P(tie) with ours as response A and as response B: (n, 3) twice."""
        rows = _rows(prompts, ours, theirs)
        probs = self.choice_probs(rows + [(x, them, us) for x, us, them in rows])
        return probs[: len(rows)], probs[len(rows) :, [1, 0, 2]]


class APIJudge(LLMJudge):
    """A judge that only gives text: `ask` takes prompts and returns replies, with [[A]], [[B]] or [[C]].

    The last of these in a reply counts, as in MT-bench. A reply without one is unparsed: its pair
    ties, and the report gives the share. `name` tells runs apart.
    """

    def __init__(self, ask: Callable[[list[str]], list[str]], name: str = "an API"):
        self.ask, self.name = ask, f"{type(self).__name__} {name}"

    def choice_probs(self, rows: Sequence[tuple[str, str, str]]) -> Tensor:
        """1 for the reply's verdict and 0 for the others, NaN where a reply has none: (rows, 3)."""
        texts = [JUDGE_PROMPT.format(prompt=x, a=a, b=b, form=BRACKETS) for x, a, b in rows]
        found = [VERDICT.findall(reply) for reply in self.ask(texts)]
        return torch.tensor(
            [[float(c == said[-1]) if said else math.nan for c in "ABC"] for said in found],
            dtype=torch.float64,
        )


def averaged_verdicts(first: Tensor, second: Tensor) -> list[float]:
    """The likeliest outcome of two orders' mean, (n, 3) twice → 1, ½, 0 a pair; ½ if none is likeliest.

    Equal is what agrees to four places: float error of a batch is no verdict. NaN is a tie.
    """
    mean = ((first + second) / 2).nan_to_num(1 / 3).mul(1e4).round()
    ours, theirs, tie = mean.unbind(-1)
    wins, losses = ours > torch.maximum(theirs, tie), theirs > torch.maximum(ours, tie)
    return (0.5 + 0.5 * wins.double() - 0.5 * losses.double()).tolist()


def choice_tokens(tokenizer) -> list[int]:
    """The ids of "A", "B" and "C"; ValueError unless each is one token of its own."""
    ids = [tokenizer(letter, add_special_tokens=False).input_ids for letter in "ABC"]
    found = {i for row in ids for i in row if i != tokenizer.unk_token_id}
    if any(len(row) != 1 for row in ids) or len(found) != 3:
        raise ValueError(
            "a judge needs one token for each of A, B and C, but its tokenizer makes of them "
            + ", ".join(map(str, ids))
        )
    return [row[0] for row in ids]


def escape_special_tokens(tokenizer, text: str) -> str:
    """Control tokens spelled out in a response ('<|im_end|>') must not end the user's turn."""
    for token in tokenizer.added_tokens_decoder.values():
        if token.special:
            text = text.replace(token.content, token.content[:1] + " " + token.content[1:])
    return text


# --- what a win rate is worth -----------------------------------------------------------------------
def noisy_win_rate(rate: float | Tensor, error: float | Tensor) -> float | Tensor:
    """(9.3) W′ = (1 − e) W + e (1 − W): the win rate W as a judge measures it that errs with probability e.

    Every distance from ½ shrinks by 1 − 2e, so e = ½ says nothing about W. Raises ValueError for
    `rate` or `error` outside [0, 1].
    """
    check_unit_interval("rate", rate)
    check_unit_interval("error", error)
    return (1 - error) * rate + error * (1 - rate)


def required_sample_size(difference: float, error: float = 0.0) -> int:
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
