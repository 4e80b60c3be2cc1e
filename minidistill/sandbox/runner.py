"""Inside the sandbox: runs programs, each in a child of its own. Standard library alone.

The runner never runs a program itself. For each it forks a child, which takes limits that cannot be
raised again, runs the program and answers calls of its functions. Where to answer is all that the
child has: it cannot reach the pipes by which the runner is told what to run and tells who has ended, cannot
trace the runner, and may not start a process that would outlive it.
"""

import ctypes
import fcntl
import json
import os
import resource
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import serialization

NOBODY = 65534
MEMORY = 512 * 2**20
PR_SET_DUMPABLE = 4
SHM_INFO, MSG_INFO, SEM_INFO = 14, 12, 19


def main(control: int, status: int, requests: int, replies: int) -> None:
    """Serve jobs, one JSON line each, until the control pipe ends or a program has tampered with us."""
    if os.getuid() == 0 and others_may_import():  # root is under no limit of processes
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)  # nobody may trace us
    alone, shared = process_limit_holds(), (requests, replies, 1, 2)
    untouched = fingerprint(shared)
    os.write(status, b"ready\n")
    for line in serialization.read_lines(control):
        child = os.fork()
        if child == 0:
            os.close(control)
            os.close(status)
            run(json.loads(line), requests, replies)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        again = alone and fingerprint(shared) == untouched
        os.write(status, serialization.dump({"code": code, "reusable": again}))
        if not again:
            return
        serialization.drain(requests)


def others_may_import() -> bool:
    """Tell whether nobody could still read Python's library (not one in root's home, without bubblewrap)."""
    folders = os.path.abspath(os.__file__).split(os.sep)[:-1]
    paths = [os.sep.join(folders[:n]) or os.sep for n in range(1, len(folders) + 1)]
    return all(os.stat(path).st_mode & 0o005 == 0o005 for path in paths)


def fingerprint(shared: tuple[int, ...]) -> tuple:
    """All that a program could change for those after it: our limits and place, pipes, shared memory."""
    names = sorted(name for name in dir(resource) if name.startswith("RLIMIT_"))
    limits = [resource.getrlimit(getattr(resource, name)) for name in names]
    place = [os.getpriority(os.PRIO_PROCESS, 0)]
    if sys.platform == "linux":
        place += [os.sched_getaffinity(0), os.sched_getscheduler(0), ipc_object_counts()]
    return limits, place, [fcntl.fcntl(descriptor, fcntl.F_GETFL) for descriptor in shared]


def ipc_object_counts() -> tuple[int, int, int]:
    """Count the shared memory segments, message queues and semaphore sets (System V)."""
    libc, numbers = ctypes.CDLL(None), (ctypes.c_int * 64)()
    libc.shmctl(0, SHM_INFO, numbers)
    segments = numbers[0]
    libc.msgctl(0, MSG_INFO, numbers)
    queues = numbers[0]
    libc.semctl(0, 0, SEM_INFO, numbers)
    return segments, queues, numbers[7]


def process_limit_holds() -> bool:
    """Tell whether the limit of processes holds here (for root it does not)."""
    child = os.fork()
    if child == 0:
        limit(1)
        try:
            os.fork()
            os._exit(1)
        except OSError:
            os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def limits(seconds: float) -> list[tuple[str, int]]:
    """Hard limits: no more processes, no byte in any file, a bounded memory and processor time."""
    return [
        ("RLIMIT_CPU", int(seconds) + 2), ("RLIMIT_AS", MEMORY), ("RLIMIT_FSIZE", 0), ("RLIMIT_NOFILE", 32),
        ("RLIMIT_CORE", 0), ("RLIMIT_NPROC", 0),
    ]  # fmt: skip


def limit(seconds: float) -> list[str]:
    """Take the limits that this system grants; the names of those that it refuses, as macOS some."""
    refused = []
    for name, value in limits(seconds):
        try:
            resource.setrlimit(getattr(resource, name), (value, value))
        except (AttributeError, OSError, ValueError):
            refused.append(name)
    return refused


def run(job: dict, requests: int, replies: int) -> None:
    """The child's whole life: the program, then calls of its functions until told to end."""
    limit(job["seconds"])
    kept: list = []
    scope = {"__name__": "program", "__builtins__": __builtins__}
    answer(replies, lambda: _define(job["program"], scope))
    for line in serialization.read_lines(requests):
        call = json.loads(line)
        if call is None:
            os._exit(0)
        args, named = (
            serialization.decode(call["args"], kept),
            serialization.decode(call["named"], kept),
        )
        answer(replies, lambda: scope[call["name"]](*args, **named), kept)  # noqa: B023 (called at once)
    os._exit(0)


def _define(program: str, scope: dict) -> list[str]:
    exec(compile(program, "program", "exec"), scope)
    return [name for name, value in scope.items() if callable(value) and not name.startswith("__")]


def answer(replies: int, act, kept: list | None = None) -> None:
    """Send what `act` returns, or the name and words of what it raises."""
    try:
        line = serialization.dump({"value": serialization.encode(act(), kept)})
    except BaseException as error:
        line = serialization.dump({"raised": type(error).__name__, "says": str(error)[:300]})
    while line:
        line = line[os.write(replies, line) :]


if __name__ == "__main__" and sys.argv[1:] == ["refused"]:
    print(" ".join(limit(1.0)))
elif __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
