"""Files that are whole or not there, JSON logs with a checksum of their own, and the machine of a run."""

import hashlib
import json
import os
import platform
import warnings
from pathlib import Path

import torch
import transformers

from minidistill.utils import pick_device


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


def write_log(path: Path, content: dict) -> None:
    """Write a JSON object with its checksum, atomically."""
    text = json.dumps({"sha256": _digest(content), **content}, indent=1)
    atomic_write(path, text.encode())


def read_log(path: Path) -> dict | None:
    """Read what `write_log` wrote, or None where there is none or only a damaged one (warned)."""
    if not path.exists():
        return None
    content = _parse(path.read_bytes())
    if content is None or content.pop("sha256", None) != _digest(content):
        warnings.warn(f"{path} is damaged (checksum differs); it will be made again", stacklevel=2)
        return None
    return content


def environment_info() -> dict:
    """Describe the machine of a run: device, cores and the versions that decide its bits."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return {"device": f"{pick_device().type} ({name})", "cores": os.cpu_count(), **versions}


def _parse(text: bytes) -> dict | None:
    """The JSON object in `text`, or None: cut short, not UTF-8, not JSON or not an object."""
    try:
        content = json.loads(text)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def _digest(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _processor() -> str:
    """The CPU's model where Linux tells it: equal seeds end in equal bits only on equal processors."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{platform.machine()} {models[0]}" if models else platform.machine()
