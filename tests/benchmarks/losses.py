"""What a loss over a large vocabulary costs, beside the peers': `python -m tests.benchmarks.losses`.

Hidden states and heads of a teacher and a student in, the gradient of the student's out: cross-entropy alone
(what no distillation can undercut), our dense and fused skew KL, TRL's and Liger's JSD. All in one process,
in turns, on the same numbers; time as a multiple of cross-entropy's, median and range of the rounds. Peak:
the most bytes of tensors held at a time beyond the inputs, gradients included.
"""

import argparse
import importlib.util
import os
import statistics
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
import torch.nn.functional as F

from minidistill import divergences as D
from minidistill.runlog import environment_info, write_log
from minidistill.scale import fused
from tests.scale.peak import peak_bytes

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")


def contestants(tokens: int, vocab: int, width: int, chunk: int, device: str) -> dict:
    """Name → a function without arguments that makes loss and gradient."""
    draw = lambda *shape: 0.2 * torch.randn(*shape, device=device)  # noqa: E731
    hidden_p, head_p = 5 * draw(tokens, width), draw(vocab, width)
    hidden_q, head_q = (
        (5 * draw(tokens, width)).requires_grad_(),
        draw(vocab, width).requires_grad_(),
    )
    labels = torch.randint(vocab, (tokens,), device=device)
    weight = torch.full((tokens,), 1 / tokens, device=device)

    def teacher():
        with torch.no_grad():
            return hidden_p @ head_p.T

    args = hidden_p, head_p, hidden_q, head_q
    found = {
        "cross-entropy": lambda: F.cross_entropy(hidden_q @ head_q.T, labels),
        "skew KL, dense": lambda: D.skew_kl(
            teacher().log_softmax(-1), (hidden_q @ head_q.T).log_softmax(-1)
        ).mean(),
        "skew KL, fused.divergence": lambda: fused.divergence("skew_kl", *args, chunk=chunk).mean(),
        "skew KL, fused.weighted_sum": lambda: fused.weighted_sum(
            "skew_kl", *args, weight, chunk=chunk
        ),
        "JSD, fused.weighted_sum": lambda: fused.weighted_sum("jsd", *args, weight, chunk=chunk),
    }
    if importlib.util.find_spec("trl"):
        from trl.experimental.gkd import GKDTrainer

        found[f"JSD, TRL {version('trl')}"] = lambda: GKDTrainer.generalized_jsd_loss(
            (hidden_q @ head_q.T)[None], teacher()[None], labels[None]
        )
    if importlib.util.find_spec("liger_kernel"):
        from liger_kernel.chunked_loss.jsd_loss import LigerFusedLinearJSDLoss

        for size in (chunk, 1024):  # 1024 is its default
            loss = LigerFusedLinearJSDLoss(0.0, 1.0, compiled=device != "cpu", chunk_size=size)
            found[f"JSD, Liger {version('liger-kernel')} in chunks of {size}"] = partial(
                loss, hidden_q, head_q, hidden_p, head_p, labels
            )

    def once(loss):
        def compute():
            loss().backward()
            hidden_q.grad = head_q.grad = None
            if device != "cpu":
                torch.cuda.synchronize()

        return compute

    return {name: once(loss) for name, loss in found.items()}


def measure(rounds: int, **shape) -> list[tuple[str, list[float], int]]:
    """Return of each its seconds, a number a round, and its peak."""
    losses = contestants(**shape)
    seconds = {name: [] for name in losses}
    for number in range(rounds + 1):
        for name, compute in losses.items():
            started = time.perf_counter()
            compute()
            if number:  # the first warms up
                seconds[name].append(time.perf_counter() - started)
    return [(name, seconds[name], peak_bytes(losses[name], shape["device"])) for name in losses]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024])
    parser.add_argument("--vocab", type=int, default=49_152)
    parser.add_argument("--width", type=int, default=576)
    parser.add_argument("--chunk", type=int, default=fused.CHUNK)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--log", type=Path, help="write what was measured as JSON too")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    shape = {
        "vocab": given.vocab,
        "width": given.width,
        "chunk": given.chunk,
        "device": given.device,
    }
    name = (
        torch.cuda.get_device_name()
        if given.device == "cuda"
        else f"{torch.get_num_threads()} threads"
    )
    logged = []
    for tokens in given.tokens:
        rows = measure(given.rounds, tokens=tokens, **shape)
        base = rows[0][1]
        print(
            f"\n{tokens:,} tokens x {given.vocab:,} words x width {given.width}, {given.device} ({name})\n"
        )
        print("| loss and gradient | seconds | x cross-entropy | peak, MB |\n|---|---|---|---|")
        for label, times, peak in rows:
            ratios = [a / b for a, b in zip(times, base, strict=True)]
            spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            print(f"| {label} | {statistics.median(times):.2f} | {spread} | {peak / 1e6:,.0f} |")
            logged.append({"loss": label, "tokens": tokens, "seconds": times, "peak": peak})
    if given.log:
        about = {"vocab": given.vocab, "width": given.width, "chunk": given.chunk}
        about |= {"threads": torch.get_num_threads(), **environment_info()}
        write_log(given.log, {**about, "rows": logged})


if __name__ == "__main__":
    main()
