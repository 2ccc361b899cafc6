"""The plain format: a directory of CSV or Parquet files, one a table (docs/import-format.md).

An import is one transaction: the whole directory or nothing. It checks every row of every file,
so that one run shows all that is wrong; a refused row in a dimension makes the rows that refer to
it refused as well. With `skip_refused` the good rows are kept and the others reported.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from time import perf_counter

import pyarrow as pa
import pyarrow.compute as pc

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.metadata import parse_metadata, validate_settings
from lb_pipelines.core.words import validate_institution_id
from lb_pipelines.core.zones import load_zone
from lb_pipelines.db.engine import Connection, Database
from lb_pipelines.db.repositories import institutions
from lb_pipelines.errors import ImportRefused, InvalidSetting, LeaderboardError
from lb_pipelines.sources import files, loading
from lb_pipelines.sources.checks import Checker
from lb_pipelines.sources.early_events import describe_early_events
from lb_pipelines.sources.loading import EnrollmentCampuses, Keys
from lb_pipelines.sources.progress import Progress, silent
from lb_pipelines.sources.report import ImportReport, Written


@dataclass(frozen=True)
class FileFormat:
    """The columns of one file. `optional` ones may be left out, or be empty in a row."""

    name: str
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()


FORMAT = (
    FileFormat(
        "institutions",
        ("institution_id",),
        ("name", "status", "time_zone", "academic_year_start_month", "metadata"),
    ),
    FileFormat("campuses", ("institution_id", "campus_id"), ("name",)),
    FileFormat("subjects", ("institution_id", "subject_id"), ("name",)),
    FileFormat("terms", ("institution_id", "term_id", "starts_on", "ends_on"), ("name",)),
    FileFormat(
        "classes", ("institution_id", "class_id", "subject_id", "term_id"), ("name", "campus_id")
    ),
    FileFormat("students", ("institution_id", "student_id"), ("name",)),
    FileFormat(
        "enrollments",
        ("institution_id", "class_id", "student_id"),
        ("campus_id", "enrolled_on", "withdrawn_on"),
    ),
    FileFormat(
        "points",
        ("institution_id", "event_id", "student_id", "amount", "occurred_at"),
        ("class_id", "subject_id", "campus_id", "status"),
    ),
)
"""The files in the order in which they are read: a file may refer to those before it."""

_INT4 = 2**31 - 1


def import_directory(
    database: Database,
    directory: Path,
    *,
    today: date,
    skip_refused: bool = False,
    start_day: date | None = None,
    progress: Progress = silent,
) -> ImportReport:
    """Import the files of a directory; raises `ImportRefused`, with the report, if it may not be.

    `today` bounds the dates that are believed (`checks.YEARS_OF_EVENTS`, `YEARS_OF_PLANS`).
    `start_day` is the first day that is a partition: events before it get a note.
    """
    began = perf_counter()
    found = _present(directory)
    report = ImportReport()
    _note_strangers(directory, found, report)
    with database.transaction() as connection:
        work = _Import(database, connection, report, today, start_day, progress)
        work.skip_refused = skip_refused
        work.run(found)
        report.note_left_out()
        report.order_refusals()
        report.seconds = perf_counter() - began
        if report.refused_rows and not skip_refused:
            raise ImportRefused(
                f"{report.refused_rows:,} of {sum(r.rows for r in report.read.values()):,} rows"
                f" in {directory} cannot be used; nothing was written",
                "Correct them, or import the others with --skip-refused",
                report,
            )
    return report


def _present(directory: Path) -> dict[str, Path]:
    files.require_directory(directory)
    found = {form.name: files.find(directory, form.name) for form in FORMAT}
    present = {name: path for name, path in found.items() if path is not None}
    if not present:
        raise ImportRefused(
            f"{directory} holds none of {', '.join(f'{form.name}.csv' for form in FORMAT)}",
            "Write the files that docs/import-format.md describes into it",
        )
    return present


def _note_strangers(directory: Path, found: dict[str, Path], report: ImportReport) -> None:
    for path in sorted(directory.iterdir()):
        if path.suffix in files.SUFFIXES and path not in found.values():
            report.notes.append(f"{path.name} is no file of the plain format and was not read")


class _Import:
    """One import under way: what is known of the dimensions so far, and the open transaction."""

    def __init__(
        self,
        database: Database,
        connection: Connection,
        report: ImportReport,
        today: date,
        start_day: date | None,
        progress: Progress,
    ) -> None:
        self.database = database
        self.connection = connection
        self.report = report
        self.today = today
        self.start_day = start_day
        self.progress = progress
        self.institutions: dict[str, tuple[int, str]] = {}
        self.institution_keys: list[int] = []
        self.known: dict[str, Keys] = {}
        self.skip_refused = False

    def run(self, found: dict[str, Path]) -> None:
        texts: dict[str, files.TextFile] = {}
        for form in FORMAT:
            if form.name in found:
                self.progress(f"reading {found[form.name].name}", 0, None)
                texts[form.name] = files.read_text(found[form.name], form.required, form.optional)
                rows = texts[form.name].table.num_rows
                self.progress(f"reading {found[form.name].name}", rows, rows)
        # Those that exist are locked before their own rows are touched, new ones afterwards.
        self._lock(texts)
        if "institutions" in texts:
            self._import_institutions(self._checker("institutions", texts))
            self._lock(texts)
        for form in FORMAT[1:]:
            if form.name in texts:
                getattr(self, f"_import_{form.name}")(self._checker(form.name, texts))

    def _lock(self, texts: dict[str, files.TextFile]) -> None:
        self.institutions = loading.institutions(self.connection)
        self.institution_keys = self._concerned(texts)
        loading.lock(self.connection, self.institution_keys)

    def _checker(self, name: str, texts: dict[str, files.TextFile]) -> Checker:
        text = texts.pop(name)
        rows = text.table.num_rows
        if "student_id" in text.table.column_names:
            self._leave_out_erased(name, text)
        check = Checker(text, name, self.report, self.today)
        self.report.read[text.path.name].rows += rows - text.table.num_rows
        return check

    def _leave_out_erased(self, name: str, text: files.TextFile) -> None:
        """Before any check: an erased student is not unknown, but not to be known."""
        owners, ids = (
            text.table[column].combine_chunks() for column in ("institution_id", "student_id")
        )
        left_out = loading.erased(self.connection, self._keys_of_owners(owners), ids)
        if left_out.true_count:
            living = pc.invert(left_out)
            text.table, text.lines = text.table.filter(living), text.lines.filter(living)
            table = "student_points" if name == "points" else name
            self.report.add_written(table, Written(left_out=left_out.true_count))

    def _concerned(self, texts: dict[str, files.TextFile]) -> list[int]:
        ids: set[str | None] = set()
        for text in texts.values():
            ids.update(pc.unique(text.table["institution_id"]).to_pylist())
        return sorted(self.institutions[id][0] for id in ids if id in self.institutions)

    # Each of these reads one file: checks, then the rows that passed go to the loader.

    def _import_institutions(self, check: Checker) -> None:
        ids = check.text("institution_id")
        check.refuse(ids.is_null(), "institution_id", "missing")
        check.each("institution_id", _complain_of_id)
        check.unique(pa.nulls(check.rows, pa.int32()), "institution_id")
        check.each("time_zone", _complain_of_zone)
        check.each("metadata", _complain_of_metadata)
        rows = {
            "id": ids,
            "name": check.texts("name"),
            "status": check.choice("status", ("ACTIVE", "INACTIVE")),
            "time_zone": check.text("time_zone"),
            "academic_year_start_month": check.whole_numbers(
                "academic_year_start_month", pa.int16(), 1, 12, required=False
            ),
            "metadata": check.text("metadata"),
        }
        self._merge(check, rows)
        self.report.notes += loading.describe_changed_zones(self.connection)

    def _import_campuses(self, check: Checker) -> None:
        self._import_named(check, "campus_id")

    def _import_subjects(self, check: Checker) -> None:
        self._import_named(check, "subject_id")

    def _import_students(self, check: Checker) -> None:
        self._import_named(check, "student_id")

    def _import_named(self, check: Checker, id_column: str) -> None:
        owners = self._owners(check)
        ids = check.ids(id_column, required=True)
        check.unique(owners, id_column)
        self._merge(check, {"institution_key": owners, "id": ids, "name": check.texts("name")})

    def _import_terms(self, check: Checker) -> None:
        owners = self._owners(check)
        ids = check.ids("term_id", required=True)
        check.unique(owners, "term_id")
        starts = check.dates("starts_on", required=True)
        ends = check.dates("ends_on", required=True)
        check.refuse(pc.less(ends, starts), "ends_on", "the term ends before it starts")
        self._merge(
            check,
            {
                "institution_key": owners,
                "id": ids,
                "name": check.texts("name"),
                "starts_on": starts,
                "ends_on": ends,
            },
        )

    def _import_classes(self, check: Checker) -> None:
        owners = self._owners(check)
        ids = check.ids("class_id", required=True)
        check.unique(owners, "class_id")
        no_term = check.text("term_id").is_null()
        check.refuse(no_term, "term_id", "missing term: every class has one")
        self._find(check, owners, "subject", required=True)
        self._find(check, owners, "term", required=False)
        self._find(check, owners, "campus", required=False)
        self._merge(
            check,
            {
                "institution_key": owners,
                "id": ids,
                "name": check.texts("name"),
                "subject_id": check.text("subject_id"),
                "campus_id": check.text("campus_id"),
                "term_id": check.text("term_id"),
            },
        )

    def _import_enrollments(self, check: Checker) -> None:
        owners = self._owners(check)
        self._find(check, owners, "class", required=True)
        self._find(check, owners, "student", required=True)
        self._find(check, owners, "campus", required=False)
        check.unique(owners, "class_id", "student_id")
        enrolled = check.dates("enrolled_on", required=False)
        withdrawn = check.dates("withdrawn_on", required=False)
        check.refuse(
            pc.less(withdrawn, enrolled), "withdrawn_on", "the student is withdrawn before enrolled"
        )
        self._merge(
            check,
            {
                "institution_key": owners,
                "class_id": check.text("class_id"),
                "student_id": check.text("student_id"),
                "campus_id": check.text("campus_id"),
                "enrolled_on": enrolled,
                "withdrawn_on": withdrawn,
            },
        )

    def _import_points(self, check: Checker) -> None:
        owners = self._owners(check)
        inactive = [key for key, status in self.institutions.values() if status != "ACTIVE"]
        check.refuse(
            pc.is_in(owners, value_set=pa.array(inactive, pa.int32())),
            "institution_id",
            "the institution is not ACTIVE",
        )
        events = check.ids("event_id", required=True)
        check.unique(owners, "event_id")
        students = self._find(check, owners, "student", required=True)
        classes = self._find(check, owners, "class", required=False)
        subjects = self._find(check, owners, "subject", required=False)
        campuses = self._find(check, owners, "campus", required=False)
        rows = pa.table(
            {
                "institution_key": owners,
                "occurred_at": check.instants("occurred_at"),
                "student_key": self._keys("student", students),
                "class_key": self._keys("class", classes),
                "subject_key": self._keys("subject", subjects),
                "campus_key": self._keys("campus", campuses),
                "amount": check.whole_numbers("amount", pa.int32(), -_INT4, _INT4, required=True),
                "event_id": events,
                "status": pc.fill_null(check.choice("status", ("ACTIVE", "VOIDED")), "ACTIVE"),
                "class_at": classes,
            }
        )
        rows = check.passed(rows)
        if self.skip_refused or not self.report.refused_rows:
            self._load(self._derive(rows))

    def _derive(self, rows: pa.Table) -> pa.Table:
        """Fill an event's subject from its class, its campus from the enrollment or the class."""
        at = rows["class_at"].combine_chunks()
        columns = self.known["class"].columns
        subjects = rows["subject_key"].combine_chunks()
        campuses = rows["campus_key"].combine_chunks()
        subject_derived = pc.and_(subjects.is_null(), at.is_valid())
        campus_derived = pc.and_(campuses.is_null(), at.is_valid())
        subjects = pc.coalesce(subjects, columns["subject_key"].take(at))
        if pc.any(campus_derived).as_py():
            own = EnrollmentCampuses.read(self.connection, self.institution_keys).find(
                rows["class_key"].combine_chunks(), rows["student_key"].combine_chunks()
            )
            campuses = pc.coalesce(campuses, own, columns["campus_key"].take(at))
        filled = {"subject_key": subjects, "campus_key": campuses}
        for name, column in filled.items():
            rows = rows.set_column(rows.column_names.index(name), name, column)
        rows = rows.drop_columns(["class_at"])
        return rows.append_column("subject_derived", subject_derived).append_column(
            "campus_derived", campus_derived
        )

    def _load(self, rows: pa.Table) -> None:
        instants = rows["occurred_at"].combine_chunks()
        months = pc.unique(pc.floor_temporal(instants, unit="month")).to_pylist()
        loading.ensure_months(self.database, (month.date() for month in months))
        owners = rows["institution_key"]
        self.report.add_written("student_points", Written())
        self._note_early_events(rows)
        done = 0
        for key in sorted(pc.unique(owners).to_pylist()):
            mine = rows.filter(pc.equal(owners, key)).drop_columns(["institution_key"])
            if len(months) > 1:
                mine = mine.sort_by("occurred_at")

            def batches(mine: pa.Table = mine, before: int = done) -> Iterator[pa.RecordBatch]:
                at = before
                for batch in mine.to_batches(max_chunksize=loading.BATCH_ROWS):
                    yield batch
                    at += batch.num_rows
                    self.progress("events", at, rows.num_rows)

            written = loading.load_points(self.connection, key, batches())
            self.report.add_written("student_points", written)
            done += mine.num_rows

    def _note_early_events(self, rows: pa.Table) -> None:
        if self.start_day is None:
            return
        for institution in institutions.every(self.connection):
            mine = rows.filter(pc.equal(rows["institution_key"], institution.key))
            note = describe_early_events(institution, mine["occurred_at"], self.start_day)
            if note:
                self.report.notes.append(note)

    def _merge(self, check: Checker, columns: dict[str, pa.Array]) -> None:
        rows = check.passed(pa.table(columns))
        self.report.add_written(check.name, loading.merge(self.connection, check.name, rows))

    def _owners(self, check: Checker) -> pa.Array:
        """The key of each row's institution; null, and the row refused, where there is none."""
        ids = check.text("institution_id")
        check.refuse(ids.is_null(), "institution_id", "missing")
        owners = self._keys_of_owners(ids)
        unknown = pc.and_(ids.is_valid(), owners.is_null())
        check.refuse(unknown, "institution_id", "unknown institution")
        return owners

    def _keys_of_owners(self, ids: pa.Array) -> pa.Array:
        known = pa.array(list(self.institutions), pa.string())
        keys = pa.array([key for key, _ in self.institutions.values()], pa.int32())
        return keys.take(pc.index_in(ids, value_set=known, skip_nulls=True))

    def _find(
        self, check: Checker, owners: pa.Array, dimension: str, *, required: bool
    ) -> pa.Array:
        """Where each row's id of a dimension is among the known; refuses those that are not."""
        column = f"{dimension}_id"
        ids = check.text(column)
        if required:
            check.refuse(ids.is_null(), column, "missing")
        if dimension not in self.known:
            self.known[dimension] = Keys.read(self.connection, dimension, self.institution_keys)
        at = self.known[dimension].find(owners, ids)
        unknown = pc.and_(pc.and_(ids.is_valid(), owners.is_valid()), at.is_null())
        check.refuse_unknown(unknown, column, dimension)
        return at

    def _keys(self, dimension: str, at: pa.Array) -> pa.Array:
        return self.known[dimension].columns[f"{dimension}_key"].take(at)


def _complain_of_id(value: str | None) -> str | None:
    if value is None:
        return None
    try:
        validate_institution_id(value)
    except LeaderboardError as error:
        return error.remedy
    return None


def _complain_of_zone(value: str | None) -> str | None:
    if value is None:
        return None
    try:
        load_zone(value)
    except LeaderboardError as error:
        return f"{error.thing}; {error.remedy}"
    return None


def _complain_of_metadata(value: str | None) -> str | None:
    if value is None:
        return None
    try:
        validate_settings(Institution(0, "", "", "ACTIVE", "UTC", metadata=parse_metadata(value)))
    except InvalidSetting as error:
        # Which institution it is says the row.
        return f"{error.thing.partition(': ')[2]}; {error.remedy}"
    except LeaderboardError as error:
        return f"{error.thing}; {error.remedy}"
    return None
