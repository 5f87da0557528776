"""The steps of one scope: what was called, what is in flight, and what is armed."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from temporalio import workflow

from ._compensation import Call
from ._outcome import Outcome, StepOutcome
from ._shared import Shared
from ._state import SagaState, steps_of, unreadable
from ._step import Step
from ._typing import Kind, Moment


@dataclass(eq=False)
class Called:
    """A call that must be awaited and is not a step: `undo()` or `compensate()`.

    Attributes:
        what: The call, as messages name it.
    """

    what: str


class Stack:
    """The steps of one scope.

    A step is armed before its command is given, so no error can come between the two. The step's outcome decides later
    whether the step stays armed.

    Args:
        shared: What the scopes of the saga share.

    Attributes:
        called: The calls that have not begun, each with its coroutine.
        in_flight: The steps whose call has not ended, in order of their start.
        armed: The steps that an unwind undoes, in order of their start. The steps of savepoints come later.
        failed: The steps whose undo failed for good, here or in a savepoint.
    """

    __slots__ = ("_given_up", "_has_raised", "_shared", "armed", "called", "failed", "in_flight")

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self.called: dict[Step | Called, Coroutine[Any, Any, Any]] = {}
        self.in_flight: list[Step] = []
        self.armed: list[Step] = []
        self.failed: Sequence[Step] = ()
        self._has_raised = False  # False only if no step that is armed here has raised
        self._given_up: Sequence[Step | Called] = ()

    def start(self, step: Step, kind: Kind, target: Any, options: dict[str, Any]) -> asyncio.Task[Any]:
        """Arm a step, then give its command."""
        shared = self._shared
        shared.ticks = tick = shared.ticks + 1
        step.began = (tick,)
        if step.undo_state is not None:
            self.armed.append(step)
        if kind == "activity":
            options = {**shared.options.activity, **options}
        try:
            step.task = task = step.start(kind, target, options, shared.info)
        except Exception:
            if step.undo_state is not None:
                self.armed.remove(step)  # bad options or input: no command was given
            raise
        self.in_flight.append(step)
        shared.steps.append(step)
        return task

    def push(self, step: Step) -> None:
        """Arm a compensation that was pushed by hand."""
        step.phase = "push"
        self._shared.ticks += 1
        step.began = step.ended = (self._shared.ticks,)
        step.outcome = Outcome.APPLIED
        self.armed.append(step)
        self._shared.steps.append(step)

    def settle(self, step: Step) -> None:
        """Record the outcome of a step whose call has ended."""
        self.in_flight.remove(step)
        shared = self._shared
        task = step.task
        shared.ticks = tick = shared.ticks + 1
        step.settle((tick,), shared.may_repeat)
        if step.error is None and step.compensation_from is None:
            return
        if step.raised:
            self._note_raised()
        if step.compensation_from is not None:
            self._choose_compensation(step, step.compensation_from, task.result() if step.error is None else None)
        if step.undo_state is None and step in self.armed:
            self.armed.remove(step)

    def settle_ended(self) -> None:
        """Settle the steps whose call has ended and whose caller has not settled them yet."""
        for step in [step for step in self.in_flight if step.task.done()]:
            try:
                self.settle(step)
            except Exception as misuse:
                if not workflow.is_failure_exception(misuse):
                    raise

    def _choose_compensation(self, step: Step, choose: Callable[[StepOutcome], Any], result: Any) -> None:
        inputs, step.inputs = step.inputs, ()
        assert step.outcome is not None
        outcome: StepOutcome = StepOutcome(
            step.outcome, result, inputs[0] if len(inputs) == 1 else list(inputs) or None, step.key
        )
        refuse = self._shared.refuse
        what = f"compensation_from= of step {step.name!r}"
        try:
            chosen = choose(outcome)
        except Exception as bug:
            raise refuse(f"{what} failed for the outcome {outcome.state.value}: {type(bug).__name__}") from bug
        if chosen is None:
            step.disarm()
        elif isinstance(chosen, Call):
            step.compensation, step.compensation_from = chosen, None
        elif isinstance(chosen, SagaState):
            if misuse := unreadable(chosen):
                raise refuse(f"{what} returned what cannot be read: {misuse}")
            if misuse := self._shared.run.in_use(chosen):
                raise refuse(misuse)
            self._shared.run.joined = [*self._shared.run.joined, chosen.identity]
            step.join(self.join(chosen, step.began))
        else:
            raise refuse(f"{what} returned {type(chosen).__name__}: return a Compensation, a SagaState or None")

    def join(self, state: SagaState, within: Moment) -> list[Step]:
        """Take in the steps of a state, and return them."""
        joined = steps_of(state, state.steps, within)
        failed = steps_of(state, state.failed, within)
        for step in failed:
            step.undo_state = "GIVEN_UP" if step.undo_state == "GIVEN_UP" else "FAILED"
        self.take(joined)
        self.failed = [*self.failed, *failed]
        self._shared.run.is_incomplete |= bool(failed)
        self._shared.steps += sorted([*joined, *failed], key=lambda step: step.began)
        return joined

    def mark_raised(self, step: Step) -> None:
        """Note that the body did not get the result of a step."""
        step.mark_raised()
        self._note_raised()

    def _note_raised(self) -> None:
        self._has_raised = True
        self._given_up = (*self._given_up, *self.called)  # a gather may give up calls that were made with the step

    def take(self, steps: Iterable[Step]) -> None:
        """Take in armed steps."""
        for step in steps:
            self.armed.append(step)
            self._has_raised |= step.raised

    def give(self) -> list[Step]:
        """Give the armed steps away."""
        steps, self.armed = self.armed, []
        return steps

    def give_swallowed(self) -> list[Step]:
        """Give away the armed steps whose error the body has swallowed."""
        if not self._has_raised:
            return []
        steps = [step for step in self.armed if step.raised]
        self.armed = [step for step in self.armed if not step.raised]
        return steps

    def forget_what_succeeded(self) -> None:
        """Disarm the steps that succeeded: their effects are kept for good."""
        for step in self.armed:
            if not step.raised:
                step.disarm()
        self.armed = [step for step in self.armed if step.raised]

    def newest(self, name: str, key: str | None) -> Step | None:
        """Return the newest armed step of this name; with a key, the one with that key."""
        found = [step for step in self.armed if step.name == name and key in (None, step.key)]
        return max(found, key=lambda step: step.began, default=None)

    def never_awaited(self) -> Sequence[str]:
        """Return the calls that nobody has begun to await, and forget them."""
        never: list[str] = []
        for called, coroutine in self.called.items():
            # A task that is cancelled before it begins closes the coroutine that it was given.
            if inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
                if called not in self._given_up:
                    never.append(called.what)
                coroutine.close()
        self.called.clear()
        # The body may have given up calls that were made together with a refused one.
        return [] if self._shared.has_refused_a_call else never
