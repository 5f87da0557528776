"""What the scopes of one saga share: the saga itself and its savepoints."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from temporalio import workflow
from temporalio.exceptions import ApplicationError

from ._cancels import Pivot
from ._identity import Keys, checked_name
from ._outcome import type_name
from ._parking import Parked, Resolution, Ticket
from ._report import show
from ._run import Run, in_main_method
from ._seed import is_past_reset, is_straight_from
from ._state import SagaState
from ._step import ParkingStep, Step
from ._typing import Options
from .errors import DuplicateStep


@dataclass(slots=True)
class Uses:
    """The calls of the steps of one name."""

    count: int = 0
    """How many calls have no `key=`."""
    keys: dict[str, None] | None = None
    """The `key=` of each other call."""
    caller: asyncio.Task[Any] | None = None
    """The task that calls without `key=`."""


class Shared:
    """What the scopes of one saga share: its options, its clock, its keys, its steps, its pivot, and misuse to raise.

    Args:
        run: The run.
        name: The saga's name.
        options: The saga's options.
        pivot: The saga's point of no return.
        state: The state that the saga continues from; None for a new saga.
    """

    ticks = 0  # of the clock
    new_step: Callable[..., Step] = Step
    misuse: Exception | None = None  # raised at the exit: asyncio only logs an error in a task that nobody awaits
    has_refused_a_call = False  # True iff a call failed because of a client's data
    _shows_soon = False
    _repeats = False  # True iff the whole saga may repeat what another run did, not only its part after a reset

    def __init__(self, run: Run, name: str, options: Options, pivot: Pivot, state: SagaState | None) -> None:
        self.run = run
        self.name = name
        self.options = options
        if options.parks_steps:
            self.new_step = self.parking_step
        self.pivot = pivot
        self.info = workflow.info()
        self.steps: list[Step] = []
        self.uses = defaultdict[str, Uses](Uses)  # by the names of steps
        if state is None:
            self.anchor = self.info.original_execution_run_id
            self.ordinal = run.next_ordinal(name)
        else:
            self.anchor = state.anchor
            self.ordinal = state.ordinal
            self.ticks = state.ticks
            for step in (*state.counts, *state.keyed):
                self.uses[step] = Uses(state.counts.get(step, 0), dict.fromkeys(state.keyed.get(step, ())))
            self._repeats = state.repeats or not is_straight_from(state.run_id)
        self.keys = Keys(self.anchor, name, self.ordinal)

    @property
    def identity(self) -> tuple[str, int, str]:
        """The saga's name, its number among the sagas of that name, and its anchor."""
        return (self.name, self.ordinal, self.anchor)

    def may_repeat(self) -> bool:
        """Tell whether a step may repeat what the saga did before a reset, or in another run."""
        return self._repeats or is_past_reset()

    def key(self, step: str, key: str | None) -> str:
        """Return the key of this call of a step: by its `key=`, or by its number without one."""
        if key is not None:
            return self._chosen_key(step, key)
        task = asyncio.current_task()
        uses = self.uses[step]
        if uses.caller is not task:
            if uses.caller is not None:
                raise self.refuse(
                    f"step {step!r} is called from two tasks of one saga: after a reset they may come in another "
                    "order, and one would carry the other's key. Give each call a key= from its own data, or a "
                    "step= name"
                )
            uses.caller = task
        uses.count = use = uses.count + 1
        return self.keys.of_use(step, use)

    def checked_key(self, step: str, key: str) -> str:
        """Return a `key=` if it is a string that is not empty; else raise."""
        if key == "" and not in_main_method.get():  # a client's data
            self.has_refused_a_call = True
            raise ApplicationError(f"step {step!r} was called with an empty key=", type="EmptyKey", non_retryable=True)
        return checked_name("key=", key, "key=str(...), as in key=str(invoice.id)")

    def _chosen_key(self, step: str, key: str) -> str:
        key = self.checked_key(step, key)
        uses = self.uses[step]
        if uses.keys is None:
            uses.keys = {}
        if key in uses.keys:
            message = f"step {step!r} was called twice with key={key!r}: the second would be taken for the first"
            if in_main_method.get():
                raise self.refuse(f"{message}. Give each call a key of its own")
            self.has_refused_a_call = True
            raise DuplicateStep(message)  # a client's data did that, and must not block the run
        uses.keys[key] = None
        return self.keys.of_key(step, key)

    def callback_key(self, name: str) -> str:
        """Return the key of a callback. No provider ever sees it, so two tasks may push one function."""
        name = f"{name}()"  # not the name of a step
        uses = self.uses[name]
        uses.count += 1
        return self.keys.of_use(name, uses.count)

    def refuse(self, message: str) -> RuntimeError:
        """Return an error for misuse, and keep it for the exit: asyncio only logs an error that nobody awaits."""
        self.misuse = error = RuntimeError(message)
        return error

    def parking_step(self, *args: Any) -> Step:
        """Return a new step that waits for a person if it fails for good."""
        self.run.parking.check_name_is_free()
        step = ParkingStep(*args)
        step.park = partial(self.park, "step")
        return step

    @property
    def park_undo(self) -> Callable[[Step, BaseException], Awaitable[Resolution | None]] | None:
        """The function that parks an undo that has failed for good; None if the saga does not park undos."""
        return partial(self.park, "undo") if self.options.parks_undos else None

    async def park(self, what: Literal["step", "undo"], step: Step, error: BaseException) -> Resolution | None:
        """Let a step or its undo wait for a person. Return the decision, or None if a cancel came first."""
        run = self.run
        ticket = step.ticket = Ticket(Parked(self.name, step.name, step.key, what, type_name(error)), self._show_soon)
        try:
            if what == "step":  # a cancel in the same activation ends the waiting: then nobody is asked
                await run.turn((2, step.began))
                if ticket.decision.done():
                    return None
            run.keep_details()
            run.parking.park(ticket)
            self._show_soon()
            run.show_state()
            resolution = await run.parking.decision(ticket, self.options.reminder)
        finally:
            step.ticket = None
        step.resolution = resolution or step.resolution
        run.show_state()
        if run.parking:
            run.parking.show()
        elif run.unwinding:
            self._show_soon()
        else:
            workflow.set_current_details(run.details)
        if resolution is not None or not run.parking:
            run.parking.note()
        return resolution

    def _show_soon(self) -> None:
        """Show the saga once in this activation: a thousand steps may park at once."""

        def show_now() -> None:
            self._shows_soon = False
            self.run.parking.note()
            if self.run.unwinding or self.run.parking:
                self.show()

        if not self._shows_soon:
            self._shows_soon = True
            self.run.when_idle((3, *self.identity), show_now)

    def show(self) -> None:
        """Show the saga in the Web UI."""
        show(self.name, [step.report() for step in self.steps])

    def newest_error(self) -> BaseException | None:
        """Return the error of the step that failed last; None if no step failed."""
        raised = [step for step in self.steps if step.error is not None]
        return max(raised, key=lambda step: step.ended).error if raised else None
