"""Sleep by an interval: imported by every Python process whose clock libfaketime has moved.

`time.sleep` of Python 3.11 and later waits with `clock_nanosleep` until an instant of the monotonic
clock, and libfaketime 0.9.10 (Debian 12 and 13) reckons with that instant as if it were of the
moved clock: EINVAL, or hours of sleep. `select` waits for an interval, which no clock shifts.
"""

import select
import time


def _sleep(seconds: float) -> None:
    if seconds < 0:
        raise ValueError("sleep length must be non-negative")
    select.select((), (), (), seconds)


time.sleep = _sleep
