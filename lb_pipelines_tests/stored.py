"""What stands in the database, read as rows that can be compared with the reference."""

from __future__ import annotations

from collections.abc import Collection
from datetime import date
from typing import Any, NamedTuple

import pytest

from lb_pipelines.core.distribution import unpack
from lb_pipelines.db.engine import Database
from lb_pipelines_tests import oracle
from lb_pipelines_tests.oracle import GRANULARITIES, School

Key = tuple[str, str, str, date]
"""(type, reference id, granularity, day)."""


class SnapshotRow(NamedTuple):
    id: str
    partition_key: str
    status: str
    period_start: date
    entries: list[dict[str, Any]]
    metadata: dict[str, Any]
    distribution: bytes
    content_hash: bytes

    @property
    def content(self) -> tuple[Any, ...]:
        """All that must be equal whenever and however often the row was made."""
        statistics = {name: of for name, of in self.metadata.items() if name != "provenance"}
        return (*self[:5], statistics, *self[6:])


def snapshots(database: Database, institution_id: str) -> dict[Key, SnapshotRow]:
    """All snapshots of an institution."""
    with database.transaction() as connection:
        rows = connection.execute(
            "SELECT type, reference_id, time_granularity, snapshot_date, id, partition_key, status,"
            " period_start, entries, metadata, distribution, content_hash"
            " FROM lb.leaderboard_snapshots WHERE institution_id = %s",
            (institution_id,),
        ).fetchall()
    return {row[:4]: SnapshotRow(*row[4:]) for row in rows}


def contents(rows: dict[Key, SnapshotRow]) -> dict[Key, tuple[Any, ...]]:
    """The rows without what tells of the run that wrote them."""
    return {key: row.content for key, row in rows.items()}


def assert_snapshots_equal_the_reference(
    database: Database,
    school: School,
    made: dict[str, Collection[date]],
    *,
    others: bool = False,
) -> int:
    """Compare every row of the days `made` by type; gives how many. There must be no other rows,
    or with `others` none on these days.
    """
    rows = snapshots(database, school.id)
    if others:
        rows = {key: row for key, row in rows.items() if key[3] in made.get(key[0], ())}
    expected: dict[Key, oracle.Snapshot] = {}
    for type, days in made.items():
        for reference in school.references(type):
            for granularity in GRANULARITIES:
                for day in days:
                    snapshot = oracle.snapshot(school, type, reference, granularity, day)
                    if snapshot is not None:
                        expected[type, reference, granularity, day] = snapshot
    assert rows.keys() == expected.keys()
    for key, row in rows.items():
        type, reference, granularity, day = key
        want = expected[key]
        assert row.entries == want.entries, key
        assert row.period_start == want.period_start, key
        for name, value in want.statistics.items():
            assert row.metadata[name] == pytest.approx(float(value), rel=1e-9), (key, name)
        assert row.metadata.keys() - {"provenance"} == want.statistics.keys(), key
        packed = unpack(row.distribution)
        found = dict(zip(packed.points.tolist(), packed.counts.tolist(), strict=True))
        assert found == want.counts, key
        assert row.id == f"{school.id}:{type}:{reference}:{granularity}:{day}"
        assert row.partition_key == f"{school.id}_{type}_{day:%Y-%m}"
        assert row.status == "ACTIVE"
    return len(rows)
