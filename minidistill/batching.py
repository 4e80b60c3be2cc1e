"""Text to token ids, and batches of similar length."""

import random
from collections.abc import Sequence

from minidistill.eyes import encode_seen, reads_pictures
from minidistill.tasks import Example
from minidistill.tasks.pictures import image_of


def encode_prompt(reader, prompt: str) -> list[int]:
    """The prompt through the model's chat template, up to where its answer starts.

    `reader` is `pair.reader`: a tokenizer, or for models that see a processor. Then the ids are an
    `eyes.Prompt`, which carries the picture's pixels. ValueError for a picture that nobody reads or a text
    alone where a picture is wanted.
    """
    if reads_pictures(reader) != (image_of(prompt) is not None):
        raise ValueError(
            f"the models read pictures, and this prompt has none: {prompt!r:.120}"
            if reads_pictures(reader)
            else f"the models read text alone, and this prompt has a picture: {prompt!r:.120}"
        )
    if reads_pictures(reader):
        return encode_seen(reader, prompt)
    if reader.chat_template is None:
        text = prompt + "\n"
    else:
        text = reader.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False
        )
    return reader(text, add_special_tokens=False).input_ids


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
