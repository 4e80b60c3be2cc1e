"""LoRA: a model stays as it is, whole or quantized, and small matrices beside each layer are trained.

    pair.student = add_lora(quantize_model(pair.student, bits=2), rank=16)
    distill(pair, task, "distillm2")                         # the teacher is the model before breaking

Only the adapters are trained (LoRA, arXiv 2106.09685, through `peft`). Source of the experiment:
DistiLLM-2 (arXiv 2503.07067, Table 9): INT4 and LoRA, by GKD, DistiLLM and DistiLLM-2.
"""

import copy
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from minidistill.applications.quantization import is_quantized, load_packed, stored_bytes
from minidistill.applications.quantization_backends import quantize_with
from minidistill.models import Pair
from minidistill.models.checks import check_no_adapters
from minidistill.utils import missing_extra_message, quiet


def add_lora(model: nn.Module, rank: int = 16, seed: int = 0):
    r"""(12.3) ŷ = Ŵ x + B A x: adapters A (rank, in) and B (out, rank) beside every layer, quantized or not.

    B starts at 0, so nothing changes before training; A is drawn from `seed`. Everything but A and B
    is frozen. Returns peft's model, which generates and is saved like any other. Raises ValueError
    for a rank below 1, a model without Linear layers or with adapters, ModuleNotFoundError without peft.
    """
    if not isinstance(rank, int) or rank < 1:
        raise ValueError(f"rank must be a whole number from 1, but got {rank}")
    check_no_adapters(model)
    peft, output = _peft(), model.get_output_embeddings()
    linear = {n: m for n, m in model.named_modules() if isinstance(m, (nn.Linear, Conv1D))}
    layers = [name for name, module in linear.items() if module is not output]
    if not layers:
        raise ValueError(f"{type(model).__name__} has no Linear layer for adapters to stand beside")
    config = peft.LoraConfig(
        r=rank, lora_alpha=rank, lora_dropout=0.0, target_modules=layers, task_type="CAUSAL_LM",
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in linear.values()),
    )  # fmt: skip
    with torch.random.fork_rng(), quiet():
        torch.manual_seed(seed)
        student = peft.get_peft_model(model, config)
    return _forbid_merge(student) if is_quantized(model) else student


def load_quantized_with_lora(whole: nn.Module, folder: Path):
    """Load what `apply quantize` saved: packed weights in place of those of `whole`, and adapters."""
    broken = load_packed(whole, Path(folder) / "broken.safetensors")
    with quiet():
        return _forbid_merge(_peft().PeftModel.from_pretrained(broken, Path(folder) / "student"))


def merge_lora(student) -> nn.Module:
    """A copy in full precision with W = Ŵ + B A, on purpose: the few bits are gone, the healing stays.

    What a linear layer makes of the unit vectors is its weight, whoever's layer it is.
    """
    plain = copy.deepcopy(student.get_base_model())
    same = {"device": plain.device, "dtype": plain.dtype}
    healed = [(n, m) for n, m in plain.named_modules() if hasattr(m, "lora_A")]
    for name, layer in healed:
        base, size = layer.get_base_layer(), layer.in_features
        transposed = isinstance(base, Conv1D)  # GPT-2 keeps its weights as (in, out)
        if transposed:
            linear = Conv1D(layer.out_features, size).to(**same)
        else:
            linear = nn.Linear(size, layer.out_features, base.bias is not None, **same)
        with torch.no_grad():
            zero, units = layer(torch.zeros(1, size, **same)), layer(torch.eye(size, **same))
            linear.weight.copy_(units - zero if transposed else (units - zero).T)
            if base.bias is not None:
                linear.bias.copy_(zero[0])
        plain.set_submodule(name, linear)
    return plain.requires_grad_(False)


def adapter_bytes(student) -> int:
    """Bytes of what is trained, read off the storage."""
    return stored_bytes(weight for weight in student.parameters() if weight.requires_grad)


def quantized_pair(
    pair: Pair, bits: int, group: int = 32, rank: int = 16, library: str = "minidistill",
    scale: str = "absmax",
) -> Pair:  # fmt: skip
    """Teacher: the pair's. Student: a copy of it in `bits` bits with adapters that say nothing yet."""
    broken = quantize_with(copy.deepcopy(pair.teacher), bits, group, library, scale)
    return replace(pair, student=add_lora(broken, rank))


def lora_pair(pair: Pair, rank: int = 16) -> Pair:
    """Teacher: the pair's. Student: a copy of the pair's that trains nothing but adapters."""
    return replace(pair, student=add_lora(copy.deepcopy(pair.student), rank))


def save_merged(pair: Pair, folder: Path) -> None:
    """Save the pair's student with its adapters merged: it loads like any other model."""
    replace(pair, student=merge_lora(pair.student)).save_student(folder)


def _peft():
    try:
        with quiet():
            import peft
    except ModuleNotFoundError:
        raise ModuleNotFoundError(missing_extra_message("peft", "adapt")) from None
    return peft


def _forbid_merge(student):
    """Merging, refused: left to itself peft loses the adapters, or rounds them away."""
    for layer in student.modules():
        if hasattr(layer, "lora_A"):
            layer.merge = _refuse_merge
    return student


def _refuse_merge(*_, **__):
    raise ValueError(
        "adapters cannot be merged into quantized weights without being rounded away; "
        "lora.merge_lora makes a copy in full precision"
    )
