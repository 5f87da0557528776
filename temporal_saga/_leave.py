"""The ends of a scope.

A scope ends well once its steps in flight have ended. It ends badly by unwinding. Or `detach()` gives a saga away as
data: through continue-as-new, or from a child workflow into its parent.
"""

from __future__ import annotations

import asyncio

from temporalio import workflow
from temporalio.exceptions import is_cancelled_exception

from ._cancels import chained
from ._compensation import Callback
from ._outcome import bug_in, saga_failure, type_name
from ._scope import Scope, State, unwound
from ._state import VERSION, WARN_BYTES, SagaState, write_decisions, write_steps
from ._unwind import Unwind
from ._waiting import fail_task, raise_if_evicted, until_done, until_idle
from .errors import CompensationError, SagaDeadlineExceeded, SagaStateTooLarge

# If a timeout cancels a function that waits for a semaphore, a call that was passed to the function looks the same.
_AWAIT = "await each call, and call a step inside a semaphore or a timeout, not before it"


async def leave(scope: Scope, error: BaseException | None) -> BaseException | None:
    """End the scope with the error that left its body, if any. Return the error that goes on; None if none does."""
    if not workflow.in_workflow() or scope.owner.get_loop() is not asyncio.get_running_loop():
        return error  # the garbage collector closes a coroutine of another run
    if asyncio.current_task() is not scope.owner:
        raise_if_evicted()
        if scope.has_ended:
            return error
        misuse = scope.shared.refuse(
            f"saga {scope.shared.name!r} was left in another task than it was entered in, where it cannot unwind: "
            "enter and leave it in one task (up to Python 3.11 wait_for() makes a task of each call)"
        )
        await fail_task(misuse)
        return misuse
    scope.has_left = True
    failure = None if error is None else saga_failure(error)
    if error is not None and failure is None:
        failure = await _fail_for_misuse(scope, error)
        if failure is None:
            return await _pass_on(scope, error)
    if failure is not None:
        raise_if_evicted()
    if scope.parent is not None and await scope.was_taken_over():
        return unwound() if error is None else error
    if scope.state is State.DETACHED and failure is not None:
        message = (
            "Saga %s was left with %s after detach(), so nothing is undone here. Unless its state goes on elsewhere, "
            "the effects of its steps stand"
        )
        workflow.logger.error(message, scope.shared.name, type_name(failure), extra={"saga": scope.shared.name})
    expiry = None
    if failure is not None and is_cancelled_exception(failure):
        expiry = _deadline_error(scope, failure)
    if scope.state is not State.OPEN:  # compensate() or detach() has ended it
        return expiry or error
    await fail_task(scope.shared.misuse)
    failure = scope.shared.misuse if failure is None else expiry or failure
    pivot = scope.shared.pivot
    if failure is None or pivot.hold_if_workflows(failure) or pivot.is_relayed(failure):
        return await _end_well(scope)
    raised = await _end_badly(scope, failure, is_cancel=_is_cancel(failure))
    # A savepoint raises a cancel in place of the error of an independent saga inside. The saga around raises that
    # error: the end of the run must not say that everything is undone.
    if isinstance(error, asyncio.CancelledError) and isinstance(hidden := error.__cause__, CompensationError):
        if scope.parent is None:
            return raised if scope.stack.failed else hidden
        raised.__cause__ = hidden
    return raised


async def _pass_on(scope: Scope, error: BaseException) -> BaseException:
    """If control flow leaves a scope with nothing to undo, close the scope, so that it no longer holds a cancel."""
    if scope.has_ended or scope.savepoints or not isinstance(error, (workflow.ContinueAsNewError, GeneratorExit)):
        return error
    scope.close(State.COMPLETED if scope.parent is None else State.MERGED)
    if isinstance(error, workflow.ContinueAsNewError) and scope.parent is None:
        return await _held_cancel(scope) or error  # the next run would never learn of the cancel
    return error


async def _end_well(scope: Scope) -> BaseException | None:
    """Close the scope, or unwind it if it has to end badly after all. Return the error that it raises, if any."""
    cancel = await _wait_for_steps(scope)
    if cancel is not None:
        return await _end_badly(scope, _deadline_error(scope, cancel) or cancel, is_cancel=True)
    misuse, stack = scope.shared.misuse, scope.stack
    if misuse is not None:
        await fail_task(misuse)
        return await _end_badly(scope, misuse)
    if scope.cancels.expired and not scope.shared.pivot.is_passed:
        return await _end_badly(scope, _deadline_error(scope, None))
    if scope.parent is None and stack.failed:
        return await _end_badly(scope, scope.failed_for)  # an undo of a savepoint failed, and the body caught the error
    if swallowed := stack.give_swallowed():
        failed = await Unwind(scope, swallowed).run(cause=swallowed[-1].error)
        # The good end has failed, so the scope ends badly: everything else is undone too.
        if failed:
            return await _end_badly(scope, failed[0].error or swallowed[-1].error)
        if scope.cancels.kept is not None:
            return await _end_badly(scope, scope.cancels.kept, is_cancel=True)
    scope.close(State.COMPLETED if scope.parent is None else State.MERGED)
    return None if scope.parent is not None else await _held_cancel(scope)


