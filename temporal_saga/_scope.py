"""The scope of a saga, or of a savepoint in it: entering it, its steps, leaving it.

    async with Saga() as saga:                                             # OPEN
        await saga.execute_activity(withdraw, transfer, compensation=...)  # arm, start, wait, settle
        ...                                                                #
                                                                           # leaves well: COMPLETED
                                                                           # leaves badly: UNWINDING, then COMPENSATED
                                                                           #               or INCOMPLETE

    unwind
    ├── drain     cancel the steps in flight, wait until each has ended, note what became of it
    └── undo      run the compensations (`_unwind.py`)

The unwind runs in a task of its own, which nobody else can cancel. The task that left the scope waits for it, and keeps
the cancels that come meanwhile. Whose a cancel is, and what it does, is in `_cancels.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import Enum
from typing import Any, TypeVar, cast

from temporalio import workflow
from temporalio.exceptions import ApplicationError, is_cancelled_exception

from ._cancels import Cancels, Pivot
from ._outcome import bug_in, saga_failure, type_name
from ._report import SagaReport, show
from ._run import Run, in_main_method
from ._shared import Shared, in_use
from ._stack import Called, Stack
from ._state import SagaState
from ._step import Step
from ._typing import Kind, Order
from ._unwind import Todo, Undoing, undo
from ._waiting import (
    UntilDone,
    fail_task,
    raise_if_evicted,
    until_all_done,
    until_first_done,
    until_idle,
    wait_through_cancels,
)
from .errors import CompensationError, SagaClosed, SagaDeadlineExceeded

__all__ = ["UNWOUND", "Scope", "State"]

UNWOUND = "the saga has been unwound"
"""The message of the CancelledError that the caller of a step gets when its saga has been unwound."""

_MOST_SHOWN = 50  # from here on the list in the UI is not redrawn for each undo


class State(Enum):
    """Where a scope is."""

    OPEN = "OPEN"
    UNWINDING = "UNWINDING"
    COMPLETED = "COMPLETED"
    COMPENSATED = "COMPENSATED"
    INCOMPLETE = "INCOMPLETE"
    DETACHED = "DETACHED"
    MERGED = "MERGED"
    """A savepoint that has ended, and whose steps are its parent's."""


_OPEN = State.OPEN
T = TypeVar("T")


@dataclass(eq=False)
class _Undoing:
    """An unwind, or the undo of one step, as the code sees it that runs in it."""

    scope: Scope
    is_over: bool = False


_undoing: ContextVar[tuple[_Undoing, ...]] = ContextVar("temporal_saga_undoing", default=())
"""The unwinds that run the current code: a callback must not wait for them."""


