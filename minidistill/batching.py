"""Text to token ids, and batches of similar length."""

import hashlib
import random
from collections.abc import Sequence

from minidistill.tasks import Example


def encode_prompt(tokenizer, prompt: str) -> list[int]:
    """The prompt through the model's chat template, up to where its answer starts."""
    if tokenizer.chat_template is None:
        text = prompt + "\n"
    else:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False
        )
    return tokenizer(text, add_special_tokens=False).input_ids


def encode_response(tokenizer, response: str) -> list[int]:
    """The response and the token that ends it. No template: nothing else is trained on."""
    return [*tokenizer(response, add_special_tokens=False).input_ids, tokenizer.eos_token_id]


def encode_references(tokenizer, examples: Sequence[Example], epoch: int) -> list[list[int]]:
    """One reference a prompt, another each epoch where there are several."""
    for number, example in enumerate(examples, start=1):
        if not example.references:
            raise ValueError(f"prompt {number} has no reference response: {example.prompt!r}")
    chosen = [e.references[epoch % len(e.references)] for e in examples]
    return [encode_response(tokenizer, text) for text in chosen]


def buckets(lengths: Sequence[int], batch_size: int, seed: int, pool: int = 8) -> list[list[int]]:
    """Indices in random batches whose members have similar lengths, so that little is padding.

    Shuffle, sort by length within pools of `pool` batches, cut, shuffle the batches.
    """
    rng = random.Random(seed)
    order = list(range(len(lengths)))
    rng.shuffle(order)
    batches = []
    for start in range(0, len(order), batch_size * pool):
        part = sorted(order[start : start + batch_size * pool], key=lengths.__getitem__)
        batches += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
    rng.shuffle(batches)
    return batches


def seeded(*parts) -> int:
    """A seed that depends on all of `parts` and on nothing else."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:7], "big")
