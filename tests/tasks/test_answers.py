"""Answers in texts: the number of GSM8K and of the arithmetic world, the boxed form of MATH."""

import json
import random
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidistill.tasks import Grade, answers, arithmetic, forms
from minidistill.tasks.answers import extract_answer, extract_boxed
from minidistill.tasks.forms import same_answer
from tests.conftest import DATA, needs_data


def test_a_grade_cannot_be_changed_afterwards():
    with pytest.raises(AttributeError):
        Grade(1.0, "right").grade = 0.0


# --- numbers --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "number"),
    [
        # after ####
        ("first 8 + 5 = 13 . then 13 - 3 = 10 . #### 10", 10),
        ("#### 1,234,567", 1234567),
        ("#### 7 #### 8", 8),
        ("####9", 9),
        ("#### -3", -3),
        ("#### −3", -3),
        ("#### $3.50 per day", 3.5),
        ("#### .5", 0.5),
        ("#### 5 apples of 12", 5),
        ("#### **42**", 42),
        ("#### 5 + 6 = 11 of 20", 11),
        ("#### x = 11", 11),
        ("####\n\n12\nand 3 are left", 12),
        ("#### 13\n\n14", 13),
        ("#### Final answer\nso \\boxed{42} of 50", 42),
        ("\\boxed{7} #### 8", 8),
        # not after a section's heading
        ("#### Step 1\n3 * 4 = 12\n#### Step 2: add 5\n12 + 5 = 17\nSo it is 17.", 17),
        ("#### 1. Count\n12\n\n#### 2. Add\nThe answer is 17, not 5.", 17),
        ("#### **Final Answer**\n\n**17**", 17),
        ("#### 17. He had 12.", 17),
        # in a box
        ("first 3, so \\boxed{42}. Check: 40 + 2", 42),
        ("\\boxed{x = 12}", 12),
        ("\\boxed{12 \\text{ of } 50}", 12),
        ("\\boxed{5 \\cdot 4 = 20}", 20),
        ("\\boxed{\\frac{3}{4}}", 0.75),
        ("\\boxed{-\\frac12}", -0.5),
        ("\\boxed{\\dfrac{1}{8}}", 0.125),
        ("\\boxed{3\\frac{1}{2}}", 3.5),
        ("\\boxed{10{,}000} or 1", 10000),
        ("\\boxed{10\\,000}", 10000),
        # said
        ("The answer is 42. It took 3 steps.", 42),
        ("Final answer: **17** of 20", 17),
        ("answer = 7, not 8", 7),
        ("the answer for the 3 boys and girls is 12", 12),
        ("The answer is 1. No: the answer is 2, not 3", 2),
        ("the answer is clear: 5 + 6 = 11 apples, not 12", 11),
        ("the answer is 2 * 3 = 3 * 2 = 6 . 8", 6),
        ("The answer is\n\n**$1,234.50**\n7", 1234.5),
        ("The answer is none of them but, after 12, 13", 13),
        ("The answer is not 20 but 18.", 18),
        ("The answer to the question, then, is 18 because x = 3.", 18),
        ("The answer is about $18 (x = 3).", 18),
        ("The answer is 9 x 2 = 18", 18),
        ("So the answer is 9 eggs * $2 = $18.", 18),
        ("The answer is 50% of 36 = 18.", 18),
        ("The answer is (5 + 4) * 2 = 18", 18),
        ("The answer is 2/3 of 27 = 18, not 9", 18),
        ("#### 9x2=18", 18),
        ("#### - 5", -5),
        ("#### Conclusion: In 3 weeks Janet makes $378.", 378),
        ("\\boxed{9 \\text{ eggs} \\times \\$2 = \\$18}", 18),
        ("Final Answer: The total cost of 3 shirts and 2 pants is $115.", 115),
        # an announcement of a whole solution is none
        ("Answer: Janet has 16 eggs. She uses 3 + 4 = 7. 9*2 = 18. She makes $18.", 18),
        ("Answer: Janet has 16 eggs.\nShe uses 3 + 4 = 7.\n9*2 = 18", 18),
        ("Answer: 16 - 7 = 9 eggs.\n9 * 2 = 18", 18),
        (
            "To find the answer, follow these steps:\n\n1. 16 - 7 = 9\n2. 9*2 = 18\n\nShe makes $18.",
            18,
        ),
        (
            "Sure, here is the answer:\n\nStep 1: 16-7 = 9\nStep 2: 9*2 = 18\n\nShe makes **$18**.",
            18,
        ),
        ("We can answer this: 16 - 7 = 9.\nThen 9 * 2 = 18.", 18),
        ("**Answer:** Over 5 days, John spends $25.", 25),
        ("Answer: 18 dollars.\n\nExplanation: 3 * 6 and 2 days", 18),
        ("**Answer**\n\nFinal answer:\n**18**\n(of 20)", 18),
        ("The answer is simple.\nIt is 4 and 5", 5),
        # not thinking aloud
        ("<think>\n#### 5\n</think>\nThe answer is 18.", 18),
        ("<think>\\boxed{5}</think>\nIt is 18 dollars.", 18),
        ("So 5, or #### 6?\n</think>\n\n#### 18", 18),
        ("<Thinking>#### 5</Thinking> 18 <reasoning>#### 6</reasoning>", 18),
        ("<think>a</think>#### 5<think>b</think>\n#### 18", 18),
        (
            "<|channel|>analysis<|message|>so 17<|end|><|start|>assistant<|channel|>final<|message|>#### 4",
            4,
        ),
        ("[THINK]7[/THINK] The answer is 4.", 4),
        ("◁think▷5◁/think▷ 4", 4),
        ("<scratchpad>5</scratchpad> 4", 4),
        # what is marked as the answer
        ("<answer>18</answer> with 2 steps", 18),
        ("#### 20 - 5 = <<20-5=15>>15", 15),
        # nor what comes after the turn
        ("The answer is 4.<eos> The answer is 5", 4),
        ("It is 18.<|im_end|>\n<|im_start|>user\nAnd 5?", 18),
        ("It is 18</s> 5", 18),
        # nor a question that a base model asks itself
        ("3 * 6 = 18\n#### 18\n\nQuestion: And 2 + 3?\nAnswer: 5\n#### 5", 18),
        ("The answer is 18.\n\nQ: Tom has 3. How many?\nA: The answer is 3.", 18),
        ("It is 18.\n\n### Problem 2:\nWhat is 5?\nIt is \\boxed{5}", 18),
        ("Question: Tom has 3 times 6. How many?\nAnswer: 18", 18),
        ("I restate it.\nProblem: 3 times 6.\nSolution: \\boxed{18}", 18),
        ("It is 4\n\n### Problem\nx 5\n### Solution\n6", 4),
        ("Problem 1: a\n4.\n\nProblem 2\nfoo 9", 4),
        # but one on the way to the answer does
        ("First, 2x = 36.\n\nQuestion: what is x?\n\nDivide: \\boxed{18}", 18),
        # the last number
        ("it makes 12, 13", 13),
        ("1,23", 23),
        ("1,2345", 2345),
        ("we need 25% of it", 25),
        ("that is €-3", -3),
        ("that is -£3", -3),
        ("\\$3.25", 3.25),
        ("$-3$", -3),
        ("(-5)", -5),
        ("-(1/2)", -0.5),
        ("10-3", 3),
        ("x-3", 3),
        ("3–5", 5),
        ("(4)-5", 5),
        ("1/2", 0.5),
        ("1 1/2 cups", 1.5),
        ("3.5/7", 0.5),
        ("so it is...42", 42),
        ("no.5", 5),
        ("It is 42 cm^2.", 42),
        ("It is 42 cm^{2}.", 42),
        ("42 of CO2 at x_1", 42),
        ("version 1.2.3", 1.2),
        ("1.5e3 or so", 1500),
        ("2e3", 2000),
        ("1E-2", 0.01),
        ("007", 7),
        # powers and large numbers in words
        ("#### 10^3", 1000),
        ("\\boxed{2^{10}} 5", 1024),
        ("x = 2^3 + 1 = 9", 9),
        ("\\boxed{5 \\times 10^3}", 5000),
        ("#### 2.5*10^{4}", 25000),
        ("The answer is 1.5 million.", 1.5e6),
        ("\\boxed{1.5 \\text{ million}}", 1.5e6),
        ("12 hundred", 1200),
        ("It ran 3, a million times", 3),
        ("that is 9999^99", None),
        # as it is written elsewhere
        ("1.234,56 euros", 1234.56),
        ("1.234.567,5", 1234567.5),
        ("12,34,567 rupees", 1234567),
        ("1\u202f234\u202f567 ou 1\u00a0234", 1234),
        ("1'234 Franken", 1234),
        ("１２３", 123),
    ],
)
def test_extracts(text, number):
    assert extract_answer(text) == number


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no number",
        "8 + 5 = 13 . ####",
        "8 + 5 = 13 . #### \n",
        "8 + 5 = 13 . #### many",
        "8 + 5 = 13 . #### many\nand 3",
        "The answer is either 18 or 20.",
        "#### 18 or $20",
        "8 + 5 = 13 . #### Step 2\nnothing",
        "8 + 5 = 13 . #### 5 + 6 =",
        "13 and \\boxed{}",
        "#### ",
        "13 and \\boxed{\\text{many}}",
        "1/0",
        "#### 1/0",
        "9" * 400,
        "1e400 is not a float",
        "٣",
        "m^2",
        "one x2",
        "[THINK] the answer is 7",
        "<|channel|>analysis<|message|>so 17",
        "<think>so 3*6=18, wait, check 3+6=9",
        "so 3*6=18</think>\nI cannot say.",
        "many #### \nQuestion: 5?\n#### 5",
    ],
)
def test_no_answer(text):
    expected = 13 if text.endswith("\\boxed{}") else None  # an empty box announces nothing
    assert extract_answer(text) == expected


