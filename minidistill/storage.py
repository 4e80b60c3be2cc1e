"""What a model is made of in memory: plain tensors, whoever's layers they belong to."""

from collections.abc import Iterator

from torch import Tensor, nn


def plain_tensors(model: nn.Module) -> Iterator[Tensor]:
    """Every tensor that belongs to the model's state, a library's quantized ones in their parts."""
    for tensor in model.state_dict(keep_vars=True).values():
        if isinstance(tensor, Tensor):
            yield from parts(tensor)


def parts(tensor: Tensor) -> list[Tensor]:
    """The plain tensors that a library's quantized one consists of; a plain one is its own only part."""
    if hasattr(tensor, "__tensor_flatten__"):  # torchao
        return [part for n in tensor.__tensor_flatten__()[0] for part in parts(getattr(tensor, n))]
    state = getattr(tensor, "quant_state", None)  # bitsandbytes
    return [tensor.detach(), *([] if state is None else [state.absmax, state.code])]


def stored_bytes(tensors: nn.Module | Iterator[Tensor]) -> int:
    """Bytes of the storage behind a model or some tensors; what is shared (a tied head) counts once."""
    if isinstance(tensors, nn.Module):
        tensors = plain_tensors(tensors)
    storages = (tensor.untyped_storage() for tensor in tensors)
    return sum({s.data_ptr(): s.nbytes() for s in storages}.values())
