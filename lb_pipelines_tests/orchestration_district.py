"""A small district written straight into the tables, for the tests of the Dagster layer; and a
Dagster that runs over it.

Each institution has two classes of one subject on one campus and a few students, who get points
on every day of a range; what the points are is of no interest here.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from dagster import (
    AssetKey,
    DagsterEventType,
    DagsterInstance,
    Definitions,
    ExecuteInProcessResult,
    RetryPolicy,
    RunConfig,
)
from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value

from lb_pipelines.core.periods import DayRange
from lb_pipelines.db import partitions
from lb_pipelines.db.engine import Database
from lb_pipelines.orchestration.assets.leaderboards import LEADERBOARDS
from lb_pipelines.orchestration.build import build_defs
from lb_pipelines.orchestration.config import LeaderboardsConfig
from lb_pipelines.orchestration.partitions import INSTITUTION, Rectangle, leaderboard_partitions
from lb_pipelines.orchestration.resources import LeaderboardDatabase
from lb_pipelines.settings import DAGSTER_SCHEMA, Settings, dagster_storage_url

PROJECT = Path(__file__).resolve().parents[1]
START = date(2024, 1, 1)

DAYS = DayRange(date(2024, 3, 25), date(2024, 4, 12))


def add_institution(
    database: Database,
    id: str,
    *,
    zone: str = "UTC",
    students: int = 6,
    days: DayRange = DAYS,
    metadata: str = "{}",
    status: str = "ACTIVE",
) -> None:
    """One institution with a term that holds all its days."""
    partitions.ensure_event_months(database, days.first, days.last)
    names = {"id": id, "first": days.first, "last": days.last, "students": students}
    with database.transaction() as connection:
        connection.execute(
            "INSERT INTO lb.institutions (id, name, status, time_zone, metadata)"
            " VALUES (%s, %s, %s, %s, %s)",
            (id, f"School {id}", status, zone, metadata),
        )
        for table in ("campuses", "subjects"):
            connection.execute(
                f"INSERT INTO lb.{table} (institution_key, id, name)"
                " SELECT institution_key, 'one', 'The only one' FROM lb.institutions WHERE id = %s",
                (id,),
            )
        connection.execute(
            "INSERT INTO lb.terms (institution_key, id, name, starts_on, ends_on)"
            " SELECT institution_key, 'spring', 'Spring', %(first)s, %(last)s"
            " FROM lb.institutions WHERE id = %(id)s",
            names,
        )
        connection.execute(
            "INSERT INTO lb.classes (institution_key, id, name, subject_key, campus_key, term_key)"
            " SELECT institution_key, class, 'Class ' || class, subject_key, campus_key, term_key"
            " FROM lb.institutions i JOIN lb.subjects USING (institution_key)"
            " JOIN lb.campuses USING (institution_key) JOIN lb.terms USING (institution_key),"
            " (VALUES ('a'), ('b')) AS made (class) WHERE i.id = %(id)s",
            names,
        )
        connection.execute(
            "INSERT INTO lb.students (institution_key, id)"
            " SELECT institution_key, 'student-' || n FROM lb.institutions,"
            " generate_series(1, %(students)s) AS n WHERE id = %(id)s",
            names,
        )
        connection.execute(
            "INSERT INTO lb.enrollments (institution_key, class_key, student_key)"
            " SELECT institution_key, class_key, student_key FROM lb.institutions i"
            " JOIN lb.classes USING (institution_key) JOIN lb.students s USING (institution_key)"
            " WHERE i.id = %(id)s",
            names,
        )
        connection.execute(
            "INSERT INTO lb.student_points (occurred_at, institution_key, student_key, class_key,"
            " subject_key, campus_key, amount, event_id)"
            " SELECT (day + time '12:00') AT TIME ZONE i.time_zone_or_utc, institution_key,"
            " student_key, class_key, subject_key, campus_key,"
            " (student_key * 7 + class_key * 3 + extract(doy FROM day)::integer) %% 11 - 2,"
            " day || '/' || student_key || '/' || class_key"
            " FROM (SELECT *, CASE WHEN EXISTS (SELECT FROM pg_timezone_names z"
            "       WHERE z.name = time_zone) THEN time_zone ELSE 'UTC' END AS time_zone_or_utc"
            "       FROM lb.institutions) i"
            " JOIN lb.classes USING (institution_key) JOIN lb.students s USING (institution_key),"
            " generate_series(%(first)s::date, %(last)s::date, interval '1 day') AS day"
            " WHERE i.id = %(id)s",
            names,
        )


def add_event(database: Database, id: str, day: date, amount: int) -> None:
    """An event of the first student of class a, at noon UTC, that comes in now."""
    with database.transaction() as connection:
        connection.execute(
            "INSERT INTO lb.student_points (occurred_at, institution_key, student_key, class_key,"
            " subject_key, campus_key, amount, event_id)"
            " SELECT (%(day)s::date + time '12:00') AT TIME ZONE 'UTC', institution_key,"
            " min(student_key), min(class_key), min(subject_key), min(campus_key), %(amount)s,"
            " gen_random_uuid()"
            " FROM lb.institutions i JOIN lb.classes USING (institution_key)"
            " JOIN lb.students s USING (institution_key) WHERE i.id = %(id)s"
            " GROUP BY institution_key",
            {"id": id, "day": day, "amount": amount},
        )


@contextmanager
def instance_in(database: Database, home: Path) -> Iterator[DagsterInstance]:
    """A Dagster instance whose tables lie in the database, by the project's dagster.yaml."""
    with database.transaction() as connection:
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {DAGSTER_SCHEMA}")
    shutil.copyfile(PROJECT / "dagster.yaml", home / "dagster.yaml")
    url = dagster_storage_url(database.url.render_as_string(hide_password=False))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("LB_DAGSTER_DATABASE_URL", url)
        with DagsterInstance.from_config(str(home)) as instance:
            yield instance


