"""The house rules as tests: who may import whom, nothing happens at import, and how things are
called. What ruff and mypy can hold (docstrings, types, no print) is theirs.
"""

from __future__ import annotations

import ast
import io
import os
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import aiosql
import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

import lb_pipelines
from lb_pipelines_tests.waiting import LIMIT_SECONDS

ROOT = Path(__file__).parent.parent
PACKAGE = Path(lb_pipelines.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
SQL_FILES = sorted((PACKAGE / "db" / "sql").glob("*.sql"))
LONGEST_MODULE = 450
"""Lines of code; blank lines, comments and docstrings are free."""


def name(path: Path) -> str:
    """A file as the tests' ids show it."""
    return str(path.relative_to(ROOT))


def test_an_inner_room_imports_no_outer_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    status = lint_imports(config_filename=str(ROOT / ".importlinter"), no_cache=True)
    assert status == EXIT_STATUS_SUCCESS, capsys.readouterr().out


# Runs in an interpreter of its own. Writing a file, starting a process, any use of a socket: each
# raises an audit event; libpq opens its sockets unseen, so psycopg is barred by name.
_NO_IO = """
import os, sys

def refuse(event, arguments):
    if event in ("socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo",
                 "subprocess.Popen", "os.system", "os.mkdir", "os.rename", "os.remove"):
        raise RuntimeError(f"{event} at import: {arguments}")
    if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        raise RuntimeError(f"a file is written at import: {arguments[0]}")

import psycopg, psycopg2
def connect(*arguments, **options):
    raise RuntimeError("a connection to the database at import")
psycopg.connect = psycopg.Connection.connect = psycopg2.connect = connect
sys.addaudithook(refuse)
"""


def in_a_fresh_interpreter(code: str, home: Path) -> str:
    """What the code prints, run without the project's variables and with all I/O refused."""
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("LB_", "DAGSTER_", "PG", "COV_"))
    }
    environment |= {
        "HOME": str(home),
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "DAGSTER_DISABLE_TELEMETRY": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", _NO_IO + code],
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_definitions_load_without_a_database(tmp_path: Path) -> None:
    printed = in_a_fresh_interpreter(
        "from lb_pipelines.definitions import defs\n"
        "repository = defs.get_repository_def()\n"
        "print(*(key.to_user_string() for key in repository.assets_defs_by_key))\n"
        "print(*repository.job_names)\n",
        tmp_path,
    )
    assets, jobs = (set(line.split()) for line in printed.strip().splitlines()[-2:])
    # The contract's names, which a person searches for in the UI.
    assert assets >= {
        "point_aggregates",
        *(
            f"{type}_{what}"
            for type in ("class", "subject", "campus")
            for what in ("snapshots", "trends")
        ),
    }
    assert jobs >= {"daily_leaderboards", "reward_processing", "partition_maintenance"}
    assert list(tmp_path.iterdir()) == []


def test_no_module_does_anything_when_imported(tmp_path: Path) -> None:
    in_a_fresh_interpreter(
        "import importlib, pkgutil, lb_pipelines\n"
        "for module in pkgutil.walk_packages(lb_pipelines.__path__, 'lb_pipelines.'):\n"
        # Alembic runs this one as a script, inside a migration.
        "    if module.name != 'lb_pipelines.db.migrations.env':\n"
        "        importlib.import_module(module.name)\n",
        tmp_path,
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "code",
    [
        "import socket; socket.create_connection(('127.0.0.1', 9))",
        "import subprocess; subprocess.Popen(['true'])",
        "open('a_file', 'w')",
        "from lb_pipelines.db.engine import Database\n"
        "with Database('postgresql://127.0.0.1:9/x').transaction(): pass",
    ],
)
def test_the_guard_against_io_would_notice(tmp_path: Path, code: str) -> None:
    with pytest.raises(AssertionError, match=r"at import"):
        in_a_fresh_interpreter(code, tmp_path)


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_module_opens_with_its_charter(path: Path) -> None:
    text = path.read_text()
    docstring = ast.get_docstring(ast.parse(text))
    if path.name == "__init__.py" and not text.strip():
        return
    assert docstring, "say what lives here and what does not"
    first = docstring.split("\n\n")[0]
    assert first.endswith((".", ":", "`")), f"the charter's first sentence is cut off: {first!r}"
    assert len(first.split()) >= 4


def code_lines(text: str) -> int:
    """Lines that hold code: neither blank, nor only a comment, nor part of a docstring."""
    held: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.ENDMARKER):
            held.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            held.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(held)


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_module_is_about_one_thing(path: Path) -> None:
    assert code_lines(path.read_text()) <= LONGEST_MODULE


