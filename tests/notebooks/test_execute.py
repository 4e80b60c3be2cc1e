"""Re-executing a notebook changes nothing in the file: otherwise every run would be a diff to read."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from tests.notebooks.execute import VIEW, is_notice, is_progress, main, stand_alone

SOURCES = [
    "import ipywidgets\nfrom tqdm.auto import tqdm",
    "for _ in tqdm(range(3)):\n    pass",
    "ipywidgets.VBox([ipywidgets.FloatSlider(value=0.2), ipywidgets.HTML('two')])",
    "print(6 * 7)",
]


@pytest.fixture
def notebook(tmp_path):
    path = tmp_path / "01_example.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell(source) for source in SOURCES]), path)
    return path


def test_a_second_run_leaves_the_same_bytes(notebook):
    assert main([str(notebook)]) == 0
    first = notebook.read_bytes()
    assert main([str(notebook)]) == 0
    assert notebook.read_bytes() == first
    cells = nbformat.read(notebook, as_version=4).cells
    assert [len(cell.outputs) for cell in cells] == [0, 0, 1, 1], "the progress bar should be gone"
    assert cells[3].outputs[0].text == "42\n"
    assert b"FloatSliderModel" in first
    assert b"FloatProgressModel" not in first


def test_a_notebook_that_fails_is_named_and_not_touched(notebook, capsys):
    broken = notebook.with_name("02_broken.ipynb")
    nbformat.write(new_notebook(cells=[new_code_cell("1 / 0")]), broken)
    before = broken.read_bytes()
    assert main([str(broken)]) == 1
    assert broken.read_bytes() == before
    assert "02_broken.ipynb: FAILED" in capsys.readouterr().out


def test_a_widget_that_stands_alone_is_kept_as_its_page_and_others_as_their_view():
    page, plain = "<script>standalone(x)</script>", "<p>text</p>"
    for html, kept in ((page, {"text/html"}), (plain, {"text/html", VIEW})):
        output = nbformat.from_dict({"data": {VIEW: {"model_id": "a"}, "text/html": html}})
        stand_alone(output)
        assert set(output.data) == kept


def test_what_a_kernel_says_of_itself_is_left_out_and_a_warning_is_not():
    said = {"output_type": "stream", "name": "stderr"}
    assert is_notice(nbformat.from_dict({**said, "text": "[IPKernelApp] WARNING | TCP"}))
    assert not is_notice(nbformat.from_dict({**said, "text": "UserWarning: look"}))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  0%|          | 0/3 [00:00<?, ?it/s]", True),
        ("epoch 1:  33%|███   | 1/3", True),
        ("accuracy 33%\n", False),
        ("| 10% | of a table |", False),
    ],
)
def test_only_progress_bars_are_taken_for_one(text, expected):
    output = nbformat.from_dict({"output_type": "stream", "name": "stderr", "text": text})
    assert is_progress(output) is expected
