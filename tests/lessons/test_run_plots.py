"""The replay of shipped runs: every place of both sliders gives a picture with that step's answers."""

import pytest

from minidistill.experiments import logs as logs_module
from minidistill.experiments.labels import START, run_label
from minidistill.experiments.logs import by_method, shipped_runs
from minidistill.lessons import run_plots


@pytest.fixture(scope="module")
def logs():
    return shipped_runs()


@pytest.mark.parametrize("prompt", [0, 6, 7])
@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_the_picture_shows_the_step_and_what_was_said(logs, place, prompt):
    last = len(logs[-1]["evals"]) - 1
    probe = {"first": 0, "middle": last // 2, "last": last}[place]
    curves, words = run_plots.step_explorer(logs)(probe, prompt).axes
    step = logs[-1]["evals"][probe]["step"]
    assert curves.get_title(loc="left") == f"step {step}"
    text = " ".join(words.texts[0].get_text().split())
    for method, rows in by_method(logs).items():
        if method != START:
            assert f"{run_label(method)}:" in text
            said = rows[0]["samples"][probe - 1][prompt].split()[:4] if probe else ["(still"]
            assert " ".join(said) in text


def test_the_curves_are_those_of_the_chosen_seed(logs):
    curves, _ = run_plots.step_explorer(logs, seed=1)(0, 0).axes
    drawn = {line.get_label(): line.get_ydata() for line in curves.lines}
    wanted = [p["nll_teacher"] for p in by_method(logs)["dpkd"][1]["evals"]]
    assert list(drawn["dpkd"]) == pytest.approx(wanted)


def test_logs_come_in_the_order_of_the_table(logs):
    assert list(by_method(logs)) == ["sft", "kd", "gkd", "skl", "dpkd", "cald", "distillm2"]
    assert [log["run"]["seed"] for log in by_method(logs)["kd"]] == list(range(len(logs) // 7))


def test_no_logs_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(logs_module, "data_dir", lambda: tmp_path)
    with pytest.raises(FileNotFoundError, match="no logs of sft in"):
        shipped_runs()
