"""Who sent a cancel, and what it does.

asyncio raises the same `CancelledError` for every sender. Only this module tells the senders apart:

| who sent the cancel               | before the pivot                     | after the pivot                          |
|-----------------------------------|--------------------------------------|------------------------------------------|
| the worker, to evict a run        | leaves no trace                      | leaves no trace                          |
| the saga's own deadline           | unwinds, raises SagaDeadlineExceeded | the deadline has stopped                 |
| the workflow, which was cancelled | unwinds                              | waits until the saga has ended           |
| anybody else: a timeout, a task   | unwinds                              | the step runs to its end, then unwinds   |

Once an unwind has begun, no cancel interrupts it. The scope keeps the cancel, and gives it back at the end.

How each sender is known:

* The worker's cancel: `raise_if_evicted` comes before anything else.
* The workflow's cancel, with `SagaPlugin`: it arrives at one place, the run's `Gate`. The gate holds the cancel while a
  saga of the main method is past its pivot. So a `CancelledError` in the body is never a workflow's cancel that has to
  wait.
* The workflow's cancel, without the plugin: it arrives in the main method's task like any other cancel.
  `Pivot.hold_if_workflows` and `Pivot.is_relayed` guess: the first cancel of that task since the workflow was cancelled
  is the workflow's. A timeout that expires in the same moment is taken for the workflow's cancel.
* The deadline's cancel: by count, as in `asyncio.timeout`. `Task.cancelling()` counts each `Task.cancel()`, and the
  sender takes its cancel back with `Task.uncancel()`. The deadline takes its own back. If others are left, somebody
  else has cancelled too, and the `CancelledError` goes on to them. Python 3.10 does not count: there only the
  workflow's cancel is told from the deadline's.

The clock of this module is the length of the history, which is the same for all code of one activation.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

from temporalio import workflow
from temporalio.exceptions import is_cancelled_exception

from ._waiting import until_idle

_DEADLINE = "the deadline of a saga has passed"
_GIVEN_BACK = "given back after an unwind"


def chained(cancel: asyncio.CancelledError, first: BaseException | None) -> asyncio.CancelledError:
    """Return a cancel that came while a first one waited to be raised, with the first one as its context.

    One `CancelledError` is raised for both. `Cancels.take_back_deadline` finds both in it.
    """
    if first is not None and first is not cancel:
        cancel.__context__ = first
    return cancel


class Gate:
    """The place where the workflow's cancel arrives. The plugin makes one for each run."""

    def __init__(self) -> None:
        self.reached_main_at: int | None = None  # when the main method got the workflow's cancel
        self._main: asyncio.Task[Any] | None = None  # the main method's task, once it has begun
        self._waiting: list[Any] = []  # cancels that have not been handed on
        self._holders = 0  # how many sagas of the main method are past their pivot

    @property
    def is_closed(self) -> bool:
        """True iff a cancel waits here."""
        return bool(self._waiting)

    def begin(self, main: asyncio.Task[Any]) -> None:
        """Hand on the cancels that came before the main method began, once it has begun.

        A task that is cancelled before it begins never runs.
        """
        self._main = main
        asyncio.get_running_loop().call_soon(self.hand_on)

    def arrive(self, msg: Any) -> None:
        """Take the workflow's cancel. Unless a saga holds it, hand it on before this call returns.

        If it were handed on a turn of the loop later, other jobs of the activation would overtake it. A run that began
        without the plugin would then not replay with the plugin.
        """
        self._waiting.append(msg)
        self.hand_on()

    def hold(self) -> None:
        """Hold the workflow's cancel for a saga that has passed its pivot."""
        self._holders += 1

    def release(self) -> asyncio.Task[Any] | None:
        """Stop holding for one saga. If a cancel waits and no other saga holds it, return the task that gets it."""
        self._holders -= 1
        return self._main if self.is_closed and not self._holders else None

    def hand_on(self) -> None:
        """Cancel the main method, unless a saga holds the cancel."""
        if self._main is None or self._holders:
            return
        while self._waiting:
            self.reached_main_at = workflow.info().get_current_history_length()
            self._main.cancel(self._waiting.pop(0))


gates: ContextVar[Gate | None] = ContextVar("temporal_saga_gate", default=None)
"""The gate of the run that the current code belongs to; None without `SagaPlugin`."""


