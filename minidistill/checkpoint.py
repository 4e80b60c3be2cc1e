"""Checkpoints and logs that are whole or not there.

A checkpoint is one file, `step-00000120-<sha256>.pt`, written beside its final name and renamed,
so a crash leaves the older ones untouched. The hash in the name exposes a damaged file; the loader
names it and takes the one before. Only tensors and plain values are stored (weights_only=True).
A log is a JSON object that carries the hash of its own content.
"""

import hashlib
import io
import json
import os
import warnings
from pathlib import Path

import torch

KEEP = 2


def atomic_write(path: Path, content: bytes) -> None:
    """Write all of `content` to `path` or nothing; OSError says what failed and what is left."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")  # two processes may write the same
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(draft, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except OSError as error:
        if draft.is_file():
            draft.unlink()
        raise OSError(
            f"could not write {path}: {error.strerror or error}; what was saved before is untouched"
        ) from error


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


def write_log(path: Path, content: dict) -> None:
    """Write a JSON object with its checksum, atomically."""
    text = json.dumps({"sha256": _digest(content), **content}, indent=1)
    atomic_write(path, text.encode())


def read_log(path: Path) -> dict | None:
    """The object that `write_log` wrote, or None where there is none or only a damaged one (warned)."""
    if not path.exists():
        return None
    content = _parsed(path.read_bytes())
    if content is None or content.pop("sha256", None) != _digest(content):
        warnings.warn(f"{path} is damaged (checksum differs); it will be made again", stacklevel=2)
        return None
    return content


def _parsed(text: bytes) -> dict | None:
    """The JSON object in `text`, or None: cut short, not UTF-8, not JSON or not an object."""
    try:
        content = json.loads(text)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def _digest(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _all(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*-*.pt"))
