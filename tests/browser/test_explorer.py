"""The explorer's numbers in a browser are the library's; bars move by mouse and by keyboard."""

import shutil

import pytest
import torch

from minidistill import divergences as D
from minidistill.lessons import divergence_explorer as explorer

sync_api = pytest.importorskip("playwright.sync_api", reason="pip install 'minidistill[test]'")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium"),
]
P, Q = (0.48, 0.38, 0.10, 0.04), (0.15, 0.20, 0.25, 0.40)
LIBRARY = {
    "kl": lambda p, q, a: D.kl(p, q),
    "reverse_kl": lambda p, q, a: D.reverse_kl(p, q),
    "skew_kl": D.skew_kl,
    "skew_reverse_kl": D.skew_reverse_kl,
    "jsd": lambda p, q, a: D.jsd(p, q, a),
}


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    found = browser.new_page()
    yield found
    found.close()


def show(page, divergence, alpha=0.3):
    state = explorer.initial_state(P, Q, ("tea", "coffee", "water", "soup"), divergence, alpha)
    page.set_content(f"<body>{explorer.standalone_html(state)}</body>")
    page.wait_for_selector("[data-role=value]")


def shown(page):
    value = float(page.get_attribute("[data-role=value]", "data-value"))
    forces = page.eval_on_selector_all("[data-force]", "xs => xs.map(x => Number(x.dataset.force))")
    mixture = page.eval_on_selector_all(
        "[data-mixture]", "xs => xs.map(x => Number(x.dataset.mixture))"
    )
    return value, forces, mixture


def library(divergence, alpha, p=P, q=Q):
    log_p = torch.tensor(p, dtype=torch.float64).log()
    logits = torch.tensor(q, dtype=torch.float64).log().requires_grad_()
    value = LIBRARY[divergence](log_p, logits.log_softmax(-1), alpha)
    value.backward()
    return float(value.detach()), (-logits.grad).tolist()


@pytest.mark.parametrize("alpha", [0.1, 0.6])
@pytest.mark.parametrize("divergence", explorer.DIVERGENCES)
def test_values_and_forces_are_the_librarys(page, divergence, alpha):
    show(page, divergence, alpha)
    value, forces, mixture = shown(page)
    wanted, push = library(divergence, alpha)
    assert value == pytest.approx(wanted, abs=1e-9)
    assert forces == pytest.approx(push, abs=1e-9)
    if mixture:
        weight = 1 - alpha if divergence == "skew_reverse_kl" else alpha
        assert mixture == pytest.approx(
            [weight * a + (1 - weight) * b for a, b in zip(P, Q, strict=True)]
        )
    else:
        assert divergence in ("kl", "reverse_kl")


def bars(page, which):
    return [float(page.get_attribute(f"[data-bar={which}{i}]", "aria-valuenow")) for i in range(4)]


def test_a_bar_is_dragged_and_all_else_follows(page):
    show(page, "kl")
    before = shown(page)[0]
    box = page.query_selector("[data-bar=q3]").bounding_box()
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.mouse.down()
    page.mouse.move(box["x"] + 5, box["y"] + 60, steps=4)
    page.mouse.up()
    q = bars(page, "q")
    assert q[3] < 0.35
    assert sum(q) == pytest.approx(1, abs=0.003)
    assert q[0] / q[1] == pytest.approx(Q[0] / Q[1], rel=0.02)  # the others keep their proportions
    assert shown(page)[0] < before
    assert bars(page, "p") == pytest.approx(P, abs=1e-3)


def test_a_bar_moves_by_keyboard_and_keeps_the_focus(page):
    show(page, "skew_kl")
    page.focus("[data-bar=p0]")
    for _ in range(3):
        page.keyboard.press("ArrowUp")
    assert bars(page, "p")[0] == pytest.approx(0.54, abs=1e-3)
    page.keyboard.press("ArrowDown")
    assert bars(page, "p")[0] == pytest.approx(0.52, abs=1e-3)


def test_the_weight_moves_the_mixture_and_is_off_where_there_is_none(page):
    show(page, "skew_kl")
    page.fill("input[type=range]", "0.8")
    assert shown(page)[0] == pytest.approx(library("skew_kl", 0.8)[0], abs=1e-9)
    page.select_option("select", "kl")
    assert page.is_disabled("input[type=range]")
    assert shown(page)[0] == pytest.approx(library("kl", 0)[0], abs=1e-9)
