"""Group-wise integer quantization: the grid, packed bytes, layers, files, stored sizes."""

import warnings
from collections.abc import Iterator
from math import gcd
from pathlib import Path

import torch
from torch import Tensor, nn

from minidistill.checkpoint import parts, plain_tensors
from minidistill.models.checks import check_no_adapters
from minidistill.runlog import atomic_write
from minidistill.utils import unknown_name_message

SCALES = ("absmax", "mse")  # how a group's step is chosen


def quantize(weight: Tensor, bits: int, group: int, scale: str = "absmax") -> tuple[Tensor, Tensor]:
    r"""(12.1) n = clip(round(w / s), −2^(b−1), 2^(b−1) − 1), with s = max|w| / (2^(b−1) − ½) a group.

    Each row is cut into groups of `group` weights along the input, and each group has a step s of its
    own. (rows, columns) → whole numbers int8 (rows, columns), steps (rows, columns / group) in the
    weight's dtype. A group of zeros gets the smallest step there is. Halves round to even.
    `scale`: "mse" searches the s of the least Σ(w − ŵ)² instead, in the same bytes: a smaller s clips the
    largest weights and rounds all others more finely; a negative one has the odd place on the other side.
    Raises ValueError for other bits than 2 to 8, a group that does not divide the columns, NaN or inf.
    """
    _check(weight, bits, group)
    if scale not in SCALES:
        raise ValueError(unknown_name_message("scale", scale, SCALES))
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    groups = weight.detach().reshape(len(weight), -1, group)
    steps = groups.abs().amax(-1, keepdim=True) / ((high - low) / 2)
    steps = steps.clamp(min=torch.finfo(weight.dtype).smallest_normal)
    if scale == "mse":
        steps = _least_squares_steps(groups, steps, low, high)
    ints = (groups * (1 / steps)).round().clamp(low, high)  # times 1/s, as torchao does it
    return ints.to(torch.int8).reshape(weight.shape), steps.squeeze(-1)


def _least_squares_steps(groups: Tensor, widest: Tensor, low: int, high: int) -> Tensor:
    """The step a group that leaves the least squared error: ± a share of the widest, from 1 down to 0.3.

    The error is that of the step as it is kept, summed in float32. Of equal ones the widest stays.
    """
    exact, best = groups.float(), widest
    least = torch.full_like(widest, float("inf"), dtype=torch.float32)
    for share in torch.linspace(1, 0.3, 71).tolist():
        for steps in (share * widest, -share * widest):
            ints = (groups * (1 / steps)).round().clamp(low, high)
            kept = (ints * steps).float()
            error = (exact - kept).square().sum(-1, keepdim=True)
            best, least = torch.where(error < least, steps, best), torch.minimum(error, least)
    return best


def dequantize(ints: Tensor, steps: Tensor) -> Tensor:
    """ŵ = n · s: (rows, columns) and (rows, groups) → (rows, columns) in the dtype of `steps`."""
    groups = ints.reshape(*steps.shape, -1).to(steps.dtype)
    return (groups * steps.unsqueeze(-1)).reshape(ints.shape)


def max_rounding_error(weight: Tensor, bits: int, group: int) -> Tensor:
    r"""(12.2) max |w − ŵ| / s in each group, at most ½: (rows, columns) → (rows, groups).

    The grid has 2^b places for the 2^b − 1 steps between −max|w| and max|w|, so the largest weights
    too are only half a step from their place. The lowest place of all takes nothing but a weight of
    −max|w|, which lies half-way between two.
    """
    ints, steps = quantize(weight, bits, group)
    error = (weight.detach() - dequantize(ints, steps)).abs()
    return error.reshape(*steps.shape, -1).amax(-1) / steps


# --- bytes --------------------------------------------------------------------------------------------
def pack(ints: Tensor, bits: int) -> Tensor:
    """Eight whole numbers of b bits in b bytes: int8, any shape → uint8 (bytes,)."""
    _check_bits(bits)
    places = torch.arange(8, device=ints.device)
    unsigned = ints.flatten().long() + 2 ** (bits - 1)
    eights = nn.functional.pad(unsigned, (0, -len(unsigned) % 8)).reshape(-1, 8)
    words = (eights << bits * places).sum(-1, keepdim=True)
    return ((words >> 8 * places[:bits]) & 255).to(torch.uint8).flatten()


def unpack(packed: Tensor, bits: int, shape) -> Tensor:
    """The whole numbers that `pack` was given: uint8 (bytes,) → int8 of that shape."""
    places = torch.arange(8, device=packed.device)
    words = (packed.reshape(-1, bits).long() << 8 * places[:bits]).sum(-1, keepdim=True)
    unsigned = (words >> bits * places) & 2**bits - 1
    ints = (unsigned - 2 ** (bits - 1)).to(torch.int8).flatten()
    return ints[: torch.Size(shape).numel()].reshape(shape)


# --- models -------------------------------------------------------------------------------------------
class QuantizedLinear(nn.Linear):
    """A Linear that keeps packed bytes and steps; its `weight` is made of them whenever it is asked for.

    Nothing of it is trained: bytes and steps are buffers, a bias is frozen.
    """

    def __init__(self, ints: Tensor, steps: Tensor, bits: int, bias: nn.Parameter | None = None):
        nn.Module.__init__(self)
        (self.out_features, self.in_features), self.bits = ints.shape, bits
        self.register_buffer("packed", pack(ints, bits))
        self.register_buffer("steps", steps)
        self.bias = bias
        self.requires_grad_(False)

    @property
    def ints(self) -> Tensor:
        return unpack(self.packed, self.bits, (self.out_features, self.in_features))

    @property
    def weight(self) -> Tensor:
        return dequantize(self.ints, self.steps)

    def extra_repr(self) -> str:
        group = self.in_features // self.steps.shape[1]
        return f"{super().extra_repr()}, bits={self.bits}, group={group}"


