"""The Open University Learning Analytics Dataset as an institution (doi:10.1038/sdata.2017.171).

campus = region, subject = module, class = module and presentation (`BBB-2013J`), term =
presentation code, enrollment = registration. Two kinds of points:

- assessments: score x weight, at the day of submission; exams left out, and what has no score.
  Rounded to even where the weight is no whole number (3,105 products end in .5).
- clicks: the sum of a student's clicks of a day in a class.

The dataset counts days from the start of a presentation and knows no hours: an event is at noon
in London. The dates on which presentations began are not in the published tables, but derived
from them by many and the same everywhere; they are in `PRESENTATIONS`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from enum import StrEnum
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lb_pipelines.core.zones import load_zone
from lb_pipelines.db.engine import Connection, Database
from lb_pipelines.errors import ImportRefused
from lb_pipelines.sources import files, loading
from lb_pipelines.sources.loading import Keys
from lb_pipelines.sources.progress import Progress, silent
from lb_pipelines.sources.report import ImportReport, Read

INSTITUTION_ID = "open_university"
INSTITUTION_NAME = "The Open University"
TIME_ZONE = "Europe/London"


class Points(StrEnum):
    """Which kinds of points are imported."""

    ASSESSMENTS = "assessments"
    CLICKS = "clicks"
    BOTH = "both"


_B13, _J13 = date(2013, 9, 30), date(2014, 6, 30)
_B14, _J14 = date(2014, 9, 30), date(2015, 6, 30)
PRESENTATIONS: Mapping[tuple[str, str], tuple[date, date]] = {
    ("BBB", "2013B"): (date(2013, 2, 2), _B13),
    ("DDD", "2013B"): (date(2013, 2, 2), _B13),
    ("FFF", "2013B"): (date(2013, 2, 2), _B13),
    ("AAA", "2013J"): (date(2013, 10, 5), _J13),
    ("BBB", "2013J"): (date(2013, 10, 5), _J13),
    ("DDD", "2013J"): (date(2013, 10, 12), _J13),
    ("EEE", "2013J"): (date(2013, 10, 5), _J13),
    ("FFF", "2013J"): (date(2013, 10, 5), _J13),
    ("GGG", "2013J"): (date(2013, 10, 12), _J13),
    ("BBB", "2014B"): (date(2014, 2, 8), _B14),
    ("CCC", "2014B"): (date(2014, 2, 1), _B14),
    ("DDD", "2014B"): (date(2014, 2, 1), _B14),
    ("EEE", "2014B"): (date(2014, 2, 1), _B14),
    ("FFF", "2014B"): (date(2014, 2, 1), _B14),
    ("GGG", "2014B"): (date(2014, 2, 1), _B14),
    ("AAA", "2014J"): (date(2014, 10, 4), _J14),
    ("BBB", "2014J"): (date(2014, 10, 11), _J14),
    ("CCC", "2014J"): (date(2014, 10, 4), _J14),
    ("DDD", "2014J"): (date(2014, 10, 11), _J14),
    ("EEE", "2014J"): (date(2014, 10, 4), _J14),
    ("FFF", "2014J"): (date(2014, 10, 4), _J14),
    ("GGG", "2014J"): (date(2014, 10, 4), _J14),
}
"""First and last day of every presentation."""

PUBLISHED_ROWS = {
    "courses": 22,
    "assessments": 206,
    "vle": 6_364,
    "studentInfo": 32_593,
    "studentRegistration": 32_593,
    "studentAssessment": 173_912,
    "studentVle": 10_655_280,
}

_CODE = pa.dictionary(pa.int32(), pa.string())
_CLASS = {"code_module": _CODE, "code_presentation": _CODE}
_COLUMNS: dict[str, dict[str, pa.DataType]] = {
    "courses": _CLASS,
    "assessments": {
        **_CLASS,
        "id_assessment": pa.int64(),
        "assessment_type": pa.string(),
        "weight": pa.float64(),
    },
    "vle": {"id_site": pa.int64()},
    "studentInfo": {**_CLASS, "id_student": pa.int64(), "region": pa.string()},
    "studentRegistration": {
        **_CLASS,
        "id_student": pa.int64(),
        "date_registration": pa.int32(),
        "date_unregistration": pa.int32(),
    },
    "studentAssessment": {
        "id_assessment": pa.int64(),
        "id_student": pa.int64(),
        "date_submitted": pa.int32(),
        "score": pa.int32(),
    },
    "studentVle": {
        **_CLASS,
        "id_student": pa.int64(),
        "date": pa.int32(),
        "sum_click": pa.int32(),
    },
}
_MISSING = ["?", ""]
_MAY_BE_MISSING = {"score", "date_registration", "date_unregistration"}
# A group of clicks in one number: class, student, day; each has room for the largest there can be.
_STUDENT_BITS, _DAY_BITS = 40, 16
_DAY_ZERO = 1 << (_DAY_BITS - 1)

Array = np.ndarray[Any, Any]


def import_directory(
    database: Database,
    directory: Path,
    *,
    points: Points = Points.BOTH,
    progress: Progress = silent,
) -> ImportReport:
    """Import the published CSVs (or the same as Parquet) in one transaction.

    Raises `ImportRefused` naming a file that is missing or no file of the dataset.
    """
    began = perf_counter()
    needed = ["courses", "studentInfo", "studentRegistration"]
    if points != Points.CLICKS:
        needed += ["assessments", "studentAssessment"]
    if points != Points.ASSESSMENTS:
        needed += ["vle", "studentVle"]
    paths = files.require(directory, needed)
    report = ImportReport()

    def read(name: str) -> pa.Table:
        progress(f"reading {paths[name].name}", 0, PUBLISHED_ROWS[name])
        table = files.read_columns(paths[name], _COLUMNS[name], _MISSING)
        for column in table.column_names:
            if column not in _MAY_BE_MISSING and table[column].null_count:
                raise ImportRefused(
                    f"{paths[name]}: {table[column].null_count:,} rows lack {column}",
                    "Put the published file in its place",
                )
        report.read[paths[name].name] = Read(table.num_rows, published=PUBLISHED_ROWS[name])
        progress(f"reading {paths[name].name}", table.num_rows, table.num_rows)
        return table

    school = _School.of(read("courses"), read("studentInfo"), read("studentRegistration"))
    events: list[_Events] = []
    if points != Points.CLICKS:
        events.append(_assessments(school, read("assessments"), read("studentAssessment"), report))
    if points != Points.ASSESSMENTS:
        read("vle")
        events.append(_clicks(school, read("studentVle")))
    for some in events:
        school.require_known(school.pair(some.classes, some.students))
        loading.ensure_months(database, some.months())
    with database.transaction() as connection:
        key = _merge_dimensions(connection, school, report, progress)
        keys = _EventKeys.read(connection, school, key)
        total = sum(map(len, events))

        def batches() -> Iterator[pa.RecordBatch]:
            done = 0
            for some in events:
                for batch in some.batches(school, keys):
                    yield batch
                    done += batch.num_rows
                    progress("events", done, total)

        written = loading.load_points(connection, key, batches())
        report.add_written("student_points", written)
    report.note_left_out()
    report.seconds = perf_counter() - began
    return report


@dataclass
class _School:
    """The dimensions. `classes` are in the order of their ids; arrays below count from there."""

    classes: list[tuple[str, str]]
    starts: Array
    students: Array
    regions: list[str]
    enrolled: pa.Table
    region_of: dict[str, Array]

    @classmethod
    def of(cls, courses: pa.Table, info: pa.Table, registrations: pa.Table) -> _School:
        pairs = zip(
            courses["code_module"].to_pylist(),
            courses["code_presentation"].to_pylist(),
            strict=True,
        )
        classes = sorted(set(pairs))
        unknown = [
            f"{module}-{term}" for module, term in classes if (module, term) not in PRESENTATIONS
        ]
        if unknown:
            raise ImportRefused(
                f"courses has presentations whose dates are not known: {', '.join(unknown)}",
                "Leave them out, or bring the data in by the plain format",
            )
        starts = np.array([PRESENTATIONS[pair][0] for pair in classes], dtype="M8[D]")
        school = cls(
            classes,
            starts,
            np.unique(info["id_student"].to_numpy()),
            sorted(set(info["region"].to_pylist())),
            registrations,
            {},
        )
        # (class, student) of every row of studentInfo as one sorted number, and its region.
        pair = school.pair(school.class_of(info, "studentInfo"), info["id_student"].to_numpy())
        order = np.argsort(pair)
        region = np.searchsorted(np.array(school.regions), np.array(info["region"].to_pylist()))
        school.region_of = {"pair": pair[order], "region": region[order]}
        return school

    def class_of(self, table: pa.Table, name: str) -> Array:
        """The number of each row's class; refuses a class that courses does not have."""
        module = table["code_module"].combine_chunks()
        term = table["code_presentation"].combine_chunks()
        numbers = np.full((len(module.dictionary), len(term.dictionary)), -1, dtype=np.int64)
        modules, terms = module.dictionary.to_pylist(), term.dictionary.to_pylist()
        for number, (code, presentation) in enumerate(self.classes):
            if code in modules and presentation in terms:
                numbers[modules.index(code), terms.index(presentation)] = number
        of_row = numbers[module.indices.to_numpy(), term.indices.to_numpy()]
        if len(of_row) and of_row.min() < 0:
            at = int(np.argmin(of_row))
            raise ImportRefused(
                f"{name}, row {at + 1:,}: class {module[at]}-{term[at]} is not in courses",
                "Put the published courses.csv beside it",
            )
        return of_row

    def pair(self, class_of: Array, students: Array) -> Array:
        return class_of << _STUDENT_BITS | students

    def regions_of(self, pair: Array) -> Array:
        """The number of each (class, student)'s region; the caller knows that all exist."""
        return self.region_of["region"][np.searchsorted(self.region_of["pair"], pair)]

    def require_known(self, pairs: Array) -> None:
        """Refuse points of a student in a class for which studentInfo has no row."""
        known = self.region_of["pair"]
        at = np.minimum(np.searchsorted(known, pairs), len(known) - 1)
        bad = pairs[known[at] != pairs] if len(known) else pairs
        if len(bad):
            module, term = self.classes[int(bad[0]) >> _STUDENT_BITS]
            student = int(bad[0]) & ((1 << _STUDENT_BITS) - 1)
            raise ImportRefused(
                f"{len(bad):,} points are of students without a row in studentInfo, the first of"
                f" student {student} in {module}-{term}",
                "Put the published studentInfo.csv beside it",
            )

    def class_ids(self) -> list[str]:
        return [f"{module}-{term}" for module, term in self.classes]


