"""Messages that say what was wrong and what would be right."""

import difflib
from collections.abc import Iterable


def nearest(kind: str, name: str, options: Iterable[str]) -> str:
    """'unknown method 'distilm2'; did you mean 'distillm2'? There are: …'"""
    options = sorted(options)
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.4)
    hint = f" did you mean {close[0]!r}?" if close else ""
    return f"unknown {kind} {name!r};{hint} There are: {', '.join(options) or 'none'}"


def needs_extra(package: str, extra: str) -> str:
    """One sentence for a missing optional package."""
    return f'this needs {package}: pip install "minidistill[{extra}]"'
