"""Send calls of the test to the program and read what comes back: a sandboxed runner and its pipes.

Standard library alone, as for all that runs beside a test.
"""

import builtins
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from contextlib import suppress

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import serialization

START_SECONDS = 20.0  # for the sandbox itself, on a busy machine
LONGEST_ANSWER, LONGEST_OUTPUT = 4 * 2**20, 2**20  # bytes
UNSAFE = (StopIteration, StopAsyncIteration)  # would end a loop of the test in silence


class Failed(BaseException):
    """The program has failed, whatever the test would say. No test catches it by accident."""


class Runner:
    """The sandboxed process that runs programs (`runner.py`), and the pipes to it."""

    def __init__(self, command: list[str]):
        control, requests = os.pipe(), os.pipe()
        status, replies, stdio = os.pipe(), os.pipe(), os.pipe()
        theirs = (control[0], status[1], requests[0], replies[1])
        self.process = subprocess.Popen(
            [*command, *map(str, theirs)], stdin=subprocess.DEVNULL, stdout=stdio[1], stderr=stdio[1],
            pass_fds=theirs, env={},
        )  # fmt: skip
        for descriptor in (*theirs, stdio[1]):
            os.close(descriptor)
        self.control, self.requests = control[1], requests[1]
        self.status, self.replies, self.stdio = status[0], replies[0], stdio[0]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for descriptor in (self.control, self.requests, self.status, self.replies, self.stdio):
            os.close(descriptor)


class Channel:
    """Calls to one program and its answers, until a deadline."""

    def __init__(self, runner: Runner, seconds: float):
        self.runner, self.seconds = runner, seconds
        self.ended = self.reusable = False
        self.printed, self.buffers = 0, {runner.status: b"", runner.replies: b""}
        self.selector = selectors.DefaultSelector()
        for descriptor in (runner.status, runner.replies, runner.stdio):
            os.set_blocking(descriptor, False)
            self.selector.register(descriptor, selectors.EVENT_READ)
        os.set_blocking(runner.requests, False)
        self.start(START_SECONDS)

    def start(self, seconds: float) -> None:
        self.deadline = time.monotonic() + seconds

    def send(self, descriptor: int, message) -> None:
        """Write a line, listening meanwhile; Failed if it is not read in time."""
        data = serialization.dump(message)
        while data:
            try:
                data = data[os.write(descriptor, data) :]
            except BlockingIOError:
                self._listen(0.01)
            except BrokenPipeError:
                raise Failed("ended the sandbox") from None

    def call(self, message):
        """Call one of the program's functions; returns its value or raises what it raised."""
        self.send(self.runner.requests, message)
        return self.recv()

    def recv(self):
        """Return the value answered; raises what the program raised, Failed for what is no answer."""
        reply = self.read_line(self.runner.replies)
        try:
            if "raised" not in reply:
                return serialization.decode(reply["value"])
            name, says = str(reply["raised"]), str(reply["says"])
        except (KeyError, TypeError, ValueError, RecursionError):
            raise Failed("wrote where only answers belong") from None
        raise error_of(name, says)

    def await_ready(self) -> None:
        """Wait for the runner's first word; Failed if it does not come."""
        while b"\n" not in self.buffers[self.runner.status]:
            self._listen()
        self.buffers[self.runner.status] = b""

    def read_line(self, descriptor: int):
        """Read the next line of a pipe; Failed if time or patience end before."""
        while b"\n" not in self.buffers[descriptor]:
            if self.ended and descriptor == self.runner.replies:
                raise Failed(self.ended)
            self._listen()
        line, self.buffers[descriptor] = self.buffers[descriptor].split(b"\n", 1)
        try:
            return json.loads(line)
        except (ValueError, RecursionError):
            raise Failed("wrote where only answers belong") from None

    def _listen(self, most: float = 60.0) -> None:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise Failed(f"took more than {self.seconds:g} s")
        for key, _ in self.selector.select(min(left, most)):
            part = os.read(key.fd, 65536)
            if not part:
                raise Failed("ended the sandbox")
            self._hear(key.fd, part)

    def _hear(self, descriptor: int, part: bytes) -> None:
        if descriptor == self.runner.stdio:
            self.printed += len(part)
        else:
            self.buffers[descriptor] += part
        if self.printed > LONGEST_OUTPUT:
            raise Failed(f"printed more than {LONGEST_OUTPUT} bytes")
        if len(self.buffers[self.runner.replies]) > LONGEST_ANSWER:
            raise Failed(f"answered with more than {LONGEST_ANSWER} bytes")
        if descriptor == self.runner.status and b"code" in self.buffers[descriptor]:
            told = self.read_line(descriptor)
            self.ended, self.reusable = ending(told["code"]), told["reusable"]

    def close(self) -> bool:
        """Let the program end; whether the runner can serve another."""
        try:
            self.start(0.5)
            if not self.ended:
                self.send(self.runner.requests, None)
            while not self.ended:
                self._listen()
        except Failed:
            return False
        for descriptor in (self.runner.replies, self.runner.stdio) if self.reusable else ():
            serialization.drain(descriptor)
        return self.reusable


def ending(code: int) -> str:
    """Say in words how a program's process ended."""
    if code == -signal.SIGXCPU or code == -signal.SIGKILL:
        return "was killed: too much processor time or memory"
    return f"was killed by signal {-code}" if code < 0 else f"exited with {code} before it answered"


def error_of(name: str, says: str) -> Exception:
    """Turn what the program raised into an exception of the test's side: built in, or a RuntimeError."""
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, UNSAFE):
        with suppress(TypeError):  # those that want more than words, such as UnicodeDecodeError
            return kind(f"{says} (raised by the program)")
    return RuntimeError(f"{name}: {says} (raised by the program)")
