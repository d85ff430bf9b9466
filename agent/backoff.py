"""Pauses between tries: they double with each failure, and jitter keeps the agents of a fleet from acting as one.

The authority has pauses of its own (``authority/support/backoff.py``): the contract in ``tidemark/`` holds only what
both programs have to agree on.
"""

import math
import random

_MOST_DOUBLINGS = 16


def doubled(seconds: float, times: int, longest: float = math.inf) -> float:
    """``seconds`` doubled so many times, and at most ``longest`` seconds."""
    return float(min(seconds * 2 ** min(times, _MOST_DOUBLINGS), longest))


def jittered(seconds: float, least: float = 0.9, most: float = 1.1) -> float:
    """``seconds`` times a random factor from ``least`` to ``most``."""
    return seconds * random.uniform(least, most)  # noqa: S311 - spreads load, keeps no secret
