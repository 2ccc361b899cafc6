"""One transaction's view of one board: what the service's methods read it by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial

from lb_pipelines.core.history import periods
from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import DayRange, Term, institution_term
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.db.engine import Connection
from lb_pipelines.db.repositories import institutions, reading
from lb_pipelines.db.repositories.reading import NamedBoard, Opening, StoredBoard
from lb_pipelines.errors import NotMaterialized, UnknownStudent
from lb_pipelines.materialize.snapshots import asset_name
from lb_pipelines.service import students
from lb_pipelines.service.results import Board, BoardKey, Entry, Standing
from lb_pipelines.service.students import Place, Student

# As Entry(*row), a third faster: a year of months has 1,200 of them.
_entry = partial(tuple.__new__, Entry)


@dataclass(frozen=True)
class Reader:
    """One transaction's view of one board, and of the students asked for."""

    connection: Connection
    institution: Institution
    board: NamedBoard
    key: BoardKey
    students: Sequence[Student]

    def snapshots(
        self, wanted: Sequence[DayRange], at_most: int | None = None
    ) -> list[StoredBoard]:
        """The last snapshot of each period, whole."""
        return reading.closing_snapshots(
            self.connection,
            self.institution,
            self.board,
            self.key.granularity,
            wanted,
            at_most or len(wanted),
        )

    def places(self, wanted: Sequence[DayRange]) -> list[Place]:
        """The last snapshot of each period, for standings of the students asked for."""
        found = reading.closing_snapshots(
            self.connection,
            self.institution,
            self.board,
            self.key.granularity,
            wanted,
            len(wanted),
            student_ids=[student.id for student in self.students],
        )
        return [Place(self.key, self.board, stored) for stored in found]

    def standings(self, student: Student, places: Sequence[Place]) -> list[Standing]:
        """Where a student stood on each of these."""
        return students.standings(self.connection, self.institution, student, places)

    def periods(self, days: DayRange, *, every_day: bool = False) -> list[DayRange]:
        """The periods of the board in a range of days, newest first."""
        return periods(self.key.granularity, days, self._term_on(), every_day=every_day)

    def _term_on(self) -> Callable[[date], Term | None]:
        """Which term's TERM board the board has on a day."""
        if self.key.granularity is not Granularity.TERM:
            return lambda day: None
        if self.board.type is BoardType.CLASS:
            own = self.board.term
            return lambda day: own if own is not None and own.holds(day) else None
        return partial(institution_term, institutions.terms(self.connection, self.institution))

    def require_materialized(self, day: date) -> None:
        """Raise `NotMaterialized` where the day was never made."""
        asset = asset_name(self.key.type)
        if not reading.any_materialized(self.connection, self.institution, [asset], day):
            raise not_materialized(self.institution.id, day)


def not_materialized(institution_id: str, day: date) -> NotMaterialized:
    """The error of a day that was never made."""
    return NotMaterialized(
        f"The boards of {day} have not been made at {institution_id}",
        "Materialize that day, or ask for one that is there",
    )


def students_of(opening: Opening, student_ids: Sequence[str]) -> list[Student]:
    """The students asked for; raises `UnknownStudent`."""
    found = []
    for id, key in zip(student_ids, opening.students, strict=True):
        if key is None:
            raise UnknownStudent(opening.institution.id, id)
        found.append(Student(key, id))
    return found


def board_of(key: BoardKey, stored: StoredBoard) -> Board:
    """A whole stored board as a caller gets it."""
    figures, entries = stored.metadata, stored.entries
    assert figures is not None
    assert entries is not None
    return Board(
        key=key,
        day=stored.day,
        period_start=stored.period_start,
        entries=tuple(
            [
                _entry((e["rank"], e["studentId"], e["points"], e["previousRank"], None))
                for e in entries
            ]
        ),
        ranked=figures["ranked"],
        enrolled=figures["enrolled"],
        sum=figures["sum"],
        mean=figures["mean"],
        median=figures["median"],
        p90=figures["p90"],
        max=figures["max"],
        ties_cut=figures["tiesCut"],
        status=stored.status,
        academic_year=stored.academic_year,
        provenance=figures.get("provenance"),
    )
