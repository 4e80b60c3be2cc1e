"""DPO against its formula and TRL's own code; pairs from a judge; what is watched; the command."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from typer.testing import CliRunner

from minidistill import distill, load_task
from minidistill.applications import preference as P
from minidistill.applications import preference_tuning as R
from minidistill.cli import app
from minidistill.experiments import stages
from minidistill.experiments.arms import DPO_BETAS
from minidistill.experiments.protocol import Arm, Protocol, Run, run_one
from minidistill.experiments.worlds import load_start
from minidistill.judging import LLMJudge, RuleJudge
from minidistill.lessons import lesson_10_preference as lesson_10
from minidistill.lessons import plots
from minidistill.logprobs import ResponseLogProbs, collate, response_log_probs
from minidistill.objectives import TrainState, get_method
from minidistill.runlog import read_log
from minidistill.tasks import Preference
from minidistill.tokenization import encode_prompt, encode_response
from tests.conftest import build_pair
from tests.tiny import byte_tokenizer, tiny_lm

QUICK = {"epochs": 1, "batch_size": 4, "max_new_tokens": 6, "progress": False}
dpo = get_method("dpo")
runner = CliRunner()


def response(seed, lengths=(4, 2, 1), vocab_size=5, same=False):
    """Float64 `ResponseLogProbs`; `same`: the reference is the policy; rubbish in its padding."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), max([*lengths, 1]), vocab_size)
    ref, policy = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in "rp")
    mask = torch.arange(shape[1]) < torch.tensor(lengths).unsqueeze(-1)
    policy.requires_grad_()
    ref = policy.detach().clone() if same else ref
    ref[~mask] = float("nan")
    labels = torch.randint(vocab_size, shape[:2], generator=generator)
    scored = ResponseLogProbs(labels, mask, policy.log_softmax(-1), lambda: ref.log_softmax(-1))
    scored.logits = policy
    return scored


def loss_of(chosen, rejected, **settings):
    return dpo({"chosen": chosen, "rejected": rejected}, TrainState(), **settings)


@pytest.fixture
def pairs(task):
    """Preferences whose chosen side is a reference and whose rejected side is another prompt's."""
    rows = zip(task.train[:8], task.train[8:16], strict=True)
    return [
        Preference(e.prompt, e.references, chosen=e.references[0], rejected=other.references[0])
        for e, other in rows
    ]


# --- the loss ---------------------------------------------------------------------------------------------
def test_10_3_a_policy_that_is_its_reference_has_loss_log_2_and_still_a_gradient():
    chosen, rejected = response(0, same=True), response(1, (1, 3, 2), same=True)
    loss = loss_of(chosen, rejected, beta=0.7)
    torch.testing.assert_close(loss, torch.full((3,), math.log(2), dtype=torch.float64))
    loss.sum().backward()
    assert chosen.logits.grad.abs().sum() > 0


def test_10_3_its_gradient_is_the_weight_times_the_difference_of_the_scores():
    """∇L = −β σ(−m) (∇ log π(y_w) − ∇ log π(y_l)), m the margin (10.2), written out by hand."""
    chosen, rejected, beta = response(0), response(1, (1, 3, 2)), 0.6
    loss_of(chosen, rejected, beta=beta).sum().backward()
    weight = beta * torch.sigmoid(-P.reward_margin(chosen, rejected, beta)).detach()
    for y, sign in ((chosen, -1), (rejected, 1)):
        pulled = F.one_hot(y.labels, 5).double() - y.logits.detach().softmax(-1)
        wanted = sign * weight[:, None, None] * pulled * y.mask.unsqueeze(-1)
        torch.testing.assert_close(y.logits.grad, wanted)


def test_10_3_10_2_swapping_the_pair_turns_the_margin_round():
    chosen, rejected = response(0), response(1, (1, 3, 2))
    margin = P.reward_margin(chosen, rejected, 0.4)
    torch.testing.assert_close(P.reward_margin(rejected, chosen, 0.4), -margin)
    torch.testing.assert_close(loss_of(chosen, rejected, beta=0.4), -F.logsigmoid(margin))
    torch.testing.assert_close(loss_of(rejected, chosen, beta=0.4), -F.logsigmoid(-margin))


