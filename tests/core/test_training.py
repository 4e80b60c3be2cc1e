"""The loop: what it computes, what it leaves alone, what survives a kill."""

import copy
import gc
import inspect
import math
import os
import random
import signal
import subprocess
import sys
from dataclasses import fields
from itertools import cycle, islice
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from minidistill import checkpoint, distill, rollouts
from minidistill.cli.distill import distill as distill_command
from minidistill.config import DistillConfig
from minidistill.evaluation import make_probe
from minidistill.objectives import METHODS, method
from minidistill.tasks import Task
from minidistill.training import Trainer, lr_schedule
from tests.conftest import build_pair

QUICK = {"epochs": 1, "batch_size": 16, "max_new_tokens": 4, "progress": False}


def weights_of(model):
    return copy.deepcopy(model.state_dict())


def same(a, b):
    return all(torch.equal(a[key], b[key]) for key in a)


# --- one step of everything -------------------------------------------------------------------------
@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains(pair, few, name):
    student, teacher = weights_of(pair.student), weights_of(pair.teacher)
    history = distill(pair, few, name, **{**QUICK, "batch_size": 4})
    assert [step["step"] for step in history.steps] == [0, 1]
    assert all(math.isfinite(step["loss"]) and step["loss"] > 0 for step in history.steps)
    assert not same(weights_of(pair.student), student)
    assert same(weights_of(pair.teacher), teacher)
    assert all(w.grad is None for w in pair.teacher.parameters())


@pytest.mark.parametrize("name", ["kd", "sft", "seqkd"])
def test_training_lowers_its_loss(pair, few, name):
    history = distill(pair, few, name, **{**QUICK, "epochs": 12, "lr": 3e-3})
    losses = [step["loss"] for step in history.steps]
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])


# --- gradient accumulation --------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["kd", "distillm2"])
def test_accumulated_parts_add_up_to_the_whole_batch(tokenizer, task, monkeypatch, name):
    # Plain gradient descent, for Adam would blow rounding up where a gradient is almost zero.
    monkeypatch.setattr(torch.optim, "AdamW", lambda w, lr, **_: torch.optim.SGD(w, lr=lr))
    runs = []
    for parts_per_step in (1, 3):
        pair = build_pair(tokenizer)
        how = {**QUICK, "epochs": 2, "lr": 0.1, "gradient_accumulation_steps": parts_per_step}
        runs.append((distill(pair, task, name, **how), weights_of(pair.student)))
    (whole, weights), (parts, others) = runs
    start = build_pair(tokenizer).student.state_dict()
    assert max(float((weights[k] - start[k]).abs().max()) for k in start) > 1e-3
    for key in weights:
        torch.testing.assert_close(others[key], weights[key], rtol=0, atol=2e-5)
    for a, b in zip(whole.steps, parts.steps, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)


# --- resuming ---------------------------------------------------------------------------------------
RESUMABLE = {**QUICK, "epochs": 3, "seed": 5}
KILLED = """
import os, signal
from minidistill import distill
from minidistill.tasks import Task, get_world, write_examples
from minidistill.models import word_tokenizer
from tests.conftest import build_pair
from tests.core.test_training import RESUMABLE
train = write_examples("instruct", 48, seed=1, held_out=False, references=2)
test = write_examples("instruct", 24, seed=2, held_out=True, references=2)
pair = build_pair(word_tokenizer(get_world("instruct").words))
def kill(history):
    if len(history.steps) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
distill(pair, Task("instruct", train, test), out={out!r}, callback=kill, **RESUMABLE)
"""