@pytest.mark.parametrize("function", [extract_answer, extract_boxed])
@pytest.mark.parametrize("bad", [None, 3, b"#### 3", ["#### 3"]])
def test_what_is_no_text_is_refused(function, bad):
    with pytest.raises(TypeError, match="response must be a text, but is"):
        function(bad)


def test_it_is_the_extractor_of_the_arithmetic_world():
    assert answers.extract_answer is extract_answer
    rng = random.Random(0)
    for _ in range(200):
        prompt = arithmetic.WORLD.write_prompt(rng)
        reference = arithmetic.WORLD.write_reference(rng, prompt)
        assert extract_answer(reference) == arithmetic.WORLD.solve(prompt)[-1][-1]


@needs_data
def test_every_reference_of_gsm8k():
    with open(DATA / "gsm8k_train.jsonl", encoding="utf-8") as file:
        answers = [json.loads(line)["answer"] for line in file]
    numbers = [float(a.rpartition("#### ")[2].replace(",", "")) for a in answers]
    assert len(answers) == 7473
    assert [extract_answer(a) for a in answers] == numbers


FRAMES = (
    "#### {}",
    "3 + 4 = 7 . #### {} \nand 8",
    "The answer is {}.",
    "the answer: **{}** for 3 people",
    "first 7, so \\boxed{{{}}} in 2 steps",
    "$\\boxed{{x = {}}}$",
    "2 and 3 make {} apples.",
    "it is {}% of all",
    "so: {}",
)


