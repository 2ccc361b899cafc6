"""One day of the whole district, from events in PostgreSQL to rows in PostgreSQL: the table.

    python -m benchmarks.day --data /var/tmp/lb-bench                     # all ways, three rounds
    python -m benchmarks.day --data /var/tmp/lb-bench --ways limit ours   # only these
    python -m benchmarks.day --data ... --ways limit ours --days 30       # a month in one pass

on what `python -m benchmarks.district` built there. The ways are described in `ways/`. Each run is
a process of its own, after the database was put back and a CHECKPOINT; rounds are interleaved
(A B C, A B C). One run of `ours` comes first, unmeasured: it makes the leaves and totals that any
later day finds, and its rows are what `limit` loads. After every run a hash over all boards says
whether they are equal to those of that run.

With `--days 30` the same for the 30 days that end on DAY in one pass, against the limit of all
their events and rows.
"""

from __future__ import annotations

import argparse
import json
import os
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import rollup, state
from benchmarks.district import DAY
from benchmarks.harness import (
    ServerMemory,
    add_database_options,
    database_of,
    in_a_process,
    load,
    machine,
    machine_line,
    print_table,
    save,
)
from benchmarks.one import WAYS
from benchmarks.ways import limit
from lb_pipelines.core.periods import DayRange
from lb_pipelines.db.engine import Database

WHOLE_DAY = ("limit", "ours", "with_pandas", "with_duckdb", "with_sql")


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_database_options(parser)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WHOLE_DAY)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--days", type=int, default=1)
    parser.add_argument("--scratch", type=Path, default=Path("/var/tmp/lb-bench-scratch"))
    parser.add_argument("--prepare", action="store_true", help="prepare only, measure nothing")
    parser.add_argument(
        "--save",
        metavar="NAME",
        help="keep the result in benchmarks/results; further rounds are added to those there",
    )
    options = parser.parse_args()
    days = DayRange(DAY - timedelta(days=options.days - 1), DAY)
    with database_of(options) as database:
        prepared = prepare(
            database,
            days,
            options.scratch,
            anew=options.prepare,
            others=any(way.startswith(("with_", "naive")) for way in options.ways),
        )
        if options.prepare:
            return
        result = load(options.save) if options.save else {}
        if result.get("digest") != prepared["digest"]:
            result = {"machine": machine(database), **prepared, "runs": {}}
        for number in range(options.rounds):
            for way in options.ways:
                run = measure(database, days, way, options.scratch, prepared)
                result["runs"].setdefault(way, []).append(run)
                tell(number + 1, run)
                if options.save:
                    save(options.save, result)
    show(result)


def prepare(
    database: Database, days: DayRange, scratch: Path, *, anew: bool, others: bool = True
) -> dict[str, Any]:
    """What is not measured: the past for `others`, a run of ours, and the facts around it.

    Kept in the scratch directory, so that measuring again begins at once.
    """
    path = scratch / f"prepared-{days.first}-{days.last}.json"
    if not anew and path.exists():
        found: dict[str, Any] = json.loads(path.read_text())
        return found
    scratch.mkdir(parents=True, exist_ok=True)
    state.complete_past(database, days)
    past = rollup.prepare(database, days.last, scratch) if others and len(days) == 1 else None
    in_a_process("benchmarks.one", "ours", *_arguments(database, days, scratch))
    rows, digest = state.digest(database, days)
    state.keep_expected(database, days)
    prepared = {
        "days": len(days),
        "first": str(days.first),
        "last": str(days.last),
        "district": facts(database, days),
        "rows": rows,
        "digest": digest,
        "sizes": state.sizes(database),
        "rows_mb": limit.keep_rows(database, days, scratch) / 1e6,
        "rollup_rows": past,
    }
    path.write_text(json.dumps(prepared))
    return prepared


def measure(
    database: Database, days: DayRange, way: str, scratch: Path, prepared: dict[str, Any]
) -> dict[str, Any]:
    """One run of one way."""
    state.complete_past(database, days)
    load_before = round(os.getloadavg()[0], 2)
    with ServerMemory(database) as server:
        run = in_a_process("benchmarks.one", way, *_arguments(database, days, scratch))
    run["load_before"] = load_before
    run["server_peak_mb"] = server.peak_mb
    run["rows"], found = state.digest(database, days)
    # A sample is equal if each of its rows is.
    run["equal"] = found == prepared["digest"]
    if way == "naive":
        run["equal"] = run["rows"] > 0 and state.differing(database, days) == 0
    return run


