"""The activities that one run has scheduled, and how their ends reach the run."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from temporalio.api.common.v1 import Payload
from temporalio.bridge.proto.workflow_activation import WorkflowActivationJob
from temporalio.bridge.proto.workflow_commands import ActivityCancellationType

from ._activity import ActivityEnd, ActivityTask
from ._bugs import bug_resolution
from ._errors import SimulationError
from ._jobs import Job
from ._retries import reason
from ._run_state import RunState
from ._trace import Call


class Activities:
    """Takes a run's commands for activities."""

    def __init__(
        self,
        run: RunState,
        *,
        is_in_scope: Callable[[], bool],
        is_undone_on_demand: Callable[[str], bool],
        is_reminder: Callable[[Sequence[Payload]], bool],
        is_last_reminder: Callable[[Sequence[Payload]], bool],
    ) -> None:
        self._run = run
        self._is_in_scope = is_in_scope
        self._is_undone_on_demand = is_undone_on_demand
        self._is_reminder = is_reminder
        self._is_last_reminder = is_last_reminder
        self._pending: dict[int, ActivityTask] = {}
        self._pending_ids: set[str] = set()
        self._left: list[ActivityTask] = []  # the server runs these on, unknown to the workflow
        self._failed: dict[str, ActivityTask] = {}  # for good: a person may do these by hand
        self._bugs: dict[int, tuple[Job, ActivityTask]] = {}  # on their way to the workflow

    @property
    def waits_for(self) -> list[str]:
        """What the workflow waits for, for people."""
        return [task.waits_for for task in self._pending.values()]

    def schedule(self, command: Any) -> None:
        """Take the command that schedules an activity."""
        run = self._run
        if command.activity_id in self._pending_ids:
            run.world.fail(
                SimulationError(
                    f"the workflow schedules an activity with the id {command.activity_id!r} while one is pending: the "
                    "server refuses that, and the workflow task fails forever"
                )
            )
        run.events += 1
        task = ActivityTask(run, command, self._ended)
        call = task.call
        if call.phase is None:
            call.is_plain_in_scope = self._is_in_scope() and not self._is_reminder(command.arguments)
        elif call.phase == "undo" and call.forward_key is not None:
            call.undone_in_open_saga = self._is_undone_on_demand(call.forward_key)
        self._pending[task.seq] = task
        self._pending_ids.add(task.activity_id)
        run.record("scheduled", call.label)
        if call.phase is None and self._is_last_reminder(command.arguments):
            return  # it stays where it is: nobody decides, and reminders would go on forever
        task.schedule()

    def do_by_hand(self, call: Call) -> None:
        """A person does what an activity that has failed for good should have done."""
        task = self._failed.get(call.activity_id)
        if task is not None:
            task.run_by_hand()

    def request_cancel(self, command: Any) -> None:
        """Take the command that cancels an activity."""
        task = self._pending.get(command.seq)
        if task is None:  # it has ended meanwhile
            self._without_bug(command.seq)
            return
        kind = task.command.cancellation_type
        if task.task == self._run.task:
            task.sent = False
            self._run.events -= 1
            self._run.world.journal.forget_call(task.call)
            task.drop()
            self._end_at_once(task)
            return
        if kind == ActivityCancellationType.ABANDON:
            self._end_at_once(task)
            self._left.append(task)
            return
        self._run.events += 1
        if kind != ActivityCancellationType.WAIT_CANCELLATION_COMPLETED:
            self._end_at_once(task)
            self._left.append(task)
        task.request_cancel()

    def _forget(self, task: ActivityTask) -> None:
        del self._pending[task.seq]
        self._pending_ids.remove(task.activity_id)

    def _end_at_once(self, task: ActivityTask) -> None:
        self._forget(task)
        task.call.state = "cancelled"
        self._run.record("cancelled", task.call.label, "never sent" if not task.sent else "not waited for")
        proto = WorkflowActivationJob()
        proto.resolve_activity.seq = task.seq
        proto.resolve_activity.result.cancelled.failure.CopyFrom(task.failure_of_core())
        self._run.at_once.append(Job(proto, events=0))

    def _ended(self, task: ActivityTask, end: ActivityEnd) -> None:
        """An activity has ended on the server."""
        seq, call = task.seq, task.call
        if task in self._left:
            self._left.remove(task)
        if self._pending.get(seq) is not task:
            self._run.record(end.state.replace(" ", "_"), call.label, "the workflow does not wait for it")
            return
        self._forget(task)
        call.state = end.state
        if end.state in ("failed", "timed out"):
            self._failed[task.activity_id] = task
        if end.state != "timed out":  # a timeout was recorded when it happened
            number = call.attempts[-1].number if call.attempts else None
            self._run.record(end.state, call.label, _reason(end), attempt=number)
        job = Job(end.proto, end.events, delivered=functools.partial(self._run.world.journal.note_resolved, call))
        job.of_reminder = call.phase is None and self._is_reminder(task.command.arguments)
        if end.is_bug:
            job.proto, job.instead = WorkflowActivationJob(), end.proto
            job.proto.resolve_activity.seq = seq
            job.proto.resolve_activity.result.CopyFrom(bug_resolution())
            job.delivered = functools.partial(self._bug_delivered, task)
            self._bugs[seq] = job, task
        self._run.enqueue(job)

    def _bug_delivered(self, task: ActivityTask) -> None:
        self._run.world.journal.note_resolved(task.call)
        if self._bugs.pop(task.seq, None):
            self._run.record("bug", task.call.label, "the await of it raises TypeError")

    def _without_bug(self, seq: int) -> None:
        """The await of a call has been cancelled before its end came: the await raises that, and no bug."""
        job, task = self._bugs.pop(seq, (None, None))
        if job is not None and task is not None and job.instead is not None:
            job.proto, job.instead = job.instead, None
            task.faults.put_back("bug_after")

    def close(self) -> None:
        """The run has closed: the server forgets its activities."""
        for task in (*self._pending.values(), *self._left):
            task.drop()


def _reason(end: ActivityEnd) -> str:
    return reason(end.proto.resolve_activity.result.failed.failure.cause) if end.state == "failed" else ""
