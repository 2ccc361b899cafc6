"""Leaves made ahead: idempotent, by several at once, and without waiting behind a lock."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lb_pipelines.core.partition_key import PartitionKey
from lb_pipelines.core.words import BoardType
from lb_pipelines.db.engine import Database
from lb_pipelines.db.partitions import Patience, ensure_event_months, ensure_snapshot_months
from lb_pipelines.db.partitions.leaves import count_leaves, is_dedicated
from lb_pipelines.errors import InvalidInstitution, PartitionBusy, PartitionDetached
from lb_pipelines_tests.partition_rows import (
    SNAPSHOT,
    fill,
    leaf_tables,
    locked_leaves,
    row,
    rows_by_leaf,
)
from lb_pipelines_tests.waiting import LIMIT_SECONDS

JULY, AUGUST, SEPTEMBER = date(2023, 7, 1), date(2023, 8, 15), date(2023, 9, 30)


def together(works: list[Callable[[], object]]) -> list[object]:
    """Run these at the same moment, each in a thread; their results, or the first error."""
    start = threading.Barrier(len(works))

    def run(work: Callable[[], object]) -> object:
        start.wait(LIMIT_SECONDS)
        return work()

    with ThreadPoolExecutor(len(works)) as pool:
        return list(pool.map(run, works))


def test_months_of_events_are_made_once(database: Database) -> None:
    assert ensure_event_months(database, JULY, SEPTEMBER) == [
        "student_points_2023-07",
        "student_points_2023-08",
        "student_points_2023-09",
    ]
    assert ensure_event_months(database, JULY, SEPTEMBER) == []


def test_an_event_goes_into_its_month_of_utc(database: Database) -> None:
    ensure_event_months(database, JULY, AUGUST)
    with database.transaction() as connection:
        placed = connection.execute(
            "INSERT INTO lb.student_points"
            " (occurred_at, institution_key, student_key, amount, event_id)"
            " VALUES ('2023-08-01 00:30+02', 1, 1, 1, 'a'), ('2023-08-01 00:00+00', 1, 1, 1, 'b')"
            " RETURNING event_id, tableoid::regclass::text"
        ).fetchall()
    assert placed == [
        ("a", 'lb_part."student_points_2023-07"'),
        ("b", 'lb_part."student_points_2023-08"'),
    ]


def test_a_new_institution_gets_leaves_of_its_own(database: Database) -> None:
    made = ensure_snapshot_months(database, "inst_123", JULY, JULY)
    assert made == [
        "inst_123_CLASS_2023-07",
        "inst_123_SUBJECT_2023-07",
        "inst_123_CAMPUS_2023-07",
        "inst_123_CLASS_2023-07:trends",
        "inst_123_SUBJECT_2023-07:trends",
        "inst_123_CAMPUS_2023-07:trends",
    ]
    assert ensure_snapshot_months(database, "inst_123", JULY, JULY) == []
    fill(database, "inst_123", [JULY])
    with database.transaction() as connection:
        assert set(rows_by_leaf(connection, "inst_123")) == set(made)


def test_without_budget_the_shared_leaves_serve(database: Database) -> None:
    made = ensure_snapshot_months(database, "inst_123", JULY, JULY, budget=0)
    assert len(made) == 6
    assert all(name.startswith("shared_") for name in made)
    assert ensure_snapshot_months(database, "other", JULY, JULY, budget=0) == []
    fill(database, "inst_123", [JULY])
    # Its rows lie in `shared`: a budget alone moves nobody.
    assert ensure_snapshot_months(database, "inst_123", JULY, JULY) == []
    with database.transaction() as connection:
        assert set(rows_by_leaf(connection, "inst_123")) == set(made)


def test_the_budget_counts_the_coming_months_too(database: Database) -> None:
    # One month now and two to come: 18 leaves.
    ensure_snapshot_months(database, "first", JULY, JULY, budget=18)
    ensure_snapshot_months(database, "second", JULY, JULY, budget=23)
    with database.transaction() as connection:
        assert is_dedicated(connection, "first")
        assert not is_dedicated(connection, "second")
        assert count_leaves(connection) == 12


def test_institutions_that_arrive_together_share_one_budget(database: Database) -> None:
    names = [f"inst_{number}" for number in range(4)]
    together(
        [
            lambda name=name: ensure_snapshot_months(  # type: ignore[misc]
                database, name, JULY, SEPTEMBER, budget=36
            )
            for name in names
        ]
    )
    with database.transaction() as connection:
        assert sum(is_dedicated(connection, name) for name in names) == 2


def test_several_at_once_make_each_leaf_once(database: Database) -> None:
    longest = "x" * 40
    works: list[Callable[[], object]] = [
        lambda: ensure_snapshot_months(database, "inst_123", JULY, AUGUST),
        lambda: ensure_snapshot_months(database, longest, JULY, AUGUST),
        lambda: ensure_event_months(database, JULY, SEPTEMBER),
    ]
    made = [name for names in together(works * 2) for name in names]  # type: ignore[attr-defined]
    assert len(made) == len(set(made)) == 12 + 12 + 3
    with database.transaction() as connection:
        assert leaf_tables(connection) == set(made)


def test_ids_that_look_like_keys_do_not_meet(database: Database) -> None:
    ids = ["a", "a_CLASS", "a_CLASS_2023-07", "A", "student_points", "-", "y" * 40]
    for id in ids:
        ensure_snapshot_months(database, id, JULY, JULY)
        fill(database, id, [JULY])
    ensure_event_months(database, JULY, JULY)
    with database.transaction() as connection:
        for id in ids:
            leaves = rows_by_leaf(connection, id)
            assert len(leaves) == 6
            assert all(leaf.startswith(f"{id}_") for leaf in leaves)
        keys = connection.execute(
            "SELECT DISTINCT partition_key, replace(tableoid::regclass::text, '\"', '')"
            " FROM lb.leaderboard_snapshots"
        ).fetchall()
    assert all(f"lb_part.{key}" == leaf for key, leaf in keys)
    assert len(keys) == 3 * len(ids)


@pytest.mark.parametrize("id", ["shared", "archive_2023", "a:all", 'a"', "", "z" * 41])
def test_ids_that_cannot_name_a_leaf_are_refused(database: Database, id: str) -> None:
    with pytest.raises(InvalidInstitution):
        ensure_snapshot_months(database, id, JULY, JULY)


def test_a_leaf_has_all_that_its_parent_has(database: Database) -> None:
    ensure_snapshot_months(database, "inst_123", JULY, JULY)
    ensure_event_months(database, JULY, JULY)
    with database.transaction() as connection:
        for root, leaf in (
            ("lb.leaderboard_snapshots", 'lb_part."inst_123_CLASS_2023-07"'),
            ("lb.leaderboard_trends", 'lb_part."inst_123_CLASS_2023-07:trends"'),
            ("lb.student_points", 'lb_part."student_points_2023-07"'),
        ):
            # An index of the leaf that is no child of the root's would never be maintained with it.
            indexes = connection.execute(
                "SELECT count(*), count(i.inhparent) FROM pg_index x"
                " LEFT JOIN pg_inherits i ON i.inhrelid = x.indexrelid"
                " WHERE x.indrelid = %s::regclass",
                (leaf,),
            ).fetchone()
            expected = connection.execute(
                "SELECT count(*) FROM pg_index WHERE indrelid = %s::regclass", (root,)
            ).fetchone()
            assert expected is not None
            assert indexes == (expected[0], expected[0])
            columns = "SELECT attname, attgenerated, attnotnull, atthasdef FROM pg_attribute"
            columns += " WHERE attrelid = %s::regclass AND attnum > 0 ORDER BY attnum"
            assert (
                connection.execute(columns, (leaf,)).fetchall()
                == connection.execute(columns, (root,)).fetchall()
            )
            checks = "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint"
            checks += " WHERE conrelid = %s::regclass AND contype = 'c' ORDER BY conname"
            assert (
                connection.execute(checks, (leaf,)).fetchall()
                == connection.execute(checks, (root,)).fetchall()
            )


def test_wide_columns_are_lz4_where_the_server_has_it(database: Database) -> None:
    ensure_snapshot_months(database, "inst_123", JULY, JULY)
    with database.transaction() as connection:
        offered = connection.execute(
            "SELECT 'lz4' = ANY (enumvals) FROM pg_settings"
            " WHERE name = 'default_toast_compression'"
        ).fetchone()
        method = connection.execute(
            "SELECT attcompression FROM pg_attribute WHERE attname = 'entries'"
            " AND attrelid = 'lb_part.\"inst_123_CLASS_2023-07\"'::regclass"
        ).fetchone()
    assert method == (("l",) if offered == (True,) else ("",))


class Pauses:
    """A sleep that does not wait: notes the pauses, and acts in one of them."""

    def __init__(self, act_in: int = 0, act: Callable[[], object] = lambda: None) -> None:
        self.seen: list[float] = []
        self.act_in = act_in
        self.act = act

    def __call__(self, seconds: float) -> None:
        self.seen.append(seconds)
        if len(self.seen) == self.act_in:
            self.act()


def test_a_held_lock_ends_in_an_error_that_names_the_leaf(database: Database) -> None:
    pauses = Pauses()
    patience = Patience(lock_timeout=0.02, tries=4, first_pause=1, longest_pause=3, sleep=pauses)
    with database.transaction() as holder:
        holder.execute("LOCK TABLE lb.student_points IN SHARE UPDATE EXCLUSIVE MODE")
        with pytest.raises(PartitionBusy, match=r"student_points_2023-07.*4 tries"):
            ensure_event_months(database, JULY, JULY, patience=patience)
    assert pauses.seen == [1, 2, 3]
    with database.transaction() as connection:
        assert leaf_tables(connection) == set()


def test_a_lock_that_is_let_go_costs_a_pause(database: Database) -> None:
    with database.transaction() as holder:
        holder.execute("LOCK TABLE lb.student_points IN SHARE UPDATE EXCLUSIVE MODE")
        pauses = Pauses(act_in=2, act=holder.rollback)
        patience = Patience(lock_timeout=0.02, sleep=pauses)
        assert ensure_event_months(database, JULY, JULY, patience=patience) == [
            "student_points_2023-07"
        ]
    assert len(pauses.seen) == 2


def test_readers_and_writers_do_not_hold_up_a_new_month(database: Database) -> None:
    ensure_snapshot_months(database, "inst_123", JULY, JULY)
    impatient = Patience(lock_timeout=0.05, tries=1)
    with database.transaction() as busy:
        busy.execute(SNAPSHOT, row("inst_123", JULY))
        busy.execute("SELECT count(*) FROM lb.leaderboard_snapshots, lb.student_points").fetchone()
        assert locked_leaves(busy)
        assert len(ensure_snapshot_months(database, "inst_123", AUGUST, AUGUST, patience=impatient))
        assert ensure_event_months(database, JULY, JULY, patience=impatient)


def test_a_new_institution_that_cannot_be_let_in_goes_to_shared(database: Database) -> None:
    ensure_snapshot_months(database, "other", JULY, JULY, budget=0)
    patience = Patience(lock_timeout=0.02, tries=2, sleep=lambda _: None)
    with database.transaction() as busy:
        busy.execute(SNAPSHOT, row("other", JULY))
        made = ensure_snapshot_months(database, "new", JULY, AUGUST, patience=patience)
    assert len(made) == 6
    assert all(name.startswith("shared_") for name in made)
    with database.transaction() as connection:
        assert not is_dedicated(connection, "new")


def test_a_detached_leaf_is_not_taken_for_one_that_serves(database: Database) -> None:
    ensure_snapshot_months(database, "inst_123", JULY, JULY)
    with database.transaction() as connection:
        connection.execute(
            'ALTER TABLE lb_part."inst_123:CLASS" DETACH PARTITION lb_part."inst_123_CLASS_2023-07"'
        )
    with pytest.raises(PartitionDetached, match="inst_123_CLASS_2023-07"):
        ensure_snapshot_months(database, "inst_123", JULY, JULY)


ids = st.from_regex(r"[A-Za-z0-9_-]{1,40}", fullmatch=True).filter(
    lambda id: id != "shared" and not id.startswith("archive_")
)


@given(
    st.lists(
        st.tuples(ids, st.sampled_from(BoardType), st.dates()),
        min_size=20,
        max_size=60,
        unique=True,
    )
)
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_the_generated_key_is_the_domain_s(
    database: Database, boards: list[tuple[str, BoardType, date]]
) -> None:
    with database.transaction() as connection, connection.cursor() as cursor:
        # The columns and expressions of the roots, without a leaf for every month there is.
        cursor.execute(
            "CREATE TEMP TABLE copy (LIKE lb.leaderboard_snapshots INCLUDING ALL) ON COMMIT DROP"
        )
        cursor.executemany(
            SNAPSHOT.replace("lb.leaderboard_snapshots", "copy"),
            [row(id, day, type=type) for id, type, day in boards],
        )
        cursor.execute("SELECT institution_id, type, snapshot_date, partition_key, id FROM copy")
        found = cursor.fetchall()
    assert len(found) == len(boards)
    for id, type, day, key, snapshot_id in found:
        assert key == str(PartitionKey.of(id, BoardType(type), day))
        assert PartitionKey.parse(key) == PartitionKey.of(id, BoardType(type), day)
        assert snapshot_id == f"{id}:{type}:r:daily:{day.isoformat()}"