def test_10_3_identical_responses_teach_nothing():
    y, twin = response(0), response(0)
    loss = loss_of(y, twin)
    torch.testing.assert_close(loss, torch.full((3,), math.log(2), dtype=torch.float64))
    (gradient,) = torch.autograd.grad(loss_of(y, y).sum(), y.logits)
    assert gradient.abs().max() < 1e-12


def test_10_3_an_empty_response_has_reward_zero_and_no_gradient():
    chosen, empty = response(0), response(1, (0, 0, 0))
    loss = loss_of(chosen, empty, beta=0.5)
    torch.testing.assert_close(loss, -F.logsigmoid(P.rewards(chosen, 0.5)))
    loss.sum().backward()
    assert torch.isfinite(empty.logits.grad).all()
    assert not empty.logits.grad.any()


@pytest.mark.parametrize("beta", [0.0, math.nan, math.inf])
def test_a_beta_that_is_not_positive_is_refused(pair, pairs, task, beta):
    with pytest.raises(ValueError, match=f"beta must be positive, but got {beta}"):
        distill(pair, replace(task, train=pairs), "dpo", beta=beta, **QUICK)


def test_4_1_10_3_dpkd_is_dpo_with_the_teacher_as_reference():
    """The same function of two responses: bit by bit, value and gradient."""
    found = []
    for name, slots in (("dpo", ("chosen", "rejected")), ("dpkd", ("tgo", "initial_sgo"))):
        both = response(0), response(1, (1, 3, 2))
        weight = {"dpo": {"beta": 0.3}, "dpkd": {"lam": 0.3}}[name]
        loss = get_method(name)(dict(zip(slots, both, strict=True)), TrainState(), **weight)
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
def test_10_3_10_2_loss_and_gradient_are_trls(tokenizer, pairs, beta):
    pair = build_pair(tokenizer)
    policy, reference = pair.student.double(), build_pair(tokenizer, seed=2).student.double()
    asked = [encode_prompt(tokenizer, p.prompt) for p in pairs]
    sides = [
        [encode_response(tokenizer, getattr(p, s)) for p in pairs] for s in ("chosen", "rejected")
    ]
    batch = collate(asked * 2, [*sides[0], *sides[1]], pair.pad_token_id)
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

    doubles = lambda m: float64_log_probs(m, batch, pair.vocab_size)  # noqa: E731
    log_q, log_p = doubles(policy), doubles(reference).detach()
    n = len(pairs)
    halves = [
        ResponseLogProbs(batch.labels[s], batch.mask[s], log_q[s], lambda s=s: log_p[s])
        for s in (slice(0, n), slice(n, None))
    ]
    loss = loss_of(*halves, beta=beta)
    torch.testing.assert_close(loss.mean(), wanted)
    for ours, theirs in zip(torch.autograd.grad(loss.mean(), weights), their_gradient, strict=True):
        torch.testing.assert_close(ours, theirs)
    margin = P.reward_margin(*halves, beta)
    assert float(margin.detach().mean()) == pytest.approx(metrics["rewards/margins"][0])
    assert float((margin > 0).double().mean()) == pytest.approx(metrics["rewards/accuracies"][0])


def float64_log_probs(model, batch, vocab_size):
    """`response_log_probs` before it rounds to float32, which is checked on the way."""
    kept = batch.labels.shape[1] + 1
    positions = (batch.attention_mask.cumsum(-1) - 1).clamp(min=0)
    logits = model(batch.input_ids, batch.attention_mask, position_ids=positions).logits
    exact = logits[:, -kept:-1, :vocab_size].log_softmax(-1)
    rounded = response_log_probs(model, batch, vocab_size)
    torch.testing.assert_close(rounded.double(), exact, atol=1e-4, rtol=1e-4)
    return exact


