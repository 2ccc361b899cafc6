"""How long pruning Dagster's own history takes, how much goes, and what asking for it costs.

Makes up a history in the database that `--url` names, which should be empty: months of runs of the
project's own shape, a run a day over all institutions with its planned and made partitions, check
verdicts and log; every fourth day is made twice, as late events do. Then the job itself, through a
Dagster instance that keeps its tables there: its dry run, then for good, then again.

    python benchmarks/history_pruning.py --url postgresql://... [--days 400] [--institutions 20]
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from dagster import AssetKey, DagsterInstance, RunConfig

from lb_pipelines.db.engine import Database
from lb_pipelines.orchestration.build import build_defs
from lb_pipelines.orchestration.history_pruning import HISTORY_PRUNING, PruningConfig
from lb_pipelines.orchestration.jobs import DAILY_ASSETS
from lb_pipelines.settings import DAGSTER_SCHEMA, Settings, dagster_storage_url

PROJECT = Path(__file__).resolve().parents[1]
# A run over 20 institutions says about so much besides its partitions; a materialization's event
# with its tables is about so long.
LINES, BODY = 60, 3_000

_RUNS = """
INSERT INTO runs (run_id, pipeline_name, status, run_body, create_timestamp, update_timestamp,
                  start_time, end_time)
SELECT run, 'daily_leaderboards', 'SUCCESS', '{}', at, at,
       extract(epoch FROM at), extract(epoch FROM at) + 60
FROM history;
"""
_EVENTS = """
INSERT INTO event_logs (run_id, event, dagster_event_type, timestamp, asset_key, partition)
SELECT run, repeat('x', CASE kind WHEN 'ASSET_MATERIALIZATION' THEN %(body)s ELSE 600 END),
       kind, at, '["' || asset || '"]', day || '|inst_' || institution
FROM (SELECT DISTINCT run, day, at FROM history) AS runs,
     unnest(ARRAY['ASSET_MATERIALIZATION_PLANNED', 'ASSET_MATERIALIZATION'])
         WITH ORDINALITY AS kinds (kind, place),
     unnest(%(assets)s::text[]) AS asset, generate_series(1, %(institutions)s) AS institution
ORDER BY at, place;
INSERT INTO event_logs (run_id, event, dagster_event_type, timestamp)
SELECT run, repeat('x', 600), CASE WHEN n <= 4 THEN (ARRAY['PIPELINE_START', 'STEP_START',
       'STEP_SUCCESS', 'PIPELINE_SUCCESS'])[n] WHEN n < 30 THEN 'ENGINE_EVENT' END, at
FROM history, generate_series(1, %(lines)s) AS n;
INSERT INTO asset_event_tags (event_id, asset_key, key, value, event_timestamp)
SELECT id, asset_key, 'dagster/partition/' || dimension,
       split_part(partition, '|', position), timestamp
FROM event_logs, (VALUES ('day', 1), ('institution', 2)) AS dimensions (dimension, position)
WHERE dagster_event_type = 'ASSET_MATERIALIZATION';
INSERT INTO asset_check_executions (asset_key, check_name, partition, run_id, execution_status,
                                    evaluation_event, evaluation_event_timestamp)
SELECT asset_key, 'ranks_agree_with_points', partition, run_id, 'SUCCEEDED', repeat('x', 900),
       timestamp
FROM event_logs
WHERE dagster_event_type = 'ASSET_MATERIALIZATION' AND asset_key LIKE '%%snapshots%%'
ORDER BY id;
INSERT INTO job_ticks (job_origin_id, selector_id, status, type, timestamp, tick_body)
SELECT 'sensor', 'sensor', 'SKIPPED', 'SENSOR', at, repeat('x', 800)
FROM generate_series(now() AT TIME ZONE 'UTC' - %(days)s * interval '1 day',
                     now() AT TIME ZONE 'UTC', interval '30 minutes') AS at;
"""


def main() -> None:
    """Make up a history, prune it, and say what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--days", type=int, default=400)
    parser.add_argument("--institutions", type=int, default=20)
    given = parser.parse_args()
    database = Database(given.url)
    with database.transaction() as connection:
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {DAGSTER_SCHEMA}")
    with instance_in(given.url) as instance:
        fill(given.url, given.days, given.institutions)
        count(given.url, "made up")
        green = len(instance.get_materialized_partitions(AssetKey(DAILY_ASSETS[0])))
        defs = build_defs(settings=Settings(home=Path("/nowhere")), now=lambda: datetime.now(UTC))
        for what, dry_run in (("dry run", True), ("for good", False), ("again", False)):
            started = time.perf_counter()
            result = defs.resolve_job_def(HISTORY_PRUNING).execute_in_process(
                instance=instance,
                run_config=RunConfig(ops={"prune_history": PruningConfig(dry_run=dry_run)}),
            )
            seconds = time.perf_counter() - started
            [output] = [e for e in result.all_events if e.event_type_value == "STEP_OUTPUT"]
            told = {
                name: output.step_output_data.metadata[name].value
                for name in ("old_runs", "events", "check_verdicts", "runs", "ticks", "bytes")
            }
            print(f"{what}: {seconds:.1f} s, {told}")
        count(given.url, "left")
        left = len(instance.get_materialized_partitions(AssetKey(DAILY_ASSETS[0])))
        print(f"green partitions of {DAILY_ASSETS[0]}: {green:,} before, {left:,} after")


@contextmanager
def instance_in(url: str) -> Iterator[DagsterInstance]:
    """Dagster with its tables in the database."""
    os.environ["LB_DAGSTER_DATABASE_URL"] = dagster_storage_url(url)
    with tempfile.TemporaryDirectory() as home:
        shutil.copyfile(PROJECT / "dagster.yaml", Path(home) / "dagster.yaml")
        with DagsterInstance.from_config(home) as instance:
            instance.get_runs(limit=1)
            instance.all_logs("none")
            yield instance


def fill(url: str, days: int, institutions: int) -> None:
    """Runs, events, tags, verdicts and ticks, oldest first."""
    database = Database(dagster_storage_url(url))
    values = {
        "days": days,
        "institutions": institutions,
        "assets": DAILY_ASSETS,
        "lines": LINES,
        "body": BODY,
    }
    with database.transaction() as connection:
        connection.execute(
            "CREATE TEMP TABLE history AS SELECT gen_random_uuid()::text AS run,"
            " (current_date - n)::text AS day, (now() AT TIME ZONE 'UTC')"
            " - n * interval '1 day' + again * interval '6 hours' AS at"
            " FROM generate_series(1, %(days)s) AS n, generate_series(0, 1) AS again"
            " WHERE again = 0 OR n %% 4 = 0 ORDER BY n DESC, again",
            values,
        )
        for statement in (_RUNS + _EVENTS).split(";\n"):
            if statement.strip():
                connection.execute(statement, values)
    with database.autocommit() as connection:
        connection.execute("VACUUM ANALYZE")
    database.close()


def count(url: str, what: str) -> None:
    """One line: how many rows there are, and how large they are on disk."""
    database = Database(dagster_storage_url(url))
    tables = ("event_logs", "asset_event_tags", "asset_check_executions", "runs", "job_ticks")
    with database.transaction() as connection:
        rows = []
        for table in tables:
            found = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
            rows.append(f"{table} {found[0]:,}" if found else table)
    print(f"{what}: {', '.join(rows)}")
    database.close()


if __name__ == "__main__":
    main()
