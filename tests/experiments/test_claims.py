"""The ledger: what a claim compares, the one rule of its verdict, and that logs come back when deleted."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from minidistill import load_pair, load_task
from minidistill.experiments import (
    claims,
    contrasts,
    grid,
    logs,
    run_configs,
    runner,
    tables,
    toy_kl,
)
from minidistill.experiments.contrasts import METRICS, Contrast, Result
from minidistill.experiments.logs import add_runs, runs_by_seed
from minidistill.experiments.paper_claims import CLAIMS
from minidistill.experiments.run_configs import (
    CALD_SWEEP,
    DPKD_SWEEP,
    EVERY_CONFIG,
    RUN_CONFIGS,
    ExperimentConfig,
)
from minidistill.utils import data_dir

SHIPPED = data_dir() / "runs"
SMALL = ExperimentConfig(prompts=16, epochs=1, draws=1)


def leave(folder: Path, name: str, values) -> None:
    """A log a seed with that ROUGE-L."""
    rest = {"accuracy": 0.5, "nll_teacher": 1.0, "nll_student": 1.5}
    add_runs(
        [
            {"run": {"name": name, "seed": seed}, "scores": {"rouge_l": value, **rest}}
            for seed, value in enumerate(values)
        ],
        folder,
    )


# --- what is compared ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "contrast", [c for claim in CLAIMS.values() for c in claim.contrasts], ids=lambda c: c.label
)
def test_a_contrast_is_a_difference_between_arms_that_exist(contrast):
    assert sum(contrast.weights.values()) == 0  # so that a seed's luck cancels
    assert contrast.metric in METRICS
    known = {*RUN_CONFIGS, "toy_kl", "toy_rkl"}
    assert set(contrast.weights) <= known


def test_the_claims_of_the_lessons_are_there():
    assert list(CLAIMS) == [f"C{n}" for n in range(1, 17)]
    assert all(
        claim.section and claim.paper_numbers and claim.contrasts for claim in CLAIMS.values()
    )


def test_names_of_arms_can_stand_in_a_file_name_and_are_not_given_twice():
    names = [*RUN_CONFIGS, *CALD_SWEEP, *DPKD_SWEEP]
    assert len(names) == len(set(names))
    assert not any("-" in name for name in {*RUN_CONFIGS, *CALD_SWEEP})


# --- the rule ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("values", "margin", "wanted"),
    [
        ([0.1, 0.2, 0.15], 0.0, "holds"),
        ([-0.1, -0.2, -0.15], 0.0, "reversed"),
        ([-0.1, 0.2, 0.01], 0.0, "not resolved"),
        ([0.1, 0.2, 0.15], 0.5, "reversed"),
        ([0.6, 0.7, 0.65], 0.5, "holds"),
        ([-0.004, 0.002, -0.003], -0.01, "holds"),  # "no worse by more than a hundredth"
    ],
)
def test_the_verdict_of_a_contrast_is_where_its_interval_lies(tmp_path, values, margin, wanted):
    leave(tmp_path, "cald", [0.5 + v for v in values])
    leave(tmp_path, "kd", [0.5] * 3)
    result = contrasts.judge(Contrast("", {"cald": 1, "kd": -1}, margin=margin), tmp_path)
    assert result.values == pytest.approx(values)
    assert min(values) - 1e-9 <= result.low <= result.mean <= result.high <= max(values) + 1e-9
    assert result.verdict == wanted


@pytest.mark.parametrize(
    ("verdicts", "wanted"),
    [("hh", "holds"), ("hn", "not resolved"), ("hr", "reversed"), ("nr", "reversed")],
)
def test_a_claim_holds_if_all_does_and_one_reversed_contrast_reverses_it(verdicts, wanted):
    bounds = {"h": (0.1, 0.2), "r": (-0.2, -0.1), "n": (-0.1, 0.1)}
    results = [Result(Contrast("", {}), (sum(bounds[v]) / 2,) * 2, *bounds[v]) for v in verdicts]
    assert contrasts.verdict(results) == wanted
    assert (
        contrasts.weakest(results).verdict
        == {"h": "holds", "n": "not resolved", "r": "reversed"}[min(verdicts, key="rnh".index)]
    )


def test_differences_are_paired_by_seed_over_the_seeds_that_both_have(tmp_path):
    leave(tmp_path, "cald", [0.5, 0.7, 0.9])
    leave(tmp_path, "kd", [0.4, 0.6])
    result = contrasts.judge(Contrast("", {"cald": 1, "kd": -1}), tmp_path)
    assert result.values == pytest.approx([0.1, 0.1])
    with pytest.raises(ValueError, match="fewer than two seeds of skl"):
        contrasts.judge(Contrast("", {"cald": 1, "skl": -1}), tmp_path)


def test_a_weighted_contrast_is_that_sum(tmp_path):
    for name, value in zip("abcd", (0.1, 0.2, 0.4, 0.8), strict=True):
        leave(tmp_path, name, [value] * 2)
    weights = {"a": 0.5, "b": 0.5, "c": -0.5, "d": -0.5}
    assert contrasts.judge(Contrast("", weights), tmp_path).mean == pytest.approx(-0.45)


def test_each_metric_by_hand():
    log = {
        "scores": {"nll_teacher": 1.0, "nll_student": 3.5},
        "curve": [{"step": 1, "rouge_l": 0.2}, {"step": 2, "rouge_l": 0.4}],
        "train_seconds": 2.718281828459045,
    }
    assert METRICS["separation"](log) == 2.5
    assert METRICS["early"](log) == pytest.approx(0.3)
    assert METRICS["log_seconds"](log) == pytest.approx(1.0)


# --- running ----------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_a_deleted_run_comes_back_with_the_same_numbers_and_no_other_is_made_again(tmp_path):
    folder, in_flight = tmp_path / "runs", tmp_path / "in_flight"

    def make():
        claims.run_by_name(["skl_on_sgo", "cald_swapped"], 2, folder, in_flight, SMALL)
        lines = (folder / "instruct.jsonl").read_text().splitlines()
        return lines, {
            (log["run"]["name"], log["run"]["seed"]): log for log in map(json.loads, lines)
        }

    lines, before = make()
    assert list(before) == sorted(before)
    assert len(before) == 4
    gone = before["cald_swapped", 1]
    assert gone["run"]["config"]["source_overrides"] == {"tgo": "sgo", "sgo": "tgo"}
    assert set(gone["grades"][0]) <= set("0123")
    assert not list(in_flight.glob("instruct-cald*"))  # what is packed is in flight no more
    (folder / "instruct.jsonl").write_text("\n".join([lines[0], *lines[2:]]) + "\n")
    (in_flight / "instruct-responses-1.json").unlink()
    after_lines, after = make()
    measured = ("scores", "evals", "curve", "samples", "grades")
    assert {k: after["cald_swapped", 1][k] for k in measured} == {k: gone[k] for k in measured}
    assert [after_lines[0], *after_lines[2:]] == [lines[0], *lines[2:]]
    assert (folder / "scores.csv").read_text() == logs.scores_csv(folder)


def test_a_run_in_flight_is_not_made_again_and_one_of_another_config_is(tmp_path):
    run = run_configs.Run(SMALL, "sft", run_configs.RunConfig("sft"), 0)
    runner.run_one(run, tmp_path)
    (log,) = grid.run_grid([run], tmp_path, runner.run_one)
    other = replace(run, experiment=replace(SMALL, prompts=8))
    assert grid.finished_run(run, tmp_path) == log
    assert grid.finished_run(other, tmp_path) is None
    assert logs.pack_runs(tmp_path, tmp_path / "runs") == 1
    assert logs.find_run(run, tmp_path / "runs") == log
    assert logs.find_run(other, tmp_path / "runs") is None


def test_all_that_an_arm_says_reaches_the_run(tmp_path, monkeypatch):
    told = {}

    def stop(pair, task, method, **how):
        told.update(how, method=method)
        raise InterruptedError

    monkeypatch.setattr(runner, "distill", stop)
    arm = run_configs.RunConfig(
        "cald", {"tgo": "speculative_mix"}, {"beta": 0.3}, {"epsilon": 0.7, "epochs": 3, "lr": 1e-4}
    )
    with pytest.raises(InterruptedError):
        runner.run_one(run_configs.Run(SMALL, "x", arm, 4), tmp_path)
    wanted = {
        "method": "cald",
        "feed": {"tgo": "speculative_mix"},
        "beta": 0.3,
        "epsilon": 0.7,
        "seed": 4,
    }
    wanted |= {"epochs": 3, "lr": 1e-4, "batch_size": SMALL.batch_size}
    assert {name: told[name] for name in wanted} == wanted


def test_a_damaged_line_of_the_toy_is_named_and_made_again(tmp_path):
    where = {"folder": tmp_path / "runs", "in_flight": tmp_path / "in_flight"}
    claims.run_claims(["C1"], **where)
    (contrast, *_) = CLAIMS["C1"].contrasts
    before = contrasts.judge(contrast, where["folder"])
    assert len(before.values) == toy_kl.SEEDS
    path = where["folder"] / "toy.jsonl"
    whole = path.read_text()
    lines = whole.splitlines()
    path.write_text("\n".join([*lines[:3], "{", *lines[4:]]))
    with pytest.warns(UserWarning, match="toy.jsonl, line 4 is damaged"):
        claims.run_claims(["C1"], **where)
    assert contrasts.judge(contrast, where["folder"]) == before
    assert path.read_text() == whole


# --- what is shipped ----------------------------------------------------------------------------------
@pytest.mark.parametrize("name", CLAIMS)
def test_every_claim_has_five_seeds_of_every_arm(name):
    for contrast in CLAIMS[name].contrasts:
        assert len(contrasts.judge(contrast, SHIPPED).values) >= 5


def test_every_shipped_log_is_of_an_arm_as_it_is_defined_now():
    """A change of a run config or of the experiment's needs new logs."""
    for world in (*run_configs.DOMAINS, "vision"):
        for log in logs.load_runs(world):
            name, seed = log["run"]["name"], log["run"]["seed"]
            run = run_configs.Run(ExperimentConfig(world), name, EVERY_CONFIG[name], seed)
            assert logs.find_run(run) is log


