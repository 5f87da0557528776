"""Sagas that are detached, and what a run does that goes on with them."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Any

from google.protobuf.json_format import MessageToDict
from temporalio import workflow
from temporalio.common import Priority, RetryPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import ActivityError, ApplicationError

from temporal_saga import Compensation, CompensationError, Saga, SagaState
from temporal_saga._state import VERSION
from tests.driver import Run
from tests.rules.workflows import OPTIONS, REFUSED, do, end, flow, new_saga
from tests.vectors.keys import ANCHOR, ANOTHER

POLICY = RetryPolicy(
    initial_interval=timedelta(seconds=2),
    backoff_coefficient=1.5,
    maximum_interval=timedelta(minutes=1),
    maximum_attempts=7,
    non_retryable_error_types=["Declined", "Rejected"],
)

UNDO: workflow.ActivityConfig = {
    "start_to_close_timeout": timedelta(seconds=20),
    "retry_policy": RetryPolicy(maximum_interval=timedelta(minutes=5)),
}


@flow
async def empty() -> SagaState:
    async with new_saga("order", compensation_options=UNDO) as saga:
        return saga.detach()


@flow
async def steps() -> SagaState:
    async with new_saga("order", compensation_options=UNDO, deadline=timedelta(minutes=10)) as saga:
        await do(saga, "charge")
        await do(saga, "charge", key="card-1")
        await saga.execute_activity("reserve", args=[{"item": "apple", "count": 2}, None, "ä"], compensation="release")
        saga.add_compensation("notify")
        await asyncio.sleep(60)
        return saga.detach()


@flow
async def outcomes() -> SagaState:
    async with new_saga("order", compensation_options=UNDO) as saga:
        await do(saga, "applied")
        with suppress(ActivityError):
            await do(saga, "unknown")  # stands for what may have happened
        await asyncio.gather(do(saga, "left"), do(saga, "right"))
        return saga.detach()


@flow
async def options() -> SagaState:
    async with new_saga("order", compensation_options=UNDO) as saga:
        await do(
            saga,
            "charge",
            compensation=Compensation(
                "refund",
                "o-1",
                task_queue="refunds",
                summary="a refund",
                schedule_to_close_timeout=timedelta(hours=1),
                schedule_to_start_timeout=timedelta(minutes=30),
                start_to_close_timeout=timedelta(seconds=1.5),
                heartbeat_timeout=timedelta(seconds=5),
                retry_policy=POLICY,
                cancellation_type=workflow.ActivityCancellationType.ABANDON,
                priority=Priority(priority_key=2, fairness_key="tenant", fairness_weight=1.5),
            ),
        )
        await saga.execute_child_workflow(
            "Ship",
            "o-1",
            compensation=Compensation.child_workflow(
                "Return",
                args=["o-1", 2],
                id="return-o-1",
                task_queue="returns",
                execution_timeout=timedelta(days=1),
                run_timeout=timedelta(hours=2),
                task_timeout=timedelta(seconds=20),
                retry_policy=POLICY,
                cancellation_type=workflow.ChildWorkflowCancellationType.TRY_CANCEL,
                parent_close_policy=workflow.ParentClosePolicy.TERMINATE,
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                cron_schedule="0 12 * * *",
                static_summary="a return",
                static_details="of the order",
            ),
        )
        await do(saga, "pack")
        return saga.detach()


@flow
async def past_the_pivot() -> SagaState:
    async with new_saga("order", compensation_options=UNDO) as saga:
        await do(saga, "charge")
        saga.pivot()
        await do(saga, "ship")
        return saga.detach()


@flow
async def failed_undo() -> SagaState:
    async with new_saga("order", compensation_options=UNDO) as saga:
        await do(saga, "charge")
        with suppress(CompensationError):
            async with saga.savepoint() as attempt:
                await do(attempt, "ship")
                raise REFUSED
        return saga.detach()


@flow
async def held_cancel() -> SagaState:
    async with new_saga("order", compensation_options=UNDO) as saga:
        await do(saga, "charge")
        saga.pivot()
        await do(saga, "ship")  # the workflow's cancel comes meanwhile
        return saga.detach()


SAGAS: dict[str, Any] = {
    "empty": empty,
    "steps": steps,
    "outcomes": outcomes,
    "options": options,
    "past the pivot": past_the_pivot,
    "failed undo": failed_undo,
    "held cancel": held_cancel,
}
_FAILS = {"unknown": ApplicationError("gone", type="Gone"), "undo_ship": REFUSED}


@workflow.defn
class GoesOn:
    """Goes on with a saga: calls a step again, by a new key= and by number, and fails."""

    @workflow.run
    async def run(self, state: SagaState) -> None:
        async with Saga(state=state, activity_options=OPTIONS) as saga:
            await do(saga, "charge", key="another card")
            await do(saga, "charge")
            raise REFUSED


def written_and_read(given: Any, expected: Any) -> Any:
    """Detach a saga, and go on with its state; with what an older version wrote, go on alone."""
    if given["version"] == VERSION:
        cancel_at = {2} if given["saga"] == "held cancel" else ()
        state = Run(SAGAS[given["saga"]], run_id=ANCHOR).autopilot(_FAILS, cancel_at=cancel_at).result
    else:
        state = expected["state"]
    return {"state": state, **went_on(state)}


def went_on(state: Any) -> Any:
    """Return the commands of a run that goes on with a state, and how it ends."""
    run = Run(GoesOn, state, run_id=ANOTHER, continued_run_id=ANCHOR).autopilot({})
    commands = [_shown(command) for activation in run.activations for command in activation.protos]
    return {"commands": [command for command in commands if command], "ends": end(run)}


_KEPT = {
    "schedule_activity": (
        "activity_id activity_type arguments task_queue schedule_to_close_timeout schedule_to_start_timeout "
        "start_to_close_timeout heartbeat_timeout retry_policy cancellation_type priority"
    ),
    "start_child_workflow_execution": (
        "workflow_id workflow_type input task_queue workflow_execution_timeout workflow_run_timeout "
        "workflow_task_timeout retry_policy cancellation_type parent_close_policy workflow_id_reuse_policy priority "
        "cron_schedule"
    ),
    "start_timer": "start_to_fire_timeout",
}


def _shown(command: Any) -> Any:
    kind = command.WhichOneof("variant")
    if kind not in _KEPT:
        return None
    fields = MessageToDict(getattr(command, kind), preserving_proto_field_name=True)
    shown = {name: fields[name] for name in _KEPT[kind].split() if name in fields}
    if command.HasField("user_metadata"):
        shown["user_metadata"] = MessageToDict(command.user_metadata, preserving_proto_field_name=True)
    return {kind: shown}
