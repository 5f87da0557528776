"""One step of a saga: armed, started, settled, undone. A step knows no scope."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Literal

from temporalio import workflow

from ._compensation import Call, Callback, kind_of, registered_name
from ._identity import Phase
from ._outcome import Outcome, is_refusal, outcome_of, saga_failure
from ._parking import Resolution, Ticket
from ._report import StepReport
from ._typing import Kind, Moment
from ._waiting import UntilDone, raise_if_evicted

# An undo must not overtake its own step, so a cancelled step is awaited until it has ended.
ACTIVITY_OPTIONS: dict[str, Any] = {"cancellation_type": workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED}
_CHILD_OPTIONS: dict[str, Any] = {
    "cancellation_type": workflow.ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
    "parent_close_policy": workflow.ParentClosePolicy.REQUEST_CANCEL,
}


UndoState = Literal["PENDING", "RUNNING", "DONE", "FAILED", "PARKED", "BY_HAND", "GIVEN_UP"]


class Step:
    """One step, from its call to its undo. A compensation pushed by hand is a step with only the undo.

    Args:
        name: The step's name.
        key: The step's key.
        compensation: What undoes the step. A bare activity, workflow or name is called with `inputs`.
        compensation_from: The function that chooses the compensation once the outcome is known.
        inputs: The step's arguments.
    """

    phase: Phase = "undo"  # the phase of the undo; "push" for a compensation pushed by hand
    compensation_from: Callable[[Any], Any] | None = None
    began: Moment = ()
    ended: Moment = ()
    outcome: Outcome | None = None  # None while the step runs
    error: BaseException | None = None
    raised = False  # True iff the body got an error or a cancel instead of a result; the body may have swallowed it
    undo_state: UndoState | None = None  # None if nothing is armed
    undo_error: BaseException | None = None
    ticket: Ticket | None = None  # while the step, or its undo, waits for a person
    resolution: Resolution | None = None  # the last decision of a person
    inputs: tuple[Any, ...] = ()  # held while something is armed
    is_told = False  # True iff the failure of its undo is in the log
    task: asyncio.Task[Any]  # of the call, while the step is in flight
    _child: _Child | None = None  # while a step that is a child workflow is in flight
    _history_at_start = 0
    _never_sent = False  # True iff the command was cancelled before it left this worker
    _joined: Sequence[Step] = ()  # the steps of a child's saga, which took the place of this step

    def __init__(
        self,
        name: str,
        key: str,
        compensation: Any,
        compensation_from: Callable[[Any], Any] | None = None,
        inputs: tuple[Any, ...] = (),
    ) -> None:
        self.name = name
        self.key = key
        self.compensation = compensation
        if compensation_from is not None:
            self.compensation_from = compensation_from
        elif compensation is None:
            return
        self.undo_state = "PENDING"
        self.inputs = inputs

    def start(self, kind: Kind, target: Any, options: dict[str, Any], info: workflow.Info) -> asyncio.Task[Any]:
        """Give the command. Return the task of the call, which ends when the call has ended."""
        id = f"{self.name}:do:{self.key}"  # `step_id`, inlined for speed
        if kind == "child":
            raise_if_evicted()  # for an activity the SDK does that, and no task begins that an eviction waits for
            self._child = _Child(target, {"id": id, **_CHILD_OPTIONS, **options})
            task = self._child.task
        else:
            options["activity_id"] = id
            task = workflow.start_activity(target, **options)
        self._history_at_start = info.get_current_history_length()
        return task

    def request_cancel(self) -> None:
        """Ask the call to end. The task is done when the call has ended."""
        if self.outcome is None and not self.task.done():
            self._cancel(self.task)

    def stop_waiting(self) -> None:
        """Do not wait for a person, now or later. A plain step never does."""

    def _cancel(self, task: asyncio.Task[Any]) -> None:
        # The history has not grown since the command was given, so the command never left this worker. The SDK's core
        # drops both commands (measured: no ActivityTaskScheduled). A child's cancel waits until the child has started.
        if self._child is None:
            self._never_sent |= workflow.info().get_current_history_length() == self._history_at_start
        (self._child or task).cancel()

    def settle(self, ended: Moment, may_repeat: Callable[[], bool]) -> None:
        """Record the outcome of the call, whose task is done.

        If the step may repeat what the saga did before a reset, nothing proves that the step had no effect.
        """
        task = self.task
        del self.task  # a run may have thousands of steps: do not hold their results
        if self._child is not None:
            del self._child
        self.ended = ended
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is None:
            self.outcome = Outcome.APPLIED
            return
        self.error = error
        self.raised = True
        self.outcome = Outcome.NOT_APPLIED if self._never_sent else outcome_of(error)
        if self.outcome is Outcome.NOT_APPLIED:
            if may_repeat():
                self.outcome = Outcome.UNKNOWN
            else:
                self.disarm()

    def join(self, steps: Sequence[Step]) -> None:
        """Let the steps of a child's saga take the place of this step, which then has nothing to undo itself."""
        self.disarm()
        self._joined = steps
        if self.raised:
            self.mark_raised()

    def mark_raised(self) -> None:
        """Note that the body did not get the result."""
        self.raised = True
        for step in self._joined:
            step.raised = True

    def disarm(self) -> None:
        """Forget the compensation: there is nothing to undo, or the effect is kept for good."""
        self.compensation = self.compensation_from = self.undo_state = None
        self.inputs = ()

    @property
    def what(self) -> str:
        """The step, as messages name it."""
        return f"step {self.name!r}"

    @property
    def undo_call(self) -> Call | Callback | None:
        """The call that undoes the step; None if it is not known."""
        if self.compensation is None or isinstance(self.compensation, (Call, Callback)):
            return self.compensation
        return Call(kind_of(self.compensation), self.compensation, self.inputs, {})

    @property
    def undo_name(self) -> str | None:
        """The name of the call that undoes the step; None if nothing is armed."""
        undo = self.compensation
        if undo is None:
            return getattr(self.compensation_from, "__name__", None)
        return undo.name if isinstance(undo, (Call, Callback)) else registered_name(undo)

    def report(self, *, is_kept: bool = False) -> StepReport:
        """Return the step as people see it. If its effect is kept, what is still armed never runs."""
        state = self.outcome.value if self.outcome else "RUNNING" if self.ticket is None else "PARKED"
        who, why = (None, None) if self.resolution is None else (self.resolution.who, self.resolution.why)
        undo_state = None if is_kept and self.undo_state == "PENDING" else self.undo_state
        return StepReport(self.name, self.key, state, self.undo_name, undo_state, who, why)


