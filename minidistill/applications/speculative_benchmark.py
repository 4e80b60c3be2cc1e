"""A race: tokens a second with and without a draft, in this library's loop and in transformers' own.

All ways write the same prompts in turn, again and again in one process, so that a machine that is busy
for a while is busy for all of them; a ratio is taken within one repeat.
"""

import random
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from statistics import median

import torch
from transformers.utils import logging

from minidistill.applications.speculative import (
    EXACT,
    CachedModel,
    Rule,
    SpeculativeOutput,
    draw,
    speculate,
)
from minidistill.applications.speculative_metrics import Counts, count_rounds, speed_up
from minidistill.models import Pair

IMPLEMENTATIONS = ("ours", "transformers")
ProgressCallback = Callable[[int, int], object]  # done, of how many


def benchmark(
    pair: Pair, prompts: Sequence[Sequence[int]], lengths: Sequence[int], *, repeats: int = 5,
    rule: Rule = EXACT, tell: ProgressCallback = lambda done, total: None, **how,
) -> dict:  # fmt: skip
    """Tokens a second of each way by repeat, what was counted, and what a pass costs: a log, see `faster`.

    `how`: temperature, top_p, max_new_tokens. Draft length 0 is plain sampling. transformers has the
    exact rule alone, and needs models of equal width; else its rows are left out.
    """
    same_width = len({m.config.vocab_size for m in (pair.teacher, pair.student)}) == 1
    libraries = IMPLEMENTATIONS if rule is EXACT and same_width else IMPLEMENTATIONS[:1]
    ways = [(library, length) for length in (0, *lengths) for library in libraries]
    speeds = {library: {str(n): [] for n in (0, *lengths)} for library in libraries}
    written: dict[str, list[SpeculativeOutput]] = {str(n): [] for n in lengths}
    for repeat in range(-1, repeats):  # the first is a warm-up that no number comes from
        random.Random(repeat).shuffle(ways)
        for number, (library, length) in enumerate(ways):
            tell(number + 1 + (repeat + 1) * len(ways), (repeats + 1) * len(ways))
            asked, told = prompts if repeat >= 0 else prompts[:2], {**how, "draft_length": length}
            write = partial(speculate, rule=rule) if library == "ours" else generate
            started = time.perf_counter()
            said = [write(pair, x, seed=1000 * repeat + i, **told) for i, x in enumerate(asked)]
            seconds = time.perf_counter() - started
            if repeat >= 0:
                tokens = sum(len(one.tokens) if library == "ours" else one for one in said)
                speeds[library][str(length)].append(tokens / seconds)
                written.get(str(length), []).extend(said if library == "ours" else [])
    return {
        "tokens_per_second": speeds,
        "counts": {n: asdict(count_rounds(texts, int(n))) for n, texts in written.items()},
        "passes": pass_costs(pair, prompts, lengths, **how),
    }


def generate(
    pair: Pair, prompt: Sequence[int], *, draft_length: int, seed: int = 0, max_new_tokens: int = 48,
    temperature: float = 1.0, top_p: float = 1.0,
) -> int:  # fmt: skip
    """The same by transformers (`assistant_model=`); how many tokens it wrote."""
    how = {"do_sample": False, "repetition_penalty": 1.0}
    if temperature > 0:
        how |= {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    if draft_length:
        settings = pair.student.generation_config
        settings.num_assistant_tokens = draft_length
        settings.num_assistant_tokens_schedule = "constant"
        settings.assistant_confidence_threshold = 0.0
        how["assistant_model"] = pair.student
    ids = torch.tensor([prompt], device=pair.device)
    with torch.no_grad(), torch.random.fork_rng(), _quiet():
        torch.manual_seed(seed)
        output = pair.teacher.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_new_tokens,
            eos_token_id=sorted(pair.eos_token_ids), pad_token_id=pair.pad_token_id, **how,
        )  # fmt: skip
    return output.shape[1] - len(prompt)