class Scope:
    """A scope that is open.

    Args:
        shared: What the scopes of one saga share.
        parent: The scope around a savepoint; None for the saga's own.
        order: How steps are undone.
        activity_options: Options of steps that are activities.
        compensation_options: Options of compensations that are activities.
    """

    state = State.OPEN
    incomplete: CompensationError | None = None  # what it has raised, if an undo failed for good
    _todo: Todo | None = None  # what an unwind has still to undo
    _takes_all = False  # True iff everything that is armed goes into it: the scope ends badly
    _released: asyncio.Future[None] | None = None  # done when the unwind has ended: callers are held until then
    _failed_for: BaseException | None = None  # the error for which the first of the failed undos ran
    _is_in_unwind = False  # True iff a callback of an unwind has entered it
    _has_left = False  # True iff its `async with` block has been left
    _cancel_waited = False  # True iff the workflow's cancel had to wait for this saga

    def __init__(
        self,
        shared: Shared,
        parent: Scope | None,
        order: Order,
        activity_options: dict[str, Any],
        compensation_options: dict[str, Any],
    ) -> None:
        owner = asyncio.current_task()
        assert owner is not None
        self.owner = owner
        self.shared = shared
        self.parent = parent
        self.stack = Stack(shared, activity_options)
        self.cancels = Cancels(owner, shared.run.arrivals, is_main=in_main_method.get())
        self._order: Order = order
        self._activity_options = activity_options
        self._compensation_options = compensation_options
        self._entry = shared.run.next_entry()
        self._savepoints: dict[Scope, asyncio.Future[None]] = {}  # those still open, each done when it has ended
        self._undos: dict[asyncio.Task[None], None] = {}  # of single steps

    # --- entering ----------------------------------------------------------------------------------------------------

    @classmethod
    def enter(
        cls,
        name: str,
        order: Order,
        activity_options: dict[str, Any],
        compensation_options: dict[str, Any],
        deadline: timedelta | None,
        state: SagaState | None,
    ) -> Scope:
        """Enter a saga."""
        if not workflow.in_workflow():
            raise RuntimeError("a saga was entered outside a workflow: enter it in the method with @workflow.run")
        run = Run.current()
        if state is not None and run.is_in_use(state.identity):
            raise RuntimeError(in_use(state.name))
        in_handler = _is_in_handler(run)
        _warn(name, run, in_handler)
        pivot = Pivot(run.arrivals, _main_task(run, in_handler))
        shared = Shared(run, name, pivot, state)
        scope = cls(shared, None, order, activity_options, compensation_options)
        seconds = None if deadline is None else deadline.total_seconds()
        if _undoing.get():
            scope._is_in_unwind = True
        if state is not None:
            scope._go_on_with(state)
            seconds = state.deadline
        run.sagas.append(scope)
        if seconds is not None and not pivot.is_passed:
            scope.cancels.set_deadline(seconds)
        return scope

    def _go_on_with(self, state: SagaState) -> None:
        self.stack.join(state, ())
        if state.past_pivot:
            self.shared.pivot.pass_()
        if state.cancelled:
            self.shared.pivot.held = asyncio.CancelledError()

    async def enter_savepoint(self) -> Scope:
        """Enter a savepoint in this scope."""
        await self.admit("savepoint()")
        savepoint = Scope(self.shared, self, self._order, self._activity_options, self._compensation_options)
        self._savepoints[savepoint] = asyncio.get_running_loop().create_future()
        return savepoint

    # --- steps -------------------------------------------------------------------------------------------------------

    async def execute(self, step: Step, kind: Kind, target: Any, options: dict[str, Any]) -> Any:
        """Run a step: arm it, give its command, wait, settle it."""
        stack = self.stack
        del stack.called[step]
        if self.state is not _OPEN or self.parent is not None or _undoing.get():
            await self.admit(step.what)
        task = stack.start(step, kind, target, options)
        cancel: asyncio.CancelledError | None = None
        try:
            await UntilDone(task)
        except asyncio.CancelledError as error:
            cancel = await self._wait_on(step, task, error)
        if step.outcome is None:
            stack.settle(step)
        if (self.state is not _OPEN or self.parent is not None) and (scope := self._unwinding()) is not None:
            await scope.hold()
            raise _unwound() from step.error
        if cancel is not None:
            raise cancel from step.error
        if step.error is not None:
            raise step.error
        return task.result()

    async def _wait_on(
        self, step: Step, task: asyncio.Task[Any], error: asyncio.CancelledError
    ) -> asyncio.CancelledError | None:
        """Wait for a step whose caller was cancelled; return the cancel to raise."""
        pivot, run = self.shared.pivot, self.shared.run
        cancel: asyncio.CancelledError | None = None
        while True:
            raise_if_evicted()
            if not pivot.holds_in_a_step(error):
                cancel = error
                if not pivot.hands_on(error):
                    step.mark_raised()
                if not pivot.is_passed:
                    # When nothing else is left to run: a result that came in the same activation wins.
                    run.when_idle((0, self._entry, step.began), step.request_cancel)
            if task.done():
                return cancel
            try:
                await UntilDone(task)
            except asyncio.CancelledError as again:
                error = again

    def call(self, what: str, run: Callable[[], Coroutine[Any, Any, T]]) -> Coroutine[Any, Any, T]:
        """Return a coroutine that runs something, and that has to be awaited before the scope ends well."""
        called = Called(what)

        async def begin() -> T:
            del self.stack.called[called]
            return await run()

        self.stack.called[called] = coroutine = begin()
        return coroutine

    async def refuse_late(self, what: str) -> Any:
        """Refuse a step that was called after the end."""
        await self.admit(what)

    def push(self, step: Step) -> None:
        """Arm a compensation that was pushed by hand, here or in the scope that has taken this one over."""
        scope = self
        while scope.state is State.MERGED and scope.parent is not None:
            scope = scope.parent
        if scope.state is not State.UNWINDING and (scope is not self or scope.state is not _OPEN):
            raise self.closed("add_compensation()")
        scope.stack.push(step)
        if scope._todo is not None and scope._takes_all:
            scope._todo.add(scope.stack.give())

    async def undo_step(self, name: str, key: str | None) -> None:
        """Undo the newest armed step of a name, or the one with that key, while the scope stays open."""
        await self.admit(f"undo() of {name!r}")
        step = self._to_undo(name, key)
        del self.stack.armed[step]
        todo = Todo()
        todo.add([step])
        how = self._how()
        task = asyncio.create_task(self._undo(todo, how))
        self._undos[task] = None
        cancels: list[asyncio.CancelledError] = []
        await wait_through_cancels(task, cancels.append)
        del self._undos[task]
        await self._fail_for_bug(task)
        self._note(how, step.error)
        if (scope := self._unwinding()) is not None:
            await scope.hold()
            raise _unwound()
        error = self._compensation_error(how.failed, step.undo_error) if how.failed else None
        for cancel in cancels[-1:]:
            if not self.shared.pivot.holds(cancel):
                raise cancel from error
        if error is not None:
            raise error

    def _to_undo(self, name: str, key: str | None) -> Step:
        wanted = None if key is None else self.shared.key_of(name, key)
        step = self.stack.newest(name, wanted)
        if step is not None and step.outcome is not None:
            return step
        which = f"step {name!r}" if key is None else f"step {name!r} with key={key!r}"
        if step is not None:
            message = f"undo() of {which} while the step is in flight: await the step first"
        else:
            armed = ", ".join(sorted({repr(each.name) for each in self.stack.armed})) or "nothing"
            message = f"undo() of {which}, which is not armed in saga {self.shared.name!r}; armed is: {armed}"
        if in_main_method.get():
            raise self.shared.refuse(f"{message}. Undo what a step of this scope has done, once, and before a pivot")
        raise ApplicationError(message, type="StepNotArmed", non_retryable=True)  # a client's data may have done that

    # --- leaving -----------------------------------------------------------------------------------------------------

    async def leave(self, error: BaseException | None) -> BaseException | None:
        """Leave the scope with what left its body; return what goes on: the same, another error, or None."""
        if not workflow.in_workflow() or asyncio.current_task() is not self.owner:
            return error  # the garbage collector closes what is left of another run
        self._has_left = True
        failure = None if error is None else saga_failure(error)
        if error is not None and failure is None:
            failure = await self._fail_for_misuse(error)
            if failure is None:
                return error
        if failure is not None:
            raise_if_evicted()
        if await self._is_taken_over():
            return error or _unwound()
        if self.state is not _OPEN:
            return error  # compensate() or detach() has ended it
        if self.shared.misuse is not None:
            await fail_task(self.shared.misuse)
            failure = failure or self.shared.misuse
        if failure is not None and is_cancelled_exception(failure):
            failure = self._deadline_error() or failure
        pivot = self.shared.pivot
        if failure is None or pivot.holds(failure) or pivot.hands_on(failure):
            return await self._end_well()
        return await self._end_badly(failure, is_cancel=self._is_cancel(failure))

    async def _end_well(self) -> BaseException | None:
        """Close the scope, or unwind it if it has to end badly after all; return what the scope raises."""
        stack, misuse = self.stack, self.shared.misuse
        while self._in_progress() or stack.called:
            try:
                if in_progress := self._in_progress():
                    await until_first_done(in_progress)
                await until_idle()  # callers may go on to another step, and a step that a task was given begins
            except asyncio.CancelledError as cancel:
                raise_if_evicted()
                if not self.shared.pivot.holds(cancel):
                    return await self._end_badly(self._deadline_error() or cancel, is_cancel=True)
            if await self._is_taken_over():
                raise _unwound()
            stack.settle_ended()
            if stack.called and not self._in_progress() and (names := stack.never_awaited()):
                self.shared.refuse(f"{', '.join(names)} was called and never awaited: await each call")
        misuse = self.shared.misuse
        if misuse is not None:
            await fail_task(misuse)
            return await self._end_badly(misuse)
        if self.cancels.expired and not self.shared.pivot.is_passed:
            return await self._end_badly(self._deadline_error(although_swallowed=True))
        swallowed = stack.give_swallowed()
        if swallowed:
            failed = len(self.stack.failed)
            await self._unwind(swallowed, cause=swallowed[-1].error)
            # Ending well has failed: what the scope did goes the way of every saga that ends badly.
            if len(self.stack.failed) > failed:
                return await self._end_badly(self.stack.failed[failed].error or swallowed[-1].error)
            if self.cancels.kept is not None:
                return await self._end_badly(self.cancels.kept, is_cancel=True)
        if self.parent is None and self.stack.failed:
            # Whoever caught the error of a savepoint: what stands is the whole saga's.
            return await self._end_badly(self._failed_for)
        self._close(State.COMPLETED if self.parent is None else State.MERGED)
        self._release()
        return None if self.parent is not None else await self._held_cancel()

    async def _end_badly(self, failure: BaseException | None, *, is_cancel: bool = False) -> BaseException:
        """Unwind; return what the scope raises.

        Args:
            failure: The reason, which goes on unless an undo fails for good.
            is_cancel: Whether it is a cancel that nobody has had yet.
        """
        await self._unwind_all(failure)
        error = self._compensation_error(self.stack.failed, failure) if self.stack.failed else failure
        assert error is not None
        if isinstance(error, asyncio.CancelledError):
            return error
        cancels, pivot = self.cancels, self.shared.pivot
        if self.parent is None:
            if pivot.held is not None:
                cancels.deliver()
            elif cancels.kept is not None:
                cancels.give_back()
            return error
        cancel: BaseException | None = cancels.kept
        if cancel is None and error is not failure and is_cancel:
            # A cancel must not end in an `except CompensationError` around the savepoint. A new object, since the old
            # one is the cause of that error.
            cancel = asyncio.CancelledError(*(failure.args if isinstance(failure, asyncio.CancelledError) else ()))
        if cancel is None:
            return error
        cancel.__cause__ = error
        return cancel

    async def compensate(self) -> None:
        """Unwind now, without an error."""
        await self.admit("compensate()")
        if any(each.owner is self.owner for each in self._open_savepoints()):
            raise self.shared.refuse("compensate() inside a savepoint of this task: leave the savepoint first")
        if self.shared.misuse is not None:
            await fail_task(self.shared.misuse)
        await self._unwind_all(None)
        cancel: BaseException | None = self.cancels.kept
        if self.parent is None:
            cancel = cancel or self.shared.pivot.held
        if self.stack.failed:
            if cancel is not None:
                self.cancels.give_back()
            raise self._compensation_error(self.stack.failed, cancel or self.shared.newest_error())
        if cancel is not None:
            raise cancel

    def pass_pivot(self) -> None:
        """Pass the point of no return, of this scope and those around it."""
        scopes: list[Scope] = [self]
        while (parent := scopes[-1].parent) is not None:
            scopes.append(parent)
        root, pivot = scopes[-1], self.shared.pivot
        if any(scope.is_busy for scope in (root, *root._open_savepoints())):
            raise self.shared.refuse("pivot() with a step in flight: await every step first, it may yet fail")
        if pivot.is_barred:
            raise asyncio.CancelledError  # the saga is not past the point of no return yet
        for scope in scopes:
            scope.stack.forget_what_succeeded()
            scope.cancels.stop_deadline()
            if scope.cancels.expired:
                scope.cancels.others()
        pivot.pass_()

    def detach(self) -> None:
        """Give the armed steps up: somebody else undoes them."""
        if self.shared.pivot.held is not None:
            self.cancels.deliver()
        self.stack.give()
        self._close(State.DETACHED)

    # --- unwinding ---------------------------------------------------------------------------------------------------

    async def _unwind_all(self, cause: BaseException | None) -> None:
        self._takes_all = True
        await self._unwind([], cause)
        self._close(State.INCOMPLETE if self.stack.failed else State.COMPENSATED)
        self._release()

    async def _unwind(self, steps: list[Step], cause: BaseException | None) -> None:
        """Undo `steps`, or all that is armed once nothing is in flight, whatever happens meanwhile."""
        self.cancels.begin_unwind()
        if self.state is _OPEN:
            workflow.logger.info("Saga %s unwinds", self.shared.name, extra={"saga": self.shared.name})
        self.state = State.UNWINDING
        self._released = self._released or asyncio.get_running_loop().create_future()
        todo = self._todo = Todo()
        todo.add(steps)
        how = self._how()
        while True:
            task = asyncio.create_task(self._undo(todo, how, drain=True))
            await wait_through_cancels(task, self._keep)
            await self._fail_for_bug(task)
            if self.shared.misuse is not None:
                await fail_task(self.shared.misuse)
            if not todo:  # nothing was registered since its last look
                break
        self._todo = None
        self._note(how, cause)

    def _how(self) -> Undoing:
        return Undoing(self._order, self._compensation_options, self.shared.run.room, self._on_change)

    async def _undo(self, todo: Todo, how: Undoing, *, drain: bool = False) -> None:
        """Undo steps in a task that nobody else cancels."""
        undoing = _Undoing(self)
        _undoing.set((*_undoing.get(), undoing))
        try:
            if drain:
                await self.shared.run.turn((1, self._entry))
                await self._drain()
                if self._takes_all:
                    todo.add(self.stack.give())
                self._show()
            await undo(todo, how)
            if drain:
                self._show()
        finally:
            undoing.is_over = True

    async def _drain(self) -> None:
        """Wait until nothing of the scope and its open savepoints is in flight, then take the savepoints' steps over.

        It lasts at most the start-to-close timeout of the slowest step. After the pivot nothing is cancelled.
        """
        while True:
            scopes = [self, *self._open_savepoints()]
            in_flight = [step for scope in scopes for step in scope.stack.in_flight]
            if not self.shared.pivot.is_passed:
                for step in in_flight:
                    step.request_cancel()
            waits: list[asyncio.Future[Any]] = [step.task for step in in_flight]
            waits += [task for scope in scopes for task in scope._undos]
            # Not the task of a savepoint's unwind: what its owner does after that comes first.
            waits += [scope._released for scope in scopes[1:] if scope._released is not None]
            pending = [wait for wait in waits if not wait.done()]
            if not pending:
                break
            await until_all_done(pending)
        for scope in scopes:
            scope.stack.settle_ended()
        for scope in reversed(scopes[1:]):  # the inner ones first: through their parent
            scope._close(State.MERGED)

    def _keep(self, cancel: asyncio.CancelledError) -> None:
        """Keep a cancel that comes during an unwind."""
        if not self.shared.pivot.holds(cancel):
            self.cancels.keep(cancel)
            self._take_all()

    def _take_all(self) -> None:
        """Undo the rest as well, each at its place in the order: the scope cannot end well any more."""
        if not self._takes_all and self._todo is not None:
            self._takes_all = True
            self._todo.add(self.stack.give())

    def _note(self, how: Undoing, cause: BaseException | None) -> None:
        """Note the undos that failed for good. They are the whole saga's."""
        if not how.failed:
            return
        if not self.stack.failed:
            self._failed_for = cause or how.failed[0].undo_error
        self.stack.failed += how.failed

    def _on_change(self, step: Step) -> None:
        if step.undo_state == "FAILED":
            self._take_all()
        elif len(self.shared.steps) <= _MOST_SHOWN:
            self._show()

    def _show(self) -> None:
        show(self.shared.name, [step.report() for step in self.shared.steps])

    # --- what others ask ---------------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether it has not ended."""
        return self.state in (State.OPEN, State.UNWINDING)

    @property
    def is_detached(self) -> bool:
        """Whether its steps were given up."""
        return self.state is State.DETACHED

    @property
    def is_busy(self) -> bool:
        """Whether a step of it is in flight, or is being undone while the scope is open."""
        return bool(self.stack.in_flight or self._undos)

    @property
    def ends_by_itself(self) -> bool:
        """Whether it must not be cancelled: it unwinds, an unwind runs it, or it is past its pivot."""
        return self.state is State.UNWINDING or self._is_in_unwind or self.shared.pivot.is_passed

    @property
    def identity(self) -> tuple[str, int, str]:
        """Which saga it is."""
        return self.shared.identity

    @property
    def has_savepoints(self) -> bool:
        """Whether a savepoint in it is open."""
        return bool(self._savepoints)

    @property
    def is_being_unwound(self) -> bool:
        """Whether it unwinds, or a scope around it does."""
        return self._unwinding() is not None

    def holds_compensations(self) -> bool:
        """Tell whether something is armed, or being undone."""
        scopes = (self, *self._open_savepoints())
        return any(scope.stack.armed or scope.stack.failed or scope.state is State.UNWINDING for scope in scopes)

    def report(self) -> SagaReport:
        """Return what people see of the whole saga."""
        if self.parent is not None:
            return self.parent.report()
        ended_well = self.state is State.COMPLETED
        steps = [step.report() for step in self.shared.steps]
        if ended_well:  # what is still armed then is kept
            steps = [replace(step, undo_state=None) if step.undo_state == "PENDING" else step for step in steps]
        return SagaReport(self.shared.name, cast(Any, self.state.value), steps)

    # --- states ------------------------------------------------------------------------------------------------------

    def _close(self, state: State) -> None:
        was, self.state = self.state, state
        self.cancels.stop_deadline()
        if was is State.UNWINDING:
            self._log_end()
        parent = self.parent
        if parent is None:
            self._cancel_waited = self.shared.pivot.end()
            return
        if state is State.MERGED:
            parent.stack.take(self.stack.give())
        if self.stack.failed:
            if not parent.stack.failed:
                parent._failed_for = self._failed_for
            parent.stack.failed += self.stack.failed
        parent._savepoints.pop(self).set_result(None)

    def _log_end(self) -> None:
        name = self.shared.name
        if not self.stack.failed:
            workflow.logger.info("Saga %s has unwound", name, extra={"saga": name})
            return
        failed = [f"{step.name!r} (key {step.key}): {type_name(step.undo_error)}" for step in self.stack.failed]
        workflow.logger.error(
            "Saga %s is incomplete. The undos of these steps failed for good, and their effects may stand: %s",
            name,
            "; ".join(failed),
            extra={
                "saga": name,
                "steps": [step.name for step in self.stack.failed],
                "keys": [step.key for step in self.stack.failed],
            },
        )

    def _release(self) -> None:
        # Just before the owner raises: the callers that were held go on after it.
        if self._released is not None and not self._released.done():
            self._released.set_result(None)

    async def hold(self) -> None:
        """Hold a caller until the unwind has ended."""
        assert self._released is not None
        await wait_through_cancels(self._released)

    async def admit(self, what: str) -> None:
        """Let a step start, or a savepoint open; hold the caller while the scope unwinds."""
        scope = self._unwinding()
        # In a savepoint's callback too: this scope may start to unwind meanwhile, and would wait for it.
        for each in _undoing.get():
            if each.scope.shared is self.shared and (not each.is_over or each.scope.state is State.UNWINDING):
                raise self.shared.refuse(
                    f"code that the unwind of saga {self.shared.name!r} runs called a step of it, which may have to "
                    "wait for itself: call workflow.execute_activity(...) in a callback"
                )
        if scope is not None:
            await scope.hold()
            raise _unwound()
        if self.state is not _OPEN:
            error = self.closed(what)
            if not isinstance(error, SagaClosed):
                await fail_task(error)
            raise error

    def closed(self, what: str) -> Exception:
        """Return what to raise for a call after the end: misuse, if only the programmer can have caused it."""
        name = f"a savepoint of saga {self.shared.name!r}" if self.parent else f"saga {self.shared.name!r}"
        ended_well = self.state in (State.COMPLETED, State.MERGED)
        if self._has_left and in_main_method.get() and (ended_well or asyncio.current_task() is self.owner):
            return RuntimeError(
                f"{what} was called after {name} had ended, where nothing would undo it: indent the line into the "
                "`async with` block" + (", or call it on the saga" if self.parent else "")
            )
        return SagaClosed(f"{name} has ended")

    async def _is_taken_over(self) -> bool:
        """Tell whether the unwind of a scope around this savepoint undoes its steps; wait for its end."""
        scope = self._unwinding()
        if scope is not None:
            await scope.hold()
        return scope is not None or self.state is State.MERGED

    def _unwinding(self) -> Scope | None:
        """Return this scope or the nearest around it that unwinds."""
        scope: Scope | None = self
        while scope is not None and scope.state is not State.UNWINDING:
            scope = scope.parent
        return scope

    def _open_savepoints(self) -> list[Scope]:
        """Return the savepoints inside that are still open, at any depth."""
        return [each for savepoint in self._savepoints for each in (savepoint, *savepoint._open_savepoints())]

    def _in_progress(self) -> list[asyncio.Future[Any]]:
        """Return what a good end waits for."""
        return [*(step.task for step in self.stack.in_flight), *self._undos, *self._savepoints.values()]

    # --- errors ------------------------------------------------------------------------------------------------------

    async def _fail_for_bug(self, task: asyncio.Task[None]) -> None:
        """Fail the workflow task for a bug in a callback."""
        bug = task.exception()
        if isinstance(bug, Exception):
            await fail_task(bug)
        task.result()

    async def _fail_for_misuse(self, error: BaseException) -> BaseException | None:
        """Fail the workflow task for a bug or misuse that leaves the scope; return None for control flow that may.

        Returns the misuse if the user lets such an exception fail the workflow: then the scope unwinds.
        """
        failure: Exception | None
        if isinstance(error, workflow.ContinueAsNewError) and self.holds_compensations():
            failure = RuntimeError(
                "continue_as_new inside a saga would drop its compensations: pass saga.detach() to the next run, "
                "or leave the scope first"
            )
        elif isinstance(error, GeneratorExit) and self.holds_compensations():
            failure = RuntimeError(
                "the generator around a saga was closed: let it run to its end, so that the saga ends"
            )
        else:
            failure = error if isinstance(error, Exception) else bug_in(error)
        if failure is None or not self.is_open:
            return None
        if failure is error:
            workflow.logger.warning(
                "Saga %s meets a %s, which Temporal takes for a bug: the workflow task fails, and is tried again "
                "until the code is fixed. Nothing is undone. To undo, raise an ApplicationError",
                self.shared.name,
                type(error).__name__,
            )
        await fail_task(failure)  # whoever catches it, the effects of this scope would stand
        return failure

    def _deadline_error(self, *, although_swallowed: bool = False) -> SagaDeadlineExceeded | None:
        if not self.cancels.expired or (self.cancels.others() and not although_swallowed):
            return None
        return SagaDeadlineExceeded(f"saga {self.shared.name!r} passed its deadline")

    def _compensation_error(self, failed: list[Step], cause: BaseException | None) -> CompensationError:
        names = ", ".join(step.name for step in failed)
        error = CompensationError(f"saga {self.shared.name!r}: compensations failed for good: {names}", self.report())
        error.__cause__ = cause
        self.incomplete = error
        return error

    def _is_cancel(self, failure: BaseException) -> bool:
        """Tell a cancel from a failure; a plain activity in the body makes an ActivityError of the workflow's."""
        if isinstance(failure, asyncio.CancelledError):
            return True
        return is_cancelled_exception(failure) and workflow.cancellation_reason() is not None

    async def _held_cancel(self) -> BaseException | None:
        """Return the workflow's cancel, if it had to wait for this saga and this task gets it."""
        if self.shared.pivot.held is not None or not self._cancel_waited:
            return self.shared.pivot.held
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError as cancel:
            raise_if_evicted()
            return cancel
        return None


