"""Looks at each page of the site in a browser, as wide as a phone and as a desk, and fails if one scrolls sideways.

    python -m tools.widths build/docs

It needs Chromium, of which CHROMIUM may give the path. One page with a frame of each width shows the others in turn: so
a page gets the width that is asked for, which the window of a headless browser does not promise.

The theme hides what is too wide (`html { overflow-x: hidden }`), or lets the text of a page scroll as a whole. So what
counts is where each element ends. A table or a block of code scrolls by itself, and does not count.
"""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TypedDict

WIDTHS = (390, 1280)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SECONDS = 300
OWN = ".table-wrapper > *, pre *, .sidebar-drawer, .toc-drawer"  # what scrolls by itself, or waits beside the page
LOOK = """<!doctype html><meta charset="utf-8"><pre id="found"></pre><script>
const found = [];
const load = (frame, page) => new Promise((loaded) => {
  frame.onload = loaded;
  frame.src = page;
});
(async () => {
  for (const width of WIDTHS) {
    const frame = document.body.appendChild(document.createElement("iframe"));
    frame.style = `width: ${width}px; height: 900px; border: 0`;
    for (const page of PAGES) {
      await load(frame, page);
      await frame.contentDocument.fonts.ready;
      for (const theme of ["light", "dark"]) {
        frame.contentDocument.body.dataset.theme = theme;
        const root = frame.contentDocument.documentElement;
        const shown = [...frame.contentDocument.body.querySelectorAll("*")].filter((each) => !each.closest(OWN));
        const ends = shown.map((each) => each.getBoundingClientRect()).filter((box) => box.width && box.height);
        const wide = Math.max(root.scrollWidth, ...ends.map((box) => Math.ceil(box.right)));
        found.push({page, width, theme, inner: root.clientWidth, wide});
      }
    }
    frame.remove();
  }
  document.getElementById("found").textContent = JSON.stringify(found);
})();
</script>
"""


class Seen(TypedDict):
    """How wide a page was in a frame."""

    page: str
    width: int
    theme: str
    inner: int
    wide: int


class Handler(SimpleHTTPRequestHandler):
    """Serves the site, and the page that looks at it."""

    look = ""

    def do_GET(self) -> None:
        """Answer a request."""
        if self.path != "/look.html":
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(self.look.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def look_at(site: Path, browser: str) -> list[Seen]:
    """Return how wide each page of a site is, in each width and theme."""
    pages = sorted(f"/{path.relative_to(site).as_posix()}" for path in site.rglob("*.html"))
    Handler.look = LOOK
    for name, value in (("WIDTHS", WIDTHS), ("PAGES", pages), ("OWN", OWN)):
        Handler.look = Handler.look.replace(name, json.dumps(value))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as profile:
        # Without `--virtual-time-budget` the answer is what the page holds before its script has ended.
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
        command += [f"--virtual-time-budget={SECONDS * 1000}", "--dump-dom"]
        command += [f"http://127.0.0.1:{server.server_port}/look.html"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    server.shutdown()
    text = re.search(r'<pre id="found">(.+?)</pre>', done.stdout, re.DOTALL)
    if text is None:
        sys.exit(f"the browser has not come to an end:\n{done.stderr[-2000:]}")
    seen: list[Seen] = json.loads(html.unescape(text[1]))
    assert len(seen) == len(pages) * len(WIDTHS) * 2
    return seen


def main() -> None:
    """Look, and say which pages are too wide."""
    browser = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit("install Chromium, or give its path as CHROMIUM")
    seen = look_at(Path(sys.argv[1]), browser)
    wide = [each for each in seen if each["wide"] > each["inner"]]
    for each in wide:
        print(f"{each['page']} is {each['wide']} px wide in {each['width']} px ({each['theme']})")
    print(f"{len({each['page'] for each in seen})} pages in {WIDTHS} px, light and dark: {len(wide)} scroll sideways")
    sys.exit(bool(wide))


if __name__ == "__main__":
    main()
