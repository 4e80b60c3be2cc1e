"""The arithmetic world: word problems in two to four steps, answered by worked solutions.

    tom has 8 shells . then tom finds 5 more . tom gives 3 to anna . how many shells has tom now ?
    first 8 + 5 = 13 . then 13 - 3 = 10 . #### 10

As in GSM8K only the number after #### is graded, by the same extractor. Wordings and ways to show the
work follow Zipf's law, so each problem has many right solutions, a few of them likely.
"""

import operator
import random
from dataclasses import dataclass

from minidistill.tasks import NO_ANSWER, Example, Grade, as_example
from minidistill.tasks.answers import extract_answer
from minidistill.tasks.grammar import compile_pattern, zipf

MOST = 60  # no number in a problem or its solution is larger
NAMES = ["tom", "anna", "ben", "clara", "dan", "eva", "finn", "gina"]
THINGS = ["shells", "coins", "apples", "books", "cards", "beads", "eggs", "stones"]
OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.floordiv}
Equation = tuple[int, str, int, int]  # (8, "+", 5, 13)


@dataclass(frozen=True)
class Step:
    """Something happens to what the hero has: ways to say it, and the sums that follow.

    `sums` names them over v, what the hero has; k, the number in the sentence; m, how many times; and
    t, the result of the sum before.
    """

    says: tuple[str, ...]
    sums: tuple[str, ...]
    asks: str = "how many {things} has {hero} now ?"


STEPS = {
    "find": Step(("then {hero} finds {k} more .", "{hero} picks up {k} more ."), ("v + k",)),
    "get": Step(("{friend} gives {hero} {k} more .", "{hero} gets {k} from {friend} ."), ("v + k",)),
    "give": Step(("{hero} gives {k} to {friend} .", "{friend} takes {k} of them ."), ("v - k",)),
    "lose": Step(("then {hero} loses {k} .", "{k} of them break ."), ("v - k",)),
    "boxes": Step(
        ("{hero} buys {m} boxes of {k} .", "then come {m} bags with {k} in each ."), ("m * k", "v + t")
    ),
    "friends": Step(
        ("{hero} gives {k} to each of {m} friends .", "{m} friends take {k} each ."), ("m * k", "v - t")
    ),
    "times": Step(("then {hero} has {m} times as many .",), ("v * m",)),
    "half": Step(("{hero} sells half of them .", "half of them are lost ."), ("v / 2",)),
    "share": Step(
        ("{hero} puts them into {m} equal piles .",), ("v / m",), "how many {things} are in a pile ?"
    ),
}  # fmt: skip
STARTS = ("{hero} has {k} {things} .", "there are {k} {things} on the table of {hero} .")
OPENINGS = ("", "let us see . ", "step by step : ", "well , ", "easy : ", "i count . ")
STYLES = (  # how the first, a middle and the last sum are put
    ("{} .", "{} .", "{} ."),
    ("first {} .", "then {} .", "then {} ."),
    ("{}", ", so {}", ", so {} ."),
    ("first {} ,", "next {} ,", "last {} ."),
    ("from {}", "we get {}", "and at the end {} ."),
)
CLOSINGS = ("", "the answer is {} . ", "that makes {} . ", "so there are {} . ")


class Arithmetic:
    """Writes problems and worked solutions, reads problems back, grades answers."""

    def __init__(self):
        self._starts = [compile_pattern(p) for p in STARTS]
        self._steps = {n: [compile_pattern(p) for p in s.says] for n, s in STEPS.items()}
        said = [*STARTS, *(p for s in STEPS.values() for p in (*s.says, s.asks))]
        said += [*OPENINGS, *CLOSINGS, *(p for style in STYLES for p in style)]
        fixed = {w for p in said for w in p.split() if "{" not in w}
        numbers = map(str, range(MOST + 1))
        self.words = sorted({*fixed, *NAMES, *THINGS, *OPERATIONS, *numbers, "=", "####"})

    def write_prompt(self, rng: random.Random) -> str:
        """A problem with two to four sums; a draw that leaves the range of numbers is drawn again."""
        while True:
            hero, friend = rng.sample(NAMES, 2)
            who = {"hero": hero, "friend": friend, "things": rng.choice(THINGS)}
            names = rng.sample([n for n in STEPS if n != "share"], rng.randint(1, 3))
            names += ["share"] * (rng.random() < 0.2)
            start = {**who, "k": rng.randint(3, 20)}
            lines = [zipf(rng, STARTS).format(**start)]
            for name in names:
                slots = {**who, "k": rng.randint(2, 12), "m": rng.randint(2, 4)}
                lines.append(zipf(rng, STEPS[name].says).format(**slots))
            prompt = " ".join([*lines, STEPS[names[-1]].asks.format(**who)])
            if self._in_range(prompt):
                return prompt

    def _in_range(self, prompt: str) -> bool:
        equations = self.solve(prompt)
        exact = all(op != "/" or a % b == 0 for a, op, b, _ in equations)
        return exact and 2 <= len(equations) <= 4 and all(0 < c <= MOST for *_, c in equations)

    def write_reference(self, rng: random.Random, prompt: str) -> str:
        """A worked solution: one style throughout, the factors of sums in either order."""
        equations, style, swap = (
            self.solve(prompt),
            zipf(rng, STYLES),
            zipf(rng, (False, True), 2.0),
        )
        parts = []
        for i, (a, op, b, c) in enumerate(equations):
            if swap and op in "+*":
                a, b = b, a
            place = 0 if i == 0 else 2 if i == len(equations) - 1 else 1
            parts.append(style[place].format(f"{a} {op} {b} = {c}"))
        answer = equations[-1][-1]
        closing = zipf(rng, CLOSINGS).format(answer)
        return f"{zipf(rng, OPENINGS)}{' '.join(parts)} {closing}#### {answer}"

    def solve(self, prompt: str) -> list[Equation]:
        """The sums of a problem, in order; ValueError if it is not one of this world."""
        first, *middle = [s.strip() + " ." for s in prompt.split(" . ")[:-1]] or [prompt]
        value, equations = self._start(first, prompt), []
        for sentence in middle:
            step, slots = self._read(sentence, prompt)
            total = None
            for text in step.sums:
                a, op, b = text.split()
                known = {"v": value, "t": total, **slots}
                a, b = (int(known.get(x, x)) for x in (a, b))
                total = OPERATIONS[op](a, b)
                equations.append((a, op, b, total))
            value = total
        if not equations:
            raise ValueError(f"no problem of this world: {prompt!r}")
        return equations

    def family(self, prompt: Example | str) -> str:
        """Name the kind of problem: how many sums it takes."""
        return f"{len(self.solve(as_example(prompt).prompt))} sums"

    def judge(self, prompt: Example | str, response: str) -> Grade:
        """1 if the final number is right."""
        said, right = extract_answer(response), self.solve(as_example(prompt).prompt)[-1][-1]
        if said is None:
            return Grade(0.0, NO_ANSWER)
        return Grade(float(said == right), "right" if said == right else "wrong")

    def _start(self, sentence: str, prompt: str) -> int:
        for pattern in self._starts:
            if match := pattern.fullmatch(sentence):
                return int(match["k"])
        raise ValueError(f"no problem of this world: {prompt!r}")

    def _read(self, sentence: str, prompt: str) -> tuple[Step, dict]:
        for name, patterns in self._steps.items():
            for pattern in patterns:
                if match := pattern.fullmatch(sentence):
                    return STEPS[name], match.groupdict()
        raise ValueError(f"no problem of this world: {prompt!r}")


WORLD = Arithmetic()
