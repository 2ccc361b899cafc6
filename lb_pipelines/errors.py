"""Every error that a person can cause, typed: each names the thing and the remedy.

Errors of programming stay ordinary exceptions. No room has error classes of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date


class LeaderboardError(Exception):
    """Base of all errors that name a thing and say what to do about it.

    `thing` is what is wrong, `remedy` what a person can do; `str()` gives both.
    """

    def __init__(self, thing: str, remedy: str) -> None:
        super().__init__(f"{thing}. {remedy}")
        self.thing = thing
        self.remedy = remedy


class UnknownInstitution(LeaderboardError):
    """No institution with this id."""

    def __init__(self, institution_id: str) -> None:
        super().__init__(
            f"Institution {institution_id!r} does not exist",
            "Import it first, or check the id in lb.institutions",
        )


class InactiveInstitution(LeaderboardError):
    """The institution exists, but its status is not ACTIVE."""

    def __init__(self, institution_id: str, status: str) -> None:
        super().__init__(
            f"Institution {institution_id!r} is {status}",
            "Set its status to ACTIVE in lb.institutions, or leave it out of the selection",
        )


class InvalidSetting(LeaderboardError):
    """A value in an institution's `metadata` that cannot be used."""

    def __init__(self, institution_id: str, key: str, value: object, expected: str) -> None:
        super().__init__(
            f"Institution {institution_id!r}: metadata.{key} is {value!r}",
            f"Set it to {expected}",
        )
        self.institution_id = institution_id
        self.key = key
        self.value = value


class UnknownSetting(InvalidSetting):
    """A key in `metadata` that begins like a setting and is none: misspelled, or in another case.

    `known` are the settings' keys that there are.
    """

    def __init__(self, institution_id: str, key: str, known: Sequence[str]) -> None:
        right = next((k for k in known if k.casefold() == key.casefold()), None)
        LeaderboardError.__init__(
            self,
            f"Institution {institution_id!r}: metadata.{key} is no setting",
            f"Write {right!r}" if right else f"Take it out, or write one of {', '.join(known)}",
        )
        self.institution_id = institution_id
        self.key = key


class InvalidMetadata(LeaderboardError):
    """A text that cannot be an institution's `metadata`."""


class InvalidInstitution(LeaderboardError):
    """A column of an institution that cannot be used (id, zone, start month)."""


class InstitutionLocked(LeaderboardError):
    """Data of an institution that another session kept locked for too long."""

    def __init__(self, institution_id: str, reason: str) -> None:
        super().__init__(
            f"Institution {institution_id!r} could not be asked in time ({reason})",
            "If another session holds its locks (pg_stat_activity, pg_blocking_pids), end it or "
            "wait for it; then run again",
        )


class UnreadableInstitution(LeaderboardError):
    """Data of an institution that cannot be, so that nothing follows from it."""

    def __init__(self, institution_id: str, reason: str) -> None:
        super().__init__(
            f"Institution {institution_id!r} has data that cannot be used ({reason})",
            "Correct what was written to its rows by hand (a date beyond the year 9999, a value of "
            "the wrong kind), then run again",
        )


