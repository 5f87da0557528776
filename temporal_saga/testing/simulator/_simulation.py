"""`simulate`: one run of a workflow in this process, with its real activities, on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from datetime import datetime, timedelta, timezone
from typing import Any, TypeVar, cast

from temporalio.common import RetryPolicy, TypedSearchAttributes
from temporalio.converter import DataConverter
from temporalio.exceptions import TemporalError
from temporalio.worker import Interceptor, UnsandboxedWorkflowRunner, WorkflowRunner
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions
from typing_extensions import TypeVarTuple, Unpack

from temporal_saga.plugin import SagaPlugin

from ._bugs import with_bugs
from ._clock import anyio_threads_inline, new_loop
from ._converter import memo_of, search_attributes_of
from ._elsewhere import History, replay_elsewhere
from ._errors import SimulationError, UnusedFaultsError
from ._faults import Fault
from ._handle import SimulatedHandle
from ._pending import PendingFaults, check_faults
from ._result import Simulation
from ._sagas import CancelScopes
from ._sdk import configure, quiet, workflow_of
from ._server import Execution, Server
from ._world import World

R = TypeVar("R")
Ts = TypeVarTuple("Ts")

_PLUGIN = SagaPlugin()
# All that the plugin adds where nothing is sandboxed. To ask the plugin takes long, and most simulations have no other.
_INTERCEPTORS: Sequence[Interceptor] = cast(Any, _PLUGIN).interceptors
START = datetime(2030, 1, 1, tzinfo=timezone.utc)
MAX_ACTIVATIONS = 10_000
RUNS_APART = 1_000_000
"""A simulation has fewer runs of one workflow id: those of a further simulation in the same world have other ids."""


def simulate(
    workflow_run: Callable[[Any, Unpack[Ts]], Awaitable[R]],
    *args: Unpack[Ts],
    activities: Sequence[Callable[..., Any]] = (),
    workflows: Sequence[type[Any]] = (),
    client: Callable[[SimulatedHandle[R]], Awaitable[object]] | None = None,
    faults: Sequence[Fault] = (),
    id: str = "workflow",
    run: int = 1,
    task_queue: str = "task-queue",
    execution_timeout: timedelta | None = None,
    run_timeout: timedelta | None = None,
    retry_policy: RetryPolicy | None = None,
    memo: Mapping[str, Any] | None = None,
    search_attributes: TypedSearchAttributes | Mapping[str, Any] | None = None,
    sandboxed: bool | SandboxRestrictions = False,
    plugins: Sequence[object] | None = None,
    interceptors: Sequence[Interceptor] = (),
    data_converter: DataConverter = DataConverter.default,
    failure_exception_types: Sequence[type[BaseException]] = (),
    unserved_task_queues: Collection[str] = (),
    without_patches: Collection[str] = (),
    start_time: datetime = START,
    max_activations: int = MAX_ACTIVATIONS,
) -> Simulation[R]:
    """Run a workflow to its end in this process, with the SDK's own workflow code, your activities and virtual time.

        simulation = simulate(MoneyTransfer.run, transfer, activities=bank.activities, faults=[fails_after("deposit")])
        assert simulation.status == "failed"
        print(simulation)

    `asyncio.sleep`, timers, timeouts and waits between retries take no real time. Blocking code (a sync activity) takes
    no virtual time. The same arguments give the same trace. Anything that cannot be simulated raises an
    `UnsupportedError`.

    Args:
        workflow_run: The workflow's `@workflow.run` method.
        args: Its arguments.
        activities: The activities, as for a worker: async and sync functions, and bound methods.
        workflows: Child workflows, and workflows to continue as.
        client: An async function that gets a handle of the workflow, and runs beside it on the virtual clock:
            `await handle.signal(...)`, `await asyncio.sleep(3600)`, `await handle.cancel()`.
        faults: The faults to inject: `fails_after("deposit")`, `cancel(at=3)`, ...
        id: The workflow's id.
        run: Which run of that id this is. Give each simulation in one world another number, for other run ids and keys.
        task_queue: Its task queue.
        execution_timeout: As for a client.
        run_timeout: As for a client.
        retry_policy: The workflow's own, as for a client.
        memo: As for a client.
        search_attributes: As for a client.
        sandboxed: Whether to run the workflow in the SDK's sandbox, as a worker does, or the restrictions of that
            sandbox. The sandbox is about ten times slower.
        plugins: The plugins of the client and the worker; `[SagaPlugin()]` by default.
        interceptors: The interceptors of the worker.
        data_converter: The data converter of the client.
        failure_exception_types: The worker's `workflow_failure_exception_types`.
        unserved_task_queues: Task queues without a worker. Activities sent there wait until a timeout.
        without_patches: The patches that the runs began without. `workflow.patched` takes the old branch for them.
        start_time: The workflow's start, on its own clock.
        max_activations: A run with more activations than this counts as an endless loop.

    Returns:
        The run, with all that happened. If the workflow fails, `simulate` does not raise; `result()` does.

    Raises:
        SimulationError: If the simulation cannot go on (the message names what is missing), or if faults found nothing
            to strike.
        ValueError: If a fault's `at` or `nth` is less than 1.
    """
    plan = PendingFaults(check_faults("faults", faults))
    definition = workflow_of(workflow_run)
    kinds = {fault.kind for fault in plan.faults}
    classes = [definition.cls, *(each for each in workflows if each is not definition.cls)]
    if plugins is None:
        plugins = [_PLUGIN] if sandboxed else []
        interceptors = interceptors if sandboxed else [*interceptors, *_INTERCEPTORS]
    parts = configure(
        workflows=classes,
        activities=activities,
        interceptors=interceptors,
        plugins=plugins,
        runner=_runner(sandboxed),
        failure_exception_types=failure_exception_types,
        data_converter=data_converter,
        task_queue=task_queue,
        innermost=[CancelScopes()] if "cancel_scope" in kinds else [],
        adapt=with_bugs if "bug_after" in kinds else _as_it_is,
        without_patches=without_patches,
        asks_server=SagaPlugin,
    )
    world = World(
        parts,
        new_loop(),
        start_time=_utc(start_time),
        faults=plan,
        first_run=1 + (run - 1) * RUNS_APART,
        unserved=unserved_task_queues,
        max_activations=max_activations,
    )
    server = Server(world)
    encoder = parts.converter.of_workflow(id)
    arguments: Any = args
    simulation: Simulation[R]
    try:
        world.begin_worker()
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
        running = None if client is None else world.start_function(_play(client, handle), name="client")
        with quiet() if "bug_after" in kinds else nullcontext(), anyio_threads_inline():
            server.run(main)
            simulation = Simulation(server, main, plan, definition.ret_type)
            simulation.client_error = _end_of_client(running, main, had_faults=bool(plan.faults))
    finally:
        server.stop()
        world.end_worker()
    if world.error is not None:
        raise world.error
    if world.loop.refused is not None:  # raised in a function that never ended
        raise world.loop.refused
    if plan.unused:
        labels = ", ".join(dict.fromkeys(call.label for call in simulation.calls if call.kind == "activity"))
        end = f"waits for {simulation.waiting_for}" if main.is_open else f"ended {simulation.status}"
        raise UnusedFaultsError(
            f"{plan.unused} found nothing to strike: "
            f"the run has {simulation.activations} activations, and calls of {labels or 'no activity'}; it {end}"
        )
    try:
        return simulation
    finally:
        del simulation  # an error that the run has kept holds this frame, and so would hold the simulation


def replayer(
    workflow_run: Callable[..., Any],
    *,
    varying: Collection[str] = (),
    workflows: Sequence[type[Any]] = (),
    plugins: Sequence[object] | None = None,
    interceptors: Sequence[Interceptor] = (),
    data_converter: DataConverter = DataConverter.default,
    failure_exception_types: Sequence[type[BaseException]] = (),
) -> Callable[[History], str | None]:
    """Return a function that replays the history of a simulation with these options, and says where commands differ."""
    definition = workflow_of(workflow_run)
    parts = configure(
        workflows=[definition.cls, *(each for each in workflows if each is not definition.cls)],
        activities=(),
        interceptors=interceptors,
        plugins=[_PLUGIN] if plugins is None else plugins,
        runner=UnsandboxedWorkflowRunner(),
        failure_exception_types=failure_exception_types,
        data_converter=data_converter,
        task_queue="task-queue",
        innermost=[CancelScopes()],
        adapt=with_bugs,
        asks_server=SagaPlugin,
    )
    return lambda history: replay_elsewhere(parts, history, varying)


def _runner(sandboxed: bool | SandboxRestrictions) -> WorkflowRunner:
    if isinstance(sandboxed, SandboxRestrictions):
        return SandboxedWorkflowRunner(restrictions=sandboxed)
    return SandboxedWorkflowRunner() if sandboxed else UnsandboxedWorkflowRunner()


async def _play(client: Callable[[Any], Awaitable[object]], handle: SimulatedHandle[Any]) -> object:
    return await client(handle)


def _end_of_client(task: asyncio.Task[object] | None, main: Execution, *, had_faults: bool) -> BaseException | None:
    if task is None:
        return None
    if not task.done():
        if not main.is_open:
            raise SimulationError("the client's function waits for something that never happens")
        return None
    error = task.exception() if not task.cancelled() else asyncio.CancelledError()
    # The client was written for the good end, but a fault has made the workflow fail, or the workflow is gone.
    if error is None or (had_faults and isinstance(error, TemporalError)):
        return error
    raise error


def _as_it_is(data_converter: DataConverter) -> DataConverter:
    return data_converter


def _utc(time: datetime) -> datetime:
    """Return a time in UTC; a time without a zone counts as UTC."""
    return time.replace(tzinfo=timezone.utc) if time.tzinfo is None else time.astimezone(timezone.utc)
