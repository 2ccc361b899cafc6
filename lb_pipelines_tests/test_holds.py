"""Legal holds: refused where they cannot be meant, never deleted, and nothing in flight passes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import date
from typing import Any

import pytest

from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import holds, writers
from lb_pipelines.errors import InvalidHold
from lb_pipelines.retention import holding
from lb_pipelines.retention.actor import Actor
from lb_pipelines.retention.sweeping import sweep
from lb_pipelines_tests import archives
from lb_pipelines_tests.archives import AUGUST, JULY, SOMEBODY
from lb_pipelines_tests.waiting import LIMIT_SECONDS

TODAY = date(2024, 3, 1)


def test_a_hold_is_in_force_through_its_last_day_or_until_it_is_released(
    database: Database,
) -> None:
    institution, other = archives.school(database), archives.school(database, "inst_8")
    first = holding.place(
        database,
        institution,
        type=BoardType.CLASS,
        first_month=date(2023, 7, 20),
        last_month=date(2023, 8, 31),
        until=TODAY,
        reason=" a case ",
        today=TODAY,
        actor=SOMEBODY,
    )
    second = holding.place(database, institution, reason="an audit", today=TODAY, actor=SOMEBODY)

    def numbers(today: date) -> list[int]:
        with database.transaction() as connection:
            assert holds.in_force(connection, other, today) == []
            return [hold.number for hold in holds.in_force(connection, institution, today)]

    assert numbers(TODAY) == [first, second]
    assert numbers(date(2024, 3, 2)) == [second]
    holding.release(database, institution, second, Actor("a judge"))
    assert numbers(TODAY) == [first]
    with database.transaction() as connection:
        entries = holds.every(connection)
        assert holds.every(connection, other) == []
    one, two = (entry.hold for entry in entries)
    # Any day stands for its month; the words are kept, nothing is deleted.
    assert (one.first_month, one.last_month, one.until) == (JULY, AUGUST, TODAY)
    assert (one.reason, one.placed_by, one.released) == ("a case", "somebody", False)
    assert (two.type, two.first_month, two.last_month, two.until, two.released) == (
        None,
        None,
        None,
        None,
        True,
    )
    assert [entry.released_by for entry in entries] == [None, "a judge"]
    assert [entry.institution_id for entry in entries] == ["inst_9", "inst_9"]


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"reason": " "}, "without a reason"),
        ({"actor": Actor(" ")}, "that nobody places"),
        ({"first_month": AUGUST, "last_month": JULY}, "2023-08 to 2023-07 .* run backwards"),
        ({"until": date(2024, 2, 29)}, "until 2024-02-29 would be over on 2024-03-01"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    database: Database, how: dict[str, Any], words: str
) -> None:
    institution = archives.school(database)
    asked: dict[str, Any] = {"reason": "a case", "today": TODAY, "actor": SOMEBODY} | how
    with pytest.raises(InvalidHold, match=words):
        holding.place(database, institution, **asked)
    with database.transaction() as connection:
        assert holds.every(connection) == []


def test_only_a_hold_that_is_there_can_be_released_once(database: Database) -> None:
    institution, other = archives.school(database), archives.school(database, "inst_8")
    number = holding.place(database, institution, reason="a case", today=TODAY, actor=SOMEBODY)
    for asked, hold in ((institution, number + 1), (other, number)):
        with pytest.raises(InvalidHold, match=f"has no legal hold {hold}"):
            holding.release(database, asked, hold, SOMEBODY)
    holding.release(database, institution, number, SOMEBODY)
    with pytest.raises(InvalidHold, match="was released by somebody on"):
        holding.release(database, institution, number, Actor("another"))
    with database.transaction() as connection:
        (entry,) = holds.every(connection)
    assert entry.released_by == "somebody"


def test_a_batch_in_flight_does_not_pass_a_hold_placed_before_it_commits(
    database: Database,
) -> None:
    """Placing waits for whoever writes; who begins to write while it waits waits for it."""
    institution = archives.school(database)
    archives.add(database, institution, archives.month(JULY))

    def place() -> int:
        return holding.place(database, institution, reason="a case", today=TODAY, actor=SOMEBODY)

    def waiting(connection: Any) -> int:
        row = connection.execute(
            "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)"
            " WHERE locktype = 'advisory' AND NOT granted AND datname = current_database()"
        ).fetchone()
        return int(row[0])

    with ThreadPoolExecutor(2) as pool:
        with database.autocommit() as observer:
            with database.transaction() as batch:
                writers.write_beside_others(batch, institution)
                placing = pool.submit(place)
                while waiting(observer) < 1:
                    assert not placing.done()
                sweeping = pool.submit(
                    sweep, database, institution, Granularity.DAILY, TODAY, SOMEBODY
                )
                while waiting(observer) < 2:
                    assert not placing.done()
                    assert not sweeping.done()
        placing.result(LIMIT_SECONDS)
        assert sweeping.result(LIMIT_SECONDS).rows == 0
    assert archives.archived(database) == []
