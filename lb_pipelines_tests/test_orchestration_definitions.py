"""What Dagster and a person are told of the project, held against the database itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from dagster import (
    AssetKey,
    AssetsDefinition,
    DefaultScheduleStatus,
    DefaultSensorStatus,
    Definitions,
)

from lb_pipelines.orchestration.assets.archive import ARCHIVE
from lb_pipelines.orchestration.build import build_defs
from lb_pipelines.orchestration.jobs import AGGREGATES, DAILY_ASSETS, SNAPSHOTS
from lb_pipelines.orchestration.resources import LeaderboardDatabase
from lb_pipelines.settings import Settings


@pytest.fixture(scope="module")
def defs() -> Definitions:
    return build_defs(settings=Settings(home=Path("/nowhere")))


@pytest.fixture(scope="module")
def leaderboards(defs: Definitions) -> AssetsDefinition:
    return defs.resolve_assets_def(AssetKey("point_aggregates"))


def test_everything_resolves(defs: Definitions) -> None:
    Definitions.validate_loadable(defs)


@pytest.mark.parametrize("asset", [*DAILY_ASSETS, ARCHIVE])
def test_an_asset_says_what_it_is(leaderboards: AssetsDefinition, asset: str) -> None:
    spec = leaderboards.specs_by_key[AssetKey(asset)]
    assert spec.description
    assert len(spec.description.split(". ")) >= 3
    assert spec.owners
    assert spec.kinds == {"postgres", "python"} | ({"numpy"} if asset != ARCHIVE else set())
    assert spec.group_name in {"aggregates", "snapshots", "trends", "archive"}


def test_boards_and_archive_are_checked_by_partition(leaderboards: AssetsDefinition) -> None:
    checked = {spec.asset_key.to_user_string() for spec in leaderboards.check_specs}
    assert checked == {*AGGREGATES, *SNAPSHOTS, ARCHIVE}
    for spec in leaderboards.check_specs:
        assert spec.partitions_def == leaderboards.partitions_def
        assert spec.description


def test_whatever_can_be_started_says_what_it_does_and_is_on(defs: Definitions) -> None:
    repository = defs.get_repository_def()
    named = {job for job in repository.job_names if not job.startswith("__")}
    assert named == {
        "daily_leaderboards", "reward_processing", "partition_maintenance",
        "archive_expired_snapshots", "restore_snapshots", "purge_snapshots", "export_archive",
        "import_archive", "legal_hold", "erase_student", "dagster_history_pruning",
        "missing_partitions", "backfill_preview", "weekly_insight",
    }  # fmt: skip
    for job in named:
        assert repository.get_job(job).description
    for schedule in repository.schedule_defs:
        assert schedule.description
        assert schedule.default_status == DefaultScheduleStatus.RUNNING
    for sensor in repository.sensor_defs:
        assert sensor.description
        assert sensor.default_status == DefaultSensorStatus.RUNNING


def test_a_resource_can_be_swapped() -> None:
    other = LeaderboardDatabase(url="postgresql://elsewhere/db")
    swapped = build_defs(
        settings=Settings(home=Path("/nowhere")),
        resource_overrides={"leaderboard_database": other},
    )
    assert swapped.resources == {"leaderboard_database": other}
    assert other.database is other.database
