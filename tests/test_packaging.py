"""The package as others get it: light to import, whole when built, clear about what is missing."""

import importlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from unittest.mock import patch

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from minidistill import models
from minidistill.lessons import widgets
from minidistill.tasks import forms

ROOT = Path(__file__).parents[1]
OPTIONAL = {"matplotlib", "ipywidgets", "datasets", "rouge_score", "peft", "accelerate", "gguf"}
toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
PROJECT = toml.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "Makefile", "environment.yml")]


def python(code: str, **environment: str) -> subprocess.CompletedProcess:
    """Run code in a fresh interpreter."""
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )


def pages() -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in PAGES)


def test_importing_the_package_loads_and_needs_no_optional_one():
    loaded = python(
        f"import sys; from minidistill import *; print(*{OPTIONAL} & sys.modules.keys())"
    )
    assert loaded.returncode == 0, loaded.stderr
    assert set(loaded.stdout.split()) <= {"accelerate"}, "only transformers loads that by itself"
    hidden = python(
        f"import sys; sys.modules |= dict.fromkeys({OPTIONAL})\nfrom minidistill import *"
    )
    assert hidden.returncode == 0, hidden.stderr


def test_the_names_that_the_course_imports_are_there():
    from minidistill import curriculum, distill, divergences, evaluate, load_pair, load_task

    assert all(map(callable, (divergences.kl, curriculum.linear_beta, load_pair, load_task)))
    assert all(map(callable, (distill, evaluate)))


def load_gguf():
    """As a loader does that needs the package; README.md stands for a file that exists."""
    with patch.object(
        models.pair.AutoTokenizer, "from_pretrained", lambda *_, **__: __import__("gguf")
    ):
        models.load_model(ROOT / "README.md")


@pytest.mark.parametrize(
    ("package", "use", "extra"),
    [
        ("ipywidgets", lambda: widgets.explore(print), "course"),
        ("math_verify", forms.check_installed, "course"),
        ("gguf", load_gguf, "scale"),
    ],
)
def test_a_missing_package_is_answered_with_the_extra_that_installs_it(hide, package, use, extra):
    hide(package)
    with pytest.raises(ModuleNotFoundError, match=rf'pip install "minidistill\[{extra}\]"'):
        use()
    assert extra in EXTRAS


def test_matplotlib_is_missed_as_soon_as_the_figures_are_imported():
    ran = python("import sys; sys.modules['matplotlib'] = None\nimport minidistill.lessons.plots")
    assert 'pip install "minidistill[course]"' in ran.stderr, ran.stderr[-500:]


def test_the_plain_install_evaluates():
    """Every package of an extra is hidden that the plain install does not bring by itself."""
    names = {Requirement(line).name for line in sum(EXTRAS.values(), [])}
    hidden = [{"pillow": "PIL"}.get(name, name.replace("-", "_")) for name in names]
    ran = python(
        f"import sys; sys.modules |= dict.fromkeys({hidden})\n"
        "from dataclasses import replace; from minidistill import evaluate, load_pair, load_task\n"
        "task = load_task('instruct'); few = replace(task, test=task.test[:4])\n"
        "print(evaluate(load_pair('instruct'), few))"
    )
    assert ran.returncode == 0, ran.stderr[-500:]
    assert re.search(r"rouge_l=0\.\d+, accuracy=", ran.stdout)


def test_every_requirement_is_pinned_to_a_plain_version():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    for pin in pins:
        assert re.fullmatch(r"==[\w.]+", str(pin.specifier)), f"not a plain version: {pin}"
    here = {canonicalize_name(p.name): p for p in pins if p.marker is None or p.marker.evaluate()}
    wanted = map(Requirement, [*PROJECT["dependencies"], *sum(EXTRAS.values(), [])])
    for requirement in wanted:
        pin = here.get(canonicalize_name(requirement.name))
        assert pin, f"constraints.txt does not pin {requirement.name}"
        version = str(pin.specifier).removeprefix("==")
        assert requirement.specifier.contains(version), f"{pin} does not satisfy {requirement}"


