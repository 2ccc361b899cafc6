"""A term of the Open University's data, backfilled as the UI does, against ten lines of pandas.

Needs a running `make run OULAD=DIR` (both kinds of points), or `make run` after
`lb import oulad DIR --points assessments`; `--points` says which. Launches the backfill of all
assets from October 2013 to June 2014 through GraphQL, waits for the daemon to finish it, prints
wall time and rows, and compares the top 10 of class BBB 2013J over all time on 2014-06-30 with the
same computed straight from the source files.

    python benchmarks/oulad_term.py --ui http://127.0.0.1:3000 --oulad DIR --points assessments
"""

from __future__ import annotations

import argparse
import json
import time
import urllib.request
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd

from lb_pipelines.core.periods import days_between
from lb_pipelines.db.engine import Database
from lb_pipelines.settings import Settings

INSTITUTION = "open_university"
FIRST, LAST = date(2013, 10, 1), date(2014, 6, 30)
ASSETS = (
    "point_aggregates",
    *(
        f"{type}_{kind}"
        for kind in ("snapshots", "trends")
        for type in ("class", "subject", "campus")
    ),
)

LAUNCH = """
mutation ($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message }
  }
}
"""
STATUS = """
query ($id: String!) {
  partitionBackfillOrError(backfillId: $id) {
    __typename
    ... on PartitionBackfill { status numPartitions runs(limit: 100) { status } }
  }
}
"""


def main() -> None:
    """Backfill, wait, count, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ui", required=True)
    parser.add_argument("--oulad", type=Path, required=True)
    parser.add_argument("--points", choices=("assessments", "both"), required=True)
    options = parser.parse_args()

    started = time.perf_counter()
    launched = ask(
        options.ui,
        LAUNCH,
        {
            "params": {
                "assetSelection": [{"path": [name]} for name in ASSETS],
                "partitionNames": [f"{day}|{INSTITUTION}" for day in days_between(FIRST, LAST)],
                "tags": [],
            }
        },
    )["launchPartitionBackfill"]
    print("launched", launched)
    while True:
        state = ask(options.ui, STATUS, {"id": launched["backfillId"]})["partitionBackfillOrError"]
        if not state["status"].startswith(("REQUESTED", "COMPLETING")):
            break
        time.sleep(1)
    seconds = time.perf_counter() - started
    print(f"backfill {state['status']}, {len(state['runs'])} runs, {seconds:.1f} s wall time")

    database = Database(Settings.from_env().database_url)
    with database.transaction() as connection:
        for table in ("leaderboard_snapshots", "leaderboard_trends"):
            count = connection.execute(f"SELECT count(*) FROM lb.{table}").fetchone()
            print(f"lb.{table}: {count[0] if count else 0:,} rows")
        row = connection.execute(
            "SELECT entries FROM lb.leaderboard_snapshots WHERE institution_id = %s"
            " AND type = 'CLASS' AND reference_id = 'BBB-2013J' AND time_granularity = 'all-time'"
            " AND snapshot_date = %s",
            (INSTITUTION, LAST),
        ).fetchone()
    assert row is not None
    ours = [(e["rank"], e["studentId"], e["points"]) for e in row[0][:10]]
    theirs = top_10(options.oulad, clicks=options.points == "both")
    for left, right in zip(ours, theirs, strict=True):
        print(left, right, "equal" if left == right else "DIFFERENT")
    assert ours == theirs


def top_10(directory: Path, clicks: bool) -> list[tuple[int, str, int]]:
    """Rank, student and points of the best ten, from the source files alone."""
    a = pd.read_parquet(directory / "assessments.parquet")
    s = pd.read_parquet(directory / "studentAssessment.parquet")
    d = pd.read_csv(directory / "presentation_dates.csv").set_index(
        ["code_module", "code_presentation"]
    )
    a = a[
        (a.code_module == "BBB") & (a.code_presentation == "2013J") & (a.assessment_type != "Exam")
    ]
    s = s.merge(a, on="id_assessment").dropna(subset=["score"])
    start = pd.Timestamp(d.loc[("BBB", "2013J"), "start_date"])
    s = s[start + pd.to_timedelta(s.date_submitted, unit="D") <= "2014-06-30"]
    s["points"] = (s.score * s.weight).round().astype(int)
    if clicks:
        v = pd.read_parquet(directory / "studentVle.parquet")
        v = v[(v.code_module == "BBB") & (v.code_presentation == "2013J")]
        v = v[start + pd.to_timedelta(v.date, unit="D") <= "2014-06-30"]
        s = pd.concat([s, v.rename(columns={"sum_click": "points"})])
    t = s.groupby("id_student").points.sum().reset_index()
    t["rank"] = t.points.rank(method="min", ascending=False).astype(int)
    t["id"] = t.id_student.astype(str)
    t = t.sort_values(["rank", "id"]).head(10)
    return list(t[["rank", "id", "points"]].itertuples(index=False, name=None))


def ask(ui: str, query: str, variables: dict[str, Any]) -> dict[str, Any]:
    """One GraphQL request."""
    request = urllib.request.Request(
        f"{ui}/graphql",
        json.dumps({"query": query, "variables": variables}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as response:
        answer = json.load(response)
    if answer.get("errors"):
        raise SystemExit(answer["errors"])
    data: dict[str, Any] = answer["data"]
    return data


if __name__ == "__main__":
    main()
