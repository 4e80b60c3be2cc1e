"""The alpha of each sample and the beta of each step."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minidistill import curriculum as C


def test_7_1_adaptive_alpha_keeps_one_minus_alpha_times_the_gap_constant():
    gap = torch.tensor([0.20, 0.22, 0.25], dtype=torch.float64)
    alpha = C.adaptive_alpha(gap, 0.2, alpha0=0.1, low=0.0, high=1.0)
    assert ((1 - alpha) * gap).tolist() == pytest.approx([0.9 * 0.2] * 3)
    assert alpha.tolist() == pytest.approx([0.1, 1 - 0.18 / 0.22, 1 - 0.18 / 0.25])


def test_7_1_a_sample_at_the_mean_gap_keeps_alpha0_and_harder_ones_get_more():
    gap = torch.linspace(0.01, 1.0, 100)
    alpha = C.adaptive_alpha(gap, 0.5, alpha0=0.05, high=0.9)
    assert alpha[49].item() == pytest.approx(0.05, abs=1e-6)
    assert (alpha.diff() >= 0).all()
    assert alpha[0].item() == pytest.approx(0.01)
    assert alpha[-1].item() == pytest.approx(1 - 0.95 * 0.5)


def test_7_1_with_the_papers_bounds_alpha_is_almost_binary():
    alpha = C.adaptive_alpha(torch.tensor([0.90, 0.95, 1.0, 1.5]), 1.0)
    assert alpha.tolist() == pytest.approx([0.01, 1 - 0.9 / 0.95, 0.1, 0.1], abs=1e-6)


def test_7_1_no_gap_is_easy_and_no_reference_gap_means_alpha0():
    assert C.adaptive_alpha(torch.tensor([0.0, -0.3]), 0.2).tolist() == pytest.approx([0.01] * 2)
    for reference in (0.0, -0.1):
        alpha = C.adaptive_alpha(torch.tensor([-1.0, 0.5]), reference, alpha0=0.3)
        assert alpha.tolist() == pytest.approx([0.3, 0.3])


@given(
    gap=st.floats(-1, 1),
    reference=st.floats(-1, 1),
    alpha0=st.floats(0.01, 0.1),
)
def test_7_1_adaptive_alpha_stays_within_its_bounds(gap, reference, alpha0):
    alpha = C.adaptive_alpha(torch.tensor([gap], dtype=torch.float64), reference, alpha0).item()
    assert 0.01 <= alpha <= 0.1


def test_7_1_a_tracker_gives_alpha0_in_the_first_epoch_and_then_follows_its_mean_gap():
    tracker, gaps = C.AlphaTracker(), torch.tensor([[0.1, 0.3], [0.2, -0.2]])
    for gap in gaps:
        assert tracker.update(gap, epoch=0, alpha0=0.05).tolist() == pytest.approx([0.05, 0.05])
    assert tracker.reference_gap == pytest.approx(0.1)
    for epoch in (1, 2):
        alpha = tracker.update(gaps[0], epoch, alpha0=0.05)
        assert torch.equal(alpha, C.adaptive_alpha(gaps[0], tracker.reference_gap, 0.05))
    assert tracker.reference_gap == pytest.approx(0.1)  # m is the first epoch's for good


def test_7_1_a_saved_tracker_is_loaded_whole():
    tracker, loaded = C.AlphaTracker(), C.AlphaTracker()
    tracker.update(torch.tensor([0.1, 0.3]), epoch=0)
    loaded.load_state_dict(tracker.state_dict())
    assert loaded == tracker


def test_7_2_exact_alpha_solves_its_equation():
    p = torch.tensor([0.5, 0.6, 0.9], dtype=torch.float64)
    q = torch.tensor([0.4, 0.3, 0.5], dtype=torch.float64)
    alpha = C.exact_alpha(p, q, 0.15, low=0.0, high=1.0)
    left = p.log() - (alpha * p + (1 - alpha) * q).log()
    assert left.tolist() == pytest.approx([0.15] * 3)


def test_7_2_exact_alpha_is_clipped_and_low_where_there_is_no_gap():
    p, q = torch.tensor([0.5, 0.5, 0.5, 0.2]), torch.tensor([0.49, 0.05, 0.5, 0.6])
    assert C.exact_alpha(p, q, 0.15).tolist() == pytest.approx([0.01, 0.1, 0.01, 0.01])


def test_7_2_the_series_approaches_the_exact_alpha_as_p_and_q_approach_one():
    # The series is around 1, so near (1, 1) both give the same product of 1 − alpha and gap.
    p = torch.tensor([0.9999], dtype=torch.float64)
    q = torch.tensor([0.9950], dtype=torch.float64)
    constant = 0.9 * 0.004
    exact = C.exact_alpha(p, q, constant, low=0.0, high=1.0)
    series = C.adaptive_alpha(p - q, 0.004, alpha0=0.1, low=0.0, high=1.0)
    assert series.item() == pytest.approx(exact.item(), abs=0.01)


def test_7_1_7_2_alphas_are_detached():
    gap = torch.tensor([0.3], requires_grad=True)
    assert not C.adaptive_alpha(gap, 0.2).requires_grad
    assert not C.exact_alpha(gap, gap / 2, 0.2).requires_grad


@pytest.mark.parametrize(
    ("progress", "beta"), [(0, 0.5), (0.25, 0.625), (0.5, 0.75), (0.75, 0.75), (1, 0.75)]
)
def test_7_3_linear_beta_rises_over_the_first_half_and_then_stays(progress, beta):
    assert C.linear_beta(progress) == pytest.approx(beta)


def test_7_3_linear_beta_with_other_ends_and_no_ramp():
    assert C.linear_beta(0.4, start=0.2, end=1.0, ramp=0.8) == pytest.approx(0.6)
    assert C.linear_beta(0.0, start=0.2, end=0.6, ramp=0.0) == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("epoch", "step", "beta"),
    [(1, 1, 0.5), (1, 5, 0.3333 + 0.5), (1, 10, 1.0), (2, 1, 0.6667 + 0.1), (3, 1, 1.0)],
)
def test_7_4_paper_beta_is_the_sum_of_both_shares_clipped(epoch, step, beta):
    assert C.paper_beta(epoch, 3, step, 10) == pytest.approx(beta, abs=1e-4)


def test_7_4_paper_beta_drops_at_an_epochs_start():
    assert C.paper_beta(2, 3, 1, 10) < C.paper_beta(1, 3, 10, 10)


@pytest.mark.parametrize("bad", [-0.1, math.nan])
@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda v: C.adaptive_alpha(torch.tensor([0.1]), 0.1, alpha0=v), "alpha0"),
        (lambda v: C.adaptive_alpha(torch.tensor([0.1]), 0.1, low=v), "low"),
        (lambda v: C.adaptive_alpha(torch.tensor([0.1]), 0.1, high=v), "high"),
        (lambda v: C.exact_alpha(torch.tensor([0.2]), torch.tensor([0.1]), 0.1, low=v), "low"),
        (lambda v: C.exact_alpha(torch.tensor([0.2]), torch.tensor([0.1]), 0.1, high=v), "high"),
        (lambda v: C.linear_beta(v), "progress"),
        (lambda v: C.linear_beta(0.1, start=v), "start"),
        (lambda v: C.linear_beta(0.1, end=v), "end"),
        (lambda v: C.linear_beta(0.1, ramp=v), "ramp"),
        (lambda v: C.paper_beta(1, 3, 1, 10, start=v), "start"),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_name_value_and_range(call, name, bad):
    with pytest.raises(ValueError, match=rf"{name} must lie in \[0, 1\], but got {str(bad)[:4]}"):
        call(bad)
