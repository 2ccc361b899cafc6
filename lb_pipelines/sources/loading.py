"""The one way in: rows of text ids are merged into the tables under a lock per institution.

Everything here runs in the caller's transaction, so that an import is there as a whole or not at
all, whatever kills it; two imports at once wait for each other at `lock`. What is stored already
is left alone: importing the same again changes nothing, not even `updated_at`.

Whoever was erased stays so: their rows are left out (`erased`), which is known under the lock.

An institution without events gets them by COPY straight into the leaves of their months, fastest
where they come in the order of their time; else they are
staged and merged by event id (`load_points`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import chain, groupby, islice
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lb_pipelines.core.periods import next_month
from lb_pipelines.core.pseudonyms import suppression
from lb_pipelines.db import queries
from lb_pipelines.db.engine import Connection, Database
from lb_pipelines.db.partitions import ensure_event_months
from lb_pipelines.db.partitions.names import SCHEMA, event_leaf
from lb_pipelines.errors import InactiveInstitution
from lb_pipelines.sources import arrow_copy
from lb_pipelines.sources.report import Written

BATCH_ROWS = 65_536
"""Rows of a batch on its way to COPY: large enough for Arrow, small enough to overlap."""
MERGE_ROWS = 2_000_000
"""Rows staged at a time where events are merged: bounds the temporary table, not the import."""

_TEXT, _KEY, _DATE = pa.string(), pa.int32(), pa.date32()
SCHEMAS: dict[str, pa.Schema] = {
    "institutions": pa.schema(
        [
            ("id", _TEXT),
            ("name", _TEXT),
            ("status", _TEXT),
            ("time_zone", _TEXT),
            ("academic_year_start_month", pa.int16()),
            ("metadata", _TEXT),
        ]
    ),
    "campuses": pa.schema([("institution_key", _KEY), ("id", _TEXT), ("name", _TEXT)]),
    "subjects": pa.schema([("institution_key", _KEY), ("id", _TEXT), ("name", _TEXT)]),
    "terms": pa.schema(
        [
            ("institution_key", _KEY),
            ("id", _TEXT),
            ("name", _TEXT),
            ("starts_on", _DATE),
            ("ends_on", _DATE),
        ]
    ),
    "classes": pa.schema(
        [
            ("institution_key", _KEY),
            ("id", _TEXT),
            ("name", _TEXT),
            ("subject_id", _TEXT),
            ("campus_id", _TEXT),
            ("term_id", _TEXT),
        ]
    ),
    "students": pa.schema([("institution_key", _KEY), ("id", _TEXT), ("name", _TEXT)]),
    "enrollments": pa.schema(
        [
            ("institution_key", _KEY),
            ("class_id", _TEXT),
            ("student_id", _TEXT),
            ("campus_id", _TEXT),
            ("enrolled_on", _DATE),
            ("withdrawn_on", _DATE),
        ]
    ),
}
"""Columns of the tables that `merge` takes, in order of dependence. Null: not given."""

POINTS = pa.schema(
    [
        ("occurred_at", pa.timestamp("us", "UTC")),
        ("student_key", _KEY),
        ("class_key", _KEY),
        ("subject_key", _KEY),
        ("campus_key", _KEY),
        ("amount", pa.int32()),
        ("event_id", _TEXT),
    ]
)
"""Columns of events in `load_points`, a student_key of NOBODY for who was erased; `status` and
`updated_at` (else ACTIVE, now) may follow."""
NOBODY = 0
"""The key of a student who is not there, because they were erased."""
DERIVED = ("subject_derived", "campus_derived")
"""Boolean columns that may follow too: the value was not given, but derived from the class."""
_STUDENTS_OF = {"students": "id", "enrollments": "student_id"}
"""The column of a table that `merge` takes that names a student."""


def merge(connection: Connection, table: str, rows: pa.Table) -> Written:
    """Insert the rows of a dimension or of enrollments that are new, change those that differ.

    `rows` has the columns of `SCHEMAS[table]`, no id twice. Once a transaction and table. Every
    id that a row refers to must exist; a class without its subject or term fails.
    """
    names = SCHEMAS[table].names
    rows, left_out = _without_erased(connection, table, rows)
    getattr(queries.imports, f"stage_{table}")(connection)
    batches = rows.select(names).cast(SCHEMAS[table]).to_batches(max_chunksize=BATCH_ROWS)
    staged = arrow_copy.write(connection, f"incoming_{table}", batches)
    queries.imports.set_work_mem(connection)
    queries.imports.keep_plans(connection)
    if table == "institutions":
        inserted = queries.imports.add_institutions(connection)
        changed = queries.imports.change_institutions(connection)
    else:
        inserted, changed = getattr(queries.imports, f"merge_{table}")(connection)
    queries.imports.plan_anew(connection)
    return Written(inserted, changed, staged - inserted - changed, left_out=left_out)


def lock(connection: Connection, institution_keys: Iterable[int]) -> None:
    """Keep every other load of these institutions out until the transaction ends, and erasures.

    Before any of their rows is written, so that nobody waits in a circle.
    """
    for key in sorted(set(institution_keys)):
        queries.imports.lock(connection, institution_key=key)
        queries.writers.write_beside_others(connection, institution_key=key)


def erased(connection: Connection, institution_keys: pa.Array, ids: pa.Array) -> pa.Array:
    """Where an id is that of a student who was erased; the institutions are locked."""
    found = np.zeros(len(ids), dtype=bool)
    concerned = pc.unique(institution_keys).drop_null().to_pylist()
    for key, salt, digests in queries.imports.suppressions(connection, institution_keys=concerned):
        mine = pc.and_(pc.fill_null(pc.equal(institution_keys, key), False), ids.is_valid())
        encoded = ids.filter(mine).dictionary_encode()
        suppressed = set(digests)
        of_id = [suppression(salt, id) in suppressed for id in encoded.dictionary.to_pylist()]
        found[np.asarray(mine)] = np.array(of_id, dtype=bool)[encoded.indices.to_numpy()]
    return pa.array(found)


def _without_erased(connection: Connection, table: str, rows: pa.Table) -> tuple[pa.Table, int]:
    if table not in _STUDENTS_OF:
        return rows, 0
    owners, ids = (rows[name].combine_chunks() for name in ("institution_key", _STUDENTS_OF[table]))
    left_out = erased(connection, owners, ids)
    return rows.filter(pc.invert(left_out)), left_out.true_count


def merge_institution(
    connection: Connection,
    id: str,
    name: str,
    time_zone: str,
    academic_year_start_month: int | None = None,
) -> tuple[int, Written]:
    """Make or correct one institution and lock it; its key. Raises if it is not active."""
    lock(connection, [key for key, _ in filter(None, [institutions(connection).get(id)])])
    row: dict[str, list[Any]] = {name: [None] for name in SCHEMAS["institutions"].names}
    row |= {"id": [id], "name": [name], "time_zone": [time_zone]}
    row["academic_year_start_month"] = [academic_year_start_month]
    written = merge(connection, "institutions", pa.table(row, schema=SCHEMAS["institutions"]))
    key, status = institutions(connection)[id]
    if status != "ACTIVE":
        raise InactiveInstitution(id, status)
    lock(connection, [key])
    return key, written


def institutions(connection: Connection) -> dict[str, tuple[int, str]]:
    """Key and status of every institution, by id."""
    return {id: (key, status) for id, key, status in queries.imports.institution_keys(connection)}


def describe_changed_zones(connection: Connection) -> list[str]:
    """What the changed zones of this transaction will take: all days are cut again."""
    return [
        f"{id}: its time zone is {zone} now, so its {days:,} materialized days are stale;"
        " late_events_sensor has them made again"
        for id, zone, days in queries.imports.changed_zones(connection)
        if days
    ]


@dataclass(frozen=True)
class Keys:
    """The keys of one dimension of some institutions, looked up by institution and id."""

    institution_keys: pa.Array
    ids: pa.Array
    columns: dict[str, pa.Array]

    @classmethod
    def read(cls, connection: Connection, dimension: str, institution_keys: Sequence[int]) -> Keys:
        """The keys as they are now. `dimension` is campus, subject, term, class or student."""
        query = getattr(queries.imports, f"{dimension}_keys")
        rows = query(connection, institution_keys=list(institution_keys))
        values = list(zip(*rows, strict=True)) or [()] * 5
        extra = ("subject_key", "campus_key") if dimension == "class" else ()
        return cls(
            pa.array(values[0], _KEY),
            pa.array(values[1], _TEXT),
            {
                name: pa.array(column, _KEY)
                for name, column in zip((f"{dimension}_key", *extra), values[2:], strict=False)
            },
        )

    def find(self, institution_keys: pa.Array, ids: pa.Array) -> pa.Array:
        """The position of each id in `columns`; null where it is null or does not exist."""
        if len(set(self.institution_keys.to_pylist())) <= 1 and self._only(institution_keys):
            return pc.index_in(ids, value_set=self.ids, skip_nulls=True)
        return pc.index_in(
            _joint(institution_keys, ids),
            value_set=_joint(self.institution_keys, self.ids),
            skip_nulls=True,
        )

    def _only(self, institution_keys: pa.Array) -> bool:
        known = self.institution_keys
        return bool(
            len(known) and pc.all(pc.equal(institution_keys, known[0]), min_count=0).as_py()
        )


@dataclass(frozen=True)
class EnrollmentCampuses:
    """Where students take their classes, for those enrollments that say so."""

    pairs: pa.Array
    campus_keys: pa.Array

    @classmethod
    def read(cls, connection: Connection, institution_keys: Sequence[int]) -> EnrollmentCampuses:
        """The enrollments of these institutions as they are now."""
        rows = list(
            queries.imports.enrollment_campuses(connection, institution_keys=institution_keys)
        )
        classes, students, campuses = zip(*rows, strict=True) if rows else ((), (), ())
        return cls(
            _pairs(pa.array(classes, _KEY), pa.array(students, _KEY)), pa.array(campuses, _KEY)
        )

    def find(self, class_keys: pa.Array, student_keys: pa.Array) -> pa.Array:
        """The campus key of each (class, student); null where no enrollment says one."""
        wanted = _pairs(class_keys, student_keys)
        return self.campus_keys.take(pc.index_in(wanted, value_set=self.pairs, skip_nulls=True))


def _pairs(class_keys: pa.Array, student_keys: pa.Array) -> pa.Array:
    high = pc.shift_left(class_keys.cast(pa.int64()), 32)
    return pc.bit_wise_or(high, student_keys.cast(pa.int64()))


def _joint(institution_keys: pa.Array, ids: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise(institution_keys.cast(_TEXT), ids, "\x1f")


def ensure_months(database: Database, months: Iterable[date]) -> None:
    """Make the leaves for events of these months (any day of each), and none between them.

    On connections of its own: the caller's transaction may be open, as long as it made no DDL.
    """
    run: list[date] = []
    for month in sorted({day.replace(day=1) for day in months}):
        if run and next_month(run[-1]) != month:
            ensure_event_months(database, run[0], run[-1])
            run = []
        run.append(month)
    if run:
        ensure_event_months(database, run[0], run[-1])


def load_points(
    connection: Connection, institution_key: int, batches: Iterable[pa.RecordBatch]
) -> Written:
    """Bring the events of a locked institution in; no event id may come twice in the batches.

    An event that is stored gets the new values and `updated_at` = now where they differ; one that
    has another time now replaces the row with the old time. Events of NOBODY are left out.
    """
    living = _Living(batches)
    written = _load_points(connection, institution_key, living)
    return written + Written(left_out=living.left_out)


def _load_points(
    connection: Connection, institution_key: int, batches: Iterable[pa.RecordBatch]
) -> Written:
    if not queries.imports.has_events(connection, institution_key=institution_key):
        plain = (_owned(batch.drop_columns(_derived(batch)), institution_key) for batch in batches)
        return Written(inserted=_copy_by_month(connection, plain))
    written = Written()
    queries.imports.set_work_mem(connection)
    owned = (_owned(batch, institution_key) for batch in batches)
    for part in _parts(owned):
        written += _merge_points(connection, institution_key, part)
    return written


def _copy_by_month(connection: Connection, batches: Iterable[pa.RecordBatch]) -> int:
    """COPY events into the leaves of their months, a statement per run of batches of a month; rows
    written.

    Into the root PostgreSQL would take rows one by one, for the sake of its triggers.
    """
    rows = 0
    for month, part in groupby(_split_by_month(batches), key=itemgetter(0)):
        name = f"{SCHEMA}.{event_leaf(month).name}"
        rows += arrow_copy.write(connection, name, (batch for _, batch in part))
    return rows


def _split_by_month(
    batches: Iterable[pa.RecordBatch],
) -> Iterator[tuple[date, pa.RecordBatch]]:
    """Each batch by the UTC months of its events."""
    for batch in batches:
        months = pc.floor_temporal(batch["occurred_at"], unit="month")
        for month in sorted(pc.unique(months).to_pylist()):
            of_month = pc.equal(months, pa.scalar(month, months.type))
            yield month.date(), batch.filter(of_month)


def _merge_points(
    connection: Connection, institution_key: int, batches: Iterator[pa.RecordBatch]
) -> Written:
    queries.imports.stage_points(connection)
    staged = arrow_copy.write(connection, "incoming_points", batches)
    queries.imports.analyze_points(connection)
    queries.imports.keep_derived(connection, institution_key=institution_key)
    unchanged = queries.imports.leave_unchanged_points(connection, institution_key=institution_key)
    if unchanged == staged:
        return Written(unchanged=unchanged)
    moved = queries.imports.remove_moved_points(connection, institution_key=institution_key)
    changed = queries.imports.count_changed_points(connection, institution_key=institution_key)
    written = queries.imports.merge_points(connection)
    return Written(written - changed, changed, unchanged, moved)


class _Living:
    """Batches of events without those of NOBODY, which are counted."""

    def __init__(self, batches: Iterable[pa.RecordBatch]) -> None:
        self._batches = batches
        self.left_out = 0

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        for batch in self._batches:
            living = batch
            if pc.any(pc.equal(batch["student_key"], NOBODY)).as_py():
                living = batch.filter(pc.not_equal(batch["student_key"], NOBODY))
                self.left_out += batch.num_rows - living.num_rows
            yield living


def _owned(batch: pa.RecordBatch, institution_key: int) -> pa.RecordBatch:
    owner = pa.repeat(pa.scalar(institution_key, _KEY), batch.num_rows)
    return batch.append_column("institution_key", owner)


def _derived(batch: pa.RecordBatch) -> list[str]:
    return [name for name in batch.schema.names if name in DERIVED]


def _parts(batches: Iterable[pa.RecordBatch]) -> Iterator[Iterator[pa.RecordBatch]]:
    """The batches in runs of about MERGE_ROWS rows; each run is to be used up before the next."""
    iterator = iter(batches)
    for first in iterator:
        yield chain([first], islice(iterator, MERGE_ROWS // BATCH_ROWS - 1))
