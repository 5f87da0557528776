"""Runs a workflow in this process, on the SDK's own workflow event loop, without a server.

A :class:`Run` plays the part of Temporal's Core: it feeds activations by hand to the instance that
a worker would use, and shows the commands that come back. One run takes about a millisecond::

    run = Run(MoneyTransfer, Transfer(100)).start()
    assert run.names == ["withdraw"]  # activities pending, oldest first
    run.activate(completed("withdraw", "receipt"))
    run.activate(failed("deposit", ApplicationError("closed", type="Closed")))
    run.activate(completed("return_withdrawal"))
    assert run.error.type == "Closed"
    run.check()  # replays to the same commands; can be evicted after every activation

* ``activate(*events)`` delivers all its events in ONE activation, in the order given (within the
  groups that the SDK makes: signals and updates first). It returns the commands as tuples:
  ``("schedule_activity", activity_id, type, args)``, ``("request_cancel_activity", activity_id)``,
  ``("start_timer", seconds)``, ``("cancel_timer", seconds)``, ``("start_child", id, type, args)``,
  ``("cancel_child", id)``, ``("complete", result)``, ``("fail", error)``, ``("cancel",)``,
  ``("continue_as_new", args)``, ``("update_accepted", id)``, ``("update_rejected", id, error)``,
  ``("update_completed", id, result)``, ``("task_failed", type, message)``; ``run.commands`` has
  those of the whole run.
* Events: :func:`completed`, :func:`failed`, :func:`timed_out`, :func:`cancelled`, :func:`timer`,
  :func:`cancel`, :func:`signal`, :func:`update`, :func:`child_started`,
  :func:`child_already_started`, :func:`child_completed`, :func:`child_failed`,
  :func:`child_cancelled`, :func:`reset`. The name they take is an activity id, an activity type, or the
  beginning of an id up to a colon (``"withdraw:undo"``); of several the oldest is meant. Children
  go by workflow id, workflow type or the beginning of an id in the same way.
* As in Core, an activity or child that is cancelled in the workflow task that scheduled it
  resolves at once as cancelled and never existed (``Activity.sent`` is False), and so does one
  with ``TRY_CANCEL`` or ``ABANDON`` at any time. One with ``WAIT_CANCELLATION_COMPLETED`` waits
  for the test: ``cancelled(...)``, or any other end.
* ``autopilot(behaviours)`` runs to the end: ``{"deposit": ApplicationError("x"), "b": HANG}``.
* ``advance(timedelta)`` moves the clock, ``query(name)`` asks, ``restart()`` carries on in a new
  worker from the history so far, also with other code: ``restart(FixedWorkflow)``.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import dataclasses
import logging
import os
import random
import sys
import uuid
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from functools import cached_property
from typing import Any, TypeVar, cast

import temporalio.api.common.v1
import temporalio.bridge.proto.activity_result as activity_result
import temporalio.bridge.proto.child_workflow as child_workflow
import temporalio.bridge.proto.workflow_commands as commands_proto
import temporalio.exceptions
import temporalio.service
from temporalio.api.failure.v1 import Failure
from temporalio.bridge.proto.workflow_activation import (
    FireTimer,
    InitializeWorkflow,
    QueryWorkflow,
    RemoveFromCache,
    ResolveActivity,
    ResolveChildWorkflowExecution,
    ResolveChildWorkflowExecutionStart,
    WorkflowActivation,
    WorkflowActivationJob,
)
from temporalio.bridge.proto.workflow_commands import WorkflowCommand
from temporalio.bridge.proto.workflow_completion import WorkflowActivationCompletion
from temporalio.common import MetricMeter, Priority, TypedSearchAttributes
from temporalio.converter import DataConverter
from temporalio.exceptions import CancelledError, TimeoutType
from temporalio.worker import (
    Interceptor,
    Plugin,
    ReplayerConfig,
    UnsandboxedWorkflowRunner,
    WorkflowInboundInterceptor,
    WorkflowInstance,
    WorkflowInstanceDetails,
    WorkflowInterceptorClassInput,
    WorkflowRunner,
)
from temporalio.workflow import Info, _Definition

from temporal_saga._seed import seed_of

Command = tuple[Any, ...]
Event = Callable[["Run"], WorkflowActivationJob]

# temporalio 1.34 cannot evict a run while it waits for an activity whose cancellation it has
# requested: "tasks remain", for ever. `_ActivityHandle._request_cancel` of 1.35 can.
_EVICTS_WHILE_CANCELLING = tuple(map(int, temporalio.service.__version__.split(".")[:2])) >= (1, 35)

# The SDK flag PROCESS_WORKFLOW_ACTIVATION_JOBS_AS_SINGLE_BATCH: off in 1.35, to be switched on.
SINGLE_BATCH = 2


class Hang:
    """The type of :data:`HANG`."""


HANG = Hang()
"""As a behaviour: never ends by itself, and ends cancelled once its cancellation is requested."""


class _Loop:
    """What an instance is created on: the SDK only hangs an attribute on it."""


@dataclasses.dataclass(eq=False)
class Activity:
    """An activity that the workflow scheduled."""

    seq: int
    command: commands_proto.ScheduleActivity
    task: int
    """The number of the workflow task that scheduled it."""
    converter: DataConverter = dataclasses.field(repr=False)
    cancel_requested: bool = False
    sent: bool = True
    """False if it was cancelled before the worker told the server about it."""

    @property
    def id(self) -> str:
        return self.command.activity_id

    @property
    def name(self) -> str:
        return self.command.activity_type

    @property
    def args(self) -> list[Any]:
        return _decode(self.converter, self.command.arguments)


@dataclasses.dataclass(eq=False)
class Child:
    """A child workflow that the workflow started."""

    seq: int
    command: commands_proto.StartChildWorkflowExecution
    task: int
    converter: DataConverter = dataclasses.field(repr=False)
    started: bool = False
    cancel_requested: bool = False
    sent: bool = True

    @property
    def id(self) -> str:
        return self.command.workflow_id

    @property
    def name(self) -> str:
        return self.command.workflow_type

    @property
    def args(self) -> list[Any]:
        return _decode(self.converter, self.command.input)


@dataclasses.dataclass(eq=False)
class Timer:
    """A timer that the workflow started."""

    seq: int
    delay: timedelta
    due: datetime


@dataclasses.dataclass(eq=False)
class Activation:
    """One activation and what the workflow answered."""

    request: WorkflowActivation
    completion: WorkflowActivationCompletion
    task: int
    run_reference: weakref.ref[Run] = dataclasses.field(repr=False)  # a circle would leave the run to the collector
    evictable: bool = True

    @property
    def run(self) -> Run:
        """The run that it belongs to."""
        run = self.run_reference()
        assert run is not None, "the run is gone"
        return run

    @property
    def protos(self) -> Sequence[WorkflowCommand]:
        """The commands as the SDK made them."""
        return self.completion.successful.commands

    @cached_property
    def commands(self) -> list[Command]:
        """The commands in a form that a test can compare."""
        if self.completion.HasField("failed"):
            failure = self.completion.failed.failure
            return [("task_failed", failure.application_failure_info.type, failure.message)]
        return [self.run._readable(command) for command in self.protos]

    @property
    def failed(self) -> bool:
        """Whether the workflow task failed."""
        return self.completion.HasField("failed")


_Pending = TypeVar("_Pending", Activity, Child)


# --- events -------------------------------------------------------------------------------------


def completed(name: str, result: Any = None) -> Event:
    """The activity returned ``result``."""

    def job(run: Run) -> WorkflowActivationJob:
        resolution = activity_result.ActivityResolution()
        resolution.completed.result.CopyFrom(run._encode([result])[0])
        return run._resolve(name, resolution)

    return job


def failed(name: str, error: BaseException) -> Event:
    """The activity failed for good: its last attempt raised ``error``."""

    def job(run: Run) -> WorkflowActivationJob:
        resolution = activity_result.ActivityResolution()
        activity = run.activity(name)
        resolution.failed.failure.CopyFrom(run._activity_failure(activity, "Activity task failed", error))
        return run._resolve(name, resolution)

    return job


def timed_out(
    name: str, kind: TimeoutType = TimeoutType.START_TO_CLOSE, *, cause: BaseException | None = None
) -> Event:
    """The server timed the activity out; ``cause`` is the failure of its last attempt, if any."""

    def job(run: Run) -> WorkflowActivationJob:
        error = temporalio.exceptions.TimeoutError(
            f"activity {kind.name} timeout", type=kind, last_heartbeat_details=[]
        )
        error.__cause__ = cause
        resolution = activity_result.ActivityResolution()
        activity = run.activity(name)
        # An activity that never started, or is in backoff, has no started event.
        started = kind is not TimeoutType.SCHEDULE_TO_START
        resolution.failed.failure.CopyFrom(
            run._activity_failure(activity, "Activity task timed out", error, started=started)
        )
        return run._resolve(name, resolution)

    return job


def cancelled(name: str, *, started: bool = True) -> Event:
    """The activity accepted its cancellation; ``started=False``: no worker had it in hand."""

    def job(run: Run) -> WorkflowActivationJob:
        return run._resolve(name, run._cancelled(run.activity(name), started=started))

    return job


def timer() -> Event:
    """The next timer that is due fires; the clock moves to it."""

    def job(run: Run) -> WorkflowActivationJob:
        assert run.timers, "no timer is pending"
        due = min(run.timers, key=lambda timer: (timer.due, timer.seq))
        run.timers.remove(due)
        run.now = max(run.now, due.due)
        return WorkflowActivationJob(fire_timer=FireTimer(seq=due.seq))

    return job


def cancel(reason: str = "") -> Event:
    """The workflow's cancellation is requested."""

    def job(run: Run) -> WorkflowActivationJob:
        result = WorkflowActivationJob()
        result.cancel_workflow.reason = reason
        return result

    return job


