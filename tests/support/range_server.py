"""A web server for tests with range requests and injected faults."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class RangeServer:
    """HTTP server of the files in a folder.

    Attributes:
        url: address of the folder, without trailing slash.
        requests: (path, Range header) of each request; the header is empty for a whole file.
        faults: functions called with the handler before it responds; True means that the fault has responded.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.requests: list[tuple[str, str]] = []
        self.faults: list[Callable] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer._answer(self)

            def do_HEAD(self):
                outer._answer(self, body=False)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def shard_requests(self) -> list[str]:
        return [requested for path, requested in self.requests if path.endswith(".tar")]

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, handler, body=True):
        self.requests.append((handler.path, handler.headers.get("Range", "")))
        if any(fault(handler) for fault in self.faults):
            return
        path = self.folder / handler.path.lstrip("/")
        if not path.is_file():
            handler.send_error(404)
            return
        content, requested = path.read_bytes(), handler.headers.get("Range")
        part = content
        if requested:
            start, stop = requested.removeprefix("bytes=").split("-")
            part = content[int(start) : int(stop) + 1]
            if not part:
                handler.send_error(416)
                return
        handler.send_response(206 if requested else 200)
        handler.send_header("Content-Length", str(len(part)))
        if requested:
            handler.send_header("Content-Range", f"bytes {start}-{int(start) + len(part) - 1}/{len(content)}")
        handler.end_headers()
        if body:
            handler.wfile.write(part)


def times(count, fault, path=".tar"):
    """Limit a fault to the first ``count`` requests whose path ends with ``path``."""
    left = [count]

    def limited(handler):
        if not handler.path.endswith(path) or left[0] <= 0:
            return False
        left[0] -= 1
        return fault(handler)

    return limited


def status(code):
    def answer(handler):
        handler.send_error(code)
        return True

    return answer


def break_off(handler):
    """Promise 1,000 bytes, send 10, and close the connection."""
    handler.send_response(206)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b"x" * 10)
    handler.close_connection = True
    return True


def end_early(handler):
    """Send 10 bytes without a Content-Length and close the connection."""
    handler.send_response(206)
    handler.end_headers()
    handler.wfile.write(b"x" * 10)
    handler.close_connection = True
    return True


def endless(sent, most):
    """Send up to ``most`` bytes until the client hangs up; append the size of each part to ``sent``."""

    def send(handler):
        handler.send_response(206 if handler.headers.get("Range") else 200)
        handler.end_headers()
        with suppress(OSError):
            while sum(sent) < most:
                sent.append(handler.wfile.write(bytes(2**16)))
        handler.close_connection = True
        return True

    return send


def hang_up(handler):
    handler.connection.close()
    handler.close_connection = True
    return True


def be_slow(seconds):
    def wait(_):
        time.sleep(seconds)
        return False

    return wait


def ignore_range(handler):
    """Send the whole file instead of a range, as Python's `http.server` does."""
    if handler.headers.get("Range"):
        del handler.headers["Range"]
    return False
