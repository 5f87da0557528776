"""Rows of "What happens when" that only a real server shows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError

from .guarantees_workflows import UNDONE, After, Before, Fails, Fixed, LargeUndo, SmallUndo, make, unmake
from .support import Run, make_worker


@asynccontextmanager
async def deployed(client: Client, queue: str, workflow: type) -> AsyncIterator[None]:
    """Run a worker of this version of the code."""
    async with make_worker(client, queue, workflows=[workflow], activities=[make, unmake]):
        yield


async def start(client: Client, name: str, queue: str) -> WorkflowHandle[Any, Any]:
    return await client.start_workflow(
        name, id=f"w-{uuid4()}", task_queue=queue, task_timeout=timedelta(seconds=1), result_type=str
    )


async def failure(handle: WorkflowHandle[Any, Any]) -> BaseException:
    """Wait until a run fails; return its error."""
    with pytest.raises(WorkflowFailureError) as failed:
        await asyncio.wait_for(handle.result(), 40)
    return failed.value.cause


@pytest.mark.needs_server("1.30")  # an older one terminates the run
async def test_an_undo_of_more_than_2_mb_waits_for_the_fixed_code(client: Client) -> None:
    queue = f"q-{uuid4()}"
    async with deployed(client, queue, LargeUndo):
        handle = await start(client, "LargeUndo", queue)
        await Run(handle).event("WORKFLOW_TASK_FAILED")
        assert UNDONE.get(handle.id, []) == []
    async with deployed(client, queue, SmallUndo):
        error = await failure(handle)
    assert isinstance(error, ApplicationError)
    assert error.type == "Boom"
    assert UNDONE[handle.id] == ["b", "a"]


async def test_no_query_is_answered_while_the_workflow_task_fails(client: Client) -> None:
    queue = f"q-{uuid4()}"
    async with deployed(client, queue, Fails):
        handle = await start(client, "Fails", queue)
        await Run(handle).event("WORKFLOW_TASK_FAILED")
        with pytest.raises(RPCError):  # refused, or not answered in time
            await handle.query("saga_report", rpc_timeout=timedelta(seconds=3))
    async with deployed(client, queue, Fixed):
        assert await asyncio.wait_for(handle.result(), 40) == "done"
        (report,) = await handle.query("saga_report")
    assert report["state"] == "COMPLETED"


async def test_an_incompatible_deployment_closes_a_run_that_takes_it_for_a_failure(client: Client) -> None:
    queue = f"q-{uuid4()}"
    async with deployed(client, queue, Before):
        handle = await start(client, "Changes", queue)
        await Run(handle).event("TIMER_STARTED")
    async with deployed(client, queue, After):
        error = await failure(handle)
    assert "Nondeterminism" in str(error)
    assert UNDONE.get(handle.id, []) == []
