"""How a report gets to people: one POST of JSON to a webhook, one e-mail.

Whatever keeps it from getting there is a `NotDelivered`, whose words hold no secret: the path of a
webhook's address is one, and so is a password.
"""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Mapping
from email.message import EmailMessage
from email.utils import formatdate
from typing import Protocol
from urllib.parse import unquote, urlsplit

import requests

from lb_pipelines.orchestration.alerts.report import FailureReport
from lb_pipelines.settings import AlertSettings

_SECONDS = 10.0
_SUBMISSION, _SMTPS = 587, 465


class NotDelivered(Exception):
    """A receiver that did not take a report, and why."""


class Channel(Protocol):
    """A way to people; raises `NotDelivered` where it is closed."""

    def send(self, report: FailureReport) -> None:
        """Deliver one report."""


def channels(settings: AlertSettings) -> dict[str, Channel]:
    """The channels that the environment configures, by name; none where it says nothing."""
    found: dict[str, Channel] = {}
    if settings.webhook_url:
        found["webhook"] = Webhook(settings.webhook_url)
    if settings.smtp_url and settings.email_from:
        found["email"] = Mail(settings.smtp_url, settings.email_from, settings.email_to)
    return found


class Webhook:
    """Anything that takes JSON by POST; chat services show its `text`."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._host = urlsplit(url).hostname

    def send(self, report: FailureReport) -> None:
        """POST the report; anything but a status of 2xx is refused, a redirect too."""
        try:
            answer = requests.post(
                self._url,
                json=report.as_json,
                headers={"Idempotency-Key": report.run_id},
                timeout=_SECONDS,
                allow_redirects=False,
            )
        except requests.RequestException as error:
            raise NotDelivered(f"{self._host} cannot be reached ({type(error).__name__})") from None
        if not 200 <= answer.status_code < 300:
            raise NotDelivered(f"{self._host} answered with status {answer.status_code}")


class Mail:
    """E-mail by a server of `smtps://`, or of `smtp://`, encrypted where that server can.

    A password goes over an encrypted connection only.
    """

    def __init__(self, url: str, sender: str, receivers: tuple[str, ...]) -> None:
        parts = urlsplit(url)
        self._encrypted = parts.scheme == "smtps"
        self._host = parts.hostname or ""
        self._port = parts.port or (_SMTPS if self._encrypted else _SUBMISSION)
        self._user = unquote(parts.username or "")
        self._password = unquote(parts.password or "")
        self._sender = sender
        self._receivers = receivers

    def send(self, report: FailureReport) -> None:
        """Send the report to all receivers in one message; refused ones are an error if all are."""
        try:
            with self._server() as server:
                server.send_message(self._message(report))
        except smtplib.SMTPRecipientsRefused as error:
            raise NotDelivered(f"{self._host} refuses {_refused(error.recipients)}") from None
        except (smtplib.SMTPException, OSError) as error:
            said = f" {error.smtp_code}" if isinstance(error, smtplib.SMTPResponseException) else ""
            raise NotDelivered(
                f"{self._host}:{self._port} did not take it ({type(error).__name__}{said})"
            ) from None

    def _server(self) -> smtplib.SMTP:
        context = ssl.create_default_context()
        if self._encrypted:
            server: smtplib.SMTP = smtplib.SMTP_SSL(
                self._host, self._port, timeout=_SECONDS, context=context
            )
        else:
            server = smtplib.SMTP(self._host, self._port, timeout=_SECONDS)
        try:
            server.ehlo()
            encrypted = self._encrypted
            if not encrypted and server.has_extn("starttls"):
                server.starttls(context=context)
                encrypted = True
            if self._user:
                if not encrypted:
                    raise smtplib.SMTPNotSupportedError("no STARTTLS, and a password to send")
                server.login(self._user, self._password)
        except BaseException:
            server.close()
            raise
        return server

    def _message(self, report: FailureReport) -> EmailMessage:
        message = EmailMessage()
        message["Subject"] = report.title
        message["From"] = self._sender
        message["To"] = ", ".join(self._receivers)
        message["Date"] = formatdate()
        # The same for the same run, so that a mailbox can tell a second copy.
        message["Message-ID"] = f"<run-failed.{report.run_id}@{self._sender.rpartition('@')[2]}>"
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(report.text)
        return message


def _refused(receivers: Mapping[str, tuple[int, bytes]]) -> str:
    return ", ".join(sorted(receivers))
