"""What was read is kept, and never given again once its boards have changed: whatever is written
when, by whom, while others read. In memory, and in a real Redis where there is one.
"""

from __future__ import annotations

import itertools
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from lb_pipelines.clock import utc_now
from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import DayRange
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.db.engine import Connection, Database
from lb_pipelines.db.partitions import demote, ensure_snapshot_months, promote
from lb_pipelines.db.repositories import institutions, versions
from lb_pipelines.errors import InvalidEnvironment
from lb_pipelines.service.cache import BoardCache, CacheStatistics, region_from
from lb_pipelines.service.results import BoardKey
from lb_pipelines_tests.partition_rows import SNAPSHOT, TREND, add_institution, row
from lb_pipelines_tests.versions_held import hold_writers_to_versions
from lb_pipelines_tests.waiting import LIMIT_SECONDS, wait_until

A_DAY = date(2023, 7, 3)
JULY = DayRange(date(2023, 7, 1), date(2023, 7, 31))
YEAR = DayRange(date(2022, 9, 5), date(2023, 7, 31))
BOARD = BoardKey("inst_a", BoardType.CLASS, "r", Granularity.DAILY)
ASKED: tuple[Any, ...] = ("inst_a", "history", BOARD, JULY, {})


@pytest.fixture
def inst_a(database: Database) -> Institution:
    """An institution with one board of a class, whose `n` is 0."""
    for id in ("inst_a", "inst_b"):
        add_institution(database, id)
        ensure_snapshot_months(database, id, A_DAY, A_DAY)
    with database.transaction() as connection:
        connection.execute(SNAPSHOT, row("inst_a", A_DAY))
        return institutions.find(connection, "inst_a")


def change(connection: Connection, n: int) -> None:
    """Let the board say `n`."""
    connection.execute(
        "UPDATE lb.leaderboard_snapshots SET metadata = jsonb_build_object('n', %s::integer)"
        " WHERE institution_id = 'inst_a' AND type = 'CLASS' AND snapshot_date = %s",
        (n, A_DAY),
    )


def write(database: Database, institution: Institution, n: int) -> None:
    """Let the board say `n` and raise its version, as every writer must."""
    with database.transaction() as connection:
        change(connection, n)
        versions.raise_versions(connection, institution, [(BoardType.CLASS, A_DAY)])


def read(database: Database) -> int:
    """What the board says."""
    with database.reading("inst_a") as connection:
        found = connection.execute(
            "SELECT coalesce((metadata -> 'n')::integer, 0) FROM lb.leaderboard_snapshots"
            " WHERE institution_id = 'inst_a' AND type = 'CLASS' AND snapshot_date = %s",
            (A_DAY,),
        ).fetchone()
        assert found is not None
        return int(found[0])


def get(
    cache: BoardCache,
    make: Callable[[], Any],
    *,
    institution_id: str = "inst_a",
    method: str = "history",
    board: BoardKey | None = BOARD,
    days: DayRange = JULY,
    arguments: Mapping[str, object] | None = None,
) -> Any:
    return cache.get(institution_id, method, board, days, arguments or {}, make)


def test_a_value_is_made_once_for_all_that_it_depends_on(
    database: Database, inst_a: Institution
) -> None:
    cache = BoardCache(database)
    made: list[int] = []

    def make() -> int | None:
        made.append(len(made))
        return made[-1] or None

    others: list[dict[str, Any]] = [
        {},
        {"institution_id": "inst_b"},
        {"method": "trends"},
        {"board": replace(BOARD, reference_id="other")},
        {"board": replace(BOARD, granularity=Granularity.WEEKLY)},
        {"board": replace(BOARD, type=BoardType.CAMPUS)},
        {"board": None},
        {"days": YEAR},
        {"days": versions.EVER},
        {"arguments": {"k": 1, "day": A_DAY}},
        {"arguments": {"k": 2, "day": A_DAY}},
        {"arguments": {"k": 2, "day": None}},
    ]
    for _ in range(3):
        # None, the first of them, is a value like any other.
        assert [get(cache, make, **other) for other in others] == [None, *range(1, len(others))]
    assert cache.statistics == CacheStatistics(hits=2 * len(others), misses=len(others))
    assert cache.statistics.ratio == pytest.approx(2 / 3)


