"""Sampling: the teacher's responses, the student's, and drafts that the teacher corrects."""

import math

import pytest
import torch
from scipy.stats import chisquare

from minidistill.generation import (
    decode,
    sample,
    speculative_drafts,
    speculative_mixture,
    top_k_acceptance,
    top_p_filter,
    truncate_at_eos,
    typical_acceptance,
)
from minidistill.models import Pair, make_pair, tiny_model, word_tokenizer
from tests.conftest import build_pair, sharpen


@torch.no_grad()
def greedy_by_hand(model, prompt, eos_token_ids, limit, vocab_size=None):
    ids = list(prompt)
    for _ in range(limit):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1, :vocab_size].argmax()))
        if ids[-1] in eos_token_ids:
            break
    return ids[len(prompt) :]


@pytest.fixture(scope="module")
def small_pair():
    """Eight words, thirteen tokens: distributions can be counted."""
    tokenizer = word_tokenizer([f"w{i}" for i in range(8)])
    models = [sharpen(tiny_model("student", tokenizer, seed), 4.0) for seed in (4, 5)]
    return make_pair(models[0], tokenizer, models[1], tokenizer)


@torch.no_grad()
def next_token(model, prompt):
    return model(torch.tensor([prompt])).logits[0, -1].float().softmax(-1)


# --- sample -------------------------------------------------------------------------------------------
def test_greedy_is_the_argmax_of_each_step_and_keeps_the_order_of_prompts(shared_pair, prompts):
    found = sample(shared_pair.student, prompts, shared_pair, temperature=0, max_new_tokens=6)
    for prompt, response in zip(prompts, found, strict=True):
        assert response == greedy_by_hand(shared_pair.student, prompt, shared_pair.eos_token_ids, 6)
    assert len({tuple(r) for r in found}) > 5


def test_batches_give_the_responses_that_single_prompts_get(shared_pair, prompts, monkeypatch):
    how = {"temperature": 0, "max_new_tokens": 5}
    together = sample(shared_pair.teacher, prompts[:7], shared_pair, **how)
    monkeypatch.setattr("minidistill.generation._max_batch_size", lambda model, width: 2)
    assert sample(shared_pair.teacher, prompts[:7], shared_pair, **how) == together


def test_seeds_repeat_and_differ_and_leave_the_global_generator_alone(shared_pair, prompts):
    def draw(seed):
        return sample(shared_pair.student, prompts, shared_pair, seed=seed, max_new_tokens=6)

    before = torch.random.get_rng_state()
    first = draw(0)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(123)
    assert draw(0) == first
    assert draw(1) != first


def test_a_response_stops_at_its_first_stop_token_or_at_the_limit(small_pair):
    prompt = [3, 6, 4]
    found = sample(small_pair.student, [prompt] * 200, small_pair, max_new_tokens=10)
    eos = small_pair.tokenizer.eos_token_id
    ended = [r for r in found if r[-1] == eos]
    assert 0 < len(ended) < 200
    assert all(eos not in r[:-1] for r in found)
    assert all(len(r) == 10 for r in found if r[-1] != eos)


def test_sampling_follows_the_models_distribution(small_pair):
    prompt, n = [3, 6, 7, 4], 3000
    found = sample(small_pair.teacher, [prompt] * n, small_pair, max_new_tokens=1, seed=4)
    expected = next_token(small_pair.teacher, prompt)
    assert_counts(found, expected, n)


def test_temperature_and_top_p_shape_the_distribution(small_pair):
    prompt, n = [3, 6, 7, 4], 3000
    found = sample(
        small_pair.teacher, [prompt] * n, small_pair, max_new_tokens=1, temperature=1.5, top_p=0.8
    )
    log_p = next_token(small_pair.teacher, prompt).log()
    expected = top_p_filter(log_p / 1.5, 0.8)
    assert (expected == 0).any()
    assert_counts(found, expected, n)


