"""What the client's function is given: a handle of a simulated workflow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar, cast

from temporalio.api.common.v1 import Payload
from temporalio.api.failure.v1 import Failure
from temporalio.client import WorkflowQueryFailedError, WorkflowUpdateFailedError, WorkflowUpdateStage
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from ._converter import Converter
from ._errors import SimulationError
from ._jobs import Job, Update
from ._outcome import outcome_of
from ._run import Run
from ._sdk import query_name, signal_name, update_name
from ._server import Execution, Server

R = TypeVar("R")


class SimulatedHandle(Generic[R]):
    """What the client's function is given: a `WorkflowHandle` of the simulation, with the same names."""

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

    def get_workflow_handle(self, workflow_id: str) -> SimulatedHandle[Any]:
        """Return a handle of another workflow of the simulation: a child, for instance."""
        execution = self._server.find(workflow_id)
        if execution is None:
            raise _not_found(f"workflow not found for ID: {workflow_id}")
        return SimulatedHandle(self._server, execution, execution.run.start.definition.ret_type)

    async def result(self) -> R:
        """Wait until the workflow has ended, and return its result.

        Raises:
            WorkflowFailureError: As a client's handle does.
        """
        if self._execution.is_open:
            closed: asyncio.Future[None] = self._world.loop.create_future()
            self._execution.on_close.append(lambda: None if closed.done() else closed.set_result(None))
            await closed
        return cast(R, outcome_of(self._execution.run, self._world.parts.converter, self._result_type))

    async def signal(self, signal: str | Callable[..., Any], *args: Any) -> None:
        """Send a signal, given by its name or its handler; returns once it has been delivered."""
        run = self._open_run()
        await self._deliver(run, run.messages.signal(signal_name(signal), self._encode(args)))

    async def cancel(self, *, reason: str = "") -> None:
        """Request the workflow's cancellation; returns once it has been delivered. A closed one stays so."""
        job = self._execution.cancel_job(reason)
        if job is not None:
            await self._deliver(self._execution.run, job)

    async def terminate(self, *, reason: str = "") -> None:
        """End the workflow at once: none of its code runs any more."""
        self._open_run().terminate(reason)

    async def query(self, query: str | Callable[..., Any], *args: Any) -> Any:
        """Ask the workflow; the query is given by its name or its handler.

        Raises:
            WorkflowQueryFailedError: If the handler raised.
        """
        run = self._execution.run
        if not run.cached.activations and run.state.is_open:
            begun: asyncio.Future[None] = self._world.loop.create_future()
            run.tasks.on_begin.append(lambda: begun.set_result(None))
            await begun
        name, result_type = query_name(query)
        answered: asyncio.Future[Any] = self._world.loop.create_future()
        payloads = self._encode(args)
        # Not here: a task runs here, and the workflow's own loop must not run inside of one.
        self._world.loop.call_soon(lambda: answered.set_result(run.cached.instance.query(name, payloads)))
        answer = await answered
        if isinstance(answer, Failure):
            raise WorkflowQueryFailedError(answer.message)
        return _decoded(self._converter, answer, result_type)

    async def start_update(
        self,
        update: str | Callable[..., Any],
        *args: Any,
        id: str | None = None,
        wait_for_stage: WorkflowUpdateStage = WorkflowUpdateStage.ACCEPTED,
    ) -> SimulatedUpdate:
        """Send an update, given by its name or its handler; returns once it has been accepted.

        Raises:
            WorkflowUpdateFailedError: If the validator refused it.
        """
        run = self._open_run()
        name, result_type = update_name(update)
        self._updates += 1
        update_id = id or run.messages.free_update_id(f"update-{self._updates}")
        run.state.enqueue(run.messages.update(update_id, name, self._encode(args)))
        state = run.messages.updates[update_id]
        sent = SimulatedUpdate(update_id, state, self._converter, result_type)
        await _wait_for(state, state.accepted)
        if wait_for_stage == WorkflowUpdateStage.COMPLETED or state.completed.done():
            await sent.result()
        return sent

    async def execute_update(self, update: str | Callable[..., Any], *args: Any, id: str | None = None) -> Any:
        """Send an update and return its result.

        Raises:
            WorkflowUpdateFailedError: If the validator refused it, or the handler failed.
        """
        return await (await self.start_update(update, *args, id=id)).result()

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
