"""What an application adds to a run: its models, its own first responses, its scores in the log."""

import pytest

from minidistill import load_task
from minidistill.experiments import grid, run_logger, runner, stages
from minidistill.experiments.logs import runs_by_seed
from minidistill.experiments.run_configs import ExperimentConfig, Run, RunConfig
from minidistill.experiments.stages import Hook, get_hook
from minidistill.utils import data_dir

SMALL = ExperimentConfig(prompts=8, epochs=1, draws=1)


@pytest.fixture
def hooked(monkeypatch):
    """Use a hook of the test's own under the name 'mine'."""
    return lambda **functions: monkeypatch.setitem(stages.HOOKS, "mine", Hook(**functions))


def run(arm: RunConfig, folder) -> dict:
    one = Run(SMALL, "x", arm, 0)
    runner.run_one(one, folder)
    return grid.finished_run(one, folder)


def test_an_arm_runs_with_the_models_that_it_names(tmp_path):
    arm = RunConfig("kd", teacher="target", student="draft")
    pair = runner.load_models(Run(SMALL, "x", arm, 0))
    assert [m.config.num_hidden_layers for m in (pair.teacher, pair.student)] == [12, 1]


@pytest.mark.parametrize(
    "other",
    [
        RunConfig("kd", student="draft"),
        RunConfig("kd", teacher="target"),
        RunConfig("kd", hook="mine"),
    ],
    ids=["student", "teacher", "stage"],
)
def test_another_pair_keeps_its_first_responses_in_a_file_of_its_own(hooked, tmp_path, other):
    hooked(before_training=lambda pair: pair)
    told = {run(arm, tmp_path)["run"]["config"]["method"] for arm in (RunConfig("kd"), other)}
    assert told == {"kd"}
    assert len(list(tmp_path.glob("instruct-responses*.json"))) == 2


def test_options_tell_prepared_pairs_apart_and_reach_both_functions(hooked):
    told = []
    hooked(
        before_training=lambda pair, bits: told.append(bits) or pair,
        after_training=lambda run, bits: {},
    )
    arms = [RunConfig("kd", hook="mine", hook_kwargs={"bits": bits}) for bits in (2, 4)]
    assert arms[0].initial_state_key != arms[1].initial_state_key
    runner.load_models(Run(SMALL, "x", arms[1], 0))
    assert told == [4]


def test_what_finish_measures_joins_the_scores_and_what_it_trains_is_scored(hooked, tmp_path):
    seen = {}

    def finish(trained, gain):
        seen.update(seed=trained.seed, prompts=len(trained.task.train))
        for weight in trained.pair.student.parameters():
            weight.data.zero_()  # a student that says nothing right any more
        return {"scores": {"win_rate": gain}, "extra": [1, 2]}

    hooked(after_training=finish)
    log = run(RunConfig("sft", hook="mine", hook_kwargs={"gain": 0.5}), tmp_path)
    assert log["scores"]["win_rate"] == 0.5
    assert log["extra"] == [1, 2]
    assert log["scores"]["accuracy"] == 0
    assert seen["seed"] == log["run"]["seed"]
    assert seen["prompts"] == SMALL.prompts


def test_only_arms_whose_speed_is_compared_are_measured_on_the_way(hooked):
    hooked()
    job = lambda **more: Run(SMALL, "x", RunConfig("kd", **more), 0)  # noqa: E731
    pair = runner.load_models(job())
    task = load_task("instruct")
    curved = lambda job: run_logger.RunLogger(pair, task, job, print).logs_curve  # noqa: E731
    assert curved(job())
    others = ({"hook": "mine"}, {"student": "draft"}, {"teacher": "target"})
    assert not any(curved(job(**other)) for other in others)


def test_a_hook_that_is_not_there_is_answered_with_the_nearest():
    assert get_hook("") == Hook()
    with pytest.raises(ValueError, match=r"unknown hook 'drafft'; did you mean 'draft'\?"):
        get_hook("drafft")


def test_the_shipped_drafts_logs_hold_what_the_stage_measured():
    logs = runs_by_seed("draft_gkd", data_dir() / "runs")
    assert len(logs) >= 5
    assert all(0 < log["scores"]["acceptance"] < 1 for log in logs.values())
