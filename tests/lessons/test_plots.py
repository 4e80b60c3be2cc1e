"""The plotted numbers and the fixed styles, never pixels."""

import io
import runpy
import sys

import pytest
import torch
from PIL import Image

from minidistill.lessons import plot_style, plots


def lines(ax) -> dict:
    return {line.get_label(): line for line in ax.get_lines()}


def heights(ax) -> list[list[float]]:
    return [[bar.get_height() for bar in bars] for bars in ax.containers]


@pytest.fixture
def shown(monkeypatch):
    """What `show` hands to the notebook."""
    objects = []
    monkeypatch.setattr("IPython.display.display", lambda *given: objects.extend(given))
    return objects


def test_a_role_and_a_method_look_the_same_in_every_figure():
    assert plots.styles(["student"])["student"] == plots.ROLES["student"]
    assert plots.styles(["KL", "teacher p"])["teacher p"] == plots.ROLES["teacher"]
    assert plots.styles(["kd"])["kd"] == plots.styles(["KL"])["KL"]
    assert plots.styles(["student after RKL"])["student after RKL"] == plots.METHODS["rkl"]
    assert plots.styles(["DistiLLM-2, seed 1"])["DistiLLM-2, seed 1"] == plots.METHODS["distillm2"]
    assert plots.styles(["DistiLLM"])["DistiLLM"] == plots.METHODS["distillm"]


def test_names_without_a_style_of_their_own_get_different_ones():
    found = plots.styles([f"thing {i}" for i in range(8)])
    assert len(set(found.values())) == 8


@pytest.mark.parametrize("table", [plots.ROLES, plots.METHODS])
def test_no_two_share_both_colour_and_dash(table):
    looks = [(style.color, str(style.dash)) for style in table.values()]
    assert len(set(looks)) == len(looks)
    assert len({style.marker for style in table.values()}) >= len(looks) - 1


def test_token_bars_draw_the_probabilities():
    p, q = [0.6, 0.3, 0.1], torch.tensor([0.2, 0.3, 0.5], requires_grad=True)
    ax = plots.token_bars({"teacher": p, "student": q}, ["a", "b", "c"], title="(1.1) KL")
    assert heights(ax) == [pytest.approx(p), pytest.approx(q.tolist())]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["a", "b", "c"]
    assert ax.get_title(loc="left") == "(1.1) KL"
    assert ax.get_ylabel() == "probability"


def test_densities_draw_the_curve_and_its_magnified_tail():
    x, p = torch.arange(10.0), torch.arange(10.0) / 45
    ax = plots.densities(x, {"teacher": p, "KL": p.flip(0)}, tail=(6, 10))
    assert lines(ax)["KL"].get_ydata().tolist() == pytest.approx(p.flip(0).tolist())
    (inset,) = ax.child_axes
    assert lines(inset)["teacher"].get_xdata().tolist() == [6, 7, 8, 9]
    assert lines(inset)["teacher"].get_ydata().tolist() == pytest.approx(p[6:].tolist())


def test_curves_draw_a_line_or_the_median_over_seeds_with_a_band():
    seeds = torch.tensor([[1.0, 5.0], [2.0, 6.0], [9.0, 7.0]])
    ax = plots.curves([0, 1], {"KL": [3.0, 4.0], "RKL": seeds}, xlabel="step", band=(0, 100))
    assert lines(ax)["KL"].get_ydata().tolist() == [3, 4]
    assert lines(ax)["RKL"].get_ydata().tolist() == [2, 6]
    corners = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert (corners.min(), corners.max()) == (1, 9)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("step", "nats")


def test_paths_have_an_x_of_their_own():
    ax = plots.paths({"KL": ([0, 1], [2, 3]), "RKL": ([5, 6, 7], [1, 1, 1])})
    assert lines(ax)["RKL"].get_xdata().tolist() == [5, 6, 7]


def test_nll_curves_draw_the_chosen_side():
    probes = [{"step": s, "nll_teacher": 2 + s, "nll_student": 1 + s / 2} for s in (0, 4, 8)]
    ax = plots.nll_curves({"kd": probes, "dpkd": probes}, "nll_student", log=True)
    assert lines(ax)["dpkd"].get_xdata().tolist() == [0, 4, 8]
    assert lines(ax)["dpkd"].get_ydata().tolist() == [1, 3, 5]
    assert ax.get_yscale() == "log"
    assert "student" in ax.get_ylabel()
    assert "nats" in ax.get_ylabel()


