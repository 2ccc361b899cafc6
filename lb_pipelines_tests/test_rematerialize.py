"""Days made again whose snapshots lie in the archive: left as they are, or renewed on purpose.

What must be true is taken from a twin: the same school, never archived, made once from its last
state, and itself held to the naive reference. Rows are archived and purged by plain SQL, so that
any subset can be; where the way back matters, by the sweeps and restores themselves.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from datetime import date, timedelta
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import ONE_DAY, DayRange, academic_year, academic_years_around
from lb_pipelines.core.selection import ArchiveSelection
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.db import partitions, queries
from lb_pipelines.db.engine import Connection, Database
from lb_pipelines.db.repositories import boards, holds, ledger, writers
from lb_pipelines.errors import PassOvertaken, UnderLegalHold
from lb_pipelines.materialize import snapshots, trends, writing
from lb_pipelines.materialize.passes import Origin, Pass
from lb_pipelines.materialize.results import DayResult, Provenance
from lb_pipelines.materialize.staleness import stale_ranges
from lb_pipelines.materialize.writing import RowsOfDay
from lb_pipelines.retention import restoring, sweeping
from lb_pipelines.retention.actor import Actor
from lb_pipelines_tests import oracle, stored, worlds
from lb_pipelines_tests.oracle import School
from lb_pipelines_tests.stored import Key, SnapshotRow
from lb_pipelines_tests.test_staleness import (
    NOW,
    aggregate,
    change,
    late_event,
    load,
    some_changes,
    waiting,
    whole,
)
from lb_pipelines_tests.test_trends import assert_trends_equal_the_reference
from lb_pipelines_tests.waiting import wait_until

RUN = Provenance("run")
RENEWAL = Provenance("renewal")
TODAY = date(2026, 1, 1)


def make(
    database: Database,
    institution: Institution,
    days: DayRange,
    types: Collection[str] = oracle.TYPES,
    *,
    renew: bool = False,
) -> list[DayResult]:
    return [
        result
        for type in types
        for result in snapshots.materialize(
            database,
            institution,
            BoardType(type),
            days,
            RENEWAL if renew else RUN,
            rematerialize_archived=renew,
            today=TODAY if renew else None,
        )
    ]


def archive(database: Database, institution: Institution, keys: Collection[Key]) -> None:
    """Move these snapshots into the archive, as a sweep leaves them."""
    partitions.ensure_archive_years(database, {academic_year(key[3], 8) for key in keys})
    with database.transaction() as connection, connection.cursor() as cursor:
        cursor.executemany(
            "WITH marked AS ("
            "  UPDATE lb.leaderboard_snapshots SET status = 'ARCHIVED' WHERE institution_id = %s"
            "  AND type = %s AND reference_id = %s AND time_granularity = %s"
            "  AND snapshot_date = %s RETURNING *)"
            " INSERT INTO lb.archived_leaderboard_snapshots (archive_run, created_at,"
            " snapshot_date, period_start, institution_id, type, reference_id, time_granularity,"
            " academic_year, content_hash, entries, metadata, distribution)"
            " SELECT 0, created_at, snapshot_date, period_start, institution_id, type,"
            " reference_id, time_granularity, %s, content_hash, entries, metadata, distribution"
            " FROM marked",
            [(institution.id, *key, academic_year(key[3], 8)) for key in keys],
        )


def purge(database: Database, institution: Institution, keys: Collection[Key]) -> None:
    """Let these originals go."""
    with database.transaction() as connection, connection.cursor() as cursor:
        cursor.executemany(
            "DELETE FROM lb.leaderboard_snapshots WHERE institution_id = %s AND type = %s"
            " AND reference_id = %s AND time_granularity = %s AND snapshot_date = %s"
            " AND status = 'ARCHIVED'",
            [(institution.id, *key) for key in keys],
        )


def copies(database: Database, institution_id: str) -> dict[Key, SnapshotRow]:
    """All of the archive."""
    with database.transaction() as connection:
        rows = connection.execute(
            "SELECT type, reference_id, time_granularity, snapshot_date, original_id,"
            " partition_key, 'ARCHIVED', period_start, entries, metadata, distribution,"
            " content_hash FROM lb.archived_leaderboard_snapshots WHERE institution_id = %s",
            (institution_id,),
        ).fetchall()
    return {row[:4]: SnapshotRow(*row[4:]) for row in rows}


def bytes_of(database: Database, institution_id: str) -> tuple[dict[str, str], dict[str, str]]:
    """Archived rows to the last byte, by id: the copies, and the originals that stand."""
    with database.transaction() as connection:
        found = [
            connection.execute(statement, (institution_id,)).fetchall()
            for statement in (
                "SELECT original_id, a::text FROM lb.archived_leaderboard_snapshots a"
                " WHERE institution_id = %s",
                "SELECT id, s::text FROM lb.leaderboard_snapshots s WHERE institution_id = %s"
                " AND status = 'ARCHIVED'",
            )
        ]
    return dict(found[0]), dict(found[1])


class Revision(NamedTuple):
    original_id: str
    revision: int
    old_hash: bytes
    new_hash: bytes | None
    run_id: str


def revisions(database: Database, institution: Institution) -> list[Revision]:
    with database.transaction() as connection:
        rows = connection.execute(
            "SELECT original_id, revision, old_hash, new_hash, run_id FROM lb.archive_revisions"
            " WHERE institution_key = %s ORDER BY 1, 2",
            (institution.key,),
        ).fetchall()
    return [Revision(*row) for row in rows]


def numbered(database: Database, institution: Institution) -> dict[str, int]:
    """The revision of every copy, by the snapshot's id."""
    with database.transaction() as connection:
        rows = connection.execute(
            "SELECT original_id, revision FROM lb.archived_leaderboard_snapshots"
            " WHERE institution_id = %s",
            (institution.id,),
        ).fetchall()
    return dict(rows)


