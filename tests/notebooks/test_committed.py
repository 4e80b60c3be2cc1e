"""What is committed is what a learner sees: executed, clean, small, readable without a kernel."""

import json
import re
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).parents[2] / "notebooks"
LESSONS = sorted(FOLDER.glob("*.ipynb"))
NOTEBOOKS = LESSONS + sorted(FOLDER.glob("solutions/*.ipynb"))
MAX_BYTES, MAX_LINES = 400_000, 14
MACHINE_PATH = re.compile(
    r"(?<![\w./])(/(home|root|tmp|work|mnt|opt|usr|var|Users)/\S*|[A-Z]:\\\S*)"
)
FETCHING = re.compile(
    r"^\s*[%!]\s*(pip|conda|wget|curl)|https?://|\b(requests|urllib|wget|curl)\b", re.M
)
REMOTE_IMAGE = re.compile(r"!\[[^\]]*\]\(https?:|<img[^>]+https?:")


def ids(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(FOLDER)) for path in paths]


every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=ids(NOTEBOOKS))
every_lesson = pytest.mark.parametrize("path", LESSONS, ids=ids(LESSONS))


def read(path: Path):
    return nbformat.read(path, as_version=4)


def code_cells(path: Path) -> list:
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def markdown(path: Path) -> list[str]:
    return [cell.source for cell in read(path).cells if cell.cell_type == "markdown"]


def outputs(path: Path) -> list[tuple[int, dict]]:
    """Each output with the execution count of its cell."""
    return [(cell.execution_count, out) for cell in code_cells(path) for out in cell.outputs]


def texts(output: dict) -> str:
    """What a person reads of an output: streams and text, not base64."""
    data = output.get("data", {})
    read = {mime: text for mime, text in data.items() if mime.startswith("text/")}
    return output.get("text", "") + "\n".join(read.values())


def test_there_is_a_lesson():
    assert LESSONS, f"no notebook in {FOLDER}"


@every_notebook
def test_it_is_a_valid_python_notebook(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.nbformat_minor >= 5, "cells need ids: save it as format 4.5"
    cell_ids = [cell.id for cell in notebook.cells]
    assert len(set(cell_ids)) == len(cell_ids)


@every_notebook
def test_every_code_cell_ran_once_from_top_to_bottom(path):
    cells = code_cells(path)
    assert all(cell.source.strip() for cell in cells), "an empty code cell"
    assert [c.execution_count for c in cells] == list(range(1, len(cells) + 1)), (
        "run `make notebooks`"
    )


@every_notebook
def test_no_output_is_an_error_a_warning_or_a_time_stamp(path):
    for number, output in outputs(path):
        assert output.output_type != "error", f"cell [{number}]: {output.ename}: {output.evalue}"
        assert output.get("name") != "stderr", f"cell [{number}] wrote to stderr: {output.text!r}"
    stamped = [cell.execution_count for cell in code_cells(path) if "execution" in cell.metadata]
    assert not stamped, f"cells {stamped} carry time stamps: run `make notebooks`"


@every_notebook
def test_no_output_names_a_path_of_the_machine_it_ran_on(path):
    for number, output in outputs(path):
        found = MACHINE_PATH.search(texts(output))
        assert not found, f"cell [{number}] shows {found[0]!r}"


@every_notebook
def test_it_is_small(path):
    assert path.stat().st_size < MAX_BYTES, f"{path.stat().st_size:,} of {MAX_BYTES:,} bytes"


@every_notebook
def test_every_picture_has_alternative_text_and_a_caption(path):
    for cell in code_cells(path):
        for picture, after in pairwise([*cell.outputs, {}]):
            assert "image/svg+xml" not in picture.get("data", {}), (
                "SVG carries time stamps: use PNG"
            )
            if "image/png" in picture.get("data", {}):
                alt = picture.metadata.get("image/png", {}).get("alt", "")
                where = f"the picture of cell [{cell.execution_count}]"
                assert len(alt) > 10, f"{where} has no alternative text"
                assert "text/markdown" in after.get("data", {}), f"{where} has no caption"


@every_notebook
def test_code_cells_are_short(path):
    for cell in code_cells(path):
        lines = cell.source.count("\n") + 1
        assert lines <= MAX_LINES, f"cell [{cell.execution_count}] has {lines} lines"


@every_notebook
def test_it_runs_offline_and_installs_nothing(path):
    for cell in code_cells(path):
        found = FETCHING.search(cell.source)
        assert not found, f"cell [{cell.execution_count}] may fetch something: {found[0]!r}"
    remote = [text for text in markdown(path) if REMOTE_IMAGE.search(text)]
    assert not remote, f"a picture from the network in: {remote[0][:80]!r}"


@every_lesson
def test_the_card_says_goals_minutes_and_memory(path):
    card = "\n".join(markdown(path)[:2])
    wanted = {
        "goals": re.search(r"\bgoals?\b", card, re.I),
        "minutes": re.search(r"\d\s*min", card),
        "memory in MB or GB": re.search(r"\d\s*[MG]B", card),
    }
    missing = [name for name, found in wanted.items() if not found]
    assert not missing, f"the card at the top does not say: {', '.join(missing)}"


@every_lesson
def test_a_lesson_with_exercises_has_solutions(path):
    if any(re.search(r"^#+ .*exercise", text, re.I | re.M) for text in markdown(path)):
        partners = list(FOLDER.glob(f"solutions/{path.name[:2]}*.ipynb"))
        assert partners, f"no solutions/{path.name}"


@every_notebook
def test_saved_sliders_can_be_drawn_without_a_kernel(path):
    """A view whose model is not saved shows as an error message in every viewer."""
    notebook = read(path)
    saved = json.dumps(notebook.metadata.get("widgets", {}))
    for number, output in outputs(path):
        view = output.get("data", {}).get("application/vnd.jupyter.widget-view+json")
        assert view is None or view["model_id"] in saved, f"cell [{number}]: run `make notebooks`"
