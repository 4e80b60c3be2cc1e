"""What a log keeps of a run while it goes."""

import time
from collections.abc import Callable

from minidistill.batching import seeded
from minidistill.evaluation import rouge_l
from minidistill.generation import decode, sample
from minidistill.report import MAIN_METHODS
from minidistill.tasks import Task

WATCHED = 8  # held-out prompts whose greedy answers a log keeps
CURVE = 4  # every how many probes ROUGE-L is measured


class Watch:
    """What a log keeps of a run while it goes: `distill`'s callback. `job` is an `experiments.Job`.

    probes: the two NLLs and what the method logged (alpha, beta, phi); answers: greedy ones to the
    first held-out prompts; curve: ROUGE-L of one sampled response a held-out prompt, every few probes
    (for the arms whose speed is compared: instruct's with its own teacher).
    """

    def __init__(self, pair, task: Task, job, say: Callable[[dict], None]):
        self.pair, self.task, self.job, self.say = pair, task, job, say
        self.prompts = [pair.encode(example) for example in task.test]
        self.log = {"probes": [], "answers": [], "curve": []}
        self.seconds = 0.0
        self.curved = job.protocol.task == "instruct" and not (job.arm.start or job.arm.stage)

    def __call__(self, history) -> None:
        started = time.monotonic()
        logged = {k: v for k, v in history.steps[-1].items() if k not in ("step", "epoch", "lr")}
        history.probes[-1].update(logged)
        self.say(history.probes[-1])
        watched = self.prompts[:WATCHED]
        self.log["answers"].append(self._answers(watched, temperature=0))
        if self.curved and (len(history.probes) - 1) % CURVE == 0:
            seed = seeded(self.job.seed, "curve")
            answers = self._answers(
                self.prompts, temperature=self.job.protocol.temperature, seed=seed
            )
            overlap = rouge_l(self.task.test, answers)
            self.log["curve"].append({"step": history.probes[-1]["step"], "rouge_l": overlap})
        self.seconds += time.monotonic() - started

    def trained(self, history) -> None:
        """The probes, and the seconds of training without those of this watch."""
        self.log |= {
            "probes": history.probes,
            "train_seconds": round(history.seconds - self.seconds, 1),
        }
        if self.job.name not in MAIN_METHODS:  # nobody replays the others
            self.log["answers"] = self.log["answers"][-1:]

    def _answers(self, prompts, **how) -> list[str]:
        return decode(self.pair, sample(self.pair.student, prompts, self.pair, **how))
