"""The program world: a request in words, answered by a one-line Python function.

    write f that returns the sum of the squares of the even numbers in xs above 3
    def f ( xs ) : return sum ( x * x for x in xs if x % 2 == 0 and x > 3 )

A request names a source, which items of it, what is made of each and what of all. From these pieces
come the prompt, many right programs (Zipf's law: comprehension or list, one line or two, map and
filter, x * x or x ** 2) and a test of hidden cases. Programs run in the sandbox, nowhere else.
"""

import random
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import count, product

from minidistill import sandbox
from minidistill.tasks import NO_ANSWER, Example, Grade, as_example
from minidistill.tasks.grammar import zipf
from minidistill.utils import derive_seed

LEADS = ("write f that returns {}", "i need a function f for {}", "define f as {}", "f gives {}")
VARIABLES = ("x", "v", "n", "i")
LIMITS = range(3, 8)
HIDDEN_CASES = 12
LONGEST = 46
WORDS_OF_S = (
    "a", "of", "sun", "red", "tree", "blue", "house", "green", "yellow", "orange", "lantern", "umbrella",
    "strawberry",
)  # fmt: skip

# words in a request → ways to write it; V is one item, K the number of the request.
SOURCES = {
    "numbers in xs": ["xs"],
    "numbers up to n": ["range ( 1 , n + 1 )", "range ( n + 1 ) [ 1 : ]"],
    "words in s": ["s . split ( )"],
}
KINDS = {
    "numbers": {
        "": [""],
        "even ": ["V % 2 == 0", "not V % 2", "V % 2 < 1"],
        "odd ": ["V % 2 == 1", "V % 2 != 0", "V % 2 > 0"],
    },
    "words": {"": [""]},
}
LIMITED = {
    "numbers": {
        "": [""],
        " above K": ["V > K", "K < V", "not V <= K"],
        " below K": ["V < K", "K > V", "not V >= K"],
        " divisible by K": ["V % K == 0", "not V % K"],
    },
    "words": {
        "": [""],
        " longer than K": ["len ( V ) > K", "K < len ( V )", "not len ( V ) <= K"],
        " shorter than K": ["len ( V ) < K", "K > len ( V )", "not len ( V ) >= K"],
    },
}
MADE_OF_EACH = {
    "numbers": {
        "": ["V"],
        "squares of the ": ["V * V", "V ** 2", "pow ( V , 2 )"],
        "doubles of the ": ["V * 2", "2 * V", "V + V"],
        "opposites of the ": ["- V", "0 - V", "V * - 1"],
        "halves of the ": ["V // 2", "V >> 1"],
    },
    "words": {
        "": ["V"],
        "lengths of the ": ["len ( V )"],
        "mirror images of the ": ["V [ : : - 1 ]"],
        "capitals of the ": ["V . upper ( )"],
        "first letters of the ": ["V [ 0 ]", "V [ : 1 ]"],
    },
}
MADE_OF_ALL = {  # A is any iterable, L a list
    "sum": ["sum ( A )"],
    "number": ["len ( L )"],
    "list": ["L"],
    "largest": ["max ( A )", "sorted ( A ) [ - 1 ]"],
    "smallest": ["min ( A )", "sorted ( A ) [ 0 ]"],
    "first": ["L [ 0 ]"],
    "last": ["L [ - 1 ]"],
    "sorted list": ["sorted ( A )"],
}


@dataclass(frozen=True)
class ProgramSpec:
    """The pieces of a request, each a key of the tables above, and its number K (0 where none)."""

    all: str
    each: str
    kind: str
    source: str
    limited: str
    k: int

    @property
    def items(self) -> str:
        """'numbers' or 'words'."""
        return self.source.split()[0]

    @property
    def parameter(self) -> str:
        return self.source.split()[-1]

    def __str__(self) -> str:
        text = f"the {self.all} of the {self.each}{self.kind}{self.source}{self.limited}"
        return text.replace("K", str(self.k))


def every_request() -> Iterator[ProgramSpec]:
    """All requests that make sense: no sum of words, no number of squares, nothing always empty."""
    for source in SOURCES:
        items = source.split()[0]
        pieces = product(MADE_OF_ALL, MADE_OF_EACH[items], KINDS[items], LIMITED[items])
        for all_, each, kind, limited in pieces:
            if all_ == "sum" and items == "words" and each != "lengths of the ":
                continue
            if (all_ == "number" and each) or (kind and limited == " divisible by K"):
                continue
            for k in LIMITS if limited else (0,):
                yield ProgramSpec(all_, each, kind, source, limited, k)