def reset(run_id: str = "another-run") -> Event:
    """The run goes on behind the point that it was reset to, which made it the run of that id."""

    def job(run: Run) -> WorkflowActivationJob:
        result = WorkflowActivationJob()
        result.update_random_seed.randomness_seed = seed_of(run_id)
        return result

    return job


def signal(name: str, *args: Any) -> Event:
    """A signal arrives."""

    def job(run: Run) -> WorkflowActivationJob:
        result = WorkflowActivationJob()
        result.signal_workflow.signal_name = name
        result.signal_workflow.originating_event_id = run._history_length
        result.signal_workflow.input.extend(run._encode(args))
        return result

    return job


def update(name: str, *args: Any, update_id: str = "") -> Event:
    """An update arrives. Its id, shown in the commands, is by default its name."""

    def job(run: Run) -> WorkflowActivationJob:
        result = WorkflowActivationJob()
        result.do_update.id = result.do_update.protocol_instance_id = update_id or name
        result.do_update.name = name
        result.do_update.input.extend(run._encode(args))
        result.do_update.run_validator = True
        return result

    return job


def child_started(name: str) -> Event:
    """The child workflow started."""

    def job(run: Run) -> WorkflowActivationJob:
        child = _find(run.children, name)
        child.started = True
        start = ResolveChildWorkflowExecutionStart(seq=child.seq)
        start.succeeded.run_id = str(uuid.uuid5(uuid.NAMESPACE_OID, child.id))
        return WorkflowActivationJob(resolve_child_workflow_execution_start=start)

    return job


