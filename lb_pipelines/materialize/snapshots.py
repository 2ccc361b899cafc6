"""`class_snapshots`, `subject_snapshots`, `campus_snapshots`: the boards of a day, stored."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from functools import partial
from itertools import chain, repeat

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import DayRange
from lb_pipelines.core.snapshots import SnapshotRows, snapshot_rows
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.db import bulk
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import boards as repository
from lb_pipelines.db.repositories.boards import Columns
from lb_pipelines.db.repositories.revisions import Renewal
from lb_pipelines.materialize import writing
from lb_pipelines.materialize.passes import DayOfBoards, Pass
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
        lambda _, opened: _prepared(opened, provenance),
        replace,
        alone=rematerialize_archived,
    )


def _prepared(opened: Pass, provenance: Provenance) -> Iterator[PreparedDay]:
    for day in opened.days:
        enrolled = opened.enrolment.on(day.day)
        rows = {
            boards.granularity: snapshot_rows(
                boards,
                baseline,
                limit=opened.institution.limit(opened.type, boards.granularity),
                enrolled=enrolled,
                student_ids=opened.student_literals,
            )
            for boards, baseline in day.boards
        }
        numbers = writing.boards_by_granularity(rows)
        all_time = rows.get(Granularity.ALL_TIME)
        numbers["ranked"] = all_time.ranked if all_time else 0
        daily = rows.get(Granularity.DAILY)
        numbers["ranked_today"] = daily.ranked if daily else 0
        made = day.without_boards()
        yield PreparedDay(
            made,
            sum(map(len, rows.values())),
            numbers,
            partial(_columns, opened, made, rows, provenance),
        )
        # Not to be held while the next day's are made.
        del day, rows, all_time, daily


def _columns(
    opened: Pass,
    day: DayOfBoards,
    rows: dict[Granularity, SnapshotRows],
    provenance: Provenance,
) -> Columns:
    """The binary fields of all rows, in the order of `copy_in` in snapshots.sql."""
    origin = writing.provenance_json(day, provenance)
    parts = list(rows.items())
    count = sum(len(part) for _, part in parts)
    return [
        repeat(opened.institution.id.encode(), count),
        repeat(opened.type.value.encode(), count),
        (opened.references[board] for _, part in parts for board in part.boards),
        chain.from_iterable(repeat(g.value.encode(), len(part)) for g, part in parts),
        repeat(bulk.encode_date(day.day), count),
        chain.from_iterable(bulk.encode_dates(part.period_start) for _, part in parts),
        bulk.encode_jsonb(text for _, part in parts for text in part.entries),
        bulk.encode_jsonb(
            b"{" + figures + b',"provenance":' + origin + b"}"
            for _, part in parts
            for figures in part.statistics
        ),
        (packed for _, part in parts for packed in part.distribution),
        (digest for _, part in parts for digest in part.content_hash),
    ]
