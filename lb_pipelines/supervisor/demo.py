"""The data of a first start, and the days of it that have no boards yet.

A district is generated into an embedded database without institutions; a database that a person
has named gets nothing that the person has not asked for. What was begun is noted in a file, so
that a start that was killed is completed by the next.
"""

from __future__ import annotations

import json
from datetime import date, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import ONE_DAY, DayRange, closed_through, local_day
from lb_pipelines.core.words import BoardType
from lb_pipelines.db import queries
from lb_pipelines.db.each_institution import ask_each, with_short_waits
from lb_pipelines.db.engine import Connection, Database
from lb_pipelines.db.repositories import institutions, progress
from lb_pipelines.materialize import aggregates, snapshots, trends
from lb_pipelines.sources import district, oulad
from lb_pipelines.sources.progress import shown

DAYS_SHOWN = 14
ASSETS = [
    aggregates.ASSET,
    *(module.asset_name(type) for module in (snapshots, trends) for type in BoardType),
]


class Demo:
    """What `make run` has brought into the database; `note` is the file that remembers it."""

    def __init__(self, database: Database, note: Path) -> None:
        self.database = database
        self._note = note
        self._known: dict[str, Any] = json.loads(note.read_text()) if note.exists() else {}

    def __bool__(self) -> bool:
        return bool(self._known)

    def bring(
        self, *, oulad_directory: Path | None, invent: bool, now: datetime, console: Console
    ) -> str:
        """Import or generate what is asked for and not yet there; in words, what there is.

        `invent` allows a generated district where there is no institution; its last day is over at
        `now`.
        """
        with self.database.transaction() as connection:
            present = {institution.id for institution in institutions.every(connection)}
        with shown(console) as show:
            if oulad_directory is not None and oulad.INSTITUTION_ID not in present:
                # All or nothing in one transaction: the institution is there when all of it is.
                oulad.import_directory(self.database, oulad_directory, progress=show)
            if oulad_directory is not None:
                self._remember("oulad", str(oulad_directory))
            unfinished = self._known.get("district", {}).get("complete") is False
            if oulad_directory is None and (unfinished or (invent and not present)):
                end_day = self._known.get("district", {}).get("end_day")
                spec = district.District.small(now)
                if end_day is not None:
                    spec = district.District(end_day=date.fromisoformat(end_day))
                asked = {"end_day": spec.end_day.isoformat(), "complete": False}
                self._remember("district", asked)
                district.generate(self.database, spec, progress=show)
                self._remember("district", asked | {"complete": True})
        return self._spoken()

    def missing(self, now: datetime) -> dict[str, list[date]]:
        """By institution those of its last 14 days with events that lack any board."""
        database = with_short_waits(self.database)

        def find_missing(institution: Institution) -> list[date]:
            with database.transaction() as connection:
                days = _last_days(connection, institution, now)
                if days is None:
                    return []
                complete = progress.complete_days(connection, ASSETS, days)
            return [day for day in days if day not in complete.get(institution.id, ())]

        with database.transaction() as connection:
            active = institutions.active(connection)
        # What is wrong with the others, their runs and the sensors say.
        missing, _ = ask_each(active, find_missing)
        return {id: days for id, days in missing.items() if days}

    def _spoken(self) -> str:
        with self.database.transaction() as connection:
            names = [institution.id for institution in institutions.every(connection)]
        if not names:
            return "none yet: `lb import csv DIR` or `lb generate` brings some"
        return f"{len(names)} institutions: {', '.join(names[:5])}{' ...' * (len(names) > 5)}"

    def _remember(self, key: str, value: object) -> None:
        self._known[key] = value
        draft = self._note.with_suffix(".draft")
        draft.write_text(json.dumps(self._known))
        draft.replace(self._note)


def _last_days(connection: Connection, institution: Institution, now: datetime) -> DayRange | None:
    """The 14 days up to the last closed day with an event; None where there is none to show."""
    event = queries.recent.last_event(connection, institution_key=institution.key, before=now)
    if event is None:
        return None
    last = min(local_day(event, institution.zone), closed_through(now, institution.zone))
    return DayRange(last - (DAYS_SHOWN - 1) * ONE_DAY, last)