def child_already_started(name: str) -> Event:
    """The child workflow did not start: a workflow of its id exists."""

    def job(run: Run) -> WorkflowActivationJob:
        child = _find(run.children, name)
        run.children.remove(child)
        start = ResolveChildWorkflowExecutionStart(seq=child.seq)
        start.failed.workflow_id = child.id
        start.failed.workflow_type = child.name
        start.failed.cause = child_workflow.StartChildWorkflowExecutionFailedCause.Value(
            "START_CHILD_WORKFLOW_EXECUTION_FAILED_CAUSE_WORKFLOW_ALREADY_EXISTS"
        )
        return WorkflowActivationJob(resolve_child_workflow_execution_start=start)

    return job


def child_completed(name: str, result: Any = None) -> Event:
    """The child workflow returned ``result``."""

    def job(run: Run) -> WorkflowActivationJob:
        resolution = child_workflow.ChildWorkflowResult()
        resolution.completed.result.CopyFrom(run._encode([result])[0])
        return run._resolve_child(name, resolution)

    return job


def child_failed(name: str, error: BaseException) -> Event:
    """The child workflow failed with ``error``."""

    def job(run: Run) -> WorkflowActivationJob:
        resolution = child_workflow.ChildWorkflowResult()
        resolution.failed.failure.CopyFrom(
            run._child_failure(_find(run.children, name), "Child Workflow execution failed", error)
        )
        return run._resolve_child(name, resolution)

    return job


def child_cancelled(name: str) -> Event:
    """The child workflow ended cancelled."""

    def job(run: Run) -> WorkflowActivationJob:
        return run._resolve_child(name, run._cancelled_child(_find(run.children, name)))

    return job


# --- the run ------------------------------------------------------------------------------------


