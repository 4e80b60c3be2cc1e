"""A student out of a teacher: the same weights with fewer layers."""

import copy
import json
from collections.abc import Sequence

import torch
from torch import nn

from minidistill.models import eval_mode, single_model
from minidistill.tasks import Example

LAYER_NUMBERS = {"layer_idx", "layer_id", "layer_number"}
# Of configs: numbers of layers, and how many layers from the first are of a kind.
LISTS_OF_LAYERS = {"mlp_only_layers", "full_attention_layers", "attn_layer_indices", "moe_layers"}
FIRST_LAYERS = {"first_k_dense_replace", "max_window_layers", "moe_layer_start_index"}


def prune_layers(model: nn.Module, keep: int | Sequence[int]) -> nn.Module:
    """Copy `model` with `keep` of its layers: as many, evenly spaced, or the ones named.

    Embeddings, norms and the kept layers are the teacher's own weights: a student of the same
    tokenizer that only needs to learn to do without the layers that are gone. Of a multimodal model the
    language model alone loses layers. ValueError for fewer than 2 layers, for layers that are not there, and
    for an architecture of which a model with fewer layers is another model.
    """
    holder, name = decoder_layers(model)
    layers = getattr(holder, name)
    chosen = _evenly(keep, len(layers)) if isinstance(keep, int) else sorted(set(keep))
    if len(chosen) < 2 or not set(chosen) <= set(range(len(layers))):
        raise ValueError(
            f"of {len(layers)} layers (from 0) at least 2 must be kept, but got {chosen}"
        )
    setattr(holder, name, nn.ModuleList(layers[i] for i in chosen))  # so that only these are copied
    try:
        student = copy.deepcopy(model)
    finally:
        setattr(holder, name, layers)
    student_holder, _ = decoder_layers(student, len(chosen))
    for position, layer in enumerate(getattr(student_holder, name)):
        for module in layer.modules():
            for number in LAYER_NUMBERS & vars(module).keys():
                setattr(module, number, position)  # the KV cache is indexed by it
    _shorten(student.config.get_text_config(), chosen, len(layers))
    _check_same_model(student)
    return student.requires_grad_(True)


def decoder_layers(model: nn.Module, count: int | None = None) -> tuple[nn.Module, str]:
    """Find where a decoder keeps its layers, (module, attribute): Llama's `layers`, GPT-2's `h`, …

    The first list as long as the config says (or `count`). ValueError where there is none.
    """
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    count = count or model.config.get_text_config().num_hidden_layers
    for module in (decoder or model).modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ModuleList) and len(child) == count:
                return module, name
    kind = model.config.model_type
    raise ValueError(f"no list of {count} layers was found in a model of kind {kind!r}")


def _shorten(config, chosen: list[int], total: int) -> None:
    """Make the config that of the kept layers: what speaks of each, of some or of the first so many."""
    config.num_hidden_layers = len(chosen)
    listing = LISTS_OF_LAYERS & vars(config).keys()
    for name, value in list(vars(config).items()):
        if isinstance(value, list | tuple) and len(value) == total and name not in listing:
            setattr(config, name, type(value)(value[i] for i in chosen))
    for name in listing:
        listed = getattr(config, name) or []
        setattr(config, name, [chosen.index(i) for i in listed if i in chosen])
    for name in FIRST_LAYERS & vars(config).keys():
        if isinstance(first := getattr(config, name), int):
            setattr(config, name, sum(i < first for i in chosen))


@torch.no_grad()
def _check_same_model(student: nn.Module) -> None:
    """ValueError unless the config alone, with the same weights, says the same: that is what a file keeps."""
    kind, size = student.config.model_type, student.get_input_embeddings().weight.shape[0]
    limit = getattr(student.config.get_text_config(), "max_position_embeddings", None) or 64
    ids = (
        torch.arange(min(64, limit), device=student.device)[None] % size
    )  # longer than a tiny window
    try:
        written = json.loads(student.config.to_json_string())
        config = type(student.config).from_dict(written)
        again = type(student)(config).to(student.device, student.dtype)
        again.load_state_dict(student.state_dict())
        with eval_mode(student, again):
            ours, theirs = (model(input_ids=ids).logits for model in (student, again))
        same = torch.allclose(ours, theirs, atol=1e-3 * float(ours.abs().max()))
    except (RuntimeError, TypeError, ValueError, IndexError, KeyError) as error:
        raise ValueError(
            f"a model of kind {kind!r} cannot lose these layers: its config does not rebuild it "
            f"({next(iter(str(error).splitlines()), type(error).__name__)})"
        ) from None
    if not same:
        raise ValueError(
            f"a model of kind {kind!r} cannot lose these layers: loaded again it would be another model"
        )


@torch.no_grad()
def block_influence(model: nn.Module, tokenizer, prompts: Sequence[Example | str]) -> list[float]:
    """Measure how much each layer changes what passes through it: 1 − E_t cos(h_in,t, h_out,t).

    One number a layer, a mean over all tokens of all prompts; a layer near 0 hands on what it was given
    and is the first to go. `tokenizer` is what `load_model` gives.
    Source: ShortGPT (arXiv 2403.03853, equation 1).
    """
    pair, layers = single_model(model, tokenizer), getattr(*decoder_layers(model))
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
            with eval_mode(model):
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
