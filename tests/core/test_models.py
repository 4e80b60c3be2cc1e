"""Pairs: what fits together, and what is refused."""

import copy
import json
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

from minidistill import distill
from minidistill.applications.preference import policy_and_reference
from minidistill.applications.quantization_backends import quantize_with
from minidistill.applications.vision.tiny_llava import TINY_LLAVA
from minidistill.experiments.teaching import model_presets
from minidistill.experiments.worlds import WORLD_RECIPES
from minidistill.generation import sample
from minidistill.models import (
    TINY,
    Pair,
    load_model,
    load_pair,
    make_pair,
    single_model,
    tiny_model,
    word_tokenizer,
)
from minidistill.tasks import WORLDS, Example, Task
from tests.conftest import sharpen
from tests.tiny import byte_tokenizer, tiny_lm


def test_a_pair_freezes_its_teacher_and_trains_its_student(pair):
    assert not pair.teacher.training
    assert not any(w.requires_grad for w in pair.teacher.parameters())
    assert all(w.requires_grad for w in pair.student.parameters())
    assert pair.vocab_size == len(pair.tokenizer)


def test_tokenizers_that_disagree_are_refused_with_the_first_differing_tokens():
    one, other = word_tokenizer(["cat", "dog", "fox"]), word_tokenizer(["cat", "fox", "dog"])
    models = [tiny_model("student", tokenizer, seed) for seed, tokenizer in enumerate((one, other))]
    with pytest.raises(ValueError, match="2 ids differ") as error:
        make_pair(models[0], one, models[1], other)
    assert "id 6: 'dog' / 'fox'" in str(error.value)


def test_a_tokenizer_with_more_tokens_is_refused():
    one, other = word_tokenizer(["cat"]), word_tokenizer(["cat", "dog"])
    models = [tiny_model("student", tokenizer, seed) for seed, tokenizer in enumerate((one, other))]
    with pytest.raises(ValueError, match="id 6: None / 'dog'"):
        make_pair(models[0], one, models[1], other)


@pytest.mark.parametrize("method", ["kd", "distillm2"])
def test_padded_widths_64_apart_are_cut_with_a_warning_and_train(tokenizer, task, method):
    teacher = sharpen(tiny_model("teacher", tokenizer, 1))
    teacher.resize_token_embeddings(len(tokenizer) + 64, mean_resizing=False)
    student = sharpen(tiny_model("student", tokenizer, 2))
    n = len(tokenizer)
    with pytest.warns(UserWarning, match=f"widths {n + 64} and {n} are cut to the {n} shared"):
        pair = make_pair(teacher, tokenizer, student, tokenizer)
    assert pair.vocab_size == n
    history = distill(pair, task, method, epochs=1, batch_size=24, max_new_tokens=4, progress=False)
    assert all(0 < step["loss"] < 20 for step in history.steps)


