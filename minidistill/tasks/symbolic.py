"""Asks math-verify whether two formulas are equal: a line [answer, reference] in, a line true or false out.

A program for `forms.py` to start. It ends by its alarm when one comparison takes too long, also within
sympy's arithmetic on long integers, and it is under a limit of memory.
"""

import contextlib
import json
import logging
import resource
import signal
import sys

MEMORY = 2**31  # bytes


def main(seconds: int) -> None:
    """Answer each line of stdin with one on stdout; at most `seconds` a comparison."""
    from latex2sympy2_extended.latex2sympy2 import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify

    # Without its units, single letters among them (3t would be 3), and plain expressions, read by `eval`.
    spelling = NormalizationConfig(malformed_operators=True, nits=True, boxed="none")
    config = [LatexExtractionConfig(normalization_config=spelling)]
    whole = {"fallback_mode": "no_fallback", "extraction_mode": "first_match"}
    print("ready", flush=True)
    for line in sys.stdin:
        signal.alarm(seconds)
        answer, reference = (
            parse(f"${text}$", config, parsing_timeout=None, **whole) for text in json.loads(line)
        )
        same = verify(reference, answer, timeout_seconds=None, allow_set_relation_comp=True)
        signal.alarm(0)
        print(json.dumps(bool(same)), flush=True)


if __name__ == "__main__":
    sys.path.pop(0)  # this folder: its code.py is not Python's
    logging.disable(logging.CRITICAL)
    with contextlib.suppress(OSError, ValueError):  # a system without this limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    main(int(sys.argv[1]))
