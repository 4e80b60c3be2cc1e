"""On a CUDA device: the numbers of the CPU, whole runs, resumption, and that nothing stays in memory."""

import copy
import math
from dataclasses import replace

import pytest
import torch

from minidistill import distill, load_pair
from minidistill.applications.quantization import load_packed, quantize_model, save_packed
from minidistill.applications.speculative import speculate
from minidistill.evaluation import make_probe
from minidistill.experiments.worlds import load_world
from minidistill.generation import sample, speculative_drafts, typical_acceptance
from minidistill.logprobs import collate, response_log_probs
from minidistill.models import Pair
from minidistill.models import pair as pairs
from minidistill.objectives import METHODS
from minidistill.runlog import environment_info
from tests.conftest import build_pair

pytestmark = pytest.mark.gpu

QUICK = {"epochs": 1, "batch_size": 4, "max_new_tokens": 6, "progress": False}
FROM_FILE = ["sft", "seqkd", "kd", "skl", "srkl", "rkl"]  # nothing the student writes


@pytest.fixture(autouse=True)
def full_float32():
    """No TF32: what is compared is the code, not a shorter mantissa."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


@pytest.fixture
def cpu(monkeypatch):
    """`cpu()`: from then on pairs are put on the CPU."""
    return lambda: monkeypatch.setattr(pairs, "pick_device", lambda: torch.device("cpu"))


@pytest.fixture
def taught() -> Pair:
    """A teacher that answers and a start that tries to."""
    return load_pair("instruct")


def test_a_pair_is_put_on_the_device_and_the_log_names_it(pair):
    devices = {w.device.type for m in (pair.teacher, pair.student) for w in m.parameters()}
    assert devices == {"cuda"} == {pair.device.type}
    assert environment_info()["device"] == f"cuda ({torch.cuda.get_device_name()})"


# --- the CPU's numbers ------------------------------------------------------------------------------
@pytest.mark.parametrize("name", FROM_FILE)
def test_the_first_loss_and_gradient_are_those_of_the_cpu(tokenizer, few, cpu, name):
    there = build_pair(tokenizer)
    how = {**QUICK, "batch_size": 8}
    tgo = sample(there.teacher, [there.encode(e) for e in few.train], there, max_new_tokens=6)
    ours = distill(there, few, name, tgo=tgo, **how).steps[0]
    cpu()
    theirs = distill(build_pair(tokenizer), few, name, tgo=tgo, **how).steps[0]
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
    assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-3)


def test_greedy_responses_are_those_of_the_cpu(taught, cpu):
    prompts = [taught.encode(e) for e in load_world("instruct").test[:64]]
    how = {"temperature": 0.0}
    ours = sample(taught.teacher, prompts, taught, **how)
    cpu()
    pair = load_pair("instruct")
    theirs = sample(pair.teacher, prompts, pair, **how)
    assert sum(a == b for a, b in zip(ours, theirs, strict=True)) >= 62  # ties may fall elsewhere


def test_half_precision_models_are_scored_in_float32(taught):
    prompts = [taught.encode(e) for e in load_world("instruct").test[:16]]
    responses = sample(taught.teacher, prompts, taught, temperature=0.0)
    batch = collate(prompts, responses, taught.pad_token_id, taught.device)
    exact = response_log_probs(taught.teacher, batch, taught.vocab_size)
    half = response_log_probs(taught.teacher.bfloat16(), batch, taught.vocab_size)
    assert half.dtype == torch.float32
    torch.testing.assert_close(
        half.logsumexp(-1), torch.zeros_like(half[..., 0]), atol=1e-5, rtol=0
    )
    assert float((half.exp() - exact.exp()).abs().sum(-1)[batch.mask.bool()].mean()) < 0.05


# --- whole runs -------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains(pair, few, name):
    teacher = copy.deepcopy(pair.teacher.state_dict())
    history = distill(pair, few, name, **QUICK)
    assert len(history.steps) == 2
    assert all(math.isfinite(step["loss"]) and step["loss"] > 0 for step in history.steps)
    assert all(torch.equal(w, teacher[k]) for k, w in pair.teacher.state_dict().items())


def test_kd_lowers_the_nll_that_it_minimises(taught):
    task = load_world("instruct")
    task = replace(task, train=task.train[:1600], test=task.test[:100])
    history = distill(taught, task, "kd", epochs=4, batch_size=32, lr=2e-3, progress=False)
    first, last = (history.evals[i]["nll_teacher"] for i in (0, -1))
    assert last < first - 0.05


@pytest.mark.parametrize("name", ["kd", "distillm2"])
def test_a_stopped_run_resumes_to_the_weights_of_an_unbroken_one(tokenizer, task, tmp_path, name):
    how = {**QUICK, "epochs": 3, "batch_size": 8}
    resumed, unbroken = build_pair(tokenizer), build_pair(tokenizer)
    distill(resumed, task, name, out=tmp_path, callback=lambda h: len(h.steps) >= 7, **how)
    resumed = build_pair(tokenizer)
    history = distill(resumed, task, name, out=tmp_path, **how)
    expected = distill(unbroken, task, name, **how)
    assert len(history.steps) == len(expected.steps)
    ours, theirs = resumed.student.state_dict(), unbroken.student.state_dict()
    for key, weight in ours.items():  # a gather's backward adds in any order: no bits
        torch.testing.assert_close(weight, theirs[key], atol=1e-3, rtol=1e-2)


def test_the_probe_is_drawn_on_the_device_again_alike(pair, few):
    first, again = (make_probe(pair, few, seed=5) for _ in range(2))
    assert first.to_dict() == again.to_dict()


# --- applications -----------------------------------------------------------------------------------
def test_speculation_writes_what_the_target_would(taught):
    for example in load_world("instruct").test[:8]:
        prompt = taught.encode(example)
        alone = sample(taught.teacher, [prompt], taught, temperature=0.0)[0]
        written = speculate(taught, prompt, draft_length=4, max_new_tokens=48, temperature=0.0)
        assert written.tokens == alone


def test_drafts_with_the_teacher_are_written_on_the_device(pair, prompts):
    rows = speculative_drafts(prompts[:6], pair, typical_acceptance(0.3), max_new_tokens=8)
    assert len(rows) == 6
    assert all(len(row) <= 8 for row in rows)


@pytest.mark.parametrize("bits", [2, 4])
def test_packed_weights_come_back_to_the_device(taught, tmp_path, bits):
    model = taught.student
    quantize_model(model, bits, 16)
    save_packed(model, tmp_path / "packed")
    fresh = load_pair("instruct")
    load_packed(fresh.student, tmp_path / "packed")
    prompts = [fresh.encode(e) for e in load_world("instruct").test[:16]]
    ours, theirs = (sample(p.student, prompts, p, temperature=0.0) for p in (taught, fresh))
    assert fresh.device.type == "cuda"
    assert ours == theirs


# --- memory -----------------------------------------------------------------------------------------
def test_a_run_leaves_nothing_on_the_device(tokenizer, few):
    def bytes_left():
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()

    pair = build_pair(tokenizer)
    distill(pair, few, "kd", **QUICK)
    before = bytes_left()
    for seed in range(3):
        distill(pair, few, "distillm2", seed=seed, **QUICK)
    pair.student.zero_grad(set_to_none=True)
    assert bytes_left() <= before + 2**20
