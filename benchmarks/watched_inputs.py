"""What watching the inputs costs, and how long it takes to see that something is stale.

    python -m benchmarks.watched_inputs import --data DIR --events 1000000 --rounds 5
    python -m benchmarks.watched_inputs tick --data DIR --institutions 1000 --days 365

`import`: an import of events of a year from a CSV, in turns without triggers on the events and
with them; and the COPY of the same rows alone, into the root and into the leaves. `tick`: what
`late_events_sensor` asks of all institutions where nothing is new, where one has a late event, and
where one has got millions of events in its whole past. Each in an empty database.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv

from benchmarks.harness import add_database_options, database_of, machine, machine_line
from lb_pipelines.clock import utc_now
from lb_pipelines.core.institution import Institution
from lb_pipelines.db import migrate
from lb_pipelines.db.engine import Connection, Database
from lb_pipelines.db.partitions import ensure_event_months
from lb_pipelines.db.repositories import institutions
from lb_pipelines.materialize import staleness
from lb_pipelines.sources import arrow_copy, loading, plain

FIRST = date(2025, 1, 1)
DAYS = 365
STUDENTS, CLASSES = 25_000, 250

_SCHOOL = """
INSERT INTO lb.institutions (id, name) SELECT 'inst_' || n, n FROM generate_series(1, %(many)s) n;
INSERT INTO lb.subjects (institution_key, id, name)
SELECT institution_key, 's1', '' FROM lb.institutions;
INSERT INTO lb.campuses (institution_key, id, name)
SELECT institution_key, 'p1', '' FROM lb.institutions;
INSERT INTO lb.terms (institution_key, id, name, starts_on, ends_on)
SELECT institution_key, 't1', '', '2025-01-01', '2025-12-31' FROM lb.institutions;
INSERT INTO lb.classes (institution_key, id, name, subject_key, campus_key, term_key)
SELECT i.institution_key, 'c' || n, '', subject_key, campus_key, term_key
FROM lb.institutions i JOIN lb.subjects USING (institution_key)
JOIN lb.campuses USING (institution_key) JOIN lb.terms USING (institution_key),
     generate_series(1, %(classes)s) n;
INSERT INTO lb.students (institution_key, id)
SELECT institution_key, 's' || n FROM lb.institutions, generate_series(1, %(students)s) n
"""
_MADE = """
INSERT INTO lb.materialized_days (institution_key, asset, day, through_revision, through_version,
    begins_at, ends_at, boards, run_id, code_version)
SELECT institution_key, asset, day, 1, 1000000, day::timestamptz, (day + 1)::timestamptz, 10, 'r',
       '0'
FROM lb.institutions, unnest(ARRAY['point_aggregates', 'class_snapshots', 'subject_snapshots',
    'campus_snapshots', 'class_trends', 'subject_trends', 'campus_trends']) AS asset,
    (SELECT %(first)s::date + n AS day FROM generate_series(0, %(days)s - 1) n) AS days
"""
_MANY_EVENTS = """
INSERT INTO lb.student_points
    (institution_key, event_id, student_key, class_key, amount, occurred_at)
SELECT c.institution_key, 'm' || n, min(s.student_key), min(c.class_key), 1,
       %(first)s::timestamptz + n * (%(days)s * interval '1 day' / %(events)s)
FROM lb.classes c JOIN lb.students s USING (institution_key)
JOIN lb.institutions i USING (institution_key), generate_series(1, %(events)s) n
WHERE i.id = 'inst_1' GROUP BY c.institution_key, n
"""


def build(database: Database, many: int, students: int, classes: int) -> None:
    """Institutions, each with so many students and classes, and months of events."""
    migrate.upgrade(database)
    ensure_event_months(database, FIRST, FIRST + timedelta(days=DAYS))
    with database.transaction() as connection:
        for statement in _SCHOOL.split(";"):
            connection.execute(statement, {"many": many, "students": students, "classes": classes})


def make_events(count: int) -> pa.Table:
    """Events of a year in the order of their time, as the plain format has them."""
    chance = np.random.default_rng(1)
    seconds = np.sort(chance.integers(0, DAYS * 86_400, count))
    start = int(datetime.combine(FIRST, datetime.min.time(), UTC).timestamp())
    instants = pa.array((seconds + start) * 1_000_000, pa.int64()).cast(pa.timestamp("us", "UTC"))
    return pa.table(
        {
            "institution_id": pa.repeat("inst_1", count),
            "event_id": pa.array([f"e{n}" for n in range(count)]),
            "student_id": pa.array([f"s{n}" for n in chance.integers(1, STUDENTS + 1, count)]),
            "class_id": pa.array([f"c{n}" for n in chance.integers(1, CLASSES + 1, count)]),
            "amount": pa.array(chance.integers(1, 20, count)),
            "occurred_at": instants.cast(pa.string()),
        }
    )


def set_triggers(connection: Connection, action: str) -> None:
    """ENABLE or DISABLE the triggers of the events, on the root and on every leaf."""
    rows = connection.execute(
        "SELECT 'lb.student_points'::regclass::text UNION ALL SELECT inhrelid::regclass::text"
        " FROM pg_inherits WHERE inhparent = 'lb.student_points'::regclass"
    ).fetchall()
    for (relation,) in rows:
        connection.execute(f"ALTER TABLE {relation} {action} TRIGGER USER")


def timed(work: Callable[[], object]) -> float:
    """Seconds that it takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def empty(database: Database, triggers: str) -> None:
    """No event and no entry in the ledger."""
    with database.transaction() as connection:
        set_triggers(connection, "DISABLE")
        connection.execute("TRUNCATE lb.student_points, lb.input_changes")
        set_triggers(connection, triggers)
    with database.autocommit() as connection:
        connection.execute("CHECKPOINT")


