"""An institution's metadata: what is let in PostgreSQL takes, and every setting can be used."""

from __future__ import annotations

import json
import sys
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.metadata import (
    DEEPEST,
    LONGEST_METADATA,
    SETTING_KEYS,
    parse_metadata,
    validate_settings,
)
from lb_pipelines.core.retention import RetentionPolicy
from lb_pipelines.db.engine import Database
from lb_pipelines.errors import InvalidMetadata, InvalidSetting, UnknownSetting
from lb_pipelines_tests import worlds


def nested(depth: int, opening: str = "[", closing: str = "]") -> str:
    return '{"a": ' + opening * (depth - 1) + closing * (depth - 1) + "}"


@pytest.mark.parametrize(
    ("text", "thing"),
    [
        ('{"a": NaN}', "holds NaN"),
        ('{"a": [-Infinity]}', "holds -Infinity"),
        ('{"a": Infinity}', "holds Infinity"),
        (r'{"a": "\u0000"}', r"holds '\x00'"),
        (r'{"a\u0000": 1}', r"holds 'a\x00'"),
        (r'{"a": {"b": ["x", "\ud800"]}}', r"holds '\ud800'"),
        (r'{"a": "\udc00\ud800"}', r"holds '\udc00\ud800'"),
        ('{"a": 1e400}', "holds the number 1e400"),
        ('{"a": -1e309}', "holds the number -1e309"),
        ('{"a": 0e999999}', "holds the number 0e999999"),
        ('{"a": 1e-99999}', "holds the number 1e-99999"),
        ('{"a": ' + "1" * 200 + "}", "holds the number 11111111111111111111..."),
        ('{"a": ' + "1" * 5000 + "}", "holds the number 11111111111111111111..."),
        ('{"a": 0.' + "0" * 20000 + "1}", "holds the number 0.0000"),
        ('{"a": 1, "b": {"c": 1, "d": 2, "c": 1}}', "holds the key 'c' twice"),
        (nested(DEEPEST + 1), "more than 100 objects and lists"),
        (nested(2000), "more than 100 objects and lists"),
        (nested(200_000), "more than 100 objects and lists"),
        ('{"b":' * 2000 + "1" + "}" * 2000, "more than 100 objects and lists"),
        (json.dumps({"a": "x" * LONGEST_METADATA}), "characters"),
        ("[1]", "no JSON object"),
        ("null", "no JSON object"),
        ("", "no JSON"),
        ("{", "no JSON"),
        ("{'a': 1}", "no JSON"),
        ('{"a": 1,}', "no JSON"),
        ('{"a": 01}', "no JSON"),
        ('\ufeff{"a": 1}', "no JSON"),
        ('{"a": "\x01"}', "no JSON"),
        ('{"a": "\0"}', "no JSON"),
        ('{"a": 1}\0', "no JSON"),
        ('\u00a0{"a": 1}', "no JSON"),
    ],
)  # fmt: skip
def test_a_text_that_is_no_metadata(text: str, thing: str) -> None:
    with pytest.raises(InvalidMetadata) as raised:
        parse_metadata(text)
    assert thing in raised.value.thing
    assert len(str(raised.value)) < 300


def test_a_stack_that_is_deep_already_changes_nothing() -> None:
    def descend(frames: int) -> dict[str, Any]:
        return descend(frames - 1) if frames else parse_metadata(nested(DEEPEST))

    used = len(__import__("inspect").stack())
    assert descend(sys.getrecursionlimit() - used - 3 * DEEPEST)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
PIECES = [
    "NaN", "Infinity", "1e999", "-1e-999", "-0", "1E2", "1e131073", "01", "1.", ".5", "+1", "0x1",
    r"\u0000", r"\ud83d\ude00", r"\ud83d", r"\udc00", r"\u00e9", r"\u12", r"\x", "\\", r"\/", "\0",
    '"', "'", "{", "}", "[", "]", ":", ",", " ", "\t", "\x0b", "\u00a0", "\ufeff", "\x7f", "\n",
    '"a":1,', "true", "True", "null", "[" * 200, "é", "🎓", "\u2028",
]  # fmt: skip


@st.composite
def json_texts(draw: st.DrawFn) -> str:
    """JSON of an object, and what comes of it when pieces get into it."""
    value = draw(st.dictionaries(st.text(max_size=3), json_values, max_size=4))
    text = json.dumps(value, ensure_ascii=draw(st.booleans()))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(text)))
        piece = draw(st.sampled_from(PIECES) | st.text(max_size=2))
        text = text[:at] + piece + text[at + draw(st.integers(0, 1)) :]
    return text