@st.composite
def written_numbers(draw):
    """A number, and one of the ways to write it."""
    sign = draw(st.sampled_from(["", "-", "−", "+"]))
    whole = draw(st.integers(0, 10**12))
    digits = draw(st.sampled_from([str(whole), f"{whole:,}"]))
    decimals = draw(st.sampled_from(["", ".0", ".50", ".125"]))
    if draw(st.booleans()) and decimals:
        whole, digits = 0, ""
    currency = draw(st.sampled_from(["", "$", "€", "\\$"]))
    number = float(f"{whole}{decimals}") * (-1 if sign in ("-", "−") else 1)
    return number, draw(
        st.sampled_from([f"{sign}{currency}", f"{currency}{sign}"])
    ) + digits + decimals


@given(written_numbers(), st.sampled_from(FRAMES))
def test_a_number_comes_back_however_it_is_written(written, frame):
    number, text = written
    if "+" in text and text[0] != "+":
        text = text.replace("+", "")  # nobody writes $+3
    assert extract_answer(frame.format(text)) == number


@given(st.integers(-999, 999), st.integers(1, 999))
def test_a_fraction_is_divided(a, b):
    sign = "-" if a < 0 else ""
    for text in (
        f"{a}/{b}",
        f"{sign}\\frac{{{abs(a)}}}{{{b}}}",
        f"{sign}\\tfrac{{{abs(a)}}}{{{b}}}",
    ):
        assert extract_answer(f"\\boxed{{{text}}}") == pytest.approx(a / b)