def test_a_killed_run_resumes_to_the_bits_of_an_unbroken_one(tokenizer, task, tmp_path):
    killed = subprocess.run(
        [sys.executable, "-c", KILLED.format(out=str(tmp_path))],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    saved = checkpoint.load_latest(tmp_path / "checkpoints")
    assert saved["step"] == 3  # the end of the first epoch; steps 4 and 5 were lost
    resumed, unbroken = build_pair(tokenizer), build_pair(tokenizer)
    seen = []
    history = distill(
        resumed, task, out=tmp_path, callback=lambda h: seen.append(len(h.steps)), **RESUMABLE
    )
    assert seen[0] == 4
    expected = distill(unbroken, task, **RESUMABLE)
    assert same(weights_of(resumed.student), weights_of(unbroken.student))
    assert history.steps == expected.steps
    assert history.evals == expected.evals
    assert history.probe == expected.probe


@pytest.mark.parametrize("name", ["distillm2", "sft", "speculative_kd"])
def test_a_run_stopped_within_an_epoch_resumes_to_the_same_bits(tokenizer, task, tmp_path, name):
    resumed, unbroken = build_pair(tokenizer), build_pair(tokenizer)
    stopped = distill(
        resumed, task, name, out=tmp_path, callback=lambda h: len(h.steps) == 4, **RESUMABLE
    )
    assert len(stopped.steps) == 4
    fresh = build_pair(tokenizer)
    history = distill(fresh, task, name, out=tmp_path, **RESUMABLE)
    expected = distill(unbroken, task, name, **RESUMABLE)
    assert same(weights_of(fresh.student), weights_of(unbroken.student))
    assert (history.steps, history.evals) == (expected.steps, expected.evals)


def test_a_finished_run_is_not_trained_again(tokenizer, few, tmp_path):
    pair, again = build_pair(tokenizer), build_pair(tokenizer)
    history = distill(pair, few, "kd", out=tmp_path, **QUICK)
    repeated = distill(again, few, "kd", out=tmp_path, **QUICK)
    assert repeated.steps == history.steps
    assert repeated.evals == history.evals
    assert same(weights_of(again.student), weights_of(pair.student))


def test_a_folder_that_another_run_writes_to_is_left_alone(tokenizer, few, tmp_path):
    pair = build_pair(tokenizer)
    before = weights_of(pair.student)
    with FileLock(tmp_path / ".lock"), pytest.raises(ValueError, match="in use by another run"):
        distill(pair, few, "kd", out=tmp_path, **QUICK)
    assert same(weights_of(pair.student), before)
    assert not (tmp_path / "checkpoints").exists()
    distill(pair, few, "kd", out=tmp_path, **QUICK)
    assert not (tmp_path / ".lock").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"lr": 2e-3},
        {"method": "skl"},
        {"alpha": 0.2},
        {"task": Task("other", [], [])},
    ],
)
def test_resuming_with_other_settings_or_prompts_is_refused(tokenizer, few, tmp_path, change):
    first = {"method": "cald", "task": few, **QUICK}
    distill(build_pair(tokenizer), out=tmp_path, **first)
    if "task" in change:
        change = {"task": Task("few", few.train[::-1], few.test)}
    before = sorted((tmp_path / "checkpoints").iterdir())
    with pytest.raises(ValueError, match="holds a run of another student") as error:
        distill(build_pair(tokenizer), out=tmp_path, **{**first, **change})
    assert str(tmp_path) in str(error.value)
    assert sorted((tmp_path / "checkpoints").iterdir()) == before


def test_a_damaged_newest_checkpoint_costs_an_epoch_and_not_the_result(
    tokenizer, few, tmp_path, monkeypatch
):
    how = {**QUICK, "epochs": 2, "batch_size": 4}
    whole = build_pair(tokenizer)
    expected = distill(whole, few, "cald", out=tmp_path, **how)
    newest = max((tmp_path / "checkpoints").iterdir())
    newest.write_bytes(newest.read_bytes()[:-1])
    repaired = build_pair(tokenizer)
    with pytest.warns(UserWarning, match=newest.name):
        history = distill(repaired, few, "cald", out=tmp_path, **how)
    assert history.steps == expected.steps
    assert same(weights_of(repaired.student), weights_of(whole.student))


def test_checkpoints_within_an_epoch_are_saved_by_the_clock(pair, few, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "SAVE_EVERY_SECONDS", -1)
    saved = []
    monkeypatch.setattr(checkpoint, "save", lambda folder, step, state: saved.append(step))
    distill(pair, few, "kd", out=tmp_path, **{**QUICK, "batch_size": 2})
    assert saved[:4] == [1, 2, 3, 4]


# --- numbers that are none ----------------------------------------------------------------------------
def break_weight(model):
    with torch.no_grad():
        model.model.norm.weight[0] = math.nan


def test_a_weight_that_is_not_a_number_stops_the_run_and_the_checkpoint_stays(pair, task, tmp_path):
    # Three steps an epoch; the weight breaks after the fourth.
    def sabotage(history):
        if len(history.steps) == 4:
            break_weight(pair.student)

    with pytest.raises(FloatingPointError, match=r"step 4: .* training prompt (\d+) is nan") as e:
        distill(pair, task, out=tmp_path, callback=sabotage, **{**QUICK, "epochs": 2})
    assert any(repr(example.prompt) in str(e.value) for example in task.train)
    assert "the last checkpoint stays" in str(e.value)
    state = checkpoint.load_latest(tmp_path / "checkpoints")
    assert state["step"] == 3
    assert all(w.isfinite().all() for w in state["student"].values())


