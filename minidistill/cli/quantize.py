"""`python -m minidistill apply quantize`: break a model to a few bits, and heal it with adapters."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from minidistill.cli.evaluate import print_scores
from minidistill.cli.options import Limit, Prompts, Tokens
from minidistill.config import DistillConfig

Model = Annotated[
    str | None,
    typer.Option(help="A folder, a hub name or a .gguf file; the tiny world's teacher if empty."),
]
Bits = Annotated[int, typer.Option(help="Of each weight, 2 to 8. The tiny teacher suffers at 2.")]
Group = Annotated[
    int, typer.Option(help="Weights that share a step; must divide every layer's width.")
]
Library = Annotated[
    str | None,
    typer.Option(
        help="Whose layers: minidistill (packed, for tiny models), torchao (for any model: a byte a "
        "weight while it runs, and fast), bitsandbytes (nf4, 4 bits). By default what suits the model."
    ),
]
Method = Annotated[
    str, typer.Option(help="What heals: any method of `distill`, or 'none' to break only.")
]
Rank = Annotated[int, typer.Option(help="Of the adapters (LoRA) beside every quantized layer.")]
Table = Annotated[
    Path | None,
    typer.Option(
        "--every-width",
        help="Instead: break a tiny world's teacher at every width and group; numbers to this JSON.",
    ),
]


def quantize(
    model: Model = None,
    task: Annotated[str, typer.Option(help="A tiny world: its teacher and prompts.")] = "instruct",
    prompts: Prompts = None,
    bits: Bits = 2,
    group_size: Group = 32,
    library: Library = None,
    method: Method = "distillm2",
    rank: Rank = 16,
    epochs: Annotated[int, typer.Option(min=1)] = 2,
    lr: Annotated[float, typer.Option(help="A real model wants less.")] = 1.5e-3,
    batch_size: Annotated[int, typer.Option(min=1)] = 8,
    temperature: Annotated[
        float, typer.Option(help="Sampling while healing.")
    ] = DistillConfig.temperature,
    top_p: float = DistillConfig.top_p,
    max_new_tokens: Tokens = DistillConfig.max_new_tokens,
    train_limit: Limit = 500,
    test_limit: Limit = 200,
    seed: int = DistillConfig.seed,
    out: Annotated[Path, typer.Option(help="The folder to write to.")] = Path("out/quantize"),
    every_width: Table = None,
) -> None:
    """Break a model to a few bits, then heal it: the unbroken model teaches small matrices beside it.

    Writes out/broken.safetensors (packed bytes), out/student (adapters) and out/quantize.json. The same
    command resumes a healing that was stopped; `lora.load_quantized_with_lora` reads what it left.
    """
    import torch

    from minidistill.applications.quantization import save_packed
    from minidistill.runlog import claim_folder, write_log

    if model is None:
        torch.set_num_threads(1)  # models this small are slower on more
    if every_width:
        return _every_width(task, every_width)
    config = DistillConfig(  # mistakes first: they cost nothing
        "kd" if method == "none" else method, epochs, seed, batch_size, lr=lr,
        temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens,
    )  # fmt: skip
    library = library or ("torchao" if model else "minidistill")
    about = {"bits": bits, "group": group_size, "library": library, "rank": rank, "method": method}
    _check_same(out, about)
    pair, work = _load(model, task, prompts, train_limit, test_limit)
    sizes = _break(pair, bits, group_size, library)
    healed = method != "none"
    if healed:
        sizes["adapters"] = _adapt(pair, rank)
    for name, size in sizes.items():
        typer.echo(f"{name:9}{size:>14,} bytes")
    with claim_folder(out, model):
        scores, more = (_heal if healed else _measure)(pair, work, config, out)
    print_scores(scores)
    if library != "bitsandbytes":  # its code book is not on the grid
        sizes["file"] = save_packed(pair.student, out / "broken.safetensors")
    write_log(out / "quantize.json", {**more, **about, "bytes": sizes, "scores": scores})
    typer.echo(f"kept in {out}: " + ", ".join(sorted(p.name for p in out.iterdir())))


def _check_same(out: Path, about: dict) -> None:
    """ValueError where the folder holds another break or healing: files of two would stand side by side."""
    from minidistill.runlog import read_log

    found = read_log(out / "quantize.json") or about
    other = [f"{name} {found[name]}" for name in about if found[name] != about[name]]
    if other:
        raise ValueError(
            f"{out} holds a run of other settings ({', '.join(other)}); give another folder"
        )


def _load(model, task, prompts, train_limit, test_limit):
    """A pair of the model and a copy of it that is to be broken, and the prompts."""
    from minidistill import load_model, load_task
    from minidistill.applications.vision.inputs import require_text_model
    from minidistill.models import make_pair
    from minidistill.utils import data_dir

    work = load_task(prompts or task)  # a mistake here costs no model loading
    if model and not prompts:
        raise ValueError("--model wants --prompts FILE.jsonl: the tiny worlds' words are their own")
    work = replace(work, train=work.train[:train_limit], test=work.test[:test_limit])
    teacher, tokenizer = load_model(model or data_dir() / task / "teacher")
    pair = make_pair(teacher, tokenizer, copy.deepcopy(teacher), tokenizer)
    require_text_model("quantization here", pair)
    return pair, work


def _break(pair, bits, group, library) -> dict[str, int]:
    """The student broken in place; the bytes before and after, from storage."""
    from minidistill.applications.quantization import stored_bytes
    from minidistill.applications.quantization_backends import quantize_with

    broken = quantize_with(pair.student, bits, group, library)
    return {"whole": stored_bytes(pair.teacher), "broken": stored_bytes(broken)}


def _adapt(pair, rank: int) -> int:
    """Adapters beside the student's broken layers; their bytes."""
    from minidistill.applications.lora import adapter_bytes, add_lora

    pair.student = add_lora(pair.student, rank)
    return adapter_bytes(pair.student)


