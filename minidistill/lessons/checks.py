"""Check a learner's function against the library's, and name the mistake that it makes.

    check = checker(EXERCISES)      # in a lesson's module
    check("kl", my_kl)              # in its notebook

The right answer is the library's, and the usual wrong ones are kept beside it: a function that agrees
with one of those on every input gets the hint written for it. An exercise is data. To add one, write an
entry into its lesson's `EXERCISES`; a test asks that every mistake differs from the answer and from the
other mistakes, and gets its own hint.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from minidistill import divergences as D
from minidistill.logprobs import ResponseLogProbs
from minidistill.utils import unknown_name_message


@dataclass(frozen=True)
class Exercise:
    """Hold the library's `answer`, ordinary inputs (`cases`) and those that break naive code (`edges`).

    `mistakes` maps a hint to the function that makes that mistake. With `gradient`, the gradients in the
    arguments at the places `trained` must agree too; where that is empty, in the student of every
    `ResponseLogProbs` of the case, or else in its last floating-point tensor.
    """

    answer: Callable
    first_step: str
    cases: tuple
    mistakes: dict[str, Callable]
    edges: dict[str, tuple] = field(default_factory=dict)
    gradient: bool = True
    trained: tuple[int, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """Hold whether the function is right, and a sentence about it."""

    passed: bool
    message: str


def checker(exercises: Mapping[str, Exercise]) -> Callable[[str, Callable], None]:
    """Make a lesson's `check(name, function)`, which prints the verdict on a learner's function.

    An unsolved or broken one is told so, not raised; ValueError for an exercise that does not exist.
    """

    def check(name: str, function: Callable) -> None:
        if name not in exercises:
            raise ValueError(unknown_name_message("exercise", name, exercises))
        print(f"{name}: {verdict(exercises[name], function).message}")

    return check


def within(what: str, values, low: float, high: float) -> None:
    """Say whether all of a measurement's values lie in [low, high]; AssertionError where they do not."""
    values = torch.as_tensor(values, dtype=torch.float64).flatten()
    least, most = float(values.min()), float(values.max())
    measured = f"{least:.3g}" if len(values) == 1 else f"{least:.3g} to {most:.3g}"
    inside = low <= least and most <= high
    sentence = f"{what}: {measured}, expected {low:g} to {high:g}"
    if not inside:
        raise AssertionError(f"{sentence}: not reproduced here")
    print(f"{sentence}: agrees")


RAISED = {  # what torch says → what it means here
    "Boolean value of Tensor with more than one value is ambiguous": ". Python's min, max, if and `and` "
    "look at one number; torch.minimum, torch.where, clamp and & look at each.",
    "does not require grad": ". Is something detached, or all of it under no_grad?",
}


def verdict(exercise: Exercise, function: Callable) -> Verdict:
    """Compare a function with the exercise's answer and with its known mistakes."""
    if function is exercise.answer:
        return Verdict(False, "that is the library's own function; write yours from the equation.")
    try:
        fault = _fault(exercise, function)
    except NotImplementedError:
        return Verdict(False, f"not solved yet. First step: {exercise.first_step}")
    except Exception as error:  # whatever it is, the learner should read it and the notebook go on
        hint = next((hint for said, hint in RAISED.items() if said in str(error)), "")
        return Verdict(False, f"your function raised {type(error).__name__}: {error}{hint}")
    if fault:
        return Verdict(False, fault)
    return Verdict(True, f"right{', and so is its gradient' if exercise.gradient else ''}.")


def _fault(exercise: Exercise, function: Callable) -> str | None:
    """The first thing wrong, from coarse to fine: type, shape, NaN, a known mistake, numbers, edges."""
    given, wanted = _values(function, exercise.cases), _values(exercise.answer, exercise.cases)
    for yours, right in zip(given, wanted, strict=True):
        if fault := _form(yours, right):
            return fault
    known = _known_mistake(exercise, function)
    if not _same(given, wanted):
        return known or _difference(given, wanted)
    if exercise.gradient and (fault := _gradient_fault(exercise, function)):
        return known or fault
    for what, case in exercise.edges.items():
        yours, right = _values(function, [case])[0], _values(exercise.answer, [case])[0]
        if not _same([yours], [right]):
            return (
                f"right on ordinary inputs, but for {what} you get {_number(yours)} where "
                f"{_number(right)} is right."
            )
    return None


def _form(yours: object, right: Tensor) -> str | None:
    if not isinstance(yours, Tensor):
        return f"a tensor is wanted, but your function returns {type(yours).__name__}."
    if yours.shape != right.shape:
        shapes = f"the shape is {tuple(yours.shape)}, but {tuple(right.shape)} is wanted"
        if yours.dim() == 0:
            return f"{shapes}: reduce the last axis only, and keep one number for each row."
        if yours.dim() == right.dim() + 1:
            return f"{shapes}: there is one axis too many; which one has to go?"
        return f"{shapes}."
    if right.dtype == torch.bool and yours.dtype != torch.bool:
        return f"a boolean tensor is wanted, but yours holds {str(yours.dtype).removeprefix('torch.')}."
    if yours.isnan().any():
        return "the shape is right, but there is NaN even on ordinary inputs: a log of a negative number?"
    return None


def _known_mistake(exercise: Exercise, function: Callable) -> str | None:
    """The hint of the mistake that gives the same values (and gradients, where they count)."""
    for hint, wrong in exercise.mistakes.items():
        if _same(_values(function, exercise.cases), _values(wrong, exercise.cases)) and (
            not exercise.gradient
            or _same(_gradients(exercise, function), _gradients(exercise, wrong))
        ):
            return f"the shape is right, but {hint}."
    return None


