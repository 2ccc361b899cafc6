"""Runs that meet trouble: errors that heal and errors that do not, other runs, and what a person
can follow of it in the log.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from datetime import date

import psycopg
import pytest
from dagster import DagsterEventType, DagsterInstance, RetryPolicy
from psycopg import errors

from lb_pipelines.core.periods import DayRange
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import institutions, writers
from lb_pipelines.db.transient import is_transient
from lb_pipelines.errors import DatabaseUnavailable, MissingRole, PartitionBusy
from lb_pipelines.orchestration.jobs import DAILY_ASSETS
from lb_pipelines.orchestration.partitions import Rectangle
from lb_pipelines.orchestration.run_log import RunLog, duration
from lb_pipelines.settings import Settings
from lb_pipelines_tests.orchestration_district import START, District

APRIL = DayRange(date(2024, 4, 1), date(2024, 4, 2))
BROKEN = '{"leaderboardRanking": "best"}'
EVERYTHING = {
    (asset, f"{day}|{id}") for asset in DAILY_ASSETS for day in APRIL for id in ("a", "z")
}

# Sequences outlive a rolled back transaction: each time around something else goes wrong.
_TROUBLE = """
CREATE SEQUENCE lb.troubles;
CREATE FUNCTION lb.trouble() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    CASE nextval('lb.troubles')
        WHEN 1 THEN PERFORM pg_terminate_backend(pg_backend_pid());
        WHEN 2 THEN RAISE EXCEPTION 'lost the race' USING ERRCODE = 'serialization_failure';
        WHEN 3 THEN RAISE EXCEPTION 'lost the race' USING ERRCODE = 'deadlock_detected';
        ELSE NULL;
    END CASE;
    RETURN NEW;
END $$;
CREATE TRIGGER trouble BEFORE INSERT ON lb.materialized_days
    FOR EACH ROW WHEN (NEW.asset = 'class_snapshots' AND NEW.institution_key = 1
                       AND NEW.day = '2024-04-02')
    EXECUTE FUNCTION lb.trouble();