def test_shipped_runs_are_sorted_and_the_scores_beside_them_are_theirs():
    for path in SHIPPED.glob("*.jsonl"):
        keys = [
            (log["run"]["name"], log["run"]["seed"])
            for log in map(json.loads, path.read_text().splitlines())
        ]
        assert keys == sorted(set(keys))
        assert {run_configs.world_of(name) for name, _ in keys} == {path.stem}
    assert (SHIPPED / "scores.csv").read_text(encoding="utf-8") == logs.scores_csv()
    assert not list(SHIPPED.glob("*.json"))


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


def test_an_arm_of_another_world_another_teacher_and_fewer_prompts_runs_as_it_says(tmp_path):
    protocol = ExperimentConfig("arithmetic", prompts=16, epochs=1, draws=1)
    arm = run_configs.RunConfig("kd", prompts=8)
    job = run_configs.Run(protocol, "arithmetic/kd_p8", arm, 0)
    assert job.path(tmp_path).name == "arithmetic-kd_p8-0.json"
    runner.run_one(job, tmp_path)
    log = grid.finished_run(job, tmp_path)
    logs.pack_runs(tmp_path, tmp_path)
    assert runs_by_seed("arithmetic/kd_p8", tmp_path)[0] == log
    assert not runs_by_seed("kd_p8", tmp_path)  # that would be instruct's
    assert log["evals"][-1]["step"] == 1
    assert len(log["grades"]) == 1
    assert len(log["grades"][0]) == len(load_task("arithmetic").test)
    small = run_configs.RunConfig("kd", prompts=8, teacher="teacher_small")
    told = []
    for teacher in (arm, small):
        job = run_configs.Run(ExperimentConfig(prompts=8, epochs=1, draws=1), "x", teacher, 0)
        pair = load_pair("instruct", teacher=data_dir() / "instruct" / teacher.teacher)
        told.append(runner.common_responses(job, tmp_path, pair, few_prompts()))
    assert told[0][0] != told[1][0]  # another teacher writes other responses, kept in another file
    assert len(list(tmp_path.glob("instruct-responses-*.json"))) == 2


