"""A thousand institutions in Dagster: where it becomes slow, and how slow.

    python -m benchmarks.thousand_institutions build --url postgresql://.../empty_database
    python -m benchmarks.thousand_institutions day --url ...
    python -m benchmarks.thousand_institutions history --url ... --days 90
    python -m benchmarks.thousand_institutions ticks --url ...
    python -m benchmarks.thousand_institutions pages --url ...

`build`: small institutions of ten zones, with events, aggregates and the ledger of so many days.
`day`: `daily_leaderboards` of one day of all of them, in a process of its own.
`history`: Dagster's record of that day copied to the days before it, a run a day.
`ticks`: each sensor and schedule, evaluated as the daemon does, on Dagster's storage.
`pages`: a real webserver over all of it, asked what its pages ask; seconds, first and again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.dagster_share import DAY, ONE_DAY, measure, tell
from lb_pipelines.db import migrate, partitions
from lb_pipelines.db.engine import Database
from lb_pipelines.orchestration.partitions import partition_key
from lb_pipelines.settings import DAGSTER_SCHEMA, dagster_storage_url
from lb_pipelines.sources.district import ZONES

# Noon in UTC: the day is over everywhere.
NOW = datetime(DAY.year, DAY.month, DAY.day, 12, tzinfo=UTC) + timedelta(days=1)
# 1,095 days of partitions.
START_DAY = DAY - 1094 * ONE_DAY
STUDENTS = 6
ASSETS = [
    "point_aggregates",
    *(
        f"{type}_{what}"
        for what in ("snapshots", "trends")
        for type in ("class", "subject", "campus")
    ),
]

_INSTITUTIONS = """
INSERT INTO lb.institutions (id, name, time_zone)
SELECT 'inst_' || lpad(n::text, 4, '0'), 'School ' || n, (%(zones)s::text[])[n %% 10 + 1]
FROM generate_series(1, %(count)s) n;
"""
_SCHOOLS = """
INSERT INTO lb.campuses (institution_key, id, name)
SELECT institution_key, 'one', 'The only one' FROM lb.institutions;
INSERT INTO lb.subjects (institution_key, id, name)
SELECT institution_key, 'one', 'The only one' FROM lb.institutions;
INSERT INTO lb.terms (institution_key, id, name, starts_on, ends_on)
SELECT institution_key, 'spring', 'Spring', '2025-11-01', '2026-05-01' FROM lb.institutions;
INSERT INTO lb.classes (institution_key, id, name, subject_key, campus_key, term_key)
SELECT institution_key, class, 'Class ' || class, subject_key, campus_key, term_key
FROM lb.institutions JOIN lb.subjects USING (institution_key)
JOIN lb.campuses USING (institution_key) JOIN lb.terms USING (institution_key),
     (VALUES ('a'), ('b')) AS made (class);
INSERT INTO lb.students (institution_key, id)
SELECT institution_key, 'student-' || n FROM lb.institutions, generate_series(1, 6) n;
INSERT INTO lb.enrollments (institution_key, class_key, student_key)
SELECT institution_key, class_key, student_key
FROM lb.classes JOIN lb.students USING (institution_key);
"""
_EVENTS = """
INSERT INTO lb.student_points (occurred_at, updated_at, institution_key, student_key, class_key,
    subject_key, campus_key, amount, event_id)
SELECT at, at, institution_key, student_key, class_key, subject_key, campus_key,
       (student_key * 7 + class_key * 3) %% 11 - 2,
       at::date || '/' || student_key || '/' || class_key
FROM lb.institutions JOIN lb.classes USING (institution_key)
     JOIN lb.students USING (institution_key),
     generate_series(%(first)s::date, %(last)s::date, interval '1 day') AS day,
     LATERAL (SELECT (day + time '12:00') AT TIME ZONE time_zone) AS noon (at)
"""
_AGGREGATES = """
INSERT INTO lb.point_aggregates (institution_key, day, revision, source_rows, watermark,
    content_hash, cells, students, classes, subjects, campuses, points, events)
SELECT institution_key, day, 1, count(*), max(updated_at),
       '\\x00', count(*), array_agg(student_key ORDER BY student_key, class_key),
       array_agg(class_key ORDER BY student_key, class_key),
       array_agg(subject_key ORDER BY student_key, class_key),
       array_agg(campus_key ORDER BY student_key, class_key),
       array_agg(amount ORDER BY student_key, class_key),
       array_agg(1 ORDER BY student_key, class_key)
