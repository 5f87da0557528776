"""Ways to wait for a coroutine, and scopes that cancel it: for the tests that ask whose a cancel is."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

import pytest
from temporalio.exceptions import ApplicationError

from temporal_saga import SagaDeadlineExceeded
from temporal_saga.plugin import SagaPlugin
from tests.rules.workflows import new_saga, shared

Work = Coroutine[Any, Any, Any]
Way = Callable[[Work], Coroutine[Any, Any, None]]
Sender = Callable[[Work, float], Coroutine[Any, Any, str]]

PLUGIN: dict[str, Any] = {"plugins": [SagaPlugin()]}
both = pytest.mark.parametrize("options", [{}, PLUGIN], ids=["without", "with"])
"""Without the plugin, and with it."""

if sys.version_info >= (3, 11):
    timeout = asyncio.timeout
    TaskGroup = asyncio.TaskGroup
else:
    timeout: Any = None
    TaskGroup: Any = None

counts = pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio counts cancels from 3.11 on")
"""For tests that need `asyncio.timeout`, `TaskGroup`, or `Task.cancelling`."""

BRANCH = shared(ApplicationError("in the branch", type="Branch", non_retryable=True))


def background(work: Work) -> asyncio.Task[Any]:
    """Return a task that nobody awaits; asyncio need not log its error, which would count as noise in a replay."""
    task = asyncio.create_task(work)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task


# --- ways to wait ---


async def alone(work: Work) -> None:
    await work


async def in_gather(work: Work) -> None:
    await asyncio.gather(work)


async def in_wait_for(work: Work) -> None:
    await asyncio.wait_for(work, 600)


async def in_timeout(work: Work) -> None:
    async with timeout(600):
        await work


async def in_task_group(work: Work) -> None:
    async with TaskGroup() as group:
        group.create_task(work)


WAYS: dict[str, Way] = {"alone": alone, "gather": in_gather, "wait_for": in_wait_for}
if sys.version_info >= (3, 11):
    WAYS |= {"timeout": in_timeout, "task group": in_task_group}

ways = pytest.mark.parametrize("way", WAYS)


# --- scopes that cancel what is in them ---


async def times_out(work: Work, seconds: float) -> str:
    try:
        async with timeout(seconds):
            await work
    except asyncio.TimeoutError:
        return "cut_short"
    return "ended"


async def waits_for(work: Work, seconds: float) -> str:
    try:
        await asyncio.wait_for(work, seconds)
    except asyncio.TimeoutError:
        return "cut_short"
    return "ended"


async def cancels_the_task(work: Work, seconds: float) -> str:
    task = asyncio.create_task(work)
    asyncio.get_running_loop().call_later(seconds, task.cancel)
    # Not `await task` with an `except CancelledError`, which would swallow an eviction.
    await asyncio.wait([task])
    if task.cancelled():
        return "cut_short"
    task.result()
    return "ended"


async def fails_in_the_group(work: Work, seconds: float) -> str:
    async def sibling() -> None:
        await asyncio.sleep(seconds)
        raise BRANCH

    try:
        async with TaskGroup() as group:
            task = group.create_task(work)
            group.create_task(sibling())
    except Exception as error:
        if getattr(error, "exceptions", (None,))[0] is not BRANCH:
            raise
    return "cut_short" if task.cancelled() else "ended"


async def passes_the_deadline(work: Work, seconds: float) -> str:
    try:
        async with new_saga("around", deadline=timedelta(seconds=seconds)):
            await work
    except SagaDeadlineExceeded:
        return "cut_short"
    return "ended"


SENDERS: dict[str, Sender] = {
    "wait_for": waits_for,
    "task.cancel()": cancels_the_task,
    "an outer deadline": passes_the_deadline,
}
if sys.version_info >= (3, 11):
    SENDERS |= {"timeout": times_out, "task group": fails_in_the_group}

senders = pytest.mark.parametrize("sender", SENDERS)
