"""`class_snapshots`, `subject_snapshots`, `campus_snapshots`: the boards of a day, stored.

One pass over a contiguous range of days; one transaction per (institution, day).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from itertools import chain, repeat

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import DayRange
from lb_pipelines.core.snapshots import SnapshotRows, snapshot_rows
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.db import copy, partitions
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import boards as repository
from lb_pipelines.db.repositories import ledger
from lb_pipelines.materialize import passes
from lb_pipelines.materialize.results import DayResult, Provenance


def asset_name(type: BoardType) -> str:
    """The asset that holds the snapshots of a type."""
    return f"{type.lower()}_snapshots"


def materialize(
    database: Database,
    institution: Institution,
    type: BoardType,
    days: DayRange,
    provenance: Provenance,
) -> Iterator[DayResult]:
    """Write the snapshots of every day of the range; yields each day after its commit.

    Rows that are archived stay as they are. `numbers` of a result: boards by granularity and
    ranked students over all time.
    """
    partitions.ensure_snapshot_months(
        database, institution.id, days.first.replace(day=1), days.last.replace(day=1)
    )
    asset = asset_name(type)
    with passes.opened(database, institution, type, days, provenance) as opened:
        started = time.perf_counter()
        for day in opened.days:
            rows = {
                boards.granularity: snapshot_rows(
                    boards,
                    baseline,
                    limit=institution.limit(type, boards.granularity),
                    enrolled=opened.enrolment.on(day.day),
                    student_ids=opened.student_literals,
                )
                for boards, baseline in day.boards
            }
            count = sum(map(len, rows.values()))
            written = 0
            with database.transaction() as connection:
                claimed = ledger.claim(
                    connection,
                    institution,
                    asset,
                    day.day,
                    through_revision=day.through_revision,
                    boards=count,
                    run_id=provenance.run_id,
                    code_version=provenance.code_version,
                )
                if claimed:
                    written = repository.replace_snapshots(
                        connection, institution, type, day.day, _columns(opened, day, rows, provenance)
                    )
            now = time.perf_counter()
            yield DayResult(
                institution.id,
                asset,
                day.day,
                rows=count,
                written=written,
                seconds=now - started,
                numbers=_numbers(rows),
                superseded=not claimed,
            )
            started = now


def _numbers(rows: dict[Granularity, SnapshotRows]) -> dict[str, int | float]:
    numbers: dict[str, int | float] = {
        f"{granularity.replace('-', '_')}_boards": len(rows[granularity])
        if granularity in rows
        else 0
        for granularity in Granularity
    }
    numbers["ranked"] = rows[Granularity.ALL_TIME].ranked if Granularity.ALL_TIME in rows else 0
    return numbers


def _columns(
    opened: passes.Pass,
    day: passes.DayOfBoards,
    rows: dict[Granularity, SnapshotRows],
    provenance: Provenance,
) -> list[Iterator[bytes]]:
    """The binary fields of all rows, in the order of `copy_in` in snapshots.sql."""
    origin = json.dumps(
        {
            "runId": provenance.run_id,
            "codeVersion": provenance.code_version,
            "watermark": day.watermark and day.watermark.isoformat(),
            "throughRevision": day.through_revision,
        }
    ).encode()
    parts = list(rows.items())
    count = sum(len(part) for _, part in parts)
    references = [text.encode() for text in opened.references.to_pylist()]
    return [
        repeat(opened.institution.id.encode(), count),
        repeat(opened.type.value.encode(), count),
        (references[board] for _, part in parts for board in part.boards),
        chain.from_iterable(repeat(g.value.encode(), len(part)) for g, part in parts),
        repeat(copy.encode_date(day.day), count),
        chain.from_iterable(copy.encode_dates(part.period_start) for _, part in parts),
        copy.encode_jsonb(text for _, part in parts for text in part.entries),
        copy.encode_jsonb(
            b"{" + figures + b',"provenance":' + origin + b"}"
            for _, part in parts
            for figures in part.statistics
        ),
        (packed for _, part in parts for packed in part.distribution),
        (digest for _, part in parts for digest in part.content_hash),
    ]
