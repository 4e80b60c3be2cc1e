"""The exercises of lesson 11: cut a picture into patches, weigh it, and guess without it."""

from collections.abc import Callable

import torch
from torch import Tensor

from minidistill.applications.vision import best_blind, patches
from minidistill.checks import Exercise, checker, mask
from minidistill.scoring import masked_mean


def _chosen(log_probs: Tensor, labels: Tensor) -> Tensor:
    return log_probs.gather(-1, labels.unsqueeze(-1)).squeeze(-1)


def _worth(seen: Tensor, blind: Tensor, labels: Tensor, shown: Tensor) -> Tensor:
    return masked_mean(_chosen(seen, labels) - _chosen(blind, labels), shown)


def _logs(seed: int) -> Tensor:
    draw = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(seed))
    return draw.log_softmax(-1)


def _weighed(seed: int, *lengths: int) -> tuple:
    labels = torch.randint(5, (2, 4), generator=torch.Generator().manual_seed(seed))
    return _logs(seed), _logs(seed + 1), labels, mask(*lengths)


def _table(right: Tensor) -> Tensor:
    """`best_blind` of a table (questions, pictures, answers): 1 where the answer is right there."""
    rows = {
        str(x): [[str(y) for y in range(len(answers)) if answers[y]] for answers in pictures]
        for x, pictures in enumerate(right.tolist())
    }
    return torch.tensor(best_blind(rows))


def _sized(how: Callable[[Tensor, int], Tensor]) -> Callable:
    """`how` cuts; the rows' shape is made right, so that the order of the numbers is what is judged."""
    return lambda pixels, side: how(pixels, side).reshape(-1, pixels.shape[0] * side * side)


def _cut(pixels: Tensor, side: int) -> Tensor:
    c, h, w = pixels.shape
    return pixels.reshape(c, h // side, side, w // side, side)


_PIXELS = torch.arange(72.0).reshape(2, 6, 6).sin()
_RIGHT = torch.tensor(
    [
        [[1, 0, 0], [1, 1, 0], [0, 1, 0], [1, 0, 0]],
        [[0, 0, 1], [0, 1, 0], [0, 0, 1], [1, 0, 0]],
    ]
)

EXERCISES_11 = {
    "patches": Exercise(
        answer=patches,
        first_step="pixels.reshape(C, H // P, P, W // P, P) names the axes: which two say *which* patch?",
        cases=((_PIXELS, 2), (_PIXELS[:, :, :3], 3)),
        mistakes={
            "the numbers were never moved: a row of the picture is not a row of patches": (
                _sized(lambda v, p: v)
            ),
            "the patches run down the columns: the second comes from below the first, not from its right": (
                _sized(lambda v, p: _cut(v, p).permute(3, 1, 0, 2, 4))
            ),
            "within a patch the channels come last: C is the first axis of a patch": (
                _sized(lambda v, p: _cut(v, p).permute(1, 3, 2, 4, 0))
            ),
            "every patch is transposed: its rows stand where its columns belong": (
                _sized(lambda v, p: _cut(v, p).permute(1, 3, 0, 4, 2))
            ),
            "rows and channels have changed places within a patch: the channels come first": (
                _sized(lambda v, p: _cut(v, p).permute(1, 3, 2, 0, 4))
            ),
            "H / P and P have changed places: a patch is made of neighbours": (
                _sized(lambda v, p: _cut(v, p).permute(2, 4, 0, 1, 3))
            ),
        },
        edges={"a picture that is not square": (_PIXELS[:, :4, :], 2)},
        gradient=False,
    ),
    "picture_worth": Exercise(
        answer=_worth,
        first_step="gather what each table gives to the labels; subtract; then a mean over the mask alone.",
        cases=(_weighed(1, 4, 2), _weighed(5, 3, 1)),
        mistakes={
            "the sign is turned: what the picture *adds* is seen minus blind": (
                lambda seen, blind, y, m: -_worth(seen, blind, y, m)
            ),
            "padding is averaged too: sum over the mask and divide by its sum": (
                lambda seen, blind, y, m: (_chosen(seen, y) - _chosen(blind, y)).mean(-1)
            ),
            "the sum over tokens is not divided by their number": (
                lambda seen, blind, y, m: (
                    masked_mean(_chosen(seen, y) - _chosen(blind, y), m) * m.sum(-1)
                )
            ),
            "this compares the likeliest tokens; the response's own are the labels": (
                lambda seen, blind, y, m: masked_mean(seen.amax(-1) - blind.amax(-1), m)
            ),
            "this is a KL of whole distributions: (11.2) looks at what was said, which `labels` holds": (
                lambda seen, blind, y, m: masked_mean((seen.exp() * (seen - blind)).sum(-1), m)
            ),
            "these are differences of probabilities: nats are differences of their logarithms": (
                lambda seen, blind, y, m: masked_mean(
                    _chosen(seen, y).exp() - _chosen(blind, y).exp(), m
                )
            ),
        },
        edges={"an empty response": _weighed(9, 0, 3)},
        gradient=False,
    ),
    "best_blind": Exercise(
        answer=_table,
        first_step="for each question: which answer is right on most pictures? Then a mean over questions.",
        cases=((_RIGHT,), (_RIGHT[:, [0, 2, 3, 3, 1]],)),
        mistakes={
            "this is 1 wherever some answer is right: it chooses after looking at the picture": (
                lambda right: right.amax(-1).float().mean()
            ),
            "one answer serves all questions here: a blind model still reads the question": (
                lambda right: right.float().mean((0, 1)).amax()
            ),
            "the mean is over the questions: a blind model knows the question, not the picture": (
                lambda right: right.float().mean(0).amax(-1).mean()
            ),
            "the right answers are summed over the pictures: divide by their number": (
                lambda right: right.float().sum(1).amax(-1).mean()
            ),
            "this is the worst choice, not the best": (
                lambda right: right.float().mean(1).amin(-1).mean()
            ),
            "the mean over answers is what a model gets that guesses at random": (
                lambda right: right.float().mean()
            ),
        },
        edges={"questions of one picture each (then nothing needs to be seen)": (_RIGHT[:, :1],)},
        gradient=False,
    ),
}

check_11 = checker(EXERCISES_11)