class Run:
    """One run of a workflow; see the module for how to drive it."""

    def __init__(
        self,
        workflow: type[Any],
        *args: Any,
        workflow_id: str = "workflow-id",
        run_id: str | None = None,
        original_execution_run_id: str | None = None,
        continued_run_id: str | None = None,
        runner: WorkflowRunner | None = None,
        interceptors: Sequence[Interceptor] = (),
        plugins: Sequence[Plugin] = (),
        data_converter: DataConverter = DataConverter.default,
        failure_exception_types: Sequence[type[BaseException]] = (),
        single_batch: bool = False,
        metric_meter: MetricMeter = MetricMeter.noop,
    ) -> None:
        """Prepare a run; :meth:`start` delivers its first activation.

        Args:
            workflow: The workflow class.
            args: The workflow's arguments.
            workflow_id: Workflow id.
            run_id: Run id; a new UUID unless given.
            original_execution_run_id: Differs from the run id after a reset.
            continued_run_id: The run that continued as this one.
            runner: How to run workflow code; unsandboxed unless given.
            interceptors: The worker's.
            plugins: The worker's; asked for interceptors, runner, converter and failure types.
            data_converter: The worker's.
            failure_exception_types: The worker's.
            single_batch: Whether the SDK applies all jobs of an activation before it runs code.
            metric_meter: Where metrics go.
        """
        self.workflow_id = workflow_id
        self.run_id = run_id or str(uuid.UUID(int=random.getrandbits(128), version=4))
        self.original_execution_run_id = original_execution_run_id or self.run_id
        self.continued_run_id = continued_run_id
        self.workflow = workflow
        # A plugin configures a Replayer without a client, and as it would a Worker.
        config = ReplayerConfig(
            interceptors=interceptors,
            workflow_runner=runner or UnsandboxedWorkflowRunner(),
            data_converter=data_converter,
            workflow_failure_exception_types=failure_exception_types,
        )
        for plugin in plugins:
            config = plugin.configure_replayer(config)
        self._config = config
        self.data_converter = config.get("data_converter") or data_converter
        self.single_batch = single_batch
        self.metric_meter = metric_meter
        self._args = args

        self.now = datetime(2030, 1, 1, tzinfo=timezone.utc)
        self.activations: list[Activation] = []
        self.activities: list[Activity] = []
        self.scheduled: list[Activity] = []
        self.children: list[Child] = []
        self.timers: list[Timer] = []
        self.closed: Command | None = None
        self.task_failure: Command | None = None
        self._at_once: list[WorkflowActivationJob] = []
        self._task = 0
        self._flags: set[int] = set()
        self._history_length = 0
        self._instance = self._new_instance(workflow)

    # --- driving ---

    def start(self, *events: Event) -> Run:
        """Deliver the first activation, together with ``events``."""

        def initialize(run: Run) -> WorkflowActivationJob:
            job = InitializeWorkflow(
                workflow_type=_Definition.must_from_class(run.workflow).name or "",
                workflow_id=run.workflow_id,
                arguments=run._encode(run._args),
                randomness_seed=seed_of(run.original_execution_run_id),
                attempt=1,
                original_execution_run_id=run.original_execution_run_id,
                first_execution_run_id=run.run_id,
            )
            return WorkflowActivationJob(initialize_workflow=job)

        self.activate(initialize, *events)
        return self

    def activate(self, *events: Event, same_task: bool = False, history_length: int | None = None) -> list[Command]:
        """Deliver ``events`` in one activation, and what Core answers by itself after it.

        Args:
            events: What happened, in order.
            same_task: Whether this activation belongs to the last workflow task still, so that
                history is as long as in the last one.
            history_length: The length to tell; it grows by itself otherwise.

        Returns:
            The commands that came back.
        """
        assert self.task_failure is None, f"restart() first: {self.task_failure}"
        assert self.closed is None, f"the run has closed: {self.closed}"
        first = len(self.activations)
        jobs = [event(self) for event in events]
        if not same_task:
            self._task += 1
            emitted = len(self.activations[-1].protos) if self.activations else 0
            self._history_length += len(jobs) + emitted + 3
        if history_length is not None:
            self._history_length = history_length
        self._deliver(jobs)
        return [command for done in self.activations[first:] for command in done.commands]

    def advance(self, duration: timedelta) -> list[Command]:
        """Move the clock; timers that become due fire one by one, each in its own activation."""
        end = self.now + duration
        result = []
        while self.closed is None and any(timer.due <= end for timer in self.timers):
            result += self.activate(timer())
        self.now = end
        return result

    def query(self, name: str, *args: Any) -> Any:
        """Ask, as a client does between two workflow tasks. It leaves no trace."""
        job = QueryWorkflow(query_id="query", query_type=name, arguments=self._encode(args))
        request = self._request([WorkflowActivationJob(query_workflow=job)])
        completion = _activate(self._instance, request)
        assert not completion.HasField("failed"), completion.failed.failure.message
        (command,) = completion.successful.commands
        answer = command.respond_to_query
        if answer.HasField("failed"):
            raise self._exception(answer.failed)
        return self._decode([answer.succeeded.response])[0]

    def workflow_object(self) -> Any:
        """Return the workflow's object, for what a failed workflow task can no longer be asked; not in the sandbox."""
        instance: Any = self._instance
        return instance._object

    def autopilot(self, behaviours: Mapping[str, Any], *, cancel_at: Collection[int] = (), limit: int = 10_000) -> Run:
        """Drive the run to its end; activities (oldest first) before timers.

        Args:
            behaviours: What each activity and child does, by id, by type or by the beginning of
                an id: its result, an exception that it raises, :data:`HANG`, or a function of the
                :class:`Activity` or :class:`Child` that returns or raises one of these.
                What is not in the table returns None.
            cancel_at: Before which activations the workflow's cancellation is requested;
                0 is the first, and gets it in the same activation.
            limit: More activations than this are taken for an endless run.

        Returns:
            This run, closed or with a failed workflow task.
        """
        if not self.activations:
            self.start(*([cancel()] if 0 in cancel_at else []))
        while self.closed is None and self.task_failure is None:
            assert len(self.activations) < limit, f"no end after {limit} activations"
            if len(self.activations) in cancel_at:
                cancel_at = set(cancel_at) - {len(self.activations)}
                self.activate(cancel())
                continue
            self.activate(self._next(behaviours))
        return self

    def restart(self, workflow: type[Any] | None = None) -> Run:
        """Carry on in a new worker from the history so far, also with other code.

        A workflow task that failed is not in history: the new worker gets it again.
        """
        self.evict()
        self.workflow = workflow or self.workflow
        again: list[WorkflowActivationJob] = []
        if self.task_failure is not None:
            task = self._task
            first = next(i for i, done in enumerate(self.activations) if done.task == task)
            again = list(self.activations[first].request.jobs)
            del self.activations[first:]
        history, self.activations = self.activations, []
        self.activities, self.scheduled, self.children, self.timers = [], [], [], []
        self.closed = self.task_failure = None
        self._flags = set()
        self._instance = self._new_instance(self.workflow)
        for done, request, expected in _as_replayed(history):
            self.now, self._task = request.timestamp.ToDatetime(timezone.utc), done.task
            for job in request.jobs:
                self._forget(job)
            completion = _activate(self._instance, request)
            assert _comparable(completion) == expected, self._difference(done, completion)
            self.activations.append(done)
            self._take(completion)
        self._at_once = []
        if again:
            for job in again:
                self._forget(job)
            self._deliver(again)
        return self

    # --- looking ---

    @property
    def commands(self) -> list[Command]:
        """All commands so far."""
        return [command for activation in self.activations for command in activation.commands]

    @property
    def names(self) -> list[str]:
        """The types of the activities that are pending, oldest first."""
        return [activity.name for activity in self.activities]

    @property
    def history(self) -> list[str]:
        """The types of all activities that left the worker, in the order of their commands."""
        return [activity.name for activity in self.scheduled if activity.sent]

    def activity(self, name: str) -> Activity:
        """The pending activity of that id, type, or beginning of an id."""
        return _find(self.activities, name)

    def child(self, name: str) -> Child:
        """The pending child of that id, type, or beginning of an id."""
        return _find(self.children, name)

    @property
    def result(self) -> Any:
        """What the workflow returned."""
        assert self.closed is not None, self._state()
        assert self.closed[0] == "complete", self._state()
        return self.closed[1]

    @property
    def error(self) -> Any:
        """The exception that the workflow failed with, as a client gets it, causes included."""
        assert self.closed is not None, self._state()
        assert self.closed[0] == "fail", self._state()
        return self.closed[1]

    @property
    def was_cancelled(self) -> bool:
        """Whether the run ended Cancelled."""
        return self.closed == ("cancel",)

    # --- replay and eviction ---

    def check(self) -> None:
        """The run replays, with the single batch flag too, and can be evicted at every point."""
        self.replay()
        self.replay(single_batch=True)
        for count in range(len(self.activations) + 1):
            self.evict_copy(count)

    def replay(
        self,
        workflow: type[Any] | None = None,
        *,
        runner: WorkflowRunner | None = None,
        single_batch: bool | None = None,
    ) -> None:
        """Feed the recorded activations to a new instance, and compare the commands.

        Args:
            workflow: Other code for the same history.
            runner: Another way to run it, for instance in the sandbox.
            single_batch: With that SDK flag on or off; as the run had it unless given.
        """
        instance = self._new_instance(workflow or self.workflow, runner)
        try:
            for done, request, expected in _as_replayed(self.activations, single_batch):
                with _logged() as log:
                    completion = _activate(instance, request)
                assert _comparable(completion) == expected, self._difference(done, completion)
                # The SDK itself logs that a workflow task failed.
                assert done.failed or not log.records, f"logged during replay: {log.records}"
        finally:
            _abandoned.append(instance)

    def evict_copy(self, count: int) -> None:
        """Replay ``count`` activations on a new instance, then evict that."""
        if count and not self.activations[count - 1].evictable:
            return
        instance = self._new_instance(self.workflow)
        for _, request, _ in _as_replayed(self.activations[:count]):
            _activate(instance, request)
        _evict(instance, self.run_id)

    def evict(self) -> None:
        """Evict the run from the worker's cache; :meth:`restart` brings it back."""
        _evict(self._instance, self.run_id)

    def __del__(self) -> None:
        # An instance dropped with tasks in it would have them destroyed: asyncio logs that, and
        # their coroutines would run on, in whatever is going on then.
        if hasattr(self, "_instance"):
            _abandoned.append(self._instance)

    # --- inside ---

    def _new_instance(self, workflow: type[Any], runner: WorkflowRunner | None = None) -> WorkflowInstance:
        _sweep()
        extern_functions: dict[str, Callable[..., Any]] = {}
        interceptor_classes: list[type[WorkflowInboundInterceptor]] = []
        for interceptor in self._config.get("interceptors") or ():
            interceptor_class = interceptor.workflow_interceptor_class(
                WorkflowInterceptorClassInput(unsafe_extern_functions=extern_functions)
            )
            if interceptor_class:
                interceptor_classes.append(interceptor_class)
        meter = self.metric_meter  # not `self`: the SDK's instance must not keep the run, or it is collected late
        extern_functions["__temporal_get_metric_meter"] = lambda: meter
        extern_functions["__temporal_assert_local_activity_valid"] = lambda _name: None
        definition = _Definition.must_from_class(workflow)
        details = WorkflowInstanceDetails(
            payload_converter_factory=self.data_converter._new_payload_converter,
            failure_converter_class=self.data_converter.failure_converter_class,
            interceptor_classes=interceptor_classes,
            defn=definition,
            info=Info(
                attempt=1,
                continued_run_id=self.continued_run_id,
                cron_schedule=None,
                execution_timeout=None,
                first_execution_run_id=self.run_id,
                headers={},
                namespace="default",
                original_execution_run_id=self.original_execution_run_id,
                parent=None,
                root=None,
                priority=Priority.default,
                raw_memo={},
                retry_policy=None,
                run_id=self.run_id,
                run_timeout=None,
                search_attributes={},
                start_time=datetime(2030, 1, 1, tzinfo=timezone.utc),
                task_queue="task-queue",
                task_timeout=timedelta(seconds=10),
                typed_search_attributes=TypedSearchAttributes.empty,
                workflow_id=self.workflow_id,
                workflow_start_time=datetime(2030, 1, 1, tzinfo=timezone.utc),
                workflow_type=definition.name or "",
            ),
            randomness_seed=seed_of(self.original_execution_run_id),
            extern_functions=extern_functions,
            disable_eager_activity_execution=True,
            worker_level_failure_exception_types=self._config.get("workflow_failure_exception_types") or [],
            patch_activation_callback=None,
            last_completion_result=temporalio.api.common.v1.Payloads(),
            last_failure=None,
        )
        runner = runner or self._config.get("workflow_runner") or UnsandboxedWorkflowRunner()
        with _running_loop(cast(asyncio.AbstractEventLoop, _Loop())):
            return runner.create_instance(details)

    def _request(self, jobs: Sequence[WorkflowActivationJob]) -> WorkflowActivation:
        flags = self._flags | ({SINGLE_BATCH} if self.single_batch else set())
        request = WorkflowActivation(
            run_id=self.run_id, history_length=self._history_length, jobs=jobs, available_internal_flags=sorted(flags)
        )
        request.timestamp.FromDatetime(self.now)
        return request

    def _deliver(self, jobs: Sequence[WorkflowActivationJob]) -> None:
        self._at_once = list(jobs)
        # Core resolves some cancellations by itself, within the workflow task.
        while self._at_once and self.closed is None:
            request = self._request(self._at_once)
            self._at_once = []
            completion = _activate(self._instance, request)
            self.activations.append(Activation(request, completion, self._task, weakref.ref(self)))
            self._take(completion)

    def _take(self, completion: WorkflowActivationCompletion) -> None:
        """Do with the commands what Core does."""
        activation = self.activations[-1]
        self._flags.update(_used_flags(activation))
        if activation.failed:
            (self.task_failure,) = activation.commands
            self._at_once = []
            return
        closing: int | None = None
        for position, command in enumerate(completion.successful.commands):
            kind = command.WhichOneof("variant")
            if kind == "schedule_activity":
                activity = Activity(
                    command.schedule_activity.seq, command.schedule_activity, self._task, self.data_converter
                )
                pending = {other.id for other in self.activities}
                assert activity.id not in pending, f"activity id {activity.id} is pending already"
                self.activities.append(activity)
                self.scheduled.append(activity)
            elif kind == "request_cancel_activity":
                self._cancel_activity(command.request_cancel_activity.seq)
            elif kind == "start_timer":
                delay = command.start_timer.start_to_fire_timeout.ToTimedelta()
                self.timers.append(Timer(command.start_timer.seq, delay, self.now + delay))
            elif kind == "cancel_timer":
                self.timers = [t for t in self.timers if t.seq != command.cancel_timer.seq]
            elif kind == "start_child_workflow_execution":
                start = command.start_child_workflow_execution
                self.children.append(Child(start.seq, start, self._task, self.data_converter))
            elif kind == "cancel_child_workflow_execution":
                self._cancel_child(command.cancel_child_workflow_execution.child_workflow_seq)
            elif kind in _CLOSING and closing is None:
                closing = position
        if closing is not None:
            # Not before: commands after it, of other tasks, can be read only now.
            self.closed = activation.commands[closing]
        activation.evictable = _EVICTS_WHILE_CANCELLING or not (
            self._at_once or any(activity.cancel_requested for activity in self.activities)
        )

    def _cancel_activity(self, seq: int) -> None:
        activity = next((a for a in self.activities if a.seq == seq), None)
        if activity is None:  # it ended meanwhile: Core ignores the request
            return
        activity.cancel_requested = True
        activity.sent = activity.task != self._task
        waits = activity.command.cancellation_type == _WAIT
        if not activity.sent or not waits:
            resolution = self._cancelled(activity, started=False)
            self._at_once.append(self._resolve(activity.id, resolution))

    def _cancel_child(self, seq: int) -> None:
        child = next((c for c in self.children if c.seq == seq), None)
        if child is None:
            return
        child.cancel_requested = True
        child.sent = child.task != self._task
        waits = child.command.cancellation_type in _CHILD_WAIT
        if not child.sent:
            self.children.remove(child)
            start = ResolveChildWorkflowExecutionStart(seq=seq)
            start.cancelled.failure.CopyFrom(
                self._child_failure(child, "Child Workflow Execution cancelled before scheduled")
            )
            self._at_once.append(WorkflowActivationJob(resolve_child_workflow_execution_start=start))
        elif not waits:
            assert child.started, "not driven: a child cancelled with TRY_CANCEL while it starts"
            self._at_once.append(self._resolve_child(child.id, self._cancelled_child(child)))

    def _next(self, behaviours: Mapping[str, Any]) -> Event:
        """What happens next to a run that nobody disturbs."""
        for activity in self.activities:
            outcome = _behaviour(behaviours, activity)
            if not isinstance(outcome, Hang):
                if isinstance(outcome, CancelledError):
                    return cancelled(activity.id)
                if isinstance(outcome, BaseException):
                    return failed(activity.id, outcome)
                return completed(activity.id, outcome)
            if activity.cancel_requested:
                return cancelled(activity.id)
        for child in self.children:
            if not child.started:
                return child_started(child.id)
            outcome = _behaviour(behaviours, child)
            if not isinstance(outcome, Hang):
                if isinstance(outcome, BaseException):
                    return child_failed(child.id, outcome)
                return child_completed(child.id, outcome)
            if child.cancel_requested:
                return child_cancelled(child.id)
        assert self.timers, f"the run waits for ever: {self._state()}"
        return timer()

    def _forget(self, job: WorkflowActivationJob) -> None:
        """Take out of the books what a recorded job had taken out."""
        if job.HasField("resolve_activity"):
            seq = job.resolve_activity.seq
            self.activities = [a for a in self.activities if a.seq != seq]
        elif job.HasField("fire_timer"):
            self.timers = [t for t in self.timers if t.seq != job.fire_timer.seq]
        elif job.HasField("resolve_child_workflow_execution"):
            seq = job.resolve_child_workflow_execution.seq
            self.children = [c for c in self.children if c.seq != seq]
        elif job.HasField("resolve_child_workflow_execution_start"):
            start = job.resolve_child_workflow_execution_start
            if start.HasField("succeeded"):
                next(c for c in self.children if c.seq == start.seq).started = True
            else:
                self.children = [c for c in self.children if c.seq != start.seq]

    def _resolve(self, name: str, resolution: activity_result.ActivityResolution) -> WorkflowActivationJob:
        activity = self.activity(name)
        self.activities.remove(activity)
        job = ResolveActivity(seq=activity.seq, result=resolution)
        return WorkflowActivationJob(resolve_activity=job)

    def _resolve_child(self, name: str, resolution: child_workflow.ChildWorkflowResult) -> WorkflowActivationJob:
        child = self.child(name)
        assert child.started, f"{child.name} has not started: child_started() first"
        self.children.remove(child)
        job = ResolveChildWorkflowExecution(seq=child.seq, result=resolution)
        return WorkflowActivationJob(resolve_child_workflow_execution=job)

    def _activity_failure(
        self, activity: Activity, message: str, cause: BaseException, *, started: bool = True
    ) -> Failure:
        failure = Failure(message=message)
        info = failure.activity_failure_info
        info.activity_id = activity.id
        info.activity_type.name = activity.name
        info.scheduled_event_id = 5
        info.started_event_id = 6 if started else 0
        self._to_failure(cause, failure.cause)
        return failure

    def _child_failure(self, child: Child, message: str, cause: BaseException | None = None) -> Failure:
        failure = Failure(message=message)
        info = failure.child_workflow_execution_failure_info
        info.namespace = "default"
        info.workflow_execution.workflow_id = child.id
        info.workflow_type.name = child.name
        self._to_failure(cause or CancelledError(), failure.cause)
        return failure

    def _cancelled(self, activity: Activity, *, started: bool) -> activity_result.ActivityResolution:
        resolution = activity_result.ActivityResolution()
        resolution.cancelled.failure.CopyFrom(
            self._activity_failure(activity, "Activity cancelled", CancelledError(), started=started)
        )
        return resolution

    def _cancelled_child(self, child: Child) -> child_workflow.ChildWorkflowResult:
        resolution = child_workflow.ChildWorkflowResult()
        resolution.cancelled.failure.CopyFrom(self._child_failure(child, "Child Workflow execution cancelled"))
        return resolution

    def _to_failure(self, error: BaseException, failure: Failure) -> None:
        self.data_converter.failure_converter.to_failure(error, self.data_converter.payload_converter, failure)

    def _exception(self, failure: Failure) -> BaseException:
        return self.data_converter.failure_converter.from_failure(failure, self.data_converter.payload_converter)

    def _encode(self, values: Sequence[Any]) -> Sequence[temporalio.api.common.v1.Payload]:
        return self.data_converter.payload_converter.to_payloads(values)

    def _decode(self, payloads: Sequence[temporalio.api.common.v1.Payload]) -> list[Any]:
        return _decode(self.data_converter, payloads)

    def _readable(self, command: WorkflowCommand) -> Command:
        kind = cast(str, command.WhichOneof("variant"))
        if kind == "schedule_activity":
            schedule = command.schedule_activity
            args = self._decode(schedule.arguments)
            return (kind, schedule.activity_id, schedule.activity_type, args)
        if kind == "request_cancel_activity":
            seq = command.request_cancel_activity.seq
            return (kind, next(a.id for a in self.scheduled if a.seq == seq))
        if kind == "start_timer":
            delay = command.start_timer.start_to_fire_timeout.ToTimedelta()
            return (kind, delay.total_seconds())
        if kind == "cancel_timer":
            started = (c.start_timer for a in self.activations for c in a.protos)
            seq = command.cancel_timer.seq
            delay = next(t for t in started if t.seq == seq).start_to_fire_timeout.ToTimedelta()
            return (kind, delay.total_seconds())
        if kind == "start_child_workflow_execution":
            start = command.start_child_workflow_execution
            return ("start_child", start.workflow_id, start.workflow_type, self._decode(start.input))
        if kind == "cancel_child_workflow_execution":
            seq = command.cancel_child_workflow_execution.child_workflow_seq
            children = (c.start_child_workflow_execution for a in self.activations for c in a.protos)
            return ("cancel_child", next(c for c in children if c.seq == seq).workflow_id)
        if kind == "complete_workflow_execution":
            return ("complete", self._decode([command.complete_workflow_execution.result])[0])
        if kind == "fail_workflow_execution":
            return ("fail", self._exception(command.fail_workflow_execution.failure))
        if kind == "cancel_workflow_execution":
            return ("cancel",)
        if kind == "continue_as_new_workflow_execution":
            again = command.continue_as_new_workflow_execution
            return ("continue_as_new", self._decode(again.arguments))
        if kind == "update_response":
            response = command.update_response
            update_id = response.protocol_instance_id
            if response.HasField("rejected"):
                return ("update_rejected", update_id, self._exception(response.rejected))
            if response.HasField("completed"):
                return ("update_completed", update_id, self._decode([response.completed])[0])
            return ("update_accepted", update_id)
        return (kind,)

    def _state(self) -> str:
        closed = self.closed or self.task_failure or "open"
        return f"{closed}; activities {self.names}, children {[c.name for c in self.children]}"

    def _difference(self, done: Activation, completion: WorkflowActivationCompletion) -> str:
        new = Activation(done.request, completion, done.task, weakref.ref(self))
        return f"workflow task {done.task} gave {done.commands}, and replayed {new.commands}"


