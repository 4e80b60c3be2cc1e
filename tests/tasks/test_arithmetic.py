"""The arithmetic world: problems are read back, solved, and graded by their last number."""

import random
import re

import pytest

from minidistill.tasks import get_world, write_examples
from minidistill.tasks.answers import extract_answer
from minidistill.tasks.arithmetic import MOST, STEPS

WORLD = get_world("arithmetic")
ASKED = "how many eggs has tom now ?"
SOLVED = {  # one step each, after a start of 12, then its sums by hand
    "then tom finds 5 more .": ["12 + 5 = 17"],
    "tom picks up 2 more .": ["12 + 2 = 14"],
    "anna gives tom 3 more .": ["12 + 3 = 15"],
    "tom gets 7 from anna .": ["12 + 7 = 19"],
    "tom gives 4 to anna .": ["12 - 4 = 8"],
    "anna takes 2 of them .": ["12 - 2 = 10"],
    "then tom loses 6 .": ["12 - 6 = 6"],
    "9 of them break .": ["12 - 9 = 3"],
    "tom buys 3 boxes of 4 .": ["3 * 4 = 12", "12 + 12 = 24"],
    "then come 2 bags with 8 in each .": ["2 * 8 = 16", "12 + 16 = 28"],
    "tom gives 2 to each of 3 friends .": ["3 * 2 = 6", "12 - 6 = 6"],
    "4 friends take 2 each .": ["4 * 2 = 8", "12 - 8 = 4"],
    "then tom has 3 times as many .": ["12 * 3 = 36"],
    "tom sells half of them .": ["12 / 2 = 6"],
    "half of them are lost .": ["12 / 2 = 6"],
    "tom puts them into 4 equal piles .": ["12 / 4 = 3"],
}


def written(equations):
    return [f"{a} {op} {b} = {c}" for a, op, b, c in equations]


@pytest.mark.parametrize("start", ["tom has 12 eggs .", "there are 12 eggs on the table of tom ."])
@pytest.mark.parametrize("sentence", SOLVED)
def test_each_sentence_makes_the_sums_worked_out_by_hand(start, sentence):
    assert written(WORLD.solve(f"{start} {sentence} {ASKED}")) == SOLVED[sentence]


def test_every_way_to_say_a_step_stands_above():
    ways = [way for step in STEPS.values() for way in step.says]
    assert len(ways) == len(SOLVED)


def test_steps_follow_each_other():
    prompt = f"tom has 18 eggs . then tom loses 8 . tom buys 2 boxes of 5 . half of them are lost . {ASKED}"
    assert written(WORLD.solve(prompt)) == [
        "18 - 8 = 10", "2 * 5 = 10", "10 + 10 = 20", "20 / 2 = 10",
    ]  # fmt: skip


def test_problems_take_two_to_four_sums_with_small_whole_positive_numbers():
    rng, lengths = random.Random(2), set()
    for _ in range(2000):
        equations = WORLD.solve(WORLD.write_prompt(rng))
        lengths.add(len(equations))
        for a, op, b, c in equations:
            assert c == {"+": a + b, "-": a - b, "*": a * b, "/": a / b}[op]
            assert all(0 < number <= MOST for number in (a, b, c))
    assert lengths == {2, 3, 4}


def test_a_worked_solution_shows_true_sums_that_lead_to_its_answer():
    for example in write_examples("arithmetic", 300, seed=4, held_out=False, references=3):
        for solution in example.references:
            sums = re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)", solution)
            assert 2 <= len(sums) <= 4
            for a, op, b, c in sums:
                assert eval(f"{a} {op} {b}") == int(c)  # our own words, digits and signs alone
            assert solution.endswith(f"#### {sums[-1][-1]}")
            assert extract_answer(solution) == int(sums[-1][-1])


@pytest.mark.parametrize(
    ("response", "grade", "reason"),
    [
        ("12 + 5 = 17 . 17 - 3 = 14 . #### 14", 1, "right"),
        ("#### 14", 1, "right"),
        ("12 + 5 = 16 . 16 - 3 = 14 . #### 14", 1, "right"),  # only the answer counts, as in GSM8K
        ("12 + 5 = 17 . #### 17", 0, "wrong"),
        ("so there are 14 . #### 15", 0, "wrong"),
        ("i do not know", 0, "no answer"),
        ("", 0, "no answer"),
    ],
)
def test_the_answer_decides(response, grade, reason):
    prompt = f"tom has 12 eggs . then tom finds 5 more . then tom loses 3 . {ASKED}"
    verdict = WORLD.judge(prompt, response)
    assert (verdict.grade, verdict.reason) == (grade, reason)