async def _wait_for_steps(scope: Scope) -> asyncio.CancelledError | None:
    """Wait until nothing of the scope is in flight. Return a cancel that ends the waiting, if one comes."""
    stack = scope.stack
    while scope.in_progress() or stack.called:
        try:
            if in_progress := scope.in_progress():
                await until_done(in_progress, asyncio.FIRST_COMPLETED)
            await until_idle()  # callers may go on to another step, and a step that was given to a task begins
        except asyncio.CancelledError as cancel:
            raise_if_evicted()
            if not scope.shared.pivot.hold_if_workflows(cancel):
                return cancel
        if await scope.was_taken_over():
            raise unwound()
        stack.settle_ended()
        if stack.called and not scope.in_progress() and (never := stack.never_awaited()):
            scope.shared.refuse(f"{', '.join(never)} was called and never awaited: {_AWAIT}")
    return None


async def _end_badly(scope: Scope, failure: BaseException | None, *, is_cancel: bool = False) -> BaseException:
    """Unwind. Return the error that the scope raises.

    Args:
        scope: The scope.
        failure: The reason for the unwind. It goes on unless an undo fails for good.
        is_cancel: Whether the reason is a cancel that has not been raised outside the scope.
    """
    await Unwind(scope).run(failure)
    scope.close(State.INCOMPLETE if scope.stack.failed else State.COMPENSATED)
    error = scope.compensation_error(scope.stack.failed, failure) if scope.stack.failed else failure
    assert error is not None
    cancels = scope.cancels
    if isinstance(error, asyncio.CancelledError):
        return error if cancels.kept is None else chained(asyncio.CancelledError(*error.args), cancels.kept)
    if scope.parent is None:
        if scope.shared.pivot.held is not None:
            cancels.deliver()
        elif cancels.kept is not None:
            cancels.give_back()
        return error
    cancel: BaseException | None = cancels.kept
    if cancel in (None, failure) and error is not failure and is_cancel:
        # An `except CompensationError` around the savepoint must not swallow a cancel. Raise a new object, since the
        # old one is the cause of the CompensationError.
        cancel = asyncio.CancelledError(*(failure.args if isinstance(failure, asyncio.CancelledError) else ()))
    elif cancel is not None and cancel.__context__ is None and is_cancel:
        cancel.__context__ = failure  # one `CancelledError` is raised for both, as in `chained`
    if cancel is not None:
        cancel.__cause__ = error
    return cancel or error


async def compensate(scope: Scope) -> None:
    """Unwind now, without an error."""
    await scope.admit("compensate()")
    if any(each.owner is scope.owner for each in scope.open_savepoints()):
        raise scope.shared.refuse("compensate() inside a savepoint of this task: leave the savepoint first")
    await fail_task(scope.shared.misuse)
    await Unwind(scope).run(None)
    scope.close(State.INCOMPLETE if scope.stack.failed else State.COMPENSATED)
    cancel = scope.cancels.kept or (scope.shared.pivot.held if scope.parent is None else None)
    if scope.stack.failed:
        if cancel is not None:
            scope.cancels.give_back()
        raise scope.compensation_error(scope.stack.failed, cancel or scope.shared.newest_error())
    if cancel is not None:
        raise cancel


def pass_pivot(scope: Scope) -> None:
    """Pass the point of no return of this scope and of those around it."""
    scopes = [scope]
    while (parent := scopes[-1].parent) is not None:
        scopes.append(parent)
    saga = scopes[-1]
    if any(each.is_busy for each in (saga, *saga.open_savepoints())):
        raise scope.shared.refuse("pivot() with a step in flight: await every step first, it may yet fail")
    pivot = scope.shared.pivot
    may_be_cancelled = not pivot.is_passed and not saga.is_in_callback  # no cancel interrupts an unwind
    if may_be_cancelled and (pivot.is_barred or saga.cancels.is_on_its_way()):
        raise asyncio.CancelledError  # the saga is not past the point of no return yet
    for each in scopes:
        each.stack.forget_what_succeeded()
    saga.cancels.stop_deadline()
    if saga.cancels.expired:
        saga.cancels.take_back_deadline()
    pivot.pass_()


