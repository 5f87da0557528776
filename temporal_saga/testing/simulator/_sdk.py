# pyright: reportPrivateUsage=false
"""The one module that touches what the SDK keeps to itself; the rest of the simulator goes through here.

It makes the workflow instance that a worker would make, feeds it activations, converts payloads and failures as a
worker and a client do, and runs an activity behind its interceptors. All of that was read in temporalio 1.35; should
another version differ, `_check` names that version.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import inspect
import logging
import threading
import types
from collections.abc import Awaitable, Callable, Collection, Coroutine, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import Context
from datetime import datetime, timedelta
from typing import Any, NamedTuple, cast

import temporalio.service
from temporalio import activity, client, common, converter, plugin, testing, worker, workflow
from temporalio.api.common.v1 import Payload, Payloads, SearchAttributes
from temporalio.api.failure.v1 import Failure

from ._clock import call_as_in_a_thread, running_loop
from ._converter import Converter, complete
from ._errors import SimulationError, UnsupportedError

MADE_FOR = "1.35"

_logger = logging.getLogger(__name__)


def _changed(what: object) -> SimulationError:
    return SimulationError(
        f"temporal_saga.testing was made for temporalio {MADE_FOR}, and temporalio {temporalio.service.__version__} "
        f"is another inside ({what}): use another version of one of the two"
    )


try:
    from temporalio.activity import _ActivityCancellationDetailsHolder, _CompleteAsyncError, _Context
    from temporalio.activity import _Definition as ActivityDefinition
    from temporalio.bridge.proto.workflow_activation import (
        InitializeWorkflow,
        WorkflowActivation,
        WorkflowActivationJob,
    )
    from temporalio.bridge.proto.workflow_commands import ScheduleActivity
    from temporalio.bridge.proto.workflow_completion import WorkflowActivationCompletion
    from temporalio.bridge.worker import decode_activation, encode_completion
    from temporalio.common import _CompositeEvent
    from temporalio.worker._workflow import _CommandAwareDataConverter
    from temporalio.workflow import _Definition as WorkflowDefinition
    from temporalio.workflow import _QueryDefinition, _SignalDefinition
except ImportError as error:
    raise _changed(error) from error


def _check() -> None:
    """Raise if something this module relies on has gone, or something new is wanted."""
    given = {
        worker.WorkflowInstanceDetails: _DETAILS | {"default_workflow_logic_flags"},
        workflow.Info: _INFO,
        worker.WorkflowInstance: {"activate"},
    }
    for owner, names in given.items():
        if dataclasses.is_dataclass(owner):
            fields = {each.name: each for each in dataclasses.fields(owner)}
            required = {
                name
                for name, each in fields.items()
                if each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING
            }
            if odd := (names - set(fields)) | (required - names):
                raise _changed(f"{owner.__name__}: {', '.join(sorted(odd))}")
        elif missing := [name for name in names if not hasattr(owner, name)]:
            raise _changed(f"{owner.__name__}: {', '.join(missing)}")


_DETAILS = {
    "payload_converter_factory",
    "failure_converter_class",
    "interceptor_classes",
    "defn",
    "info",
    "randomness_seed",
    "extern_functions",
    "disable_eager_activity_execution",
    "worker_level_failure_exception_types",
    "patch_activation_callback",
    "last_completion_result",
    "last_failure",
}
_INFO = {
    "attempt",
    "continued_run_id",
    "cron_schedule",
    "execution_timeout",
    "first_execution_run_id",
    "headers",
    "namespace",
    "original_execution_run_id",
    "parent",
    "root",
    "priority",
    "raw_memo",
    "retry_policy",
    "run_id",
    "run_timeout",
    "search_attributes",
    "start_time",
    "task_queue",
    "task_timeout",
    "typed_search_attributes",
    "workflow_id",
    "workflow_start_time",
    "workflow_type",
}


# --- what a worker is made of -------------------------------------------------------------------


class _NoClient:
    """Stands in for the worker's client, should a plugin ask for it; it has no interceptors."""

    def config(self, *, active_config: bool = False) -> dict[str, Any]:
        return {}


