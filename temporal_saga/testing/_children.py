# pyright: reportPrivateUsage=false
"""The child workflows of a run: their start, end and cancellation, and what becomes of them after their parent."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

from temporalio import common
from temporalio.api.enums.v1 import RetryState, TimeoutType
from temporalio.api.failure.v1 import Failure
from temporalio.bridge.proto.child_workflow import (
    ChildWorkflowCancellationType,
    ChildWorkflowResult,
    ParentClosePolicy,
    StartChildWorkflowExecutionFailedCause,
)
from temporalio.bridge.proto.workflow_activation import (
    ResolveChildWorkflowExecution,
    ResolveChildWorkflowExecutionStart,
    WorkflowActivationJob,
)
from temporalio.bridge.proto.workflow_commands import StartChildWorkflowExecution

from ._errors import UnsupportedError
from ._jobs import Job
from ._trace import Call, step_of

if TYPE_CHECKING:
    from ._run import Run
    from ._server import Execution, Server

_ALREADY_EXISTS = StartChildWorkflowExecutionFailedCause.Value(
    "START_CHILD_WORKFLOW_EXECUTION_FAILED_CAUSE_WORKFLOW_ALREADY_EXISTS"
)


@dataclasses.dataclass(eq=False)
class Child:
    """A child workflow, as its parent's run knows it."""

    seq: int
    command: StartChildWorkflowExecution
    task: int
    event: int
    call: Call | None = None
    execution: Execution | None = None
    started_event: int = 0
    cancel_requested: bool = False
    cancel_reason: str = ""


