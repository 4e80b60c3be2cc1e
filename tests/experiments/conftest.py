"""Runs small enough to make in a test."""

from dataclasses import replace

import pytest

from minidistill.experiments import protocol
from minidistill.experiments.worlds import load_world


@pytest.fixture
def few_held_out(monkeypatch):
    """Twenty held-out prompts are enough to look at what is logged."""

    def few(name, held_out="test"):
        task = load_world(name, held_out)
        return replace(task, train=task.train[:60], test=task.test[:20])

    monkeypatch.setattr(protocol, "load_world", few)
