"""Text to token ids, and batches of similar length."""

import copy
import math
import random
from collections.abc import Mapping, Sequence
from functools import lru_cache

from torch import Tensor

from minidistill.tasks import Example, as_example

MAX_BATCH_VALUES = 2**24  # numbers in the extra inputs that a model reads together
MAX_LOGITS = 2**27  # numbers in the logits that one pass gives: half a gigabyte


class EncodedPrompt(list):
    """Hold a prompt's token ids, and in `extra_inputs` what else its model reads: argument → (1, …).

    A text has no extra inputs, and a plain list of ids will do for it. `prompt + tokens` carries the prompt
    on and keeps its extra inputs. `for_teacher`: the same prompt in the teacher's own words, if those differ.
    """

    def __init__(
        self, ids: Sequence[int], extra_inputs: dict[str, Tensor] | None = None,
        for_teacher: Sequence[int] | None = None,
    ):  # fmt: skip
        super().__init__(ids)
        self._extra_inputs = extra_inputs or {}
        self.for_teacher = for_teacher

    @property
    def extra_inputs(self) -> dict[str, Tensor]:
        return self._extra_inputs

    def __add__(self, tokens: Sequence[int]) -> "EncodedPrompt":
        carried_on = copy.copy(self)
        carried_on.extend(tokens)
        if self.for_teacher is not None:
            carried_on.for_teacher = [*self.for_teacher, *tokens]
        return carried_on


def length_buckets(
    lengths: Sequence[int], batch_size: int, seed: int, pool: int = 8
) -> list[list[int]]:
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


def max_batch_size(prompts: Sequence[Sequence[int]], limit: int, logits: int = 1) -> int:
    """Count the prompts that go through a model together: `limit`, fewer where extra inputs are large, or
    the `logits` that are made for each (tokens × vocabulary)."""
    extra = next((x.extra_inputs for x in prompts if isinstance(x, EncodedPrompt)), {})
    size = sum(value.numel() for value in extra.values())
    return max(
        1, min(limit, MAX_LOGITS // max(1, logits), MAX_BATCH_VALUES // size if size else limit)
    )


def encode_prompt(tokenizer, prompt: Example | str, options: Mapping | None = None) -> list[int]:
    """Encode a text prompt through the chat template, up to where its answer starts (see `Pair.encode`).

    `options` are handed to the template, e.g. {"enable_thinking": False}. Where there is none, the turns are
    put below one another, after the token that the tokenizer puts before a text by itself, if it does.
    ValueError for a conversation that the template refuses.
    """
    messages = as_example(prompt).messages()
    if tokenizer.chat_template is None:
        text = "\n\n".join(message["content"] for message in messages) + "\n"
        ids = tokenizer(text, add_special_tokens=False).input_ids
        first = tokenizer.bos_token_id
        adds = first is not None and tokenizer("a").input_ids[:1] == [first]
        return [first, *ids] if adds and ids[:1] != [first] else ids
    try:
        text = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False, **(options or {})
        )
    except Exception as error:  # a template is a program of its own
        said = f"the chat template refuses the prompt {messages[-1]['content']!r:.80}: {error}"
        raise ValueError(said) from None
    for message in messages:
        told = "".join(message["content"].split())
        if message["role"] != "assistant" and told not in "".join(text.split()):
            raise ValueError(
                f"the chat template leaves out what {message['role']} says: {message['content']!r:.80}"
            )
    return tokenizer(text, add_special_tokens=False).input_ids


def encode_response(tokenizer, response: str) -> list[int]:
    """The response and the token that ends it. No template: nothing else is trained on."""
    return [*tokenizer(response, add_special_tokens=False).input_ids, end_of_turn(tokenizer)]


def end_of_turn(tokenizer) -> int | None:
    """The token that ends the assistant's turn: the template's, such as <|im_end|>, else the tokenizer's.

    Folders of base models often carry a chat template beside an end of text that the template never writes.
    """
    template = getattr(tokenizer, "chat_template", None)
    return tokenizer.eos_token_id if template is None else _end_of_turn(tokenizer, str(template))


@lru_cache(maxsize=16)
def _end_of_turn(tokenizer, template: str) -> int | None:
    mark, eos = "answered", tokenizer.eos_token_id
    turns = [{"role": "user", "content": "asked"}, {"role": "assistant", "content": mark}]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False)
    except Exception:  # none, or one that wants other turns
        return eos
    _, said, after = text.rpartition(mark)  # a template of parts, not texts, leaves it out
    ids = tokenizer(after.lstrip(), add_special_tokens=False).input_ids if said else []
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return ids[0] if ids and ids[0] in special else eos


def encode_references(
    tokenizer, examples: Sequence[Example], epoch: int, rows: float = math.inf
) -> list[list[int]]:
    """One reference a prompt, another each epoch where there are several.

    ValueError for a prompt without any, and for a token from `rows` on, for which a model has no embedding.
    """
    for number, example in enumerate(examples, start=1):
        if not example.references:
            raise ValueError(f"prompt {number} has no reference response: {example.prompt!r}")
    chosen = [e.references[epoch % len(e.references)] for e in examples]
    encoded = [encode_response(tokenizer, text) for text in chosen]
    for text, ids in zip(chosen, encoded, strict=True):
        if max(ids) >= rows:
            token = tokenizer.convert_ids_to_tokens(max(ids))
            raise ValueError(
                f"the reference {text!r:.80} has the token {token!r} (id {max(ids)}), for which a model has "
                f"no embedding ({rows} rows): call resize_token_embeddings"
            )
    return encoded
