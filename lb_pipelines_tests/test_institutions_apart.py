"""Institutions are broken in every known way: all others get from every sensor, schedule, job and
command what they always get, and the broken ones are named or get the same too.

Each asker is asked over copies of one small district: as it is, and with one institution broken in
each way, all at once.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from dagster import (
    AssetCheckKey,
    AssetKey,
    DagsterEventType,
    DagsterInstance,
    ExecuteInProcessResult,
    RetryPolicy,
    build_schedule_context,
    build_sensor_context,
)
from dagster._core.definitions.instigation_logger import InstigationLogger
from sqlalchemy.engine import URL

from lb_pipelines import clock
from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import DayRange
from lb_pipelines.db import each_institution
from lb_pipelines.db.each_institution import ask_each
from lb_pipelines.db.engine import Database
from lb_pipelines.db.partitions import maintenance
from lb_pipelines.db.partitions.moves import demote
from lb_pipelines.db.partitions.patience import Patience
from lb_pipelines.db.repositories import institutions
from lb_pipelines.errors import (
    DatabaseUnavailable,
    InstitutionLocked,
    LeaderboardError,
    UnreadableInstitution,
)
from lb_pipelines.orchestration.archive_checks import SETTINGS
from lb_pipelines.orchestration.checks import ON_TIME
from lb_pipelines.orchestration.jobs import DAILY_ASSETS
from lb_pipelines.orchestration.partitions import INSTITUTION, Rectangle
from lb_pipelines.retention.purging import purge
from lb_pipelines.settings import Settings
from lb_pipelines.supervisor.demo import Demo
from lb_pipelines_tests import commands
from lb_pipelines_tests.conftest import _Databases, libpq_url
from lb_pipelines_tests.orchestration_district import District, add_event, add_institution

START = date(2024, 3, 25)
EVENTS = DayRange(START, date(2024, 4, 2))
# The last of them is a Sunday, of which the pictures of its week are drawn.
MADE = DayRange(date(2024, 3, 29), date(2024, 3, 31))
NOW = datetime(2024, 4, 5, 12, tzinfo=UTC)
OTHERS = ("north", "south")
METADATA = {
    "leaderboardRetention": {"daily": 2, "term": 400, "all-time": 400},
    "leaderboardPurge": {"graceDays": 1},
}

Answers = dict[str, Any]
"""By institution id what was answered for it."""


class World(District):
    """The district in a database of the test's own."""

    def tick(self, kind: str, name: str) -> tuple[Any, str]:
        """The result of a sensor's or schedule's tick, and all that it says."""
        said: list[str] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(InstigationLogger, "info", lambda _, text: said.append(text))
            if kind == "sensor":
                sensor = self.defs.resolve_sensor_def(name)
                with build_sensor_context(
                    instance=self.instance, resources=self.defs.resources
                ) as context:
                    result = sensor.evaluate_tick(context)
            else:
                schedule = self.defs.resolve_schedule_def(name)
                with build_schedule_context(
                    instance=self.instance,
                    scheduled_execution_time=self.now,
                    resources=self.defs.resources,
                ) as context:
                    result = schedule.evaluate_tick(context)
        return result, " ".join([*said, str(result.skip_message or "")])

    def requested(self, result: Any) -> Answers:
        """By institution the days and assets of the runs that a tick asks for."""
        answers: Answers = {id: [] for id in IDS}
        for request in result.run_requests or []:
            rectangle = Rectangle.of_run(request.tags)
            assert rectangle is not None
            for id in rectangle.institutions(sorted(IDS)):
                for day in rectangle.days:
                    of_run = str(request.run_config), str(request.asset_selection)
                    answers[id].append((str(day), *of_run))
        return {id: sorted(of_one) for id, of_one in answers.items()}

    def job(self, name: str, **config: Any) -> ExecuteInProcessResult:
        job = self.defs.resolve_job_def(name)
        [node] = job.nodes
        return job.execute_in_process(
            instance=self.instance,
            run_config={"ops": {node.name: {"config": config}}} if config else None,
            raise_on_error=False,
        )

    def said_by(self, result: ExecuteInProcessResult) -> str:
        """The log, the tables, and the reason of a failure of a run."""
        lines = [e.user_message for e in self.instance.all_logs(result.run_id) if e.level >= 20]
        for entry in self.instance.all_logs(result.run_id):
            event = entry.dagster_event
            if event is None:
                continue
            data = event.event_specific_data
            metadata = dict(getattr(data, "metadata", None) or {})
            if event.event_type == DagsterEventType.STEP_FAILURE:
                failure = event.step_failure_data.user_failure_data
                assert failure is not None, event.step_failure_data.error_display_string
                lines.append(failure.description or "")
                metadata |= failure.metadata
            for value in metadata.values():
                lines += str(value.value).splitlines()
        return "\n".join(lines)


