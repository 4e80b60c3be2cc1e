"""What is committed is what a learner sees: executed, clean, small, readable without a kernel.

One test a notebook reads the file once and lists all that is wrong with it.
"""

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

FOLDER = Path(__file__).parents[2] / "notebooks"
LESSONS = sorted(FOLDER.glob("*.ipynb"))
NOTEBOOKS = LESSONS + sorted(FOLDER.glob("solutions/*.ipynb"))
MAX_BYTES, MAX_LINES, MAX_FIGURE_LINES = 400_000, 20, 30
MACHINE_PATH = re.compile(
    r"(?<![\w./])(/(home|root|tmp|work|mnt|opt|usr|var|Users)/\S*|[A-Z]:\\\S*)"
)
FETCHING = re.compile(
    r"^\s*[%!]\s*(pip|conda|wget|curl)|https?://|\b(requests|urllib|wget|curl)\b", re.M
)
REMOTE_IMAGE = re.compile(r"!\[[^\]]*\]\(https?:|<img[^>]+https?:")
VIEW = "application/vnd.jupyter.widget-view+json"


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def markdown(notebook: NotebookNode) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]


def outputs(notebook: NotebookNode) -> list[tuple[int, NotebookNode]]:
    """Each output with the execution count of its cell."""
    return [(cell.execution_count, out) for cell in code_cells(notebook) for out in cell.outputs]


def texts(output: NotebookNode) -> str:
    """What a person reads of an output: streams and text, not base64."""
    data = output.get("data", {})
    read = {mime: text for mime, text in data.items() if mime.startswith("text/")}
    return output.get("text", "") + "\n".join(read.values())


# --- rules: each yields what is wrong ------------------------------------------------------------------
def valid_python_notebook(notebook: NotebookNode) -> Iterator[str]:
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        yield "its kernel is not python3"
    cell_ids = [cell.get("id") for cell in notebook.cells]
    if notebook.nbformat_minor < 5 or len(set(cell_ids)) < len(cell_ids):
        yield "cells need ids of their own: save it as format 4.5"
    try:
        nbformat.validate(notebook)  # repairs ids, so it comes after them
    except nbformat.ValidationError as error:
        yield f"not a valid notebook: {error.message}"


def ran_once_from_top_to_bottom(notebook: NotebookNode) -> Iterator[str]:
    cells = code_cells(notebook)
    if not all(cell.source.strip() for cell in cells):
        yield "an empty code cell"
    if [cell.execution_count for cell in cells] != list(range(1, len(cells) + 1)):
        yield "not executed from top to bottom: run `make notebooks`"


def no_error_warning_or_time_stamp(notebook: NotebookNode) -> Iterator[str]:
    for number, output in outputs(notebook):
        if output.output_type == "error":
            yield f"cell [{number}]: {output.ename}: {output.evalue}"
        if output.get("name") == "stderr":
            yield f"cell [{number}] wrote to stderr: {output.text!r}"
    stamped = [
        cell.execution_count for cell in code_cells(notebook) if "execution" in cell.metadata
    ]
    if stamped:
        yield f"cells {stamped} carry time stamps: run `make notebooks`"


def no_path_of_a_machine(notebook: NotebookNode) -> Iterator[str]:
    for number, output in outputs(notebook):
        if found := MACHINE_PATH.search(texts(output)):
            yield f"cell [{number}] shows {found[0]!r}"


def no_guess_but_the_readers(notebook: NotebookNode) -> Iterator[str]:
    for number, output in outputs(notebook):
        if re.search("No: you said|You were right", texts(output)):
            yield f"cell [{number}] answers a guess that was kept: remove out/predictions"


def pictures_have_alternative_text_and_a_caption(notebook: NotebookNode) -> Iterator[str]:
    for cell in code_cells(notebook):
        where = f"the picture of cell [{cell.execution_count}]"
        for picture, after in pairwise([*cell.outputs, {}]):
            if drawing := picture.get("data", {}).get("image/svg+xml"):
                if "<dc:date>" in drawing:
                    yield f"{where} carries a time stamp: use plots.show_vector"
                if not re.search(r"<title>.{11}", drawing):
                    yield f"{where} has no alternative text"
                if "text/markdown" not in after.get("data", {}):
                    yield f"{where} has no caption"
            if "image/png" in picture.get("data", {}):
                if len(picture.metadata.get("image/png", {}).get("alt", "")) <= 10:
                    yield f"{where} has no alternative text"
                if "text/markdown" not in after.get("data", {}):
                    yield f"{where} has no caption"


def short_code_cells(notebook: NotebookNode) -> Iterator[str]:
    for cell in code_cells(notebook):
        figure = "figure" in cell.metadata.get("tags", [])
        lines, most = cell.source.count("\n") + 1, MAX_FIGURE_LINES if figure else MAX_LINES
        if lines > most:
            yield f"cell [{cell.execution_count}] has {lines} lines, {most} at most"


def offline(notebook: NotebookNode) -> Iterator[str]:
    for cell in code_cells(notebook):
        if found := FETCHING.search(cell.source):
            yield f"cell [{cell.execution_count}] may fetch something: {found[0]!r}"
    for text in markdown(notebook):
        if REMOTE_IMAGE.search(text):
            yield f"a picture from the network in: {text[:80]!r}"


def tables_begin_with_a_head(notebook: NotebookNode) -> Iterator[str]:
    """A blank line ends a table: rows that follow it show as bare bars."""
    for text in markdown(notebook):
        for row, line in re.findall(r"(?:^|\n\n)(\|[^\n]*)\n?([^\n]*)", text):
            if not re.fullmatch(r"[|\s:-]+", line):
                yield f"rows of a table without its head: {row[:60]!r}"


