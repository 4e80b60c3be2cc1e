"""A student out of a teacher: the same weights with fewer layers."""

import copy
from collections.abc import Sequence

import torch
from torch import nn

from minidistill.models import single_model
from minidistill.tasks import Example


def prune_layers(model: nn.Module, keep: int | Sequence[int]) -> nn.Module:
    """Copy `model` with `keep` of its layers: as many, evenly spaced, or the ones named.

    Embeddings, norms and the kept layers are the teacher's own weights: a student of the same
    tokenizer that only needs to learn to do without the layers that are gone. Of a multimodal model the
    language model alone loses layers. ValueError for fewer than 2 layers, or for layers that are not there.
    """
    decoder = model.get_decoder()
    layers = decoder.layers
    chosen = _evenly(keep, len(layers)) if isinstance(keep, int) else sorted(set(keep))
    if len(chosen) < 2 or not set(chosen) <= set(range(len(layers))):
        raise ValueError(
            f"of {len(layers)} layers (from 0) at least 2 must be kept, but got {chosen}"
        )
    decoder.layers = nn.ModuleList(layers[i] for i in chosen)  # so that only these are copied
    try:
        student = copy.deepcopy(model)
    finally:
        decoder.layers = layers
    for position, layer in enumerate(student.get_decoder().layers):
        layer.self_attn.layer_idx = position  # the KV cache is indexed by it
    config = student.config.get_text_config()
    config.num_hidden_layers = len(chosen)
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[i] for i in chosen]
    return student.requires_grad_(True)


@torch.no_grad()
def block_influence(model: nn.Module, tokenizer, prompts: Sequence[Example | str]) -> list[float]:
    """Measure how much each layer changes what passes through it: 1 − E_t cos(h_in,t, h_out,t).

    One number a layer, a mean over all tokens of all prompts; a layer near 0 hands on what it was given
    and is the first to go. `tokenizer` is what `load_model` gives.
    Source: ShortGPT (arXiv 2403.03853, equation 1).
    """
    pair, layers = single_model(model, tokenizer), model.get_decoder().layers
    changed, tokens = [0.0] * len(layers), 0

    def measure(i: int):
        def hook(layer, inputs, named, output):
            before = inputs[0] if inputs else named["hidden_states"]
            after = output[0] if isinstance(output, tuple) else output
            changed[i] += float((1 - torch.cosine_similarity(before, after, dim=-1)).sum())

        return layers[i].register_forward_hook(hook, with_kwargs=True)

    hooks = [measure(i) for i in range(len(layers))]
    try:
        for prompt in prompts:
            ids = pair.encode(prompt)
            model(input_ids=torch.tensor([ids], device=pair.device), **ids.extra_inputs)
            tokens += len(ids)
    finally:
        for hook in hooks:
            hook.remove()
    return [total / tokens for total in changed]


def most_influential(influence: Sequence[float], keep: int) -> list[int]:
    """Choose the `keep` layers that change most, in their order; the first and the last always stay."""
    _check_depth(keep, len(influence))
    between = range(1, len(influence) - 1)
    best = sorted(between, key=lambda i: -influence[i])[: keep - 2]
    return sorted({0, len(influence) - 1, *best})


def _evenly(keep: int, total: int) -> list[int]:
    _check_depth(keep, total)
    return [round(i * (total - 1) / (keep - 1)) for i in range(keep)]


def _check_depth(keep: int, total: int) -> None:
    if not 2 <= keep <= total:
        raise ValueError(f"keep must lie between 2 and {total}, but got {keep}")
