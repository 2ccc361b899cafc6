"""An invented district: institutions, school years and point events of any size, from a seed.

The same spec gives the same district; and a day's events depend on the seed, the institution and
the day alone, so that a longer district holds a shorter one and generating again adds only what
is new. What real schools do is in it: institutions of very different size, zones with and without
daylight saving, terms and a course of a year that overlaps them, holidays, quiet weekends, events
that arrive late, are voided or take points away, ties, events without class, subject or campus,
students who change class and campus within a term.

What a school year looks like is in `district_years`; here are the spec, the events of a day and
the way into the database: one transaction an institution, day after day through one COPY.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from time import perf_counter
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lb_pipelines.core.periods import ONE_DAY, closed_through, days_between
from lb_pipelines.core.zones import load_zone
from lb_pipelines.db.engine import Connection, Database
from lb_pipelines.errors import ImportRefused
from lb_pipelines.sources import loading
from lb_pipelines.sources.district_years import SchoolTerm, terms_between
from lb_pipelines.sources.loading import Keys
from lb_pipelines.sources.progress import Progress, silent
from lb_pipelines.sources.report import ImportReport

ZONES = (
    "America/New_York",
    "Europe/London",
    "Asia/Kolkata",
    "Australia/Sydney",
    "America/Los_Angeles",
    "Europe/Berlin",
    "UTC",
    "Pacific/Auckland",
    "America/Sao_Paulo",
    "Australia/Lord_Howe",
)
START_MONTHS = (8, 9, 4, 2)
PLACES = (
    "Northfield", "Harbour View", "Millbrook", "Eastgate", "Lakeside", "Greenwood", "Riverton",
    "Summerhill", "Fairmont", "Stonebridge",
)  # fmt: skip
SUBJECTS = (
    "Mathematics", "English", "Biology", "History", "Chemistry", "Physics", "Geography", "Art",
    "Music", "Computing", "Economics", "Spanish",
)  # fmt: skip
FIRST_NAMES = (
    "Ada", "Ben", "Chloe", "Daniel", "Elif", "Finn", "Grace", "Hugo", "Iris", "Jonas", "Kemi",
    "Leo", "Maya", "Noah", "Olga", "Priya", "Quentin", "Rosa", "Sami", "Tara",
)  # fmt: skip
LAST_NAMES = (
    "Abbott", "Baker", "Costa", "Dubois", "Evans", "Fischer", "Gupta", "Hansen", "Ito", "Jensen",
    "Khan", "Lopez", "Moreau", "Novak", "Okafor", "Patel", "Quinn", "Rossi", "Sato", "Turner",
)  # fmt: skip

_AMOUNTS = np.array([5, 10, 10, 10, 15, 20, 20, 25, 50, 0], dtype=np.int32)
_DEDUCTIONS = np.array([-5, -10, -20], dtype=np.int32)
_WEEKEND, _HOLIDAY = 0.15, 0.3
_SHARE = {
    "deducted": 0.03, "voided": 0.015, "late": 0.02, "no class": 0.08, "no subject": 0.03,
    "no campus": 0.05,
}  # fmt: skip
_SECOND = 1_000_000

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class District:
    """How large a district is. Numbers are of the whole district, shared out unevenly.

    `classes` are those taught at one time, `events_per_day` those of a school day, `end_day` the
    last day with events, in every institution's own zone. With `terms_per_year` 0 there is one
    term over all days, and no holiday.
    """

    end_day: date
    institutions: int = 3
    students: int = 900
    classes: int = 45
    subjects: int = 18
    campuses: int = 9
    days: int = 60
    events_per_day: int = 1_500
    classes_per_student: int = 5
    terms_per_year: int = 2
    seed: int = 1

    @classmethod
    def small(cls, now: datetime) -> District:
        """The district of `make run`: 60 days, the last of which is over in every zone at `now`."""
        return cls(end_day=last_day_over(now))

    @property
    def first_day(self) -> date:
        """The first day with events."""
        return self.end_day - (self.days - 1) * ONE_DAY

    def validate(self) -> District:
        """Return itself; raises `ImportRefused` for what cannot be shared out."""
        for name in ("students", "classes", "subjects", "campuses"):
            if getattr(self, name) < self.institutions:
                raise ImportRefused(
                    f"{getattr(self, name)} {name} are too few for {self.institutions}"
                    " institutions",
                    "Give at least one to each",
                )
        for name in ("institutions", "days", "classes_per_student"):
            if getattr(self, name) < 1:
                raise ImportRefused(f"{name} is {getattr(self, name)}", "Give at least 1")
        return self


def last_day_over(now: datetime) -> date:
    """The last day that is over at `now` in every zone that a district may have."""
    return min(closed_through(now, load_zone(zone)) for zone in ZONES)


def generate(database: Database, spec: District, *, progress: Progress = silent) -> ImportReport:
    """Write the district into the database, institution by institution; what was written."""
    began = perf_counter()
    spec.validate()
    report = ImportReport()
    months = {day.replace(day=1) for day in days_between(spec.first_day, spec.end_day)}
    # Local days reach a little over the ends in UTC.
    loading.ensure_months(database, months | {spec.first_day - ONE_DAY, spec.end_day + ONE_DAY})
    done = 0
    for school in _schools(spec):
        with database.transaction() as connection:
            done = _write(connection, school, report, progress, done)
    report.note_left_out()
    report.seconds = perf_counter() - began
    return report


@dataclass(frozen=True)
class _School:
    """One institution of the district. `terms` are those that hold any of the days."""

    spec: District
    number: int
    students: int
    classes: int
    subjects: int
    campuses: int
    events_per_day: float

    @property
    def id(self) -> str:
        return f"inst_{101 + self.number}"

    @property
    def name(self) -> str:
        place = PLACES[self.number % len(PLACES)]
        again = self.number // len(PLACES)
        return f"{place} District" + (f" {again + 1}" if again else "")

    @property
    def zone(self) -> ZoneInfo:
        return load_zone(ZONES[self.number % len(ZONES)])

    @property
    def start_month(self) -> int:
        return START_MONTHS[self.number % len(START_MONTHS)]

    def generator(self, *purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.spec.seed, self.number, *purpose])

    @property
    def student_ids(self) -> pa.Array:
        return _ids("s", self.students, 6)

    @property
    def subject_ids(self) -> pa.Array:
        return _ids("subject-", self.subjects)

    @property
    def campus_ids(self) -> pa.Array:
        return _ids("campus-", self.campuses)

    def homes(self) -> Array:
        """Each student's campus at first."""
        return self.generator(1).integers(self.campuses, size=self.students)

    def names(self) -> pa.Array:
        generator = self.generator(2)
        first = pa.array(FIRST_NAMES).take(pa.array(generator.integers(20, size=self.students)))
        last = pa.array(LAST_NAMES).take(pa.array(generator.integers(20, size=self.students)))
        return pc.binary_join_element_wise(first, last, " ")


