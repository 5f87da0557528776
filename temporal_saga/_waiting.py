"""Waiting in a workflow that may be evicted.

A worker evicts a run from its cache by cancelling each of its tasks with a plain `CancelledError`. If a saga took an
eviction for a cancel, it would unwind here while it lives on elsewhere. If a task went on waiting during an eviction,
the eviction would never finish ("Eviction processed, but 1 tasks remain"). So everything that waits in a saga waits
here, and checks for an eviction first.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Collection, Generator
from contextvars import Context
from types import TracebackType
from typing import Any

from temporalio import workflow


def raise_if_evicted() -> None:
    """Raise the SDK's own exception if the worker is evicting this run.

    Writes the current details back unchanged. The SDK refuses any write during an eviction (`_assert_not_read_only`),
    and offers no other public way to ask.
    """
    workflow.set_current_details(workflow.get_current_details())


class UntilDone:
    """`await UntilDone(task)` waits until a task has ended, and never cancels it.

    `await task` would pass a cancel on to the task. An activity's handle swallows that cancel, so the waiting task
    would not learn of it. `asyncio.wait([task])` wakes two turns of the event loop late. An object that is like a
    future (`asyncio.isfuture`) wakes the waiting task in the same turn as `await task`.
    """

    __slots__ = ("_asyncio_future_blocking", "_context", "_task", "_wake")

    def __init__(self, task: asyncio.Future[Any]) -> None:
        self._task = task

    def __await__(self) -> Generator[Any, None, None]:
        if not self._task.done():
            self._asyncio_future_blocking = True
            yield self

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the task's event loop, which asyncio compares."""
        return self._task.get_loop()

    def add_done_callback(self, wake: Callable[[Any], object], *, context: Context) -> None:
        """Take the callback that wakes the waiting task."""
        self._wake, self._context = wake, context
        self._task.add_done_callback(self._end, context=context)

    def _end(self, _: object) -> None:
        self._wake(self)

    def cancel(self, msg: Any = None) -> bool:
        """Wake the waiting task, which then gets the cancel. The task that it waits for does not get it."""
        if self._task.remove_done_callback(self._end):
            self.get_loop().call_soon(self._wake, self, context=self._context)
        return False

    def result(self) -> None:
        """Return nothing: the result belongs to the task."""


async def until_done(futures: Collection[asyncio.Future[Any]], when: str = asyncio.ALL_COMPLETED) -> None:
    """Wait until all futures are done, or the first. A cancel reaches the caller, and not the futures."""
    raise_if_evicted()
    await asyncio.wait(futures, return_when=when)


async def wait_through_cancels(
    future: asyncio.Future[Any], keep: Callable[[asyncio.CancelledError], object] | None = None
) -> None:
    """Wait until `future` is done, even if the waiting task is cancelled. Give each cancel to `keep`.

    Not `asyncio.shield`: it orphans the inner task and logs its error.
    """
    while not future.done():
        raise_if_evicted()
        try:
            await UntilDone(future)
        except asyncio.CancelledError as cancel:
            raise_if_evicted()
            if keep is not None:
                keep(cancel)


async def until_idle() -> None:
    """Wait until nothing else of this activation is left to run.

    The SDK looks at conditions when its event loop has nothing ready (`_run_once`).
    """
    await workflow.wait_condition(lambda: True)


async def fail_task(bug: Exception | None) -> None:
    """Fail the workflow task with `bug`, if there is one, so that no code around the caller can catch it.

    The SDK evaluates a condition outside of all workflow code, and a condition that raises fails the activation.
    If the user's `failure_exception_types` name such an exception, return: then the saga unwinds.
    """
    if bug is None or workflow.is_failure_exception(bug):
        return
    if bug.__traceback__ is None:
        bug.__traceback__ = _way_here()

    def raise_bug() -> bool:
        raise bug

    while True:
        try:
            await workflow.wait_condition(raise_bug)
        except asyncio.CancelledError:
            raise_if_evicted()


def _way_here() -> TracebackType | None:
    """Return the coroutines that called the saga as a traceback, so that it shows the line of the user's code."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").startswith("temporal_saga."):
        frame = frame.f_back
    way: TracebackType | None = None
    while frame is not None and frame.f_code.co_flags & (inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR):
        way = TracebackType(way, frame, frame.f_lasti, frame.f_lineno)
        frame = frame.f_back
    return way
