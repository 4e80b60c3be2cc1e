"""Small helpers that know nothing of distillation: seeds, folders, devices, messages, silence.

Only the standard library is imported here, so that a command can speak before torch is loaded.
"""

import difflib
import hashlib
import logging
import math
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


def derive_seed(*parts) -> int:
    """Derive a seed from all of `parts` and from nothing else."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:7], "big")


def data_dir() -> Path:
    """Return the folder of the shipped data: inside an installed package, beside it in a checkout."""
    here = Path(__file__).resolve().parent
    for folder in (here / "data", here.parent / "data"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"no data folder at {here / 'data'} or {here.parent / 'data'}")


def pick_device():
    """Return the torch device to run on: CUDA, else Apple's MPS, else the CPU."""
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def unknown_name_message(kind: str, name: str, options: Iterable[str]) -> str:
    """Compose 'unknown method 'distilm2'; did you mean 'distillm2'? There are: …'."""
    options = sorted(options)
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.4)
    hint = f" did you mean {close[0]!r}?" if close else ""
    return f"unknown {kind} {name!r};{hint} There are: {', '.join(options) or 'none'}"


def missing_extra_message(package: str, extra: str) -> str:
    """Compose one sentence for a missing optional package."""
    return f'this needs {package}: pip install "minidistill[{extra}]"'


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress warnings and log lines below an error, such as those of third-party imports."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def check_positive(**values: float) -> None:
    """Raise ValueError naming the argument that is not a positive number."""
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive, but got {value}")