def few_prompts():
    task = load_task("instruct")
    return replace(task, train=task.train[:8], test=task.test[:8])


def test_the_grid_and_the_map_are_complete():
    missing = [name for name in {**CALD_SWEEP, **DPKD_SWEEP} if not runs_by_seed(name, SHIPPED)]
    assert not missing


def test_what_the_grid_is_said_to_show_under_c8():
    """β = 0.7 is below β = 0.5 at every α, and α = 0.01 not below 0.1, in the mean over seeds."""

    def rouge(alpha, beta):
        found = runs_by_seed(f"cald_a{alpha:g}_b{beta:g}", SHIPPED).values()
        return sum(log["scores"]["rouge_l"] for log in found) / len(found)

    assert all(rouge(alpha, 0.7) < rouge(alpha, 0.5) for alpha in run_configs.ALPHAS)
    assert rouge(0.01, 0.5) >= rouge(0.1, 0.5)


def mean_accuracy(name: str) -> float:
    found = runs_by_seed(name, SHIPPED).values()
    return sum(log["scores"]["accuracy"] for log in found) / len(found)


def test_what_is_said_under_c9():
    """Both sources beat one; GKD, DistiLLM and CALD are ahead of DistiLLM-2 in every world."""
    for world in run_configs.DOMAINS:
        for ahead in ("gkd", "distillm", "cald"):
            ours, theirs = (run_configs.in_world(world, name) for name in ("distillm2", ahead))
            assert mean_accuracy(theirs) > mean_accuracy(ours), (theirs, ours)
    for world in ("arithmetic", "program"):
        for single in ("sft", "seqkd", "kd", "imitkd", "speculative_kd"):
            contrast = Contrast("", {f"{world}/distillm2": 1, f"{world}/{single}": -1}, "accuracy")
            assert min(contrasts.judge(contrast, SHIPPED).values) > 0, (world, single)


