"""Lesson 06: what two writers say, over epsilon, and how differences from CALD are drawn."""

import pytest
import torch

from minidistill import claims, curation, plots
from minidistill.generation import corrected, typical
from minidistill.tasks import Task

P, Q = torch.tensor(curation.TEACHER), torch.tensor(curation.STUDENT)


def test_6_2_distances_at_the_ends():
    found = curation.distances(P, Q, [0.0, 1.0])
    assert found["student"][0] == pytest.approx(0.0, abs=1e-6)
    at_one = torch.tensor([0.15, 0, 0, 0]) + 0.85 * P  # only the likeliest may stay
    assert found["teacher"][1] == pytest.approx(float((at_one - P).abs().sum() / 2), abs=1e-6)
    assert found["teacher"][1] > 0.05


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 1.0])
def test_6_1_the_slider_draws_who_may_stay_and_what_is_said(epsilon):
    left, right = curation.epsilon_explorer()(epsilon).axes
    stays = typical(epsilon)(P).tolist()
    names = [label.get_text() for label in left.get_xticklabels()]
    assert [name.endswith("stays") for name in names] == stays
    heights = [bar.get_height() for bar in left.containers[2]]
    assert heights == pytest.approx(corrected(P, Q, typical(epsilon)).tolist())
    assert right.lines[-1].get_xdata()[0] == epsilon


def test_every_source_is_written_and_read_by_both_models(shared_pair, task):
    few = Task("few", task.train[:4], task.test[:2], lambda prompt, text: float(len(text) > 3))
    found = curation.write_all(shared_pair, few, (0.3,))
    assert list(found) == ["sgo", "tgo", "best_tgo", "reference", "epsilon 0.3"]
    for source in found.values():
        assert len(source.texts) == 4
        assert 0 <= source.right <= 1
    assert found["tgo"].nll_teacher_model < found["sgo"].nll_teacher_model
    assert found["sgo"].nll_student_model < found["tgo"].nll_student_model


def test_differences_draw_every_seed_and_the_interval():
    result = claims.Result(claims.Contrast("", {}), (0.1, -0.2, 0.3), -0.15, 0.25)
    ax = curation.differences({"one": result}, plots.axes())
    drawn = [list(line.get_xdata()) for line in ax.lines]
    assert [0.1, -0.2, 0.3] in drawn
    assert [-0.15, 0.25] in drawn
