"""Dagster's own record of runs, in batches: what may go of it, and letting it go.

The database is the one that Dagster keeps its tables in. What a batch says may go is asked and
deleted in one transaction; what is not superseded then never becomes so by a deletion, because the
last event of its kind is never deleted. Any number of these may run at once, and any be killed.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from lb_pipelines.db import queries
from lb_pipelines.db.engine import Connection


@dataclass(frozen=True)
class OldRuns:
    """A batch of ended runs; `place` is where the next one goes on."""

    run_ids: list[str]
    place: int


@dataclass(frozen=True)
class Pruned:
    """What went, or would: counts, and the characters of their bodies."""

    events: int = 0
    checks: int = 0
    runs: int = 0
    ticks: int = 0
    bytes: int = 0

    def __add__(self, other: Pruned) -> Pruned:
        return Pruned(
            self.events + other.events,
            self.checks + other.checks,
            self.runs + other.runs,
            self.ticks + other.ticks,
            self.bytes + other.bytes,
        )


def old_runs(connection: Connection, before: datetime, place: int, at_most: int) -> OldRuns | None:
    """The next runs that ended before an instant and that nothing at work needs; None: no more."""
    rows = list(
        queries.dagster_history.old_runs(
            connection,
            before=before,
            before_utc=_without_zone(before),
            after=place,
            at_most=at_most,
        )
    )
    return OldRuns([run_id for _, run_id in rows], rows[-1][0]) if rows else None


def prune_runs(connection: Connection, run_ids: list[str], *, dry_run: bool) -> Pruned:
    """Let go of what is superseded of these runs, and of those that no asset's page leads to."""
    history = queries.dagster_history
    events = list(history.superseded_events(connection, run_ids=run_ids))
    checks = list(history.superseded_checks(connection, run_ids=run_ids))
    event_ids, check_ids = [id for id, _ in events], [id for id, _ in checks]
    size = sum(bytes for _, bytes in [*events, *checks])
    whole = [
        run_id
        for (run_id,) in history.runs_without_assets(
            connection, run_ids=run_ids, event_ids=event_ids, check_ids=check_ids
        )
    ]
    if not dry_run:
        history.delete_events(connection, event_ids=event_ids)
        history.delete_checks(connection, check_ids=check_ids)
        history.delete_runs(connection, run_ids=whole)
    return Pruned(len(events), len(checks), len(whole), 0, size)


def prune_ticks(connection: Connection, before: datetime, at_most: int, *, dry_run: bool) -> Pruned:
    """Let go of so many ticks before an instant; the last of each schedule and sensor stays."""
    rows = list(
        queries.dagster_history.old_ticks(
            connection, before_utc=_without_zone(before), at_most=at_most
        )
    )
    if not dry_run:
        queries.dagster_history.delete_ticks(connection, tick_ids=[id for id, _ in rows])
    return Pruned(ticks=len(rows), bytes=sum(bytes for _, bytes in rows))


def _without_zone(instant: datetime) -> datetime:
    """An instant as Dagster's tables have it: UTC, without saying so."""
    return instant.astimezone(UTC).replace(tzinfo=None)