def _schools(spec: District) -> Iterator[_School]:
    weights = 1 / np.arange(1, spec.institutions + 1) ** 0.8
    shares = {
        name: _shared(getattr(spec, name), weights)
        for name in ("students", "classes", "subjects", "campuses")
    }
    for number in range(spec.institutions):
        yield _School(
            spec,
            number,
            **{name: int(share[number]) for name, share in shares.items()},
            events_per_day=spec.events_per_day * weights[number] / weights.sum(),
        )


def _shared(total: int, weights: Array) -> Array:
    """`total` whole things by weight, at least one to each."""
    exact = (total - len(weights)) * weights / weights.sum()
    shares = np.floor(exact).astype(np.int64)
    rest = total - len(weights) - shares.sum()
    shares[np.argsort(shares - exact, kind="stable")[:rest]] += 1
    return shares + 1


def _write(
    connection: Connection, school: _School, report: ImportReport, progress: Progress, done: int
) -> int:
    spec = school.spec
    key, written = loading.merge_institution(
        connection, school.id, school.name, school.zone.key, school.start_month
    )
    report.add_written("institutions", written)
    terms = terms_between(
        spec.first_day,
        spec.end_day,
        start_month=school.start_month,
        terms_per_year=spec.terms_per_year,
        students=school.students,
        classes=school.classes,
        subjects=school.subjects,
        campuses=school.campuses,
        classes_per_student=spec.classes_per_student,
        generator=school.generator,
    )

    def merge(table: str, **columns: Any) -> None:
        schema = loading.SCHEMAS[table]
        rows = len(next(iter(columns.values())))
        columns["institution_key"] = pa.repeat(pa.scalar(key, pa.int32()), rows)
        arrays = [columns.get(field.name, pa.nulls(rows, field.type)) for field in schema]
        report.add_written(table, loading.merge(connection, table, pa.table(arrays, schema=schema)))
        progress(f"{school.id}: {table}", rows, rows)

    merge(
        "campuses",
        id=school.campus_ids,
        name=[f"{PLACES[at % len(PLACES)]} Campus {at + 1}" for at in range(school.campuses)],
    )
    merge(
        "subjects",
        id=school.subject_ids,
        name=[_subject(at) for at in range(school.subjects)],
    )
    merge(
        "terms",
        id=[term.id for term in terms],
        name=[term.name for term in terms],
        starts_on=[term.starts_on for term in terms],
        ends_on=[term.ends_on for term in terms],
    )
    students, campuses, subjects = school.student_ids, school.campus_ids, school.subject_ids
    class_ids = [_ids(f"{term.id}-c", term.classes, 4) for term in terms]
    merge(
        "classes",
        id=pa.concat_arrays(class_ids),
        name=[
            f"{_subject(subject)} {at + 1}, {term.name}"
            for term in terms
            for at, subject in enumerate(term.subject_of.tolist())
        ],
        subject_id=pa.concat_arrays([subjects.take(pa.array(t.subject_of)) for t in terms]),
        campus_id=pa.concat_arrays(
            [campuses.take(pa.array(t.campus_of, mask=t.campus_of < 0)) for t in terms]
        ),
        term_id=[term.id for term in terms for _ in range(term.classes)],
    )
    merge("students", id=students, name=school.names())
    enrollments = [term.enrollments() for term in terms]
    merge(
        "enrollments",
        class_id=pa.concat_arrays(
            [
                ids.take(pa.array(rows.classes))
                for ids, rows in zip(class_ids, enrollments, strict=True)
            ]
        ),
        student_id=pa.concat_arrays([students.take(pa.array(e.students)) for e in enrollments]),
        campus_id=pa.concat_arrays(
            [campuses.take(pa.array(e.campuses, mask=e.campuses < 0)) for e in enrollments]
        ),
        enrolled_on=pa.concat_arrays([pa.array(e.enrolled_on) for e in enrollments]),
        withdrawn_on=pa.concat_arrays([pa.array(e.withdrawn_on) for e in enrollments]),
    )
    keys = _SchoolKeys.read(connection, key, school, class_ids)

    def batches() -> Iterator[pa.RecordBatch]:
        nonlocal done
        homes = school.homes()
        for day in days_between(spec.first_day, spec.end_day):
            batch = _events_of(school, terms, keys, homes, day)
            yield from pa.table(batch).to_batches(max_chunksize=loading.BATCH_ROWS)
            done += batch.num_rows
            progress("events", done, None)

    report.add_written("student_points", loading.load_points(connection, key, batches()))
    return done


