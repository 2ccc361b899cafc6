"""The naive reference: every board, statistic and trend straight from the words of the domain.

Slow and obviously right: plain loops over lists of tuples, one board at a time, the whole history
each time. It imports nothing of lb_pipelines, so that no mistake can be in both.
"""

from __future__ import annotations

import calendar
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from fractions import Fraction
from functools import cached_property
from math import sqrt
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

TYPES = ("CLASS", "SUBJECT", "CAMPUS")
GRANULARITIES = ("daily", "weekly", "monthly", "term", "all-time")
LIMITS = {
    "CLASS": {"daily": 20, "weekly": 50, "monthly": 100, "term": 100, "all-time": 100},
    "SUBJECT": {"daily": 20, "weekly": 50, "monthly": 100, "term": 100, "all-time": 100},
    "CAMPUS": {"daily": 50, "weekly": 100, "monthly": 200, "term": 200, "all-time": 500},
}


class Term(NamedTuple):
    id: str
    first: date
    last: date


class SchoolClass(NamedTuple):
    id: str
    subject: str
    campus: str | None
    term: str


class Enrollment(NamedTuple):
    class_id: str
    student: str
    campus: str | None
    enrolled_on: date | None
    withdrawn_on: date | None


class Event(NamedTuple):
    id: str
    student: str
    class_id: str | None
    subject: str | None
    campus: str | None
    amount: int
    occurred_at: datetime
    status: str
    updated_at: datetime

    def reference(self, type: str) -> str | None:
        return {"CLASS": self.class_id, "SUBJECT": self.subject, "CAMPUS": self.campus}[type]


@dataclass(frozen=True)
class School:
    """One institution with everything in it."""

    id: str
    zone: str
    terms: tuple[Term, ...]
    campuses: tuple[str, ...]
    subjects: tuple[str, ...]
    classes: tuple[SchoolClass, ...]
    students: tuple[str, ...]
    enrollments: tuple[Enrollment, ...]
    events: tuple[Event, ...]
    metadata: dict[str, Any] = field(default_factory=dict)
    remembered: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def days(self) -> dict[date, list[Event]]:
        """The ACTIVE events by the day that a clock in the institution showed."""
        days: dict[date, list[Event]] = defaultdict(list)
        for event in self.events:
            if event.status == "ACTIVE":
                days[event.occurred_at.astimezone(ZoneInfo(self.zone)).date()].append(event)
        return dict(days)

    def references(self, type: str) -> list[str]:
        return sorted(
            {
                "CLASS": [c.id for c in self.classes],
                "SUBJECT": list(self.subjects),
                "CAMPUS": list(self.campuses),
            }[type]
        )

    def limit(self, type: str, granularity: str) -> int:
        overrides = self.metadata.get("leaderboardLimits", {})
        return overrides.get(type, {}).get(granularity, LIMITS[type][granularity])

    @property
    def method(self) -> str:
        return self.metadata.get("leaderboardRanking", "competition")


def renamed(school: School, id: str, *, events: tuple[Event, ...] | None = None) -> School:
    """The same school under an id, with other events if given; nothing is remembered of it."""
    return replace(school, id=id, events=school.events if events is None else events, remembered={})


class Place(NamedTuple):
    rank: int
    student: str
    points: int


@dataclass(frozen=True)
class Board:
    """All who are ranked, best first."""

    period_start: date
    places: list[Place]

    @property
    def ranks(self) -> dict[str, int]:
        return {place.student: place.rank for place in self.places}

    @property
    def points(self) -> dict[str, int]:
        return {place.student: place.points for place in self.places}

    @property
    def counts(self) -> dict[int, int]:
        return dict(Counter(place.points for place in self.places))


def period_start(
    school: School, type: str, reference: str, granularity: str, day: date
) -> date | None:
    """First day of the window, None where there is no such board."""
    if granularity == "daily":
        return day
    if granularity == "weekly":
        while day.isoweekday() != 1:
            day -= timedelta(days=1)
        return day
    if granularity == "monthly":
        return date(day.year, day.month, 1)
    if granularity == "all-time":
        return min((first for first in school.days if first <= day), default=None)
    if type == "CLASS":
        (own,) = (c.term for c in school.classes if c.id == reference)
        holding = [t for t in school.terms if t.id == own and t.first <= day <= t.last]
    else:
        holding = [t for t in school.terms if t.first <= day <= t.last]
        # The latest start; where that is not enough: the later end, then the smaller id.
        holding.sort(key=lambda t: t.id)
        holding.sort(key=lambda t: (t.first, t.last), reverse=True)
    return holding[0].first if holding else None


