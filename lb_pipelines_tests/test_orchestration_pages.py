"""What the asset pages show, of real runs: the same keys and types on every day, columns as the
database has them, and nothing that an erasure would have to reach.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
from dagster import AssetKey, DagsterEventType, DagsterInstance, serialize_value

from lb_pipelines.core.periods import DayRange
from lb_pipelines.db.engine import Database
from lb_pipelines.errors import InvalidEnvironment
from lb_pipelines.insight import inline
from lb_pipelines.orchestration.assets import snapshots
from lb_pipelines.orchestration.assets.leaderboards import leaderboard_families
from lb_pipelines.orchestration.insight import INSIGHT, WEEKLY_INSIGHT, insight_key
from lb_pipelines.orchestration.jobs import DAILY_ASSETS
from lb_pipelines.orchestration.partitions import RANGE_END_TAG, RANGE_START_TAG, Rectangle
from lb_pipelines.settings import OWNERS, Settings
from lb_pipelines_tests.commands import run, told
from lb_pipelines_tests.conftest import libpq_url
from lb_pipelines_tests.orchestration_district import START, District

# Before the first event; and with a past, a baseline of seven days before included.
BEFORE = DayRange(date(2024, 3, 24), date(2024, 3, 24))
DAYS = DayRange(date(2024, 4, 1), date(2024, 4, 2))
MAY_BE_NULL = {
    "retained_share",
    "rank_correlation",
    "spearman_rho",
    "watermark",
    "through_revision",
}
FAMILIES = leaderboard_families(START)


@pytest.fixture
def district(database: Database, tmp_path: Path) -> Iterator[District]:
    with DagsterInstance.ephemeral() as instance:
        yield District(database, instance, Settings(home=tmp_path, start_day=START))


def told_by(district: District, result) -> dict[str, dict[str, dict]]:
    """By asset and partition: the metadata."""
    found: dict[str, dict[str, dict]] = defaultdict(dict)
    for entry in district.events(result, DagsterEventType.ASSET_MATERIALIZATION):
        event = entry.asset_materialization
        found[event.asset_key.to_user_string()][event.partition] = dict(event.metadata)
    return found


def test_every_day_of_an_asset_has_the_same_keys_of_the_same_types(district: District) -> None:
    district.add("a", "b")
    # Expires at once, so that some days of the archive move rows and others do not.
    district.set_metadata("b", '{"leaderboardRetention": {"daily": 1}}')
    daily: dict[str, dict[str, dict]] = defaultdict(dict)
    rewards: dict[str, dict[str, dict]] = defaultdict(dict)
    for days in (BEFORE, DAYS):
        for job, found in (("daily_leaderboards", daily), ("reward_processing", rewards)):
            for asset, told_of in told_by(
                district, district.run(Rectangle(days, "a", "b"), job=job)
            ).items():
                found[asset] |= told_of
    assert set(daily) | set(rewards) == {asset.name for asset in FAMILIES}
    for asset in FAMILIES:
        days = [*daily[asset.name].values(), *rewards[asset.name].values()]
        assert len(days) in (2 * 3, 4 * 3)
        types = {
            key: {type(day[key]).__name__ for day in days}
            for key in {key for day in days for key in day}
            if all(key in day for day in days)
        }
        assert all(set(day) == set(types) for day in days), asset.name
        for key, kinds in types.items():
            allowed = kinds - {"NullMetadataValue"} if key in MAY_BE_NULL else kinds
            assert len(allowed) == 1, (asset.name, key, kinds)
        charts = [day["chart"].value for day in days]
        assert max(map(len, charts)) <= inline.LONGEST
        assert any(chart.startswith("![chart](data:image/svg+xml,") for chart in charts)
    aggregated = daily["point_aggregates"]
    assert aggregated["2024-03-24|a"]["watermark"].value is None
    first, last = (
        daily["class_snapshots"][f"{day}|a"]["through_revision"].value
        for day in ("2024-03-24", "2024-04-02")
    )
    # Of all days up to the board's own, some of which were aggregated after it.
    assert first < last >= aggregated["2024-04-02|a"]["through_revision"].value


def test_a_chart_that_fails_costs_the_day_its_picture_and_no_more(
    district: District, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> str:
        raise RuntimeError("no ink")

    district.add("a")
    monkeypatch.setattr(snapshots.inline, "distribution", broken)
    day = DayRange(DAYS.last, DAYS.last)
    result = district.run(Rectangle(day, "a", "a"))
    assert result.success
    assert set(district.recorded(result)) == {(name, f"{DAYS.last}|a") for name in DAILY_ASSETS}
    [(_, shown)] = told_by(district, result)["class_snapshots"].items()
    assert shown["chart"].value is None
    assert shown["largest_boards"].value is None
    assert shown["dagster/partition_row_count"].value == 10
    assert any(
        line == "class_snapshots of a on 2024-04-02 is written, but its page lacks partition_key, "
        "chart, largest_boards: RuntimeError: no ink"
        for line in district.log(result)
    )


@pytest.mark.parametrize("asset", FAMILIES, ids=lambda asset: asset.name)
def test_columns_and_keys_are_those_of_the_database(database: Database, asset) -> None:
    metadata = asset.spec.metadata
    table, schema = metadata["dagster/table_name"], metadata["dagster/column_schema"]
    with database.transaction() as connection:
        real = connection.execute(
            "SELECT attname, format_type(atttypid, atttypmod), NOT attnotnull FROM pg_attribute"
            " WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped",
            (table,),
        ).fetchall()
        [(key,)] = connection.execute(
            "SELECT pg_get_constraintdef(oid) FROM pg_constraint"
            " WHERE conrelid = %s::regclass AND contype = 'p'",
            (table,),
        ).fetchall()
    declared = {
        (
            column.name,
            column.type.replace("timestamptz", "timestamp with time zone"),
            column.constraints.nullable,
        )
        for column in schema.columns
    }
    assert declared == set(real)
    assert schema.constraints.other[0] == key
    assert [c.name for c in schema.columns if "primary key" in c.constraints.other] == [
        c.name for c in schema.columns if c.name in re.split(r"\W+", key)
    ]
    assert all(column.description for column in schema.columns)


def test_every_page_has_a_contract_owners_kinds_and_ways_on(district: District) -> None:
    district.settings = Settings(
        home=Path("/nowhere"), start_day=START, owners=("team:data", "head@school.example")
    )
    graph = district.defs.resolve_asset_graph()
    keys = [AssetKey(name) for name in [*(asset.name for asset in FAMILIES), INSIGHT]]
    assert set(keys) == set(graph.materializable_asset_keys)
    for key in keys:
        node = graph.get(key)
        sentences = re.split(r"(?<=\.) (?=[A-Z])", node.description)
        assert len(sentences) == 3, (key, sentences)
        assert node.owners == ["team:data", "head@school.example"]
        assert {"postgres", "python"} <= node.kinds
        assert node.group_name != "default"
        seen = [v.asset_key for v in node.metadata.values() if hasattr(v, "asset_key")]
        assert seen
        assert set(seen) <= set(keys) - {key}


def test_owners_come_from_the_environment() -> None:
    assert Settings.from_env({"LB_HOME": "/x"}).owners == OWNERS
    given = Settings.from_env({"LB_OWNERS": " team:data , head@school.example,"})
    assert given.owners == ("team:data", "head@school.example")
    for wrong in ("data", "team:", "head@school", "team:a b"):
        with pytest.raises(InvalidEnvironment, match="LB_OWNERS"):
            Settings.from_env({"LB_OWNERS": wrong})


def test_a_week_in_pictures_names_no_student_and_a_week_that_was_not_made_is_named(
    district: District, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    district.add("a", "b")
    with district.database.transaction() as connection:
        connection.execute("UPDATE lb.students SET name = 'Name of ' || id")
    assert district.run(
        Rectangle(DayRange(date(2024, 3, 29), date(2024, 4, 7)), "a", "a"),
        assets=["point_aggregates", "class_snapshots"],
    ).success
    monday = date(2024, 4, 1)
    result = district.defs.resolve_job_def(WEEKLY_INSIGHT).execute_in_process(
        instance=district.instance,
        tags={
            RANGE_START_TAG: insight_key(monday, "a"),
            RANGE_END_TAG: insight_key(monday, "b"),
        },
        raise_on_error=False,
    )
    assert not result.success
    assert district.failure(result) == (
        "1 of 2 weeks could not be drawn. b 2024-04-01: The boards of 2024-04-07 have not been "
        "made at b. Materialize that day, or ask for one that is there"
    )
    [(partition, shown)] = told_by(district, result)[INSIGHT].items()
    assert partition == "a|2024-04-01"
    assert shown["pictures"].value == 4
    for name in ("classes", "movement", "distribution", "participation"):
        assert "](data:image/png;base64," in shown[name].value
        assert "UTC" in shown[name].value
    text = [serialize_value(entry) for entry in district.instance.all_logs(result.run_id)]
    assert not [line for line in text if "student-" in line]
    # The same as files; names only when asked for, and no file is written over.
    monkeypatch.setenv("LB_DATABASE_URL", libpq_url(district.database.url))
    monkeypatch.setenv("LB_HOME", str(tmp_path / "home"))
    asked = ("insight", tmp_path / "files", "--institution", "a", "--json")
    drawn = told(run(*asked))
    assert drawn["day"] == "2024-04-07"
    files = {picture["picture"]: Path(picture["file"]) for picture in drawn["pictures"]}
    assert set(files) == {"classes", "movement", "distribution", "participation"}
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files.values())
    assert "is there already" in run(*asked[:-1]).stderr
    plain = files["movement"].read_bytes()
    assert told(run(*asked, "--force"))["pictures"]
    assert files["movement"].read_bytes() == plain
    told(run(*asked, "--force", "--names"))
    assert files["movement"].read_bytes() != plain
    empty = told(run(*asked[:-1], "--reference", "b", "--day", "2024-02-20", "--json"), 1)
    assert empty["error"] == "NotMaterialized"


def test_an_institution_without_points_is_answered_by_sentences(district: District) -> None:
    district.add("a")
    day = date(2024, 2, 18)
    assert district.run(Rectangle(DayRange(day, day), "a", "a")).success
    monday = date(2024, 2, 12)
    key = insight_key(monday, "a")
    result = district.defs.resolve_job_def(WEEKLY_INSIGHT).execute_in_process(
        instance=district.instance, partition_key=key
    )
    [(_, shown)] = told_by(district, result)[INSIGHT].items()
    assert shown["pictures"].value == 0
    assert shown["movement"].value == "Nobody is ranked on any class on 2024-02-18."
    assert "no weekly board of a class" in shown["classes"].value