def test_every_make_target_that_the_texts_name_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.M))
    named = set(re.findall(r"(?:`|^|    )make ([a-z-]+)\b", pages(), re.M))
    assert {"run", "test"} <= named <= targets


def test_every_extra_that_the_texts_name_exists():
    named = {e for found in re.findall(r"\.\[([a-z,]+)\]", pages()) for e in found.split(",")}
    assert named == EXTRAS.keys()


def test_every_command_that_the_texts_name_exists():
    from typer.main import get_command

    from minidistill.cli import app

    lines = re.findall(r"python -m minidistill ([a-z]+)([^\n`#]*)", pages())
    assert {"run", "distill", "apply"} <= {name for name, _ in lines}
    for name, rest in lines:
        command = get_command(app)
        for word in f"{name}{rest}".split():
            if not hasattr(command, "commands") or word.startswith("-"):
                break
            assert word in command.commands, f"python -m minidistill … {word}: no such command"
            command = command.commands[word]
        options = {"--help"} | {o for parameter in command.params for o in parameter.opts}
        unknown = set(re.findall(r"--[a-z-]+", rest)) - options
        assert not unknown, f"python -m minidistill {name} has no option {sorted(unknown)}"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder that an installer would make of the wheel."""
    build = pytest.importorskip("hatchling.builders.wheel", reason="pip install '.[test]'")
    folder = tmp_path_factory.mktemp("wheel")
    (wheel,) = build.WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_holds_the_library_and_its_data_and_nothing_else(installed):
    tracked = {str(p.relative_to(ROOT)) for p in (ROOT / "data").rglob("*") if p.is_file()}
    packed = {str(p.relative_to(installed / "minidistill")) for p in installed.rglob("data/**/*")}
    assert tracked <= packed
    assert (installed / "minidistill" / "divergences.py").is_file()
    assert {p.name.split("-")[0] for p in installed.iterdir()} == {"minidistill"}


def test_an_installed_package_finds_its_data(installed, tmp_path):
    code = "import os; os.chdir({!r})\nimport minidistill; from minidistill.tasks import data_dir\n"
    code += "print(data_dir()); print(len(minidistill.load_task('instruct').test))"
    ran = python(code.format(str(tmp_path)), PYTHONPATH=str(installed))
    assert ran.returncode == 0, ran.stderr
    folder, examples = ran.stdout.split()
    assert Path(folder) == (installed / "minidistill" / "data").resolve()
    assert int(examples) > 0


PINNED = "--quiet --constraint constraints.txt --editable '.[adapt,course,scale,test]'"


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
@pytest.mark.parametrize(
    ("uv", "torch", "commands"),
    [
        (False, "", ["PIP install --quiet --upgrade pip", f"PIP install {PINNED}"]),
        (True, "", [f"UV pip install --python .venv/bin/python {PINNED}"]),
        (True, "cpu", [f"UV pip install --python .venv/bin/python --torch-backend cpu {PINNED}"]),
        (
            False,
            "cpu",
            [
                "PIP install --quiet --constraint constraints.txt uv",
                f".venv/bin/uv pip install --python .venv/bin/python --torch-backend cpu {PINNED}",
            ],
        ),
    ],
)
def test_make_installs_by_uv_or_pip_with_the_same_pins(tmp_path, uv, torch, commands):
    """What make would run in a fresh clone; a torch build can only be chosen by uv, which pip brings."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "make", "python3"):
        (tools / name).symlink_to(shutil.which(name))
    if uv:
        (tools / "uv").write_text("#!/bin/sh\n")
        (tools / "uv").chmod(0o755)
    dry = ["make", "-n", "run", f"TORCH={torch}"]
    done = subprocess.run(
        dry, cwd=tmp_path, env={"PATH": str(tools)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    text = done.stdout.replace(".venv/bin/python -m pip", "PIP").replace(str(tools / "uv"), "UV")
    assert [" ".join(line.split()) for line in text.splitlines() if " install " in line] == commands


def test_python_that_is_too_old_is_named():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    oldest = PROJECT["requires-python"].removeprefix(">=")
    assert f"version_info < ({oldest.replace('.', ', ')})" in makefile
    assert f"Python {oldest} or newer" in makefile