@dataclass(frozen=True)
class _SchoolKeys:
    """Keys by the district's own numbers."""

    students: Array
    subjects: Array
    campuses: Array
    classes: list[Array]

    @classmethod
    def read(
        cls, connection: Connection, key: int, school: _School, class_ids: list[pa.Array]
    ) -> _SchoolKeys:
        def keys(dimension: str, *ids: pa.Array) -> list[Array]:
            known = Keys.read(connection, dimension, [key])
            values = known.columns[f"{dimension}_key"]
            return [
                pc.fill_null(
                    values.take(known.find(pa.repeat(pa.scalar(key, pa.int32()), len(some)), some)),
                    loading.NOBODY,
                ).to_numpy()
                for some in ids
            ]

        return cls(
            keys("student", school.student_ids)[0],
            keys("subject", school.subject_ids)[0],
            keys("campus", school.campus_ids)[0],
            keys("class", *class_ids),
        )


def _events_of(
    school: _School, terms: list[SchoolTerm], keys: _SchoolKeys, homes: Array, day: date
) -> pa.RecordBatch:
    """The events of one local day, in order of time."""
    chance = school.generator(20, day.toordinal())
    running = [at for at, term in enumerate(terms) if term.holds(day)]
    at_school = any(not terms[at].whole_year for at in running)
    quiet = (_WEEKEND if day.weekday() >= 5 else 1) * (1 if at_school else _HOLIDAY)
    count = chance.poisson(school.events_per_day * quiet)
    students = (school.students * chance.random(count) ** 1.4).astype(np.int64)

    class_keys, subjects = np.zeros(count, np.int32), chance.integers(school.subjects, size=count)
    slot = chance.integers(sum(terms[at].slots for at in running) or 1, size=count)
    for at in running:
        term = terms[at]
        mine = (slot >= 0) & (slot < term.slots)
        classes = term.taken_on(day)[students[mine], slot[mine]]
        class_keys[mine] = keys.classes[at][classes]
        subjects[mine] = term.subject_of[classes]
        slot -= term.slots
        homes = term.campuses_on(day, homes)
    chances = chance.random((count, 6))
    no_class = (chances[:, 0] < _SHARE["no class"]) | (class_keys == 0)
    no_subject = no_class & (chances[:, 0] < _SHARE["no subject"])
    amounts = _AMOUNTS[chance.integers(len(_AMOUNTS), size=count)]
    deducted = chances[:, 2] < _SHARE["deducted"]
    amounts[deducted] = _DEDUCTIONS[chance.integers(len(_DEDUCTIONS), size=int(deducted.sum()))]

    low, high = _midnight(day, school.zone), _midnight(day + ONE_DAY, school.zone)
    by_day = chance.random(count) < 0.8
    share = np.where(by_day, chance.beta(6, 6, size=count), chance.random(count))
    occurred = np.sort(low + (share * (high - low)).astype(np.int64))
    delay = chance.integers(_SECOND, 90 * _SECOND, size=count)
    late = chances[:, 4] < _SHARE["late"]
    delay[late] = chance.integers(1, 11 * 86_400, size=int(late.sum())) * _SECOND
    ended = _midnight(school.spec.end_day + ONE_DAY, school.zone)
    instant = pa.timestamp("us", "UTC")
    numbers = pc.utf8_lpad(pa.array(np.arange(count)).cast(pa.string()), 7, "0")
    return pa.record_batch(
        {
            "occurred_at": pa.array(occurred).cast(instant),
            "student_key": keys.students[students],
            "class_key": pa.array(class_keys, mask=no_class),
            "subject_key": pa.array(keys.subjects[subjects], mask=no_subject),
            "campus_key": pa.array(
                keys.campuses[homes[students]], mask=chances[:, 1] < _SHARE["no campus"]
            ),
            "amount": amounts,
            "event_id": pc.binary_join_element_wise(f"e-{day:%Y%m%d}", numbers, "-"),
            "status": pc.if_else(pa.array(chances[:, 3] < _SHARE["voided"]), "VOIDED", "ACTIVE"),
            "updated_at": pa.array(np.minimum(occurred + delay, ended)).cast(instant),
        }
    )


def _midnight(day: date, zone: ZoneInfo) -> int:
    """The first instant of a local day, in microseconds from 1970."""
    return round(datetime.combine(day, time.min, zone).astimezone(UTC).timestamp() * _SECOND)


def _ids(prefix: str, count: int, width: int = 2) -> pa.Array:
    numbers = pc.utf8_lpad(pa.array(np.arange(1, count + 1)).cast(pa.string()), width, "0")
    return pc.binary_join_element_wise(prefix, numbers, "")


def _subject(number: int) -> str:
    again = number // len(SUBJECTS)
    return SUBJECTS[number % len(SUBJECTS)] + (f" {again + 1}" if again else "")
