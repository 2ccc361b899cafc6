"""How a day's run grows: with students, with history, with days in one pass, with leaves.

    python -m benchmarks.growth students --data DIR   # 50,000, 150,000 and 500,000 students
    python -m benchmarks.growth history --data DIR --scale 1/10   # 30 days, 1 year, 3 years before
    python -m benchmarks.growth days --data DIR --scale 1/10      # 1, 5, 10, 20 and 30 in one pass
    python -m benchmarks.growth leaves --data DIR --scale 1/10    # 240, 1,000 and 3,000 leaves

DIR holds a server for each district (`DIR/students-1-10`, ...), built where it is missing. Every
step measures `limit` and `ours` in turns, each run a process of its own, with its peak memory;
`--step` does one step alone (by its label, as printed), and results of steps are added to those in
benchmarks/results. What grows by itself in one database (history, leaves) is done in ascending
order: a database that has three years cannot be asked about thirty days any more.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from fractions import Fraction
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import day as one_day
from benchmarks.district import (
    DAY,
    EVENT_DAYS,
    HISTORY_DAYS,
    all_institutions,
    build,
    copy_history,
    scale_of,
    spec,
)
from benchmarks.harness import load, machine, machine_line, print_table, save
from lb_pipelines.core.periods import DayRange, month_start
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.db import partitions
from lb_pipelines.db.embedded import EmbeddedServer
from lb_pipelines.db.engine import Database
from lb_pipelines.db.partitions.leaves import count_leaves

WAYS = ("limit", "ours")
SCALES = ("1/10", "3/10", "1")
HISTORIES = {"30 days": 0, "1 year": 365 - EVENT_DAYS, "3 years": 1095 - EVENT_DAYS}
PASSES = (1, 5, 10, 20, 30)
LEAVES = (240, 1_000, 3_000)
_READ = """
EXPLAIN (SUMMARY, FORMAT JSON)
SELECT snapshot_date, entries FROM lb.leaderboard_snapshots
WHERE institution_id = %s AND type = %s AND reference_id = %s AND time_granularity = %s
  AND snapshot_date BETWEEN %s AND %s
