# pyright: reportPrivateUsage=false
"""One run of a workflow: what happens to it becomes a job, its commands make more happen.

Each job is delivered in an activation of its own, in the order in which things happened. Core's own answers come in the
same workflow task: an activity that is cancelled in the one that scheduled it never leaves the worker, and so on.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from temporalio import common
from temporalio.api.common.v1 import Payload, RetryPolicy, SearchAttributes
from temporalio.api.enums.v1 import RetryState, TimeoutType
from temporalio.api.failure.v1 import Failure
from temporalio.bridge.proto.activity_result import ActivityResolution
from temporalio.bridge.proto.workflow_activation import (
    FireTimer,
    ResolveActivity,
    ResolveRequestCancelExternalWorkflow,
    ResolveSignalExternalWorkflow,
    WorkflowActivation,
    WorkflowActivationJob,
)
from temporalio.bridge.proto.workflow_commands import WorkflowCommand

from ._activities import ActivityTask, abandons, bug_resolution, waits
from ._children import Children
from ._errors import SimulationError, UnsupportedError
from ._faults import ActivationFault
from ._history import Activation, as_replayed, comparable, readable
from ._jobs import Job, Update
from ._retries import reason, retry_delay, seconds
from ._sdk import CANCEL_SCOPE, Instance, RunStart
from ._trace import Call, CallState

if TYPE_CHECKING:
    from ._server import Execution, Server

Status = Literal["running", "completed", "failed", "cancelled", "terminated", "timed out", "continued as new"]

_UNSUPPORTED = {
    "schedule_local_activity": "a local activity",
    "request_cancel_local_activity": "a local activity",
    "schedule_nexus_operation": "a Nexus operation",
    "request_cancel_nexus_operation": "a Nexus operation",
}


@dataclasses.dataclass(eq=False)
class Timer:
    """A timer of a workflow."""

    delay: float
    handle: asyncio.TimerHandle | None = None
    job: Job | None = None


class Run:
    """One run of a workflow."""

    def __init__(self, execution: Execution, start: RunStart) -> None:
        self.execution = execution
        self.server: Server = execution.server
        self.start = start
        self.status: Status = "running"
        self.result: Payload | None = None
        self.failure: Failure | None = None
        self.close_details: Any = None
        self.activations: list[Activation] = []
        self.task: int = 0
        self.events: int = 1  # the start
        self.began: bool = False
        self.task_failures: list[str] = []
        self.memo: dict[str, Payload] = dict(start.memo)
        self.search_attributes: SearchAttributes = SearchAttributes()
        self.search_attributes.CopyFrom(start.search_attributes)
        self.activities: dict[int, ActivityTask] = {}
        self.timers: dict[int, Timer] = {}
        self.children: Children = Children(self)
        self.updates: dict[str, Update] = {}
        self.on_begin: list[Callable[[], None]] = []
        self.cancel_requested: bool = False
        self.instance: Instance = self._new_instance()
        self._left: list[ActivityTask] = []  # the server runs these on, unknown to the workflow
        self._queue: deque[Job] = deque()
        self.at_once: list[Job] = []
        self._failing: list[Job] = []
        self._flags: set[int] = set()
        self._pumping = False
        self._timeout: asyncio.TimerHandle | None = None

    def _new_instance(self) -> Instance:
        return Instance(self.server.parts, self.start)

    # --- jobs in ---

    def begin(self) -> None:
        """Make the first workflow task."""
        if self.status != "running":
            return
        start, server = self.start, self.server
        if start.run_timeout:
            self._timeout = server.loop.call_later(start.run_timeout.total_seconds(), self._time_out)
        self.began = True
        self.record("started", start.workflow_type, "" if start.attempt == 1 else f"attempt {start.attempt}")
        self._queue.appendleft(Job(start.job(), events=0))
        self._wake()

    def enqueue(self, job: Job) -> None:
        """Take a job; it is delivered in its turn."""
        if self.status != "running":
            if job.dropped:
                job.dropped()
            return
        self._queue.append(job)
        if self.began:
            self._wake()

    def _wake(self) -> None:
        if not self._pumping:
            self._pumping = True
            self.server.loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._pumping = False
        while self._queue and self._queue[0].revoked:
            self._queue.popleft()
        if self.status != "running" or not self._queue:
            return
        jobs = [self._queue.popleft()]
        # A message is never lost: what has arrived before a workflow task begins is in it, and cannot miss its end.
        jobs += [job for job in self._queue if job.is_message]
        self._queue = deque(job for job in self._queue if not job.is_message)
        if not self.activations:  # a fault in front of the first activation comes in it
            jobs += self._jobs_of(self._faults())
        jobs += self._jobs_of(self._faults(inside=True))
        self._deliver(jobs)
        if self._queue:
            self._wake()

    def _inject_if_due(self) -> None:
        """Let the faults come that are due in front of the next activation."""
        if self.status != "running" or not self.server.faults.due(self.server.activation + 1):
            return
        faults = self._faults()
        if any(fault.kind == "restart" for fault in faults):
            self.record("restart", "worker")
            self.restart()
        if jobs := self._jobs_of(faults):
            self._deliver(jobs)

    def _faults(self, *, inside: bool = False) -> list[ActivationFault]:
        if not self.execution.is_main:
            return []
        return self.server.faults.take(self.server.activation + 1, inside=inside)

    def _jobs_of(self, faults: Sequence[ActivationFault]) -> list[Job]:
        jobs: list[Job] = []
        for fault in faults:
            if fault.kind in ("cancel", "cancel_with"):
                job = self.cancel_job("")
                if job is not None:
                    jobs.append(dataclasses.replace(job, kind=fault.kind))
            elif fault.kind == "cancel_scope":
                jobs.append(self.signal_job(CANCEL_SCOPE, (), kind="cancel_scope", label="scope"))
            elif fault.kind == "signal":
                jobs.append(self.signal_job(fault.name, self._encode(fault.args)))
            elif fault.kind == "update":
                jobs.append(self.update_job(f"fault-{fault.at}-{fault.name}", fault.name, self._encode(fault.args)))
        return jobs

    def _encode(self, args: Sequence[Any]) -> Sequence[Payload]:
        return self.server.parts.converter.of_workflow(self.start.workflow_id).encode(args)

    def cancel_job(self, reason: str) -> Job | None:
        """Return the job of the workflow's cancellation, or None if that was requested before."""
        self.execution.cancel_requested = True
        if self.cancel_requested:
            return None
        self.cancel_requested = True
        proto = WorkflowActivationJob()
        proto.cancel_workflow.reason = reason
        return Job(proto, kind="cancel", label="workflow")

    def signal_job(
        self,
        name: str,
        args: Sequence[Payload],
        headers: Mapping[str, Payload] | None = None,
        *,
        kind: str = "signal",
        label: str = "",
    ) -> Job:
        """Return the job of a signal."""
        proto = WorkflowActivationJob()
        proto.signal_workflow.signal_name = name
        proto.signal_workflow.originating_event_id = self.events + 1
        proto.signal_workflow.input.extend(args)
        for key, value in (headers or {}).items():
            proto.signal_workflow.headers[key].CopyFrom(value)
        return Job(proto, kind=kind, label=label or name)

    def update_job(self, update_id: str, name: str, args: Sequence[Payload]) -> Job:
        """Return the job of an update, whose fate `updates` will tell."""
        loop = self.server.loop
        state = self.updates[update_id] = Update(loop.create_future(), loop.create_future())
        for future in (state.accepted, state.completed):
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
        proto = WorkflowActivationJob()
        proto.do_update.id = proto.do_update.protocol_instance_id = update_id
        proto.do_update.name = name
        proto.do_update.input.extend(args)
        proto.do_update.run_validator = True
        return Job(proto, events=0, kind="update", label=name, dropped=lambda: self._drop_update(state))

    def _drop_update(self, state: Update) -> None:
        for future in (state.accepted, state.completed):
            if not future.done():
                future.set_exception(SimulationError("the workflow has closed before the update ended"))

    def resolve_activity(
        self, task: ActivityTask, state: CallState, resolution: ActivityResolution, *, events: int, bug: bool
    ) -> None:
        """An activity has ended on the server."""
        seq = task.command.seq
        if task in self._left:
            self._left.remove(task)
        if self.activities.get(seq) is not task:
            self.record(state.replace(" ", "_"), task.call.label, "the workflow does not wait for it")
            return
        del self.activities[seq]
        task.call.state = state
        if state != "timed out":  # which was told when it happened
            self.record(
                state,
                task.call.label,
                _reason(resolution),
                attempt=task.call.attempts[-1].number if task.call.attempts else None,
            )
        proto = WorkflowActivationJob(resolve_activity=ResolveActivity(seq=seq, result=resolution))
        job = Job(proto, events=events, delivered=lambda: self.note_resolved(task.call))
        if bug:
            self.record("bug", task.call.label, "the await of it raises TypeError")
            marked = WorkflowActivationJob(resolve_activity=ResolveActivity(seq=seq, result=bug_resolution()))
            job = dataclasses.replace(job, proto=marked, instead=proto)
        self.enqueue(job)

    def note_resolved(self, call: Call) -> None:
        """The workflow has learnt of the end of a call."""
        call.resolved_at = self.server.activation

    # --- an activation ---

    def _deliver(self, jobs: list[Job]) -> None:
        jobs = [*self._failing, *jobs]
        if self._failing:
            self._failing = []
            self.restart()
        self.task += 1
        for job in jobs:
            self.events += job.events
            if job.numbered:
                job.numbered(self.events)
            if job.kind:
                self.record(job.kind, job.label)
        self.events += 2  # the workflow task scheduled and started
        first = len(self.activations)
        pending = jobs
        while pending and self.status == "running":
            failed = self._activate(pending)
            for job in pending:
                if job.delivered:
                    job.delivered()
                    job.delivered = None
            if failed:
                del self.activations[first:]
                self._task_failed(jobs, failed)
                return
            pending, self.at_once = self.at_once, []
        self.at_once = []
        begun, self.on_begin = self.on_begin, []
        for callback in begun:
            callback()
        if self.execution.is_main and self.status == "running":
            # Behind the begin of what has been scheduled, before any of it runs.
            self.server.loop.call_soon(self._inject_if_due)

    def _activate(self, jobs: Sequence[Job]) -> Failure | None:
        """Deliver one activation; return the failure of the workflow task, if it failed."""
        server = self.server
        if self.execution.is_main:
            server.activation += 1
        server.activations += 1
        if server.activations > server.max_activations:
            server.fail(
                SimulationError(f"no end after {server.max_activations} activations: does the workflow loop for ever?")
            )
        request = WorkflowActivation(
            run_id=self.start.run_id,
            history_length=self.events,
            jobs=[job.proto for job in jobs],
            available_internal_flags=sorted(self._flags),
        )
        request.timestamp.FromNanoseconds(server.nanoseconds())
        completion, travels = self.instance.activate(request)
        self.activations.append(Activation(request, completion, self.task))
        if completion.HasField("failed"):
            return completion.failed.failure
        self._flags.update(completion.successful.used_internal_flags)
        self.events += 1  # the workflow task completed
        for command in travels.successful.commands:
            if self.status != "running":
                break
            self._take(command)
        return None

    def _task_failed(self, jobs: Sequence[Job], failure: Failure) -> None:
        message = f"{failure.application_failure_info.type}: {failure.message}"
        self.task_failures.append(message)
        self.server.task_failures.append(message)
        self.record("task_failed", self.start.workflow_type, message)
        self.events += 1
        self._failing = list(jobs)
        is_bug = any(job.instead for job in jobs)
        for job in jobs:
            if job.instead is not None:
                job.proto, job.instead = job.instead, None
            job.kind, job.events = "", 0
        # A bug is mended by the next deployment; else the server tries again, for ever: here once.
        if is_bug or len(self.task_failures) == 1:
            self.server.loop.call_soon(self._try_again)

    def _try_again(self) -> None:
        if self._failing and self.status == "running":
            self._deliver([])

    # --- commands out ---

    def _take(self, command: WorkflowCommand) -> None:
        kind = command.WhichOneof("variant") or ""
        if kind in _UNSUPPORTED:
            self.server.fail(UnsupportedError(f"{_UNSUPPORTED[kind]} cannot be simulated: run it on a real server"))
        handler = _COMMANDS.get(kind)
        if handler is None:
            self.server.fail(UnsupportedError(f"the command {kind!r} cannot be simulated"))
        handler(self, getattr(command, kind))

    def _schedule_activity(self, command: Any) -> None:
        if any(task.activity_id == command.activity_id for task in self.activities.values()):
            self.server.fail(
                SimulationError(
                    f"the workflow schedules an activity with the id {command.activity_id!r} while one is pending: the "
                    "server refuses that, and the workflow task fails for ever"
                )
            )
        self.events += 1
        call = self.server.new_call("activity", command.activity_type, command.activity_id, self)
        task = ActivityTask(self, command, call, self.events)
        self.activities[command.seq] = task
        self.record("scheduled", call.label)
        task.schedule()

    def _request_cancel_activity(self, command: Any) -> None:
        task = self.activities.get(command.seq)
        if task is None:  # it has ended meanwhile
            return
        if task.task == self.task:
            task.sent = False
            self.server.forget_call(task.call)
            task.drop()
            self._end_activity_at_once(task)
            return
        if abandons(task.command):
            self._end_activity_at_once(task)
            self._left.append(task)
            return
        self.events += 1
        if not waits(task.command):
            self._end_activity_at_once(task)
            self._left.append(task)
        task.request_cancel()

    def _end_activity_at_once(self, task: ActivityTask) -> None:
        del self.activities[task.command.seq]
        task.call.state = "cancelled"
        self.record("cancelled", task.call.label, "never sent" if not task.sent else "not waited for")
        resolution = ActivityResolution()
        resolution.cancelled.failure.CopyFrom(task.failure_of_core())
        resolve = ResolveActivity(seq=task.command.seq, result=resolution)
        self.at_once.append(Job(WorkflowActivationJob(resolve_activity=resolve), events=0))

    def _start_timer(self, command: Any) -> None:
        self.events += 1
        delay = seconds(command.start_to_fire_timeout)
        timer = self.timers[command.seq] = Timer(delay)
        self.record("timer_started", str(timedelta(seconds=delay)))
        timer.handle = self.server.loop.call_later(delay, self._fire, command.seq)

    def _fire(self, seq: int) -> None:
        timer = self.timers[seq]
        self.record("timer_fired", str(timedelta(seconds=timer.delay)))
        job = timer.job = Job(WorkflowActivationJob(fire_timer=FireTimer(seq=seq)))
        job.delivered = functools.partial(self._forget_timer, seq)
        self.enqueue(job)

    def _forget_timer(self, seq: int) -> None:
        self.timers.pop(seq, None)

    def _cancel_timer(self, command: Any) -> None:
        timer = self.timers.pop(command.seq, None)
        if timer is None:
            return
        self.events += 1
        self.record("timer_cancelled", str(timedelta(seconds=timer.delay)))
        if timer.handle:
            timer.handle.cancel()
        if timer.job:
            timer.job.revoked = True

    def _complete(self, command: Any) -> None:
        self.result = command.result
        self._close("completed")

    def _fail(self, command: Any) -> None:
        self.failure = command.failure
        self._end_badly("failed", command.failure)

    def _cancel(self, command: Any) -> None:
        self._close("cancelled")

    def _end_badly(self, status: Status, failure: Failure) -> None:
        policy = self.start.retry_policy
        if policy is None:
            self.execution.retry_state = RetryState.RETRY_STATE_RETRY_POLICY_NOT_SET
        else:
            left = None if self.execution.expires is None else self.execution.expires - self.server.time()
            proto = RetryPolicy()
            policy.apply_to_proto(proto)
            delay, final = retry_delay(proto, self.start.attempt, failure, left, of_workflow=True)
            self.execution.retry_state = final or RetryState.RETRY_STATE_IN_PROGRESS
            if final is None:
                again = dataclasses.replace(self.start, attempt=self.start.attempt + 1, last_failure=failure)
                self._continue(status, again, delay)
                return
        self._close(status)

    def _continue_as_new(self, command: Any) -> None:
        start = self.start
        policy = command.retry_policy if command.HasField("retry_policy") else None
        again = dataclasses.replace(
            start,
            definition=self.server.definition(command.workflow_type or start.workflow_type),
            workflow_type=command.workflow_type or start.workflow_type,
            args=list(command.arguments),
            attempt=1,
            task_queue=command.task_queue or start.task_queue,
            run_timeout=command.workflow_run_timeout.ToTimedelta() or start.run_timeout,
            task_timeout=command.workflow_task_timeout.ToTimedelta() or start.task_timeout,
            memo=dict(command.memo) or self.memo,
            search_attributes=command.search_attributes
            if command.HasField("search_attributes")
            else self.search_attributes,
            headers=dict(command.headers),
            retry_policy=common.RetryPolicy.from_proto(policy) if policy else start.retry_policy,
            last_failure=None,
        )
        self._continue("continued as new", again, seconds(command.backoff_start_interval))

    def _continue(self, status: Status, again: RunStart, delay: float) -> None:
        execution, server = self.execution, self.server
        self.record("continued", again.workflow_type, status)
        self._close(status, final=False)
        run_id, seed = server.new_run(again.workflow_id)
        execution.start_run(
            dataclasses.replace(
                again, run_id=run_id, continued_run_id=self.start.run_id, started=server.date(server.time()), seed=seed
            ),
            delay=delay,
        )

    def _start_child(self, command: Any) -> None:
        self.children.start(command)

    def _cancel_child(self, command: Any) -> None:
        self.children.cancel(command)

    def _signal_external(self, command: Any) -> None:
        self.events += 1
        if command.HasField("child_workflow_id") or command.WhichOneof("target") == "child_workflow_id":
            workflow_id, run_id = command.child_workflow_id, ""
        else:
            workflow_id, run_id = command.workflow_execution.workflow_id, command.workflow_execution.run_id
        self.server.loop.call_soon(self._signal_external_now, command, workflow_id, run_id)

    def _signal_external_now(self, command: Any, workflow_id: str, run_id: str) -> None:
        resolve = ResolveSignalExternalWorkflow(seq=command.seq)
        target = self.server.open_run(workflow_id, run_id)
        if target is None:
            resolve.failure.CopyFrom(_not_found("signal", "it was not found"))
        else:
            target.enqueue(target.signal_job(command.signal_name, command.args, command.headers))
        self.enqueue(Job(WorkflowActivationJob(resolve_signal_external_workflow=resolve)))

    def _cancel_external(self, command: Any) -> None:
        self.events += 1
        self.server.loop.call_soon(self._cancel_external_now, command)

    def _cancel_external_now(self, command: Any) -> None:
        resolve = ResolveRequestCancelExternalWorkflow(seq=command.seq)
        where = command.workflow_execution
        target = self.server.open_run(where.workflow_id, where.run_id)
        if target is None:
            resolve.failure.CopyFrom(_not_found("cancel", "not found"))
        else:
            self.server.request_cancel(target.execution, command.reason)
        self.enqueue(Job(WorkflowActivationJob(resolve_request_cancel_external_workflow=resolve)))

    def _upsert_search_attributes(self, command: Any) -> None:
        self.events += 1
        for key, payload in command.search_attributes.indexed_fields.items():
            self.search_attributes.indexed_fields[key].CopyFrom(payload)

    def _modify_properties(self, command: Any) -> None:
        self.events += 1
        for key, payload in command.upserted_memo.fields.items():
            self.memo[key] = payload

    def _patch(self, command: Any) -> None:
        self.events += 1

    def _update_response(self, command: Any) -> None:
        state = self.updates[command.protocol_instance_id]
        if command.HasField("accepted"):
            self.events += 1
            state.accepted.set_result(None)
            return
        answer = command.rejected if command.HasField("rejected") else command.completed
        self.record(
            "update_ended", command.protocol_instance_id, "failed" if command.HasField("rejected") else "completed"
        )
        if state.accepted.done():
            self.events += 1
        else:
            state.accepted.set_result(None)
        state.completed.set_result(answer)

    def _nothing(self, command: Any) -> None:
        """Nothing to do: the signal has been sent."""

    # --- the end ---

    def _close(self, status: Status, *, final: bool = True) -> None:
        self.status = status
        self.events += 1
        if self._timeout:
            self._timeout.cancel()
        if final:
            self.record("closed", self.start.workflow_type, status)
        for task in (*self.activities.values(), *self._left):
            task.drop()
        for timer in self.timers.values():
            if timer.handle:
                timer.handle.cancel()
        for job in self._queue:
            if job.dropped:
                job.dropped()
        self._queue.clear()
        for state in self.updates.values():
            self._drop_update(state)
        self.children.close()
        if final:
            self.server.loop.call_soon(self.execution.closed)

    def terminate(self, reason: str) -> None:
        """End the run at once: none of its code runs any more."""
        if self.status == "running":
            self.close_details = reason
            self._close("terminated")

    def _time_out(self) -> None:
        if self.status != "running":
            return
        failure = Failure(message="workflow timeout")
        failure.timeout_failure_info.timeout_type = TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE
        self._end_badly("timed out", failure)

    def expire(self) -> None:
        """The execution timeout has passed."""
        if self.status == "running":
            self.execution.retry_state = RetryState.RETRY_STATE_TIMEOUT
            self._close("timed out")

    # --- replay ---

    def restart(self) -> None:
        """Carry on on a fresh instance, brought up to here by a replay."""
        self.instance.evict()
        self.instance = self._new_instance()
        difference = self._replay_on(self.instance)
        if difference is not None:
            self.server.differences.append(difference)

    def check_replay(self) -> str | None:
        """Replay the whole history on a fresh instance; return where its commands differ, or None."""
        instance = self._new_instance()
        try:
            return self._replay_on(instance)
        finally:
            instance.evict()

    def _replay_on(self, instance: Instance) -> str | None:
        for number, (done, request, expected) in enumerate(as_replayed(self.activations), 1):
            completion, _ = instance.activate(request, decoded=True)
            if comparable(completion) != expected:
                parts = self.server.parts
                before = self.activations[: self.activations.index(done)]
                return (
                    f"activation {number} of {self.start.workflow_id!r} gave "
                    f"{readable([*before, done], parts)[-1]}, and replayed "
                    f"{readable([*before, Activation(done.request, completion, done.task)], parts)[-1]}"
                )
        return None

    # --- looking ---

    def record(self, kind: str, label: str, detail: str = "", *, attempt: int | None = None) -> None:
        """Note an event; of a child, with its name."""
        if not self.execution.is_main:
            detail = f"{detail} ({self.start.workflow_id})".strip()
        self.server.record(kind, label, detail, attempt=attempt)

    @property
    def waits_for(self) -> str:
        """What an open run waits for, for people."""
        if self._failing:
            return f"its workflow task, which fails for ever: {self.task_failures[-1]}"
        things = [task.waits_for for task in self.activities.values()]
        things += [f"child workflow {child.command.workflow_id!r}" for child in self.children.pending.values()]
        things += [f"a timer of {timedelta(seconds=timer.delay)}" for timer in self.timers.values()]
        things = things or ["a condition, or a signal or update that never comes"]
        return " and ".join(things)


