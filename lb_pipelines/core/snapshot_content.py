"""The content hash of a stored snapshot, computed again from what the database gives back.

jsonb keeps neither the order of members nor how a number was written, so the texts that
`core.snapshots` hashed are made anew here; a property test holds the two together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date
from json.encoder import encode_basestring
from typing import Any

from lb_pipelines.core.snapshots import content_hash

_FIGURES = ("ranked", "enrolled", "sum", "mean", "median", "p90", "max", "tiesCut")
_FRACTIONS = frozenset(("mean", "median", "p90"))


def rehash(
    entries: Iterable[Mapping[str, Any]],
    metadata: Mapping[str, Any],
    distribution: bytes,
    period_start: date,
) -> bytes:
    """The `content_hash` that this content has; `metadata` beyond the statistics does not count.

    Raises ValueError where a member is missing or of another kind.
    """
    try:
        texts = [_entry(entry) for entry in entries]
        figures = ",".join(f'"{name}":{_figure(name, metadata[name])}' for name in _FIGURES)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no content of a snapshot: {error!r}") from error
    return content_hash(
        period_start.isoformat(),
        f"[{','.join(texts)}]".encode(),
        figures.encode(),
        bytes(distribution),
    )


def _entry(entry: Mapping[str, Any]) -> str:
    rank, points, previous = entry["rank"], entry["points"], entry["previousRank"]
    # Every entry of every row comes through here: exact types are the cheapest look.
    if type(rank) is not int or type(points) is not int:
        raise TypeError(f"{rank!r} or {points!r} is no whole number")
    if previous is None:
        previous = "null"
    elif type(previous) is not int:
        raise TypeError(f"{previous!r} is no whole number")
    # As json.dumps(..., ensure_ascii=False), which makes an encoder a call.
    student = encode_basestring(entry["studentId"])
    return f'{{"rank":{rank},"studentId":{student},"points":{points},"previousRank":{previous}}}'


def _figure(name: str, value: object) -> str:
    if name not in _FRACTIONS:
        return str(_whole(value))
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} is {value!r}")
    # jsonb writes 1e+16 as a whole number.
    return repr(float(value))


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{value!r} is no whole number")
    return value
