"""Pseudonyms of erased students: an id that says nothing, and a place among the others' ids.

Ids break ties, so an erased student must not move among them: an order key stands in for the id
where students are ordered. Rows that name the student get the pseudonym in place; that and
`core.snapshot_content.rehash` or `trend_hash` give, hash included, what materializing them again
would give.
"""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any

import numpy as np

from lb_pipelines.core.trends import content_hash

# Code points that a text in PostgreSQL can hold: neither NUL nor UTF-16's surrogates.
_LEAST, _BEYOND = 0x01, 0x110000
_SURROGATES = range(0xD800, 0xE000)
_READABLE = 0x7F

_MOVERS = ("studentId", "rank", "previousRank", "rankChange")
_MOVEMENT: Mapping[str, tuple[str, ...] | None] = {
    "top3": ("rank", "studentId", "points"),
    "entrants": None,
    "leavers": None,
    "climbers": _MOVERS,
    "fallers": _MOVERS,
}
_STUDENTS = (*_MOVERS, "points", "pointsChange")


def pseudonym() -> str:
    """A new id for an erased student: random, so that it leads back to nobody."""
    return f"erased-{secrets.token_hex(8)}"


def suppression(salt: bytes, id: str) -> bytes:
    """What is kept of an erased id, to know it when it comes again; as `lb.erasures` says."""
    return sha256(salt + id.encode()).digest()


def between(lower: str | None, upper: str | None) -> str:
    """A text after `lower` and before `upper` in the order of code points; None: no such bound.

    It depends on its bounds alone. None ends with U+0001, so that there is always another between
    it and either bound. Raises ValueError where nothing lies between: where `upper` does not come
    after `lower`, or is `lower` and then U+0001 alone, which no import lets in.
    """
    made, low, high = "", lower or "", upper
    while True:
        least = ord(low[0]) if low else 0
        most = _BEYOND if high is None else ord(high[0]) if high else 0
        if most < least or not most:
            raise ValueError(f"no text lies between {lower!r} and {upper!r}")
        if most > least:
            middle = _middle(least, most)
            if middle is not None:
                return made + chr(middle)
            # No letter fits between: go on along `low` if that is longer, else along `high`.
            if least or most > _LEAST + 1:
                high = None
            elif most == _LEAST + 1:
                least, high = _LEAST, None
            else:
                least = most
        made += chr(least)
        low = low[1:]
        high = high[1:] if high is not None else None


def _middle(least: int, most: int) -> int | None:
    """A code point between the two, above U+0001; None where there is none."""
    least = max(least, _LEAST)
    if most > _READABLE > least + 1:
        most = _READABLE
    middle = (least + most) // 2
    if middle in _SURROGATES:
        middle = _SURROGATES.start - 1 if _SURROGATES.start - 1 > least else _SURROGATES.stop
    return middle if least < middle < most else None


def replaced(value: Any, id: str, pseudonym: str) -> Any:
    """The entries, movement or students of a row (parsed JSON) with the pseudonym for the id."""
    if isinstance(value, str):
        return pseudonym if value == id else value
    if isinstance(value, Mapping):
        return {name: replaced(of, id, pseudonym) for name, of in value.items()}
    if isinstance(value, list):
        return [replaced(of, id, pseudonym) for of in value]
    return value


def trend_hash(
    figures: Iterable[float | None],
    movement: Mapping[str, Any],
    students: Iterable[Mapping[str, Any]],
) -> bytes:
    """The `content_hash` of a stored trend; `figures` in the order of `core.trends`, None: null.

    Raises ValueError where a member is missing.
    """
    try:
        parts = (
            f'"{name}":{_list(movement[name], members)}' for name, members in _MOVEMENT.items()
        )
        texts = f"{{{','.join(parts)}}}", _list(students, _STUDENTS)
    except (KeyError, TypeError) as error:
        raise ValueError(f"no content of a trend: {error!r}") from error
    numbers = np.array([math.nan if of is None else of for of in figures], dtype=np.float64)
    return content_hash(numbers, *(text.encode() for text in texts))


def _list(items: Iterable[Any], members: tuple[str, ...] | None) -> str:
    return json.dumps(
        [{name: item[name] for name in members} if members else item for item in items],
        ensure_ascii=False,
        separators=(",", ":"),
    )
