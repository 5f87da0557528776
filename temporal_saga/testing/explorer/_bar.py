"""How far an exploration is, on a terminal."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from ._exploration import Exploration


class Bar:
    """A bar on a terminal's stderr, once it takes long."""

    def __init__(self, wanted: bool | None, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._wanted = self._stream.isatty() if wanted is None else wanted
        self._started = time.perf_counter()
        self._shown_at = 0.0
        self._depth = self._of = 0
        self._began = self._started

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown_at:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def begin(self, depth: int, of: int) -> None:
        """Begin with the plans of so many faults."""
        self._depth, self._of, self._began = depth, of, time.perf_counter()

    def show(self, done: int, exploration: Exploration) -> None:
        """Show how far it is: at most five times a second, and from the second second on."""
        now = time.perf_counter()
        if not self._wanted or now - self._started < 1 or now - self._shown_at < 0.2:
            return
        self._shown_at = now
        filled = 30 * done // max(self._of, 1)
        bar = "#" * filled + "." * (30 - filled)
        found = f", {len(exploration.violations)} ways to fail" if exploration.violations else ""
        left = (now - self._began) / max(done, 1) * (self._of - done)
        # Only of the plans of this length: their runs tell how many longer ones there are.
        about = f", about {_span(left)} left" if self._depth == exploration.faults else f", {_span(left)} to the next"
        depth = f"{self._depth} of {exploration.faults} faults"
        self._stream.write(f"\r\x1b[K{depth} [{bar}] {done} of {self._of} plans{about}{found}")
        self._stream.flush()


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
