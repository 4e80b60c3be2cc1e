"""A second device where there is none: CPU tensors with a mark, and an error where two devices meet."""

import torch
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._pytree import tree_leaves, tree_map_only

SECOND = torch.device("cpu", 1)  # tensors made there are plain CPU tensors
MOVES = {"to", "cpu", "cuda", "copy_", "type_as", "_to_copy"}
FREE = {
    "__getitem__",
    "__setitem__",
    "__repr__",
    "__deepcopy__",
    "_has_compatible_shallow_copy_type",
}


class SecondDevice(TorchFunctionMode):
    """Within it SECOND behaves as a GPU does: an operation's tensors must be all there or all here.

    As on a GPU numbers (tensors without dimensions) may stand anywhere, an index may be a CPU tensor, and
    numpy reads the CPU's tensors alone. The mark is an attribute of the tensor.
    """

    def __enter__(self):
        """Keep the mark where a tensor becomes a Parameter, which no torch function does."""
        self._make = make = torch.Tensor._make_subclass

        def marked(cls, data, *args, **kwargs):
            return self._marked(make(cls, data, *args, **kwargs), hasattr(data, "_second"))

        torch.Tensor._make_subclass = staticmethod(marked)
        return super().__enter__()

    def __exit__(self, *error):
        torch.Tensor._make_subclass = self._make
        return super().__exit__(*error)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = (resolve_name(func) or getattr(func, "__name__", "")).rpartition(".")[2]
        owner = getattr(getattr(func, "__self__", None), "__name__", "")
        if name in ("__get__", "__set__"):
            name = f"{owner}.{name}"
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        there = [hasattr(x, "_second") for x in tensors]
        if name == "device.__get__":
            return SECOND if there[0] else func(*args, **kwargs)
        if name == "data.__set__":
            return self._replace(func, args)
        if name in ("numpy", "__array__") and any(there):
            raise TypeError(
                "can't convert a tensor of the second device to numpy: use .cpu() first"
            )
        moves = name in MOVES
        sized = [t for x, t in zip(tensors, there, strict=True) if x.ndim]
        if not moves and name not in FREE and any(sized) and not all(sized):
            raise RuntimeError(f"{name}: expected all tensors to be on the same device")
        out = func(*args, **kwargs)
        if moves and name != "copy_":
            place = next((x for x in tree_leaves((args[1:], kwargs)) if _is_place(x)), None)
            place = torch.device("cpu") if name == "cpu" else place
            second = there[0] if place is None else torch.device(place) == SECOND
            return self._marked(out, second, fresh=out is args[0] and second != there[0])
        second, place = any(there), kwargs.get("device")
        if place is not None:
            second = torch.device(place) == SECOND
        elif name == "tensor":
            second = False
        return tree_map_only(torch.Tensor, lambda x: self._marked(x, second), out)

    @staticmethod
    def _marked(tensor, second: bool, fresh: bool = False):
        tensor = tensor.view_as(tensor) if fresh else tensor
        if second:
            tensor._second = True
        elif hasattr(tensor, "_second"):
            del tensor._second
        return tensor

    def _replace(self, func, args):
        func(*args)
        self._marked(args[0], hasattr(args[1], "_second"))


def _is_place(x) -> bool:
    return isinstance(x, torch.device) or (
        isinstance(x, str) and x.split(":")[0] in ("cpu", "cuda")
    )
