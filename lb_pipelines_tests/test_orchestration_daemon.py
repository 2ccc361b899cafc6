"""As in production: code server, daemon, webserver and runs in processes of their own.

What the UI does goes through GraphQL; Dagster's own state lies in the database under test, by the
project's `dagster.yaml`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

import pytest
import sqlalchemy
from dagster import DagsterEventType, DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter

from lb_pipelines.core.periods import DayRange
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import institutions
from lb_pipelines.materialize.staleness import find_stale_days
from lb_pipelines.orchestration.build import build_defs
from lb_pipelines.orchestration.jobs import DAILY_ASSETS
from lb_pipelines.orchestration.partitions import INSTITUTION, Rectangle, partition_key
from lb_pipelines.orchestration.retention_sensor import RETENTION_SENSOR
from lb_pipelines.settings import DAGSTER_SCHEMA, dagster_storage_url
from lb_pipelines_tests.orchestration_district import add_institution
from lb_pipelines_tests.receivers import HttpReceiver
from lb_pipelines_tests.waiting import LIMIT_SECONDS, wait_until

# Daemon, schedules and sensors go by the present.
pytestmark = pytest.mark.present

PROJECT = Path(__file__).resolve().parents[1]
APRIL = DayRange(date(2024, 4, 1), date(2024, 4, 30))
FEW = DayRange(date(2024, 4, 1), date(2024, 4, 8))
MAY = DayRange(date(2024, 5, 1), date(2024, 5, 2))
# These days are long ago: boards that are not to be archived say so.
FOR_EVER = {"weekly": 36_500, "monthly": 36_500, "term": 36_500, "all-time": 36_500}
MENDED = json.dumps({"leaderboardRetention": {**FOR_EVER, "daily": 36_500}})
BROKEN = json.dumps({**json.loads(MENDED), "leaderboardRanking": "best"})
EXPIRING = json.dumps({"leaderboardRetention": {**FOR_EVER, "daily": 30}})
# The daemon itself, but looking after backfills every second and not every thirty.
DAEMON = """
from dagster._daemon import cli, controller
controller.DEFAULT_DAEMON_INTERVAL_SECONDS = 1
cli.main()
"""
LAUNCH = """
mutation ($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message stack }
  }
}"""
RELAUNCH = """
mutation ($params: ReexecutionParams!) {
  reexecutePartitionBackfill(reexecutionParams: $params) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message stack }
  }
}"""
RUN = """
mutation ($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { id } }
    ... on PythonError { message stack }
  }
}"""
RERUN = """
mutation ($params: ReexecutionParams!) {
  launchRunReexecution(reexecutionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { id } }
    ... on PythonError { message stack }
  }
}"""
BACKFILL = """
query ($id: String!) {
  partitionBackfillOrError(backfillId: $id) {
    ... on PartitionBackfill {
      status
      assetBackfillData { assetBackfillStatuses {
        ... on AssetPartitionsStatusCounts {
          assetKey { path } numPartitionsTargeted numPartitionsMaterialized numPartitionsFailed
        }
      } }
    }
  }
}"""


T = TypeVar("T")


class Dagster:
    """Everything that Dagster runs for one database."""

    def __init__(self, database: Database, home: Path) -> None:
        self.database = database
        self.home = home
        url = database.url.render_as_string(hide_password=False)
        with database.transaction() as connection:
            connection.execute(f"CREATE SCHEMA {DAGSTER_SCHEMA}")
        shutil.copyfile(PROJECT / "dagster.yaml", home / "dagster.yaml")
        # What moves the clock of processes is found there (see `dates`).
        inherited = filter(None, [os.environ.get("PYTHONPATH")])
        self.environment = {
            "DAGSTER_HOME": str(home),
            "LB_DATABASE_URL": url,
            "LB_DAGSTER_DATABASE_URL": dagster_storage_url(url),
            "LB_START_DAY": "2024-01-01",
            "PYTHONPATH": os.pathsep.join([str(PROJECT), *inherited]),
        }
        self._processes: list[subprocess.Popen[bytes]] = []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    def start(self) -> None:
        socket_path = f"{self.home}/code"
        workspace = self.home / "workspace.yaml"
        server = {"grpc_server": {"socket": socket_path, "location_name": "lb_pipelines"}}
        workspace.write_text(json.dumps({"load_from": [server]}))
        self.spawn(
            "code_server", "-m", "dagster", "api", "grpc", "--socket", socket_path,
            "-m", "lb_pipelines.definitions", "--location-name", "lb_pipelines",
        )  # fmt: skip
        self.wait("code server", Path(socket_path).exists)
        self.spawn(
            "webserver", "-m", "dagster_webserver", "-w", str(workspace), "-p", str(self.port)
        )
        daemon = self.home / "daemon.py"
        daemon.write_text(DAEMON)
        self.spawn("daemon", str(daemon), "run", "-w", str(workspace))
        self.wait("webserver", self._up)

    def spawn(self, name: str, *command: str) -> None:
        with (self.home / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *command],
                env={**os.environ, **self.environment},
                cwd=PROJECT,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._processes.append(process)

    def stop(self) -> None:
        for process in self._processes:
            # With the processes of its runs; their database goes too.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def wait(self, what: str, ask: Callable[[], T]) -> T:
        """Ask until it is there; fail once a process that could bring it has ended."""

        def ask_and_watch() -> T:
            answer = ask()
            if not answer and any(process.poll() is not None for process in self._processes):
                logs = "\n".join(log.read_text()[-3000:] for log in self.home.glob("*.log"))
                pytest.fail(f"a process has ended, so {what} will not come\n{logs}")
            return answer

        return wait_until(ask_and_watch, pause=0.2)

    def _up(self) -> bool:
        try:
            return bool(self.ask("{ version }"))
        except (urllib.error.URLError, ConnectionError):
            return False

    def ask(self, query: str, **variables: object) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/graphql",
            json.dumps({"query": query, "variables": variables}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=LIMIT_SECONDS) as answer:
            body = json.load(answer)
        assert not body.get("errors"), body
        [(_, value)] = body["data"].items()
        return value

    def backfill(self, mutation: str, **params: object) -> tuple[str, dict[str, tuple[int, ...]]]:
        """Start one and wait for its end: status, and by asset what the UI's page counts."""
        launched = self.ask(mutation, params=params)
        assert launched["__typename"] == "LaunchBackfillSuccess", launched
        self.last_backfill = launched["backfillId"]

        def ended() -> Any:
            state = self.ask(BACKFILL, id=self.last_backfill)
            return state if state["status"].startswith("COMPLETED") else None

        state = self.wait("end of the backfill", ended)
        return state["status"], {
            counts["assetKey"]["path"][0]: (
                counts["numPartitionsTargeted"],
                counts["numPartitionsMaterialized"],
                counts["numPartitionsFailed"],
            )
            for counts in state["assetBackfillData"]["assetBackfillStatuses"]
        }

    def run(self, instance: DagsterInstance, mutation: str, **params: object) -> DagsterRun:
        """Start a run and wait for its end."""
        launched = self.ask(mutation, params=params)
        assert launched["__typename"] == "LaunchRunSuccess", launched

        def ended() -> DagsterRun | None:
            run = instance.get_run_by_id(launched["run"]["id"])
            return run if run is not None and run.is_finished else None

        run = self.wait("end of the run", ended)
        assert isinstance(run, DagsterRun)
        return run

    def set_metadata(self, id: str, metadata: str) -> None:
        with self.database.transaction() as connection:
            connection.execute(
                "UPDATE lb.institutions SET metadata = %s WHERE id = %s", (metadata, id)
            )

    def writers(self, id: str, days: DayRange) -> set[str]:
        """The runs that the database has as the last ones on any day of an institution."""
        with self.database.transaction() as connection:
            rows = connection.execute(
                "SELECT DISTINCT run_id FROM lb.materialized_days JOIN lb.institutions"
                " USING (institution_key) WHERE id = %s AND day BETWEEN %s AND %s",
                (id, days.first, days.last),
            ).fetchall()
        return {run_id for (run_id,) in rows}


