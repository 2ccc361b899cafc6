"""Partition keys, the rectangles that runs cover, and when a day becomes a partition."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from dagster import DagsterInstance, PartitionKeyRange
from hypothesis import given, settings
from hypothesis import strategies as st

from lb_pipelines.core.periods import DayRange
from lb_pipelines.orchestration.partitions import (
    DAY,
    INSTITUTION,
    Rectangle,
    days_by_institution,
    leaderboard_partitions,
    neighbour_order,
    partition_key,
    rectangles,
)

START = date(2024, 1, 1)
ids = st.sampled_from([f"inst_{n}" for n in range(8)])
days = st.integers(0, 12).map(lambda n: START + timedelta(days=n))


@given(st.dictionaries(ids, st.sets(days)), st.lists(ids, unique=True))
def test_rectangles_cover_what_is_wanted_and_nothing_else(
    wanted: dict[str, set[date]], order: list[str]
) -> None:
    covered = [
        (id, day)
        for rectangle in rectangles(wanted, order)
        for id in rectangle.institutions(order)
        for day in rectangle.days
    ]
    assert sorted(covered) == sorted((id, day) for id in order for day in wanted.get(id, ()))


@given(st.lists(ids, unique=True, min_size=1), st.sets(days, min_size=1))
def test_the_same_days_of_everybody_are_as_few_rectangles_as_there_are_ranges(
    order: list[str], wanted: set[date]
) -> None:
    found = rectangles(dict.fromkeys(order, wanted), order)
    ranges = {(rectangle.days.first, rectangle.days.last) for rectangle in found}
    assert len(found) == len(ranges)
    assert {r.first_institution for r in found} == {order[0]}
    assert {r.last_institution for r in found} == {order[-1]}


@settings(max_examples=12, deadline=None)  # A Dagster instance takes 0.1 s.
@given(st.lists(ids, unique=True, min_size=1), st.data())
def test_a_rectangle_is_what_dagster_makes_of_its_tags(
    order: list[str], data: st.DataObject
) -> None:
    first, last = sorted(data.draw(st.tuples(days, days)))
    low, high = sorted(data.draw(st.tuples(*[st.sampled_from(range(len(order)))] * 2)))
    rectangle = Rectangle(DayRange(first, last), order[low], order[high])
    tags = rectangle.tags
    with DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(INSTITUTION, order)
        keys = leaderboard_partitions(START).get_partition_keys_in_range(
            PartitionKeyRange(
                tags["dagster/asset_partition_range_start"],
                tags["dagster/asset_partition_range_end"],
            ),
            dynamic_partitions_store=instance,
        )
    expected = {id: [rectangle.days] for id in rectangle.institutions(order)}
    assert days_by_institution(keys) == expected
    assert Rectangle.of_run(tags) == rectangle


def test_a_run_of_one_partition_is_a_rectangle_too() -> None:
    key = partition_key(START, "inst_1")
    assert key == "2024-01-01|inst_1"
    assert Rectangle.of_run({"dagster/partition": key}) == Rectangle(
        DayRange(START, START), "inst_1", "inst_1"
    )


@pytest.mark.parametrize("tags", [{}, {"dagster/partition": "2024-01"}, {"other": "tag"}])
def test_a_run_over_nothing_of_ours_is_none(tags: dict[str, str]) -> None:
    assert Rectangle.of_run(tags) is None


def test_an_end_that_has_left_the_dimension_leaves_the_other() -> None:
    rectangle = Rectangle(DayRange(START, START), "gone", "here")
    assert rectangle.institutions(["first", "here"]) == ["here"]


def test_days_that_are_apart_stay_apart() -> None:
    keys = ["2024-01-03|b", "2024-01-01|b", "2024-01-02|a", "2024-01-02|b", "2024-01-07|b"]
    assert days_by_institution(keys) == {
        "a": [DayRange(date(2024, 1, 2), date(2024, 1, 2))],
        "b": [
            DayRange(date(2024, 1, 1), date(2024, 1, 3)),
            DayRange(date(2024, 1, 7), date(2024, 1, 7)),
        ],
    }


@pytest.mark.parametrize(
    ("now", "last"),
    [
        (datetime(2024, 3, 9, 9, 59, tzinfo=UTC), "2024-03-08"),
        (datetime(2024, 3, 9, 10, 0, tzinfo=UTC), "2024-03-09"),
    ],
)
def test_a_day_is_a_partition_once_it_is_over_somewhere(now: datetime, last: str) -> None:
    in_days = leaderboard_partitions(START).get_partitions_def_for_dimension(DAY)
    keys = in_days.get_partition_keys(current_time=now)
    assert (keys[0], keys[-1]) == ("2024-01-01", last)


def test_institutions_with_the_same_midnight_become_neighbours() -> None:
    east, west = timedelta(hours=2), timedelta(hours=-5)
    assert neighbour_order([("a", west), ("c", east), ("b", west), ("d", east)]) == [
        "c", "d", "a", "b",
    ]  # fmt: skip
