"""Students made by leaving out layers: whose weights, which layers, and that they still generate."""

import copy
from types import SimpleNamespace

import pytest
import torch

from minidistill.applications import pruning
from minidistill.applications.pruning import block_influence, most_influential, prune_layers
from minidistill.models import load_model
from minidistill.utils import data_dir
from tests.commands import call
from tests.tiny import byte_tokenizer, tiny_lm


@pytest.mark.parametrize(("keep", "kept"), [(2, [0, 3]), (3, [0, 2, 3]), (4, [0, 1, 2, 3])])
def test_pruning_keeps_the_first_and_last_layer_with_the_teachers_weights(pair, keep, kept):
    before = copy.deepcopy(pair.teacher.state_dict())
    student = prune_layers(pair.teacher, keep)
    assert len(student.model.layers) == student.config.num_hidden_layers == keep
    for layer, source in zip(student.model.layers, kept, strict=True):
        theirs = pair.teacher.model.layers[source].state_dict()
        for key, weight in layer.state_dict().items():
            assert torch.equal(weight, theirs[key])
    assert len(pair.teacher.model.layers) == pair.teacher.config.num_hidden_layers == 4
    assert all(torch.equal(w, before[k]) for k, w in pair.teacher.state_dict().items())
    assert all(w.requires_grad for w in student.parameters())
    assert not any(w.requires_grad for w in pair.teacher.parameters())


def test_a_pruned_model_shares_no_weight_with_its_teacher(pair):
    student = prune_layers(pair.teacher, 2)
    mine = {w.data_ptr() for w in student.parameters()}
    assert mine.isdisjoint(w.data_ptr() for w in pair.teacher.parameters())


def test_a_pruned_model_generates_with_its_cache_what_it_does_without(pair, prompts):
    student = prune_layers(pair.teacher, 2)
    ids = torch.tensor([prompts[0]])
    how = {"do_sample": False, "max_new_tokens": 8, "pad_token_id": 0}
    cached, plain = (student.generate(ids, use_cache=use, **how) for use in (True, False))
    assert torch.equal(cached, plain)
    assert not torch.equal(cached, pair.teacher.generate(ids, **how))


@pytest.mark.parametrize("keep", [0, 1, 5])
def test_pruning_to_a_depth_that_cannot_be_is_refused(pair, keep):
    with pytest.raises(ValueError, match=f"keep must lie between 2 and 4, but got {keep}"):
        prune_layers(pair.teacher, keep)


def test_the_layers_named_are_kept_in_their_order(pair):
    student = prune_layers(pair.teacher, [3, 0, 2])
    for layer, source in zip(student.model.layers, [0, 2, 3], strict=True):
        theirs = pair.teacher.model.layers[source].state_dict()
        assert all(torch.equal(w, theirs[key]) for key, w in layer.state_dict().items())
    for wrong in ([0], [0, 4], [-1, 0]):
        with pytest.raises(ValueError, match="of 4 layers .* at least 2 must be kept"):
            prune_layers(pair.teacher, wrong)


def test_a_config_that_cannot_be_read_anew_is_found():
    """Gemma 4 has widths of heads by the number of the layer, and writes them into the file."""
    kinds = 2 * ["sliding_attention", "sliding_attention", "full_attention"]
    shape = {"layer_types": kinds, "sliding_window": 4, "head_dim": 8, "layers": 6}
    model = tiny_lm("gemma4_text", byte_tokenizer(), **shape)
    with pytest.raises(ValueError, match="'gemma4_text' cannot lose these layers"):
        prune_layers(model, [0, 2, 5])


def test_influence_is_measured_without_dropout_and_leaves_the_mode(pair):
    pair.teacher.config.attention_dropout = 0.5
    expected = block_influence(pair.teacher.eval(), pair.tokenizer, ["reverse : cat dog"])
    found = block_influence(pair.teacher.train(), pair.tokenizer, ["reverse : cat dog"])
    assert found == expected
    assert pair.teacher.training


def test_what_a_config_says_of_layers_goes_with_them():
    config = SimpleNamespace(
        num_hidden_layers=6, layer_types=list("abcdef"), pair=[1, 2], first_k_dense_replace=3,
        mlp_only_layers=[1, 3, 4], moe_layers=[0, 1, 2, 3, 4, 5], max_window_layers=None,
    )  # fmt: skip
    pruning._shorten(config, [0, 1, 3, 5], 6)
    assert vars(config) == {
        "num_hidden_layers": 4, "layer_types": list("abdf"), "pair": [1, 2], "first_k_dense_replace": 2,
        "mlp_only_layers": [1, 2], "moe_layers": [0, 1, 2, 3], "max_window_layers": None,
    }  # fmt: skip


def test_block_influence_is_one_minus_the_cosine_of_what_goes_in_and_out(pair):
    texts = ["reverse : cat dog", "what is two plus two ?"]
    found = block_influence(pair.teacher, pair.tokenizer, texts)
    change, tokens = torch.zeros(4), 0
    for text in texts:
        ids = torch.tensor([pair.encode(text)])
        with torch.no_grad():
            states = pair.teacher(ids, output_hidden_states=True).hidden_states
        for i in range(3):  # the last state has gone through the norm
            x, y = states[i][0], states[i + 1][0]
            cosine = (x * y).sum(-1) / (x.norm(dim=-1) * y.norm(dim=-1))
            change[i] += (1 - cosine).sum()
        tokens += ids.shape[1]
    assert found[:3] == pytest.approx((change[:3] / tokens).tolist(), rel=1e-4)
    hooks = [len(layer._forward_hooks) for layer in pair.teacher.model.layers]  # transformers' own
    assert block_influence(pair.teacher, pair.tokenizer, texts) == found
    assert [len(layer._forward_hooks) for layer in pair.teacher.model.layers] == hooks


def test_a_layer_that_hands_on_what_it_was_given_is_the_first_to_go(pair):
    lazy = copy.deepcopy(pair.teacher)
    for weight in (lazy.model.layers[1].self_attn.o_proj, lazy.model.layers[1].mlp.down_proj):
        weight.weight.zero_()
    influence = block_influence(lazy, pair.tokenizer, ["reverse : cat dog"])
    assert influence[1] == pytest.approx(0, abs=1e-6)
    assert most_influential(influence, 3) == [0, 2, 3]


def test_the_first_and_last_layer_stay_however_little_they_change():
    assert most_influential([0.0, 0.3, 0.1, 0.2, 0.0], 4) == [0, 1, 3, 4]
    assert most_influential([0.0, 0.3, 0.1, 0.2, 0.0], 2) == [0, 4]
    for keep in (1, 6):
        with pytest.raises(ValueError, match=f"keep must lie between 2 and 5, but got {keep}"):
            most_influential([0.0, 0.3, 0.1, 0.2, 0.0], keep)


def test_prune_measures_on_prompts_and_says_which_layers_stayed(tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "reverse : cat dog"}\n' * 8, encoding="utf-8")
    teacher = data_dir() / "instruct" / "teacher"
    where = ("--prompts", prompts, "--out", tmp_path / "student")
    done = call("prune", "--teacher", teacher, "--keep", 2, *where)
    assert done.stdout.startswith("kept layers: 0 3\n")
    assert len(load_model(tmp_path / "student")[0].model.layers) == 2
