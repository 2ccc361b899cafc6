"""`class_snapshots`, `subject_snapshots`, `campus_snapshots`: the boards of a day, stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property, partial
from itertools import chain, repeat

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import DayRange
from lb_pipelines.core.ranking import Int64
from lb_pipelines.core.snapshots import SnapshotRows, snapshot_rows
from lb_pipelines.core.windows import Boards
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.db import bulk
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import boards as repository
from lb_pipelines.db.repositories.boards import Columns
from lb_pipelines.db.repositories.revisions import Renewal
from lb_pipelines.materialize import writing
from lb_pipelines.materialize.passes import Origin, Pass
from lb_pipelines.materialize.results import DayResult, Provenance
from lb_pipelines.materialize.writing import PreparedDay, Product


def asset_name(type: BoardType) -> str:
    """The asset that holds the snapshots of a type."""
    return f"{type.lower()}_snapshots"


def materialize(
    database: Database,
    institution: Institution,
    type: BoardType,
    days: DayRange,
    provenance: Provenance,
    *,
    rematerialize_archived: bool = False,
    today: date | None = None,
) -> Iterator[DayResult]:
    """Write the snapshots of every day of the range in one pass; yields each after its commit.

    The options, and what `numbers` of a result are, as of `product`.
    """
    made = product(type, provenance, rematerialize_archived=rematerialize_archived, today=today)
    return writing.write(database, institution, [made], days, provenance)


def product(
    type: BoardType,
    provenance: Provenance,
    *,
    rematerialize_archived: bool = False,
    today: date | None = None,
) -> Product:
    """The snapshots of one type, to be written in a pass.

    Snapshots in the archive stay as they are, unless `rematerialize_archived`: then they are made
    anew, there and where their originals stand. That takes `today`, the institution's own day, and
    raises `UnderLegalHold` at the first day of which a hold in force forbids it.

    `numbers` of a result: boards by granularity, `ranked`, the rankings (student on a board) over
    all time, `ranked_today`, those of the day alone, and what became of snapshots in the archive
    where the day has some.
    """
    replace = repository.replace_snapshots
    if rematerialize_archived:
        if today is None:
            raise ValueError("a renewal of archived snapshots needs the institution's own day")
        replace = partial(replace, renewal=Renewal(provenance.run_id, today))
    return Product(
        asset_name(type),
        type,
        lambda _, opened: partial(_Rows, opened, provenance),
        replace,
        alone=rematerialize_archived,
    )


@dataclass
class _Rows:
    """The snapshots of one day."""

    opened: Pass
    provenance: Provenance
    origin: Origin
    parts: list[SnapshotRows] = field(default_factory=list)

    @cached_property
    def _enrolled(self) -> Int64:
        return self.opened.enrolment.on(self.origin.day)

    def take(self, boards: Boards, baseline: Boards | None) -> None:
        rows = snapshot_rows(
            boards,
            baseline,
            limits=self.opened.limits,
            enrolled=self._enrolled,
            student_ids=self.opened.student_literals,
        )
        self.parts.append(rows)

    def prepared(self) -> PreparedDay:
        granularities = [of for part in self.parts for of in part.granularities]
        numbers = writing.boards_by_granularity(granularities)
        ranked = Counter[Granularity]()
        for part in self.parts:
            for granularity, students in zip(part.granularities, part.ranked.tolist(), strict=True):
                ranked[granularity] += students
        numbers["ranked"] = ranked[Granularity.ALL_TIME]
        numbers["ranked_today"] = ranked[Granularity.DAILY]
        return PreparedDay(
            self.origin,
            len(granularities),
            numbers,
            partial(_columns, self.opened, self.origin, self.parts, self.provenance),
        )


def _columns(
    opened: Pass,
    origin: Origin,
    parts: Sequence[SnapshotRows],
    provenance: Provenance,
) -> Columns:
    """The binary fields of all rows, in the order of `copy_in` in snapshots.sql."""
    made_from = writing.provenance_json(origin, provenance)
    count = sum(map(len, parts))
    return [
        repeat(opened.institution.id.encode(), count),
        repeat(opened.type.value.encode(), count),
        (opened.references[board] for part in parts for board in part.boards),
        (granularity.encode() for part in parts for granularity in part.granularities),
        repeat(bulk.encode_date(origin.day), count),
        chain.from_iterable(bulk.encode_dates(part.period_start) for part in parts),
        bulk.encode_jsonb(text for part in parts for text in part.entries),
        bulk.encode_jsonb(
            b"{" + figures + b',"provenance":' + made_from + b"}"
            for part in parts
            for figures in part.statistics
        ),
        (packed for part in parts for packed in part.distribution),
        (digest for part in parts for digest in part.content_hash),
    ]