PIECES = r"""\boxed{ \fbox{ { } #### answer is: = 12 1,000 .5 - − $ / \frac \frac12 ( ) [ ] \{ \} , x ^ _ \
\text{cm} e ٣ ² " \left \cup + * \sqrt | !"""
PIECES = [*PIECES.split(), " ", "\n", "1 1/2", "the answer is "]
texts = st.one_of(st.text(), st.lists(st.sampled_from(PIECES)).map("".join))


@given(texts)
def test_no_text_breaks_the_extractors(text):
    assert isinstance(extract_answer(text), float | None)
    assert isinstance(extract_boxed(text), str | None)


@pytest.mark.parametrize(
    "piece",
    [*"{}1-=# .$(\\\ne", "\\boxed{", "1,", "1,000", "####", "1 ", "1/", "1.1.", "1e", "^{"]
    + ["<think>", "</think>", "<|im_end|>", "\nQ:", "\n ", "7th", "\\pm", "answer "]
    + ["\\boxed{1},", "\\boxed1 and ", "#### A", "12,34,", "1.234"]
    + ["answer is", "\\frac{1}", "\\frac", "a =", "#### x=", "1 1/", "\\cdot", "5\\times"],
)  # fmt: skip
def test_a_very_long_text_comes_back_at_once(piece):
    text = piece * (100_000 // len(piece))  # what is quadratic takes minutes
    for hostile in (text, f"#### {text}", f"\\boxed{{{text}", f"the answer is {text}"):
        extract_answer(hostile)
        extract_boxed(hostile)
        same_answer(hostile, text)


# --- boxes ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "boxed"),
    [
        ("so \\boxed{5}.", "5"),
        ("\\boxed{1} and \\boxed{2}", "1, 2"),
        ("$x = \\boxed{3}$ or $x = \\boxed{-4}$.", "3, -4"),
        ("\\boxed{3}, \\boxed{4}, and \\boxed{5}", "3, 4, 5"),
        ("\\boxed{A} \\text{ and } \\boxed C", "A, C"),
        ("\\boxed{5}, or \\boxed{5}", "5"),
        ("\\boxed{1}, so \\boxed{2}", "2"),
        ("\\boxed{1}\n\n\\boxed{2}", "2"),
        ("\\boxed{}, \\boxed{2}", "2"),
        ("\\boxed{1, \\boxed{2}", "2"),
        ("\\boxed{\\frac{1}{\\sqrt{2}}} and {3}", "\\frac{1}{\\sqrt{2}}"),
        ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
        ("\\boxed{\\left\\{x}", "\\left\\{x"),
        ("\\boxed{[0, 1)}", "[0, 1)"),
        ("\\boxed {  5 }", "5"),
        ("\\fbox{5}", "5"),
        ("$\\boxed 5$", "5"),
        ("$\\boxed\\frac{1}{2}$ or so", "\\frac{1}{2}"),
        ("\\boxed{1\n2}", "1\n2"),
        ("no box", None),
        ("\\boxed{}", None),
        ("\\boxed{ }", None),
        ("\\boxed", None),
        ("\\boxed$ {a}", None),
        ("\\boxed{4", None),
        ("\\boxed{3} then \\boxed{\\frac{4}{5}", None),
        ("\\boxedness{4}", None),
    ],
)
def test_boxed(text, boxed):
    assert extract_boxed(text) == boxed