_WAIT = commands_proto.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED
_CHILD_WAIT = (
    child_workflow.ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
    child_workflow.ChildWorkflowCancellationType.WAIT_CANCELLATION_REQUESTED,
)
_CLOSING = {
    "complete_workflow_execution",
    "fail_workflow_execution",
    "cancel_workflow_execution",
    "continue_as_new_workflow_execution",
}


def _find(pending: Sequence[_Pending], name: str) -> _Pending:
    for one in pending:
        if one.id == name:
            return one
    for one in pending:
        if one.name == name or one.id.startswith(f"{name}:"):
            return one
    raise LookupError(f"{name!r} is not pending, but {[(one.name, one.id) for one in pending]}")


def _behaviour(behaviours: Mapping[str, Any], pending: Activity | Child) -> Any:
    whole = pending.id
    keys = [whole, *(whole[:i] for i in range(len(whole)) if whole[i] == ":"), pending.name]
    outcome = next((behaviours[key] for key in keys if key in behaviours), None)
    if callable(outcome):
        try:
            return outcome(pending)
        except Exception as error:
            return error
    return outcome


def _decode(converter: DataConverter, payloads: Sequence[temporalio.api.common.v1.Payload]) -> list[Any]:
    return converter.payload_converter.from_payloads(payloads)


