"""Faults as data: what a plan can make go wrong, and where.

A fault is written as the call that makes it, so that a plan printed by `explore` is pasted into a test as it is:

    simulate(MoneyTransfer.run, transfer, activities=bank.activities, faults=[fails_after("deposit"), cancel(at=7)])

Activities are named by a label: the step's name, `"deposit:undo"` for its compensation, `"deposit:push"` for one pushed
by hand, and the activity's type where no saga started it. `nth` counts the calls with one label, in the order in which
they were scheduled.

If several workflows make calls with one label, as parallel children do, `"charge@child-2"` names the calls of the
workflow `child-2`, and `nth` counts only these.

`at` counts the activations of the workflow from 1, the further runs of a continue-as-new included and its children not.
The fault comes just before that activation, as soon as the previous activation is over: a worker has taken what the
previous activation scheduled, and has not run any of it. A fault with `at=1` comes in the first activation itself, and
`cancel_with` always comes in its activation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from ._trace import Call

ActivityFaultKind = Literal[
    "fails_before",
    "fails_after",
    "fails_once",
    "slow",
    "applies_late",
    "worker_lost",
    "delivered_twice",
    "delivered_late",
    "bug_after",
    "outage",
    "provider_before",
    "provider_after",
    "worker_lost_inside",
    "decision",
]
Action = Literal["retry", "done_by_hand", "give_up", "wrong"]
ActivationFaultKind = Literal["cancel", "cancel_with", "cancel_scope", "restart", "slow_worker", "signal", "update"]


@dataclass(frozen=True)
class ActivityFault:
    """A fault of one call of an activity."""

    kind: ActivityFaultKind
    label: str
    nth: int = 1
    minutes: float = 0.0
    """How long an outage lasts, or a person takes to decide."""
    action: Action | Literal[""] = ""
    """What a person decides."""

    def __repr__(self) -> str:
        if self.kind == "outage":
            return f"outage({self.label!r}, minutes={self.minutes:g})"
        nth = f", nth={self.nth}" if self.nth != 1 else ""
        if self.kind == "decision":
            minutes = f", minutes={self.minutes:g}" if self.minutes else ""
            return f"decision({self.label!r}, {self.action!r}{nth}{minutes})"
        name, _, at = self.kind.partition("_")
        if name == "provider":
            return f"provider_fault({self.label!r}{nth}, at={at!r})"
        return f"{self.kind}({self.label!r}{nth})"

    def names(self, call: Call) -> bool:
        """Tell whether the fault lies on that call."""
        if self.kind == "outage":
            return self.label in (call.label, call.type, call.label_in_workflow)
        return (self.label, self.nth) in ((call.label, call.nth), (call.label_in_workflow, call.nth_in_workflow))


@dataclass(frozen=True)
class ActivationFault:
    """A fault that comes just before one activation of the workflow, or in it."""

    kind: ActivationFaultKind
    at: int
    name: str = ""
    args: tuple[Any, ...] = field(default=())

    def __repr__(self) -> str:
        named = "".join(f"{value!r}, " for value in ((self.name, *self.args) if self.name else ()))
        return f"{self.kind}({named}at={self.at})"


Fault = ActivityFault | ActivationFault


def fails_before(label: str, *, nth: int = 1) -> ActivityFault:
    """The call fails for good before its function runs: a non-retryable error that says nothing about the effect."""
    return ActivityFault("fails_before", label, nth)


def fails_after(label: str, *, nth: int = 1) -> ActivityFault:
    """The function runs, then the call fails for good: the reply was lost."""
    return ActivityFault("fails_after", label, nth)


def fails_once(label: str, *, nth: int = 1) -> ActivityFault:
    """The first attempt fails before its function runs, with a retryable error."""
    return ActivityFault("fails_once", label, nth)


def slow(label: str, *, nth: int = 1) -> ActivityFault:
    """The first attempt takes as long as its timeouts allow, does not learn of a cancel, and then its function runs."""
    return ActivityFault("slow", label, nth)


def applies_late(label: str, *, nth: int = 1) -> ActivityFault:
    """The call times out for good, and its function runs afterwards, when the run has nothing else left to do."""
    return ActivityFault("applies_late", label, nth)


def worker_lost(label: str, *, nth: int = 1) -> ActivityFault:
    """The first attempt runs the function, and the worker dies before it reports: a timeout, then the next attempt."""
    return ActivityFault("worker_lost", label, nth)


def worker_lost_inside(label: str, *, nth: int = 1) -> ActivityFault:
    """The worker dies in the first attempt, at the first `await` in the function that waits. Then comes a timeout.

    The tasks and timers that the function has started die too.
    """
    return ActivityFault("worker_lost_inside", label, nth)


def delivered_twice(label: str, *, nth: int = 1) -> ActivityFault:
    """The function runs once more after the attempt has completed."""
    return ActivityFault("delivered_twice", label, nth)


def delivered_late(label: str, *, nth: int = 1) -> ActivityFault:
    """The function runs once more when the run has nothing else left to do: a lost attempt arrives."""
    return ActivityFault("delivered_late", label, nth)


def outage(label: str, *, minutes: float) -> ActivityFault:
    """What the activity talks to is down: from its first attempt on, each attempt fails for that many minutes.

    The errors are retryable. The label is a step's, or the type of the activity; all calls with it are struck.
    """
    if not minutes > 0:
        raise ValueError(f"minutes={minutes!r}: give the length of the outage, more than 0")
    return ActivityFault("outage", label, minutes=minutes)


def provider_fault(label: str, *, at: Literal["before", "after"], nth: int = 1) -> ActivityFault:
    """What the function talks to fails, before or after it has done its work: see `provider_call`."""
    if at not in ("before", "after"):
        raise ValueError(f"at={at!r}: say 'before' or 'after'")
    return ActivityFault("provider_before" if at == "before" else "provider_after", label, nth)


def decision(label: str, action: Action, *, nth: int = 1, minutes: float = 0.0) -> ActivityFault:
    """The call has failed for good and is parked: a person decides, by `saga_resolve`, that many minutes later.

    What is done by hand is done by the undo's function. The decision `"wrong"` sends four updates, and each must be
    rejected: an unknown key, an action that does not fit, an empty who, an empty why. Without a decision nobody ever
    answers: then `Simulation.parked` has the call's label.
    """
    if action not in get_args(Action):
        raise ValueError(f"action={action!r}: say {', '.join(map(repr, get_args(Action)))}")
    if not minutes >= 0:
        raise ValueError(f"minutes={minutes!r}: nobody decides before the call is parked; give 0 or more")
    return ActivityFault("decision", label, nth, minutes, action)


def bug_after(label: str, *, nth: int = 1) -> ActivityFault:
    """The call succeeds, and the `await` of it raises TypeError, once: a bug, then a fixed deployment."""
    return ActivityFault("bug_after", label, nth)


def cancel(*, at: int) -> ActivationFault:
    """The workflow's cancellation is requested."""
    return ActivationFault("cancel", at)


def cancel_with(*, at: int) -> ActivationFault:
    """The workflow's cancellation comes in that activation itself, after the result that the activation brings."""
    return ActivationFault("cancel_with", at)


def cancel_scope(*, at: int) -> ActivationFault:
    """The task inside the innermost open saga is cancelled, as by a timeout; the workflow is not."""
    return ActivationFault("cancel_scope", at)


def restart(*, at: int) -> ActivationFault:
    """The worker restarts: the history so far is replayed on a fresh instance, and its commands are compared."""
    return ActivationFault("restart", at)


def slow_worker(*, at: int) -> ActivationFault:
    """The worker is slow: the event of that activation waits for the next event, and one activation brings both."""
    return ActivationFault("slow_worker", at)


def signal(name: str, *args: Any, at: int) -> ActivationFault:
    """A signal arrives."""
    return ActivationFault("signal", at, name, args)


def update(name: str, *args: Any, at: int) -> ActivationFault:
    """An update arrives."""
    return ActivationFault("update", at, name, args)