def _arguments(database: Database, days: DayRange, scratch: Path) -> list[str]:
    url = database.url.set(drivername="postgresql").render_as_string(hide_password=False)
    return ["--url", url, "--first", str(days.first), "--last", str(days.last),
            "--scratch", str(scratch)]  # fmt: skip


def tell(number: int, run: dict[str, Any]) -> None:
    """One line of a run."""
    parts = ", ".join(f"{name} {seconds:.2f}" for name, seconds in run["parts"].items())
    print(
        f"round {number} {run['way']:12s} {run['seconds']:8.2f} s {run['peak_mb']:6.0f} MB"
        f" {'equal' if run['equal'] else 'DIFFERENT'} ({parts})",
        flush=True,
    )


def facts(database: Database, days: DayRange) -> dict[str, int]:
    """How large the district is."""
    counts = {
        "institutions": "SELECT count(*) FROM lb.institutions",
        "students": "SELECT count(*) FROM lb.students",
        "enrollments": "SELECT count(*) FROM lb.enrollments",
        "classes": "SELECT count(*) FROM lb.classes",
        "subjects": "SELECT count(*) FROM lb.subjects",
        "campuses": "SELECT count(*) FROM lb.campuses",
        "days of history": "SELECT max(day) - min(day) + 1 FROM lb.point_aggregates",
    }
    with database.transaction() as connection:
        found = {
            what: int((connection.execute(query).fetchone() or (0,))[0] or 0)
            for what, query in counts.items()
        }
        row = connection.execute(
            "SELECT count(*) FROM lb.student_points p JOIN lb.institutions i USING"
            " (institution_key) WHERE occurred_at BETWEEN %(first)s::date - 2 AND"
            " %(last)s::date + 2 AND (occurred_at AT TIME ZONE i.time_zone)::date"
            " BETWEEN %(first)s AND %(last)s",
            {"first": days.first, "last": days.last},
        ).fetchone()
    return found | {"events": row[0] if row else 0}


def summary(result: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each way: medians, and ratios to the limit and to ours."""
    medians = {
        way: median(run["seconds"] for run in runs) for way, runs in result["runs"].items() if runs
    }
    return [
        {
            "way": way,
            "seconds": seconds,
            "runs": [round(run["seconds"], 2) for run in result["runs"][way]],
            "of_limit": seconds / medians["limit"] if "limit" in medians else None,
            "of_ours": seconds / medians["ours"] if "ours" in medians else None,
            "peak_mb": max(run["peak_mb"] for run in result["runs"][way]),
            "server_peak_mb": max(run["server_peak_mb"] or 0 for run in result["runs"][way]),
            "equal": all(run["equal"] for run in result["runs"][way]),
        }
        for way, seconds in medians.items()
    ]


def show(result: dict[str, Any]) -> None:
    """Print the table."""
    print(machine_line(result["machine"]))
    print(", ".join(f"{count:,} {what}" for what, count in result["district"].items()))
    print(
        f"{result['first']} to {result['last']}: {result['rows']:,} rows,"
        f" {result['rows_mb']:.0f} MB as COPY, {result['sizes']['bytes_a_row']:,} bytes a row"
        f" on disk"
    )
    print_table(
        ("way", "seconds", "x limit", "x ours", "peak MB", "server MB", "equal", "runs"),
        [
            (
                row["way"],
                f"{row['seconds']:.2f}",
                f"{row['of_limit']:.2f}" if row["of_limit"] else "",
                f"{row['of_ours']:.2f}" if row["of_ours"] else "",
                f"{row['peak_mb']:.0f}",
                f"{row['server_peak_mb']:.0f}",
                "yes" if row["equal"] else "NO",
                " ".join(map(str, row["runs"])),
            )
            for row in summary(result)
        ],
    )


if __name__ == "__main__":
    main()
