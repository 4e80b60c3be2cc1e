"""Explorers over their whole range, by the numbers they plot; sliders, errors and the static figure."""

import asyncio
import sys

import ipywidgets
import pytest
import torch

from minidistill import divergences as D
from minidistill.lessons import lesson_01_divergences as lesson_01
from minidistill.lessons import lesson_02_skew as lesson_02
from minidistill.lessons import plots, widgets
from minidistill.lessons.lesson_01_divergences import LINE, bimodal


def lines(ax) -> dict:
    return {line.get_label(): torch.tensor(line.get_ydata()) for line in ax.get_lines()}


def widths(ax) -> list[float]:
    return [bar.get_width() for bars in ax.containers for bar in bars]


@pytest.mark.parametrize("mean", [0.0, 50.0, 98.0])
@pytest.mark.parametrize("width", [3.0, 20.0, 40.0])
def test_hill_explorer_plots_the_four_divergences(mean, width):
    left, right = lesson_01.bimodal_explorer(mean, width).axes
    z = -((LINE - mean) ** 2) / (2 * width**2)
    torch.testing.assert_close(lines(left)["student"].float(), z.softmax(-1), atol=1e-4, rtol=1e-3)
    pair = bimodal(), z.log_softmax(-1)
    wanted = [f(*pair).item() for f in (D.kl, D.reverse_kl, D.jsd, D.total_variation)]
    assert widths(right) == pytest.approx(wanted, rel=1e-3)
    assert right.get_xlim() == (0.1, 2000)
    for tag in ("(1.1)", "(1.2)", "(1.3)", "(1.4)"):
        assert tag in right.get_title(loc="left")


@pytest.mark.parametrize(("beta", "value"), [(0.0, 0.613), (0.5, 0.171), (1.0, 1.266)])
def test_1_3_beta_explorer_plots_the_mixture_and_jumps_at_the_ends(beta, value):
    left, right = lesson_01.beta_explorer(beta).axes
    mixture = [bar.get_height() for bar in left.containers[2]]
    p, q = lesson_01.TEACHER.exp(), lesson_01.STUDENT.exp()
    assert mixture == pytest.approx((beta * p + (1 - beta) * q).tolist(), abs=1e-6)
    assert right.get_lines()[-1].get_xydata()[0].tolist() == pytest.approx([beta, value], abs=1e-3)
    assert lines(right)["JSD"].max() < 0.7
    assert right.get_ylim() == (0, 2.4)


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.5])
def test_2_2_2_3_skew_explorer_plots_a_vanishing_pull_and_a_bounded_push(alpha):
    left, right = lesson_02.skew_explorer(alpha).axes
    pull, push = lines(left), lines(right)
    torch.testing.assert_close(
        pull["KL"][0], torch.tensor(0.5), atol=1e-4, rtol=0, check_dtype=False
    )
    assert push["RKL"][0] > 3.4
    if alpha == 0:
        torch.testing.assert_close(pull["SKL"], pull["KL"])
        torch.testing.assert_close(push["SRKL"], push["RKL"])
    else:
        assert pull["SKL"][0].abs() < 1e-4
        assert push["SRKL"].max() < -torch.tensor(alpha).log()
    assert (left.get_ylim(), right.get_ylim()) == ((-0.55, 0.6), (-1.5, 3.8))
    assert "(2.2)" in left.get_title(loc="left")
    assert "(2.3)" in right.get_title(loc="left")


def test_moving_the_slider_changes_the_picture():
    box = widgets.explore(lesson_02.skew_explorer, alpha=(0.0, 0.5, 0.1))
    slider, picture, message = box.children
    assert isinstance(slider, ipywidgets.FloatSlider)
    assert (slider.description, slider.continuous_update) == ("alpha", True)
    before = bytes(picture.value)
    assert before.startswith(b"\x89PNG")
    slider.value = 0.3
    assert bytes(picture.value) != before
    assert "alpha = 0.30" in message.value
    slider.value = 0.1
    assert bytes(picture.value) == before


def test_whole_numbers_get_a_slider_of_whole_numbers():
    seen = []

    def callback(seed, alpha):
        seen.append((seed, alpha))
        return plots.axes().figure

    seed, alpha, *_ = widgets.explore(
        callback, seed=(0, 9, 3), alpha=(0.0, 1.0, 0.5, 0.25)
    ).children
    assert isinstance(seed, ipywidgets.IntSlider)
    assert alpha.step == 0.25
    seed.value = 4
    assert seen == [(3, 0.5), (4, 0.5)]


def test_a_list_of_values_shows_and_hands_over_the_values_themselves(monkeypatch):
    seen = []

    def callback(alpha):
        seen.append(alpha)
        return plots.axes().figure

    slider, *_ = widgets.explore(callback, alpha=([0.0, 0.01, 0.3], 1)).children
    assert isinstance(slider, ipywidgets.SelectionSlider)
    assert [label for label, _ in slider.options] == ["0", "0.01", "0.3"]
    slider.value = 0.3
    assert seen == [0.01, 0.3]
    monkeypatch.setattr("IPython.display.display", lambda *given: None)
    widgets.stills(callback, "caption", "alt text", alpha=([0.0, 0.01, 0.3], 1))
    assert seen[2:] == [0.0, 0.01, 0.3]


def test_while_dragged_a_slider_redraws_once_a_pause_and_with_the_newest_value():
    seen = []

    async def drag():
        slider, *_ = widgets.explore(
            lambda alpha: seen.append(alpha) or plots.axes().figure, alpha=(0.0, 1.0, 0.5)
        ).children
        for value in (0.6, 0.7, 0.8):
            slider.value = value
        assert seen == [0.5]
        await asyncio.sleep(3 * widgets.PAUSE)
        slider.value = 0.9
        await asyncio.sleep(3 * widgets.PAUSE)

    asyncio.run(drag())
    assert seen == [0.5, 0.8, 0.9]


def test_a_callback_that_raises_says_so_under_the_picture():
    def callback(alpha):
        if alpha > 1:
            raise ValueError("alpha must lie in [0, 1] & not <above>")
        return plots.axes().figure

    slider, picture, message = widgets.explore(callback, alpha=(0.0, 2.0, 0.5)).children
    first = bytes(picture.value)
    slider.value = 1.5
    assert "alpha must lie in [0, 1] &amp; not &lt;above&gt;" in message.value
    assert bytes(picture.value) == first
    slider.value = 0.5
    assert "No picture" not in message.value


def test_stills_show_both_ends_and_the_default_with_alternative_text(monkeypatch):
    seen, objects = [], []

    def callback(alpha, beta):
        seen.append((alpha, beta))
        return plots.axes().figure

    monkeypatch.setattr("IPython.display.display", lambda *given: objects.extend(given))
    widgets.stills(callback, "caption", "alt text", alpha=(0.0, 1.0, 0.1), beta=(0.0, 1.0, 0.5))
    assert seen == [(0.0, 0.5), (0.1, 0.5), (1.0, 0.5)]
    assert objects[0].alt == "alt text"


def test_without_ipywidgets_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with pytest.raises(
        ModuleNotFoundError, match=r'ipywidgets: pip install "minidistill\[course\]"'
    ):
        widgets.explore(lesson_02.skew_explorer, alpha=(0.0, 0.5, 0.1))
