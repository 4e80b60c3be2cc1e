"""The benchmarks of the DistiLLM-2 paper: GSM8K, MATH, HumanEval and MBPP, read through `datasets`.

`load_benchmark("gsm8k", "FILE.jsonl")` is a task whose examples are all for testing; its references are
the data's own solutions. GSM8K and MATH compare final answers. HumanEval and MBPP run what was written
in the sandbox, against tests that stay outside of it.
"""

import ast
import builtins
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from minidistill import sandbox
from minidistill.tasks import NO_ANSWER, Example, Grade, Task, as_example
from minidistill.tasks.answers import (
    ANSWER_IS,
    extract_answer,
    extract_boxed,
    first_answer_part,
    last_match,
)
from minidistill.tasks.code_extraction import (
    entry_of,
    humaneval_program,
    humaneval_test,
    mbpp_program,
)
from minidistill.tasks.forms import check_installed, same_answer
from minidistill.tasks.prompt_files import (
    SUFFIXES,
    is_data_set,
    read_json,
    read_records,
    text_field,
)
from minidistill.utils import missing_extra_message, unknown_name_message

SECONDS = 5.0  # for a program and its tests; HumanEval's own solutions take 0.2 at most


@dataclass(frozen=True)
class Benchmark:
    """Hold where a data set is on the hub, its text fields, what makes a prompt and a grade of a row."""

    hub: tuple[str, ...]
    texts: tuple[str, ...]
    example: Callable[[dict], Example]
    explain: Callable[[dict, str, bool], Grade]


def load_benchmark(
    name: str, source: str | Path | None = None, allow_unsandboxed: bool = False
) -> Task:
    """A benchmark by name as a task that holds test examples only.

    `source`: a file of JSON lines or an array, parquet, CSV, texts also as .gz, or a data set of the hub with
    the same fields; the hub's usual one by default. `allow_unsandboxed`: as in `sandbox.run`. ValueError
    names file, line and field of a bad line; `task.explain` raises it for a prompt of something else.
    """
    if name not in BENCHMARKS:
        raise ValueError(unknown_name_message("benchmark", name, BENCHMARKS))
    benchmark = BENCHMARKS[name]
    rows = [(_checked(benchmark, where, row), row) for where, row in _rows(benchmark, source)]
    if not rows:
        raise ValueError(f"{source}: no rows in this file")
    by_prompt: dict[str, dict] = {}
    for example, row in rows:
        if by_prompt.setdefault(example.prompt, row) != row:
            raise ValueError(
                f"{source or name}: two rows have the prompt {example.prompt!r:.80} and differ"
            )

    def explain(example: Example | str, response: str) -> Grade:
        prompt = as_example(example).prompt
        if prompt not in by_prompt:
            raise ValueError(f"{name} has no prompt {prompt!r:.80}")
        if not isinstance(response, str):
            raise TypeError(f"a response must be a text, but is {response!r:.80}")
        return benchmark.explain(by_prompt[prompt], response, allow_unsandboxed)

    examples = [example for example, _ in rows]
    return Task(name, [], examples, lambda example, said: explain(example, said).grade, explain)


# --- reading --------------------------------------------------------------------------------------------
def _rows(benchmark: Benchmark, source: str | Path | None) -> Iterator[tuple[str, dict]]:
    """Rows, and where each stands."""
    if source is not None and not is_data_set(source):
        known = Path(source).suffix in (*SUFFIXES, ".gz")
        return read_records(source) if known else read_json(Path(source))
    try:
        from datasets import load_dataset
    except ModuleNotFoundError:
        raise ModuleNotFoundError(missing_extra_message("datasets", "course")) from None
    hub = benchmark.hub if str(source) in ("None", benchmark.hub[0]) else (str(source),)
    try:
        rows = load_dataset(*hub, split="test")
    except OSError as error:
        help = "; a local .jsonl file of it works offline"
        raise ConnectionError(f"{hub[0]!r} cannot be fetched ({error}){help}") from None
    return ((f"{hub[0]}, row {number}", row) for number, row in enumerate(rows, start=1))