class WorkerParts(NamedTuple):
    """The workflows, activities and options that a worker would have, its plugins' included."""

    workflows: Mapping[str | None, WorkflowDefinition]
    activities: Mapping[str | None, ActivityDefinition]
    interceptors: Sequence[worker.Interceptor]
    runner: worker.WorkflowRunner
    failure_exception_types: Sequence[type[BaseException]]
    converter: Converter
    task_queue: str
    without_patches: Collection[str]
    """Patches that runs began without."""
    around: Sequence[worker.Plugin]
    """The plugins that want to run something around the worker."""

    def workflow(self, name: str) -> WorkflowDefinition | None:
        """Return the workflow of that name, or the dynamic one."""
        return self.workflows.get(name) or self.workflows.get(None)

    def activity(self, name: str) -> ActivityDefinition | None:
        """Return the activity of that name, or the dynamic one."""
        return self.activities.get(name) or self.activities.get(None)


def configure(
    *,
    workflows: Sequence[type[Any]],
    activities: Sequence[Callable[..., Any]],
    interceptors: Sequence[worker.Interceptor],
    plugins: Sequence[Any],
    runner: worker.WorkflowRunner,
    failure_exception_types: Sequence[type[BaseException]],
    data_converter: converter.DataConverter,
    task_queue: str,
    innermost: Sequence[worker.Interceptor],
    adapt: Callable[[converter.DataConverter], converter.DataConverter],
    without_patches: Collection[str] = (),
    asks_server: type[Any],
) -> WorkerParts:
    """Do with the options what a client and its worker do, the plugins' turns included.

    Args:
        workflows: As for a worker, as are the others.
        activities: The activities.
        interceptors: The interceptors.
        plugins: The client's and the worker's plugins.
        runner: The runner of sandboxed workflows.
        failure_exception_types: The worker's `workflow_failure_exception_types`.
        data_converter: The client's data converter.
        task_queue: The worker's task queue.
        innermost: Interceptors behind those of the plugins.
        adapt: Changes the data converter that the plugins leave.
        without_patches: The patches that runs began without.
        asks_server: The class of plugins that run nothing around a worker but a question to its server.
    """
    config: Any = {
        "client": _NoClient(),
        "task_queue": task_queue,
        "workflows": list(workflows),
        "activities": list(activities),
        "interceptors": list(interceptors),
        "workflow_runner": runner,
        "workflow_failure_exception_types": list(failure_exception_types),
    }
    client_config: Any = {"data_converter": data_converter, "interceptors": [], "plugins": []}
    for each in plugins:
        if isinstance(each, client.Plugin):
            client_config = each.configure_client(client_config)
        if isinstance(each, worker.Plugin):
            config = each.configure_worker(config)
    data_converter = adapt(client_config.get("data_converter") or data_converter)
    if data_converter.external_storage is not None:
        raise UnsupportedError("a data converter with external storage cannot be simulated: leave external_storage out")
    if config.get("nexus_service_handlers"):
        raise UnsupportedError("Nexus services cannot be simulated")
    chain: list[worker.Interceptor] = [*(config.get("interceptors") or ()), *innermost]
    runner = config.get("workflow_runner") or runner
    runner.set_worker_level_failure_exception_types(config.get("workflow_failure_exception_types") or [])
    by_class = {each: WorkflowDefinition.must_from_class(each) for each in config.get("workflows") or ()}
    with running_loop(cast(asyncio.AbstractEventLoop, _Loop())):
        for definition in by_class.values():
            if definition.sandboxed:
                runner.prepare_workflow(definition)
    by_function = [_activity_definition(each) for each in config.get("activities") or ()]
    by_name = {each.name: each for each in by_function}
    if len(by_name) < len(by_function):
        names = [each.name for each in by_function]
        twice = sorted({str(name) for name in names if names.count(name) > 1})
        raise ValueError(f"more than one activity named {', '.join(twice)}")
    return WorkerParts(
        workflows={each.name: each for each in by_class.values()},
        activities=by_name,
        interceptors=chain,
        runner=runner,
        failure_exception_types=config.get("workflow_failure_exception_types") or [],
        converter=Converter(data_converter),
        task_queue=task_queue,
        without_patches=frozenset(without_patches),
        around=[each for each in plugins if isinstance(each, worker.Plugin) and _runs_something(each, asks_server)],
    )


def _activity_definition(function: Callable[..., Any]) -> ActivityDefinition:
    found: Any = getattr(function, "__temporal_activity_definition", None)
    # The SDK would copy the definition, which takes long. That of a method has another function, and has to be copied.
    if getattr(found, "fn", None) is not function:
        find: Any = ActivityDefinition
        found = find.must_from_callable(function)
    return cast(ActivityDefinition, found)


