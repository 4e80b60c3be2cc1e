"""GSM8K, MATH, HumanEval and MBPP: reading them, and what counts as right."""

import ast
import builtins
import copy
import gzip
import json
import random
import sys
import textwrap
from pathlib import Path

import pytest

from minidistill import sandbox
from minidistill.evaluation import grade_responses
from minidistill.tasks import NO_ANSWER, Example, Grade, Task, benchmarks
from minidistill.tasks.benchmarks import load_benchmark
from minidistill.tasks.code_extraction import (
    humaneval_program,
    humaneval_test,
    mbpp_program,
    strip_body,
)
from tests.conftest import DATA, needs_data

# The programs of these tests are harmless, so they may run where there is no bubblewrap.
pytestmark = pytest.mark.filterwarnings("ignore:no bubblewrap")

APPLES = {"question": "Two apples and three: how many?", "answer": "2 + 3 = <<2+3=5>>5\n#### 5"}
PEARS = {"question": "A thousand pears and one?", "answer": "So it is 1000 + 1.\n#### 1,001"}
HALF = {"problem": "What is half of $x$ at $x=3$?", "solution": r"It is $\boxed{\frac{3}{2}}$."}
ROOTS = {"problem": "Roots of $x^2=4$?", "solution": "Both signs.", "answer": "-2, 2"}
DOUBLE = {
    "prompt": 'import math\n\n\ndef one():\n    return 1\n\n\ndef double(x):\n    """Twice x."""\n',
    "canonical_solution": "    y = x * 2\n    return y\n",
    "test": "\n\ndef check(candidate):\n    assert candidate(2) == 4\n    assert candidate(3) == 6 * one()\n",
    "entry_point": "double",
}
TRIPLE = {
    "text": "Write a function to triple a number.",
    "code": "def triple(n):\r\n\treturn 3 * n",
    "test_list": ["assert triple(2) == 6", "assert math.isclose(triple(0.1), 0.3)"],
    "test_setup_code": "import math",
    "challenge_test_list": [],
}


@pytest.fixture
def load(tmp_path):
    """Writes rows, or raw text, as a file and loads it."""

    def load(name, *rows, file="rows.jsonl"):
        path = tmp_path / file
        lines = "".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows)
        (gzip.open if file.endswith(".gz") else open)(path, "wb").write(lines.encode())
        return load_benchmark(name, path, allow_unsandboxed=True)

    return load


# --- reading --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "row", "prompt", "reference"),
    [
        ("gsm8k", APPLES, APPLES["question"], APPLES["answer"]),
        ("math", HALF, HALF["problem"], HALF["solution"]),
        ("humaneval", DOUBLE, DOUBLE["prompt"], DOUBLE["canonical_solution"]),
        (
            "mbpp",
            TRIPLE,
            "You are an expert Python programmer, and here is your task: "
            "Write a function to triple a number. Your code should pass these tests:\n\n"
            "assert triple(2) == 6\nassert math.isclose(triple(0.1), 0.3)\n",
            TRIPLE["code"],
        ),
    ],
)
@pytest.mark.parametrize("file", ["rows.jsonl", "rows.jsonl.gz"])
def test_a_row_becomes_a_test_example(load, name, row, prompt, reference, file):
    task = load(name, row, file=file)
    assert (task.name, task.train) == (name, [])
    assert task.test == [Example(prompt, (reference,))]
    assert task.explain(prompt, reference) == Grade(1.0, "right")
    assert task.grade(prompt, reference) == 1.0
    assert task.explain(prompt, "I cannot say.") == Grade(0.0, NO_ANSWER)
    assert task.grade(prompt, "I cannot say.") == 0.0


