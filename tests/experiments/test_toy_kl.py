"""The toy worlds of lessons 01 and 02, and what they are there to show."""

import math

import pytest
import torch

from minidistill import divergences as D
from minidistill.evaluation import bootstrap_interval
from minidistill.experiments import toy_kl
from minidistill.lessons.lesson_01_divergences import LINE, bimodal, gaussian
from minidistill.lessons.lesson_02_skew import gradient_noise
from minidistill.lessons.response_scores import logit_gradient


def test_the_half_gaussian_is_the_papers():
    log_p = toy_kl.half_gaussian(3)
    ideal = (-((torch.arange(80) * 1.25) ** 2) / (2 * 16**2)).softmax(-1)
    torch.testing.assert_close(log_p.exp().sum(-1), torch.ones(3))
    torch.testing.assert_close(log_p.exp(), ideal.expand(3, -1), rtol=0.011, atol=0)
    assert not torch.equal(log_p[0], log_p[1])
    torch.testing.assert_close(toy_kl.half_gaussian(2), log_p[:2])


def test_the_student_starts_from_uniform_logits():
    start = toy_kl.random_logits(4)
    assert start.shape == (4, 80)
    assert 0 <= start.min() < start.max() <= 1


def test_two_hills_hold_three_and_five_eighths():
    p = bimodal().exp()
    assert p[:25].sum().item() == pytest.approx(3 / 8, abs=1e-4)
    assert p.sum().item() == pytest.approx(1)


def test_a_gaussian_student_has_the_mean_and_width_it_is_given():
    q = gaussian(torch.tensor([5.0, math.log(6.0)])).exp()
    mean = (q * LINE).sum()
    assert mean.item() == pytest.approx(50, abs=0.01)
    assert ((q * LINE**2).sum() - mean**2).sqrt().item() == pytest.approx(6, abs=0.01)


def test_descend_runs_each_row_on_its_own_and_keeps_the_start():
    teacher, start = toy_kl.half_gaussian(3), toy_kl.random_logits(3)
    path = toy_kl.minimize(D.kl, teacher, start, steps=7)
    alone = toy_kl.minimize(D.kl, teacher[1:2], start[1:2], steps=7)
    assert path.shape == (8, 3, 80)
    torch.testing.assert_close(path[0], start.log_softmax(-1))
    torch.testing.assert_close(path[:, 1], alone[:, 0])
    assert not start.requires_grad


def test_1_1_kl_pulls_up_first_and_1_2_rkl_pushes_down_first_in_every_seed():
    teacher, start = toy_kl.half_gaussian(20), toy_kl.random_logits(20)
    kl, rkl = (toy_kl.minimize(f, teacher, start) for f in (D.kl, D.reverse_kl))
    assert (kl[5, :, :10].exp().sum(-1) > rkl[5, :, :10].exp().sum(-1)).all()
    assert (kl[5, :, 46:].exp().sum(-1) > rkl[5, :, 46:].exp().sum(-1)).all()
    for end in (kl[-1], rkl[-1]):
        assert D.total_variation(teacher, end).max() < 0.002


def test_1_2_rkl_on_one_hill_is_minus_the_log_of_its_weight():
    shape = torch.tensor([[2.4, math.log(5)], [7.6, math.log(5)]])
    hills = bimodal().expand(2, -1)
    fit = toy_kl.minimize(D.reverse_kl, hills, shape, 400, lr=0.1, student=gaussian)[-1]
    expected = torch.tensor([3 / 8, 5 / 8]).log().neg()
    torch.testing.assert_close(D.reverse_kl(hills, fit), expected, atol=0.01, rtol=0)


def test_2_2_2_3_logit_gradients_have_their_closed_forms():
    p, q = torch.tensor([0.5, 0.2]), torch.tensor([1e-4, 0.7])
    torch.testing.assert_close(logit_gradient(D.kl, p, q), q - p)
    expected = q * (1 - q) * ((q / p).log() - ((1 - q) / (1 - p)).log())
    torch.testing.assert_close(logit_gradient(D.reverse_kl, p, q), expected)


def test_2_3_the_skew_helps_the_reverse_direction_and_vanishes_for_the_far_token():
    pull = -logit_gradient(lambda a, b: D.skew_kl(a, b, 0.1), 0.5, torch.tensor([1e-6, 0.1]))
    assert pull[0] < 1e-4 < 0.2 < pull[1]


def test_gradient_noise_is_the_variance_of_sampled_gradients():
    generator = torch.Generator().manual_seed(0)
    q, drawn_from = torch.randn(2, 5, generator=generator).softmax(-1)
    weight = torch.randn(5, generator=generator)
    each = weight.unsqueeze(-1) * (torch.eye(5) - q)
    mean = (drawn_from.unsqueeze(-1) * each).sum(0)
    variance = (drawn_from * ((each - mean) ** 2).sum(-1)).sum()
    torch.testing.assert_close(gradient_noise(q, drawn_from, weight), (variance, (mean**2).sum()))


def test_the_interval_holds_the_mean_and_says_so_for_no_effect():
    effect = 0.5 + 0.1 * torch.randn(20, generator=torch.Generator().manual_seed(0))
    low, high = bootstrap_interval(effect)
    assert low < effect.mean() < high
    assert 0 < low < high < 1
    low, high = bootstrap_interval(effect - effect.mean())
    assert low < 0 < high
