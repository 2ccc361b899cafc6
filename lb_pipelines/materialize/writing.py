"""Writing a pass: one transaction per (institution, asset, day), each yielded after its commit.

What snapshots and trends share on the way out. Whoever writes the institution alone is waited for
first; what was read before an erasure is then read anew. The ledger is claimed next, which locks
the day; a day that already stands from a later state of the events is left alone.

While PostgreSQL takes one day's rows, the next ones are ranked: a thread of its own writes, in
order, and stops for good at the first day that cannot be written.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import date
from itertools import islice

import psycopg

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import ONE_DAY, DayRange
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.db.engine import Connection, Database
from lb_pipelines.db.repositories import ledger, snapshot_months, writers
from lb_pipelines.db.repositories.boards import Columns, Replaced
from lb_pipelines.db.repositories.versions import raise_versions
from lb_pipelines.errors import PassOvertaken
from lb_pipelines.materialize import passes
from lb_pipelines.materialize.passes import DayOfBoards, Pass
from lb_pipelines.materialize.results import DayResult, Provenance

Replace = Callable[[Connection, Institution, BoardType, date, Columns], Replaced]

TRIES = 5
"""Passes opened for a day before it is given up; each try but the last was overtaken."""

# Days handed over to be written while the next one is made: more would only take memory.
_AHEAD = 1


@dataclass(frozen=True)
class PreparedDay:
    """A day's rows, ready to be written: `columns` gives binary fields, `numbers` are for plots."""

    source: DayOfBoards
    rows: int
    numbers: Mapping[str, int | float]
    columns: Callable[[], Columns]


@dataclass(frozen=True)
class Product:
    """What is made of the boards of one type: an asset's rows, day by day.

    `prepare` turns the days of an open pass into rows, one by one; `replace` puts a day's into the
    table. `alone`: nobody else writes the institution during a day, and a later state of the
    events is caught up with instead of left alone.
    """

    asset: str
    type: BoardType
    prepare: Callable[[Database, Pass], Iterable[PreparedDay]]
    replace: Replace
    alone: bool = False


def write(
    database: Database,
    institution: Institution,
    products: Sequence[Product],
    days: DayRange,
    provenance: Provenance,
) -> Iterator[DayResult]:
    """Make these products of every day in one pass; yields each (day, product) after its commit.

    A pass that has been overtaken by an erasure is opened anew from that day on; raises
    `PassOvertaken` where that goes on and on.
    """
    snapshot_months.ensure(database, institution, days)
    position, done, tries = days.first, set[str](), 0
    types = list(dict.fromkeys(product.type for product in products))
    while position <= days.last:
        begun = position, len(done)
        left = DayRange(position, days.last)
        with passes.opened(database, institution, types, left, provenance) as opened:
            writers_ = [
                _Writer(database, institution, product, provenance, opened[product.type].erasures)
                for product in products
            ]
            for result in _written(database, opened, writers_, left, done):
                yield result
                done.add(result.asset)
                if len(done) == len(products):
                    position, done = position + ONE_DAY, set()
        tries = tries + 1 if (position, len(done)) == begun else 1
        if position <= days.last and tries == TRIES:
            waiting = next(p.asset for p in products if p.asset not in done)
            raise PassOvertaken(institution.id, waiting, position, tries)


class _Overtaken(Exception):
    """What the pass has read is not to be written any more."""


class _Stopped(Exception):
    """A day before this one could not be written."""