def test_weights_that_break_at_an_epochs_end_are_not_saved(pair, task, tmp_path):
    def sabotage(history):
        if len(history.steps) == 6:
            break_weight(pair.student)

    with pytest.raises(FloatingPointError, match="step 6: a weight of the student is not finite"):
        distill(pair, task, out=tmp_path, callback=sabotage, **{**QUICK, "epochs": 3})
    assert checkpoint.load_latest(tmp_path / "checkpoints")["step"] == 3


def test_a_student_that_breaks_before_it_is_sampled_names_step_and_prompt(pair, task):
    def sabotage(history):
        if len(history.steps) == 3:
            break_weight(pair.student)

    with pytest.raises(FloatingPointError, match=r"step 3: the logits after prompt \d+ are not"):
        distill(pair, task, callback=sabotage, **{**QUICK, "epochs": 2})


def test_a_teacher_that_is_not_a_number_stops_at_step_0(pair, few):
    probe, tgo = make_probe(pair, few, max_new_tokens=3), [[9, 8, 1]] * 8
    break_weight(pair.teacher)
    with pytest.raises(FloatingPointError, match="step 0: the loss of training prompt"):
        distill(pair, few, "kd", probe=probe, tgo=tgo, **QUICK)


def test_a_gradient_that_is_not_a_number_stops_before_the_step(pair, few):
    @method
    def rootless(tgo):
        """The root of zero: a fine value with no gradient."""
        return (0 * tgo.mean(tgo.token_log_q)).abs().sqrt()

    before = weights_of(pair.student)
    try:
        with pytest.raises(FloatingPointError, match="step 0: the gradient is nan"):
            distill(pair, few, "rootless", **QUICK)
    finally:
        del METHODS["rootless"]
    assert same(weights_of(pair.student), before)


# --- what a run leaves alone ------------------------------------------------------------------------
def test_global_random_states_are_untouched(pair, few):
    torch.manual_seed(12345)  # a state that no earlier run of this file can have left behind
    torch_state, python_state = torch.random.get_rng_state(), random.getstate()
    distill(pair, few, **QUICK)
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    assert random.getstate() == python_state


def test_the_same_seed_gives_the_same_run_and_another_seed_another(tokenizer, few):
    def run(seed):
        torch.manual_seed(random.randrange(1000))
        pair = build_pair(tokenizer)
        return distill(pair, few, **{**QUICK, "seed": seed}).steps, weights_of(pair.student)

    (steps, weights), (again, other_weights), (other, _) = run(0), run(0), run(1)
    assert steps == again
    assert same(weights, other_weights)
    assert other != steps


def test_dropout_draws_anew_at_each_step_and_the_same_in_a_repeated_run(tokenizer, few):
    drawn = []

    @method
    def dice(tgo):
        """What a dropout layer would see of the generator."""
        drawn.append(float(torch.rand(1)))
        return tgo.mean(-tgo.token_log_q)

    try:
        for _ in range(2):
            distill(build_pair(tokenizer), few, "dice", **{**QUICK, "batch_size": 2})
    finally:
        del METHODS["dice"]
    assert len(set(drawn)) == 4
    assert drawn[:4] == drawn[4:]


# --- what the teacher costs ---------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "calls"),
    [("sft", 0), ("seqkd", 0), ("kd", 1), ("imitkd", 2), ("cald", 1 + 2), ("dpkd", 1 + 1)],
)
def test_the_teacher_scores_fixed_responses_once_a_run_and_the_students_once_an_epoch(
    pair, task, name, calls
):
    probe, tgo, count = make_probe(pair, task, max_new_tokens=3), [[9, 8, 1]] * 48, []
    pair.teacher.register_forward_hook(lambda *_: count.append(1))
    distill(pair, task, name, probe=probe, tgo=tgo, **{**QUICK, "epochs": 2})
    assert len(count) == calls


