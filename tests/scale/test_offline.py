"""Offline teachers: buckets by definition, runs without a teacher, refusals, what a kill leaves."""

import json

import pytest
import torch
from safetensors.torch import load_file

from minidistill import distill, load_model, sources
from minidistill import divergences as D
from minidistill.models import make_pair, single_model
from minidistill.runlog import atomic_write
from minidistill.scale import offline, responses, teacher_cache
from minidistill.scale.offline import offline_pair
from minidistill.scale.teacher_cache import into_buckets, load_teacher_cache, write_teacher_cache
from minidistill.scale.trainer import DistillTrainer, DistillTrainingArguments
from minidistill.tasks import Example, Task, write_examples, write_jsonl
from minidistill.utils import data_dir
from tests.commands import call
from tests.scale.peak import peak_bytes
from tests.tiny import byte_tokenizer, tiny_lm

TASK = Task(
    "t",
    [Example(f"prompt {i}", (f"answer {i}",)) for i in range(6)],
    [Example(f"held {i}", ("y",)) for i in range(2)],
)
SAMPLING = {"max_new_tokens": 6}
HOW = {"epochs": 2, "batch_size": 4, "lr": 1e-3, "progress": False, "seed": 3, **SAMPLING}
DIVERGENCES = {
    "kl": D.kl,
    "reverse_kl": D.reverse_kl,
    "jsd": lambda p, q: D.jsd(p, q, 0.3),
    "skew_kl": lambda p, q: D.skew_kl(p, q, 0.1),
    "skew_reverse_kl": lambda p, q: D.skew_reverse_kl(p, q, 0.1),
}


@pytest.fixture(scope="module")
def models():
    tokenizer = byte_tokenizer()
    return tokenizer, tiny_lm("llama", tokenizer, 1)


def student():
    return tiny_lm("llama", byte_tokenizer(), 2)


def write(models, folder, task=TASK, **how):
    tokenizer, teacher = models
    return write_teacher_cache(teacher, tokenizer, task, folder, **{**SAMPLING, "top_k": 8, **how})


def weights(model):
    return torch.cat([w.detach().flatten() for w in model.parameters()])


# --- buckets --------------------------------------------------------------------------------------------
def log_probs(*shape, scale=3.0):
    generator = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(*shape, generator=generator, dtype=torch.float64)
    return logits.log_softmax(-1)


def test_14_1_the_last_bucket_is_what_is_left():
    table = log_probs(5, 40)
    ids = table.topk(4).indices
    found = into_buckets(table, ids).exp()
    torch.testing.assert_close(found[:, :4], table.exp().gather(-1, ids), rtol=0, atol=1e-12)
    torch.testing.assert_close(found.sum(-1), torch.ones(5).double(), rtol=0, atol=1e-12)


def test_a_tail_of_almost_nothing_keeps_its_digits_and_its_gradient():
    logits = torch.tensor(
        [[60.0, 0.0, 0.0]], requires_grad=True
    )  # 1 − p(first) rounds to 0 in float32
    tail = into_buckets(logits.log_softmax(-1), torch.tensor([[0]]))[0, 1]
    assert tail.item() == pytest.approx(-60 + torch.tensor(2.0).log().item(), rel=1e-6)
    tail.backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[-1.0, 0.5, 0.5]]))


@pytest.mark.parametrize("name", DIVERGENCES)
def test_buckets_never_tell_more_than_tables_and_all_of_it_at_the_vocabulary(name):
    """The data processing inequality: merging outcomes cannot raise an f-divergence."""
    p, q = log_probs(200, 40), log_probs(201, 40)[1:]
    whole, last = DIVERGENCES[name](p, q), torch.zeros(200, dtype=torch.float64)
    order = p.topk(40).indices
    for k in (1, 4, 16, 39, 40):
        ids = order[:, :k]
        found = DIVERGENCES[name](into_buckets(p, ids), into_buckets(q, ids))
        assert (found >= last - 1e-12).all()
        last = found
    torch.testing.assert_close(last, whole, rtol=0, atol=1e-12)


# --- runs -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["kd", "rkl", "skl", "srkl", "seqkd", "sft"])
def test_with_all_of_the_vocabulary_a_run_is_the_one_with_the_teacher(name, models, tmp_path):
    tokenizer, teacher = models
    cache = write(models, tmp_path, top_k=single_model(teacher, tokenizer).vocab_size)
    ours = offline_pair(student(), tokenizer, cache)
    assert ours.teacher is None
    live = make_pair(teacher, tokenizer, student(), tokenizer)
    tgo = cache.responses(cache.find([live.encode(example) for example in TASK.train]))
    found, truth = distill(ours, TASK, name, **HOW), distill(live, TASK, name, tgo=tgo, **HOW)
    for a, b in zip(found.steps, truth.steps, strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-6)
    torch.testing.assert_close(weights(ours.student), weights(live.student), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["kd", "skl", "seqkd"])
