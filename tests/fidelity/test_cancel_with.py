"""A cancel that comes with a result in one workflow task: the server's order, and what a saga makes of it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import uuid4

from temporalio import activity, workflow
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import CancelledError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from temporal_saga import Saga

# The sandbox would import these anew for each run.
with workflow.unsafe.imports_passed_through():
    import pytest

    from temporal_saga.testing import cancel_with, simulate
    from tests.server.support import History, eventually

    from .observe import Observation, _Reader

SHORT = workflow.ActivityConfig(start_to_close_timeout=timedelta(seconds=20))


class Till:
    """Takes a payment when it is told to."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.may_end = asyncio.Event()

    @activity.defn
    async def pay(self, amount: int) -> str:
        self.begun.set()
        await self.may_end.wait()
        return "paid"

    @activity.defn
    async def pay_back(self, amount: int) -> None: ...


@workflow.defn
class Pays:
    @workflow.run
    async def run(self, amount: int) -> None:
        async with Saga(activity_options=SHORT) as saga:
            await saga.execute_activity_method(Till.pay, amount, compensation=Till.pay_back)
            await saga.execute_activity_method(Till.pay, amount, compensation=Till.pay_back, step="once more")


async def test_a_result_and_a_cancel_in_one_workflow_task(env: WorkflowEnvironment) -> None:
    till, queue = Till(), str(uuid4())

    def workflow_worker() -> Worker:
        return Worker(env.client, task_queue=queue, workflows=[Pays], max_cached_workflows=0)  # no sticky queue

    async with Worker(env.client, task_queue=queue, activities=[till.pay, till.pay_back]):
        async with workflow_worker():
            handle = await env.client.start_workflow(Pays.run, 30, id=str(uuid4()), task_queue=queue)
            await till.begun.wait()
        till.may_end.set()  # nobody takes workflow tasks

        async def has_ended() -> bool:
            return "ACTIVITY_TASK_COMPLETED" in History(await handle.fetch_history()).types

        await eventually(has_ended)
        await handle.cancel()
        async with workflow_worker():
            with pytest.raises(WorkflowFailureError) as failure:
                await handle.result()
    assert isinstance(failure.value.cause, CancelledError)

    history = History(await handle.fetch_history())
    ended = history.types.index("ACTIVITY_TASK_COMPLETED")
    assert history.types[ended : ended + 4] == [
        "ACTIVITY_TASK_COMPLETED",
        "WORKFLOW_TASK_SCHEDULED",
        "WORKFLOW_EXECUTION_CANCEL_REQUESTED",
        "WORKFLOW_TASK_STARTED",
    ]
    there = Observation()
    await _Reader(env.client.data_converter, there).read(history.events)

    till = Till()
    till.may_end.set()
    simulation = simulate(Pays.run, 30, activities=[till.pay, till.pay_back], faults=[cancel_with(at=2)])
    assert simulation.status == "cancelled"
    assert [command[2] for command in there.commands if command[0] == "schedule_activity"] == ["pay", "pay_back"]
    assert Observation(commands=simulation.commands).named().commands == there.named().commands
