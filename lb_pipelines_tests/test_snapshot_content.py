"""A stored snapshot's hash, computed from what jsonb gives back, is the one it was written with."""

from __future__ import annotations

import json
from datetime import date

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lb_pipelines.core import json_lists
from lb_pipelines.core.snapshot_content import rehash
from lb_pipelines.core.snapshots import SnapshotRows, snapshot_rows
from lb_pipelines.core.windows import Boards
from lb_pipelines.core.words import Granularity, RankMethod
from lb_pipelines.db.engine import Database
from lb_pipelines_tests.test_ranking import BOARDS, ranked

# What a text in PostgreSQL can hold.
IDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


def rows_of(
    boards: dict[int, dict[int, int]],
    before: dict[int, dict[int, int]],
    ids: list[str],
    enrolled: int,
    limit: int,
) -> SnapshotRows:
    def made(points: dict[int, dict[int, int]]) -> Boards:
        # Board ordinals small enough to look something up by.
        few = {
            Boards.number(Granularity.WEEKLY, board % 6): members
            for board, members in points.items()
        }
        ranking = ranked(few, RankMethod.COMPETITION)
        starts = np.full(len(ranking.boards), np.datetime64("2023-07-03", "D"))
        return Boards(starts, ranking)

    return snapshot_rows(
        made(boards),
        made(before),
        limits=dict.fromkeys(Granularity, limit),
        enrolled=np.full(6, enrolled, np.int64),
        student_ids=json_lists.quoted(pa.array(ids, pa.string())),
    )


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    BOARDS,
    BOARDS,
    st.lists(IDS, min_size=31, max_size=31, unique=True),
    st.integers(0, 2**40),
    st.integers(1, 12),
)
@example({0: {1: 10**16, 2: 10**17 + 3}}, {}, [f'"\\\n\x7f{n}' for n in range(31)], 2, 5)
def test_the_hash_survives_the_database(
    database: Database,
    boards: dict[int, dict[int, int]],
    before: dict[int, dict[int, int]],
    ids: list[str],
    enrolled: int,
    limit: int,
) -> None:
    rows = rows_of(boards, before, ids, enrolled, limit)
    with database.transaction() as connection:
        for start, entries, figures, packed, content_hash in zip(
            rows.period_start,
            rows.entries,
            rows.statistics,
            rows.distribution,
            rows.content_hash,
            strict=True,
        ):
            ((stored, metadata),) = connection.execute(
                "SELECT %s::jsonb, %s::jsonb",
                (entries.decode(), (b"{" + figures + b',"provenance":{}}').decode()),
            ).fetchall()
            assert rehash(stored, metadata, packed, start.astype(date)) == content_hash
            # It follows what is stored.
            assert rehash(stored[1:], metadata, packed, start.astype(date)) != content_hash


@pytest.mark.parametrize(
    ("entries", "metadata"),
    [
        ([{"rank": 1, "studentId": "a", "points": 1.5, "previousRank": None}], None),
        ([{"rank": 1, "studentId": "a", "points": 1}], None),
        (["a"], None),
        ([], {}),
        ([], {"mean": "1"}),
        ([], {"ranked": True}),
    ],
)
def test_what_is_no_content_is_a_value_error(
    entries: list[dict[str, object]], metadata: dict[str, object] | None
) -> None:
    figures: dict[str, object] = dict.fromkeys(("ranked", "enrolled", "sum", "max", "tiesCut"), 1)
    figures |= dict.fromkeys(("mean", "median", "p90"), 1.0)
    assert rehash([], json.loads(json.dumps(figures)), b"", date(2023, 7, 1))
    whole = figures | metadata if metadata else figures if metadata is None else {}
    with pytest.raises(ValueError, match="no content of a snapshot"):
        rehash(entries, whole, b"", date(2023, 7, 1))
