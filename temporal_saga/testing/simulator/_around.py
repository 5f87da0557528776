"""What plugins run around a worker, entered and left without a worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager

from ._clock import VirtualLoop, new_loop
from ._errors import SimulationError
from ._sdk import WorkerParts, run_worker


class AroundWorker:
    """The `run_worker` and `run_context` of the plugins, on a loop."""

    def __init__(self, parts: WorkerParts, loop: VirtualLoop) -> None:
        self._parts = parts
        self._loop = loop
        self._running: asyncio.Task[None] | None = None
        self._over: asyncio.Future[None]

    def enter(self, inside: Callable[[], None]) -> None:
        """Enter, and call `inside` there."""
        if not self._parts.around:
            return
        entered, self._over = self._loop.create_future(), self._loop.create_future()

        async def run() -> None:
            inside()
            entered.set_result(None)
            await self._over

        self._running = self._loop.create_task(run_worker(self._parts, run))
        self._loop.run_until_complete(asyncio.wait([entered, self._running], return_when=asyncio.FIRST_COMPLETED))
        if not entered.done():
            self._running.result()
            raise SimulationError("run_worker of a plugin has ended without running the worker")

    def leave(self) -> None:
        """Leave what was entered."""
        if self._running is not None and not self._running.done():
            self._over.set_result(None)
            self._loop.run_until_complete(self._running)


@contextmanager
def around_replays(parts: WorkerParts) -> Generator[None, None, None]:
    """Replay inside of what the plugins run around a worker: a replay is another worker's."""
    if not parts.around:
        yield
        return
    around = AroundWorker(parts, new_loop())
    around.enter(lambda: None)
    try:
        yield
    finally:
        around.leave()
