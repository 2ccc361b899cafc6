"""Dagster's run queue at a start: runs that nobody works on any more, runs that are wanted.

The only part of the supervisor that imports Dagster; a start with nothing to do goes without.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from pathlib import Path

from dagster import DagsterInstance

from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import institutions
from lb_pipelines.orchestration import requests
from lb_pipelines.orchestration.jobs import DAILY_LEADERBOARDS
from lb_pipelines.orchestration.partitions import (
    INSTITUTION,
    Rectangle,
    find_utc_offsets,
    neighbour_order,
    rectangles,
)

_SERVED_BY = ".dagster/grpc_info"


def fail_lost_runs(dagster_home: Path, run_ids: Sequence[str], code_server: str) -> list[Rectangle]:
    """End runs whose process ended with an earlier code server at this address; what they covered.

    Dagster's launcher cannot tell that they are dead, so they would stay "started" and keep their
    institution's place in the queue for ever. The daemon tries a failed run again.
    """
    lost: list[Rectangle] = []
    with DagsterInstance.from_config(str(dagster_home)) as instance:
        for run_id in run_ids:
            run = instance.get_run_by_id(run_id)
            served_by = json.loads(run.tags.get(_SERVED_BY, "{}")) if run is not None else {}
            if run is not None and served_by.get("socket") == code_server:
                instance.report_run_failed(run, "Its process ended when Dagster was stopped.")
                covered = Rectangle.of_run(run.tags) if requests.makes_boards(run) else None
                lost += [covered] if covered is not None else []
    return lost


def launch_missing(
    dagster_home: Path,
    database: Database,
    missing: Mapping[str, Sequence[date]],
    launch: Callable[[str, Mapping[str, str]], str],
    now: datetime,
    retried: Sequence[Rectangle] = (),
) -> list[str]:
    """Launch as few runs as make all boards that are missing; the ids of these runs.

    One process loads Dagster once, which takes longer than the boards of a small district.
    `launch` takes a job and tags. Days that a queued run will make are left to it, and those of
    lost runs (`retried`) to the daemon.
    """
    with DagsterInstance.from_config(str(dagster_home)) as instance:
        with database.transaction() as connection:
            active = institutions.active(connection)
        present = set(instance.get_dynamic_partitions(INSTITUTION))
        # The sensor of institutions says what is wrong with a zone.
        offsets, _ = find_utc_offsets((i for i in active if i.id not in present), now)
        instance.add_dynamic_partitions(INSTITUTION, neighbour_order(offsets.items()))
        order = instance.get_dynamic_partitions(INSTITUTION)
        working = requests.at_work(instance, order)
    for rectangle in retried:
        for institution_id in rectangle.institutions(order):
            working.update((institution_id, day) for day in rectangle.days)
    wanted = {
        institution_id: [day for day in days if not working[institution_id, day]]
        for institution_id, days in missing.items()
    }
    return [launch(DAILY_LEADERBOARDS, rectangle.tags) for rectangle in rectangles(wanted, order)]