@pytest.fixture
def dagster(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Dagster]:
    # A Unix socket's path has to be short.
    home = Path(f"/tmp/lb-{os.getpid()}-{time.monotonic_ns()}")
    home.mkdir()
    running = Dagster(database, home)
    for name, value in running.environment.items():
        monkeypatch.setenv(name, value)
    yield running
    running.stop()
    shutil.rmtree(home)


@pytest.fixture
def hook() -> Iterator[HttpReceiver]:
    with HttpReceiver.listening() as receiver:
        yield receiver


def test_what_failed_is_done_alone_when_it_is_done_again(
    dagster: Dagster, hook: HttpReceiver
) -> None:
    database = dagster.database
    dagster.environment["LB_ALERT_WEBHOOK_URL"] = hook.url
    dagster.environment["LB_UI_URL"] = f"http://127.0.0.1:{dagster.port}"
    add_institution(database, "broken", days=APRIL, students=3, metadata=BROKEN)
    add_institution(database, "good", days=APRIL, students=3, metadata=MENDED)
    dagster.start()
    with DagsterInstance.get() as instance:
        # The institutions sensor is on from the start.
        dagster.wait("partitions", lambda: len(instance.get_dynamic_partitions(INSTITUTION)) == 2)
        order = instance.get_dynamic_partitions(INSTITUTION)

        # A backfill, as an asset's page starts it.
        status, counts = dagster.backfill(
            LAUNCH,
            assetSelection=[{"path": [name]} for name in DAILY_ASSETS],
            partitionNames=[partition_key(day, id) for day in APRIL for id in order],
        )
        assert status == "COMPLETED_FAILED"
        assert counts == dict.fromkeys(DAILY_ASSETS, (60, 30, 30))
        writers = dagster.writers("good", APRIL)
        dagster.set_metadata("good", EXPIRING)
        dagster.set_metadata("broken", MENDED)
        status, counts = dagster.backfill(
            RELAUNCH, parentRunId=dagster.last_backfill, strategy="FROM_FAILURE"
        )
        assert status == "COMPLETED_SUCCESS"
        assert counts == dict.fromkeys(DAILY_ASSETS, (30, 30, 0))
        assert dagster.writers("good", APRIL) == writers
        with database.transaction() as connection:
            boards = connection.execute(
                "SELECT institution_id, count(*) FROM lb.leaderboard_snapshots"
                " WHERE snapshot_date BETWEEN %s AND %s GROUP BY 1",
                (APRIL.first, APRIL.last),
            ).fetchall()
        # Two classes, a subject and a campus, each with five boards a day.
        assert dict(boards) == dict.fromkeys(order, 30 * 4 * 5)

        # One run over many partitions, as the schedule starts it, and its re-execution.
        dagster.set_metadata("broken", BROKEN)
        rectangle = Rectangle(MAY, order[0], order[-1])
        failed = dagster.run(
            instance,
            RUN,
            selector={
                "jobName": "daily_leaderboards",
                "repositoryName": "__repository__",
                "repositoryLocationName": "lb_pipelines",
            },
            executionMetadata={
                "tags": [{"key": key, "value": value} for key, value in rectangle.tags.items()]
            },
        )
        assert failed.status == DagsterRunStatus.FAILURE
        dagster.set_metadata("broken", MENDED)
        resumed = dagster.run(instance, RERUN, parentRunId=failed.run_id, strategy="FROM_FAILURE")
        assert resumed.status == DagsterRunStatus.SUCCESS
        assert dagster.writers("broken", MAY) == {resumed.run_id}
        assert dagster.writers("good", MAY) == {failed.run_id}

        # Meanwhile the retention sensor has seen what expired, and has it archived.
        archived = dagster.wait("the sensor's run", lambda: _ended_sweeps(instance))
        assert {run.status for run in archived} == {DagsterRunStatus.SUCCESS}
        assert {run.tags["leaderboards/institution"] for run in archived} == {"good"}
        assert {run.tags["leaderboards/granularity"] for run in archived} == {"daily"}
        with database.transaction() as connection:
            moved = connection.execute(
                "SELECT institution_id, s.time_granularity, s.status, count(a.original_id)"
                " FROM lb.leaderboard_snapshots s LEFT JOIN lb.archived_leaderboard_snapshots a"
                " USING (institution_id, snapshot_date, type, reference_id, time_granularity)"
                " WHERE snapshot_date <= %s AND time_granularity = 'daily' GROUP BY 1, 2, 3",
                (APRIL.last,),
            ).fetchall()
            ledger = connection.execute(
                "SELECT DISTINCT run_id FROM lb.archive_runs WHERE rows > 0"
            ).fetchall()
        assert sorted(moved) == [
            ("broken", "daily", "ACTIVE", 0), ("good", "daily", "ARCHIVED", 30 * 4),
        ]  # fmt: skip
        assert {run_id for (run_id,) in ledger} == {run.run_id for run in archived}

        # And whoever is to be told of the failed run has been told, by the daemon's own ticks.
        def alerts() -> list[Any]:
            return [told for told in hook.got if told["runId"] == failed.run_id]

        [told] = dagster.wait("the alert", alerts)
        assert [row["institution"] for row in told["institutions"]] == ["broken"]
        assert told["runUrl"] == f"http://127.0.0.1:{dagster.port}/runs/{failed.run_id}"
        with urllib.request.urlopen(told["runUrl"], timeout=LIMIT_SECONDS) as page:
            assert page.status == 200


