"""pandas: the past in Parquet, group-bys and ranks over whole columns, rows back by COPY.

Vectorized where pandas is; the JSON texts are f-strings over zipped columns, which is quicker
than adding columns of strings.
"""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import rollup
from benchmarks.district import LIMIT, TERM_FIRST
from benchmarks.harness import Stopwatch
from benchmarks.ways import inputs
from lb_pipelines.core.periods import DayRange
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.db.engine import Database

_KEYS = list(inputs.KEYS)


def run(database: Database, days: DayRange, scratch: Path) -> dict[str, float]:
    """The day's boards."""
    (day,) = days
    watch = Stopwatch()
    tables = {name: table.to_pandas() for name, table in inputs.read(database, day).items()}
    past = pd.read_parquet(rollup.parquet(scratch))
    watch.mark("read")
    today = tables["events"].groupby(_KEYS, as_index=False)["amount"].sum()
    today = today.rename(columns={"amount": "points"})
    today["period_start"] = today["period_end"] = day
    today.to_parquet(scratch / "day-of-pandas.parquet")
    past = pd.concat([past, today], ignore_index=True)
    for column in ("period_start", "period_end"):
        past[column] = past[column].astype("datetime64[s]")
    # Students as their place in the order of their ids: what breaks ties, and looks up the id.
    students = tables["students"].sort_values("id", ignore_index=True)
    ids = students["id"].to_numpy()
    ordinals = np.zeros(int(students["student_key"].max()) + 1, np.int64)
    ordinals[students["student_key"]] = np.arange(len(students))
    past["student"] = ordinals[past["student_key"]]
    boards = tables["boards"].merge(tables["enrolled"], how="left", on=["type", "board_key"])
    boards["enrolled"] = boards["enrolled"].fillna(0).astype(int)
    watch.mark("day's sums")
    for granularity, (now, then) in rollup.windows(day).items():
        current, earlier = _within(past, now), _within(past, then)
        for type in BoardType:
            column = f"{type.lower()}_key"
            ranked = _ranked(past[current], column)
            before = _ranked(past[earlier], column)
            rows = _rows(
                ranked, before, boards[boards["type"] == type], ids, day, granularity, now[0]
            )
            watch.mark(str(granularity))
            _write(database, rows)
            watch.mark("rows in")
    return watch.parts


def _within(past: pd.DataFrame, window: tuple[date, date]) -> pd.Series[bool]:
    first, last = map(pd.Timestamp, window)
    return (past["period_start"] >= first) & (past["period_end"] <= last)


def _ranked(cells: pd.DataFrame, column: str) -> pd.DataFrame:
    """board, student, points, rank: sorted by board, rank, student."""
    cells = cells.loc[cells[column] > 0, [column, "student", "points"]]
    code = cells[column].to_numpy(np.int64) << 32 | cells["student"].to_numpy()
    sums = cells["points"].groupby(code, sort=False).sum()
    codes = sums.index.to_numpy()
    board, student, points = codes >> 32, codes & 0xFFFFFFFF, sums.to_numpy()
    order = np.lexsort((student, -points, board))
    ranked = pd.DataFrame(
        {"board_key": board[order], "student": student[order], "points": points[order]}
    )
    by_board = ranked.groupby("board_key", sort=False)["points"]
    ranked["rank"] = by_board.rank(method="min", ascending=False).astype(int)
    ranked["place"] = by_board.cumcount() + 1
    return ranked


def _rows(
    ranked: pd.DataFrame,
    before: pd.DataFrame,
    boards: pd.DataFrame,
    ids: np.ndarray[Any, Any],
    day: date,
    granularity: Granularity,
    first: date,
) -> list[tuple[Any, ...]]:
    groups = ranked.groupby("board_key")["points"]
    figures = groups.agg(["size", "sum", "mean", "median", "max"])
    figures["p90"] = groups.quantile(0.9)
    tied = ranked[(ranked["place"] > LIMIT) & (ranked["rank"] <= LIMIT)]
    figures["ties_cut"] = tied.groupby("board_key").size()
    figures["ties_cut"] = figures["ties_cut"].fillna(0).astype(int)
    top = ranked[ranked["place"] <= LIMIT]
    earlier = before[["board_key", "student", "rank"]].rename(columns={"rank": "before"})
    top = top.merge(earlier, how="left", on=["board_key", "student"])
    previous = top["before"].astype("Int64").astype(object).where(top["before"].notna(), "null")
    texts = pd.Series(
        [
            f'{{"rank":{rank},"studentId":"{id}","points":{points},"previousRank":{earlier}}}'
            for rank, id, points, earlier in zip(
                top["rank"].tolist(), ids[top["student"]].tolist(), top["points"].tolist(),
                previous.tolist(), strict=True,
            )
        ]
    )  # fmt: skip
    figures["entries"] = texts.groupby(top["board_key"]).agg(",".join)
    joined = boards.merge(figures, left_on="board_key", right_index=True)
    rows = []
    for row in joined.itertuples():
        start = {Granularity.TERM: TERM_FIRST, Granularity.ALL_TIME: row.first_day}
        metadata = {
            "ranked": row.size, "enrolled": row.enrolled, "sum": row.sum, "mean": row.mean,
            "median": row.median, "p90": row.p90, "max": row.max, "tiesCut": row.ties_cut,
        }  # fmt: skip
        rows.append(
            (row.institution_id, row.type, row.reference_id, str(granularity), day,
             start.get(granularity, first), f"[{row.entries}]", json.dumps(metadata), b"", b"")
        )  # fmt: skip
    return rows


def _write(database: Database, rows: list[tuple[Any, ...]]) -> None:
    with database.transaction() as connection, connection.cursor() as cursor:
        with cursor.copy(inputs.COPY_IN) as copy:
            for row in rows:
                copy.write_row(row)