def test_a_change_is_seen_and_what_did_not_change_is_kept(
    database: Database, inst_a: Institution
) -> None:
    cache = BoardCache(database)
    kept: list[dict[str, Any]] = [
        {"days": DayRange(date(2023, 6, 1), date(2023, 6, 30))},
        {"days": DayRange(date(2023, 8, 1), date(2023, 8, 31))},
        {"board": replace(BOARD, type=BoardType.SUBJECT)},
        {"institution_id": "inst_b"},
    ]
    hit: list[dict[str, Any]] = [
        {},
        {"board": None},
        {"days": YEAR},
        {"days": versions.EVER},
        # Any of its days stands for the month.
        {"days": DayRange(date(2023, 7, 31), date(2023, 7, 31))},
        {"board": replace(BOARD, reference_id="other")},
    ]
    for n in (0, 1, 2):
        if n:
            write(database, inst_a, n)
        assert [get(cache, lambda: read(database), **one) for one in hit] == [n] * len(hit)
        assert [get(cache, lambda: read(database), **one) for one in kept] == [0] * len(kept)


@pytest.mark.parametrize(
    "statement",
    [
        'UPDATE lb.institutions SET metadata = \'{"leaderboardRanking": "dense"}\'',
        "UPDATE lb.institutions SET status = 'INACTIVE'",
        "UPDATE lb.institutions SET erasures = erasures + 1",
    ],
)
def test_a_change_of_the_institution_itself_is_seen(
    database: Database, inst_a: Institution, statement: str
) -> None:
    cache = BoardCache(database)
    assert get(cache, lambda: "before") == get(cache, lambda: "kept") == "before"
    with database.transaction() as connection:
        connection.execute(statement)
    assert get(cache, lambda: "after") == "after"


