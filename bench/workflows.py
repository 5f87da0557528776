"""The workflows that are measured: by hand, and with a saga."""

from __future__ import annotations

import asyncio
import uuid
from datetime import timedelta
from typing import Any, Literal

from temporalio import activity, workflow

with workflow.unsafe.imports_passed_through():
    from temporal_saga import Saga, presets

TIMEOUT = timedelta(seconds=30)
OPTIONS = workflow.ActivityConfig(start_to_close_timeout=TIMEOUT)


@activity.defn
async def work(number: int) -> int:
    return number


@activity.defn
async def undo(number: int) -> None: ...


@workflow.defn
class Bare:
    """Nothing is undone: what a success costs at least."""

    @workflow.run
    async def run(self, steps: int, parallel: bool) -> int:
        if parallel:
            calls = [workflow.execute_activity(work, n, start_to_close_timeout=TIMEOUT) for n in range(steps)]
            return sum(await asyncio.gather(*calls))
        return sum([await workflow.execute_activity(work, n, start_to_close_timeout=TIMEOUT) for n in range(steps)])


@workflow.defn
class Careful:
    """By hand, with what a success needs so that a failure can be undone: the same guarantees as a saga's.

    Each step is on the stack before it starts, a cancelled one is awaited until it has ended, its id carries a key that
    a reset keeps, and a query shows what would be undone.
    """

    def __init__(self) -> None:
        self._undos: list[tuple[Any, int, str]] = []

    @workflow.run
    async def run(self, steps: int, parallel: bool) -> int:
        self._anchor = uuid.UUID(workflow.info().original_execution_run_id)
        workflow.set_query_handler("undos", lambda: [key for _, _, key in self._undos])
        try:
            if parallel:
                return sum(await asyncio.gather(*[self._step(number) for number in range(steps)]))
            return sum([await self._step(number) for number in range(steps)])
        except BaseException:
            await asyncio.shield(self._undo_all())
            raise

    async def _step(self, number: int) -> int:
        key = str(uuid.uuid5(self._anchor, f"work:{number}"))
        self._undos.append((undo, number, key))
        return await workflow.execute_activity(
            work,
            number,
            activity_id=f"work:{key}",
            start_to_close_timeout=TIMEOUT,
            cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        )

    async def _undo_all(self) -> None:
        for call, number, key in reversed(self._undos):
            await workflow.execute_activity(
                call, number, activity_id=f"undo:{key}", **presets.compensation(start_to_close_timeout=TIMEOUT)
            )


@workflow.defn
class WithSaga:
    @workflow.run
    async def run(self, steps: int, parallel: bool) -> int:
        async with Saga(activity_options=OPTIONS) as saga:
            if parallel:
                calls = [saga.execute_activity(work, number, compensation=undo) for number in range(steps)]
                return sum(await asyncio.gather(*calls))
            return sum([await saga.execute_activity(work, number, compensation=undo) for number in range(steps)])


@workflow.defn
class Undoing:
    """Ends with `compensate()`, or well: the difference is what undoing costs."""

    @workflow.run
    async def run(self, count: int, armed: bool, order: Literal["reverse", "concurrent"], undoes: bool) -> None:
        async with Saga(order=order, activity_options=OPTIONS, compensation_options=presets.compensation()) as saga:
            if armed:
                calls = [saga.execute_activity(work, number, compensation=undo) for number in range(count)]
                await asyncio.gather(*calls)
            else:
                for number in range(count):
                    saga.add_compensation(undo, number)
            if undoes:
                await saga.compensate()


@workflow.defn
class OpenByHand:
    """Stays open when its steps have ended, with a list of what to undo."""

    @workflow.run
    async def run(self, steps: int) -> None:
        undos = list[tuple[Any, int]]()
        for number in range(steps):
            undos.append((undo, number))
            await workflow.execute_activity(work, number, start_to_close_timeout=TIMEOUT)
        await workflow.wait_condition(lambda: not undos)


@workflow.defn
class OpenSaga:
    @workflow.run
    async def run(self, steps: int) -> None:
        async with Saga(activity_options=OPTIONS) as saga:
            for number in range(steps):
                await saga.execute_activity(work, number, compensation=undo)
            await workflow.wait_condition(lambda: False)