_COMMANDS: dict[str, Callable[[Run, Any], None]] = {
    "schedule_activity": Run._schedule_activity,
    "request_cancel_activity": Run._request_cancel_activity,
    "start_timer": Run._start_timer,
    "cancel_timer": Run._cancel_timer,
    "complete_workflow_execution": Run._complete,
    "fail_workflow_execution": Run._fail,
    "cancel_workflow_execution": Run._cancel,
    "continue_as_new_workflow_execution": Run._continue_as_new,
    "start_child_workflow_execution": Run._start_child,
    "cancel_child_workflow_execution": Run._cancel_child,
    "signal_external_workflow_execution": Run._signal_external,
    "request_cancel_external_workflow_execution": Run._cancel_external,
    "upsert_workflow_search_attributes": Run._upsert_search_attributes,
    "modify_workflow_properties": Run._modify_properties,
    "set_patch_marker": Run._patch,
    "update_response": Run._update_response,
    "cancel_signal_workflow": Run._nothing,
}


def _not_found(what: str, why: str) -> Failure:
    failure = Failure(message=f"Unable to {what} external workflow because {why}")
    failure.application_failure_info.type = "ExternalWorkflowExecutionNotFound"
    return failure


def _reason(resolution: ActivityResolution) -> str:
    if not resolution.HasField("failed"):
        return ""
    return reason(resolution.failed.failure.cause)
