"""Workflows of `test_quiet_faults.py`. A module of their own: processes that replay and stall import it."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import suppress
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.exceptions import ApplicationError

from temporal_saga import Saga, SagaDeadlineExceeded, presets

NAMES = "abcdefgh"
OPTIONS = presets.standard(start_to_close_timeout=timedelta(seconds=20))


@activity.defn
async def do(name: str) -> str:
    while name == "slow":
        activity.heartbeat()
        await asyncio.sleep(0.02)
    return name


@activity.defn
async def undo(name: str) -> None:
    await asyncio.sleep(3 if name == "long" else 0)


ACTIVITIES = [do, undo]
WORKFLOWS: list[type[Any]] = []

if sys.version_info >= (3, 11):

    @workflow.defn
    class Grouped:
        """Savepoints, sagas, or steps in a `TaskGroup`, which is cancelled or fails."""

        @workflow.run
        async def run(self, what: str, how: str) -> None:
            self.ready = 0

            async def part(saga: Saga, name: str) -> None:
                if what == "steps":
                    self.ready += 1
                    await saga.execute_activity(
                        do, "slow", compensation=undo, key=name, heartbeat_timeout=timedelta(seconds=5)
                    )
                    return
                async with saga.savepoint() if what == "savepoints" else Saga(name, activity_options=OPTIONS) as inner:
                    await inner.execute_activity(do, name, compensation=undo, key=name)
                    self.ready += 1
                    await workflow.wait_condition(lambda: False)

            async with Saga(activity_options=OPTIONS) as saga, asyncio.TaskGroup() as group:
                for name in NAMES:
                    group.create_task(part(saga, name))
                await workflow.wait_condition(lambda: self.ready == len(NAMES))
                await asyncio.sleep(0.2)
                if how == "fails":
                    raise ApplicationError("it fails", type="Fails")
                await asyncio.sleep(3600)

        @workflow.query
        def parts(self) -> int:
            return self.ready

    @workflow.defn
    class TimesOut:
        """A timeout and the deadline of a saga inside it pass together."""

        @workflow.run
        async def run(self, seconds: float) -> str:
            try:
                async with asyncio.timeout(seconds):
                    with suppress(SagaDeadlineExceeded):
                        async with Saga(activity_options=OPTIONS, deadline=timedelta(seconds=1)) as saga:
                            await saga.execute_activity(do, "long", compensation=undo)
                            await asyncio.sleep(3600)
                    await asyncio.sleep(3600)
            except TimeoutError:
                return "timed out"
            return "ended"

    WORKFLOWS += [Grouped, TimesOut]


@workflow.defn
class Finally:
    """A sibling calls a step in a `finally`, which an eviction meets while the scope unwinds."""

    @workflow.run
    async def run(self) -> None:
        async with Saga(activity_options=OPTIONS) as saga:

            async def sibling() -> None:
                try:
                    await asyncio.sleep(3600)
                finally:
                    await saga.execute_activity(do, "late", compensation=undo)

            await saga.execute_activity(do, "long", compensation=undo, step="first")
            task = asyncio.create_task(sibling())
            await asyncio.sleep(0.1)
            assert not task.done()
            raise ApplicationError("it fails", type="Fails")


@workflow.defn
class Swallows:
    """The body swallows what an eviction sends, and ends its scope over a savepoint in flight."""

    @workflow.run
    async def run(self) -> str:
        async with Saga(activity_options=OPTIONS) as saga:

            async def branch() -> None:
                async with saga.savepoint() as attempt:
                    await attempt.execute_activity(do, "a", compensation=undo)
                    await asyncio.sleep(1)

            with suppress(asyncio.CancelledError):
                await asyncio.gather(branch(), return_exceptions=True)
        return "done"


@workflow.defn
class BothWake:
    """The main method and a signal handler wake on one condition, the main method first."""

    def __init__(self) -> None:
        self.begun = self.waiting = self.flag = False

    @workflow.run
    async def run(self, main: str, handler: str) -> str:
        self.handler, self.begun = handler, True
        await workflow.wait_condition(lambda: self.flag)
        return self.act(main, "main")

    def act(self, how: str, who: str) -> str:
        if how == "raise":
            raise ApplicationError(who, type=who)
        if how == "continue_as_new":
            workflow.continue_as_new(args=["return", "return"])
        return who

    @workflow.signal
    async def work(self) -> None:
        self.waiting = True
        await workflow.wait_condition(lambda: self.flag)
        self.act(self.handler, "handler")

    @workflow.signal
    def go(self) -> None:
        self.flag = True

    @workflow.query
    def waits(self) -> list[bool]:
        return [self.begun, self.waiting]


CALLS = 0


@workflow.defn(sandboxed=False)
class Stalls:
    """One slow call, once; the SDK's deadlock detector fires after two seconds. No saga is involved."""

    @workflow.run
    async def run(self) -> str:
        global CALLS
        CALLS += 1
        if CALLS == 1:
            time.sleep(5)  # noqa: ASYNC251
        return "done"


WORKFLOWS += [Finally, Swallows, BothWake, Stalls]
