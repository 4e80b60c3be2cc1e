"""Lesson 12's library: the grid is torchao's, bytes are real, and healing moves the adapters alone."""

import copy
import shutil
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from minidistill import checkpoint, distill, load_pair
from minidistill.applications import lora, quantization
from minidistill.applications import quantization as Q
from minidistill.applications.quantization import stored_bytes
from minidistill.applications.quantization_backends import BACKENDS, quantize_with
from minidistill.checkpoint import fingerprint
from minidistill.config import DistillConfig
from minidistill.evaluation import nll
from minidistill.experiments.before_and_after import distill_and_evaluate
from minidistill.generation import sample
from minidistill.models import load_model, make_pair, tiny_model
from minidistill.tokenization import encode_prompt, encode_references
from tests.conftest import build_pair
from tests.tiny import byte_tokenizer, tiny_lm

pytest.importorskip("peft", reason="pip install 'minidistill[adapt]'")
pytest.importorskip("torchao", reason="pip install 'minidistill[adapt]'")
WIDTHS = (8, 4, 3, 2)
QUICK = {"epochs": 1, "batch_size": 8, "max_new_tokens": 8, "progress": False, "lr": 3e-3}


def weights(rows=24, columns=128, dtype=torch.float32, seed=0):
    """Normal weights, and in the first row an outlier, a group of zeros and one of denormals."""
    found = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    found[0, :64] = 0
    found[0, 32:64] = 1e-41
    found[0, 70] = 30.0
    return found.to(dtype)


def model_of(tokenizer, preset="small", seed=0):
    return tiny_model(preset, tokenizer, seed=seed)


def changed(tokenizer, **config):
    """The same with other entries in its config."""
    model = model_of(tokenizer)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return type(model)(type(model.config)(**{**model.config.to_dict(), **config}))


def untied(tokenizer):
    """A head of its own."""
    return changed(tokenizer, tie_word_embeddings=False)


def with_biases(tokenizer):
    """Attention with biases that are not zero, as Qwen2 has them."""
    model = changed(tokenizer, attention_bias=True)
    for _, layer in Q.quantizable_layers(model):
        if layer.bias is not None:
            nn.init.normal_(layer.bias)
    return model


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(before, after):
    return before.keys() == after.keys() and all(torch.equal(before[n], after[n]) for n in before)


# --- the grid -----------------------------------------------------------------------------------------
def by_torchao(weight, bits, group):
    from torchao.quantization import IntxWeightOnlyConfig, quantize_
    from torchao.quantization.granularity import PerGroup

    layer = nn.Linear(*weight.T.shape, bias=False, dtype=weight.dtype)
    layer.weight = nn.Parameter(weight.clone())
    quantize_(layer, IntxWeightOnlyConfig(getattr(torch, f"int{bits}"), PerGroup(group)))
    return layer


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("group", [16, 128])
@pytest.mark.parametrize("bits", WIDTHS)
def test_12_1_is_torchaos_default_bit_for_bit(bits, group, dtype):
    weight = weights(dtype=dtype)
    theirs = by_torchao(weight, bits, group).weight
    ints, steps = Q.quantize(weight, bits, group)
    assert torch.equal(ints, theirs.qdata)
    assert torch.equal(steps, theirs.scale)
    assert torch.equal(Q.dequantize(ints, steps), theirs.dequantize())


def test_12_1_by_hand_on_four_weights():
    """Largest 0.6: at 2 bits the step is 0.6 / 1.5 = 0.4, the places −0.8, −0.4, 0, 0.4."""
    ints, steps = Q.quantize(torch.tensor([[0.6, -0.3, 0.1, -0.6]], dtype=torch.float64), 2, 4)
    assert steps.item() == pytest.approx(0.4)
    assert ints.tolist() == [[1, -1, 0, -2]]
    assert Q.dequantize(ints, steps).tolist()[0] == pytest.approx([0.4, -0.4, 0.0, -0.8])


@pytest.mark.parametrize("bits", WIDTHS)
def test_12_1_uses_every_place_of_the_grid_and_no_other(bits):
    ints, _ = Q.quantize(torch.linspace(-1, 1, 4096, dtype=torch.float64)[None], bits, 4096)
    assert ints.unique().tolist() == list(range(-(2 ** (bits - 1)), 2 ** (bits - 1)))


