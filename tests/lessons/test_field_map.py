"""The map of the field holds every method of the course once; its glossary's terms are explained once."""

import json
import re
from pathlib import Path

import pytest
import torch

from minidistill.experiments.labels import METHOD_LABELS
from minidistill.lessons import field_map, plots

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "field_map.ipynb"
TAUGHT = ("seqkd", "kd", "imitkd", "gkd", "dpkd", "distillm", "speculative_kd", "cald", "distillm2")


def test_every_method_of_the_course_has_one_place():
    labels = ", ".join(place.label for place in field_map.PLACES)
    for method in TAUGHT:
        assert (
            len(re.findall(rf"(?:^|, ){re.escape(METHOD_LABELS[method])}(?=,|$)", labels)) == 1
        ), method


def test_the_drawing_names_all_of_them_and_is_the_same_each_time():
    first, again = (plots.svg(field_map.draw_map(), "eleven methods") for _ in range(2))
    assert first == again
    assert all(place.label.split(",")[0] in first for place in field_map.PLACES)


@pytest.mark.parametrize("temperature", [0.25, 1.0, 8.0])
def test_a_temperature_divides_the_logits(temperature):
    (ax,) = field_map.temperature_bars(temperature).axes
    drawn = [bar.get_height() for bar in ax.patches[len(field_map.WORDS) :]]
    wanted = (torch.tensor(field_map.LOGITS) / temperature).softmax(-1)
    assert drawn == pytest.approx(wanted.tolist())


def glossary():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    text = "".join(next(c["source"] for c in cells if "## Glossary" in "".join(c["source"])))
    return [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| **")]


def test_each_term_of_the_glossary_stands_once_and_has_a_meaning_and_a_lesson():
    rows = glossary()
    terms = [term for row in rows for term in re.findall(r"\*\*(.+?)\*\*", row[0])]
    assert len(rows) > 25
    assert len(terms) == len(set(terms))
    assert all(row[1].strip() and re.search(r"\d\d", row[-1]) for row in rows)
