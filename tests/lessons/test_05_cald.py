"""Lesson 05: forces on written tokens, the grid of real runs, convergence."""

import pytest
import torch

from minidistill import divergences as D
from minidistill import objectives
from minidistill.config import DistillConfig
from minidistill.experiments.arms import ALPHAS, BETAS
from minidistill.lessons import ledger_plots, plots, response_scores
from minidistill.lessons import lesson_05_cald as lesson_05
from minidistill.logprobs import ResponseLogProbs
from minidistill.tasks import Task


@pytest.fixture(scope="module")
def responses():
    draw = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    labels = torch.tensor([[0, 3, 5, 1], [2, 2, 0, 0], [4, 1, 1, 5]])
    mask = torch.arange(4) < torch.tensor([[4], [1], [3]])
    return ResponseLogProbs(labels, mask, draw[0], lambda: draw[1])


def test_kl_pulls_a_written_token_by_the_probability_that_is_missing(responses):
    missing = responses.token_log_p.exp() - responses.token_log_q.exp()
    torch.testing.assert_close(
        response_scores.token_gradient(responses, D.kl), missing[responses.mask]
    )


@pytest.mark.parametrize(
    ("of", "divergence"),
    [
        (response_scores.skl_token_gradient, D.skew_kl),
        (response_scores.srkl_token_gradient, D.skew_reverse_kl),
    ],
)
def test_a_force_is_the_finite_difference_in_the_written_logit(responses, of, divergence):
    step, found = 1e-3, of(responses, 0.3)
    spots = responses.mask.nonzero().tolist()
    for force, (row, token) in zip(found.tolist(), spots, strict=True):
        ends = []
        for sign in (1, -1):
            z = responses.log_q[row, token].double().clone()
            z[responses.labels[row, token]] += sign * step
            ends.append(divergence(responses.log_p[row, token].double(), z.log_softmax(-1), 0.3))
        assert force == pytest.approx(-float(ends[0] - ends[1]) / (2 * step), abs=1e-4)


def test_gaps_are_those_of_written_tokens_in_order(responses):
    gaps = lesson_05.token_log_ratios(responses)
    assert len(gaps) == 8
    assert gaps.tolist() == sorted(gaps.tolist())
    first = responses.log_p[1, 0, 2] - responses.log_q[1, 0, 2]
    assert (gaps - first).abs().min() < 1e-6


def test_both_models_read_both_kinds_of_responses(shared_pair, task):
    few = Task("few", task.train[:3], task.test[:2], task.grade)
    both = response_scores.score_both_sources(shared_pair, few, DistillConfig(max_new_tokens=4))
    assert set(both) == {"tgo", "sgo"}
    assert not torch.equal(both["tgo"].log_p[:, :1], both["tgo"].log_q[:, :1])


def word(label, log_p, log_q):
    """A response of one token, `label`, as teacher and student see it."""
    labels, mask = torch.tensor([[label]]), torch.ones(1, 1, dtype=torch.bool)
    return ResponseLogProbs(labels, mask, log_q.view(1, 1, -1), lambda: log_p.view(1, 1, -1))


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.7])
def test_5_2_the_margin_of_written_words_is_minus_two_cald_on_average(alpha):
    draw = torch.randn(4, 5, generator=torch.Generator().manual_seed(0)).double().log_softmax(-1)
    (p_t, q_t), (p_s, q_s) = draw[:2], draw[2:]
    expected = sum(
        p_t[a].exp()
        * q_s[b].exp()
        * lesson_05.implicit_reward_margin(word(a, p_t, q_t), word(b, p_s, q_s), alpha)
        for a in range(5)
        for b in range(5)
    )
    cald = objectives.cald(word(0, p_t, q_t), word(0, p_s, q_s), alpha=alpha)
    torch.testing.assert_close(expected, -2 * cald)


