"""Lesson 09: the paper's figures, scores by data, teacher and width from a few small logs, answers."""

import json

import pytest

from minidistill import load_task
from minidistill.experiments.arms import ARMS, COMPARED, TEACHERS
from minidistill.experiments.hypotheses import HYPOTHESES
from minidistill.experiments.paper_results import PAPER_RESULTS, PAPER_TEACHERS
from minidistill.experiments.reports import domain_scores, domains_table
from minidistill.lessons import lesson_09_benchmarks as lesson_09

LEVEL = {"kd": 0.4, "gkd": 0.5, "distillm": 0.6, "distillm2": 0.7, "start": 0.1}
LESS = {"_p1000": 0.2, "_p2000": 0.1, "_small_teacher": 0.2, "_medium_teacher": 0.1, "": 0.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two seeds of the compared methods, seed 1 always 0.02 above seed 0."""
    folder, by_world = tmp_path_factory.mktemp("ledger"), {}
    names = [f"{name}{end}" for name in COMPARED for end in LESS]
    for name in [*names, "start", "kd_width_32", "kd", "program/gkd", "program/distillm2"]:
        world, _, label = name.rpartition("/")
        method = label.partition("_")[0]
        score = LEVEL[method] - LESS.get(label.removeprefix(method), 0.0)
        for seed in (0, 1):
            row = {"run": {"name": name, "seed": seed}, "scores": {"accuracy": score + 0.02 * seed}}
            row["samples"] = [["a b"] * 8]
            by_world.setdefault(world or "instruct", []).append(json.dumps(row))
    for world, rows in by_world.items():
        (folder / f"{world}.jsonl").write_text("\n".join(rows) + "\n")
    return folder


# --- the board ----------------------------------------------------------------------------------------
def test_the_board_has_mean_and_spread_beside_the_papers_figure(folder):
    rows = [row.split("|")[1:-1] for row in domains_table(folder=folder).splitlines()]
    cells = {name.strip(): [cell.strip() for cell in row] for name, *row in rows}
    assert cells["GKD"] == ["51.0 ± 1.4", "56.14", "–", "75.44", "51.0 ± 1.4", "54.88"]
    assert cells["KD"] == ["41.0 ± 1.4", "41.19", "–", "–", "–", "–"]


def test_the_papers_figures_are_those_of_the_claims():
    for name in COMPARED:
        for cited in PAPER_RESULTS.values():
            assert f"{cited.scores[name]:.2f}" in HYPOTHESES["C9"].paper_numbers
        figures = ", ".join(f"{v:.2f}" for v in PAPER_TEACHERS[name].values())
        assert figures in HYPOTHESES["C11"].paper_numbers


def test_the_share_of_the_way_is_0_at_the_start_and_1_at_the_teacher():
    found = lesson_09.gap_closed(
        {"start": 0.2, "teacher": 0.9, "kd": 0.2, "gkd": 0.9, "cald": 0.55}
    )
    assert found == pytest.approx({"kd": 0.0, "gkd": 1.0, "cald": 0.5})
    paper = lesson_09.gap_closed(PAPER_RESULTS["program"].scores)
    assert paper["distillm2"] == pytest.approx((59.92 - 50.61) / (85.37 - 50.61))


def test_the_share_of_pairs_in_the_same_order():
    a = {"x": 1, "y": 2, "z": 3}
    assert lesson_09.rank_agreement(a, {"x": 10, "y": 20, "z": 30}) == 1
    assert lesson_09.rank_agreement(a, {"x": 3, "y": 2, "z": 1}) == 0
    assert lesson_09.rank_agreement(a, {"x": 1, "z": 2, "y": 3, "w": 0}) == pytest.approx(2 / 3)


def test_means_are_of_what_has_runs(folder):
    means = lesson_09.seed_means(domain_scores(["instruct"], folder=folder)["instruct"])
    assert means == pytest.approx({name: score + 0.01 for name, score in LEVEL.items()})


# --- data, teachers, widths -----------------------------------------------------------------------------
def test_accuracies_by_data_size_teacher_and_width(folder):
    sizes = lesson_09.by_size(folder)
    assert sizes["gkd"] == {
        size: pytest.approx([low, low + 0.02])
        for size, low in ((1000, 0.3), (2000, 0.4), (4000, 0.5))
    }
    parameters = {"teacher_small": 0.2, "teacher_medium": 0.5, "teacher": 0.9}
    taught = lesson_09.by_teacher(parameters, folder)
    assert list(taught["distillm2"]) == [0.2, 0.5, 0.9]
    assert taught["distillm2"][0.2] == pytest.approx([0.5, 0.52])
    assert taught["distillm2"][0.5] == pytest.approx([0.6, 0.62])
    widths = lesson_09.by_width(folder)
    assert list(widths["kd"]) == [32, 64], "what has no runs is left out"
    assert widths["rkl"] == {}
    assert list(widths["start"]) == [64]


def test_every_arm_of_data_and_teacher_sizes_is_defined():
    for name in COMPARED:
        sizes = [ARMS[f"{name}_p{n}"].prompts for n in lesson_09.PROMPT_COUNTS[:-1]]
        assert sizes == list(lesson_09.PROMPT_COUNTS[:-1])
        assert all(ARMS[f"{name}_{t}_teacher"].teacher == f"teacher_{t}" for t in TEACHERS)


def test_ranges_are_drawn_from_the_lowest_to_the_highest_seed():
    ax = lesson_09.draw_ranges({"gkd": {1: [0.2, 0.4], 10: [0.5]}, "kd": {10: [0.1, 0.3]}})
    means = {line.get_label(): list(line.get_ydata()) for line in ax.lines}
    assert means == {"gkd": pytest.approx([0.3, 0.5]), "kd": pytest.approx([0.2])}
    bars = [segment[:, 1].tolist() for c in ax.collections for segment in c.get_segments()]
    assert bars == [[0.2, 0.4], [0.5, 0.5], [0.1, 0.3]]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["1", "10"]


def test_seeds_stand_at_the_start_that_they_drew(folder):
    ax = lesson_09.draw_by_start("program", ("gkd", "distillm2"), folder=folder)
    dots = {round(float(y), 2) for line in ax.lines for y in line.get_ydata()}
    assert dots == {0.5, 0.52, 0.7, 0.72}
    at = {round(float(line.get_xdata()[0])) for line in ax.lines}
    assert at == {0, 1}, "seed 0 has start 0, seed 1 start 1"


# --- answers ------------------------------------------------------------------------------------------
def test_samples_stand_beside_the_verdict_of_the_grader(shared_pair, folder):
    task = load_task("instruct")
    said = lesson_09.first_answers(shared_pair, task, folder)
    assert list(said) == ["reference", "teacher", "start", "gkd", "distillm2"]
    assert all(len(texts) == 8 for texts in said.values())
    assert said["gkd"] == ["a b"] * 8, "from the log"
    table = lesson_09.sample_table(task, said, number=2)
    assert table.splitlines()[0] == f"**{task.name}** · {task.test[2].prompt}"
    assert f"| reference | `{task.test[2].references[0]}` | right (1) |" in table
    assert "| DistiLLM-2 | `a b` | no answer (0) |" in table


def test_answers_are_those_of_the_model_that_is_asked(task, shared_pair):
    prompts = [e.prompt for e in task.test[:4]]
    by = [
        lesson_09.sample_texts(model, shared_pair, prompts, temperature=0.0, max_new_tokens=6)
        for model in (shared_pair.teacher, shared_pair.student, shared_pair.student)
    ]
    assert by[0] != by[1] == by[2]


def test_millions_of_parameters(shared_pair):
    count = sum(weight.numel() for weight in shared_pair.student.parameters())
    assert lesson_09.parameter_count_m(shared_pair.student) == count / 1e6
