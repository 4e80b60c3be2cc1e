"""`DistillTrainer`: the methods in transformers' Trainer; one process, two, and a run that was cut."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback

from minidistill.objectives import METHODS
from minidistill.scale import responses
from minidistill.scale.trainer import (
    DistillTrainer,
    DistillTrainingArguments,
    last_complete_checkpoint,
)
from minidistill.tasks import Example
from tests.scale.two_processes import ROWS
from tests.tiny import byte_tokenizer, tiny_lm

ROOT = Path(__file__).parents[2]
QUICK = {
    "per_device_train_batch_size": 4, "num_train_epochs": 2, "learning_rate": 1e-3, "max_new_tokens": 6,
    "logging_steps": 1, "report_to": [], "save_strategy": "no", "use_cpu": True, "disable_tqdm": True,
}  # fmt: skip


def make(
    folder,
    method="distillm2",
    train=ROWS[:16],
    held_out=ROWS[16:],
    callbacks=None,
    peft=None,
    **how,
):
    tokenizer = byte_tokenizer()
    teacher, student = (tiny_lm("llama", tokenizer, seed) for seed in (1, 2))
    args = DistillTrainingArguments(str(folder), method=method, **{**QUICK, **how})
    more = {"callbacks": callbacks, "peft_config": peft}
    return DistillTrainer(
        student, teacher, args, train, held_out, processing_class=tokenizer, **more
    )


def losses(trainer):
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def weights(trainer):
    return torch.cat([w.detach().flatten() for w in trainer.pair.student.parameters()])


@pytest.mark.parametrize("name", [name for name in METHODS if name != "dpo"])
def test_every_method_trains(name, tmp_path):
    trainer = make(tmp_path, name, num_train_epochs=1)
    before = weights(trainer).clone()
    trainer.train()
    assert len(losses(trainer)) == 4
    assert not torch.equal(before, weights(trainer))
    assert all(w.grad is None for w in trainer.pair.teacher.parameters())


def test_the_given_student_comes_nearer_to_the_given_teacher(tmp_path):
    tokenizer = byte_tokenizer()
    teacher, student = (tiny_lm("llama", tokenizer, seed) for seed in (1, 2))
    was = [[w.detach().clone() for w in model.parameters()] for model in (teacher, student)]
    args = DistillTrainingArguments(str(tmp_path), method="kd", **{**QUICK, "num_train_epochs": 10})
    trainer = DistillTrainer(
        student, teacher, args, ROWS[:16], ROWS[16:], processing_class=tokenizer
    )
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert all(torch.equal(a, b) for a, b in zip(teacher.parameters(), was[0], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(student.parameters(), was[1], strict=True))
    assert after["eval_nll_teacher"] < before["eval_nll_teacher"] - 0.02
    assert losses(trainer)[-1] < losses(trainer)[0]


@pytest.mark.parametrize("large", [False, True])
def test_accumulation_does_not_change_the_result(large, tmp_path, monkeypatch):
    if large:
        monkeypatch.setattr(responses, "LARGE", 1)
    whole = make(tmp_path / "whole")
    parts = make(tmp_path / "parts", per_device_train_batch_size=1, gradient_accumulation_steps=4)
    uneven = make(tmp_path / "uneven", per_device_train_batch_size=3, gradient_accumulation_steps=1)
    for trainer in (whole, parts, uneven):
        trainer.train()
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-4)
    torch.testing.assert_close(weights(parts), weights(whole), rtol=0, atol=1e-4)
    assert losses(uneven) != pytest.approx(losses(whole), rel=1e-3)


class Stop(TrainerCallback):
    """Kill the run after a step, as a lost machine would: nothing is tidied up."""

    def __init__(self, at):
        self.at = at

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.at:
            raise KeyboardInterrupt


@pytest.mark.parametrize(("method", "at"), [("distillm2", 3), ("distillm2", 4), ("distillm", 7)])
def test_a_run_that_was_cut_ends_where_the_unbroken_one_ends(at, method, tmp_path):
    how = {"save_strategy": "steps", "save_steps": 1}
    whole = make(tmp_path / "whole", method, **how)
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "cut", method, callbacks=[Stop(at)], **how).train()
    again = make(tmp_path / "cut", method, **how)
    again.train(resume_from_checkpoint=True)
    assert losses(again)[-1] == pytest.approx(losses(whole)[-1], rel=1e-6)
    torch.testing.assert_close(weights(again), weights(whole), rtol=0, atol=1e-6)
    assert again.evaluate() == pytest.approx(whole.evaluate())


def test_a_checkpoint_that_was_not_finished_does_not_count(tmp_path):
    assert last_complete_checkpoint(tmp_path) is None
    for step, done in ((2, True), (10, True), (12, False)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if done:
            (folder / "trainer_state.json").write_text("{}")
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")
    trainer = make(tmp_path)
    with pytest.raises(FileNotFoundError, match="it is no checkpoint of a distillation"):
        trainer.train(resume_from_checkpoint=True)


# --- several processes ------------------------------------------------------------------------------------
def run(folder, method, processes, batch, large="tables"):
    folder.mkdir()
    alone = [sys.executable, "-m"]
    shared = [
        *alone,
        "torch.distributed.run",
        "--standalone",
        f"--nproc_per_node={processes}",
        "-m",
    ]
    command = [
        *(shared if processes > 1 else alone),
        "tests.scale.two_processes",
        method,
        str(folder),
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(
        [*command, str(batch), large],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "told.json").read_text())


@pytest.mark.parametrize(
    ("method", "large"),
    [
        ("distillm2", "hidden"),
        *(pytest.param(m, "tables", marks=pytest.mark.slow) for m in ("kd", "distillm2")),
    ],
)
def test_two_processes_take_the_steps_of_one(method, large, tmp_path):
    """α's scale is measured over both, responses are sampled in shares that do not depend on how many."""
    one = run(tmp_path / "one", method, 1, 4, large)
    two = run(tmp_path / "two", method, 2, 2, large)
    assert (one["processes"], two["processes"]) == (1, 2)
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-4)
    assert two["eval"] == pytest.approx(one["eval"], rel=1e-4)