@pytest.mark.parametrize("group", [1, 16, 128])
@pytest.mark.parametrize("bits", [2, 8])
def test_12_2_nothing_moves_by_more_than_half_a_step(bits, group):
    weight = weights(rows=60, dtype=torch.float64)
    ints, steps = Q.quantize(weight, bits, group)
    error = (weight - Q.dequantize(ints, steps)).abs()
    bound = steps.repeat_interleave(group, 1) / 2
    assert (error <= bound * (1 + 1e-12)).all()
    worst = Q.max_rounding_error(weight, bits, group)
    assert worst.shape == steps.shape
    assert worst.max() == pytest.approx(0.5, abs=1e-12 if group == 1 else 0.01)
    assert torch.equal(worst, (error.view(60, -1, group).amax(-1) / steps))


def test_a_finer_grid_or_a_smaller_group_errs_less():
    def error(bits, group):
        return (weights() - Q.dequantize(*Q.quantize(weights(), bits, group))).norm()

    assert error(8, 32) < error(4, 32) < error(3, 32) < error(2, 32)
    assert error(3, 16) < error(3, 32) < error(3, 128)


@pytest.mark.parametrize("bits", WIDTHS)
def test_a_searched_step_leaves_the_least_squared_error_in_the_same_bytes(bits):
    weight = weights(rows=20, dtype=torch.float64)

    def errors(scale):
        ints, steps = Q.quantize(weight, bits, 32, scale)
        assert len(Q.pack(ints, bits)) == bits * ints.numel() // 8
        gone = (weight - Q.dequantize(ints, steps)).square()
        return gone.view(20, -1, 32).sum(-1)

    plain, searched = errors("absmax"), errors("mse")
    assert (searched <= plain + 1e-12).all()
    assert searched.sum() < (0.7 if bits == 2 else 1) * plain.sum()
    # A 1 is a place of a negative step alone.
    one = torch.tensor([[1.0, 1.0, 1.0, 0.9]], dtype=torch.float64)
    assert (one - Q.dequantize(*Q.quantize(one, 2, 4, "mse"))).abs().max() < 0.11
    with pytest.raises(ValueError, match="did you mean 'mse'"):
        Q.quantize(weight, bits, 32, "mes")


@pytest.mark.parametrize("bits", WIDTHS)
def test_hardly_a_step_drawn_by_chance_is_better_than_the_searched_one(bits):
    group = weights(rows=1, dtype=torch.float64)[:, :32]
    ints, step = Q.quantize(group, bits, 32, "mse")
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    widest = Q.quantize(group, bits, 32)[1]
    drawn = (2 * torch.rand(500, 1, generator=torch.Generator().manual_seed(0)) - 1) * widest
    errors = (group - (group / drawn).round().clamp(low, high) * drawn).square().sum(-1)
    assert (group - Q.dequantize(ints, step)).square().sum() <= 1.1 * errors.min()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bits", WIDTHS)
def test_a_searched_step_of_half_precision_is_no_worse_than_the_plain_one(bits, dtype):
    weight = weights(rows=20).to(dtype)

    def errors(scale):
        found = Q.dequantize(*Q.quantize(weight, bits, 32, scale)).float()
        return (weight.float() - found).square().view(20, -1, 32).sum(-1)

    assert (errors("mse") <= errors("absmax") * (1 + 1e-5)).all()


@pytest.mark.parametrize("scale", Q.SCALES)
def test_a_group_of_zeros_stays_zero_by_the_smallest_step(scale):
    ints, steps = Q.quantize(torch.zeros(2, 64), 4, 32, scale)
    assert (steps == torch.finfo(torch.float32).smallest_normal).all()
    assert not Q.dequantize(ints, steps).any()


def test_rows_that_do_not_lie_side_by_side_in_memory_are_read_as_they_look():
    weight = weights().T  # (128, 24): columns of another tensor
    assert not weight.is_contiguous()
    for ours, wanted in zip(
        Q.quantize(weight, 4, 8), Q.quantize(weight.contiguous(), 4, 8), strict=True
    ):
        assert torch.equal(ours, wanted)