def measure_imports(database: Database, count: int, rounds: int) -> None:
    """Print the times of all ways in turns, and the ratios of the medians."""
    build(database, 1, STUDENTS, CLASSES)
    events = make_events(count)
    with database.transaction() as connection:
        key = institutions.find(connection, "inst_1").key
    batches = list(as_rows(database, events, key))
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as directory:
        csv.write_csv(events, Path(directory) / "points.csv")

        def import_csv() -> None:
            plain.import_directory(database, Path(directory), today=date(2025, 12, 31))

        def copy_to_root() -> None:
            with database.transaction() as connection:
                arrow_copy.write(connection, "lb.student_points", batches)

        def copy_by_loader() -> None:
            with database.transaction() as connection:
                loading._copy_by_month(connection, batches)

        ways = {
            "import, triggers off": ("DISABLE", import_csv),
            "import": ("ENABLE", import_csv),
            "COPY into the root, triggers off": ("DISABLE", copy_to_root),
            "COPY into the root": ("ENABLE", copy_to_root),
            "COPY into the leaves, triggers off": ("DISABLE", copy_by_loader),
            "COPY into the leaves": ("ENABLE", copy_by_loader),
        }
        for _ in range(rounds):
            for name, (triggers, work) in ways.items():
                empty(database, triggers)
                times.setdefault(name, []).append(timed(work))
    for name, seconds in times.items():
        shown = " ".join(f"{s:.2f}" for s in seconds)
        print(f"{name:36} {statistics.median(seconds):6.2f} s   ({shown})")
    for name in ("import", "COPY into the root", "COPY into the leaves"):
        ratio = statistics.median(times[name]) / statistics.median(times[f"{name}, triggers off"])
        print(f"{name}: {100 * (ratio - 1):+.1f} % by the triggers")


def as_rows(database: Database, events: pa.Table, key: int) -> Iterator[pa.RecordBatch]:
    """The events with keys, as the loader has them."""
    with database.transaction() as connection:
        students, classes = (
            dict(connection.execute(f"SELECT id, {name}_key FROM lb.{table}").fetchall())
            for name, table in (("student", "students"), ("class", "classes"))
        )
    rows = pa.table(
        {
            "occurred_at": events["occurred_at"].cast(pa.timestamp("us", "UTC")),
            "student_key": pa.array(
                [students[id] for id in events["student_id"].to_pylist()], pa.int32()
            ),
            "class_key": pa.array(
                [classes[id] for id in events["class_id"].to_pylist()], pa.int32()
            ),
            "amount": events["amount"].cast(pa.int32()),
            "event_id": events["event_id"],
            "institution_key": pa.repeat(pa.scalar(key, pa.int32()), len(events)),
        }
    )
    yield from rows.combine_chunks().to_batches(max_chunksize=loading.BATCH_ROWS)


def measure_tick(database: Database, many: int, days: int, events: int) -> None:
    """Print how long each question of a tick takes."""
    build(database, many, 6, 2)
    with database.transaction() as connection:
        connection.execute(_MADE, {"first": FIRST, "days": days})
    with database.autocommit() as connection:
        connection.execute("VACUUM ANALYZE lb.materialized_days, lb.input_changes")
    with database.transaction() as connection:
        everybody = institutions.every(connection)
    first = everybody[0]

    def show(name: str, work: Callable[[], object]) -> None:
        seconds = [timed(work) for _ in range(7)]
        median, most = 1000 * statistics.median(seconds), 1000 * max(seconds)
        print(f"{name:60} {median:9.1f} ms (most {most:.1f})")

    def changed() -> set[str]:
        return staleness.find_changed(database, everybody)

    def stale(institution: Institution = first) -> staleness.StaleDays:
        return staleness.find_stale_days(database, institution)

    print(f"{many} institutions, {days} days of seven assets each")
    now = utc_now()
    seconds = timed(lambda: [staleness.settle(database, one, now) for one in everybody])
    print(f"all institutions settled for the first time: {seconds:.2f} s")
    assert not changed()
    show("all institutions, nothing new", changed)
    with database.transaction() as connection:
        connection.execute(
            _MANY_EVENTS.replace("'m'", "'late'"), {"first": FIRST, "days": 1, "events": 1}
        )
        connection.execute("UPDATE lb.materialized_days SET through_version = 0")
    assert changed() == {first.id}
    show("all institutions, one with a late event", changed)
    show("that institution's stale days", stale)
    seconds = timed(lambda: insert_many(database, days, events))
    print(f"{events:,} events more of one institution in one statement: {seconds:.1f} s")
    show("all institutions", changed)
    show("that institution's stale days", stale)
    assert sum(len(part) for part in stale()["class_snapshots"]) == days


def insert_many(database: Database, days: int, events: int) -> None:
    """As many events in the whole past of one institution."""
    with database.transaction() as connection:
        connection.execute(_MANY_EVENTS, {"first": FIRST, "days": days, "events": events})


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("import", "tick"))
    add_database_options(parser)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--institutions", type=int, default=1_000)
    parser.add_argument("--days", type=int, default=DAYS)
    options = parser.parse_args()
    with database_of(options) as database:
        print(machine_line(machine(database)))
        if options.what == "import":
            measure_imports(database, options.events, options.rounds)
        else:
            measure_tick(database, options.institutions, options.days, options.events)


if __name__ == "__main__":
    main()
