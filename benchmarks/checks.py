"""What the checks cost beside the materialization that they look at.

    python benchmarks/checks.py           # a server of its own, as `make run` would start it
    python benchmarks/checks.py --url postgresql://.../empty_database

One institution of a full-scale district of 20: 25,000 students, 250 classes, 20 subjects, 5
campuses, 125,000 enrollments, 37,500 events a day. A day's aggregates, snapshots and trends, then
the checks of the same day as the op makes them, and as they are run alone; then the same for eight
days in one pass. Then a run of Dagster over one day, its own tables in the same database, with the
checks and without: what a verdict costs that is kept.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from dagster import AssetKey, DagsterInstance, RetryPolicy
from dagster._core.instance.ref import InstanceRef

from lb_pipelines.core.periods import ONE_DAY, DayRange
from lb_pipelines.core.words import BoardType
from lb_pipelines.db import migrate, partitions
from lb_pipelines.db.embedded import EmbeddedServer
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import institutions
from lb_pipelines.materialize import aggregates, snapshots, trends
from lb_pipelines.materialize.results import Provenance
from lb_pipelines.materialize.verifying import (
    SAMPLE,
    EventSums,
    verify_aggregates,
    verify_snapshots,
)
from lb_pipelines.orchestration.build import build_defs
from lb_pipelines.orchestration.jobs import DAILY_ASSETS
from lb_pipelines.orchestration.partitions import INSTITUTION, Rectangle
from lb_pipelines.orchestration.resources import LeaderboardDatabase
from lb_pipelines.settings import Settings, dagster_storage_url

FIRST, LAST = date(2024, 4, 1), date(2024, 4, 20)
RUN = Provenance("benchmark")

DISTRICT = """
INSERT INTO lb.institutions (id, name) VALUES ('big', 'big');
INSERT INTO lb.campuses (institution_key, id, name)
    SELECT 1, 'campus_' || n, '' FROM generate_series(1, 5) AS n;
INSERT INTO lb.subjects (institution_key, id, name)
    SELECT 1, 'subject_' || n, '' FROM generate_series(1, 20) AS n;
INSERT INTO lb.terms (institution_key, id, name, starts_on, ends_on)
    VALUES (1, 'spring', '', '2024-02-01', '2024-07-31');
INSERT INTO lb.classes (institution_key, id, name, subject_key, campus_key, term_key)
    SELECT 1, 'class_' || n, '', 1 + n % 20, 1 + n % 5, 1 FROM generate_series(1, 250) AS n;
INSERT INTO lb.students (institution_key, id)
    SELECT 1, gen_random_uuid()::text FROM generate_series(1, 25000) AS n;
INSERT INTO lb.enrollments (institution_key, class_key, student_key)
    SELECT 1, 1 + (s * 7 + n * 53) % 250, s
    FROM generate_series(1, 25000) AS s, generate_series(0, 4) AS n;
INSERT INTO lb.student_points (occurred_at, institution_key, student_key, class_key, subject_key,
                               campus_key, amount, event_id)
SELECT day + interval '12 hours', 1, e.student_key, e.class_key, c.subject_key, c.campus_key,
       1 + (hashint4(e.student_key + e.class_key * 7 + extract(doy FROM day)::int) & 31),
       day::date || '/' || e.student_key || '/' || e.class_key
FROM generate_series('2024-04-01'::timestamptz, '2024-04-20', interval '1 day') AS day,
     lb.enrollments e JOIN lb.classes c USING (class_key)
WHERE (hashint4(e.student_key * 31 + e.class_key + extract(doy FROM day)::int * 1009) & 1023) < 307;
ANALYZE;
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url")
    options = parser.parse_args()
    if options.url:
        measure(options.url)
        return
    with tempfile.TemporaryDirectory(prefix="lb-benchmark-", dir="/tmp") as home:
        Path(home).chmod(0o711)
        server = EmbeddedServer(Path(home))
        try:
            measure(server.start())
        finally:
            server.destroy()


