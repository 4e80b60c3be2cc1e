"""Token boxes show the right tokens and numbers; the baselines (3.2) to (3.6); sequences by counting."""

import pytest
import torch

from minidistill import divergences as D
from minidistill import load_pair, load_task
from minidistill.generation import sample
from minidistill.lessons import lesson_03_responses as lesson_03
from minidistill.lessons import response_scores
from minidistill.logprobs import ResponseLogProbs
from minidistill.objectives import METHODS, TrainState
from minidistill.tokenization import encode_prompt, encode_response


@pytest.fixture(scope="module")
def pair():
    return load_pair("instruct")


@pytest.fixture(scope="module")
def asked(pair):
    texts = [example.prompt for example in load_task("instruct").test[:3]]
    prompts = [encode_prompt(pair.tokenizer, text) for text in texts]
    return texts, prompts, *(sample(m, prompts, pair) for m in (pair.teacher, pair.student))


@pytest.fixture(scope="module")
def scored():
    """Responses of 3 and 1 tokens from every source a baseline reads."""
    draw = torch.randn(4, 2, 2, 3, 5, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    labels, mask = torch.tensor([[1, 2, 3], [4, 0, 0]]), torch.tensor([[1, 1, 1], [1, 0, 0]]).bool()
    names = ("reference", "tgo", "sgo", "speculative")
    return {
        n: ResponseLogProbs(labels, mask, p, lambda q=q: q)
        for n, (p, q) in zip(names, draw, strict=True)
    }


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def mean(per_token):
    return torch.stack([per_token[0].mean(), per_token[1, 0]])


def kl(y):
    return mean((y.log_p.exp() * (y.log_p - y.log_q)).sum(-1))


def hard(y):
    rows, columns = torch.arange(2).unsqueeze(-1), torch.arange(3)
    return mean(-y.log_q[rows, columns, y.labels])


def test_3_2_sft_and_3_3_seqkd_are_hard_labels_on_two_sources(scored):
    for name, source in (("sft", "reference"), ("seqkd", "tgo")):
        torch.testing.assert_close(METHODS[name](scored, TrainState()), hard(scored[source]))


def test_3_4_3_5_3_8_are_one_kl_on_three_sources(scored):
    for name, source in (("kd", "tgo"), ("imitkd", "sgo"), ("speculative_kd", "speculative")):
        torch.testing.assert_close(METHODS[name](scored, TrainState()), kl(scored[source]))


def test_3_6_gkd_is_the_mean_of_two_jsd_with_nine_tenths_on_the_teacher(scored):
    def jsd(y):
        m = 0.9 * y.log_p.exp() + 0.1 * y.log_q.exp()
        of = lambda log_a: (log_a.exp() * (log_a - m.log())).sum(-1)  # noqa: E731
        return mean(0.9 * of(y.log_p) + 0.1 * of(y.log_q))

    wanted = (jsd(scored["tgo"]) + jsd(scored["sgo"])) / 2
    torch.testing.assert_close(METHODS["gkd"](scored, TrainState()), wanted)


@pytest.mark.parametrize(
    ("divergence", "writer"), [(D.kl, "teacher"), (D.reverse_kl, "student")], ids=["kl", "rkl"]
)
def test_3_10_only_its_own_prefixes_give_the_divergence_of_sequences(divergence, writer):
    draw = torch.Generator().manual_seed(3)
    p, q = (
        (torch.randn(3, generator=draw).log_softmax(-1),
         torch.randn(3, 3, generator=draw).log_softmax(-1))
        for _ in range(2)
    )  # fmt: skip
    log_p, log_q = ((first.unsqueeze(-1) + then).flatten() for first, then in (p, q))
    sums = {
        who: lesson_03.sum_over_prefixes(divergence, p, q, of[0])
        for who, of in (("teacher", p), ("student", q))
    }
    whole = divergence(log_p, log_q)
    torch.testing.assert_close(sums.pop(writer), whole)
    (other,) = sums.values()
    assert (other - whole).abs() > 0.01


def test_3_1_the_batch_view_frames_what_the_mask_counts(pair):
    prompts = [
        encode_prompt(pair.tokenizer, text) for text in ("name three tools", "describe a pear")
    ]
    responses = [encode_response(pair.tokenizer, text) for text in ("saw .", "a pear is small .")]
    figure = lesson_03.batch_view(pair, prompts, responses)
    framed = [patch for patch in figure.axes[0].patches if patch.get_linewidth() == 1.3]
    assert len(framed) == sum(map(len, responses)) + 1  # and one in the legend
    arrows = [text for text in texts(figure) if text.startswith("→")]
    words = [f"→{w}" for y in responses for w in pair.tokenizer.convert_ids_to_tokens(y)]
    assert arrows == words


def test_log_ratios_are_teacher_minus_student(pair, asked):
    _, prompts, tgo, _ = asked
    ratios = response_scores.log_ratios(pair, prompts, tgo)
    for x, y, ratio in zip(prompts, tgo, ratios, strict=True):
        ids = torch.tensor([x + y])
        log_p, log_q = (m(ids).logits[0].log_softmax(-1) for m in (pair.teacher, pair.student))
        places = torch.arange(len(x) - 1, len(x) + len(y) - 1)
        wanted = (log_p - log_q)[places, torch.tensor(y)]
        torch.testing.assert_close(ratio, wanted, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("prompt", [0, 1, 2])
def test_the_ratio_explorer_prints_the_number_under_every_token(pair, asked, prompt):
    words, prompts, tgo, sgo = asked
    figure = lesson_03.ratio_explorer(pair, *asked)(prompt)
    assert figure.axes[0].get_title(loc="left") == f"asked: {words[prompt]}"
    shown = texts(figure)
    for name, ys in (("teacher", tgo), ("student", sgo)):
        ratios = response_scores.log_ratios(pair, prompts, ys)[prompt]
        assert f"{name} wrote:  sum of log p/q {ratios.sum():+.1f} nats" in shown
        for word in pair.tokenizer.convert_ids_to_tokens(ys[prompt]):
            assert word in shown
        assert all(f"{round(r, 1) + 0.0:+.1f}" in shown for r in ratios.tolist())


def test_a_strong_ratio_is_framed_and_its_colour_tells_the_sign():
    up, down, weak = map(lesson_03.ratio_style, (2.0, -2.0, 0.2))
    assert up["facecolor"][0] != down["facecolor"][0]
    assert up["edgecolor"] == down["edgecolor"] == "black" != weak["edgecolor"]


def test_long_responses_are_broken_into_lines_inside_the_page():
    figure = lesson_03.kinds_view([("word", "response")] * 60)
    right = [patch.get_x() + patch.get_width() for patch in figure.axes[0].patches]
    assert max(right) <= lesson_03.LINE
    assert len({patch.get_y() for patch in figure.axes[0].patches}) > 3


def test_the_table_of_what_is_read_comes_from_the_signatures():
    figure = lesson_03.reads_view({"gkd": "(3.6) GKD", "sft": "(3.2) SFT"}, "title")
    assert texts(figure).count("reads") == 3
    assert texts(lesson_03.reads_view({"distillm": "(3.7)"})).count("reads") == 2


def test_kl_by_position_is_the_mean_over_the_responses_that_are_that_long():
    pair, task = load_pair("instruct"), load_task("instruct")
    prompts = [pair.encode(example) for example in task.test[:3]]
    responses = [encode_response(pair.tokenizer, t) for t in ("yes .", "yes , it is .", "no .")]
    found = lesson_03.kl_by_position(pair, prompts, responses, least=1)
    alone = []
    for x, y in zip(prompts, responses, strict=True):
        log_p, log_q = (
            m(torch.tensor([x + y])).logits[0, len(x) - 1 : -1].detach().log_softmax(-1)
            for m in (pair.teacher, pair.student)
        )
        alone.append((log_p.exp() * (log_p - log_q)).sum(-1))
    assert len(found) == max(map(len, responses))
    for t in range(len(found)):
        wanted = torch.stack([kl[t] for kl in alone if t < len(kl)]).mean()
        torch.testing.assert_close(found[t], wanted, atol=1e-4, rtol=1e-4)
    assert len(lesson_03.kl_by_position(pair, prompts, responses, least=2)) == 3
