"""The program world: requests, many right programs, and a judge that runs them."""

import random
from collections import Counter

import pytest

from minidistill.tasks import get_world, write_examples
from minidistill.tasks.program import (
    HIDDEN_CASES,
    KINDS,
    LEADS,
    LIMITED,
    LIMITS,
    MADE_OF_ALL,
    MADE_OF_EACH,
    SOURCES,
    every_request,
    hidden_cases,
    write_program,
)

WORLD = get_world("program")
REQUESTS = list(every_request())
# What the words mean, written down a second time and in another way than the programs.
ITEMS = {"xs": list, "n": lambda n: list(range(1, n + 1)), "s": str.split}
KIND = {"": lambda v: True, "even ": lambda v: v % 2 == 0, "odd ": lambda v: v % 2 == 1}
LIMIT = {
    "": lambda v, k: True, " above K": lambda v, k: v > k, " below K": lambda v, k: v < k,
    " divisible by K": lambda v, k: v % k == 0, " longer than K": lambda v, k: len(v) > k,
    " shorter than K": lambda v, k: len(v) < k,
}  # fmt: skip
EACH = {
    "": lambda v: v, "squares of the ": lambda v: v**2, "doubles of the ": lambda v: 2 * v,
    "opposites of the ": lambda v: -v, "halves of the ": lambda v: v // 2,
    "lengths of the ": len, "mirror images of the ": lambda v: "".join(reversed(v)),
    "capitals of the ": str.upper, "first letters of the ": lambda v: v[0],
}  # fmt: skip
ALL = {
    "sum": sum, "number": len, "list": list, "largest": max, "smallest": min,
    "first": lambda v: v[0], "last": lambda v: v[-1], "sorted list": sorted,
}  # fmt: skip


def meaning(request, given):
    items = [v for v in ITEMS[request.parameter](given) if KIND[request.kind](v)]
    kept = [v for v in items if LIMIT[request.limited](v, request.k)]
    return ALL[request.all]([EACH[request.each](v) for v in kept])


def test_the_hidden_cases_of_every_request_are_what_its_words_mean():
    for request in REQUESTS:
        cases = hidden_cases(request)
        assert len(cases) == HIDDEN_CASES
        assert all(wanted == meaning(request, given) for given, wanted in cases), str(request)


def test_the_hidden_cases_tell_requests_apart():
    """Two requests that always want the same would make one of them a lie; few share all of 12 cases."""
    by_source = Counter()
    for request in REQUESTS:
        cases = hidden_cases(request)
        for other in random.Random(str(request)).sample(REQUESTS, 8):
            if other.parameter != request.parameter or str(other) == str(request):
                continue
            try:
                same = all(meaning(other, given) == wanted for given, wanted in cases)
            except (IndexError, ValueError):
                same = False
            by_source[same] += 1
    assert by_source[True] / by_source.total() < 0.05


def test_every_request_is_read_back_in_every_wording():
    assert len({str(request) for request in REQUESTS}) == len(REQUESTS) > 1000
    for request in REQUESTS:
        for lead in LEADS:
            assert WORLD.read_prompt(lead.format(request)) == request


def test_every_way_to_write_a_piece_is_right():
    """Each row of the tables, in each place where it can stand, through the real judge once."""
    rng, seen = random.Random(0), set()
    for request in rng.sample(REQUESTS, 150):
        program = write_program(request, rng.choice)
        seen |= set(program.split())
        assert WORLD.judge(f"f gives {request}", program).reason == "right", (str(request), program)
    assert {"lambda", "ys", "pow", "sorted", "filter", "map", ">>"} <= seen


def test_the_simplest_program_of_a_request():
    request = next(
        r for r in REQUESTS if str(r) == "the sum of the squares of the even numbers in xs above 3"
    )
    assert (
        write_program(request)
        == "def f ( xs ) : return sum ( x * x for x in xs if x % 2 == 0 and x > 3 )"
    )


PROMPT = "f gives the list of the even numbers in xs"


@pytest.mark.parametrize(
    ("response", "grade", "reason"),
    [
        ("def f ( xs ) : return [ x for x in xs if x % 2 == 0 ]", 1, "right"),
        ("def f(xs):\n    return [x for x in xs if not x % 2]", 1, "right"),  # a real model's writing
        ("def f ( xs ) : return [ x for x in xs if x % 2 == 1 ]", 0, "wrong answer"),
        ("def f ( xs ) : return ( x for x in xs if x % 2 == 0 )", 0, "wrong answer"),
        ("def f ( xs ) : return xs", 0, "wrong answer"),
        ("def f ( n ) : return [ x for x in xs if x % 2 == 0 ]", 0, "NameError"),
        ("def f ( xs ) : return [ x for x in", 0, "SyntaxError"),
        ("def f ( xs ) : return f ( xs )", 0, "RecursionError"),
        ("def f ( xs ) : return [ x for x in range ( 9 ** 9 ) ]", 0, "took more|MemoryError"),
        ("return xs", 0, "no answer"),
        ("i cannot", 0, "no answer"),
        ("", 0, "no answer"),
    ],
)  # fmt: skip
def test_the_judge_runs_what_it_is_given(response, grade, reason):
    verdict = WORLD.judge(PROMPT, response)
    assert verdict.grade == grade
    assert any(verdict.reason.startswith(r) for r in reason.split("|")), verdict.reason


def test_true_is_not_one():
    prompt = "f gives the number of the numbers in xs above 3"
    program = "def f ( xs ) : return {} ( [ x for x in xs if x > 3 ] )"
    assert WORLD.judge(prompt, program.format("len")).grade == 1
    assert WORLD.judge(prompt, "def f ( xs ) : return any ( x > 3 for x in xs )").grade == 0


def test_the_vocabulary_cannot_say_anything_dangerous():
    """Why this world may run where there is no bubblewrap: no import, no attribute but these, no name
    that leads out of the program."""
    attributes = {"split", "upper"}
    names = {word for word in WORLD.words if word.isidentifier()}
    assert not names & set(
        ["import", "exec", "eval", "open", "compile", "globals", "getattr", "vars", "input"]
    )
    assert not any("_" in word for word in WORLD.words)
    code = {part for t in (SOURCES, MADE_OF_ALL, *KINDS.values(), *LIMITED.values(), *MADE_OF_EACH.values())
            for ways in t.values() for way in ways for part in way.split(" . ")[1:]}  # fmt: skip
    assert {part.split()[0] for part in code} == attributes


def test_requests_spread_over_sources_and_results():
    examples = write_examples("program", 800, seed=3, held_out=False)
    requests = [WORLD.read_prompt(e.prompt) for e in examples]
    for name, table in (("source", SOURCES), ("all", MADE_OF_ALL)):
        shares = Counter(getattr(r, name) for r in requests)
        assert set(shares) == set(table)
        assert min(shares.values()) > 0.6 * len(requests) / len(table)
    assert {r.k for r in requests} == {0, *LIMITS}
