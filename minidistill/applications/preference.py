"""Preference optimisation: pairs from a judge, DPO, and what to watch while it runs.

A chosen and a rejected response to one prompt; the policy is trained to say the first more often than
its reference does, and the second less. The loss is `objectives.dpo`; the reference stands where a
teacher stands, so `distill(pair, task, "dpo")` is all there is of training. Source: arXiv 2305.18290.
"""

import copy
import json
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor

from minidistill import divergences as D
from minidistill.generation import decode, sample
from minidistill.judging import Judge, judge_pairs, win_rate
from minidistill.logprobs import ResponseLogProbs, collate, response_log_probs
from minidistill.models import Pair, eval_mode
from minidistill.models.pair import shared_tokens
from minidistill.runlog import atomic_write
from minidistill.tasks import Example, Preference, read_records
from minidistill.tokenization import encode_response, max_batch_size
from minidistill.utils import derive_seed

ROWS = 64  # responses scored at once


# --- pairs --------------------------------------------------------------------------------------------
def sample_pairs(
    pair: Pair, examples: Sequence[Example], judge: Judge, *, samples: int = 4, seed: int = 0, **how
) -> list[Preference]:
    """The best and the worst of `samples` responses of pair.student to each prompt, by the judge.

    Every response is compared with every other and gets the judge's points (1, ½, 0); of equals the
    first counts. A prompt whose responses all tie gives no pair and is left out. `how` goes to
    `generation.sample`. Pairs are kept as text, as preference data is: what was cut at the longest
    length is trained on as if it had ended there. ValueError for fewer than two samples, or if all tie.
    """
    check_samples(samples)
    asked = [e.prompt for e in examples]
    draws = [
        sample_texts(pair, examples, seed=derive_seed(seed, "pairs", i), **how)
        for i in range(samples)
    ]
    points = torch.zeros(samples, len(asked))
    for a, b in combinations(range(samples), 2):
        won = torch.tensor(judge_pairs(asked, draws[a], draws[b], judge))
        points[a] += won
        points[b] += 1 - won
    found = [
        Preference(
            asked[i], examples[i].references, chosen=draws[best][i], rejected=draws[worst][i]
        )
        for i, best, worst in best_and_worst(points.T).tolist()
    ]
    if not found:
        raise ValueError(
            f"no pairs: on each of {len(asked)} prompts all {samples} responses tie; more prompts, more "
            "samples or another judge may tell them apart"
        )
    return found


def best_and_worst(points: Tensor) -> Tensor:
    """(prompts, samples) → (pairs, 3): prompt, its best, its worst sample; the first of equals, no ties."""
    best, worst = points.argmax(-1), points.argmin(-1)
    rows = torch.arange(len(points))
    kept = points[rows, best] > points[rows, worst]
    return torch.stack([rows, best, worst], -1)[kept]


def check_samples(samples: int) -> None:
    """ValueError unless a best and a worst can differ: two samples or more."""
    if not (isinstance(samples, int) and samples >= 2):
        raise ValueError(f"samples must be a whole number from 2, but got {samples}")


def sample_texts(pair: Pair, prompts: Sequence[Example | str], **how) -> list[str]:
    """One response of pair.student to each prompt, as text."""
    ids = [pair.encode(prompt) for prompt in prompts]
    return decode(pair, sample(pair.student, ids, pair, **how))


def read_preferences(path: Path) -> list[Preference]:
    """Read the field's JSONL, `prompt`, `chosen`, `rejected` a line; ValueError names file, line, field."""
    found = []
    for where, record in read_records(Path(path)):
        if not isinstance(record, dict):
            raise ValueError(f"{where}: expected a JSON object, but got {type(record).__name__}")
        for field in ("prompt", "chosen", "rejected"):
            if not isinstance(record.get(field), str):
                raise ValueError(
                    f"{where}: field {field!r} must be a text, but is {record.get(field)!r:.80}"
                )
        if not record["prompt"].strip():
            raise ValueError(f"{where}: field 'prompt' must be a text that is not empty")
        if record["chosen"] == record["rejected"]:
            raise ValueError(f"{where}: fields 'chosen' and 'rejected' hold the same text")
        references = record.get("references", [])
        if not (isinstance(references, list) and all(isinstance(r, str) for r in references)):
            raise ValueError(
                f"{where}: field 'references' must be a list of texts, but is {references!r:.80}"
            )
        sides = {side: record[side] for side in ("chosen", "rejected")}
        found.append(Preference(record["prompt"], tuple(references), **sides))
    if not found:
        raise ValueError(f"{path}: no preferences in this file")
    return found


def write_preferences(path: Path, pairs: Sequence[Preference]) -> None:
    """One JSON object a line: what `read_preferences` reads."""
    lines = [json.dumps({k: v for k, v in vars(p).items() if v not in (None, ())}) for p in pairs]
    atomic_write(path, ("\n".join(lines) + "\n").encode())


def policy_and_reference(student, tokenizer) -> Pair:
    """The student as the policy, and a frozen copy of it as it is now in the teacher's place."""
    return Pair(copy.deepcopy(student), student, tokenizer, shared_tokens(tokenizer, student))


# --- what to watch ------------------------------------------------------------------------------------
def rewards(responses: ResponseLogProbs, beta: float) -> Tensor:
    """Each response's implicit reward β log[π(y)/π_ref(y)], a sum over its tokens: (batch,)."""
    return beta * responses.sum(responses.token_log_q - responses.token_log_p)


