"""RunLogger: the callback that records metrics and sample generations while a run trains."""

import time
from collections.abc import Callable

from minidistill.evaluation import rouge_l
from minidistill.experiments.labels import MAIN_METHODS
from minidistill.experiments.run_configs import Run
from minidistill.generation import decode, sample
from minidistill.tasks import Task
from minidistill.utils import derive_seed

NUM_SAMPLES = 8  # held-out prompts whose greedy responses a log keeps
CURVE_EVERY = 4  # every how many evaluations ROUGE-L is measured


class RunLogger:
    """Record what a log keeps of a run while it trains: `distill`'s callback.

    evals: the two NLLs and what the method logged (alpha, beta, phi); samples: greedy responses to the
    first held-out prompts; curve: ROUGE-L of one sampled response a held-out prompt, every few evals
    (for the runs whose speed is compared: instruct's with its own models).
    """

    def __init__(self, pair, task: Task, run: Run, on_eval: Callable[[dict], None]):
        self.pair, self.task, self.run, self.on_eval = pair, task, run, on_eval
        self.prompts = [pair.encode(example) for example in task.test]
        self.log = {"evals": [], "samples": [], "curve": []}
        self.seconds = 0.0
        config = run.config
        ours = not (config.initial_state_key or config.hook)
        self.logs_curve = run.experiment.task == "instruct" and ours

    def __call__(self, history) -> None:
        started = time.monotonic()
        logged = {k: v for k, v in history.steps[-1].items() if k not in ("step", "epoch", "lr")}
        history.evals[-1].update(logged)
        self.on_eval(history.evals[-1])
        self.log["samples"].append(self._generate(self.prompts[:NUM_SAMPLES], temperature=0))
        if self.logs_curve and (len(history.evals) - 1) % CURVE_EVERY == 0:
            sampling = {
                "temperature": self.run.experiment.temperature,
                "seed": derive_seed(self.run.seed, "curve"),
            }
            overlap = rouge_l(self.task.test, self._generate(self.prompts, **sampling))
            self.log["curve"].append({"step": history.evals[-1]["step"], "rouge_l": overlap})
        self.seconds += time.monotonic() - started

    def finish(self, history) -> None:
        """Record the evals, and the seconds of training without those of this callback."""
        self.log["evals"] = history.evals
        self.log["train_seconds"] = round(history.seconds - self.seconds, 1)
        if self.run.name not in MAIN_METHODS:  # nobody replays the others
            self.log["samples"] = self.log["samples"][-1:]

    def _generate(self, prompts, **sampling) -> list[str]:
        return decode(self.pair, sample(self.pair.student, prompts, self.pair, **sampling))
