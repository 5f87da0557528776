"""What a simulation has seen: events in order, and the calls of activities with their attempts."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from typing import Literal, NamedTuple
from uuid import UUID, uuid5

__all__ = ["Attempt", "Call", "TraceEvent"]

CallState = Literal["pending", "completed", "failed", "timed out", "cancelled"]
Phase = Literal["do", "undo", "push"]

FAILURE_TYPE = "SimulatedFailure"
"""The type of the error that a fault makes a call fail with."""


class TraceEvent(NamedTuple):
    """One thing that happened.

    Attributes:
        time: When, on the virtual clock, since the start.
        kind: What: `"scheduled"`, `"attempt"`, `"completed"`, `"failed"`, `"cancel"`, `"closed"`, ...
        label: Of which call, child, timer, signal, ...
        attempt: Which attempt of an activity; None where there is none.
        detail: More, for people.
        activation: How many activations the workflow had had, its further runs included and its children not.
    """

    time: timedelta
    kind: str
    label: str
    attempt: int | None
    detail: str
    activation: int


@dataclass
class Attempt:
    """One time that an activity's function was, or should have been, called.

    Attributes:
        number: As in `activity.info().attempt`.
        started: When the worker took it.
        ended: When it ended for the server; None if it never did.
        ran: Whether the function returned: its effect has happened.
        outcome: How it ended, for people.
        late: Whether this ran after its call had ended (`applies_late`), or once more (`delivered_twice` and
            `delivered_late`).
        began_order: The place of its start among all that happened in the simulation.
        ran_order: The place of the function's return among the same; None if it did not return.
        ended_order: The place of its end for the server among the same; None if it never ended.
    """

    number: int
    started: timedelta
    ended: timedelta | None = None
    ran: bool = False
    outcome: str = ""
    late: bool = False
    began_order: int = 0
    ran_order: int | None = None
    ended_order: int | None = None


@dataclass
class Call:
    """One call of an activity, or a child workflow that a saga started, in the order of their scheduling.

    Attributes:
        label: Its name in a fault: the step's name, with `:undo` for its compensation; else the type.
        nth: Which call with that label.
        kind: Activity or child workflow.
        type: The activity's type or the child's.
        activity_id: Its activity id, or the child's workflow id.
        run_id: The run that scheduled it.
        scheduled_at: The activation that scheduled it; for a child's call, the parent's activation at that time.
        resolved_at: The activation that got its end; None if none did.
        name: The step's name; None if no saga started it.
        phase: `do`, `undo` or `push`; None if no saga started it.
        key: The key, as `current_step().key`.
        forward_key: As `current_step().forward_key`.
        state: How it ended for the workflow.
        attempts: Its attempts, those that came late included.
        workflow_id: The workflow that scheduled it.
        nth_in_workflow: Which call of that workflow with that label.
        asks_provider: Whether its function has passed a `provider_call`.
        is_plain_in_scope: Whether it is not a step, and its workflow was in the scope of a saga that did not unwind.
        waits: Whether its function has waited for something.
        was_parked: Whether it has failed for good and has waited for a person.
        undone_in_open_saga: Whether it is an undo that `saga.undo()` began, in a saga that did not unwind.
    """

    label: str
    nth: int
    kind: Literal["activity", "child"]
    type: str
    activity_id: str
    run_id: str
    scheduled_at: int
    resolved_at: int | None = None
    name: str | None = None
    phase: Phase | None = None
    key: str | None = None
    forward_key: str | None = None
    state: CallState = "pending"
    attempts: list[Attempt] = field(default_factory=list[Attempt])
    workflow_id: str = ""
    nth_in_workflow: int = 1
    asks_provider: bool = False
    is_plain_in_scope: bool = False
    waits: bool = False
    was_parked: bool = False
    undone_in_open_saga: bool = False

    @property
    def label_in_workflow(self) -> str:
        """Its name in a fault that names the workflow too."""
        return f"{self.label}@{self.workflow_id}"


class StepOf(NamedTuple):
    """What an id tells of the step behind it."""

    label: str
    name: str
    phase: Phase
    key: str
    forward_key: str | None


@lru_cache(maxsize=4096)
def step_of(activity_id: str) -> StepOf | None:
    """Return what the id of an activity or child tells, or None if no saga made the id; cf. `current_step`."""
    name, phase, key = ["", "", *activity_id.rsplit(":", 2)][-3:]
    try:
        forward = UUID(key)
    except ValueError:
        return None
    if phase == "do":
        return StepOf(name, name, "do", key, key)
    if phase == "undo":
        return StepOf(f"{name}:undo", name, "undo", str(uuid5(forward, "undo")), key)
    if phase == "push":
        return StepOf(f"{name}:push", name, "push", key, None)
    return None
