"""What was read is kept, and never given again once its boards have changed.

A key holds the version of the months that a value depends on (`db.repositories.versions`), read
from the database at every call and before the data: a value that was computed while they changed
lies under the version of before, which nobody asks for after. So a lifetime bounds only how much
is kept, and for how long an erased student's id can lie in Redis; what changes is seen at once.

Values are given to many callers in one process: they must be immutable.
"""

from __future__ import annotations

import hashlib
import json
import logging
import pickle
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from types import MappingProxyType
from typing import Any, TypeVar, cast

from dogpile.cache import CacheRegion, make_region
from dogpile.cache.api import NO_VALUE, CantDeserializeException
from dogpile.cache.backends.redis import RedisBackend

from lb_pipelines import __version__
from lb_pipelines.core.periods import DayRange
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import versions
from lb_pipelines.errors import InvalidEnvironment
from lb_pipelines.service.results import BoardKey

T = TypeVar("T")

# The shorter the window, the sooner nobody asks for the board of that day any more. The longest is
# a day: what an erasure has left behind in Redis is gone by then.
LIFETIMES: Mapping[Granularity, timedelta] = MappingProxyType(
    {
        Granularity.DAILY: timedelta(hours=1),
        Granularity.WEEKLY: timedelta(hours=3),
        Granularity.MONTHLY: timedelta(hours=6),
        Granularity.TERM: timedelta(hours=12),
        Granularity.ALL_TIME: timedelta(hours=24),
    }
)
KEPT_IN_MEMORY = 1_000
"""Values of one process; a year of a board's months with 100 entries each takes about 250 KB."""
# A cache that does not answer must cost less than what it saves from; then it is left alone.
_REDIS_SECONDS = 0.5
_PAUSE_SECONDS = 30.0
# Longer than any reading takes: whoever was making a value in another process may have died.
_REDIS_LOCK_SECONDS = 30

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CacheStatistics:
    """How often a value was there, and how often it had to be made."""

    hits: int
    misses: int

    @property
    def ratio(self) -> float:
        """The share of hits; 0 where nothing was asked for."""
        return self.hits / max(1, self.hits + self.misses)


