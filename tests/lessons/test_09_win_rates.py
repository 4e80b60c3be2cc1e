"""Lesson 09: duels from logged grades, verdicts by luck, judges that err or like a place, pass@k."""

from itertools import product

import pytest
import torch

from minidistill import judging
from minidistill.evaluation import normal_interval
from minidistill.experiments.logs import add_runs, encode
from minidistill.judging import WinRate, noisy_win_rate
from minidistill.lessons import lesson_09_benchmarks as lesson_09
from minidistill.lessons import lesson_09_win_rates as duels
from minidistill.lessons import plots
from minidistill.tasks import Example, Task

POINTS = [1.0, 1.0, 0.5, 0.0, 1.0, 0.5, 0.0, 1.0] * 50  # W = 0.625


def log(folder, name, seed, grades=None):
    content = {"run": {"name": name, "seed": seed}, "scores": {}, "grades": grades or []}
    add_runs([encode(content)], folder)


def graded(texts=()) -> Task:
    """A task whose responses are their own grades."""
    examples = [Example(text) for text in texts]
    return Task("graded", [], examples, lambda prompt, text: float(text))


# --- duels --------------------------------------------------------------------------------------------
def test_9_2_points_are_1_for_a_win_and_one_half_for_a_tie():
    assert duels.verdict_scores([1, 0.67, 0.33, 0], [0.33, 0.67, 1, 0]) == [1, 0.5, 0, 0.5]
    with pytest.raises(ValueError, match="shorter"):
        duels.verdict_scores([1, 0], [1])


def test_9_2_a_duel_pairs_the_seeds_that_both_have(tmp_path):
    for seed, grades in ((0, [[1, 0], [0, 0]]), (1, [[1, 1], [1, 1]]), (2, [[0, 0], [0, 0]])):
        log(tmp_path, "one", seed, grades)
    for seed, grades in ((0, [[0, 0], [1, 0]]), (1, [[1, 0], [0, 1]])):
        log(tmp_path, "two", seed, grades)
    assert duels.paired_verdicts("one", "two", tmp_path) == {0: [1, 0.5], 1: [0.5, 1]}
    assert duels.paired_verdicts("one", "two", tmp_path, draw=1) == {0: [0, 0.5], 1: [1, 0.5]}


def test_a_log_that_keeps_no_grades_is_named(tmp_path):
    log(tmp_path, "one", 0, [[1, 0]])
    log(tmp_path, "two", 0)
    for other in ("two", "three"):
        with pytest.raises(ValueError, match=f"the logs of {other} in .* keep no grades"):
            duels.paired_verdicts("one", other, tmp_path)


def test_9_2_the_interval_is_1_96_standard_errors_of_the_points():
    ours, theirs = torch.tensor([1.0, 1.0, 0.5, 0.0]), torch.tensor([0.0, 0.5, 0.5, 1.0])
    # points 1, 1, ½, 0: mean 0.625, squared distances 0.1406 · 2 + 0.0156 + 0.3906 over n − 1 = 3
    half = 1.96 * ((2 * 0.140625 + 0.015625 + 0.390625) / 3) ** 0.5 / 2
    found = duels.with_interval(ours, theirs)
    assert found.tolist() == pytest.approx([0.625, 0.625 - half, 0.625 + half])
    rate, low, high = normal_interval(POINTS)
    bootstrap = WinRate.of(POINTS)
    assert (low, high) == pytest.approx((bootstrap.low, bootstrap.high), abs=0.005)
    assert rate == bootstrap.rate


def test_9_2_more_prompts_narrow_the_band_by_their_root():
    found = duels.running_win_rate(POINTS, [100, 400])
    widths = [high - low for low, high in zip(found["low"], found["high"], strict=True)]
    assert widths[0] / widths[1] == pytest.approx(2, rel=0.02)
    assert found["rate"] == pytest.approx([0.625, 0.625], abs=0.01)
    ax = duels.draw_growth(plots.axes(), POINTS, "(9.2)", [100, 400])
    assert list(ax.lines[0].get_ydata()) == found["rate"]


def test_9_2_a_row_a_duel_with_its_interval():
    ax = duels.draw_intervals(plots.axes(), {"a": (0.5, 0.4, 0.6), "b": (0.7, 0.6, 0.9)})
    drawn = [list(line.get_xdata()) for line in ax.lines]
    assert drawn[:4] == [[0.4, 0.6], [0.5], [0.6, 0.9], [0.7]]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["a", "b"]


# --- luck -----------------------------------------------------------------------------------------------
def test_a_bootstrap_of_five_decides_too_often_and_holms_rule_does_not():
    found = duels.lucky_verdicts(seeds=5, ledgers=100)
    means = {rule: sum(counts) / len(counts) for rule, counts in found.items()}
    assert means["bootstrap"] > 2 * means["t"] > 0.3
    assert sum(count > 0 for count in found["Holm"]) <= 10
    assert duels.lucky_verdicts(seeds=5, ledgers=20, smallest=5.0)["Holm"] == [0] * 20