class Programs:
    """Writes requests and programs, reads requests back, runs programs against hidden cases."""

    def __init__(self):
        self._requests = {str(request): request for request in every_request()}
        tables = (SOURCES, *KINDS.values(), *LIMITED.values(), *MADE_OF_EACH.values(), MADE_OF_ALL)
        code = " ".join(text for table in tables for ways in table.values() for text in ways)
        code += " def f ( ) : = ; , for in if and lambda map filter return [ ] list ys"
        said = " ".join([*LEADS, *self._requests]).replace("{}", "")
        tokens = {*code.split(), *said.split(), *VARIABLES, *map(str, LIMITS)}
        self.words = sorted(tokens - {"V", "K", "A", "L"})

    def write_prompt(self, rng: random.Random) -> str:
        """Sources, kinds and what is made of all are drawn evenly; so are the rest among what fits."""
        source, all_ = rng.choice(list(SOURCES)), rng.choice(list(MADE_OF_ALL))
        fitting = [r for r in self._requests.values() if (r.source, r.all) == (source, all_)]
        return zipf(rng, LEADS).format(rng.choice(fitting))

    def read_prompt(self, prompt: str) -> ProgramSpec:
        """ValueError if it is no request of this world."""
        for lead in LEADS:
            start = lead.replace("{}", "")
            if prompt.startswith(start) and prompt[len(start) :] in self._requests:
                return self._requests[prompt[len(start) :]]
        raise ValueError(f"no request of this world: {prompt!r}")

    def write_reference(self, rng: random.Random, prompt: str) -> str:
        """One of the right programs, of at most LONGEST tokens."""
        request = self.read_prompt(prompt)
        while True:
            program = write_program(request, lambda options: zipf(rng, options))
            if len(program.split()) <= LONGEST:
                return program

    def family(self, prompt: Example | str) -> str:
        """Name the kind of request: what is made of all."""
        return self.read_prompt(as_example(prompt).prompt).all

    def question(self, prompt: Example | str) -> str:
        """Name the request behind the wording."""
        return str(self.read_prompt(as_example(prompt).prompt))

    def judge(self, prompt: Example | str, response: str) -> Grade:
        """1 if the program gives the right value in every hidden case."""
        if not isinstance(response, str):
            raise TypeError(f"a response must be a text, but is {response!r}")
        return _grade(self.read_prompt(as_example(prompt).prompt), response.strip())


def write_program(request: ProgramSpec, choose=lambda options: options[0]) -> str:
    """A program for the request; `choose` picks among equally right ways, the first by default."""
    v = choose(VARIABLES)
    fill = lambda ways: choose(ways).replace("V", v).replace("K", str(request.k))  # noqa: E731
    kind, limited = KINDS[request.items][request.kind], LIMITED[request.items][request.limited]
    condition = " and ".join(filter(None, (fill(kind), fill(limited))))
    each = fill(MADE_OF_EACH[request.items][request.each])
    source, before = choose(SOURCES[request.source]), ""
    layout = choose(("comprehension", "list", "two lines", "map"))
    if layout == "two lines" and condition:
        before, source, condition = f"ys = [ {v} for {v} in {source} if {condition} ] ; ", "ys", ""
    if not condition and each == v:
        items = source if layout != "list" else f"[ {v} for {v} in {source} ]"
        listed = items if layout == "list" or source == "ys" else f"list ( {source} )"
    elif layout == "map":
        items = f"filter ( lambda {v} : {condition} , {source} )" if condition else source
        items = items if each == v else f"map ( lambda {v} : {each} , {items} )"
        listed = f"list ( {items} )"
    else:
        inner = f"{each} for {v} in {source}" + (f" if {condition}" if condition else "")
        listed = f"[ {inner} ]"
        items = listed if layout == "list" else inner
    body = choose(MADE_OF_ALL[request.all]).replace("A", items).replace("L", listed)
    return f"def f ( {request.parameter} ) : {before}return {body}"


def hidden_cases(request: ProgramSpec) -> list[tuple[object, object]]:
    """(argument, right value) pairs: a function of the request alone; small and empty inputs among them."""
    rng, cases, scope = random.Random(derive_seed("hidden", str(request))), [], {}
    exec(write_program(request), scope)  # our own program, not a response
    for attempt in count():
        given = _argument(rng, request.parameter, size=attempt % 10)
        with suppress(IndexError, ValueError):  # the largest of nothing
            cases.append((given, scope["f"](given)))
        if len(cases) == HIDDEN_CASES:
            return cases


def _argument(rng: random.Random, parameter: str, size: int):
    """xs: `size` numbers from −9 to 20; n: up to 3·size; s: `size` words."""
    if parameter == "xs":
        return [rng.randint(-9, 20) for _ in range(size)]
    if parameter == "n":
        return rng.randint(size, 3 * size)
    return " ".join(rng.choices(WORDS_OF_S, k=size))


def hidden_test(request: ProgramSpec) -> str:
    """The cases as code that raises unless all is well. A list is not a generator, True is not 1."""
    return (
        f"for given, wanted in {hidden_cases(request)!r}:\n"
        "    got = f(given)\n"
        "    assert type(got) is type(wanted) and got == wanted, (given, got, wanted)\n"
    )


@lru_cache(maxsize=100_000)
def _grade(request: ProgramSpec, response: str) -> Grade:
    if not response.startswith("def f"):
        return Grade(0.0, NO_ANSWER)
    # A vocabulary of a hundred words cannot say anything that limits alone would not hold.
    result = sandbox.run(response, hidden_test(request), allow_unsandboxed=True)
    return Grade(float(result.passed), "right" if result.passed else result.reason)


WORLD = Programs()
