"""How long a tick of the retention sensor takes: a thousand institutions, all due or none.

Writes into the database that `--url` names, which should be empty and is migrated first: so many
institutions, each with a board of every type and granularity on the first of each of 49 months,
all ACTIVE. The ticks are those of the sensor itself. Then everything expired is marked ARCHIVED, as
sweeps would leave it, and it ticks again.

    python benchmarks/retention_tick.py --url postgresql://... [--institutions 1000]
"""

from __future__ import annotations

import argparse
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from dagster import DagsterInstance, build_sensor_context

from lb_pipelines.core.periods import month_start
from lb_pipelines.core.retention import DEFAULT_RETENTION
from lb_pipelines.db import migrate, partitions
from lb_pipelines.db.engine import Database
from lb_pipelines.orchestration.build import build_defs
from lb_pipelines.orchestration.partitions import INSTITUTION
from lb_pipelines.orchestration.resources import LeaderboardDatabase
from lb_pipelines.settings import Settings

NOW = datetime(2026, 6, 15, 12, tzinfo=UTC)
MONTHS = 48
TICKS = 5


def main() -> None:
    """Fill, tick while all is due, archive, tick while nothing is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--institutions", type=int, default=1000)
    given = parser.parse_args()
    database = Database(given.url)
    migrate.upgrade(database)
    rows, leaves = fill(database, given.institutions)
    print(f"{given.institutions} institutions, {rows:,} snapshots in {leaves:,} leaves")
    defs = build_defs(
        settings=Settings(home=Path("/nowhere"), start_day=date(2020, 1, 1)),
        resource_overrides={"leaderboard_database": LeaderboardDatabase(url=given.url)},
        now=lambda: NOW,
    )
    with DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(INSTITUTION, ids(given.institutions))
        tell("everything due", tick(defs, instance))
        archive(database)
        tell("nothing due", tick(defs, instance))


def ids(count: int) -> list[str]:
    """The institutions, whose names sort as their numbers do."""
    return [f"inst_{number:04}" for number in range(1, count + 1)]


def fill(database: Database, count: int) -> tuple[int, int]:
    """Institutions with their leaves and rows: how many rows, how many leaves."""
    last = month_start(NOW.date())
    first = month_start(last - timedelta(days=30 * MONTHS))
    with database.transaction() as connection:
        connection.execute(
            "INSERT INTO lb.institutions (id, name, status, time_zone)"
            " SELECT id, id, 'ACTIVE', 'UTC' FROM unnest(%s::text[]) AS id",
            (ids(count),),
        )
    for id in ids(count):
        partitions.ensure_snapshot_months(database, id, first, last)
    with database.transaction() as connection:
        written = connection.execute(
            "INSERT INTO lb.leaderboard_snapshots (snapshot_date, period_start, institution_id,"
            " type, reference_id, time_granularity, content_hash, entries, metadata, distribution)"
            " SELECT day, day, id, type, 'one', granularity, sha256('x'), '[]', '{}', ''"
            " FROM unnest(%s::text[]) AS id, unnest(ARRAY['CLASS', 'SUBJECT', 'CAMPUS']) AS type,"
            " unnest(ARRAY['daily', 'weekly', 'monthly', 'term', 'all-time']) AS granularity,"
            " generate_series(%s::date, %s::date, interval '1 month') AS day",
            (ids(count), first, last),
        ).rowcount
        row = connection.execute(
            "SELECT count(*) FROM pg_partition_tree('lb.leaderboard_snapshots') WHERE isleaf"
        ).fetchone()
    with database.autocommit() as connection:
        connection.execute("VACUUM ANALYZE lb.leaderboard_snapshots")
    assert row is not None
    return written, int(row[0])


def archive(database: Database) -> None:
    """Leave the rows as sweeps of today would."""
    with database.transaction() as connection:
        for granularity, days in DEFAULT_RETENTION.items():
            connection.execute(
                "UPDATE lb.leaderboard_snapshots SET status = 'ARCHIVED'"
                " WHERE time_granularity = %s AND snapshot_date < %s",
                (granularity, NOW.date() - timedelta(days=days)),
            )
    with database.autocommit() as connection:
        connection.execute("VACUUM ANALYZE lb.leaderboard_snapshots")


def tick(defs: Any, instance: DagsterInstance) -> list[tuple[float, int]]:
    """Seconds and requests of a few ticks, each as the first would be."""
    sensor = defs.resolve_sensor_def("retention_sensor")
    found = []
    for _ in range(TICKS):
        started = time.perf_counter()
        with build_sensor_context(instance=instance, resources=defs.resources) as context:
            result = sensor.evaluate_tick(context)
        found.append((time.perf_counter() - started, len(result.run_requests or [])))
    return found


def tell(what: str, ticks: list[tuple[float, int]]) -> None:
    """One line for a case."""
    seconds = ", ".join(f"{one:.2f}" for one, _ in ticks)
    print(f"{what}: ticks of {seconds} s, each asking for {ticks[0][1]} runs")


if __name__ == "__main__":
    main()
