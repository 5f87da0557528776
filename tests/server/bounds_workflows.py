"""Sagas of much data: parallel steps with large results, and a stack that is large when it is detached."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.exceptions import ApplicationError

from temporal_saga import Compensation, Saga, SagaState

OPTIONS: workflow.ActivityConfig = {"start_to_close_timeout": timedelta(seconds=20)}
STANDS: dict[str, set[int]] = {}
"""By workflow id, the numbers of the effects that stand."""


@activity.defn
async def make(number: int, size: int) -> str:
    STANDS.setdefault(activity.info().workflow_id or "", set()).add(number)
    return f"{number}:" + "x" * size


@activity.defn
async def unmake(made: str) -> None:
    STANDS[activity.info().workflow_id or ""].remove(int(made.partition(":")[0]))


def step(saga: Saga, number: int, size: int) -> asyncio.Task[str]:
    return asyncio.ensure_future(
        saga.execute_activity(
            make,
            args=[number, size],
            key=str(number),
            compensation_from=lambda outcome: Compensation(unmake, outcome.result or ""),
        )
    )


@workflow.defn
class ManyLarge:
    """Parallel steps whose results are the arguments of their undos, and then a failure."""

    @workflow.run
    async def run(self, count: int, size: int) -> None:
        async with Saga(activity_options=OPTIONS, order="concurrent") as saga:
            await asyncio.gather(*[step(saga, number, size) for number in range(count)])
            raise ApplicationError("it went wrong", type="Boom")


@workflow.defn
class LargeState:
    """Steps, then the next run with their stack; which undoes it on demand."""

    @workflow.run
    async def run(self, count: int, size: int, state: SagaState | None = None) -> str:
        if state is None:
            async with Saga(activity_options=OPTIONS) as saga:
                for number in range(count):
                    await step(saga, number, size)
                workflow.continue_as_new(args=[count, size, saga.detach()])
        async with Saga(state=state, activity_options=OPTIONS) as saga:
            return (await saga.compensate()).state
