"""What the environment decides, read once into a `Settings`; nothing is read at import.

| Variable | Meaning | Default |
|---|---|---|
| LB_DATABASE_URL | any PostgreSQL 15 to 18 | an embedded server under LB_HOME |
| LB_HOME | directory of the embedded server's data and of Dagster's state | `.lb` of the project |
| LB_EXPORT_DIR | where purges write exports, as safe as the database | `exports` under LB_HOME |
| LB_START_DAY | first day that is a partition | 2013-01-01 |
| LB_LEAF_BUDGET | leaves up to which institutions get a subtree of their own | 3000 |
| LB_CACHE_URL | a Redis of the project's own that keeps what was read | each process's memory |
| LB_OWNERS | who answers for the assets, `team:NAME` or e-mail, by commas | team:leaderboards |
| LB_UI_HOST, LB_UI_PORT | where the UI listens; the next free port from there | 127.0.0.1, 3000 |
| LB_UI_URL | where people find the UI, for links in alerts | made of the two |
| LB_ALERT_WEBHOOK_URL | takes a POST of JSON for every failed run | nobody is told |
| LB_ALERT_EMAIL_TO, LB_ALERT_EMAIL_FROM | who gets an e-mail (commas between), from whom | nobody |
| LB_SMTP_URL | the server for that: smtps://user:password@host:465 or smtp://host:587 | none |

Settings of one institution are not here but in its `metadata` (`core.institution`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from lb_pipelines.db.embedded import EmbeddedServer
from lb_pipelines.db.engine import normalize_url
from lb_pipelines.db.partitions import LEAF_BUDGET
from lb_pipelines.errors import InvalidEnvironment

# Before the first event of OULAD, the oldest public data of this kind; a partition that nothing
# was materialized for costs nothing.
START_DAY = date(2013, 1, 1)
DAGSTER_SCHEMA = "dagster"
OWNERS = ("team:leaderboards",)

# What Dagster takes for an owner: a team, or an address.
_OWNER = re.compile(r"team:[\w.-]+|[\w.+-]+@[\w-]+(\.[\w-]+)+", re.ASCII)


@dataclass(frozen=True)
class AlertSettings:
    """Who is told of failed runs; without a webhook and without receivers nobody."""

    webhook_url: str | None = None
    email_to: tuple[str, ...] = ()
    email_from: str | None = None
    smtp_url: str | None = None

    @classmethod
    def of(cls, values: Mapping[str, str]) -> AlertSettings:
        """Read the variables; raises `InvalidEnvironment`, also where e-mail is half configured."""
        receivers = values.get("LB_ALERT_EMAIL_TO", "").split(",")
        found = cls(
            webhook_url=_http("LB_ALERT_WEBHOOK_URL", values),
            email_to=tuple(
                _address("LB_ALERT_EMAIL_TO", one) for one in map(str.strip, receivers) if one
            ),
            email_from=_address("LB_ALERT_EMAIL_FROM", values.get("LB_ALERT_EMAIL_FROM")) or None,
            smtp_url=_smtp("LB_SMTP_URL", values),
        )
        parts = {
            "LB_ALERT_EMAIL_TO": found.email_to,
            "LB_ALERT_EMAIL_FROM": found.email_from,
            "LB_SMTP_URL": found.smtp_url,
        }
        given = [name for name, value in parts.items() if value]
        for name, value in parts.items():
            # A server for mail may be set for all that a machine sends.
            if not value and {"LB_ALERT_EMAIL_TO", "LB_ALERT_EMAIL_FROM"} & set(given):
                raise InvalidEnvironment(
                    name, "", f"what e-mail needs besides {' and '.join(given)}"
                )
        return found


@dataclass(frozen=True)
class Settings:
    """The project's settings; `from_env` makes them, a test can make its own."""

    home: Path
    external_url: str | None = None
    start_day: date = START_DAY
    leaf_budget: int = LEAF_BUDGET
    ui_host: str = "127.0.0.1"
    ui_port: int = 3000
    given_export_dir: Path | None = None
    cache_url: str | None = None
    given_ui_url: str | None = None
    alerts: AlertSettings = AlertSettings()
    owners: tuple[str, ...] = OWNERS

    @classmethod
    def from_env(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Read the variables; raises `InvalidEnvironment` naming one that cannot be used.

        A variable that is set to nothing counts as not set.
        """
        given = os.environ if environment is None else environment
        values = {name: value.strip() for name, value in given.items() if name.startswith("LB_")}
        url = values.get("LB_DATABASE_URL") or None
        if url is not None:
            normalize_url(url)
        return cls(
            home=_path(values.get("LB_HOME")) or _project() / ".lb",
            external_url=url,
            start_day=_day("LB_START_DAY", values, START_DAY),
            leaf_budget=_whole("LB_LEAF_BUDGET", values, LEAF_BUDGET, 0, 100_000),
            ui_host=values.get("LB_UI_HOST") or "127.0.0.1",
            ui_port=_whole("LB_UI_PORT", values, 3000, 1, 65_535),
            given_export_dir=_path(values.get("LB_EXPORT_DIR")),
            cache_url=_redis("LB_CACHE_URL", values),
            given_ui_url=_http("LB_UI_URL", values),
            alerts=AlertSettings.of(values),
            owners=_owners("LB_OWNERS", values),
        )

    @property
    def export_dir(self) -> Path:
        """LB_EXPORT_DIR, else `exports` under `home`; asking makes nothing."""
        return self.given_export_dir or self.home / "exports"

    @property
    def ui_url(self) -> str:
        """LB_UI_URL, else the host and first port that the UI listens at; no slash at its end."""
        return (self.given_ui_url or f"http://{self.ui_host}:{self.ui_port}").rstrip("/")

    @property
    def embedded(self) -> EmbeddedServer:
        """The server under `home`; asking starts nothing."""
        return EmbeddedServer(self.home / "postgres")

    @property
    def database_url(self) -> str:
        """LB_DATABASE_URL, else the embedded server's, whether that runs or not."""
        return self.external_url or self.embedded.url

    @contextmanager
    def server(self) -> Iterator[str]:
        """The database's URL, with the embedded server running while the block lasts."""
        if self.external_url is not None:
            yield self.external_url
            return
        with self.embedded as url:
            yield url


def dagster_storage_url(database_url: str) -> str:
    """The URL under which Dagster keeps its own tables: the same database, schema `dagster`.

    dagster-postgres speaks psycopg2, which SQLAlchemy no longer takes for granted.
    """
    url = normalize_url(database_url).set(drivername="postgresql+psycopg2")
    options = f"{_text(url.query.get('options', ''))} -csearch_path={DAGSTER_SCHEMA}".strip()
    return url.update_query_dict({"options": options}).render_as_string(hide_password=False)


def _text(value: str | tuple[str, ...]) -> str:
    return value if isinstance(value, str) else " ".join(value)


def _path(text: str | None) -> Path | None:
    return Path(text).expanduser().absolute() if text else None


def _project() -> Path:
    """The checkout that this package is part of; for an installed package where one is."""
    root = Path(__file__).resolve().parents[1]
    return root if (root / "workspace.yaml").is_file() else Path.cwd()


def _day(name: str, values: Mapping[str, str], default: date) -> date:
    text = values.get(name)
    if not text:
        return default
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InvalidEnvironment(name, text, "a day like 2013-01-01") from None


def _redis(name: str, values: Mapping[str, str]) -> str | None:
    url = values.get(name) or None
    if url is not None and not url.startswith(("redis://", "rediss://", "unix://")):
        raise InvalidEnvironment(name, url, "a Redis like redis://host:6379/0")
    return url


def _http(name: str, values: Mapping[str, str]) -> str | None:
    url = values.get(name) or None
    parts = _split(url)
    if url is not None and (parts is None or parts.scheme not in ("http", "https")):
        raise InvalidEnvironment(name, _without_secrets(url), "a URL like https://host/path")
    return url


def _smtp(name: str, values: Mapping[str, str]) -> str | None:
    url = values.get(name) or None
    parts = _split(url)
    if url is not None and (parts is None or parts.scheme not in ("smtp", "smtps")):
        raise InvalidEnvironment(
            name,
            _without_secrets(url),
            "a mail server like smtps://user:password@host:465 or smtp://host:587",
        )
    return url


def _split(url: str | None) -> SplitResult | None:
    """The parts of a URL with a host and, if any, a port that can be; else None."""
    try:
        parts = urlsplit(url or "")
        numbered = parts.port != 0  # Raises where it is no number of a port.
    except ValueError:
        return None
    return parts if parts.hostname and numbered else None


def _without_secrets(url: str) -> str:
    """Enough of a URL to find it by: what may be a password or a token stays out of messages."""
    scheme, found, _ = url.partition("://")
    return f"{scheme}://..." if found else "..."


def _address(name: str, text: str | None) -> str:
    local, at, domain = (text or "").partition("@")
    bad = any(mark in (text or "") for mark in ' ,;<>"\r\n')
    if text and (not (local and at and domain) or "@" in domain or bad):
        raise InvalidEnvironment(name, text, "an address like ops@school.example")
    return text or ""


def _owners(name: str, values: Mapping[str, str]) -> tuple[str, ...]:
    owners = tuple(owner.strip() for owner in values.get(name, "").split(",") if owner.strip())
    for owner in owners:
        if not _OWNER.fullmatch(owner):
            raise InvalidEnvironment(
                name, owner, "team:NAME or an e-mail address, several by commas"
            )
    return owners or OWNERS


def _whole(name: str, values: Mapping[str, str], default: int, low: int, high: int) -> int:
    text = values.get(name)
    if not text:
        return default
    if not text.isdecimal() or not low <= int(text) <= high:
        raise InvalidEnvironment(name, text, f"a whole number from {low} to {high}")
    return int(text)
