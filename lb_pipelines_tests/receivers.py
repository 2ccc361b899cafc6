"""Receivers of alerts on this machine: a webhook, and a mail server."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.controller import Controller


class HttpReceiver:
    """Keeps the JSON that is posted, and answers with `status`."""

    def __init__(self) -> None:
        self.status = 204
        self.got: list[dict[str, Any]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                assert self.headers["Idempotency-Key"] == body["runId"]
                if receiver.status < 300:
                    receiver.got.append(body)
                self.send_response(receiver.status)
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hooks/secret-token"

    @classmethod
    @contextmanager
    def listening(cls) -> Iterator[HttpReceiver]:
        receiver = cls()
        thread = threading.Thread(target=receiver._server.serve_forever)
        thread.start()
        try:
            yield receiver
        finally:
            receiver._server.shutdown()
            thread.join()
            receiver._server.server_close()


class MailReceiver:
    """Keeps the messages that come in, and refuses receivers of `refused`."""

    def __init__(self) -> None:
        self.got: list[EmailMessage] = []
        self.refused: set[str] = set()

    async def handle_RCPT(self, server, session, envelope, address, options) -> str:
        if address in self.refused:
            return "550 No such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope) -> str:
        message = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(message, EmailMessage)
        self.got.append(message)
        return "250 OK"

    @classmethod
    @contextmanager
    def listening(cls) -> Iterator[tuple[MailReceiver, str]]:
        """A receiver and its URL."""
        receiver = cls()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        controller = Controller(receiver, hostname="127.0.0.1", port=port)
        controller.start()
        try:
            yield receiver, f"smtp://127.0.0.1:{port}"
        finally:
            controller.stop()