def test_remembered_and_fresh_teacher_scores_train_alike(tokenizer, few, monkeypatch):
    runs, tgo = [], [list(range(9, 9 + length)) for length in range(8)]  # an empty one among them
    for limit in (2**30, 0):
        monkeypatch.setattr("minidistill.rollouts.TEACHER_CACHE_BYTES", limit)
        runs.append(
            distill(build_pair(tokenizer), few, "kd", tgo=tgo, **{**QUICK, "batch_size": 3})
        )
    for a, b in zip(runs[0].steps, runs[1].steps, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)


def test_ten_thousand_prompts_make_no_larger_batches_and_leave_no_more_tensors(
    tokenizer, task, monkeypatch
):
    """What is kept of a prompt are its text and token ids, a kilobyte; its log-probs would be tens."""
    monkeypatch.setattr("minidistill.rollouts.TEACHER_CACHE_BYTES", 2**20)
    largest, alive = [], []

    def measure(history):
        tensors = [o for o in gc.get_objects() if issubclass(type(o), torch.Tensor)]
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
        alive.append(sum(storages.values()))
        return True

    for count in (1_000, 10_000):
        pair, logits = build_pair(tokenizer), []
        for model in (pair.teacher, pair.student):
            model.register_forward_hook(lambda *seen, n=logits: n.append(seen[2].logits.numel()))
        many = Task("many", list(islice(cycle(task.train), count)), task.test)
        distill(pair, many, "distillm2", probe_every=1, callback=measure, **QUICK)
        largest.append(max(logits))
    assert largest[1] <= 1.1 * largest[0]
    assert alive[1] <= 1.1 * alive[0]


def test_the_teachers_responses_are_sampled_once_and_the_students_each_epoch(
    pair, few, monkeypatch
):
    asked = []
    real = rollouts.Rollouts.collect

    def spy(self, epoch):
        real(self, epoch)
        asked.append(copy.deepcopy(self.responses))

    monkeypatch.setattr(rollouts.Rollouts, "collect", spy)
    distill(pair, few, "cald", lr=1e-12, **{**QUICK, "epochs": 2})  # so only the seed differs
    assert asked[0]["tgo"] == asked[1]["tgo"]
    assert asked[0]["sgo"] != asked[1]["sgo"]


def test_the_students_first_responses_are_those_of_the_student_before_training(
    pair, few, monkeypatch
):
    asked = []
    real = rollouts.Rollouts.collect

    def spy(self, epoch):
        real(self, epoch)
        asked.append(copy.deepcopy(self.responses["initial_sgo"]))
        fresh = rollouts.Rollouts(pair, few, {"sgo": "sgo"}, self.config)
        real(fresh, 0)
        asked.append(fresh.responses["sgo"])

    monkeypatch.setattr(rollouts.Rollouts, "collect", spy)
    distill(pair, few, "dpkd", lr=1e-2, **{**QUICK, "epochs": 2})
    first, start, second, trained = asked
    assert first == start == second != trained