def _ended_sweeps(instance: DagsterInstance) -> list[DagsterRun]:
    """The runs that the retention sensor has asked for, when there is one and all have ended."""
    runs = instance.get_runs(RunsFilter(tags={"dagster/sensor_name": RETENTION_SENSOR}))
    return list(runs) if all(run.is_finished for run in runs) else []


def test_dagster_keeps_its_connections(dagster: Dagster) -> None:
    add_institution(dagster.database, "a", days=FEW, students=3)
    opened = 0

    def count(connection: object, _: object) -> None:
        nonlocal opened
        # Dagster's storage speaks psycopg2, the project psycopg.
        opened += type(connection).__module__.startswith("psycopg2")

    sqlalchemy.event.listen(sqlalchemy.engine.Engine, "connect", count)
    try:
        with DagsterInstance.get() as instance:
            instance.add_dynamic_partitions(INSTITUTION, ["a"])
            job = build_defs().resolve_job_def("daily_leaderboards")
            beforehand = opened
            job.execute_in_process(instance=instance, tags=Rectangle(FEW, "a", "a").tags)
    finally:
        sqlalchemy.event.remove(sqlalchemy.engine.Engine, "connect", count)
    # For 56 materializations: where none is kept, over 150.
    assert opened - beforehand < 5


EXECUTE = """
import sys
from dagster import DagsterInstance
from lb_pipelines.definitions import defs
from lb_pipelines.orchestration import recording
from lb_pipelines.orchestration.partitions import RANGE_END_TAG, RANGE_START_TAG
recording.AT_ONCE = 20  # So that there is something to see, and something left, when it is killed.
with DagsterInstance.get() as instance:
    defs.resolve_job_def("daily_leaderboards").execute_in_process(
        instance=instance, tags={RANGE_START_TAG: sys.argv[1], RANGE_END_TAG: sys.argv[2]}
    )
"""