def quantize_model(
    model: nn.Module, bits: int, group: int = 32, head: bool = False, scale: str = "absmax"
) -> nn.Module:
    """Every Linear of the blocks becomes a `QuantizedLinear`, in place; all else is frozen as it is.

    `scale`: how each group's step is chosen, as in `quantize`: "absmax" is (12.1), "mse" searches.
    Embeddings, norms and the output head stay. A head that is tied to the embedding *is* the
    embedding: to quantize it would break the tie or store it twice, so `head=True` is refused there.
    Raises ValueError for that, a model that is quantized already, a group that does not divide every
    width, weights that are not finite; nothing is changed then.
    """
    layers = dict(quantizable_layers(model, head))
    check_layers(layers, bits, group)
    warn_of_experts(model)
    for name, layer in layers.items():
        ints, steps = quantize(layer.weight, bits, group, scale)
        model.set_submodule(name, QuantizedLinear(ints, steps, bits, layer.bias))
    return model.requires_grad_(False)


def quantizable_layers(model: nn.Module, head: bool = False) -> Iterator[tuple[str, nn.Linear]]:
    """(name, layer) of what `quantize_model` quantizes; ValueError where there is nothing to."""
    if is_quantized(model):
        raise ValueError("the model is quantized already: load it in full precision first")
    check_no_adapters(model)
    output, inputs = model.get_output_embeddings(), model.get_input_embeddings()
    if head and output is not None and output.weight is inputs.weight:
        raise ValueError(
            "head=True: the head is tied to the embedding (one tensor), so quantizing it would break "
            "the tie or store it twice; leave head=False"
        )
    found = [
        (name, m)
        for name, m in model.named_modules()
        if isinstance(m, nn.Linear) and (head or m is not output)
    ]
    if not found:
        raise ValueError(f"{type(model).__name__} has no Linear layer to quantize")
    yield from found


def warn_of_experts(model: nn.Module) -> None:
    """Say which share of a mixture's weights stays: experts that are stacked in one tensor are no Linear."""
    sizes = {False: 0, True: 0}
    for weight in model.parameters():
        sizes[weight.dim() == 3] += weight.numel()
    share = sizes[True] / max(1, sum(sizes.values()))
    if share > 0.01:
        warnings.warn(
            f"the experts, {share:.0%} of the weights, stay as they are: they are no Linear layers",
            stacklevel=3,
        )


def is_quantized(model: nn.Module) -> bool:
    """Tell whether a quantized layer is ours, torchao's or bitsandbytes'."""
    ours = any(isinstance(module, QuantizedLinear) for module in model.modules())
    return ours or any(len(parts(p)) > 1 for p in model.parameters())


def check_layers(layers: dict[str, nn.Linear], bits: int, group: int) -> None:
    """ValueError naming the first layer that cannot be quantized, or the groups that divide all."""
    _check_bits(bits)
    common = gcd(*(layer.in_features for layer in layers.values()))
    if not isinstance(group, int) or group < 1 or common % group:
        fitting = [str(n) for n in range(8, common + 1) if common % n == 0] or ["1"]
        raise ValueError(
            f"group must divide the width of every layer, but got {group}; sizes that do: "
            + ", ".join(fitting)
        )
    for name, layer in layers.items():
        try:
            _check(layer.weight, bits, group)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None


def _check(weight: Tensor, bits: int, group: int) -> None:
    _check_bits(bits)
    if weight.ndim != 2 or not weight.is_floating_point():
        raise ValueError(
            f"weight must be a matrix of floats, but is {weight.dtype} {tuple(weight.shape)}"
        )
    if not isinstance(group, int) or group < 1 or weight.shape[1] % group:
        raise ValueError(
            f"group must divide the {weight.shape[1]} columns of the weight, but got {group}"
        )
    if not weight.isfinite().all():
        raise ValueError("weight has NaN or inf, and no grid holds those")


def _check_bits(bits: int) -> None:
    if isinstance(bits, bool) or not isinstance(bits, int) or not 2 <= bits <= 8:
        raise ValueError(f"bits must be a whole number from 2 to 8, but got {bits}")


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
        _without_quantization(n): w
        for n, w in model.named_parameters()
        if n.rpartition(".")[0] not in layers and ".lora_" not in n
    }
    for name, layer in layers.items():
        state |= {
            f"{_without_quantization(name)}.{part}": tensor
            for part, tensor in layer.state_dict().items()
        }
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
    for name, layer in list(quantizable_layers(model)):
        if f"{name}.packed" in state:
            packed, steps = (state.pop(f"{name}.{part}") for part in ("packed", "steps"))
            ints = unpack(packed, bits, (layer.out_features, layer.in_features))
            ours = QuantizedLinear(ints, steps, bits, layer.bias)
            model.set_submodule(name, ours.to(layer.weight.device))
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


def _without_quantization(name: str) -> str:
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


def stored_bytes(tensors: nn.Module | Iterator[Tensor]) -> int:
    """Bytes of the storage behind a model or some tensors; what is shared (a tied head) counts once."""
    if isinstance(tensors, nn.Module):
        tensors = plain_tensors(tensors)
    storages = (tensor.untyped_storage() for tensor in tensors)
    return sum({s.data_ptr(): s.nbytes() for s in storages}.values())
