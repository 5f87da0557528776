"""The handle of a simulated workflow, which the client's function gets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar, cast

from temporalio.activity import ActivityCancellationDetails
from temporalio.api.common.v1 import Payload
from temporalio.api.failure.v1 import Failure
from temporalio.client import (
    AsyncActivityCancelledError,
    WorkflowExecutionStatus,
    WorkflowHandle,
    WorkflowQueryFailedError,
    WorkflowUpdateFailedError,
    WorkflowUpdateStage,
)
from temporalio.common import TypedSearchAttributes
from temporalio.converter import decode_typed_search_attributes
from temporalio.exceptions import ApplicationError, CancelledError
from temporalio.service import RPCError, RPCStatusCode

from ._attempt import AttemptRun
from ._converter import Converter
from ._errors import SimulationError, UnsupportedError
from ._jobs import Job, Update
from ._outcome import outcome_of
from ._run import Run
from ._sdk import query_name, signal_name, update_name
from ._server import Execution, Server
from ._world import World

R = TypeVar("R")


class _NotSimulatedError(UnsupportedError, AttributeError):
    """What a client's handle has, and a simulated one does not; `hasattr` is False."""


class SimulatedHandle(Generic[R]):
    """The handle that the client's function gets: a `WorkflowHandle` of the simulation, with the same names.

    Give several arguments as `args=[...]`, as to the SDK's handle, or one by one.
    """

    def __init__(self, server: Server, execution: Execution, result_type: type | None) -> None:
        self._server = server
        self._world = server.world
        self._execution = execution
        self._result_type = result_type
        self._updates = 0

    @property
    def id(self) -> str:
        """The workflow's id."""
        return self._execution.run.start.workflow_id

    @property
    def run_id(self) -> str:
        """The id of its current run."""
        return self._execution.run.start.run_id

    def __getattr__(self, name: str) -> Any:
        if hasattr(WorkflowHandle, name):
            raise _NotSimulatedError(f"{name} of a workflow's handle cannot be simulated: try it on a real server")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def get_workflow_handle(self, workflow_id: str) -> SimulatedHandle[Any]:
        """Return a handle of another workflow of the simulation: a child, for instance."""
        execution = self._server.find(workflow_id)
        if execution is None:
            raise _not_found(f"workflow not found for ID: {workflow_id}")
        return SimulatedHandle(self._server, execution, execution.run.start.definition.ret_type)

    async def result(self) -> R:
        """Wait until the workflow has ended, and return its result.

        Raises:
            WorkflowFailureError: As for a client's handle.
        """
        if self._execution.is_open:
            closed: asyncio.Future[None] = self._world.loop.create_future()
            self._execution.on_close.append(lambda: None if closed.done() else closed.set_result(None))
            await closed
        return cast(R, outcome_of(self._execution.run, self._world.parts.converter, self._result_type))

    async def signal(self, signal: str | Callable[..., Any], *arg: Any, args: Sequence[Any] = ()) -> None:
        """Send a signal, given by its name or its handler. Return once it has been delivered."""
        run = self._open_run()
        await self._deliver(run, run.messages.signal(signal_name(signal), self._encode(arg or args)))

    async def cancel(self, *, reason: str = "") -> None:
        """Request the workflow's cancellation. Return once it has been delivered. A closed workflow stays closed."""
        job = self._execution.cancel_job(reason)
        if job is not None:
            await self._deliver(self._execution.run, job)

    async def terminate(self, *, reason: str = "") -> None:
        """End the workflow at once: none of its code runs anymore."""
        self._open_run().terminate(reason)

    async def query(
        self, query: str | Callable[..., Any], *arg: Any, args: Sequence[Any] = (), result_type: type | None = None
    ) -> Any:
        """Query the workflow. Give the query's name, perhaps with its result type, or its handler.

        Raises:
            WorkflowQueryFailedError: If the handler raised.
        """
        run = self._execution.run
        if not run.cached.activations and run.state.is_open:
            begun: asyncio.Future[None] = self._world.loop.create_future()
            run.tasks.on_begin.append(lambda: begun.set_result(None))
            await begun
        name, known_type = query_name(query)
        answered: asyncio.Future[Any] = self._world.loop.create_future()
        payloads = self._encode(arg or args)
        # Not here: a task runs here, and the workflow's own loop must not run inside of one.
        self._world.loop.call_soon(lambda: answered.set_result(run.cached.instance.query(name, payloads)))
        answer = await answered
        if isinstance(answer, Failure):
            raise WorkflowQueryFailedError(answer.message)
        return _decoded(self._converter, answer, result_type or known_type)

    async def describe(self) -> SimulatedDescription:
        """Return a client's description of the workflow's current run."""
        run = self._execution.run
        start, closed = run.start, run.closed_at
        return SimulatedDescription(
            id=start.workflow_id,
            run_id=start.run_id,
            workflow_type=start.workflow_type,
            task_queue=start.task_queue,
            status=_STATUSES[run.state.status],
            start_time=start.started,
            close_time=None if closed is None else self._world.date(closed),
            history_length=run.state.events,
            typed_search_attributes=decode_typed_search_attributes(run.search_attributes),
            parent_id=start.parent[0] if start.parent else None,
            _memo={key: self._converter.decode([payload])[0] for key, payload in run.memo.items()},
        )

    def get_async_activity_handle(
        self, *, activity_id: str | None = None, task_token: bytes | None = None
    ) -> SimulatedActivityHandle:
        """Return a handle of an activity that is left to a client, by its id in this workflow or its task token."""
        return SimulatedActivityHandle(self._world, self.id, activity_id, task_token)

    async def start_update(
        self,
        update: str | Callable[..., Any],
        *arg: Any,
        args: Sequence[Any] = (),
        id: str | None = None,
        wait_for_stage: WorkflowUpdateStage = WorkflowUpdateStage.ACCEPTED,
    ) -> SimulatedUpdate:
        """Send an update, given by its name or its handler. Return once it has been accepted.

        Raises:
            WorkflowUpdateFailedError: If the validator refused it.
        """
        run = self._open_run()
        name, result_type = update_name(update)
        self._updates += 1
        update_id = id or run.messages.free_update_id(f"update-{self._updates}")
        if update_id not in run.messages.updates:  # as on the server: one update for each id
            run.state.enqueue(run.messages.update(update_id, name, self._encode(arg or args)))
        state = run.messages.updates[update_id]
        sent = SimulatedUpdate(update_id, state, self._converter, result_type)
        await _wait_for(state, state.accepted)
        if wait_for_stage == WorkflowUpdateStage.COMPLETED or state.completed.done():
            await sent.result()
        return sent

    async def execute_update(
        self, update: str | Callable[..., Any], *arg: Any, args: Sequence[Any] = (), id: str | None = None
    ) -> Any:
        """Send an update and return its result.

        Raises:
            WorkflowUpdateFailedError: If the validator refused it, or the handler failed.
        """
        return await (await self.start_update(update, *arg, args=args, id=id)).result()

    def _open_run(self) -> Run:
        run = self._execution.run
        if not run.state.is_open:
            raise _not_found("workflow execution already completed")
        return run

    async def _deliver(self, run: Run, job: Job) -> None:
        delivered: asyncio.Future[None] = self._world.loop.create_future()
        job.delivered = lambda: None if delivered.done() else delivered.set_result(None)
        job.dropped = lambda: (
            None if delivered.done() else delivered.set_exception(_not_found("workflow execution already completed"))
        )
        run.state.enqueue(job)
        await delivered

    @property
    def _converter(self) -> Converter:
        return self._world.parts.converter.of_workflow(self.id)

    def _encode(self, args: Sequence[Any]) -> Sequence[Payload]:
        return self._converter.encode(args)


