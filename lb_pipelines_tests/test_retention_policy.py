"""Retention's arithmetic: what institutions may set, what expires when, what a hold keeps, and that
SQL says of every snapshot what `core.retention` says.
"""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.retention import (
    DEFAULT_RETENTION,
    LONGEST,
    Hold,
    Holding,
    RetentionPolicy,
    expired,
    free_spans,
    plan_sweeps,
)
from lb_pipelines.core.selection import ArchiveSelection
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import holds as hold_ledger
from lb_pipelines.db.repositories import retention as repository
from lb_pipelines.errors import InvalidSelection, InvalidSetting
from lb_pipelines_tests import retention_rows as rows

TODAY = date(2024, 3, 1)
ONE_DAY = timedelta(days=1)


def institution(metadata: dict[str, Any]) -> Institution:
    return Institution(1, "inst_1", "One", "ACTIVE", "UTC", metadata=metadata)


def test_the_defaults_are_those_of_the_design() -> None:
    policy = RetentionPolicy.of(institution({}))
    assert [policy.days[g] for g in Granularity] == [30, 90, 365, 730, 1095]
    assert policy.purge_grace is None
    assert policy.cutoff(Granularity.DAILY, TODAY) == date(2024, 1, 31)


@given(st.dictionaries(st.sampled_from(list(Granularity)), st.integers(1, LONGEST)))
def test_a_value_given_is_final_and_the_default_stands_elsewhere(
    given_days: dict[Granularity, int],
) -> None:
    metadata = {"leaderboardRetention": {str(g): days for g, days in given_days.items()}}
    policy = RetentionPolicy.of(institution(metadata))
    assert policy.days == {**DEFAULT_RETENTION, **given_days}


@pytest.mark.parametrize(
    ("metadata", "key", "value"),
    [
        ({"leaderboardRetention": 30}, "leaderboardRetention", 30),
        ({"leaderboardRetention": None}, "leaderboardRetention", None),
        ({"leaderboardRetention": {"yearly": 30}}, "leaderboardRetention.yearly", 30),
        ({"leaderboardRetention": {"DAILY": 30}}, "leaderboardRetention.DAILY", 30),
        *(
            ({"leaderboardRetention": {"daily": value}}, "leaderboardRetention.daily", value)
            for value in (0, -1, 1.5, "45", True, None, LONGEST + 1, [30])
        ),
        ({"leaderboardPurge": 30}, "leaderboardPurge", 30),
        ({"leaderboardPurge": {}}, "leaderboardPurge", {}),
        ({"leaderboardPurge": {"graceDays": 0}}, "leaderboardPurge.graceDays", 0),
        ({"leaderboardPurge": {"graceDays": "1"}}, "leaderboardPurge.graceDays", "1"),
    ],
)
def test_a_wrong_setting_names_institution_key_and_value(
    metadata: dict[str, Any], key: str, value: object
) -> None:
    with pytest.raises(InvalidSetting) as raised:
        RetentionPolicy.of(institution(metadata))
    assert (raised.value.institution_id, raised.value.key) == ("inst_1", key)
    assert raised.value.value == value
    assert "inst_1" in str(raised.value)
    assert repr(value) in str(raised.value)


def test_the_cutoff_s_own_day_has_not_expired() -> None:
    cutoff = date(2024, 1, 31)
    assert not expired(cutoff, cutoff, None, TODAY)
    assert expired(cutoff - ONE_DAY, cutoff, None, TODAY)
    # Restored: active through its last day, that day included.
    assert not expired(cutoff - ONE_DAY, cutoff, TODAY, TODAY)
    assert expired(cutoff - ONE_DAY, cutoff, TODAY - ONE_DAY, TODAY)


months = st.dates(date(2023, 10, 1), date(2024, 3, 1)).map(lambda day: day.replace(day=1))


@st.composite
def holds(draw: st.DrawFn) -> Hold:
    first, last = sorted((draw(months), draw(months)))
    return Hold(
        1,
        draw(st.sampled_from([None, *BoardType])),
        draw(st.sampled_from([None, first])),
        draw(st.sampled_from([None, last])),
        draw(st.none() | st.dates(TODAY - 2 * ONE_DAY, TODAY + 2 * ONE_DAY)),
        draw(st.booleans()),
        "p",
        "r",
    )


@given(st.lists(holds(), max_size=4), st.sampled_from(BoardType), st.dates(date(2023, 9, 1), TODAY))
def test_free_spans_are_the_days_that_no_hold_covers(
    some: list[Hold], type: BoardType, cutoff: date
) -> None:
    spans = free_spans(type, cutoff, some)
    assert spans == sorted(spans)
    day = date(2023, 8, 1)
    while day < date(2024, 5, 1):
        free = day < cutoff and not any(hold.covers(type, day) for hold in some)
        assert sum(first <= day < before for first, before in spans) == free, day
        day += ONE_DAY