def test_an_error_is_raised_and_not_kept(database: Database, inst_a: Institution) -> None:
    cache = BoardCache(database)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            get(cache, lambda: 1 // 0)
    assert get(cache, lambda: 1) == 1
    # To say that there is none is for the one who knows how.
    assert [get(cache, lambda n=n: n, institution_id="unknown") for n in (1, 2)] == [1, 2]


@pytest.mark.present
def test_a_version_is_never_the_same_again(database: Database, inst_a: Institution) -> None:
    """Not even where the database was made anew, or set back to a backup: Redis has seen more."""

    def version() -> int:
        found = versions.version_of(database, "inst_a", [BoardType.CLASS], JULY)
        assert found is not None
        return int(found.split(":")[1])

    seen = [version()]
    before = utc_now()
    for n in range(5):
        if n == 3:
            with database.transaction() as connection:
                connection.execute("DELETE FROM lb.board_versions")
            assert version() == 0
        if n == 4:
            with database.transaction() as connection:
                connection.execute("UPDATE lb.board_versions SET version = version * 2")
            seen.append(version())
        write(database, inst_a, n)
        seen.append(version())
    assert seen == sorted(set(seen))
    assert seen[0] == 0
    # Microseconds of the server's clock, which need not be this process's to the last of them.
    first = datetime.fromtimestamp(seen[1] / 1_000_000, UTC)
    assert before - timedelta(minutes=1) < first < utc_now() + timedelta(minutes=1)


def test_who_raises_the_same_waits_and_nobody_waits_in_a_circle(
    database: Database, inst_a: Institution
) -> None:
    months = [date(2023, m, d) for m in range(1, 7) for d in (1, 15)]
    pairs = [(type, month) for type in BoardType for month in months]
    start = threading.Barrier(4)

    def raise_often(backwards: bool) -> None:
        start.wait(LIMIT_SECONDS)
        for _ in range(25):
            with database.transaction() as connection:
                order = reversed(pairs) if backwards else pairs
                versions.raise_versions(connection, inst_a, order)

    with ThreadPoolExecutor(4) as pool:
        for result in [pool.submit(raise_often, bool(i % 2)) for i in range(4)]:
            result.result(LIMIT_SECONDS)
    with database.transaction() as connection:
        versions.raise_versions(connection, inst_a, [])
        found = connection.execute("SELECT count(*), min(version) FROM lb.board_versions")
        rows, least = found.fetchone() or (0, 0)
        assert rows == 18
        assert least > 0


# Never stale.


class DataBeforeVersion(BoardCache):
    """Broken on purpose: what was read before a change is kept under the version after it."""

    def get(self, institution_id, method, board, days, arguments, make):  # type: ignore[no-untyped-def, override]
        value = make()
        # So that a change comes in between before long, and not by chance alone.
        PAUSE.wait(0.003)
        return super().get(institution_id, method, board, days, arguments, lambda: value)


PAUSE = threading.Event()


def stale_reads(
    database: Database,
    institution: Institution,
    cache: BoardCache,
    write: Callable[[Database, Institution, int], None],
    *,
    writes: int = 150,
    until_stale: bool = False,
) -> int:
    """How many reads gave less than what was committed before they began, while one wrote."""
    committed, stale, done = [0], [0], threading.Event()
    start = threading.Barrier(5)

    def keep_reading() -> None:
        start.wait(LIMIT_SECONDS)
        try:
            while not done.is_set():
                before = committed[0]
                stale[0] += get(cache, lambda: read(database)) < before
        finally:
            done.set()

    def keep_writing() -> None:
        start.wait(LIMIT_SECONDS)
        try:
            for n in itertools.count(1) if until_stale else range(1, writes + 1):
                hits = cache.statistics.hits
                write(database, institution, n)
                committed[0] = n
                # Values are kept and hit too, not only made.
                wait_until(lambda before=hits: cache.statistics.hits > before or done.is_set())
                if until_stale and stale[0]:
                    break
        finally:
            done.set()

    with ThreadPoolExecutor(5) as pool:
        for result in [pool.submit(keep_writing), *(pool.submit(keep_reading) for _ in range(4))]:
            result.result(LIMIT_SECONDS)
    # Nor afterwards, when all is quiet.
    return stale[0] + (get(cache, lambda: read(database)) < committed[0])


def test_no_reader_sees_less_than_what_was_committed_before_it_asked(
    database: Database, inst_a: Institution
) -> None:
    hold_writers_to_versions(database)
    cache = BoardCache(database)
    assert stale_reads(database, inst_a, cache, write) == 0
    statistics = cache.statistics
    assert statistics.misses >= 100
    assert statistics.ratio > 0.2, statistics


def test_that_would_notice_a_version_read_after_the_data(
    database: Database, inst_a: Institution
) -> None:
    cache = DataBeforeVersion(database)
    assert stale_reads(database, inst_a, cache, write, until_stale=True) > 0


def test_that_would_notice_a_version_raised_in_another_transaction(
    database: Database, inst_a: Institution
) -> None:
    cache = BoardCache(database)
    stale = 0
    for n in range(1, 4):
        get(cache, lambda: read(database))
        with database.transaction() as connection:
            change(connection, n)
        # Committed: from here on nobody may see less.
        stale += get(cache, lambda: read(database)) < n
        with database.transaction() as connection:
            versions.raise_versions(connection, inst_a, [(BoardType.CLASS, A_DAY)])
    assert stale == 3


@pytest.mark.parametrize(("kind", "seen"), [(BoardCache, 2), (DataBeforeVersion, 1)])
def test_a_change_while_a_value_is_made_is_seen_by_the_next(
    database: Database, inst_a: Institution, kind: type[BoardCache], seen: int
) -> None:
    """The one moment that matters, step by step: one reads, another commits, one's value is kept.

    The broken way gives for good what nobody should see any more.
    """
    write(database, inst_a, 1)
    cache = kind(database)

    def make() -> int:
        value = read(database)
        if value == 1:
            write(database, inst_a, 2)
        return value

    assert get(cache, make) == 1
    assert read(database) == 2
    if kind is BoardCache:
        assert get(cache, lambda: read(database)) == seen
    else:
        assert BoardCache.get(cache, *ASKED, lambda: read(database)) == seen


def test_of_many_who_ask_at_once_one_makes_it(database: Database, inst_a: Institution) -> None:
    cache = BoardCache(database)
    made, start, go = [], threading.Barrier(9), threading.Event()

    def make() -> int:
        made.append(1)
        assert go.wait(LIMIT_SECONDS)
        return 7

    def ask() -> int:
        start.wait(LIMIT_SECONDS)
        found: int = get(cache, make)
        return found

    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask) for _ in range(8)]
        start.wait(LIMIT_SECONDS)
        go.set()
        assert [one.result(LIMIT_SECONDS) for one in asked] == [7] * 8
    assert len(made) == 1
    assert cache.statistics == CacheStatistics(hits=7, misses=1)


