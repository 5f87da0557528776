"""The child workflows of one run: their start, end and cancellation, and what happens when their parent closes."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

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
from ._run_state import RunState
from ._trace import Call, step_of
from ._workflows import Workflow, Workflows

_ALREADY_EXISTS = StartChildWorkflowExecutionFailedCause.Value(
    "START_CHILD_WORKFLOW_EXECUTION_FAILED_CAUSE_WORKFLOW_ALREADY_EXISTS"
)


@dataclasses.dataclass(eq=False)
class _Child:
    """A child workflow, as its parent's run knows it."""

    seq: int
    command: StartChildWorkflowExecution
    task: int
    event: int
    call: Call | None = None
    workflow: Workflow | None = None
    started_event: int = 0
    cancel_requested: bool = False
    cancel_reason: str = ""

    @property
    def label(self) -> str:
        """Its name in the trace."""
        return self.call.label if self.call else self.command.workflow_type


class Children:
    """Takes a run's commands for children."""

    def __init__(self, run: RunState, workflows: Workflows) -> None:
        self._run = run
        self._world = run.world
        self._workflows = workflows
        self._pending: dict[int, _Child] = {}
        self._abandoned: list[_Child] = []

    @property
    def waits_for(self) -> list[str]:
        """What the workflow waits for, for people."""
        return [f"child workflow {child.command.workflow_id!r}" for child in self._pending.values()]

    def close(self) -> None:
        """The run has closed: apply the parent close policies."""
        for child in (*self._pending.values(), *self._abandoned):
            self._apply_close_policy(child)

    def start(self, command: Any) -> None:
        """Take the command that starts a child."""
        self._run.events += 1
        child = _Child(command.seq, command, self._run.task, self._run.events)
        self._pending[command.seq] = child
        if command.cron_schedule:
            self._world.fail(UnsupportedError("a child workflow with a cron schedule cannot be simulated"))
        if step_of(command.workflow_id) is not None:
            child.call = self._world.journal.new_call(
                "child", command.workflow_type, command.workflow_id, self._run.start.run_id, self._run.start.workflow_id
            )
        self._run.record("child_scheduled", child.label, command.workflow_id)
        self._world.loop.call_soon(self._start_now, child)

    def _start_now(self, child: _Child) -> None:
        if self._pending.get(child.seq) is not child or not self._run.is_open:
            return
        command = child.command
        start = ResolveChildWorkflowExecutionStart(seq=child.seq)
        proto = WorkflowActivationJob(resolve_child_workflow_execution_start=start)
        existing = self._workflows.find(command.workflow_id)
        if existing is not None and not _may_reuse(existing, command.workflow_id_reuse_policy):
            del self._pending[child.seq]
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
        started = child.workflow = self._workflows.start(
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
            self._world.journal.begin_child_call(child.call)
        proto.resolve_child_workflow_execution_start.succeeded.run_id = started.first_run_id
        self._run.record("child_started", child.label)
        started.on_close.append(lambda: self._closed(child))
        self._run.enqueue(Job(proto, numbered=functools.partial(setattr, child, "started_event")))
        if child.cancel_requested:
            started.request_cancel(child.cancel_reason)

    def _closed(self, child: _Child) -> None:
        workflow = child.workflow
        assert workflow is not None
        if child.call:
            self._world.journal.end_child_call(child.call, workflow.status)
        if self._pending.get(child.seq) is not child or not self._run.is_open:
            return
        del self._pending[child.seq]
        self._run.record("child_closed", child.label, workflow.status)
        result = ChildWorkflowResult()
        if workflow.status == "completed":
            assert workflow.result is not None
            result.completed.result.CopyFrom(workflow.result)
        elif workflow.status == "cancelled":
            result.cancelled.failure.CopyFrom(self._failure(child, "Child Workflow execution cancelled", _cancelled()))
        else:
            message, cause = _close_failure(workflow)
            result.failed.failure.CopyFrom(self._failure(child, f"Child Workflow execution {message}", cause))
        resolve = ResolveChildWorkflowExecution(seq=child.seq, result=result)
        job = Job(WorkflowActivationJob(resolve_child_workflow_execution=resolve))
        if child.call:
            job.delivered = functools.partial(self._world.journal.note_resolved, child.call)
        self._run.enqueue(job)

    def _failure(self, child: _Child, message: str, cause: Failure) -> Failure:
        failure = Failure(message=message, cause=cause)
        info = failure.child_workflow_execution_failure_info
        info.namespace = "default"
        info.workflow_execution.workflow_id = child.command.workflow_id
        if child.workflow is not None:
            info.workflow_execution.run_id = child.workflow.first_run_id
        info.workflow_type.name = child.command.workflow_type
        info.initiated_event_id = child.event
        info.started_event_id = child.started_event
        info.retry_state = (
            child.workflow.retry_state if child.workflow else RetryState.RETRY_STATE_NON_RETRYABLE_FAILURE
        )
        return failure

    def cancel(self, command: Any) -> None:
        """Take the command that cancels a child."""
        child = self._pending.get(command.child_workflow_seq)
        if child is None:
            return
        kind = child.command.cancellation_type
        if child.task == self._run.task:
            self._run.events -= 1
            del self._pending[child.seq]
            if child.call:
                self._world.journal.forget_call(child.call)
            self._run.record("child_closed", child.label, "cancelled, never sent")
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
            self._run.record("cancel_requested", child.label)
            if child.workflow is not None:
                self._world.loop.call_soon(self._cancel_now, child.workflow, command.reason)
        # Core 1.35 does not tell the two apart: both wait for the child's end (seen on server 1.32).
        if kind in (
            ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
            ChildWorkflowCancellationType.WAIT_CANCELLATION_REQUESTED,
        ):
            return
        if child.workflow is None:
            self._world.fail(
                UnsupportedError(
                    "a child workflow is cancelled while it starts, and its cancellation type does not wait: "
                    "what the server does is a race, which cannot be simulated"
                )
            )
        del self._pending[child.seq]
        if child.call:
            child.call.state = "cancelled"
        result = ChildWorkflowResult()
        result.cancelled.failure.CopyFrom(self._failure(child, "Child Workflow execution cancelled", _cancelled()))
        resolve = ResolveChildWorkflowExecution(seq=child.seq, result=result)
        self._run.at_once.append(Job(WorkflowActivationJob(resolve_child_workflow_execution=resolve), events=0))
        self._abandoned.append(child)  # its parent close policy still applies

    def _cancel_now(self, workflow: Workflow, reason: str) -> None:
        if self._run.is_open:  # the server drops what a run sends in the task in which it closes
            workflow.request_cancel(reason)

    def _apply_close_policy(self, child: _Child) -> None:
        workflow, policy = child.workflow, child.command.parent_close_policy
        if workflow is None or not workflow.is_open or policy == ParentClosePolicy.PARENT_CLOSE_POLICY_ABANDON:
            return
        if policy == ParentClosePolicy.PARENT_CLOSE_POLICY_REQUEST_CANCEL:
            self._world.loop.call_soon(workflow.request_cancel, "")
        else:
            self._world.loop.call_soon(workflow.terminate, "by parent close policy")


def _may_reuse(existing: Workflow, policy: int) -> bool:
    """Whether a child may start under the id of a workflow, which is terminated if the policy says so."""
    if policy == common.WorkflowIDReusePolicy.TERMINATE_IF_RUNNING:
        existing.terminate("by the id reuse policy of another")
        return True
    if existing.is_open or policy == common.WorkflowIDReusePolicy.REJECT_DUPLICATE:
        return False
    failed_only = policy == common.WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY
    return not (failed_only and existing.status == "completed")


def _cancelled() -> Failure:
    failure = Failure()
    failure.canceled_failure_info.SetInParent()
    return failure


def _close_failure(workflow: Workflow) -> tuple[str, Failure]:
    """Return how a workflow ended badly, in core's words, and the failure that says so."""
    if workflow.status == "failed" and workflow.failure is not None:
        return "failed", workflow.failure
    failure = Failure()
    if workflow.status == "timed out":
        failure.message = "Timed out"
        failure.timeout_failure_info.timeout_type = TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE
        return "timed out", failure
    failure.terminated_failure_info.SetInParent()
    return "terminated", failure