def sliders_can_be_drawn_without_a_kernel(notebook: NotebookNode) -> Iterator[str]:
    """A view whose model is not saved shows as an error message in every viewer."""
    saved = json.dumps(notebook.metadata.get("widgets", {}))
    for number, output in outputs(notebook):
        view = output.get("data", {}).get(VIEW)
        if view is not None and view["model_id"] not in saved:
            yield f"cell [{number}] shows a widget that is not saved: run `make notebooks`"


def card(notebook: NotebookNode) -> Iterator[str]:
    """Only lessons have one."""
    text = "\n".join(markdown(notebook)[:2])
    wanted = {
        "goals": re.search(r"\bgoals?\b", text, re.I),
        "minutes": re.search(r"\d\s*min", text),
        "memory in MB or GB": re.search(r"\d\s*[MG]B", text),
    }
    if missing := [name for name, found in wanted.items() if not found]:
        yield f"the card at the top does not say: {', '.join(missing)}"


RULES = (
    valid_python_notebook,
    ran_once_from_top_to_bottom,
    no_error_warning_or_time_stamp,
    no_path_of_a_machine,
    no_guess_but_the_readers,
    pictures_have_alternative_text_and_a_caption,
    short_code_cells,
    offline,
    tables_begin_with_a_head,
    sliders_can_be_drawn_without_a_kernel,
)


def faults(path: Path) -> list[str]:
    """All that is wrong with a file."""
    notebook = nbformat.read(path, as_version=4)
    rules = [*RULES, card] if path in LESSONS else RULES
    found = [fault for rule in rules for fault in rule(notebook)]
    if (size := path.stat().st_size) >= MAX_BYTES:
        found.append(f"{size:,} of {MAX_BYTES:,} bytes")
    if path in LESSONS and any(
        re.search(r"^#+ .*exercise", t, re.I | re.M) for t in markdown(notebook)
    ):
        partners = list(FOLDER.glob(f"solutions/{path.name[:2]}*.ipynb"))
        found += [] if partners else [f"exercises, and no solutions/{path.name}"]
    return found


# --- tests --------------------------------------------------------------------------------------------
def test_there_is_a_lesson():
    assert LESSONS, f"no notebook in {FOLDER}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: str(path.relative_to(FOLDER)))
def test_what_is_committed_keeps_the_rules(path):
    assert faults(path) == []


GOOD = new_notebook(
    cells=[
        new_markdown_cell("# A lesson\n\nGoals: see. 10 minutes, 200 MB."),
        new_code_cell("1 + 1", execution_count=1),
    ],
    metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
)
PICTURE = new_output("display_data", {"image/png": "iVBO"})
SHOWN = new_output("display_data", {VIEW: {"model_id": "abc"}})
SPOILED = {
    "its kernel is not python3": lambda n: n.metadata.pop("kernelspec"),
    "cells need ids of their own": lambda n: n.cells[1].update(id=n.cells[0].id),
    "not a valid notebook": lambda n: n.cells[1].update(execution_count="one"),
    "an empty code cell": lambda n: n.cells.append(new_code_cell(" ", execution_count=2)),
    "not executed": lambda n: n.cells[1].update(execution_count=3),
    "ValueError: no": lambda n: n.cells[1].outputs.append(
        new_output("error", ename="ValueError", evalue="no", traceback=[])
    ),
    "stderr": lambda n: n.cells[1].outputs.append(new_output("stream", name="stderr", text="!")),
    "time stamps": lambda n: n.cells[1].metadata.update(execution={}),
    "shows '/tmp/x'": lambda n: n.cells[1].outputs.append(new_output("stream", text="at /tmp/x")),
    "answers a guess that was kept": lambda n: n.cells[1].outputs.append(
        new_output("stream", text="1. KL. No: you said RKL.")
    ),
    "no alternative text": lambda n: n.cells[1].outputs.append(PICTURE),
    "no caption": lambda n: n.cells[1].outputs.append(PICTURE),
    "carries a time stamp": lambda n: n.cells[1].outputs.append(
        new_output("display_data", {"image/svg+xml": "<svg><dc:date>now</dc:date></svg>"})
    ),
    "21 lines, 20 at most": lambda n: n.cells[1].update(source="\n".join("x" * 21)),
    "31 lines, 30 at most": lambda n: n.cells[1].update(
        source="\n".join("x" * 31), metadata={"tags": ["figure"]}
    ),
    "may fetch something": lambda n: n.cells[1].update(source="%pip install x"),
    "a picture from the network": lambda n: n.cells[0].update(source="![x](https://x.org/a.png)"),
    "rows of a table without its head": lambda n: n.cells[0].update(
        source="| a |\n|---|\n| b |\n\n| c |\n| d |"
    ),
    "a widget that is not saved": lambda n: n.cells[1].outputs.append(SHOWN),
    "does not say: goals, minutes": lambda n: n.cells[0].update(source="# A lesson, 3 GB"),
}


@pytest.mark.filterwarnings("ignore::nbformat.warnings.DuplicateCellId")
def test_each_rule_finds_what_it_is_for():
    assert [fault for rule in (*RULES, card) for fault in rule(GOOD)] == []
    figure = nbformat.from_dict(GOOD)
    figure.cells[1].update(source="\n".join("x" * 30), metadata={"tags": ["figure"]})
    assert list(short_code_cells(figure)) == []
    for says, spoil in SPOILED.items():
        notebook = nbformat.from_dict(json.loads(json.dumps(GOOD)))
        spoil(notebook)
        found = [fault for rule in (*RULES, card) for fault in rule(notebook)]
        assert any(says in fault for fault in found), f"{says}: not in {found}"
