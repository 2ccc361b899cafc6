"""Restores, the archive as it is read, what is due anywhere, and what verification finds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from psycopg.types.json import Jsonb
from sqlalchemy.engine import URL

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import DayRange
from lb_pipelines.core.selection import ArchiveSelection
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.db import queries
from lb_pipelines.db.engine import Database
from lb_pipelines.db.partitions import ensure_archive_years, ensure_snapshot_months, promote
from lb_pipelines.db.repositories import archive, archive_ledger, holds, institutions
from lb_pipelines.errors import ArchiveContradicted, InvalidSelection, InvalidSetting
from lb_pipelines.retention.planning import due
from lb_pipelines.retention.restoring import plan_restore, restore
from lb_pipelines.retention.sweeping import sweep
from lb_pipelines.retention.verifying import ArchiveVerdict, verify
from lb_pipelines_tests import retention_rows as rows
from lb_pipelines_tests.conftest import _Databases
from lb_pipelines_tests.partition_rows import leaf_tables
from lb_pipelines_tests.retention_rows import ACTOR, Live
from lb_pipelines_tests.test_pruning import explained

TODAY = date(2024, 3, 1)
NOW = datetime(2024, 3, 1, 12, tzinfo=UTC)
DAYS = [date(2023, 7, 30), date(2023, 7, 31), date(2023, 8, 1), date(2024, 1, 30)]
DAILY = Granularity.DAILY
ONE_DAY = timedelta(days=1)
CLASSES = ArchiveSelection(types=(BoardType.CLASS,))
EVERYTHING = ArchiveSelection()
YEARS = ("2022-2023", "2023-2024", "2024-2025")


@pytest.fixture(scope="module")
def prepared(_databases: _Databases) -> Iterator[URL]:
    """An institution with a subtree of its own and one in the shared, both swept; to be copied."""
    url = _databases.create(migrated=True)
    database = Database(url)
    ensure_archive_years(database, YEARS)
    for id, budget in (("inst", None), ("shared_1", 0)):
        school = rows.add_institution(database, id)
        for months in ((DAYS[0], DAYS[2]), (DAYS[3], DAYS[3])):
            ensure_snapshot_months(database, id, *months, budget=budget)
        rows.fill(database, school, DAYS, references=["a", "b"])
        sweep(database, school, DAILY, TODAY, ACTOR)
    database.close()
    yield url
    _databases.drop(url)


@pytest.fixture
def database(_databases: _Databases, prepared: URL) -> Iterator[Database]:
    url = _databases.copy(prepared)
    database = Database(url)
    yield database
    database.close()
    _databases.drop(url)


@pytest.fixture
def school(database: Database) -> Institution:
    return known(database, "inst")


def known(database: Database, id: str) -> Institution:
    with database.transaction() as connection:
        return institutions.find(connection, id)


def execute(database: Database, statement: str, *parameters: object) -> None:
    with database.transaction() as connection:
        connection.execute(statement, parameters)


# Restores


def test_a_restored_snapshot_is_live_and_does_not_expire_until_its_day(
    database: Database, school: Institution
) -> None:
    until = TODAY + 3 * ONE_DAY
    before = rows.archived(database, school)
    planned = plan_restore(database, school, CLASSES)
    done = restore(database, school, CLASSES, until, TODAY, ACTOR, batch_rows=3)
    classes = {key: copy for key, copy in before.items() if key[0] == "CLASS"}
    assert planned.rows == done.rows == len(classes) == 8
    assert (planned.first, planned.last) == (DAYS[0], DAYS[3])
    assert planned.bytes == done.bytes
    assert rows.archived(database, school).keys() == before.keys() - classes.keys()
    live = rows.live(database, school)
    assert {key: live[key] for key in classes} == {
        key: Live("ACTIVE", copy.content, until) for key, copy in classes.items()
    }
    with database.transaction() as connection:
        line = archive_ledger.latest(connection, school)[0]
    assert line.kind == "RESTORE"
    assert (line.rows, line.active_until) == (8, until)
    assert line.selection == {"types": ["CLASS"]}
    assert line.digest == rows.digest(school, {k: copy.content for k, copy in classes.items()})
    assert sweep(database, school, DAILY, until, ACTOR).rows == 0
    assert sweep(database, school, DAILY, until + ONE_DAY, ACTOR).rows == 8
    assert rows.archived(database, school) == before
    assert set(rows.live(database, school).values()) == {
        Live("ARCHIVED", copy.content) for copy in before.values()
    }


def test_a_restore_brings_purged_months_back(database: Database, school: Institution) -> None:
    with database.transaction() as connection:
        for type in BoardType:
            connection.execute(f'DROP TABLE lb_part."inst_{type}_2023-07"')
    restore(database, school, EVERYTHING, TODAY, TODAY, ACTOR)
    assert {row.status for row in rows.live(database, school).values()} == {"ACTIVE"}
    assert len(rows.live(database, school)) == 24
    with database.transaction() as connection:
        made = leaf_tables(connection)
    assert "inst_CLASS_2023-07" in made
    assert not any(name.startswith("inst_CLASS_2023-1") for name in made), "leaves without rows"


def test_a_restore_stops_where_a_snapshot_is_active_already(
    database: Database, school: Institution
) -> None:
    before = rows.archived(database, school)
    execute(
        database,
        "UPDATE lb.leaderboard_snapshots SET status = 'ACTIVE' WHERE institution_id = 'inst'"
        " AND type = 'CLASS' AND reference_id = 'b' AND snapshot_date = %s",
        DAYS[3],
    )
    with pytest.raises(ArchiveContradicted, match="'inst:CLASS:b:daily:2024-01-30'"):
        restore(database, school, CLASSES, TODAY, TODAY, ACTOR, batch_rows=2)
    left = rows.archived(database, school)
    gone = before.keys() - left.keys()
    assert gone
    assert not any(key[3] == DAYS[3] for key in gone), "the batch that failed left no trace"
    with database.transaction() as connection:
        line = archive_ledger.latest(connection, school)[0]
    assert (line.rows, line.finished_at) == (len(gone), None)


def test_a_restore_goes_on_where_the_institution_was_moved_meanwhile(database: Database) -> None:
    school = known(database, "shared_1")
    execute(database, "DELETE FROM lb.leaderboard_snapshots WHERE institution_id = 'shared_1'")
    moved: list[object] = []

    def move(batch: object) -> None:
        if not moved:
            promote(database, "shared_1")
        moved.append(batch)

    restore(database, school, EVERYTHING, TODAY, TODAY, ACTOR, batch_rows=6, on_batch=move)
    assert len(moved) > 1
    assert len(rows.live(database, school)) == 24
    assert rows.archived(database, school) == {}


def test_a_restore_needs_a_day_that_is_not_over(database: Database, school: Institution) -> None:
    with pytest.raises(InvalidSelection, match="2024-02-29 would be over"):
        restore(database, school, EVERYTHING, TODAY - ONE_DAY, TODAY, ACTOR)


def test_a_restore_of_nothing_leaves_no_line(database: Database, school: Institution) -> None:
    nothing = ArchiveSelection(term_ids=("no such term",))
    assert plan_restore(database, school, nothing).rows == 0
    done = restore(database, school, nothing, TODAY, TODAY, ACTOR)
    assert (done.rows, done.archive_run) == (0, None)


# Reading


def read(database: Database, school: Institution, selection: ArchiveSelection) -> list[Any]:
    with database.transaction() as connection:
        return archive.read(connection, school, selection, limit=1000)


@pytest.mark.parametrize(
    ("selection", "chosen"),
    [
        (EVERYTHING, lambda s: True),
        (CLASSES, lambda s: s.type == "CLASS"),
        (ArchiveSelection(reference_ids=("b",)), lambda s: s.reference_id == "b"),
        (ArchiveSelection(granularities=(Granularity.TERM,)), lambda s: False),
        (ArchiveSelection(term_ids=("spring",)), lambda s: s.snapshot_date == DAYS[3]),
        (
            ArchiveSelection(academic_years=("2022-2023",)),
            lambda s: s.snapshot_date < date(2023, 8, 1),
        ),
        (ArchiveSelection(first_day=DAYS[1]), lambda s: s.snapshot_date >= DAYS[1]),
        (
            ArchiveSelection(first_day=DAYS[1], last_day=DAYS[2]),
            lambda s: DAYS[1] <= s.snapshot_date <= DAYS[2],
        ),
    ],
)
def test_the_archive_is_read_by_whatever_is_selected(
    database: Database, school: Institution, selection: ArchiveSelection, chosen: Any
) -> None:
    execute(
        database,
        "UPDATE lb.archived_leaderboard_snapshots SET term_id = 'spring' WHERE snapshot_date = %s",
        DAYS[3],
    )
    whole = read(database, school, EVERYTHING)
    assert len(whole) == 24
    assert {s.original_id.partition(":")[0] for s in whole} == {"inst"}
    assert read(database, school, selection) == [s for s in whole if chosen(s)]
    with database.transaction() as connection:
        assert archive.count(connection, school, selection) == sum(map(chosen, whole))


@pytest.mark.parametrize("rows_a_page", [1, 5, 24])
def test_pages_follow_each_other_newest_first(
    database: Database, school: Institution, rows_a_page: int
) -> None:
    whole = read(database, school, EVERYTHING)
    assert [s.snapshot_date for s in whole] == sorted(d for d in DAYS for _ in range(6))[::-1]
    found: list[archive.ArchivedSnapshot] = []
    with database.transaction() as connection:
        while page := archive.read(
            connection,
            school,
            EVERYTHING,
            limit=rows_a_page,
            after=found[-1] if found else None,
        ):
            found += page
    assert found == whole


@pytest.mark.parametrize(
    ("selection", "years"),
    [
        (ArchiveSelection(academic_years=("2023-2024",)), YEARS[1:2]),
        (ArchiveSelection(first_day=date(2023, 5, 1), last_day=date(2023, 6, 1)), YEARS[:2]),
        (ArchiveSelection(first_day=date(2025, 1, 1)), YEARS[2:]),
        (ArchiveSelection(last_day=date(2022, 12, 1)), YEARS[:1]),
        (
            ArchiveSelection(first_day=date(2023, 9, 1), academic_years=("2023-2024",)),
            YEARS[1:2],
        ),
        (EVERYTHING, YEARS),
    ],
)
@pytest.mark.parametrize("name", ["page", "selected_days"])
def test_only_the_years_that_can_hold_it_are_read(
    database: Database,
    school: Institution,
    selection: ArchiveSelection,
    years: tuple[str, ...],
    name: str,
) -> None:
    which = {"after_day": None, "after_id": None, "page_rows": 9}
    parameters = {**archive._which(school, selection), **which}
    with database.transaction() as connection:
        found = explained(connection, getattr(queries.archive, name).sql, parameters)
    assert found == {f"archive_{year}" for year in years}


# What is due


def found_due(database: Database, now: datetime = NOW) -> set[tuple[str, str]]:
    return {(one.institution.id, str(one.granularity)) for one in due(database, now).found}


BOTH = pytest.mark.parametrize("id", ["inst", "shared_1"])


@BOTH
def test_nothing_is_due_until_a_snapshot_has_expired(database: Database, id: str) -> None:
    assert found_due(database) == set()
    day = date(2024, 1, 31)
    rows.fill(database, known(database, id), [day])
    assert found_due(database) == set()
    assert found_due(database, NOW + ONE_DAY) == {(id, "daily")}
    [one] = due(database, NOW + ONE_DAY).found
    assert (one.today, one.cutoff) == (date(2024, 3, 2), date(2024, 2, 1))


@BOTH
def test_the_day_is_the_institution_s_own(database: Database, id: str) -> None:
    rows.fill(database, known(database, id), [date(2024, 1, 31)])
    execute(database, "UPDATE lb.institutions SET time_zone = 'Pacific/Kiritimati'")
    assert found_due(database) == {(id, "daily")}


@BOTH
def test_what_is_restored_or_held_is_no_alarm(database: Database, id: str) -> None:
    school = known(database, id)
    restore(database, school, EVERYTHING, TODAY + ONE_DAY, TODAY, ACTOR)
    assert found_due(database) == set()
    assert found_due(database, NOW + ONE_DAY) == set()
    later = NOW + 2 * ONE_DAY
    assert found_due(database, later) == {(id, "daily")}

    def hold(type: BoardType | None, first: date | None, last: date | None) -> None:
        with database.transaction() as connection:
            holds.place(
                connection,
                school,
                type=type,
                first_month=first,
                last_month=last,
                until=TODAY + 9 * ONE_DAY,
                reason="r",
                placed_by="p",
            )

    hold(BoardType.CLASS, None, None)
    hold(BoardType.SUBJECT, None, None)
    hold(None, date(2023, 7, 1), date(2023, 8, 1))
    assert found_due(database, later) == {(id, "daily")}
    hold(BoardType.CAMPUS, date(2024, 1, 1), None)
    assert found_due(database, later) == set()
    assert found_due(database, NOW + 10 * ONE_DAY) == {(id, "daily")}


def test_what_is_wrong_with_one_institution_stops_no_other(database: Database) -> None:
    for id in ("inst", "shared_1"):
        rows.fill(database, known(database, id), [DAYS[3]], types=[BoardType.CLASS])
        restore(database, known(database, id), EVERYTHING, TODAY, TODAY, ACTOR)
    wrong = {"leaderboardRetention": {"daily": -1}}
    execute(database, "UPDATE lb.institutions SET metadata = %s WHERE id = 'inst'", Jsonb(wrong))
    rows.add_institution(database, "asleep", metadata=wrong)
    execute(database, "UPDATE lb.institutions SET status = 'INACTIVE' WHERE id = 'asleep'")
    answer = due(database, NOW + ONE_DAY)
    assert [one.institution.id for one in answer.found] == ["shared_1"]
    assert answer.wrong.keys() == {"inst"}
    assert isinstance(answer.wrong["inst"], InvalidSetting)


# Verification


def test_an_archive_that_can_be_relied_on(database: Database, school: Institution) -> None:
    assert verify(database, school) == ArchiveVerdict(originals=24, copies=24)
    some = DayRange(DAYS[1], DAYS[2])
    assert verify(database, school, some) == ArchiveVerdict(originals=12, copies=12)
    assert verify(database, rows.add_institution(database, "new")) == ArchiveVerdict()


ORIGINAL = "inst:CLASS:a:daily:2023-07-31"
COPIES = "lb.archived_leaderboard_snapshots"


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (f"DELETE FROM {COPIES} WHERE original_id = %s", "missing"),
        (f"UPDATE {COPIES} SET content_hash = 'x' WHERE original_id = %s", "differing"),
        ("UPDATE lb.leaderboard_snapshots SET content_hash = 'x' WHERE id = %s", "differing"),
        (
            "UPDATE lb.leaderboard_snapshots SET status = 'ACTIVE' WHERE id = %s",
            "active_with_copy",
        ),
        ("DELETE FROM lb.leaderboard_snapshots WHERE id = %s", "unexplained"),
        (
            f"INSERT INTO {COPIES} (archive_run, created_at, snapshot_date, period_start,"
            " institution_id, type, reference_id, time_granularity, academic_year, content_hash,"
            " entries, metadata, distribution) SELECT archive_run, created_at, snapshot_date,"
            " period_start, institution_id, type, reference_id, time_granularity, '2023-2024',"
            f" content_hash, entries, metadata, distribution FROM {COPIES}"
            " WHERE original_id = %s",
            "doubled",
        ),
    ],
)
def test_every_damage_is_named(
    database: Database, school: Institution, damage: str, what: str
) -> None:
    execute(database, damage, ORIGINAL)
    verdict = verify(database, school)
    assert verdict.wrong == getattr(verdict, what) == 1
    assert verdict.example == ORIGINAL
    assert verify(database, school, DayRange(DAYS[1], DAYS[1])).wrong == 1
    assert verify(database, school, DayRange(DAYS[2], DAYS[3])).wrong == 0
    assert verify(database, known(database, "shared_1")).wrong == 0


def test_a_purge_or_an_import_accounts_for_copies_alone(
    database: Database, school: Institution
) -> None:
    execute(database, "DELETE FROM lb.leaderboard_snapshots WHERE institution_id = 'inst'")
    assert verify(database, school).unexplained == 24
    for state, unexplained in (("KEPT", 24), ("DETACHED", 20), ("DROPPED", 20)):
        execute(
            database,
            "INSERT INTO lb.purges (institution_key, type, month, state, relation, rows, bytes,"
            " digest_high, digest_low, drop_after, started_by)"
            " VALUES (%s, 'CLASS', '2023-07-01', %s, %s, 0, 0, 0, 0, '2024-01-01', 'p')",
            school.key,
            state,
            state,
        )
        assert verify(database, school).unexplained == unexplained
    assert verify(database, school, DayRange(DAYS[1], DAYS[1])).unexplained == 4
    execute(database, "UPDATE lb.archive_runs SET kind = 'IMPORT'")
    assert verify(database, school).wrong == 0


def test_a_plan_s_json_can_be_stored(database: Database, school: Institution) -> None:
    selection = ArchiveSelection(first_day=DAYS[0], academic_years=("2022-2023",))
    restore(database, school, selection, TODAY, TODAY, ACTOR)
    with database.transaction() as connection:
        line = archive_ledger.latest(connection, school, at_most=1)[0]
    assert ArchiveSelection.from_json(json.loads(json.dumps(line.selection))) == selection
