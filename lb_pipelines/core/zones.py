"""Time zones by name, from the pinned `tzdata` package alone.

When an institution's days begin depends on the rules of its zone, so those rules must be the same
on every machine: the system's zone files (`/usr/share/zoneinfo`, `PYTHONTZPATH`) are never read.
Nothing else in the package calls `ZoneInfo`; what is done with a zone belongs in `core.periods`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import resources
from zoneinfo import ZoneInfo

from lb_pipelines.errors import UnknownZone

_NOT_A_PLACE = frozenset({"Factory"})
"""Names that tzdata lists for machines whose zone has not been set."""


def is_valid_zone(name: str) -> bool:
    """Whether `name` is a zone or a link of tzdata, written exactly as there.

    Names that only a system has (`localtime`, `posixrules`, `posix/...`, `right/...`) are not.
    """
    return name in _names()


class _PackagedZone(ZoneInfo):
    """A zone read from a file, which `ZoneInfo` itself refuses to pickle."""

    def __reduce__(self) -> tuple[Callable[[str], ZoneInfo], tuple[str]]:
        return load_zone, (self.key,)


@cache
def load_zone(name: str) -> ZoneInfo:
    """Load a zone from the tzdata package; its `key` is `name`. Raises `UnknownZone`."""
    if not is_valid_zone(name):
        raise UnknownZone(name)
    # The name is one of tzdata's own list here, so it cannot lead out of the package.
    path = resources.files("tzdata").joinpath("zoneinfo", *name.split("/"))
    with path.open("rb") as data:
        return _PackagedZone.from_file(data, key=name)


@cache
def _names() -> frozenset[str]:
    listed = resources.files("tzdata").joinpath("zones").read_text("ascii").split()
    return frozenset(listed) - _NOT_A_PLACE
