"""Build the district that performance is measured on, the same each time.

    python -m benchmarks.district --data /var/tmp/lb-bench --scale 1/100
    python -m benchmarks.district --url postgresql://.../empty_database --scale 1 --history 980

Full scale (`--scale 1`): 20 institutions of uneven size, 500,000 students, 2.5 million enrolments
in 5,000 classes, 400 subjects and 100 campuses; 750,000 events a school day and 15 % of that at
weekends; N = 100 on every board, by the institutions' own limits. 1/10 and 1/100 have as many
institutions and less of everything else.

Time: `--days` days of events end on DAY, a Wednesday in the middle of a month, of which all but
DAY itself are aggregated (what a day's run finds). Before them lie `--history` days of which only
the aggregates stand, copies of the first 28 days of events, a whole number of weeks earlier. The
term that all classes belong to begins on TERM_FIRST; so with the default of 31 and 84 days every
window of DAY, and its baseline, is a different one. All of it is made with the project's own
public functions: `sources.district`, then `materialize.aggregates`.
"""

from __future__ import annotations

import argparse
import json
from datetime import date, timedelta
from fractions import Fraction

from benchmarks.harness import Stopwatch, add_database_options, database_of
from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import ONE_DAY, DayRange
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.db import migrate
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import institutions
from lb_pipelines.materialize import aggregates
from lb_pipelines.materialize.results import Provenance
from lb_pipelines.sources.district import District, generate

DAY = date(2026, 4, 15)
TERM_FIRST, TERM_LAST = date(2026, 1, 12), date(2026, 6, 26)
EVENT_DAYS, HISTORY_DAYS = 31, 84
CYCLE = 28
LIMIT = 100
INSTITUTIONS = 20
_MARK = "District of the benchmarks: "

_LIMITS = {type: dict.fromkeys(map(str, Granularity), LIMIT) for type in map(str, BoardType)}
_COPY_HISTORY = """
INSERT INTO lb.point_aggregates (institution_key, day, revision, source_rows, watermark, run_id,
    content_hash, cells, students, classes, subjects, campuses, points, events)
SELECT institution_key, day - %(back)s, nextval('lb.aggregate_revisions'), source_rows,
       watermark - make_interval(days => %(back)s), run_id, content_hash, cells,
       students, classes, subjects, campuses, points, events
FROM lb.point_aggregates
WHERE day BETWEEN %(first)s AND %(last)s AND day - %(back)s BETWEEN %(oldest)s AND %(newest)s
"""


def spec(scale: Fraction, days: int) -> District:
    """The district of this size, its last `days` days of events ending on DAY."""

    def part(full: int) -> int:
        return max(INSTITUTIONS, round(full * scale))

    return District(
        end_day=DAY,
        institutions=INSTITUTIONS,
        students=part(500_000),
        classes=part(5_000),
        subjects=part(400),
        campuses=part(100),
        days=days,
        events_per_day=round(750_000 * scale),
        classes_per_student=5,
        terms_per_year=0,
        seed=5,
    )


def build(database: Database, scale: Fraction, days: int, history: int) -> None:
    """Fill an empty database; prints what took how long.

    Only brings the schema up to date where that very district stands.
    """
    wanted = f"{scale} of the full size, {days} days of events, {history} days before"
    found = standing(database)
    if found == wanted:
        migrate.upgrade(database)
        print(f"There already: {found}")
        return
    if found is not None:
        raise SystemExit(f"There is {found or 'half of a district'}: take an empty database")
    watch = Stopwatch()

    def tell(what: str) -> None:
        print(f"{what:60s} {watch.mark(what):7.1f} s", flush=True)

    migrate.upgrade(database)
    district = spec(scale, days)
    report = generate(database, district)
    written = {table: f"{counts.inserted:,}" for table, counts in report.written.items()}
    tell("district: " + json.dumps(written))
    with database.transaction() as connection:
        connection.execute("UPDATE lb.institutions SET metadata = %s", (
            json.dumps({"leaderboardLimits": _LIMITS}),
        ))  # fmt: skip
        connection.execute(
            "UPDATE lb.terms SET starts_on = %s, ends_on = %s", (TERM_FIRST, TERM_LAST)
        )
    with database.autocommit() as connection:
        connection.execute("VACUUM ANALYZE")
    tell("limits, terms, VACUUM")
    for institution in all_institutions(database):
        before = DayRange(district.first_day, DAY - ONE_DAY)
        for _ in aggregates.materialize(database, institution, before, Provenance("build")):
            pass
    tell(f"aggregates of {days - 1} days")
    copy_history(database, district.first_day, history)
    with database.autocommit() as connection:
        connection.execute("VACUUM ANALYZE lb.point_aggregates")
        connection.execute("CHECKPOINT")
    tell(f"aggregates of {history} days before")
    with database.transaction() as connection:
        connection.execute(f"COMMENT ON SCHEMA lb_part IS '{_MARK}{wanted}'".encode())
    with database.transaction() as connection:
        for what in (
            "(SELECT count(*) FROM lb.student_points)",
            "(SELECT md5(string_agg(id || sum, ',' ORDER BY id)) FROM (SELECT i.id, sum(amount)"
            " FROM lb.student_points JOIN lb.institutions i USING (institution_key) GROUP BY i.id)"
            " AS sums)",
            "(SELECT sum(cells) FROM lb.point_aggregates)",
            "pg_size_pretty(pg_database_size(current_database()))",
        ):
            print(what, *(connection.execute(f"SELECT {what}").fetchone() or ()))


def standing(database: Database) -> str | None:
    """What was built here: empty where it is not whole, None where there is nothing."""
    with database.transaction() as connection:
        row = connection.execute(
            "SELECT coalesce(obj_description(to_regnamespace('lb_part'), 'pg_namespace'), ''),"
            " to_regnamespace('lb_part') IS NOT NULL"
        ).fetchone()
    comment, there = row or ("", False)
    if not there:
        return None
    return comment.removeprefix(_MARK) if comment.startswith(_MARK) else ""


def copy_history(database: Database, first_event_day: date, days: int, *, have: int = 0) -> None:
    """Give each institution `days` days of aggregates before its first day of events, of which it
    has the last `have`.
    """
    for cycle in range(1, -(-days // CYCLE) + 1):
        with database.transaction() as connection:
            connection.execute(
                _COPY_HISTORY,
                {
                    "back": CYCLE * cycle,
                    "first": first_event_day,
                    "last": first_event_day + (CYCLE - 1) * ONE_DAY,
                    "oldest": first_event_day - timedelta(days=days),
                    "newest": first_event_day - timedelta(days=have + 1),
                },
            )


def all_institutions(database: Database) -> list[Institution]:
    """All of them, by id."""
    with database.transaction() as connection:
        return [each.validate() for each in institutions.every(connection)]


def scale_of(text: str) -> Fraction:
    """`1/10` or `0.1` as a number from 0 to 1."""
    scale = Fraction(text)
    if not 0 < scale <= 1:
        raise argparse.ArgumentTypeError("a share of the full size, like 1/10")
    return scale


def main() -> None:
    """Build it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_database_options(parser)
    parser.add_argument("--scale", type=scale_of, default=Fraction(1, 10))
    parser.add_argument("--days", type=int, default=EVENT_DAYS)
    parser.add_argument("--history", type=int, default=HISTORY_DAYS)
    options = parser.parse_args()
    if options.history and options.days <= CYCLE:
        parser.error(f"--history copies {CYCLE} days before the last: give more --days than that")
    with database_of(options) as database:
        build(database, options.scale, options.days, options.history)


if __name__ == "__main__":
    main()
