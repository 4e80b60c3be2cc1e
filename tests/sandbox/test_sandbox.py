"""The sandbox: right programs pass, and nothing else does, whatever it tries."""

import contextlib
import math
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from minidistill import sandbox
from minidistill.sandbox import serialization

SQUARE = "def f(x):\n    return x * x\n"
WRONG = "def f(x):\n    return 0\n"
TEST = "assert f(2) == 4\nassert f(3) == 9\n"

needs_bubblewrap = pytest.mark.skipif(
    sandbox.bubblewrap() is None, reason="bubblewrap is missing or may not make namespaces here"
)


def run(program, test=TEST, seconds=2.0):
    return sandbox.run(textwrap.dedent(program), test, seconds)


# --- a system that refuses a limit, as macOS does --------------------------------------------------------
REFUSING = """
import resource, sys
own = resource.setrlimit
def setrlimit(which, limits):
    if which == resource.RLIMIT_AS:
        raise ValueError("current limit exceeds maximum limit")
    own(which, limits)
resource.setrlimit = setrlimit
sys.path.insert(0, {folder!r})
"""


@pytest.fixture
def refusing(tmp_path, monkeypatch):
    """The sandbox's own two programs, beneath a Python that refuses RLIMIT_AS."""
    for path in sandbox.HERE.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        start = REFUSING.format(folder=str(tmp_path)) if path.stem in ("runner", "checker") else ""
        docstring, quotes, rest = text[3:].partition('"""')
        (tmp_path / path.name).write_text(
            f'"""{docstring}{quotes}\n{start}{rest}', encoding="utf-8"
        )
    sandbox.close()
    for cached in (sandbox.bubblewrap, sandbox._warn_of_refused_limits):
        cached.cache_clear()
    monkeypatch.setattr(sandbox, "HERE", tmp_path)
    yield
    sandbox.close()
    for cached in (sandbox.bubblewrap, sandbox._warn_of_refused_limits):
        cached.cache_clear()


@needs_bubblewrap
def test_a_limit_that_the_system_refuses_is_said_and_programs_run_without(refusing):
    tmp = sandbox.HERE
    tmp.chmod(0o755)
    with pytest.warns(UserWarning, match=r"this system refuses limits \(RLIMIT_AS\)"):
        assert run(SQUARE) == sandbox.Result(True, "passed")
    assert run(WRONG).passed is False
    assert "took more than" in run("def f(x):\n    while True: pass\n", seconds=1.0).reason


@needs_bubblewrap
def test_here_no_limit_is_refused(recwarn):
    sandbox._warn_of_refused_limits.cache_clear()
    assert run(SQUARE).passed
    assert not [w for w in recwarn if "refuses limits" in str(w.message)]


# --- what passes and what does not ------------------------------------------------------------------------
@needs_bubblewrap
@pytest.mark.parametrize(
    "value",
    [0, -1, True, None, 1.5, -0.0, math.inf, "ü\n\"'", "\ud800", b"\x00\xff", 2 + 3j, 10**400, [], (), {},
     [1, [2, (3, {4, 5})]], {"a": [1], (1, 2): None, 3: frozenset({6})}, [True, 1, 1.0], ("x",), set()],
    ids=repr,
)  # fmt: skip
def test_a_value_crosses_both_ways_with_its_type(value):
    source = repr(value).replace("inf", "float('inf')")
    test = (
        f"v = {source}\ngot = f(v)\nassert repr(got) == repr(v), got\nassert type(got) is type(v)"
    )
    assert run("def f(x): return x", test) == sandbox.Result(True, "passed")


@needs_bubblewrap
@pytest.mark.parametrize(
    ("body", "test"),
    [
        ("return (x + 1 for x in v)", "assert list(f([1, 2])) == [2, 3]"),
        ("yield from v", "assert next(f([4, 5])) == 4"),
        ("return map(str, v)", "assert set(f([1, 2])) == {'1', '2'}"),
        ("return zip(v, v)", "assert dict(f([1, 2])) == {1: 1, 2: 2}"),
        ("return reversed(v)", "assert tuple(f([1, 2])) == (2, 1)"),
        ("return range(len(v))", "got = f([7, 8])\nassert got == range(2)\nassert len(got) == 2"),
        (
            "return dict.fromkeys(v).keys()",
            "assert f([1, 2]) == {1, 2}\nassert len(f([1, 2])) == 2",
        ),
        ("return dict(enumerate(v)).values()", "assert sorted(f([2, 1])) == [1, 2]"),
        ("return dict(enumerate(v)).items()", "assert (0, 5) in f([5])"),
        ("import collections; return collections.deque(v)", "assert f([1, 2]).pop() == 2"),
        ("import itertools; return itertools.count(v)", "assert next(f(3)) == 3"),
        ("return sum(v)", "assert f(range(4)) == 6\nassert f(x for x in [1, 2]) == 3"),
    ],
)
def test_what_can_be_gone_through_crosses_by_its_items(body, test):
    assert run(f"def f(v):\n    {body}\n", test) == sandbox.Result(True, "passed")