def with_floats(value: Any) -> Any:
    """JSON with every number as a double: PostgreSQL writes 1e2 as 100."""
    if isinstance(value, dict):
        return {key: with_floats(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [with_floats(inner) for inner in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=1500, deadline=None
)
@given(json_texts())
@example('{"a": 1e400}')
@example(nested(DEEPEST))
@example('{"a": ' + "9" * 100 + ', "b": 1e-400, "c": 1e308}')
def test_what_is_accepted_postgresql_takes_as_the_same(database: Database, text: str) -> None:
    try:
        parsed = parse_metadata(text)
    except InvalidMetadata:
        return
    with database.transaction() as connection:
        row = connection.execute("SELECT %s::text::jsonb", (text,)).fetchone()
    assert row is not None
    assert with_floats(row[0]) == with_floats(parsed)


@pytest.mark.parametrize(
    "text", ['{"a": NaN}', r'{"a": "\u0000"}', r'{"a": "\ud800"}', nested(200_000), '{"a": 01}']
)
def test_postgresql_refuses_these_indeed(database: Database, text: str) -> None:
    with pytest.raises(psycopg.Error), database.transaction() as connection:
        connection.execute("SELECT %s::text::jsonb", (text,))


def institution(metadata: dict[str, Any]) -> Institution:
    return Institution(1, "inst_1", "One", "ACTIVE", "UTC", metadata=metadata)


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"color": "red", "LEADER": 1, "leader": {"daily": "x"}, "xleaderboardLimits": 1},
        {"leaderboardRetention": {"daily": 1, "all-time": 36500}, "leaderboardPurge": None},
        {"leaderboardPurge": {"graceDays": 30}, "leaderboardRanking": "ordinal"},
        {"leaderboardLimits": {"CLASS": {"daily": 1}}},
    ],
)
def test_settings_that_can_be_used(metadata: dict[str, Any]) -> None:
    validate_settings(institution(metadata))


WRONG: list[tuple[dict[str, Any], str]] = [
    *(
        ({"leaderboardRetention": {"daily": days}}, "leaderboardRetention.daily")
        for days in ("30", 0, -1, 99999999999, None, 30.0, True, [30])
    ),
    *(
        ({"leaderboardRetention": {name: 30}}, f"leaderboardRetention.{name}")
        for name in ("dayly", "DAILY", "all_time", "allTime", " daily", "")
    ),
    *(({"leaderboardRetention": value}, "leaderboardRetention") for value in (30, None, [], "x")),
    *(({"leaderboardPurge": value}, "leaderboardPurge") for value in (True, {}, 0, 30, "x", [])),
    ({"leaderboardPurge": {"gracedays": 30}}, "leaderboardPurge"),
    ({"leaderboardPurge": {"graceDays": "30"}}, "leaderboardPurge.graceDays"),
    ({"leaderboardLimits": {"class": {"daily": 5}}}, "leaderboardLimits.class"),
    ({"leaderboardLimits": {"CLASS": {"Daily": 5}}}, "leaderboardLimits.CLASS.Daily"),
    ({"leaderboardLimits": {"CLASS": {"all_time": 5}}}, "leaderboardLimits.CLASS.all_time"),
    ({"leaderboardRanking": "Dense"}, "leaderboardRanking"),
]
WRONG_KEYS = [
    "leaderboardretention", "LEADERBOARDLIMITS", "LeaderboardRanking", "leaderboardPURGE",
    "leaderboardLimit", "leaderboard", "leaderboard_limits", "leaderboardColor",
]  # fmt: skip


@pytest.mark.parametrize(("metadata", "key"), WRONG)
def test_a_setting_that_cannot_be_used_is_named(metadata: dict[str, Any], key: str) -> None:
    with pytest.raises(InvalidSetting) as raised:
        validate_settings(institution(metadata))
    assert raised.value.key == key
    assert f"metadata.{key} is " in raised.value.thing


@pytest.mark.parametrize("key", WRONG_KEYS)
def test_a_key_that_only_resembles_a_setting_is_named(key: str) -> None:
    with pytest.raises(UnknownSetting) as raised:
        validate_settings(institution({"other": 1, key: {"daily": 45}}))
    assert raised.value.key == key
    right = [known for known in SETTING_KEYS if known.lower() == key.lower()]
    assert raised.value.remedy == (
        f"Write {right[0]!r}"
        if right
        else f"Take it out, or write one of {', '.join(SETTING_KEYS)}"
    )


settings_and_slips = st.one_of(
    worlds.settings(),
    st.sampled_from([metadata for metadata, _ in WRONG]),
    st.sampled_from(WRONG_KEYS[:4]).map(lambda key: {key: {"daily": 45}}),
)


@given(settings_and_slips, settings_and_slips)
def test_what_an_import_accepts_can_be_used(one: dict[str, Any], other: dict[str, Any]) -> None:
    """And the other way round: what a use refuses is refused by the import."""
    used = institution({**one, **other})
    problems = []
    for use in (lambda: used.validate(), lambda: RetentionPolicy.of(used)):
        try:
            use()
        except InvalidSetting as error:
            problems.append(str(error))
    try:
        validate_settings(used)
    except InvalidSetting:
        assert problems
    else:
        assert not problems