def test_reading_leaves_no_cache(load, tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    load("gsm8k", APPLES, PEARS)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_path_is_a_file_whatever_its_name(load):
    assert len(load("gsm8k", APPLES, file="rows.txt").test) == 1


def test_what_the_hub_hands_out_is_read(tmp_path):
    from datasets import Dataset

    Dataset.from_list([APPLES]).to_parquet(tmp_path / "test-00000-of-00001.parquet")
    Dataset.from_list([APPLES]).to_csv(tmp_path / "test.csv")
    for path in tmp_path.iterdir():
        assert load_benchmark("gsm8k", path).grade(APPLES["question"], APPLES["answer"]) == 1


def test_lines_keep_their_order_and_extra_fields_do_no_harm(load):
    many = [{"question": f"{i}?", "answer": f"#### {i}", "n": i} for i in range(50)]
    task = load(
        "gsm8k", *many, {"question": "a\u2028b?", "answer": "#### 1", "tags": ["x"]}, "\n\n"
    )
    assert [e.prompt for e in task.test] == [*(f"{i}?" for i in range(50)), "a\u2028b?"]
    assert [task.grade(f"{i}?", "it is 7") for i in range(50)] == [float(i == 7) for i in range(50)]


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        ("gsm8k", [APPLES, "{oops\n"], r"rows.jsonl, line 2: not JSON"),
        ("gsm8k", [""], r"rows.jsonl: no rows in this file"),
        ("gsm8k", [APPLES, "[1]\n"], r"rows.jsonl, line 2: expected a JSON object, but got list"),
        ("gsm8k", [APPLES, {"question": "q?"}], r"line 2: field 'answer' must be a text, but is None"),
        ("gsm8k", [{**APPLES, "question": 3}], r"line 1: field 'question' must be a text, but is 3"),
        ("gsm8k", [{**APPLES, "question": ""}], r"line 1: field 'question' must be a text, but is ''"),
        ("gsm8k", [{**APPLES, "answer": "many"}], r"line 1: field 'answer' has no number, but is 'many'"),
        ("gsm8k", ['{"question": "\\ud800", "answer": "3"}\n'], r"'question' holds half of a surrogate"),
        ("math", [HALF, {"problem": "p", "solution": "4"}], r"line 2: field 'solution' has no \\boxed"),
        ("math", [{"problem": "p", "answer": "4"}], r"line 1: field 'solution' must be a text"),
        ("math", [{"solution": "4"}], r"line 1: field 'problem' must be a text"),
        ("humaneval", [{**DOUBLE, "prompt": None}], r"line 1: field 'prompt' must be a text"),
        ("humaneval", [{**DOUBLE, "canonical_solution": 1}], r"line 1: field 'canonical_solution' must"),
        ("humaneval", [{**DOUBLE, "test": None}], r"line 1: field 'test' must be a text, but is None"),
        ("humaneval", [{**DOUBLE, "prompt": "x = 1"}], r"line 1: field 'prompt' has no function"),
        ("gsm8k", [APPLES, {**APPLES, "answer": "#### 6"}], r"two rows have the prompt 'Two apples"),
        ("humaneval", [{**DOUBLE, "entry_point": "zzz"}], r"field 'entry_point' is 'zzz', but"),
        ("mbpp", [{**TRIPLE, "test_list": ["assert ("]}], r"line 1: field 'test_list' is no Python"),
        ("mbpp", [{**TRIPLE, "test_imports": "import math"}], r"line 1: field 'test_imports' must be a list"),
        ("mbpp", [{**TRIPLE, "test_setup_code": 5}], r"line 1: field 'test_setup_code' must be a text"),
        ("mbpp", [{**TRIPLE, "test_list": []}], r"line 1: field 'test_list' must be a list of texts"),
        ("mbpp", [{**TRIPLE, "test_list": "assert 1"}], r"line 1: field 'test_list' must be a list of texts"),
        ("mbpp", [{**TRIPLE, "test_list": [1]}], r"line 1: field 'test_list' must be a list of texts"),
        ("mbpp", [{**TRIPLE, "text": None}], r"line 1: field 'text' must be a text"),
        ("mbpp", [{**TRIPLE, "code": None}], r"line 1: field 'code' must be a text"),
        ("mbpp", [{**TRIPLE, "test_setup_code": "import"}], r"line 1: field 'test_setup_code' is no Python"),
    ],
)  # fmt: skip
def test_a_bad_line_is_named(load, name, rows, message):
    with pytest.raises(ValueError, match=message):
        load(name, *rows)


def test_bytes_that_are_no_text_are_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(json.dumps(APPLES).encode() + b'\n{"question": "\xff"}\n')
    with pytest.raises(ValueError, match=r"rows.jsonl, line 2: not UTF-8 text"):
        load_benchmark("gsm8k", path)


@pytest.mark.parametrize("cut", [-6, 0])
def test_a_damaged_gz_is_named(tmp_path, cut):
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(APPLES).encode())[:cut] or b"no gzip")
    with pytest.raises(ValueError, match=r"rows.jsonl.gz: not a whole gzip file"):
        load_benchmark("gsm8k", path)


def test_a_missing_file_and_an_unknown_benchmark_get_the_nearest_name(load, tmp_path):
    load("gsm8k", APPLES)
    for source in (tmp_path / "row.jsonl", str(tmp_path / "row.jsonl")):
        with pytest.raises(FileNotFoundError, match="did you mean 'rows.jsonl'"):
            load_benchmark("gsm8k", source)
    with pytest.raises(ValueError, match="did you mean 'gsm8k'"):
        load_benchmark("gsm8", "x.jsonl")