def _runs_something(each: worker.Plugin, asks_server: type[Any]) -> bool:
    if type(each) is asks_server:
        return False
    inherited = getattr(type(each), "run_worker", None) is plugin.SimplePlugin.run_worker
    return not (inherited and cast(Any, each).run_context is None)


class _NoWorker:
    """Stands in for the worker, for the plugins that run something around it."""

    def __init__(self, parts: WorkerParts) -> None:
        self.task_queue = parts.task_queue
        self.client = _NoClient()

    def config(self, *, active_config: bool = False) -> dict[str, Any]:
        return {"task_queue": self.task_queue}


async def run_worker(parts: WorkerParts, run: Callable[[], Awaitable[None]]) -> None:
    """Run what the worker does inside of what its plugins run around it."""

    async def innermost(_worker: Any) -> None:
        await run()

    chain: Callable[[Any], Awaitable[None]] = innermost
    for each in reversed(parts.around):
        chain = functools.partial(cast(Any, each).run_worker, next=chain)
    await chain(_NoWorker(parts))


def workflow_of(run: Callable[..., Awaitable[Any]] | type[Any]) -> WorkflowDefinition:
    """Return the definition behind a `@workflow.run` method, or behind a workflow class."""
    if isinstance(run, type):
        return WorkflowDefinition.must_from_class(run)
    return WorkflowDefinition.must_from_run_fn(run)


def signal_name(signal: str | Callable[..., Any]) -> str:
    """Return the name of a signal, which may be given as its handler."""
    find: Any = _SignalDefinition
    return signal if isinstance(signal, str) else str(find.must_name_from_fn_or_str(signal))


def query_name(query: str | Callable[..., Any]) -> tuple[str, type | None]:
    """Return the name of a query, which may be given as its handler, and its result type if known."""
    if isinstance(query, str):
        return query, None
    find: Any = _QueryDefinition
    definition: Any = find.from_fn(query)
    if definition is None:
        raise RuntimeError(f"{query!r} is not a @workflow.query")
    return definition.name, definition.ret_type


def update_name(update: str | Callable[..., Any]) -> tuple[str, type | None]:
    """Return the name of an update, which may be given as its handler, and its result type if known."""
    if isinstance(update, str):
        return update, None
    definition: Any = getattr(update, "_defn", None)
    if definition is None:
        raise RuntimeError(f"{update!r} is not a @workflow.update")
    return definition.name, definition.ret_type


# --- a workflow's instance ----------------------------------------------------------------------


_NO_PAYLOADS: Mapping[str, Payload] = {}


class RunStart(NamedTuple):
    """What a run starts with, payloads as they travel."""

    definition: WorkflowDefinition
    workflow_type: str
    workflow_id: str
    run_id: str
    first_run_id: str
    args: Sequence[Payload]
    started: datetime
    seed: int
    task_queue: str
    attempt: int = 1
    continued_run_id: str | None = None
    parent: tuple[str, str] | None = None
    root: tuple[str, str] | None = None
    memo: Mapping[str, Payload] = _NO_PAYLOADS
    search_attributes: SearchAttributes = SearchAttributes()
    headers: Mapping[str, Payload] = _NO_PAYLOADS
    execution_timeout: timedelta | None = None
    run_timeout: timedelta | None = None
    task_timeout: timedelta = timedelta(seconds=10)
    retry_policy: common.RetryPolicy | None = None
    last_failure: Failure | None = None
    priority: common.Priority = common.Priority.default

    def but(self, **changed: Any) -> RunStart:
        """Return the start of a run that differs in these."""
        return self._replace(**changed)

    def job(self) -> WorkflowActivationJob:
        """Return the job that starts the run."""
        job = InitializeWorkflow(
            workflow_type=self.workflow_type,
            workflow_id=self.workflow_id,
            arguments=self.args,
            randomness_seed=self.seed,
            attempt=self.attempt,
            first_execution_run_id=self.first_run_id,
            original_execution_run_id=self.run_id,
        )
        for key, payload in self.headers.items():
            job.headers[key].CopyFrom(payload)
        return WorkflowActivationJob(initialize_workflow=job)