def test_nf4_is_another_code_book_and_errs_less_on_normal_weights():
    bnb = pytest.importorskip("bitsandbytes.functional", reason="pip install 'minidistill[adapt]'")
    weight = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    grid = Q.dequantize(*Q.quantize(weight, 4, 64))
    book = bnb.dequantize_4bit(*bnb.quantize_4bit(weight, blocksize=64, quant_type="nf4"))
    assert not torch.equal(grid, book)
    assert (weight - book).square().mean() < 0.9 * (weight - grid).square().mean()
    values = (
        book / weight.view(-1, 64).abs().amax(-1).repeat_interleave(64).view(256, 256)
    ).unique()
    assert len((values * 1e4).round().unique()) == 16


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"bits": 1}, "bits must be a whole number from 2 to 8, but got 1"),
        ({"bits": 9}, "bits must be a whole number from 2 to 8, but got 9"),
        ({"bits": 4.0}, "bits must be a whole number from 2 to 8, but got 4.0"),
        ({"bits": True}, "bits must be a whole number from 2 to 8, but got True"),
        ({"group": 48}, "group must divide the 128 columns of the weight, but got 48"),
        ({"group": 0}, "group must divide the 128 columns of the weight, but got 0"),
        ({"weight": torch.full((2, 128), -torch.inf)}, "weight has NaN or inf"),
        ({"weight": torch.ones(128)}, r"weight must be a matrix of floats, but is .*\(128,\)"),
        ({"weight": torch.ones(2, 128, dtype=torch.int8)}, "must be a matrix of floats"),
    ],
)
def test_what_cannot_be_quantized_is_refused_by_name(change, says):
    with pytest.raises(ValueError, match=says):
        Q.quantize(**{"weight": weights(), "bits": 4, "group": 32, **change})


