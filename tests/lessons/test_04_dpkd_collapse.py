"""DPKD's pair weight and gradient, the student that collapses, the search, gradients of both sides."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from minidistill import distill, load_pair, load_task
from minidistill.config import DistillConfig
from minidistill.generation import sample
from minidistill.lessons import lesson_04_dpkd_collapse as lesson_04
from minidistill.tokenization import encode_prompt, encode_response
from minidistill.training import Trainer


@pytest.mark.parametrize("lam", [0.1, 1.0, 5.0])
def test_4_2_the_weight_is_the_slope_of_the_loss(lam):
    margin = torch.tensor([-6.0, -0.2, 0.0, 3.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(-F.logsigmoid(lam * margin).sum(), margin)
    torch.testing.assert_close(lesson_04.pair_weight(margin.detach(), lam), -slope)


def test_4_2_4_3_the_gradient_by_hand_on_three_tokens():
    logits, lam = torch.tensor([0.3, 1.1, -0.4], requires_grad=True), 0.7
    log_q = logits.log_softmax(-1)
    delta = lesson_04.margin(log_q, lesson_04.TEACHER)
    (found,) = torch.autograd.grad(-F.logsigmoid(lam * delta), logits)
    weight = lesson_04.pair_weight(delta.detach(), lam)
    torch.testing.assert_close(found, -weight * torch.tensor([1.0, -1.0, 0.0]))


def test_4_3_a_perfect_student_has_margin_zero_and_loss_log_2():
    delta = lesson_04.margin(lesson_04.TEACHER, lesson_04.TEACHER)
    assert delta == 0
    assert -F.logsigmoid(delta) == pytest.approx(math.log(2))


def test_the_words_share_what_the_overlap_says():
    words = lesson_04.output_embeddings(torch.tensor([0.0, 1.0]))
    assert words.shape == (2, 3, 2)
    assert words[0].tolist() == [[1, 0], [1, 1], [0, 0]]
    assert words[1, 2].tolist() == [0, -2]


@pytest.mark.parametrize(("lam", "overlap"), [(0.03, 0.0), (1.0, 0.5), (1.0, 1.0)])
def test_4_1_the_flow_explorer_sinks_the_teachers_word_with_the_overlap_and_cald_keeps_it(
    lam, overlap
):
    left, right = lesson_04.flow_explorer()(lam, overlap).axes
    assert "(4.1)" in left.get_title(loc="left")
    dpkd, cald = (
        {line.get_label()[:3]: line.get_ydata() for line in ax.lines} for ax in (left, right)
    )
    assert dpkd["y_s"][-1] < dpkd["y_s"][0]
    sinks = dpkd["y_t"][-1] < dpkd["y_t"][0] - 1
    assert sinks == (overlap >= 0.5)
    assert abs(cald["y_t"][-1] - math.log(0.7)) < 0.1
    assert cald["y_s"].min() > -2
    assert left.get_ylim() == right.get_ylim() == (-9, 0.6)


def test_collapse_step_is_the_first_probe_a_nat_above_the_start():
    probes = [{"step": s, "nll_teacher": v} for s, v in ((0, 0.5), (10, 1.4), (20, 1.6), (30, 0.9))]
    assert lesson_04.collapse_step(probes) == 20
    assert lesson_04.collapse_step(probes[:2]) is None


def test_the_search_is_listed_by_rate_at_default_settings():
    found = lesson_04.search_by_rate("dpkd")
    assert list(found) == sorted(found)
    assert len(found) >= 4
    for rate, log in found.items():
        assert log["run"]["arm"]["settings"]["lr"] == rate
        assert log["run"]["arm"]["method_kwargs"] == {}


def test_cosines_are_those_of_the_gradients_of_the_log_probabilities():
    pair = load_pair("instruct")
    x = [encode_prompt(pair.tokenizer, "what is a bee ?")]
    good, bad = ([encode_response(pair.tokenizer, t)] for t in ("a bee is tiny .", "no ."))
    assert float(lesson_04.gradient_cosines(pair, x, good, good)) == pytest.approx(1.0, abs=1e-4)
    (found,) = lesson_04.gradient_cosines(pair, x, good, bad)
    gradients = []
    for y in (good[0], bad[0]):
        pair.student.zero_grad()
        log_q = pair.student(torch.tensor([x[0] + y])).logits[0, len(x[0]) - 1 : -1].log_softmax(-1)
        sum(log_q[t, token] for t, token in enumerate(y)).backward()
        gradients.append(torch.cat([w.grad.flatten() for w in pair.student.parameters()]))
    wanted = F.cosine_similarity(*gradients, dim=0)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-3)
    winner, loser = gradients
    (falls,) = lesson_04.winner_falls(pair, x, good, bad)
    assert bool(falls) == bool(winner @ loser > winner @ winner)
    (falls,) = lesson_04.winner_falls(pair, x, bad, good)
    assert bool(falls) == bool(winner @ loser > loser @ loser)
    longer = [[*good[0][:-1], *good[0]]]  # says the same twice: its gradient reaches farther
    assert bool(lesson_04.winner_falls(pair, x, [good[0][:-1]], longer))


def test_first_losers_are_what_a_run_of_that_seed_trains_on():
    pair, task = load_pair("instruct"), load_task("instruct")
    task = replace(task, train=task.train[:8], test=task.test[:8])
    losers = lesson_04.rejected_responses(pair, task, seed=3)
    run = Trainer(pair, task, DistillConfig("dpkd", epochs=1, seed=3))
    run.train(progress=False)
    assert run.rollouts.responses["initial_sgo"] == losers


def test_4_3_the_diary_keeps_margins_likelihoods_and_answers_of_a_run():
    pair, task = load_pair("instruct"), load_task("instruct")
    task = replace(task, train=task.train[:16], test=task.test[:16])
    prompts = [encode_prompt(pair.tokenizer, e.prompt) for e in task.train]
    tgo, sgo = (sample(model, prompts, pair, seed=1) for model in (pair.teacher, pair.student))
    diary = lesson_04.MarginTracker(pair, task, tgo, sgo, ["name three tools"], size=8)
    distill(pair, task, "kd", epochs=1, batch_size=8, probe_every=1, tgo=tgo, callback=diary,
            progress=False)  # fmt: skip
    assert [row["step"] for row in diary.rows] == [0, 1, 2]
    margins = lesson_04.pair_margins(pair, prompts[:8], tgo[:8], sgo[:8])
    last = diary.rows[-1]
    assert last["margin"] == pytest.approx(float(margins.mean()), abs=1e-3)
    assert margins.mean() < 0
    assert 0 < last["nll_teacher"] < 2
    assert len(last["answers"]) == 1