def board(school: School, type: str, reference: str, granularity: str, day: date) -> Board | None:
    """A board as of a day, None where it has no ranked student."""
    key = type, reference, granularity, day
    if key not in school.remembered:
        school.remembered[key] = _board(school, *key)
    found: Board | None = school.remembered[key]
    return found


def _board(school: School, type: str, reference: str, granularity: str, day: date) -> Board | None:
    first = period_start(school, type, reference, granularity, day)
    if first is None:
        return None
    points: dict[str, int] = {}
    for event_day, events in school.days.items():
        if first <= event_day <= day:
            for event in events:
                if event.reference(type) == reference:
                    points[event.student] = points.get(event.student, 0) + event.amount
    if not points:
        return None
    order = sorted(points, key=lambda student: (-points[student], student.encode()))
    places = []
    for place, student in enumerate(order, start=1):
        better = [p for p in points.values() if p > points[student]]
        rank = {
            "competition": len(better) + 1,
            "dense": len(set(better)) + 1,
            "ordinal": place,
        }[school.method]
        places.append(Place(rank, student, points[student]))
    return Board(first, places)


def baseline_day(granularity: str, day: date) -> date:
    if granularity == "daily":
        return day - timedelta(days=1)
    if granularity == "weekly":
        day -= timedelta(days=1)
        while day.isoweekday() != 7:
            day -= timedelta(days=1)
        return day
    if granularity == "monthly":
        year, month = (day.year, day.month - 1) if day.month > 1 else (day.year - 1, 12)
        return date(year, month, calendar.monthrange(year, month)[1])
    return day - timedelta(days=7)


def enrolled(school: School, type: str, reference: str, day: date) -> int:
    """Students with an enrollment on the board that holds the day."""
    classes = {c.id: c for c in school.classes}
    found = set()
    for e in school.enrollments:
        on = {
            "CLASS": e.class_id,
            "SUBJECT": classes[e.class_id].subject,
            "CAMPUS": e.campus or classes[e.class_id].campus,
        }[type]
        begun = e.enrolled_on is None or e.enrolled_on <= day
        over = e.withdrawn_on is not None and e.withdrawn_on <= day
        if on == reference and begun and not over:
            found.add(e.student)
    return len(found)


def percentile(values: list[int], share: Fraction) -> Fraction:
    """Linear interpolation between the two values around the place `share * (n - 1)`."""
    values = sorted(values)
    at = share * (len(values) - 1)
    below = at.numerator // at.denominator
    if below + 1 == len(values):
        return Fraction(values[below])
    return values[below] + (at - below) * (values[below + 1] - values[below])


def statistics(school: School, type: str, reference: str, day: date, of: Board, limit: int) -> Any:
    points = [place.points for place in of.places]
    last = points[:limit][-1]
    return {
        "ranked": len(points),
        "enrolled": enrolled(school, type, reference, day),
        "sum": sum(points),
        "mean": Fraction(sum(points), len(points)),
        "median": percentile(points, Fraction(1, 2)),
        "p90": percentile(points, Fraction(9, 10)),
        "max": max(points),
        "tiesCut": sum(1 for p in points[limit:] if p == last),
    }


class Snapshot(NamedTuple):
    period_start: date
    entries: list[dict[str, Any]]
    statistics: dict[str, Any]
    counts: dict[int, int]


def snapshot(
    school: School, type: str, reference: str, granularity: str, day: date
) -> Snapshot | None:
    """The row of a board as of a day, None where there is none."""
    now = board(school, type, reference, granularity, day)
    if now is None:
        return None
    then = board(school, type, reference, granularity, baseline_day(granularity, day))
    previous = then.ranks if then else {}
    limit = school.limit(type, granularity)
    return Snapshot(
        now.period_start,
        [
            {
                "rank": place.rank,
                "studentId": place.student,
                "points": place.points,
                "previousRank": previous.get(place.student),
            }
            for place in now.places[:limit]
        ],
        statistics(school, type, reference, day, now, limit),
        now.counts,
    )


def tau_b(pairs: list[tuple[int, int]]) -> float | None:
    """Kendall's tau-b of (x, y) pairs; None where it is undefined."""
    agreement = untied_x = untied_y = 0
    for i, (x1, y1) in enumerate(pairs):
        for x2, y2 in pairs[:i]:
            sign_x, sign_y = (x1 > x2) - (x1 < x2), (y1 > y2) - (y1 < y2)
            agreement += sign_x * sign_y
            untied_x += sign_x != 0
            untied_y += sign_y != 0
    return agreement / sqrt(untied_x * untied_y) if untied_x and untied_y else None


