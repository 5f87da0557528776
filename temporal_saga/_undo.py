"""Undoing steps, in order. This module knows steps, and does not know scopes.

undo
├── reverse      one after another, newest first
└── concurrent   two at the same time if their steps overlapped
"""

from __future__ import annotations

import asyncio
from bisect import bisect, bisect_left, insort
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field

from ._compensation import Call, Callback
from ._identity import step_id
from ._outcome import failure_or_raise
from ._parking import Resolution
from ._run import Room
from ._step import Step
from ._typing import Moment, Options


class Todo:
    """The steps that are still to be undone, in the order in which they began. Steps may be added during the undo."""

    def __init__(self, steps: Iterable[Step]) -> None:
        self._steps = sorted(steps, key=_began)
        self._reach: list[Moment] = []  # for each step, the latest end among the steps up to it; filled in by `ready`

    def __bool__(self) -> bool:
        return bool(self._steps)

    def add(self, steps: Iterable[Step]) -> None:
        """Add steps, each at its place in the order."""
        added = sorted(steps, key=_began)
        if not added:
            return
        at = bisect(self._steps, added[0].began, key=_began)
        self._steps[at:] = sorted([*self._steps[at:], *added], key=_began)
        del self._reach[at:]

    @property
    def newest(self) -> Step:
        """The newest step."""
        return self._steps[-1]

    def ready(self, running: Moment, first_ended: Moment | None) -> Iterator[Step]:
        """Yield the steps that may be undone now, newest first.

        A step may be undone once each step that began after its end has been undone.

        Args:
            running: Of the steps whose undo is running, when the newest began; () if there is none.
            first_ended: Of the steps whose undo is running, when the first one ended. A step that began later must
                wait for that undo. None if no undo is running.
        """
        for step in self._steps[len(self._reach) :]:
            self._reach.append(max(step.ended, self._reach[-1]) if self._reach else step.ended)
        newest = max(running, self._steps[-1].began) if self._steps else running
        for at in reversed(range(len(self._steps))):
            if self._reach[at] < newest:
                break  # no step up to here ended late enough
            step = self._steps[at]
            if step.ended >= newest and (first_ended is None or step.began <= first_ended):
                yield step

    def take(self, step: Step) -> None:
        """Remove a step."""
        at = bisect_left(self._steps, step.began, key=_began)
        del self._steps[at]
        del self._reach[at:]


@dataclass
class How:
    """How steps are undone, and which undos failed.

    Attributes:
        options: The saga's options.
        room: The undos that the whole run may have in progress at once.
        on_change: Called when an undo begins, when it fails for good, and when a person has done it by hand.
        park: Waits for a person to decide about an undo that has failed for good; None if nobody is asked.
        failed: The steps whose undo failed for good.
    """

    options: Options
    room: Room
    on_change: Callable[[Step], None]
    park: Callable[[Step, BaseException], Awaitable[Resolution | None]] | None
    failed: list[Step] = field(default_factory=list[Step])


async def undo(todo: Todo, how: How) -> None:
    """Undo steps until none is left."""
    if how.options.order == "concurrent":
        await _undo_as_they_overlapped(todo, how)
        return
    while todo:
        step = todo.newest
        size = _size(step, how)
        if not how.room.has(size):
            await how.room.wait(size)
            continue  # a newer step may have been added during the wait
        how.room.take(size)
        todo.take(step)
        await _undo(step, how)


async def _undo_as_they_overlapped(todo: Todo, how: How) -> None:
    began: list[Moment] = []  # when the steps began whose undos are running, sorted
    ended: list[Moment] = []  # when the same steps ended, sorted
    finished: list[tuple[Step, asyncio.Task[None]]] = []
    woken = asyncio.Event()

    def start(step: Step) -> None:
        def finish(task: asyncio.Task[None]) -> None:
            finished.append((step, task))
            woken.set()

        todo.take(step)
        insort(began, step.began)
        insort(ended, step.ended)
        asyncio.create_task(_undo(step, how)).add_done_callback(finish)

    while todo or began:
        chosen: list[Step] = []
        size = 0
        for step in todo.ready(began[-1] if began else (), ended[0] if ended else None):
            size = _size(step, how)
            if not how.room.has(size):
                break
            how.room.take(size)
            chosen.append(step)
        for step in chosen:
            start(step)
        if not began:
            await how.room.wait(size)  # the undos of other sagas fill the room
            continue
        await woken.wait()
        woken.clear()
        for step, task in finished:
            del began[bisect_left(began, step.began)]
            del ended[bisect_left(ended, step.ended)]
            task.result()
        finished.clear()


async def _undo(step: Step, how: How) -> None:
    """Run one compensation until it succeeds, fails for good, or a person has decided about it."""
    call = step.undo_call
    if call is None:  # its compensation_from= failed, which fails the workflow
        how.room.leave()
        step.undo_state = "FAILED"
        how.failed.append(step)
        return
    while True:
        error = await _attempt(step, call, how)
        if error is None:
            step.undo_state = "DONE"
            return
        if how.park is None:
            step.undo_state = "FAILED"
            break
        step.undo_state = "PARKED"
        resolution = await how.park(step, error)
        assert resolution is not None  # nothing cancels the waiting of an undo
        if resolution.action == "done_by_hand":
            step.undo_state = "BY_HAND"
            how.on_change(step)
            return
        if resolution.action == "give_up":
            step.undo_state = "GIVEN_UP"
            break
        step.undo_state = "PENDING"
        size = _size(step, how)
        await how.room.wait(size)
        how.room.take(size)
    step.undo_error = error
    how.failed.append(step)
    how.on_change(step)


async def _attempt(step: Step, call: Call | Callback, how: How) -> BaseException | None:
    """Run one compensation. Return the error if it fails for good, None if it succeeds."""
    step.undo_state = "RUNNING"
    how.on_change(step)
    try:
        if isinstance(call, Callback):
            how.room.leave()  # a callback itself asks nothing of the server, and may wait for undos that do
            await call.run()
        else:
            id = step_id(step.name, step.phase, step.key)
            try:
                await call.start(how.options.compensation, id, summary=f"undo {step.name}")
            finally:
                how.room.leave()
    except (Exception, asyncio.CancelledError) as error:
        # A compensation that ends cancelled has failed: an operator cancelled it, or its callback awaited a cancelled
        # task.
        failure_or_raise(error)
        return error
    return None


def _size(step: Step, how: How) -> int:
    """Return the size of a compensation's arguments in bytes; 0 if they cannot be converted, which fails its start."""
    call = step.undo_call
    if call is None or isinstance(call, Callback):
        return 0
    try:
        payloads = call.payloads(how.options.compensation, step_id(step.name, step.phase, step.key))
    except Exception:
        return 0
    return sum(payload.ByteSize() for payload in payloads)


def _began(step: Step) -> Moment:
    return step.began
