"""The command line: what it prints, what it leaves, and one sentence for each mistake."""

import json
import re
import subprocess
import sys

import pytest
import torch

from minidistill.models import load_model
from minidistill.tasks import write_examples, write_jsonl
from minidistill.utils import data_dir
from tests.commands import call

SHIPPED = data_dir() / "instruct"


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    write_jsonl(path, write_examples("instruct", 20, seed=5, held_out=False, references=2))
    return path


def refused(*arguments) -> str:
    """The one line on stderr of a command that must fail with status 2."""
    done = call(*arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_distill_any_pair_then_the_same_command_finds_it_done(tmp_path, prompts):
    pair = ("--teacher", SHIPPED / "teacher", "--student", SHIPPED / "student_0")
    where = ("--prompts", prompts, "--out", tmp_path / "run")
    arguments = ("distill", *pair, *where, "--method", "skl", "--set", "alpha=0.2", "--epochs", 1)
    first = call(*arguments)
    assert first.returncode == 0, first.stderr
    assert "nll_teacher" in first.stdout
    assert "before" in first.stdout
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["alpha"] == 0.2
    assert result["before"]["nll_teacher"] != result["after"]["nll_teacher"]
    again = call(*arguments)
    assert again.stdout == first.stdout
    evaluated = call("evaluate", *pair[:2], "--student", tmp_path / "run" / "student", *where[:2])
    assert evaluated.returncode == 0, evaluated.stderr
    assert "rouge_l" in evaluated.stdout


def test_adapters_are_trained_alone_and_saved_merged_with_answers_to_read(tmp_path, prompts):
    pair = ("--teacher", SHIPPED / "teacher", "--student", SHIPPED / "student_0")
    where = ("--prompts", prompts, "--out", tmp_path)
    done = call(
        "distill", *pair, *where, "--method", "seqkd", "--lr", 0.1, "--epochs", 5, "--lora-rank", 4
    )
    result = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert set(result["answers"][0]) == {"prompt", "teacher", "before", "after"}
    assert "after" in done.stdout
    before, after = (load_model(p)[0] for p in (SHIPPED / "student_0", tmp_path / "student"))
    moved = {n for n, w in after.state_dict().items() if not torch.equal(w, before.state_dict()[n])}
    assert moved
    assert all("proj" in name for name in moved)  # no embedding, no norm
    for name in moved:
        change = after.state_dict()[name] - before.state_dict()[name]
        assert torch.linalg.matrix_rank(change.double(), rtol=1e-3) <= 4
    refusal = refused("distill", *pair, *where, "--lora-rank", 0)
    assert "rank must be a whole number from 1, but got 0" in refusal


def test_prune_makes_a_student(tmp_path):
    done = call("prune", "--teacher", SHIPPED / "teacher", "--keep", 2, "--out", tmp_path / "s")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "s" / "config.json").read_text())["num_hidden_layers"] == 2


def test_a_misspelt_method_is_answered_with_the_nearest():
    message = refused("distill", "--task", "instruct", "--method", "distilm2")
    assert "did you mean 'distillm2'?" in message
    assert "cald" in message


def test_a_mistake_is_one_line_and_status_2_in_a_process_of_its_own():
    command = [sys.executable, "-m", "minidistill", "distill", "--task", "instrukt"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert re.fullmatch(r"error: .*did you mean 'instruct'.*\n", done.stderr)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--task", "instrukt"], ["'instrukt'", "did you mean 'instruct'"]),
        ([], ["--task NAME or --prompts FILE"]),
        (["--task", "instruct", "--set", "lam=1", "--method", "kd"], ["'kd'", "'lam'", "none"]),
        (["--task", "instruct", "--set", "alpha"], ["--set wants name=number", "'alpha'"]),
        (["--task", "instruct", "--method", "skl", "--set", "alpha=2"], ["alpha", "[0, 1]", "2"]),
        (
            ["--task", "instruct", "--template-option", "a"],
            ["--template-option wants name=value", "'a'"],
        ),
        (["--task", "instruct", "--lr", "0"], ["lr", "positive"]),
        (["--task", "instruct", "--top-p", "1.5"], ["top_p", "(0, 1]", "1.5"]),
        (["--task", "instruct", "--temperature", "-1"], ["temperature", "-1"]),
        (["--task", "instruct", "--epochs", "0"], ["epochs", "0"]),
        (["--task", "instruct", "--student", "no/such/folder"], ["no/such/folder"]),
        (["--prompts", "nowhere.jsonl"], ["nowhere.jsonl"]),
    ],
)
def test_bad_input_ends_in_one_sentence_and_writes_nothing(tmp_path, arguments, words):
    out = tmp_path / "out"
    message = refused("distill", *arguments, "--out", out)
    assert message.startswith("error: ")
    for word in words:
        assert word in message
    assert not list(out.rglob("*.pt"))