def test_without_datasets_the_extra_is_named(load, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert len(load("gsm8k", APPLES).test) == 1  # a file needs none
    with pytest.raises(ModuleNotFoundError, match=r"minidistill\[course\]"):
        load_benchmark("gsm8k")


def test_a_first_mark_empty_lines_and_an_array_do_no_harm(load):
    many = load("gsm8k", "\ufeff", APPLES, "\n", "\r\n", PEARS)
    assert many.test == load("gsm8k", json.dumps([APPLES, PEARS]), file="rows.json").test
    assert len(many.test) == 2


@pytest.mark.parametrize(
    ("name", "source", "asked"),
    [
        ("gsm8k", None, ("openai/gsm8k", "main")),
        ("math", None, ("HuggingFaceH4/MATH-500",)),
        ("humaneval", None, ("openai/openai_humaneval",)),
        ("mbpp", None, ("google-research-datasets/mbpp", "full")),
        ("gsm8k", "me/mine", ("me/mine",)),
        ("gsm8k", Path("openai/gsm8k"), ("openai/gsm8k", "main")),
        ("math", "me/Mine-1.5", ("me/Mine-1.5",)),
    ],
)
def test_the_hub_is_asked_for_its_test_split(monkeypatch, name, source, asked):
    row = {"gsm8k": APPLES, "math": HALF, "humaneval": DOUBLE, "mbpp": TRIPLE}[name]
    asks = []
    monkeypatch.setattr("datasets.load_dataset", lambda *a, **k: asks.append((a, k)) or [row])
    assert len(load_benchmark(name, source).test) == 1
    assert asks == [(asked, {"split": "test"})]
    monkeypatch.setattr("datasets.load_dataset", lambda *a, **k: [row, {}])
    with pytest.raises(ValueError, match=f"{asked[0]}, row 2: field"):
        load_benchmark(name, source)


def test_without_a_network_a_local_file_is_proposed():
    with pytest.raises(
        ConnectionError, match=r"'openai/gsm8k' cannot be fetched .* local .jsonl file"
    ):
        load_benchmark("gsm8k")


def test_other_prompts_and_responses_are_refused(load):
    task = load("gsm8k", APPLES)
    with pytest.raises(ValueError, match="gsm8k has no prompt 'why"):
        task.explain("why?", "#### 5")
    with pytest.raises(TypeError, match="response must be a text, but is 5"):
        task.explain(APPLES["question"], 5)
    with pytest.raises(TypeError, match="response must be a text, but is None"):
        explain_double(load, None)


def test_verdicts_grade_each_response_to_its_prompt(load):
    task = load("gsm8k", APPLES, PEARS)
    found = grade_responses(task, ["#### 5", "#### 5"])
    assert found == [Grade(1.0, "right"), Grade(0.0, "wrong")]
    with pytest.raises(ValueError, match="1 responses to 2 prompts of 'gsm8k'"):
        grade_responses(task, ["#### 5"])
    with pytest.raises(ValueError, match="task 'few' has no grader"):
        grade_responses(Task("few", [], []), [])


# --- final answers --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("row", "response", "reason"),
    [
        (PEARS, "#### 1001", "right"),
        (PEARS, "The answer is **1,001.00** pears", "right"),
        (PEARS, "#### 1000", "wrong"),
        (PEARS, "1000 + 1 is 1,001, so ####", NO_ANSWER),
        (HALF, r"so \boxed{1.5}", "right"),
        (HALF, r"so \boxed{1\frac12}", "right"),
        (HALF, r"The answer is $\frac32$. I hope so.", "right"),
        (HALF, "The answer is: **3/2**.", "right"),
        (HALF, r"so \boxed{\frac{2}{3}}", "wrong"),
        (HALF, r"the answer is \boxed{3}, not 3/2", "wrong"),
        (HALF, r"<think>\boxed{2}, no</think> so \boxed{1.5}", "right"),
        (HALF, r"<think>so \boxed{1.5}", NO_ANSWER),
        (HALF, "so \\boxed{1.5}\n\nProblem: And of 4?\nSolution: \\boxed{2}", "right"),
        (HALF, "The answer is 3/2.\n\nQuestion: And of 4?\nThe answer is 2.", "right"),
        (HALF, "The answer is:\n\\[\n\\frac{3}{2}\n\\]", "right"),
        (HALF, "The answer is:\n$$\n1.5\n$$\nBye.", "right"),
        (HALF, "The answer is `3/2`.", "right"),
        (HALF, "The answer is $1.5$ or $2$.", "wrong"),
        (HALF, "<answer>1.5</answer>", "right"),
        (HALF, "The final answer is 3/2. I hope it is correct.", "right"),
        (HALF, "The answer is 3/2. This is because 2 * 1.5 = 3.", "right"),
        (HALF, "The answer is $1.5$. The width is $3$.", "right"),
        (HALF, "The answer is $1.5$ because $x = 3$.", "right"),
        (HALF, "The answer is $1.5$, not $3$.", "right"),
        (HALF, "Answer: 1.5 (since 3/2)", "right"),
        (HALF, "Answer: The value of $x$ is $1.5$.", "right"),
        (HALF, "The answer is **1.5** square meters.", "right"),
        (HALF, "The answer is “1.5”!", "right"),
        (HALF, "So.\n\n### Final Answer\n3/2", "right"),
        (HALF, "**Final Answer**\n\n$x = 1.5$", "right"),
        (HALF, "Final Answer\n\\[\\frac32\\]", "right"),
        (HALF, "3/2", "right"),
        (HALF, "$$x = 1.5$$", "right"),
        (HALF, "**1.5**", "right"),
        (HALF, "It is 3/2, as half of 3 is", NO_ANSWER),
        (ROOTS, "The answers are $2$ and $-2$.", "right"),
        (ROOTS, "The answer is $x = 2$, or $x = -2$, as $x^2 = 4$.", "right"),
        (ROOTS, "The answer is: $x$ is $2$ or $-2$.", "right"),
        (HALF, "The answer is", NO_ANSWER),
        (HALF, "", NO_ANSWER),
        (ROOTS, r"\boxed{x = 2 \text{ or } x = -2}", "right"),
        (ROOTS, r"\boxed{2}", "wrong"),
        ({**ROOTS, "answer": 4}, r"\boxed{4}", "right"),
    ],
)
def test_answers_are_compared(load, row, response, reason):
    name = "gsm8k" if "question" in row else "math"
    assert load(name, row).explain(next(iter(row.values())), response) == Grade(
        float(reason == "right"), reason
    )


