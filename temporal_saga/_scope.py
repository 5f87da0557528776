"""The scope of a saga or of a savepoint: its state, its contents, and which calls it admits.

    async with Saga() as saga:                                             # OPEN
        await saga.execute_activity(withdraw, transfer, compensation=...)  # _execute.py: arm, start, wait, settle
        ...                                                                # _leave.py:
                                                                           # body ends well: COMPLETED
                                                                           # body ends badly: UNWINDING, then
                                                                           #     COMPENSATED or INCOMPLETE

Once a scope unwinds (`_unwind.py`), no step starts in it. A call of a step is held until the unwind has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum
from typing import Any, cast

from temporalio import workflow

from ._cancels import Cancels
from ._metrics import count
from ._outcome import type_name
from ._report import SagaReport
from ._run import in_main_method
from ._shared import Shared
from ._stack import Stack
from ._step import Step
from ._waiting import fail_task, wait_through_cancels
from .errors import CompensationError, SagaClosed

UNWOUND = "the saga has been unwound"
"""The message of the `CancelledError` that a held caller gets."""


def unwound() -> asyncio.CancelledError:
    """Return what a held caller of a step gets once its saga has been unwound."""
    # Not a subclass: `TaskGroup.__aexit__` and `Timeout.__aexit__` compare the type with `is` up to Python 3.12.
    return asyncio.CancelledError(UNWOUND)


class State(Enum):
    """The state of a scope."""

    OPEN = "OPEN"
    UNWINDING = "UNWINDING"
    COMPLETED = "COMPLETED"
    COMPENSATED = "COMPENSATED"
    INCOMPLETE = "INCOMPLETE"
    DETACHED = "DETACHED"
    MERGED = "MERGED"
    """A savepoint that has ended well, or that a scope around it undoes. Its steps belong to its parent."""


@dataclass(eq=False)
class Undoing:
    """An unwind, or the undo of one step, as seen by the code that it runs."""

    scope: Scope
    is_over: bool = False


undoing: ContextVar[tuple[Undoing, ...]] = ContextVar("temporal_saga_undoing", default=())
"""The unwinds and undos that run the current code (a callback). Such code must not wait for them."""


@contextmanager
def undoing_in(scope: Scope) -> Generator[None, None, None]:
    """Note that the code of this task is part of an undo."""
    this = Undoing(scope)
    undoing.set((*undoing.get(), this))
    try:
        yield
    finally:
        this.is_over = True


class Scope:
    """A scope that has been entered.

    Args:
        shared: What the scopes of one saga share.
        parent: The scope around a savepoint; None for the saga's own.

    Attributes:
        owner: The task that entered the scope.
        stack: The scope's steps.
        cancels: The cancels of the owner.
        entry: The scope's number in the run, in order of entry.
        undos: The tasks that undo single steps while the scope is open.
        savepoints: The open savepoints directly inside the scope.
        ended: Done when the scope has ended. A savepoint has it, and any scope once it unwinds.
    """

    state = State.OPEN
    has_ended = False  # True iff nothing may begin in the scope any more: it is neither OPEN nor UNWINDING
    has_left = False  # True iff its `async with` block has been left
    undos: Sequence[asyncio.Task[None]] = ()
    savepoints: Sequence[Scope] = ()
    ended: asyncio.Future[None]
    is_in_callback = False  # True iff a callback of another saga's unwind has entered this saga
    raised: CompensationError | None = None  # the error that says that an undo failed for good
    failed_for: BaseException | None = None  # the error that caused the first failed undo to run
    cancel_waited = False  # True iff the workflow's cancel had to wait for this saga
    on_push: Callable[[], None] | None = None  # set by an unwind, which takes what is armed while it runs

    def __init__(self, shared: Shared, parent: Scope | None) -> None:
        owner = asyncio.current_task()
        assert owner is not None
        self.owner = owner
        self.shared = shared
        self.parent = parent
        self.stack = Stack(shared)
        self.cancels = Cancels(owner, shared.run, is_main=in_main_method.get())
        shared.run.entries += 1
        self.entry = shared.run.entries

    async def enter_savepoint(self) -> Scope:
        """Enter a savepoint in this scope."""
        await self.admit("savepoint()")
        savepoint = Scope(self.shared, self)
        savepoint.ended = asyncio.get_running_loop().create_future()
        self.savepoints = [*self.savepoints, savepoint]
        return savepoint

    # --- who may enter -----------------------------------------------------------------------------------------------

    async def admit(self, what: str) -> None:
        """Let a step start or a savepoint open. Hold the caller while the scope unwinds."""
        # Refuse each callback of the saga, also that of another scope's unwind: this scope may start to unwind at any
        # time, and its drain would wait for the other scope. A task that a callback has left behind is refused only
        # while the scope of that callback unwinds.
        for each in undoing.get():
            if each.scope.shared is self.shared and (not each.is_over or each.scope.state is State.UNWINDING):
                raise self.shared.refuse(
                    f"a callback of saga {self.shared.name!r} called a step of the saga ({what}), which may have to "
                    "wait for itself: call workflow.execute_activity(...) in a callback"
                )
        if await self.waited_for_unwind():
            raise unwound()
        if self.state is not State.OPEN:
            error = self.closed(what)
            await fail_task(error)  # if it is misuse, and not SagaClosed
            raise error

    def closed(self, what: str) -> Exception:
        """Return what to raise for a call after the end. It is misuse if only the programmer can have caused it."""
        name = f"a savepoint of saga {self.shared.name!r}" if self.parent else f"saga {self.shared.name!r}"
        ended_well = self.merged_into().state in (State.OPEN, State.COMPLETED)  # open: a savepoint's parent
        if self.has_left and in_main_method.get() and (ended_well or asyncio.current_task() is self.owner):
            return RuntimeError(
                f"{what} was called after {name} had ended, where nothing would undo it: indent the line into the "
                "`async with` block, and await your tasks there" + (", or call it on the saga" if self.parent else "")
            )
        return SagaClosed(f"{name} has ended")

    async def waited_for_unwind(self) -> bool:
        """Hold the caller while this scope or one around it unwinds. Return whether one did."""
        scope = self.unwinding_scope()
        if scope is None:
            return False
        await wait_through_cancels(scope.ended)
        return True

    async def was_taken_over(self) -> bool:
        """Tell whether a scope around this savepoint has taken over its steps, to undo them. Wait for its end."""
        return await self.waited_for_unwind() or self.state is State.MERGED

    def push(self, step: Step) -> None:
        """Arm a compensation that was pushed by hand, in this scope or in the one that it has merged into."""
        scope = self.merged_into()
        if self.state is not State.OPEN and scope.state is not State.UNWINDING:
            raise self.closed("add_compensation()")
        scope.stack.push(step)
        if scope.on_push is not None:
            scope.on_push()

    # --- what is in it -----------------------------------------------------------------------------------------------

    def merged_into(self) -> Scope:
        """Return the scope that now has this scope's steps: this one, or one around it."""
        return self.parent.merged_into() if self.state is State.MERGED and self.parent is not None else self

    def unwinding_scope(self) -> Scope | None:
        """Return the innermost scope that unwinds, from this one outward; None if there is none."""
        scope: Scope | None = self
        while scope is not None and scope.state is not State.UNWINDING:
            scope = scope.parent
        return scope

    def open_savepoints(self) -> list[Scope]:
        """Return the savepoints inside that are still open, at any depth."""
        return [each for savepoint in self.savepoints for each in (savepoint, *savepoint.open_savepoints())]

    def in_progress(self) -> list[asyncio.Future[Any]]:
        """Return what the scope waits for before it ends well."""
        return [*(step.task for step in self.stack.in_flight), *self.undos, *(each.ended for each in self.savepoints)]

    @property
    def is_busy(self) -> bool:
        """Whether one of the scope's steps is in flight, or is being undone by `saga.undo(...)`."""
        return bool(self.stack.in_flight) or not all(task.done() for task in self.undos)

    @property
    def ends_by_itself(self) -> bool:
        """Whether the plugin must not cancel the saga: it unwinds, an unwind runs it, or it is past its pivot."""
        return self.state is State.UNWINDING or self.is_in_callback or self.shared.pivot.is_passed

    def has_steps_of(self, identity: tuple[str, int, str]) -> bool:
        """Tell whether the scope has, or had, the steps of the saga with this identity."""
        return self.shared.identity == identity and self.state is not State.DETACHED

    def holds_compensations(self) -> bool:
        """Tell whether something is armed, or being undone."""
        scopes = (self, *self.open_savepoints())
        return any(
            scope.stack.armed or scope.stack.failed or scope.undos or scope.state is State.UNWINDING for scope in scopes
        )

    def report(self) -> SagaReport:
        """Return what people see of the whole saga."""
        if self.parent is not None:
            return self.parent.report()
        are_kept = self.state is State.COMPLETED  # the effects of what is still armed
        steps = [step.report(is_kept=are_kept) for step in self.shared.steps]
        parked = not self.has_ended and any(step.ticket is not None for step in self.shared.steps)
        return SagaReport(self.shared.name, cast(Any, "PARKED" if parked else self.state.value), steps)

    # --- its end -----------------------------------------------------------------------------------------------------

    def close(self, state: State) -> None:
        """End the scope in this state, and release the callers that it holds."""
        has_unwound = self.state is State.UNWINDING
        self.state = state
        self.has_ended = True
        self.cancels.stop_deadline()
        if has_unwound:
            run = self.shared.run
            run.unwinding -= 1
            run.show_state()
            run.parking.show()
            self._log_end()
        parent = self.parent
        if parent is None:
            self.shared.run.open_sagas.remove(self)
            if state is not State.DETACHED:
                count("completed", "Sagas that have ended.", saga=self.shared.name, outcome=state.value.lower())
            self.cancel_waited = self.shared.pivot.end()
        else:
            if state is State.MERGED:
                parent.stack.take(self.stack.give())
            parent.note_failed(self.stack.failed, self.failed_for)
            parent.savepoints = [each for each in parent.savepoints if each is not self]
        if parent is not None or has_unwound:
            self.ended.set_result(None)  # the owner raises right after this, and the callers that were held go on then

    def _log_end(self) -> None:
        name = self.shared.name
        new = [step for step in self.stack.failed if not step.is_told]
        if not new:
            end = "is incomplete, as logged before" if self.stack.failed else "has unwound"
            workflow.logger.info("Saga %s %s", name, end, extra={"saga": name})
            return
        for step in new:
            step.is_told = True
        failed = "; ".join(f"{step.name!r} (key {step.key}): {type_name(step.undo_error)}" for step in new)
        extra = {"saga": name, "steps": [step.name for step in new], "keys": [step.key for step in new]}
        message = "Saga %s is incomplete. The undos of these steps failed for good, and their effects may stand: %s"
        workflow.logger.error(message, name, failed, extra=extra)

    def note_failed(self, failed: Sequence[Step], cause: BaseException | None) -> None:
        """Note undos that failed for good. `close` passes those of a savepoint on to its parent."""
        if failed and not self.stack.failed:
            self.failed_for = failed[0].undo_error if cause is None else cause
        self.stack.failed = [*self.stack.failed, *failed]
        self.shared.run.is_incomplete |= bool(self.stack.failed)
        self.shared.run.show_state()

    def compensation_error(self, failed: Sequence[Step], cause: BaseException | None) -> CompensationError:
        """Return the error to raise for undos that failed for good."""
        names = ", ".join(step.name for step in failed)
        error = CompensationError(f"saga {self.shared.name!r}: compensations failed for good: {names}", self.report())
        error.__cause__ = cause
        self.raised = error
        return error
