"""Into and out of `shared`: whole or not at all, whoever writes, and whenever the process dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path

import pytest

from lb_pipelines.db.engine import Connection, Database
from lb_pipelines.db.partitions import Patience, demote, ensure_snapshot_months, promote
from lb_pipelines.db.partitions.leaves import count_leaves, is_dedicated
from lb_pipelines.db.partitions.moves import leaf_months
from lb_pipelines.errors import PartitionBusy
from lb_pipelines_tests.partition_rows import (
    SNAPSHOT,
    TREND,
    content,
    fill,
    leaf_tables,
    row,
    rows_by_leaf,
)
from lb_pipelines_tests.waiting import LIMIT_SECONDS, wait_until

DAYS = [date(2023, 7, 1), date(2023, 7, 31), date(2023, 8, 1), date(2023, 9, 30)]
FIRST, LAST = DAYS[0], DAYS[-1]


@pytest.fixture
def shared_pair(database: Database) -> Database:
    """`inst_123` and `other`, both in the shared subtree, with rows in three months."""
    ensure_snapshot_months(database, "inst_123", FIRST, LAST, budget=0)
    fill(database, "inst_123", DAYS)
    fill(database, "other", DAYS)
    return database


def state(database: Database, institution: str) -> tuple[bool, list[tuple[object, ...]]]:
    """Whether it is dedicated, and all its rows."""
    with database.transaction() as connection:
        return is_dedicated(connection, institution), content(connection, institution)


def test_promote_and_demote_carry_every_row(shared_pair: Database) -> None:
    database = shared_pair
    _, rows = state(database, "inst_123")
    others = state(database, "other")

    assert promote(database, "inst_123") == len(rows) == 48
    assert state(database, "inst_123") == (True, rows)
    with database.transaction() as connection:
        leaves = rows_by_leaf(connection, "inst_123")
        assert len(leaves) == 18
        assert all(leaf.startswith("inst_123_") for leaf in leaves)
        assert count_leaves(connection) == 36
    assert state(database, "other") == others

    assert demote(database, "inst_123") == len(rows)
    assert state(database, "inst_123") == (False, rows)
    with database.transaction() as connection:
        assert all(leaf.startswith("shared_") for leaf in rows_by_leaf(connection, "inst_123"))
        assert not any(name.startswith("inst_123") for name in leaf_tables(connection))
        assert count_leaves(connection) == 18
    assert state(database, "other") == others


def test_a_move_that_is_done_does_nothing(shared_pair: Database) -> None:
    assert demote(shared_pair, "inst_123") == 0
    promote(shared_pair, "inst_123")
    before = state(shared_pair, "inst_123")
    assert promote(shared_pair, "inst_123") == 0
    assert state(shared_pair, "inst_123") == before


def test_an_institution_without_rows_moves_too(database: Database) -> None:
    assert promote(database, "new") == 0
    assert state(database, "new") == (True, [])
    assert demote(database, "new") == 0
    assert state(database, "new") == (False, [])


def test_after_a_move_the_next_day_goes_to_the_new_place(shared_pair: Database) -> None:
    day = date(2023, 10, 1)
    for move, prefix in ((promote, "inst_123_"), (demote, "shared_")):
        move(shared_pair, "inst_123")
        ensure_snapshot_months(shared_pair, "inst_123", day, day)
        fill(shared_pair, "inst_123", [day])
        with shared_pair.transaction() as connection:
            assert all(leaf.startswith(prefix) for leaf in rows_by_leaf(connection, "inst_123"))


def test_months_without_rows_yet_come_along(shared_pair: Database) -> None:
    ensure_snapshot_months(shared_pair, "inst_123", date(2023, 10, 1), date(2023, 12, 1), budget=0)
    fill(shared_pair, "inst_123", [date(2023, 11, 1)])
    promote(shared_pair, "inst_123")
    fill(shared_pair, "inst_123", [date(2023, 10, 1), date(2023, 12, 1)])
    with shared_pair.transaction() as connection:
        assert len(leaf_months(connection)["inst_123"]) == 6


def test_an_archived_row_stays_archived(shared_pair: Database) -> None:
    with shared_pair.transaction() as connection:
        connection.execute(
            "UPDATE lb.leaderboard_snapshots SET status = 'ARCHIVED'"
            " WHERE institution_id = 'inst_123' AND snapshot_date = %s",
            (FIRST,),
        )
    rows = state(shared_pair, "inst_123")[1]
    promote(shared_pair, "inst_123")
    demote(shared_pair, "inst_123")
    assert state(shared_pair, "inst_123")[1] == rows


# However long others hold their locks, a move gets its turn.
PATIENT = Patience(lock_timeout=0.5, tries=100_000, first_pause=0.01, longest_pause=0.1)


@contextmanager
def running(*threads: threading.Thread) -> Iterator[None]:
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for thread in threads:
            thread.join(LIMIT_SECONDS)
            assert not thread.is_alive()


def test_writers_and_readers_of_a_moving_institution_miss_nothing(shared_pair: Database) -> None:
    database = shared_pair
    stop = threading.Event()
    written: list[list[tuple[str, date]]] = [[], []]
    counts: list[int] = []
    errors: list[BaseException] = []

    def write(number: int) -> None:
        mine = Database(database.url)
        try:
            for step in range(10_000):
                if stop.is_set():
                    return
                board = (f"w{number}_{step}", FIRST + timedelta(days=step % 90))
                with mine.transaction() as connection:
                    values = row("inst_123", board[1], reference=board[0])
                    connection.execute(SNAPSHOT, values)
                    connection.execute(TREND, values)
                written[number].append(board)
        except BaseException as error:
            errors.append(error)
        finally:
            mine.close()

    def read() -> None:
        mine = Database(database.url)
        try:
            while not stop.is_set():
                with mine.transaction() as connection:
                    found = connection.execute(
                        "SELECT count(*) FROM lb.leaderboard_snapshots"
                        " WHERE institution_id = 'inst_123'"
                    ).fetchone()
                assert found is not None
                counts.append(found[0])
        except BaseException as error:
            errors.append(error)
        finally:
            mine.close()

    threads = [threading.Thread(target=write, args=(number,)) for number in (0, 1)]
    with running(*threads, threading.Thread(target=read)):
        try:
            for _ in range(3):
                promote(database, "inst_123", patience=PATIENT)
                demote(database, "inst_123", patience=PATIENT)
        finally:
            stop.set()

    assert not errors
    assert counts == sorted(counts), "a reader saw rows that were gone a moment later"
    assert min(len(boards) for boards in written) > 3
    with database.transaction() as connection:
        for table in ("leaderboard_snapshots", "leaderboard_trends"):
            found = connection.execute(
                f"SELECT reference_id, snapshot_date FROM lb.{table}"
                " WHERE institution_id = 'inst_123' AND reference_id LIKE 'w%%'"
            ).fetchall()
            assert sorted(found) == sorted(written[0] + written[1])


# A move stops in its middle where a row of this leaf is touched, until the test lets it go on.
GATE = 4711
GATES = {
    "promote": ("DELETE", "OLD"),
    "demote": ("INSERT", "NEW"),
}


def put_gate(connection: Connection, leaf: str, verb: str) -> None:
    event, value = GATES[verb]
    connection.execute(
        "CREATE FUNCTION public.gate() RETURNS trigger LANGUAGE plpgsql AS"
        f" 'BEGIN PERFORM pg_advisory_xact_lock_shared({GATE}); RETURN {value}; END'"
    )
    connection.execute(
        f'CREATE TRIGGER gate BEFORE {event} ON lb_part."{leaf}"'
        " FOR EACH ROW EXECUTE FUNCTION public.gate()"
    )


def wait_for(database: Database, query: str) -> None:
    """Ask until the query gives true."""

    def ask() -> bool:
        with database.transaction() as connection:
            return connection.execute(query).fetchone() == (True,)

    wait_until(ask)


@pytest.mark.parametrize("verb", ["promote", "demote"])
def test_a_killed_move_leaves_all_as_it_was(shared_pair: Database, verb: str) -> None:
    database = shared_pair
    if verb == "demote":
        promote(database, "inst_123")
    before = state(database, "inst_123")
    with database.transaction() as connection:
        put_gate(connection, "shared_SUBJECT_2023-08", verb)

    with database.autocommit() as gate:
        gate.execute(f"SELECT pg_advisory_lock({GATE})")
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import sys\n"
                "from lb_pipelines.db import partitions\n"
                "from lb_pipelines.db.engine import Database\n"
                f"partitions.{verb}(Database(sys.argv[1]), 'inst_123')",
                database.url.render_as_string(hide_password=False),
            ],
            cwd=Path(__file__).parent.parent,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
        )
        try:
            # The move stands in its middle.
            wait_for(
                database,
                "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory'"
                f" AND objid = {GATE} AND NOT granted"
                " AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))",
            )
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait(LIMIT_SECONDS)
        gate.execute(f"SELECT pg_advisory_unlock({GATE})")
    # The server has noticed that the process is gone.
    wait_for(
        database,
        "SELECT count(*) = 0 FROM pg_locks WHERE mode = 'AccessExclusiveLock'"
        " AND relation = 'lb.leaderboard_snapshots'::regclass",
    )

    assert state(database, "inst_123") == before
    act = promote if verb == "promote" else demote
    assert act(database, "inst_123") == len(before[1])
    assert state(database, "inst_123") == (not before[0], before[1])


def test_a_held_lock_ends_in_an_error_and_moves_nothing(shared_pair: Database) -> None:
    before = state(shared_pair, "inst_123")
    patience = Patience(lock_timeout=0.02, tries=2, sleep=lambda _: None)
    with shared_pair.transaction() as busy:
        busy.execute("SELECT FROM lb.leaderboard_trends LIMIT 1").fetchone()
        with pytest.raises(PartitionBusy, match=r"inst_123:all.*2 tries"):
            promote(shared_pair, "inst_123", patience=patience)
        # Nobody is left waiting behind the move that gave up.
        busy.execute(TREND, row("inst_123", FIRST))
    assert state(shared_pair, "inst_123")[0] == before[0]


def test_two_moves_at_once_end_in_one_place(shared_pair: Database) -> None:
    rows = state(shared_pair, "inst_123")[1]
    moved: list[int] = []
    threads = [
        threading.Thread(
            target=lambda: moved.append(promote(shared_pair, "inst_123", patience=PATIENT))
        )
        for _ in range(3)
    ]
    with running(*threads):
        pass
    assert sorted(moved) == [0, 0, len(rows)]
    assert state(shared_pair, "inst_123") == (True, rows)
