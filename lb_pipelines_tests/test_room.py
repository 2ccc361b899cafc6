"""What a pass holds at a time does not grow with its days: boards of one granularity, marks in
place of boards that wait, events by their number.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date, time
from typing import Any

import numpy as np
import pytest

from lb_pipelines.core import timeline, windows
from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import DayRange
from lb_pipelines.core.ranking import Ranking
from lb_pipelines.core.sums import RunningSums, Sums, pair_codes
from lb_pipelines.core.windows import Boards
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.db.engine import Connection, Database
from lb_pipelines.db.repositories import aggregates as repository
from lb_pipelines.db.repositories.aggregates import DayEvents
from lb_pipelines.materialize import aggregates, snapshots, trends, writing
from lb_pipelines.materialize.passes import Origin, Pass
from lb_pipelines.materialize.writing import PreparedDay, RowsOfDay
from lb_pipelines_tests import worlds
from lb_pipelines_tests.test_boards import RUN, load


def test_a_pass_holds_the_boards_of_one_granularity_at_a_time(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but those of last week and last month, which a week or a month is compared with."""
    school, institution = load(database, worlds.make_school(1, span=30, events=90))
    days = DayRange(*worlds.span_of(school))
    met: list[tuple[Granularity, weakref.ref[Ranking]]] = []
    held: set[Granularity] = set()
    while_ranking: set[Granularity] = set()
    rank = windows.rank

    def alive() -> Iterator[Granularity]:
        return (granularity for granularity, ranking in met if ranking() is not None)

    def watched_rank(*of: Any) -> Ranking:
        while_ranking.update(alive())
        return rank(*of)

    monkeypatch.setattr(timeline, "RANKED_TOGETHER", 0)
    monkeypatch.setattr(windows, "rank", watched_rank)
    product = snapshots.product(BoardType.CLASS, RUN)

    class Watching:
        def __init__(self, rows: RowsOfDay) -> None:
            self._rows = rows

        def take(self, boards: Boards, baseline: Boards | None) -> None:
            held.update(alive())
            for one in (boards, baseline):
                if one is not None:
                    (granularity,) = set(one.granularities)
                    met.append((granularity, weakref.ref(one.ranking)))
            self._rows.take(boards, baseline)

        def prepared(self) -> PreparedDay:
            return self._rows.prepared()

    def watched(of: Database, opened: Pass) -> Callable[[Origin], RowsOfDay]:
        rows_of = product.rows_of(of, opened)
        return lambda origin: Watching(rows_of(origin))

    # Whoever comes after it takes the same boards.
    products = [
        replace(product, rows_of=watched),
        trends.product(BoardType.CLASS, RUN),
        snapshots.product(BoardType.CAMPUS, RUN),
    ]
    list(writing.write(database, institution, products, days, RUN))
    assert {granularity for granularity, _ in met} == set(Granularity)
    assert held == while_ranking == {Granularity.WEEKLY, Granularity.MONTHLY}


def test_a_mark_takes_the_narrowest_types() -> None:
    sums = RunningSums()
    codes = pair_codes(np.zeros(4, np.int32), np.arange(4, dtype=np.int32))
    ones = np.ones(4, np.int64)
    sums.admit([Sums(codes, ones, ones)])
    for most, width in ((100, 1), (30_000, 2), (100_000, 4), (1 << 40, 8)):
        sums.restart(Sums(codes, most * ones, ones))
        sums.mark("now")
        mark = sums.marked("now")
        assert mark is not None
        assert (mark.points.itemsize, mark.events.itemsize) == (width, 1)
        assert mark.points.tolist() == [most] * 4


@pytest.mark.parametrize("most", [1, 40])
def test_days_are_read_by_how_many_events_they_have(
    database: Database, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """One day at first, then up to twice as many, up to `EVENTS_AT_ONCE` events: 4 a day here."""
    first, last = date(2024, 1, 8), date(2024, 2, 20)
    days = DayRange(first, last)
    school = worlds.make_school(2)
    events = tuple(
        school.events[0]._replace(
            id=f"{day} {number}",
            status="ACTIVE",
            occurred_at=worlds.at_local(day, time(12), school.zone),
        )
        for day in days
        for number in range(4)
    )
    _, institution = load(database, replace(school, events=events, remembered={}))
    reads: list[int] = []
    real = repository.events_of_days

    def counted(connection: Connection, of: Institution, part: DayRange) -> list[DayEvents]:
        reads.append(len(part))
        return real(connection, of, part)

    monkeypatch.setattr(repository, "events_of_days", counted)
    monkeypatch.setattr(aggregates, "EVENTS_AT_ONCE", most)
    results = list(aggregates.materialize(database, institution, days, RUN))
    assert [result.numbers["events"] for result in results] == [4] * len(results)
    assert [result.day for result in results] == list(days)
    # Ten days would have 40 events; more than eight are never read.
    assert reads == ([1] * len(days) if most == 1 else [1, 2, 4, 8, 8, 8, 8, 5])
