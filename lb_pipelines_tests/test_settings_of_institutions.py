"""What an institution may set in its metadata, and what a person sees who sets it wrong."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from lb_pipelines.core.institution import GREATEST_LIMIT, Institution
from lb_pipelines.core.words import BoardType, Granularity, RankMethod, validate_institution_id
from lb_pipelines.errors import InactiveInstitution, InvalidInstitution, InvalidSetting
from lb_pipelines_tests import oracle, worlds


def institution(metadata: dict[str, Any] | None = None, **changes: Any) -> Institution:
    fields = {"key": 1, "id": "inst_1", "name": "One", "status": "ACTIVE", "time_zone": "UTC"}
    return Institution(**(fields | changes), metadata=metadata or {})


def test_the_defaults_are_those_of_the_design() -> None:
    plain = institution().validate()
    assert plain.rank_method is RankMethod.COMPETITION
    for type in BoardType:
        for granularity in Granularity:
            assert plain.limit(type, granularity) == oracle.LIMITS[type][granularity]
    assert list(BoardType) == list(oracle.TYPES)
    assert list(Granularity) == list(oracle.GRANULARITIES)


@given(worlds.settings())
def test_an_override_counts_for_its_board_alone(metadata: dict[str, Any]) -> None:
    school = oracle.School("i", "UTC", (), (), (), (), (), (), (), metadata)
    overridden = institution(metadata).validate()
    assert overridden.rank_method == school.method
    for type in BoardType:
        for granularity in Granularity:
            assert overridden.limit(type, granularity) == school.limit(type, granularity)


@pytest.mark.parametrize(
    ("metadata", "key", "value"),
    [
        ({"leaderboardLimits": [20]}, "leaderboardLimits", "[20]"),
        ({"leaderboardLimits": {"SCHOOL": {"daily": 5}}}, "leaderboardLimits.SCHOOL", "daily"),
        ({"leaderboardLimits": {"CLASS": 5}}, "leaderboardLimits.CLASS", "5"),
        ({"leaderboardLimits": {"CLASS": {"yearly": 5}}}, "leaderboardLimits.CLASS.yearly", "5"),
        ({"leaderboardLimits": {"CLASS": {"daily": 0}}}, "leaderboardLimits.CLASS.daily", "0"),
        ({"leaderboardLimits": {"CLASS": {"daily": -1}}}, "leaderboardLimits.CLASS.daily", "-1"),
        ({"leaderboardLimits": {"CLASS": {"daily": "9"}}}, "leaderboardLimits.CLASS.daily", "'9'"),
        ({"leaderboardLimits": {"CLASS": {"daily": 2.5}}}, "leaderboardLimits.CLASS.daily", "2.5"),
        ({"leaderboardLimits": {"CLASS": {"daily": True}}}, "limits.CLASS.daily", "True"),
        ({"leaderboardLimits": {"CLASS": {"daily": None}}}, "Limits.CLASS.daily", "None"),
        (
            {"leaderboardLimits": {"CAMPUS": {"term": GREATEST_LIMIT + 1}}},
            "leaderboardLimits.CAMPUS.term",
            str(GREATEST_LIMIT + 1),
        ),
        ({"leaderboardRanking": "random"}, "leaderboardRanking", "'random'"),
        ({"leaderboardRanking": None}, "leaderboardRanking", "None"),
        ({"leaderboardRanking": ["dense"]}, "leaderboardRanking", "['dense']"),
    ],
)
def test_a_wrong_setting_names_institution_key_and_value(
    metadata: dict[str, Any], key: str, value: str
) -> None:
    with pytest.raises(InvalidSetting) as raised:
        institution(metadata).validate()
    message = str(raised.value)
    assert "inst_1" in message
    assert value in message
    assert key.lower() in message.lower()
    assert raised.value.remedy.startswith("Set it to ")


def test_the_greatest_limit_can_be_used() -> None:
    metadata = {"leaderboardLimits": {"CLASS": {"daily": GREATEST_LIMIT}}}
    limit = institution(metadata).validate().limit(BoardType.CLASS, Granularity.DAILY)
    assert limit == GREATEST_LIMIT


@pytest.mark.parametrize("zone", ["Mars/Olympus", "", "/etc/passwd", "../UTC", "Europe", "a\0b"])
def test_a_zone_that_is_none_names_the_institution(zone: str) -> None:
    with pytest.raises(InvalidInstitution, match=r"inst_1.*IANA"):
        institution(time_zone=zone).validate()


def test_an_inactive_institution_is_named_with_its_status() -> None:
    with pytest.raises(InactiveInstitution, match="'inst_1' is INACTIVE"):
        institution(status="INACTIVE").validate()


@pytest.mark.parametrize("id", ["inst_123", "A", "-", "x" * 40, "archive", "sharedx", "SHARED"])
def test_ids_that_can_name_partitions(id: str) -> None:
    assert validate_institution_id(id) == id


@pytest.mark.parametrize(
    "id", ["", "x" * 41, "a b", "a:b", "é", "shared", "archive_1", "a\n", "a/b", "a.b"]
)
def test_ids_that_cannot(id: str) -> None:
    with pytest.raises(InvalidInstitution, match="Institution id"):
        validate_institution_id(id)
