"""One run by the protocol: what a log holds, what runs of a seed share, that nothing is clipped."""

import pytest

from minidistill.experiments import ledger, protocol
from minidistill.experiments.arms import ARMS, PROTOCOLS
from minidistill.experiments.logs import pack_runs
from minidistill.experiments.protocol import Arm, Protocol, Run, run_one

SMALL = Protocol("instruct", prompts=24, epochs=2, batch_size=8)


pytestmark = pytest.mark.usefixtures("few_held_out")


def quiet(*_):
    pass


def test_a_run_logs_scores_grades_curves_and_what_decides_it(tmp_path):
    run, told = Run(SMALL, "kd", Arm("kd", settings={"lr": 2e-3}), 0), []
    log = run_one(run, tmp_path, lambda *status: told.append(status))
    assert run.made(log)
    assert not Run(SMALL, "kd", Arm("kd", settings={"lr": 1e-3}), 0).made(log)
    scores = log["scores"]
    assert [len(row) for row in log["grades"]] == [20, 20]
    assert scores["accuracy"] == sum(g >= 1 for g in log["grades"][0]) / 20
    assert scores["accuracy_sampled"] == sum(g >= 1 for g in log["grades"][1]) / 20
    assert log["evals"][-1]["step"] == told[-1][0] == told[-1][1] == 6
    assert scores["nll_teacher"] == pytest.approx(log["evals"][-1]["nll_teacher"])
    assert all("accuracy" in row and row["grad_norm"] > 0 for row in log["evals"][1:])
    assert 0 < log["grad_norm"]["median"] <= log["grad_norm"]["largest"]
    assert all(len(said) == protocol.SAMPLES for said in log["samples"])
    assert 0 < scores["entropy"] < 5


def test_start_and_teacher_are_measured_and_not_trained(tmp_path):
    start, teacher = (
        run_one(Run(SMALL, n, ARMS[n], 1), tmp_path, quiet) for n in ("start", "teacher")
    )
    assert "evals" not in start
    assert teacher["scores"]["accuracy"] > start["scores"]["accuracy"]
    assert teacher["scores"]["nll_teacher"] < start["scores"]["nll_teacher"]


def test_runs_of_a_seed_share_start_probe_and_the_teachers_responses(tmp_path):
    logs = [
        run_one(Run(SMALL, m, Arm(m, settings={"lr": 1e-3}), 2), tmp_path, quiet)
        for m in ("kd", "skl")
    ]
    first = [{k: v for k, v in log["evals"][0].items() if k.startswith("nll")} for log in logs]
    assert first[0] == first[1]
    assert len(list(tmp_path.glob("responses-*.json"))) == 1


def test_the_scale_of_a_loss_does_not_decide(tmp_path):
    """(8.1) carries a ½ that CALD has not: with α and β fixed the two are one run."""
    how = {"lr": 2e-3, "max_new_tokens": 24}
    arms = [
        Arm("cald", settings=how),
        Arm("distillm2_variant", method_kwargs={"low": 0.1, "beta_end": 0.5}, settings=how),
    ]
    logs = [run_one(Run(SMALL, "x", arm, 0), tmp_path, quiet) for arm in arms]
    assert logs[0]["scores"]["nll_teacher"] == pytest.approx(
        logs[1]["scores"]["nll_teacher"], abs=1e-3
    )
    assert all(Run(SMALL, "x", arm, 0).settings["max_grad_norm"] == float("inf") for arm in arms)
    assert logs[0]["grad_norm"]["median"] == pytest.approx(
        2 * logs[1]["grad_norm"]["median"], rel=0.02
    )


def test_more_prompts_than_are_shipped_are_written(monkeypatch):
    run = Run(PROTOCOLS["instruct"], "kd", Arm("kd", prompts=70), 0)
    task = protocol.load_prompts(run)
    assert len({e.prompt for e in task.train}) == 70


def test_a_log_that_was_deleted_is_made_again_with_the_same_scores(tmp_path):
    folder, in_flight = tmp_path / "ledger", tmp_path / "in_flight"
    run = Run(SMALL, "kd", Arm("kd", settings={"lr": 2e-3}), 0)
    found = []
    for _ in range(2):
        assert ledger.find(run, folder) is None
        ledger.log_run(run, in_flight)
        assert pack_runs(in_flight, folder) == 1
        found.append(ledger.find(run, folder))
        (folder / "instruct.jsonl").unlink()
    first, again = found
    assert again["scores"] == first["scores"]
    assert again["grades"] == first["grades"]
