"""The exercises of lesson 12: the step of a group, a rounded weight, a layer with adapters."""

import torch

from minidistill.applications.quantization import dequantize, quantize
from minidistill.checks import Exercise, checker

_DRAW = torch.Generator().manual_seed(12)
_WEIGHT = torch.randn(4, 16, generator=_DRAW)
_CASES = ((_WEIGHT, 3, 8), (_WEIGHT[:2], 2, 4))


def _upright(weight, group):
    """Each group's largest weight made positive: a negative one lies half-way, and either place is right."""
    groups = weight.reshape(len(weight), -1, group)
    largest = groups.gather(-1, groups.abs().argmax(-1, keepdim=True))
    return (groups * largest.sign()).reshape(weight.shape)


_UNTIED = ((_upright(_WEIGHT, 8), 3, 8), (_upright(_WEIGHT[:2], 4), 2, 4))
_ZEROS = {"a group of zeros (0/0)": (torch.zeros(1, 4), 2, 4)}
_LAYER = (torch.randn(3, 8, generator=_DRAW), torch.randn(5, 8, generator=_DRAW))
_ADAPTERS = (torch.randn(2, 8, generator=_DRAW), torch.randn(5, 2, generator=_DRAW))


def group_steps(weight, bits, group):
    """The steps of (12.1): (rows, groups)."""
    return quantize(weight, bits, group)[1]


def rounded(weight, bits, group):
    """ŵ of (12.1)."""
    return dequantize(*quantize(weight, bits, group))


def adapted_layer(x, weight, a, b):
    """ŷ of (12.3)."""
    return x @ (weight + b @ a).T


def _groups(weight, group):
    return weight.reshape(len(weight), -1, group)


def _on(weight, bits, group, low=None, high=None, way=torch.round, stretch=1.0):
    """Rounded with another mistake each."""
    high = 2 ** (bits - 1) - 1 if high is None else high
    low = -(2 ** (bits - 1)) if low is None else low
    step = stretch * group_steps(weight, bits, group).unsqueeze(-1)
    ints = way(_groups(weight, group) / step).clamp(low, high)
    return (ints * step).reshape(weight.shape)


EXERCISES_12 = {
    "group_steps": Exercise(
        answer=group_steps,
        first_step="reshape to (rows, groups, group), then the largest |w| of each; how many steps lie "
        "between −max|w| and max|w|?",
        cases=_CASES,
        mistakes={
            "a negative weight may be the largest: take max|w|": lambda w, b, g: (
                _groups(w, g).amax(-1) / (2 ** (b - 1) - 0.5)
            ),
            "2^b places have 2^b − 1 steps between them, not 2^b": lambda w, b, g: (
                _groups(w, g).abs().amax(-1) / 2 ** (b - 1)
            ),
            "max|w| lies on a place here, and one place of the 2^b is never used: the range from "
            "−max|w| to max|w| is cut into 2^b − 1 steps": lambda w, b, g: (
                _groups(w, g).abs().amax(-1) / (2 ** (b - 1) - 1)
            ),
            "it is twice too large: the range from −max|w| to max|w| is 2 max|w|, but only one of "
            "its halves is max|w|": lambda w, b, g: 2 * group_steps(w, b, g),
            "this is the range from the smallest to the largest weight; (12.1) takes that from −max|w| "
            "to max|w|": lambda w, b, g: (
                (_groups(w, g).amax(-1) - _groups(w, g).amin(-1)) / (2**b - 1)
            ),
            "a group is made of neighbours: reshape to (rows, groups, group), in this order": (
                lambda w, b, g: w.reshape(len(w), g, -1).abs().amax(1) / (2 ** (b - 1) - 0.5)
            ),
            "this is one step a row: each group has its own": lambda w, b, g: group_steps(
                w, b, w.shape[1]
            ).expand(-1, w.shape[1] // g),
            "this is one step for all: each group has its own": lambda w, b, g: group_steps(
                w.reshape(1, -1), b, w.numel()
            ).expand(len(w), w.shape[1] // g),
        },
        gradient=False,
    ),
    "rounded": Exercise(
        answer=rounded,
        first_step="weight / step, round, clamp to the places there are, times step; then back to the "
        "weight's own shape.",
        cases=_UNTIED,
        mistakes={
            "these are the whole numbers; the weight is n times its step": lambda w, b, g: quantize(
                w, b, g
            )[0].float(),
            "nothing is clipped: the largest weights lie on a place that b bits do not have": (
                lambda w, b, g: _on(w, b, g, low=-(2**b), high=2**b)
            ),
            "it is cut off towards zero, not rounded to the nearest": lambda w, b, g: _on(
                w, b, g, way=torch.trunc
            ),
            "it is rounded down, not to the nearest": lambda w, b, g: _on(w, b, g, way=torch.floor),
            "it is rounded up, not to the nearest": lambda w, b, g: _on(w, b, g, way=torch.ceil),
            "max|w| lies on a place here: the step is max|w| / (2^(b−1) − ½)": lambda w, b, g: _on(
                w, b, g, stretch=(2 ** (b - 1) - 0.5) / (2 ** (b - 1) - 1)
            ),
            "the row has one step; each group has its own": lambda w, b, g: rounded(
                w, b, w.shape[1]
            ),
        },
        edges=_ZEROS,
        gradient=False,
    ),
    "adapted_layer": Exercise(
        answer=adapted_layer,
        first_step="what the broken layer says of x, (batch, out), plus what A and then B make of x.",
        cases=((*_LAYER, *_ADAPTERS),),
        mistakes={
            "the broken layer is missing: adapters are beside it, not in its place": (
                lambda x, w, a, b: x @ a.T @ b.T
            ),
            "the adapters are missing": lambda x, w, a, b: x @ w.T,
            "the adapters' answer is taken off, not added": lambda x, w, a, b: (
                x @ w.T - x @ a.T @ b.T
            ),
            "no gradient reaches B: build the product from the tensors themselves": (
                lambda x, w, a, b: x @ w.T + x @ a.T @ b.T.detach()
            ),
        },
    ),
}

check_12 = checker(EXERCISES_12)
