"""One way, once, in a process of its own: prints its seconds and its peak memory as JSON.

    python -m benchmarks.one ours --url URL --first 2026-04-15 --last 2026-04-15 --scratch DIR

Used by `day` and `growth`; by hand it is where a profiler is put, for example
`python -m cProfile -o out -m benchmarks.one ours ...`. It puts the database back first, which is
not timed (`--keep` leaves it as it is).
"""

from __future__ import annotations

import argparse
import importlib
import json
from datetime import date
from pathlib import Path

from benchmarks import state
from benchmarks.district import DAY
from benchmarks.harness import add_database_options, database_of, own_peak_mb
from lb_pipelines.core.periods import DayRange

WAYS = ("limit", "limit_overlapped", "ours", "with_pandas", "with_duckdb", "with_sql", "naive")


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("way", choices=WAYS)
    add_database_options(parser)
    parser.add_argument("--first", type=date.fromisoformat, default=DAY)
    parser.add_argument("--last", type=date.fromisoformat, default=DAY)
    parser.add_argument("--scratch", type=Path, default=Path("/var/tmp/lb-bench-scratch"))
    parser.add_argument("--keep", action="store_true", help="do not put the database back first")
    options = parser.parse_args()
    days = DayRange(options.first, options.last)
    run = importlib.import_module(f"benchmarks.ways.{options.way}").run
    with database_of(options) as database:
        if not options.keep:
            state.before(database, days)
        at_start = own_peak_mb()
        parts = run(database, days, options.scratch)
    found = {
        "way": options.way,
        "seconds": sum(parts.values()),
        "parts": parts,
        "peak_mb": own_peak_mb(),
        "at_start_mb": at_start,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
