"""Small things that every shelf uses."""

import hashlib


def seeded(*parts) -> int:
    """Derive a seed that depends on all of `parts` and on nothing else."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:7], "big")
