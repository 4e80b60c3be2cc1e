"""Checkpoints that are whole or not there.

A checkpoint is one file, `step-00000120-<sha256>.pt`, written beside its final name and renamed,
so a crash leaves the older ones untouched. The hash in the name exposes a damaged file; the loader
names it and takes the one before. Only tensors and plain values are stored (weights_only=True).
"""

import hashlib
import io
import warnings
from pathlib import Path

import torch

from minidistill.runlog import atomic_write

KEEP = 2


def save(folder: Path, step: int, state: dict) -> None:
    """Save `state` as the newest checkpoint and drop all but the last two up to this step."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    digest = hashlib.sha256(buffer.getbuffer()).hexdigest()[:16]
    path = folder / f"step-{step:08d}-{digest}.pt"
    atomic_write(path, buffer.getvalue())
    # Only older steps: damaged files of later ones must not push out what a resumed run writes.
    for old in [p for p in _all(folder) if p.name < path.name][: 1 - KEEP]:
        old.unlink()


def load_latest(folder: Path) -> dict | None:
    """The newest checkpoint that is whole, or None; each damaged one is named in a warning."""
    for path in reversed(_all(folder)):
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest()[:16] == path.stem.rsplit("-", 1)[1]:
            return torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
        warnings.warn(f"{path} is damaged (checksum differs); using the one before", stacklevel=2)
    return None


def _all(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*-*.pt"))