# --- the same answer ------------------------------------------------------------------------------------
SAME = r"""
\frac{1}{2} | \dfrac12 | \tfrac{1}{2} | \frac 1 2 | 1/2 | 0.5 | .50 | \frac{2}{4} | $0.5$
-\frac{1}{2} | \frac{-1}{2} | \frac{1}{-2} | -0.5 | −1/2 | -(1/2)
1\frac12 | 1\frac{1}{2} | 1 1/2 | 3/2 | 1.5 | \frac32
-1\frac12 | -1.5 | -1 1/2
1,000 | 1000 | 1{,}000 | 1\,000 | 1,\!000 | 1000.0 | \$1,000 | 1000. | +1000
June 20 | \text{June 20} | \text{June} 20 | june  20
10^3 | 1000 | 10^{3} | 2 \times 500 | 2\cdot 500 | 2*500 | 2 × 500
0 | -0 | 0.0 | 1-1 | \frac{0}{5}
5 | x=5 | x = 5 | \theta = 5 | x_1=5 | f(x) = 5 | \text{Area} = 5 | (5) | {5} | 5.
45 | 45^\circ | 45^{\circ} | 45° | 45 degrees | 45 percent | 45\% | 45% | 45\text{ cm}^2
45\text{ m/s} | 45 \mathrm{~kg} | 45\mbox{ cm}^{3} | $45 | €45
10\pi | 10\pi\text{ cm} | 10π | \pi\cdot10 | 10 pi | 10 \cdot \pi
\sqrt2 | \sqrt{2} | √2 | sqrt(2) | \sqrt[2]{2} | sqrt{2}
2\sqrt{3} | 2 \sqrt3 | \sqrt3\cdot 2 | \frac{4\sqrt3}{2}
\sqrt[3]{2} | \sqrt[3]2
\frac{\sqrt3}{2} | \sqrt{3}/2 | \frac12\sqrt3 | 0.5\sqrt{3}
\frac{1}{2x} | \frac{1}{x}/2 | 1/(2x) | \frac{0.5}{x}
x+1 | 1+x | x~+\;1 | x\ +\quad 1 | \displaystyle x+1 | y = x+1 | (x+1) | x + 3 - 2 | x--1 | ++x+1
\frac{x+1}{2} | (x+1)/2 | \frac{x}{2} + \frac12 | 0.5(x+1)
2(x+1)(x-1) | (x-1)(x+1)*2 | 2(1+x)(x-1)
x^2 | x^{2}
-2x^2 | 2 \cdot -x^2 | -x^2*2
x^-2 y | y \cdot x^{-2} | yx^{-2}
2ab | 2ba | ab \cdot 2
xy^2 | y^2x | y^2 \cdot x
\text{no} | no | No | \text{No}
\text{Yes} | yes | Yes
\frac{x}{2} | x ÷ 2 | x·0.5 | x⋅0.5
e^{-x} | e^{- x}
x^2+y^2=1 | x^{2} + y^2 = 1.0
2^{-1} | 0.5
(1,2) | \left(1,2\right) | \big( 1, \frac{4}{2} )
(-\infty,\frac12] | (-∞, 0.5] | x \in (-\infty,1/2] | \left(-infty,0.5\right]
[0,\frac12)\cup(1,2) | (1,2) \cup [0, 0.5)
\{1,2\} | \{2, 1\} | {2,1} | \left\{1,2,2\right\}
1,2 | 2, 1 | x=1,2 | x=1, x=2 | x = 1 \text{ or } x = 2 | 1 and 2 | x=2 \text{and} 1
\{\frac12\} | \{0.5\}
x=1, y=2 | y = 2.0, x = 1
((1,2),(3,4)) | ((1, 2), (3, 4.0))
\text{Evelyn} | Evelyn | evelyn | \textbf{Evelyn} | \mathrm{ Evelyn }
\text{(A)} | (A) | A | \textbf{A}
not enough information | \text{Not  enough information}
5\text{ million} | 5 million
x \leq \frac12 | x\le1/2 | x \le 0.5
\frac12<x | 0.5 < x
\frac12>x | 0.5 > x
x\geq\frac12 | x \ge 0.5
x\neq\frac12 | x \ne 0.5
1\pm\frac12 | 1 \pm 0.5
10^-1 | 0.1
3:4 | 3 : 4.0
1011_2 | 1011_{2}
a_1+a_2 | a_{2}+a_{1}
\begin{pmatrix} 1 \\ 2 \end{pmatrix} | \begin{pmatrix}1\\2\end{pmatrix}
\sin{x} | \sin x | \sin  x
5! | 5 !
2\sqrt{2} | \sqrt{8}
(x+1)^2 | x^2+2x+1
50\% | 0.5 | 1/2 | 50
12.5\% | 12.5 | 0.125 | 12.5 percent
\frac{1}{7} | 0.142857
\pi | 3.14159265
[0,\infty) | x \ge 0 | [0, infinity)
[-2,7] | -2 \le x \le 7 | x \in [-2,7]
x > 1 | 1 < x | (1,\infty)
y=2x+3 | 2x-y+3=0 | y = 3 + 2x
\pm 3 | 3,-3 | -3, 3
\frac{1\pm\sqrt5}{2} | \frac{1+\sqrt5}{2}, \frac{1-\sqrt5}{2} | \frac{1}{2} \pm \frac{\sqrt{5}}{2}
7 | 7th | 7^{th} | 7^\text{th} | 7 m | 7 in. | 7 min | 7 lbs | 7\mathrm{s} | 7 m^2
21 | 21st | 21^{\text{st}}
SAS | \text{SAS} | (SAS)
2 | \bf 2 | \color{red} 2 | \boldsymbol{2}
x^2 | x²
5\text{ cm} | 5 centimeters | 5 cm
3 hours | 3 hr | 3 h
18 | 18, | \approx 18
\frac{1}{2} | ½
xyz | zyx
2\pm\sqrt3 | 2+\sqrt3, 2-\sqrt3
\emptyset | \varnothing | \{\}
\binom{10}{3} | 120 | \frac{10!}{3! \cdot 7!}
\log_2 8 | 3
\mathbb{R} | (-\infty,\infty)
3 + 4i | 4i+3
\begin{pmatrix} 1 & 0.5 \\ 3 & 4 \end{pmatrix} | \begin{bmatrix} 1 & \frac12 \\ 3 & 4 \end{bmatrix}
36 | 36 inches | 36 \text{ square feet} | 36 \mathrm{\ cm^2} | 36 \text{ cm}^2
60 | 60 mph | 60\text{ miles per hour} | 60 miles per hour.
18 | 18 dollars | \$18 | \$18.00
\text{A, B} | B, A | \text{B and A} | \text{A}, \text{B}
(1,2),(3,4) | (3,4), (1,2)
3:4 | \frac{3}{4}
\begin{pmatrix} 1 \\ 2 \end{pmatrix} | \begin{pmatrix} 1 \\[5pt] 2 \end{pmatrix}
2516_8 | 2516_{8}
8^{-2} | 8^-2 | 1/64
\frac{1}{6} | 0.1\overline{6} | 0.1\bar{6} | 0.1\overline6
-\frac{4}{33} | -0.\overline{12} | -.\overline{12}
(-\infty,1)\cup[2,\infty) | x < 1 \text{ or } x \ge 2 | x<1 or 2 ≤ x | x < 1 \cup x \geq 2
(-1,1]\cup(2,3) | -1 < x \le 1 \text{ or } 3 > x > 2 | x \in (-1,1] \text{ or } x \in (2,3)
"""


