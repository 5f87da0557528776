"""`Saga`, the object that users hold. It checks its arguments, and calls its scope."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, cast

from temporalio import workflow
from typing_extensions import Self

from . import presets
from ._compensation import Callback, arguments, check_arguments, check_chooser, registered_name
from ._enter import enter
from ._execute import called, execute, undo_step
from ._identity import checked_name
from ._leave import compensate, detach, leave, pass_pivot
from ._options import check_choice, check_duration, check_option_names, check_options, check_types
from ._parking import check_reminder
from ._report import SagaReport
from ._scope import Scope
from ._state import MAX_BYTES, SagaState, name_of
from ._step import ACTIVITY_OPTIONS, Step
from ._surface import Compensation, Steps
from ._typing import UNSET, Kind, OnCompensationFailure, OnStepFailure, Options, Order, Reminder

_COMPENSATION_OPTIONS: dict[str, Any] = dict(presets.compensation())

_LOCAL = "saga.add_compensation(...), then the call of workflow: a local activity cannot be a step"
_PARALLEL = "; for several at once, asyncio.gather(...) or a TaskGroup"


class Saga(Steps):
    """A scope that, if it ends badly, undoes every step that may have taken effect.

    Use it once, as `async with Saga() as saga`. The saga unwinds if a cancellation leaves the body, or an exception
    that fails a workflow. A programming error fails the workflow task instead, so that a fixed deployment can carry on.

    Args:
        name: A stable name. It is part of every key, so treat it as persistent data.
        activity_options: Options for each step that is an activity. The options of a call win, one by one.
        compensation_options: Options for each compensation that is an activity; `presets.compensation()` if None.
        order: "reverse" undoes one step after another, newest first. "concurrent" undoes two steps at the same time if
            they overlapped.
        on_step_failure: With "park", a step that has failed for good waits for a person instead of raising, unless it
            was refused (`Declined`, `Rejected`). A cancel or the deadline ends the waiting; then the step is undone.
        on_compensation_failure: With "park", a compensation that has failed for good waits for a person. With
            "continue", the other compensations run, and the saga ends INCOMPLETE. The update `saga_resolve(key, action,
            who, why)` settles what waits, and so does the command `temporal-saga resolve`.
        park_reminder: An activity and an interval. The activity is called with a `Parked` when something is parked, and
            again after each interval. Each call adds events to the history, so choose hours.
        deadline: The longest time for the body, from entry; None means no limit. It costs a timer. Unlike the server's
            timeouts, it lets the saga unwind.
        state: A saga's state from `detach()`, to continue that saga. The saga keeps its name, keys, pivot and the rest
            of its deadline; `deadline` is ignored then.

    Attributes:
        name: The saga's name.

    Raises:
        TypeError: If `name`, `state` or an option has the wrong type; if `name` is empty; if an option does not exist.
        ValueError: If `order`, `on_step_failure` or `on_compensation_failure` is not one of its choices; if the
            interval of `park_reminder` is not positive; if a retry policy contradicts itself.
        RuntimeError: If this release cannot read the format of `state`, or `state` belongs to a saga of another name.
        CompensationError: On leaving, if a compensation failed for good. Its cause is the error that left the body.
        SagaDeadlineExceeded: On leaving, if the deadline passed.
    """

    _scope: Scope | None = None  # None until it is entered
    _parent: Scope | None = None  # the scope around a savepoint

    def __init__(
        self,
        name: str = "saga",
        *,
        activity_options: workflow.ActivityConfig | presets.PresetOptions | None = None,
        compensation_options: workflow.ActivityConfig | presets.PresetOptions | None = None,
        order: Order = "reverse",
        on_step_failure: OnStepFailure = "raise",
        on_compensation_failure: OnCompensationFailure = "continue",
        park_reminder: Reminder | None = None,
        deadline: timedelta | None = None,
        state: SagaState | None = None,
    ) -> None:
        fix = "Saga(activity_options=...)" if isinstance(name, (Mapping, presets.Preset)) else 'Saga("order")'
        name = checked_name("a saga's name", name, fix)
        if (order, on_step_failure, on_compensation_failure) != ("reverse", "raise", "continue"):
            check_choice("order", order, ("reverse", "concurrent"))
            check_choice("on_step_failure", on_step_failure, ("raise", "park"))
            check_choice("on_compensation_failure", on_compensation_failure, ("continue", "park"))
        if park_reminder is not None:
            check_reminder(park_reminder)
        if deadline is not None:
            check_duration("deadline", deadline)
        if state is not None:
            name = name_of(state, name)
        self.name: str = name
        activity = ACTIVITY_OPTIONS
        if activity_options is not None:
            activity = {**ACTIVITY_OPTIONS, **_options(activity_options)}
            check_types(activity, "activity")
        compensation = _COMPENSATION_OPTIONS
        if compensation_options is not None:
            compensation = _options(compensation_options)
            check_options(compensation, "activity")
        self._options = Options(
            order, activity, compensation, on_step_failure == "park", on_compensation_failure == "park", park_reminder
        )
        self._deadline = deadline
        self._from_state = state

    async def __aenter__(self) -> Self:
        """Enter the scope."""
        if self._scope is not None:
            raise RuntimeError("a Saga is entered once: make a new one")
        if self._parent is not None:
            self._scope = await self._parent.enter_savepoint()
        else:
            self._scope = enter(self.name, self._options, self._deadline, self._from_state)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave the scope. If it ends well, wait for its steps in flight; if it ends badly, unwind it."""
        assert self._scope is not None
        error = await leave(self._scope, exc)
        if error is not None and error is not exc:
            context = error.__context__
            try:
                raise error
            finally:
                # Python sets the exception that this one replaces as its context (the group of a leaf, the cancel of a
                # deadline), and the SDK would send the context as a cause.
                error.__context__ = context

    def savepoint(self) -> Saga:
        """Return a nested saga: `async with saga.savepoint() as attempt`.

        A savepoint has the same methods. If it ends badly, it unwinds itself and raises, so the workflow can try
        something else. If it ends well, its armed steps join this saga.
        """
        savepoint = object.__new__(Saga)
        savepoint.name = self.name
        savepoint._parent = self._entered()
        return savepoint

    # --- steps -------------------------------------------------------------------------------------------------------

    def _step(
        self,
        kind: Kind,
        target: Any,
        arg: Any,
        args: Sequence[Any],
        compensation: Any,
        compensation_from: Any,
        step: str | None,
        key: str | None,
        options: dict[str, Any],
    ) -> Coroutine[Any, Any, Any]:
        # A plain function, so that the call is numbered now, in the order of the calls. A `gather` would leave the
        # order in which coroutines first run to the loop.
        scope = self._scope or self._entered(f", for step {step or getattr(target, '__name__', target)!r}")
        make = scope.shared.new_step
        if options:
            if "on_step_failure" in options:
                choice = options.pop("on_step_failure")
                check_choice("on_step_failure", choice, ("raise", "park"))
                make = scope.shared.parking_step if choice == "park" else Step
            check_option_names(options, kind)
        inputs = (arg,) if arg is not UNSET and not args else arguments(arg, args)
        if compensation is not None:
            if compensation_from is not None:
                raise TypeError("give compensation= or compensation_from=, not both")
            if not isinstance(compensation, Compensation):
                check_arguments(compensation, inputs, of_step=True)
        elif compensation_from is not None:
            check_chooser(compensation_from)
        name = registered_name(target) if step is None else checked_name("step=", step, 'step="charge"')
        if scope.has_ended:
            return scope.admit(f"step {name!r}")
        options["args"] = [*inputs]
        step_called = make(name, scope.shared.key(name, key), compensation, compensation_from, inputs)
        scope.stack.called[step_called] = coroutine = execute(scope, step_called, kind, target, options)
        return coroutine

    def _push(
        self, target: Any, arg: Any, args: Sequence[Any], step: str | None, key: str | None, options: dict[str, Any]
    ) -> None:
        scope = self._entered()
        if isinstance(target, Compensation):
            if arg is not UNSET or args or options:
                raise TypeError("a Compensation already has its arguments and options: give them to Compensation(...)")
        else:
            if options:
                check_option_names(options, "activity")
            target = Compensation(target, arg, args=args, **options)
        name = target.name if step is None else checked_name("step=", step, 'step="charge"')
        scope.push(Step(name, scope.shared.key(name, key), target))

    def _push_callback(self, callback: Callable[..., object], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        scope = self._entered()
        pushed = Callback(callback, args, dict(kwargs))
        scope.push(Step(pushed.name, scope.shared.callback_key(pushed.name), pushed))

    def undo(self, step: Callable[..., Any] | str, *, key: str | None = None) -> Coroutine[Any, Any, None]:
        """Undo one earlier step now, and take it off the stack. Example: an item is removed from a cart.

        No cancel interrupts the undo. The scope stays open.

        Args:
            step: The step's name, or the activity that the step is named after.
            key: The `key=` of the step; by default the newest call that is still armed.

        Raises:
            CompensationError: The compensation failed for good. The saga ends INCOMPLETE even if the body catches this.
            asyncio.CancelledError: A cancel came meanwhile, or the scope is unwinding.
            ApplicationError: In a handler, if no such step is armed; its type is "StepNotArmed".
            SagaClosed: The scope has ended or was detached.
            TypeError: `key` is not a string or is empty.
            RuntimeError: Nothing of that name is armed, or the step is in flight.
        """
        name = step if isinstance(step, str) or not callable(step) else registered_name(step)
        name = checked_name("the step to undo", name, 'saga.undo("charge")')
        scope = self._entered()
        if key is not None:
            key = scope.shared.checked_key(name, key)
        return called(scope, f"undo() of {name!r}", lambda: undo_step(scope, name, key))

    # --- ends --------------------------------------------------------------------------------------------------------

    def compensate(self) -> Coroutine[Any, Any, SagaReport]:
        """Unwind now, without an error, for instance after a rejected review. Then the scope is closed.

        Returns:
            The report, which shows what was undone.

        Raises:
            CompensationError: If a compensation failed for good. Its cause is the error of the step that failed last.
            asyncio.CancelledError: If a cancel came meanwhile; everything has been undone.
            SagaClosed: If the saga has ended.
            RuntimeError: From a task that did not enter the scope.
        """
        scope = self._entered()

        async def run() -> SagaReport:
            self._owned("compensate()")
            await compensate(scope)
            return scope.report()

        return called(scope, "compensate()", run)

    def pivot(self) -> None:
        """Pass the point of no return: steps that succeeded are kept for good, in this scope and in those around it.

        The deadline stops. From here on the workflow's cancel waits until the saga ends: in a step, and with
        `SagaPlugin` wherever the body waits. A cancel of only a part, such as a timeout, lets a step run to its end. A
        failed step is still undone if the body swallowed its error. Later compensations work as before.

        Raises:
            asyncio.CancelledError: If a cancel is on its way to the saga. The saga has not passed the pivot then.
            SagaClosed: If the saga has ended.
            RuntimeError: With a step in flight, or from a task that did not enter the scope.
        """
        pass_pivot(self._open("pivot()"))

    def detach(self, *, max_bytes: int = MAX_BYTES) -> SagaState:
        """Return the armed compensations as data, for `Saga(state=...)` elsewhere, and give them up here.

        Args:
            max_bytes: The largest state to return, in bytes of JSON. The default is 1.5 MiB, since the server refuses
                2 MB (limit.blobSize.error). From 512 KiB on, a warning is logged.

        Raises:
            SagaStateTooLarge: If the state is larger than `max_bytes`. The saga stays as it is.
            ValueError: If an option of a compensation cannot be written down.
            SagaClosed: If the saga has ended.
            RuntimeError: With a step in flight, a callback on the stack, in a savepoint, or from a task that did not
                enter the scope.
        """
        return detach(self._open("detach()"), max_bytes)

    # --- what it tells -----------------------------------------------------------------------------------------------

    def report(self) -> SagaReport:
        """Return the saga as people see it: names, keys and states. A savepoint reports its whole saga."""
        return self._entered().report()

    def idempotency_key(self, *parts: str | int) -> str:
        """Return a key for an effect of the workflow itself, as stable as a step's key and different from all of them.

        Args:
            parts: The data that names the effect within this saga; at least one part.

        Returns:
            A UUID, as 36 characters.

        Raises:
            ValueError: If there are no parts.
            TypeError: If a part is neither a str nor an int.
        """
        return self._entered().shared.keys.of_parts(parts)

    # --- checks ------------------------------------------------------------------------------------------------------

    def _entered(self, what: str = "") -> Scope:
        if self._scope is None:
            raise RuntimeError(f"enter the saga first: async with Saga() as saga, or saga.savepoint() as attempt{what}")
        return self._scope

    def _owned(self, what: str) -> Scope:
        scope = self._entered()
        if asyncio.current_task() is not scope.owner:
            raise scope.shared.refuse(f"{what} from a task that did not enter the scope: call it where the scope is")
        return scope

    def _open(self, what: str) -> Scope:
        scope = self._owned(what)
        if scope.has_ended or scope.unwinding_scope() is not None:
            raise scope.closed(what)
        return scope

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            """Say what to write instead of a method that `workflow` has and a saga does not."""
            if name.startswith(("execute_", "start_")) and hasattr(workflow, name):
                step = name.replace("start_", "execute_").replace("_class", "")
                step = f"await saga.{step}(...)" + (_PARALLEL if name.startswith("start_") else "")
                raise AttributeError(f"a saga has no {name}: write {_LOCAL if '_local_' in name else step}")
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


def _options(options: Any) -> dict[str, Any]:
    if not isinstance(options, Mapping):
        raise TypeError("options must be a mapping: call the preset, as in presets.standard()")
    return dict(cast("Mapping[str, Any]", options))
