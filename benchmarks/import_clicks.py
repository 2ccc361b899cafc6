"""The import of the Open University's clicks against a bare COPY of the events that result.

    python benchmarks/import_clicks.py --oulad DIR --url postgresql://.../empty_database

Empties lb.student_points of that database (give it one of its own). Interleaved rounds, the best
of each: the whole import (reading, summing, keys, COPY), COPY into lb.student_points, and COPY into
a table without any index.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from pathlib import Path

from lb_pipelines.db import migrate
from lb_pipelines.db.engine import Database
from lb_pipelines.sources import oulad

COLUMNS = (
    "occurred_at, institution_key, student_key, class_key, subject_key, campus_key,"
    " amount, event_id"
)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--oulad", type=Path, required=True)
    parser.add_argument("--url", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    database = Database(options.url)
    migrate.upgrade(database)

    import_clicks(database, options.oulad)
    with database.transaction() as connection, connection.cursor() as cursor:
        query = f"COPY (SELECT {COLUMNS} FROM lb.student_points ORDER BY event_id) TO STDOUT BINARY"
        with cursor.copy(query) as copy:
            events = b"".join(map(bytes, copy))
    seconds = defaultdict(list)
    for _ in range(options.rounds):
        seconds["import"].append(import_clicks(database, options.oulad))
        seconds["COPY into student_points"].append(copy_in(database, "lb.student_points", events))
        with database.transaction() as connection:
            connection.execute("DROP TABLE IF EXISTS bare")
            connection.execute("CREATE TABLE bare (LIKE lb.student_points INCLUDING DEFAULTS)")
        seconds["COPY into a bare heap"].append(copy_in(database, "bare", events))
    best = {name: min(values) for name, values in seconds.items()}
    for name, value in best.items():
        print(f"{name:26s} {value:6.2f} s   import / this = {best['import'] / value:.2f}")


def import_clicks(database: Database, directory: Path) -> float:
    """Seconds of the import into an emptied table."""
    empty(database)
    started = time.perf_counter()
    oulad.import_directory(database, directory, points=oulad.Points.CLICKS)
    return time.perf_counter() - started


def copy_in(database: Database, table: str, events: bytes) -> float:
    """Seconds of one COPY of the events into a table."""
    if table != "bare":
        empty(database)
    started = time.perf_counter()
    with database.transaction() as connection, connection.cursor() as cursor:
        with cursor.copy(f"COPY {table} ({COLUMNS}) FROM STDIN BINARY") as copy:
            for at in range(0, len(events), 1 << 20):
                copy.write(events[at : at + (1 << 20)])
    return time.perf_counter() - started


def empty(database: Database) -> None:
    """Empty the events and let the server settle."""
    with database.autocommit() as connection:
        connection.execute("TRUNCATE lb.student_points")
        connection.execute("CHECKPOINT")


if __name__ == "__main__":
    main()
