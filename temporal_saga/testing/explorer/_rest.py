"""What is left of a run from one activation on: two runs with the same rest show the same under the same next fault.

A saga of n steps has about n² pairs of a fault that makes it unwind and an undo that a second fault can strike. Most of
these pairs meet the same undo in the same circumstances: whether step 7 or step 8 failed, when the undo of step 3 comes
the steps behind it are undone, those in front of it stand, and the same undos follow. Such faults are independent. The
search tries one plan of each such set at either end: the one whose first fault lies nearest, and the one whose first
fault lies farthest.

Why nothing is missed. What follows a fault at an activation depends on what the workflow and the world are then:

- What stands: each call that is neither undone nor still to end, with what its workflow was told of its end, how often
  its function ran, and what its saga would undo it by. A rest holds all of them.
- What is under way: each call that has not ended, with its inputs and with the end that it comes to by itself. A rest
  holds all of them, the timers that run (a slow worker gets one together with a result), and the calls that are given
  up and run late.
- What follows: the calls, timers and children that the workflow asks for from there on, their inputs, what it is told,
  and how it ends. A rest holds all of it. So a body that took another way (an error that it swallowed, a
  savepoint that it left) has another rest, although the same stands.
- What the workflow was told by others: signals, updates, a cancel. A rest holds those that came before, too.

A rest does not hold what is over: a step that has been undone, with its undo; and a bug that was fixed. No effect
of it stands and nothing of it is under way. Only a memory of it, in the body or in the world, could make a difference
that nothing shows until the second fault strikes. The nearest and the farthest plan bound that memory: between them
lie only plans in which more is over than in the one, and less than in the other. A bug is missed if it needs a step
that is over in the middle of these, and is hidden again by one step more. A further run in the same world (`runs=2`)
meets what is over, too: all of it behind the farthest plan.

That is tested: `test_explore_search.py` explores workflows with one bug each, with and without the rule.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from temporal_saga.testing.simulator import ActivityFault, Call, Fault, Simulation, TraceEvent, told_of

_LOUD = frozenset(
    {
        *("scheduled", "child_scheduled", "timer_started", "cancel", "cancel_requested", "late", "again", "continued"),
        *("parked", "decision", "by_hand"),
    }
)
"""The events that say what a run asks for, and what comes from outside."""

Told = dict[str, Any]


def rests_of(simulation: Simulation[Any]) -> tuple[int, ...]:
    """Return a number for what is left of a run after each of its activations, the start of the run included."""
    told = told_of(simulation)
    asked = {command[1]: repr(command[2:]) for command in simulation.commands if len(command) > 2}
    armed: dict[str | None, str | None] = {
        step.key: step.undo for report in simulation.reports for step in report.steps
    }
    stories = {
        id(call): (*_story(call, told.ends, asked), armed.get(call.forward_key), _of_provider(call, simulation.faults))
        for call in simulation.calls
    }
    undone = {
        call.forward_key: call.resolved_at
        for call in simulation.calls
        if call.phase == "undo" and call.state == "completed" and call.resolved_at is not None
    }
    ending = (simulation.status, told.error_types)
    return tuple(
        number_of(
            (
                ending,
                [event for events in told.events[:at] for event in events],
                sorted(_standing(simulation.calls, at, undone, stories)),
                _running_timers(simulation.trace, at),
                [_event(event) for event in simulation.trace if event.kind in _LOUD and event.activation > at],
                [stories[id(call)] for call in simulation.calls if call.scheduled_at > at],
            )
        )
        for at in range(simulation.activations + 1)
    )


def story_of(simulation: Simulation[Any], forward_key: str | None) -> int:
    """Return a number for all that happened to one step, and for how the run ended."""
    calls = [call for call in simulation.calls if call.forward_key == forward_key]
    ending = (simulation.status, told_of(simulation).error_types)
    return number_of((ending, [_story(call, {}, {}) for call in calls]))


def number_of(what: object) -> int:
    """Return a number that two things share only if they print the same; the same in each process."""
    return int.from_bytes(hashlib.blake2b(repr(what).encode(), digest_size=8).digest(), "big")


def _story(call: Call, ends: dict[str, Any], asked: dict[str, str]) -> tuple[Any, ...]:
    ran = sum(attempt.ran for attempt in call.attempts)
    key = call.activity_id
    return call.label, call.nth, call.state, ran, asked.get(key, ""), ends.get(key, "")


def _standing(
    calls: Iterable[Call], at: int, undone: dict[str | None, int], stories: dict[int, tuple[Any, ...]]
) -> Iterable[tuple[Any, ...]]:
    for call in calls:
        if call.scheduled_at > at:
            continue
        under_way = call.resolved_at is None or call.resolved_at > at
        is_over = call.phase in ("do", "undo") and undone.get(call.forward_key, at + 1) <= at
        if under_way or not is_over:
            yield under_way, *stories[id(call)]


def _of_provider(call: Call, faults: Iterable[Fault]) -> list[str]:
    """Return what failed inside of a call's function: whether the provider has done it shows nowhere else."""
    return [
        fault.kind
        for fault in faults
        if isinstance(fault, ActivityFault)
        and fault.kind in ("provider_before", "provider_after")
        and fault.names(call)
    ]


def _running_timers(trace: Iterable[TraceEvent], at: int) -> int:
    begun = sum(event.kind == "timer_started" for event in trace if event.activation <= at)
    over = sum(event.kind in ("timer_fired", "timer_cancelled") for event in trace if event.activation <= at)
    return begun - over


def _event(event: TraceEvent) -> tuple[str, str, str]:
    detail = event.detail if event.kind in ("late", "again") else ""
    return event.kind, event.label, detail
