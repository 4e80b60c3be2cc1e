"""The search for settings: what it tries, where it stops, what it picks; every method the same budget."""

from dataclasses import asdict, replace

import pytest

from minidistill.experiments import tuning
from minidistill.experiments.arms import (
    APPLICATIONS,
    ARMS,
    PROTOCOLS,
    TUNED,
    make_run,
    searched_arm,
)
from minidistill.experiments.logs import add_runs
from minidistill.experiments.protocol import Protocol
from minidistill.experiments.worlds import STARTS

SMALL = Protocol("instruct", prompts=8)


def answer(runs, score, folder):
    """Log runs of the search as if they had got `score(run)`."""
    add_runs(
        [
            {
                "run": asdict(run),
                "scores": {
                    "accuracy": score(run) + 0.1,
                    "accuracy_sampled": score(run) - 0.1,
                    "acceptance": score(run),
                },
                "seconds": 1.0,
            }
            for run in runs
        ],
        folder,
    )


def search(method, score, folder):
    """Answer until the search wants no more; all that it tried."""
    tried = []
    while runs := tuning.next_runs(SMALL, method, folder):
        answer(runs, score, folder)
        tried += runs
        assert len(tried) < 20
    return tried


def on_first_start(runs):
    return [run for run in runs if run.seed == tuning.SEEDS[0]]


def peak_at(best):
    return lambda run: 0.5 - abs(run.arm.settings["lr"] - best)


def test_all_rates_first_then_the_methods_own_settings_at_the_best(tmp_path):
    tried = on_first_start(search("gkd", peak_at(1e-3), tmp_path))
    assert [run.arm.settings["lr"] for run in tried[:4]] == list(tuning.RATES)
    assert [run.arm.method_kwargs for run in tried[4:]] == [{"beta": 0.5}, {"beta": 0.1}]
    assert {run.arm.settings["lr"] for run in tried[4:]} == {1e-3}
    assert {run.protocol.held_out for run in tried} == {"validation"}


@pytest.mark.parametrize(("best", "beyond"), [(1.0, [8e-3, 16e-3]), (1e-9, [2.5e-4, 1.25e-4])])
def test_beyond_an_outermost_best_the_search_goes_on_twice(tmp_path, best, beyond):
    tried = on_first_start(search("kd", peak_at(best), tmp_path))
    assert [run.arm.settings["lr"] for run in tried[4:]] == beyond
    assert tuning.tuned(SMALL, "kd", tmp_path).settings == {"lr": beyond[-1]}


def test_the_best_on_validation_wins_and_defaults_may(tmp_path):
    search("gkd", lambda run: 0.5 if run.arm.method_kwargs == {"beta": 0.1} else 0.3, tmp_path)
    assert tuning.tuned(SMALL, "gkd", tmp_path).method_kwargs == {"beta": 0.1}
    search("cald", lambda run: 0.3 if run.arm.method_kwargs else peak_at(1e-3)(run), tmp_path)
    assert tuning.tuned(SMALL, "cald", tmp_path).method_kwargs == {}


def test_the_three_best_are_repeated_on_the_other_starts(tmp_path):
    tried = search("kd", peak_at(1.4e-3), tmp_path)
    best = {run.arm.settings["lr"] for run in tried if run.seed != tuning.SEEDS[0]}
    assert best == {1e-3, 2e-3, 5e-4}
    assert {run.seed for run in tried} == set(tuning.SEEDS)
    assert len(tried) == len(tuning.RATES) + 2 * len(best)
    assert {run.seed % STARTS for run in tried} == set(range(STARTS))


def test_the_mean_over_starts_wins_and_not_the_first_start(tmp_path):
    lucky, steady = 1e-3, 2e-3
    first = {5e-4: 0.5, lucky: 0.6, steady: 0.55, 4e-3: 0.4}
    others = {5e-4: 0.5, lucky: 0.4, steady: 0.55}

    def score(run):
        return (first if run.seed == tuning.SEEDS[0] else others)[run.arm.settings["lr"]]

    search("kd", score, tmp_path)
    found = tuning.searched(SMALL, "kd", tmp_path)
    assert tuning.tuned(SMALL, "kd", tmp_path).settings == {"lr": steady}
    assert [run.arm.settings["lr"] for run, _ in found] == [steady, 5e-4, lucky, 4e-3]
    assert [len(scores) for _, scores in found] == [3, 3, 3, 1]


