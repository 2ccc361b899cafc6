"""What the service says of small random districts is what the naive reference says: boards,
histories, standings of everybody, neighbours; from the live table, the archive, or both.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pytest
import sqlalchemy
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from lb_pipelines.clock import utc_now
from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import ONE_DAY, DayRange
from lb_pipelines.core.retention import DEFAULT_RETENTION
from lb_pipelines.core.selection import ArchiveSelection
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.db import queries
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import directory, reading
from lb_pipelines.errors import (
    DatabaseUnavailable,
    InactiveInstitution,
    InvalidPartition,
    InvalidSelection,
    LeaderboardError,
    NotMaterialized,
    StaleBoard,
    UnknownBoard,
    UnknownInstitution,
    UnknownStudent,
)
from lb_pipelines.materialize import aggregates, snapshots
from lb_pipelines.materialize.results import Provenance
from lb_pipelines.retention import erasing, restoring, sweeping
from lb_pipelines.retention.actor import Actor
from lb_pipelines.service import LeaderboardService, neighbours
from lb_pipelines.service.results import Standing
from lb_pipelines_tests import oracle, worlds
from lb_pipelines_tests.oracle import GRANULARITIES, TYPES, Event, School

RUN = Provenance("run")
LATER = timedelta(days=400)
_names = (f"inst_{number}" for number in itertools.count())


def load(
    database: Database, school: School, types: Iterable[BoardType] = BoardType
) -> tuple[School, Institution]:
    """A school under an id that nothing else has, aggregated and materialized over its span."""
    school = oracle.renamed(school, next(_names))
    institution = worlds.load(database, school)
    make(database, institution, *span(school), types)
    return school, institution


def span(school: School) -> tuple[date, date]:
    """Its days, and some quiet ones after them."""
    if not school.events:
        return date(2024, 1, 1), date(2024, 1, 3)
    first, last = worlds.span_of(school)
    return first, last + 3 * ONE_DAY


def make(
    database: Database,
    institution: Institution,
    first: date,
    last: date,
    types: Iterable[BoardType] = BoardType,
) -> None:
    days = DayRange(first, last)
    list(aggregates.materialize(database, institution, days, RUN))
    for type in types:
        list(snapshots.materialize(database, institution, type, days, RUN))


def sweep(database: Database, institution: Institution, through: date) -> int:
    """Archive everything through a day, each granularity as of the day on which it expires."""
    return sum(
        sweeping.sweep(
            database,
            institution,
            granularity,
            through + timedelta(days=DEFAULT_RETENTION[granularity] + 1),
            Actor("test"),
        ).rows
        for granularity in Granularity
    )


def purge(database: Database, institution: Institution, day: date) -> None:
    """Let the originals of a day go, as the purge of a leaf does."""
    with database.transaction() as connection:
        connection.execute(
            "DELETE FROM lb.leaderboard_snapshots"
            " WHERE institution_id = %s AND snapshot_date = %s AND status = 'ARCHIVED'",
            (institution.id, day),
        )


def expected(school: School, type: str, reference: str, granularity: str, day: date) -> Any:
    """(rank, points, percentile, ranked) of every student by the reference; None: not ranked."""
    board = oracle.board(school, type, reference, granularity, day)
    places = {p.student: p for p in board.places} if board else {}
    total = len(places)
    return {
        student: (
            places[student].rank,
            places[student].points,
            100 * sum(p.points <= places[student].points for p in places.values()) / total,
            total,
        )
        if student in places
        else (None, None, None, total)
        for student in school.students
    }


def told(standing: Standing) -> Any:
    return (standing.rank, standing.points, standing.percentile, standing.ranked)


def assert_standings(
    service: LeaderboardService, school: School, days: list[date], chance: random.Random
) -> int:
    """All boards of every student on these days, and some asked for one by one, also those on
    which they are not ranked; gives how many standings were below the top N.
    """
    below = 0
    every = list(itertools.product(TYPES, GRANULARITIES))
    for day in days:
        want = {
            (type, reference, granularity): expected(school, type, reference, granularity, day)
            for type, granularity in every
            for reference in school.references(type)
        }
        for student in school.students:
            found = {
                (s.key.type, s.key.reference_id, s.key.granularity): told(s)
                for s in service.get_student_boards(school.id, student, day).standings
            }
            ranked = {key: of[student] for key, of in want.items() if of[student][0] is not None}
            assert found == ranked, (day, student)
            below += sum(
                of[0] > school.limit(type, granularity)
                for (type, _, granularity), of in ranked.items()
            )
        for key in chance.sample(sorted(want), 5):
            student = chance.choice(school.students)
            type, reference, granularity = key
            standing = service.get_rank(school.id, student, type, reference, granularity, day)
            assert told(standing) == want[key][student], (key, day, student)
            spread = service.get_distribution(school.id, type, reference, granularity, day)
            points = [of[1] for of in want[key].values() if of[0] is not None]
            assert np.repeat(spread.points, spread.counts).tolist() == sorted(points, reverse=True)
    return below


SMALL = {"leaderboardLimits": {t: dict.fromkeys(GRANULARITIES, 2) for t in TYPES}}


@settings(
    max_examples=3,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    school=worlds.schools(spans=(20, 45), events=(10, 60)),
    seed=st.integers(0, 99),
    swept=st.booleans(),
)
def test_everybody_stands_where_the_reference_says(
    database: Database, school: School, seed: int, swept: bool
) -> None:
    school, institution = load(database, school)
    first, last = span(school)
    days = [first + (last - first) // 2, last]
    if swept:
        sweep(database, institution, last)
        purge(database, institution, days[0])
    assert_standings(LeaderboardService(database, keep=False), school, days, random.Random(seed))


@pytest.mark.parametrize("method", ["competition", "dense", "ordinal"])
def test_below_the_top_as_in_it(database: Database, method: str) -> None:
    school, institution = load(
        database,
        worlds.make_school(
            7, span=20, events=200, students=9, metadata=SMALL | {"leaderboardRanking": method}
        ),
    )
    last = span(school)[1]
    days, chance = [last - 14 * ONE_DAY, last], random.Random(1)
    service = LeaderboardService(database, keep=False)
    assert assert_standings(service, school, days, chance) > 30
    # Archived, beside their originals; and with those gone.
    assert sweep(database, institution, last)
    purge(database, institution, last)
    assert assert_standings(service, school, days, chance) > 30


def level_with_another(school: School, board: tuple[str, str, str, date]) -> tuple[str, Event]:
    """Somebody far down, and an event whose points make theirs a level of the distribution as it
    was, below the top 2: nothing but the states of the aggregates tells.
    """
    places = oracle.board(school, *board).places  # type: ignore[union-attr]
    mover = places[-1]
    above = next(p for p in places[2:] if mover.points < p.points <= places[1].points)
    return mover.student, school.events[0]._replace(
        id="late",
        student=mover.student,
        class_id=None,
        subject=None,
        campus=board[1],
        amount=above.points - mover.points,
        status="ACTIVE",
        updated_at=utc_now(),
    )


@pytest.mark.present
def test_a_late_event_never_mixes_two_states(database: Database) -> None:
    """Not yet aggregated: everybody stands as the board was made. Aggregated, and the boards not
    made again: who cannot be told is told so. Made again: as the events are now.
    """
    school, institution = load(
        database, worlds.make_school(11, span=20, events=150, students=9, metadata=SMALL)
    )
    day = span(school)[1]
    service, chance = LeaderboardService(database, keep=False), random.Random(2)
    board = ("CAMPUS", school.campuses[0], "all-time", day)
    mover, event = level_with_another(school, board)
    leader = oracle.board(school, *board).places[0]  # type: ignore[union-attr]
    later = oracle.renamed(school, school.id, events=(*school.events, event))
    with database.transaction() as connection:
        worlds.write_events(connection, institution.key, [event])
    assert assert_standings(service, school, [day], chance)

    (changed,) = later.days.keys() & {event.occurred_at.astimezone(institution.zone).date()}
    list(aggregates.materialize(database, institution, DayRange(changed, changed), RUN))
    with pytest.raises(StaleBoard, match="made before"):
        service.get_rank(school.id, mover, *board)
    with pytest.raises(StaleBoard):
        service.get_around(school.id, mover, *board)
    # The board itself, and who stands in its top, are as they were made.
    assert service.get_rank(school.id, leader.student, *board).rank == leader.rank

    make(database, institution, changed, day)
    assert assert_standings(service, later, [day], chance)


@pytest.mark.present
def test_an_archived_board_that_the_events_left_behind_says_so(database: Database) -> None:
    """The day was made again from the changed events, its archived boards stayed: the ledger
    vouches for the live rows alone, also after a restore.
    """
    school, institution = load(
        database, worlds.make_school(12, span=20, events=150, students=9, metadata=SMALL)
    )
    day = span(school)[1]
    sweep(database, institution, day)
    board = ("CAMPUS", school.campuses[0], "all-time", day)
    student, event = level_with_another(school, board)
    with database.transaction() as connection:
        worlds.write_events(connection, institution.key, [event])
    make(database, institution, *span(school))
    service = LeaderboardService(database, keep=False)
    with pytest.raises(StaleBoard):
        service.get_rank(school.id, student, *board)
    restoring.restore(database, institution, ArchiveSelection(), day + LATER, day, Actor("test"))
    with pytest.raises(StaleBoard):
        service.get_rank(school.id, student, *board)


@pytest.mark.parametrize("small_tie", [0, 1_000])
@pytest.mark.parametrize("method", ["competition", "dense", "ordinal"])
@pytest.mark.parametrize("limit", [2, 100])
def test_around_shows_k_above_and_k_below(
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    limit: int,
    method: str,
    small_tie: int,
) -> None:
    """In the order of the board, also where the top N, or k, ends inside a tie; whether ties are
    put in order at once or walked along, also past the end of what one step reads.
    """
    monkeypatch.setattr(neighbours, "_SMALL_TIE", small_tie)
    monkeypatch.setattr(directory, "_FIRST_STEP", 1)
    metadata = {
        "leaderboardLimits": {t: dict.fromkeys(GRANULARITIES, limit) for t in TYPES},
        "leaderboardRanking": method,
    }
    school, _ = load(
        database, worlds.make_school(13, span=20, events=150, students=12, metadata=metadata)
    )
    day = span(school)[1]
    service = LeaderboardService(database, keep=False)
    tied = set()
    for granularity, reference in itertools.product(("all-time", "daily"), school.campuses):
        board = oracle.board(school, "CAMPUS", reference, granularity, day)
        places = board.places if board else []
        for student, k in itertools.product(school.students, (0, 1, 3, 50)):
            around = service.get_around(
                school.id, student, "CAMPUS", reference, granularity, day, k=k
            )
            at = next((n for n, p in enumerate(places) if p.student == student), None)
            want = [] if at is None else places[max(0, at - k) : at + k + 1]
            assert [tuple(e[:3]) for e in around.entries] == want
            ties = 0 if at is None else board.counts[places[at].points] - 1  # type: ignore[union-attr]
            assert around.tied_students == ties
            assert around.ranked == len(places)
            tied.add(ties)
    assert max(tied) > 0, "nobody tied"


@pytest.mark.parametrize("method", ["competition", "ordinal"])
@pytest.mark.parametrize("small_tie", [0, 1_000])
def test_around_in_a_tie_that_an_erased_student_is_part_of(
    database: Database, monkeypatch: pytest.MonkeyPatch, method: str, small_tie: int
) -> None:
    """All tie: the erased one keeps the place, not that of the pseudonym."""
    monkeypatch.setattr(neighbours, "_SMALL_TIE", small_tie)
    monkeypatch.setattr(directory, "_FIRST_STEP", 2)
    names = tuple(f"s{number:02}" for number in range(30))
    metadata = {
        "leaderboardLimits": {"CAMPUS": dict.fromkeys(GRANULARITIES, 2)},
        "leaderboardRanking": method,
    }
    whole = worlds.make_school(1, span=3, events=0, metadata=metadata)
    day, campus = date(2024, 3, 4), whole.campuses[0]
    events = tuple(
        Event(
            f"e{number}",
            name,
            None,
            None,
            campus,
            # Few among many: in between are students who do not tie.
            3 if number % 3 == 0 else 1,
            worlds.at_local(day, worlds.time(12), whole.zone),
            "ACTIVE",
            worlds.at_local(day, worlds.time(12), whole.zone),
        )
        for number, name in enumerate(names)
    )
    school, institution = load(
        database, replace(whole, students=names, enrollments=(), events=events)
    )
    erased = erasing.erase(
        database, institution, names[12], reason="a request", today=day, actor=Actor("test")
    )
    assert erased
    with database.transaction() as connection:
        row = connection.execute(
            "SELECT id FROM lb.students WHERE institution_key = %s AND order_key IS NOT NULL",
            (institution.key,),
        ).fetchone()
    assert row is not None
    board = oracle.board(school, "CAMPUS", campus, "daily", day)
    assert board is not None
    order = [row[0] if p.student == names[12] else p.student for p in board.places]
    service = LeaderboardService(database, keep=False)
    for at, student in enumerate(order):
        around = service.get_around(school.id, student, "CAMPUS", campus, "daily", day, k=2)
        near = slice(max(0, at - 2), at + 3)
        assert [e.student_id for e in around.entries] == order[near]
        assert [e.rank for e in around.entries] == [p.rank for p in board.places[near]]
        standing = service.get_rank(school.id, student, "CAMPUS", campus, "daily", day)
        assert standing.rank == board.places[at].rank


def test_a_walk_along_students_uses_their_index(database: Database) -> None:
    """Also under row level security, which keeps conditions that could leak rows out of indexes."""
    school, institution = load(database, worlds.make_school(1, span=3, events=1), [])
    with database.reading(school.id) as connection:
        connection.execute("SET LOCAL enable_seqscan = off")
        for query in (queries.directory.students_after, queries.directory.students_before):
            plan = connection.execute(
                f"EXPLAIN {queries.text(query)}",
                {
                    "institution_key": institution.key,
                    "place": "s1",
                    "student_key": 3,
                    "at_most": 5,
                },
            ).fetchall()
            text = " ".join(line for (line,) in plan)
            assert "students_in_order" in text
            assert re.search(r"Index Cond: [^)]*institution_key = .* AND \(ROW\(CASE", text), text


def test_few_students_of_a_large_tie_are_read(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order of 3,000 who tie is asked of some steps along it, not of all ids."""
    limits = {"leaderboardLimits": {"CAMPUS": dict.fromkeys(GRANULARITIES, 2)}}
    whole = worlds.make_school(1, span=3, events=0, metadata=limits)
    day, noon = date(2024, 3, 4), worlds.at_local(date(2024, 3, 4), worlds.time(12), whole.zone)
    names = tuple(f"s{number:04}" for number in range(3_000))
    events = tuple(
        Event(f"e{name}", name, None, None, whole.campuses[0], 5, noon, "ACTIVE", noon)
        for name in names
    )
    school, _ = load(
        database,
        replace(whole, students=names, enrollments=(), events=events),
        [BoardType.CAMPUS],
    )
    read = 0
    real_walk, real_keys = directory.walk_students, directory.students_of_keys

    def walk(*arguments: Any, **named: Any) -> Any:
        nonlocal read
        for student in real_walk(*arguments, **named):
            read += 1
            yield student

    def of_keys(*arguments: Any) -> Any:
        nonlocal read
        found = real_keys(*arguments)
        read += len(found)
        return found

    monkeypatch.setattr(directory, "walk_students", walk)
    monkeypatch.setattr(directory, "students_of_keys", of_keys)
    service = LeaderboardService(database, keep=False)
    around = service.get_around(
        school.id, names[1_500], "CAMPUS", whole.campuses[0], "daily", day, k=3
    )
    assert [entry.student_id for entry in around.entries] == list(names[1_497:1_504])
    assert around.tied_students == 2_999
    assert read < 30


