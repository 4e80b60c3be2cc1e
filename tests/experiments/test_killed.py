"""A command that is killed at twenty random moments ends in the bits of one that was not."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minidistill.utils import data_dir

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
KILLS = 20
SHIPPED = data_dir() / "instruct"
PAIR = ["--teacher", str(SHIPPED / "teacher"), "--student", str(SHIPPED / "student_0")]
DISTILL = ["distill", *PAIR, "--prompts", "prompts.jsonl"]
CLOCKS = {"seconds", "train_seconds", "sha256"}
COMMANDS = {
    "distill": [*DISTILL, "--epochs", "3", "--batch-size", "8"],
    "lora": [*DISTILL, "--method", "kd", "--lora-rank", "4"],
    "train": ["train", *PAIR, "--prompts", "prompts.jsonl", "--max-new-tokens", "12"],
    "preference": ["apply", "preference", "--task", "instruct", "--limit", "40"],
    "quantize": ["apply", "quantize", "--bits", "2", "--train-limit", "60", "--test-limit", "20"],
    "vision": ["apply", "vision", "--limit", "64", "--epochs", "2"],
    "speculate": ["apply", "speculate", "--method", "kd", "--epochs", "1", "--limit", "2"],
}


def run(command: list[str], out: Path, kills: int = 0, longest: float = 0) -> tuple[float, int]:
    """Run a command to its end in the folder `out`; the seconds it took, and how many states kills left."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "tests.killed", str(kills), str(longest), out, *command],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return time.monotonic() - started, int(done.stdout)


def killed_and_unbroken(command: list[str], folder: Path) -> tuple[list[dict], dict]:
    """The contents of all folders in which a run that was killed ended, and of that of a run that was not.

    `folder`: what the command finds where it runs.
    """
    unbroken, killed = folder.with_name("unbroken"), folder.with_name("killed")
    shutil.copytree(folder, unbroken)
    shutil.copytree(folder, killed)
    idle, _ = run(["--help"], folder)
    whole, _ = run(command, unbroken)
    _, states = run(command, killed, KILLS, max(0.5, (whole - idle) / 2))
    assert states > 2, "kills that leave nothing to resume from show nothing"
    ends = [killed, *killed.parent.glob("killed-[1-9]*")]
    return [content(end) for end in ends], content(unbroken)


def without_clocks(value):
    if isinstance(value, dict):
        return {k: without_clocks(v) for k, v in value.items() if k not in CLOCKS}
    if not isinstance(value, list):
        return value
    found = [without_clocks(v) for v in value]
    # peft writes the names of layers in the order of a set, another one in each process.
    return sorted(found) if all(isinstance(v, str) and "_proj" in v for v in found) else found


def content(folder) -> dict:
    """All files by name but checkpoints: JSON without its clocks, others as bytes."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_dir() or any(part.startswith("checkpoint") for part in path.parts):
            continue
        found[str(path.relative_to(folder))] = (
            [
                without_clocks(json.loads(line))
                for line in path.read_text(encoding="utf-8").splitlines()
            ]
            if path.suffix == ".jsonl"
            else without_clocks(json.loads(path.read_text(encoding="utf-8")))
            if path.suffix == ".json"
            else path.read_bytes()
        )
    return found


def test_twenty_kills_change_no_bit_of_a_ledger(tmp_path):
    """What is made anew: a run that is measured and one that is trained."""
    ledger = tmp_path / "folder" / "ledger"
    shipped = (data_dir() / "ledger" / "instruct.jsonl").read_text(encoding="utf-8").splitlines()
    kept = [line for line in shipped if json.loads(line)["run"]["name"] != "start"]
    ledger.mkdir(parents=True)
    (ledger / "instruct.jsonl").write_text("\n".join(kept) + "\n", encoding="utf-8")
    command = ["claims", "run", "start", "kd_p64", "--seeds", "1", "--out", "ledger"]
    killed, unbroken = killed_and_unbroken(command, ledger.parent)
    assert len(unbroken["ledger/instruct.jsonl"]) == len(kept) + 2
    for found in killed:
        assert found["ledger/instruct.jsonl"] == unbroken["ledger/instruct.jsonl"]


@pytest.mark.parametrize("name", COMMANDS)
def test_twenty_kills_change_no_bit(name, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    prompts = folder / "prompts.jsonl"
    lines = (data_dir() / "instruct" / "test.jsonl").read_text(encoding="utf-8").splitlines()[:60]
    prompts.write_text("\n".join(lines), encoding="utf-8")
    killed, unbroken = killed_and_unbroken([*COMMANDS[name], "--out", "run"], folder)
    for found in killed:
        assert found == unbroken
