"""Where the time of a day goes when Dagster runs it: start, planning, compute, recording, checks.

    python -m benchmarks.dagster_share --url postgresql://.../empty_database [--scale 100]

Makes a district of 20 institutions (1/scale of the full size; what Dagster does depends on the
number of partitions alone), has the day before materialized, then makes `daily_leaderboards` of
one day in a process of its own, on Dagster's storage in PostgreSQL as dagster.yaml names it, and
prints the seconds of each part; the parts add up to the wall clock. What is not here is the wait
in the queue.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from functools import wraps
from pathlib import Path
from typing import Any

from lb_pipelines.db import migrate
from lb_pipelines.db.engine import Database
from lb_pipelines.settings import DAGSTER_SCHEMA, dagster_storage_url
from lb_pipelines.sources import district

DAY = date(2026, 3, 3)
ONE_DAY = timedelta(days=1)
PARTS = {
    "start": "Python and the definitions loaded",
    "planning": "the run created, every partition announced",
    "compute": "aggregates, snapshots and trends made",
    "shown": "what a person sees of a partition looked up",
    "checks": "checks evaluated",
    "recording": "events written",
    "end": "the process ended",
    "rest": "everything else within the run",
}


def main() -> None:
    """Fill the database once, then measure so many runs of the day."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--scale", type=int, default=100)
    parser.add_argument("--institutions", type=int, default=20)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--child", type=float, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child is not None:
        child(given.child, given.url)
        return
    prepare(given.url, given.scale, given.institutions)
    with tempfile.TemporaryDirectory() as home:
        shutil.copyfile(
            Path(__file__).resolve().parents[1] / "dagster.yaml", Path(home) / "dagster.yaml"
        )
        measured = [measure(given.url, home) for _ in range(given.runs + 1)][1:]
    tell(sorted(measured, key=lambda one: one["wall"])[len(measured) // 2], len(measured))


def prepare(url: str, scale: int, institutions: int) -> None:
    """The district, unless it is there."""
    database = Database(url)
    migrate.upgrade(database)
    with database.transaction() as connection:
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {DAGSTER_SCHEMA}")
        row = connection.execute("SELECT count(*) FROM lb.institutions").fetchone()
    if row is None or not row[0]:
        spec = district.District(
            end_day=DAY + ONE_DAY,
            institutions=institutions,
            students=500_000 // scale,
            classes=max(5_000 // scale, institutions),
            subjects=max(400 // scale, institutions),
            campuses=max(100 // scale, institutions),
            events_per_day=750_000 // scale,
            days=30,
        )
        district.generate(database, spec)
    database.close()


def measure(url: str, home: str) -> dict[str, float]:
    """One run in a process of its own: seconds by part."""
    began = time.time()
    done = subprocess.run(
        [sys.executable, __file__, "--url", url, "--child", str(began)],
        env={
            **os.environ,
            "DAGSTER_HOME": home,
            "LB_DATABASE_URL": url,
            "LB_DAGSTER_DATABASE_URL": dagster_storage_url(url),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    wall = time.time() - began
    parts: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    parts["end"] = wall - parts.pop("until")
    counted = {name: parts[name] for name in PARTS if name != "rest"}
    return {
        **counted,
        "rest": wall - sum(counted.values()),
        "wall": wall,
        "partitions": parts["partitions"],
        "events": parts["events"],
        "megabytes": parts["megabytes"],
    }


def tell(parts: dict[str, float], of: int) -> None:
    """The table."""
    print(f"\nMedian of {of} runs by wall clock: {parts['partitions']:.0f} partitions recorded,")
    print(f"{parts['events']:.0f} events, {parts['megabytes']:.0f} MB at most\n")
    print("| part | seconds | share | |\n|---|--:|--:|---|")
    for name, meaning in PARTS.items():
        print(f"| {name} | {parts[name]:.2f} | {parts[name] / parts['wall']:.0%} | {meaning} |")
    print(f"| **wall clock** | **{parts['wall']:.2f}** | | |")
    inside = parts["wall"] - parts["compute"] - parts["start"] - parts["end"]
    print(f"\nDagster's share without the start: {inside:.2f} s, compute: {parts['compute']:.2f} s")
    print(f"{1000 * parts['recording'] / parts['partitions']:.2f} ms of recording a partition")


class Watch:
    """Seconds by part; what one part does within another is counted for the inner one alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        self._open = ["rest"]
        self._since = time.perf_counter()

    def enter(self, part: str) -> None:
        self._count()
        self._open.append(part)

    def leave(self) -> None:
        self._count()
        self._open.pop()

    def _count(self) -> None:
        now = time.perf_counter()
        self.seconds[self._open[-1]] += now - self._since
        self._since = now

    def call(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its time counted for a part."""

        @wraps(function)
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.enter(part)
            try:
                return function(*args, **kwargs)
            finally:
                self.leave()

        return counted

    def iterate(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The generator function, the time of its own counted for a part."""

        @wraps(function)
        def counted(*args: Any, **kwargs: Any) -> Iterator[Any]:
            generator = function(*args, **kwargs)
            while True:
                self.enter(part)
                try:
                    item = next(generator)
                except StopIteration:
                    return
                finally:
                    self.leave()
                yield item

        return counted


def child(began: float, url: str) -> None:
    """The run: the same as `dagster job execute`, with a watch on its parts."""
    import resource

    import dagster
    from dagster._core.instance.runs import run_domain

    from lb_pipelines.core.periods import DayRange
    from lb_pipelines.db.repositories import institutions
    from lb_pipelines.orchestration.assets import family, leaderboards
    from lb_pipelines.orchestration.partitions import INSTITUTION, Rectangle

    watch = Watch()
    leaderboards.evaluate = watch.iterate("checks", leaderboards.evaluate)  # type: ignore[attr-defined]
    made = family.LeaderboardAsset.__init__

    @wraps(made)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        object.__setattr__(self, "materialize", watch.iterate("compute", self.materialize))
        object.__setattr__(self, "show", watch.call("shown", self.show))

    family.LeaderboardAsset.__init__ = init  # type: ignore[method-assign]
    manager = dagster.DagsterLogManager
    manager.log = watch.call("recording", manager.log)  # type: ignore[method-assign]
    runs = run_domain.RunDomain
    runs.create_run = watch.call("planning", runs.create_run)  # type: ignore[method-assign]

    from lb_pipelines.orchestration.build import build_defs

    defs = build_defs()
    job = defs.resolve_job_def("daily_leaderboards")
    with dagster.DagsterInstance.get() as instance:
        database = Database(url)
        with database.transaction() as connection:
            ids = sorted(one.id for one in institutions.every(connection))
        database.close()
        instance.add_dynamic_partitions(INSTITUTION, ids)
        order = instance.get_dynamic_partitions(INSTITUTION)
        started = time.time() - began
        watch._count()
        watch.seconds["rest"] = 0.0
        tags = Rectangle(DayRange(DAY, DAY), order[0], order[-1]).tags
        result = job.execute_in_process(instance=instance, tags=tags)
        watch._count()
        recorded = instance.all_logs(
            result.run_id, of_type=dagster.DagsterEventType.ASSET_MATERIALIZATION
        )
        every = len(instance.all_logs(result.run_id))
    print(
        json.dumps(
            {
                **watch.seconds,
                "start": started,
                "until": time.time() - began,
                "partitions": len(recorded),
                "events": every,
                "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }
        )
    )


if __name__ == "__main__":
    main()
