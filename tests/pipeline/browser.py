"""A page in headless Chromium, over its DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self
from urllib.request import urlopen

from tornado.websocket import WebSocketClientConnection, websocket_connect

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-port=0", "about:blank"),
)


class Tab:
    """A tab: what is asked of it, and what goes wrong in it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, socket: WebSocketClientConnection) -> None:
        self.loop, self.socket, self.numbers = loop, socket, itertools.count(1)
        self.trouble: list[str] = []
        """Exceptions, and errors that the browser logs, refused requests among them."""
        self.requests: list[str] = []

    @classmethod
    def at(cls, loop: asyncio.AbstractEventLoop, address: str) -> Self:
        tab = cls(loop, loop.run_until_complete(_connected(address)))
        for domain in ("Page", "Runtime", "Log", "Network"):
            tab.ask(f"{domain}.enable")
        return tab

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method and wait for its result; events on the way are looked at."""
        number = next(self.numbers)
        self.loop.run_until_complete(self._send({"id": number, "method": method, "params": parameters}))
        while (message := self._next()).get("id") != number:
            self._look_at(message)
        assert "error" not in message, message
        return dict(message["result"])

    def _next(self) -> dict[str, Any]:
        text = self.loop.run_until_complete(self._received())
        assert text is not None, "the browser has closed the tab"
        return dict(json.loads(text))

    async def _send(self, message: dict[str, Any]) -> None:
        await self.socket.write_message(json.dumps(message))

    async def _received(self) -> str | bytes | None:
        return await asyncio.wait_for(self.socket.read_message(), 60)

    def _look_at(self, event: dict[str, Any]) -> None:
        name, told = event.get("method"), event.get("params", {})
        if name == "Runtime.exceptionThrown":
            self.trouble.append(told["exceptionDetails"]["exception"]["description"])
        elif name == "Log.entryAdded" and told["entry"]["level"] in {"error", "warning"}:
            self.trouble.append(told["entry"]["text"])
        elif name == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])

    def open(self, file: Path) -> None:
        self.ask("Page.navigate", url=file.absolute().as_uri())
        while self.value("document.readyState") != "complete":
            time.sleep(0.05)

    def value(self, expression: str) -> Any:
        """What an expression is in the page."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=key)

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def resize(self, width: int, height: int, scale: float = 1) -> None:
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=width < 800,
        )

    def picture(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot")["data"]))


async def _connected(address: str) -> WebSocketClientConnection:
    return await websocket_connect(address, max_message_size=1 << 28)


@contextmanager
def tab(chromium: str, profile: Path) -> Iterator[Tab]:
    """A tab of a browser of its own, whose profile is the given new folder."""
    with subprocess.Popen(
        [chromium, f"--user-data-dir={profile}", *FLAGS], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            loop = asyncio.new_event_loop()
            made = Tab.at(loop, _address(profile / "DevToolsActivePort"))
            yield made
            made.socket.close()
            loop.close()
        finally:
            process.terminate()


def _address(file: Path) -> str:
    for _ in range(600):
        if file.is_file() and "\n" in (text := file.read_text()):
            with urlopen(f"http://127.0.0.1:{text.splitlines()[0]}/json") as answer:
                pages = [page for page in json.load(answer) if page["type"] == "page"]
            if pages:
                return str(pages[0]["webSocketDebuggerUrl"])
        time.sleep(0.05)
    raise TimeoutError("the browser does not answer")
