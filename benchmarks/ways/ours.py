"""The project itself: the verbs of `materialize`, in the order in which a run's assets use them."""

from __future__ import annotations

from pathlib import Path

from benchmarks.district import all_institutions
from benchmarks.harness import Stopwatch
from lb_pipelines.core.periods import DayRange
from lb_pipelines.core.words import BoardType
from lb_pipelines.db.engine import Database
from lb_pipelines.materialize import aggregates, snapshots
from lb_pipelines.materialize.results import Provenance


def run(database: Database, days: DayRange, scratch: Path) -> dict[str, float]:
    """Aggregates and snapshots of all institutions."""
    watch = Stopwatch()
    provenance = Provenance("benchmark")
    for institution in all_institutions(database):
        for _ in aggregates.materialize(database, institution, days, provenance):
            pass
        watch.mark("aggregates")
        for type in BoardType:
            for _ in snapshots.materialize(database, institution, type, days, provenance):
                pass
            watch.mark(f"{type} snapshots")
    return watch.parts