class ParkingStep(Step):
    """A step that, when it has failed for good, waits for a person instead of raising.

    While the step waits, it counts as in flight. A cancel ends the waiting.

    Attributes:
        park: Waits for the decision of a person. Returns None if a cancel comes first.
    """

    park: Callable[[Step, BaseException], Awaitable[Resolution | None]]
    _attempt: asyncio.Task[Any]  # the task of the call; `task` ends later, when nobody has to decide any more
    _waits_no_more = False
    _is_unknown = False  # True iff an attempt before the last one may have had an effect, or nobody decided

    def start(self, kind: Kind, target: Any, options: dict[str, Any], info: workflow.Info) -> asyncio.Task[Any]:
        """Give the command. Return a task that ends when the call has ended and nobody has to decide any more."""
        attempt = partial(super().start, kind, target, options, info)
        self._attempt = attempt()
        return asyncio.create_task(self._run(attempt))

    async def _run(self, attempt: Callable[[], asyncio.Task[Any]]) -> Any:
        while True:
            await UntilDone(self._attempt)
            try:
                return self._attempt.result()
            except Exception as error:
                if self._waits_no_more or saga_failure(error) is None or is_refusal(error):
                    raise
                resolution = await self.park(self, error)
                self._is_unknown |= resolution is None
                if resolution is None or resolution.action != "retry" or self._waits_no_more:
                    raise
            self._is_unknown = True
            self._attempt = attempt()

    def request_cancel(self) -> None:
        """Ask the call to end, and end the waiting."""
        self.stop_waiting()
        if self.outcome is None and not self._attempt.done():
            self._cancel(self._attempt)

    def stop_waiting(self) -> None:
        """Do not wait for a person, now or later. A running call goes on."""
        self._waits_no_more = True
        if self.ticket is not None and self.outcome is None:  # else it is the ticket of the step's undo
            self.ticket.settle(None)

    def settle(self, ended: Moment, may_repeat: Callable[[], bool]) -> None:
        """Record the outcome of the call. Its failure is proof only if the first attempt was the last."""
        del self._attempt
        super().settle(ended, lambda: self._is_unknown or may_repeat())


class _Child:
    """A child workflow as a step, in a task of the saga's own, which nobody cancels.

    If the workflow is cancelled while a child starts, the SDK gives the start up
    (`reraise_on_workflow_cancellation`), and the child would run on unseen. So a cancel waits until the child has
    started. It is sent only once, since the SDK would send each repetition too.
    """

    def __init__(self, target: Any, options: dict[str, Any]) -> None:
        self._handle: workflow.ChildWorkflowHandle[Any, Any] | None = None
        self._cancelled = False
        self.task = asyncio.create_task(self._run(target, options))

    async def _run(self, target: Any, options: dict[str, Any]) -> Any:
        self._handle = await workflow.start_child_workflow(target, **options)
        if self._cancelled:
            self._handle.cancel()
        return await self._handle

    def cancel(self) -> None:
        """Ask the child to end, once it has started."""
        if self._handle is not None and not self._cancelled:
            self._handle.cancel()
        self._cancelled = True