# --- bytes --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [(24, 128), (3, 5)])
@pytest.mark.parametrize("bits", [2, 3, 5, 8])  # 3 and 5: numbers that lie across two bytes
def test_what_is_packed_comes_back(bits, shape):
    draw = torch.Generator().manual_seed(bits)
    ints = torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), shape, generator=draw).to(torch.int8)
    stored = Q.pack(ints, bits)
    assert stored.dtype == torch.uint8
    assert stored.untyped_storage().nbytes() == -(-ints.numel() // 8) * bits
    assert torch.equal(Q.unpack(stored, bits, shape), ints)


def test_packed_bits_lie_one_after_the_other():
    """Four numbers of 2 bits in a byte, the first lowest: −2, −1, 0, 1 are stored as 0, 1, 2, 3."""
    assert Q.pack(torch.tensor([-2, -1, 0, 1], dtype=torch.int8), 2).tolist() == [0b11100100, 0]


@pytest.mark.parametrize("bits", WIDTHS)
def test_a_layers_bytes_are_its_bits_and_its_steps(bits):
    ints, steps = Q.quantize(weights(), bits, 32)
    layer = Q.QuantizedLinear(ints, steps, bits)
    assert stored_bytes(layer) == 24 * 128 * bits // 8 + 24 * (128 // 32) * 4
    assert not list(layer.parameters())


def test_a_storage_that_two_names_share_counts_once(tokenizer):
    model = model_of(tokenizer)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert stored_bytes(model) == sum(4 * w.numel() for w in model.parameters())


def test_the_parts_of_a_librarys_tensor_are_what_is_counted():
    layer = by_torchao(weights(), 4, 32)
    theirs = layer.weight
    wanted = 24 * 128 + sum(4 * t.numel() for t in (theirs.scale,)) + theirs.zero_point.nbytes
    assert stored_bytes(layer) == wanted  # a byte a weight, whatever its bits


# --- models -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("library", ["minidistill", "torchao"])
@pytest.mark.parametrize("bits", WIDTHS)
def test_a_broken_model_computes_with_the_rounded_weights(tokenizer, bits, library):
    model, asked = model_of(tokenizer), torch.tensor([[5, 6, 7, 8]])
    rounded = copy.deepcopy(model)
    for _, layer in Q.quantizable_layers(rounded):
        layer.weight.data = Q.dequantize(*Q.quantize(layer.weight, bits, 32))
    broken = quantize_with(model, bits, 32, library)
    with torch.no_grad():
        torch.testing.assert_close(broken(asked).logits, rounded(asked).logits)
    assert not any(w.requires_grad for w in broken.parameters())


@pytest.mark.parametrize("library", BACKENDS)
def test_embeddings_norms_and_a_tied_head_stay(tokenizer, library):
    model = model_of(tokenizer)
    kept = {n: w.clone() for n, w in model.named_parameters() if "proj" not in n}
    broken = quantize_with(model, 4, 32, library)
    assert broken.lm_head.weight is broken.model.embed_tokens.weight
    assert same(kept, {n: w for n, w in broken.named_parameters() if n in kept})
    assert stored_bytes(broken) < stored_bytes(model_of(tokenizer))


def test_the_head_of_a_tied_model_is_refused_and_nothing_is_changed(tokenizer):
    model = model_of(tokenizer)
    before = state(model)
    with pytest.raises(ValueError, match="head is tied to the embedding"):
        Q.quantize_model(model, 4, 32, head=True)
    assert same(before, state(model))


def test_a_head_of_its_own_may_be_quantized(tokenizer):
    plain = Q.quantize_model(untied(tokenizer), 4, 32)
    assert type(plain.lm_head) is nn.Linear
    whole = Q.quantize_model(untied(tokenizer), 4, 32, head=True)
    assert isinstance(whole.lm_head, Q.QuantizedLinear)
    assert isinstance(whole.get_input_embeddings(), nn.Embedding)


def test_a_bias_stays(tokenizer):
    holder = nn.ModuleDict({"a": nn.Linear(32, 8), "b": nn.Linear(32, 8, bias=False)})
    holder.get_output_embeddings = holder.get_input_embeddings = lambda: None
    before, x = copy.deepcopy(holder), torch.randn(3, 32)
    Q.quantize_model(holder, 8, 32)
    assert holder["b"].bias is None
    assert torch.equal(holder["a"].bias, before["a"].bias)
    torch.testing.assert_close(holder["a"](x), before["a"](x), atol=0.05, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_kept(tokenizer, dtype):
    model = Q.quantize_model(model_of(tokenizer).to(dtype), 4, 32)
    assert model.model.layers[0].mlp.up_proj.steps.dtype == dtype
    assert model(torch.tensor([[5, 6, 7]])).logits.dtype == dtype


@pytest.mark.parametrize(
    ("first", "library"), [*pairwise(BACKENDS), ("bitsandbytes", "minidistill")]
)
def test_what_is_quantized_is_not_quantized_again(tokenizer, first, library):
    model = quantize_with(model_of(tokenizer), 4, 32, first)
    with pytest.raises(ValueError, match="quantized already: load it in full precision first"):
        quantize_with(model, 4, 32, library)


@pytest.mark.parametrize("library", BACKENDS)
def test_other_libraries_refuse_a_scale_that_only_ours_searches(tokenizer, library):
    model = model_of(tokenizer)
    if library == "minidistill":
        plain = copy.deepcopy(model)
        quantize_with(model, 4, 32, scale="mse")
        quantize_with(plain, 4, 32)
        assert not torch.equal(*(m.model.layers[0].mlp.up_proj.weight for m in (model, plain)))
    else:
        with pytest.raises(ValueError, match=f"{library} has no scale 'mse'"):
            quantize_with(model, 4, 32, library, scale="mse")
        assert not Q.is_quantized(model)


@pytest.mark.parametrize("library", BACKENDS)
@pytest.mark.parametrize(
    ("bits", "group", "says"),
    [
        (
            4,
            48,
            "group must divide the width of every layer, but got 48; sizes that do: 8, 16, 32$",
        ),
        (4, 64, "but got 64; sizes that do: 8, 16, 32$"),
        (9, 32, "^bits must be a whole number from 2 to 8, but got 9"),
    ],
)
def test_a_model_whose_widths_do_not_fit_is_answered_with_what_does(
    tokenizer, bits, group, says, library
):
    if library == "bitsandbytes" and bits != 4:
        says = "nf4 has 4 bits, but bits is 9"
    if library == "bitsandbytes" and group == 48:
        says = "bitsandbytes wants a group of 32, 64"
    model = model_of(tokenizer)
    before = state(model)
    with pytest.raises(ValueError, match=says):
        quantize_with(model, bits, group, library)
    assert same(before, state(model))


@pytest.mark.parametrize("library", BACKENDS)
def test_a_model_with_nan_names_its_layer_and_stays(tokenizer, library):
    model = model_of(tokenizer)
    model.model.layers[1].mlp.up_proj.weight.data[3, 4] = torch.nan
    with pytest.raises(ValueError, match=r"model.layers.1.mlp.up_proj: weight has NaN or inf"):
        quantize_with(model, 4, 32, library)
    assert not Q.is_quantized(model)


def test_libraries_that_are_not_there_or_cannot_are_answered(tokenizer):
    with pytest.raises(ValueError, match=r"unknown library 'torcha0'; did you mean 'torchao'\?"):
        quantize_with(model_of(tokenizer), 4, 32, "torcha0")
    with pytest.raises(ValueError, match="nf4 has 4 bits, but bits is 3"):
        quantize_with(model_of(tokenizer), 3, 32, "bitsandbytes")
    empty = SimpleNamespace(named_modules=list, modules=list, parameters=list)
    empty.get_output_embeddings = empty.get_input_embeddings = lambda: None
    with pytest.raises(ValueError, match="has no Linear layer to quantize"):
        Q.quantize_model(empty, 4, 32)


# --- files --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("library", ["minidistill", "torchao"])
@pytest.mark.parametrize("bits", WIDTHS)
def test_a_packed_file_is_small_and_gives_the_same_model_back(tokenizer, tmp_path, bits, library):
    broken = quantize_with(model_of(tokenizer), bits, 32, library)
    size = quantization.save_packed(broken, tmp_path / "x.safetensors")
    assert size == (tmp_path / "x.safetensors").stat().st_size
    ours = quantize_with(model_of(tokenizer), bits, 32)
    assert stored_bytes(ours) < size < stored_bytes(ours) + 8000  # names and shapes
    again = quantization.load_packed(model_of(tokenizer, seed=5), tmp_path / "x.safetensors")
    assert same(state(again), state(ours))
    assert again.lm_head.weight is again.model.embed_tokens.weight
    assert Q.is_quantized(again)


def test_a_packed_file_of_another_model_or_of_none_is_refused(tokenizer, tmp_path):
    with pytest.raises(ValueError, match="nothing packed to save"):
        quantization.save_packed(model_of(tokenizer), tmp_path / "x.safetensors")
    path = tmp_path / "y.safetensors"
    quantization.save_packed(quantize_with(model_of(tokenizer, "student"), 4, 32), path)
    other = model_of(tokenizer, "flat")  # as wide, and has fewer layers
    with pytest.raises(
        ValueError, match=r"y.safetensors holds another model: model.layers.1.* does not"
    ):
        quantization.load_packed(other, path)


# --- adapters -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("library", BACKENDS)
def test_12_3_adapters_say_nothing_at_first_and_their_product_afterwards(tokenizer, library):
    asked = torch.tensor([[5, 6, 7, 8]])
    broken = quantize_with(model_of(tokenizer), 4, 32, library)
    with torch.no_grad():
        before = broken(asked).logits
    student = lora.add_lora(broken, rank=4)
    with torch.no_grad():
        torch.testing.assert_close(student(asked).logits, before)
        layer = student.base_model.model.model.layers[0].mlp.up_proj
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        assert (a.shape, b.shape) == ((4, 32), (96, 4))
        assert a.any()
        assert not b.any()
        b.normal_()
        x = torch.randn(5, 32)
        torch.testing.assert_close(layer(x), layer.base_layer(x) + x @ a.T @ b.T)


def test_only_adapters_are_trained_and_their_bytes_are_read_off(tokenizer):
    student = lora.add_lora(quantize_with(model_of(tokenizer), 2, 32), rank=4)
    trained = {n: w for n, w in student.named_parameters() if w.requires_grad}
    assert all("lora_" in name for name in trained)
    layers = [m for m in student.modules() if isinstance(m, Q.QuantizedLinear)]
    assert len(trained) == 2 * len(layers) == 2 * 7 * 3
    wanted = sum(4 * 4 * (m.in_features + m.out_features) for m in layers)
    assert lora.adapter_bytes(student) == wanted


def test_a_student_in_full_precision_trains_adapters_alone_and_may_be_merged(tokenizer, task):
    tiny = build_pair(tokenizer)
    pair = lora.lora_pair(tiny, rank=4)
    assert pair.teacher is tiny.teacher
    before = {n: w.clone() for n, w in tiny.student.state_dict().items()}
    distill(pair, task, "kd", epochs=1, batch_size=8, lr=1e-2, progress=False)
    merged = pair.student.merge_and_unload().state_dict()
    moved = {name for name, w in before.items() if not torch.equal(w, merged[name])}
    assert moved
    assert all("_proj" in name for name in moved)
    assert all(torch.equal(w, before[n]) for n, w in tiny.student.state_dict().items())


def test_adapters_depend_on_their_seed_and_leave_the_global_draws_alone(tokenizer):
    def first(seed):
        return lora.add_lora(quantize_with(model_of(tokenizer), 4), 4, seed=seed).state_dict()

    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert same(first(1), first(1))
    assert not same(first(1), first(2))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("rank", [0, -1, 2.0])
def test_a_rank_that_cannot_be_is_refused(tokenizer, rank):
    with pytest.raises(ValueError, match=f"rank must be a whole number from 1, but got {rank}"):
        lora.add_lora(quantize_with(model_of(tokenizer), 4), rank)


@pytest.mark.parametrize("library", BACKENDS)
def test_healing_moves_the_adapters_and_nothing_else(tokenizer, task, library):
    pair = lora.quantized_pair(build_pair(tokenizer), 4, 32, rank=4, library=library)
    model = pair.student.get_base_model()
    ours = library == "minidistill"
    layers = [m for m in model.modules() if hasattr(m, "lora_A")]
    x = [torch.randn(2, layer.base_layer.in_features) for layer in layers]
    with torch.no_grad():
        answers = [layer.base_layer(v) for layer, v in zip(layers, x, strict=True)]
    trained = {n for n, w in pair.student.named_parameters() if w.requires_grad}
    before = state(pair.student) if ours else {}
    start = {n: w.clone() for n, w in pair.student.named_parameters() if w.requires_grad}
    history = distill(pair, task, "kd", **QUICK)
    assert history.evals[-1]["nll_teacher"] < history.evals[0]["nll_teacher"]
    after = dict(pair.student.named_parameters())
    assert all(not torch.equal(start[n], after[n]) for n in trained)
    with torch.no_grad():
        for layer, v, answer in zip(layers, x, answers, strict=True):
            assert torch.equal(layer.base_layer(v), answer)
    moved = {n for n, t in state(pair.student).items() if ours and not torch.equal(t, before[n])}
    assert moved == (trained if ours else set())


def test_adapters_are_not_taken_for_layers(tokenizer, task, tmp_path):
    student = lora.add_lora(model_of(tokenizer), 4)
    for use in (lora.add_lora, lambda model: Q.quantize_model(model, 4)):
        with pytest.raises(ValueError, match=r"has adapters \(LoRA\): merge them first"):
            use(student)
    pair = replace(build_pair(tokenizer), student=student.requires_grad_(False))
    with pytest.raises(ValueError, match="merge them first"):
        distill_and_evaluate(pair, task, DistillConfig("kd"), {}, tmp_path / "out")
    assert not (tmp_path / "out").exists(), (
        "a failed start leaves nothing that a later one trips over"
    )


def test_where_there_is_no_linear_layer_adapters_are_refused():
    class Embeddings(nn.Module):
        def get_output_embeddings(self):
            return None

    with pytest.raises(ValueError, match="Embeddings has no Linear layer for adapters"):
        lora.add_lora(Embeddings())


def test_adapters_beside_transposed_layers_are_trained_merged_and_load_again(task, tmp_path):
    """GPT-2 keeps its weights as (in, out): merged as a Linear's they would load transposed."""
    tokenizer, shape = byte_tokenizer(), {"n_embd": 32, "n_layer": 2, "n_head": 4}
    models = [tiny_lm("gpt2", tokenizer, seed, **shape) for seed in (1, 2)]
    pair = lora.lora_pair(make_pair(models[0], tokenizer, models[1], tokenizer), rank=4)
    history = distill(pair, task, "kd", **QUICK)
    assert history.evals[-1]["nll_teacher"] < history.evals[0]["nll_teacher"]
    lora.save_merged(pair, tmp_path / "student")
    loaded, _ = load_model(tmp_path / "student")
    ids = torch.arange(1, 9)[None]
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, pair.student.eval()(ids).logits)


def test_a_folder_of_adapters_alone_loads_as_its_base_with_them_merged(tokenizer, task, tmp_path):
    tiny = build_pair(tokenizer)
    tiny.save_student(tmp_path / "base")
    base, _ = load_model(tmp_path / "base")
    student = lora.add_lora(base, rank=4)
    distill(replace(tiny, student=student), task, "kd", **QUICK)
    student.save_pretrained(tmp_path / "adapters")
    loaded, loaded_tokenizer = load_model(tmp_path / "adapters")
    ids = torch.arange(1, 9)[None]
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, student.eval()(ids).logits)
    assert not any(hasattr(module, "lora_A") for module in loaded.modules())
    assert loaded_tokenizer.get_vocab() == tokenizer.get_vocab()
    load_pair(teacher=tmp_path / "base", student=tmp_path / "adapters")

    weights = load_file(tmp_path / "adapters" / "adapter_model.safetensors")
    weights.pop(next(iter(weights)))
    save_file(weights, tmp_path / "adapters" / "adapter_model.safetensors")
    with pytest.raises(OSError, match="its adapters do not fit"):
        load_model(tmp_path / "adapters")
    shutil.rmtree(tmp_path / "base")
    with pytest.raises(OSError, match="cannot load a model from .*base"):
        load_model(tmp_path / "adapters")


