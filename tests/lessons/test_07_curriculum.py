"""Lessons 07, 08: gaps and their alphas, the two betas, what runs logged, Algorithm 1, claims by name."""

import itertools

import pytest
import torch

from minidistill import curriculum as C
from minidistill.experiments import claims, run_configs, tables
from minidistill.experiments.logs import shipped_runs
from minidistill.experiments.run_configs import ALPHAS, BETAS
from minidistill.lessons import lesson_07_curriculum as lesson_07
from minidistill.lessons import lesson_08_distillm2 as lesson_08
from minidistill.lessons import plots, response_scores, run_plots
from minidistill.logprobs import ResponseLogProbs

GAPS = {"tgo": torch.tensor([0.02, 0.05, 0.11, 0.30]), "sgo": torch.tensor([-0.1, 0.2, 0.5])}
ARMS = ["cald", "distillm2", "distillm2_no_beta", "distillm2_paper_beta"]


@pytest.fixture(scope="module")
def logs():
    return shipped_runs(ARMS)


@pytest.fixture(scope="module")
def grid():
    return shipped_runs(list(run_configs.CALD_SWEEP))


def drawn(ax) -> dict:
    return {line.get_label(): list(line.get_ydata()) for line in ax.lines}


def test_a_confidence_is_exp_of_the_mean_log_prob_and_the_writer_comes_first():
    draw = torch.randn(2, 2, 3, 5, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    labels, mask = torch.tensor([[0, 3, 1], [2, 2, 0]]), torch.tensor([[1, 1, 1], [1, 0, 0]]).bool()
    y = ResponseLogProbs(labels, mask, draw[0], lambda: draw[1])
    found = response_scores.confidences({"tgo": y, "sgo": y})
    by_hand = sum(float(draw[1][0, i, labels[0, i]]) for i in range(3)) / 3
    assert found["tgo"][0][0].log().item() == pytest.approx(by_hand)
    assert found["tgo"][0][1].item() == pytest.approx(float(draw[1][1, 0, 2].exp()))
    torch.testing.assert_close(found["tgo"][0] - found["tgo"][1], y.confidence_gap())
    assert torch.equal(found["sgo"][0], found["tgo"][1])
    ax = lesson_07.draw_confidences(plots.axes(), found, "x")
    assert list(ax.lines[0].get_ydata()) == pytest.approx(found["tgo"][0].tolist())


def test_shares_count_both_bounds_and_what_is_between():
    alpha = torch.tensor([0.01, 0.01, 0.05, 0.1])
    found = response_scores.clip_shares(alpha)
    assert found == {"low": 0.5, "between": 0.25, "high": 0.25}


def corners(*sliders: tuple) -> list[tuple]:
    """Both ends of each slider with both ends of all others, and the default of all: (low, high, default)."""
    ends = [slider[:2] for slider in sliders]
    return [*itertools.product(*ends), tuple(slider[2] for slider in sliders)]


ALPHA_SLIDERS = ((0.0, 0.5, 0.1), (0.0, 0.1, 0.01), (0.1, 0.5, 0.1), (0.5, 2.0, 1.0))
BETA_SLIDERS = ((0.0, 1.0, 0.5), (0.0, 1.0, 0.75), (0.0, 1.0, 0.5), (1, 6, 3))


@pytest.mark.parametrize(("alpha0", "low", "high", "m"), corners(*ALPHA_SLIDERS))
def test_7_1_the_alpha_slider_counts_the_real_gaps(alpha0, low, high, m):
    left, right = lesson_07.alpha_explorer(GAPS)(alpha0, low, high, m).axes
    assert min(drawn(left)["alpha"]) >= low - 1e-6
    assert max(drawn(left)["alpha"]) <= high + 1e-6
    heights = [bar.get_height() for bar in right.patches]
    for number, gap in enumerate(GAPS.values()):
        alpha = C.adaptive_alpha(gap, m * float(gap.mean()), alpha0, low, high)
        expected = list(response_scores.clip_shares(alpha, low, high).values())
        assert heights[3 * number : 3 * number + 3] == pytest.approx(expected)


@pytest.mark.parametrize(("start", "end", "ramp", "epochs"), corners(*BETA_SLIDERS))
def test_7_3_7_4_the_beta_slider_draws_both_schedules(start, end, ramp, epochs):
    (ax,) = lesson_07.beta_explorer(start, end, ramp, epochs).axes
    lines = drawn(ax)
    progress = [i / (60 * epochs) for i in range(60 * epochs)]
    expected = [C.linear_beta(t, start, end, ramp) for t in progress]
    assert lines["ramp (7.3)"] == pytest.approx(expected, abs=1e-6)
    saw = lines["paper's formula (7.4)"]
    assert saw[0] == pytest.approx(C.paper_beta(1, epochs, 1 / 60, 1, start))
    assert saw[-60:] == [1.0] * 60, "no pull-up at all in the last epoch"
    assert f"{1 - sum(saw) / len(saw):.2f}" in ax.get_title(loc="left")


def test_7_4_the_saw_drops_at_each_epoch_but_the_last():
    saw = lesson_07.beta_schedules(3, 0.5, 0.75, 0.5)["paper's formula (7.4)"]
    assert saw[59] == 1.0
    assert saw[60] < saw[59]
    assert len(plots.png(lesson_07.beta_explorer())) > 1000


def test_what_runs_logged_is_one_row_a_seed(logs):
    steps, beta = run_plots.logged_metric(logs, "distillm2_paper_beta", "beta")
    assert beta.shape == (sum(g["run"]["name"] == "distillm2_paper_beta" for g in logs), len(steps))
    assert beta.max() == 1.0
    first = run_plots.logged_metric(logs, "distillm2", "alpha_tgo")[1][:, steps.index(31)]
    assert first == pytest.approx(0.1), "no update in the first epoch"


@pytest.mark.parametrize("moment", [1, 4, 21, 99])
def test_the_path_slider_ends_where_the_runs_stood(grid, logs, moment):
    left, right = lesson_07.path_explorer(grid, logs)(moment).axes
    steps, beta = run_plots.logged_metric(logs, "distillm2", "beta")
    here = min(moment, len(steps)) - 1
    x = left.lines[0].get_xdata()
    assert len(x) == here + 1
    assert BETAS[0] + 0.2 * x[-1] == pytest.approx(beta.mean(0)[here])  # the places are 0.2 apart
    assert f"step {steps[here]}:" in right.get_title(loc="left")
    nll = run_plots.logged_metric(logs, "cald", "nll_teacher")[1].mean(0)
    assert drawn(right)["cald"] == pytest.approx(nll.tolist())


def test_the_path_slider_takes_a_grid_that_is_not_complete(grid, logs):
    some = [log for log in grid if log["run"]["config"]["method_kwargs"]["alpha"] == 0.1]
    left, _ = lesson_07.path_explorer(some, logs)(4).axes
    numbers = {text.get_text() for text in left.texts}
    means = run_plots.grid_means(some)
    assert numbers == {f"{means[0.1, beta]:.3f}" for beta in BETAS}
    assert len(left.get_yticks()) == len(ALPHAS)


def test_the_cost_picture_has_a_point_a_seed_and_their_mean(logs):
    ax = lesson_08.draw_cost(plots.axes(), logs, {"cald": "CALD", "distillm2": "all"})
    runs = [log for log in logs if log["run"]["name"] == "cald"]
    assert list(ax.lines[0].get_xdata()) == [log["train_seconds"] for log in runs]
    mean = sum(log["scores"]["rouge_l"] for log in runs) / len(runs)
    assert ax.lines[1].get_ydata()[0] == pytest.approx(mean)


def test_lesson_08_shows_the_claims_that_it_names_and_what_they_cost():
    text = tables.claims_table(names=["C8", "C16"])
    rows = [line for line in text.splitlines() if line.startswith("| C")]
    assert [row.split(" | ")[0] for row in rows] == ["| C8", "| C16"]
    arms = {arm for name in ("C8", "C16") for arm in claims.get_claim(name).runs}
    runs = shipped_runs(sorted(arms))
    minutes = sum(log["seconds"] for log in runs) / 60
    assert f"those of these claims are {len(runs)} runs and {minutes:.0f} minutes." in text
    with pytest.raises(ValueError, match="C16"):
        tables.claims_table(names=["C99"])
