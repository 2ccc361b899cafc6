"""What a materialization is given and what it says of itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime

import lb_pipelines


@dataclass(frozen=True)
class Provenance:
    """Who writes: the run's id (text of any kind) and the version of the code."""

    run_id: str
    code_version: str = lb_pipelines.__version__


@dataclass(frozen=True)
class DayResult:
    """One (institution, asset, day) after its commit.

    `rows` is what the day holds by its events, `written` how many rows of it were new or changed,
    `seconds` the time from the last result to this one. `numbers` are further figures for plots;
    `superseded` says that another run had already written from a later state of the events, so
    that nothing was written here. Of rows in the archive `archived_kept` stayed as they were,
    `archived_differing` of these although the events now say something else; `archived_renewed`
    were made anew on purpose, or went with their boards. `through_revision` and `watermark` are the
    state of the events that the day was made from; None where it is made from no events.
    """

    institution_id: str
    asset: str
    day: date
    rows: int
    written: int
    seconds: float
    numbers: dict[str, int | float] = field(default_factory=dict)
    superseded: bool = False
    archived_kept: int = 0
    archived_differing: int = 0
    archived_renewed: int = 0
    through_revision: int | None = None
    watermark: datetime | None = None