def test_what_is_said_under_c10():
    """GKD is ahead at every size; closer together at a quarter; data moves more than the method."""
    for world in run_configs.DOMAINS:
        spread, moved = {}, []
        for size in ("_p250", "_p500", ""):
            level = {
                n: mean_accuracy(run_configs.in_world(world, n + size))
                for n in ("gkd", "distillm", "distillm2")
            }
            assert level["gkd"] > level["distillm2"]
            spread[size] = max(level.values()) - min(level.values())
            moved.append(sum(level.values()) / 3)
        assert spread["_p250"] < spread[""]
        assert moved[-1] - moved[0] > max(spread.values())


def test_what_is_said_under_c11():
    """All gain from the first step; from the second less than half as much."""
    for method in ("gkd", "distillm", "distillm2"):
        small, medium, full = (
            mean_accuracy(method + end) for end in ("_small_teacher", "_medium_teacher", "")
        )
        assert medium - small > 2 * (full - medium)


def test_the_table_says_each_verdict_with_interval_seeds_device_and_seconds():
    text = tables.claims_table()
    rows = [line for line in text.splitlines() if line.startswith("| C")]
    assert len(rows) == len(CLAIMS)
    for name, row in zip(CLAIMS, rows, strict=True):
        results = [contrasts.judge(c, SHIPPED) for c in CLAIMS[name].contrasts]
        assert f"**{contrasts.verdict(results)}**" in row
        assert f"[{contrasts.weakest(results).low:+.3f}, " in row
    assert "Minutes of one core" in text
    assert "torch" in text


def test_one_claim_in_full_names_every_contrast_and_the_papers_figures():
    text = tables.claim_report("c4", SHIPPED)
    assert CLAIMS["C4"].paper_numbers in text
    assert all(contrast.label in text for contrast in CLAIMS["C4"].contrasts)
    assert "verdict: " in text
    with pytest.raises(ValueError, match="C16"):
        claims.get_claim("C99")
