"""What must be true of the archive: nothing is missing in it, and everyone's settings can be used.

`archive_complete` is asked of the rows themselves, per partition: after a sweep of the days that it
moved, run alone of everything the institution has. `retention_settings` is about no partition; the
retention sensor evaluates it whenever its verdict changes.
"""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields

from dagster import (
    AssetCheckEvaluation,
    AssetCheckResult,
    AssetChecksDefinition,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetKey,
    MetadataValue,
    MultiPartitionsDefinition,
    PreviewWarning,
    asset_check,
)

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import DayRange
from lb_pipelines.core.retention import RetentionPolicy
from lb_pipelines.db.each_institution import ask_each
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import institutions
from lb_pipelines.errors import LeaderboardError
from lb_pipelines.orchestration.assets.archive import ARCHIVE, ArchivedDay
from lb_pipelines.orchestration.failures import failures_table
from lb_pipelines.orchestration.partitions import partition_key
from lb_pipelines.orchestration.resources import LeaderboardDatabase
from lb_pipelines.retention import verifying
from lb_pipelines.retention.verifying import ArchiveVerdict

COMPLETE = "archive_complete"
SETTINGS = "retention_settings"


@dataclass(frozen=True)
class ArchiveCheck:
    """The check of originals against copies."""

    spec: AssetCheckSpec


def archive_check(partitions: MultiPartitionsDefinition) -> ArchiveCheck:
    """The check of `archived_snapshots`, per partition."""
    with warnings.catch_warnings():
        # As of the checks of snapshots.
        warnings.simplefilter("ignore", PreviewWarning)
        return ArchiveCheck(
            AssetCheckSpec(
                COMPLETE,
                asset=ARCHIVE,
                description=(
                    "Every snapshot that is marked ARCHIVED has one copy in the archive with an "
                    "equal hash and content, none that is ACTIVE has one, and every copy has its "
                    "original or an entry of a purge or an import. After a sweep on the days "
                    "that it moved; run alone, on everything the institution has."
                ),
                partitions_def=partitions,
            )
        )


def evaluate_moved(
    check: ArchiveCheck,
    database: Database,
    institution: Institution,
    result: ArchivedDay,
) -> Iterator[AssetCheckEvaluation]:
    """The verdict on the days of which this sweep has moved snapshots."""
    verdict = _sum(verifying.verify(database, institution, days) for days in result.moved_days)
    yield from _evaluations(check, institution, DayRange(result.day, result.day), verdict)


def evaluate_all(
    check: ArchiveCheck,
    database: Database,
    institution: Institution,
    days: DayRange,
) -> Iterator[AssetCheckEvaluation]:
    """The verdict on the whole archive of an institution, which every partition of it shares."""
    yield from _evaluations(check, institution, days, verifying.verify(database, institution))


def retention_settings_check() -> AssetChecksDefinition:
    """The check of everyone's settings, as it is run from the Checks page."""

    @asset_check(
        asset=AssetKey(ARCHIVE),
        name=SETTINGS,
        description=(
            "The retention and purge settings of every active institution can be used. One that "
            "is wrong stops the retention of its institution, and nothing else: its boards are "
            "made, the other institutions are archived. The retention sensor says so whenever "
            "this changes."
        ),
    )
    def _settings(leaderboard_database: LeaderboardDatabase) -> AssetCheckResult:
        found = settings_evaluation(wrong_settings(leaderboard_database.database))
        return AssetCheckResult(
            passed=found.passed,
            severity=found.severity,
            description=found.description,
            metadata=found.metadata,
        )

    return _settings


def settings_evaluation(wrong: Mapping[str, LeaderboardError]) -> AssetCheckEvaluation:
    """The verdict on everyone's settings, given what is wrong with whose."""
    return AssetCheckEvaluation(
        asset_key=AssetKey(ARCHIVE),
        check_name=SETTINGS,
        passed=not wrong,
        severity=AssetCheckSeverity.ERROR,
        description=" ".join(f"{error}." for _, error in sorted(wrong.items()))
        or "The settings of all active institutions can be used.",
        metadata={
            "institutions": len(wrong),
            "wrong": MetadataValue.md(failures_table(dict(sorted(wrong.items())))),
        },
    )


def wrong_settings(database: Database) -> dict[str, LeaderboardError]:
    """By institution id what is wrong with the settings that its retention needs."""
    with database.transaction() as connection:
        active = institutions.active(connection)
    return ask_each(active, lambda one: (one.zone, RetentionPolicy.of(one))).failures


def _sum(verdicts: Iterator[ArchiveVerdict]) -> ArchiveVerdict:
    """Verdicts on different days as one."""
    counts = [field.name for field in fields(ArchiveVerdict) if field.name != "example"]
    total = dict.fromkeys(counts, 0)
    example = None
    for verdict in verdicts:
        for name in counts:
            total[name] += getattr(verdict, name)
        example = example or verdict.example
    return ArchiveVerdict(**total, example=example)


def _evaluations(
    check: ArchiveCheck,
    institution: Institution,
    days: DayRange,
    verdict: ArchiveVerdict,
) -> Iterator[AssetCheckEvaluation]:
    for day in days:
        key = partition_key(day, institution.id)
        yield AssetCheckEvaluation(
            asset_key=check.spec.asset_key,
            check_name=check.spec.name,
            partition=key,
            passed=not verdict.wrong,
            severity=AssetCheckSeverity.ERROR,
            description=_spoken(institution, verdict) if verdict.wrong else None,
            metadata={
                "originals": verdict.originals,
                "copies": verdict.copies,
                "missing": verdict.missing,
                "differing": verdict.differing,
                "active_with_copy": verdict.active_with_copy,
                "doubled": verdict.doubled,
                "unexplained": verdict.unexplained,
            },
        )


def _spoken(institution: Institution, verdict: ArchiveVerdict) -> str:
    found = (
        (verdict.missing, "marked ARCHIVED without a copy"),
        (verdict.differing, "whose copy says something else"),
        (verdict.active_with_copy, "ACTIVE although they have a copy"),
        (verdict.doubled, "archived more than once"),
        (verdict.unexplained, "copied, with neither original nor purge nor import"),
    )
    what = ", ".join(f"{count:,} {words}" for count, words in found if count)
    return (
        f"{institution.id}: {verdict.wrong:,} snapshots are wrong ({what}), for example "
        f"{verdict.example}. Somebody has written to the tables by hand: materialize these days "
        "with rematerialize_archived, or bring the copies back from an export."
    )
