"""One step of a saga: armed, started, settled, undone. A step knows no scope."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Literal

from temporalio import workflow

from ._compensation import Call, Callback, kind_of, registered_name
from ._identity import Phase
from ._outcome import Outcome, outcome_of
from ._report import StepReport
from ._typing import Kind, Moment
from ._waiting import raise_if_evicted

# An undo must not overtake its own step: a cancelled step is awaited until it has ended.
ACTIVITY_OPTIONS: dict[str, Any] = {"cancellation_type": workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED}
_CHILD_OPTIONS: dict[str, Any] = {
    "cancellation_type": workflow.ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
    "parent_close_policy": workflow.ParentClosePolicy.REQUEST_CANCEL,
}


class Step:
    """One step, from its call to its undo; or a compensation pushed by hand, which has only the undo.

    Args:
        name: The step's name.
        key: The step's key.
        compensation: What undoes the step. A bare activity, workflow or name is called with `inputs`.
        compensation_from: What chooses the compensation, once the outcome is known.
        inputs: The step's arguments.
    """

    phase: Phase = "undo"  # that of its undo: "push" without a step
    compensation_from: Callable[[Any], Any] | None = None
    began: Moment = ()
    ended: Moment = ()
    outcome: Outcome | None = None  # None while the step runs
    error: BaseException | None = None
    raised = False  # True iff the body got an error or a cancel in place of a result; the body may have swallowed that
    undo_state: Literal["PENDING", "RUNNING", "DONE", "FAILED"] | None = None  # None if nothing is armed
    undo_error: BaseException | None = None
    inputs: tuple[Any, ...] = ()  # held while something is armed
    is_told = False  # True iff its failed undo is in the log
    task: asyncio.Task[Any]  # of the call, while the step is in flight
    _child: _Child | None = None  # while a step that is a child workflow is in flight
    _history_at_start = 0
    _never_sent = False
    _joined: Sequence[Step] = ()  # the entries of a child's saga, which took the place of this step

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
        """Give the command. Returns the task of the call, which ends when the call has ended."""
        id = f"{self.name}:do:{self.key}"  # `step_id`, without the call: each step passes here
        if kind == "child":
            raise_if_evicted()
            self._child = _Child(target, {"id": id, **_CHILD_OPTIONS, **options})
            self.task = self._child.task
        else:
            options["activity_id"] = id
            self.task = workflow.start_activity(target, **options)
        self._history_at_start = info.get_current_history_length()
        return self.task

    def request_cancel(self) -> None:
        """Ask the call to end; its task is done when the call has ended."""
        if self.outcome is not None or self.task.done():
            return
        # The history has not grown since the command was given, so the command never left this worker. The SDK's core
        # drops both commands (measured: no ActivityTaskScheduled). A child's cancel waits until the child has started.
        if self._child is None:
            self._never_sent |= workflow.info().get_current_history_length() == self._history_at_start
        (self._child or self.task).cancel()

    def settle(self, ended: Moment, may_repeat: Callable[[], bool]) -> None:
        """Read what became of the call, whose task is done.

        If the step may repeat what an earlier life of the saga did, nothing proves that the step had no effect.
        """
        task = self.task
        del self.task  # a run may hold thousands of steps, and need not hold their results
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
        self.compensation = self.compensation_from = self.undo_state = None
        self.inputs = ()

    @property
    def what(self) -> str:
        """What a message calls it."""
        return f"step {self.name!r}"

    @property
    def undo(self) -> Call | Callback | None:
        """What undoes the step; None if that is not known."""
        if self.compensation is None or isinstance(self.compensation, (Call, Callback)):
            return self.compensation
        return Call(kind_of(self.compensation), self.compensation, self.inputs, {})

    @property
    def undo_name(self) -> str | None:
        """The name of what undoes the step; None if nothing is armed."""
        undo = self.compensation
        if undo is None:
            return getattr(self.compensation_from, "__name__", None)
        return undo.name if isinstance(undo, (Call, Callback)) else registered_name(undo)

    def report(self) -> StepReport:
        """Return what people see of the step."""
        state = self.outcome.value if self.outcome else "RUNNING"
        return StepReport(self.name, self.key, state, self.undo_name, self.undo_state)


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
