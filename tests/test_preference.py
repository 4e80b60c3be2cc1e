"""DPO against its formula and TRL's own code; pairs from a judge; what is watched; the command."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from minidistill import distill
from minidistill.applications import preference as P
from minidistill.batching import encode_prompt, encode_response
from minidistill.objectives import Moment, get_method
from minidistill.scoring import Scored, collate, response_log_probs
from minidistill.tasks import Preference
from tests.conftest import build_pair

QUICK = {"epochs": 1, "batch_size": 4, "max_new_tokens": 6, "progress": False}
dpo = get_method("dpo")


def response(seed, lengths=(4, 2, 1), vocab=5, same=False):
    """A float64 `Scored`; `same`: the reference is the policy; rubbish in the reference's padding."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), max([*lengths, 1]), vocab)
    ref, policy = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in "rp")
    mask = torch.arange(shape[1]) < torch.tensor(lengths).unsqueeze(-1)
    policy.requires_grad_()
    ref = policy.detach().clone() if same else ref
    ref[~mask] = float("nan")
    labels = torch.randint(vocab, shape[:2], generator=generator)
    scored = Scored(labels, mask, policy.log_softmax(-1), lambda: ref.log_softmax(-1))
    scored.logits = policy
    return scored


def loss_of(chosen, rejected, **settings):
    return dpo({"chosen": chosen, "rejected": rejected}, Moment(), **settings)


@pytest.fixture
def pairs(task):
    """Preferences whose chosen side is a reference and whose rejected side is another prompt's."""
    rows = zip(task.train[:8], task.train[8:16], strict=True)
    return [
        Preference(e.prompt, e.references, chosen=e.references[0], rejected=other.references[0])
        for e, other in rows
    ]


# --- the loss ---------------------------------------------------------------------------------------------
def test_10_1_a_policy_that_is_its_reference_has_loss_log_2_and_still_a_gradient():
    chosen, rejected = response(0, same=True), response(1, (1, 3, 2), same=True)
    loss = loss_of(chosen, rejected, beta=0.7)
    torch.testing.assert_close(loss, torch.full((3,), math.log(2), dtype=torch.float64))
    loss.sum().backward()
    assert chosen.logits.grad.abs().sum() > 0


def test_10_1_its_gradient_is_the_weight_times_the_difference_of_the_scores():
    """∇L = −β σ(−m) (∇ log π(y_w) − ∇ log π(y_l)), m the margin (10.2), written out by hand."""
    chosen, rejected, beta = response(0), response(1, (1, 3, 2)), 0.6
    loss_of(chosen, rejected, beta=beta).sum().backward()
    weight = beta * torch.sigmoid(-P.reward_margin(chosen, rejected, beta)).detach()
    for y, sign in ((chosen, -1), (rejected, 1)):
        pulled = F.one_hot(y.labels, 5).double() - y.logits.detach().softmax(-1)
        wanted = sign * weight[:, None, None] * pulled * y.mask.unsqueeze(-1)
        torch.testing.assert_close(y.logits.grad, wanted)


def test_10_1_10_2_swapping_the_pair_turns_the_margin_round():
    chosen, rejected = response(0), response(1, (1, 3, 2))
    margin = P.reward_margin(chosen, rejected, 0.4)
    torch.testing.assert_close(P.reward_margin(rejected, chosen, 0.4), -margin)
    torch.testing.assert_close(loss_of(chosen, rejected, beta=0.4), -F.logsigmoid(margin))
    torch.testing.assert_close(loss_of(rejected, chosen, beta=0.4), -F.logsigmoid(-margin))


def test_10_1_identical_responses_teach_nothing():
    y, twin = response(0), response(0)
    loss = loss_of(y, twin)
    torch.testing.assert_close(loss, torch.full((3,), math.log(2), dtype=torch.float64))
    (gradient,) = torch.autograd.grad(loss_of(y, y).sum(), y.logits)
    assert gradient.abs().max() < 1e-12


def test_10_1_an_empty_response_has_reward_zero_and_no_gradient():
    chosen, empty = response(0), response(1, (0, 0, 0))
    loss = loss_of(chosen, empty, beta=0.5)
    torch.testing.assert_close(loss, -F.logsigmoid(P.rewards(chosen, 0.5)))
    loss.sum().backward()
    assert torch.isfinite(empty.logits.grad).all()
    assert not empty.logits.grad.any()


@pytest.mark.parametrize("beta", [0.0, -0.1, math.nan, math.inf])
def test_a_beta_that_is_not_positive_is_refused(pair, pairs, task, beta):
    with pytest.raises(ValueError, match=f"beta must be positive, but got {beta}"):
        distill(pair, replace(task, train=pairs), "dpo", beta=beta, **QUICK)


