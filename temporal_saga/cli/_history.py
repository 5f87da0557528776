"""One workflow run, read from its history: its calls and its end, as data. This module asks no server.

Only names, ids, states and types of errors are read. Of arguments, only those of the update `saga_resolve` are, and of
failures the library's mark and the report of a `CompensationError`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Literal, cast
from uuid import UUID

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.common.v1 import Payload
from temporalio.api.enums.v1 import (
    ContinueAsNewInitiator,
    EventType,
    PendingActivityState,
    TimeoutType,
    WorkflowExecutionStatus,
    WorkflowTaskFailedCause,
)
from temporalio.api.failure.v1 import Failure
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.workflowservice.v1 import DescribeWorkflowExecutionResponse

from temporal_saga._parking import MEMO
from temporal_saga._proof import mark_in

__all__ = ["BY_US", "Call", "Decision", "Mark", "Now", "Pending", "Run", "Trouble", "read", "read_description"]

Phase = Literal["do", "undo", "push"]
End = Literal["RUNNING", "COMPLETED", "FAILED", "TIMED_OUT", "CANCELED", "TERMINATED", "NOT_STARTED"]

BY_US = " (temporal-saga resolve)"
"""The end of the identity under which `resolve` completes an undo: it tells a person's completion from a worker's."""


@dataclass(frozen=True)
class Pending:
    """The server's data on an activity that has not ended.

    Attributes:
        activity: The activity's registered name.
        failures: How many attempts have failed.
        error: The type of the last one's error.
        next_try: When the next attempt is due; None while one runs.
        paused: Whether an operator has paused it.
    """

    activity: str
    failures: int
    error: str | None
    next_try: datetime | None
    paused: bool


@dataclass
class Call:
    """An activity or a child workflow that belongs to a step: the step itself, or its undo.

    Attributes:
        id: Its activity id or workflow id.
        step: The step's name.
        phase: do, undo or push.
        key: The step's key.
        kind: Activity or child.
        target: The registered name.
        event: The number of the event that scheduled it.
        scheduled: When it was scheduled.
        ended: When it ended.
        end: How.
        error: The type of its error.
        refused: Whether the error proves that nothing took effect.
        answered: Whether the error is an answer, such as Declined: then a step does not wait for a person.
        attempts: How many attempts there were, where the history tells.
        by: Who completed it, if that was not the worker that ran it.
        by_hand: Whether that was a person, as far as the name tells: `resolve`, or the `temporal` CLI.
        child: The run of a child workflow.
        pending: What the server says of it, while it has not ended.
    """

    id: str
    step: str
    phase: Phase
    key: str
    kind: Literal["activity", "child"]
    target: str
    event: int
    scheduled: datetime
    ended: datetime | None = None
    end: End = "RUNNING"
    error: str | None = None
    refused: bool = False
    answered: bool = False
    attempts: int = 0
    by: str | None = None
    by_hand: bool = False
    child: tuple[str, str] | None = None
    pending: Pending | None = None


@dataclass(frozen=True)
class Decision:
    """A person's decision about a parked step or undo: an accepted update `saga_resolve`."""

    key: str
    action: str
    who: str
    at: datetime


@dataclass(frozen=True)
class Mark:
    """Another event of a run that the reader wants to know."""

    at: datetime
    text: str


@dataclass(frozen=True)
class Trouble:
    """A workflow task that keeps failing."""

    failures: int
    error: str


@dataclass(frozen=True)
class Now:
    """The data that `describe()` adds to the history.

    Attributes:
        status: How the run stands.
        pending: The activities that have not ended, by their ids.
        task_attempt: The attempt of the workflow task that is pending; 0 if none is.
        saga_state: The value of the search attribute that the plugin sets.
        reset_to: The run that a reset has started in place of this one.
    """

    status: str
    pending: dict[str, Pending] = field(default_factory=dict[str, Pending])
    task_attempt: int = 0
    saga_state: str | None = None
    reset_to: str | None = None


