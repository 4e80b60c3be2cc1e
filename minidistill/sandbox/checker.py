"""Outside the sandbox: runs tests, and never a program. Standard library alone.

Reads jobs as lines of JSON, {command, program, test, seconds}, and answers each with {passed, reason}.
A test runs in a child of its own, against stand-ins for the program's functions: each call crosses to
the sandbox as data, and data comes back. What the program prints, patches or pretends stays there.
"""

import builtins
import contextlib
import json
import os
import resource
import signal
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import serialization
from channel import START_SECONDS, Channel, Failed, Runner

MEMORY = 2**30


def check(runner: Runner, job: dict) -> dict:
    """Run one test against one program; `reusable` says whether the runner can serve another."""
    channel = Channel(runner, job["seconds"])
    try:
        if job["fresh"]:
            channel.await_ready()
    except Failed as error:
        broken = {"broken": f"the sandbox did not start: {error}"}
        return {"passed": False, "reason": "", "reusable": False} | broken
    try:
        channel.start(job["seconds"])
        channel.send(runner.control, {"program": job["program"], "seconds": job["seconds"]})
        names = [name for name in map(str, channel.recv()) if not hasattr(builtins, name)]
        exec(compile(job["test"], "test", "exec"), {n: proxy(n, channel) for n in names})
        verdict = {"passed": True, "reason": "passed"}
    except BaseException as error:
        verdict = {"passed": False, "reason": describe_error(error)}
    return {**verdict, "reusable": channel.close()}


def describe_error(error: BaseException) -> str:
    """A failure in a sentence."""
    if isinstance(error, Failed):
        return str(error)
    name = "wrong answer" if isinstance(error, AssertionError) else type(error).__name__
    return f"{name}: {error}"[:500] if str(error) else name


def proxy(name: str, channel: Channel):
    """A function of the test's side that calls the program's."""

    def call(*args, **named):
        return channel.call(
            {"name": name, "args": serialization.encode(args), "named": serialization.encode(named)}
        )

    return call


def in_child(runner: Runner, job: dict) -> dict:
    """`check` in a process that ends with the test, whatever the test does."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        nothing = os.open(os.devnull, os.O_RDWR)
        for ours_too in (0, 1, 2):  # a test may print; jobs come and verdicts go here
            os.dup2(nothing, ours_too)
        with contextlib.suppress(OSError, ValueError):  # a system without this limit
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        signal.setitimer(signal.ITIMER_REAL, START_SECONDS * job["fresh"] + job["seconds"] + 2)
        os.write(theirs, serialization.dump(check(runner, job)))
        os._exit(0)
    os.close(theirs)
    said = b"".join(iter(lambda: os.read(ours, 65536), b""))
    os.close(ours)
    os.waitpid(child, 0)
    late = {"passed": False, "reason": f"took more than {job['seconds']:g} s", "reusable": False}
    return json.loads(said) if said else late


def main() -> None:
    """Jobs in, verdicts out; one runner serves for as long as it can be trusted."""
    runner = None
    for text in sys.stdin:
        job = json.loads(text)
        job["fresh"] = runner is None
        runner = runner or Runner(job["command"])
        verdict = in_child(runner, job)
        if not verdict.pop("reusable"):
            runner.kill()
            runner = None
        print(json.dumps(verdict), flush=True)
    if runner:
        runner.kill()


if __name__ == "__main__":
    with contextlib.suppress(
        BrokenPipeError
    ):  # whoever asked is gone; so are we, and the sandbox with us
        main()
    os._exit(0)
