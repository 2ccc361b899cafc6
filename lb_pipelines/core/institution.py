"""An institution as the domain sees it, with its settings read out of `metadata`.

Settings are validated here once; a wrong one is an `InvalidSetting` that names institution, key
and value. Retention's settings live beside their arithmetic in `core.retention`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from zoneinfo import ZoneInfo

from lb_pipelines.core.words import BoardType, Granularity, RankMethod
from lb_pipelines.core.zones import load_zone
from lb_pipelines.errors import (
    InactiveInstitution,
    InvalidInstitution,
    InvalidSetting,
    UnknownSetting,
    UnknownZone,
)

DEFAULT_LIMITS: Mapping[BoardType, Mapping[Granularity, int]] = {
    BoardType.CLASS: dict(zip(Granularity, (20, 50, 100, 100, 100), strict=True)),
    BoardType.SUBJECT: dict(zip(Granularity, (20, 50, 100, 100, 100), strict=True)),
    BoardType.CAMPUS: dict(zip(Granularity, (50, 100, 200, 200, 500), strict=True)),
}
GREATEST_LIMIT = 10_000
LIMITS_KEY = "leaderboardLimits"
RANKING_KEY = "leaderboardRanking"
SETTING_PREFIX = "leaderboard"
"""How the keys of settings begin; keys that do not, in any case, are somebody else's."""


@dataclass(frozen=True)
class Institution:
    """A tenant. `key` is the integer used inside the database, `id` the text used outside."""

    key: int
    id: str
    name: str
    status: str
    time_zone: str
    academic_year_start_month: int = 8
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def zone(self) -> ZoneInfo:
        """The zone of its days; raises `InvalidInstitution` where the name is no IANA zone."""
        try:
            return load_zone(self.time_zone)
        except UnknownZone:
            raise InvalidInstitution(
                f"Institution {self.id!r}: {self.time_zone!r} is no IANA time zone",
                "Set time_zone to a name like 'Europe/London'",
            ) from None

    def setting(self, key: str, default: object) -> Any:
        """The value of a key of `metadata`, unchecked; the default where it is not given.

        Raises `UnknownSetting` where the key is given in another case: to overlook it would be to
        make boards by a default that nobody wanted.
        """
        for other in self.metadata:
            if other != key and other.casefold() == key.casefold():
                raise UnknownSetting(self.id, other, [key])
        return self.metadata.get(key, default)

    @cached_property
    def rank_method(self) -> RankMethod:
        """`metadata.leaderboardRanking`, competition unless told otherwise."""
        value = self.setting(RANKING_KEY, RankMethod.COMPETITION)
        try:
            return RankMethod(value)
        except ValueError:
            raise InvalidSetting(
                self.id, RANKING_KEY, value, " or ".join(map(repr, map(str, RankMethod)))
            ) from None

    def limit(self, type: BoardType, granularity: Granularity) -> int:
        """N of a board: `metadata.leaderboardLimits[type][granularity]`, else the default."""
        return self._limits[type][granularity]

    @cached_property
    def _limits(self) -> Mapping[BoardType, Mapping[Granularity, int]]:
        limits = {type: dict(by_granularity) for type, by_granularity in DEFAULT_LIMITS.items()}
        key = LIMITS_KEY
        overrides = self.setting(key, {})
        if not isinstance(overrides, Mapping):
            raise InvalidSetting(self.id, key, overrides, '{"CLASS": {"daily": 20, ...}, ...}')
        for type_name, by_granularity in overrides.items():
            if type_name not in list(BoardType) or not isinstance(by_granularity, Mapping):
                raise InvalidSetting(
                    self.id,
                    f"{key}.{type_name}",
                    by_granularity,
                    "an object under CLASS, SUBJECT or CAMPUS",
                )
            for granularity, value in by_granularity.items():
                path = f"{key}.{type_name}.{granularity}"
                if granularity not in list(Granularity):
                    raise InvalidSetting(
                        self.id, path, value, f"one of {', '.join(Granularity)} as the last part"
                    )
                if type_is_not_whole(value) or not 1 <= value <= GREATEST_LIMIT:
                    raise InvalidSetting(
                        self.id, path, value, f"a whole number from 1 to {GREATEST_LIMIT}"
                    )
                limits[BoardType(type_name)][Granularity(granularity)] = value
        return limits

    def validate(self) -> Institution:
        """Return itself if active and every setting can be used, else raise what says why not."""
        if self.status != "ACTIVE":
            raise InactiveInstitution(self.id, self.status)
        _ = self.zone
        self.validate_settings()
        return self

    def validate_settings(self) -> None:
        """Raise `InvalidSetting` unless the settings that boards are made by can be used.

        Those of retention are its own business; all at once are `core.metadata`'s.
        """
        _ = self.rank_method, self._limits


def type_is_not_whole(value: object) -> bool:
    """Whether a JSON value is anything but an integer (true and false are integers in Python)."""
    return not isinstance(value, int) or isinstance(value, bool)
