"""Files and folders that are whole or not there and are one run's, logs with a checksum, a run's machine."""

import hashlib
import json
import os
import platform
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import transformers
from filelock import FileLock, Timeout
from safetensors import SafetensorError

from minidistill.utils import pick_device


def atomic_write(path: Path, content: bytes) -> None:
    """Write all of `content` to `path` or nothing; OSError says what failed and what is left."""
    draft = path.with_name(f".saving-{os.getpid()}-{path.name}")  # two processes may write the same
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


def clear_drafts(folder: Path) -> None:
    """Drop what processes that were killed while they saved left in a folder that nobody else writes to."""
    for left in folder.glob(".saving-*"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink()


OF_A_MODEL = (
    "model*.safetensors", "pytorch_model*.bin", "adapter_model*.safetensors", "adapter_config.json",
    "*.safetensors.index.json", "*.bin.index.json",
)  # fmt: skip
OF_A_RUN = ("start.json", "result.json", "preferences.jsonl", "quantize.json", "broken.safetensors")
_held: set[Path] = set()  # folders that this process has claimed


@contextmanager
def claim_folder(out: Path, *inputs: str | Path | None) -> Iterator[None]:
    """Hold `out` for one run: it can be written, nobody else writes there, and no `inputs` lies there.

    ValueError where another run is at work in it or what is read would be overwritten: a model, the one that
    adapters stand beside, a file. OSError where it cannot be written. A lock of a process that is gone holds
    nobody up.
    """
    folder = Path(out).resolve()
    _check_writable(out, folder, inputs)
    if folder in _held:
        yield
        return
    lock, owner = FileLock(folder / ".lock"), folder / ".lock.owner"
    fresh = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
        owner.write_text(str(os.getpid()), encoding="utf-8")
    except Timeout:
        who = owner.read_text(encoding="utf-8") if owner.is_file() else "unknown"
        raise ValueError(
            f"{out} is in use by another run (process {who}): give another folder"
        ) from None
    except OSError as error:
        lock.release()
        raise OSError(f"could not write {out}: {error.strerror or error}") from error
    _held.add(folder)
    for at in (folder, folder / "checkpoints"):
        clear_drafts(at)
    try:
        yield
    finally:
        _held.discard(folder)
        for path in (owner, folder / ".lock"):
            path.unlink(missing_ok=True)
        lock.release()
        if fresh and not any(folder.iterdir()):
            folder.rmdir()


def _check_writable(out: Path, folder: Path, inputs: tuple) -> None:
    """ValueError where what is read would be overwritten, OSError where a file is in a folder's place."""
    written = {folder, folder / "student", *(folder / name for name in OF_A_RUN)}
    for source in filter(None, inputs):
        for read in {Path(source).resolve(), *_beside(Path(source))}:
            if read.exists() and read in written:
                raise ValueError(
                    f"{out} would overwrite {read}, which is read: give another folder"
                )
    for name in ("student", "checkpoints"):
        if (folder / name).is_file():
            raise OSError(f"could not write {out}: {name} is a file there, and is to be a folder")


def _beside(adapters: Path) -> set[Path]:
    """The model of which a folder of adapters is a part, if its config names a path."""
    try:
        config = json.loads((adapters / "adapter_config.json").read_text(encoding="utf-8"))
        return {Path(config["base_model_name_or_path"]).resolve()}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def save_folder(folder: Path, *parts) -> None:
    """Save a model and what encodes for it by their `save_pretrained`, all of it or nothing.

    Files of another kind of model that lay there go, so that the folder loads as what was saved; files that
    are no model's stay. OSError says what failed and what is left.
    """
    folder = Path(folder)
    draft = folder / f".saving-{os.getpid()}"
    fresh = not folder.exists()
    clear_drafts(folder)
    try:
        for part in parts:
            part.save_pretrained(draft)
        for path in filter(Path.is_file, draft.rglob("*")):
            path.chmod(0o666 & ~_umask())  # some are written for their owner alone
        saved = {path.name for path in draft.iterdir()}
        for path in draft.iterdir():
            if path.is_dir():
                shutil.rmtree(folder / path.name, ignore_errors=True)
            os.replace(path, folder / path.name)
        for other in (path for pattern in OF_A_MODEL for path in folder.glob(pattern)):
            if other.name not in saved:
                other.unlink()
        draft.rmdir()
    except (OSError, SafetensorError) as error:
        shutil.rmtree(folder if fresh else draft, ignore_errors=True)
        reason = getattr(error, "strerror", None) or error
        raise OSError(f"could not write {folder}: {reason}; nothing of it was saved") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


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