def _used_flags(done: Activation) -> Sequence[int]:
    return done.completion.successful.used_internal_flags


def _as_replayed(
    history: Sequence[Activation], single_batch: bool | None = None
) -> Iterator[tuple[Activation, WorkflowActivation, WorkflowActivationCompletion]]:
    """The activations that Core makes of this history, and what must come of them.

    Flags of the whole workflow task are known from its start on; an update has been validated,
    and one that was rejected is not in history.
    """
    flags: set[int] = set()
    for done in history:
        of_task = (other for other in history if other.task == done.task)
        flags.update(flag for other in of_task for flag in _used_flags(other))
        request = WorkflowActivation()
        request.CopyFrom(done.request)
        request.is_replaying = True
        flags.update(done.request.available_internal_flags)
        if single_batch is not None:
            (flags.add if single_batch else flags.discard)(SINGLE_BATCH)
        request.available_internal_flags[:] = sorted(flags)
        expected = _comparable(done.completion)
        accepted = {
            command.update_response.protocol_instance_id
            for command in done.protos
            if command.update_response.HasField("accepted")
        }
        jobs = []
        for job in done.request.jobs:
            if job.HasField("do_update"):
                if job.do_update.protocol_instance_id not in accepted and not done.failed:
                    continue
                replayed = WorkflowActivationJob()
                replayed.CopyFrom(job)
                replayed.do_update.run_validator = False
                job = replayed
            jobs.append(job)
        if len(jobs) != len(done.request.jobs):
            rejected = {
                job.do_update.protocol_instance_id for job in done.request.jobs if job.HasField("do_update")
            } - accepted
            kept = [
                command
                for command in expected.successful.commands
                if command.update_response.protocol_instance_id not in rejected
            ]
            del expected.successful.commands[:]
            expected.successful.commands.extend(kept)
            if not jobs:
                assert not kept, "a workflow task with nothing but a rejected update did something"
                continue
            del request.jobs[:]
            request.jobs.extend(jobs)
        yield done, request, expected