def test_a_search_that_is_not_over_gives_no_settings(tmp_path):
    with pytest.raises(ValueError, match="search for kd in instruct is not over"):
        tuning.tuned(SMALL, "kd", tmp_path)


def test_logs_of_another_protocol_do_not_count(tmp_path):
    search("kd", peak_at(1e-3), tmp_path)
    other = replace(SMALL, prompts=9)
    assert len(tuning.next_runs(other, "kd", tmp_path)) == len(tuning.RATES)


def test_every_method_has_the_same_budget_or_no_setting_of_its_own():
    assert {len(knobs) for knobs in tuning.KNOBS.values()} == {2}
    assert set(tuning.KNOBS) <= set(TUNED["instruct"])


@pytest.mark.parametrize("name", [n for n, arm in ARMS.items() if arm.method])
def test_each_arm_takes_the_tuned_settings_of_a_method_that_was_searched(name):
    arm = ARMS[name]
    assert (arm.tuned_as or arm.method) in (*TUNED["instruct"], *APPLICATIONS)
    assert arm.method in TUNED["instruct"] or arm.tuned_as in TUNED["instruct"]


def test_an_applications_arm_has_its_methods_settings_and_a_rate_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setitem(PROTOCOLS, "instruct", SMALL)
    search("gkd", lambda run: peak_at(1e-3)(run) + len(run.arm.method_kwargs) / 10, tmp_path)
    arm = searched_arm("instruct", "draft_gkd", tmp_path)
    assert arm.method_kwargs == tuning.tuned(SMALL, "gkd", tmp_path).method_kwargs != {}
    tried = []
    while runs := tuning.next_runs(SMALL, "draft_gkd", tmp_path, arm):
        answer(runs, peak_at(4e-3), tmp_path)
        tried += runs
    assert {run.arm.hook for run in tried} == {"draft"}
    assert len({run.name for run in tried}) == len({run.arm.settings["lr"] for run in tried})
    elsewhere = {run.name for run in tried if run.seed != tuning.SEEDS[0]}
    assert len(elsewhere) == tuning.RATE_FINALISTS < tuning.FINALISTS
    run = make_run("draft_gkd", 0, tmp_path)
    assert run.arm.settings["lr"] == 4e-3
    assert run.arm.method_kwargs == arm.method_kwargs
    assert make_run("gkd", 0, tmp_path).arm.settings["lr"] == 1e-3


def test_an_arm_changes_what_it_says_on_top_of_the_tuned_settings(tmp_path, monkeypatch):
    monkeypatch.setitem(PROTOCOLS, "instruct", SMALL)
    better = {"alpha": 0.3}
    search(
        "cald", lambda run: peak_at(1e-3)(run) + (run.arm.method_kwargs == better) / 10, tmp_path
    )
    swapped, fixed = (
        make_run(name, 2, tmp_path).arm for name in ("cald_swapped", "cald_alpha_0.01")
    )
    assert swapped.method_kwargs == {"alpha": 0.3}
    assert swapped.feed == {"tgo": "sgo", "sgo": "tgo"}
    assert fixed.method_kwargs == {"alpha": 0.01}
    twice = make_run("cald_rate_2", 0, tmp_path).arm
    assert twice.settings == {"lr": 2e-3}
    assert twice.method_kwargs == better
    by_epoch = make_run("alpha_e3_0.01", 0, tmp_path).arm
    assert by_epoch.method_kwargs == {"alphas": [0.1, 0.1, 0.01]}  # which has no alpha
    assert by_epoch.settings == {"lr": 1e-3, "epochs": 3}