@dataclass(frozen=True)
class SimulatedDescription:
    """The result of `SimulatedHandle.describe`: the part of a `WorkflowExecutionDescription` that a simulation has."""

    id: str
    run_id: str
    workflow_type: str
    task_queue: str
    status: WorkflowExecutionStatus
    start_time: datetime
    close_time: datetime | None
    history_length: int
    typed_search_attributes: TypedSearchAttributes
    parent_id: str | None
    _memo: Mapping[str, Any]

    async def memo(self) -> Mapping[str, Any]:
        """Return the memo."""
        return self._memo


class SimulatedActivityHandle:
    """An activity that has raised `CompleteAsyncError`, as a client sees it: an `AsyncActivityHandle`."""

    def __init__(self, world: World, workflow_id: str, activity_id: str | None, task_token: bytes | None) -> None:
        self._world = world
        self._wanted = (workflow_id, activity_id, task_token)

    async def complete(self, result: Any = None) -> None:
        """Complete the activity."""
        await self._tell("completed", result)

    async def fail(self, error: Exception) -> None:
        """Let the attempt fail."""
        await self._tell("failed", error)

    async def report_cancellation(self, *details: Any) -> None:
        """Report that the activity has been cancelled."""
        await self._tell("cancelled", CancelledError("Cancelled", *details))

    async def heartbeat(self, *details: Any) -> None:
        """Record a heartbeat.

        Raises:
            AsyncActivityCancelledError: If the activity's cancellation is requested.
        """
        if self._find().heartbeat_by_client(details):
            raise AsyncActivityCancelledError(ActivityCancellationDetails(cancel_requested=True))

    async def _tell(self, kind: str, value: Any) -> None:
        self._find().complete_by_client(kind, value)
        await asyncio.sleep(0)

    def _find(self) -> AttemptRun:
        workflow_id, activity_id, token = self._wanted
        left: list[AttemptRun] = self._world.completed_by_client
        for attempt in left:
            info = attempt.info
            if (
                token == info.task_token
                if token
                else (workflow_id, activity_id) == (info.workflow_id, info.activity_id)
            ):
                return attempt
        raise _not_found("invalid activityID or activity already timed out or invoking workflow is completed")