def mean_ranks(values: list[int]) -> list[Fraction]:
    """The mean of the positions that equal values share; the least value comes first."""
    return [
        Fraction(sum(v < own for v in values) + 1 + sum(v <= own for v in values), 2)
        for own in values
    ]


def spearman_rho(pairs: list[tuple[int, int]]) -> float | None:
    """Pearson's correlation of the mean ranks of (x, y) pairs; None where it is undefined."""
    if not pairs:
        return None
    x, y = (mean_ranks([pair[side] for pair in pairs]) for side in (0, 1))
    mean = Fraction(len(pairs) + 1, 2)
    covariance = sum((a - mean) * (b - mean) for a, b in zip(x, y, strict=True))
    of_x, of_y = (sum((a - mean) ** 2 for a in side) for side in (x, y))
    return float(covariance) / sqrt(of_x * of_y) if of_x and of_y else None


class Trend(NamedTuple):
    """`figures` by column of the table; `movement` and `students` as stored."""

    baseline_date: date
    figures: dict[str, Any]
    movement: dict[str, Any]
    students: list[dict[str, Any]]


def trend(school: School, type: str, reference: str, granularity: str, day: date) -> Trend | None:
    """The trend of a board on a day (without the days led), None where there is no board."""
    now = board(school, type, reference, granularity, day)
    if now is None:
        return None
    before = baseline_day(granularity, day)
    then = board(school, type, reference, granularity, before)
    limit = school.limit(type, granularity)
    top, top_then = now.places[:limit], then.places[:limit] if then else []
    ranks, ranks_then = now.ranks, then.ranks if then else {}
    points_then = then.points if then else {}
    names, names_then = [p.student for p in top], [p.student for p in top_then]
    figures = statistics(school, type, reference, day, now, limit)
    figures_then = statistics(school, type, reference, before, then, limit) if then else None
    both = [s for s in ranks if s in ranks_then]

    def moves(sign: int) -> list[dict[str, Any]]:
        gains = [(s, sign * (ranks_then[s] - ranks[s])) for s in both]
        best = sorted((-gain, ranks[s], s.encode(), s) for s, gain in gains if gain > 0)[:5]
        return [
            {
                "studentId": s,
                "rank": ranks[s],
                "previousRank": ranks_then[s],
                "rankChange": ranks_then[s] - ranks[s],
            }
            for *_, s in best
        ]

    def change(name: str) -> Fraction | None:
        return figures[name] - figures_then[name] if figures_then else None

    return Trend(
        before,
        {
            "ranked": figures["ranked"],
            "ranked_change": figures["ranked"] - (figures_then["ranked"] if figures_then else 0),
            "mean": figures["mean"],
            "mean_change": change("mean"),
            "median": figures["median"],
            "median_change": change("median"),
            "retained_share": Fraction(len(set(names) & set(names_then)), len(names_then))
            if names_then
            else None,
            "rank_correlation": tau_b(
                [(ranks[s], ranks_then[s]) for s in names if s in ranks_then]
            ),
            "spearman_rho": spearman_rho([(-now.points[s], -points_then[s]) for s in both]),
            "leader_id": names[0],
        },
        {
            "top3": [
                {"rank": p.rank, "studentId": p.student, "points": p.points} for p in now.places[:3]
            ],
            "entrants": [s for s in names if s not in names_then],
            "leavers": [s for s in names_then if s not in names],
            "climbers": moves(1),
            "fallers": moves(-1),
        },
        [
            {
                "studentId": p.student,
                "rank": p.rank,
                "previousRank": ranks_then.get(p.student),
                "rankChange": ranks_then[p.student] - p.rank if p.student in ranks_then else None,
                "points": p.points,
                "pointsChange": p.points - points_then[p.student]
                if p.student in points_then
                else None,
            }
            for p in top
        ],
    )


def leader(school: School, type: str, reference: str, granularity: str, day: date) -> str | None:
    """Who leads a board as of a day, None where there is no board."""
    found = board(school, type, reference, granularity, day)
    return found.places[0].student if found else None


def leader_since(school: School, type: str, reference: str, granularity: str, day: date) -> date:
    """First of the calendar days, without a gap up to this one, on which today's leader led."""
    key = type, reference, granularity
    today = leader(school, *key, day)
    while leader(school, *key, day - timedelta(days=1)) == today:
        day -= timedelta(days=1)
    return day