FROM lb.student_points JOIN lb.institutions USING (institution_key),
     LATERAL (SELECT (occurred_at AT TIME ZONE time_zone)::date) AS local (day)
WHERE day < %(last)s
GROUP BY institution_key, day
"""
_LEDGER = """
INSERT INTO lb.materialized_days
    (institution_key, asset, day, through_revision, through_version, begins_at, ends_at, boards,
     run_id, code_version)
SELECT a.institution_key, asset, a.day, 1,
       (SELECT coalesce(max(version), 0) FROM lb.input_changes c
        WHERE c.institution_key = a.institution_key),
       a.day::timestamp AT TIME ZONE i.time_zone, (a.day + 1)::timestamp AT TIME ZONE i.time_zone,
       10, 'earlier', '0'
FROM lb.point_aggregates a JOIN lb.institutions i USING (institution_key),
     unnest(%(assets)s::text[]) AS asset
"""
# A day's record again for an earlier day, as the run of that day would have left it.
_EVENT_LOG = """
INSERT INTO event_logs
    (run_id, event, dagster_event_type, timestamp, step_key, asset_key, partition)
SELECT %(run)s::text,
       replace(replace(event, %(of)s::text, %(run)s::text),
               %(day)s::text, %(earlier)s::text), dagster_event_type,
       timestamp - %(age)s * interval '1 day', step_key, asset_key,
       replace(partition, %(day)s::text, %(earlier)s::text)
FROM event_logs WHERE run_id = %(of)s::text ORDER BY id
"""
_TAGS = """
INSERT INTO asset_event_tags (event_id, asset_key, key, value, event_timestamp)
SELECT e.id, e.asset_key, 'dagster/partition/' || name, value, e.timestamp
FROM event_logs e,
     LATERAL (VALUES ('day', split_part(partition, '|', 1)),
                     ('institution', split_part(partition, '|', 2))) AS tag (name, value)
WHERE e.run_id = %(run)s::text AND dagster_event_type = 'ASSET_MATERIALIZATION'
"""
_CHECKS = """
INSERT INTO asset_check_executions (asset_key, check_name, partition, run_id, execution_status,
    evaluation_event, evaluation_event_timestamp, evaluation_event_storage_id,
    materialization_event_storage_id, create_timestamp)
SELECT asset_key, check_name, replace(partition, %(day)s::text, %(earlier)s::text),
       %(run)s::text, execution_status,
       replace(replace(evaluation_event, %(of)s::text, %(run)s::text),
               %(day)s::text, %(earlier)s::text),
       evaluation_event_timestamp, evaluation_event_storage_id, materialization_event_storage_id,
       create_timestamp
FROM asset_check_executions WHERE run_id = %(of)s::text
"""
_RUNS = """
INSERT INTO runs (run_id, snapshot_id, pipeline_name, mode, status, run_body, partition,
    partition_set, create_timestamp, update_timestamp, start_time, end_time, backfill_id)
SELECT %(run)s::text, snapshot_id, pipeline_name, mode, status,
       replace(replace(run_body, %(of)s::text, %(run)s::text),
               %(day)s::text, %(earlier)s::text),
       partition, partition_set,
       create_timestamp - %(age)s * interval '1 day', update_timestamp - %(age)s * interval '1 day',
       start_time, end_time, backfill_id
FROM runs WHERE run_id = %(of)s::text
"""
_RUN_TAGS = """
INSERT INTO run_tags (run_id, key, value)
SELECT %(run)s::text, key, replace(value, %(day)s::text, %(earlier)s::text)
FROM run_tags WHERE run_id = %(of)s::text
"""


def main() -> None:
    """One of the verbs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("verb", choices=["build", "day", "history", "ticks", "pages"])
    parser.add_argument("--url", required=True)
    parser.add_argument("--institutions", type=int, default=1000)
    parser.add_argument("--days", type=int, default=90, help="days that are materialized")
    given = parser.parse_args()
    verbs: dict[str, Callable[[], None]] = {
        "build": lambda: build(given.url, given.institutions, given.days),
        "day": lambda: day(given.url),
        "history": lambda: history(given.url, given.days),
        "ticks": lambda: ticks(given.url),
        "pages": lambda: pages(given.url),
    }
    verbs[given.verb]()


