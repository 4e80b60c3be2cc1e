"""Large vocabularies: a run by hidden states is the run by tables, method by method."""

import pytest
import torch
from torch import nn

from minidistill import distill, rollouts
from minidistill.applications.lora import lora_pair
from minidistill.config import DistillConfig
from minidistill.models import make_pair, single_model
from minidistill.objectives import METHODS, get_method, method
from minidistill.rollouts import Rollouts, rollouts_class
from minidistill.scale import fused, responses
from minidistill.scale.responses import HiddenResponse, HiddenRollouts
from minidistill.tasks import Example, Task
from tests.core.test_architectures import KINDS
from tests.tiny import byte_tokenizer, tiny_lm

HOW = {"epochs": 2, "batch_size": 4, "max_new_tokens": 6, "lr": 1e-3, "progress": False, "seed": 3}
TASK = Task(
    "t", [Example(f"prompt {i}", (f"answer {i}",)) for i in range(6)], [Example("x", ("y",))]
)


def build(kind="llama", **shape):
    tokenizer = byte_tokenizer()
    models = [tiny_lm(kind, tokenizer, seed, **shape) for seed in (1, 2)]
    return make_pair(models[0], tokenizer, models[1], tokenizer)


@pytest.fixture
def large(monkeypatch):
    """Every vocabulary counts as large."""
    monkeypatch.setattr(responses, "LARGE", 1)


def weights(pair):
    return torch.cat([w.detach().flatten() for w in pair.student.parameters()])


@pytest.mark.parametrize("name", [name for name in METHODS if name != "dpo"])  # that wants pairs
def test_a_run_by_hidden_states_ends_where_the_run_by_tables_ends(name, large, monkeypatch):
    by_hidden = build()
    if not HiddenRollouts.handles(by_hidden, get_method(name)):
        assert name not in (
            "kd",
            "gkd",
            "skl",
            "distillm",
            "dpkd",
            "cald",
            "distillm2",
            "sft",
            "seqkd",
        )
        pytest.skip(f"{name} does arithmetic on tables")
    made = []
    spread = HiddenResponse.__init__
    monkeypatch.setattr(HiddenResponse, "__init__", lambda *a: made.append(1) or spread(*a))
    found = distill(by_hidden, TASK, name, **HOW)
    assert made
    monkeypatch.setattr(responses, "LARGE", 10**9)
    by_table = build()
    truth = distill(by_table, TASK, name, **HOW)
    for a, b in zip(found.steps, truth.steps, strict=True):
        assert a == pytest.approx(b, rel=1e-3, abs=1e-5)
    torch.testing.assert_close(weights(by_hidden), weights(by_table), rtol=0, atol=2e-4)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox"])
def test_tied_untied_and_other_heads(kind, large):
    pair = build(kind)
    assert rollouts_class(pair, get_method("kd")) is HiddenRollouts
    heads = [responses.output_head(m) for m in (pair.teacher, pair.student)]
    history = distill(pair, TASK, "kd", **HOW)
    assert history.steps[-1]["loss"] < history.steps[0]["loss"]
    assert [responses.output_head(m) for m in (pair.teacher, pair.student)] == heads


def test_a_model_without_a_teacher_is_tuned_by_hidden_states_too(large, monkeypatch):
    pairs = [single_model(tiny_lm("llama", byte_tokenizer(), 2), byte_tokenizer()) for _ in "ab"]
    assert rollouts_class(pairs[0], get_method("sft")) is HiddenRollouts
    distill(pairs[0], TASK, "sft", **HOW)
    monkeypatch.setattr(responses, "LARGE", 10**9)
    distill(pairs[1], TASK, "sft", **HOW)
    torch.testing.assert_close(weights(pairs[0]), weights(pairs[1]), rtol=0, atol=2e-4)


def test_adapters_are_trained_through_a_head_that_stands_still(large):
    pair = lora_pair(build(), rank=2)
    head = responses.output_head(pair.student).weight.clone()
    assert rollouts_class(pair, get_method("distillm2")) is HiddenRollouts
    distill(pair, TASK, "distillm2", **HOW)
    assert torch.equal(responses.output_head(pair.student).weight, head)


