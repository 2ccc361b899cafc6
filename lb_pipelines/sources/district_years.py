"""School years of an invented institution: its terms, their classes, and who takes them.

A year of school is 48 weeks from the first Monday on or after the fifth of its first month, in
terms of equal length with a week off between them; a course of the year begins two weeks later
and ends two weeks earlier, so that it overlaps every term. What a term holds depends on the seed
and on the term alone. Students, classes, subjects and campuses are numbers from 0 here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np

WEEKS_OF_SCHOOL = 48
_SHARE_OF_YEAR_CLASSES = 0.15
_SHARE_OF_MOVERS = 0.03
_SHARE_WITHOUT_CAMPUS = 0.1
_WEEK = timedelta(weeks=1)

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Enrollments:
    """A row each; a campus of -1 is the class's own, a date that is NaT is open."""

    classes: Array
    students: Array
    campuses: Array
    enrolled_on: Array
    withdrawn_on: Array


@dataclass(frozen=True)
class SchoolTerm:
    """A term. `taken` is the class of each student (row) in each of its slots (column).

    `movers` change the class of their first slot on `moved_on` for `new_class`, and their campus
    for `new_campus` until the term ends.
    """

    id: str
    name: str
    starts_on: date
    ends_on: date
    whole_year: bool
    subject_of: Array
    campus_of: Array
    taken: Array
    movers: Array
    moved_on: Array
    new_class: Array
    new_campus: Array

    @property
    def classes(self) -> int:
        """How many classes the term has."""
        return len(self.subject_of)

    @property
    def slots(self) -> int:
        """How many classes of the term a student takes."""
        return int(self.taken.shape[1])

    def holds(self, day: date) -> bool:
        """Whether `day` lies in the term."""
        return self.starts_on <= day <= self.ends_on

    def taken_on(self, day: date) -> Array:
        """`taken` as it is on `day`, after the moves up to then."""
        moved = self.moved_on <= np.datetime64(day)
        if not moved.any():
            return self.taken
        taken = self.taken.copy()
        taken[self.movers[moved], 0] = self.new_class[moved]
        return taken

    def campuses_on(self, day: date, homes: Array) -> Array:
        """The campus of every student on `day`, who were at `homes` when the term began."""
        moved = self.moved_on <= np.datetime64(day)
        campuses = homes.copy()
        campuses[self.movers[moved]] = self.new_campus[moved]
        return campuses

    def enrollments(self) -> Enrollments:
        """All enrollments of the term, a mover's two included."""
        students, slots = self.taken.shape
        rows, moves = students * slots, len(self.movers)
        start = np.datetime64(self.starts_on, "D")
        withdrawn = np.full(rows + moves, "NaT", dtype="M8[D]")
        withdrawn[self.movers * slots] = self.moved_on
        return Enrollments(
            classes=np.concatenate([self.taken.ravel(), self.new_class]),
            students=np.concatenate([np.repeat(np.arange(students), slots), self.movers]),
            campuses=np.concatenate([np.full(rows, -1), self.new_campus]),
            enrolled_on=np.concatenate([np.full(rows, start), self.moved_on]),
            withdrawn_on=withdrawn,
        )


def terms_between(
    first: date,
    last: date,
    *,
    start_month: int,
    terms_per_year: int,
    students: int,
    classes: int,
    subjects: int,
    campuses: int,
    classes_per_student: int,
    generator: Callable[..., np.random.Generator],
) -> list[SchoolTerm]:
    """The terms that hold any day from `first` to `last`, in order of their ids.

    `generator` makes a source of chance from integers that say what for.
    """
    year_classes = 0
    if terms_per_year and classes > 1 and classes_per_student > 1:
        year_classes = max(1, round(classes * _SHARE_OF_YEAR_CLASSES))

    def fill(id: str, name: str, starts_on: date, ends_on: date, whole_year: bool) -> SchoolTerm:
        chance = generator(10, starts_on.toordinal(), int(whole_year))
        count = year_classes if whole_year else classes - year_classes
        slots = 1 if whole_year else classes_per_student - (1 if year_classes else 0)
        taken, other = _choose(chance, students, count, min(slots, count))
        campus_of = chance.integers(campuses, size=count)
        campus_of[chance.random(count) < _SHARE_WITHOUT_CAMPUS] = -1
        length = (ends_on - starts_on).days
        moves = other is not None and length >= 28
        movers = np.flatnonzero(chance.random(students) < (_SHARE_OF_MOVERS if moves else 0))
        days = chance.integers(14, max(15, length - 13), size=len(movers))
        return SchoolTerm(
            id,
            name,
            starts_on,
            ends_on,
            whole_year,
            subject_of=chance.integers(subjects, size=count),
            campus_of=campus_of,
            taken=taken,
            movers=movers,
            moved_on=np.datetime64(starts_on, "D") + days.astype("m8[D]"),
            new_class=other[movers] if other is not None else movers,
            new_campus=chance.integers(campuses, size=len(movers)),
        )

    if not terms_per_year:
        return [fill("term", "Term", first, last, False)]
    spans = [
        span
        for year in range(first.year - 1, last.year + 1)
        for span in _spans(year, start_month, terms_per_year, bool(year_classes))
        if span[2] <= last and span[3] >= first
    ]
    return [fill(*span) for span in spans]


def _spans(
    year: int, start_month: int, terms_per_year: int, with_year: bool
) -> Iterator[tuple[str, str, date, date, bool]]:
    """Id, name, first and last day of the terms of the academic year that begins in `year`."""
    fifth = date(year, start_month, 5)
    start = fifth + timedelta(days=-fifth.weekday() % 7)
    weeks = WEEKS_OF_SCHOOL // terms_per_year
    for number in range(terms_per_year):
        begins = start + number * weeks * _WEEK
        ends = begins + (weeks - 1) * _WEEK - timedelta(days=1)
        yield f"{year}-{number + 1}", f"Term {number + 1} {year}", begins, ends, False
    if with_year:
        end = start + WEEKS_OF_SCHOOL * _WEEK - timedelta(days=1)
        yield f"{year}-year", f"Year {year}", start + 2 * _WEEK, end - 2 * _WEEK, True


def _choose(
    chance: np.random.Generator, students: int, classes: int, slots: int
) -> tuple[Array, Array | None]:
    """For every student `slots` different classes, and one more where there are more.

    Classes of lower number are larger. The classes of a student lie a stride apart, which makes
    them different without looking.
    """
    first = (classes * chance.random(students) ** 1.3).astype(np.int32)
    stride = chance.integers(1, max(1, (classes - 1) // slots) + 1, size=students, dtype=np.int32)
    taken = (first[:, None] + stride[:, None] * np.arange(slots, dtype=np.int32)) % classes
    if classes <= slots:
        return taken, None
    return taken, (first + stride * slots) % classes
