"""What an application adds to a run: its models, its own first responses, its scores in the log."""

import sys
from dataclasses import asdict
from types import SimpleNamespace

import pytest

from minidistill import claims, experiments
from minidistill.applications import stages
from minidistill.applications.stages import Stage, get_stage
from minidistill.experiments import Arm, Job, Protocol
from minidistill.utils import data_dir

SMALL = Protocol(prompts=8, epochs=1, draws=1)


@pytest.fixture
def staged(monkeypatch):
    """Use a stage of the test's own under the name 'mine'."""

    def use(**functions) -> None:
        module = SimpleNamespace(STAGE=Stage(**functions))
        monkeypatch.setitem(stages.MODULES, "mine", "mine")
        monkeypatch.setitem(sys.modules, "minidistill.applications.mine", module)

    return use


def run(arm: Arm, folder) -> dict:
    experiments._run(Job(SMALL, "x", arm, 0), folder)
    return claims.logs_of("x", folder)[0]


def test_an_arm_runs_with_the_models_that_it_names(tmp_path):
    arm = Arm("kd", teacher="target", student="draft")
    pair = experiments._models(Job(SMALL, "x", arm, 0))
    assert [m.config.num_hidden_layers for m in (pair.teacher, pair.student)] == [12, 1]


@pytest.mark.parametrize(
    "other",
    [Arm("kd", student="draft"), Arm("kd", teacher="target"), Arm("kd", stage="mine")],
    ids=["student", "teacher", "stage"],
)
def test_another_pair_keeps_its_first_responses_in_a_file_of_its_own(staged, tmp_path, other):
    staged(prepare=lambda pair: pair)
    told = {run(arm, tmp_path)["job"]["arm"]["method"] for arm in (Arm("kd"), other)}
    assert told == {"kd"}
    assert len(list(tmp_path.glob("instruct-responses*.json"))) == 2


def test_options_tell_prepared_pairs_apart_and_reach_both_functions(staged):
    told = []
    staged(prepare=lambda pair, bits: told.append(bits) or pair, finish=lambda run, bits: {})
    arms = [Arm("kd", stage="mine", options={"bits": bits}) for bits in (2, 4)]
    assert arms[0].start != arms[1].start
    experiments._models(Job(SMALL, "x", arms[1], 0))
    assert told == [4]


def test_what_finish_measures_joins_the_scores_and_what_it_trains_is_scored(staged, tmp_path):
    seen = {}

    def finish(trained, gain):
        seen.update(job=trained.job, prompts=len(trained.task.train))
        for weight in trained.pair.student.parameters():
            weight.data.zero_()  # a student that says nothing right any more
        return {"scores": {"win_rate": gain}, "extra": [1, 2]}

    staged(finish=finish)
    log = run(Arm("sft", stage="mine", options={"gain": 0.5}), tmp_path)
    assert log["scores"]["win_rate"] == 0.5
    assert log["extra"] == [1, 2]
    assert log["scores"]["accuracy"] == 0
    assert asdict(seen["job"]) == log["job"]
    assert seen["prompts"] == SMALL.prompts


def test_only_arms_whose_speed_is_compared_are_measured_on_the_way(staged):
    staged()
    job = lambda **more: Job(SMALL, "x", Arm("kd", **more), 0)  # noqa: E731
    pair = experiments._models(job())
    task = experiments.load_task("instruct")
    curved = lambda job: experiments.Watch(pair, task, job, print).curved  # noqa: E731
    assert curved(job())
    others = ({"stage": "mine"}, {"student": "draft"}, {"teacher": "target"})
    assert not any(curved(job(**other)) for other in others)


def test_a_stage_that_is_not_there_is_answered_with_the_nearest():
    assert get_stage("") == Stage()
    with pytest.raises(ValueError, match=r"unknown stage 'drafft'; did you mean 'draft'\?"):
        get_stage("drafft")


def test_the_shipped_drafts_logs_hold_what_the_stage_measured():
    logs = claims.logs_of("draft_gkd", data_dir() / "runs")
    assert len(logs) >= 5
    assert all(0 < log["scores"]["acceptance"] < 1 for log in logs.values())
