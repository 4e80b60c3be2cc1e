"""The train button: nothing before a click, one run at a time, a stop that stops, errors in words."""

import threading

import pytest

from minidistill import training
from minidistill.lessons import train_panel
from minidistill.tasks import Task
from tests.conftest import build_pair

w = pytest.importorskip("ipywidgets")


@pytest.fixture
def few(task):
    return Task("few", task.train[:16], task.test[:4], task.grade)


@pytest.fixture
def panel(tokenizer, few):
    sliders = {"alpha": (0.0, 0.5, 0.1), "beta": (0.0, 1.0, 0.5)}
    how = {"batch_size": 4, "max_new_tokens": 4, "probe_every": 1}
    return train_panel.TrainPanel(
        lambda: build_pair(tokenizer), few, ["cald", "skl"], sliders, **how
    )


def finish(panel):
    panel.thread.join(60)
    assert not panel.thread.is_alive()


def test_nothing_runs_before_a_click(panel):
    assert panel.thread is None
    assert panel.picture.value == b""
    assert panel.stop.disabled
    assert isinstance(panel.box, w.VBox)


def test_a_click_trains_to_the_end_and_draws(panel):
    panel.train.click()
    finish(panel)
    assert panel.bar.value == panel.bar.max == 4
    assert bytes(panel.picture.value).startswith(b"\x89PNG")
    assert "step 4 of 4" in panel.message.value
    assert not panel.train.disabled
    assert panel.stop.disabled
    (name,) = panel.runs
    assert name == "cald alpha=0.1 beta=0.5"


def test_the_sliders_reach_the_run_and_a_method_gets_only_its_own(panel):
    panel.sliders["alpha"].value = 0.3
    panel.method.value = "skl"
    assert panel.settings() == {"alpha": 0.3}
    for alpha in (0.3, 0.0):
        panel.sliders["alpha"].value = alpha
        panel.train.click()
        finish(panel)
    assert list(panel.runs) == ["skl alpha=0.3", "skl alpha=0"]
    first, second = (probes[-1]["nll_teacher"] for probes in panel.runs.values())
    assert first != second


def test_a_second_click_while_it_runs_starts_nothing_and_stop_stops(panel, monkeypatch):
    reached, go_on, real = threading.Event(), threading.Event(), training.distill

    def slow(*arguments, callback, **how):
        def wait(history):
            reached.set()
            assert go_on.wait(30)
            return callback(history)

        return real(*arguments, callback=wait, **how)

    monkeypatch.setattr(train_panel, "distill", slow)
    panel.train.click()
    assert reached.wait(30)
    running = panel.thread
    assert panel.train.disabled
    assert not panel.stop.disabled
    panel._start()  # a click that came before the button was seen to be grey
    assert panel.thread is running
    panel.stop.click()
    go_on.set()
    finish(panel)
    assert panel.bar.value == 1
    assert "(stopped)" in panel.message.value
    assert bytes(panel.picture.value).startswith(b"\x89PNG")
    monkeypatch.setattr(train_panel, "distill", real)
    panel.train.click()  # and it can be started again
    finish(panel)
    assert panel.bar.value == 4


def test_runs_of_one_method_look_different_and_lie_over_the_shipped_log(panel):
    panel.shipped = {
        "shipped cald": [{"step": s, "nll_teacher": 3.0, "nll_student": 3.0} for s in (0, 9)]
    }
    panel.runs = {f"cald alpha={a}": panel.shipped["shipped cald"] for a in (0, 0.1)}
    ax = train_panel.plots.axes()
    panel._draw(ax, "nll_student")
    looks = {(line.get_color(), line.get_linestyle(), line.get_marker()) for line in ax.lines}
    assert len(looks) == 3
    assert [t.get_text() for t in ax.get_legend().get_texts()] == [*panel.shipped, *panel.runs]
    assert ax.get_xlim()[1] < 9  # only as far as a run here goes


def test_an_error_is_said_under_the_panel(panel, monkeypatch):
    def broken(*_, **__):
        raise ValueError("alpha must lie in <[0, 1]>")

    monkeypatch.setattr(train_panel, "distill", broken)
    panel.train.click()
    finish(panel)
    assert "ValueError" in panel.message.value
    assert "&lt;[0, 1]&gt;" in panel.message.value
    assert not panel.train.disabled
