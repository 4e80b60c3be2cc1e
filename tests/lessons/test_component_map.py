"""The map of lesson 08: which runs stand behind a cell, what is bold, what a dial draws."""

import pytest

from minidistill.experiments.arms import ARMS
from minidistill.experiments.logs import runs_by_seed
from minidistill.experiments.verdicts import Contrast, judge
from minidistill.lessons import component_map, plots


def test_every_place_names_arms_that_there_are():
    for component in component_map.COMPONENTS.values():
        for dial, place in component_map.PLACES:
            arm = component_map.DIALS[dial][place]
            assert all(arm.format(name).rpartition("/")[2] in ARMS for name in component)


def test_the_protocols_own_place_is_the_contrast_itself():
    found = component_map.read_map()
    logs = [runs_by_seed(name) for name in ("cald", "kd")]
    seeds = sorted(set(logs[0]) & set(logs[1]))
    result = found["contrast: CALD − KD"]["student's width", "64"]
    wanted = [logs[0][s]["scores"]["accuracy"] - logs[1][s]["scores"]["accuracy"] for s in seeds]
    assert list(result.values) == pytest.approx(wanted)


@pytest.fixture
def made_up():
    (one,) = judge([Contrast("", {"kd": 1, "rkl": -1})])
    (two,) = judge([Contrast("", {"cald": 1, "cald_swapped": -1})])
    assert (one.verdict, two.verdict) == ("replicated", "undecided")
    cells = {at: (one, two)[i % 2] for i, at in enumerate(component_map.PLACES)}
    return {name: cells for name in component_map.COMPONENTS}


def test_what_is_decided_is_bold_and_the_rest_is_not(made_up):
    ax = component_map.draw_map(made_up, dial="rate")
    cells = [t for t in ax.texts if t.get_text()[:1] in "+-"]
    assert len(cells) == 3 * len(component_map.PLACES)
    assert [t.get_weight() for t in cells[:4]] == ["bold", "normal", "bold", "normal"]
    bold_names = [t.get_text() for t in ax.texts if t.get_weight() == "bold" and t not in cells]
    assert bold_names == ["rate"]


@pytest.mark.parametrize("dial", component_map.DIALS)
@pytest.mark.parametrize("measure", component_map.MEASURES)
def test_the_slider_draws_the_dial_that_it_names(dial, measure):
    top, bottom = component_map.map_explorer()(dial, measure).axes
    assert bottom.get_xlabel() == dial
    found = component_map.read_map(component_map.MEASURES[measure])["contrast: CALD − KD"]
    drawn = [line for line in bottom.lines if line.get_label() in component_map.COMPONENTS]
    wanted = [100 * found[at].mean for at in component_map.PLACES if at[0] == dial and at in found]
    assert list(drawn[0].get_ydata()) == pytest.approx(wanted)
    assert len(plots.png(top)) > 1000


def test_a_place_without_runs_stays_empty(tmp_path):
    found = component_map.read_map(folder=tmp_path)
    assert all(not cells for cells in found.values())
    ax = component_map.draw_map(found)
    assert not [t for t in ax.texts if t.get_text()[:1] in "+-"]
