"""The two dimensions of every asset, and the arithmetic from partition keys to work and back.

A partition is `day|institution` (Dagster orders dimensions by name). What is done with the days
is not decided here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import groupby

from dagster import (
    AssetExecutionContext,
    DailyPartitionsDefinition,
    DynamicPartitionsDefinition,
    MultiPartitionKey,
    MultiPartitionsDefinition,
    PartitionKeyRange,
)

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import DayRange, contiguous_ranges
from lb_pipelines.db.each_institution import Answers, ask_each

DAY = "day"
INSTITUTION = "institution"

RANGE_START_TAG = "dagster/asset_partition_range_start"
RANGE_END_TAG = "dagster/asset_partition_range_end"

# A day becomes a partition when it is over somewhere on earth, which is here first (UTC+14, no
# summer time). Whether it is over at an institution is asked when that institution is worked on.
EARLIEST_ZONE = "Pacific/Kiritimati"

institution_partitions = DynamicPartitionsDefinition(name=INSTITUTION)


def leaderboard_partitions(first_day: date) -> MultiPartitionsDefinition:
    """Day x institution, from `first_day` to the last day that is over somewhere."""
    days = DailyPartitionsDefinition(start_date=first_day.isoformat(), timezone=EARLIEST_ZONE)
    return MultiPartitionsDefinition({DAY: days, INSTITUTION: institution_partitions})


def partition_key(day: date, institution_id: str) -> MultiPartitionKey:
    """The key of one partition."""
    return MultiPartitionKey({DAY: day.isoformat(), INSTITUTION: institution_id})


def split_key(key: str) -> tuple[date, str]:
    """The day and the institution of a partition key in its text form."""
    day, institution_id = key.split("|")
    return date.fromisoformat(day), institution_id


def keys_of_run(context: AssetExecutionContext) -> list[str]:
    """The partition keys that a run is about, from the range in its tags where there is one.

    Dagster's own `partition_keys` asks the tags of single dimensions first. Those a backfill from a
    job's page puts on each of its runs as they are for the first partition of the whole backfill:
    every run would make that partition alone, and all would be counted as done.
    """
    definition, tags = context.assets_def.partitions_def, context.run.tags
    if not (isinstance(definition, MultiPartitionsDefinition) and RANGE_START_TAG in tags):
        return list(context.partition_keys)
    first, last = (
        definition.get_partition_key_from_str(tags[tag]) for tag in (RANGE_START_TAG, RANGE_END_TAG)
    )
    return list(
        definition.get_partition_keys_in_range(
            PartitionKeyRange(first, last), dynamic_partitions_store=context.instance
        )
    )


def days_by_institution(keys: Iterable[str]) -> dict[str, list[DayRange]]:
    """Any set of partition keys as what is worked through: per institution, ranges of days."""
    days: dict[str, list[date]] = defaultdict(list)
    for key in keys:
        day, institution_id = split_key(key)
        days[institution_id].append(day)
    return {institution_id: contiguous_ranges(of_one) for institution_id, of_one in days.items()}


@dataclass(frozen=True)
class Rectangle:
    """Days x neighbouring institutions: what one run over a range of partitions can cover.

    Neighbours are in the order of the institution dimension.
    """

    days: DayRange
    first_institution: str
    last_institution: str

    def __str__(self) -> str:
        return (
            f"{self.days.first}..{self.days.last} {self.first_institution}..{self.last_institution}"
        )

    @property
    def tags(self) -> dict[str, str]:
        """The run tags that make a run cover this rectangle."""
        return {
            RANGE_START_TAG: partition_key(self.days.first, self.first_institution),
            RANGE_END_TAG: partition_key(self.days.last, self.last_institution),
        }

    @classmethod
    def of_run(cls, tags: Mapping[str, str]) -> Rectangle | None:
        """What a run with these tags covers; None for a run over no partition of ours."""
        single = tags.get("dagster/partition", "")
        try:
            first_day, first = split_key(tags.get(RANGE_START_TAG, single))
            last_day, last = split_key(tags.get(RANGE_END_TAG, single))
        except ValueError:
            return None
        return cls(DayRange(first_day, last_day), first, last)

    def institutions(self, order: Sequence[str]) -> Sequence[str]:
        """The institutions covered, given the order of the dimension now."""
        try:
            low, high = order.index(self.first_institution), order.index(self.last_institution)
        except ValueError:
            # One end has left the dimension since: what lay between cannot be told any more.
            return [i for i in (self.first_institution, self.last_institution) if i in order]
        return order[low : high + 1]


def rectangles(wanted: Mapping[str, Iterable[date]], order: Sequence[str]) -> list[Rectangle]:
    """Days wanted per institution as few rectangles, none covering a day that is not wanted.

    Neighbours that want the same range of days share a rectangle; institutions that are not in
    `order` are left out, because they have no partitions.
    """
    open_at_last: dict[DayRange, str] = {}
    started: dict[DayRange, str] = {}
    done: list[Rectangle] = []
    for institution_id in [*order, None]:
        ranges = contiguous_ranges(wanted.get(institution_id, ())) if institution_id else []
        for days in [days for days in started if days not in ranges]:
            done.append(Rectangle(days, started.pop(days), open_at_last.pop(days)))
        for days in ranges:
            assert institution_id is not None
            started.setdefault(days, institution_id)
            open_at_last[days] = institution_id
    return sorted(done, key=lambda r: (r.days.first, r.days.last, order.index(r.first_institution)))


def find_utc_offsets(institutions: Iterable[Institution], instant: datetime) -> Answers[timedelta]:
    """By institution id how far its clocks are ahead of UTC; those whose zone is wrong are placed
    as if in UTC, and are among the failures too.
    """
    offsets, failures = ask_each(
        institutions, lambda one: instant.astimezone(one.zone).utcoffset() or timedelta()
    )
    return Answers(offsets | dict.fromkeys(failures, timedelta()), failures)


def neighbour_order(institutions: Iterable[tuple[str, timedelta]]) -> list[str]:
    """The order in which institutions join the dimension: by offset from UTC, then id.

    Institutions whose midnight is the same become neighbours, so that one run takes their day.
    """
    return [id for id, _ in sorted(institutions, key=lambda pair: (-pair[1], pair[0]))]


def scattered(order: Sequence[str], offsets: Mapping[str, timedelta]) -> bool:
    """Whether a day of all institutions takes more than twice as many runs as there are midnights.

    That is what becomes of those that join one by one, at the end, and when summer time begins.
    """
    stretches = sum(1 for _ in groupby(order, key=offsets.__getitem__))
    return stretches > 2 * len(set(offsets.values()))
