"""The signals and cancels that one run sends to other workflows."""

from __future__ import annotations

from typing import Any

from temporalio.api.failure.v1 import Failure
from temporalio.bridge.proto.workflow_activation import (
    ResolveRequestCancelExternalWorkflow,
    ResolveSignalExternalWorkflow,
    WorkflowActivationJob,
)

from ._jobs import Job
from ._run_state import RunState
from ._workflows import Workflows


class Externals:
    """Takes a run's commands for other workflows."""

    def __init__(self, run: RunState, workflows: Workflows) -> None:
        self._run = run
        self._workflows = workflows

    def signal(self, command: Any) -> None:
        """Take the command that signals a workflow."""
        self._run.events += 1
        if command.HasField("child_workflow_id") or command.WhichOneof("target") == "child_workflow_id":
            workflow_id, run_id = command.child_workflow_id, ""
        else:
            workflow_id, run_id = command.workflow_execution.workflow_id, command.workflow_execution.run_id
        self._run.world.loop.call_soon(self._signal_now, command, workflow_id, run_id)

    def _signal_now(self, command: Any, workflow_id: str, run_id: str) -> None:
        if not self._run.is_open:  # the server drops what a run sends in the task in which it closes
            return
        resolve = ResolveSignalExternalWorkflow(seq=command.seq)
        target = self._workflows.find_open(workflow_id, run_id)
        if target is None:
            resolve.failure.CopyFrom(_not_found("signal", "it was not found"))
        else:
            target.signal(command.signal_name, command.args, command.headers)
        self._run.enqueue(Job(WorkflowActivationJob(resolve_signal_external_workflow=resolve)))

    def cancel(self, command: Any) -> None:
        """Take the command that cancels a workflow."""
        self._run.events += 1
        self._run.world.loop.call_soon(self._cancel_now, command)

    def _cancel_now(self, command: Any) -> None:
        if not self._run.is_open:
            return
        resolve = ResolveRequestCancelExternalWorkflow(seq=command.seq)
        where = command.workflow_execution
        target = self._workflows.find(where.workflow_id)
        if target is None:
            resolve.failure.CopyFrom(_not_found("cancel", "not found"))
        elif self._workflows.find_open(where.workflow_id, where.run_id):  # a closed one stays so, without an error
            target.request_cancel(command.reason)
        self._run.enqueue(Job(WorkflowActivationJob(resolve_request_cancel_external_workflow=resolve)))


def _not_found(what: str, why: str) -> Failure:
    failure = Failure(message=f"Unable to {what} external workflow because {why}")
    failure.application_failure_info.type = "ExternalWorkflowExecutionNotFound"
    return failure
