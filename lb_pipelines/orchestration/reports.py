"""`missing_partitions` and `backfill_preview`: what the boards' data says together with Dagster's
record of it. They only look; the command line asks the same (`lb missing`, `lb preview`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta

from dagster import EventLogEntry, deserialize_value

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import DayRange, closed_through, local_day
from lb_pipelines.db.each_institution import Answers, ask_each, with_short_waits
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import dagster_record
from lb_pipelines.materialize import completeness, preview
from lb_pipelines.materialize.completeness import ASSETS, Completeness, State
from lb_pipelines.materialize.preview import Preview, Rate
from lb_pipelines.orchestration.partitions import partition_key


def look_everywhere(
    database: Database,
    record_in: Database | None,
    institutions: Iterable[Institution],
    now: datetime,
    *,
    start_day: date,
    first: date | None = None,
    last: date | None = None,
) -> Answers[Completeness]:
    """What these institutions lack, as of now in each one's zone, and why others cannot say.

    `record_in` is the database that Dagster keeps its tables in; None: only the ledger is read.
    """
    last_anywhere = (now + timedelta(days=1)).date()
    whole = DayRange(first or start_day, last or last_anywhere)
    record = None
    if record_in is not None:
        with record_in.transaction() as connection:
            record = dagster_record.read(connection, ASSETS, whole)
    database = with_short_waits(database)
    return ask_each(
        institutions,
        lambda institution: completeness.look(
            database,
            institution,
            closed_through(now, institution.zone),
            record,
            first=whole.first,
            last=last,
        ),
    )


def preview_everywhere(
    database: Database,
    record_in: Database | None,
    institutions: Iterable[Institution],
    assets: Sequence[str],
    days: DayRange,
    now: datetime,
) -> Answers[Preview]:
    """What a backfill would do at each institution, and those that it would fail for."""
    chosen = {institution.id: institution for institution in institutions}
    names = preview.assets_of(assets)
    database = with_short_waits(database)
    basis, unusable = ask_each(
        chosen.values(), lambda one: _find_basis(database, one.validate(), names, days)
    )
    rates = {} if record_in is None else _rates(record_in, basis)
    answers, failures = ask_each(
        (chosen[id] for id in basis),
        lambda one: preview.preview(
            database, one, names, days, local_day(now, one.zone), rates.get(one.id, {})
        ),
    )
    return Answers(answers, unusable | failures)


def totals(found: Iterable[Completeness], asset: str | None = None) -> dict[State, int]:
    """Partitions in each state, of one asset or of all."""
    counts = Counter[State]()
    for one in found:
        for finding in one.findings:
            if asset is None:
                counts[finding.state] += finding.partitions
            elif asset in finding.assets:
                counts[finding.state] += finding.partitions // len(finding.assets)
    return {state: counts[state] for state in State}


def assets_spoken(assets: Sequence[str]) -> str:
    """Assets in a cell of a table."""
    others = [asset for asset in ASSETS if asset not in assets]
    if len(others) < 2:
        return f"all but {others[0]}" if others else "all"
    return ", ".join(assets)


def _find_basis(
    database: Database, institution: Institution, assets: Sequence[str], days: DayRange
) -> Mapping[str, Sequence[str]]:
    """By asset the partitions whose times say how long these days will take."""
    return {
        asset: [
            str(partition_key(day, institution.id))
            for day in preview.recent_days(database, institution, asset, days)
        ]
        for asset in assets
    }


def _rates(
    record_in: Database, basis: Mapping[str, Mapping[str, Sequence[str]]]
) -> Mapping[str, Mapping[str, Rate]]:
    """By institution and asset what partitions took, from the record of their materializations."""
    partitions: dict[str, list[str]] = defaultdict(list)
    for of_institution in basis.values():
        for asset, keys in of_institution.items():
            partitions[asset] += keys
    rates: dict[str, dict[str, Rate]] = defaultdict(dict)
    for asset, keys in partitions.items():
        took: dict[str, list[float]] = defaultdict(list)
        with record_in.transaction() as connection:
            for institution_id, event in dagster_record.materializations(connection, asset, keys):
                seconds = _seconds(event)
                if seconds is not None:
                    took[institution_id].append(seconds)
        for institution_id, each in took.items():
            rates[institution_id][asset] = Rate(sum(each) / len(each), len(each))
    return rates


def _seconds(event: str) -> float | None:
    """The time that a materialization took, as its metadata has it.

    None for one that was only recorded again by a run that went on from another.
    """
    materialization = deserialize_value(event, EventLogEntry).asset_materialization
    if materialization is None or "seconds" not in materialization.metadata:
        return None
    value = materialization.metadata["seconds"].value
    return float(value) if isinstance(value, int | float) else None