class Arrivals:
    """The cancels of one run: when the workflow's came, and which are being given back to a task."""

    # The tasks that are about to get a cancel back in this turn of the loop, each with its count before that cancel.
    owed: Mapping[asyncio.Task[Any], int] = {}
    given_back_at: Mapping[asyncio.Task[Any], int] = {}  # when a task got the cancel back
    _seen_at: int | None = None  # without the plugin: when this class first saw that the workflow was cancelled
    _watcher: asyncio.Task[None] | None = None

    def __init__(self) -> None:
        self.gate = gates.get()

    def watch(self) -> None:
        """Without the plugin: look for the workflow's cancel from now on."""
        if self.gate is None and self._watcher is None:
            self._watcher = asyncio.create_task(workflow.wait_condition(lambda: self.cancelled_at() is not None))

    def owe(self, task: asyncio.Task[Any], count: int) -> None:
        """Note that a task is about to get a cancel, in addition to the `count` that it has had."""

        def forget() -> None:
            self.owed = {other: had for other, had in self.owed.items() if other is not task}

        self.owed = {**self.owed, task: count}
        asyncio.get_running_loop().call_soon(forget)

    def cancelled_at(self) -> int | None:
        """Return when the workflow's cancel came; without the plugin, when this method first saw it."""
        if self.gate is not None:
            return self.gate.reached_main_at
        if self._seen_at is None and workflow.cancellation_reason() is not None:
            self._seen_at = workflow.info().get_current_history_length()
        return self._seen_at


class Pivot:
    """The point of no return of one saga, and what happens to the workflow's cancel after it.

    Args:
        arrivals: The cancels of the run.
        main_task: The task that entered the saga, if the workflow's cancel may have to wait for the saga. With the
            plugin that is any task of the main method's; without the plugin, only the main method's own task.
    """

    __slots__ = ("_arrivals", "_cancelled_before", "_gate", "_main_task", "_stopped_at_main", "held", "is_passed")

    def __init__(self, arrivals: Arrivals, main_task: asyncio.Task[Any] | None) -> None:
        self._arrivals = arrivals
        self._gate = arrivals.gate if main_task is not None else None
        self._main_task = main_task
        self.is_passed = False
        # The workflow's cancel, unless the gate holds it. It is raised when the saga ends.
        self.held: BaseException | None = None
        self._cancelled_before = False  # True iff the workflow had been cancelled when the pivot was passed
        # Without the plugin: True iff the main method's own task has held the cancel in a step. Then no gather or
        # TaskGroup relays the cancel to other tasks.
        self._stopped_at_main = False

    @property
    def is_barred(self) -> bool:
        """True iff the workflow's cancel waits for another saga. Then this one must not pass its pivot.

        Only before the pivot: after it, the cancel waits for this saga too.
        """
        return self._gate is not None and self._gate.is_closed

    def pass_(self) -> None:
        """Pass the pivot: from here on the workflow's cancel waits."""
        if self._gate is not None and not self.is_passed:
            self._gate.hold()
        # A second pivot changes nothing: the cancel may have come since the first one.
        self._cancelled_before |= not self.is_passed and workflow.cancellation_reason() is not None
        self.is_passed = True

    def is_holding_a_cancel(self) -> bool:
        """Tell whether the workflow's cancel waits for this saga."""
        return self.is_passed and (self.held is not None or (self._gate is not None and self._gate.is_closed))

    def end(self) -> bool:
        """Note that the saga has ended. Return whether the workflow's cancel has waited for it."""
        main = self._gate.release() if self._gate is not None and self.is_passed else None
        if self._gate is None or main is None:
            return False
        # The main method's task may be the running one. Its count rises at once, and it gets the cancel at its next
        # await.
        self._arrivals.owe(main, _count(main))
        self._gate.hand_on()
        return True

    def hold_if_workflows(self, cancel: BaseException) -> bool:
        """If this is the workflow's cancel and it came after the pivot, hold it. Return whether it is held.

        Only without the plugin. With the plugin the gate holds the cancel.
        """
        if (
            not self._may_be_the_workflows(cancel)
            or asyncio.current_task() is not self._main_task
            or self.held not in (None, cancel)  # the workflow's cancel arrives once, so a second one is another's
        ):
            return False
        if self.held is None and sys.version_info >= (3, 11) and self._main_task is not None:
            self._main_task.uncancel()
        self.held = cancel
        return True

    def hold_in_a_step(self, cancel: BaseException) -> bool:
        """Do as `hold_if_workflows`, for a cancel of a step that the current task waits for."""
        held = self.hold_if_workflows(cancel)
        self._stopped_at_main |= held
        return held

    def is_relayed(self, cancel: BaseException) -> bool:
        """Tell whether this is the workflow's cancel, relayed to this task by a gather, a TaskGroup or wait_for.

        The main method gets the cancel as well, and holds it. Only without the plugin.
        """
        return (
            self._may_be_the_workflows(cancel)
            and asyncio.current_task() is not self._main_task
            and self._main_task is not None
            and not self._stopped_at_main
        )

    def _may_be_the_workflows(self, cancel: BaseException) -> bool:
        return (
            self._gate is None
            and self.is_passed
            and not self._cancelled_before
            and workflow.cancellation_reason() is not None
            and is_cancelled_exception(cancel)  # a plain activity in the body turns the cancel into an ActivityError
        )


