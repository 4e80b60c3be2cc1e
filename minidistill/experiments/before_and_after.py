"""One training with its evaluation before and after, as the commands make it: resumable, in a folder."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from minidistill import distill
from minidistill.checkpoint import check_same_run, fingerprint
from minidistill.config import DistillConfig
from minidistill.evaluation import HeldOutResponses, Scores, evaluate, make_probe
from minidistill.experiments.labels import MAIN_METRICS
from minidistill.generation import decode
from minidistill.models import Pair
from minidistill.models.checks import check_no_adapters
from minidistill.runlog import claim_folder, environment_info, read_log, write_log
from minidistill.tasks import Task

ANSWERS = 20  # held-out prompts whose answers before and after are kept to be read


def distill_and_evaluate(
    pair: Pair, task: Task, settings: DistillConfig, method_kwargs: dict, out: Path,
    save: Callable[[Pair, Path], None] = lambda pair, folder: pair.save_student(folder),
) -> dict:  # fmt: skip
    """Evaluate, train, evaluate; leave out/student and out/result.json, and resume.

    What was measured before training is kept with the responses it was measured on, so a run that
    was stopped at any moment ends with the comparison of an unbroken one. `save` writes the student.
    """
    if not any(weight.requires_grad for weight in pair.student.parameters()):
        check_no_adapters(pair.student)
        raise ValueError("the student has no weight to train: all of them are frozen")
    with claim_folder(out):
        return _distill_and_evaluate(pair, task, settings, method_kwargs, out, save)


def _distill_and_evaluate(pair, task, settings, method_kwargs, out, save) -> dict:
    ours = fingerprint(pair, task, settings, method_kwargs)
    about = {**asdict(settings), **method_kwargs}
    length = {"max_new_tokens": settings.max_new_tokens}
    start = read_log(out / "start.json")
    if start is None:
        probe = make_probe(pair, task, seed=settings.seed, **settings.sampling)
        scores = evaluate(pair, task, probe, **length)
        start = {
            "fingerprint": ours, "settings": about, "scores": score_numbers(scores),
            "answers": scores.responses[:ANSWERS], "probe": probe.to_dict(),
        }  # fmt: skip
        write_log(out / "start.json", start)
    check_same_run(out, start, ours)
    probe = HeldOutResponses.from_dict(start["probe"], pair, task)
    history = distill(pair, task, out=out, probe=probe, **asdict(settings), **method_kwargs)
    after = evaluate(pair, task, probe, **length)
    result = {"before": start["scores"], "after": score_numbers(after)}
    save(pair, out / "student")
    sizes = {"train_prompts": len(task.train), "test_prompts": len(task.test)}
    cost = {"seconds": round(history.seconds), **environment_info(), "probes": history.evals}
    answers = _answers(task, decode(pair, probe.tgo), start["answers"], after.responses)
    write_log(out / "result.json", {**result, **about, **sizes, **cost, "answers": answers})
    return result


def _answers(task: Task, teacher: list[str], before: list[str], after: list[str]) -> list[dict]:
    """What a reader compares: the teacher's sampled answer, the student's greedy ones before and after."""
    prompts = [example.prompt for example in task.test]
    columns = zip(prompts, teacher, before, after, strict=False)  # `before` is the shortest
    names = ("prompt", "teacher", "before", "after")
    return [dict(zip(names, row, strict=True)) for row in columns]


def score_numbers(scores: Scores) -> dict:
    """Keep of scores what is compared."""
    return {name: getattr(scores, name) for name in (*MAIN_METRICS, "no_answer")}
