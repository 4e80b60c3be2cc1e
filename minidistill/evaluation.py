"""Evaluate a student: NLL, ROUGE-L, accuracy, pass@k, and intervals of a mean."""

import math
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import Tensor

from minidistill.generation import decode, sample
from minidistill.logprobs import collate, masked_mean, response_log_probs
from minidistill.models import Pair, eval_mode
from minidistill.tasks import NO_ANSWER, Example, Grade, Task
from minidistill.tokenization import max_batch_size
from minidistill.utils import derive_seed


@dataclass(frozen=True)
class HeldOutResponses:
    """Held-out prompts with one response of the teacher and one of the student before training.

    Fixed for a run, so that its NLL curves compare like with like (as in Fig 1(b) of the paper).
    """

    prompts: list[list[int]]
    tgo: list[list[int]]
    sgo: list[list[int]]

    def to_dict(self) -> dict:
        """Return what a checkpoint or log keeps: ids alone; extra inputs are encoded again from the task."""
        return {name: [[*ids] for ids in rows] for name, rows in vars(self).items()}

    @classmethod
    def from_dict(cls, content: dict, pair: Pair, task: Task) -> "HeldOutResponses":
        """Restore what `to_dict` returned; its prompts get back their extra inputs from the task's."""
        again = [pair.encode(example) for example in task.test[: len(content["prompts"])]]
        if not any(x.extra_inputs for x in again):
            return cls(**content)
        if [[*x] for x in again] != content["prompts"]:
            raise ValueError("the held-out prompts are others than those that were measured before")
        return cls(**{**content, "prompts": again})


@dataclass(frozen=True)
class Scores:
    """NLLs in nats per token; ROUGE-L, accuracy, no_answer in [0, 1], None where a task cannot tell.

    `nll_teacher` is the student's NLL on the teacher's responses, `nll_student` on the responses
    that the student gave before training. `no_answer` is the share of responses without one.
    `responses` are the first draw, `grades` those of every draw, in the order of the prompts.
    """

    nll_teacher: float
    nll_student: float
    rouge_l: float | None
    accuracy: float | None
    no_answer: float | None = None
    responses: list[str] = field(repr=False, default_factory=list)
    grades: list[list[float]] = field(repr=False, default_factory=list)


def make_probe(
    pair: Pair, task: Task, *, size: int = 256, seed: int = 0, **sampling
) -> HeldOutResponses:
    """Sample the teacher and the student as they are now on the first `size` held-out prompts.

    Without a teacher (when a teacher itself is being trained) the pair says what takes its place.
    """
    examples = task.test[:size]
    prompts = [pair.encode(example) for example in examples]
    sgo = sample(pair.student, prompts, pair, seed=seed, **sampling)
    if pair.teacher is None:
        return HeldOutResponses(prompts, pair.held_out_responses(prompts, examples), sgo)
    tgo = sample(pair.teacher, prompts, pair, seed=seed, **sampling)
    return HeldOutResponses(prompts, tgo, sgo)


