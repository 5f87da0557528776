"""Resets, by a seeded plan. What a run did after the point stays done, and the next run may never hear of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from random import Random
from typing import Any

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle

from .processes import insist


@dataclass(frozen=True)
class Reset:
    """One reset.

    Attributes:
        after: After so many events, or when the run has closed.
        to: To which of the workflow tasks so far: the first is 0, the last is almost 1.
    """

    after: int
    to: float


def reset_of(seed: str, workflow_id: str) -> Reset | None:
    """Return the reset that the plan has for a workflow."""
    random = Random(f"{seed}/{workflow_id}/reset")
    return Reset(random.randint(8, 60), random.random()) if random.random() < 0.06 else None


async def reset(client: Client, handle: WorkflowHandle[Any, Any], plan: Reset) -> str:
    """Reset a workflow when the time has come; return the id of the run that another one replaces."""
    while True:
        now = await insist(handle.describe)
        if now.history_length >= plan.after or now.status is not WorkflowExecutionStatus.RUNNING:
            break
        await asyncio.sleep(0.2)
    events = (await insist(handle.fetch_history)).events
    tasks = [each.event_id for each in events if each.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED]
    request = ResetWorkflowExecutionRequest(
        namespace=client.namespace,
        workflow_execution=WorkflowExecution(workflow_id=handle.id, run_id=now.run_id),
        reason="the storm",
        workflow_task_finish_event_id=tasks[int(plan.to * len(tasks))],
        request_id=f"{handle.id}-reset",  # the answer to the first try may be lost
    )
    await insist(lambda: client.workflow_service.reset_workflow_execution(request))
    return now.run_id
