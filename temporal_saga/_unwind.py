"""Unwinding a scope: drain what is in flight, then undo what is armed.

    unwind
    ├── drain     cancel the steps in flight, wait until each has ended, note what became of it
    └── undo      run the compensations (`_undo.py`)

The unwind runs in a task of its own, which nobody else can cancel. The scope's owner waits for that task, and keeps
the cancels that come meanwhile.
"""

from __future__ import annotations

import asyncio
from typing import Any

from temporalio import workflow

from ._cancels import chained
from ._metrics import count, record_seconds
from ._scope import Scope, State, undoing_in
from ._step import Step
from ._undo import How, Todo, undo
from ._waiting import fail_task, until_done, wait_through_cancels

_MOST_SHOWN = 50  # with more steps, the list in the UI is not redrawn for each undo


class Unwind:
    """One unwind of a scope.

    Args:
        scope: The scope.
        swallowed: If the scope ends well, the steps whose error the body has swallowed: only these are undone. None if
            the scope ends badly: then everything that is armed is undone.
    """

    def __init__(self, scope: Scope, swallowed: list[Step] | None = None) -> None:
        self._scope = scope
        self._takes_all = swallowed is None
        self._is_drained = False
        self._todo = Todo(swallowed or [])
        self._how = How(scope.shared.options, scope.shared.run.room, self._on_change, scope.shared.park_undo)

    async def run(self, cause: BaseException | None) -> list[Step]:
        """Undo, whatever happens meanwhile. Return the steps whose undo failed for good.

        Args:
            cause: The error that makes the scope unwind.
        """
        scope, shared = self._scope, self._scope.shared
        scope.cancels.begin_unwind()
        began = asyncio.get_running_loop().time()
        if scope.state is State.OPEN:
            if scope.parent is None:
                scope.ended = asyncio.get_running_loop().create_future()
            shared.run.keep_details()
            shared.run.unwinding += 1
            workflow.logger.info("Saga %s unwinds", shared.name, extra={"saga": shared.name})
        scope.state = State.UNWINDING
        scope.on_push = self._take_late
        shared.run.show_state()
        shared.show()
        while True:
            task = asyncio.create_task(self._drain_and_undo())
            await wait_through_cancels(task, self._keep)
            await _fail_for_bug(task)
            await fail_task(shared.misuse)
            if not self._todo:  # nothing was pushed after the task's last look
                break
        scope.on_push = None
        _note_failed(scope, self._how.failed, cause)
        lasted = asyncio.get_running_loop().time() - began
        record_seconds("unwind_seconds", "How long an unwind took.", lasted, saga=shared.name)
        return self._how.failed

    async def _drain_and_undo(self) -> None:
        with undoing_in(self._scope):
            await self._scope.shared.run.turn((1, self._scope.entry))
            await self._drain()
            self._is_drained = True
            self._take_late()
            self._scope.shared.show()
            await undo(self._todo, self._how)
            self._scope.shared.show()

    async def _drain(self) -> None:
        """Wait until nothing of the scope and its open savepoints is in flight, then take over the savepoints' steps.

        This takes at most the start-to-close timeout of the slowest step. After the pivot no step is cancelled, but a
        step that waits for a person stops waiting.
        """
        while True:
            scopes = [self._scope, *self._scope.open_savepoints()]
            in_flight = [step for scope in scopes for step in scope.stack.in_flight]
            for step in in_flight:
                if self._scope.shared.pivot.is_passed:
                    step.stop_waiting()
                else:
                    step.request_cancel()
            waits: list[asyncio.Future[Any]] = [step.task for step in in_flight]
            waits += [task for scope in scopes for task in scope.undos]
            # Not the task of a savepoint's unwind: its owner has more to do after that task, and does it first.
            waits += [scope.ended for scope in scopes[1:] if scope.state is State.UNWINDING]
            pending = [wait for wait in waits if not wait.done()]
            if not pending:
                break
            await until_done(pending)
        for scope in scopes:
            scope.stack.settle_ended()
        for scope in reversed(scopes[1:]):  # the inner ones first: each hands its steps to its parent
            scope.close(State.MERGED)

    def _keep(self, cancel: asyncio.CancelledError) -> None:
        """Keep a cancel that comes meanwhile."""
        if not self._scope.shared.pivot.hold_if_workflows(cancel):
            self._scope.cancels.keep(cancel)
            self._take_all()

    def _take_all(self) -> None:
        """Undo everything else as well, each step at its place in the order: the scope cannot end well any more."""
        self._takes_all = True
        self._take_late()

    def _take_late(self) -> None:
        if self._takes_all and self._is_drained:  # not earlier: a step in flight may yet prove that it had no effect
            self._todo.add(self._scope.stack.give())

    def _on_change(self, step: Step) -> None:
        if step.undo_state in ("FAILED", "GIVEN_UP"):
            self._take_all()
        elif len(self._scope.shared.steps) <= _MOST_SHOWN:
            self._scope.shared.show()


async def undo_one(scope: Scope, step: Step) -> asyncio.CancelledError | None:
    """Undo one step while its scope stays open, whatever happens meanwhile. Return a cancel that came, if any."""
    todo = Todo([step])
    how = How(scope.shared.options, scope.shared.run.room, lambda _: None, scope.shared.park_undo)

    async def protected() -> None:
        with undoing_in(scope):
            await undo(todo, how)

    kept: asyncio.CancelledError | None = None

    def keep(cancel: asyncio.CancelledError) -> None:
        nonlocal kept
        if not scope.shared.pivot.hold_if_workflows(cancel):
            kept = chained(cancel, kept)

    task = asyncio.create_task(protected())
    scope.undos = [*scope.undos, task]
    await wait_through_cancels(task, keep)
    scope.undos = [each for each in scope.undos if each is not task]
    await _fail_for_bug(task)
    _note_failed(scope, how.failed, step.undo_error)
    return kept


def _note_failed(scope: Scope, failed: list[Step], cause: BaseException | None) -> None:
    scope.note_failed(failed, cause)
    for step in failed:
        text = "Compensations that have failed for good."
        count("compensation_failures", text, saga=scope.shared.name, step=step.name)


async def _fail_for_bug(task: asyncio.Task[None]) -> None:
    """Fail the workflow task for a bug in a callback."""
    bug = task.exception()
    if isinstance(bug, Exception):
        await fail_task(bug)
    task.result()