def _checked(benchmark: Benchmark, where: str, row: object) -> Example:
    """The row as an example; ValueError names the field that is missing, empty or of another type."""
    if not isinstance(row, dict):
        raise ValueError(f"{where}: expected a JSON object, but got {type(row).__name__}")
    try:
        for field in benchmark.texts:
            _text(row, field)
        return benchmark.example(row)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _text(row: dict, field: str) -> str:
    if not (value := text_field(row, field)):
        raise ValueError(f"field {field!r} must be a text, but is {row.get(field)!r:.80}")
    return value


# --- final answers --------------------------------------------------------------------------------------
def _gsm8k_example(row: dict) -> Example:
    if extract_answer(row["answer"]) is None:
        raise ValueError(f"field 'answer' has no number, but is {row['answer']!r:.80}")
    return Example(row["question"], (row["answer"],))


def _explain_gsm8k(row: dict, response: str, _: bool) -> Grade:
    said = extract_answer(response)
    return _compared(said, said == extract_answer(row["answer"]))


def _math_example(row: dict) -> Example:
    check_installed()  # rather than when the first response is graded
    if not _math_answer(row):
        raise ValueError(r"field 'solution' has no \boxed{} answer, and there is no field 'answer'")
    return Example(row["problem"], (row["solution"],))


def _math_answer(row: dict) -> str | None:
    answer = row.get("answer")
    return extract_boxed(row["solution"]) if answer in (None, "") else str(answer)


def _explain_math(row: dict, response: str, _: bool) -> Grade:
    response = first_answer_part(response)
    said = extract_boxed(response) or _stated(response)
    return _compared(said, said is not None and same_answer(said, _math_answer(row)))


HEADING = re.compile(r"^[^\w\n]*(?:final )?answers?[^\w\n]*$", re.IGNORECASE | re.MULTILINE)
FORMULA = r"\$[^$]{1,300}\$|\\\[[^\]]{1,300}?\\\]|`[^`]{1,300}`"
JOINED = re.compile(rf"({FORMULA})((?:(?:,| or| and|, or|, and) (?:{FORMULA}))*)")
NAMED = re.compile(r" (?:is|equals) ")
CLAUSE = re.compile(
    r"[.;!?](?=\s|$)|,? (?:because|since|so|as|not|which|where|I hope)\b| \(|, which"
)
ALONE = re.compile(rf"[\s*]*(?:{FORMULA}|[-−+]?\$?[0-9][0-9.,/ ]*)[\s*.]*")


def _stated(response: str) -> str | None:
    """Return what the last "the answer is" announces, for models that were not told to use a box.

    A heading that says no more than Answer announces too, and a response of nothing but a formula is one.
    """
    text = re.sub(r"\$\$|\\[()]", "$", response)
    ends = [m.end() for pattern in (ANSWER_IS, HEADING) for m in pattern.finditer(text)]
    if not ends:
        return text.strip(" \n*.$") if ALONE.fullmatch(text) else None
    rest = text[max(ends) :].strip(" :*_#\n\"'“”")
    sentence = rest.partition("\n")[0]
    formulas = JOINED.match(rest)
    if formulas is None or NAMED.match(rest, formulas.end()):
        sentence = CLAUSE.split(sentence)[0]
        formulas = JOINED.match(sentence.rpartition(" is ")[2]) or last_match(
            re.finditer(FORMULA, sentence)
        )
    if formulas:
        return ", ".join(map(_bare, re.findall(FORMULA, formulas[0])))
    return re.sub(r"[*_]{2}", "", sentence).strip("*:.!\"'“” ") or None


def _bare(formula: str) -> str:
    return formula.removeprefix(r"\[").removesuffix(r"\]").strip("$` \n")


def _compared(said: object, same: bool) -> Grade:
    if said is None:
        return Grade(0.0, NO_ANSWER)
    return Grade(float(same), "right" if same else "wrong")


# --- code -----------------------------------------------------------------------------------------------
def _explain_humaneval(row: dict, response: str, allow_unsandboxed: bool) -> Grade:
    program = humaneval_program(row["prompt"], response)
    return _run(program, humaneval_test(row["prompt"], row["test"]), allow_unsandboxed)