class BoardCache:
    """Values read from boards, by everything that they depend on.

    `region` is dogpile.cache's, as `region_from` makes it; it may be shared by processes and by
    databases. Safe for threads; of several that ask for the same at once one makes it.
    """

    def __init__(
        self,
        database: Database,
        region: CacheRegion | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._region = region_from(None) if region is None else region
        self._failures = _failures(self._region)
        # What else could give another value for the same arguments.
        where = (__version__, database.url.render_as_string(hide_password=True))
        self._where = repr(where)
        self._clock = clock
        self._paused_until = clock()
        self._lock = threading.Lock()
        self._hits = self._misses = 0

    def get(
        self,
        institution_id: str,
        method: str,
        board: BoardKey | None,
        days: DayRange,
        arguments: Mapping[str, object],
        make: Callable[[], T],
    ) -> T:
        """The value that `make` gives for these arguments, made now or kept.

        `days`: all whose boards, trends or archive the value depends on (`versions.EVER`: all);
        of the type of `board`, and of all types where that is None. `make` must open its own
        transaction, so that what it reads is no older than the version. What it raises is raised
        and not kept. An unknown institution is for it to refuse.
        """
        types = (board.type,) if board else tuple(BoardType)
        # Before the data. After it, an old value could be kept under a new version for good.
        version = versions.version_of(self._database, institution_id, types, days)
        if version is None:
            return make()
        names = (board.type, board.reference_id, board.granularity) if board else None
        range_ = (days.first.toordinal(), days.last.toordinal())
        depends = (institution_id, version, method, names, range_, tuple(arguments.items()))
        made: list[T] = []

        def create() -> T:
            # Once at most: the cache may fail after the value was made.
            if not made:
                made.append(make())
            return made[0]

        value = self._kept(_key(self._where, depends), create, _lifetime(board))
        with self._lock:
            self._misses += len(made)
            self._hits += 1 - len(made)
        return value

    def _kept(self, key: str, create: Callable[[], T], lifetime: float) -> T:
        if self._clock() < self._paused_until:
            return create()
        try:
            # A third of what get_or_create takes to find out that it need not create.
            value = self._region.get(key, expiration_time=lifetime)
            if value is NO_VALUE:
                value = self._region.get_or_create(key, create, expiration_time=lifetime)
        except self._failures as error:
            # Without the cache reading is slower, and right all the same.
            self._paused_until = self._clock() + _PAUSE_SECONDS
            _log.warning("The cache is left alone for %d s: %s", _PAUSE_SECONDS, error)
            return create()
        return cast(T, value)

    @property
    def statistics(self) -> CacheStatistics:
        """Since this object was made."""
        with self._lock:
            return CacheStatistics(self._hits, self._misses)


def region_from(url: str | None) -> CacheRegion:
    """dogpile.cache's region: in this process's memory, or in the Redis of the URL.

    Opens nothing. What lies in Redis is pickled: nobody but the project may write to it.
    """
    if url is None:
        arguments: dict[str, Any] = {"cache_dict": _Recent(KEPT_IN_MEMORY)}
        return make_region("boards").configure("dogpile.cache.memory", arguments=arguments)
    arguments = {
        "url": url,
        "redis_expiration_time": int(max(LIFETIMES.values()).total_seconds()),
        "distributed_lock": True,
        "thread_local_lock": False,
        "lock_timeout": _REDIS_LOCK_SECONDS,
        "lock_sleep": 0.005,
        "socket_timeout": _REDIS_SECONDS,
        "socket_connect_timeout": _REDIS_SECONDS,
    }
    try:
        return make_region("boards", deserializer=_unpickled).configure(
            "dogpile.cache.redis", arguments=arguments
        )
    except ModuleNotFoundError:
        raise InvalidEnvironment(
            "LB_CACHE_URL", url, "Redis only where its client is there: pip install redis"
        ) from None


def _unpickled(data: bytes) -> Any:
    """What another version of the code may have written under the same key counts as missing."""
    try:
        return pickle.loads(data)
    except Exception as error:
        raise CantDeserializeException from error


def _failures(region: CacheRegion) -> tuple[type[Exception], ...]:
    """What is raised where the cache itself cannot be reached."""
    if not isinstance(region.actual_backend, RedisBackend):
        return ()
    from redis.exceptions import RedisError  # An extra of setup.py.

    return (RedisError,)


# Made anew it would take a tenth of the answer's time.
@lru_cache(maxsize=KEPT_IN_MEMORY)
def _key(where: str, depends: tuple[object, ...]) -> str:
    """Hashed, so that no student's id stands in the keys of Redis."""
    text = json.dumps([where, *depends], default=str)
    return "lb:" + hashlib.blake2b(text.encode(), digest_size=20).hexdigest()


def _lifetime(board: BoardKey | None) -> float:
    """Seconds; of all boards of a day that of the shortest."""
    granularity = board.granularity if board else Granularity.DAILY
    return LIFETIMES[granularity].total_seconds()


class _Recent(MutableMapping[str, Any]):
    """A dictionary of the values last asked for; dogpile's own in memory grows for ever."""

    def __init__(self, at_most: int) -> None:
        self._at_most = at_most
        self._values: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()

    def __getitem__(self, key: str) -> Any:
        with self._lock:
            self._values.move_to_end(key)
            return self._values[key]

    def __setitem__(self, key: str, value: Any) -> None:
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            if len(self._values) > self._at_most:
                self._values.popitem(last=False)

    def __delitem__(self, key: str) -> None:
        with self._lock:
            del self._values[key]

    def __iter__(self) -> Iterator[str]:
        with self._lock:
            return iter(list(self._values))

    def __len__(self) -> int:
        return len(self._values)
