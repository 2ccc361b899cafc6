"""Every board of small random districts equals the naive reference: in memory and in PostgreSQL.

The pure core is held to it over many worlds, fed from memory; the whole way from events in the
database to rows in the database over a few rich ones, in any order, by any cutting of the days.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from lb_pipelines.core import timeline
from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import ONE_DAY, DayRange, days_between
from lb_pipelines.core.periods import Term as CoreTerm
from lb_pipelines.core.sums import Sums, pair_codes, students_of
from lb_pipelines.core.windows import Boards, BoardTerms
from lb_pipelines.core.words import BoardType, Granularity, RankMethod
from lb_pipelines.db import bulk
from lb_pipelines.db.engine import Database
from lb_pipelines.materialize import aggregates, snapshots, trends, writing
from lb_pipelines.materialize.results import Provenance
from lb_pipelines_tests import oracle, stored, worlds
from lb_pipelines_tests.oracle import School

RUN = Provenance("run")
_names = (f"inst_{number}" for number in itertools.count())


class InMemory:
    """A school's points of one type as a `timeline.PointSource`; remembers what was read."""

    def __init__(self, school: School, type: str) -> None:
        self._school = school
        self._type = type
        self._boards = {id: at for at, id in enumerate(school.references(type))}
        self._students = {id: at for at, id in enumerate(sorted(school.students))}
        self.days_read: list[date] = []
        self.jumps: list[date] = []

    def before(self, cut: date) -> Sums:
        self.jumps.append(cut)
        return self._sums([e for day, es in self._school.days.items() if day < cut for e in es])

    def on(self, days: Sequence[date]) -> list[Sums]:
        self.days_read += days
        return [self._sums(self._school.days.get(day, [])) for day in days]

    def _sums(self, events: list[oracle.Event]) -> Sums:
        on_board = [e for e in events if e.reference(self._type) is not None]
        return Sums.of(
            pair_codes(
                np.array([self._boards[e.reference(self._type) or ""] for e in on_board], np.int32),
                np.array([self._students[e.student] for e in on_board], np.int32),
            ),
            np.array([e.amount for e in on_board], np.int64),
            np.ones(len(on_board), np.int64),
        )


def board_terms(school: School, type: str) -> BoardTerms:
    terms = [CoreTerm(*term) for term in school.terms]
    if type != "CLASS":
        return BoardTerms(terms, None)
    of = {c.id: [t.id for t in terms].index(c.term) for c in school.classes}
    return BoardTerms(terms, np.array([of[id] for id in school.references(type)], np.int32))


def as_reference(
    school: School, type: str, boards: Boards | None
) -> dict[tuple[str, str], oracle.Board]:
    """Ranked boards in the reference's own terms, by granularity and reference id."""
    if boards is None:
        return {}
    ranking, students = boards.ranking, sorted(school.students)
    everybody = ranking.top(len(ranking))
    return {
        (granularity.value, school.references(type)[board]): oracle.Board(
            start.item(),
            [
                oracle.Place(rank, students[student], points)
                for rank, student, points in zip(
                    everybody.ranks[begin:end].tolist(),
                    students_of(everybody.members[begin:end]).tolist(),
                    everybody.points[begin:end].tolist(),
                    strict=True,
                )
            ],
        )
        for granularity, board, start, begin, end in zip(
            boards.granularities,
            boards.ordinals.tolist(),
            boards.period_start,
            everybody.offsets[:-1].tolist(),
            everybody.offsets[1:].tolist(),
            strict=True,
        )
    }


def expected_boards(school: School, type: str, granularity: str, day: date) -> Any:
    found = {
        reference: oracle.board(school, type, reference, granularity, day)
        for reference in school.references(type)
    }
    return {reference: board for reference, board in found.items() if board is not None}


def assert_walk_equals_reference(school: School, type: str, days: DayRange) -> InMemory:
    source = InMemory(school, type)
    terms = board_terms(school, type)
    first = min(school.days)
    plan = timeline.plan(days, terms, first)
    days_walked = timeline.walk(plan, source, terms, first, RankMethod(school.method))
    walked = [(day, list(boards)) for day, boards in days_walked]
    assert [day for day, _ in walked] == list(days)
    for day, parts in walked:
        found: dict[tuple[str, str], oracle.Board] = {}
        found_then: dict[tuple[str, str], oracle.Board] = {}
        for now, then in parts:
            found |= as_reference(school, type, now)
            found_then |= as_reference(school, type, then)
        for granularity in Granularity:
            before = oracle.baseline_day(granularity, day)
            for boards, as_of in ((found, day), (found_then, before)):
                # Where there are no boards, nobody asks for a baseline.
                if boards is found or any(g == granularity for g, _ in found):
                    assert {id: b for (g, id), b in boards.items() if g == granularity} == (
                        expected_boards(school, type, granularity, as_of)
                    ), (day, granularity, as_of)
    assert source.jumps == plan.cuts
    return source


