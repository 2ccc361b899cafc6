"""The limit on two connections: events out, then rows in by two threads, each its own files.

Not what ratios are taken against; it says what a way can win at most by writing on two cores.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.harness import Stopwatch
from benchmarks.ways import limit
from lb_pipelines.core.periods import DayRange
from lb_pipelines.db.engine import Database

THREADS = 2


def run(database: Database, days: DayRange, scratch: Path) -> dict[str, float]:
    """Events out, rows in."""
    files = sorted(limit.kept(scratch, days), key=lambda path: -path.stat().st_size)
    watch = Stopwatch()
    limit.events_out(database, days)
    watch.mark("events out")
    with ThreadPoolExecutor(THREADS) as threads:
        for done in [threads.submit(limit.rows_in, database, path) for path in files]:
            done.result()
    watch.mark("rows in")
    return watch.parts
