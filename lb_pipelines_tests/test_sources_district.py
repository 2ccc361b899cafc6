"""The invented district: the same from the same seed, and with everything real schools have."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from itertools import pairwise
from typing import Any

import pytest

from lb_pipelines.core.institution import Institution
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import institutions
from lb_pipelines.errors import ImportRefused
from lb_pipelines.sources import district, loading
from lb_pipelines.sources.district import District
from lb_pipelines.sources.report import Written

# Over the change of the clocks in Europe, America and Lord Howe, and the end of a month.
SPEC = District(end_day=date(2025, 11, 4), days=32, events_per_day=600)
EVENTS = (
    "SELECT i.id, event_id, s.id, c.id, amount, occurred_at, p.status, p.updated_at"
    " FROM lb.student_points p JOIN lb.institutions i USING (institution_key)"
    " JOIN lb.students s USING (student_key) LEFT JOIN lb.classes c USING (class_key)"
    " ORDER BY 1, 2"
)


def rows(database: Database, query: str) -> list[tuple[Any, ...]]:
    with database.transaction() as connection:
        return connection.execute(query).fetchall()


def number(database: Database, query: str) -> Any:
    return rows(database, query)[0][0]


def test_generating_again_changes_nothing(database: Database) -> None:
    first = district.generate(database, SPEC)
    before = rows(database, "SELECT * FROM lb.student_points ORDER BY institution_key, event_id")
    assert first.written["student_points"].inserted == len(before)
    again = district.generate(database, SPEC)
    assert again.changes == 0
    after = rows(database, "SELECT * FROM lb.student_points ORDER BY institution_key, event_id")
    assert after == before


def test_a_longer_district_holds_the_shorter(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    district.generate(database, SPEC)
    before = rows(database, EVENTS)
    monkeypatch.setattr(loading, "BATCH_ROWS", 100)
    longer = replace(SPEC, end_day=date(2025, 11, 6), days=40)
    written = district.generate(database, longer).written["student_points"]
    assert (written.unchanged, written.changed) == (len(before), 0)
    assert written.inserted > 0
    assert set(before) <= set(rows(database, EVENTS))


def test_another_seed_gives_another_district(database: Database) -> None:
    small = replace(SPEC, days=3)
    district.generate(database, small)
    before = rows(database, EVENTS)
    district.generate(database, replace(small, seed=2))
    assert rows(database, EVENTS) != before


def test_it_is_as_large_as_asked(database: Database) -> None:
    spec = District(
        end_day=date(2025, 10, 20),
        institutions=12,
        students=401,
        classes=50,
        subjects=31,
        campuses=13,
        days=6,
        events_per_day=2_000,
        terms_per_year=0,
    )
    district.generate(database, spec)
    for table in ("institutions", "students", "classes", "subjects", "campuses"):
        assert number(database, f"SELECT count(*) FROM lb.{table}") == getattr(spec, table)
    # Four school days and a weekend.
    assert 8_300 < number(database, "SELECT count(*) FROM lb.student_points") < 8_900
    sizes = rows(database, "SELECT count(*) FROM lb.students GROUP BY institution_key ORDER BY 1")
    assert sizes[-1][0] > 3 * sizes[0][0]
    assert number(database, "SELECT count(DISTINCT time_zone) FROM lb.institutions") == 10


def test_everything_that_real_schools_have_is_in_it(database: Database) -> None:
    district.generate(database, SPEC)
    count = "SELECT count(*) FROM lb.student_points WHERE "
    for condition in (
        "amount < 0",
        "amount = 0",
        "status = 'VOIDED'",
        "updated_at > occurred_at + interval '1 day'",
        "class_key IS NULL AND subject_key IS NOT NULL",
        "class_key IS NULL AND subject_key IS NULL",
        "campus_key IS NULL",
    ):
        assert number(database, count + condition) > 0, condition
    assert number(database, count + "updated_at < occurred_at") == 0
    assert number(database, count + "subject_key IS NULL AND class_key IS NOT NULL") == 0
    # Who moved has two enrollments that meet, and events on both sides.
    moved = rows(
        database,
        "SELECT p.occurred_at AT TIME ZONE i.time_zone >= e.withdrawn_on, count(*)"
        " FROM lb.enrollments e JOIN lb.institutions i USING (institution_key)"
        " JOIN lb.enrollments f ON f.student_key = e.student_key"
        "   AND f.enrolled_on = e.withdrawn_on AND f.class_key <> e.class_key"
        " JOIN lb.student_points p ON p.student_key = e.student_key AND p.class_key = e.class_key"
        " GROUP BY 1",
    )
    assert [after for after, _ in moved] == [False]
    terms = rows(database, "SELECT institution_key, starts_on, ends_on FROM lb.terms ORDER BY 1, 2")
    assert any(a[0] == b[0] and b[1] <= a[2] for a, b in pairwise(terms))
    by_weekday = dict(
        rows(
            database,
            "SELECT extract(isodow FROM occurred_at AT TIME ZONE time_zone)::integer, count(*)"
            " FROM lb.student_points JOIN lb.institutions USING (institution_key) GROUP BY 1",
        )
    )
    assert by_weekday[7] < by_weekday[3] / 3


def test_every_class_of_an_event_is_one_that_the_student_takes(database: Database) -> None:
    district.generate(database, SPEC)
    assert (
        number(
            database,
            "SELECT count(*) FROM lb.student_points p WHERE class_key IS NOT NULL AND NOT EXISTS"
            " (SELECT FROM lb.enrollments e WHERE (e.institution_key, e.class_key, e.student_key)"
            " = (p.institution_key, p.class_key, p.student_key))",
        )
        == 0
    )


def test_days_are_the_institutions_own(database: Database) -> None:
    spec = replace(SPEC, institutions=10, campuses=10)
    district.generate(database, spec)
    days = rows(
        database,
        "SELECT min(occurred_at AT TIME ZONE time_zone)::date,"
        " max(occurred_at AT TIME ZONE time_zone)::date,"
        " bool_and((occurred_at AT TIME ZONE time_zone)::date"
        "   = to_date(substr(event_id, 3, 8), 'YYYYMMDD'))"
        " FROM lb.student_points JOIN lb.institutions USING (institution_key)"
        " GROUP BY institution_key",
    )
    assert days == [(spec.first_day, spec.end_day, True)] * 10


def test_the_small_district_ends_with_a_day_that_is_over_everywhere(database: Database) -> None:
    now = datetime(2026, 1, 15, 6, tzinfo=UTC)
    spec = District.small(now)
    assert spec.end_day == date(2026, 1, 13)
    written = district.generate(database, spec).written
    assert written["institutions"] == Written(inserted=3)
    with database.transaction() as connection:
        assert all(isinstance(i.validate(), Institution) for i in institutions.every(connection))
    assert number(database, "SELECT max(occurred_at) FROM lb.student_points") < now
    assert number(database, "SELECT max(updated_at) FROM lb.student_points") < now


@pytest.mark.parametrize(
    ("wrong", "thing"),
    [
        ({"institutions": 50}, "45 classes are too few for 50 institutions"),
        ({"days": 0}, "days is 0"),
        ({"institutions": 0}, "institutions is 0"),
    ],
)
def test_a_district_that_cannot_be_is_refused(wrong: dict[str, int], thing: str) -> None:
    with pytest.raises(ImportRefused, match=thing):
        replace(SPEC, **wrong).validate()
