"""Maintenance: months ahead for everybody active, places by the budget, one run at a time."""

from __future__ import annotations

from datetime import date

from lb_pipelines.db.engine import Database
from lb_pipelines.db.partitions import Patience, ensure_snapshot_months, maintain, promote
from lb_pipelines.db.partitions.leaves import count_leaves, is_dedicated
from lb_pipelines.db.partitions.patience import MAINTENANCE_LOCK, held
from lb_pipelines.errors import PartitionBusy
from lb_pipelines_tests.partition_rows import add_institution, content, fill, leaf_tables

TODAY = date(2023, 11, 15)
SEPTEMBER = date(2023, 9, 1)
COMING = ("2023-11", "2023-12", "2024-01")


def dedicated(database: Database, *institutions: str) -> list[bool]:
    with database.transaction() as connection:
        return [is_dedicated(connection, institution) for institution in institutions]


def test_everybody_active_gets_the_coming_months(database: Database) -> None:
    add_institution(database, "inst_1")
    add_institution(database, "inst_2")
    add_institution(database, "asleep", status="INACTIVE")
    report = maintain(database, TODAY)
    expected = {
        *(f"student_points_{month}" for month in COMING),
        *(
            f"{institution}_{type}_{month}{suffix}"
            for institution in ("inst_1", "inst_2")
            for type in ("CLASS", "SUBJECT", "CAMPUS")
            for month in COMING
            for suffix in ("", ":trends")
        ),
    }
    assert set(report.made) == expected
    assert report.leaves == 36
    assert not report.failures
    with database.transaction() as connection:
        assert leaf_tables(connection) == expected
    assert dedicated(database, "inst_1", "asleep") == [True, False]


def test_a_second_run_finds_nothing_to_do(database: Database) -> None:
    add_institution(database, "inst_1")
    add_institution(database, "inst_2")
    maintain(database, TODAY, budget=36)
    report = maintain(database, TODAY, budget=36)
    assert report.plan is not None
    assert (report.plan.moves, report.plan.missing, report.made) == ((), {}, [])


def test_a_dry_run_shows_the_plan_and_does_nothing(database: Database) -> None:
    add_institution(database, "inst_1")
    with database.transaction() as connection:
        before = leaf_tables(connection)
    report = maintain(database, TODAY, dry_run=True)
    assert report.plan is not None
    assert [str(move) for move in report.plan.moves] == ["promote inst_1 (no rows yet)"]
    assert {owner: len(leaves) for owner, leaves in report.plan.missing.items()} == {
        "student_points": 3,
        "inst_1": 18,
    }
    with database.transaction() as connection:
        assert leaf_tables(connection) == before
    assert dedicated(database, "inst_1") == [False]


def test_without_room_the_largest_are_dedicated(database: Database) -> None:
    for institution, students in (("small", 1), ("large", 9), ("middle", 5)):
        add_institution(database, institution, students=students)
    report = maintain(database, TODAY, budget=3 * 18)
    assert dedicated(database, "large", "middle", "small") == [True, True, True]
    assert report.leaves == 54

    for institution in ("small", "large", "middle"):
        fill(database, institution, [TODAY])
    rows = {}
    with database.transaction() as connection:
        for institution in ("small", "large", "middle"):
            rows[institution] = content(connection, institution)

    # Shared takes 18 for whoever comes in first, so two have to go.
    report = maintain(database, TODAY, budget=53)
    assert report.moved == {"small": 12, "middle": 12}
    assert dedicated(database, "large", "middle", "small") == [True, False, False]
    assert report.leaves == 36
    with database.transaction() as connection:
        assert {name: content(connection, name) for name in rows} == rows

    # Room again: out they come, once a year of months would fit.
    assert maintain(database, TODAY, budget=60).moved == {}
    assert maintain(database, TODAY).moved == {"middle": 12, "small": 12}
    with database.transaction() as connection:
        assert {name: content(connection, name) for name in rows} == rows


def test_in_shared_the_coming_months_are_made_once_for_all(database: Database) -> None:
    for number in range(3):
        add_institution(database, f"inst_{number}")
        ensure_snapshot_months(database, f"inst_{number}", SEPTEMBER, SEPTEMBER, budget=0)
        fill(database, f"inst_{number}", [SEPTEMBER])
    report = maintain(database, TODAY, budget=0)
    assert {name.split("_")[0] for name in report.made} == {"shared", "student"}
    with database.transaction() as connection:
        assert count_leaves(connection) == 24


def test_a_second_run_at_the_same_time_does_nothing(database: Database) -> None:
    add_institution(database, "inst_1")
    with held(database, MAINTENANCE_LOCK):
        report = maintain(database, TODAY)
    assert report.skipped
    assert report.made == []
    assert not maintain(database, TODAY).skipped


def test_one_that_cannot_be_served_does_not_stop_the_others(database: Database) -> None:
    for institution in ("inst_1", "inst_2"):
        add_institution(database, institution)
        promote(database, institution)
    impatient = Patience(lock_timeout=0.02, tries=2, sleep=lambda _: None)
    with database.transaction() as busy:
        busy.execute('LOCK TABLE lb_part."inst_1:CLASS" IN SHARE UPDATE EXCLUSIVE MODE')
        report = maintain(database, TODAY, leaf_patience=impatient)
    assert set(report.failures) == {"inst_1"}
    assert isinstance(report.failures["inst_1"], PartitionBusy)
    assert "inst_2_CAMPUS_2024-01:trends" in report.made
    assert not maintain(database, TODAY).failures


def test_the_budget_decides_for_a_month_that_is_needed_at_once(database: Database) -> None:
    """Growth of a dedicated institution is never refused: the next run makes the room."""
    add_institution(database, "inst_1", students=2)
    add_institution(database, "inst_2", students=1)
    maintain(database, TODAY, budget=36)
    assert ensure_snapshot_months(database, "inst_1", SEPTEMBER, SEPTEMBER, budget=36)
    with database.transaction() as connection:
        assert count_leaves(connection) == 42
    report = maintain(database, TODAY, budget=41)
    assert report.plan is not None
    assert report.leaves <= 41
