"""The sampler on φ alone serves what a real run's sampler serves, and its explorer adds up to one."""

from dataclasses import replace

import pytest
import torch

from minidistill import load_pair, load_task
from minidistill.config import DistillConfig
from minidistill.evaluation import NLLProbe
from minidistill.experiments.logs import runs_by_seed
from minidistill.lessons import lesson_03_responses as lesson_03
from minidistill.sources import UpdatePhi
from minidistill.training import Trainer


def test_3_9_the_replayed_sampler_counts_what_a_real_run_counted():
    task = load_task("instruct")
    task = replace(task, train=task.train[:48], test=task.test[:16])
    config = DistillConfig("distillm", epochs=5, batch_size=8, max_new_tokens=6, seed=3)
    run = Trainer(load_pair("instruct"), task, config)
    run.callbacks = [NLLProbe(every=1), UpdatePhi()]
    run.rollouts.replay.capacity = 40
    run.train(progress=False)
    phi = [step["phi"] for step in run.history.steps]
    kinds = lesson_03.batch_kinds(phi, batch=8, seed=3, capacity=40)
    counts = {kind: kinds.count(kind) for kind in lesson_03.BATCH_KINDS if kind in kinds}
    assert counts == run.rollouts.replay.counts
    assert len(counts) >= 2


def test_phi_of_a_log_covers_every_step_and_never_falls():
    log = runs_by_seed("distillm")[0]
    phi = lesson_03.phi_by_step(log)
    assert len(phi) == log["evals"][-1]["step"] == lesson_03.STEPS
    assert phi == sorted(phi)
    assert phi[0] <= 0.1  # at most one rise before the first measurement
    assert phi[-1] == log["evals"][-1]["phi"]


@pytest.mark.parametrize("phi", [0.0, 0.5, 1.0])
def test_3_9_the_explorer_shows_shares_that_add_up_to_one(phi):
    left, right = lesson_03.sampler_explorer(phi).axes
    for ax in (left, right):
        assert "(3.9)" in ax.get_title(loc="left")
        assert ax.get_ylim() == (0, 1)
        tops = [c.get_paths()[0].vertices[:, 1].max() for c in ax.collections]
        assert tops[-1] == pytest.approx(1.0)
    parts = lesson_03.kind_shares(lesson_03.batch_kinds([phi] * lesson_03.STEPS))
    torch.testing.assert_close(sum(parts.values()), torch.ones(15))
    assert parts["fixed"].mean() == pytest.approx(1 - phi, abs=0.06)
