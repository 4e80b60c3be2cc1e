"""Every equation is a function, a figure and a test, tied by one tag such as (2.1).

A tag is born in a docstring of the package. Once its chapter has a notebook, it must also stand in
that notebook's text, in the title of a figure and in the name of a test.
"""

import ast
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
TAG = re.compile(r"\((?P<tag>[1-9]\d?\.\d{1,2})\)")  # from (1.1): (0.5) is a number
LATEX_TAG = re.compile(r"\\tag\*?\{\(?(?P<tag>\d+\.\d+)\)?\}")
MAGIC = re.compile(r"^[%!].*$", re.M)
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def find(pattern: re.Pattern, texts: Iterable[str]) -> set[str]:
    return {match["tag"] for text in texts for match in pattern.finditer(text)}


def sources(folder: str) -> list[str]:
    return [path.read_text(encoding="utf-8") for path in sorted((ROOT / folder).rglob("*.py"))]


def docstring_tags() -> set[str]:
    nodes = (node for source in sources("minidistill") for node in ast.walk(ast.parse(source)))
    return find(TAG, (ast.get_docstring(n) or "" for n in nodes if isinstance(n, DOCUMENTED)))


def tags_of_tests(names: Iterable[str] | None = None) -> set[str]:
    """'test_2_2_2_3_skew' → {'2.2', '2.3'}."""
    if names is None:
        names = re.findall(r"def (test_\w+)", "\n".join(sources("tests")))
    pairs = (pair for name in names for pair in re.findall(r"(?<=_)(\d+)_(\d+)(?=_|$)", name))
    return {f"{chapter}.{number}" for chapter, number in pairs}


def cells(chapter: str, kind: str) -> list[str]:
    """The cells of a chapter's notebooks, empty while there is none."""
    found = []
    for path in sorted((ROOT / "notebooks").glob(f"{chapter}_*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        found += ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == kind]
    return found


def title_tags(chapter: str) -> set[str]:
    """Tags in strings of the notebook's code, or of the functions that draw for it; hints do not count."""
    shelf = ROOT / "minidistill" / "lessons"
    drawing = [*shelf.glob(f"lesson_{chapter}_*.py"), shelf / "plots.py", shelf / "ledger_plots.py"]
    library = [path.read_text(encoding="utf-8").partition("\nEXERCISES = ")[0] for path in drawing]
    return find(TAG, strings([*cells(chapter, "code"), *library]))


def strings(codes: Iterable[str]) -> list[str]:
    """String constants, those inside f-strings too, but no docstrings and no comments."""
    nodes = [node for code in codes for node in ast.walk(ast.parse(MAGIC.sub("", code)))]
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    constants = (n for n in nodes if isinstance(n, ast.Constant) and id(n) not in docstrings)
    return [node.value for node in constants if isinstance(node.value, str)]


def missing_places() -> Iterator[str]:
    """Where a tag is missing; nowhere while its chapter has no notebook."""
    in_docstrings, in_tests = docstring_tags(), tags_of_tests()
    for chapter in sorted({int(tag.split(".")[0]) for tag in in_docstrings}):
        text = cells(f"{chapter:02d}", "markdown")
        tags = [tag for tag in by_number(in_docstrings) if tag.startswith(f"{chapter}.")]
        places = {
            f"the text of notebooks/{chapter:02d}_*.ipynb": find(TAG, text) | find(LATEX_TAG, text),
            "a figure's title (notebook code, or its module in lessons/)": title_tags(
                f"{chapter:02d}"
            ),
            "the name of a test, as in test_2_1_…": in_tests,
        }
        for tag in tags if text else ():
            yield from (f"({tag}): {place}" for place in places if tag not in places[place])


def underived() -> Iterator[str]:
    """Tags that a lesson derives and no docstring of the library carries."""
    known = docstring_tags()
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        unknown = find(LATEX_TAG, cells(path.stem[:2], "markdown")) - known
        yield from (f"({tag}) of {path.name}" for tag in by_number(unknown))


def by_number(tags: Iterable[str]) -> list[str]:
    return sorted(tags, key=lambda tag: [int(part) for part in tag.split(".")])


def test_an_equation_is_a_function_a_text_a_figure_and_a_test():
    assert list(missing_places()) == []


def test_an_equation_of_a_lesson_is_in_the_library():
    assert list(underived()) == []


def test_the_patterns_find_tags_and_nothing_else():
    assert find(TAG, ["(2.1) α", "skew(0.5)", "(0.01, 1.5)", "as in (12.3)"]) == {"2.1", "12.3"}
    assert find(LATEX_TAG, [r"x \tag{2.1}", r"y \tag*{(2.2)}"]) == {"2.1", "2.2"}
    code = "%load_ext x\ndef f():\n    '(1.2)'\n    g(1.5, f'(1.3) at {b}, (1.4)')  # (1.6)"
    assert find(TAG, strings([code])) == {"1.3", "1.4"}
    assert tags_of_tests(["test_1_2_2_3_x", "test_4_1", "test_2000_responses"]) == {
        "1.2", "2.3", "4.1",
    }  # fmt: skip