def _measure(pair, work, config, out):
    """Scores of the whole and of the broken model on the same held-out responses."""
    from minidistill.evaluation import make_probe
    from minidistill.runlog import environment_info

    probe = make_probe(pair, work, seed=config.seed, **config.sampling)
    models = {"whole": pair.teacher, "broken": pair.student}
    return {n: _scores(m, pair, work, probe, config) for n, m in models.items()}, environment_info()


def _heal(pair, work, config, out):
    """Scores of the whole, the broken and the healed model; resumes."""
    from minidistill.evaluation import HeldOutResponses
    from minidistill.experiments.before_and_after import distill_and_evaluate
    from minidistill.runlog import read_log

    found = distill_and_evaluate(pair, work, config, {}, out)
    result = read_log(out / "result.json")
    probe = HeldOutResponses.from_dict(read_log(out / "start.json")["probe"], pair, work)
    whole = _scores(pair.teacher, pair, work, probe, config)
    return {"whole": whole, "broken": found["before"], "healed": found["after"]}, result


def _scores(model, pair, work, probe, config) -> dict:
    from minidistill.evaluation import evaluate
    from minidistill.experiments.labels import MAIN_METRICS

    alone = replace(pair, student=model, teacher=None)
    scores = evaluate(alone, work, probe, max_new_tokens=config.max_new_tokens)
    return {name: getattr(scores, name) for name in MAIN_METRICS}


def _every_width(task: str, path: Path) -> None:
    from tqdm.auto import tqdm

    from minidistill import load_pair, load_task
    from minidistill.applications.quantization_sweep import sweep, sweep_table
    from minidistill.runlog import environment_info, write_log

    rows = sweep(load_pair(task), load_task(task), lambda cells: tqdm(cells, unit="break"))
    write_log(path, {"task": task, "rows": rows, **environment_info()})
    typer.echo(sweep_table(rows))
