"""Small languages that can be written and read by the same patterns.

A pattern is a sentence with slots: a lower-case {slot} is one word, an upper-case {SLOT} a list
such as 'a , b and c'. Filling it writes a sentence; compiled to a regular expression it reads one.
"""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from minidistill.tasks import NO_ANSWER, Example, Grade, as_example

# "a , b and c": a word may be "and", so that each text has one reading; two make a long one take for ever.
LIST_TAIL = r"(?:(?: ,)? \w+)*"


@dataclass(frozen=True)
class Family:
    """One kind of request.

    `ask(rng)` → slots of a prompt. `answer(rng, asked)` → slots of a right response.
    `judge(asked, said)` → (correct, complete): nothing false, nothing missing.
    """

    prompts: list[str]
    responses: list[str]
    ask: Callable[[random.Random], dict]
    answer: Callable[[random.Random, dict], dict]
    judge: Callable[[dict, dict], tuple[bool, bool]]


class World:
    """A set of families: writes prompts and references, judges responses."""

    def __init__(self, families: dict[str, Family], vocabulary, openings=("",), closings=("",)):
        self.families, self.openings, self.closings = families, openings, closings
        self._prompts = {n: [*map(compile_pattern, f.prompts)] for n, f in families.items()}
        self._responses = {n: [*map(compile_pattern, f.responses)] for n, f in families.items()}
        patterns = [p for f in families.values() for p in (*f.prompts, *f.responses)]
        patterns += [*openings, *closings]
        fixed = re.sub(r"\{\w+\}", "", " ".join(patterns)).split()
        self.words = sorted({*fixed, *vocabulary, "and", ","})

    def write_prompt(self, rng: random.Random) -> str:
        family = self.families[rng.choice(list(self.families))]
        return zipf(rng, family.prompts).format(**family.ask(rng))

    def write_reference(self, rng: random.Random, prompt: Example | str) -> str:
        name, asked = self.read_prompt(prompt)
        family = self.families[name]
        body = zipf(rng, family.responses).format(**family.answer(rng, asked))
        return zipf(rng, self.openings) + body + zipf(rng, self.closings)

    def read_prompt(self, prompt: Example | str) -> tuple[str, dict]:
        """(family, slots); ValueError if no family asks that."""
        prompt = as_example(prompt).prompt
        for name, patterns in self._prompts.items():
            for pattern in patterns:
                if match := pattern.fullmatch(prompt):
                    return name, match.groupdict()
        raise ValueError(f"no family of this world asks {prompt!r}")

    def family(self, prompt: Example | str) -> str:
        """Name the kind of request."""
        return self.read_prompt(prompt)[0]

    def judge(self, prompt: Example | str, response: str) -> Grade:
        """Grade the response by that reading of it which speaks best for it; none is no answer."""
        if not isinstance(response, str):
            raise TypeError(f"a response must be a text, but is {response!r}")
        name, asked = self.read_prompt(prompt)
        readings = self._read_response(name, response.strip())
        try:
            grades = [
                grade_of(*self.families[name].judge(asked, match.groupdict())) for match in readings
            ]
        except KeyError as word:
            raise ValueError(f"{prompt!r} asks about {word}, which this world lacks") from None
        return max(grades, key=lambda found: found.grade, default=Grade(0.0, NO_ANSWER))

    def _read_response(self, name: str, response: str):
        """Each way to take the response apart: with and without an opening and a closing."""
        for opening in self.openings:
            for closing in self.closings:
                if response.startswith(opening) and response.endswith(closing):
                    body = response[len(opening) : len(response) - len(closing)]
                    yield from filter(None, (p.fullmatch(body) for p in self._responses[name]))


def grade_of(correct: bool, complete: bool) -> Grade:
    """Grade what could be read: a third each for form, truth and extent; the reason is what fails first."""
    reason = "wrong" if not correct else "right" if complete else "incomplete"
    return Grade((1 + correct + complete) / 3, reason)


def compile_pattern(pattern: str) -> re.Pattern:
    """'keep the {kinds} : {LIST}' → a regular expression with the groups `kinds` and `LIST`."""
    parts = re.split(r"\{(\w+)\}", pattern)
    for i, text in enumerate(parts):
        if i % 2:
            parts[i] = rf"(?P<{text}>\w+{'' if text.islower() else LIST_TAIL})"
        else:
            parts[i] = re.escape(text)
    return re.compile("".join(parts))


def zipf(rng: random.Random, options: list, power: float = 1.0):
    """One of `options`, the k-th with probability proportional to k^−power."""
    return rng.choices(options, [1 / (k + 1) ** power for k in range(len(options))])[0]


def zipf_subset(rng: random.Random, options: list[str], k: int) -> list[str]:
    """k different options, the likely ones first: what comes to a writer's mind."""
    rest, chosen = list(options), []
    for _ in range(k):
        chosen.append(zipf(rng, rest, power=1.2))
        rest.remove(chosen[-1])
    return chosen


def join(words: list[str]) -> str:
    """['a', 'b', 'c'] → 'a , b and c'."""
    return " and ".join(filter(None, [" , ".join(words[:-1]), words[-1]]))


def split(text: str) -> list[str]:
    """The inverse of `join`; also reads 'a , b , c'."""
    return re.split(r" , | and ", text)