class District:
    """Institutions in a database, and a Dagster instance that knows them as partitions."""

    def __init__(self, database: Database, instance: DagsterInstance, settings: Settings) -> None:
        self.database = database
        self.instance = instance
        self.settings = settings
        self.now = datetime(2024, 5, 1, tzinfo=UTC)
        self.retries = RetryPolicy(max_retries=0)

    def add(self, *ids: str, zone: str = "UTC", metadata: str = "{}") -> None:
        for id in ids:
            add_institution(self.database, id, zone=zone, metadata=metadata, students=4)
        self.instance.add_dynamic_partitions(INSTITUTION, list(ids))

    def set_metadata(self, id: str, metadata: str) -> None:
        with self.database.transaction() as connection:
            connection.execute(
                "UPDATE lb.institutions SET metadata = %s WHERE id = %s", (metadata, id)
            )

    @property
    def defs(self) -> Definitions:
        url = self.database.url.render_as_string(hide_password=False)
        return build_defs(
            settings=self.settings,
            resource_overrides={"leaderboard_database": LeaderboardDatabase(url=url)},
            now=lambda: self.now,
            retries=self.retries,
        )

    def run(
        self,
        rectangle: Rectangle,
        *,
        job: str = "daily_leaderboards",
        assets: list[str] | None = None,
        resumes: str | None = None,
        config: LeaderboardsConfig | None = None,
    ) -> ExecuteInProcessResult:
        tags = dict(rectangle.tags)
        if resumes is not None:
            tags |= {
                "dagster/parent_run_id": resumes,
                "dagster/root_run_id": resumes,
                "dagster/is_resume_retry": "true",
            }
        return self.defs.resolve_job_def(job).execute_in_process(
            instance=self.instance,
            tags=tags,
            raise_on_error=False,
            run_config=None if config is None else RunConfig(ops={LEADERBOARDS: config}),
            asset_selection=None if assets is None else [AssetKey(name) for name in assets],
        )

    def recorded(self, result: ExecuteInProcessResult) -> Counter[tuple[str, str]]:
        """(asset, partition) to how often the run recorded a materialization of it."""
        return Counter(
            (entry.asset_materialization.asset_key.to_user_string(), str(entry.partition))
            for entry in self.events(result, DagsterEventType.ASSET_MATERIALIZATION)
            if entry.asset_materialization is not None
            for entry.partition in [entry.asset_materialization.partition]
        )

    def statuses(self, asset: str) -> dict[str, set[str]]:
        """What the asset's page shows: partitions by status."""
        partitions = leaderboard_partitions(START)
        value = get_and_update_asset_status_cache_value(self.instance, AssetKey(asset), partitions)
        assert value is not None
        return {
            "green": set(
                value.deserialize_materialized_partition_subsets(partitions).get_partition_keys()
            ),
            "failed": set(
                value.deserialize_failed_partition_subsets(partitions).get_partition_keys()
            ),
        }

    def writer(self, asset: str, id: str, day: date) -> str | None:
        """The run that last worked on a day, as the database has it."""
        with self.database.transaction() as connection:
            row = connection.execute(
                "SELECT run_id FROM lb.materialized_days JOIN lb.institutions"
                " USING (institution_key) WHERE asset = %s AND id = %s AND day = %s",
                (asset, id, day),
            ).fetchone()
        return row and row[0]

    def events(self, result: ExecuteInProcessResult, type: DagsterEventType) -> list:
        """What the run recorded of one type."""
        return self.instance.all_logs(result.run_id, of_type=type)

    def failure(self, result: ExecuteInProcessResult) -> str:
        """What the run says at its end."""
        [event] = self.events(result, DagsterEventType.STEP_FAILURE)
        return event.dagster_event.step_failure_data.user_failure_data.description

    def log(self, result: ExecuteInProcessResult) -> list[str]:
        return [e.user_message for e in self.instance.all_logs(result.run_id) if e.level >= 20]
