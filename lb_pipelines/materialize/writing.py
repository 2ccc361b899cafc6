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
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from typing import Protocol

import psycopg

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import ONE_DAY, DayRange
from lb_pipelines.core.windows import Boards
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.db.engine import Connection, Database
from lb_pipelines.db.repositories import ledger, snapshot_months, writers
from lb_pipelines.db.repositories.boards import Columns, Replaced
from lb_pipelines.db.repositories.versions import raise_versions
from lb_pipelines.errors import PassOvertaken
from lb_pipelines.materialize import passes
from lb_pipelines.materialize.passes import Origin, Pass
from lb_pipelines.materialize.results import DayResult, Provenance

Replace = Callable[[Connection, Institution, BoardType, date, Columns], Replaced]

TRIES = 5
"""Passes opened for a day before it is given up; each try but the last was overtaken."""

# Days handed over to be written while the next one is made: more would only take memory.
_AHEAD = 1


@dataclass(frozen=True)
class PreparedDay:
    """A day's rows, ready to be written: `columns` gives binary fields, `numbers` are for plots."""

    origin: Origin
    rows: int
    numbers: Mapping[str, int | float]
    columns: Callable[[], Columns]


class RowsOfDay(Protocol):
    """What a product makes of one day's boards."""

    def take(self, boards: Boards, baseline: Boards | None) -> None:
        """Make the rows of some granularities; the boards are not to be held."""
        ...

    def prepared(self) -> PreparedDay:
        """The rows of all boards that were taken."""
        ...


@dataclass(frozen=True)
class Product:
    """What is made of the boards of one type: an asset's rows, day by day.

    `rows_of` gives, for an open pass, what makes the rows of each of its days, which it is asked
    for in ascending order; `replace` puts a day's into the table. `alone`: nobody else writes the
    institution during a day, and a later state of the events is caught up with instead of left
    alone.
    """

    asset: str
    type: BoardType
    rows_of: Callable[[Database, Pass], Callable[[Origin], RowsOfDay]]
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
                if not (day.origin.day == first and writer.product.asset in done):
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
    """Day by day what each writer is to write, made when it is asked for.

    Boards are ranked once for all products of their type, and gone before the next granularity is.
    """
    makers = [
        (writer, writer.product.rows_of(database, opened[writer.product.type]))
        for writer in writers_
    ]
    for _ in days:
        for type, whole in opened.items():
            origin, by_granularity = next(whole.days)
            making = deque((w, rows_of(origin)) for w, rows_of in makers if w.product.type is type)
            for boards, baseline in by_granularity:
                for _, rows in making:
                    rows.take(boards, baseline)
                del boards, baseline, rows
            while making:
                writer, rows = making.popleft()
                prepared = rows.prepared()
                del rows
                yield writer, prepared
                # Not to be held while the next ones are made.
                del prepared
    # What passes do after their last day.
    for whole in opened.values():
        next(whole.days, None)


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
        day, product = prepared.origin.day, self.product
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
                through_revision=prepared.origin.through_revision,
                inputs=prepared.origin.inputs,
                boards=prepared.rows,
                run_id=self.provenance.run_id,
                code_version=self.provenance.code_version,
            )
            if claimed:
                replaced = product.replace(
                    connection, self.institution, product.type, day, prepared.columns()
                )
                if replaced.archived_differing:
                    ledger.note_archived_differing(
                        connection,
                        self.institution,
                        product.asset,
                        day,
                        replaced.archived_differing,
                    )
                raise_versions(connection, self.institution, [(product.type, day)])
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
            prepared.origin.day,
            rows=prepared.rows,
            written=done.written,
            seconds=seconds,
            numbers=numbers,
            superseded=replaced is None,
            through_revision=prepared.origin.through_revision,
            watermark=prepared.origin.watermark,
            **archived,
        )


def boards_by_granularity(boards: Iterable[Granularity]) -> dict[str, int | float]:
    """How many of the boards each granularity has, for plots: `daily_boards`, ...,
    `all_time_boards`.
    """
    counts = Counter(boards)
    return {f"{of.replace('-', '_')}_boards": counts[of] for of in Granularity}


def provenance_json(origin: Origin, provenance: Provenance) -> bytes:
    """Where a row comes from: run, code, and the state of the events."""
    return json.dumps(
        {
            "runId": provenance.run_id,
            "codeVersion": provenance.code_version,
            "watermark": origin.watermark and origin.watermark.isoformat(),
            "throughRevision": origin.through_revision,
        }
    ).encode()
