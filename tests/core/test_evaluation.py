"""What a student is worth."""

import itertools
import math
from dataclasses import asdict, replace

import pytest
import torch

from minidistill import evaluate, load_task
from minidistill.evaluation import accuracy, grade_responses, make_probe, nll, pass_at_k, rouge_l
from minidistill.generation import sample
from minidistill.models import Pair
from minidistill.tasks import NO_ANSWER, Example, Grade, Task
from minidistill.tokenization import encode_prompt, encode_references


@torch.no_grad()
def nll_by_hand(model, prompt, response):
    logits = model(torch.tensor([[*prompt, *response]])).logits[0].float().log_softmax(-1)
    at = len(prompt) - 1
    return -sum(float(logits[at + t, token]) for t, token in enumerate(response)) / len(response)


def test_nll_is_the_mean_over_responses_of_the_mean_over_their_tokens(shared_pair, prompts):
    responses = [[9, 8, 7, 6, 1], [50], [60, 61, 1]]
    expected = [
        nll_by_hand(shared_pair.student, x, y) for x, y in zip(prompts, responses, strict=False)
    ]
    for rows in (64, 2, 1):
        found = nll(shared_pair.student, shared_pair, prompts[:3], responses, rows=rows)
        assert found == pytest.approx(sum(expected) / 3, rel=1e-4)


def test_a_large_vocabulary_goes_through_a_model_in_fewer_rows(pair, prompts, monkeypatch):
    responses, rows = [[9, 8, 7, 6, 1], [50], [60, 61, 1]], []
    whole = nll(pair.student, pair, prompts[:3], responses)
    greedy = sample(pair.student, prompts[:3], pair, temperature=0, max_new_tokens=4)
    pair.student.register_forward_hook(lambda *seen: rows.append(len(seen[2].logits)))
    monkeypatch.setattr("minidistill.tokenization.MAX_LOGITS", 2 * 5 * pair.vocab_size)
    assert nll(pair.student, pair, prompts[:3], responses) == pytest.approx(whole, rel=1e-5)
    assert rows == [2, 1]
    width = pair.student.config.vocab_size
    monkeypatch.setattr("minidistill.tokenization.MAX_LOGITS", 2 * width - 1)
    assert sample(pair.student, prompts[:3], pair, temperature=0, max_new_tokens=4) == greedy
    assert {*rows[2:]} == {1}


def test_a_probe_of_its_own_is_as_long_as_the_responses(pair, few, monkeypatch):
    monkeypatch.setattr(pair.student.config, "max_position_embeddings", 24)
    found = evaluate(pair, few, max_new_tokens=3)
    probe = make_probe(pair, few, max_new_tokens=3)
    assert found.nll_student == nll(pair.student, pair, probe.prompts, probe.sgo)


def test_nll_leaves_empty_responses_out(shared_pair, prompts):
    with_empty = nll(shared_pair.student, shared_pair, prompts[:3], [[9, 1], [], [8, 1]])
    without = nll(shared_pair.student, shared_pair, [prompts[0], prompts[2]], [[9, 1], [8, 1]])
    assert with_empty == pytest.approx(without, rel=1e-5)
    assert nll(shared_pair.student, shared_pair, prompts[:2], [[], []]) == 0


def test_nll_is_taken_in_evaluation_mode_and_leaves_the_mode_as_it_was(pair, prompts):
    modes = []
    pair.student.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    for training in (True, False):
        pair.student.train(training)
        nll(pair.student, pair, prompts[:1], [[9, 1]])
        assert pair.student.training is training
    assert modes == [False, False]


def test_rouge_l_of_a_hand_worked_case_takes_the_best_reference():
    # 'the cat sat down' against 'the cat lay down': the longest common subsequence has 3 words,
    # precision 3/4, recall 3/4. Against 'a dog' nothing fits.
    examples = [
        Example("p", ("a dog", "the cat lay down")),
        Example("p", ("one two three four five six",)),
        Example("p", ()),
    ]
    first, second = 3 / 4, 2 * (1.0 * 0.5) / 1.5
    found = rouge_l(examples, ["the cat sat down", "two four six", "anything"])
    assert found == pytest.approx((first + second) / 2)


def test_rouge_l_without_references_is_none_and_counts_must_agree():
    assert rouge_l([Example("p")], ["anything"]) is None
    with pytest.raises(ValueError, match="argument"):
        rouge_l([Example("p", ("r",))], [])


def graded(grade):
    return Task("graded", [], [Example(p, (p,)) for p in "abcd"], grade)


def test_accuracy_counts_full_grades_alone():
    task = graded(lambda prompt, response: float(response))
    assert accuracy(task, ["1", "0.67", "0", "1"]) == 0.5
    assert accuracy(graded(None), ["1"] * 4) is None


def test_evaluate_repeats_and_its_parts_are_what_they_say(shared_pair, task):
    probe = make_probe(shared_pair, task, size=8, seed=3, max_new_tokens=4)
    first, second = (evaluate(shared_pair, task, probe, max_new_tokens=6) for _ in range(2))
    assert asdict(first) == asdict(second)
    assert first.nll_teacher == nll(shared_pair.student, shared_pair, probe.prompts, probe.tgo)
    assert first.nll_student == nll(shared_pair.student, shared_pair, probe.prompts, probe.sgo)
    assert first.nll_student < first.nll_teacher
    assert first.rouge_l == pytest.approx(rouge_l(task.test, first.responses))
    assert first.accuracy == accuracy(task, first.responses)
    assert len(first.responses) == len(task.test)


