"""Lessons 07, 08: gaps and their alphas, the two betas, what runs logged, Algorithm 1, claims by name."""

import itertools
from dataclasses import replace

import pytest
import torch

from minidistill import curriculum as C
from minidistill import divergences as D
from minidistill import objectives
from minidistill.config import DistillConfig
from minidistill.experiments import reports, verdicts
from minidistill.experiments.logs import add_runs
from minidistill.generation import sample
from minidistill.lessons import ledger_plots, plots, response_scores
from minidistill.lessons import lesson_07_curriculum as lesson_07
from minidistill.lessons import lesson_08_distillm2 as lesson_08
from minidistill.logprobs import ResponseLogProbs, collate
from minidistill.rollouts import Rollouts

GAPS = {"tgo": torch.tensor([0.02, 0.05, 0.11, 0.30]), "sgo": torch.tensor([-0.1, 0.2, 0.5])}


@pytest.fixture(scope="module")
def logs():
    return ledger_plots.arm_logs(["cald", "distillm2"])


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
    steps, beta = ledger_plots.on_the_way(logs["distillm2"], "beta")
    assert beta.shape == (len(logs["distillm2"]), len(steps))
    assert (beta[:, -1] == 0.75).all()
    first = ledger_plots.on_the_way(logs["distillm2"], "alpha_tgo")[1][:, steps.index(31)]
    assert first == pytest.approx(0.1)  # the first epoch has no scale yet


def test_paired_logs_are_of_the_seeds_that_all_arms_have(tmp_path):
    for name, seeds in (("a", (0, 1, 2)), ("b", (2, 1, 5))):
        add_runs(
            [{"run": {"name": name, "seed": seed}, "scores": {"accuracy": 0.1}} for seed in seeds],
            tmp_path,
        )
    found = ledger_plots.paired_logs(["a", "b"], tmp_path)
    assert [[log["run"]["seed"] for log in rows] for rows in found.values()] == [[1, 2], [1, 2]]


def test_a_forest_has_a_row_a_contrast_with_seeds_mean_and_interval():
    contrasts = [
        verdicts.Contrast("a", {"cald": 1, "start": -1}),
        verdicts.Contrast("b", {"kd": 1, "cald": -1}),
    ]
    results = verdicts.judge(contrasts)
    ax = ledger_plots.draw_forest(results, title="t", labels=["one", "two"])
    assert [text.get_text() for text in ax.get_yticklabels()] == ["one", "two"]
    seeds, interval, mean = ax.lines[1:4]
    assert list(seeds.get_xdata()) == list(results[0].values)
    assert tuple(interval.get_xdata()) == results[0].interval
    assert mean.get_xdata()[0] == results[0].mean


def test_an_interval_that_goes_on_ends_in_an_arrow_at_the_frame():
    (result,) = verdicts.judge([verdicts.Contrast("a", {"cald": 1, "start": -1})])
    inside = ledger_plots.draw_forest([result])
    assert not [line for line in inside.lines if line.get_marker() in ("<", ">")]
    unsure = replace(result.decision, estimate=replace(result.decision.estimate, se=9.0))
    ax = ledger_plots.draw_forest([replace(result, decision=unsure)])
    arrows = [line for line in ax.lines if line.get_marker() in ("<", ">")]
    assert [line.get_marker() for line in arrows] == ["<", ">"]
    assert [line.get_xdata()[0] for line in arrows] == list(ax.get_xlim())
    assert ax.get_xlim()[1] == pytest.approx(1.08 * 3 * max(map(abs, result.values)))


def test_hard_shares_and_table_1_have_a_point_a_seed():
    hard = {"tgo": torch.tensor([[0.5, 0.3], [0.7, 0.1]]), "sgo": torch.rand(2, 2)}
    ax = lesson_07.draw_hard_shares(plots.axes(), hard, "")
    by_name = drawn(ax)
    assert by_name["teacher's responses"] == pytest.approx([0.6, 0.2])
    assert len(ax.lines) == 2 * (2 + 1)
    ax = lesson_07.draw_by_alpha(plots.axes(), {"1 epoch": [[0.1, 0.3], [0.2], [0.4]]}, "")
    assert drawn(ax)["1 epoch"] == pytest.approx([0.2, 0.2, 0.4])