@settings(max_examples=120)
@given(
    worlds.schools(spans=(1, 20, 45, 130), events=(1, 10, 60)),
    st.sampled_from(oracle.TYPES),
    st.integers(-10, 140),
    st.sampled_from((0, 0, 1, 9, 33)),
    st.sampled_from((0, 4, timeline.RANKED_TOGETHER)),
)
def test_walking_any_days_gives_the_boards_of_the_reference(
    school: School, type: str, offset: int, length: int, together: int
) -> None:
    """Few boards are ranked together, many one granularity after the other."""
    if not school.days:
        return
    first = min(school.days) + timedelta(days=offset)
    with mock.patch.object(timeline, "RANKED_TOGETHER", together):
        assert_walk_equals_reference(school, type, DayRange(first, first + timedelta(days=length)))


@pytest.mark.parametrize("type", oracle.TYPES)
@pytest.mark.parametrize("years", [1, 3])
def test_reading_for_one_day_does_not_grow_with_history(type: str, years: int) -> None:
    school = worlds.make_school(7, moment=("UTC", date(2024, 7, 1)), span=365 * years, events=300)
    last = max(school.days)
    for offset in range(0, 40, 3):
        day = last - timedelta(days=offset)
        source = assert_walk_equals_reference(school, type, DayRange(day, day))
        assert len(source.days_read) <= 31 + 31 + 7
        assert source.jumps
        assert len(source.days_read) == len(set(source.days_read))


def test_a_range_reads_every_day_once() -> None:
    school = worlds.make_school(8, moment=("UTC", date(2024, 7, 1)), span=200, events=300)
    days = DayRange(max(school.days) - timedelta(days=60), max(school.days))
    source = assert_walk_equals_reference(school, "SUBJECT", days)
    assert len(source.days_read) == len(set(source.days_read)) <= 61 + 31 + 31 + 7


def test_a_range_before_the_first_event_has_no_boards_and_reads_nothing() -> None:
    school = worlds.make_school(9)
    first = min(school.days)
    source = assert_walk_equals_reference(
        school, "CLASS", DayRange(first - timedelta(days=30), first - ONE_DAY)
    )
    assert source.days_read == source.jumps == []


# --- The whole way through PostgreSQL ---


def load(database: Database, school: School) -> tuple[School, Institution]:
    """Load a school under an id that no other has."""
    school = oracle.renamed(school, next(_names))
    return school, worlds.load(database, school)


def make(database: Database, institution: Institution, type: str, first: date, last: date) -> int:
    """Materialize a range of days of a type; gives the number of rows written."""
    results = list(
        snapshots.materialize(database, institution, BoardType(type), DayRange(first, last), RUN)
    )
    assert [result.day for result in results] == list(days_between(first, last))
    assert not any(result.superseded for result in results)
    return sum(result.written for result in results)


def cut_up(chance: random.Random, first: date, last: date) -> Iterator[tuple[str, date, date]]:
    """Ranges of days of every type that together hold all days, overlapping, in any order."""
    pieces = []
    for type in oracle.TYPES:
        day = first
        while day <= last:
            length = chance.choice((1, 1, 2, 5, 12, 40))
            end = min(last, day + timedelta(days=length - 1))
            pieces.append((type, day, end))
            day = end + (ONE_DAY if chance.random() < 0.8 else timedelta(0))
            if end == last:
                break
    chance.shuffle(pieces)
    return iter(pieces)


