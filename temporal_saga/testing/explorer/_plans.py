"""Which plans are worth a run: where a fault can strike, what to add to a plan, and what shows nothing new.

The points of a run are its calls of activities and its activations. Plans of one fault come from the run without any.
Plans of two faults come from the run of the first: only that run has the compensations that the second may hit.

    points of the happy path ──> plans of one fault ──> their runs' points ──> plans of two faults ──> ...

Not every plan is tried. Those left out are counted, by the reason (`PRUNED_*`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import accumulate
from typing import Any, Literal

from temporal_saga.testing.simulator import (
    Action,
    ActivationFault,
    ActivationFaultKind,
    ActivityFault,
    ActivityFaultKind,
    Call,
    Fault,
    Simulation,
)

FaultKind = Literal[ActivityFaultKind, ActivationFaultKind]
Plan = tuple[Fault, ...]
Event = tuple[Literal["signal", "update"], str, tuple[Any, ...]]

_STEP: tuple[ActivityFaultKind, ...] = (
    "fails_before",
    "fails_after",
    "bug_after",
    "applies_late",
    "slow",
    "worker_lost",
    "fails_once",
    "delivered_twice",
)
# The library calls an undo, so no bug of the body meets it. An undo that ends too late has failed for good.
_UNDO: tuple[ActivityFaultKind, ...] = ("fails_before", "fails_after", "worker_lost", "fails_once", "delivered_twice")
_PROVIDER: tuple[ActivityFaultKind, ...] = ("provider_before", "provider_after")
OUTAGE_MINUTES = 60
"""How long an undo has to last: with few attempts it gives up, and the effect stands."""
_ACTIVATION: tuple[ActivationFaultKind, ...] = ("cancel", "cancel_scope", "restart")

KINDS: tuple[FaultKind, ...] = (
    *_STEP,
    *_ACTIVATION,
    "cancel_with",
    "delivered_late",
    "outage",
    "slow_worker",
    *_PROVIDER,
    "worker_lost_inside",
    "decision",
)
"""The kinds that are tried by default. Signals and updates are tried when given."""

_UNSEEN: frozenset[FaultKind] = frozenset({"restart", "delivered_twice", "delivered_late"})

A_DAY = 24 * 60
_DECISIONS: tuple[tuple[Action, float], ...] = (
    ("retry", 0),
    ("done_by_hand", 0),
    ("give_up", 0),
    ("wrong", 0),
    ("retry", A_DAY),
)
"""What a person may answer, and after how many minutes."""

_ALIKE = {
    "fails_before": "fails",
    "fails_after": "fails",
    "applies_late": "fails",
    "cancel_scope": "cancel",
    "cancel_with": "cancel",
}

PRUNED_ORDER = "the same faults in another order"
PRUNED_UNSEEN = (
    "longer by a fault, after one that the workflow cannot see "
    "(restart, delivered_twice, delivered_late, a wrong decision)"
)
PRUNED_LATE = "longer by a fault, after a decision that comes a day late"
PRUNED_WITH = "longer by a fault, after a cancel that comes with a result (cancel_with)"
PRUNED_SAME_RUN = "longer by a fault, after a run that did the same as an earlier one"
PRUNED_FAILED = "longer by a fault, after one that fails already"
PRUNED_IDLE = "a fault that found nothing to strike"
PRUNED_REST = "longer by a fault, which two other plans have, with the same rest of the run"
PRUNED_SLOW = "a fault after a slow call has ended, which changes nothing anymore"


@dataclass(frozen=True)
class CallPoint:
    """A call of an activity, as a point for faults."""

    label: str
    nth: int
    is_undo: bool
    scheduled_at: int
    resolved_at: int
    """The activations that scheduled it and that got its result; the last one if none did."""
    is_undone: bool = False
    asks_provider: bool = False
    was_parked: bool = False
    waits: bool = False
    also: tuple[str, int] = field(default=("", 0), compare=False)
    """Its other name in a fault: with the workflow, or without."""


@dataclass(frozen=True)
class Rests:
    """Numbers for what is left of a run; two runs with the same number at a fault show the same.

    Attributes:
        after: By activation, the start of the run included.
        stories: For `delivered_late`, after all else: by the call that is repeated.
    """

    after: tuple[int, ...] = ()
    stories: Mapping[tuple[str, int], int] = field(default_factory=lambda: dict[tuple[str, int], int]())


@dataclass(frozen=True)
class Points:
    """Where a fault can strike in one run."""

    calls: tuple[CallPoint, ...]
    activations: int
    crowded: frozenset[int] = frozenset()
    """The activations in front of which more than one thing is on its way: a slow worker gets them together."""
    rests: Rests = field(default_factory=Rests)
    only: FaultKind | None = None
    """The one kind of fault that may show something new; None if any may."""
    parked_children: tuple[CallPoint, ...] = ()
    """The child workflows that were parked: no fault strikes them as a whole, and a person decides about them."""

    def of(self, fault: Fault) -> int:
        """Return the activation at which a fault struck."""
        if isinstance(fault, ActivationFault):
            return fault.at
        if fault.kind == "delivered_late":
            return self.activations  # after all else
        call = self.call(fault)
        if call is None:
            return self.activations
        return call.resolved_at if fault.kind == "decision" else call.scheduled_at

    def what_is_struck(self, fault: Fault) -> tuple[object, ...]:
        """Return what tells two strikes apart: what is left of the run there, and the fault, wherever that is."""
        if isinstance(fault, ActivationFault):
            return self.rests.after[fault.at - 1], fault.kind, fault.name, fault.args
        if fault.kind == "delivered_late":
            return self.rests.stories[fault.label, fault.nth], fault
        return self.rests.after[self.of(fault)], fault

    def start(self, plan: Plan) -> int:
        """Return the activation at which the last fault of a plan struck."""
        return max((self.of(fault) for fault in plan), default=0)

    def call(self, fault: ActivityFault) -> CallPoint | None:
        """Return the call that a fault struck."""
        calls = (*self.calls, *self.parked_children) if fault.kind == "decision" else self.calls
        return next((call for call in calls if (fault.label, fault.nth) in ((call.label, call.nth), call.also)), None)


def points_of(simulation: Simulation[Any]) -> Points:
    """Return where a fault can strike in a run."""
    # While something is parked the run goes on, so a cancel or a signal may come behind all that has happened.
    last = simulation.activations + bool(simulation.parked)
    undone = {call.forward_key for call in simulation.calls if call.phase == "undo" and _ran(call)}
    workflows: dict[str, set[str]] = {}
    for call in simulation.calls:
        workflows.setdefault(call.label, set()).add(call.workflow_id)

    def point(call: Call) -> CallPoint:
        # Which child's call comes first may depend on the plan, so the child has to be named.
        names = ((call.label, call.nth), (call.label_in_workflow, call.nth_in_workflow))
        name, also = names if len(workflows[call.label]) == 1 else reversed(names)
        return CallPoint(
            *name,
            call.phase in ("undo", "push"),
            call.scheduled_at,
            simulation.activations if call.resolved_at is None else call.resolved_at,
            call.phase == "do" and call.forward_key in undone and _ran(call),
            call.asks_provider,
            call.was_parked,
            call.waits,
            also=also,
        )

    return Points(
        tuple(point(call) for call in simulation.calls if call.kind == "activity"),
        last,
        _crowded(simulation),
        parked_children=tuple(point(call) for call in simulation.calls if call.kind == "child" and call.was_parked),
    )


def _crowded(simulation: Simulation[Any]) -> frozenset[int]:
    # By activation: how many more things are on their way behind it.
    more: Counter[int] = Counter()
    for call in simulation.calls:
        more[call.scheduled_at] += 1
        if call.resolved_at is not None:
            more[call.resolved_at] -= 1
    for event in simulation.trace:
        if event.kind == "timer_started":
            more[event.activation] += 1
        elif event.kind == "timer_fired":
            more[event.activation + 1] -= 1
        elif event.kind == "timer_cancelled":
            more[event.activation] -= 1
    on_their_way = dict(enumerate(accumulate(more[at] for at in range(simulation.activations + 1))))
    messages = {event.activation for event in simulation.trace if event.kind in ("signal", "update")}
    return frozenset(
        at
        for at in range(2, simulation.activations + 1)
        if on_their_way[at - 1] > 1 or (on_their_way[at - 1] and max(messages, default=0) >= at - 1)
    )


def _ran(call: Call) -> bool:
    return any(attempt.ran for attempt in call.attempts)


def longer(plan: Plan, points: Points, kinds: Collection[str], events: Sequence[Event] = ()) -> Iterator[Fault]:
    """Yield each fault that may be added to a plan: those at or after the last one that struck, earliest first.

    `delivered_late`, a repeat after all else, may strike an earlier call too.

    Args:
        plan: The faults so far.
        points: The points of its run.
        kinds: The kinds to try.
        events: The signals and updates to try.
    """
    if points.only is not None:
        kinds, events = {points.only} & set(kinds), ()
    start = points.start(plan)
    struck = {
        (fault.label, fault.nth) for fault in plan if isinstance(fault, ActivityFault) and fault.kind != "decision"
    }
    at_activation = {fault.at for fault in plan if isinstance(fault, ActivationFault)}
    first_activation = start + 1 if plan and isinstance(plan[-1], ActivityFault) else max(start, 1)
    found: list[tuple[int, Fault]] = []
    for call in points.calls:
        if call.scheduled_at < start or (call.label, call.nth) in struck:
            continue
        found += [
            (call.scheduled_at, ActivityFault(kind, call.label, call.nth))
            for kind in (*(_UNDO if call.is_undo else _STEP), *(_PROVIDER if call.asks_provider else ()))
            if kind in kinds
        ]
        if call.waits and "worker_lost_inside" in kinds:
            found.append((call.scheduled_at, ActivityFault("worker_lost_inside", call.label, call.nth)))
        if call.is_undo and "outage" in kinds and (call.label, 1) not in struck:
            found.append((call.scheduled_at, ActivityFault("outage", call.label, minutes=OUTAGE_MINUTES)))
    for at in range(first_activation, points.activations + 1):
        if at not in at_activation:
            found += [(at, ActivationFault(kind, at)) for kind in _ACTIVATION if kind in kinds]
        if at in points.crowded and at not in at_activation and "slow_worker" in kinds:
            found.append((at, ActivationFault("slow_worker", at)))
        # A signal or update may also come in one workflow task with a cancel, or with another.
        found += [(at, ActivationFault(kind, at, name, args)) for kind, name, args in events]
    found.sort(key=lambda each: each[0])
    for _, fault in found:
        yield fault
    if "cancel_with" in kinds and not plan:
        for at in range(2, points.activations + 1):  # in the first nothing ends
            yield ActivationFault("cancel_with", at)
    if "delivered_late" in kinds:
        for call in points.calls:
            if call.is_undone and (call.label, call.nth) not in struck:
                yield ActivityFault("delivered_late", call.label, call.nth)


def decisions(plan: Plan, points: Points, kinds: Collection[str]) -> Iterator[ActivityFault]:
    """Yield what a person may decide about what a plan has parked. A decision is an answer, and does not count.

    Each parked call has one decision, and a plan no more of them than it has faults: what is tried again by hand may
    fail by itself forever.
    """
    made = [fault for fault in plan if fault.kind == "decision"]
    if "decision" not in kinds or 2 * len(made) >= len(plan):
        return
    start = points.start(plan)
    for call in (*points.calls, *points.parked_children):
        if not call.was_parked or call.resolved_at < start or any(points.call(fault) is call for fault in made):
            continue
        is_child = any(call is child for child in points.parked_children)
        for action, minutes in _DECISIONS:
            if (call.is_undo and not is_child) or action != "done_by_hand":
                yield ActivityFault("decision", call.label, call.nth, minutes, action)


def depth_of(plan: Plan) -> int:
    """Return how many faults a plan has."""
    return sum(fault.kind != "decision" for fault in plan)


def is_unseen(fault: Fault) -> bool:
    """Tell whether the workflow cannot see a fault. Alone that must change nothing, which is checked."""
    return fault.kind in _UNSEEN or (isinstance(fault, ActivityFault) and fault.action == "wrong")


def comes_late(fault: Fault) -> bool:
    """Tell whether a fault is a decision that lets wait; meanwhile there may be many reminders."""
    return isinstance(fault, ActivityFault) and fault.kind == "decision" and fault.minutes > 0


def comes_too_late(plan: Plan, points: Points, fault: Fault) -> bool:
    """Tell whether a fault strikes after the slow call that the plan ends with: then the slow call changes nothing.

    Not so if the run undid anything: the slow call may have outlasted a deadline. Nor so of another slow call: what one
    has not outlasted, two together may.
    """
    last = plan[-1] if plan else None
    if not isinstance(last, ActivityFault) or last.kind != "slow" or fault.kind == "slow":
        return False
    call = points.call(last)
    undoes = any(each.is_undo for each in points.calls)
    return call is not None and not undoes and points.of(fault) > call.resolved_at


def kinds_alike(plan: Plan) -> tuple[str, ...]:
    """Return the kinds of a plan's faults; kinds that have the same effect on a workflow become one."""
    return tuple(
        f"decision {fault.action}"
        if isinstance(fault, ActivityFault) and fault.kind == "decision"
        else _ALIKE.get(fault.kind, fault.kind)
        for fault in plan
    )


