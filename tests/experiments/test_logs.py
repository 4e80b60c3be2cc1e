"""Logs of runs: written once, read again when changed, made again when damaged or of other settings."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from filelock import FileLock

from minidistill.experiments import grid, ledger, logs, protocol, toy_kl, verdicts
from minidistill.experiments.hypotheses import HYPOTHESES
from minidistill.experiments.logs import add_runs
from minidistill.experiments.protocol import Arm, Protocol, Run

SMALL = Protocol(prompts=16, epochs=1)


def leave(folder, name: str, values) -> None:
    """A log a seed with that ROUGE-L."""
    rows = enumerate(values)
    add_runs(
        [{"run": {"name": name, "seed": s}, "scores": {"rouge_l": value}} for s, value in rows],
        folder,
    )


def test_a_run_in_flight_is_not_made_again_and_one_of_other_settings_is(tmp_path):
    run = Run(SMALL, "start", Arm(""), 0)
    ledger.log_run(run, tmp_path)
    (log,) = grid.run_grid([run], tmp_path, ledger.log_run)
    other = replace(run, protocol=replace(SMALL, prompts=8))
    assert grid.finished_run(run, tmp_path) == log
    assert grid.finished_run(other, tmp_path) is None
    assert logs.pack_runs(tmp_path, tmp_path / "runs") == 1
    assert ledger.find(run, tmp_path / "runs") == log
    assert ledger.find(other, tmp_path / "runs") is None


def test_two_that_add_to_a_ledger_wait_for_one_another(tmp_path):
    """Each reads all lines, adds its own and writes all."""
    log = {"scores": {"rouge_l": 0.5}}
    each = [[{"run": {"name": "kd", "seed": seed}, **log}] for seed in range(16)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda own: add_runs(own, tmp_path), each))
    assert sorted(logs.runs_by_seed("kd", tmp_path)) == list(range(16))


def test_runs_that_another_process_makes_are_not_made_beside_it(tmp_path):
    with (
        FileLock(tmp_path / ".lock"),
        pytest.raises(ValueError, match="is in use by another run"),
    ):
        ledger.make_runs([], tmp_path / "ledger", tmp_path)


def test_all_that_an_arm_says_reaches_the_run(tmp_path, monkeypatch):
    told = {}

    def stop(pair, task, method, **how):
        told.update(how, method=method)
        raise InterruptedError

    monkeypatch.setattr(protocol, "distill", stop)
    arm = Arm(
        "cald", {"tgo": "speculative_mix"}, {"beta": 0.3}, {"epsilon": 0.7, "epochs": 3, "lr": 1e-4}
    )
    with pytest.raises(InterruptedError):
        ledger.log_run(Run(SMALL, "x", arm, 4), tmp_path)
    wanted = {
        "method": "cald",
        "feed": {"tgo": "speculative_mix"},
        "beta": 0.3,
        "epsilon": 0.7,
        "seed": 4,
    }
    wanted |= {"epochs": 3, "lr": 1e-4, "batch_size": SMALL.batch_size, "temperature": 0.8}
    assert {name: told[name] for name in wanted} == wanted


def test_a_damaged_line_of_the_toy_is_named_and_made_again(tmp_path):
    folder, in_flight = tmp_path / "runs", tmp_path / "in_flight"
    claim = HYPOTHESES["C1"]
    ledger.run_arms(claim.runs, range(2), folder, in_flight)
    before = verdicts.judge(claim.contrasts, folder)
    assert len(before[0].values) == toy_kl.SEEDS
    path = folder / "toy.jsonl"
    whole = path.read_text()
    lines = whole.splitlines()
    path.write_text("\n".join([*lines[:3], "{", *lines[4:]]))
    with pytest.warns(UserWarning, match="toy.jsonl, line 4 is damaged"):
        ledger.run_arms(claim.runs, range(2), folder, in_flight)
    assert verdicts.judge(claim.contrasts, folder) == before
    assert path.read_text() == whole


def test_a_changed_file_is_read_again_and_an_unchanged_one_is_not(tmp_path):
    leave(tmp_path, "kd", [0.25, 0.5])
    first = logs.load_runs("instruct", tmp_path)
    assert logs.load_runs("instruct", tmp_path)[0] is first[0]
    leave(tmp_path, "cald", [0.75])
    names = [log["run"]["name"] for log in logs.load_runs("instruct", tmp_path)]
    assert names == ["cald", "kd", "kd"]


def test_grades_are_digits_and_curves_have_four_in_a_file_and_scores_are_exact():
    third, log = 1 / 3, {"run": {}, "scores": {"accuracy": 2 / 7}, "train_seconds": 1.23456}
    log |= {"grades": [[0, third, 0.67, 1.0]], "evals": [{"step": 3, "nll_teacher": 0.123456}]}
    short = logs.encode(log)
    assert short["grades"] == ["0123"]
    assert short["evals"] == [{"step": 3, "nll_teacher": 0.1235}]
    assert (short["scores"], short["train_seconds"]) == (log["scores"], 1.23456)
    assert logs.decode(short)["grades"] == [pytest.approx([0, third, 2 / 3, 1])]
    for grade in (0.5, -1, 1.4):
        with pytest.raises(ValueError, match="a grade must be 0, 1/3, 2/3 or 1"):
            logs.encode({"grades": [[grade]]})