def _comparable(completion: WorkflowActivationCompletion) -> WorkflowActivationCompletion:
    """Without what may differ between a run and its replay: stack traces and flags used."""
    result = WorkflowActivationCompletion()
    result.CopyFrom(completion)
    del result.successful.used_internal_flags[:]
    failures = [result.failed.failure] if result.HasField("failed") else []
    for command in result.successful.commands:
        if command.HasField("fail_workflow_execution"):
            failures.append(command.fail_workflow_execution.failure)
        elif command.HasField("update_response") and command.update_response.HasField("rejected"):
            failures.append(command.update_response.rejected)
    for failure in failures:
        while True:
            failure.stack_trace = ""
            if not failure.HasField("cause"):
                break
            failure = failure.cause
    return result


@contextmanager
def _running_loop(loop: asyncio.AbstractEventLoop | None) -> Iterator[None]:
    before = asyncio._get_running_loop()
    asyncio._set_running_loop(loop)
    try:
        yield
    finally:
        asyncio._set_running_loop(before)


def _activate(instance: WorkflowInstance, request: WorkflowActivation) -> WorkflowActivationCompletion:
    # In a thread of its own, as in a worker. From Python 3.12 on, an error that a run keeps holds the frames of all its
    # callers. Those of a test hold its `Run`, which would be left to the collector.
    if sys.gettrace() is None:
        return _worker.submit(instance.activate, request).result()
    with _running_loop(None):  # a debugger, or a count of bytecodes, traces this thread
        return instance.activate(request)


