"""Hooks of runs: what an application does to the models before training, and to the student after it.

An arm names its hook (`Arm.hook`) and hands it settings (`Arm.hook_kwargs`); responses, training and scores
are those of every run.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

from minidistill.applications import preference, speculative_metrics
from minidistill.applications.lora import lora_pair, quantized_pair
from minidistill.applications.preference_tuning import WinRateEvaluator
from minidistill.applications.speculative import speculate
from minidistill.evaluation import HeldOutResponses, accuracy, rouge_l
from minidistill.generation import sample
from minidistill.judging import RuleJudge
from minidistill.models import Pair
from minidistill.tasks import Example, Task
from minidistill.training import distill
from minidistill.utils import derive_seed, unknown_name_message

WIN_RATE_PROMPTS = 500  # held-out prompts of the win rates
WIN_RATE_DRAWS = 4  # responses to each
TRACKED = 128  # pairs and prompts that are measured while DPO trains
DRAFT_LENGTHS = (1, 2, 3, 4, 5, 6, 8, 10)  # drafted tokens at a time
DRAFT_LENGTH = 4  # where runs are compared


@dataclass(frozen=True)
class TrainedRun:
    """Hold a run whose distillation is over: what `after_training` works on.

    `sampling`: temperature and top-p of its responses. `load_start()`: the pair as it was before training.
    `write_prompts(count, seed)`: prompts that the student was not trained on, nor is it measured on them.
    """

    pair: Pair
    task: Task
    probe: HeldOutResponses
    seed: int
    sampling: dict[str, float]
    load_start: Callable[[], Pair]
    write_prompts: Callable[[int, int], list[Example]]


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
    trained: TrainedRun, *, beta: float = 1.0, lr: float = 1e-4, epochs: int = 2, prompts: int = 2000,
    samples: int = 4,
) -> dict:  # fmt: skip
    """Train the run's student by DPO on pairs from its own samples on fresh prompts, judged by the rules.

    The win rate, before and after, is over samples of the world's SFT student: one set a seed, the same
    for every run. Fresh prompts, as in the paper, whose preference data is not its distillation data.
    """
    seed, sampling = trained.seed, trained.sampling
    task = replace(trained.task, test=trained.task.test[:WIN_RATE_PROMPTS])
    asked, judge = [e.prompt for e in task.test], RuleJudge(task)
    rival = trained.load_start()
    contest = WinRateEvaluator.against(rival, asked, judge, seed, WIN_RATE_DRAWS, **sampling)
    pair = preference.policy_and_reference(trained.pair.student, trained.pair.tokenizer)
    fresh = trained.write_prompts(prompts, derive_seed(seed, "preference"))
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
    """Measure (13.3) and (13.6) on responses of the target at T = 1, and `sampled` of them by `speculate`.

    "acceptance" is the share of drafted tokens that stay when DRAFT_LENGTH are drafted.
    """
    pair, prompts, seed = trained.pair, trained.probe.prompts, trained.seed
    written = sample(pair.teacher, prompts, pair, seed=derive_seed(seed, "target"))
    seen = speculative_metrics.score_responses(pair, prompts, written)
    found = {length: seen.counts(length) for length in DRAFT_LENGTHS}
    rounds = [
        speculate(pair, prompt, seed=derive_seed(seed, "draft", i), draft_length=DRAFT_LENGTH)
        for i, prompt in enumerate(prompts[:sampled])
    ]
    return {
        "draft": {
            "overlap": seen.overlap,
            "by_length": {str(length): asdict(counts) for length, counts in found.items()},
            "sampled": asdict(speculative_metrics.count_rounds(rounds, DRAFT_LENGTH)),
        },
        "scores": {"acceptance": found[DRAFT_LENGTH].acceptance},
    }


HOOKS = {
    "dpo": Hook(after_training=train_dpo),
    "quantize": Hook(before_training=quantized_pair),
    "lora": Hook(before_training=lora_pair),
    "draft": Hook(after_training=measure_draft),
}
