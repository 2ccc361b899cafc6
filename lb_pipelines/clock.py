"""The clock: the only place of the package that asks what time it is.

Everything else takes the present instant, the present day or a `Clock` as an argument, so that a
test can choose it; where a process begins (a command, Dagster's definitions, `make run`) the
argument is `utc_now`. A test holds that.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """Return the present instant, aware, in UTC."""
    return datetime.now(UTC)
