"""A local HTTP server that stands in for the publishers of genomes and tasks, with injected faults."""

import hashlib
import re
import threading
import time
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """HTTP server of files held in memory.

    Attributes:
        files: content by path, without leading slash.
        ranges: whether range requests are supported.
        breaks: number of next responses, except for .txt files, that end after half of their body.
        errors: status codes of the next responses; each is used once.
        pause: seconds before each 64 KiB of a body.
        requests: (path, Range header or None) of each request.
        sent: number of body bytes sent, by path.
        tag: ETag of all files.
        max_concurrent: maximum number of concurrent responses.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.ranges = True
        self.breaks = 0
        self.errors: list[int] = []
        self.pause = 0.0
        self.requests: list[tuple[str, str | None]] = []
        self.sent: dict[str, int] = defaultdict(int)
        self.tag = '"one"'
        self.concurrent = self.max_concurrent = 0
        self.lock = threading.Lock()

    @property
    def mirrors(self) -> list[str]:
        url = f"http://127.0.0.1:{self.server_port}"
        return [f"{publisher}={url}/{publisher}" for publisher in ("ucsc", "google", "huggingface", "ncbi")]

    def add(self, path: str, content: bytes, sums: str | None = None) -> None:
        self.files[path] = content
        if sums:
            line = f"{hashlib.md5(content).hexdigest()}  ./{path.rsplit('/', 1)[-1]}\n"
            self.files[sums] = self.files.get(sums, b"00000000000000000000000000000000  other.gz\n") + line.encode()


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server, path, requested = self.server, self.path.lstrip("/"), self.headers.get("Range")
        server.requests.append((path, requested))
        if server.errors or path not in server.files:
            self.send_response(server.errors.pop(0) if server.errors else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content, begin = server.files[path], 0
        if requested and server.ranges and self.headers.get("If-Range") in (None, server.tag):
            begin = int(re.fullmatch(r"bytes=(\d+)-", requested)[1])
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("ETag", server.tag)
        self.send_header("Content-Length", str(len(content) - begin))
        self.end_headers()
        with server.lock:
            broken = server.breaks > 0 and not path.endswith(".txt")
            server.breaks -= broken
            server.concurrent += 1
            server.max_concurrent = max(server.max_concurrent, server.concurrent)
        try:
            self._send(path, content[begin : begin + (len(content) - begin) // 2] if broken else content[begin:])
        finally:
            with server.lock:
                server.concurrent -= 1
        self.close_connection = broken

    def _send(self, path: str, body: bytes) -> None:
        for at in range(0, len(body), 2**16):
            time.sleep(self.server.pause)
            self.wfile.write(body[at : at + 2**16])
            self.server.sent[path] += len(body[at : at + 2**16])

    def log_message(self, *_: object) -> None:
        pass
