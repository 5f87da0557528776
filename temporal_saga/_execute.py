"""Running a step in its scope: arm the step, give its command, wait, settle."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from temporalio.exceptions import ApplicationError

from ._cancels import chained
from ._run import in_main_method
from ._scope import Scope, State, undoing, unwound
from ._stack import Called
from ._step import Step
from ._typing import Kind
from ._unwind import undo_one
from ._waiting import UntilDone, raise_if_evicted

_OPEN = State.OPEN
T = TypeVar("T")


async def execute(scope: Scope, step: Step, kind: Kind, target: Any, options: dict[str, Any]) -> Any:
    """Run a step that was called."""
    stack = scope.stack
    del stack.called[step]
    if scope.state is not _OPEN or scope.parent is not None or undoing.get():
        await scope.admit(step.what)
    task = stack.start(step, kind, target, options)
    cancel: asyncio.CancelledError | None = None
    try:
        await UntilDone(task)
    except asyncio.CancelledError as error:
        cancel = await _wait_on(scope, step, task, error)
    if step.outcome is None:
        stack.settle(step)
    if (scope.state is not _OPEN or scope.parent is not None) and await scope.waited_for_unwind():
        raise unwound() from step.error  # the body must not go on: its effects have been undone
    if cancel is not None:
        raise cancel from step.error
    if step.error is not None:
        raise step.error
    return task.result()


async def _wait_on(
    scope: Scope, step: Step, task: asyncio.Task[Any], error: asyncio.CancelledError
) -> asyncio.CancelledError | None:
    """Wait for a step whose caller was cancelled. Return the cancel to raise; None if the workflow's is held."""
    pivot = scope.shared.pivot
    cancel: asyncio.CancelledError | None = None
    while True:
        raise_if_evicted()
        if not pivot.hold_in_a_step(error):
            cancel = error
            if not pivot.is_relayed(error):
                scope.stack.mark_raised(step)
                if pivot.is_passed:
                    step.stop_waiting()
            if not pivot.is_passed:
                # Wait until nothing else is left to run: a result that came in the same activation wins.
                scope.shared.run.when_idle((0, scope.entry, step.began), step.request_cancel)
        if task.done():
            return cancel
        try:
            await UntilDone(task)
        except asyncio.CancelledError as again:
            error = chained(again, cancel)


def called(scope: Scope, what: str, run: Callable[[], Coroutine[Any, Any, T]]) -> Coroutine[Any, Any, T]:
    """Return a coroutine that calls `run`. It must be awaited before the scope ends well."""
    call = Called(what)

    async def begin() -> T:
        del scope.stack.called[call]
        return await run()

    scope.stack.called[call] = coroutine = begin()
    return coroutine


async def undo_step(scope: Scope, name: str, key: str | None) -> None:
    """Undo the newest armed step of this name, or the one with that key, while the scope stays open."""
    await scope.admit(f"undo() of {name!r}")
    step = _to_undo(scope, name, key)
    scope.stack.armed.remove(step)
    cancel = await undo_one(scope, step)
    if await scope.waited_for_unwind():
        raise unwound() from step.undo_error
    error = None if step.undo_error is None else scope.compensation_error([step], step.undo_error)
    if cancel is not None:
        raise cancel from error
    if error is not None:
        raise error


def _to_undo(scope: Scope, name: str, key: str | None) -> Step:
    step = scope.stack.newest(name, None if key is None else scope.shared.keys.of_key(name, key))
    if step is not None and step.outcome is not None:
        return step
    which = f"step {name!r}" if key is None else f"step {name!r} with key={key!r}"
    if step is not None:
        message = f"undo() of {which} while the step is in flight: await the step first"
    else:
        armed = ", ".join(sorted({repr(each.name) for each in scope.stack.armed})) or "nothing"
        message = f"undo() of {which}, which is not armed in saga {scope.shared.name!r}; armed now: {armed}"
    if in_main_method.get():
        raise scope.shared.refuse(f"{message}. Undo what a step of this scope has done, once, and before a pivot")
    raise ApplicationError(message, type="StepNotArmed", non_retryable=True)  # a client's data may have done that