def test_what_is_no_plain_data_crosses_as_what_it_is_made_of_or_stays():
    class Text(str):
        def __eq__(self, other):
            return True

        __hash__ = str.__hash__

    kept = []
    assert type(serialization.decode(serialization.encode(Text("a"), kept), None)) is str
    assert kept == []
    stayed = serialization.decode(serialization.encode(object(), kept))
    assert isinstance(stayed, serialization.RemoteObject)
    assert stayed != serialization.RemoteObject(0)
    with pytest.raises(TypeError, match="a function cannot be handed to a program"):
        serialization.encode(lambda: None)
    with pytest.raises(ValueError, match="no value is written as 'spoon'"):
        serialization.decode(["spoon", 1])


@needs_bubblewrap
def test_objects_that_stay_with_the_program_can_be_handed_back():
    program = """
        class Point:
            def __init__(self, x): self.x = x
        def f(points): return sum(p.x for p in points)
    """
    assert run(program, "assert f([Point(1), Point(x=2)]) == 3").passed
    assert not run(program, "assert Point(1) == Point(1)").passed


@needs_bubblewrap
@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (WRONG, "wrong answer"),
        ("def g(x): return x", "NameError: name 'f' is not defined"),
        ("def f(x) return x", "SyntaxError"),
        ("f = 4", "NameError"),
        ("import nothing_of_this_name", "ModuleNotFoundError"),
        ("def f(x): return 1 // 0", "ZeroDivisionError: .* by zero .raised by the program"),
        ("def f(x): raise UnicodeDecodeError('utf-8', b'', 0, 1, 'x')", "RuntimeError: UnicodeDecodeError"),
        ("def f(x):\n  while True: pass", "took more than 0.5 s"),
        ("x = '\0'", "SyntaxError|ValueError"),
        ("x = '\ud800'", "UnicodeEncodeError"),
        ("", "NameError"),
    ],
)  # fmt: skip
def test_a_failure_is_told_in_a_sentence(program, reason):
    result = run(program, seconds=0.5)
    assert not result.passed
    assert re.search(reason, result.reason), result.reason


@needs_bubblewrap
def test_a_test_may_define_import_print_and_expect_errors():
    test = """
import math
def helper(y): return math.sqrt(y)
print("passed")
try:
    g(0)
except ZeroDivisionError:
    pass
else:
    raise AssertionError("no error")
assert helper(f(3)) == 3
"""
    assert run(SQUARE + "def g(x): return 1 / x", test).passed
    wrong = WRONG + "def helper(y): return 3.0\ndef math(): pass\ndef g(x): return 1 / x"
    assert run(wrong, test).reason == "wrong answer"


@needs_bubblewrap
def test_a_program_cannot_lend_the_test_its_own_built_in_names():
    program = (
        "def f(x): return 0\ndef abs(x): return 0\ndef len(x): return 4\ndef all(x): return True"
    )
    assert not run(program, "assert abs(f(2) - 4) < 1e-6").passed
    assert not run(program, "assert all(f(x) == x * x for x in (2, 3))").passed


@needs_bubblewrap
def test_a_raised_stop_iteration_does_not_end_a_loop_of_the_test():
    program = "def f(x): raise StopIteration"
    assert not run(program, "assert all(map(lambda x: f(x) == 4, [2]))").passed