def assert_counts(found, expected, n):
    counts = torch.bincount(torch.tensor([r[0] for r in found]), minlength=len(expected))
    assert counts[expected == 0].sum() == 0
    kept = expected * n > 5  # the chi-square test wants no tiny cells
    observed = [*counts[kept].tolist(), int(counts[~kept].sum())]
    theory = [*(expected[kept] * n).tolist(), float(expected[~kept].sum() * n)]
    scale = sum(observed) / sum(theory)
    pairs = [(o, t * scale) for o, t in zip(observed, theory, strict=True) if t > 0]
    assert chisquare(*zip(*pairs, strict=True)).pvalue > 1e-3


def test_tokens_beyond_the_shared_vocabulary_are_never_sampled(shared_pair, prompts):
    narrow = Pair(shared_pair.teacher, shared_pair.student, shared_pair.tokenizer, vocab_size=40)
    for temperature in (0.0, 1.0):
        for model in (narrow.teacher, narrow.student):
            found = sample(model, prompts, narrow, temperature=temperature, max_new_tokens=8)
            assert max(t for r in found for t in r) < 40
    drafts = speculative_drafts(prompts, narrow, top_k_acceptance(5), max_new_tokens=4)
    assert max(t for r in drafts for t in r) < 40


def test_a_model_in_training_mode_samples_as_in_evaluation_and_stays_in_its_mode(pair, prompts):
    def drop(*_):
        raise AssertionError("asked in training mode")

    quiet = sample(pair.student, prompts[:3], pair, max_new_tokens=3)
    hook = pair.student.register_forward_pre_hook(lambda m, _: drop() if m.training else None)
    pair.student.train()
    assert sample(pair.student, prompts[:3], pair, max_new_tokens=3) == quiet
    speculative_drafts(prompts[:3], pair, top_k_acceptance(5), max_new_tokens=3)
    hook.remove()
    assert pair.student.training
    assert not pair.teacher.training


@pytest.mark.parametrize("draw", [
    lambda pair, prompts, **how: sample(pair.student, prompts, pair, **how),
    lambda pair, prompts, **how: speculative_drafts(prompts, pair, top_k_acceptance(5), **how),
])  # fmt: skip
def test_no_prompts_give_no_responses_and_bad_settings_a_sentence(draw, shared_pair, prompts):
    assert draw(shared_pair, []) == []
    for bad in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"temperature must be .*, but got {bad}"):
            draw(shared_pair, prompts, temperature=bad)
    for bad in (0.0, -0.5, 1.5, math.nan):
        with pytest.raises(ValueError, match=rf"top_p must lie in \(0, 1\], but got {bad}"):
            draw(shared_pair, prompts, top_p=bad)


@pytest.mark.parametrize(
    ("ids", "kept"),
    [
        ([5, 1, 1, 1], [5, 1]),
        ([1, 7], [1]),
        ([5, 6], [5, 6]),
        ([5, 2, 1], [5, 2]),
        ([], []),
    ],
)
def test_a_response_is_cut_by_position_with_its_stop_token(ids, kept):
    assert truncate_at_eos(ids, {1, 2}) == kept


def test_text_comes_without_the_end_token(shared_pair):
    fox = shared_pair.tokenizer("a fox .").input_ids
    assert decode(shared_pair, [[*fox, 1], fox, []]) == ["a fox .", "a fox .", ""]


# --- nucleus ------------------------------------------------------------------------------------------
def test_the_nucleus_is_the_smallest_set_with_the_mass_asked_for():
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(50, 9, generator=generator)
    for top_p in (0.01, 0.5, 0.9, 0.999):
        found, probs = top_p_filter(logits, top_p), logits.softmax(-1)
        for row, p in zip(found, probs, strict=True):
            kept, mass = [], 0.0
            for token in p.argsort(descending=True).tolist():
                if mass >= top_p:
                    break
                kept.append(token)
                mass += float(p[token])
            expected = torch.zeros(9)
            expected[kept] = p[kept] / p[kept].sum()
            torch.testing.assert_close(row, expected)


