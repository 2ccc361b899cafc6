"""An institution's `metadata`: its JSON, and all settings in it at once.

What a setting means lies where it is used (`Institution`, `RetentionPolicy`); what is refused here
is what is refused there, because the same code is asked.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from lb_pipelines.core.institution import LIMITS_KEY, RANKING_KEY, SETTING_PREFIX, Institution
from lb_pipelines.core.retention import PURGE_KEY, RETENTION_KEY, RetentionPolicy
from lb_pipelines.errors import InvalidMetadata, UnknownSetting

SETTING_KEYS = (LIMITS_KEY, RANKING_KEY, RETENTION_KEY, PURGE_KEY)
"""All keys that mean something here; any other may hold what somebody else needs."""
LONGEST_METADATA = 1_000_000
"""Characters; PostgreSQL's own limit is beyond reason."""
DEEPEST = 100
"""Objects and lists inside each other; thousands exhaust the stack, here or in PostgreSQL."""

_LONGEST_NUMBER = 100
_LARGEST_EXPONENT = 400
_NOT_IN_JSONB = re.compile("[\x00\ud800-\udfff]")


def parse_metadata(text: str) -> dict[str, Any]:
    """The object of a JSON text that PostgreSQL's jsonb takes as the same.

    Raises `InvalidMetadata` where it is none or jsonb would not take it: NaN and Infinity, U+0000,
    half of a surrogate pair; and for what nobody can mean: a key given twice, a number beyond
    doubles, nesting deeper than `DEEPEST`, more than `LONGEST_METADATA` characters.
    """
    if len(text) > LONGEST_METADATA:
        raise InvalidMetadata(
            f"metadata has {len(text):,} characters",
            f"Leave at most {LONGEST_METADATA:,}; large things belong elsewhere",
        )
    try:
        metadata = json.loads(
            text,
            parse_constant=_refuse_constant,
            parse_float=_parse_number,
            parse_int=_parse_number,
            object_pairs_hook=_build_object,
        )
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        raise InvalidMetadata(f"no JSON: {error}", "Write a JSON object") from None
    if not isinstance(metadata, dict):
        raise InvalidMetadata("no JSON object", 'Write an object, as {"key": "value"}')
    _check_texts_and_depth(metadata)
    return metadata


def validate_settings(institution: Institution) -> None:
    """Raise `InvalidSetting` for the first setting in `metadata` that cannot be used.

    Also for a key that begins like a setting, in any case, and is none: a misspelled setting would
    be overlooked in silence.
    """
    for key in institution.metadata:
        if key.casefold().startswith(SETTING_PREFIX) and key not in SETTING_KEYS:
            raise UnknownSetting(institution.id, key, SETTING_KEYS)
    institution.validate_settings()
    RetentionPolicy.of(institution)


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidMetadata(f"holds {name}, which is no JSON", "Write null, or leave the key out")


def _parse_number(text: str) -> int | float:
    exponent = text.lower().partition("e")[2]
    if (
        len(text) > _LONGEST_NUMBER
        or abs(int(exponent or 0)) > _LARGEST_EXPONENT
        or math.isinf(float(text))
    ):
        shown = text if len(text) <= _LONGEST_NUMBER else f"{text[:20]}..."
        raise InvalidMetadata(
            f"holds the number {shown}", "Write one that a double can hold, or put it in quotes"
        )
    return float(text) if set(text) & set(".eE") else int(text)


def _build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise InvalidMetadata(f"holds the key {twice!r} twice", "Leave one of the two")
    return found


def _check_texts_and_depth(metadata: Mapping[str, Any]) -> None:
    level: list[Any] = [metadata]
    for _ in range(DEEPEST):
        inside: list[Any] = []
        for container in level:
            if isinstance(container, dict):
                inside += container.keys()
                inside += container.values()
            else:
                inside += container
        for value in inside:
            if isinstance(value, str) and _NOT_IN_JSONB.search(value):
                raise InvalidMetadata(
                    f"holds {value[:100]!r}, which PostgreSQL cannot store",
                    "Take out U+0000 and halves of surrogate pairs",
                )
        level = [value for value in inside if isinstance(value, dict | list)]
        if not level:
            return
    raise _too_deep()


def _too_deep() -> InvalidMetadata:
    return InvalidMetadata(
        f"more than {DEEPEST} objects and lists inside each other", "Write it flatter"
    )
