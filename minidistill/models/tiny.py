"""The tiny models of the course's worlds: presets of Llama, and a tokenizer of words."""

import torch

from minidistill.utils import quiet, unknown_name_message

with quiet():  # transformers imports torchao where that is installed
    from transformers import LlamaConfig, LlamaForCausalLM

TINY = {  # layers × width
    name: {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": 4}
    for name, layers, width in (
        ("teacher", 4, 128), ("medium", 4, 96), ("thin", 4, 64), ("student", 3, 64), ("small", 3, 32),
        ("deep", 12, 64), ("flat", 1, 64), ("width_32", 3, 32), ("width_40", 3, 40), ("width_48", 3, 48),
        ("width_96", 3, 96),
    )
}  # fmt: skip


def tiny_model(preset: str, tokenizer, seed: int) -> LlamaForCausalLM:
    """A fresh Llama of the given preset for a word-level tokenizer."""
    if preset not in TINY:
        raise ValueError(unknown_name_message("preset", preset, TINY))
    config = tiny_config(tokenizer, **TINY[preset])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def tiny_config(tokenizer, hidden_size: int, **shape) -> LlamaConfig:
    """A small Llama that reads this tokenizer."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=3 * hidden_size,
        max_position_embeddings=128,
        initializer_range=0.06,  # 0.02 suits widths of thousands; this small it starts far too flat
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **shape,
    )


def word_tokenizer(words: list[str]):
    """A word-level tokenizer with a chat template: '<user> … <assistant> … <eos>'."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<eos>", "<unk>", "<user>", "<assistant>"]
    ids = {token: i for i, token in enumerate([*special, *words])}
    core = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.add_special_tokens(special)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>",
        additional_special_tokens=["<user>", "<assistant>"], clean_up_tokenization_spaces=False,
    )  # fmt: skip
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} "
        "{% if m['role'] == 'assistant' %}<eos> {% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    return tokenizer
