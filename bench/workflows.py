"""The workflows that are measured: by hand, and with a saga."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporalio import activity, workflow

with workflow.unsafe.imports_passed_through():
    from temporal_saga import Saga, presets


@activity.defn
async def work(number: int) -> int:
    return number


@activity.defn
async def undo(number: int) -> None: ...


@workflow.defn
class ByHand:
    @workflow.run
    async def run(self, steps: int, parallel: bool) -> int:
        def step(number: int) -> workflow.ActivityHandle[int]:
            return workflow.start_activity(work, number, start_to_close_timeout=timedelta(seconds=30))

        if parallel:
            return sum(await asyncio.gather(*[step(number) for number in range(steps)]))
        return sum([await step(number) for number in range(steps)])


@workflow.defn
class WithSaga:
    @workflow.run
    async def run(self, steps: int, parallel: bool) -> int:
        async with Saga(activity_options={"start_to_close_timeout": timedelta(seconds=30)}) as saga:
            if parallel:
                return sum(
                    await asyncio.gather(
                        *[saga.execute_activity(work, number, compensation=undo) for number in range(steps)]
                    )
                )
            return sum([await saga.execute_activity(work, number, compensation=undo) for number in range(steps)])


@workflow.defn
class Unwinding:
    @workflow.run
    async def run(self, steps: int) -> str:
        async with Saga(compensation_options=presets.compensation()) as saga:
            for number in range(steps):
                saga.add_compensation(undo, number)
            return (await saga.compensate()).state
