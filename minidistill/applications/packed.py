"""A broken model as a file: packed bytes and steps of its layers, all else as it is (safetensors)."""

from pathlib import Path

from torch import nn

from minidistill.applications.quantization import QuantizedLinear, linears, unpack
from minidistill.runlog import atomic_write


def save_packed(model: nn.Module, path: Path) -> int:
    """Write a model broken by `quantize_model` or torchao; returns the file's bytes.

    A tied head is left out, it is the embedding; so are adapters, which peft saves. Raises
    ValueError for a model that is not quantized, or by a library whose weights are not on the grid (12.1).
    """
    from safetensors.torch import save

    layers = {n: layer for n, m in model.named_modules() if (layer := _ours(m))}
    if not layers:
        raise ValueError(
            "there is nothing packed to save: no layer is quantized to the grid (12.1)"
        )
    state = {
        _plain(n): w
        for n, w in model.named_parameters()
        if n.rpartition(".")[0] not in layers and ".lora_" not in n
    }
    for name, layer in layers.items():
        state |= {f"{_plain(name)}.{part}": tensor for part, tensor in layer.state_dict().items()}
    bits = {str(layer.bits) for layer in layers.values()}
    if len(bits) > 1:
        raise ValueError(f"all layers must have one width, but there are {', '.join(sorted(bits))}")
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    atomic_write(path, save(plain, {"bits": bits.pop()}))
    return path.stat().st_size


def load_packed(model: nn.Module, path: Path) -> nn.Module:
    """Put what `save_packed` wrote into an unbroken model of the same shape, in place."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        bits = int(file.metadata()["bits"])
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name, layer in list(linears(model)):
        if f"{name}.packed" in state:
            packed, steps = (state.pop(f"{name}.{part}") for part in ("packed", "steps"))
            ints = unpack(packed, bits, (layer.out_features, layer.in_features))
            model.set_submodule(name, QuantizedLinear(ints, steps, bits, layer.bias))
    missing, unexpected = model.load_state_dict(state, strict=False)
    if unexpected or set(missing) - _tied_and_packed(model):
        raise ValueError(f"{path} holds another model: {(unexpected or missing)[0]} does not fit")
    return model.requires_grad_(False)


def _tied_and_packed(model: nn.Module) -> set[str]:
    """Names that the rest of the file need not hold: a tied head, and what stands in its layers."""
    once = {name for name, _ in model.named_parameters()}
    packed = {
        f"{n}.{part}"
        for n, m in model.named_modules()
        if isinstance(m, QuantizedLinear)
        for part in ("packed", "steps")
    }
    return packed | (model.state_dict().keys() - once)


def _plain(name: str) -> str:
    """The name that a tensor had before peft put adapters beside its layer."""
    return name.removeprefix("base_model.model.").replace(".base_layer", "")


def _ours(module: nn.Module) -> QuantizedLinear | None:
    """A quantized layer as ours, whoever made it; None for any other."""
    weight = getattr(module, "weight", None)
    if isinstance(module, QuantizedLinear):
        return module
    if not isinstance(module, nn.Linear) or not hasattr(weight, "qdata"):
        return None
    bits = int(str(weight.target_dtype).removeprefix("torch.int"))
    return QuantizedLinear(weight.qdata, weight.scale, bits, module.bias)
