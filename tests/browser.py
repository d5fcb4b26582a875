"""A page as Chromium leaves it, and as somebody uses it."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from waiting import PATIENCE, eventually

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "--window-size=1400,1000",
)  # fmt: skip


def dom_of(url: str, folder: Path) -> str:
    """The document at `url` after its scripts ran; the browser's profile is in `folder` meanwhile."""
    profile = folder / "browser"
    command = ["chromium", *FLAGS, "--virtual-time-budget=5000", f"--user-data-dir={profile}", "--dump-dom", url]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout
    shutil.rmtree(profile, ignore_errors=True)
    return dom


class Browser:
    """A page of a running Chromium, over its DevTools protocol: JSON objects, a zero byte after each, on pipes."""

    def __init__(self, requests: int, replies: int) -> None:
        self._requests, self._replies = os.fdopen(requests, "wb"), os.fdopen(replies, "rb")
        self._number, self._session = 0, ""
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def resize(self, width: int) -> None:
        """Of the window, in pixels."""
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)

    def show_as(self, media: str) -> None:
        """The style of `media`: `screen` or `print`."""
        self._call("Emulation.setEmulatedMedia", media=media)

    def open(self, url: str) -> None:
        self.run("window.isLeft = true")
        self._call("Page.navigate", url=url)
        eventually(lambda: self.run("!window.isLeft && document.readyState === 'complete'"))

    def run(self, script: str) -> Any:
        """The value of an expression of JavaScript."""
        return self._call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def screenshot(self, height: int) -> bytes:
        """A PNG file of the upper `height` pixels of the page."""
        clip = {"x": 0, "y": 0, "width": self.run("innerWidth"), "height": height, "scale": 1}
        return base64.b64decode(self._call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)["data"])

    def press(self, *keys: str) -> None:
        for key in keys:
            said = {"key": key, "code": key, "windowsVirtualKeyCode": {"Tab": 9, "Enter": 13}[key]}
            self._call("Input.dispatchKeyEvent", type="keyDown", **said, **({"text": "\r"} if key == "Enter" else {}))
            self._call("Input.dispatchKeyEvent", type="keyUp", **said)

    def type(self, text: str) -> None:
        self._call("Input.insertText", text=text)

    def close(self) -> None:
        self._session = ""
        self._call("Browser.close")
        self._requests.close()
        self._replies.close()

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        session = {"sessionId": self._session} if self._session else {}
        asked = {"id": self._number, "method": method, "params": parameters, **session}
        self._requests.write(json.dumps(asked).encode() + b"\0")
        self._requests.flush()
        while (reply := self._next()).get("id") != self._number:  # events come between
            pass
        assert "error" not in reply, reply
        return reply["result"]

    def _next(self) -> dict[str, Any]:
        found = bytearray()
        while (byte := self._replies.read(1)) != b"\0":
            assert byte, "the browser has ended"
            found += byte
        return json.loads(found)


@contextmanager
def browsing(folder: Path) -> Iterator[Browser]:
    """A browser, until the end of the block; its profile is in `folder` meanwhile."""
    (asked, ours), (reply, theirs) = os.pipe(), os.pipe()
    profile = folder / "browser"
    flags = " ".join((*FLAGS, "--remote-debugging-pipe", f"'--user-data-dir={profile}'"))
    command = f"exec chromium {flags} 3<&{asked} 4>&{theirs}"  # which are the ones that it takes
    process = subprocess.Popen(["bash", "-c", command], pass_fds=(asked, theirs), stderr=subprocess.DEVNULL)
    os.close(asked)
    os.close(theirs)
    try:
        browser = Browser(ours, reply)
        yield browser
        browser.close()
        process.wait(PATIENCE)
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(profile, ignore_errors=True)
