"""A learner's first minute: open a lesson in JupyterLab, run it, move a slider, see another picture.

What nbval cannot see: whether the widgets show in a browser at all, and whether they answer. One lesson
with a slider and one with live training are enough for `make test`; the others are slow.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="pip install 'minidistill[test]'")

ROOT = Path(__file__).parents[2]
FIRST = ("02_skew", "05_cald")
LESSONS = [
    pytest.param(path, id=path.stem, marks=() if path.stem in FIRST else pytest.mark.slow)
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
]
TOKEN = "lesson-test"  # a loopback server that lives as long as these tests
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SETTINGS = {
    # All cells in the page, not only those in view: the test looks at every one.
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "extensionmanager-extension/plugin": {"enabled": False},
}
RUN_MS = 420_000  # a shared machine may take three times as long as a quiet one
KERNEL_IDLE = ".jp-Notebook-ExecutionIndicator[data-status='idle']"
BROKEN_WIDGET = ".jupyter-widgets-error-widget"
PROMPTS = "[...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map(p => p.textContent)"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab over a copy of the lessons without outputs, settings of its own."""
    tmp_path = tmp_path_factory.mktemp("lab")
    lessons = shutil.copytree(ROOT / "notebooks", tmp_path / "lessons")
    for path in lessons.glob("*.ipynb"):
        forget_outputs(path)
    for name, values in SETTINGS.items():
        file = tmp_path / f"settings/@jupyterlab/{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    port = free_port()
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += ["--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}"]
    command += [f"--ServerApp.root_dir={lessons}", f"--IdentityProvider.token={TOKEN}"]
    log = tmp_path / "server.log"
    with (
        log.open("w") as file,
        subprocess.Popen(command, stdout=file, stderr=file, env=environment(tmp_path)) as server,
    ):
        try:
            wait_for_server(f"http://127.0.0.1:{port}/api/status?token={TOKEN}", server, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


@pytest.fixture
def page(browser, lab):
    """A page that remembers in `page.problems` what went wrong in it and what left the machine."""
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.set_default_timeout(60_000)
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda line: line.type == "error" and page.problems.append(told(line)))
    page.on("request", lambda request: at_home(request.url) or page.problems.append(request.url))
    yield page
    for session in page.request.get(f"{lab}/api/sessions?token={TOKEN}").json():
        page.request.delete(f"{lab}/api/sessions/{session['id']}?token={TOKEN}")
    page.close()


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_lesson_runs_and_its_widgets_answer(lesson, lab, page):
    source = lesson.read_text(encoding="utf-8")
    assert "explore(" in source, "a lesson has a slider"
    open_lesson(page, lab, lesson.stem)
    try:
        run_all_cells(page)
        check_that_all_ran(page)
        check_slider(page)
        if "Predictions(" in source:
            check_prediction(page, lab, lesson.stem)
        if "lab.Lab(" in source:
            check_lab(page)
        assert page.problems == []
    finally:
        save_screenshot(page, lesson.stem)


def test_the_labs_own_notebook_trains_and_stays_responsive(lab, page):
    open_lesson(page, lab, "lab")
    try:
        run_all_cells(page)
        check_that_all_ran(page)
        check_lab(page)
        assert page.problems == []
    finally:
        save_screenshot(page, "lab")


def open_lesson(page, lab: str, name: str) -> None:
    """Open the notebook alone and wait until its kernel is ready, by the server's word and the page's."""
    page.goto(f"{lab}/lab/tree/{name}.ipynb?reset&token={TOKEN}")
    page.locator(".jp-Notebook .jp-CodeCell").first.wait_for()
    deadline = time.monotonic() + 60
    while '"idle"' not in page.request.get(f"{lab}/api/sessions?token={TOKEN}").text():
        assert time.monotonic() < deadline, "the kernel did not start"
        page.wait_for_timeout(250)
    page.locator(KERNEL_IDLE).wait_for()


def run_all_cells(page) -> None:
    """Run > Run All Cells, and wait until no prompt reads [*]."""
    page.locator(".lm-MenuBar-itemLabel", has_text=re.compile("^Run$")).click()
    page.locator(".lm-Menu-itemLabel", has_text=re.compile("^Run All Cells$")).click()
    page.wait_for_function(f"() => !/\\[ \\]/.test({PROMPTS}[0])")
    page.wait_for_function(f"() => !{PROMPTS}.some(text => text.includes('*'))", timeout=RUN_MS)
    page.locator(KERNEL_IDLE).wait_for()