def measure(url: str) -> None:
    """Everything, on an empty database."""
    database = Database(url)
    migrate.upgrade(database)
    partitions.ensure_event_months(database, FIRST, LAST)
    with database.transaction() as connection:
        connection.execute(DISTRICT)
    with database.transaction() as connection:
        institution = institutions.find(connection, "big")

    def make(days: DayRange) -> None:
        drain(aggregates.materialize(database, institution, days, RUN))
        for type in BoardType:
            drain(snapshots.materialize(database, institution, type, days, RUN))
        for type in BoardType:
            drain(trends.materialize(database, institution, type, days, RUN))

    def check(days: DayRange, at_most: int | None) -> Callable[[], None]:
        def checks() -> None:
            events = EventSums(database, institution, days)
            verdicts = [verify_aggregates(database, institution, days, events)]
            for type in BoardType:
                found = verify_snapshots(database, institution, type, days, events, at_most=at_most)
                verdicts += found.values()
            assert not any(v.findings or v.outdated for of in verdicts for v in of.values())

        return checks

    make(DayRange(FIRST, LAST - 9 * ONE_DAY))
    for days in (
        DayRange(LAST - 8 * ONE_DAY, LAST - 8 * ONE_DAY),
        DayRange(LAST - 7 * ONE_DAY, LAST),
    ):
        made = seconds(lambda days=days: make(days))
        sample = best(check(days, SAMPLE))
        whole = best(check(days, None))
        print(
            f"{len(days)} day(s): made in {made:.2f} s; checks after it {sample:.3f} s"
            f" ({sample / made:.0%}), run alone {whole:.3f} s ({whole / made:.0%})"
        )
    measure_runs(url, database)


def measure_runs(url: str, database: Database) -> None:
    """Runs of a day that is there: what is left of the time is Dagster's and the checks'."""
    with database.transaction() as connection:
        connection.execute("CREATE SCHEMA IF NOT EXISTS dagster")
    storage = {
        "module": "lb_pipelines.orchestration.storage",
        "class": "PooledPostgresStorage",
        "config": {"postgres_url": dagster_storage_url(url)},
    }
    with tempfile.TemporaryDirectory() as home:
        reference = InstanceRef.from_dir(
            home, overrides={"storage": {"custom": storage}, "telemetry": {"enabled": False}}
        )
        with DagsterInstance.from_ref(reference) as instance:
            instance.add_dynamic_partitions(INSTITUTION, ["big"])
            defs = build_defs(
                settings=Settings(home=Path(home), start_day=FIRST),
                resource_overrides={"leaderboard_database": LeaderboardDatabase(url=url)},
                now=lambda: datetime(2024, 6, 1, tzinfo=UTC),
                retries=RetryPolicy(max_retries=0),
            )
            job = defs.resolve_job_def("daily_leaderboards")
            keys = [AssetKey(name) for name in DAILY_ASSETS]
            bare = job.get_subset(asset_selection=set(keys), asset_check_selection=set())
            for days in (DayRange(LAST, LAST), DayRange(LAST - timedelta(days=7), LAST)):
                tags = Rectangle(days, "big", "big").tags

                def run(of: Any, tags: dict[str, str] = tags) -> None:
                    assert of.execute_in_process(instance=instance, tags=tags).success

                run(bare)
                without = best(lambda run=run: run(bare), 2)
                with_checks = best(lambda run=run: run(job), 2)
                verdicts = 22 * len(days)
                print(
                    f"run over {len(days)} day(s) that are there: {without:.2f} s without checks,"
                    f" {with_checks:.2f} s with {verdicts} verdicts, which is"
                    f" {1000 * (with_checks - without) / verdicts:.1f} ms a verdict"
                )


def drain(results: Iterable[object]) -> None:
    """Work through all of it."""
    for _ in results:
        pass


def seconds(work: Callable[[], None]) -> float:
    """How long it takes, once."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def best(work: Callable[[], None], of: int = 3) -> float:
    """The shortest of a few times."""
    return min(seconds(work) for _ in range(of))


if __name__ == "__main__":
    main()
