"""Lesson 00: its loop's batches are the library's, its schematic is drawn alike each time, the replay."""

from dataclasses import replace

import pytest
import torch

from minidistill import distill, load_pair, load_task
from minidistill.generation import sample
from minidistill.lessons import lesson_00_start_here as lesson
from minidistill.lessons import plots
from minidistill.logprobs import response_log_probs
from minidistill.training import lr_schedule

RATE = 1e-3


@pytest.fixture(scope="module")
def small():
    task = load_task("instruct")
    return replace(task, train=task.train[:20], test=task.test[:8])


def test_a_loop_over_its_batches_with_its_loss_ends_in_the_librarys_weights(small):
    pair = load_pair("instruct")
    prompts = [pair.encode(example) for example in small.train]
    tgo = sample(pair.teacher, prompts, pair, seed=1)
    batches = list(lesson.batches(pair, prompts, tgo, epochs=2, size=8, seed=4))
    optimizer = torch.optim.AdamW(pair.student.parameters(), weight_decay=0.0)
    for step, batch in enumerate(batches):
        with torch.no_grad():
            log_p = response_log_probs(pair.teacher, batch, pair.vocab_size)
        log_q = response_log_probs(pair.student, batch, pair.vocab_size)
        for group in optimizer.param_groups:
            group["lr"] = RATE * lr_schedule(step / len(batches))
        optimizer.zero_grad()
        lesson.kd_loss(log_p, log_q, batch.mask).backward()
        optimizer.step()
    library = load_pair("instruct")
    how = {"epochs": 2, "batch_size": 8, "lr": RATE, "seed": 4, "max_grad_norm": float("inf")}
    distill(library, small, "kd", tgo=tgo, progress=False, **how)
    for ours, theirs in zip(pair.student.parameters(), library.student.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("writer", ["teacher", "student"])
def test_the_schematic_is_the_same_text_each_time_and_says_who_writes(writer):
    first, again = (plots.svg(lesson.schematic(writer), "what the boxes say") for _ in range(2))
    assert first == again
    assert f"the {writer}" in first
    assert "<title>what the boxes say</title>" in first
    assert "<dc:date>" not in first


@pytest.fixture(scope="module")
def logs():
    return lesson.first_logs(("start", "kd", "dpkd", "cald", "teacher"))


@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_the_replay_shows_the_step_and_what_was_said(logs, place):
    last = len(logs["kd"]["evals"]) - 1
    probe = {"first": 0, "middle": last // 2, "last": last}[place]
    curves, words = lesson.training_explorer(logs)(probe, 3).axes
    assert curves.get_title(loc="left") == f"step {logs['kd']['evals'][probe]['step']}"
    assert {line.get_label() for line in curves.lines if line.get_label()[0] != "_"} == {
        "kd",
        "dpkd",
        "cald",
    }
    text = " ".join(words.texts[0].get_text().split())
    said = logs["kd"]["samples"][probe - 1][3] if probe else logs["start"]["samples"][-1][3]
    assert " ".join(said.split()[:5]) in text


def test_what_the_lesson_says_of_the_shipped_runs(logs):
    final = {name: log["scores"] for name, log in logs.items()}
    assert final["teacher"]["accuracy"] > 0.95
    assert final["kd"]["accuracy"] > final["start"]["accuracy"] + 0.3
    assert final["dpkd"]["accuracy"] < 0.05
    broken = [row["accuracy"] for row in logs["dpkd"]["evals"][1:]]
    assert max(broken[3:]) < 0.05
