"""The house: a shelf imports only from shelves to its left, the core speaks of text, the top stays small."""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "minidistill"
SHELVES = [
    "sandbox",
    "utils",
    "tasks",
    "core",
    "scale",
    "applications",
    "experiments",
    "lessons",
    "cli",
]
CORE = ["divergences", "curriculum", "logprobs", "objectives", "sources", "rollouts", "training"]
DRAWING = {"matplotlib", "ipywidgets", "IPython"}


def shelf(module: str) -> str:
    """'minidistill.lessons.plots' → 'lessons'; a file of the top is core, but for the two doors."""
    first = module.split(".")[1]
    doors = {"__init__": "applications", "__main__": "cli"}
    return doors.get(first) or (first if first in SHELVES else "core")


def imports(path: Path) -> list[str]:
    """Full names that a file imports, inside functions too."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


ARROWS = [
    (".".join(path.relative_to(ROOT).with_suffix("").parts), name)
    for path in sorted(ROOT.rglob("*.py"))
    for name in imports(path)
]


@pytest.mark.parametrize("here", SHELVES)
def test_a_shelf_imports_only_from_shelves_to_its_left(here):
    to_its_right = SHELVES[SHELVES.index(here) + 1 :]
    wrong = [
        f"{module} imports {name}"
        for module, name in ARROWS
        if shelf(f"minidistill.{module}") == here and name.startswith("minidistill.")
        if shelf(name) in to_its_right
    ]
    assert not wrong, "\n".join(wrong)


def test_no_two_files_import_each_other():
    arrows = {
        (module, ".".join(name.split(".")[1 : 1 + module_depth]))
        for module, name in ARROWS
        if name.startswith("minidistill.")
        for module_depth in (1, 2, 3)
    }
    assert not [(a, b) for a, b in arrows if a < b and (b, a) in arrows]


def test_the_sandbox_needs_the_standard_library_alone():
    own = {path.stem for path in (ROOT / "sandbox").glob("*.py")}
    names = {name.split(".")[0] for module, name in ARROWS if module.startswith("sandbox")}
    assert names <= set(sys.stdlib_module_names) | own


def test_figures_and_widgets_are_for_lessons():
    drawing = {module for module, name in ARROWS if name.split(".")[0] in DRAWING}
    assert {module.split("/")[0].split(".")[0] for module in drawing} == {"lessons"}


def test_no_import_goes_through_a_string():
    assert not [module for module, name in ARROWS if name.endswith("import_module")]


def test_the_core_is_an_hour_and_speaks_of_text_alone():
    texts = [(ROOT / f"{name}.py").read_text(encoding="utf-8") for name in CORE]
    assert sum(text.count("\n") for text in texts) < 1300
    assert not re.findall(r"image|pixel|processor", "\n".join(texts), re.I)


def test_the_top_is_small():
    top = [p for p in ROOT.iterdir() if p.suffix == ".py" or (p / "__init__.py").is_file()]
    assert len(top) <= 25, sorted(p.name for p in top)
