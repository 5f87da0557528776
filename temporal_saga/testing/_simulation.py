# pyright: reportPrivateUsage=false
"""`simulate`: one run of a workflow in this process, with its real activities, on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from temporalio.api.common.v1 import Payload
from temporalio.api.failure.v1 import Failure
from temporalio.bridge.proto.workflow_activation import WorkflowActivation
from temporalio.client import (
    WorkflowFailureError,
    WorkflowQueryFailedError,
    WorkflowUpdateFailedError,
    WorkflowUpdateStage,
)
from temporalio.common import RetryPolicy, TypedSearchAttributes
from temporalio.converter import DataConverter
from temporalio.exceptions import (
    ApplicationError,
    CancelledError,
    TemporalError,
    TerminatedError,
    TimeoutError,
    TimeoutType,
)
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Interceptor, UnsandboxedWorkflowRunner
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner
from typing_extensions import TypeVarTuple, Unpack

from temporal_saga import SagaReport
from temporal_saga.plugin import SagaPlugin

from ._clock import new_loop
from ._errors import SimulationError, UnusedFaultsError
from ._faults import Fault
from ._history import Command, readable
from ._jobs import Job, Update
from ._plan import Plan
from ._plans import check_faults
from ._run import Run
from ._sdk import (
    configure,
    memo_of,
    query_name,
    quiet,
    search_attributes_of,
    signal_name,
    update_name,
    utc,
    workflow_of,
)
from ._server import Execution, Server
from ._trace import Call, TraceEvent

if TYPE_CHECKING:
    from typing import Literal, TypeAlias

    End: TypeAlias = Literal["completed", "failed", "cancelled", "terminated", "timed out"]
    Status: TypeAlias = Literal[End, "waiting"]

__all__ = ["SimulatedHandle", "SimulatedUpdate", "Simulation", "simulate"]

R = TypeVar("R")
Ts = TypeVarTuple("Ts")

START = datetime(2030, 1, 1, tzinfo=timezone.utc)
MAX_ACTIVATIONS = 10_000


def simulate(
    workflow_run: Callable[[Any, Unpack[Ts]], Awaitable[R]],
    *args: Unpack[Ts],
    activities: Sequence[Callable[..., Any]] = (),
    workflows: Sequence[type[Any]] = (),
    client: Callable[[SimulatedHandle[R]], Awaitable[object]] | None = None,
    faults: Sequence[Fault] = (),
    id: str = "workflow",
    task_queue: str = "task-queue",
    execution_timeout: timedelta | None = None,
    run_timeout: timedelta | None = None,
    retry_policy: RetryPolicy | None = None,
    memo: Mapping[str, Any] | None = None,
    search_attributes: TypedSearchAttributes | Mapping[str, Any] | None = None,
    sandboxed: bool = False,
    plugins: Sequence[object] | None = None,
    interceptors: Sequence[Interceptor] = (),
    data_converter: DataConverter = DataConverter.default,
    failure_exception_types: Sequence[type[BaseException]] = (),
    unserved_task_queues: Collection[str] = (),
    start_time: datetime = START,
    max_activations: int = MAX_ACTIVATIONS,
) -> Simulation[R]:
    """Run a workflow to its end in this process: the SDK's own workflow code, your activities, virtual time.

        simulation = simulate(MoneyTransfer.run, transfer, activities=bank.activities, faults=[fails_after("deposit")])
        assert simulation.status == "failed"
        print(simulation)

    `asyncio.sleep`, timers, timeouts and waits between retries take no real time; what blocks (a sync activity) takes
    no virtual time. The same arguments give the same trace. What cannot be simulated is an `UnsupportedError`.

    Args:
        workflow_run: The workflow's `@workflow.run` method.
        args: Its arguments.
        activities: The activities, as for a worker: async and sync functions, and bound methods.
        workflows: Child workflows, and others to continue as.
        client: An async function that is called with a handle of the workflow, and runs beside it on the virtual clock:
            `await handle.signal(...)`, `await asyncio.sleep(3600)`, `await handle.cancel()`.
        faults: What goes wrong: `fails_after("deposit")`, `cancel(at=3)`, ...
        id: The workflow's id.
        task_queue: Its task queue.
        execution_timeout: As for a client.
        run_timeout: As for a client.
        retry_policy: As for a client: the workflow's own.
        memo: As for a client.
        search_attributes: As for a client.
        sandboxed: Whether to run the workflow in the SDK's sandbox, as a worker does; about ten times slower.
        plugins: The client's and worker's; `[SagaPlugin()]` if not given.
        interceptors: The worker's.
        data_converter: The client's.
        failure_exception_types: The worker's `workflow_failure_exception_types`.
        unserved_task_queues: Task queues without a worker: activities sent there wait, until a timeout ends that.
        start_time: When the workflow starts, on its own clock.
        max_activations: More than this is taken for an endless loop.

    Returns:
        What happened. A workflow that fails is no error here; `result()` raises it.

    Raises:
        SimulationError: If the simulation cannot go on; what an activity or the workflow lacks is named. Or if faults
            found nothing to strike.
        ValueError: If a fault's `at` or `nth` is less than 1.
    """
    plan = Plan(check_faults("faults", faults))
    definition = workflow_of(workflow_run)
    kinds = {fault.kind for fault in plan.faults}
    classes = [definition.cls, *(each for each in workflows if each is not definition.cls)]
    parts = configure(
        workflows=classes,
        activities=activities,
        interceptors=interceptors,
        plugins=[SagaPlugin()] if plugins is None else plugins,
        runner=SandboxedWorkflowRunner() if sandboxed else UnsandboxedWorkflowRunner(),
        failure_exception_types=failure_exception_types,
        data_converter=data_converter,
        task_queue=task_queue,
        simulate_bugs="bug_after" in kinds,
        simulate_cancelled_scopes="cancel_scope" in kinds,
    )
    server = Server(
        parts,
        new_loop(),
        start_time=utc(start_time),
        faults=plan,
        unserved=unserved_task_queues,
        max_activations=max_activations,
    )
    encoder = parts.converter.of_workflow(id)
    arguments: Any = args
    simulation: Simulation[R]
    try:
        main = server.start(
            definition.name or "",
            encoder.encode(arguments),
            main=True,
            workflow_id=id,
            task_queue=task_queue,
            execution_timeout=execution_timeout,
            run_timeout=run_timeout,
            retry_policy=retry_policy,
            memo=memo_of(encoder, memo or {}),
            search_attributes=search_attributes_of(search_attributes),
        )
        handle: SimulatedHandle[R] = SimulatedHandle(server, main, definition.ret_type)
        running = _start_client(server, client, handle)
        with quiet() if "bug_after" in kinds else nullcontext():
            server.run(main)
            simulation = Simulation(server, main, plan, definition.ret_type)
            simulation.client_error = _end_of_client(running, main, had_faults=bool(plan.faults))
    finally:
        server.stop()
    if server.error is not None:
        raise server.error
    if server.loop.refused is not None:  # in a function that never ended
        raise server.loop.refused
    if plan.unused:
        labels = ", ".join(dict.fromkeys(call.label for call in simulation.calls if call.kind == "activity"))
        end = f"waits for {simulation.waiting_for}" if main.is_open else f"ended {simulation.status}"
        raise UnusedFaultsError(
            f"{plan.unused} found nothing to strike: "
            f"the run has {simulation.activations} activations, and calls of {labels or 'no activity'}; it {end}"
        )
    return simulation


def _start_client(
    server: Server, client: Callable[[Any], Awaitable[object]] | None, handle: SimulatedHandle[Any]
) -> asyncio.Task[object] | None:
    if client is None:
        return None

    async def run() -> object:
        return await client(handle)

    task = server.loop.create_task(run(), name="client")
    server.functions.add(task)
    task.add_done_callback(server.function_ended)
    return task


def _end_of_client(task: asyncio.Task[object] | None, main: Execution, *, had_faults: bool) -> BaseException | None:
    if task is None:
        return None
    if not task.done():
        if not main.is_open:
            raise SimulationError("the client's function waits for something that never happens")
        return None
    error = task.exception() if not task.cancelled() else asyncio.CancelledError()
    # What a client that was written for the good end meets after a fault: a workflow that has failed, or is gone.
    if error is None or (had_faults and isinstance(error, TemporalError)):
        return error
    raise error


class Simulation(Generic[R]):
    """What happened in a simulated run of a workflow, its further runs and its children included.

    Attributes:
        status: How the workflow ended; `"waiting"` if it never does.
        waiting_for: What it waits for, for people; empty if it ended.
        trace: All that happened, in order.
        calls: The calls of activities, and of the children that sagas started, in order.
        run_ids: The ids of the workflow's runs, those of its children not among them.
        activations: How many activations the workflow had, its further runs included.
        duration: How long it took, on the virtual clock.
        reports: The report of each saga, those of further runs and of children included.
        task_failures: Why workflow tasks failed: a bug, or a replay that differs.
        replay_difference: Where a replay after `restart` gave other commands; None if nowhere. See `check_replay`.
        client_error: What the client's function raised because of a fault.
        cancel_requested: Whether anyone asked for the workflow's cancellation.
        faults: The faults as they were given.
    """

    def __init__(self, server: Server, main: Execution, plan: Plan, result_type: type | None) -> None:
        self._server = server
        self._main = main
        self._result_type = result_type
        self.status: Status = cast("Status", "waiting" if main.is_open else main.status)
        self.waiting_for: str = main.run.waits_for if main.is_open else ""
        self.trace: list[TraceEvent] = server.trace
        self.calls: list[Call] = server.calls
        self.run_ids: list[str] = [run.start.run_id for run in main.runs]
        self.activations: int = server.activation
        self.duration: timedelta = timedelta(seconds=server.time())
        self.reports: list[SagaReport] = [
            report for execution in server.all_executions for run in execution.runs for report in _reports(run)
        ]
        self.task_failures: list[str] = server.task_failures
        self.faults: list[Fault] = plan.faults
        self.cancel_requested: bool = main.cancel_requested
        self.replay_difference: str | None = server.differences[0] if server.differences else None
        self.client_error: BaseException | None = None

    def result(self) -> R:
        """Return what the workflow returned, of the last of its runs.

        Raises:
            WorkflowFailureError: If it failed, was cancelled, was terminated or timed out; see its `cause`.
            SimulationError: If it never ends.
        """
        if self.status == "waiting":
            raise SimulationError(f"the workflow never ends: it waits for {self.waiting_for}")
        return cast(R, _outcome(self._server, self._main.run, self._result_type))

    @property
    def commands(self) -> list[Command]:
        """The commands of the workflow: `("schedule_activity", id, type, args)`, `("complete", result)`, and so on."""
        return [
            command
            for run in self._main.runs
            for commands in readable(run.activations, self._server.parts)
            for command in commands
        ]

    def check_replay(self) -> str | None:
        """Replay the histories of all runs on fresh instances; return where their commands differ, or None."""
        for execution in self._server.all_executions:
            for run in execution.runs:
                difference = run.check_replay()
                if difference is not None:
                    return difference
        return None

    def __repr__(self) -> str:
        return f"<Simulation of {self._main.runs[0].start.workflow_type}: {self.status}>"

    def __str__(self) -> str:
        from ._timeline import timeline

        return timeline(self)


def told_to(simulation: Simulation[Any]) -> tuple[bytes, ...]:
    """Return what each activation told the workflow, the time aside: results, failures, signals, cancels."""

    def told(request: WorkflowActivation) -> bytes:
        timeless = WorkflowActivation()
        timeless.CopyFrom(request)
        timeless.ClearField("timestamp")
        return timeless.SerializeToString(deterministic=True)

    return tuple(told(done.request) for run in simulation._main.runs for done in run.activations)


def _reports(run: Run) -> list[SagaReport]:
    if not run.activations:
        return []
    if not run.instance.is_sandboxed:
        handler = run.instance.query_handler("saga_report")
        return cast("list[SagaReport]", handler()) if hasattr(handler, "sagas") else []
    answer = run.instance.query("saga_report", ())
    if isinstance(answer, Failure):
        return []  # no saga was entered
    return cast("list[SagaReport]", run.server.parts.converter.decode([answer], [list[SagaReport]])[0])


def _outcome(server: Server, run: Run, result_type: type | None) -> Any:
    decoder = server.parts.converter.of_workflow(run.start.workflow_id)
    if run.status == "completed":
        assert run.result is not None
        return decoder.decode([run.result], [result_type] if result_type else None)[0]
    cause: BaseException
    if run.status == "failed":
        assert run.failure is not None
        cause = decoder.to_exception(run.failure)
    elif run.status == "cancelled":
        cause = CancelledError("Workflow cancelled")
    elif run.status == "terminated":
        cause = TerminatedError(run.close_details or "terminated by user via frontend")
    else:
        cause = TimeoutError("Workflow timed out", type=TimeoutType.START_TO_CLOSE, last_heartbeat_details=[])
    raise WorkflowFailureError(cause=cause)


# --- the client's side --------------------------------------------------------------------------


class SimulatedHandle(Generic[R]):
    """What the client's function is given: a `WorkflowHandle` of the simulation, with the same names."""

    def __init__(self, server: Server, execution: Execution, result_type: type | None) -> None:
        self._server = server
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
        execution = self._server.executions.get(workflow_id)
        if execution is None:
            raise _not_found(f"workflow not found for ID: {workflow_id}")
        return SimulatedHandle(self._server, execution, execution.run.start.definition.ret_type)

    async def result(self) -> R:
        """Wait until the workflow has ended, and return its result.

        Raises:
            WorkflowFailureError: As a client's handle does.
        """
        if self._execution.is_open:
            closed: asyncio.Future[None] = self._server.loop.create_future()
            self._execution.on_close.append(lambda: None if closed.done() else closed.set_result(None))
            await closed
        return cast(R, _outcome(self._server, self._execution.run, self._result_type))

    async def signal(self, signal: str | Callable[..., Any], *args: Any) -> None:
        """Send a signal, given by its name or its handler; returns once it has been delivered."""
        run = self._open_run()
        await self._deliver(run, run.signal_job(signal_name(signal), self._encode(args)))

    async def cancel(self, *, reason: str = "") -> None:
        """Request the workflow's cancellation; returns once it has been delivered. A closed one stays so."""
        run = self._execution.run
        job = run.cancel_job(reason) if run.status == "running" else None
        if job is not None:
            await self._deliver(run, job)

    async def terminate(self, *, reason: str = "") -> None:
        """End the workflow at once: none of its code runs any more."""
        self._open_run().terminate(reason)

    async def query(self, query: str | Callable[..., Any], *args: Any) -> Any:
        """Ask the workflow; the query is given by its name or its handler.

        Raises:
            WorkflowQueryFailedError: If the handler raised.
        """
        run = self._execution.run
        if not run.activations and run.status == "running":
            begun: asyncio.Future[None] = self._server.loop.create_future()
            run.on_begin.append(lambda: begun.set_result(None))
            await begun
        name, result_type = query_name(query)
        answered: asyncio.Future[Any] = self._server.loop.create_future()
        payloads = self._encode(args)
        # Not here: a task runs here, and the workflow's own loop must not run inside of one.
        self._server.loop.call_soon(lambda: answered.set_result(run.instance.query(name, payloads)))
        answer = await answered
        if isinstance(answer, Failure):
            raise WorkflowQueryFailedError(answer.message)
        return self._decode(answer, result_type)

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
        update_id = id or f"update-{self._updates}"
        run.enqueue(run.update_job(update_id, name, self._encode(args)))
        sent = SimulatedUpdate(self, update_id, run.updates[update_id], result_type)
        await sent._wait(run.updates[update_id].accepted)
        if wait_for_stage == WorkflowUpdateStage.COMPLETED or run.updates[update_id].completed.done():
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
        if run.status != "running":
            raise _not_found("workflow execution already completed")
        return run

    async def _deliver(self, run: Run, job: Job) -> None:
        delivered: asyncio.Future[None] = self._server.loop.create_future()
        job.delivered = lambda: None if delivered.done() else delivered.set_result(None)
        job.dropped = lambda: (
            None if delivered.done() else delivered.set_exception(_not_found("workflow execution already completed"))
        )
        run.enqueue(job)
        await delivered

    def _encode(self, args: Sequence[Any]) -> Sequence[Payload]:
        return self._server.parts.converter.of_workflow(self.id).encode(args)

    def _decode(self, payload: Payload, result_type: type | None) -> Any:
        decoder = self._server.parts.converter.of_workflow(self.id)
        return decoder.decode([payload], [result_type] if result_type else None)[0]


