"""Variants of DistiLLM-2: at their defaults they are DistiLLM-2; each rule does what it says."""

import pytest
import torch

from minidistill.curriculum import adaptive_alpha, exact_alpha
from minidistill.experiments import variants
from minidistill.logprobs import ResponseLogProbs
from minidistill.objectives import TrainState, get_method

SLOTS = ("tgo", "sgo")


def slots(seed=0, batch=6, tokens=4, vocab=7):
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name in SLOTS:
        log_p, log_q = (
            torch.randn(batch, tokens, vocab, generator=generator, dtype=torch.float64).log_softmax(
                -1
            )
            for _ in range(2)
        )
        labels = torch.randint(vocab, (batch, tokens), generator=generator)
        mask = torch.ones(batch, tokens, dtype=torch.bool)
        found[name] = ResponseLogProbs(
            labels, mask, log_q.requires_grad_(), lambda log_p=log_p: log_p
        )
    return found


def state(epoch=1, gap=0.02):
    """A state in which m is known for both slots."""
    found = TrainState(epoch=epoch, epochs=3, progress=0.4)
    for name in SLOTS:
        found.alpha(name, torch.zeros(1), 0.1)
        found.trackers[name].gap_sum, found.trackers[name].count = gap, 1
    return found


def losses(rule="adaptive", epoch=1, **settings):
    found = state(epoch)
    method = get_method("distillm2_variant")
    return method(slots(), found, rule=rule, **settings), found.log


@pytest.mark.parametrize("epoch", [0, 1])
def test_at_its_defaults_it_is_distillm2(epoch):
    ours, log = losses(epoch=epoch)
    theirs = get_method("distillm2")(slots(), (expected := state(epoch)))
    torch.testing.assert_close(ours, theirs)
    assert log == expected.log


def test_with_both_ends_of_the_range_at_alpha0_it_is_cald_by_half():
    ours, _ = losses(low=0.1, high=0.1, beta_end=0.5)
    theirs = get_method("cald")(slots(), TrainState())
    torch.testing.assert_close(ours, theirs / 2)


@pytest.mark.parametrize("rule", variants.RULES)
def test_in_the_first_epoch_all_rules_are_alpha0(rule):
    _, log = losses(rule, epoch=0)
    assert log["alpha_tgo"] == log["alpha_sgo"] == pytest.approx(0.1)


def alphas(rule, low=0.0, high=1.0):
    return variants._alpha(state(), "tgo", slots()["tgo"], 1.0, rule, 0.1, low, high).flatten()


def test_shuffled_has_the_same_values_and_reversed_mirrors_them():
    plain = alphas("adaptive")
    torch.manual_seed(3)
    mixed = alphas("shuffled")
    assert not mixed.equal(plain)
    torch.testing.assert_close(mixed.sort().values, plain.sort().values)
    torch.testing.assert_close(alphas("reversed", 0.1, 0.6), 0.7 - alphas("adaptive", 0.1, 0.6))


def test_exact_solves_what_the_rule_approximates():
    y = slots()["tgo"]
    p, q = (y.mean(log).exp() for log in (y.token_log_p, y.token_log_q))
    torch.testing.assert_close(alphas("exact"), exact_alpha(p, q, 0.9 * 0.02, 0.0, 1.0))


def test_detached_has_the_same_value_and_another_gradient():
    found = {}
    for detach in (False, True):
        y = slots()
        loss = get_method("distillm2_variant")(y, state(), detach_mixture=detach).sum()
        found[detach] = loss, torch.autograd.grad(loss, y["sgo"].log_q)[0]
    torch.testing.assert_close(found[False][0], found[True][0])
    assert not torch.allclose(found[False][1], found[True][1])


def test_without_its_half_the_loss_is_twice_as_large():
    whole, _ = losses(halved=False)
    half, _ = losses()
    torch.testing.assert_close(whole, 2 * half)


def test_an_unknown_rule_is_named():
    with pytest.raises(ValueError, match="rule must be one of"):
        losses("random")


def test_by_the_last_epoch_m_is_that_of_the_epoch_before():
    method, found = get_method("distillm2_variant"), TrainState(epochs=3)
    gaps = []
    for epoch in range(3):
        found.epoch = epoch
        batch = slots(seed=epoch)
        gaps.append(batch["tgo"].confidence_gap().detach())
        method(batch, found, rule="last_epoch", alpha0=0.3, low=0.0, high=1.0)
        if epoch:
            m = float(gaps[epoch - 1].mean())
            wanted = adaptive_alpha(gaps[epoch], m, 0.3, 0.0, 1.0).mean()
            assert found.log["alpha_tgo"] == pytest.approx(float(wanted))
    assert found.trackers["tgo"].reference_gap == pytest.approx(float(gaps[0].mean()))