def assert_each_stands_once(database: Database, institution: Institution) -> None:
    """ACTIVE and no copy, ARCHIVED and an equal copy, or a copy alone."""
    archived = copies(database, institution.id)
    for key, row in stored.snapshots(database, institution.id).items():
        if row.status == "ACTIVE":
            assert key not in archived, key
        else:
            assert archived[key].content == row.content, key
            assert archived[key].metadata == row.metadata, key


def twin_of(database: Database, school: School, days: DayRange) -> dict[Key, SnapshotRow]:
    """What all snapshots of these days would be had nothing ever been archived."""
    twin, institution = load(database, school)
    make(database, institution, days)
    stored.assert_snapshots_equal_the_reference(
        database, twin, {type: list(days) for type in oracle.TYPES}
    )
    return stored.snapshots(database, twin.id)


def same(row: SnapshotRow, of_twin: SnapshotRow) -> bool:
    """Whether two snapshots say the same, whoever's they are and wherever they lie."""
    return row.content[3:] == of_twin.content[3:]


def archived_world(
    database: Database, school: School, chance: random.Random
) -> tuple[School, Institution, DayRange, set[Key]]:
    """A school with all its days made, some of it archived: whole days, a granularity, any boards;
    some originals purged; then late events, aggregated. Gives also what is archived.
    """
    school, institution = load(database, school)
    days = whole(school)
    make(database, institution, days)
    rows = stored.snapshots(database, school.id)
    old = {day for day in days if chance.random() < 0.4}
    granularity = chance.choice(oracle.GRANULARITIES)
    keys = {
        key
        for key in rows
        if key[3] in old or (key[2] == granularity and key[3] < days.last - 3 * ONE_DAY)
        if chance.random() < 0.8
    }
    archive(database, institution, keys)
    purged = {day for day in days if chance.random() < 0.3}
    purge(database, institution, {key for key in keys if key[3] in purged})
    for number in range(2):
        school = change(database, institution, school, some_changes(chance, school, number))
    # Some boards of an archived day are left without anybody, others appear.
    emptied = chance.choice(sorted(old or set(days)))
    voided = [
        event._replace(status="VOIDED", updated_at=NOW + timedelta(days=2))
        for event in school.days.get(emptied, [])
    ]
    school = change(database, institution, school, voided)
    day = days.first + timedelta(days=chance.randrange(len(days)))
    everywhere = late_event(school, day, student=school.students[-1], amount=3)
    school = change(database, institution, school, [everywhere])
    # Changes reach three days beyond both ends.
    aggregate(database, institution, DayRange(days.first - 4 * ONE_DAY, days.last + 4 * ONE_DAY))
    return school, institution, days, keys