def test_a_large_vocabulary_is_read_by_hidden_states_with_the_same_result(
    name, models, tmp_path, monkeypatch
):
    cache = write(models, tmp_path)
    by_table = offline_pair(student(), models[0], cache)
    truth = distill(by_table, TASK, name, **HOW)
    monkeypatch.setattr(responses, "LARGE", 1)
    monkeypatch.setattr(offline.buckets_of_states, "__defaults__", (3,))  # several chunks
    monkeypatch.setattr(offline.Rollouts, "read", None)
    by_states = offline_pair(student(), models[0], cache)
    found = distill(by_states, TASK, name, **HOW)
    for a, b in zip(found.steps, truth.steps, strict=True):
        assert a == pytest.approx(b, rel=1e-3, abs=1e-5)
    torch.testing.assert_close(
        weights(by_states.student), weights(by_table.student), rtol=0, atol=2e-4
    )


def test_the_peak_of_buckets_from_states_does_not_grow_with_the_tokens():
    def peak(tokens):
        hidden, head = torch.randn(tokens, 16, requires_grad=True), torch.randn(5000, 16)
        ids = torch.randint(5000, (tokens, 8))
        return peak_bytes(lambda: offline.buckets_of_states(hidden, head, ids, 32).sum().backward())

    assert peak(512) < 1.3 * peak(64)


def test_responses_and_held_out_ones_are_the_caches(models, tmp_path):
    cache = write(models, tmp_path)
    pair = offline_pair(student(), models[0], cache)
    history = distill(pair, TASK, "kd", **HOW)
    held_out = [pair.encode(example) for example in TASK.test]
    assert history.probe.tgo == cache.responses(cache.find(held_out))
    assert history.evals[-1]["nll_teacher"] < history.evals[0]["nll_teacher"]


def test_what_is_kept_is_what_the_teacher_says(models, tmp_path):
    tokenizer, teacher = models
    cache = write(models, tmp_path, top_k=5)
    pair = single_model(teacher, tokenizer)
    prompts = [pair.encode(example) for example in TASK.train]
    places = cache.find(prompts)
    known = cache.top_k(places)
    for row, (prompt, response) in enumerate(zip(prompts, cache.responses(places), strict=True)):
        ids = torch.tensor([[*prompt, *response]])
        with torch.no_grad():
            logits = teacher(input_ids=ids).logits[0, len(prompt) - 1 : -1, : pair.vocab_size]
        table, size = logits.float().log_softmax(-1), len(response)
        best = table.topk(5)
        torch.testing.assert_close(known.log_p[row, :size, :5], best.values, rtol=0, atol=1e-4)
        rest = 1 - best.values.double().exp().sum(-1)
        torch.testing.assert_close(
            known.log_p[row, :size, 5].double().exp(), rest, rtol=1e-3, atol=1e-6
        )
        said = table[range(size), response]
        torch.testing.assert_close(known.written[row, :size], said, rtol=0, atol=1e-4)


def test_the_trainer_takes_a_cache_for_a_teacher(models, tmp_path):
    cache = write(models, tmp_path / "cache")
    args = DistillTrainingArguments(
        str(tmp_path / "run"), method="kd", max_new_tokens=6, per_device_train_batch_size=4,
        num_train_epochs=2, learning_rate=1e-3, use_cpu=True, report_to=[], disable_tqdm=True,
        save_strategy="no",
    )  # fmt: skip
    trainer = DistillTrainer(
        student(), cache, args, TASK.train, TASK.test, processing_class=models[0]
    )
    before = trainer.evaluate()["eval_nll_teacher"]
    trainer.train()
    assert trainer.rollouts.responses["tgo"] == cache.responses(trainer.rollouts.places)
    assert trainer.evaluate()["eval_nll_teacher"] < before


# --- refusals -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["gkd", "imitkd", "cald", "distillm", "distillm2", "dpkd"])
def test_a_method_that_asks_about_other_responses_is_refused_first(
    name, models, tmp_path, monkeypatch
):
    pair = offline_pair(student(), models[0], write(models, tmp_path))
    monkeypatch.setattr(sources, "sample", None)
    with pytest.raises(ValueError, match=f"{name} asks the teacher about .*sgo|replay"):
        distill(pair, TASK, name, **HOW)