# Another word for a thing that has one, by the word that it has.
_OTHER_WORDS = {
    r"tenant_(id|key)|school_(id|key)|org_(id|key)": "institution",
    r"user_(id|key)|pupils?(_\w+)?|learner_(id|key)": "student",
    r"leader_boards?(_\w+)?": "leaderboard",
    r"time_?frames?": "granularity",
    r"cut_off(_\w+)?": "cutoff",
}


@pytest.mark.parametrize("path", [*MODULES, *SQL_FILES], ids=name)
def test_one_word_for_one_thing(path: Path) -> None:
    words = set(re.findall(r"[A-Za-z_]+", path.read_text().lower()))
    for pattern, ours in _OTHER_WORDS.items():
        others = sorted(word for word in words if re.fullmatch(pattern, word))
        assert not others, f"{others} is called {ours} here"


@pytest.mark.parametrize("path", SQL_FILES, ids=name)
def test_named_sql_is_named_well_and_used(path: Path) -> None:
    text = path.read_text()
    assert text.startswith("-- "), "a file of SQL opens with its charter"
    assert not text.startswith("-- name:"), "a file of SQL opens with its charter"
    queries = aiosql.from_path(path, "psycopg").available_queries
    names = {query for query in queries if not query.endswith("_cursor")}
    assert names
    everything = "\n".join(module.read_text() for module in MODULES)
    # Some are called as one of a family: getattr(queries.imports, f"merge_{table}").
    families = [
        re.sub(r"\{.*?\}", r"\\w+", name)
        for name in re.findall(rf'getattr\(queries\.{path.stem}, f"(.+?)"\)', everything)
    ]
    for query in names:
        assert re.fullmatch(r"[a-z]+(_[a-z0-9]+)*", query)
        used = re.search(rf"\b{query}\b", everything)
        assert used or any(re.fullmatch(family, query) for family in families), f"{query} is unused"


@pytest.mark.parametrize(
    "path", [*MODULES, *sorted((ROOT / "lb_pipelines_tests").glob("*.py"))], ids=name
)
def test_only_the_clock_asks_what_time_it_is(path: Path) -> None:
    """So that the present is an argument, and a test that asks for it is known (conftest)."""
    asked = [
        called
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and re.search(
            r"\b(date|datetime)\.(now|today|utcnow)$|^time\.(time|time_ns|localtime|gmtime)$",
            called := ast.unparse(node.func),
        )
    ]
    allowed = {PACKAGE / "clock.py": 1, Path(__file__).with_name("conftest.py"): 1}
    assert len(asked) == allowed.get(path, 0), asked


# Where a result must follow from the arguments alone.
_CLOCKLESS = [
    PACKAGE / "core",
    PACKAGE / "materialize",
    PACKAGE / "retention",
    PACKAGE / "db" / "partitions",
]


@pytest.mark.parametrize(
    "path",
    [path for path in MODULES if any(room in path.parents for room in _CLOCKLESS)],
    ids=name,
)
def test_clock_and_sleep_are_arguments(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert not re.search(r"^time\.sleep$|^utc_now$", called)


@pytest.mark.parametrize(
    "path", [path for path in MODULES if path != PACKAGE / "core" / "zones.py"], ids=name
)
def test_zones_are_loaded_by_core_zones_alone(path: Path) -> None:
    """`ZoneInfo(...)` prefers the system's files, which may say something else."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert not re.search(r"(^|\.)ZoneInfo(\.\w+)?$|(^|\.)gettz$|^pytz\.", called)