def reward_margin(
    chosen: ResponseLogProbs, rejected: ResponseLogProbs, beta: float = 0.1
) -> Tensor:
    r"""(10.2) m = β log[π(y_w)/π_ref(y_w)] − β log[π(y_l)/π_ref(y_l)]: (batch,); the loss is −log σ(m).

    A pair is ranked rightly where m > 0; the share of those is the implicit reward's accuracy.
    """
    return rewards(chosen, beta) - rewards(rejected, beta)


@torch.no_grad()
def preference_metrics(pair: Pair, pairs: Sequence[Preference], beta: float) -> dict[str, float]:
    """Means over pairs: margin (10.2), reward accuracy, log π of both sides (nats a response)."""
    found: dict[str, list[Tensor]] = {"margin": [], "chosen": [], "rejected": []}
    sides = [
        [encode_response(pair.tokenizer, getattr(p, side)) for p in pairs]
        for side in ("chosen", "rejected")
    ]
    longest = max(map(len, sides[0] + sides[1]), default=0)
    for better, worse in zip(*(_scored(pair, pairs, ys, longest) for ys in sides), strict=True):
        found["margin"].append(reward_margin(better, worse, beta))
        found["chosen"].append(better.sum(better.token_log_q))
        found["rejected"].append(worse.sum(worse.token_log_q))
    joined = {name: torch.cat(rows) for name, rows in found.items()}
    right = (joined["margin"] > 0).float().mean()
    return {name: float(v.mean()) for name, v in joined.items()} | {"accuracy": float(right)}


@torch.no_grad()
def kl_to_reference(
    pair: Pair, prompts: Sequence[Example | str], *, seed: int = 0, max_new_tokens: int = 48
) -> float:
    r"""(10.4) KL(π‖π_ref) = E_{y∼π} Σ_t KL(π(·|x, y_<t) ‖ π_ref(·|x, y_<t)), nats a response.

    One fresh sample of the policy a prompt (T = 1, else it is not π's), and at each of its tokens the
    exact KL over the vocabulary: the chain rule (3.10) with the policy as the writer.
    """
    ids = [pair.encode(prompt) for prompt in prompts]
    written = sample(pair.student, ids, pair, seed=seed, max_new_tokens=max_new_tokens)
    batches = _scored(pair, prompts, written, max(map(len, written), default=0))
    return mean(
        v for y in batches for v in y.sum(D.reverse_kl(y.log_p, y.log_q)).tolist()
    )  # reverse: the student first


def _scored(
    pair: Pair, prompts: Sequence[Example | str], responses: Sequence[list[int]], longest: int
) -> Iterator[ResponseLogProbs]:
    """Responses of up to `longest` tokens as policy and reference see them, at most ROWS at a time."""
    ids = [pair.encode(prompt) for prompt in prompts]
    size = max_batch_size(ids, ROWS, longest * pair.vocab_size)
    for start in range(0, len(ids), size):
        rows = slice(start, start + size)
        batch = collate(ids[rows], responses[rows], pair.pad_token_id, pair.device)
        with eval_mode(pair.student):
            log_p, log_q = (
                response_log_probs(m, batch, pair.vocab_size) for m in (pair.teacher, pair.student)
            )
        yield ResponseLogProbs(batch.labels, batch.mask, log_q, lambda log_p=log_p: log_p)


def optimal_policy(log_ref: Tensor, reward: Tensor, beta: float) -> Tensor:
    r"""(10.1) π*(y) = π_ref(y) exp(r(y)/β) / Z: the policy that maximises E_π[r] − β KL(π‖π_ref).

    log-probabilities and rewards over whole responses, (..., responses) → the same, log π*. Inverted,
    r(y) = β log[π*(y)/π_ref(y)] + β log Z: a reward is a policy, up to a constant. ValueError unless β > 0.
    """
    if not beta > 0:
        raise ValueError(f"beta must be positive, but got {beta}")
    return (log_ref + reward / beta).log_softmax(-1)


class PreferenceTracker:
    """`distill`'s callback: at each probe what DPO optimises, and what it is meant to improve.

    `pairs`: name → preferences, each measured as `measure` does. `asked`: held-out prompts, with the
    responses that the policy is compared with (`rivals`) by `judge`. A row is
    {step, pairs: {name: measures}, kl (10.4), win_rate, low, high}.
    """

    def __init__(
        self, pair: Pair, pairs: dict[str, Sequence[Preference]], asked: Sequence[str],
        rivals: Sequence[str], judge: Judge, beta: float, seed: int = 0, **how,
    ):  # fmt: skip
        self.pair, self.pairs, self.asked, self.rivals = pair, pairs, asked, rivals
        self.judge, self.beta = judge, beta
        self.how = {"temperature": 1.0, "seed": derive_seed(seed, "diary"), **how}
        self.rows: list[dict] = []

    def __call__(self, history) -> None:
        self.write(history.evals[-1]["step"])

    def write(self, step: int) -> None:
        """Measure now; a step that is there already is left alone."""
        if step in [row["step"] for row in self.rows]:
            return
        said = sample_texts(self.pair, self.asked, **self.how)
        won = win_rate(self.asked, said, self.rivals, self.judge)
        measured = {
            name: preference_metrics(self.pair, ps, self.beta) for name, ps in self.pairs.items()
        }
        kl = kl_to_reference(self.pair, self.asked, seed=self.how["seed"])
        row = {"step": step, "pairs": measured, "kl": kl}
        self.rows.append({**row, "win_rate": won.rate, "low": won.low, "high": won.high})
