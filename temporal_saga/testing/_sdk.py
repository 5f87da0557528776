# pyright: reportPrivateUsage=false
"""The one module that touches what the SDK keeps to itself; the rest of the simulator goes through here.

It makes the workflow instance that a worker would make, feeds it activations, converts payloads and failures as a
worker and a client do, and runs an activity behind its interceptors. Ways and names were read in temporalio 1.35;
`_check` says which version came in between, should they change.
"""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from typing import Any, cast

import temporalio.service
from temporalio import activity, client, common, converter, exceptions, testing, worker, workflow
from temporalio.api.common.v1 import Payload, Payloads, SearchAttributes
from temporalio.api.failure.v1 import Failure

from ._clock import call_as_in_a_thread, new_loop, running_loop
from ._errors import SimulationError, UnsupportedError

MADE_FOR = "1.35"
BUG_TYPE = "temporal_saga.testing.bug"
CANCEL_SCOPE = "temporal_saga_testing_cancel_scope"

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
    """What a plugin that asks for the worker's client is given: it has no interceptors of its own."""

    def config(self, *, active_config: bool = False) -> dict[str, Any]:
        return {}


@dataclasses.dataclass(frozen=True)
class WorkerParts:
    """The workflows, activities and options that a worker would have, its plugins' included."""

    workflows: Mapping[str | None, WorkflowDefinition]
    activities: Mapping[str | None, ActivityDefinition]
    interceptors: Sequence[worker.Interceptor]
    runner: worker.WorkflowRunner
    failure_exception_types: Sequence[type[BaseException]]
    converter: Converter
    task_queue: str
    shutdown: _CompositeEvent
    """Of the worker; it never comes."""

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
    simulate_bugs: bool,
    simulate_cancelled_scopes: bool,
) -> WorkerParts:
    """Do with the options what a client and its worker do, the plugins' turns included."""
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
    for plugin in plugins:
        if isinstance(plugin, client.Plugin):
            client_config = plugin.configure_client(client_config)
        if isinstance(plugin, worker.Plugin):
            config = plugin.configure_worker(config)
    data_converter = client_config.get("data_converter") or data_converter
    if simulate_bugs:
        bugs = _with_bugs(data_converter.failure_converter_class)
        data_converter = dataclasses.replace(data_converter, failure_converter_class=bugs)
    if data_converter.external_storage is not None:
        raise UnsupportedError("a data converter with external storage cannot be simulated: leave external_storage out")
    if config.get("nexus_service_handlers"):
        raise UnsupportedError("Nexus services cannot be simulated")
    chain: list[worker.Interceptor] = list(config.get("interceptors") or ())
    if simulate_cancelled_scopes:
        chain.append(_CancelScopes())
    runner = config.get("workflow_runner") or runner
    runner.set_worker_level_failure_exception_types(config.get("workflow_failure_exception_types") or [])
    by_class = {each: WorkflowDefinition.must_from_class(each) for each in config.get("workflows") or ()}
    with running_loop(cast(asyncio.AbstractEventLoop, _Loop())):
        for definition in by_class.values():
            if definition.sandboxed:
                runner.prepare_workflow(definition)
    find: Any = ActivityDefinition
    by_function: list[ActivityDefinition] = [find.must_from_callable(each) for each in config.get("activities") or ()]
    names = [each.name for each in by_function]
    if twice := sorted({str(name) for name in names if names.count(name) > 1}):
        raise ValueError(f"more than one activity named {', '.join(twice)}")
    return WorkerParts(
        workflows={each.name: each for each in by_class.values()},
        activities={each.name: each for each in by_function},
        interceptors=chain,
        runner=runner,
        failure_exception_types=config.get("workflow_failure_exception_types") or [],
        converter=Converter(data_converter),
        task_queue=task_queue,
        shutdown=_CompositeEvent(threading.Event(), asyncio.Event()),
    )


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
        raise RuntimeError(f"{query!r} is no @workflow.query")
    return definition.name, definition.ret_type


def update_name(update: str | Callable[..., Any]) -> tuple[str, type | None]:
    """Return the name of an update, which may be given as its handler, and its result type if known."""
    if isinstance(update, str):
        return update, None
    definition: Any = getattr(update, "_defn", None)
    if definition is None:
        raise RuntimeError(f"{update!r} is no @workflow.update")
    return definition.name, definition.ret_type


