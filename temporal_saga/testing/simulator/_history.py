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
        commands = done.completion.successful.commands
        patches = [each.set_patch_marker.patch_id for each in commands if each.HasField("set_patch_marker")]
        updates = {each.do_update.protocol_instance_id for each in request.jobs if each.HasField("do_update")}
        if patches or updates:
            responses = [each.update_response for each in commands if each.HasField("update_response")]
            rejected = updates - {each.protocol_instance_id for each in responses if each.HasField("accepted")}
            _adapt(request, patches, rejected)
            if rejected:
                expected = _without_rejected(expected, rejected)
                if not request.jobs:
                    continue
        yield done, request, expected


def _adapt(request: WorkflowActivation, patches: Sequence[str], rejected: Collection[str]) -> None:
    """Put the patches first; leave out rejected updates, and do not validate the others."""
    jobs = [WorkflowActivationJob(notify_has_patch=NotifyHasPatch(patch_id=each)) for each in patches]
    for job in request.jobs:
        if job.HasField("do_update"):
            if job.do_update.protocol_instance_id in rejected:
                continue
            job.do_update.run_validator = False
        jobs.append(job)
    replayed = WorkflowActivation(jobs=jobs)  # which copies them
    del request.jobs[:]
    request.jobs.extend(replayed.jobs)


def _without_rejected(
    completion: WorkflowActivationCompletion, rejected: Collection[str]
) -> WorkflowActivationCompletion:
    result = WorkflowActivationCompletion()
    result.CopyFrom(completion)
    kept = [
        command
        for command in completion.successful.commands
        if command.update_response.protocol_instance_id not in rejected
    ]
    del result.successful.commands[:]
    result.successful.commands.extend(kept)
    return result


def comparable(completion: WorkflowActivationCompletion) -> WorkflowActivationCompletion:
    """Return a completion without what may differ between a run and its replay: stack traces and flags used."""
    if not completion.successful.used_internal_flags and not any(_has_failure(completion)):
        return completion
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


def _has_failure(completion: WorkflowActivationCompletion) -> Iterator[bool]:
    yield completion.HasField("failed")
    for command in completion.successful.commands:
        yield command.HasField("fail_workflow_execution") or command.HasField("update_response")


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