def _merge_dimensions(
    connection: Connection, school: _School, report: ImportReport, progress: Progress
) -> int:
    key, written = loading.merge_institution(
        connection, INSTITUTION_ID, INSTITUTION_NAME, TIME_ZONE
    )
    report.add_written("institutions", written)

    def merge(table: str, **columns: Any) -> None:
        schema = loading.SCHEMAS[table]
        rows = len(next(iter(columns.values())))
        columns["institution_key"] = pa.repeat(pa.scalar(key, pa.int32()), rows)
        arrays = [columns.get(name, pa.nulls(rows, kind)) for name, kind in _fields(schema)]
        report.add_written(table, loading.merge(connection, table, pa.table(arrays, schema=schema)))
        progress(f"writing {table}", rows, rows)

    modules = sorted({module for module, _ in school.classes})
    terms = sorted({term for _, term in school.classes})
    spans = [[PRESENTATIONS[pair] for pair in PRESENTATIONS if pair[1] == term] for term in terms]
    merge("campuses", id=school.regions, name=school.regions)
    merge("subjects", id=modules, name=modules)
    merge(
        "terms",
        id=terms,
        name=[f"{'October' if term.endswith('J') else 'February'} {term[:4]}" for term in terms],
        starts_on=[min(first for first, _ in span) for span in spans],
        ends_on=[max(last for _, last in span) for span in spans],
    )
    merge(
        "classes",
        id=school.class_ids(),
        name=[f"{module} {term}" for module, term in school.classes],
        subject_id=[module for module, _ in school.classes],
        term_id=[term for _, term in school.classes],
    )
    merge("students", id=pa.array(school.students).cast(pa.string()))
    enrolled = school.enrolled
    class_of = school.class_of(enrolled, "studentRegistration")
    students = enrolled["id_student"].to_numpy()
    pair = school.pair(class_of, students)
    school.require_known(pair)
    merge(
        "enrollments",
        class_id=pa.array(school.class_ids()).take(pa.array(class_of)),
        student_id=pa.array(students).cast(pa.string()),
        campus_id=pa.array(school.regions).take(pa.array(school.regions_of(pair))),
        enrolled_on=_days_after(school.starts[class_of], enrolled["date_registration"]),
        withdrawn_on=_days_after(school.starts[class_of], enrolled["date_unregistration"]),
    )
    return key


