"""The server's limits on bytes: an unwind keeps within those of a workflow task, a state within that of a payload."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import uuid4

import pytest
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle

from .bounds_workflows import STANDS, LargeState, ManyLarge, make, unmake
from .support import History, Replays, causes, make_worker

WORKFLOWS = [ManyLarge, LargeState]
KILO = 1_000


@pytest.fixture(scope="module")
async def start(client: Client) -> AsyncIterator[Callable[..., Any]]:
    """Start a workflow on a worker of these; each history is replayed in the end."""
    queue = f"q-{uuid4()}"
    started: list[WorkflowHandle[Any, Any]] = []

    async def start(run: Any, *args: Any) -> WorkflowHandle[Any, Any]:
        handle: WorkflowHandle[Any, Any] = await client.start_workflow(
            run, args=args, id=f"w-{uuid4()}", task_queue=queue
        )
        started.append(handle)
        return handle

    async with make_worker(client, queue, workflows=WORKFLOWS, activities=[make, unmake]):
        yield start
    async with Replays(WORKFLOWS) as replays:
        for handle in started:
            if (await handle.describe()).status is WorkflowExecutionStatus.RUNNING:
                await handle.terminate("the test is over")
            else:
                await replays.replay(History(await handle.fetch_history()))


async def ended(handle: WorkflowHandle[Any, Any]) -> list[str]:
    """Wait until a run fails; return the kinds of its error and of its causes."""
    with pytest.raises(WorkflowFailureError) as failure:
        await asyncio.wait_for(handle.result(), 45)
    return causes(failure.value.cause)


async def test_rule_01_an_unwind_of_6_mb_keeps_within_a_workflow_task(start: Callable[..., Any]) -> None:
    """The server ends a run whose workflow task has more than 4 MB: nothing would be undone."""
    handle = await start(ManyLarge.run, 300, 20 * KILO)
    assert await ended(handle) == ["ApplicationError Boom"]
    assert (await handle.describe()).status is WorkflowExecutionStatus.FAILED
    assert STANDS[handle.id] == set()
    history = History(await handle.fetch_history())
    assert len(history.undone) == 300


@pytest.mark.parametrize(
    ("count", "size"), [(25, 100 * KILO), (1, 1_600 * KILO)], ids=["25 of 100 kB", "one of 1.6 MB"]
)
async def test_a_state_over_2_mb_unwinds_in_place_of_failing_for_ever(
    start: Callable[..., Any], count: int, size: int
) -> None:
    """The server refuses such a payload, and the workflow task would fail again and again, with everything armed."""
    handle = await start(LargeState.run, count, size)
    assert await ended(handle) == ["ApplicationError SagaStateTooLarge"]
    assert STANDS[handle.id] == set()
    history = History(await handle.fetch_history())
    assert len(history.undone) == count
    assert history.of("WORKFLOW_TASK_FAILED") == []


async def test_a_state_that_fits_goes_to_the_next_run(start: Callable[..., Any]) -> None:
    handle = await start(LargeState.run, 20, 50 * KILO)
    assert await asyncio.wait_for(handle.result(), 45) == "COMPENSATED"
    assert STANDS[handle.id] == set()
