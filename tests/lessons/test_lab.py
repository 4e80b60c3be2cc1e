"""The lab: nothing before a click, a run that can be stopped and gone on with, its code, file and errors."""

import json
import math
import threading
from dataclasses import replace

import pytest

from minidistill import distill, training
from minidistill.experiments.arms import PROTOCOLS
from minidistill.experiments.tuning import tuned
from minidistill.lessons import lab as L
from minidistill.tasks import Task
from tests.conftest import build_pair

w = pytest.importorskip("ipywidgets")
HOW = {"batch_size": 4, "max_new_tokens": 4}


@pytest.fixture
def setup(tokenizer, task):
    few = Task("few", task.train[:16], task.test[:5], task.grade)
    return L.Setup(lambda: build_pair(tokenizer), few)


@pytest.fixture
def lab(setup):
    return L.Lab(setup, ["distillm2", "skl", "kd"], **HOW)


def finish(lab):
    lab.thread.join(120)
    assert not lab.thread.is_alive()


def press(lab, name):
    lab.buttons[name].click()


def test_nothing_runs_before_a_click(lab):
    assert lab.thread is None
    assert lab.picture.value == b""
    assert [b.disabled for b in lab.buttons.values()] == [False, True, True, True, False]
    assert isinstance(lab.box, w.VBox)


def test_a_click_trains_to_the_end_and_shows_curves_alphas_and_answers(lab):
    press(lab, "Train")
    finish(lab)
    (run,) = lab.runs
    assert run.finished
    assert lab.bar.value == lab.bar.max == 8
    assert bytes(lab.picture.value).startswith(b"\x89PNG")
    assert "step 8 of 8" in lab.message.value
    for row in (run.evals[0], run.evals[-1]):
        assert {"step", "nll_teacher", "nll_student", "accuracy"} <= set(row)
    assert run.evals[0]["step"] == 0
    assert set(run.alphas) == {"tgo", "sgo"}
    assert len(run.alphas["tgo"]) == 4
    assert all(set(row) == {"asked", "before", "now"} for row in run.answers)
    assert len(run.answers) == L.ANSWERS
    assert run.answers[0]["asked"] in lab.answers.value


def test_a_method_shows_and_gets_only_its_own_settings(lab):
    lab.method.value = "skl"
    shown = {control.description for control in lab._shown.children}
    assert shown == {"alpha", "lr", "epochs"}
    lab.sliders["alpha"].value = 0.3
    assert {k: v for k, v in lab.told().items() if k in lab.sliders} == {"alpha": 0.3}
    lab.method.value = "kd"
    assert not set(lab.told()) & set(lab.sliders)
    lab.method.value = "distillm2"
    assert {"alpha0", "low", "high", "beta0", "beta_end"} < set(lab.told())


def test_in_a_world_of_the_ledger_a_method_begins_with_what_won_its_search():
    here = L.Lab(L.world("instruct", prompts=16, test=5), ["kd", "gkd"])
    for name in ("kd", "gkd"):
        here.method.value = name
        won = tuned(PROTOCOLS["instruct"], name)
        assert here.told()["lr"] == pytest.approx(
            won.settings["lr"], rel=0.07
        )  # a step of the slider
        assert {k: here.told()[k] for k in won.method_kwargs} == pytest.approx(won.method_kwargs)


def test_there_are_always_two_epochs_or_more_so_that_alpha_adapts(lab):
    assert lab.epochs.min == 2