def _fields(schema: pa.Schema) -> Iterator[tuple[str, pa.DataType]]:
    return ((field.name, field.type) for field in schema)


def _days_after(starts: Array, offsets: pa.ChunkedArray) -> pa.Array:
    days = starts + pc.fill_null(offsets, 0).to_numpy().astype("m8[D]")
    return pa.array(days, pa.date32(), mask=offsets.is_null().to_numpy())


@dataclass
class _EventKeys:
    """Keys of the dimensions by the school's own numbers, ready for `take`."""

    classes: Array
    subjects: Array
    campuses: Array
    students: Array

    @classmethod
    def read(cls, connection: Connection, school: _School, institution_key: int) -> _EventKeys:
        def keys(dimension: str, ids: pa.Array, column: str | None = None) -> Array:
            known = Keys.read(connection, dimension, [institution_key])
            owners = pa.repeat(pa.scalar(institution_key, pa.int32()), len(ids))
            values = known.columns[column or f"{dimension}_key"]
            found = values.take(known.find(owners, ids))
            return pc.fill_null(found, loading.NOBODY).to_numpy()

        classes = pa.array(school.class_ids())
        return cls(
            keys("class", classes),
            keys("class", classes, "subject_key"),
            keys("campus", pa.array(school.regions)),
            keys("student", pa.array(school.students).cast(pa.string())),
        )


