"""What a late, changed, voided or moved event makes stale: all of it, nothing else, until redone.

And what keeps an older state from standing where a newer one should: totals that were summed
before a change, passes that were opened before it, writers at once.
"""

from __future__ import annotations

import itertools
import random
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, time, timedelta

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import ONE_DAY, DayRange
from lb_pipelines.core.words import BoardType
from lb_pipelines.db.engine import Database
from lb_pipelines.db.partitions import ensure_event_months
from lb_pipelines.db.repositories import aggregates as aggregates_repository
from lb_pipelines.db.repositories import totals as totals_repository
from lb_pipelines.db.repositories import writers
from lb_pipelines.materialize import aggregates, past, snapshots, staleness, trends, writing
from lb_pipelines.materialize.results import DayResult, Provenance
from lb_pipelines.materialize.staleness import find_stale_days, stale_ranges
from lb_pipelines.sources import loading
from lb_pipelines_tests import oracle, stored, worlds
from lb_pipelines_tests.oracle import Event, School
from lb_pipelines_tests.test_trends import assert_trends_equal_the_reference

RUN = Provenance("run")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
_names = (f"inst_{number}" for number in itertools.count())


def load(database: Database, school: School) -> tuple[School, Institution]:
    school = oracle.renamed(school, next(_names))
    return school, worlds.load(database, school)


def aggregate(database: Database, institution: Institution, days: DayRange) -> list[DayResult]:
    return list(aggregates.materialize(database, institution, days, RUN))


def snap(
    database: Database, institution: Institution, days: DayRange, type: str = "CLASS"
) -> list[DayResult]:
    return list(snapshots.materialize(database, institution, BoardType(type), days, RUN))


def change(
    database: Database, institution: Institution, school: School, events: Iterable[Event]
) -> School:
    """Write changed or new events; gives the school as it is then."""
    changed = list(events)
    for event in changed:
        ensure_event_months(database, event.occurred_at.date(), event.occurred_at.date())
    with database.transaction() as connection:
        worlds.write_events(connection, institution.key, changed)
    by_id = {event.id: event for event in (*school.events, *changed)}
    return oracle.renamed(school, school.id, events=tuple(by_id.values()))


def days_of(ranges: list[DayRange]) -> list[date]:
    return [day for range_ in ranges for day in range_]


def local_days(school: School, events: Iterable[Event]) -> set[date]:
    everything = oracle.renamed(
        school, school.id, events=tuple(e._replace(status="ACTIVE") for e in events)
    )
    return set(everything.days)


def known_days(database: Database, institution: Institution) -> set[date]:
    """Days that anything was made for, be it only because a later day needed them."""
    with database.transaction() as connection:
        rows = connection.execute(
            "SELECT DISTINCT day FROM lb.materialized_days WHERE institution_key = %s",
            (institution.key,),
        ).fetchall()
    return {day for (day,) in rows}


def whole(school: School) -> DayRange:
    first, last = worlds.span_of(school)
    return DayRange(first, last + 2 * ONE_DAY)


def late_event(school: School, day: date, **changes: object) -> Event:
    event = school.events[0]._replace(
        id=f"late {day}",
        status="ACTIVE",
        occurred_at=worlds.at_local(day, time(12), school.zone),
        updated_at=NOW,
    )
    return event._replace(**changes)  # type: ignore[arg-type]


@contextmanager
def waiting(database: Database, work: Callable[[], object]) -> Iterator[None]:
    """Run `work` in a thread, which must wait for an advisory lock until the block has ended."""
    failures: list[BaseException] = []

    def attempt() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=attempt)
    thread.start()
    try:
        with database.autocommit() as connection:
            while not connection.execute(
                "SELECT FROM pg_locks JOIN pg_database d ON d.oid = database"
                " WHERE datname = current_database() AND locktype = 'advisory' AND NOT granted"
            ).fetchall():
                assert thread.is_alive(), f"it did not wait: {failures}"
        yield
    finally:
        thread.join()
    assert not failures


