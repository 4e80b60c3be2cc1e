"""The only shift and the only mask."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from minidistill.logprobs import (
    ResponseLogProbs,
    collate,
    masked_mean,
    masked_sum,
    response_log_probs,
)


@pytest.fixture(scope="module")
def model(shared_pair):
    return shared_pair.student


@torch.no_grad()
def alone(model, prompt, response, vocab_size):
    """Log-probs of one response without any padding, by a plain forward pass."""
    logits = model(torch.tensor([[*prompt, *response]])).logits[0].float()
    return logits.log_softmax(-1)[len(prompt) - 1 : len(prompt) + len(response) - 1, :vocab_size]


# --- the mean -----------------------------------------------------------------------------------------
def test_3_1_masked_mean_divides_by_the_response_length():
    per_token = torch.tensor([[1.0, 2.0, 9.0], [4.0, 9.0, 9.0], [9.0, 9.0, 9.0]])
    mask = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 0]]).bool()
    assert masked_mean(per_token, mask).tolist() == [1.5, 4.0, 0.0]
    assert masked_sum(per_token, mask).tolist() == [3.0, 4.0, 0.0]


@pytest.mark.parametrize("rubbish", [float("nan"), float("inf"), float("-inf")])
def test_3_1_padding_leaks_neither_into_the_value_nor_into_the_gradient(rubbish):
    per_token = torch.tensor([[1.0, 3.0, rubbish], [rubbish] * 3], requires_grad=True)
    mask = torch.tensor([[1, 1, 0], [0, 0, 0]]).bool()
    mean = masked_mean(per_token, mask)
    assert mean.tolist() == [2.0, 0.0]
    mean.sum().backward()
    assert per_token.grad.tolist() == [[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]


def test_3_1_no_tokens_at_all_give_zero_with_a_gradient():
    per_token = torch.zeros(2, 0, requires_grad=True)
    mean = masked_mean(per_token, torch.zeros(2, 0, dtype=torch.bool))
    assert mean.tolist() == [0.0, 0.0]
    mean.sum().backward()


# --- the layout ---------------------------------------------------------------------------------------
def test_collate_pads_prompts_left_and_responses_right():
    batch = collate([[7], [5, 6]], [[8, 9, 1], [4]], pad=0)
    assert batch.input_ids.tolist() == [[0, 7, 8, 9, 1], [5, 6, 4, 0, 0]]
    assert batch.attention_mask.tolist() == [[0, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert batch.labels.tolist() == [[8, 9, 1], [4, 0, 0]]
    assert batch.mask.tolist() == [[True] * 3, [True, False, False]]


def test_a_pad_id_that_is_also_the_end_token_is_still_trained_on():
    batch = collate([[7], [7]], [[8, 1], [8, 9, 1]], pad=1)
    assert batch.labels.tolist() == [[8, 1, 1], [8, 9, 1]]
    assert batch.mask.tolist() == [[True, True, False], [True, True, True]]
    assert batch.attention_mask.sum().item() == 7


def test_collate_refuses_prompts_without_their_response():
    with pytest.raises(ValueError, match="argument"):
        collate([[1], [2]], [[3]], pad=0)


# --- the shift ----------------------------------------------------------------------------------------
def test_a_one_token_response_is_scored_by_the_logits_of_the_prompts_last_token(model, shared_pair):
    prompt, token = [3, 20, 30, 4], 42
    with torch.no_grad():
        last = model(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
        found = response_log_probs(model, collate([prompt], [[token]], 0), shared_pair.vocab_size)
    assert found.shape == (1, 1, shared_pair.vocab_size)
    torch.testing.assert_close(found[0, 0], last)
    assert last.std() > 0.5  # far enough from uniform for a wrong column to show


class Echo(torch.nn.Module):
    """A model whose logits in a column say which token it has just read, so shifts are visible."""

    def forward(self, input_ids, logits_to_keep, **_):
        logits = 50.0 * torch.nn.functional.one_hot(input_ids, 12).float()
        return type("Output", (), {"logits": logits[:, -logits_to_keep:]})


def test_token_t_is_predicted_from_the_column_before_it():
    batch = collate([[7], [5, 6]], [[8, 9, 1], [4]], pad=0)
    best = response_log_probs(Echo(), batch, 12).argmax(-1)
    assert best.tolist() == [[7, 8, 9], [6, 4, 0]]


def test_logits_are_cut_to_the_shared_tokens_before_the_softmax(model):
    with torch.no_grad():
        found = response_log_probs(model, collate([[3, 20, 4]], [[42, 43]], 0), vocab_size=100)
    assert found.shape[-1] == 100
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(1, 2))


def test_half_precision_logits_are_widened_before_the_softmax():
    class Half(Echo):
        def forward(self, **inputs):
            output = super().forward(**inputs)
            output.logits = (output.logits / 10 + torch.linspace(0, 1, 12)).bfloat16()
            self.logits = output.logits
            return output

    half = Half()
    found = response_log_probs(half, collate([[7]], [[8, 9]], 0), 12)
    assert found.dtype == torch.float32
    assert torch.equal(found, half.logits[:, :2].float().log_softmax(-1))


# --- padding changes nothing ------------------------------------------------------------------------
def test_a_batch_of_different_lengths_scores_each_response_as_if_alone(model, prompts, shared_pair):
    vocab_size, responses = (
        shared_pair.vocab_size,
        [[9, 8, 7, 6, 1], [50], [60, 61, 1], [], [70, 1]],
    )
    kept = [sorted(prompts, key=len)[i * (len(prompts) - 1) // 4] for i in range(5)]
    assert len({len(p) for p in kept}) > 2
    with torch.no_grad():
        found = response_log_probs(model, collate(kept, responses, 0), vocab_size)
    for row, prompt, response in zip(found, kept, responses, strict=True):
        torch.testing.assert_close(
            row[: len(response)], alone(model, prompt, response, vocab_size), rtol=1e-4, atol=1e-4
        )


def test_left_padding_changes_nothing_for_a_model_with_absolute_positions():
    # Rotary positions are relative and would hide a wrong position; learned ones do not.
    config = GPT2Config(
        vocab_size=60, n_positions=40, n_embd=16, n_layer=2, n_head=2, initializer_range=0.5,
        bos_token_id=None, eos_token_id=1,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GPT2LMHeadModel(config).eval()
    prompts, responses = [[3, 9, 4], [3, *range(10, 20), 4]], [[7, 8, 1], [5, 1]]
    with torch.no_grad():
        found = response_log_probs(model, collate(prompts, responses, 0), 60)
    for row, prompt, response in zip(found, prompts, responses, strict=True):
        torch.testing.assert_close(
            row[: len(response)], alone(model, prompt, response, 60), rtol=1e-4, atol=1e-4
        )


def test_wider_padding_changes_no_mean(model, prompts, shared_pair):
    def mean_of_first(*neighbours):
        x, y = [prompts[0], *(n[0] for n in neighbours)], [[9, 8, 1], *(n[1] for n in neighbours)]
        batch = collate(x, y, 0)
        with torch.no_grad():
            log_q = response_log_probs(model, batch, shared_pair.vocab_size)
        scored = ResponseLogProbs(batch.labels, batch.mask, log_q, lambda: log_q)
        return scored.mean(scored.token_log_q)[0]

    longer = ([3, *range(10, 40), 4], list(range(50, 70)))
    torch.testing.assert_close(mean_of_first(), mean_of_first(longer), rtol=1e-4, atol=1e-5)


def test_an_empty_response_contributes_nothing_to_loss_or_gradient(pair, prompts):
    def gradient(rows):
        batch = collate([prompts[0], prompts[1]][:rows], [[9, 8, 1], []][:rows], 0)
        log_q = response_log_probs(pair.student, batch, pair.vocab_size)
        scored = ResponseLogProbs(batch.labels, batch.mask, log_q, lambda: log_q)
        loss = scored.mean(-scored.token_log_q)
        pair.student.zero_grad()
        loss.sum().backward()
        return loss, [w.grad.clone() for w in pair.student.parameters()]

    (loss, with_empty), (_, without) = gradient(2), gradient(1)
    assert loss[1] == 0
    for a, b in zip(with_empty, without, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_a_batch_of_nothing_but_empty_responses_is_zero_and_trains(pair, prompts):
    batch = collate(prompts[:2], [[], []], 0)
    log_q = response_log_probs(pair.student, batch, pair.vocab_size)
    assert log_q.shape == (2, 0, pair.vocab_size)
    scored = ResponseLogProbs(batch.labels, batch.mask, log_q, lambda: log_q)
    loss = scored.mean(-scored.token_log_q)
    assert loss.tolist() == [0.0, 0.0]
    loss.sum().backward()
    assert all(torch.isfinite(w.grad).all() for w in pair.student.parameters())


# --- what a method reads ------------------------------------------------------------------------------
def test_the_teacher_runs_once_without_gradient_and_only_if_asked():
    weight, calls = torch.ones(1, requires_grad=True), []

    def teacher():
        calls.append(1)
        return weight * torch.zeros(1, 2, 3).log_softmax(-1)

    labels, mask = torch.tensor([[0, 1]]), torch.tensor([[True, True]])
    scored = ResponseLogProbs(labels, mask, torch.zeros(1, 2, 3).log_softmax(-1), teacher)
    assert scored.mean(scored.token_log_q).shape == (1,)
    assert not calls
    assert not scored.log_p.requires_grad
    assert not scored.token_log_p.requires_grad
    assert len(calls) == 1


def test_the_confidence_gap_is_teacher_minus_student_and_detached():
    labels, mask = torch.tensor([[0, 1, 2]]), torch.tensor([[True, True, False]])
    log_p = torch.tensor([[[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [1e-9, 1e-9, 1.0]]]).log()
    log_q = torch.tensor([[[0.2, 0.4, 0.4], [0.3, 0.2, 0.5], [0.4, 0.4, 0.2]]]).log()
    scored = ResponseLogProbs(labels, mask, log_q.requires_grad_(), lambda: log_p)
    gap = scored.confidence_gap()
    assert gap.tolist() == pytest.approx([(0.5 * 0.8) ** 0.5 - (0.2 * 0.2) ** 0.5])
    assert not gap.requires_grad
