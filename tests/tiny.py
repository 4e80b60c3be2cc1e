"""Tiny random models of any architecture that transformers has, with a tokenizer of bytes."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

SPECIAL = ["<pad>", "<eos>", "<stop>", "<bos>"]
TURNS = (
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% if think is defined and not think %} brief{% endif %}"
    "{% endif %}"
)


def byte_tokenizer(template=TURNS, eos="<eos>", bos=False, extra=(), ids=None, **options):
    """Encode each byte as a token of its own; `bos` puts one before every text, as Llama's and Gemma's do.

    `extra`: more special tokens; `ids`: those of some tokens, above the rest.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {c: i for i, c in enumerate(alphabet)} | (ids or {})
    core = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([*SPECIAL, *extra])
    if bos:
        first = [("<bos>", core.token_to_id("<bos>"))]
        core.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=first)
        options["bos_token"] = "<bos>"
    names = {"pad_token": "<pad>", **({"eos_token": eos} if eos else {})}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, **names, **options)
    tokenizer.chat_template = template
    return tokenizer


def tiny_lm(kind, tokenizer, seed=0, layers=2, **more):
    """Draw a model of `kind`, a model_type of transformers: 32 wide, 4 heads, 256 positions."""
    shape = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": layers,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**shape, **more}))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0, 0.15)
    return model.eval()
