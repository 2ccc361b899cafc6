"""How far a run has got, in lines that a person can follow: one when an institution is done, one
every few seconds while a long one is at work. What was made of a partition is its materialization.

The time that is left is the partitions that are left at the rate so far: a guess that large
institutions at the end of a run make too small.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

_SECONDS_BETWEEN = 10.0
_NAMED = 5


@dataclass
class RunLog:
    """The lines of one run; `partitions` are those planned by institution."""

    say: Callable[[str], None]
    partitions: Mapping[str, int]
    clock: Callable[[], float] = time.monotonic
    _left: dict[str, int] = field(init=False)
    _done: int = 0
    _ended: int = 0

    def __post_init__(self) -> None:
        self._left = dict(self.partitions)
        self._began = self._said = self.clock()
        self._waiting: set[str] = set()
        ids = list(self.partitions)
        more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
        self.say(
            f"{len(ids)} institution{'s'[: len(ids) > 1]}, "
            f"{sum(self.partitions.values()):,} partitions: "
            f"{', '.join(ids[:_NAMED])}{more}"
        )

    def did(self, institution_id: str, what: str) -> None:
        """A partition is done; `what` names it, should it be time for a line."""
        self._done += 1
        self._left[institution_id] = max(0, self._left[institution_id] - 1)
        if self.clock() - self._said >= _SECONDS_BETWEEN:
            self._line(f"{institution_id}: {what}")

    def ends(self, institution_id: str, what: str) -> None:
        """The institution is done, or given up for this round."""
        self._left[institution_id] = 0
        self._ended += 1
        self._waiting.discard(institution_id)
        self._line(f"{institution_id}: {what}")

    def waits(self, institution_id: str) -> None:
        """Another run is at work on it; said once, until it is its turn."""
        if institution_id not in self._waiting:
            self._waiting.add(institution_id)
            self.say(f"{institution_id}: another run is at work on it, so the others come first")

    def again(self, institution_ids: Mapping[str, int], seconds: float) -> None:
        """These are tried again after a pause, with so many partitions each."""
        self._left |= institution_ids
        self._ended -= len(institution_ids)
        self.say(f"{', '.join(institution_ids)}: tried again in {seconds:.0f} s")

    def _line(self, what: str) -> None:
        now = self.clock()
        self._said = now
        left = sum(self._left.values())
        # The only institution of a run has said all that there is to say.
        if left or len(self.partitions) > 1:
            rate = self._done / max(now - self._began, 1e-3)
            what += (
                f"; {self._ended} of {len(self.partitions)} institutions and {self._done:,} "
                f"partitions in {duration(now - self._began)}"
            )
            if left and self._done:
                what += f", {rate:,.1f} a second: about {duration(left / rate)} left"
        self.say(what)


def duration(seconds: float) -> str:
    """Seconds as a person says them: `0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