# --- payloads and failures ----------------------------------------------------------------------


_PROBE = converter.WorkflowSerializationContext(namespace="default", workflow_id="probe")


class Converter:
    """A data converter without `await`: a payload codec, if there is one, runs to its end on a loop of its own."""

    def __init__(self, data_converter: converter.DataConverter) -> None:
        self.data = data_converter
        self.has_codec: bool = data_converter.payload_codec is not None
        self._knows_contexts = data_converter.with_context(_PROBE) is not data_converter

    def of_workflow(self, workflow_id: str) -> Converter:
        """Return the converter for what belongs to a workflow."""
        if not self._knows_contexts:
            return self
        context = converter.WorkflowSerializationContext(namespace="default", workflow_id=workflow_id)
        return Converter(self.data.with_context(context))

    def of_activity(self, info: activity.Info, task_queue: str) -> Converter:
        """Return the converter for what belongs to an activity."""
        if not self._knows_contexts:
            return self
        context = converter.ActivitySerializationContext(
            namespace="default",
            workflow_id=info.workflow_id,
            workflow_type=info.workflow_type,
            activity_type=info.activity_type,
            activity_id=info.activity_id,
            activity_task_queue=task_queue,
            is_local=False,
        )
        return Converter(self.data.with_context(context))

    def encode(self, values: Sequence[Any]) -> Sequence[Payload]:
        """Return the values as payloads."""
        if self.has_codec:
            encoded: list[Payload] = complete(self.data.encode(values))
            return encoded
        return self.data.payload_converter.to_payloads(values)

    def decode(self, payloads: Sequence[Payload], types: list[Any] | None = None) -> list[Any]:
        """Return the values behind payloads; the types count only if there are as many."""
        if types is not None and len(types) != len(payloads):
            types = None
        if not payloads:
            return []
        if self.has_codec:
            decoded: list[Any] = complete(self.data.decode(payloads, types))
            return decoded
        return self.data.payload_converter.from_payloads(payloads, types)

    def to_failure(self, error: BaseException) -> Failure:
        """Return the error as it travels."""
        failure = Failure()
        if self.has_codec:
            complete(self.data.encode_failure(error, failure))
        else:
            self.data.failure_converter.to_failure(error, self.data.payload_converter, failure)
        return failure

    def to_exception(self, failure: Failure) -> BaseException:
        """Return the error that comes out at the other end."""
        if self.has_codec:
            copy = Failure()
            copy.CopyFrom(failure)
            error: BaseException = complete(self.data.decode_failure(copy))
            return error
        return self.data.failure_converter.from_failure(failure, self.data.payload_converter)

    def plain(self, payloads: Sequence[Payload]) -> list[Any]:
        """Return the values behind payloads that no codec has encoded."""
        return self.data.payload_converter.from_payloads(payloads)

    def plain_exception(self, failure: Failure) -> BaseException:
        """Return the error behind a failure that no codec has encoded."""
        return self.data.failure_converter.from_failure(failure, self.data.payload_converter)