"""


@dataclass(frozen=True)
class Step:
    """A point of a curve: what to call it, its place on the x axis, how to get there.

    `reach` puts the database there and gives the days to measure and further figures.
    """

    label: str
    x: int
    server: Path
    scale: Fraction
    history: int
    reach: Callable[[Database], tuple[DayRange, dict[str, Any]]]


def steps(curve: str, folder: Path, scale: Fraction) -> Iterator[Step]:
    """The steps of a curve, in ascending order."""
    at = str(scale).replace("/", "-")
    today = DayRange(DAY, DAY)
    if curve == "students":
        for text in SCALES:
            size = Fraction(text)
            students = spec(size, EVENT_DAYS).students
            yield Step(
                f"{students:,}", students, folder / f"students-{text.replace('/', '-')}", size,
                HISTORY_DAYS, lambda _: (today, {}),
            )  # fmt: skip
    elif curve == "history":
        for label, before in HISTORIES.items():
            yield Step(
                label, before + EVENT_DAYS, folder / f"history-{at}", scale, 0,
                partial(_with_history, before=before),
            )  # fmt: skip
    elif curve == "days":
        for count in PASSES:
            span = DayRange(DAY - timedelta(days=count - 1), DAY)
            yield Step(
                str(count), count, folder / f"students-{at}", scale, HISTORY_DAYS,
                lambda _, span=span: (span, {}),  # type: ignore[misc]
            )  # fmt: skip
    else:
        for count in LEAVES:
            yield Step(
                f"{count:,}", count, folder / f"leaves-{at}", scale, HISTORY_DAYS,
                partial(_with_leaves, count=count),
            )  # fmt: skip


def _with_history(database: Database, before: int) -> tuple[DayRange, dict[str, Any]]:
    first = DAY - timedelta(days=EVENT_DAYS - 1)
    with database.transaction() as connection:
        row = connection.execute("SELECT min(day) FROM lb.point_aggregates").fetchone()
    oldest: date = row[0] if row else first
    have = (first - oldest).days
    if have > before:
        raise SystemExit(f"There are {have} days of history already: build it anew")
    if before > have:
        copy_history(database, first, before, have=have)
    with database.autocommit() as connection:
        connection.execute("VACUUM ANALYZE lb.point_aggregates")
    return DayRange(DAY, DAY), {}


def _with_leaves(database: Database, count: int) -> tuple[DayRange, dict[str, Any]]:
    """Months of leaves into the past for everybody, until there are as many."""
    institutions = all_institutions(database)
    month = month_start(DAY)
    while _leaves(database) < count:
        for institution in institutions:
            partitions.ensure_snapshot_months(
                database, institution.id, month, month_start(DAY), budget=10 * count
            )
            if _leaves(database) >= count:
                break
        month = month_start(month - timedelta(days=1))
    with database.transaction() as connection:
        plans = []
        for institution in institutions[:10]:
            parameters = (institution.id, str(BoardType.CLASS), "a", str(Granularity.MONTHLY))
            row = connection.execute(
                _READ, (*parameters, DAY - timedelta(days=365), DAY)
            ).fetchone()
            plans.append(row[0][0]["Planning Time"] if row else 0.0)
    return DayRange(DAY, DAY), {"leaves": _leaves(database), "plan_ms": median(plans)}


def _leaves(database: Database) -> int:
    with database.transaction() as connection:
        return count_leaves(connection)


def measure(step: Step, rounds: int) -> dict[str, Any]:
    """The runs of a step, in turns."""
    with EmbeddedServer(step.server) as url:
        database = Database(url)
        build(database, step.scale, EVENT_DAYS, step.history)
        days, figures = step.reach(database)
        scratch = step.server.with_name(f"{step.server.name}-scratch")
        facts = machine(database)
        prepared = one_day.prepare(database, days, scratch, anew=True, others=False)
        runs: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
        for number in range(rounds):
            for way in WAYS:
                run = one_day.measure(database, days, way, scratch, prepared)
                one_day.tell(number + 1, run)
                runs[way].append(run)
        database.close()
    medians = {way: median(run["seconds"] for run in runs[way]) for way in WAYS}
    return {
        "x": step.x,
        "machine": facts,
        "days": len(days),
        "rows": prepared["rows"],
        "bytes_a_row": prepared["sizes"]["bytes_a_row"],
        "seconds": medians,
        "of_limit": medians["ours"] / medians["limit"],
        "peak_mb": max(run["peak_mb"] for run in runs["ours"]),
        "equal": all(run["equal"] for way in WAYS for run in runs[way]),
        **figures,
    }


def show(curve: str, found: dict[str, Any]) -> None:
    """Print the curve."""
    points = found["points"]
    print(machine_line(next(iter(points.values()))["machine"]))
    print_table(
        (curve, "rows", "limit s", "ours s", "x limit", "peak MB", "bytes a row", "equal"),
        [
            (
                label,
                f"{point['rows']:,}",
                f"{point['seconds']['limit']:.2f}",
                f"{point['seconds']['ours']:.2f}",
                f"{point['of_limit']:.2f}",
                f"{point['peak_mb']:.0f}",
                f"{point['bytes_a_row']:,}",
                "yes" if point["equal"] else "NO",
            )
            for label, point in points.items()
        ],
    )


def main() -> None:
    """Measure a curve, or one step of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("curve", choices=("students", "history", "days", "leaves"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--scale", type=scale_of, default=Fraction(1, 10))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--step", help="the label of one step, all others are left alone")
    options = parser.parse_args()
    name = f"growth-{options.curve}"
    found = load(name) or {"points": {}}
    if options.curve != "students":
        found["scale"] = str(options.scale)
    for step in steps(options.curve, options.data, options.scale):
        if options.step in (None, step.label):
            print(f"{options.curve}: {step.label}", flush=True)
            found["points"][step.label] = measure(step, options.rounds)
            save(name, found)
    show(options.curve, found)


if __name__ == "__main__":
    main()