def test_nll_bars_draw_the_mean_and_the_spread_of_the_seeds():
    table = {
        "kd": {"nll_teacher": [1.0, 2.0, 3.0], "nll_student": 4.0},
        "dpkd": {"nll_teacher": [20.0], "nll_student": [90.0, 94.0]},
    }
    ax = plots.nll_bars(table, log=True)
    bars = [c for c in ax.containers if hasattr(c, "patches")]
    assert [[b.get_height() for b in c] for c in bars] == [[2, 20], [4, 92]]
    whiskers = bars[0].errorbar.lines[2][0].get_segments()
    assert whiskers[0][:, 1].tolist() == [1, 3]


def test_value_bars_and_point_draw_their_numbers():
    ax = plots.value_bars({"KL": 0.5, "RKL": 2.0}, limits=(0.1, 10))
    assert [bar.get_width() for bars in ax.containers for bar in bars] == [0.5, 2.0]
    plots.point(1.0, 1.5, "KL", ax)
    assert ax.get_lines()[-1].get_xydata().tolist() == [[1.0, 1.5]]


def test_log_axis_writes_plain_numbers():
    ax = plots.curves([1, 10, 1000], {"KL": [1, 2, 3]})
    plots.log_axis(ax.xaxis)
    plots.png(ax)
    assert "100" in [t.get_text() for t in ax.get_xticklabels()]


def test_a_picture_is_light_whatever_the_theme_and_the_same_bytes_each_time():
    ax = plots.token_bars({"teacher": [0.5, 0.5]}, ["a", "b"])
    data = plots.png(ax)
    assert data == plots.png(ax.figure)
    assert min(Image.open(io.BytesIO(data)).convert("RGB").getpixel((1, 1))) > 250
    assert len(data) < 30_000


def test_stacked_pictures_are_as_high_as_their_parts():
    one = plots.token_bars({"teacher": [0.5, 0.5]}, ["a", "b"])
    single, double = (Image.open(io.BytesIO(plots.stacked([one] * n))) for n in (1, 2))
    assert double.size == (single.width, 2 * single.height)


def test_show_displays_a_png_with_alternative_text_and_the_caption_under_it(shown):
    ax = plots.token_bars({"teacher": [0.5, 0.5]}, ["a", "b"])
    plots.show(ax, "Two equal bars.", alt="two bars of height one half")
    picture, caption = shown
    data, metadata = picture._repr_mimebundle_()
    assert data["image/png"]
    assert metadata["image/png"]["alt"] == "two bars of height one half"
    assert caption.data == "*Two equal bars.*"
    assert not ax.figure.axes  # let go of


def test_show_takes_a_grid_of_axes_and_ready_bytes(shown):
    grid = plots.axes(2, rows=2)
    plots.show(grid, "c", alt="a")
    plots.show(plots.png(plots.axes()), "c", alt="a")
    assert len(shown) == 4


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(
        ModuleNotFoundError, match=r'matplotlib: pip install "minidistill\[course\]"'
    ):
        runpy.run_path(plot_style.__file__)


def test_seed_points_are_all_drawn_with_a_bar_at_their_mean_and_the_first_name_on_top():
    values = {"kd": [0.5, 0.7], "cald": [0.6, 0.9, 0.9]}
    ax = plots.seed_points(values, xlabel="ROUGE-L", title="title")
    drawn = [list(line.get_xdata()) for line in ax.lines]
    assert drawn == [
        [0.5, 0.7],
        pytest.approx([0.6, 0.6]),
        [0.6, 0.9, 0.9],
        pytest.approx([0.8, 0.8]),
    ]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["kd", "cald"]
    bottom, top = ax.get_ylim()
    assert bottom > top


def test_a_number_grid_writes_every_number_in_its_place_and_frames_one():
    table = [[0.1, 0.2, 0.3], [0.4, 0.5, 0.9]]
    ax = plots.number_grid(table, (1, 2), (10, 20, 30), limits=(0, 1), frame=(1, 2))
    texts = {tuple(t.get_position()): t for t in ax.texts}
    assert {place: t.get_text() for place, t in texts.items()} == {
        (column, row): f"{table[row][column]:.3f}" for row in (0, 1) for column in (0, 1, 2)
    }
    assert texts[2, 1].get_color() == "white"  # on the darkest cell
    assert texts[0, 0].get_color() == "black"
    assert ax.lines[0].get_xydata()[:4].mean(0) == pytest.approx([2, 1], abs=0.01)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["10", "20", "30"]
    assert (
        plots.number_grid(table, (1, 2), (10, 20, 30), notes=[["a"] * 3] * 2).texts[0].get_text()
        == "a"
    )
