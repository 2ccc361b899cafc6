"""Whatever changes what can be read raises the version of its months: no writer is left out."""

from __future__ import annotations

import random
from datetime import date, timedelta
from pathlib import Path

import pytest

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import DayRange, month_start
from lb_pipelines.core.selection import ArchiveSelection
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import versions
from lb_pipelines.materialize import aggregates, snapshots, trends
from lb_pipelines.materialize.results import Provenance
from lb_pipelines.retention.actor import Actor
from lb_pipelines.retention.erasing import erase
from lb_pipelines.retention.exporting import export_archive
from lb_pipelines.retention.importing import import_export
from lb_pipelines.retention.purging import purge
from lb_pipelines.retention.restoring import restore
from lb_pipelines.retention.sweeping import sweep
from lb_pipelines_tests import worlds
from lb_pipelines_tests.test_staleness import change, some_changes
from lb_pipelines_tests.versions_held import hold_writers_to_versions

CLERK = Actor("clerk")
LATER = date(2040, 1, 1)
EVERYTHING = ArchiveSelection()


@pytest.mark.parametrize("leaf_budget", [3_000, 0], ids=["own subtree", "shared"])
def test_every_writer_raises_the_versions_of_what_it_changes(
    database: Database, tmp_path: Path, leaf_budget: int
) -> None:
    database = Database(database.url, leaf_budget=leaf_budget)
    school = worlds.make_school(
        5,
        moment=("Europe/London", date(2023, 3, 30)),
        span=12,
        events=60,
        metadata={"leaderboardPurge": {"graceDays": 1}},
    )
    institution = worlds.load(database, school)
    days = DayRange(*worlds.span_of(school))
    assert month_start(days.first) != month_start(days.last)
    hold_writers_to_versions(database)

    _make(database, institution, days)
    school = change(database, institution, school, some_changes(random.Random(1), school, 1))
    _make(database, institution, DayRange(days.first, days.first))
    _make(database, institution, days)
    _sweep(database, institution)
    restored = restore(database, institution, EVERYTHING, LATER + timedelta(days=9), LATER, CLERK)
    assert restored.rows
    _sweep(database, institution)
    change(database, institution, school, some_changes(random.Random(2), school, 2))
    _make(database, institution, days, renewed=True)
    _sweep(database, institution)
    assert purge(database, institution, LATER, CLERK, tmp_path)

    export_archive(database, institution, EVERYTHING, tmp_path / "export", CLERK)
    with database.transaction() as connection:
        connection.execute("DELETE FROM lb.archived_leaderboard_snapshots WHERE type = 'CAMPUS'")
        versions.raise_versions(connection, institution, [(BoardType.CAMPUS, day) for day in days])
    assert import_export(database, tmp_path / "export", CLERK, LATER).rows
    assert erase(
        database, institution, school.students[0], reason="Asked", today=LATER, actor=CLERK
    ).counts["archived"]
    database.close()


def _make(
    database: Database, institution: Institution, days: DayRange, *, renewed: bool = False
) -> None:
    run = Provenance("run")
    list(aggregates.materialize(database, institution, days, run))
    for type in BoardType:
        list(
            snapshots.materialize(
                database,
                institution,
                type,
                days,
                run,
                rematerialize_archived=renewed,
                today=LATER,
            )
        )
        list(trends.materialize(database, institution, type, days, run))


def _sweep(database: Database, institution: Institution) -> None:
    for granularity in Granularity:
        sweep(database, institution, granularity, LATER + timedelta(days=20), CLERK)
