"""Snapshots for the tests of retention: made by the code that makes real ones, of small contents.

A content is a number; what stands of it in the database can be told from the row alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from datetime import date
from functools import reduce
from typing import Any, NamedTuple

from psycopg.types.json import Jsonb

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import academic_year
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.db import bulk
from lb_pipelines.db.engine import Connection, Database
from lb_pipelines.db.partitions import ensure_snapshot_months
from lb_pipelines.db.repositories import boards, institutions, writers
from lb_pipelines.db.repositories.revisions import Renewal
from lb_pipelines.retention.actor import Actor

ACTOR = Actor("a test", "run-1")

Key = tuple[str, str, str, date]
"""(type, reference id, granularity, day)."""


class Live(NamedTuple):
    status: str
    content: int
    active_until: date | None = None


class Copy(NamedTuple):
    content: int
    academic_year: str
    revision: int = 1
    term_id: str | None = None


def hash_of(content: int) -> bytes:
    return hashlib.blake2b(str(content).encode(), digest_size=16).digest()


def add_institution(
    database: Database,
    id: str,
    *,
    months: tuple[date, date] | None = None,
    start_month: int = 8,
    zone: str = "UTC",
    budget: int | None = 0,
    metadata: Mapping[str, Any] | None = None,
) -> Institution:
    """An institution with leaves for these months: shared ones unless the budget is given."""
    with database.transaction() as connection:
        connection.execute(
            "INSERT INTO lb.institutions"
            " (id, name, time_zone, academic_year_start_month, metadata)"
            " VALUES (%s, %s, %s, %s, %s)",
            (id, id, zone, start_month, Jsonb(dict(metadata or {}))),
        )
        found = institutions.find(connection, id)
    if months is not None:
        ensure_snapshot_months(database, id, *months, budget=budget)
    return found


def materialize(
    connection: Connection,
    institution: Institution,
    type: BoardType,
    day: date,
    contents: Mapping[tuple[str, Granularity], int],
    *,
    renewal: Renewal | None = None,
) -> boards.Replaced:
    """Replace a day's snapshots of a type, by reference id and granularity, as a run does."""
    (writers.write_alone if renewal else writers.write_beside_others)(connection, institution)
    keys, values = list(contents), list(contents.values())
    columns = [
        [institution.id.encode()] * len(keys),
        [type.value.encode()] * len(keys),
        [reference.encode() for reference, _ in keys],
        [granularity.value.encode() for _, granularity in keys],
        [bulk.encode_date(day)] * len(keys),
        [bulk.encode_date(day)] * len(keys),
        list(bulk.encode_jsonb(b'[{"points":%d}]' % value for value in values)),
        list(bulk.encode_jsonb(b'{"sum":%d}' % value for value in values)),
        [b"%d" % value for value in values],
        [hash_of(value) for value in values],
    ]
    return boards.replace_snapshots(connection, institution, type, day, columns, renewal=renewal)


def fill(
    database: Database,
    institution: Institution,
    days: Iterable[date],
    *,
    types: Collection[BoardType] = tuple(BoardType),
    references: Collection[str] = ("r",),
    granularities: Collection[Granularity] = (Granularity.DAILY,),
) -> dict[Key, int]:
    """Snapshots of all these boards on all these days; their contents."""
    made: dict[Key, int] = {}
    with database.transaction() as connection:
        for day in days:
            for type in types:
                contents = {}
                for reference in references:
                    for granularity in granularities:
                        content = len(made)
                        contents[reference, granularity] = content
                        made[str(type), reference, str(granularity), day] = content
                materialize(connection, institution, type, day, contents)
    return made


def live(database: Database, institution: Institution) -> dict[Key, Live]:
    """All originals; each holds what its content says in every column."""
    with database.transaction() as connection:
        rows = connection.execute(
            "SELECT type, reference_id, time_granularity, snapshot_date, status,"
            " distribution, active_until, content_hash, entries, metadata"
            " FROM lb.leaderboard_snapshots WHERE institution_id = %s",
            (institution.id,),
        ).fetchall()
    found = {}
    for *key, status, packed, active_until, hash, entries, metadata in rows:
        found[tuple(key)] = Live(status, _content(packed, hash, entries, metadata), active_until)
    return found


def archived(database: Database, institution: Institution) -> dict[Key, Copy]:
    """All copies; each holds what its content says in every column."""
    with database.transaction() as connection:
        rows = connection.execute(
            "SELECT type, reference_id, time_granularity, snapshot_date, distribution,"
            " academic_year, revision, term_id, content_hash, entries, metadata, original_id"
            " FROM lb.archived_leaderboard_snapshots WHERE institution_id = %s",
            (institution.id,),
        ).fetchall()
    found = {}
    for *key, packed, year, revision, term, hash, entries, metadata, original_id in rows:
        assert original_id == original(institution, tuple(key))
        assert tuple(key) not in found, "two copies of one original"
        content = _content(packed, hash, entries, metadata)
        found[tuple(key)] = Copy(content, year, revision, term)
    return found


def _content(packed: bytes, hash: bytes, entries: Any, metadata: Any) -> int:
    content = int(packed)
    assert hash == hash_of(content)
    assert entries == [{"points": content}]
    assert metadata == {"sum": content}
    return content


def original(institution: Institution, key: Key) -> str:
    """The id of a snapshot."""
    return ":".join((institution.id, *map(str, key)))


def digest(institution: Institution, moved: Mapping[Key, int]) -> str:
    """What the ledger must say of these rows."""
    halves = (
        int.from_bytes(
            hashlib.sha256(original(institution, key).encode() + hash_of(content)).digest()[:16]
        )
        for key, content in moved.items()
    )
    return f"{reduce(int.__xor__, halves, 0):032x}"


def year_of(day: date, start_month: int = 8) -> str:
    return academic_year(day, start_month)


def lock_waiters(observer: Connection) -> list[int]:
    """The backends of this database that wait for an advisory lock; `observer` is in autocommit."""
    found = observer.execute(
        "SELECT pid FROM pg_locks JOIN pg_stat_activity USING (pid)"
        " WHERE locktype = 'advisory' AND NOT granted AND datname = current_database()"
    ).fetchall()
    return [pid for (pid,) in found]