def test_a_whole_nucleus_is_the_softmax():
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(1))
    assert torch.equal(top_p_filter(logits, 1.0), logits.softmax(-1))


# --- drafts that the teacher corrects ---------------------------------------------------------------
def test_3_8_a_teacher_that_accepts_all_leaves_the_students_distribution(small_pair):
    prompt, n = [3, 6, 7, 4], 3000
    found = speculative_drafts(
        [prompt] * n, small_pair, top_k_acceptance(small_pair.vocab_size), max_new_tokens=1, seed=1
    )
    assert_counts(found, next_token(small_pair.student, prompt), n)


@pytest.mark.parametrize("top_k", [1, 3])
def test_3_8_a_rejected_draft_is_drawn_again_by_the_teacher(small_pair, top_k):
    # P(v) = q(v) inside the teacher's top K, plus p(v) times the chance that a draft falls outside.
    prompt, n = [3, 6, 7, 4], 3000
    p, q = (next_token(m, prompt) for m in (small_pair.teacher, small_pair.student))
    inside = torch.zeros_like(q)
    inside[p.topk(top_k).indices] = 1
    expected = q * inside + (q * (1 - inside)).sum() * p
    assert 0.05 < float((q * inside).sum()) < 0.95
    found = speculative_drafts(
        [prompt] * n, small_pair, top_k_acceptance(top_k), max_new_tokens=1, seed=2
    )
    assert_counts(found, expected, n)


def test_3_8_greedy_drafts_with_top_1_are_the_teachers_greedy_responses(shared_pair, prompts):
    found = speculative_drafts(
        prompts[:8], shared_pair, top_k_acceptance(1), max_new_tokens=6, temperature=0
    )
    stops = shared_pair.eos_token_ids
    assert found == [greedy_by_hand(shared_pair.teacher, x, stops, 6) for x in prompts[:8]]


def test_3_8_greedy_drafts_that_all_pass_are_the_students_greedy_responses(shared_pair, prompts):
    found = speculative_drafts(
        prompts[:8],
        shared_pair,
        top_k_acceptance(shared_pair.vocab_size),
        max_new_tokens=6,
        temperature=0,
    )
    stops = shared_pair.eos_token_ids
    assert found == [greedy_by_hand(shared_pair.student, x, stops, 6) for x in prompts[:8]]