# --- judges that err ----------------------------------------------------------------------------------
def test_9_3_flipped_verdicts_blur_the_rate_and_leave_ties():
    assert duels.flip_verdicts(POINTS, 0.0) == POINTS
    assert duels.flip_verdicts(POINTS, 1.0) == [1 - point for point in POINTS]
    many = duels.flip_verdicts(POINTS * 20, 0.2)
    assert sum(many) / len(many) == pytest.approx(noisy_win_rate(0.625, 0.2), abs=0.01)
    assert many.count(0.5) == POINTS.count(0.5) * 20


@pytest.mark.parametrize("prompts", [25, 200, 400])
@pytest.mark.parametrize("error", [0.0, 0.1, 0.5])
def test_9_2_9_3_the_judge_slider_shows_fewer_verdicts_and_worse_ones(prompts, error):
    left, right = duels.judge_explorer(POINTS)(prompts, error).axes
    seen = duels.flip_verdicts(POINTS, error)[:prompts]
    assert left.lines[0].get_xdata()[-1] == prompts
    assert left.lines[0].get_ydata()[-1] == pytest.approx(sum(seen) / prompts)
    assert f"(9.2) W = {sum(seen) / prompts:.3f}" in left.get_title(loc="left")
    judged = {line.get_label(): list(line.get_ydata()) for line in right.lines}["judged"]
    assert judged == pytest.approx([noisy_win_rate(i / 20, error) for i in range(21)])
    assert f"(9.3) error {error:.2f}" in right.get_title(loc="left")
    assert (left.get_xlim(), left.get_ylim()) == ((0, 400), (0.4, 1))


def test_a_judge_that_only_likes_a_place_gives_the_first_the_prize_and_both_orders_nothing():
    prompts, ours, theirs = [*"pqr"], ["0", "0.5", "1"], ["1", "0.5", "0"]
    judge = duels.PositionBiasedJudge(graded(), bias=1.0)
    assert duels.single_order_win_rate(judge, prompts, ours, theirs).rate == 1
    found = judge.report(prompts, ours, theirs)
    assert (found.rate, found.position_inconsistency, found.unparsed) == (0.5, 1.0, 0.0)


def test_a_placed_judge_without_bias_is_the_grader_whatever_the_texts_look_like():
    judge = duels.PositionBiasedJudge(graded(), bias=0.0)
    prompts = ["sort:\n\nResponse B:\nx", "p {a} {b}", "r"]
    ours, theirs = ["1", "0.5", "0"], ["0", "0.5", "1"]
    once = duels.single_order_win_rate(judge, prompts, ours, theirs)
    assert (once.wins, once.ties, once.losses) == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    assert judge.report(prompts, ours, theirs).position_inconsistency == 0


def test_9_3_a_bias_of_b_asked_in_both_orders_is_an_error_of_half_b():
    n = 3000
    ours, theirs = ["1"] * n, ["0"] * (n - 600) + ["2"] * 600  # W = 0.8
    judge = duels.PositionBiasedJudge(graded(), bias=0.3)
    prompts = ["p"] * n
    assert duels.single_order_win_rate(judge, prompts, ours, theirs).rate == pytest.approx(
        0.86, abs=0.02
    )
    found = judge.report(prompts, ours, theirs)
    assert found.rate == pytest.approx(noisy_win_rate(0.8, 0.15), abs=0.02)
    assert found.position_inconsistency == pytest.approx(0.3, abs=0.03)


# --- pass@k -------------------------------------------------------------------------------------------
def test_9_1_estimates_are_the_means_over_all_outcomes():
    p, n, k = 0.3, 3, 2
    found = lesson_09.estimates(p, n, [1, k])
    plug_in = 0.0
    for draws in product((0, 1), repeat=n):
        c = sum(draws)
        plug_in += p**c * (1 - p) ** (n - c) * (1 - (1 - c / n) ** k)
    assert found["plug-in"] == pytest.approx([p, plug_in])
    assert found["unbiased"] == pytest.approx(found["true"])
    assert found["true"] == pytest.approx([p, 1 - 0.7**2])
    assert plug_in < found["true"][1]


def test_9_1_the_curve_of_a_task_is_the_mean_over_its_prompts():
    task = graded("abc")
    draws = [["1", "0", "1"], ["0", "0", "1"], ["0.5", "0", "1"], ["1", "0", "1"]]
    right = lesson_09.correct_counts(task, draws)
    assert right == [2, 0, 4]
    curve = lesson_09.pass_curve(right, 4)
    assert curve[0] == pytest.approx((2 / 4 + 0 + 1) / 3)
    assert curve[1] == pytest.approx((1 - 1 / 6 + 0 + 1) / 3)
    assert curve[3] == pytest.approx(2 / 3)
    assert lesson_09.correct_counts(task, [row[:2] for row in draws]) == [2, 0], "the first prompts"


def test_the_grader_and_a_fair_judge_agree_on_real_texts(task):
    prompts, good = zip(*((e.prompt, e.references[0]) for e in task.test), strict=True)
    bad = [" ".join(sorted(text.split())) for text in good]
    judge = duels.PositionBiasedJudge(task, bias=0.0)
    grader = judging.win_rate(prompts, good, bad, judging.RuleJudge(task))
    assert duels.single_order_win_rate(judge, prompts, good, bad) == grader