@dataclass
class Run:
    """One run of a workflow.

    Attributes:
        status: RUNNING, PAUSED, or how it was closed.
        calls: The calls of its steps, in order.
        others: How many activities and children are not steps.
        children: The children that are not steps: workflow id and run id.
        failing: The activities that are not steps and are being retried.
        error: The type of the error that it failed with.
        is_incomplete: Whether that is a `CompensationError` of its own.
        reports: The sagas' reports, from a `CompensationError`.
        trouble: Why its workflow task keeps failing.
        continues: The run that this one continues (continue-as-new).
        next: The run that continues this one.
        reset_from: The run that this one was reset from.
        forked_at: The number of the first event that the two do not share.
        encoded: Whether details of a failure are encoded, so that a proof may be missed.
        parked: The steps of which something is parked, by name, as the saga has noted in the memo; None if that is
            encoded.
    """

    workflow_id: str
    run_id: str
    type: str
    started: datetime
    status: str = "RUNNING"
    ended: datetime | None = None
    calls: list[Call] = field(default_factory=list[Call])
    others: int = 0
    children: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    failing: list[Pending] = field(default_factory=list[Pending])
    marks: list[Mark] = field(default_factory=list[Mark])
    decisions: list[Decision] = field(default_factory=list[Decision])
    error: str | None = None
    is_incomplete: bool = False
    reports: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    trouble: Trouble | None = None
    waits_for_task: bool = False
    saga_state: str | None = None
    continues: str | None = None
    next: str | None = None
    reset_from: str | None = None
    reset_to: str | None = None
    forked_at: int = 0
    encoded: bool = False
    parked: list[str] | None = field(default_factory=list[str])


def read(events: Iterable[HistoryEvent], now: Now | None = None, *, workflow_id: str = "", run_id: str = "") -> Run:
    """Read a run.

    Args:
        events: Its history, from the beginning.
        now: What `describe()` said; None for a recorded history.
        workflow_id: Its workflow id, for a history that does not tell.
        run_id: Its run id.
    """
    reader = _Reader(workflow_id, run_id)
    for event in events:
        reader.take(event)
    run = reader.run
    if now is not None:
        if run.ended is None:
            run.status = now.status
        run.saga_state = now.saga_state
        run.reset_to = now.reset_to
        run.waits_for_task = now.task_attempt > 0
        for call in run.calls:
            if call.end == "RUNNING":
                call.pending = now.pending.get(call.id)
        run.failing = [each for id, each in now.pending.items() if each.failures and parse_id(id) is None]
    failed = reader.failed_tasks
    if failed and run.status in ("RUNNING", "PAUSED"):
        # The server writes only the first failure of a task, and counts the others as attempts.
        later = max(0, (now.task_attempt if now else 0) - 2)
        run.trouble = Trouble(len(failed) + later, failed[-1])
    return run


def read_description(answer: DescribeWorkflowExecutionResponse, attribute: str = "SagaState") -> Now:
    """Read the answer of `describe()`. `attribute` is the search attribute that the plugin sets."""
    info = answer.workflow_execution_info
    fields = info.search_attributes.indexed_fields
    state = _plain(fields[attribute]) if attribute in fields else None
    return Now(
        status=_enum(WorkflowExecutionStatus, info.status) or "RUNNING",  # how it was closed, its history tells
        pending={
            each.activity_id: Pending(
                activity=each.activity_type.name,
                failures=each.attempt - 1,
                error=_error_type(each.last_failure) if each.HasField("last_failure") else None,
                next_try=_time(each.next_attempt_schedule_time)
                if each.HasField("next_attempt_schedule_time")
                and each.state == PendingActivityState.PENDING_ACTIVITY_STATE_SCHEDULED
                else None,
                paused=each.paused,
            )
            for each in answer.pending_activities
        },
        task_attempt=answer.pending_workflow_task.attempt if answer.HasField("pending_workflow_task") else 0,
        saga_state=state if isinstance(state, str) else None,
        reset_to=answer.workflow_extended_info.reset_run_id or None,
    )