def test_memory_keeps_the_values_last_asked_for(
    database: Database, inst_a: Institution, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lb_pipelines.service.cache.KEPT_IN_MEMORY", 3)
    cache = BoardCache(database)

    def ask(k: int) -> bool:
        """Whether it was there."""
        hits = cache.statistics.hits
        assert get(cache, lambda: k, arguments={"k": k}) == k
        return cache.statistics.hits > hits

    assert [ask(k) for k in (1, 2, 3)] == [False] * 3
    assert ask(1)
    assert not ask(4)  # 2 goes.
    assert [ask(k) for k in (1, 3, 4)] == [True] * 3
    assert not ask(2)


def test_a_lifetime_goes_by_the_granularity(
    database: Database, inst_a: Institution, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = BoardCache(database)
    now = datetime(2023, 7, 3, tzinfo=UTC).timestamp()
    lifetimes = {}
    for granularity in Granularity:
        board = replace(BOARD, granularity=granularity)
        monkeypatch.setattr("time.time", lambda: now)
        get(cache, lambda: "made", board=board)
        for hours in range(1, 30):
            monkeypatch.setattr("time.time", lambda hours=hours: now + hours * 3600 + 1)
            if get(cache, lambda: "made again", board=board) == "made again":
                lifetimes[granularity.value] = hours
                break
        monkeypatch.undo()
    assert lifetimes == {"daily": 1, "weekly": 3, "monthly": 6, "term": 12, "all-time": 24}


# The writers' side.


def test_a_writer_who_raises_no_version_is_caught(database: Database, inst_a: Institution) -> None:
    hold_writers_to_versions(database)
    write(database, inst_a, 1)
    raised = [(BoardType.CLASS, A_DAY)]
    wrong: list[Callable[[Connection], object]] = [
        lambda c: change(c, 2),
        lambda c: c.execute("DELETE FROM lb.leaderboard_snapshots"),
        lambda c: c.execute(TREND, row("inst_a", A_DAY)),
        lambda c: c.execute(
            "UPDATE lb_part.\"inst_a_CLASS_2023-07\" SET status = 'ARCHIVED'"  # A sweep's way.
        ),
        lambda c: (change(c, 2), versions.raise_versions(c, inst_a, [(BoardType.CAMPUS, A_DAY)])),
        lambda c: (
            change(c, 2),
            versions.raise_versions(c, inst_a, [(BoardType.CLASS, date(2023, 8, 1))]),
        ),
        # Last it must be: whoever waits for it would hold rows that others wait for.
        lambda c: (versions.raise_versions(c, inst_a, raised), change(c, 2)),
    ]

    def in_a_transaction(act: Callable[[Connection], object]) -> None:
        with database.transaction() as connection:
            act(connection)

    # One that was raised by another transaction is none of its own.
    wrong.append(
        lambda c: (
            change(c, 2),
            in_a_transaction(lambda other: versions.raise_versions(other, inst_a, raised)),
        )
    )
    for act in wrong:
        with pytest.raises(psycopg.errors.RaiseException, match=r"\|inst_a:CLASS:2023-07\|"):
            in_a_transaction(act)
    assert read(database) == 1
    demote(database, "inst_a")
    promote(database, "inst_a")
    write(database, inst_a, 2)
    assert read(database) == 2


# Redis.


class Server:
    """A Redis of the test's own, on a socket."""

    def __init__(self, home: Path) -> None:
        self.socket = home / "redis"
        self.url = f"unix://{self.socket}?db=0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        binary = shutil.which("redis-server")
        assert binary
        arguments = ("--port", "0", "--unixsocket", str(self.socket), "--save", "")
        self._process = subprocess.Popen([binary, *arguments], stdout=subprocess.DEVNULL)
        wait_until(self._answers)

    def _answers(self) -> bool:
        try:
            self.client.ping()
        except redis.RedisError:
            assert self._process is not None
            assert self._process.poll() is None
            return False
        return True

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(LIMIT_SECONDS)

    @property
    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url)


@contextmanager
def redis_server() -> Iterator[Server]:
    home = Path(tempfile.mkdtemp(prefix="lb-redis-", dir="/tmp"))
    server = Server(home)
    try:
        server.start()
        # A slow Redis is passed over, which on a slow machine would be any.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("lb_pipelines.service.cache._REDIS_SECONDS", LIMIT_SECONDS)
            yield server
    finally:
        server.stop()
        shutil.rmtree(home, ignore_errors=True)


needs_redis = pytest.mark.skipif(
    shutil.which("redis-server") is None, reason="no redis-server on this machine"
)


@needs_redis
def test_redis_is_shared_and_never_stale(database: Database, inst_a: Institution) -> None:
    hold_writers_to_versions(database)
    with redis_server() as server:
        one, other = (BoardCache(database, region_from(server.url)) for _ in range(2))
        secret = {"student_id": "student_1"}
        assert get(one, lambda: (A_DAY, BOARD), arguments=secret) == (A_DAY, BOARD)
        assert get(other, lambda: pytest.fail("made twice"), arguments=secret) == (A_DAY, BOARD)
        keys = server.client.keys()
        assert len(keys) == 1
        assert b"student" not in keys[0]
        assert 0 < server.client.ttl(keys[0]) <= 24 * 3600

        assert stale_reads(database, inst_a, one, write, writes=60) == 0
        assert one.statistics.hits > 0
        assert get(other, lambda: pytest.fail("made twice")) == 60

        # What cannot be read counts as missing.
        for key in server.client.scan_iter():
            server.client.set(key, server.client.get(key)[:-2])
        assert get(other, lambda: "made again") == "made again"


@needs_redis
def test_without_its_redis_boards_are_read_all_the_same(
    database: Database, inst_a: Institution
) -> None:
    now = [0.0]
    with redis_server() as server:
        cache = BoardCache(database, region_from(server.url), clock=lambda: now[0])
        assert [get(cache, lambda n=n: n) for n in (1, 2)] == [1, 1]
        server.stop()
        made: list[int] = []
        for n in (3, 4):
            assert get(cache, lambda n=n: made.append(n) or n) == n
        assert made == [3, 4], "each is made, and once"
        server.start()
        assert get(cache, lambda: 5) == 5, "left alone for a while"
        now[0] += 60
        assert [get(cache, lambda n=n: n) for n in (6, 7)] == [6, 6]
    assert cache.statistics == CacheStatistics(hits=2, misses=5)


def test_no_redis_is_asked_for_before_the_first_value() -> None:
    region_from("redis://127.0.0.1:9/0")


def test_a_redis_without_its_client_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "redis", None)
    with pytest.raises(InvalidEnvironment, match="pip install"):
        region_from("redis://127.0.0.1:9/0")