class UnknownZone(LeaderboardError):
    """A name that is no time zone of the pinned `tzdata` package."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name!r} is no IANA time zone", "Use a name like 'Europe/London', in its exact case"
        )
        self.name = name


class InvalidPartition(LeaderboardError):
    """A day or partition key outside what the project holds."""


class WrongBoards(LeaderboardError):
    """Days of an institution that a blocking check found wrong."""

    def __init__(self, found: str) -> None:
        super().__init__(
            f"Found wrong: {found}; what builds on that was not made",
            "See the checks of these partitions; re-execute from failure writes the boards found "
            "wrong anew and goes on",
        )


class UnknownBoard(LeaderboardError):
    """No class, subject or campus with this id."""

    def __init__(self, institution_id: str, type: str, reference_id: str) -> None:
        super().__init__(
            f"Institution {institution_id!r} has no {type.lower()} {reference_id!r}",
            "Check the id (it is case-sensitive) and the type of the board",
        )


class NotMaterialized(LeaderboardError):
    """A day whose boards have not been made."""


class StaleBoard(LeaderboardError):
    """A board that no longer says what the events say, so that nothing exact follows from it."""


class InvalidSelection(LeaderboardError):
    """A choice of snapshots, days or dates that cannot be meant."""


class UnderLegalHold(LeaderboardError):
    """Something that a legal hold forbids."""

    def __init__(self, thing: str, hold: int, placed_by: str, reason: str) -> None:
        super().__init__(
            f"{thing} is under legal hold {hold} ({placed_by}: {reason})",
            "Release the hold first (`lb hold release`), if whoever placed it agrees",
        )
        self.hold = hold


class InvalidHold(LeaderboardError):
    """A legal hold that cannot be placed or released."""


class ExportRefused(LeaderboardError):
    """An export that was not begun, so that nothing of another is overwritten."""


class ExportDamaged(LeaderboardError):
    """An export of which a file is missing, changed or cannot be read."""

    def __init__(self, file: str, what: str) -> None:
        super().__init__(
            f"{file}: {what}", "Use another copy of this export; nothing was read from this one"
        )
        self.file = file
        self.what = what


class PassOvertaken(LeaderboardError):
    """A day that was not written, because what it had been made from changed each time."""

    def __init__(self, institution_id: str, asset: str, day: date, tries: int) -> None:
        super().__init__(
            f"{asset} of institution {institution_id!r}: {day} was not written in {tries} tries, "
            "each overtaken by an erasure of students or by another run",
            "Run it again from this day on when those are over; the days before it stay",
        )
        self.day = day


class UnknownStudent(LeaderboardError):
    """A student who is not there, by the id or key that was given."""

    def __init__(self, institution_id: str, student: str | int) -> None:
        what = f"key {student}" if isinstance(student, int) else f"id {student!r}"
        super().__init__(
            f"Institution {institution_id!r} has no student of {what}",
            "Give the id as the source writes it, or the student_key of lb.students",
        )


class InvalidErasure(LeaderboardError):
    """An erasure that cannot be meant: done already, for no reason, or naming the student."""


class ArchiveContradicted(LeaderboardError):
    """A snapshot that is ACTIVE though the archive has a copy of it: one of them is wrong."""

    def __init__(self, original_id: str) -> None:
        super().__init__(
            f"Snapshot {original_id!r} is ACTIVE, and the archive has a copy of it",
            "Compare both (`lb archive verify`), delete the wrong one by hand, then run again; "
            "what was moved before it stays",
        )
        self.original_id = original_id


class PartitionBusy(LeaderboardError):
    """A leaf or subtree that could not be made or moved, because others kept their locks."""

    def __init__(self, name: str, tries: int, reason: str) -> None:
        super().__init__(
            f"Partition {name!r} could not be locked in {tries} tries ({reason})",
            "End the transaction that holds it (pg_stat_activity, pg_locks) and run again; "
            "what was made before it stays",
        )
        self.name = name


class PartitionDetached(LeaderboardError):
    """A leaf that is needed, but its table stands outside the tree."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"Table lb_part.{name!r} exists, but is detached from its tree",
            "No purge has entered it: attach it again to keep its rows, or drop it, then run again",
        )
        self.name = name


class ImportRefused(LeaderboardError):
    """An import that wrote nothing, with the report of the rows refused."""

    def __init__(self, thing: str, remedy: str, report: object = None) -> None:
        super().__init__(thing, remedy)
        self.report = report


class DatabaseUnavailable(LeaderboardError):
    """The server cannot be reached, is not of a supported version, or lacks the schema."""


class MissingRole(DatabaseUnavailable):
    """The roles that keep institutions apart are not there, or not granted to whoever works."""

    def __init__(self, user: str) -> None:
        super().__init__(
            f"{user!r} is not a member of the roles lb_reader and lb_worker, and may not make them",
            "Let a superuser run: CREATE ROLE lb_reader NOLOGIN; CREATE ROLE lb_worker NOLOGIN; "
            f'GRANT lb_reader, lb_worker TO "{user}"; (without CREATE where they exist), '
            "then run `lb migrate` again",
        )
        self.user = user


class DagsterElsewhere(LeaderboardError):
    """Dagster's own tables are not where they can be read."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"Dagster's record of runs is not in PostgreSQL, but in {what}",
            "Configure storage in dagster.yaml as this project's dagster.yaml does",
        )


class InvalidEnvironment(LeaderboardError):
    """An environment variable that cannot be used."""

    def __init__(self, variable: str, value: str, expected: str) -> None:
        super().__init__(f"{variable} is {value!r}", f"Set it to {expected}, or leave it unset")
        self.variable = variable


class RunFailed(LeaderboardError):
    """`make run` could not bring up, or keep up, one of its parts."""