class Instance:
    """The SDK's own workflow instance, as a worker would make it for this run."""

    def __init__(self, parts: WorkerParts, start: RunStart) -> None:
        self._parts = parts
        self._start = start
        data = parts.converter.data
        extern_functions: dict[str, Callable[..., Any]] = {}
        interceptor_classes: list[type[worker.WorkflowInboundInterceptor]] = []
        for interceptor in parts.interceptors:
            found = interceptor.workflow_interceptor_class(
                worker.WorkflowInterceptorClassInput(unsafe_extern_functions=extern_functions)
            )
            if found:
                interceptor_classes.append(found)
        extern_functions["__temporal_get_metric_meter"] = lambda: common.MetricMeter.noop
        extern_functions["__temporal_assert_local_activity_valid"] = _allow
        definition = start.definition
        parent = start.parent and workflow.ParentInfo(
            namespace="default", workflow_id=start.parent[0], run_id=start.parent[1]
        )
        details = worker.WorkflowInstanceDetails(
            payload_converter_factory=data._new_payload_converter,
            failure_converter_class=data.failure_converter_class,
            interceptor_classes=interceptor_classes,
            defn=definition,
            info=workflow.Info(
                attempt=start.attempt,
                continued_run_id=start.continued_run_id,
                cron_schedule=None,
                execution_timeout=start.execution_timeout,
                first_execution_run_id=start.first_run_id,
                headers=dict(start.headers),
                namespace="default",
                original_execution_run_id=start.run_id,
                parent=parent or None,
                root=workflow.RootInfo(workflow_id=start.root[0], run_id=start.root[1]) if start.root else None,
                priority=start.priority,
                raw_memo=parts.converter.decoded(start.memo),
                retry_policy=start.retry_policy,
                run_id=start.run_id,
                run_timeout=start.run_timeout,
                search_attributes=converter.decode_search_attributes(start.search_attributes),
                start_time=start.started,
                task_queue=start.task_queue,
                task_timeout=start.task_timeout,
                typed_search_attributes=converter.decode_typed_search_attributes(start.search_attributes),
                workflow_id=start.workflow_id,
                workflow_start_time=start.started,
                workflow_type=start.workflow_type,
            ),
            randomness_seed=start.seed,
            extern_functions=extern_functions,
            disable_eager_activity_execution=True,
            worker_level_failure_exception_types=parts.failure_exception_types,
            patch_activation_callback=lambda patch: patch.patch_id not in parts.without_patches,
            last_completion_result=Payloads(),
            last_failure=start.last_failure,
        )
        runner = parts.runner if definition.sandboxed else worker.UnsandboxedWorkflowRunner()
        # On a worker a workflow runs in a thread, whose context starts empty: it has nothing of any activity's context.
        self._in_context: Any = Context().run
        # The SDK hangs its runtime on the loop that runs while it makes an instance.
        with running_loop(cast(asyncio.AbstractEventLoop, _Loop())):
            self._instance: worker.WorkflowInstance = self._in_context(runner.create_instance, details)

    def activate(
        self, request: WorkflowActivation, *, decoded: bool = False
    ) -> tuple[WorkflowActivationCompletion, WorkflowActivationCompletion]:
        """Deliver an activation.

        Args:
            request: Jobs with payloads as they travel; decoded in place.
            decoded: Whether the payloads are decoded already, as in a replay.

        Returns:
            The workflow's answer, first as the workflow made it, then as it travels. Without a codec the two are one.
        """
        plain = self._parts.converter.has_codec
        try:
            if plain and not decoded:
                self._visit(decode_activation, request)
            completion = self._activate(request)
            if not plain or completion.HasField("failed"):
                return completion, completion
            travels = WorkflowActivationCompletion()
            travels.CopyFrom(completion)
            self._visit(encode_completion, travels)
        except Exception as error:
            # As in the SDK's worker: a codec that fails, or a workflow that cannot be set up, fails the task.
            completion = WorkflowActivationCompletion()
            completion.failed.failure.CopyFrom(self._parts.converter.to_failure(error))
            return completion, completion
        return completion, travels

    def _activate(self, request: WorkflowActivation) -> WorkflowActivationCompletion:
        completion: WorkflowActivationCompletion = call_as_in_a_thread(
            self._in_context, self._instance.activate, request
        )
        return completion

    def _visit(self, visit: Callable[..., Coroutine[Any, Any, Any]], message: Any) -> None:
        start = self._start
        context = converter.WorkflowSerializationContext(namespace="default", workflow_id=start.workflow_id)
        data = self._parts.converter.data
        aware = _CommandAwareDataConverter.create(
            instance=self._instance,
            context_free_dc=data,
            workflow_context_dc=data.with_context(context),
            workflow_context=context,
        )
        complete(visit(message, aware, False, 1))

    def query(self, name: str, args: Sequence[Payload]) -> Any:
        """Ask the workflow; return its answer's payload or Failure."""
        request = WorkflowActivation(run_id=self._start.run_id)
        job = request.jobs.add().query_workflow
        job.query_id, job.query_type = "query", name
        job.arguments.extend(args)
        completion, travels = self.activate(request)
        if completion.HasField("failed"):
            return completion.failed.failure
        (command,) = travels.successful.commands
        answer = command.respond_to_query
        return answer.failed if answer.HasField("failed") else answer.succeeded.response

    def query_handler(self, name: str) -> Any:
        """Return what answers a query, or None; None too for a sandboxed workflow, whose handlers are out of reach."""
        definition = getattr(self._instance, "_queries", {}).get(name)
        return None if definition is None else definition.fn

    @property
    def is_sandboxed(self) -> bool:
        """Whether the workflow runs in a sandbox."""
        return not hasattr(self._instance, "_queries")

    @property
    def is_at_rest(self) -> bool:
        """Whether no task is left in it; unknown, hence False, of a sandboxed workflow."""
        tasks = getattr(self._instance, "_tasks", None)
        return tasks is not None and not tasks

    def evict(self) -> None:
        """Take the workflow out of memory as a worker does, so that no task of the workflow is destroyed while pending.

        Raises:
            SimulationError: If tasks remain: the workflow cannot be evicted.
        """
        if self.is_at_rest:
            return
        request = WorkflowActivation(run_id=self._start.run_id, is_replaying=True)
        request.jobs.add().remove_from_cache.message = "simulation"
        try:
            self._activate(request)
        except RuntimeError as error:
            raise SimulationError(f"the workflow cannot be evicted from a worker's cache: {error}") from error