@given(
    st.lists(
        st.builds(
            Holding,
            st.sampled_from(BoardType),
            st.sampled_from((Granularity.DAILY, Granularity.WEEKLY)),
            st.dates(date(2023, 10, 1), TODAY),
            st.none() | st.dates(TODAY - 2 * ONE_DAY, TODAY + 2 * ONE_DAY),
            st.integers(1, 9),
            st.integers(1, 9),
        )
    ),
    st.lists(holds(), max_size=3),
)
def test_a_plan_counts_every_old_snapshot_once(found: list[Holding], some: list[Hold]) -> None:
    lines = plan_sweeps(institution({}), TODAY, found, some)
    assert [line.granularity for line in lines] == list(Granularity)
    for line in lines:
        old = [h for h in found if h.granularity == line.granularity]
        old = [h for h in old if h.snapshot_date < line.cutoff]
        assert line.rows + line.held + line.restored == sum(h.rows for h in old)
        due = [
            h
            for h in old
            if expired(h.snapshot_date, line.cutoff, h.active_until, TODAY)
            and not any(s.in_force(TODAY) and s.covers(h.type, h.snapshot_date) for s in some)
        ]
        assert (line.rows, line.bytes) == (sum(h.rows for h in due), sum(h.bytes for h in due))
        assert line.first == min((h.snapshot_date for h in due), default=None)
        assert line.last == max((h.snapshot_date for h in due), default=None)


@pytest.fixture
def school(database: Database) -> Institution:
    return rows.add_institution(database, "inst", months=(date(2023, 10, 1), date(2024, 3, 1)))


@given(
    st.lists(holds(), max_size=3),
    st.integers(1, 120),
    st.lists(
        st.tuples(
            st.sampled_from(BoardType),
            st.dates(date(2023, 10, 1), TODAY),
            st.none() | st.dates(TODAY - 2 * ONE_DAY, TODAY + 2 * ONE_DAY),
            st.booleans(),
        ),
        unique_by=lambda row: row[:2],
        max_size=12,
    ),
)
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_sql_says_of_every_snapshot_what_python_says(
    database: Database,
    school: Institution,
    some: list[Hold],
    days: int,
    snapshots: list[tuple[BoardType, date, date | None, bool]],
) -> None:
    cutoff = TODAY - timedelta(days=days)
    # The days between which the line runs are always among them.
    for edge in (cutoff - ONE_DAY, cutoff):
        if (BoardType.SUBJECT, edge) not in {row[:2] for row in snapshots}:
            snapshots = [*snapshots, (BoardType.SUBJECT, edge, None, True)]
    with database.transaction() as connection:
        for type, day, until, active in snapshots:
            rows.materialize(connection, school, type, day, {("r", Granularity.DAILY): 1})
            connection.execute(
                "UPDATE lb.leaderboard_snapshots SET active_until = %s, status = %s"
                " WHERE institution_id = 'inst' AND type = %s AND snapshot_date = %s",
                (until, "ACTIVE" if active else "ARCHIVED", type, day),
            )
        for hold in some:
            number = hold_ledger.place(
                connection,
                school,
                type=hold.type,
                first_month=hold.first_month,
                last_month=hold.last_month,
                until=hold.until,
                reason="r",
                placed_by="p",
            )
            if hold.released:
                hold_ledger.release(connection, school, number, "q")
        found = repository.due_days(connection, school, Granularity.DAILY, cutoff, TODAY)
        connection.rollback()
    assert [(due.type, due.day) for due in found] == sorted(
        (type, day)
        for type, day, until, active in snapshots
        if active
        and expired(day, cutoff, until, TODAY)
        and not any(hold.in_force(TODAY) and hold.covers(type, day) for hold in some)
    )


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"types": ("SCHOOL",)}, "'SCHOOL' is no type"),
        ({"granularities": ("yearly",)}, "'yearly' is no granularity"),
        ({"reference_ids": ("",)}, "no id of a board"),
        ({"term_ids": ("a\0",)}, "no id of a term"),
        ({"academic_years": ("2023",)}, "'2023' is no academic year"),
        ({"academic_years": ("2023-2025",)}, "'2023-2025' is no academic year"),
        ({"first_day": TODAY, "last_day": TODAY - ONE_DAY}, "run backwards"),
        ({"first_day": TODAY, "academic_years": ("2021-2022",)}, "No day .* lies in 2021-2022"),
    ],
)
def test_a_selection_that_cannot_be_meant(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidSelection, match=message):
        ArchiveSelection(**parts)


def test_a_selection_survives_json() -> None:
    whole = ArchiveSelection(
        types=("CLASS",),  # type: ignore[arg-type]
        granularities=("all-time", "daily"),  # type: ignore[arg-type]
        reference_ids=("b", "a", "a"),
        first_day=TODAY,
        last_day=TODAY,
        academic_years=("2023-2024",),
        term_ids=("t",),
    )
    assert whole.types == (BoardType.CLASS,)
    assert whole.granularities == (Granularity.DAILY, Granularity.ALL_TIME)
    assert whole.reference_ids == ("a", "b")
    assert ArchiveSelection.from_json(whole.as_json()) == whole
    assert ArchiveSelection().as_json() == {}
