"""One step of a saga: armed, started, settled, undone. A step knows no scope."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, cast

from temporalio import workflow

from ._compensation import Callback, Compensation, registered_name
from ._identity import Phase
from ._outcome import Outcome, is_refusal, outcome_of, saga_failure
from ._parking import Resolution, Ticket
from ._report import StepReport
from ._typing import Kind, Moment
from ._waiting import UntilDone, raise_if_evicted

__all__ = ["ACTIVITY_OPTIONS", "ParkingStep", "Step"]

# An undo must not overtake its own step: a cancelled step is awaited until it has ended.
ACTIVITY_OPTIONS: dict[str, Any] = {"cancellation_type": workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED}
_CHILD_OPTIONS: dict[str, Any] = {
    "cancellation_type": workflow.ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
    "parent_close_policy": workflow.ParentClosePolicy.REQUEST_CANCEL,
}


UndoState = Literal["PENDING", "RUNNING", "DONE", "FAILED", "PARKED", "BY_HAND", "GIVEN_UP"]


class Step:
    """One step, from its call to its undo; or a compensation pushed by hand, which has only the undo.

    Args:
        name: The step's name.
        key: The step's key.
        phase: That of its undo: "push" without a step.
        inputs: The step's arguments.
        compensation: What undoes the step. A bare activity, workflow or name is called with `inputs`.
        compensation_from: What chooses the compensation, once the outcome is known.
    """

    began: Moment = ()
    ended: Moment = ()
    outcome: Outcome | None = None  # None while the step runs
    error: BaseException | None = None
    raised = False  # True iff the body got an error or a cancel in place of a result; the body may have swallowed that
    undo_state: UndoState | None = None  # None if nothing is armed
    undo_error: BaseException | None = None
    ticket: Ticket | None = None  # while the step, or its undo, waits for a person
    resolution: Resolution | None = None  # what a person has decided last
    inputs: list[Any] | None = None  # held while something is armed
    task: asyncio.Task[Any]  # of the call, while the step is in flight
    _call: Any  # what asks the call to end, while the step is in flight
    _history_at_start = 0
    _never_sent = False
    _joined: Sequence[Step] = ()  # the entries of a child's saga, which took the place of this step

    def __init__(
        self,
        name: str,
        key: str,
        phase: Phase = "undo",
        inputs: list[Any] | None = None,
        compensation: Any = None,
        compensation_from: Callable[[Any], Any] | None = None,
    ) -> None:
        self.name = name
        self.key = key
        self.phase: Phase = phase
        self.compensation = compensation
        self.compensation_from = compensation_from
        if compensation is not None or compensation_from is not None:
            self.undo_state = "PENDING"
            self.inputs = inputs

    def start(self, kind: Kind, target: Any, options: dict[str, Any], info: workflow.Info) -> asyncio.Task[Any]:
        """Give the command. Returns the task of the call, which ends when the call has ended."""
        id = f"{self.name}:do:{self.key}"  # `step_id`, without the call: each step passes here
        if kind == "child":
            raise_if_evicted()
            call: Any = _Child(target, {"id": id, **_CHILD_OPTIONS, **options})
            self.begin(call, call.task)
        else:
            options["activity_id"] = id
            self._call = self.task = workflow.start_activity(target, **options)
        self._history_at_start = info.get_current_history_length()
        return self.task

    def begin(self, call: Any, task: asyncio.Task[Any]) -> None:
        """Note the call, which is in flight: `call.cancel()` asks it to end, and `task` ends with it."""
        self._call = call
        self.task = task

    def request_cancel(self) -> None:
        """Ask the call to end; its task is done when the call has ended."""
        if self.outcome is not None or self.task.done():
            return
        # The history has not grown since the command was given, so the command never left this worker. The SDK's core
        # drops both commands (measured: no ActivityTaskScheduled). A child's cancel waits until the child has started.
        if isinstance(cast(object, self._call), workflow.ActivityHandle):
            self._never_sent |= workflow.info().get_current_history_length() == self._history_at_start
        self._call.cancel()

    def settle(self, ended: Moment, may_repeat: Callable[[], bool]) -> None:
        """Read what became of the call, whose task is done.

        If the step may repeat what an earlier life of the saga did, nothing proves that the step had no effect.
        """
        task = self.task
        del self.task, self._call  # a run may hold thousands of steps, and need not hold their results
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
        """Let the entries of a child's saga take the place of this step, which has nothing to undo itself."""
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
        self.compensation = self.compensation_from = self.inputs = None
        self.undo_state = None

    @property
    def what(self) -> str:
        """What a message calls it."""
        return f"step {self.name!r}"

    @property
    def undo(self) -> Compensation | Callback | None:
        """What undoes the step; None if that is not known."""
        if self.compensation is None or isinstance(self.compensation, (Compensation, Callback)):
            return self.compensation
        return Compensation(self.compensation, args=self.inputs or [])

    @property
    def undo_name(self) -> str | None:
        """The name of what undoes the step; None if nothing is armed."""
        undo = self.compensation
        if undo is None:
            return getattr(self.compensation_from, "__name__", None)
        return undo.name if isinstance(undo, (Compensation, Callback)) else registered_name(undo)

    def report(self) -> StepReport:
        """Return what people see of the step."""
        state = self.outcome.value if self.outcome else "RUNNING" if self.ticket is None else "PARKED"
        who, why = (None, None) if self.resolution is None else (self.resolution.who, self.resolution.why)
        return StepReport(self.name, self.key, state, self.undo_name, self.undo_state, who, why)


class ParkingStep(Step):
    """A step that waits for a person when it has failed for good, in place of raising.

    To the rest it is in flight meanwhile. A cancel ends the waiting.

    Attributes:
        park: Waits for the decision of a person; None if a cancel comes first.
    """

    park: Callable[[Step, BaseException], Awaitable[Resolution | None]]
    _is_cancelled = False
    _is_unknown = False  # True iff an attempt before the last one may have had an effect, or nobody decided

    def start(self, kind: Kind, target: Any, options: dict[str, Any], info: workflow.Info) -> asyncio.Task[Any]:
        """Give the command. Returns a task that ends when the call has ended, and nobody has to decide anything."""

        def start() -> asyncio.Task[Any]:
            return super(ParkingStep, self).start(kind, target, options, info)

        self.task = asyncio.create_task(self._run(start, start()))
        return self.task

    async def _run(self, start: Callable[[], asyncio.Task[Any]], task: asyncio.Task[Any]) -> Any:
        this = self.task
        while True:
            await UntilDone(task)
            try:
                return task.result()
            except Exception as error:
                if self._is_cancelled or saga_failure(error) is None or is_refusal(error):
                    raise
                resolution = await self.park(self, error)
                self._is_unknown |= resolution is None
                if resolution is None or resolution.action != "retry":
                    raise
            self._is_unknown = True
            task = start()
            self.task = this

    def request_cancel(self) -> None:
        """Ask the call to end, or the waiting."""
        self._is_cancelled = True
        if self.ticket is not None:
            self.ticket.settle(None)
        else:
            super().request_cancel()

    def settle(self, ended: Moment, may_repeat: Callable[[], bool]) -> None:
        """Read what became of the call: only if the first attempt was the last can it prove anything."""
        super().settle(ended, lambda: self._is_unknown or may_repeat())


class _Child:
    """A child workflow as a step: in a task of the saga's own, which nobody cancels.

    The SDK gives a start up when the workflow is cancelled meanwhile (`reraise_on_workflow_cancellation`), and the
    child would run on unseen. So a cancel waits until the child has started. The cancel is sent once: the SDK would
    repeat it.
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