def check_that_all_ran(page) -> None:
    errors = page.locator(f"[data-mime-type='application/vnd.jupyter.error'], {BROKEN_WIDGET}")
    assert errors.all_inner_texts() == []
    prompts = page.evaluate(PROMPTS)
    assert prompts == [f"[{number}]:" for number in range(1, len(prompts) + 1)]


def check_slider(page) -> None:
    """The picture at the slider's low end is not the one at its high end."""
    box = page.locator(".widget-vbox:has([role=slider]):has(img)").first
    slider, picture = box.locator("[role=slider]").first, box.locator("img").first
    readout = box.locator(".widget-readout").first
    picture.scroll_into_view_if_needed()
    slider.press("Home")
    settle(page)
    low, value = picture.get_attribute("src"), readout.inner_text()
    slider.press("End")
    sync_api.expect(readout).not_to_have_text(value)
    sync_api.expect(picture).not_to_have_attribute("src", low, timeout=10_000)
    settle(page)
    assert picture.evaluate("image => image.complete && image.naturalWidth > 100")


def check_prediction(page, lab: str, name: str) -> None:
    """A click chooses an answer, and the server keeps it in a file."""
    button = page.locator(".widget-toggle-buttons button").first
    button.scroll_into_view_if_needed()
    button.click()
    sync_api.expect(button).to_have_class(re.compile("mod-active"))
    settle(page)
    kept = page.request.get(f"{lab}/files/out/predictions/{name}.json?token={TOKEN}").json()
    assert kept["1"] == button.inner_text()


def settle(page) -> None:
    """Until the kernel has answered; it takes a moment to be asked."""
    page.wait_for_timeout(500)
    page.locator(KERNEL_IDLE).wait_for()


def save_screenshot(page, name: str) -> None:
    """For a person to look at."""
    (ROOT / "out").mkdir(exist_ok=True)
    page.screenshot(path=ROOT / "out" / f"browser-{name}.png")


def forget_outputs(path: Path) -> None:
    """So that what the test sees is what it ran."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    notebook.metadata.pop("widgets", None)
    nbformat.write(notebook, path)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environment(folder: Path) -> dict[str, str]:
    """A home of its own for the server: a learner's settings must not decide what a test sees."""
    own = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
    }
    return {**os.environ, **{key: str(folder / name) for key, name in own.items()}}


def told(line) -> str:
    """An error on the page's console, and where it is from: 'not found' names no file."""
    return f"{line.text} {line.location['url']}"


def at_home(address: str) -> bool:
    return address.startswith(("http://127.0.0.1", "ws://127.0.0.1", "data:", "blob:"))


def wait_for_server(address: str, server: subprocess.Popen, log: Path, seconds: float = 60) -> None:
    """Until it answers; if it ends or never does, fail with what it wrote."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback: no proxy
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and server.poll() is None:
        try:
            opener.open(address, timeout=5)
            return
        except OSError:
            time.sleep(0.3)
    pytest.fail(f"JupyterLab did not start:\n{log.read_text()[-2000:]}")


def check_lab(page) -> None:
    """Train, ask for the code while it trains, stop, go on to the end: curves and answers are there."""
    press = {
        n: page.get_by_role("button", name=n, exact=True).first
        for n in ("Train", "Stop", "Go on", "Code")
    }
    box = page.locator(".widget-vbox", has=press["Train"]).last
    picture = box.locator("img").last
    assert picture.evaluate("image => image.naturalWidth") == 0
    press["Train"].scroll_into_view_if_needed()
    press["Train"].click()
    sync_api.expect(press["Train"]).to_be_disabled()
    press["Code"].click()
    sync_api.expect(box).to_contain_text("history = distill(pair, task", timeout=5_000)
    sync_api.expect(
        press["Train"]
    ).to_be_disabled()  # it still trains: the page did not wait for it
    sync_api.expect(box).to_contain_text("NLL on teacher's responses", timeout=RUN_MS)
    press["Stop"].click()
    sync_api.expect(box).to_contain_text("(stopped)", timeout=RUN_MS)
    sync_api.expect(press["Go on"]).to_be_enabled()
    press["Go on"].click()
    sync_api.expect(press["Train"]).to_be_disabled()
    sync_api.expect(press["Train"]).to_be_enabled(timeout=RUN_MS)
    sync_api.expect(press["Go on"]).to_be_disabled()
    assert picture.evaluate("image => image.naturalWidth") > 500
    assert box.locator("table tr").count() == 4
