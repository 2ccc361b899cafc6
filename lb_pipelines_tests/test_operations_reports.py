"""What is missing and what a backfill would touch: by jobs in Dagster and at the command line."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import Any

import pytest
from dagster import AssetKey, DagsterEventType, ExecuteInProcessResult

from lb_pipelines.core.periods import ONE_DAY, DayRange
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import institutions
from lb_pipelines.materialize import aggregates
from lb_pipelines.materialize.results import Provenance
from lb_pipelines.orchestration.jobs import DAILY_ASSETS
from lb_pipelines.orchestration.partitions import INSTITUTION, Rectangle
from lb_pipelines.settings import Settings
from lb_pipelines_tests.commands import run, told
from lb_pipelines_tests.orchestration_district import (
    DAYS,
    START,
    District,
    add_event,
    add_institution,
    instance_in,
)

MADE = DayRange(date(2024, 4, 1), date(2024, 4, 4))
LATER = DayRange(date(2024, 4, 5), DAYS.last)
BROKEN = '{"leaderboardRanking": "best"}'
ALL = tuple(DAILY_ASSETS)


@pytest.fixture
def district(database: Database, tmp_path, monkeypatch: pytest.MonkeyPatch) -> Iterator[District]:
    monkeypatch.setenv("LB_DATABASE_URL", database.url.render_as_string(hide_password=False))
    monkeypatch.setenv("LB_START_DAY", START.isoformat())
    with instance_in(database, tmp_path) as instance:
        yield District(database, instance, Settings(home=tmp_path, start_day=START))


def looked(district: District, job: str, **config: Any) -> ExecuteInProcessResult:
    [node] = district.defs.resolve_job_def(job).nodes
    return district.defs.resolve_job_def(job).execute_in_process(
        instance=district.instance,
        run_config={"ops": {node.name: {"config": config}}},
        raise_on_error=False,
    )


def on_the_page(result: ExecuteInProcessResult) -> dict[str, Any]:
    [output] = [e for e in result.all_events if e.event_type_value == "STEP_OUTPUT"]
    return {name: value.value for name, value in output.step_output_data.metadata.items()}


def found(answer: dict[str, Any]) -> dict[tuple[str, str, str], set[tuple[str, str]]]:
    """(institution, state, run) to the partitions, told one by one."""
    partitions: dict[tuple[str, str, str], set[tuple[str, str]]] = {}
    for one in answer["institutions"]:
        for finding in one["findings"]:
            key = one["institutionId"], finding["state"], finding["runId"] or ""
            each = partitions.setdefault(key, set())
            for part in finding["days"]:
                day = date.fromisoformat(part["first"])
                while day <= date.fromisoformat(part["last"]):
                    each.update((asset, str(day)) for asset in finding["assets"])
                    day += ONE_DAY
    return partitions


def rectangle(assets: Any, days: Any) -> set[tuple[str, str]]:
    return {(asset, str(day)) for asset in assets for day in days}


@pytest.mark.present
def test_what_is_missing_by_both_records_and_where_they_disagree(district: District) -> None:
    database = district.database
    for id, metadata in (("a", "{}"), ("broken", BROKEN), ("nobody", "{}")):
        add_institution(database, id, students=3, metadata=metadata)
    district.instance.add_dynamic_partitions(INSTITUTION, ["a", "broken", "nobody"])
    run("missing")  # Before anything is there.
    failed = district.run(Rectangle(MADE, "a", "broken"))
    everything = told(run("missing", "--json"))
    through = ("--to", str(DAYS.last), "--json")
    before = DayRange(DAYS.first, MADE.first - ONE_DAY)
    answer = told(run("missing", *through))
    assert everything["expected"] > answer["expected"]  # Days after the last event are over too.
    assert answer["expected"] == 3 * len(DAYS) * len(ALL)
    assert found(answer) == {
        # A pass aggregates the days before it, of which Dagster knows nothing.
        ("a", "missing", ""): rectangle(ALL[1:], [*before, *LATER]) | rectangle(ALL[:1], LATER),
        ("a", "not in Dagster", ""): rectangle(ALL[:1], before),
        ("broken", "missing", ""): rectangle(ALL, [*before, *LATER]),
        ("broken", "failed", failed.run_id): rectangle(ALL, MADE),
        ("nobody", "missing", ""): rectangle(ALL, DAYS),
    }
    # A late event, rows that are lost, days that are made without Dagster.
    add_event(database, "a", date(2024, 4, 3), 5)
    with database.transaction() as connection:
        connection.execute(
            "DELETE FROM lb.materialized_days WHERE asset = 'class_trends' AND day = '2024-04-01'"
        )
        nobody = institutions.find(connection, "nobody")
    list(aggregates.materialize(database, nobody, MADE, Provenance("by hand")))
    answer = told(run("missing", *through))
    state = found(answer)
    assert state["a", "stale", ""] == rectangle(ALL[:1], [date(2024, 4, 3)]) | rectangle(
        ALL[1:], [date(2024, 4, 3), date(2024, 4, 4)]
    )
    assert state["a", "not in the database", ""] == {("class_trends", "2024-04-01")}
    assert ("class_trends", "2024-04-01") not in state["a", "missing", ""]
    assert state["nobody", "not in Dagster", ""] == rectangle(ALL[:1], MADE)
    # Made again from the events, the boards of that day and those after are as stale as before.
    with database.transaction() as connection:
        a = institutions.find(connection, "a")
    list(aggregates.materialize(database, a, MADE, Provenance("by hand")))
    state = found(told(run("missing", *through)))
    assert state["a", "stale", ""] == rectangle(ALL[1:], [date(2024, 4, 3), date(2024, 4, 4)])
    # The page of the job says the same, and the assets' pages plot it.
    result = looked(district, "missing_partitions", last_day=str(DAYS.last))
    page = on_the_page(result)
    totals = told(run("missing", *through))["totals"]
    assert {name.replace("_", " "): page[name] for name in (
        "missing", "stale", "failed", "not_in_dagster", "not_in_the_database",
        "stale_in_the_archive")
    } == {state.lower(): number for state, number in totals.items()}  # fmt: skip
    assert (
        f"| broken | failed | all | 2024-04-01 to 2024-04-04 | 28 | {failed.run_id} |"
        in (page["findings"])
    )
    [observed] = district.instance.fetch_observations(AssetKey("class_trends"), limit=1).records
    observation = observed.asset_observation
    assert observation is not None
    assert observation.metadata["not_in_the_database"].value == 1
    # People read it too; who cannot be looked at is named, and the rest is told.
    assert "2024-03-25 to 2024-03-31" in run("missing", "--to", DAYS.last).stdout
    with database.transaction() as connection:
        connection.execute("UPDATE lb.institutions SET time_zone = 'Mars/Base' WHERE id = 'broken'")
    refused = told(run("missing", *through), exit_code=1)
    assert [one["institutionId"] for one in refused["refused"]] == ["broken"]
    assert len(refused["institutions"]) == 2


@pytest.mark.present
def test_a_preview_says_what_the_backfill_then_does(district: District) -> None:
    database = district.database
    add_institution(database, "a", students=4)
    add_institution(database, "new", students=4)
    district.instance.add_dynamic_partitions(INSTITUTION, ["a", "new"])
    district.run(Rectangle(MADE, "a", "a"))
    days = ("--from", str(MADE.last), "--to", str(MADE.last + 3 * ONE_DAY))
    answer = told(run("preview", *days, "--json"))
    a, new = answer["institutions"]
    assert a["toAggregate"] == 0
    assert new["toAggregate"] == (MADE.last - DAYS.first).days
    by_asset = {one["asset"]: one for one in a["assets"]}
    assert set(by_asset) == set(ALL)
    for one in by_asset.values():
        assert (one["partitions"], one["made"], one["measured"]) == (4, 1, 4)
        assert one["seconds"] > 0
        assert one["bytes"] > one["rows"] > 0
    assert all(
        (one["rows"], one["bytes"], one["seconds"]) == (None, None, None) for one in new["assets"]
    )
    # What it took the last times is what Dagster has written down.
    took = [
        record.asset_materialization.metadata["seconds"].value
        for record in district.instance.fetch_materializations(
            AssetKey("class_snapshots"), limit=10
        ).records
        if record.asset_materialization is not None
    ]
    assert by_asset["class_snapshots"]["seconds"] == pytest.approx(sum(took) / len(took) * 4)
    # The rows are those that the backfill writes.
    result = district.run(Rectangle(DayRange(MADE.last, MADE.last + 3 * ONE_DAY), "a", "a"))
    written = sum(
        entry.asset_materialization.metadata["dagster/partition_row_count"].value
        for entry in district.events(result, DagsterEventType.ASSET_MATERIALIZATION)
        if entry.asset_materialization.asset_key == AssetKey("class_snapshots")
    )
    assert written == by_asset["class_snapshots"]["rows"]
    # What is archived is not touched, what is held is named; days that are not over are none.
    with database.transaction() as connection:
        connection.execute("UPDATE lb.institutions SET metadata = '{\"leaderboardRetention\":"
            " {\"daily\": 1}}' WHERE id = 'a'")  # fmt: skip
    run("archive", "run", "--institution", "a", "--granularity", "daily", "--execute")
    run("hold", "place", "--institution", "a", "--type", "CLASS", "--reason", "Case 1")
    page = on_the_page(
        looked(
            district,
            "backfill_preview",
            assets=["class_snapshots", "campus_snapshots"],
            institutions=["a"],
            first_day=str(MADE.last),
            last_day=str(district.now.date() + 2 * ONE_DAY),
        )
    )
    assert page["days_not_over"] == 3
    assert page["archived_rows"] == 4 * 2 + 4
    assert page["held_rows"] == 4 * 2
    assert "rows are in the archive and would stay as they are" in page["in_short"]
    assert page["preview"].splitlines()[0].startswith("| institution | asset | days | partitions |")
    assert "no basis" in run("preview", *days, "--institution", "new").stdout
    for wrong in (("--asset", "class"), ("--institution", "strange")):
        assert told(run("preview", *days, *wrong, "--json"), exit_code=1)["remedy"]
    refused = looked(district, "backfill_preview", first_day="2024-04-02", last_day="2024-04-01")
    assert "runs backwards" in district.failure(refused)


@pytest.mark.present
def test_without_dagster_the_ledger_alone_is_told_of(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LB_DATABASE_URL", database.url.render_as_string(hide_password=False))
    add_institution(database, "a", students=3)
    answer = told(run("missing", "--to", str(DAYS.last), "--json"))
    assert not answer["dagster"]
    assert found(answer) == {("a", "missing", ""): rectangle(ALL, DAYS)}
    assert "by the database alone" in run("missing", "--to", str(DAYS.last)).stdout
