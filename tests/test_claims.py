"""The ledger: what a claim compares, the one rule of its verdict, and that logs come back when deleted."""

from dataclasses import replace
from pathlib import Path

import pytest

from minidistill import arms, claims, experiments, ledger, load_pair, load_task
from minidistill.claims import ARMS, CLAIMS, GRID, MAP, METRICS, Contrast, Result
from minidistill.experiments import Protocol
from minidistill.runlog import read_log, write_log
from minidistill.utils import data_dir

SHIPPED = data_dir() / "runs"
SMALL = Protocol(prompts=16, epochs=1, draws=1)


def leave(folder: Path, name: str, values) -> None:
    """A log a seed with that ROUGE-L."""
    for seed, value in enumerate(values):
        scores = {"rouge_l": value, "accuracy": 0.5, "nll_teacher": 1.0, "nll_student": 1.5}
        content = {"job": {"name": name, "seed": seed}, "scores": scores, "seconds": 1.0}
        write_log(folder / f"instruct-{name}-{seed}.json", content)


# --- what is compared ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "contrast", [c for claim in CLAIMS.values() for c in claim.contrasts], ids=lambda c: c.says
)
def test_a_contrast_is_a_difference_between_arms_that_exist(contrast):
    assert sum(contrast.weights.values()) == 0  # so that a seed's luck cancels
    assert contrast.metric in METRICS
    known = {*ARMS, "toy_kl", "toy_rkl"}
    assert set(contrast.weights) <= known


def test_the_claims_of_the_lessons_are_there():
    assert list(CLAIMS) == [f"C{n}" for n in range(1, 17)]
    assert all(claim.where and claim.figures and claim.contrasts for claim in CLAIMS.values())


def test_names_of_arms_can_stand_in_a_file_name_and_are_not_given_twice():
    names = [*ARMS, *GRID, *MAP]
    assert len(names) == len(set(names))
    assert not any("-" in name for name in {*ARMS, *GRID})


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
    result = claims.judge(Contrast("", {"cald": 1, "kd": -1}, margin=margin), tmp_path)
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
    assert claims.verdict(results) == wanted
    assert (
        claims.weakest(results).verdict
        == {"h": "holds", "n": "not resolved", "r": "reversed"}[min(verdicts, key="rnh".index)]
    )


def test_differences_are_paired_by_seed_over_the_seeds_that_both_have(tmp_path):
    leave(tmp_path, "cald", [0.5, 0.7, 0.9])
    leave(tmp_path, "kd", [0.4, 0.6])
    result = claims.judge(Contrast("", {"cald": 1, "kd": -1}), tmp_path)
    assert result.values == pytest.approx([0.1, 0.1])
    with pytest.raises(ValueError, match="fewer than two seeds of skl"):
        claims.judge(Contrast("", {"cald": 1, "skl": -1}), tmp_path)


def test_a_weighted_contrast_is_that_sum(tmp_path):
    for name, value in zip("abcd", (0.1, 0.2, 0.4, 0.8), strict=True):
        leave(tmp_path, name, [value] * 2)
    weights = {"a": 0.5, "b": 0.5, "c": -0.5, "d": -0.5}
    assert claims.judge(Contrast("", weights), tmp_path).mean == pytest.approx(-0.45)


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
def test_a_deleted_log_comes_back_with_the_same_numbers(tmp_path):
    claims.run_arms(["skl_on_sgo", "cald_swapped"], tmp_path, 2, SMALL)
    contrast = Contrast("", {"cald_swapped": 1, "skl_on_sgo": -1})
    before = claims.judge(contrast, tmp_path)
    gone = tmp_path / "instruct-cald_swapped-1.json"
    kept = (tmp_path / "instruct-cald_swapped-0.json").stat().st_mtime_ns
    log = read_log(gone)
    assert log["job"]["arm"]["feed"] == {"tgo": "sgo", "sgo": "tgo"}
    gone.unlink()
    (tmp_path / "instruct-responses-1.json").unlink()
    claims.run_arms(["skl_on_sgo", "cald_swapped"], tmp_path, 2, SMALL)
    assert claims.judge(contrast, tmp_path) == before
    assert (tmp_path / "instruct-cald_swapped-0.json").stat().st_mtime_ns == kept
    assert read_log(gone)["probes"] == log["probes"]


def test_all_that_an_arm_says_reaches_the_run(tmp_path, monkeypatch):
    told = {}

    def stop(pair, task, method, **how):
        told.update(how, method=method)
        raise InterruptedError

    monkeypatch.setattr(experiments, "distill", stop)
    arm = experiments.Arm(
        "cald", {"tgo": "mixed"}, {"beta": 0.3}, {"epsilon": 0.7, "epochs": 3, "lr": 1e-4}
    )
    with pytest.raises(InterruptedError):
        experiments._run(experiments.Job(SMALL, "x", arm, 4), tmp_path)
    wanted = {"method": "cald", "feed": {"tgo": "mixed"}, "beta": 0.3, "epsilon": 0.7, "seed": 4}
    wanted |= {"epochs": 3, "lr": 1e-4, "batch_size": SMALL.batch_size}
    assert {name: told[name] for name in wanted} == wanted


def test_a_damaged_log_of_the_toy_is_made_again(tmp_path):
    claims.run(["C1"], tmp_path)
    (contrast, *_) = CLAIMS["C1"].contrasts
    before = claims.judge(contrast, tmp_path)
    assert len(before.values) == claims.TOY_SEEDS
    (tmp_path / "toy-toy_kl-3.json").write_text("{")
    with pytest.warns(UserWarning, match="damaged"):
        claims.run(["C1"], tmp_path)
    assert claims.judge(contrast, tmp_path) == before


