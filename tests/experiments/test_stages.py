"""What an application adds to a run: its models, its own first responses, its scores in the log."""

import pytest

from minidistill.experiments import protocol, stages
from minidistill.experiments.arms import ARMS
from minidistill.experiments.protocol import TEACHER, Arm, Protocol, Run, run_one
from minidistill.experiments.stages import Hook, get_hook

pytestmark = pytest.mark.usefixtures("few_held_out")
SMALL = Protocol("instruct", prompts=8, epochs=1, batch_size=8)


@pytest.fixture
def hooked(monkeypatch):
    """Use a hook of the test's own under the name 'mine'."""
    return lambda **functions: monkeypatch.setitem(stages.HOOKS, "mine", Hook(**functions))


def run(arm: Arm, folder) -> dict:
    return run_one(Run(SMALL, "x", arm, 0), folder, lambda *_: None)


def test_an_arm_runs_with_the_models_that_it_names():
    arm = Arm("kd", teacher="target", student="draft")
    pair = protocol.load_models(Run(SMALL, "x", arm, 0))
    assert [m.config.num_hidden_layers for m in (pair.teacher, pair.student)] == [12, 1]


@pytest.mark.parametrize(
    "other",
    [Arm("kd", student="draft"), Arm("kd", teacher="target")],
    ids=["student", "teacher"],
)
def test_another_pair_keeps_its_first_responses_in_a_file_of_its_own(tmp_path, other):
    for arm in (Arm("kd"), other):
        run(arm, tmp_path)
    assert len(list(tmp_path.glob("responses-instruct-*.json"))) == 2


def test_options_tell_prepared_pairs_apart_and_reach_both_functions(hooked, tmp_path):
    told = []
    hooked(
        before_training=lambda pair, bits: told.append(bits) or pair,
        after_training=lambda trained, bits: told.append(bits) or {},
    )
    for bits in (2, 4):
        run(Arm("kd", hook="mine", hook_kwargs={"bits": bits}), tmp_path)
    assert told == [2, 2, 4, 4]
    assert len(list(tmp_path.glob("responses-instruct-*.json"))) == 2


def test_what_finish_measures_joins_the_scores_and_what_it_trains_is_scored(hooked, tmp_path):
    seen = {}

    def finish(trained, gain):
        seen.update(seed=trained.seed, prompts=len(trained.task.train))
        for weight in trained.pair.student.parameters():
            weight.data.zero_()  # a student that says nothing right any more
        return {"scores": {"win_rate": gain}, "extra": [1, 2]}

    hooked(after_training=finish)
    log = run(Arm("", hook="mine", hook_kwargs={"gain": 0.5}), tmp_path)
    assert log["scores"]["win_rate"] == 0.5
    assert log["extra"] == [1, 2]
    assert log["scores"]["accuracy"] == 0
    assert seen == {"seed": 0, "prompts": SMALL.prompts}


def test_a_broken_teacher_is_the_student_and_its_adapters_learn(tmp_path):
    options = {"bits": 2, "group": 32, "rank": 2}
    broken = Arm("", student=TEACHER, hook="quantize", hook_kwargs=options)
    healed = Arm("kd", student=TEACHER, hook="quantize", hook_kwargs=options, settings={"lr": 3e-3})
    none, kd = run(broken, tmp_path), run(healed, tmp_path)
    assert kd["evals"][0]["nll_teacher"] == pytest.approx(none["scores"]["nll_teacher"], rel=1e-4)
    assert kd["scores"]["nll_teacher"] < none["scores"]["nll_teacher"]
    assert len(list(tmp_path.glob("responses-*-quantize-bits2-group32-rank2-0.json"))) == 1


def test_searched_steps_are_handed_to_the_grid():
    pairs = [
        protocol.load_models(Run(SMALL, "x", ARMS[n], 0)) for n in ("int_none", "int_grid_none")
    ]
    layers = [p.student.base_model.model.model.layers[0].mlp.up_proj.base_layer for p in pairs]
    assert [layer.bits for layer in layers] == [2, 2]
    assert layers[0].steps.shape == layers[1].steps.shape
    whole = pairs[0].teacher.model.layers[0].mlp.up_proj.weight
    absmax, searched = ((layer.weight - whole).square().mean() for layer in layers)
    assert searched < 0.8 * absmax


def test_a_hook_that_is_not_there_is_answered_with_the_nearest():
    assert get_hook("") == Hook()
    with pytest.raises(ValueError, match=r"unknown hook 'drafft'; did you mean 'draft'\?"):
        get_hook("drafft")