def of_lines(text: str) -> Answers:
    """By institution the lines that speak of it and no other."""
    answers: Answers = {id: [] for id in IDS}
    for line in text.splitlines():
        ids = [id for id in IDS if re.search(rf"\b{id}(?=\b|_)", line)]
        if len(ids) == 1:
            # Where exports lie, and numbers in ledgers.
            answers[ids[0]].append(re.sub(r"/\S+|\d+ \|$", "...", line))
    return {id: sorted(lines) for id, lines in answers.items()}


def of_json(answer: Any) -> Answers:
    """By institution the objects of it in what a command says, without what differs every time."""
    answers: Answers = {id: [] for id in IDS}

    def look(value: Any) -> None:
        if isinstance(value, list):
            for item in value:
                look(item)
        elif isinstance(value, dict):
            if value.get("institutionId") in answers and "remedy" not in value:
                kept = {k: v for k, v in value.items() if k not in VARYING}
                answers[value["institutionId"]].append(kept)
            else:
                look(list(value.values()))

    look(answer)
    return answers


VARYING = {
    "archiveRun",
    "exportDirectory",
    "finishedAt",
    "hold",
    "placedAt",
    "purge",
    "seconds",
    "startedAt",
}


# The askers: each gives its answers by institution, and what it says.

Asker = Callable[[World], tuple[Answers, str]]


def institutions_sensor(world: World) -> tuple[Answers, str]:
    for id in IDS:
        world.instance.delete_dynamic_partition(INSTITUTION, id)
    result, said = world.tick("sensor", "institutions_sensor")
    [request] = result.dynamic_partitions_requests
    return {id: id in request.partition_keys for id in IDS}, said.partition(".")[2]


def daily_schedule(world: World) -> tuple[Answers, str]:
    result, said = world.tick("schedule", "daily_leaderboards_schedule")
    return world.requested(result), said


def late_events_sensor(world: World) -> tuple[Answers, str]:
    result, said = world.tick("sensor", "late_events_sensor")
    return world.requested(result), said


def retention_sensor(world: World) -> tuple[Answers, str]:
    result, said = world.tick("sensor", "retention_sensor")
    return world.requested(result), said


def freshness_sensor(world: World) -> tuple[Answers, str]:
    result, said = world.tick("sensor", "freshness_sensor")
    table = "\n".join(e.metadata["not_complete"].value for e in result.asset_events)
    assert len(result.asset_events) == len(DAILY_ASSETS)
    return of_lines(table), f"{said} {table}"


def checks(world: World) -> tuple[Answers, str]:
    keys = {AssetCheckKey(AssetKey("class_snapshots"), ON_TIME)}
    keys.add(AssetCheckKey(AssetKey("archived_snapshots"), SETTINGS))
    job = world.defs.resolve_implicit_global_asset_job_def()
    result = job.get_subset(asset_selection=set(), asset_check_selection=keys).execute_in_process(
        instance=world.instance
    )
    found = [
        entry.dagster_event.asset_check_evaluation_data
        for entry in world.events(result, DagsterEventType.ASSET_CHECK_EVALUATION)
    ]
    assert len(found) == 2
    said = "\n".join(str(v.value) for one in found for v in one.metadata.values())
    return of_lines(said), said


def asked_by_job(name: str, **config: Any) -> Asker:
    def ask(world: World) -> tuple[Answers, str]:
        said = world.said_by(world.job(name, **config))
        return of_lines(said), said

    return ask


def daily_run(world: World) -> tuple[Answers, str]:
    result = world.run(Rectangle(DayRange(MADE.last, MADE.last), min(IDS), max(IDS)))
    recorded = world.recorded(result)
    assert set(recorded.values()) <= {1}
    return (
        {id: sorted(key for key in recorded if key[1].endswith(f"|{id}")) for id in IDS},
        world.said_by(result),
    )