def test_3_8_drafts_repeat_by_seed_stop_and_leave_the_global_generator_alone(small_pair):
    prompts = [[3, 6, 4]] * 50
    before = torch.random.get_rng_state()
    first = speculative_drafts(prompts, small_pair, top_k_acceptance(5), max_new_tokens=8, seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert (
        speculative_drafts(prompts, small_pair, top_k_acceptance(5), max_new_tokens=8, seed=3)
        == first
    )
    assert (
        speculative_drafts(prompts, small_pair, top_k_acceptance(5), max_new_tokens=8, seed=4)
        != first
    )
    assert any(len(r) < 8 for r in first)
    assert all(1 not in r[:-1] for r in first)


# --- typical acceptance ------------------------------------------------------------------------------
def test_6_1_typical_acceptance_by_its_definition():
    p = torch.tensor([[0.7, 0.2, 0.1, 0.0], [0.25, 0.25, 0.25, 0.25], [0.97, 0.01, 0.01, 0.01]])
    for epsilon in (0.0, 0.3, 0.5, 0.7, 1.0):
        for row, kept in zip(p, typical_acceptance(epsilon)(p), strict=True):
            entropy = -sum(x * math.log(x) for x in row.tolist() if x)
            threshold = min(epsilon**2, epsilon * math.exp(-entropy))
            near = [abs(x - threshold) < 1e-6 for x in row.tolist()]  # exp(−H) of the uniform one
            wanted = [x > threshold for x in row.tolist()]
            assert all(k == w or n for k, w, n in zip(kept.tolist(), wanted, near, strict=True))
    assert typical_acceptance(0.0)(p).tolist() == (p > 0).tolist()  # all but the forbidden
    assert typical_acceptance(1.0)(p)[0].tolist() == [
        True,
        False,
        False,
        False,
    ]  # the likeliest always passes


@pytest.mark.parametrize("bad", [1.1, math.nan])
def test_an_epsilon_out_of_range_is_refused(bad):
    with pytest.raises(ValueError, match="epsilon"):
        typical_acceptance(bad)


def every_response(pair, prompt, accept, length):
    """P(response) of all responses up to `length` tokens, from (6.2) token by token."""
    found, unfinished = {}, {(): 1.0}
    for _ in range(length):
        longer = {}
        for written, chance in unfinished.items():
            p, q = (next_token(m, [*prompt, *written]) for m in (pair.teacher, pair.student))
            for token, share in enumerate(speculative_mixture(p, q, accept).tolist()):
                key = (*written, token)
                (found if token in pair.eos_token_ids else longer)[key] = chance * share
        unfinished = longer
    return found | unfinished


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("draft", [1, 2, 3])
def test_6_2_whole_responses_are_distributed_as_the_enumeration_says(small_pair, epsilon, draft):
    prompt, n, accept = [3, 6, 7, 4], 3000, typical_acceptance(epsilon)
    chances = every_response(small_pair, prompt, accept, 3)
    assert sum(chances.values()) == pytest.approx(1.0, abs=1e-5)
    found = speculative_drafts(
        [prompt] * n, small_pair, accept, draft=draft, max_new_tokens=3, seed=5
    )
    assert len(found) == n
    likely = [y for y, chance in chances.items() if chance * n >= 5]
    counts = [sum(tuple(y) == known for y in found) for known in likely]
    expected = [chances[y] * n for y in likely]
    rest = n - sum(expected)
    assert chisquare([*counts, n - sum(counts)], [*expected, rest]).pvalue > 1e-3


def test_6_2_the_ends_of_epsilon_the_student_exactly_and_not_quite_the_teacher(small_pair):
    p, q = (next_token(m, [3, 6, 7, 4]) for m in (small_pair.teacher, small_pair.student))
    torch.testing.assert_close(speculative_mixture(p, q, typical_acceptance(0.0)), q)
    at_one = speculative_mixture(p, q, typical_acceptance(1.0))
    assert 0.5 * (at_one - p).abs().sum() > 0.01
    torch.testing.assert_close(speculative_mixture(p, q, lambda p: torch.zeros_like(p).bool()), p)


def test_drafts_of_different_lengths_in_one_batch_are_those_of_single_prompts(small_pair):
    prompts = [[3, 6, 4], [3, 6, 7, 8, 9, 4]]
    greedy = {"max_new_tokens": 8, "temperature": 0}
    both = speculative_drafts(prompts, small_pair, typical_acceptance(0.5), draft=3, **greedy)
    alone = [
        speculative_drafts([x], small_pair, typical_acceptance(0.5), draft=3, **greedy)[0]
        for x in prompts
    ]
    assert both == alone


def test_a_model_that_is_not_a_number_stops_the_sampling(tokenizer, prompts):
    broken = build_pair(tokenizer)
    with torch.no_grad():
        broken.student.model.norm.weight[0] = math.nan
    for draw in (
        lambda: sample(broken.student, prompts[:2], broken, max_new_tokens=2),
        lambda: sample(broken.student, prompts[:2], broken, max_new_tokens=2, temperature=0),
        lambda: speculative_drafts(prompts[:2], broken, top_k_acceptance(5), max_new_tokens=2),
    ):
        with pytest.raises(FloatingPointError, match="logits after prompt [01] are not finite"):
            draw()