class Children:
    """The children that one run has started."""

    def __init__(self, run: Run) -> None:
        self.pending: dict[int, Child] = {}
        self._run = run
        self._server: Server = run.server
        self._abandoned: list[Child] = []

    def close(self) -> None:
        """The run has closed: apply the parent close policies."""
        for child in (*self.pending.values(), *self._abandoned):
            self._apply_close_policy(child)

    def start(self, command: Any) -> None:
        """Take the command that starts a child."""
        self._run.events += 1
        child = Child(command.seq, command, self._run.task, self._run.events)
        self.pending[command.seq] = child
        if command.cron_schedule:
            self._server.fail(UnsupportedError("a child workflow with a cron schedule cannot be simulated"))
        if step_of(command.workflow_id) is not None:
            child.call = self._server.new_call("child", command.workflow_type, command.workflow_id, self._run)
        self._run.record(
            "child_scheduled", child.call.label if child.call else command.workflow_type, command.workflow_id
        )
        self._server.loop.call_soon(self._start_now, child)

    def _start_now(self, child: Child) -> None:
        if self.pending.get(child.seq) is not child or self._run.status != "running":
            return
        server, command = self._server, child.command
        start = ResolveChildWorkflowExecutionStart(seq=child.seq)
        proto = WorkflowActivationJob(resolve_child_workflow_execution_start=start)
        existing = server.executions.get(command.workflow_id)
        if existing is not None and not server.may_reuse(existing, command.workflow_id_reuse_policy):
            del self.pending[child.seq]
            failed = proto.resolve_child_workflow_execution_start.failed
            failed.workflow_id, failed.workflow_type = command.workflow_id, command.workflow_type
            failed.cause = _ALREADY_EXISTS
            self._run.record("child_closed", command.workflow_type, "already started")
            if child.call:
                child.call.state = "failed"
            self._run.enqueue(Job(proto))
            return
        policy = common.RetryPolicy.from_proto(command.retry_policy) if command.HasField("retry_policy") else None
        root = self._run.start.root or (self._run.start.workflow_id, self._run.start.run_id)
        execution = child.execution = server.start(
            command.workflow_type,
            list(command.input),
            workflow_id=command.workflow_id,
            task_queue=command.task_queue or self._run.start.task_queue,
            parent=(self._run.start.workflow_id, self._run.start.run_id),
            root=root,
            memo=dict(command.memo),
            search_attributes=command.search_attributes,
            headers=dict(command.headers),
            execution_timeout=command.workflow_execution_timeout.ToTimedelta() or None,
            run_timeout=command.workflow_run_timeout.ToTimedelta() or None,
            retry_policy=policy,
        )
        if child.call:
            server.begin_child_call(child.call)
        proto.resolve_child_workflow_execution_start.succeeded.run_id = execution.run.start.run_id
        self._run.record("child_started", child.call.label if child.call else command.workflow_type)
        execution.on_close.append(lambda: self._closed(child))

        self._run.enqueue(Job(proto, numbered=functools.partial(setattr, child, "started_event")))
        if child.cancel_requested:
            server.request_cancel(execution, child.cancel_reason)

    def _closed(self, child: Child) -> None:
        execution = child.execution
        assert execution is not None
        run = execution.run
        label = child.call.label if child.call else child.command.workflow_type
        if child.call:
            self._server.end_child_call(child.call, run.status)
        if self.pending.get(child.seq) is not child or self._run.status != "running":
            return
        del self.pending[child.seq]
        self._run.record("child_closed", label, run.status)
        result = ChildWorkflowResult()
        if run.status == "completed":
            assert run.result is not None
            result.completed.result.CopyFrom(run.result)
        elif run.status == "cancelled":
            result.cancelled.failure.CopyFrom(self._failure(child, "Child Workflow execution cancelled", _cancelled()))
        else:
            message, cause = _close_failure(run)
            result.failed.failure.CopyFrom(self._failure(child, f"Child Workflow execution {message}", cause))
        resolve = ResolveChildWorkflowExecution(seq=child.seq, result=result)
        job = Job(WorkflowActivationJob(resolve_child_workflow_execution=resolve))
        if child.call:
            job.delivered = functools.partial(self._run.note_resolved, child.call)
        self._run.enqueue(job)

    def _failure(self, child: Child, message: str, cause: Failure) -> Failure:
        failure = Failure(message=message, cause=cause)
        info = failure.child_workflow_execution_failure_info
        info.namespace = "default"
        info.workflow_execution.workflow_id = child.command.workflow_id
        if child.execution is not None:
            info.workflow_execution.run_id = child.execution.runs[0].start.run_id
        info.workflow_type.name = child.command.workflow_type
        info.initiated_event_id = child.event
        info.started_event_id = child.started_event
        info.retry_state = (
            child.execution.retry_state if child.execution else RetryState.RETRY_STATE_NON_RETRYABLE_FAILURE
        )
        return failure

    def cancel(self, command: Any) -> None:
        """Take the command that cancels a child."""
        child = self.pending.get(command.child_workflow_seq)
        if child is None:
            return
        label = child.call.label if child.call else child.command.workflow_type
        kind = child.command.cancellation_type
        if child.task == self._run.task:
            del self.pending[child.seq]
            if child.call:
                self._server.forget_call(child.call)
            self._run.record("child_closed", label, "cancelled, never sent")
            start = ResolveChildWorkflowExecutionStart(seq=child.seq)
            message = f"Child Workflow Execution cancelled before scheduled: {command.reason}"
            failure = self._failure(child, message, _cancelled())
            failure.child_workflow_execution_failure_info.initiated_event_id = 0
            start.cancelled.failure.CopyFrom(failure)
            self._run.at_once.append(Job(WorkflowActivationJob(resolve_child_workflow_execution_start=start), events=0))
            return
        if kind != ChildWorkflowCancellationType.ABANDON and not child.cancel_requested:
            self._run.events += 1
            child.cancel_requested, child.cancel_reason = True, command.reason
            self._run.record("cancel_requested", label)
            if child.execution is not None:
                self._server.loop.call_soon(self._server.request_cancel, child.execution, command.reason)
        # Core 1.35 does not tell the two apart: both wait for the child's end (seen on server 1.32).
        if kind in (
            ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
            ChildWorkflowCancellationType.WAIT_CANCELLATION_REQUESTED,
        ):
            return
        if child.execution is None:
            self._server.fail(
                UnsupportedError(
                    "a child workflow is cancelled while it starts, and its cancellation type does not wait: "
                    "what the server does is a race, which cannot be simulated"
                )
            )
        del self.pending[child.seq]
        if child.call:
            child.call.state = "cancelled"
        result = ChildWorkflowResult()
        result.cancelled.failure.CopyFrom(self._failure(child, "Child Workflow execution cancelled", _cancelled()))
        resolve = ResolveChildWorkflowExecution(seq=child.seq, result=result)
        self._run.at_once.append(Job(WorkflowActivationJob(resolve_child_workflow_execution=resolve), events=0))
        self._abandoned.append(child)  # its parent close policy holds still

    def _apply_close_policy(self, child: Child) -> None:
        execution, policy = child.execution, child.command.parent_close_policy
        if execution is None or not execution.is_open or policy == ParentClosePolicy.PARENT_CLOSE_POLICY_ABANDON:
            return
        if policy == ParentClosePolicy.PARENT_CLOSE_POLICY_REQUEST_CANCEL:
            self._server.loop.call_soon(self._server.request_cancel, execution, "")
        else:
            self._server.loop.call_soon(execution.run.terminate, "by parent close policy")


def _cancelled() -> Failure:
    failure = Failure()
    failure.canceled_failure_info.SetInParent()
    return failure


def _close_failure(run: Run) -> tuple[str, Failure]:
    """Return how a run ended badly, in core's words, and the failure that says so."""
    if run.status == "failed" and run.failure is not None:
        return "failed", run.failure
    failure = Failure()
    if run.status == "timed out":
        failure.message = "Timed out"
        failure.timeout_failure_info.timeout_type = TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE
        return "timed out", failure
    failure.terminated_failure_info.SetInParent()
    return "terminated", failure