def test_responses_alone_are_enough_for_seqkd_and_not_for_kd(models, tmp_path):
    cache = write(models, tmp_path, top_k=0)
    assert distill(offline_pair(student(), models[0], cache), TASK, "seqkd", **HOW).steps
    with pytest.raises(ValueError, match="holds responses alone: write it with top_k"):
        distill(offline_pair(student(), models[0], cache), TASK, "kd", **HOW)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weights": 3}, "other weights"),
        ({"template": "{{ 'x' + messages[0]['content'] }}"}, "other prompts or templates"),
        ({"task": Task("t", TASK.train[:3], TASK.test)}, "other prompts or templates"),
        ({"token": "<new>"}, "another tokenizer"),
        ({"top_k": 9}, "top_k 8, and this is 9"),
        ({"temperature": 0.5}, "temperature 1.0, and this is 0.5"),
    ],
)
def test_a_cache_is_not_gone_on_with_under_other_conditions(change, words, models, tmp_path):
    write(models, tmp_path)
    change, tokenizer = dict(change), byte_tokenizer()
    teacher = tiny_lm("llama", tokenizer, change.pop("weights", 1))
    if template := change.pop("template", None):
        tokenizer.chat_template = template
    if token := change.pop("token", None):
        tokenizer.add_tokens([token])
    with pytest.raises(ValueError, match=f"holds a cache made with {words}"):
        write((tokenizer, teacher), tmp_path, **change)


def test_a_student_of_another_tokenizer_or_template_or_sampling_is_refused(models, tmp_path):
    cache, other = write(models, tmp_path), byte_tokenizer()
    other.chat_template = "{{ 'x' + messages[0]['content'] }}"
    with pytest.raises(ValueError, match="prompt 1 is not in .*another chat template"):
        distill(offline_pair(student(), other, cache), TASK, "kd", **HOW)
    with pytest.raises(ValueError, match="was sampled with .*and this run says"):
        distill(offline_pair(student(), models[0], cache), TASK, "kd", **HOW, temperature=0.5)
    other.add_tokens(["<new>"])
    with pytest.raises(ValueError, match="another tokenizer"):
        offline_pair(student(), other, cache)


def test_a_folder_loads_as_what_it_is(models, tmp_path):
    write(models, tmp_path / "cache")
    with pytest.raises(ValueError, match="holds what a teacher wrote, not its weights"):
        load_model(tmp_path / "cache")
    with pytest.raises(FileNotFoundError, match="holds no finished cache"):
        load_teacher_cache(tmp_path)


def test_a_resumed_run_is_the_one_with_this_cache(models, tmp_path):
    for name, k in (("a", 8), ("b", 4)):
        write(models, tmp_path / name, top_k=k)
    distill(
        offline_pair(student(), models[0], tmp_path / "a"), TASK, "kd", out=tmp_path / "run", **HOW
    )
    pair = offline_pair(student(), models[0], tmp_path / "b")
    with pytest.raises(ValueError, match="holds a run of another student"):
        distill(pair, TASK, "kd", out=tmp_path / "run", **HOW)


def test_each_of_two_equal_prompts_has_its_own_response(models, tmp_path):
    """A held-out one too: it must not get what is trained on."""
    same = Task("t", [TASK.train[0]] * 2, [TASK.train[0]])
    cache = write(models, tmp_path, same)
    pair = offline_pair(student(), models[0], cache)
    prompts = [pair.encode(example) for example in same.train]
    first, second = cache.responses(cache.find(prompts))
    held_out = pair.held_out_responses(prompts[:1], same.test)[0]
    written = load_file(tmp_path / "part-00000.safetensors")["tokens"].tolist()
    assert written == [*first, *second, *held_out]
    history = distill(pair, same, "kd", **HOW)
    assert history.probe.tgo == [held_out]


def test_responses_that_the_teacher_has_not_read_are_refused(models, tmp_path):
    pair = offline_pair(student(), models[0], write(models, tmp_path))
    with pytest.raises(ValueError, match="leave tgo out"):
        distill(pair, TASK, "kd", tgo=[[5, 6]] * 6, **HOW)