def build(url: str, count: int, days: int) -> None:
    """What the project's own tables hold after so many days; the last one is left to be made."""
    database = Database(url)
    migrate.upgrade(database)
    first = DAY - (days - 1) * ONE_DAY
    partitions.ensure_event_months(database, first, DAY + ONE_DAY)
    values: dict[str, Any] = {
        "count": count, "zones": list(ZONES), "first": first, "last": DAY, "assets": ASSETS,
    }  # fmt: skip
    with database.transaction() as connection:
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {DAGSTER_SCHEMA}")
        connection.execute(_INSTITUTIONS, values)
        connection.execute(_SCHOOLS)
        for statement in (_EVENTS, _AGGREGATES, _LEDGER):
            connection.execute(statement, values)
    with database.autocommit() as connection:
        connection.execute("VACUUM ANALYZE")
    partitions.maintain(database, DAY, dry_run=False)
    database.close()


def day(url: str) -> None:
    """The last day through a real run."""
    with dagster_home(url) as home:
        tell(measure(url, home), 1)


def history(url: str, days: int) -> None:
    """The record of the last run over `DAY`, for the days before it."""
    with Database(url).transaction() as connection:
        connection.execute(f"SET search_path = {DAGSTER_SCHEMA}")
        row = connection.execute(
            "SELECT run_id FROM runs WHERE status = 'SUCCESS' ORDER BY id DESC LIMIT 1"
        ).fetchone()
        assert row is not None
        for age in range(1, days):
            earlier = DAY - age * ONE_DAY
            values = {
                "of": row[0],
                "run": f"00000000-0000-4000-8000-{earlier:%Y%m%d}0000",
                "age": age,
                "day": DAY.isoformat(),
                "earlier": earlier.isoformat(),
            }
            for statement in (_RUNS, _RUN_TAGS, _EVENT_LOG, _TAGS, _CHECKS):
                connection.execute(statement, values)
    with Database(url).autocommit() as connection:
        connection.execute("VACUUM ANALYZE")
        for table, size, rows in connection.execute(
            "SELECT relname, pg_size_pretty(pg_total_relation_size(relid)), n_live_tup"
            " FROM pg_stat_user_tables WHERE schemaname = %s"
            " ORDER BY pg_total_relation_size(relid) DESC LIMIT 5",
            (DAGSTER_SCHEMA,),
        ):
            print(f"{table}: {size}, {rows:,} rows")


def ticks(url: str) -> None:
    """Each sensor and schedule: what it says and how long it takes, the second time."""
    with dagster_home(url) as home:
        os.environ |= environment(url, home)
        from dagster import DagsterInstance, build_schedule_context, build_sensor_context

        from lb_pipelines.orchestration.build import build_defs
        from lb_pipelines.settings import Settings

        began = time.perf_counter()
        defs = build_defs(settings=Settings.from_env(), now=lambda: NOW)
        repository = defs.get_repository_def()
        repository.get_all_jobs()
        print(f"definitions built in {time.perf_counter() - began:.2f} s\n")
        print("| tick | first, s | again, s | says |\n|---|--:|--:|---|")
        with DagsterInstance.get() as instance:
            for name in ("institutions_sensor", "late_events_sensor", "retention_sensor"):
                cursor, seconds = None, []
                for _ in range(3):
                    with build_sensor_context(
                        instance=instance, resources=defs.resources, cursor=cursor
                    ) as context:
                        began = time.perf_counter()
                        result = defs.resolve_sensor_def(name).evaluate_tick(context)
                    seconds.append(time.perf_counter() - began)
                    cursor = result.cursor
                said = result.skip_message or f"{len(result.run_requests or [])} runs"
                tell_tick(name, seconds, said)

            def time_schedule(name: str, what: str, at: datetime) -> None:
                seconds = []
                for _ in range(3):
                    with build_schedule_context(
                        instance=instance, scheduled_execution_time=at, resources=defs.resources
                    ) as schedule:
                        began = time.perf_counter()
                        done = defs.resolve_schedule_def(name).evaluate_tick(schedule)
                    seconds.append(time.perf_counter() - began)
                said = done.skip_message or f"{len(done.run_requests or [])} runs"
                tell_tick(f"{name}{what}", seconds, said)

            daily = "daily_leaderboards_schedule"
            time_schedule(daily, ", institutions in the order of their ids", NOW)
            in_neighbour_order(url, instance)
            time_schedule(daily, ", those with one midnight side by side", NOW)
            time_schedule(daily, ", half a day later", NOW + timedelta(hours=12))
            time_schedule("partition_maintenance_schedule", "", NOW)
            time_schedule("purge_schedule", "", NOW)