@pytest.mark.parametrize("library", BACKENDS)
def test_gradients_reach_the_adapters_under_every_layer_even_after_a_use(tokenizer, library):
    """bitsandbytes left to itself loses them on some CPUs once a model has answered something."""
    asked, broken = torch.tensor([[5, 6, 7, 8]]), quantize_with(model_of(tokenizer), 4, 32, library)
    plain = lora.add_lora(lora.merge_lora(lora.add_lora(copy.deepcopy(broken), 4)), 4)
    found = []
    for student in (lora.add_lora(broken, 4), plain):
        with torch.no_grad():
            student.eval()(asked)
        for name, weight in student.named_parameters():
            if "lora_B" in name:
                nn.init.constant_(weight, 0.03)
        student.train()(asked).logits.log_softmax(-1)[..., 7].mean().backward()
        found.append([w.grad for w in student.parameters() if w.requires_grad])
    for ours, wanted in zip(*found, strict=True):
        assert wanted.any()
        torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("library", ["minidistill", "torchao"])
def test_a_stopped_healing_resumes_to_the_bits_of_an_unbroken_one(
    tokenizer, task, tmp_path, library
):
    def fresh():
        return lora.quantized_pair(build_pair(tokenizer), 2, 32, rank=4, library=library)

    how = {**QUICK, "epochs": 2, "seed": 1}
    stopped, resumed, unbroken = fresh(), fresh(), fresh()
    distill(stopped, task, "distillm2", out=tmp_path, callback=lambda h: len(h.steps) == 4, **how)
    history = distill(resumed, task, "distillm2", out=tmp_path, **how)
    expected = distill(unbroken, task, "distillm2", **how)
    assert (history.steps, history.evals) == (expected.steps, expected.evals)
    for ours, wanted in zip(
        resumed.student.parameters(), unbroken.student.parameters(), strict=True
    ):
        if wanted.requires_grad:
            assert torch.equal(ours, wanted)