def test_a_board_late_in_a_long_history_is_made_again_from_totals(database: Database) -> None:
    limits = {"CAMPUS": dict.fromkeys(GRANULARITIES, 1)}
    school = oracle.renamed(
        worlds.make_school(
            4, span=230, events=300, students=9, metadata={"leaderboardLimits": limits}
        ),
        next(_names),
    )
    institution = worlds.load(database, school)
    last = worlds.span_of(school)[1]
    service = LeaderboardService(database, keep=False)
    read = []
    for day in (last - 40 * ONE_DAY, last):
        make(database, institution, day, day, [BoardType.CAMPUS])
        for granularity, reference in itertools.product(("term", "all-time"), school.campuses):
            board = oracle.board(school, "CAMPUS", reference, granularity, day)
            if board is None:
                continue
            with database.reading(school.id) as connection:
                opening = reading.opening(connection, school.id, BoardType.CAMPUS, reference)
                assert opening is not None
                assert opening.board is not None
                window = DayRange(board.period_start, day)
                parts = neighbours._parts(connection, institution, opening.board, window)
                read.append((len(list(parts)), len(window)))
            for student in school.students:
                around = service.get_around(
                    school.id, student, "CAMPUS", reference, granularity, day, k=50
                )
                want = [tuple(p) for p in board.places] if student in board.ranks else []
                assert len(want) <= 50
                assert [tuple(e[:3]) for e in around.entries] == want
    assert max(days - parts for parts, days in read) > 100, "no total was used"