def test_the_prompt_does_not_count(tokenizer, pair, pairs):
    """Two prompts of other lengths: the tokens of the prompt are in no sum, only what follows from them."""
    asked = [encode_prompt(tokenizer, p.prompt) for p in pairs[:2]]
    said = [encode_response(tokenizer, p.chosen) for p in pairs[:2]]
    batch = collate(asked, said, pair.pad_token_id)
    log_q = response_log_probs(pair.student, batch, pair.vocab_size)
    scored = ResponseLogProbs(batch.labels, batch.mask, log_q, lambda: log_q)
    for row, (x, y) in enumerate(zip(asked, said, strict=True)):
        logits = pair.student(torch.tensor([[*x, *y]])).logits[0].log_softmax(-1)
        by_hand = sum(float(logits[len(x) + t - 1, token]) for t, token in enumerate(y))
        assert float(scored.sum(scored.token_log_q)[row]) == pytest.approx(by_hand, abs=1e-4)


# --- what is watched --------------------------------------------------------------------------------------
def test_10_2_a_margin_by_hand():
    """Two tokens, π/π_ref = 2 each on the chosen side, ½ on the rejected: β (log 4 + log 2)."""
    half, even = torch.tensor([0.25, 0.75]).log(), torch.tensor([0.5, 0.5]).log()
    one = lambda n, q, p: ResponseLogProbs(  # noqa: E731
        torch.zeros(1, n, dtype=torch.long), torch.ones(1, n, dtype=torch.bool),
        q.expand(1, n, 2), lambda: p.expand(1, n, 2),
    )  # fmt: skip
    margin = P.reward_margin(one(2, even, half), one(1, half, even), beta=0.5)
    assert margin.tolist() == pytest.approx([0.5 * (math.log(4) + math.log(2))])


def moved(tokenizer):
    """A policy that has left its reference."""
    pair = P.policy_and_reference(build_pair(tokenizer).student, tokenizer)
    with torch.no_grad():
        for weight in pair.student.parameters():
            weight.mul_(0.9)
    return pair


def test_the_measures_are_means_of_sums_whatever_the_batches(tokenizer, pairs, monkeypatch):
    pair = moved(tokenizer)
    whole = P.preference_metrics(pair, pairs, beta=0.3)
    with monkeypatch.context() as small:
        uneven = [replace(p, rejected="no") for p in pairs]  # both sides in batches of one size
        expected = P.preference_metrics(pair, uneven, beta=0.3)
        small.setattr("minidistill.tokenization.MAX_LOGITS", 3 * 10 * pair.vocab_size)
        assert P.preference_metrics(pair, uneven, beta=0.3) == pytest.approx(expected, rel=1e-4)
    monkeypatch.setattr(P, "ROWS", 3)
    assert P.preference_metrics(pair, pairs, beta=0.3) == pytest.approx(whole, rel=1e-4)
    sides = {}
    for side in ("chosen", "rejected"):
        found = []
        for p in pairs:
            x = encode_prompt(tokenizer, p.prompt)
            y = encode_response(tokenizer, getattr(p, side))
            logs = [
                m(torch.tensor([[*x, *y]])).logits[0].log_softmax(-1)
                for m in (pair.student, pair.teacher)
            ]
            found.append([sum(float(z[len(x) + t - 1, v]) for t, v in enumerate(y)) for z in logs])
        sides[side] = torch.tensor(found)
    margins = 0.3 * (sides["chosen"] - sides["rejected"]) @ torch.tensor([1.0, -1.0])
    wanted = {"margin": margins.mean(), "accuracy": (margins > 0).float().mean()}
    wanted |= {side: sides[side][:, 0].mean() for side in sides}
    assert whole == pytest.approx({k: float(v) for k, v in wanted.items()}, abs=1e-3)


