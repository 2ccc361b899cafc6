"""Verification of what was materialized: aggregates and snapshots of an institution's days.

Read from the rows, not from what wrote them, and against the events themselves. A range of days is
read in one go. Rows that stem from an older state of the events than there is now contradict
nothing: they are outdated, the late-events sensor has them made again, and the verdict says so.

After a materialization the inside of up to `at_most` boards of a day is looked at, drawn anew for
each day, for to read all of them costs half of what writing them did; figures, sums, leaves and
counts are always of all boards. Nothing reads further back than a month before the days.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum
from functools import cached_property

from lb_pipelines.core import checking
from lb_pipelines.core.checking import NOBODY, Difference
from lb_pipelines.core.enrolment import Enrolment
from lb_pipelines.core.institution import Institution
from lb_pipelines.core.partition_key import PartitionKey
from lb_pipelines.core.periods import ONE_DAY, DayRange, baseline_day
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.db.engine import Connection, Database
from lb_pipelines.db.partitions.leaves import attached, is_dedicated
from lb_pipelines.db.partitions.names import SHARED
from lb_pipelines.db.repositories import directory, institutions, ledger, verification
from lb_pipelines.db.repositories.verification import (
    BoardName,
    Content,
    DaySums,
    StoredBoard,
    Sums,
)
from lb_pipelines.materialize.snapshots import asset_name

SAMPLE = 100
"""Boards of a day whose inside is looked at after it was written."""
DAYS_AT_ONCE = 8
_EXPLAINED = 20
"""Boards of a day with more ranked than enrolled that are looked into after it was written."""


class Check(StrEnum):
    """What is asked of the snapshots of a day, by the names that Dagster shows."""

    RANKS = "ranks_agree_with_points"
    LIMITS = "entries_within_limits"
    SUMS = "sums_agree_with_events"
    COUNTS = "counts_agree_with_enrollments"
    STRANGERS = "no_foreign_rows"
    PREVIOUS = "previous_ranks_agree"
    PARTITION = "partition_holds_the_boards"


_INSIDE = {Check.RANKS, Check.LIMITS, Check.STRANGERS, Check.PREVIOUS}


@dataclass(frozen=True)
class Finding:
    """Something that is wrong: on which board, what, and both numbers.

    `board` None: on none in particular, but of what `whose` says, if anything.
    """

    board: BoardName | None
    difference: Difference
    whose: str = ""

    @property
    def where(self) -> str:
        """The board, or whatever else it is about, as a person reads it."""
        if self.board is None:
            return self.whose
        return f"{self.board.reference_id} {self.board.granularity}"


@dataclass(frozen=True)
class Verdict:
    """Of a day: how many boards it has and how many were looked at, and what is wrong.

    `outdated`: it was made from an older state of the events, so that this says nothing.
    """

    boards: int = 0
    looked_at: int = 0
    findings: tuple[Finding, ...] = ()
    outdated: bool = False

    @property
    def wrong(self) -> int:
        """How many boards are wrong; what is wrong of none in particular counts as one more."""
        return len({finding.board for finding in self.findings})


@dataclass
class EventSums:
    """The events of an institution's days, read once for all that is held against them."""

    database: Database
    institution: Institution
    days: DayRange
    _read: dict[date, DaySums] = field(default_factory=dict)

    def of(self, day: date) -> DaySums:
        """The sums of a day of the range."""
        if day not in self._read:
            ahead = DayRange(day, min(self.days.last, day + (DAYS_AT_ONCE - 1) * ONE_DAY))
            with self.database.transaction(snapshot=True) as connection:
                self._read |= verification.event_sums(connection, self.institution, ahead)
        return self._read[day]