def test_evaluate_averages_its_draws(shared_pair, task):
    few = Task("few", task.train, task.test[:6], lambda prompt, response: len(response) % 2)
    probe = make_probe(shared_pair, few, max_new_tokens=3)
    how = {"temperature": 1.0, "max_new_tokens": 5}
    single = [evaluate(shared_pair, few, probe, seed=s, **how) for s in (0, 1)]
    both = evaluate(shared_pair, few, probe, draws=2, seed=0, **how)
    assert single[0].responses != single[1].responses
    assert both.accuracy == pytest.approx(sum(s.accuracy for s in single) / 2)
    assert both.rouge_l == pytest.approx(sum(s.rouge_l for s in single) / 2)
    assert both.responses == single[0].responses


def test_a_task_without_references_or_grader_gives_none(shared_pair, task):
    bare = Task("bare", [], [Example(e.prompt) for e in task.test[:3]])
    probe = make_probe(shared_pair, bare, max_new_tokens=3)
    scores = evaluate(shared_pair, bare, probe, max_new_tokens=3)
    assert scores.rouge_l is None
    assert scores.accuracy is None
    assert math.isfinite(scores.nll_teacher)


def test_a_probe_is_fixed_by_its_seed_and_holds_both_models_responses(shared_pair, task):
    probe = make_probe(shared_pair, task, size=5, seed=1, max_new_tokens=4)
    assert probe == make_probe(shared_pair, task, size=5, seed=1, max_new_tokens=4)
    assert probe != make_probe(shared_pair, task, size=5, seed=2, max_new_tokens=4)
    assert len(probe.prompts) == len(probe.tgo) == len(probe.sgo) == 5
    assert probe.prompts[0] == encode_prompt(shared_pair.tokenizer, task.test[0].prompt)
    assert probe.tgo != probe.sgo
    by = {
        (m, k): nll(getattr(shared_pair, m), shared_pair, probe.prompts, getattr(probe, k))
        for m in ("teacher", "student")
        for k in ("tgo", "sgo")
    }
    assert by["teacher", "tgo"] < by["teacher", "sgo"]
    assert by["student", "sgo"] < by["student", "tgo"]


def test_without_a_teacher_the_references_take_its_place(shared_pair, task):
    alone = Pair(None, shared_pair.student, shared_pair.tokenizer, shared_pair.vocab_size)
    probe = make_probe(alone, task, size=4, max_new_tokens=3)
    assert probe.tgo == encode_references(alone.tokenizer, task.test[:4], 0)


# --- pass@k -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("samples", range(1, 8))
def test_9_1_pass_at_k_is_the_share_of_subsets_that_have_a_right_one(samples):
    for right, k in itertools.product(range(samples + 1), range(1, samples + 1)):
        subsets = list(itertools.combinations([True] * right + [False] * (samples - right), k))
        assert pass_at_k(samples, right, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


@pytest.mark.parametrize("k", [1, 2, 5])
def test_9_1_pass_at_k_is_unbiased_and_the_plug_in_is_not(k):
    """Its mean over all outcomes of 5 draws, each right with chance p, is 1 − (1 − p)^k exactly."""
    p = 0.3
    chances = [math.comb(5, c) * p**c * (1 - p) ** (5 - c) for c in range(6)]
    truth = 1 - (1 - p) ** k
    ours = sum(w * pass_at_k(5, c, k) for c, w in enumerate(chances))
    plug_in = sum(w * (1 - (1 - c / 5) ** k) for c, w in enumerate(chances))
    assert ours == pytest.approx(truth)
    assert plug_in == pytest.approx(truth) if k == 1 else plug_in < truth - 0.01


@pytest.mark.parametrize("counts", [(0, 0, 1), (3, 4, 1), (3, -1, 1), (3, 1, 0), (3, 1, 4)])
def test_9_1_pass_at_k_refuses_counts_that_cannot_be(counts):
    with pytest.raises(ValueError, match="pass@k needs 0 <= right <= samples"):
        pass_at_k(*counts)


def test_responses_without_an_answer_are_counted(shared_pair):
    task = load_task("arithmetic")
    few = replace(task, test=task.test[:4])
    answer = task.explain(few.test[0].prompt, few.test[0].references[0])
    assert (answer.grade, answer.reason) == (1.0, "right")
    responses = ["i do not know", few.test[1].references[0], "#### 99", ""]
    found = grade_responses(few, responses)
    assert [v.grade for v in found] == [0, 1, 0, 0]
    assert [v.reason for v in found] == ["no answer", "right", "wrong", "no answer"]
    assert accuracy(few, responses) == 0.25


def test_scores_say_which_share_has_no_answer_and_each_grade(shared_pair, task):
    few = Task("few", [], task.test[:6], task.grade, lambda p, r: Grade(float(r > "m"), NO_ANSWER))
    probe = make_probe(shared_pair, few, max_new_tokens=3)
    scores = evaluate(shared_pair, few, probe, draws=2, temperature=1.0, max_new_tokens=5)
    assert scores.no_answer == 1
    assert [len(row) for row in scores.grades] == [6, 6]
    assert scores.accuracy == pytest.approx(sum(map(sum, scores.grades)) / 12)
    with pytest.raises(ValueError, match="task 'graded' has no grader"):
        grade_responses(graded(None), [])