# --- what comes in ------------------------------------------------------------------------------------------
def test_datasets_conversations_and_examples_are_read(tmp_path):
    talks = [{"messages": [{"role": "user", "content": row["prompt"]}]} for row in ROWS[:8]]
    for rows in (
        Dataset.from_list(ROWS[:8]),
        Dataset.from_list(talks),
        [Example(r["prompt"]) for r in ROWS[:8]],
    ):
        trainer = make(tmp_path, "kd", rows, None)
        assert [e.prompt for e in trainer.task.train] == [row["prompt"] for row in ROWS[:8]]
    with pytest.raises(ValueError, match="row 2: "):
        make(tmp_path, "kd", [ROWS[0], {"nothing": 1}], None)


def test_settings_are_checked_before_anything_is_sampled(tmp_path):
    with pytest.raises(ValueError, match="unknown method 'distilm2'"):
        make(tmp_path, "distilm2")
    with pytest.raises(TypeError, match="method 'kd' has no setting 'alpha'"):
        make(tmp_path, "kd", method_kwargs={"alpha": 0.1})
    with pytest.raises(ValueError, match="top_p must lie in"):
        make(tmp_path, "kd", top_p=0.0)
    with pytest.raises(ValueError, match="steers its sampler by held-out prompts"):
        make(tmp_path, "distillm", held_out=None)
    with pytest.raises(ValueError, match="no slot 'sgo'"):
        make(tmp_path, "kd", feed={"sgo": "reference"})
    with pytest.raises(ValueError, match="FSDP and DeepSpeed split the weights"):
        make(tmp_path, "kd", fsdp="full_shard")
    with pytest.raises(ValueError, match="there is no eval_dataset"):
        make(tmp_path, "kd", held_out=None).evaluate()


def test_the_methods_own_settings_and_feeds_arrive(tmp_path):
    found = [
        losses(trainer)
        for trainer in (
            make(tmp_path, "skl", method_kwargs={"alpha": 0.5}, num_train_epochs=1),
            make(tmp_path, "skl", num_train_epochs=1),
            make(tmp_path, "skl", feed={"tgo": "reference"}, num_train_epochs=1),
        )
        if trainer.train()
    ]
    assert found[0][0] < found[1][0]
    assert found[2] != found[1]


# --- precision, adapters, logs ------------------------------------------------------------------------------
@pytest.mark.parametrize("large", [False, True])
def test_bfloat16_trains_float32_masters(large, tmp_path, monkeypatch):
    if large:
        monkeypatch.setattr(responses, "LARGE", 1)
    trainer = make(tmp_path, bf16=True)
    exact = make(tmp_path)
    trainer.train()
    exact.train()
    assert {w.dtype for w in trainer.pair.student.parameters()} == {torch.float32}
    assert losses(trainer) == pytest.approx(losses(exact), rel=0.1)


def test_gradient_checkpointing_gives_the_same_run(tmp_path):
    plain, saving = make(tmp_path / "a"), make(tmp_path / "b", gradient_checkpointing=True)
    plain.train()
    saving.train()
    assert losses(saving) == pytest.approx(losses(plain), rel=1e-4)


def test_adapters_alone_are_trained_and_saved(tmp_path):
    from peft import LoraConfig

    config = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = make(tmp_path, peft=config, save_strategy="epoch")
    trainer.train()
    trained = [n for n, w in trainer.pair.student.named_parameters() if w.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    assert list(tmp_path.glob("checkpoint-*/adapter_model.safetensors"))


def test_what_a_method_records_is_logged_and_evaluation_joins_it(tmp_path):
    trainer = make(tmp_path, eval_strategy="epoch")
    trainer.train()
    rows = trainer.state.log_history
    assert {"loss", "alpha_tgo", "alpha_sgo", "beta", "grad_norm"} <= rows[0].keys()
    seen = [row for row in rows if "eval_nll_teacher" in row]
    assert len(seen) == 2
    assert {"eval_nll_student", "eval_rouge_l"} <= seen[0].keys()


def test_a_loss_that_is_no_number_stops_and_names_the_prompt(tmp_path):
    trainer = make(tmp_path, "seqkd")
    with torch.no_grad():
        trainer.pair.student.model.norm.weight.fill_(float("nan"))
    trainer.rollouts.responses = {"tgo": [[5, 6]] * 16}
    trainer.probe = trainer.probe or type("P", (), {"to_dict": dict})()
    with pytest.raises(FloatingPointError, match="the loss of training prompt .* is not finite"):
        trainer.train()
