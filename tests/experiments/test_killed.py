"""A command that is killed at twenty random moments ends in the bits of one that was not."""

import json
import os
import subprocess
import sys
import time

import pytest

from minidistill.utils import data_dir

pytestmark = pytest.mark.slow
KILLS = 20
SHIPPED = data_dir() / "instruct"
PAIR = ["--teacher", str(SHIPPED / "teacher"), "--student", str(SHIPPED / "student_0")]
CLOCKS = {"seconds", "train_seconds", "sha256"}
COMMANDS = {
    "distill": ["distill", *PAIR, "--epochs", "3", "--batch-size", "8", "--prompts", "PROMPTS"],
    "lora": ["distill", *PAIR, "--method", "kd", "--lora-rank", "4", "--prompts", "PROMPTS"],
    "preference": ["apply", "preference", "--task", "instruct", "--limit", "40"],
    "quantize": ["apply", "quantize", "--bits", "2", "--train-limit", "60", "--test-limit", "20"],
    "vision": ["apply", "vision", "--limit", "64", "--epochs", "2"],
    "speculate": ["apply", "speculate", "--method", "kd", "--epochs", "1", "--limit", "2"],
}


def run(command: list[str], kills: int, longest: float = 0) -> tuple[int, float]:
    """How many tries were killed, and the seconds of all."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "tests.killed", str(kills), "0", *command],
        capture_output=True, text=True, check=False, env={**os.environ, "LONGEST": str(longest)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return int(done.stdout), time.monotonic() - started


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
        if path.is_dir() or "checkpoints" in path.parts:
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


@pytest.mark.parametrize("name", COMMANDS)
def test_twenty_kills_change_no_bit(name, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    lines = (data_dir() / "instruct" / "test.jsonl").read_text(encoding="utf-8").splitlines()[:60]
    prompts.write_text("\n".join(lines), encoding="utf-8")
    command = [str(prompts) if word == "PROMPTS" else word for word in COMMANDS[name]]
    outs = [tmp_path / "unbroken", tmp_path / "killed"]
    _, idle = run(["--help"], 0)
    _, whole = run([*command, "--out", str(outs[0])], 0)
    landed, _ = run([*command, "--out", str(outs[1])], KILLS, max(0.5, whole - idle))
    assert (
        landed >= KILLS / 4
    )  # a run that is over quickly is killed when it has nothing left to do
    assert content(outs[1]) == content(outs[0])
