"""What the scopes of one saga share: the saga itself and its savepoints."""

from __future__ import annotations

import asyncio
from typing import Any

from temporalio import workflow

from ._identity import Keys, check_parts
from ._outcome import StepRecord
from ._seed import is_past_reset


class Root:
    """What the scopes of one saga share."""

    def __init__(self, name: str, ordinal: int, anchor: str) -> None:
        self.name = name
        self.ordinal = ordinal
        self.anchor = anchor
        self.main_task: asyncio.Task[Any] | None = None  # the one that the workflow's cancel reaches
        self.records: list[StepRecord] = []
        self.ticks = 0
        self.counts: dict[str, int] = {}
        self.keyed: dict[str, dict[str, None]] = {}
        self.cancelling: list[StepRecord] = []
        self.misuse: Exception | None = None
        self.past_pivot = False
        self.repeats = False  # from its beginning in this run on
        self._cancel_seen_at: int | None = None
        self.cancelled_at_pivot = False
        self.held_cancel: BaseException | None = None
        self.cancel_went_no_further = False  # held before a task that the main method waits for could get it
        self._keys = Keys(anchor, name, ordinal)
        self._users: dict[str, asyncio.Task[Any] | None] = {}

    def is_same_as(self, other: Root) -> bool:
        return (self.name, self.ordinal, self.anchor) == (other.name, other.ordinal, other.anchor)

    def may_repeat(self) -> bool:
        """Tell whether a step may repeat what an earlier life of the saga did."""
        return self.repeats or is_past_reset()

    def tick(self) -> tuple[int, ...]:
        """Return the next moment of the saga's clock: what began or ended before has a smaller one."""
        self.ticks += 1
        return (self.ticks,)

    def key(self, step: str, key: str | None) -> str:
        """Return the key of this use of a step: by `key=`, or else by its number."""
        if key is not None:
            used = self.keyed.setdefault(step, {})
            if key in used:
                raise self.refuse(
                    f"step {step!r} was called twice with key={key!r}: the second would be taken for the first"
                )
            used[key] = None
            return self._keys.of_step(step, key)
        task = asyncio.current_task()
        if self._users.setdefault(step, task) is not task:
            raise self.refuse(
                f"step {step!r} is called from two tasks of one saga: after a reset they may come in another "
                "order, and one would carry the other's key. Give each call a key= from its own data, or a step= name"
            )
        return self._keys.of_step(step, self.count(step))

    def callback_key(self, name: str) -> str:
        """Return the key of a callback. No provider ever sees it, so two tasks may push one function."""
        name = f"{name}()"  # not the name of a step
        return self._keys.of_step(name, self.count(name))

    def user_key(self, parts: tuple[str | int, ...]) -> str:
        return self._keys.of_parts(check_parts(parts))

    def count(self, step: str) -> int:
        self.counts[step] = self.counts.get(step, 0) + 1
        return self.counts[step]

    def request_cancels(self) -> None:
        """Cancel the steps whose callers were cancelled in this turn, in the order of their start.

        A `TaskGroup` cancels its tasks in the order of a set, which differs from one process to the next.
        """
        for record in sorted(self.cancelling, key=lambda record: record.place):
            record.request_cancel()
        self.cancelling.clear()

    def was_cancelled_before(self) -> bool:
        """Tell whether the workflow's cancel was there in an earlier workflow task, as far as this saga has looked.

        One that is seen for the first time may not have reached its task yet: it comes with the next turns of the loop.
        """
        if workflow.cancellation_reason() is None:
            return False
        now = workflow.info().get_current_history_length()
        if self._cancel_seen_at is None:
            self._cancel_seen_at = now
        return self._cancel_seen_at < now

    def was_cancelled_past_pivot(self) -> bool:
        """Tell whether the workflow was cancelled after the pivot."""
        return self.past_pivot and not self.cancelled_at_pivot and workflow.cancellation_reason() is not None

    def refuse(self, message: str) -> RuntimeError:
        """Return misuse to raise, and keep it for the exit: an error in a task that nobody awaits is only logged."""
        self.misuse = error = RuntimeError(message)
        return error