def _start_worker() -> None:
    global _worker
    _worker = concurrent.futures.ThreadPoolExecutor(1, "worker")


_worker: concurrent.futures.ThreadPoolExecutor
_start_worker()
os.register_at_fork(after_in_child=_start_worker)  # a thread does not live on in a child


class _Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record.getMessage())


@contextmanager
def _logged() -> Iterator[_Records]:
    root, log = logging.getLogger(), _Records()
    level = root.level
    root.addHandler(log)
    root.setLevel(logging.INFO)
    try:
        yield log
    finally:
        root.setLevel(level)
        root.removeHandler(log)


def _evict(instance: WorkflowInstance, run_id: str) -> None:
    """Evict, and insist that nothing comes of it."""
    request = WorkflowActivation(run_id=run_id, is_replaying=True)
    request.jobs.add().remove_from_cache.CopyFrom(RemoveFromCache(message="test"))
    with _logged() as log:
        completion = _activate(instance, request)  # raises if tasks remain
    assert not completion.HasField("failed"), completion.failed.failure.message
    assert not completion.successful.commands, "commands during eviction"
    assert not log.records, f"logged during eviction: {log.records}"


_abandoned: list[WorkflowInstance] = []


@atexit.register
def _sweep() -> None:
    while _abandoned:
        request = WorkflowActivation(is_replaying=True)
        request.jobs.add().remove_from_cache.CopyFrom(RemoveFromCache(message="test"))
        try:
            _activate(_abandoned.pop(), request)
        except RuntimeError:
            # Tasks remain: evict() and check() are there to find that.
            continue