def _difference(given: list[Tensor], wanted: list[Tensor]) -> str:
    yours, right = (torch.cat([v.flatten().double() for v in values]) for values in (given, wanted))
    ratio = yours / right
    if torch.allclose(ratio, ratio[:1].expand_as(ratio), rtol=1e-4):
        return (
            f"the shape is right, and every value is {float(ratio[0]):.3g} times what it should be."
        )
    worst = int((yours - right).abs().argmax())
    return (
        f"the shape is right, the values are not: for instance {float(yours[worst]):.4f} where "
        f"{float(right[worst]):.4f} is right."
    )


def _gradient_fault(exercise: Exercise, function: Callable) -> str | None:
    given, wanted = _gradients(exercise, function), _gradients(exercise, exercise.answer)
    if _same(given, wanted):
        return None
    if any(w.any() and not g.any() for g, w in zip(given, wanted, strict=True)):
        everywhere = not any(g.any() for g in given)
        missed = "the student" if everywhere else "one of the arguments that are trained"
        return f"the value is right, but no gradient reaches {missed}: look for detach, item or no_grad."
    return (
        "the value is right, but its gradient is not: something on the student's path is detached."
    )


def _values(function: Callable, cases) -> list:
    return [_detached(function(*_copy(case))) for case in cases]


def _gradients(exercise: Exercise, function: Callable) -> list[Tensor]:
    """The gradients of the summed value in what is trained, case by case."""
    found = []
    for case in exercise.cases:
        arguments = _copy(case)
        trained = [leaf.requires_grad_() for leaf in _trained(arguments, exercise.trained)]
        value = function(*arguments).sum()
        if value.requires_grad:
            value.backward()
        found += [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in trained]
    return found


def _trained(arguments: list, places: tuple[int, ...]) -> list[Tensor]:
    if places:
        return [arguments[place] for place in places]
    students = [a.log_q for a in arguments if isinstance(a, ResponseLogProbs)]
    return (
        students or [a for a in arguments if isinstance(a, Tensor) and a.is_floating_point()][-1:]
    )


def _copy(case: tuple) -> list:
    """Fresh tensors for every call, so that a function which writes into its input spoils nothing."""
    return [_fresh(argument) for argument in case]


def _fresh(argument):
    if isinstance(argument, ResponseLogProbs):
        log_p = argument.log_p.clone()
        own = (argument.labels, argument.mask, argument.log_q)
        return ResponseLogProbs(*(tensor.clone() for tensor in own), lambda: log_p)
    return argument.clone() if isinstance(argument, Tensor) else argument


def _detached(value):
    return value.detach() if isinstance(value, Tensor) else value


def _same(a: list, b: list) -> bool:
    return all(
        x.shape == y.shape and torch.allclose(x.double(), y.double(), rtol=1e-3, atol=1e-5)
        for x, y in zip(a, b, strict=True)
    )


def _number(value: Tensor) -> str:
    return ", ".join(f"{round(float(v), 6) + 0.0:.3g}" for v in value.flatten())


def length_mask(*lengths: int, width: int = 4) -> torch.Tensor:
    """True for the first `lengths` tokens of each response."""
    return torch.arange(width) < torch.tensor(lengths).unsqueeze(-1)


def random_log_probs(seed: int) -> ResponseLogProbs:
    """Two responses of 3 and 2 tokens over 5 words, as teacher and student see them."""
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(2, 2, 3, 5, generator=generator).log_softmax(-1)
    labels = torch.randint(5, (2, 3), generator=generator)
    return ResponseLogProbs(labels, length_mask(3, 2, width=3), draw[0], lambda: draw[1])


def random_pairs(*scalars: float) -> tuple:
    """Two ordinary cases (tgo, sgo, scalar), each with responses and a scalar of its own."""
    seeds = (3, 5)
    return tuple(
        (random_log_probs(seed), random_log_probs(seed + 1), scalar)
        for seed, scalar in zip(seeds, scalars, strict=True)
    )


def pull_up(y: ResponseLogProbs, alpha) -> Tensor:
    """Return SKL at every token, padding too: (batch, tokens)."""
    return D.skew_kl(y.log_p, y.log_q, alpha)


def push_down(y: ResponseLogProbs, alpha) -> Tensor:
    """Return SRKL at every token, padding too: (batch, tokens)."""
    return D.skew_reverse_kl(y.log_p, y.log_q, alpha)


def padded_log_ratio(y: ResponseLogProbs) -> Tensor:
    """Return log q − log p summed over all places, as one does who forgets the mask: (batch,)."""
    return (y.token_log_q - y.token_log_p).sum(-1)


def random_distributions(*scalars: float, vocab_size: int = 5) -> tuple:
    """Two ordinary cases of three tokens each: (log_p, log_q), or with a scalar: (log_p, log_q, scalar)."""
    generator = torch.Generator().manual_seed(1)
    draw = torch.randn(2, 2, 3, vocab_size, generator=generator).log_softmax(-1)
    settings = [(scalar,) for scalar in scalars] or [()] * len(draw)
    return tuple((*pair, *setting) for pair, setting in zip(draw, settings, strict=True))


def log_probs_of(*probabilities: float) -> torch.Tensor:
    """Return log p of a distribution written out by hand: (vocab,)."""
    return torch.tensor(probabilities).log()