@dataclass(frozen=True)
class _Events:
    """Events of one kind, a row each. An id is one of `prefixes`, then the student's id."""

    prefixes: list[str]
    prefix_of: Array
    classes: Array
    students: Array
    days: Array
    amounts: Array

    def __len__(self) -> int:
        return len(self.amounts)

    def months(self) -> set[date]:
        """The months with events: noon in London lies on the same day in UTC."""
        return set(np.unique(self.days.astype("M8[M]")).astype("M8[D]").tolist())

    def batches(self, school: _School, keys: _EventKeys) -> Iterator[pa.RecordBatch]:
        """The events as `loading.load_points` takes them, in the order of their ids.

        In that order the primary key grows at its right end: COPY of the clicks took 5.7 s so
        and 10.2 s in the order of time.
        """
        number = np.searchsorted(school.students, self.students)
        student_texts = pa.array(school.students).cast(pa.string())
        rank = np.empty(len(school.students), dtype=np.int32)
        rank[np.asarray(pc.sort_indices(student_texts))] = np.arange(len(rank))
        prefix_rank = np.empty(len(self.prefixes), dtype=np.int32)
        closed = [f"{prefix}-" for prefix in self.prefixes]
        prefix_rank[sorted(range(len(closed)), key=closed.__getitem__)] = np.arange(len(closed))
        order = np.lexsort((rank[number], prefix_rank[self.prefix_of]))
        prefixes = pa.array(self.prefixes)
        first, noons = _noons(self.days)
        for at in range(0, len(order), loading.BATCH_ROWS):
            rows = order[at : at + loading.BATCH_ROWS]
            students, classes = number[rows], self.classes[rows]
            regions = school.regions_of(school.pair(classes, self.students[rows]))
            ids = pc.binary_join_element_wise(
                prefixes.take(pa.array(self.prefix_of[rows])),
                student_texts.take(pa.array(students)),
                "-",
            )
            columns = [
                pa.array(noons[(self.days[rows] - first).astype(np.int64)]),
                pa.array(keys.students[students]),
                pa.array(keys.classes[classes]),
                pa.array(keys.subjects[classes]),
                pa.array(keys.campuses[regions]),
                pa.array(self.amounts[rows]).cast(pa.int32()),
                ids,
            ]
            columns[0] = columns[0].cast(pa.timestamp("us", "UTC"))
            yield pa.record_batch(columns, schema=loading.POINTS)


