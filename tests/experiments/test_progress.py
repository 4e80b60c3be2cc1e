"""What a grid of runs shows while it goes, where the output is no terminal and where it is one."""

import subprocess
import sys
import time
from unittest.mock import Mock

import pytest

from minidistill.experiments import progress
from minidistill.experiments.progress import Progress, Status, first_line, status_line

KD = Status("kd", 0, 125, 625, 1.234, 2.5)


def test_the_first_line_says_which_methods_and_seeds_and_how_many_runs():
    line = first_line(["start", "kd", "distillm2"], 2, "out/runs")
    assert line.startswith("6 runs: start (SFT), KD, DistiLLM-2; seeds 0 to 1; logs in out/runs.")
    assert first_line(["start"], 1, "x").startswith("1 run: start (SFT); seed 0; logs in x.")


def test_a_line_says_how_many_are_done_how_long_it_takes_and_the_latest_nlls():
    line = status_line(3, 14, 96, [KD, Status("gkd", 1, 0, 625)])
    assert line.startswith("3 of 14 runs done, 1:36 gone, about 5:24 left; ")  # 3.2 of 14 done
    assert "kd seed 0 step 125/625: NLL 1.23 on teacher, 2.50 on student responses" in line
    assert line.endswith("; gkd seed 1 begins")
    later = status_line(3, 14, 100, [KD], since=(60, 0.2 / 14))  # 3 of 14 in 40 seconds
    assert "1:40 gone, about 2:24 left" in later


@pytest.mark.parametrize("running", [[], [Status("kd", 0, 0, 625)], [Status("kd", 0, 0, 0)]])
def test_before_the_first_step_nobody_knows_how_long_it_takes(running):
    assert "0 of 14 runs done, 0:09 gone, time left not known yet" in status_line(0, 14, 9, running)


def test_lines_come_every_ten_seconds_and_at_the_end(monkeypatch, capsys):
    clock = Mock(return_value=0.0)
    monkeypatch.setattr(progress.time, "monotonic", clock)
    shown = Progress(total=2)
    moments = {0.5: ([], [KD]), 4: ([], []), 11: ([("kd", 0)], []), 12: ([("kd", 1)], [])}
    for now, (finished, news) in moments.items():
        clock.return_value = now
        shown.update(finished, news)
    shown.close()
    first, second, last = capsys.readouterr().out.splitlines()
    assert first.startswith(
        "0 of 2 runs done, 0:00 gone, time left not known yet; kd seed 0 step 125"
    )
    assert second == "1 of 2 runs done, 0:11 gone, about 0:13 left"  # 0.8 runs in 10.5 s
    assert last == "2 of 2 runs done, 0:12 gone, about 0:00 left"


def test_a_run_that_is_over_is_not_shown_though_its_news_come_late(monkeypatch, capsys):
    shown = Progress(total=2, every=0)
    shown.update([("kd", 0)], [])
    shown.update([], [KD])
    assert "kd" not in capsys.readouterr().out


def test_on_a_terminal_there_is_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(progress, "_on_terminal", lambda: True)
    shown = Progress(total=2)
    shown.update([("sft", 0)], [KD])
    shown.close()
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "1/2" in printed.err
    assert "kd seed 0 step 125/625" in printed.err


def test_the_command_speaks_before_torch_is_loaded(tmp_path):
    assert "torch" not in loaded_by("import minidistill.__main__")
    command = [sys.executable, "-m", "minidistill", "run", "--methods", "nosuch", "--out", tmp_path]
    started = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        line = process.stdout.readline().decode()
        seconds = time.monotonic() - started
        process.communicate()
    assert line.startswith("3 runs: start (SFT), nosuch, teacher; seed 0")
    assert seconds < 10
    assert process.returncode == 2


def loaded_by(code: str) -> list[str]:
    """The modules that a fresh interpreter has loaded after `code`."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; import sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()