def world(seed: int = 1, **changes: Any) -> School:
    return worlds.make_school(seed, span=8, events=60, **changes)


@settings(
    max_examples=4,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(worlds.schools(spans=(5, 9), events=(20, 60)), st.integers(0, 2**32))
def test_archived_rows_stay_to_the_byte_or_are_renewed_with_an_entry(
    database: Database, school: School, seed: int
) -> None:
    chance = random.Random(seed)
    school, institution, days, keys = archived_world(database, school, chance)
    before, archived = bytes_of(database, school.id), copies(database, school.id)
    expected = twin_of(database, school, days)
    differing = {
        key
        for key in keys
        if key not in expected or expected[key].content_hash != archived[key].content_hash
    }

    # Without the flag, in any pieces.
    cut = days.first + timedelta(days=chance.randrange(len(days) - 1))
    pieces = [DayRange(days.first, cut), DayRange(cut + ONE_DAY, days.last)]
    for type, piece in sorted(
        itertools.product(oracle.TYPES, pieces), key=lambda _: chance.random()
    ):
        for result in make(database, institution, piece, [type]):
            here = {key for key in keys if (key[0], key[3]) == (type, result.day)}
            assert result.archived_kept == len(here)
            assert result.archived_differing == len(here & differing)
            assert ("archived_kept" in result.numbers) == bool(here)
            assert result.archived_renewed == 0
    assert bytes_of(database, school.id) == before
    active = {k: r for k, r in stored.snapshots(database, school.id).items() if k not in keys}
    assert active.keys() == expected.keys() - keys
    for key, row in active.items():
        assert row.status == "ACTIVE"
        assert same(row, expected[key]), key
    assert_each_stands_once(database, institution)
    # Kept or not, they do not stay stale for ever.
    assert stale_ranges(database, institution) == []
    assert not any(result.written for result in make(database, institution, days))

    # With it.
    results = make(database, institution, days, renew=True)
    assert sum(result.archived_renewed for result in results) == len(differing)
    assert sum(result.archived_kept for result in results) == len(keys - differing)
    assert sum(result.written for result in results) == len(differing)
    assert not any(result.archived_differing for result in results)
    live, now = stored.snapshots(database, school.id), copies(database, school.id)
    assert now.keys() == keys & expected.keys()
    assert live.keys() - keys == expected.keys() - keys
    for key, row in [*live.items(), *now.items()]:
        assert same(row, expected[key]), key
    assert_each_stands_once(database, institution)
    ids = {key: f"{school.id}:{':'.join(map(str, key))}" for key in keys}
    assert revisions(database, institution) == sorted(
        Revision(
            ids[key],
            2,
            archived[key].content_hash,
            expected[key].content_hash if key in expected else None,
            "renewal",
        )
        for key in differing
    )
    assert numbered(database, institution) == {ids[key]: 1 + (key in differing) for key in now}
    untouched = {ids[key] for key in keys - differing}
    after = bytes_of(database, school.id)
    for then, since in zip(before, after, strict=True):
        assert {id: then[id] for id in untouched & then.keys()} == {
            id: since[id] for id in untouched & since.keys()
        }

    # Once more: nothing is left to renew.
    entries = revisions(database, institution)
    assert not any(result.written for result in make(database, institution, days, renew=True))
    assert (bytes_of(database, school.id), revisions(database, institution)) == (after, entries)
    assert stale_ranges(database, institution) == []


def test_of_a_purged_day_only_what_is_new_comes_back(database: Database) -> None:
    """Nothing of it stands in the table any more: a COPY straight into it would double it all."""
    school, institution = load(database, world())
    days = whole(school)
    day = days.first + 4 * ONE_DAY
    make(database, institution, days)
    rows = stored.snapshots(database, school.id)
    absent = next(key for key in rows if key[3] == day and key[2] == "all-time")
    keys = {key for key in rows if key[3] == day}
    archive(database, institution, keys)
    purge(database, institution, keys)
    # A board that the archive does not have.
    with database.transaction() as connection:
        connection.execute(
            "DELETE FROM lb.archived_leaderboard_snapshots WHERE original_id = %s",
            (rows[absent].id,),
        )
    before = bytes_of(database, school.id)
    results = make(database, institution, DayRange(day, day))
    assert sum(result.written for result in results) == 1
    live = {key: row for key, row in stored.snapshots(database, school.id).items() if key[3] == day}
    assert {key: row.status for key, row in live.items()} == {absent: "ACTIVE"}
    assert bytes_of(database, school.id) == before
    assert_each_stands_once(database, institution)


def test_what_a_sweep_takes_during_a_day_is_not_written_over(database: Database) -> None:
    """Archived after the day has asked what is in the archive: the row itself is asked again."""
    school, institution = load(database, world())
    days = whole(school)
    make(database, institution, days, ["CLASS"])
    day = DayRange(days.last, days.last)
    keys = {key for key in stored.snapshots(database, school.id) if key[3] == days.last}
    change(database, institution, school, [late_event(school, days.first, amount=50)])
    aggregate(database, institution, days)

    def swept_first(
        connection: Connection, institution: Institution, type: BoardType, on: date, columns: Any
    ) -> boards.Replaced:
        """The sweep commits between the staging of the day and its first write."""
        later: Iterator[Any] = iter(columns[-1])

        def last_column() -> Iterator[Any]:
            yield from later
            archive(database, institution, keys)
            before.append(bytes_of(database, school.id))

        return boards.replace_snapshots(
            connection, institution, type, on, [*columns[:-1], last_column()]
        )

    before: list[Any] = []
    results = list(
        writing.write(
            database,
            institution,
            [replace(snapshots.product(BoardType.CLASS, RUN), replace=swept_first)],
            day,
            RUN,
        )
    )
    assert before
    assert bytes_of(database, school.id) == before[0]
    assert sum(result.written for result in results) == 0
    assert_each_stands_once(database, institution)


# --- Legal holds ---


def held(database: Database, institution: Institution, **bounds: Any) -> Any:
    which: dict[str, Any] = {"type": None, "first_month": None, "last_month": None, "until": None}
    with database.transaction() as connection:
        return holds.place(
            connection, institution, **(which | bounds), reason="a case", placed_by="counsel"
        )


def renewable(database: Database) -> tuple[School, Institution, DayRange]:
    """Everything archived, and every day of it stale."""
    school, institution = load(database, world(2))
    days = whole(school)
    make(database, institution, days)
    archive(database, institution, set(stored.snapshots(database, school.id)))
    late = late_event(school, days.first, class_id="a", subject="a", campus="a", amount=77)
    school = change(database, institution, school, [late])
    aggregate(database, institution, days)
    return school, institution, days


def test_a_legal_hold_forbids_a_renewal_and_nothing_of_the_day_is_written(
    database: Database,
) -> None:
    school, institution, days = renewable(database)
    number = held(database, institution, type=BoardType.CLASS, until=TODAY)
    before = bytes_of(database, school.id)
    with database.transaction() as connection:
        entries = ledger.materialized(connection, institution, "class_snapshots", days)
    with pytest.raises(UnderLegalHold, match=rf"CLASS boards of {days.first}.*hold {number}"):
        make(database, institution, days, ["CLASS"], renew=True)
    assert bytes_of(database, school.id) == before
    with database.transaction() as connection:
        assert ledger.materialized(connection, institution, "class_snapshots", days) == entries
    # Leaving them as they are is no renewal.
    assert all(result.archived_kept for result in make(database, institution, days, ["CLASS"]))
    assert bytes_of(database, school.id) == before
    make(database, institution, days, ["SUBJECT"], renew=True)
    assert {row.original_id.split(":")[1] for row in revisions(database, institution)} == {
        "SUBJECT"
    }


def test_holds_that_are_over_elsewhere_or_of_other_months_forbid_nothing(
    database: Database,
) -> None:
    school, institution, days = renewable(database)
    _, elsewhere = load(database, oracle.renamed(school, ""))
    held(database, elsewhere)
    held(database, institution, until=TODAY - ONE_DAY)
    held(database, institution, last_month=date(2022, 12, 1))
    released = held(database, institution)
    with database.transaction() as connection:
        holds.release(connection, institution, released, "counsel")
    results = make(database, institution, days, renew=True)
    assert all(result.archived_renewed for result in results if result.rows)
    # What would write nothing is forbidden nothing.
    held(database, institution)
    assert not any(result.written for result in make(database, institution, days, renew=True))


# --- Who writes at the same time ---


def test_a_renewal_waits_for_all_who_write_and_they_for_it(database: Database) -> None:
    _, institution, days = renewable(database)
    day = DayRange(days.last, days.last)
    with database.transaction() as other:
        writers.write_beside_others(other, institution)
        # Days and sweeps beside each other: this one does not wait.
        make(database, institution, day, ["CAMPUS"])
        with waiting(database, lambda: make(database, institution, day, ["CAMPUS"], renew=True)):
            assert not revisions(database, institution)
            other.commit()
    assert revisions(database, institution)
    with database.transaction() as other:
        writers.write_alone(other, institution)
        with waiting(database, lambda: make(database, institution, day, ["CLASS"])):
            other.commit()


def test_a_renewal_catches_up_with_a_later_state(database: Database) -> None:
    """Somebody else has written a later state without renewing: the run goes on from that state."""
    school, institution, days = renewable(database)
    under_way = snapshots.materialize(
        database,
        institution,
        BoardType.CLASS,
        days,
        RENEWAL,
        rematerialize_archived=True,
        today=TODAY,
    )
    results = [next(under_way)]
    # Behind the days that may be written by now.
    late = days.first + (writing._AHEAD + 2) * ONE_DAY
    assert late < days.last
    school = change(database, institution, school, [late_event(school, late, amount=900)])
    aggregate(database, institution, days)
    make(database, institution, days, ["CLASS"])
    results += under_way
    assert [result.day for result in results] == list(days)
    assert not any(result.superseded for result in results)
    expected = twin_of(database, school, days)
    for key, row in copies(database, school.id).items():
        if key[0] == "CLASS":
            assert same(row, expected[key]), key
    assert_each_stands_once(database, institution)


# --- Erasure ---

OLD, NEW = "s1", "erased 1"


def erase(connection: Connection, institution: Institution) -> None:
    """What an erasure does to a student's id, alone and raising the count of erasures."""
    writers.write_alone(connection, institution)
    connection.execute(
        "UPDATE lb.institutions SET erasures = erasures + 1 WHERE institution_key = %s",
        (institution.key,),
    )
    connection.execute(
        "UPDATE lb.students SET id = %s, order_key = id WHERE institution_key = %s AND id = %s",
        (NEW, institution.key, OLD),
    )
    connection.execute(
        "UPDATE lb.leaderboard_snapshots SET entries = replace(entries::text, %s, %s)::jsonb"
        " WHERE institution_id = %s",
        (f'"{OLD}"', f'"{NEW}"', institution.id),
    )
    connection.execute(
        "UPDATE lb.leaderboard_trends"
        " SET leader_id = CASE leader_id WHEN %(text)s THEN %(to)s ELSE leader_id END,"
        " students = replace(students::text, %(old)s, %(new)s)::jsonb,"
        " movement = replace(movement::text, %(old)s, %(new)s)::jsonb"
        " WHERE institution_id = %(id)s",
        {"text": OLD, "to": NEW, "old": f'"{OLD}"', "new": f'"{NEW}"', "id": institution.id},
    )


def named(database: Database, institution: Institution, student: str) -> set[date]:
    """The days of which any snapshot or trend names the student."""
    with database.transaction() as connection:
        rows = connection.execute(
            "SELECT snapshot_date FROM lb.leaderboard_snapshots WHERE institution_id = %(id)s"
            " AND strpos(entries::text, %(student)s) > 0 UNION"
            " SELECT snapshot_date FROM lb.leaderboard_trends WHERE institution_id = %(id)s"
            " AND (strpos(students::text || movement::text, %(student)s) > 0"
            "      OR leader_id = %(text)s)",
            {"id": institution.id, "student": f'"{student}"', "text": student},
        ).fetchall()
    return {day for (day,) in rows}


@pytest.mark.parametrize("verb", [snapshots.materialize, trends.materialize])
@pytest.mark.parametrize("in_flight", [False, True])
def test_nothing_read_before_an_erasure_is_written_after_it(
    database: Database, verb: Any, in_flight: bool
) -> None:
    """The pass is held open between two days; or the erasure is, while a day waits to be written:
    asked before the wait, it would still look as if nothing had been erased.
    """
    # Two students, so that the one erased is on nearly every board.
    school, institution = load(database, world(3, students=2))
    days = whole(school)
    aggregate(database, institution, days)
    under_way = verb(database, institution, BoardType.CAMPUS, days, RUN)
    results = list(itertools.islice(under_way, 4))
    assert named(database, institution, OLD)
    with database.transaction() as connection:
        erase(connection, institution)
        if in_flight:
            rest: list[DayResult] = []
            with waiting(database, lambda: rest.extend(under_way)):
                connection.commit()
            results += rest
    results += under_way
    assert [result.day for result in results] == list(days)
    assert not named(database, institution, OLD)
    assert days.last in named(database, institution, NEW)
    assert stale_ranges(database, institution) == []
    # Nothing else is different, not even how long anybody has led: both ids come first in a tie.
    school = replace(
        school,
        students=tuple(NEW if id == OLD else id for id in school.students),
        events=tuple(
            e._replace(student=NEW if e.student == OLD else e.student) for e in school.events
        ),
        enrollments=tuple(
            e._replace(student=NEW if e.student == OLD else e.student) for e in school.enrollments
        ),
        remembered={},
    )
    equals = (
        stored.assert_snapshots_equal_the_reference
        if verb is snapshots.materialize
        else assert_trends_equal_the_reference
    )
    equals(database, school, {"CAMPUS": list(days)})


def committed(database: Database, institution: Institution, days: DayRange) -> list[date]:
    """The days whose class boards stand."""
    with database.transaction() as connection:
        made = ledger.materialized(connection, institution, "class_snapshots", days)
    return [entry.day for entry in made]


def test_a_pass_that_is_overtaken_time_after_time_ends_in_a_typed_error(
    database: Database,
) -> None:
    school, institution = load(database, world(4))
    days = whole(school)
    third = days.first + 2 * ONE_DAY
    aggregate(database, institution, days)

    def write(erasures: int) -> tuple[list[date], list[date]]:
        """Overtaken so often at the third day, each time after the pass was opened; gives the days
        on which passes were opened, and those written.
        """
        opened: list[date] = []

        product = snapshots.product(BoardType.CLASS, RUN)

        def rows_of(of: Database, pass_: Pass) -> Callable[[Origin], RowsOfDay]:
            opened.append(pass_.first)
            rows_of_day = product.rows_of(of, pass_)

            def rows(origin: Origin) -> RowsOfDay:
                nonlocal erasures
                if origin.day == third and erasures:
                    erasures -= 1
                    # The day before is written meanwhile, and is not to be overtaken too.
                    wait_until(lambda: third - ONE_DAY in committed(database, institution, days))
                    with database.transaction() as connection:
                        erase(connection, institution)
                return rows_of_day(origin)

            return rows

        overtaken = replace(product, rows_of=rows_of)
        results = writing.write(database, institution, [overtaken], days, RUN)
        return opened, [result.day for result in results]

    with pytest.raises(PassOvertaken, match=rf"{third}.*{writing.TRIES} tries"):
        write(writing.TRIES)
    assert committed(database, institution, days) == [days.first, days.first + ONE_DAY]
    opened, written = write(writing.TRIES - 1)
    assert opened == [days.first] + [third] * (writing.TRIES - 1)
    assert written == list(days)


def test_nothing_is_written_after_a_day_that_could_not_be(database: Database) -> None:
    """The day after it is ready and waits for its turn by then."""
    school, institution = load(database, world(4))
    days = whole(school)
    third = days.first + 2 * ONE_DAY
    aggregate(database, institution, days)

    def falls(
        connection: Connection, of: Institution, type: BoardType, day: date, columns: Any
    ) -> Any:
        if day == third:
            raise ZeroDivisionError(day)
        return boards.replace_snapshots(connection, of, type, day, columns)

    product = replace(snapshots.product(BoardType.CLASS, RUN), replace=falls)
    with pytest.raises(ZeroDivisionError):
        list(writing.write(database, institution, [product], days, RUN))
    assert committed(database, institution, days) == [days.first, days.first + ONE_DAY]


# --- Beside the rest of the house ---


def test_trends_of_archived_days_are_made_as_ever(database: Database) -> None:
    school, institution, days = renewable(database)
    purge(database, institution, set(copies(database, school.id)))
    for type in oracle.TYPES:
        list(trends.materialize(database, institution, BoardType(type), days, RUN))
    assert_trends_equal_the_reference(database, school, {type: list(days) for type in oracle.TYPES})
    assert not stored.snapshots(database, school.id)


def test_a_revision_outlives_a_restore_and_another_sweep(database: Database) -> None:
    school, institution = load(database, world(5))
    days = whole(school)
    make(database, institution, days)
    today, actor = date(2030, 1, 1), Actor("a test")

    def sweep(today: date) -> None:
        for granularity in Granularity:
            sweeping.sweep(database, institution, granularity, today, actor)

    def points(amount: int) -> None:
        nonlocal school
        event = late_event(school, days.first, class_id="a", amount=amount)
        event = event._replace(updated_at=event.updated_at + timedelta(seconds=amount))
        school = change(database, institution, school, [event])
        aggregate(database, institution, days)

    sweep(today)
    assert set(numbered(database, institution).values()) == {1}
    points(50)
    assert any(r.archived_renewed for r in make(database, institution, days, ["CLASS"], renew=True))
    second = numbered(database, institution)
    assert set(second.values()) == {1, 2}
    restoring.restore(database, institution, ArchiveSelection(), today, today, actor)
    assert not copies(database, school.id)
    points(60)
    make(database, institution, days)
    sweep(today + ONE_DAY)
    assert {id: numbered(database, institution)[id] for id in second} == second
    with database.transaction() as connection:
        # As a copy comes back by the import of an older export.
        connection.execute("UPDATE lb.archived_leaderboard_snapshots SET revision = 1")
    points(70)
    make(database, institution, days, renew=True)
    entries = revisions(database, institution)
    assert {entry.revision for entry in entries} == {2, 3}
    assert len({entry[:2] for entry in entries}) == len(entries)
    assert_each_stands_once(database, institution)
    expected = twin_of(database, school, days)
    assert {k: r.content[3:] for k, r in copies(database, school.id).items()} == {
        k: r.content[3:] for k, r in expected.items()
    }


def test_a_move_carries_status_and_active_until_and_misses_no_purged_leaf(
    database: Database,
) -> None:
    school, institution = load(database, world(6))
    days = whole(school)
    make(database, institution, days)
    rows = stored.snapshots(database, school.id)
    archive(database, institution, {key for key in rows if key[2] != "all-time"})
    with database.transaction() as connection:
        connection.execute(
            "UPDATE lb.leaderboard_snapshots SET active_until = snapshot_date + 1000"
            " WHERE institution_id = %s AND status = 'ACTIVE'",
            (school.id,),
        )
        leaf = f"{school.id}_CAMPUS_{days.first:%Y-%m}"
        connection.execute(
            f'ALTER TABLE lb_part."{school.id}:CAMPUS" DETACH PARTITION lb_part."{leaf}"'
        )
        connection.execute(f'DROP TABLE lb_part."{leaf}"')

    def everything() -> list[str]:
        with database.transaction() as connection:
            texts = connection.execute(
                "SELECT s::text FROM lb.leaderboard_snapshots s WHERE institution_id = %s",
                (school.id,),
            ).fetchall()
        return sorted(text for (text,) in texts)

    before = everything()
    assert before
    assert partitions.demote(database, school.id)
    assert everything() == before
    assert partitions.promote(database, school.id)
    assert everything() == before
    # And the days of the leaf that was gone are written as any.
    make(database, institution, days)
    assert_each_stands_once(database, institution)


@pytest.mark.parametrize("name", ["remove_vanished", "archived_of_day", "leave_archived"])
def test_a_day_is_compared_by_hash_however_little_the_planner_knows(
    database: Database, name: str
) -> None:
    """Row by row it takes minutes for a large institution's day, which looks like one row."""
    school, institution = load(database, world())
    days = whole(school)
    make(database, institution, days, ["CLASS"])
    archive(database, institution, set(stored.snapshots(database, school.id)))
    nothing: list[list[bytes | None]] = [[] for _ in range(10)]
    with database.transaction() as connection:
        boards._stage(connection, queries.snapshots, nothing)
        plan = connection.execute(
            f"EXPLAIN {queries.text(getattr(queries.snapshots, name))}",
            {
                "institution_id": institution.id,
                "type": "CLASS",
                "day": days.last,
                "academic_years": academic_years_around(days.last),
            },
        ).fetchall()
    text = "\n".join(line for (line,) in plan)
    assert "Hash" in text
    assert "Nested Loop" not in text
    assert "Merge Join" not in text
