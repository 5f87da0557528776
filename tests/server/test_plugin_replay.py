"""A run that began without `SagaPlugin` replays with it, and the other way round, where a cancel raced with a timer."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from uuid import uuid4

import pytest
from temporalio import activity, workflow
from temporalio.client import WorkflowFailureError, WorkflowHistory
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Replayer, Worker

from temporal_saga.plugin import SagaPlugin

from .support import make_worker

TEN_SECONDS = timedelta(seconds=10)


@activity.defn
async def after_the_wait() -> None: ...


@activity.defn
async def after_the_cancel() -> None: ...


# In the sandbox each run would import pytest anew.
@workflow.defn(sandboxed=False)
class Waits:
    @workflow.run
    async def run(self) -> None:
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError:
            await workflow.execute_activity(after_the_cancel, start_to_close_timeout=TEN_SECONDS)
            raise
        await workflow.execute_activity(after_the_wait, start_to_close_timeout=TEN_SECONDS)


@workflow.defn(sandboxed=False)
class StartsAtOnce:
    @workflow.run
    async def run(self) -> None:
        step = asyncio.create_task(workflow.execute_activity(after_the_wait, start_to_close_timeout=TEN_SECONDS))
        try:
            await step
        except asyncio.CancelledError:
            await workflow.execute_activity(after_the_cancel, start_to_close_timeout=TEN_SECONDS)
            raise


@pytest.mark.parametrize("recorded", [[], [SagaPlugin()]], ids=["recorded without", "recorded with"])
async def test_a_cancel_and_a_timer_in_one_workflow_task(env: WorkflowEnvironment, recorded: list[SagaPlugin]) -> None:
    queue = str(uuid4())

    def worker() -> Worker:
        return make_worker(
            env.client,
            queue,
            workflows=[Waits, StartsAtOnce],
            activities=[after_the_wait, after_the_cancel],
            plugins=recorded,
        )

    early = await env.client.start_workflow(StartsAtOnce.run, id=str(uuid4()), task_queue=queue)
    await early.cancel()  # before its first workflow task
    async with worker():
        waits = await env.client.start_workflow(Waits.run, id=str(uuid4()), task_queue=queue)
        with suppress(WorkflowFailureError):
            await early.result()
    await asyncio.sleep(1.2)  # no worker: the timer fires
    await waits.cancel()
    async with worker():
        with suppress(WorkflowFailureError):
            await waits.result()

    histories: list[WorkflowHistory] = [await handle.fetch_history() for handle in (early, waits)]
    for history in histories:
        for plugins in ([], [SagaPlugin()]):
            await Replayer(workflows=[Waits, StartsAtOnce], plugins=plugins).replay_workflow(history)
