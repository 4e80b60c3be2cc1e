"""`python -m minidistill apply preference`: DPO of a student, tiny or real."""

from pathlib import Path
from typing import Annotated

import typer

from minidistill.applications.preference_config import PreferenceConfig
from minidistill.cli.options import Prompts, Tokens


def preference(
    task: Annotated[
        str | None, typer.Option(help="A tiny world: instruct, arithmetic or program.")
    ] = None,
    prompts: Prompts = None,
    preferences: Annotated[
        Path | None,
        typer.Option(
            help="A JSONL file with prompt, chosen, rejected a line; without it pairs are sampled from "
            "the student and judged."
        ),
    ] = None,
    student: Annotated[
        str | None,
        typer.Option(
            help="Where DPO starts, and its reference: a folder, a hub name or a .gguf file."
        ),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            help="A chat model that says which response is better; a tiny world has its own rules."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder to write to.")] = Path("out/preference"),
    beta: Annotated[
        float, typer.Option(help="How dear it is to leave the reference: small goes far.")
    ] = PreferenceConfig.beta,
    samples: Annotated[
        int, typer.Option(help="Responses a prompt; the best and the worst are a pair.")
    ] = PreferenceConfig.samples,
    epochs: int = PreferenceConfig.epochs,
    lr: float = PreferenceConfig.lr,
    batch_size: int = PreferenceConfig.batch_size,
    seed: int = PreferenceConfig.seed,
    temperature: Annotated[
        float, typer.Option(help="Of all sampling.")
    ] = PreferenceConfig.temperature,
    top_p: float = PreferenceConfig.top_p,
    max_new_tokens: Tokens = PreferenceConfig.max_new_tokens,
    limit: Annotated[
        int | None, typer.Option(help="Only the first so many prompts on each side.", min=2)
    ] = None,
) -> None:
    """Train a student by DPO on preference pairs, and say what that did to it on held-out prompts.

    Prints win rate over the student as it was, reward margin (10.2), log-probs of both sides of
    held-out pairs, and KL to the start (10.4), before and after. The same command resumes.
    """
    sampling = {"temperature": temperature, "top_p": top_p, "max_new_tokens": max_new_tokens}
    recipe = PreferenceConfig(beta, samples, epochs, lr, batch_size, seed, **sampling)
    recipe.check()  # whatever is wrong, say so before loading anything
    work, pairs = _work(task, prompts, preferences, limit)
    who = _judge(work, judge, pairs)
    model, tokenizer = _start(task, student)
    from minidistill.applications.preference_tuning import run_dpo
    from minidistill.runlog import claim_folder

    with claim_folder(out, student, judge, preferences):
        result = run_dpo(model, tokenizer, work, who, recipe, out, pairs)
    _print(result)
    typer.echo(f"{result['pairs']} pairs trained on; student: {out / 'student'}")


def _work(task, prompts, preferences, limit):
    """The task with what is held out, and the pairs if they are given."""
    from dataclasses import replace

    from minidistill import load_task
    from minidistill.applications.preference import read_preferences
    from minidistill.tasks import Task

    if task and prompts:
        raise ValueError("give either --task NAME or --prompts FILE.jsonl")
    if not (task or prompts or preferences):
        raise ValueError("give --task NAME, --prompts FILE.jsonl or --preferences FILE.jsonl")
    pairs = read_preferences(preferences) if preferences else None
    if task or prompts:
        work = load_task(task or prompts)
    else:  # the last fifth of the pairs' prompts is held out
        unique = list({p.prompt: p for p in pairs}.values())
        cut = len(unique) - max(1, len(unique) // 5)
        if cut < 1:
            raise ValueError(f"{preferences}: too few prompts to train on and hold some out")
        work = Task(preferences.stem, unique[:cut], unique[cut:])
    if pairs and limit:
        pairs = _first(pairs, work, limit)
    return replace(work, train=work.train[:limit], test=work.test[:limit]), pairs


def _first(pairs, work, limit: int):
    """The first `limit` pairs to train on, and those of the held-out prompts that are left."""
    held_out, asked = ({e.prompt for e in examples} for examples in (work.test, work.test[:limit]))
    trained = [p for p in pairs if p.prompt not in held_out][:limit]
    return trained + [p for p in pairs if p.prompt in asked]


def _judge(work, model, pairs):
    """A named model; else the world's rules; else nobody, if the pairs are there already."""
    from minidistill import load_model
    from minidistill.applications.vision.inputs import require_text_model
    from minidistill.judging import LLMJudge, RuleJudge

    if model:
        judge = LLMJudge(*load_model(model))
        require_text_model("a judge", judge.pair)
        return judge
    if work.grade:
        return RuleJudge(work)
    if pairs is None:
        raise ValueError(
            f"{work.name!r} has no grader of its own: name a chat model as the judge (--judge MODEL), or "
            "give pairs that are judged already (--preferences FILE.jsonl)"
        )
    return None


def _start(task, student):
    from minidistill import load_model
    from minidistill.applications.vision.inputs import require_text_model
    from minidistill.models import single_model
    from minidistill.tasks import WORLDS
    from minidistill.utils import data_dir

    if student is None and task not in WORLDS:
        raise ValueError("name the model to start from: --student MODEL")
    model, tokenizer = load_model(student or data_dir() / task / "student_0")
    require_text_model("preference optimisation here", single_model(model, tokenizer))
    return model, tokenizer


def _print(result: dict) -> None:
    """A row a measure, before and after; the win rate with its interval."""
    from minidistill.experiments.labels import PREFERENCE_LABELS

    typer.echo(f"{'':34}{'before':>24}{'after':>24}")
    for name, label in PREFERENCE_LABELS.items():
        if name not in result["after"]:
            continue
        cells = [_cell(result[when], name) for when in ("before", "after")]
        typer.echo(f"{label:34}" + "".join(f"{cell:>24}" for cell in cells))


def _cell(row: dict, name: str) -> str:
    if name == "win_rate":
        return f"{row[name]:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
    return f"{row[name]:.3f}"