def weekly_insight(world: World) -> tuple[Answers, str]:
    result = world.defs.resolve_job_def("weekly_insight").execute_in_process(
        instance=world.instance,
        tags={
            "dagster/asset_partition_range_start": f"{min(IDS)}|2024-03-25",
            "dagster/asset_partition_range_end": f"{max(IDS)}|2024-03-25",
        },
        raise_on_error=False,
    )
    recorded = world.recorded(result)
    return (
        {id: [key for key in recorded if key[1].startswith(f"{id}|")] for id in IDS},
        world.said_by(result),
    )


def demo(world: World) -> tuple[Answers, str]:
    found = Demo(world.database, Path(world.settings.home) / "note").missing(NOW)
    # What is wrong with an institution, its run says.
    return {id: found.get(id) for id in IDS}, str(IDS)


def commanded(*words: str) -> Asker:
    def ask(world: World) -> tuple[Answers, str]:
        result = commands.run(*words, "--json")
        assert result.exit_code in (0, 1), result.output
        answer = json.loads(result.stdout)
        return of_json(answer), json.dumps(answer.get("refused", ""))

    return ask


ASKERS: dict[str, Asker] = {
    "institutions_sensor": institutions_sensor,
    "daily_leaderboards_schedule": daily_schedule,
    "late_events_sensor": late_events_sensor,
    "retention_sensor": retention_sensor,
    "freshness_sensor": freshness_sensor,
    "checks": checks,
    "missing_partitions": asked_by_job("missing_partitions", last_day="2024-04-02"),
    "backfill_preview": asked_by_job(
        "backfill_preview", first_day="2024-03-29", last_day="2024-04-02"
    ),
    "purge_snapshots, dry": asked_by_job("purge_snapshots"),
    "purge_snapshots": asked_by_job("purge_snapshots", dry_run=False),
    "partition_maintenance, dry": asked_by_job("partition_maintenance"),
    "partition_maintenance": asked_by_job("partition_maintenance", dry_run=False),
    "daily_leaderboards": daily_run,
    "weekly_insight": weekly_insight,
    "make run": demo,
    "lb missing": commanded("missing", "--to", "2024-04-02"),
    "lb preview": commanded("preview", "--from", "2024-03-29", "--to", "2024-04-02"),
    "lb archive plan": commanded("archive", "plan"),
    "lb archive run": commanded("archive", "run", "--execute"),
    "lb archive verify": commanded("archive", "verify"),
    "lb archive runs": commanded("archive", "runs"),
    "lb hold list": commanded("hold", "list"),
    "lb purge plan": commanded("purge", "plan"),
    "lb purge run": commanded("purge", "run", "--execute"),
}


def archive_everything(database: Database) -> None:
    """Long ago, so that partitions may be purged."""
    commands.run("archive", "run", "--execute")
    with database.transaction() as connection:
        connection.execute(
            "UPDATE lb.archived_leaderboard_snapshots"
            " SET archived_at = archived_at - interval '9 days'"
        )


ON_ALL_ARCHIVED = {"purge_snapshots, dry", "purge_snapshots", "lb purge plan", "lb purge run"}


# The ways: each breaks the institution `id` as long as its block lasts.

Way = Callable[[World, str], AbstractContextManager[None]]


def by_sql(*statements: str) -> Way:
    @contextmanager
    def break_it(world: World, id: str) -> Iterator[None]:
        with world.database.transaction() as connection:
            for statement in statements:
                connection.execute(statement.format(id=id, key=KEY.format(id=id)))
        yield

    return break_it


def settings(**changed: Any) -> Way:
    text = json.dumps(METADATA | changed).replace("{", "{{").replace("}", "}}")
    return by_sql(f"UPDATE lb.institutions SET metadata = '{text}' WHERE id = '{{id}}'")


def zone(name: str) -> Way:
    return by_sql(f"UPDATE lb.institutions SET time_zone = '{name}' WHERE id = '{{id}}'")


def held_by_another_session(*statements: str) -> Way:
    @contextmanager
    def break_it(world: World, id: str) -> Iterator[None]:
        with psycopg.connect(libpq_url(world.database.url)) as other:
            for statement in statements:
                other.execute(statement.format(id=id, key=KEY.format(id=id)))
            yield
            other.rollback()

    return break_it


