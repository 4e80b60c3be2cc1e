"""A task of 48 + 24 prompts and untrained pairs: small enough to train in a second."""

import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["OMP_NUM_THREADS"] = "1"  # in each worker, and in the kernels and commands it starts

from collections import Counter
from pathlib import Path

import pytest
import torch

from minidistill.models import make_pair, tiny_model, word_tokenizer
from minidistill.models import pair as pairs
from minidistill.tasks import Preference, Task, get_world, write_examples

torch.set_num_threads(1)

ANY_DEVICE = pairs.pick_device
pairs.pick_device = lambda: torch.device("cpu")  # oracles ask for bits; tests marked gpu undo it

DATA = Path(os.environ.get("MINIDISTILL_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"no public data sets in {DATA}: set MINIDISTILL_TEST_DATA"
)


SLOW_LESSONS = {"03", "04", "06", "09", "10", "11", "12", "13"}  # notebooks of a minute and more
LEFT_OUT = Counter()


def pytest_ignore_collect(collection_path, config):
    """Benchmarks print and assert nothing: `make bench` alone collects them."""
    if collection_path.name == "benchmarks" and not config.getoption("benchmark_only", False):
        return True


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items):
    """Mark what a folder decides and skip what the machine cannot."""
    for item in items:
        if "solutions" in item.path.parts or item.path.name[:2] in SLOW_LESSONS:
            item.add_marker("slow")
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Keep a file's tests on one worker, but those that take minutes each."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid):
            alone = "tests/browser" in nodeid or "test_killed.py" in nodeid
            return nodeid if alone else super()._split_scope(nodeid)

    return ByFile(config, log)


def pytest_deselected(items):
    """Count what -m and -k leave out."""
    LEFT_OUT["tests"] += len(items)


def pytest_sessionfinish(session):
    """Hand a worker's count to the process that prints."""
    getattr(session.config, "workeroutput", {})["left_out"] = LEFT_OUT["tests"]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    """Take a worker's count: each has collected all tests."""
    LEFT_OUT["tests"] = getattr(node, "workeroutput", {}).get("left_out", 0)


def pytest_terminal_summary(terminalreporter):
    """List why tests did not run, equal reasons on one line."""
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in skipped)
    if LEFT_OUT["tests"]:
        reasons["left out by -m or -k: `make test-all` runs everything"] = LEFT_OUT["tests"]
    if reasons:
        terminalreporter.section("not run, and why")
    for reason, count in reasons.most_common():
        terminalreporter.line(f"{count:5}  {reason}")


@pytest.fixture(autouse=True)
def device(request, monkeypatch):
    """Let the library choose the device in tests marked gpu."""
    if request.node.get_closest_marker("gpu"):
        monkeypatch.setattr(pairs, "pick_device", ANY_DEVICE)


def sharpen(model, factor: float = 6.0):
    """Larger weights, so that an untrained model is far from uniform and teacher and student differ."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(factor)
    return model


def build_pair(tokenizer, seed: int = 0):
    teacher = sharpen(tiny_model("teacher", tokenizer, seed=2 * seed + 1))
    student = sharpen(tiny_model("student", tokenizer, seed=2 * seed + 2))
    return make_pair(teacher, tokenizer, student, tokenizer)


@pytest.fixture
def hide(monkeypatch):
    """`hide("peft")`: from then on and until the test's end it is as if the package were not installed."""

    def hide(package: str) -> None:
        for name in [package, *(name for name in sys.modules if name.startswith(f"{package}."))]:
            monkeypatch.setitem(sys.modules, name, None)

    return hide


@pytest.fixture(scope="session")
def world():
    return get_world("instruct")


@pytest.fixture(scope="session")
def tokenizer(world):
    return word_tokenizer(world.words)


@pytest.fixture(scope="session")
def task(world):
    return Task(
        "instruct",
        write_examples("instruct", 48, seed=1, held_out=False, references=2),
        write_examples("instruct", 24, seed=2, held_out=True, references=2),
        lambda prompt, response: world.judge(prompt, response).grade,
    )


@pytest.fixture(scope="session")
def few(task):
    """Eight prompts to train on, with preferences, and four held out."""
    train = [
        Preference(e.prompt, e.references, chosen=e.references[0], rejected="no")
        for e in task.train[:8]
    ]
    return Task("few", train, task.test[:4], task.grade)


@pytest.fixture
def pair(tokenizer):
    """A fresh teacher and student: a test may train them."""
    return build_pair(tokenizer)


@pytest.fixture(scope="session")
def shared_pair(tokenizer):
    """A pair that no test may change."""
    return build_pair(tokenizer, seed=1)


@pytest.fixture(scope="session")
def prompts(task, tokenizer):
    """Token ids of held-out prompts, of different lengths."""
    from minidistill.tokenization import encode_prompt

    return [encode_prompt(tokenizer, e.prompt) for e in task.test]