class _Reader:
    """Takes the events of a history, one after another."""

    def __init__(self, workflow_id: str, run_id: str) -> None:
        self.run = Run(workflow_id, run_id, "", datetime.fromtimestamp(0, timezone.utc))
        self.failed_tasks: list[str] = []  # since the last that completed
        self._calls: dict[int, Call] = {}
        self._started_by: dict[int, str] = {}
        self._decisions: dict[int, tuple[Decision, Mark]] = {}

    def take(self, event: HistoryEvent) -> None:
        name = _enum(EventType, event.event_type)
        handler: Callable[..., None] | None = getattr(self, f"_{name.lower()}", None)
        if handler is not None:
            attributes = getattr(event, cast(str, event.WhichOneof("attributes")))
            handler(event, attributes, _time(event.event_time))
        if name.startswith("WORKFLOW_EXECUTION_") and (status := name.removeprefix("WORKFLOW_EXECUTION_")) in _CLOSED:
            self._close(event, status)

    # --- the run ---

    def _workflow_execution_started(self, event: HistoryEvent, started: Any, at: datetime) -> None:
        run = self.run
        run.workflow_id = run.workflow_id or started.workflow_id
        run.run_id = run.run_id or started.original_execution_run_id
        run.type = started.workflow_type.name
        run.started = at
        if started.initiator == ContinueAsNewInitiator.CONTINUE_AS_NEW_INITIATOR_WORKFLOW:
            run.continues = started.continued_execution_run_id or None
            run.marks.append(Mark(at, "continues in a new run"))
        elif started.continued_execution_run_id:
            run.marks.append(Mark(at, f"runs again (retry or cron), after run {started.continued_execution_run_id}"))

    def _close(self, event: HistoryEvent, status: str) -> None:
        run = self.run
        run.status = status
        run.ended = _time(event.event_time)
        if status == "CONTINUED_AS_NEW":
            run.next = event.workflow_execution_continued_as_new_event_attributes.new_execution_run_id or None
        if status == "FAILED":
            failure = event.workflow_execution_failed_event_attributes.failure
            run.error = _error_type(failure)
            run.is_incomplete = failure.application_failure_info.type == "CompensationError"
            if run.is_incomplete:
                report = self._last_detail(failure)
                run.reports = [cast("dict[str, Any]", report)] if isinstance(report, dict) else []

    def _workflow_execution_cancel_requested(self, event: HistoryEvent, _: Any, at: datetime) -> None:
        self.run.marks.append(Mark(at, "cancel requested"))

    def _workflow_task_completed(self, event: HistoryEvent, _: Any, at: datetime) -> None:
        self.failed_tasks.clear()

    def _workflow_task_failed(self, event: HistoryEvent, failed: Any, at: datetime) -> None:
        if failed.cause == WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_RESET_WORKFLOW:
            # The copy of an older reset's event comes before this run's own: the last one counts.
            self.run.reset_from = failed.base_run_id
            self.run.forked_at = event.event_id
            self.run.marks.append(Mark(at, "reset to this point"))
            return
        cause = _enum(WorkflowTaskFailedCause, failed.cause)
        own = cause in ("", "UNSPECIFIED", "WORKFLOW_WORKER_UNHANDLED_FAILURE")
        error = _error_type(failed.failure) if own else cause.capitalize().replace("_", " ")
        if not self.failed_tasks:
            self.run.marks.append(Mark(at, f"workflow task fails: {error}"))
        self.failed_tasks.append(error)

    def _workflow_task_timed_out(self, event: HistoryEvent, timed_out: Any, at: datetime) -> None:
        # A schedule-to-start timeout is a worker's cache that was lost: normal.
        if timed_out.timeout_type == TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE:
            self.failed_tasks.append("no answer in time")

    def _workflow_execution_update_accepted(self, event: HistoryEvent, accepted: Any, at: datetime) -> None:
        call = accepted.accepted_request.input
        if call.name != "saga_resolve":
            return
        given = [_plain(each) for each in call.args.payloads]
        if len(given) >= 3 and all(isinstance(each, str) for each in given[:3]):
            key, action, who = cast("list[str]", given[:3])
            decision = Decision(key, action, who, at), Mark(at, f"{who} decides: {action.replace('_', ' ')}")
            self._decisions[event.event_id] = decision
            self.run.decisions.append(decision[0])
            self.run.marks.append(decision[1])
        else:
            self.run.encoded = True

    def _workflow_execution_update_completed(self, event: HistoryEvent, completed: Any, at: datetime) -> None:
        decision = self._decisions.get(completed.accepted_event_id)
        if decision is not None and completed.outcome.HasField("failure"):  # another one came first
            self.run.decisions.remove(decision[0])
            self.run.marks.remove(decision[1])

    def _workflow_properties_modified(self, event: HistoryEvent, modified: Any, at: datetime) -> None:
        fields = modified.upserted_memo.fields
        if MEMO in fields:
            names = _plain(fields[MEMO])
            is_list = names is None or isinstance(names, list)
            self.run.parked = [str(name) for name in cast("list[object]", names or [])] if is_list else None

    # --- activities ---

    def _activity_task_scheduled(self, event: HistoryEvent, scheduled: Any, at: datetime) -> None:
        self._begin(event, scheduled.activity_id, "activity", scheduled.activity_type.name, at)

    def _activity_task_started(self, event: HistoryEvent, started: Any, at: datetime) -> None:
        if call := self._calls.get(started.scheduled_event_id):
            call.attempts = started.attempt
            self._started_by[started.scheduled_event_id] = started.identity

    def _activity_task_completed(self, event: HistoryEvent, completed: Any, at: datetime) -> None:
        if call := self._end(completed.scheduled_event_id, "COMPLETED", at):
            # A completion from outside during the backoff is written as if its sender had also started the attempt
            # (measured on server 1.32). Then only the identity tells it from a worker's completion.
            who: str = completed.identity
            call.by_hand = who.endswith(BY_US) or who.startswith(_TEMPORAL_CLI)
            if call.by_hand or who != self._started_by.get(completed.scheduled_event_id, who):
                call.by = who.removesuffix(BY_US).removeprefix(_TEMPORAL_CLI).partition(": ")[0]

    def _activity_task_failed(self, event: HistoryEvent, failed: Any, at: datetime) -> None:
        if call := self._end(failed.scheduled_event_id, "FAILED", at, failed.failure):
            mark = mark_in([self._last_detail(failed.failure)])
            call.refused = mark is not None and mark.get("effect") == "none"
            call.answered = mark is not None and mark.get("kind") in ("DECLINED", "REJECTED", "FENCED")

    def _activity_task_timed_out(self, event: HistoryEvent, timed_out: Any, at: datetime) -> None:
        failure = timed_out.failure
        if call := self._end(timed_out.scheduled_event_id, "TIMED_OUT", at, failure):
            kind = failure.timeout_failure_info.timeout_type
            call.refused = kind == TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_START and not failure.HasField("cause")

    def _activity_task_canceled(self, event: HistoryEvent, canceled: Any, at: datetime) -> None:
        self._end(canceled.scheduled_event_id, "CANCELED", at)

    # --- children ---

    def _start_child_workflow_execution_initiated(self, event: HistoryEvent, child: Any, at: datetime) -> None:
        self._begin(event, child.workflow_id, "child", child.workflow_type.name, at)

    def _start_child_workflow_execution_failed(self, event: HistoryEvent, child: Any, at: datetime) -> None:
        if call := self._end(child.initiated_event_id, "NOT_STARTED", at):
            call.error = "the workflow id is taken"

    def _child_workflow_execution_started(self, event: HistoryEvent, child: Any, at: datetime) -> None:
        run = (child.workflow_execution.workflow_id, child.workflow_execution.run_id)
        if call := self._calls.get(child.initiated_event_id):
            call.child = run
        else:
            self.run.children.append(run)

    def _child_workflow_execution_completed(self, event: HistoryEvent, child: Any, at: datetime) -> None:
        self._end(child.initiated_event_id, "COMPLETED", at)

    def _child_workflow_execution_failed(self, event: HistoryEvent, child: Any, at: datetime) -> None:
        self._end(child.initiated_event_id, "FAILED", at, child.failure)

    def _child_workflow_execution_canceled(self, event: HistoryEvent, child: Any, at: datetime) -> None:
        self._end(child.initiated_event_id, "CANCELED", at)

    def _child_workflow_execution_timed_out(self, event: HistoryEvent, child: Any, at: datetime) -> None:
        self._end(child.initiated_event_id, "TIMED_OUT", at)

    def _child_workflow_execution_terminated(self, event: HistoryEvent, child: Any, at: datetime) -> None:
        self._end(child.initiated_event_id, "TERMINATED", at)

    # --- both ---

    def _begin(
        self, event: HistoryEvent, id: str, kind: Literal["activity", "child"], target: str, at: datetime
    ) -> None:
        parts = parse_id(id) or self._undone_by(event)
        if parts is None:
            self.run.others += 1
            return
        call = Call(id, *parts, kind, target, event.event_id, at)
        self._calls[event.event_id] = call
        self.run.calls.append(call)

    def _undone_by(self, event: HistoryEvent) -> tuple[str, Phase, str] | None:
        """Return the step that a child with the user's own id undoes: the library's summary still shows it."""
        summary = _plain(event.user_metadata.summary) if event.HasField("user_metadata") else None
        if not isinstance(summary, str) or not summary.startswith("undo "):
            return None
        undone = {call.key for call in self.run.calls if call.phase != "do"}
        for call in reversed(self.run.calls):
            if call.phase == "do" and call.step == summary.removeprefix("undo ") and call.key not in undone:
                return call.step, "undo", call.key
        return None

    def _end(self, scheduled: int, end: End, at: datetime, failure: Failure | None = None) -> Call | None:
        call = self._calls.get(scheduled)
        if call is not None:
            call.end = end
            call.ended = at
            call.error = _error_type(failure) if failure is not None else None
        return call

    def _last_detail(self, failure: Failure) -> object:
        details = failure.application_failure_info.details.payloads
        if not details:
            return None
        value = _plain(details[-1])
        self.run.encoded |= value is _ENCODED
        return value


