"""What became of a step."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal

from temporalio import workflow
from temporalio.exceptions import ActivityError, TimeoutError, TimeoutType

from ._proof import says_no_effect

if TYPE_CHECKING:
    from ._compensation import Callback, Compensation
    from ._identity import Phase

__all__ = ["Outcome"]


class Outcome(str, Enum):
    """What is known of a step's effect."""

    APPLIED = "APPLIED"
    """It took effect: the step returned."""
    NOT_APPLIED = "NOT_APPLIED"
    """Proven never to have taken effect."""
    UNKNOWN = "UNKNOWN"
    """It may have: a timeout, a lost worker, a cancel, an error that proves nothing."""


def outcome_of(error: BaseException) -> Outcome:
    """Return what a step's error proves about its effect; UNKNOWN where it proves nothing.

    Proof is our mark as the last detail of what the activity raised, or a schedule-to-start timeout without a cause: no
    attempt was ever started. `ActivityError.started_event_id == 0` is none, since an attempt in backoff has it too
    (measured on server 1.32). A child workflow's error is none: it may have done more than its last activity.
    """
    if isinstance(error, ActivityError):
        cause = error.cause
        never_started = (
            isinstance(cause, TimeoutError) and cause.type == TimeoutType.SCHEDULE_TO_START and cause.cause is None
        )
        if never_started or says_no_effect(cause):
            return Outcome.NOT_APPLIED
    return Outcome.UNKNOWN


class StepRecord:
    """One step of a saga, from the call to its undo; or a compensation pushed by hand, which has no step."""

    __slots__ = (
        "_cancel",
        "_never_sent",
        "_sent_after",
        "compensation",
        "compensation_from",
        "ended",
        "error",
        "input",
        "key",
        "name",
        "outcome",
        "phase",
        "place",
        "raised",
        "task",
        "undo_state",
    )

    def __init__(
        self,
        name: str,
        key: str,
        *,
        phase: Phase = "undo",
        input: list[Any] | None = None,
        compensation: Compensation | Callback | None = None,
        compensation_from: Callable[[Any], Any] | None = None,
    ) -> None:
        self.name = name
        self.key = key
        self.phase: Phase = phase  # of its undo: "push" if there was no step
        self.input = input
        self.compensation = compensation
        self.compensation_from = compensation_from
        self.place: tuple[int, ...] = ()  # when it began, on the saga's clock of events
        self.ended: tuple[int, ...] = ()
        self.outcome: Outcome | None = None  # None while it runs
        self.error: BaseException | None = None
        self.raised = False  # so that a swallowed failure can be told from a success
        armed = compensation is not None or compensation_from is not None
        self.undo_state: Literal["PENDING", "RUNNING", "DONE", "FAILED"] | None = "PENDING" if armed else None

    def started(self, task: asyncio.Task[Any], cancel: Callable[[], object]) -> None:
        """Note that the command is given: `task` is the call, `cancel` asks it to end."""
        self.task = task
        self._cancel = cancel
        self._sent_after = workflow.info().get_current_history_length()
        self._never_sent = False

    def request_cancel(self) -> None:
        """Ask the call to end; its task is done when it has."""
        if self.outcome is not None or self.task.done():
            return
        # The history has not grown since the command was given, so it never left this worker: the SDK's core drops it,
        # and the history shows no trace of the step (measured: no ActivityTaskScheduled). A child's cancel waits until
        # it has started, so it has always left.
        if isinstance(self.task, workflow.ActivityHandle):
            self._never_sent |= workflow.info().get_current_history_length() == self._sent_after
        self._cancel()

    def settle(self, *, may_repeat: Callable[[], bool]) -> None:
        """Read what became of the call. Its task is done.

        Where it may repeat what an earlier life of the saga did, nothing proves that it had no effect.
        """
        task = self.task
        del self.task  # a run may hold thousands of records, and need not hold their results
        del self._cancel
        self.error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if self.error is None:
            self.outcome = Outcome.APPLIED
            return
        self.raised = True
        self.outcome = Outcome.NOT_APPLIED if self._never_sent else outcome_of(self.error)
        if self.outcome is Outcome.NOT_APPLIED:
            if may_repeat():
                self.outcome = Outcome.UNKNOWN
            else:
                self.disarm()

    def disarm(self) -> None:
        """Forget the compensation: there is nothing to undo, or it is kept for good."""
        self.compensation = self.compensation_from = None
        self.undo_state = None

    @property
    def undo_name(self) -> str | None:
        """The name of what undoes it, None if nothing is armed."""
        if self.compensation is not None:
            return self.compensation.name
        return getattr(self.compensation_from, "__name__", None)


_GROUP: Any = getattr(builtins, "BaseExceptionGroup", ())  # Python 3.11


def _leaves(error: Any) -> list[BaseException]:
    if isinstance(error, _GROUP):
        return [leaf for part in error.exceptions for leaf in _leaves(part)]
    return [error]


def bug_in(error: BaseException) -> Exception | None:
    """Return the first leaf of an error that is neither a failure nor a cancellation: a bug. Control flow is none."""
    for leaf in _leaves(error):
        if isinstance(leaf, Exception) and not workflow.is_failure_exception(leaf):
            return leaf
    return None


def saga_failure(error: BaseException) -> BaseException | None:
    """Return the exception for which a saga unwinds, or None if `error` is not one.

    What fails a workflow unwinds, and so does cancellation. A group counts as its leaves: it unwinds if each does, and
    what goes on is its first leaf that is no cancellation. Anything else is a bug, or the SDK's own control flow.
    """
    leaves = _leaves(error)
    cancels = [leaf for leaf in leaves if isinstance(leaf, asyncio.CancelledError)]
    failures = [leaf for leaf in leaves if not isinstance(leaf, asyncio.CancelledError)]
    # A BaseException is control flow: the SDK's own, or a GeneratorExit outside of the workflow's event loop.
    if not all(isinstance(leaf, Exception) and workflow.is_failure_exception(leaf) for leaf in failures):
        return None
    return [*failures, *cancels][0]