@pytest.mark.parametrize("forms", [line.split(" | ") for line in SAME.strip().splitlines()])
def test_the_same(forms):
    for form in forms[1:]:
        assert same_answer(form, forms[0])
        assert same_answer(forms[0], form)


DIFFERENT = r"""
June 20 | 20    \text{June 20} | June 21    May 5 | 5
(1,2) | (2,1)    (1,2) | [1,2]    (1,2] | (1,2)    12 | 1,2    12 | 1 2    (1,000) | 1000
1000 | 1,0000    1/2 | 1/3    1/2 | 2    1/2 | -1/2    0.33 | 1/3    2 | -2    1.5 | 15    x | y
xy^2 | (xy)^2    abcd | abdc    Evelyn | Evelny    2x | x    x+1 | x-1    x/2 | 2/x    x^2 | 2^x
x^2 | x^3    x^2 | 2x    -x^2 | x^2    2(x+1) | 2x+1    x-y | y-x    \sqrt2 | 2
\sqrt[3]{2} | \sqrt{2}    2\sqrt3 | 3\sqrt2    \frac{x+1}{2} | x+\frac12    \log_2 3 | \log_3 2
2\log 3 | 3\log 2    2 log 3 | 3 log 2    \sin x\cos y | \sin y\cos x
3\text{ feet }2\text{ inches} | 3    5\text{ million} | 5    1011_2 | 1011    1011_2 | 1011_3
a_1 | a_2    x=1, y=2 | x=2, y=1    x<5 | x>5    x<5 | 5    x=5 | x<5    x\le5 | x<5    5! | 5
 | 5    3:4 | 4:3    1\pm2 | 2\pm1    0^{-1} | 0    1/0 | 2/0    [0,1)\cup(2,3) | [0,1)
2^101 | 2^{102}    (-2)^2 | -2^2    1,000,2 | 1000,2,0    5 6 | 6 5    (x+1)(x-1) | (y+1)(z-1)
(x) sin y | (y) sin x    \{1\}x | \{1\}y    2^{1/2} | 1    1) | 1    2\cdot-x^2 | 2(-x)^2
(x+1)(x-1) | (x+1)(x+2)    \frac{1}{x+1} | \frac{1}{x+2}    \text{red} | \text{blue}
\frac{1}{x} | x    \begin{pmatrix}1&2\end{pmatrix} | 1,2    ( | )    1/3 | 0.3333    \pi | 3.14
\pi | 22/7    50\% | 5    4\frac23 | 8/3    1 \frac12 | 11/2    3t | 3h    5t | 5
(3,-1) | (4,-2)    (x,y) | (y,x)    x\le3 | x<3    [0,\infty) | (0,\infty)    -2<x<7 | [-2,7]
5\text{ km} | 5\text{ m}    3 hours | 3 minutes    x=2 | y=2    5\text{ or more} | 5
5\text{ below zero} | 5
SAS | SSA    no | on    ABC | ACB    5x | 5    5 x | 5    5m | 5    5 m | 5n    \pm 3 | 3, 4    7th | 8
(0,1)\cup(1,2) | (0,2)    \pm 3 | 3    3+4i | 3-4i    \infty | -\infty    1001_2 | 1001_3
0 | \emptyset    \begin{pmatrix}1&2\\3&4\end{pmatrix} | \begin{pmatrix}1&3\\2&4\end{pmatrix}
\begin{pmatrix}-1\\3\end{pmatrix} | \begin{pmatrix}-1&3\end{pmatrix}    \text{No} | On
\text{even} | \text{odd}    \text{east} | seat    \text{(A)} | B    A,B,D | A,B
0.\overline{3} | 0.3    x<1 \text{ or } x>2 | (-\infty,1)\cup[2,\infty)    x<1 or x>2 | x>1 or x<2
\text{undefined} | 0    12\text{ if }x>0 | 12    |x| | x    0.0000004 | 0.0000003    2xyz | 2
"""


