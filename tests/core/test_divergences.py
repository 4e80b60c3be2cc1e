"""Divergences against their definitions: plain sums of probabilities in float64."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import rel_entr

from minidistill import divergences as D

INF = float("inf")
ALPHAS = [0.0, 1e-6, 0.01, 0.1, 0.5, 0.9, 1.0]


def pair_of(seed, *shape, spread=3.0, dtype=torch.float64):
    """Random log-probabilities of a teacher and a student."""
    generator = torch.Generator().manual_seed(seed)
    draw = [torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(2)]
    return [(spread * x).log_softmax(-1).to(dtype) for x in draw]


def log_of(*probabilities, dtype=torch.float64):
    return torch.tensor(probabilities, dtype=dtype).log()


def oracle(name, log_p, log_q, a=None):
    """Each formula as it stands in the paper, in probability space."""
    p, q = log_p.double().exp().numpy(), log_q.double().exp().numpy()
    a = np.asarray(0.0 if a is None else a)[..., None]
    kl = lambda x, y: rel_entr(x, y).sum(-1)  # noqa: E731
    return {
        "kl": lambda: kl(p, q),
        "reverse_kl": lambda: kl(q, p),
        "jsd": lambda: (
            a[..., 0] * kl(p, a * p + (1 - a) * q) + (1 - a[..., 0]) * kl(q, a * p + (1 - a) * q)
        ),
        "total_variation": lambda: 0.5 * np.abs(p - q).sum(-1),
        "skew_kl": lambda: kl(p, a * p + (1 - a) * q),
        "skew_reverse_kl": lambda: kl(q, (1 - a) * p + a * q),
    }[name]()


PLAIN = [D.kl, D.reverse_kl, D.total_variation]
SKEWED = [D.skew_kl, D.skew_reverse_kl]
EVERY = [
    *PLAIN,
    D.jsd,
    lambda p, q: D.jsd(p, q, 0.9),
    *SKEWED,
    lambda p, q: D.skew_reverse_kl(p, q, 0.1, detach_mixture=True),
]


def assert_is(value, expected, **tolerance):
    torch.testing.assert_close(
        value,
        torch.as_tensor(expected, dtype=value.dtype),
        **{"rtol": 1e-9, "atol": 1e-12} | tolerance,
    )


# --- the definitions --------------------------------------------------------------------------------
def test_1_1_kl_equals_the_definition():
    log_p, log_q = pair_of(0, 3, 4, 7)
    assert_is(D.kl(log_p, log_q), oracle("kl", log_p, log_q))


def test_1_1_kl_of_a_hand_worked_case():
    log_p, log_q = log_of(0.5, 0.25, 0.25), log_of(0.25, 0.5, 0.25)
    assert_is(D.kl(log_p, log_q), 0.5 * math.log(2) - 0.25 * math.log(2))


def test_1_2_reverse_kl_equals_the_definition_and_is_kl_with_the_models_exchanged():
    log_p, log_q = pair_of(1, 5, 6)
    assert_is(D.reverse_kl(log_p, log_q), oracle("reverse_kl", log_p, log_q))
    assert torch.equal(D.reverse_kl(log_p, log_q), D.kl(log_q, log_p))
    assert not torch.allclose(D.reverse_kl(log_p, log_q), D.kl(log_p, log_q))


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_1_3_jsd_equals_the_definition(beta):
    log_p, log_q = pair_of(2, 4, 6)
    assert_is(D.jsd(log_p, log_q, beta), oracle("jsd", log_p, log_q, beta))


def test_1_3_jsd_at_its_end_points_is_kl_and_reverse_kl():
    log_p, log_q = pair_of(3, 4, 6)
    assert torch.equal(D.jsd(log_p, log_q, 0.0), D.kl(log_p, log_q))
    assert torch.equal(D.jsd(log_p, log_q, 1.0), D.reverse_kl(log_p, log_q))


@pytest.mark.parametrize(("beta", "limit"), [(1e-5, D.kl), (1 - 1e-5, D.reverse_kl)])
def test_1_3_jsd_over_beta_times_one_minus_beta_tends_to_its_end_points(beta, limit):
    log_p, log_q = pair_of(4, 4, 6, spread=1.0)
    scaled = D.jsd(log_p, log_q, beta) / (beta * (1 - beta))
    assert_is(scaled, limit(log_p, log_q), rtol=1e-3)


def test_1_3_jsd_at_one_half_is_symmetric_and_at_most_log_2():
    log_p, log_q = pair_of(5, 50, 6, spread=30.0)
    value = D.jsd(log_p, log_q)
    assert_is(value, D.jsd(log_q, log_p))
    assert value.max() <= math.log(2) + 1e-12
    assert value.max() > 0.9 * math.log(2)


def test_1_3_jsd_mirrored_is_the_same_with_beta_turned_round():
    log_p, log_q = pair_of(6, 4, 6)
    assert_is(D.jsd(log_p, log_q, 0.9), D.jsd(log_q, log_p, 0.1))


def test_1_4_total_variation_equals_the_definition():
    log_p, log_q = pair_of(7, 3, 4, 7)
    assert_is(D.total_variation(log_p, log_q), oracle("total_variation", log_p, log_q))


def test_1_4_total_variation_is_a_probability_and_reaches_both_ends():
    same, (log_p, log_q) = log_of(0.3, 0.7), pair_of(8, 200, 4, spread=50.0)
    value = D.total_variation(log_p, log_q)
    assert ((value >= 0) & (value <= 1 + 1e-12)).all()
    assert D.total_variation(same, same) == 0
    assert D.total_variation(log_of(1.0, 0.0), log_of(0.0, 1.0)) == 1


def test_2_1_log_mixture_equals_the_definition_and_weighs_its_first_argument():
    log_a, log_b = pair_of(9, 5, 6)
    assert_is(D.log_mixture(log_a, log_b, 0.3).exp(), 0.3 * log_a.exp() + 0.7 * log_b.exp())


def test_2_1_log_mixture_is_exact_at_the_ends_and_stays_in_log_space():
    log_a, log_b = pair_of(10, 5, 6)
    assert torch.equal(D.log_mixture(log_a, log_b, 0.0), log_b)
    assert torch.equal(D.log_mixture(log_a, log_b, 1.0), log_a)
    deep = D.log_mixture(torch.tensor([-500.0]), torch.tensor([-500.0]), 0.5)
    assert_is(deep, [-500.0], rtol=1e-6)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_2_2_skew_kl_equals_the_definition(alpha):
    log_p, log_q = pair_of(11, 3, 4, 7)
    assert_is(D.skew_kl(log_p, log_q, alpha), oracle("skew_kl", log_p, log_q, alpha), atol=1e-10)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_2_3_skew_reverse_kl_equals_the_definition(alpha):
    log_p, log_q = pair_of(12, 3, 4, 7)
    expected = oracle("skew_reverse_kl", log_p, log_q, alpha)
    for detach in (False, True):
        assert_is(D.skew_reverse_kl(log_p, log_q, alpha, detach), expected, atol=1e-10)


@pytest.mark.parametrize(
    ("skewed", "plain"), [(D.skew_kl, D.kl), (D.skew_reverse_kl, D.reverse_kl)]
)
def test_2_2_2_3_no_skew_is_the_plain_divergence_and_full_skew_is_zero(skewed, plain):
    log_p, log_q = pair_of(13, 5, 6)
    assert torch.equal(skewed(log_p, log_q, 0.0), plain(log_p, log_q))
    assert torch.equal(skewed(log_p, log_q, 1.0), torch.zeros(5, dtype=torch.float64))
    falling = torch.stack([skewed(log_p, log_q, a) for a in ALPHAS])
    assert (falling.diff(dim=0) <= 1e-12).all()


def test_2_2_2_3_the_default_skew_is_one_tenth():
    log_p, log_q = pair_of(14, 5, 6)
    for skewed in SKEWED:
        assert torch.equal(skewed(log_p, log_q), skewed(log_p, log_q, 0.1))


@pytest.mark.parametrize("alpha", ALPHAS)
def test_2_3_skew_reverse_kl_is_the_mirror_image_of_skew_kl(alpha):
    log_p, log_q = pair_of(15, 5, 6)
    mirrored = D.skew_kl(log_q, log_p, alpha)
    assert torch.equal(D.skew_reverse_kl(log_p, log_q, alpha), mirrored)


@pytest.mark.parametrize("alpha", [0.01, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("skewed", SKEWED)
def test_2_4_the_skewed_forms_are_bounded_by_minus_log_alpha_and_reach_it(skewed, alpha):
    log_p, log_q = pair_of(16, 300, 4, spread=60.0)
    assert (skewed(log_p, log_q, alpha) <= -math.log(alpha) + 1e-9).all()
    disjoint = skewed(log_of(1.0, 0.0), log_of(0.0, 1.0), alpha)
    assert_is(disjoint, -math.log(alpha))


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(1, 4), min_size=0, max_size=3),
    vocab_size=st.integers(1, 9),
    alpha=st.floats(0, 1),
    spread=st.floats(0, 30),
    seed=st.integers(0, 10**6),
)
def test_every_divergence_equals_its_oracle_for_any_shape_and_skew(
    shape, vocab_size, alpha, spread, seed
):
    log_p, log_q = pair_of(seed, *shape, vocab_size, spread=spread)
    for f in PLAIN:
        expected = oracle(f.__name__, log_p, log_q)
        assert f(log_p, log_q).shape == torch.Size(shape)
        assert_is(f(log_p, log_q), expected, rtol=1e-8, atol=1e-9)
    for f in SKEWED:
        value = f(log_p, log_q, alpha)
        assert_is(value, oracle(f.__name__, log_p, log_q, alpha), rtol=1e-8, atol=1e-9)
    if 0 < alpha < 1:
        expected = oracle("jsd", log_p, log_q, alpha)
        assert_is(D.jsd(log_p, log_q, alpha), expected, rtol=1e-8, atol=1e-9)


# --- signs --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("f", EVERY)
def test_no_divergence_is_negative_and_only_equal_models_give_zero(f):
    log_p, log_q = pair_of(17, 200, 6)
    assert (f(log_p, log_q) > 0).all()
    assert f(log_p, log_p).abs().max() < 1e-14


# --- one alpha a sample ---------------------------------------------------------------------------
@pytest.mark.parametrize("f", SKEWED)
def test_alpha_may_differ_by_sample_with_0_and_1_among_them(f):
    log_p, log_q = pair_of(18, 4, 3, 6)
    alphas = [0.0, 0.05, 0.7, 1.0]
    log_q.requires_grad_()
    value = f(log_p, log_q, torch.tensor(alphas).unsqueeze(-1))
    assert value.shape == (4, 3)
    for row, alpha in enumerate(alphas):
        assert_is(value[row], f(log_p[row], log_q[row], alpha), rtol=1e-6)
    value.sum().backward()
    assert torch.isfinite(log_q.grad).all()


@pytest.mark.parametrize("f", SKEWED)
def test_alpha_may_differ_by_token(f):
    log_p, log_q = pair_of(19, 2, 3, 6)
    alpha = torch.tensor([[0.1, 0.5, 0.9], [0.0, 0.2, 1.0]], dtype=torch.float64)
    expected = [
        [f(log_p[i, t], log_q[i, t], float(alpha[i, t])) for t in range(3)] for i in range(2)
    ]
    assert_is(f(log_p, log_q, alpha), torch.tensor(expected, dtype=torch.float64))


# --- gradients --------------------------------------------------------------------------------------
@pytest.mark.parametrize("f", [*PLAIN, D.jsd, *SKEWED, lambda p, q: D.jsd(p, q, 0.9)])
def test_gradients_in_both_models_agree_with_finite_differences(f):
    logits = [x.requires_grad_() for x in pair_of(20, 2, 5)]
    assert torch.autograd.gradcheck(
        lambda a, b: f(a.log_softmax(-1), b.log_softmax(-1)), tuple(logits)
    )


@pytest.mark.parametrize("f", SKEWED)
def test_gradients_with_one_alpha_a_sample_agree_with_finite_differences(f):
    logits = [x.requires_grad_() for x in pair_of(21, 3, 5)]
    alpha = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda a, b: f(a.log_softmax(-1), b.log_softmax(-1), alpha), tuple(logits)
    )


def student_gradient(f, log_p, logits):
    logits = logits.clone().requires_grad_()
    f(log_p, logits.log_softmax(-1)).sum().backward()
    return logits.grad


def test_1_1_the_gradient_of_kl_in_the_logits_is_q_minus_p():
    log_p, log_q = pair_of(22, 3, 6)
    assert_is(student_gradient(D.kl, log_p, log_q), log_q.exp() - log_p.exp())


def test_1_2_the_gradient_of_reverse_kl_is_q_times_the_centred_log_ratio():
    log_p, log_q = pair_of(23, 3, 6)
    value = D.reverse_kl(log_p, log_q).unsqueeze(-1)
    assert_is(student_gradient(D.reverse_kl, log_p, log_q), log_q.exp() * (log_q - log_p - value))


def test_2_2_the_gradient_of_skew_kl_is_that_of_kl_weighted_by_the_students_share():
    # d/dq_v = −p (1−α) / m, pushed through the softmax: q (g − Σ q g).
    log_p, log_q = pair_of(24, 3, 6)
    p, q, alpha = log_p.exp(), log_q.exp(), 0.1
    g = -p * (1 - alpha) / (alpha * p + (1 - alpha) * q)
    expected = q * (g - (q * g).sum(-1, keepdim=True))
    assert_is(student_gradient(lambda a, b: D.skew_kl(a, b, alpha), log_p, log_q), expected)


@pytest.mark.parametrize("detach", [False, True])
def test_2_3_the_gradient_of_skew_reverse_kl_with_and_without_the_detached_mixture(detach):
    # d/dq_v = log(q/m) + 1 − α q/m; the last term is the student inside the mixture.
    log_p, log_q = pair_of(25, 3, 6)
    p, q, alpha = log_p.exp(), log_q.exp(), 0.1
    m = (1 - alpha) * p + alpha * q
    g = (q / m).log() + 1 - (0.0 if detach else alpha * q / m)
    expected = q * (g - (q * g).sum(-1, keepdim=True))
    found = student_gradient(
        lambda a, b: D.skew_reverse_kl(a, b, alpha, detach_mixture=detach), log_p, log_q
    )
    assert_is(found, expected)


def test_2_3_detaching_the_mixture_changes_the_gradient_and_not_the_value():
    log_p, log_q = pair_of(26, 3, 6)
    attached, detached = (
        lambda a, b, d=d: D.skew_reverse_kl(a, b, 0.3, detach_mixture=d) for d in (False, True)
    )
    assert torch.equal(attached(log_p, log_q), detached(log_p, log_q))
    difference = student_gradient(attached, log_p, log_q) - student_gradient(detached, log_p, log_q)
    assert difference.abs().max() > 1e-3


# --- forbidden tokens: logits of −inf -------------------------------------------------------------
def forbidden(logits, *where):
    logits = logits.clone()
    logits[..., list(where)] = -INF
    return logits


CASES = {  # name: (f, its formula and weight, finite if p forbids, finite if q forbids)
    "kl": (D.kl, "kl", 0, True, False),
    "reverse_kl": (D.reverse_kl, "reverse_kl", 0, False, True),
    "jsd": (D.jsd, "jsd", 0.5, True, True),
    "jsd at 0": (lambda p, q: D.jsd(p, q, 0.0), "kl", 0, True, False),
    "total_variation": (D.total_variation, "total_variation", 0, True, True),
    "skew_kl": (D.skew_kl, "skew_kl", 0.1, True, True),
    "skew_kl at 0": (lambda p, q: D.skew_kl(p, q, 0.0), "kl", 0, True, False),
    "skew_reverse_kl": (D.skew_reverse_kl, "skew_reverse_kl", 0.1, True, True),
    "skew_reverse_kl at 0": (
        lambda p, q: D.skew_reverse_kl(p, q, 0.0), "reverse_kl", 0, False, True,
    ),
    "detached mixture": (
        lambda p, q: D.skew_reverse_kl(p, q, 0.1, True), "skew_reverse_kl", 0.1, True, True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("who", ["p", "q", "both"])
@pytest.mark.parametrize("case", CASES)
def test_forbidden_tokens_give_what_the_formula_has_and_a_finite_gradient(case, who, dtype):
    f, formula, weight, p_may, q_may = CASES[case]
    logits_p, logits_q = pair_of(27, 3, 6, dtype=dtype)
    if who != "q":
        logits_p = forbidden(logits_p, 1, 4)
    if who != "p":
        logits_q = forbidden(logits_q, 1, 4)
    logits = [logits_p.requires_grad_(), logits_q.requires_grad_()]
    log_p, log_q = (x.log_softmax(-1) for x in logits)
    value = f(log_p, log_q)
    if {"p": p_may, "q": q_may, "both": True}[who]:
        expected = oracle(formula, log_p.detach(), log_q.detach(), weight)
        assert_is(value.detach(), expected, rtol=1e-5 if dtype == torch.float32 else 1e-9)
    else:
        assert (value == INF).all()
    for gradient in torch.autograd.grad(value.sum(), logits):
        assert torch.isfinite(gradient).all()


def test_gradients_beside_a_forbidden_token_are_those_of_the_allowed_ones():
    log_p, log_q = pair_of(28, 3, 5)
    wide = [torch.cat([x, torch.full((3, 1), -INF)], -1) for x in (log_p, log_q)]
    for f in (D.kl, D.reverse_kl, D.jsd, *SKEWED):
        narrow, padded = student_gradient(f, log_p, log_q), student_gradient(f, *wide)
        assert_is(padded, torch.cat([narrow, torch.zeros(3, 1)], -1))


def test_1_1_kl_is_infinite_for_a_mass_that_underflows_but_is_not_zero():
    log_p = torch.tensor([0.0, -200.0])  # exp(-200) is 0 in float32, yet p allows the token
    log_q = torch.tensor([0.0, -INF])
    assert D.kl(log_p, log_q) == INF
    assert D.reverse_kl(log_q, log_p) == INF
    assert D.skew_kl(log_p, log_q, 0.0) == INF
    assert torch.isfinite(D.skew_kl(log_p, log_q, 0.1))


def test_2_1_a_token_that_neither_model_allows_stays_forbidden_with_no_gradient():
    log_a = torch.tensor([0.0, -INF], requires_grad=True)
    log_b = torch.tensor([0.0, -INF], requires_grad=True)
    mixed = D.log_mixture(log_a, log_b, 0.3)
    assert mixed.tolist() == [pytest.approx(0.0, abs=1e-6), -INF]
    mixed[0].backward()
    assert log_a.grad.tolist() == pytest.approx([0.3, 0.0])
    assert log_b.grad.tolist() == pytest.approx([0.7, 0.0])


# --- numerics ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gap", [120.0, 1e4])
def test_a_huge_gap_between_logits_gives_the_exact_value_and_a_finite_gradient(gap, dtype):
    logits_p = torch.tensor([gap, 0.0], dtype=dtype)
    logits_q = torch.tensor([0.0, gap], dtype=dtype, requires_grad=True)
    log_p, log_q = logits_p.log_softmax(-1), logits_q.log_softmax(-1)
    expected = {
        D.kl: gap,
        D.reverse_kl: gap,
        D.skew_kl: -math.log(0.1),
        D.skew_reverse_kl: -math.log(0.1),
        D.jsd: math.log(2),
        D.total_variation: 1.0,
    }
    for f, value in expected.items():
        assert_is(f(log_p, log_q).detach(), value, rtol=1e-6)
        (gradient,) = torch.autograd.grad(f(log_p, log_q), logits_q, retain_graph=True)
        assert torch.isfinite(gradient).all()
    assert_is(torch.autograd.grad(D.kl(log_p, log_q), logits_q)[0], [-1.0, 1.0])


@pytest.mark.parametrize("f", EVERY)
def test_float32_agrees_with_float64(f):
    wide = pair_of(29, 50, 173)
    narrow = [x.float() for x in wide]
    assert f(*narrow).dtype == torch.float32
    assert_is(f(*narrow), f(*wide), rtol=1e-4, atol=1e-6)


# --- bad input ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("f", [D.kl, D.reverse_kl, D.jsd, D.total_variation, *SKEWED])
@pytest.mark.parametrize("other", [(2, 5), (3, 4), (1, 2, 4)])
def test_different_shapes_are_refused_with_both_named(f, other):
    with pytest.raises(ValueError, match="log_p and log_q must have the same shape") as error:
        f(torch.zeros(2, 4), torch.zeros(other))
    assert "(2, 4)" in str(error.value)
    assert str(other) in str(error.value)


@pytest.mark.parametrize("bad", [-0.1, 1.1, math.nan, INF, torch.tensor([[0.1], [2.5]])])
@pytest.mark.parametrize(("f", "name"), [*[(f, "alpha") for f in SKEWED], (D.jsd, "beta")])
def test_a_weight_out_of_range_is_refused_with_its_name_value_and_range(f, name, bad):
    shown = "2.5" if isinstance(bad, torch.Tensor) else str(torch.tensor(bad).item())[:5]
    with pytest.raises(ValueError, match=rf"{name} must lie in \[0, 1\]") as error:
        f(*pair_of(30, 2, 3, 4), bad)
    assert shown in str(error.value)