@settings(
    max_examples=5,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    worlds.schools(spans=(12, 45), events=(30, 150)),
    worlds.schools(spans=(12,), events=(30,)),
    st.integers(0, 2**32),
)
@example(worlds.make_school(0, events=0), worlds.make_school(1, span=12), 0)
def test_all_rows_equal_the_reference_whatever_the_order(
    database: Database, one: School, other: School, seed: int
) -> None:
    """Two institutions with equal ids of everything, their days cut up and shuffled together."""
    chance = random.Random(seed)
    one, institution = load(database, one)
    other, second = load(database, other)
    spans = [worlds.span_of(school) if school.events else None for school in (one, other)]
    first, last = spans[0] or spans[1] or (date(2023, 1, 1), date(2023, 1, 2))
    first, last = first - 2 * ONE_DAY, last + 3 * ONE_DAY
    pieces = [(institution, *piece) for piece in cut_up(chance, first, last)]
    other_first, other_last = spans[1] or (first, last)
    pieces += [(second, *piece) for piece in cut_up(chance, other_first, other_last)]
    chance.shuffle(pieces)
    for piece in pieces:
        make(database, *piece)
    days = list(days_between(first, last))
    other_days = list(days_between(other_first, other_last))
    rows = stored.assert_snapshots_equal_the_reference(
        database, one, dict.fromkeys(oracle.TYPES, days)
    )
    assert rows or not one.days
    stored.assert_snapshots_equal_the_reference(
        database, other, dict.fromkeys(oracle.TYPES, other_days)
    )
    # Once more, everything in one pass, one granularity after the other: nothing is new.
    before = stored.snapshots(database, one.id)
    with mock.patch.object(timeline, "RANKED_TOGETHER", 0):
        for type in oracle.TYPES:
            assert make(database, institution, type, first, last) == 0
    assert stored.snapshots(database, one.id) == before


@pytest.mark.parametrize("seed", [1, 2])
def test_single_days_late_in_a_long_history_use_totals(database: Database, seed: int) -> None:
    """Backwards, day by day from the far end, then all at once under another id: equal rows."""
    school, institution = load(
        database,
        worlds.make_school(
            seed,
            moment=("America/New_York", date(2023, 11, 5)),
            span=230,
            events=250,
            metadata={"leaderboardLimits": {"CLASS": {"term": 2}}},
        ),
    )
    last = worlds.span_of(school)[1]
    days = [last + timedelta(days=3) - timedelta(days=7 * weeks) for weeks in range(12)]
    days += [day - ONE_DAY for day in days[:4]]
    for type in oracle.TYPES:
        for day in days:
            make(database, institution, type, day, day)
    stored.assert_snapshots_equal_the_reference(database, school, dict.fromkeys(oracle.TYPES, days))
    with database.transaction() as connection:
        (totals,) = connection.execute("SELECT count(*) FROM lb.point_totals").fetchone() or (0,)
    assert totals >= 3

    twin, institution = load(database, school)
    for type in oracle.TYPES:
        make(database, institution, type, min(days), max(days))
    found = stored.snapshots(database, twin.id)
    for key, row in stored.snapshots(database, school.id).items():
        # All but what names the institution.
        assert found[key].content[2:] == row.content[2:]


def test_rows_are_equal_bytes_in_another_database_at_another_time(
    database: Database, fresh_database_url: Any
) -> None:
    """Keys differ there: students and boards came in another order, after other institutions; and
    no granularities are ranked together.
    """
    from lb_pipelines.db.migrate import upgrade

    school = worlds.make_school(3, id="inst_x", events=80, metadata={"leaderboardRanking": "dense"})
    elsewhere = Database(fresh_database_url())
    upgrade(elsewhere)
    worlds.load(elsewhere, worlds.make_school(4, id="inst_before"))
    shuffled = oracle.renamed(school, school.id, events=tuple(reversed(school.events)))
    found = []
    for where, what in ((database, school), (elsewhere, shuffled)):
        institution = worlds.load(where, what)
        first, last = worlds.span_of(what)
        together = 0 if where is elsewhere else timeline.RANKED_TOGETHER
        with mock.patch.object(timeline, "RANKED_TOGETHER", together):
            for type in oracle.TYPES:
                make(where, institution, type, first, last)
        found.append(stored.contents(stored.snapshots(where, "inst_x")))
    elsewhere.close()
    assert found[0] == found[1]
    assert found[0]


def test_an_institution_without_students_classes_or_events_has_no_boards(
    database: Database,
) -> None:
    empty = School("inst_empty", "UTC", (), (), (), (), (), (), ())
    institution = worlds.load(database, empty)
    for type in oracle.TYPES:
        assert make(database, institution, type, date(2024, 1, 30), date(2024, 2, 2)) == 0
    assert stored.snapshots(database, empty.id) == {}


def test_a_day_all_of_whose_events_are_voided_loses_its_boards(database: Database) -> None:
    school, institution = load(database, worlds.make_school(5, events=60))
    first, last = worlds.span_of(school)
    for type in oracle.TYPES:
        make(database, institution, type, first, last)
    assert stored.snapshots(database, school.id)
    school = oracle.renamed(
        school, school.id, events=tuple(e._replace(status="VOIDED") for e in school.events)
    )
    with database.transaction() as connection:
        worlds.write_events(connection, institution.key, school.events)
    list(aggregates.materialize(database, institution, DayRange(first, last), RUN))
    for type in oracle.TYPES:
        make(database, institution, type, first, last)
    assert stored.snapshots(database, school.id) == {}


