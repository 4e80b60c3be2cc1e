"""How long things take. `make bench` prints it; nothing here is asserted.

Set-up (loading, sampling the teacher) stays outside the timed part, as it happens once a run.
"""

import subprocess
import sys

import pytest
import torch

from minidistill import divergences as D
from minidistill import load_pair, load_task, sandbox
from minidistill.evaluation import make_probe
from minidistill.generation import sample
from minidistill.lessons import lesson_01_divergences as lesson_01
from minidistill.lessons import lesson_02_skew as lesson_02
from minidistill.lessons import lesson_03_responses as lesson_03
from minidistill.lessons import lesson_04_dpkd_collapse as lesson_04
from minidistill.lessons import lesson_05_cald as lesson_05
from minidistill.lessons import lesson_06_data_curation as lesson_06
from minidistill.lessons import lesson_07_curriculum as lesson_07
from minidistill.lessons import plots, widgets
from minidistill.tokenization import encode_prompt
from minidistill.training import distill

PROMPTS = 2000


@pytest.fixture(scope="module")
def parts():
    pair, task = load_pair("instruct"), load_task("instruct")
    prompts = [encode_prompt(pair.tokenizer, e.prompt) for e in task.train[:PROMPTS]]
    return pair, task, sample(pair.teacher, prompts, pair), make_probe(pair, task), prompts


@pytest.mark.parametrize("method", ["kd", "gkd", "dpkd", "cald", "distillm2"])
def test_an_epoch_over_2000_prompts(benchmark, parts, method):
    pair, task, tgo, probe, _ = parts
    how = {"epochs": 1, "tgo": tgo, "probe": probe, "progress": False}
    benchmark.pedantic(distill, (pair, task, method), how, rounds=3)


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_2000_responses(benchmark, parts, role):
    pair, _, _, _, prompts = parts
    benchmark.pedantic(sample, (getattr(pair, role), prompts, pair), rounds=3)


@pytest.mark.parametrize("name", ["kl", "reverse_kl", "jsd", "skew_kl", "skew_reverse_kl"])
@pytest.mark.parametrize("vocab", [180, 49_152])
def test_a_divergence_and_its_gradient(benchmark, name, vocab_size):
    log_p = torch.randn(512, vocab_size).log_softmax(-1)
    logits = torch.randn(512, vocab_size, requires_grad=True)

    def both():
        getattr(D, name)(log_p, logits.log_softmax(-1)).sum().backward()

    benchmark(both)


def test_import(benchmark):
    benchmark.pedantic(subprocess.run, ([sys.executable, "-c", "import minidistill"],), rounds=3)


def test_peak_memory_of_an_epoch(benchmark):
    code = (
        "import resource; from minidistill import *\n"
        "distill(load_pair('instruct'), load_task('instruct'), epochs=1, progress=False)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    run = [sys.executable, "-c", code]
    done = benchmark.pedantic(
        subprocess.run, (run,), {"capture_output": True, "check": True}, rounds=1
    )
    unit = 1 if sys.platform == "darwin" else 1024
    benchmark.extra_info["peak_mb"] = int(done.stdout) * unit // 2**20
    print(f"peak memory of a DistiLLM-2 epoch: {benchmark.extra_info['peak_mb']} MB")


@pytest.mark.skipif(sandbox.bubblewrap() is None, reason="bubblewrap is missing")
def test_1000_programs_in_the_sandbox(benchmark):
    jobs = [(f"def f(x): return x + {i}", f"assert f(1) == {i + 1}") for i in range(1000)]
    results = benchmark.pedantic(sandbox.run_many, (jobs,), rounds=3)
    assert all(result.passed for result in results)


LESSONS = {  # a slider's callback, made as its lesson makes it
    "hill": lambda: lesson_01.bimodal_explorer,
    "beta in JSD": lambda: lesson_01.beta_explorer,
    "skew": lambda: lesson_02.skew_explorer,
    "sampler": lambda: lesson_03.sampler_explorer,
    "flow": lesson_04.flow_explorer,
    "grid": lambda: lesson_05.grid_explorer(lesson_05.grid_logs()),
    "epsilon": lesson_06.epsilon_explorer,
    "alpha": lambda: lesson_07.alpha_explorer({"tgo": torch.rand(240), "sgo": torch.rand(240)}),
    "beta": lambda: lesson_07.beta_explorer,
}


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_slider_redraws(benchmark, lesson):
    picture = LESSONS[lesson]()
    plots.png(picture(), widgets.DPI)
    benchmark(lambda: plots.png(picture(), widgets.DPI))