def test_a_checkpoint_holds_what_is_trained_and_no_more(tokenizer, task, tmp_path):
    pair = lora.quantized_pair(build_pair(tokenizer), 2, 32, rank=4)
    distill(pair, task, "kd", out=tmp_path, **QUICK)
    held = checkpoint.load_latest(tmp_path / "checkpoints")["student"]
    assert held.keys() == {n for n, w in pair.student.named_parameters() if w.requires_grad}


def test_a_student_whose_weights_are_all_frozen_is_refused(tokenizer, task):
    pair = build_pair(tokenizer)
    Q.quantize_model(pair.student, 4)
    with pytest.raises(ValueError, match="no weight to train: all of them are frozen"):
        distill(pair, task, "kd", **QUICK)


def test_runs_of_other_bits_know_each_other(tokenizer, task):
    def print_of(bits, library="minidistill"):
        pair = lora.quantized_pair(build_pair(tokenizer), bits, 32, rank=4, library=library)
        return fingerprint(pair, task, DistillConfig(), {})

    assert print_of(2) == print_of(2)
    assert len({print_of(2), print_of(3), print_of(2, "torchao"), print_of(3, "torchao")}) == 4


@pytest.mark.parametrize("library", BACKENDS)
def test_merging_is_refused_until_it_is_asked_for_in_full_precision(tokenizer, library):
    student = lora.add_lora(quantize_with(with_biases(tokenizer), 4, 32, library), rank=4)
    for name, weight in student.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.1)
    with pytest.raises(
        ValueError, match="without being rounded away; lora.merge_lora makes a copy"
    ):
        student.merge_and_unload()
    plain, asked = lora.merge_lora(student), torch.tensor([[5, 6, 7, 8]])
    assert not Q.is_quantized(plain)
    assert plain.lm_head.weight is plain.model.embed_tokens.weight
    with torch.no_grad():
        torch.testing.assert_close(plain(asked).logits, student(asked).logits, atol=2e-4, rtol=1e-3)
    assert Q.is_quantized(student)