def test_10_4_kl_is_that_of_the_enumerated_responses(tokenizer, task):
    """One token: exact, whatever is drawn. Two: the mean over many draws is the chain rule's sum."""
    pair, prompt = moved(tokenizer), task.test[0].prompt
    x = encode_prompt(tokenizer, prompt)

    def steps(prefixes):
        ids = torch.tensor([[*x, *y] for y in prefixes])
        with torch.no_grad():
            log_q, log_p = (
                m(ids).logits[:, -1].log_softmax(-1) for m in (pair.student, pair.teacher)
            )
        return log_q, (log_q.exp() * (log_q - log_p)).sum(-1)

    log_q, first = steps([[]])
    assert P.kl_to_reference(pair, [prompt], max_new_tokens=1) == pytest.approx(
        float(first), abs=1e-4
    )
    _, second = steps([[v] for v in range(pair.vocab_size)])
    second[sorted(pair.eos_token_ids)] = 0  # the response is over
    exact = float(first + (log_q[0].exp() * second).sum())
    found = P.kl_to_reference(pair, [prompt] * 3000, max_new_tokens=2, seed=1)
    assert found == pytest.approx(exact, rel=0.05)
    assert abs(exact - float(first)) > 0.2 * exact  # so that the second token matters


def test_what_is_measured_while_training_is_measured_without_dropout():
    tokenizer = byte_tokenizer()
    pair = P.policy_and_reference(
        tiny_lm("gpt2", tokenizer, n_embd=32, n_layer=2, n_head=4), tokenizer
    )
    pair.student.train()  # GPT-2 drops a tenth
    pairs = [Preference(f"say {i}", (), chosen=f"yes {i}", rejected=f"no {i}") for i in range(4)]
    assert P.preference_metrics(pair, pairs, 0.1)["margin"] == pytest.approx(0, abs=1e-5)
    assert P.kl_to_reference(pair, ["a", "b"], max_new_tokens=4) == pytest.approx(0, abs=1e-5)
    assert pair.student.training


def test_10_4_a_policy_at_its_reference_has_no_kl(tokenizer, task):
    pair = P.policy_and_reference(build_pair(tokenizer).student, tokenizer)
    assert P.kl_to_reference(
        pair, [e.prompt for e in task.test], max_new_tokens=5
    ) == pytest.approx(0, abs=1e-5)


def test_10_1_the_tilted_policy_is_the_best_one_and_its_reward_can_be_read_off_it():
    generator = torch.Generator().manual_seed(0)
    log_ref = torch.randn(6, generator=generator, dtype=torch.float64).log_softmax(-1)
    reward, beta = torch.randn(6, generator=generator, dtype=torch.float64), 0.4
    worth = lambda log_pi: float(  # noqa: E731
        log_pi.exp() @ reward - beta * (log_pi.exp() * (log_pi - log_ref)).sum()
    )
    best = P.optimal_policy(log_ref, reward, beta)
    assert worth(best) == pytest.approx(beta * float((log_ref + reward / beta).logsumexp(-1)))
    for _ in range(200):
        other = (best + 0.3 * torch.randn(6, generator=generator, dtype=torch.float64)).log_softmax(
            -1
        )
        assert worth(other) <= worth(best) + 1e-12
    implied = beta * (best - log_ref)
    torch.testing.assert_close(implied - implied[0], reward - reward[0])
    with pytest.raises(ValueError, match="beta must be positive, but got 0"):
        P.optimal_policy(log_ref, reward, 0)


