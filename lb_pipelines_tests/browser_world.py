"""All of the product, started as `make run` starts it, over a district that a story can follow.

The database is one of the tests' server and holds 80 days of three invented institutions; that they
were invented by an earlier start is noted, so that this one has Dagster materialize the last 14
days. The daemon is `browser_daemon`, which waits less between its rounds.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import date
from io import StringIO
from pathlib import Path

from rich.console import Console

from lb_pipelines.clock import utc_now
from lb_pipelines.core.periods import ONE_DAY, DayRange, month_start
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import input_changes, institutions
from lb_pipelines.run import Supervisor
from lb_pipelines.settings import DAGSTER_SCHEMA, Settings
from lb_pipelines.sources import district
from lb_pipelines.supervisor.demo import DAYS_SHOWN
from lb_pipelines_tests.waiting import wait_until

KEPT_LONG = {"leaderboardRetention": {"daily": 120, "weekly": 120}}
# Away from the ports that other tests of the same run look for.
_FIRST_PORT = 34_000


@dataclass(frozen=True)
class World:
    """The running product; `said` is what it printed while it started."""

    database: Database
    address: str
    said: str
    last_day: date

    @property
    def shown(self) -> DayRange:
        """The days that a first start materializes."""
        return DayRange(self.last_day - (DAYS_SHOWN - 1) * ONE_DAY, self.last_day)

    @property
    def month(self) -> DayRange:
        """The last calendar month that ends two days before them or earlier."""
        last = month_start(self.shown.first - ONE_DAY) - ONE_DAY
        return DayRange(month_start(last), last)

    def set(self, institution_id: str, **settings: object) -> None:
        """Change `metadata` of an institution; None takes a setting away."""
        gone = [key for key, value in settings.items() if value is None]
        new = {key: value for key, value in settings.items() if value is not None}
        with self.database.transaction() as connection:
            connection.execute(
                "UPDATE lb.institutions SET metadata = (metadata || %s::jsonb) - %s::text[]"
                " WHERE id = %s",
                (json.dumps(new), gone, institution_id),
            )

    def wait_until_current(self) -> None:
        """Until the sensor has had everything made again that is stale, and its runs have ended."""
        wait_until(self._is_current, pause=0.5)

    def _is_current(self) -> bool:
        with self.database.transaction() as connection:
            every = institutions.every(connection)
            stale = input_changes.find_stale_days(connection, every)
            running = connection.execute(
                f"SELECT FROM {DAGSTER_SCHEMA}.runs"
                " WHERE status NOT IN ('SUCCESS', 'FAILURE', 'CANCELED')"
            ).fetchall()
        return not stale and not running

    def add_late_event(self, institution_id: str, day: date, amount: int) -> None:
        """An event like one that there is, of that day, that comes in now."""
        with self.database.transaction() as connection:
            connection.execute(
                "INSERT INTO lb.student_points (occurred_at, institution_key, student_key,"
                " class_key, subject_key, campus_key, amount, event_id)"
                " SELECT occurred_at, institution_key, student_key, class_key, subject_key,"
                " campus_key, %s, gen_random_uuid() FROM lb.student_points"
                " JOIN lb.institutions i USING (institution_key)"
                " WHERE i.id = %s AND (occurred_at AT TIME ZONE i.time_zone)::date = %s"
                " AND campus_key IS NOT NULL AND student_points.status = 'ACTIVE'"
                " ORDER BY event_id LIMIT 1",
                (amount, institution_id, day),
            )

    def archived(self, institution_id: str) -> int:
        """Rows of an institution in the archive."""
        with self.database.transaction() as connection:
            row = connection.execute(
                "SELECT count(*) FROM lb.archived_leaderboard_snapshots WHERE institution_id = %s",
                (institution_id,),
            ).fetchone()
        assert row is not None
        return row[0]


@contextmanager
def started(database: Database, home: Path) -> Iterator[World]:
    """The product over this database, which is migrated and empty, as long as the block lasts."""
    spec = district.District(
        end_day=district.last_day_over(utc_now()),
        students=240,
        classes=12,
        subjects=6,
        campuses=3,
        days=80,
        events_per_day=1_000,  # So that no day of anybody's is without.
    )
    district.generate(database, spec)
    with database.transaction() as connection:
        # Nothing expires until the story says so.
        connection.execute(
            "UPDATE lb.institutions SET metadata = metadata || %s", (json.dumps(KEPT_LONG),)
        )
    noted = {"district": {"end_day": spec.end_day.isoformat(), "complete": True}}
    (home / "demo.json").write_text(json.dumps(noted))
    settings = Settings(
        home=home,
        external_url=database.url.render_as_string(hide_password=False),
        ui_port=_FIRST_PORT,
    )
    said = StringIO()
    before = dict(os.environ)
    os.environ["LB_START_DAY"] = spec.first_day.isoformat()
    try:
        with ExitStack() as stack:
            supervisor = _Supervisor(settings, Console(file=said, width=200), stack)
            supervisor.bring_up(None)
            address = said.getvalue().split()[-1]
            yield World(database, address, said.getvalue(), spec.end_day)
    finally:
        os.environ.clear()
        os.environ.update(before)


class _Supervisor(Supervisor):
    def _start(self, name: str, module: str, *arguments: str) -> None:
        quick = "lb_pipelines_tests.browser_daemon"
        super()._start(name, quick if name == "daemon" else module, *arguments)