def test_what_was_healed_and_saved_is_loaded_again(tokenizer, task, tmp_path):
    pair = lora.quantized_pair(build_pair(tokenizer), 2, 32, rank=4)
    distill(pair, task, "kd", **QUICK)
    quantization.save_packed(pair.student.get_base_model(), tmp_path / "broken.safetensors")
    pair.student.save_pretrained(tmp_path / "student")
    again = lora.load_quantized_with_lora(build_pair(tokenizer).teacher, tmp_path)
    asked = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        torch.testing.assert_close(again(asked).logits, pair.student(asked).logits)
    words = "adapters that were trained beside the quantized weights .*load_quantized_with_lora loads both"
    with pytest.raises(ValueError, match=words):  # they belong to no whole model
        load_model(tmp_path / "student")


@pytest.mark.parametrize("library", ["minidistill", "torchao"])
def test_experts_that_stay_as_they_are_are_said(library):
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2}
    mixture = tiny_lm("mixtral", byte_tokenizer(), **experts)
    with pytest.warns(UserWarning, match=r"the experts, 68% of the weights, stay as they are"):
        quantize_with(mixture, 4, 32, library)


@pytest.mark.parametrize(
    ("package", "use", "extra"),
    [
        ("peft", lora.add_lora, "adapt"),
        ("torchao", lambda model: quantize_with(model, 4, 32, "torchao"), "adapt"),
        ("bitsandbytes", lambda model: quantize_with(model, 4, 32, "bitsandbytes"), "adapt"),
    ],
)
def test_a_missing_package_is_answered_with_the_extra_that_installs_it(
    tokenizer, hide, package, use, extra
):
    hide(package)
    with pytest.raises(ModuleNotFoundError, match=rf'pip install "minidistill\[{extra}\]"'):
        use(model_of(tokenizer))


# --- the tiny teacher ---------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def tiny():
    return load_pair("instruct")


def test_the_tiny_teacher_bears_four_bits_and_not_two(tiny, task):
    """What the lesson builds on, on few prompts: NLL on references by width."""
    references = encode_references(tiny.tokenizer, task.test, 0)
    prompts = [encode_prompt(tiny.tokenizer, e.prompt) for e in task.test]
    whole = nll(tiny.teacher, tiny, prompts, references)

    def broken(bits):
        return nll(quantize_with(copy.deepcopy(tiny.teacher), bits), tiny, prompts, references)

    assert abs(broken(8) - whole) < 0.005
    assert abs(broken(4) - whole) < 0.01
    assert broken(2) > whole + 0.08


def test_a_broken_and_adapted_model_writes_like_any_other(tiny, prompts):
    student = lora.add_lora(quantize_with(copy.deepcopy(tiny.teacher), 4), rank=2)
    pair = make_pair(tiny.teacher, tiny.tokenizer, student, tiny.tokenizer)
    said = sample(pair.student, prompts[:4], pair, temperature=0)
    assert all(1 < len(response) <= 48 for response in said)
