"""What must be true of aggregates and snapshots, asked of the rows themselves after they were made.

Per partition, and evaluated by the op that makes the assets, on the days it has just written: a
step of its own would be skipped with the op's outputs. Run alone, from an asset's Checks page,
they look at all of every board of the partitions chosen. Which they are, how severe and what to do
about each, stands here and in docs/checks.md; what is read, in `materialize.verifying`.

A check that blocks keeps what builds on a wrong day from being made. In a step that makes all
assets Dagster leaves that to the step: the op asks `blocks` of each verdict.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from dagster import (
    AssetCheckEvaluation,
    AssetCheckSeverity,
    AssetCheckSpec,
    MetadataValue,
    MultiPartitionsDefinition,
    PreviewWarning,
)

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import DayRange
from lb_pipelines.core.words import BoardType
from lb_pipelines.db.engine import Database
from lb_pipelines.materialize import aggregates, verifying
from lb_pipelines.materialize.snapshots import asset_name
from lb_pipelines.materialize.verifying import SAMPLE, Check, EventSums, Verdict
from lb_pipelines.orchestration.assets.family import markdown_table
from lb_pipelines.orchestration.partitions import partition_key

ON_TIME = "on_time"
"""The check of every daily asset that is about no partition; it lies in `freshness`."""
SHOWN = 10
"""Findings of a day that are shown; the number is of all."""

_DAY_AGAIN = (
    "Materialize the day again, which writes these boards anew; if it stays, the code is wrong."
)


@dataclass(frozen=True)
class Rule:
    """What a person is told of a check: what is true when it passes, and what to do when not."""

    means: str
    remedy: str
    severity: AssetCheckSeverity = AssetCheckSeverity.ERROR
    blocking: bool = True


AGGREGATES_RULE = Rule(
    "The aggregates of the day are the sum of its events: their number, points and whose they "
    "are, as a whole and in each class, subject and campus.",
    "Materialize point_aggregates of the day again, which writes them anew, then the days from it "
    "on; if it stays, the code is wrong.",
)
RULES: Mapping[Check, Rule] = {
    Check.RANKS: Rule(
        "Points from high to low, ranks by the institution's method, ties by student id, and "
        "every figure: all as the distribution of points has it.",
        _DAY_AGAIN,
    ),
    Check.LIMITS: Rule(
        "As many entries as N and the ranked students allow, no student twice.",
        "If N was changed since, materialize the day again; else too, and if it stays, the code "
        "is wrong.",
    ),
    Check.SUMS: Rule(
        "Each daily board has the sum of points that the events of its day have, and none is "
        "missing.",
        _DAY_AGAIN,
    ),
    Check.COUNTS: Rule(
        "No more ranked students than enrolled ones, unless they have points without being "
        "enrolled, which may be.",
        "Enrollments that came after the day was materialized are in its figures once it is "
        "materialized again; else see lb.enrollments.",
        severity=AssetCheckSeverity.WARN,
        blocking=False,
    ),
    Check.STRANGERS: Rule(
        "Every board is about a class, subject or campus of the institution, every entry of a "
        "student of it.",
        "Somebody has written to the tables by hand, or removed what the boards are about. "
        + _DAY_AGAIN,
    ),
    Check.PREVIOUS: Rule(
        "Previous ranks are the ranks on the earlier snapshot that trends compare with, where "
        "that is live and made from the same events.",
        "One of the two boards is wrong: see the checks of the earlier day. Materialize that "
        "one, then this one.",
        # Which of the two boards is wrong is not known; the checks of the other one say so.
        blocking=False,
    ),
    Check.PARTITION: Rule(
        "The leaf of the day's month is in its place and holds the boards, as many as were made; "
        "those in the archive may have left it.",
        "Materialize the day again. A leaf that is missing must be attached first, or dropped "
        "for good.",
    ),
}


@dataclass(frozen=True)
class PartitionCheck:
    """A check of one asset; `type` and `check` None: that of the aggregates."""

    spec: AssetCheckSpec
    rule: Rule
    type: BoardType | None = None
    check: Check | None = None


def partition_checks(partitions: MultiPartitionsDefinition) -> list[PartitionCheck]:
    """All of the aggregates and of the three snapshot assets."""
    with warnings.catch_warnings():
        # Checks per partition are what the pages of the assets are built around here; that the
        # parameter is in preview is known, and no news to whoever starts the project.
        warnings.simplefilter("ignore", PreviewWarning)
        return [
            PartitionCheck(
                _spec(Check.SUMS, aggregates.ASSET, AGGREGATES_RULE, partitions), AGGREGATES_RULE
            ),
            *(
                PartitionCheck(_spec(check, asset_name(type), rule, partitions), rule, type, check)
                for type in BoardType
                for check, rule in RULES.items()
            ),
        ]


def _spec(
    name: str, asset: str, rule: Rule, partitions: MultiPartitionsDefinition
) -> AssetCheckSpec:
    says = {
        (AssetCheckSeverity.ERROR, True): "An error that keeps trends and archive from going on.",
        (AssetCheckSeverity.ERROR, False): "An error that stops nothing.",
        (AssetCheckSeverity.WARN, False): "A warning.",
    }[rule.severity, rule.blocking]
    return AssetCheckSpec(
        str(name),
        asset=asset,
        description=f"{rule.means} {says}",
        blocking=rule.blocking,
        partitions_def=partitions,
    )


def evaluate(
    checks: Sequence[PartitionCheck],
    database: Database,
    institution: Institution,
    days: DayRange,
    events: EventSums,
    *,
    made: bool,
) -> Iterator[AssetCheckEvaluation]:
    """The verdicts of checks of one asset on every day of a range.

    `made`: this run has made the asset, so a sample of each day is enough, and a verdict may
    block; else all of it is looked at, and there is nothing to block.
    """
    if not checks:
        return
    verdicts = _verdicts(checks, database, institution, days, events, SAMPLE if made else None)
    for check, by_day in verdicts:
        for day, verdict in by_day.items():
            key = partition_key(day, institution.id)
            yield AssetCheckEvaluation(
                asset_key=check.spec.asset_key,
                check_name=check.spec.name,
                partition=key,
                passed=not verdict.wrong and not verdict.outdated,
                severity=AssetCheckSeverity.WARN if verdict.outdated else check.rule.severity,
                blocking=made and check.rule.blocking,
                description=_spoken(check, institution, day, verdict),
                metadata=_shown(check, verdict),
            )


def blocks(evaluation: AssetCheckEvaluation) -> bool:
    """Whether what builds on this partition must not be made."""
    return bool(
        evaluation.blocking
        and not evaluation.passed
        and evaluation.severity is AssetCheckSeverity.ERROR
    )


def _verdicts(
    checks: Sequence[PartitionCheck],
    database: Database,
    institution: Institution,
    days: DayRange,
    events: EventSums,
    at_most: int | None,
) -> Iterator[tuple[PartitionCheck, Mapping[date, Verdict]]]:
    type = checks[0].type
    if type is None:
        for check in checks:
            yield check, verifying.verify_aggregates(database, institution, days, events)
        return
    by_name = {check.check: check for check in checks if check.check is not None}
    found = verifying.verify_snapshots(
        database, institution, type, days, events, list(by_name), at_most=at_most
    )
    for name, by_day in found.items():
        yield by_name[name], by_day


def _spoken(
    check: PartitionCheck, institution: Institution, day: date, verdict: Verdict
) -> str | None:
    """What is wrong and where, with the first of it, and what to do."""
    asset = check.spec.asset_key.to_user_string()
    if verdict.outdated:
        return (
            f"{asset} of {institution.id} on {day} was made from other events than there are now, "
            "so nothing can be said of it; late_events_sensor has it made again."
        )
    if not verdict.wrong:
        return None
    first = verdict.findings[0]
    difference = first.difference
    where = f"{first.where}: " if first.where else ""
    many = (
        f"{verdict.wrong:,} of {verdict.looked_at:,} boards are wrong" if first.board else "wrong"
    )
    return (
        f"{asset} of {institution.id} on {day}: {many}. {where}{difference.what} should be "
        f"{difference.expected}, found {difference.found}. {check.rule.remedy}"
    )


def _shown(check: PartitionCheck, verdict: Verdict) -> dict[str, int | str | MetadataValue]:
    counts: dict[str, int | str | MetadataValue] = {
        "boards": verdict.boards,
        "looked_at": verdict.looked_at,
        "wrong": verdict.wrong,
    }
    if not verdict.wrong:
        return counts
    rows = [
        {
            "board": finding.where,
            "what": finding.difference.what,
            "expected": finding.difference.expected,
            "found": finding.difference.found,
        }
        for finding in verdict.findings[:SHOWN]
    ]
    return {
        **counts,
        "findings": MetadataValue.md(markdown_table(rows)),
        "remedy": check.rule.remedy,
    }