def detach(scope: Scope, max_bytes: int) -> SagaState:
    """Return the armed steps of a saga as data, and close the saga here."""
    shared = scope.shared
    if scope.parent is not None or scope.savepoints:
        raise shared.refuse("detach() in a savepoint: leave the savepoint first, so that it ends well or badly")
    if parked := [step.name for step in shared.steps if step.ticket is not None]:
        raise shared.refuse(f"detach() while something is parked ({', '.join(parked)}): a person has to decide first")
    if scope.is_busy:
        raise shared.refuse("detach() with a step in flight: await every step first")
    if never := scope.stack.never_awaited():
        raise shared.refuse(f"{', '.join(never)} was called and never awaited: {_AWAIT}")
    kept = (*scope.stack.armed, *scope.stack.failed)
    if callbacks := [step.name for step in kept if isinstance(step.compensation, Callback)]:
        raise shared.refuse(
            f"a callback is code and cannot be detached ({', '.join(callbacks)}): push an activity instead"
        )
    if shared.misuse is not None:
        raise shared.misuse
    state = _state_of(scope)
    if state.size > max_bytes:
        raise SagaStateTooLarge(
            f"the state of saga {shared.name!r} has {state.size:,} bytes, more than max_bytes={max_bytes:,}: give the "
            "compensations less data, such as an id, or end the saga earlier"
        )
    if state.size > WARN_BYTES:
        message = "The state of saga %s has %d bytes; detach() refuses %d"
        workflow.logger.warning(message, shared.name, state.size, max_bytes)
    if shared.pivot.held is not None:
        scope.cancels.deliver()
    if scope.cancels.expired:
        scope.cancels.take_back_deadline()
    scope.stack.give()
    scope.close(State.DETACHED)
    return state


def _state_of(scope: Scope) -> SagaState:
    shared, expires_at = scope.shared, scope.cancels.expires_at
    armed, failed = scope.stack.armed, scope.stack.failed
    steps, options = write_steps([*armed, *failed], shared.options.compensation)
    return SagaState(
        version=VERSION,
        name=shared.name,
        ordinal=shared.ordinal,
        anchor=shared.anchor,
        ticks=shared.ticks,
        counts={step: uses.count for step, uses in shared.uses.items() if uses.count},
        keyed={step: list(uses.keys) for step, uses in shared.uses.items() if uses.keys},
        past_pivot=shared.pivot.is_passed,
        deadline=None if expires_at is None else expires_at - asyncio.get_running_loop().time(),
        run_id=shared.info.original_execution_run_id,
        repeats=shared.may_repeat(),
        steps=steps[: len(armed)],
        options=options,
        failed=steps[len(armed) :],
        cancelled=shared.pivot.is_holding_a_cancel(),
        decided=write_decisions([*armed, *failed]),
    )


async def _fail_for_misuse(scope: Scope, error: BaseException) -> BaseException | None:
    """Fail the workflow task for a bug or misuse that leaves the scope. Return None for control flow, which may leave.

    If the user's `failure_exception_types` name such an exception, return it: then the scope unwinds.
    """
    failure: Exception | None
    if isinstance(error, workflow.ContinueAsNewError) and scope.holds_compensations():
        failure = RuntimeError(
            "continue_as_new inside a saga would drop its compensations: pass saga.detach() to the next run, "
            "or leave the scope first"
        ).with_traceback(error.__traceback__)
    elif isinstance(error, GeneratorExit) and scope.holds_compensations():
        failure = RuntimeError("the generator around a saga was closed: let it run to its end, so that the saga ends")
    else:
        failure = error if isinstance(error, Exception) else bug_in(error)
    if failure is None or scope.has_ended:
        return None
    if failure is error:
        message = (
            "The body of saga %s raised %s, which Temporal treats as a bug: the workflow task fails, and is retried "
            "until the code is fixed. Nothing is undone. To undo, raise an ApplicationError"
        )
        workflow.logger.warning(message, scope.shared.name, type(error).__name__)
    await fail_task(failure)  # if code around the scope caught it, the effects of the scope would stand
    return failure


def _deadline_error(scope: Scope, cancel: BaseException | None) -> SagaDeadlineExceeded | None:
    """Return the deadline's error if the deadline has passed; None if the cancel is somebody else's as well."""
    if not scope.cancels.expired or (scope.cancels.take_back_deadline(cancel) and cancel is not None):
        return None
    return SagaDeadlineExceeded(f"saga {scope.shared.name!r} passed its deadline")


def _is_cancel(failure: BaseException) -> bool:
    """Tell a cancel from a failure. A plain activity in the body turns the workflow's cancel into an ActivityError."""
    if isinstance(failure, asyncio.CancelledError):
        return True
    return is_cancelled_exception(failure) and workflow.cancellation_reason() is not None


async def _held_cancel(scope: Scope) -> BaseException | None:
    """Return the workflow's cancel, if it has waited for this saga and this task gets it."""
    if scope.shared.pivot.held is not None or not scope.cancel_waited:
        return scope.shared.pivot.held
    try:
        await asyncio.sleep(0)
    except asyncio.CancelledError as cancel:
        raise_if_evicted()
        return cancel
    return None