def _unwound() -> asyncio.CancelledError:
    # No class of its own: asyncio compares by `is` up to Python 3.12 (`TaskGroup.__aexit__`, `Timeout.__aexit__`).
    return asyncio.CancelledError(UNWOUND)


def _is_in_handler(run: Run) -> bool:
    """Tell whether the current code is a signal's or an update's; without the plugin, as well as can be told."""
    if run.arrivals.gate is not None:
        return not in_main_method.get()
    # The SDK names the tasks of handlers so (`_apply_do_update`, `_process_signal_job`).
    task = asyncio.current_task()
    name = task.get_name() if task else ""
    in_handler = name.startswith(("signal: ", "update: ")) or workflow.current_update_info() is not None
    in_main_method.set(not in_handler)
    return in_handler


def _main_task(run: Run, in_handler: bool) -> asyncio.Task[Any] | None:
    """Return the current task if the workflow's cancel may have to wait for it."""
    task = asyncio.current_task()
    # Without the plugin only the main method's own task can be told to get that cancel. The SDK names it so.
    is_main = not in_handler if run.arrivals.gate is not None else task is not None and task.get_name() == "run"
    return task if is_main else None


def _warn(name: str, run: Run, in_handler: bool) -> None:
    if in_handler and run.arrivals.gate is None:
        workflow.logger.warning(
            "Saga %s is entered in a handler: the run may close under it. "
            "Give the worker's client temporal_saga.plugin.SagaPlugin()",
            name,
        )
    task = asyncio.current_task()
    if run.sagas and any(saga.owner is task for saga in run.open_sagas()):
        workflow.logger.warning(
            "Saga %s is entered inside another one and independent of it: if it ends well, its effects are final. "
            "For a part that is undone with the whole, use saga.savepoint()",
            name,
        )