@pytest.mark.parametrize("pair", re.split(r"\n|    ", DIFFERENT.strip()))
def test_not_the_same(pair):
    a, b = pair.split(" | ")
    assert not same_answer(a, b)
    assert not same_answer(b, a)


fractions = st.builds(Fraction, st.integers(-99, 99), st.integers(1, 99))


@settings(max_examples=30, deadline=None)
@given(fractions, fractions)
def test_numbers_are_the_same_exactly_when_their_values_are(one, other):
    (a, b), (c, d) = one.as_integer_ratio(), other.as_integer_ratio()
    same = one == other
    assert same_answer(f"{a}/{b}", f"\\frac{{{c}}}{{{d}}}") == same
    assert same_answer(f"x={a}/{b}", f"\\dfrac{{{-c}}}{{{-d}}}") == same
    assert same_answer(f"({a}/{b}, 100]", f"({c}/{d}, 100]") == same


@settings(max_examples=50, deadline=None)
@given(texts, texts)
def test_no_answer_breaks_the_comparison_and_each_is_the_same_as_itself(a, b):
    assert same_answer(a, f" {a} ")
    assert isinstance(same_answer(a, b), bool)


@pytest.mark.parametrize(
    "piece", ["(", "{", "\\{", "\\{1,", "\\sqrt", "\\frac", "-", "9^", "_1", "=,", "a=", "\\cup"]
)
def test_deep_nesting_is_not_the_same_as_something_else(piece):
    text = piece * (300 // len(piece))
    assert same_answer(text, f"{text} ")
    assert not same_answer(text, f"{text[:-1]}q")


@pytest.fixture
def impatient(monkeypatch):
    """An `Algebra` that gives up after a second."""
    monkeypatch.setattr(forms, "SECONDS", 1)
    monkeypatch.setattr(forms, "_algebra", algebra := forms.Algebra())
    yield algebra
    algebra.close()


def test_what_takes_for_ever_is_given_up_in_any_thread_and_the_next_comparison_works(impatient):
    """Towers of powers keep sympy in C, where no exception of a signal's handler reaches it."""
    pairs = [("9^{9^{9^{9^{9}}}}", "9^{9^{9^{9}}}"), ("2\\sqrt{2}", "\\sqrt{8}")] * 2
    begin = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda pair: same_answer(*pair), pairs)) == [False, True] * 2
    assert time.monotonic() - begin < 60


