"""`python -m minidistill apply speculate`: a small model drafts for a large one, and what that gains."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from minidistill.cli.options import Model, Prompts, Tokens
from minidistill.config import DistillConfig

TINY = "instruct"  # the world that has a target and a draft
Method = Annotated[
    str | None,
    typer.Option(help="First train the draft by this method, with the target as the teacher."),
]
Typical = Annotated[
    float | None,
    typer.Option(help="Typical acceptance with this epsilon in place of the exact rule."),
]
Out = Annotated[Path, typer.Option(help="With --method: where the trained draft goes.")]


def speculate(
    target: Model = None,
    draft: Model = None,
    prompt: Annotated[str | None, typer.Option(help="Answer this alone, round by round.")] = None,
    task: Annotated[str, typer.Option(help="A tiny world: its pair and its prompts.")] = TINY,
    prompts: Prompts = None,
    limit: Annotated[int, typer.Option(help="How many held-out prompts.", min=1)] = 20,
    draft_length: Annotated[int, typer.Option(help="Tokens drafted a round.", min=1)] = 4,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = DistillConfig.temperature,
    top_p: float = DistillConfig.top_p,
    max_new_tokens: Tokens = DistillConfig.max_new_tokens,
    typical: Typical = None,
    method: Method = None,
    epochs: Annotated[int, typer.Option(help="Of --method.", min=1)] = 5,
    lr: Annotated[float, typer.Option(help="Of --method; a real model wants less.")] = 1.5e-3,
    out: Out = Path("out/speculate"),
    time: Annotated[
        bool, typer.Option("--time", help="Measure tokens a second, in turns.")
    ] = False,
    repeats: Annotated[int, typer.Option(help="Of --time.", min=1)] = 5,
    log: Annotated[
        Path | None, typer.Option(help="Keep --time's numbers in this JSON file.")
    ] = None,
    seed: int = DistillConfig.seed,
) -> None:
    """Speculative decoding: the draft model writes ahead, the target judges it all in one pass.

    Without --target and --draft: the tiny pair of the lesson, 12 layers and 1. A draft for a real model
    is made by `python -m minidistill prune`, and trained by --method.
    """
    import torch

    from minidistill.applications.speculative import EXACT, typical_rule
    from minidistill.generation import check_sampling
    from minidistill.objectives import get_method
    from minidistill.runlog import claim_folder

    if target is None:
        torch.set_num_threads(1)  # models this small are slower on more
    rule = EXACT if typical is None else typical_rule(typical)  # mistakes first: they cost nothing
    check_sampling(temperature, top_p)
    if method:
        get_method(method)
    how = {"temperature": temperature, "top_p": top_p, "max_new_tokens": max_new_tokens}
    pair, work = _load(task, prompts, target, draft)
    if method:
        with claim_folder(out, target, draft):
            _train(pair, work, (method, epochs, seed), lr, out, how)
    asked = [prompt] if prompt else [e.prompt for e in work.test[:limit]]
    if time:
        _race(pair, asked, rule, repeats, log, how, draft_length)
    else:
        _write(pair, asked, {**how, "rule": rule, "draft_length": draft_length}, seed, bool(prompt))


def _load(task, prompts, target, draft):
    """The lesson's pair and prompts, or what was named instead of them."""
    from minidistill import load_pair, load_task
    from minidistill.applications.vision.inputs import require_text_model
    from minidistill.utils import data_dir

    work = load_task(prompts or task)  # first: a mistake here costs no model loading
    if (target is None) != (draft is None):
        raise ValueError("give both --target and --draft, or neither for the tiny pair")
    if target is None and task != TINY:
        raise ValueError(f"a target and a draft are shipped for {TINY!r} alone, not for {task!r}")
    folder = data_dir() / TINY
    pair = load_pair(teacher=target or folder / "target", student=draft or folder / "draft_0")
    require_text_model("speculative decoding here", pair)
    return pair, work