KEY = "(SELECT institution_key FROM lb.institutions WHERE id = '{id}')"
DAYS_OF_ALL_ASSETS = (
    "INSERT INTO lb.materialized_days (institution_key, asset, day, through_revision, boards,"
    " run_id, code_version, begins_at, ends_at)"
    " SELECT {key}, asset, '9999-12-31', 1, 1, 'by hand', '1', '9999-12-31', 'infinity'"
    " FROM (SELECT DISTINCT asset FROM lb.materialized_days) AS assets"
)
WAYS: dict[str, Way] = {
    "zone_of_a_machine": zone("localtime"),
    "zone_that_is_none": zone("Mars/Base"),
    "limits_of_a_wrong_type": settings(leaderboardLimits=[20]),
    "limits_wrong_inside": settings(leaderboardLimits={"CLASS": {"daily": {"N": 1e300}}}),
    "ranking_of_a_wrong_type": settings(leaderboardRanking={"method": ["dense"]}),
    "retention_of_a_wrong_type": settings(leaderboardRetention="long"),
    "retention_wrong_inside": settings(leaderboardRetention={"daily": [None]}),
    "purge_wrong_inside": settings(leaderboardPurge={"graceDays": {"days": -1}}),
    "partitions_locked": held_by_another_session(
        'LOCK TABLE lb_part."{id}:all", lb_part."{id}:all:trends" IN ACCESS EXCLUSIVE MODE',
    ),
    "rows_locked": held_by_another_session(
        "SELECT FROM lb.institutions WHERE id = '{id}' FOR UPDATE",
        "SELECT FROM lb.materialized_days WHERE institution_key = {key} FOR UPDATE",
        "SELECT FROM lb.input_changes WHERE institution_key = {key} FOR UPDATE",
        'SELECT FROM lb_part."{id}:all" FOR UPDATE',
    ),
    # Of writers, of aggregates, of loads, of the ledger of inputs, of purges. The lock of a run
    # (6c72) says that a run works on the institution, and another one waits for that.
    "hung_session": held_by_another_session(
        *(
            f"SELECT pg_advisory_xact_lock(x'{name}'::integer, {{key}})"
            for name in ("6c64", "6c62", "6c69", "6c76")
        ),
        "SELECT pg_advisory_xact_lock(hashtextextended('lb_pipelines:purge:{id}', 27746))",
    ),
    "dates_without_end": by_sql(
        DAYS_OF_ALL_ASSETS,
        "UPDATE lb.terms SET ends_on = 'infinity' WHERE institution_key = {key}",
        "UPDATE lb.institutions SET created_at = 'infinity' WHERE id = '{id}'",
        "INSERT INTO lb.legal_holds (institution_key, until, type, reason, placed_by)"
        " VALUES ({key}, 'infinity', 'CAMPUS', 'a case', 'a court')",
    ),
}
IDS = (*WAYS, *OTHERS)

_ZONES = {"zone_of_a_machine", "zone_that_is_none"}
_BOARDS = {"limits_of_a_wrong_type", "limits_wrong_inside", "ranking_of_a_wrong_type"}
_RETENTION = {"retention_of_a_wrong_type", "retention_wrong_inside", "purge_wrong_inside"}
_DATES = {"dates_without_end"}
_READ = {"partitions_locked"}
_WRITTEN = {"partitions_locked", "rows_locked", "hung_session"}
# Which of the broken ones get another answer than usual, or none.
CONCERNED: dict[str, set[str]] = {
    "institutions_sensor": set(),  # It places them as if in UTC.
    "daily_leaderboards_schedule": set(),  # Their runs say what is wrong, and fail.
    "late_events_sensor": _ZONES | _BOARDS | _DATES,
    "retention_sensor": _ZONES | _RETENTION | _READ,
    "freshness_sensor": _ZONES | _BOARDS | _DATES,
    "checks": _ZONES | _BOARDS | _RETENTION | _DATES,
    # Limits and rank methods that are others than those of the boards: these are stale.
    "missing_partitions": _ZONES | _BOARDS - {"limits_of_a_wrong_type"} | _DATES,
    "backfill_preview": _ZONES | _BOARDS | _READ | _DATES,
    "purge_snapshots, dry": _ZONES | _RETENTION | _READ | _DATES,
    "purge_snapshots": _ZONES | _RETENTION | _WRITTEN | _DATES,
    "partition_maintenance, dry": set(),
    "partition_maintenance": _READ,
    "daily_leaderboards": _ZONES | _BOARDS | _WRITTEN | _DATES,
    "weekly_insight": _ZONES | _BOARDS | _READ | _DATES,
    "make run": _ZONES,
    "lb missing": _ZONES | _BOARDS - {"limits_of_a_wrong_type"} | _DATES,
    "lb preview": _ZONES | _BOARDS | _READ | _DATES,
    "lb archive plan": _ZONES | _RETENTION | _READ | _DATES,
    "lb archive run": _ZONES | _RETENTION | _WRITTEN | _DATES,
    "lb archive verify": _READ,
    "lb archive runs": set(),
    "lb hold list": _ZONES | _DATES,
    "lb purge plan": _ZONES | _RETENTION | _READ | _DATES,
    "lb purge run": _ZONES | _RETENTION | _WRITTEN | _DATES,
}
# An institution moves into or out of the shared subtree under a lock of the root, and a transaction
# that has touched any partition keeps others from that, whoever's partition it is. The move is
# tried again, then left to the next night.
UNAVOIDABLE = {("partition_maintenance", "rows_locked")}