def _written(
    database: Database,
    opened: Mapping[BoardType, Pass],
    writers_: Sequence[_Writer],
    days: DayRange,
    done: set[str],
) -> Iterator[DayResult]:
    """Write and yield day by day; ends before the day at which the pass was overtaken.

    `done` of the first day stand already.
    """
    prepared = _in_turns(database, opened, writers_, days)
    pending: deque[Future[DayResult]] = deque()
    stopped = False
    started = time.perf_counter()

    def write(writer: _Writer, day: PreparedDay) -> DayResult:
        nonlocal stopped, started
        if stopped:
            raise _Stopped
        try:
            replaced = writer.write_day(day, days)
        except BaseException:
            stopped = True
            raise
        now = time.perf_counter()
        result, started = writer.result(day, replaced, now - started), now
        return result

    first = days.first
    with ThreadPoolExecutor(1, thread_name_prefix="boards") as thread:
        try:
            for writer, day in prepared:
                if not (day.source.day == first and writer.product.asset in done):
                    pending.append(thread.submit(write, writer, day))
                # Its rows go as soon as they are written, not when the next ones are made.
                del day
                while len(pending) > _AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except _Overtaken:
            return
        except Exception:
            # What was ready before is written, unless it is what has failed.
            while pending:
                try:
                    result = pending.popleft().result()
                except Exception:
                    break
                yield result
            raise
        finally:
            stopped = True


def _in_turns(
    database: Database,
    opened: Mapping[BoardType, Pass],
    writers_: Sequence[_Writer],
    days: DayRange,
) -> Iterator[tuple[_Writer, PreparedDay]]:
    """Day by day what each writer is to write, made when it is asked for; products of one type
    share the ranked boards of a day.
    """
    shared = {
        type: iter(_shared(pass_.days, sum(one.product.type is type for one in writers_)))
        for type, pass_ in opened.items()
    }
    ways = []
    for writer in writers_:
        whole = opened[writer.product.type]
        mine = replace(whole, days=next(shared[writer.product.type]))
        ways.append((writer, iter(writer.product.prepare(database, mine))))
    for _ in days:
        for writer, way in ways:
            yield writer, next(way)
    # What passes do after their last day.
    for _, way in ways:
        next(way, None)


def _shared(days: Iterator[DayOfBoards], by: int) -> list[Iterator[DayOfBoards]]:
    """The same days for each of those who share them.

    A day goes with the last who has taken it: itertools.tee would keep up to 57 of them.
    """
    if by == 1:
        return [days]
    waiting: list[deque[DayOfBoards]] = [deque() for _ in range(by)]

    def taken(mine: deque[DayOfBoards]) -> Iterator[DayOfBoards]:
        while True:
            if not mine:
                for day in islice(days, 1):
                    whole = replace(day, boards=list(day.boards))
                    for one in waiting:
                        one.append(whole)
                    # The last who takes them is the last to hold them.
                    del day, whole
            if not mine:
                return
            yield mine.popleft()

    return [taken(mine) for mine in waiting]


@dataclass(frozen=True)
class _Writer:
    """Writes the days of one product, as long as no more than `erasures` students are erased."""

    database: Database
    institution: Institution
    product: Product
    provenance: Provenance
    erasures: int

    def write_day(self, prepared: PreparedDay, days: DayRange) -> Replaced | None:
        """What was written; None where a later state of the events already stands."""
        try:
            return self._write_day(prepared)
        except psycopg.errors.CheckViolation:
            # The institution was moved into a subtree of its own since its months were made.
            snapshot_months.ensure(self.database, self.institution, days)
            return self._write_day(prepared)

    def _write_day(self, prepared: PreparedDay) -> Replaced | None:
        day, product = prepared.source.day, self.product
        with self.database.transaction() as connection:
            wait = writers.write_alone if product.alone else writers.write_beside_others
            wait(connection, self.institution)
            # Asked after the wait: it may have been for an erasure.
            if writers.erasures(connection, self.institution) != self.erasures:
                raise _Overtaken
            claimed = ledger.claim(
                connection,
                self.institution,
                product.asset,
                day,
                through_revision=prepared.source.through_revision,
                boards=prepared.rows,
                run_id=self.provenance.run_id,
                code_version=self.provenance.code_version,
            )
            if claimed:
                replaced = product.replace(
                    connection, self.institution, product.type, day, prepared.columns()
                )
                months = {day, *replaced.other_months}
                raise_versions(connection, self.institution, ((product.type, m) for m in months))
                return replaced
            if product.alone:
                # Whoever wrote that later state has not done what this run was started for.
                raise _Overtaken
            return None

    def result(self, prepared: PreparedDay, replaced: Replaced | None, seconds: float) -> DayResult:
        """What is told of a day after its commit."""
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
            self.product.asset,
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