def test_after_an_interrupt_no_reply_is_taken_for_another(impatient, monkeypatch):
    assert same_answer("2\\sqrt{2}", "\\sqrt{8}")
    monkeypatch.setattr(impatient.process, "stdout", None)  # stands for an interrupt while it waits
    with pytest.raises(AttributeError):
        same_answer("2\\sqrt{2}", "\\sqrt{8}")
    assert impatient.process is None
    assert not same_answer("2\\sqrt{2}", "\\sqrt{7}")


def test_a_comparison_that_cannot_be_made_is_an_error_and_no_grade(
    impatient, monkeypatch, tmp_path
):
    assert same_answer("2\\sqrt{2}", "\\sqrt{8}")
    impatient.process.kill()
    impatient.process.wait()
    assert same_answer("2\\sqrt{2}", "\\sqrt{8}"), "what died in between is started again"
    impatient.close()
    (tmp_path / "symbolic.py").write_text("import no_such_module", encoding="utf-8")
    monkeypatch.setattr(forms, "__file__", str(tmp_path / "forms.py"))
    with pytest.raises(
        RuntimeError, match="math-verify cannot be loaded: its process ended with 1"
    ):
        same_answer("2\\sqrt{2}", "\\sqrt{8}")


def test_plain_numbers_need_no_algebra(monkeypatch):
    monkeypatch.setattr(forms, "_algebra", None)
    assert same_answer("\\$1,000", "1000.0")
    assert not same_answer("x = 0.30", "x = 0.31")
    assert same_answer("\\text{Evelyn}", "evelyn")


def test_without_math_verify_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "math_verify", None)
    monkeypatch.setattr(forms, "_algebra", forms.Algebra())
    with pytest.raises(
        ModuleNotFoundError, match=r'math-verify: pip install "minidistill\[course\]'
    ):
        same_answer("2\\sqrt{2}", "\\sqrt{8}")


def test_nothing_is_not_zero():
    assert not same_answer("0", "")


def test_what_is_longer_than_any_answer_must_be_equal_to_the_letter():
    long = "1 + " * 100 + "1"
    assert same_answer(long, f" {long} ")
    assert same_answer(f"\n{long}", long)
    assert not same_answer(long, long.replace(" ", ""))


@pytest.mark.parametrize(("a", "b"), [(5, "5"), ("5", 5), (None, None)])
def test_answers_are_texts(a, b):
    with pytest.raises(TypeError, match="answer must be a text, but is"):
        same_answer(a, b)
