"""Pin what the library computes while its files move: `pin.py write` makes golden.json, `check` compares.

Bits depend on the processor, so golden.json is for the machine that wrote it; the ledger's texts are not.
"""

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

from minidistill import distill, load_pair, load_task
from minidistill.objectives import METHODS

HERE = Path(__file__).parent
torch.set_num_threads(1)


def digest(model) -> str:
    sha = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        sha.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()[:16]


def bits() -> dict:
    """The student's weights and losses after two short epochs of each method, and of one vision run."""
    found = {}
    for world, methods in {"instruct": sorted(METHODS), "vision": ["distillm2"]}.items():
        for method in methods:
            if method == "dpo":
                continue
            torch.manual_seed(0)
            pair, task = load_pair(world), load_task(world)
            task = replace(task, train=task.train[:24], test=task.test[:8])
            history = distill(pair, task, method, epochs=2, batch_size=8, lr=1e-3, progress=False)
            losses = [round(step["loss"], 12) for step in history.steps]
            found[f"{world}/{method}"] = [digest(pair.student), losses]
    return found


def ledger() -> dict:
    """The ledger's table and every claim in full, with verdicts and intervals, and the README's tables."""
    from minidistill.experiments.tables import claim_report, claims_table

    return {"table": claims_table(), **{f"C{n}": claim_report(f"C{n}") for n in range(1, 17)}}


def main(what: str) -> int:
    found = {"ledger": ledger(), "bits": bits()}
    path = HERE / "golden.json"
    if what == "write":
        path.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
        return 0
    kept = json.loads(path.read_text())
    differing = [f"{k}/{n}" for k in kept for n in kept[k] if kept[k][n] != found[k].get(n)]
    print("\n".join(f"differs: {name}" for name in differing) or "all equal")
    return len(differing)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
