"""A run's activations: what core would make of them in a replay, and their commands in a form that reads well."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from temporalio.bridge.proto.workflow_activation import NotifyHasPatch, WorkflowActivation, WorkflowActivationJob
from temporalio.bridge.proto.workflow_commands import WorkflowCommand
from temporalio.bridge.proto.workflow_completion import WorkflowActivationCompletion

from ._converter import Converter
from ._trace import step_of

Command = tuple[Any, ...]

RESULT, NEXT_RUN = "the result", "the next run's arguments"


@dataclasses.dataclass(eq=False)
class Activation:
    """One activation of a run and what the workflow answered."""

    request: WorkflowActivation
    completion: WorkflowActivationCompletion
    task: int


def as_replayed(
    history: Sequence[Activation],
) -> Iterator[tuple[Activation, WorkflowActivation, WorkflowActivationCompletion]]:
    """Yield the activations that core makes of this history, and the answers that they must have.

    The flags and patches of a workflow task are known from its start. An update that is in history has been validated;
    one that was rejected is not in history.
    """
    flags: set[int] = set()
    flags_of: dict[int, set[int]] = {}
    for done in history:
        flags_of.setdefault(done.task, set()).update(done.completion.successful.used_internal_flags)
    for done in history:
        flags |= flags_of[done.task]
        flags.update(done.request.available_internal_flags)
        request = WorkflowActivation()
        request.CopyFrom(done.request)
        request.is_replaying = True
        request.available_internal_flags[:] = sorted(flags)
        expected = comparable(done.completion)
        responses = [each.update_response for each in done.completion.successful.commands if _answers_update(each)]
        accepted = {each.protocol_instance_id for each in responses if each.HasField("accepted")}
        rejected = {
            job.do_update.protocol_instance_id for job in done.request.jobs if job.HasField("do_update")
        } - accepted
        jobs = [
            WorkflowActivationJob(notify_has_patch=NotifyHasPatch(patch_id=command.set_patch_marker.patch_id))
            for command in done.completion.successful.commands
            if command.HasField("set_patch_marker")
        ]
        for job in request.jobs:
            if job.HasField("do_update"):
                if job.do_update.protocol_instance_id in rejected:
                    continue
                job.do_update.run_validator = False
            jobs.append(job)
        if rejected:
            kept = [
                command
                for command in expected.successful.commands
                if command.update_response.protocol_instance_id not in rejected
            ]
            del expected.successful.commands[:]
            expected.successful.commands.extend(kept)
            if not jobs:
                continue
        replayed = WorkflowActivation()
        replayed.CopyFrom(request)
        del replayed.jobs[:]
        replayed.jobs.extend(jobs)
        yield done, replayed, expected


def _answers_update(command: WorkflowCommand) -> bool:
    return command.HasField("update_response")


def comparable(completion: WorkflowActivationCompletion) -> WorkflowActivationCompletion:
    """Return a completion without what may differ between a run and its replay: stack traces and flags used."""
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


def without_values(completion: WorkflowActivationCompletion, varying: Collection[str]) -> WorkflowActivationCompletion:
    """Return a comparable completion without the values that calls of these names, or the result, carry."""
    if not varying:
        return completion
    result = WorkflowActivationCompletion()
    result.CopyFrom(completion)
    for command in result.successful.commands:
        name, field = carries(command)
        if name in varying:
            getattr(command, command.WhichOneof("variant") or "").ClearField(field)
    return result


def carries(command: WorkflowCommand) -> tuple[str, str]:
    """Return whose values a command carries, and in which field; nobody's if it carries none."""
    kind = command.WhichOneof("variant") or ""
    if kind == "schedule_activity":
        step = step_of(command.schedule_activity.activity_id)
        return step.label if step else command.schedule_activity.activity_type, "arguments"
    if kind == "start_child_workflow_execution":
        return command.start_child_workflow_execution.workflow_type, "input"
    if kind == "signal_external_workflow_execution":
        return command.signal_external_workflow_execution.signal_name, "args"
    if kind == "complete_workflow_execution":
        return RESULT, "result"
    if kind == "continue_as_new_workflow_execution":
        return NEXT_RUN, "arguments"
    return "", ""