def _humaneval_example(row: dict) -> Example:
    _, entry = entry_of(row["prompt"])
    if row.get("entry_point", entry) != entry:
        raise ValueError(
            f"field 'entry_point' is {row['entry_point']!r}, but the prompt ends with {entry!r}"
        )
    return Example(row["prompt"], (row["canonical_solution"],))


def _explain_mbpp(row: dict, response: str, allow_unsandboxed: bool) -> Grade:
    program = mbpp_program(_mbpp_example(row).prompt, response)
    ours, theirs = _mbpp_setup(row)
    return _run(program and f"{program}\n{theirs}", f"{ours}\n{_asserts(row)}", allow_unsandboxed)


def _mbpp_example(row: dict) -> Example:
    """The prompt of MBPP's paper, arXiv 2108.07732."""
    field = "prompt" if "prompt" in row else "text"  # in the sanitized and the full data set
    asked = f"You are an expert Python programmer, and here is your task: {_text(row, field)} "
    asked += f"Your code should pass these tests:\n\n{_asserts(row)}\n"
    _mbpp_setup(row)
    return Example(asked, (row["code"],))


def _asserts(row: dict) -> str:
    asserts = row.get("test_list")
    if not asserts or not isinstance(asserts, list) or not all(isinstance(a, str) for a in asserts):
        raise ValueError(f"field 'test_list' must be a list of texts, but is {asserts!r:.80}")
    _parsed("\n".join(asserts), "test_list")
    return "\n".join(asserts)


def _parsed(text: str, field: str) -> list[ast.stmt]:
    try:
        return ast.parse(text).body
    except SyntaxError as error:
        raise ValueError(f"field {field!r} is no Python: {error}") from None


def _mbpp_setup(row: dict) -> tuple[str, str]:
    """Return what the data runs before its asserts: on the tests' side, and on the program's.

    Some of it builds trees of the program's own classes. The program's side builds, and hands them over. Some
    functions have the name of a builtin, which a test would take for Python's.
    """
    imports = row.get("test_imports") or []
    if not isinstance(imports, list) or not all(isinstance(line, str) for line in imports):
        raise ValueError(f"field 'test_imports' must be a list of texts, but is {imports!r:.80}")
    setup = "\n".join([text_field(row, "test_setup_code"), *imports])
    nodes = _parsed(setup, "test_setup_code")
    targets = [t for node in nodes if isinstance(node, ast.Assign) for t in node.targets]
    built = sorted({t.id for t in targets if isinstance(t, ast.Name)})
    defined = re.findall(r"^(?:def|class)\s+(\w+)", row["code"], re.MULTILINE)
    shadows = [name for name in defined if hasattr(builtins, name)]
    ours = [ast.unparse(n) for n in nodes if isinstance(n, ast.Import | ast.ImportFrom)]
    ours += [f"[{', '.join(built)}] = built()", *(f"{name} = the_{name}" for name in shadows)]
    theirs = [f"def built(): return [{', '.join(built)}]", *(f"the_{n} = {n}" for n in shadows)]
    return "\n".join(ours), "\n".join([setup, *theirs])


def _run(program: str | None, test: str, allow_unsandboxed: bool) -> Grade:
    if not program:
        return Grade(0.0, NO_ANSWER)
    result = sandbox.run(program, test, SECONDS, allow_unsandboxed)
    return Grade(float(result.passed), "right" if result.passed else result.reason)


BENCHMARKS = {
    "gsm8k": Benchmark(
        ("openai/gsm8k", "main"), ("question", "answer"), _gsm8k_example, _explain_gsm8k
    ),
    "math": Benchmark(
        ("HuggingFaceH4/MATH-500",), ("problem", "solution"), _math_example, _explain_math
    ),
    "humaneval": Benchmark(
        ("openai/openai_humaneval",),
        ("prompt", "canonical_solution", "test"),
        _humaneval_example,
        _explain_humaneval,
    ),
    "mbpp": Benchmark(
        ("google-research-datasets/mbpp", "full"),
        ("code",),
        _mbpp_example,
        _explain_mbpp,
    ),
}
