"""Chromium without a window, spoken to through two pipes (the DevTools protocol)."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
SECONDS = 60
# The browser reads from 3 and writes to 4; either may be the other's number here.
_AT_3_AND_4 = """
import fcntl, os, sys
high = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3]]
os.dup2(high[0], 3)
os.dup2(high[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


def found() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


# What text is drawn on is the first ground around it that is not transparent.
_COLORS = """
(() => {
  const found = [];
  const texts = 'h1,h2,h3,p,th,td,a,dt,dd,li,summary,caption,code,label,text';
  for (const e of document.querySelectorAll(texts)) {
    if (!e.checkVisibility() || !e.textContent.trim()) continue;
    let ground = e;
    while (ground && getComputedStyle(ground).backgroundColor === 'rgba(0, 0, 0, 0)')
      ground = ground.parentElement;
    const style = getComputedStyle(e);
    found.push([e.tagName === 'text' ? style.fill : style.color,
                getComputedStyle(ground || document.documentElement).backgroundColor]);
  }
  return [...new Set(found.map(p => p.join(';')))];
})()
"""
_BEYOND = """
[...document.querySelectorAll('body *')].filter(e =>
  e.checkVisibility() && e.getBoundingClientRect().right > innerWidth + 1 && !e.closest(%r)
).map(e => e.tagName)
"""


class Page:
    """A page as a screen shows it; what it complains of and asks for is kept."""

    def __init__(self, send: Any, receive: Any) -> None:
        self.send, self.receive = send, receive
        self.session: str | None = None
        self.number = 0
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.loaded = False
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        found = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self.session = found["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **params: Any) -> Any:
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        self.send(message | ({"sessionId": self.session} if self.session else {}))
        while True:
            answer = self.receive()
            if answer.get("id") == self.number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self._note(answer)

    def _note(self, event: dict[str, Any]) -> None:
        name, said = event.get("method"), event.get("params", {})
        if name == "Log.entryAdded" and said["entry"]["level"] in ("error", "warning"):
            self.complaints.append(said["entry"]["text"])
        elif name in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
            self.complaints.append(json.dumps(said))
        elif name == "Network.requestWillBeSent":
            self.requests.append(said["request"]["url"])
        elif name == "Page.loadEventFired":
            self.loaded = True

    def open(self, path: Path, *, width: int, dark: bool) -> None:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.ask("Emulation.setDeviceMetricsOverride", **size)
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.loaded = False
        self.ask("Page.navigate", url=path.as_uri())
        while not self.loaded:
            self._note(self.receive())

    def value(self, expression: str) -> Any:
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        return answer["result"].get("value")

    def beyond_the_edge(self, *, but: str) -> list[str]:
        """Return the tags of what lies right of the screen, but within what a selector names."""
        return list(self.value(_BEYOND % but))

    def colors(self) -> list[tuple[str, str]]:
        """Return the pairs of text's color and ground, as #rrggbb."""
        pairs = [pair.split(";") for pair in self.value(_COLORS)]
        return [(_hexadecimal(color), _hexadecimal(ground)) for color, ground in pairs]

    def screenshot(self, path: Path) -> None:
        picture = self.ask("Page.captureScreenshot", captureBeyondViewport=True, format="png")
        path.write_bytes(base64.b64decode(picture["data"]))


def _hexadecimal(color: str) -> str:
    numbers = color.removeprefix("rgb(").rstrip(")").split(",")
    return "#" + "".join(f"{int(number):02x}" for number in numbers)


@contextmanager
def opened(program: str, profile: Path) -> Iterator[Page]:
    """Start the program and yield an empty page of it."""
    to_it, out = os.pipe()
    back, from_it = os.pipe()

    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
    options += [
        "--no-first-run",
        "--hide-scrollbars",
        "--disable-dev-shm-usage",
        f"--user-data-dir={profile}",
    ]
    running = subprocess.Popen(
        [sys.executable, "-c", _AT_3_AND_4, str(to_it), str(from_it), program, *options],
        pass_fds=(to_it, from_it),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_it)
    os.close(from_it)
    try:
        yield Page(*_pipe(out, back))
    finally:
        running.kill()
        running.wait()
        os.close(out)
        os.close(back)


def _pipe(out: int, back: int) -> tuple[Any, Any]:
    held = bytearray()

    def send(message: dict[str, Any]) -> None:
        data = memoryview(json.dumps(message).encode() + b"\0")
        while data:
            data = data[os.write(out, data) :]

    def receive() -> dict[str, Any]:
        until = time.monotonic() + SECONDS
        while (end := held.find(b"\0")) < 0:
            ready, _, _ = select.select([back], [], [], max(0, until - time.monotonic()))
            data = os.read(back, 1 << 20) if ready else b""
            if not data:
                raise TimeoutError("the browser said nothing")
            held.extend(data)
        message = json.loads(held[:end])
        del held[: end + 1]
        return message

    return send, receive
