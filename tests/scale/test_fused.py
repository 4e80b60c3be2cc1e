"""Losses without logits against the same losses with them: values, gradients, settings, memory."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minidistill import divergences as D
from minidistill.scale import fused
from tests.scale.peak import peak_bytes

TOKENS, WIDTH_P, WIDTH_Q, VOCAB = 13, 6, 5, 37
CASES = [
    ("kl", {}),
    ("reverse_kl", {}),
    ("total_variation", {}),
    ("jsd", {}),
    *(("jsd", {"beta": beta}) for beta in (0.0, 0.1, 0.9, 1.0)),
    *(
        (name, {"alpha": alpha})
        for name in ("skew_kl", "skew_reverse_kl")
        for alpha in (0.0, 0.1, 0.7, 1.0)
    ),
    ("skew_kl", {}),
    ("skew_reverse_kl", {"alpha": 0.1, "detach_mixture": True}),
    ("skew_kl", {"alpha": torch.linspace(0, 1, TOKENS, dtype=torch.float64)}),
    ("skew_reverse_kl", {"alpha": torch.linspace(0, 1, TOKENS, dtype=torch.float64)}),
]
IDS = [f"{name}-{index}" for index, (name, _) in enumerate(CASES)]


def models(seed=0, dtype=torch.float64, spread=2.0):
    """Hidden states and heads of a teacher and a student of another width."""
    rng = torch.Generator().manual_seed(seed)
    shapes = [(TOKENS, WIDTH_P), (VOCAB, WIDTH_P), (TOKENS, WIDTH_Q), (VOCAB, WIDTH_Q)]
    drawn = [spread * torch.randn(*s, generator=rng, dtype=torch.float64).to(dtype) for s in shapes]
    return *drawn[:2], *(t.requires_grad_() for t in drawn[2:])


def dense(name, hidden_p, head_p, hidden_q, head_q, **how):
    log_p, log_q = ((h @ w.T).log_softmax(-1) for h, w in ((hidden_p, head_p), (hidden_q, head_q)))
    return getattr(D, name)(log_p, log_q, **how)


def value_and_gradients(loss, *trained):
    return loss.detach(), *torch.autograd.grad(loss, trained)


@pytest.mark.parametrize("chunk", [1, 4, TOKENS, 128])
@pytest.mark.parametrize(("name", "how"), CASES, ids=IDS)
def test_values_and_gradients_are_those_of_the_dense_divergence(name, how, chunk):
    args = models()
    weight = torch.randn(TOKENS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    wanted = dense(name, *args, **how)
    found = fused.divergence(name, *args, chunk=chunk, **how)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    truth = value_and_gradients(wanted @ weight, *args[2:])
    whole = fused.weighted_sum(name, *args, weight, chunk=chunk, **how)
    for ours in (found @ weight, whole):
        for a, b in zip(value_and_gradients(ours, *args[2:]), truth, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("name", "how"), CASES, ids=IDS)
def test_float32_is_within_rounding(name, how):
    args = models(dtype=torch.float32, spread=1.0)
    weight = torch.rand(TOKENS, generator=torch.Generator().manual_seed(1))
    exact = tuple(t.detach().double().requires_grad_(t.requires_grad) for t in args)
    truth = value_and_gradients(dense(name, *exact, **how) @ weight.double(), *exact[2:])
    how = {k: v.float() if isinstance(v, torch.Tensor) else v for k, v in how.items()}
    found = value_and_gradients(fused.weighted_sum(name, *args, weight, chunk=4, **how), *args[2:])
    for a, b in zip(found, truth, strict=True):
        assert float((a.double() - b).abs().max()) < 1e-5 * float(b.abs().max().clamp(min=0.1))


@settings(max_examples=60, deadline=None)
@given(
    case=st.sampled_from(CASES[:14]),
    spread=st.sampled_from([0.01, 1.0, 10.0, 100.0]),
    seed=st.integers(0, 10**6),
)
def test_logits_however_far_apart_give_what_is_dense(case, spread, seed):
    """At a spread of 100 a probability is far below what float64 holds: logarithms must not notice."""
    (name, how), args = case, models(seed, spread=spread)
    truth = value_and_gradients(dense(name, *args, **how).sum(), *args[2:])
    found = value_and_gradients(fused.divergence(name, *args, chunk=5, **how).sum(), *args[2:])
    for a, b in zip(found, truth, strict=True):
        assert torch.isfinite(a).all()
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8 * max(1.0, float(b.abs().max())))


@pytest.mark.parametrize("frozen", ["hidden", "head"])
def test_what_is_not_trained_costs_nothing_and_the_rest_is_the_same(frozen):
    args = models()
    weight = torch.rand(TOKENS, dtype=torch.float64)
    trained = args[2 if frozen == "head" else 3]
    (truth,) = torch.autograd.grad(dense("skew_kl", *args) @ weight, [trained])
    args[3 if frozen == "head" else 2].requires_grad_(False)
    for loss in (
        fused.divergence("skew_kl", *args) @ weight,
        fused.weighted_sum("skew_kl", *args, weight),
    ):
        (found,) = torch.autograd.grad(loss, [trained])
        torch.testing.assert_close(found, truth, rtol=1e-10, atol=1e-10)


def test_the_chunks_are_made_once_where_the_head_is_frozen_and_twice_where_it_is_trained(
    monkeypatch,
):
    made = []
    logits = fused._logits
    monkeypatch.setattr(fused, "_logits", lambda *args: made.append(1) or logits(*args))
    for frozen, chunks in ((True, 8), (False, 16)):
        args = models()
        args[3].requires_grad_(not frozen)
        fused.divergence("kl", *args, chunk=4).sum().backward()
        assert len(made) == chunks
        made.clear()
    args = models()
    fused.weighted_sum("kl", *args, torch.ones(TOKENS), chunk=4).backward()
    assert len(made) == 8


def test_the_teacher_and_the_weights_get_no_gradient():
    args = [t.detach().requires_grad_() for t in models()]
    weight = torch.ones(TOKENS, dtype=torch.float64, requires_grad=True)
    (fused.weighted_sum("jsd", *args, weight) + fused.divergence("kl", *args).sum()).backward()
    assert [t.grad is None for t in (*args, weight)] == [True, True, False, False, True]


def test_a_loss_that_is_scaled_or_used_twice_has_the_gradient_of_that():
    args, weight = models(), torch.rand(TOKENS, dtype=torch.float64)
    for scale in (1.0, -3.0):
        one = scale * fused.weighted_sum("skew_kl", *args, weight)
        truth = torch.autograd.grad(scale * dense("skew_kl", *args) @ weight, args[2:])
        for _ in range(2):
            found = torch.autograd.grad(one, args[2:], retain_graph=True)
            for a, b in zip(found, truth, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_token_log_probs_are_those_of_the_labels():
    *_, hidden, head = models()
    labels = torch.randint(VOCAB, (TOKENS,))
    wanted = (hidden @ head.T).log_softmax(-1).gather(-1, labels[:, None])[:, 0]
    found = fused.token_log_probs(hidden, head, labels, chunk=4)
    weight = torch.randn(TOKENS, dtype=torch.float64)
    truth = value_and_gradients(wanted @ weight, hidden, head)
    for a, b in zip(value_and_gradients(found @ weight, hidden, head), truth, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_gradients_through_a_model_above_reach_it():
    """The hidden states come from layers: what flows on from here is what flows on from the logits."""
    hidden_p, head_p, below, head = models()
    layer = torch.nn.Linear(WIDTH_Q, WIDTH_Q, dtype=torch.float64)
    truth = torch.autograd.grad(
        dense("skew_kl", hidden_p, head_p, layer(below), head).mean(), layer.weight
    )
    found = fused.divergence("skew_kl", hidden_p, head_p, layer(below), head).mean()
    torch.testing.assert_close(
        torch.autograd.grad(found, layer.weight), truth, rtol=1e-10, atol=1e-10
    )


def test_half_precision_keeps_sums_in_float32():
    args = models(dtype=torch.bfloat16)
    exact = tuple(t.detach().float().requires_grad_(t.requires_grad) for t in args)
    for name in ("skew_kl", "skew_reverse_kl"):
        found = value_and_gradients(fused.divergence(name, *args, chunk=4).mean(), *args[2:])
        truth = value_and_gradients(dense(name, *exact).mean(), *exact[2:])
        assert found[0].dtype == torch.float32
        assert [g.dtype for g in found[1:]] == [torch.bfloat16] * 2
        for a, b in zip(found, truth, strict=True):
            assert float((a.float() - b).abs().max()) < 0.05 * float(b.abs().max())


@pytest.mark.parametrize("name", ["kl", "skew_kl"])
def test_no_tokens_are_no_loss(name):
    args = models()
    empty = (args[0][:0], args[1], args[2][:0], args[3])
    assert fused.divergence(name, *empty).shape == (0,)
    loss = fused.weighted_sum(name, *empty, torch.ones(0))
    assert float(loss.detach()) == 0
    assert float(torch.autograd.grad(loss, args[3])[0].abs().sum()) == 0


def test_what_does_not_fit_is_named():
    args = models()
    with pytest.raises(ValueError, match=r"unknown divergence 'skewkl'.*skew_kl"):
        fused.divergence("skewkl", *args)
    with pytest.raises(ValueError, match=r"alpha must lie in \[0, 1\], but got 1.5"):
        fused.divergence("skew_kl", *args, alpha=1.5)
    with pytest.raises(ValueError, match=r"beta must lie in \[0, 1\], but got nan"):
        fused.divergence("jsd", *args, beta=float("nan"))
    with pytest.raises(
        ValueError, match=r"hidden_p must have the shape \(13, 6\), but has \(3, 6\)"
    ):
        fused.divergence("kl", args[0][:3], *args[1:])
    with pytest.raises(
        ValueError, match=r"head_p must have the shape \(37, 6\), but has \(36, 6\)"
    ):
        fused.divergence("kl", args[0], args[1][1:], *args[2:])
    with pytest.raises(ValueError, match=r"weight must have the shape \(13,\), but has \(1, 13\)"):
        fused.weighted_sum("kl", *args, torch.ones(1, TOKENS))
    with pytest.raises(TypeError, match="temperature"):
        fused.divergence("kl", *args, temperature=2.0)


def test_memory_does_not_grow_with_the_tokens():
    """Eight times the tokens, the same logits alive: counted by tensors, whatever the allocator keeps."""

    def loss(tokens):
        hidden_p, head_p = torch.randn(tokens, 16), torch.randn(8192, 16)
        hidden_q, head_q = torch.randn(tokens, 16), torch.randn(8192, 16)
        args = hidden_p, head_p, hidden_q.requires_grad_(), head_q.requires_grad_()
        return lambda: fused.weighted_sum("skew_kl", *args, torch.rand(tokens)).backward()

    small, large = (peak_bytes(loss(tokens)) for tokens in (256, 2048))
    assert large < 1.1 * small
    assert small < 5 * 4 * fused.CHUNK * 8192
