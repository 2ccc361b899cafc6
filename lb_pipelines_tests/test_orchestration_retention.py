"""Retention through real runs: the asset of the archive, its checks, and the jobs."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from dagster import (
    AssetCheckKey,
    AssetKey,
    DagsterEventType,
    DagsterInstance,
    ExecuteInProcessResult,
    serialize_value,
)

from lb_pipelines.core.periods import DayRange
from lb_pipelines.db.engine import Database
from lb_pipelines.orchestration.assets.archive import ARCHIVE
from lb_pipelines.orchestration.config import LeaderboardsConfig
from lb_pipelines.orchestration.jobs import AGGREGATES, SNAPSHOTS
from lb_pipelines.orchestration.partitions import Rectangle
from lb_pipelines.settings import Settings
from lb_pipelines_tests.orchestration_district import START, District, add_event

BOARDS = DayRange(date(2024, 4, 1), date(2024, 4, 4))
LAST = DayRange(date(2024, 4, 7), date(2024, 4, 7))
SHORT = '{"leaderboardRetention": {"daily": 5}}'
"""On April 8, what is older than April 3: the daily boards of two days, four a day."""
WRONG = '{"leaderboardRetention": {"daily": "five"}}'
MOVE = LeaderboardsConfig(archive_dry_run=False)


@pytest.fixture
def district(database: Database, tmp_path: Path) -> Iterator[District]:
    with DagsterInstance.ephemeral() as instance:
        yield District(database, instance, Settings(home=tmp_path, start_day=START))


def boards(district: District, *ids: str) -> None:
    """The boards of a few days of these institutions, in one run."""
    result = district.run(Rectangle(BOARDS, ids[0], ids[-1]))
    assert result.success


def archive(
    district: District, id: str, config: LeaderboardsConfig | None = MOVE
) -> ExecuteInProcessResult:
    return district.run(Rectangle(LAST, id, id), job="archive_expired_snapshots", config=config)


def rows(district: District, status: str = "ARCHIVED") -> Counter[str]:
    """Live rows with a status by granularity."""
    with district.database.transaction() as connection:
        found = connection.execute(
            "SELECT time_granularity FROM lb.leaderboard_snapshots WHERE status = %s", (status,)
        ).fetchall()
    return Counter(granularity for (granularity,) in found)


def copies(district: District) -> int:
    with district.database.transaction() as connection:
        row = connection.execute(
            "SELECT count(*) FROM lb.archived_leaderboard_snapshots"
        ).fetchone()
    assert row is not None
    return int(row[0])


def shown(district: District, result: ExecuteInProcessResult, type: DagsterEventType) -> Any:
    """What a person sees of the one observation or materialization of a run."""
    [entry] = district.events(result, type)
    event = entry.asset_materialization or entry.asset_observation
    return event.description, {name: value.value for name, value in event.metadata.items()}


def execute(district: District, job: str, op: str, **config: object) -> ExecuteInProcessResult:
    return district.defs.resolve_job_def(job).execute_in_process(
        instance=district.instance,
        run_config={"ops": {op: {"config": config}}},
        raise_on_error=False,
    )


def observed(district: District, result: ExecuteInProcessResult) -> Any:
    assert result.success
    return shown(district, result, DagsterEventType.ASSET_OBSERVATION)


# The asset.


def test_started_by_hand_it_shows_its_plan_and_moves_nothing(district: District) -> None:
    district.add("a", metadata=SHORT)
    boards(district, "a")
    result = archive(district, "a", config=None)
    assert result.success
    assert district.recorded(result) == Counter()
    assert district.statuses(ARCHIVE) == {"green": set(), "failed": set()}
    assert copies(district) == 0
    assert rows(district) == {}
    said, plan = shown(district, result, DagsterEventType.ASSET_OBSERVATION)
    assert said == "archived_snapshots of a on 2024-04-07: dry run"
    assert plan["rows_to_archive"] == 8
    table = plan["plan"].splitlines()
    assert table[0] == (
        "| institution | granularity | cutoff | rows | bytes | from | to | held | restored |"
    )
    assert table[2].startswith("| a | daily | 2024-04-03 | 8 | ")
    assert table[2].endswith(" | 2024-04-01 | 2024-04-02 | 0 | 0 |")
    assert any(
        line.startswith("a daily before 2024-04-03: 8 rows, ") for line in district.log(result)
    )


def test_what_has_expired_as_of_the_day_after_is_archived(district: District) -> None:
    district.add("a", metadata=SHORT)
    boards(district, "a")
    first = archive(district, "a")
    assert first.success
    assert rows(district) == {"daily": 8}
    assert copies(district) == 8
    assert district.statuses(ARCHIVE) == {"green": {"2024-04-07|a"}, "failed": set()}
    said, metadata = shown(district, first, DagsterEventType.ASSET_MATERIALIZATION)
    assert said == (
        "archived_snapshots of a on 2024-04-07: 8 rows archived as of the day after, 8 by this run"
    )
    assert metadata["dagster/partition_row_count"] == 8
    assert metadata["written"] == metadata["daily"] == 8
    assert metadata["archived_bytes"] > 0
    table = metadata["archived"].splitlines()
    assert table[0] == (
        "| granularity | cutoff | archived | bytes | sweeps | by this run | ledger | digest |"
    )
    assert table[2].startswith("| daily | 2024-04-03 | 8 | ")
    assert re.search(r" \| 1 \| 8 \| 1 \| `[0-9a-f]{32}` \|$", table[2])
    with district.database.transaction() as connection:
        [ledger] = connection.execute(
            "SELECT today, cutoff, rows, started_by, run_id FROM lb.archive_runs"
        ).fetchall()
    assert ledger == (date(2024, 4, 8), date(2024, 4, 3), 8, "Dagster", first.run_id)

    # Again nothing moves, and the day still says what it holds.
    again = archive(district, "a")
    _, metadata = shown(district, again, DagsterEventType.ASSET_MATERIALIZATION)
    assert metadata["dagster/partition_row_count"] == 8
    assert metadata["written"] == 0


def test_only_the_granularities_that_are_wanted(district: District) -> None:
    district.add("a", metadata='{"leaderboardRetention": {"daily": 5, "weekly": 5}}')
    boards(district, "a")
    only = LeaderboardsConfig(archive_dry_run=False, archive_granularities=["weekly"])
    assert archive(district, "a", only).success
    assert rows(district) == {"weekly": 8}
    wrong = LeaderboardsConfig(archive_dry_run=False, archive_granularities=["hourly"])
    assert "'hourly' is no granularity. Give one or more of daily" in district.failure(
        archive(district, "a", wrong)
    )


def test_rewards_are_aggregated_ranked_and_what_is_old_archived(district: District) -> None:
    district.add("a", metadata='{"leaderboardRetention": {"daily": 1}}')
    result = district.run(Rectangle(BOARDS, "a", "a"), job="reward_processing")
    assert result.success
    assert {asset for asset, _ in district.recorded(result)} == {*AGGREGATES, *SNAPSHOTS, ARCHIVE}
    order = [asset for asset, _ in district.recorded(result)]
    assert order[0] == AGGREGATES[0]
    assert order[-1] == ARCHIVE
    # Of April 1 to 4, all but the last have expired by the day after it, each counted on its day.
    assert rows(district) == {"daily": 12}
    counts = {
        entry.asset_materialization.partition: entry.asset_materialization.metadata["written"].value
        for entry in district.events(result, DagsterEventType.ASSET_MATERIALIZATION)
        if entry.asset_materialization.asset_key == AssetKey(ARCHIVE)
    }
    assert counts == {"2024-04-01|a": 0, **{f"2024-04-0{day}|a": 4 for day in (2, 3, 4)}}


def test_the_daily_work_leaves_the_archive_alone(district: District) -> None:
    district.add("a", metadata='{"leaderboardRetention": {"daily": 1}}')
    result = district.run(Rectangle(BOARDS, "a", "a"))
    assert ARCHIVE not in {asset for asset, _ in district.recorded(result)}
    assert copies(district) == 0


def test_a_wrong_setting_stops_the_archive_of_one_institution_alone(district: District) -> None:
    district.add("a", metadata=SHORT)
    district.add("wrong", metadata=WRONG)
    district.add("z", metadata=SHORT)
    days = DayRange(BOARDS.first, LAST.last)
    result = district.run(Rectangle(days, "a", "z"), job="reward_processing")
    assert not result.success
    assert district.failure(result) == (
        "1 of 3 institutions failed. wrong (at archived_snapshots of 2024-04-01): Institution "
        "'wrong': metadata.leaderboardRetention.daily is 'five'. Set it to a whole number of days "
        "from 1 to 36500"
    )
    everywhere = {f"{day}|{id}" for day in days for id in ("a", "wrong", "z")}
    assert district.statuses("campus_snapshots") == {"green": everywhere, "failed": set()}
    failed = {key for key in everywhere if key.endswith("|wrong")}
    assert district.statuses(ARCHIVE) == {"green": everywhere - failed, "failed": failed}
    assert rows(district) == {"daily": 16}


def test_rows_that_others_hold_are_said_to_be_left(district: District) -> None:
    district.add("a", metadata=SHORT)
    boards(district, "a")
    with district.database.transaction() as holder:
        holder.execute(
            "SELECT FROM lb.leaderboard_snapshots WHERE snapshot_date = '2024-04-01'"
            " AND time_granularity = 'daily' FOR UPDATE"
        )
        result = archive(district, "a")
    assert result.success
    _, metadata = shown(district, result, DagsterEventType.ASSET_MATERIALIZATION)
    assert metadata["written"] == 4
    assert metadata["left_to_others"] == 4
    assert any(
        line.startswith("a daily before 2024-04-03: 4 expired rows were left")
        for line in district.log(result)
    )


def test_archived_boards_that_would_say_something_else_are_named(district: District) -> None:
    district.add("a", metadata=SHORT)
    boards(district, "a")
    archive(district, "a")
    add_event(district.database, "a", date(2024, 4, 1), 1000)
    kept = district.run(Rectangle(BOARDS, "a", "a"))
    warned = [line for line in district.log(kept) if "archived boards" in line]
    # The day after says who had been where on it.
    assert warned == [
        f"{asset} of a on {day}: archived boards stayed as they are, {count}, though 1 of them "
        "would now say something else. Set rematerialize_archived to renew them."
        for day in ("2024-04-01", "2024-04-02")
        for asset, count in zip(SNAPSHOTS, (2, 1, 1), strict=True)
    ]
    renewed = district.run(
        Rectangle(BOARDS, "a", "a"), config=LeaderboardsConfig(rematerialize_archived=True)
    )
    assert renewed.success
    assert not [line for line in district.log(renewed) if "archived boards" in line]
    with district.database.transaction() as connection:
        row = connection.execute("SELECT count(*) FROM lb.archive_revisions").fetchone()
    assert row == (6,)


# Its checks.


def check_alone(district: District, name: str, **tags: str) -> Any:
    """Run a check as the Checks page does; by partition (None: of no partition) its verdict."""
    key = AssetCheckKey(AssetKey(ARCHIVE), name)
    job = district.defs.resolve_implicit_global_asset_job_def().get_subset(
        asset_selection=set(), asset_check_selection={key}
    )
    result = job.execute_in_process(instance=district.instance, tags=tags)
    assert district.recorded(result) == Counter()
    return {
        entry.dagster_event.event_specific_data.partition: entry.dagster_event.event_specific_data
        for entry in district.events(result, DagsterEventType.ASSET_CHECK_EVALUATION)
    }


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("DELETE FROM lb.archived_leaderboard_snapshots", "marked ARCHIVED without a copy"),
        (
            "UPDATE lb.archived_leaderboard_snapshots SET content_hash = ''",
            "whose copy says something else",
        ),
        (
            "UPDATE lb.archived_leaderboard_snapshots"
            " SET entries = jsonb_set(entries, '{0,points}', '999')",
            "whose copy says something else",
        ),
    ],
    ids=["removed", "another hash", "altered"],
)
def test_a_sweep_is_checked_and_a_damaged_archive_is_found(
    district: District, damage: str, said: str
) -> None:
    district.add("a", metadata=SHORT)
    boards(district, "a")
    swept = archive(district, "a")
    [verdict] = district.events(swept, DagsterEventType.ASSET_CHECK_EVALUATION)
    data = verdict.dagster_event.event_specific_data
    assert (data.check_name, data.partition, data.passed) == (
        "archive_complete", "2024-04-07|a", True,
    )  # fmt: skip
    assert data.metadata["originals"].value == data.metadata["copies"].value == 8
    with district.database.transaction() as connection:
        connection.execute(damage + " WHERE original_id LIKE 'a:CAMPUS:%:2024-04-01'")
    verdicts = check_alone(district, "archive_complete", **Rectangle(LAST, "a", "a").tags)
    [(partition, data)] = verdicts.items()
    assert partition == "2024-04-07|a"
    assert not data.passed
    assert data.description.startswith(
        f"a: 1 snapshots are wrong (1 {said}), for example a:CAMPUS:one:daily:2024-04-01."
    )
    assert data.target_materialization_data.run_id == swept.run_id


def test_wrong_settings_are_named_by_a_check(district: District) -> None:
    district.add("a")
    district.add("wrong", metadata=WRONG)
    [verdict] = check_alone(district, "retention_settings").values()
    assert not verdict.passed
    assert "metadata.leaderboardRetention.daily is 'five'" in verdict.description
    district.set_metadata("wrong", SHORT)
    [verdict] = check_alone(district, "retention_settings").values()
    assert verdict.passed


# The jobs.


def test_a_restore_shows_its_plan_then_does_it(district: District) -> None:
    district.add("a", metadata=SHORT)
    boards(district, "a")
    archive(district, "a")
    selection = {"institution": "a", "types": ["CLASS"], "until": "2024-12-31"}
    said, plan = observed(district, execute(district, "restore_snapshots", "restore", **selection))
    assert said == "a: 4 archived snapshots would be active again until 2024-12-31"
    assert plan["rows_to_restore"] == 4
    assert rows(district) == {"daily": 8}
    done = execute(
        district, "restore_snapshots", "restore",
        **selection, dry_run=False, requested_by="the school board",
    )  # fmt: skip
    said, metadata = observed(district, done)
    assert metadata["rows_restored"] == 4
    assert rows(district) == {"daily": 4}
    with district.database.transaction() as connection:
        [ledger] = connection.execute(
            "SELECT rows, started_by, run_id FROM lb.archive_runs WHERE kind = 'RESTORE'"
        ).fetchall()
    assert ledger == (4, "the school board", done.run_id)
    # What was restored is named by the next plan, and stays.
    _, plan = shown(district, archive(district, "a", None), DagsterEventType.ASSET_OBSERVATION)
    assert plan["restored"] == 4
    assert plan["rows_to_archive"] == 0


@pytest.mark.parametrize(
    ("job", "op", "config", "said"),
    [
        (
            "restore_snapshots", "restore",
            {"institution": "a", "until": "soon"},
            "until is 'soon'. Write a day as 2024-09-01",
        ),
        (
            "restore_snapshots", "restore",
            {"institution": "a", "until": "2024-01-01", "dry_run": False},
            "A restore until 2024-01-01 would be over before it began",
        ),
        (
            "restore_snapshots", "restore",
            {"institution": "b", "until": "2025-01-01"},
            "Institution 'b' does not exist. Import it first",
        ),
        (
            "export_archive", "export_snapshots",
            {"institution": "a", "types": ["HOUSE"], "directory": "/nowhere"},
            "'HOUSE' is no type of a board. Give one of CLASS, SUBJECT, CAMPUS",
        ),
        (
            "legal_hold", "hold",
            {"institution": "a", "requested_by": "clerk", "reason": "x", "first_month": "May"},
            "first_month is 'May'. Write a month as 2024-09",
        ),
        (
            "legal_hold", "hold",
            {"institution": "a", "requested_by": "clerk"},
            "A legal hold on institution 'a' without a reason. Say why",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_with_a_remedy(
    district: District, job: str, op: str, config: dict[str, object], said: str
) -> None:
    district.add("a")
    result = execute(district, job, op, **config)
    assert not result.success
    assert said in district.failure(result)


def test_a_legal_hold_keeps_what_it_covers(district: District) -> None:
    district.add("a", metadata=SHORT)
    boards(district, "a")
    place = {"institution": "a", "requested_by": "clerk", "reason": "Case 17", "type": "CLASS"}
    said, metadata = observed(district, execute(district, "legal_hold", "hold", **place))
    assert said == "a: legal hold 1 was placed"
    assert "| 1 | CLASS | " in metadata["done"]
    _, plan = shown(district, archive(district, "a", None), DagsterEventType.ASSET_OBSERVATION)
    assert plan["held"] == 4
    archive(district, "a")
    assert rows(district) == {"daily": 4}
    release = {"institution": "a", "requested_by": "judge", "release": 1}
    said, metadata = observed(district, execute(district, "legal_hold", "hold", **release))
    assert said == "a: legal hold 1 was released"
    assert "by judge |" in metadata["done"]
    archive(district, "a")
    assert rows(district) == {"daily": 8}


def test_an_export_is_verified_and_imported_again(district: District, tmp_path: Path) -> None:
    district.add("a", metadata=SHORT)
    boards(district, "a")
    archive(district, "a")
    directory = str(tmp_path / "export")
    done = execute(
        district, "export_archive", "export_snapshots", institution="a", directory=directory
    )
    said, metadata = observed(district, done)
    assert said == f"a: 8 archived snapshots were exported to {directory} and verified"
    assert metadata["rows_exported"] == 8
    with district.database.transaction() as connection:
        connection.execute("DELETE FROM lb.archived_leaderboard_snapshots WHERE type = 'CLASS'")
    said, _ = observed(
        district, execute(district, "import_archive", "import_snapshots", directory=directory)
    )
    assert said.startswith(f"{directory} is whole: 8 archived snapshots of a in ")
    assert copies(district) == 4
    again = execute(
        district, "import_archive", "import_snapshots", directory=directory, dry_run=False
    )
    said, _ = observed(district, again)
    assert said == f"a: 4 archived snapshots were imported from {directory}, 4 were there already"
    assert copies(district) == 8
    file = next(Path(directory).rglob("*.parquet"))
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    damaged = execute(district, "import_archive", "import_snapshots", directory=directory)
    assert "Use another copy of this export" in district.failure(damaged)


def test_only_institutions_that_say_so_are_purged(district: District) -> None:
    purging = {
        "leaderboardRetention": dict.fromkeys(
            ("daily", "weekly", "monthly", "term", "all-time"), 1
        ),
        "leaderboardPurge": {"graceDays": 1},
    }
    district.add("a", metadata=json.dumps(purging))
    district.add("b", metadata=json.dumps({**purging, "leaderboardPurge": None}))
    district.add("wrong", metadata='{"leaderboardPurge": {"graceDays": 0}}')
    result = execute(district, "purge_snapshots", "purge")
    # The others' plans are told all the same.
    assert "Purging failed for wrong; the others are done." in district.failure(result)
    district.set_metadata("wrong", "{}")
    boards(district, "a", "wrong")
    for id in ("a", "b"):
        archive(district, id)
    with district.database.transaction() as connection:
        connection.execute(
            "UPDATE lb.archived_leaderboard_snapshots SET archived_at = '2024-04-20'"
        )
    # April has expired whole, and its grace is over.
    district.now = datetime(2024, 5, 10, tzinfo=UTC)
    _, plan = observed(district, execute(district, "purge_snapshots", "purge"))
    assert "a_CLASS_2024-04" in plan["plan"]
    assert "b_CLASS_2024-04" not in plan["plan"]
    assert rows(district)["daily"] == 32
    done = execute(district, "purge_snapshots", "purge", dry_run=False)
    _, metadata = observed(district, done)
    assert "| a_CLASS_2024-04 | DETACHED | " in metadata["done"]
    assert rows(district)["daily"] == 16
    assert copies(district) == 160


def test_an_erasure_takes_a_key_and_names_nobody(district: District) -> None:
    district.add("a", metadata=SHORT)
    boards(district, "a")
    archive(district, "a")
    with district.database.transaction() as connection:
        row = connection.execute(
            "SELECT student_key FROM lb.students WHERE id = 'student-2'"
        ).fetchone()
    assert row is not None
    config = {
        "institution": "a", "student_key": row[0], "reason": "A request", "requested_by": "clerk",
    }  # fmt: skip
    said, _ = observed(district, execute(district, "erase_student", "erase", **config))
    assert said == f"a: the student of key {row[0]} would be erased"
    named = "SELECT count(*) FROM lb.archived_leaderboard_snapshots WHERE entries::text LIKE %s"
    with district.database.transaction() as connection:
        assert connection.execute(named, ("%student-2%",)).fetchone() != (0,)
    done = execute(district, "erase_student", "erase", **config, dry_run=False)
    said, _ = observed(district, done)
    assert said.startswith(f"a: the student of key {row[0]} was erased")
    with district.database.transaction() as connection:
        assert connection.execute(named, ("%student-2%",)).fetchone() == (0,)


@pytest.fixture(autouse=True)
def nobody_is_named(district: District) -> Iterator[None]:
    """No erasure reaches Dagster's event log or a run's config: nothing in them names a student."""
    yield
    runs = district.instance.get_runs()
    assert runs
    for run in runs:
        told = [serialize_value(run)]
        told += [serialize_value(entry) for entry in district.instance.all_logs(run.run_id)]
        assert not [text for text in told if "student-" in text]