def test_10_3_10_1_dpo_on_all_pairs_finds_the_tilted_policy():
    """One-token responses, pairs won as the Bradley–Terry model says: the loss is lowest at (10.1)."""
    log_ref, reward = (
        torch.tensor([0.5, 0.3, 0.2]).log().double(),
        torch.tensor([0.0, 1.0, 0.4]).double(),
    )
    beta, logits = 0.5, torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=200, line_search_fn="strong_wolfe")
    mask = torch.ones(1, 1, dtype=torch.bool)

    def loss():
        optimizer.zero_grad()
        said = [
            ResponseLogProbs(
                torch.tensor([[v]]),
                mask,
                logits.log_softmax(-1).view(1, 1, -1),
                lambda: log_ref.view(1, 1, -1),
            )
            for v in range(3)
        ]
        total = sum(
            torch.sigmoid(reward[a] - reward[b]) * loss_of(said[a], said[b], beta=beta).sum()
            for a in range(3)
            for b in range(3)
            if a != b
        )
        total.backward()
        return total

    optimizer.step(loss)
    torch.testing.assert_close(
        logits.log_softmax(-1).detach(), P.optimal_policy(log_ref, reward, beta), atol=1e-4, rtol=0
    )


# --- pairs ------------------------------------------------------------------------------------------------
def by_length(prompt, ours, theirs):
    return (len(ours) > len(theirs)) + 0.5 * (len(ours) == len(theirs))


def test_the_best_and_the_worst_sample_are_a_pair_and_ties_are_none(pair, task, monkeypatch):
    said = {  # prompt → its three draws
        task.test[0].prompt: ["aa", "a", "aaa"],
        task.test[1].prompt: ["b", "b", "b"],
        task.test[2].prompt: ["cc", "c", "cc"],
    }
    draws = iter(zip(*said.values(), strict=True))
    monkeypatch.setattr(P, "sample_texts", lambda *_, **__: list(next(draws)))
    found = P.sample_pairs(pair, task.test[:3], by_length, samples=3)
    assert [(p.prompt, p.chosen, p.rejected) for p in found] == [
        (task.test[0].prompt, "aaa", "a"),
        (task.test[2].prompt, "cc", "c"),
    ]
    assert found[0].references == task.test[0].references


class Wordy(LLMJudge):
    """A pretended chat model that prefers the longer response, and counts how often it is asked."""

    def __init__(self):
        self.calls = 0

    def choice_probs(self, rows):
        self.calls += 1
        signs = [(len(a) > len(b)) - (len(a) < len(b)) for _, a, b in rows]
        return torch.tensor([[sign > 0, sign < 0, sign == 0] for sign in signs]).double()


def test_a_model_as_the_judge_is_asked_in_batches_and_makes_the_same_pairs(pair, task):
    judge, how = Wordy(), {"samples": 3, "max_new_tokens": 6}
    assert P.sample_pairs(pair, task.test, judge, **how) == P.sample_pairs(
        pair, task.test, by_length, **how
    )
    assert judge.calls == 3  # three draws make three comparisons, each of all prompts


def test_all_ties_and_too_few_samples_are_said(pair, task):
    with pytest.raises(ValueError, match="on each of 2 prompts all 3 responses tie"):
        P.sample_pairs(pair, task.test[:2], lambda *_: 0.5, samples=3, max_new_tokens=3)
    for samples in (1, 0, 2.5):
        with pytest.raises(
            ValueError, match=f"samples must be a whole number from 2, but got {samples}"
        ):
            P.sample_pairs(pair, task.test[:2], by_length, samples=samples)


def test_pairs_are_the_students_own_words_and_depend_on_the_seed_alone(pair, task):
    how = {"samples": 2, "max_new_tokens": 6}
    first = P.sample_pairs(pair, task.test, by_length, seed=3, **how)
    assert first == P.sample_pairs(pair, task.test, by_length, seed=3, **how)
    assert first != P.sample_pairs(pair, task.test, by_length, seed=4, **how)
    assert all(len(p.chosen) > len(p.rejected) for p in first)