"""


@pytest.fixture
def district(database: Database, tmp_path) -> Iterator[District]:
    # Files, for runs in two threads: SQLite in memory refuses instead of waiting.
    with DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield District(database, instance, Settings(home=tmp_path, start_day=START))


def test_what_heals_is_tried_again_and_bad_data_is_not(district: District) -> None:
    district.add("a")
    district.add("broken", metadata=BROKEN)
    district.add("z")
    district.retries = RetryPolicy(max_retries=3)
    with district.database.transaction() as connection:
        connection.execute(_TROUBLE)
    result = district.run(Rectangle(APRIL, "a", "z"))
    log = district.log(result)
    told = [line.splitlines()[0] for line in log if " failed at " in line]
    assert [line.split(": ")[1] for line in told if line.startswith("a ")] == [
        "AdminShutdown",
        "SerializationFailure",
        "DeadlockDetected",
    ]
    of_a = [line for line in told if line.startswith("a ")]
    assert all(line.startswith("a failed at class_snapshots of 2024-04-02") for line in of_a)
    assert sum(line.startswith("broken failed") for line in told) == 1
    # After the others, and only what was not there yet.
    assert log.index(next(line for line in log if line.startswith("z: "))) < log.index(
        next(line for line in log if line.startswith("a: tried again in"))
    )
    assert district.recorded(result) == Counter(dict.fromkeys(EVERYTHING, 1))
    assert district.failure(result).startswith("1 of 3 institutions failed. broken (at its sett")


def test_trouble_without_end_ends_the_run_and_is_told_without_rows(district: District) -> None:
    district.add("a", "z")
    district.retries = RetryPolicy(max_retries=1)
    with district.database.transaction() as connection:
        connection.execute(
            _TROUBLE.replace("WHEN 2", "WHEN 9").replace("WHEN 1 THEN PERFORM pg_t", "WHEN 9 THEN "
            "PERFORM pg_t").replace("ELSE NULL", "ELSE RAISE EXCEPTION 'again' USING"
            " ERRCODE = 'lock_not_available', DETAIL = 'Key (id)=(student-1)'")
        )  # fmt: skip
    result = district.run(Rectangle(APRIL, "a", "z"))
    assert district.failure(result) == (
        "1 of 2 institutions failed. a (at class_snapshots of 2024-04-02): LockNotAvailable: again"
    )
    [failed] = district.events(result, DagsterEventType.STEP_FAILURE)
    metadata = failed.dagster_event.step_failure_data.user_failure_data.metadata
    assert metadata["failed"].value == [
        {
            "institution": "a",
            "at": "class_snapshots of 2024-04-02",
            "what": "LockNotAvailable: again",
            "remedy": "Run it again",
        }
    ]
    assert sum("a failed at" in line for line in district.log(result)) == 2
    assert not any("student-1" in line for line in district.log(result))


def test_an_institution_that_another_run_works_on_comes_last(district: District) -> None:
    district.add("a", "z")
    with district.database.transaction() as connection:
        institution = institutions.find(connection, "a")
    held, let_go = threading.Event(), threading.Event()

    def another_run() -> None:
        with writers.one_run(district.database, institution) as mine:
            assert mine
            held.set()
            let_go.wait()

    other = threading.Thread(target=another_run)
    other.start()
    held.wait()
    results = []
    run = threading.Thread(target=lambda: results.append(district.run(Rectangle(APRIL, "a", "z"))))
    run.start()
    try:
        while not any(district.instance.get_runs()) or not any(
            "z: 2024" in entry.user_message
            for entry in district.instance.all_logs(district.instance.get_runs()[0].run_id)
        ):
            assert run.is_alive()
            run.join(0.05)
    finally:
        let_go.set()
        other.join()
    run.join()
    [result] = results
    assert result.success
    log = district.log(result)
    assert log.count("a: another run is at work on it, so the others come first") == 1
    assert set(district.recorded(result)) == EVERYTHING
    run_record = district.instance.get_run_by_id(result.run_id)
    assert run_record is not None
    assert run_record.tags["leaderboards/institutions"] == "2"
    assert run_record.tags["leaderboards/days"] == "2024-04-01..2024-04-02"
    # A run over one institution waits in Dagster's queue: by this tag.
    alone = district.run(Rectangle(APRIL, "a", "a"))
    run_record = district.instance.get_run_by_id(alone.run_id)
    assert run_record is not None
    assert run_record.tags["leaderboards/institution"] == "a"


def test_the_log_is_bounded_and_says_how_long_it_takes() -> None:
    said: list[str] = []
    seconds = 0.0
    log = RunLog(said.append, {"a": 400, "b": 400, "c": 200}, clock=lambda: seconds)
    assert said == ["3 institutions, 1,000 partitions: a, b, c"]
    for day in range(400):
        seconds = (day + 1) / 10
        log.did("a", f"day {day}")
    assert len(said) == 1 + 4
    assert said[1] == (
        "a: day 99; 0 of 3 institutions and 100 partitions in 10 s, "
        "10.0 a second: about 1 min 30 s left"
    )
    log.ends("a", "all done")
    assert said[-1] == (
        "a: all done; 1 of 3 institutions and 400 partitions in 40 s, "
        "10.0 a second: about 1 min left"
    )
    # What failed is not waited for, until it is tried again.
    log.ends("b", "failed")
    assert said[-1].endswith("about 20 s left")
    log.again({"b": 400}, 5.2)
    assert said[-1] == "b: tried again in 5 s"
    log.ends("c", "done")
    assert said[-1].endswith("2 of 3 institutions and 400 partitions in 40 s, "
                             "10.0 a second: about 40 s left")  # fmt: skip
    log.waits("b")
    log.waits("b")
    assert len(said) == 10
    assert [duration(s) for s in (0.44, 59.7, 60, 3599.6, 7500)] == [
        "0.4 s", "1 min", "1 min", "1 h 0 min", "2 h 5 min",
    ]  # fmt: skip


def test_which_errors_heal() -> None:
    def unavailable(cause: BaseException | None) -> DatabaseUnavailable:
        error = DatabaseUnavailable("No connection", "Start the server")
        error.__cause__ = cause
        return error

    busy = PartitionBusy("leaf", 10, "")
    busy.__cause__ = errors.LockNotAvailable()
    for error in (
        psycopg.OperationalError("the connection is lost"),
        unavailable(psycopg.OperationalError("connection refused")),
        busy,
        *(
            errors.lookup(state)()
            for state in ("08006", "40001", "40P01", "53300", "55P03", "57P01", "57P03")
        ),
    ):
        assert is_transient(error), error
    for error in (
        ValueError("bad data"),
        unavailable(None),
        MissingRole("somebody"),
        psycopg.InterfaceError(),
        *(
            errors.lookup(state)()
            # Data, constraints, rights, names, a full disk, and what a person has cancelled.
            for state in ("22003", "23505", "23514", "42501", "42P01", "53100", "57014")
        ),
    ):
        assert not is_transient(error), error