def in_neighbour_order(url: str, instance: Any) -> None:
    """Let the institutions join as the sensor has them join that come at once."""
    from lb_pipelines.db.repositories import institutions
    from lb_pipelines.orchestration.partitions import INSTITUTION, neighbour_order

    with Database(url).transaction() as connection:
        offsets = [
            (one.id, NOW.astimezone(one.zone).utcoffset() or timedelta())
            for one in institutions.every(connection)
        ]
    for id, _ in offsets:
        instance.delete_dynamic_partition(INSTITUTION, id)
    instance.add_dynamic_partitions(INSTITUTION, neighbour_order(offsets))


def tell_tick(name: str, seconds: list[float], said: str) -> None:
    """A row of the table."""
    print(f"| {name} | {seconds[0]:.2f} | {min(seconds[1:]):.2f} | {said[:90]} |")


# What the pages ask.

_HEALTH = """
query PartitionHealth($assetKey: AssetKeyInput!) {
  assetNodeOrError(assetKey: $assetKey) {
    ... on AssetNode {
      id
      partitionKeysByDimension { name type partitionKeys }
      assetPartitionStatuses {
        ... on MultiPartitionStatuses {
          primaryDimensionName
          ranges {
            primaryDimStartKey primaryDimEndKey primaryDimStartTime primaryDimEndTime
            secondaryDim {
              ... on TimePartitionStatuses { ranges { startTime endTime startKey endKey status } }
              ... on DefaultPartitionStatuses {
                materializedPartitions materializingPartitions failedPartitions
              }
            }
          }
        }
      }
    }
  }
}
"""
_GRAPH = """
query AssetGraphLive($assetKeys: [AssetKeyInput!]!) {
  assetNodes(assetKeys: $assetKeys, loadMaterializations: true) {
    id opNames
    assetMaterializations(limit: 1) { timestamp runId }
    partitionStats { numMaterialized numMaterializing numPartitions numFailed }
    assetChecksOrError {
      ... on AssetChecks { checks { name executionForLatestMaterialization { id status } } }
    }
  }
  assetsLatestInfo(assetKeys: $assetKeys) {
    id unstartedRunIds inProgressRunIds latestRun { id status }
  }
}
"""
_PARTITION = """
query AssetPartitionDetail($assetKey: AssetKeyInput!, $partition: String!) {
  assetNodeOrError(assetKey: $assetKey) {
    ... on AssetNode {
      id
      latestRunForPartition(partition: $partition) { id status }
      assetMaterializations(partitions: [$partition], limit: 100) {
        runId timestamp metadataEntries { label }
      }
    }
  }
}
"""
_PLOTS = """
query AssetEvents($assetKey: AssetKeyInput!) {
  assetOrError(assetKey: $assetKey) {
    ... on Asset {
      id
      assetMaterializations(limit: 100) {
        partition timestamp metadataEntries { label ... on IntMetadataEntry { intValue } }
      }
    }
  }
}
"""
_RUN_LIST = """
query Runs {
  runsOrError(limit: 25) {
    ... on Runs {
      results { id status tags { key value } assetSelection { path } startTime endTime }
    }
  }
}
"""
_RUN = """
query RunRoot($runId: ID!) {
  runOrError(runId: $runId) {
    ... on Run {
      id status tags { key value }
      assets { id key { path } }
    }
  }
}
"""
_RUN_STEPS = """
query RunSteps($runId: ID!) {
  runOrError(runId: $runId) {
    ... on Run { id stepStats { stepKey status materializations { label } } }
  }
}
"""
_LOGS = """
query Logs($runId: ID!) {
  logsForRun(runId: $runId, limit: 1000) {
    ... on EventConnection { cursor hasMore events { ... on MessageEvent { message timestamp } } }
  }
}
"""
_PREVIEW = """
query Preview($params: AssetBackfillPreviewParams!) {
  assetBackfillPreview(params: $params) {
    assetKey { path }
    partitions { partitionKeys ranges { start end } }
  }
}
"""
_LAUNCHPAD = """
query PartitionSets {
  assetNodes(group: {groupName: "snapshots", repositoryName: "__repository__",
                     repositoryLocationName: "lb_pipelines.definitions"}) {
    id partitionKeysByDimension { name partitionKeys }
    partitionDefinition { name dimensionTypes { name type } }
  }
}
"""


