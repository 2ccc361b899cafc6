"""What the pages cost a day: figures, table and chart of each materialization, against the boards.

Makes the boards of `--days` days of an institution that has its events (nothing is changed by
making them again) and asks of each day for what its page shows, with its chart, without it, and
with a chart by matplotlib instead; everything in this process, so that only ratios say something.

    python benchmarks/page_cost.py --url postgresql://... --institution ID --last 2014-03-30
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date, timedelta

from dagster import AssetMaterialization, serialize_value

from lb_pipelines.core.distribution import unpack
from lb_pipelines.core.periods import DayRange
from lb_pipelines.core.words import BoardType
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import glances, institutions
from lb_pipelines.insight import figures, series
from lb_pipelines.materialize.results import Provenance
from lb_pipelines.orchestration.assets.family import Order
from lb_pipelines.orchestration.assets.leaderboards import leaderboard_families
from lb_pipelines.orchestration.assets.pages import day_metadata
from lb_pipelines.orchestration.jobs import DAILY_ASSETS


def main() -> None:
    """Measure and print, a line an asset."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--institution", required=True)
    parser.add_argument("--last", type=date.fromisoformat, required=True)
    parser.add_argument("--days", type=int, default=14)
    given = parser.parse_args()
    database = Database(given.url)
    days = DayRange(given.last - timedelta(days=given.days - 1), given.last)
    with database.transaction() as connection:
        institution = institutions.find(connection, given.institution)
    order = Order(Provenance("benchmark"), given.last)
    total = {"boards": 0.0, "pages": 0.0, "bare": 0.0, "bytes": 0, "bare bytes": 0}
    print(f"{'asset':20} {'boards':>8} {'page':>8} {'bare':>8}   bytes  bare bytes (a day)")
    for asset in leaderboard_families(given.last - timedelta(days=2_000)):
        if asset.name not in DAILY_ASSETS:
            continue
        started = time.perf_counter()
        results = list(asset.materialize(database, institution, days, order))
        boards = time.perf_counter() - started
        spent, size = {}, {}
        bare = replace(asset, show=lambda *_: {})
        for name, one in (("pages", asset), ("bare", bare), ("pages", asset), ("bare", bare)):
            started = time.perf_counter()
            said = [day_metadata(one, database, institution, r, print) for r in results]
            spent[name] = time.perf_counter() - started
            size[name] = sum(
                len(serialize_value(AssetMaterialization(asset.name, metadata=m))) for m in said
            )
        count = len(results)
        print(
            f"{asset.name:20} {boards / count * 1e3:6.1f}ms {spent['pages'] / count * 1e3:6.2f}ms"
            f" {spent['bare'] / count * 1e3:6.2f}ms {size['pages'] // count:7,}"
            f" {size['bare'] // count:11,}"
        )
        total["boards"] += boards / count
        total["pages"] += spent["pages"] / count
        total["bare"] += spent["bare"] / count
        total["bytes"] += size["pages"] // count
        total["bare bytes"] += size["bare"] // count
    print(
        f"a day: pages take {total['pages'] / total['boards']:.1%} of the boards' time "
        f"({total['bare'] / total['boards']:.1%} without table and chart), "
        f"{total['bytes']:,} bytes ({total['bare bytes']:,})"
    )
    with database.transaction() as connection:
        [*_, board] = glances.largest_snapshots(
            connection, institution, BoardType.CLASS, given.last
        )
    histogram = series.histogram(unpack(board.distribution))
    figures.png(figures.histogram_figure(histogram, "warm", ""))
    with timed() as seconds:
        drawn = figures.png(figures.histogram_figure(histogram, "t", "s"))
    print(
        f"one chart by matplotlib: {seconds[0] * 1e3:.0f} ms, {len(drawn) * 4 // 3:,} bytes; seven "
        f"a day would take {7 * seconds[0] / total['boards']:.1f} x the boards' time"
    )


@contextmanager
def timed() -> Iterator[list[float]]:
    """The seconds that the block took, at its end."""
    seconds: list[float] = []
    started = time.perf_counter()
    yield seconds
    seconds.append(time.perf_counter() - started)


if __name__ == "__main__":
    main()