_STATUSES = {
    "running": WorkflowExecutionStatus.RUNNING,
    "completed": WorkflowExecutionStatus.COMPLETED,
    "failed": WorkflowExecutionStatus.FAILED,
    "cancelled": WorkflowExecutionStatus.CANCELED,
    "terminated": WorkflowExecutionStatus.TERMINATED,
    "timed out": WorkflowExecutionStatus.TIMED_OUT,
    "continued as new": WorkflowExecutionStatus.CONTINUED_AS_NEW,
}


class SimulatedUpdate:
    """An update that has been sent."""

    def __init__(self, id: str, state: Update, converter: Converter, result_type: type | None) -> None:
        self.id = id
        self._state = state
        self._converter = converter
        self._result_type = result_type

    async def result(self) -> Any:
        """Wait until the update has ended, and return its result.

        Raises:
            WorkflowUpdateFailedError: If the validator refused it, or the handler failed.
        """
        answer = await _wait_for(self._state, self._state.completed)
        if isinstance(answer, Failure):
            raise WorkflowUpdateFailedError(self._converter.to_exception(answer))
        return _decoded(self._converter, answer, self._result_type)


async def _wait_for(update: Update, future: asyncio.Future[Any]) -> Any:
    """Wait for one of an update's futures; raise what a client does if the run closes before the update has ended."""
    try:
        return await future
    except SimulationError:
        if not update.accepted.done() or update.accepted.exception() is not None:
            raise _not_found("workflow execution already completed") from None
    raise WorkflowUpdateFailedError(
        ApplicationError(
            "Workflow Update failed because the Workflow completed before the Update completed.",
            type="AcceptedUpdateCompletedWorkflow",
            non_retryable=True,
        )
    )


def _decoded(converter: Converter, payload: Payload, result_type: type | None) -> Any:
    return converter.decode([payload], [result_type] if result_type else None)[0]


def _not_found(message: str) -> RPCError:
    return RPCError(message, RPCStatusCode.NOT_FOUND, b"")