class SimulatedUpdate:
    """An update that has been sent."""

    def __init__(self, handle: SimulatedHandle[Any], id: str, state: Update, result_type: type | None) -> None:
        self.id = id
        self._handle = handle
        self._state = state
        self._result_type = result_type

    async def result(self) -> Any:
        """Wait until the update has ended, and return its result.

        Raises:
            WorkflowUpdateFailedError: If the validator refused it, or the handler failed.
        """
        answer = await self._wait(self._state.completed)
        if isinstance(answer, Failure):
            decoder = self._handle._server.parts.converter.of_workflow(self._handle.id)
            raise WorkflowUpdateFailedError(decoder.to_exception(answer))
        return self._handle._decode(answer, self._result_type)

    async def _wait(self, future: asyncio.Future[Any]) -> Any:
        try:
            return await future
        except SimulationError:
            if not self._state.accepted.done() or self._state.accepted.exception() is not None:
                raise _not_found("workflow execution already completed") from None
        raise WorkflowUpdateFailedError(
            ApplicationError(
                "Workflow Update failed because the Workflow completed before the Update completed.",
                type="AcceptedUpdateCompletedWorkflow",
                non_retryable=True,
            )
        )


def _not_found(message: str) -> RPCError:
    return RPCError(message, RPCStatusCode.NOT_FOUND, b"")