@pytest.mark.present
def test_what_is_wrong_is_named_with_a_remedy(database: Database) -> None:
    school, institution = load(database, worlds.make_school(14, span=20, events=40))
    day, student = span(school)[1], school.students[0]
    service = LeaderboardService(database, now=lambda: datetime(2023, 5, 1, tzinfo=UTC))
    board = (school.id, "CAMPUS", school.campuses[0], "weekly")
    rank = service.get_rank
    wrong: list[tuple[type[LeaderboardError], Any]] = [
        (UnknownInstitution, lambda: service.get_leaderboard("inst_none", *board[1:])),
        (UnknownInstitution, lambda: service.get_leaderboard_trends("inst_none", *board[1:])),
        (UnknownBoard, lambda: service.get_leaderboard(school.id, "CLASS", "nope", "daily", day)),
        (UnknownStudent, lambda: rank(school.id, "nobody", *board[1:], day)),
        (UnknownStudent, lambda: service.get_student_boards(school.id, "nobody", day)),
        (InvalidSelection, lambda: service.get_leaderboard(school.id, "TEAM", "x", "daily", day)),
        (InvalidSelection, lambda: service.get_leaderboard(*board[:3], "yearly", day)),
        (InvalidSelection, lambda: rank(school.id, student, *board[1:], utc_now())),
        (InvalidSelection, lambda: service.get_student_boards(school.id, student, date.min)),
        (InvalidSelection, lambda: service.get_historical_leaderboard(*board, day, date.max)),
        (InvalidSelection, lambda: service.get_leaderboard_trends(*board, months=0)),
        (InvalidSelection, lambda: service.get_historical_leaderboard(*board, day, day, limit=0)),
        (InvalidPartition, lambda: service.get_historical_leaderboard(*board, day, day - ONE_DAY)),
        (InvalidSelection, lambda: service.get_around(school.id, student, *board[1:], day, k=-1)),
        (NotMaterialized, lambda: service.get_leaderboard(*board, day + LATER)),
        (NotMaterialized, lambda: rank(school.id, student, *board[1:], day + LATER)),
        (NotMaterialized, lambda: service.get_student_boards(school.id, student, day + LATER)),
        (
            InvalidPartition,
            lambda: service.create_partitioned_snapshot(school.id, "CLASS", date(2023, 5, 1)),
        ),
    ]
    for error, ask in wrong:
        with pytest.raises(error) as raised:
            ask()
        assert raised.value.remedy
    assert service.get_leaderboard(*board, day).key.institution_id == school.id
    with database.transaction() as connection:
        connection.execute(
            "UPDATE lb.institutions SET status = 'INACTIVE' WHERE id = %s", (school.id,)
        )
    # Also where the answer was kept before.
    with pytest.raises(InactiveInstitution):
        service.get_leaderboard(*board, day)
    assert institution.id == school.id


def test_the_service_stands_on_an_engine_of_anybody(database: Database) -> None:
    school, _ = load(database, worlds.make_school(15, span=10, events=40))
    day = span(school)[1]
    engine = sqlalchemy.create_engine(
        database.url, connect_args={"options": "-c timezone=Asia/Kolkata"}, pool_size=1
    )
    service = LeaderboardService(engine, keep=False)
    with engine.connect() as theirs:
        # Their pool is theirs: it is full, and nothing of it is changed.
        assert assert_standings(service, school, [day], random.Random(3)) >= 0
        assert theirs.exec_driver_sql("SHOW timezone").scalar() == "Asia/Kolkata"
        assert theirs.exec_driver_sql("SHOW plan_cache_mode").scalar() == "auto"
    ours = Database.over(engine)
    with ours.transaction() as connection:
        rows = [connection.execute(f"SHOW {name}").fetchone() for name in ("timezone", "jit")]
        assert rows == [("UTC",), ("off",)]
        assert connection.execute("SHOW plan_cache_mode").fetchone() == ("force_custom_plan",)
    engine.dispose()
    with pytest.raises(DatabaseUnavailable, match="sqlite"):
        LeaderboardService(sqlalchemy.create_engine("sqlite://"))
