"""HTTP server of a fixed set of resources, on the loopback interface."""

from __future__ import annotations

import json
import os
import re
import secrets
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from ldarnet.errors import UserError
from ldarnet.io.files import read_errors
from ldarnet.printable import printable

HOST = "127.0.0.1"
LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})
"""Host names that a request may address; others are refused because of DNS rebinding."""
MAX_BODY_BYTES = 2**20
BLOCK_BYTES = 2**20
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        "connect-src 'self'; font-src 'none'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Headers of all responses; the policy keeps the page from loading anything from another server."""
_RANGE = re.compile(r"bytes=([0-9]{0,15})-([0-9]{0,15})")

Query = Callable[[dict[str, str]], Any]
"""Computes a JSON value from the parameters of a URL. A `UserError` becomes an answer with status 400."""
Action = Callable[[bytes], Any]
"""Computes a JSON value from the body of a POST request. A `UserError` becomes an answer with status 400."""


@dataclass(frozen=True, slots=True)
class WebContent:
    """Bytes with a media type.

    Attributes:
        media_type: value of the Content-Type header.
        length: number of bytes.
        read: function of an offset and a number of bytes.
    """

    media_type: str
    length: int
    read: Callable[[int, int], bytes]

    @classmethod
    def of(cls, content: bytes, media_type: str) -> WebContent:
        """Bytes in memory."""
        return cls(media_type, len(content), lambda first, length: content[first : first + length])

    @classmethod
    def of_file(cls, path: Path) -> WebContent:
        """A file, which stays open.

        Raises:
            UserError: the file cannot be read.
        """
        with read_errors(path):
            descriptor = os.open(path, os.O_RDONLY)
            length = os.fstat(descriptor).st_size
        return cls("application/octet-stream", length, lambda first, size: os.pread(descriptor, size, first))


@dataclass(slots=True)
class WebSite:
    """What a server serves; nothing else has an address.

    Attributes:
        contents: path -> bytes, for GET with optional byte ranges.
        queries: path -> query, for GET.
        actions: path -> action, for POST.
    """

    contents: dict[str, WebContent] = field(default_factory=dict)
    queries: dict[str, Query] = field(default_factory=dict)
    actions: dict[str, Action] = field(default_factory=dict)


class SiteServer(ThreadingHTTPServer):
    """Server of a site. The random secret in its URL keeps other users of the machine out."""

    daemon_threads = True

    def __init__(self, site: WebSite, port: int) -> None:
        """Bind to a port of the loopback interface; 0 selects a free port.

        Raises:
            UserError: the port is in use or not permitted.
        """
        self.site, self.secret = site, secrets.token_urlsafe(16)
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            reason = error.strerror.lower() if error.strerror else str(error)
            raise UserError(f"--port {port}: {reason}; choose another port, or 0 for a free one") from None

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://{HOST}:{self.server_port}/{self.secret}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore closed connections; print other errors."""
        error = sys.exception()
        if not isinstance(error, ConnectionError | TimeoutError):
            print(printable(f"request failed: {error!r}"), file=sys.stderr)


class _RefusedError(Exception):
    """A request that is answered with an error status."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60
    server_version, sys_version = "ldarnet", ""

    @property
    def _served(self) -> SiteServer:
        assert isinstance(self.server, SiteServer)
        return self.server

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_HEAD(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged."""

    def _answer(self, respond: Callable[[str], None]) -> None:
        try:
            self._check_origin()
            secret, _, path = urlsplit(self.path).path.removeprefix("/").partition("/")
            if not secrets.compare_digest(secret.encode(), self._served.secret.encode()):
                raise _RefusedError(404, "no such page; use the address that ldarnet browse prints")
            respond(path)
        except _RefusedError as refused:
            self._send_error(refused.status, refused.reason)
        except UserError as error:
            self._send_error(400, str(error))

    def _check_origin(self) -> None:
        host = self.headers.get("Host", "")
        try:
            name = urlsplit(f"//{host}").hostname
        except ValueError:
            name = None
        if name not in LOOPBACK_NAMES:
            raise _RefusedError(
                403, "the Host header is not a loopback address; use the address that ldarnet browse prints"
            )
        if self.headers.get("Origin", f"http://{host}") != f"http://{host}":
            raise _RefusedError(403, "requests from other web sites are refused")

    def _get(self, path: str) -> None:
        site = self._served.site
        if path in site.contents:
            self._send_content(site.contents[path])
        elif path in site.queries:
            parameters = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True, max_num_fields=16))
            self._send_json(200, site.queries[path](parameters))
        elif path in site.actions:
            raise _RefusedError(405, "use POST")
        else:
            raise _RefusedError(404, "no such resource")

    def _post(self, path: str) -> None:
        site = self._served.site
        if path not in site.actions:
            raise _RefusedError(
                *((405, "use GET") if path in site.contents | site.queries else (404, "no such resource"))
            )
        if self.headers.get_content_type() != "application/json":
            raise _RefusedError(415, "send application/json")
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch("[0-9]{1,15}", length):
            raise _RefusedError(411, "send Content-Length")
        if int(length) > MAX_BODY_BYTES:
            raise _RefusedError(413, f"at most {MAX_BODY_BYTES:,} bytes are accepted")
        self._send_json(200, site.actions[path](self.rfile.read(int(length))))

    def _send_content(self, content: WebContent) -> None:
        part = _byte_range(self.headers.get("Range"), content.length)
        if part is None:
            self._start(416, content.media_type, 0, {"Content-Range": f"bytes */{content.length}"})
            return
        first, length = part
        if length == content.length:
            self._start(200, content.media_type, length, {"Accept-Ranges": "bytes"})
        else:
            described = f"bytes {first}-{first + length - 1}/{content.length}"
            self._start(206, content.media_type, length, {"Content-Range": described})
        if self.command == "HEAD":
            return
        for at in range(first, first + length, BLOCK_BYTES):
            block = content.read(at, expected := min(BLOCK_BYTES, first + length - at))
            if len(block) != expected:  # the file was truncated: the client notices the missing bytes
                self.close_connection = True
                return
            self.wfile.write(block)

    def _send_json(self, status: int, value: Any) -> None:
        body = json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
        self._start(status, "application/json", len(body), {})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_error(self, status: int, reason: str) -> None:
        self.close_connection = True  # an unread body must not be parsed as the next request
        self._send_json(status, {"error": reason})

    def _start(self, status: int, media_type: str, length: int, more: dict[str, str]) -> None:
        self.send_response(status)
        headers = {"Content-Type": media_type, "Content-Length": str(length), **HEADERS, **more}
        if self.close_connection:
            headers["Connection"] = "close"
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


def _byte_range(header: str | None, total: int) -> tuple[int, int] | None:
    """Offset and length that a Range header selects: everything without a valid one; None if there is no such byte."""
    match = _RANGE.fullmatch(header or "")
    if match is None or match.groups() == ("", ""):
        return 0, total
    first, last = match.groups()
    if not first:
        length = min(int(last), total)
        return (total - length, length) if length else None
    start, end = int(first), min(int(last) if last else total - 1, total - 1)
    if last and int(last) < start:
        return 0, total  # not a valid range, and ignored
    return (start, end - start + 1) if start < total else None
