"""`class_trends`, `subject_trends`, `campus_trends`: a day's boards against their baselines.

Both sides are ranked from the events, and leaders are followed by them (`leaders`), so that trends
never depend on which snapshots or other trends exist.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from itertools import chain, repeat

import numpy as np

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import ONE_DAY, DayRange, baseline_day
from lb_pipelines.core.ranking import Float64
from lb_pipelines.core.trends import TrendRows, trend_rows
from lb_pipelines.core.windows import Boards
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.db import bulk
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import boards as repository
from lb_pipelines.db.repositories.boards import Columns, Leader
from lb_pipelines.materialize import writing
from lb_pipelines.materialize.leaders import LeadersByBoard, find_leaders
from lb_pipelines.materialize.passes import Origin, Pass
from lb_pipelines.materialize.results import DayResult, Provenance
from lb_pipelines.materialize.writing import PreparedDay, Product

# Plotted over days, as means over all-time boards.
_PLOTTED = ("retained_share", "rank_correlation", "spearman_rho")


def asset_name(type: BoardType) -> str:
    """The asset that holds the trends of a type."""
    return f"{type.lower()}_trends"


def materialize(
    database: Database,
    institution: Institution,
    type: BoardType,
    days: DayRange,
    provenance: Provenance,
) -> Iterator[DayResult]:
    """Write the trends of every day of the range in one pass; yields each after its commit.

    What `numbers` of a result are, as of `product`.
    """
    return writing.write(database, institution, [product(type, provenance)], days, provenance)


def product(type: BoardType, provenance: Provenance) -> Product:
    """The trends of one type, to be written in a pass.

    `numbers` of a result: boards by granularity and, as means over the all-time boards that have
    them, `retained_share` (of the top N that stayed), `rank_correlation` (tau-b of the top N) and
    `spearman_rho` (of all who are ranked both times).
    """
    return Product(
        asset_name(type),
        type,
        lambda database, opened: _Trends(database, opened, provenance).of,
        repository.replace_trends,
    )


class _Trends:
    """The trends of a pass, day after day: who leads goes on from the day before.

    The leaders may be read from a later state of the events than the pass: then some day before it
    has changed meanwhile, and all that the pass writes is stale by the ledger.
    """

    def __init__(self, database: Database, opened: Pass, provenance: Provenance) -> None:
        self.opened = opened
        self.provenance = provenance
        self.leaders = find_leaders(
            database,
            opened.institution,
            opened.type,
            asset_name(opened.type),
            opened.first - ONE_DAY,
        )

    def of(self, origin: Origin) -> _Rows:
        """What makes the trends of the next day."""
        return _Rows(self, origin)


@dataclass
class _Rows:
    """The trends of one day."""

    of_pass: _Trends
    origin: Origin
    parts: list[TrendRows] = field(default_factory=list)

    def take(self, boards: Boards, baseline: Boards | None) -> None:
        opened = self.of_pass.opened
        rows = trend_rows(
            boards, baseline, limits=opened.limits, student_ids=opened.student_literals
        )
        self.parts.append(rows)

    def prepared(self) -> PreparedDay:
        of_pass, parts = self.of_pass, self.parts
        leaders = _continue_leaders(of_pass.opened, parts, self.origin.day, of_pass.leaders)
        of_pass.leaders = leaders
        granularities = [of for part in parts for of in part.granularities]
        numbers = writing.boards_by_granularity(granularities)
        all_time = np.array([of is Granularity.ALL_TIME for of in granularities], bool)
        for name in _PLOTTED:
            values = np.concatenate([np.empty(0), *(getattr(part, name) for part in parts)])
            if not np.isnan(values[all_time]).all():
                numbers[name] = float(np.nanmean(values[all_time]))
        return PreparedDay(
            self.origin,
            len(granularities),
            numbers,
            partial(_columns, of_pass.opened, self.origin, parts, leaders, of_pass.provenance),
        )


def _continue_leaders(
    opened: Pass, parts: Sequence[TrendRows], day: date, before: LeadersByBoard
) -> LeadersByBoard:
    """Who leads each board on `day` and since when, given who led on the day before."""
    leaders: LeadersByBoard = {}
    for part in parts:
        students = opened.student_ids.take(part.leaders).to_pylist()
        for name, student in zip(_names(opened, part), students, strict=True):
            leader = before.get(name)
            goes_on = leader is not None and leader.student_id == student
            leaders[name] = leader if leader and goes_on else Leader(student, day)
    return leaders


def _names(opened: Pass, part: TrendRows) -> list[tuple[bytes, bytes]]:
    """Reference id and granularity of each board, as UTF-8."""
    return [
        (opened.references[board], granularity.encode())
        for board, granularity in zip(part.boards, part.granularities, strict=True)
    ]


def _columns(
    opened: Pass,
    origin: Origin,
    parts: Sequence[TrendRows],
    leaders: LeadersByBoard,
    provenance: Provenance,
) -> Columns:
    """The binary fields of all rows, in the order of `copy_in` in trends.sql."""
    metadata = b'{"provenance":' + writing.provenance_json(origin, provenance) + b"}"
    count = sum(map(len, parts))
    compared = {g: bulk.encode_date(baseline_day(g, origin.day)) for g in Granularity}
    names = [name for part in parts for name in _names(opened, part)]

    def floats(column: str) -> Iterator[bytes | None]:
        return chain.from_iterable(_nullable(getattr(part, column)) for part in parts)

    def integers(column: str) -> Iterator[bytes]:
        return chain.from_iterable(
            bulk.encode_numbers(getattr(part, column), "i4") for part in parts
        )

    return [
        repeat(opened.institution.id.encode(), count),
        repeat(opened.type.value.encode(), count),
        (reference for reference, _ in names),
        (granularity for _, granularity in names),
        repeat(bulk.encode_date(origin.day), count),
        (compared[of] for part in parts for of in part.granularities),
        (bulk.encode_date(leaders[name].since) for name in names),
        integers("ranked"),
        integers("ranked_change"),
        floats("mean"),
        floats("mean_change"),
        floats("median"),
        floats("median_change"),
        floats("retained_share"),
        floats("rank_correlation"),
        floats("spearman_rho"),
        (leaders[name].student_id.encode() for name in names),
        (digest for part in parts for digest in part.content_hash),
        bulk.encode_jsonb(text for part in parts for text in part.movement),
        bulk.encode_jsonb(text for part in parts for text in part.students),
        bulk.encode_jsonb(repeat(metadata, count)),
    ]


def _nullable(values: Float64) -> Iterator[bytes | None]:
    return (
        None if absent else field
        for field, absent in zip(
            bulk.encode_numbers(values, "f8"), np.isnan(values).tolist(), strict=True
        )
    )