def test_preferences_survive_being_written(tmp_path, pairs):
    P.write_preferences(tmp_path / "pairs.jsonl", pairs)
    assert P.read_preferences(tmp_path / "pairs.jsonl") == pairs


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("[1]", "line 2: expected a JSON object, but got list"),
        ("{", "line 2: not JSON"),
        ('{"prompt": "x", "chosen": "a"}', "line 2: field 'rejected' must be a text, but is None"),
        ('{"prompt": "x", "chosen": 3, "rejected": "b"}', "line 2: field 'chosen' must be a text, but is 3"),
        ('{"prompt": " ", "chosen": "a", "rejected": "b"}', "field 'prompt' must be a text that is not"),
        ('{"prompt": "x", "chosen": "a", "rejected": "a"}', "'chosen' and 'rejected' hold the same"),
        ('{"prompt": "x", "chosen": "a", "rejected": "b", "references": "c"}', "'references' must be a list"),
    ],
)  # fmt: skip
def test_a_line_that_is_no_preference_is_named(tmp_path, line, says):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"prompt": "p", "chosen": "a", "rejected": "b"}\n' + line + "\n")
    with pytest.raises(ValueError, match=says):
        P.read_preferences(path)


def test_files_without_preferences_are_named(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="no preferences in this file"):
        P.read_preferences(tmp_path / "empty.jsonl")
    with pytest.raises(FileNotFoundError, match="did you mean 'empty.jsonl'"):
        P.read_preferences(tmp_path / "emty.jsonl")


def test_dpo_without_preferences_says_what_it_needs(pair, task):
    with pytest.raises(ValueError, match="prompt 1 has no chosen response .*sample_pairs"):
        distill(pair, task, "dpo", **QUICK)


# --- training ---------------------------------------------------------------------------------------------
def test_training_raises_the_margin_and_leaves_the_reference_alone(tokenizer, pairs, task):
    pair = P.policy_and_reference(build_pair(tokenizer).student, tokenizer)
    frozen = [w.clone() for w in pair.teacher.parameters()]
    asked = [e.prompt for e in task.test[:4]]
    diary = P.PreferenceTracker(pair, {"trained": pairs}, asked, [""] * 4, by_length, beta=0.2)
    diary.write(0)
    how = {**QUICK, "epochs": 4, "lr": 1e-3, "probe_every": 4}
    distill(pair, replace(task, train=pairs), "dpo", beta=0.2, callback=diary, **how)
    first, last = diary.rows[0], diary.rows[-1]
    assert [row["step"] for row in diary.rows] == [0, 4, 8]
    assert first["pairs"]["trained"]["margin"] == pytest.approx(0, abs=1e-4)
    assert first["kl"] == pytest.approx(0, abs=1e-4)
    assert last["pairs"]["trained"]["margin"] > 0.1
    assert last["pairs"]["trained"]["accuracy"] > 0.7
    assert last["kl"] > 0
    assert 0 <= last["low"] <= last["win_rate"] <= last["high"] <= 1
    assert all(torch.equal(a, b) for a, b in zip(frozen, pair.teacher.parameters(), strict=True))


def test_other_preferences_are_another_run(tokenizer, pairs, task, tmp_path):
    """A checkpoint must know itself: the same prompts with other pairs are not the same run."""
    start = lambda: P.policy_and_reference(build_pair(tokenizer).student, tokenizer)  # noqa: E731
    work = replace(task, train=pairs)
    distill(start(), work, "dpo", out=tmp_path, **QUICK)
    swapped = [replace(p, chosen=p.rejected, rejected=p.chosen) for p in pairs]
    with pytest.raises(ValueError, match="holds a run of another student"):
        distill(start(), replace(task, train=swapped), "dpo", out=tmp_path, **QUICK)


def test_another_judge_is_another_run(tokenizer, task, tmp_path):
    judges = [Wordy() for _ in "ab"]
    for name, judge in zip("ab", judges, strict=True):
        judge.name = f"LLMJudge {name}"
    work = replace(task, train=task.train[:6], test=task.test[:4])
    recipe = R.PreferenceConfig(samples=2, max_new_tokens=6)
    go = lambda judge: R.run_dpo(  # noqa: E731
        build_pair(tokenizer).student, tokenizer, work, judge, recipe, tmp_path
    )
    go(judges[0])
    with pytest.raises(ValueError, match="holds a run of another student"):
        go(judges[1])