def _train(pair, work, chosen, lr, out, how) -> None:
    """`chosen`: method, epochs, seed; the rest as in the ledger. Resumes, and ends in out/student."""
    from minidistill.cli.evaluate import print_scores
    from minidistill.experiments.arms import APPLICATIONS, PROTOCOLS
    from minidistill.experiments.before_and_after import distill_and_evaluate

    same = PROTOCOLS["instruct"]
    config = DistillConfig(
        *chosen, same.batch_size, lr=lr,
        **{**how, "temperature": how["temperature"] or same.temperature},
    )  # fmt: skip
    train = replace(work, train=work.train[: APPLICATIONS["draft_gkd"].prompts])
    print_scores(distill_and_evaluate(pair, train, config, {}, out))
    typer.echo(f"draft: {out / 'student'}")


def _encode(pair, asked) -> list[list[int]]:
    """Prompts as token ids; a word that the model has never seen is worth a remark."""
    unknown = pair.tokenizer.unk_token_id
    prompts = [pair.encode(x) for x in asked]
    if unknown is not None and any(unknown in ids for ids in prompts):
        typer.echo("note: a prompt has words that this model's tokenizer does not know", err=True)
    return prompts


def _write(pair, asked, how, seed, every_round) -> None:
    """Responses, round by round where there is one alone, and what was counted over all of them."""
    from tqdm.auto import tqdm

    from minidistill.applications.speculative import speculate
    from minidistill.applications.speculative_metrics import count_rounds

    written = [
        speculate(pair, x, seed=seed + i, **how)
        for i, x in enumerate(tqdm(_encode(pair, asked), unit="response", leave=False))
    ]
    if every_round:
        _show(pair, written[0])
    found = count_rounds(written, how["draft_length"])
    typer.echo(
        f"{len(asked)} responses, {found.tokens:.0f} tokens in {found.calls:.0f} passes of the target: "
        f"{found.tokens_per_call:.2f} a pass\n{sum(found.stayed):.0f} of {found.drafted:.0f} drafted "
        f"tokens stayed: {found.acceptance:.3f}; of those that were tested {found.rate:.3f}"
    )


def _show(pair, written) -> None:
    """A line a round: what stays, ✗ what does not, → what the target wrote itself."""
    read = lambda ids: pair.tokenizer.decode(list(ids))  # noqa: E731
    for number, r in enumerate(written.rounds, 1):
        lost = f" ✗ {read(r.drafted[r.kept :])}" if r.kept < len(r.drafted) else ""
        own = f" → {read([r.own])}" if r.own is not None else ""
        typer.echo(f"{number:3}  {read(r.drafted[: r.kept])}{lost}{own}")
    typer.echo(
        "\n" + pair.tokenizer.decode(written.tokens, skip_special_tokens=True).strip() + "\n"
    )


def _race(pair, asked, rule, repeats, log, how, draft_length) -> None:
    from tqdm.auto import tqdm

    from minidistill.applications import speculative_benchmark
    from minidistill.runlog import environment_info, write_log

    prompts = _encode(pair, asked)
    lengths = sorted({1, 2, 4, 6, 8, draft_length})
    with tqdm(unit="way", leave=False) as bar:

        def tell(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        result = speculative_benchmark.benchmark(
            pair, prompts, lengths, repeats=repeats, rule=rule, tell=tell, **how
        )
    sizes = {
        name: sum(w.numel() for w in model.parameters())
        for name, model in (("target", pair.teacher), ("draft", pair.student))
    }
    about = {"prompts": len(prompts), "repeats": repeats, "parameters": sizes, **how}
    result |= {"about": about, **environment_info()}
    if log:
        write_log(log, result)
    typer.echo(speculative_benchmark.benchmark_table(result))
    typer.echo(
        f"A pass of the draft costs {speculative_benchmark.draft_cost(result):.2f} passes of the target. "
        f"Median of {repeats} repeats; in brackets the least and the most."
    )
