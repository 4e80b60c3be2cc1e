"""Text to token ids, and batches of similar length."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidistill.tasks import Example
from minidistill.tokenization import (
    encode_prompt,
    encode_references,
    encode_response,
    length_buckets,
)
from minidistill.utils import derive_seed


def test_a_prompt_ends_where_its_answer_starts(tokenizer):
    ids = encode_prompt(tokenizer, "describe a fox")
    assert tokenizer.decode(ids).split() == ["<user>", "describe", "a", "fox", "<assistant>"]


def test_a_response_goes_through_no_template_and_ends_with_the_end_token(tokenizer):
    ids = encode_response(tokenizer, "a fox is red .")
    assert tokenizer.decode(ids).split() == ["a", "fox", "is", "red", ".", "<eos>"]


def test_prompt_and_response_together_are_what_the_template_writes(tokenizer):
    whole = tokenizer.apply_chat_template(
        [
            {"role": "user", "content": "describe a fox"},
            {"role": "assistant", "content": "a fox is red ."},
        ],
        tokenize=False,
    )
    found = encode_prompt(tokenizer, "describe a fox") + encode_response(
        tokenizer, "a fox is red ."
    )
    assert found == tokenizer(whole, add_special_tokens=False).input_ids


def test_without_a_template_a_prompt_is_its_text_alone(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", None)
    assert tokenizer.decode(encode_prompt(tokenizer, "describe a fox")).split() == [
        "describe", "a", "fox",
    ]  # fmt: skip


def test_each_epoch_takes_another_reference(tokenizer):
    examples = [Example("describe a fox", ("red", "small", "brown")), Example("is it ?", ("yes",))]
    first, second, fourth = (encode_references(tokenizer, examples, e) for e in (0, 1, 3))
    assert tokenizer.decode(first[0]).split()[0] == "red"
    assert tokenizer.decode(second[0]).split()[0] == "small"
    assert fourth == first
    assert first[1] == second[1]


def test_a_prompt_without_reference_is_named(tokenizer):
    examples = [Example("describe a fox", ("red",)), Example("describe a whale")]
    with pytest.raises(ValueError, match="prompt 2 has no reference response: 'describe a whale'"):
        encode_references(tokenizer, examples, 0)


@settings(max_examples=50, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 50), max_size=120),
    batch_size=st.integers(1, 17),
    seed=st.integers(0, 99),
)
def test_buckets_hold_every_index_once_in_batches_of_the_size_asked(lengths, batch_size, seed):
    batches = length_buckets(lengths, batch_size, seed)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert len(batches) == -(-len(lengths) // batch_size)
    assert sum(len(batch) < batch_size for batch in batches) <= 1


def test_buckets_are_repeatable_differ_by_seed_and_hold_similar_lengths():
    lengths = [(7 * i) % 40 for i in range(256)]
    assert length_buckets(lengths, 8, seed=3) == length_buckets(lengths, 8, seed=3)
    assert length_buckets(lengths, 8, seed=3) != length_buckets(lengths, 8, seed=4)
    spans = [
        max(map(lengths.__getitem__, b)) - min(map(lengths.__getitem__, b))
        for b in length_buckets(lengths, 8, 3)
    ]
    assert sum(spans) / len(spans) < 10  # by chance it would be above 30


def test_buckets_come_in_random_order_with_random_members():
    lengths = [i // 2 for i in range(64)]
    totals = [sum(lengths[i] for i in batch) for batch in length_buckets(lengths, 8, seed=3)]
    assert totals != sorted(totals)
    members = [{frozenset(batch) for batch in length_buckets([5] * 64, 8, seed)} for seed in (3, 4)]
    assert members[0] != members[1]


def test_a_seed_depends_on_every_part_and_is_the_same_in_every_process():
    assert (
        len(
            {
                derive_seed(0, "step", 1),
                derive_seed(1, "step", 1),
                derive_seed(0, "order", 1),
                derive_seed(0, "step", 2),
            }
        )
        == 4
    )
    assert derive_seed(0, "step", 1) == 28679623850856145
