"""The shipped ledger: what it must show to be believed, that it is complete, and its commands."""

import csv
import statistics
from statistics import mean

import pytest

from minidistill.cli import app
from minidistill.experiments import ledger, main_job, reports, tuning
from minidistill.experiments.arms import ARMS, PROTOCOLS, TUNED, make_run
from minidistill.experiments.hypotheses import get_hypothesis
from minidistill.experiments.labels import MAIN_METHODS
from minidistill.experiments.logs import (
    add_runs,
    encode,
    ledger_dir,
    load_runs,
    runs_by_seed,
    scores_csv,
)

WORLDS = [world for world in PROTOCOLS if load_runs(world)]
COMPARED = [w for w in WORLDS if w == "instruct" or runs_by_seed(f"{w}/start")]
# The worlds where less is reached, and why.
SHORT_OF_ROOM = {
    "vision": "its teacher places a shape rightly three times in four, and from one start of three no method "
    "learns to tell shapes apart within the budget (lesson 11)"
}
COLLAPSES = {"dpkd": "its loss has no bottom (lesson 04)"}  # why a method may end below its start


def score(name: str, what: str) -> float:
    return mean(log["scores"][what] for log in runs_by_seed(name).values())


def named(world: str, label: str) -> str:
    return label if world == "instruct" else f"{world}/{label}"


# --- what makes it believable ---------------------------------------------------------------------------
@pytest.mark.parametrize("world", COMPARED)
def test_the_teacher_is_right_the_start_is_not_and_the_best_closes_half_of_the_gap(world):
    start, teacher = (score(named(world, name), "accuracy") for name in ("start", "teacher"))
    best = max(score(named(world, method), "accuracy") for method in TUNED[world])
    assert start < 0.5
    if world in SHORT_OF_ROOM:
        assert teacher >= 0.94
        assert start + 0.15 < best < (start + teacher) / 2, "no longer short: say so"
    else:
        assert teacher >= 0.95
        assert best > (start + teacher) / 2


@pytest.mark.parametrize("world", COMPARED)
def test_no_method_ends_below_its_start_unless_it_is_said_why(world):
    start = score(named(world, "start"), "accuracy")
    below = {m for m in TUNED[world] if score(named(world, m), "accuracy") <= start}
    assert below <= set(COLLAPSES)


@pytest.mark.parametrize("world", COMPARED)
def test_kd_lowers_what_it_minimises(world):
    nlls = [score(named(world, name), "nll_teacher") for name in ("start", "kd", "teacher")]
    assert nlls[0] > nlls[1] + 0.05
    assert nlls[1] > nlls[2]


def test_nothing_is_clipped_and_every_log_says_how_long_gradients_were():
    for log in load_runs("instruct"):
        if log["run"]["arm"]["method"]:
            assert 0 < log["grad_norm"]["median"] <= log["grad_norm"]["largest"]


# --- complete and consistent ----------------------------------------------------------------------------
@pytest.mark.parametrize(("world", "method"), [(w, m) for w in WORLDS for m in TUNED[w]])
def test_every_search_is_over_and_its_winner_has_the_best_validation_score(world, method):
    found = tuning.searched(PROTOCOLS[world], method)
    assert not tuning.next_runs(PROTOCOLS[world], method)
    finalists = [scores for _, scores in found if len(scores) == len(tuning.SEEDS)]
    assert len(finalists) == tuning.FINALISTS
    assert found[0][1] == max(finalists, key=statistics.mean)
    assert tuning.tuned(PROTOCOLS[world], method) == found[0][0].arm


@pytest.mark.parametrize("world", WORLDS)
def test_every_run_has_the_settings_that_won(world):
    for log in load_runs(world):
        if not log["run"]["name"].rpartition("/")[2].startswith("tune_"):
            run = make_run(log["run"]["name"], log["run"]["seed"])
            assert run.made(log), f"{run.name} seed {run.seed}"


def test_main_methods_start_and_teacher_share_at_least_five_seeds():
    seeds = {n: set(runs_by_seed(n)) for n in ("start", *MAIN_METHODS, "teacher")}
    assert all(found >= set(range(5)) for found in seeds.values())


def test_runs_are_sorted_and_the_scores_beside_them_are_theirs():
    keys = [(log["run"]["name"], log["run"]["seed"]) for log in load_runs("instruct")]
    assert keys == sorted(set(keys))
    text = (ledger_dir() / "scores.csv").read_text(encoding="utf-8")
    assert text == scores_csv(ledger_dir())
    assert len(list(csv.DictReader(text.splitlines()))) >= len(keys)


# --- what is printed ------------------------------------------------------------------------------------
def test_the_table_has_a_row_a_claim_with_its_verdict_or_that_it_was_not_run():
    rows = [line for line in reports.claims_table().splitlines() if line.startswith("| C")]
    assert [row.split(" | ")[0].strip("| ") for row in rows] == [f"C{n}" for n in range(1, 17)]
    ends = {row.rsplit("| ", 1)[1].strip(" |*") for row in rows}
    assert ends <= {
        "replicated",
        "no difference that matters",
        "undecided",
        "opposite",
        "not run yet",
    }


