"""Who leads each board since when, followed over days by sums: as the naive reference says."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lb_pipelines.core import leaders
from lb_pipelines.core.leaders import NO_LEADER, Leaders, LeaderStreaks
from lb_pipelines.core.periods import ONE_DAY, DayRange, Term
from lb_pipelines.core.sums import RunningSums, Sums, pair_codes
from lb_pipelines.core.windows import BoardTerms
from lb_pipelines.core.words import Granularity
from lb_pipelines_tests import oracle, worlds
from lb_pipelines_tests.oracle import School


class Followed:
    """A school's boards of one type, followed by `LeaderStreaks` without a database."""

    def __init__(self, school: School, type: str) -> None:
        self.school, self.type = school, type
        self.references = school.references(type)
        self.students = sorted(school.students, key=str.encode)
        terms = [Term(*term) for term in school.terms]
        own = None
        if type == "CLASS":
            at = {term.id: index for index, term in enumerate(terms)}
            term_of = {c.id: c.term for c in school.classes}
            own = np.array([at[term_of[id]] for id in self.references], np.int32)
        self.terms = BoardTerms(terms, own)
        self.first_event_day = min(school.days)

    def sums_of(self, day: date) -> Sums:
        rows = [
            (self.references.index(reference), self.students.index(event.student), event.amount)
            for event in self.school.days.get(day, [])
            if (reference := event.reference(self.type)) is not None
        ]
        boards, students, points = (
            np.array(column, np.int64) for column in (zip(*rows, strict=True) if rows else [[]] * 3)
        )
        codes = pair_codes(boards.astype(np.int32), students.astype(np.int32))
        return Sums.of(codes, points, np.ones(len(points), np.int64))

    def new(self) -> LeaderStreaks:
        return LeaderStreaks(len(self.references), self.terms, self.first_event_day)

    def expected(self, day: date) -> dict[tuple[str, Granularity], tuple[str, date]]:
        found = {}
        for reference in self.references:
            for granularity in Granularity:
                key = self.school, self.type, reference, str(granularity), day
                leader = oracle.leader(*key)
                if leader is not None:
                    found[reference, granularity] = leader, oracle.leader_since(*key)
        return found

    def named(
        self, of: dict[Granularity, Leaders]
    ) -> dict[tuple[str, Granularity], tuple[str, date]]:
        return {
            (self.references[board], granularity): (self.students[student], since)
            for granularity, found in of.items()
            for board, (student, since) in enumerate(
                zip(found.students.tolist(), found.since.tolist(), strict=True)
            )
            if student != NO_LEADER
        }

    def as_leaders(self, day: date) -> dict[Granularity, Leaders]:
        found = {
            granularity: Leaders(
                np.full(len(self.references), NO_LEADER, np.int64),
                np.full(len(self.references), np.datetime64("NaT", "D")),
            )
            for granularity in Granularity
        }
        for (reference, granularity), (student, since) in self.expected(day).items():
            board = self.references.index(reference)
            found[granularity].students[board] = self.students.index(student)
            found[granularity].since[board] = np.datetime64(since, "D")
        return found


def follow(of: Followed, resumed: date | None, last: date) -> None:
    """Follow from the beginning, or from the day after `resumed`, and compare every day."""
    streaks, sums = of.new(), RunningSums()
    first = of.first_event_day
    if resumed is not None:
        streaks.resume(resumed, of.as_leaders(resumed))
        first = resumed + ONE_DAY
    states = streaks.window_starts(DayRange(first, last))
    day = of.first_event_day
    while day <= last:
        if day in states:
            sums.mark(day)
        of_day = of.sums_of(day)
        sums.admit([of_day])
        sums.add(of_day)
        if day >= first:
            streaks.add(day, sums, of_day)
            assert of.named(streaks.leaders) == of.expected(day), day
        day += ONE_DAY


@settings(max_examples=25)
@given(
    worlds.schools(spans=(12, 45), events=(10, 60, 120)),
    st.sampled_from(oracle.TYPES),
    st.none() | st.floats(0, 1),
)
# A campus goes back to a term that began before: one inside it is over.
@example(worlds.make_school(2, span=45, events=120), "CAMPUS", None)
@example(worlds.make_school(5, span=45, events=120), "CLASS", None)
@example(worlds.make_school(6, span=45, events=120), "CAMPUS", 0.5)
def test_leaders_of_every_day_equal_the_reference(
    school: School, type: str, share: float | None
) -> None:
    """Negative points, ties, voided events, terms that overlap, follow or leave gaps; from the
    beginning, or on from a day that is known.
    """
    if not school.days:
        return
    of = Followed(school, type)
    last = worlds.span_of(school)[1] + 3 * ONE_DAY
    resumed = None
    if share is not None:
        resumed = of.first_event_day + timedelta(
            days=int(share * (last - of.first_event_day - ONE_DAY).days)
        )
    follow(of, resumed, last)


def test_only_boards_whose_leader_loses_points_are_searched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What following costs beside the cells of a day: nothing where points only grow."""
    school = worlds.make_school(3, span=60, events=300, students=12)
    positive = tuple(event._replace(amount=abs(event.amount) + 1) for event in school.events)
    searched: list[Any] = []
    real = leaders._Window._search

    def search(self: Any, students: Any, boards: Any) -> None:
        searched.extend(boards.tolist())
        real(self, students, boards)

    monkeypatch.setattr(leaders._Window, "_search", search)
    for events, is_searched in ((positive, False), (school.events, True)):
        searched.clear()
        # Whole terms, so that none gives way to an earlier one.
        whole = oracle.renamed(school, school.id, events=events)
        terms = tuple(term._replace(first=min(whole.days)) for term in school.terms)
        whole = replace(whole, terms=terms)
        of = Followed(whole, "SUBJECT")
        # Weeks and months that begin before the first event are searched once, on that day.
        searched.clear()
        streaks, sums = of.new(), RunningSums()
        last = worlds.span_of(whole)[1]
        states = streaks.window_starts(DayRange(of.first_event_day, last))
        for number in range((last - of.first_event_day).days + 1):
            day = of.first_event_day + timedelta(days=number)
            if day in states:
                sums.mark(day)
            of_day = of.sums_of(day)
            sums.admit([of_day])
            sums.add(of_day)
            streaks.add(day, sums, of_day)
            if number == 0:
                searched.clear()
        assert bool(searched) is is_searched