def some_changes(chance: random.Random, school: School, number: int) -> list[Event]:
    """Events voided, revived, of another amount, merely touched, moved, and new ones."""
    first, last = worlds.span_of(school)
    changes: dict[str, Event] = {}
    for at in range(chance.randint(1, 4)):
        event = chance.choice(school.events)
        stamp = NOW + timedelta(microseconds=chance.randrange(10**12))
        kind = chance.choice(("status", "amount", "touch", "move", "new", "new"))
        if kind == "status":
            event = event._replace(status="VOIDED" if event.status == "ACTIVE" else "ACTIVE")
        elif kind == "amount":
            event = event._replace(amount=chance.choice(worlds.AMOUNTS))
        elif kind in ("move", "new"):
            early, late = first - 3 * ONE_DAY, last + 3 * ONE_DAY
            event = worlds.make_event(chance, school, 0, early, late, first)._replace(
                id=event.id if kind == "move" else f"new {number} {at}"
            )
        changes[event.id] = event._replace(updated_at=stamp)
    return list(changes.values())


@settings(
    max_examples=3,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(worlds.schools(spans=(8, 20), events=(30, 60)), st.integers(0, 2**32))
def test_exactly_what_is_affected_is_stale_and_nothing_once_it_is_redone(
    database: Database, school: School, seed: int
) -> None:
    chance = random.Random(seed)
    school, institution = load(database, school)
    span = whole(school)
    aggregate(database, institution, span)
    made = {day for day in span if chance.random() < 0.7} | {span.last}
    types = [chance.choice(oracle.TYPES) for _ in range(2)]
    for day in sorted(made):
        snap(database, institution, DayRange(day, day), types[0])
        list(
            trends.materialize(database, institution, BoardType(types[1]), DayRange(day, day), RUN)
        )
    assert stale_ranges(database, institution) == []

    made_of = {
        f"{types[0].lower()}_snapshots": made,
        f"{types[1].lower()}_trends": made,
    }
    for number in range(3):
        changed = some_changes(chance, school, number)
        ids = {event.id for event in changed}
        before = [event for event in school.events if event.id in ids]
        began = min(school.days, default=date.max)
        school = change(database, institution, school, changed)
        # Also those before and after that a board needed.
        made_of["point_aggregates"] = known_days(database, institution)
        expected = expected_stale_days(school, [*before, *changed], made_of, began)
        assert all_days_of(find_stale_days(database, institution)) == expected
        for range_ in find_stale_days(database, institution).get("point_aggregates", ()):
            aggregate(database, institution, range_)
        # What is stale now is that of which an earlier day has other sums, not what was touched.
        remaining = all_days_of(find_stale_days(database, institution))
        assert "point_aggregates" not in remaining
        assert all(days <= expected[asset] for asset, days in remaining.items())
        again = set().union(*remaining.values())
        for day in sorted(again, reverse=chance.random() < 0.5):
            snap(database, institution, DayRange(day, day), types[0])
            list(
                trends.materialize(
                    database, institution, BoardType(types[1]), DayRange(day, day), RUN
                )
            )
        assert stale_ranges(database, institution) == []
        stored.assert_snapshots_equal_the_reference(database, school, {types[0]: made})
        assert_trends_equal_the_reference(database, school, {types[1]: made})


def all_days_of(stale: staleness.StaleDays) -> dict[str, set[date]]:
    return {asset: set(days_of(list(ranges))) for asset, ranges in stale.items()}


def expected_stale_days(
    school: School, events: Iterable[Event], made_of: Mapping[str, set[date]], began: date
) -> dict[str, set[date]]:
    """The days of each asset that these events, which came or went, can touch.

    `began`: the day of the first event before, with which every all-time window begins.
    """
    active = [event for event in events if event.status == "ACTIVE"]
    days = local_days(school, active)
    expected = {"point_aggregates": days & made_of["point_aggregates"]}
    for asset, made in made_of.items():
        type, _, kind = asset.partition("_")
        touching = [e for e in active if type != "point" and e.reference(type.upper())]
        first = min(local_days(school, touching), default=date.max)
        if kind == "snapshots" and days and min(days) <= began:
            first = min(days)
        if asset != "point_aggregates":
            expected[asset] = {day for day in made if day >= first}
    return {asset: days for asset, days in expected.items() if days}


def test_days_before_a_late_event_stay_current(database: Database) -> None:
    school, institution = load(database, worlds.make_school(1))
    span = whole(school)
    aggregate(database, institution, span)
    snap(database, institution, span)
    middle = span.first + 20 * ONE_DAY
    change(database, institution, school, [late_event(school, middle, class_id="a")])
    assert stale_ranges(database, institution) == [DayRange(middle, span.last)]


def test_an_event_after_all_aggregated_days_makes_nothing_stale(database: Database) -> None:
    school, institution = load(database, worlds.make_school(1))
    span = whole(school)
    aggregate(database, institution, span)
    snap(database, institution, span)
    change(database, institution, school, [late_event(school, span.last + ONE_DAY)])
    assert stale_ranges(database, institution) == []


def test_an_event_that_was_only_touched_makes_no_board_stale(database: Database) -> None:
    school, institution = load(database, worlds.make_school(2))
    span = whole(school)
    aggregate(database, institution, span)
    snap(database, institution, span)
    school = change(database, institution, school, [school.events[7]._replace(updated_at=NOW)])
    (touched,) = local_days(school, [school.events[7]])
    assert days_of(stale_ranges(database, institution))[0] == touched
    (result,) = aggregate(database, institution, DayRange(touched, touched))
    assert result.written == 0
    assert stale_ranges(database, institution) == []


def test_days_without_events_that_are_aggregated_late_make_nothing_stale(
    database: Database,
) -> None:
    """Somebody aggregates years before the first event: the boards since are what they were."""
    school, institution = load(database, worlds.make_school(2))
    span = whole(school)
    snap(database, institution, span)
    cut = span.last.replace(day=1)
    ensure_totals(database, institution, [cut])
    standing = totals(database, institution)
    assert standing
    aggregate(database, institution, DayRange(span.first - 40 * ONE_DAY, span.first - ONE_DAY))
    assert stale_ranges(database, institution) == []
    assert totals(database, institution) == standing
    # A day that loses what it had is another matter.
    day = min(school.days)
    voided = [event._replace(status="VOIDED") for event in school.days[day]]
    change(database, institution, school, voided)
    aggregate(database, institution, DayRange(day, day))
    assert stale_ranges(database, institution) == [DayRange(day, span.last)]
    assert totals(database, institution) == {}


def test_a_day_that_lost_its_only_event_is_stale(database: Database) -> None:
    """Nothing on the day tells of it any more: neither a row nor its `updated_at`."""
    school = worlds.make_school(3, events=20)
    lonely = late_event(school, date(2023, 7, 1))
    school, institution = load(
        database, oracle.renamed(school, "", events=(*school.events, lonely))
    )
    span = DayRange(date(2023, 6, 1), date(2023, 7, 3))
    aggregate(database, institution, span)
    snap(database, institution, span)
    with database.transaction() as connection:
        connection.execute(
            "DELETE FROM lb.student_points WHERE institution_key = %s AND event_id = %s",
            (institution.key, lonely.id),
        )
    assert stale_ranges(database, institution) == [DayRange(date(2023, 7, 1), span.last)]


def test_boards_made_before_there_was_any_event_become_stale(database: Database) -> None:
    school = worlds.make_school(4)
    school, institution = load(database, oracle.renamed(school, "", events=()))
    days = DayRange(date(2023, 3, 1), date(2023, 3, 4))
    snap(database, institution, days)
    assert stale_ranges(database, institution) == []
    event = late_event(worlds.make_school(4), date(2023, 3, 2))
    school = change(database, institution, school, [event])
    assert stale_ranges(database, institution) == [DayRange(date(2023, 3, 2), days.last)]
    snap(database, institution, DayRange(date(2023, 3, 2), days.last))
    assert stale_ranges(database, institution) == []
    stored.assert_snapshots_equal_the_reference(database, school, {"CLASS": list(days)})


@pytest.mark.present
@pytest.mark.parametrize("left_alone", [True, False])
def test_an_event_that_an_import_moves_makes_the_day_it_left_stale(
    database: Database, left_alone: bool
) -> None:
    """However little of the past is searched; also where the day keeps other events."""
    school = worlds.make_school(5, moment=("America/New_York", date(2023, 11, 5)))
    old, new = date(2023, 11, 3), date(2023, 11, 8)
    if left_alone:
        school = oracle.renamed(
            school,
            "",
            events=tuple(e for e in school.events if not local_days(school, [e]) & {old}),
        )
    moving = late_event(school, old, class_id="a", updated_at=datetime(2025, 1, 1, tzinfo=UTC))
    school, institution = load(
        database, oracle.renamed(school, "", events=(*school.events, moving))
    )
    span = whole(school)
    aggregate(database, institution, span)
    snap(database, institution, span)
    moved = moving._replace(occurred_at=worlds.at_local(new, time(12), school.zone))
    with database.transaction() as connection:
        row = connection.execute(
            "SELECT student_key, class_key, subject_key, campus_key FROM lb.student_points"
            " WHERE institution_key = %s AND event_id = %s",
            (institution.key, moving.id),
        ).fetchone()
        assert row is not None
        values = [[moved.occurred_at], *([key] for key in row), [moved.amount], [moved.id]]
        arrays = [pa.array(v, f.type) for v, f in zip(values, loading.POINTS, strict=True)]
        batch = pa.RecordBatch.from_arrays(arrays, schema=loading.POINTS)
        loading.lock(connection, [institution.key])
        written = loading.load_points(connection, institution.key, [batch])
    assert (written.moved, written.inserted, written.changed) == (1, 1, 0)
    school = oracle.renamed(school, school.id, events=(*school.events[:-1], moved))
    stale = stale_ranges(database, institution)
    assert stale == [DayRange(old, span.last)]
    for range_ in stale:
        aggregate(database, institution, range_)
        snap(database, institution, range_)
    assert stale_ranges(database, institution) == []
    stored.assert_snapshots_equal_the_reference(database, school, {"CLASS": list(span)})


def test_of_many_institutions_those_are_examined_that_something_has_happened_to(
    database: Database,
) -> None:
    """Whatever makes a day stale shows in what is asked of all of them at once."""
    schools: dict[str, tuple[School, Institution]] = {}
    names = ("quiet", "late", "tomorrow", "removed", "aggregated", "settings")
    for seed, name in enumerate(names):
        school, institution = load(database, worlds.make_school(seed, events=20))
        schools[name] = school, institution
        aggregate(database, institution, whole(school))
        snap(database, institution, whole(school))
    everybody = [institution for _, institution in schools.values()]
    assert staleness.find_changed(database, everybody) == {one.id for one in everybody}
    assert all(staleness.settle(database, one, NOW) for one in everybody)
    assert staleness.find_changed(database, everybody) == set()

    def come_in(name: str, day: date) -> None:
        school, institution = schools[name]
        change(database, institution, school, [late_event(school, day)])

    def first_of(name: str) -> date:
        return whole(schools[name][0]).first

    come_in("late", first_of("late"))
    come_in("tomorrow", whole(schools["tomorrow"][0]).last + ONE_DAY)
    come_in("aggregated", first_of("aggregated"))
    day = DayRange(first_of("aggregated"), first_of("aggregated"))
    aggregate(database, schools["aggregated"][1], day)
    with database.transaction() as connection:
        connection.execute(
            "DELETE FROM lb.student_points WHERE institution_key = %s",
            (schools["removed"][1].key,),
        )
        connection.execute(
            'UPDATE lb.institutions SET metadata = \'{"leaderboardRanking": "dense"}\''
            " WHERE institution_key = %s",
            (schools["settings"][1].key,),
        )
    changed = staleness.find_changed(database, everybody)
    assert changed == {schools[name][1].id for name in names[1:] if name != "tomorrow"}
    assert changed == {one.id for one in everybody if stale_ranges(database, one)}
    assert not any(staleness.settle(database, one, NOW) for one in everybody if one.id in changed)
    assert staleness.find_changed(database, everybody) == changed
    assert staleness.find_changed(database, []) == set()


def test_what_was_settled_is_open_again_when_an_older_day_is_written(database: Database) -> None:
    """A pass reads its inputs, a change comes and is settled, the pass writes: its day is stale."""
    school, institution = load(database, worlds.make_school(5))
    span = whole(school)
    aggregate(database, institution, span)
    far = span.first + 30 * ONE_DAY
    under_way = snapshots.materialize(
        database, institution, BoardType.CLASS, DayRange(span.first, far), RUN
    )
    next(under_way)
    school = change(database, institution, school, [late_event(school, far, class_id="a")])
    aggregate(database, institution, DayRange(far, far))
    assert stale_ranges(database, institution) == []
    while not staleness.settle(database, institution, NOW):
        pass  # The day that the pass has handed over is being written.
    list(under_way)
    assert stale_ranges(database, institution) == [DayRange(far, far)]
    assert staleness.find_changed(database, [institution]) == {institution.id}
    snap(database, institution, DayRange(far, far))
    assert stale_ranges(database, institution) == []
    stored.assert_snapshots_equal_the_reference(
        database, school, {"CLASS": list(DayRange(span.first, far))}
    )


def test_nothing_is_settled_while_a_day_is_being_written(database: Database) -> None:
    school, institution = load(database, worlds.make_school(5))
    aggregate(database, institution, whole(school))
    with database.transaction() as connection:
        writers.write_beside_others(connection, institution)
        assert not staleness.settle(database, institution, NOW)
    assert staleness.settle(database, institution, NOW)


# --- Older states beside newer ones ---


def long_school(seed: int) -> School:
    return worlds.make_school(
        seed, moment=("Europe/London", date(2023, 10, 29)), span=110, events=150
    )


def totals(
    database: Database, institution: Institution, type: BoardType = BoardType.CLASS
) -> dict[date, int]:
    with database.transaction() as connection:
        return totals_repository.stored(connection, institution, type)


def ensure_totals(database: Database, institution: Institution, cuts: list[date]) -> None:
    past.ensure_totals(database, institution, dict.fromkeys(BoardType, cuts))


def test_totals_of_later_days_go_with_a_change_and_earlier_ones_stay(database: Database) -> None:
    school, institution = load(database, long_school(1))
    span = whole(school)
    cuts = [date(2023, month, 1) for month in (10, 11, 12)]
    aggregate(database, institution, span)
    ensure_totals(database, institution, cuts)
    made = totals(database, institution)
    assert list(made) == cuts
    change(database, institution, school, [late_event(school, date(2023, 10, 20))])
    aggregate(database, institution, DayRange(date(2023, 10, 20), date(2023, 10, 20)))
    assert list(totals(database, institution)) == cuts[:1]
    # Again, on top of the one that stayed: the sums of a world that never changed its mind.
    ensure_totals(database, institution, cuts)
    assert totals(database, institution)[cuts[0]] == made[cuts[0]]
    assert totals(database, institution)[cuts[2]] > made[cuts[2]]
    with database.transaction() as connection:
        days = DayRange(span.first, span.last)
        cells = dict(aggregates_repository.cells_of_days(connection, institution, days))
        for type, column in ((BoardType.CLASS, 1), (BoardType.SUBJECT, 2), (BoardType.CAMPUS, 3)):
            assert totals(database, institution, type) == totals(database, institution)
            for cut, through in totals(database, institution, type).items():
                found = totals_repository.sums(connection, institution, type, cut, through)
                assert found is not None
                expected: dict[tuple[int, int], list[int]] = defaultdict(lambda: [0, 0])
                for day, of_day in cells.items():
                    rows = zip(*of_day.keys.tolist(), of_day.points, of_day.events, strict=True)
                    for row in rows if day < cut else ():
                        if row[column]:
                            expected[row[column], row[0]][0] += int(row[4])
                            expected[row[column], row[0]][1] += int(row[5])
                assert {
                    (board, student): [points, events]
                    for board, student, points, events in zip(
                        *(column.tolist() for column in found), strict=True
                    )
                    if events
                } == expected


def test_a_total_that_was_summed_before_a_change_is_never_used(database: Database) -> None:
    """Summed, then a day changes (which drops totals), then it is stored all the same."""
    school, institution = load(database, long_school(2))
    span = whole(school)
    day = DayRange(span.last, span.last)
    aggregate(database, institution, span)
    cut = span.last.replace(day=1)
    ensure_totals(database, institution, [cut])
    older = totals(database, institution)
    with database.transaction() as connection:
        summed = {
            type: totals_repository.total(connection, institution, type, cut, older[cut])
            for type in BoardType
        }

    def store_the_older() -> None:
        with database.transaction() as connection:
            for type, total in summed.items():
                assert total is not None
                totals_repository.store(connection, institution, type, cut, older[cut], total)

    school = change(
        database, institution, school, [late_event(school, span.first + ONE_DAY, amount=999)]
    )
    aggregate(database, institution, DayRange(span.first, span.first + ONE_DAY))
    assert totals(database, institution) == {}
    store_the_older()
    assert totals(database, institution) == older
    # A reader of the present state does not find it: it reads the days instead.
    for type in oracle.TYPES:
        snap(database, institution, day, type)
    stored.assert_snapshots_equal_the_reference(
        database, school, {key: [span.last] for key in oracle.TYPES}
    )
    standing = totals(database, institution)
    assert standing[cut] > older[cut]
    # And once the current one stands, the older one cannot take its place.
    store_the_older()
    assert totals(database, institution) == standing


def test_a_pass_finds_its_total_stale_and_reads_the_days(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The day changes between the totals and the opening of the pass, once more for each cut."""
    school, institution = load(database, long_school(3))
    span = whole(school)
    aggregate(database, institution, span)
    original = past.ensure_totals
    amounts = itertools.count(77)

    def ensure_then_change(
        database: Database, institution: Institution, cuts: Mapping[BoardType, Sequence[date]]
    ) -> None:
        nonlocal school
        original(database, institution, cuts)
        late = late_event(school, span.first + 2 * ONE_DAY, amount=next(amounts))
        school = change(database, institution, school, [late])
        aggregate(database, institution, DayRange(span.first, span.first + 2 * ONE_DAY))
        assert not totals(database, institution)

    monkeypatch.setattr(past, "ensure_totals", ensure_then_change)
    (result,) = snap(database, institution, DayRange(span.last, span.last))
    assert result.rows
    stored.assert_snapshots_equal_the_reference(database, school, {"CLASS": [span.last]})


def test_a_pass_from_an_older_state_does_not_write_over_a_newer_one(database: Database) -> None:
    school, institution = load(database, long_school(4))
    span = whole(school)
    days = DayRange(span.last - 7 * ONE_DAY, span.last)
    aggregate(database, institution, span)
    older = snapshots.materialize(database, institution, BoardType.SUBJECT, days, RUN)
    first = next(older)
    assert not first.superseded
    school = change(
        database, institution, school, [late_event(school, span.first, amount=500, subject="a")]
    )
    aggregate(database, institution, DayRange(span.first, span.first))
    newer = Provenance("newer run")
    results = list(snapshots.materialize(database, institution, BoardType.SUBJECT, days, newer))
    assert not any(result.superseded for result in results)
    rest = list(older)
    assert [result.day for result in rest] == list(days)[1:]
    # One day was being written, or about to be, when the first was told of.
    ahead = writing._AHEAD
    assert all(result.superseded and not result.written for result in rest[ahead:])
    assert len(rest) > ahead + 1
    stored.assert_snapshots_equal_the_reference(database, school, {"SUBJECT": list(days)})
    assert stale_ranges(database, institution) == []
    rows = stored.snapshots(database, school.id).items()
    runs = {row.metadata["provenance"]["runId"] for key, row in rows if key[2] == "all-time"}
    assert runs == {"newer run"}


def test_a_pass_ranks_from_one_state_however_long_it_takes(database: Database) -> None:
    """A day that it has not yet read changes under it: its rows are those of before, and stale."""
    school, institution = load(database, long_school(5))
    span = whole(school)
    aggregate(database, institution, span)
    days = DayRange(span.first, span.first + 40 * ONE_DAY)
    under_way = snapshots.materialize(database, institution, BoardType.CAMPUS, days, RUN)
    next(under_way)
    far = span.first + 30 * ONE_DAY
    changed = change(
        database, institution, school, [late_event(school, far, amount=300, campus="a")]
    )
    aggregate(database, institution, DayRange(far, far))
    list(under_way)
    stored.assert_snapshots_equal_the_reference(database, school, {"CAMPUS": list(days)})
    assert stale_ranges(database, institution) == [DayRange(far, days.last)]
    snap(database, institution, DayRange(far, days.last), "CAMPUS")
    assert stale_ranges(database, institution) == []
    stored.assert_snapshots_equal_the_reference(database, changed, {"CAMPUS": list(days)})


def test_a_writer_of_aggregates_waits_for_the_one_before_it(database: Database) -> None:
    """Who has read the events earlier does not write over who has read them later."""
    school, institution = load(database, worlds.make_school(7))
    span = whole(school)
    first = aggregates.materialize(database, institution, span, RUN)
    next(first)
    day = DayRange(span.first + 2 * ONE_DAY, span.first + 2 * ONE_DAY)
    change(database, institution, school, [late_event(school, day.first)])
    with waiting(database, lambda: aggregate(database, institution, day)):
        list(first)
    assert stale_ranges(database, institution) == []


def test_aggregates_written_while_events_change_are_right_in_the_end(database: Database) -> None:
    """Three writers of the same days and a stream of changes; then whatever is stale is redone."""
    school, institution = load(database, worlds.make_school(6, events=80))
    span = whole(school)
    aggregate(database, institution, span)
    chance = random.Random(6)
    failures: list[BaseException] = []
    stop = threading.Event()

    def write_on() -> None:
        try:
            while not stop.is_set():
                aggregate(database, institution, span)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write_on) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for number in range(12):
            changed = some_changes(chance, school, number)
            school = change(database, institution, school, changed)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures
    for range_ in stale_ranges(database, institution):
        aggregate(database, institution, range_)
    assert stale_ranges(database, institution) == []
    snap(database, institution, span)
    stored.assert_snapshots_equal_the_reference(database, school, {"CLASS": list(span)})
    with database.transaction() as connection:
        rows = connection.execute(
            "SELECT revision FROM lb.point_aggregates WHERE institution_key = %s AND revision > 0",
            (institution.key,),
        ).fetchall()
    assert len(set(rows)) == len(rows) >= len(school.days.keys() & set(span))
