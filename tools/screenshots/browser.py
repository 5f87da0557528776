"""A headless Chromium, driven over a pipe by the DevTools protocol: no library is needed for so little."""

from __future__ import annotations

import base64
import itertools
import json
import os
import subprocess
import tempfile
import time
from types import TracebackType
from typing import Any, Literal

Scheme = Literal["light", "dark"]

_PATIENCE = 60.0
_SHOWN = """
    [document, ...[...document.querySelectorAll("iframe")].map(each => each.contentDocument)]
        .map(each => each?.body?.innerText ?? "").join("\\n")
"""


class Browser:
    """A browser with one page."""

    def __init__(self, command: str = "chromium") -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="temporal-saga-browser-", ignore_cleanup_errors=True)
        their_in, self._out = os.pipe()
        self._in, their_out = os.pipe()

        def take_pipes() -> None:
            # The protocol has these two numbers. First up: the pipes may have them the other way round.
            up = [os.dup2(pipe, 100 + number, inheritable=False) for number, pipe in enumerate((their_in, their_out))]
            for number, pipe in zip((3, 4), up, strict=True):
                os.dup2(pipe, number)

        self._process = subprocess.Popen(
            [
                *(command, "--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu"),
                *("--hide-scrollbars", "--no-first-run", f"--user-data-dir={self._folder.name}"),
            ],
            close_fds=False,
            preexec_fn=take_pipes,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(their_in)
        os.close(their_out)
        self._ids = itertools.count(1)
        self._unread = b""
        self._session: str | None = None
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._out)
        os.close(self._in)
        self._folder.cleanup()

    def open(self, url: str, *, size: tuple[int, int], scheme: Scheme, until: str) -> None:
        """Open a page, and wait until it shows a text."""
        width, height = size
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self._call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self._call("Page.navigate", url=url)
        self.wait_for(until)

    def wait_for(self, text: str) -> None:
        """Wait until the page shows a text, and a little longer: what it draws may still move."""
        end = time.monotonic() + _PATIENCE
        while text not in (seen := str(self.run(_SHOWN))):
            if time.monotonic() > end:
                raise TimeoutError(f"the page does not show {text!r}, but: {seen}")
            time.sleep(0.2)
        time.sleep(1)

    def run(self, script: str) -> Any:
        """Evaluate JavaScript in the page."""
        answer = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def picture(self, below: str | None = None) -> bytes:
        """Return what the page looks like, as PNG; or only its part from the last heading with this text on."""
        clip: dict[str, Any] = {}
        if below is not None:
            script = f"""(() => {{
                const all = [...document.querySelectorAll("h1, h2, h3, h4")];
                const heading = all.findLast(each => each.innerText.trim() == {json.dumps(below)});
                const box = heading.getBoundingClientRect();
                const [x, y] = [box.left - 16, box.top - 16];
                return {{ x, y, width: innerWidth - x, height: innerHeight - y, scale: 1 }};
            }})()"""
            clip = {"clip": self.run(script)}
        return base64.b64decode(self._call("Page.captureScreenshot", format="png", **clip)["data"])

    def _call(self, method: str, **params: Any) -> Any:
        id = next(self._ids)
        session = {} if self._session is None else {"sessionId": self._session}
        os.write(self._out, json.dumps({"id": id, "method": method, "params": params, **session}).encode() + b"\0")
        while True:
            message = self._read()
            if message.get("id") == id:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]

    def _read(self) -> Any:
        while b"\0" not in self._unread:
            more = os.read(self._in, 1 << 20)
            if not more:
                raise RuntimeError("the browser has ended")
            self._unread += more
        message, _, self._unread = self._unread.partition(b"\0")
        return json.loads(message)
