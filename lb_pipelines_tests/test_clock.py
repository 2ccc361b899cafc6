"""What time it is, for every process that the tests start: all have the same clock.

On the days of `dates` it is a moved one, and here it shows whether that has reached everybody.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from lb_pipelines.clock import utc_now
from lb_pipelines.db.engine import Database
from lb_pipelines_tests.dates import DATES, PRESENT

pytestmark = pytest.mark.present


def by_the_server(database: Database) -> datetime:
    with database.transaction() as connection:
        (instant,) = connection.execute("SELECT clock_timestamp()").fetchone() or (None,)
    assert isinstance(instant, datetime)
    return instant


def by_another_process(_: Database) -> datetime:
    code = "from lb_pipelines.clock import utc_now; print(utc_now().isoformat())"
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True
    )
    return datetime.fromisoformat(done.stdout.strip())


@pytest.mark.parametrize("ask", [by_the_server, by_another_process])
def test_all_have_the_same_clock(database: Database, ask: Callable[[Database], datetime]) -> None:
    # Of a moved clock the offset is whole seconds; of no clock, it is exact to less than one.
    before = utc_now() - timedelta(seconds=1)
    assert before < ask(database) < utc_now() + timedelta(seconds=1)


@pytest.mark.skipif(PRESENT not in os.environ, reason="the clock is not moved")
def test_the_clock_is_moved() -> None:
    began = datetime.fromisoformat(os.environ[PRESENT])
    assert began in [date.instant for date in DATES]
    # A run of the tests takes less than a day.
    assert began - timedelta(seconds=1) < utc_now() < began + timedelta(days=1)


def test_a_sleep_takes_the_monotonic_clock() -> None:
    """Where a moved clock shifted it, this would fail at once or never end."""
    before = time.monotonic()
    time.sleep(0.01)
    assert time.monotonic() > before
