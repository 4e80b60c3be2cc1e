"""Lesson 09: tables and figures from a few small logs, the paper's figures, the slider over data size."""

import pytest

from minidistill.experiments import paper_claims, run_configs, tables
from minidistill.experiments.labels import run_label
from minidistill.experiments.logs import add_runs
from minidistill.experiments.paper_claims import CLAIMS
from minidistill.experiments.run_configs import (
    DOMAINS,
    RUN_CONFIGS,
    STRONG_BASELINES,
    TEACHERS,
    world_of,
)
from minidistill.lessons import lesson_09_benchmarks as lesson_09
from minidistill.lessons import plots
from minidistill.tasks import Task

SEEDS = (0, 1)
# Accuracy of a method in the instruct world; the other worlds lie higher, fewer prompts lower.
LEVEL = {
    "sft": 0.2, "seqkd": 0.22, "kd": 0.24, "imitkd": 0.21, "gkd": 0.26, "distillm": 0.25,
    "speculative_kd": 0.23, "distillm2": 0.3,
}  # fmt: skip
LIFT = {"instruct": 0.0, "arithmetic": 0.1, "program": 0.2}


def level(name: str, seed: int) -> float:
    """The accuracy that the fake log of an arm says: 0.02 more in seed 1, and DistiLLM-2 0.04 more."""
    arm = RUN_CONFIGS[name]
    less = {None: 0.0, 500: 0.05, 250: 0.1}[arm.prompts]
    less += {"teacher": 0.0, "teacher_medium": 0.01, "teacher_small": 0.02}[arm.teacher]
    spread = 0.04 if arm.method == "distillm2" else 0.02
    return LEVEL[arm.method] + LIFT[world_of(name)] - less + spread * seed


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    names = {name for claim in ("C9", "C10", "C11") for name in CLAIMS[claim].runs}
    logs = [
        {
            "run": {"name": name, "seed": seed},
            "scores": {"accuracy": level(name, seed)},
            "samples": [["a b"] * 8],
        }
        for name in names
        for seed in SEEDS
    ]
    add_runs(logs, folder)
    return folder


@pytest.fixture(scope="module")
def board(folder):
    return tables.domain_accuracies(dict.fromkeys(DOMAINS, 0.9), folder)


def cells_of(table: str) -> dict[str, list[str]]:
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()]
    return {name: cells for name, *cells in rows}


# --- the board ----------------------------------------------------------------------------------------
def test_the_table_has_mean_and_spread_over_seeds_beside_the_papers_figure(board):
    cells = cells_of(tables.accuracy_table(board))
    assert cells["GKD"] == ["27.0 ± 1.4", "56.14", "37.0 ± 1.4", "75.44", "47.0 ± 1.4", "54.88"]
    assert cells["SeqKD"][2:] == ["33.0 ± 1.4", "–", "43.0 ± 1.4", "–"]
    assert cells["teacher"] == ["90.0", "76.12", "90.0", "83.93", "90.0", "85.37"]
    assert list(cells)[2:] == [run_label(name) for name in ("teacher", *tables.COMPARED_METHODS)]


def test_an_arm_without_logs_is_a_dash_and_has_no_mean(tmp_path):
    found = tables.domain_accuracies(dict.fromkeys(DOMAINS, 0.9), tmp_path)
    assert cells_of(tables.accuracy_table(found))["KD"] == ["–", "41.19", "–", "–", "–", "–"]
    assert lesson_09.seed_means(found["instruct"]) == {"teacher": 0.9}


def test_the_papers_figures_are_those_of_the_claims():
    for name in ("gkd", "distillm", "distillm2"):
        for cited in paper_claims.PAPER_RESULTS.values():
            assert f"{cited.scores[name]:.2f}" in CLAIMS["C9"].paper_numbers
        figures = ", ".join(f"{v:.2f}" for v in paper_claims.PAPER_TEACHERS[name].values())
        assert figures in CLAIMS["C11"].paper_numbers
    assert list(paper_claims.PAPER_RESULTS) == list(DOMAINS)


def test_the_share_of_the_way_is_0_at_the_student_and_1_at_the_teacher():
    found = lesson_09.gap_closed({"sft": 0.2, "teacher": 0.9, "kd": 0.2, "gkd": 0.9, "cald": 0.55})
    assert found == pytest.approx({"kd": 0.0, "gkd": 1.0, "cald": 0.5})
    paper = lesson_09.gap_closed(paper_claims.PAPER_RESULTS["program"].scores)
    assert paper["distillm2"] == pytest.approx((59.92 - 50.61) / (85.37 - 50.61))


def test_the_share_of_pairs_in_the_same_order():
    a = {"x": 1, "y": 2, "z": 3}
    assert lesson_09.rank_agreement(a, {"x": 10, "y": 20, "z": 30}) == 1
    assert lesson_09.rank_agreement(a, {"x": 3, "y": 2, "z": 1}) == 0
    assert lesson_09.rank_agreement(a, {"x": 1, "z": 2, "y": 3, "w": 0}) == pytest.approx(2 / 3)


def test_contrasts_are_sorted_by_world_and_rival(folder):
    found = lesson_09.claim_results("C9", folder)
    assert {world: list(rows) for world, rows in found.items()} == {
        world: list(run_configs.BASELINES) for world in DOMAINS
    }
    result = found["program"]["gkd"]
    assert list(result.contrast.weights) == ["program/distillm2", "program/gkd"]
    assert result.values == pytest.approx((0.04, 0.06))
    assert result.verdict == "holds"
    assert list(lesson_09.claim_results("C10", folder)["instruct"]) == [
        f"{rival}{size}" for size in ("_p250", "_p500", "") for rival in STRONG_BASELINES
    ]