def test_a_report_shows_contrasts_what_would_refute_them_and_the_search():
    text = reports.claim_report("C8")
    (row,) = (line for line in text.splitlines() if line.startswith("distillm2_no_beta over cald"))
    pairs = [runs_by_seed(name) for name in ("distillm2_no_beta", "cald")]
    means = []
    for start in range(3):
        same = [s for s in pairs[0].keys() & pairs[1].keys() if s % 3 == start]
        first, second = ([run[s]["scores"]["accuracy"] for s in same] for run in pairs)
        means.append((sum(first) - sum(second)) / len(same))
    assert row.endswith("by start " + ", ".join(f"{mean:+.3f}" for mean in means))
    assert "by start" not in reports.claim_report("C1"), "a toy begins at no start of a world"
    for line in text.splitlines():
        if line.startswith("| DistiLLM") and (cells := line.split(" | "))[-1].count(".") == 1:
            assert cells[2].startswith("("), "a score on one start is not the mean of three"
    assert text.startswith("C8  Each component of DistiLLM-2 adds")
    assert "verdict: " in text
    assert "What would refute the explanation:" in text
    search = text.split("How the settings were chosen", 1)[1]
    for method in ("CALD", "DistiLLM", "DistiLLM-2"):
        assert f"| {method} | **lr " in search


def test_a_report_says_which_contrasts_are_not_run_and_judges_the_others(tmp_path):
    text = reports.claim_report("C13", tmp_path)
    assert text.count("not run yet  (accuracy)") == 3
    assert text.endswith("verdict: not run yet\n")
    rows = [
        log for name in ("distillm2", "gkd") for log in runs_by_seed(f"arithmetic/{name}").values()
    ]
    for log in rows:
        name = log["run"]["name"].replace("arithmetic", "vision")
        add_runs([encode({**log, "run": {**log["run"], "name": name}})], tmp_path)
    half = reports.claim_report("C13", tmp_path)  # one of its three contrasts has runs
    assert half.count("not run yet  (accuracy)") == 2
    assert half.endswith("verdict: not run yet\n")
    assert "| C13 |" in reports.claims_table(tmp_path, ["C13"])
    assert "not run yet |" in reports.claims_table(tmp_path, ["C13"])
    why = reports.claim_report("C9").split("What would refute the explanation:")[1]
    rows = [line for line in why.splitlines() if "(accuracy" in line]
    assert len(rows) == len(get_hypothesis("C9").explanation)
    assert "gkd over gkd_beta_0.9" in why


def test_the_methods_table_stands_between_start_and_teacher():
    rows = [line.split(" | ")[0] for line in reports.methods_table("instruct").splitlines()]
    assert rows[2] == "| start (SFT)"
    assert [row for row in rows if row.startswith("| ")][-1] == "| teacher"


def test_an_unknown_claim_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'C16'"):
        get_hypothesis("C166")


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (("run", "distilm2"), "did you mean 'distillm2'"),
        (("run", "visoin/kd"), "unknown world of the ledger 'visoin'"),
        (("tune", "instrct"), "did you mean 'instruct'"),
        (("table", "poetry"), "There are: arithmetic, instruct, program, vision"),
    ],
)
def test_an_unknown_arm_or_world_is_named_with_the_nearest(command, says):
    with pytest.raises(ValueError, match=says):
        app(["claims", *command], standalone_mode=False)


def test_every_arm_of_a_claim_is_one_that_the_command_can_make(capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(
        ledger, "run_arms", lambda names, seeds, *a, **k: asked.append((names, seeds))
    )
    app(["claims", "run", "C4", "kd", "--seeds", "3", "--first-seed", "1"], standalone_mode=False)
    names, seeds = asked[0]
    assert list(seeds) == [1, 2]
    assert {"cald_swapped", "kd"} <= set(names) <= set(ARMS)


def test_ledger_show_and_table_print(capsys):
    app(["claims", "show", "c2"], standalone_mode=False)
    app(["claims", "table"], standalone_mode=False)
    printed = capsys.readouterr().out
    assert "DPKD is right less often than its start" in printed
    assert "| start (SFT) |" in printed


# --- the main job ---------------------------------------------------------------------------------------
def test_the_main_jobs_runs_take_the_tuned_settings_between_start_and_teacher():
    runs = main_job.main_runs(("kd", "gkd"), seeds=2, prompts=16, epochs=1)
    assert [run.name for run in runs] == ["start", "kd", "gkd", "teacher"] * 2
    assert runs[1].arm == make_run("kd", 0).arm
    assert (runs[1].protocol.prompts, runs[1].protocol.epochs) == (16, 1)


def test_a_method_that_was_not_searched_gets_a_plain_rate():
    (_, run, _) = main_job.main_runs(("sft",))
    assert run.arm.settings == {"lr": main_job.UNTUNED_RATE}
