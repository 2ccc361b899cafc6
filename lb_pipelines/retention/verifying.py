"""Verification: every archived original has its copy with equal content, every copy a reason.

Read from the rows, not from what wrote them; month by month, so that its memory does not grow with
the history.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import ONE_DAY, DayRange, next_month
from lb_pipelines.db.engine import Database
from lb_pipelines.db.partitions.names import months_between
from lb_pipelines.db.repositories import retention as repository
from lb_pipelines.db.repositories import verification
from lb_pipelines.db.repositories.retention import Comparison


@dataclass(frozen=True)
class ArchiveVerdict:
    """How many originals are marked ARCHIVED and how many copies there are; then what is wrong.

    `missing`: ARCHIVED without a copy; `differing`: the copy has another hash, or says something
    else under the same; `active_with_copy`: ACTIVE though archived; `doubled`: copies beyond the
    first of one original; `unexplained`: copies without an original that neither a purge nor an
    import accounts for. `example` is the id of a snapshot that is wrong.
    """

    originals: int = 0
    copies: int = 0
    missing: int = 0
    differing: int = 0
    active_with_copy: int = 0
    doubled: int = 0
    unexplained: int = 0
    example: str | None = None

    def joined(self, found: Comparison) -> ArchiveVerdict:
        """The verdict with what one more month has shown."""
        counts = {
            field.name: getattr(self, field.name) + getattr(found, field.name)
            for field in fields(self)
            if field.name != "example"
        }
        return replace(self, **counts, example=self.example or found.example)

    @property
    def wrong(self) -> int:
        """How many things are wrong; 0: the archive can be relied on."""
        return (
            self.missing + self.differing + self.active_with_copy + self.doubled + self.unexplained
        )


def verify(
    database: Database, institution: Institution, days: DayRange | None = None
) -> ArchiveVerdict:
    """Compare the institution's originals and copies of these days, of all unless given."""
    if days is None:
        with database.transaction() as connection:
            days = repository.span_of(connection, institution)
    if days is None:
        return ArchiveVerdict()
    verdict = ArchiveVerdict()
    for month in months_between(days.first, days.last):
        part = DayRange(max(month, days.first), min(next_month(month) - ONE_DAY, days.last))
        with database.transaction() as connection:
            found = repository.compare(connection, institution, part)
            altered, example = verification.altered_copies(connection, institution, part)
        verdict = verdict.joined(
            replace(
                found,
                differing=found.differing + altered,
                example=found.example or example,
            )
        )
    return verdict
