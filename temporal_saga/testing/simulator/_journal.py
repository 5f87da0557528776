"""The record of what a simulation has seen."""

from __future__ import annotations

import itertools
from typing import Literal

from ._clock import VirtualLoop
from ._trace import Attempt, Call, CallState, TraceEvent, step_of


class Journal:
    """Events and calls in order, each with its time and the activation in which it was."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.trace: list[TraceEvent] = []
        self.calls: list[Call] = []
        self.task_failures: list[str] = []
        self.differences: list[str] = []
        self.activation = 0
        """How many activations the main workflow has had, its further runs included."""
        self._loop = loop
        self._orders = itertools.count(1)
        self._uses: dict[str, int] = {}

    def record(self, kind: str, label: str, detail: str = "", *, attempt: int | None = None) -> None:
        """Note an event."""
        self.trace.append(TraceEvent(self._loop.elapsed, kind, label, attempt, detail, self.activation))

    # --- calls ---

    def new_call(
        self, kind: Literal["activity", "child"], name: str, activity_id: str, run_id: str, workflow_id: str
    ) -> Call:
        """Note the call of an activity, or of a child that a saga starts."""
        step, uses = step_of(activity_id), self._uses
        label = step.label if step else name
        nth = uses[label] = uses.get(label, 0) + 1
        call = Call(label, nth, kind, name, activity_id, run_id, self.activation, workflow_id=workflow_id)
        here = call.label_in_workflow
        call.nth_in_workflow = uses[here] = uses.get(here, 0) + 1
        if step:
            _, call.name, call.phase, call.key, call.forward_key = step
        self.calls.append(call)
        return call

    def forget_call(self, call: Call) -> None:
        """Take out the call of what never left the worker."""
        self.calls.remove(call)
        self._uses[call.label] -= 1
        self._uses[call.label_in_workflow] -= 1

    def note_resolved(self, call: Call) -> None:
        """Note that the workflow has been told of the end of a call."""
        call.resolved_at = self.activation

    def begin_child_call(self, call: Call) -> None:
        """Note that a child that a saga started has begun."""
        self.begin_attempt(call, 1)

    def end_child_call(self, call: Call, status: str) -> None:
        """Note that such a child has ended."""
        attempt = call.attempts[-1]
        self.end_attempt(attempt, status)
        if status == "completed":
            self.note_ran(attempt)
        if call.state == "pending":
            ends: dict[str, CallState] = {"completed": "completed", "cancelled": "cancelled", "timed out": "timed out"}
            call.state = ends.get(status, "failed")

    # --- attempts ---

    def begin_attempt(self, call: Call, number: int, *, late: bool = False) -> Attempt:
        """Note that an attempt of a call begins."""
        attempt = Attempt(number, self._loop.elapsed, late=late, began_order=next(self._orders))
        call.attempts.append(attempt)
        return attempt

    def note_ran(self, attempt: Attempt) -> None:
        """Note that the function of an attempt has returned."""
        attempt.ran, attempt.ran_order = True, next(self._orders)

    def end_attempt(self, attempt: Attempt, outcome: str) -> None:
        """Note that an attempt has ended for the server; only the first end counts."""
        if attempt.ended is None:
            attempt.ended, attempt.outcome, attempt.ended_order = self._loop.elapsed, outcome, next(self._orders)