@pytest.fixture(scope="module")
def template(
    _databases: _Databases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[URL, URL]]:
    """The district with boards, some of them archived, and a late event of each institution; and
    the same with everything archived.
    """
    url = _databases.create(migrated=True)
    database = Database(url)
    with DagsterInstance.ephemeral() as instance:
        world = World(
            database, instance, Settings(home=tmp_path_factory.mktemp("home"), start_day=START)
        )
        world.now = NOW
        for id in IDS:
            add_institution(database, id, days=EVENTS, students=2, metadata=json.dumps(METADATA))
        instance.add_dynamic_partitions(INSTITUTION, sorted(IDS))
        with database.transaction() as connection:
            connection.execute("UPDATE lb.institutions SET created_at = '2024-01-01'")
        world.retries = RetryPolicy(max_retries=3)
        made = world.run(Rectangle(MADE, min(IDS), max(IDS)))
        assert made.success, world.said_by(made)
    demote(database, "south")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("LB_DATABASE_URL", database.url.render_as_string(hide_password=False))
        commands.run("archive", "run", "--granularity", "weekly", "--execute")
    with database.transaction() as connection:
        connection.execute(
            "INSERT INTO lb.legal_holds (institution_key, last_month, reason, placed_by)"
            " SELECT institution_key, '2023-01-01', 'of old', 'a court' FROM lb.institutions"
        )
    for id in IDS:
        add_event(database, id, date(2024, 3, 30), 50)
    database.close()
    archived = Database(_databases.copy(url))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("LB_DATABASE_URL", archived.url.render_as_string(hide_password=False))
        archive_everything(archived)
    archived.close()
    yield url, archived.url
    for made in (url, archived.url):
        _databases.drop(made)


@pytest.fixture
def open_world(
    _databases: _Databases,
    template: tuple[URL, URL],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[[str], World]]:
    """Copies of the district for an asker, in which nobody waits long."""
    short = timedelta(milliseconds=100)
    monkeypatch.setattr(each_institution, "READ_LOCK_TIMEOUT", short)
    for module in ("orchestration.assets.leaderboards", "orchestration.retention_jobs.purging",
                   "cli.archive", "cli.purges"):  # fmt: skip
        monkeypatch.setattr(f"lb_pipelines.{module}.WRITE_LOCK_TIMEOUT", short)
    patience = Patience(lock_timeout=0.1, tries=2)
    monkeypatch.setitem(maintenance.maintain.__kwdefaults__, "leaf_patience", patience)
    monkeypatch.setitem(maintenance.maintain.__kwdefaults__, "move_patience", patience)
    monkeypatch.setitem(purge.__kwdefaults__, "patience", patience)
    monkeypatch.setenv("LB_START_DAY", START.isoformat())
    monkeypatch.setenv("LB_HOME", str(tmp_path))
    number = itertools.count()
    with ExitStack() as stack:

        def open_world(asker: str) -> World:
            url = _databases.copy(template[asker in ON_ALL_ARCHIVED])
            stack.callback(_databases.drop, url)
            home = tmp_path / str(next(number))
            home.mkdir()
            # A schedule's tick wants an instance that it can open again.
            instance = stack.enter_context(
                DagsterInstance.local_temp(str(home))
                if asker == "daily_leaderboards_schedule"
                else DagsterInstance.ephemeral()
            )
            world = World(Database(url), instance, Settings(home=home, start_day=START))
            stack.callback(world.database.close)
            world.now = _read_now(world.database) if asker in ON_ALL_ARCHIVED else NOW
            # Commands take the present from the clock: they get that of this world.
            monkeypatch.setattr(clock, "datetime", SimpleNamespace(now=lambda _: world.now))
            instance.add_dynamic_partitions(INSTITUTION, sorted(IDS))
            monkeypatch.setenv(
                "LB_DATABASE_URL", world.database.url.render_as_string(hide_password=False)
            )
            return world

        yield open_world