def _allow(_name: str) -> None:
    """Any local activity: its command is refused."""


class _Loop:
    """What an instance is made on: the SDK only hangs an attribute on it."""


@contextmanager
def quiet() -> Generator[None, None, None]:
    """Silence the SDK's log of a task failure that a plan brings about."""
    log = logging.getLogger("temporalio.worker._workflow_instance")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


# --- activities ---------------------------------------------------------------------------------

# What a sync activity's interceptors see. The activity runs inline, so this executor never starts a thread.
_executor = ThreadPoolExecutor(max_workers=1)


_set_context = cast(Any, _Context).set
_INFO_TEMPLATE = testing.ActivityEnvironment.default_info()


class ActivityRun(worker.ActivityInboundInterceptor):
    """One call of an activity's function, in this task, behind the interceptors and in the context of a worker.

    It is the innermost of the interceptors itself.
    """

    def __init__(
        self,
        parts: WorkerParts,
        definition: Any,
        info: Callable[[], activity.Info],
        command: ScheduleActivity,
        on_heartbeat: Callable[..., None],
        on_return: Callable[[], None],
        on_wait: Callable[[object], Awaitable[object] | None],
    ) -> None:
        self._parts = parts
        self._definition = definition
        self._command = command
        self._on_return = on_return
        self._on_wait = on_wait
        self._task = asyncio.current_task()
        self._cancelled = _ActivityCancellationDetailsHolder()
        self._context = _Context(
            info=info,
            heartbeat=on_heartbeat,
            cancelled_event=cast(Any, _Cancelled())
            if definition.is_async
            else _CompositeEvent(threading.Event(), None),
            worker_shutdown_event=cast(Any, _NO_SHUTDOWN),
            shield_thread_cancel_exception=None,
            payload_converter_class_or_instance=parts.converter.data.payload_converter,
            runtime_metric_meter=common.MetricMeter.noop,
            client=None,
            cancellation_details=self._cancelled,
        )
        self.cancelled_by_request = False

    def cancel(self, details: activity.ActivityCancellationDetails) -> None:
        """Deliver a cancel; only the first has an effect."""
        self.cancelled_by_request = details.cancel_requested
        if self._cancelled.details is None:
            self._cancelled.details = details
            self._context.cancelled_event.set()
            cast(Any, self._task).cancel()

    async def __call__(self, args: Sequence[Any]) -> Any:
        """Run the function; what it raises is as it was raised."""
        # Whatever fails before its function runs is quicker than the functions that run beside it.
        await _next_turn()
        _set_context(self._context)
        impl: worker.ActivityInboundInterceptor = self
        for interceptor in reversed(self._parts.interceptors):
            impl = interceptor.intercept_activity(impl)
        definition, context = self._definition, self._context
        if impl is self:  # no interceptor has taken it
            return await self._call(definition.fn, args)
        impl.init(_Outbound(context.info, cast(Any, context).heartbeat))
        executor = None if definition.is_async else _executor
        return await impl.execute_activity(
            worker.ExecuteActivityInput(fn=definition.fn, args=args, executor=executor, headers=self._command.headers)
        )

    def init(self, outbound: worker.ActivityOutboundInterceptor) -> None:
        """Take what the interceptors have made of the outbound one."""
        context = self._context
        context.info = outbound.info
        context.heartbeat = outbound.heartbeat

    async def execute_activity(self, input: worker.ExecuteActivityInput) -> Any:
        """Call the function."""
        return await self._call(input.fn, input.args)

    async def _call(self, function: Callable[..., Any], args: Sequence[Any]) -> Any:
        definition = self._definition
        if definition.is_async if function is definition.fn else _is_async(function):
            result = await _watched(function(*args), self._on_wait)
        else:
            result = call_as_in_a_thread(function, *args)
        self._on_return()
        return result