class Cancels:
    """The cancels of one scope's owner, counted as asyncio counts them.

    Args:
        owner: The task that entered the scope.
        arrivals: The cancels of the run. Each method asks `cancelled_at()`, since without the plugin nobody else looks.
        is_main: Whether the owner is one of the main method's tasks, which the workflow's cancel reaches.
    """

    expired = False  # True iff the deadline has passed, and its cancel has been sent
    kept: asyncio.CancelledError | None = None  # the last cancel that came during the unwind
    expires_at: float | None = None  # on the event loop's clock; None without a deadline, or if it was stopped in time
    _timer: asyncio.TimerHandle | None = None
    _watcher: asyncio.Task[None]
    _handled: BaseException | None = None  # the exception that was being handled when the scope was entered
    _expired_at = 0  # the length of the history when the deadline passed
    _unwound_at = 0  # the length of the history when the unwind began; 0 before that
    _count_at_unwind = 0
    _others_cancelled: bool | None = None  # the answer of `take_back_deadline`; None until it was called

    def __init__(self, owner: asyncio.Task[Any], arrivals: Arrivals, *, is_main: bool) -> None:
        self._owner = owner
        self._arrivals = arrivals
        self.is_main = is_main
        self._count = _count(owner)  # the cancels from before the scope
        self._may_reach_owner = is_main  # whether the workflow's cancel may reach the owner inside the scope
        if arrivals.cancelled_at() is not None:
            self._may_reach_owner = is_main and self._is_underway()
            if self._may_reach_owner:
                self._watcher = asyncio.create_task(self._see_whether_it_arrives())

    # --- the deadline ------------------------------------------------------------------------------------------------

    def set_deadline(self, seconds: float) -> None:
        """Cancel the owner when the time is over."""
        loop = asyncio.get_running_loop()
        self.expires_at = loop.time() + seconds
        self._handled = sys.exc_info()[1]
        self._arrivals.watch()
        self._timer = loop.call_later(max(seconds, 0.001), self._expire)

    def stop_deadline(self) -> None:
        """Stop the deadline, if it has not passed."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = self.expires_at = None

    def _expire(self) -> None:
        self._timer = None
        self.expired = True
        self._expired_at = workflow.info().get_current_history_length()
        self._arrivals.cancelled_at()
        self._owner.cancel(_DEADLINE)

    def take_back_deadline(self, cancel: BaseException | None = None) -> bool:
        """After an expiry: take the deadline's cancel back, once. Return whether somebody else has cancelled too.

        Args:
            cancel: The cancel that leaves the body, if one does.
        """
        if self._others_cancelled is None:
            if sys.version_info >= (3, 11):
                # Two kinds do not count as somebody else's: cancels from before the scope, and the workflow's cancel
                # if the body swallowed it before the expiry.
                swallowed = self._reached_owner_at() is not None and not self._has_workflows(cancel)
                self._others_cancelled = self._owner.uncancel() > self._count + swallowed
            else:
                self._others_cancelled = self._has_workflows(cancel)
        return self._others_cancelled

    # --- the unwind --------------------------------------------------------------------------------------------------

    def begin_unwind(self) -> None:
        """Note that cancels are kept from here on. All earlier ones have reached the body."""
        self.stop_deadline()
        if self.expired:
            self.take_back_deadline()
        if self._unwound_at:
            return
        self._unwound_at = workflow.info().get_current_history_length()
        self._arrivals.cancelled_at()
        # The error that began this unwind may come from a saga inside, which is just giving a cancel back.
        self._count_at_unwind = self._arrivals.owed.get(self._owner, _count(self._owner))

    def keep(self, cancel: asyncio.CancelledError) -> None:
        """Keep a cancel that must not interrupt the unwind."""
        if self.kept is None and _count(self._owner) == self._count_at_unwind:
            # It was sent before: the owner, or a `TaskGroup` in it, has cancelled the owner and awaited nothing since.
            self._count_at_unwind -= 1
        self.kept = chained(cancel, self.kept)

    def give_back(self) -> None:
        """Deliver the kept cancel at the owner's next await, if its sender still counts on it.

        Look in the next turn of the loop. If the scope's error went straight on to the timeout that sent the cancel,
        the timeout has taken its cancel back by then, and nothing is delivered.
        """
        if sys.version_info >= (3, 11):
            owner, count, arrivals = self._owner, self._count_at_unwind, self._arrivals
            came_at = self._reached_owner_at()
            if came_at is not None and came_at > self._unwound_at:
                # Nobody takes the workflow's cancel back. A timeout that came before it may have taken its own back.
                count = 0

            def deliver() -> None:
                if not owner.done() and owner.cancelling() > count:
                    now = workflow.info().get_current_history_length()
                    arrivals.given_back_at = {**arrivals.given_back_at, owner: now}
                    owner.uncancel()
                    owner.cancel()

            asyncio.get_running_loop().call_soon(deliver)
            self._arrivals.owe(owner, count)
            return
        came_at = self._arrivals.cancelled_at()
        # Perhaps the scope was entered in the same activation, before the workflow's cancel reached the owner.
        came = came_at is not None and came_at >= self._unwound_at
        if came or (self.kept is not None and self.kept.args in ((_DEADLINE,), (_GIVEN_BACK,))):
            self._owner.cancel(_GIVEN_BACK)

    def _is_underway(self) -> bool:
        # Without the plugin, a cancel is known before it reaches the owner, which it does in the same activation.
        return self._arrivals.gate is None and not self._count and _is_now(self._arrivals.cancelled_at())

    async def _see_whether_it_arrives(self) -> None:
        await until_idle()
        if sys.version_info >= (3, 11):
            self._may_reach_owner = _count(self._owner) > self._count

    def is_on_its_way(self) -> bool:
        """Tell whether the workflow's cancel has come in this activation, and has not reached the owner yet.

        Each group, and each task around the owner, takes a turn of the loop to relay the cancel.
        """
        return (
            sys.version_info >= (3, 11)
            and self._arrivals.gate is not None
            and self._may_reach_owner
            and _is_now(self._arrivals.cancelled_at())
            and _count(self._owner) == self._count
        )

    def deliver(self) -> None:
        """Deliver the workflow's cancel, which `Pivot` has held, at the owner's next await."""
        self._owner.cancel(_GIVEN_BACK)

    def _has_workflows(self, cancel: BaseException | None) -> bool:
        """Tell whether the workflow's cancel was leaving the body when the deadline passed, or has come since then.

        A body that was still on its way out has not swallowed the cancel. Python chains the deadline's cancel to it.
        A plain activity turns the workflow's cancel into an ActivityError. Of several cancels, the end of a `TaskGroup`
        raises the first.
        """
        came_at = self._reached_owner_at()
        if came_at is None:
            return False
        if type(cancel) is asyncio.CancelledError and cancel.args != (_DEADLINE,):
            return True
        passing = cancel.__context__ if cancel is not None else None
        while passing is not None and passing is not self._handled:
            if is_cancelled_exception(passing):
                return True
            passing = passing.__context__
        return came_at >= self._expired_at

    def _reached_owner_at(self) -> int | None:
        """Return when the workflow's cancel came to the owner inside the scope; None if it did not."""
        if not self._may_reach_owner:
            return None
        return self._arrivals.given_back_at.get(self._owner, self._arrivals.cancelled_at())


def _is_now(at: int | None) -> bool:
    return at == workflow.info().get_current_history_length()


def _count(task: asyncio.Task[Any]) -> int:
    if sys.version_info >= (3, 11):
        return task.cancelling()
    return 0
