"""Lesson 14: what its formulas count, what its figures draw, and what the shipped log says."""

import pytest
import torch

from minidistill import divergences as D
from minidistill.lessons import lesson_14_real_models as lesson
from minidistill.lessons import plots
from minidistill.runlog import read_log
from minidistill.scale import fused
from minidistill.utils import data_dir


@pytest.fixture(scope="module")
def bench():
    return read_log(data_dir() / "benchmarks" / "losses.json")


def log_probs(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)


def test_14_2_is_what_autograd_and_the_fused_loss_find():
    states = [x.double() for x in lesson._states(7)]
    hidden = states[2].clone().requires_grad_()
    args = (states[0], states[1], hidden, states[3])
    whole = D.kl((args[0] @ args[1].T).log_softmax(-1), (hidden @ args[3].T).log_softmax(-1)).sum()
    by_hand = lesson.hidden_gradient(*states)
    for loss in (whole, fused.divergence("kl", *args, chunk=3).sum()):
        (found,) = torch.autograd.grad(loss, hidden)
        torch.testing.assert_close(found, by_hand)


def test_14_3_counts_sixteen_bytes_a_trained_weight_and_four_a_frozen_one():
    none = lesson.step_memory(0, 0, 0, 0)
    assert set(none.values()) == {0.0}
    add = lambda **size: sum(lesson.step_memory(**{**ZERO, **size}).values())  # noqa: E731
    assert add(student=1) == 16
    assert add(teacher=1) == 4
    assert add(tokens=3, vocab=5, copies=2) == 4 * 2 * 15
    adapters = lesson.step_memory(0, 100, 0, 0, trained=0.01)
    assert (adapters["student"], adapters["gradients"], adapters["AdamW"]) == (400, 4, 8)


ZERO = {"teacher": 0, "student": 0, "tokens": 0, "vocab": 0}


def test_14_4_by_hand():
    """One prompt of 10 tokens, 20 of a response, two epochs, on one card of round numbers."""
    card = lesson.Cluster(gpus=1, flops=1000, bandwidth=100, used=0.5, rows=2)
    how = {"prompts": 1, "prompt_tokens": 10, "response_tokens": 20, "epochs": 2, "cluster": card}
    hours = lesson.run_cost(5, 3, **how)
    seconds = {name: 3600 * value for name, value in hours.items()}
    assert seconds["teacher writes"] == pytest.approx(20 * 2 * 5 / 100 / 2)
    assert seconds["student writes"] == pytest.approx(2 * 20 * 2 * 3 / 100 / 2)
    assert seconds["teacher reads"] == pytest.approx(2 * 2 * 30 * 2 * 5 / 500)  # both sides
    assert seconds["student learns"] == pytest.approx(2 * 2 * 30 * 6 * 3 / 500)
    alone = lesson.run_cost(5, 3, on_policy=False, **how)
    assert alone["student writes"] == 0
    assert alone["teacher reads"] == pytest.approx(hours["teacher reads"] / 2)
    on_disk = lesson.run_cost(5, 3, on_policy=False, on_disk=True, **how)
    assert on_disk == {**alone, "teacher reads": pytest.approx(alone["teacher reads"] / 2)}
    with pytest.raises(ValueError, match="a teacher on disk cannot read"):
        lesson.run_cost(5, 3, on_disk=True, **how)
    assert alone["student learns"] == pytest.approx(hours["student learns"] / 2)


def test_one_word_alone_keeps_nothing_and_a_bucket_keeps_a_growing_share():
    p, q = log_probs(0, 50, 30), log_probs(1, 50, 30)
    sizes = (1, 4, 16, 30)
    kept = lesson.kept_divergence(p, q, sizes)
    assert kept == sorted(kept)
    assert kept[-1] == pytest.approx(1)
    alone = lesson.kept_divergence(p, q, sizes, lesson.renormalised)
    assert alone[0] == pytest.approx(0, abs=1e-6)
    assert all(a < b for a, b in zip(alone[:-1], kept[:-1], strict=True))


def test_the_log_shows_a_flat_peak(bench):
    rows = [r for r in bench["rows"] if r["loss"] == lesson.FUSED]
    assert rows[-1]["tokens"] == 8 * rows[0]["tokens"]
    assert rows[-1]["peak"] < 1.1 * rows[0]["peak"]
    assert 4 < lesson.copies_of_a_table(bench["rows"], bench["vocab"]) < 12


def test_figures_show_what_they_are_given(bench):
    left, right = plots.axes(2)
    lesson.draw_losses(bench["rows"], 1024, left, right)
    assert [t.get_text() for t in left.get_yticklabels()] == list(lesson.NAMES.values())
    assert len(right.get_lines()) == len(lesson.NAMES)
    figure = lesson.memory_explorer(8.0)(tokens=4096)
    texts = [t.get_text() for t in figure.axes[0].texts]
    assert "57% red" in texts[0]
    assert float(texts[1].split()[0]) < float(texts[0].split()[0])
    assert "(14.3)" in figure.axes[0].get_title(loc="left")
    hours = [t.get_text() for t in lesson.cost_explorer(70, 1.5, 256, 4).axes[0].texts]
    by_way = dict(zip(lesson.WAYS, (float(text.split()[0]) for text in hours), strict=True))
    assert by_way["KD, on disk"] < by_way["KD"] < by_way["DistiLLM-2"]
