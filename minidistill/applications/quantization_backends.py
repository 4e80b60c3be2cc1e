"""The same break by well-kept libraries: torchao's grid, which is (12.1), and bitsandbytes' code book.

torchao keeps each whole number in a byte while it computes, whatever its bits, and is fast on models of
any size. bitsandbytes' nf4 has no grid at all: 16 values placed where normally distributed weights are.
"""

from collections.abc import Callable

import torch
from torch import nn

from minidistill.applications.quantization import (
    check_layers,
    quantizable_layers,
    quantize_model,
    warn_of_experts,
)
from minidistill.utils import missing_extra_message, quiet, unknown_name_message


def quantize_with(
    model: nn.Module,
    bits: int,
    group: int = 32,
    library: str = "minidistill",
    scale: str = "absmax",
):
    """`model` in a few bits, in place: Linears of the blocks; embeddings, norms and the head stay.

    `library`: minidistill (packed), torchao (the same numbers, a byte each), bitsandbytes (nf4, 4 bits).
    `scale`: (12.1)'s, or "mse", which only minidistill has.
    Raises as `quantize_model` does, and ValueError for a library or a width that is not there.
    """
    if library not in BACKENDS:
        raise ValueError(unknown_name_message("library", library, BACKENDS))
    if library != "minidistill":  # which says it itself
        warn_of_experts(model)
    return BACKENDS[library](model, bits, group, scale=scale)


def _torchao(model: nn.Module, bits: int, group: int, scale: str) -> nn.Module:
    """torchao's IntxWeightOnlyConfig as it comes: symmetric, a scale a group in the weight's dtype."""
    with quiet():
        try:
            from torchao.quantization import IntxWeightOnlyConfig, quantize_
            from torchao.quantization.granularity import PerGroup
        except ModuleNotFoundError:
            raise ModuleNotFoundError(missing_extra_message("torchao", "adapt")) from None
        layers = _checked(model, bits, group, scale, "torchao")
        config = IntxWeightOnlyConfig(getattr(torch, f"int{bits}"), PerGroup(group))
        quantize_(model, config, filter_fn=lambda _, name: name in layers)
    return model.requires_grad_(False)


def _bitsandbytes(model: nn.Module, bits: int, group: int, scale: str) -> nn.Module:
    """bitsandbytes' nf4: blocks of `group` weights, each the nearest of 16 fixed values times its max."""
    if bits != 4:
        raise ValueError(f"bitsandbytes' nf4 has 4 bits, but bits is {bits}")
    try:
        with quiet():
            import bitsandbytes as bnb
    except ModuleNotFoundError:
        raise ModuleNotFoundError(missing_extra_message("bitsandbytes", "adapt")) from None
    if group not in (32, 64, 128, 256, 512, 1024, 2048, 4096):
        raise ValueError(f"bitsandbytes wants a group of 32, 64 … 4096, but got {group}")
    for name, layer in _checked(model, bits, group, scale, "bitsandbytes").items():
        size, dtype = (layer.in_features, layer.out_features), layer.weight.dtype
        new = bnb.nn.Linear4bit(*size, layer.bias is not None, dtype, False, "nf4")
        new.weight = bnb.nn.Params4bit(
            layer.weight.data, False, blocksize=group, compress_statistics=False, quant_type="nf4"
        )
        new.bias = layer.bias
        # Some CPUs have a kernel for inference alone; weights packed for it lose every gradient afterwards.
        new.support_avx512bf16_for_cpu = False
        model.set_submodule(name, new.to(layer.weight.device))
    model.is_loaded_in_4bit = True  # what peft looks for
    return model.requires_grad_(False)


def _checked(
    model: nn.Module, bits: int, group: int, scale: str, library: str
) -> dict[str, nn.Linear]:
    """Collect what another library quantizes; ValueError for what it has not, or cannot be quantized."""
    if scale != "absmax":
        raise ValueError(f"{library} has no scale {scale!r}: only minidistill searches")
    layers = dict(quantizable_layers(model))
    check_layers(layers, bits, group)
    return layers


BACKENDS: dict[str, Callable] = {
    "minidistill": quantize_model, "torchao": _torchao, "bitsandbytes": _bitsandbytes,
}  # fmt: skip
