"""`train`: one process, two, the same command again, and one sentence for a mistake."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from minidistill.models import load_model
from minidistill.tasks import write_examples, write_jsonl
from minidistill.utils import data_dir
from tests.commands import call

SHIPPED = data_dir() / "instruct"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def arguments(tmp_path):
    path = tmp_path / "prompts.jsonl"
    write_jsonl(path, write_examples("instruct", 20, seed=5, held_out=False, references=2))
    pair = ["--teacher", SHIPPED / "teacher", "--student", SHIPPED / "student_0", "--prompts", path]
    how = ["--epochs", 2, "--lr", "1e-3", "--max-new-tokens", 12]
    return ["train", *map(str, pair + how)]


def test_a_run_and_the_same_command_again(tmp_path, arguments):
    where = ["--batch-size", "4", "--out", str(tmp_path / "run")]
    first = call(*arguments, *where)
    assert first.returncode == 0, first.stderr
    assert "nll_teacher" in first.stdout
    told = json.loads((tmp_path / "run" / "result.json").read_text())
    assert len(told["losses"]) == 8
    assert told["after"]["eval_nll_teacher"] != told["before"]["eval_nll_teacher"]
    load_model(tmp_path / "run" / "student")
    again = call(*arguments, *where)
    assert again.returncode == 0, again.stderr
    assert json.loads((tmp_path / "run" / "result.json").read_text())["after"] == pytest.approx(
        told["after"]
    )


def test_a_folder_of_another_run_is_not_resumed(tmp_path, arguments):
    """Other settings in the same folder would go on from the old checkpoint and report the old run."""
    where = ["--batch-size", "8", "--out", str(tmp_path / "run")]
    assert call(*arguments, *where, "--method", "kd").returncode == 0
    told = (tmp_path / "run" / "result.json").read_text()
    for other in (["--method", "skl"], ["--method", "kd", "--lr", "2e-3"]):
        done = call(*arguments, *where, *other)
        assert done.returncode == 2, done.stdout
        assert "holds a run of another student, other prompts, templates or settings" in done.stderr
    assert (tmp_path / "run" / "result.json").read_text() == told


def test_adapters_are_saved_merged(tmp_path, arguments):
    done = call(*arguments, "--batch-size", "8", "--lora-rank", "2", "--out", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    model, _ = load_model(tmp_path / "run" / "student")
    assert not any("lora" in name for name, _ in model.named_parameters())


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--method", "kdd"], "unknown method 'kdd'"),
        (["--set", "alpha=2", "--method", "skl"], "alpha must lie in [0, 1]"),
        (["--feed", "sgo=references"], "unknown source 'references'"),
        (["--task", "instruct"], "give either --task NAME or --prompts"),
    ],
)
def test_a_mistake_is_a_sentence(more, says, tmp_path, arguments):
    done = call(*arguments, *more, "--out", str(tmp_path / "run"))
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_torchrun_starts_two_processes_that_take_the_steps_of_one(tmp_path, arguments):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    told = []
    for processes, batch in ((1, 4), (2, 2)):
        out = tmp_path / str(processes)
        command = [*launch, f"--nproc_per_node={processes}", "-m", "minidistill", *arguments]
        command += ["--batch-size", str(batch), "--out", str(out)]
        done = subprocess.run(
            command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr[-2000:]
        told.append(json.loads((out / "result.json").read_text()))
    one, two = told
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-3)
    for name in ("eval_nll_teacher", "eval_nll_student"):
        assert two["after"][name] == pytest.approx(one["after"][name], rel=1e-3)
