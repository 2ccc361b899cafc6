"""The project itself, as a run makes a day: two institutions at a time, each its aggregates, then
all of its boards in one pass."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.district import all_institutions
from benchmarks.harness import Stopwatch
from lb_pipelines.core.concurrently import Ended, side_by_side
from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import DayRange
from lb_pipelines.core.words import BoardType
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import institutions
from lb_pipelines.materialize import aggregates, snapshots, writing
from lb_pipelines.materialize.results import DayResult, Provenance

# As in a run (orchestration.assets.leaderboards), which to import would load all of Dagster.
INSTITUTIONS_AT_ONCE = 2


def run(database: Database, days: DayRange, scratch: Path) -> dict[str, float]:
    """Aggregates and snapshots of all institutions."""
    watch = Stopwatch()
    provenance = Provenance("benchmark")
    products = [snapshots.product(type, provenance) for type in BoardType]

    def make(institution: Institution) -> Iterator[DayResult]:
        yield from aggregates.materialize(database, institution, days, provenance)
        yield from writing.write(database, institution, products, days, provenance)

    work = {one.id: partial(make, one) for one in all_institutions(database)}
    with database.transaction() as connection:
        students = institutions.sizes(connection, work)
    for done in side_by_side(work, INSTITUTIONS_AT_ONCE, students):
        if isinstance(done, Ended) and done.error is not None:
            raise done.error
    watch.mark("aggregates and snapshots")
    return watch.parts