_CLOSED = ("COMPLETED", "FAILED", "CANCELED", "TERMINATED", "TIMED_OUT", "CONTINUED_AS_NEW")
_PHASES: dict[str, Phase] = {"do": "do", "undo": "undo", "push": "push"}
_TEMPORAL_CLI = "temporal-cli:"
_ENCODED = object()


def parse_id(id: str) -> tuple[str, Phase, str] | None:
    """Return name, phase and key from the id of a step's call; None if it is the id of something else."""
    parts = id.rsplit(":", 2)  # a step's name may contain colons
    phase = _PHASES.get(parts[1]) if len(parts) == 3 else None
    if phase is None:
        return None
    try:
        UUID(parts[2])
    except ValueError:
        return None
    return parts[0], phase, parts[2]


def _error_type(failure: Failure) -> str:
    """Return the type of an error, the only part of it that may be shown."""
    if failure.HasField("cause") and failure.WhichOneof("failure_info") in (
        "activity_failure_info",
        "child_workflow_execution_failure_info",
    ):
        return _error_type(failure.cause)
    kind = failure.WhichOneof("failure_info")
    if kind == "application_failure_info":
        return failure.application_failure_info.type or "ApplicationError"
    if kind == "timeout_failure_info":
        which = _enum(TimeoutType, failure.timeout_failure_info.timeout_type)
        return f"{which.lower().replace('_', '-')} timeout".strip()
    return {"canceled_failure_info": "cancelled", "terminated_failure_info": "terminated"}.get(kind or "", "error")


def _plain(payload: Payload) -> object:
    """Return the value of a payload in plain JSON. For any other payload, return that it is encoded."""
    if payload.metadata.get("encoding") != b"json/plain":
        return None if payload.metadata.get("encoding") == b"binary/null" else _ENCODED
    try:
        return cast(object, json.loads(payload.data))
    except ValueError:
        return _ENCODED


def _enum(kind: Any, value: int) -> str:
    """Return a name without its prefix, which is that of the first; "" for one that a newer server has."""
    first, *_ = kind.keys()
    return str(kind.Name(value)).removeprefix(first.removesuffix("UNSPECIFIED")) if value in kind.values() else ""


def _time(time: Message) -> datetime:
    return cast(Timestamp, time).ToDatetime(timezone.utc)
