"""A process that materializes, says how far it has got, and may be killed at any moment.

It is forked from a server of processes that has loaded everything beforehand, so that it begins
in milliseconds; nothing of the test's own connections or threads is in it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from datetime import date
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from lb_pipelines.core.periods import DayRange
from lb_pipelines.core.words import BoardType
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import institutions
from lb_pipelines.materialize import aggregates, snapshots, trends
from lb_pipelines.materialize.results import Provenance
from lb_pipelines_tests.waiting import LIMIT_SECONDS

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([__name__])

READY, DONE = "ready", "done"


class Worker:
    """A process that makes all assets of an institution's days, one after the other; with
    `renew_as_of`, its day, snapshots in the archive too. Where `words` is given, it does not go on
    after so many and waits to be killed, however late that comes.

    `next()` gives what it says: `READY`, a materialized day each, at last `DONE`; None once it
    has ended without a word. An error inside it is raised here.
    """

    def __init__(
        self,
        url: str,
        institution_id: str,
        days: DayRange,
        renew_as_of: date | None = None,
        *,
        words: int | None = None,
    ) -> None:
        self._hears, says = _context.Pipe(duplex=False)
        self.process = _context.Process(
            target=_work,
            args=(says, url, institution_id, days.first, days.last, renew_as_of, words),
            daemon=True,
        )
        self.process.start()
        says.close()

    def next(self) -> str | None:
        if not self._hears.poll(LIMIT_SECONDS):
            raise TimeoutError("the process says nothing: does it wait for a lock?")
        try:
            kind, text = self._hears.recv()
        except EOFError:
            return None
        if kind == "error":
            raise AssertionError(f"the process failed:\n{text}")
        return str(text)

    def finish(self) -> int:
        """Let it go on to its end; gives how many days it still materialized."""
        days = 0
        while (said := self.next()) not in (DONE, None):
            days += said != READY
        self.process.join()
        assert self.process.exitcode == 0
        return days

    def kill(self) -> bool:
        """SIGKILL; gives whether that hit it at work."""
        self.process.kill()
        self.process.join()
        said: str | None = READY
        while said not in (DONE, None):
            said = self.next()
        self._hears.close()
        return self.process.exitcode == -9 and said is None


def _work(
    says: Connection,
    url: str,
    institution_id: str,
    first: date,
    last: date,
    renew_as_of: date | None,
    words: int | None,
) -> None:
    said = 0

    def say(word: str) -> None:
        nonlocal said
        while said == words:
            signal.pause()
        says.send(("said", word))
        said += 1

    try:
        say(READY)
        database = Database(url)
        with database.transaction() as connection:
            institution = institutions.find_active(connection, institution_id)
        days, run = DayRange(first, last), Provenance(f"process {os.getpid()}")
        for result in aggregates.materialize(database, institution, days, run):
            say(str(result.day))
        renewing = partial(
            snapshots.materialize,
            rematerialize_archived=renew_as_of is not None,
            today=renew_as_of,
        )
        for make in (renewing, trends.materialize):
            for type in BoardType:
                arguments: tuple[Any, ...] = (database, institution, type, days, run)
                for result in make(*arguments):
                    say(f"{type} {result.day}")
        say(DONE)
    except BaseException:
        says.send(("error", traceback.format_exc()))