def _noons(days: Array) -> tuple[Any, Array]:
    """The first day, and the instants of noon of it and of every day up to the last."""
    first, last = days.min(), days.max()
    zone = load_zone(TIME_ZONE)
    noons = [
        datetime.combine(day, time(12), zone).astimezone(UTC).replace(tzinfo=None)
        for day in np.arange(first, last + 1).tolist()
    ]
    return first, np.array(noons, dtype="M8[us]")


def _assessments(
    school: _School, assessments: pa.Table, results: pa.Table, report: ImportReport
) -> _Events:
    ids = assessments["id_assessment"].to_numpy()
    order = np.argsort(ids)
    wanted = results["id_assessment"].to_numpy()
    found = np.minimum(np.searchsorted(ids[order], wanted), len(ids) - 1)
    of_row = order[found] if len(ids) else found
    if len(wanted) and (not len(ids) or (ids[of_row] != wanted).any()):
        raise ImportRefused(
            "studentAssessment has results of assessments that are not in assessments",
            "Put the published assessments.csv beside it",
        )
    exam = np.asarray(pc.equal(assessments["assessment_type"], "Exam"))[of_row]
    missing = results["score"].is_null().to_numpy() & ~exam
    report.notes.append(f"{exam.sum():,} results of exams left out: they are no points")
    report.notes.append(f"{missing.sum():,} results without a score left out")
    kept = ~exam & ~missing
    of_row = of_row[kept]
    classes = school.class_of(assessments, "assessments")[of_row]
    scores = pc.fill_null(results["score"], 0).to_numpy()[kept]
    weights = assessments["weight"].to_numpy()[of_row]
    offsets = results["date_submitted"].to_numpy()[kept]
    return _Events(
        prefixes=[f"a-{id}" for id in ids.tolist()],
        prefix_of=of_row,
        classes=classes,
        students=results["id_student"].to_numpy()[kept],
        days=school.starts[classes] + offsets.astype("m8[D]"),
        amounts=np.rint(scores * weights).astype(np.int64),
    )


def _clicks(school: _School, visits: pa.Table) -> _Events:
    students, offsets = visits["id_student"].to_numpy(), visits["date"].to_numpy()
    _require_range("studentVle: id_student", students, 0, 1 << _STUDENT_BITS)
    _require_range("studentVle: date", offsets, -_DAY_ZERO, _DAY_ZERO)
    groups = school.pair(school.class_of(visits, "studentVle"), students)
    groups <<= _DAY_BITS
    groups |= offsets.astype(np.int64) + _DAY_ZERO
    sums = (
        pa.table({"group": groups, "clicks": visits["sum_click"]})
        .group_by("group")
        .aggregate([("clicks", "sum")])
    )
    group = sums["group"].to_numpy()
    offsets = (group & ((1 << _DAY_BITS) - 1)) - _DAY_ZERO
    pairs = group >> _DAY_BITS
    classes = pairs >> _STUDENT_BITS
    # The distinct (class, day) are few thousands: their texts are made once.
    class_days, prefix_of = np.unique(
        classes << _DAY_BITS | (offsets + _DAY_ZERO), return_inverse=True
    )
    names = school.class_ids()
    return _Events(
        prefixes=[
            f"v-{names[number >> _DAY_BITS]}-{(number & ((1 << _DAY_BITS) - 1)) - _DAY_ZERO}"
            for number in class_days.tolist()
        ],
        prefix_of=prefix_of,
        classes=classes,
        students=pairs & ((1 << _STUDENT_BITS) - 1),
        days=school.starts[classes] + offsets.astype("m8[D]"),
        amounts=sums["clicks_sum"].to_numpy(),
    )


def _require_range(what: str, values: Array, least: int, end: int) -> None:
    if len(values) and not (least <= values.min() and values.max() < end):
        raise ImportRefused(
            f"{what} goes from {values.min()} to {values.max()}",
            "Put the published studentVle.csv in its place",
        )