def test_4_1_10_1_dpkd_is_dpo_with_the_teacher_as_reference():
    """The same function of two responses: bit by bit, value and gradient."""
    found = []
    for name, slots in (("dpo", ("chosen", "rejected")), ("dpkd", ("tgo", "first_sgo"))):
        both = response(0), response(1, (1, 3, 2))
        weight = {"dpo": {"beta": 0.3}, "dpkd": {"lam": 0.3}}[name]
        loss = get_method(name)(dict(zip(slots, both, strict=True)), Moment(), **weight)
        loss.sum().backward()
        found.append([loss, *(y.logits.grad for y in both)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


# --- TRL's own code -----------------------------------------------------------------------------------------
class AsTrlSeesIt(torch.nn.Module):
    """A causal LM that answers as TRL's fused head does: the log-prob of each label but the first token's.

    By cross-entropy of shifted logits and labels of −100, as Hugging Face trains: no code of ours.
    """

    is_gradient_checkpointing = False

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, labels, **_):
        position_ids = (attention_mask.cumsum(-1) - 1).clamp(min=0)
        logits = self.model(
            input_ids, attention_mask=attention_mask, position_ids=position_ids
        ).logits
        targets = labels[:, 1:]
        losses = F.cross_entropy(logits[:, :-1].transpose(1, 2), targets, reduction="none")
        nothing = torch.zeros_like(losses).detach()
        return SimpleNamespace(
            log_probs=-losses, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool()
        )


def trl_loss(policy, reference, beta, inputs):
    """DPOTrainer's own `_compute_loss` of this version, on a trainer that has only what it reads."""
    trl = pytest.importorskip("trl", reason="TRL is the oracle of this test")
    everyone = SimpleNamespace(device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x)
    from collections import defaultdict

    trainer = SimpleNamespace(
        model=policy, ref_model=reference, accelerator=everyone, aux_loss_enabled=False,
        ld_alpha=None, precompute_ref_logps=False, f_divergence_type="reverse_kl", beta=beta,
        args=SimpleNamespace(gradient_checkpointing_kwargs=None), loss_types=["sigmoid"],
        loss_weights=[1.0], use_weighting=False, _total_train_tokens=0, _tp_size=1,
        _metrics=defaultdict(lambda: defaultdict(list)),
    )  # fmt: skip
    loss = trl.DPOTrainer._compute_loss(trainer, policy, inputs, return_outputs=False)
    return loss, trainer._metrics["train" if policy.training else "eval"]


@pytest.mark.parametrize("beta", [0.1, 1.3])
def test_10_1_10_2_loss_and_gradient_are_trls(tokenizer, pairs, beta):
    pair = build_pair(tokenizer)
    policy, reference = pair.student.double(), build_pair(tokenizer, seed=2).student.double()
    asked = [encode_prompt(tokenizer, p.prompt) for p in pairs]
    sides = [
        [encode_response(tokenizer, getattr(p, s)) for p in pairs] for s in ("chosen", "rejected")
    ]
    batch = collate(asked * 2, [*sides[0], *sides[1]], pair.pad_id)
    completion = torch.zeros_like(batch.attention_mask)
    completion[:, -batch.mask.shape[1] :] = batch.mask
    inputs = {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "completion_mask": completion,
    }
    wanted, metrics = trl_loss(AsTrlSeesIt(policy), AsTrlSeesIt(reference), beta, inputs)
    weights = list(policy.parameters())
    their_gradient = torch.autograd.grad(wanted, weights)

    doubles = lambda m: float64_log_probs(m, batch, pair.vocab)  # noqa: E731
    log_q, log_p = doubles(policy), doubles(reference).detach()
    n = len(pairs)
    halves = [
        Scored(batch.labels[s], batch.mask[s], log_q[s], lambda s=s: log_p[s])
        for s in (slice(0, n), slice(n, None))
    ]
    loss = loss_of(*halves, beta=beta)
    torch.testing.assert_close(loss.mean(), wanted)
    for ours, theirs in zip(torch.autograd.grad(loss.mean(), weights), their_gradient, strict=True):
        torch.testing.assert_close(ours, theirs)
    margin = P.reward_margin(*halves, beta)
    assert float(margin.mean()) == pytest.approx(metrics["rewards/margins"][0])
    assert float((margin > 0).double().mean()) == pytest.approx(metrics["rewards/accuracies"][0])


def float64_log_probs(model, batch, vocab):
    """`response_log_probs` before it rounds to float32, which is checked on the way."""
    kept = batch.labels.shape[1] + 1
    positions = (batch.attention_mask.cumsum(-1) - 1).clamp(min=0)
    logits = model(batch.input_ids, batch.attention_mask, position_ids=positions).logits
    exact = logits[:, -kept:-1, :vocab].log_softmax(-1)
    rounded = response_log_probs(model, batch, vocab)
    torch.testing.assert_close(rounded.double(), exact, atol=1e-4, rtol=1e-4)
    return exact


def test_the_prompt_does_not_count(tokenizer, pair, pairs):
    """Two prompts of other lengths: the tokens of the prompt are in no sum, only what follows from them."""
    asked = [encode_prompt(tokenizer, p.prompt) for p in pairs[:2]]
    said = [encode_response(tokenizer, p.chosen) for p in pairs[:2]]
    batch = collate(asked, said, pair.pad_id)
    log_q = response_log_probs(pair.student, batch, pair.vocab)
    scored = Scored(batch.labels, batch.mask, log_q, lambda: log_q)
    for row, (x, y) in enumerate(zip(asked, said, strict=True)):
        logits = pair.student(torch.tensor([[*x, *y]])).logits[0].log_softmax(-1)
        by_hand = sum(float(logits[len(x) + t - 1, token]) for t, token in enumerate(y))
        assert float(scored.sum(scored.token_log_q)[row]) == pytest.approx(by_hand, abs=1e-4)
