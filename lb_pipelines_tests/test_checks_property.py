"""Checks say nothing of any right district, and something of any single damage to one."""

from __future__ import annotations

import itertools
import random
from datetime import date
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import ONE_DAY, DayRange
from lb_pipelines.core.words import BoardType
from lb_pipelines.db.engine import Connection, Database
from lb_pipelines.materialize import aggregates, snapshots
from lb_pipelines.materialize.results import Provenance
from lb_pipelines.materialize.verifying import (
    Check,
    EventSums,
    Verdict,
    verify_aggregates,
    verify_snapshots,
)
from lb_pipelines_tests import worlds
from lb_pipelines_tests.oracle import School, renamed

RUN = Provenance("run")
_names = (f"inst_{number}" for number in itertools.count())

DAMAGES = (
    "rank", "points", "previousRank", "studentId", "entry gone", "entry twice", "tie", "figure",
    "enrolled", "distribution", "row gone", "reference", "cell points", "cell student", "event",
)  # fmt: skip


@settings(
    max_examples=8,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    worlds.schools(spans=(8, 20), events=(10, 60)),
    st.lists(st.sampled_from(DAMAGES), min_size=3, max_size=3, unique=True),
    st.integers(0, 2**32),
)
def test_silent_on_any_district_and_loud_on_any_damage(
    database: Database, school: School, damages: list[str], seed: int
) -> None:
    chance = random.Random(seed)
    institution = worlds.load(database, renamed(school, next(_names)))
    _, last = worlds.span_of(school)
    days = DayRange(last - 8 * ONE_DAY, last)
    make(database, institution, days)
    assert verdicts(database, institution, days) == {}
    days = DayRange(last, last)
    for damage in damages:
        with database.transaction() as connection:
            done = do(connection, institution, damage, days, chance)
        if done is None:
            continue
        found = verdicts(database, institution, days)
        assert found, (damage, done)
        assert all(verdict.findings for verdict in found.values()), (damage, done, found)
        # The remedy is true: what was found wrong is written anew.
        if damage == "event":
            with database.transaction() as connection:
                connection.execute(*done)
        make(database, institution, days)
        assert verdicts(database, institution, days) == {}, (damage, done)


def make(database: Database, institution: Institution, days: DayRange) -> None:
    for _ in aggregates.materialize(database, institution, days, RUN):
        pass
    for type in BoardType:
        for _ in snapshots.materialize(database, institution, type, days, RUN):
            pass


def verdicts(
    database: Database, institution: Institution, days: DayRange
) -> dict[tuple[str, str, date], Verdict]:
    """All that do not pass, by asset, check and day."""
    events = EventSums(database, institution, days)
    found: dict[tuple[str, str, date], Verdict] = {
        (aggregates.ASSET, Check.SUMS, day): verdict
        for day, verdict in verify_aggregates(database, institution, days, events).items()
    }
    for type in BoardType:
        for check, of_day in verify_snapshots(database, institution, type, days, events).items():
            found |= {(type, check, day): verdict for day, verdict in of_day.items()}
    return {key: v for key, v in found.items() if v.findings or v.outdated}


def do(
    connection: Connection,
    institution: Institution,
    damage: str,
    days: DayRange,
    chance: random.Random,
) -> Any:
    """Do one damage somewhere on the last day; None where there is nothing to do it to."""
    if damage == "event":
        return _event(connection, institution, days, chance)
    if damage.startswith("cell"):
        return _cell(connection, institution, damage, days, chance)
    boards = connection.execute(
        "SELECT tableoid::regclass::text, ctid::text, id, time_granularity, entries, metadata,"
        " distribution FROM lb.leaderboard_snapshots WHERE institution_id = %s"
        " AND snapshot_date = %s ORDER BY id",
        (institution.id, days.last),
    ).fetchall()
    if damage == "previousRank":
        # The baselines of the others lie before the days that were made.
        boards = [b for b in boards if b[3] in ("daily", "term", "all-time")]
    if damage == "tie":
        boards = [b for b in boards if _tied(b[4])]
    if not boards:
        return None
    table, ctid, id, _, entries, metadata, distribution = chance.choice(boards)
    at = chance.randrange(len(entries))
    changed: dict[str, Any] = {}
    match damage:
        case "rank" | "points":
            entries[at][damage] += 1
        case "previousRank":
            entries[at][damage] = 10_000
        case "studentId":
            entries[at][damage] = "nobody"
        case "entry gone":
            del entries[at]
        case "entry twice":
            entries.insert(at, entries[at])
        case "tie":
            at = chance.choice(_tied(entries))
            one, other = entries[at], entries[at + 1]
            one["studentId"], other["studentId"] = other["studentId"], one["studentId"]
        case "figure" | "enrolled":
            figures = ("ranked", "sum", "mean", "median", "p90", "max", "tiesCut")
            name = chance.choice(figures) if damage == "figure" else damage
            metadata[name] += chance.choice((1, -1)) * max(1, abs(metadata[name]))
            changed["metadata"] = Jsonb(metadata)
        case "distribution":
            # The last number is how many have the fewest points.
            changed["distribution"] = distribution[:-1] + bytes([distribution[-1] ^ 1])
        case "row gone":
            connection.execute(f"DELETE FROM {table} WHERE ctid = %s", (ctid,))
            return id
        case "reference":
            changed["reference_id"] = "nowhere"
    if not changed:
        changed["entries"] = Jsonb(entries)
    [(column, value)] = changed.items()
    connection.execute(f"UPDATE {table} SET {column} = %s WHERE ctid = %s", (value, ctid))
    return id, damage, at


def _tied(entries: list[dict[str, Any]]) -> list[int]:
    return [i for i, (a, b) in enumerate(itertools.pairwise(entries)) if a["points"] == b["points"]]


def _event(
    connection: Connection, institution: Institution, days: DayRange, chance: random.Random
) -> Any:
    """An amount changes while triggers are off; gives how to take it back."""
    events = connection.execute(
        "SELECT event_id FROM lb.student_points WHERE institution_key = %s AND status = 'ACTIVE'"
        " AND (occurred_at AT TIME ZONE %s)::date BETWEEN %s AND %s AND amount BETWEEN -99 AND 99"
        " ORDER BY event_id",
        (institution.key, institution.time_zone, days.first, days.last),
    ).fetchall()
    if not events:
        return None
    statement = (
        "UPDATE lb.student_points SET amount = amount + %s"
        " WHERE institution_key = %s AND event_id = %s"
    )
    [id] = chance.choice(events)
    connection.execute("SET LOCAL session_replication_role = replica")
    connection.execute(statement, (5, institution.key, id))
    connection.execute("SET LOCAL session_replication_role = origin")
    return statement, (-5, institution.key, id)


def _cell(
    connection: Connection,
    institution: Institution,
    damage: str,
    days: DayRange,
    chance: random.Random,
) -> Any:
    rows = connection.execute(
        "SELECT day, cells FROM lb.point_aggregates WHERE institution_key = %s"
        " AND day BETWEEN %s AND %s AND cells > 0 ORDER BY day",
        (institution.key, days.first, days.last),
    ).fetchall()
    if not rows:
        return None
    day, cells = chance.choice(rows)
    column = "points" if damage == "cell points" else "students"
    at = chance.randint(1, cells)
    connection.execute(
        f"UPDATE lb.point_aggregates SET {column}[%(at)s] = {column}[%(at)s] + 1"
        " WHERE institution_key = %(key)s AND day = %(day)s",
        {"at": at, "key": institution.key, "day": day},
    )
    return day, at
