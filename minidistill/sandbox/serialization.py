"""Values as lines of JSON between the test's process and the program's. Standard library alone.

Only data crosses: a list can be compared on the other side, but it brings no `__eq__` of its own.
Anything else stays where it is; what crosses is a number by which it can be handed back.
"""

import json
import os
from collections import deque
from collections.abc import Iterator
from itertools import islice

PLAIN = (bool, int, float, str)  # in this order: a bool is an int too
MANY = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset, "deque": deque}
VIEWS = {  # of a dict that holds nothing else
    "keys": (type({}.keys()), lambda items: dict.fromkeys(items).keys()),
    "values": (type({}.values()), lambda items: dict(enumerate(items)).values()),
    "items": (type({}.items()), lambda items: dict(items).items()),
}
LONGEST_ITERATOR = 10_000  # items that cross of one that may have no end


class RemoteObject:
    """Stand on the test's side for an object that stayed with the program: equal to itself alone."""

    def __init__(self, number: int):
        self.number = number


def encode(value, kept: list | None = None):
    """A value as JSON; subclasses as what they are made of. `kept` collects what cannot cross."""
    if value is None:
        return None
    for kind in PLAIN:
        if isinstance(value, kind):
            return kind(value)
    for name, kind in MANY.items():
        if isinstance(value, kind):
            return [name, *(encode(item, kept) for item in value)]
    for name, (kind, _) in VIEWS.items():
        if isinstance(value, kind):
            return [name, *(encode(item, kept) for item in value)]
    if isinstance(value, range):
        return ["range", value.start, value.stop, value.step]
    if isinstance(value, Iterator):
        return ["iterator", *(encode(item, kept) for item in islice(value, LONGEST_ITERATOR))]
    if isinstance(value, dict):
        return ["dict", *([encode(k, kept), encode(v, kept)] for k, v in value.items())]
    if isinstance(value, complex):
        return ["complex", value.real, value.imag]
    if isinstance(value, bytes):
        return ["bytes", value.hex()]
    if isinstance(value, RemoteObject):
        return ["kept", value.number]
    if kept is None:
        raise TypeError(f"a {type(value).__name__} cannot be handed to a program")
    kept.append(value)
    return ["kept", len(kept) - 1]


def decode(data, kept: list | None = None):
    """The inverse; ValueError for what `encode` never wrote."""
    if data is None or isinstance(data, PLAIN):
        return data
    name, *items = data
    if name in MANY:
        return MANY[name](decode(item, kept) for item in items)
    if name in VIEWS:
        return VIEWS[name][1](decode(item, kept) for item in items)
    if name == "range":
        return range(*items)
    if name == "iterator":
        return iter([decode(item, kept) for item in items])
    if name == "dict":
        return {decode(k, kept): decode(v, kept) for k, v in items}
    if name == "complex":
        return complex(*items)
    if name == "bytes":
        return bytes.fromhex(items[0])
    if name == "kept":
        return RemoteObject(items[0]) if kept is None else kept[items[0]]
    raise ValueError(f"no value is written as {name!r}")


def dump(message) -> bytes:
    """One line."""
    return json.dumps(message).encode() + b"\n"


def read_lines(descriptor: int):
    """Lines of a pipe as they come, without reading past what is there."""
    buffer = b""
    while part := os.read(descriptor, 65536):
        *lines, buffer = (buffer + part).split(b"\n")
        yield from lines


def drain(descriptor: int) -> None:
    """Throw away what a process that is gone has left in a pipe."""
    os.set_blocking(descriptor, False)
    try:
        while os.read(descriptor, 65536):
            pass
    except BlockingIOError:
        os.set_blocking(descriptor, True)