def verify_aggregates(
    database: Database, institution: Institution, days: DayRange, events: EventSums
) -> dict[date, Verdict]:
    """Hold the aggregates of each day against its events: as a whole, and by class, subject,
    campus and whose they are. A day that is found wrong is written anew the next time.
    """
    verdicts = {}
    for part in _parts(days):
        with database.transaction(snapshot=True) as connection:
            stored = verification.cell_sums(connection, institution, part)
        for day in part:
            found = stored.get(day)
            wrong = _wrong_sums(found, events.of(day))
            outdated = bool(wrong) and _outdated(database, institution, day)
            findings = () if outdated or not wrong else _told(database, institution, wrong)
            cells = len(found.sums) if found else 0
            verdicts[day] = Verdict(cells, cells, findings, outdated)
    distrusted = [day for day, verdict in verdicts.items() if verdict.findings]
    if distrusted:
        with database.transaction() as connection:
            verification.distrust_aggregates(connection, institution, distrusted)
    return verdicts


def verify_snapshots(
    database: Database,
    institution: Institution,
    type: BoardType,
    days: DayRange,
    events: EventSums,
    checks: Collection[Check] = tuple(Check),
    *,
    at_most: int | None = None,
) -> dict[Check, dict[date, Verdict]]:
    """The verdict of each of the checks on each of the days, by the settings as they are now.

    `at_most`: look into that many boards of each day; None: into all, and compare the numbers of
    enrolled students too. A board that is found wrong is written anew the next time.
    """
    verdicts: dict[Check, dict[date, Verdict]] = {check: {} for check in checks}
    for part in _parts(days):
        with database.transaction(snapshot=True) as connection:
            read = _Read(connection, institution, type, part, events, at_most)
            for check, of_day in read.verdicts(checks):
                verdicts[check] |= of_day
    wrong = {
        finding.board
        for of_day in verdicts.values()
        for verdict in of_day.values()
        for finding in verdict.findings
        if finding.board is not None
    }
    if wrong:
        with database.transaction() as connection:
            verification.distrust_boards(connection, institution, type, sorted(wrong))
    return verdicts