@pytest.mark.parametrize(
    "piece", ["\n", "$", "\\[", "`a", "answer is ", "# answer\n", "$a$ or ", "\\(", " is ", "*"]
)
def test_no_statement_of_an_answer_takes_long(load, piece):
    task = load("math", HALF)
    for start in ("", "The answer is ", "Answer\n"):
        text = start + piece * (100_000 // len(piece))  # what is quadratic takes minutes
        assert task.grade(task.test[0].prompt, text) == 0


@needs_data
@pytest.mark.slow
def test_all_references_of_gsm8k_are_right_and_no_other_number_is():
    task = load_benchmark("gsm8k", DATA / "gsm8k_train.jsonl")
    assert len(task.test) == 7473
    assert sum(task.grade(e.prompt, e.references[0]) for e in task.test) == 7473
    assert not any(task.grade(e.prompt, e.references[0] + "7") for e in task.test)


# --- HumanEval ------------------------------------------------------------------------------------------
WHOLE = "def double(x):\n    return x + x\n"
RIGHT = {
    "a body": "    return 2 * x\n",
    "a body that goes on": "    return 2 * x\n\n\ndef other(y):\n    retur",
    "a body, then an example": "    return 2 * x\n\nprint(double(3))\nassert double(1) == 3\n",
    "a body with its helper": "    return add(x, x)\n\n\ndef add(a, b):\n    return a + b\n",
    "a body and a closing fence": "    return 2 * x\n```\nThis doubles `x`.\n```python\ndouble(1)\n```",
    "a body and a fence": "    return 2 * x\n```\nSo ```double(1)``` is 2.",
    "a function and a fence": f"\n{WHOLE}```\nThis doubles.\n```python\ndouble(1)\n```",
    "a stripped body after a gap": "\n\ny = x\n    return 2 * y",
    "a stripped body": "y = x\n    return 2 * y",
    "a stripped body that goes on": "y = x\n    return 2 * y\n\nprint(1",
    "a body at the margin": "if x:\n    y = x\nelse:\n    y = 0\nreturn 2 * y",
    "a body that uses the prompt": "    return int(math.floor(2)) * x * one()\n",
    "a fenced body": "Sure!\n\n```python\n    return 2 * x\n```\nDone.",
    "a fenced body at the margin": "```\nreturn 2 * x\n```",
    "a whole function": WHOLE,
    "a repeated prompt": DOUBLE["prompt"] + "    return 2 * x",
    "a function after prose": f"Here you are:\n\n{WHOLE}\nIt's simple, isn't it?\n\nBye.",
    "a function and its use": f"{WHOLE}\nprint(double(2))\nassert double(1) == 3\nwhile True:\n    pass\n",
    "a fenced function": f"Sure!\n```python\n{WHOLE}```\nIt adds.",
    "a fenced function, not closed": f"Sure!\n```python\n{WHOLE}",
    "an indented fence": "1. Code:\n\n   ```py\n   def double(x):\n       return x + x\n   ```\n",
    "a function in the second block": f"```bash\npip install double\n```\n```python\n{WHOLE}```",
    "the last of two functions": f"```\ndef double(x):\n    return x\n```\nor\n```\n{WHOLE}```",
    "imports and names": "import operator\nfrom math import floor\n\nTWO = 2\nZERO: int = 0\n"
    "try:\n    import ssl2\nexcept ImportError:\n    ssl2 = 0\n\n\nclass No:\n    pass\n\n\n"
    "def double(x):\n    No()\n    return floor(operator.mul(x, TWO)) + ZERO + ssl2",
    "a decorated function": "def same(f):\n    return f\n\n\n@same\ndef double(x):\n    return one() * 2 * x",
    "a typed function": "def double(x: int) -> int:\n    return 2 * x",
    "a constant before it": "TWO = 2\n\ndef double(x):\n    return TWO * x",
    "prose and a constant before it": "Sure! My code:\n\nTWO = 2\n\ndef double(x):\n    return TWO * x\n"
    "\nIt works.",
    "a table filled by a loop": "T = {}\nfor i in range(9):\n    T[i] = 2 * i\n"
    "\ndef double(x):\n    return T[x]",
    "a constant changed before": "import os\nK = 1\nK += 1\ndef double(x):\n    return K * x",
    "a list extended before": "import os\nL = []\nL.extend([2])\ndef double(x):\n    return L[0] * x",
    "a helper under if": "import os\nif os:\n    two = lambda: 2\ndef double(x):\n    return two() * x",
    "a setting of Python's": "import sys\nsys.setrecursionlimit(5000)\ndef double(x):\n    return 2 * x",
    "a stub, then the solution": f"```\ndef double(x):\n    ...\n```\nso\n```\n{WHOLE}```",
    "the solution, then a stub": f"```\n{WHOLE}```\nas in\n```\ndef double(x):\n"
    "    raise NotImplementedError\n```",
    "the prompt, then the solution": f"```\n{DOUBLE['prompt']}```\nso\n```\n"
    f"{DOUBLE['prompt']}    return 2 * x\n```",
    "a helper in a block before": "```\nK = 2\n```\n```\ndef times(x):\n    return K * x\n```\n```\n"
    "def double(x):\n    return times(x)\n```\n",
    "a helper in the block after": "```\ndef double(x):\n    return times(x)\n```\n```\ndef times(x):\n"
    "    return 2 * x\n```",
    "a stub of what the prompt defines": "```\ndef one():\n    pass\ndef double(x):\n"
    "    return 2 * x * one()\n```",
    "a future": f"```\nfrom __future__ import annotations\n{WHOLE}```",
    "a console": ">>> def double(x):\n...     return 2 * x\n...\n>>> double(1)\n2\n",
    "a notebook": f"```\n%timeit 1\n!pip install x\nIn [1]: import os\n{WHOLE}```",
    "a test of its own, and the end": f"{WHOLE}def test_it():\n    assert 0\ntest_it()\nexit(1)\n",
    "a use in the block after": f"```\n{WHOLE}```\nUse:\n```\nn = double(int(input()))\nprint(n)\n```",
    "tests in a loop": f"{WHOLE}for a, b in [(1, 3)]:\n    assert double(a) == b\n",
    "tests of unittest": f"import unittest\n{WHOLE}class T(unittest.TestCase):\n    pass\nunittest.main()\n",
    "a guarded main": f"{WHOLE}if __name__ == '__main__':\n    1 / 0\n",
    "whole, cut off in the next": f"{WHOLE}\ndef other(x):\n    return x +",
    "whole, cut off in a text": f"{WHOLE}\ndef other(x):\n    \"\"\"Goes on",
    "a lambda": "```\ndouble = lambda x: 2 * x\n```",
    "a fence in the docstring": '```\ndef double(x):\n    """So:\n    ```\n    double(1)\n    ```\n    """\n'
    "    return 2 * x\n```",
    "other fences": f"~~~python\n{WHOLE}~~~\nDone.",
    "a fence of four": f"````md\n```python\n{WHOLE}```\n````",
    "thought, then code": f"<think>\n```\ndef double(x):\n    return x\n```\nNo.</think>\n```\n{WHOLE}```",
    "a lone end of thinking": f"Maybe ```\ndef double(x):\n    return x\n``` no\n</think>\n```\n{WHOLE}```",
    "thought, then a body": "<think>Twice.</think>\n    return 2 * x\n",
    "a turn that ended": "    return 2 * x<|im_end|>\n<|im_start|>user",
    "a body, then the prompt again": f"    return 2 * x\n\n{DOUBLE['prompt']}",
    "a body, then the prompt, cut off": f"    return 2 * x\n\n{DOUBLE['prompt'][:-8]}",
    "a body, then a stub": f"    return 2 * x\n\n{DOUBLE['prompt']}    pass\n",
    "a body, then a wrong one": f"    return 2 * x\n\n{DOUBLE['prompt']}    return x\n",
    "twice in a fence, the second a stub": f"```\n{WHOLE}\n\n{DOUBLE['prompt']}    # yours\n    pass\n```",
    "a fence, then one cut off": f"```\n{WHOLE}```\nAgain:\n```\ndef double(x):\n    x = 3 * x\n",
    "a fence within its own": f"```python\n```python\n{WHOLE}```\n```",
    "a driver that reads": f"{WHOLE}n = int(input())\na = []\nfor i in range(n):\n    a.append(input())\n"
    "print(double(a))\nb = a + [n]\nc = double(b)\n",
    "another name for it": "def solve(x):\n    return 2 * x\ndouble = solve\n",
    "a method under its name": "class S:\n    def f(x):\n        return 2 * x\ndouble = S.f\n",
    "a body after a word": "Here is the body:\n\n    y = x\n    return 2 * y\n",
    "a call of Llama's": f"<|python_tag|>{WHOLE}",
    "a body with another margin": "  y = x\n  if y:\n     y += x\n  return y\n",
    "a body with a deeper margin": "        y = x\n        return 2 * y\n",
    "a fenced body with another margin": "```\n  y = x\n  return 2 * y\n```",
    "a body with tabs": "\tif x:\n\t\treturn 2 * x\n\treturn 0\n",
    "a function with a margin": f"Sure:\n{textwrap.indent(WHOLE, '   ')}",
    "a function in a list": f"1. Code:\n\n{textwrap.indent(WHOLE, ' ' * 7)}\n   Done.\n2. So.",
    "a quoted function": f"Here:\n> {WHOLE.rstrip().replace(chr(10), chr(10) + '> ')}\n\nDone.",
    "lines that end as on Windows": "```python\r\ndef double(x):\r\n    return 2 * x\r\n```\r\n",
}  # fmt: skip
WRONG = {
    "another number": ("    return x\n", "wrong answer"),
    "an empty body": ("    pass\n", "wrong answer"),
    "an error": ("    return nothing\n", "NameError: name 'nothing' is not defined"),
    "broken body": ("    return 2 *\n", "SyntaxError"),
    "broken function": ("def double(x):\n    return 2 * x\n    or not\n", "SyntaxError"),
    "broken fence": ("```python\ndef double(x:\n    return\n```", "SyntaxError"),
    "another name, broken": ("def triple(x:\n    return 3", "SyntaxError"),
    "another name in a fence": ("```\ndef triple(x):\n    return 3\n```", "wrong answer"),
    "a body with a null byte": ("    return 2\0 * x\n", ""),
    "a right draft, then a wrong one": (
        f"```\n{WHOLE}```\nor\n```\n{WHOLE.replace('+', '-')}```",
        "wrong answer",
    ),
    "cut off in itself": ("def double(x):\n    return (x +", "SyntaxError"),
    "a right use of a wrong function": (
        "def double(x):\n    return x\ndouble = double\n",
        "wrong answer",
    ),
    "another name": ("def triple(x):\n    return 3 * x\n", "wrong answer"),
    "a null byte": ("def double(x):\n    return 2\0 * x\n", ""),
    "words in a fence": ("```\nI do not know\n```", "SyntaxError"),
}
NOTHING = ["", "\n\n", "Sorry", "I cannot do that.", "from the prompt it is not clear", "42", "x"]
NOTHING += [
    "<think>\n```\ndef double(x):\n    return 2 * x\n```\nwait",
    "x * 2",
    "No code:",
    "```",
    "``` ```",
]


def explain_double(load, response):
    return load("humaneval", DOUBLE).explain(DOUBLE["prompt"], response)


@pytest.mark.parametrize("kind", RIGHT)
def test_however_the_code_comes_it_is_found(load, kind):
    assert explain_double(load, RIGHT[kind]) == Grade(1.0, "right")


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_code_is_graded_with_its_reason(load, kind):
    response, reason = WRONG[kind]
    found = explain_double(load, response)
    assert found.grade == 0
    assert reason in found.reason
    assert found.reason != NO_ANSWER


@pytest.mark.parametrize("response", NOTHING)
def test_without_code_there_is_no_answer(load, response):
    assert explain_double(load, response) == Grade(0.0, NO_ANSWER)
    assert humaneval_program(DOUBLE["prompt"], response) is None
    assert mbpp_program("assert triple(1) == 3", response) is None


@pytest.mark.parametrize("name", ["humaneval", "mbpp"])
def test_an_empty_fence_is_no_answer(load, name):
    task = load(name, DOUBLE if name == "humaneval" else TRIPLE)
    assert task.explain(task.test[0].prompt, "Here:\n```\n```") == Grade(0.0, NO_ANSWER)


def test_the_test_brings_what_the_prompt_defines_itself():
    text = humaneval_test(DOUBLE["prompt"], DOUBLE["test"])
    defined = [n.name for n in ast.parse(text).body if isinstance(n, ast.FunctionDef)]
    assert defined == ["one", "check"]
    assert text.startswith("import math\n")
    assert text.endswith("check(double)\n")


def test_a_helper_of_the_prompt_cannot_be_forged(load):
    forged = f"def one():\n    return 0\n\n\n{WHOLE}".replace("x + x", "(x + x) * (x < 3)")
    assert explain_double(load, forged).grade == 0


def test_emptied_keeps_all_but_the_body_of_the_last_function():
    program = strip_body(DOUBLE["prompt"] + DOUBLE["canonical_solution"])
    assert program == "import math\n\ndef one():\n    return 1\n\ndef double(x):\n    pass"
    assert strip_body(DOUBLE["prompt"]) == program


@pytest.mark.parametrize("allowed", [True, False])
def test_programs_go_to_the_sandbox_with_their_limits(load, tmp_path, monkeypatch, allowed):
    calls = []
    monkeypatch.setattr(
        sandbox, "run", lambda *job: calls.append(job) or sandbox.Result(False, "late")
    )
    load("mbpp", TRIPLE, file="mbpp.jsonl")
    load("humaneval", DOUBLE)
    for name, file, response in (
        ("humaneval", "rows.jsonl", "    return 2"),
        ("mbpp", "mbpp.jsonl", TRIPLE["code"]),
    ):
        task = load_benchmark(name, tmp_path / file, allow_unsandboxed=allowed)
        assert task.explain(task.test[0].prompt, response) == Grade(0.0, "late")
    assert [job[2:] for job in calls] == [(benchmarks.SECONDS, allowed)] * 2


HOSTILE = [
    *"(-[{'\0",
    "x.a",
    "lambda:",
    "1+",
    "not ",
    '"""',
    "\\\n",
    "if x:\n ",
    "@a\n",
    "```",
    "```\n",
]
HOSTILE += [
    " def double(x):\n",
    "> import x\n",
    "x;",
    "def double(x):\n",
    "def double(x): return 1\nprose it is\n",
    "\ud800",
]


@pytest.mark.parametrize("piece", HOSTILE)
def test_no_response_breaks_the_search_for_code(piece):
    text = piece * (60_000 // len(piece))
    for response in (
        text,
        f"    return {text}",
        f"```python\ndef double(x):\n    return {text}\n```",
    ):
        assert isinstance(humaneval_program(DOUBLE["prompt"], response), str | None)
        assert isinstance(mbpp_program("assert double(1) == 2", response), str | None)


@pytest.fixture(scope="module")
def humaneval():
    return load_benchmark("humaneval", DATA / "HumanEval.jsonl.gz", allow_unsandboxed=True)


def share_right(task, respond):
    grades = grade_responses(task, [respond(e.prompt, e.references[0]) for e in task.test])
    return sum(g.grade for g in grades), [g.reason for g in grades if not g.grade]


@needs_data
@pytest.mark.parametrize(
    "respond",
    [
        lambda prompt, solution: solution,
        lambda prompt, solution: prompt + solution,
        lambda prompt, solution: f"Sure:\n```python\n{prompt}{solution}```\nThat's it.",
        lambda prompt, solution: textwrap.dedent(solution),
        lambda prompt, solution: f"{solution.strip()}\n\nprint(1)\ndef and_so_on(",
    ],
    ids=["body", "whole", "chat", "dedented", "runs_on"],
)
def test_all_solutions_of_humaneval_pass(humaneval, respond):
    assert share_right(humaneval, respond) == (164, [])


@needs_data
def test_no_emptied_function_of_humaneval_passes(humaneval):
    right, reasons = share_right(humaneval, lambda prompt, solution: strip_body(prompt + solution))
    assert (right, len(reasons)) == (0, 164)
    assert NO_ANSWER not in reasons


PAIRS = [
    (ast.Lt, ast.GtE),
    (ast.Gt, ast.LtE),
    (ast.Eq, ast.NotEq),
    (ast.In, ast.NotIn),
    (ast.Add, ast.Sub),
]
FLIPPED = dict(PAIRS) | {b: a for a, b in PAIRS}


def mutants(program):
    """Copies of a program, each with one comparison turned, + and - swapped, or a number off by one."""
    tree = ast.parse(program)
    nodes = list(ast.walk(tree.body[-1]))
    for i, node in enumerate(nodes):
        clone = copy.deepcopy(tree)
        other = list(ast.walk(clone.body[-1]))[i]
        if isinstance(node, ast.Compare) and type(node.ops[0]) in FLIPPED:
            other.ops[0] = FLIPPED[type(node.ops[0])]()
        elif isinstance(node, ast.BinOp) and type(node.op) in FLIPPED:
            other.op = FLIPPED[type(node.op)]()
        elif isinstance(node, ast.Constant) and type(node.value) is int:
            other.value += 1
        else:
            continue
        yield ast.unparse(clone)


@needs_data
@pytest.mark.slow
def test_mutated_solutions_of_humaneval_fail(humaneval, monkeypatch):
    """At most three of each; those that pass do so in plain Python too: there the data's tests are weak."""
    monkeypatch.setattr(benchmarks, "SECONDS", 1.0)
    rng, chosen = random.Random(0), []
    for example in humaneval.test:
        found = list(mutants(example.prompt + example.references[0]))
        chosen += [(example, program) for program in rng.sample(found, min(3, len(found)))]
    task = Task("mutants", [], [e for e, _ in chosen], humaneval.grade, humaneval.explain)
    graded = grade_responses(task, [program for _, program in chosen])
    alive = [pair for pair, g in zip(chosen, graded, strict=True) if g.grade]
    assert len(chosen) > 350
    assert len(alive) < 0.15 * len(chosen), f"{len(alive)} of {len(chosen)} mutants pass"
    assert not [g for g in graded if not g.grade and g.reason in ("right", NO_ANSWER)]
    with gzip.open(DATA / "HumanEval.jsonl.gz", "rt", encoding="utf-8") as file:
        tests = {row["prompt"]: row for row in map(json.loads, file)}
    for example, program in alive:
        row = tests[example.prompt]
        exec(
            f"{program}\n{row['test']}\ncheck({row['entry_point']})", {}
        )  # a solution, mutated by us


# --- MBPP -----------------------------------------------------------------------------------------------
TREE = {
    "text": "Write a function to add the values of a tree.",
    "code": "class Node:\n    def __init__(self, v):\n        self.v, self.left = v, None\n\n"
    "def total(node):\n    return node.v + (total(node.left) if node.left else 0)",
    "test_setup_code": "root = Node(1)\r\nroot.left = Node(2)\r\nroot.left.left = Node(3)\r\nleaf = Node(4)",
    "test_list": [
        "assert total(root) == 6",
        "assert total(leaf) == 4",
        "assert total(Node(5)) == 5",
    ],
}
SHADOW = {
    "prompt": "Write a function to add all numbers below a and b.",  # as in the sanitized data set
    "code": "def sum(a, b):\n    return a + b",
    "test_imports": ["import math"],
    "test_list": ["assert sum(1, 2) == 3", "assert max(sum(1, 1), 0) == math.floor(2.5)"],
}


def test_all_that_the_asserts_call_is_taken_from_any_block(load):
    [example] = (task := load("mbpp", TREE)).test
    node, total = TREE["code"].split("\n\n")
    for blocks in ((node, total), (total, node)):
        text = "".join(f"so\n```\n{block}\n```\n" for block in blocks)
        assert task.explain(example.prompt, text) == Grade(1.0, "right")


@pytest.mark.parametrize("row", [TRIPLE, TREE, SHADOW], ids=["imports", "tree", "builtin"])
def test_solutions_of_mbpp_pass_and_others_do_not(load, row):
    task = load("mbpp", row)
    [example] = task.test
    assert task.explain(example.prompt, row["code"]) == Grade(1.0, "right")
    assert task.explain(example.prompt, f"[BEGIN]\n{row['code']}\n[DONE]") == Grade(1.0, "right")
    assert task.explain(example.prompt, f"```python\n{row['code']}\n```\nEnjoy!") == Grade(
        1.0, "right"
    )
    others = ("def f():\n    pass\n", "```\nx = 1\n```", "def f(:\n")
    for wrong in (strip_body(row["code"]), row["code"].replace("return ", "return 1 + "), *others):
        found = task.explain(example.prompt, wrong)
        assert found.grade == 0
        assert found.reason not in ("right", NO_ANSWER)


def test_the_builtins_of_the_tests_are_pythons_own(load):
    task = load("mbpp", {**TRIPLE, "test_list": ["assert set(triple([1])) == {1}"]})
    cheat = "class Any:\n    def __eq__(self, other):\n        return True\n\ndef set(x):\n    return {1}\n\n"
    assert hasattr(builtins, "set")
    assert task.grade(task.test[0].prompt, f"{cheat}def triple(n):\n    return [2]") == 0
    assert task.grade(task.test[0].prompt, f"{cheat}def triple(n):\n    return Any()") == 0
