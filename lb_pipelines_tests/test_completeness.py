"""Each partition is in one state at most, and the states and the right ones add up to the expected,
however Dagster's record and the ledger disagree.
"""

from __future__ import annotations

from collections import Counter
from datetime import date, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lb_pipelines.core.periods import DayRange, contiguous_ranges
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import institutions
from lb_pipelines.db.repositories.dagster_record import DagsterRecord
from lb_pipelines.materialize import completeness
from lb_pipelines.materialize.completeness import ASSETS, State
from lb_pipelines_tests.orchestration_district import add_institution

EVENTS = DayRange(date(2024, 4, 24), date(2024, 4, 25))
LAST_EXPECTED = date(2024, 5, 2)
LAST_CLOSED = date(2024, 5, 6)
DAYS = list(DayRange(EVENTS.first, LAST_CLOSED))
CHOSEN = (ASSETS[0], ASSETS[1])

some_days = st.sets(st.sampled_from(DAYS))
of_an_asset = st.fixed_dictionaries(
    {"made": some_days, "stale": some_days, "archived": some_days, "green": some_days,
     "failed": st.dictionaries(st.sampled_from(["run 1", "run 2"]), some_days)}
)  # fmt: skip


@pytest.fixture
def school(database: Database) -> Database:
    add_institution(database, "a", days=EVENTS, students=1)
    return database


@settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(by_asset=st.fixed_dictionaries(dict.fromkeys(CHOSEN, of_an_asset)))
def test_the_states_and_the_right_ones_add_up(school: Database, by_asset: dict) -> None:
    with school.transaction() as connection:
        institution = institutions.find(connection, "a")
        connection.execute("TRUNCATE lb.materialized_days, lb.input_changes")
        for asset, facts in by_asset.items():
            for day in facts["made"]:
                connection.execute(
                    "INSERT INTO lb.materialized_days (institution_key, asset, day,"
                    " through_revision, boards, run_id, code_version, begins_at, ends_at,"
                    " archived_differing) VALUES (%s, %s, %s, 1, 1, 'r', '1', %s, %s, %s)",
                    (
                        institution.key,
                        asset,
                        day,
                        day,
                        day + timedelta(days=1),
                        int(day in facts["archived"]),
                    ),
                )
            for day in facts["stale"]:
                connection.execute(
                    "INSERT INTO lb.input_changes (institution_key, input, assets, granularities,"
                    " first_day, last_day) VALUES (%s, 'terms', %s, '{daily}', %s, %s)",
                    (institution.key, [asset], day, day),
                )
    record = DagsterRecord(
        {(asset, "a"): contiguous_ranges(f["green"]) for asset, f in by_asset.items()},
        {
            (asset, "a"): [(run, part) for run, days in f["failed"].items()
                           for part in contiguous_ranges(days)]
            for asset, f in by_asset.items()
        },
    )  # fmt: skip
    found = completeness.look(school, institution, LAST_CLOSED, record, first=EVENTS.first)

    expected: dict[tuple[str, date], State | None] = {}
    for asset in ASSETS:
        facts = by_asset.get(asset)
        for day in DAYS:
            made, green = facts and day in facts["made"], facts and day in facts["green"]
            if day > LAST_EXPECTED and not made and not green:
                continue
            expected[asset, day] = (
                State.FAILED if facts and any(day in d for d in facts["failed"].values())
                else State.NOT_IN_DATABASE if green and not made
                else State.MISSING if not made
                else State.STALE if facts and day in facts["stale"]
                else State.NOT_IN_DAGSTER if not green
                else State.STALE_IN_ARCHIVE if facts and day in facts["archived"]
                else None
            )  # fmt: skip
    states = Counter(
        (asset, day, finding.state)
        for finding in found.findings
        for asset in finding.assets
        for part in finding.days
        for day in part
    )
    assert states == Counter(
        (asset, day, state) for (asset, day), state in expected.items() if state is not None
    )
    right = sum(state is None for state in expected.values())
    assert sum(f.partitions for f in found.findings) + right == found.expected == len(expected)
    assert found.made == sum(len(facts["made"]) for facts in by_asset.values())