@torch.no_grad()
def pass_costs(
    pair: Pair, prompts: Sequence[Sequence[int]], lengths: Sequence[int], *, tries: int = 40,
    temperature: float = 1.0, top_p: float = 1.0, max_new_tokens: int = 48,
) -> dict:  # fmt: skip
    """Median seconds: one drafted token, drawn; and a pass of the target over 1 and γ + 1 tokens."""
    rng = torch.Generator(device=pair.device).manual_seed(0)
    text = list(prompts[0])
    target, draft = (
        CachedModel(m, pair.vocab_size, temperature, top_p) for m in (pair.teacher, pair.student)
    )
    times: dict[str, list[float]] = {"draft": [], **{str(n + 1): [] for n in (0, *lengths)}}
    for _ in range(tries):
        for name, found in times.items():
            reader, new = (draft, 1) if name == "draft" else (target, int(name))
            reader.ahead(text)
            started = time.perf_counter()
            p = reader.ahead([*text, *([text[-1]] * new)], new)
            draw(p[-1], rng)
            found.append(time.perf_counter() - started)
            reader.forget(len(text) - 1)
    medians = {name: median(found) for name, found in times.items()}
    return {"draft": medians.pop("draft"), "target": medians}


@contextmanager
def _quiet():
    """transformers' assisted generation warns of how it calls itself."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def speedups(log: dict, library: str, length: int) -> list[float]:
    """Speed with a draft over speed without, in the same library, repeat by repeat."""
    speeds = log["tokens_per_second"][library]
    return [
        with_ / without for with_, without in zip(speeds[str(length)], speeds["0"], strict=True)
    ]


def draft_cost(log: dict) -> float:
    """c of (13.7): a pass of the draft in passes of the target."""
    return log["passes"]["draft"] / log["passes"]["target"]["1"]


def verification_cost(log: dict, length: int) -> float:
    """r of (13.7): a pass of the target over γ + 1 tokens in passes over one."""
    return log["passes"]["target"][str(length + 1)] / log["passes"]["target"]["1"]


def counts(log: dict, length: int) -> Counts:
    """Return what our loop counted at that draft length."""
    return Counts(**log["counts"][str(length)])


def predicted_speedup(log: dict, length: int) -> float:
    """(13.7) from the share of tested drafts that stayed and the costs of passes, nothing else."""
    rate = counts(log, length).rate
    return float(speed_up(rate, length, draft_cost(log), verification_cost(log, length)))


def speedup_from_counts(log: dict, length: int) -> float:
    """The same with the tokens a call that were counted in place of (13.4)."""
    passes = length * draft_cost(log) + verification_cost(log, length)
    return counts(log, length).tokens_per_call / passes


def benchmark_table(log: dict) -> str:
    """Markdown: a row a draft length: what was counted, tokens a second, how much faster, (13.7)."""
    libraries = list(log["tokens_per_second"])
    heads = "".join(f" tokens/s, {name} | × |" for name in libraries)
    lines = [
        f"| γ | accepted of drafted | tokens a call |{heads} (13.7) |",
        "|---|---|---|" + "---|---|" * len(libraries) + "---|",
    ]
    for length in map(int, log["tokens_per_second"]["ours"]):
        cells = ["–", "1.00"]
        if length:
            found = counts(log, length)
            cells = [f"{found.acceptance:.3f}", f"{found.tokens_per_call:.2f}"]
        for name in libraries:
            ratios = speedups(log, name, length)
            cells.append(f"{median(log['tokens_per_second'][name][str(length)]):.0f}")
            spread = f" ({min(ratios):.2f} to {max(ratios):.2f})" if length else ""
            cells.append(f"{median(ratios):.2f}{spread}")
        cells.append(f"{predicted_speedup(log, length):.2f}" if length else "1.00")
        lines.append(f"| {length} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