# --- hostile programs -------------------------------------------------------------------------------------
HOSTILE = {
    "says that it passed": """
        print('passed'); print('{"passed": true, "reason": "passed", "again": true}')
    """,
    "exits at once": "import sys; sys.exit(0)",
    "exits hard": "import os; os._exit(0)",
    "exits when called": "import os\ndef f(x): os._exit(0)",
    "patches builtins": """
        import builtins
        builtins.AssertionError = KeyError
        builtins.all = builtins.isinstance = builtins.abs = lambda *a: True
    """,
    "poisons sys.modules": """
        import sys
        for name in list(sys.modules): sys.modules[name] = None
    """,
    "patches the clock": """
        import time
        time.time = time.monotonic = lambda: 0
        while True: pass
    """,
    "equals everything": """
        class All:
            def __eq__(self, other): return True
            def __hash__(self): return 0
        def f(x): return All()
    """,
    "equals everything as a number": """
        class All(int):
            def __eq__(self, other): return True
            def __ne__(self, other): return False
            __hash__ = int.__hash__
        def f(x): return All(7)
    """,
    "looks for the checker in the frames": """
        import gc, sys
        frame = sys._getframe()
        while frame:
            frame.f_globals.update(passed=True, f=lambda x: x * x, TEST='')
            frame = frame.f_back
        for thing in gc.get_objects():
            if type(thing) is dict and 'test' in thing: thing['test'] = 'pass'
        def f(x): return 0
    """,
    "patches the serialization": """
        import serialization
        serialization.dump = lambda message: b'{"value": 4}\\n'
        def f(x): return 0
    """,
    "answers before it is asked": """
        import os
        for fd in range(64):
            try:
                os.set_blocking(fd, False)
                os.write(fd, b'{"value": 4}\\n{"code": 0, "again": true}\\n{"passed": true}\\n' * 50)
            except OSError: pass
    """,
    "writes what is no answer": """
        import os
        for fd in range(3, 64):
            try: os.write(fd, b'[]\\n5\\n{"value": ["set", ["list"]]}\\n' + b'[' * 50000 + b'\\n')
            except OSError: pass
    """,
    "loops": "while True: pass",
    "sleeps": "import time; time.sleep(100)",
    "ignores signals and loops": """
        import signal
        for s in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}: signal.signal(s, signal.SIG_IGN)
        while True: pass
    """,
    "stops itself": "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)",
    "forks": "import os\nif os.fork() == 0:\n    import time; time.sleep(1000)",
    "forks without end": """
        import os
        while True:
            try: os.fork()
            except OSError: pass
    """,
    "starts threads without end": """
        import threading, time
        while True: threading.Thread(target=time.sleep, args=(1000,)).start()
    """,
    "starts a program": "import subprocess; subprocess.Popen(['/usr/bin/sleep', '1000'])",
    "becomes a program": "import os; os.execv('/usr/bin/sleep', ['sleep', '1000'])",
    "leaves a daemon": """
        import os, time
        try:
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0: time.sleep(1000)
        except OSError: pass
    """,
    "eats memory in pieces": "x = []\nwhile True: x.append(bytearray(10**7))",
    "eats memory at once": "x = bytearray(10**11)",
    "eats memory by map": "import mmap\nx = [mmap.mmap(-1, 2**28) for _ in range(100)]",
    "makes a giant number": "x = 10 ** (10 ** 9)",
    "writes outside": "open(SENTINEL, 'w').write('gone')",
    "removes a file": "import os; os.remove(SENTINEL)",
    "reads a file": "print(open(SENTINEL).read()); f = lambda x: x * x",
    "writes where it stands": "open('here', 'w').write('x'); f = lambda x: x * x",
    "fills the disk": """
        import itertools
        for i in itertools.count():
            for folder in ('/tmp', '/empty', '/dev/shm', '/var/tmp', '/', '/dev', '/sandbox'):
                try: open(f'{folder}/{i}', 'wb').write(bytes(10**6))
                except OSError: pass
            if i > 100: raise OSError('nothing can be written')
    """,
    "rewrites the runner": "open('/sandbox/runner.py', 'a').write('x')",
    "opens a socket": "import socket; socket.create_connection(('127.0.0.1', PORT)); f = lambda x: x * x",
    "opens an abstract socket": """
        import socket
        s = socket.socket(socket.AF_UNIX); s.connect(chr(0) + ABSTRACT); f = lambda x: x * x
    """,
    "kills its parent": "import os, signal; os.kill(os.getppid(), signal.SIGKILL)",
    "kills everybody": "import os, signal; os.kill(-1, signal.SIGKILL)",
    "stops its parent": "import os, signal; os.kill(os.getppid(), signal.SIGSTOP)",
    "prints gigabytes": "while True: print('x' * 10**6)",
    "prints gigabytes of errors": "import os\nwhile True: os.write(2, b'x' * 10**6)",
    "answers gigabytes": "def f(x): return ['x' * 1000] * 10**5",
    "answers without end": "def f(x):\n    y = []\n    y.append(y)\n    return y",
    "answers too deep": "def f(x):\n    y = []\n    for _ in range(10**5): y = [y]\n    return y",
    "raises what cannot be said": """
        class Mute(BaseException):
            def __str__(self): raise SystemExit(0)
        def f(x): raise Mute
    """,
    "recurses": "def f(x): return f(x)",
    "crashes": "import ctypes; ctypes.string_at(0)",
    "closes every pipe": "import os; os.closerange(0, 64)",
    "swallows what it is asked": """
        import os
        while True:
            for fd in range(64):
                try: os.read(fd, 1) if not os.set_blocking(fd, False) else 0
                except OSError: pass
    """,
    "traces its parent": """
        import ctypes, os
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.ptrace(16, os.getppid(), 0, 0) == 0: f = lambda x: x * x
        if libc.prctl(0x59616d61, -1, 0, 0, 0): pass
        raise OSError(ctypes.get_errno())
    """,
    "starves those after it": """
        import os, resource
        for name in ('RLIMIT_AS', 'RLIMIT_CPU', 'RLIMIT_NOFILE'):
            resource.prlimit(os.getppid(), getattr(resource, name), (1, 1))
    """,
    "slows those after it": """
        import os
        os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)
        os.sched_setscheduler(os.getppid(), os.SCHED_IDLE, os.sched_param(0))
    """,
    "leaves shared memory": """
        import ctypes
        libc = ctypes.CDLL(None)
        while libc.shmget(0, 2**24, 0o1600) >= 0: pass
        libc.msgget(0, 0o1600); libc.semget(0, 1, 0o1600)
    """,
    "finds a secret in its environment": "import os\nassert not os.environ\nassert os.listdir('.') == []",
}  # fmt: skip