def test_equal_widths_give_no_warning(tokenizer):
    models = [tiny_model("student", tokenizer, seed) for seed in (1, 2)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_pair(models[0], tokenizer, models[1], tokenizer)


def test_a_model_is_not_its_own_teacher(tokenizer):
    model = tiny_model("student", tokenizer, 1)
    with pytest.raises(ValueError, match="same object"):
        make_pair(model, tokenizer, model, tokenizer)


def test_every_declared_end_token_stops_a_response(tokenizer):
    model = tiny_model("student", tokenizer, 1)
    model.generation_config.eos_token_id = [7, 8]
    assert Pair(None, model, tokenizer, len(tokenizer)).eos_token_ids == {1, 7, 8}


def test_without_a_pad_token_the_end_token_pads(tokenizer):
    bare = copy.deepcopy(tokenizer)
    bare.pad_token = None
    pair = Pair(None, tiny_model("student", tokenizer, 1), bare, len(tokenizer))
    assert pair.pad_token_id == tokenizer.eos_token_id


# --- presets ------------------------------------------------------------------------------------------
def test_a_preset_depends_on_its_seed_alone(tokenizer):
    before = torch.random.get_rng_state()
    first, again, other = (tiny_model("student", tokenizer, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    embeddings = [m.get_input_embeddings().weight for m in (first, again, other)]
    assert torch.equal(embeddings[0], embeddings[1])
    assert not torch.equal(embeddings[0], embeddings[2])


@pytest.mark.parametrize("world", WORLDS)
def test_the_shipped_teacher_is_three_to_fifteen_times_the_student(world):
    pair = load_pair(world)
    assert 3 <= pair.teacher.num_parameters() / pair.student.num_parameters() <= 15
    recipe = WORLD_RECIPES[world]
    assert set(model_presets(recipe).values()) <= set(TINY_LLAVA if recipe.multimodal else TINY)


def test_an_unknown_preset_names_the_nearest(tokenizer):
    with pytest.raises(ValueError, match="did you mean 'teacher'"):
        tiny_model("teachr", tokenizer, 0)


# --- loading ------------------------------------------------------------------------------------------
def test_an_unknown_pair_names_the_nearest():
    with pytest.raises(ValueError, match="unknown pair 'instrct'; did you mean 'instruct'"):
        load_pair("instrct")


@pytest.mark.parametrize("given", [{}, {"teacher": "x"}, {"student": "x"}])
def test_half_a_pair_is_refused(given):
    with pytest.raises(ValueError, match="both teacher= and student="):
        load_pair(**given)


@pytest.mark.parametrize("name", ["nowhere", "nowhere.gguf"])
def test_a_missing_model_is_named(tmp_path, name):
    with pytest.raises(FileNotFoundError, match="no model at") as error:
        load_model(tmp_path / name)
    assert name in str(error.value)


def test_a_folder_without_a_model_says_what_it_needs(tmp_path):
    with pytest.raises(OSError, match="config.json, model.safetensors"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", None),
        ("model.safetensors", b""),
        ("tokenizer.json", b"{}"),
        ("config.json", b"[]"),
    ],
)
def test_a_damaged_folder_is_named(tmp_path, pair, name, content):
    pair.student.save_pretrained(tmp_path)
    pair.tokenizer.save_pretrained(tmp_path)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(OSError, match="cannot load a model from") as error:
        load_model(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_a_pickle_that_is_none_and_a_padding_that_is_no_row_are_sentences(tmp_path, pair):
    for folder in (tmp_path / "pointer", tmp_path / "padded"):
        pair.student.save_pretrained(folder)
        pair.tokenizer.save_pretrained(folder)
    (tmp_path / "pointer" / "model.safetensors").unlink()
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (tmp_path / "pointer" / "pytorch_model.bin").write_text(pointer)
    config = tmp_path / "padded" / "config.json"
    rows = pair.student.config.vocab_size
    config.write_text(json.dumps({**json.loads(config.read_text()), "pad_token_id": rows}))
    for folder in (tmp_path / "pointer", tmp_path / "padded"):
        with pytest.raises(OSError, match="cannot load a model from"):
            load_model(folder)


def test_a_package_that_a_quantizer_needs_is_the_one_that_is_named(tmp_path, pair, monkeypatch):
    def wanting(*_, **__):
        raise ImportError("Loading a GPTQ model needs gptqmodel (`pip install gptqmodel`)\nmore")

    pair.student.save_pretrained(tmp_path)
    pair.tokenizer.save_pretrained(tmp_path)
    monkeypatch.setattr("minidistill.models.pair.load_complete", wanting)
    with pytest.raises(ModuleNotFoundError, match=r"needs gptqmodel \(`pip install gptqmodel`\)$"):
        load_model(tmp_path)


def test_a_student_in_a_few_bits_is_refused(tokenizer, pair):
    quantized = quantize_with(copy.deepcopy(pair.teacher), 4, 32, "torchao")
    with pytest.raises(
        ValueError, match=r"the student is quantized \(model.layers.0.*full precision"
    ):
        make_pair(pair.teacher, tokenizer, quantized, tokenizer)


def test_padding_needs_a_token_that_has_an_embedding():
    """A [PAD] was added to the tokenizer, and the models were not resized."""
    tokenizer = byte_tokenizer(extra=["[PAD]"])
    tokenizer.pad_token = "[PAD]"
    teacher, student = (
        tiny_lm("llama", tokenizer, i, vocab_size=len(tokenizer) - 1, pad_token_id=None)
        for i in (1, 2)
    )
    pair = make_pair(teacher, tokenizer, student, tokenizer)
    assert tokenizer.pad_token_id == pair.embedding_rows == len(tokenizer) - 1
    assert pair.pad_token_id == tokenizer.eos_token_id
    prompts = [Example("a"), Example("a longer one")] * 4
    distill(pair, Task("t", prompts, prompts[:2]), "kd", epochs=1, max_new_tokens=3, progress=False)
    tokenizer.pad_token = tokenizer.eos_token = None
    assert pair.pad_token_id == 0


def test_a_token_without_an_embedding_is_refused_in_references_too():
    tokenizer = byte_tokenizer(extra=["[NEW]"])
    wide = tiny_lm("llama", tokenizer, 1)
    narrow = tiny_lm("llama", tokenizer, 2, vocab_size=len(tokenizer) - 1)
    for models in ((wide, narrow), (narrow, wide)):
        pair = make_pair(
            models[0], tokenizer, copy.deepcopy(models[1]).requires_grad_(True), tokenizer
        )
        said = [Example("a", ("b [NEW]",))] * 4
        with pytest.raises(
            ValueError, match=r"reference 'b \[NEW\]' has the token '\[NEW\]'.*resize"
        ):
            distill(pair, Task("t", said, said[:1]), "sft", epochs=1, progress=False)
        with pytest.raises(ValueError, match="the prompt 'b .NEW.' has the token"):
            pair.encode("b [NEW]")


def test_a_tokenizer_with_holes_keeps_its_highest_tokens():
    tokenizer = byte_tokenizer()
    top = len(tokenizer) + 5
    tokenizer = byte_tokenizer(ids={"<stop>": top}, eos="<stop>")
    model = tiny_lm("llama", tokenizer, 1, vocab_size=top + 1)
    assert len(tokenizer) < top == tokenizer.eos_token_id
    assert single_model(model, tokenizer).vocab_size == top + 1
    assert policy_and_reference(model, tokenizer).vocab_size == top + 1


def test_weights_that_are_missing_are_not_drawn_at_random(tmp_path, pair):
    pair.student.save_pretrained(tmp_path)
    pair.tokenizer.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    kept = {k: w for k, w in load_file(path).items() if "layers.0." not in k}
    save_file(kept, path, {"format": "pt"})
    with pytest.raises(
        OSError, match=r"of its weights are missing, the first is model\.layers\.0\."
    ):
        load_model(tmp_path)


def test_a_config_that_asks_for_tuples_is_loaded_all_the_same(tmp_path, pair):
    pair.save_student(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "return_dict": False}))
    loaded = load_pair(teacher=tmp_path, student=tmp_path)
    assert sample(loaded.student, [loaded.encode("cat")], loaded, max_new_tokens=2)


def test_a_saved_pair_loads_with_the_same_weights(tmp_path, pair, prompts):
    for name in ("teacher", "student"):
        getattr(pair, name).save_pretrained(tmp_path / name)
        pair.tokenizer.save_pretrained(tmp_path / name)
    loaded = load_pair(teacher=tmp_path / "teacher", student=tmp_path / "student")
    assert loaded.vocab_size == pair.vocab_size
    for name in ("teacher", "student"):
        old, new = getattr(pair, name).state_dict(), getattr(loaded, name).state_dict()
        assert all(torch.equal(old[key], new[key]) for key in new)
    how = {"temperature": 0, "max_new_tokens": 4}
    ours = sample(pair.student, prompts[:4], pair, **how)
    assert sample(loaded.student, prompts[:4], loaded, **how) == ours
    assert loaded.tokenizer.chat_template == pair.tokenizer.chat_template