# --- the hook of runs -----------------------------------------------------------------------------------
@pytest.mark.slow
def test_the_hook_scores_before_and_after_against_one_rival(tmp_path):
    arm = Arm("", hook="dpo", hook_kwargs={"prompts": 12, "samples": 2, "lr": 1e-3})
    run = Run(Protocol("instruct", prompts=8), "dpo_x", arm, 3)
    log = run_one(run, tmp_path, lambda *_: None)
    scores = log["scores"]
    task, start = load_task("instruct"), load_start("instruct", 3)
    asked = [e.prompt for e in task.test[: stages.WIN_RATE_PROMPTS]]
    contest = R.WinRateEvaluator.against(
        start, asked, RuleJudge(task), 3, stages.WIN_RATE_DRAWS, **run.protocol.sampling
    )
    itself, _ = contest.enter(start, 3)
    assert scores["win_rate_before"] == itself.rate  # the start against itself
    assert scores["win_rate"] != itself.rate
    assert scores["kl"] > 0
    assert set(log["before"]) == set(log["after"]) == {"accuracy", "rouge_l"}
    assert 2 <= log["pairs"] <= 12
    assert set(log["preference_curve"][-1]["pairs"]) == {"trained", "held_out"}


def test_all_starts_of_a_seed_meet_the_same_rival(tokenizer, task):
    asked = [e.prompt for e in task.test[:5]]
    rivals = [
        R.WinRateEvaluator.against(
            build_pair(tokenizer), asked, by_length, 7, 2, max_new_tokens=4
        ).rivals
        for _ in range(2)
    ]
    assert rivals[0] == rivals[1]
    assert rivals[0][0] != rivals[0][1]
    other = R.WinRateEvaluator.against(
        build_pair(tokenizer), asked, by_length, 8, 2, max_new_tokens=4
    )
    assert other.rivals != rivals[0]


def test_a_contest_counts_every_draw(tokenizer, task, monkeypatch):
    said = iter([["long", "x"], ["y", "longer"]])
    monkeypatch.setattr(P, "sample_texts", lambda *_, **__: next(said))
    contest = R.WinRateEvaluator(["a", "b"], [["xx", "x"], ["yy", "yyy"]], by_length, {})
    won, kept = contest.enter(None, 0)
    assert kept == [["long", "x"], ["y", "longer"]]
    assert won.rate == pytest.approx((1 + 0.5 + 0 + 1) / 4)


# --- the command --------------------------------------------------------------------------------------------
def test_the_command_prints_resumes_and_repeats_itself(tmp_path):
    args = [
        "apply",
        "preference",
        "--task",
        "instruct",
        "--limit",
        "12",
        "--out",
        str(tmp_path / "x"),
    ]
    first = runner.invoke(app, args)
    assert first.exit_code == 0, first.output
    for word in ("win rate over the start", "reward margin", "KL to the start", "pairs trained on"):
        assert word in first.output
    result = read_log(tmp_path / "x" / "result.json")
    assert result["before"]["kl"] == pytest.approx(0, abs=1e-4)
    assert result["after"]["kl"] > 0
    assert result["after"]["low"] <= result["after"]["win_rate"] <= result["after"]["high"]
    again = runner.invoke(app, args)
    table = lambda text: [line for line in text.splitlines() if "  " in line]  # noqa: E731
    assert table(again.stdout) == table(first.stdout)
    with pytest.raises(ValueError, match="holds a run of another student"):
        runner.invoke(app, [*args, "--beta", "0.7"], catch_exceptions=False)


def test_the_command_reads_given_preferences_and_needs_no_judge(tmp_path, pairs, tokenizer):
    build_pair(tokenizer).student.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    P.write_preferences(tmp_path / "pairs.jsonl", pairs)
    args = ["--preferences", str(tmp_path / "pairs.jsonl"), "--student", str(tmp_path / "model")]
    done = runner.invoke(app, ["apply", "preference", *args, "--out", str(tmp_path / "x")])
    assert done.exit_code == 0, done.output
    assert "win rate" not in done.output
    result = read_log(tmp_path / "x" / "result.json")
    assert (result["pairs"], result["held_out_pairs"]) == (len(pairs) - 1, 1)
    assert result["after"]["margin"] != 0