def test_the_length_of_a_samples_gradient_is_that_of_its_own_loss():
    draw = torch.randn(2, 2, 3, 5, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    labels, mask = torch.zeros(2, 3, dtype=torch.long), torch.tensor([[1, 1, 1], [1, 0, 0]]).bool()
    y = ResponseLogProbs(labels, mask, draw[0], lambda: draw[1])
    alpha = torch.tensor([[0.1], [0.3]])
    found = lesson_07.gradient_lengths(y, D.skew_kl, alpha)
    for i, tokens in ((0, 3), (1, 1)):
        z = draw[0][i, :tokens].clone().requires_grad_()
        value = D.skew_kl(draw[1][i, :tokens], z.log_softmax(-1), float(alpha[i])).mean()
        (gradient,) = torch.autograd.grad(value, z)
        assert float(found[i]) == pytest.approx(float(gradient.norm()), rel=1e-5)


# --- lesson 08 ------------------------------------------------------------------------------------------
def test_the_cost_picture_has_a_point_a_seed_and_their_mean(logs):
    ax = lesson_08.draw_cost(plots.axes(), logs, {"cald": "CALD", "distillm2": "all"})
    assert list(ax.lines[0].get_xdata()) == [log["train_seconds"] for log in logs["cald"]]
    right = ledger_plots.scores(logs["cald"])
    assert ax.lines[1].get_ydata()[0] == pytest.approx(sum(right) / len(right))


def test_algorithm_1s_batches_are_those_of_distill(pair, task):
    config = DistillConfig("distillm2", batch_size=5, seed=3, max_new_tokens=4)
    rollouts = Rollouts(pair, task, {"tgo": "tgo", "sgo": "sgo"}, config)
    rollouts.collect(1)
    said = [rollouts.responses[name] for name in ("tgo", "sgo")]
    found = list(lesson_08.batches(pair, rollouts.prompts, *said, 5, 3, 1))
    theirs = rollouts.batches(1)
    assert len(found) == len(theirs)
    for (one, two), rows in zip(found, theirs, strict=True):
        for batch, responses in zip((one, two), said, strict=True):
            asked = [rollouts.prompts[i] for i in rows]
            alone = collate(asked, [responses[i] for i in rows], pair.pad_token_id)
            assert batch.input_ids.equal(alone.input_ids)
    again = sample(
        pair.student, rollouts.prompts, pair, seed=lesson_08.sampling_seed(3, 1), max_new_tokens=4
    )
    assert again == rollouts.responses["sgo"]


def test_the_halves_gradients_add_up_to_that_of_cald(pair, task):
    rollouts = Rollouts(pair, task, {"tgo": "tgo", "sgo": "sgo"}, DistillConfig(max_new_tokens=4))
    rollouts.collect(0)
    scored = rollouts.score([0, 1, 2])
    halves = lesson_08.half_gradients(pair, scored["tgo"], scored["sgo"], 0.2)
    scored = rollouts.score([0, 1, 2])
    objectives.cald(scored["tgo"], scored["sgo"], alpha=0.2).mean().backward()
    whole = torch.cat([w.grad.flatten() for w in pair.student.parameters()])
    torch.testing.assert_close((halves[0] + halves[1]) / 2, whole, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_8_1_the_arrows_are_the_weighted_gradients_and_their_sum(beta):
    a, b = torch.tensor([3.0, 1.0, 2.0]), torch.tensor([1.0, 2.0, 2.0])
    lengths = float(a.norm()), float(b.norm()), float(torch.cosine_similarity(a, b, dim=0))
    (ax,) = lesson_08.gradient_explorer(*lengths)(beta).axes
    both = ax.lines[4].get_xydata()[1]
    assert float((both**2).sum() ** 0.5) == pytest.approx(
        float(((1 - beta) * a + beta * b).norm() / 2)
    )


def test_seeds_are_counted_by_level_and_power():
    # z(.975) + z(.8) = 1.96 + 0.8416: squared 7.849
    assert lesson_08.seeds_for(0.02, 0.02) == 8
    assert lesson_08.seeds_for(0.01, 0.02) == 32
    assert lesson_08.seeds_for(0.02, 0.02, power=0.95) == 13


def test_a_table_shows_the_claims_that_are_named():
    text = reports.claims_table(names=["C8", "C16"])
    rows = [line for line in text.splitlines() if line.startswith("| C")]
    assert [row.split(" | ")[0] for row in rows] == ["| C8", "| C16"]
    with pytest.raises(ValueError, match="C16"):
        reports.claims_table(names=["C99"])