def test_a_stopped_run_goes_on_and_ends_like_one_that_was_not(lab, setup, monkeypatch):
    reached, go_on = threading.Event(), threading.Event()

    def slow(*arguments, callback, **how):
        def wait(history):
            if history.evals[-1]["step"] == 3:
                reached.set()
                assert go_on.wait(60)
            return callback(history)

        return distill(*arguments, callback=wait, **how)

    monkeypatch.setattr(L, "distill", slow)
    lab.method.value = "skl"
    press(lab, "Train")
    assert reached.wait(60)
    running = lab.thread
    lab._train()  # a click that came before the button was seen to be grey
    assert lab.thread is running
    press(lab, "Stop")
    go_on.set()
    finish(lab)
    assert "(stopped)" in lab.message.value
    assert lab.bar.value == 3
    assert not lab.buttons["Go on"].disabled
    monkeypatch.setattr(L, "distill", training.distill)
    lab.sliders["alpha"].value = 0.7  # of the next run, not of this one
    press(lab, "Go on")
    finish(lab)
    (run,) = lab.runs
    assert run.finished
    assert lab.buttons["Go on"].disabled
    whole = distill(setup.pair(), setup.task, "skl", progress=False, probe_every=1, **run.how)
    for ours, theirs in zip(run.evals, whole.evals, strict=True):
        assert ours["step"] == theirs["step"]
        assert ours["nll_teacher"] == pytest.approx(theirs["nll_teacher"], abs=1e-6)


def test_the_code_makes_the_run(lab, monkeypatch):
    few = L.world("instruct", start=1, prompts=16, test=5)
    here = L.Lab(few, ["skl"], **HOW)
    here.sliders["alpha"].value = 0.25
    press(here, "Train")
    finish(here)
    told = {}
    monkeypatch.setattr("minidistill.distill", lambda *a, **how: told.update(args=a, how=how))
    exec(here.call(), {})
    pair, task, method = told["args"]
    assert (method, told["how"]) == ("skl", here.runs[0].how)
    assert told["how"]["max_grad_norm"] == math.inf
    assert (task.train, task.test) == (few.task.train, few.task.test)
    assert next(pair.student.parameters()).equal(next(few.pair().student.parameters()))


def test_a_run_is_labelled_by_what_it_changed(lab):
    lab.sliders["high"].value = 0.5
    run = L.LabRun("here", "distillm2", lab.told())
    assert run.label == "distillm2 lr=0.001 high=0.5"


def test_code_is_shown_and_hidden(lab):
    press(lab, "Code")
    assert "distill(pair, task, &quot;distillm2&quot;" in lab.code.value
    press(lab, "Code")
    assert lab.code.value == ""


def test_the_newest_run_is_saved(lab, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lab.method.value = "kd"
    press(lab, "Train")
    finish(lab)
    press(lab, "Save")
    press(lab, "Save")
    files = sorted(tmp_path.glob("lab-*.json"))
    assert len(files) == 2
    saved = json.loads(files[0].read_text())
    assert saved["method"] == "kd"
    assert saved["evals"][-1]["step"] == 8
    assert saved["finished"]


def test_four_runs_stay_and_look_different(lab):
    run = L.LabRun(
        "here", "kd", {"lr": 1e-3, "batch_size": 4}, evals=[{"step": 1, "nll_teacher": 1.0}]
    )
    lab.runs = [replace(run) for _ in range(L.KEPT)]
    panels = lab.draw()
    assert len({(li.get_color(), li.get_linestyle()) for li in panels[0].lines}) == L.KEPT
    lab._train()
    finish(lab)
    assert len(lab.runs) == L.KEPT


def test_the_ledgers_run_lies_under_a_worlds(lab):
    here = L.Lab(L.world("instruct", prompts=16, test=5), ["kd"])
    here.runs = [
        L.LabRun("here", "kd", {"lr": 1e-3, "batch_size": 16}, evals=[{"step": 9, "accuracy": 0.2}])
    ]
    (seen, right) = here._shipped("accuracy")[0]
    assert seen[-1] == 32 * 375
    assert right[-1] > right[0]
    assert here.draw()[2].get_xlim()[1] < 1000  # only as far as the run here goes
    lab.runs = here.runs
    assert lab._shipped("accuracy") == []


def test_an_error_is_said_and_the_run_is_gone(lab):
    lab.sliders["alpha0"].value = 0.5  # above the bound of alpha after the first epoch
    press(lab, "Train")
    finish(lab)
    assert "alpha0 must lie between low" in lab.message.value
    assert lab.runs == []
    assert not lab.buttons["Train"].disabled
