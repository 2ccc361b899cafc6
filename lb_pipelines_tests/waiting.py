"""Waits of the tests: until a condition holds, however long that takes on a slow machine.

No test may rely on how fast anything is. What waits, waits for a condition; the one limit there is
lies so far beyond what the slowest machine needs that it only ends a test that hangs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

LIMIT_SECONDS = 900.0


def wait_until(ask: Callable[[], T], *, pause: float = 0.01) -> T:
    """Ask, every `pause` seconds, until the answer is true, and return it."""
    give_up = time.monotonic() + LIMIT_SECONDS
    while not (answer := ask()):
        assert time.monotonic() < give_up, f"{ask} did not become true"
        time.sleep(pause)
    return answer
