"""One board after the other, on a sample: extrapolated to all boards by the mean of their type.

What a first version looks like: for each board and granularity one query for who is on it, one for
the ranks on the baseline's day, one INSERT, each committed. It reads the sums of the past
(`rollup`), not raw events, with an index for each kind of board, and so is quicker than most first
versions. The day's own sums are counted as `with_sql` makes them.
"""

from __future__ import annotations

import json
import random
from datetime import date
from pathlib import Path
from typing import Any

from psycopg.types.json import Jsonb

from benchmarks import rollup
from benchmarks.district import LIMIT, TERM_FIRST
from benchmarks.harness import Stopwatch
from benchmarks.ways import inputs, with_sql
from lb_pipelines.core.periods import DayRange
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.db.engine import Connection, Database

SAMPLE = {BoardType.CLASS: 60, BoardType.SUBJECT: 12, BoardType.CAMPUS: 4}
_RANKED = """
SELECT s.id, sum(r.points)::bigint AS points, rank() OVER (ORDER BY sum(r.points) DESC) AS rank
FROM lb_bench.rollup r JOIN lb.students s USING (student_key)
WHERE r.{column} = %(board)s AND r.period_start >= %(first)s AND r.period_end <= %(last)s
GROUP BY s.id ORDER BY points DESC, s.id
"""
_FIGURES = (
    """
WITH ranked AS ("""
    + _RANKED
    + """), placed AS (
    SELECT *, row_number() OVER (ORDER BY points DESC, id) AS place FROM ranked
)
SELECT count(*), sum(points)::bigint, avg(points)::float8,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY points),
       percentile_cont(0.9) WITHIN GROUP (ORDER BY points), max(points),
       count(*) FILTER (WHERE place > {limit} AND rank <= {limit}),
       jsonb_agg(jsonb_build_array(rank, id, points) ORDER BY place)
           FILTER (WHERE place <= {limit})
FROM placed
"""
)
_INSERT = """
INSERT INTO lb.leaderboard_snapshots (institution_id, type, reference_id, time_granularity,
    snapshot_date, period_start, entries, metadata, distribution, content_hash)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, '', '')
"""


def run(database: Database, days: DayRange, scratch: Path) -> dict[str, float]:
    """The sample's boards; the seconds are those of all boards."""
    (day,) = days
    boards = _boards(database, day)
    _index(database)
    watch = Stopwatch()
    with_sql.add_day(database, day)
    parts = {"day's sums": watch.mark("day's sums")}
    chance = random.Random(3)
    with database.autocommit() as connection:
        for type, size in SAMPLE.items():
            of_type = [board for board in boards if board[0] == type]
            sample = chance.sample(of_type, min(size, len(of_type)))
            for board in sample:
                for granularity, (now, then) in rollup.windows(day).items():
                    _write(connection, board, day, granularity, now, then)
            seconds = watch.mark(type)
            parts[f"{type}, {len(sample)} of {len(of_type)}"] = seconds * len(of_type) / len(sample)
    return parts


def _boards(database: Database, day: date) -> list[tuple[Any, ...]]:
    with database.transaction() as connection:
        return connection.execute(
            f"SELECT type, board_key, reference_id, institution_id, first_day,"
            f" coalesce(enrolled, 0) FROM ({inputs.BOARDS}) AS boards"
            f" LEFT JOIN ({inputs.ENROLLED.format(day=day)}) AS e USING (type, board_key)"
            " ORDER BY 1, 2".encode()
        ).fetchall()


def _index(database: Database) -> None:
    with database.autocommit() as connection:
        for type in BoardType:
            connection.execute(
                f"CREATE INDEX IF NOT EXISTS rollup_by_{type.lower()}"
                f" ON lb_bench.rollup ({type.lower()}_key)".encode()
            )


def _write(
    connection: Connection,
    board: tuple[Any, ...],
    day: date,
    granularity: Granularity,
    now: tuple[date, date],
    then: tuple[date, date],
) -> None:
    type, key, reference, institution, first_day, enrolled = board
    column = f"{type.lower()}_key"
    row = connection.execute(
        _FIGURES.format(column=column, limit=LIMIT).encode(),
        {"board": key, "first": now[0], "last": now[1]},
    ).fetchone()
    if row is None or not row[0]:
        return
    ranked, total, mean, median, p90, most, ties_cut, top = row
    before = {
        id: rank
        for id, _, rank in connection.execute(
            _RANKED.format(column=column).encode(),
            {"board": key, "first": then[0], "last": then[1]},
        )
    }
    entries = [
        {"rank": rank, "studentId": id, "points": points, "previousRank": before.get(id)}
        for rank, id, points in top
    ]
    metadata = {
        "ranked": ranked, "enrolled": enrolled, "sum": total, "mean": mean, "median": median,
        "p90": p90, "max": most, "tiesCut": ties_cut,
    }  # fmt: skip
    start = {Granularity.TERM: TERM_FIRST, Granularity.ALL_TIME: first_day}
    connection.execute(
        _INSERT,
        (institution, type, reference, str(granularity), day, start.get(granularity, now[0]),
         Jsonb(entries, json.dumps), Jsonb(metadata, json.dumps)),
    )  # fmt: skip
