"""Hooks of runs: what an application does to the models before training, and to the student after it.

A run config names its hook (`RunConfig.hook`) and hands it settings (`RunConfig.hook_kwargs`); responses,
training and scores are those of every run.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

from minidistill import load_pair
from minidistill.applications import preference, speculative_metrics
from minidistill.applications.lora import quantized_pair
from minidistill.applications.preference_tuning import WinRateEvaluator
from minidistill.applications.speculative import speculate
from minidistill.evaluation import HeldOutResponses, accuracy, rouge_l
from minidistill.judging import RuleJudge
from minidistill.models import Pair
from minidistill.tasks import Task, write_examples
from minidistill.training import distill
from minidistill.utils import derive_seed, unknown_name_message

WIN_RATE_DRAWS = 4  # responses a held-out prompt in the win rates
TRACKED = 128  # pairs and prompts that are measured while DPO trains
DRAFT_LENGTHS = (1, 2, 3, 4, 5, 6, 8, 10)  # drafted tokens at a time
DRAFT_LENGTH = 4  # where runs are compared


@dataclass(frozen=True)
class TrainedRun:
    """Hold a run whose distillation is over: what `after_training` works on; `run` is a `run_configs.Run`."""

    pair: Pair
    task: Task
    probe: HeldOutResponses
    run: object


@dataclass(frozen=True)
class Hook:
    """Hold two functions, either may be missing.

    `before_training(pair, **hook_kwargs) -> Pair`: another student (or teacher) than the shipped one,
    before responses are sampled. `after_training(trained, **hook_kwargs) -> dict`: what the log shall hold
    besides; its "scores" join the run's. It may train `trained.pair.student` further: scores come after it.
    """

    before_training: Callable[..., Pair] | None = None
    after_training: Callable[..., dict] | None = None


def get_hook(name: str) -> Hook:
    """Return the hook of that name, '' being none; ValueError lists all of them and the nearest."""
    if name and name not in HOOKS:
        raise ValueError(unknown_name_message("hook", name, HOOKS))
    return HOOKS[name] if name else Hook()


def train_dpo(
    trained: TrainedRun, *, beta: float = 0.3, lr: float = 1e-4, epochs: int = 1, prompts: int = 2000,
    samples: int = 4,
) -> dict:  # fmt: skip
    """Train the run's student by DPO on pairs from its own samples on fresh prompts, judged by the rules.

    The win rate, before and after, is over samples of the world's SFT student: one set a seed, the same
    for every run. Fresh prompts, as in the paper, whose preference data is not its distillation data.
    """
    run, task = trained.run, trained.task
    seed, sampling = run.seed, {"temperature": run.experiment.temperature}
    asked, judge = [e.prompt for e in task.test], RuleJudge(task)
    start = load_pair(run.experiment.task)
    contest = WinRateEvaluator.against(start, asked, judge, seed, WIN_RATE_DRAWS, **sampling)
    pair = preference.policy_and_reference(trained.pair.student, trained.pair.tokenizer)
    fresh = write_examples(task.name, prompts, derive_seed(seed, "preference"), held_out=False)
    pairs, held_out = (
        preference.sample_pairs(pair, examples, judge, samples=samples, seed=seed, **sampling)
        for examples in (fresh, task.test)
    )
    before, said = contest.enter(pair, seed)
    quality = {"before": _quality(task, said)}
    tracked = {"trained": pairs[:TRACKED], "held_out": held_out[:TRACKED]}
    tracker = preference.PreferenceTracker(
        pair, tracked, asked[:TRACKED], contest.rivals[0][:TRACKED], judge, beta, **sampling
    )
    tracker.write(0)
    distill(
        pair, replace(task, train=pairs), "dpo", beta=beta, epochs=epochs, lr=lr, batch_size=16,
        seed=seed, callback=tracker, progress=False, **sampling,
    )  # fmt: skip
    after, said = contest.enter(pair, seed)
    quality["after"] = _quality(task, said)
    kl = preference.kl_to_reference(pair, asked, seed=derive_seed(seed, "kl"))
    scores = {"win_rate": after.rate, "win_rate_before": before.rate, "kl": kl}
    return {"scores": scores, "pairs": len(pairs), **quality, "preference_curve": tracker.rows}


def _quality(task: Task, said: Sequence[Sequence[str]]) -> dict:
    """Accuracy and ROUGE-L, means over draws."""
    found = {
        "accuracy": [accuracy(task, texts) for texts in said],
        "rouge_l": [rouge_l(task.test, texts) for texts in said],
    }
    return {name: sum(v) / len(v) for name, v in found.items() if None not in v}


def measure_draft(trained: TrainedRun, sampled: int = 32) -> dict:
    """Measure (13.3) and (13.7) on held-out responses of the target, and `sampled` of them by `speculate`.

    "acceptance" is the share of drafted tokens that stay when DRAFT_LENGTH are drafted.
    """
    pair, probe = trained.pair, trained.probe
    seen = speculative_metrics.score_responses(pair, probe.prompts, probe.tgo)
    found = {length: seen.counts(length) for length in DRAFT_LENGTHS}
    sampling = {"temperature": trained.run.experiment.temperature, "draft_length": DRAFT_LENGTH}
    written = [
        speculate(pair, prompt, seed=derive_seed(trained.run.seed, "draft", i), **sampling)
        for i, prompt in enumerate(probe.prompts[:sampled])
    ]
    return {
        "draft": {
            "overlap": seen.overlap,
            "by_length": {str(length): asdict(counts) for length, counts in found.items()},
            "sampled": asdict(speculative_metrics.count_rounds(written, DRAFT_LENGTH)),
        },
        "scores": {"acceptance": found[DRAFT_LENGTH].acceptance},
    }


HOOKS = {
    "dpo": Hook(after_training=train_dpo),
    "quantize": Hook(before_training=quantized_pair),
    "draft": Hook(after_training=measure_draft),
}