def test_aggregates_say_what_they_hold(database: Database) -> None:
    school, institution = load(database, worlds.make_school(6, events=90))
    first, last = worlds.span_of(school)
    results = {
        result.day: result
        for result in aggregates.materialize(database, institution, DayRange(first, last), RUN)
    }
    for day, result in results.items():
        events = school.days.get(day, [])
        cells = {(e.student, e.class_id, e.subject, e.campus) for e in events}
        assert result.rows == result.written == len(cells)
        assert result.numbers["events"] == len(events)
        assert result.numbers["points"] == sum(e.amount for e in events)
        assert result.numbers["students"] == len({e.student for e in events})
    with database.transaction() as connection:
        rows = connection.execute(
            "SELECT day, student_id, class_id, subject_id, campus_id, points, events"
            " FROM lb.point_aggregate_cells WHERE institution_id = %s",
            (school.id,),
        ).fetchall()
    found = {tuple(row[:5]): (row[5], row[6]) for row in rows}
    assert len(found) == len(rows)
    expected: dict[Any, tuple[int, int]] = {}
    for day, events in school.days.items():
        for e in events:
            cell = day, e.student, e.class_id, e.subject, e.campus
            points, count = expected.get(cell, (0, 0))
            expected[cell] = points + e.amount, count + 1
    assert found == expected
    # Again: nothing written, the same figures.
    for result in aggregates.materialize(database, institution, DayRange(first, last), RUN):
        assert result.written == 0
        assert result.rows == results[result.day].rows


@pytest.mark.parametrize("together", [0, timeline.RANKED_TOGETHER])
def test_snapshots_and_trends_say_what_is_plotted_of_a_day(
    database: Database, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    monkeypatch.setattr(timeline, "RANKED_TOGETHER", together)
    school, institution = load(database, worlds.make_school(6, span=20, events=90))
    days = DayRange(*worlds.span_of(school))
    products = [of.product(BoardType.CLASS, RUN) for of in (snapshots, trends)]
    told = {
        (result.asset, result.day): dict(result.numbers)
        for result in writing.write(database, institution, products, days, RUN)
    }
    rows = stored.snapshots(database, school.id)
    with database.transaction() as connection:
        means = connection.execute(
            "SELECT snapshot_date, avg(retained_share), avg(rank_correlation),"
            " avg(spearman_rho)"
            " FROM lb.leaderboard_trends"
            " WHERE institution_id = %s AND time_granularity = 'all-time' GROUP BY 1",
            (school.id,),
        ).fetchall()
    compared = {day: of_day for day, *of_day in means}
    for day in days:
        boards = {
            f"{granularity.replace('-', '_')}_boards": sum(
                key[2:] == (granularity, day) for key in rows
            )
            for granularity in Granularity
        }
        ranked = {
            name: sum(
                row.metadata["ranked"] for key, row in rows.items() if key[2:] == (granularity, day)
            )
            for name, granularity in (("ranked", "all-time"), ("ranked_today", "daily"))
        }
        assert told["class_snapshots", day] == boards | ranked
        names = ("retained_share", "rank_correlation", "spearman_rho")
        expected = zip(names, compared.get(day, (None,) * 3), strict=True)
        assert told["class_trends", day] == boards | {
            name: pytest.approx(mean) for name, mean in expected if mean is not None
        }
    assert {mean is None for of_day in compared.values() for mean in of_day} == {True, False}


def test_ids_come_back_from_the_database_as_they_are(database: Database) -> None:
    """Words that mean NULL elsewhere, quotes, commas, line ends, blanks, nothing at all."""
    ids = ["NA", "null", "", " ", "a,b", 'q"q', "l\nl", "r\r\nr", "\\N", "\\x41", "é", "𝔰", "#N/A"]
    query = "SELECT at, id FROM unnest(%(ids)s::text[]) WITH ORDINALITY AS t (id, at) ORDER BY at"
    with database.transaction() as connection:
        keys, texts = bulk.read_texts(connection, query, {"ids": ids})
        nothing = bulk.read_texts(connection, query, {"ids": []})
    assert texts.to_pylist() == ids
    assert keys.tolist() == list(range(1, len(ids) + 1))
    assert [len(column) for column in nothing] == [0, 0]