class _NoShutdown:
    """The `_CompositeEvent` of a worker's shutdown, which never comes."""

    def is_set(self) -> bool:
        return False

    async def wait(self) -> None:
        await asyncio.Event().wait()

    def wait_sync(self, timeout: float | None = None) -> None:
        threading.Event().wait(timeout)


_NO_SHUTDOWN = _NoShutdown()


class _Cancelled:
    """A `_CompositeEvent` of an async activity. Its event of asyncio's is made when somebody waits, as few do."""

    def __init__(self) -> None:
        self._is_set = False
        self._event: asyncio.Event | None = None

    def set(self) -> None:
        self._is_set = True
        if self._event is not None:
            self._event.set()

    def is_set(self) -> bool:
        return self._is_set

    async def wait(self) -> None:
        if self._is_set:
            return
        self._event = self._event or asyncio.Event()
        await self._event.wait()

    def wait_sync(self, timeout: float | None = None) -> None:
        """Wait for nothing: this would block the loop."""


class _Outbound(worker.ActivityOutboundInterceptor):
    def __init__(self, info: Callable[[], activity.Info], heartbeat: Callable[..., None]) -> None:
        self._info = info
        self._heartbeat = heartbeat

    def info(self) -> activity.Info:
        return self._info()

    def heartbeat(self, *details: Any) -> None:
        self._heartbeat(*details)


@types.coroutine
def _next_turn() -> Generator[None, None, None]:
    yield  # as `asyncio.sleep(0)` does


def _is_async(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


@types.coroutine
def _watched(function: Any, on_wait: Callable[[object], Awaitable[object] | None]) -> Generator[Any, Any, Any]:
    """Await a function, and ask each time that it waits for something whether to wait for something else instead."""
    steps, error = function.__await__(), None
    while True:
        try:
            waits_for = steps.send(None) if error is None else steps.throw(error)
        except StopIteration as end:
            return end.value
        instead = on_wait(steps)
        if instead is not None:
            yield from instead.__await__()
        try:
            yield waits_for
            error = None
        except BaseException as caught:
            error = caught


class Once:
    """Makes the info of an attempt when that is first asked for; `functools.cache` takes longer than this saves."""

    def __init__(self, make: Callable[[], activity.Info]) -> None:
        self._make = make
        self._info: activity.Info | None = None

    def __call__(self) -> activity.Info:
        if self._info is None:
            self._info = self._make()
        return self._info


def activity_info(**fields: Any) -> activity.Info:
    """Return the info of an activity's attempt."""
    info = object.__new__(activity.Info)
    # Its own `__init__` sets each of thirty fields by a call, since it is frozen; that takes long, for each attempt.
    info.__dict__.update(_INFO_TEMPLATE.__dict__, **fields)
    return info


def priority_of(priority: Any) -> common.Priority:
    """Return the priority that a command gives."""
    return common.Priority._from_proto(priority)


def activity_args(decoder: Converter, definition: ActivityDefinition, payloads: Sequence[Payload]) -> list[Any]:
    """Return the arguments for an activity's function."""
    if not definition.name:
        return [decoder.decode(payloads, [common.RawValue] * len(payloads))]
    return decoder.decode(payloads, definition.arg_types)


def completes_async(error: BaseException) -> bool:
    """Tell whether an activity wants to be completed by a client, later."""
    return isinstance(error, _CompleteAsyncError)


_check()