class NLLProbe:
    """Callback: the student's NLL on `HeldOutResponses` before training and after every `every` steps.

    {step, nll_teacher, nll_student} joins `history.evals`; then `callback(history)` may return True to
    stop the run. By default four times an epoch. The responses are sampled here unless given.
    """

    def __init__(self, every: int | None = None, callback: Callable | None = None):
        self.every, self.callback = every, callback

    def on_train_begin(self, trainer) -> None:
        self.every = self.every or max(1, trainer.batches_per_epoch // 4)
        if trainer.history.probe is None:
            seed = derive_seed(trainer.config.seed, "probe")
            sampling = {**trainer.config.sampling, "seed": seed}
            trainer.history.probe = make_probe(trainer.pair, trainer.task, **sampling)
        if not trainer.history.evals:
            self.measure(trainer)

    def on_step_end(self, trainer) -> None:
        if trainer.step % self.every and trainer.step != trainer.total_steps:
            return
        shown = {"loss": f"{trainer.history.steps[-1]['loss']:.3f}"}
        shown |= {name: f"{value:.2f}" for name, value in self.measure(trainer).items()}
        trainer.bar.set_postfix(shown)
        if self.callback is not None and self.callback(trainer.history):
            trainer.should_stop = True

    def measure(self, trainer) -> dict[str, float]:
        """Measure both NLLs now, in nats per token, and add them to the history."""
        pair, history = trainer.pair, trainer.history
        nlls = {
            "nll_teacher": nll(pair.student, pair, history.probe.prompts, history.probe.tgo),
            "nll_student": nll(pair.student, pair, history.probe.prompts, history.probe.sgo),
        }
        history.evals.append({"step": trainer.step, **nlls})
        history.seconds = time.monotonic() - trainer.started
        return nlls


def evaluate(
    pair: Pair,
    task: Task,
    probe: HeldOutResponses | None = None,
    *,
    draws: int = 1,
    seed: int = 0,
    **sampling,
) -> Scores:
    """Score pair.student on the held-out prompts. Greedy unless `temperature` is given.

    With `probe=None` the student's own responses are sampled now; pass `history.probe` to measure
    a trained student against where it started. `draws` responses a prompt are averaged.
    """
    length = {k: v for k, v in sampling.items() if k == "max_new_tokens"}
    probe = probe or make_probe(pair, task, seed=seed, **length)
    sampling = {"temperature": 0.0, **sampling}
    prompts = [pair.encode(example) for example in task.test]
    drawn = [
        decode(pair, sample(pair.student, prompts, pair, seed=seed + i, **sampling))
        for i in range(draws)
    ]
    overlap = [rouge_l(task.test, responses) for responses in drawn]
    found = [grade_responses(task, responses) for responses in drawn] if task.grade else []
    every = [verdict for row in found for verdict in row]
    return Scores(
        nll_teacher=nll(pair.student, pair, probe.prompts, probe.tgo),
        nll_student=nll(pair.student, pair, probe.prompts, probe.sgo),
        rouge_l=_mean(overlap),
        accuracy=_mean([verdict.grade >= 1 for verdict in every]),
        no_answer=_mean([verdict.reason == NO_ANSWER for verdict in every]),
        responses=drawn[0],
        grades=[[verdict.grade for verdict in row] for row in found],
    )


@torch.no_grad()
def nll(model, pair: Pair, prompts: Sequence, responses: Sequence, rows: int = 64) -> float:
    """Mean over responses of −(1/|y|) Σ_t log π(y_t | x, y_<t): nats per token; empty ones left out."""
    kept = [i for i, response in enumerate(responses) if response]
    kept.sort(key=lambda i: len(prompts[i]) + len(responses[i]))
    total, prompts = 0.0, pair.prompts_for(model, prompts)
    rows = max_batch_size(prompts, rows, max(map(len, responses), default=0) * pair.vocab_size)
    for start in range(0, len(kept), rows):
        part = kept[start : start + rows]
        batch = collate(
            [prompts[i] for i in part], [responses[i] for i in part], pair.pad_token_id, pair.device
        )
        with eval_mode(model):
            log_probs = response_log_probs(model, batch, pair.vocab_size)
        chosen = log_probs.gather(-1, batch.labels.unsqueeze(-1)).squeeze(-1)
        total -= float(masked_mean(chosen, batch.mask).sum())
    return total / max(1, len(kept))


def rouge_l(examples: Sequence[Example], responses: Sequence[str]) -> float | None:
    """Mean over prompts of the best ROUGE-L F1 against any reference (rouge-score); None without any."""
    from rouge_score.rouge_scorer import RougeScorer  # brings nltk: seconds that only scoring needs

    scorer = RougeScorer(["rougeL"])
    pairs = [(e.references, r) for e, r in zip(examples, responses, strict=True) if e.references]
    return _mean([scorer.score_multi(refs, r)["rougeL"].fmeasure for refs, r in pairs])


def grade_responses(task: Task, responses: Sequence[str]) -> list[Grade]:
    """Grade each held-out prompt's response by the task's grader; programs run on all cores."""
    if task.grade is None:
        raise ValueError(f"task {task.name!r} has no grader")
    if len(responses) != len(task.test):
        raise ValueError(f"{len(responses)} responses to {len(task.test)} prompts of {task.name!r}")
    explain = task.explain or (lambda example, response: Grade(task.grade(example, response), ""))
    pairs = list(zip(task.test, responses, strict=True))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda pair: explain(*pair), pairs))


def accuracy(task: Task, responses: Sequence[str]) -> float | None:
    """Share of held-out prompts whose response gets the full grade; None without a grader."""
    return (
        None
        if task.grade is None
        else _mean([v.grade >= 1 for v in grade_responses(task, responses)])
    )


def pass_at_k(samples: int, right: int, k: int) -> float:
    r"""(9.1) Chance that at least one of k samples is right, estimated from `samples` draws: unbiased.

    pass@k = 1 − C(n − c, k) / C(n, k), for n draws of which c are right: of all ways to choose k of
    them, the share that has a right one. The plug-in 1 − (1 − c/n)^k is biased down. ValueError for
    counts that cannot be. Source: Codex (arXiv 2107.03374).
    """
    if not (0 <= right <= samples and 1 <= k <= samples):
        raise ValueError(
            f"pass@k needs 0 <= right <= samples and 1 <= k <= samples, but got samples {samples}, "
            f"right {right}, k {k}"
        )
    return 1.0 - math.comb(samples - right, k) / math.comb(samples, k)


def _mean(values: Sequence) -> float | None:
    values = [v for v in values if v is not None]
    return sum(values) / len(values) if values else None


Z = 1.96  # half the width of a 95 % interval in standard errors


def bootstrap_interval(values: Tensor, draws: int = 4000) -> tuple[float, float]:
    """Return the bootstrap 95 % interval of the mean of `values` (n,), one a seed."""
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randint(len(values), (draws, len(values)), generator=generator)
    low, high = values[chosen].mean(1).quantile(values.new_tensor([0.025, 0.975])).tolist()
    return low, high


def normal_interval(scores: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean and the ends of its 95 % interval, mean ± 1.96 · s / √n (s with n − 1)."""
    values = torch.as_tensor(scores, dtype=torch.float64)
    half = Z * float(values.std()) / len(values) ** 0.5
    return float(values.mean()), float(values.mean()) - half, float(values.mean()) + half
