"""A step with a large vocabulary, by tables and by hidden states: `python -m tests.benchmarks.steps`.

A teacher and a student of SmolLM2's width and vocabulary but few layers, random weights; responses of both
are given. What is timed is all that `distill` does in a step after sampling: both models read, the method's
loss, its gradient; all weights trained, or adapters alone. The teacher's tables do not fit the cache, as in
any run of some hundred prompts; its hidden states do. In turns, median and range; peak: the most bytes of
tensors beyond those that were there before.
"""

import argparse
import statistics
import time

import torch

from minidistill import rollouts as core
from minidistill.applications.lora import lora_pair
from minidistill.config import DistillConfig
from minidistill.models import make_pair
from minidistill.objectives import TrainState, get_method
from minidistill.rollouts import Rollouts
from minidistill.scale.responses import HiddenRollouts
from minidistill.tasks import Example, Task
from tests.scale.peak import peak_bytes
from tests.tiny import byte_tokenizer, tiny_lm

KINDS = {"tables": Rollouts, "hidden states": HiddenRollouts}


def build(vocab: int, width: int, layers: int):
    """A pair whose models know more words than its tokenizer: their ids can be given, not typed."""
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([f"<{i}>" for i in range(vocab - len(tokenizer))])
    shape = {"hidden_size": width, "num_hidden_layers": layers, "intermediate_size": 3 * width}
    models = [tiny_lm("llama", tokenizer, seed, **shape) for seed in (1, 2)]
    return make_pair(models[0], tokenizer, models[1], tokenizer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocab", type=int, default=49_152)
    parser.add_argument("--width", type=int, default=576)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    whole = build(given.vocab, given.width, given.layers)
    task = Task("t", [Example("x" * 32)] * given.batch, [Example("y")])
    draw = lambda: torch.randint(given.vocab, (given.batch, given.tokens)).tolist()  # noqa: E731
    said = {"tgo": draw(), "sgo": draw()}
    core.TEACHER_CACHE_BYTES = 4 * given.batch * given.tokens * given.width
    shape = f"{given.batch} x {given.tokens} tokens of a response, {given.vocab:,} words, width {given.width}"
    threads = f"{whole.device} ({torch.get_num_threads()} threads)"
    print(f"\n{shape}, {given.layers} layers, {threads}\n")
    print("| step | seconds | x tables | peak, MB |\n|---|---|---|---|")
    for trained, pair in (("all", whole), ("adapters", lora_pair(whole, 16))):
        for name in ("kd", "distillm2"):
            compare(f"{name}, {trained}", pair, task, get_method(name), said, given.rounds)


def compare(label: str, pair, task: Task, method, said: dict, rounds: int) -> None:
    """Print a row for each way of scoring."""
    scored = {}
    for kind, rollouts in KINDS.items():
        scored[kind] = rollouts(pair, task, {slot: slot for slot in method.reads}, DistillConfig())
        scored[kind].responses = {slot: said[slot] for slot in method.reads}
    rows = list(range(len(task.train)))

    def step(kind: str) -> None:
        method(scored[kind].score(rows), TrainState()).mean().backward()
        pair.student.zero_grad()

    times = {kind: [] for kind in KINDS}
    for number in range(rounds + 1):
        for kind in KINDS:
            started = time.perf_counter()
            step(kind)
            if number:  # the first warms up, and lets the teacher read
                times[kind].append(time.perf_counter() - started)
    for kind in KINDS:
        ratios = [a / b for a, b in zip(times[kind], times["tables"], strict=True)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        peak = peak_bytes(lambda kind=kind: step(kind), pair.device.type) / 1e6
        print(
            f"| {label}, {kind} | {statistics.median(times[kind]):.2f} | {spread} | {peak:,.0f} |"
        )


if __name__ == "__main__":
    main()
