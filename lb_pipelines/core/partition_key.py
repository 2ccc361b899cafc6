"""The partition key `{INSTITUTION_ID}_{TYPE}_{YYYY-MM}`: a label, and the name of a leaf.

PostgreSQL computes the same label in a generated column; a test holds the two equal.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date

from lb_pipelines.core.words import BoardType, validate_institution_id
from lb_pipelines.errors import InvalidPartition

_PATTERN = re.compile(
    r"(?P<institution>[A-Za-z0-9_-]+)_(?P<type>CLASS|SUBJECT|CAMPUS)_(?P<month>\d{4}-\d{2})"
)


@dataclass(frozen=True, order=True)
class PartitionKey:
    """One institution's (or the shared subtree's) boards of one type in one month.

    `month` is the first of the month. The text form is unambiguous though ids may hold `_`,
    because type and month are read from the right.
    """

    institution_id: str
    type: BoardType
    month: date

    def __str__(self) -> str:
        return f"{self.institution_id}_{self.type}_{self.month.isoformat()[:7]}"

    @classmethod
    def of(cls, institution_id: str, type: BoardType, day: date) -> PartitionKey:
        """The key under which a snapshot of `day` lies."""
        return cls(validate_institution_id(institution_id), type, day.replace(day=1))

    @classmethod
    def parse(cls, text: str) -> PartitionKey:
        """Read a key back; raises `InvalidPartition` for anything that `str()` would not give."""
        match = _PATTERN.fullmatch(text)
        try:
            if match is None:
                raise ValueError(text)
            year, month = match["month"].split("-")
            return cls.of(
                match["institution"], BoardType(match["type"]), date(int(year), int(month), 1)
            )
        except ValueError:
            raise InvalidPartition(
                f"{text!r} is no partition key",
                "Write it as {INSTITUTION_ID}_{TYPE}_{YYYY-MM}, e.g. inst_123_CLASS_2023-07",
            ) from None
