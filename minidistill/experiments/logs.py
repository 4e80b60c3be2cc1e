"""Run logs: `data/ledger/<world>.jsonl` holds a finished run a line, `scores.csv` beside it the scores.

A run in flight leaves a file of its own, atomic and with a checksum (`write_run`), so that runs can go in
parallel and resume; `pack_runs` folds finished ones into the JSONL. A packed line has no checksum.
"""

import csv
import io
import json
import warnings
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from filelock import FileLock

from minidistill.runlog import atomic_write, clear_drafts, read_log, write_log
from minidistill.utils import data_dir

DIGITS = 4  # after the point, in curves; scores are kept exactly
SCORES_FILE = "scores.csv"
CURVES = ("evals", "curve", "preference_curve")  # what is logged on the way


def ledger_dir() -> Path:
    """Return the folder of the ledger's runs and searches."""
    return data_dir() / "ledger"


def world_of(name: str) -> str:
    """Name the world of a run: 'kd' is instruct's, 'arithmetic/kd' says so; of 'toy_kl' it is the toy."""
    return "toy" if name.startswith("toy_") else name.rpartition("/")[0] or "instruct"


# --- reading --------------------------------------------------------------------------------------------
def load_runs(world: str, folder: Path | None = None) -> tuple[dict, ...]:
    """Load a world's finished runs under `folder` (the ledger), sorted by name and seed.

    Read once: a second call answers from memory unless the file has changed. Change none of the logs.
    """
    path = (folder or ledger_dir()) / f"{world}.jsonl"
    if not path.exists():
        return ()
    stat = path.stat()
    return tuple(_load(path, stat.st_mtime_ns, stat.st_size))


def load_all_runs(folder: Path | None = None) -> list[dict]:
    """Load the finished runs of all worlds under `folder`."""
    worlds = sorted(path.stem for path in (folder or ledger_dir()).glob("*.jsonl"))
    return [log for world in worlds for log in load_runs(world, folder)]


def runs_by_seed(name: str, folder: Path | None = None) -> dict[int, dict]:
    """Look up the logs of 'kd', or of another world's 'arithmetic/kd': seed → log."""
    logs = load_runs(world_of(name), folder)
    return {log["run"]["seed"]: log for log in logs if log["run"]["name"] == name}


def by_method(logs: Iterable[dict]) -> dict[str, list[dict]]:
    """Group logs by the name of the run, in the order in which names first appear."""
    groups: dict[str, list[dict]] = {}
    for log in logs:
        groups.setdefault(log["run"]["name"], []).append(log)
    return groups


# --- a run in flight ------------------------------------------------------------------------------------
def write_run(path: Path, log: dict) -> None:
    """Write a finished run's log, atomically and with a checksum, as `pack_runs` will pack it."""
    write_log(path, encode(log))


def read_run(path: Path) -> dict | None:
    """Read what `write_run` wrote; None where there is none or only a damaged one (warned)."""
    log = read_log(path)
    return None if log is None else decode(log)


def encode(log: dict) -> dict:
    """Shorten a log: grades as digits (thirds), curves rounded. Scores stay as they are."""
    short = {**log, **{k: _rounded(log[k]) for k in CURVES if k in log}}
    if "grades" in log:
        short["grades"] = ["".join(map(_digit, row)) for row in log["grades"]]
    return short


def decode(log: dict) -> dict:
    """Give the grades of a log back as numbers: '0123' → [0, 1/3, 2/3, 1]."""
    if "grades" not in log:
        return log
    return {**log, "grades": [[int(digit) / 3 for digit in row] for row in log["grades"]]}


def _digit(grade: float) -> str:
    thirds = round(3 * grade)
    if not 0 <= thirds <= 3 or abs(grade - thirds / 3) > 0.01:
        raise ValueError(f"a grade must be 0, 1/3, 2/3 or 1 to be logged, but is {grade}")
    return str(thirds)


def _rounded(value):
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return round(value, DIGITS) if isinstance(value, float) else value


# --- packing --------------------------------------------------------------------------------------------
def pack_runs(in_flight: Path, folder: Path) -> int:
    """Fold the finished runs of `in_flight` into `folder`, rewrite the scores, delete their files.

    Returns how many there were. A run that `folder` has already is replaced; all other lines stay.
    """
    paths = {path: read_log(path) for path in sorted(in_flight.glob("*.json"))}
    packed = {path: log for path, log in paths.items() if log and "scores" in log}
    add_runs(list(packed.values()), folder)
    for path in packed:
        path.unlink()
    return len(packed)


def add_runs(logs: Sequence[dict], folder: Path) -> None:
    """Add encoded logs to the JSONL of their worlds, sorted by name and seed, and rewrite the scores.

    One process at a time: a second one waits, or it would lose the lines that the first one adds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        clear_drafts(folder)
        _add_runs(logs, folder)


def _add_runs(logs: Sequence[dict], folder: Path) -> None:
    for world in {world_of(log["run"]["name"]) for log in logs}:
        path = folder / f"{world}.jsonl"
        lines = {_key(log): log for log in (_lines(path) if path.exists() else ())}
        lines |= {_key(log): log for log in logs if world_of(log["run"]["name"]) == world}
        text = [json.dumps(lines[key], separators=(",", ":")) for key in sorted(lines)]
        atomic_write(path, ("\n".join(text) + "\n").encode())
    if logs:
        atomic_write(folder / SCORES_FILE, scores_csv(folder).encode())


def scores_csv(folder: Path | None = None) -> str:
    """Compose the table of all runs: name, seed, world, seconds and every score; CSV."""
    logs = load_all_runs(folder)
    scores = list(dict.fromkeys(name for log in logs for name in log["scores"]))
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["name", "seed", "world", "seconds", *scores])
    for log in logs:
        name, seed = _key(log)
        values = [log["scores"].get(score) for score in scores]
        rows.writerow([name, seed, world_of(name), log.get("seconds"), *values])
    return text.getvalue()


def _key(log: dict) -> tuple[str, int]:
    return log["run"]["name"], log["run"]["seed"]


@lru_cache(maxsize=32)
def _load(path: Path, changed_at: int, size: int) -> list[dict]:
    """The decoded lines; when a file was changed, and its size, only tell its versions apart."""
    return [decode(log) for log in _lines(path)]


def _lines(path: Path) -> list[dict]:
    """The logs of a JSONL file; a line that is none is named in a warning and left out."""
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            log = json.loads(line)
            _key(log)
            found.append(log)
        except (ValueError, KeyError, TypeError):
            message = f"{path}, line {number} is damaged; its run will be made again"
            warnings.warn(message, stacklevel=2)
    return found
