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
import wire
from line import START_SECONDS, Failed, Host, Line

MEMORY = 2**30


def judge(host: Host, job: dict) -> dict:
    """Run one test against one program; `again` says whether the host can serve another."""
    line = Line(host, job["seconds"])
    try:
        if job["fresh"]:
            line.ready()
    except Failed as error:
        broken = {"broken": f"the sandbox did not start: {error}"}
        return {"passed": False, "reason": "", "again": False} | broken
    try:
        line.start(job["seconds"])
        line.tell(host.control, {"program": job["program"], "seconds": job["seconds"]})
        names = [name for name in map(str, line.answer()) if not hasattr(builtins, name)]
        exec(compile(job["test"], "test", "exec"), {n: stand_in(n, line) for n in names})
        verdict = {"passed": True, "reason": "passed"}
    except BaseException as error:
        verdict = {"passed": False, "reason": in_words(error)}
    return {**verdict, "again": line.close()}


def in_words(error: BaseException) -> str:
    """A failure in a sentence."""
    if isinstance(error, Failed):
        return str(error)
    name = "wrong answer" if isinstance(error, AssertionError) else type(error).__name__
    return f"{name}: {error}"[:500] if str(error) else name


def stand_in(name: str, line: Line):
    """A function of the test's side that calls the program's."""

    def call(*args, **named):
        return line.ask({"name": name, "args": wire.encode(args), "named": wire.encode(named)})

    return call


def in_child(host: Host, job: dict) -> dict:
    """`judge` in a process that ends with the test, whatever the test does."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        nothing = os.open(os.devnull, os.O_RDWR)
        for ours_too in (0, 1, 2):  # a test may print; jobs come and verdicts go here
            os.dup2(nothing, ours_too)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        signal.setitimer(signal.ITIMER_REAL, START_SECONDS * job["fresh"] + job["seconds"] + 2)
        os.write(theirs, wire.dump(judge(host, job)))
        os._exit(0)
    os.close(theirs)
    said = b"".join(iter(lambda: os.read(ours, 65536), b""))
    os.close(ours)
    os.waitpid(child, 0)
    late = {"passed": False, "reason": f"took more than {job['seconds']:g} s", "again": False}
    return json.loads(said) if said else late


def main() -> None:
    """Jobs in, verdicts out; one host serves for as long as it can be trusted."""
    host = None
    for text in sys.stdin:
        job = json.loads(text)
        job["fresh"] = host is None
        host = host or Host(job["command"])
        verdict = in_child(host, job)
        if not verdict.pop("again"):
            host.kill()
            host = None
        print(json.dumps(verdict), flush=True)
    if host:
        host.kill()


if __name__ == "__main__":
    with contextlib.suppress(
        BrokenPipeError
    ):  # whoever asked is gone; so are we, and the sandbox with us
        main()
    os._exit(0)