def test_a_malformed_line_is_named_and_nothing_is_written(tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "a"}\n{"prompt": 3}\n')
    message = refused("distill", "--prompts", bad, "--out", tmp_path / "out")
    assert "bad.jsonl, line 2" in message
    assert "'prompt'" in message
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path, prompts):
    (tmp_path / "file").write_text("")
    pair = ("--teacher", SHIPPED / "teacher", "--student", SHIPPED / "student_0")
    message = refused("distill", *pair, "--prompts", prompts, "--out", tmp_path / "file" / "out")
    assert "could not write" in message


def test_help_speaks_of_every_command_in_a_process_of_its_own():
    command = [sys.executable, "-m", "minidistill", "--help"]
    text = subprocess.run(command, capture_output=True, text=True).stdout
    for command in ("run", "distill", "evaluate", "teach", "prune", "table"):
        assert command in text


# --- evaluate and grade -------------------------------------------------------------------------------
def test_a_tiny_worlds_references_are_right_and_emptied_programs_are_not(tmp_path):
    for task in ("arithmetic", "program"):
        done = call("grade", "--task", task, "--limit", 20)
        assert done.stdout.splitlines() == ["20 of 20 right"], done.stderr
    done = call("grade", "--task", "program", "--responses", "emptied", "--limit", 20)
    assert done.stdout.split() == ["0", "of", "20", "right", "20", "wrong", "answer"]
    answers = tmp_path / "answers.jsonl"
    answers.write_text(
        '{"response": "i do not know"}\n{"response": "#### 1e9"}\n', encoding="utf-8"
    )
    done = call("grade", "--task", "arithmetic", "--responses", answers, "--limit", 2)
    assert done.stdout.split() == ["0", "of", "2", "right", "1", "no", "answer", "1", "wrong"]


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ('{"response": 3}', "'response' must be a text, but is 3"),
        ("[1]", "is None"),
        ("{", "not JSON"),
    ],
)
def test_responses_to_grade_are_named_by_file_line_and_field(tmp_path, line, field):
    path = tmp_path / "answers.jsonl"
    path.write_text('{"response": "a"}\n' + line + "\n", encoding="utf-8")
    message = refused("grade", "--task", "arithmetic", "--responses", path)
    assert f"{path}, line 2: " in message
    assert field in message


def test_what_grade_cannot_do_is_said_in_a_sentence(tmp_path):
    short = tmp_path / "one.jsonl"
    short.write_text('{"response": "a"}\n', encoding="utf-8")
    assert "only programs can be emptied" in refused(
        "grade", "--task", "arithmetic", "--responses", "emptied"
    )
    assert "1 responses to 1000 prompts" in refused(
        "grade", "--task", "arithmetic", "--responses", short
    )
    assert "did you mean 'program'?" in refused("grade", "--task", "programs")
    assert "did you mean 'humaneval'?" in refused("grade", "--task", "humanevl")
    assert "--prompts goes with a benchmark" in refused(
        "grade", "--task", "program", "--prompts", short
    )
    assert "give --task NAME" in refused("grade")


def test_evaluate_a_tiny_world_says_how_many_gave_no_answer():
    done = call("evaluate", "--task", "program", "--limit", 24, "--temperature", 1, "--draws", 2)
    assert done.returncode == 0, done.stderr
    names, values = (line.split() for line in done.stdout.splitlines())
    scores = dict(zip(names, map(float, values[1:]), strict=True))
    assert list(scores) == ["nll_teacher", "nll_student", "rouge_l", "accuracy", "no_answer"]
    assert 0 <= scores["accuracy"] < 0.6
    assert 0 <= scores["no_answer"] < 0.5


def test_evaluate_a_student_alone_on_a_benchmark(tmp_path):
    questions = tmp_path / "gsm8k.jsonl"
    rows = [{"question": f"What is {n} + 1?", "answer": f"#### {n + 1}"} for n in range(3)]
    questions.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    student = ("--student", data_dir() / "arithmetic" / "student_0")
    done = call("evaluate", "--task", "gsm8k", "--prompts", questions, *student)
    assert done.returncode == 0, done.stderr
    assert "accuracy" in done.stdout