def test_gradient_accumulation_does_not_change_the_result(large):
    whole, parts = build(), build()
    distill(whole, TASK, "distillm2", **HOW)
    distill(parts, TASK, "distillm2", gradient_accumulation_steps=2, **HOW)
    torch.testing.assert_close(weights(whole), weights(parts), rtol=0, atol=2e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_every_architecture_is_read_so_or_by_tables_with_one_result(kind, large, monkeypatch):
    """Caps, scales, biases, heads of another name: what is not a plain matrix is found out."""
    tokenizer = byte_tokenizer()
    try:
        models = [tiny_lm(kind, tokenizer, seed, layers=4, **KINDS[kind]) for seed in (1, 2)]
        pair = make_pair(models[0], tokenizer, models[1], tokenizer)
    except ValueError as refused:
        pytest.skip(str(refused))
    config, slots = DistillConfig(max_new_tokens=4), {"tgo": "tgo"}
    found = rollouts_class(pair, get_method("kd"))(pair, TASK, slots, config)
    tables = Rollouts(pair, TASK, slots, config)
    found.responses = tables.responses = {"tgo": [[5, 6, 7], [8]] * 3}
    loss, truth = (get_method("kd").loss(r.score([0, 1])["tgo"]).detach() for r in (found, tables))
    torch.testing.assert_close(loss, truth, rtol=1e-3, atol=1e-5)
    assert isinstance(responses.output_head(pair.student), nn.Module)
    assert not isinstance(responses.output_head(pair.student), nn.Identity)


# --- who is left to tables ------------------------------------------------------------------------------
def test_a_small_vocabulary_keeps_its_tables():
    assert rollouts_class(build(), get_method("kd")) is Rollouts


class Capped(nn.Linear):
    def forward(self, hidden):
        return super().forward(hidden).tanh()


@pytest.mark.parametrize("change", ["bias", "cap", "subclass"])
def test_logits_that_are_more_than_a_matrix_keep_their_tables(change, large):
    pair = build()
    width, vocab = pair.student.config.hidden_size, pair.student.config.vocab_size
    if change == "bias":
        head = nn.Linear(width, vocab)
        nn.init.zeros_(head.bias)  # not to be seen in the logits yet, but it would be trained
        pair.student.set_output_embeddings(head)
    elif change == "subclass":
        pair.student.set_output_embeddings(Capped(width, vocab, bias=False))
    else:
        forward = pair.student.forward

        def capped(*args, **kwargs):
            output = forward(*args, **kwargs)
            output.logits = 0.1 * output.logits.mul(10).tanh()
            return output

        pair.student.forward = capped
    assert rollouts_class(pair, get_method("kd")) is Rollouts


def test_a_method_that_does_arithmetic_on_tables_gets_tables(large):
    @method
    def squared(tgo):
        return tgo.mean(((tgo.log_p - tgo.log_q) ** 2).mean(-1))

    try:
        assert rollouts_class(build(), get_method("squared")) is Rollouts
        assert len(distill(build(), TASK, "squared", **HOW).steps) == 4
    finally:
        del METHODS["squared"]


# --- what it saves --------------------------------------------------------------------------------------
@pytest.mark.parametrize(("large_from", "reads"), [(1, 1), (10**9, 4)])
def test_the_teacher_reads_its_own_responses_once_in_a_run(large_from, reads, monkeypatch):
    """Their tables would not fit, and are made at each step; their hidden states do."""
    monkeypatch.setattr(responses, "LARGE", large_from)
    pair, read = build(), []
    fits = 4 * 36 * pair.teacher.config.hidden_size
    monkeypatch.setattr(rollouts, "TEACHER_CACHE_BYTES", fits)
    for kind in (Rollouts, HiddenRollouts):
        asked = kind.read
        monkeypatch.setattr(
            kind, "read", lambda self, m, b, asked=asked: read.append(m) or asked(self, m, b)
        )
    distill(pair, TASK, "kd", tgo=[[5] * 6] * 6, **HOW)
    assert sum(model is pair.teacher for model in read) == reads


def test_padding_is_not_computed(large, monkeypatch):
    """Only the tokens of responses go through the head, however uneven the responses are."""
    pair, seen = build(), []
    asked = fused.divergence
    monkeypatch.setattr(
        fused, "divergence", lambda n, p, *a, **k: seen.append(len(p)) or asked(n, p, *a, **k)
    )
    tgo = [[5] * n for n in (1, 2, 3, 4, 5, 6)]
    distill(pair, TASK, "kd", tgo=tgo, **{**HOW, "epochs": 1})
    assert seen[0] == 1  # the method is tried on one token
    assert sum(seen[1:]) == 21


def test_settings_reach_the_divergence_by_place_and_by_name(large):
    config = DistillConfig(max_new_tokens=4)
    pair = build()
    scored = HiddenRollouts(pair, TASK, {"tgo": "tgo"}, config)
    scored.collect(0)
    y = scored.score([0, 1])["tgo"]
    from minidistill import divergences as D

    alpha = torch.tensor([[0.1], [0.3]])
    for one, other in (
        (D.skew_kl(y.log_p, y.log_q, alpha), D.skew_kl(y.log_p, y.log_q, alpha=alpha)),
        (D.jsd(y.log_p, y.log_q, 0.9), D.jsd(y.log_p, y.log_q, beta=0.9)),
    ):
        assert torch.equal(one, other)
        assert not one[~y.mask].detach().any()
