"""Writing a pass: one transaction per (institution, day), each yielded after its commit.

What snapshots and trends share on the way out. Whoever writes the institution alone is waited for
first; what was read before an erasure is then read anew. The ledger is claimed next, which locks
the day; a day that already stands from a later state of the events is left alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date

import psycopg

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import ONE_DAY, DayRange, month_start
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.db import partitions
from lb_pipelines.db.engine import Connection, Database
from lb_pipelines.db.repositories import ledger, writers
from lb_pipelines.db.repositories.boards import Columns, Replaced
from lb_pipelines.db.repositories.versions import raise_versions
from lb_pipelines.errors import PassOvertaken
from lb_pipelines.materialize import passes
from lb_pipelines.materialize.passes import DayOfBoards, Pass
from lb_pipelines.materialize.results import DayResult, Provenance

Replace = Callable[[Connection, Institution, BoardType, date, Columns], Replaced]

TRIES = 5
"""Passes opened for a day before it is given up; each try but the last was overtaken."""


@dataclass(frozen=True)
class PreparedDay:
    """A day's rows, ready to be written: `columns` gives binary fields, `numbers` are for plots."""

    source: DayOfBoards
    rows: int
    numbers: Mapping[str, int | float]
    columns: Callable[[], Columns]


def write(
    database: Database,
    asset: str,
    institution: Institution,
    type: BoardType,
    days: DayRange,
    provenance: Provenance,
    prepare: Callable[[Pass], Iterable[PreparedDay]],
    replace: Replace,
    *,
    alone: bool = False,
) -> Iterator[DayResult]:
    """Open a pass, prepare its days one by one and replace each in the table.

    A pass that has been overtaken by an erasure is opened anew from that day on; raises
    `PassOvertaken` where that goes on and on. `alone`: nobody else writes the institution during a
    day, and a later state of the events is caught up with instead of left alone.
    """
    writer = _Writer(database, asset, institution, type, provenance, replace, alone)
    _ensure_months(database, institution, days)
    position, tries = days.first, 0
    while position <= days.last:
        begun = position
        left = DayRange(position, days.last)
        with passes.opened(database, institution, type, left, provenance) as opened:
            for result in writer.results(opened, prepare(opened), left):
                yield result
                position = result.day + ONE_DAY
        tries = tries + 1 if position == begun else 1
        if position <= days.last and tries == TRIES:
            raise PassOvertaken(institution.id, asset, position, tries)


class _Overtaken(Exception):
    """What the pass has read is not to be written any more."""


@dataclass(frozen=True)
class _Writer:
    """Writes the days of one pass after the other."""

    database: Database
    asset: str
    institution: Institution
    type: BoardType
    provenance: Provenance
    replace: Replace
    alone: bool

    def results(
        self, opened: Pass, prepared_days: Iterable[PreparedDay], days: DayRange
    ) -> Iterator[DayResult]:
        """Write and yield day by day; ends before the day at which the pass was overtaken."""
        started = time.perf_counter()
        for prepared in prepared_days:
            try:
                try:
                    replaced = self._write_day(opened, prepared)
                except psycopg.errors.CheckViolation:
                    # The institution was moved into a subtree of its own since its months were
                    # made.
                    _ensure_months(self.database, self.institution, days)
                    replaced = self._write_day(opened, prepared)
            except _Overtaken:
                return
            now = time.perf_counter()
            yield self._result(prepared, replaced, now - started)
            started = now

    def _write_day(self, opened: Pass, prepared: PreparedDay) -> Replaced | None:
        """What was written; None where a later state of the events already stands."""
        day = prepared.source.day
        with self.database.transaction() as connection:
            wait = writers.write_alone if self.alone else writers.write_beside_others
            wait(connection, self.institution)
            # Asked after the wait: it may have been for an erasure.
            if writers.erasures(connection, self.institution) != opened.erasures:
                raise _Overtaken
            claimed = ledger.claim(
                connection,
                self.institution,
                self.asset,
                day,
                through_revision=prepared.source.through_revision,
                boards=prepared.rows,
                run_id=self.provenance.run_id,
                code_version=self.provenance.code_version,
            )
            if claimed:
                replaced = self.replace(
                    connection, self.institution, self.type, day, prepared.columns()
                )
                months = {day, *replaced.other_months}
                raise_versions(connection, self.institution, ((self.type, m) for m in months))
                return replaced
            if self.alone:
                # Whoever wrote that later state has not done what this run was started for.
                raise _Overtaken
            return None

    def _result(
        self, prepared: PreparedDay, replaced: Replaced | None, seconds: float
    ) -> DayResult:
        done = replaced or Replaced(0)
        archived = {
            "archived_kept": done.archived_kept,
            "archived_differing": done.archived_differing,
            "archived_renewed": done.archived_renewed,
        }
        numbers = dict(prepared.numbers)
        if any(archived.values()):
            numbers |= archived
        return DayResult(
            self.institution.id,
            self.asset,
            prepared.source.day,
            rows=prepared.rows,
            written=done.written,
            seconds=seconds,
            numbers=numbers,
            superseded=replaced is None,
            through_revision=prepared.source.through_revision,
            watermark=prepared.source.watermark,
            **archived,
        )


def _ensure_months(database: Database, institution: Institution, days: DayRange) -> None:
    partitions.ensure_snapshot_months(
        database, institution.id, month_start(days.first), month_start(days.last)
    )


def boards_by_granularity(rows: Mapping[Granularity, object]) -> dict[str, int | float]:
    """How many boards each granularity has, for plots: `daily_boards`, ..., `all_time_boards`."""
    return {
        f"{granularity.replace('-', '_')}_boards": len(rows[granularity])  # type: ignore[arg-type]
        if granularity in rows
        else 0
        for granularity in Granularity
    }


def provenance_json(source: DayOfBoards, provenance: Provenance) -> bytes:
    """Where a row comes from: run, code, and the state of the events."""
    return json.dumps(
        {
            "runId": provenance.run_id,
            "codeVersion": provenance.code_version,
            "watermark": source.watermark and source.watermark.isoformat(),
            "throughRevision": source.through_revision,
        }
    ).encode()