def test_5_2_without_skew_is_the_margin_of_dpkd_per_token(responses):
    margin = lesson_05.implicit_reward_margin(responses, responses, 0.0)
    torch.testing.assert_close(margin, torch.zeros(3))
    other = ResponseLogProbs(
        responses.labels, responses.mask, responses.log_p, lambda: responses.log_q
    )
    dpkd = objectives.dpkd(other, responses, lam=0.5, per_token=True)
    margin = lesson_05.implicit_reward_margin(other, responses, 0.0)
    torch.testing.assert_close(dpkd, -torch.nn.functional.logsigmoid(0.5 * margin))


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_every_place_of_both_sliders_draws_its_own_run(alpha, beta):
    grid = lesson_05.grid_logs()
    assert set(grid) == {(a, b) for a in ALPHAS for b in BETAS}
    figure = lesson_05.grid_explorer(grid)(alpha, beta)
    left, right = figure.axes
    drawn = {line.get_label(): list(line.get_ydata()) for line in right.lines}
    assert drawn["this place"] == [row["accuracy"] for row in grid[alpha, beta]["evals"][1:]]
    frame = left.lines[0].get_xydata().mean(0)
    assert len(plots.png(figure)) > 1000
    assert abs(frame[0] - BETAS.index(beta)) < 0.5
    assert abs(frame[1] - ALPHAS.index(alpha)) < 0.5


def test_5_1_curves_on_the_way_are_the_median_over_seeds():
    logs = ledger_plots.arm_logs(["kd", "cald"])
    ax = ledger_plots.draw_curves(logs, {"kd": "KD", "cald": "CALD"}, plots.axes())
    steps, curves = ledger_plots.on_the_way(logs["cald"])
    line = next(line for line in ax.lines if line.get_label() == "CALD")
    assert list(line.get_xdata()) == steps
    median = torch.tensor(curves).double().quantile(0.5, dim=0)
    assert list(line.get_ydata()) == pytest.approx(median.tolist())


def test_force_by_q_is_the_negative_gradient_at_the_written_words_it_was_asked_for():
    torch.manual_seed(0)
    log_p, log_q = (torch.randn(4, 3, 6, dtype=torch.float64).log_softmax(-1) for _ in range(2))
    mask = torch.ones(4, 3, dtype=torch.bool)
    y = ResponseLogProbs(torch.randint(6, (4, 3)), mask, log_q, lambda: log_p)
    wanted = torch.arange(12) % 2 == 0
    q, force, middles, means = lesson_05.force_by_q(y, D.kl, wanted)
    p = y.token_log_p.exp()[mask][wanted]
    torch.testing.assert_close(q, y.token_log_q.exp()[mask][wanted])
    torch.testing.assert_close(force, p - q)  # lesson 01: −∂KL/∂z = p − q
    edges = lesson_05.Q_EDGES
    for middle, mean in zip(middles, means, strict=True):
        place = next(i for i in range(len(edges) - 1) if edges[i] < middle < edges[i + 1])
        inside = (q > edges[place]) & (q <= edges[place + 1])
        assert inside.sum() >= 3
        assert mean == pytest.approx(float(force[inside].mean()))


def ledger_grid():
    """One log a place; accuracy grows with alpha and falls with beta."""
    return {
        (a, b): {
            "scores": {"accuracy": 0.5 + a / 10 - b / 10},
            "evals": [{"step": 0}, *({"step": s, "accuracy": a + b + s / 100} for s in (5, 10))],
        }
        for a in lesson_05.ALPHAS
        for b in lesson_05.BETAS
    }


@pytest.mark.parametrize("alpha", [0.0, 0.3])
@pytest.mark.parametrize("beta", [0.1, 0.9])
def test_both_sliders_hand_over_values_and_draw_the_run_of_that_place(alpha, beta):
    figure = lesson_05.grid_explorer(ledger_grid())(alpha, beta)
    left, right = figure.axes
    assert f"{0.5 + alpha / 10 - beta / 10:.3f}" in left.get_title(loc="left")
    drawn = {line.get_label(): list(line.get_ydata()) for line in right.lines}
    assert drawn["this place"] == pytest.approx([alpha + beta + 0.05, alpha + beta + 0.1])
    frame = left.lines[0].get_xydata().mean(0)
    assert abs(frame[0] - lesson_05.BETAS.index(beta)) < 0.5
    assert abs(frame[1] - lesson_05.ALPHAS.index(alpha)) < 0.5


def test_the_interactions_lines_run_through_the_means():
    ax = lesson_05.draw_interaction(
        plots.axes(), {"SKL": [[0.4, 0.6], [0.2]], "SRKL": [[0.3], [0.5]]}, ["t", "s"], "accuracy"
    )
    lines = {line.get_label(): list(line.get_ydata()) for line in ax.lines}
    assert lines["SKL"] == pytest.approx([0.5, 0.2])
    assert lines["SRKL"] == pytest.approx([0.3, 0.5])