# --- what is shipped ----------------------------------------------------------------------------------
@pytest.mark.parametrize("name", CLAIMS)
def test_every_claim_has_five_seeds_of_every_arm(name):
    for contrast in CLAIMS[name].contrasts:
        assert len(claims.judge(contrast, SHIPPED).values) >= 5


def test_every_shipped_log_is_of_an_arm_as_it_is_defined_now():
    """A change of an arm or of the protocol needs new logs."""
    paths = [p for p in SHIPPED.glob("*.json") if not p.name.startswith("toy-")]
    for path in paths:
        log = read_log(path)
        if "scores" in log:
            name = log["job"]["name"]
            world = name.rpartition("/")[0] or "instruct"
            job = experiments.Job(
                Protocol(world), name, (ARMS | GRID | MAP)[name], log["job"]["seed"]
            )
            assert experiments._finished(job, SHIPPED) == log
            assert job.path(SHIPPED) == path


def test_an_arm_of_another_world_another_teacher_and_fewer_prompts_runs_as_it_says(tmp_path):
    protocol = Protocol("arithmetic", prompts=16, epochs=1, draws=1)
    arm = experiments.Arm("kd", prompts=8)
    job = experiments.Job(protocol, "arithmetic/kd_p8", arm, 0)
    assert job.path(tmp_path).name == "arithmetic-kd_p8-0.json"
    experiments._run(job, tmp_path)
    log = claims.logs_of("arithmetic/kd_p8", tmp_path)[0]
    assert not claims.logs_of("kd_p8", tmp_path)  # that would be instruct's
    assert log["probes"][-1]["step"] == 1
    assert len(log["grades"]) == 1
    assert len(log["grades"][0]) == len(load_task("arithmetic").test)
    small = experiments.Arm("kd", prompts=8, teacher="teacher_small")
    told = []
    for teacher in (arm, small):
        job = experiments.Job(Protocol(prompts=8, epochs=1, draws=1), "x", teacher, 0)
        pair = load_pair("instruct", teacher=data_dir() / "instruct" / teacher.teacher)
        told.append(experiments._common_responses(job, tmp_path, pair, few_prompts()))
    assert told[0][0] != told[1][0]  # another teacher writes other responses, kept in another file
    assert len(list(tmp_path.glob("instruct-responses-*.json"))) == 2


def few_prompts():
    task = load_task("instruct")
    return replace(task, train=task.train[:8], test=task.test[:8])


def test_the_grid_and_the_map_are_complete():
    missing = [name for name in {**GRID, **MAP} if not claims.logs_of(name, SHIPPED)]
    assert not missing


def test_what_the_grid_is_said_to_show_under_c8():
    """β = 0.7 is below β = 0.5 at every α, and α = 0.01 not below 0.1, in the mean over seeds."""

    def rouge(alpha, beta):
        logs = claims.logs_of(f"cald_a{alpha:g}_b{beta:g}", SHIPPED).values()
        return sum(log["scores"]["rouge_l"] for log in logs) / len(logs)

    assert all(rouge(alpha, 0.7) < rouge(alpha, 0.5) for alpha in arms.ALPHAS)
    assert rouge(0.01, 0.5) >= rouge(0.1, 0.5)


def mean_accuracy(name: str) -> float:
    logs = claims.logs_of(name, SHIPPED).values()
    return sum(log["scores"]["accuracy"] for log in logs) / len(logs)


def in_world(world: str, label: str) -> str:
    return label if world == "instruct" else f"{world}/{label}"


def test_what_is_said_under_c9():
    """Both sources beat one; GKD, DistiLLM and CALD are ahead of DistiLLM-2 in every world."""
    for world in arms.DOMAINS:
        for ahead in ("gkd", "distillm", "cald"):
            ours, theirs = (in_world(world, name) for name in ("distillm2", ahead))
            assert mean_accuracy(theirs) > mean_accuracy(ours), (theirs, ours)
    for world in ("arithmetic", "program"):
        for single in ("sft", "seqkd", "kd", "imitkd", "speculative_kd"):
            contrast = Contrast("", {f"{world}/distillm2": 1, f"{world}/{single}": -1}, "accuracy")
            assert min(claims.judge(contrast, SHIPPED).values) > 0, (world, single)


def test_what_is_said_under_c10():
    """GKD is ahead at every size; closer together at a quarter; data moves more than the method."""
    for world in arms.DOMAINS:
        spread, moved = {}, []
        for size in ("_p250", "_p500", ""):
            level = {
                n: mean_accuracy(in_world(world, n + size))
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
    text = ledger.claims_table()
    rows = [line for line in text.splitlines() if line.startswith("| C")]
    assert len(rows) == len(CLAIMS)
    for name, row in zip(CLAIMS, rows, strict=True):
        results = [claims.judge(c, SHIPPED) for c in CLAIMS[name].contrasts]
        assert f"**{claims.verdict(results)}**" in row
        assert f"[{claims.weakest(results).low:+.3f}, " in row
    assert "Minutes of one core" in text
    assert "torch" in text


def test_one_claim_in_full_names_every_contrast_and_the_papers_figures():
    text = ledger.claim_report("c4", SHIPPED)
    assert CLAIMS["C4"].figures in text
    assert all(contrast.says in text for contrast in CLAIMS["C4"].contrasts)
    assert "verdict: " in text
    with pytest.raises(ValueError, match="C16"):
        claims.get_claim("C99")
