"""The scope of a saga: entering it, its steps, leaving it.

    async with Saga() as saga:                                             # OPEN
        await saga.execute_activity(withdraw, transfer, compensation=...)  # arm, start, wait, settle
        ...                                                                #
                                                                           # leaves well: COMPLETED
                                                                           # leaves badly: UNWINDING, then COMPENSATED
                                                                           #               or INCOMPLETE

A step is armed before its command is given, and its outcome decides later whether it is undone. The scopes of one saga
(itself and its savepoints) share a `Root`: one clock of events, one set of keys, one list for the report.

What a cancel does is the heart of it. asyncio delivers it once, as a CancelledError at an await of the task that it is
meant for, and that task alone. So a step waits in a loop of its own, and outlives the cancel until the call has ended;
leaving a scope hands over to a task that nobody else can cancel (`_unwind.py`).
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextvars import ContextVar
from datetime import timedelta
from types import TracebackType
from typing import Any, Literal, cast

from temporalio import workflow
from temporalio.exceptions import is_cancelled_exception
from typing_extensions import Self

from . import presets
from ._compensation import (
    VERSION,
    Callback,
    Compensation,
    Kind,
    SagaState,
    StepOutcome,
    arguments,
    records_of,
    registered_name,
    state_of,
)
from ._identity import step_id
from ._options import check_duration, check_options, check_types
from ._outcome import Outcome, StepRecord, bug_in, saga_failure
from ._report import Registry, SagaReport, report_steps
from ._seed import is_straight_from
from ._root import Root
from ._steps import Steps
from ._typing import UNSET
from ._unwind import ended, fail_task, outlast, probe_eviction, unwind, unwinding
from .errors import CompensationError, SagaClosed, SagaDeadlineExceeded

__all__ = ["Saga"]

_State = Literal["NEW", "OPEN", "UNWINDING", "COMPLETED", "COMPENSATED", "INCOMPLETE", "DETACHED", "JOINED"]

# An undo must not overtake its own step: a cancelled step is awaited until it has ended.
_ACTIVITY_OPTIONS: dict[str, Any] = {"cancellation_type": workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED}
_COMPENSATION_OPTIONS: dict[str, Any] = dict(presets.compensation())
_CHILD_OPTIONS: dict[str, Any] = {
    "cancellation_type": workflow.ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
    "parent_close_policy": workflow.ParentClosePolicy.REQUEST_CANCEL,
}

UNWOUND = "the saga has been unwound"
"""The message of the CancelledError that the caller of a step gets when its saga has been unwound."""

guarded: ContextVar[bool] = ContextVar("temporal_saga_guarded", default=False)
"""Whether `SagaPlugin` holds the close of the run for the sagas entered here."""


class Saga(Steps):
    """A scope in which every step that may have taken effect is undone, if the scope ends badly.

    Use it as `async with Saga() as saga`, once. It unwinds for what fails a workflow and for cancellation, wherever it
    lands; a programming error fails the workflow task instead, so that a fixed deployment carries on.

    Args:
        name: A stable name. It is part of every key: persistent data.
        activity_options: Options for each step that is an activity; those of the call win, key by key.
        compensation_options: Options for each compensation that is an activity; `presets.compensation()` if None.
        order: "reverse" undoes one after another, newest first. "concurrent" undoes two at the same time if their steps
            overlapped.
        deadline: The longest time for the body, from entry; None is no limit. It costs a timer. Unlike the server's
            timeouts, it lets the saga unwind.
        state: The saga to carry on with, from `detach()`: it keeps its name, keys, pivot and what is left of its
            deadline, whatever `deadline` says.

    Raises:
        CompensationError: On leaving, if a compensation failed for good. Its cause is the error that left the body.
        SagaDeadlineExceeded: On leaving, if the deadline passed.
        RuntimeError: On misuse. It fails the workflow task; the message names the fix.
    """

    def __init__(
        self,
        name: str = "saga",
        *,
        activity_options: workflow.ActivityConfig | presets.PresetOptions | None = None,
        compensation_options: workflow.ActivityConfig | presets.PresetOptions | None = None,
        order: Literal["reverse", "concurrent"] = "reverse",
        deadline: timedelta | None = None,
        state: SagaState | None = None,
    ) -> None:
        if order not in ("reverse", "concurrent"):
            raise ValueError(f'order is "reverse" or "concurrent", not {order!r}')
        if deadline is not None:
            check_duration("deadline", deadline)
        if state is not None and state.version != VERSION:
            raise RuntimeError(
                f"this SagaState has format {state.version}, and this release reads {VERSION}: upgrade temporal-saga"
            )
        if state is not None and name not in ("saga", state.name):
            raise RuntimeError(f"the state is that of saga {state.name!r}: leave out name=, it is part of every key")
        self.name: str = name if state is None else state.name
        self._order: Literal["reverse", "concurrent"] = order
        self._activity_options: dict[str, Any] = {**_ACTIVITY_OPTIONS, **_options(activity_options)}
        check_types(self._activity_options, "activity")
        self._compensation_options: dict[str, Any] = _COMPENSATION_OPTIONS
        if compensation_options is not None:
            self._compensation_options = _options(compensation_options)
            check_options(self._compensation_options, "activity")
        self._deadline = deadline
        self._from_state = state
        self._parent: Saga | None = None
        self._root: Root
        self._owner: asyncio.Task[Any] | None = None
        self._state: _State = "NEW"

        self._stack: list[StepRecord] = []  # what is armed
        self._in_flight: dict[StepRecord, None] = {}  # in order of their start
        self._failed: list[StepRecord] = []  # compensations that failed
        self._savepoints: list[Saga] = []  # those still open

        self._left: asyncio.Future[None]  # of a savepoint: done when it has ended
        self._released: asyncio.Future[None] | None = None  # done after the unwind: callers are held
        self._timer: asyncio.TimerHandle | None = None
        self._expires_at = 0.0
        self._expired = False
        self._outranked = False  # the deadline, by a workflow's cancel that came with it
        self._cancelled_before = False  # before the unwind
        self._kept_cancel: asyncio.CancelledError | None = None
        self._in_unwind = False  # entered by a callback of an unwind

    # --- entering ----------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Enter the scope."""
        if self._state != "NEW":
            raise RuntimeError("a Saga is entered once: make a new one")
        self._owner = asyncio.current_task()
        if self._parent is None:
            self._root = self._enter_run()
        else:
            await self._parent._admit()
            self._parent._savepoints.append(self)
            self._left = asyncio.get_running_loop().create_future()
        self._state = "OPEN"
        return self

    def _enter_run(self) -> Root:
        registry = Registry.of_run()
        # Best effort: the SDK names the tasks of handlers so (`_apply_do_update`, `_process_signal_job`).
        task_name = self._owner.get_name() if self._owner else ""
        in_handler = task_name.startswith(("signal: ", "update: "))
        if in_handler and not guarded.get():
            workflow.logger.warning(
                "Saga %s is entered in a handler: the run may close under it. "
                "Give the worker's client temporal_saga.plugin.SagaPlugin()",
                self.name,
            )
        if any(saga._owner is self._owner for saga in registry.open_sagas()):
            workflow.logger.warning(
                "Saga %s is entered inside another one and independent of it: if it ends well, its effects are final. "
                "For a part that is undone with the whole, use saga.savepoint()",
                self.name,
            )
        self._in_unwind = bool(unwinding.get())
        state = self._from_state
        if state is None:
            anchor = workflow.info().original_execution_run_id
            root = Root(self.name, registry.next_ordinal(self.name), anchor)
            seconds = None if self._deadline is None else self._deadline.total_seconds()
        else:
            root = Root(state.name, state.ordinal, state.anchor)
            if any(saga._root.is_same_as(root) and saga._state != "DETACHED" for saga in registry.sagas):
                raise RuntimeError(f"the state of saga {state.name!r} is in use in this run: each can go on once")
            root.ticks = state.ticks
            root.counts = dict(state.counts)
            root.keyed = {step: dict.fromkeys(keys) for step, keys in state.keyed.items()}
            root.past_pivot = state.past_pivot
            root.repeats = state.repeats or not is_straight_from(state.run_id)
            root.cancelled_at_pivot = workflow.cancellation_reason() is not None
            self._stack = records_of(state)
            root.records = list(self._stack)
            seconds = state.deadline
        root.main_task = None if in_handler else self._owner
        root.was_cancelled_before()  # looks
        registry.sagas.append(self)
        if seconds is not None and not root.past_pivot:
            loop = asyncio.get_running_loop()
            self._expires_at = loop.time() + seconds
            self._timer = loop.call_later(max(seconds, 0.001), self._expire)
        return root

    def _expire(self) -> None:
        self._expired = True
        self._outranked = not self._root.was_cancelled_before() and workflow.cancellation_reason() is not None
        assert self._owner is not None
        self._owner.cancel()

    def savepoint(self) -> Saga:
        """Return a nested saga: `async with saga.savepoint() as attempt`.

        It has the same methods. If it ends badly it unwinds itself and raises, so that the workflow can try another
        way; if it ends well, what it armed joins this saga.
        """
        self._require_entered()
        savepoint = Saga(self.name, order=self._order)
        savepoint._activity_options = self._activity_options
        savepoint._compensation_options = self._compensation_options
        savepoint._parent = self
        savepoint._root = self._root
        return savepoint

    # --- steps -------------------------------------------------------------------------------------------------------

    def _step(
        self,
        kind: Kind,
        fn: Any,
        arg: Any,
        *,
        args: Sequence[Any] = (),
        compensation: Any = None,
        compensation_from: Callable[[StepOutcome], Any] | None = None,
        step: str | None = None,
        key: str | None = None,
        **options: Any,
    ) -> Coroutine[Any, Any, Any]:
        # A plain function: the use of the name is counted now, in the order of the calls, and not when the coroutine
        # first runs, whose order a `gather` would leave to the loop.
        self._require_entered()
        if compensation is not None and compensation_from is not None:
            raise TypeError("give compensation= or compensation_from=, not both")
        if "activity_id" in options:
            raise TypeError("the saga sets the activity id, which carries the key: use key= to tell calls apart")
        inputs = arguments(arg, args)
        if compensation is not None and not isinstance(compensation, Compensation):
            compensation = Compensation(compensation, args=inputs)
        name = step or registered_name(fn)
        record = StepRecord(
            name,
            self._root.key(name, key),
            input=inputs if compensation_from else None,
            compensation=compensation,
            compensation_from=compensation_from,
        )
        return self._execute(record, kind, fn, inputs, options)

    async def _execute(
        self, record: StepRecord, kind: Kind, target: Any, inputs: list[Any], options: dict[str, Any]
    ) -> Any:
        if self._state != "OPEN" or self._parent is not None or unwinding.get():
            await self._admit()
        task = self._start(record, kind, target, inputs, options)
        cancel: asyncio.CancelledError | None = None
        handed_on = False
        while not task.done():
            try:
                await ended(task)
            except asyncio.CancelledError as error:
                probe_eviction()
                if self._holds(error):
                    self._root.cancel_went_no_further = True
                    continue
                cancel = error
                handed_on = self._is_handed_on(error)
                if not self._is_past_pivot:
                    self._root.cancelling.append(record)
                    await _turns_of_the_loop()  # a result that came in the same activation wins
                    self._root.request_cancels()
        self._settle(record)
        if (scope := self._unwinding_scope()) is not None:
            await scope._hold()
            raise _unwound() from record.error
        if cancel is not None:
            if not handed_on:
                record.raised = True
            raise cancel from record.error
        if record.error is not None:
            raise record.error
        return task.result()

    def _start(
        self, record: StepRecord, kind: Kind, target: Any, inputs: list[Any], options: dict[str, Any]
    ) -> asyncio.Task[Any]:
        """Arm the step, then give its command: in this order, so that nothing lies between them."""
        self._root.was_cancelled_before()
        record.place = self._root.tick()
        armed = record.undo_state is not None
        if armed:
            self._stack.append(record)
        id = step_id(record.name, "do", record.key)
        try:
            if kind == "child":
                child = _Child(target, inputs, {"id": id, **_CHILD_OPTIONS, **options})
                record.started(child.task, child.cancel)
            else:
                options = {**self._activity_options, **options}
                handle = workflow.start_activity(target, args=inputs, activity_id=id, **options)
                record.started(handle, handle.cancel)
        except Exception:
            if armed:
                self._stack.pop()  # bad options or input: no command was given
            raise
        self._in_flight[record] = None
        self._root.records.append(record)
        return record.task

    def _settle(self, record: StepRecord) -> None:
        """Note what became of a step whose task is done; the drain may have done so before its caller."""
        if record.outcome is not None:
            return
        del self._in_flight[record]
        record.ended = self._root.tick()
        armed = record.undo_state is not None
        task = record.task
        record.settle(may_repeat=self._root.may_repeat)
        if record.compensation_from is not None:
            result = task.result() if record.error is None else None
            self._choose_compensation(record, record.compensation_from, result)
        if armed and record.undo_state is None:
            self._stack.remove(record)

    def _choose_compensation(self, record: StepRecord, choose: Callable[[StepOutcome], Any], result: Any) -> None:
        inputs, record.input = record.input or [], None
        assert record.outcome is not None
        outcome: StepOutcome = StepOutcome(
            record.outcome, result, inputs[0] if len(inputs) == 1 else inputs or None, record.key
        )
        try:
            chosen = choose(outcome)
        except Exception as error:
            raise self._root.refuse(
                f"compensation_from= of step {record.name!r} failed on an outcome that is {outcome.state.value}: "
                f"{type(error).__name__}"
            ) from error
        if not isinstance(chosen, (Compensation, SagaState, type(None))):
            raise self._root.refuse(
                f"compensation_from= of step {record.name!r} returned {type(chosen).__name__}, "
                "not a Compensation, a SagaState or None"
            )
        if isinstance(chosen, Compensation):
            record.compensation, record.compensation_from = chosen, None
            return
        record.disarm()
        if isinstance(chosen, SagaState):
            joined = records_of(chosen, record.place)
            self._stack += joined
            self._root.records += joined

    def _push(
        self,
        target: Any,
        arg: Any = UNSET,
        *,
        args: Sequence[Any] = (),
        step: str | None = None,
        key: str | None = None,
        **options: Any,
    ) -> None:
        if isinstance(target, Compensation):
            if arg is not UNSET or args or options:
                raise TypeError("a Compensation holds its arguments and options already")
        else:
            target = Compensation(target, arg, args=args, **options)
        scope = self._accepting_scope()
        name = step or target.name
        scope._arm_pushed(StepRecord(name, self._root.key(name, key), phase="push", compensation=target))

    def _push_callback(
        self, callback: Callable[..., Awaitable[object]], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        scope = self._accepting_scope()
        pushed = Callback(callback, args, dict(kwargs))
        key = self._root.callback_key(pushed.name)
        scope._arm_pushed(StepRecord(pushed.name, key, phase="push", compensation=pushed))

    def _arm_pushed(self, record: StepRecord) -> None:
        record.place = record.ended = self._root.tick()
        record.outcome = Outcome.APPLIED
        self._stack.append(record)
        self._root.records.append(record)

    # --- leaving -----------------------------------------------------------------------------------------------------

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave the scope: well, once its steps in flight have ended; or badly, unwinding it."""
        failure = None if exc is None else saga_failure(exc)
        if exc is not None and failure is None:
            failure = self._bug(exc)
            if failure is None or not self._is_open:
                return  # control flow of the SDK's
            if failure is exc:
                workflow.logger.warning(
                    "Saga %s meets a %s, which Temporal takes for a bug: the workflow task fails, and is tried again "
                    "until the code is mended. Nothing is undone. To undo, raise an ApplicationError",
                    self.name,
                    type(exc).__name__,
                )
            await fail_task(failure)  # whoever catches it, the effects of this scope would stand
        if failure is not None:
            probe_eviction()
        if await self._is_taken_over():
            if exc is None:
                raise _unwound()
            return
        if self._state != "OPEN":
            return  # compensate() or detach() has ended it
        if self._root.misuse is not None:
            await fail_task(self._root.misuse)
            failure = failure or self._root.misuse
        if self._expired and failure is not None and is_cancelled_exception(failure):
            failure = self._deadline_error() or failure
        if failure is None or self._holds(failure) or self._is_handed_on(failure):
            failure = await self._end_well()
        if failure is not None:
            failure = await self._end_badly(failure)
        elif self._parent is None:
            failure = self._root.held_cancel
        if failure is not None and failure is not exc:
            context = failure.__context__
            try:
                raise failure
            finally:
                # Python makes what it replaces its context, which the SDK sends as a cause: the group of a leaf, the
                # cancel of a deadline.
                failure.__context__ = context

    async def _end_well(self) -> BaseException | None:
        """Close the scope; return the reason if it has to end badly after all."""
        while self._in_flight or self._savepoints:
            waits = [*(record.task for record in self._in_flight), *(each._left for each in self._savepoints)]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError as cancel:
                probe_eviction()
                if not self._holds(cancel):
                    return self._deadline_error() or cancel
            late = await _turns_of_the_loop()  # their callers may go on to another step
            if late is not None and not self._holds(late):
                return self._deadline_error() or late
            if await self._is_taken_over():
                raise _unwound()
            self._settle_in_flight()
        if self._root.misuse is not None:
            await fail_task(self._root.misuse)
            return self._root.misuse
        if self._expired and (error := self._deadline_error()):
            return error
        swallowed = [record for record in self._stack if record.raised]
        if swallowed:
            self._stack[:] = [record for record in self._stack if not record.raised]
            cause = swallowed[-1].error
            before = len(self._failed)
            await self._unwind(swallowed)
            # Ending well has failed: what the scope did goes the way of every saga that ends badly.
            if len(self._failed) > before:
                return self._failed[before].error or cause or asyncio.CancelledError()
            if self._kept_cancel is not None and not self._holds(self._kept_cancel):
                return self._kept_cancel
        if self._parent is None:
            self._close("COMPLETED")
        else:
            self._join_parent()
        self._release()
        return None

    async def _end_badly(self, failure: BaseException) -> BaseException:
        """Unwind; return what the scope raises."""
        cancel = await self._undo_all()
        error = self._compensation_error(failure) if self._failed else failure
        if self._expired and sys.version_info >= (3, 11) and self._owner is not None:
            self._owner.uncancel()
        if isinstance(error, asyncio.CancelledError):
            return error
        if self._parent is None:
            if cancel is not None:
                self._deliver_cancel(failure, error)
            return error
        if isinstance(failure, asyncio.CancelledError) and workflow.cancellation_reason() is not None:
            # The workflow's cancel must not end in an `except CompensationError` around the savepoint. A new
            # object, since the old one is the cause of that error.
            cancel = asyncio.CancelledError(*failure.args)
        if cancel is None:
            return error
        cancel.__cause__ = error
        return cancel

    async def _undo_all(self) -> BaseException | None:
        """Unwind the scope and close it; return a cancel that came meanwhile."""
        await self._unwind(self._stack)
        cancel: BaseException | None = self._kept_cancel
        self._close("INCOMPLETE" if self._failed else "COMPENSATED")
        self._release()
        if cancel is not None and self._holds(cancel):
            cancel = None
        return cancel if self._parent is not None else cancel or self._root.held_cancel

    async def _unwind(self, todo: list[StepRecord]) -> None:
        """Undo `todo`, whatever happens, and keep the last cancel that comes meanwhile."""
        self._stop_timer()
        if self._state == "OPEN":
            self._cancelled_before = self._root.was_cancelled_before()
        self._state = "UNWINDING"
        self._released = self._released or asyncio.get_running_loop().create_future()
        workflow.logger.info("Saga %s unwinds", self.name, extra={"saga": self.name})
        while True:
            task = asyncio.create_task(unwind(self, todo))
            self._kept_cancel = await outlast(task) or self._kept_cancel
            bug = task.exception()
            if isinstance(bug, Exception):  # in a callback
                await fail_task(bug)
            task.result()
            if self._root.misuse is not None:
                await fail_task(self._root.misuse)
            if not todo:  # nothing was registered since its last look
                break
        workflow.logger.info("Saga %s has unwound", self.name, extra={"saga": self.name})

    def _deliver_cancel(self, failure: BaseException, error: BaseException) -> None:
        """Deliver the cancel that an unwind kept, the workflow's or a deadline's around it, at the next await.

        That is for code that catches the error; if it goes on to the end, there is none. A saga around this one may
        keep the cancel again, so the registry remembers the error that it came with.
        """
        registry = Registry.of_run()
        came = workflow.cancellation_reason() is not None and not self._cancelled_before
        again = registry.error_with_cancel is failure
        late = any(each._expired and each._owner is self._owner for each in registry.open_sagas())
        if self._owner is None or not (came or again or late or self._root.held_cancel is not None):
            return
        registry.error_with_cancel = error
        if sys.version_info >= (3, 11) and self._root.held_cancel is None:
            self._owner.uncancel()  # the kept one has counted already
        self._owner.cancel()

    async def compensate(self) -> SagaReport:
        """Unwind now, without an error: a rejected review is no exception. The scope is closed then.

        Returns:
            The report: what was undone.

        Raises:
            CompensationError: If a compensation failed for good.
            asyncio.CancelledError: If a cancel came meanwhile; everything has been undone.
            SagaClosed: If the saga has ended.
            RuntimeError: From a task that did not enter the scope.
        """
        self._require_owner("compensate()")
        await self._admit()
        if any(each._owner is self._owner for each in self._open_savepoints()):
            raise self._root.refuse("compensate() inside a savepoint of this task: leave it first")
        if self._root.misuse is not None:
            await fail_task(self._root.misuse)
        cancel = await self._undo_all()
        if self._failed:
            error = self._compensation_error(cancel)
            if cancel is not None:
                self._deliver_cancel(cancel, error)
            raise error
        if cancel is not None:
            raise cancel
        return self.report()

    def pivot(self) -> None:
        """Pass the point of no return: what succeeded is kept for good, in this scope and those around it.

        The deadline stops. From here on the workflow's cancel is held until the saga ends: in a step, and with
        `SagaPlugin` wherever the body waits. A cancel of a scope inside lets a step run to its end. A failed step whose
        error was swallowed is still undone. Later compensations work as before.

        Raises:
            SagaClosed: If the saga has ended.
            RuntimeError: With a step in flight, or from a task that did not enter the scope.
        """
        self._require_open("pivot()")
        enclosing: list[Saga] = [self]
        while (parent := enclosing[-1]._parent) is not None:
            enclosing.append(parent)
        if any(scope._in_flight for scope in (enclosing[-1], *enclosing[-1]._open_savepoints())):
            raise self._root.refuse("pivot() with a step in flight: await every step first, it may yet fail")
        for scope in enclosing:
            for record in scope._stack:
                if not record.raised:
                    record.disarm()
            scope._stack[:] = [record for record in scope._stack if record.raised]
            scope._stop_timer()
            if scope._expired and sys.version_info >= (3, 11) and scope._owner is not None:
                scope._owner.uncancel()
            scope._expired = False
        self._root.past_pivot = True
        self._root.cancelled_at_pivot = workflow.cancellation_reason() is not None

    def detach(self) -> SagaState:
        """Return the armed compensations as data, and give them up here: for `Saga(state=...)` elsewhere.

        Raises:
            ValueError: If an option of a compensation cannot be written down.
            SagaClosed: If the saga has ended.
            RuntimeError: With a step in flight, a callback on the stack, in a savepoint, or from a task that did not
                enter the scope.
        """
        self._require_open("detach()")
        if self._parent is not None or self._savepoints:
            raise self._root.refuse("detach() in a savepoint: leave it first, so that it ends well or badly")
        if self._in_flight:
            raise self._root.refuse("detach() with a step in flight: await every step first")
        callbacks = [record.name for record in self._stack if isinstance(record.compensation, Callback)]
        if callbacks:
            raise self._root.refuse(
                f"a callback is code and cannot be detached ({', '.join(callbacks)}): push an activity instead"
            )
        if self._root.misuse is not None:
            raise self._root.misuse
        root = self._root
        left = self._expires_at - asyncio.get_running_loop().time() if self._timer else None
        state = SagaState(
            version=VERSION,
            name=root.name,
            ordinal=root.ordinal,
            anchor=root.anchor,
            ticks=root.ticks,
            counts=dict(root.counts),
            keyed={step: list(keys) for step, keys in root.keyed.items()},
            past_pivot=root.past_pivot,
            deadline=left,
            run_id=workflow.info().original_execution_run_id,
            repeats=root.may_repeat(),
            steps=[state_of(record, self._compensation_options) for record in self._stack],
        )
        self._close("DETACHED")
        if root.held_cancel is not None and self._owner is not None:
            self._owner.cancel()
        return state

    def report(self) -> SagaReport:
        """Return what people see of the saga: names, keys and states. A savepoint reports its whole saga."""
        self._require_entered()
        if self._parent is not None:
            return self._parent.report()
        state: Any = self._state
        return SagaReport(self.name, state, report_steps(self._root.records, ended_well=state == "COMPLETED"))

    def idempotency_key(self, *parts: str | int) -> str:
        """Return a key for an effect of the workflow's own: as stable as a step's, and different from each of them.

        Args:
            parts: What names the effect within this saga; at least one.

        Raises:
            ValueError: If there are no parts.
        """
        self._require_entered()
        return self._root.user_key(parts)

    # --- what the unwind reads and does ------------------------------------------------------------------------------

    @property
    def _is_open(self) -> bool:
        """Whether it has been entered and has not ended."""
        return self._state in ("OPEN", "UNWINDING")

    @property
    def _is_unwinding(self) -> bool:
        """Whether its compensations run."""
        return self._state == "UNWINDING"

    @property
    def _is_past_pivot(self) -> bool:
        """Whether its saga has passed the point of no return."""
        return self._root.past_pivot

    @property
    def _records(self) -> list[StepRecord]:
        """The steps of the saga, those of its savepoints included."""
        return self._root.records

    def _open_savepoints(self) -> list[Saga]:
        """Return the savepoints inside that are still open, at any depth."""
        return [each for savepoint in self._savepoints for each in (savepoint, *savepoint._open_savepoints())]

    def _settle_in_flight(self) -> None:
        """Note what became of the steps whose task is done."""
        for record in [record for record in self._in_flight if record.task.done()]:
            try:
                self._settle(record)
            except Exception as misuse:
                if not workflow.is_failure_exception(misuse):
                    raise

    def _join_parent(self) -> None:
        """Hand what a savepoint armed over to its parent, and close it."""
        if self._parent is None or self._state == "JOINED":
            return
        self._parent._stack += self._stack
        self._stack = []
        self._close("JOINED")

    # --- states ------------------------------------------------------------------------------------------------------

    def _close(self, state: _State) -> None:
        self._state = state
        self._stop_timer()
        if self._parent is not None and not self._left.done():
            self._parent._failed += self._failed
            self._parent._savepoints.remove(self)
            self._left.set_result(None)

    def _release(self) -> None:
        # Just before the owner raises: the callers that were held go on after it.
        if self._released is not None and not self._released.done():
            self._released.set_result(None)

    async def _hold(self) -> None:
        assert self._released is not None
        await outlast(self._released)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _unwinding_scope(self) -> Saga | None:
        """Return this scope or the nearest around it that unwinds."""
        scope: Saga | None = self
        while scope is not None and not scope._is_unwinding:
            scope = scope._parent
        return scope

    async def _is_taken_over(self) -> bool:
        """Tell whether the unwind of a scope around this savepoint undoes its steps; wait for its end."""
        scope = self._unwinding_scope()
        if scope is not None:
            await scope._hold()
        return scope is not None or self._state == "JOINED"

    async def _admit(self) -> None:
        """Let a step start, or a savepoint open; hold the caller while the scope unwinds."""
        scope = self._unwinding_scope()
        # In a savepoint's callback too: this scope may start to unwind meanwhile, and would wait for it.
        if any(each._is_unwinding and each._root is self._root for each in unwinding.get()):
            raise self._root.refuse(
                f"code that the unwind of saga {self.name!r} runs called a step of it, which may have to wait for "
                "itself: call workflow.execute_activity(...) in a callback"
            )
        if scope is not None:
            await scope._hold()
            raise _unwound()
        if self._state != "OPEN":
            raise self._closed()

    def _accepting_scope(self) -> Saga:
        """Return the scope that takes a registration: this one, or the unwinding one that has taken it over."""
        self._require_entered()
        scope = self
        while scope._state == "JOINED" and scope._parent is not None:
            scope = scope._parent
        if scope._is_unwinding or (scope is self and scope._state == "OPEN"):
            return scope
        raise self._closed()

    def _bug(self, error: BaseException) -> Exception | None:
        """Return the bug or misuse that leaves the scope as `error`, None for control flow that may."""
        if isinstance(error, workflow.ContinueAsNewError) and self._holds_compensations():
            return RuntimeError(
                "continue_as_new inside a saga would drop its compensations: pass saga.detach() to the next run, "
                "or leave the scope first"
            )
        # In another task, or in none, it is the garbage collector's.
        if isinstance(error, GeneratorExit) and workflow.in_workflow() and asyncio.current_task() is self._owner:
            if self._holds_compensations():
                return RuntimeError(
                    "the generator around a saga was closed: let it run to its end, so that the saga ends"
                )
            return None
        return error if isinstance(error, Exception) else bug_in(error)

    def _holds_compensations(self) -> bool:
        return any(scope._stack or scope._is_unwinding for scope in (self, *self._open_savepoints()))

    def _is_handed_on(self, cancel: BaseException) -> bool:
        """Tell whether a gather, TaskGroup or wait_for hands on the workflow's cancel that came after the pivot."""
        root = self._root
        return (
            root.was_cancelled_past_pivot()
            and is_cancelled_exception(cancel)
            and asyncio.current_task() is not root.main_task
            and root.main_task is not None  # a handler's saga: it never reaches that
            and not root.cancel_went_no_further
        )

    def _holds(self, cancel: BaseException) -> bool:
        """Hold the workflow's own cancel, if it came after the pivot: it is raised when the saga ends."""
        root = self._root
        if (
            not root.was_cancelled_past_pivot()
            or not is_cancelled_exception(cancel)  # a plain activity in the body makes an ActivityError of it
            or asyncio.current_task() is not root.main_task
            or root.held_cancel not in (None, cancel)  # it comes once: this is a timeout's
        ):
            return False
        if root.held_cancel is None and sys.version_info >= (3, 11) and root.main_task is not None:
            root.main_task.uncancel()
        root.held_cancel = cancel
        return True

    def _hold_cancel(self, cancel: asyncio.CancelledError) -> bool:
        """Take the workflow's cancel from the plugin, if the pivot is past: it does not reach the body then."""
        if self._root.past_pivot:
            self._root.held_cancel = cancel
            self._root.cancel_went_no_further = True
        return self._root.past_pivot

    def _require_entered(self) -> None:
        if self._state == "NEW":
            raise RuntimeError("enter the saga first: async with Saga() as saga, or saga.savepoint() as attempt")

    def _require_owner(self, what: str) -> None:
        self._require_entered()
        if asyncio.current_task() is not self._owner:
            raise self._root.refuse(f"{what} from a task that did not enter the scope: call it where the scope is")

    def _require_open(self, what: str) -> None:
        self._require_owner(what)
        if self._state != "OPEN" or self._unwinding_scope() is not None:
            raise self._closed()

    def _closed(self) -> SagaClosed:
        return SagaClosed(f"saga {self.name!r} has ended")

    def _deadline_error(self) -> SagaDeadlineExceeded | None:
        # A workflow's cancel wins: it was asked for by someone.
        if not self._expired or self._outranked:
            return None
        return SagaDeadlineExceeded(f"saga {self.name!r} passed its deadline")

    def _compensation_error(self, cause: BaseException | None) -> CompensationError:
        names = ", ".join(record.name for record in self._failed)
        error = CompensationError(f"saga {self.name!r}: compensations failed for good: {names}", self.report())
        error.__cause__ = cause
        return error


class _Child:
    """A child workflow as a step: in a task of the saga's own, which nobody cancels.

    The SDK gives a start up when the workflow is cancelled meanwhile (`reraise_on_workflow_cancellation`), and the
    child would run on unseen. So a cancel waits until the child has started. It is sent once: the SDK would repeat it.
    """

    def __init__(self, target: Any, inputs: list[Any], options: dict[str, Any]) -> None:
        self._handle: workflow.ChildWorkflowHandle[Any, Any] | None = None
        self._cancelled = False
        self.task = asyncio.create_task(self._run(target, inputs, options))

    async def _run(self, target: Any, inputs: list[Any], options: dict[str, Any]) -> Any:
        self._handle = await workflow.start_child_workflow(target, args=inputs, **options)
        if self._cancelled:
            self._handle.cancel()
        return await self._handle

    def cancel(self) -> None:
        if self._handle is not None and not self._cancelled:
            self._handle.cancel()
        self._cancelled = True


async def _turns_of_the_loop() -> asyncio.CancelledError | None:
    """Let pass what came in this activation: up to four callbacks of the SDK's. Return a cancel that came meanwhile."""
    kept: asyncio.CancelledError | None = None
    for _ in range(4):
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError as cancel:
            probe_eviction()
            kept = cancel
    return kept


def _unwound() -> asyncio.CancelledError:
    # No class of its own: asyncio compares by `is` up to Python 3.12 (`TaskGroup.__aexit__`, `Timeout.__aexit__`).
    return asyncio.CancelledError(UNWOUND)


def _options(options: Any) -> dict[str, Any]:
    if options is not None and not isinstance(options, Mapping):
        raise TypeError("options are a mapping: call the preset, as in presets.standard()")
    return dict(cast("Mapping[str, Any]", options or {}))
