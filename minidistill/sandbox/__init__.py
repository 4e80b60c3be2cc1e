"""Runs a generated program against a test, where it can do no harm and cannot forge the result.

    caller ── checker ── test (child)   ─ calls ─►   program (child) ── runner
              the test's side          ◄─ data ─   in the sandbox

The test runs in a process that the program never enters, so nothing that the program prints, patches
or pretends can make it pass: only right answers can. The program runs under bubblewrap: no network, no
file that can be written, no other process in sight, an empty environment; beneath it are limits of
time, memory, processes, files and output. Checker and runner serve one program after another; each
program and each test have a process of their own, and no child outlives its program.
"""

import atexit
import json
import os
import queue
import shutil
import subprocess
import sys
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
PYTHON = os.path.realpath(sys.executable)
ISOLATED = ["-I", "-S", "-B", "-X", "utf8"]
LONGEST_SECONDS = 600
NOBODY = 65534


@dataclass(frozen=True)
class Result:
    """Hold whether the test passed, and if not, why: one sentence."""

    passed: bool
    reason: str


def run(program: str, test: str, seconds: float = 2.0, allow_unsandboxed: bool = False) -> Result:
    """Run `program`, then `test`: code that raises unless all is well, as in HumanEval.

    Names that the test uses and does not define are the program's functions. Numbers, texts, lists,
    tuples, sets, dicts and None cross between the two; what a call changes in its arguments does not.
    `seconds`: wall clock for all of it. PermissionError where there is no bubblewrap, unless
    `allow_unsandboxed`: then the limits alone hold, and a warning says so.
    """
    for name, text in (("program", program), ("test", test)):
        if not isinstance(text, str):
            raise TypeError(f"{name} must be a text, but is {text!r:.80}")
    if not (isinstance(seconds, int | float) and 0 < seconds <= LONGEST_SECONDS):
        raise ValueError(f"seconds must lie in (0, {LONGEST_SECONDS}], but got {seconds!r}")
    return _with_worker(
        {
            "command": _command(allow_unsandboxed),
            "program": program,
            "test": test,
            "seconds": seconds,
        }
    )


def run_many(
    jobs: Sequence[tuple[str, str]], seconds: float = 2.0, allow_unsandboxed: bool = False
):
    """`run` on many (program, test) pairs, on all cores; results in order."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda job: run(*job, seconds, allow_unsandboxed), jobs))


class Worker:
    """A checker in a process of its own, asked by lines of JSON."""

    def __init__(self):
        command = [PYTHON, *ISOLATED, str(HERE / "checker.py")]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        # A session of its own: what interrupts the caller is the caller's to answer.
        how = {"text": True, "encoding": "utf-8", "start_new_session": True}
        self.process = subprocess.Popen(command, **pipes, **how)

    def ask(self, job: dict) -> Result:
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the checker of programs ended with {self.process.wait()}")
        verdict = json.loads(answer)
        if "broken" in verdict:
            raise RuntimeError(verdict["broken"])
        return Result(**verdict)

    def close(self) -> None:
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


_idle: "queue.SimpleQueue[Worker]" = queue.SimpleQueue()


def _with_worker(job: dict) -> Result:
    """Ask a worker that is free, or a new one; one that was interrupted is not used again."""
    try:
        worker = _idle.get_nowait()
    except queue.Empty:
        worker = Worker()
    try:
        result = worker.ask(job)
    except BaseException:
        worker.process.kill()
        worker.close()
        raise
    _idle.put(worker)
    return result


@atexit.register
def close() -> None:
    """End the idle workers; `run` starts new ones."""
    while not _idle.empty():
        _idle.get().close()


def _command(allow_unsandboxed: bool) -> list[str]:
    """Compose the command that starts the runner: under bubblewrap, or limits alone if allowed."""
    inside = bubblewrap()
    if inside:
        command = [*inside, PYTHON, *ISOLATED, "/sandbox/runner.py"]
        _warn_of_refused_limits(*command)
        return command
    if not allow_unsandboxed:
        raise PermissionError(
            "generated programs run under bubblewrap, which is missing or not allowed here (Debian: "
            "apt-get install bubblewrap); allow_unsandboxed=True, on the command line "
            "--allow-unsandboxed, runs them with limits of time and memory alone"
        )
    _warn_once()
    command = [PYTHON, *ISOLATED, str(HERE / "runner.py")]
    _warn_of_refused_limits(*command)
    return command


@cache
def _warn_once() -> None:
    warnings.warn(
        "no bubblewrap here: generated programs run with limits of time, memory, processes and output "
        "alone, and could read files or use the network",
        stacklevel=5,
    )


@cache
def _warn_of_refused_limits(*command: str) -> None:
    """Say once which limits this system refuses; without them programs run all the same."""
    tried = subprocess.run([*command, "refused"], capture_output=True, text=True, check=False)
    if names := tried.stdout.split():
        warnings.warn(
            f"this system refuses limits ({', '.join(names)}): generated programs run without them",
            stacklevel=5,
        )


@cache
def bubblewrap() -> tuple[str, ...] | None:
    """The start of a command that runs the rest in a sandbox; None where that does not work."""
    program = shutil.which("bwrap")
    # Root becomes nobody inside, for root is under no limit of processes; others bring their own user.
    own = ["--unshare-user", "--uid", str(NOBODY), "--gid", str(NOBODY)]
    ways = (own, []) if os.getuid() else ([], own)
    for way in ways if program else ():
        command = (program, *way, *_bubblewrap_args())
        tried = subprocess.run(
            [*command, PYTHON, *ISOLATED, "-c", "import ctypes"], capture_output=True, check=False
        )
        if tried.returncode == 0:
            return command
    return None


def _bubblewrap_args() -> list[str]:
    """bubblewrap's options: new namespaces, Python and the system's libraries to read, no more."""
    walls = [
        "--unshare-ipc",
        "--unshare-pid",
        "--unshare-net",
        "--unshare-uts",
        "--unshare-cgroup-try",
    ]
    walls += ["--die-with-parent", "--new-session", "--clearenv"]
    for folder in ("/usr", "/lib", "/lib64", "/nix/store", "/etc/ld.so.cache"):
        walls += ["--ro-bind-try", folder, folder]
    prefix, open_to_all = Path(sys.base_prefix).resolve(), ["--perms", "0755", "--dir"]
    if not prefix.is_relative_to("/usr"):
        for parent in list(prefix.parents)[-2::-1]:
            walls += [*open_to_all, str(parent)]
        walls += ["--ro-bind", str(prefix), str(prefix)]
    walls += [*open_to_all, "/dev", *open_to_all, "/empty", "--chdir", "/empty"]
    for device in ("/dev/null", "/dev/urandom"):
        walls += ["--dev-bind", device, device]
    return [*walls, "--ro-bind", str(HERE), "/sandbox", "--remount-ro", "/"]
