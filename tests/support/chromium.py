"""Headless Chromium, driven by the DevTools protocol."""

import asyncio
import base64
import json
import shutil
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome")
SECONDS = 120


def find_chromium() -> str | None:
    """Path of the browser; None if it is not installed."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Tab:
    """A page in headless Chromium.

    Attributes:
        requests: addresses of all requests of the page.
        errors: messages of exceptions and of errors on the console.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._number = socket, 0
        self.requests: list[str] = []
        self.errors: list[str] = []

    async def call(self, method: str, **parameters: object) -> dict:
        """Call a method of the protocol and return its result."""
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": parameters})
        while True:
            message = await self._socket.receive_json(timeout=SECONDS)
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]
            self._note(message)

    def _note(self, message: dict) -> None:
        parameters = message.get("params", {})
        match message.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(parameters["request"]["url"])
            case "Runtime.exceptionThrown":
                self.errors.append(json.dumps(parameters["exceptionDetails"]))
            case "Log.entryAdded" if parameters["entry"]["level"] == "error":
                self.errors.append(json.dumps(parameters["entry"]))

    async def evaluate(self, script: str):
        """Evaluate JavaScript, wait for its promise, and return its value."""
        found = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def wait_for(self, script: str) -> None:
        """Evaluate a JavaScript expression until it is true."""
        end = time.monotonic() + SECONDS
        while not await self.evaluate(f"Boolean({script})"):
            assert time.monotonic() < end, f"never true: {script}; errors: {self.errors}"
            await asyncio.sleep(0.2)

    async def click(self, x: float, y: float) -> None:
        """Click with the mouse."""
        for kind in ("mousePressed", "mouseReleased"):
            await self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    async def screenshot(self, path: Path) -> None:
        """Save a PNG image of the page."""
        path.write_bytes(base64.b64decode((await self.call("Page.captureScreenshot"))["data"]))


def visit(url: str, steps, *, width: int = 1400, height: int = 900):
    """Open a page, run the coroutine function `steps` with its `Tab`, and return its result."""
    return asyncio.run(_visit(url, steps, width, height))


async def _visit(url: str, steps, width: int, height: int):
    chromium = find_chromium()
    assert chromium is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        options += ["--disable-background-networking", f"--user-data-dir={profile}", "--remote-debugging-port=0"]
        process = subprocess.Popen(
            [chromium, *options, f"--window-size={width},{height}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            port = await _debugging_port(Path(profile) / "DevToolsActivePort", process)
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{port}/json/list") as response:
                    pages = await response.json()
                address = next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page")
                async with session.ws_connect(address, max_msg_size=0) as socket:
                    tab = Tab(socket)
                    for domain in ("Page", "Network", "Runtime", "Log"):
                        await tab.call(f"{domain}.enable")
                    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
                    await tab.call("Emulation.setDeviceMetricsOverride", **size)
                    await tab.call("Page.navigate", url=url)
                    return await steps(tab)
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()


async def _debugging_port(file: Path, process: subprocess.Popen) -> int:
    end = time.monotonic() + SECONDS
    while not (file.is_file() and (lines := file.read_text().splitlines())):
        assert process.poll() is None and time.monotonic() < end, "Chromium does not start"
        await asyncio.sleep(0.1)
    return int(lines[0])