def test_a_run_that_is_killed_is_resumed_where_it_was(dagster: Dagster) -> None:
    ids = ["a", "b", "c"]
    for id in ids:
        add_institution(dagster.database, id, days=FEW, students=3)
    rectangle = Rectangle(FEW, "a", "c")
    script = dagster.home / "execute.py"
    script.write_text(EXECUTE)
    with DagsterInstance.get() as instance:
        instance.add_dynamic_partitions(INSTITUTION, ids)
        victim = subprocess.Popen(
            [sys.executable, str(script), *rectangle.tags.values()],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

        def recorded(run_id: str) -> set[tuple[str, str]]:
            entries = instance.all_logs(run_id, of_type=DagsterEventType.ASSET_MATERIALIZATION)
            return {
                (event.asset_key.to_user_string(), str(event.partition))
                for entry in entries
                if (event := entry.asset_materialization) is not None
            }

        try:
            dagster.wait(
                "some days of the second asset",
                lambda: (runs := instance.get_runs()) and len(recorded(runs[0].run_id)) > 30,
            )
        finally:
            victim.kill()
            victim.wait()
        [killed] = instance.get_runs()
        before = recorded(killed.run_id)
        instance.report_run_failed(killed)
        everything = {
            (asset, str(partition_key(day, id)))
            for asset in DAILY_ASSETS
            for day in FEW
            for id in ids
        }
        assert before < everything
        resumed = (
            build_defs()
            .resolve_job_def("daily_leaderboards")
            .execute_in_process(
                instance=instance,
                tags={
                    **rectangle.tags,
                    "dagster/parent_run_id": killed.run_id,
                    "dagster/root_run_id": killed.run_id,
                    "dagster/is_resume_retry": "true",
                },
            )
        )
        assert resumed.dagster_run.status == DagsterRunStatus.SUCCESS
        assert recorded(resumed.run_id) == everything
        with dagster.database.transaction() as connection:
            rows = connection.execute(
                "SELECT asset, id, day FROM lb.materialized_days JOIN lb.institutions"
                " USING (institution_key) WHERE run_id = %s",
                (killed.run_id,),
            ).fetchall()
        kept = {(asset, str(partition_key(day, id))) for asset, id, day in rows}
        # What was recorded is kept, to the day; a day that was committed and not recorded was
        # done again, so it is the resumed run's.
        assert kept & everything == before


@pytest.mark.present
def test_a_changed_setting_is_answered_by_a_run_of_what_it_can_touch(dagster: Dagster) -> None:
    """By the daemon's own sensor: the assets and days that another limit touches, no others."""
    add_institution(dagster.database, "a", days=FEW, students=3)
    with DagsterInstance.get() as instance:
        instance.add_dynamic_partitions(INSTITUTION, ["a"])
        made = (
            build_defs()
            .resolve_job_def("daily_leaderboards")
            .execute_in_process(instance=instance, tags=Rectangle(FEW, "a", "a").tags)
        )
        assert made.success
        dagster.set_metadata("a", '{"leaderboardLimits": {"CLASS": {"weekly": 1}}}')
        dagster.start()

        def ended() -> DagsterRun | None:
            of_sensor = RunsFilter(tags={"dagster/sensor_name": "late_events_sensor"})
            runs = instance.get_runs(filters=of_sensor)
            return runs[0] if runs and runs[0].is_finished else None

        run = dagster.wait("the end of the sensor's run", ended)
        assert run is not None
        assert run.status == DagsterRunStatus.SUCCESS
        entries = instance.all_logs(run.run_id, of_type=DagsterEventType.ASSET_MATERIALIZATION)
        recorded = {
            (event.asset_key.to_user_string(), str(event.partition))
            for entry in entries
            if (event := entry.asset_materialization) is not None
        }
        assert recorded == {
            (asset, str(partition_key(day, "a")))
            for asset in ("class_snapshots", "class_trends")
            for day in FEW
        }
    with dagster.database.transaction() as connection:
        institution = institutions.find(connection, "a")
    assert find_stale_days(dagster.database, institution) == {}
