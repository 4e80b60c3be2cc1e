"""What a student is worth: likelihoods, overlap, the grader's word, and comparisons."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from minidistill.batching import encode_prompt, encode_references
from minidistill.errors import needs_extra
from minidistill.generation import decode, sample
from minidistill.models import Pair
from minidistill.scoring import collate, masked_mean, response_log_probs
from minidistill.tasks import Example, Task


@dataclass(frozen=True)
class Probe:
    """Held-out prompts with one response of the teacher and one of the student before training.

    Fixed for a run, so that its NLL curves compare like with like (as in Fig 1(b) of the paper).
    """

    prompts: list[list[int]]
    tgo: list[list[int]]
    sgo: list[list[int]]


@dataclass(frozen=True)
class Scores:
    """NLLs in nats per token; ROUGE-L and accuracy in [0, 1], None where a task cannot tell.

    `nll_teacher` is the student's NLL on the teacher's responses, `nll_student` on the responses
    that the student gave before training. `responses` are the graded ones, the first draw of each.
    """

    nll_teacher: float
    nll_student: float
    rouge_l: float | None
    accuracy: float | None
    responses: list[str] = field(repr=False, default_factory=list)


def make_probe(pair: Pair, task: Task, *, size: int = 256, seed: int = 0, **sampling) -> Probe:
    """Sample the teacher and the student as they are now on the first `size` held-out prompts.

    Without a teacher (when a teacher itself is being trained) the references take its place.
    """
    examples = task.test[:size]
    prompts = [encode_prompt(pair.tokenizer, e.prompt) for e in examples]
    sgo = sample(pair.student, prompts, pair, seed=seed, **sampling)
    if pair.teacher is None:
        return Probe(prompts, encode_references(pair.tokenizer, examples, 0), sgo)
    return Probe(prompts, sample(pair.teacher, prompts, pair, seed=seed, **sampling), sgo)


def evaluate(
    pair: Pair, task: Task, probe: Probe | None = None, *, draws: int = 1, seed: int = 0, **sampling
) -> Scores:
    """Score pair.student on the held-out prompts. Greedy unless `temperature` is given.

    With `probe=None` the student's own responses are sampled now; pass `history.probe` to measure
    a trained student against where it started. `draws` responses a prompt are averaged.
    """
    probe = probe or make_probe(pair, task, seed=seed)
    sampling = {"temperature": 0.0, **sampling}
    prompts = [encode_prompt(pair.tokenizer, e.prompt) for e in task.test]
    drawn = [
        decode(pair, sample(pair.student, prompts, pair, seed=seed + i, **sampling))
        for i in range(draws)
    ]
    overlap = [rouge_l(task.test, responses) for responses in drawn]
    graded = [accuracy(task, responses) for responses in drawn]
    return Scores(
        nll_teacher=nll(pair.student, pair, probe.prompts, probe.tgo),
        nll_student=nll(pair.student, pair, probe.prompts, probe.sgo),
        rouge_l=_mean(overlap),
        accuracy=_mean(graded),
        responses=drawn[0],
    )


@torch.no_grad()
def nll(model, pair: Pair, prompts: Sequence, responses: Sequence, rows: int = 64) -> float:
    """Mean over responses of −(1/|y|) Σ_t log π(y_t | x, y_<t): nats per token; empty ones left out."""
    kept = [i for i, response in enumerate(responses) if response]
    kept.sort(key=lambda i: len(prompts[i]) + len(responses[i]))
    total, was_training = 0.0, model.training
    model.eval()
    for start in range(0, len(kept), rows):
        part = kept[start : start + rows]
        batch = collate(
            [prompts[i] for i in part], [responses[i] for i in part], pair.pad_id, pair.device
        )
        log_probs = response_log_probs(model, batch, pair.vocab)
        chosen = log_probs.gather(-1, batch.labels.unsqueeze(-1)).squeeze(-1)
        total -= float(masked_mean(chosen, batch.mask).sum())
    model.train(was_training)
    return total / max(1, len(kept))


def rouge_l(examples: Sequence[Example], responses: Sequence[str]) -> float | None:
    """Mean over prompts of the best ROUGE-L F1 against any reference (rouge-score); None without any."""
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ModuleNotFoundError:
        raise ModuleNotFoundError(needs_extra("rouge-score", "course")) from None
    scorer = RougeScorer(["rougeL"])
    pairs = [(e.references, r) for e, r in zip(examples, responses, strict=True) if e.references]
    return _mean([scorer.score_multi(refs, r)["rougeL"].fmeasure for refs, r in pairs])


def accuracy(task: Task, responses: Sequence[str]) -> float | None:
    """Share of held-out prompts whose response gets the full grade; None without a grader."""
    if task.grade is None:
        return None
    pairs = zip(task.test, responses, strict=True)
    return _mean([float(task.grade(e.prompt, r) >= 1) for e, r in pairs])


def win_rate(task: Task, responses: Sequence[str], others: Sequence[str]) -> float:
    """Share of held-out prompts where `responses` are graded higher than `others`; ties count ½."""
    if task.grade is None:
        raise ValueError(
            f"task {task.name!r} has no grader, so nothing can say which response wins"
        )
    points = []
    for example, ours, theirs in zip(task.test, responses, others, strict=True):
        a, b = task.grade(example.prompt, ours), task.grade(example.prompt, theirs)
        points.append((a > b) + 0.5 * (a == b))
    return _mean(points)


def _mean(values: Sequence) -> float | None:
    values = [v for v in values if v is not None]
    return sum(values) / len(values) if values else None
