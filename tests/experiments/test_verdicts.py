"""Contrasts of the new ledger: what is compared, over seeds and prompts, and where its interval lies."""

import numpy as np
import pytest

from minidistill.experiments import verdicts
from minidistill.experiments.arms import ARMS
from minidistill.experiments.hypotheses import HYPOTHESES
from minidistill.experiments.logs import add_runs
from minidistill.experiments.statistics import mean_over_seeds_and_prompts
from minidistill.experiments.verdicts import METRICS, SMALLEST, Contrast, judge

CONTRASTS = [c for claim in HYPOTHESES.values() for c in (*claim.contrasts, *claim.explanation)]


def leave(folder, name, right, **scores):
    """A log a seed: `right` (seeds, prompts): which greedy responses are right; no sampled one is."""
    logs = []
    for seed, row in enumerate(np.asarray(right, dtype=float)):
        grades = ["".join("3" if x else "0" for x in row), "0" * len(row)]
        own = {name: values[seed] for name, values in scores.items()}
        found = {"accuracy": row.mean(), "accuracy_sampled": 0.0, **own}
        logs.append(
            {"run": {"name": name, "seed": seed}, "scores": found, "grades": grades, "seconds": 1}
        )
    add_runs(logs, folder)


@pytest.mark.parametrize("contrast", CONTRASTS, ids=lambda c: c.label)
def test_a_contrast_is_a_difference_between_arms_that_exist(contrast):
    assert sum(contrast.weights.values()) == pytest.approx(0)  # so that a seed's luck cancels
    assert contrast.metric in METRICS
    assert contrast.metric in SMALLEST
    labels = {name.rpartition("/")[2] for name in contrast.weights}
    assert labels <= {*ARMS, "toy_kl", "toy_rkl"}


def test_accuracy_is_judged_over_seeds_and_prompts(tmp_path):
    rng = np.random.default_rng(0)
    a, b = rng.random((4, 50)) < 0.8, rng.random((4, 50)) < 0.3
    leave(tmp_path, "cald", a)
    leave(tmp_path, "kd", b)
    (result,) = judge([Contrast("", {"cald": 1, "kd": -1})], tmp_path)
    assert result.values == pytest.approx(a.mean(1) - b.mean(1))
    assert result.decision.estimate == mean_over_seeds_and_prompts(a.astype(float) - b)
    assert result.verdict == "replicated"
    (turned,) = judge([Contrast("", {"kd": 1, "cald": -1})], tmp_path)
    assert turned.verdict == "opposite"
    assert turned.mean == pytest.approx(-result.mean)


def test_sampled_accuracy_reads_its_own_grades(tmp_path):
    right = np.ones((3, 20))
    leave(tmp_path, "cald", right)
    leave(tmp_path, "kd", 1 - right)
    (result,) = judge([Contrast("", {"cald": 1, "kd": -1}, "accuracy_sampled")], tmp_path)
    assert result.mean == 0


@pytest.mark.parametrize(
    ("gap", "alike", "wanted"),
    [
        (0.5, False, "replicated"), (0.0, False, "no difference that matters"),
        (0.0, True, "replicated"), (0.5, True, "opposite"), (-0.5, True, "opposite"),
    ],
)  # fmt: skip
def test_alike_turns_what_is_hoped_for_round(tmp_path, gap, alike, wanted):
    ones = np.ones((4, 10))
    leave(tmp_path, "cald", ones, nll_teacher=[1 + gap + 1e-4 * i for i in range(4)])
    leave(tmp_path, "kd", ones, nll_teacher=[1.0] * 4)
    contrast = Contrast("", {"cald": 1, "kd": -1}, "nll_teacher", alike=alike)
    assert judge([contrast], tmp_path)[0].verdict == wanted


def test_only_seeds_that_all_runs_have_are_compared(tmp_path):
    leave(tmp_path, "cald", np.ones((4, 10)))
    leave(tmp_path, "kd", np.zeros((3, 10)))
    (result,) = judge([Contrast("", {"cald": 1, "kd": -1})], tmp_path)
    assert len(result.values) == 3


def test_a_contrast_is_run_where_two_seeds_are_shared(tmp_path):
    contrast = verdicts.Contrast("", {"kd": 1, "gkd": -1})
    leave(tmp_path, "kd", [[1.0], [1.0], [1.0]])
    assert not verdicts.is_run(contrast, tmp_path)
    leave(tmp_path, "gkd", [[1.0]])
    assert not verdicts.is_run(contrast, tmp_path)
    leave(tmp_path, "gkd", [[1.0], [0.0]])
    assert verdicts.is_run(contrast, tmp_path)


def test_one_seed_is_refused_by_the_name_of_the_run(tmp_path):
    leave(tmp_path, "cald", np.ones((4, 10)))
    leave(tmp_path, "kd", np.zeros((1, 10)))
    with pytest.raises(ValueError, match="fewer than two seeds of kd"):
        judge([Contrast("", {"cald": 1, "kd": -1})], tmp_path)


def test_the_contrasts_of_a_claim_share_its_level(tmp_path):
    rng = np.random.default_rng(1)
    for name in ("cald", "kd", "skl"):
        leave(tmp_path, name, rng.random((4, 30)) < 0.5)
    alone = judge([Contrast("", {"cald": 1, "kd": -1})], tmp_path)[0]
    both = judge(verdicts.pairwise("cald", ("kd", "skl")), tmp_path)
    widths = [r.interval[1] - r.interval[0] for r in both]
    assert widths[0] > alone.interval[1] - alone.interval[0]