def complete(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine to its end at once, outside of whatever runs now."""
    return new_loop().run_until_complete(coroutine)


@lru_cache(maxsize=64)
def _with_bugs(base: Any) -> type[converter.FailureConverter]:
    class WithBugs(base):  # type: ignore[misc]
        """Turns the failure that marks a bug into the error that the bug would raise in workflow code."""

        def from_failure(self, failure: Failure, payload_converter: converter.PayloadConverter) -> BaseException:
            if failure.application_failure_info.type == BUG_TYPE:
                return TypeError("simulated bug")
            above: Any = super()
            error: BaseException = above.from_failure(failure, payload_converter)
            return error

    return WithBugs


# --- a workflow's instance ----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class RunStart:
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
    memo: Mapping[str, Payload] = dataclasses.field(default_factory=dict[str, Payload])
    search_attributes: SearchAttributes = dataclasses.field(default_factory=SearchAttributes)
    headers: Mapping[str, Payload] = dataclasses.field(default_factory=dict[str, Payload])
    execution_timeout: timedelta | None = None
    run_timeout: timedelta | None = None
    task_timeout: timedelta = timedelta(seconds=10)
    retry_policy: common.RetryPolicy | None = None
    last_failure: Failure | None = None
    priority: common.Priority = common.Priority.default

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
                raw_memo=dict(start.memo) if not parts.converter.has_codec else _decoded(parts.converter, start.memo),
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
            patch_activation_callback=None,
            last_completion_result=Payloads(),
            last_failure=start.last_failure,
        )
        runner = parts.runner if definition.sandboxed else worker.UnsandboxedWorkflowRunner()
        # The SDK hangs its runtime on the loop that runs while it makes an instance.
        with running_loop(cast(asyncio.AbstractEventLoop, _Loop())):
            self._instance = runner.create_instance(details)

    def activate(
        self, request: WorkflowActivation, *, decoded: bool = False
    ) -> tuple[WorkflowActivationCompletion, WorkflowActivationCompletion]:
        """Deliver an activation.

        Args:
            request: Jobs with payloads as they travel; decoded in place.
            decoded: Whether that was done before: a replay.

        Returns:
            What the workflow answered, as it made it and as it travels: the two are one without a codec.
        """
        plain = self._parts.converter.has_codec
        try:
            if plain and not decoded:
                self._visit(decode_activation, request)
            with running_loop(None):
                completion = self._instance.activate(request)
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
        """Return what answers a query, or None; of a sandboxed workflow it cannot be told."""
        definition = getattr(self._instance, "_queries", {}).get(name)
        return None if definition is None else definition.fn

    @property
    def is_sandboxed(self) -> bool:
        """Whether the workflow runs in a sandbox."""
        return not hasattr(self._instance, "_queries")

    def evict(self) -> None:
        """Take the workflow out of memory as a worker does, so that none of its tasks is destroyed while pending.

        Raises:
            SimulationError: If tasks remain: the workflow cannot be evicted.
        """
        tasks = getattr(self._instance, "_tasks", None)
        if tasks is not None and not tasks:
            return
        request = WorkflowActivation(run_id=self._start.run_id, is_replaying=True)
        request.jobs.add().remove_from_cache.message = "simulation"
        try:
            with running_loop(None):
                self._instance.activate(request)
        except RuntimeError as error:
            raise SimulationError(f"the workflow cannot be evicted from a worker's cache: {error}") from error


def _allow(_name: str) -> None:
    """Any local activity: its command is refused."""


class _Loop:
    """What an instance is made on: the SDK only hangs an attribute on it."""


def _decoded(converter: Converter, payloads: Mapping[str, Payload]) -> dict[str, Payload]:
    codec: Any = converter.data.payload_codec
    return {key: complete(codec.decode([payload]))[0] for key, payload in payloads.items()}


def memo_of(converter: Converter, memo: Mapping[str, Any]) -> dict[str, Payload]:
    """Return a memo as it travels."""
    return {key: converter.encode([value])[0] for key, value in memo.items()}


def search_attributes_of(attributes: common.TypedSearchAttributes | Mapping[str, Any] | None) -> SearchAttributes:
    """Return search attributes as they travel."""
    result = SearchAttributes()
    if attributes:
        converter.encode_search_attributes(cast(Any, attributes), result)
    return result


@contextmanager
def quiet() -> Generator[None, None, None]:
    """Silence the SDK's log of a task failure that a plan brings about."""
    log = logging.getLogger("temporalio.worker._workflow_instance")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


# --- cancelling a scope -------------------------------------------------------------------------


class _CancelScopes(worker.Interceptor):
    """Adds a signal that cancels the task inside of the innermost open saga: a signal, so that replays repeat it."""

    def workflow_interceptor_class(
        self, input: worker.WorkflowInterceptorClassInput
    ) -> type[worker.WorkflowInboundInterceptor]:
        return _CancelScope


class _CancelScope(worker.WorkflowInboundInterceptor):
    async def execute_workflow(self, input: worker.ExecuteWorkflowInput) -> Any:
        main = asyncio.current_task()
        cancelled: list[Any] = []

        def cancel_scope() -> None:
            registry: Any = cast(Any, workflow).get_query_handler("saga_report")
            open_sagas: Any = getattr(registry, "open_sagas", list)
            owners = [saga._owner for saga in open_sagas() if saga._owner is not None and not saga._owner.done()]
            task = owners[-1] if owners else main
            assert task is not None
            cancelled.append(task)
            task.cancel()

        cast(Any, workflow).set_signal_handler(CANCEL_SCOPE, cancel_scope)
        try:
            return await self.next.execute_workflow(input)
        except asyncio.CancelledError:
            if main not in cancelled or workflow.cancellation_reason() is not None:
                raise
        # `asyncio.timeout` and its like turn the cancel that they cause into an error of their own.
        raise exceptions.ApplicationError("the scope was cancelled", type="SimulatedTimeout", non_retryable=True)


# --- activities ---------------------------------------------------------------------------------

# What a sync activity's interceptors see; inline it runs all the same, so this never has a thread.
_executor = ThreadPoolExecutor(max_workers=1)


_INFO_TEMPLATE = testing.ActivityEnvironment.default_info()


class ActivityRun:
    """One call of an activity's function, in this task, behind the interceptors and in the context of a worker."""

    def __init__(
        self,
        parts: WorkerParts,
        definition: ActivityDefinition,
        info: activity.Info,
        headers: Mapping[str, Payload],
        on_heartbeat: Callable[..., None],
        on_return: Callable[[], None],
    ) -> None:
        self._parts = parts
        self._definition = definition
        self._headers = headers
        self._outbound = _Outbound(info, on_heartbeat)
        self._on_return = on_return
        self._task = asyncio.current_task()
        self._cancelled = _ActivityCancellationDetailsHolder()
        self._context = _Context(
            info=self._outbound.info,
            heartbeat=on_heartbeat,
            cancelled_event=_CompositeEvent(threading.Event(), asyncio.Event() if definition.is_async else None),
            worker_shutdown_event=parts.shutdown,
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
        await asyncio.sleep(0)
        cast(Any, _Context).set(self._context)
        impl: worker.ActivityInboundInterceptor = _Innermost(self._on_return)
        for interceptor in reversed(self._parts.interceptors):
            impl = interceptor.intercept_activity(impl)
        impl.init(self._outbound)
        return await impl.execute_activity(
            worker.ExecuteActivityInput(
                fn=cast(Any, self._definition).fn,
                args=args,
                executor=None if self._definition.is_async else _executor,
                headers=self._headers,
            )
        )


class _Outbound(worker.ActivityOutboundInterceptor):
    def __init__(self, info: activity.Info, heartbeat: Callable[..., None]) -> None:
        self._info = info
        self._heartbeat = heartbeat

    def info(self) -> activity.Info:
        return self._info

    def heartbeat(self, *details: Any) -> None:
        self._heartbeat(*details)


class _Innermost(worker.ActivityInboundInterceptor):
    def __init__(self, on_return: Callable[[], None]) -> None:
        self._on_return = on_return

    def init(self, outbound: worker.ActivityOutboundInterceptor) -> None:
        context = _Context.current()
        context.info = outbound.info
        context.heartbeat = outbound.heartbeat

    async def execute_activity(self, input: worker.ExecuteActivityInput) -> Any:
        call = type(input.fn).__call__
        if inspect.iscoroutinefunction(input.fn) or inspect.iscoroutinefunction(call):
            result = await input.fn(*input.args)
        else:
            result = call_as_in_a_thread(input.fn, *input.args)
        self._on_return()
        return result


def activity_info(**fields: Any) -> activity.Info:
    """Return the info of an activity's attempt."""
    info = object.__new__(activity.Info)
    # Its own `__init__` sets each of thirty fields by a call, since it is frozen; that takes long, for each attempt.
    info.__dict__.update(_INFO_TEMPLATE.__dict__, **fields)
    return info


def priority_of(priority: Any) -> common.Priority:
    """Return the priority that a command gives."""
    return common.Priority._from_proto(priority)


def activity_args(converter: Converter, definition: ActivityDefinition, payloads: Sequence[Payload]) -> list[Any]:
    """Return the arguments for an activity's function."""
    if not definition.name:
        return [converter.decode(payloads, [common.RawValue] * len(payloads))]
    return converter.decode(payloads, definition.arg_types)


def completes_async(error: BaseException) -> bool:
    """Tell whether an activity wants to be completed by a client, later."""
    return isinstance(error, _CompleteAsyncError)


def utc(time: datetime) -> datetime:
    """Return a time as one in UTC; one without a zone is taken for that."""
    return time.replace(tzinfo=timezone.utc) if time.tzinfo is None else time.astimezone(timezone.utc)


_check()