def varying_values(one: Iterable[Activation], other: Iterable[Activation]) -> set[str]:
    """Return whose values differ between two runs of one workflow that ought to be alike."""

    def values(history: Iterable[Activation]) -> list[tuple[str, bytes]]:
        found: list[tuple[str, bytes]] = []
        for activation in history:
            for command in activation.completion.successful.commands:
                name, field = carries(command)
                if name:
                    whole = getattr(command, command.WhichOneof("variant") or "")
                    value = getattr(whole, field)
                    parts = [value] if field == "result" else value
                    found.append((name, b"".join(each.SerializeToString(deterministic=True) for each in parts)))
        return found

    pairs = zip(values(one), values(other), strict=False)
    return {name for (name, value), (its_name, its_value) in pairs if name == its_name and value != its_value}


def readable(history: Iterable[Activation], converter: Converter) -> list[list[Command]]:
    """Return the commands of each activation as tuples that a test can compare."""
    reader = _Reader(converter)
    return [reader.read(activation.completion) for activation in history]


class _Reader:
    def __init__(self, converter: Converter) -> None:
        self._converter = converter
        self._names: dict[tuple[str, int], Any] = {}

    def read(self, completion: WorkflowActivationCompletion) -> list[Command]:
        if completion.HasField("failed"):
            failure = completion.failed.failure
            return [("task_failed", failure.application_failure_info.type, failure.message)]
        return [self._command(command) for command in completion.successful.commands]

    def _command(self, command: WorkflowCommand) -> Command:
        kind = command.WhichOneof("variant") or ""
        plain = self._converter.plain
        value: Any = getattr(command, kind, None)
        if kind == "schedule_activity":
            self._names["activity", value.seq] = value.activity_id
            return (kind, value.activity_id, value.activity_type, plain(value.arguments))
        if kind == "request_cancel_activity":
            return (kind, self._names["activity", value.seq])
        if kind == "start_timer":
            delay = value.start_to_fire_timeout.ToTimedelta().total_seconds()
            self._names["timer", value.seq] = delay
            return (kind, delay)
        if kind == "cancel_timer":
            return (kind, self._names["timer", value.seq])
        if kind == "start_child_workflow_execution":
            self._names["child", value.seq] = value.workflow_id
            return ("start_child", value.workflow_id, value.workflow_type, plain(value.input))
        if kind == "cancel_child_workflow_execution":
            return ("cancel_child", self._names["child", value.child_workflow_seq])
        if kind == "complete_workflow_execution":
            return ("complete", plain([value.result])[0])
        if kind == "fail_workflow_execution":
            return ("fail", self._converter.plain_exception(value.failure))
        if kind == "cancel_workflow_execution":
            return ("cancel",)
        if kind == "continue_as_new_workflow_execution":
            return ("continue_as_new", plain(value.arguments))
        if kind == "set_patch_marker":
            return ("patch", value.patch_id)
        if kind == "upsert_workflow_search_attributes":
            return ("upsert_search_attributes", sorted(value.search_attributes.indexed_fields))
        if kind == "modify_workflow_properties":
            return ("upsert_memo", sorted(value.upserted_memo.fields))
        if kind == "signal_external_workflow_execution":
            target = value.child_workflow_id or value.workflow_execution.workflow_id
            return ("signal_external", target, value.signal_name, plain(value.args))
        if kind == "request_cancel_external_workflow_execution":
            return ("cancel_external", value.workflow_execution.workflow_id)
        if kind == "update_response":
            if value.HasField("rejected"):
                return ("update_rejected", value.protocol_instance_id, self._converter.plain_exception(value.rejected))
            if value.HasField("completed"):
                return ("update_completed", value.protocol_instance_id, plain([value.completed])[0])
            return ("update_accepted", value.protocol_instance_id)
        return (kind,)
