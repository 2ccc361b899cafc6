"""Which archived snapshots are meant: what a reader, a restore and an export are told.

Pure: a selection is checked when it is made, so nobody further in meets one that cannot be meant.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import Any, TypeVar

from lb_pipelines.core.periods import academic_years_around
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.errors import InvalidSelection

Word = TypeVar("Word", bound=StrEnum)


@dataclass(frozen=True)
class ArchiveSelection:
    """Snapshots of the archive by any of these; what is left empty or None selects all.

    Types and granularities may be given as texts. Raises `InvalidSelection` where a part is not
    possible, or where no academic year given can hold a day given.
    """

    types: tuple[BoardType, ...] = ()
    granularities: tuple[Granularity, ...] = ()
    reference_ids: tuple[str, ...] = ()
    first_day: date | None = None
    last_day: date | None = None
    academic_years: tuple[str, ...] = ()
    term_ids: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "types", _words(BoardType, "type", self.types))
        object.__setattr__(
            self, "granularities", _words(Granularity, "granularity", self.granularities)
        )
        for name, what in (("reference_ids", "board"), ("term_ids", "term")):
            object.__setattr__(self, name, _ids(what, getattr(self, name)))
        years = tuple(sorted(set(self.academic_years)))
        for year in years:
            _check_year(year)
        object.__setattr__(self, "academic_years", years)
        if self.first_day and self.last_day and self.last_day < self.first_day:
            raise InvalidSelection(
                f"The days {self.first_day} to {self.last_day} run backwards",
                "Give the earlier day first",
            )
        if years and not any(self.first_year <= year <= self.last_year for year in years):
            raise InvalidSelection(
                f"No day from {self.first_day or 'the first'} to {self.last_day or 'the last'}"
                f" lies in {', '.join(years)}",
                "Leave out the days or the academic years",
            )

    @property
    def first_year(self) -> str:
        """The first academic year that can hold a selected day; sorts before all where none is."""
        return "" if self.first_day is None else academic_years_around(self.first_day)[0]

    @property
    def last_year(self) -> str:
        """The last academic year that can hold a selected day; sorts after all where none is."""
        return "9999-9999" if self.last_day is None else academic_years_around(self.last_day)[-1]

    def as_json(self) -> dict[str, Any]:
        """Only what is selected by, for ledgers and manifests."""
        parts = {
            "types": [str(type) for type in self.types],
            "granularities": [str(granularity) for granularity in self.granularities],
            "referenceIds": list(self.reference_ids),
            "firstDay": self.first_day and self.first_day.isoformat(),
            "lastDay": self.last_day and self.last_day.isoformat(),
            "academicYears": list(self.academic_years),
            "termIds": list(self.term_ids),
        }
        return {name: value for name, value in parts.items() if value}

    @classmethod
    def from_json(cls, parts: Mapping[str, Any]) -> ArchiveSelection:
        """What `as_json` gave."""
        first, last = parts.get("firstDay"), parts.get("lastDay")
        return cls(
            types=tuple(parts.get("types", ())),
            granularities=tuple(parts.get("granularities", ())),
            reference_ids=tuple(parts.get("referenceIds", ())),
            first_day=date.fromisoformat(first) if first else None,
            last_day=date.fromisoformat(last) if last else None,
            academic_years=tuple(parts.get("academicYears", ())),
            term_ids=tuple(parts.get("termIds", ())),
        )


def _words(kind: type[Word], what: str, values: Iterable[str]) -> tuple[Word, ...]:
    given = set(values)
    for value in sorted(given):
        if value not in list(kind):
            raise InvalidSelection(
                f"{value!r} is no {what} of a board", f"Give one of {', '.join(kind)}"
            )
    return tuple(word for word in kind if word in given)


def _ids(what: str, values: Iterable[str]) -> tuple[str, ...]:
    ids = tuple(sorted(set(values)))
    for id in ids:
        if not id or "\0" in id:
            raise InvalidSelection(f"{id!r} is no id of a {what}", "Give the id as it was imported")
    return ids


def _check_year(year: str) -> None:
    if not re.fullmatch(r"\d{4}-\d{4}", year) or int(year[5:]) != int(year[:4]) + 1:
        raise InvalidSelection(f"{year!r} is no academic year", "Write it as 2023-2024")