@dataclass
class _Read:
    """What stands of some days, in one state of the database, and what is asked of it."""

    connection: Connection
    institution: Institution
    type: BoardType
    days: DayRange
    events: EventSums
    at_most: int | None

    def __post_init__(self) -> None:
        self._boards: dict[date, list[StoredBoard]] = {day: [] for day in self.days}
        for board in verification.boards_of_days(
            self.connection, self.institution, self.type, self.days
        ):
            self._boards[board.name.day].append(board)
        self._copies: dict[date, set[BoardName]] = {}
        asset = asset_name(self.type)
        # Baselines lie up to a month before the days.
        self._known = DayRange(self.days.first - 31 * ONE_DAY, self.days.last)
        self._made = {
            made.day: made
            for made in ledger.materialized(self.connection, self.institution, asset, self._known)
        }

    def verdicts(self, checks: Collection[Check]) -> Iterator[tuple[Check, dict[date, Verdict]]]:
        """Of each of the checks its verdict on every day."""
        yield from self._inside([check for check in checks if check in _INSIDE])
        of_all = {
            Check.SUMS: self._sums,
            Check.COUNTS: self._counts,
            Check.PARTITION: self._partition,
        }
        for check in checks:
            if check in of_all:
                yield check, {day: of_all[check](day) for day in self.days}

    def _archived(self, day: date) -> Collection[BoardName]:
        """The boards of a day that have a copy in the archive, asked for once."""
        if day not in self._copies:
            self._copies[day] = verification.archived_boards(
                self.connection, self.institution, self.type, day
            )
        return self._copies[day]

    def _active(self, day: date) -> list[StoredBoard]:
        return [board for board in self._boards[day] if board.active]

    def _drawn(self, day: date) -> list[StoredBoard]:
        """The boards of a day to look into: another draw each day, the same for the same day."""
        boards = sorted(self._active(day), key=lambda board: board.name)
        if self.at_most is None or len(boards) <= self.at_most:
            return boards
        chance = random.Random(f"{self.institution.id} {self.type} {day}")
        return chance.sample(boards, self.at_most)

    def _inside(self, checks: Sequence[Check]) -> Iterator[tuple[Check, dict[date, Verdict]]]:
        """What takes the entries: of the boards drawn, and of what they are compared with."""
        if not checks:
            return
        drawn = {day: self._drawn(day) for day in self.days}
        names = [board.name for boards in drawn.values() for board in boards]
        earlier = {}
        if Check.PREVIOUS in checks:
            earlier = self._baselines(names)
        contents = verification.contents_of(
            self.connection, self.institution, self.type, sorted({*names, *earlier.values()})
        )
        for check in checks:
            verdicts = {}
            for day, boards in drawn.items():
                findings = [
                    Finding(board.name, difference)
                    for board in boards
                    for difference in self._differences(check, board, contents, earlier)
                ]
                if check is Check.STRANGERS:
                    findings += [
                        Finding(board.name, _NOT_OURS)
                        for board in self._active(day)
                        if board.key is None
                    ]
                outdated = check is Check.PREVIOUS and bool(boards) and not self._current(day)
                verdicts[day] = Verdict(
                    len(self._active(day)), len(boards), tuple(findings), outdated
                )
            yield check, verdicts

    def _differences(
        self,
        check: Check,
        board: StoredBoard,
        contents: Mapping[BoardName, Content],
        earlier: Mapping[BoardName, BoardName],
    ) -> Iterable[Difference]:
        content = contents[board.name]
        granularity = Granularity(board.name.granularity)
        limit = self.institution.limit(self.type, granularity)
        method = self.institution.rank_method
        match check:
            case Check.RANKS:
                return checking.ranks(
                    content.entries, content.figures, content.distribution, limit, method
                )
            case Check.LIMITS:
                return checking.limits(content.entries, board.count("ranked"), limit)
            case Check.STRANGERS:
                return checking.strangers(content.entries)
            case _:
                if board.name not in earlier:
                    return ()
                before = earlier[board.name]
                then = contents.get(before)
                if then is None and before not in self._archived(before.day):
                    return checking.previous_ranks(content.entries, NOBODY, 0, method)
                if then is None or not then.active:
                    return ()
                ranked = then.figures.get("ranked")
                return checking.previous_ranks(
                    content.entries, then.entries, ranked if isinstance(ranked, int) else 0, method
                )

    def _baselines(self, names: Iterable[BoardName]) -> dict[BoardName, BoardName]:
        """Of each board the earlier one that its previous ranks are from, where that day and the
        board's own are there and made from the state of the events as it is now.
        """
        wanted = {
            name: name._replace(day=baseline_day(Granularity(name.granularity), name.day))
            for name in names
        }
        return {
            name: then
            for name, then in wanted.items()
            if self._current(name.day) and self._current(then.day)
        }

    def _current(self, day: date) -> bool:
        made = self._made.get(day)
        return made is not None and made.through_revision >= self._revisions[day]

    @cached_property
    def _revisions(self) -> dict[date, int]:
        return verification.revisions_through(self.connection, self.institution, self._known)

    def _sums(self, day: date) -> Verdict:
        """Every daily board against the events of its day, one by one and all together."""
        boards = [b for b in self._boards[day] if b.name.granularity == Granularity.DAILY]
        found = {board.key: board for board in boards if board.key is not None}
        sums = {
            key: of_key
            for (type, key), of_key in self.events.of(day).sums.items()
            if type is self.type and key
        }
        findings: list[Finding] = []
        if day in self._made:
            names = self._names_of(sums.keys() - found.keys())
            for key, reference in sorted(names.items(), key=lambda pair: pair[1]):
                name = BoardName(day, reference, Granularity.DAILY)
                if name not in self._archived(day):
                    points = f"{_signed(sums[key].points):,} points"
                    findings.append(Finding(name, Difference("board", points, "no row")))
        for key, board in found.items():
            right = sums.get(key, Sums())
            if board.active and board.figures.get("sum") != _signed(right.points):
                findings.append(
                    Finding(
                        board.name,
                        Difference(
                            "sum of points",
                            f"{_signed(right.points):,}",
                            f"{board.count('sum'):,}" if "sum" in board.figures else "none",
                        ),
                    )
                )
        outdated = bool(findings) and (
            not self._current(day)
            or bool(verification.outdated_aggregates(self.connection, self.institution, [day]))
        )
        active = sum(board.active for board in boards)
        return Verdict(active, active, () if outdated else tuple(findings), outdated)

    def _names_of(self, keys: Collection[int]) -> dict[int, str]:
        """Ids of classes, subjects or campuses by key; the key itself where there is none."""
        if not keys:
            return {}
        ids = dict(zip(self._index.keys.tolist(), self._index.ids.to_pylist(), strict=True))
        return {key: ids.get(key, str(key)) for key in keys}

    def _counts(self, day: date) -> Verdict:
        """Ranked students against those enrolled: more only where they have points without it."""
        boards = self._active(day)
        findings = []
        if self.at_most is None:
            right = self._enrolled_on(day)
            findings = [
                Finding(
                    board.name,
                    Difference(
                        "enrolled students", f"{right[board.key]:,}", f"{board.count('enrolled'):,}"
                    ),
                )
                for board in boards
                if board.key is not None
                and board.key in right
                and right[board.key] != board.count("enrolled")
            ]
        more = sorted(b.name for b in boards if b.count("ranked") > b.count("enrolled"))
        if self.at_most is not None:
            more = more[:_EXPLAINED]
        by_name = {board.name: board for board in boards}
        enrolled = verification.enrolled_entries(self.connection, self.institution, self.type, more)
        for name, count in zip(more, enrolled, strict=True):
            if count > by_name[name].count("enrolled"):
                findings.append(
                    Finding(
                        name,
                        Difference(
                            f"enrolled students ({by_name[name].count('ranked'):,} are ranked)",
                            f"{count:,} at least",
                            f"{by_name[name].count('enrolled'):,}",
                        ),
                    )
                )
        return Verdict(len(boards), len(boards), tuple(findings))

    def _enrolled_on(self, day: date) -> dict[int, int]:
        """Students enrolled, by key of the class, subject or campus."""
        index, enrolment = self._enrolment
        return dict(zip(index.keys.tolist(), enrolment.on(day).tolist(), strict=True))

    @cached_property
    def _index(self) -> directory.Index:
        terms = institutions.terms(self.connection, self.institution)
        index, _ = directory.boards(self.connection, self.institution, self.type, terms)
        return index

    @cached_property
    def _enrolment(self) -> tuple[directory.Index, Enrolment]:
        students = directory.students(self.connection, self.institution)
        of_types = {self.type: self._index}
        found = directory.enrolments(self.connection, self.institution, of_types, students)
        return self._index, found[self.type]

    def _partition(self, day: date) -> Verdict:
        """The leaf of the day's month hangs in the tree and holds the boards, as many as were
        made. What is in the archive may have left it.
        """
        boards = self._boards[day]
        made = self._made.get(day)
        if made is None:
            missing = Difference("the day", "materialized", "not so")
            return Verdict(len(boards), len(boards), (Finding(None, missing),))
        leaf = self._leaf(day)
        present = {board.name for board in boards}
        gone: Collection[BoardName] = set()
        if len(present) != made.boards:
            gone = self._archived(day)
        findings = [
            Finding(board.name, Difference("leaf", leaf, board.leaf))
            for board in boards
            if board.leaf != leaf
        ]
        # The archive keeps boards whose events were voided since.
        held = len(present.union(gone))
        some_archived = bool(gone) or not all(board.active for board in boards)
        if held < made.boards or (held > made.boards and not some_archived):
            if not attached(self.connection, [leaf]):
                findings.append(Finding(None, Difference("leaf", leaf, "not in the tree")))
            findings.append(
                Finding(
                    None,
                    Difference(
                        f"boards, by window: {_by_window(present.union(gone))}",
                        f"{made.boards:,}",
                        f"{held:,}",
                    ),
                )
            )
            findings += self._gaps(present.union(gone))
        return Verdict(len(boards), len(boards), tuple(findings))

    def _gaps(self, names: Collection[BoardName]) -> Iterator[Finding]:
        """Boards that must be there because one of a narrower window is."""
        windows: dict[tuple[date, str], set[str]] = defaultdict(set)
        for name in names:
            windows[name.day, name.reference_id].add(name.granularity)
        for (day, reference), there in sorted(windows.items()):
            for wide in (Granularity.WEEKLY, Granularity.MONTHLY, Granularity.ALL_TIME):
                needed = wide is Granularity.ALL_TIME or Granularity.DAILY in there
                if needed and wide not in there:
                    yield Finding(
                        BoardName(day, reference, wide), Difference("board", "a row", "no row")
                    )

    def _leaf(self, day: date) -> str:
        return str(PartitionKey(self._owner, self.type, day.replace(day=1)))

    @cached_property
    def _owner(self) -> str:
        own = is_dedicated(self.connection, self.institution.id)
        return self.institution.id if own else SHARED