# --- the record ---------------------------------------------------------------------------------------
def test_the_history_holds_every_step_and_a_probe_at_each_interval(pair, task):
    history = distill(pair, task, probe_every=2, **{**QUICK, "epochs": 2})
    assert (history.config.method, history.config.epochs, history.config.seed) == (
        "distillm2",
        2,
        0,
    )
    assert history.method_kwargs == {}
    assert [(s["step"], s["epoch"]) for s in history.steps] == [(i, i // 3) for i in range(6)]
    assert [p["step"] for p in history.evals] == [0, 2, 4, 6]
    assert all(0 < p[k] < 20 for p in history.evals for k in ("nll_teacher", "nll_student"))
    assert [s["beta"] for s in history.steps] == pytest.approx(
        [0.5 + 0.25 * min(1, 2 * i / 6) for i in range(6)]
    )
    assert [s["alpha_tgo"] for s in history.steps[:3]] == pytest.approx([0.1] * 3)
    assert all(0.01 <= s["alpha_sgo"] <= 0.1 + 1e-7 for s in history.steps[3:])
    assert [s["lr"] for s in history.steps] == pytest.approx(
        [1e-3 * lr_schedule(i / 6) for i in range(6)]
    )
    assert len(history.probe.prompts) == len(history.probe.tgo) == len(task.test)


def test_a_callback_that_returns_true_stops(pair, task):
    history = distill(
        pair, task, "kd", callback=lambda h: len(h.steps) >= 2, **{**QUICK, "epochs": 5}
    )
    assert len(history.steps) == 2


def test_a_callback_of_the_loop_is_called_at_the_start_and_after_each_step_until_it_stops(
    pair, task
):
    class Count:
        seen = []

        def on_train_begin(self, trainer):
            self.seen.append(("begin", trainer.step))

        def on_step_end(self, trainer):
            self.seen.append(("end", trainer.step))
            trainer.should_stop = trainer.step == 2

    config = DistillConfig("kd", epochs=2, batch_size=16, max_new_tokens=4)
    trainer = Trainer(pair, task, config)
    trainer.callbacks = [Count()]
    history = trainer.train(progress=False)
    assert Count.seen == [("begin", 0), ("end", 1), ("end", 2)]
    assert len(history.steps) == 2
    assert history.config is config


def test_distill_and_its_command_have_the_defaults_of_the_config():
    for function in (distill, distill_command):
        parameters = inspect.signature(function).parameters
        for setting in fields(DistillConfig):
            if setting.name != "source_overrides":
                assert parameters[setting.name].default == setting.default, setting.name


def test_the_learning_rate_warms_up_stays_and_falls_to_zero():
    assert lr_schedule(0.0) == pytest.approx(0.02)
    assert lr_schedule(0.02) < lr_schedule(0.04) < lr_schedule(0.05)
    assert lr_schedule(0.06) == lr_schedule(0.69) == 1.0
    assert lr_schedule(0.85) == pytest.approx(0.5)
    assert lr_schedule(1.0) == pytest.approx(0.0, abs=1e-12)


def first_update(tokenizer, few, **how) -> tuple[float, list]:
    """The gradient's norm and all weights after one step of plain gradient descent."""
    pair = build_pair(tokenizer)
    steps = distill(
        pair, few, "kd", **{**QUICK, "epochs": 1, "batch_size": 99, "lr": 0.1, **how}
    ).steps
    return steps[0]["grad_norm"], list(weights_of(pair.student).values())


def test_a_longer_gradient_is_scaled_to_max_grad_norm_and_inf_leaves_it(
    tokenizer, few, monkeypatch
):
    monkeypatch.setattr(torch.optim, "AdamW", lambda w, lr, **_: torch.optim.SGD(w, lr=lr))
    start = list(weights_of(build_pair(tokenizer).student).values())
    norm, free = first_update(tokenizer, few, max_grad_norm=math.inf)
    clipped_norm, clipped = first_update(tokenizer, few, max_grad_norm=norm / 4)
    assert clipped_norm == pytest.approx(norm), "what is logged is the norm before the clip"
    for w, a, b in zip(start, free, clipped, strict=True):
        torch.testing.assert_close(b - w, (a - w) / 4, rtol=1e-3, atol=1e-7)


def test_adam_beta2_is_the_optimizers(pair, few):
    config = DistillConfig("kd", adam_beta2=0.95)
    assert Trainer(pair, few, config).optimizer.param_groups[0]["betas"] == (0.9, 0.95)


# --- bad input ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("setting", "bad"),
    [
        *(
            (name, bad)
            for name in ("epochs", "batch_size", "gradient_accumulation_steps")
            for bad in (0, -1, 1.5)
        ),
        *(("lr", bad) for bad in (0.0, -1e-3, math.nan, math.inf)),
        *(("temperature", bad) for bad in (0.0, -1.0, math.nan, math.inf)),
        *(("top_p", bad) for bad in (0.0, 1.5, math.nan)),
        *(("epsilon", bad) for bad in (-0.1, 1.5, math.nan)),
        *(("max_grad_norm", bad) for bad in (0.0, -1.0, math.nan)),
        *(("adam_beta2", bad) for bad in (-0.1, 1.0, math.nan)),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_name_and_value(shared_pair, few, setting, bad):
    with pytest.raises(ValueError, match=rf"{setting} must .*, but got {bad}"):
        distill(shared_pair, few, "kd", progress=False, **{setting: bad})


def test_an_unknown_method_or_setting_is_refused_before_anything_is_sampled(
    shared_pair, few, monkeypatch
):
    monkeypatch.setattr("minidistill.evaluation.sample", None)
    with pytest.raises(ValueError, match="did you mean 'distillm2'"):
        distill(shared_pair, few, "distilm2")
    with pytest.raises(TypeError, match="'cald' has no setting 'lam'; it has: alpha, beta"):
        distill(shared_pair, few, "cald", lam=0.5)


def test_a_folder_that_cannot_be_written_gives_a_sentence(pair, few, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="could not write .*No space left on device"):
        distill(pair, few, "kd", out=tmp_path, **QUICK)