def test_a_limit_never_moves_a_held_out_prompt_to_the_training_side(pairs, task):
    from minidistill.cli.preference import _first

    held_out = [Preference(e.prompt, chosen="a", rejected="b") for e in task.test[:6]]
    kept = _first([*held_out, *pairs], task, 2)
    assert kept == [*pairs[:2], *held_out[:2]]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ([], "give --task NAME, --prompts FILE.jsonl or --preferences"),
        (["--task", "instruct", "--prompts", "x.jsonl"], "either --task NAME or --prompts"),
        (["--task", "instruct", "--beta", "0"], "beta must be positive, but got 0.0"),
        (
            ["--task", "instruct", "--samples", "1"],
            "samples must be a whole number from 2, but got 1",
        ),
        (["--task", "instruct", "--lr", "-1"], "lr must be positive"),
        (["--task", "instrct"], "did you mean 'instruct'"),
        (["--prompts", "PROMPTS", "--student", "x"], "has no grader of its own: name a chat model"),
        (["--preferences", "PAIRS"], "name the model to start from: --student"),
    ],
)
def test_the_command_answers_a_mistake_in_a_sentence(tmp_path, pairs, args, says):
    P.write_preferences(tmp_path / "pairs.jsonl", pairs)
    files = {"PROMPTS": tmp_path / "pairs.jsonl", "PAIRS": tmp_path / "pairs.jsonl"}
    given = [str(files.get(a, a)) for a in args]
    with pytest.raises(ValueError, match=says):
        runner.invoke(
            app,
            ["apply", "preference", *given, "--out", str(tmp_path / "x")],
            catch_exceptions=False,
        )


# --- the lesson's drawings ----------------------------------------------------------------------------------
def made_up(seed, beta):
    sides = [{"margin": s * beta, "chosen": -8.0 - s, "rejected": -12.0 - 3 * s} for s in range(4)]
    rows = [{"step": s, "pairs": {"held_out": side}} for s, side in enumerate(sides)]
    scores = {"kl": 0.1 * (seed + 1) / beta, "win_rate": 0.5 + 0.01 * seed, "win_rate_before": 0.5}
    return {"scores": scores, "preference_curve": rows}


@pytest.mark.parametrize("beta", [DPO_BETAS[0], DPO_BETAS[2], DPO_BETAS[-1]])
def test_the_beta_slider_at_both_ends_and_the_default(beta):
    logs = {b: [made_up(seed, b) for seed in range(3)] for b in DPO_BETAS}
    figure = lesson_10.beta_explorer(logs)(beta)
    left, right = figure.axes
    assert f"beta {beta:g}: " in left.get_title(loc="left")
    chosen = [line for line in right.lines if line.get_label() == "chosen"][0]
    assert list(chosen.get_ydata()) == [0, -1, -2, -3]


@pytest.mark.parametrize("beta", [lesson_10.BETAS[0], lesson_10.BETAS[3], lesson_10.BETAS[-1]])
def test_10_1_the_tilt_slider_shows_the_best_policy(beta):
    figure = lesson_10.tilt_explorer()(beta)
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    best = P.optimal_policy(lesson_10.REFERENCE, lesson_10.REWARD, beta)
    assert heights[4:8] == pytest.approx(best.exp().tolist(), abs=1e-5)


def test_starts_are_drawn_before_and_after():
    logs = {
        "dpo_start": [made_up(s, 1) for s in range(3)],
        "dpo_gkd": [made_up(s, 1) for s in range(3)],
    }
    ax = lesson_10.draw_starts(logs, plots.axes())
    assert [label.get_text() for label in ax.get_yticklabels()] == ["start", "GKD"]