def in_any_order(plan: Plan) -> tuple[str, ...]:
    """Return what two plans of the same faults have in common. As text: a signal's arguments may have no hash."""
    return tuple(sorted(map(repr, plan)))


def check_choice(faults: Any, kinds: Collection[str], within: Any = None) -> None:
    """Raise if the number of faults is negative, a kind does not exist, or the bound is not a timedelta."""
    if not isinstance(faults, int):
        raise TypeError(f"faults={faults!r} is not a number: write faults=2; to try certain faults only, plan=[...]")
    if within is not None and not isinstance(within, timedelta):
        raise TypeError(f"within={within!r} is not a timedelta: within=timedelta(seconds={within!r})")
    if faults < 0:
        raise ValueError(f"faults={faults}: give 0 for the run without any, or more")
    if isinstance(kinds, str):
        raise TypeError(f"kinds={kinds!r} is one string: give a list, kinds=[{kinds!r}]")
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown:
        hint = "; signals and updates are given by signals=[...] and updates=[...]"
        events = {"signal", "update"} & set(unknown)
        raise ValueError(f"unknown kinds {unknown}: there are {', '.join(KINDS)}{hint if events else ''}")


def check_runs(runs: object) -> None:
    """Raise if it is not a number of runs."""
    if not isinstance(runs, int) or isinstance(runs, bool):
        raise TypeError(f"runs={runs!r} is not a number: write runs=2 to let each world see two runs")
    if runs < 1:
        raise ValueError(f"runs={runs}: give 1 for one run in each world, or more")


def events_of(signals: Sequence[Any], updates: Sequence[Any]) -> tuple[Event, ...]:
    """Return the events to try. Each is a name, or a tuple of a name and arguments."""
    for what, given in (("signals", signals), ("updates", updates)):
        if isinstance(given, str):
            raise TypeError(f"{what}={given!r} is one string: give a list, {what}=[{given!r}]")

    def event(kind: Literal["signal", "update"], given: Any) -> Event:
        name, *args = (given,) if isinstance(given, str) else given
        return kind, name, tuple(args)

    return (*(event("signal", each) for each in signals), *(event("update", each) for each in updates))