_NOT_OURS = Difference("reference", "a class, subject or campus of the institution", "none")


def _parts(days: DayRange) -> Iterator[DayRange]:
    first = days.first
    while first <= days.last:
        part = DayRange(first, min(days.last, first + (DAYS_AT_ONCE - 1) * ONE_DAY))
        yield part
        first = part.last + ONE_DAY


def _outdated(database: Database, institution: Institution, day: date) -> bool:
    with database.transaction(snapshot=True) as connection:
        return bool(verification.outdated_aggregates(connection, institution, [day]))


# Of what (see `SumsOfDay`), and what of it differs.
_WrongSums = list[tuple[tuple[BoardType | None, int], Difference]]


def _wrong_sums(stored: DaySums | None, events: DaySums) -> _WrongSums:
    """In which figures, and of what, the aggregates of a day do not say what its events say."""
    if stored is None:
        return [((None, 0), Difference("aggregates", "one row", "no row"))]
    wrong: _WrongSums = []
    for whose in sorted(stored.sums.keys() | events.sums.keys(), key=str, reverse=True):
        right, found = events.sums.get(whose, Sums()), stored.sums.get(whose, Sums())
        if right == found:
            continue
        for name in ("events", "points"):
            if getattr(right, name) != getattr(found, name):
                values = (f"{_signed(getattr(one, name)):,}" for one in (right, found))
                wrong.append((whose, Difference(name, *values)))
        if (right.events, right.points) == (found.events, found.points):
            wrong.append((whose, Difference("students", "those of the events", "others")))
    return wrong


def _told(database: Database, institution: Institution, wrong: _WrongSums) -> tuple[Finding, ...]:
    """The same with the ids of classes, subjects and campuses."""
    names: dict[tuple[BoardType | None, int], str] = {(None, 0): "the day"}
    with database.transaction() as connection:
        terms = institutions.terms(connection, institution)
        for type in BoardType:
            index, _ = directory.boards(connection, institution, type, terms)
            names[type, 0] = f"no {type.lower()}"
            for key, id in zip(index.keys.tolist(), index.ids.to_pylist(), strict=True):
                names[type, key] = f"{type.lower()} {id}"
    return tuple(
        Finding(None, difference, names.get(whose, f"{whose[0]} with key {whose[1]}".lower()))
        for whose, difference in wrong
    )


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _by_window(names: Iterable[BoardName]) -> str:
    counts: dict[str, int] = dict.fromkeys(map(str, Granularity), 0)
    for name in names:
        counts[name.granularity] += 1
    return ", ".join(f"{granularity} {count}" for granularity, count in counts.items())