def pages(url: str) -> None:
    """A webserver, asked as the pages ask it."""
    with dagster_home(url) as home, webserver(url, home) as (address, process):
        keys = [{"path": [name]} for name in ASSETS]
        asset = {"assetKey": {"path": ["class_snapshots"]}}
        with Database(url).transaction() as connection:
            row = connection.execute(
                f"SELECT run_id FROM {DAGSTER_SCHEMA}.runs ORDER BY id LIMIT 1"
            ).fetchone()
        assert row is not None
        run = {"runId": row[0]}
        month = [
            str(partition_key(DAY - age * ONE_DAY, f"inst_{number:04}"))
            for age in range(30)
            for number in range(1, 1001)
        ]
        asked: list[tuple[str, str, dict[str, Any]]] = [
            ("asset graph: state of 7 assets", _GRAPH, {"assetKeys": keys}),
            ("an asset's partitions", _HEALTH, asset),
            ("one partition", _PARTITION, {**asset, "partition": f"{DAY}|inst_0500"}),
            ("an asset's plots and events", _PLOTS, asset),
            ("dialogue Materialize of a group", _LAUNCHPAD, {}),
            ("preview of a backfill: 1 day", _PREVIEW, {
                "params": {"assetSelection": keys[:1], "partitionNames": month[:1000]}}),
            ("preview of a backfill: 30 days", _PREVIEW, {
                "params": {"assetSelection": keys[:1], "partitionNames": month}}),
            ("list of runs", _RUN_LIST, {}),
            ("a run over 1,000 institutions: its assets", _RUN, run),
            ("its steps with what they made", _RUN_STEPS, run),
            ("its first 1,000 events", _LOGS, run),
        ]  # fmt: skip
        print("| page | first, s | again, s | answer, KB | webserver, MB |\n|---|--:|--:|--:|--:|")
        for what, query, variables in asked:
            seconds, size = [], 0
            for _ in range(2):
                began = time.perf_counter()
                size = len(ask(address, query, variables))
                seconds.append(time.perf_counter() - began)
            status = Path(f"/proc/{process.pid}/status").read_text()
            resident = int(status.split("VmRSS:")[1].split()[0]) // 1024
            answered = f"{seconds[0]:.2f} | {seconds[1]:.2f} | {size / 1000:,.0f}"
            print(f"| {what} | {answered} | {resident} |", flush=True)


def ask(address: str, query: str, variables: dict[str, Any]) -> bytes:
    """The webserver's answer; an error of it is one here."""
    request = urllib.request.Request(
        f"{address}/graphql",
        json.dumps({"query": query, "variables": variables}).encode(),
        {"Content-Type": "application/json"},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=400) as response:
            answer: bytes = response.read()
    except urllib.error.HTTPError as error:
        raise SystemExit(error.read().decode()[:2000]) from error
    if b'"errors"' in answer[:2000]:
        raise SystemExit(answer[:2000].decode())
    return answer


@contextmanager
def dagster_home(url: str) -> Iterator[str]:
    """A DAGSTER_HOME with the project's dagster.yaml."""
    with tempfile.TemporaryDirectory() as home:
        project = Path(__file__).resolve().parents[1]
        shutil.copyfile(project / "dagster.yaml", Path(home) / "dagster.yaml")
        yield home


def environment(url: str, home: str) -> dict[str, str]:
    """What the environment of everything here says besides."""
    return {
        "DAGSTER_HOME": home,
        "LB_HOME": home,
        "LB_DATABASE_URL": url,
        "LB_DAGSTER_DATABASE_URL": dagster_storage_url(url),
        "LB_START_DAY": os.environ.get("LB_START_DAY", START_DAY.isoformat()),
    }


@contextmanager
def webserver(url: str, home: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Its address and process, once it has loaded the definitions."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-m", "dagster_webserver", "-m", "lb_pipelines.definitions",
        "--port", str(port), "--host", "127.0.0.1",
    ]  # fmt: skip
    process = subprocess.Popen(
        command,
        env={**os.environ, **environment(url, home)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        began = time.perf_counter()
        while True:
            try:
                ask(address, "{ repositoriesOrError { __typename } }", {})
                break
            except OSError:
                time.sleep(0.2)
        print(f"webserver up in {time.perf_counter() - began:.1f} s\n")
        yield address, process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


if __name__ == "__main__":
    main()