def _read_now(database: Database) -> datetime:
    """The database's own present, by which it was archived."""
    with database.transaction() as connection:
        row = connection.execute("SELECT now()").fetchone()
    assert row is not None
    now: datetime = row[0]
    return now


@pytest.mark.parametrize("asker", ASKERS)
def test_those_that_are_broken_end_nothing_for_the_others(
    asker: str, open_world: Callable[[str], World]
) -> None:
    def ask(ways: Mapping[str, Way]) -> tuple[Answers, str]:
        world = open_world(asker)
        with ExitStack() as broken:
            for id, way in ways.items():
                broken.enter_context(way(world, id))
            return ASKERS[asker](world)

    usual, _ = ask({})
    assert all(usual.values()), usual
    ways = {id: way for id, way in WAYS.items() if (asker, id) not in UNAVOIDABLE}
    answers, said = ask(ways)
    assert {id: answers[id] for id in OTHERS} == {id: usual[id] for id in OTHERS}
    concerned = {id for id in WAYS if answers[id] != usual[id]}
    assert concerned == CONCERNED[asker]
    # Named, or with an answer of its own: what its dates or the change of its settings make of it.
    assert {id for id in concerned if id not in said and not answers[id]} == set()
    if asker == "institutions_sensor":
        assert all(id in said for id in _ZONES)


# What `ask_each` takes upon itself, and what it leaves to end everything.


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("SELECT date '9999-12-31' + 1", UnreadableInstitution),
        ("SELECT 'x'::text::integer", UnreadableInstitution),
        ("SELECT pg_sleep(60)", InstitutionLocked),
        ("SELECT FROM lb.institutions NATURAL JOIN lb.nothing", psycopg.errors.UndefinedTable),
        ("SELECT pg_terminate_backend(pg_backend_pid())", psycopg.errors.AdminShutdown),
    ],
)
def test_only_what_concerns_an_institution_alone_is_laid_to_it(
    database: Database, statement: str, error: type[Exception]
) -> None:
    add_institution(database, "a", days=EVENTS)
    bounded = database.with_timeouts(statement=timedelta(seconds=1))

    def ask(_: Institution) -> object:
        with bounded.transaction() as connection:
            return connection.execute(statement).fetchone()

    with database.transaction() as connection:
        [institution] = institutions.every(connection)
    if issubclass(error, LeaderboardError):
        answers, failures = ask_each([institution], ask)
        assert (answers, type(failures["a"])) == ({}, error)
        assert "Institution 'a'" in failures["a"].thing
    else:
        with pytest.raises(error):
            ask_each([institution], ask)


def test_a_server_that_cannot_be_reached_ends_everything(database: Database) -> None:
    add_institution(database, "a", days=EVENTS)
    nowhere = Database(database.url.set(port=1, query={}, host="localhost"))

    def ask(_: Institution) -> None:
        with nowhere.transaction():
            pass

    with database.transaction() as connection:
        every = institutions.every(connection)
    with pytest.raises(DatabaseUnavailable):
        ask_each(every, ask)


def test_timeouts_stay_with_whoever_asked_for_them(database: Database) -> None:
    bounded = database.with_timeouts(lock=timedelta(seconds=3), statement=timedelta(seconds=4))

    def shown(of: Database, autocommit: bool) -> list[str]:
        with of.autocommit() if autocommit else of.transaction() as connection:
            return [
                connection.execute(f"SHOW {name}").fetchone()[0]  # type: ignore[index]
                for name in ("lock_timeout", "statement_timeout")
            ]

    for autocommit in (False, True):
        assert shown(bounded, autocommit) == ["3s", "4s"]
        assert shown(database, autocommit) == ["0", "0"]
