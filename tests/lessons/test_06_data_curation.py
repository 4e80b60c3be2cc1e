"""Lesson 06: what two writers say, and what is left of a text, over epsilon."""

import pytest
import torch

from minidistill.config import DistillConfig
from minidistill.generation import speculative_mixture, typical_acceptance
from minidistill.lessons import lesson_06_data_curation as lesson_06
from minidistill.tasks import Task

P, Q = torch.tensor(lesson_06.TEACHER), torch.tensor(lesson_06.STUDENT)


def test_6_2_distances_at_the_ends():
    found = lesson_06.distances(P, Q, [0.0, 1.0])
    assert found["student"][0] == pytest.approx(0.0, abs=1e-6)
    at_one = torch.tensor([0.15, 0, 0, 0]) + 0.85 * P  # only the likeliest may stay
    assert found["teacher"][1] == pytest.approx(float((at_one - P).abs().sum() / 2), abs=1e-6)
    assert found["teacher"][1] > 0.05


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 1.0])
def test_6_1_the_slider_draws_who_may_stay_and_what_is_said(epsilon):
    left, right = lesson_06.epsilon_explorer()(epsilon).axes
    stays = typical_acceptance(epsilon)(P).tolist()
    names = [label.get_text() for label in left.get_xticklabels()]
    assert [name.endswith("stays") for name in names] == stays
    heights = [bar.get_height() for bar in left.containers[2]]
    assert heights == pytest.approx(speculative_mixture(P, Q, typical_acceptance(epsilon)).tolist())
    assert right.lines[-1].get_xdata()[0] == epsilon


def test_every_source_is_written_and_read_by_both_models(shared_pair, task):
    few = Task("few", task.train[:4], task.test[:2], lambda prompt, text: float(len(text) > 3))
    found = lesson_06.sample_all_sources(shared_pair, few, (0.3,))
    assert list(found) == ["sgo", "tgo", "best_of_n_tgo", "reference", "epsilon 0.3"]
    for source in found.values():
        assert len(source.texts) == 4
        assert 0 <= source.right <= 1
    assert found["tgo"].nll_teacher_model < found["sgo"].nll_teacher_model
    assert found["sgo"].nll_student_model < found["tgo"].nll_student_model


def test_6_1_the_share_that_stays_is_counted_on_written_words_alone(shared_pair, task):
    few = Task("few", task.train[:4], task.test[:2], lambda prompt, text: 0.0)
    how = DistillConfig(max_new_tokens=6)
    drafts, taught = (
        lesson_06.SourceSample(shared_pair, few, name, how) for name in ("sgo", "tgo")
    )
    mixed = [taught.ids[0][:5], drafts.ids[1][:1], taught.ids[2][:2], drafts.ids[3][:3]]
    drafts.ids = mixed  # unequal lengths, so that there is padding, and words of either kind
    shares = lesson_06.acceptance_by_epsilon(shared_pair, drafts, (0.0, 0.3, 1.0))
    kept = []
    for x, y in zip(drafts.prompts, drafts.ids, strict=True):
        logits = shared_pair.teacher(torch.tensor([[*x, *y]])).logits[0, len(x) - 1 : -1]
        kept += (
            typical_acceptance(0.3)(logits.softmax(-1))
            .gather(-1, torch.tensor(y)[:, None])
            .tolist()
        )
    assert len(kept) == 11
    assert 0 < shares[1] < 1
    assert shares[1] == pytest.approx(sum(k[0] for k in kept) / len(kept))
    assert shares[0] == 1.0
    assert shares == sorted(shares, reverse=True)