# --- data and teachers --------------------------------------------------------------------------------
def test_accuracies_by_data_size_and_by_teacher(folder):
    found = lesson_09.by_size("arithmetic", folder)
    assert found["gkd"] == {
        size: pytest.approx([mean, mean + 0.02])
        for size, mean in ((250, 0.26), (500, 0.31), (1000, 0.36))
    }
    parameters = {"teacher_small": 0.2, "teacher_medium": 0.5, "teacher": 0.9}
    taught = lesson_09.by_teacher(parameters, folder)
    assert list(taught["distillm2"]) == [0.2, 0.5, 0.9]
    assert taught["distillm2"][0.2] == pytest.approx([0.28, 0.32])
    assert taught["distillm2"][0.9] == pytest.approx([0.3, 0.34])


def test_a_teacher_that_taught_no_run_is_left_out(tmp_path):
    names = ("gkd", "gkd_small_teacher")
    logs = [{"run": {"name": name, "seed": 0}, "scores": {"accuracy": 0.5}} for name in names]
    add_runs(logs, tmp_path)
    found = lesson_09.by_teacher(
        {"teacher_small": 1.0, "teacher_medium": 2.0, "teacher": 3.0}, tmp_path
    )
    assert found == {"gkd": {1.0: [0.5], 3.0: [0.5]}, "distillm": {}, "distillm2": {}}


def test_every_arm_of_data_and_teacher_sizes_is_defined():
    for name in run_configs.COMPARED:
        for size in lesson_09.PROMPT_COUNTS:
            assert (RUN_CONFIGS[lesson_09.run_name_at_size(name, size)].prompts or 1000) == size
        assert all(RUN_CONFIGS[f"{name}_{t}_teacher"].teacher == f"teacher_{t}" for t in TEACHERS)


def test_ranges_are_drawn_from_the_lowest_to_the_highest_seed():
    ax = lesson_09.draw_ranges({"gkd": {1: [0.2, 0.4], 10: [0.5]}, "kd": {10: [0.1, 0.3]}})
    means = {line.get_label(): list(line.get_ydata()) for line in ax.lines}
    assert means == {"gkd": pytest.approx([0.3, 0.5]), "kd": pytest.approx([0.2])}
    bars = [segment[:, 1].tolist() for c in ax.collections for segment in c.get_segments()]
    assert bars == [[0.2, 0.4], [0.5, 0.5], [0.1, 0.3]]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["1", "10"]


@pytest.mark.parametrize("size", [0, 1, 2])
def test_the_slider_over_data_size_shows_every_world_and_the_differences(folder, size):
    picture = lesson_09.size_explorer(folder)
    left, right = picture(size).axes
    prompts = lesson_09.PROMPT_COUNTS[size]
    assert left.get_title(loc="left") == f"{prompts} prompts"
    for number, name in enumerate(run_configs.COMPARED):
        arms = [lesson_09.run_name_at_size(name, prompts)] * 3
        heights = [bar.get_height() for bar in left.containers[number]]
        means = [
            sum(tables.accuracies(f"{w}/{a}", folder)) / 2
            for w, a in zip(DOMAINS, arms, strict=True)
        ]
        assert heights == pytest.approx(means)
    rows = [text.get_text() for text in right.get_yticklabels()]
    assert rows == [f"{world}: {rival}" for world in DOMAINS for rival in STRONG_BASELINES]
    assert list(right.lines[1].get_xdata()) == pytest.approx([0.04, 0.06])  # over GKD, instruct
    assert right.get_xlim() == picture(1).axes[1].get_xlim(), "the axes must not move"
    assert len(plots.png(picture(size))) > 1000


# --- answers ------------------------------------------------------------------------------------------
def test_samples_stand_beside_the_verdict_of_the_grader(world, task, shared_pair, folder):
    told = Task("instruct", task.train, task.test, task.grade, world.judge)
    said = lesson_09.first_answers(shared_pair, told, folder)
    assert list(said) == ["reference", "teacher", "sft", "gkd", "distillm2"]
    assert all(len(texts) == 8 for texts in said.values())
    assert said["gkd"] == ["a b"] * 8, "from the log"
    table = lesson_09.sample_table(told, said, number=2)
    assert table.splitlines()[0] == f"**instruct** · {task.test[2].prompt}"
    assert f"| reference | `{task.test[2].references[0]}` | right (1) |" in table
    assert "| DistiLLM-2 | `a b` | no answer (0) |" in table


def test_answers_are_those_of_the_model_that_is_asked(task, shared_pair):
    prompts = [e.prompt for e in task.test[:4]]
    by = [
        lesson_09.sample_texts(model, shared_pair, prompts, temperature=0.0, max_new_tokens=6)
        for model in (shared_pair.teacher, shared_pair.student, shared_pair.student)
    ]
    assert by[0] != by[1] == by[2]


def test_a_shipped_teacher_is_right_most_of_the_time():
    found = lesson_09.teacher_accuracy("instruct", prompts=20)
    assert found >= 0.8
    assert (20 * found) % 1 == pytest.approx(0)


def test_millions_of_parameters(shared_pair):
    count = sum(weight.numel() for weight in shared_pair.student.parameters())
    assert lesson_09.parameter_count_m(shared_pair.student) == count / 1e6
