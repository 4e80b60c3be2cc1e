"""One training with its evaluation before and after, as the commands make it: resumable, in a folder."""

from dataclasses import asdict
from pathlib import Path

from minidistill.checkpoint import check_same_run, fingerprint
from minidistill.config import DistillConfig
from minidistill.evaluation import HeldOutResponses, Scores, evaluate, make_probe
from minidistill.experiments.labels import MAIN_METRICS
from minidistill.runlog import environment_info, read_log, write_log
from minidistill.tasks import Task
from minidistill.training import distill


def distill_and_evaluate(
    pair, task: Task, settings: DistillConfig, method_kwargs: dict, out: Path
) -> dict:
    """Evaluate, train, evaluate; leave out/student and out/result.json, and resume.

    What was measured before training is kept with the responses it was measured on, so a run that
    was stopped at any moment ends with the comparison of an unbroken one.
    """
    ours = fingerprint(pair, task, settings, method_kwargs)
    about = {**asdict(settings), **method_kwargs}
    length = {"max_new_tokens": settings.max_new_tokens}
    start = read_log(out / "start.json")
    if start is None:
        probe = make_probe(pair, task, seed=settings.seed, **settings.sampling)
        scores = score_numbers(evaluate(pair, task, probe, **length))
        start = {"fingerprint": ours, "settings": about, "scores": scores, "probe": probe.to_dict()}
        write_log(out / "start.json", start)
    check_same_run(out, start, ours)
    probe = HeldOutResponses.from_dict(start["probe"], pair, task)
    history = distill(pair, task, out=out, probe=probe, **asdict(settings), **method_kwargs)
    after = score_numbers(evaluate(pair, task, probe, **length))
    result = {"before": start["scores"], "after": after}
    pair.save_student(out / "student")
    sizes = {"train_prompts": len(task.train), "test_prompts": len(task.test)}
    cost = {"seconds": round(history.seconds), **environment_info(), "probes": history.evals}
    write_log(out / "result.json", {**result, **about, **sizes, **cost})
    return result


def score_numbers(scores: Scores) -> dict:
    """Keep of scores what is compared."""
    return {name: getattr(scores, name) for name in (*MAIN_METRICS, "no_answer")}
