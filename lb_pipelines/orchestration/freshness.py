"""Is today complete for everyone, and what is late: told by each institution's own midnight.

Dagster's freshness policy knows one time of an asset's last materialization, whatever partition it
was of: here it tells of a project that stands still (`with_policy`). Whether every institution's
day is there in time is a check of each asset, `on_time`: it knows the zones, names who is late, and
is evaluated by a sensor whenever its verdict changes, or run from a Checks page at any time.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Self

from dagster import (
    AssetCheckEvaluation,
    AssetCheckExecutionContext,
    AssetCheckKey,
    AssetCheckResult,
    AssetChecksDefinition,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetKey,
    AssetSpec,
    DagsterInstance,
    DagsterRunStatus,
    DefaultSensorStatus,
    FreshnessPolicy,
    MetadataValue,
    RunsFilter,
    SensorDefinition,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    multi_asset_check,
    sensor,
)
from dagster._core.storage.asset_check_execution_record import (
    AssetCheckExecutionRecordStatus,
)

from lb_pipelines.clock import Clock, utc_now
from lb_pipelines.core.institution import Institution
from lb_pipelines.core.lateness import DUE, Punctuality, punctuality
from lb_pipelines.core.periods import ONE_DAY, DayRange, closed_through, days_between
from lb_pipelines.db.each_institution import (
    TICK_STATEMENT_TIMEOUT,
    ask_each,
    with_short_waits,
)
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import freshness, institutions
from lb_pipelines.db.repositories.activity import read_activity
from lb_pipelines.orchestration.assets.family import markdown_table
from lb_pipelines.orchestration.checks import ON_TIME
from lb_pipelines.orchestration.jobs import DAILY_ASSETS
from lb_pipelines.orchestration.partitions import INSTITUTION, Rectangle
from lb_pipelines.orchestration.resources import LeaderboardDatabase
from lb_pipelines.orchestration.schedules import CATCH_UP

FRESHNESS_SENSOR = "freshness_sensor"

_HOURS = int(DUE / timedelta(hours=1))
_SHOWN = 50
_NAMED = 5


def with_policy(spec: AssetSpec) -> AssetSpec:
    """The asset with Dagster's own policy: something of it is made every day.

    A day has 25 hours once a year, and the last institution may take until it is due.
    """
    if spec.key.to_user_string() not in DAILY_ASSETS:
        return spec
    return spec.replace_attributes(
        freshness_policy=FreshnessPolicy.time_window(
            warn_window=timedelta(hours=26), fail_window=timedelta(hours=25) + DUE
        )
    )


def on_time_checks(start_day: date, now: Clock = utc_now) -> AssetChecksDefinition:
    """The check of every daily asset, as it is run from the Checks pages."""

    @multi_asset_check(
        name=ON_TIME,
        specs=[
            AssetCheckSpec(
                ON_TIME,
                asset=asset,
                description=(
                    "Every active institution has every day of the last week that is due (none "
                    "once its events and terms have ended), and a "
                    f"day is due {_HOURS} hours after the institution's own midnight. Who is late "
                    f"or awaited is listed. {FRESHNESS_SENSOR} says so whenever it changes."
                ),
            )
            for asset in DAILY_ASSETS
        ],
        can_subset=True,
    )
    def _on_time(
        context: AssetCheckExecutionContext, leaderboard_database: LeaderboardDatabase
    ) -> Iterator[AssetCheckResult]:
        overview = Overview.read(leaderboard_database.database, context.instance, start_day, now())
        for asset in DAILY_ASSETS:
            if AssetCheckKey(AssetKey(asset), ON_TIME) in context.selected_asset_check_keys:
                found = overview.evaluation(asset)
                yield AssetCheckResult(
                    asset_key=found.asset_key,
                    check_name=found.check_name,
                    passed=found.passed,
                    severity=found.severity,
                    description=found.description,
                    metadata=found.metadata,
                )

    return _on_time


def freshness_sensor(
    start_day: date, status: DefaultSensorStatus, now: Clock = utc_now
) -> SensorDefinition:
    """Evaluates `on_time` of every daily asset; tells Dagster where the verdict has changed."""

    @sensor(
        name=FRESHNESS_SENSOR,
        minimum_interval_seconds=300,
        description=(
            "Looks whether every institution's days are there in time, by its own midnight, and "
            f"says so in the check {ON_TIME} of each asset whenever that changes, and again where "
            "a run has hidden it."
        ),
        default_status=status,
    )
    def _sensor(
        context: SensorEvaluationContext, leaderboard_database: LeaderboardDatabase
    ) -> SensorResult:
        overview = Overview.read(leaderboard_database.database, context.instance, start_day, now())
        states = {asset: overview.state(asset) for asset in DAILY_ASSETS}
        known = _read_cursor(context.cursor)
        return SensorResult(
            skip_reason=SkipReason(overview.spoken),
            cursor=json.dumps(states),
            asset_events=[
                overview.evaluation(asset)
                for asset, state in states.items()
                if known.get(asset) != state or not _is_shown(context.instance, asset)
            ],
        )

    return _sensor


def _is_shown(instance: DagsterInstance, asset: str) -> bool:
    """Whether the UI still shows what was last told: a run that has the check among its own without
    evaluating it, and any later materialization, have Dagster show it as skipped or not evaluated.
    """
    key = AssetCheckKey(AssetKey(asset), ON_TIME)
    record = instance.event_log_storage.get_latest_asset_check_execution_by_key([key]).get(key)
    if record is None or record.status is AssetCheckExecutionRecordStatus.PLANNED:
        return False
    made = instance.get_latest_materialization_event(AssetKey(asset))
    # Of the events themselves: some storages keep when a record was made by the second.
    told = record.event
    return told is not None and (made is None or made.timestamp <= told.timestamp)


@dataclass(frozen=True)
class Standing:
    """Where an institution stands: its zone's name, the last day that is over there, and how far
    each asset is. `unusable`: why nothing can be expected of it.
    """

    institution_id: str
    zone: str
    yesterday: date | None
    assets: Mapping[str, Punctuality]
    unusable: str | None = None


@dataclass(frozen=True)
class Overview:
    """Where all institutions stand at one instant; `runs`: by (institution, day) the last run that
    failed at it.
    """

    standings: Sequence[Standing]
    runs: Mapping[tuple[str, date], str]

    @classmethod
    def read(
        cls, database: Database, instance: DagsterInstance, start_day: date, now: datetime
    ) -> Self:
        """By what is in the database now, and the runs of the last week."""
        window = DayRange((now - CATCH_UP).date() - 2 * ONE_DAY, now.date() + ONE_DAY)
        database = with_short_waits(database, TICK_STATEMENT_TIMEOUT)
        with database.transaction(snapshot=True) as connection:
            active = institutions.active(connection)
            activity = read_activity(connection, active)
            came = freshness.since(connection)
            made = freshness.made_days(connection, DAILY_ASSETS, window)

        def read_standing(institution: Institution) -> Standing:
            zone = institution.validate().zone
            last = closed_through(now, zone)
            first = max(start_day, last - CATCH_UP + ONE_DAY)
            last_expected = activity[institution.id].last_expected_day(zone)
            expected = list(days_between(first, min(last, last_expected)))
            of_each = {
                asset: punctuality(
                    expected,
                    made.get((institution.id, asset), frozenset()),
                    zone,
                    came[institution.id],
                    now,
                )
                for asset in DAILY_ASSETS
            }
            return Standing(institution.id, institution.time_zone, last, of_each)

        answers, failures = ask_each(active, read_standing)
        standings = [
            answers.get(i.id) or Standing(i.id, i.time_zone, None, {}, str(failures[i.id]))
            for i in active
        ]
        late = any(one.late for standing in standings for one in standing.assets.values())
        return cls(standings, _failed_runs(instance, now) if late else {})

    def late(self, asset: str) -> list[Standing]:
        """Who has a day that is overdue, or cannot have any."""
        return [s for s in self.standings if s.unusable or s.assets[asset].late]

    def awaited(self, asset: str) -> list[Standing]:
        """Who has a day that is over and not there yet, and none that is overdue."""
        late = self.late(asset)
        return [s for s in self.standings if s not in late and s.assets[asset].awaited]

    def state(self, asset: str) -> list[list[str]]:
        """What has to change for the verdict to be told again."""
        return [
            [f"{s.institution_id} {_days(s, asset)}" for s in who]
            for who in (self.late(asset), self.awaited(asset))
        ] + [[str(len(self.standings))]]

    @property
    def spoken(self) -> str:
        """Everything in a sentence: of the asset that most are late with."""
        worst = max(
            DAILY_ASSETS, key=lambda asset: (len(self.late(asset)), len(self.awaited(asset)))
        )
        return f"{worst}: {self._said(worst)}" if self.late(worst) else self._said(worst)

    def evaluation(self, asset: str) -> AssetCheckEvaluation:
        """The verdict on an asset, with everyone who is late or awaited."""
        late, awaited = self.late(asset), self.awaited(asset)
        rows = [self._row(s, asset, "late") for s in late]
        rows += [self._row(s, asset, "awaited") for s in awaited]
        more = len(rows) - _SHOWN
        table = markdown_table(rows[:_SHOWN], "Everyone is complete.")
        if more > 0:
            table += f"\n\n... and {more:,} more."
        return AssetCheckEvaluation(
            asset_key=AssetKey(asset),
            check_name=ON_TIME,
            passed=not late,
            severity=AssetCheckSeverity.ERROR,
            description=self._said(asset),
            metadata={
                "institutions": len(self.standings),
                "complete": len(self.standings) - len(rows),
                "awaited": len(awaited),
                "late": len(late),
                "not_complete": MetadataValue.md(table),
            },
        )

    def _said(self, asset: str) -> str:
        late, awaited = self.late(asset), self.awaited(asset)
        everyone = len(self.standings)
        if not everyone:
            return "There are no active institutions."
        complete = everyone - len(late) - len(awaited)
        sentences = [
            f"{complete:,} of {everyone:,} institutions have every day that is over there."
        ]
        if late:
            named = ", ".join(f"{s.institution_id} ({_days(s, asset)})" for s in late[:_NAMED])
            more = f" and {len(late) - _NAMED:,} more" if len(late) > _NAMED else ""
            sentences.append(f"Late: {named}{more}. Materialize what is missing; see the table.")
        if awaited:
            due = min(due for s in awaited if (due := s.assets[asset].due) is not None)
            sentences.append(
                f"Awaited, the first by {due:%Y-%m-%d %H:%M} UTC: "
                + ", ".join(s.institution_id for s in awaited[:_NAMED])
                + (f" and {len(awaited) - _NAMED:,} more." if len(awaited) > _NAMED else ".")
            )
        return " ".join(sentences)

    def _row(self, standing: Standing, asset: str, state: str) -> dict[str, str]:
        row = {"institution": standing.institution_id, "zone": standing.zone, "state": state}
        if standing.unusable:
            return row | {
                "yesterday there": "",
                "missing": standing.unusable,
                "due": "",
                "failed run": "",
            }
        found = standing.assets[asset]
        failed = next(
            (
                self.runs[standing.institution_id, day]
                for day in reversed(found.late)
                if (standing.institution_id, day) in self.runs
            ),
            "",
        )
        return row | {
            "yesterday there": str(standing.yesterday),
            "missing": _days(standing, asset),
            "due": f"{found.due:%Y-%m-%d %H:%M} UTC" if found.due else "",
            "failed run": failed,
        }


def _days(standing: Standing, asset: str) -> str:
    """The days that an institution lacks, in words."""
    if standing.unusable:
        return "settings that cannot be used"
    found = standing.assets[asset]
    return ", ".join(map(str, found.late or found.awaited))


def _failed_runs(instance: DagsterInstance, now: datetime) -> dict[tuple[str, date], str]:
    """By (institution, day) the id of the last run over it that failed."""
    order = instance.get_dynamic_partitions(INSTITUTION)
    found: dict[tuple[str, date], str] = {}
    for run in instance.get_runs(
        RunsFilter(statuses=[DagsterRunStatus.FAILURE], created_after=now - CATCH_UP), limit=200
    ):
        rectangle = Rectangle.of_run(run.tags)
        if rectangle is None:
            continue
        for institution_id in rectangle.institutions(order):
            for day in rectangle.days:
                found.setdefault((institution_id, day), run.run_id)
    return found


def _read_cursor(text: str | None) -> Mapping[str, object]:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        # Somebody edited it by hand: tell everything again.
        return {}
    return found if isinstance(found, dict) else {}