def test_the_student_stops_where_the_teacher_did(models, tmp_path):
    tokenizer, teacher = byte_tokenizer(), tiny_lm("llama", byte_tokenizer(), 1)
    teacher.generation_config.eos_token_id = [tokenizer.eos_token_id, 65]
    pair = offline_pair(student(), tokenizer, write((tokenizer, teacher), tmp_path))
    assert pair.eos_token_ids == {tokenizer.eos_token_id, 65}
    assert set(pair.student.generation_config.eos_token_id) == {tokenizer.eos_token_id, 65}


def rescaled(teacher):
    teacher.config.rms_norm_eps = 0.1
    return teacher


@pytest.mark.parametrize("otherwise", [rescaled, lambda teacher: teacher.float()])
def test_the_same_weights_used_otherwise_are_another_teacher(otherwise, tmp_path):
    tokenizer = byte_tokenizer()
    teacher = tiny_lm("llama", tokenizer, 1).bfloat16()
    write((tokenizer, teacher), tmp_path)
    with pytest.raises(ValueError, match="holds a cache made with other weights"):
        write((tokenizer, otherwise(teacher)), tmp_path)


def test_parts_of_nobody_are_not_gone_on_with(models, tmp_path):
    write(models, tmp_path)
    (tmp_path / "cache.json").unlink()
    with pytest.raises(ValueError, match="nothing says of which teacher"):
        write(models, tmp_path)


def test_a_part_that_is_cut_or_gone_is_said_and_written_again(models, tmp_path, monkeypatch):
    monkeypatch.setattr(teacher_cache, "PROMPTS_A_PART", 3)
    write(models, tmp_path)
    whole, last = (path.read_bytes() for path in sorted(tmp_path.glob("part-*"))[1:])
    (tmp_path / "part-00001.safetensors").write_bytes(whole[:200])
    with pytest.raises(OSError, match="part-00001.safetensors is damaged"):
        distill(offline_pair(student(), models[0], tmp_path), TASK, "kd", **HOW)
    (tmp_path / "part-00002.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="has 2 of the 3 parts"):
        load_teacher_cache(tmp_path)
    write(models, tmp_path)
    assert (tmp_path / "part-00001.safetensors").read_bytes() == whole
    assert (tmp_path / "part-00002.safetensors").read_bytes() == last


def test_a_template_option_that_nothing_reads_is_refused(models, tmp_path):
    with pytest.raises(ValueError, match="no chat template that is used reads the option 'thnk'"):
        write(models, tmp_path, template_options={"thnk": False})


# --- a kill and the command line ------------------------------------------------------------------------
def test_a_write_that_was_cut_goes_on_where_it_was(models, tmp_path, monkeypatch):
    monkeypatch.setattr(teacher_cache, "PROMPTS_A_PART", 3)
    whole = write(models, tmp_path / "whole")
    made = []

    def cut(path, content):
        if len(made) == 1:
            raise KeyboardInterrupt
        made.append(path)
        atomic_write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(teacher_cache, "atomic_write", cut)
        with pytest.raises(KeyboardInterrupt):
            write(models, tmp_path / "cut")
    with pytest.raises(FileNotFoundError, match="no finished cache"):
        load_teacher_cache(tmp_path / "cut")
    first = made[0].stat().st_mtime_ns
    again = write(models, tmp_path / "cut")
    assert made[0].stat().st_mtime_ns == first
    assert again.about["tokens"] == whole.about["tokens"]
    same = Task("t", [TASK.train[0]] * 6, [])  # the second part is drawn by itself
    write(models, tmp_path / "same", same, top_k=0)
    draws = [
        load_file(path)["tokens"].tolist() for path in sorted((tmp_path / "same").glob("part-*"))
    ]
    assert len(draws) == 2
    assert draws[0] != draws[1]
    for path in sorted((tmp_path / "whole").glob("part-*")):
        assert path.read_bytes() == (tmp_path / "cut" / path.name).read_bytes()


def test_the_command_writes_and_distill_takes_the_folder(tmp_path):
    path, shipped = tmp_path / "prompts.jsonl", data_dir() / "instruct"
    write_jsonl(path, write_examples("instruct", 20, seed=5, held_out=False, references=2))
    how = ["--prompts", path, "--temperature", 0.8, "--max-new-tokens", 12]
    done = call(
        "cache-teacher", "--teacher", shipped / "teacher", *how, "--out", tmp_path / "cache"
    )
    assert done.returncode == 0, done.stderr
    assert "whole tables" in done.stdout
    more = ["--student", shipped / "student_0", "--teacher", tmp_path / "cache", "--method", "kd"]
    done = call("distill", *more, *how, "--epochs", 1, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["after"]["nll_teacher"] < result["before"]["nll_teacher"]
    assert result["answers"][0]["teacher"]
