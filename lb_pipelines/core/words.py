"""The words of the domain as closed types: the same spelling in Python, SQL, the UI and docs.

Here live only the enumerations and the ids' syntax; what is computed with them lives beside.
"""

from __future__ import annotations

import re
from enum import StrEnum

from lb_pipelines.errors import InvalidInstitution


class BoardType(StrEnum):
    """What a board ranks the students of."""

    CLASS = "CLASS"
    SUBJECT = "SUBJECT"
    CAMPUS = "CAMPUS"


class Granularity(StrEnum):
    """How far a board's window reaches back from its day."""

    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"
    TERM = "term"
    ALL_TIME = "all-time"


class RankMethod(StrEnum):
    """How ties are ranked: 1224, 1223 or 1234 (inside a tie always by student id)."""

    COMPETITION = "competition"
    DENSE = "dense"
    ORDINAL = "ordinal"


INSTITUTION_ID = re.compile(r"[A-Za-z0-9_-]{1,40}")
RESERVED_INSTITUTION_IDS = ("shared",)
RESERVED_INSTITUTION_PREFIX = "archive_"


def validate_institution_id(institution_id: str) -> str:
    """Return the id unchanged, or raise `InvalidInstitution` (ids name tables and partitions)."""
    if not INSTITUTION_ID.fullmatch(institution_id):
        raise InvalidInstitution(
            f"Institution id {institution_id!r} is not usable",
            "Use 1 to 40 characters of letters, digits, '_' and '-'",
        )
    if institution_id in RESERVED_INSTITUTION_IDS or institution_id.startswith(
        RESERVED_INSTITUTION_PREFIX
    ):
        raise InvalidInstitution(
            f"Institution id {institution_id!r} is reserved",
            "Choose an id other than 'shared' that does not begin with 'archive_'",
        )
    return institution_id