@pytest.fixture(scope="module")
def victim(tmp_path_factory):
    """A file to keep, and two sockets that nobody may reach."""
    sentinel = tmp_path_factory.mktemp("victim") / "sentinel"
    sentinel.write_text("untouched")
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        name = f"minidistill-{os.getpid()}"
        unix.bind("\0" + name)
        unix.listen()
        for server in (tcp, unix):
            server.settimeout(0)
        yield sentinel, tcp, unix, name


def hosts() -> set[int]:
    """The processes of this test's sandboxes, and of any sandbox whose caller is gone."""
    commands, parents = {}, {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            commands[int(entry.name)] = (entry / "cmdline").read_bytes()
            parents[int(entry.name)] = int(
                (entry / "stat").read_text().rpartition(")")[2].split()[1]
            )
    found = {
        pid for pid, line in commands.items() if b"/sandbox/" in line or b"sleep\x001000" in line
    }
    return {pid for pid in found if _caller(pid, found, parents) in (0, 1, os.getpid())}


def _caller(pid: int, found: set[int], parents: dict[int, int]) -> int:
    while pid in found:
        pid = parents[pid]
    return pid


@needs_bubblewrap
@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.slow
def test_a_hostile_program_fails_and_leaves_nothing(name, victim):
    sentinel, tcp, unix, abstract = victim
    sandbox.close()
    before = hosts()
    known = f"SENTINEL, PORT, ABSTRACT = {str(sentinel)!r}, {tcp.getsockname()[1]}, {abstract!r}\n"
    program = WRONG + known + textwrap.dedent(HOSTILE[name])
    started = time.monotonic()
    result = sandbox.run(program, TEST, seconds=0.5)
    assert not result.passed
    assert result.reason
    assert time.monotonic() - started < 10
    assert sentinel.read_text() == "untouched"
    for server in (tcp, unix):
        with pytest.raises(BlockingIOError):
            server.accept()
    # Those after it are judged as if it had never been.
    for _ in range(2):
        assert run(SQUARE) == sandbox.Result(True, "passed")
        assert not run(WRONG).passed
    sandbox.close()
    deadline = time.monotonic() + 5
    while hosts() - before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not hosts() - before


@needs_bubblewrap
@pytest.mark.parametrize(
    "attack",
    ["starves those after it", "slows those after it", "leaves shared memory", "stops its parent",
     "answers before it is asked", "kills its parent"],
)  # fmt: skip
def test_a_right_program_that_harms_the_host_does_not_harm_the_next(attack):
    sandbox.close()
    harm = textwrap.indent(textwrap.dedent(HOSTILE[attack]), "    ")
    run(f"{SQUARE}try:{harm}\nexcept Exception: pass\n")
    for _ in range(3):
        assert run(SQUARE) == sandbox.Result(True, "passed")
        assert run(WRONG).reason == "wrong answer"


@needs_bubblewrap
def test_programs_find_nothing_of_those_before_them():
    run("import builtins, sys\nbuiltins.left = sys.left = 1\n" + SQUARE)
    assert run(
        "import builtins, sys\nassert not hasattr(builtins, 'left') and not hasattr(sys, 'left')\n"
        + SQUARE
    ).passed


@needs_bubblewrap
def test_the_sandbox_ends_with_its_user(tmp_path):
    """Killed in the middle of a program, the caller takes everything with it."""
    sandbox.close()
    started = tmp_path / "started"
    code = f"""
import pathlib
from minidistill import sandbox
sandbox.run({SQUARE!r}, {TEST!r})
pathlib.Path({str(started)!r}).touch()
sandbox.run("while True: pass", "", 2)
"""
    caller = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 60
    while not started.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert started.exists()
    time.sleep(0.2)
    caller.send_signal(signal.SIGKILL)
    caller.wait()
    left = hosts()
    assert left
    deadline = time.monotonic() + 30
    while hosts() & left and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not hosts() & left


# --- many -------------------------------------------------------------------------------------------------
@needs_bubblewrap
def test_many_programs_run_at_once_and_answers_come_in_order():
    jobs = [(f"def f(x): return {i}", f"assert f(0) == {i - i % 2}") for i in range(100)]
    assert [r.passed for r in sandbox.run_many(jobs)] == [i % 2 == 0 for i in range(100)]


# --- what the caller may say ------------------------------------------------------------------------------
@pytest.mark.parametrize("program", [None, b"x"])
def test_programs_and_tests_are_texts(program):
    with pytest.raises(TypeError, match="program must be a text"):
        sandbox.run(program, TEST)
    with pytest.raises(TypeError, match="test must be a text"):
        sandbox.run(SQUARE, program)


@pytest.mark.parametrize("seconds", [0, 601, math.nan, "2"])
def test_seconds_have_a_range(seconds):
    with pytest.raises(ValueError, match=r"seconds must lie in \(0, 600\]"):
        sandbox.run(SQUARE, TEST, seconds)


def test_without_bubblewrap_programs_run_only_if_that_is_allowed(monkeypatch):
    monkeypatch.setattr(sandbox, "bubblewrap", lambda: None)
    sandbox._warn_once.cache_clear()
    sandbox.close()
    with pytest.raises(PermissionError, match="--allow-unsandboxed"):
        sandbox.run(SQUARE, TEST)
    with pytest.warns(UserWarning, match="no bubblewrap here"):
        assert sandbox.run(SQUARE, TEST, allow_unsandboxed=True).passed
    for program in (WRONG, "import sys; sys.exit(0)", "import os; os.fork()", "x = bytearray(10**11)",
                    "while True: pass", "open('/tmp/minidistill-was-here', 'w').write('x')"):  # fmt: skip
        assert not sandbox.run(program, TEST, 0.5, allow_unsandboxed=True).passed
    sandbox.close()


def test_a_sandbox_that_does_not_start_is_no_failure_of_the_program(monkeypatch):
    monkeypatch.setattr(sandbox, "_command", lambda allow: ["/bin/false"])
    sandbox.close()
    with pytest.raises(RuntimeError, match="the sandbox did not start"):
        sandbox.run(SQUARE, TEST)
    sandbox.close()


@needs_bubblewrap
def test_those_who_are_not_root_bring_a_user_of_their_own(monkeypatch):
    sandbox.close()
    sandbox.bubblewrap.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(os, "getuid", lambda: 1000)
        command = sandbox.bubblewrap()
    try:
        if "--unshare-user" in command:
            assert run(SQUARE) == sandbox.Result(True, "passed")
            assert run("import os\nassert os.getuid() == 65534\n" + SQUARE).passed
        assert not run(WRONG).passed
    finally:
        sandbox.close()
        sandbox.bubblewrap.cache_clear()


@needs_bubblewrap
@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import os; os.fork()", "BlockingIOError"),
        ("import threading; threading.Thread(target=print).start()", "RuntimeError"),
        ("print('x' * 2_000_000)", "printed more than 1048576 bytes"),
        ("open('/empty/x', 'w')", "OSError: .* Read-only file system"),
        ("import socket; socket.create_connection(('127.0.0.1', 9))", "OSError|ConnectionRefusedError"),
        ("f = lambda x: 'x' * 5_000_000", "answered with more than 4194304 bytes"),
        ("x = bytearray(2**30)", "MemoryError"),
    ],
)  # fmt: skip
def test_a_limit_holds_even_for_a_program_that_is_right(program, reason):
    result = run(SQUARE + program)
    assert not result.passed
    assert re.search(reason, result.reason), result.reason
