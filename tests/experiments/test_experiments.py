"""The main job and what becomes of its logs."""

import contextlib
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from minidistill import load_pair
from minidistill.cli import app
from minidistill.config import DistillConfig
from minidistill.experiments import tables
from minidistill.experiments.before_and_after import distill_and_evaluate
from minidistill.runlog import read_log
from minidistill.tasks import Task, load_task

README = Path(__file__).parents[2] / "README.md"


def run_small(out: Path, *more: str) -> None:
    """`python -m minidistill run` on a few prompts."""
    few = ("--prompts", "16", "--epochs", "1", "--seeds", "1")
    app(["run", "--out", str(out), *few, *more], standalone_mode=False)


@pytest.mark.slow
def test_the_main_job_leaves_logs_table_and_figures_and_resumes(tmp_path, capsys):
    run_small(tmp_path, "--methods", "kd")
    printed = capsys.readouterr().out
    assert printed.startswith(
        f"3 runs: start (SFT), KD, teacher; seed 0; logs in {tmp_path / 'runs'}."
    )
    assert "3 of 3 runs done" in printed
    assert all(f"| {name} |" in printed for name in ("start (SFT)", "KD", "teacher"))
    assert printed.count("asked: ") == 3
    assert str(tmp_path / "table.md") in printed
    assert {p.name for p in (tmp_path / "figures").iterdir()} == {
        "nll_by_step.png",
        "accuracy_by_step.png",
    }
    kd, start = (tmp_path / "runs" / f"instruct-{m}-0.json" for m in ("kd", "start"))
    log = read_log(kd)
    assert len(log["samples"]) == len(log["evals"]) - 1
    assert {"torch", "device", "seconds", "train_seconds", "grad_norm"} <= set(log)
    kept, content = start.stat().st_mtime_ns, json.loads(kd.read_text())
    kd.write_text(kd.read_text().replace('"rouge_l": 0.', '"rouge_l": 0.9'))  # damaged by hand
    with pytest.warns(UserWarning, match="damaged"):
        run_small(tmp_path, "--methods", "kd")
    assert json.loads(kd.read_text())["scores"] == content["scores"]  # made again, the same
    assert start.stat().st_mtime_ns == kept  # and the good one was not


KILLED = """
import sys
from pathlib import Path
from minidistill.experiments.main_job import main_runs, run_main
if __name__ == "__main__":
    run_main(main_runs(["kd", "cald"], 2, prompts=200, epochs=20), Path(sys.argv[1]) / "runs")
"""


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
@pytest.mark.slow
def test_a_killed_grid_leaves_no_worker_behind(tmp_path):
    (tmp_path / "job.py").write_text(KILLED)
    command = [sys.executable, str(tmp_path / "job.py"), str(tmp_path)]
    where = {**os.environ, "GRID": str(tmp_path)}
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=where) as parent:
        try:
            wait_for(lambda: list(tmp_path.glob("runs/*responses*")))  # a worker is at work
        finally:  # or else a busy machine would wait here for the whole grid
            parent.kill()
    wait_for(lambda: not workers_of(tmp_path))


def workers_of(folder: Path) -> list[str]:
    """Processes that inherited an environment naming the folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(folder).encode() in (process / "environ").read_bytes():
                found.append(process.name)
    return found


def wait_for(what, seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.2)


def fresh():
    """The shipped pair on a handful of prompts."""
    task = load_task("instruct")
    return load_pair("instruct"), Task(task.name, task.train[:12], task.test[:6], task.grade)


def test_stopped_before_the_first_checkpoint_the_comparison_is_that_of_an_unbroken_run(
    tmp_path, monkeypatch
):
    settings = DistillConfig("kd", epochs=1, batch_size=6, max_new_tokens=12)
    unbroken = distill_and_evaluate(*fresh(), settings, {}, tmp_path / "a")
    with monkeypatch.context() as patch:
        patch.setattr(
            "minidistill.experiments.before_and_after.distill", Mock(side_effect=KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            distill_and_evaluate(*fresh(), settings, {}, tmp_path / "b")
    assert not (tmp_path / "b" / "checkpoints").exists()
    assert distill_and_evaluate(*fresh(), settings, {}, tmp_path / "b") == unbroken
    first, second = (read_log(tmp_path / x / "result.json") for x in "ab")
    assert first["probes"] == second["probes"]


def test_a_folder_of_another_run_is_refused_and_kept(tmp_path):
    settings = DistillConfig("kd", epochs=1, batch_size=6, max_new_tokens=12)
    distill_and_evaluate(*fresh(), settings, {}, tmp_path)
    kept = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    pair, task = fresh()
    with torch.no_grad():
        next(pair.student.parameters()).mul_(1.01)
    for changed in ((pair, task, settings, {}), (*fresh(), replace(settings, lr=1e-4), {})):
        with pytest.raises(ValueError, match="holds a run of another student"):
            distill_and_evaluate(*changed, tmp_path)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == kept


def test_readme_and_results_hold_what_the_logs_and_the_code_make():
    for path, made in (
        (README, tables.readme_tables()),
        (README.parent / "data" / "RESULTS.md", tables.results_tables()),
    ):
        text = path.read_text(encoding="utf-8")
        assert tables.update_tables(text, made) == text


def test_the_readme_is_short():
    assert README.stat().st_size <= 7000
